//! `LocalArena`: an allocator for one owner at a time, in a region of its own.
//!
//! No atomics, no locks, no thread cache. Whoever shares an arena puts it
//! under a lock of its own; a keyspace gives one to each shard.
//!
//! - Small objects lie in slabs. The size passed to [`LocalArena::free`] names
//!   the class, the page map names the slab, and the slab's bitmap does the
//!   rest: the object itself is not touched.
//! - Larger ones are page runs of exactly their length.
//! - Sparse slabs can be *evacuated*: the arena chooses a victim and the slots
//!   to move into, and the owner of the objects moves them and patches its
//!   references.
//! - Free pages go back to the system as they age, when the owner calls
//!   [`LocalArena::purge_due`]; the arena has no thread and no clock.
//!
//! ```
//! use slab_allocator::{ArenaOptions, LocalArena};
//!
//! let mut arena = LocalArena::new(&ArenaOptions::default()).expect("address space");
//! let object = arena.allocate(100).expect("memory");
//! let reference = arena.reference_of(object); // a u32, never 0
//! assert_eq!(arena.object_at(reference), object);
//! // SAFETY: the object was allocated with this size and is not used again.
//! unsafe { arena.free(object, 100) };
//! ```

use crate::bin::{Bin, LISTS, OCCUPANCY_LISTS, Refill};
use crate::fatal::{DOUBLE_FREE, fatal, misuse};
#[cfg(any(debug_assertions, feature = "hardened"))]
use crate::fatal::{INTERIOR, NOT_ALLOCATED, WRONG_SIZE};
use crate::hand::{HAND_MAX, Hand};
use crate::large::{self, LargeCounts};
use crate::metadata::Table;
use crate::options::ArenaOptions;
use crate::page_heap::{PageHeap, PageHeapOptions};
use crate::page_map::{FIRST_CLASS, GUESTS, LARGE_HEAD, SPARSE, class_of_entry, slab_of_entry};
use crate::size_class::{ClassTable, SizeClass};
use crate::slab::{Records, Slab, SlabSource};
use crate::units::{CHUNK_BYTES, PAGE_BYTES, PageIndex, PageRun, SlabId, pages_for};
use core::ptr::{self, NonNull};

/// Largest region: references count units of 8 bytes in 32 bits.
const REGION_BYTES_MAX: usize = 32 << 30;
/// Smallest region that is tried where the system refuses more.
const REGION_BYTES_MIN: usize = 64 << 20;

/// Small objects whose slots are yet to be marked as free, by reference.
///
/// To mark a slot takes two loads that depend on each other, of the page map
/// and of the slab's record, neither of which is in the processor's nearest
/// cache where the heap is large. A batch does these loads for all of its
/// objects side by side.
#[derive(Debug)]
pub(crate) struct Pending {
    references: [u32; PENDING_MAX],
    classes: [u8; PENDING_MAX],
    pub(crate) len: u32,
}

const PENDING_MAX: usize = 32;
/// Larger objects do not stay pending.
const PENDING_BYTES_MAX: usize = 1024;

