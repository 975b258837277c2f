//! A cache that compacts itself, in safe code:
//!
//! ```text
//! cargo run --release -p slabkv-allocator --example compacting_cache [KEYS]
//! ```
//!
//! It is filled, nine keys of ten are removed at random, and what is resident is
//! shown before and after. Every value that is left is compared with what was set.

#![cfg(not(loom))]
#![forbid(unsafe_code)]

use slab_allocator::{ArenaOptions, Handle, HandleArena, SlabAlloc, VictimPolicy};
use std::collections::HashMap;
use std::time::Instant;

/// For the index and all else that the arena does not hold.
#[global_allocator]
static ALLOCATOR: SlabAlloc = SlabAlloc::new();

/// Values by number. An object in the arena is the key, then the value, so that the
/// index leads from an object that moves to its handle.
struct Cache {
    index: HashMap<u64, Handle>,
    arena: HandleArena,
    started: Instant,
    compacting: bool,
}

impl Cache {
    const KEY_BYTES: usize = size_of::<u64>();
    /// Bytes that are moved in the course of one removal, some 10 us.
    const SLICE_BYTES: usize = 16 << 10;
    const PURGE_BYTES: usize = 1 << 20;

    fn new(compacting: bool) -> Cache {
        Cache {
            index: HashMap::new(),
            arena: HandleArena::new(&ArenaOptions::default()).expect("address space"),
            started: Instant::now(),
            compacting,
        }
    }

    fn get(&self, key: u64) -> Option<&[u8]> {
        let handle = self.index.get(&key)?;
        Some(&self.arena.get(handle)[Self::KEY_BYTES..])
    }

    fn set(&mut self, key: u64, value: &[u8]) {
        self.remove(key);
        let len = Self::KEY_BYTES + value.len();
        let handle = self.arena.insert_zeroed(len).expect("memory");
        let object = self.arena.get_mut(&handle);
        object[..Self::KEY_BYTES].copy_from_slice(&key.to_le_bytes());
        object[Self::KEY_BYTES..].copy_from_slice(value);
        self.index.insert(key, handle);
    }

    fn remove(&mut self, key: u64) {
        let Some(handle) = self.index.remove(&key) else {
            return;
        };
        self.arena.remove(handle);
        let waste = self.arena.arena().waste();
        if self.compacting && waste.free_bytes > waste.live_bytes / 8 + (256 << 10) {
            self.compact(Self::SLICE_BYTES);
        }
    }

    /// Moves about so many bytes, and gives back pages that have been free for a while.
    /// True while there is more to move.
    fn compact(&mut self, bytes_max: usize) -> bool {
        let policy = VictimPolicy {
            live_percent_max: 85,
        };
        let index = &mut self.index;
        let done = self
            .arena
            .compact(&policy, bytes_max, |object, relocation| {
                let key = object[..Self::KEY_BYTES].try_into().expect("8 bytes");
                if let Some(handle) = index.get_mut(&u64::from_le_bytes(key)) {
                    relocation.patch(handle);
                }
            });
        let now_ms = self.started.elapsed().as_millis() as u64;
        self.arena.purge_due(now_ms, Self::PURGE_BYTES);
        !done.is_done
    }
}

/// The value of a key: 40 to 999 bytes that nothing else has.
fn value(key: u64) -> Vec<u8> {
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let len = 40 + (mixed >> 40) as usize % 960;
    mixed.to_le_bytes().into_iter().cycle().take(len).collect()
}

/// Whether a key is one of the tenth that stays.
fn stays(key: u64) -> bool {
    ((key ^ 0x5bd1_e995).wrapping_mul(0xff51_afd7_ed55_8ccd) >> 32).is_multiple_of(10)
}

fn resident_mib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages / 256
}

/// Fills a cache and removes nine keys of ten; says what is resident then.
fn trial(keys: u64, compacting: bool) -> Cache {
    let mut cache = Cache::new(compacting);
    (0..keys).for_each(|key| cache.set(key, &value(key)));
    let full = resident_mib();
    let gone = (0..keys).filter(|key| !stays(*key));
    gone.for_each(|key| cache.remove(key));
    cache.arena.purge_all();
    ALLOCATOR.purge();
    println!(
        "compaction {compacting}: {keys} keys take {full} MiB, {} of them {} MiB",
        cache.index.len(),
        resident_mib()
    );
    cache
}

fn check(cache: &Cache, keys: u64) {
    for key in 0..keys {
        let expected = stays(key).then(|| value(key));
        assert_eq!(cache.get(key), expected.as_deref(), "key {key}");
    }
}

fn main() {
    let keys = std::env::args().nth(1);
    let keys = keys.map_or(500_000, |keys| keys.parse().expect("a number of keys"));
    let mut cache = trial(keys, false);
    let started = Instant::now();
    while cache.compact(usize::MAX) {}
    println!(
        "compacting all at once takes {} ms",
        started.elapsed().as_millis()
    );
    check(&cache, keys);
    drop(cache);
    check(&trial(keys, true), keys);
    println!("all survivors are whole");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_its_keys_and_comes_down_to_them() {
        const KEYS: u64 = 20_000;
        let sparse = trial(KEYS, false);
        let compact = trial(KEYS, true);
        check(&sparse, KEYS);
        check(&compact, KEYS);
        let [sparse, compact] = [sparse, compact].map(|cache| cache.arena.arena().stats());
        assert_eq!(sparse.live_bytes, compact.live_bytes - compact.guest_bytes);
        let needed = compact.live_bytes + compact.live_bytes / 8 + (256 << 10);
        assert!(compact.resident_bytes < needed + (128 << 10), "{compact:?}");
        assert!(
            compact.resident_bytes < sparse.resident_bytes / 2,
            "{sparse:?}"
        );
    }
}
