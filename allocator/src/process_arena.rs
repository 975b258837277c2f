//! One arena of the process heap. It owns slabs, in one bin per class with a lock of
//! its own, which is taken once per batch.
//!
//! A bin fills the thread caches in front of it with batches of slots; the
//! [table of arenas](crate::arena_table) takes batches back. What other threads free
//! comes by an inbox per class, and is taken in when the slots at hand are used up.

use crate::bin::{LISTS, Refill};
use crate::hardened::Dice;
use crate::process_bin::{EMPTY_SLABS_MAX, Slabs, Spread, refill_pages};
use crate::remote_free::Inbox;
use crate::shared_pages::{SharedPages, prefetch_to_write};
use crate::size_class::GENERAL;
use crate::slab_stock::Made;
use crate::stats::Traffic;
use crate::sync::atomic::AtomicU64;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Lock, Rank};
use crate::units::PAGE_BYTES;
use core::mem::offset_of;

/// The number of classes, hence of bins.
pub(crate) const CLASSES: usize = GENERAL.count();

/// An arena of the process heap.
#[repr(C)]
pub(crate) struct ProcessArena {
    /// Bit c: class c has had a slab.
    used: AtomicU64,
    number: u16,
    /// By class, what other threads have freed. Apart from the bins, which those
    /// threads do not touch.
    pub(crate) inboxes: [Inbox; CLASSES],
    pub(crate) bins: [ProcessBin; CLASSES],
}

const _: () = assert!(CLASSES <= 64);
const _: () = assert!(
    Rank::Bin as u8 == 0,
    "locks of bins are made of zeroed memory"
);

/// An arena's slabs of one class.
pub(crate) struct ProcessBin {
    pub(crate) slabs: Lock<Slabs>,
}

/// Bytes of slots up to which a fill brings whole slabs in stock besides what it has found.
/// A trip for each slab would cost as much as ten objects, where slabs have a slot or two.
const NEW_BYTES_MAX: usize = 32 << 10;

/// What a fill has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Slots handed out.
    pub(crate) count: usize,
    /// How the live slots of the class are spread over its slabs.
    pub(crate) spread: Spread,
}

/// What an arena, or several, hold of a class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClassFigures {
    /// Slabs, among them those kept for reuse.
    pub(crate) slabs: u32,
    /// Their slots that are neither in use nor in a thread's cache nor on their way
    /// back from another thread.
    pub(crate) free: u32,
    /// Slabs on each of the bin's lists.
    pub(crate) by_occupancy: [u32; LISTS],
    /// Wholly free slabs that are kept for reuse.
    pub(crate) empty_slabs: u32,
    /// Slabs from which slots are handed out at present.
    pub(crate) current_slabs: u32,
    pub(crate) traffic: Traffic,
}

/// The slots that a fill has found so far.
struct Found<'a> {
    pages: &'a SharedPages,
    room: &'a mut [*mut u8],
    count: usize,
}

impl Found<'_> {
    /// How many there is room for.
    #[inline(always)]
    fn missing(&self) -> usize {
        self.room.len() - self.count
    }

    #[inline(always)]
    fn add(&mut self, address: usize) {
        let slot = self.pages.pointer(address);
        // Whoever allocates it will write there.
        prefetch_to_write(slot);
        self.room[self.count] = slot;
        self.count += 1;
    }
}

impl ClassFigures {
    /// Adds another's figures.
    pub(crate) fn add(&mut self, other: &ClassFigures) {
        self.slabs += other.slabs;
        self.free += other.free;
        for (sum, slabs) in self.by_occupancy.iter_mut().zip(other.by_occupancy) {
            *sum += slabs;
        }
        self.empty_slabs += other.empty_slabs;
        self.current_slabs += other.current_slabs;
        self.traffic.add(&other.traffic);
    }
}

impl ProcessArena {
    /// Makes an arena in zeroed memory.
    ///
    /// # Safety
    ///
    /// `place` is zeroed memory, as large as an arena and aligned like one, that
    /// nobody else uses; `number` is this arena's alone.
    pub(crate) unsafe fn initialise(place: *mut Self, number: u16) {
        // SAFETY: Zeros are empty inboxes, open locks and bins without slabs.
        unsafe { (&raw mut (*place).number).write(number) };
    }

