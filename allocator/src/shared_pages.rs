//! The pages of the process heap, which all of its arenas share: the page heap
//! behind its lock, and the addresses by which any thread finds an object's slab
//! without that lock.

use crate::fatal::{DOUBLE_FREE, INTERIOR, NOT_ALLOCATED, WRONG_SIZE, fatal, misuse};
use crate::fences::Fences;
use crate::hardened::{clear_ledger, ledger_bytes};
use crate::large::{LargeCounts, pages_of};
use crate::large_stock::LargeStock;
use crate::page_heap::{PageHeap, PageHeapOptions};
#[cfg(feature = "hardened")]
use crate::page_map::LARGE_FREED;
use crate::page_map::{FREE, LARGE_HEAD, SAMPLED_HEAD, class_of_entry, entry_of_class};
use crate::refault::Refaults;
use crate::remote_free::{RemoteWord, Words};
use crate::size_class::{GENERAL, SizeClass};
use crate::slab::{Records, SlabRecord, SlabSource, extra_offset};
use crate::slab_stock::{Made, SlabStock};
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::Relaxed;
use crate::sync::{Errno, Lock, Rank};
use crate::units::{PAGE_BYTES, PAGE_SHIFT, PageIndex, PageRun, SlabId, pages_for};
use core::ptr::NonNull;

/// Bytes in which the numbers of slabs count.
const UNIT_BYTES: usize = 16;

/// The largest alignment in bytes. What is skipped to reach a multiple of it counts
/// as used address space from then on, and costs tables.
const ALIGN_MAX: usize = 1 << 30;

/// Remote words at the end of a slab's record: as many as its bitmap has.
pub(crate) const fn remote_words(class: &SizeClass) -> u32 {
    class.words as u32
}

/// The number of a slab's remote word with this index.
#[inline]
pub(crate) const fn remote_word_id(slab: SlabId, class: &SizeClass, index: u32) -> u32 {
    slab.0 + (extra_offset(class) / UNIT_BYTES) as u32 + index
}

/// What all arenas share.
pub(crate) struct SharedPages {
    base: NonNull<u8>,
    region_bytes: usize,
    class_entries: *mut u8,
    slab_entries: *const u32,
    records: Records,
    counts: Line<Counts>,
    pages: Line<Lock<Pages>>,
}

/// A value on cache lines of its own: the fields above, which every free reads, would
/// otherwise go from processor to processor with each change of a lock beside them.
#[repr(align(64))]
struct Line<T>(T);

/// What the page lock's holder leaves for others to read.
struct Counts {
    /// Free pages that are resident and to be given back, as of the last change.
    dirty: AtomicU32,
    /// The fewest of these since [`SharedPages::restart_dirty_least`].
    dirty_least: AtomicU32,
    /// Pages with memory behind them, as of the last change.
    resident: AtomicU32,
}

// SAFETY: `dirty` and `pages` are made for sharing, and the rest stays as it is.
// The tables behind the pointers are read only at entries of live objects, which
// nobody changes.
unsafe impl Sync for SharedPages {}
// SAFETY: The pointers lead to memory that `pages` owns.
unsafe impl Send for SharedPages {}

/// What the page lock guards.
pub(crate) struct Pages {
    pub(crate) source: SlabSource,
    pub(crate) stock: SlabStock,
    pub(crate) large: LargeCounts,
    large_stock: LargeStock,
    pub(crate) fences: Fences,
    pub(crate) refaults: Refaults,
}

impl Pages {
    /// Makes a slab of the class. `None` where memory is short.
    pub(crate) fn make_slab(&mut self, class: usize) -> Option<Made> {
        if !self.stock.has_for(class) {
            self.large_stock.give_up(&mut self.source.pages);
        }
        self.stock.make(&mut self.source, class)
    }

    fn give_up_stock(&mut self) {
        self.stock.give_up(&mut self.source);
        self.large_stock.give_up(&mut self.source.pages);
    }
}

