//! A thread's free slots at hand: two stacks per size class, in front of an arena.
//!
//! Frees push on one stack, and allocations pop what was freed last: it is still in the
//! processor's cache, and a program touches no more slots than it needs. Only where
//! nothing is left of that they pop from the other stack, which is filled with slots from
//! the arena. (Against a stack of freed slots that waits until the other one is used up:
//! 13% more of larson's operations, 12% less time of espresso. It has a price where objects
//! die that are in none of the processor's caches, since the next allocation has to wait
//! until such an object's class is known: 1 M objects replaced at random take up to a sixth
//! longer.)
//!
//! There are two since freed slots are not always *reused*:
//!
//! | | what was freed | why |
//! |---|---|---|
//! | the class is sparse | goes back to its slabs, and new slots come from the fullest of them | else the slots of sparse slabs go round for ever and the slabs never empty (simulated: where a class halves and lives on, its slabs stay at 2.28 times the live bytes, against 1.23 where frees into slabs at most half used go past the stack) |
//! | a heap profile is on, or has been | waits until nothing else is left, when the stacks change places | allocations are counted by the slots that are let through |
//! | the hardened mode | the same | what was freed is not the next to be handed out |
//!
//! A stack is an array of slot addresses. Neither push nor pop touches the slot
//! or its slab: that is why this wins over linked lists through the objects once
//! the heap is larger than the processor's caches (as with jemalloc's `cache_bin`).
//! Slots come and go in batches, and this file does not know where: a caller fills and
//! flushes.
//!
//! ```text
//!  base       top                      free base       free top      free limit
//!   | slots    |         |              | slots          |            |        |
//!         <- pop second                     <- pop first, push ->
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

mod capacity;
mod layout;
mod sampled;
#[cfg(test)]
mod tests;

pub(crate) use capacity::Due;

use crate::cache_capacity::{
    CLASSES, FILL_MAX, capacity_bound, capacity_max, fill_batch, slot_bytes, turn_min,
};
use crate::page_map::{FIRST_CLASS, entry_of_class};
use crate::process_bin::Spread;
use crate::reuse::{Place, Reuse};
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::atomic::{AtomicPtr, AtomicUsize};
use crate::units::PAGE_BYTES;
use capacity::EVENTS_PER_TICK;
use core::cell::{Cell, UnsafeCell};
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use layout::{SLOTS, array_starts, tier_of, tier_slots};

/// What push and pop need of a class. All of it but `reuse` is written by the owner alone;
/// other threads read it for statistics.
#[repr(C)]
struct Stacks {
    top: AtomicPtr<*mut u8>,
    base: AtomicPtr<*mut u8>,
    free_top: AtomicPtr<*mut u8>,
    free_limit: AtomicPtr<*mut u8>,
    /// Whether freed slots are reused, which another thread may end.
    reuse: Reuse,
}

/// Words of a class's stacks.
const STACKS_WORDS: u16 = (size_of::<Stacks>() / size_of::<usize>()) as u16;

/// The page map's entries in the process heap: the classes are the last ones.
const ENTRIES: usize = entry_of_class(CLASSES - 1) as usize + 1;

/// Where the stacks of a class lie: words from the start of any cache. There are such
/// places for pages without slots, too, at which nothing can be pushed or popped, so that
/// a free need not tell the two apart before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StackPlace(u16);

impl StackPlace {
    /// That of a class.
    #[inline(always)]
    pub(crate) const fn of_class(class: usize) -> Self {
        debug_assert!(class < CLASSES);
        Self::of_entry(entry_of_class(class))
    }

    /// That of slots on pages with this entry in the process heap's page map.
    #[inline(always)]
    pub(crate) const fn of_entry(entry: u8) -> Self {
        debug_assert!((entry as usize) < ENTRIES);
        Self(entry as u16 * STACKS_WORDS)
    }

    /// The entry.
    #[inline(always)]
    pub(crate) const fn entry(self) -> u8 {
        (self.0 / STACKS_WORDS) as u8
    }

    /// Whether this is the place of a class.
    #[inline(always)]
    pub(crate) const fn names_class(self) -> bool {
        self.entry() >= FIRST_CLASS
    }

    /// The class, if this [is](Self::names_class) the place of one.
    #[inline(always)]
    pub(crate) const fn class(self) -> usize {
        debug_assert!(self.names_class());
        self.entry().wrapping_sub(FIRST_CLASS) as usize
    }
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
    /// Freed slots that stayed when others were flushed, and the newest of these.
    kept: Cell<u16>,
    newest_kept: Cell<*mut u8>,
    /// Allocations, besides those that the stack lets through, until one is to be
    /// sampled. Of use while a heap profile is on.
    until_sample: Cell<u32>,
}

