//! The bytes of an entry: one allocation that holds a key, its value and what is known of both.
//!
//! ```text
//! | flags 1 | key length 1-5 | value length 1-5, strings only | expiry 0, 6 or 8 | key | value |
//!
//! flags:  bits 0-3  kind: 0 string, 1 integer, 15 reserved for segments of the table
//!         bit 4     has an expiry
//!         bit 5     the expiry takes 8 bytes (instants after the year 10889)
//!         bits 6-7  integer: log2 of its bytes; string: bit 6 says changed in place
//! ```
//!
//! Lengths are little-endian base 128 varints. Expiries are milliseconds of Unix time,
//! little-endian; integers are two's complement, little-endian, in 1, 2, 4 or 8 bytes. A key of 16
//! bytes with a value of 16 takes 35 bytes, of which 3 are header.
//!
//! The kind of the first byte also tells an entry from a table segment, which compaction needs when
//! it meets an object in a slab.
//!
//! This module and the modules of the table are where the crate handles raw memory.

use std::ptr::{self, NonNull};

use crate::error::OutOfMemory;
pub(crate) use crate::header::Header;
use crate::header::SEGMENT_MARK;
use crate::lengths::LengthBin;
use crate::memory::{Memory, Ref, prefetch};
use crate::value::string::StringRef;

/// An entry, read.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    header: Header,
    key: &'a [u8],
    value: &'a [u8],
}

/// Reads the header of the entry that `object` names.
///
/// # Safety
/// `object` is a live entry of `memory`, written by this module.
#[inline(always)]
pub(crate) unsafe fn header(memory: &Memory, object: Ref) -> Header {
    let address = memory.address(object).as_ptr();
    // SAFETY: every object has at least 16 bytes, and the header asks for more only where a length
    // of more than a byte or an expiry says that there are more.
    Header::decode(|at| unsafe { u64::from_le(address.add(at).cast::<u64>().read_unaligned()) })
}

impl<'a> Entry<'a> {
    /// Reads the entry that `object` names.
    ///
    /// # Safety
    /// `object` is a live entry of `memory`, written by this module.
    #[inline(always)]
    pub(crate) unsafe fn read(memory: &'a Memory, object: Ref) -> Self {
        // SAFETY: by the caller's promise.
        unsafe { Entry::with_header(memory, object, header(memory, object)) }
    }

    /// The same for an entry whose header was read already.
    ///
    /// # Safety
    /// As for [`Entry::read`], and `header` is the entry's.
    #[inline(always)]
    pub(crate) unsafe fn with_header(memory: &'a Memory, object: Ref, header: Header) -> Self {
        // SAFETY: key and value follow the header, with the lengths that it gives, and live as long
        // as the memory is borrowed.
        let (key, value) = unsafe {
            let key = memory.address(object).as_ptr().add(header.header_bytes());
            (
                std::slice::from_raw_parts(key, header.key_bytes()),
                std::slice::from_raw_parts(key.add(header.key_bytes()), header.value_bytes()),
            )
        };
        Entry { header, key, value }
    }

    #[inline]
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    #[inline]
    pub(crate) fn key(&self) -> &'a [u8] {
        self.key
    }

    /// The value as a string.
    #[inline]
    pub(crate) fn string(&self) -> StringRef<'a> {
        if self.header.is_integer() {
            StringRef::Int(integer(self.value))
        } else {
            StringRef::Bytes(self.value)
        }
    }
}

/// Sign-extends an integer of 1, 2, 4 or 8 bytes.
#[inline(always)]
fn integer(bytes: &[u8]) -> i64 {
    match *bytes {
        [a] => i64::from(a as i8),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("an integer has 1, 2, 4 or 8 bytes, not {}", bytes.len()),
    }
}

/// The bin that the length of a live entry's value counts in. A string's value is not touched.
///
/// # Safety
/// As for [`Entry::with_header`].
#[inline(always)]
pub(crate) unsafe fn length_bin(memory: &Memory, object: Ref, header: &Header) -> LengthBin {
    if !header.is_integer() {
        return LengthBin::of_bytes(header.value_bytes());
    }
    // SAFETY: by the caller's promise.
    let entry = unsafe { Entry::with_header(memory, object, *header) };
    LengthBin::of_integer(integer(entry.value))
}

