//! A thread's stacks of free slots: one per size class, in front of an arena.
//!
//! A stack is an array of slot addresses. Neither push nor pop touches the slot
//! or its slab: that is why this wins over linked lists through the objects once
//! the heap is larger than the processor's caches (the same choice as
//! jemalloc's `cache_bin`). Slots come and go in batches, and this file does not
//! know where: a caller fills and flushes.
//!
//! ```text
//!  base          floor            top            limit        base + capacity max
//!   |  cold slots  |  slots in use  |  empty       |  beyond capacity |
//! ```
//!
//! - `top`: behind the last slot; pop takes the one below it.
//! - `floor`: the low-water mark since the last tick, or somewhat less. Pop
//!   compares with it instead of `base`, so the mark costs the fast path nothing:
//!   the first pops below it take the slow path, which halves it.
//! - `limit`: push stops here. It is `base + capacity`, or `base` where every
//!   free is to take the slow path.
//!
//! A stack has no capacity until its class is used. Then it gets
//! [`CAPACITY_START`], and twice as much whenever it runs empty or over, as long
//! as the thread's total stays below [`BUDGET_BYTES`]. A tick gives back three
//! quarters of what stayed below the low-water mark, and halves the capacity of
//! a stack that neither ran empty nor over, so that an idle class keeps little.

use crate::size_class::GENERAL;
use crate::sync::atomic::AtomicPtr;
use crate::sync::atomic::Ordering::Relaxed;
use core::cell::{Cell, UnsafeCell};
use core::ptr;

/// The number of classes, hence of stacks.
pub(crate) const CLASSES: usize = GENERAL.count();

/// Slots that a stack may hold when it is first used.
const CAPACITY_START: usize = 8;

/// Bytes of slots that all stacks of a thread may hold together; one slot per
/// class may come on top.
pub(crate) const BUDGET_BYTES: usize = 256 << 10;

/// Frees past the cache that call for a flush.
const FREES_PER_FLUSH: u8 = 64;

/// Slow events (fills and flushes) between two ticks of a busy thread.
const EVENTS_PER_TICK: u32 = 1 << 12;

/// The most slots that a stack of the class may ever hold.
const fn capacity_max(class: usize) -> usize {
    let slots = 16 * 1024 / GENERAL.class(class).size as usize;
    if slots > 128 {
        128
    } else if slots < 4 {
        4
    } else {
        slots
    }
}

/// Where each stack's array begins in [`ThreadCache::slots`], and the total.
const STARTS: [usize; CLASSES + 1] = {
    let mut starts = [0; CLASSES + 1];
    let mut class = 0;
    while class < CLASSES {
        starts[class + 1] = starts[class] + capacity_max(class);
        class += 1;
    }
    starts
};

const SLOTS: usize = STARTS[CLASSES];

/// What push and pop need of a stack.
#[repr(C)]
struct Stack {
    /// Read by other threads for statistics, written by the owner alone.
    top: AtomicPtr<*mut u8>,
    floor: Cell<*mut *mut u8>,
    limit: Cell<*mut *mut u8>,
    base: Cell<*mut *mut u8>,
}

/// What only the slow paths need of a stack.
struct Cold {
    capacity: Cell<u16>,
    /// The stack ran empty or over since the last tick.
    wanted: Cell<bool>,
    /// Every free takes the slow path.
    intercepted: Cell<bool>,
    /// Frees that went past the cache since the last flush that this called for.
    passed: Cell<u8>,
}

/// The stacks of one thread. Zeroed memory is a valid cache without any room:
/// every push and pop of it is refused.
#[repr(C)]
pub(crate) struct ThreadCache {
    stacks: [Stack; CLASSES],
    cold: [Cold; CLASSES],
    /// Bytes of slots that the capacities add up to.
    budget_used: Cell<usize>,
    events_until_tick: Cell<u32>,
    slots: UnsafeCell<[*mut u8; SLOTS]>,
}

// SAFETY: Other threads only read `top` and `base`, the latter of which does not
// change once the cache is open; the rest belongs to the owning thread.
unsafe impl Sync for ThreadCache {}

