//! How many slots the cache's stacks may hold from one time to the next: they grow with
//! use as far as the budget goes, and give way again when a class has been idle.

use super::ThreadCache;
use super::layout::tier_for;
use crate::cache_capacity::{budget_bytes, capacity_least, class_share, grown, slot_bytes};
use crate::process_bin::Spread;
use crate::sync::atomic::Ordering::Relaxed;

/// Slow events (fills and flushes) between two ticks of a busy thread, and between two
/// looks at the budget: a thread that frees all it has and then sleeps shall not keep
/// as much as befits the heap that it had.
pub(super) const EVENTS_PER_TICK: u32 = 1 << 12;
const EVENTS_PER_LOOK: u32 = 1 << 7;

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

impl ThreadCache {
    /// Raises the class's capacity; false where that is at its end, and slots have
    /// to be flushed to make room.
    pub(crate) fn grow(&self, class: usize) -> bool {
        self.grow_if(class, self.cold[class].spread.get())
    }

    /// The same for a class of which the thread [only frees](Self::only_frees) slots:
    /// these wait to go back together, and the more of a slab's slots do the better. So it
    /// may hold as much as if its slabs were dense, unless they are sparse.
    pub(crate) fn grow_to_return(&self, class: usize) -> bool {
        let is_sparse = self.is_sparse(class);
        let spread = if is_sparse {
            Spread::Sparse
        } else {
            Spread::Dense
        };
        self.grow_if(class, spread)
    }

    fn grow_if(&self, class: usize, spread: Spread) -> bool {
        let cold = &self.cold[class];
        cold.wanted.set(true);
        let old = usize::from(cold.capacity.get());
        let budget = self.budget.load(Relaxed);
        let used_by_others = self.budget_used.load(Relaxed) - old * slot_bytes(class);
        let room = budget
            .saturating_sub(used_by_others)
            .min(class_share(budget));
        let new = grown(class, old, room, spread);
        if new > old {
            self.set_capacity(class, new);
        }
        new > old
    }

    /// Changes the budget to what befits an arena of which so many bytes of slots are in
    /// use or in a cache: to `bytes_max` at most. What is above it goes with the next ticks.
    pub(crate) fn adapt_budget(&self, taken_bytes: usize, bytes_max: usize) {
        let in_use = taken_bytes.saturating_sub(self.bytes());
        let most = self.most_in_use.get().max(in_use);
        self.most_in_use.set(most);
        self.set_budget(budget_bytes(in_use, most, bytes_max));
    }

    pub(super) fn set_budget(&self, bytes: usize) {
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

    pub(super) fn set_capacity(&self, class: usize, new: usize) {
        let cold = &self.cold[class];
        let old = usize::from(cold.capacity.get());
        let others = self.budget_used.load(Relaxed) - old * slot_bytes(class);
        self.budget_used
            .store(others + new * slot_bytes(class), Relaxed);
        let tier = tier_for(class, new);
        if tier > self.tier(class) {
            self.move_up(class, tier);
        }
        cold.capacity.set(new as u16);
        self.set_limit(class);
    }

    pub(super) fn set_limit(&self, class: usize) {
        let cold = &self.cold[class];
        let room = usize::from(cold.capacity.get());
        // SAFETY: The array has room for the capacity.
        let limit = unsafe { cold.free_base.load(Relaxed).add(room) };
        self.stacks(class).free_limit.store(limit, Relaxed);
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

    /// Starts the count of slow events anew, after the classes' ticks.
    pub(crate) fn ticked(&self) {
        self.most_in_use.set(self.most_in_use.get() / 2);
        self.events_until_tick.set(EVENTS_PER_TICK);
    }
}
