//! A `LocalArena` through its public face, against what the system says of the
//! process. The tests run one at a time, since the resident size is one.

use slab_allocator::{ArenaOptions, Classes, ExtentKind, LocalArena, Victim, VictimPolicy};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poison| poison.into_inner())
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 4096
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

fn options(region_bytes: usize) -> ArenaOptions {
    ArenaOptions {
        region_bytes,
        ..ArenaOptions::default()
    }
}

/// Objects by address, each of whose bytes can be verified.
#[derive(Default)]
struct Objects(BTreeMap<NonNull<u8>, (usize, u8)>);

impl Objects {
    fn add(&mut self, arena: &mut LocalArena, size: usize) {
        let object = arena.allocate(size).expect("memory");
        let mark = (self.0.len() % 251) as u8;
        // SAFETY: the object is new and holds `size` bytes.
        unsafe { object.write_bytes(mark, size) };
        self.0.insert(object, (size, mark));
    }

    fn retain(&mut self, arena: &mut LocalArena, mut keep: impl FnMut() -> bool) {
        self.0.retain(|object, (size, _)| {
            let kept = keep();
            if !kept {
                // SAFETY: the object leaves the map.
                unsafe { arena.free(*object, *size) };
            }
            kept
        });
    }

    fn verify(&self) {
        for (object, (size, mark)) in &self.0 {
            // SAFETY: the object is live and holds `size` bytes.
            let bytes = unsafe { std::slice::from_raw_parts(object.as_ptr(), *size) };
            assert!(bytes.iter().all(|byte| byte == mark));
        }
    }

    fn bytes(&self) -> usize {
        self.0.values().map(|(size, _)| size).sum()
    }

    /// Empties sparse slabs until there is none; returns objects and pages.
    fn compact(&mut self, arena: &mut LocalArena, policy: &VictimPolicy) -> (u64, u32) {
        self.empty_all(arena, |arena| arena.next_victim(policy))
    }

    /// Moves the objects of all victims that `next` names; returns objects and pages.
    fn empty_all(
        &mut self,
        arena: &mut LocalArena,
        next: impl Fn(&mut LocalArena) -> Option<Victim>,
    ) -> (u64, u32) {
        let (mut moved, mut pages) = (0, 0);
        while let Some(victim) = next(arena) {
            let mut slot = 0;
            while let Some(live) = arena.live_from(&victim, slot) {
                let (size, mark) = self.0[&live.object];
                let Some(target) = arena.allocate_for_relocation(size, &victim) else {
                    break;
                };
                // SAFETY: both objects are live and hold `size` bytes.
                unsafe {
                    target.copy_from_nonoverlapping(live.object, size);
                    arena.free(live.object, size);
                }
                self.0.remove(&live.object);
                self.0.insert(target, (size, mark));
                slot = live.slot + 1;
                moved += 1;
            }
            pages += arena.finish(victim).freed_pages;
        }
        (moved, pages)
    }
}

/// The sum over all slabs of one class of their squared numbers of live slots.
fn concentration(arena: &LocalArena, of_class: usize) -> u64 {
    arena
        .extents()
        .map(|extent| match extent.kind {
            ExtentKind::Slab { class, live, .. } if class as usize == of_class => {
                u64::from(live).pow(2)
            }
            _ => 0,
        })
        .sum()
}

