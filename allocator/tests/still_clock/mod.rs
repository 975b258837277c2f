//! A clock that stands still when a test wants it to. What threads keep at hand and which
//! pages are due depends on time, and so on how fast the machine is. The heap asks the C
//! library's function for the time, of which this program has one of its own.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// The time at which the clock stands, in nanoseconds; 0 while it goes.
static HELD_NS: AtomicI64 = AtomicI64::new(0);

fn now(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: The system checks the place that it is given.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}

/// While it lives, the clock stands.
#[must_use]
pub(crate) struct Held;

/// Holds the clock of this process that never goes back: no deadline comes any more.
pub(crate) fn hold() -> Held {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    assert_eq!(now(libc::CLOCK_MONOTONIC, &raw mut time), 0);
    HELD_NS.store(time.tv_sec * 1_000_000_000 + time.tv_nsec, Relaxed);
    Held
}

impl Drop for Held {
    /// The clock goes on, with all the time that has passed meanwhile.
    fn drop(&mut self) {
        HELD_NS.store(0, Relaxed);
    }
}

// SAFETY: It does what the C library's function of this name does, but while the clock is
// held.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(
    clock: libc::clockid_t,
    time: *mut libc::timespec,
) -> libc::c_int {
    let held_ns = HELD_NS.load(Relaxed);
    if held_ns == 0 || clock != libc::CLOCK_MONOTONIC {
        return now(clock, time);
    }
    let held = libc::timespec {
        tv_sec: held_ns / 1_000_000_000,
        tv_nsec: held_ns % 1_000_000_000,
    };
    // SAFETY: The caller gives a place for the time.
    unsafe { time.write(held) };
    0
}
