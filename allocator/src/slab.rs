//! A slab: one page run cut into equal slots of one class, and the record that
//! says which of them are free.
//!
//! The record lies apart from the slots, in a [`RecordPool`]:
//!
//! ```text
//! byte 0      4      8      12     14          16       18      19     20       22       23       24
//! | start page | prev | next | free | relist at | punched | class | list | looked | sparse | guests | free bitmap | extra
//! ```
//!
//! The bitmap is the truth: a set bit is a free slot, all others are live. So
//! live slots can be listed, which evacuation and the heap map need, and no
//! overflow in an object reaches the allocator. `extra` belongs to the kind of
//! heap: the process heap keeps there what other threads have freed.

use crate::page_heap::PageHeap;
use crate::record_pool::{RecordPool, units_for};
use crate::size_class::{ClassTable, SLAB_WORDS_MAX, SizeClass};
use crate::units::{ChunkIndex, PAGE_SHIFT, PageIndex, PageRun, SlabId};
use core::ptr::NonNull;

/// Bytes of a unit in which slab numbers count.
const ID_BYTES: usize = 16;

/// The fixed part of a slab's record.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct SlabRecord {
    /// First page.
    pub(crate) start: PageIndex,
    /// Neighbours in the list that the slab is on; `prev` is undefined for
    /// the first slab of a list.
    pub(crate) prev: SlabId,
    pub(crate) next: SlabId,
    /// Set bits of the bitmap.
    pub(crate) free: u16,
    /// As soon as so many slots are free, the slab belongs on another list.
    pub(crate) relist_at: u16,
    /// A bit for every page of the slab that was punched.
    pub(crate) punched: u16,
    /// The slots' class.
    pub(crate) class: u8,
    /// The list that the slab is on, in the words of its bin.
    pub(crate) list: u8,
    /// What the last search for dead pages has seen, in the words of `punch`.
    pub(crate) looked: u16,
    /// The page map says that the slab is sparse.
    pub(crate) sparse: bool,
    /// Objects of smaller classes lie, or have lain, in the slab; the page map
    /// says so, too.
    pub(crate) guests: bool,
}

const BITMAP_OFFSET: usize = size_of::<SlabRecord>();
const _: () = assert!(BITMAP_OFFSET == 24);

/// Bytes from a record's start to its extra part, a multiple of 16.
pub(crate) const fn extra_offset(class: &SizeClass) -> usize {
    (BITMAP_OFFSET + class.words as usize * 8).next_multiple_of(ID_BYTES)
}

/// Where records lie: turns slab numbers into slabs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Records(NonNull<u8>);

impl Records {
    /// The slab with the number `id`.
    ///
    /// # Safety
    /// The slab is live, and the caller alone accesses its record, extra part
    /// aside, as long as it uses the result.
    #[inline(always)]
    pub(crate) unsafe fn slab(self, id: SlabId) -> Slab {
        debug_assert!(!id.is_none());
        // SAFETY: records of live slabs lie in the pool at their number.
        Slab(unsafe { self.0.add(id.0 as usize * ID_BYTES).cast() })
    }

    /// Where the record with the number `id` starts.
    #[inline(always)]
    pub(crate) fn address(self, id: SlabId) -> *mut u8 {
        self.0.as_ptr().wrapping_add(id.0 as usize * ID_BYTES)
    }
}

/// Access to a live slab's record, made by [`Records::slab`], whose caller
/// upholds that nobody else accesses it meanwhile. All methods rely on that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slab(NonNull<SlabRecord>);

impl Slab {
    /// The fixed part.
    #[inline(always)]
    pub(crate) fn record(&self) -> &SlabRecord {
        // SAFETY: the record is live and not written meanwhile.
        unsafe { self.0.as_ref() }
    }

    /// The fixed part, writable.
    #[inline(always)]
    pub(crate) fn record_mut(&mut self) -> &mut SlabRecord {
        // SAFETY: the record is live and accessed by the caller alone.
        unsafe { self.0.as_mut() }
    }

