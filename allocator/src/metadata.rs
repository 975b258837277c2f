//! Memory for the allocator's own records: address space of its own, apart
//! from the objects, zero until it is written, and given back page by page.
//!
//! An [`Area`] is one reservation that is committed from its start as it is
//! needed. A [`Table`] is an area that holds an array.

use crate::os::{self, Range};
use crate::units::{PAGE_BYTES, PageIndex, PageRun};
use core::marker::PhantomData;
use core::ptr::NonNull;

/// Bytes by which an area at least grows, so that growing stays rare.
const GROWTH_BYTES: usize = 64 << 10;

/// Most runs of pages that are given back by one call.
pub(crate) const PURGE_RUNS: usize = 128;

/// Reserved address space, accessible from its start up to a frontier.
#[derive(Debug)]
pub(crate) struct Area {
    start: NonNull<u8>,
    reserved: usize,
    committed: usize,
    growth: usize,
    /// Bytes of a page of the system's.
    page_bytes: usize,
}

// SAFETY: an area owns its reservation, like a box.
unsafe impl Send for Area {}

impl Area {
    /// Reserves `bytes`, aligned to `align` and growing by multiples of `growth`
    /// bytes, all rounded up to pages of the system's.
    pub(crate) fn reserve(bytes: usize, align: usize, growth: usize) -> Option<Area> {
        let page_bytes = os::page_bytes();
        let reserved = bytes.max(1).checked_next_multiple_of(page_bytes)?;
        let growth = growth.next_multiple_of(page_bytes);
        Some(Area {
            start: os::reserve(reserved, align)?,
            reserved,
            committed: 0,
            growth,
            page_bytes,
        })
    }

    /// The first byte.
    #[inline(always)]
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes of address space.
    pub(crate) fn reserved(&self) -> usize {
        self.reserved
    }

    /// Bytes from the start that are accessible.
    pub(crate) fn committed(&self) -> usize {
        self.committed
    }

    /// Makes at least the first `bytes` accessible; false where the area or
    /// the system has no more.
    #[must_use]
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        if bytes <= self.committed {
            return true;
        }
        if bytes > self.reserved {
            return false;
        }
        let target = bytes.next_multiple_of(self.growth).min(self.reserved);
        // Near the end of what the system grants, no more than is needed.
        let least = bytes.next_multiple_of(self.page_bytes);
        [target, least].into_iter().any(|target| {
            // SAFETY: the range lies in the reservation, behind what is committed.
            let granted =
                unsafe { os::commit(self.start.add(self.committed), target - self.committed) };
            if granted {
                self.committed = target;
            }
            granted
        })
    }

    /// The first byte of a page, counted from the area's start.
    #[inline(always)]
    pub(crate) fn address(&self, page: PageIndex) -> NonNull<u8> {
        debug_assert!(page.byte_offset() <= self.reserved);
        // SAFETY: the page lies in the reservation.
        unsafe { self.start.add(page.byte_offset()) }
    }

    /// Gives the memory of runs of committed pages back, which read as zero
    /// from then on. Returns how many of at most [`PURGE_RUNS`] runs, counted
    /// from the first, are done; fewer than given where the system refuses.
    ///
    /// The area itself holds no reference to its contents: whoever writes to
    /// a page relies on the page being its own, as the page heap's books say,
    /// and this function on being called for none that is in use.
    pub(crate) fn purge(&mut self, runs: &[PageRun]) -> usize {
        let mut ranges = [Range {
            start: NonNull::dangling(),
            bytes: 0,
        }; PURGE_RUNS];
        for (range, run) in ranges.iter_mut().zip(runs) {
            assert!(run.end().byte_offset() <= self.committed);
            *range = Range {
                start: self.address(run.start),
                bytes: run.bytes(),
            };
        }
        // SAFETY: the pages are committed, as asserted, and in nobody's use, as
        // the caller says.
        unsafe { os::purge(&ranges[..runs.len().min(PURGE_RUNS)]) }
    }
}

#[cfg(feature = "hardened")]
impl Area {
    /// Makes committed pages, whose contents nobody needs, inaccessible until
    /// [`Area::lift_guard`]. Where the system refuses, they stay as they are.
    pub(crate) fn guard(&mut self, run: PageRun) {
        assert!(run.end().byte_offset() <= self.committed);
        if let Some((start, bytes)) = self.whole_pages(run) {
            // SAFETY: the pages are committed, as asserted, and in nobody's use, as the
            // caller says.
            unsafe { os::guard(start, bytes) };
        }
    }

    /// The part of a run that consists of pages of the system's, which may be larger than
    /// ours; `None` where there is none.
    fn whole_pages(&self, run: PageRun) -> Option<(NonNull<u8>, usize)> {
        let unit = os::page_bytes();
        let first = run.start.byte_offset().next_multiple_of(unit);
        let end = run.end().byte_offset() / unit * unit;
        // SAFETY: the run lies in the reservation, which starts with a page.
        (first < end).then(|| (unsafe { self.start.add(first) }, end - first))
    }

    /// Undoes so many calls of [`Area::guard`], which make up the run; its pages read as
    /// zero. False where the system refuses: then nobody may use them.
    pub(crate) fn lift_guard(&mut self, run: PageRun, guards: usize) -> bool {
        assert!(run.end().byte_offset() <= self.committed);
        self.whole_pages(run).is_none_or(|(start, bytes)| {
            // SAFETY: as above.
            unsafe { os::lift_guard(start, bytes, guards) }
        })
    }
}

