//! The guard of a set of shards: databases to work on, and what concerns several shards at once.

use slab_allocator::{ArenaStats, ClassStats, Prediction};

use crate::compaction;
use crate::db::Db;
use crate::key::ShardSet;
use crate::lock::Held;
use crate::shard::Shard;
use crate::statistics::{ClassLedger, Statistics};

/// The locks of a set of shards, held until dropped.
pub struct Locked<'a> {
    held: Held<'a, Shard>,
    databases: usize,
}

impl<'a> Locked<'a> {
    pub(crate) fn new(held: Held<'a, Shard>, databases: usize) -> Self {
        Locked { held, databases }
    }
}

impl Locked<'_> {
    /// The shards that are locked.
    #[must_use]
    pub fn shards(&self) -> ShardSet {
        self.held.set()
    }

    /// How long other threads that held one of the locks were waited for.
    #[must_use]
    #[inline]
    pub fn waited(&self) -> std::time::Duration {
        self.held.waited()
    }

    /// Database `index` at the instant `now_ms` (milliseconds of Unix time).
    ///
    /// # Panics
    /// If there is no database `index`.
    #[inline]
    pub fn db(&mut self, index: usize, now_ms: u64) -> Db<'_> {
        assert!(
            index < self.databases,
            "database {index}; there are {}",
            self.databases
        );
        Db {
            shards: self.held.view(),
            index,
            databases: self.databases,
            now_ms,
        }
    }

    /// Removes all keys of all databases from the locked shards (FLUSHALL, with all locked).
    pub fn clear_all(&mut self) {
        for db in 0..self.databases {
            self.db(db, 0).clear();
        }
    }

    /// The same; the keys are gone at once, and their memory is given back by and by (FLUSHALL
    /// ASYNC).
    pub fn clear_all_in_background(&mut self) {
        for db in 0..self.databases {
            self.db(db, 0).clear_in_background();
        }
    }

    /// Swaps two databases in the locked shards (SWAPDB, with all locked) at the instant `now_ms`.
    ///
    /// # Panics
    /// If one of them does not exist.
    pub fn swap_databases(&mut self, first: usize, second: usize, now_ms: u64) {
        assert!(
            first.max(second) < self.databases,
            "databases {first} and {second}; there are {}",
            self.databases
        );
        let mut view = self.held.view();
        for shard in view.set().iter() {
            view.get(shard).swap(first, second, now_ms);
        }
    }

    /// Figures of the locked shards.
    pub fn statistics(&mut self) -> Statistics {
        let mut sum = Statistics::default();
        let mut view = self.held.view();
        for shard in view.set().iter() {
            sum += view.get(shard).statistics();
        }
        sum
    }

    /// What compacting the locked shards would bring and cost. Takes time in proportion to the slabs
    /// that would be released.
    pub fn predict_compaction(&mut self) -> Prediction {
        let mut sum = Prediction::default();
        let mut view = self.held.view();
        for shard in view.set().iter() {
            sum.add(&compaction::predict(view.get(shard)));
        }
        sum
    }

    /// The arena of each locked shard, in ascending order of shards.
    pub fn arenas(&mut self) -> Vec<ArenaStats> {
        let mut view = self.held.view();
        view.set()
            .iter()
            .map(|shard| view.get(shard).memory().stats())
            .collect()
    }

    /// The size classes in use, summed over the locked shards, by ascending size.
    pub fn size_classes(&mut self) -> Vec<ClassStats> {
        let mut sums: Vec<ClassStats> = Vec::new();
        let mut view = self.held.view();
        for shard in view.set().iter() {
            for class in view.get(shard).memory().arena().class_stats() {
                match sums.binary_search_by_key(&class.slot_bytes, |sum| sum.slot_bytes) {
                    Err(at) => sums.insert(at, class),
                    Ok(at) => {
                        let sum = &mut sums[at];
                        sum.slabs += class.slabs;
                        sum.live += class.live;
                        sum.free += class.free;
                        for (sum, slabs) in sum.by_occupancy.iter_mut().zip(class.by_occupancy) {
                            *sum += slabs;
                        }
                    }
                }
            }
        }
        sums
    }

    /// Where the slabs lie from which the locked shards hand slots out, as first address and bytes. Of
    /// their pages, which count as resident, some may not have been touched yet.
    pub fn allocating_slabs(&mut self) -> Vec<(usize, usize)> {
        let mut slabs = Vec::new();
        let mut view = self.held.view();
        for shard in view.set().iter() {
            let arena = view.get(shard).memory().arena();
            arena.allocating_slabs(|start, bytes| slabs.push((start.as_ptr().addr(), bytes)));
        }
        slabs
    }

    /// What compaction did in the locked shards, by ascending size of the class.
    pub fn compaction_by_class(&mut self) -> Vec<ClassLedger> {
        let mut sums: Vec<ClassLedger> = Vec::new();
        let mut view = self.held.view();
        for shard in view.set().iter() {
            for class in view.get(shard).class_ledgers() {
                match sums.binary_search_by_key(&class.slot_bytes, |sum| sum.slot_bytes) {
                    Err(at) => sums.insert(at, *class),
                    Ok(at) => sums[at] += *class,
                }
            }
        }
        sums
    }

    /// Sets the [`Counters`](crate::statistics::Counters) and the ledger of the locked shards to 0
    /// (CONFIG RESETSTAT).
    pub fn reset_statistics(&mut self) {
        let mut view = self.held.view();
        for shard in view.set().iter() {
            view.get(shard).reset_statistics();
        }
    }

    /// Checks everything in the locked shards: tables, segments, entries, sums. Takes time in
    /// proportion to their size; for tests and fuzzers.
    ///
    /// # Panics
    /// If anything is wrong.
    pub fn check(&mut self) {
        let mut view = self.held.view();
        for shard in view.set().iter() {
            view.get(shard).check();
        }
    }
}
