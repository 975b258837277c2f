//! The process heap as Rust's global allocator.

use crate::heap;
use crate::process::Process;
use crate::thread;
use core::alloc::{GlobalAlloc, Layout};

/// The process heap.
///
/// ```
/// use slab_allocator::SlabAlloc;
///
/// #[global_allocator]
/// static ALLOCATOR: SlabAlloc = SlabAlloc::new();
///
/// let numbers: Vec<u64> = (0..1000).collect();
/// assert_eq!(numbers[999], 999);
/// ```
///
/// All values of this type stand for one heap: objects of one may be freed by
/// another. Free memory goes back to the system within about a second, and within eight
/// where the heap is small, also while the process is idle: a background thread, which
/// is started when there is something to give back for the first time, sees to it.
///
/// Running out of memory gives null. A double free, and a free with a wrong size
/// or of a pointer that the heap does not know, stop the process where they are
/// noticed, which is not always; otherwise they are undefined behaviour, as with
/// any allocator. The Cargo feature `hardened` has them noticed, and overruns and
/// writes after free too: `docs/hardened.md` says what it costs.
#[derive(Clone, Copy, Debug, Default)]
pub struct SlabAlloc;

impl SlabAlloc {
    /// The process heap.
    pub const fn new() -> Self {
        Self
    }

    /// Bytes that an object may use: at least those that were asked for. Constant
    /// time.
    ///
    /// ```
    /// use slab_allocator::SlabAlloc;
    /// use std::alloc::{GlobalAlloc, Layout};
    ///
    /// let heap = SlabAlloc::new();
    /// let layout = Layout::from_size_align(100, 8).unwrap();
    /// // SAFETY: the object is live until it is freed, once.
    /// unsafe {
    ///     let object = heap.alloc(layout);
    ///     assert!(heap.usable_size(object) >= 100);
    ///     heap.free_unsized(object);
    /// }
    /// ```
    ///
    /// # Safety
    ///
    /// The object was allocated by the process heap and is live.
    pub unsafe fn usable_size(&self, object: *const u8) -> usize {
        // SAFETY: Passed on to the caller.
        unsafe { heap::usable_size(object) }
    }

    /// Frees an object without its layout, as C's `free` does: a look at the page map
    /// dearer than `dealloc`.
    ///
    /// # Safety
    ///
    /// The object was allocated by the process heap and is not used any more.
    pub unsafe fn free_unsized(&self, object: *mut u8) {
        // SAFETY: Passed on to the caller.
        unsafe { heap::free_unsized(object) };
    }

    /// Gives what lies in the calling thread's cache back to the slabs; how much that
    /// can be is set by [`set_cache_bytes`](Self::set_cache_bytes). Worth a call by a
    /// thread that is about to sleep for long: only a thread itself can empty its
    /// cache, and one that wakes does so, with its first slow path, too late.
    ///
    /// Takes time in proportion to the objects there.
    pub fn flush_thread_cache(&self) {
        let thread = thread::current();
        if let (true, Some(process)) = (thread.has_cache(), Process::get()) {
            process.flush_all(thread);
        }
    }

    /// What a thread does before it sleeps for long: gives its cache back to the
    /// slabs, and up to 2 MiB of free pages back to the system. So a process whose
    /// threads rest holds little even where that is too little for the background
    /// thread to begin. Takes some 10 to 200 us.
    pub fn rest(&self) {
        self.flush_thread_cache();
        if let Some(process) = Process::get() {
            process.purge_some();
        }
    }

    /// Gives all free pages back to the system at once, those that the calling
    /// thread's cache held among them. Returns the bytes. Takes time in proportion to
    /// them: a megabyte some 20 to 100 us.
    ///
    /// ```
    /// use slab_allocator::SlabAlloc;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: SlabAlloc = SlabAlloc::new();
    ///
    /// drop(vec![1u8; 8 << 20]);
    /// ALLOCATOR.purge();
    /// assert_eq!(ALLOCATOR.stats().arenas.dirty_bytes, 0);
    /// ```
    pub fn purge(&self) -> usize {
        self.flush_thread_cache();
        Process::get().map_or(0, Process::purge_all)
    }
}

// SAFETY: The heap's operations uphold what the trait asks for, and none panics.
unsafe impl GlobalAlloc for SlabAlloc {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        heap::allocate(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        // SAFETY: Passed on to the caller.
        unsafe { heap::free(object, layout.size(), layout.align()) };
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        heap::allocate_zeroed(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: Passed on to the caller.
        unsafe { heap::reallocate(object, layout.size(), layout.align(), new_size) }
    }
}
