//! The keyspace's memory chunk by chunk, for maps of the heap.
//!
//! A map is taken one chunk at a time, each under its shard's lock for some microseconds, so it is
//! no picture of one instant: what moves meanwhile is seen twice or not at all. What it takes is one
//! chunk's extents, however large the heap.

use slab_allocator::units::CHUNK_PAGES;
use slab_allocator::{ChunkStats, Extent, ExtentKind};

use crate::shard::Shard;

/// Where a walk over the chunks of all shards is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MapCursor {
    /// The shard.
    pub shard: usize,
    /// Number of the chunk in the shard's arena; the first one is number 1.
    pub chunk: u32,
}

impl MapCursor {
    /// Before the first chunk of the first shard.
    pub const START: MapCursor = MapCursor { shard: 0, chunk: 0 };

    /// As a number for clients, 0 for the start.
    #[must_use]
    pub fn get(self) -> u64 {
        (self.shard as u64) << 32 | u64::from(self.chunk)
    }

    /// The place that a number stands for. One that no shard has is past the end.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        MapCursor {
            shard: (number >> 32) as usize,
            chunk: number as u32,
        }
    }
}

/// One chunk of one shard.
#[derive(Clone, Debug)]
pub struct ChunkMap {
    /// Where the chunk is.
    pub at: MapCursor,
    /// Its pages by what they are used for.
    pub stats: ChunkStats,
    /// What lies in it, in ascending order: from its first page to its last.
    pub extents: Vec<Extent>,
}

impl Default for ChunkMap {
    fn default() -> Self {
        ChunkMap {
            at: MapCursor::START,
            stats: ChunkStats::default(),
            // Room for all there can be: nothing is allocated under a shard's lock.
            extents: Vec::with_capacity(CHUNK_PAGES as usize),
        }
    }
}

/// The slabs of one size class in a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassInChunk {
    /// Bytes of a slot.
    pub slot_bytes: u32,
    /// Slabs.
    pub slabs: u32,
    /// Their pages, those that were given back included.
    pub pages: u32,
    /// Their slots.
    pub slots: u32,
    /// Slots in use.
    pub live: u32,
}

impl ChunkMap {
    /// The page of the chunk, 0 to 511, that an extent of it starts on.
    #[must_use]
    pub fn page_of(&self, extent: &Extent) -> usize {
        (extent.start_page % CHUNK_PAGES) as usize
    }

    /// The size classes that have slabs in the chunk, in ascending order.
    #[must_use]
    pub fn classes(&self) -> Vec<ClassInChunk> {
        let mut classes: Vec<ClassInChunk> = Vec::new();
        for extent in &self.extents {
            let ExtentKind::Slab {
                slot_bytes,
                slots,
                live,
                ..
            } = extent.kind
            else {
                continue;
            };
            let at = match classes.binary_search_by_key(&slot_bytes, |class| class.slot_bytes) {
                Ok(at) => at,
                Err(at) => {
                    let class = ClassInChunk {
                        slot_bytes,
                        ..ClassInChunk::default()
                    };
                    classes.insert(at, class);
                    at
                }
            };
            let class = &mut classes[at];
            class.slabs += 1;
            class.pages += extent.pages;
            class.slots += slots;
            class.live += live;
        }
        classes
    }

    /// Takes the first chunk of the shard with number `at.shard` from `at.chunk` on; false if there is
    /// none.
    pub(crate) fn take(&mut self, shard: &Shard, at: MapCursor) -> bool {
        let arena = shard.memory().arena();
        let Some(chunk) = arena.next_chunk(at.chunk) else {
            return false;
        };
        self.extents.clear();
        let extents = &mut self.extents;
        let taken = arena.chunk_map(chunk, |extent| extents.push(*extent));
        self.at = MapCursor { chunk, ..at };
        self.stats = taken.unwrap_or_default();
        true
    }
}
