//! The owner of chunks: hands out page runs and takes them back. How the memory of
//! free pages goes back to the system stands in `page_purge`.
//!
//! Chunks are opened in ascending order and only when no open one fits. A run
//! goes into the chunk whose longest free block is the shortest that suffices,
//! and among equals into the lowest, so that emptiness gathers in the high
//! chunks. (The rule of TCMalloc's huge-page filler: A. H. Hunter et al.,
//! "Beyond malloc efficiency to fleet efficiency", OSDI 2021.) Runs longer
//! than a chunk take consecutive chunks and leave the tail of the last one to
//! others.
//!
//! A chunk all of whose pages are free and purged is *closed*: it is as if it
//! had never been opened. Where eight neighbours are closed, their records and
//! their part of the page map are given back as well.
//!
//! Nothing here locks: `&mut self` says that the caller owns the heap.
//!
//! ```text
//! mod       runs are handed out, extended and taken back
//! chunks    which chunks are open, and the lists from which one is chosen
//! counts    where the pages are
//! check     whether the books agree
//! ```

mod check;
mod chunks;
mod counts;

pub(crate) use counts::PageCounts;

use crate::bit_sets::BitSets;
use crate::buddy::{ORDERS, PageBits, order_for};
use crate::chunk::{Chunk, whole_groups};
use crate::decay::Decay;
use crate::density::Sweep;
use crate::metadata::{Area, Table};
use crate::os;
use crate::page_map::{GROUP_CHUNKS, PAIR_CHUNKS, PageMap};
use crate::units::{
    CHUNK_BYTES, CHUNK_ORDER, CHUNK_PAGES, CHUNK_SHIFT, ChunkIndex, PAGE_BYTES, PageIndex, PageRun,
};
use core::ptr::NonNull;

/// Bytes of the region that are made accessible at a time.
const COMMIT_BYTES: usize = 64 << 20;
/// Set of the open chunks that have dirty pages; the sets below hold the open
/// chunks by the order of their longest free block.
pub(crate) const DIRTY: usize = ORDERS;
/// Set of the closed chunks among those that were once opened.
const CLOSED: usize = ORDERS + 1;
const SETS: usize = ORDERS + 2;

/// At what a region starts a multiple of, in bytes: runs can be aligned to that.
/// More than a chunk where there is address space to spare.
fn region_align(bytes: usize) -> usize {
    const GIGABYTE: usize = 1 << 30;
    if bytes > 64 * GIGABYTE {
        GIGABYTE
    } else {
        CHUNK_BYTES
    }
}

/// Pages in a page of the system's; `None` where that is larger than is provided for.
fn system_pages() -> Option<u32> {
    /// 64 KiB: a dead page of the system's then still fits into a slab.
    const PAGES_MAX: usize = 16;
    let pages = (os::page_bytes() / PAGE_BYTES).max(1);
    (pages <= PAGES_MAX).then_some(pages as u32)
}

/// What a heap is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageHeapOptions {
    /// Address space wished for, and the least that is of use; both are whole
    /// chunks, and one chunk of it stays unused.
    pub(crate) region_bytes: usize,
    pub(crate) region_bytes_min: usize,
    /// Milliseconds within which free pages are purged.
    pub(crate) decay_ms: u32,
}

/// A page heap with a region of its own.
#[derive(Debug)]
pub(crate) struct PageHeap {
    pub(crate) region: Area,
    map: PageMap,
    pub(crate) chunks: Table<Chunk>,
    pub(crate) sets: BitSets,
    /// Bit k: some chunk's longest free block is of order k.
    orders_listed: u16,
    /// Chunks below this were opened at least once; chunk 0 counts as such
    /// and is never used.
    pub(crate) frontier: u32,
    chunks_max: u32,
    /// Pages in a page of the system's.
    pub(crate) system_pages: u32,
    /// Chunks whose entries in the page map fill whole pages of the system's, in
    /// both arrays and in that of the slabs.
    group_chunks: u32,
    pair_chunks: u32,
    pub(crate) counts: PageCounts,
    pub(crate) decay: Decay,
    pub(crate) sweep: Sweep,
}

