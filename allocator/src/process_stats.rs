//! The process heap's statistics by function: as structs, as text and as JSON. What
//! each figure means is told in `docs/statistics.md`.

use crate::global_alloc::SlabAlloc;
use crate::heap_stats::{HeapArenaStats, HeapClassStats, HeapStats, ThreadCacheStats};
use crate::process::Process;
use crate::report::{self, Form};
use crate::stats::ClassStats;
use core::fmt;

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
        Process::get().map_or_else(HeapStats::default, |process| {
            process.sources().snapshot().heap
        })
    }

    /// Calls `visit` with the figures of each class that has a slab, in ascending
    /// order. Slots in threads' caches count as free.
    pub fn class_stats(&self, mut visit: impl FnMut(&ClassStats)) {
        self.heap_class_stats(|stats| {
            if stats.class.slabs > 0 {
                visit(&stats.class);
            }
        });
    }

    /// The same with all that is known of each class that has ever had a slab.
    pub fn heap_class_stats(&self, visit: impl FnMut(&HeapClassStats)) {
        if let Some(process) = Process::get() {
            process.sources().snapshot().classes().for_each(visit);
        }
    }

    /// Calls `visit` with the figures of each arena.
    pub fn arena_stats(&self, visit: impl FnMut(HeapArenaStats)) {
        if let Some(process) = Process::get() {
            process.sources().arena_stats().for_each(visit);
        }
    }

    /// Calls `visit` with the figures of each thread's cache. `visit` may allocate.
    pub fn thread_cache_stats(&self, visit: impl FnMut(ThreadCacheStats)) {
        if let Some(process) = Process::get() {
            process.sources().thread_stats().for_each(visit);
        }
    }

    /// Writes all statistics as text, a figure or a row of a table on each line.
    /// Nothing is written before the first allocation. Allocates nothing, unless `out`
    /// does. Fails where `out` does.
    ///
    /// ```
    /// let mut text = String::new();
    /// slab_allocator::SlabAlloc::new().write_stats_text(&mut text).unwrap();
    /// ```
    pub fn write_stats_text(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write(Form::Text, out)
    }

    /// Writes all statistics as one JSON object, with the names that the text has.
    /// As [`write_stats_text`](Self::write_stats_text) in everything else, but that an
    /// empty object is written before the first allocation.
    pub fn write_stats_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        write(Form::Json, out)
    }
}

fn write(form: Form, out: &mut dyn fmt::Write) -> fmt::Result {
    match Process::get() {
        Some(process) => report::write(process.sources(), &process.settings(), form, out),
        None if form == Form::Json => out.write_str("{}"),
        None => Ok(()),
    }
}