/// An allocator without locks, for one owner at a time.
///
/// Every object lies `8 * r` bytes behind [`LocalArena::base`] for some
/// `0 < r <= u32::MAX`, so a `u32` refers to it and 0 refers to none.
///
/// Out of memory, be it for lack of address space, of the region or by the
/// system's refusal, is `None`; the arena stays as it was and usable.
#[derive(Debug)]
pub struct LocalArena {
    /// Copies of what never changes, for the fast paths.
    pub(crate) base: NonNull<u8>,
    pub(crate) hands: NonNull<Hand>,
    pub(crate) bins: NonNull<Bin>,
    pub(crate) slab_entries: *const u32,
    pub(crate) records: Records,
    pub(crate) table: &'static ClassTable,
    /// Bytes of slots in use.
    pub(crate) live_bytes: usize,
    /// Of these, by what the slots of guests are larger than their classes.
    pub(crate) guest_bytes: usize,
    /// Small objects that were freed but are still marked as live.
    pub(crate) pending: Pending,
    /// From this class on, objects do not stay pending.
    pub(crate) flush_from: usize,
    /// Pages of slabs.
    pub(crate) slab_pages: u32,
    pub(crate) large: LargeCounts,
    pub(crate) source: SlabSource,
    pub(crate) hand_table: Table<Hand>,
    pub(crate) bin_table: Table<Bin>,
    /// When the next search for dead pages is due, and how long they may stay;
    /// `None` where pages are not punched.
    pub(crate) punch_due_ms: u64,
    pub(crate) punch_after_ms: Option<u32>,
    /// The last attempt to empty a chunk has failed.
    pub(crate) lowering_failed: bool,
    /// Bit c: class c has had a slab, so its bin has memory behind it.
    pub(crate) classes_used: [u64; 3],
}

// SAFETY: the arena owns its region, its records and all that points into them.
unsafe impl Send for LocalArena {}

/// Asks for a cache line that is going to be written.
#[inline(always)]
fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch changes nothing and faults nowhere.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_ET0 }>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

impl Pending {
    /// The objects.
    pub(crate) fn references(&self) -> &[u32] {
        &self.references[..self.len as usize]
    }

    /// Classes of the objects.
    pub(crate) fn classes(&self) -> impl Iterator<Item = usize> {
        let classes = &self.classes[..self.len as usize];
        classes.iter().map(|class| *class as usize)
    }
}

impl LocalArena {
    /// Makes an arena. It takes address space, and memory only as it is used.
    /// `None` where the process may not have the address space.
    pub fn new(options: &ArenaOptions) -> Option<LocalArena> {
        let table = options.classes.table();
        let region_bytes = options
            .region_bytes
            .clamp(2 * CHUNK_BYTES, REGION_BYTES_MAX)
            .next_multiple_of(CHUNK_BYTES);
        let pages = PageHeap::new(&PageHeapOptions {
            region_bytes,
            region_bytes_min: region_bytes.min(REGION_BYTES_MIN),
            decay_ms: options.decay_ms,
        })?;
        let source = SlabSource::new(pages, table, |_| 0)?;
        let hand_table = Table::<Hand>::with_len(table.count())?;
        let bin_table = Table::<Bin>::with_len(table.count())?;
        Some(LocalArena {
            base: source.pages.base(),
            hands: hand_table.start(),
            bins: bin_table.start(),
            slab_entries: source.pages.map().slab_entries(),
            records: source.records(),
            table,
            live_bytes: 0,
            guest_bytes: 0,
            pending: Pending {
                references: [0; PENDING_MAX],
                classes: [0; PENDING_MAX],
                len: 0,
            },
            flush_from: table.class_of(PENDING_BYTES_MAX + 1),
            slab_pages: 0,
            large: LargeCounts::default(),
            source,
            hand_table,
            bin_table,
            punch_due_ms: 0,
            punch_after_ms: options.punch.then_some(options.decay_ms),
            lowering_failed: false,
            classes_used: [0; 3],
        })
    }

    /// The address from which references to objects count.
    #[inline(always)]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// An object's reference: its distance from [`LocalArena::base`] in units
    /// of 8 bytes; never 0.
    #[inline(always)]
    pub fn reference_of(&self, object: NonNull<u8>) -> u32 {
        (self.offset_of(object) >> 3) as u32
    }

    /// The object with this reference.
    #[inline(always)]
    pub fn object_at(&self, reference: u32) -> NonNull<u8> {
        debug_assert!((reference as usize) << 3 < self.source.pages.region_bytes());
        // SAFETY: references of objects lie in the region. For any other
        // number the pointer is of no use, and computing it does no harm.
        unsafe {
            NonNull::new_unchecked(self.base.as_ptr().wrapping_add((reference as usize) << 3))
        }
    }

