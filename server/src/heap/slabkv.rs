//! slabkv's own allocator.

use slab_allocator::SlabAlloc;

use super::{HeapMemory, write_classes};

pub(crate) type Malloc = SlabAlloc;

pub(crate) const MALLOC: Malloc = SlabAlloc::new();

/// Room for the size classes of the heap.
const CLASSES: usize = 128;

/// Whether the free part of the heap is known, and not only what is in use.
pub(super) const KNOWS_FREE: bool = true;

/// The name that INFO gives.
pub(crate) fn name() -> String {
    concat!("slabkv-", env!("CARGO_PKG_VERSION")).to_owned()
}

/// What is to be done when the server starts.
pub(crate) fn start() {}

/// The allocator's own books.
pub(super) fn memory() -> HeapMemory {
    let heap = MALLOC.stats();
    let arenas = &heap.arenas;
    let free_bytes = arenas.free_bytes + arenas.tail_bytes;
    HeapMemory {
        live_bytes: (arenas.live_bytes + arenas.large_bytes) as u64,
        free_slot_bytes: free_bytes.saturating_sub(arenas.punched_bytes) as u64,
        cached_bytes: heap.cached_bytes as u64,
        dirty_bytes: arenas.dirty_bytes as u64,
        metadata_bytes: arenas.metadata_bytes as u64,
    }
}

/// Gives free memory back to the system.
pub(crate) fn purge() {
    MALLOC.purge();
}

/// What a worker does before it sleeps for long.
pub(crate) fn rest() {
    MALLOC.rest();
}

/// The heap in detail, as text.
pub(crate) fn describe() -> String {
    // The list is allocated on the heap that it describes, so its room is there before.
    let mut classes = Vec::with_capacity(CLASSES);
    MALLOC.class_stats(|class| classes.push(*class));
    let mut text = String::from("\nSize classes of the process's heap:\n\n");
    write_classes(&mut text, &classes);
    text
}
