//! The process heap's operations: fast paths that run on the thread's cache alone,
//! and their cold exits.
//!
//! Allocating is: class of the size, pop. Freeing with a known size is: class of
//! the size, push; neither the object nor the page map is touched. Everything
//! else, from a thread's first call on, happens in functions marked cold.
//!
//! Nothing here panics, formats, uses a thread-local with a destructor or calls
//! back into the global allocator. A failed allocation returns null.

use crate::custody;
use crate::fatal::{WRONG_SIZE, fatal, misuse};
use crate::hardened::{SEAL_BYTES, SLOTS_ARE_ZERO};
use crate::heap_profile::PROFILE;
use crate::page_map::{LARGE_HEAD, SAMPLED_HEAD, class_of_entry};
use crate::process::Process;
use crate::profiled;
use crate::size_class::GENERAL;
use crate::thread::{self, Thread};
use crate::thread_cache::StackPlace;
use crate::units::{PAGE_BYTES, pages_for};
use core::ptr;

/// The largest size in bytes that comes from slabs.
pub(crate) const SMALL_MAX: usize = GENERAL.small_max();

/// The largest size in bytes that may be asked for and comes from slabs.
pub(crate) const SMALL_REQUEST_MAX: usize = SMALL_MAX - SEAL_BYTES;

/// The size to ask for so that the object is aligned: slots of a class are aligned
/// to every power of two that divides its size, and a multiple of the alignment is
/// rounded up to a class that is one, too.
#[inline(always)]
const fn aligned_size(size: usize, align: usize) -> usize {
    (size + (align - 1)) & !(align - 1)
}

/// Allocates `size` bytes at a multiple of `align`, a power of two. Null, with
/// `errno` at `ENOMEM`, where memory is short. `size` plus `align` must not overflow.
#[inline(always)]
pub(crate) fn allocate(size: usize, align: usize) -> *mut u8 {
    let rounded = aligned_size(size + SEAL_BYTES, align);
    if rounded > SMALL_MAX {
        return allocate_large(size, align);
    }
    allocate_small(StackPlace::of_class(GENERAL.class_of(rounded)), size)
}

/// Allocates `size` bytes in a slot of the class whose place this is, which has room for
/// them and a seal.
#[inline(always)]
pub(crate) fn allocate_small(place: StackPlace, size: usize) -> *mut u8 {
    // SAFETY: The cache is the calling thread's.
    let slot = match unsafe { thread::current().cache.pop(place) } {
        Some(slot) => slot.as_ptr(),
        None => allocate_slow(place),
    };
    custody::hand_out(slot, place.class(), size)
}

/// The same, with the first `size` bytes zero.
#[inline]
pub(crate) fn allocate_zeroed(size: usize, align: usize) -> *mut u8 {
    if aligned_size(size + SEAL_BYTES, align) > SMALL_MAX {
        return allocate_large_zeroed(size, align);
    }
    let object = allocate(size, align);
    if !SLOTS_ARE_ZERO && !object.is_null() {
        // SAFETY: The object is new and has this size.
        unsafe { object.write_bytes(0, size) };
    }
    object
}

/// Frees an object of known size.
///
/// # Safety
///
/// The object was allocated by this heap with this size and alignment, and is
/// not used any more.
#[inline(always)]
pub(crate) unsafe fn free(object: *mut u8, size: usize, align: usize) {
    let rounded = aligned_size(size + SEAL_BYTES, align);
    if rounded > SMALL_MAX {
        // SAFETY: Passed on to the caller.
        return unsafe { free_large_sized(object, size) };
    }
    // SAFETY: Passed on to the caller.
    unsafe {
        free_small(
            object,
            StackPlace::of_class(GENERAL.class_of(rounded)),
            Some(size),
        )
    };
}

/// Frees an object of the class whose place this is, and of this size, if the caller
/// knows it.
///
/// # Safety
///
/// As for [`free`], and the object is of the class.
#[inline(always)]
pub(crate) unsafe fn free_small(object: *mut u8, place: StackPlace, size: Option<usize>) {
    // SAFETY: The object was allocated, so the heap exists.
    if cfg!(debug_assertions) && !unsafe { is_of_class(object, place) || is_sampled(object) } {
        misuse(WRONG_SIZE, object.addr(), GENERAL.class(place.class()).size);
    }
    // SAFETY: Passed on to the caller.
    unsafe { free_at(object, place, size) };
}

/// # Safety
///
/// As for [`free_small`], or the place is none of a class, and the object no slot.
#[inline(always)]
unsafe fn free_at(object: *mut u8, place: StackPlace, size: Option<usize>) {
    // SAFETY: The cache is the calling thread's, and the caller gives the object away.
    unsafe {
        custody::take_back(object, place, size, |slot, place| {
            if !thread::current().cache.push(place, slot) {
                free_slow(slot, place);
            }
        });
    }
}