impl ThreadCache {
    /// A cache without any room.
    pub(crate) const fn closed() -> Self {
        Self {
            stacks: [const {
                Stack {
                    top: AtomicPtr::new(ptr::null_mut()),
                    floor: Cell::new(ptr::null_mut()),
                    limit: Cell::new(ptr::null_mut()),
                    base: Cell::new(ptr::null_mut()),
                }
            }; CLASSES],
            cold: [const {
                Cold {
                    capacity: Cell::new(0),
                    wanted: Cell::new(false),
                    intercepted: Cell::new(false),
                    passed: Cell::new(0),
                }
            }; CLASSES],
            budget_used: Cell::new(0),
            events_until_tick: Cell::new(0),
            slots: UnsafeCell::new([ptr::null_mut(); SLOTS]),
        }
    }

    /// Gives an empty cache, closed or open, in memory that will not move, its room
    /// as if it had never been used.
    pub(crate) fn open(&self) {
        let slots = self.slots.get().cast::<*mut u8>();
        for (class, stack) in self.stacks.iter().enumerate() {
            // SAFETY: Every start lies within `slots`.
            let base = unsafe { slots.add(STARTS[class]) };
            stack.base.set(base);
            stack.top.store(base, Relaxed);
            stack.floor.set(base);
            stack.limit.set(base);
            let cold = &self.cold[class];
            cold.capacity.set(0);
            cold.wanted.set(false);
            cold.intercepted.set(false);
            cold.passed.set(0);
        }
        self.budget_used.set(0);
        self.events_until_tick.set(EVENTS_PER_TICK);
    }

