//! The cache with slots that are only numbers.

use super::layout::{TIERS, tier_slots};
use super::*;
use crate::cache_capacity::{
    BUDGET_BYTES_START, CAPACITY_MAX_LOOSE, capacity_least, class_share, slot_bytes,
};
use crate::size_class::GENERAL;
use proptest::prelude::*;

/// An open cache, where it stays: it holds pointers into itself.
macro_rules! open_cache {
    ($cache:ident) => {
        open_cache!($cache, arrays);
    };
    ($cache:ident, $arrays:ident) => {
        let $cache = &ThreadCache::closed();
        let $arrays = &Arrays(UnsafeCell::new([ptr::null_mut(); SLOTS]));
        // SAFETY: Both are this test's.
        unsafe { $cache.open($arrays, BUDGET) };
    };
}

const BUDGET: usize = BUDGET_BYTES_START;

/// Bytes that the cache may hold however small its budget is.
fn least_bytes() -> usize {
    (0..CLASSES)
        .map(|class| capacity_least(class) * slot_bytes(class))
        .sum()
}

impl ThreadCache {
    /// Panics where the cache contradicts itself.
    fn check(&self) {
        let mut budget = 0;
        for class in 0..CLASSES {
            let capacity = usize::from(self.cold[class].capacity.get());
            assert!(capacity <= capacity_max(class));
            assert!(self.stacks(class).len() <= capacity_max(class));
            assert!(self.free_len(class) <= capacity_max(class));
            budget += capacity * slot_bytes(class);
        }
        assert_eq!(budget, self.budget_used.load(Relaxed));
    }
}

/// A slot that is only a number.
fn slot(number: usize) -> *mut u8 {
    ptr::without_provenance_mut(16 * (number + 1))
}

fn push(cache: &ThreadCache, class: usize, number: usize) -> bool {
    // SAFETY: The cache is this thread's.
    unsafe { cache.push(StackPlace::of_class(class), slot(number)) }
}

fn pop(cache: &ThreadCache, class: usize) -> *mut u8 {
    // SAFETY: The cache is this thread's.
    unsafe { cache.pop(StackPlace::of_class(class)) }.map_or(ptr::null_mut(), NonNull::as_ptr)
}

fn flush_all(cache: &ThreadCache, class: usize) {
    cache.flushed(class, cache.freed(class, usize::MAX).len());
    if cache.turn_to_flush(class) {
        cache.flushed(class, cache.freed(class, usize::MAX).len());
    }
}

#[test]
fn a_closed_cache_refuses_everything() {
    let cache = &ThreadCache::closed();
    for class in 0..CLASSES {
        assert!(pop(cache, class).is_null());
        assert!(!push(cache, class, 1));
        assert!(!cache.turn(class));
        assert!(!cache.turn_to_flush(class));
        assert_eq!(cache.len(class), 0);
    }
}

#[test]
fn the_budget_holds_though_every_class_is_used() {
    open_cache!(cache);
    for _ in 0..10 {
        for class in 0..CLASSES {
            cache.grow(class);
            cache.check();
            assert!(cache.budget_used.load(Relaxed) <= BUDGET + least_bytes());
        }
    }
    for class in 0..CLASSES {
        assert!(!cache.room_for_fill(class).is_empty());
    }
    const { assert!(size_of::<Arrays>() < 512 << 10) };
}

#[cfg(not(feature = "hardened"))]
#[test]
fn what_was_freed_last_is_allocated_first_unless_the_class_is_sparse() {
    open_cache!(cache);
    let class = GENERAL.class_of(64);
    let filled = fill(cache, class);
    assert!(push(cache, class, 100) && push(cache, class, 101));
    assert_eq!(pop(cache, class), slot(101));
    cache.set_spread(class, Spread::Sparse);
    assert_eq!(pop(cache, class), slot(filled - 1));
    cache.set_spread(class, Spread::Dense);
    assert_eq!(pop(cache, class), slot(100));
    assert_eq!(pop(cache, class), slot(filled - 2));
    while cache.tier(class) == 0 {
        assert!(cache.grow(class));
    }
    assert!(push(cache, class, 102));
    assert_eq!(pop(cache, class), slot(102));
    cache.end_reuse();
    assert!(push(cache, class, 103));
    cache.set_spread(class, Spread::Sparse);
    cache.set_spread(class, Spread::Dense);
    assert_eq!(pop(cache, class), slot(filled - 3));
}

