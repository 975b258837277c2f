//! The process heap's arenas. Each owns slabs, in one bin per class with a lock of
//! its own, which is taken once per batch.
//!
//! A bin fills the thread caches in front of it with batches of slots and takes
//! batches back. Slots of another arena's slabs among them go there as [remote
//! frees](crate::remote_free), so a thread that frees never waits for another
//! arena, nor writes where that is at work: neither its lists nor the records of
//! other slabs. (To put slots straight into foreign bins whose lock is open
//! costs up to a third more where two threads run at the same time, measured.)
//!
//! A few wholly free slabs stay with their bin, so that a program which allocates
//! and frees around the border of a slab does not go to the page heap each time;
//! [`ProcessArena::settle`] gives them up when the class is idle.

use crate::bin::{Bin, LISTS, OCCUPANCY_LISTS, Refill};
use crate::fatal::fatal;
use crate::metadata::Area;
use crate::punch::{self, Search};
use crate::remote_free::{Inbox, Outbox};
use crate::shared_pages::{SharedPages, remote_word_id};
use crate::size_class::{GENERAL, SizeClass};
use crate::slab::Slab;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::sync::{Guard, Lock, Rank};
use crate::units::{PAGE_BYTES, PageRun, SlabId};
use core::mem::{MaybeUninit, offset_of};
use core::ptr::NonNull;

/// The number of classes, hence of bins.
pub(crate) const CLASSES: usize = GENERAL.count();

/// Wholly free slabs that a bin keeps for reuse.
const EMPTY_SLABS_MAX: usize = 4;

/// Slots that are taken back at a time.
const BATCH_MAX: usize = 128;

/// Sparse slabs from which on a class counts as sparse: with fewer there is little
/// to win.
const SPARSE_SLABS_MIN: u32 = 16;
/// The least share of sparse slabs among all of the class: one in so many.
const SPARSE_SHARE: u32 = 8;

/// An arena of the process heap.
#[repr(C)]
pub(crate) struct ProcessArena {
    /// Bit c: class c has had a slab.
    used: AtomicU64,
    number: u16,
    /// By class, what other threads have freed. Apart from the bins, which those
    /// threads do not touch.
    inboxes: [Inbox; CLASSES],
    bins: [ProcessBin; CLASSES],
}

const _: () = assert!(CLASSES <= 64);
const _: () = assert!(
    Rank::Bin as u8 == 0,
    "locks of bins are made of zeroed memory"
);

/// An arena's slabs of one class.
struct ProcessBin {
    slabs: Lock<Slabs>,
}

/// What a bin's lock guards. Zeros are a bin without slabs.
struct Slabs {
    /// Slots were handed out since the bin last settled.
    busy: bool,
    empty_count: u8,
    empty: [SlabId; EMPTY_SLABS_MAX],
    bin: Bin,
}

/// What a fill has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filled {
    /// Slots handed out.
    pub(crate) count: usize,
    /// Freed slots of the class should go back to their slabs before they are used
    /// again, since many of the slabs are sparse and might empty.
    pub(crate) sparse: bool,
}

/// What taking slots back has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    /// As in [`Filled`]; `None` where no slot was the arena's own.
    pub(crate) sparse: Option<bool>,
    /// Some inbox has slots now, and had none before.
    pub(crate) mailed: bool,
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
}

