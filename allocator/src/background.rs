//! The purge thread: started when there is something to do for the first time,
//! asleep whenever there is nothing.
//!
//! It knows only a function to call. That does what is due and says when it wants
//! to be called again, or that it has nothing left to do. Then the thread sleeps
//! without a timeout until somebody [notifies](Background::notify) it, so an idle
//! process shrinks and then costs nothing. If there is nothing to do but at a later
//! time, it sleeps until then, or until it is notified.
//!
//! ```text
//!               notify              nothing left to do
//!  UNSTARTED ------------> AWAKE -----------------------> ASLEEP
//!      |                     ^                               |
//!      | the system refuses  |            notify             |
//!      v                     +-------------------------------+
//!   REFUSED
//! ```
//!
//! A program may [forbid](Background::forbid) it, and [allow](Background::allow) it
//! again. A thread that exists is LEAVING then until it has seen that, and ends:
//!
//! ```text
//!                       forbid                    the thread ends
//!  UNSTARTED, REFUSED ----------> FORBIDDEN <----------------------- LEAVING
//!      ^               allow         |             forbid              | ^
//!      +-----------------------------+       AWAKE, ASLEEP -> LEAVING  | |
//!                                                  AWAKE <-------------+ | allow
//! ```

use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};
use crate::sync::{futex_wait, futex_wake};
use core::ffi::c_void;
use core::ptr;

const UNSTARTED: u32 = 0;
const AWAKE: u32 = 1;
const ASLEEP: u32 = 2;
/// There is no such thread, and there will be none: the system has refused it.
const REFUSED: u32 = 3;

/// There is no such thread, since the program does not want it.
const FORBIDDEN: u32 = 4;
/// The program does not want the thread any more, which has not seen that yet.
const LEAVING: u32 = 5;

/// Nanoseconds between the store that says the thread is asleep and its last look
/// for work: far longer than a store takes to be seen by other processors.
const LAST_LOOK_NS: u64 = 10_000_000;

/// What the thread does when it is awake.
pub(crate) struct Work {
    /// Does what is due. The milliseconds until it is to be called again; `None`
    /// where nothing is left to do.
    pub(crate) tick: fn() -> Option<u64>,
    /// Whether there is something to do: asked once more before the thread sleeps.
    pub(crate) has_work: fn() -> bool,
}

/// The thread, started or not.
pub(crate) struct Background {
    state: AtomicU32,
    work: Work,
}

impl Background {
    /// The thread, not started.
    pub(crate) const fn new(work: Work) -> Self {
        Self {
            state: AtomicU32::new(UNSTARTED),
            work,
        }
    }

    /// Says that there is something to do, after it can be seen, and starts the
    /// thread for it if `may_start`. Costs one load while the thread is awake. Must
    /// be called without any of the heap's locks. False where there is no thread
    /// because the system has refused it.
    #[inline]
    pub(crate) fn notify(&'static self, may_start: bool) -> bool {
        // No fence orders this load after the caller's stores: the thread looks
        // once more a while after it has said that it is asleep.
        self.state.load(Relaxed) == AWAKE || self.wake(may_start)
    }

    /// Whether the thread was made.
    pub(crate) fn is_started(&self) -> bool {
        matches!(self.state.load(Relaxed), AWAKE | ASLEEP)
    }

    #[cold]
    fn wake(&'static self, may_start: bool) -> bool {
        // Where there is no thread, callers only read the state, at the same time.
        if self.state.load(Relaxed) == ASLEEP
            && self
                .state
                .compare_exchange(ASLEEP, AWAKE, SeqCst, Relaxed)
                .is_ok()
        {
            futex_wake(&self.state);
        } else if may_start {
            self.start_once();
        }
        !matches!(self.state.load(Relaxed), REFUSED | FORBIDDEN | LEAVING)
    }

