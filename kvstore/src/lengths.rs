//! How long values are: a histogram in powers of two, as INFO's section `keysizes` shows it.
//!
//! Bin 0 counts empty values, bin `n` those of 2^(n-1) to 2^n - 1. The length of an integer is that
//! of its decimal form.

use std::ops::AddAssign;

/// Bins: lengths are below 2^31.
const BINS: usize = 32;

/// The bin that a length counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LengthBin(u8);

impl LengthBin {
    /// Of a value of `bytes`, at most `i32::MAX`.
    #[inline(always)]
    pub(crate) fn of_bytes(bytes: usize) -> Self {
        LengthBin((usize::BITS - bytes.leading_zeros()) as u8)
    }

    /// Of the decimal form of an integer.
    #[inline(always)]
    pub(crate) fn of_integer(value: i64) -> Self {
        // A minus sign is a character more, as a further digit would be.
        let magnitude = if value < 0 {
            value.unsigned_abs().saturating_mul(10)
        } else {
            value as u64
        };
        LengthBin(match magnitude {
            0..10 => 1,
            10..1_000 => 2,
            1_000..10_000_000 => 3,
            10_000_000..1_000_000_000_000_000 => 4,
            _ => 5,
        })
    }

    #[inline]
    fn index(self) -> usize {
        usize::from(self.0) % BINS
    }
}

/// How many values have a length in which bin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LengthHistogram {
    counts: [u64; BINS],
}

impl LengthHistogram {
    /// The bins that count anything, by ascending length: the least length of each, and how many
    /// values.
    pub fn bins(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let least = |bin: usize| (1 << bin) >> 1;
        let bins = self.counts.iter().enumerate();
        bins.filter(|(_, count)| **count > 0)
            .map(move |(bin, count)| (least(bin), *count))
    }

    #[inline]
    pub(crate) fn add(&mut self, bin: LengthBin) {
        self.counts[bin.index()] += 1;
    }

    #[inline]
    pub(crate) fn subtract(&mut self, bin: LengthBin) {
        self.counts[bin.index()] -= 1;
    }
}

impl AddAssign<&LengthHistogram> for LengthHistogram {
    fn add_assign(&mut self, other: &LengthHistogram) {
        for (count, other) in self.counts.iter_mut().zip(other.counts) {
            *count += other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bin_holds_the_lengths_from_a_power_of_two_to_the_next() {
        let mut histogram = LengthHistogram::default();
        for bytes in [0, 1, 2, 3, 4, 7, 8, 1023, 1024, i32::MAX as usize] {
            histogram.add(LengthBin::of_bytes(bytes));
        }
        let bins = [
            (0, 1),
            (1, 1),
            (2, 2),
            (4, 2),
            (8, 1),
            (512, 1),
            (1024, 1),
            (1 << 30, 1),
        ];
        assert!(histogram.bins().eq(bins));
        histogram.subtract(LengthBin::of_bytes(3));
        histogram.subtract(LengthBin::of_bytes(0));
        assert!(
            histogram.bins().eq([(1, 1), (2, 1)]
                .into_iter()
                .chain(bins[3..].iter().copied()))
        );
    }

    #[test]
    fn an_integer_counts_its_digits_and_its_sign() {
        let mut values = vec![0, i64::MIN, i64::MAX];
        for digits in 0..19 {
            let power = 10i64.pow(digits);
            values.extend([power - 1, power, power + 1, -power, 1 - power, -1 - power]);
        }
        for value in values {
            let length = value.to_string().len();
            assert_eq!(
                LengthBin::of_integer(value),
                LengthBin::of_bytes(length),
                "{value}"
            );
        }
    }

    proptest! {
        #[test]
        fn an_integer_counts_as_its_decimal_form(value: i64, shift in 0..64) {
            let value: i64 = value >> shift;
            let length = value.to_string().len();
            prop_assert_eq!(LengthBin::of_integer(value), LengthBin::of_bytes(length));
        }
    }
}
