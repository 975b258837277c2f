//! Guard pages around large objects, and a quarantine of those that were freed: the
//! [hardened mode](crate::hardened)'s part of [`large`](crate::large). Without that mode
//! it adds nothing.
//!
//! ```text
//!  | fence | object                         seal | fence |
//! ```
//!
//! A fence is a page that nobody may touch: who does is stopped by the processor at the
//! very instruction. An object that is aligned to more than a page has a fence behind it
//! alone. A freed object loses its memory at once, and becomes a fence as a whole until
//! [`FREED_RUNS`] others, or [`FREED_PAGES_MAX`] pages, were freed after it.
//!
//! Where the system refuses to guard a page, it stays accessible, and a write to it is
//! seen only when it is handed out again. Where it refuses to lift a guard, the pages stay
//! a fence for good.

#[cfg(not(feature = "hardened"))]
pub(crate) use off::Fences;
#[cfg(feature = "hardened")]
pub(crate) use on::Fences;

#[cfg(not(feature = "hardened"))]
mod off {
    use crate::large::{self, LargeCounts};
    use crate::page_heap::PageHeap;
    use crate::units::PageRun;

    /// No fences.
    pub(crate) struct Fences;

    impl Fences {
        /// None.
        pub(crate) fn new() -> Self {
            Self
        }

        /// See [`large::allocate`].
        #[inline(always)]
        pub(crate) fn allocate(
            &mut self,
            heap: &mut PageHeap,
            counts: &mut LargeCounts,
            size: usize,
            align: usize,
        ) -> Option<PageRun> {
            large::allocate(heap, counts, size, align)
        }

        /// Nothing is held back.
        #[inline(always)]
        pub(crate) fn release_all(&mut self, _heap: &mut PageHeap, _counts: &mut LargeCounts) {}

        /// See [`large::free`].
        #[inline(always)]
        pub(crate) fn free(&mut self, heap: &mut PageHeap, counts: &mut LargeCounts, run: PageRun) {
            large::free(heap, counts, run);
        }

        /// See [`large::resize_in_place`].
        #[inline(always)]
        pub(crate) fn resize_in_place(
            &mut self,
            heap: &mut PageHeap,
            counts: &mut LargeCounts,
            run: PageRun,
            size: usize,
        ) -> bool {
            large::resize_in_place(heap, counts, run, size)
        }

        /// See [`large::move_to_grow`].
        #[inline(always)]
        pub(crate) fn move_to_grow(
            &mut self,
            heap: &mut PageHeap,
            counts: &mut LargeCounts,
            run: PageRun,
            size: usize,
        ) -> Option<PageRun> {
            large::move_to_grow(heap, counts, run, size)
        }
    }
}

#[cfg(feature = "hardened")]
mod on {
    use crate::large::{LargeCounts, MOVED_PAGES_MIN, pages_of};
    use crate::os;
    use crate::page_heap::PageHeap;
    use crate::page_map::{FENCE_BEHIND, FENCE_IN_FRONT, LARGE_FREED};
    use crate::units::{PAGE_BYTES, PageIndex, PageRun};

    /// Freed objects that stay fences, and their pages.
    const FREED_RUNS: usize = 64;
    const FREED_PAGES_MAX: u32 = (256 << 20) / PAGE_BYTES as u32;

    /// The objects that were freed last, fences of theirs included.
    pub(crate) struct Fences {
        freed: [PageRun; FREED_RUNS],
        first: usize,
        count: usize,
        pages: u32,
    }

    /// `pages` pages from `start` on.
    fn run_of(start: PageIndex, pages: u32) -> PageRun {
        PageRun { start, pages }
    }

    /// An object's run with its fences.
    fn with_fences(heap: &PageHeap, run: PageRun) -> PageRun {
        let before = PageIndex(run.start.0 - 1);
        if heap.map().class_entry(before) == FENCE_IN_FRONT {
            run_of(before, run.pages + 2)
        } else {
            run_of(run.start, run.pages + 1)
        }
    }

    /// Takes the memory of pages in use, which read as zero when they are next used.
    fn empty(heap: &mut PageHeap, run: PageRun) {
        let unit = os::page_bytes();
        // The system's pages may be larger than ours.
        let is_whole =
            run.start.byte_offset().is_multiple_of(unit) && run.bytes().is_multiple_of(unit);
        if !is_whole || heap.punch(&[run]) == 0 {
            // SAFETY: The pages are committed, and in use by nobody but the caller.
            unsafe { heap.address(run.start).write_bytes(0, run.bytes()) };
        }
    }

    /// Makes a page a fence.
    fn raise(heap: &mut PageHeap, page: PageIndex, entry: u8) {
        empty(heap, run_of(page, 1));
        heap.map_mut().enter(run_of(page, 1), entry);
        heap.region.guard(run_of(page, 1));
    }

    /// How many guards there are on a freed object's run with its fences.
    fn outer_guards(heap: &PageHeap, outer: PageRun) -> usize {
        if heap.map().class_entry(outer.start) == FENCE_IN_FRONT {
            3
        } else {
            2
        }
    }

