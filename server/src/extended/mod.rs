//! 80-bit floating point in software: the arithmetic of `INCRBYFLOAT`.
//!
//! Redis computes with C's `long double`, on x86 the x87 format with a significand of 64 bits and
//! an exponent of 15, and prints 17 decimals. Clients compare the printed digits, so the same
//! digits must come out here on every machine; `f64` loses the last three of them. All three
//! operations round once, to nearest with ties to even, as IEEE 754 asks:
//!
//! - [`Extended::parse`] reads what `strtold` reads (decimal, hexadecimal, infinity);
//! - [`Extended::add`];
//! - [`Extended::write_to`] prints without an exponent and without trailing zeros.
//!
//! Numbers of everyday size are converted in 128-bit integers. Very long or very large ones take
//! a multi-word path, whose cost is bounded by the longest accepted text.

mod natural;
mod parse;

use std::cmp::Ordering;

use natural::Natural;
use parse::{parse_decimal, parse_hexadecimal};

/// The longest text that is read as a number.
const TEXT_MAX: usize = 5 * 1024 - 1;
/// A finite number is below `2^EXPONENT_TOP`.
const EXPONENT_TOP: i64 = 16_384;
/// The weight of the lowest significand bit is never under `2^EXPONENT_BOTTOM`.
const EXPONENT_BOTTOM: i64 = -16_445;
/// Decimal digits that fit into a word of 64 bits.
const WORD_DIGITS: u32 = 19;
/// Digits printed behind the point.
const DECIMALS: usize = 17;

/// A number, `±significand * 2^exponent`, or an infinity; never a NaN.
///
/// The significand's top bit is set unless the number is zero or the exponent is at its bottom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extended {
    /// A finite number.
    Finite {
        /// Whether the sign is minus (also for zero).
        negative: bool,
        /// All 64 bits of the significand.
        significand: u64,
        /// The weight of the significand's lowest bit, as a power of two.
        exponent: i32,
    },
    /// Beyond the largest finite number.
    Infinite {
        /// Whether the sign is minus.
        negative: bool,
    },
}

impl Extended {
    /// Reads the number that `text` as a whole spells. `None` for anything else, for NaN, and for
    /// numbers out of range: those that overflow, and those other than zero that become zero.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_MAX {
            return None;
        }
        let (negative, unsigned) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if unsigned.eq_ignore_ascii_case(b"inf") || unsigned.eq_ignore_ascii_case(b"infinity") {
            return Some(Self::Infinite { negative });
        }
        let value = match unsigned {
            [b'0', b'x' | b'X', rest @ ..] => parse_hexadecimal(negative, rest)?,
            decimal => parse_decimal(negative, decimal)?,
        };
        match value {
            Self::Infinite { .. } => None,
            finite => Some(finite),
        }
    }

    /// Whether the number is neither of the infinities.
    pub(crate) fn is_finite(self) -> bool {
        matches!(self, Self::Finite { .. })
    }

    /// The sum. An infinity plus anything is an infinity; opposite infinities have no sum that
    /// this type can hold, and give the first operand.
    pub(crate) fn add(self, other: Self) -> Self {
        let (Self::Finite { .. }, Self::Finite { .. }) = (self, other) else {
            return if self.is_finite() { other } else { self };
        };
        let (big, small) = if self.magnitude_order(other) == Ordering::Less {
            (other, self)
        } else {
            (self, other)
        };
        let (
            Self::Finite {
                negative,
                significand: big_bits,
                exponent,
            },
            Self::Finite {
                negative: small_negative,
                significand: small_bits,
                exponent: low,
            },
        ) = (big, small)
        else {
            return big;
        };
        if small_bits == 0 {
            // The sum of two zeros is negative only if both are.
            let negative = negative && (big_bits != 0 || small_negative);
            return Self::Finite {
                negative,
                significand: big_bits,
                exponent,
            };
        }
        // 62 guard bits below the larger operand; what is shifted out of them is kept as one
        // "sticky" lowest bit, which is enough to round correctly.
        const GUARD: u32 = 62;
        let a = u128::from(big_bits) << GUARD;
        let distance = (i64::from(exponent) - i64::from(low)).unsigned_abs();
        let b = shift_right_sticky(u128::from(small_bits) << GUARD, distance);
        let sum = if negative == small_negative {
            a + b
        } else {
            a - b
        };
        if sum == 0 {
            return Self::Finite {
                negative: false,
                significand: 0,
                exponent: 0,
            };
        }
        round(negative, sum, i64::from(exponent) - i64::from(GUARD), false)
    }

    fn magnitude_order(self, other: Self) -> Ordering {
        let rank = |value: Self| match value {
            Self::Finite { significand: 0, .. } => (i64::MIN, 0),
            Self::Finite {
                significand,
                exponent,
                ..
            } => (i64::from(exponent), significand),
            Self::Infinite { .. } => (i64::MAX, 0),
        };
        rank(self).cmp(&rank(other))
    }

    /// Appends the number in decimals, rounded to 17 places, without trailing zeros; `0` for
    /// whatever rounds to a negative zero.
    pub(crate) fn write_to(self, out: &mut Vec<u8>) {
        let (negative, significand, exponent) = match self {
            Self::Infinite { negative } => {
                out.extend_from_slice(if negative { b"-inf" } else { b"inf" });
                return;
            }
            Self::Finite {
                negative,
                significand,
                exponent,
            } => (negative, significand, exponent),
        };
        let start = out.len();
        if negative {
            out.push(b'-');
        }
        if exponent >= 0 {
            let mut whole = Natural::from(significand);
            whole.shift_left(exponent as u32);
            whole.write_decimal(out);
        } else {
            // The product is below 2^121, so scaling and rounding are exact in 128 bits.
            let scaled = u128::from(significand) * 10u128.pow(DECIMALS as u32);
            let rounded = round_half_even(scaled, exponent.unsigned_abs());
            let whole = (rounded / 10u128.pow(DECIMALS as u32)) as u64;
            let mut fraction = (rounded % 10u128.pow(DECIMALS as u32)) as u64;
            Natural::from(whole).write_decimal(out);
            if fraction != 0 {
                let mut digits = [b'0'; DECIMALS];
                for digit in digits.iter_mut().rev() {
                    *digit += (fraction % 10) as u8;
                    fraction /= 10;
                }
                let kept = digits
                    .iter()
                    .rposition(|&digit| digit != b'0')
                    .map_or(0, |at| at + 1);
                out.push(b'.');
                out.extend_from_slice(&digits[..kept]);
            }
        }
        if &out[start..] == b"-0" {
            out.remove(start);
        }
    }
}

