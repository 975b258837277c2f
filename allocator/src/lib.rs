//! A slab and buddy allocator that gives memory back.
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
//! system    os cgroup
//! pages     metadata bit_sets buddy decay refault page_map chunk page_heap page_purge record_pool
//! objects   slab bin hand punch large evacuation merging remote_free
//! arenas    stats local_arena upkeep relocation introspect arena model
//! shared    shared_pages process_bin process_arena arena_table purger
//! threads   thread_cache tls thread fork background
//! engine    exit_report process heap
//! faces     global_alloc control process_stats c_api
//! ```

// The order of locks is checked by means of thread-locals in debug builds.
#![cfg_attr(not(any(test, fuzzing, loom, debug_assertions)), no_std)]

// The checks of invariants alone use it.
extern crate alloc;

// Loom's atomics cannot be made in constants, as the process heap's must be: under
// loom only the layers below it exist.
#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
mod arena_table;
#[cfg(not(loom))]
mod background;
#[cfg(not(loom))]
pub mod c_api;
#[cfg(not(loom))]
mod cgroup;
#[cfg(not(loom))]
mod control;
#[cfg(not(loom))]
mod exit_report;
#[cfg(not(loom))]
mod fork;
#[cfg(not(loom))]
mod global_alloc;
#[cfg(not(loom))]
mod heap;
#[cfg(not(loom))]
mod process;
#[cfg(not(loom))]
mod process_arena;
#[cfg(not(loom))]
mod process_bin;
#[cfg(not(loom))]
mod process_stats;
#[cfg(not(loom))]
mod purger;
#[cfg(not(loom))]
mod refault;
#[cfg(not(loom))]
mod shared_pages;
#[cfg(not(loom))]
mod thread;
#[cfg(not(loom))]
mod thread_cache;
#[cfg(not(loom))]
mod tls;

#[cfg_attr(loom, allow(dead_code))]
mod fatal;
#[cfg_attr(loom, allow(dead_code))]
mod remote_free;
#[cfg_attr(loom, allow(dead_code))]
mod sync;

mod bin;
mod bit_sets;
mod buddy;
mod chunk;
mod decay;
mod evacuation;
mod hand;
mod introspect;
mod large;
mod merging;
mod metadata;
#[cfg_attr(loom, allow(dead_code))]
mod os;
mod page_heap;
mod page_map;
mod page_purge;
mod punch;
mod record_pool;
mod relocation;
mod slab;
mod upkeep;

pub mod local_arena;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod model;
pub mod options;
#[cfg_attr(loom, allow(dead_code))]
pub mod settings;
pub mod size_class;
pub mod stats;
pub mod units;

#[cfg(not(loom))]
pub use arena::Arena;
#[cfg(not(loom))]
pub use global_alloc::SlabAlloc;
#[cfg(not(loom))]
pub use process_stats::HeapStats;

pub use evacuation::{Prediction, Victim, VictimPolicy};
pub use local_arena::LocalArena;
pub use options::{ArenaOptions, Classes};
pub use relocation::{Finished, LiveSlot};
pub use settings::{Profile, Settings};
pub use stats::{ArenaStats, ClassStats, Extent, ExtentKind, Purged, Waste};
