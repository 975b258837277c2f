//! Whether pages that were given back were soon needed again, and how much longer
//! free pages should stay because of that: a computation on numbers, with the clock
//! passed in.
//!
//! Time is cut into windows about as long as the purge delay. If at least half of
//! what was purged in one window was taken from the system again in the next, each of
//! these pages has cost a fault for nothing, and the delay doubles, up to
//! [`FACTOR_MAX`] times what was asked for. It halves again after some windows without
//! that, and is what was asked for once nobody has used the page heap for
//! [`IDLE_WINDOWS`]: an idle program shrinks as it should.

/// How many times as long as asked for free pages may stay.
const FACTOR_MAX: u32 = 8;

/// Purged pages that are worth a thought: a mebibyte in a window.
const PAGES_MIN: u64 = 256;

/// Windows without pages coming back, after which the delay halves.
const CALM_WINDOWS: u32 = 8;

/// Windows in which nothing happens, after which the program counts as idle. In a
/// single one it may just be waiting for its next round of work.
const IDLE_WINDOWS: u32 = 2;

const WINDOW_MS_MIN: u64 = 100;
const WINDOW_MS_MAX: u64 = 2000;

/// What a page heap has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Pages given back to the system.
    pub(crate) purged: u64,
    /// Pages taken from the system.
    pub(crate) fresh: u64,
    /// Pages handed out, fresh or not.
    pub(crate) handed: u64,
}

/// The watch over one page heap.
#[derive(Clone, Debug)]
pub(crate) struct Refaults {
    asked_ms: u32,
    factor: u32,
    calm_windows: u32,
    idle_windows: u32,
    window_start_ms: u64,
    at_start: Totals,
    /// Pages purged in the window before this one.
    purged_before: u64,
}

impl Refaults {
    /// A watch where free pages shall stay for `asked_ms` milliseconds.
    pub(crate) const fn new(asked_ms: u32) -> Refaults {
        Refaults {
            asked_ms,
            factor: 1,
            calm_windows: 0,
            idle_windows: 0,
            window_start_ms: 0,
            at_start: Totals {
                purged: 0,
                fresh: 0,
                handed: 0,
            },
            purged_before: 0,
        }
    }

    /// Milliseconds that free pages should stay at present.
    pub(crate) fn delay_ms(&self) -> u32 {
        self.asked_ms.saturating_mul(self.factor)
    }

