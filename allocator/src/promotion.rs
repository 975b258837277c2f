//! Huge pages for chunks that are [worth it](crate::density), and their end.
//!
//! ```text
//!            next_dense            promote             collapse
//!   small  -------------> dense? ----------> huge ------------------> (contents gathered)
//!     ^                     |                 |          |
//!     |       refused       |                 | demote   | the system cannot
//!     +---------------------+-----------------+----------+
//! ```
//!
//! From [`promote`](PageHeap::promote) on the system may put a huge page behind the
//! chunk, which the purge thread asks it to do at once, without the page lock. Before
//! any page of the chunk goes back, by purge or punch, the huge page is
//! [split](PageHeap::demote_all). Thus nothing ever becomes resident that was not: not
//! even for a chunk that is demoted while it is collapsed, since the system looks
//! whether it may when it holds the lock under which that was said.

use crate::density::Verdict;
use crate::os::{self, Range};
use crate::page_heap::PageHeap;
use crate::units::{CHUNK_BYTES, ChunkIndex, PAGE_BYTES, PageRun};

/// Pages in use from which on huge pages are looked for. Processors know 1000 to 3000
/// pages by heart, so less gains little.
pub(crate) const USED_PAGES_MIN: u32 = match cfg!(test) {
    // Tests have no room for as many.
    true => 4 << 20,
    false => 64 << 20,
} / PAGE_BYTES as u32;

/// Chunks that are looked at under one hold of the page lock.
const CHUNKS_PER_LOOK: u32 = 1024;

/// What a look for chunks has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// A chunk that is worth a huge page, if all of it is resident in truth.
    Dense(ChunkIndex),
    /// Nothing yet: look again after so many milliseconds.
    Later(u64),
    /// Nothing, unless the heap changes.
    Nothing,
}

impl PageHeap {
    /// The memory of a chunk.
    pub(crate) fn chunk_range(&self, chunk: ChunkIndex) -> Range {
        Range {
            start: self.address(chunk.first_page()),
            bytes: CHUNK_BYTES,
        }
    }

    /// Goes on with the sweep, in small steps, to the next dense chunk.
    pub(crate) fn next_dense(&mut self, now_ms: u64) -> Found {
        if self.counts().used < USED_PAGES_MIN {
            return Found::Nothing;
        }
        let pause_ms = self.sweep.pause_ms(now_ms);
        if pause_ms > 0 {
            return Found::Later(pause_ms);
        }
        let first = self.sweep.cursor.max(1);
        let end = self.frontier.min(first + CHUNKS_PER_LOOK);
        for index in first..end {
            self.sweep.cursor = index + 1;
            let chunk = ChunkIndex(index);
            if self.chunk(chunk).is_none() {
                continue;
            }
            let record = &mut self.chunks.items_mut()[index as usize];
            let is_whole = record.is_whole();
            match record.density.look(is_whole) {
                Verdict::Dense => return Found::Dense(chunk),
                Verdict::Wait => self.sweep.has_waiting = true,
                Verdict::Leave => {}
            }
        }
        if end < self.frontier {
            return Found::Later(0);
        }
        match self.sweep.ended(now_ms) {
            Some(pause_ms) => Found::Later(pause_ms),
            None => Found::Nothing,
        }
    }

    /// Allows a huge page in a chunk that was found dense, if it is still whole. False
    /// where it must not be [collapsed](os::collapse).
    pub(crate) fn promote(&mut self, chunk: ChunkIndex) -> bool {
        let range = self.chunk_range(chunk);
        let is_whole = self.chunk(chunk).is_some_and(|record| record.is_whole());
        // SAFETY: open chunks are committed, and chunks are aligned to their length.
        if !is_whole || !unsafe { os::allow_huge(range) } {
            self.refuse(chunk);
            return false;
        }
        self.chunks.items_mut()[chunk.0 as usize].density.promoted();
        self.counts.huge_chunks += 1;
        self.counts.promotions += 1;
        self.relist(chunk.0);
        true
    }

    /// Notes that a dense chunk is not worth a huge page for now, or cannot have one.
    pub(crate) fn refuse(&mut self, chunk: ChunkIndex) {
        if self.chunk(chunk).is_none() {
            return;
        }
        if !self.demote(chunk, false) {
            self.chunks.items_mut()[chunk.0 as usize].density.refused();
        }
        // It may be had in a later sweep.
        self.sweep.has_waiting = true;
    }

