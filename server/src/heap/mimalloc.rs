//! mimalloc. It keeps no books of what is in use, so these are kept here; how much of the rest is resident it does not
//! know.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use libmimalloc_sys as sys;
use mimalloc::MiMalloc;

use super::{HeapMemory, Pieces};

pub(crate) type Malloc = Counting;

pub(crate) const MALLOC: Malloc = Counting;

/// mimalloc, and the sum of what it has handed out, as Redis keeps it.
pub(crate) struct Counting;

/// Threads share this many counters, so that they seldom meet at one.
const COUNTERS: usize = 16;

#[repr(align(128))]
struct Counter(AtomicI64);

/// What each group of threads has allocated more than it has freed, which may be negative.
static LIVE_BYTES: [Counter; COUNTERS] = [const { Counter(AtomicI64::new(0)) }; COUNTERS];

static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The thread's counter; without a destructor, so that it can be used at any time.
    static OWN: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The counts are only ever added up, and order nothing.
fn count(bytes: i64) {
    let own = OWN.with(|own| {
        if own.get() == usize::MAX {
            own.set(THREADS.fetch_add(1, Ordering::Relaxed) % COUNTERS);
        }
        own.get()
    });
    LIVE_BYTES[own].0.fetch_add(bytes, Ordering::Relaxed);
}

/// Counts an object that is new, unless it is null.
///
/// # Safety
/// The object is null or a live one of mimalloc's.
unsafe fn count_in(object: *mut u8) -> *mut u8 {
    if !object.is_null() {
        // SAFETY: passed on to the caller.
        count(unsafe { sys::mi_usable_size(object.cast()) } as i64);
    }
    object
}

// SAFETY: mimalloc serves every call; counting allocates nothing and changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on to the caller; the object is new.
        unsafe { count_in(MiMalloc.alloc(layout)) }
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        // SAFETY: passed on to the caller.
        unsafe {
            count(-(sys::mi_usable_size(object.cast()) as i64));
            MiMalloc.dealloc(object, layout);
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on to the caller; the object is new.
        unsafe { count_in(MiMalloc.alloc_zeroed(layout)) }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: passed on to the caller; if the new object is null, the old one is live.
        unsafe {
            let old_bytes = sys::mi_usable_size(object.cast()) as i64;
            let moved = count_in(MiMalloc.realloc(object, layout, new_size));
            if !moved.is_null() {
                count(-old_bytes);
            }
            moved
        }
    }
}

/// Whether the free part of the heap is known, and not only what is in use.
pub(super) const KNOWS_FREE: bool = false;

/// The name that INFO gives.
pub(crate) fn name() -> String {
    // SAFETY: the call has no conditions. Two digits each but for the first number.
    let version = unsafe { sys::mi_version() };
    format!(
        "mimalloc-{}.{}.{}",
        version / 10_000,
        version / 100 % 100,
        version % 100
    )
}

/// What is to be done when the server starts.
pub(crate) fn start() {}

/// What was counted.
pub(super) fn memory() -> HeapMemory {
    let counters = LIVE_BYTES.iter();
    let live: i64 = counters
        .map(|counter| counter.0.load(Ordering::Relaxed))
        .sum();
    HeapMemory {
        // The counters are read one after the other, so that they may not agree.
        live_bytes: u64::try_from(live).unwrap_or(0),
        ..HeapMemory::default()
    }
}

/// Gives free memory back to the system.
pub(crate) fn purge() {
    // SAFETY: the call has no conditions.
    unsafe { sys::mi_collect(true) };
}

/// What a worker does before it sleeps for long.
pub(crate) fn rest() {}

/// The heap in detail, as text.
pub(crate) fn describe() -> String {
    unsafe extern "C" fn add(piece: *const c_char, target: *mut c_void) {
        // SAFETY: the library hands on what `describe` gave, and strings.
        unsafe { Pieces::add(target, piece) };
    }
    let mut pieces = Pieces::new();
    // SAFETY: `pieces` outlives the call, and only `add` uses it meanwhile.
    unsafe { sys::mi_stats_print_out(Some(add), ptr::from_mut(&mut pieces).cast()) };
    format!("\nThe process's heap:\n\n{}", pieces.into_text())
}
