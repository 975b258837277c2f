//! The heap chunk by chunk: for pictures of an arena that others use meanwhile.
//!
//! Whoever shares an arena under a lock reads one chunk at a time and lets go of the
//! lock in between. A chunk takes a few microseconds: an entry of the page map and a
//! slab's record are read for each of its slabs, and no slot.

use crate::local_arena::LocalArena;
use crate::page_map::{FIRST_CLASS, FREE, LARGE_BODY, class_of_entry, slab_of_entry};
use crate::stats::{ArenaStats, ChunkStats, Extent, ExtentKind};
use crate::units::{CHUNK_PAGES, ChunkIndex, PAGE_BYTES, PageIndex, SlabId};
use core::ptr::NonNull;

/// Free slots that the record of a slab counts as taken, by the slab's first page.
type Unlisted = [u16; CHUNK_PAGES as usize];

impl LocalArena {
    /// The first chunk from number `from` on that has pages in use or resident.
    pub fn next_chunk(&self, from: u32) -> Option<u32> {
        let chunk = self.source.pages.next_open_chunk(from)?;
        Some(chunk.0)
    }

    /// What lies in a chunk. Its extents are visited in ascending order of
    /// addresses and cover it; a large object that goes on in further chunks is
    /// an extent in each. `None` where the chunk has no page in use or resident.
    ///
    /// Takes time in proportion to the slabs in the chunk, of which there are at
    /// most [`CHUNK_PAGES`], and does not allocate.
    pub fn chunk_map(&self, chunk: u32, mut visit: impl FnMut(&Extent)) -> Option<ChunkStats> {
        let chunk = ChunkIndex(chunk);
        let record = self.source.pages.chunk(chunk)?;
        let unlisted = self.unlisted(chunk);
        let mut stats = ChunkStats {
            free_blocks: core::array::from_fn(|order| record.buddy.blocks(order).count() as u16),
            ..ChunkStats::default()
        };
        let map = self.source.pages.map();
        let first = chunk.first_page();
        let entry = |page: u32| map.class_entry(first.plus(page));
        let mut page = 0;
        while page < CHUNK_PAGES {
            let start = page;
            let rest = start + 1..CHUNK_PAGES;
            let kind = match entry(start) {
                FREE => {
                    let dirty = record.is_resident(start);
                    let same =
                        |page: &u32| entry(*page) == FREE && record.is_resident(*page) == dirty;
                    page = start + 1 + rest.take_while(same).count() as u32;
                    let free_pages = match dirty {
                        true => &mut stats.dirty_pages,
                        false => &mut stats.purged_pages,
                    };
                    *free_pages += page - start;
                    ExtentKind::Free { dirty }
                }
                kind if class_of_entry(kind).is_none() => {
                    let same = |page: &u32| entry(*page) == LARGE_BODY;
                    page = start + 1 + rest.take_while(same).count() as u32;
                    stats.large_pages += page - start;
                    ExtentKind::Large
                }
                entry => {
                    let class = usize::from(entry - FIRST_CLASS);
                    let shape = self.table.class(class);
                    let id = slab_of_entry(map.slab_entry(first.plus(start)));
                    // SAFETY: the map names live slabs only, and nobody writes
                    // records while the arena is borrowed.
                    let slab = unsafe { self.records.slab(id) };
                    let free = u32::from(slab.record().free + unlisted[start as usize]);
                    let live = u32::from(shape.slots) - free;
                    let punched = slab.record().punched;
                    page = start + u32::from(shape.pages);
                    stats.punched_pages += punched.count_ones();
                    stats.slab_pages += u32::from(shape.pages) - punched.count_ones();
                    stats.slabs += 1;
                    stats.live_bytes += live as usize * shape.size as usize;
                    stats.slot_bytes += usize::from(shape.slots) * shape.size as usize;
                    ExtentKind::Slab {
                        class: class as u32,
                        slot_bytes: shape.size,
                        slots: u32::from(shape.slots),
                        live,
                        punched,
                    }
                }
            };
            visit(&Extent {
                start_page: first.plus(start).0,
                pages: page - start,
                kind,
            });
        }
        Some(stats)
    }

