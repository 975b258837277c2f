//! How long free pages should stay: a computation on numbers, with the clock passed in.
//!
//! The *patience* depends on how large the heap is, or was a while ago. What is kept in
//! vain weighs by its bytes and by the time; what is missed costs a fault per page,
//! which is as much for a small heap as for a large one. So free pages of a heap may stay
//! until bytes times milliseconds reach a fixed product, [`PATIENT_PAGES`] for the delay
//! that was asked for: those of small heaps up to [`PATIENCE_MAX`] times as long. A
//! program of a few megabytes that pauses for some seconds goes on as it was before.
//!
//! Beyond that it depends on whether pages that were given back were soon needed again.
//! Time is cut into windows, twice: into some about as long as the purge delay, and into
//! some of a tenth of that. If at least half of what was purged in one window was taken
//! from the system again in the next of the same kind, each of these pages has cost a
//! fault for nothing, and the delay doubles, up to [`FACTOR_MAX`] times what was asked for.
//! The short windows are for programs that fault a gigabyte in each second otherwise, the
//! long ones for those that pause. It halves again after some long windows without that.
//!
//! Whoever takes no page for as long as was asked for is idle: free pages need not
//! wait for it any longer, so an idle program shrinks as if nothing had come back.

use crate::units::PAGE_BYTES;

/// How many times as long as asked for free pages may stay because others came back.
const FACTOR_MAX: u32 = 8;

/// Resident pages of a heap from which on its free pages stay as long as asked for, and
/// how many times as long those of smaller heaps may stay at most, a power of two.
const PATIENT_PAGES: u32 = (64 << 20) / PAGE_BYTES as u32;
const PATIENCE_MAX: u32 = 8;

/// The share of its pages that a heap which has shrunk is taken to have lost after a
/// window: one in so many.
const FORGOTTEN_SHARE: u32 = 8;

/// Purged pages that are worth a thought: a mebibyte in a window.
const PAGES_MIN: u64 = 256;

/// Long windows without pages coming back, after which the delay halves.
const CALM_WINDOWS: u32 = 8;

/// Bounds of a long window's length, and the short ones in it.
const WINDOW_MS_MIN: u64 = 100;
const WINDOW_MS_MAX: u64 = 2000;
const SHORT_WINDOWS: u64 = 10;

/// What a page heap has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Pages given back to the system.
    pub(crate) purged: u64,
    /// Pages taken from the system.
    pub(crate) fresh: u64,
    /// Pages handed out, fresh or not.
    pub(crate) handed: u64,
    /// Pages with memory behind them at present.
    pub(crate) resident: u32,
}

/// What an observation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Change {
    /// Everything stays as it is.
    None,
    /// [`Refaults::delay_ms`] has changed.
    Delay,
    /// The same, because nobody takes pages any more: those that are free have waited
    /// long enough.
    Idle,
}

/// The watch over one page heap.
#[derive(Clone, Debug)]
pub(crate) struct Refaults {
    asked_ms: u32,
    factor: u32,
    patience: u32,
    calm_windows: u32,
    /// Pages of the heap, or so many as it had not long ago.
    largest: u32,
    /// Pages handed out when that last changed, and when that was seen.
    handed: u64,
    handed_ms: u64,
    short: Window,
    long: Window,
}

/// A stretch of time, and what was purged in the one before.
#[derive(Clone, Debug)]
struct Window {
    start_ms: u64,
    at_start: Totals,
    purged_before: u64,
}

impl Window {
    const fn new() -> Window {
        Window {
            start_ms: 0,
            at_start: Totals {
                purged: 0,
                fresh: 0,
                handed: 0,
                resident: 0,
            },
            purged_before: 0,
        }
    }

    /// Ends the window if it has lasted so many milliseconds, and begins the next.
    /// Returns whether pages that were purged in the window before have come back in it;
    /// `None` where it has not ended.
    fn end(&mut self, now_ms: u64, length_ms: u64, totals: Totals) -> Option<bool> {
        let elapsed_ms = now_ms.saturating_sub(self.start_ms);
        if elapsed_ms < length_ms {
            return None;
        }
        let fresh = totals.fresh - self.at_start.fresh;
        // After a long sleep nothing comes *straight* back.
        let came_back = elapsed_ms <= 4 * length_ms
            && self.purged_before >= PAGES_MIN
            && fresh * 2 >= self.purged_before;
        *self = Window {
            start_ms: now_ms,
            at_start: totals,
            purged_before: totals.purged - self.at_start.purged,
        };
        Some(came_back)
    }
}

impl Refaults {
    /// A watch where free pages shall stay for `asked_ms` milliseconds.
    pub(crate) const fn new(asked_ms: u32) -> Refaults {
        Refaults {
            asked_ms,
            factor: 1,
            patience: 1,
            calm_windows: 0,
            largest: 0,
            handed: 0,
            handed_ms: 0,
            short: Window::new(),
            long: Window::new(),
        }
    }

    /// Milliseconds that free pages should stay at present.
    pub(crate) fn delay_ms(&self) -> u32 {
        self.asked_ms.saturating_mul(self.extension())
    }

