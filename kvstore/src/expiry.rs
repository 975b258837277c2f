//! Active expiry: keys whose time has come go without being touched.
//!
//! There is no second dictionary of keys with an expiry. Each segment of a table knows how many of
//! its entries have one, and a bound below which none of them expires; buckets know which of their
//! slots they are. A walk passes over the segments of all tables: it skips those with nothing due by
//! their headers, and in the others reads only the entries that have an expiry, asked for ahead of
//! time. Afterwards the bounds are exact, and say when the next walk is worth while.

use crate::clock::Stopwatch;
use crate::shard::Shard;

/// Segments looked at between two looks at the clock.
const SEGMENTS_PER_LOOK: usize = 4;

/// How long a key that is due may linger, in milliseconds, at the least effort: a segment that holds
/// it is read once for all that have come due in it meanwhile.
const LINGER_MS: u64 = 200;

/// What a slice of active expiry has left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpiryNext {
    /// The walk is not at its end.
    GoOn,
    /// The next walk is worth while at this time, in milliseconds.
    At(u64),
    /// Nothing will expire.
    Nothing,
}

/// Removes keys whose time has come until the stopwatch is over or one walk over all tables is done.
pub(crate) fn slice(shard: &mut Shard, now_ms: u64, stopwatch: &Stopwatch) -> ExpiryNext {
    if !shard.settings().active_expiry || shard.settings().keep_expired {
        return ExpiryNext::Nothing;
    }
    let linger_ms = LINGER_MS / u64::from(shard.settings().active_expiry_effort.clamp(1, 10));
    let next = |shard: &Shard| match shard.earliest_expiry_ms() {
        u64::MAX => ExpiryNext::Nothing,
        earliest_ms => ExpiryNext::At(earliest_ms.saturating_add(linger_ms)),
    };
    if !shard.is_walking() {
        match next(shard) {
            ExpiryNext::At(at_ms) if at_ms <= now_ms => {}
            other => return other,
        }
    }
    let started = Stopwatch::unlimited();
    let mut looks = 0;
    let capped = loop {
        if !shard.expire_next_segment(now_ms) {
            break false;
        }
        looks += 1;
        if looks % SEGMENTS_PER_LOOK == 0 && stopwatch.is_over() {
            break true;
        }
    };
    shard.note_expiry_slice(started.elapsed(), capped);
    if capped {
        ExpiryNext::GoOn
    } else {
        next(shard)
    }
}
