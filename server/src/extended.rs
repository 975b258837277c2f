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

use std::cmp::Ordering;

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

/// The exponent written behind `e` or `p`, held within bounds that are far out of range already.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits.iter().fold(0i64, |sum, digit| {
        (sum * 10 + i64::from(digit - b'0')).min(1_000_000_000)
    });
    Some(if negative { -magnitude } else { magnitude })
}

/// Cuts `text` into the digits before the point, those behind it, and the exponent.
fn split(text: &[u8], exponent_mark: u8) -> Option<(&[u8], &[u8], i64)> {
    let is_mark = |byte: &u8| byte.to_ascii_lowercase() == exponent_mark;
    let (digits, exponent) = match text.iter().position(is_mark) {
        Some(at) => (&text[..at], parse_exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let (whole, fraction) = match digits.iter().position(|&byte| byte == b'.') {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &[][..]),
    };
    (!whole.is_empty() || !fraction.is_empty()).then_some((whole, fraction, exponent))
}

fn parse_hexadecimal(negative: bool, text: &[u8]) -> Option<Extended> {
    let (whole, fraction, exponent) = split(text, b'p')?;
    let mut value = 0u128;
    let mut dropped_bits = 0;
    let mut sticky = false;
    for &byte in whole.iter().chain(fraction) {
        let digit = u128::from((byte as char).to_digit(16)?);
        if value >> 120 == 0 {
            value = value << 4 | digit;
        } else {
            sticky |= digit != 0;
            dropped_bits += 4;
        }
    }
    let weight = exponent - 4 * fraction.len() as i64 + dropped_bits;
    nonzero_or_exact(round(negative, value, weight, sticky), value == 0)
}

fn parse_decimal(negative: bool, text: &[u8]) -> Option<Extended> {
    let (whole, fraction, exponent) = split(text, b'e')?;
    let digits = || whole.iter().chain(fraction);
    if !digits().all(u8::is_ascii_digit) {
        return None;
    }
    let mut power = exponent - fraction.len() as i64;
    let leading = digits().take_while(|&&digit| digit == b'0').count();
    let trailing = digits().rev().take_while(|&&digit| digit == b'0').count();
    let total = whole.len() + fraction.len();
    if leading == total {
        return Some(Extended::Finite {
            negative,
            significand: 0,
            exponent: 0,
        });
    }
    power += trailing as i64;
    let significant = total - leading - trailing;
    let digits = digits()
        .skip(leading)
        .take(significant)
        .map(|digit| digit - b'0');

    let magnitude = significant as i64 + power;
    if !(-4_960..=4_934).contains(&magnitude) {
        // Beyond the largest finite number (1.2e4932) or far under the smallest (3.7e-4951).
        return None;
    }
    if significant <= 19 {
        let value = digits
            .clone()
            .fold(0u64, |sum, digit| sum * 10 + u64::from(digit));
        if let Some(number) = scale_by_words(negative, value, power) {
            return Some(number);
        }
    }
    let mut value = Natural::from(0);
    let (mut group, mut group_len) = (0, 0);
    for digit in digits {
        group = group * 10 + u64::from(digit);
        group_len += 1;
        if group_len == WORD_DIGITS {
            value.multiply_add(10u64.pow(WORD_DIGITS), group);
            (group, group_len) = (0, 0);
        }
    }
    value.multiply_add(10u64.pow(group_len), group);
    nonzero_or_exact(scale(negative, value, power), false)
}

/// `±value * 10^power` if 128 bits suffice to compute it, which they do for everyday numbers.
fn scale_by_words(negative: bool, value: u64, power: i64) -> Option<Extended> {
    let value = u128::from(value);
    match power {
        0..=19 => Some(round(negative, value * 10u128.pow(power as u32), 0, false)),
        -18..0 => {
            // A dividend of exactly 128 bits and a divisor under 60 give at least 68 bits.
            let shift = value.leading_zeros();
            let dividend = value << shift;
            let divisor = 10u128.pow(power.unsigned_abs() as u32);
            let sticky = dividend % divisor != 0;
            Some(round(
                negative,
                dividend / divisor,
                -i64::from(shift),
                sticky,
            ))
        }
        _ => None,
    }
}

/// `±value * 10^power`, for a value that is not zero.
fn scale(negative: bool, mut value: Natural, power: i64) -> Extended {
    let multiply = |number: &mut Natural| {
        let mut left = power.unsigned_abs();
        while left > 0 {
            let step = left.min(u64::from(WORD_DIGITS));
            number.multiply_add(10u64.pow(step as u32), 0);
            left -= step;
        }
    };
    let (bits, exponent, sticky) = if power < 0 {
        let mut divisor = Natural::from(1);
        multiply(&mut divisor);
        value.divide(divisor)
    } else {
        multiply(&mut value);
        value.top_bits()
    };
    round(negative, bits, exponent, sticky)
}

/// A number other than zero that rounds to zero is out of range.
fn nonzero_or_exact(value: Extended, exact_zero: bool) -> Option<Extended> {
    match value {
        Extended::Finite { significand: 0, .. } if !exact_zero => None,
        value => Some(value),
    }
}

/// A natural number of any size: 64-bit words, lowest first, the highest one not zero.
struct Natural {
    words: Vec<u64>,
}

impl From<u64> for Natural {
    fn from(value: u64) -> Self {
        Self {
            words: if value == 0 { Vec::new() } else { vec![value] },
        }
    }
}

impl Natural {
    fn bits(&self) -> u64 {
        match self.words.last() {
            Some(top) => self.words.len() as u64 * 64 - u64::from(top.leading_zeros()),
            None => 0,
        }
    }

    fn multiply_add(&mut self, factor: u64, addend: u64) {
        let mut carry = u128::from(addend);
        for word in &mut self.words {
            carry += u128::from(*word) * u128::from(factor);
            *word = carry as u64;
            carry >>= 64;
        }
        if carry != 0 {
            self.words.push(carry as u64);
        }
    }

    fn shift_left(&mut self, bits: u32) {
        if self.words.is_empty() {
            return;
        }
        let (words, bits) = (bits as usize / 64, bits % 64);
        if bits != 0 {
            self.multiply_add(1 << bits, 0);
        }
        self.words.splice(0..0, std::iter::repeat_n(0, words));
    }

    /// Divides by `divisor` and returns the remainder. Panics if it is zero.
    fn divide_by_word(&mut self, divisor: u64) -> u64 {
        let mut rest = 0u128;
        for word in self.words.iter_mut().rev() {
            rest = rest << 64 | u128::from(*word);
            *word = (rest / u128::from(divisor)) as u64;
            rest %= u128::from(divisor);
        }
        self.trim();
        rest as u64
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    fn write_decimal(mut self, out: &mut Vec<u8>) {
        let start = out.len();
        loop {
            let mut group = self.divide_by_word(10u64.pow(WORD_DIGITS));
            let last = self.words.is_empty();
            for _ in 0..WORD_DIGITS {
                out.push(b'0' + (group % 10) as u8);
                group /= 10;
                if last && group == 0 {
                    break;
                }
            }
            if last {
                break;
            }
        }
        out[start..].reverse();
    }

    /// The top 128 bits at most, their weight, and whether any bit below them is set.
    fn top_bits(&self) -> (u128, i64, bool) {
        let low = self.bits().saturating_sub(128);
        let (word, bit) = ((low / 64) as usize, (low % 64) as u32);
        let at = |index: usize| u128::from(self.words.get(index).copied().unwrap_or(0));
        let mut top = (at(word) | at(word + 1) << 64) >> bit;
        if bit != 0 {
            top |= at(word + 2) << (128 - bit);
        }
        let below = self.words.iter().take(word).any(|&word| word != 0);
        let sticky = below || (bit != 0 && at(word) & ((1 << bit) - 1) != 0);
        (top, low as i64, sticky)
    }

    /// `self / divisor` as a quotient of 67 to 69 bits, its weight, and whether a rest remains.
    fn divide(mut self, mut divisor: Self) -> (u128, i64, bool) {
        // Both are brought to the same scale, such that 68 steps of shift and subtract give the
        // quotient's bits.
        const STEPS: u32 = 68;
        let difference = self.bits() as i64 - divisor.bits() as i64;
        if difference > 0 {
            divisor.shift_left(difference as u32);
        } else {
            self.shift_left(difference.unsigned_abs() as u32);
        }
        let mut quotient = 0u128;
        for _ in 0..=STEPS {
            quotient <<= 1;
            if self.order(&divisor) != Ordering::Less {
                self.subtract(&divisor);
                quotient |= 1;
            }
            self.shift_left(1);
        }
        (
            quotient,
            difference - i64::from(STEPS),
            !self.words.is_empty(),
        )
    }

    fn order(&self, other: &Self) -> Ordering {
        let by_length = self.words.len().cmp(&other.words.len());
        by_length.then_with(|| self.words.iter().rev().cmp(other.words.iter().rev()))
    }

    /// Subtracts a number that is not larger.
    fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        for (index, word) in self.words.iter_mut().enumerate() {
            let (difference, first) =
                word.overflowing_sub(other.words.get(index).copied().unwrap_or(0));
            let (difference, second) = difference.overflowing_sub(u64::from(borrow));
            *word = difference;
            borrow = first || second;
        }
        self.trim();
    }
}

#[cfg(test)]
mod tests {
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
