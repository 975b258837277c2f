//! What stands before the key of an entry. Pure; [`entry`](crate::entry) has the layout's drawing.

/// The first byte of an object that is a segment of a table.
pub(crate) const SEGMENT_MARK: u8 = 15;

/// The longest header: flags, two lengths of 5 bytes, an expiry of 8.
pub(crate) const HEADER_BYTES_MAX: usize = 19;

const KIND_MASK: u8 = 0b1111;
const KIND_STRING: u8 = 0;
const KIND_INTEGER: u8 = 1;
const HAS_EXPIRY: u8 = 1 << 4;
const WIDE_EXPIRY: u8 = 1 << 5;
const CHANGED_IN_PLACE: u8 = 1 << 6;
const WIDTH_SHIFT: u8 = 6;

/// Expiries below this take 6 bytes.
const NARROW_EXPIRY_END: u64 = 1 << 48;

/// Lengths below this take 1 byte.
const SHORT_END: u8 = 0x80;

/// A header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    flags: u8,
    /// Bytes of this header itself.
    header_bytes: u8,
    key_bytes: u32,
    value_bytes: u32,
    /// 0 if there is none.
    expiry_ms: u64,
}

impl Header {
    /// For a string of `value_bytes`.
    #[inline]
    pub(crate) fn string(
        key_bytes: usize,
        value_bytes: usize,
        changed: bool,
        expiry_ms: Option<u64>,
    ) -> Self {
        let flags = KIND_STRING | if changed { CHANGED_IN_PLACE } else { 0 };
        Header::new(flags, key_bytes as u32, value_bytes as u32, expiry_ms)
    }

    /// For an integer, in as few bytes as hold it.
    #[inline]
    pub(crate) fn integer(key_bytes: usize, value: i64, expiry_ms: Option<u64>) -> Self {
        let width_log2 = match value {
            -0x80..=0x7f => 0,
            -0x8000..=0x7fff => 1,
            -0x8000_0000..=0x7fff_ffff => 2,
            _ => 3,
        };
        Header::new(
            KIND_INTEGER | width_log2 << WIDTH_SHIFT,
            key_bytes as u32,
            1 << width_log2,
            expiry_ms,
        )
    }

    /// `kind` is the flags without those of the expiry.
    #[inline]
    fn new(kind: u8, key_bytes: u32, value_bytes: u32, expiry_ms: Option<u64>) -> Self {
        let (expiry_flags, expiry_bytes) = match expiry_ms {
            None => (0, 0),
            Some(at_ms) if at_ms < NARROW_EXPIRY_END => (HAS_EXPIRY, 6),
            Some(_) => (HAS_EXPIRY | WIDE_EXPIRY, 8),
        };
        let value_length_bytes = if kind & KIND_MASK == KIND_INTEGER {
            0
        } else {
            varint_bytes(value_bytes)
        };
        Header {
            flags: kind | expiry_flags,
            header_bytes: 1 + varint_bytes(key_bytes) + value_length_bytes + expiry_bytes,
            key_bytes,
            value_bytes,
            expiry_ms: expiry_ms.unwrap_or(0),
        }
    }

    /// The same value under a key of another length.
    pub(crate) fn with_key_bytes(self, key_bytes: usize) -> Self {
        Header::new(
            self.kind(),
            key_bytes as u32,
            self.value_bytes,
            self.expiry_ms(),
        )
    }

    /// The same key and value with another expiry.
    pub(crate) fn with_expiry(self, expiry_ms: Option<u64>) -> Self {
        Header::new(self.kind(), self.key_bytes, self.value_bytes, expiry_ms)
    }

    fn kind(&self) -> u8 {
        self.flags & !(HAS_EXPIRY | WIDE_EXPIRY)
    }

    #[inline]
    pub(crate) fn is_integer(&self) -> bool {
        self.flags & KIND_MASK == KIND_INTEGER
    }

    /// Whether the value is a string that was changed in place.
    pub(crate) fn is_changed(&self) -> bool {
        self.flags & KIND_MASK == KIND_STRING && self.flags & CHANGED_IN_PLACE != 0
    }

    /// When the entry expires, in milliseconds of Unix time.
    #[inline]
    pub(crate) fn expiry_ms(&self) -> Option<u64> {
        (self.flags & HAS_EXPIRY != 0).then_some(self.expiry_ms)
    }

    /// Whether the entry's time has come.
    #[inline]
    pub(crate) fn is_due(&self, now_ms: u64) -> bool {
        self.flags & HAS_EXPIRY != 0 && self.expiry_ms < now_ms
    }

    #[inline]
    pub(crate) fn key_bytes(&self) -> usize {
        self.key_bytes as usize
    }

