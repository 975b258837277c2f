//! Objects too large for slabs: page runs of exactly their length, which grow
//! into the free pages behind them.
//!
//! A run needs no record: its length stands in the page map.

use crate::page_heap::PageHeap;
use crate::page_map::{LARGE_BODY, LARGE_HEAD, SAMPLED_HEAD};
use crate::units::{PAGE_BYTES, PageIndex, PageRun, pages_for};

/// How many large objects there are, and their pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LargeCounts {
    pub(crate) objects: u32,
    pub(crate) pages: u32,
    /// Pages that the hardened mode guards around them, or instead of them after they
    /// were freed.
    pub(crate) fences: u32,
}

/// Pages of an object of `size` bytes; `None` beyond what any region holds.
pub(crate) fn pages_of(size: usize) -> Option<u32> {
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
    enter(heap, counts, run);
    Some(run)
}

/// Makes pages that nobody else uses an object.
pub(crate) fn enter(heap: &mut PageHeap, counts: &mut LargeCounts, run: PageRun) {
    heap.map_mut().enter_large(run);
    counts.objects += 1;
    counts.pages += run.pages;
}

/// The large object that starts on the page; `None` if none does.
pub(crate) fn run_at(heap: &PageHeap, start: PageIndex) -> Option<PageRun> {
    matches!(heap.map().class_entry(start), LARGE_HEAD | SAMPLED_HEAD).then(|| PageRun {
        start,
        pages: heap.map().slab_entry(start),
    })
}

/// Takes an object's run back.
pub(crate) fn free(heap: &mut PageHeap, counts: &mut LargeCounts, run: PageRun) {
    leave(heap, counts, run);
    heap.free(run);
}

/// Makes an object no more than the pages that it has.
pub(crate) fn leave(heap: &mut PageHeap, counts: &mut LargeCounts, run: PageRun) {
    debug_assert_eq!(run_at(heap, run.start), Some(run));
    counts.objects -= 1;
    counts.pages -= run.pages;
    heap.map_mut().clear(run);
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

/// The shortest run that is worth moving. Tests have no room for long ones.
pub(crate) const MOVED_PAGES_MIN: u32 = if cfg!(any(test, fuzzing)) { 64 } else { 2048 };

/// Gives a run the length for `size` bytes, at least as many as it has, in
/// another place, by moving its memory instead of copying. `None`, with
/// nothing changed, where that does not pay or cannot be done.
///
/// Every move cuts the system's map of the region into more pieces, of which a
/// process may have only so many: so only long runs are moved like this.
pub(crate) fn move_to_grow(
    heap: &mut PageHeap,
    counts: &mut LargeCounts,
    run: PageRun,
    size: usize,
) -> Option<PageRun> {
    if run.pages < MOVED_PAGES_MIN || pages_of(size)? < run.pages {
        return None;
    }
    let target = allocate(heap, counts, size, 1)?;
    if heap.move_contents(run, target.start) {
        free(heap, counts, run);
        Some(target)
    } else {
        free(heap, counts, target);
        None
    }
}

/// Panics unless the map's entries of large runs agree with the counts.
pub(crate) fn check(heap: &PageHeap, counts: &LargeCounts) {
    let mut found = LargeCounts {
        fences: counts.fences,
        ..LargeCounts::default()
    };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fake::{Faults, inject};
    use crate::page_heap::PageHeapOptions;

    #[test]
    #[cfg_attr(miri, ignore = "Miri knows no mremap")]
    fn a_long_run_takes_its_memory_along() {
        let mut heap = PageHeap::new(&PageHeapOptions {
            region_bytes: 32 << 20,
            region_bytes_min: 32 << 20,
            decay_ms: 0,
        })
        .unwrap();
        let mut counts = LargeCounts::default();
        let run = allocate(&mut heap, &mut counts, 1 << 20, 1).unwrap();
        let wall = allocate(&mut heap, &mut counts, 4096, 1).unwrap();
        let start = heap.address(run.start);
        // SAFETY: the run was handed out to this test.
        unsafe { start.write_bytes(5, run.bytes()) };
        assert!(!resize_in_place(&mut heap, &mut counts, run, 2 << 20));
        let refuse = Faults {
            move_pages: true,
            ..Faults::default()
        };
        let refused = inject(refuse, || {
            move_to_grow(&mut heap, &mut counts, run, 2 << 20)
        });
        assert!(refused.is_none());
        heap.check();
        let dirty = heap.counts().dirty;
        let moved = move_to_grow(&mut heap, &mut counts, run, 2 << 20).unwrap();
        let start = heap.address(moved.start);
        // SAFETY: the moved run is this test's.
        let bytes = unsafe { core::slice::from_raw_parts(start.as_ptr(), run.bytes()) };
        assert!(bytes.iter().all(|byte| *byte == 5));
        // The old pages are clean, and there was nothing to purge.
        assert!(heap.counts().dirty <= dirty);
        heap.check();
        check(&heap, &counts);
        free(&mut heap, &mut counts, moved);
        free(&mut heap, &mut counts, wall);
        heap.purge(u32::MAX);
        assert_eq!(heap.counts().resident(), 0);
    }
}
