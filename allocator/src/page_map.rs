//! From an address to what lies there: two arrays with an entry per page.
//!
//! | array | entry | meaning |
//! |---|---|---|
//! | classes | [`FREE`] | the page is free |
//! | | [`LARGE_HEAD`], [`LARGE_BODY`] | the first page, any further page of a large run |
//! | | [`SAMPLED_HEAD`] | the first page of a large run whose object a heap profile has sampled |
//! | | 4 to 6 | pages that the hardened mode guards |
//! | | [`FIRST_CLASS`] + class | a page of a slab of that class |
//! | slabs | slab number, perhaps with [`SPARSE`] and [`GUESTS`] | on pages of slabs |
//! | | pages of the run | on the first page of a large run |
//!
//! The classes come last, so that a table with a row for each entry up to the last class
//! has one for everything that a page may be.
//!
//! Five bytes per page, outside the pages themselves, so that no overflow
//! reaches them and dead pages can be given back. Entries of free pages are
//! zero: where a page of the map holds only such, it is given back too.

use crate::metadata::Table;
use crate::units::{CHUNK_PAGES, ChunkIndex, PageIndex, PageRun, SlabId};

/// Entry of a free page.
pub(crate) const FREE: u8 = 0;
/// Entry of the first page of a large run.
pub(crate) const LARGE_HEAD: u8 = 1;
/// Entry of the further pages of a large run.
pub(crate) const LARGE_BODY: u8 = 2;
/// Entry of the first page of a large run whose object a heap profile has sampled. The
/// object may be a small one.
pub(crate) const SAMPLED_HEAD: u8 = 3;

/// Entries of guard pages around a large run, and of one that was freed and is held back,
/// all of the hardened mode.
#[cfg(feature = "hardened")]
pub(crate) const FENCE_IN_FRONT: u8 = 4;
#[cfg(feature = "hardened")]
pub(crate) const FENCE_BEHIND: u8 = 5;
#[cfg(feature = "hardened")]
pub(crate) const LARGE_FREED: u8 = 6;

/// Entry of the pages of the first class's slabs. Those of the others follow.
pub(crate) const FIRST_CLASS: u8 = 7;

/// The entry of the pages of a class's slabs.
#[inline(always)]
pub(crate) const fn entry_of_class(class: usize) -> u8 {
    debug_assert!(class <= (u8::MAX - FIRST_CLASS) as usize);
    FIRST_CLASS + class as u8
}

/// The class of the slab to which pages with this entry belong; `None` where it is an
/// entry of no slab.
#[inline(always)]
pub(crate) const fn class_of_entry(entry: u8) -> Option<usize> {
    match entry.checked_sub(FIRST_CLASS) {
        Some(class) => Some(class as usize),
        None => None,
    }
}

/// Flag in a slab entry: the slab is at most half used, so a slot that is freed
/// should not be handed out again at once.
pub(crate) const SPARSE: u32 = 1 << 31;

/// Flag in a slab entry: some of the slab's objects are of smaller classes.
pub(crate) const GUESTS: u32 = 1 << 30;

/// The slab number in a slab entry.
#[inline(always)]
pub(crate) const fn slab_of_entry(entry: u32) -> SlabId {
    SlabId(entry & !(SPARSE | GUESTS))
}

/// Chunks whose entries fill whole pages of both arrays; where the system's pages
/// are larger, as many times more are given back at once.
pub(crate) const GROUP_CHUNKS: u32 = 8;
/// Chunks whose slab entries fill a page.
pub(crate) const PAIR_CHUNKS: u32 = 2;

/// The map of one region.
#[derive(Debug)]
pub(crate) struct PageMap {
    classes: Table<u8>,
    slabs: Table<u32>,
}

impl PageMap {
    /// An empty map that may grow to `pages_max` pages.
    pub(crate) fn reserve(pages_max: usize) -> Option<PageMap> {
        Some(PageMap {
            // Readable beyond what was ever handed out, so that the entry of any address
            // of the region, however wild, can be looked up: it is 0.
            classes: Table::reserve_readable(pages_max)?,
            slabs: Table::reserve(pages_max)?,
        })
    }

    /// Makes room for the entries of the first `pages` pages.
    #[must_use]
    pub(crate) fn grow_to(&mut self, pages: usize) -> bool {
        self.classes.grow_to(pages) && self.slabs.grow_to(pages)
    }

    /// Where the class entries start; entry i belongs to page i.
    #[inline(always)]
    pub(crate) fn class_entries(&self) -> *mut u8 {
        self.classes.start().as_ptr()
    }

    /// Where the slab entries start; entry i belongs to page i.
    #[inline(always)]
    pub(crate) fn slab_entries(&self) -> *mut u32 {
        self.slabs.start().as_ptr()
    }

    /// The class entry of a page; [`FREE`] beyond what was ever handed out.
    #[inline]
    pub(crate) fn class_entry(&self, page: PageIndex) -> u8 {
        if page.0 as usize >= self.classes.len() {
            return FREE;
        }
        // SAFETY: the page lies within the map, as just seen.
        unsafe { *self.class_entries().add(page.0 as usize) }
    }

