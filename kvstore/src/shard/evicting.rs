//! Sampling of keys that may be evicted, and their removal.

use crate::entry::Entry;
use crate::shard::{Shard, next_random};
use crate::table::Place;

/// A key that may be evicted; true until the shard changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    rank: u32,
    place: Place,
}

impl Candidate {
    /// How good a choice it is; the higher, the better.
    pub(crate) fn rank(&self) -> u32 {
        self.rank
    }
}

impl Shard {
    /// A number below `end`; 0 if there is none.
    pub(crate) fn random_below(&mut self, end: usize) -> usize {
        ((u128::from(next_random(&mut self.random)) * end as u128) >> 64) as usize
    }

    /// A database that has keys, or keys with an expiry, each with a chance in proportion to them.
    pub(crate) fn pick_database(&mut self, only_volatile: bool) -> Option<usize> {
        let counts = |shard: &Self| -> Vec<usize> {
            let count = |table: &crate::table::Table| {
                if only_volatile {
                    table.volatiles()
                } else {
                    table.len()
                }
            };
            shard.tables.iter().map(count).collect()
        };
        let counts = counts(self);
        let total: usize = counts.iter().sum();
        if total == 0 {
            return None;
        }
        let mut n = self.random_below(total);
        counts.iter().position(|count| {
            let here = n < *count;
            n = n.saturating_sub(*count);
            here
        })
    }

    /// Appends the keys of a random bucket.
    pub(crate) fn sample(
        &mut self,
        db: usize,
        now_ms: u64,
        only_volatile: bool,
        found: &mut Vec<Candidate>,
    ) {
        let (clock, prefix) = (self.clock(now_ms), next_random(&mut self.random));
        if let Some(table) = self.tables.get(db) {
            table.sample_bucket(
                &self.memory,
                prefix,
                &clock,
                only_volatile,
                |rank, place| {
                    found.push(Candidate { rank, place });
                },
            );
        }
    }

    /// Appends the keys of the first bucket that has any, from a random segment on.
    pub(crate) fn sample_in_order(
        &mut self,
        db: usize,
        now_ms: u64,
        only_volatile: bool,
        found: &mut Vec<Candidate>,
    ) {
        let clock = self.clock(now_ms);
        let start = next_random(&mut self.random);
        let Some(table) = self.tables.get(db) else {
            return;
        };
        // To the end, then from the beginning.
        for from in [start, 0] {
            let mut next = Some(from);
            while let Some(prefix) = next.filter(|_| found.is_empty()) {
                let Some(summary) = table.segment_at(&self.memory, prefix) else {
                    return;
                };
                if summary.volatiles > 0 || !only_volatile {
                    table.sample_segment(
                        &self.memory,
                        &self.placer,
                        prefix,
                        &clock,
                        only_volatile,
                        |rank, place| {
                            found.push(Candidate { rank, place });
                        },
                    );
                }
                next = summary.next;
            }
        }
    }

    /// When a candidate expires, in milliseconds.
    pub(crate) fn expiry_of(&self, candidate: &Candidate) -> u64 {
        // SAFETY: a place is that of a live entry.
        let entry = unsafe { Entry::read(&self.memory, candidate.place.entry) };
        entry.header().expiry_ms().unwrap_or(u64::MAX)
    }

    /// Removes a candidate; the bytes of its slot.
    pub(crate) fn evict(&mut self, db: usize, now_ms: u64, candidate: &Candidate) -> usize {
        // SAFETY: a place is that of a live entry.
        let entry = unsafe { Entry::read(&self.memory, candidate.place.entry) };
        let slot_bytes = self.memory.usable_bytes(entry.header().entry_bytes());
        if !self.watches.is_empty() {
            self.watches.signal(db, entry.key());
        }
        self.take_out(db, now_ms, &candidate.place);
        self.counters.evicted += 1;
        slot_bytes
    }
}
