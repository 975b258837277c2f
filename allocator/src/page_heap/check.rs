//! The whole of a page heap's books against one another.

use super::{CLOSED, DIRTY, PageCounts, PageHeap, SETS};
use crate::buddy::ORDERS;
use crate::page_map::FREE;
use crate::units::{CHUNK_BYTES, CHUNK_PAGES, ChunkIndex, PAGE_BYTES};
use alloc::vec::Vec;

impl PageHeap {
    /// Panics unless all books agree. Takes time in proportion to the region's
    /// used part.
    pub(crate) fn check(&self) {
        let mut counts = PageCounts {
            handed_total: self.counts.handed_total,
            fresh_total: self.counts.fresh_total,
            purged_total: self.counts.purged_total,
            promotions: self.counts.promotions,
            demotions: self.counts.demotions,
            purges_refused: self.counts.purges_refused,
            ..PageCounts::default()
        };
        counts.buddy.splits = self.counts.buddy.splits;
        counts.buddy.merges = self.counts.buddy.merges;
        for order in 0..ORDERS {
            let any = self.sets.first(order).is_some();
            assert_eq!(self.orders_listed >> order & 1 != 0, any, "order {order}");
        }
        for index in 1..self.frontier {
            let listed: Vec<usize> = (0..SETS)
                .filter(|set| self.sets.contains(*set, index))
                .collect();
            if index == 1 || index.is_multiple_of(self.group_chunks) {
                counts.open_groups += u32::from(!self.are_closed(index, self.group_chunks));
            }
            if index == 1 || index.is_multiple_of(self.pair_chunks) {
                counts.open_pairs += u32::from(!self.are_closed(index, self.pair_chunks));
            }
            let Some(record) = self.chunk(ChunkIndex(index)) else {
                assert_eq!(listed, [CLOSED], "chunk {index}");
                continue;
            };
            record.check();
            let mut expected = Vec::new();
            expected.extend(record.buddy.longest());
            if record.dirty() > 0 {
                expected.push(DIRTY);
            }
            assert_eq!(listed, expected, "chunk {index}");
            assert!(!record.is_idle(), "chunk {index} is open for nothing");
            counts.used += record.used_pages();
            counts.punched += record.punched_pages();
            counts.dirty += record.dirty();
            counts.held += record.held_pages(self.system_pages);
            if record.density.is_huge {
                counts.huge_chunks += 1;
                counts.huge_dirty += record.dirty() - record.held_pages(self.system_pages);
                assert_eq!(record.punched_pages(), 0, "chunk {index}");
            }
            counts.open_chunks += 1;
            for order in 0..ORDERS {
                counts.buddy.free_blocks[order] += record.buddy.blocks(order).count() as u32;
            }
            let first = ChunkIndex(index).first_page();
            for page in 0..CHUNK_PAGES {
                let used = record.is_used(page);
                let entry = self.map.class_entry(first.plus(page));
                assert_eq!(used, entry != FREE, "page {page} of chunk {index}");
            }
        }
        assert_eq!(self.counts, counts);
        assert!(self.region.committed() >= (self.frontier as usize - 1) * CHUNK_BYTES);
        assert!(self.counts.resident() as usize * PAGE_BYTES <= self.region.reserved());
    }
}
