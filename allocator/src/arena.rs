//! `Arena`: an arena behind a lock, as an allocator of its own.
//!
//! For a part of a program whose memory is to be bounded, counted and dropped
//! as a whole: a request, a cache, a plug-in. A reference to an arena is an
//! [`Allocator`] for collections, and a static one can be a
//! `#[global_allocator]`.
//!
//! ```
//! use allocator_api2::vec::Vec;
//! use slab_allocator::{Arena, ArenaOptions};
//!
//! let arena = Arena::new(ArenaOptions {
//!     region_bytes: 64 << 20, // the bound
//!     ..ArenaOptions::default()
//! });
//! let mut numbers = Vec::new_in(&arena);
//! numbers.extend(0..1000u64);
//! assert!(arena.stats().unwrap().live_bytes >= 8000);
//! ```

use crate::local_arena::LocalArena;
use crate::options::ArenaOptions;
use crate::os;
use crate::stats::{ArenaStats, Purged};
use crate::sync::{Lock, Rank};
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};

/// Frees between two looks at the clock.
const FREES_PER_LOOK: u32 = 4096;
/// Bytes that are given back in the course of one free.
const PURGE_BYTES_MAX: usize = 4 << 20;

/// An allocator with a region of its own, which several threads may share.
///
/// All that it handed out dies with it. Free pages go back to the system as
/// they age, while the arena is in use; one that falls idle keeps what is
/// dirty then, unless somebody calls [`Arena::purge_due`].
///
/// A thread must not allocate from an arena while it forks another.
pub struct Arena {
    inner: Lock<Inner>,
}

struct Inner {
    options: ArenaOptions,
    /// Made when it is first needed, so that an arena can be a constant.
    arena: Option<LocalArena>,
    frees: u32,
}

impl core::fmt::Debug for Arena {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("Arena")
            .field("stats", &self.stats())
            .finish()
    }
}

impl Inner {
    fn arena(&mut self) -> Option<&mut LocalArena> {
        if self.arena.is_none() {
            self.arena = LocalArena::new(&self.options);
        }
        self.arena.as_mut()
    }

    fn allocate(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        let arena = self.arena()?;
        if layout.align() <= 8 {
            arena.allocate(layout.size())
        } else {
            arena.allocate_aligned(layout.size(), layout.align())
        }
    }

    /// # Safety
    /// The object was allocated here with this layout and is not used any more.
    unsafe fn free(&mut self, object: NonNull<u8>, layout: Layout) {
        let Some(arena) = self.arena.as_mut() else {
            return;
        };
        // SAFETY: passed on to the caller.
        unsafe {
            if layout.align() <= 8 {
                arena.free(object, layout.size());
            } else {
                arena.free_aligned(object, layout.size(), layout.align());
            }
        }
        self.frees += 1;
        if self.frees == FREES_PER_LOOK {
            self.frees = 0;
            arena.purge_due(os::now_ms(), PURGE_BYTES_MAX);
        }
    }

    /// # Safety
    /// As [`Inner::free`]; where an object is returned, the old one is freed.
    unsafe fn reallocate(
        &mut self,
        object: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Option<NonNull<u8>> {
        if old.align() <= 8 && new.align() <= 8 {
            // SAFETY: passed on to the caller.
            return unsafe { self.arena()?.reallocate(object, old.size(), new.size()) };
        }
        let target = self.allocate(new)?;
        let kept = old.size().min(new.size());
        // SAFETY: both objects are live, distinct, and hold that many bytes.
        unsafe {
            ptr::copy_nonoverlapping(object.as_ptr(), target.as_ptr(), kept);
            self.free(object, old);
        }
        Some(target)
    }

    /// Bytes that an object of this layout may use.
    fn usable_size(&self, layout: Layout) -> usize {
        match &self.arena {
            Some(arena) if layout.align() <= 8 => arena.usable_size_for(layout.size()),
            _ => layout.size(),
        }
    }
}

impl Arena {
    /// An arena that reserves its region when it is first used.
    pub const fn new(options: ArenaOptions) -> Arena {
        Arena {
            inner: Lock::new(
                Rank::Handle,
                Inner {
                    options,
                    arena: None,
                    frees: 0,
                },
            ),
        }
    }

