//! The buddy system of one chunk: which of its 512 pages are free, as blocks
//! of 2^order pages that lie at multiples of their size.
//!
//! One bitmap per order says which blocks are free. The form is canonical: a
//! block and its buddy are never both free, since they are merged at once, so
//! the set of free pages determines the bits and the longest free block is
//! known exactly. All ten bitmaps take 1023 bits:
//!
//! ```text
//! bit     0..512      order 0, one per page
//! bit   512..768      order 1
//! bit   768..896      order 2
//! ...
//! bit      1022       order 9, the whole chunk
//! ```
//!
//! A run need not be a power of two: the smallest sufficient block is split,
//! and what the run does not need returns as blocks. Freeing a run cuts it
//! into aligned blocks and merges each as far up as its buddies are free.
//! Both take at most nine steps per block. (K. C. Knowlton, "A fast storage
//! allocator", CACM 8(10), 1965.)
//!
//! Everything here is computed on bits alone.

use crate::metadata::Zeroable;
use crate::units::{CHUNK_ORDER, CHUNK_PAGES};

/// Orders of blocks, from one page to the whole chunk.
pub(crate) const ORDERS: usize = CHUNK_ORDER as usize + 1;

/// A bit per page of a chunk.
pub(crate) type PageBits = [u64; CHUNK_PAGES as usize / 64];

/// The order of the smallest block of at least `pages` pages.
pub(crate) fn order_for(pages: u32) -> usize {
    debug_assert!((1..=CHUNK_PAGES).contains(&pages));
    (u32::BITS - (pages - 1).leading_zeros()) as usize
}

/// What all buddies of a heap have done and hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BuddyCounts {
    /// Free blocks by order.
    pub(crate) free_blocks: [u32; ORDERS],
    /// Blocks that were cut in two.
    pub(crate) splits: u64,
    /// Pairs of blocks that were joined.
    pub(crate) merges: u64,
}

/// The free blocks of one chunk. All zeros mean that nothing is free.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Buddy {
    bits: [u64; 16],
    /// Bit k: a block of order k is free.
    order_mask: u16,
}

// SAFETY: the struct consists of integers.
unsafe impl Zeroable for Buddy {}

fn bit_of(order: usize, block: u32) -> usize {
    debug_assert!(block < CHUNK_PAGES >> order);
    1024 - (1024 >> order) + block as usize
}

impl Buddy {
    /// Nothing is free.
    #[cfg(test)]
    pub(crate) fn full() -> Buddy {
        Buddy {
            bits: [0; 16],
            order_mask: 0,
        }
    }

    /// Makes all pages free at once, where none is.
    pub(crate) fn open(&mut self, counts: &mut BuddyCounts) {
        debug_assert_eq!(self.order_mask, 0);
        self.put(CHUNK_ORDER as usize, 0, counts);
    }

    /// Takes all pages at once, where all are free.
    pub(crate) fn close(&mut self, counts: &mut BuddyCounts) {
        debug_assert!(self.is_all_free());
        self.take(CHUNK_ORDER as usize, 0, counts);
    }

    fn is_block_free(&self, order: usize, block: u32) -> bool {
        let bit = bit_of(order, block);
        self.bits[bit >> 6] >> (bit & 63) & 1 != 0
    }

    fn put(&mut self, order: usize, block: u32, counts: &mut BuddyCounts) {
        let bit = bit_of(order, block);
        debug_assert!(!self.is_block_free(order, block));
        self.bits[bit >> 6] |= 1 << (bit & 63);
        self.order_mask |= 1 << order;
        counts.free_blocks[order] += 1;
    }

    fn take(&mut self, order: usize, block: u32, counts: &mut BuddyCounts) {
        let bit = bit_of(order, block);
        debug_assert!(self.is_block_free(order, block));
        self.bits[bit >> 6] &= !(1 << (bit & 63));
        if self.first_block(order).is_none() {
            self.order_mask &= !(1 << order);
        }
        counts.free_blocks[order] -= 1;
    }

    fn first_block(&self, order: usize) -> Option<u32> {
        self.blocks(order).next()
    }

    /// The free blocks of an order, in ascending order.
    pub(crate) fn blocks(&self, order: usize) -> impl Iterator<Item = u32> {
        let start = bit_of(order, 0);
        let count = (CHUNK_PAGES >> order) as usize;
        let words = start >> 6..(start + count).div_ceil(64);
        words.flat_map(move |word| {
            let mut bits = self.bits[word];
            if count < 64 {
                // Orders above 3 share one word.
                bits &= ((1 << count) - 1) << (start & 63);
            }
            core::iter::from_fn(move || {
                (bits != 0).then(|| {
                    let bit = bits.trailing_zeros() as usize;
                    bits &= bits - 1;
                    ((word << 6 | bit) - start) as u32
                })
            })
        })
    }