#[test]
fn a_thread_only_frees_until_slots_come_and_after_it_takes_none_that_stayed() {
    open_cache!(cache);
    let class = GENERAL.class_of(64);
    assert!(cache.only_frees(class) && cache.grow(class));
    (0..6).for_each(|number| assert!(push(cache, class, number)));
    cache.flushed(class, 3);
    assert!(push(cache, class, 6) && cache.only_frees(class));
    cache.flushed(class, 4);
    assert!(cache.only_frees(class));
    fill(cache, class);
    assert!(!cache.only_frees(class));
    (7..10).for_each(|number| assert!(push(cache, class, number)));
    assert!(
        !cache.only_frees(class),
        "it has allocated since the last flush"
    );
    cache.flushed(class, 1);
    assert!(cache.only_frees(class));
    if cfg!(not(feature = "hardened")) {
        pop(cache, class);
        assert!(push(cache, class, 11) && !cache.only_frees(class));
    }
}

#[test]
fn freed_slots_that_are_not_reused_come_back_after_the_turn() {
    open_cache!(cache);
    cache.end_reuse();
    let class = GENERAL.class_of(1024);
    assert!(!push(cache, class, 0) && cache.grow(class));
    assert!(push(cache, class, 1) && push(cache, class, 2));
    assert!(pop(cache, class).is_null());
    assert!(cache.turn(class));
    assert_eq!(pop(cache, class), slot(2));
    assert!(push(cache, class, 3));
    assert_eq!(pop(cache, class), slot(1));
    assert!(pop(cache, class).is_null());
    assert_eq!(cache.freed(class, 9), [slot(3)]);
    assert!(!cache.turn(class), "one slot is not worth it");
}

#[test]
fn a_sparse_class_does_not_turn() {
    open_cache!(cache);
    let class = GENERAL.class_of(1024);
    cache.grow(class);
    assert!(push(cache, class, 1) && push(cache, class, 2));
    cache.set_spread(class, Spread::Sparse);
    assert!(!cache.turn(class));
    cache.set_spread(class, Spread::Dense);
    assert!(cache.turn(class));
}

#[test]
fn a_class_that_outgrows_its_arrays_takes_its_slots_along() {
    for tier in 1..TIERS {
        open_cache!(cache);
        cache.end_reuse();
        let class = GENERAL.class_of(16);
        let room = tier_slots(tier - 1, class);
        cache.set_spread(class, Spread::Dense);
        let at_hand = fill(cache, class);
        cache.set_profile(1, Some(|of| if of == class { 3 } else { 0 }));
        let capacity = || usize::from(cache.cold[class].capacity.get());
        while capacity() < room {
            assert!(cache.grow(class) && cache.tier(class) < tier);
        }
        (0..room).for_each(|number| assert!(push(cache, class, 1000 + number)));
        let bytes = cache.resident_bytes(100);
        assert!(!push(cache, class, 0) && cache.grow(class));
        assert_eq!(cache.tier(class), tier);
        assert!(cache.resident_bytes(100) > bytes);
        cache.check();
        // Three of those at hand were let through, and are so still.
        assert_eq!(cache.at_hand(class), at_hand);
        let popped: Vec<_> = (0..3).map(|_| pop(cache, class)).collect();
        assert_eq!(popped, [3, 2, 1].map(|back| slot(at_hand + back - 4)));
        assert!(pop(cache, class).is_null() && cache.at_hand(class) == at_hand - 3);
        for (number, freed) in cache.freed(class, usize::MAX).iter().enumerate() {
            assert_eq!(*freed, slot(1000 + number));
        }
        assert!(push(cache, class, 5));
        assert_eq!(cache.len(class), room + 1 + at_hand - 3);
        flush_all(cache, class);
        assert_eq!(cache.len(class), 0);
    }
}

