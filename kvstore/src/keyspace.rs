//! The keyspace: all shards, and the ways to lock them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use slab_allocator::{ArenaOptions, ClassSet, Classes};

use crate::clock::Stopwatch;
use crate::compaction::{self, Effort, SliceEnd};
use crate::error::{DATABASES_MAX, KeyspaceError};
use crate::eviction;
use crate::forecast::{Forecast, ShardForecast};
use crate::gauges::{Gauges, NEVER_MS};
use crate::heap_map::{ChunkMap, MapCursor};
use crate::key::{Hasher, Key, KeyHash, Placer, Position, SHARDS_MAX, ScanCursor, ShardSet};
use crate::lock::Locks;
use crate::locked::Locked;
use crate::maintenance::{self, BackgroundTurn};
use crate::pacing::SLICE_NS_MAX;
use crate::settings::{MemoryMeasure, Settings};
use crate::shard::Shard;
use crate::statistics::CompactionLedger;

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

/// How many keys are looked for at once: enough to keep the memory busy, few enough to stay in the
/// first-level cache.
const PREFETCH_BATCH: usize = 32;

/// All keys of all databases. Shared by reference among threads; see [`Keyspace::lock`].
pub struct Keyspace {
    shards: Locks<Shard>,
    gauges: Box<[Arc<Gauges>]>,
    databases: usize,
    hasher: Hasher,
    settings: Mutex<Settings>,
    /// The limit again, where every write can look at it.
    max_memory_bytes: AtomicU64,
    /// The shard that the next eviction begins with.
    next_evicted: AtomicUsize,
    turn: BackgroundTurn,
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
    /// Whether a command that needs memory may run: the limit is kept, or is on the way to be, since
    /// keys could be evicted but not enough in the time of one call.
    pub within_limit: bool,
    /// Whether the limit is exceeded all the same: no key may be evicted, or not enough were in the
    /// time of one call.
    pub exceeded: bool,
    /// The longest time that the eviction of one key took.
    pub longest: Duration,
}

impl RoomMade {
    /// Nothing had to be done.
    const NOTHING: RoomMade = RoomMade {
        evicted: 0,
        within_limit: true,
        exceeded: false,
        longest: Duration::ZERO,
    };
}

/// For how long [`Keyspace::maintain`] worked at what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Active expiry.
    pub expiry: Duration,
    /// Of this, the longest removal of what was due in one segment of a table, some hundred keys.
    pub longest_removal: Duration,
    /// Compaction.
    pub compaction: Duration,
    /// Giving pages back.
    pub purging: Duration,
}

/// For how long one call of [`Keyspace::make_room`] evicts before it lets the command run.
const MAKE_ROOM_LIMIT: Duration = Duration::from_micros(500);

/// Keys evicted from one shard before the next one's turn.
const EVICTED_IN_A_ROW: usize = 8;