    #[inline(always)]
    fn word_at(self, word: u32) -> *mut u64 {
        debug_assert!((word as usize) < SLAB_WORDS_MAX);
        // SAFETY: the record has a word for every 64 slots of its class, and
        // callers pass words of slots of that class.
        unsafe { self.0.as_ptr().add(1).cast::<u64>().add(word as usize) }
    }

    /// 64 slots' free bits.
    #[inline(always)]
    pub(crate) fn word(self, word: u32) -> u64 {
        // SAFETY: as `word_at`.
        unsafe { *self.word_at(word) }
    }

    /// Takes the free slots of the first word that has any, those on punched
    /// pages last. Returns the word's number and the bits; `None` if no slot
    /// is free.
    #[inline]
    pub(crate) fn take_word(&mut self, class: &SizeClass) -> Option<(u32, u64)> {
        if self.record().free == 0 {
            return None;
        }
        let words = 0..u32::from(class.words);
        if self.record().punched != 0 {
            for word in words.clone() {
                let bits = self.word(word) & self.resident_slots(word, class);
                if bits != 0 {
                    self.take(word, bits);
                    return Some((word, bits));
                }
            }
        }
        for word in words {
            let bits = self.word(word);
            if bits != 0 {
                self.take(word, bits);
                return Some((word, bits));
            }
        }
        debug_assert!(false, "free slots without a bit");
        None
    }

    /// Marks slots of one word as taken, which are free.
    #[inline]
    pub(crate) fn take(&mut self, word: u32, bits: u64) {
        debug_assert_eq!(self.word(word) & bits, bits, "a slot was taken twice");
        // SAFETY: as `word_at`.
        unsafe { *self.word_at(word) &= !bits };
        self.record_mut().free -= bits.count_ones() as u16;
    }

    /// Marks all slots as taken, which are free.
    #[inline]
    pub(crate) fn take_all(&mut self, class: &SizeClass) {
        debug_assert_eq!(self.record().free, class.slots);
        for word in 0..u32::from(class.words) {
            // SAFETY: as `word_at`.
            unsafe { *self.word_at(word) = 0 };
        }
        self.record_mut().free = 0;
    }

    /// The slots of one word that lie wholly on pages which are not punched.
    fn resident_slots(self, word: u32, class: &SizeClass) -> u64 {
        let punched = u32::from(self.record().punched);
        let first_slot = word << 6;
        let slots = (u32::from(class.slots) - first_slot).min(64);
        let mut resident = 0;
        for bit in 0..slots {
            let (first, last) = class.pages_of_slots(first_slot + bit, first_slot + bit);
            let pages = ((2 << (last - first)) - 1) << first;
            resident |= u64::from(punched & pages == 0) << bit;
        }
        resident
    }

    /// The free slots that lie wholly on pages which are not punched, word by
    /// word.
    pub(crate) fn free_resident(self, class: &SizeClass) -> impl Iterator<Item = (u32, u64)> {
        (0..u32::from(class.words))
            .map(move |word| (word, self.word(word) & self.resident_slots(word, class)))
            .filter(|(_, bits)| *bits != 0)
    }

    /// Marks `count` slots of one word as free, which are not. The count is asked for
    /// since many callers know it, and not every processor can count bits.
    #[inline(always)]
    pub(crate) fn put(&mut self, word: u32, bits: u64, count: u32) {
        debug_assert_eq!(count, bits.count_ones());
        debug_assert_eq!(self.word(word) & bits, 0, "a slot was freed twice");
        // SAFETY: as `word_at`.
        unsafe { *self.word_at(word) |= bits };
        self.record_mut().free += count as u16;
    }

    /// Marks one slot as free, which is not.
    #[inline(always)]
    pub(crate) fn put_slot(&mut self, slot: u32) {
        debug_assert!(!self.is_free(slot), "slot {slot} was freed twice");
        // SAFETY: as `word_at`.
        unsafe { *self.word_at(slot >> 6) |= 1 << (slot & 63) };
        self.record_mut().free += 1;
    }

    /// Whether the slot is marked as free.
    #[inline]
    pub(crate) fn is_free(self, slot: u32) -> bool {
        self.word(slot >> 6) >> (slot & 63) & 1 != 0
    }

