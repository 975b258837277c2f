//! Objects too large for slabs: page runs of exactly their length, which grow
//! into the free pages behind them.
//!
//! A run needs no record: its length stands in the page map.

use crate::page_heap::PageHeap;
use crate::page_map::{LARGE_BODY, LARGE_HEAD};
use crate::units::{PAGE_BYTES, PageIndex, PageRun, pages_for};

/// How many large objects there are, and their pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LargeCounts {
    pub(crate) objects: u32,
    pub(crate) pages: u32,
}

/// Pages of an object of `size` bytes; `None` beyond what any region holds.
fn pages_of(size: usize) -> Option<u32> {
    u32::try_from(pages_for(size))
        .ok()
        .filter(|pages| *pages < 1 << 30)
}

/// Takes a run for `size` bytes at a multiple of `align` bytes, a power of two.
pub(crate) fn allocate(
    heap: &mut PageHeap,
    counts: &mut LargeCounts,
    size: usize,
    align: usize,
) -> Option<PageRun> {
    let align = u32::try_from(align.div_ceil(PAGE_BYTES)).ok()?;
    let run = heap.allocate_aligned(pages_of(size.max(1))?, align)?;
    heap.map_mut().enter_large(run);
    counts.objects += 1;
    counts.pages += run.pages;
    Some(run)
}

/// The large object that starts on the page; `None` if none does.
pub(crate) fn run_at(heap: &PageHeap, start: PageIndex) -> Option<PageRun> {
    (heap.map().class_entry(start) == LARGE_HEAD).then(|| PageRun {
        start,
        pages: heap.map().slab_entry(start),
    })
}

/// Takes an object's run back.
pub(crate) fn free(heap: &mut PageHeap, counts: &mut LargeCounts, run: PageRun) {
    debug_assert_eq!(run_at(heap, run.start), Some(run));
    counts.objects -= 1;
    counts.pages -= run.pages;
    heap.map_mut().clear(run);
    heap.free(run);
}

/// Makes a run long enough for `size` bytes, and no longer, where it lies.
/// False, with nothing changed, where the pages behind it are not free.
pub(crate) fn resize_in_place(
    heap: &mut PageHeap,
    counts: &mut LargeCounts,
    run: PageRun,
    size: usize,
) -> bool {
    let Some(pages) = pages_of(size.max(1)) else {
        return false;
    };
    let resized = PageRun { pages, ..run };
    if pages > run.pages && !heap.extend(run, pages) {
        return false;
    }
    heap.map_mut().resize_large(run, resized);
    if pages < run.pages {
        heap.free(PageRun {
            start: resized.end(),
            pages: run.pages - pages,
        });
    }
    counts.pages = counts.pages - run.pages + pages;
    true
}

/// Panics unless the map's entries of large runs agree with the counts.
pub(crate) fn check(heap: &PageHeap, counts: &LargeCounts) {
    let mut found = LargeCounts::default();
    let end = heap.frontier().first_page();
    let mut page = PageIndex(0);
    while page < end {
        let Some(run) = run_at(heap, page) else {
            assert_ne!(heap.map().class_entry(page), LARGE_BODY, "{page:?}");
            page = page.plus(1);
            continue;
        };
        for body in 1..run.pages {
            assert_eq!(heap.map().class_entry(page.plus(body)), LARGE_BODY);
        }
        found.objects += 1;
        found.pages += run.pages;
        page = run.end();
    }
    assert_eq!(found, *counts);
}