    #[inline(always)]
    fn offset_of(&self, object: NonNull<u8>) -> usize {
        object
            .as_ptr()
            .addr()
            .wrapping_sub(self.base.as_ptr().addr())
    }

    /// The largest request that is served from slabs, in bytes.
    #[inline]
    pub fn small_max(&self) -> usize {
        self.table.small_max()
    }

    /// Bytes that an object allocated with `size` may use. All sizes with the
    /// same usable size are interchangeable in [`LocalArena::free`].
    #[inline]
    pub fn usable_size_for(&self, size: usize) -> usize {
        if size <= self.table.small_max() {
            self.table.class(self.table.class_of(size)).size as usize
        } else {
            pages_for(size).saturating_mul(PAGE_BYTES)
        }
    }

    /// Bytes that the object may use.
    ///
    /// # Safety
    /// The object is live and of this arena.
    pub unsafe fn usable_size(&self, object: NonNull<u8>) -> usize {
        let page = PageIndex::of_offset(self.offset_of(object));
        match self.source.pages.map().class_entry(page) {
            LARGE_HEAD => self.source.pages.map().slab_entry(page) as usize * PAGE_BYTES,
            entry => {
                debug_assert!(class_of_entry(entry).is_some());
                self.table.class(usize::from(entry - FIRST_CLASS)).size as usize
            }
        }
    }

    /// Allocates `size` bytes, aligned to 8, and to every power of two up to
    /// the page that divides the usable size. The contents are undefined.
    #[inline]
    pub fn allocate(&mut self, size: usize) -> Option<NonNull<u8>> {
        if size > self.table.small_max() {
            return self.allocate_large(size, 1);
        }
        self.allocate_small(self.table.class_of(size))
    }

    /// Allocates `size` bytes at a multiple of `align`, a power of two. To be
    /// freed by [`LocalArena::free_aligned`] or [`LocalArena::free_unsized`].
    pub fn allocate_aligned(&mut self, size: usize, align: usize) -> Option<NonNull<u8>> {
        match self.table.class_of_aligned(size, align) {
            Some(class) => self.allocate_small(class),
            None => self.allocate_large(size, align),
        }
    }

    #[inline(always)]
    fn allocate_small(&mut self, class: usize) -> Option<NonNull<u8>> {
        let hand = self.hand(class);
        match hand.pop() {
            Some(reference) => {
                self.live_bytes += hand.slot_bytes();
                Some(self.object_at(reference))
            }
            None => self.allocate_slow(class),
        }
    }

    /// The slots at hand of a class, unbound from the arena's borrow: callers
    /// use no other reference to them at the same time.
    #[inline(always)]
    pub(crate) fn hand<'a>(&mut self, class: usize) -> &'a mut Hand {
        debug_assert!(class < self.table.count());
        // SAFETY: there is a hand for every class; the arena is borrowed
        // exclusively, and no caller keeps two references.
        unsafe { self.hands.add(class).as_mut() }
    }

    /// The bin of a class; as [`LocalArena::hand`].
    #[inline(always)]
    pub(crate) fn bin<'a>(&mut self, class: usize) -> &'a mut Bin {
        debug_assert!(class < self.table.count());
        // SAFETY: as `hand`.
        unsafe { self.bins.add(class).as_mut() }
    }

    #[cold]
    #[inline(never)]
    fn allocate_slow(&mut self, class: usize) -> Option<NonNull<u8>> {
        let shape = self.table.class(class);
        let mut slots = [0; HAND_MAX];
        let mut len = 0;
        let wanted = match self.hand(class).refill_len() {
            0 => {
                self.hand(class).open(shape);
                self.hand(class).refill_len()
            }
            wanted => wanted,
        };
        while len < wanted {
            // Offsets from the region's start: the base that was passed is 0.
            if let Some(offset) = self.bin(class).take() {
                slots[len] = (offset >> 3) as u32;
                len += 1;
            } else if !self.refill_bin(class, len == 0) {
                break;
            }
        }
        if len == 0 {
            return None;
        }
        // The caller is about to write to the objects.
        for slot in &slots[..len] {
            prefetch(self.object_at(*slot).as_ptr());
        }
        let hand = self.hand(class);
        hand.fill(&slots[1..len]);
        self.live_bytes += hand.slot_bytes();
        Some(self.object_at(slots[0]))
    }