    /// The arena's number.
    #[inline]
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Takes every lock before a fork.
    pub(crate) fn acquire_for_fork(&self) {
        for bin in &self.bins {
            bin.slabs.acquire_for_fork();
        }
    }

    /// Opens the locks again after a fork.
    ///
    /// # Safety
    ///
    /// As for [`Lock::release_after_fork`].
    pub(crate) unsafe fn release_after_fork(&self) {
        for bin in &self.bins {
            // SAFETY: The caller's promise.
            unsafe { bin.slabs.release_after_fork() };
        }
    }

    /// Whether other threads have freed slots that are not taken back yet.
    pub(crate) fn has_mail(&self) -> bool {
        self.used().any(|class| !self.inboxes[class].is_empty())
    }

    /// Classes for which that is so.
    pub(crate) fn mail_count(&self) -> u32 {
        self.used()
            .map(|class| u32::from(!self.inboxes[class].is_empty()))
            .sum()
    }

    /// The classes that have had a slab.
    fn used(&self) -> impl Iterator<Item = usize> {
        let mut used = self.used.load(Relaxed);
        core::iter::from_fn(move || {
            let class = used.trailing_zeros() as usize;
            (used != 0).then(|| {
                used &= used - 1;
                class
            })
        })
    }

    /// Fills `room` with slots of the class, from the fullest slabs first and in
    /// ascending order within one, or in random order where that is the mode. Fewer than
    /// asked for come where that saves a new slab, unless one is in stock, all of its slots
    /// are wanted and they are no more than [`NEW_BYTES_MAX`] with what was found; none where
    /// memory is exhausted.
    pub(crate) fn fill(&self, pages: &SharedPages, class: usize, room: &mut [*mut u8]) -> Filled {
        let shape = GENERAL.class(class);
        let base = pages.base_address();
        let records = pages.records();
        let inbox = &self.inboxes[class];
        let mut slabs = self.bins[class].slabs.lock();
        slabs.busy = true;
        let mut found = Found {
            pages,
            room,
            count: 0,
        };
        let slab_slots = usize::from(shape.slots);
        let with_new = found.room.len().min(NEW_BYTES_MAX / shape.size as usize);
        let mut dice = Dice::throw();
        loop {
            let bin = &mut slabs.bin;
            while found.missing() > 0 {
                let Some(address) = dice.take(bin) else { break };
                found.add(address);
            }
            if found.missing() == 0 {
                break;
            }
            // Not before, so that words come back with many slots each.
            if !inbox.is_empty() {
                slabs.drain(pages, shape, inbox);
            }
            // SAFETY: The bin's lock is held, and its slabs are nobody else's.
            match unsafe { slabs.bin.refill(records, shape, base) } {
                Refill::Ready => {}
                Refill::Punched(slab) => {
                    let (word, bits) = slabs.bin.word_at_hand();
                    refill_pages(pages, slab, shape, word, bits);
                }
                Refill::Exhausted if found.count > 0 && found.count + slab_slots > with_new => {
                    break;
                }
                Refill::Exhausted => {
                    if slabs.empty_count == 0 {
                        let slots = with_new.saturating_sub(found.count);
                        let count = (slots / slab_slots).max(1);
                        self.make_slabs(pages, class, count, found.count == 0, &mut slabs);
                    }
                    let Some(slab) = slabs.reuse_empty() else {
                        break;
                    };
                    if found.missing() < slab_slots {
                        // SAFETY: The slab is empty, of the class and this bin's.
                        unsafe { slabs.bin.adopt(records, shape, base, slab) };
                        continue;
                    }
                    // SAFETY: As above.
                    let start = unsafe { slabs.bin.adopt_whole(records, shape, base, slab) };
                    for slot in 0..slab_slots {
                        found.add(start + slot * shape.size as usize);
                    }
                }
            }
        }
        let count = found.count;
        slabs.traffic.fills += 1;
        slabs.traffic.filled_slots += count as u64;
        Filled {
            count,
            spread: slabs.spread(shape),
        }
    }