/// Frees an object whose size its owner does not know. Null is nothing to free. Stops the
/// process where the object lies outside of the heap.
///
/// # Safety
///
/// The object is null, or was allocated by this heap and is not used any more.
#[inline(always)]
pub(crate) unsafe fn free_unsized(object: *mut u8) {
    // SAFETY: Nothing but where the heap lies is asked, which is nowhere before it exists.
    let process = unsafe { Process::get_unchecked() };
    if !process.pages.contains(object) {
        return pass_null(object);
    }
    // SAFETY: The object is live, and the page map tells what is there.
    unsafe {
        let entry = process.pages.class_entry(object);
        free_at(object, StackPlace::of_entry(entry), None);
    }
}

/// Stops the process unless the object, which lies outside of the heap, is null.
#[cold]
#[inline(never)]
fn pass_null(object: *mut u8) {
    if !object.is_null() {
        not_allocated(object);
    }
}

/// The heap, which exists if the object was allocated by it.
fn heap_of(object: *const u8) -> &'static Process {
    Process::get().unwrap_or_else(|| not_allocated(object))
}

#[cold]
#[inline(never)]
fn not_allocated(object: *const u8) -> ! {
    fatal("a pointer that was not allocated", object.addr())
}

/// Bytes that the object may use.
///
/// # Safety
///
/// The object was allocated by this heap and is live.
#[inline]
pub(crate) unsafe fn usable_size(object: *const u8) -> usize {
    // SAFETY: The object exists and is live, and so does the heap.
    unsafe {
        let process = Process::get_unchecked();
        if !process.pages.contains(object) {
            not_allocated(object);
        }
        match process.pages.class_entry(object) {
            LARGE_HEAD => custody::large_usable_size(process, object),
            SAMPLED_HEAD => PROFILE.bytes(&process.pages, object),
            entry => match class_of_entry(entry) {
                Some(class) => custody::usable_size(object, class),
                None => not_allocated(object),
            },
        }
    }
}

/// Gives an object of known size the size `new`, keeping what fits, and moves it
/// only where it must. Null leaves it as it is.
///
/// # Safety
///
/// As for [`free`] if the result is not null, with `old` as the size. `new` plus
/// `align` must not overflow.
#[inline]
pub(crate) unsafe fn reallocate(object: *mut u8, old: usize, align: usize, new: usize) -> *mut u8 {
    let rounded_old = aligned_size(old + SEAL_BYTES, align);
    let rounded_new = aligned_size(new + SEAL_BYTES, align);
    if rounded_old <= SMALL_MAX
        && rounded_new <= SMALL_MAX
        && GENERAL.class_of(rounded_old) == GENERAL.class_of(rounded_new)
    {
        // SAFETY: Passed on to the caller.
        return unsafe { custody::resize(object, GENERAL.class_of(rounded_old), old, new) };
    }
    // SAFETY: Passed on to the caller.
    unsafe { reallocate_slow(object, old, align, new) }
}

#[cold]
#[inline(never)]
unsafe fn reallocate_slow(object: *mut u8, old: usize, align: usize, new: usize) -> *mut u8 {
    let is_large = |size| aligned_size(size + SEAL_BYTES, align) > SMALL_MAX;
    if is_large(old) && is_large(new) && align <= PAGE_BYTES {
        // SAFETY: An object exists, and so does the heap.
        let process = unsafe { Process::get_unchecked() };
        custody::unseal_large(object, old);
        // SAFETY: Passed on to the caller.
        let resized = unsafe { profiled::resize_large(process, object, new + SEAL_BYTES) };
        if !resized.is_null() {
            process.notify_if_dirty();
            return custody::hand_out_large(resized, new);
        }
        custody::hand_out_large(object, old);
    }
    let target = allocate(new, align);
    if !target.is_null() {
        // SAFETY: Both objects are live and distinct, and hold that many bytes;
        // the caller gives the old one away.
        unsafe {
            ptr::copy_nonoverlapping(object, target, old.min(new));
            free(object, old, align);
        }
    }
    target
}

/// Allocates where the thread has no slot at hand, or no cache.
#[cold]
#[inline(never)]
fn allocate_slow(place: StackPlace) -> *mut u8 {
    let class = place.class();
    let Some(process) = Process::get_or_make() else {
        return out_of_memory();
    };
    let Some(thread) = cached_thread(process) else {
        return allocate_uncached(process, class);
    };
    if PROFILE.state() != 0 {
        let object = profiled::allocate(process, thread, class);
        return if object.is_null() {
            out_of_memory()
        } else {
            object
        };
    }
    if !thread.cache.turn(class) && !process.fill(thread, class) {
        return out_of_memory();
    }
    // SAFETY: The cache is the calling thread's.
    match unsafe { thread.cache.pop(place) } {
        Some(slot) => slot.as_ptr(),
        None => out_of_memory(),
    }
}

/// What an allocation that fails returns: null, with `errno` at `ENOMEM`.
#[cold]
pub(crate) fn out_of_memory() -> *mut u8 {
    // SAFETY: The location is the calling thread's own and always valid.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    ptr::null_mut()
}

