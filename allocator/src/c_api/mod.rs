//! The process heap as C sees it: `malloc` and its family, with the semantics of
//! the GNU C library.
//!
//! | what | here |
//! |---|---|
//! | alignment | at least 16 bytes, whatever the size |
//! | `malloc(0)` | a pointer of its own, to be freed |
//! | `realloc(p, 0)` | frees `p` and returns null, as in glibc |
//! | failure | null with `errno` at `ENOMEM`; the `posix_memalign` way returns it |
//! | success, and every free | `errno` stays as it was |
//! | `free` of a pointer that lies outside of the heap | a message, and the process ends |
//!
//! Nothing here allocates for itself or panics.
//! These are plain Rust functions; the preload library exports each under its C
//! name, so that a Rust program which merely links this crate keeps its C library's
//! `malloc`.
//!
//! None may be called from a signal handler, as with any `malloc`: a thread that
//! holds one of the heap's locks when the signal comes would wait for itself.

mod cxx;
mod report;

pub use cxx::next_operator;
#[cfg(feature = "pprof")]
pub use report::write_heap_profile;
pub use report::{mallinfo, mallinfo2, malloc_info, malloc_stats, stats_json, stats_text};

use crate::custody;
use crate::global_alloc::SlabAlloc;
use crate::hardened::{SEAL_BYTES, SLOTS_ARE_ZERO};
use crate::heap::{self, SMALL_REQUEST_MAX};
use crate::process::{self, Process};
use crate::size_class::GENERAL;
use crate::thread_cache::StackPlace;
use crate::units::PAGE_BYTES;
use core::ffi::{c_int, c_void};
use core::ptr;

/// Tells the heap that the C library itself allocates and frees here, as it does in a
/// program whose `malloc` this is: before the first thread is started, at best. Frees
/// then do not start the heap's purge thread once there has been another, since the C
/// library may hold the lock meanwhile under which it starts threads; allocations do, from
/// 16 MiB on.
///
/// `calloc` is to call the function that the C library calls by this name, which need not
/// be here: another library may come first.
pub fn serve_the_c_library(calloc: impl FnOnce()) {
    process::serve_the_c_library(calloc);
}

/// Gets the heap ready for a `fork` beside other threads, if one is about to be made: to
/// be called first in the `calloc` of whoever [serves the C
/// library](serve_the_c_library), which calls that for each thread before it runs.
#[inline(always)]
pub fn note_threads() {
    process::note_threads();
}

/// The alignment of every object, in bytes: that of C's `max_align_t` on all 64-bit
/// systems.
pub const ALIGN: usize = 16;

/// The largest size that may be asked for, in bytes: pointers into an object must
/// be able to be subtracted.
const SIZE_MAX: usize = isize::MAX as usize - PAGE_BYTES;

/// Sizes up to this many bytes find their class's place in [`PLACES`].
const TABLE_BYTES: usize = 1024;

/// The place of a size's class by `(size + 15) / 16`. Classes that are no multiple of
/// [`ALIGN`] are passed over.
const PLACES: [StackPlace; TABLE_BYTES / ALIGN + 1] = {
    let mut places = [StackPlace::of_class(0); TABLE_BYTES / ALIGN + 1];
    let mut at = 0;
    while at < places.len() {
        let size = if at == 0 { ALIGN } else { at * ALIGN };
        places[at] = match GENERAL.class_of_aligned(size, ALIGN) {
            Some(class) => StackPlace::of_class(class),
            None => panic!("a small size has no class"),
        };
        at += 1;
    }
    places
};

/// Beyond the table every class is a multiple of [`ALIGN`].
const _: () = {
    let mut class = GENERAL.class_of(TABLE_BYTES);
    while class < GENERAL.count() {
        assert!((GENERAL.class(class).size as usize).is_multiple_of(ALIGN));
        class += 1;
    }
};

/// The place of a small object's class.
#[inline(always)]
fn place_of(size: usize) -> StackPlace {
    let size = size + SEAL_BYTES;
    if size <= TABLE_BYTES {
        PLACES[(size + (ALIGN - 1)) >> ALIGN.ilog2()]
    } else {
        StackPlace::of_class(GENERAL.class_of(size))
    }
}

