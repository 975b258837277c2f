//! Where the process heap's memory is. Nothing here allocates, and the fast paths
//! count nothing: what a class has handed out follows from the books of slabs and
//! from what lies in the threads' caches.

use crate::global_alloc::SlabAlloc;
use crate::process::Process;
use crate::process_arena::{CLASSES, ClassFigures};
use crate::size_class::GENERAL;
use crate::stats::{ArenaStats, ClassStats};
use crate::units::PAGE_BYTES;

/// The process heap's books at one moment. While other threads allocate and free,
/// the parts are read one after the other and agree only roughly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapStats {
    /// All arenas together. Of the slots, those in threads' caches are in none of
    /// its parts, so that
    /// `slab_bytes = live_bytes + free_bytes + tail_bytes + cached_bytes`. Slots
    /// that other threads have freed and the owner has not taken back yet count as
    /// live.
    pub arenas: ArenaStats,
    /// Free slots in threads' caches.
    pub cached_bytes: usize,
    /// Arenas, whether a thread uses them or not.
    pub arena_count: usize,
    /// Threads that have a cache.
    pub thread_count: usize,
}

impl SlabAlloc {
    /// Where the heap's memory is, in bytes. All zeros before the first allocation.
    /// Takes time in proportion to the number of arenas, classes and threads.
    ///
    /// ```
    /// use slab_allocator::SlabAlloc;
    ///
    /// #[global_allocator]
    /// static ALLOCATOR: SlabAlloc = SlabAlloc::new();
    ///
    /// let bytes = vec![1u8; 5000];
    /// let heap = ALLOCATOR.stats();
    /// assert!(heap.arenas.live_bytes >= 5000);
    /// assert!(heap.arenas.resident_bytes >= heap.arenas.live_bytes);
    /// # drop(bytes);
    /// ```
    pub fn stats(&self) -> HeapStats {
        let Some(process) = Process::get() else {
            return HeapStats::default();
        };
        let figures = figures(process);
        let mut stats = HeapStats {
            arenas: process
                .pages
                .with(|pages| ArenaStats::of_pages(&pages.source, &pages.large)),
            arena_count: figures.arena_count,
            thread_count: figures.thread_count,
            ..HeapStats::default()
        };
        let total = &mut stats.arenas;
        for (class, held) in figures.classes.iter().enumerate() {
            let shape = GENERAL.class(class);
            let slot_bytes = shape.size as usize;
            total.slabs += held.slabs as usize;
            total.slab_bytes += held.slabs as usize * shape.slab_bytes();
            total.tail_bytes += held.slabs as usize * shape.tail_bytes();
            total.free_bytes += held.free as usize * slot_bytes;
            stats.cached_bytes += figures.cached(class) * slot_bytes;
        }
        total.live_bytes =
            total.slab_bytes - total.tail_bytes - total.free_bytes - stats.cached_bytes;
        total.metadata_bytes += figures.record_bytes;
        total.resident_bytes += total.metadata_bytes;
        stats
    }

    /// Calls `visit` with the figures of each class that has had a slab, in
    /// ascending order. Slots in threads' caches count as free.
    pub fn class_stats(&self, mut visit: impl FnMut(&ClassStats)) {
        let Some(process) = Process::get() else {
            return;
        };
        let figures = figures(process);
        for (class, held) in figures.classes.iter().enumerate() {
            let shape = GENERAL.class(class);
            let free = held.free + figures.cached(class) as u32;
            if held.slabs > 0 {
                visit(&ClassStats {
                    slot_bytes: shape.size as usize,
                    slab_pages: u32::from(shape.pages),
                    slab_slots: u32::from(shape.slots),
                    slabs: held.slabs,
                    live: held.slabs * u32::from(shape.slots) - free,
                    free,
                    by_occupancy: held.by_occupancy,
                });
            }
        }
    }
}

struct Figures {
    classes: [ClassFigures; CLASSES],
    cached: [usize; CLASSES],
    arena_count: usize,
    thread_count: usize,
    /// Bytes of arenas' and threads' records.
    record_bytes: usize,
}

impl Figures {
    /// Slots of the class in threads' caches, as far as the slabs bear it out:
    /// the caches change while they are counted.
    fn cached(&self, class: usize) -> usize {
        let held = &self.classes[class];
        let out = held.slabs * u32::from(GENERAL.class(class).slots) - held.free;
        self.cached[class].min(out as usize)
    }
}

fn figures(process: &Process) -> Figures {
    let mut figures = Figures {
        classes: [ClassFigures::default(); CLASSES],
        cached: [0; CLASSES],
        arena_count: 0,
        thread_count: 0,
        // The registry's own, which is little more than the list of records.
        record_bytes: PAGE_BYTES,
    };
    for arena in process.arenas.iter() {
        figures.arena_count += 1;
        figures.record_bytes += arena.count(&mut figures.classes);
    }
    process.for_each_thread(|thread| {
        figures.thread_count += 1;
        figures.record_bytes += thread.cache.resident_bytes();
        for (class, cached) in figures.cached.iter_mut().enumerate() {
            *cached += thread.cache.len(class);
        }
    });
    figures
}
