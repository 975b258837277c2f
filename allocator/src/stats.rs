//! Read-only snapshots of an arena's books. They are taken without allocating.

use crate::bin::LISTS;
use crate::large::LargeCounts;
use crate::slab::SlabSource;
use crate::units::PAGE_BYTES;

/// Where an arena's memory is. All figures are bytes unless named otherwise.
///
/// Two identities hold:
/// `slab_bytes = live_bytes + free_bytes + tail_bytes`, and
/// `resident_bytes = slab_bytes + large_bytes - punched_bytes + dirty_bytes + metadata_bytes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaStats {
    /// Address space of the region.
    pub region_bytes: usize,
    /// Memory that the arena holds, its own records included. Pages count from
    /// the moment when they are handed out, touched or not.
    pub resident_bytes: usize,
    /// Pages of slabs.
    pub slab_bytes: usize,
    /// Slots in use: requests, rounded to their classes.
    pub live_bytes: usize,
    /// Of these, by what the slots of objects that were moved into slabs of a
    /// larger class are larger than their own class's.
    pub guest_bytes: usize,
    /// Free slots in slabs.
    pub free_bytes: usize,
    /// Ends of slabs that belong to no slot.
    pub tail_bytes: usize,
    /// Objects too large for slabs, in whole pages.
    pub large_bytes: usize,
    /// Number of such objects.
    pub large_objects: usize,
    /// Free pages that are still resident.
    pub dirty_bytes: usize,
    /// Pages inside slabs whose memory was given back.
    pub punched_bytes: usize,
    /// The allocator's own records.
    pub metadata_bytes: usize,
    /// Chunks with pages in use or dirty.
    pub open_chunks: u32,
    /// Of these, those that have got a huge page each.
    pub huge_chunks: u32,
    /// How often a chunk has got a huge page.
    pub promotions: u64,
    /// How often a chunk's huge page was split.
    pub demotions: u64,
    /// Free blocks of the buddy system, by order.
    pub free_blocks: [u32; 10],
    /// Blocks that were ever cut in two.
    pub splits: u64,
    /// Pairs of blocks that were ever joined.
    pub merges: u64,
    /// Memory that was ever taken from the system.
    pub fresh_bytes_total: u64,
    /// Memory that was ever given back to the system.
    pub purged_bytes_total: u64,
    /// Requests to give memory back that the system refused.
    pub purges_refused: u64,
    /// Slabs in all classes.
    pub slabs: usize,
}

impl ArenaStats {
    /// What page heap, records and large objects say; slabs, slots and the records
    /// of bins are not in it.
    pub(crate) fn of_pages(source: &SlabSource, large: &LargeCounts) -> ArenaStats {
        let counts = source.pages.counts();
        ArenaStats {
            region_bytes: source.pages.region_bytes(),
            resident_bytes: counts.resident() as usize * PAGE_BYTES,
            large_bytes: large.pages as usize * PAGE_BYTES,
            large_objects: large.objects as usize,
            dirty_bytes: counts.dirty as usize * PAGE_BYTES,
            punched_bytes: (counts.punched - large.fences.min(counts.punched)) as usize
                * PAGE_BYTES,
            metadata_bytes: source.pages.metadata_bytes()
                + source.records.resident_bytes()
                + source.records.index_bytes(),
            open_chunks: counts.open_chunks,
            huge_chunks: counts.huge_chunks,
            promotions: counts.promotions,
            demotions: counts.demotions,
            free_blocks: counts.buddy.free_blocks,
            splits: counts.buddy.splits,
            merges: counts.buddy.merges,
            fresh_bytes_total: counts.fresh_total * PAGE_BYTES as u64,
            purged_bytes_total: counts.purged_total * PAGE_BYTES as u64,
            purges_refused: counts.purges_refused,
            ..ArenaStats::default()
        }
    }
}

