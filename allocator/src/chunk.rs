//! What is known of one chunk: its buddy system, and which of its pages are
//! handed out and which have memory behind them.
//!
//! | page is | handed out | free |
//! |---|---|---|
//! | resident | in use | *dirty*: to be purged or, better, reused |
//! | not resident | *punched*: dead, inside a live slab | clean |
//!
//! A page counts as resident from the moment when it is handed out, even if
//! its new owner has not touched it: the books may say too much, never too
//! little.

use crate::buddy::{Buddy, BuddyCounts, PageBits, clear_bits, count_bits, set_bits};
use crate::density::Density;
use crate::metadata::Zeroable;
use crate::units::CHUNK_PAGES;

/// One chunk's record. All zeros: a chunk that is not open, none of whose
/// pages is free, handed out or resident.
///
/// Eight records fill a page, which is given back when all eight chunks are
/// closed.
#[derive(Debug)]
#[repr(C, align(512))]
pub(crate) struct Chunk {
    pub(crate) buddy: Buddy,
    used: PageBits,
    resident: PageBits,
    /// Free pages that are resident.
    dirty: u16,
    /// Pages handed out.
    used_pages: u16,
    /// 1 + the order under which the heap lists the chunk; 0 if it does not.
    pub(crate) listed: u8,
    /// What the policy of huge pages knows of the chunk.
    pub(crate) density: Density,
    /// Dirty pages that the heap counts as held back, and as in huge pages.
    pub(crate) held: u16,
    pub(crate) huge_dirty: u16,
}

/// The pages of the bits that belong to wholly set groups of `group` pages, a power
/// of two of at most 64, at a multiple of their length.
pub(crate) fn whole_groups(bits: &PageBits, group: u32) -> PageBits {
    debug_assert!(group.is_power_of_two() && group <= 64);
    let full = u64::MAX >> (64 - group);
    // The first bit of each group.
    let firsts = u64::MAX / full;
    bits.map(|word| {
        let mut whole = word;
        let mut reach = 1;
        while reach < group {
            whole &= whole >> reach;
            reach *= 2;
        }
        // The groups do not overlap, so the product has no carries.
        (whole & firsts).wrapping_mul(full)
    })
}

// SAFETY: the struct consists of integers and of a switch that is off.
unsafe impl Zeroable for Chunk {}

const _: () = assert!(size_of::<Chunk>() == 512);

impl Chunk {
    /// Makes all pages of a closed chunk free.
    pub(crate) fn open(&mut self, counts: &mut BuddyCounts) {
        debug_assert_eq!((self.used_pages, self.dirty), (0, 0));
        self.buddy.open(counts);
    }

    /// Closes a chunk all of whose pages are free and clean.
    pub(crate) fn close(&mut self, counts: &mut BuddyCounts) {
        debug_assert!(self.is_idle() && !self.density.is_huge);
        self.density = Density::default();
        self.buddy.close(counts);
    }

    /// Whether all pages are free and clean.
    pub(crate) fn is_idle(&self) -> bool {
        self.dirty == 0 && self.buddy.is_all_free()
    }

    /// Takes `pages` pages at a multiple of `2^align_order`, dirty ones where
    /// there is a choice. Returns the first page and how many were dirty.
    pub(crate) fn allocate(
        &mut self,
        pages: u32,
        align_order: usize,
        counts: &mut BuddyCounts,
    ) -> Option<(u32, u32)> {
        let start = self
            .buddy
            .allocate(pages, align_order, &self.resident, counts)?;
        Some((start, self.hand_out(start, pages)))
    }

    /// Takes exactly these pages, which are free. Returns how many were dirty.
    pub(crate) fn allocate_at(&mut self, start: u32, pages: u32, counts: &mut BuddyCounts) -> u32 {
        self.buddy.allocate_at(start, pages, counts);
        self.hand_out(start, pages)
    }

    fn hand_out(&mut self, start: u32, pages: u32) -> u32 {
        let reused = count_bits(&self.resident, start, pages);
        set_bits(&mut self.used, start, pages);
        set_bits(&mut self.resident, start, pages);
        self.used_pages += pages as u16;
        self.dirty -= reused as u16;
        reused
    }

    /// Makes handed-out pages free. Returns how many of them are dirty now.
    pub(crate) fn free(&mut self, start: u32, pages: u32, counts: &mut BuddyCounts) -> u32 {
        debug_assert_eq!(count_bits(&self.used, start, pages), pages);
        self.buddy.free(start, pages, counts);
        self.density.disturbed();
        clear_bits(&mut self.used, start, pages);
        let dirty = count_bits(&self.resident, start, pages);
        self.used_pages -= pages as u16;
        self.dirty += dirty as u16;
        dirty
    }

