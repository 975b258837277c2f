//! Histograms of durations that one thread writes and others read, in the layout of HdrHistogram with two significant
//! digits from 1 ns to 1 s.
//!
//! Recording is an index computation and a plain increment. To read percentiles, the counts are copied into an
//! [`hdrhistogram::Histogram`] of the same layout, which loses nothing.
//!
//! ```text
//! value   0 .. 255   one slot each
//!       256 .. 511   128 slots of width 2
//!       512 .. 1023  128 slots of width 4 ...
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use hdrhistogram::Histogram;

/// Longest duration that is told apart from longer ones, in nanoseconds.
const MAX_NS: u64 = 1_000_000_000;

/// Slots of half a doubling range: two significant digits need at least 100.
const HALF: usize = 128;

/// Number of slots: those of `MAX_NS` and below.
const SLOTS: usize = slot(MAX_NS) + 1;

/// The slot of a duration.
#[inline]
const fn slot(ns: u64) -> usize {
    let shift = (u64::BITS - 1 - (ns | 255).leading_zeros()) as usize - 7;
    shift * HALF + (ns >> shift) as usize
}

/// The shortest duration of a slot.
fn lowest(slot: usize) -> u64 {
    if slot < 2 * HALF {
        return slot as u64;
    }
    let shift = slot / HALF - 1;
    ((slot - shift * HALF) as u64) << shift
}

/// Durations, counted.
#[derive(Debug)]
pub(crate) struct Durations {
    counts: Box<[AtomicU32]>,
}

impl Durations {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self {
            counts: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Counts a duration. Only the owner calls this.
    #[inline]
    pub(crate) fn record(&self, ns: u64) {
        let count = &self.counts[slot(ns.min(MAX_NS))];
        // Relaxed, load and store: there is one writer, and readers need no order between counts.
        count.store(
            count.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    /// Adds the counts to `sum`.
    fn add_to(&self, sum: &mut [u32]) {
        for (sum, count) in sum.iter_mut().zip(&self.counts) {
            *sum = sum.wrapping_add(count.load(Ordering::Relaxed));
        }
    }
}

/// Slots that a [`Spread`] takes together: 16 of its own are left in each doubling.
const COARSE: usize = 8;

/// The counts of several [`Durations`] at one moment, to within a sixteenth: small enough to be kept and compared each
/// second.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spread(Box<[u32]>);

impl Spread {
    /// The sum of `durations`; takes no memory if there are none.
    pub(crate) fn sum<'a>(durations: impl Iterator<Item = &'a Durations>) -> Self {
        let mut sum: Box<[u32]> = Box::default();
        for durations in durations {
            if sum.is_empty() {
                sum = vec![0_u32; SLOTS.div_ceil(COARSE)].into();
            }
            for (sum, counts) in sum.iter_mut().zip(durations.counts.chunks(COARSE)) {
                for count in counts {
                    *sum = sum.wrapping_add(count.load(Ordering::Relaxed));
                }
            }
        }
        Self(sum)
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let earlier = earlier.0.iter().copied().chain(std::iter::repeat(0));
        let counts = self.0.iter().zip(earlier);
        Self(
            counts
                .map(|(now, before)| now.wrapping_sub(before))
                .collect(),
        )
    }

    /// The duration in nanoseconds that so many of 100,000 keep within; 0 if nothing was counted.
    pub(crate) fn percentile(&self, of_100_000: u64) -> u64 {
        let total: u64 = self.0.iter().map(|&count| u64::from(count)).sum();
        let wanted = (total * of_100_000).div_ceil(100_000);
        let mut so_far = 0;
        for (at, &count) in self.0.iter().enumerate() {
            so_far += u64::from(count);
            if count > 0 && so_far >= wanted {
                return lowest((at + 1) * COARSE) - 1;
            }
        }
        0
    }
}

/// The counts of several [`Durations`] at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Counts(Box<[u32]>);

impl Counts {
    /// The sum of `durations`.
    pub(crate) fn sum<'a>(durations: impl Iterator<Item = &'a Durations>) -> Self {
        let mut sum = vec![0; SLOTS];
        durations.for_each(|durations| durations.add_to(&mut sum));
        Self(sum.into())
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&earlier.0)
                .map(|(now, before)| now.wrapping_sub(*before))
                .collect(),
        )
    }

    /// The same counts as a histogram that knows percentiles; `None` if nothing was counted.
    pub(crate) fn histogram(&self) -> Option<Histogram<u64>> {
        let mut histogram = Histogram::new_with_bounds(1, MAX_NS, 2).ok()?;
        for (slot, &count) in self.0.iter().enumerate().filter(|(_, count)| **count > 0) {
            histogram.saturating_record_n(lowest(slot).max(1), u64::from(count));
        }
        (!histogram.is_empty()).then_some(histogram)
    }

    /// How many durations are at most each of 1.024 us, 2.048 us, 4.096 us and so on, as LATENCY HISTOGRAM shows them:
    /// pairs of a bound in microseconds and a cumulative count, only where the count changes.
    pub(crate) fn doubling_buckets(&self) -> Vec<(u64, u64)> {
        let mut buckets = Vec::new();
        let (mut bound_ns, mut cumulative, mut shown) = (1024, 0, 0);
        for (slot, &count) in self.0.iter().enumerate() {
            while lowest(slot) > bound_ns {
                if cumulative > shown {
                    buckets.push((bound_ns / 1000, cumulative));
                    shown = cumulative;
                }
                bound_ns *= 2;
            }
            cumulative += u64::from(count);
        }
        if cumulative > shown {
            buckets.push((bound_ns / 1000, cumulative));
        }
        buckets
    }

    /// Number of durations.
    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|&count| u64::from(count)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_cover_all_values_in_order() {
        let mut before = 0;
        for ns in (0..100_000).chain([MAX_NS - 1, MAX_NS]) {
            let at = slot(ns);
            assert!(at == before || at == before + 1 || ns > 100_000, "{ns}");
            assert!(
                lowest(at) <= ns && (at + 1 == SLOTS || ns < lowest(at + 1)),
                "{ns}"
            );
            before = at;
        }
    }

    #[test]
    fn percentiles_agree_with_the_histogram_that_is_fed_directly() {
        let durations = Durations::new();
        let mut direct = Histogram::<u64>::new_with_bounds(1, MAX_NS, 2).unwrap();
        let mut value = 3u64;
        for _ in 0..10_000 {
            value = value
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let ns = (value >> 33) % (1 << (value % 30));
            durations.record(ns.max(1));
            direct.record(ns.max(1)).unwrap();
        }
        let counts = Counts::sum([&durations].into_iter());
        let histogram = counts.histogram().unwrap();
        for percentile in [0.0, 50.0, 99.0, 99.9, 100.0] {
            assert_eq!(
                histogram.value_at_percentile(percentile),
                direct.value_at_percentile(percentile)
            );
        }
        assert_eq!(counts.total(), 10_000);
        assert_eq!(
            counts.doubling_buckets().last().map(|(_, count)| *count),
            Some(10_000)
        );
        assert!(counts.since(&counts).histogram().is_none());
    }
}