    /// Takes a slot of the class; null where the slow path has to.
    ///
    /// # Safety
    ///
    /// `class` is below [`CLASSES`], and the calling thread owns the cache.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self, class: usize) -> *mut u8 {
        // SAFETY: The caller's promise.
        let stack = unsafe { self.stacks.get_unchecked(class) };
        let top = stack.top.load(Relaxed);
        if top == stack.floor.get() {
            return ptr::null_mut();
        }
        // SAFETY: `base <= floor < top`, so there is a slot below `top`.
        unsafe {
            let top = top.sub(1);
            stack.top.store(top, Relaxed);
            *top
        }
    }

    /// Takes a slot though it lies below the low-water mark, which sinks; null
    /// only where the stack is empty.
    ///
    /// # Safety
    ///
    /// As for [`pop`](Self::pop).
    pub(crate) unsafe fn pop_below_mark(&self, class: usize) -> *mut u8 {
        // SAFETY: The caller's promise.
        let stack = unsafe { self.stacks.get_unchecked(class) };
        let base = stack.base.get();
        let below = stack.len_to(stack.floor.get());
        // SAFETY: Half of the way from `base` to `floor` lies between the two.
        stack.floor.set(unsafe { base.add(below / 2) });
        // SAFETY: The caller's promise.
        unsafe { self.pop(class) }
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
        let stack = unsafe { self.stacks.get_unchecked(class) };
        let top = stack.top.load(Relaxed);
        if top >= stack.limit.get() {
            return false;
        }
        // SAFETY: `base <= top < limit`, which is inside the stack's array.
        unsafe {
            *top = slot;
            stack.top.store(top.add(1), Relaxed);
        }
        true
    }

    /// Keeps a free slot though frees of the class are intercepted; false where
    /// the stack is full.
    ///
    /// # Safety
    ///
    /// As for [`push`](Self::push).
    pub(crate) unsafe fn push_intercepted(&self, class: usize, slot: *mut u8) -> bool {
        let stack = &self.stacks[class];
        let top = stack.top.load(Relaxed);
        if stack.len() >= usize::from(self.cold[class].capacity.get()) {
            return false;
        }
        // SAFETY: The stack holds less than its capacity.
        unsafe {
            *top = slot;
            stack.top.store(top.add(1), Relaxed);
        }
        true
    }

    /// How many slots of the class lie here. Another thread may ask, and gets an
    /// answer that was true a moment ago.
    pub(crate) fn len(&self, class: usize) -> usize {
        self.stacks[class].len()
    }

    /// Sends every free of the class through the slow path, or no longer.
    pub(crate) fn intercept_frees(&self, class: usize, intercept: bool) {
        if self.cold[class].intercepted.get() != intercept {
            self.cold[class].intercepted.set(intercept);
            self.set_limit(class);
        }
    }

    /// Whether every free of the class takes the slow path.
    pub(crate) fn is_intercepted(&self, class: usize) -> bool {
        self.cold[class].intercepted.get()
    }

    /// Counts a free that went past the cache. True once in a while, when a part of
    /// the stack should be flushed as well: its slots may lie in slabs that would
    /// otherwise be empty.
    pub(crate) fn flush_is_due(&self, class: usize) -> bool {
        let passed = (self.cold[class].passed.get() + 1) % FREES_PER_FLUSH;
        self.cold[class].passed.set(passed);
        passed == 0
    }

    /// The room for a batch that refills an empty stack: half of the capacity,
    /// which first grows, since the class is in use. Report with
    /// [`filled`](Self::filled) what was put there; the last comes out first.
    #[expect(
        clippy::mut_from_ref,
        reason = "the cells of an owned cache, not its value"
    )]
    pub(crate) fn room_for_fill(&self, class: usize) -> &mut [*mut u8] {
        debug_assert_eq!(self.len(class), 0);
        self.grow(class);
        let batch = usize::from(self.cold[class].capacity.get()).div_ceil(2);
        // SAFETY: The array has room for the capacity, and only the owner, who
        // calls, uses it.
        unsafe { core::slice::from_raw_parts_mut(self.stacks[class].base.get(), batch) }
    }

    /// Counts in the first `count` slots of [`room_for_fill`](Self::room_for_fill).
    pub(crate) fn filled(&self, class: usize, count: usize) {
        debug_assert!(count <= usize::from(self.cold[class].capacity.get()));
        let stack = &self.stacks[class];
        // SAFETY: The count is within the stack's array.
        stack
            .top
            .store(unsafe { stack.base.get().add(count) }, Relaxed);
        stack.floor.set(stack.base.get());
    }

    /// Makes room in a full stack by raising its capacity; false where that is at
    /// its end, and half of the stack should be flushed.
    pub(crate) fn grow(&self, class: usize) -> bool {
        let cold = &self.cold[class];
        cold.wanted.set(true);
        let old = usize::from(cold.capacity.get());
        let new = (old * 2)
            .clamp(CAPACITY_START, 128)
            .min(capacity_max(class));
        let within_budget =
            |new| self.budget_used.get() + (new - old) * slot_bytes(class) <= BUDGET_BYTES;
        if new > old && within_budget(new) {
            self.set_capacity(class, new);
            true
        } else if old == 0 {
            self.set_capacity(class, 1);
            true
        } else {
            false
        }
    }

    fn set_capacity(&self, class: usize, new: usize) {
        let cold = &self.cold[class];
        let old = usize::from(cold.capacity.get());
        let others = self.budget_used.get() - old * slot_bytes(class);
        self.budget_used.set(others + new * slot_bytes(class));
        cold.capacity.set(new as u16);
        self.set_limit(class);
    }

    /// The slots that have lain here longest: at most `count` of them. Whoever
    /// returns them to their slabs says so with [`flushed`](Self::flushed).
    pub(crate) fn oldest(&self, class: usize, count: usize) -> &[*mut u8] {
        let count = count.min(self.len(class));
        // SAFETY: The stack holds as many slots, and only the owner changes them.
        unsafe { core::slice::from_raw_parts(self.stacks[class].base.get(), count) }
    }

    /// Drops the `count` oldest slots of the class, which the caller has returned.
    pub(crate) fn flushed(&self, class: usize, count: usize) {
        let stack = &self.stacks[class];
        let left = self.len(class) - count;
        let base = stack.base.get();
        // SAFETY: The stack holds `count + left` slots.
        unsafe {
            ptr::copy(base.add(count), base, left);
            stack.top.store(base.add(left), Relaxed);
            let marked = stack.len_to(stack.floor.get());
            stack.floor.set(base.add(marked.saturating_sub(count)));
        }
    }

    /// Counts one fill or flush; true when a tick is due.
    pub(crate) fn slow_event(&self) -> bool {
        let left = self.events_until_tick.get().saturating_sub(1);
        self.events_until_tick.set(left);
        left == 0
    }

    /// How many slots of the class are to be flushed now, because they have lain
    /// unused since the last tick: the caller flushes that many of the oldest.
    /// Starts the class's next period.
    pub(crate) fn tick(&self, class: usize) -> usize {
        let stack = &self.stacks[class];
        let cold = &self.cold[class];
        let unused = stack.len_to(stack.floor.get());
        let due = unused - unused / 4;
        stack.floor.set(stack.top.load(Relaxed));
        if !cold.wanted.replace(false) {
            let half = usize::from(cold.capacity.get()) / 2;
            self.set_capacity(class, half.max(self.len(class) - due));
        }
        due
    }

    /// Starts the count of slow events anew, after the classes' ticks.
    pub(crate) fn ticked(&self) {
        self.events_until_tick.set(EVENTS_PER_TICK);
    }

    fn set_limit(&self, class: usize) {
        let stack = &self.stacks[class];
        let cold = &self.cold[class];
        let room = if cold.intercepted.get() {
            0
        } else {
            usize::from(cold.capacity.get())
        };
        // SAFETY: The array has room for the capacity.
        stack.limit.set(unsafe { stack.base.get().add(room) });
    }

    /// Stops the process with a message where the cache contradicts itself.
    #[cfg(test)]
    fn check(&self) {
        let mut budget = 0;
        for class in 0..CLASSES {
            let stack = &self.stacks[class];
            let capacity = usize::from(self.cold[class].capacity.get());
            assert!(capacity <= capacity_max(class));
            assert!(stack.len_to(stack.floor.get()) <= stack.len());
            budget += capacity * slot_bytes(class);
        }
        assert_eq!(budget, self.budget_used.get());
        let one_each: usize = (0..CLASSES).map(slot_bytes).sum();
        assert!(budget <= BUDGET_BYTES + one_each);
    }
}

