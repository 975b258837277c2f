//! A pool of small records of a few sizes, in pages of their own.
//!
//! Each page, a *block*, holds records of one size, counted in units of 16
//! bytes, and says in its first four units, a cache line, which are taken:
//!
//! ```text
//! unit 0    4         4 + n      4 + 2n
//! | header  | record 0 | record 1 | ...
//! ```
//!
//! So records of four and of eight units share no cache line with others, which other
//! processors may be about to write.
//!
//! The lowest block with room serves, so that high blocks empty; an empty one
//! serves records of any size, or goes back to the system.

use crate::bit_sets::BitSets;
use crate::metadata::{Area, PURGE_RUNS};
use crate::os;
use crate::units::{PAGE_BYTES, PageIndex, PageRun, SlabId};
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;

/// Bytes of a unit.
const UNIT_BYTES: usize = 16;
/// Units of a block.
const BLOCK_UNITS: u32 = (PAGE_BYTES / UNIT_BYTES) as u32;
/// Units of a block's header.
const HEADER_UNITS: u32 = 4;
/// Least units of a record, so that a block's bitmap has room for all.
const RECORD_UNITS_MIN: u32 = 2;
/// Set of the blocks that are empty and have no memory behind them; among the
/// sets below `RECORD_UNITS_MIN`, which no record size needs.
const CLEAN: usize = 0;
/// Set of the blocks that are empty and still have memory behind them.
const EMPTY: usize = 1;

/// More units than any record has.
const UNITS_MAX: usize = 32;

#[repr(C)]
struct BlockHeader {
    /// A bit for every free record.
    free: [u64; 2],
    units: u8,
    taken: u8,
    capacity: u8,
}

const _: () = assert!(size_of::<BlockHeader>() <= HEADER_UNITS as usize * UNIT_BYTES);

/// Units that a record of `bytes` bytes takes: an even number, since each size
/// has blocks of its own, which a small heap hardly fills.
pub(crate) const fn units_for(bytes: usize) -> u32 {
    let units = bytes.div_ceil(2 * UNIT_BYTES) as u32 * 2;
    if units < RECORD_UNITS_MIN {
        RECORD_UNITS_MIN
    } else {
        units
    }
}

/// Records of so many units in a block.
fn capacity_of(units: u32) -> u32 {
    (BLOCK_UNITS - HEADER_UNITS) / units
}

/// A pool of records, each named by its offset in units.
#[derive(Debug)]
pub(crate) struct RecordPool {
    area: Area,
    /// Per record size the blocks that hold some and have room for more.
    blocks: BitSets,
    units_max: u32,
    /// Records that are free in blocks that hold some, by size.
    room: [u32; UNITS_MAX],
    /// Blocks below this were used at least once.
    frontier: u32,
    /// Blocks with memory behind them.
    resident: u32,
    empty: u32,
    /// Blocks in a page of the system's.
    system_pages: u32,
}

impl RecordPool {
    /// A pool of at most `bytes` bytes of records of up to `units_max` units.
    pub(crate) fn new(bytes: usize, units_max: u32) -> Option<RecordPool> {
        const GROWTH_BYTES: usize = 64 << 10;
        assert!((units_max as usize) < UNITS_MAX);
        let bytes = bytes
            .next_multiple_of(PAGE_BYTES.max(os::page_bytes()))
            .min(PAGE_BYTES << (32 - BLOCK_UNITS.ilog2()));
        Some(RecordPool {
            area: Area::reserve(bytes, PAGE_BYTES, GROWTH_BYTES)?,
            blocks: BitSets::new(units_max as usize + 1, (bytes / PAGE_BYTES) as u32)?,
            units_max,
            room: [0; UNITS_MAX],
            frontier: 0,
            resident: 0,
            empty: 0,
            system_pages: (os::page_bytes() / PAGE_BYTES).max(1) as u32,
        })
    }

