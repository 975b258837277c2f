//! The process's heap: everything but the keyspace, whose shards have arenas of their own.
//!
//! By default it is slabkv's allocator. As with Redis's `MALLOC=`, a feature chooses another one when the server is built:
//!
//! | feature | allocator | `mem_allocator` |
//! |---|---|---|
//! | none | slabkv's | `slabkv-0.1.0` |
//! | `malloc-system` | the C library's | `libc` |
//! | `malloc-jemalloc` | jemalloc, by tikv-jemallocator | `jemalloc-5.3.1` |
//! | `malloc-mimalloc` | mimalloc, by the crate of that name | `mimalloc-3.3.2` |
//!
//! Versions are the library's own answer. Each is used as it comes, with jemalloc's background thread started, as Redis
//! does. What an allocator cannot say of itself is left out of what the server tells.

#[cfg(any(
    all(feature = "malloc-system", feature = "malloc-jemalloc"),
    all(feature = "malloc-system", feature = "malloc-mimalloc"),
    all(feature = "malloc-jemalloc", feature = "malloc-mimalloc"),
))]
compile_error!(
    "the server has one malloc: choose at most one of the features malloc-system, malloc-jemalloc and malloc-mimalloc"
);

#[cfg_attr(feature = "malloc-system", path = "system.rs")]
#[cfg_attr(feature = "malloc-jemalloc", path = "jemalloc.rs")]
#[cfg_attr(feature = "malloc-mimalloc", path = "mimalloc.rs")]
#[cfg_attr(
    not(any(
        feature = "malloc-system",
        feature = "malloc-jemalloc",
        feature = "malloc-mimalloc"
    )),
    path = "slabkv.rs"
)]
mod chosen;

use slab_allocator::ClassStats;

use crate::mappings::HeapUntouched;

pub(crate) use chosen::{MALLOC, Malloc, describe, name, purge, rest, start};

/// Where the memory of the process's heap is, in bytes. The parts add up to what it holds, as far as it knows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeapMemory {
    /// Objects: slots in use, and page runs of large ones.
    pub(crate) live_bytes: u64,
    /// Free slots and tails of slabs, in resident pages. This and what follows is 0 where the malloc does not know.
    pub(crate) free_slot_bytes: u64,
    /// Free slots in threads' caches.
    pub(crate) cached_bytes: u64,
    /// Free pages not given back yet.
    pub(crate) dirty_bytes: u64,
    /// The allocator's records.
    pub(crate) metadata_bytes: u64,
}

impl HeapMemory {
    /// How many parts are known.
    pub(crate) const PARTS: usize = if chosen::KNOWS_FREE { 5 } else { 1 };

    /// Whether the heap lies in address space that slabkv's allocator has reserved.
    pub(crate) const IS_RESERVED: bool = !cfg!(any(
        feature = "malloc-system",
        feature = "malloc-jemalloc",
        feature = "malloc-mimalloc"
    ));

    /// The heap's books now. Takes time in proportion to threads and size classes, and with the C library's malloc to
    /// its free pieces.
    pub(crate) fn now() -> Self {
        chosen::memory()
    }

    /// Bytes of the pages that hold an object or are held for the next ones.
    pub(crate) fn active_bytes(&self) -> u64 {
        self.live_bytes + self.free_slot_bytes + self.cached_bytes
    }

    /// All of it that is known. Pages of large objects count from the moment when they are handed out, touched or not.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.active_bytes() + self.dirty_bytes + self.metadata_bytes
    }

    /// What is free of it and not given back.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_slot_bytes + self.cached_bytes + self.dirty_bytes
    }

    /// The same without what nobody has touched yet: pages of slabs are free slots for the most part, of which threads
    /// may have some at hand; the rest is objects.
    pub(crate) fn without(mut self, untouched: &HeapUntouched) -> Self {
        let mut rest = untouched.slab_bytes;
        for part in [&mut self.free_slot_bytes, &mut self.cached_bytes] {
            let taken = rest.min(*part);
            *part -= taken;
            rest -= taken;
        }
        rest += untouched.large_bytes;
        self.live_bytes = self.live_bytes.saturating_sub(rest);
        self.dirty_bytes = self.dirty_bytes.saturating_sub(untouched.dirty_bytes);
        self
    }

    /// The parts that are known, by name.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let parts = [
            ("heap objects", self.live_bytes),
            ("heap free slots", self.free_slot_bytes),
            ("heap cached slots", self.cached_bytes),
            ("heap dirty pages", self.dirty_bytes),
            ("heap metadata", self.metadata_bytes),
        ];
        parts.into_iter().take(Self::PARTS)
    }
}

/// Takes what a C library prints piece by piece, without allocating: its locks may be held meanwhile.
#[cfg(any(feature = "malloc-jemalloc", feature = "malloc-mimalloc"))]
struct Pieces {
    bytes: Vec<u8>,
}

#[cfg(any(feature = "malloc-jemalloc", feature = "malloc-mimalloc"))]
impl Pieces {
    /// What is longer is cut off.
    const BYTES_MAX: usize = 256 << 10;

    fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(Self::BYTES_MAX),
        }
    }

    /// Adds a piece to the `Pieces` that `target` points to.
    ///
    /// # Safety
    /// `target` points to a `Pieces` that nobody else uses, `piece` to a string that ends in a zero.
    unsafe fn add(target: *mut std::ffi::c_void, piece: *const std::ffi::c_char) {
        // SAFETY: passed on to the caller.
        let (pieces, piece) = unsafe {
            (
                &mut *target.cast::<Self>(),
                std::ffi::CStr::from_ptr(piece).to_bytes(),
            )
        };
        let room = pieces.bytes.capacity() - pieces.bytes.len();
        pieces
            .bytes
            .extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn into_text(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Writes size classes as a table.
pub(crate) fn write_classes(text: &mut String, classes: &[ClassStats]) {
    text.push_str("    slot  pages/slab     slabs         live         free   in use\n");
    for class in classes.iter().filter(|class| class.slabs > 0) {
        let slots = u64::from(class.live) + u64::from(class.free);
        let percent = u64::from(class.live) * 100 / slots.max(1);
        text.push_str(&format!(
            "{:>8}{:>12}{:>10}{:>13}{:>13}{percent:>8}%\n",
            class.slot_bytes, class.slab_pages, class.slabs, class.live, class.free
        ));
    }
}