    /// Gets slots from the slabs of a class to its bin, which has none left;
    /// from a new slab only if they are `needed`. False where there are none.
    fn refill_bin(&mut self, class: usize, needed: bool) -> bool {
        let shape = self.table.class(class);
        loop {
            let bin = self.bin(class);
            // SAFETY: the arena is borrowed exclusively, and with it all records.
            match unsafe { bin.refill(self.records, shape, 0) } {
                Refill::Ready => return true,
                Refill::Punched(slab) => {
                    let (word, bits) = bin.word_at_hand();
                    self.refill_pages(slab, shape, word, bits);
                    return true;
                }
                Refill::Exhausted if !needed => return false,
                Refill::Exhausted if self.pending.len > 0 => self.flush(),
                Refill::Exhausted => {
                    let Some(slab) = self.source.make(class) else {
                        return false;
                    };
                    self.slab_pages += u32::from(shape.pages);
                    self.classes_used[class >> 6] |= 1 << (class & 63);
                    // SAFETY: the slab is new; otherwise as above.
                    unsafe { bin.adopt(self.records, shape, 0, slab) };
                    return true;
                }
            }
        }
    }

    /// Notes that the pages of these slots get memory again.
    pub(crate) fn refill_pages(&mut self, slab: SlabId, shape: &SizeClass, word: u32, bits: u64) {
        // SAFETY: the slab is live and the arena is borrowed exclusively.
        let mut slab = unsafe { self.records.slab(slab) };
        let first = word * 64 + bits.trailing_zeros();
        let last = word * 64 + 63 - bits.leading_zeros();
        let (first, last) = shape.pages_of_slots(first, last);
        let start = slab.record().start;
        slab.record_mut().punched &= !(((2u32 << (last - first)) - 1) << first) as u16;
        self.source.pages.refill(PageRun {
            start: start.plus(first),
            pages: last - first + 1,
        });
    }

    #[cold]
    #[inline(never)]
    fn allocate_large(&mut self, size: usize, align: usize) -> Option<NonNull<u8>> {
        let run = large::allocate(&mut self.source.pages, &mut self.large, size, align)?;
        Some(self.source.pages.address(run.start))
    }

    /// Frees an object.
    ///
    /// # Safety
    /// The object was allocated by this arena, is not used any more, and
    /// `size` has the same usable size as the size it was allocated with.
    #[inline]
    pub unsafe fn free(&mut self, object: NonNull<u8>, size: usize) {
        if size > self.table.small_max() {
            // SAFETY: passed on to the caller.
            return unsafe { self.free_large(object) };
        }
        let class = self.table.class_of(size);
        // SAFETY: passed on to the caller.
        unsafe { self.free_small(object, class) };
    }

    /// Frees an object allocated by [`LocalArena::allocate_aligned`].
    ///
    /// # Safety
    /// The object was allocated by this arena with this size and alignment,
    /// and is not used any more.
    pub unsafe fn free_aligned(&mut self, object: NonNull<u8>, size: usize, align: usize) {
        match self.table.class_of_aligned(size, align) {
            // SAFETY: passed on to the caller.
            Some(class) => unsafe { self.free_small(object, class) },
            // SAFETY: passed on to the caller.
            None => unsafe { self.free_large(object) },
        }
    }

