//! A thread's free slots at hand: two stacks per size class, in front of an arena.
//!
//! Allocations pop from one stack and frees push on the other. When the first is
//! empty the two change places, unless the class is *sparse*: then what was freed
//! goes back to its slabs, and new slots come from the fullest of them. A single
//! stack could not leave that choice: it hands out again what was just freed, so
//! the slots of sparse slabs go round for ever and the slabs never empty
//! (simulated: where a class halves and lives on, its slabs stay at 2.28 times
//! the live bytes, against 1.23 where frees into slabs at most half used go
//! past the stack).
//!
//! A stack is an array of slot addresses. Neither push nor pop touches the slot
//! or its slab: that is why this wins over linked lists through the objects once
//! the heap is larger than the processor's caches (as with jemalloc's `cache_bin`).
//! And since the two work on different words, an allocation need not wait for the
//! store of the free before it. Slots come and go in batches, and this file does
//! not know where: a caller fills and flushes.
//!
//! ```text
//!  base       top                      free base       free top      free limit
//!   | slots    |         |              | slots          |            |        |
//!            <- pop                                    push ->
//! ```
//!
//! A class has no capacity until it is used, and then as much as
//! [`cache_capacity`](crate::cache_capacity) grants. A tick gives back what lies in
//! classes that were idle since the last one.
//!
//! Of the slots to be allocated next some may be *held back*, below `base`: while a
//! heap profile is on, so many are let through as pass until one allocation is to be
//! looked at, so that this one finds the stack empty and takes the slow path. The fast
//! paths know nothing of it.

use crate::cache_capacity::{
    CLASSES, capacity_bound, capacity_least, capacity_max, class_share, fill_batch, grown,
    slot_bytes, turn_min,
};
use crate::process_bin::Spread;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicPtr, AtomicUsize};
use crate::units::PAGE_BYTES;
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr::{self, NonNull};

/// Slow events (fills and flushes) between two ticks of a busy thread, and between two
/// looks at the budget: a thread that frees all it has and then sleeps shall not keep
/// as much as befits the heap that it had.
const EVENTS_PER_TICK: u32 = 1 << 12;
const EVENTS_PER_LOOK: u32 = 1 << 7;

/// Slots of a *near* array. A class that comes to hold more moves to two *far* arrays
/// with room for [`capacity_max`]: so those of classes that hold few lie close
/// together, on few pages, and most programs touch no others.
const NEAR_SLOTS: usize = 128;

/// Slots of a near array of the class.
const fn near_max(class: usize) -> usize {
    let slots = capacity_max(class);
    if slots > NEAR_SLOTS {
        NEAR_SLOTS
    } else {
        slots
    }
}

/// Where each class's two near arrays begin in [`ThreadCache::slots`], and the total.
const NEAR_STARTS: [usize; CLASSES + 1] = {
    let mut starts = [0; CLASSES + 1];
    let mut class = 0;
    while class < CLASSES {
        starts[class + 1] = starts[class] + 2 * near_max(class);
        class += 1;
    }
    starts
};

/// The same for the far arrays, of classes that may have some, behind all near ones.
const FAR_STARTS: [usize; CLASSES + 1] = {
    let mut starts = [NEAR_STARTS[CLASSES]; CLASSES + 1];
    let mut class = 0;
    while class < CLASSES {
        let max = capacity_max(class);
        let slots = if max > near_max(class) { 2 * max } else { 0 };
        starts[class + 1] = starts[class] + slots;
        class += 1;
    }
    starts
};

const SLOTS: usize = FAR_STARTS[CLASSES];

/// The number of the first slot of each of two arrays of the class.
const fn near(class: usize) -> (usize, usize) {
    let start = NEAR_STARTS[class];
    (start, start + near_max(class))
}

const fn far(class: usize) -> (usize, usize) {
    let start = FAR_STARTS[class];
    (start, start + capacity_max(class))
}

type Place = *mut *mut u8;