impl ProcessArena {
    /// Makes an arena in zeroed memory.
    ///
    /// # Safety
    ///
    /// `place` is zeroed memory, as large as an arena and aligned like one, that
    /// nobody else uses; `number` is this arena's alone.
    unsafe fn initialise(place: *mut Self, number: u16) {
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
    /// ascending order within one. Fewer than asked for come where that saves a
    /// new slab, none where memory is exhausted.
    pub(crate) fn fill(&self, pages: &SharedPages, class: usize, room: &mut [*mut u8]) -> Filled {
        let shape = GENERAL.class(class);
        let base = pages.base_address();
        let inbox = &self.inboxes[class];
        let mut slabs = self.bins[class].slabs.lock();
        slabs.busy = true;
        let mut count = 0;
        loop {
            let bin = &mut slabs.bin;
            while count < room.len() {
                let Some(address) = bin.take() else { break };
                let slot = pages.pointer(address);
                // Whoever allocates it will write there.
                prefetch_to_write(slot);
                room[count] = slot;
                count += 1;
            }
            if count == room.len() {
                break;
            }
            // Not before, so that words come back with many slots each.
            if !inbox.is_empty() {
                slabs.drain(pages, shape, inbox);
            }
            // SAFETY: The bin's lock is held, and its slabs are nobody else's.
            match unsafe { slabs.bin.refill(pages.records(), shape, base) } {
                Refill::Ready => {}
                Refill::Punched(slab) => {
                    let (word, bits) = slabs.bin.word_at_hand();
                    refill_pages(pages, slab, shape, word, bits);
                }
                Refill::Exhausted if count > 0 => break,
                Refill::Exhausted => {
                    let kept = slabs.reuse_empty();
                    let Some(slab) = kept.or_else(|| self.new_slab(pages, class)) else {
                        break;
                    };
                    // SAFETY: The slab is empty, of the class and this bin's.
                    unsafe { slabs.bin.adopt(pages.records(), shape, base, slab) };
                }
            }
        }
        Filled {
            count,
            sparse: slabs.is_sparse(),
        }
    }

    /// Makes a slab of the class.
    fn new_slab(&self, pages: &SharedPages, class: usize) -> Option<SlabId> {
        let slab = pages.with(|pages| pages.source.make(class))?;
        // SAFETY: The slab is new and of the class.
        unsafe { pages.write_remote_words(slab, GENERAL.class(class), self.number) };
        self.used.fetch_or(1 << class, Relaxed);
        Some(slab)
    }

    /// Adds what each class that has had a slab holds to `figures`, and returns the
    /// bytes of the arena's own records that have memory behind them.
    pub(crate) fn count(&self, figures: &mut [ClassFigures; CLASSES]) -> usize {
        let mut pages = 1_u64;
        for class in self.used() {
            let slabs = self.bins[class].slabs.lock();
            let figures = &mut figures[class];
            let empty = u32::from(slabs.empty_count);
            let slots = u32::from(GENERAL.class(class).slots);
            figures.slabs += slabs.bin.slabs + empty;
            figures.free += slabs.bin.free + slabs.bin.at_hand() + empty * slots;
            for (list, count) in figures.by_occupancy.iter_mut().enumerate() {
                *count += slabs.bin.length(list);
            }
            let start = offset_of!(Self, bins) + class * size_of::<ProcessBin>();
            pages |= 1 << (start / PAGE_BYTES);
            pages |= 1 << ((start + size_of::<ProcessBin>() - 1) / PAGE_BYTES);
        }
        pages.count_ones() as usize * PAGE_BYTES
    }

    /// Bytes of the arena's slabs, but for bins that are at work just now.
    pub(crate) fn slab_bytes(&self) -> usize {
        self.used()
            .filter_map(|class| {
                let slabs = self.bins[class].slabs.try_lock()?;
                Some(slabs.bin.slabs as usize * GENERAL.class(class).slab_bytes())
            })
            .sum()
    }

    /// Takes back what other threads have freed. Classes that have handed nothing
    /// out since the last call also give up the slab that they allocate from, if
    /// it is empty, and those kept for reuse. Passes over bins whose lock is held.
    /// Returns whether anything was handed out meanwhile.
    pub(crate) fn settle(&self, pages: &SharedPages) -> bool {
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
            slabs.punch(pages, shape);
        }
        busy
    }
}

impl Slabs {
    fn drain(&mut self, pages: &SharedPages, shape: &SizeClass, inbox: &Inbox) {
        inbox.drain(pages, |id, word, slots| {
            let slab = SlabId(id - word.offset());
            // The 63 slots lie in two words of the free bitmap at most.
            let (first, shift) = (word.first_slot() >> 6, word.first_slot() & 63);
            let low = slots << shift;
            let high = if shift == 0 { 0 } else { slots >> (64 - shift) };
            if low != 0 {
                self.put(pages, slab, first, low);
            }
            if high != 0 {
                self.put(pages, slab, first + 1, high);
            }
            self.relist_if_due(pages, shape, slab);
        });
    }