impl PageHeap {
    /// Reserves a region; halves the wish while the system refuses it, down to
    /// the least of use. `None` where that is refused, too.
    pub(crate) fn new(options: &PageHeapOptions) -> Option<PageHeap> {
        let mut bytes = options.region_bytes;
        loop {
            if let Some(heap) = PageHeap::with_region(bytes, options.decay_ms) {
                return Some(heap);
            }
            if bytes <= options.region_bytes_min {
                return None;
            }
            bytes = (bytes / 2)
                .next_multiple_of(CHUNK_BYTES)
                .max(options.region_bytes_min);
        }
    }

    fn with_region(bytes: usize, decay_ms: u32) -> Option<PageHeap> {
        let chunks_max = u32::try_from(bytes / CHUNK_BYTES).ok()?;
        let system_pages = system_pages()?;
        // Records are closed and given back by groups.
        let group_chunks = GROUP_CHUNKS * system_pages;
        let groups = (chunks_max.next_multiple_of(group_chunks)) as usize;
        let mut heap = PageHeap {
            region: Area::reserve(bytes, region_align(bytes), COMMIT_BYTES)?,
            map: PageMap::reserve(groups * CHUNK_PAGES as usize)?,
            chunks: Table::reserve(groups)?,
            sets: BitSets::new(SETS, chunks_max)?,
            orders_listed: 0,
            frontier: 1,
            chunks_max,
            system_pages,
            group_chunks,
            pair_chunks: PAIR_CHUNKS * system_pages,
            counts: PageCounts::default(),
            decay: Decay::new(decay_ms),
            sweep: Sweep::default(),
        };
        heap.chunks.grow_to(1).then_some(heap)
    }