    impl Fences {
        /// None as yet.
        pub(crate) fn new() -> Self {
            Self {
                freed: [run_of(PageIndex(0), 0); FREED_RUNS],
                first: 0,
                count: 0,
                pages: 0,
            }
        }

        /// Takes a run for `size` bytes at a multiple of `align` bytes, a power of two,
        /// between fences.
        pub(crate) fn allocate(
            &mut self,
            heap: &mut PageHeap,
            counts: &mut LargeCounts,
            size: usize,
            align: usize,
        ) -> Option<PageRun> {
            let align = u32::try_from(align.div_ceil(PAGE_BYTES)).ok()?;
            let front = u32::from(align == 1);
            let pages = pages_of(size.max(1))?;
            let outer = loop {
                match heap.allocate_aligned(front + pages + 1, align) {
                    Some(outer) => break outer,
                    None if self.count == 0 => return None,
                    None => self.release_first(heap, counts),
                }
            };
            let run = run_of(outer.start.plus(front), pages);
            if front > 0 {
                raise(heap, outer.start, FENCE_IN_FRONT);
            }
            raise(heap, run.end(), FENCE_BEHIND);
            heap.map_mut().enter_large(run);
            counts.objects += 1;
            counts.pages += pages;
            counts.fences += front + 1;
            Some(run)
        }

        /// Takes an object's run, and its memory.
        pub(crate) fn free(&mut self, heap: &mut PageHeap, counts: &mut LargeCounts, run: PageRun) {
            counts.objects -= 1;
            counts.pages -= run.pages;
            counts.fences += run.pages;
            let outer = with_fences(heap, run);
            empty(heap, run);
            heap.map_mut().enter(run, LARGE_FREED);
            heap.region.guard(run);
            while self.count == FREED_RUNS
                || self.count > 0 && self.pages + outer.pages > FREED_PAGES_MAX
            {
                self.release_first(heap, counts);
            }
            self.freed[(self.first + self.count) % FREED_RUNS] = outer;
            self.count += 1;
            self.pages += outer.pages;
        }

        /// Makes all pages free that are held back.
        pub(crate) fn release_all(&mut self, heap: &mut PageHeap, counts: &mut LargeCounts) {
            while self.count > 0 {
                self.release_first(heap, counts);
            }
        }

        /// Makes the pages free that were freed first.
        fn release_first(&mut self, heap: &mut PageHeap, counts: &mut LargeCounts) {
            let outer = self.freed[self.first];
            self.first = (self.first + 1) % FREED_RUNS;
            self.count -= 1;
            self.pages -= outer.pages;
            // Those of the object and of its fences.
            if heap.region.lift_guard(outer, outer_guards(heap, outer)) {
                counts.fences -= outer.pages;
                heap.map_mut().clear(outer);
                heap.free(outer);
            }
        }

        /// Makes a run long enough for `size` bytes, and no longer, where it lies. False,
        /// with nothing changed, where the pages behind it are not free, or the fence stays.
        pub(crate) fn resize_in_place(
            &mut self,
            heap: &mut PageHeap,
            counts: &mut LargeCounts,
            run: PageRun,
            size: usize,
        ) -> bool {
            let Some(pages) = pages_of(size.max(1)) else {
                return false;
            };
            if pages == run.pages {
                return true;
            }
            if pages > run.pages && !heap.extend(run_of(run.start, run.pages + 1), pages + 1) {
                return false;
            }
            let resized = PageRun { pages, ..run };
            let old_fence = run_of(run.end(), 1);
            if !heap.region.lift_guard(old_fence, 1) {
                if pages > run.pages {
                    heap.free(run_of(old_fence.end(), pages - run.pages));
                }
                return false;
            }
            heap.map_mut().clear(old_fence);
            if pages > run.pages {
                heap.refill(old_fence);
            } else {
                empty(heap, run_of(resized.end(), run.pages - pages));
            }
            heap.map_mut().resize_large(run, resized);
            raise(heap, resized.end(), FENCE_BEHIND);
            if pages < run.pages {
                heap.free(run_of(resized.end().plus(1), run.pages - pages));
            }
            counts.pages = counts.pages - run.pages + pages;
            true
        }

        /// Gives a run the length for `size` bytes in another place, by moving its
        /// memory: see [`large::move_to_grow`](crate::large::move_to_grow).
        pub(crate) fn move_to_grow(
            &mut self,
            heap: &mut PageHeap,
            counts: &mut LargeCounts,
            run: PageRun,
            size: usize,
        ) -> Option<PageRun> {
            if run.pages < MOVED_PAGES_MIN || pages_of(size)? < run.pages {
                return None;
            }
            let target = self.allocate(heap, counts, size, 1)?;
            let moved = heap.move_contents(run, target.start);
            self.free(heap, counts, if moved { run } else { target });
            moved.then_some(target)
        }
    }
}