#[test]
fn freed_memory_goes_back_to_the_system() {
    let _alone = alone();
    let mut arena = LocalArena::new(&ArenaOptions::default()).unwrap();
    let mut random = Random(1);
    // Without the map of `Objects`, whose own memory would blur the picture.
    let mut list: Vec<(u32, u32)> = Vec::with_capacity(600_000);
    let before = resident_bytes();
    let mut bytes = 0;
    while bytes < 120 << 20 {
        let size = if random.below(1000) == 0 {
            32_000 + random.below(200_000)
        } else {
            16 + random.below(400)
        };
        let object = arena.allocate(size).expect("memory");
        // SAFETY: the object is new and holds `size` bytes.
        unsafe { object.write_bytes(3, size) };
        bytes += size;
        list.push((arena.reference_of(object), size as u32));
    }
    arena.check();
    let full = resident_bytes();
    let booked = arena.stats().resident_bytes;
    let list_bytes = list.len() * 8;
    assert!(full - before >= bytes);
    assert!(
        full - before <= booked + list_bytes + (512 << 10),
        "{} resident, {booked} booked",
        full - before
    );
    // The list was touched as it grew, so it is in both figures from here on.
    for (reference, size) in &list {
        // SAFETY: each object is freed once.
        unsafe { arena.free(arena.object_at(*reference), *size as usize) };
    }
    let mut now_ms = 1000;
    while let Some(due) = arena.purge_due(now_ms, usize::MAX).next_due_ms {
        assert!(
            due > now_ms && due <= 4000,
            "all is given back after the decay time"
        );
        now_ms = due;
    }
    arena.check();
    let stats = arena.stats();
    assert!(stats.resident_bytes < 100 << 10, "{stats:?}");
    let left = resident_bytes().saturating_sub(before + list_bytes);
    assert!(left < 128 << 10, "{left} bytes stay resident");
}

#[test]
fn sparse_slabs_are_emptied_into_fuller_ones_and_it_ends() {
    let _alone = alone();
    let mut random = Random(2);
    for classes in [Classes::Fine, Classes::General] {
        let mut arena = LocalArena::new(&ArenaOptions {
            classes,
            ..options(256 << 20)
        })
        .unwrap();
        let mut objects = Objects::default();
        for _ in 0..60_000 {
            let size = match random.below(20) {
                0 => 3000 + random.below(9000),
                1..4 => 300 + random.below(900),
                _ => 16 + random.below(200),
            };
            objects.add(&mut arena, size);
        }
        let keep = 5 + random.below(30);
        objects.retain(&mut arena, || random.below(100) < keep);
        arena.purge_all();
        let predicted = arena.predict();
        let before = arena.stats();
        let (moved, pages) = objects.compact(
            &mut arena,
            &VictimPolicy {
                live_percent_max: 100,
            },
        );
        arena.check();
        objects.verify();
        // All that can go has gone, but for at most one slab in each class.
        let tolerance = arena.class_stats().count() as u32 * 16;
        assert!(
            pages + tolerance >= predicted.pages,
            "{pages} pages came free, {predicted:?}"
        );
        assert!(moved <= predicted.objects + predicted.objects / 2);
        let after = arena.stats();
        assert!(after.slab_bytes < before.slab_bytes);
        assert_eq!(after.live_bytes, before.live_bytes);
        assert!(
            arena
                .next_victim(&VictimPolicy {
                    live_percent_max: 100
                })
                .is_none()
        );
    }
}

#[test]
fn the_records_of_few_slabs_take_few_pages() {
    let _alone = alone();
    let mut arena = LocalArena::new(&options(256 << 20)).unwrap();
    let mut random = Random(9);
    let mut objects = Objects::default();
    for _ in 0..300_000 {
        objects.add(&mut arena, 232);
    }
    let full = arena.stats().metadata_bytes;
    objects.retain(&mut arena, || random.below(10) == 0);
    objects.compact(&mut arena, &VictimPolicy::default());
    let scattered = arena.stats().metadata_bytes;
    let victim = arena.next_victim(&VictimPolicy {
        live_percent_max: 100,
    });
    arena.purge_all();
    if let Some(victim) = victim {
        arena.finish(victim);
    }
    arena.check();
    objects.verify();
    let gathered = arena.stats().metadata_bytes;
    assert!(gathered < 250 << 10, "{full} {scattered} {gathered}");
    for _ in 0..100_000 {
        objects.add(&mut arena, 200 + random.below(50));
    }
    arena.check();
    objects.retain(&mut arena, || false);
    arena.check();
}

