//! Several locks of one kind, taken together in ascending order.
//!
//! A command may need one shard, a few, or all. [`Locks`] owns the shards, each behind its own lock
//! and on cache lines of its own; [`Held`] is the guard for a set of them. Since every thread takes
//! its set in ascending order and never takes a second set while it holds one, no two threads can
//! wait for each other in a circle.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use parking_lot::RawMutex;
use parking_lot::lock_api::{GuardNoSend, RawMutex as _};

use crate::key::ShardSet;

/// One shard and its lock. The alignment keeps neighbours out of each other's cache line pairs.
#[repr(align(128))]
struct Slot<T> {
    lock: RawMutex,
    value: UnsafeCell<T>,
}

/// The shards of a keyspace, each behind its own lock.
pub(crate) struct Locks<T> {
    slots: Box<[Slot<T>]>,
}

// SAFETY: a `T` is reached only through `Held`, which holds the lock of that `T` for as long as it
// lives, so two threads never reach the same `T` at once; `T: Send` lets whichever thread holds the
// lock use it.
unsafe impl<T: Send> Sync for Locks<T> {}

impl<T> Locks<T> {
    pub(crate) fn new(values: impl IntoIterator<Item = T>) -> Self {
        let slots = values
            .into_iter()
            .map(|value| Slot {
                lock: RawMutex::INIT,
                value: UnsafeCell::new(value),
            })
            .collect();
        Locks { slots }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Waits for every lock of `set`, in ascending order.
    ///
    /// # Panics
    /// If `set` names a shard that does not exist.
    #[inline]
    pub(crate) fn lock(&self, set: ShardSet) -> Held<'_, T> {
        let mut waited = Duration::ZERO;
        for index in set.iter() {
            match self.slots[index].lock.try_lock() {
                Some(GuardNoSend { .. }) => {}
                None => waited += self.wait_for(index),
            }
        }
        Held {
            slots: &self.slots,
            set,
            waited,
            thread_bound: PhantomData,
        }
    }

    /// Takes a lock that another thread holds, and says for how long it had to be waited for.
    #[cold]
    fn wait_for(&self, index: usize) -> Duration {
        let began = Instant::now();
        let GuardNoSend { .. } = self.slots[index].lock.lock();
        began.elapsed()
    }

    /// Takes the lock of one shard if it is free at this moment.
    pub(crate) fn try_lock(&self, index: usize) -> Option<Held<'_, T>> {
        self.slots[index]
            .lock
            .try_lock()
            .map(|GuardNoSend { .. }| Held {
                slots: &self.slots,
                set: ShardSet::one(index),
                waited: Duration::ZERO,
                thread_bound: PhantomData,
            })
    }
}

/// The locks of a set of shards, held until dropped.
pub(crate) struct Held<'a, T> {
    slots: &'a [Slot<T>],
    set: ShardSet,
    waited: Duration,
    /// A lock is released by the thread that took it.
    thread_bound: PhantomData<*mut ()>,
}

impl<T> Held<'_, T> {
    #[inline]
    pub(crate) fn set(&self) -> ShardSet {
        self.set
    }

    /// How long other threads that held one of the locks were waited for.
    #[inline]
    pub(crate) fn waited(&self) -> Duration {
        self.waited
    }

    /// A reborrow that can be stored beside other fields without a second lifetime.
    #[inline]
    pub(crate) fn view(&mut self) -> HeldView<'_, T> {
        HeldView {
            slots: self.slots,
            set: self.set,
            exclusive: PhantomData,
        }
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        for index in self.set.iter() {
            // SAFETY: this guard took the lock of every index in `set` on this thread, since it is
            // not `Send`, and gives each back once. `GuardNoSend` has no state to hand on.
            unsafe { self.slots[index].lock.unlock(GuardNoSend::new()) };
        }
    }
}

/// An exclusive borrow of a [`Held`].
pub(crate) struct HeldView<'a, T> {
    slots: &'a [Slot<T>],
    set: ShardSet,
    exclusive: PhantomData<(&'a mut T, *mut ())>,
}

impl<T> HeldView<'_, T> {
    #[inline]
    pub(crate) fn set(&self) -> ShardSet {
        self.set
    }

    /// How many shards there are, held or not.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The shard at `index`.
    ///
    /// # Panics
    /// If its lock is not held.
    #[inline]
    pub(crate) fn get(&mut self, index: usize) -> &mut T {
        assert!(
            self.set.contains(index),
            "shard {index} is used without its lock"
        );
        // SAFETY: the lock of `index` is held for as long as the `Held` that this view borrows
        // exclusively, and `&mut self` keeps a second reference from being made meanwhile.
        unsafe { &mut *self.slots[index].value.get() }
    }

    /// Two different shards at once.
    ///
    /// # Panics
    /// If a lock is not held, or both are the same.
    pub(crate) fn pair(&mut self, first: usize, second: usize) -> (&mut T, &mut T) {
        assert!(first != second, "shard {first} is asked for twice");
        for index in [first, second] {
            assert!(
                self.set.contains(index),
                "shard {index} is used without its lock"
            );
        }
        // SAFETY: as in `get`; the two indices differ, so the references do not overlap.
        unsafe {
            (
                &mut *self.slots[first].value.get(),
                &mut *self.slots[second].value.get(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_timed_and_a_free_lock_is_not_waited_for() {
        let locks = Locks::new([0u64; 2]);
        assert_eq!(locks.lock(ShardSet::first(2)).waited(), Duration::ZERO);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let held = locks.lock(ShardSet::one(1));
            let waited = std::thread::scope(|scope| {
                let waiter = scope.spawn(|| locks.lock(ShardSet::first(2)).waited());
                std::thread::sleep(Duration::from_millis(10));
                drop(held);
                waiter.join().expect("it gets the locks")
            });
            // The other thread may have come to the lock only after it was free again.
            if waited > Duration::ZERO {
                break;
            }
            assert!(Instant::now() < deadline, "nobody waits");
        }
    }

    #[test]
    fn sets_taken_in_any_combination_neither_deadlock_nor_overlap() {
        let locks = Locks::new([0u64; 4]);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let locks = &locks;
                scope.spawn(move || {
                    for round in 0..2_000u64 {
                        let bits = round.wrapping_mul(0x9E37_79B9).wrapping_add(thread) & 15;
                        let set = (0..4)
                            .filter(|i| bits >> i & 1 == 1)
                            .fold(ShardSet::EMPTY, |set, i| set.union(ShardSet::one(i)));
                        let mut held = locks.lock(set);
                        let mut view = held.view();
                        for index in set.iter() {
                            *view.get(index) += 1;
                        }
                    }
                });
            }
        });
        let mut held = locks.lock(ShardSet::first(4));
        let total: u64 = (0..4).map(|index| *held.view().get(index)).sum();
        let expected: u64 = (0..4u64)
            .flat_map(|thread| (0..2_000u64).map(move |round| (thread, round)))
            .map(|(thread, round)| {
                u64::from((round.wrapping_mul(0x9E37_79B9).wrapping_add(thread) & 15).count_ones())
            })
            .sum();
        assert_eq!(total, expected);
    }

    #[test]
    #[should_panic(expected = "without its lock")]
    fn a_shard_outside_the_set_is_refused() {
        let locks = Locks::new([0u8, 0]);
        let mut held = locks.lock(ShardSet::one(0));
        held.view().get(1);
    }
}