/// The header of the entry that `object` names, if it has this key. The value is not touched.
///
/// # Safety
/// `object` is a live entry of `memory`.
#[inline(always)]
pub(crate) unsafe fn header_if_key(memory: &Memory, object: Ref, key: &[u8]) -> Option<Header> {
    // SAFETY: by the caller's promise.
    let header = unsafe { header(memory, object) };
    if header.key_bytes() != key.len() {
        return None;
    }
    // SAFETY: the key follows the header, and has the length of `key`.
    let same = unsafe {
        same_bytes(
            memory.address(object).as_ptr().add(header.header_bytes()),
            key,
        )
    };
    same.then_some(header)
}

/// Whether the bytes at `other` are those of `bytes`.
///
/// # Safety
/// As many bytes as `bytes` has can be read at `other`.
#[inline(always)]
unsafe fn same_bytes(other: *const u8, bytes: &[u8]) -> bool {
    let (own, length) = (bytes.as_ptr(), bytes.len());
    // SAFETY: all that is read lies within the first `length` bytes.
    unsafe {
        let word = |start: *const u8, at: usize| start.add(at).cast::<u64>().read_unaligned();
        match length {
            // Two words that overlap, which spares a call for most keys.
            8..=16 => {
                word(own, 0) == word(other, 0) && word(own, length - 8) == word(other, length - 8)
            }
            17..=32 => {
                let differ = (word(own, 0) ^ word(other, 0))
                    | (word(own, 8) ^ word(other, 8))
                    | (word(own, length - 16) ^ word(other, length - 16))
                    | (word(own, length - 8) ^ word(other, length - 8));
                differ == 0
            }
            _ => bytes == std::slice::from_raw_parts(other, length),
        }
    }
}

/// A value ready to be written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Payload<'a> {
    Bytes(&'a [u8]),
    Integer(i64),
    /// That many zeros.
    Zeros(usize),
}

impl Payload<'_> {
    pub(crate) fn header(&self, key_bytes: usize, changed: bool, expiry_ms: Option<u64>) -> Header {
        match *self {
            Payload::Bytes(bytes) => Header::string(key_bytes, bytes.len(), changed, expiry_ms),
            Payload::Integer(value) => Header::integer(key_bytes, value, expiry_ms),
            Payload::Zeros(count) => Header::string(key_bytes, count, changed, expiry_ms),
        }
    }

    /// The bin that the value's length counts in.
    #[inline(always)]
    pub(crate) fn length_bin(&self) -> LengthBin {
        match *self {
            Payload::Bytes(bytes) => LengthBin::of_bytes(bytes.len()),
            Payload::Integer(value) => LengthBin::of_integer(value),
            Payload::Zeros(count) => LengthBin::of_bytes(count),
        }
    }
}

/// Writes an entry into memory that nobody reads yet or any more.
///
/// # Safety
/// `object` is a live object of `memory` with room for `header.entry_bytes()`; `header` was made
/// for this key and payload; neither lies in the object.
#[inline]
pub(crate) unsafe fn write(
    memory: &mut Memory,
    object: Ref,
    header: &Header,
    key: &[u8],
    payload: Payload<'_>,
) {
    debug_assert_eq!(header.key_bytes(), key.len());
    let length = header.header_bytes();
    let integer_bytes;
    let value = match payload {
        Payload::Bytes(bytes) => bytes,
        Payload::Integer(value) => {
            integer_bytes = value.to_le_bytes();
            &integer_bytes[..header.value_bytes()]
        }
        Payload::Zeros(_) => &[],
    };
    debug_assert!(header.value_bytes() == value.len() || matches!(payload, Payload::Zeros(_)));
    let bytes = header.encode();
    let address = memory.address(object).as_ptr();
    // SAFETY: the object has room for header, key and value, which do not lie in it. It has at least
    // 16 bytes, and what a short header is followed by is written over.
    unsafe {
        if length <= 16 {
            ptr::copy_nonoverlapping(bytes.as_ptr(), address, 16);
        } else {
            ptr::copy_nonoverlapping(bytes.as_ptr(), address, length);
        }
        let at = address.add(length);
        copy_short(key.as_ptr(), at, key.len());
        let at = at.add(key.len());
        if let Payload::Zeros(count) = payload {
            at.write_bytes(0, count);
        } else {
            copy_short(value.as_ptr(), at, value.len());
        }
    }
}