#[test]
fn every_move_makes_full_slabs_fuller() {
    let _alone = alone();
    let mut random = Random(3);
    let mut arena = LocalArena::new(&ArenaOptions {
        punch: false,
        ..options(64 << 20)
    })
    .unwrap();
    let mut objects = Objects::default();
    for _ in 0..6000 {
        objects.add(&mut arena, 200 + random.below(80));
    }
    objects.retain(&mut arena, || random.below(3) == 0);
    let mut moves = 0;
    while let Some(victim) = arena.next_victim(&VictimPolicy::default()) {
        let mut slot = 0;
        while let Some(live) = arena.live_from(&victim, slot) {
            let (size, mark) = objects.0[&live.object];
            let before = concentration(&arena, victim.class());
            let fresh = arena.waste().fresh_bytes_total;
            let Some(target) = arena.allocate_for_relocation(size, &victim) else {
                break;
            };
            // SAFETY: the old object is live and not used any more.
            unsafe { arena.free(live.object, size) };
            slot = live.slot + 1;
            assert!(concentration(&arena, victim.class()) >= before + 2);
            assert_eq!(arena.waste().fresh_bytes_total, fresh);
            objects.0.remove(&live.object);
            objects.0.insert(target, (size, mark));
            moves += 1;
            // Allocations between the steps of an evacuation take part, too.
            if moves % 7 == 0 {
                objects.add(&mut arena, 200 + random.below(80));
            }
        }
        arena.finish(victim);
    }
    assert!(moves > 500);
}

/// Bytes of slabs in memory.
fn resident_slab_bytes(arena: &LocalArena) -> usize {
    arena.waste().resident_slab_bytes
}

#[test]
fn the_last_slabs_of_many_classes_are_merged_and_packed() {
    let _alone = alone();
    let mut random = Random(11);
    let mut arena = LocalArena::new(&options(64 << 20)).unwrap();
    let mut objects = Objects::default();
    for _ in 0..40_000 {
        objects.add(&mut arena, 24 + random.below(40) * random.below(40));
    }
    objects.retain(&mut arena, || random.below(40) == 0);
    objects.compact(&mut arena, &VictimPolicy::default());
    let evacuated = resident_slab_bytes(&arena);
    assert!(evacuated > 2 * arena.stats().live_bytes);

    let (moved, pages) = objects.empty_all(&mut arena, LocalArena::next_merge);
    arena.check();
    objects.verify();
    assert!(moved > 100 && pages > 100);
    let stats = arena.stats();
    assert!(stats.guest_bytes > 0 && stats.guest_bytes * 4 < stats.live_bytes);
    let merged = resident_slab_bytes(&arena);
    assert!(merged <= evacuated - pages as usize * 4096);

    let (_, pages) = objects.empty_all(&mut arena, LocalArena::next_packing);
    arena.check();
    objects.verify();
    let packed = resident_slab_bytes(&arena);
    assert!(pages > 0 && packed < merged);
    assert!(
        packed * 2 < 3 * arena.stats().live_bytes,
        "{packed} of {evacuated} bytes for {}",
        arena.stats().live_bytes
    );

    // Punched pages are filled again, and guests leave without a trace.
    for _ in 0..20_000 {
        objects.add(&mut arena, 24 + random.below(40) * random.below(40));
    }
    arena.check();
    objects.verify();
    objects.retain(&mut arena, || false);
    arena.purge_all();
    assert_eq!(arena.stats().guest_bytes, 0);
    assert_eq!(resident_slab_bytes(&arena), 0);
}

#[test]
fn the_last_slabs_gather_in_low_chunks() {
    let _alone = alone();
    let mut random = Random(12);
    let mut arena = LocalArena::new(&options(256 << 20)).unwrap();
    let mut objects = Objects::default();
    for _ in 0..60_000 {
        objects.add(&mut arena, 24 + random.below(40) * random.below(40));
    }
    objects.retain(&mut arena, || random.below(100) == 0);
    objects.compact(&mut arena, &VictimPolicy::default());
    objects.empty_all(&mut arena, LocalArena::next_merge);
    objects.empty_all(&mut arena, LocalArena::next_packing);
    arena.purge_all();
    let before = arena.stats();
    assert!(before.open_chunks > 6);

    let (moved, pages) = objects.empty_all(&mut arena, LocalArena::next_lowering);
    arena.check();
    objects.verify();
    assert!(moved > 0);
    assert_eq!(pages, 0, "slabs that move free no pages");
    arena.purge_all();
    arena.check();
    let after = arena.stats();
    assert_eq!((after.open_chunks, after.slabs), (1, before.slabs));
    assert_eq!(after.live_bytes, before.live_bytes);
    assert_eq!(after.guest_bytes, before.guest_bytes);
    assert!(after.resident_bytes <= before.resident_bytes);
    assert_eq!(arena.next_lowering(), None);
    objects.retain(&mut arena, || false);
    assert_eq!(arena.stats().guest_bytes, 0);
}

