//! A slab and buddy allocator that gives memory back.
//!
//! # For a whole program
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: slab_allocator::SlabAlloc = slab_allocator::SlabAlloc::new();
//! # let _ = vec![1];
//! ```
//!
//! That is all. Free memory goes back to the system within about a second, a few megabytes
//! within eight, in an idle process, too. [`SlabAlloc`] has statistics, purging and [`Settings`] by function;
//! the environment has them by [`SLAB_ALLOC_OPTIONS`](settings).
//!
//! # For a part of a program
//!
//! An [`Arena`] is a heap of its own: bounded, counted, and dropped as a whole. A
//! reference to it is an [`Allocator`](allocator_api2::alloc::Allocator) for
//! collections, and several threads may share it.
//!
//! ```
//! use allocator_api2::{boxed::Box, vec::Vec};
//! use slab_allocator::{Arena, ArenaOptions};
//!
//! let request = Arena::new(ArenaOptions {
//!     region_bytes: 16 << 20, // no more than this
//!     ..ArenaOptions::default()
//! });
//! let mut rows = Vec::new_in(&request);
//! rows.extend((0..1000).map(|row| Box::new_in([row; 4], &request)));
//! assert!(rows.try_reserve(16 << 20).is_err());
//!
//! let stats = request.stats().expect("it was used");
//! assert!(stats.live_bytes >= 1000 * size_of::<[i32; 4]>());
//! assert!(stats.resident_bytes < 1 << 20);
//! // Of all that is in it nothing has to be freed singly.
//! std::mem::forget(rows);
//! drop(request);
//! ```
//!
//! # For objects that can move
//!
//! Where survivors are scattered over many slabs, memory comes back by moving them
//! together. An arena says which slab is worth emptying and where its objects go;
//! only their owner can move them, since it holds the references.
//!
//! - [`HandleArena`] does it for byte strings in safe code: one closure patches the
//!   owner's [`Handle`]s. `examples/compacting_cache.rs` is a cache that compacts
//!   itself.
//! - [`LocalArena`] is the layer below, for owners with references of their own, of
//!   four bytes each: see [`relocation`]. A keyspace of slabkv's moves its entries by
//!   it.
//!
//! ```
//! use slab_allocator::{ArenaOptions, Handle, HandleArena, VictimPolicy};
//!
//! let mut arena = HandleArena::new(&ArenaOptions::default()).expect("address space");
//! // Each object's first byte is its owner's name for it.
//! let mut owner: Vec<Option<Handle>> =
//!     (0..200).map(|name| arena.insert(&[name; 1000])).collect();
//! for name in (0..200).filter(|name| name % 9 != 0) {
//!     arena.remove(owner[name].take().expect("it was inserted"));
//! }
//! let compacted = arena.compact(&VictimPolicy::default(), usize::MAX, |object, relocation| {
//!     relocation.patch(owner[object[0] as usize].as_mut().expect("it is live"));
//! });
//! assert!(compacted.moved_objects > 0);
//! assert_eq!(arena.get(owner[99].as_ref().expect("it is live")), [99; 1000]);
//! ```
//!
//! # What it takes
//!
//! Sizes are bytes throughout, pages are 4 KiB, times are milliseconds. Running out
//! of memory is `None`, null or [`AllocError`](allocator_api2::alloc::AllocError), never
//! a panic. Allocating and freeing take constant time but for the pages that the
//! system has to give; what takes longer says so.
//!
//! # Words
//!
//! **page**: 4 KiB, the unit of the page heap. **page run**: consecutive pages
//! handed out together. **chunk**: 2 MiB of address space, the unit of buddy
//! bookkeeping. **size class**: what a request is rounded up to. **slab**: one
//! page run cut into equal **slots** of one class. **bin**: an arena's slabs of
//! one class, by occupancy. **arena**: bins and the way to the page heap, owned
//! by one thread or one shard. **dirty page**: free, still resident. **purge**:
//! give dirty pages back to the system. **punch**: purge the wholly free pages
//! inside a live slab. **evacuate**: move every object out of a sparse slab
//! into fuller ones.
//!
//! # Layers
//!
//! A file imports only from files above it; `tests/layers.rs` holds the order,
//! and reads it from here.
//!
//! ```text
//! words     fatal sync units size_class options settings
//! system    os unwind sampling cgroup
//! pages     metadata bit_sets buddy decay refault density page_map chunk page_heap page_purge promotion record_pool call_stacks sample_table
//! objects   slab bin slab_stock hardened hand punch large large_stock fences evacuation merging remote_free
//! arenas    stats local_arena upkeep relocation heap_map introspect handle_arena arena model
//! shared    shared_pages heap_profile process_bin process_arena arena_table purger
//! threads   cache_capacity reuse thread_cache tls tenancy thread fork background
//! engine    heap_stats report process profiled custody heap
//! faces     global_alloc control process_stats process_profile pprof c_api pprof_at_exit process_model
//! ```

