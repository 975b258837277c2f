//! Counters. Each worker owns a set and is its only writer, so counting is a plain load and store; a reader sums over
//! the workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `by`. Only the owner calls this.
    #[inline]
    pub(crate) fn add(&self, by: u64) {
        // Relaxed, load and store: there is one writer, and readers need no order between counters.
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Relaxed,
        );
    }

    /// The value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One command's figures in one worker.
#[derive(Debug, Default)]
pub(crate) struct CommandCounters {
    /// Times run.
    pub(crate) calls: Counter,
    /// Ticks spent.
    pub(crate) ticks: Counter,
    /// Times refused before it ran.
    pub(crate) rejected: Counter,
    /// Times it failed.
    pub(crate) failed: Counter,
}

/// One worker's figures.
#[derive(Debug)]
pub(crate) struct WorkerStats {
    /// By index in the command table.
    pub(crate) commands: Box<[CommandCounters]>,
}

impl WorkerStats {
    /// All zero.
    pub(crate) fn new(commands: usize) -> Self {
        Self {
            commands: (0..commands).map(|_| CommandCounters::default()).collect(),
        }
    }
}
