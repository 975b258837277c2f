//! The map of the heap agrees with what the keyspace says of itself, and can be taken while others write.

use std::sync::atomic::{AtomicBool, Ordering};

use kvstore::{
    CHUNK_PAGES, ChunkMap, ExtentKind, Keyspace, KeyspaceOptions, MapCursor, NewExpiry, NewValue,
    PAGE_BYTES,
};

const NOW_MS: u64 = 1_790_000_000_000;

fn keyspace() -> Keyspace {
    Keyspace::new(&KeyspaceOptions {
        shards: 2,
        seed: 5,
        ..KeyspaceOptions::default()
    })
    .expect("address space")
}

fn set(keyspace: &Keyspace, n: u64, bytes: usize) {
    let name = n.to_string();
    let key = keyspace.key(name.as_bytes());
    let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
    let value = vec![n as u8; bytes];
    locked
        .db(0, NOW_MS)
        .set(&key, NewValue::Bytes(&value), NewExpiry::None)
        .expect("memory");
}

fn remove(keyspace: &Keyspace, n: u64) {
    let name = n.to_string();
    let key = keyspace.key(name.as_bytes());
    let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
    locked.db(0, NOW_MS).remove(&key);
}

/// All chunks, one after the other.
fn walk(keyspace: &Keyspace, mut visit: impl FnMut(&ChunkMap)) {
    let (mut from, mut chunk) = (MapCursor::START, ChunkMap::default());
    while let Some(next) = keyspace.map_chunk(from, &mut chunk) {
        assert!(from <= chunk.at && chunk.at < next);
        assert_eq!(MapCursor::from_number(next.get()), next);
        visit(&chunk);
        from = next;
    }
}

/// What holds of a chunk whatever happens around it.
fn check_chunk(chunk: &ChunkMap) {
    let stats = &chunk.stats;
    let mut page = 0;
    let (mut live_bytes, mut slabs) = (0, 0);
    for extent in &chunk.extents {
        assert_eq!(chunk.page_of(extent), page, "a gap or an overlap");
        page += extent.pages as usize;
        if let ExtentKind::Slab {
            slot_bytes,
            slots,
            live,
            ..
        } = extent.kind
        {
            assert!(live <= slots && slots * slot_bytes <= extent.pages * PAGE_BYTES as u32);
            live_bytes += (live * slot_bytes) as usize;
            slabs += 1;
        }
    }
    assert_eq!(page, CHUNK_PAGES as usize);
    assert_eq!((live_bytes, slabs), (stats.live_bytes, stats.slabs));
    let used = stats.slab_pages + stats.punched_pages + stats.large_pages;
    let free = stats.dirty_pages + stats.purged_pages;
    assert_eq!(used + free, CHUNK_PAGES);
    let blocks = stats.free_blocks.iter().enumerate();
    let in_blocks: u32 = blocks.map(|(order, n)| u32::from(*n) << order).sum();
    assert_eq!(in_blocks, free);
    let by_class = chunk.classes();
    assert_eq!(by_class.iter().map(|class| class.slabs).sum::<u32>(), slabs);
    assert!(by_class.is_sorted_by(|a, b| a.slot_bytes < b.slot_bytes));
}

/// The chunks add up to the arenas' statistics.
fn agrees(keyspace: &Keyspace) {
    let (mut resident_pages, mut live_bytes, mut chunks) = (0, 0, 0);
    walk(keyspace, |chunk| {
        check_chunk(chunk);
        let stats = &chunk.stats;
        resident_pages += stats.slab_pages + stats.large_pages + stats.dirty_pages;
        live_bytes += stats.live_bytes;
        chunks += 1;
    });
    assert_eq!(chunks, keyspace.open_chunks());
    let arenas = keyspace.lock_all().arenas();
    let sum = |figure: fn(&kvstore::ArenaStats) -> usize| arenas.iter().map(figure).sum::<usize>();
    let resident_bytes = sum(|arena| arena.resident_bytes - arena.metadata_bytes);
    assert_eq!(resident_pages as usize * PAGE_BYTES, resident_bytes);
    assert_eq!(live_bytes, sum(|arena| arena.live_bytes));
}

#[test]
fn the_map_agrees_with_the_statistics() {
    let keyspace = keyspace();
    agrees(&keyspace);
    assert_eq!(keyspace.open_chunks(), 0);
    // One class, then many, large objects among them.
    (0..20_000).for_each(|n| set(&keyspace, n, 100));
    agrees(&keyspace);
    (20_000..24_000).for_each(|n| set(&keyspace, n, (n * 37 % 3000) as usize));
    set(&keyspace, 90_000, 3 << 20);
    agrees(&keyspace);
    let mut large = 0;
    walk(&keyspace, |chunk| large += chunk.stats.large_pages);
    assert_eq!(large, 769);
    for n in (0..24_000).filter(|n| n % 10 != 3) {
        remove(&keyspace, n);
    }
    agrees(&keyspace);
    keyspace.compact();
    agrees(&keyspace);
    keyspace.lock_all().clear_all();
    keyspace.purge();
    agrees(&keyspace);
}

#[test]
fn a_cursor_past_the_end_finds_nothing() {
    let keyspace = keyspace();
    set(&keyspace, 1, 10);
    let mut chunk = ChunkMap::default();
    for number in [1 << 31, 2 << 32, u64::MAX] {
        let at = MapCursor::from_number(number);
        let found = keyspace.map_chunk(at, &mut chunk);
        // The number of a chunk that shard 0 has not leads on to shard 1.
        assert!(found.is_none_or(|next| next.shard == 1), "{number}");
    }
}

/// Says that it is time to stop when it is dropped, also by a test that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_map_is_whole_while_others_write() {
    let keyspace = keyspace();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (keyspace, stop) = (&keyspace, &stop);
            scope.spawn(move || {
                let mut n: u64 = writer;
                while !stop.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let key = n >> 33 & 0xfff;
                    match n >> 60 {
                        0..6 => remove(keyspace, key),
                        6 => drop(keyspace.compact()),
                        _ => set(keyspace, key, (n >> 20 & 0xfff) as usize),
                    }
                }
            });
        }
        let _stop = Stop(&stop);
        for _ in 0..100 {
            walk(&keyspace, check_chunk);
        }
    });
    agrees(&keyspace);
}