/// Writes the value of an entry whose header stays the same.
///
/// # Safety
/// `object` is a live entry of `memory` with this header, which was made for the payload; the
/// payload does not lie in the object.
#[inline]
pub(crate) unsafe fn overwrite(
    memory: &mut Memory,
    object: Ref,
    header: &Header,
    payload: Payload<'_>,
) {
    // SAFETY: the value lies behind header and key, and has the payload's length.
    unsafe {
        let value = memory
            .address(object)
            .as_ptr()
            .add(header.header_bytes() + header.key_bytes());
        match payload {
            Payload::Bytes(bytes) => copy_short(bytes.as_ptr(), value, bytes.len()),
            Payload::Integer(number) => {
                copy_short(number.to_le_bytes().as_ptr(), value, header.value_bytes())
            }
            Payload::Zeros(count) => value.write_bytes(0, count),
        }
    }
}

/// Copies bytes that are mostly few: up to 32 without a call.
///
/// # Safety
/// As for [`ptr::copy_nonoverlapping`].
#[inline(always)]
unsafe fn copy_short(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: all that is copied lies within the first `length` bytes.
    unsafe {
        match length {
            8..=16 => {
                let (head, tail) = (
                    from.cast::<u64>().read_unaligned(),
                    from.add(length - 8).cast::<u64>().read_unaligned(),
                );
                to.cast::<u64>().write_unaligned(head);
                to.add(length - 8).cast::<u64>().write_unaligned(tail);
            }
            17..=32 => {
                let (head, tail) = (
                    from.cast::<u128>().read_unaligned(),
                    from.add(length - 16).cast::<u128>().read_unaligned(),
                );
                to.cast::<u128>().write_unaligned(head);
                to.add(length - 16).cast::<u128>().write_unaligned(tail);
            }
            _ => ptr::copy_nonoverlapping(from, to, length),
        }
    }
}

/// Allocates and writes an entry.
pub(crate) fn create(
    memory: &mut Memory,
    header: &Header,
    key: &[u8],
    payload: Payload<'_>,
) -> Result<Ref, OutOfMemory> {
    let object = memory.allocate(header.entry_bytes())?;
    // SAFETY: the object is new, large enough, and does not overlap what the caller holds.
    unsafe { write(memory, object, header, key, payload) };
    Ok(object)
}

/// Allocates an entry with the value and the expiry of the one that `source` names in `from`, under
/// another key. The two memories are of two shards.
///
/// # Safety
/// `source` is a live entry of `from`.
pub(crate) unsafe fn copy_between(
    from: &Memory,
    source: Ref,
    to: &mut Memory,
    key: &[u8],
) -> Result<Ref, OutOfMemory> {
    // SAFETY: by the caller's promise.
    let entry = unsafe { Entry::read(from, source) };
    let header = entry.header.with_key_bytes(key.len());
    let object = to.allocate(header.entry_bytes())?;
    // SAFETY: the object is new and large enough; the stored bytes have the header's length.
    unsafe { write(to, object, &header, key, Payload::Bytes(entry.value)) };
    Ok(object)
}

/// The same inside one memory.
///
/// # Safety
/// `source` is a live entry of `memory`.
pub(crate) unsafe fn copy_within(
    memory: &mut Memory,
    source: Ref,
    key: &[u8],
) -> Result<Ref, OutOfMemory> {
    // SAFETY: by the caller's promise.
    let header = unsafe { self::header(memory, source) }.with_key_bytes(key.len());
    let object = memory.allocate(header.entry_bytes())?;
    let target = memory.address(object).as_ptr();
    // SAFETY: an allocation disturbs no live object, so `source` is still there; the new object has
    // room for header, key and value, and overlaps neither `source` nor the caller's key.
    unsafe {
        let stored = Entry::read(memory, source).value;
        let (bytes, length) = (header.encode(), header.header_bytes());
        ptr::copy_nonoverlapping(bytes.as_ptr(), target, length);
        ptr::copy_nonoverlapping(key.as_ptr(), target.add(length), key.len());
        ptr::copy_nonoverlapping(
            stored.as_ptr(),
            target.add(length + key.len()),
            stored.len(),
        );
    }
    Ok(object)
}