/// What [`Cold::kept`] is after slots have come to be allocated.
const ALLOCATES: u16 = u16::MAX;

/// The stacks of one thread. Zeroed memory is a valid cache without any room:
/// every push and pop of it is refused.
#[repr(C)]
pub(crate) struct ThreadCache {
    /// By what the page map says of the slots' pages. Those of entries that name no class
    /// never have room.
    stacks: [Stacks; ENTRIES],
    cold: [Cold; CLASSES],
    /// Bytes of slots that the capacities may add up to; [`capacity_least`] of each
    /// class may come on top.
    budget: AtomicUsize,
    /// Bytes of slots that the capacities add up to.
    budget_used: AtomicUsize,
    /// Bytes of the arena's slots that the program has used at most, forgotten by and by.
    most_in_use: Cell<usize>,
    events_until_tick: Cell<u32>,
    /// The state of the heap profile that `until_sample` of the classes belongs to.
    profile: Cell<u32>,
    /// Where the [`Arrays`] start; null if the cache is closed.
    arrays: AtomicPtr<*mut u8>,
}

/// Room for the slots that lie in a cache. Apart, since a closed one has none.
pub(crate) struct Arrays(UnsafeCell<[*mut u8; SLOTS]>);

// SAFETY: Other threads only read the atomics, but for `reuse`, which is made for any
// thread to end; the rest belongs to the owner.
unsafe impl Sync for ThreadCache {}