    /// Frees an object whose size its owner does not know.
    ///
    /// # Safety
    /// The object was allocated by this arena and is not used any more. It was
    /// not moved out of a victim of [`LocalArena::next_merge`]: what is held for
    /// such a guest follows from its size.
    pub unsafe fn free_unsized(&mut self, object: NonNull<u8>) {
        let page = PageIndex::of_offset(self.offset_of(object));
        match self.source.pages.map().class_entry(page) {
            // SAFETY: passed on to the caller.
            LARGE_HEAD => unsafe { self.free_large(object) },
            entry => match class_of_entry(entry) {
                // SAFETY: passed on to the caller.
                Some(class) => unsafe { self.free_small(object, class) },
                None => fatal("free of what is not an object", object.as_ptr().addr()),
            },
        }
    }

    /// # Safety
    /// The object is live, of this arena and of this class.
    #[inline(always)]
    unsafe fn free_small(&mut self, object: NonNull<u8>, class: usize) {
        #[cfg(any(debug_assertions, feature = "hardened"))]
        self.verify_live(object, class);
        let reference = self.reference_of(object);
        let entry = self.slab_entry_of(reference);
        let class = if entry & GUESTS == 0 {
            class
        } else {
            self.guest_leaves(reference, class)
        };
        // An object of the class was allocated, so the hand knows the size.
        self.live_bytes -= self.hand(class).slot_bytes();
        if entry & SPARSE != 0 || !self.hand(class).push(reference) {
            self.postpone(class, reference);
        }
    }

    /// The class of the slot of an object that may be a guest and is about to be
    /// freed. `home` is the class of the size that its owner names.
    #[cold]
    fn guest_leaves(&mut self, reference: u32, home: usize) -> usize {
        let page = PageIndex::of_offset((reference as usize) << 3);
        let class = usize::from(self.source.pages.map().class_entry(page) - FIRST_CLASS);
        self.guest_bytes -= self.table.guest_bytes(home, class);
        class
    }

    /// Adds an object to the pending ones.
    #[inline]
    fn postpone(&mut self, class: usize, reference: u32) {
        let place = self.pending.len as usize & (PENDING_MAX - 1);
        self.pending.references[place] = reference;
        self.pending.classes[place] = class as u8;
        self.pending.len += 1;
        if self.pending.len as usize == PENDING_MAX || class >= self.flush_from {
            self.flush();
        }
    }

    /// Stops the process unless an object of the class lives there that is not freed yet.
    #[cfg(any(debug_assertions, feature = "hardened"))]
    fn verify_live(&mut self, object: NonNull<u8>, class: usize) {
        let offset = self.offset_of(object);
        let page = PageIndex::of_offset(offset);
        let found = (offset < self.source.pages.region_bytes())
            .then(|| self.source.pages.map().class_entry(page))
            .and_then(class_of_entry);
        let address = object.addr().get();
        let Some(found) = found else {
            misuse(NOT_ALLOCATED, address, self.table.class(class).size);
        };
        let shape = self.table.class(found);
        let reference = self.reference_of(object);
        let is_guest = found > class && self.slab_entry_of(reference) & GUESTS != 0;
        if found != class && !is_guest {
            misuse(WRONG_SIZE, address, shape.size);
        }
        let id = self.slab_of(reference);
        // SAFETY: the map says that a live slab owns the page.
        let slab = unsafe { self.records.slab(id) };
        let in_slab = (offset - slab.byte_offset()) as u32;
        let slot = shape.slot_of(in_slab);
        if slot * shape.size != in_slab || slot >= u32::from(shape.slots) {
            misuse(INTERIOR, address, shape.size);
        }
        let free = slab.is_free(slot)
            || self.bin(found).has_at_hand(id, slot >> 6, 1 << (slot & 63))
            || self.pending.references().contains(&reference)
            || self.hand(found).slots().contains(&reference);
        if free {
            misuse(DOUBLE_FREE, address, shape.size);
        }
    }