/// `malloc`: `size` bytes, not initialised.
#[inline(always)]
pub fn malloc(size: usize) -> *mut c_void {
    if size <= TABLE_BYTES - SEAL_BYTES {
        return heap::allocate_small(place_of(size), size).cast();
    }
    malloc_beyond_table(size)
}

#[inline(never)]
fn malloc_beyond_table(size: usize) -> *mut c_void {
    if size <= SMALL_REQUEST_MAX {
        return heap::allocate_small(place_of(size), size).cast();
    }
    if size > SIZE_MAX {
        return heap::out_of_memory().cast();
    }
    heap::allocate(size, ALIGN).cast()
}

/// `calloc`: an array of `count` items of `size` bytes, all zero.
#[inline]
pub fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) if bytes <= SMALL_REQUEST_MAX => {
            let object = heap::allocate_small(place_of(bytes), bytes);
            if !SLOTS_ARE_ZERO && !object.is_null() {
                // SAFETY: The object is new and has this size.
                unsafe { object.write_bytes(0, bytes) };
            }
            object.cast()
        }
        Some(bytes) if bytes <= SIZE_MAX => heap::allocate_zeroed(bytes, ALIGN).cast(),
        _ => heap::out_of_memory().cast(),
    }
}

/// `free`. Null is nothing to free.
///
/// # Safety
///
/// `object` is null, or was allocated here and is not used any more.
#[inline(always)]
pub unsafe fn free(object: *mut c_void) {
    // SAFETY: Passed on to the caller.
    unsafe { heap::free_unsized(object.cast()) };
}

/// `free_sized` of C23, and `operator delete` with a size: cheaper than [`free`],
/// since the class follows from the size.
///
/// # Safety
///
/// As for [`free`]; `size` is what was asked for, without an alignment beyond
/// [`ALIGN`].
#[inline(always)]
pub unsafe fn free_sized(object: *mut c_void, size: usize) {
    if object.is_null() {
        return;
    }
    if size > SMALL_REQUEST_MAX {
        // SAFETY: Passed on to the caller.
        return unsafe { heap::free_large_sized(object.cast(), size) };
    }
    // SAFETY: Passed on to the caller.
    unsafe { heap::free_small(object.cast(), place_of(size), Some(size)) };
}

/// `free_aligned_sized` of C23, and `operator delete` with size and alignment.
///
/// # Safety
///
/// As for [`free`]; the object was allocated with this alignment and size.
#[inline]
pub unsafe fn free_aligned_sized(object: *mut c_void, align: usize, size: usize) {
    if align <= ALIGN {
        // SAFETY: Passed on to the caller.
        unsafe { free_sized(object, size) };
    } else {
        // SAFETY: Passed on to the caller.
        unsafe { free(object) };
    }
}

/// `realloc`: gives the object `size` bytes, where it lies or elsewhere, keeping
/// what fits. Null leaves the object as it is, unless `size` is 0.
///
/// # Safety
///
/// `object` is null, or was allocated here; if the result is not null, or `size` is
/// 0, it is not used any more.
#[inline]
pub unsafe fn realloc(object: *mut c_void, size: usize) -> *mut c_void {
    if object.is_null() {
        return malloc(size);
    }
    if size == 0 {
        // SAFETY: Passed on to the caller.
        unsafe { free(object) };
        return ptr::null_mut();
    }
    if size > SIZE_MAX {
        return heap::out_of_memory().cast();
    }
    // SAFETY: The caller's promise.
    let old = unsafe { heap::usable_size(object.cast()) };
    if old > SMALL_REQUEST_MAX && size > SMALL_REQUEST_MAX {
        // SAFETY: Passed on to the caller. The usable size has the same pages as the
        // size that was asked for.
        return unsafe { heap::reallocate(object.cast(), old, ALIGN, size).cast() };
    }
    // An aligned object may be a page run of the size of a class: it must move, or a
    // sized free would take it for a slot.
    // SAFETY: The object is live.
    if size <= SMALL_REQUEST_MAX && unsafe { heap::is_of_class(object.cast(), place_of(size)) } {
        // SAFETY: As above.
        return unsafe { custody::resize(object.cast(), place_of(size).class(), old, size).cast() };
    }
    let target = malloc(size);
    if !target.is_null() {
        // SAFETY: Both objects are live and distinct, and hold that many bytes; the
        // caller gives the old one away.
        unsafe {
            ptr::copy_nonoverlapping(object.cast::<u8>(), target.cast(), old.min(size));
            free(object);
        }
    }
    target
}