/// What push and pop need of a class. All of it is written by the owner alone;
/// other threads read it for statistics.
#[repr(C)]
struct Stacks {
    top: AtomicPtr<*mut u8>,
    base: AtomicPtr<*mut u8>,
    free_top: AtomicPtr<*mut u8>,
    free_limit: AtomicPtr<*mut u8>,
}

/// What only the slow paths need of a class.
struct Cold {
    free_base: AtomicPtr<*mut u8>,
    /// Slots that each of the two stacks may hold.
    capacity: Cell<u16>,
    /// The class was used in a way that the slow paths see since the last tick.
    wanted: Cell<bool>,
    /// How the class is spread over its slabs, as last heard.
    spread: Cell<Spread>,
    /// Allocations, besides those that the stack lets through, until one is to be
    /// sampled. Of use while a heap profile is on.
    until_sample: Cell<u32>,
}

/// What a slow event makes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing.
    Nothing,
    /// A new budget, and a [`trim`](ThreadCache::trim) of every class.
    Look,
    /// A new budget, and a [`tick`](ThreadCache::tick) of every class.
    Tick,
}

/// The stacks of one thread. Zeroed memory is a valid cache without any room:
/// every push and pop of it is refused.
#[repr(C)]
pub(crate) struct ThreadCache {
    stacks: [Stacks; CLASSES],
    cold: [Cold; CLASSES],
    /// Bytes of slots that the capacities may add up to; [`capacity_least`] of each
    /// class may come on top.
    budget: AtomicUsize,
    /// Bytes of slots that the capacities add up to.
    budget_used: AtomicUsize,
    events_until_tick: Cell<u32>,
    /// The state of the heap profile that `until_sample` of the classes belongs to.
    profile: Cell<u32>,
    slots: UnsafeCell<[*mut u8; SLOTS]>,
}

// SAFETY: Other threads only read the atomics; the rest belongs to the owner.
unsafe impl Sync for ThreadCache {}

impl ThreadCache {
    /// A cache without any room.
    pub(crate) const fn closed() -> Self {
        Self {
            stacks: [const {
                Stacks {
                    top: AtomicPtr::new(ptr::null_mut()),
                    base: AtomicPtr::new(ptr::null_mut()),
                    free_top: AtomicPtr::new(ptr::null_mut()),
                    free_limit: AtomicPtr::new(ptr::null_mut()),
                }
            }; CLASSES],
            cold: [const {
                Cold {
                    free_base: AtomicPtr::new(ptr::null_mut()),
                    capacity: Cell::new(0),
                    wanted: Cell::new(false),
                    spread: Cell::new(Spread::Loose),
                    until_sample: Cell::new(0),
                }
            }; CLASSES],
            budget: AtomicUsize::new(0),
            budget_used: AtomicUsize::new(0),
            events_until_tick: Cell::new(0),
            profile: Cell::new(0),
            slots: UnsafeCell::new([ptr::null_mut(); SLOTS]),
        }
    }

    /// Gives an empty cache, closed or open, in memory that will not move, its room
    /// as if it had never been used, and the budget in bytes.
    pub(crate) fn open(&self, budget: usize) {
        for (class, (stacks, cold)) in self.stacks.iter().zip(&self.cold).enumerate() {
            let (base, free_base) = (self.place(near(class).0), self.place(near(class).1));
            stacks.base.store(base, Relaxed);
            stacks.top.store(base, Relaxed);
            stacks.free_top.store(free_base, Relaxed);
            stacks.free_limit.store(free_base, Relaxed);
            cold.free_base.store(free_base, Relaxed);
            cold.capacity.set(0);
            cold.wanted.set(false);
            cold.spread.set(Spread::Loose);
            cold.until_sample.set(0);
        }
        self.profile.set(0);
        self.budget.store(budget, Relaxed);
        self.budget_used.store(0, Relaxed);
        self.events_until_tick.set(EVENTS_PER_TICK);
    }

