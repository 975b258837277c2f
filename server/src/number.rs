//! Lenient reading of unsigned decimal integers, for cursors; `kvstore::parse_integer` reads the
//! strict, signed integers of all other arguments.

/// Reads a decimal `u64` as C's `strtoull` would: blanks, a plus sign and zeros may stand in front
/// of it. `None` for anything else and for overflow.
pub(crate) fn parse_unsigned(text: &[u8]) -> Option<u64> {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = text.iter().position(|byte| !is_blank(byte))?;
    let digits = text[start..].strip_prefix(b"+").unwrap_or(&text[start..]);
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_may_stand_around_a_number() {
        for (text, value) in [
            ("0", Some(0)),
            ("007", Some(7)),
            ("+7", Some(7)),
            (" \t7", Some(7)),
            ("7 ", None),
            ("-7", None),
            ("+", None),
            ("", None),
            (" ", None),
            ("7.0", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(parse_unsigned(text.as_bytes()), value, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_is_read(value: u64) {
            prop_assert_eq!(parse_unsigned(value.to_string().as_bytes()), Some(value));
        }

        #[test]
        fn agrees_with_the_standard_parser(text in "[+0-9a]{0,22}") {
            prop_assert_eq!(parse_unsigned(text.as_bytes()), text.parse::<u64>().ok());
        }
    }
}