/// Gives the entry `header`, which differs from its own in the expiry or in the length of the
/// value, and keeps the key and as much of the value as both have. What a longer value has beyond
/// that is left unwritten. The entry stays where it is if the size class allows it; else it moves,
/// and the old place is freed.
///
/// # Errors
/// [`OutOfMemory`]: the entry is as it was.
///
/// # Safety
/// `object` is a live entry of `memory`. The caller writes what is new of the value, and puts the
/// returned reference in the place of `object`.
pub(crate) unsafe fn reshape(
    memory: &mut Memory,
    object: Ref,
    header: &Header,
) -> Result<Ref, OutOfMemory> {
    // SAFETY: by the caller's promise.
    let old = unsafe { self::header(memory, object) };
    debug_assert_eq!(old.key_bytes(), header.key_bytes());
    let (old_bytes, new_bytes) = (old.entry_bytes(), header.entry_bytes());
    let kept = old.key_bytes() + old.value_bytes().min(header.value_bytes());
    let (encoded, length) = (header.encode(), header.header_bytes());
    let old_length = old.header_bytes();
    let address = memory.address(object);
    let stays = memory.usable_bytes(old_bytes) == memory.usable_bytes(new_bytes);
    if stays {
        // SAFETY: the object has room for the new size; key and value are shifted inside it before
        // the header is written over what may have been their place.
        unsafe {
            let start = address.as_ptr();
            ptr::copy(start.add(old_length), start.add(length), kept);
            ptr::copy_nonoverlapping(encoded.as_ptr(), start, length);
        }
        return Ok(object);
    }
    if length == old_length {
        // The arena may know how to grow a large run without copying it.
        // SAFETY: the object is live and has this size.
        let moved = unsafe { memory.arena_mut().reallocate(address, old_bytes, new_bytes) };
        let moved = moved.ok_or(OutOfMemory)?;
        // SAFETY: the object has room for the new size, of which the header is a part.
        unsafe { ptr::copy_nonoverlapping(encoded.as_ptr(), moved.as_ptr(), length) };
        return Ok(memory.name(moved));
    }
    let target = memory.allocate(new_bytes)?;
    // SAFETY: both objects are live and distinct; the new one has room for the header and for what
    // is kept; the old one is not used any more.
    unsafe {
        let start = memory.address(target).as_ptr();
        ptr::copy_nonoverlapping(encoded.as_ptr(), start, length);
        ptr::copy_nonoverlapping(address.as_ptr().add(old_length), start.add(length), kept);
        memory.free(object, old_bytes);
    }
    Ok(target)
}

/// The value of an entry, to be changed in place.
///
/// # Safety
/// `object` is a live entry of `memory` whose value has been written in full, or the caller writes
/// what is missing before it reads.
pub(crate) unsafe fn value_mut(memory: &mut Memory, object: Ref) -> &mut [u8] {
    // SAFETY: by the caller's promise.
    let header = unsafe { self::header(memory, object) };
    let start = memory.address(object).as_ptr();
    // SAFETY: the value lies behind header and key, and the memory is borrowed exclusively.
    unsafe {
        let value = start.add(header.header_bytes() + header.key_bytes());
        std::slice::from_raw_parts_mut(value, header.value_bytes())
    }
}

/// Frees an entry.
///
/// # Safety
/// `object` is a live entry of `memory` that nothing refers to any more.
pub(crate) unsafe fn release(memory: &mut Memory, object: Ref) {
    // SAFETY: by the caller's promise.
    unsafe {
        let bytes = Entry::read(memory, object).header.entry_bytes();
        memory.free(object, bytes);
    }
}

/// Whether the live object at `address` is a segment of a table rather than an entry.
///
/// # Safety
/// `address` is a live object of a shard's memory.
pub(crate) unsafe fn is_segment(address: NonNull<u8>) -> bool {
    // SAFETY: every object has a first byte, and it says what the object is.
    unsafe { *address.as_ptr() == SEGMENT_MARK }
}

/// The most lines of an entry that are asked for: what a read of a long value needs beyond these, the
/// CPU sees coming by itself.
const PREFETCHED_LINES: usize = 4;