    /// The order of the longest free block.
    pub(crate) fn longest(&self) -> Option<usize> {
        (self.order_mask != 0).then(|| self.order_mask.ilog2() as usize)
    }

    /// Whether all pages are free.
    pub(crate) fn is_all_free(&self) -> bool {
        self.order_mask == 1 << CHUNK_ORDER
    }

    /// Takes `pages` consecutive pages that start at a multiple of
    /// `2^align_order`; `None` where no free block holds them. Returns the
    /// first page.
    ///
    /// The smallest sufficient order decides, which keeps long blocks long.
    /// Among the blocks of that order, and among the halves of a block that
    /// must be split, the choice is free: pages marked in `preferred` are
    /// taken first, then the lowest.
    pub(crate) fn allocate(
        &mut self,
        pages: u32,
        align_order: usize,
        preferred: &PageBits,
        counts: &mut BuddyCounts,
    ) -> Option<u32> {
        /// Blocks that are looked at, which bounds the time.
        const CANDIDATES: usize = 8;
        let need = order_for(pages).max(align_order);
        let sufficient = self.order_mask >> need;
        if sufficient == 0 {
            return None;
        }
        let order = need + sufficient.trailing_zeros() as usize;
        let mut best: Option<(u32, u32, u32)> = None;
        for block in self.blocks(order).take(CANDIDATES) {
            let start = place_in_block(block << order, order, need, preferred);
            let marked = count_bits(preferred, start, pages);
            if best.is_none_or(|(_, _, most)| marked > most) {
                best = Some((block, start, marked));
            }
            if marked == pages {
                break;
            }
        }
        let (block, start, _) = best?;
        self.carve(order, block, start, start + pages, counts);
        Some(start)
    }

    /// Takes the pages from `start` to `end` out of a free block, which may
    /// hold only some of them; what is left of the block stays free.
    fn carve(&mut self, order: usize, block: u32, start: u32, end: u32, counts: &mut BuddyCounts) {
        self.take(order, block, counts);
        let first = block << order;
        let behind = first + (1 << order);
        let (start, end) = (start.max(first), end.min(behind));
        let mut blocks = 0;
        for_each_block(start, end - start, |_, _| blocks += 1);
        // These cannot be merged: their buddies were part of the same block
        // and are not free.
        for (from, to) in [(first, start), (end, behind)] {
            for_each_block(from, to - from, |order, block| {
                self.put(order, block, counts);
                blocks += 1;
            });
        }
        // Every cut makes one block more.
        counts.splits += blocks - 1;
    }

    /// Whether the pages from `start` to `start + pages` are all free.
    pub(crate) fn is_run_free(&self, start: u32, pages: u32) -> bool {
        let end = start + pages;
        let mut page = start;
        while page < end {
            match self.block_of(page) {
                Some((order, block)) => page = (block + 1) << order,
                None => return false,
            }
        }
        true
    }

    /// The free block that holds the page.
    fn block_of(&self, page: u32) -> Option<(usize, u32)> {
        (0..ORDERS)
            .map(|order| (order, page >> order))
            .find(|&(order, block)| self.is_block_free(order, block))
    }

    /// Takes exactly the pages from `start` to `start + pages`, which are all
    /// free ([`Buddy::is_run_free`]).
    pub(crate) fn allocate_at(&mut self, start: u32, pages: u32, counts: &mut BuddyCounts) {
        let end = start + pages;
        let mut page = start;
        while page < end {
            let Some((order, block)) = self.block_of(page) else {
                debug_assert!(false, "page {page} is not free");
                return;
            };
            self.carve(order, block, start, end, counts);
            page = (block + 1) << order;
        }
    }

    /// Makes pages free that are not, and joins them with their buddies.
    pub(crate) fn free(&mut self, start: u32, pages: u32, counts: &mut BuddyCounts) {
        for_each_block(start, pages, |mut order, mut block| {
            while order < CHUNK_ORDER as usize && self.is_block_free(order, block ^ 1) {
                self.take(order, block ^ 1, counts);
                counts.merges += 1;
                order += 1;
                block >>= 1;
            }
            self.put(order, block, counts);
        });
    }

    /// A bit for every free page.
    pub(crate) fn free_pages(&self) -> PageBits {
        let mut pages = PageBits::default();
        for order in 0..ORDERS {
            for block in self.blocks(order) {
                set_bits(&mut pages, block << order, 1 << order);
            }
        }
        pages
    }

