//! The allocators that are compared.

use std::alloc::{GlobalAlloc, System};

/// An allocator by its interface alone.
pub(crate) type Allocator = &'static (dyn GlobalAlloc + Sync);

/// An allocator and the name that the tables give it.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) allocator: Allocator,
}

/// Ours, then the peers, each with its defaults.
pub(crate) const ALL: [Peer; 5] = [
    Peer {
        name: OURS,
        allocator: &slab_allocator::SlabAlloc::new(),
    },
    Peer {
        name: "jemalloc",
        allocator: &tikv_jemallocator::Jemalloc,
    },
    Peer {
        name: "mimalloc",
        allocator: &mimalloc::MiMalloc,
    },
    Peer {
        name: "snmalloc",
        allocator: &snmalloc_rs::SnMalloc,
    },
    Peer {
        name: "system",
        allocator: &System,
    },
];

/// The allocator that the others are measured against.
pub(crate) const OURS: &str = "slabkv";

/// The allocator with this name.
pub(crate) fn named(name: &str) -> Option<Allocator> {
    ALL.iter()
        .find(|peer| peer.name == name)
        .map(|peer| peer.allocator)
}