impl From<i64> for Extended {
    /// Exact: every `i64` fits into 64 significand bits.
    fn from(value: i64) -> Self {
        round(value < 0, u128::from(value.unsigned_abs()), 0, false)
    }
}

/// `value >> bits`, with the lowest bit set if anything was shifted out.
fn shift_right_sticky(value: u128, bits: u64) -> u128 {
    if bits >= 128 {
        return u128::from(value != 0);
    }
    let kept = value >> bits;
    kept | u128::from(kept << bits != value)
}

/// `value / 2^bits`, rounded to nearest, ties to even.
fn round_half_even(value: u128, bits: u32) -> u128 {
    if bits == 0 {
        return value;
    }
    if bits > 127 {
        // Everything that comes here is below 2^127, hence under one half.
        return 0;
    }
    let kept = value >> bits;
    let rest = value & ((1 << bits) - 1);
    let half = 1 << (bits - 1);
    match rest.cmp(&half) {
        Ordering::Less => kept,
        Ordering::Equal => kept + (kept & 1),
        Ordering::Greater => kept + 1,
    }
}

/// The number nearest to `±value * 2^exponent`, where `sticky` says that the true magnitude is
/// above that by less than one unit of `value`. Needs 66 bits in `value` if `sticky` is set.
fn round(negative: bool, value: u128, exponent: i64, sticky: bool) -> Extended {
    if value == 0 {
        return Extended::Finite {
            negative,
            significand: 0,
            exponent: 0,
        };
    }
    let bits = i64::from(u128::BITS - value.leading_zeros());
    let drop = (bits - 64).max(EXPONENT_BOTTOM - exponent);
    let (mut significand, mut exponent) = if drop <= 0 {
        // The top bit goes up to where it belongs, or as far as the smallest exponent lets it.
        (value << drop.unsigned_abs(), exponent + drop)
    } else {
        let drop = drop as u64;
        let rounded = if drop > 128 {
            0
        } else {
            // One more bit than is dropped decides between less, equal to and more than half.
            let kept = if drop == 128 { 0 } else { value >> drop };
            let rest = if drop == 128 {
                value
            } else {
                value & ((1 << drop) - 1)
            };
            match rest.cmp(&(1 << (drop - 1))) {
                Ordering::Less => kept,
                Ordering::Equal if !sticky => kept + (kept & 1),
                _ => kept + 1,
            }
        };
        (rounded, exponent + drop as i64)
    };
    if significand >> 64 != 0 {
        // Rounding carried into a 65th bit; the lowest one is then zero.
        significand >>= 1;
        exponent += 1;
    }
    if exponent + 64 > EXPONENT_TOP {
        return Extended::Infinite { negative };
    }
    Extended::Finite {
        negative,
        significand: significand as u64,
        exponent: exponent as i32,
    }
}

#[cfg(test)]
mod tests {
    use super::parse::{scale, scale_by_words};
    use super::*;
    use proptest::prelude::*;