    /// Takes in what has been done until `now_ms`, to be told now and then. True where
    /// [`delay_ms`](Self::delay_ms) has changed.
    pub(crate) fn observe(&mut self, now_ms: u64, totals: Totals) -> bool {
        let window_ms = u64::from(self.asked_ms).clamp(WINDOW_MS_MIN, WINDOW_MS_MAX);
        let elapsed_ms = now_ms.saturating_sub(self.window_start_ms);
        if elapsed_ms < window_ms {
            return false;
        }
        let purged = totals.purged - self.at_start.purged;
        let fresh = totals.fresh - self.at_start.fresh;
        self.idle_windows = match totals.handed == self.at_start.handed {
            true => self.idle_windows + 1,
            false => 0,
        };
        // After a long sleep nothing comes *straight* back.
        let came_back = match elapsed_ms <= 4 * window_ms {
            true => fresh.min(self.purged_before),
            false => 0,
        };
        let before = self.factor;
        if self.idle_windows >= IDLE_WINDOWS || self.asked_ms == 0 {
            (self.factor, self.calm_windows) = (1, 0);
        } else if self.purged_before >= PAGES_MIN && came_back * 2 >= self.purged_before {
            (self.factor, self.calm_windows) = ((before * 2).min(FACTOR_MAX), 0);
        } else {
            self.calm_windows += 1;
            if self.calm_windows == CALM_WINDOWS {
                (self.factor, self.calm_windows) = ((before / 2).max(1), 0);
            }
        }
        self.window_start_ms = now_ms;
        self.at_start = totals;
        self.purged_before = purged;
        self.factor != before
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Goes through windows of a second, in each of which so many pages were purged
    /// and so many taken; returns the delays.
    fn delays(asked_ms: u32, windows: &[(u64, u64)]) -> Vec<u32> {
        let mut refaults = Refaults::new(asked_ms);
        let mut totals = Totals::default();
        let mut now_ms = 5000;
        refaults.observe(now_ms, totals);
        windows
            .iter()
            .map(|(purged, fresh)| {
                now_ms += 1000;
                totals.purged += purged;
                totals.fresh += fresh;
                totals.handed += 1;
                refaults.observe(now_ms, totals);
                refaults.delay_ms()
            })
            .collect()
    }

    #[test]
    fn pages_that_come_straight_back_stay_longer() {
        let churn = [(1000, 1000); 6];
        assert_eq!(delays(1000, &churn), [1000, 2000, 4000, 8000, 8000, 8000]);
    }

    #[test]
    fn growth_and_release_alone_change_nothing() {
        assert_eq!(delays(1000, &[(0, 100_000); 5]), [1000; 5]);
        assert_eq!(delays(1000, &[(100_000, 0); 5]), [1000; 5]);
        // Less than half comes back, or too little to mention.
        assert_eq!(delays(1000, &[(1000, 499); 5]), [1000; 5]);
        assert_eq!(delays(1000, &[(255, 255); 5]), [1000; 5]);
    }

    #[test]
    fn who_wants_pages_back_at_once_gets_that() {
        assert_eq!(delays(0, &[(1000, 1000); 5]), [0; 5]);
    }

    #[test]
    fn calm_halves_the_delay_and_idleness_ends_it() {
        let mut refaults = Refaults::new(1000);
        let mut totals = Totals::default();
        let mut now_ms = 0;
        let mut step = |refaults: &mut Refaults, pages: u64, active: bool| {
            now_ms += 1000;
            totals.purged += pages;
            totals.fresh += pages;
            totals.handed += u64::from(active);
            refaults.observe(now_ms, totals);
            refaults.delay_ms()
        };
        for _ in 0..5 {
            step(&mut refaults, 1000, true);
        }
        assert_eq!(refaults.delay_ms(), 8000);
        // The last of what was purged has to come back, or not, first.
        let calm: Vec<u32> = (0..20).map(|_| step(&mut refaults, 0, true)).collect();
        assert_eq!(calm[6..8], [8000, 4000]);
        assert_eq!(calm[15], 2000);
        assert_eq!(step(&mut refaults, 0, false), 2000);
        assert_eq!(step(&mut refaults, 0, false), 1000);
    }

    #[test]
    fn after_a_long_sleep_nothing_comes_straight_back() {
        let mut refaults = Refaults::new(1000);
        refaults.observe(1000, Totals::default());
        let asleep = Totals {
            purged: 9000,
            fresh: 0,
            handed: 1,
        };
        refaults.observe(2000, asleep);
        let awake = Totals {
            purged: 9000,
            fresh: 9000,
            handed: 2,
        };
        assert!(!refaults.observe(9000, awake));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        /// Whatever happens, the delay stays within its bounds, changes are told, and
        /// idleness ends every extension.
        #[test]
        fn the_delay_has_bounds(
            asked_ms in 0_u32..20_000,
            steps in prop::collection::vec(
                (0_u64..10_000, 0_u64..5000, 0_u64..5000, any::<bool>()), 0..60),
        ) {
            let mut refaults = Refaults::new(asked_ms);
            let mut totals = Totals::default();
            let mut now_ms = 0;
            for (elapsed_ms, purged, fresh, active) in steps {
                now_ms += elapsed_ms;
                totals.purged += purged;
                totals.fresh += fresh;
                totals.handed += u64::from(active || purged + fresh > 0);
                let before = refaults.delay_ms();
                let changed = refaults.observe(now_ms, totals);
                prop_assert_eq!(changed, refaults.delay_ms() != before);
                prop_assert!(refaults.delay_ms() >= asked_ms);
                prop_assert!(refaults.delay_ms() <= asked_ms * FACTOR_MAX);
            }
            // The window that was open may have seen something; the next have not.
            for window in 1..=1 + u64::from(IDLE_WINDOWS) {
                refaults.observe(now_ms + window * WINDOW_MS_MAX, totals);
            }
            prop_assert_eq!(refaults.delay_ms(), asked_ms);
        }
    }
}
