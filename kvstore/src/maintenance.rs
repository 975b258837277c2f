//! What a shard needs from time to time, in slices, and when next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::compaction::{self, Effort, SliceEnd};
use crate::expiry::{self, ExpiryNext};
use crate::pacing::{Background, SLICE_NS_MAX};
use crate::shard::Shard;

/// When work that is not finished goes on, in milliseconds: with slices of half a millisecond it
/// takes a quarter of a core.
const GO_ON_MS: u64 = 2;

/// Bytes given back at a time: about as long as a slice, in the worst case of scattered pages.
const PURGE_BYTES_MAX: usize = 4 << 20;

/// The share of one core that background compaction of all shards together takes is kept by this:
/// no slice starts before the time that the last one bought.
#[derive(Debug, Default)]
pub(crate) struct BackgroundTurn {
    next_ms: AtomicU64,
}

impl BackgroundTurn {
    /// When the next slice may start. Relaxed: two shards that read the same value at once only
    /// share a turn.
    fn next_ms(&self, now_ms: u64) -> u64 {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        // A turn lies less than a second ahead, unless the clock was set back.
        if next_ms > now_ms + 1000 {
            now_ms
        } else {
            next_ms
        }
    }

    fn took(&self, now_ms: u64, elapsed: Duration, percent: u32) -> u64 {
        let whole_us = elapsed.as_micros() as u64 * 100 / u64::from(percent.max(1));
        let next_ms = now_ms + whole_us.div_ceil(1000).clamp(1, 1000);
        self.next_ms.store(next_ms, Ordering::Relaxed);
        next_ms
    }
}

/// Works for at most `budget`, and returns when there is more to do, in milliseconds; `None` if
/// nothing is foreseen.
pub(crate) fn run(
    shard: &mut Shard,
    now_ms: u64,
    budget: Duration,
    turn: &BackgroundTurn,
) -> Option<u64> {
    let stopwatch = Stopwatch::with_limit(budget.min(Duration::from_nanos(SLICE_NS_MAX)));
    let mut due_ms = u64::MAX;
    while shard.drain_step() {
        if stopwatch.is_over() {
            due_ms = due_ms.min(now_ms + GO_ON_MS);
            break;
        }
    }
    if !stopwatch.is_over() {
        due_ms = due_ms.min(match expiry::slice(shard, now_ms, &stopwatch) {
            ExpiryNext::GoOn => now_ms + GO_ON_MS,
            ExpiryNext::At(at_ms) => at_ms.max(now_ms + GO_ON_MS),
            ExpiryNext::Nothing => u64::MAX,
        });
    } else {
        due_ms = due_ms.min(now_ms + GO_ON_MS);
    }
    match compaction::background(shard, now_ms) {
        Background::Wait(at_ms) => due_ms = due_ms.min(at_ms),
        Background::Nothing => {}
        Background::Run if stopwatch.is_over() || turn.next_ms(now_ms) > now_ms => {
            due_ms = due_ms.min(turn.next_ms(now_ms).max(now_ms + 1));
        }
        Background::Run => {
            let started = Stopwatch::unlimited();
            let percent = compaction::background_percent(shard);
            let end = compaction::slice(shard, Effort::Background, &stopwatch);
            // While nothing is written, free pages are of no use to anybody.
            if shard.is_quiet() && shard.purge_free(PURGE_BYTES_MAX) >= PURGE_BYTES_MAX {
                due_ms = due_ms.min(now_ms + 1);
            }
            let next_ms = turn.took(now_ms, started.elapsed(), percent);
            if end == SliceEnd::TimeOver {
                due_ms = due_ms.min(next_ms);
            }
        }
    }
    if let Some(purge_ms) = shard.purge_due(now_ms, PURGE_BYTES_MAX) {
        due_ms = due_ms.min(purge_ms.max(now_ms + 1));
    }
    shard.tell_resident();
    (due_ms != u64::MAX).then_some(due_ms)
}
