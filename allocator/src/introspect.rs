//! Reading an arena's books, and checking them.

use crate::bin::{Bin, CURRENT, FULL, LISTS, TAKEN};
use crate::hand::Hand;
use crate::large;
use crate::local_arena::LocalArena;
use crate::page_map::{
    FIRST_CLASS, FREE, GUESTS, LARGE_HEAD, SPARSE, class_of_entry, slab_of_entry,
};
use crate::stats::{ArenaStats, ClassStats, Extent, ExtentKind, Waste};
use crate::units::{ChunkIndex, PAGE_BYTES, PageIndex, SlabId};
use alloc::vec;

impl LocalArena {
    /// How much of the slabs' memory is unused, in constant time.
    #[inline]
    pub fn waste(&self) -> Waste {
        let counts = self.source.pages.counts();
        let resident = (self.slab_pages - counts.punched) as usize * PAGE_BYTES;
        Waste {
            resident_slab_bytes: resident,
            live_bytes: self.live_bytes,
            free_bytes: resident.saturating_sub(self.live_bytes),
            fresh_bytes_total: counts.fresh_total * PAGE_BYTES as u64,
        }
    }

    /// Where the arena's memory is, in time in proportion to the number of size
    /// classes.
    ///
    /// ```
    /// use slab_allocator::{ArenaOptions, LocalArena};
    ///
    /// let mut arena = LocalArena::new(&ArenaOptions::default()).expect("address space");
    /// arena.allocate(1000).expect("memory");
    /// let stats = arena.stats();
    /// assert_eq!(stats.live_bytes, arena.usable_size_for(1000));
    /// let in_slabs = stats.live_bytes + stats.free_bytes + stats.tail_bytes;
    /// assert_eq!(in_slabs, stats.slab_bytes);
    /// ```
    pub fn stats(&self) -> ArenaStats {
        let mut stats = ArenaStats {
            slab_bytes: self.slab_pages as usize * PAGE_BYTES,
            live_bytes: self.live_bytes,
            guest_bytes: self.guest_bytes,
            ..ArenaStats::of_pages(&self.source, &self.large)
        };
        stats.metadata_bytes += self.bin_bytes();
        for class in 0..self.classes_in_use() {
            let (bin, shape) = (&self.bin_table.items()[class], self.table.class(class));
            let at_hand = self.hand_table.items()[class].slots().len();
            let free = (bin.free + bin.at_hand()) as usize + at_hand;
            stats.free_bytes += free * shape.size as usize;
            stats.tail_bytes += bin.slabs as usize * shape.tail_bytes();
            stats.slabs += bin.slabs as usize;
        }
        for class in self.pending.classes() {
            stats.free_bytes += self.table.class(class).size as usize;
        }
        stats.resident_bytes += stats.metadata_bytes;
        stats
    }

    /// Bytes of what the arena keeps by class that have memory behind them.
    fn bin_bytes(&self) -> usize {
        let classes = self.classes_in_use();
        (classes * size_of::<Bin>()).next_multiple_of(PAGE_BYTES)
            + (classes * size_of::<Hand>()).next_multiple_of(PAGE_BYTES)
    }

    /// Figures of each class that has ever been used, in ascending order.
    pub fn class_stats(&self) -> impl Iterator<Item = ClassStats> {
        (0..self.classes_in_use()).filter_map(|class| {
            if self.classes_used[class >> 6] >> (class & 63) & 1 == 0 {
                return None;
            }
            let (bin, shape) = (&self.bin_table.items()[class], self.table.class(class));
            let unused = self.hand_table.items()[class].slots().len()
                + self
                    .pending
                    .classes()
                    .filter(|other| *other == class)
                    .count();
            Some(ClassStats {
                slot_bytes: shape.size as usize,
                slab_pages: u32::from(shape.pages),
                slab_slots: u32::from(shape.slots),
                slabs: bin.slabs,
                live: bin.taken(shape) - unused as u32,
                free: bin.free + bin.at_hand() + unused as u32,
                by_occupancy: core::array::from_fn(|list| bin.length(list)),
            })
        })
    }

    /// What lies in the arena, in ascending order of addresses: for pictures of
    /// the heap. Free pages are cut at chunk borders, and runs of free pages
    /// of the same kind are one extent. All of it takes time in proportion to the
    /// pages that were ever used.
    ///
    /// ```
    /// use slab_allocator::{ArenaOptions, ExtentKind, LocalArena};
    ///
    /// let mut arena = LocalArena::new(&ArenaOptions::default()).expect("address space");
    /// arena.allocate(100_000).expect("memory");
    /// let large = arena.extents().find(|extent| extent.kind == ExtentKind::Large);
    /// assert_eq!(large.expect("there is one").pages, 25);
    /// ```
    pub fn extents(&self) -> impl Iterator<Item = Extent> {
        let end = self.source.pages.frontier().first_page();
        let mut page = ChunkIndex(1).first_page();
        core::iter::from_fn(move || {
            while page < end && self.source.pages.chunk(page.chunk()).is_none() {
                page = ChunkIndex(page.chunk().0 + 1).first_page();
            }
            if page >= end {
                return None;
            }
            let start = page;
            let (pages, kind) = self.extent_at(start);
            page = start.plus(pages);
            Some(Extent {
                start_page: start.0,
                pages,
                kind,
            })
        })
    }

