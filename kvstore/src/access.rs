//! One byte per entry that tells when it was last used (LRU), or how often (LFU). Pure.
//!
//! The bytes stand in the buckets, not in the entries: eviction compares them without touching an
//! entry. All bytes of a segment are relative to the segment's *base*, a second of Unix time. When
//! a use falls too far from the base, the segment is *rebased*: its bytes are rewritten, which
//! takes some microseconds, at most once per minute and only where something is used. A segment
//! that nobody uses is never touched, however old its entries grow.
//!
//! # LRU
//!
//! | byte | last use |
//! |---|---|
//! | 0..=63 | that many seconds after the base |
//! | 64..=127 | 0 to 63 seconds before the base |
//! | 128 + 8 level + step | (8 + step) * grain before the base, grain = 8 s << level |
//!
//! An instant of a level is a multiple of its grain and the base is rounded down to the grain
//! before the difference is taken, so rebasing within a level is exact; an instant that grows too
//! old for its level is rounded down to the next one's grain. Rounding is only ever onto coarser
//! multiples of the same grid: errors do not add up, and stay below an eighth of the idle time. The
//! last level ends at 48 days.
//!
//! # LFU
//!
//! Redis's logarithmic counter: a use adds 1 with probability `1 / ((counter - 5) * factor + 1)`,
//! and every `decay` minutes take 1 away. Redis decays a counter when it is looked at; here all
//! counters of a segment decay when it is rebased.

/// The counter that a new entry starts with, so that it is not evicted at once.
pub(crate) const COUNTER_INITIAL: u8 = 5;

const AFTER_MAX: u32 = 63;
const BEFORE: u8 = 64;
const LEVELS: u8 = 128;
const LEVEL_COUNT: u32 = 16;
const STEPS: u32 = 8;
const GRAIN_BITS: u32 = 3;

/// How the bytes are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// When the last use was.
    LastUse,
    /// How often it is used.
    UseCount { log_factor: u32, decay_minutes: u32 },
}

impl Coding {
    /// A number that tells the two ways apart in a segment's header.
    pub(crate) fn kind(self) -> u8 {
        match self {
            Coding::LastUse => 0,
            Coding::UseCount { .. } => 1,
        }
    }

    /// Whether bytes relative to `base_s` can take a use at `now_s`.
    #[inline]
    pub(crate) fn needs_rebase(self, base_s: u32, now_s: u32) -> bool {
        match self {
            Coding::LastUse => now_s.wrapping_sub(base_s) > AFTER_MAX,
            Coding::UseCount {
                decay_minutes: 0, ..
            } => false,
            Coding::UseCount { decay_minutes, .. } => {
                now_s.saturating_sub(base_s) / 60 >= decay_minutes
            }
        }
    }

    /// The base to which [`Coding::rebase`] moves a segment used at `now_s`.
    pub(crate) fn new_base(self, base_s: u32, now_s: u32) -> u32 {
        match self {
            Coding::LastUse
            | Coding::UseCount {
                decay_minutes: 0, ..
            } => now_s,
            // Whole periods, so that the remainder counts for the next one.
            Coding::UseCount { decay_minutes, .. } => {
                let period_s = u64::from(decay_minutes) * 60;
                let elapsed_s = u64::from(now_s.saturating_sub(base_s));
                base_s + (elapsed_s / period_s * period_s) as u32
            }
        }
    }

    /// The byte relative to `new_base_s` that says what `byte` said relative to `base_s`.
    pub(crate) fn rebase(self, byte: u8, base_s: u32, new_base_s: u32) -> u8 {
        match self {
            Coding::LastUse => encode(decode(byte, base_s), new_base_s),
            Coding::UseCount { decay_minutes, .. } => byte.saturating_sub(
                (new_base_s.saturating_sub(base_s) / 60)
                    .checked_div(decay_minutes)
                    .unwrap_or(0)
                    .min(255) as u8,
            ),
        }
    }

    /// The byte of an entry made at `now_s`, for which the segment needs no rebase.
    #[inline]
    pub(crate) fn initial(self, base_s: u32, now_s: u32) -> u8 {
        match self {
            Coding::LastUse => now_s.wrapping_sub(base_s) as u8,
            Coding::UseCount { .. } => COUNTER_INITIAL,
        }
    }

    /// The byte after a use at `now_s`, for which the segment needs no rebase. `random` is drawn
    /// only for a counter.
    #[inline]
    pub(crate) fn touch(
        self,
        byte: u8,
        base_s: u32,
        now_s: u32,
        random: impl FnOnce() -> u32,
    ) -> u8 {
        match self {
            Coding::LastUse => now_s.wrapping_sub(base_s) as u8,
            Coding::UseCount { log_factor, .. } => {
                let above = u64::from(byte.saturating_sub(COUNTER_INITIAL));
                let odds = above * u64::from(log_factor) + 1;
                let counts = byte < u8::MAX && u64::from(random()) * odds < 1 << 32;
                byte + u8::from(counts)
            }
        }
    }

