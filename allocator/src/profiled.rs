//! The slow paths once a heap profile has been on.

use crate::heap_profile::{PROFILE, is_on};
use crate::process::Process;
use crate::size_class::GENERAL;
use crate::thread::Thread;
use crate::thread_cache::StackPlace;
use core::ptr::{self, NonNull};

/// Allocates where the cache lets no slot of the class through. Null where memory is
/// exhausted.
#[cold]
pub(crate) fn allocate(process: &Process, thread: &'static Thread, class: usize) -> *mut u8 {
    let cache = &thread.cache;
    let state = PROFILE.state();
    follow(thread, state);
    if is_on(state) && cache.is_sample_due(class) && !thread.profiles() {
        let bytes = GENERAL.class(class).size as usize;
        cache.set_until_sample(class, PROFILE.passed(bytes));
        // Slots are aligned to every power of two that divides their size.
        let align = 1 << bytes.trailing_zeros();
        let object = thread.profile(|| PROFILE.allocate(&process.pages, bytes, align));
        if !object.is_null() {
            return object;
        }
    }
    if cache.at_hand(class) == 0 {
        process.take_sampled(thread, class);
        if !cache.turn(class) && !process.fill(thread, class) {
            return ptr::null_mut();
        }
        if is_on(state) {
            cache.let_pass(class);
        }
    } else if !cache.lets_through(class) {
        cache.let_pass(class);
    }
    if !cache.lets_through(class) {
        // The next one is to be sampled, and this one cannot be.
        cache.let_through(class, 1);
    }
    // SAFETY: The class exists, and the cache is the calling thread's.
    unsafe { cache.pop(StackPlace::of_class(class)) }.map_or(ptr::null_mut(), NonNull::as_ptr)
}

/// Tells the thread's cache of the profile's state, if that is new.
pub(crate) fn follow(thread: &'static Thread, state: u32) {
    if thread.cache.profile() != state {
        let until = |class| PROFILE.passed(GENERAL.class(class).size as usize);
        thread
            .cache
            .set_profile(state, is_on(state).then_some(until));
    }
}

/// Samples a large object that was just allocated, or resized, if its turn has come.
#[cold]
pub(crate) fn consider_large(process: &Process, thread: &'static Thread, object: *mut u8) {
    // SAFETY: The object is live and large.
    let bytes = unsafe { process.pages.large_bytes(object) };
    if !thread.profiles() && PROFILE.passed(bytes) == 0 {
        thread.profile(|| PROFILE.sample(&process.pages, object, bytes));
    }
}

/// Resizes a large object without copying; null, with nothing changed, where that cannot
/// be. For the profile the old object is freed and the new one allocated.
///
/// # Safety
///
/// The object is live and large; if the result is not null, it is not used any more.
pub(crate) unsafe fn resize_large(process: &Process, object: *mut u8, new: usize) -> *mut u8 {
    if PROFILE.state() == 0 {
        return process.pages.resize_large(object, new);
    }
    if process.pages.is_sampled(object) {
        // The caller copies it to a new one.
        return ptr::null_mut();
    }
    let resized = process.pages.resize_large(object, new);
    let thread = crate::thread::current();
    if !resized.is_null() && PROFILE.is_on() && thread.has_cache() {
        consider_large(process, thread, resized);
    }
    resized
}
