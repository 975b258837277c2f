//! Natural numbers of many words, for very long or very large numbers.

use std::cmp::Ordering;

use crate::extended::WORD_DIGITS;

/// A natural number of any size: 64-bit words, lowest first, the highest one not zero.
pub(super) struct Natural {
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
    pub(super) fn bits(&self) -> u64 {
        match self.words.last() {
            Some(top) => self.words.len() as u64 * 64 - u64::from(top.leading_zeros()),
            None => 0,
        }
    }

    pub(super) fn multiply_add(&mut self, factor: u64, addend: u64) {
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

    pub(super) fn shift_left(&mut self, bits: u32) {
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
    pub(super) fn divide_by_word(&mut self, divisor: u64) -> u64 {
        let mut rest = 0u128;
        for word in self.words.iter_mut().rev() {
            rest = rest << 64 | u128::from(*word);
            *word = (rest / u128::from(divisor)) as u64;
            rest %= u128::from(divisor);
        }
        self.trim();
        rest as u64
    }

    pub(super) fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    pub(super) fn write_decimal(mut self, out: &mut Vec<u8>) {
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
    pub(super) fn top_bits(&self) -> (u128, i64, bool) {
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
    pub(super) fn divide(mut self, mut divisor: Self) -> (u128, i64, bool) {
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

    pub(super) fn order(&self, other: &Self) -> Ordering {
        let by_length = self.words.len().cmp(&other.words.len());
        by_length.then_with(|| self.words.iter().rev().cmp(other.words.iter().rev()))
    }

    /// Subtracts a number that is not larger.
    pub(super) fn subtract(&mut self, other: &Self) {
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