    /// The first slot that is marked as free.
    pub(crate) fn first_free(self, class: &SizeClass) -> Option<u32> {
        let words = 0..u32::from(class.words);
        words
            .map(|word| (word, self.word(word)))
            .find_map(|(word, bits)| (bits != 0).then(|| word << 6 | bits.trailing_zeros()))
    }

    /// The first slot from `slot` on that is not marked as free.
    pub(crate) fn live_from(self, slot: u32, class: &SizeClass) -> Option<u32> {
        let slots = u32::from(class.slots);
        let mut slot = slot;
        while slot < slots {
            let live = !self.word(slot >> 6) >> (slot & 63);
            if live != 0 {
                slot += live.trailing_zeros();
                return (slot < slots).then_some(slot);
            }
            slot = (slot | 63) + 1;
        }
        None
    }

    /// Bytes from the region's start to the slab's.
    #[inline(always)]
    pub(crate) fn byte_offset(self) -> usize {
        (self.record().start.0 as usize) << PAGE_SHIFT
    }

    /// The slab's pages.
    pub(crate) fn run(self, class: &SizeClass) -> PageRun {
        PageRun {
            start: self.record().start,
            pages: u32::from(class.pages),
        }
    }

    /// The pages of the slab, as bits, all of whose slots are marked as free.
    /// A page of the tail alone counts as such.
    pub(crate) fn dead_pages(self, class: &SizeClass) -> u16 {
        let mut dead = (1u32 << class.pages) - 1;
        let mut slot = 0;
        while let Some(live) = self.live_from(slot, class) {
            let (first, last) = class.pages_of_slots(live, live);
            dead &= !(((2 << (last - first)) - 1) << first);
            slot = live + 1;
        }
        dead as u16
    }

    /// Panics unless the record is consistent.
    pub(crate) fn check(self, class: &SizeClass) {
        let words = u32::from(class.words);
        let free: u32 = (0..words).map(|word| self.word(word).count_ones()).sum();
        assert_eq!(free, u32::from(self.record().free));
        let beyond = u32::from(class.slots) & 63;
        if beyond != 0 {
            assert_eq!(
                self.word(words - 1) >> beyond,
                0,
                "a slot beyond the last is free"
            );
        }
        assert_eq!(u32::from(self.record().punched) >> class.pages, 0);
        assert_eq!(self.record().punched & !self.dead_pages(class), 0);
    }
}

/// Makes slabs and takes them back: a page heap and the records.
#[derive(Debug)]
pub(crate) struct SlabSource {
    pub(crate) pages: PageHeap,
    pub(crate) records: RecordPool,
    table: &'static ClassTable,
    /// Bytes of a record's extra part, by class.
    extra_bytes: fn(&SizeClass) -> usize,
}

impl SlabSource {
    /// Slabs of the table's classes in pages of the heap.
    pub(crate) fn new(
        pages: PageHeap,
        table: &'static ClassTable,
        extra_bytes: fn(&SizeClass) -> usize,
    ) -> Option<SlabSource> {
        let units = |class: &SizeClass| units_for(extra_offset(class) + extra_bytes(class));
        let units_max = table.classes().iter().map(units).max()?;
        // Enough for a region full of the class whose records are largest.
        let share =
            |class: &SizeClass| (units(class) as usize * ID_BYTES).div_ceil(class.pages as usize);
        let bytes_per_page = table.classes().iter().map(share).max()?;
        let region_pages = pages.region_bytes() >> PAGE_SHIFT;
        Some(SlabSource {
            records: RecordPool::new(region_pages * bytes_per_page * 9 / 8, units_max)?,
            pages,
            table,
            extra_bytes,
        })
    }

    /// Access to records.
    #[inline(always)]
    pub(crate) fn records(&self) -> Records {
        Records(self.records.base())
    }

    /// Makes a slab all of whose slots are free, on no list. `None` where
    /// memory is short. The extra part is undefined.
    pub(crate) fn make(&mut self, class: usize) -> Option<SlabId> {
        self.make_of(class, PageHeap::allocate)
    }

