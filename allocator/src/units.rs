//! The units in which every layer counts: pages, chunks and slab numbers.
//!
//! All indices are relative to the start of an arena's object region, so they
//! fit 32 bits and stay meaningful when a region is mapped elsewhere. Chunk 0
//! of a region is never handed out: page 0, slab 0 and offset 0 therefore
//! mean "none" everywhere.

/// log2 of the bytes of a page.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of a page, the unit of the page heap.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;
/// log2 of the pages of a chunk, which is also the order of a whole chunk.
pub const CHUNK_ORDER: u32 = 9;
/// Pages of a chunk.
pub const CHUNK_PAGES: u32 = 1 << CHUNK_ORDER;
/// log2 of the bytes of a chunk.
pub const CHUNK_SHIFT: u32 = PAGE_SHIFT + CHUNK_ORDER;
/// Bytes of a chunk: the unit of buddy bookkeeping and of huge pages.
pub const CHUNK_BYTES: usize = 1 << CHUNK_SHIFT;

/// Whole pages that `bytes` need.
#[inline]
pub const fn pages_for(bytes: usize) -> usize {
    bytes.div_ceil(PAGE_BYTES)
}

/// A page of a region, counted from the region's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u32);

impl PageIndex {
    /// The page that lies `byte_offset` bytes behind the region's start.
    #[inline]
    pub const fn of_offset(byte_offset: usize) -> PageIndex {
        PageIndex((byte_offset >> PAGE_SHIFT) as u32)
    }

    /// Bytes from the region's start to the first byte of the page.
    #[inline]
    pub const fn byte_offset(self) -> usize {
        (self.0 as usize) << PAGE_SHIFT
    }

    /// The chunk that holds the page.
    #[inline]
    pub const fn chunk(self) -> ChunkIndex {
        ChunkIndex(self.0 >> CHUNK_ORDER)
    }

    /// Number of the page inside its chunk, below [`CHUNK_PAGES`].
    #[inline]
    pub const fn in_chunk(self) -> u32 {
        self.0 & (CHUNK_PAGES - 1)
    }

    /// The page `pages` further on.
    #[inline]
    pub const fn plus(self, pages: u32) -> PageIndex {
        PageIndex(self.0 + pages)
    }
}

/// A chunk of a region, counted from the region's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(pub u32);

impl ChunkIndex {
    /// First page of the chunk.
    #[inline]
    pub const fn first_page(self) -> PageIndex {
        PageIndex(self.0 << CHUNK_ORDER)
    }
}

/// Consecutive pages that are handed out together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// First page.
    pub start: PageIndex,
    /// Length in pages, at least 1.
    pub pages: u32,
}

impl PageRun {
    /// The page behind the run.
    #[inline]
    pub const fn end(self) -> PageIndex {
        self.start.plus(self.pages)
    }

    /// Length in bytes.
    #[inline]
    pub const fn bytes(self) -> usize {
        (self.pages as usize) << PAGE_SHIFT
    }

    /// The parts of the run that lie in one chunk each, in ascending order:
    /// the chunk, the first page inside it, and the number of pages.
    pub fn by_chunk(self) -> impl Iterator<Item = (ChunkIndex, u32, u32)> {
        let end = self.end().0;
        let mut page = self.start.0;
        core::iter::from_fn(move || {
            if page >= end {
                return None;
            }
            let first = PageIndex(page);
            let pages = (CHUNK_PAGES - first.in_chunk()).min(end - page);
            page += pages;
            Some((first.chunk(), first.in_chunk(), pages))
        })
    }
}

/// A slab, named by the place of its record: the offset in the record space
/// in units of 16 bytes. 0 is no slab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SlabId(pub u32);

impl SlabId {
    /// No slab.
    pub const NONE: SlabId = SlabId(0);

    /// Whether this names no slab.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_cut_at_chunk_borders() {
        let run = PageRun {
            start: PageIndex(3 * CHUNK_PAGES - 5),
            pages: 5 + CHUNK_PAGES + 7,
        };
        let parts: Vec<_> = run.by_chunk().collect();
        assert_eq!(
            parts,
            [
                (ChunkIndex(2), CHUNK_PAGES - 5, 5),
                (ChunkIndex(3), 0, CHUNK_PAGES),
                (ChunkIndex(4), 0, 7)
            ]
        );
        assert_eq!(run.end(), PageIndex(4 * CHUNK_PAGES + 7));
    }

    #[test]
    fn offsets_and_pages_convert_both_ways() {
        for offset in [0usize, 4095, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, 5 << 30] {
            let page = PageIndex::of_offset(offset);
            assert!(page.byte_offset() <= offset && offset < page.byte_offset() + PAGE_BYTES);
            assert_eq!(page.chunk().0 as usize, offset / CHUNK_BYTES);
            assert_eq!(page.chunk().first_page().plus(page.in_chunk()), page);
        }
    }
}