    /// The slab entry of a page; 0 beyond what was ever handed out.
    #[inline]
    pub(crate) fn slab_entry(&self, page: PageIndex) -> u32 {
        if page.0 as usize >= self.slabs.len() {
            return 0;
        }
        // SAFETY: the page lies within the map, as just seen.
        unsafe { *self.slab_entries().add(page.0 as usize) }
    }

    /// Notes whether a slab is sparse and whether it has guests.
    pub(crate) fn set_flags(&mut self, run: PageRun, slab: SlabId, sparse: bool, guests: bool) {
        let sparse = if sparse { SPARSE } else { 0 };
        let guests = if guests { GUESTS } else { 0 };
        self.fill_slabs(run, slab.0 | sparse | guests);
    }

    /// Enters a slab.
    pub(crate) fn enter_slab(&mut self, run: PageRun, class: usize, slab: SlabId) {
        self.fill_classes(run.start, run.end(), entry_of_class(class));
        self.fill_slabs(run, slab.0);
    }

    /// Enters a large run.
    pub(crate) fn enter_large(&mut self, run: PageRun) {
        self.fill_classes(run.start, run.start.plus(1), LARGE_HEAD);
        self.fill_classes(run.start.plus(1), run.end(), LARGE_BODY);
        self.set_length(run);
    }

    /// Enters pages of one kind.
    #[cfg(feature = "hardened")]
    pub(crate) fn enter(&mut self, run: PageRun, entry: u8) {
        self.fill_classes(run.start, run.end(), entry);
    }

    /// Lengthens or shortens the entry of a large run that starts at the same
    /// page; the pages that leave it become free entries.
    pub(crate) fn resize_large(&mut self, old: PageRun, new: PageRun) {
        debug_assert_eq!(old.start, new.start);
        if new.pages > old.pages {
            self.fill_classes(old.end(), new.end(), LARGE_BODY);
        } else {
            self.fill_classes(new.end(), old.end(), FREE);
        }
        self.set_length(new);
    }

    /// Makes the entries of a run free.
    pub(crate) fn clear(&mut self, run: PageRun) {
        self.fill_classes(run.start, run.end(), FREE);
    }

    fn fill_slabs(&mut self, run: PageRun, entry: u32) {
        self.assert_within(run.end());
        for page in run.start.0..run.end().0 {
            // SAFETY: the page lies within the map, as asserted.
            unsafe { self.slab_entries().add(page as usize).write(entry) };
        }
    }

    fn assert_within(&self, end: PageIndex) {
        assert!(end.0 as usize <= self.classes.len().min(self.slabs.len()));
    }

    /// Writes class entries without a reference to them: other threads may
    /// read the entries of pages that they own at the same time.
    fn fill_classes(&mut self, start: PageIndex, end: PageIndex, entry: u8) {
        self.assert_within(end);
        let (start, end) = (start.0 as usize, end.0 as usize);
        // SAFETY: the pages lie within the map, as asserted.
        unsafe { core::ptr::write_bytes(self.class_entries().add(start), entry, end - start) };
    }

    fn set_length(&mut self, run: PageRun) {
        self.assert_within(run.end());
        // SAFETY: the page lies within the map, as asserted.
        unsafe {
            self.slab_entries()
                .add(run.start.0 as usize)
                .write(run.pages)
        };
    }

    /// Gives the classes of `chunks` chunks back, a multiple of [`GROUP_CHUNKS`] that
    /// starts at `first`, all of whose pages are free.
    pub(crate) fn purge_classes(&mut self, first: ChunkIndex, chunks: u32) {
        let pages = (chunks * CHUNK_PAGES) as usize;
        self.classes.purge(first.first_page().0 as usize, pages);
    }

    /// Gives the slab entries of `chunks` chunks back, a multiple of [`PAIR_CHUNKS`]
    /// that starts at `first`, all of whose pages are free.
    pub(crate) fn purge_slabs(&mut self, first: ChunkIndex, chunks: u32) {
        let pages = (chunks * CHUNK_PAGES) as usize;
        self.slabs.purge(first.first_page().0 as usize, pages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_follow_runs() {
        let mut map = PageMap::reserve(1 << 16).unwrap();
        assert!(map.grow_to(1 << 14));
        let run = |start, pages| PageRun {
            start: PageIndex(start),
            pages,
        };
        map.enter_slab(run(600, 4), 7, SlabId(99));
        assert_eq!(map.class_entry(PageIndex(603)), entry_of_class(7));
        assert_eq!(map.slab_entry(PageIndex(600)), 99);
        map.enter_large(run(700, 3));
        map.resize_large(run(700, 3), run(700, 5));
        let entries: Vec<u8> = (699..706)
            .map(|page| map.class_entry(PageIndex(page)))
            .collect();
        assert_eq!(
            entries,
            [
                FREE, LARGE_HEAD, LARGE_BODY, LARGE_BODY, LARGE_BODY, LARGE_BODY, FREE
            ]
        );
        assert_eq!(map.slab_entry(PageIndex(700)), 5);
        map.resize_large(run(700, 5), run(700, 1));
        assert_eq!(map.class_entry(PageIndex(701)), FREE);
        map.clear(run(600, 4));
        map.clear(run(700, 1));
        map.purge_classes(ChunkIndex(0), GROUP_CHUNKS);
        assert!((0..4096).all(|page| map.class_entry(PageIndex(page)) == FREE));
        assert_eq!(map.class_entry(PageIndex(1 << 20)), FREE);
    }
}