    /// The address from which records count: record `id` lies `16 * id` bytes
    /// behind it.
    #[inline(always)]
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.area.start()
    }

    /// Bytes that have memory behind them.
    pub(crate) fn resident_bytes(&self) -> usize {
        self.resident as usize * PAGE_BYTES
    }

    /// Bytes of the index that have memory behind them.
    pub(crate) fn index_bytes(&self) -> usize {
        self.blocks.resident_bytes(self.frontier)
    }

    fn header(&self, block: u32) -> NonNull<BlockHeader> {
        debug_assert!(block < self.frontier);
        self.area.address(PageIndex(block)).cast()
    }

    /// Takes a record of `units` units, whose contents are undefined; `None`
    /// where memory is short. The number is never 0.
    pub(crate) fn allocate(&mut self, units: u32) -> Option<SlabId> {
        debug_assert!((RECORD_UNITS_MIN..=self.units_max).contains(&units));
        let block = match self.blocks.first(units as usize) {
            Some(block) => block,
            None => self.begin_block(units)?,
        };
        // SAFETY: the block lies below the frontier, hence is committed, and
        // its header was written by `begin_block`; records do not overlap it.
        let header = unsafe { self.header(block).as_mut() };
        let word = usize::from(header.free[0] == 0);
        let index = (word as u32) << 6 | header.free[word].trailing_zeros();
        header.free[word] &= header.free[word] - 1;
        header.taken += 1;
        self.room[units as usize] -= 1;
        if header.taken == header.capacity {
            self.blocks.remove(units as usize, block);
        }
        Some(SlabId(block * BLOCK_UNITS + HEADER_UNITS + index * units))
    }

    /// Makes the lowest empty block hold records of `units` units.
    fn begin_block(&mut self, units: u32) -> Option<u32> {
        let block = if let Some(block) = self.blocks.first(EMPTY) {
            self.blocks.remove(EMPTY, block);
            self.empty -= 1;
            block
        } else if let Some(block) = self.blocks.first(CLEAN) {
            self.blocks.remove(CLEAN, block);
            self.resident += 1;
            block
        } else {
            let block = self.frontier;
            if !self.area.grow_to((block as usize + 1) * PAGE_BYTES) {
                return None;
            }
            self.frontier += 1;
            self.resident += 1;
            block
        };
        let capacity = capacity_of(units);
        self.room[units as usize] += capacity;
        let bits = (1u128 << capacity) - 1;
        // SAFETY: the block is committed and empty, so nothing else uses it.
        unsafe {
            self.header(block).write(BlockHeader {
                free: [bits as u64, (bits >> 64) as u64],
                units: units as u8,
                taken: 0,
                capacity: capacity as u8,
            });
        }
        self.blocks.insert(units as usize, block);
        Some(block)
    }

    /// Takes a record back.
    pub(crate) fn free(&mut self, id: SlabId) {
        let block = id.0 / BLOCK_UNITS;
        // SAFETY: the record was allocated, so its block has a header.
        let header = unsafe { self.header(block).as_mut() };
        let units = u32::from(header.units);
        let index = (id.0 % BLOCK_UNITS - HEADER_UNITS) / units;
        debug_assert_eq!(header.free[index as usize >> 6] >> (index & 63) & 1, 0);
        header.free[index as usize >> 6] |= 1 << (index & 63);
        header.taken -= 1;
        self.room[units as usize] += 1;
        if header.taken == 0 {
            self.room[units as usize] -= u32::from(header.capacity);
            self.blocks.remove(units as usize, block);
            self.blocks.insert(EMPTY, block);
            self.empty += 1;
        } else if header.taken + 1 == header.capacity {
            self.blocks.insert(units as usize, block);
        }
    }

    /// A record that should move to where [`RecordPool::allocate`] would put it,
    /// so that its block empties: one in the highest block with room, if the
    /// records of the size have room for two blocks more than they need.
    pub(crate) fn misplaced(&self, units: u32) -> Option<SlabId> {
        if self.room[units as usize] < 2 * capacity_of(units) {
            return None;
        }
        let block = self.blocks.last_below(units as usize, self.frontier)?;
        // SAFETY: blocks in use have a header.
        let header = unsafe { self.header(block).as_ref() };
        let capacity = u32::from(header.capacity);
        let is_taken = |index: &u32| header.free[*index as usize >> 6] >> (index & 63) & 1 == 0;
        let index = (0..capacity).find(is_taken)?;
        Some(SlabId(block * BLOCK_UNITS + HEADER_UNITS + index * units))
    }

    /// The sizes that records may have, in units.
    pub(crate) fn sizes(&self) -> core::ops::RangeInclusive<u32> {
        RECORD_UNITS_MIN..=self.units_max
    }

    /// Whether no block holds records among those in the same page of the system's.
    fn is_page_empty(&self, block: u32) -> bool {
        let first = block / self.system_pages * self.system_pages;
        (first..first + self.system_pages).all(|block| {
            block >= self.frontier
                || self.blocks.contains(EMPTY, block)
                || self.blocks.contains(CLEAN, block)
        })
    }

    /// Gives the memory of all empty blocks back, where those next to them in a page
    /// of the system's are empty, too. Returns the bytes.
    pub(crate) fn purge(&mut self) -> usize {
        if self.system_pages > 1 {
            return self.purge_large_pages();
        }
        let mut bytes = 0;
        while self.empty > 0 {
            let none = PageRun {
                start: PageIndex(0),
                pages: 0,
            };
            let mut runs = [none; PURGE_RUNS];
            let mut count = 0;
            for block in self.blocks.iter(EMPTY).take(PURGE_RUNS) {
                runs[count] = PageRun {
                    start: PageIndex(block),
                    pages: 1,
                };
                count += 1;
            }
            let done = self.area.purge(&runs[..count]);
            for run in &runs[..done] {
                self.blocks.remove(EMPTY, run.start.0);
                self.blocks.insert(CLEAN, run.start.0);
            }
            self.empty -= done as u32;
            self.resident -= done as u32;
            bytes += done * PAGE_BYTES;
            if done < count {
                break;
            }
        }
        bytes
    }

    /// The same where the system's pages hold several blocks.
    fn purge_large_pages(&mut self) -> usize {
        let mut bytes = 0;
        let mut page = 0;
        while page < self.frontier {
            let blocks = page..(page + self.system_pages).min(self.frontier);
            let empty = |block: &u32| self.blocks.contains(EMPTY, *block);
            let count = blocks.clone().filter(empty).count();
            if count > 0 && self.is_page_empty(page) {
                let run = PageRun {
                    start: PageIndex(page),
                    pages: self.system_pages,
                };
                if self.area.purge(&[run]) < 1 {
                    break;
                }
                for block in blocks {
                    self.blocks.remove(EMPTY, block);
                    self.blocks.insert(CLEAN, block);
                }
                self.empty -= count as u32;
                self.resident -= count as u32;
                bytes += count * PAGE_BYTES;
            }
            page += self.system_pages;
        }
        bytes
    }

    /// Panics unless the books agree.
    pub(crate) fn check(&self) {
        let mut resident = 0;
        let mut room_found = [0; UNITS_MAX];
        for block in 0..self.frontier {
            let listed: Vec<usize> = (0..=self.units_max as usize)
                .filter(|set| self.blocks.contains(*set, block))
                .collect();
            if listed == [CLEAN] {
                continue;
            }
            resident += 1;
            if listed == [EMPTY] {
                continue;
            }
            // SAFETY: blocks in use have a header.
            let header = unsafe { self.header(block).as_ref() };
            let free = header.free[0].count_ones() + header.free[1].count_ones();
            assert_eq!(free + u32::from(header.taken), u32::from(header.capacity));
            assert!(header.taken > 0, "block {block} is empty and not listed so");
            room_found[usize::from(header.units)] += free;
            let room = header.taken < header.capacity;
            let expected = if room {
                vec![usize::from(header.units)]
            } else {
                vec![]
            };
            assert_eq!(listed, expected, "block {block}");
        }
        assert_eq!(self.room, room_found);
        assert_eq!(self.resident, resident);
        assert_eq!(self.empty as usize, self.blocks.iter(EMPTY).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fake::{Faults, inject};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_never_overlap_and_empty_blocks_go_back(
            steps in prop::collection::vec((any::<u8>(), any::<usize>(), any::<[bool; 2]>()), 1..600),
        ) {
            let mut pool = RecordPool::new(1 << 20, 20).unwrap();
            let mut live: Vec<(SlabId, u32)> = Vec::new();
            let address = |pool: &RecordPool, id: SlabId| {
                // SAFETY: the record lies in the pool's area.
                unsafe { pool.base().add(id.0 as usize * UNIT_BYTES) }
            };
            for (kind, pick, [commit, purge]) in steps {
                let faults = Faults { commit, purge, ..Faults::default() };
                if kind < 160 {
                    let units = 2 + u32::from(kind) % 19;
                    if let Some(id) = inject(faults, || pool.allocate(units)) {
                        let end = id.0 + units;
                        for (other, units) in &live {
                            prop_assert!(end <= other.0 || other.0 + units <= id.0);
                        }
                        prop_assert!(!id.is_none());
                        // SAFETY: the record is allocated.
                        unsafe { address(&pool, id).write_bytes(kind, units as usize * UNIT_BYTES) };
                        live.push((id, units));
                    }
                } else if kind < 250 && !live.is_empty() {
                    let (id, units) = live.swap_remove(pick % live.len());
                    // SAFETY: the record was allocated and written.
                    let bytes = unsafe {
                        core::slice::from_raw_parts(
                            address(&pool, id).as_ptr(),
                            units as usize * UNIT_BYTES,
                        )
                    };
                    prop_assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                    pool.free(id);
                } else {
                    inject(faults, || pool.purge());
                }
                pool.check();
            }
            for (id, _) in live {
                pool.free(id);
            }
            pool.purge();
            pool.check();
            prop_assert_eq!(pool.resident_bytes(), 0);
        }
    }

    #[test]
    fn moving_misplaced_records_empties_high_blocks() {
        let mut pool = RecordPool::new(1 << 20, 8).unwrap();
        let mut records: Vec<SlabId> = (0..1000).map(|_| pool.allocate(4).unwrap()).collect();
        let mut index = 0;
        records.retain(|id| {
            index += 1;
            let kept = index % 10 == 0;
            if !kept {
                pool.free(*id);
            }
            kept
        });
        let mut moved = 0;
        while let Some(id) = pool.misplaced(4) {
            let place = records.iter().position(|other| *other == id).unwrap();
            let target = pool.allocate(4).unwrap();
            assert!(target < id);
            pool.free(id);
            records[place] = target;
            moved += 1;
            pool.check();
        }
        pool.purge();
        assert!(moved <= 100);
        assert!(pool.resident_bytes() <= 4 * PAGE_BYTES);
    }

    #[test]
    fn the_lowest_block_with_room_serves() {
        let mut pool = RecordPool::new(1 << 20, 8).unwrap();
        let records: Vec<SlabId> = (0..200).map(|_| pool.allocate(4).unwrap()).collect();
        assert_eq!(pool.resident_bytes(), 4 * PAGE_BYTES);
        pool.free(records[10]);
        pool.free(records[150]);
        assert_eq!(pool.allocate(4), Some(records[10]));
        assert_eq!(pool.allocate(4), Some(records[150]));
    }
}