// The order of locks is checked by means of thread-locals in debug builds.
#![cfg_attr(not(any(test, fuzzing, loom, debug_assertions)), no_std)]
#![cfg_attr(
    loom,
    allow(
        dead_code,
        reason = "loom leaves out the process heap, which uses the rest"
    )
)]

// The checks of invariants alone use it.
extern crate alloc;

// Loom's atomics cannot be made in constants, as the process heap's must be: under
// loom only the layers below it exist, and who uses which arena.
#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
mod arena_table;
#[cfg(not(loom))]
mod background;
#[cfg(not(loom))]
pub mod c_api;
#[cfg(not(loom))]
mod cache_capacity;
#[cfg(not(loom))]
mod call_stacks;
#[cfg(not(loom))]
mod cgroup;
#[cfg(not(loom))]
mod control;
#[cfg(not(loom))]
mod custody;
#[cfg(not(loom))]
mod fences;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod global_alloc;
#[cfg(not(loom))]
pub mod handle_arena;
#[cfg(not(loom))]
mod heap;
#[cfg(not(loom))]
mod heap_profile;
#[cfg(not(loom))]
mod heap_stats;
#[cfg(all(feature = "pprof", not(loom)))]
mod pprof;
#[cfg(all(feature = "pprof", not(loom)))]
mod pprof_at_exit;
#[cfg(not(loom))]
mod process;
#[cfg(not(loom))]
mod process_arena;
#[cfg(not(loom))]
mod process_bin;
#[cfg(all(any(test, fuzzing), not(loom)))]
#[doc(hidden)]
pub mod process_model;
#[cfg(not(loom))]
mod process_profile;
#[cfg(not(loom))]
mod process_stats;
#[cfg(not(loom))]
mod profiled;
#[cfg(not(loom))]
mod purger;
#[cfg(not(loom))]
mod refault;
#[cfg(not(loom))]
mod report;
#[cfg(not(loom))]
mod sample_table;
#[cfg(not(loom))]
mod sampling;
#[cfg(not(loom))]
mod shared_pages;
#[cfg(not(loom))]
mod thread;
#[cfg(not(loom))]
mod thread_cache;
#[cfg(not(loom))]
mod tls;
#[cfg(not(loom))]
mod unwind;

mod bin;
mod bit_sets;
mod buddy;
mod chunk;
mod decay;
mod density;
mod evacuation;
mod fatal;
mod hand;
mod hardened;
mod heap_map;
mod introspect;
mod large;
#[cfg(not(loom))]
mod large_stock;
mod merging;
mod metadata;
mod os;
mod page_heap;
mod page_map;
mod page_purge;
mod promotion;
mod punch;
mod record_pool;
pub mod relocation;
mod remote_free;
mod reuse;
pub mod settings;
mod slab;
#[cfg(not(loom))]
mod slab_stock;
mod sync;
mod tenancy;
mod upkeep;

pub mod local_arena;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod model;
pub mod options;
pub mod size_class;
pub mod stats;
pub mod units;

#[cfg(not(loom))]
pub use arena::Arena;
#[cfg(not(loom))]
pub use call_stacks::Sampled;
#[cfg(not(loom))]
pub use global_alloc::SlabAlloc;
#[cfg(not(loom))]
pub use handle_arena::{Compacted, Handle, HandleArena, Relocation};
#[cfg(not(loom))]
pub use heap_profile::ProfileStats;
#[cfg(not(loom))]
pub use heap_stats::{HeapArenaStats, HeapClassStats, HeapStats, ThreadCacheStats};

pub use evacuation::{ClassSet, Prediction, Victim, VictimPolicy};
pub use local_arena::LocalArena;
pub use options::{ArenaOptions, Classes};
pub use os::reservations;
pub use relocation::{Finished, LiveSlot};
pub use settings::{ExitReport, HugePages, Profile, Settings};
pub use stats::{
    ArenaStats, ChunkStats, ClassStats, Extent, ExtentKind, PageUse, Purged, Traffic, Waste,
};