impl Area {
    /// Moves the memory of committed pages to others, which lose theirs. The
    /// pages of `from` read as zero afterwards. False, with nothing changed,
    /// where the system cannot. As to the contents, see [`Area::purge`].
    pub(crate) fn move_pages(&mut self, from: PageRun, to: PageIndex) -> bool {
        let target = to.plus(from.pages);
        assert!(from.end().max(target).byte_offset() <= self.committed);
        assert!(from.end() <= to || target <= from.start);
        // SAFETY: both ranges are committed and do not overlap, as asserted;
        // nobody needs what is in `to`, as the caller says.
        unsafe { os::move_pages(self.address(from.start), self.address(to), from.bytes()) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the area owns its reservation, and its owner is done with it.
        unsafe { os::release(self.start, self.reserved) }
    }
}

/// Types of which a run of zero bytes is a value.
///
/// # Safety
/// All zeros must be a valid value of the type, and the type needs no drop.
pub(crate) unsafe trait Zeroable {}

// SAFETY: zero is a value of every integer type.
unsafe impl Zeroable for u8 {}
// SAFETY: as above.
unsafe impl Zeroable for u32 {}
// SAFETY: as above.
unsafe impl Zeroable for u64 {}

/// An array in an area of its own: all zeros at first, growing at its end.
#[derive(Debug)]
pub(crate) struct Table<T: Zeroable> {
    area: Area,
    len: usize,
    items: PhantomData<T>,
}

impl<T: Zeroable> Table<T> {
    /// An empty table that may grow to `len_max` items.
    pub(crate) fn reserve(len_max: usize) -> Option<Table<T>> {
        const { assert!(align_of::<T>() <= PAGE_BYTES) };
        Some(Table {
            area: Area::reserve(
                len_max.checked_mul(size_of::<T>())?,
                PAGE_BYTES,
                GROWTH_BYTES,
            )?,
            len: 0,
            items: PhantomData,
        })
    }

    /// The same, and items beyond its end may be read: they are zero.
    pub(crate) fn reserve_readable(len_max: usize) -> Option<Table<T>> {
        let table = Table::reserve(len_max)?;
        // SAFETY: the area is the table's, and nothing of it is committed yet.
        unsafe { os::allow_reads(table.area.start, table.area.reserved) }.then_some(table)
    }

    /// A table of `len` zeroed items.
    pub(crate) fn with_len(len: usize) -> Option<Table<T>> {
        let mut table = Table::reserve(len)?;
        table.grow_to(len).then_some(table)
    }

    /// Makes the table at least `len` items long; false where memory is short.
    #[must_use]
    pub(crate) fn grow_to(&mut self, len: usize) -> bool {
        if len <= self.len {
            return true;
        }
        if !self.area.grow_to(len * size_of::<T>()) {
            return false;
        }
        self.len = len;
        true
    }

    /// Items that are accessible.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first item's address; the first `len` items are accessible.
    #[inline(always)]
    pub(crate) fn start(&self) -> NonNull<T> {
        self.area.start().cast()
    }

    /// All items.
    #[inline]
    pub(crate) fn items(&self) -> &[T] {
        // SAFETY: `len` items are committed, and hold zeros or values that
        // were written through this table; the borrow keeps writers away.
        unsafe { core::slice::from_raw_parts(self.start().as_ptr(), self.len) }
    }

    /// All items, writable.
    #[inline]
    pub(crate) fn items_mut(&mut self) -> &mut [T] {
        // SAFETY: as `items`, and the table is borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.start().as_ptr(), self.len) }
    }

    /// Turns the items from `first` to `first + count` into zeros and gives
    /// their memory back: both borders lie on pages of the system's. False, with
    /// nothing changed, where the system refuses.
    pub(crate) fn purge(&mut self, first: usize, count: usize) -> bool {
        let (offset, bytes) = (first * size_of::<T>(), count * size_of::<T>());
        debug_assert!(offset.is_multiple_of(PAGE_BYTES) && bytes.is_multiple_of(PAGE_BYTES));
        if offset + bytes > self.area.committed() {
            return false;
        }
        // The exclusive borrow says that no reference to an item exists, and
        // zeros are valid items.
        let run = PageRun {
            start: PageIndex::of_offset(offset),
            pages: (bytes / PAGE_BYTES) as u32,
        };
        self.area.purge(&[run]) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fake::{Faults, inject};

    #[test]
    fn a_table_grows_in_place_and_forgets_what_is_purged() {
        let mut table = Table::<u64>::reserve(1 << 16).unwrap();
        assert!(table.items().is_empty());
        assert!(table.grow_to(10));
        table.items_mut()[9] = 5;
        assert!(table.grow_to(60_000));
        let words_per_page = PAGE_BYTES / 8;
        for (index, item) in table.items_mut().iter_mut().enumerate() {
            *item = index as u64;
        }
        assert!(table.purge(words_per_page, 2 * words_per_page));
        for (index, item) in table.items().iter().enumerate() {
            let purged = (words_per_page..3 * words_per_page).contains(&index);
            assert_eq!(*item, if purged { 0 } else { index as u64 });
        }
        assert!(!table.grow_to((1 << 16) + 1));
    }

    #[test]
    fn a_refused_commit_leaves_the_table_as_it_was() {
        let faults = Faults {
            commit: true,
            ..Faults::default()
        };
        let mut table = Table::<u32>::reserve(1 << 20).unwrap();
        assert!(table.grow_to(7));
        table.items_mut()[6] = 6;
        assert!(!inject(faults, || table.grow_to(1 << 19)));
        assert_eq!(table.items(), [0, 0, 0, 0, 0, 0, 6]);
        assert!(table.grow_to(1 << 19));
        assert_eq!(table.items()[6], 6);
    }
}