#[test]
fn a_class_that_is_dense_no_more_gives_up_what_only_a_dense_one_may_hold() {
    open_cache!(cache);
    let class = GENERAL.class_of(16);
    cache.set_spread(class, Spread::Dense);
    let mut pushed = 0;
    while push(cache, class, pushed) || cache.grow(class) {
        pushed = cache.freed(class, usize::MAX).len();
    }
    assert!(pushed > CAPACITY_MAX_LOOSE);
    cache.set_spread(class, Spread::Sparse);
    cache.check();
    assert!(!push(cache, class, pushed) && !cache.grow(class));
    flush_all(cache, class);
    for number in 0..CAPACITY_MAX_LOOSE {
        assert!(push(cache, class, number));
    }
    assert!(!push(cache, class, pushed) && !cache.grow(class));
    cache.set_spread(class, Spread::Dense);
    assert!(cache.grow(class) && push(cache, class, pushed));
}

#[test]
fn what_only_waits_to_go_back_may_be_more_unless_the_class_is_sparse() {
    let class = GENERAL.class_of(16);
    for (spread, more) in [
        (Spread::Loose, true),
        (Spread::Dense, true),
        (Spread::Sparse, false),
    ] {
        open_cache!(cache);
        cache.set_spread(class, spread);
        let mut pushed = 0;
        while push(cache, class, pushed) || cache.grow_to_return(class) {
            pushed = cache.freed(class, usize::MAX).len();
        }
        cache.check();
        assert_eq!(pushed > CAPACITY_MAX_LOOSE, more, "{spread:?}");
        assert!(pushed >= CAPACITY_MAX_LOOSE);
    }
}

#[test]
fn capacity_follows_use_and_sinks_when_idle() {
    open_cache!(cache);
    let class = GENERAL.class_of(32);
    cache.set_spread(class, Spread::Dense);
    let mut pushed = 0;
    while push(cache, class, pushed) || cache.grow(class) {
        pushed = cache.freed(class, usize::MAX).len();
    }
    assert_eq!(pushed, capacity_max(class));
    cache.check();
    assert!(!cache.tick(class), "the class was used");
    for _ in 0..12 {
        assert!(cache.tick(class));
        cache.flushed(class, cache.freed(class, usize::MAX).len());
        cache.check();
    }
    assert_eq!((cache.len(class), cache.budget_used.load(Relaxed)), (0, 0));
}

#[test]
fn a_cache_whose_use_is_forgotten_gives_everything_at_the_next_tick() {
    open_cache!(cache);
    for class in [1, 9, 30] {
        assert!(cache.grow(class) && push(cache, class, class));
    }
    assert!(![1, 9, 30].into_iter().any(|class| cache.tick(class)));
    for class in [1, 9, 30] {
        cache.grow(class);
    }
    cache.forget_use();
    cache.grow(9);
    assert_eq!(
        [1, 9, 30].map(|class| cache.tick(class)),
        [true, false, true]
    );
}

/// Fills the class, as an arena would, and returns how many slots there are.
fn fill(cache: &ThreadCache, class: usize) -> usize {
    let room = cache.room_for_fill(class);
    let count = room.len();
    (0..count).for_each(|number| room[number] = slot(number));
    cache.filled(class, count);
    count
}