/// Frees where the thread's cache is full, where there is none, and what is in no slot.
///
/// # Safety
///
/// As for [`free_at`].
#[cold]
#[inline(never)]
unsafe fn free_slow(object: *mut u8, place: StackPlace) {
    if !place.names_class() {
        // SAFETY: Passed on to the caller.
        return unsafe { free_large(object) };
    }
    let class = place.class();
    let process = heap_of(object);
    if PROFILE.state() != 0 {
        let bytes = GENERAL.class(class).size as usize;
        // SAFETY: Passed on to the caller.
        if unsafe { PROFILE.free(&process.pages, object, Some(bytes)) } {
            return;
        }
    }
    match cached_thread(process) {
        Some(thread) => {
            process.make_room(thread, class);
            // SAFETY: The caller gives the object away.
            let kept = unsafe { thread.cache.push(place, object) };
            debug_assert!(kept);
        }
        // SAFETY: Passed on to the caller.
        None => unsafe { free_uncached(process, object, class) },
    }
}

/// The calling thread's record, with a cache, which it gets now if it is new.
fn cached_thread(process: &Process) -> Option<&'static Thread> {
    let thread = thread::current();
    if thread.has_cache() {
        Some(thread)
    } else {
        process.attach()
    }
}

/// Allocates for a thread without a cache, of which there are few: one that is
/// ending, or for which there is no memory.
fn allocate_uncached(process: &Process, class: usize) -> *mut u8 {
    let mut slot = [ptr::null_mut()];
    if let Some(arena) = process.common_arena() {
        arena.fill(&process.pages, class, &mut slot);
    }
    if slot[0].is_null() {
        return out_of_memory();
    }
    slot[0]
}

/// # Safety
///
/// As for [`free_small`].
unsafe fn free_uncached(process: &Process, object: *mut u8, class: usize) {
    if let Some(arena) = process.common_arena() {
        // SAFETY: The caller gives the object away.
        unsafe {
            process
                .arenas
                .release(&process.pages, arena.number(), class, &[object])
        };
    }
}

#[cold]
#[inline(never)]
fn allocate_large(size: usize, align: usize) -> *mut u8 {
    large(size, align).0
}

#[cold]
#[inline(never)]
fn allocate_large_zeroed(size: usize, align: usize) -> *mut u8 {
    let (object, is_zero) = large(size, align);
    if !object.is_null() && !is_zero {
        // SAFETY: The object is new and has this size.
        unsafe { object.write_bytes(0, size) };
    }
    object
}

fn large(size: usize, align: usize) -> (*mut u8, bool) {
    let Some(process) = Process::get_or_make() else {
        return (out_of_memory(), false);
    };
    let bytes = size + SEAL_BYTES;
    let mut found = process.pages.allocate_large(bytes, align);
    if found.0.is_null() {
        process.reclaim();
        found = process.pages.allocate_large(bytes, align);
    }
    if found.0.is_null() {
        out_of_memory();
    } else if PROFILE.is_on()
        && let Some(thread) = cached_thread(process)
    {
        profiled::consider_large(process, thread, found.0);
    }
    process.start_if_due();
    (custody::hand_out_large(found.0, size), found.1)
}

/// # Safety
///
/// As for [`free`].
#[cold]
#[inline(never)]
unsafe fn free_large(object: *mut u8) {
    let process = heap_of(object);
    custody::verify_large(object, None);
    // SAFETY: Passed on to the caller.
    if PROFILE.state() == 0 || !unsafe { PROFILE.free(&process.pages, object, None) } {
        process.pages.free_large(object);
    }
    process.notify_if_dirty();
}

/// The same, with the size that was asked for.
///
/// # Safety
///
/// As for [`free`].
#[cold]
#[inline(never)]
pub(crate) unsafe fn free_large_sized(object: *mut u8, size: usize) {
    let process = heap_of(object);
    custody::verify_large(object, Some(size));
    let size = size + SEAL_BYTES;
    let bytes = pages_for(size.max(1)) * PAGE_BYTES;
    // SAFETY: Passed on to the caller.
    if PROFILE.state() == 0 || !unsafe { PROFILE.free(&process.pages, object, Some(bytes)) } {
        process.pages.free_large_sized(object, size);
    }
    process.notify_if_dirty();
}

/// Whether the page map says that the object is a slot of the class whose place this is.
///
/// # Safety
///
/// The heap exists: something was allocated from it.
pub(crate) unsafe fn is_of_class(object: *mut u8, place: StackPlace) -> bool {
    // SAFETY: Passed on to the caller.
    let pages = &unsafe { Process::get_unchecked() }.pages;
    // SAFETY: The object is live.
    pages.contains(object) && unsafe { pages.class_entry(object) } == place.entry()
}

/// Whether a heap profile has sampled the object.
///
/// # Safety
///
/// The heap exists: something was allocated from it.
unsafe fn is_sampled(object: *mut u8) -> bool {
    // SAFETY: Passed on to the caller.
    unsafe { Process::get_unchecked() }.pages.is_sampled(object)
}
