//! Atomics and the crate's lock, through one facade.
//!
//! Ordinary builds use `core`'s atomics and a lock that spins for a moment and
//! then sleeps on a futex. Under `--cfg loom` the same names come from loom, so
//! that its tests run the code that ships and not a model of it.
//!
//! `std::sync` has no place on an allocator's paths: its locks may allocate,
//! poison, or keep state in thread-locals with destructors.
//!
//! Every lock has a [`Rank`]. A thread takes locks in rising rank only, which
//! debug builds check, so two threads cannot wait for each other.

#[cfg(loom)]
pub(crate) use loom::sync::atomic;

#[cfg(not(loom))]
pub(crate) use core::sync::atomic;

use core::ops::{Deref, DerefMut};

/// The order in which a thread may take locks: each only while it holds none of
/// the same or a higher rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Rank {
    /// One bin of an arena of the process heap. 0, so that a lock may be zeroed
    /// memory.
    Bin = 0,
    /// The process heap's pages.
    Pages,
    /// The process heap's profile.
    Profile,
    /// The process heap's list of threads and arenas: attach, exit, adoption.
    Registry,
    /// A stand-alone arena that several threads share by handle.
    Handle,
}

#[cfg(all(debug_assertions, not(loom)))]
mod ranks {
    //! Which ranks the calling thread holds, as a bit mask.

    use super::Rank;
    use core::cell::Cell;

    thread_local! {
        static HELD: Cell<u8> = const { Cell::new(0) };
    }

    pub(super) fn acquired(rank: Rank) {
        HELD.with(|held| {
            // Not an `assert!`, whose message would allocate.
            if held.get() >> (rank as u8) != 0 {
                crate::fatal::fatal("locks taken out of rank order", rank as usize);
            }
            held.set(held.get() | 1 << rank as u8);
        });
    }

    pub(super) fn released(rank: Rank) {
        HELD.with(|held| held.set(held.get() & !(1 << rank as u8)));
    }
}

#[cfg(any(not(debug_assertions), loom))]
mod ranks {
    use super::Rank;

    #[inline(always)]
    pub(super) fn acquired(_: Rank) {}
    #[inline(always)]
    pub(super) fn released(_: Rank) {}
}

/// A value that only the holder of the lock can reach.
///
/// Not fair, not reentrant, never poisoned. A lock in zeroed memory is an open one
/// of the rank [`Rank::Bin`], if zeros are a value.
pub(crate) struct Lock<T> {
    raw: raw::RawLock,
    rank: Rank,
    value: core::cell::UnsafeCell<T>,
}

// SAFETY: The lock hands the value to one thread at a time, which is all that
// sharing needs of a value that may itself move between threads.
unsafe impl<T: Send> Sync for Lock<T> {}
// SAFETY: Moving the lock moves the value.
unsafe impl<T: Send> Send for Lock<T> {}

impl<T> Lock<T> {
    /// An open lock.
    #[cfg(not(loom))]
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self {
            raw: raw::RawLock::new(),
            rank,
            value: core::cell::UnsafeCell::new(value),
        }
    }

    /// An open lock; loom's atomics cannot be made in a constant.
    #[cfg(loom)]
    pub(crate) fn new(rank: Rank, value: T) -> Self {
        Self {
            raw: raw::RawLock::new(),
            rank,
            value: core::cell::UnsafeCell::new(value),
        }
    }

    /// Waits for the lock.
    #[inline]
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.raw.lock();
        ranks::acquired(self.rank);
        Guard { lock: self }
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        if self.raw.try_lock() {
            ranks::acquired(self.rank);
            Some(Guard { lock: self })
        } else {
            None
        }
    }

    /// Takes the lock over a fork, outside the rank order: the fork handlers hold
    /// several arenas at once, which nothing else does.
    #[cfg(not(loom))]
    pub(crate) fn acquire_for_fork(&self) {
        self.raw.lock();
    }

    /// Opens the lock again after a fork, in the parent or in the child.
    ///
    /// # Safety
    ///
    /// The calling thread took it with [`acquire_for_fork`](Self::acquire_for_fork);
    /// in the child, that thread's only copy calls.
    #[cfg(not(loom))]
    pub(crate) unsafe fn release_after_fork(&self) {
        self.raw.unlock();
    }
}

/// The proof that a [`Lock`] is held; opens it when dropped.
pub(crate) struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The guard exists only while this thread holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: As above, and the guard itself is borrowed exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        ranks::released(self.lock.rank);
        self.lock.raw.unlock();
    }
}

#[cfg(not(loom))]
mod raw {
    //! Drepper's second mutex ("Futexes Are Tricky", 2011), which makes no system
    //! call unless somebody waits, with a short spin before the sleep.

    use super::atomic::AtomicU32;
    use super::atomic::Ordering::{Acquire, Relaxed, Release};

    const OPEN: u32 = 0;
    const HELD: u32 = 1;
    /// Held, and the holder must wake a sleeper when it leaves.
    const CONTENDED: u32 = 2;

    /// Critical sections are tens to hundreds of nanoseconds long: a spin of a few
    /// microseconds outlasts nearly all of them.
    const SPINS: u32 = 100;

    pub(super) struct RawLock {
        state: AtomicU32,
    }

    impl RawLock {
        pub(super) const fn new() -> Self {
            Self {
                state: AtomicU32::new(OPEN),
            }
        }

