//! Numbers from their decimal and hexadecimal spellings.

use crate::extended::natural::Natural;
use crate::extended::{Extended, WORD_DIGITS, round};

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

pub(super) fn parse_hexadecimal(negative: bool, text: &[u8]) -> Option<Extended> {
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

pub(super) fn parse_decimal(negative: bool, text: &[u8]) -> Option<Extended> {
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
pub(super) fn scale_by_words(negative: bool, value: u64, power: i64) -> Option<Extended> {
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
pub(super) fn scale(negative: bool, mut value: Natural, power: i64) -> Extended {
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
