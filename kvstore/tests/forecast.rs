//! What compaction is said to gain is what it gains, on heaps that are fragmented in five ways.

use kvstore::{Keyspace, KeyspaceOptions, NewExpiry, NewValue, PAGE_BYTES};

const NOW_MS: u64 = 1_790_000_000_000;

struct Heap {
    keyspace: Keyspace,
    random: u64,
}

impl Heap {
    fn new() -> Self {
        let keyspace = Keyspace::new(&KeyspaceOptions {
            shards: 2,
            seed: 5,
            ..KeyspaceOptions::default()
        });
        Heap {
            keyspace: keyspace.expect("address space"),
            random: 0x9E37_79B9_7F4A_7C15,
        }
    }

    /// A number below `end`, always the same sequence.
    fn below(&mut self, end: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % end
    }

    fn set(&self, n: u64, bytes: u64) {
        let name = format!("key:{n:08}");
        let key = self.keyspace.key(name.as_bytes());
        let mut locked = self.keyspace.lock(self.keyspace.shard_of(key.hash()));
        let value = vec![b'x'; bytes as usize];
        locked
            .db(0, NOW_MS)
            .set(&key, NewValue::Bytes(&value), NewExpiry::None)
            .expect("memory");
    }

    fn remove(&self, n: u64) {
        let name = format!("key:{n:08}");
        let key = self.keyspace.key(name.as_bytes());
        let mut locked = self.keyspace.lock(self.keyspace.shard_of(key.hash()));
        locked.db(0, NOW_MS).remove(&key);
    }

    /// Removes keys at random; of 100, `percent` go.
    fn thin(&mut self, keys: std::ops::Range<u64>, percent: u64) {
        for n in keys {
            if self.below(100) < percent {
                self.remove(n);
            }
        }
    }

    /// Pages of slabs with memory behind them.
    fn slab_pages(&self) -> u64 {
        let arenas = self.keyspace.lock_all().arenas();
        let bytes = arenas
            .iter()
            .map(|arena| arena.slab_bytes - arena.punched_bytes);
        (bytes.sum::<usize>() / PAGE_BYTES) as u64
    }

    /// Foretells, compacts, and compares: the gain is foretold within `within` percent.
    fn compare(&self, what: &str, within: f64) {
        let before = self.slab_pages();
        let forecast = self.keyspace.forecast();
        let total = forecast.total();
        assert_eq!(total.pages, before, "{what}");
        let done = self.keyspace.compact();
        let gained = before - self.slab_pages();
        let error = (total.freed_pages as f64 - gained as f64) * 100.0 / gained as f64;
        let moved = (total.moved_objects as f64 - done.moved_objects as f64) * 100.0
            / done.moved_objects as f64;
        println!(
            "{what}: {before} pages, {} foretold, {gained} gained: {error:+.2} %; objects {} foretold, {} moved: \
             {moved:+.2} %",
            total.freed_pages, total.moved_objects, done.moved_objects
        );
        assert!(error.abs() <= within, "{what}: {error:.2} % off");
        assert!(moved.abs() <= 25.0, "{what}: {moved:.2} % off");
        self.keyspace.lock_all().check();
    }
}

/// Random deletes among values of one size.
#[test]
fn one_size_nine_tenths_deleted() {
    let mut heap = Heap::new();
    (0..60_000).for_each(|n| heap.set(n, 200));
    heap.thin(0..60_000, 90);
    heap.compare("one size, 90 % deleted", 5.0);
}

/// Random deletes among values of all sizes: many classes, few slabs in each.
#[test]
fn many_sizes_nineteen_of_twenty_deleted() {
    let mut heap = Heap::new();
    for n in 0..30_000 {
        let bytes = heap.below(1600);
        heap.set(n, bytes);
    }
    heap.thin(0..30_000, 95);
    heap.compare("sizes up to 1600, 95 % deleted", 5.0);
}

/// A stripe of the keys is deleted, the others stay.
#[test]
fn a_range_of_keys_deleted() {
    let mut heap = Heap::new();
    (0..60_000).for_each(|n| heap.set(n, 120));
    heap.thin(20_000..40_000, 90);
    heap.compare("a third of the keys, 90 % of it deleted", 5.0);
}

/// Values that grow leave their old classes behind.
#[test]
fn values_that_grew() {
    let mut heap = Heap::new();
    (0..30_000).for_each(|n| heap.set(n, 64));
    for n in 0..30_000 {
        if heap.below(100) < 70 {
            let bytes = 100 + heap.below(400);
            heap.set(n, bytes);
        }
    }
    heap.thin(0..30_000, 30);
    heap.compare("values that grew", 5.0);
}

/// Large values that became small ones, and half of these deleted.
#[test]
fn values_that_shrank() {
    let mut heap = Heap::new();
    for n in 0..12_000 {
        let bytes = 100 + heap.below(1900);
        heap.set(n, bytes);
    }
    for n in 0..12_000 {
        if heap.below(100) < 80 {
            heap.set(n, 40 + n % 60);
        }
    }
    heap.thin(0..12_000, 50);
    heap.compare("values that shrank", 5.0);
}

#[test]
fn nothing_is_foretold_of_nothing() {
    let heap = Heap::new();
    let total = heap.keyspace.forecast().total();
    assert_eq!(
        (total.pages, total.freed_pages, total.moved_objects),
        (0, 0, 0)
    );
    heap.set(1, 10);
    assert!(heap.keyspace.forecast().total().freed_pages < 8);
}

/// Compaction of one size class leaves the others alone.
#[test]
fn one_class_is_compacted_alone() {
    let mut heap = Heap::new();
    for n in 0..40_000 {
        heap.set(n, if n % 2 == 0 { 100 } else { 500 });
    }
    heap.thin(0..40_000, 90);
    let free = |slot_bytes: u32, heap: &Heap| {
        let forecast = heap.keyspace.forecast();
        let class = forecast
            .classes
            .iter()
            .find(|class| class.slot_bytes >= slot_bytes && class.live > 1000);
        class.expect("the class is in use").freed_pages
    };
    let small = free(112, &heap);
    let done = heap.keyspace.compact_classes(&[116]);
    assert!(
        done.moved_objects > 1000 && done.freed_pages + 16 > small,
        "{done:?}"
    );
    assert!(free(112, &heap) < 16);
    // Dead pages were given back there, but nothing was moved.
    assert!(free(512, &heap) > 1000);
    let mut locked = heap.keyspace.lock_all();
    let all = locked.statistics().compaction;
    let (mut moved, mut freed, mut victims) = (0, 0, 0);
    for class in locked.compaction_by_class() {
        moved += class.moved_objects;
        freed += class.freed_pages;
        victims += class.victims;
    }
    assert_eq!(
        (moved, freed, victims),
        (all.moved_objects, all.freed_pages, all.victims)
    );
    drop(locked);
    // Too large for slabs: nothing to do.
    assert_eq!(heap.keyspace.compact_classes(&[1 << 20]).victims, 0);
}
