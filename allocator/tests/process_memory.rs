//! Memory goes back to the system: what the process holds after its objects are
//! freed. One test alone, since it reads the whole process's memory.

#![cfg(not(loom))]

use slab_allocator::{HeapStats, SlabAlloc};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: SlabAlloc = SlabAlloc::new();

const MEGABYTE: usize = 1 << 20;

/// From `smaps_rollup`, which counts pages: `statm` adds up counters that each processor
/// has of its own.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line
        .and_then(|rest| rest.split_whitespace().next())
        .unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until no more than `bytes` are resident, without calling the allocator more than
/// reading the figure does.
fn falls_to(bytes: usize) {
    let start = Instant::now();
    while resident_bytes() > bytes {
        assert!(
            start.elapsed() < PATIENCE,
            "{} do not fall to {bytes}",
            resident_bytes()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn fill(bytes: usize) -> Vec<Vec<u8>> {
    let mut objects = Vec::new();
    let mut left = bytes;
    let mut size = 17;
    while left > 0 {
        objects.push(vec![1; size]);
        left = left.saturating_sub(size);
        size = 16 + size * 7919 % 500;
    }
    objects
}

/// The books, and what the system says while they are so: the thread that gives pages back
/// may be at work.
fn at_one_moment() -> (HeapStats, usize) {
    let start = Instant::now();
    loop {
        let (before, resident) = (ALLOCATOR.stats(), resident_bytes());
        let after = ALLOCATOR.stats();
        if before == after {
            return (after, resident);
        }
        assert!(start.elapsed() < PATIENCE, "{before:?} and {after:?}");
    }
}

/// The books against what the system says: both must have grown alike since a
/// moment at which they were `stats_before` and `resident_before`.
fn books_agree(stats_before: HeapStats, resident_before: usize) {
    let (stats, resident) = at_one_moment();
    let arenas = stats.arenas;
    let slots = arenas.live_bytes + arenas.free_bytes + stats.cached_bytes;
    assert_eq!(arenas.slab_bytes, slots + arenas.tail_bytes);
    let pages = arenas.slab_bytes + arenas.large_bytes + arenas.dirty_bytes;
    assert_eq!(
        arenas.resident_bytes + arenas.punched_bytes,
        pages + arenas.metadata_bytes
    );
    let by_books = arenas.resident_bytes as isize - stats_before.arenas.resident_bytes as isize;
    let by_system = resident as isize - resident_before as isize;
    let difference = (by_books - by_system).unsigned_abs();
    // Pages count from the moment when they are handed out, touched or not.
    assert!(
        difference < resident / 50 + MEGABYTE,
        "{by_books} and {by_system}: {stats:?}"
    );
    let mut live = 0;
    ALLOCATOR.class_stats(|class| live += class.live as usize * class.slot_bytes);
    assert_eq!(live, arenas.live_bytes);
}

#[test]
fn memory_goes_back() {
    let before = resident_bytes();
    assert!(before < 6 * MEGABYTE, "{before} at the start");

    // What is asked for is what the books call live, up to the classes' rounding.
    let stats = ALLOCATOR.stats();
    assert!(stats.arenas.metadata_bytes < MEGABYTE / 2, "{stats:?}");
    let objects: Vec<_> = (0..100_000).map(|_| Box::new([1_u8; 88])).collect();
    let live = ALLOCATOR.stats().arenas.live_bytes - stats.arenas.live_bytes;
    // A class of 96 bytes, also where 8 bytes are added for a seal.
    // The harness has a thread of its own, which may allocate a little meanwhile.
    assert!(live.abs_diff(100_000 * 96) < 4096, "{live}");
    books_agree(stats, before);
    drop(objects);
    let live = ALLOCATOR.stats().arenas.live_bytes;
    assert!(live.abs_diff(stats.arenas.live_bytes) < 4096, "{live}");

    // Everything freed by the thread that made it, while it sleeps.
    drop(fill(64 * MEGABYTE));
    falls_to(before + 2 * MEGABYTE);

    // Made here, freed by a thread that ends.
    let objects = fill(64 * MEGABYTE);
    std::thread::spawn(|| drop(objects)).join().unwrap();
    falls_to(before + 3 * MEGABYTE);

    // Made by a thread that ends, freed here.
    let objects = std::thread::spawn(|| fill(64 * MEGABYTE)).join().unwrap();
    drop(objects);
    falls_to(before + 3 * MEGABYTE);

    // Nine tenths freed at random.
    let mut objects = fill(64 * MEGABYTE);
    let mut random = 1_u64;
    objects.retain(|_| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (random >> 33).is_multiple_of(10)
    });
    books_agree(stats, before);
    // And once all of it that is free has gone back.
    let start = Instant::now();
    while ALLOCATOR.stats().arenas.dirty_bytes > MEGABYTE {
        assert!(start.elapsed() < PATIENCE, "{:?}", ALLOCATOR.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    books_agree(stats, before);
    drop(objects);

    // Large objects.
    drop((0..64).map(|_| vec![1_u8; MEGABYTE]).collect::<Vec<_>>());
    falls_to(before + 3 * MEGABYTE);

    // On command, at once.
    let objects = fill(64 * MEGABYTE);
    let full = resident_bytes();
    drop(objects);
    ALLOCATOR.purge();
    assert!(resident_bytes() < full - 60 * MEGABYTE);

    // Ten thousand short threads, each with objects of its own and some of others.
    let short = |count: usize| {
        for _ in 0..count {
            let objects = fill(20_000);
            let back = std::thread::spawn(move || {
                drop(objects);
                fill(20_000)
            });
            drop(back.join().unwrap());
        }
    };
    // Without what waits to be taken again, of which there is more or less.
    let held = || {
        ALLOCATOR.purge();
        resident_bytes()
    };
    short(1_000);
    let warm = held();
    short(9_000);
    let grown = held().saturating_sub(warm);
    assert!(
        grown < 2 * MEGABYTE,
        "{grown} bytes more after 9,000 threads"
    );

    // Many at once, then none.
    let threads: Vec<_> = (0..200)
        .map(|_| {
            std::thread::spawn(|| {
                let objects = fill(100_000);
                std::thread::sleep(Duration::from_millis(100));
                drop(objects);
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    // The C library keeps the stacks of some threads that have ended.
    falls_to(before + 8 * MEGABYTE);
}
