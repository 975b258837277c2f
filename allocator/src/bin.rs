//! A bin: one arena's slabs of one class.
//!
//! Every slab with free slots is on one of eight lists by its occupancy, but
//! for the *current* one, from which slots are handed out. When that is used
//! up, the next comes from the fullest list, so that sparse slabs get no new
//! objects and empty. Eight lists do as well as an exact order (simulated,
//! and LIFO within a list does as well as by address; it also returns to the
//! slab whose record was touched last).
//!
//! Of the current slab one word of the bitmap is *at hand*: its free slots
//! are kept in the bin, so that handing one out is a few instructions on one
//! cache line. Slots at hand count as taken in the slab's own record.
//!
//! ```text
//! list      0        1        ...  7        | PUNCHED  | CURRENT FULL TAKEN
//! free      1..1/8   1/8..2/8 ...  7/8..1   | has pages| none of the lists
//!           fullest                sparsest | punched  |
//! ```
//!
//! A slab changes lists only by frees, when its free slots reach the record's
//! `relist_at`: the free path compares once and knows nothing of lists.
//! Slabs with punched pages come last of all, since their slots cost a fault.

use crate::metadata::Zeroable;
use crate::size_class::SizeClass;
use crate::slab::{Records, Slab};
use crate::units::SlabId;

/// Lists by occupancy.
pub(crate) const OCCUPANCY_LISTS: usize = 8;
/// The list of slabs with punched pages.
pub(crate) const PUNCHED: usize = OCCUPANCY_LISTS;
/// Number of lists.
pub(crate) const LISTS: usize = OCCUPANCY_LISTS + 1;

/// Values of a record's `list` for slabs on no list: slots are handed out
/// from it; it has no free slot; someone has taken it off the lists.
pub(crate) const CURRENT: u8 = 16;
pub(crate) const FULL: u8 = 17;
pub(crate) const TAKEN: u8 = 18;

/// The slabs of one class. All zeros are an empty bin.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Bin {
    /// Free slots at hand: bit i is the slot `word_slot + i`.
    word: u64,
    /// Address of the slot of bit 0 of `word`.
    word_start: usize,
    /// Bytes of a slot.
    slot_bytes: u32,
    /// The slab that slots are handed out from.
    current: SlabId,
    /// Set bits in the bitmaps of all slabs: free slots, but for those at hand.
    pub(crate) free: u32,
    /// Bit i: list i has a slab.
    lists_used: u16,
    /// Which word of the current slab is at hand.
    word_index: u8,
    /// Until the lists change, no slab with at most this share of live slots, in
    /// percent, can be evacuated; 0 after they have changed.
    pub(crate) stuck_percent: u8,
    lists: [SlabId; LISTS],
    /// Slabs on each list.
    lengths: [u32; LISTS],
    /// Slabs in all.
    pub(crate) slabs: u32,
    /// The value of `free` when dead pages were last searched for.
    pub(crate) searched_free: u32,
    /// The last search for dead pages has left slabs for the next one.
    pub(crate) search_again: bool,
    /// Until the lists change, nothing comes of merging, or of packing, the slabs:
    /// the last attempt has failed.
    pub(crate) merge_failed: bool,
    pub(crate) packing_failed: bool,
}

// SAFETY: the struct consists of integers.
unsafe impl Zeroable for Bin {}

const _: () = assert!(size_of::<Bin>() == 128);

/// What [`Bin::refill`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refill {
    /// Slots are at hand.
    Ready,
    /// Slots are at hand, and some may lie on punched pages of this slab.
    Punched(SlabId),
    /// No slab has a free slot.
    Exhausted,
}

/// What [`Bin::refill_from_fuller`] has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relocation {
    /// A slot of a fitting slab is at hand.
    Ready,
    /// The address of a slot on a resident page of a fitting slab that has
    /// punched ones.
    Slot(usize),
    /// The current slab does not fit: it must be retired first.
    CurrentUnfit,
    /// No slab fits.
    NoRoom,
}