    /// The region's first byte: the address of page 0.
    #[inline(always)]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.region.start()
    }

    /// Bytes of the region.
    pub(crate) fn region_bytes(&self) -> usize {
        self.region.reserved()
    }

    /// What lies on which page.
    #[inline(always)]
    pub(crate) fn map(&self) -> &PageMap {
        &self.map
    }

    /// What lies on which page, for those who hand objects out.
    pub(crate) fn map_mut(&mut self) -> &mut PageMap {
        &mut self.map
    }

    /// Where the pages are.
    #[inline(always)]
    pub(crate) fn counts(&self) -> &PageCounts {
        &self.counts
    }

    /// Chunks below this number may be open.
    pub(crate) fn frontier(&self) -> ChunkIndex {
        ChunkIndex(self.frontier)
    }

    /// Takes `pages` consecutive pages; `None` where region or memory is
    /// exhausted. Their contents are undefined.
    pub(crate) fn allocate(&mut self, pages: u32) -> Option<PageRun> {
        self.allocate_aligned(pages, 1)
    }

    /// Like [`PageHeap::allocate`], starting at an address that is a multiple
    /// of `align` pages, a power of two.
    pub(crate) fn allocate_aligned(&mut self, pages: u32, align: u32) -> Option<PageRun> {
        debug_assert!(pages > 0 && align.is_power_of_two());
        if pages > CHUNK_PAGES || align > CHUNK_PAGES {
            return self.allocate_chunks(pages, align.div_ceil(CHUNK_PAGES));
        }
        let align_order = align.ilog2() as usize;
        let order = order_for(pages).max(align_order);
        let sufficient = self.orders_listed >> order;
        let listed = match sufficient {
            0 => None,
            _ => self
                .sets
                .first(order + sufficient.trailing_zeros() as usize),
        };
        let chunk = match listed {
            Some(chunk) => chunk,
            None => self.open_any()?,
        };
        self.allocate_in(chunk, pages, align_order)
    }

    /// Takes `pages` consecutive pages of the lowest open chunk below `end` among
    /// those that the lists by longest free block name first; `None` where none of
    /// these has room.
    pub(crate) fn allocate_below(&mut self, pages: u32, end: ChunkIndex) -> Option<PageRun> {
        let orders = order_for(pages)..ORDERS;
        let chunk = orders.filter_map(|order| self.sets.first(order)).min()?;
        if chunk >= end.0 {
            return None;
        }
        self.allocate_in(chunk, pages, 0)
    }

    fn allocate_in(&mut self, chunk: u32, pages: u32, align_order: usize) -> Option<PageRun> {
        let record = &mut self.chunks.items_mut()[chunk as usize];
        let (start, reused) = record.allocate(pages, align_order, &mut self.counts.buddy)?;
        self.handed_out(pages, reused);
        self.relist(chunk);
        Some(PageRun {
            start: ChunkIndex(chunk).first_page().plus(start),
            pages,
        })
    }

    /// Takes consecutive chunks; what the run leaves of the last one is free.
    fn allocate_chunks(&mut self, pages: u32, align_chunks: u32) -> Option<PageRun> {
        let count = pages.div_ceil(CHUNK_PAGES);
        let first = self.find_free_chunks(count, align_chunks)?;
        if !self.grow_frontier(first + count) {
            return None;
        }
        let run = PageRun {
            start: ChunkIndex(first).first_page(),
            pages,
        };
        self.take_at(run);
        Some(run)
    }

    /// The lowest of `count` consecutive chunks that are wholly free.
    fn find_free_chunks(&self, count: u32, align: u32) -> Option<u32> {
        // The region starts on a chunk, but not on a multiple of `align`.
        let phase = (self.base().as_ptr().addr() >> CHUNK_SHIFT) as u32 & (align - 1);
        let aligned = |chunk: u32| (chunk + phase).next_multiple_of(align) - phase;
        let mut start = aligned(1);
        let mut next = start;
        while next < self.chunks_max {
            if next >= self.frontier {
                // From here on every chunk is free.
                return (start.checked_add(count)? <= self.chunks_max).then_some(start);
            }
            let word = next as usize >> 6;
            let free = self.sets.word(CHUNK_ORDER as usize, word) | self.sets.word(CLOSED, word);
            if free >> (next & 63) & 1 != 0 {
                next += 1;
                if next - start == count {
                    return Some(start);
                }
            } else {
                next += match free >> (next & 63) {
                    0 => 64 - (next & 63),
                    rest => rest.trailing_zeros(),
                };
                // Beyond the frontier the bits say nothing.
                start = aligned(next.min(self.frontier));
                next = start;
            }
        }
        None
    }

    /// Whether the pages behind the run, up to `pages` in total, are free; if
    /// so, they join the run.
    pub(crate) fn extend(&mut self, run: PageRun, pages: u32) -> bool {
        debug_assert!(pages > run.pages);
        let added = PageRun {
            start: run.end(),
            pages: pages - run.pages,
        };
        let end = u64::from(added.start.0) + u64::from(added.pages);
        if end > u64::from(self.chunks_max) << CHUNK_ORDER {
            return false;
        }
        let free = added.by_chunk().all(|(chunk, start, pages)| {
            self.is_closed(chunk.0)
                || self.chunks.items()[chunk.0 as usize]
                    .buddy
                    .is_run_free(start, pages)
        });
        if !free || !self.grow_frontier(added.end().0.div_ceil(CHUNK_PAGES)) {
            return false;
        }
        self.take_at(added);
        true
    }

    /// Takes exactly these pages, which are free and below the frontier.
    fn take_at(&mut self, run: PageRun) {
        for (chunk, start, pages) in run.by_chunk() {
            if self.is_closed(chunk.0) {
                self.open(chunk.0);
            }
            let record = &mut self.chunks.items_mut()[chunk.0 as usize];
            let reused = record.allocate_at(start, pages, &mut self.counts.buddy);
            self.handed_out(pages, reused);
            self.relist(chunk.0);
        }
    }

    fn handed_out(&mut self, pages: u32, reused: u32) {
        self.counts.used += pages;
        self.counts.handed_total += u64::from(pages);
        self.counts.dirty -= reused;
        self.counts.fresh_total += u64::from(pages - reused);
    }

    /// Takes back a run or a part of one.
    pub(crate) fn free(&mut self, run: PageRun) {
        for (chunk, start, pages) in run.by_chunk() {
            let record = &mut self.chunks.items_mut()[chunk.0 as usize];
            let dirty = record.free(start, pages, &mut self.counts.buddy);
            self.counts.used -= pages;
            self.counts.dirty += dirty;
            self.counts.punched -= pages - dirty;
            self.relist(chunk.0);
            self.close_if_idle(chunk.0);
        }
    }

    /// Whether a page has, or may have, memory behind it.
    pub(crate) fn is_resident(&self, page: PageIndex) -> bool {
        self.chunk(page.chunk())
            .is_some_and(|chunk| chunk.is_resident(page.in_chunk()))
    }

    /// Bytes of the heap's own records that have memory behind them.
    pub(crate) fn metadata_bytes(&self) -> usize {
        // Per group a page of chunk records and one of classes, per pair one of slabs.
        let pages = 2 * self.counts.open_groups + self.counts.open_pairs;
        (pages * self.system_pages) as usize * PAGE_BYTES + self.sets.resident_bytes(self.frontier)
    }

    /// The first byte of a page.
    #[inline(always)]
    pub(crate) fn address(&self, page: PageIndex) -> NonNull<u8> {
        self.region.address(page)
    }

    /// Moves the contents of handed-out pages to others without copying: the
    /// memory behind `from` comes to lie behind the pages from `to` on. False,
    /// with nothing changed, where the system cannot.
    pub(crate) fn move_contents(&mut self, from: PageRun, to: PageIndex) -> bool {
        let target = PageRun { start: to, ..from };
        let whole = [from, target]
            .iter()
            .all(|run| self.is_made_of_system_pages(run));
        if !whole || !self.demote_all(&[from, target]) {
            return false;
        }
        if !self.region.move_pages(from, to) {
            return false;
        }
        for (chunk, start, pages) in from.by_chunk() {
            let record = &mut self.chunks.items_mut()[chunk.0 as usize];
            self.counts.punched += record.punched(start, pages);
        }
        true
    }

    /// Whether the run consists of whole pages of the system's.
    pub(crate) fn is_made_of_system_pages(&self, run: &PageRun) -> bool {
        run.start.0.is_multiple_of(self.system_pages) && run.pages.is_multiple_of(self.system_pages)
    }

    /// Of the pages behind `start` that are dead, as bits, those that make up whole
    /// pages of the system's, unless all of such a page was punched before.
    pub(crate) fn whole_system_pages(&self, start: PageIndex, dead: u16, punched: u16) -> u16 {
        if self.system_pages == 1 {
            return dead & !punched;
        }
        let shift = start.0 & 63;
        let whole = |pages: u16| {
            let spread = u128::from(pages) << shift;
            let mut bits = PageBits::default();
            (bits[0], bits[1]) = (spread as u64, (spread >> 64) as u64);
            let bits = whole_groups(&bits, self.system_pages);
            ((u128::from(bits[0]) | u128::from(bits[1]) << 64) >> shift) as u16
        };
        whole(dead) & !whole(punched)
    }

    /// Notes that pages which may have been punched are about to be touched.
    pub(crate) fn refill(&mut self, run: PageRun) {
        for (chunk, start, pages) in run.by_chunk() {
            let record = &mut self.chunks.items_mut()[chunk.0 as usize];
            let missing = record.refilled(start, pages);
            self.counts.punched -= missing;
            self.counts.fresh_total += u64::from(missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fake::{Faults, huge_ranges, inject, with_page_bytes};
    use crate::promotion::Found;
    use crate::units::SlabId;
    use proptest::prelude::*;

    fn heap(chunks: usize, decay_ms: u32) -> PageHeap {
        PageHeap::new(&PageHeapOptions {
            region_bytes: chunks * CHUNK_BYTES,
            region_bytes_min: chunks * CHUNK_BYTES,
            decay_ms,
        })
        .unwrap()
    }

    /// The heap, and its pages as a model: who owns each, and a mark in each
    /// page's memory.
    struct Subject {
        heap: PageHeap,
        runs: Vec<PageRun>,
        marks: u8,
    }

    impl Subject {
        fn enter(&mut self, run: PageRun) {
            for other in &self.runs {
                assert!(run.end() <= other.start || other.end() <= run.start);
            }
            self.heap.map_mut().enter_slab(run, 0, SlabId(1));
            self.marks = self.marks.wrapping_add(1);
            for page in run.start.0..run.end().0 {
                let address = self.heap.address(PageIndex(page));
                // SAFETY: the page was handed out to this test.
                unsafe { address.write(self.marks) };
            }
            self.runs.push(run);
        }

        fn leave(&mut self, index: usize) -> PageRun {
            let run = self.runs.swap_remove(index);
            let mark = |page| {
                // SAFETY: the page was handed out to this test.
                unsafe { self.heap.address(PageIndex(page)).read() }
            };
            let first = mark(run.start.0);
            assert!((run.start.0..run.end().0).all(|page| mark(page) == first));
            self.heap.map_mut().clear(run);
            run
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate {
            pages: u32,
            align_log2: u32,
        },
        Free {
            pick: usize,
        },
        Extend {
            pick: usize,
            pages: u32,
        },
        FreeTail {
            pick: usize,
            pages: u32,
        },
        Purge {
            pages: u32,
        },
        Wait {
            ms: u64,
        },
        Punch {
            pick: usize,
        },
        /// Sweeps for dense chunks, so that some get huge pages.
        Promote {
            sweeps: u8,
            collapses: bool,
        },
    }

    fn step() -> impl Strategy<Value = Step> {
        let pages = prop_oneof![6 => 1u32..20, 2 => 1u32..600, 1 => 500u32..2000];
        prop_oneof![
            6 => (pages.clone(), prop_oneof![4 => Just(0u32), 1 => 0u32..11])
                .prop_map(|(pages, align_log2)| Step::Allocate { pages, align_log2 }),
            4 => any::<usize>().prop_map(|pick| Step::Free { pick }),
            2 => (any::<usize>(), 1u32..700).prop_map(|(pick, pages)| Step::Extend { pick, pages }),
            1 => (any::<usize>(), pages).prop_map(|(pick, pages)| Step::FreeTail { pick, pages }),
            1 => (0u32..3000).prop_map(|pages| Step::Purge { pages }),
            1 => (0u64..300).prop_map(|ms| Step::Wait { ms }),
            1 => any::<usize>().prop_map(|pick| Step::Punch { pick }),
            1 => (1u8..8, prop::bool::weighted(0.8))
                .prop_map(|(sweeps, collapses)| Step::Promote { sweeps, collapses }),
        ]
    }

    fn faults() -> impl Strategy<Value = Faults> {
        prop_oneof![
            4 => Just(Faults::default()),
            1 => any::<(bool, bool, bool)>().prop_map(|(commit, purge, huge)| Faults {
                commit,
                purge,
                huge,
                ..Faults::default()
            }),
        ]
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_the_books_balance(
            steps in prop::collection::vec((step(), faults()), 1..60),
            system_pages in prop::sample::select(vec![1_usize, 1, 1, 4, 16]),
        ) {
            with_page_bytes(system_pages * PAGE_BYTES, || balance(steps))?;
        }
    }

    fn balance(steps: Vec<(Step, Faults)>) -> Result<(), TestCaseError> {
        let mut subject = Subject {
            heap: heap(40, 100),
            runs: Vec::new(),
            marks: 0,
        };
        let mut now = 0;
        for (step, faults) in steps {
            let heap = &mut subject.heap;
            match step {
                Step::Allocate { pages, align_log2 } => {
                    let align = 1 << align_log2;
                    let run = inject(faults, || heap.allocate_aligned(pages, align));
                    if let Some(run) = run {
                        prop_assert_eq!(run.pages, pages);
                        let address = subject.heap.address(run.start).as_ptr().addr();
                        prop_assert!(address.is_multiple_of((align as usize) << 12));
                        subject.enter(run);
                    }
                }
                Step::Free { pick } if !subject.runs.is_empty() => {
                    let run = subject.leave(pick % subject.runs.len());
                    subject.heap.free(run);
                }
                Step::Extend { pick, pages } if !subject.runs.is_empty() => {
                    let index = pick % subject.runs.len();
                    let run = subject.runs[index];
                    let longer = run.pages + pages;
                    if inject(faults, || heap.extend(run, longer)) {
                        subject.leave(index);
                        subject.enter(PageRun {
                            pages: longer,
                            ..run
                        });
                    }
                }
                Step::FreeTail { pick, pages } if !subject.runs.is_empty() => {
                    let run = subject.leave(pick % subject.runs.len());
                    let kept = PageRun {
                        pages: pages.min(run.pages),
                        ..run
                    };
                    if kept.pages < run.pages {
                        subject.heap.free(PageRun {
                            start: kept.end(),
                            pages: run.pages - kept.pages,
                        });
                    }
                    subject.enter(kept);
                }
                Step::Purge { pages } => {
                    let PageCounts { dirty, held, .. } = *heap.counts();
                    let purged = inject(faults, || heap.purge(pages));
                    prop_assert_eq!(heap.counts().dirty, dirty - purged);
                    // Pages of the system's go as wholes.
                    let most = (dirty - held).min(pages + heap.system_pages - 1);
                    prop_assert!(purged <= most);
                    if !faults.purge && !faults.huge {
                        prop_assert!(purged >= (dirty - held).min(pages));
                    }
                }
                Step::Wait { ms } => {
                    now += ms;
                    let (_, next) = inject(faults, || heap.purge_due(now, u32::MAX));
                    prop_assert_eq!(next.is_some(), heap.counts().purgeable() > 0);
                }
                Step::Promote { sweeps, collapses } => {
                    for _ in 0..sweeps {
                        now += 1000;
                        while let Found::Dense(chunk) = heap.next_dense(now) {
                            let allowed = inject(faults, || heap.promote(chunk));
                            prop_assert!(!allowed || !faults.huge);
                            if allowed && !collapses {
                                heap.refuse(chunk);
                            }
                        }
                    }
                }
                Step::Punch { pick } if !subject.runs.is_empty() => {
                    let run = subject.leave(pick % subject.runs.len());
                    let punch = subject.heap.is_made_of_system_pages(&run);
                    if punch && inject(faults, || subject.heap.punch(&[run])) == 1 {
                        // SAFETY: the page was handed out to this test.
                        let first = unsafe { subject.heap.address(run.start).read() };
                        prop_assert_eq!(first, 0);
                        subject.heap.map_mut().enter_slab(run, 0, SlabId(1));
                        subject.heap.check();
                        subject.heap.refill(run);
                    }
                    subject.enter(run);
                }
                _ => {}
            }
            subject.heap.check();
        }
        while !subject.runs.is_empty() {
            let run = subject.leave(0);
            subject.heap.free(run);
        }
        subject.heap.purge(u32::MAX);
        subject.heap.check();
        prop_assert_eq!(subject.heap.counts().resident(), 0);
        prop_assert_eq!(subject.heap.counts().open_chunks, 0);
        prop_assert_eq!(huge_ranges(), 0);
        Ok(())
    }

    #[test]
    fn as_many_dirty_pages_go_as_asked_for_though_clean_ones_go_with_them() {
        with_page_bytes(4 * PAGE_BYTES, || {
            let mut heap = heap(8, 1000);
            // One in each page of the system's.
            let pages = [(); 4].map(|()| heap.allocate_aligned(1, 4).unwrap());
            for page in &pages {
                heap.map_mut().enter_slab(*page, 0, SlabId(1));
            }
            for page in pages {
                heap.map_mut().clear(page);
                heap.free(page);
            }
            assert_eq!(heap.counts().dirty, 4);
            assert_eq!(heap.purge(3), 3);
            assert_eq!(heap.counts().dirty, 1);
            heap.check();
        });
    }

    #[test]
    fn runs_longer_than_a_chunk_leave_their_tail_to_others() {
        let mut heap = heap(8, 0);
        let long = heap.allocate(2 * CHUNK_PAGES + 100).unwrap();
        assert_eq!(long.start, ChunkIndex(1).first_page());
        let short = heap.allocate(256).unwrap();
        assert_eq!(short.start.chunk(), ChunkIndex(3));
        assert!(heap.allocate(5 * CHUNK_PAGES).is_none());
        assert!(heap.allocate(4 * CHUNK_PAGES).is_some());
        assert!(heap.allocate(CHUNK_PAGES).is_none());
        assert!(heap.allocate(120).is_some());
    }

    #[test]
    fn the_fullest_chunk_serves_and_high_chunks_empty() {
        let mut heap = heap(8, 0);
        let runs: Vec<PageRun> = (0..4).map(|_| heap.allocate(512).unwrap()).collect();
        for run in &runs[..3] {
            heap.free(PageRun {
                start: run.start.plus(300),
                pages: 212,
            });
        }
        heap.free(PageRun {
            start: runs[1].start,
            pages: 100,
        });
        // All have a longest free block of 128 pages: the lowest chunk serves,
        // and then has shorter ones than the others, so that it serves again.
        assert_eq!(heap.allocate(100).unwrap().start.chunk(), ChunkIndex(1));
        assert_eq!(heap.allocate(60).unwrap().start.chunk(), ChunkIndex(1));
        assert_eq!(heap.allocate(60).unwrap().start.chunk(), ChunkIndex(2));
    }

    #[test]
    fn closed_chunks_leave_no_records_behind() {
        let mut heap = heap(40, 0);
        let runs: Vec<PageRun> = (0..30).map(|_| heap.allocate(400).unwrap()).collect();
        for run in &runs {
            heap.map_mut().enter_slab(*run, 3, SlabId(77));
        }
        let metadata = heap.metadata_bytes();
        for run in &runs {
            heap.map_mut().clear(*run);
            heap.free(*run);
        }
        assert_eq!(heap.purge(u32::MAX), 30 * 400);
        assert!(heap.metadata_bytes() < metadata);
        // The slab entries of free pages mean nothing and are not cleared, so
        // zeros show that their memory was given back.
        let end = heap.frontier().first_page().0;
        assert!((0..end).all(|page| heap.map().slab_entry(PageIndex(page)) == 0));
    }

    #[test]
    fn dirty_pages_are_reused_before_clean_ones() {
        let mut heap = heap(8, 1000);
        let run = heap.allocate(8).unwrap();
        let keep = heap.allocate(8).unwrap();
        heap.map_mut().enter_slab(keep, 0, SlabId(1));
        heap.free(run);
        assert_eq!(heap.counts().dirty, 8);
        let fresh = heap.counts().fresh_total;
        assert_eq!(heap.allocate(4).unwrap().start, run.start);
        assert_eq!(heap.counts().fresh_total, fresh);
    }

    #[test]
    fn a_region_that_is_refused_is_halved() {
        let options = PageHeapOptions {
            region_bytes: 1 << 50,
            region_bytes_min: 1 << 26,
            decay_ms: 0,
        };
        let heap = PageHeap::new(&options).unwrap();
        assert!(heap.region_bytes() < 1 << 50 && heap.region_bytes() >= 1 << 26);
        let faults = Faults {
            reserve: true,
            ..Faults::default()
        };
        assert!(inject(faults, || PageHeap::new(&options)).is_none());
    }
}