/// The latest that a caller of [`Keyspace::maintain`] is told to come back: if the system's clock is
/// set back, times in its future lose their meaning.
const DUE_MS_MAX: u64 = 10_000;

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
        let hasher = Hasher::new(options.seed);
        let placer = Placer::new(hasher, options.shards);
        let arena = ArenaOptions {
            region_bytes: options.region_bytes,
            classes: Classes::Fine,
            ..ArenaOptions::default()
        };
        let gauges: Box<[Arc<Gauges>]> = (0..options.shards)
            .map(|_| Arc::new(Gauges::new()))
            .collect();
        let shards: Option<Vec<Shard>> = gauges
            .iter()
            .zip(0u32..)
            .map(|(gauges, n)| {
                Shard::new(
                    &arena,
                    placer,
                    options.seed.rotate_left(n),
                    Arc::clone(gauges),
                )
            })
            .collect();
        Ok(Keyspace {
            shards: Locks::new(shards.ok_or(KeyspaceError::OutOfMemory)?),
            gauges,
            databases: options.databases,
            hasher,
            settings: Mutex::new(Settings::default()),
            max_memory_bytes: AtomicU64::new(0),
            next_evicted: AtomicUsize::new(0),
            turn: BackgroundTurn::default(),
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
        Locked::new(self.shards.lock(set), self.databases)
    }

    /// Waits for the locks of all shards.
    pub fn lock_all(&self) -> Locked<'_> {
        self.lock(self.all_shards())
    }

    /// Brings the places where `hashes` live in database `db` into the CPU's caches. Locks each
    /// shard concerned once, one after another. A hint: results do not depend on it.
    pub fn prefetch(&self, db: usize, hashes: &[KeyHash]) {
        for batch in hashes.chunks(PREFETCH_BATCH) {
            let mut set = ShardSet::EMPTY;
            let mut places = [Position {
                shard: 0,
                prefix: 0,
            }; PREFETCH_BATCH];
            for (place, hash) in places.iter_mut().zip(batch) {
                *place = Position::of(*hash, self.shards.len());
                set = set.union(ShardSet::one(place.shard));
            }
            let places = &places[..batch.len()];
            for index in set.iter() {
                let mut held = self.shards.lock(ShardSet::one(index));
                let mut view = held.view();
                let shard = view.get(index);
                for place in places.iter().filter(|place| place.shard == index) {
                    shard.prefetch_buckets(db, place.prefix);
                }
                for place in places.iter().filter(|place| place.shard == index) {
                    shard.prefetch_entries(db, place.prefix);
                }
            }
        }
    }

    /// Puts new settings in force, shard by shard. Locks.
    pub fn configure(&self, settings: &Settings) {
        *self.settings.lock() = *settings;
        // Relaxed: the limit is a figure of its own.
        self.max_memory_bytes
            .store(settings.max_memory_bytes, Ordering::Relaxed);
        for index in self.all_shards().iter() {
            self.with_shard(index, |shard| shard.configure(settings));
            // Whatever was switched on may have something to do.
            self.gauges[index].set_due_ms(0);
        }
    }

    /// The settings in force.
    pub fn settings(&self) -> Settings {
        *self.settings.lock()
    }

    fn with_shard<R>(&self, index: usize, act: impl FnOnce(&mut Shard) -> R) -> R {
        act(self.shards.lock(ShardSet::one(index)).view().get(index))
    }

    /// Bytes of entries and tables in use, to within a page for each shard. Takes no lock.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.gauges.iter().map(|gauges| gauges.used_bytes()).sum()
    }

    /// Bytes that the shards' arenas hold, as of their last growth or maintenance. Takes no lock.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.gauges
            .iter()
            .map(|gauges| gauges.resident_bytes())
            .sum()
    }

    /// Whether the shards' arenas hold at most half of what they held at some time since this last said so, and at least
    /// `bytes_min` bytes less. Takes no lock.
    #[must_use]
    pub fn has_shrunk(&self, bytes_min: u64) -> bool {
        let gauges = self.gauges.iter();
        let most: u64 = gauges.map(|gauges| gauges.resident_max_bytes()).sum();
        let now = self.resident_bytes();
        let has_shrunk = most >= (2 * now).max(now + bytes_min);
        if has_shrunk {
            self.gauges.iter().for_each(|one| one.forget_resident_max());
        }
        has_shrunk
    }

    fn measured_bytes(&self, measure: MemoryMeasure) -> u64 {
        match measure {
            MemoryMeasure::Used => self.used_bytes(),
            MemoryMeasure::Resident => self.resident_bytes(),
        }
    }

    /// Makes room for a command that may need memory: if the memory in use, `other_bytes` (what the
    /// process uses outside of the keyspace) included, is over the limit, free pages are given back
    /// and slabs compacted, where resident bytes are limited, and then keys are evicted. Works for
    /// about half a millisecond. Costs next to nothing while there is no limit. Locks.
    pub fn make_room(&self, now_ms: u64, other_bytes: u64) -> RoomMade {
        let limit = self.max_memory_bytes.load(Ordering::Relaxed);
        if limit == 0 {
            return RoomMade::NOTHING;
        }
        let measure = self.settings.lock().memory_measure;
        let over_bytes = || (self.measured_bytes(measure) + other_bytes).saturating_sub(limit);
        let stopwatch = Stopwatch::with_limit(MAKE_ROOM_LIMIT);
        if measure == MemoryMeasure::Resident && self.give_back(&stopwatch, || over_bytes() > 0) {
            return RoomMade {
                exceeded: over_bytes() > 0,
                ..RoomMade::NOTHING
            };
        }
        // Evicting lowers the bytes in use at once, but resident ones only as slabs come free: so no
        // more is evicted than is missing now, and the next call compacts.
        let missing_bytes = over_bytes();
        let (mut evicted, mut evicted_bytes, mut fruitless) = (0, 0, 0);
        let mut longest = Duration::ZERO;
        while evicted_bytes < missing_bytes && over_bytes() > 0 {
            if fruitless >= self.shards() {
                return RoomMade {
                    evicted,
                    within_limit: false,
                    exceeded: true,
                    longest,
                };
            }
            let before = evicted;
            self.with_shard(self.next_shard(), |shard| {
                let mut began = stopwatch.elapsed();
                for _ in 0..EVICTED_IN_A_ROW {
                    if evicted_bytes >= missing_bytes {
                        break;
                    }
                    let Some(bytes) = eviction::evict_one(shard, now_ms) else {
                        break;
                    };
                    let ended = stopwatch.elapsed();
                    longest = longest.max(ended - began);
                    began = ended;
                    evicted += 1;
                    evicted_bytes += bytes as u64;
                }
                shard.tell_used();
            });
            fruitless = if evicted == before { fruitless + 1 } else { 0 };
            if evicted > 0 && stopwatch.is_over() {
                break;
            }
        }
        RoomMade {
            evicted,
            within_limit: true,
            exceeded: over_bytes() > 0,
            longest,
        }
    }

    /// The shard whose turn it is.
    fn next_shard(&self) -> usize {
        self.next_evicted.fetch_add(1, Ordering::Relaxed) % self.shards()
    }

    /// Gives free pages back, and makes more by compaction, while that helps; whether it does, or has
    /// done so far that `is_over` does not hold any more.
    fn give_back(&self, stopwatch: &Stopwatch, is_over: impl Fn() -> bool) -> bool {
        for _ in 0..self.shards() {
            if !is_over() {
                return true;
            }
            let gained = self.with_shard(self.next_shard(), |shard| {
                let freed_pages = shard.ledger().freed_pages;
                let end = compaction::slice(shard, Effort::Full, stopwatch);
                let purged = shard.purge_free(usize::MAX);
                shard.tell_resident();
                end == SliceEnd::TimeOver && shard.ledger().freed_pages > freed_pages || purged > 0
            });
            if gained && stopwatch.is_over() {
                return true;
            }
        }
        !is_over()
    }

    /// The work that a shard needs from time to time, for at most `budget` and a tenth of a millisecond:
    /// expiry, freeing of what was cleared, compaction, giving pages back. Returns when to call
    /// again. Any thread may call it for any shard, as often as it likes: while nothing is due it
    /// costs one load and takes no lock, and a busy shard is left alone. Locks.
    pub fn maintain(&self, shard: usize, now_ms: u64, budget: Duration) -> NextDue {
        self.maintain_timed(shard, now_ms, budget).0
    }

    /// The same; also says how long it worked at what.
    pub fn maintain_timed(
        &self,
        shard: usize,
        now_ms: u64,
        budget: Duration,
    ) -> (NextDue, Maintained) {
        let gauges = &self.gauges[shard];
        let due_ms = gauges.due_ms();
        if due_ms == NEVER_MS {
            return (NextDue::Idle, Maintained::default());
        }
        if due_ms > now_ms && due_ms - now_ms <= DUE_MS_MAX {
            let after = Duration::from_millis(due_ms - now_ms);
            return (NextDue::After(after), Maintained::default());
        }
        let Some(mut held) = self.shards.try_lock(shard) else {
            let soon = NextDue::After(Duration::from_millis(1));
            return (soon, Maintained::default());
        };
        let mut view = held.view();
        let shard = view.get(shard);
        let before = (shard.expiry_time_ns(), shard.ledger().time_ns);
        let (next_ms, purging) = maintenance::run(shard, now_ms, budget, &self.turn);
        let maintained = Maintained {
            expiry: Duration::from_nanos(shard.expiry_time_ns() - before.0),
            longest_removal: shard.take_longest_removal(),
            compaction: Duration::from_nanos(shard.ledger().time_ns - before.1),
            purging,
        };
        let due = match next_ms {
            None => {
                gauges.set_due_ms(NEVER_MS);
                NextDue::Idle
            }
            Some(at_ms) => {
                let at_ms = at_ms.clamp(now_ms, now_ms + DUE_MS_MAX);
                gauges.set_due_ms(at_ms);
                NextDue::After(Duration::from_millis(at_ms - now_ms))
            }
        };
        (due, maintained)
    }

    /// Compacts all shards as far as it goes, one after another, in slices of a tenth of a
    /// millisecond between which others may use the shard, gives all free and dead pages back, and
    /// returns what was done (MEMORY COMPACT). Locks.
    pub fn compact(&self) -> CompactionLedger {
        self.compact_with(|_| Effort::Full)
    }

    /// The same for some size classes alone, each named by a size that belongs to it, in bytes: their
    /// sparse slabs are emptied, and what is left in the last one of each stays there; free pages go back,
    /// dead ones inside slabs stay. Sizes too large for slabs name nothing.
    pub fn compact_classes(&self, sizes: &[usize]) -> CompactionLedger {
        self.compact_with(|shard| {
            let mut classes = ClassSet::default();
            for size in sizes {
                if let Some(class) = shard.memory().arena().class_of(*size) {
                    classes.insert(class);
                }
            }
            Effort::Only(classes)
        })
    }

    /// What [`Keyspace::compact`] would gain and cost. Locks one shard after the other, for as long as
    /// [`Keyspace::map_chunk`] does, again and again.
    pub fn forecast(&self) -> Forecast {
        let mut forecast = Forecast::default();
        let mut chunk = ChunkMap::default();
        let mut shard = ShardForecast::default();
        let (mut from, mut of_shard) = (MapCursor::START, 0);
        while let Some(next) = self.map_chunk(from, &mut chunk) {
            if chunk.at.shard != of_shard {
                of_shard = chunk.at.shard;
                let done = std::mem::take(&mut shard).finish();
                done.for_each(|class| forecast.add(&class));
            }
            shard.count(&chunk);
            from = next;
        }
        shard.finish().for_each(|class| forecast.add(&class));
        forecast
    }

    fn compact_with(&self, effort_in: impl Fn(&Shard) -> Effort) -> CompactionLedger {
        let mut sum = CompactionLedger::default();
        for index in self.all_shards().iter() {
            let mut end = SliceEnd::TimeOver;
            while end == SliceEnd::TimeOver {
                let done = self.with_shard(index, |shard| {
                    let before = *shard.ledger();
                    let effort = effort_in(shard);
                    let stopwatch = Stopwatch::with_limit(Duration::from_nanos(SLICE_NS_MAX));
                    end = compaction::slice(shard, effort, &stopwatch);
                    // A slab still to be emptied comes free as a whole: its dead pages wait for that.
                    if end == SliceEnd::NoVictim && effort == Effort::Full {
                        shard.purge();
                    } else {
                        shard.purge_free(usize::MAX);
                    }
                    shard.tell_resident();
                    shard.ledger().since(&before)
                });
                sum += done;
            }
        }
        sum
    }

    /// Takes the map of the first chunk at or after `from`, going through the shards one after the
    /// other, and returns where to go on; `None`, with nothing taken, behind the last chunk. Holds one
    /// shard's lock for as long as one chunk takes: some microseconds, and at most some tens. Locks.
    pub fn map_chunk(&self, from: MapCursor, map: &mut ChunkMap) -> Option<MapCursor> {
        let mut at = from;
        while at.shard < self.shards() {
            if self.with_shard(at.shard, |shard| map.take(shard, at)) {
                let MapCursor { shard, chunk } = map.at;
                return Some(MapCursor {
                    shard,
                    chunk: chunk + 1,
                });
            }
            at = MapCursor {
                shard: at.shard + 1,
                chunk: 0,
            };
        }
        None
    }

    /// How many chunks have pages in use or resident. Locks one shard after the other.
    pub fn open_chunks(&self) -> usize {
        let open = |index| self.with_shard(index, |shard| shard.memory().stats().open_chunks);
        self.all_shards().iter().map(open).sum::<u32>() as usize
    }

    /// Gives all free pages back to the operating system (MEMORY PURGE) and returns their bytes.
    /// Locks.
    pub fn purge(&self) -> u64 {
        let purge = |index| {
            self.with_shard(index, |shard| {
                let bytes = shard.purge() as u64;
                shard.tell_resident();
                bytes
            })
        };
        self.all_shards().iter().map(purge).sum()
    }
}
