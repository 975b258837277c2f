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
use crate::memory::{Memory, Ref, prefetch};
use crate::value::string::StringRef;

/// The first byte of an object that is a segment of a table.
pub(crate) const SEGMENT_MARK: u8 = 15;

const KIND_MASK: u8 = 0b1111;
const KIND_STRING: u8 = 0;
const KIND_INTEGER: u8 = 1;
const HAS_EXPIRY: u8 = 1 << 4;
const WIDE_EXPIRY: u8 = 1 << 5;
const CHANGED_IN_PLACE: u8 = 1 << 6;
const WIDTH_SHIFT: u8 = 6;

/// The longest header: flags, two lengths of 5 bytes, an expiry of 8.
const HEADER_BYTES_MAX: usize = 19;

/// Expiries below this take 6 bytes.
const NARROW_EXPIRY_END: u64 = 1 << 48;

/// What stands before the key of an entry, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    flags: u8,
    key_bytes: u32,
    value_bytes: u32,
    expiry_ms: Option<u64>,
}

impl Header {
    /// For a string of `value_bytes`.
    pub(crate) fn string(
        key_bytes: usize,
        value_bytes: usize,
        changed: bool,
        expiry_ms: Option<u64>,
    ) -> Self {
        let flags = KIND_STRING | if changed { CHANGED_IN_PLACE } else { 0 };
        Header::new(flags, key_bytes, value_bytes, expiry_ms)
    }

    /// For an integer, in as few bytes as hold it.
    pub(crate) fn integer(key_bytes: usize, value: i64, expiry_ms: Option<u64>) -> Self {
        let width_log2 = match value {
            -0x80..=0x7f => 0,
            -0x8000..=0x7fff => 1,
            -0x8000_0000..=0x7fff_ffff => 2,
            _ => 3,
        };
        Header::new(
            KIND_INTEGER | width_log2 << WIDTH_SHIFT,
            key_bytes,
            1 << width_log2,
            expiry_ms,
        )
    }

    fn new(kind: u8, key_bytes: usize, value_bytes: usize, expiry_ms: Option<u64>) -> Self {
        let expiry = match expiry_ms {
            None => 0,
            Some(at) if at < NARROW_EXPIRY_END => HAS_EXPIRY,
            Some(_) => HAS_EXPIRY | WIDE_EXPIRY,
        };
        Header {
            flags: kind | expiry,
            key_bytes: key_bytes as u32,
            value_bytes: value_bytes as u32,
            expiry_ms,
        }
    }

    /// The same value under a key of another length.
    pub(crate) fn with_key_bytes(self, key_bytes: usize) -> Self {
        Header {
            key_bytes: key_bytes as u32,
            ..self
        }
    }

    /// The same key and value with another expiry.
    pub(crate) fn with_expiry(self, expiry_ms: Option<u64>) -> Self {
        Header::new(
            self.flags & !(HAS_EXPIRY | WIDE_EXPIRY),
            self.key_bytes as usize,
            self.value_bytes as usize,
            expiry_ms,
        )
    }

    #[inline]
    fn is_integer(&self) -> bool {
        self.flags & KIND_MASK == KIND_INTEGER
    }

    /// When the entry expires, in milliseconds of Unix time.
    #[inline]
    pub(crate) fn expiry_ms(&self) -> Option<u64> {
        self.expiry_ms
    }

    #[inline]
    pub(crate) fn key_bytes(&self) -> usize {
        self.key_bytes as usize
    }

    #[inline]
    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes as usize
    }

    /// Whether the value is a string that was changed in place.
    pub(crate) fn is_changed(&self) -> bool {
        self.flags & KIND_MASK == KIND_STRING && self.flags & CHANGED_IN_PLACE != 0
    }

    fn expiry_bytes(&self) -> usize {
        match self.flags & (HAS_EXPIRY | WIDE_EXPIRY) {
            0 => 0,
            HAS_EXPIRY => 6,
            _ => 8,
        }
    }

    /// Bytes before the key.
    #[inline]
    pub(crate) fn header_bytes(&self) -> usize {
        let lengths = varint_bytes(self.key_bytes)
            + if self.is_integer() {
                0
            } else {
                varint_bytes(self.value_bytes)
            };
        1 + lengths + self.expiry_bytes()
    }

    /// Bytes of the whole entry.
    #[inline]
    pub(crate) fn entry_bytes(&self) -> usize {
        self.header_bytes() + self.key_bytes() + self.value_bytes()
    }

    fn encode(&self) -> ([u8; HEADER_BYTES_MAX], usize) {
        let mut bytes = [0; HEADER_BYTES_MAX];
        bytes[0] = self.flags;
        let mut at = 1 + write_varint(&mut bytes[1..], self.key_bytes);
        if !self.is_integer() {
            at += write_varint(&mut bytes[at..], self.value_bytes);
        }
        if let Some(expiry_ms) = self.expiry_ms {
            let length = self.expiry_bytes();
            bytes[at..at + length].copy_from_slice(&expiry_ms.to_le_bytes()[..length]);
            at += length;
        }
        (bytes, at)
    }

    /// Reads the header of the entry whose bytes `byte` gives; also where the key begins.
    #[inline(always)]
    fn decode(byte: impl Fn(usize) -> u8) -> (Self, usize) {
        let flags = byte(0);
        let mut at = 1;
        let varint = |at: &mut usize| {
            let first = byte(*at);
            *at += 1;
            let mut value = u32::from(first & 0x7f);
            if first >= 0x80 {
                let mut shift = 7;
                loop {
                    let next = byte(*at);
                    *at += 1;
                    value |= u32::from(next & 0x7f) << shift;
                    shift += 7;
                    if next < 0x80 {
                        break;
                    }
                }
            }
            value
        };
        let key_bytes = varint(&mut at);
        let value_bytes = if flags & KIND_MASK == KIND_INTEGER {
            1 << (flags >> WIDTH_SHIFT)
        } else {
            varint(&mut at)
        };
        let mut header = Header {
            flags,
            key_bytes,
            value_bytes,
            expiry_ms: None,
        };
        if flags & HAS_EXPIRY != 0 {
            let length = header.expiry_bytes();
            let mut expiry = [0; 8];
            for (n, target) in expiry.iter_mut().enumerate().take(length) {
                *target = byte(at + n);
            }
            at += length;
            header.expiry_ms = Some(u64::from_le_bytes(expiry));
        }
        (header, at)
    }
}

