//! jemalloc. It keeps books of everything, which its control interface shows.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use tikv_jemalloc_sys as sys;
use tikv_jemallocator::Jemalloc;

use super::{HeapMemory, Pieces};

pub(crate) type Malloc = Jemalloc;

pub(crate) const MALLOC: Malloc = Jemalloc;

/// Reads a figure; `None` where the library does not have it.
fn read<T: Copy>(name: &CStr, mut value: T) -> Option<T> {
    let mut len = size_of::<T>();
    // SAFETY: the library writes at most `len` bytes, and refuses if the value is of another length.
    let error = unsafe {
        sys::mallctl(
            name.as_ptr(),
            ptr::from_mut(&mut value).cast(),
            &raw mut len,
            ptr::null_mut(),
            0,
        )
    };
    (error == 0).then_some(value)
}

/// Sets a figure, or does what its name says.
fn write<T: Copy>(name: &CStr, mut value: T) {
    // Nothing of what is written here can be refused but what the library was built without.
    // SAFETY: the library reads the value, and refuses one of another length.
    let _ = unsafe {
        sys::mallctl(
            name.as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::from_mut(&mut value).cast(),
            size_of::<T>(),
        )
    };
}

/// Whether the free part of the heap is known, and not only what is in use.
pub(super) const KNOWS_FREE: bool = true;

/// The name that INFO gives.
pub(crate) fn name() -> String {
    let version = read(c"version", ptr::null::<c_char>()).filter(|version| !version.is_null());
    let Some(version) = version else {
        return "jemalloc".to_owned();
    };
    // SAFETY: the version is a constant string.
    let version = unsafe { CStr::from_ptr(version) }.to_string_lossy();
    // What follows the number names a commit.
    let number = version.split('-').next().unwrap_or_default();
    format!("jemalloc-{number}")
}

/// What is to be done when the server starts: the thread that gives free pages back begins, as it does in Redis.
pub(crate) fn start() {
    write(c"background_thread", true);
}

/// The allocator's own books.
pub(super) fn memory() -> HeapMemory {
    // The figures stand still until this is written.
    write(c"epoch", 1_u64);
    let figure = |name| read(name, 0_usize).unwrap_or(0) as u64;
    let allocated = figure(c"stats.allocated");
    let active = figure(c"stats.active");
    // Those of all arenas together: the number is MALLCTL_ARENAS_ALL.
    let cached = figure(c"stats.arenas.4096.tcache_bytes").min(allocated);
    let dirty = figure(c"stats.arenas.4096.pdirty") * figure(c"arenas.page");
    // What is called metadata there counts address space, too.
    let metadata = figure(c"stats.resident").saturating_sub(active + dirty);
    HeapMemory {
        live_bytes: allocated - cached,
        free_slot_bytes: active.saturating_sub(allocated),
        cached_bytes: cached,
        dirty_bytes: dirty,
        metadata_bytes: metadata,
    }
}

/// Gives free memory back to the system.
pub(crate) fn purge() {
    for name in [c"thread.tcache.flush", c"arena.4096.purge"] {
        // SAFETY: nothing is read and nothing written.
        let _ = unsafe {
            sys::mallctl(
                name.as_ptr(),
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
                0,
            )
        };
    }
}

/// What a worker does before it sleeps for long.
pub(crate) fn rest() {}

/// The heap in detail, as text.
pub(crate) fn describe() -> String {
    unsafe extern "C" fn add(target: *mut c_void, piece: *const c_char) {
        // SAFETY: the library hands on what `describe` gave, and strings.
        unsafe { Pieces::add(target, piece) };
    }
    let mut pieces = Pieces::new();
    // SAFETY: `pieces` outlives the call, and only `add` uses it meanwhile.
    unsafe {
        sys::malloc_stats_print(Some(add), ptr::from_mut(&mut pieces).cast(), ptr::null());
    }
    format!("\nThe process's heap:\n\n{}", pieces.into_text())
}