    /// Panics unless the form is canonical and agrees with `free`.
    pub(crate) fn check(&self, free: &PageBits) {
        assert_eq!(self.free_pages(), *free, "blocks and free pages differ");
        let mut pages = 0;
        for order in 0..ORDERS {
            let blocks = self.blocks(order).count() as u32;
            assert_eq!(self.order_mask >> order & 1 != 0, blocks > 0);
            pages += blocks << order;
            for block in self.blocks(order) {
                assert!(
                    order == CHUNK_ORDER as usize || !self.is_block_free(order, block ^ 1),
                    "order {order}: block {block} and its buddy are both free"
                );
            }
        }
        let marked: u32 = free.iter().map(|word| word.count_ones()).sum();
        assert_eq!(pages, marked, "free blocks overlap");
    }
}

/// Where inside a free block of `order` a block of order `need` goes: at each
/// halving into the lower half, unless only the upper one has preferred pages.
fn place_in_block(first: u32, order: usize, need: usize, preferred: &PageBits) -> u32 {
    let mut start = first;
    for half in (need..order).rev() {
        let half_pages = 1 << half;
        if count_bits(preferred, start, half_pages) == 0
            && count_bits(preferred, start + half_pages, half_pages) > 0
        {
            start += half_pages;
        }
    }
    start
}

/// Cuts a run into the fewest aligned blocks, in ascending order.
fn for_each_block(start: u32, pages: u32, mut act: impl FnMut(usize, u32)) {
    let end = start + pages;
    let mut page = start;
    while page < end {
        let aligned = if page == 0 {
            CHUNK_ORDER
        } else {
            page.trailing_zeros()
        };
        let order = aligned.min((end - page).ilog2()) as usize;
        act(order, page >> order);
        page += 1 << order;
    }
}

/// The parts of the words of a [`PageBits`] that a run of pages covers.
fn masks(start: u32, pages: u32) -> impl Iterator<Item = (usize, u64)> {
    debug_assert!(start + pages <= CHUNK_PAGES);
    let end = start + pages;
    let mut page = start;
    core::iter::from_fn(move || {
        if page >= end {
            return None;
        }
        let word = (page >> 6) as usize;
        let low = page & 63;
        let count = (64 - low).min(end - page);
        page += count;
        Some((word, u64::MAX >> (64 - count) << low))
    })
}

/// Number of marked pages from `start` to `start + pages`.
pub(crate) fn count_bits(bits: &PageBits, start: u32, pages: u32) -> u32 {
    masks(start, pages)
        .map(|(word, mask)| (bits[word] & mask).count_ones())
        .sum()
}

/// Marks the pages from `start` to `start + pages`.
pub(crate) fn set_bits(bits: &mut PageBits, start: u32, pages: u32) {
    masks(start, pages).for_each(|(word, mask)| bits[word] |= mask);
}

/// Unmarks the pages from `start` to `start + pages`.
pub(crate) fn clear_bits(bits: &mut PageBits, start: u32, pages: u32) {
    masks(start, pages).for_each(|(word, mask)| bits[word] &= !mask);
}