        #[inline]
        pub(super) fn try_lock(&self) -> bool {
            // Acquire meets the Release of `unlock`.
            self.state
                .compare_exchange(OPEN, HELD, Acquire, Relaxed)
                .is_ok()
        }

        #[inline]
        pub(super) fn lock(&self) {
            if !self.try_lock() {
                self.lock_contended();
            }
        }

        #[cold]
        fn lock_contended(&self) {
            for _ in 0..SPINS {
                if self.state.load(Relaxed) == OPEN && self.try_lock() {
                    return;
                }
                core::hint::spin_loop();
            }
            // Acquire meets the Release of `unlock`. Whoever comes out of the sleep
            // takes the lock as contended, since others may sleep behind it.
            while self.state.swap(CONTENDED, Acquire) != OPEN {
                futex_wait(&self.state, CONTENDED);
            }
        }

        #[inline]
        pub(super) fn unlock(&self) {
            // Release meets the Acquire of the next `lock`.
            if self.state.swap(OPEN, Release) == CONTENDED {
                futex_wake_one(&self.state);
            }
        }
    }

    /// Sleeps while the word holds `expected`; may return early.
    fn futex_wait(word: &AtomicU32, expected: u32) {
        super::futex_wait(word, expected, None);
    }

    #[cold]
    fn futex_wake_one(word: &AtomicU32) {
        super::futex_wake(word);
    }
}

#[cfg(loom)]
mod raw {
    //! The lock in terms that loom explores: a flag and a yield.

    use super::atomic::AtomicBool;
    use super::atomic::Ordering::{Acquire, Relaxed, Release};

    pub(super) struct RawLock {
        held: AtomicBool,
    }

    impl RawLock {
        pub(super) fn new() -> Self {
            Self {
                held: AtomicBool::new(false),
            }
        }

        pub(super) fn try_lock(&self) -> bool {
            self.held
                .compare_exchange(false, true, Acquire, Relaxed)
                .is_ok()
        }

        pub(super) fn lock(&self) {
            while !self.try_lock() {
                loom::thread::yield_now();
            }
        }

        pub(super) fn unlock(&self) {
            self.held.store(false, Release);
        }
    }
}

/// Sleeps while `word` holds `expected`, at most `timeout_ns` nanoseconds.
/// Returns early on a wake-up, a signal or for no reason; leaves `errno` alone.
#[cfg(not(loom))]
pub(crate) fn futex_wait(word: &atomic::AtomicU32, expected: u32, timeout_ns: Option<u64>) {
    let timeout = timeout_ns.map(|ns| libc::timespec {
        tv_sec: (ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (ns % 1_000_000_000) as libc::c_long,
    });
    let timeout = timeout
        .as_ref()
        .map_or(core::ptr::null(), core::ptr::from_ref);
    let errno = Errno::save();
    // SAFETY: The word outlives the call, the timeout is null or a valid timespec,
    // and FUTEX_WAIT touches nothing else.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            timeout,
        );
    }
    errno.restore();
}

/// Wakes one thread that sleeps in [`futex_wait`] on `word`.
#[cfg(not(loom))]
pub(crate) fn futex_wake(word: &atomic::AtomicU32) {
    let errno = Errno::save();
    // SAFETY: FUTEX_WAKE only uses the word's address.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        );
    }
    errno.restore();
}

/// The caller's `errno`: an allocation that succeeds, and every free, must leave
/// it as it was, whatever system calls happen on the way.
#[cfg(not(loom))]
pub(crate) struct Errno(libc::c_int);

#[cfg(not(loom))]
impl Errno {
    pub(crate) fn save() -> Self {
        // SAFETY: The location is the calling thread's own and always valid.
        Self(unsafe { *libc::__errno_location() })
    }

    pub(crate) fn restore(self) {
        // SAFETY: As above.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn one_holder_at_a_time() {
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        let lock = Arc::new(Lock::new(Rank::Bin, 0_u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let lock = Arc::clone(&lock);
                std::thread::spawn(move || {
                    for _ in 0..rounds {
                        let mut value = lock.lock();
                        let seen = *value;
                        core::hint::black_box(&mut *value);
                        *value = seen + 1;
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*lock.lock(), 4 * rounds);
    }

    #[test]
    fn try_lock_refuses_while_held() {
        let lock = Lock::new(Rank::Pages, ());
        let held = lock.try_lock().expect("nobody holds it");
        assert!(lock.raw.try_lock().eq(&false));
        drop(held);
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn a_sleeper_is_woken() {
        let lock = Arc::new(Lock::new(Rank::Registry, false));
        let mut held = lock.lock();
        let waiter = {
            let lock = Arc::clone(&lock);
            std::thread::spawn(move || *lock.lock())
        };
        // Long enough for the waiter to give up spinning and sleep.
        std::thread::sleep(std::time::Duration::from_millis(20));
        *held = true;
        drop(held);
        assert!(waiter.join().unwrap());
    }

    #[test]
    fn waiting_keeps_errno() {
        let word = atomic::AtomicU32::new(1);
        // SAFETY: The location is this thread's own.
        unsafe { *libc::__errno_location() = 77 };
        futex_wait(&word, 0, Some(1));
        futex_wait(&word, 1, Some(1_000));
        futex_wake(&word);
        assert_eq!(Errno::save().0, 77);
    }
}
