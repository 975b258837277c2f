//! Slots held back for a heap profile: of those at hand only so many are let through
//! as pass until one allocation is to be sampled.

use super::ThreadCache;
use crate::cache_capacity::CLASSES;
use crate::sync::atomic::Ordering::Relaxed;

impl ThreadCache {
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
        !self.stacks(class).is_empty()
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
        let stacks = self.stacks(class);
        let count = count.min(self.at_hand(class));
        // SAFETY: The stack holds as many.
        let base = unsafe { stacks.top.load(Relaxed).sub(count) };
        stacks.base.store(base, Relaxed);
    }
}
