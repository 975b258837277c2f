//! Strings: any bytes, or an integer that reads as its decimal form.

use std::fmt;

/// The most bytes that the decimal form of an `i64` has.
pub const DECIMAL_BYTES_MAX: usize = 20;

/// Longest string whose encoding is named `embstr`, as in Redis.
pub const EMBEDDED_BYTES_MAX: usize = 44;

/// A string value, by reference.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StringRef<'a> {
    /// An integer stored as such; clients see its decimal form.
    Int(i64),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl fmt::Debug for StringRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StringRef::Int(value) => write!(f, "Int({value})"),
            StringRef::Bytes(bytes) => write!(f, "Bytes(\"{}\")", bytes.escape_ascii()),
        }
    }
}

impl<'a> StringRef<'a> {
    /// Length in bytes as the client sees it.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        match *self {
            StringRef::Int(value) => Decimal::new().format(value).len(),
            StringRef::Bytes(bytes) => bytes.len(),
        }
    }

    /// The bytes as the client sees them; `decimal` is where an integer is written out.
    #[must_use]
    pub fn as_bytes<'b>(&self, decimal: &'b mut Decimal) -> &'b [u8]
    where
        'a: 'b,
    {
        match *self {
            StringRef::Int(value) => decimal.format(value),
            StringRef::Bytes(bytes) => bytes,
        }
    }

    /// The integer that the string says, if it is one in canonical decimal form.
    #[must_use]
    pub fn to_integer(&self) -> Option<i64> {
        match *self {
            StringRef::Int(value) => Some(value),
            StringRef::Bytes(bytes) => parse_integer(bytes),
        }
    }
}

/// Room for the decimal form of an integer.
#[derive(Clone)]
pub struct Decimal {
    buffer: itoa::Buffer,
}

impl Decimal {
    /// Uninitialised room; costs nothing.
    #[must_use]
    pub fn new() -> Self {
        Decimal {
            buffer: itoa::Buffer::new(),
        }
    }

    /// Writes `value` in decimal and returns the bytes.
    pub fn format(&mut self, value: i64) -> &[u8] {
        self.buffer.format(value).as_bytes()
    }
}

impl Default for Decimal {
    fn default() -> Self {
        Self::new()
    }
}

/// The integer whose *canonical* decimal form `bytes` is: no sign but a leading `-`, no leading
/// zeros, no `-0`, no spaces, within 64 bits.
///
/// Only then does storing the integer lose nothing, since it reads back as the same bytes.
#[must_use]
#[inline]
pub fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, bytes),
    };
    match digits {
        [b'0'] => return (!negative).then_some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    // Nineteen digits are below 10^19, which a u64 holds.
    let mut magnitude = 0u64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit);
    }
    if negative {
        (magnitude <= 1 << 63).then(|| (magnitude as i64).wrapping_neg())
    } else {
        i64::try_from(magnitude).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_canonical_decimals_are_integers() {
        for text in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1a",
            "9223372036854775808",
            "-9223372036854775809",
        ] {
            assert_eq!(parse_integer(text.as_bytes()), None, "{text:?}");
        }
        for value in [0, 1, -1, 9, 10, i64::MAX, i64::MIN] {
            assert_eq!(parse_integer(value.to_string().as_bytes()), Some(value));
        }
    }

    proptest! {
        #[test]
        fn an_integer_reads_back_as_the_same_bytes(value: i64, junk in "[-+ 0-9]{0,21}") {
            let text = value.to_string();
            prop_assert_eq!(parse_integer(text.as_bytes()), Some(value));
            prop_assert_eq!(StringRef::Int(value).len(), text.len());
            if let Some(value) = parse_integer(junk.as_bytes()) {
                prop_assert_eq!(value.to_string(), junk);
            }
        }
    }
}