impl Stack {
    fn len(&self) -> usize {
        self.len_to(self.top.load(Relaxed))
    }

    fn len_to(&self, end: *mut *mut u8) -> usize {
        (end.addr() - self.base.get().addr()) / size_of::<*mut u8>()
    }
}

const fn slot_bytes(class: usize) -> usize {
    GENERAL.class(class).size as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open_cache() -> Box<ThreadCache> {
        let cache = Box::new(ThreadCache::closed());
        cache.open();
        cache
    }

    /// A slot that is only a number.
    fn slot(number: usize) -> *mut u8 {
        ptr::without_provenance_mut(16 * (number + 1))
    }

    #[test]
    fn a_closed_cache_refuses_everything() {
        let cache = ThreadCache::closed();
        for class in 0..CLASSES {
            // SAFETY: The class exists, and the cache is this thread's.
            unsafe {
                assert!(cache.pop(class).is_null());
                assert!(cache.pop_below_mark(class).is_null());
                assert!(!cache.push(class, slot(1)));
            }
            assert_eq!(cache.len(class), 0);
        }
    }

    #[test]
    fn the_budget_holds_though_every_class_is_used() {
        let cache = open_cache();
        for _ in 0..10 {
            for class in 0..CLASSES {
                cache.grow(class);
                cache.check();
            }
        }
        for class in 0..CLASSES {
            assert!(!cache.room_for_fill(class).is_empty());
        }
        const { assert!(size_of::<ThreadCache>() <= 32 << 10) };
    }

    #[test]
    fn what_stays_below_the_mark_is_given_back() {
        let cache = open_cache();
        let class = GENERAL.class_of(64);
        assert!(cache.grow(class));
        for number in 0..8 {
            // SAFETY: The class exists, and the cache is this thread's.
            assert!(unsafe { cache.push(class, slot(number)) });
        }
        assert_eq!(cache.tick(class), 0, "all were pushed in this period");
        assert_eq!(cache.tick(class), 6, "three quarters of eight unused");
        assert_eq!(cache.oldest(class, 6), [0, 1, 2, 3, 4, 5].map(slot));
        cache.flushed(class, 6);
        // SAFETY: As above.
        unsafe {
            assert!(cache.pop(class).is_null());
            assert_eq!(cache.pop_below_mark(class), slot(7));
        }
        cache.check();
    }

    #[test]
    fn capacity_follows_use_and_sinks_again() {
        let cache = open_cache();
        let class = GENERAL.class_of(32);
        let mut pushed = 0;
        loop {
            // SAFETY: The class exists, and the cache is this thread's.
            if unsafe { cache.push(class, slot(pushed)) } {
                pushed += 1;
            } else if !cache.grow(class) {
                break;
            }
        }
        assert_eq!(pushed, capacity_max(class));
        for _ in 0..20 {
            let due = cache.tick(class);
            cache.flushed(class, due);
            cache.check();
        }
        assert_eq!(cache.len(class), 0);
        assert_eq!(cache.cold[class].capacity.get(), 0);
        assert_eq!(cache.budget_used.get(), 0);
    }

    #[test]
    fn a_cache_that_is_opened_again_is_as_new() {
        let cache = open_cache();
        assert!(cache.grow(5) && cache.grow(5));
        cache.intercept_frees(5, true);
        cache.open();
        cache.check();
        assert!(cache.grow(5));
        // SAFETY: The class exists, and the cache is this thread's.
        assert!(unsafe { cache.push(5, slot(0)) });
    }

    #[test]
    fn intercepted_frees_take_the_slow_path() {
        let cache = open_cache();
        // SAFETY: The class exists, and the cache is this thread's.
        unsafe {
            assert!(cache.grow(3));
            assert!(cache.push(3, slot(0)));
            cache.intercept_frees(3, true);
            assert!(!cache.push(3, slot(1)));
            assert!(cache.push_intercepted(3, slot(1)));
            assert_eq!(cache.pop(3), slot(1));
            cache.intercept_frees(3, false);
            assert!(cache.push(3, slot(1)));
        }
        cache.check();
    }

    #[derive(Clone, Debug)]
    enum Op {
        Pop(usize),
        Push(usize),
        Flush(usize, usize),
        Tick(usize),
        Intercept(usize, bool),
    }

    fn op() -> impl Strategy<Value = Op> {
        // Few classes, so that each is driven far; the last has a tiny capacity.
        let class = prop_oneof![Just(1), Just(30), Just(CLASSES - 1)];
        prop_oneof![
            8 => class.clone().prop_map(Op::Pop),
            9 => class.clone().prop_map(Op::Push),
            1 => (class.clone(), 0_usize..100).prop_map(|(class, count)| Op::Flush(class, count)),
            1 => class.clone().prop_map(Op::Tick),
            1 => (class, any::<bool>()).prop_map(|(class, on)| Op::Intercept(class, on)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        /// The stacks behave as plain stacks that are cut at the bottom.
        #[test]
        fn stacks_agree_with_a_model(ops in proptest::collection::vec(op(), 1..400)) {
            let cache = open_cache();
            let mut model = vec![Vec::new(); CLASSES];
            let mut next = 0;
            for op in ops {
                match op {
                    Op::Pop(class) => {
                        // SAFETY: The class exists, and the cache is this thread's.
                        let mut got = unsafe { cache.pop(class) };
                        if got.is_null() {
                            // SAFETY: As above.
                            got = unsafe { cache.pop_below_mark(class) };
                        }
                        prop_assert_eq!(got, model[class].pop().unwrap_or(ptr::null_mut()));
                        if got.is_null() {
                            let room = cache.room_for_fill(class);
                            let count = room.len();
                            for place in room {
                                *place = slot(next);
                                model[class].push(slot(next));
                                next += 1;
                            }
                            cache.filled(class, count);
                        }
                    }
                    Op::Push(class) => {
                        // SAFETY: As above.
                        let kept = unsafe {
                            if cache.is_intercepted(class) {
                                prop_assert!(!cache.push(class, slot(next)));
                                cache.push_intercepted(class, slot(next))
                            } else {
                                cache.push(class, slot(next))
                            }
                        };
                        if kept {
                            model[class].push(slot(next));
                        } else {
                            cache.grow(class);
                        }
                        next += 1;
                    }
                    Op::Flush(class, count) => {
                        let count = cache.oldest(class, count).len();
                        prop_assert_eq!(cache.oldest(class, count), &model[class][..count]);
                        cache.flushed(class, count);
                        model[class].drain(..count);
                    }
                    Op::Tick(class) => {
                        let due = cache.tick(class);
                        prop_assert!(due <= model[class].len());
                        cache.flushed(class, due);
                        model[class].drain(..due);
                    }
                    Op::Intercept(class, on) => cache.intercept_frees(class, on),
                }
                for (class, expected) in model.iter().enumerate() {
                    prop_assert_eq!(cache.len(class), expected.len());
                }
                cache.check();
            }
        }
    }
}