    /// Takes a slot of the class; `None` where the slow path has to.
    ///
    /// # Safety
    ///
    /// `class` is below [`CLASSES`], and the calling thread owns the cache.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self, class: usize) -> Option<NonNull<u8>> {
        // SAFETY: The caller's promise.
        let stacks = unsafe { self.stacks.get_unchecked(class) };
        let top = stacks.top.load(Relaxed);
        if top == stacks.base.load(Relaxed) {
            return None;
        }
        // SAFETY: The stack holds slots, which are not null, up to `top`.
        unsafe {
            let top = top.sub(1);
            stacks.top.store(top, Relaxed);
            Some(NonNull::new_unchecked(*top))
        }
    }

    /// Keeps a free slot of the class; false where the slow path has to.
    ///
    /// # Safety
    ///
    /// As for [`pop`](Self::pop); `slot` is a free slot of the class, and the
    /// caller gives it away.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, class: usize, slot: *mut u8) -> bool {
        // SAFETY: The caller's promise.
        let stacks = unsafe { self.stacks.get_unchecked(class) };
        let top = stacks.free_top.load(Relaxed);
        if top >= stacks.free_limit.load(Relaxed) {
            return false;
        }
        // SAFETY: Below the limit there is room.
        unsafe {
            *top = slot;
            stacks.free_top.store(top.add(1), Relaxed);
        }
        true
    }

    /// Lets the freed slots be allocated, when all others are used up; false, with
    /// nothing changed, where the class is sparse or they are too few.
    pub(crate) fn turn(&self, class: usize) -> bool {
        let cold = &self.cold[class];
        if self.is_sparse(class) || self.free_len(class) < turn_min(class) {
            return false;
        }
        debug_assert_eq!(self.at_hand(class), 0);
        cold.wanted.set(true);
        self.exchange(class);
        true
    }

    /// Counts what was to be allocated next as freed, when nothing else is, so that
    /// it can be flushed; false where there is nothing.
    pub(crate) fn turn_to_flush(&self, class: usize) -> bool {
        debug_assert_eq!(self.free_len(class), 0);
        let any = self.at_hand(class) != 0;
        if any {
            self.exchange(class);
        }
        any
    }

    fn exchange(&self, class: usize) {
        let (stacks, cold) = (&self.stacks[class], &self.cold[class]);
        let top = stacks.top.load(Relaxed);
        let mut base = stacks.base.load(Relaxed);
        if self.profile.get() != 0 {
            base = self.start_at_hand(class);
            // Those that were let through and not allocated.
            let until = cold.until_sample.get();
            cold.until_sample
                .set(until.saturating_add(stacks.len() as u32));
        }
        stacks.top.store(stacks.free_top.load(Relaxed), Relaxed);
        stacks.base.store(cold.free_base.load(Relaxed), Relaxed);
        stacks.free_top.store(top, Relaxed);
        cold.free_base.store(base, Relaxed);
        self.set_limit(class);
    }

    /// Whether freed slots of the class go back to their slabs.
    pub(crate) fn is_sparse(&self, class: usize) -> bool {
        self.cold[class].spread.get() == Spread::Sparse
    }

    /// Notes how the class is spread over its slabs: freed slots of a sparse one go
    /// back to them from now on, and one that is not dense may hold less.
    pub(crate) fn set_spread(&self, class: usize, spread: Spread) {
        let cold = &self.cold[class];
        cold.spread.set(spread);
        let bound = capacity_bound(class, spread);
        if usize::from(cold.capacity.get()) > bound {
            // What is there above it goes with the next free.
            self.set_capacity(class, bound);
        }
    }

    /// Whether there is no room for another freed slot of the class.
    pub(crate) fn is_full(&self, class: usize) -> bool {
        let stacks = &self.stacks[class];
        stacks.free_top.load(Relaxed) >= stacks.free_limit.load(Relaxed)
    }

    /// How many slots of the class lie here. Another thread may ask, and gets an
    /// answer that was about true a moment ago.
    pub(crate) fn len(&self, class: usize) -> usize {
        let max = capacity_max(class);
        self.at_hand(class).min(max) + self.free_len(class).min(max)
    }

    /// Slots to be allocated next, those held back included.
    pub(crate) fn at_hand(&self, class: usize) -> usize {
        distance(
            self.start_at_hand(class),
            self.stacks[class].top.load(Relaxed),
        )
    }

    /// Where the array of slots to be allocated next starts: the one beside that of the
    /// freed slots.
    fn start_at_hand(&self, class: usize) -> Place {
        let free_base = self.cold[class].free_base.load(Relaxed);
        if free_base.is_null() {
            // The cache is closed.
            return free_base;
        }
        let (one, other) = match self.is_far(class) {
            true => far(class),
            false => near(class),
        };
        match self.place(one) {
            one if one == free_base => self.place(other),
            one => one,
        }
    }

    /// Whether the class's stacks are in its far arrays.
    fn is_far(&self, class: usize) -> bool {
        self.cold[class].free_base.load(Relaxed) >= self.place(NEAR_STARTS[CLASSES])
    }

    /// The place of a slot of the arrays, or of their end.
    fn place(&self, slot: usize) -> Place {
        debug_assert!(slot <= SLOTS);
        // SAFETY: There are as many.
        unsafe { self.slots.get().cast::<*mut u8>().add(slot) }
    }

    /// Moves the stacks of the class to its far arrays.
    fn move_far(&self, class: usize) {
        let (stacks, cold) = (&self.stacks[class], &self.cold[class]);
        let start = self.start_at_hand(class);
        let held_back = distance(start, stacks.base.load(Relaxed));
        let (at_hand, freed) = (self.at_hand(class), self.free_len(class));
        let (one, other) = (self.place(far(class).0), self.place(far(class).1));
        // SAFETY: The far arrays have room for what is in the near ones, which they do
        // not overlap, and only the owner, who calls, uses either.
        unsafe {
            ptr::copy_nonoverlapping(start, one, at_hand);
            ptr::copy_nonoverlapping(cold.free_base.load(Relaxed), other, freed);
            stacks.base.store(one.add(held_back), Relaxed);
            stacks.top.store(one.add(at_hand), Relaxed);
            cold.free_base.store(other, Relaxed);
            stacks.free_top.store(other.add(freed), Relaxed);
        }
    }

    /// The state of the heap profile that the cache was last told of.
    #[inline]
    pub(crate) fn profile(&self) -> u32 {
        self.profile.get()
    }

    /// Notes a new state of the heap profile, with the allocations of each class that
    /// pass until one is to be sampled; `None` lets all slots through.
    pub(crate) fn set_profile(&self, state: u32, until: Option<impl FnMut(usize) -> u32>) {
        self.profile.set(state);
        match until {
            None => (0..CLASSES).for_each(|class| self.let_through(class, usize::MAX)),
            Some(mut until) => {
                for class in 0..CLASSES {
                    self.cold[class].until_sample.set(until(class));
                    self.let_pass(class);
                }
            }
        }
    }

    /// Whether the stack lets slots of the class through, which need not be counted.
    pub(crate) fn lets_through(&self, class: usize) -> bool {
        !self.stacks[class].is_empty()
    }

    /// Whether the class's next allocation is to be sampled.
    pub(crate) fn is_sample_due(&self, class: usize) -> bool {
        !self.lets_through(class) && self.cold[class].until_sample.get() == 0
    }

    /// Starts over after a sample: so many allocations pass until the next.
    pub(crate) fn set_until_sample(&self, class: usize, until: u32) {
        self.cold[class].until_sample.set(until);
    }

    /// Lets as many slots of the class through as pass until one allocation is to be
    /// sampled. None were counted so far.
    pub(crate) fn let_pass(&self, class: usize) {
        let until = self.cold[class].until_sample.get();
        let count = self.at_hand(class).min(until as usize);
        self.cold[class].until_sample.set(until - count as u32);
        self.let_through(class, count);
    }

    /// Lets at most `count` of the slots at hand through, whatever is to be sampled.
    pub(crate) fn let_through(&self, class: usize, count: usize) {
        let stacks = &self.stacks[class];
        let count = count.min(self.at_hand(class));
        // SAFETY: The stack holds as many.
        let base = unsafe { stacks.top.load(Relaxed).sub(count) };
        stacks.base.store(base, Relaxed);
    }

    /// Drops those of the freed slots of the class that `keep` says no to: they are
    /// none of the class's slots.
    pub(crate) fn retain_freed(&self, class: usize, mut keep: impl FnMut(*mut u8) -> bool) {
        let (start, count) = (
            self.cold[class].free_base.load(Relaxed),
            self.free_len(class),
        );
        let mut kept = 0;
        for at in 0..count {
            // SAFETY: The stack holds `count` slots, of which `kept`, at most `at`,
            // have been kept. Only the owner, who calls, changes them.
            unsafe {
                let slot = *start.add(at);
                if keep(slot) {
                    start.add(kept).write(slot);
                    kept += 1;
                }
            }
        }
        // SAFETY: As above.
        let top = unsafe { start.add(kept) };
        self.stacks[class].free_top.store(top, Relaxed);
    }

    fn free_len(&self, class: usize) -> usize {
        distance(
            self.cold[class].free_base.load(Relaxed),
            self.stacks[class].free_top.load(Relaxed),
        )
    }

    /// The room for a batch of slots to be allocated, of which there are none: at most
    /// half of the capacity, which first grows, since the class is in use. Report with
    /// [`filled`](Self::filled) what was put there; the last comes out first.
    #[expect(
        clippy::mut_from_ref,
        reason = "the array behind an owned cache's cells"
    )]
    pub(crate) fn room_for_fill(&self, class: usize) -> &mut [*mut u8] {
        debug_assert!(self.stacks[class].is_empty());
        self.grow(class);
        let base = self.stacks[class].base.load(Relaxed);
        let batch = fill_batch(self.cold[class].capacity.get().into());
        // SAFETY: The array has room for the capacity, and only the owner, who
        // calls, uses it.
        unsafe { core::slice::from_raw_parts_mut(base, batch) }
    }

    /// Counts in the first `count` slots of [`room_for_fill`](Self::room_for_fill).
    pub(crate) fn filled(&self, class: usize, count: usize) {
        let stacks = &self.stacks[class];
        debug_assert!(count <= usize::from(self.cold[class].capacity.get()));
        // SAFETY: The count is within the stack's array.
        stacks
            .top
            .store(unsafe { stacks.base.load(Relaxed).add(count) }, Relaxed);
    }

    /// Raises the class's capacity; false where that is at its end, and slots have
    /// to be flushed to make room.
    pub(crate) fn grow(&self, class: usize) -> bool {
        let cold = &self.cold[class];
        cold.wanted.set(true);
        let old = usize::from(cold.capacity.get());
        let budget = self.budget.load(Relaxed);
        let used_by_others = self.budget_used.load(Relaxed) - old * slot_bytes(class);
        let room = budget
            .saturating_sub(used_by_others)
            .min(class_share(budget));
        let new = grown(class, old, room, cold.spread.get());
        if new > old {
            self.set_capacity(class, new);
        }
        new > old
    }

    /// Changes the budget in bytes. What is above it goes with the next ticks.
    pub(crate) fn set_budget(&self, bytes: usize) {
        self.budget.store(bytes, Relaxed);
    }

    /// Bytes of slots that one of the stacks of every class has room for. Another
    /// thread may ask, here and below.
    pub(crate) fn capacity_bytes(&self) -> usize {
        self.budget_used.load(Relaxed)
    }

    /// To what that may grow, [`capacity_least`] of each class aside.
    pub(crate) fn limit_bytes(&self) -> usize {
        self.budget.load(Relaxed)
    }

    fn set_capacity(&self, class: usize, new: usize) {
        let cold = &self.cold[class];
        let old = usize::from(cold.capacity.get());
        let others = self.budget_used.load(Relaxed) - old * slot_bytes(class);
        self.budget_used
            .store(others + new * slot_bytes(class), Relaxed);
        if new > near_max(class) && !self.is_far(class) {
            self.move_far(class);
        }
        cold.capacity.set(new as u16);
        self.set_limit(class);
    }

    fn set_limit(&self, class: usize) {
        let cold = &self.cold[class];
        let room = usize::from(cold.capacity.get());
        // SAFETY: The array has room for the capacity.
        let limit = unsafe { cold.free_base.load(Relaxed).add(room) };
        self.stacks[class].free_limit.store(limit, Relaxed);
    }

    /// The freed slots of the class that have lain here longest: at most `count`
    /// of them. Whoever returns them to their slabs says so with
    /// [`flushed`](Self::flushed).
    pub(crate) fn freed(&self, class: usize, count: usize) -> &[*mut u8] {
        let count = count.min(self.free_len(class));
        // SAFETY: The stack holds as many slots, and only the owner changes them.
        unsafe { core::slice::from_raw_parts(self.cold[class].free_base.load(Relaxed), count) }
    }

    /// Forgets the first `count` of [`freed`](Self::freed).
    pub(crate) fn flushed(&self, class: usize, count: usize) {
        let left = self.free_len(class) - count;
        let base = self.cold[class].free_base.load(Relaxed);
        // SAFETY: The stack holds `count + left` slots.
        unsafe {
            ptr::copy(base.add(count), base, left);
            self.stacks[class].free_top.store(base.add(left), Relaxed);
        }
    }

    /// Counts one fill or flush, and tells what is due.
    #[inline]
    pub(crate) fn slow_event(&self) -> Due {
        let left = self.events_until_tick.get().saturating_sub(1);
        self.events_until_tick.set(left);
        match left {
            0 => Due::Tick,
            _ if left.is_multiple_of(EVENTS_PER_LOOK) => Due::Look,
            _ => Due::Nothing,
        }
    }

    /// Halves the class's capacity where it has more than its share of the budget.
    /// True then: the caller flushes all of its slots.
    pub(crate) fn trim(&self, class: usize) -> bool {
        let capacity = usize::from(self.cold[class].capacity.get());
        let budget = self.budget.load(Relaxed);
        let too_large = capacity > capacity_least(class)
            && (capacity * slot_bytes(class) > class_share(budget)
                || self.budget_used.load(Relaxed) > budget + budget / 4);
        if too_large {
            self.set_capacity(class, (capacity / 2).max(capacity_least(class)));
        }
        too_large
    }

    /// Makes every class count as idle at the next tick, unless it is used before.
    pub(crate) fn forget_use(&self) {
        self.cold.iter().for_each(|cold| cold.wanted.set(false));
    }

    /// Starts the class's next period. True where it was idle in the last one, or
    /// has more than its share, and has lost half of its capacity: the caller
    /// flushes all of its slots.
    pub(crate) fn tick(&self, class: usize) -> bool {
        let cold = &self.cold[class];
        if cold.wanted.replace(false) {
            return self.trim(class);
        }
        let capacity = usize::from(cold.capacity.get());
        if capacity > 0 {
            self.set_capacity(class, capacity / 2);
        }
        true
    }

    /// Bytes of pages that the stacks in use, and what leads to them, lie on. Another
    /// thread may ask, as with [`len`](Self::len).
    pub(crate) fn resident_bytes(&self) -> usize {
        const { assert!(size_of::<Self>() <= 128 * PAGE_BYTES) };
        let arrays = offset_of!(Self, slots);
        let mut pages = 0_u128;
        let mut count = |start: usize, end: usize| {
            (start / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).for_each(|page| pages |= 1 << page);
        };
        let place = |slot| arrays + slot * size_of::<*mut u8>();
        count(0, arrays);
        for class in 0..CLASSES {
            let free_base = self.cold[class].free_base.load(Relaxed);
            let capacity = distance(free_base, self.stacks[class].free_limit.load(Relaxed));
            if capacity == 0 {
                continue;
            }
            count(place(NEAR_STARTS[class]), place(NEAR_STARTS[class + 1]));
            if self.is_far(class) {
                let capacity = capacity.min(capacity_max(class));
                for start in [far(class).0, far(class).1] {
                    count(place(start), place(start + capacity));
                }
            }
        }
        pages.count_ones() as usize * PAGE_BYTES
    }

    /// Starts the count of slow events anew, after the classes' ticks.
    pub(crate) fn ticked(&self) {
        self.events_until_tick.set(EVENTS_PER_TICK);
    }

    /// Panics where the cache contradicts itself.
    #[cfg(test)]
    fn check(&self) {
        let mut budget = 0;
        for class in 0..CLASSES {
            let capacity = usize::from(self.cold[class].capacity.get());
            assert!(capacity <= capacity_max(class));
            assert!(self.stacks[class].len() <= capacity_max(class));
            assert!(self.free_len(class) <= capacity_max(class));
            budget += capacity * slot_bytes(class);
        }
        assert_eq!(budget, self.budget_used.load(Relaxed));
    }
}

