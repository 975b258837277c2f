//! The slabs of one class of one arena of the process heap, as the bin's lock guards
//! them: a [`Bin`], and a few wholly free slabs.
//!
//! Those stay so that a program which allocates and frees around the border of a slab
//! does not go to the page heap each time; they are given up when the class is idle.

use crate::bin::{Bin, OCCUPANCY_LISTS};
use crate::hardened;
use crate::punch::{self, Search};
use crate::remote_free::Inbox;
use crate::shared_pages::SharedPages;
use crate::size_class::{GENERAL, SizeClass};
use crate::stats::Traffic;
use crate::units::{PageRun, SlabId};

/// Wholly free slabs that a bin keeps for reuse.
pub(crate) const EMPTY_SLABS_MAX: usize = 4;

/// Sparse slabs from which on a class counts as sparse: with fewer there is little
/// to win.
const SPARSE_SLABS_MIN: u32 = 16;
/// The least share of sparse slabs among all of the class: one in so many.
const SPARSE_SHARE: u32 = 8;

/// The most slabs of a class for which it counts as dense whatever they hold: slots in
/// a cache keep no more than these.
const DENSE_SLABS_MAX: u32 = 16;
/// The largest share of free slots in a dense class: one in so many.
const DENSE_SHARE: u32 = 8;

/// How the live slots of a class are spread over its slabs, hence what free slots in
/// a thread's cache would keep from emptying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Spread {
    /// Neither of the others, or unknown.
    #[default]
    Loose,
    /// The slabs are few or nearly full: slots in a cache keep little.
    Dense,
    /// Many of the slabs are nearly empty: freed slots should go back to them before
    /// they are used again.
    Sparse,
}

/// What a bin's lock guards. Zeros are a bin without slabs.
pub(crate) struct Slabs {
    /// Slots were handed out since the bin last settled.
    pub(crate) busy: bool,
    pub(crate) empty_count: u8,
    empty: [SlabId; EMPTY_SLABS_MAX],
    pub(crate) traffic: Traffic,
    pub(crate) bin: Bin,
}

impl Slabs {
    pub(crate) fn drain(&mut self, pages: &SharedPages, shape: &SizeClass, inbox: &Inbox) {
        inbox.drain(pages, |id, word, slots| {
            let slab = SlabId(id - word.offset());
            let count = slots.count_ones();
            self.put(pages, slab, word.index(), slots, count);
            self.traffic.remote_slots += u64::from(count);
            self.relist_if_due(pages, shape, slab);
        });
    }

    /// Marks `count` slots as free, given as bits of a word of the slab's bitmap.
    /// Stops the process if one is already.
    #[inline(always)]
    pub(crate) fn put(
        &mut self,
        pages: &SharedPages,
        slab: SlabId,
        word: u32,
        bits: u64,
        count: u32,
    ) {
        // SAFETY: The slab is alive and of the bin whose lock guards `self`.
        let mut record = unsafe { pages.records().slab(slab) };
        let free = record.word(word) & bits;
        if free != 0 || self.bin.has_at_hand(slab, word, bits) {
            let twice = if free != 0 { free } else { bits };
            // SAFETY: As above.
            unsafe { pages.double_free(slab, word << 6 | twice.trailing_zeros()) };
        }
        record.put(word, bits, count);
        self.bin.free += count;
    }

    /// Puts a slab that has got slots back on the list where it belongs now.
    #[inline]
    pub(crate) fn relist_if_due(&mut self, pages: &SharedPages, shape: &SizeClass, slab: SlabId) {
        // SAFETY: The slab is alive and of the bin whose lock guards `self`.
        let record = unsafe { pages.records().slab(slab) };
        if record.record().free >= record.record().relist_at {
            self.relist(pages, shape, slab);
        }
    }

    #[cold]
    fn relist(&mut self, pages: &SharedPages, shape: &SizeClass, slab: SlabId) {
        // SAFETY: The slab is of this bin, whose lock is held.
        if let Some(slab) = unsafe { self.bin.relist(pages.records(), shape, slab) } {
            self.keep_empty(pages, slab);
        }
    }

    pub(crate) fn reuse_empty(&mut self) -> Option<SlabId> {
        self.empty_count = self.empty_count.checked_sub(1)?;
        Some(self.empty[usize::from(self.empty_count)])
    }