impl Bin {
    /// Hands out a slot: its address, or `None` if none is at hand.
    #[inline(always)]
    pub(crate) fn take(&mut self) -> Option<usize> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word - 1;
        Some(self.word_start + bit as usize * self.slot_bytes as usize)
    }

    /// Hands out the slot at hand that this bit of the word at hand stands for.
    #[cfg(feature = "hardened")]
    pub(crate) fn take_bit(&mut self, bit: u32) -> usize {
        debug_assert!(self.word >> bit & 1 != 0);
        self.word &= !(1 << bit);
        self.word_start + bit as usize * self.slot_bytes as usize
    }

    /// Slots at hand.
    #[inline]
    pub(crate) fn at_hand(&self) -> u32 {
        self.word.count_ones()
    }

    /// The slots at hand as bits of a word of the current slab.
    pub(crate) fn word_at_hand(&self) -> (u32, u64) {
        (u32::from(self.word_index), self.word)
    }

    /// Whether one of these slots, given as bits of a word of the slab's bitmap, is at
    /// hand.
    #[inline(always)]
    pub(crate) fn has_at_hand(&self, slab: SlabId, word: u32, bits: u64) -> bool {
        self.word & bits != 0 && self.current == slab && u32::from(self.word_index) == word
    }

    /// The slab that slots are handed out from.
    pub(crate) fn current(&self) -> SlabId {
        self.current
    }

    /// Slabs on a list.
    pub(crate) fn length(&self, list: usize) -> u32 {
        self.lengths[list]
    }

    /// The first slab of a list.
    pub(crate) fn head(&self, list: usize) -> SlabId {
        self.lists[list]
    }

    /// A bit for every list that has a slab.
    pub(crate) fn lists_used(&self) -> u16 {
        self.lists_used
    }

    /// Gets slots at hand, when none is: from the current slab, else from the
    /// fullest one.
    ///
    /// # Safety
    /// The records of the bin's slabs are accessed by the caller alone; the
    /// region starts at `base`.
    pub(crate) unsafe fn refill(
        &mut self,
        records: Records,
        class: &SizeClass,
        base: usize,
    ) -> Refill {
        debug_assert_eq!(self.word, 0);
        if !self.current.is_none() {
            // SAFETY: the current slab is live and the caller's.
            let mut slab = unsafe { records.slab(self.current) };
            if self.take_word(&mut slab, class, base) {
                return self.ready(slab);
            }
            let record = slab.record_mut();
            record.list = FULL;
            record.relist_at = 1;
            self.current = SlabId::NONE;
        }
        if self.lists_used == 0 {
            return Refill::Exhausted;
        }
        let list = self.lists_used.trailing_zeros() as usize;
        let id = self.lists[list];
        // SAFETY: slabs on lists are live and the caller's.
        let mut slab = unsafe { records.slab(id) };
        // SAFETY: as above.
        unsafe { self.unlink(records, id, slab) };
        self.set_current(id, &mut slab);
        let found = self.take_word(&mut slab, class, base);
        debug_assert!(found, "a listed slab has free slots");
        self.ready(slab)
    }

    fn ready(&self, slab: Slab) -> Refill {
        if slab.record().punched == 0 {
            Refill::Ready
        } else {
            Refill::Punched(self.current)
        }
    }

    /// Makes a new slab, all of whose slots are free, the current one, when
    /// there is none.
    ///
    /// # Safety
    /// The slab is live, of this class and the caller's; otherwise as
    /// [`Bin::refill`].
    pub(crate) unsafe fn adopt(
        &mut self,
        records: Records,
        class: &SizeClass,
        base: usize,
        id: SlabId,
    ) {
        debug_assert!(self.current.is_none() && self.word == 0);
        self.forget_failures();
        // SAFETY: passed on to the caller.
        let mut slab = unsafe { records.slab(id) };
        self.slot_bytes = class.size;
        self.slabs += 1;
        self.free += u32::from(class.slots);
        self.set_current(id, &mut slab);
        self.take_word(&mut slab, class, base);
    }

    /// Takes in a new slab, all of whose slots are free, and hands all of them out at once.
    /// Returns the address of the first.
    ///
    /// # Safety
    /// As [`Bin::adopt`].
    pub(crate) unsafe fn adopt_whole(
        &mut self,
        records: Records,
        class: &SizeClass,
        base: usize,
        id: SlabId,
    ) -> usize {
        self.forget_failures();
        // SAFETY: passed on to the caller.
        let mut slab = unsafe { records.slab(id) };
        self.slot_bytes = class.size;
        self.slabs += 1;
        slab.take_all(class);
        let record = slab.record_mut();
        record.list = FULL;
        record.relist_at = 1;
        base + slab.byte_offset()
    }

    /// The lists change: what could not be done may now be possible.
    fn forget_failures(&mut self) {
        self.stuck_percent = 0;
        self.merge_failed = false;
        self.packing_failed = false;
    }

    /// Counts a new slab, all of whose slots are free, that the caller enlists
    /// later.
    ///
    /// # Safety
    /// As [`Bin::adopt`].
    pub(crate) unsafe fn count_taken(&mut self, records: Records, class: &SizeClass, id: SlabId) {
        self.slot_bytes = class.size;
        self.slabs += 1;
        self.free += u32::from(class.slots);
        // SAFETY: passed on to the caller.
        unsafe { records.slab(id) }.record_mut().list = TAKEN;
    }

    fn set_current(&mut self, id: SlabId, slab: &mut Slab) {
        self.current = id;
        let record = slab.record_mut();
        record.list = CURRENT;
        record.relist_at = u16::MAX;
    }

    /// Gets the first free slots of the current slab at hand.
    fn take_word(&mut self, slab: &mut Slab, class: &SizeClass, base: usize) -> bool {
        let Some((word, bits)) = slab.take_word(class) else {
            return false;
        };
        self.word = bits;
        self.word_index = word as u8;
        self.word_start = base + slab.byte_offset() + word as usize * 64 * class.size as usize;
        self.free -= bits.count_ones();
        true
    }

    /// Puts the current slab on the list where it belongs, and with it the
    /// slots at hand. Returns the slab if all of its slots are free: it is on
    /// no list then, and no longer the bin's.
    ///
    /// # Safety
    /// As [`Bin::refill`].
    pub(crate) unsafe fn retire_current(
        &mut self,
        records: Records,
        class: &SizeClass,
    ) -> Option<SlabId> {
        if self.current.is_none() {
            return None;
        }
        let id = core::mem::take(&mut self.current);
        // SAFETY: the current slab is live and the caller's.
        let mut slab = unsafe { records.slab(id) };
        if self.word != 0 {
            let count = self.word.count_ones();
            slab.put(u32::from(self.word_index), self.word, count);
            self.free += count;
            self.word = 0;
        }
        // SAFETY: the slab is on no list; otherwise as above.
        unsafe { self.enlist(records, class, id) }
    }

    /// Puts a slab that is on no list where its free slots say. Returns it if
    /// all of its slots are free: it is on no list then, and no longer the
    /// bin's.
    ///
    /// # Safety
    /// The slab is one of the bin's and on no list; otherwise as
    /// [`Bin::refill`].
    pub(crate) unsafe fn enlist(
        &mut self,
        records: Records,
        class: &SizeClass,
        id: SlabId,
    ) -> Option<SlabId> {
        // SAFETY: passed on to the caller.
        let mut slab = unsafe { records.slab(id) };
        let record = slab.record_mut();
        if record.free == class.slots {
            record.list = TAKEN;
            record.relist_at = u16::MAX;
            self.slabs -= 1;
            self.free -= u32::from(class.slots);
            return Some(id);
        }
        if record.free == 0 {
            record.list = FULL;
            record.relist_at = 1;
            return None;
        }
        let list = list_for(class, slab);
        let record = slab.record_mut();
        record.relist_at = relist_at(class, list);
        record.list = list as u8;
        record.next = self.lists[list];
        if !record.next.is_none() {
            // SAFETY: slabs on lists are live and the caller's.
            let mut next = unsafe { records.slab(record.next) };
            next.record_mut().prev = id;
        }
        self.lists[list] = id;
        self.lists_used |= 1 << list;
        self.lengths[list] += 1;
        None
    }

    /// Moves a slab whose free slots have reached `relist_at` to the list
    /// where it belongs now. Returns it if all of its slots are free, as
    /// [`Bin::enlist`] does.
    ///
    /// # Safety
    /// The slab is one of the bin's; otherwise as [`Bin::refill`].
    #[cold]
    pub(crate) unsafe fn relist(
        &mut self,
        records: Records,
        class: &SizeClass,
        id: SlabId,
    ) -> Option<SlabId> {
        self.forget_failures();
        // SAFETY: passed on to the caller.
        let slab = unsafe { records.slab(id) };
        if (slab.record().list as usize) < LISTS {
            // SAFETY: the slab is on the list that its record names.
            unsafe { self.unlink(records, id, slab) };
        }
        // SAFETY: the slab is on no list now.
        unsafe { self.enlist(records, class, id) }
    }

    /// Takes a slab off the lists, for the caller's purposes, until it is
    /// enlisted again.
    ///
    /// # Safety
    /// The slab is on a list of the bin, or full; otherwise as [`Bin::refill`].
    pub(crate) unsafe fn take_off(&mut self, records: Records, id: SlabId) {
        // SAFETY: passed on to the caller.
        let mut slab = unsafe { records.slab(id) };
        if slab.record().list != FULL {
            // SAFETY: as above.
            unsafe { self.unlink(records, id, slab) };
        }
        let record = slab.record_mut();
        record.list = TAKEN;
        record.relist_at = u16::MAX;
    }

    /// Gets a slot at hand in a slab for which `fit` says yes, given the number
    /// of its live slots; the fullest first, those with punched pages last.
    ///
    /// # Safety
    /// As [`Bin::refill`].
    pub(crate) unsafe fn refill_from_fuller(
        &mut self,
        records: Records,
        class: &SizeClass,
        base: usize,
        fit: impl Fn(u32) -> bool,
    ) -> Relocation {
        /// Slabs of a list that are looked at, which bounds the time.
        const CANDIDATES: usize = 8;
        if !self.current.is_none() {
            // SAFETY: the current slab is live and the caller's.
            let mut slab = unsafe { records.slab(self.current) };
            let live = u32::from(class.slots - slab.record().free) - self.at_hand();
            if live < u32::from(class.slots) {
                if slab.record().punched != 0 || !fit(live) {
                    return Relocation::CurrentUnfit;
                }
                if self.word == 0 {
                    self.take_word(&mut slab, class, base);
                }
                return Relocation::Ready;
            }
        }
        for list in 0..OCCUPANCY_LISTS {
            // SAFETY: passed on to the caller.
            let fitting = unsafe { self.iter(records, list) }
                .take(CANDIDATES)
                .find(|(_, slab)| fit(u32::from(class.slots - slab.record().free)));
            let Some((id, mut slab)) = fitting else {
                continue;
            };
            if !self.current.is_none() {
                // SAFETY: the current slab is live and the caller's; it is
                // full, so it cannot turn out to be empty.
                unsafe { self.retire_current(records, class) };
            }
            // SAFETY: the slab was found on a list.
            unsafe { self.take_off(records, id) };
            self.set_current(id, &mut slab);
            self.take_word(&mut slab, class, base);
            return Relocation::Ready;
        }
        // SAFETY: passed on to the caller.
        for (_, mut slab) in unsafe { self.iter(records, PUNCHED) }.take(CANDIDATES) {
            if !fit(u32::from(class.slots - slab.record().free)) {
                continue;
            }
            let found = slab.free_resident(class).next();
            if let Some((word, bits)) = found {
                // One slot only: the rest stays last in the order.
                slab.take(word, bits & bits.wrapping_neg());
                self.free -= 1;
                let slot = word << 6 | bits.trailing_zeros();
                let offset = slab.byte_offset() + (slot * class.size) as usize;
                return Relocation::Slot(base + offset);
            }
        }
        Relocation::NoRoom
    }

    /// Calls a slab by another number, under which its record has been copied.
    /// A slab that someone has taken off the lists keeps its number.
    ///
    /// # Safety
    /// `old` was a slab of the bin, not [`TAKEN`], and is `new` from now on;
    /// otherwise as [`Bin::refill`].
    pub(crate) unsafe fn renumber(&mut self, records: Records, old: SlabId, new: SlabId) {
        // SAFETY: passed on to the caller.
        let record = unsafe { records.slab(new) };
        let record = record.record();
        let list = record.list as usize;
        if list < LISTS {
            // SAFETY: neighbours on a list are live and the caller's.
            unsafe {
                if self.lists[list] == old {
                    self.lists[list] = new;
                } else {
                    records.slab(record.prev).record_mut().next = new;
                }
                if !record.next.is_none() {
                    records.slab(record.next).record_mut().prev = new;
                }
            }
        } else if self.current == old {
            self.current = new;
        }
    }

    /// # Safety
    /// The slab is on the list that its record names; otherwise as
    /// [`Bin::refill`].
    unsafe fn unlink(&mut self, records: Records, id: SlabId, slab: Slab) {
        let record = slab.record();
        let list = record.list as usize;
        debug_assert!(list < LISTS);
        if self.lists[list] == id {
            self.lists[list] = record.next;
            if record.next.is_none() {
                self.lists_used &= !(1 << list);
            }
        } else {
            // SAFETY: neighbours on a list are live and the caller's.
            unsafe {
                records.slab(record.prev).record_mut().next = record.next;
                if !record.next.is_none() {
                    records.slab(record.next).record_mut().prev = record.prev;
                }
            }
        }
        self.lengths[list] -= 1;
    }

    /// Slots that were handed out.
    pub(crate) fn taken(&self, class: &SizeClass) -> u32 {
        self.slabs * u32::from(class.slots) - self.free - self.at_hand()
    }

    /// The slabs on a list, from its head on.
    ///
    /// # Safety
    /// As [`Bin::refill`], as long as the iterator is used.
    pub(crate) unsafe fn iter(
        &self,
        records: Records,
        list: usize,
    ) -> impl Iterator<Item = (SlabId, Slab)> + use<> {
        let mut id = self.lists[list];
        core::iter::from_fn(move || {
            if id.is_none() {
                return None;
            }
            // SAFETY: slabs on lists are live and the caller's.
            let slab = unsafe { records.slab(id) };
            let item = (id, slab);
            id = slab.record().next;
            Some(item)
        })
    }

    /// Panics unless lists and counts agree, given the free slots of the slabs
    /// that are taken off the lists.
    ///
    /// # Safety
    /// As [`Bin::refill`].
    pub(crate) unsafe fn check(&self, records: Records, class: &SizeClass, taken_free: u32) {
        let mut free = taken_free;
        for list in 0..LISTS {
            assert_eq!(
                self.lists_used >> list & 1 != 0,
                !self.lists[list].is_none()
            );
            let mut before = SlabId::NONE;
            let mut length = 0;
            // SAFETY: passed on to the caller.
            for (id, slab) in unsafe { self.iter(records, list) } {
                slab.check(class);
                let record = slab.record();
                assert_eq!(record.list as usize, list);
                assert!(before.is_none() || record.prev == before);
                assert!(record.free > 0 && record.free < class.slots);
                assert_eq!(list_for(class, slab), list);
                assert!(record.free < record.relist_at);
                before = id;
                length += 1;
                free += u32::from(record.free);
            }
            assert_eq!(length, self.lengths[list]);
        }
        if self.current.is_none() {
            assert_eq!(self.word, 0);
        } else {
            // SAFETY: the current slab is live and the caller's.
            let slab = unsafe { records.slab(self.current) };
            slab.check(class);
            assert_eq!(slab.record().list, CURRENT);
            assert_eq!(slab.word(u32::from(self.word_index)) & self.word, 0);
            free += u32::from(slab.record().free);
        }
        assert_eq!(self.free, free);
    }
}

/// The list where a slab with free slots belongs.
fn list_for(class: &SizeClass, slab: Slab) -> usize {
    let record = slab.record();
    if record.punched != 0 {
        PUNCHED
    } else {
        class.eighth_of(u32::from(record.free) - 1) as usize
    }
}

/// With how many free slots a slab on the list belongs on another one.
fn relist_at(class: &SizeClass, list: usize) -> u16 {
    if list >= OCCUPANCY_LISTS {
        return class.slots;
    }
    let next_eighth = ((list as u32 + 1) * u32::from(class.slots)).div_ceil(8) as u16;
    (next_eighth + 1).min(class.slots)
}
