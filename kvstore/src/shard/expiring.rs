//! The walk of active expiry over a shard's tables.

use std::time::Duration;

use crate::clock::Stopwatch;
use crate::entry::Entry;
use crate::memory::Ref;
use crate::shard::{At, Shard};
use crate::statistics::ExpiryLedger;

/// How much of the running estimate of stale keys a new slice makes up, one part in so many, as in
/// Redis.
const ESTIMATE_PARTS: f64 = 20.0;

/// What active expiry did, and what it saw on the way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expiring {
    time_ns: u64,
    capped_slices: u64,
    /// The longest removal of what was due in one segment, since it was last asked for.
    longest_removal: Duration,
    /// Share of stale keys among the keys with an expiry, from 0 to 1.
    stale_share: f64,
    /// Keys with an expiry looked at in this slice.
    looked_at: u64,
    /// Of these, keys whose time had come.
    stale: u64,
}

/// Entries asked for ahead of the one being read.
const READ_AHEAD: usize = 12;

impl Shard {
    /// No key of the shard expires before this. Not to be asked in the middle of a walk.
    pub(crate) fn earliest_expiry_ms(&self) -> u64 {
        self.tables
            .iter()
            .map(|table| table.earliest_expiry_ms())
            .min()
            .unwrap_or(u64::MAX)
    }

    /// Whether a walk has begun and not come to its end.
    pub(crate) fn is_walking(&self) -> bool {
        self.walk_db.is_some()
    }

    /// What active expiry did.
    pub(super) fn expiry_ledger(&self) -> ExpiryLedger {
        let expiring = &self.expiring;
        let volatiles: usize = self.tables.iter().map(|table| table.volatiles()).sum();
        ExpiryLedger {
            time_ns: expiring.time_ns,
            capped_slices: expiring.capped_slices,
            stale_keys: (expiring.stale_share * volatiles as f64).round() as u64,
        }
    }

    /// Notes the end of a slice of active expiry that took so long, and whether its time was over
    /// before its work.
    pub(crate) fn note_expiry_slice(&mut self, elapsed: Duration, capped: bool) {
        let expiring = &mut self.expiring;
        expiring.time_ns += elapsed.as_nanos() as u64;
        expiring.capped_slices += u64::from(capped);
        let share = match expiring.looked_at {
            0 => 0.0,
            looked_at => expiring.stale as f64 / looked_at as f64,
        };
        expiring.stale_share += (share - expiring.stale_share) / ESTIMATE_PARTS;
        (expiring.looked_at, expiring.stale) = (0, 0);
    }

    /// Time spent on active expiry so far, in nanoseconds.
    pub(crate) fn expiry_time_ns(&self) -> u64 {
        self.expiring.time_ns
    }

    /// How long the longest removal of what was due in one segment took since this was last asked.
    pub(crate) fn take_longest_removal(&mut self) -> Duration {
        std::mem::take(&mut self.expiring.longest_removal)
    }

    /// Removes the keys whose time has come from the next segment of the walk; false when the walk
    /// has come to its end. Begins one if there is none.
    pub(crate) fn expire_next_segment(&mut self, now_ms: u64) -> bool {
        let db = self.walk_db.unwrap_or(0);
        if db >= self.tables.len() {
            self.walk_db = None;
            return false;
        }
        self.walk_db = Some(db);
        match self.tables[db].walk(&self.memory) {
            None => self.walk_db = Some(db + 1),
            Some(summary) => {
                let mut earliest_ms = summary.earliest_expiry_ms;
                if summary.volatiles == 0 {
                    earliest_ms = u64::MAX;
                } else if earliest_ms < now_ms {
                    let began = Stopwatch::unlimited();
                    earliest_ms = self.expire_segment(db, summary.prefix, now_ms);
                    let longest = &mut self.expiring.longest_removal;
                    *longest = began.elapsed().max(*longest);
                }
                self.tables[db].walked(&mut self.memory, &summary, earliest_ms);
            }
        }
        true
    }

    /// Removes the keys whose time has come from one segment; the earliest expiry of the others.
    fn expire_segment(&mut self, db: usize, prefix: u64, now_ms: u64) -> u64 {
        let mut entries = std::mem::take(&mut self.scratch);
        entries.clear();
        self.tables[db].volatiles_of_segment(&self.memory, prefix, &mut entries);
        let mut earliest_ms = u64::MAX;
        self.expiring.looked_at += entries.len() as u64;
        for (n, reference) in entries.iter().enumerate() {
            if let Some(ahead) = entries.get(n + READ_AHEAD) {
                self.memory.prefetch(*ahead);
            }
            // SAFETY: the references in a table are live entries of its memory, and the loop frees
            // none but its own.
            let entry = unsafe { Entry::read(&self.memory, *reference) };
            match entry.header().expiry_ms() {
                Some(at_ms) if at_ms < now_ms => {
                    self.expiring.stale += 1;
                    self.expire_entry(db, *reference, now_ms);
                }
                Some(at_ms) => earliest_ms = earliest_ms.min(at_ms),
                None => {}
            }
        }
        self.scratch = entries;
        earliest_ms
    }

    /// Removes an entry whose time has come.
    fn expire_entry(&mut self, db: usize, reference: Ref, now_ms: u64) {
        // SAFETY: the caller has it from a table.
        let key = unsafe { Entry::read(&self.memory, reference) }.key();
        let prefix = self.placer.prefix(key);
        let Some(place) = self.tables[db].find_reference(&self.memory, prefix, reference) else {
            return;
        };
        if self.watches.is_empty() {
            self.take_out(db, now_ms, &place);
            self.counters.expired += 1;
        } else {
            let key: Box<[u8]> = key.into();
            self.expire(
                &At {
                    db,
                    prefix,
                    key: &key,
                    now_ms,
                },
                &place,
            );
        }
    }
}