// SAFETY: Only the owner of the cache that was opened with them reads and writes them.
unsafe impl Sync for Arrays {}

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
                    reuse: Reuse::new(),
                }
            }; ENTRIES],
            cold: [const {
                Cold {
                    free_base: AtomicPtr::new(ptr::null_mut()),
                    capacity: Cell::new(0),
                    wanted: Cell::new(false),
                    spread: Cell::new(Spread::Loose),
                    kept: Cell::new(0),
                    newest_kept: Cell::new(ptr::null_mut()),
                    until_sample: Cell::new(0),
                }
            }; CLASSES],
            budget: AtomicUsize::new(0),
            budget_used: AtomicUsize::new(0),
            most_in_use: Cell::new(0),
            events_until_tick: Cell::new(0),
            profile: Cell::new(0),
            arrays: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Opens an empty cache, closed or open, as if it had never been used, with the budget
    /// in bytes. Freed slots are reused until [`end_reuse`](Self::end_reuse).
    ///
    /// # Safety
    ///
    /// The calling thread owns the cache, or nobody does yet. The arrays are this cache's
    /// alone, and last as long as it is used.
    pub(crate) unsafe fn open(&self, arrays: &Arrays, budget: usize) {
        self.arrays.store(arrays.0.get().cast(), Relaxed);
        for (class, cold) in self.cold.iter().enumerate() {
            let stacks = self.stacks(class);
            let (base, free_base) = array_starts(0, class);
            let (base, free_base) = (self.place(base), self.place(free_base));
            stacks.base.store(base, Relaxed);
            stacks.top.store(base, Relaxed);
            stacks.free_top.store(free_base, Relaxed);
            stacks.free_limit.store(free_base, Relaxed);
            stacks.reuse.open(free_base);
            if cfg!(feature = "hardened") {
                stacks.reuse.end();
            }
            cold.free_base.store(free_base, Relaxed);
            cold.capacity.set(0);
            cold.wanted.set(false);
            cold.spread.set(Spread::Loose);
            cold.kept.set(0);
            cold.until_sample.set(0);
        }
        self.profile.set(0);
        self.budget.store(budget, Relaxed);
        self.budget_used.store(0, Relaxed);
        self.most_in_use.set(0);
        self.events_until_tick.set(EVENTS_PER_TICK);
    }

    /// The stacks of a class.
    #[inline]
    fn stacks(&self, class: usize) -> &Stacks {
        &self.stacks[usize::from(entry_of_class(class))]
    }

    #[inline(always)]
    fn stacks_at(&self, place: StackPlace) -> &Stacks {
        const { assert!(offset_of!(Self, stacks) == 0) };
        // SAFETY: The places are those of `ENTRIES` stacks, with which the cache starts.
        unsafe {
            &*ptr::from_ref(self)
                .cast::<usize>()
                .add(place.0.into())
                .cast()
        }
    }

    /// Takes a slot of the class whose place this is; `None` where the slow path has to.
    ///
    /// # Safety
    ///
    /// The calling thread owns the cache.
    #[inline(always)]
    pub(crate) unsafe fn pop(&self, place: StackPlace) -> Option<NonNull<u8>> {
        let stacks = self.stacks_at(place);
        let free_top = stacks.free_top.load(Relaxed);
        if stacks.reuse.allows(free_top) {
            // SAFETY: The stack holds slots, which are not null, up to `free_top`.
            unsafe {
                let free_top = free_top.sub(1);
                stacks.free_top.store(free_top, Relaxed);
                return Some(NonNull::new_unchecked(*free_top));
            }
        }
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

    /// Keeps a free slot of the class whose place this is; false where the slow path has
    /// to, and where it is the place of no class.
    ///
    /// # Safety
    ///
    /// As for [`pop`](Self::pop); `slot` is a free slot of the class, and the
    /// caller gives it away.
    #[inline(always)]
    pub(crate) unsafe fn push(&self, place: StackPlace, slot: *mut u8) -> bool {
        let stacks = self.stacks_at(place);
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
    /// nothing changed, where the class is sparse or they are too few: none where they
    /// are reused.
    pub(crate) fn turn(&self, class: usize) -> bool {
        let cold = &self.cold[class];
        if self.is_sparse(class) || self.free_len(class) < turn_min(class) {
            return false;
        }
        debug_assert_eq!(self.at_hand(class), 0);
        cold.wanted.set(true);
        cold.kept.set(ALLOCATES);
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
        let (stacks, cold) = (self.stacks(class), &self.cold[class]);
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
        self.set_reuse(class);
    }

    /// Reuses freed slots of the class, or not, as it befits its slabs.
    fn set_reuse(&self, class: usize) {
        let base = self.cold[class].free_base.load(Relaxed);
        let reuse = &self.stacks(class).reuse;
        reuse.set((!self.is_sparse(class)).then_some(base));
    }

    /// Has freed slots of no class reused any more until the cache is [opened](Self::open)
    /// again. Another thread may call this: the owner learns of it a moment later.
    pub(crate) fn end_reuse(&self) {
        (0..CLASSES).for_each(|class| self.stacks(class).reuse.end());
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
        self.set_reuse(class);
        let bound = capacity_bound(class, spread);
        if usize::from(cold.capacity.get()) > bound {
            // What is there above it goes with the next free.
            self.set_capacity(class, bound);
        }
    }

    /// Whether the thread has freed slots of the class, as far as is known, and allocated
    /// none since it last flushed some: what stayed then lies where it lay.
    pub(crate) fn only_frees(&self, class: usize) -> bool {
        let cold = &self.cold[class];
        match cold.kept.get() {
            0 => true,
            ALLOCATES => false,
            kept => {
                let freed = self.freed(class, usize::MAX);
                freed.get(usize::from(kept) - 1) == Some(&cold.newest_kept.get())
            }
        }
    }

    /// Whether there is no room for another freed slot of the class.
    pub(crate) fn is_full(&self, class: usize) -> bool {
        let stacks = self.stacks(class);
        stacks.free_top.load(Relaxed) >= stacks.free_limit.load(Relaxed)
    }

    /// How many slots of the class lie here. Another thread may ask, and gets an
    /// answer that was about true a moment ago.
    pub(crate) fn len(&self, class: usize) -> usize {
        let max = capacity_max(class);
        self.at_hand(class).min(max) + self.free_len(class).min(max)
    }

    /// Bytes of the slots that lie here.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = |class| self.len(class) * slot_bytes(class);
        (0..CLASSES).map(bytes).sum()
    }

    /// Slots to be allocated next, those held back included.
    pub(crate) fn at_hand(&self, class: usize) -> usize {
        distance(
            self.start_at_hand(class),
            self.stacks(class).top.load(Relaxed),
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
        let (one, other) = array_starts(self.tier(class), class);
        match self.place(one) {
            one if one == free_base => self.place(other),
            one => one,
        }
    }

    /// The tier in whose arrays the class's stacks are, when the cache is open.
    fn tier(&self, class: usize) -> usize {
        let free_base = self.cold[class].free_base.load(Relaxed);
        tier_of(distance(self.place(0), free_base))
    }

    /// The place of a slot of the arrays, or of their end.
    fn place(&self, slot: usize) -> Place {
        debug_assert!(slot <= SLOTS);
        // SAFETY: There are as many.
        unsafe { self.arrays.load(Relaxed).add(slot) }
    }

    /// Moves the stacks of the class to its arrays in a higher tier.
    #[cold]
    #[inline(never)]
    fn move_up(&self, class: usize, tier: usize) {
        let (stacks, cold) = (self.stacks(class), &self.cold[class]);
        let start = self.start_at_hand(class);
        let held_back = distance(start, stacks.base.load(Relaxed));
        let (at_hand, freed) = (self.at_hand(class), self.free_len(class));
        let (one, other) = array_starts(tier, class);
        let (one, other) = (self.place(one), self.place(other));
        // SAFETY: The higher tier's arrays have room for what is in the lower one's, which
        // they do not overlap, and only the owner, who calls, uses either.
        unsafe {
            ptr::copy_nonoverlapping(start, one, at_hand);
            ptr::copy_nonoverlapping(cold.free_base.load(Relaxed), other, freed);
            stacks.base.store(one.add(held_back), Relaxed);
            stacks.top.store(one.add(at_hand), Relaxed);
            cold.free_base.store(other, Relaxed);
            stacks.free_top.store(other.add(freed), Relaxed);
        }
        self.set_reuse(class);
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
        self.stacks(class).free_top.store(top, Relaxed);
    }

    fn free_len(&self, class: usize) -> usize {
        distance(
            self.cold[class].free_base.load(Relaxed),
            self.stacks(class).free_top.load(Relaxed),
        )
    }

    /// The room for a batch of slots to be allocated, of which there are none: at most
    /// half of the capacity, which first grows if that makes the batch larger. Report with
    /// [`filled`](Self::filled) what was put there; the last comes out first.
    #[expect(
        clippy::mut_from_ref,
        reason = "the array behind an owned cache's cells"
    )]
    pub(crate) fn room_for_fill(&self, class: usize) -> &mut [*mut u8] {
        debug_assert!(self.stacks(class).is_empty());
        self.cold[class].wanted.set(true);
        self.cold[class].kept.set(ALLOCATES);
        let capacity = &self.cold[class].capacity;
        if fill_batch(capacity.get().into()) < FILL_MAX {
            self.grow(class);
        }
        let base = self.stacks(class).base.load(Relaxed);
        let batch = fill_batch(capacity.get().into());
        // SAFETY: The array has room for the capacity, and only the owner, who
        // calls, uses it.
        unsafe { core::slice::from_raw_parts_mut(base, batch) }
    }

    /// Counts in the first `count` slots of [`room_for_fill`](Self::room_for_fill).
    pub(crate) fn filled(&self, class: usize, count: usize) {
        let stacks = self.stacks(class);
        debug_assert!(count <= usize::from(self.cold[class].capacity.get()));
        // SAFETY: The count is within the stack's array.
        stacks
            .top
            .store(unsafe { stacks.base.load(Relaxed).add(count) }, Relaxed);
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
        let cold = &self.cold[class];
        let base = cold.free_base.load(Relaxed);
        // SAFETY: The stack holds `count + left` slots.
        unsafe {
            ptr::copy(base.add(count), base, left);
            self.stacks(class).free_top.store(base.add(left), Relaxed);
            if left > 0 {
                cold.newest_kept.set(*base.add(left - 1));
            }
        }
        cold.kept.set(left as u16);
    }

    /// Bytes of pages that the stacks in use, and what leads to them, lie on, where the
    /// arrays start so many bytes behind the start of a page, and all that is before them
    /// on these pages is in use. Another thread may ask, as with [`len`](Self::len).
    pub(crate) fn resident_bytes(&self, header: usize) -> usize {
        let mut pages = 0_u128;
        let mut count = |start: usize, end: usize| {
            (start / PAGE_BYTES..end.div_ceil(PAGE_BYTES)).for_each(|page| pages |= 1 << page);
        };
        let place = |slot| header + slot * size_of::<*mut u8>();
        count(0, header);
        for class in 0..CLASSES {
            let free_base = self.cold[class].free_base.load(Relaxed);
            let capacity = distance(free_base, self.stacks(class).free_limit.load(Relaxed));
            if capacity == 0 {
                continue;
            }
            let top = self.tier(class);
            for tier in 0..=top {
                let room = tier_slots(tier, class);
                let used = if tier < top { room } else { capacity.min(room) };
                let (one, other) = array_starts(tier, class);
                if used > 0 {
                    count(place(one), place(one + used));
                    count(place(other), place(other + used));
                }
            }
        }
        pages.count_ones() as usize * PAGE_BYTES
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