    /// Length and kind of the extent that starts on a page of an open chunk.
    fn extent_at(&self, start: PageIndex) -> (u32, ExtentKind) {
        let pages = &self.source.pages;
        match pages.map().class_entry(start) {
            FREE => {
                let dirty = pages.is_resident(start);
                let same = |page: &u32| {
                    let page = PageIndex(*page);
                    pages.map().class_entry(page) == FREE && pages.is_resident(page) == dirty
                };
                let chunk_end = ChunkIndex(start.chunk().0 + 1).first_page().0;
                let count = (start.0..chunk_end).take_while(same).count();
                (count as u32, ExtentKind::Free { dirty })
            }
            LARGE_HEAD => (pages.map().slab_entry(start), ExtentKind::Large),
            entry => {
                let class = usize::from(entry - FIRST_CLASS);
                let shape = self.table.class(class);
                let id = slab_of_entry(pages.map().slab_entry(start));
                // SAFETY: the map names live slabs only, and nobody writes
                // records while the arena is borrowed.
                let slab = unsafe { self.records.slab(id) };
                let free = u32::from(slab.record().free) + self.free_elsewhere(class, id);
                let kind = ExtentKind::Slab {
                    class: class as u32,
                    slot_bytes: shape.size,
                    slots: u32::from(shape.slots),
                    live: u32::from(shape.slots) - free,
                    punched: slab.record().punched,
                };
                (u32::from(shape.pages), kind)
            }
        }
    }

    /// Free slots of a slab that its own record counts as taken.
    fn free_elsewhere(&self, class: usize, id: SlabId) -> u32 {
        let bin = &self.bin_table.items()[class];
        let in_bin = if bin.current() == id {
            bin.at_hand()
        } else {
            0
        };
        let hand = self.hand_table.items()[class].slots().iter();
        let elsewhere = hand.chain(self.pending.references());
        in_bin + elsewhere.filter(|slot| self.slab_of(**slot) == id).count() as u32
    }

    /// Panics unless all of the arena's books agree with each other. Takes
    /// time in proportion to the arena's size; for tests.
    pub fn check(&self) {
        self.source.pages.check();
        self.source.records.check();
        large::check(&self.source.pages, &self.large);
        let classes = self.table.count();
        let mut slabs = vec![0u32; classes];
        let mut listed = vec![[0u32; LISTS]; classes];
        let mut taken_free = vec![0u32; classes];
        let mut slab_pages = 0;
        let end = self.source.pages.frontier().first_page();
        let mut page = PageIndex(0);
        while page < end {
            let entry = self.source.pages.map().class_entry(page);
            let Some(class) = class_of_entry(entry) else {
                page = page.plus(1);
                continue;
            };
            let shape = self.table.class(class);
            let entry = self.source.pages.map().slab_entry(page);
            let id = slab_of_entry(entry).0;
            // SAFETY: the map names live slabs only, and nobody writes records
            // while the arena is borrowed.
            let slab = unsafe { self.records.slab(SlabId(id)) };
            slab.check(shape);
            assert_eq!(slab.record().sparse, entry & SPARSE != 0);
            assert_eq!(slab.record().guests, entry & GUESTS != 0);
            assert_eq!(slab.record().class as usize, class);
            assert_eq!(slab.record().start, page);
            for other in 0..u32::from(shape.pages) {
                assert_eq!(self.source.pages.map().slab_entry(page.plus(other)), entry);
                let punched = slab.record().punched >> other & 1 != 0;
                assert_eq!(self.source.pages.is_resident(page.plus(other)), !punched);
            }
            slabs[class] += 1;
            slab_pages += u32::from(shape.pages);
            match slab.record().list {
                CURRENT => assert_eq!(self.bin_table.items()[class].current().0, id),
                FULL => assert_eq!(slab.record().free, 0),
                TAKEN => taken_free[class] += u32::from(slab.record().free),
                list => listed[class][list as usize] += 1,
            }
            page = slab.run(shape).end();
        }
        let mut live_bytes = 0;
        for class in 0..classes {
            let (bin, shape) = (&self.bin_table.items()[class], self.table.class(class));
            // SAFETY: nobody writes records while the arena is borrowed.
            unsafe { bin.check(self.records, shape, taken_free[class]) };
            assert_eq!(bin.slabs, slabs[class], "slabs of class {class}");
            for (list, length) in listed[class].iter().enumerate() {
                assert_eq!(bin.length(list), *length);
            }
            let at_hand = self.hand_table.items()[class].slots().len();
            live_bytes += (bin.taken(shape) as usize - at_hand) * shape.size as usize;
        }
        for class in self.pending.classes() {
            live_bytes -= self.table.class(class).size as usize;
        }
        assert_eq!(self.slab_pages, slab_pages);
        assert_eq!(self.live_bytes, live_bytes);
        let stats = self.stats();
        assert_eq!(
            stats.slab_bytes,
            stats.live_bytes + stats.free_bytes + stats.tail_bytes
        );
        assert_eq!(
            stats.resident_bytes + stats.punched_bytes,
            stats.slab_bytes + stats.large_bytes + stats.dirty_bytes + stats.metadata_bytes
        );
        self.check_map(&stats);
    }
}
