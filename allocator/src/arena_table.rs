//! All arenas of the process, and the way back to them: batches of slots are sorted by
//! the arena that owns them.
//!
//! A thread's own arena takes its slots under the lock of the bin. Slots of another
//! arena's slabs go there as [remote frees](crate::remote_free), so a thread that
//! frees never waits for another arena, nor writes where that is at work: neither its
//! lists nor the records of other slabs. (To put slots straight into foreign bins
//! whose lock is open costs up to a third more where two threads run at the same time,
//! measured.)

use crate::metadata::Area;
use crate::process_arena::ProcessArena;
use crate::process_bin::{Slabs, Spread};
use crate::remote_free::Outbox;
use crate::shared_pages::{SharedPages, prefetch_to_write, remote_word_id};
use crate::size_class::{GENERAL, SizeClass};
use crate::sync::Guard;
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::units::{PAGE_BYTES, SlabId};
use core::mem::MaybeUninit;
use core::ptr::NonNull;

/// Slots that are taken back at a time.
const BATCH_MAX: usize = 128;

/// What taking slots back has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Released {
    /// As in [`Filled`](crate::process_arena::Filled); `None` where no slot was the arena's own.
    pub(crate) spread: Option<Spread>,
    /// Some inbox has slots now, and had none before.
    pub(crate) mailed: bool,
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
            released.spread = of_batch.spread.or(released.spread);
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
        let mut rows = [const { MaybeUninit::<Row>::uninit() }; BATCH_MAX];
        let mut rows = find_rows(pages, class, slots, &mut rows);
        let mut own_bin = None;
        let mut outbox = None;
        while let Some(&Row { slab, .. }) = rows.first() {
            // SAFETY: The slab is alive, since its slots are not free yet.
            let owner = unsafe { pages.owner(slab, shape) };
            if owner == own {
                let bin: &mut Guard<'_, Slabs> =
                    own_bin.get_or_insert_with(|| self.arena(own).bins[class].slabs.lock());
                // SAFETY: As above.
                rows = unsafe {
                    each_word(pages, shape, rows, |word, bits, count| {
                        bin.put(pages, slab, word, bits, count);
                        bin.traffic.flushed_slots += u64::from(count);
                    })
                };
                bin.relist_if_due(pages, shape, slab);
            } else {
                let inbox_of = |owner| &self.arena(owner).inboxes[class];
                let outbox = outbox.get_or_insert_with(|| Outbox::new(pages, inbox_of));
                // SAFETY: As above.
                rows = unsafe {
                    each_word(pages, shape, rows, |word, bits, _| {
                        outbox.add(owner, remote_word_id(slab, shape, word), bits);
                    })
                };
            }
        }
        if let Some(bin) = &mut own_bin {
            bin.traffic.flushes += 1;
        }
        Released {
            spread: own_bin.map(|bin| bin.spread(shape)),
            mailed: outbox.is_some_and(Outbox::send),
        }
    }
}

/// Slots that follow each other on one page of a slab, in the order in which they were
/// freed too.
#[derive(Clone, Copy)]
struct Row {
    first: *mut u8,
    slab: SlabId,
    count: u32,
}

/// Sorts slots of the class into rows, and asks for the records of their slabs. Stops
/// the process where a slot is none of the class.
#[inline]
fn find_rows<'a>(
    pages: &SharedPages,
    class: usize,
    slots: &[*mut u8],
    rows: &'a mut [MaybeUninit<Row>; BATCH_MAX],
) -> &'a [Row] {
    debug_assert!(slots.len() <= rows.len());
    let shape = GENERAL.class(class);
    let size = shape.size as usize;
    let records = pages.records();
    let mut found = 0;
    let mut last = (usize::MAX, SlabId::NONE);
    let mut rest = slots.iter();
    for place in rows.iter_mut() {
        let Some(&first) = rest.next() else { break };
        let page = first.addr() / PAGE_BYTES;
        if page != last.0 {
            let slab = pages.slab_of_freed(first, class);
            // The record may lie on two cache lines, and the first remote word,
            // which names the owner, on the second.
            prefetch_to_write(records.address(slab));
            prefetch_to_write(records.address(SlabId(remote_word_id(slab, shape, 0))));
            last = (page, slab);
        }
        let mut next = first.addr() + size;
        let mut count = 1;
        while let Some(object) = rest.as_slice().first() {
            if object.addr() != next || next / PAGE_BYTES != page {
                break;
            }
            next += size;
            count += 1;
            rest.next();
        }
        place.write(Row {
            first,
            slab: last.1,
            count,
        });
        found += 1;
    }
    // SAFETY: So many were written.
    unsafe { rows[..found].assume_init_ref() }
}