#[test]
fn so_many_slots_are_let_through_as_pass_until_a_sample() {
    open_cache!(cache);
    cache.end_reuse();
    let class = GENERAL.class_of(64);
    cache.set_profile(1, Some(|_| 6));
    assert_eq!((cache.profile(), fill(cache, class)), (1, 4));
    cache.let_pass(class);
    (0..4)
        .rev()
        .for_each(|at| assert_eq!(pop(cache, class), slot(at)));
    assert!(pop(cache, class).is_null() && !cache.is_sample_due(class));
    assert_eq!(fill(cache, class), 8);
    cache.let_pass(class);
    assert_eq!([pop(cache, class), pop(cache, class)], [slot(7), slot(6)]);
    assert!(pop(cache, class).is_null() && cache.is_sample_due(class));
    assert_eq!((cache.at_hand(class), cache.len(class)), (6, 6));
    // One passes though a sample is due.
    cache.let_through(class, 1);
    assert_eq!(pop(cache, class), slot(5));
    assert!(pop(cache, class).is_null());
    cache.set_until_sample(class, 2);
    cache.let_pass(class);
    assert_eq!(pop(cache, class), slot(4));
    // What was let through and is flushed counts no more.
    assert!(push(cache, class, 9));
    flush_all(cache, class);
    assert_eq!((cache.len(class), cache.at_hand(class)), (0, 0));
    fill(cache, class);
    cache.let_pass(class);
    assert!(!pop(cache, class).is_null());
    assert!(pop(cache, class).is_null() && cache.is_sample_due(class));
    // Off: all that is there is let through.
    let left = cache.at_hand(class);
    cache.set_profile(2, None::<fn(usize) -> u32>);
    (0..left).for_each(|_| assert!(!pop(cache, class).is_null()));
    assert!(pop(cache, class).is_null());
    cache.check();
}

#[test]
fn freed_slots_can_be_picked_out() {
    open_cache!(cache);
    let class = GENERAL.class_of(64);
    cache.grow(class);
    (0..7).for_each(|number| assert!(push(cache, class, number)));
    cache.retain_freed(class, |freed| freed.addr() % 32 != 0);
    assert_eq!(cache.freed(class, 9), [0, 2, 4, 6].map(slot));
    cache.retain_freed(class, |_| false);
    assert!(cache.freed(class, 9).is_empty() && push(cache, class, 1));
}

#[test]
fn a_class_gets_no_more_than_its_share_and_loses_what_a_smaller_budget_denies() {
    open_cache!(cache);
    let class = GENERAL.class_of(2048);
    let capacity = || usize::from(cache.cold[class].capacity.get());
    for budget in [BUDGET / 4, BUDGET] {
        cache.set_budget(budget);
        while cache.grow(class) {}
        assert_eq!(capacity() * 2048, class_share(budget));
    }
    cache.set_budget(0);
    let mut ticks = 0;
    while cache.tick(class) {
        ticks += 1;
        cache.grow(class);
        cache.check();
    }
    assert_eq!((ticks, capacity()), (5, capacity_least(class)));
}

#[test]
fn what_is_left_of_a_large_heap_has_a_small_budget_until_that_is_forgotten() {
    open_cache!(cache, arrays);
    let budget = |in_use| {
        cache.adapt_budget(in_use + cache.bytes(), 4 << 20);
        cache.limit_bytes()
    };
    fill(cache, GENERAL.class_of(1024));
    assert_eq!(budget(0), BUDGET);
    assert_eq!(budget(128 << 20), 4 << 20);
    let shrunk = budget(1 << 20);
    assert!(shrunk < BUDGET, "{shrunk}");
    let mut ticks = 0;
    while budget(1 << 20) != BUDGET {
        cache.ticked();
        ticks += 1;
    }
    assert_eq!(ticks, 4, "after those it is 8 MiB");
    // SAFETY: As before.
    unsafe { cache.open(arrays, BUDGET) };
    assert_eq!(budget(0), BUDGET);
}

#[test]
fn a_cache_that_is_opened_again_is_as_new() {
    open_cache!(cache, arrays);
    assert!(cache.grow(5) && cache.grow(5));
    cache.set_spread(5, Spread::Sparse);
    // SAFETY: As before.
    unsafe { cache.open(arrays, BUDGET) };
    cache.check();
    assert!(!cache.is_sparse(5));
    assert!(cache.grow(5) && push(cache, 5, 0));
}