    /// How good a candidate for eviction an entry is at `now_s`; the higher, the better.
    pub(crate) fn rank(self, byte: u8, base_s: u32, now_s: u32) -> u32 {
        match self {
            Coding::LastUse => idle_seconds(byte, base_s, now_s),
            Coding::UseCount { .. } => {
                u32::from(u8::MAX - self.rebase(byte, base_s, self.new_base(base_s, now_s)))
            }
        }
    }
}

/// Seconds since the last use, by an LRU byte.
pub(crate) fn idle_seconds(byte: u8, base_s: u32, now_s: u32) -> u32 {
    (i64::from(now_s) - decode(byte, base_s)).clamp(0, i64::from(u32::MAX)) as u32
}

/// The instant that an LRU byte names; before 1970 if the system's clock is young.
fn decode(byte: u8, base_s: u32) -> i64 {
    let base_s = i64::from(base_s);
    match byte {
        0..BEFORE => base_s + i64::from(byte),
        BEFORE..LEVELS => base_s - i64::from(byte - BEFORE),
        LEVELS.. => {
            let code = u32::from(byte - LEVELS);
            let grain_bits = GRAIN_BITS + code / STEPS;
            (base_s >> grain_bits << grain_bits) - (i64::from(STEPS + code % STEPS) << grain_bits)
        }
    }
}

/// The LRU byte that names `instant_s`, or the latest that it can name before it.
fn encode(instant_s: i64, base_s: u32) -> u8 {
    let base_s = i64::from(base_s);
    let after = instant_s - base_s;
    if after >= 0 {
        return after.min(i64::from(AFTER_MAX)) as u8;
    }
    if -after < i64::from(LEVELS - BEFORE) {
        return BEFORE + (-after) as u8;
    }
    for level in 0..LEVEL_COUNT {
        let grain_bits = GRAIN_BITS + level;
        let steps = (base_s >> grain_bits) - (instant_s >> grain_bits);
        if steps < i64::from(2 * STEPS) {
            let step = steps.max(i64::from(STEPS)) as u32 - STEPS;
            return LEVELS + (level * STEPS + step) as u8;
        }
    }
    u8::MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T0: u32 = 1_790_000_000;

    #[test]
    fn every_byte_reads_back_as_itself() {
        for base_s in [T0, T0 + 1, T0 + 4095, u32::MAX] {
            for byte in (0..=u8::MAX).filter(|byte| *byte != BEFORE) {
                assert_eq!(encode(decode(byte, base_s), base_s), byte, "base {base_s}");
            }
        }
    }

    #[test]
    fn counters_rise_ever_more_slowly_and_decay() {
        let coding = Coding::UseCount {
            log_factor: 10,
            decay_minutes: 2,
        };
        let mut byte = coding.initial(T0, T0);
        let mut random = 1u32;
        let mut uses_at = Vec::new();
        for uses in 0..200_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let next = coding.touch(byte, T0, T0, || random);
            if next != byte {
                uses_at.push(uses);
            }
            byte = next;
        }
        // Redis's own table: 100 uses give 10, 1,000 give 18, 100,000 give 142, each roughly.
        assert!(
            (3..20).contains(&uses_at.iter().filter(|at| **at < 100).count()),
            "{uses_at:?}"
        );
        assert!((100..=250).contains(&uses_at.len()), "{uses_at:?}");
        assert!(!coding.needs_rebase(T0, T0 + 119) && coding.needs_rebase(T0, T0 + 120));
        let base_s = coding.new_base(T0, T0 + 500);
        assert_eq!(base_s, T0 + 480);
        assert_eq!(coding.rebase(200, T0, base_s), 196);
        assert_eq!(coding.rank(200, T0, T0 + 500), 255 - 196);
        let never = Coding::UseCount {
            log_factor: 10,
            decay_minutes: 0,
        };
        assert!(!never.needs_rebase(T0, u32::MAX));
    }

    proptest! {
        /// Whatever the pattern of rebases, the idle time read is within an eighth of the true one,
        /// and exact for the first minute.
        #[test]
        fn idle_time_stays_close_through_rebases(steps in proptest::collection::vec(1u32..200_000, 1..60)) {
            let coding = Coding::LastUse;
            let (mut base_s, mut now_s) = (T0, T0);
            let mut byte = coding.touch(0, base_s, now_s, || 0);
            for step in steps {
                now_s += step;
                if coding.needs_rebase(base_s, now_s) {
                    let new_base_s = coding.new_base(base_s, now_s);
                    byte = coding.rebase(byte, base_s, new_base_s);
                    base_s = new_base_s;
                }
                let (idle, read) = (now_s - T0, idle_seconds(byte, base_s, now_s));
                if idle < 64 {
                    prop_assert_eq!(read, idle);
                } else if idle < 4_000_000 {
                    prop_assert!(read >= idle && read - idle <= idle / 8 + 8, "idle {} read {}", idle, read);
                }
            }
        }

        #[test]
        fn a_longer_idle_time_never_ranks_lower(a in 0u32..5_000_000, b in 0u32..5_000_000, base_s in T0..u32::MAX - 1000) {
            let rank = |idle: u32| Coding::LastUse.rank(encode(i64::from(base_s) - i64::from(idle), base_s), base_s, base_s + 100);
            prop_assert!(rank(a.min(b)) <= rank(a.max(b)));
        }
    }
}