/// Hands the words of a slab's bitmap that have slots of the first rows to `take`, each
/// with the slots' bits and their number. Returns the rows from the first of another slab
/// on.
///
/// # Safety
///
/// The slab is alive and of the class, and stays alive after `take`.
#[inline(always)]
unsafe fn each_word<'a>(
    pages: &SharedPages,
    shape: &SizeClass,
    rows: &'a [Row],
    mut take: impl FnMut(u32, u64, u32),
) -> &'a [Row] {
    let slab = rows[0].slab;
    if let [row, rest @ ..] = rows
        && row.count == 1
        && rest.first().is_none_or(|next| next.slab != slab)
    {
        // SAFETY: Passed on to the caller.
        let slot = unsafe { pages.first_slot_of(row.first, 1, slab, shape) };
        take(slot >> 6, 1 << (slot & 63), 1);
        return rest;
    }
    let (mut word, mut bits, mut count) = (0, 0, 0);
    let mut rows = rows.iter();
    while let Some(row) = rows.as_slice().first().filter(|row| row.slab == slab) {
        rows.next();
        // SAFETY: Passed on to the caller.
        let mut slot = unsafe { pages.first_slot_of(row.first, row.count, slab, shape) };
        let mut left = row.count;
        loop {
            let here = left.min(64 - (slot & 63));
            let mask = (u64::MAX >> (64 - here)) << (slot & 63);
            // A slot that was freed twice comes twice.
            if slot >> 6 != word || bits & mask != 0 {
                if count > 0 {
                    take(word, bits, count);
                }
                (word, bits, count) = (slot >> 6, 0, 0);
            }
            bits |= mask;
            count += here;
            slot += here;
            left -= here;
            if left == 0 {
                break;
            }
        }
    }
    take(word, bits, count);
    rows.as_slice()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardened::SLOTS_ARE_ZERO;
    use crate::large::{self, LargeCounts};
    use crate::os::fake::{Faults, inject, with_page_bytes};
    use crate::page_heap::PageHeapOptions;
    use crate::process_arena::{CLASSES, ClassFigures};
    use crate::shared_pages::Pages;
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
            if SLOTS_ARE_ZERO {
                for end in slots.iter().flat_map(|slot| self.ends(slot.addr(), class)) {
                    // SAFETY: The objects are the test's as yet.
                    unsafe { end.write(0) };
                }
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
        let size = prop_oneof![
            1 => 16_385_usize..200_000,
            1 => 1_usize << 20..5 << 20,
            // So that some find a run of their length in stock.
            2 => prop::sample::select(vec![16_385_usize, 20_000, 65_536]),
        ];
        prop_oneof![
            8 => (arena.clone(), class.clone(), 1_usize..65)
                .prop_map(|(arena, class, count)| Op::Fill { arena, class, count }),
            8 => (arena.clone(), class, 1_usize..200, 1_usize..4, prop::option::of(arena.clone()))
                .prop_map(|(arena, class, count, stride, blocked)| {
                    Op::Release { arena, class, count, stride, blocked }
                }),
            2 => arena.prop_map(|arena| Op::Settle { arena }),
            1 => Just(Op::Purge),
            2 => size.clone().prop_map(|size| Op::AllocateLarge { size }),
            1 => (any::<usize>(), size).prop_map(|(pick, size)| Op::ResizeLarge { pick, size }),
            2 => any::<usize>().prop_map(|pick| Op::FreeLarge { pick }),
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
        fn arenas_agree_with_a_model(
            ops in prop::collection::vec((op(), faults()), 1..120),
            page_bytes in prop::sample::select(vec![4_usize << 10, 4 << 10, 16 << 10, 64 << 10]),
        ) {
            with_page_bytes(page_bytes, || agree(ops))?;
        }
    }

    fn agree(ops: Vec<(Op, Faults)>) -> Result<(), TestCaseError> {
        let mut subject = Subject::new();
        for (step, (op, faults)) in ops.into_iter().enumerate() {
            match op {
                Op::Fill {
                    arena,
                    class,
                    count,
                } => subject.fill(arena, class, count, faults),
                Op::Release {
                    arena,
                    class,
                    count,
                    stride,
                    blocked,
                } => {
                    let slots = subject.choose(class, count, stride);
                    subject.release(arena, class, &slots, blocked);
                }
                Op::Settle { arena } => {
                    let arena = subject.arenas.arena(arena);
                    inject(faults, || arena.settle(&subject.pages));
                    prop_assert!(!arena.has_mail());
                }
                Op::Purge => inject(faults, || {
                    subject.pages.with(|pages| {
                        pages.source.pages.purge(u32::MAX);
                        pages.source.records.purge();
                    })
                }),
                Op::AllocateLarge { size } => {
                    let (object, zero) = inject(faults, || subject.pages.allocate_large(size, 1));
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
            // Not each time: it has what is in stock given up.
            if step % 4 == 3 {
                subject.check();
            }
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
            let Pages {
                source,
                large,
                fences,
                ..
            } = pages;
            fences.release_all(&mut source.pages, large);
            prop_assert_eq!(*large, LargeCounts::default());
            prop_assert_eq!(pages.source.pages.counts().used, 0);
            pages.source.pages.purge(u32::MAX);
            pages.source.records.purge();
            prop_assert_eq!(pages.source.pages.counts().resident(), 0);
            prop_assert_eq!(pages.source.records.resident_bytes(), 0);
            Ok(())
        })
    }

    /// Ten slabs of a class, of five slots on three pages, of which few are in use.
    fn with_sparse_slabs() -> (Subject, usize) {
        let mut subject = Subject::new();
        let class = GENERAL.class_of(2304);
        (0..10).for_each(|_| subject.fill(0, class, 5, Faults::default()));
        for stride in [5, 4, 3, 2] {
            let slots = subject.choose(class, usize::MAX, stride);
            subject.release(0, class, &slots, None);
        }
        (subject, class)
    }

    #[test]
    fn an_idle_class_gives_up_whole_slabs_and_dead_pages_only_where_asked() {
        let (mut subject, class) = with_sparse_slabs();
        let counts = |subject: &Subject| subject.pages.with(|pages| *pages.source.pages.counts());
        let arena = |subject: &Subject| {
            subject.arenas.arena(0).settle_whole_slabs(&subject.pages);
        };
        (0..4).for_each(|_| arena(&subject));
        let before = counts(&subject);
        assert_eq!((before.used, before.punched), (30, 0));
        // Twice to see that the slabs are quiet, and once to act on it.
        subject.settle();
        subject.settle();
        assert!(counts(&subject).punched > 0);
        subject.check();
        let rest = subject.choose(class, usize::MAX, 1);
        subject.release(0, class, &rest, None);
        (0..2).for_each(|_| arena(&subject));
        assert_eq!(counts(&subject).used, 0);
        subject.check();
    }

    #[test]
    fn slots_of_a_slab_that_was_punched_count_as_resident_when_they_come_again() {
        let (mut subject, class) = with_sparse_slabs();
        (0..3).for_each(|_| subject.settle());
        let punched = |subject: &Subject| {
            let count = |pages: &mut Pages| pages.source.pages.counts().punched;
            subject.pages.with(count)
        };
        assert!(punched(&subject) > 0);
        let rest = subject.choose(class, usize::MAX, 1);
        subject.release(0, class, &rest, None);
        (0..10).for_each(|_| subject.fill(0, class, 5, Faults::default()));
        assert_eq!(punched(&subject), 0);
        subject.check();
    }

    #[test]
    fn slabs_join_what_was_found_as_wholes_from_stock_and_up_to_a_bound() {
        let pages = SharedPages::new(&PageHeapOptions {
            region_bytes: 64 << 20,
            region_bytes_min: 64 << 20,
            decay_ms: 0,
        });
        let pages = pages.unwrap();
        let arenas = ArenaTable::new(1).unwrap();
        // SAFETY: No other thread knows of the table.
        let arena = unsafe { arenas.add() }.unwrap();
        let fill = |size: usize, wanted: usize| {
            let mut room = [core::ptr::null_mut(); 64];
            let class = GENERAL.class_of(size);
            let count = arena.fill(&pages, class, &mut room[..wanted]).count;
            let mut found: Vec<_> = room[..count].to_vec();
            found.sort_unstable();
            found.dedup();
            assert_eq!(found.len(), count, "a slot came twice");
            found
        };
        let count = |size: usize, wanted: usize| fill(size, wanted).len();
        // A slot in each slab of 4 KiB. No more fresh memory is taken than must be.
        let slots: Vec<_> = (0..12).flat_map(|_| fill(4096, 64)).collect();
        assert_eq!(slots.len(), 12);
        // SAFETY: The slots are of the class, and the test's.
        unsafe { arenas.release(&pages, 0, GENERAL.class_of(4096), &slots) };
        // 32 KiB in all, at most.
        assert_eq!(
            [64, 3, 64, 64].map(|wanted| count(4096, wanted)),
            [8, 3, 1, 1]
        );
        // Four in each: no part of a slab joins what was found.
        assert_eq!([6, 2, 6].map(|wanted| count(1024, wanted)), [4, 2, 2]);
        // 85 in one.
        assert_eq!([64, 64].map(|wanted| count(48, wanted)), [64, 21]);
    }

    #[test]
    fn a_class_is_sparse_when_many_of_its_slabs_are() {
        let mut subject = Subject::new();
        let class = GENERAL.class_of(256);
        let spread = |subject: &Subject| {
            let slabs = subject.arenas.arena(0).bins[class].slabs.lock();
            slabs.spread(GENERAL.class(class))
        };
        for _ in 0..64 {
            subject.fill(0, class, 16, Faults::default());
        }
        assert_eq!(spread(&subject), Spread::Dense);
        // Three of four freed: sixteen slots in each of 64 slabs.
        for freed in 1..4 {
            let slots = subject.choose(class, 256, 4);
            subject.release(0, class, &slots, None);
            if freed == 1 {
                assert_eq!(spread(&subject), Spread::Loose);
            }
        }
        assert_eq!(spread(&subject), Spread::Sparse);
        let rest = subject.choose(class, usize::MAX, 1);
        subject.release(0, class, &rest, None);
        assert_eq!(spread(&subject), Spread::Dense, "none are left");
    }
}