    /// Where the arena's memory is; `None` before it was first used. Takes time in
    /// proportion to the number of size classes.
    pub fn stats(&self) -> Option<ArenaStats> {
        self.inner.lock().arena.as_ref().map(LocalArena::stats)
    }

    /// Gives back the pages that have been free for long enough at the present
    /// time, and says when the next will be: see `LocalArena::purge_due`.
    pub fn purge_due(&self) -> Purged {
        match &mut self.inner.lock().arena {
            Some(arena) => arena.purge_due(os::now_ms(), usize::MAX),
            None => Purged::default(),
        }
    }

    /// Gives back all free pages at once. Returns the bytes.
    ///
    /// ```
    /// use allocator_api2::vec::Vec;
    /// use slab_allocator::{Arena, ArenaOptions};
    ///
    /// let arena = Arena::new(ArenaOptions::default());
    /// let numbers: Vec<u64, &Arena> = Vec::with_capacity_in(100_000, &arena);
    /// drop(numbers);
    /// assert!(arena.purge_all() >= 800_000);
    /// ```
    pub fn purge_all(&self) -> usize {
        let mut inner = self.inner.lock();
        inner.arena.as_mut().map_or(0, LocalArena::purge_all)
    }

    /// Whether the address lies in the arena's region, in constant time.
    pub fn owns(&self, address: *const u8) -> bool {
        let inner = self.inner.lock();
        inner.arena.as_ref().is_some_and(|arena| {
            let offset = address.addr().wrapping_sub(arena.base().as_ptr().addr());
            offset < arena.stats().region_bytes
        })
    }
}

// SAFETY: objects stay where they are and valid until they are freed or the
// arena is dropped, the lock admits one thread at a time, and layouts are
// served as asked: sizes are rounded up, alignments kept.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let object = self.inner.lock().allocate(layout);
        object.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        if let Some(object) = NonNull::new(object) {
            // SAFETY: passed on to the caller.
            unsafe { self.inner.lock().free(object, layout) };
        }
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let (Some(object), Ok(new)) = (
            NonNull::new(object),
            Layout::from_size_align(new_size, layout.align()),
        ) else {
            return ptr::null_mut();
        };
        // SAFETY: passed on to the caller.
        let moved = unsafe { self.inner.lock().reallocate(object, layout, new) };
        moved.map_or(ptr::null_mut(), NonNull::as_ptr)
    }
}

// SAFETY: as for `GlobalAlloc`; a reference keeps the arena alive, and copies
// of it mean the same arena.
unsafe impl Allocator for &Arena {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            let dangling = ptr::without_provenance_mut(layout.align());
            return NonNull::new(ptr::slice_from_raw_parts_mut(dangling, 0)).ok_or(AllocError);
        }
        let mut inner = self.inner.lock();
        let object = inner.allocate(layout).ok_or(AllocError)?;
        let usable = inner.usable_size(layout);
        Ok(NonNull::slice_from_raw_parts(object, usable))
    }

    unsafe fn deallocate(&self, object: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: passed on to the caller.
            unsafe { self.inner.lock().free(object, layout) };
        }
    }

    unsafe fn grow(
        &self,
        object: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: passed on to the caller.
        unsafe { self.resize(object, old, new) }
    }

    unsafe fn shrink(
        &self,
        object: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: passed on to the caller.
        unsafe { self.resize(object, old, new) }
    }
}

