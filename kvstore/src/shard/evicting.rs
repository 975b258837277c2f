//! Sampling of keys that may be evicted, and their removal.

use crate::entry::Entry;
use crate::memory::Ref;
use crate::settings::EvictionPolicy;
use crate::shard::{Shard, next_random};
use crate::table::{AccessClock, Place, Table};

/// How many candidates are remembered.
const POOL: usize = 16;

/// How many candidates of one sample may enter the pool.
const POOLED_OF_SAMPLE: usize = 3;

/// A key that may be evicted. What has become of it since it was sampled is looked at when its turn
/// comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// How good a choice it is; the higher, the better.
    rank: u64,
    db: usize,
    prefix: u64,
    entry: Ref,
}

impl Shard {
    fn random_below(&mut self, end: usize) -> usize {
        ((u128::from(next_random(&mut self.random)) * end as u128) >> 64) as usize
    }

    /// A database that has keys that may be evicted, each with a chance in proportion to them.
    fn pick_database(&mut self) -> Option<usize> {
        let only_volatile = self.settings.eviction_policy.only_volatile();
        let count = |table: &Table| {
            if only_volatile {
                table.volatiles()
            } else {
                table.len()
            }
        };
        let total: usize = self.tables.iter().map(count).sum();
        if total == 0 {
            return None;
        }
        let mut n = self.random_below(total);
        self.tables.iter().position(|table| {
            let (here, count) = (n < count(table), count(table));
            n = n.saturating_sub(count);
            here
        })
    }

    /// Looks at the keys of a random bucket and remembers the best; how many may be evicted. `None`
    /// if no key of the shard may.
    pub(crate) fn sample(&mut self, now_ms: u64) -> Option<usize> {
        let db = self.pick_database()?;
        let (clock, prefix) = (self.clock(now_ms), next_random(&mut self.random));
        let only_volatile = self.settings.eviction_policy.only_volatile();
        let mut found = Vec::new();
        self.tables[db].sample_bucket(
            &self.memory,
            prefix,
            &clock,
            only_volatile,
            |rank, place| {
                found.push((u64::from(rank), place));
            },
        );
        Some(self.remember(db, &mut found))
    }

    /// The same for the first segment that has any such keys, from a random one on.
    pub(crate) fn sample_in_order(&mut self, now_ms: u64) -> Option<usize> {
        let db = self.pick_database()?;
        let (clock, start) = (self.clock(now_ms), next_random(&mut self.random));
        let only_volatile = self.settings.eviction_policy.only_volatile();
        let mut found = Vec::new();
        // To the end, then from the beginning.
        for from in [start, 0] {
            let mut next = Some(from);
            while let Some(prefix) = next.filter(|_| found.is_empty()) {
                let table = &self.tables[db];
                let summary = table.segment_at(&self.memory, prefix)?;
                if summary.volatiles > 0 || !only_volatile {
                    table.sample_segment(
                        &self.memory,
                        &self.placer,
                        prefix,
                        &clock,
                        only_volatile,
                        |rank, place| found.push((u64::from(rank), place)),
                    );
                }
                next = summary.next;
            }
        }
        Some(self.remember(db, &mut found))
    }

    /// Puts the best of a sample into the pool; how many there were.
    fn remember(&mut self, db: usize, found: &mut [(u64, Place)]) -> usize {
        for (rank, place) in &mut *found {
            *rank = self.rank_by_policy(*rank, place.entry);
        }
        found.sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        for (rank, place) in found.iter().take(POOLED_OF_SAMPLE) {
            // The pool is in ascending order.
            if self.pool.len() == POOL && self.pool[0].rank >= *rank {
                break;
            }
            if self
                .pool
                .iter()
                .any(|other| other.entry == place.entry && other.db == db)
            {
                continue;
            }
            // SAFETY: a place is that of a live entry.
            let prefix = self
                .placer
                .prefix(unsafe { Entry::read(&self.memory, place.entry) }.key());
            let at = self.pool.partition_point(|other| other.rank < *rank);
            self.pool.insert(
                at,
                Candidate {
                    rank: *rank,
                    db,
                    prefix,
                    entry: place.entry,
                },
            );
            if self.pool.len() > POOL {
                self.pool.remove(0);
            }
        }
        found.len()
    }

    /// The rank of an entry under the policy in force; `rank` is what its access byte says.
    fn rank_by_policy(&mut self, rank: u64, entry: Ref) -> u64 {
        match self.settings.eviction_policy {
            EvictionPolicy::AllKeysRandom | EvictionPolicy::VolatileRandom => {
                next_random(&mut self.random)
            }
            EvictionPolicy::VolatileTtl => {
                // SAFETY: the caller has the entry from a table.
                let header = unsafe { crate::entry::header(&self.memory, entry) };
                u64::MAX - header.expiry_ms().unwrap_or(u64::MAX)
            }
            _ => rank,
        }
    }

    /// Evicts the best candidate that still is one; the bytes of its slot.
    pub(crate) fn evict_best(&mut self, now_ms: u64) -> Option<usize> {
        let clock = self.clock(now_ms);
        while let Some(candidate) = self.pool.pop() {
            if let Some(place) = self.still_there(&candidate, &clock) {
                return Some(self.evict(candidate.db, now_ms, &place));
            }
        }
        None
    }

    /// Where a candidate is, if it is still there, may still be evicted, and was not used since.
    fn still_there(&self, candidate: &Candidate, clock: &AccessClock) -> Option<Place> {
        let table = self.tables.get(candidate.db)?;
        let place = table.find_reference(&self.memory, candidate.prefix, candidate.entry)?;
        let policy = self.settings.eviction_policy;
        // SAFETY: the table refers to the entry, so it is live.
        let header = unsafe { crate::entry::header(&self.memory, candidate.entry) };
        if policy.only_volatile() && header.expiry_ms().is_none() {
            return None;
        }
        if !policy.ranks_by_use() {
            return Some(place);
        }
        // Bytes in another coding say nothing, here as in the sample.
        let known = table.access(&self.memory, &place, clock.coding);
        let rank = known.map_or(0, |(byte, base_s)| {
            clock.coding.rank(byte, base_s, clock.now_s)
        });
        (u64::from(rank) >= candidate.rank).then_some(place)
    }

    /// Removes an entry to make room; the bytes of its slot.
    fn evict(&mut self, db: usize, now_ms: u64, place: &Place) -> usize {
        // SAFETY: a place is that of a live entry.
        let entry = unsafe { Entry::read(&self.memory, place.entry) };
        let slot_bytes = self.memory.usable_bytes(entry.header().entry_bytes());
        if !self.watches.is_empty() {
            self.watches.signal(db, entry.key());
        }
        self.take_out(db, now_ms, place);
        self.counters.evicted += 1;
        slot_bytes
    }
}
