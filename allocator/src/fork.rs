//! Handlers around `fork`, so that the child finds every lock open and the heap
//! whole, whatever the parent's other threads were doing.
//!
//! As long as there are no others, nobody holds a lock while the only thread forks. And
//! the C library's list of handlers is apart from all else that a small program
//! touches: the first entry makes 128 KiB of the library's file resident. So where the
//! heap learns of a new thread in time, the handlers are registered then. The GNU C
//! library first notes that there are threads, in a flag that it exports, then asks
//! `calloc` for the new one's table of thread-local variables, and starts it after that.
//! Whether that `calloc` is the heap's is [tried](Registration::try_call): it is not where
//! a library with this heap is merely opened by a program.

use crate::sync::atomic::Ordering::{Relaxed, SeqCst};
use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8};
use core::ptr;

/// What to do on the forking thread.
pub(crate) struct Handlers {
    /// In the parent, before: takes every lock in rank order.
    pub(crate) prepare: extern "C" fn(),
    /// In the parent, after: opens them again.
    pub(crate) parent: extern "C" fn(),
    /// In the child: opens them, and gives up what belonged to the threads that
    /// the child does not have.
    pub(crate) child: extern "C" fn(),
}

/// Handlers that are registered once, at the latest before a second thread runs.
pub(crate) struct Registration {
    handlers: Handlers,
    is_done: AtomicBool,
    /// Whether threads are noted in time.
    is_told: AtomicBool,
    /// Zero there means that the handlers have to be registered now.
    watched: AtomicPtr<AtomicU8>,
}

/// What is watched while nothing is to be done.
static NOTHING: AtomicU8 = AtomicU8::new(1);

/// What is watched to see whether a call comes here.
static CALL: AtomicU8 = AtomicU8::new(0);

impl Registration {
    /// Handlers that are not registered yet.
    pub(crate) const fn new(handlers: Handlers) -> Self {
        Self {
            handlers,
            is_done: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
            watched: AtomicPtr::new((&raw const NOTHING).cast_mut()),
        }
    }

    /// Whether the process is known to have had no second thread since the heap was made.
    pub(crate) fn is_alone(&self) -> bool {
        let watched = self.watched.load(Relaxed);
        // SAFETY: What is watched stays as long as the process.
        !ptr::eq(watched, &raw const NOTHING) && unsafe { (*watched).load(Relaxed) } != 0
    }

    #[cold]
    fn note(&self) {
        if ptr::eq(self.watched.load(Relaxed), &raw const CALL) {
            self.is_told.store(true, Relaxed);
        } else {
            self.register();
        }
    }

    /// Has the handlers called at every `fork` from now on, unless they are already.
    /// Should the system refuse, they are not called. Must be called without any of the
    /// heap's locks, as the system may allocate.
    fn register(&self) {
        let nothing = (&raw const NOTHING).cast_mut();
        self.watched.store(nothing, Relaxed);
        if !self.is_done.swap(true, SeqCst) {
            // SAFETY: The handlers are functions for as long as the process lives.
            unsafe {
                libc::pthread_atfork(
                    Some(self.handlers.prepare),
                    Some(self.handlers.parent),
                    Some(self.handlers.child),
                )
            };
        }
    }

    /// Tries whether the call, which is like those that the C library makes for each new
    /// thread, comes to [`note_threads`](Self::note_threads). To be called before anything
    /// else that does.
    pub(crate) fn try_call(&self, call: impl FnOnce()) {
        self.watched.store((&raw const CALL).cast_mut(), Relaxed);
        call();
        self.watched.store((&raw const NOTHING).cast_mut(), Relaxed);
    }

    /// Registers the handlers with the second thread if the process has but one and the
    /// heap is told when that changes; at once otherwise. Must be called without any of
    /// the heap's locks.
    #[cold]
    pub(crate) fn register_with_threads(&self) {
        let flag = single_thread_flag();
        // SAFETY: The flag is one byte of the C library's, which stays.
        let is_alone = !flag.is_null() && unsafe { (*flag).load(Relaxed) } != 0;
        if !is_alone || !self.is_told.load(Relaxed) {
            self.register();
        } else {
            self.watched.store(flag.cast_mut(), Relaxed);
        }
    }

    /// Registers the handlers if another thread is about to run. Costs two loads. Must
    /// be called without any of the heap's locks.
    #[inline(always)]
    pub(crate) fn note_threads(&self) {
        // SAFETY: What is watched stays as long as the process.
        if unsafe { (*self.watched.load(Relaxed)).load(Relaxed) } == 0 {
            self.note();
        }
    }
}

/// `__libc_single_threaded`, a byte that is not zero as long as the process has one thread;
/// null where the C library has no such variable (glibc has since 2.32).
fn single_thread_flag() -> *const AtomicU8 {
    let flag: *const AtomicU8;
    #[cfg(all(
        target_os = "linux",
        target_env = "gnu",
        target_arch = "x86_64",
        not(miri)
    ))]
    // SAFETY: The linker's table is read, where an unknown symbol is null.
    unsafe {
        core::arch::asm!(
            ".weak __libc_single_threaded",
            "mov {flag}, qword ptr [rip + __libc_single_threaded@GOTPCREL]",
            flag = out(reg) flag,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    #[cfg(not(all(
        target_os = "linux",
        target_env = "gnu",
        target_arch = "x86_64",
        not(miri)
    )))]
    {
        flag = ptr::null();
    }
    flag
}