#[derive(Clone, Debug)]
enum Op {
    Pop(usize),
    Push(usize),
    Flush(usize, usize),
    FlushAll(usize),
    Tick(usize),
    Spread(usize, Spread),
}

fn op() -> impl Strategy<Value = Op> {
    // Few classes, so that each is driven far; the last has a tiny capacity.
    let class = prop_oneof![Just(1), Just(30), Just(CLASSES - 1)];
    prop_oneof![
        8 => class.clone().prop_map(Op::Pop),
        9 => class.clone().prop_map(Op::Push),
        1 => (class.clone(), 0_usize..100).prop_map(|(class, count)| Op::Flush(class, count)),
        1 => class.clone().prop_map(Op::FlushAll),
        1 => class.clone().prop_map(Op::Tick),
        1 => (class, prop::sample::select(vec![Spread::Loose, Spread::Dense, Spread::Sparse]))
            .prop_map(|(class, spread)| Op::Spread(class, spread)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

    /// The stacks behave as two plain stacks that change places, where what was freed is
    /// not reused.
    #[test]
    fn stacks_agree_with_a_model(
        ops in proptest::collection::vec(op(), 1..400),
        ends in any::<bool>(),
    ) {
        open_cache!(cache);
        if ends {
            cache.end_reuse();
        }
        let ends = ends || cfg!(feature = "hardened");
        let mut unused = vec![Vec::new(); CLASSES];
        let mut freed = vec![Vec::new(); CLASSES];
        let mut next = 0;
        for op in ops {
            match op {
                Op::Pop(class) => {
                    let mut got = pop(cache, class);
                    if !ends && !cache.is_sparse(class) && let Some(newest) = freed[class].pop() {
                        prop_assert_eq!(got, newest);
                        continue;
                    }
                    prop_assert_eq!(got.is_null(), unused[class].is_empty());
                    if got.is_null() && cache.turn(class) {
                        core::mem::swap(&mut unused[class], &mut freed[class]);
                        got = pop(cache, class);
                    } else if got.is_null() {
                        let room = cache.room_for_fill(class);
                        let count = room.len();
                        for place in room {
                            *place = slot(next);
                            unused[class].push(slot(next));
                            next += 1;
                        }
                        cache.filled(class, count);
                        got = pop(cache, class);
                    }
                    prop_assert_eq!(Some(got), unused[class].pop());
                }
                Op::Push(class) => {
                    if push(cache, class, next) {
                        freed[class].push(slot(next));
                    } else {
                        cache.grow(class);
                    }
                    next += 1;
                }
                Op::Flush(class, count) => {
                    let count = cache.freed(class, count).len();
                    prop_assert_eq!(cache.freed(class, count), &freed[class][..count]);
                    cache.flushed(class, count);
                    freed[class].drain(..count);
                }
                Op::FlushAll(class) => {
                    flush_all(cache, class);
                    unused[class].clear();
                    freed[class].clear();
                }
                Op::Tick(class) => {
                    if cache.tick(class) {
                        flush_all(cache, class);
                        unused[class].clear();
                        freed[class].clear();
                    }
                }
                Op::Spread(class, spread) => cache.set_spread(class, spread),
            }
            for class in 0..CLASSES {
                prop_assert_eq!(cache.len(class), unused[class].len() + freed[class].len());
            }
            cache.check();
        }
    }
}

#[test]
fn what_is_in_no_slab_finds_no_room() {
    open_cache!(cache);
    for entry in 0..FIRST_CLASS {
        let place = StackPlace::of_entry(entry);
        assert!(!place.names_class());
        // SAFETY: The cache is this test's, and nothing is kept.
        assert!(unsafe { !cache.push(place, slot(1)) && cache.pop(place).is_none() });
    }
    let places = (0..CLASSES).map(StackPlace::of_class);
    assert!(
        places
            .enumerate()
            .all(|(class, place)| place.names_class() && place.class() == class)
    );
}
