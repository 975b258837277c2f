//! For how long a condition holds, and has held before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

#[derive(Debug, Default)]
struct Times {
    /// Since when it holds.
    since: Option<Duration>,
    /// For how long it held before.
    before: Duration,
}

/// A condition that comes and goes, such as being over a limit. Times are since the start of the server.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// The same as whether `since` is set, for a look without the lock.
    holds: AtomicBool,
    times: Mutex<Times>,
}

impl Standing {
    /// Whether it holds, as last noted.
    #[inline]
    pub(crate) fn holds(&self) -> bool {
        // Relaxed: whoever acts on it takes the lock and looks again.
        self.holds.load(Ordering::Relaxed)
    }

    /// Notes whether it holds; a change counts from `at` on.
    pub(crate) fn note(&self, holds: bool, at: Duration) {
        if holds == self.holds() {
            return;
        }
        let mut times = self.times.lock();
        match (times.since, holds) {
            (None, true) => times.since = Some(at),
            (Some(since), false) => {
                times.before += at.saturating_sub(since);
                times.since = None;
            }
            _ => {}
        }
        self.holds.store(holds, Ordering::Relaxed);
    }

    /// For how long it has held without a break until `now`.
    pub(crate) fn current(&self, now: Duration) -> Duration {
        let since = self.times.lock().since;
        since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// For how long it has held in all until `now`.
    pub(crate) fn total(&self, now: Duration) -> Duration {
        let before = self.times.lock().before;
        before + self.current(now)
    }

    /// Forgets what was before; if it holds, it does so from `now` on.
    pub(crate) fn reset(&self, now: Duration) {
        let mut times = self.times.lock();
        times.before = Duration::ZERO;
        times.since = times.since.map(|_| now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_over_breaks() {
        let standing = Standing::default();
        let at = Duration::from_secs;
        assert_eq!(standing.total(at(5)), at(0));
        standing.note(true, at(5));
        standing.note(true, at(6));
        assert_eq!(
            (standing.current(at(8)), standing.total(at(8))),
            (at(3), at(3))
        );
        standing.note(false, at(9));
        assert_eq!(
            (standing.current(at(20)), standing.total(at(20))),
            (at(0), at(4))
        );
        standing.note(true, at(30));
        assert_eq!(
            (standing.current(at(31)), standing.total(at(31))),
            (at(1), at(5))
        );
        standing.reset(at(31));
        assert_eq!(
            (standing.current(at(33)), standing.total(at(33))),
            (at(2), at(2))
        );
    }
}