    /// Free pages that are resident.
    pub(crate) fn dirty(&self) -> u32 {
        u32::from(self.dirty)
    }

    /// Pages handed out.
    pub(crate) fn used_pages(&self) -> u32 {
        u32::from(self.used_pages)
    }

    /// Whether the page is handed out.
    pub(crate) fn is_used(&self, page: u32) -> bool {
        count_bits(&self.used, page, 1) == 1
    }

    /// A bit for every dirty page.
    pub(crate) fn dirty_bits(&self) -> PageBits {
        let mut bits = self.resident;
        bits.iter_mut()
            .zip(self.used)
            .for_each(|(word, used)| *word &= !used);
        bits
    }

    /// A bit for every page that can go back together with what is dirty: all of
    /// each page of the system's, of `group` pages, that has dirty ones and none in
    /// use.
    pub(crate) fn purgeable_bits(&self, group: u32) -> PageBits {
        let mut bits = whole_groups(&self.used.map(|word| !word), group);
        let clean = whole_groups(&self.resident.map(|word| !word), group);
        bits.iter_mut()
            .zip(clean)
            .for_each(|(word, clean)| *word &= !clean);
        bits
    }

    /// Dirty pages among these, which are free.
    pub(crate) fn count_dirty(&self, start: u32, pages: u32) -> u32 {
        count_bits(&self.resident, start, pages)
    }

    /// Dirty pages that cannot be purged because of others in use in the same page of
    /// the system's, of `group` pages.
    pub(crate) fn held_pages(&self, group: u32) -> u32 {
        let purgeable = self.purgeable_bits(group);
        self.dirty_bits()
            .iter()
            .zip(purgeable)
            .map(|(dirty, purgeable)| (dirty & !purgeable).count_ones())
            .sum()
    }

    /// Whether the page has memory behind it.
    pub(crate) fn is_resident(&self, page: u32) -> bool {
        count_bits(&self.resident, page, 1) == 1
    }

    /// Notes that the memory behind free pages is gone. Returns how many were dirty.
    pub(crate) fn purged(&mut self, start: u32, pages: u32) -> u32 {
        debug_assert_eq!(count_bits(&self.used, start, pages), 0);
        let gone = self.count_dirty(start, pages);
        self.dirty -= gone as u16;
        clear_bits(&mut self.resident, start, pages);
        gone
    }

    /// Notes that the memory behind handed-out pages is gone. Returns how many
    /// had any.
    pub(crate) fn punched(&mut self, start: u32, pages: u32) -> u32 {
        debug_assert_eq!(count_bits(&self.used, start, pages), pages);
        let gone = count_bits(&self.resident, start, pages);
        clear_bits(&mut self.resident, start, pages);
        self.density.disturbed();
        gone
    }

    /// Notes that handed-out pages are about to be touched. Returns how many
    /// had no memory behind them.
    pub(crate) fn refilled(&mut self, start: u32, pages: u32) -> u32 {
        debug_assert_eq!(count_bits(&self.used, start, pages), pages);
        let missing = pages - count_bits(&self.resident, start, pages);
        set_bits(&mut self.resident, start, pages);
        missing
    }

    /// Whether all pages are handed out and have memory behind them.
    pub(crate) fn is_whole(&self) -> bool {
        self.used_pages() == CHUNK_PAGES && self.resident.iter().all(|word| *word == u64::MAX)
    }

    /// Pages handed out without memory behind them.
    pub(crate) fn punched_pages(&self) -> u32 {
        self.used
            .iter()
            .zip(self.resident)
            .map(|(used, resident)| (used & !resident).count_ones())
            .sum()
    }

    /// Panics unless the record is consistent.
    pub(crate) fn check(&self) {
        let free = self.used.map(|word| !word);
        self.buddy.check(&free);
        let used: u32 = self.used.iter().map(|word| word.count_ones()).sum();
        assert_eq!(used, self.used_pages());
        let dirty: u32 = self.dirty_bits().iter().map(|word| word.count_ones()).sum();
        assert_eq!(dirty, self.dirty());
        assert!(used <= CHUNK_PAGES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn groups_are_whole_or_not_there(
            parts in prop::array::uniform8(any::<[u64; 3]>()),
            order in 0_u32..=6,
        ) {
            let bits = parts.map(|[a, b, c]| a | b | c);
            let group = 1 << order;
            let whole = whole_groups(&bits, group);
            for first in (0..CHUNK_PAGES).step_by(group as usize) {
                let all = count_bits(&bits, first, group) == group;
                prop_assert_eq!(count_bits(&whole, first, group), if all { group } else { 0 });
            }
        }
    }
}