/// `reallocarray`: [`realloc`] to `count` items of `size` bytes, with their product
/// checked.
///
/// # Safety
///
/// As for [`realloc`].
#[inline]
pub unsafe fn reallocarray(object: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: Passed on to the caller.
        Some(bytes) => unsafe { realloc(object, bytes) },
        None => heap::out_of_memory().cast(),
    }
}

/// `aligned_alloc`: `size` bytes at a multiple of `align`. An alignment that is no
/// power of two gives null with `errno` at `EINVAL`.
#[inline]
pub fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    if align <= ALIGN && align.is_power_of_two() {
        return malloc(size);
    }
    aligned(align, size)
}

#[inline(never)]
fn aligned(align: usize, size: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        // SAFETY: The location is the calling thread's own and always valid.
        unsafe { *libc::__errno_location() = libc::EINVAL };
        return ptr::null_mut();
    }
    match size.max(1).checked_add(align) {
        Some(bytes) if bytes <= SIZE_MAX => heap::allocate(size.max(1), align.max(ALIGN)).cast(),
        _ => heap::out_of_memory().cast(),
    }
}

/// `memalign`: as [`aligned_alloc`], with the alignment rounded up to a power of
/// two, as glibc does.
pub fn memalign(align: usize, size: usize) -> *mut c_void {
    match align.max(ALIGN).checked_next_power_of_two() {
        Some(align) => aligned_alloc(align, size),
        // No address is a multiple of it.
        None => aligned(0, size),
    }
}

/// `posix_memalign`: as [`aligned_alloc`], with the object in `place` and the error
/// returned. `errno` and, in case of an error, `place` stay as they were.
///
/// # Safety
///
/// `place` is valid for a write.
pub unsafe fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    // SAFETY: The location is the calling thread's own and always valid, and the
    // caller lends `place`.
    unsafe {
        let errno = *libc::__errno_location();
        let object = aligned_alloc(align, size);
        *libc::__errno_location() = errno;
        if object.is_null() {
            return libc::ENOMEM;
        }
        place.write(object);
    }
    0
}

/// `valloc`: `size` bytes at a multiple of the page.
pub fn valloc(size: usize) -> *mut c_void {
    aligned_alloc(page_bytes(), size)
}

/// `pvalloc`: [`valloc`] of whole pages.
pub fn pvalloc(size: usize) -> *mut c_void {
    let page = page_bytes();
    match size.max(1).checked_next_multiple_of(page) {
        Some(bytes) => aligned_alloc(page, bytes),
        None => heap::out_of_memory().cast(),
    }
}

/// The system's page, which may be larger than the heap's.
fn page_bytes() -> usize {
    // SAFETY: The call only reads what the system was started with.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(PAGE_BYTES).max(PAGE_BYTES)
}

/// `malloc_usable_size`: bytes that the object may use; 0 for null.
///
/// # Safety
///
/// `object` is null, or was allocated here and is live.
#[inline]
pub unsafe fn malloc_usable_size(object: *const c_void) -> usize {
    if object.is_null() {
        return 0;
    }
    // SAFETY: Passed on to the caller.
    unsafe { heap::usable_size(object.cast()) }
}

/// `malloc_trim`: gives all free pages back to the system, at once; 1 if there were
/// any. `pad` is of no use here.
pub fn malloc_trim(_pad: usize) -> c_int {
    c_int::from(Process::get().is_some() && SlabAlloc::new().purge() > 0)
}

/// `mallopt`: accepts everything and changes nothing, since the parameters are those
/// of another allocator. 1, which means success.
pub fn mallopt(_parameter: c_int, _value: c_int) -> c_int {
    1
}

#[cfg(test)]
mod tests;