impl Stacks {
    fn is_empty(&self) -> bool {
        self.top.load(Relaxed) == self.base.load(Relaxed)
    }

    fn len(&self) -> usize {
        distance(self.base.load(Relaxed), self.top.load(Relaxed))
    }
}

fn distance(from: Place, to: Place) -> usize {
    to.addr().wrapping_sub(from.addr()) / size_of::<*mut u8>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache_capacity::{BUDGET_BYTES_START, CAPACITY_MAX_LOOSE};
    use crate::size_class::GENERAL;
    use proptest::prelude::*;

    /// An open cache, where it stays: it holds pointers into itself.
    macro_rules! open_cache {
        ($cache:ident) => {
            let $cache = &ThreadCache::closed();
            $cache.open(BUDGET);
        };
    }

    const BUDGET: usize = 2 * BUDGET_BYTES_START;

    /// Bytes that the cache may hold however small its budget is.
    fn least_bytes() -> usize {
        (0..CLASSES)
            .map(|class| capacity_least(class) * slot_bytes(class))
            .sum()
    }

    /// A slot that is only a number.
    fn slot(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(16 * (number + 1))
    }

    fn push(cache: &ThreadCache, class: usize, number: usize) -> bool {
        // SAFETY: The class exists, and the cache is this thread's.
        unsafe { cache.push(class, slot(number)) }
    }

    fn pop(cache: &ThreadCache, class: usize) -> *mut u8 {
        // SAFETY: The class exists, and the cache is this thread's.
        unsafe { cache.pop(class) }.map_or(ptr::null_mut(), NonNull::as_ptr)
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
        const { assert!(size_of::<ThreadCache>() <= 320 << 10) };
    }

    #[test]
    fn freed_slots_come_back_after_the_turn() {
        open_cache!(cache);
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
    fn a_class_that_grows_beyond_its_near_arrays_takes_its_slots_along() {
        open_cache!(cache);
        let class = GENERAL.class_of(16);
        cache.set_spread(class, Spread::Dense);
        let at_hand = fill(cache, class);
        cache.set_profile(1, Some(|of| if of == class { 3 } else { 0 }));
        let capacity = || usize::from(cache.cold[class].capacity.get());
        while capacity() < NEAR_SLOTS {
            assert!(cache.grow(class) && !cache.is_far(class));
        }
        (0..NEAR_SLOTS).for_each(|number| assert!(push(cache, class, 1000 + number)));
        let near_bytes = cache.resident_bytes();
        assert!(!push(cache, class, 0) && cache.grow(class) && cache.is_far(class));
        assert!(cache.resident_bytes() > near_bytes);
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
        assert_eq!(cache.len(class), NEAR_SLOTS + 1 + at_hand - 3);
        flush_all(cache, class);
        assert_eq!(cache.len(class), 0);
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
        assert_eq!((ticks, capacity()), (4, capacity_least(class)));
    }

    #[test]
    fn a_cache_that_is_opened_again_is_as_new() {
        open_cache!(cache);
        assert!(cache.grow(5) && cache.grow(5));
        cache.set_spread(5, Spread::Sparse);
        cache.open(BUDGET);
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

        /// The stacks behave as two plain stacks that change places.
        #[test]
        fn stacks_agree_with_a_model(ops in proptest::collection::vec(op(), 1..400)) {
            open_cache!(cache);
            let mut unused = vec![Vec::new(); CLASSES];
            let mut freed = vec![Vec::new(); CLASSES];
            let mut next = 0;
            for op in ops {
                match op {
                    Op::Pop(class) => {
                        let mut got = pop(cache, class);
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
}
