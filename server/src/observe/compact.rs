//! Whole numbers in two bytes, to within a thousandth: what a history needs to hold thousands of them.
//!
//! ```text
//! | sign 1 | exponent 6 | mantissa 9 |     exponent 0: the mantissa itself
//!                                        exponent e: (512 + mantissa) << (e - 1)
//! ```
//!
//! Up to 1023 they are exact, beyond that rounded to ten binary digits.

/// Bits of the mantissa.
const MANTISSA: u32 = 9;

/// The leading one that a mantissa with an exponent does not store.
const ONE: u64 = 1 << MANTISSA;

/// A whole number, rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compact(u16);

impl Compact {
    /// The nearest number that has this form.
    pub(crate) fn new(value: i64) -> Self {
        let magnitude = value.unsigned_abs();
        let code = if magnitude < ONE {
            magnitude
        } else {
            let shift = u64::from(magnitude.ilog2() - MANTISSA);
            let rounded = (u128::from(magnitude) + ((1u128 << shift) >> 1)) >> shift;
            // Rounding up to the next power of two carries into the exponent by itself.
            ((shift + 1) << MANTISSA) + (rounded as u64 - ONE)
        };
        Self(code as u16 | u16::from(value < 0) << 15)
    }

    /// The number.
    pub(crate) fn get(self) -> i64 {
        let mantissa = u64::from(self.0) & (ONE - 1);
        let magnitude = match (self.0 >> MANTISSA) & 0x3f {
            0 => mantissa,
            exponent => (u128::from(ONE + mantissa) << (exponent - 1)).min(i64::MAX as u128) as u64,
        };
        let value = i64::try_from(magnitude).unwrap_or(i64::MAX);
        if self.0 >> 15 == 1 { -value } else { value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn small_numbers_are_exact() {
        for value in -1023..=1024 {
            assert_eq!(Compact::new(value).get(), value);
        }
        assert_eq!(Compact::new(2047).get(), 2048);
        for value in [i64::MAX, i64::MIN] {
            let close = Compact::new(value).get();
            assert!(close.abs_diff(value) <= 1, "{close} for {value}");
        }
    }

    proptest! {
        #[test]
        fn all_numbers_are_within_a_thousandth(value: i64, shift in 0..63u32) {
            let value = value >> shift;
            let close = Compact::new(value).get();
            prop_assert!(close.abs_diff(value) <= value.unsigned_abs() / 1000, "{close} for {value}");
        }
    }
}
