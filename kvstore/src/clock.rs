//! Time as the keyspace sees it.
//!
//! Two clocks serve two purposes. Expiry and idle times are in milliseconds of Unix time and are
//! always passed in by the caller, so a command sees one instant from start to end and tests can
//! let years pass. Slices of background work measure themselves against a [`Stopwatch`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds of Unix time, now.
///
/// A system clock set before 1970 reads as 0.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as u64)
}

/// How long a slice of background work may still run.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    started: Instant,
    limit: Option<Duration>,
}

impl Stopwatch {
    /// Starts now and expires after `limit`.
    #[must_use]
    pub fn with_limit(limit: Duration) -> Self {
        Stopwatch {
            started: Instant::now(),
            limit: Some(limit),
        }
    }

    /// Starts now and never expires.
    #[must_use]
    pub fn unlimited() -> Self {
        Stopwatch {
            started: Instant::now(),
            limit: None,
        }
    }

    /// Whether the limit has passed. Costs one reading of the clock, some 25 ns.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.limit
            .is_some_and(|limit| self.started.elapsed() >= limit)
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}