    #[inline]
    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes as usize
    }

    /// Bytes before the key.
    #[inline]
    pub(crate) fn header_bytes(&self) -> usize {
        usize::from(self.header_bytes)
    }

    /// Bytes of the whole entry.
    #[inline]
    pub(crate) fn entry_bytes(&self) -> usize {
        self.header_bytes() + self.key_bytes() + self.value_bytes()
    }

    /// The bytes of the header, followed by zeros.
    #[inline]
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES_MAX] {
        let mut bytes = [0; HEADER_BYTES_MAX];
        bytes[0] = self.flags;
        let mut at = 1 + write_varint(&mut bytes[1..], self.key_bytes);
        if !self.is_integer() {
            at += write_varint(&mut bytes[at..], self.value_bytes);
        }
        if self.flags & HAS_EXPIRY != 0 {
            let length = if self.flags & WIDE_EXPIRY != 0 { 8 } else { 6 };
            bytes[at..at + length].copy_from_slice(&self.expiry_ms.to_le_bytes()[..length]);
        }
        bytes
    }

    /// Reads a header; `word(at)` gives the eight bytes from `at` on, little-endian. Asks for no
    /// more than 16 bytes of an entry whose key and value are short.
    #[inline(always)]
    pub(crate) fn decode(word: impl Fn(usize) -> u64) -> Self {
        let first = word(0);
        let [flags, key, value, ..] = first.to_le_bytes();
        let mut header = if flags & KIND_MASK == KIND_INTEGER && key < SHORT_END {
            let value_bytes = 1 << (flags >> WIDTH_SHIFT);
            Header {
                flags,
                header_bytes: 2,
                key_bytes: key.into(),
                value_bytes,
                expiry_ms: 0,
            }
        } else if flags & KIND_MASK == KIND_STRING && (key | value) < SHORT_END {
            Header {
                flags,
                header_bytes: 3,
                key_bytes: key.into(),
                value_bytes: value.into(),
                expiry_ms: 0,
            }
        } else {
            Header::decode_long(flags, first, word(8))
        };
        if flags & HAS_EXPIRY != 0 {
            let expiry = word(header.header_bytes());
            if flags & WIDE_EXPIRY != 0 {
                header.expiry_ms = expiry;
                header.header_bytes += 8;
            } else {
                header.expiry_ms = expiry & (NARROW_EXPIRY_END - 1);
                header.header_bytes += 6;
            }
        }
        header
    }

    /// With a length of more than one byte; without the expiry.
    #[inline(never)]
    fn decode_long(flags: u8, first: u64, second: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&first.to_le_bytes());
        bytes[8..].copy_from_slice(&second.to_le_bytes());
        let mut at = 1;
        let key_bytes = read_varint(&bytes, &mut at);
        let value_bytes = if flags & KIND_MASK == KIND_INTEGER {
            1 << (flags >> WIDTH_SHIFT)
        } else {
            read_varint(&bytes, &mut at)
        };
        Header {
            flags,
            header_bytes: at as u8,
            key_bytes,
            value_bytes,
            expiry_ms: 0,
        }
    }
}

#[inline]
fn varint_bytes(value: u32) -> u8 {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
    }
}

#[inline]
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

fn read_varint(bytes: &[u8], at: &mut usize) -> u32 {
    let (mut value, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        value |= u32::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < SHORT_END {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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

    fn reads_back(header: Header) {
        let mut bytes = [0xff; HEADER_BYTES_MAX + 8];
        bytes[..header.header_bytes()].copy_from_slice(&header.encode()[..header.header_bytes()]);
        let word =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        assert_eq!(Header::decode(word), header);
    }

    proptest! {
        #[test]
        fn every_header_reads_back(
            key in any::<u32>(), key_shift in 0u32..32, value in any::<u32>(), value_shift in 0u32..32,
            number: i64, number_shift in 0u32..64, changed: bool, expiry: Option<u64>, expiry_shift in 0u32..64,
        ) {
            let (key, value) = ((key >> key_shift) as usize, (value >> value_shift) as usize);
            let expiry_ms = expiry.map(|at| at >> expiry_shift);
            let header = Header::string(key, value, changed, expiry_ms);
            prop_assert_eq!((header.key_bytes(), header.value_bytes(), header.is_changed()), (key, value, changed));
            prop_assert_eq!(header.expiry_ms(), expiry_ms);
            reads_back(header);
            reads_back(header.with_key_bytes(value));
            reads_back(header.with_expiry(None));
            let header = Header::integer(key, number >> number_shift, expiry_ms);
            prop_assert!(header.is_integer() && !header.is_changed());
            reads_back(header);
        }
    }
}