    /// The same, in an open chunk below `end`.
    pub(crate) fn make_below(&mut self, class: usize, end: ChunkIndex) -> Option<SlabId> {
        self.make_of(class, |pages, count| pages.allocate_below(count, end))
    }

    fn make_of(
        &mut self,
        class: usize,
        allocate: impl FnOnce(&mut PageHeap, u32) -> Option<PageRun>,
    ) -> Option<SlabId> {
        let shape = self.table.class(class);
        let units = units_for(extra_offset(shape) + (self.extra_bytes)(shape));
        let id = self.records.allocate(units)?;
        let Some(run) = allocate(&mut self.pages, u32::from(shape.pages)) else {
            self.records.free(id);
            return None;
        };
        self.write_record(id, class, run);
        Some(id)
    }

    /// Makes a slab one of another class whose slabs have as many pages, as if it had
    /// just been made. `None`, with nothing changed, where memory is short.
    ///
    /// # Safety
    /// The slab is live and on no list, all of its slots are free and none of its
    /// pages is punched, and nobody else uses it or its record.
    pub(crate) unsafe fn reshape(&mut self, id: SlabId, class: usize) -> Option<SlabId> {
        // SAFETY: passed on to the caller.
        let slab = unsafe { self.records().slab(id) };
        let units = |class: usize| {
            let shape = self.table.class(class);
            units_for(extra_offset(shape) + (self.extra_bytes)(shape))
        };
        let old = usize::from(slab.record().class);
        let run = slab.run(self.table.class(old));
        debug_assert_eq!(u32::from(self.table.class(class).pages), run.pages);
        let (old_units, new_units) = (units(old), units(class));
        let mut place = id;
        if old_units != new_units {
            place = self.records.allocate(new_units)?;
            self.records.free(id);
        }
        self.write_record(place, class, run);
        Some(place)
    }

    /// Writes the record of a new slab, with room for it at `id`, and enters the slab
    /// in the page map.
    fn write_record(&mut self, id: SlabId, class: usize, run: PageRun) {
        let shape = self.table.class(class);
        let record = self.records().address(id).cast::<SlabRecord>();
        // SAFETY: the record is the caller's, with room for the bitmap.
        unsafe {
            record.write(SlabRecord {
                start: run.start,
                prev: SlabId::NONE,
                next: SlabId::NONE,
                free: shape.slots,
                relist_at: u16::MAX,
                punched: 0,
                class: class as u8,
                list: u8::MAX,
                looked: 0,
                sparse: false,
                guests: false,
            });
            let bitmap = record.add(1).cast::<u64>();
            for word in 0..u32::from(shape.words) {
                let slots = (u32::from(shape.slots) - word * 64).min(64);
                bitmap.add(word as usize).write(u64::MAX >> (64 - slots));
            }
        }
        self.pages.map_mut().enter_slab(run, class, id);
    }

    /// Copies the record of a slab to a lower place, if records are scattered,
    /// and enters the slab under its new number in the page map. Returns the
    /// old and the new number: the caller renumbers it in its bin. `None` where
    /// nothing is to be done or `may_move` refuses.
    ///
    /// # Safety
    /// The caller alone accesses records; there is no extra part.
    pub(crate) unsafe fn gather_record(
        &mut self,
        units: u32,
        may_move: impl Fn(&SlabRecord) -> bool,
    ) -> Option<(SlabId, SlabId)> {
        let old = self.records.misplaced(units)?;
        // SAFETY: the record is in use, so its slab is live.
        let slab = unsafe { self.records().slab(old) };
        if !may_move(slab.record()) {
            return None;
        }
        let new = self.records.allocate(units)?;
        let bytes = units as usize * ID_BYTES;
        // SAFETY: both records have that size, and the new one is unused.
        unsafe {
            core::ptr::copy_nonoverlapping(
                self.records().address(old),
                self.records().address(new),
                bytes,
            );
        }
        let run = slab.run(self.table.class(slab.record().class as usize));
        self.pages
            .map_mut()
            .set_flags(run, new, slab.record().sparse, slab.record().guests);
        self.records.free(old);
        Some((old, new))
    }