impl Arena {
    /// # Safety
    /// As `Allocator::grow` and `Allocator::shrink`.
    unsafe fn resize(
        &self,
        object: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return (&self).allocate(new);
        }
        if new.size() == 0 {
            // SAFETY: passed on to the caller.
            unsafe { (&self).deallocate(object, old) };
            return (&self).allocate(new);
        }
        let mut inner = self.inner.lock();
        // SAFETY: passed on to the caller.
        let moved = unsafe { inner.reallocate(object, old, new) }.ok_or(AllocError)?;
        let usable = inner.usable_size(new);
        Ok(NonNull::slice_from_raw_parts(moved, usable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocator_api2::boxed::Box;
    use allocator_api2::vec::Vec;

    const OPTIONS: ArenaOptions = ArenaOptions {
        region_bytes: 64 << 20,
        classes: crate::options::Classes::General,
        decay_ms: 0,
        punch: true,
    };

    #[test]
    fn collections_live_in_an_arena_and_leave_nothing() {
        let arena = Arena::new(OPTIONS);
        assert!(arena.stats().is_none());
        let mut rows: Vec<Vec<u32, &Arena>, &Arena> = Vec::new_in(&arena);
        let count = if cfg!(miri) { 20 } else { 500 };
        for row in 0..count {
            let mut cells = Vec::new_in(&arena);
            cells.extend(0..row);
            rows.push(cells);
        }
        let boxed = Box::new_in([7u64; 9], &arena);
        assert!(arena.owns(core::ptr::from_ref(&*boxed).cast()));
        assert!(!arena.owns(core::ptr::from_ref(&arena).cast()));
        for (row, cells) in rows.iter_mut().enumerate() {
            assert!(cells.iter().copied().eq(0..row as u32));
            cells.truncate(row / 2);
            cells.shrink_to_fit();
            assert!(cells.iter().copied().eq(0..row as u32 / 2));
        }
        assert_eq!(*boxed, [7; 9]);
        drop((rows, boxed));
        arena.purge_all();
        let stats = arena.stats().unwrap();
        assert_eq!(
            (stats.live_bytes, stats.large_bytes, stats.dirty_bytes),
            (0, 0, 0)
        );
    }

    #[test]
    fn every_alignment_is_kept_through_reallocation() {
        let arena = Arena::new(OPTIONS);
        let sizes: &[usize] = if cfg!(miri) {
            &[1, 100, 15_000]
        } else {
            &[1, 24, 100, 5000, 70_000]
        };
        for align_log2 in 0..22 {
            for &size in sizes {
                let layout = Layout::from_size_align(size, 1 << align_log2).unwrap();
                // SAFETY: the layout is not empty, and the object is freed with
                // the layout that it has at the end.
                unsafe {
                    let object = arena.alloc(layout);
                    assert!(!object.is_null() && object.addr().is_multiple_of(layout.align()));
                    object.write_bytes(0x5a, size);
                    let grown = arena.realloc(object, layout, size * 3);
                    assert!(!grown.is_null() && grown.addr().is_multiple_of(layout.align()));
                    let bytes = core::slice::from_raw_parts(grown, size);
                    assert!(bytes.iter().all(|byte| *byte == 0x5a));
                    let layout = Layout::from_size_align(size * 3, layout.align()).unwrap();
                    arena.dealloc(grown, layout);
                }
            }
        }
        let stats = arena.stats().unwrap();
        assert_eq!((stats.live_bytes, stats.large_bytes), (0, 0));
    }

    #[test]
    fn the_region_bounds_what_the_arena_holds() {
        let arena = Arena::new(ArenaOptions {
            region_bytes: 8 << 20,
            ..OPTIONS
        });
        let mut bytes: Vec<u8, &Arena> = Vec::new_in(&arena);
        assert!(bytes.try_reserve(64 << 20).is_err());
        assert!(bytes.try_reserve(1 << 20).is_ok());
    }

    #[test]
    fn threads_share_an_arena() {
        static ARENA: Arena = Arena::new(OPTIONS);
        let rounds = if cfg!(miri) { 50 } else { 5000 };
        let threads: std::vec::Vec<_> = (0..3u8)
            .map(|mark| {
                std::thread::spawn(move || {
                    let mut kept: std::vec::Vec<Vec<u8, &Arena>> = std::vec::Vec::new();
                    for round in 0..rounds {
                        let mut bytes = Vec::new_in(&ARENA);
                        bytes.resize(1 + round % 300, mark);
                        kept.push(bytes);
                        if kept.len() > 50 {
                            kept.swap_remove(round % 50);
                        }
                    }
                    assert!(kept.iter().flatten().all(|byte| *byte == mark));
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(ARENA.stats().unwrap().live_bytes, 0);
    }
}
