//! How many free slots a thread keeps at hand: a computation on numbers.
//!
//! Each class of a [thread's cache](crate::thread_cache) has two stacks of the same
//! capacity. It starts at nothing, is [`capacity_start`] once the class is used, and
//! doubles whenever slots have to go to the arena, or come from there in batches that
//! could be larger, as long as four bounds allow it:
//!
//! | bound | why |
//! |---|---|
//! | [`capacity_max`] | room for the slots' addresses |
//! | the cache's [budget](budget_bytes), over all classes | what a thread may hold beside its heap |
//! | a share of the budget, for one class | so that no class starves the others |
//! | [`CAPACITY_MAX_LOOSE`], unless the class's slabs are few or nearly full | each slot at hand may keep a slab that would be empty |
//!
//! [`capacity_least`] may be had in any case: a thread that uses every class has soon
//! spent its budget on the largest, and going to the arena for each small object costs
//! ten times as much as its few bytes are worth.

use crate::process_bin::Spread;
use crate::size_class::GENERAL;
use crate::units::PAGE_BYTES;

/// The number of classes.
pub(crate) const CLASSES: usize = GENERAL.count();

/// Slots that a stack may hold when its class is first used, or their bytes if those are
/// fewer: the first fill brings half of them, and a class of which only an object or two
/// ever live would else lie on as many pages as it has slots at hand.
const CAPACITY_START: usize = 8;
const CAPACITY_START_BYTES: usize = 8 << 10;

/// The most slots that a stack may hold, and their bytes.
const CAPACITY_MAX: usize = 2048;
const CAPACITY_BYTES_MAX: usize = 128 << 10;

/// The most slots that a stack may hold where the class is not dense.
pub(crate) const CAPACITY_MAX_LOOSE: usize = 128;

/// Slots that come from the arena at a time, at most: more gain nothing, and what lies
/// here is of use to nobody else.
pub(crate) const FILL_MAX: usize = 64;

/// The budget of a cache before a small heap, in bytes, if it may have so much.
pub(crate) const BUDGET_BYTES_START: usize = 1 << 20;

/// The same before what is left of a large heap: of one that had so many bytes in use, and
/// has less than one in so many of them now. The slots that lie in a cache then lie all
/// over what was the heap, and each keeps a page.
const BUDGET_BYTES_SHRUNK: usize = 128 << 10;
const LARGE_BYTES: usize = 16 << 20;
const SHRUNK_SHARE: usize = 8;

/// Before a heap of many bytes in use a cache may hold one for so many. Not of its slabs,
/// which frees at random leave nearly all there while hardly anything lives.
const BUDGET_SHARE: usize = 32;

/// A class may have one in so many bytes of the budget.
const CLASS_SHARE: usize = 8;

/// Bytes of a class's slots that each stack may hold however small the budget is, if
/// these are no more slots than the second number, and no fewer than the third.
const LEAST_BYTES: usize = 2 << 10;
const LEAST_SLOTS_MAX: usize = 16;
const LEAST_SLOTS_MIN: usize = 2;

/// Bytes of slots that one of the stacks of every class may hold together, in front
/// of an arena with so many bytes of slots in use, and so many at most in the past: about
/// as much as lies in both, since one fills as the other empties. Never more than
/// `bytes_max`.
pub(crate) fn budget_bytes(in_use: usize, most_in_use: usize, bytes_max: usize) -> usize {
    let has_shrunk = most_in_use >= LARGE_BYTES && in_use < most_in_use / SHRUNK_SHARE;
    let least = match has_shrunk {
        false => BUDGET_BYTES_START,
        true => BUDGET_BYTES_SHRUNK,
    };
    (in_use / BUDGET_SHARE).max(least).min(bytes_max)
}

/// Bytes of slots that a class's capacity may come to with this budget, if it is above
/// [`capacity_least`].
pub(crate) fn class_share(budget: usize) -> usize {
    budget / CLASS_SHARE
}

/// Bytes of a slot of the class.
pub(crate) const fn slot_bytes(class: usize) -> usize {
    GENERAL.class(class).size as usize
}

/// The most slots that a stack of the class may ever hold.
pub(crate) const fn capacity_max(class: usize) -> usize {
    let slots = CAPACITY_BYTES_MAX / slot_bytes(class);
    if slots > CAPACITY_MAX {
        CAPACITY_MAX
    } else {
        slots
    }
}

/// Slots that a stack of the class may hold however small the budget is.
pub(crate) const fn capacity_least(class: usize) -> usize {
    slots_of(class, LEAST_BYTES, LEAST_SLOTS_MAX)
}

/// Slots that a stack of the class may hold when the class is first used.
pub(crate) const fn capacity_start(class: usize) -> usize {
    slots_of(class, CAPACITY_START_BYTES, CAPACITY_START)
}

/// Slots of the class in so many bytes: [`LEAST_SLOTS_MIN`] up to `max`.
const fn slots_of(class: usize, bytes: usize, max: usize) -> usize {
    let slots = bytes / slot_bytes(class);
    if slots > max {
        max
    } else if slots < LEAST_SLOTS_MIN {
        LEAST_SLOTS_MIN
    } else {
        slots
    }
}

/// How many freed slots are worth a turn of the stacks: fewer make turns too
/// frequent, so new ones join them. In return so many slots may go round in turn
/// where a single one would do, and they should stay in the processor's cache.
pub(crate) const fn turn_min(class: usize) -> usize {
    let slots = 2 * 1024 / slot_bytes(class);
    if slots > 64 {
        64
    } else if slots > capacity_max(class) / 2 {
        capacity_max(class) / 2
    } else if slots < 1 {
        1
    } else {
        slots
    }
}