    /// Marks the slots of all pending objects as free.
    #[cold]
    #[inline(never)]
    pub(crate) fn flush(&mut self) {
        let len = core::mem::take(&mut self.pending.len) as usize;
        let mut slabs = [SlabId::NONE; PENDING_MAX];
        for (slab, reference) in slabs.iter_mut().zip(&self.pending.references[..len]) {
            *slab = self.slab_of(*reference);
        }
        for slab in &slabs[..len] {
            prefetch(self.records.address(*slab));
        }
        for (place, slab) in slabs[..len].iter().enumerate() {
            let reference = self.pending.references[place];
            self.put_slot(self.pending.classes[place] as usize, *slab, reference);
        }
    }

    /// The page map's entry for a small object.
    #[inline(always)]
    fn slab_entry_of(&self, reference: u32) -> u32 {
        let page = PageIndex::of_offset((reference as usize) << 3);
        // SAFETY: references are those of slots, whose pages were handed out,
        // so the map has grown over them.
        unsafe { *self.slab_entries.add(page.0 as usize) }
    }

    /// The slab that holds the slot with this reference.
    #[inline(always)]
    pub(crate) fn slab_of(&self, reference: u32) -> SlabId {
        slab_of_entry(self.slab_entry_of(reference))
    }

    /// Marks the slot with this reference as free, which is marked as taken.
    #[inline(always)]
    fn put_slot(&mut self, class: usize, id: SlabId, reference: u32) {
        let shape = self.table.class(class);
        // SAFETY: the slab is live, since one of its slots is marked as taken,
        // and the arena is borrowed exclusively.
        let mut slab = unsafe { self.records.slab(id) };
        let offset = (reference as usize) << 3;
        let slot = shape.slot_of((offset - slab.byte_offset()) as u32);
        let bin = self.bin(class);
        if slab.is_free(slot) || bin.has_at_hand(id, slot >> 6, 1 << (slot & 63)) {
            misuse(
                DOUBLE_FREE,
                self.object_at(reference).addr().get(),
                shape.size,
            );
        }
        slab.put_slot(slot);
        bin.free += 1;
        if slab.record().free >= slab.record().relist_at {
            self.relist(class, id);
        }
    }

    /// Puts the slots that a class has at hand back into their slabs.
    pub(crate) fn put_hand_back(&mut self, class: usize) {
        while let Some(reference) = self.hand(class).pop() {
            self.put_slot(class, self.slab_of(reference), reference);
        }
    }

    #[cold]
    #[inline(never)]
    fn relist(&mut self, class: usize, id: SlabId) {
        let shape = self.table.class(class);
        // SAFETY: the slab is of this bin, and the arena borrowed exclusively.
        let empty = unsafe { self.bin(class).relist(self.records, shape, id) };
        self.listed(shape, id, empty);
    }

    /// After a slab has changed lists: releases it if it is `empty`, and
    /// notes otherwise whether it is sparse now.
    pub(crate) fn listed(&mut self, shape: &SizeClass, id: SlabId, empty: Option<SlabId>) {
        if let Some(empty) = empty {
            self.slab_pages -= u32::from(shape.pages);
            // SAFETY: the bin has let go of the slab, and no slot of it is in
            // use or at hand: they would not be marked as free.
            unsafe { self.source.release(empty) };
            return;
        }
        // SAFETY: the slab is live and the arena is borrowed exclusively.
        let list = unsafe { self.records.slab(id) }.record().list;
        self.set_sparse(
            shape,
            id,
            (OCCUPANCY_LISTS / 2..LISTS).contains(&(list as usize)),
        );
    }

    /// Says in the page map whether frees into the slab go past the hand.
    pub(crate) fn set_sparse(&mut self, shape: &SizeClass, id: SlabId, sparse: bool) {
        // SAFETY: the slab is live and the arena is borrowed exclusively.
        let mut slab = unsafe { self.records.slab(id) };
        if slab.record().sparse != sparse {
            slab.record_mut().sparse = sparse;
            self.enter_flags(shape, id, slab);
        }
    }