    /// Splits the huge pages that the runs lie in. False where the system refuses one.
    pub(crate) fn demote_all(&mut self, runs: &[PageRun]) -> bool {
        self.counts.huge_chunks == 0
            || runs
                .iter()
                .flat_map(|run| run.by_chunk())
                .all(|(chunk, _, pages)| {
                    let is_huge = self.chunks.items()[chunk.0 as usize].density.is_huge;
                    !is_huge || self.demote(chunk, pages as usize * PAGE_BYTES == CHUNK_BYTES)
                })
    }

    /// Ends all huge pages, as far as the system lets it.
    pub(crate) fn demote_everything(&mut self) {
        let mut chunk = 1;
        while self.counts.huge_chunks > 0 && chunk < self.frontier {
            if self.chunk(ChunkIndex(chunk)).is_some() {
                self.demote(ChunkIndex(chunk), false);
            }
            chunk += 1;
        }
    }

    /// Splits a chunk's huge page, unless all of it is about to go. False where it has
    /// none, or the system refuses.
    fn demote(&mut self, chunk: ChunkIndex, whole: bool) -> bool {
        let range = self.chunk_range(chunk);
        let record = &mut self.chunks.items_mut()[chunk.0 as usize];
        // SAFETY: as in `promote`.
        if !record.density.is_huge || !unsafe { os::split_huge(range, whole) } {
            return false;
        }
        record.density.demoted();
        // It may be worth it again in a later sweep.
        self.sweep.has_waiting = true;
        self.counts.huge_chunks -= 1;
        self.counts.demotions += 1;
        self.relist(chunk.0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fake::{Faults, huge_ranges, inject};
    use crate::page_heap::PageHeapOptions;
    use crate::units::CHUNK_PAGES;

    const CHUNKS: u32 = 5;

    /// A heap of whole chunks, each a run, as if they had been touched, and the runs.
    fn dense_heap() -> (PageHeap, Vec<PageRun>) {
        let mut heap = PageHeap::new(&PageHeapOptions {
            region_bytes: 8 * CHUNK_BYTES,
            region_bytes_min: 8 * CHUNK_BYTES,
            decay_ms: 0,
        })
        .unwrap();
        let runs = (0..CHUNKS)
            .map(|_| heap.allocate(CHUNK_PAGES).unwrap())
            .collect();
        (heap, runs)
    }

    /// Sweeps once; promotes what is found.
    fn sweep(heap: &mut PageHeap, now_ms: &mut u64) -> u32 {
        *now_ms += 1000;
        let mut promoted = 0;
        while let Found::Dense(chunk) = heap.next_dense(*now_ms) {
            promoted += u32::from(heap.promote(chunk));
        }
        promoted
    }

    #[test]
    fn whole_chunks_are_promoted_after_a_while_and_then_there_is_nothing_to_do() {
        let (mut heap, runs) = dense_heap();
        let mut now_ms = 0;
        assert_eq!(sweep(&mut heap, &mut now_ms), 0);
        // A chunk that is not whole in one sweep starts anew.
        let tail = PageRun {
            start: runs[0].start.plus(7),
            pages: 1,
        };
        heap.free(tail);
        assert_eq!(heap.allocate(1), Some(tail));
        assert_eq!(sweep(&mut heap, &mut now_ms), 0);
        assert_eq!(sweep(&mut heap, &mut now_ms), CHUNKS - 1);
        assert_eq!(sweep(&mut heap, &mut now_ms), 1);
        assert_eq!(heap.next_dense(now_ms + 1000), Found::Nothing);
        let counts = heap.counts();
        assert_eq!((counts.huge_chunks, counts.promotions), (CHUNKS, 5));
        assert_eq!(huge_ranges(), CHUNKS as usize);
    }

    fn promoted_heap() -> (PageHeap, Vec<PageRun>) {
        let (mut heap, runs) = dense_heap();
        let mut now_ms = 0;
        while sweep(&mut heap, &mut now_ms) == 0 {}
        assert_eq!(heap.counts().huge_chunks, CHUNKS);
        (heap, runs)
    }

    #[test]
    fn a_chunk_is_split_before_the_first_of_its_pages_goes() {
        // The fake panics where a part of a huge page is purged or moved.
        let (mut heap, runs) = promoted_heap();
        let page = |chunk: usize, page| PageRun {
            start: runs[chunk].start.plus(page),
            pages: 1,
        };
        heap.free(page(0, 3));
        assert_eq!(heap.purge(u32::MAX), 1);
        assert_eq!((heap.counts().huge_chunks, heap.counts().demotions), (4, 1));
        assert_eq!(heap.punch(&[page(1, 100)]), 1);
        assert_eq!((heap.counts().huge_chunks, heap.counts().demotions), (3, 2));
        let half = PageRun {
            pages: CHUNK_PAGES / 2,
            ..runs[2]
        };
        assert_ne!(cfg!(miri), heap.move_contents(half, runs[3].start));
        assert_eq!(heap.counts().huge_chunks, 1);
        heap.free(runs[4]);
        assert_eq!(heap.purge(u32::MAX), CHUNK_PAGES);
        assert_eq!((heap.counts().huge_chunks, huge_ranges()), (0, 0));
    }

    #[test]
    fn what_cannot_be_split_is_not_given_back() {
        let (mut heap, runs) = promoted_heap();
        let refuse = Faults {
            huge: true,
            ..Faults::default()
        };
        heap.free(runs[0]);
        assert_eq!(inject(refuse, || heap.purge(u32::MAX)), 0);
        assert_eq!(inject(refuse, || heap.punch(&[runs[1]])), 0);
        assert_eq!(heap.counts().purges_refused, 2);
        assert_eq!(heap.counts().huge_chunks, CHUNKS);
        assert_eq!(heap.purge(u32::MAX), CHUNK_PAGES);
        assert_eq!(heap.counts().huge_chunks, CHUNKS - 1);
    }

    #[test]
    fn a_few_free_pages_stay_for_the_sake_of_their_huge_pages() {
        let (mut heap, runs) = promoted_heap();
        let part = |pages| PageRun { pages, ..runs[2] };
        // A sixty-fourth of five chunks.
        heap.free(part(40));
        assert_eq!((heap.counts().dirty, heap.counts().purgeable()), (40, 0));
        assert_eq!(heap.purge_due(5000, u32::MAX), (0, None));
        heap.free(PageRun {
            pages: 1,
            ..runs[1]
        });
        assert_eq!(heap.counts().purgeable(), 1);
        let (purged, next_ms) = heap.purge_due(5000, u32::MAX);
        assert_eq!((purged, heap.counts().huge_chunks), (1, CHUNKS - 1));
        // Of the rest some are too many for four huge pages, or lie in a split one.
        assert!(next_ms.is_some());
        while heap.purge_due(5000, u32::MAX).0 > 0 {}
        assert_eq!(heap.counts().purgeable(), 0);
        assert!(heap.counts().dirty <= 32);
        // All of it goes where that is asked for.
        let dirty = heap.counts().dirty;
        assert_eq!(heap.purge(u32::MAX), dirty);
    }

    #[test]
    fn what_the_system_cannot_do_at_present_is_tried_again() {
        let (mut heap, _runs) = dense_heap();
        let mut now_ms = 0;
        let mut refused = 0;
        while refused < 2 * CHUNKS {
            now_ms += 1000;
            loop {
                match heap.next_dense(now_ms) {
                    Found::Dense(chunk) => {
                        assert!(heap.promote(chunk));
                        heap.refuse(chunk);
                        refused += 1;
                    }
                    Found::Later(_) => break,
                    Found::Nothing => panic!("{refused} were refused"),
                }
            }
        }
        assert_eq!(heap.counts().huge_chunks, 0);
        // For the third time they wait for 8 sweeps.
        let promoted = (0..9).map(|_| sweep(&mut heap, &mut now_ms)).sum::<u32>();
        assert_eq!(promoted, CHUNKS);
    }

    #[test]
    fn what_ends_in_the_middle_of_a_sweep_is_looked_at_again() {
        let (mut heap, _runs) = dense_heap();
        let mut now_ms = 0;
        assert_eq!(
            sweep(&mut heap, &mut now_ms) + sweep(&mut heap, &mut now_ms),
            0
        );
        now_ms += 1000;
        for _ in 0..CHUNKS - 1 {
            let Found::Dense(chunk) = heap.next_dense(now_ms) else {
                panic!("all chunks are dense");
            };
            assert!(heap.promote(chunk));
        }
        heap.demote_everything();
        assert_eq!(sweep(&mut heap, &mut now_ms), 1);
        let promoted = (0..5).map(|_| sweep(&mut heap, &mut now_ms)).sum::<u32>();
        assert_eq!(promoted, CHUNKS - 1);
        assert_eq!(heap.next_dense(now_ms + 1000), Found::Nothing);
    }

    #[test]
    fn all_huge_pages_end_when_they_are_not_wanted() {
        let (mut heap, runs) = promoted_heap();
        heap.refuse(runs[0].start.chunk());
        assert_eq!(heap.counts().huge_chunks, CHUNKS - 1);
        heap.demote_everything();
        assert_eq!((heap.counts().huge_chunks, huge_ranges()), (0, 0));
    }
}