    /// Makes up to `count` slabs of the class for the bin, which has no empty one, to keep:
    /// no more than it may, and of what is in stock, so that no fresh memory is taken before
    /// it is needed. Only the first may be fresh, if that is said. None where memory is
    /// exhausted.
    fn make_slabs(
        &self,
        pages: &SharedPages,
        class: usize,
        count: usize,
        may_be_fresh: bool,
        slabs: &mut Slabs,
    ) {
        let shape = GENERAL.class(class);
        let mut made = [None; EMPTY_SLABS_MAX];
        pages.with_stock(|pages| {
            for (at, place) in made.iter_mut().take(count).enumerate() {
                let is_needed = at == 0 && may_be_fresh;
                if !is_needed && !pages.stock.has_for(class) {
                    break;
                }
                *place = pages.make_slab(class);
            }
        });
        // The first to be used is the last that is kept.
        for made in made.into_iter().rev().flatten() {
            let (Made::New(slab) | Made::Again(slab)) = made;
            // SAFETY: The slab is the caller's and of the class.
            if made == Made::New(slab) || unsafe { pages.owner(slab, shape) } != self.number {
                // SAFETY: As above, so nobody else knows of it.
                unsafe { pages.write_remote_words(slab, shape, self.number) };
            }
            slabs.keep_empty(pages, slab);
        }
        // A write takes the line from other threads, which free to the inboxes on it.
        if self.used.load(Relaxed) & (1 << class) == 0 {
            self.used.fetch_or(1 << class, Relaxed);
        }
    }

    /// Adds what each class that has had a slab holds to `figures`, and returns the
    /// bytes of the arena's own records that have memory behind them.
    pub(crate) fn count(&self, figures: &mut [ClassFigures; CLASSES]) -> usize {
        let mut pages = 1_u64;
        for class in self.used() {
            let slabs = self.bins[class].slabs.lock();
            let empty = u32::from(slabs.empty_count);
            let slots = u32::from(GENERAL.class(class).slots);
            figures[class].add(&ClassFigures {
                slabs: slabs.bin.slabs + empty,
                free: slabs.bin.free + slabs.bin.at_hand() + empty * slots,
                by_occupancy: core::array::from_fn(|list| slabs.bin.length(list)),
                empty_slabs: empty,
                current_slabs: u32::from(!slabs.bin.current().is_none()),
                traffic: slabs.traffic,
            });
            let start = offset_of!(Self, bins) + class * size_of::<ProcessBin>();
            pages |= 1 << (start / PAGE_BYTES);
            pages |= 1 << ((start + size_of::<ProcessBin>() - 1) / PAGE_BYTES);
        }
        pages.count_ones() as usize * PAGE_BYTES
    }

    /// Bytes of the arena's slots that are in use or in a thread's cache, but for bins
    /// that are at work just now.
    pub(crate) fn taken_bytes(&self) -> usize {
        self.used()
            .filter_map(|class| {
                let slabs = self.bins[class].slabs.try_lock()?;
                let shape = GENERAL.class(class);
                Some(slabs.bin.taken(shape) as usize * shape.size as usize)
            })
            .sum()
    }

    /// Takes back what other threads have freed. Classes that have handed nothing
    /// out since the last call also give up the slab that they allocate from, if
    /// it is empty, those kept for reuse, and dead pages of quiet slabs. Passes over
    /// bins whose lock is held. Returns whether anything was handed out meanwhile.
    pub(crate) fn settle(&self, pages: &SharedPages) -> bool {
        self.settle_bins(pages, true)
    }

    /// The same, but keeps dead pages: for a small heap, which nobody settles by the
    /// clock, so that what its program used at first does not stay for good.
    pub(crate) fn settle_whole_slabs(&self, pages: &SharedPages) {
        self.settle_bins(pages, false);
    }

    fn settle_bins(&self, pages: &SharedPages, punches: bool) -> bool {
        let mut busy = false;
        for class in self.used() {
            let bin = &self.bins[class];
            let Some(mut slabs) = bin.slabs.try_lock() else {
                busy = true;
                continue;
            };
            let shape = GENERAL.class(class);
            slabs.drain(pages, shape, &self.inboxes[class]);
            if core::mem::take(&mut slabs.busy) {
                busy = true;
                continue;
            }
            // SAFETY: The bin's lock is held, and its slabs are nobody else's.
            if let Some(slab) = unsafe { slabs.bin.retire_current(pages.records(), shape) } {
                slabs.keep_empty(pages, slab);
            }
            slabs.give_up_empty(pages);
            if punches {
                slabs.punch(pages, shape);
            }
        }
        busy
    }
}
