//! Runs of large objects that were freed last, for whoever needs one of the same length
//! next: programs get a buffer, use it and free it, again and again. The buddy system
//! would merge its pages with their neighbours each time and split them again.
//!
//! As with [slabs](crate::slab_stock) nobody but their makers knows of these runs: to all
//! others the pages are free and dirty, so whoever looks at the page heap gives them up
//! before: also for a large object of another length or for a slab that is not in stock,
//! lest fresh pages be taken while these lie idle. Not in the hardened mode, which has its
//! own place for what was freed.

use crate::large::{self, LargeCounts};
use crate::page_heap::PageHeap;
use crate::units::{PageIndex, PageRun};

/// Runs that lie here at most, and their pages.
const RUNS_MAX: usize = if cfg!(feature = "hardened") { 0 } else { 32 };
const PAGES_MAX: u32 = 256;

/// Runs that are no object's.
#[derive(Debug)]
pub(crate) struct LargeStock {
    /// The oldest first.
    runs: [PageRun; RUNS_MAX],
    count: usize,
    /// Pages of all.
    pages: u32,
}

impl LargeStock {
    /// Without any run.
    pub(crate) const fn new() -> Self {
        let none = PageRun {
            start: PageIndex(0),
            pages: 0,
        };
        Self {
            runs: [none; RUNS_MAX],
            count: 0,
            pages: 0,
        }
    }

    /// Pages of all runs here.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Makes a large object of so many pages, aligned to no more than one; `None`, with
    /// nothing changed, where no run has that length. Its pages are dirty.
    pub(crate) fn take(
        &mut self,
        heap: &mut PageHeap,
        counts: &mut LargeCounts,
        pages: u32,
    ) -> Option<PageRun> {
        let at = self.runs[..self.count]
            .iter()
            .rposition(|run| run.pages == pages)?;
        let run = self.runs[at];
        self.runs.copy_within(at + 1..self.count, at);
        self.count -= 1;
        self.pages -= pages;
        large::enter(heap, counts, run);
        Some(run)
    }

    /// Frees a large object and keeps its run; false, with nothing changed, where that
    /// would be too much.
    pub(crate) fn put(
        &mut self,
        heap: &mut PageHeap,
        counts: &mut LargeCounts,
        run: PageRun,
    ) -> bool {
        if self.count == RUNS_MAX || self.pages + run.pages > PAGES_MAX {
            return false;
        }
        large::leave(heap, counts, run);
        self.runs[self.count] = run;
        self.count += 1;
        self.pages += run.pages;
        true
    }

    /// Gives all runs to the page heap.
    #[inline]
    pub(crate) fn give_up(&mut self, heap: &mut PageHeap) {
        if self.count != 0 {
            self.release_all(heap);
        }
    }

    #[cold]
    fn release_all(&mut self, heap: &mut PageHeap) {
        for run in &self.runs[..self.count] {
            heap.free(*run);
        }
        (self.count, self.pages) = (0, 0);
    }
}

#[cfg(all(test, not(feature = "hardened")))]
mod tests {
    use super::*;
    use crate::page_heap::PageHeapOptions;
    use crate::units::PAGE_BYTES;
    use proptest::prelude::*;

    fn heap() -> PageHeap {
        PageHeap::new(&PageHeapOptions {
            region_bytes: 64 << 20,
            region_bytes_min: 64 << 20,
            decay_ms: 0,
        })
        .unwrap()
    }

    #[test]
    fn the_run_of_this_length_that_was_freed_last_comes_back() {
        let (mut heap, mut counts, mut stock) = (heap(), LargeCounts::default(), LargeStock::new());
        let mut make =
            |pages: usize| large::allocate(&mut heap, &mut counts, pages * PAGE_BYTES, 1).unwrap();
        let [one, other, longer, longest] = [4, 4, 5, PAGES_MAX as usize + 1].map(&mut make);
        for run in [one, longer, other] {
            assert!(stock.put(&mut heap, &mut counts, run));
        }
        assert!(
            !stock.put(&mut heap, &mut counts, longest),
            "it is too long"
        );
        assert_eq!((stock.pages(), counts.objects), (13, 1));
        assert_eq!(large::run_at(&heap, one.start), None);
        assert_eq!(stock.take(&mut heap, &mut counts, 6), None);
        assert_eq!(stock.take(&mut heap, &mut counts, 4), Some(other));
        assert_eq!(large::run_at(&heap, other.start), Some(other));
        assert_eq!(stock.take(&mut heap, &mut counts, 4), Some(one));
        assert_eq!(stock.take(&mut heap, &mut counts, 4), None);
        large::check(&heap, &counts);
        stock.give_up(&mut heap);
        assert_eq!((stock.pages(), heap.counts().used), (0, counts.pages));
        heap.check();
        large::check(&heap, &counts);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        /// Each page is in one object or in stock, of which there is never too much.
        #[test]
        fn runs_are_neither_lost_nor_handed_out_twice(
            steps in proptest::collection::vec((0_u8..8, 1_u32..70, any::<prop::sample::Index>()), 1..300),
        ) {
            let (mut heap, mut counts, mut stock) = (heap(), LargeCounts::default(), LargeStock::new());
            let mut live: Vec<PageRun> = Vec::new();
            for (step, pages, at) in steps {
                match step {
                    0 => stock.give_up(&mut heap),
                    1..=4 => {
                        // Few lengths, so that some come back.
                        let pages = pages / 8 + 1;
                        let run = stock.take(&mut heap, &mut counts, pages).or_else(|| {
                            large::allocate(&mut heap, &mut counts, pages as usize * PAGE_BYTES, 1)
                        });
                        let run = run.unwrap();
                        prop_assert_eq!(run.pages, pages);
                        let disjoint = |other: &PageRun| other.end() <= run.start || run.end() <= other.start;
                        prop_assert!(live.iter().all(disjoint));
                        live.push(run);
                    }
                    _ if live.is_empty() => {}
                    _ => {
                        let run = live.swap_remove(at.index(live.len()));
                        if !stock.put(&mut heap, &mut counts, run) {
                            large::free(&mut heap, &mut counts, run);
                        }
                    }
                }
                let pages = live.iter().map(|run| run.pages).sum::<u32>();
                prop_assert_eq!((counts.objects as usize, counts.pages), (live.len(), pages));
                prop_assert_eq!(heap.counts().used, pages + stock.pages());
                prop_assert!(stock.pages() <= PAGES_MAX);
            }
            large::check(&heap, &counts);
            stock.give_up(&mut heap);
            heap.check();
        }
    }
}
