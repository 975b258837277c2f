//! Which allocations a heap profile looks at, and how many others each of these
//! stands for: pure arithmetic, with the random bits passed in.
//!
//! Every byte that is allocated is hit with the same small chance, one in
//! [`Interval`] bytes, and an object is sampled if one of its bytes is hit. So an
//! object of `s` bytes is sampled with the probability `p = 1 - exp(-s/R)`, whatever
//! happened before, and stands for `1/p` of its size: the estimates are unbiased.
//!
//! Allocations of one size are independent of those of others. How many pass until
//! one is sampled has a geometric distribution, `floor(E * R/s)` with an exponential
//! variate `E` of mean 1: it can be drawn ahead, for each size class by itself, and
//! nothing needs to be counted until so many slots have been handed out.

/// Fraction bits of the fixed-point numbers.
const VARIATE_BITS: u32 = 32;
pub(crate) const WEIGHT_BITS: u32 = 16;

/// A source of uniform random bits.
pub(crate) trait Random {
    /// 64 of them.
    fn bits(&mut self) -> u64;
}

/// The mean number of bytes between two that are hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval(u32);

impl Interval {
    /// Most bytes: with more, the numbers of small objects would not fit 32 bits.
    pub(crate) const MAX: u32 = 1 << 30;

    /// The interval, brought into its bounds. 1 stands for every allocation.
    pub(crate) fn new(bytes: usize) -> Self {
        Self(u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, Self::MAX))
    }

    /// Bytes.
    pub(crate) fn bytes(self) -> u32 {
        self.0
    }

    /// How many objects of so many bytes pass until one is sampled.
    pub(crate) fn passed(self, object_bytes: usize, random: &mut impl Random) -> u32 {
        if self.0 == 1 {
            return 0;
        }
        let bytes = u128::from(exponential(random)) * u128::from(self.0);
        let objects = (bytes / object_bytes as u128) >> VARIATE_BITS;
        u32::try_from(objects).unwrap_or(u32::MAX)
    }

    /// How many objects a sampled one of so many bytes stands for, in units of
    /// `1 / 2^`[`WEIGHT_BITS`].
    pub(crate) fn weight(self, object_bytes: usize) -> u64 {
        const ONE: f64 = (1_u64 << WEIGHT_BITS) as f64;
        if self.0 == 1 {
            return ONE as u64;
        }
        let share = object_bytes as f64 / f64::from(self.0);
        (ONE / one_minus_exp(share) + 0.5) as u64
    }
}

/// An exponential variate of mean 1, in units of `1 / 2^`[`VARIATE_BITS`].
///
/// Exact, and without logarithms: J. von Neumann, "Various techniques used in
/// connection with random digits", 1951. A run of falling uniforms has an odd length
/// with the probability `exp(-u)` of its first one; every run that does not adds 1.
fn exponential(random: &mut impl Random) -> u64 {
    let mut whole = 0;
    loop {
        let first = random.bits();
        let mut last = first;
        let mut length = 1_u32;
        loop {
            let next = random.bits();
            if next >= last {
                break;
            }
            last = next;
            length += 1;
        }
        if length % 2 == 1 {
            return (whole << VARIATE_BITS) + (first >> (64 - VARIATE_BITS));
        }
        whole += 1;
    }
}

/// `1 - exp(-x)` for a positive `x`.
fn one_minus_exp(x: f64) -> f64 {
    if x > 40.0 {
        return 1.0;
    }
    // exp(2y) - 1 = (exp(y) - 1) * (exp(y) - 1 + 2), from where Taylor's series is
    // exact enough.
    let (mut y, mut doublings) = (-x, 0);
    while y < -0.125 {
        y /= 2.0;
        doublings += 1;
    }
    let mut term = y;
    let mut sum = y;
    for n in 2..10 {
        term *= y / f64::from(n);
        sum += term;
    }
    for _ in 0..doublings {
        sum *= sum + 2.0;
    }
    -sum
}

/// Steele, Lea and Flood's SplitMix64 ("Fast splittable pseudorandom number
/// generators", 2014): the bits that belong to a state, which goes on by
/// [`SPLITMIX_STEP`].
pub(crate) const fn splitmix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The step from one state of [`splitmix`] to the next.
pub(crate) const SPLITMIX_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    struct Seeded(u64);

    impl Random for Seeded {
        fn bits(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(SPLITMIX_STEP);
            splitmix(self.0)
        }
    }

    const ROUNDS: u32 = if cfg!(miri) { 200 } else { 200_000 };

    #[test]
    fn variates_have_the_mean_and_the_spread_of_the_exponential_distribution() {
        let mut random = Seeded(1);
        let values: Vec<f64> = (0..ROUNDS)
            .map(|_| exponential(&mut random) as f64 / 2_f64.powi(VARIATE_BITS as i32))
            .collect();
        let mean =
            |power| values.iter().map(|v: &f64| v.powi(power)).sum::<f64>() / f64::from(ROUNDS);
        // Five standard errors: those of E and E^2 are 1 and sqrt(20).
        let bound = 5.0 / f64::from(ROUNDS).sqrt();
        assert!((mean(1) - 1.0).abs() < bound, "{}", mean(1));
        assert!((mean(2) - 2.0).abs() < bound * 20_f64.sqrt(), "{}", mean(2));
        let above_one = values.iter().filter(|v| **v > 1.0).count() as f64 / f64::from(ROUNDS);
        assert!(
            (above_one - (-1_f64).exp()).abs() < bound / 2.0,
            "{above_one}"
        );
    }

    #[test]
    fn weights_are_the_reciprocals_of_probabilities() {
        for interval in [2, 100, 4096, 524_288, Interval::MAX] {
            for bytes in [8, 16, 100, 4096, 14_336, 1 << 20, 1 << 35] {
                let expected = -1.0 / (-f64::from(interval).recip() * bytes as f64).exp_m1();
                let weight = Interval::new(interval as usize).weight(bytes) as f64
                    / f64::from(1_u32 << WEIGHT_BITS);
                let error = (weight / expected - 1.0).abs();
                assert!(error < 1e-5, "{interval} {bytes}: {weight} {expected}");
            }
        }
        assert_eq!(Interval::new(1).weight(8), 1 << WEIGHT_BITS);
        assert_eq!(Interval::new(0), Interval::new(1));
        assert_eq!(Interval::new(usize::MAX).bytes(), Interval::MAX);
    }

    /// What is sampled, times its weight, is what was allocated.
    #[test]
    fn estimates_are_unbiased() {
        let mut random = Seeded(2);
        for (interval, bytes) in [(4096, 16), (4096, 1000), (4096, 20_000), (524_288, 4096)] {
            let interval = Interval::new(interval);
            let objects = if cfg!(miri) { 100 } else { 1_000_000 };
            let mut sampled = 0_u64;
            let mut next = u64::from(interval.passed(bytes, &mut random));
            while next < objects {
                sampled += 1;
                next += 1 + u64::from(interval.passed(bytes, &mut random));
            }
            let one = f64::from(1_u32 << WEIGHT_BITS);
            let weight = interval.weight(bytes) as f64 / one;
            let estimate = sampled as f64 * weight;
            // Binomial: n p samples with a variance of n p (1 - p), each of weight 1/p.
            let deviation = (objects as f64 * (weight - 1.0).max(1e-9)).sqrt();
            assert!(
                (estimate - objects as f64).abs() < 5.0 * deviation + 1.0,
                "{bytes}: {estimate} of {objects}"
            );
        }
        assert_eq!(Interval::new(1).passed(8, &mut random), 0);
    }
}