    /// Keeps a wholly free slab for reuse, unless pages of it were punched: it would be
    /// used as if all of it were resident.
    pub(crate) fn keep_empty(&mut self, pages: &SharedPages, slab: SlabId) {
        // SAFETY: The slab is alive and of the bin whose lock guards `self`.
        if unsafe { pages.records().slab(slab) }.record().punched != 0 {
            return give_up(pages, &[slab]);
        }
        if usize::from(self.empty_count) == EMPTY_SLABS_MAX {
            self.give_up_empty(pages);
        }
        self.empty[usize::from(self.empty_count)] = slab;
        self.empty_count += 1;
    }

    pub(crate) fn give_up_empty(&mut self, pages: &SharedPages) {
        let count = usize::from(core::mem::take(&mut self.empty_count));
        if count > 0 {
            give_up(pages, &self.empty[..count]);
        }
    }

    /// Gives back dead pages inside sparse slabs that have been quiet since the last
    /// call.
    pub(crate) fn punch(&mut self, pages: &SharedPages, shape: &SizeClass) {
        // Slabs that one call looks at, which bounds how long the locks are held.
        let mut budget = 512;
        if punch::is_worthwhile(&self.bin, shape) {
            let records = pages.records();
            pages.with_stock(|pages| {
                let heap = &mut pages.source.pages;
                // SAFETY: The slabs are of the bin whose lock guards `self`.
                unsafe {
                    punch::punch(
                        &mut self.bin,
                        shape,
                        records,
                        heap,
                        Search::Quiet,
                        &mut budget,
                    )
                }
            });
        }
    }

    /// How the live slots are spread over the slabs.
    pub(crate) fn spread(&self, shape: &SizeClass) -> Spread {
        let slots = self.bin.slabs * u32::from(shape.slots);
        if self.is_sparse() {
            Spread::Sparse
        } else if self.bin.slabs <= DENSE_SLABS_MAX || self.bin.free <= slots / DENSE_SHARE {
            Spread::Dense
        } else {
            Spread::Loose
        }
    }

    fn is_sparse(&self) -> bool {
        let lists = OCCUPANCY_LISTS / 2..OCCUPANCY_LISTS;
        let sparse: u32 = lists.map(|list| self.bin.length(list)).sum();
        sparse >= SPARSE_SLABS_MIN && sparse * SPARSE_SHARE >= self.bin.slabs
    }
}

/// Gives wholly free slabs up, which are no bin's any more.
fn give_up(pages: &SharedPages, slabs: &[SlabId]) {
    for slab in slabs {
        // SAFETY: No slot of the slab is in use.
        unsafe { verify_released(pages, *slab) };
    }
    pages.with_stock(|pages| {
        for slab in slabs {
            // SAFETY: No slot of the slab is in use, and it is no bin's.
            unsafe { pages.stock.put(&mut pages.source, *slab) };
        }
    });
}

/// Has the hardened mode look at what is in a slab that is given up.
///
/// # Safety
///
/// The slab is the caller's, and no slot of it is in use.
#[inline]
unsafe fn verify_released(pages: &SharedPages, slab: SlabId) {
    // SAFETY: Passed on to the caller.
    unsafe {
        let slab = pages.records().slab(slab);
        let start = pages.pointer(pages.base_address() + slab.byte_offset());
        let class = GENERAL.class(usize::from(slab.record().class));
        hardened::verify_released(start, slab.record().punched, class);
    }
}

/// Notes that the pages of these slots of a slab get memory again.
pub(crate) fn refill_pages(
    pages: &SharedPages,
    slab: SlabId,
    class: &SizeClass,
    word: u32,
    bits: u64,
) {
    let first = word * 64 + bits.trailing_zeros();
    let last = word * 64 + 63 - bits.leading_zeros();
    let (first, last) = class.pages_of_slots(first, last);
    // SAFETY: The slab is of a bin whose lock the caller holds.
    let mut slab = unsafe { pages.records().slab(slab) };
    slab.record_mut().punched &= !(((2_u32 << (last - first)) - 1) << first) as u16;
    let run = PageRun {
        start: slab.record().start.plus(first),
        pages: last - first + 1,
    };
    pages.with_stock(|pages| pages.source.pages.refill(run));
}