    /// Starts the thread, if that was not tried before. Must be called without any of
    /// the heap's locks, or the C library's.
    #[inline]
    pub(crate) fn start_once(&'static self) {
        if self.state.load(Relaxed) == UNSTARTED
            // While the thread is being made, others see it as awake.
            && self.state.compare_exchange(UNSTARTED, AWAKE, SeqCst, Relaxed).is_ok()
            && !self.start()
        {
            // It may have been forbidden meanwhile.
            let forbidden = self.change(|state| match state {
                LEAVING => FORBIDDEN,
                _ => REFUSED,
            });
            debug_assert!(matches!(forbidden, AWAKE | LEAVING));
        }
    }

    /// Forgets the thread, in the child of a fork, which does not have it.
    pub(crate) fn forget(&self) {
        self.change(|state| match state {
            FORBIDDEN | LEAVING => FORBIDDEN,
            _ => UNSTARTED,
        });
    }

    /// Ends the thread, and has none started.
    pub(crate) fn forbid(&self) {
        let before = self.change(|state| match state {
            AWAKE | ASLEEP | LEAVING => LEAVING,
            _ => FORBIDDEN,
        });
        if matches!(before, AWAKE | ASLEEP) {
            futex_wake(&self.state);
        }
    }

    /// Lets the thread be started, or stay.
    pub(crate) fn allow(&self) {
        self.change(|state| match state {
            LEAVING => AWAKE,
            FORBIDDEN => UNSTARTED,
            other => other,
        });
    }

    /// Whether the program has not forbidden the thread.
    pub(crate) fn is_allowed(&self) -> bool {
        !matches!(self.state.load(Relaxed), FORBIDDEN | LEAVING)
    }

    /// Goes from one state to the next; returns the former one.
    fn change(&self, next: impl Fn(u32) -> u32) -> u32 {
        let mut state = self.state.load(Relaxed);
        loop {
            match self
                .state
                .compare_exchange(state, next(state), SeqCst, Relaxed)
            {
                Ok(former) => return former,
                Err(now) => state = now,
            }
        }
    }

    fn start(&'static self) -> bool {
        // Its deepest call is a purge with its list of ranges.
        const STACK_BYTES: usize = 128 << 10;
        // SAFETY: All structures are written by their initialising functions
        // before they are used. All signals are blocked while the thread is
        // made, so that it never runs a handler of the program.
        unsafe {
            let mut attributes = core::mem::zeroed::<libc::pthread_attr_t>();
            if libc::pthread_attr_init(&raw mut attributes) != 0 {
                return false;
            }
            libc::pthread_attr_setstacksize(&raw mut attributes, STACK_BYTES);
            libc::pthread_attr_setdetachstate(&raw mut attributes, libc::PTHREAD_CREATE_DETACHED);
            let mut all = core::mem::zeroed::<libc::sigset_t>();
            let mut before = core::mem::zeroed::<libc::sigset_t>();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            let mut thread = core::mem::zeroed::<libc::pthread_t>();
            let failed = libc::pthread_create(
                &raw mut thread,
                &raw const attributes,
                run,
                ptr::from_ref(self).cast_mut().cast(),
            );
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
            libc::pthread_attr_destroy(&raw mut attributes);
            failed == 0
        }
    }

    fn run(&self) {
        // SAFETY: The name is a C string of less than 16 bytes.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"slabkv-purge".as_ptr()) };
        loop {
            if self
                .state
                .compare_exchange(LEAVING, FORBIDDEN, SeqCst, Relaxed)
                .is_ok()
            {
                return;
            }
            let pause_ns = (self.work.tick)().map(|ms| ms * 1_000_000);
            if pause_ns.is_some() && (self.work.has_work)() {
                futex_wait(&self.state, AWAKE, pause_ns);
                continue;
            }
            // Even if a tick is due later, whoever makes work may have it done sooner.
            if self
                .state
                .compare_exchange(AWAKE, ASLEEP, SeqCst, Relaxed)
                .is_err()
            {
                continue;
            }
            // Whoever saw the thread awake before that store may have made work
            // which cannot be seen yet. It can be in a moment.
            futex_wait(&self.state, ASLEEP, Some(LAST_LOOK_NS));
            if !(self.work.has_work)() {
                match pause_ns {
                    Some(_) => futex_wait(&self.state, ASLEEP, pause_ns),
                    None => {
                        while self.state.load(SeqCst) == ASLEEP {
                            futex_wait(&self.state, ASLEEP, None);
                        }
                    }
                }
            }
            let _ = self.state.compare_exchange(ASLEEP, AWAKE, SeqCst, Relaxed);
        }
    }
}