/// Asks the CPU for the first lines of an entry. Which lines that are is told by the size of its
/// slot, without reading it.
///
/// # Safety
/// `object` is a live entry of `memory`.
#[inline]
pub(crate) unsafe fn prefetch_entry(memory: &Memory, object: Ref) {
    let address = memory.address(object);
    // SAFETY: by the caller's promise.
    let bytes = unsafe { memory.arena().usable_size(address) };
    let start = address.as_ptr();
    prefetch(start);
    // The last byte of the slot matters less than the one that closes the last whole word: tails are
    // rounding.
    for line in 1..PREFETCHED_LINES {
        if line * 64 < bytes {
            prefetch(start.wrapping_add(line * 64));
        }
    }
    if bytes <= PREFETCHED_LINES * 64 {
        prefetch(start.wrapping_add(bytes - 8));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use slab_allocator::ArenaOptions;

    fn memory() -> Memory {
        Memory::new(&ArenaOptions {
            region_bytes: 256 << 20,
            ..ArenaOptions::default()
        })
        .expect("address space")
    }

    fn expiry() -> impl Strategy<Value = Option<u64>> {
        prop_oneof![
            Just(None),
            (0..1u64 << 48).prop_map(Some),
            (1u64 << 48..).prop_map(Some)
        ]
    }

    fn length() -> impl Strategy<Value = usize> {
        prop_oneof![0usize..300, 100usize..20_000]
    }

    proptest! {
        #[test]
        fn an_entry_reads_back(key in length(), value in length(), changed: bool, expiry in expiry(), fill: u8) {
            let mut memory = memory();
            let (key, value) = (vec![fill; key], vec![!fill; value]);
            let payload = Payload::Bytes(&value);
            let header = payload.header(key.len(), changed, expiry);
            let object = create(&mut memory, &header, &key, payload).expect("memory");
            // SAFETY: the entry was just written.
            let entry = unsafe { Entry::read(&memory, object) };
            prop_assert_eq!((entry.key(), entry.string()), (&*key, StringRef::Bytes(&value)));
            prop_assert_eq!((entry.header().expiry_ms(), entry.header().is_changed()), (expiry, changed));
            prop_assert_eq!(entry.header(), &header);
        }

        #[test]
        fn an_integer_reads_back_from_the_fewest_bytes(value: i64, shift in 0u32..64, expiry in expiry()) {
            let mut memory = memory();
            let value = value >> shift;
            let payload = Payload::Integer(value);
            let header = payload.header(1, false, expiry);
            let object = create(&mut memory, &header, b"k", payload).expect("memory");
            // SAFETY: the entry was just written.
            let entry = unsafe { Entry::read(&memory, object) };
            prop_assert_eq!((entry.string(), entry.header().expiry_ms()), (StringRef::Int(value), expiry));
            let width = entry.value.len();
            prop_assert!(width == 1 || i128::from(value).unsigned_abs() >= 1 << (width * 4 - 1));
        }

        #[test]
        fn reshaping_keeps_key_and_common_value(
            sizes in proptest::collection::vec((length(), expiry()), 1..12), key in length(),
        ) {
            let mut memory = memory();
            let key: Vec<u8> = (0..key).map(|n| n as u8).collect();
            let mut value: Vec<u8> = (0..50u8).collect();
            let header = Header::string(key.len(), value.len(), true, None);
            let mut object = create(&mut memory, &header, &key, Payload::Bytes(&value)).expect("memory");
            for (length, expiry) in sizes {
                let kept = value.len().min(length);
                value.resize(length, 7);
                let header = Header::string(key.len(), length, true, expiry);
                // SAFETY: the entry is live, the rest of the value is written at once, and the
                // reference is replaced.
                unsafe {
                    object = reshape(&mut memory, object, &header).expect("memory");
                    value_mut(&mut memory, object)[kept..].fill(7);
                }
                // SAFETY: the entry is live and complete.
                let entry = unsafe { Entry::read(&memory, object) };
                prop_assert_eq!((entry.key(), entry.value), (&*key, &*value));
                prop_assert_eq!(entry.header().expiry_ms(), expiry);
            }
        }
    }
}