    /// Says in the page map that the slab has guests, of which frees must know.
    pub(crate) fn set_guests(&mut self, shape: &SizeClass, id: SlabId) {
        // SAFETY: the slab is live and the arena is borrowed exclusively.
        let mut slab = unsafe { self.records.slab(id) };
        if !slab.record().guests {
            slab.record_mut().guests = true;
            self.enter_flags(shape, id, slab);
        }
    }

    fn enter_flags(&mut self, shape: &SizeClass, id: SlabId, slab: Slab) {
        let (sparse, guests) = (slab.record().sparse, slab.record().guests);
        let map = self.source.pages.map_mut();
        map.set_flags(slab.run(shape), id, sparse, guests);
    }

    /// # Safety
    /// The object is live, of this arena and too large for slabs.
    #[cold]
    #[inline(never)]
    unsafe fn free_large(&mut self, object: NonNull<u8>) {
        let run = self.large_run(object);
        large::free(&mut self.source.pages, &mut self.large, run);
    }

    /// The run of a live large object.
    fn large_run(&self, object: NonNull<u8>) -> PageRun {
        let start = PageIndex::of_offset(self.offset_of(object));
        let starts_page = object.addr().get().is_multiple_of(PAGE_BYTES);
        if !starts_page || self.source.pages.map().class_entry(start) != LARGE_HEAD {
            fatal("free of what is not an object", object.addr().get());
        }
        PageRun {
            start,
            pages: self.source.pages.map().slab_entry(start),
        }
    }

    /// Makes room for `new` bytes, more than `old`, without moving the object.
    /// False, with nothing changed, where it must move. The object then counts
    /// as allocated with the size `new`.
    ///
    /// # Safety
    /// The object is live, of this arena, and was allocated with a size of the
    /// same usable size as `old`.
    pub unsafe fn grow_in_place(&mut self, object: NonNull<u8>, old: usize, new: usize) -> bool {
        if self.usable_size_for(old) == self.usable_size_for(new) {
            return true;
        }
        if old <= self.table.small_max() || new < old {
            return false;
        }
        let run = self.large_run(object);
        large::resize_in_place(&mut self.source.pages, &mut self.large, run, new)
    }

    /// Gives an object the size `new`, keeping its first `min(old, new)`
    /// bytes, and moves it only where it must. `None` leaves it as it is.
    ///
    /// # Safety
    /// As [`LocalArena::free`], with `old` as the size; if an object is
    /// returned, the old one is not used any more.
    pub unsafe fn reallocate(
        &mut self,
        object: NonNull<u8>,
        old: usize,
        new: usize,
    ) -> Option<NonNull<u8>> {
        let small_max = self.table.small_max();
        if old > small_max && new > small_max {
            let run = self.large_run(object);
            if large::resize_in_place(&mut self.source.pages, &mut self.large, run, new) {
                return Some(object);
            }
            let pages = &mut self.source.pages;
            if let Some(moved) = large::move_to_grow(pages, &mut self.large, run, new) {
                return Some(self.source.pages.address(moved.start));
            }
        } else if self.usable_size_for(old) == self.usable_size_for(new) {
            return Some(object);
        }
        let target = self.allocate(new)?;
        // SAFETY: both objects are live, distinct, and hold that many bytes;
        // the old one is the caller's to free.
        unsafe {
            ptr::copy_nonoverlapping(object.as_ptr(), target.as_ptr(), old.min(new));
            self.free(object, old);
        }
        Some(target)
    }

    /// One more than the highest class that has ever had a slab.
    pub(crate) fn classes_in_use(&self) -> usize {
        let words = self.classes_used.iter().enumerate();
        words
            .filter(|(_, bits)| **bits != 0)
            .map(|(word, bits)| word * 64 + 64 - bits.leading_zeros() as usize)
            .max()
            .unwrap_or(0)
    }
}