#[test]
fn a_merge_that_fails_is_not_tried_again_until_the_lists_change() {
    let _alone = alone();
    let mut arena = LocalArena::new(&options(64 << 20)).unwrap();
    let mut objects = Objects::default();
    for size in [200, 208] {
        for _ in 0..20 {
            objects.add(&mut arena, size);
        }
    }
    let victim = arena.next_merge().unwrap();
    assert_eq!(victim.slot_bytes(), 200);
    assert!(!arena.finish(victim).is_done);
    assert_eq!(arena.next_merge(), None);
    let mut left = 20;
    objects.0.retain(|object, (size, _)| {
        let kept = *size != 200 || left <= 5;
        if !kept {
            left -= 1;
            // SAFETY: the object leaves the map.
            unsafe { arena.free(*object, *size) };
        }
        kept
    });
    let (moved, _) = objects.empty_all(&mut arena, LocalArena::next_merge);
    objects.verify();
    arena.check();
    assert_eq!((moved, arena.stats().slabs), (5, 1));
}

#[test]
fn a_class_that_halves_and_lives_on_keeps_few_sparse_slabs() {
    let _alone = alone();
    let mut arena = LocalArena::new(&options(256 << 20)).unwrap();
    let mut random = Random(4);
    let mut live: Vec<(u32, u32)> = Vec::new();
    let mut size = || 100 + random.below(51);
    for _ in 0..200_000 {
        let size = size();
        let object = arena.allocate(size).expect("memory");
        live.push((arena.reference_of(object), size as u32));
    }
    let mut random = Random(5);
    let mut index = 0;
    live.retain(|(reference, size)| {
        index += 1;
        let kept = random.below(2) == 0;
        if !kept {
            // SAFETY: the object leaves the list.
            unsafe { arena.free(arena.object_at(*reference), *size as usize) };
        }
        kept
    });
    for _ in 0..1_000_000 {
        let place = random.below(live.len());
        let (reference, old) = live[place];
        // SAFETY: the object is replaced in the list.
        unsafe { arena.free(arena.object_at(reference), old as usize) };
        let size = 100 + random.below(51);
        let object = arena.allocate(size).expect("memory");
        live[place] = (arena.reference_of(object), size as u32);
    }
    arena.purge_all();
    let stats = arena.stats();
    let ratio = stats.slab_bytes as f64 / stats.live_bytes as f64;
    // If all frees came to hand it would be 2.0, and 1.4 if the sparsest slab
    // allocated.
    assert!(ratio < 1.15, "slabs hold {ratio:.2} times the live bytes");
}

#[test]
fn dead_pages_inside_slabs_are_given_back_once_they_are_quiet() {
    let _alone = alone();
    let mut arena = LocalArena::new(&options(256 << 20)).unwrap();
    let mut objects = Objects::default();
    for _ in 0..30_000 {
        objects.add(&mut arena, 1000);
    }
    let mut random = Random(6);
    objects.retain(&mut arena, || random.below(10) == 0);
    arena.purge_due(0, usize::MAX);
    let before = resident_bytes();
    let mut now_ms = 0;
    while let Some(due) = arena.purge_due(now_ms, usize::MAX).next_due_ms {
        assert!(due > now_ms && due < 10_000);
        now_ms = due;
    }
    let stats = arena.stats();
    // Four slots to a page, a tenth live: 66% of the pages are dead, less
    // those of slabs more than half used, which there hardly are.
    assert!(
        stats.punched_bytes * 10 > (stats.slab_bytes) * 5,
        "{stats:?}"
    );
    assert!(before - resident_bytes() >= stats.punched_bytes * 9 / 10);
    arena.check();
    objects.verify();
    // Punched pages serve again.
    for _ in 0..30_000 {
        objects.add(&mut arena, 1000);
    }
    arena.check();
    objects.verify();
    assert_eq!(arena.stats().punched_bytes, 0);
}

