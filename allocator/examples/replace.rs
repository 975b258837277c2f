//! Measures a `LocalArena`: `cargo run --release --example replace -p slabkv-allocator`.
//!
//! - *replace*: a million live objects of 16 to 512 bytes; free one at random,
//!   allocate another of a random size in its place. With and without writing
//!   to the new object.
//! - *pair*: allocate and free one object.
//! - *fill*: allocate objects of one size, a fresh slab every few of them.
//! - *evacuate*: free 90% at random, then empty all sparse slabs.

use slab_allocator::{ArenaOptions, Classes, LocalArena, VictimPolicy};
use std::hint::black_box;
use std::ptr::NonNull;
use std::time::Instant;

struct Random(u64);

impl Random {
    /// xorshift64* (S. Vigna, 2016).
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> usize {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as usize
    }
}

const OBJECTS: usize = 1_000_000;
const ROUNDS: usize = 10_000_000;

fn report(name: &str, start: Instant, steps: usize) {
    let ns = start.elapsed().as_nanos() as f64 / steps as f64;
    println!("{name:<28} {ns:6.1} ns");
}

fn rss_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split_whitespace().nth(1);
    pages.and_then(|pages| pages.parse().ok()).unwrap_or(0) * 4
}

fn replace(classes: Classes, touch: bool) {
    let options = ArenaOptions {
        classes,
        ..ArenaOptions::default()
    };
    let mut arena = LocalArena::new(&options).expect("address space");
    let mut random = Random(88_172_645_463_325_252);
    let mut live: Vec<(u32, u16)> = (0..OBJECTS)
        .map(|_| {
            let size = 16 + random.below(497);
            let object = arena.allocate(size).expect("memory");
            // SAFETY: the object holds `size` bytes.
            unsafe { object.write_bytes(1, size) };
            (arena.reference_of(object), size as u16)
        })
        .collect();
    // The generator alone, to be subtracted in the mind.
    let start = Instant::now();
    for _ in 0..ROUNDS {
        let place = random.below(OBJECTS as u64);
        live[place].1 = live[place].1.max(black_box(random.below(2) as u16));
    }
    report("  loop without allocator", start, ROUNDS);
    let mut best = f64::MAX;
    for _ in 0..6 {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            let place = random.below(OBJECTS as u64);
            let (reference, size) = live[place];
            // SAFETY: the object is live, of this size, and replaced at once.
            unsafe { arena.free(arena.object_at(reference), usize::from(size)) };
            let size = 16 + random.below(497);
            let object = arena.allocate(size).expect("memory");
            if touch {
                // SAFETY: the object holds at least 16 bytes.
                unsafe { object.write(1) };
            }
            live[place] = (arena.reference_of(object), size as u16);
        }
        best = best.min(start.elapsed().as_nanos() as f64 / ROUNDS as f64);
    }
    let name = if touch {
        "replace and touch"
    } else {
        "replace"
    };
    println!("  {name:<26} {best:6.1} ns, the best of six");
    let stats = arena.stats();
    println!(
        "  slabs {:.1} MB, live {:.1} MB, records {:.2} MB",
        stats.slab_bytes as f64 / 1e6,
        stats.live_bytes as f64 / 1e6,
        stats.metadata_bytes as f64 / 1e6
    );
}

fn pair() {
    let mut arena = LocalArena::new(&ArenaOptions::default()).expect("address space");
    let mut held = Vec::new();
    for size in (16..512).step_by(8) {
        held.push(arena.allocate(size).expect("memory"));
    }
    let start = Instant::now();
    for round in 0..ROUNDS {
        let size = black_box(16 + round % 300);
        let object = black_box(arena.allocate(size).expect("memory"));
        // SAFETY: just allocated with this size.
        unsafe { arena.free(object, size) };
    }
    report("  pair", start, ROUNDS);
}

fn fill_and_evacuate() {
    const SIZE: usize = 232;
    let mut arena = LocalArena::new(&ArenaOptions::default()).expect("address space");
    let start = Instant::now();
    let mut live: Vec<NonNull<u8>> = (0..OBJECTS)
        .map(|_| arena.allocate(SIZE).expect("memory"))
        .collect();
    report("  fill", start, OBJECTS);
    for object in &live {
        // SAFETY: the object holds `SIZE` bytes.
        unsafe { object.write_bytes(1, SIZE) };
    }
    println!("  resident {} KiB", rss_kib());
    let mut random = Random(7);
    let start = Instant::now();
    let mut freed = 0;
    let mut place = 0;
    while place < live.len() {
        if random.below(10) > 0 {
            // SAFETY: the object leaves the list of live ones.
            unsafe { arena.free(live.swap_remove(place), SIZE) };
            freed += 1;
        } else {
            place += 1;
        }
    }
    report("  free 90%", start, freed);
    let predicted = arena.predict();
    let start = Instant::now();
    let (mut moved, mut pages, mut victims) = (0, 0, 0);
    while let Some(victim) = arena.next_victim(&VictimPolicy::default()) {
        victims += 1;
        let mut slot = 0;
        while let Some(source) = arena.live_from(&victim, slot) {
            slot = source.slot + 1;
            let Some(target) = arena.allocate_for_relocation(SIZE, &victim) else {
                break;
            };
            // SAFETY: both objects are live and hold `SIZE` bytes.
            unsafe {
                target.copy_from_nonoverlapping(source.object, SIZE);
                arena.free(source.object, SIZE);
            }
            moved += 1;
        }
        pages += arena.finish(victim).freed_pages;
    }
    report("  evacuate, per object", start, moved);
    println!(
        "  {moved} objects moved, {pages} pages freed, {victims} victims, predicted {predicted:?}"
    );
    let start = Instant::now();
    let bytes = arena.purge_all();
    report("  purge, per page", start, bytes / 4096);
    println!(
        "  resident {} KiB, of which the list {}",
        rss_kib(),
        live.capacity() * 8 / 1024
    );
    let stats = arena.stats();
    println!(
        "  slabs {:.1} MB, live {:.1} MB",
        stats.slab_bytes as f64 / 1e6,
        stats.live_bytes as f64 / 1e6
    );
}

fn main() {
    println!("fine classes");
    replace(Classes::Fine, false);
    replace(Classes::Fine, true);
    println!("general classes");
    replace(Classes::General, true);
    println!("fine classes");
    pair();
    fill_and_evacuate();
}
