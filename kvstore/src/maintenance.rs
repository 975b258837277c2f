//! What a shard needs from time to time, in slices, and when next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Stopwatch;
use crate::compaction::{self, Effort, SliceEnd};
use crate::expiry::{self, ExpiryNext};
use crate::pacing::{Background, SLICE_NS_MAX};
use crate::shard::Shard;

/// How soon the clock of expiries is looked at again, in milliseconds.
const EXPIRY_MS_MIN: u64 = 2;

/// The share of one core that freeing of what was cleared and expiry take while there is more to do,
/// in percent.
const CLEARING_PERCENT: u32 = 25;

/// What a turn consists of: slices follow one another, with a look at the sockets after each, until
/// this time is used up.
const TURN_NS: u64 = 500_000;

/// Bytes given back at a time: about as long as a slice, in the worst case of scattered pages.
const PURGE_BYTES_MAX: usize = 1 << 20;

/// The share of one core that the background work of all shards together takes is kept by this: when
/// slices have used up a turn, none starts before the time that the turn bought.
#[derive(Debug, Default)]
pub(crate) struct BackgroundTurn {
    used_ns: AtomicU64,
    next_ms: AtomicU64,
}

// Loads and stores are relaxed: two shards that read the same values at once only share a turn.
impl BackgroundTurn {
    /// When the next slice may start.
    fn next_ms(&self, now_ms: u64) -> u64 {
        let next_ms = self.next_ms.load(Ordering::Relaxed);
        // A turn lies less than a second ahead, unless the clock was set back.
        if next_ms > now_ms + 1000 {
            now_ms
        } else {
            next_ms
        }
    }

    /// A slice took this long, of a share of `percent` of a core. When the next one may start: at once
    /// while the turn is not used up.
    fn took(&self, now_ms: u64, elapsed: Duration, percent: u32) -> u64 {
        let used_ns = self.used_ns.load(Ordering::Relaxed) + elapsed.as_nanos() as u64;
        if used_ns < TURN_NS {
            self.used_ns.store(used_ns, Ordering::Relaxed);
            return now_ms;
        }
        let whole_us = used_ns / 1000 * 100 / u64::from(percent.max(1));
        let next_ms = now_ms + whole_us.div_ceil(1000).clamp(1, 1000);
        self.used_ns.store(0, Ordering::Relaxed);
        self.next_ms.store(next_ms, Ordering::Relaxed);
        next_ms
    }
}

/// Works for at most `budget` and a slice, and returns when there is more to do, in milliseconds:
/// `now_ms` for at once, `None` if nothing is foreseen; and how long it took to give pages back.
pub(crate) fn run(
    shard: &mut Shard,
    now_ms: u64,
    budget: Duration,
    turn: &BackgroundTurn,
) -> (Option<u64>, Duration) {
    let stopwatch = Stopwatch::with_limit(budget.min(Duration::from_nanos(SLICE_NS_MAX)));
    let mut purging = Duration::ZERO;
    let mut due_ms = u64::MAX;
    // The share of a core for what is left to do.
    let mut unfinished = None;
    while shard.drain_step() {
        if stopwatch.is_over() {
            unfinished = Some(CLEARING_PERCENT);
            break;
        }
    }
    if stopwatch.is_over() {
        unfinished = Some(CLEARING_PERCENT);
    } else {
        match expiry::slice(shard, now_ms, &stopwatch) {
            ExpiryNext::GoOn => unfinished = Some(CLEARING_PERCENT),
            ExpiryNext::At(at_ms) => due_ms = at_ms.max(now_ms + EXPIRY_MS_MIN),
            ExpiryNext::Nothing => {}
        }
    }
    match compaction::background(shard, now_ms) {
        Background::Wait(at_ms) => due_ms = due_ms.min(at_ms),
        Background::Nothing => {}
        Background::Run if stopwatch.is_over() || turn.next_ms(now_ms) > now_ms => {
            due_ms = due_ms.min(turn.next_ms(now_ms).max(now_ms + 1));
        }
        Background::Run => {
            let percent = compaction::background_percent(shard);
            let end = compaction::slice(shard, Effort::Background, &stopwatch);
            // While nothing is written, free pages are of no use to anybody.
            let purged_bytes = if shard.is_quiet() {
                timed(shard, &mut purging, |shard| {
                    shard.purge_free(PURGE_BYTES_MAX)
                })
            } else {
                0
            };
            if end == SliceEnd::TimeOver || purged_bytes >= PURGE_BYTES_MAX {
                unfinished = Some(percent);
            }
        }
    }
    let next_purge_ms = timed(shard, &mut purging, |shard| {
        shard.purge_due(now_ms, PURGE_BYTES_MAX)
    });
    if let Some(purge_ms) = next_purge_ms {
        due_ms = due_ms.min(purge_ms.max(now_ms + 1));
    }
    if let Some(percent) = unfinished {
        due_ms = due_ms.min(turn.took(now_ms, stopwatch.elapsed(), percent));
    }
    shard.tell_resident();
    ((due_ms != u64::MAX).then_some(due_ms), purging)
}

/// Gives pages back by `purge`, and adds to `spent` how long it took, if there were any.
fn timed<R>(shard: &mut Shard, spent: &mut Duration, purge: impl FnOnce(&mut Shard) -> R) -> R {
    let (began, before) = (Stopwatch::unlimited(), shard.ledger().purged_bytes);
    let result = purge(shard);
    if shard.ledger().purged_bytes > before {
        *spent += began.elapsed();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_one_another_until_the_turn_is_used_up() {
        let turn = BackgroundTurn::default();
        let slice = Duration::from_micros(100);
        for _ in 0..4 {
            assert_eq!(turn.took(1000, slice, 25), 1000);
            assert!(turn.next_ms(1000) <= 1000);
        }
        // Half a millisecond of work buys two.
        assert_eq!(turn.took(1000, slice, 25), 1002);
        assert_eq!(turn.next_ms(1001), 1002);
        assert_eq!(turn.took(1002, slice, 25), 1002);
        // A long one is paid for in full.
        assert_eq!(turn.took(1002, Duration::from_millis(5), 10), 1002 + 51);
        assert_eq!(turn.took(2000, Duration::from_secs(60), 1), 3000);
        // The clock was set back.
        assert_eq!(turn.next_ms(10), 10);
    }
}