#[inline]
fn varint_bytes(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

fn write_varint(target: &mut [u8], mut value: u32) -> usize {
    let mut at = 0;
    while value >= 0x80 {
        target[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    target[at] = value as u8;
    at + 1
}

/// An entry, read.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    header: Header,
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads the entry that `object` names.
    ///
    /// # Safety
    /// `object` is a live entry of `memory`, written by this module.
    #[inline(always)]
    pub(crate) unsafe fn read(memory: &'a Memory, object: Ref) -> Self {
        let address = memory.address(object).as_ptr();
        // SAFETY: a live entry begins with a header, of which exactly as much is read as is there.
        let (header, key_at) = Header::decode(|at| unsafe { *address.add(at) });
        // SAFETY: key and value follow the header, with the lengths that it gives, and live as long
        // as the memory is borrowed.
        let (key, value) = unsafe {
            let key = address.add(key_at);
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

    /// Whether the entry's time has come.
    #[inline]
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.header.expiry_ms.is_some_and(|at| at < now_ms)
    }
}

/// Sign-extends an integer of 1, 2, 4 or 8 bytes.
#[inline]
fn integer(bytes: &[u8]) -> i64 {
    match *bytes {
        [a] => i64::from(a as i8),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => unreachable!("an integer has 1, 2, 4 or 8 bytes, not {}", bytes.len()),
    }
}

/// Whether the entry that `object` names has this key. The value is not touched.
///
/// # Safety
/// `object` is a live entry of `memory`.
#[inline(always)]
pub(crate) unsafe fn has_key(memory: &Memory, object: Ref, key: &[u8]) -> bool {
    // SAFETY: by the caller's promise.
    unsafe { Entry::read(memory, object) }.key == key
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
    let (bytes, length) = header.encode();
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
    let address = memory.address(object).as_ptr();
    // SAFETY: the object has room for header, key and value, which do not lie in it.
    unsafe {
        ptr::copy_nonoverlapping(bytes.as_ptr(), address, length);
        let at = address.add(length);
        ptr::copy_nonoverlapping(key.as_ptr(), at, key.len());
        let at = at.add(key.len());
        if let Payload::Zeros(count) = payload {
            at.write_bytes(0, count);
        } else {
            ptr::copy_nonoverlapping(value.as_ptr(), at, value.len());
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
    let header = unsafe { Entry::read(memory, source) }
        .header
        .with_key_bytes(key.len());
    let object = memory.allocate(header.entry_bytes())?;
    let target = memory.address(object).as_ptr();
    // SAFETY: an allocation disturbs no live object, so `source` is still there; the new object has
    // room for header, key and value, and overlaps neither `source` nor the caller's key.
    unsafe {
        let stored = Entry::read(memory, source).value;
        let (bytes, length) = header.encode();
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
    let old = unsafe { Entry::read(memory, object) }.header;
    debug_assert_eq!(old.key_bytes, header.key_bytes);
    let (old_bytes, new_bytes) = (old.entry_bytes(), header.entry_bytes());
    let kept = old.key_bytes() + old.value_bytes().min(header.value_bytes());
    let (encoded, length) = header.encode();
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
    let header = unsafe { Entry::read(memory, object) }.header;
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

/// Asks the CPU for the lines that hold a small entry.
#[inline]
pub(crate) fn prefetch_entry(memory: &Memory, object: Ref) {
    let address = memory.address(object).as_ptr();
    prefetch(address);
    prefetch(address.wrapping_add(64));
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

    #[test]
    fn a_header_of_a_short_string_takes_three_bytes() {
        assert_eq!(Header::string(16, 16, false, None).entry_bytes(), 35);
        assert_eq!(Header::string(16, 100, false, None).entry_bytes(), 119);
        assert_eq!(
            Header::string(16, 100, false, Some(1 << 40)).entry_bytes(),
            125
        );
        assert_eq!(Header::integer(16, 0, None).entry_bytes(), 19);
        assert_eq!(
            Header::integer(16, i64::MIN, Some(u64::MAX)).entry_bytes(),
            34
        );
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
