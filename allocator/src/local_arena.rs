//! `LocalArena`: an allocator for one owner, in a region of its own.
//!
//! Small requests come from free lists per size class, larger ones from runs
//! of a power of two of pages; both are cut from the region in ascending order.

use crate::options::ArenaOptions;
use crate::os;
use crate::size_class::ClassTable;
use crate::units::{CHUNK_BYTES, PAGE_BYTES, pages_for};
use core::ptr::{self, NonNull};

/// Bytes made accessible at a time.
const COMMIT_BYTES: usize = 64 << 20;
/// Smallest region that is tried.
const REGION_BYTES_MIN: usize = 64 << 20;
/// Lists of free page runs: one per power of two of pages.
const RUN_LISTS: usize = 24;

/// An allocator without locks for one owner at a time.
///
/// Every object is `base() + 8 * r` with `0 < r <= u32::MAX`, so a `u32`
/// refers to it, and 0 refers to none.
#[derive(Debug)]
pub struct LocalArena {
    base: NonNull<u8>,
    region_bytes: usize,
    committed: usize,
    used: usize,
    table: &'static ClassTable,
    free_slots: [Option<NonNull<u8>>; crate::size_class::CLASSES_MAX],
    free_runs: [Option<NonNull<u8>>; RUN_LISTS],
}

// SAFETY: the arena owns its region and everything that points into it.
unsafe impl Send for LocalArena {}

impl LocalArena {
    /// Makes an arena; `None` where the process may not have the address space.
    pub fn new(options: &ArenaOptions) -> Option<LocalArena> {
        let mut region_bytes = options
            .region_bytes
            .clamp(2 * CHUNK_BYTES, 32 << 30)
            .next_multiple_of(CHUNK_BYTES);
        loop {
            if let Some(base) = os::reserve(region_bytes, CHUNK_BYTES) {
                return Some(LocalArena {
                    base,
                    region_bytes,
                    committed: CHUNK_BYTES,
                    used: CHUNK_BYTES,
                    table: options.classes.table(),
                    free_slots: [None; crate::size_class::CLASSES_MAX],
                    free_runs: [None; RUN_LISTS],
                });
            }
            if region_bytes <= REGION_BYTES_MIN {
                return None;
            }
            region_bytes = (region_bytes / 2).next_multiple_of(CHUNK_BYTES);
        }
    }

    /// The address from which references to objects count.
    #[inline]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes that an object of `size` bytes may use.
    #[inline]
    pub fn usable_size_for(&self, size: usize) -> usize {
        if size <= self.table.small_max() {
            self.table.class(self.table.class_of(size)).size as usize
        } else {
            pages_for(size) * PAGE_BYTES
        }
    }

    /// Allocates `size` bytes, aligned to 8, and to 16 if the usable size is
    /// a multiple of 16. The memory is not zeroed. `None` where memory or
    /// region is exhausted; the arena stays usable.
    pub fn allocate(&mut self, size: usize) -> Option<NonNull<u8>> {
        if size > self.region_bytes {
            return None;
        }
        let (list, bytes) = if size <= self.table.small_max() {
            let class = self.table.class_of(size);
            (
                &mut self.free_slots[class],
                self.table.class(class).size as usize,
            )
        } else {
            let pages = pages_for(size).next_power_of_two();
            (
                &mut self.free_runs[pages.ilog2() as usize],
                pages * PAGE_BYTES,
            )
        };
        if let Some(object) = *list {
            // SAFETY: a free object holds the link to the next one, written by
            // `free`; it has at least 8 bytes and is aligned to 8.
            *list = unsafe { object.cast::<Option<NonNull<u8>>>().read() };
            return Some(object);
        }
        self.extend(bytes)
    }

    fn extend(&mut self, bytes: usize) -> Option<NonNull<u8>> {
        let start = if bytes.is_multiple_of(PAGE_BYTES) {
            self.used.next_multiple_of(PAGE_BYTES)
        } else if bytes.is_multiple_of(16) {
            self.used.next_multiple_of(16)
        } else {
            self.used
        };
        let end = start.checked_add(bytes)?;
        if end > self.region_bytes {
            return None;
        }
        if end > self.committed {
            let to = end.next_multiple_of(COMMIT_BYTES).min(self.region_bytes);
            // SAFETY: the range lies in the region between what is committed
            // and the region's end.
            let granted = unsafe { os::commit(self.base.add(self.committed), to - self.committed) };
            if !granted {
                return None;
            }
            self.committed = to;
        }
        self.used = end;
        // SAFETY: `start` lies in the region.
        Some(unsafe { self.base.add(start) })
    }

    /// Frees an object.
    ///
    /// # Safety
    /// `object` was allocated by this arena and is not in use any more, and
    /// `size` has the same usable size as the size it was allocated with.
    pub unsafe fn free(&mut self, object: NonNull<u8>, size: usize) {
        let list = if size <= self.table.small_max() {
            &mut self.free_slots[self.table.class_of(size)]
        } else {
            let pages = pages_for(size).next_power_of_two();
            &mut self.free_runs[pages.ilog2() as usize]
        };
        // SAFETY: the object is free, has at least 8 bytes and is aligned to 8.
        unsafe { object.cast::<Option<NonNull<u8>>>().write(*list) };
        *list = Some(object);
    }

    /// Gives an object the size `new`, keeping its first `min(old, new)`
    /// bytes, and moves it where it must. `None` leaves it as it is.
    ///
    /// # Safety
    /// As [`LocalArena::free`], with `old` as the size.
    pub unsafe fn reallocate(
        &mut self,
        object: NonNull<u8>,
        old: usize,
        new: usize,
    ) -> Option<NonNull<u8>> {
        if self.usable_size_for(old) == self.usable_size_for(new) {
            return Some(object);
        }
        let target = self.allocate(new)?;
        // SAFETY: both objects are live, distinct and hold that many bytes.
        unsafe {
            ptr::copy_nonoverlapping(object.as_ptr(), target.as_ptr(), old.min(new));
            self.free(object, old);
        }
        Some(target)
    }
}

impl Drop for LocalArena {
    fn drop(&mut self) {
        // SAFETY: the region is the arena's own, and no object of it can be
        // used without the arena.
        unsafe { os::release(self.base, self.region_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_distinct_aligned_and_keep_their_bytes() {
        let mut arena = LocalArena::new(&ArenaOptions {
            region_bytes: 64 << 20,
            ..ArenaOptions::default()
        })
        .unwrap();
        let mut live = Vec::new();
        for round in 0..3u8 {
            for size in (0..5000).step_by(13).chain([40_000, 3 << 20]) {
                let object = arena.allocate(size).unwrap();
                let usable = arena.usable_size_for(size);
                let align = if usable.is_multiple_of(16) { 16 } else { 8 };
                assert!(object.as_ptr().addr().is_multiple_of(align));
                // SAFETY: the object holds `size` bytes.
                unsafe { object.as_ptr().write_bytes(round, size) };
                live.push((object, size, round));
            }
            if round == 1 {
                for (object, size, _) in live.drain(..200) {
                    // SAFETY: drained, hence freed once.
                    unsafe { arena.free(object, size) };
                }
            }
        }
        for (object, size, round) in live {
            // SAFETY: the object is live and holds `size` bytes.
            let bytes = unsafe { core::slice::from_raw_parts(object.as_ptr(), size) };
            assert!(bytes.iter().all(|byte| *byte == round));
        }
        assert!(arena.allocate(1 << 40).is_none());
        assert!(arena.allocate(16).is_some());
    }
}
