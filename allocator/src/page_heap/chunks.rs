//! Which chunks are open, and the lists from which one is chosen.

use super::{CLOSED, DIRTY, PageHeap};
use crate::chunk::Chunk;
use crate::units::{CHUNK_BYTES, CHUNK_PAGES, ChunkIndex};

impl PageHeap {
    /// The record of a chunk; `None` where it is closed.
    pub(crate) fn chunk(&self, chunk: ChunkIndex) -> Option<&Chunk> {
        let open = chunk.0 > 0 && chunk.0 < self.frontier && !self.is_closed(chunk.0);
        open.then(|| &self.chunks.items()[chunk.0 as usize])
    }

    /// The first open chunk from `from` on.
    pub(crate) fn next_open_chunk(&self, from: u32) -> Option<ChunkIndex> {
        let mut chunk = from.max(1);
        while chunk < self.frontier {
            let closed = self.sets.word(CLOSED, chunk as usize >> 6) >> (chunk & 63);
            if closed & 1 == 0 {
                return Some(ChunkIndex(chunk));
            }
            chunk += closed.trailing_ones();
        }
        None
    }

    pub(super) fn is_closed(&self, chunk: u32) -> bool {
        chunk >= self.frontier || self.sets.contains(CLOSED, chunk)
    }

    /// The highest chunk of which pages are handed out, but at most `pages_max` with
    /// memory behind them; looks at the highest 64 chunks.
    pub(crate) fn highest_sparse_chunk(&self, pages_max: u32) -> Option<ChunkIndex> {
        const CANDIDATES: usize = 64;
        let chunks = (1..self.frontier).rev().take(CANDIDATES).map(ChunkIndex);
        chunks.into_iter().find(|chunk| {
            self.chunk(*chunk).is_some_and(|chunk| {
                let used_pages = chunk.used_pages();
                used_pages > 0 && used_pages - chunk.punched_pages() <= pages_max
            })
        })
    }

    /// Opens the lowest closed chunk.
    pub(super) fn open_any(&mut self) -> Option<u32> {
        let chunk = match self.sets.first(CLOSED) {
            Some(chunk) => chunk,
            None => {
                let chunk = self.frontier;
                if chunk >= self.chunks_max || !self.grow_frontier(chunk + 1) {
                    return None;
                }
                chunk
            }
        };
        self.open(chunk);
        Some(chunk)
    }

    /// Makes the chunks below `frontier` known as closed ones, with memory to
    /// be had for them, their records and their part of the map.
    pub(super) fn grow_frontier(&mut self, frontier: u32) -> bool {
        if frontier <= self.frontier {
            return true;
        }
        let groups = frontier.next_multiple_of(self.group_chunks) as usize;
        if !(self.chunks.grow_to(groups)
            && self.map.grow_to(groups * CHUNK_PAGES as usize)
            && self.region.grow_to(frontier as usize * CHUNK_BYTES))
        {
            return false;
        }
        for chunk in self.frontier..frontier {
            self.sets.insert(CLOSED, chunk);
        }
        self.frontier = frontier;
        true
    }

    pub(super) fn open(&mut self, chunk: u32) {
        self.counts.open_groups += u32::from(self.are_closed(chunk, self.group_chunks));
        self.counts.open_pairs += u32::from(self.are_closed(chunk, self.pair_chunks));
        self.sets.remove(CLOSED, chunk);
        self.counts.open_chunks += 1;
        self.chunks.items_mut()[chunk as usize].open(&mut self.counts.buddy);
        self.relist(chunk);
    }

    /// Enters the chunk under its longest free block, and among those with
    /// dirty pages or not.
    pub(crate) fn relist(&mut self, chunk: u32) {
        let record = &mut self.chunks.items_mut()[chunk as usize];
        let listed = record.buddy.longest().map_or(0, |order| order as u8 + 1);
        let dirty = record.dirty() > 0;
        let held = match self.system_pages {
            1 => 0,
            pages => record.held_pages(pages) as u16,
        };
        self.counts.held += u32::from(held);
        self.counts.held -= u32::from(core::mem::replace(&mut record.held, held));
        let huge_dirty = match record.density.is_huge {
            true => record.dirty() as u16 - held,
            false => 0,
        };
        self.counts.huge_dirty += u32::from(huge_dirty);
        self.counts.huge_dirty -= u32::from(core::mem::replace(&mut record.huge_dirty, huge_dirty));
        if listed != record.listed {
            let before = core::mem::replace(&mut record.listed, listed);
            if before > 0 {
                let order = before as usize - 1;
                self.sets.remove(order, chunk);
                if self.sets.first(order).is_none() {
                    self.orders_listed &= !(1 << order);
                }
            }
            if listed > 0 {
                let order = listed as usize - 1;
                self.sets.insert(order, chunk);
                self.orders_listed |= 1 << order;
            }
        }
        if dirty != self.sets.contains(DIRTY, chunk) {
            if dirty {
                self.sets.insert(DIRTY, chunk);
            } else {
                self.sets.remove(DIRTY, chunk);
            }
        }
    }

    pub(crate) fn close_if_idle(&mut self, chunk: u32) {
        let record = &mut self.chunks.items_mut()[chunk as usize];
        if !record.is_idle() {
            return;
        }
        record.close(&mut self.counts.buddy);
        self.relist(chunk);
        self.sets.insert(CLOSED, chunk);
        self.counts.open_chunks -= 1;
        if self.are_closed(chunk, self.pair_chunks) {
            self.counts.open_pairs -= 1;
            let pair = chunk / self.pair_chunks * self.pair_chunks;
            self.map.purge_slabs(ChunkIndex(pair), self.pair_chunks);
        }
        if self.are_closed(chunk, self.group_chunks) {
            self.counts.open_groups -= 1;
            let group = chunk / self.group_chunks * self.group_chunks;
            self.chunks
                .purge(group as usize, self.group_chunks as usize);
            self.map.purge_classes(ChunkIndex(group), self.group_chunks);
        }
    }

    /// Whether all of the `count` chunks, in line with their number, are closed
    /// among which this one is.
    pub(super) fn are_closed(&self, chunk: u32, count: u32) -> bool {
        let first = chunk / count * count;
        let mut members = first.max(1)..first + count;
        members.all(|chunk| self.is_closed(chunk))
    }
}