    /// The slabs from which slots are handed out at present, one for each class at most:
    /// first address, and bytes. Those of which pages were given back are left out. The
    /// arena counts their pages as resident, but the last ones may not have been touched.
    pub fn allocating_slabs(&self, mut visit: impl FnMut(NonNull<u8>, usize)) {
        for (class, bin) in self.bin_table.items()[..self.classes_in_use()]
            .iter()
            .enumerate()
        {
            if bin.current().is_none() {
                continue;
            }
            // SAFETY: the current slab is live, and nobody writes records while the
            // arena is borrowed.
            let slab = unsafe { self.records.slab(bin.current()) };
            if slab.record().punched == 0 {
                let run = slab.run(self.table.class(class));
                visit(self.source.pages.address(run.start), run.bytes());
            }
        }
    }

    /// Free slots of a chunk's slabs that are at hand, or freed but not marked as free
    /// yet.
    fn unlisted(&self, chunk: ChunkIndex) -> Unlisted {
        let mut unlisted = [0; CHUNK_PAGES as usize];
        let mut add = |id: SlabId, slots: u32| {
            // SAFETY: a slab that has slots at hand is live, and nobody writes
            // records while the arena is borrowed.
            let start = unsafe { self.records.slab(id) }.record().start;
            if start.chunk() == chunk {
                unlisted[start.in_chunk() as usize] += slots as u16;
            }
        };
        let mut add_slot = |reference: u32| {
            if PageIndex::of_offset((reference as usize) << 3).chunk() == chunk {
                add(self.slab_of(reference), 1);
            }
        };
        self.pending
            .references()
            .iter()
            .copied()
            .for_each(&mut add_slot);
        let classes = self.classes_in_use();
        for hand in &self.hand_table.items()[..classes] {
            hand.slots().iter().copied().for_each(&mut add_slot);
        }
        for bin in &self.bin_table.items()[..classes] {
            if bin.at_hand() > 0 {
                add(bin.current(), bin.at_hand());
            }
        }
        unlisted
    }

    /// Panics unless the chunks add up to what the arena says of itself.
    pub(crate) fn check_map(&self, stats: &ArenaStats) {
        let mut sum = ChunkStats::default();
        let (mut from, mut chunks) = (0, 0);
        while let Some(chunk) = self.next_chunk(from) {
            let mut end = ChunkIndex(chunk).first_page().0;
            let visit = |extent: &Extent| {
                assert_eq!(extent.start_page, end, "a gap or an overlap");
                end += extent.pages;
            };
            let one = self.chunk_map(chunk, visit).expect("an open chunk");
            assert_eq!(end, ChunkIndex(chunk + 1).first_page().0);
            sum.slab_pages += one.slab_pages;
            sum.punched_pages += one.punched_pages;
            sum.large_pages += one.large_pages;
            sum.dirty_pages += one.dirty_pages;
            sum.purged_pages += one.purged_pages;
            sum.slabs += one.slabs;
            sum.live_bytes += one.live_bytes;
            (from, chunks) = (chunk + 1, chunks + 1);
        }
        let bytes = |pages: u32| pages as usize * PAGE_BYTES;
        assert_eq!(chunks, stats.open_chunks);
        assert_eq!(bytes(sum.slab_pages + sum.punched_pages), stats.slab_bytes);
        assert_eq!(bytes(sum.punched_pages), stats.punched_bytes);
        assert_eq!(bytes(sum.large_pages), stats.large_bytes);
        assert_eq!(bytes(sum.dirty_pages), stats.dirty_bytes);
        assert_eq!(sum.slabs as usize, stats.slabs);
        assert_eq!(sum.live_bytes, stats.live_bytes);
    }
}