    /// How many times as long as asked for that is.
    pub(crate) fn extension(&self) -> u32 {
        self.factor.max(self.patience)
    }

    /// How many times as long since pages came straight back: 1 where none did.
    pub(crate) fn factor(&self) -> u32 {
        self.factor
    }

    fn window_ms(&self) -> u64 {
        u64::from(self.asked_ms).clamp(WINDOW_MS_MIN, WINDOW_MS_MAX)
    }

    /// Milliseconds after which a program that takes no page is idle.
    fn idle_ms(&self) -> u64 {
        u64::from(self.asked_ms) * u64::from(self.patience)
    }

    /// Milliseconds after which to [observe](Self::observe) again at the latest, lest
    /// idleness be seen too late; `None` where it makes no difference.
    pub(crate) fn pause_ms_max(&self) -> Option<u64> {
        (self.factor > self.patience).then_some(u64::from(self.asked_ms / 4))
    }

    /// Takes in what has been done until `now_ms`, to be told now and then.
    pub(crate) fn observe(&mut self, now_ms: u64, totals: Totals) -> Change {
        if totals.handed != self.handed {
            (self.handed, self.handed_ms) = (totals.handed, now_ms);
        }
        let before = self.delay_ms();
        let elapsed_ms = now_ms.saturating_sub(self.long.start_ms);
        for _ in 0..(elapsed_ms / self.window_ms()).min(u64::from(8 * FORGOTTEN_SHARE)) {
            self.largest -= self.largest / FORGOTTEN_SHARE;
        }
        self.largest = self.largest.max(totals.resident);
        self.patience = patience(self.largest);
        let is_idle = now_ms.saturating_sub(self.handed_ms) >= self.idle_ms();
        if self.factor > self.patience && is_idle {
            (self.factor, self.calm_windows) = (1, 0);
            return Change::Idle;
        }
        self.observe_windows(now_ms, totals, is_idle);
        match self.delay_ms() != before {
            true => Change::Delay,
            false => Change::None,
        }
    }

    /// The same at the end of a window, or of two.
    fn observe_windows(&mut self, now_ms: u64, totals: Totals, is_idle: bool) {
        let length_ms = self.window_ms();
        let short = self.short.end(now_ms, length_ms / SHORT_WINDOWS, totals);
        let long = self.long.end(now_ms, length_ms, totals);
        // Nothing is to be gained for a program that is idle, as one without patience
        // always is.
        if !is_idle && (short == Some(true) || long == Some(true)) {
            (self.factor, self.calm_windows) = ((self.factor * 2).min(FACTOR_MAX), 0);
        } else if long.is_some() {
            self.calm_windows += 1;
            if self.calm_windows == CALM_WINDOWS {
                (self.factor, self.calm_windows) = ((self.factor / 2).max(1), 0);
            }
        }
    }
}