    fn print(value: Extended) -> String {
        let mut out = Vec::new();
        value.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn sum(a: &str, b: &str) -> String {
        let parse = |text: &str| Extended::parse(text.as_bytes()).unwrap();
        print(parse(a).add(parse(b)))
    }

    /// The sums were computed and printed by C's `long double` on x86.
    #[test]
    fn sums_are_those_of_the_hardware() {
        for (a, b, expected) in [
            ("0", "0", "0"),
            ("3", "0.1", "3.1"),
            ("0.1", "0.2", "0.3"),
            ("1.05", "0.1", "1.15"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "-1.1", "1.9"),
            (".5", "5.", "5.5"),
            ("+1", "1", "2"),
            (
                "17179869184",
                "0.000000001",
                "17179869184.00000000186264515",
            ),
            ("-0", "-0", "0"),
            ("-1e-20", "0", "0"),
            ("0.5e-17", "0", "0"),
            ("1.5e-17", "0", "0.00000000000000002"),
            ("2.5e-17", "0", "0.00000000000000002"),
            ("9.99999999999999999999", "0", "10"),
            (
                "123456789012345678901234567890",
                "0",
                "123456789012345678899921813504",
            ),
            ("36893488147419103233", "0", "36893488147419103232"),
            ("36893488147419103234", "0", "36893488147419103232"),
            ("36893488147419103238", "0", "36893488147419103240"),
            ("18446744073709551617", "0.5", "18446744073709551616"),
            ("0x1.8p3", "0X.8", "12.5"),
            ("0xffffffffffffffff.7fffp0", "0", "18446744073709551615"),
            ("0xffffffffffffffff.8p0", "0", "18446744073709551616"),
            ("1e18", "1e-17", "1000000000000000000"),
            ("-9007199254740993", "0.1", "-9007199254740992.900390625"),
            ("3.3621031431120935063e-4932", "0", "0"),
            ("1000000000000000000000", "-999999999999999999999.5", "0"),
            ("0e999999999999", "0x0p9999", "0"),
        ] {
            assert_eq!(sum(a, b), expected, "{a} + {b}");
        }
    }

    #[test]
    fn the_range_is_that_of_fifteen_exponent_bits() {
        let largest = sum("1.18e4932", "0");
        assert_eq!(largest.len(), 4933);
        assert!(largest.starts_with("118000000000000000000065281291809369920269043714016047"));
        assert!(Extended::parse(b"1e-4950").is_some());
        for text in [
            "1.2e4932",
            "-1.2e4932",
            "1e-4960",
            "-1e-4960",
            "1e9999999999",
            "0x1p16384",
        ] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text}");
        }
        let big = Extended::parse(b"1.18e4932").unwrap();
        assert!(!big.add(big).is_finite());
        assert_eq!(print(Extended::parse(b"-Infinity").unwrap()), "-inf");
        assert!(
            !Extended::parse(b"inf")
                .unwrap()
                .add(Extended::from(1))
                .is_finite()
        );
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "", " ", " 1", "1 ", "-", "+", ".", "e5", "1e", "1e+", "1..2", "--1", "nan", "NaN(1)",
            "infinit", "0x", "0x.", "0x.p1", "0x1p", "1a", "1\0", "1,5",
        ] {
            assert_eq!(Extended::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Extended::parse(&[b'1'; TEXT_MAX + 1]), None);
    }

    proptest! {
        #[test]
        fn short_and_long_arithmetic_agree(value in 1u64..10_000_000_000_000_000_000, power in -18i64..=19) {
            prop_assert_eq!(
                scale_by_words(false, value, power),
                Some(scale(false, Natural::from(value), power))
            );
        }

        #[test]
        fn integers_are_exact(a in -(1i64 << 62)..1 << 62, b in -(1i64 << 62)..1 << 62) {
            prop_assert_eq!(sum(&a.to_string(), &b.to_string()), (a + b).to_string());
            prop_assert_eq!(Extended::from(a), Extended::parse(a.to_string().as_bytes()).unwrap());
        }

        #[test]
        fn binary_fractions_are_exact(numerator in 0u64..1 << 62, bits in 1u32..=17) {
            // numerator / 2^bits has at most 17 decimals.
            let value = Extended::parse(format!("{numerator:#x}p-{bits}").as_bytes()).unwrap();
            let fraction = (numerator & ((1 << bits) - 1)) * 5u64.pow(bits);
            let text = format!("{}.{fraction:0width$}", numerator >> bits, width = bits as usize);
            let expected = text.trim_end_matches('0').trim_end_matches('.');
            prop_assert_eq!(print(value), expected);
            prop_assert_eq!(Extended::parse(text.as_bytes()), Some(value));
        }

        #[test]
        fn sums_do_not_depend_on_the_order(a: u64, b: u64, x in -200i32..200, y in -200i32..200) {
            let (a, b) = (format!("{a:#x}p{x}"), format!("-{b:#x}p{y}"));
            prop_assert_eq!(sum(&a, &b), sum(&b, &a));
        }

        #[test]
        fn any_text_is_read_without_panic(text in "[-+0-9a-fxXpPeE.]{0,40}") {
            if let Some(value) = Extended::parse(text.as_bytes()) {
                prop_assert!(Extended::parse(print(value).as_bytes()).is_some());
            }
        }
    }
}
