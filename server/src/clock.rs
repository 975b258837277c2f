//! Time: Unix time for expiry and for people, and a counter of ticks that costs a few nanoseconds to read, for the
//! durations of commands.
//!
//! On x86-64 with an invariant time stamp counter a tick is one cycle of that counter, whose rate is found by
//! comparing it with the monotonic clock since the start, the longer the better. Elsewhere a tick is a nanosecond of
//! the monotonic clock.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds of Unix time, now. A system clock set before 1970 reads as 0.
pub(crate) fn unix_us() -> u64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds of Unix time, now.
#[inline]
pub(crate) fn unix_ms() -> u64 {
    kvstore::clock::now_ms()
}

/// A reading of the tick counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticks(u64);

impl Ticks {
    /// Now.
    #[inline]
    pub(crate) fn now() -> Self {
        Self(source::read())
    }

    /// Ticks from `earlier` until this reading; 0 if that lies after it.
    #[inline]
    pub(crate) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a tick is, for people.
pub(crate) fn tick_source() -> &'static str {
    if source::is_counter() {
        "X86 TSC"
    } else {
        "POSIX clock_gettime"
    }
}

/// Where the counters stood at the start.
struct Origin {
    ticks: Ticks,
    instant: Instant,
}

static ORIGIN: OnceLock<Origin> = OnceLock::new();

/// Notes where the counters stand. Called first thing by `main`; any conversion calls it if nobody did.
pub(crate) fn start() {
    ORIGIN.get_or_init(|| {
        let (ticks, instant) = both();
        Origin { ticks, instant }
    });
}

/// Both counters at one moment: of several readings the one that was interrupted least.
fn both() -> (Ticks, Instant) {
    let mut best = (u64::MAX, Ticks::now(), Instant::now());
    for _ in 0..8 {
        let ticks = Ticks::now();
        let instant = Instant::now();
        let gap = Ticks::now().since(ticks);
        if gap < best.0 {
            best = (gap, ticks, instant);
        }
    }
    (best.1, best.2)
}

/// Time since [`start`].
pub(crate) fn uptime() -> Duration {
    start();
    ORIGIN
        .get()
        .map_or(Duration::ZERO, |origin| origin.instant.elapsed())
}

/// Nanoseconds per tick in units of 2^-32, as last measured; 0 if not yet.
static SCALE: AtomicU64 = AtomicU64::new(0);

/// A number of ticks in nanoseconds.
#[inline]
pub(crate) fn ticks_to_ns(ticks: u64) -> u64 {
    // Relaxed: any measurement will do.
    let scale = match SCALE.load(Ordering::Relaxed) {
        0 => measure_scale(),
        scale => scale,
    };
    ((u128::from(ticks) * u128::from(scale)) >> 32) as u64
}

#[cold]
fn measure_scale() -> u64 {
    let scale = (ns_per_tick() * 4_294_967_296.0) as u64;
    SCALE.store(scale, Ordering::Relaxed);
    scale
}

/// How many nanoseconds a tick lasts, as measured from the start until now.
pub(crate) fn ns_per_tick() -> f64 {
    if !source::is_counter() {
        return 1.0;
    }
    start();
    let Some(origin) = ORIGIN.get() else {
        return 1.0;
    };
    // Within the first milliseconds the comparison would be too coarse: wait for it.
    loop {
        let (now, instant) = both();
        let ns = instant.saturating_duration_since(origin.instant).as_nanos();
        let ticks = now.since(origin.ticks);
        if ns >= 5_000_000 && ticks > 0 {
            return ns as f64 / ticks as f64;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[cfg(target_arch = "x86_64")]
mod source {
    use std::arch::x86_64::{__cpuid, _rdtsc};
    use std::sync::atomic::{AtomicU8, Ordering};
    use std::time::Instant;

    const UNKNOWN: u8 = 0;
    const COUNTER: u8 = 1;
    const MONOTONIC: u8 = 2;

    static KIND: AtomicU8 = AtomicU8::new(UNKNOWN);

    #[inline]
    pub(super) fn read() -> u64 {
        if is_counter() {
            // SAFETY: every x86-64 processor has RDTSC; it only reads a register.
            unsafe { _rdtsc() }
        } else {
            monotonic_ns()
        }
    }

    #[inline]
    pub(super) fn is_counter() -> bool {
        // Relaxed: the value is a pure function of the processor, whoever computes it.
        match KIND.load(Ordering::Relaxed) {
            UNKNOWN => detect(),
            kind => kind == COUNTER,
        }
    }

    /// Whether the counter runs at one rate in all power states (leaf 8000_0007h, EDX bit 8).
    #[cold]
    fn detect() -> bool {
        let invariant =
            __cpuid(0x8000_0000).eax >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0;
        KIND.store(
            if invariant { COUNTER } else { MONOTONIC },
            Ordering::Relaxed,
        );
        invariant
    }

    fn monotonic_ns() -> u64 {
        static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        u64::try_from(BASE.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod source {
    use std::time::Instant;

    pub(super) fn read() -> u64 {
        static BASE: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        u64::try_from(BASE.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn is_counter() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_measure_real_time() {
        start();
        // What lies between two readings of the one counter holds what lies between two of the other, however long
        // this thread has to wait between them.
        let (outer, instant, inner) = (Ticks::now(), Instant::now(), Ticks::now());
        std::thread::sleep(Duration::from_millis(30));
        let least = Ticks::now().since(inner) as f64 * ns_per_tick();
        let ns = instant.elapsed().as_nanos() as f64;
        let most = Ticks::now().since(outer) as f64 * ns_per_tick();
        assert!(
            least > 20e6 && least < ns * 1.05 && most > ns * 0.95,
            "{least} to {most} ns by ticks, {ns} ns by the clock"
        );
        assert_eq!(inner.since(Ticks::now()), 0);
    }
}
