//! The allocators that are compared.

use crate::workloads::linked_pair;
use std::alloc::{GlobalAlloc, System};
use std::time::Duration;

/// An allocator by its interface alone.
pub(crate) type Allocator = &'static (dyn GlobalAlloc + Sync);

/// An allocator and the name that the tables give it.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) allocator: Allocator,
    /// Runs so many pairs of calls that the compiler knows, as those of a program
    /// that is linked with the allocator are.
    pub(crate) linked_pair: fn(u64) -> Duration,
}

/// Ours, then the peers, each with its defaults.
pub(crate) const ALL: [Peer; 5] = [
    Peer {
        name: OURS,
        allocator: &slab_allocator::SlabAlloc::new(),
        linked_pair: |pairs| linked_pair(&slab_allocator::SlabAlloc::new(), pairs),
    },
    Peer {
        name: "jemalloc",
        allocator: &tikv_jemallocator::Jemalloc,
        linked_pair: |pairs| linked_pair(&tikv_jemallocator::Jemalloc, pairs),
    },
    Peer {
        name: "mimalloc",
        allocator: &mimalloc::MiMalloc,
        linked_pair: |pairs| linked_pair(&mimalloc::MiMalloc, pairs),
    },
    Peer {
        name: "snmalloc",
        allocator: &snmalloc_rs::SnMalloc,
        linked_pair: |pairs| linked_pair(&snmalloc_rs::SnMalloc, pairs),
    },
    Peer {
        name: "system",
        allocator: &System,
        linked_pair: |pairs| linked_pair(&System, pairs),
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