/// The most slots that a stack of the class may hold while it is spread like this.
pub(crate) fn capacity_bound(class: usize, spread: Spread) -> usize {
    match spread {
        Spread::Dense => capacity_max(class),
        Spread::Loose | Spread::Sparse => capacity_max(class).min(CAPACITY_MAX_LOOSE),
    }
}

/// To what the capacity of a class grows from `old` slots, where the budget has `room`
/// bytes for all of its slots: `old` if not at all.
pub(crate) fn grown(class: usize, old: usize, room: usize, spread: Spread) -> usize {
    let max = capacity_bound(class, spread);
    let wanted = (old * 2).max(capacity_start(class)).min(max);
    let granted = match wanted * slot_bytes(class) <= room {
        true => wanted,
        false => capacity_least(class).min(wanted),
    };
    granted.max(old)
}

/// Slots that one fill brings to a class of this capacity.
pub(crate) fn fill_batch(capacity: usize) -> usize {
    capacity.div_ceil(2).min(FILL_MAX)
}

/// How many of the slots that were freed first go back, where that shall be about
/// `count`: those of the last page wait for what may follow them, since slots that go
/// back together do so at the cost of one.
pub(crate) fn whole_pages(freed: &[*mut u8], count: usize) -> usize {
    let page = |at: usize| freed[at].addr() / PAGE_BYTES;
    let mut start = count.min(freed.len().saturating_sub(1));
    let mut before = 0;
    if start == 0 || page(before) == page(start) {
        return count;
    }
    while start - before > 1 {
        let middle = before.midpoint(start);
        if page(middle) == page(start) {
            start = middle;
        } else {
            before = middle;
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr;
    use proptest::prelude::*;

    fn slots_on(pages: &[usize]) -> Vec<*mut u8> {
        pages
            .iter()
            .map(|page| ptr::without_provenance_mut(page * PAGE_BYTES))
            .collect()
    }

    #[test]
    fn slots_of_one_page_go_back_together() {
        let freed = slots_on(&[1, 1, 2, 2, 2, 3, 3]);
        assert_eq!(whole_pages(&freed, 7), 5, "the last page may get more");
        assert_eq!(whole_pages(&freed, 4), 2);
        assert_eq!(whole_pages(&freed, 2), 2);
        assert_eq!(whole_pages(&freed, 1), 1, "some must go");
        assert_eq!(whole_pages(&slots_on(&[1, 1, 1]), 3), 3);
        assert_eq!(whole_pages(&slots_on(&[1]), 1), 1);
        assert_eq!(whole_pages(&[], 0), 0);
    }

    #[test]
    fn some_slots_go_back_in_whatever_order_they_were_freed() {
        let freed = slots_on(&[5, 2, 5, 1, 2, 5, 2, 2, 9, 5, 5]);
        for count in 1..=freed.len() {
            assert!((1..=count).contains(&whole_pages(&freed, count)));
        }
    }

    #[test]
    fn the_budget_follows_the_heap_up_to_its_limit() {
        const MAX: usize = 4 << 20;
        let budget = |in_use| budget_bytes(in_use, in_use, MAX);
        assert_eq!(budget(0), BUDGET_BYTES_START);
        assert_eq!(budget(64 << 20), 2 << 20);
        assert_eq!(budget(1 << 30), MAX);
        assert_eq!(budget_bytes(1 << 30, 1 << 30, 64 << 10), 64 << 10);
    }

    #[test]
    fn the_budget_is_small_before_what_is_left_of_a_large_heap() {
        const MAX: usize = 4 << 20;
        assert_eq!(budget_bytes(0, 64 << 20, MAX), BUDGET_BYTES_SHRUNK);
        assert_eq!(budget_bytes(100 << 20, 1 << 30, MAX), 100 << 15);
        assert_eq!(budget_bytes(0, 64 << 20, 64 << 10), 64 << 10);
        for (in_use, most) in [(8 << 20, 64 << 20), (0, 1 << 20)] {
            assert_eq!(budget_bytes(in_use, most, MAX), BUDGET_BYTES_START);
        }
    }

    #[test]
    fn every_class_may_have_something_and_none_too_much() {
        for class in 0..CLASSES {
            let (least, max) = (capacity_least(class), capacity_max(class));
            assert!(LEAST_SLOTS_MIN <= least && least <= max, "{class}");
            assert!(least == LEAST_SLOTS_MIN || least * slot_bytes(class) <= LEAST_BYTES);
            assert!(max * slot_bytes(class) <= CAPACITY_BYTES_MAX);
            assert!((1..=max / 2).contains(&turn_min(class)), "{class}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        #[test]
        fn capacities_grow_within_their_bounds(
            class in 0..CLASSES,
            steps in prop::collection::vec((0_usize..200_000, 0_usize..3), 1..30),
        ) {
            let mut capacity = 0;
            for (room, spread) in steps {
                let spread = [Spread::Loose, Spread::Dense, Spread::Sparse][spread];
                let new = grown(class, capacity, room, spread);
                prop_assert!(new >= capacity && new <= capacity_max(class));
                prop_assert!(new >= capacity_least(class).min(capacity_start(class)));
                if new > capacity {
                    let fits = new * slot_bytes(class) <= room;
                    prop_assert!(fits || new <= capacity_least(class));
                    prop_assert!(spread == Spread::Dense || new <= CAPACITY_MAX_LOOSE);
                    prop_assert!(new <= (2 * capacity).max(capacity_start(class)));
                }
                prop_assert!((1..=FILL_MAX).contains(&fill_batch(new)));
                capacity = new;
            }
        }
    }
}