extern "C" fn run(background: *mut c_void) -> *mut c_void {
    // SAFETY: `start` passes a reference that lives as long as the process.
    unsafe { &*background.cast::<Background>() }.run();
    ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    static TICKS: AtomicU32 = AtomicU32::new(0);
    /// Ticks for which there is something to do.
    static LEFT: AtomicU32 = AtomicU32::new(0);

    static BACKGROUND: Background = Background::new(Work {
        tick: || {
            TICKS.fetch_add(1, SeqCst);
            let left = LEFT.load(SeqCst);
            LEFT.store(left.saturating_sub(1), SeqCst);
            (left > 1).then_some(1)
        },
        has_work: || LEFT.load(SeqCst) > 0,
    });

    fn wait_until(what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn the_thread_works_until_nothing_is_left_and_is_woken_again() {
        assert!(BACKGROUND.notify(false));
        assert_eq!(BACKGROUND.state.load(SeqCst), UNSTARTED);
        for round in 1..=3 {
            // First: a thread that has its last look finds the work at once.
            let before = TICKS.load(SeqCst);
            LEFT.store(5, SeqCst);
            assert!(BACKGROUND.notify(round == 1));
            wait_until("it works", || LEFT.load(SeqCst) == 0);
            wait_until("it falls asleep", || {
                BACKGROUND.state.load(SeqCst) == ASLEEP
            });
            assert!(TICKS.load(SeqCst) >= before + 5);
        }
        // Work that nobody has told of is seen by the last look, or never.
        let ticks = TICKS.load(SeqCst);
        std::thread::sleep(Duration::from_millis(30));
        assert_eq!(TICKS.load(SeqCst), ticks, "it sleeps");
    }

    #[test]
    fn a_thread_that_is_forbidden_ends_and_may_come_back() {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        static FORBIDDEN_ONE: Background = Background::new(Work {
            tick: || {
                RUNS.fetch_add(1, SeqCst);
                RUNS.load(SeqCst).is_multiple_of(2).then_some(1)
            },
            has_work: || false,
        });
        let state = || FORBIDDEN_ONE.state.load(SeqCst);
        for sleeps in [false, true, true] {
            assert!(FORBIDDEN_ONE.is_allowed() && FORBIDDEN_ONE.notify(true));
            if sleeps {
                wait_until("it falls asleep", || state() == ASLEEP);
            }
            FORBIDDEN_ONE.forbid();
            assert!(!FORBIDDEN_ONE.is_allowed() && !FORBIDDEN_ONE.notify(true));
            wait_until("it ends", || state() == FORBIDDEN);
            let runs = RUNS.load(SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(RUNS.load(SeqCst), runs);
            // A fork changes nothing in that.
            FORBIDDEN_ONE.forget();
            assert_eq!(state(), FORBIDDEN);
            FORBIDDEN_ONE.allow();
            assert_eq!(state(), UNSTARTED);
        }
    }

    #[test]
    fn a_thread_that_was_about_to_leave_stays_if_it_is_allowed_again() {
        static STAYS: Background = Background::new(Work {
            tick: || None,
            has_work: || false,
        });
        STAYS.state.store(AWAKE, SeqCst);
        STAYS.forbid();
        assert_eq!(STAYS.state.load(SeqCst), LEAVING);
        STAYS.allow();
        assert_eq!(STAYS.state.load(SeqCst), AWAKE);
    }

    #[test]
    fn a_refusal_is_told_each_time() {
        static REFUSER: Background = Background::new(Work {
            tick: || None,
            has_work: || false,
        });
        REFUSER.state.store(REFUSED, SeqCst);
        assert!(!REFUSER.notify(true));
        assert!(!REFUSER.notify(false));
        REFUSER.forget();
        assert!(REFUSER.notify(false));
    }
}