/// How many times as long as asked for free pages of a heap of so many may stay.
fn patience(pages: u32) -> u32 {
    let times = (PATIENT_PAGES / pages.max(1)).clamp(1, PATIENCE_MAX);
    // By powers of two, since with each change the free pages' time begins anew.
    1 << times.ilog2()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A watch, the totals that it sees, and a clock.
    struct Subject {
        refaults: Refaults,
        totals: Totals,
        now_ms: u64,
    }

    impl Subject {
        fn new(asked_ms: u32) -> Self {
            let mut subject = Self {
                refaults: Refaults::new(asked_ms),
                totals: Totals {
                    resident: PATIENT_PAGES,
                    ..Totals::default()
                },
                now_ms: 5000,
            };
            assert_eq!(subject.step(0, 0, 0), Change::None);
            subject
        }

        /// Lets time pass in which so many pages were purged and so many taken.
        fn step(&mut self, elapsed_ms: u64, purged: u64, fresh: u64) -> Change {
            self.now_ms += elapsed_ms;
            self.totals.purged += purged;
            self.totals.fresh += fresh;
            self.totals.handed += fresh;
            self.refaults.observe(self.now_ms, self.totals)
        }

        /// Pages that are taken without being fresh.
        fn reuse(&mut self, pages: u64) {
            self.totals.handed += pages;
        }
    }

    /// The delays after windows of a second each, in which so many pages were purged
    /// and so many taken.
    fn delays(asked_ms: u32, windows: &[(u64, u64)]) -> Vec<u32> {
        let mut subject = Subject::new(asked_ms);
        windows
            .iter()
            .map(|(purged, fresh)| {
                subject.reuse(1);
                let _ = subject.step(1000, *purged, *fresh);
                subject.refaults.delay_ms()
            })
            .collect()
    }

    #[test]
    fn pages_that_come_straight_back_stay_longer() {
        let churn = [(1000, 1000); 6];
        assert_eq!(delays(1000, &churn), [1000, 2000, 4000, 8000, 8000, 8000]);
    }

    #[test]
    fn pages_that_come_back_within_a_tenth_of_the_delay_are_seen_as_soon() {
        let mut subject = Subject::new(1000);
        let mut delays = Vec::new();
        for _ in 0..4 {
            subject.reuse(1);
            let _ = subject.step(100, 1000, 1000);
            delays.push(subject.refaults.delay_ms());
        }
        assert_eq!(delays, [1000, 2000, 4000, 8000]);
        assert_eq!(subject.refaults.factor(), 8);
        // Short windows without any are no reason for less.
        for _ in 0..60 {
            subject.reuse(1);
            let _ = subject.step(100, 0, 0);
        }
        assert_eq!(subject.refaults.factor(), 8);
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
    fn calm_halves_the_delay() {
        let mut windows = vec![(1000, 1000); 4];
        windows.extend([(0, 0); 20]);
        let delays = delays(1000, &windows);
        assert_eq!(delays[3], 8000);
        assert_eq!(delays[10..13], [8000, 4000, 4000]);
        assert_eq!(delays[20], 2000);
    }

    #[test]
    fn idleness_ends_the_extension_after_the_time_that_was_asked_for() {
        let mut subject = Subject::new(1000);
        for _ in 0..4 {
            let _ = subject.step(1000, 1000, 1000);
        }
        assert_eq!(subject.refaults.delay_ms(), 8000);
        let pause_ms = subject.refaults.pause_ms_max().unwrap();
        let mut waited_ms = 0;
        loop {
            waited_ms += pause_ms;
            match subject.step(pause_ms, 0, 0) {
                Change::Idle => break,
                change => assert_eq!(change, Change::None),
            }
        }
        assert_eq!((waited_ms, subject.refaults.delay_ms()), (1000, 1000));
        assert_eq!(subject.refaults.pause_ms_max(), None);
        // Pages that are only taken from those at hand keep it.
        for _ in 0..3 {
            let _ = subject.step(1000, 1000, 1000);
        }
        assert!(subject.refaults.delay_ms() > 1000);
        for _ in 0..5 {
            subject.reuse(1);
            assert_ne!(subject.step(900, 0, 0), Change::Idle);
        }
    }

    #[test]
    fn the_smaller_the_heap_the_longer_its_free_pages_stay() {
        const MIB: u32 = (1 << 20) / PAGE_BYTES as u32;
        let delay_ms = |asked_ms, pages| {
            let mut refaults = Refaults::new(asked_ms);
            let totals = Totals {
                resident: pages,
                ..Totals::default()
            };
            let change = refaults.observe(5000, totals);
            assert_eq!(change != Change::None, refaults.delay_ms() != asked_ms);
            refaults.delay_ms()
        };
        let delays = [1, 8, 9, 16, 17, 32, 33, 64, 5000].map(|size| delay_ms(1000, size * MIB));
        assert_eq!(
            delays,
            [8000, 8000, 4000, 4000, 2000, 2000, 1000, 1000, 1000]
        );
        assert_eq!(delay_ms(0, MIB), 0);
    }

    #[test]
    fn a_heap_that_has_shrunk_counts_as_large_for_a_while() {
        let mut subject = Subject::new(1000);
        subject.totals.resident = 8 * PATIENT_PAGES;
        assert_eq!(subject.step(1000, 0, 0), Change::None);
        subject.totals.resident = 1;
        for _ in 0..8 {
            assert_eq!(subject.step(1000, 0, 0), Change::None);
        }
        // However seldom it is looked at.
        assert_eq!(subject.step(60_000, 0, 0), Change::Delay);
        assert_eq!(subject.refaults.delay_ms(), 8000);
        subject.totals.resident = PATIENT_PAGES;
        assert_eq!(subject.step(1, 0, 0), Change::Delay);
        assert_eq!(subject.refaults.delay_ms(), 1000);
    }

    #[test]
    fn after_a_long_sleep_nothing_comes_straight_back() {
        let mut subject = Subject::new(1000);
        assert_eq!(subject.step(1000, 9000, 0), Change::None);
        assert_eq!(subject.step(7000, 0, 9000), Change::None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        /// Whatever happens, the delay stays within its bounds, changes are told, and
        /// idleness for as long as was asked for ends every extension.
        #[test]
        fn the_delay_has_bounds(
            asked_ms in 0_u32..20_000,
            steps in prop::collection::vec(
                (0_u64..10_000, 0_u64..5000, 0_u64..5000, 0..2 * PATIENT_PAGES),
                0..60,
            ),
        ) {
            let mut subject = Subject::new(asked_ms);
            for (elapsed_ms, purged, fresh, resident) in steps {
                subject.totals.resident = resident;
                let before = subject.refaults.delay_ms();
                let change = subject.step(elapsed_ms, purged, fresh);
                let after = subject.refaults.delay_ms();
                prop_assert_eq!(change != Change::None, after != before);
                let patient_ms = asked_ms * subject.refaults.patience;
                prop_assert!(change != Change::Idle || after == patient_ms);
                prop_assert!((patient_ms..=asked_ms * FACTOR_MAX).contains(&after));
            }
            subject.totals.resident = 0;
            let _ = subject.step(0, 0, 0);
            let _ = subject.step(u64::from(asked_ms * PATIENCE_MAX), 0, 0);
            let patient_ms = asked_ms * subject.refaults.patience;
            prop_assert_eq!(subject.refaults.delay_ms(), patient_ms);
        }
    }
}