/// One size class of an arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassStats {
    /// Bytes of a slot.
    pub slot_bytes: usize,
    /// Pages of a slab.
    pub slab_pages: u32,
    /// Slots of a slab.
    pub slab_slots: u32,
    /// Slabs.
    pub slabs: u32,
    /// Slots in use.
    pub live: u32,
    /// Free slots.
    pub free: u32,
    /// Slabs by their share of free slots, in eighths, the fullest first; the
    /// last entry counts slabs with punched pages. Slabs without a free slot
    /// and the one that allocates are not in here.
    pub by_occupancy: [u32; LISTS],
}

/// How slots went between slabs and the caches of threads, since the start. Batches
/// are counted, under locks that are held anyway: what a cache serves by itself, as
/// most calls are, is in none of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Batches of slots that slabs gave to caches.
    pub fills: u64,
    /// Slots in these batches.
    pub filled_slots: u64,
    /// Batches of slots that caches gave back to the slabs of their own arena.
    pub flushes: u64,
    /// Slots in these batches.
    pub flushed_slots: u64,
    /// Slots that were freed by threads of other arenas and that the slabs have taken
    /// in.
    pub remote_slots: u64,
}

impl Traffic {
    /// Adds another's counts.
    #[cfg(not(loom))]
    pub(crate) fn add(&mut self, other: &Traffic) {
        self.fills += other.fills;
        self.filled_slots += other.filled_slots;
        self.flushes += other.flushes;
        self.flushed_slots += other.flushed_slots;
        self.remote_slots += other.remote_slots;
    }
}

/// How much of the slabs' memory is unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waste {
    /// Resident bytes of slabs.
    pub resident_slab_bytes: usize,
    /// Bytes of slots in use.
    pub live_bytes: usize,
    /// Bytes of free slots, tails of slabs included, in resident pages.
    pub free_bytes: usize,
    /// Bytes of pages ever taken from the system: rises when the arena grows.
    pub fresh_bytes_total: u64,
}

/// What a purge has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Bytes given back to the system.
    pub bytes: usize,
    /// When the next call is due, in milliseconds of the clock that was passed
    /// in; `None` while there is nothing to give back.
    pub next_due_ms: Option<u64>,
}

/// One chunk of an arena, in pages unless named otherwise. The five kinds of pages
/// add up to [`CHUNK_PAGES`](crate::units::CHUNK_PAGES).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkStats {
    /// Pages of slabs that have memory behind them.
    pub slab_pages: u32,
    /// Pages of slabs whose memory was given back.
    pub punched_pages: u32,
    /// Pages of objects too large for slabs.
    pub large_pages: u32,
    /// Free pages that still have memory behind them.
    pub dirty_pages: u32,
    /// Free pages whose memory was given back, or that never had any.
    pub purged_pages: u32,
    /// Slabs.
    pub slabs: u32,
    /// Bytes of the slots in use.
    pub live_bytes: usize,
    /// Bytes of all slots.
    pub slot_bytes: usize,
    /// Free blocks of the buddy system, by order.
    pub free_blocks: [u16; 10],
}

/// What a page of the process heap is used for, as its books say. A page counts from the
/// moment when it is handed out, touched or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageUse {
    /// Nothing: there is no memory behind it.
    #[default]
    None,
    /// Free, with memory behind it.
    Dirty,
    /// A slab.
    Slab,
    /// An object too large for slabs.
    Large,
}

/// A piece of an arena's region with one use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First page, counted from the region's start.
    pub start_page: u32,
    /// Length in pages.
    pub pages: u32,
    /// Its use.
    pub kind: ExtentKind,
}

/// What an extent is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Free pages, which are resident if they are dirty.
    Free {
        /// The pages still have memory behind them.
        dirty: bool,
    },
    /// An object too large for slabs.
    Large,
    /// A slab.
    Slab {
        /// Number of its size class.
        class: u32,
        /// Bytes of a slot.
        slot_bytes: u32,
        /// Its slots.
        slots: u32,
        /// Slots in use.
        live: u32,
        /// A bit for each page, the lowest for the first, whose memory was given
        /// back.
        punched: u16,
    },
}