    /// Takes back a slab that is on no list and whose slots are all free.
    ///
    /// # Safety
    /// The slab is live, nobody uses its record or a slot of it any more.
    pub(crate) unsafe fn release(&mut self, id: SlabId) {
        // SAFETY: the slab is live and the caller's alone.
        let slab = unsafe { self.records().slab(id) };
        let shape = self.table.class(slab.record().class as usize);
        debug_assert_eq!(slab.record().free, shape.slots);
        let run = slab.run(shape);
        self.pages.map_mut().clear(run);
        self.pages.free(run);
        self.records.free(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_heap::PageHeapOptions;
    use crate::size_class::{FINE, GENERAL};

    fn source(table: &'static ClassTable, extra: fn(&SizeClass) -> usize) -> SlabSource {
        let pages = PageHeap::new(&PageHeapOptions {
            region_bytes: 16 << 20,
            region_bytes_min: 16 << 20,
            decay_ms: 0,
        })
        .unwrap();
        SlabSource::new(pages, table, extra).unwrap()
    }

    #[test]
    fn every_class_makes_a_slab_whose_slots_can_all_be_taken() {
        for (table, extra) in [
            (&FINE, (|_| 0) as fn(&SizeClass) -> usize),
            (&GENERAL, |class| {
                16 + 16 * usize::from(class.slots.div_ceil(63))
            }),
        ] {
            let mut source = source(table, extra);
            for (class, shape) in table.classes().iter().enumerate() {
                let id = source.make(class).unwrap();
                // SAFETY: the slab is live and this test's alone.
                let mut slab = unsafe { source.records().slab(id) };
                slab.check(shape);
                let extra_start = source
                    .records()
                    .address(id)
                    .wrapping_add(extra_offset(shape));
                assert_eq!(extra_start.addr() % 16, 0);
                // SAFETY: the record has room for its extra part.
                unsafe { extra_start.write_bytes(0xff, extra(shape)) };
                assert_eq!(
                    u32::from(slab.dead_pages(shape)).count_ones(),
                    u32::from(shape.pages)
                );
                let mut slots = 0;
                while let Some((word, bits)) = slab.take_word(shape) {
                    assert_eq!(word, slots / 64);
                    slots += bits.count_ones();
                }
                assert_eq!(slots, u32::from(shape.slots));
                assert_eq!(slab.live_from(0, shape), Some(0));
                assert_eq!(slab.live_from(slots, shape), None);
                for slot in (0..slots).rev() {
                    slab.put_slot(slot);
                }
                assert_eq!(slab.live_from(0, shape), None);
                slab.check(shape);
                // SAFETY: nobody uses the slab any more.
                unsafe { source.release(id) };
            }
            source.pages.purge(u32::MAX);
            source.pages.check();
            source.records.purge();
            assert_eq!(source.records.resident_bytes(), 0);
            assert_eq!(source.pages.counts().resident(), 0);
        }
    }

    #[test]
    fn dead_pages_are_those_without_a_live_slot() {
        let mut source = source(&FINE, |_| 0);
        for (class, shape) in FINE.classes().iter().enumerate() {
            let id = source.make(class).unwrap();
            // SAFETY: the slab is live and this test's alone.
            let mut slab = unsafe { source.records().slab(id) };
            while slab.take_word(shape).is_some() {}
            for step in [1, 3, 7] {
                let live = |slot: u32| !slot.is_multiple_of(step) || slot > 300;
                for slot in 0..u32::from(shape.slots) {
                    if !live(slot) && !slab.is_free(slot) {
                        slab.put_slot(slot);
                    }
                }
                let mut expected = 0;
                for page in 0..u32::from(shape.pages) {
                    let touched = |slot: &u32| {
                        let first = slot * shape.size / 4096;
                        let last = (slot * shape.size + shape.size - 1) / 4096;
                        (first..=last).contains(&page)
                    };
                    let mut slots = 0..u32::from(shape.slots);
                    if slots.all(|slot| !touched(&slot) || slab.is_free(slot)) {
                        expected |= 1 << page;
                    }
                }
                assert_eq!(slab.dead_pages(shape), expected);
            }
            slab.check(shape);
        }
    }
}
