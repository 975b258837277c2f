//! The process heap's statistics by function: as structs, as text and as JSON. What
//! each figure means is told in `docs/statistics.md`.

use crate::global_alloc::SlabAlloc;
use crate::heap_stats::{HeapArenaStats, HeapClassStats, HeapStats, ThreadCacheStats};
use crate::page_map::{FREE, LARGE_BODY, LARGE_HEAD, SAMPLED_HEAD, class_of_entry};
use crate::process::Process;
use crate::report::{self, Form};
use crate::stats::{ClassStats, PageUse};
use crate::units::{CHUNK_PAGES, ChunkIndex};
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

    /// What each page of the first chunk at or after number `from` is used for that has
    /// pages in use or resident. Returns its number and the address of its first page;
    /// `None`, with nothing written, behind the last one. The lock of the pages is held
    /// for a few microseconds, and nothing is allocated.
    ///
    /// With the system's page map, which tells the pages that were touched, this shows by
    /// how much the books are ahead of what is resident.
    pub fn chunk_pages(
        &self,
        from: u32,
        pages: &mut [PageUse; CHUNK_PAGES as usize],
    ) -> Option<(u32, usize)> {
        let shared = Process::get()?.sources().pages;
        shared.with(|books| {
            let heap = &books.source.pages;
            let chunk: ChunkIndex = heap.next_open_chunk(from)?;
            let record = heap.chunk(chunk)?;
            let first = chunk.first_page();
            for (place, page) in pages.iter_mut().zip(0..) {
                *place = match heap.map().class_entry(first.plus(page)) {
                    _ if !record.is_resident(page) => PageUse::None,
                    FREE => PageUse::Dirty,
                    LARGE_HEAD | LARGE_BODY | SAMPLED_HEAD => PageUse::Large,
                    entry if class_of_entry(entry).is_some() => PageUse::Slab,
                    // Pages that the hardened mode guards.
                    _ => PageUse::None,
                };
            }
            Some((chunk.0, heap.address(first).as_ptr().addr()))
        })
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