    /// Marks a slot as free. Stops the process if it is already.
    #[inline(always)]
    fn put_slot(&mut self, pages: &SharedPages, slab: SlabId, slot: u32) {
        // SAFETY: The slab is alive and of the bin whose lock guards `self`.
        let mut slab = unsafe { pages.records().slab(slab) };
        if slab.is_free(slot) {
            double_free(slab);
        }
        slab.put_slot(slot);
        self.bin.free += 1;
    }

    /// Marks slots as free, given as bits of a word of the slab's bitmap. Stops
    /// the process if one is already.
    #[inline]
    fn put(&mut self, pages: &SharedPages, slab: SlabId, word: u32, bits: u64) {
        // SAFETY: The slab is alive and of the bin whose lock guards `self`.
        let mut slab = unsafe { pages.records().slab(slab) };
        if slab.word(word) & bits != 0 {
            double_free(slab);
        }
        slab.put(word, bits);
        self.bin.free += bits.count_ones();
    }

    /// Puts a slab that has got slots back on the list where it belongs now.
    #[inline]
    fn relist_if_due(&mut self, pages: &SharedPages, shape: &SizeClass, slab: SlabId) {
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

    fn reuse_empty(&mut self) -> Option<SlabId> {
        self.empty_count = self.empty_count.checked_sub(1)?;
        Some(self.empty[usize::from(self.empty_count)])
    }

    fn keep_empty(&mut self, pages: &SharedPages, slab: SlabId) {
        if usize::from(self.empty_count) == EMPTY_SLABS_MAX {
            self.give_up_empty(pages);
        }
        self.empty[usize::from(self.empty_count)] = slab;
        self.empty_count += 1;
    }

    fn give_up_empty(&mut self, pages: &SharedPages) {
        let count = usize::from(core::mem::take(&mut self.empty_count));
        if count > 0 {
            pages.with(|pages| {
                for slab in &self.empty[..count] {
                    // SAFETY: No slot of the slab is in use, and it is no bin's.
                    unsafe { pages.source.release(*slab) };
                }
            });
        }
    }

    /// Gives back dead pages inside sparse slabs that have been quiet since the last
    /// call.
    fn punch(&mut self, pages: &SharedPages, shape: &SizeClass) {
        // Slabs that one call looks at, which bounds how long the locks are held.
        let mut budget = 512;
        if punch::is_worthwhile(&self.bin, shape) {
            let records = pages.records();
            pages.with(|pages| {
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

    /// Whether freed slots should go back to their slabs at once.
    fn is_sparse(&self) -> bool {
        let lists = OCCUPANCY_LISTS / 2..OCCUPANCY_LISTS;
        let sparse: u32 = lists.map(|list| self.bin.length(list)).sum();
        sparse >= SPARSE_SLABS_MIN && sparse * SPARSE_SHARE >= self.bin.slabs
    }
}

#[cold]
fn double_free(slab: Slab) -> ! {
    fatal(
        "double free of an object on this page",
        slab.record().start.0 as usize,
    )
}

/// The slab of an object that is being freed. Stops the process where the object
/// is not of the class.
///
/// # Safety
///
/// The object is live, or was never handed out by this heap.
#[inline]
unsafe fn slab_of(pages: &SharedPages, class: usize, object: *mut u8) -> SlabId {
    // SAFETY: A live object keeps its slab alive.
    unsafe {
        if usize::from(pages.class_entry(object)) != class + 1 {
            fatal(
                "free of a pointer with another size than it was allocated with",
                object.addr(),
            );
        }
        pages.slab_of(object)
    }
}

/// Notes that the pages of these slots of a slab get memory again.
fn refill_pages(pages: &SharedPages, slab: SlabId, class: &SizeClass, word: u32, bits: u64) {
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
    pages.with(|pages| pages.source.pages.refill(run));
}

/// All arenas of the process, by number. They live as long as it does.
pub(crate) struct ArenaTable {
    area: Area,
    count: AtomicU32,
    count_max: u16,
}

// SAFETY: Arenas are made for sharing, and nothing else of the area is used.
unsafe impl Sync for ArenaTable {}

/// Bytes from one arena to the next: the pages that an arena does not use are
/// never touched.
const STRIDE: usize = size_of::<ProcessArena>().next_multiple_of(PAGE_BYTES);

impl ArenaTable {
    /// Makes room for `count_max` arenas; `None` where the process may not have
    /// the address space.
    pub(crate) fn new(count_max: u16) -> Option<Self> {
        let bytes = usize::from(count_max) * STRIDE;
        let mut area = Area::reserve(bytes, PAGE_BYTES, PAGE_BYTES)?;
        area.grow_to(bytes).then_some(Self {
            area,
            count: AtomicU32::new(0),
            count_max,
        })
    }

    /// The arena with this number, which exists.
    #[inline]
    pub(crate) fn arena(&self, number: u16) -> &ProcessArena {
        debug_assert!(u32::from(number) < self.count.load(Relaxed));
        // SAFETY: Arenas below the count were made, and stay where they are.
        unsafe { self.place(number).as_ref() }
    }

    fn place(&self, number: u16) -> NonNull<ProcessArena> {
        // SAFETY: The area has room for `count_max` arenas.
        unsafe { self.area.start().add(usize::from(number) * STRIDE).cast() }
    }

    /// Whether no arena was made yet.
    pub(crate) fn is_empty(&self) -> bool {
        // Acquire meets the Release of `add`.
        self.count.load(Acquire) == 0
    }

    /// The arenas made so far.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &ProcessArena> {
        // Acquire meets the Release of `add`.
        (0..self.count.load(Acquire) as u16).map(|number| self.arena(number))
    }

    /// Makes one more; `None` where there are `count_max` already.
    ///
    /// # Safety
    ///
    /// One thread at a time calls.
    pub(crate) unsafe fn add(&self) -> Option<&ProcessArena> {
        let number = self.count.load(Relaxed) as u16;
        if number == self.count_max {
            return None;
        }
        // SAFETY: The place is committed, zero and not used yet.
        unsafe { ProcessArena::initialise(self.place(number).as_ptr(), number) };
        // Release meets the Acquire of `iter`.
        self.count.store(u32::from(number) + 1, Release);
        Some(self.arena(number))
    }

    /// Takes back slots of the class, whichever arena owns them; most of them are
    /// likely to be `own`'s.
    ///
    /// # Safety
    ///
    /// The slots were handed out, are of the class, and the caller gives them away.
    pub(crate) unsafe fn release(
        &self,
        pages: &SharedPages,
        own: u16,
        class: usize,
        slots: &[*mut u8],
    ) -> Released {
        let mut released = Released::default();
        for batch in slots.chunks(BATCH_MAX) {
            // SAFETY: Passed on to the caller.
            let of_batch = unsafe { self.release_batch(pages, own, class, batch) };
            released.sparse = of_batch.sparse.or(released.sparse);
            released.mailed |= of_batch.mailed;
        }
        released
    }

    /// # Safety
    ///
    /// As for [`release`](Self::release); there are at most [`BATCH_MAX`] slots.
    unsafe fn release_batch(
        &self,
        pages: &SharedPages,
        own: u16,
        class: usize,
        slots: &[*mut u8],
    ) -> Released {
        let shape = GENERAL.class(class);
        let records = pages.records();
        let mut slabs = [const { MaybeUninit::<SlabId>::uninit() }; BATCH_MAX];
        for (place, &object) in slabs.iter_mut().zip(slots) {
            // SAFETY: The slot is not free yet.
            let slab = unsafe { slab_of(pages, class, object) };
            // The record may lie on two cache lines, and the first remote word, which
            // names the owner, on the second.
            prefetch_to_write(records.address(slab));
            prefetch_to_write(records.address(SlabId(remote_word_id(slab, shape, 0))));
            place.write(slab);
        }
        // SAFETY: So many were written.
        let slabs = unsafe { slabs[..slots.len()].assume_init_ref() };
        let mut own_bin = None;
        let mut outbox = None;
        let mut at = 0;
        while at < slots.len() {
            let slab = slabs[at];
            // SAFETY: The slab is alive, since the slot is not free yet.
            let (slot, owner) = unsafe {
                (
                    pages.slot_of(slots[at], slab, shape),
                    pages.owner(slab, shape),
                )
            };
            at += 1;
            if owner != own {
                let (word, mask) = pages.remote_word(slab, shape, slot);
                outbox
                    .get_or_insert_with(|| {
                        Outbox::new(pages, |owner| &self.arena(owner).inboxes[class])
                    })
                    .add(owner, word, mask);
                continue;
            }
            let bin: &mut Guard<'_, Slabs> =
                own_bin.get_or_insert_with(|| self.arena(own).bins[class].slabs.lock());
            bin.put_slot(pages, slab, slot);
            // What was freed together often lies together.
            while at < slots.len() && slabs[at] == slab {
                // SAFETY: As above.
                bin.put_slot(pages, slab, unsafe {
                    pages.slot_of(slots[at], slab, shape)
                });
                at += 1;
            }
            bin.relist_if_due(pages, shape, slab);
        }
        Released {
            sparse: own_bin.map(|bin| bin.is_sparse()),
            mailed: outbox.is_some_and(Outbox::send),
        }
    }
}

/// Asks for the cache line at the address, which need not be valid, in order to
/// write there: the line may be another processor's.
#[inline(always)]
fn prefetch_to_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: A prefetch of any address is harmless. Processors without this one do
    // nothing (the compiler's own function would ask them for the line to read).
    unsafe {
        core::arch::asm!(
            "prefetchw [{}]",
            in(reg) address,
            options(nostack, preserves_flags, readonly),
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::large;
    use crate::os::fake::{Faults, inject};
    use crate::page_heap::PageHeapOptions;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const ARENAS: u16 = 3;

    /// A heap of its own with three arenas, and the objects that are live in it.
    struct Subject {
        pages: SharedPages,
        arenas: ArenaTable,
        /// By address: the class, and the mark that the object holds.
        live: BTreeMap<usize, (usize, u8)>,
        large: Vec<(*mut u8, usize)>,
        marks: u8,
    }

    impl Subject {
        fn new() -> Self {
            let options = PageHeapOptions {
                region_bytes: 64 << 20,
                region_bytes_min: 64 << 20,
                decay_ms: 0,
            };
            let arenas = ArenaTable::new(ARENAS).unwrap();
            for _ in 0..ARENAS {
                // SAFETY: No other thread knows of the table.
                unsafe { arenas.add() }.unwrap();
            }
            // SAFETY: As above.
            let one_more = unsafe { arenas.add() };
            assert!(one_more.is_none(), "there is no room for more");
            Self {
                pages: SharedPages::new(&options).unwrap(),
                arenas,
                live: BTreeMap::new(),
                large: Vec::new(),
                marks: 0,
            }
        }

        fn ends(&self, address: usize, class: usize) -> [*mut u8; 2] {
            let last = GENERAL.class(class).size as usize - 1;
            [
                self.pages.pointer(address),
                self.pages.pointer(address + last),
            ]
        }

        fn fill(&mut self, arena: u16, class: usize, count: usize, faults: Faults) {
            let mut room = vec![core::ptr::null_mut(); count];
            let arena = self.arenas.arena(arena);
            let filled = inject(faults, || arena.fill(&self.pages, class, &mut room));
            assert!(filled.count <= count);
            assert!(filled.count > 0 || faults.commit, "there is memory");
            for object in &room[..filled.count] {
                let size = GENERAL.class(class).size as usize;
                let address = object.addr();
                assert!(address.is_multiple_of(if size > 8 { 16 } else { 8 }));
                let before = self.live.range(..address + size).next_back();
                assert!(before.is_none_or(|(before, (class, _))| {
                    before + GENERAL.class(*class).size as usize <= address
                }));
                self.marks = self.marks.wrapping_add(1);
                for end in self.ends(address, class) {
                    // SAFETY: The object was handed out to this test.
                    unsafe { end.write(self.marks) };
                }
                self.live.insert(address, (class, self.marks));
            }
        }

        /// Takes up to `count` live objects of the class out of the model.
        fn choose(&mut self, class: usize, count: usize, stride: usize) -> Vec<*mut u8> {
            let chosen: Vec<usize> = self
                .live
                .iter()
                .filter(|(_, (of, _))| *of == class)
                .map(|(address, _)| *address)
                .step_by(stride)
                .take(count)
                .collect();
            chosen
                .into_iter()
                .map(|address| {
                    let (class, mark) = self.live.remove(&address).unwrap();
                    for end in self.ends(address, class) {
                        // SAFETY: The object is live.
                        assert_eq!(unsafe { end.read() }, mark);
                    }
                    self.pages.pointer(address)
                })
                .collect()
        }

        /// Frees through an arena, while the bin of `blocked` is locked, for which
        /// it must not wait.
        fn release(&mut self, arena: u16, class: usize, slots: &[*mut u8], blocked: Option<u16>) {
            let blocked = blocked.filter(|blocked| *blocked != arena);
            let lock = |number| &self.arenas.arena(number).bins[class].slabs;
            if let Some(number) = blocked {
                lock(number).acquire_for_fork();
            }
            // SAFETY: The objects were live and are the test's no longer.
            unsafe { self.arenas.release(&self.pages, arena, class, slots) };
            if let Some(number) = blocked {
                // SAFETY: Taken above.
                unsafe { lock(number).release_after_fork() };
            }
        }

        fn check(&self) {
            for arena in self.arenas.iter() {
                for (class, bin) in arena.bins.iter().enumerate() {
                    let slabs = bin.slabs.lock();
                    // SAFETY: The lock is held.
                    unsafe {
                        slabs
                            .bin
                            .check(self.pages.records(), GENERAL.class(class), 0)
                    };
                }
            }
            self.pages.with(|pages| {
                pages.source.pages.check();
                pages.source.records.check();
                large::check(&pages.source.pages, &pages.large);
            });
            let mut figures = [ClassFigures::default(); CLASSES];
            self.arenas.iter().for_each(|arena| {
                arena.count(&mut figures);
            });
            let in_inboxes = self.arenas.iter().any(ProcessArena::has_mail);
            for (class, held) in figures.iter().enumerate() {
                let out = held.slabs * u32::from(GENERAL.class(class).slots) - held.free;
                let live = self.live.values().filter(|(of, _)| *of == class).count();
                assert!(out as usize == live || in_inboxes && out as usize > live);
            }
        }

        fn settle(&self) {
            // Once to see that nothing happens any more, once to act on it.
            for _ in 0..2 {
                self.arenas.iter().for_each(|arena| {
                    arena.settle(&self.pages);
                });
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Fill {
            arena: u16,
            class: usize,
            count: usize,
        },
        Release {
            arena: u16,
            class: usize,
            count: usize,
            stride: usize,
            blocked: Option<u16>,
        },
        Settle {
            arena: u16,
        },
        Purge,
        AllocateLarge {
            size: usize,
        },
        ResizeLarge {
            pick: usize,
            size: usize,
        },
        FreeLarge {
            pick: usize,
        },
    }

    fn op() -> impl Strategy<Value = Op> {
        let arena = 0..ARENAS;
        // Many slots per slab, two words of them, few, one, several pages per slab.
        let class = prop::sample::select(
            [8, 16, 64, 112, 256, 640, 2048, 3072, 4096, 14336]
                .map(|size| GENERAL.class_of(size))
                .to_vec(),
        );
        let size = prop_oneof![16_385_usize..200_000, 1_usize << 20..5 << 20];
        prop_oneof![
            8 => (arena.clone(), class.clone(), 1_usize..65)
                .prop_map(|(arena, class, count)| Op::Fill { arena, class, count }),
            8 => (arena.clone(), class, 1_usize..200, 1_usize..4, prop::option::of(arena.clone()))
                .prop_map(|(arena, class, count, stride, blocked)| {
                    Op::Release { arena, class, count, stride, blocked }
                }),
            2 => arena.prop_map(|arena| Op::Settle { arena }),
            1 => Just(Op::Purge),
            1 => size.clone().prop_map(|size| Op::AllocateLarge { size }),
            1 => (any::<usize>(), size).prop_map(|(pick, size)| Op::ResizeLarge { pick, size }),
            1 => any::<usize>().prop_map(|pick| Op::FreeLarge { pick }),
        ]
    }

    fn faults() -> impl Strategy<Value = Faults> {
        prop_oneof![
            5 => Just(Faults::default()),
            1 => any::<(bool, bool, bool)>().prop_map(|(commit, purge, move_pages)| Faults {
                commit,
                purge,
                move_pages,
                ..Faults::default()
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 96,
            failure_persistence: None,
            ..<_>::default()
        })]

        /// No two objects overlap, whichever arena hands them out, and whoever
        /// frees them; the books of all arenas and of the pages agree; and in the
        /// end nothing is left.
        #[test]
        fn arenas_agree_with_a_model(ops in prop::collection::vec((op(), faults()), 1..120)) {
            let mut subject = Subject::new();
            for (op, faults) in ops {
                match op {
                    Op::Fill { arena, class, count } => subject.fill(arena, class, count, faults),
                    Op::Release { arena, class, count, stride, blocked } => {
                        let slots = subject.choose(class, count, stride);
                        subject.release(arena, class, &slots, blocked);
                    }
                    Op::Settle { arena } => {
                        let arena = subject.arenas.arena(arena);
                        inject(faults, || arena.settle(&subject.pages));
                        prop_assert!(!arena.has_mail());
                    }
                    Op::Purge => inject(faults, || subject.pages.with(|pages| {
                        pages.source.pages.purge(u32::MAX);
                        pages.source.records.purge();
                    })),
                    Op::AllocateLarge { size } => {
                        let (object, zero) =
                            inject(faults, || subject.pages.allocate_large(size, 1));
                        if !object.is_null() {
                            // SAFETY: The object was handed out to this test.
                            unsafe {
                                let bytes = core::slice::from_raw_parts(object, size);
                                prop_assert!(!zero || bytes.iter().all(|byte| *byte == 0));
                                object.write_bytes(7, size);
                            }
                            subject.large.push((object, size));
                        }
                    }
                    Op::ResizeLarge { pick, size } if !subject.large.is_empty() => {
                        let at = pick % subject.large.len();
                        let (object, old) = subject.large[at];
                        let moved = inject(faults, || subject.pages.resize_large(object, size));
                        if !moved.is_null() {
                            // SAFETY: The object is live and has this size.
                            unsafe {
                                let bytes = core::slice::from_raw_parts(moved, old.min(size));
                                prop_assert!(bytes.iter().all(|byte| *byte == 7));
                                moved.write_bytes(7, size);
                                prop_assert!(subject.pages.large_bytes(moved) >= size);
                            }
                            subject.large[at] = (moved, size);
                        }
                    }
                    Op::FreeLarge { pick } if !subject.large.is_empty() => {
                        let (object, _) = subject.large.swap_remove(pick % subject.large.len());
                        subject.pages.free_large(object);
                    }
                    Op::ResizeLarge { .. } | Op::FreeLarge { .. } => {}
                }
                subject.check();
            }
            for class in 0..CLASSES {
                let slots = subject.choose(class, usize::MAX, 1);
                subject.release(0, class, &slots, Some(1));
            }
            for (object, _) in core::mem::take(&mut subject.large) {
                subject.pages.free_large(object);
            }
            subject.settle();
            subject.check();
            subject.pages.with(|pages| {
                prop_assert_eq!(pages.source.pages.counts().used, 0);
                pages.source.pages.purge(u32::MAX);
                pages.source.records.purge();
                prop_assert_eq!(pages.source.pages.counts().resident(), 0);
                prop_assert_eq!(pages.source.records.resident_bytes(), 0);
                Ok(())
            })?;
        }
    }

    #[test]
    fn a_class_is_sparse_when_many_of_its_slabs_are() {
        let mut subject = Subject::new();
        let class = GENERAL.class_of(256);
        for _ in 0..64 {
            subject.fill(0, class, 16, Faults::default());
        }
        // Three of four freed: sixteen slots in each of 64 slabs.
        for _ in 0..3 {
            let slots = subject.choose(class, 256, 4);
            subject.release(0, class, &slots, None);
        }
        let arena = subject.arenas.arena(0);
        assert!(arena.bins[class].slabs.lock().is_sparse());
        let rest = subject.choose(class, usize::MAX, 1);
        subject.release(0, class, &rest, None);
        assert!(!subject.arenas.arena(0).bins[class].slabs.lock().is_sparse());
    }
}