#[test]
fn a_full_region_refuses_and_stays_usable() {
    let _alone = alone();
    let mut arena = LocalArena::new(&options(8 << 20)).unwrap();
    let mut random = Random(7);
    let mut objects = Objects::default();
    for round in 0..5 {
        let mut refused = 0;
        while refused < 50 {
            let size = 16 << random.below(15);
            match arena.allocate(size) {
                Some(object) => {
                    // SAFETY: the object is new and holds `size` bytes.
                    unsafe { object.write_bytes(round, size) };
                    objects.0.insert(object, (size, round));
                }
                None => refused += 1,
            }
        }
        assert!(arena.allocate(16 << 20).is_none());
        assert!(objects.bytes() > 4 << 20);
        arena.check();
        objects.verify();
        objects.retain(&mut arena, || random.below(4) == 0);
    }
}

#[test]
fn large_objects_grow_where_they_lie() {
    let _alone = alone();
    let mut arena = LocalArena::new(&options(64 << 20)).unwrap();
    let first = arena.allocate(40_000).unwrap();
    // SAFETY: objects are live, sizes are those they were allocated with.
    unsafe {
        first.write_bytes(9, 40_000);
        assert!(arena.grow_in_place(first, 40_000, 5 << 20));
        first.add(40_000).write_bytes(9, (5 << 20) - 40_000);
        let wall = arena.allocate(100_000).unwrap();
        assert!(!arena.grow_in_place(first, 5 << 20, 50 << 20));
        let moved = arena.reallocate(first, 5 << 20, 20 << 20).unwrap();
        assert_ne!(moved, first);
        let bytes = std::slice::from_raw_parts(moved.as_ptr(), 5 << 20);
        assert!(bytes.iter().all(|byte| *byte == 9));
        let shrunk = arena.reallocate(moved, 20 << 20, 40_000).unwrap();
        assert_eq!(shrunk, moved);
        assert_eq!(arena.usable_size(shrunk), 40_960);
        let small = arena.reallocate(shrunk, 40_000, 100).unwrap();
        assert_eq!(std::slice::from_raw_parts(small.as_ptr(), 100), [9; 100]);
        arena.free(small, 100);
        arena.free(wall, 100_000);
    }
    arena.check();
    assert_eq!(arena.stats().large_objects, 0);
}

#[test]
fn extents_cover_all_pages_in_use() {
    let _alone = alone();
    let mut arena = LocalArena::new(&options(64 << 20)).unwrap();
    let mut objects = Objects::default();
    let mut random = Random(8);
    for _ in 0..3000 {
        objects.add(&mut arena, 16 + random.below(3000));
    }
    objects.add(&mut arena, 3 << 20);
    objects.retain(&mut arena, || random.below(3) == 0);
    let stats = arena.stats();
    let (mut slabs, mut large, mut dirty) = (0, 0, 0);
    let mut end = 0;
    for extent in arena.extents() {
        assert!(extent.start_page >= end && extent.pages > 0);
        end = extent.start_page + extent.pages;
        let bytes = extent.pages as usize * 4096;
        match extent.kind {
            ExtentKind::Slab { .. } => slabs += bytes,
            ExtentKind::Large => large += bytes,
            ExtentKind::Free { dirty: true } => dirty += bytes,
            ExtentKind::Free { dirty: false } => {}
        }
    }
    assert_eq!(
        (slabs, large, dirty),
        (stats.slab_bytes, stats.large_bytes, stats.dirty_bytes)
    );
}
