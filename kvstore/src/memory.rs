//! The memory of one shard: an arena whose objects are named by 32-bit references.
//!
//! A [`Ref`] is the distance of an object from the arena's base in units of 8 bytes: half as long as
//! a pointer.

use std::num::NonZeroU32;
use std::ptr::NonNull;

use slab_allocator::stats::{ArenaStats, Purged, Waste};
use slab_allocator::{ArenaOptions, LocalArena};

use crate::error::OutOfMemory;

/// The name of a live object in one shard's [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ref(NonZeroU32);

impl Ref {
    /// The number that stands for the object in a table; never 0.
    #[inline]
    pub(crate) fn get(self) -> u32 {
        self.0.get()
    }

    /// The object that a number from a table stands for; `None` for 0.
    #[inline]
    pub(crate) fn from_raw(raw: u32) -> Option<Self> {
        NonZeroU32::new(raw).map(Ref)
    }
}

/// An arena, and how many of its bytes are segments of tables.
pub(crate) struct Memory {
    arena: LocalArena,
    segment_bytes: usize,
}

impl Memory {
    pub(crate) fn new(options: &ArenaOptions) -> Option<Self> {
        Some(Memory {
            arena: LocalArena::new(options)?,
            segment_bytes: 0,
        })
    }

    pub(crate) fn arena(&self) -> &LocalArena {
        &self.arena
    }

    pub(crate) fn arena_mut(&mut self) -> &mut LocalArena {
        &mut self.arena
    }

    /// The address of an object. It is only dereferenced where the object is known to live.
    #[inline(always)]
    pub(crate) fn address(&self, object: Ref) -> NonNull<u8> {
        self.arena.object_at(object.get())
    }

    /// The name of an object by its address.
    #[inline]
    pub(crate) fn name(&self, address: NonNull<u8>) -> Ref {
        Ref::from_raw(self.arena.reference_of(address))
            .expect("the arena hands out nothing at its base")
    }

    #[inline]
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<Ref, OutOfMemory> {
        let address = self.arena.allocate(bytes).ok_or(OutOfMemory)?;
        Ok(self.name(address))
    }

    /// # Safety
    /// `object` is live, is not used any more, and was allocated with `bytes` or with another size
    /// of the same class.
    #[inline]
    pub(crate) unsafe fn free(&mut self, object: Ref, bytes: usize) {
        let address = self.address(object);
        // SAFETY: by the caller's promise.
        unsafe { self.arena.free(address, bytes) };
    }

    /// As [`Memory::allocate`], for a segment of a table.
    pub(crate) fn allocate_segment(&mut self, bytes: usize) -> Result<Ref, OutOfMemory> {
        let object = self.allocate(bytes)?;
        self.segment_bytes += bytes;
        Ok(object)
    }

    /// As [`Memory::free`], for a segment of a table.
    ///
    /// # Safety
    /// As [`Memory::free`], and the object was allocated by [`Memory::allocate_segment`].
    pub(crate) unsafe fn free_segment(&mut self, object: Ref, bytes: usize) {
        self.segment_bytes -= bytes;
        // SAFETY: by the caller's promise.
        unsafe { self.free(object, bytes) };
    }

    /// Bytes of all segments.
    #[inline]
    pub(crate) fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// Bytes that an object allocated with `bytes` really takes.
    #[inline]
    pub(crate) fn usable_bytes(&self, bytes: usize) -> usize {
        self.arena.usable_size_for(bytes)
    }

    /// How much of the slabs is unused, in constant time.
    #[inline]
    pub(crate) fn waste(&self) -> Waste {
        self.arena.waste()
    }

    pub(crate) fn stats(&self) -> ArenaStats {
        self.arena.stats()
    }

    /// Gives back free pages that are old enough, of at most about `bytes_max` bytes.
    pub(crate) fn purge_due(&mut self, now_ms: u64, bytes_max: usize) -> Purged {
        self.arena.purge_due(now_ms, bytes_max)
    }

    /// Gives back free pages of at most about `bytes_max` bytes; how many bytes.
    pub(crate) fn purge_free(&mut self, bytes_max: usize) -> usize {
        self.arena.purge_free(bytes_max)
    }

    /// Gives back all free pages; their bytes.
    pub(crate) fn purge_all(&mut self) -> usize {
        self.arena.purge_all()
    }

    /// Asks the CPU to load the first lines of the object at an address.
    #[inline]
    pub(crate) fn prefetch_address(&self, object: NonNull<u8>) {
        prefetch(object.as_ptr());
        prefetch(object.as_ptr().wrapping_add(64));
    }

    /// Asks the CPU to load the first line of an object.
    #[inline]
    pub(crate) fn prefetch(&self, object: Ref) {
        prefetch(self.address(object).as_ptr());
    }
}

/// Asks the CPU to load the cache line at `address`; a hint that never faults.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