/// The maximal runs of marked pages, in ascending order: start and length.
pub(crate) fn runs(bits: PageBits) -> impl Iterator<Item = (u32, u32)> {
    let find = move |from: u32, marked: bool| {
        let mut page = from;
        while page < CHUNK_PAGES {
            let word = bits[(page >> 6) as usize] ^ if marked { 0 } else { u64::MAX };
            let rest = word >> (page & 63);
            if rest != 0 {
                return page + rest.trailing_zeros();
            }
            page = (page | 63) + 1;
        }
        CHUNK_PAGES
    };
    let mut page = 0;
    core::iter::from_fn(move || {
        let start = find(page, true);
        if start == CHUNK_PAGES {
            return None;
        }
        page = find(start, false);
        Some((start, page - start))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The chunk as one flag per page.
    struct Model {
        free: [bool; CHUNK_PAGES as usize],
        runs: Vec<(u32, u32)>,
    }

    impl Model {
        fn bits(&self) -> PageBits {
            let mut bits = PageBits::default();
            for (page, _) in self.free.iter().enumerate().filter(|(_, free)| **free) {
                set_bits(&mut bits, page as u32, 1);
            }
            bits
        }

        fn set(&mut self, start: u32, pages: u32, free: bool) {
            for page in start..start + pages {
                assert_ne!(self.free[page as usize], free);
                self.free[page as usize] = free;
            }
        }

        /// The largest order of an aligned block whose pages are all free.
        fn longest(&self) -> Option<usize> {
            (0..ORDERS).rev().find(|order| {
                self.free
                    .chunks(1 << order)
                    .any(|block| block.iter().all(|free| *free))
            })
        }
    }

    fn whole() -> (Buddy, Model, BuddyCounts) {
        let mut counts = BuddyCounts::default();
        let mut buddy = Buddy::full();
        buddy.open(&mut counts);
        let model = Model {
            free: [true; CHUNK_PAGES as usize],
            runs: Vec::new(),
        };
        (buddy, model, counts)
    }

    proptest! {
        #[test]
        fn a_chunk_agrees_with_flags_per_page(
            steps in prop::collection::vec((0u8..4, 1u32..80, any::<u32>()), 1..300),
            marks in any::<[u64; 8]>(),
        ) {
            let (mut buddy, mut model, mut counts) = whole();
            for (step, pages, pick) in steps {
                match step {
                    0 | 1 => {
                        let pages = if step == 0 { pages } else { pages.next_power_of_two() };
                        let fits = model.longest().is_some_and(|order| order >= order_for(pages));
                        let start = buddy.allocate(pages, 0, &marks, &mut counts);
                        prop_assert_eq!(start.is_some(), fits);
                        if let Some(start) = start {
                            model.set(start, pages, false);
                            model.runs.push((start, pages));
                        }
                    }
                    2 if !model.runs.is_empty() => {
                        let run = pick as usize % model.runs.len();
                        let (start, pages) = model.runs.swap_remove(run);
                        model.set(start, pages, true);
                        buddy.free(start, pages, &mut counts);
                    }
                    _ => {
                        let start = pick % CHUNK_PAGES;
                        let pages = pages.min(CHUNK_PAGES - start);
                        let range = start as usize..(start + pages) as usize;
                        let free = model.free[range].iter().all(|free| *free);
                        prop_assert_eq!(buddy.is_run_free(start, pages), free);
                        if free {
                            buddy.allocate_at(start, pages, &mut counts);
                            model.set(start, pages, false);
                            model.runs.push((start, pages));
                        }
                    }
                }
                buddy.check(&model.bits());
                prop_assert_eq!(buddy.longest(), model.longest());
                for order in 0..ORDERS {
                    prop_assert_eq!(
                        buddy.blocks(order).count() as u32,
                        counts.free_blocks[order]
                    );
                }
            }
            for (start, pages) in model.runs {
                buddy.free(start, pages, &mut counts);
            }
            prop_assert!(buddy.is_all_free());
            buddy.close(&mut counts);
            prop_assert_eq!(counts.free_blocks, [0; ORDERS]);
        }

        #[test]
        fn runs_cover_exactly_the_marked_pages(marks in any::<[u64; 8]>(), holes in any::<[u64; 8]>()) {
            let mut bits = marks;
            bits.iter_mut().zip(holes).for_each(|(word, hole)| *word |= hole);
            let mut seen = PageBits::default();
            let mut last_end = None;
            for (start, pages) in runs(bits) {
                prop_assert!(pages > 0 && last_end.is_none_or(|end| start > end));
                prop_assert_eq!(count_bits(&bits, start, pages), pages);
                set_bits(&mut seen, start, pages);
                last_end = Some(start + pages);
            }
            prop_assert_eq!(seen, bits);
        }
    }

    #[test]
    fn the_tail_of_a_run_is_free_again() {
        let (mut buddy, _, mut counts) = whole();
        let none = PageBits::default();
        assert_eq!(buddy.allocate(5, 0, &none, &mut counts), Some(0));
        // 5 pages of a block of 8: the rest is a block of 1 and one of 2.
        assert_eq!(counts.free_blocks[..4], [1, 1, 0, 1]);
        assert_eq!(buddy.allocate(3, 0, &none, &mut counts), Some(8));
        assert_eq!(buddy.allocate(2, 0, &none, &mut counts), Some(6));
        assert_eq!(buddy.allocate(1, 0, &none, &mut counts), Some(5));
        buddy.free(0, 11, &mut counts);
        assert!(buddy.is_all_free());
    }

    #[test]
    fn splits_and_merges_balance_over_a_power_of_two() {
        let (mut buddy, _, mut counts) = whole();
        let start = buddy
            .allocate(1, 0, &PageBits::default(), &mut counts)
            .unwrap();
        assert_eq!(counts.splits, 9);
        buddy.free(start, 1, &mut counts);
        assert_eq!(counts.merges, 9);
    }

    #[test]
    fn preferred_pages_are_taken_first_but_never_break_a_longer_block() {
        let (mut buddy, _, mut counts) = whole();
        let mut marks = PageBits::default();
        set_bits(&mut marks, 384, 4);
        assert_eq!(buddy.allocate(4, 0, &marks, &mut counts), Some(384));
        // The other half of the smallest block serves before any longer one,
        // even though pages elsewhere are preferred.
        set_bits(&mut marks, 0, 4);
        assert_eq!(buddy.allocate(4, 0, &marks, &mut counts), Some(388));
    }
}