impl SharedPages {
    /// Reserves the region and the tables; `None` where the process may not have
    /// the address space.
    pub(crate) fn new(options: &PageHeapOptions) -> Option<Self> {
        let heap = PageHeap::new(options)?;
        let source = SlabSource::new(heap, &GENERAL, |class| {
            remote_words(class) as usize * size_of::<RemoteWord>() + ledger_bytes(class)
        })?;
        let heap = &source.pages;
        Some(Self {
            base: heap.base(),
            region_bytes: heap.region_bytes(),
            class_entries: heap.map().class_entries(),
            slab_entries: heap.map().slab_entries(),
            records: source.records(),
            counts: Line(Counts {
                dirty: AtomicU32::new(0),
                dirty_least: AtomicU32::new(0),
                resident: AtomicU32::new(0),
            }),
            pages: Line(Lock::new(
                Rank::Pages,
                Pages {
                    source,
                    stock: SlabStock::new(),
                    large: LargeCounts::default(),
                    large_stock: LargeStock::new(),
                    fences: Fences::new(),
                    refaults: Refaults::new(options.decay_ms),
                },
            )),
        })
    }

    /// Runs `act` under the page lock, with nothing in stock: what is free is the page
    /// heap's. Keeps `errno`, whatever the system is asked for meanwhile.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Pages) -> T) -> T {
        self.with_stock(|pages| {
            pages.give_up_stock();
            act(pages)
        })
    }

    /// The same for slabs' makers, and for those who take or give back pages without a
    /// look at what else is free.
    pub(crate) fn with_stock<T>(&self, act: impl FnOnce(&mut Pages) -> T) -> T {
        let errno = Errno::save();
        let mut pages = self.pages.0.lock();
        let result = act(&mut pages);
        let counts = pages.source.pages.counts();
        let dirty = counts.purgeable() + pages.stock.pages() + pages.large_stock.pages();
        self.counts.0.dirty.store(dirty, Relaxed);
        if dirty < self.counts.0.dirty_least.load(Relaxed) {
            self.counts.0.dirty_least.store(dirty, Relaxed);
        }
        self.counts.0.resident.store(counts.resident(), Relaxed);
        drop(pages);
        errno.restore();
        result
    }

    /// The page lock itself, for the fork handlers.
    pub(crate) fn lock(&self) -> &Lock<Pages> {
        &self.pages.0
    }

    /// Free pages that are resident and to be given back, as of a moment ago.
    #[inline]
    pub(crate) fn dirty(&self) -> u32 {
        self.counts.0.dirty.load(Relaxed)
    }

    /// The fewest pages that were dirty at any time since the last call: so many have
    /// lain idle for so long.
    pub(crate) fn restart_dirty_least(&self) -> u32 {
        let _pages = self.pages.0.lock();
        let least = self.counts.0.dirty_least.load(Relaxed);
        self.counts
            .0
            .dirty_least
            .store(self.counts.0.dirty.load(Relaxed), Relaxed);
        least
    }

    /// Pages with memory behind them, as of a moment ago.
    #[inline]
    pub(crate) fn resident(&self) -> u32 {
        self.counts.0.resident.load(Relaxed)
    }

    /// The slabs' records.
    #[inline(always)]
    pub(crate) fn records(&self) -> Records {
        self.records
    }

    /// The address from which slots count.
    #[inline(always)]
    pub(crate) fn base_address(&self) -> usize {
        self.base.as_ptr().addr()
    }

    /// The pointer to an address inside the region.
    #[inline(always)]
    pub(crate) fn pointer(&self, address: usize) -> *mut u8 {
        self.base.as_ptr().with_addr(address)
    }

    /// Whether the address lies in the region.
    #[inline(always)]
    pub(crate) fn contains(&self, object: *const u8) -> bool {
        object.addr().wrapping_sub(self.base_address()) < self.region_bytes
    }

    #[inline(always)]
    fn page_of(&self, object: *const u8) -> usize {
        object.addr().wrapping_sub(self.base_address()) >> PAGE_SHIFT
    }

    /// The page map's class entry for an object; 0 for an address on a page that was
    /// never handed out.
    ///
    /// # Safety
    ///
    /// The address lies within the region, and within a live object if the result is
    /// to be one that stays.
    #[inline(always)]
    pub(crate) unsafe fn class_entry(&self, object: *const u8) -> u8 {
        // SAFETY: The map has an entry for every page of the region, and that of a
        // live object does not change.
        unsafe { *self.class_entries.add(self.page_of(object)) }
    }

    /// The slab of an object.
    ///
    /// # Safety
    ///
    /// The address lies within a slab that a live object, or one about to be
    /// freed, keeps alive.
    #[inline(always)]
    pub(crate) unsafe fn slab_of(&self, object: *const u8) -> SlabId {
        // SAFETY: As above.
        unsafe { SlabId(*self.slab_entries.add(self.page_of(object))) }
    }

    /// The slab of an object that the program has named, in order to free it. Stops the
    /// process where the page map says that none of the class is there.
    #[inline]
    pub(crate) fn slab_of_freed(&self, object: *const u8, class: usize) -> SlabId {
        if self.contains(object) {
            // SAFETY: The address lies in the region, and a live object keeps its slab
            // alive.
            unsafe {
                let entry = self.class_entry(object);
                if entry == entry_of_class(class) {
                    return self.slab_of(object);
                }
                if entry != FREE {
                    misuse(WRONG_SIZE, object.addr(), GENERAL.class(class).size);
                }
            }
        }
        misuse(NOT_ALLOCATED, object.addr(), GENERAL.class(class).size)
    }

    /// Where a slab's ledger starts, in its record.
    #[cfg(feature = "hardened")]
    pub(crate) fn ledger(&self, slab: SlabId, class: &SizeClass) -> *mut u8 {
        let words_end = remote_word_id(slab, class, remote_words(class));
        self.records.address(SlabId(words_end))
    }

    /// The slot of a small object. Stops the process where the pointer is none that
    /// was handed out.
    ///
    /// # Safety
    ///
    /// As for [`first_slot_of`](Self::first_slot_of).
    #[cfg(feature = "hardened")]
    pub(crate) unsafe fn slot_of(&self, object: *const u8, slab: SlabId, class: &SizeClass) -> u32 {
        // SAFETY: Passed on to the caller.
        unsafe { self.first_slot_of(object, 1, slab, class) }
    }

    /// The slot of the first of `count` small objects that follow each other in a slab.
    /// Stops the process where the pointer is none that was handed out, or the slab ends
    /// before they do.
    ///
    /// # Safety
    ///
    /// As for [`slab_of`](Self::slab_of), whose result is `slab`; the slab is of
    /// the class.
    #[inline]
    pub(crate) unsafe fn first_slot_of(
        &self,
        object: *const u8,
        count: u32,
        slab: SlabId,
        class: &SizeClass,
    ) -> u32 {
        let start = if class.pages == 1 {
            self.page_of(object)
        } else {
            let record = self.records.address(slab).cast::<SlabRecord>();
            // SAFETY: The record is there as long as the slab lives. Its first page
            // never changes, so reading it does not disturb the owner, who may
            // write the other fields meanwhile.
            unsafe { (&raw const (*record).start).read() }.0 as usize
        };
        let offset = object.addr() - self.base_address() - (start << PAGE_SHIFT);
        let slot = class.slot_of(offset as u32);
        if slot * class.size != offset as u32 || slot + count > u32::from(class.slots) {
            misuse(INTERIOR, object.addr(), class.size);
        }
        slot
    }

    /// Stops the process because a slot of the slab was freed twice.
    ///
    /// # Safety
    ///
    /// The slab is live.
    #[cold]
    pub(crate) unsafe fn double_free(&self, slab: SlabId, slot: u32) -> ! {
        let record = self.records.address(slab).cast::<SlabRecord>();
        // SAFETY: Neither of the fields changes as long as the slab lives.
        let (start, class) = unsafe {
            (
                (&raw const (*record).start).read(),
                (&raw const (*record).class).read(),
            )
        };
        let class = GENERAL.class(usize::from(class));
        let offset = start.byte_offset() + (slot * class.size) as usize;
        misuse(DOUBLE_FREE, self.base_address() + offset, class.size)
    }

    /// The arena that owns the slab.
    ///
    /// # Safety
    ///
    /// The slab is live and of the class.
    #[inline]
    pub(crate) unsafe fn owner(&self, slab: SlabId, class: &SizeClass) -> u16 {
        self.word(remote_word_id(slab, class, 0)).owner()
    }

    /// Writes the remote words of a new slab, and an empty ledger behind them.
    ///
    /// # Safety
    ///
    /// The slab is of the class, and nobody else knows of it yet.
    pub(crate) unsafe fn write_remote_words(&self, slab: SlabId, class: &SizeClass, owner: u16) {
        for index in 0..remote_words(class) {
            let id = remote_word_id(slab, class, index);
            let word = RemoteWord::new(owner, (id - slab.0) as u8, index as u8);
            // SAFETY: The record has room for its remote words.
            unsafe {
                self.records
                    .address(SlabId(id))
                    .cast::<RemoteWord>()
                    .write(word)
            };
        }
        let words_end = remote_word_id(slab, class, remote_words(class));
        // SAFETY: The record has room for it behind the words.
        unsafe { clear_ledger(self.records.address(SlabId(words_end)), class) };
    }

    /// Allocates a large object of `size` bytes at a multiple of `align`; null
    /// where memory is short, or for an alignment above [`ALIGN_MAX`]. The second
    /// result says that all of it reads as zero.
    pub(crate) fn allocate_large(&self, size: usize, align: usize) -> (*mut u8, bool) {
        if align > ALIGN_MAX {
            return (core::ptr::null_mut(), false);
        }
        self.with_stock(|pages| {
            if align <= PAGE_BYTES
                && let Some(count) = pages_of(size.max(1))
                && let heap = &mut pages.source.pages
                && let Some(run) = pages.large_stock.take(heap, &mut pages.large, count)
            {
                return (heap.address(run.start).as_ptr(), false);
            }
            pages.give_up_stock();
            let Pages {
                source,
                large,
                fences,
                ..
            } = pages;
            let heap = &mut source.pages;
            let before = *heap.counts();
            match fences.allocate(heap, large, size, align) {
                Some(run) => {
                    let now = heap.counts();
                    let handed = now.handed_total - before.handed_total;
                    let is_zero = now.fresh_total - before.fresh_total == handed;
                    (heap.address(run.start).as_ptr(), is_zero)
                }
                None => (core::ptr::null_mut(), false),
            }
        })
    }

    /// Frees a large object. Stops the process where none starts at the address.
    pub(crate) fn free_large(&self, object: *mut u8) {
        self.free_large_if(object, |_| true);
    }

    /// Frees a large object that was allocated with this size. Stops the process also
    /// where it takes another number of pages.
    pub(crate) fn free_large_sized(&self, object: *mut u8, size: usize) {
        self.free_large_if(object, |run| run.pages as usize == pages_for(size.max(1)));
    }

    fn free_large_if(&self, object: *mut u8, fits: impl FnOnce(PageRun) -> bool) {
        self.with_stock(|pages| {
            let run = self.large_run(pages, object);
            if !fits(run) {
                fatal(WRONG_SIZE, object.addr());
            }
            let Pages {
                source,
                large,
                large_stock,
                fences,
                ..
            } = pages;
            let heap = &mut source.pages;
            if !large_stock.put(heap, large, run) {
                fences.free(heap, large, run);
            }
        });
    }

    /// Gives a large object, aligned to no more than a page, room for `size` bytes
    /// and no more: where it lies, or elsewhere if its memory can move there. Null,
    /// with nothing changed, where the caller has to copy.
    pub(crate) fn resize_large(&self, object: *mut u8, size: usize) -> *mut u8 {
        self.with(|pages| {
            let run = self.large_run(pages, object);
            let Pages {
                source,
                large,
                fences,
                ..
            } = pages;
            let heap = &mut source.pages;
            if fences.resize_in_place(heap, large, run, size) {
                return object;
            }
            match fences.move_to_grow(heap, large, run, size) {
                Some(moved) => heap.address(moved.start).as_ptr(),
                None => core::ptr::null_mut(),
            }
        })
    }

    /// The page on which an object lies.
    #[inline]
    pub(crate) fn page_index(&self, object: *const u8) -> PageIndex {
        PageIndex(self.page_of(object) as u32)
    }

    /// Whether the object is one that a heap profile has sampled, which then has pages
    /// of its own.
    #[inline]
    pub(crate) fn is_sampled(&self, object: *const u8) -> bool {
        object.addr().is_multiple_of(PAGE_BYTES)
            && self.contains(object)
            // SAFETY: The address lies in the region.
            && unsafe { self.class_entry(object) } == SAMPLED_HEAD
    }

    /// Marks a large object as sampled, or as no longer sampled.
    ///
    /// # Safety
    ///
    /// The object is live, large or sampled, and the caller's, who calls nothing else
    /// for it meanwhile.
    pub(crate) unsafe fn mark_sampled(&self, object: *const u8, is_sampled: bool) {
        let entry = if is_sampled { SAMPLED_HEAD } else { LARGE_HEAD };
        // SAFETY: The entry belongs to the object, and nobody else reads or writes it.
        unsafe { self.class_entries.add(self.page_of(object)).write(entry) };
    }

    /// Bytes of a live large object. Stops the process where it does not start at the
    /// address.
    ///
    /// # Safety
    ///
    /// The address lies on the first page of a live large object.
    pub(crate) unsafe fn large_bytes(&self, object: *const u8) -> usize {
        if object.addr() & (PAGE_BYTES - 1) != 0 {
            fatal("a pointer into the middle of an object", object.addr());
        }
        // SAFETY: The entry does not change as long as the object lives.
        let pages = unsafe { *self.slab_entries.add(self.page_of(object)) };
        pages as usize * PAGE_BYTES
    }

    fn large_run(&self, pages: &Pages, object: *mut u8) -> PageRun {
        let map = pages.source.pages.map();
        let start = PageIndex(self.page_of(object) as u32);
        let starts_page = object.addr() & (PAGE_BYTES - 1) == 0;
        let entry = match self.contains(object) {
            true => map.class_entry(start),
            false => FREE,
        };
        match entry {
            LARGE_HEAD if starts_page => PageRun {
                start,
                pages: map.slab_entry(start),
            },
            #[cfg(feature = "hardened")]
            LARGE_FREED if starts_page => fatal("double free of a large object", object.addr()),
            entry if class_of_entry(entry).is_some() => fatal(WRONG_SIZE, object.addr()),
            _ => fatal(NOT_ALLOCATED, object.addr()),
        }
    }
}

impl Words for SharedPages {
    #[inline(always)]
    fn word(&self, id: u32) -> &RemoteWord {
        // SAFETY: The callers name words of slabs that are alive because one of
        // their slots is, and words change by atomics only.
        unsafe { &*self.records.address(SlabId(id)).cast::<RemoteWord>() }
    }

    fn double_free(&self, id: u32, slots: u64) -> ! {
        let word = self.word(id);
        let slot = word.index() << 6 | slots.trailing_zeros();
        // SAFETY: A slot of the slab is about to be freed, so the slab is alive.
        unsafe { SharedPages::double_free(self, SlabId(id - word.offset()), slot) }
    }
}

/// Asks for the cache line at the address, which need not be valid, in order to
/// write there: the line may be another processor's.
#[inline(always)]
pub(crate) fn prefetch_to_write(address: *const u8) {
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
