//! Evacuation, as the owner of the objects sees it.
//!
//! The arena chooses a victim and the slots to move into. The owner of the
//! objects moves them, patches its references and frees the old slots, as many
//! at a time as it likes. [`HandleArena`](crate::HandleArena) is such an owner, for
//! code without `unsafe`; this is what it does:
//!
//! ```
//! use slab_allocator::{ArenaOptions, LocalArena, VictimPolicy};
//!
//! # let mut arena = LocalArena::new(&ArenaOptions::default()).unwrap();
//! # let mut objects: Vec<_> = (0..1000).map(|_| arena.allocate(100).unwrap()).collect();
//! # for place in (0..1000).filter(|place| place % 8 != 0) {
//! #     unsafe { arena.free(objects[place], 100) };
//! # }
//! while let Some(victim) = arena.next_victim(&VictimPolicy::default()) {
//!     let mut slot = 0;
//!     while let Some(live) = arena.live_from(&victim, slot) {
//!         let Some(target) = arena.allocate_for_relocation(100, &victim) else {
//!             break;
//!         };
//!         // SAFETY: both objects are live and hold 100 bytes.
//!         unsafe { target.copy_from_nonoverlapping(live.object, 100) };
//!         for reference in objects.iter_mut().filter(|object| **object == live.object) {
//!             *reference = target;
//!         }
//!         // SAFETY: nothing refers to the old object any more.
//!         unsafe { arena.free(live.object, 100) };
//!         slot = live.slot + 1;
//!     }
//!     arena.finish(victim);
//! }
//! # assert!(arena.stats().slabs <= 3);
//! ```

use crate::bin::{Relocation, TAKEN};
use crate::evacuation::{self, ClassSet, Prediction, Victim, VictimPolicy, Way};
use crate::local_arena::LocalArena;
use crate::merging;
use crate::page_map::{FREE, class_of_entry, slab_of_entry};
use crate::punch;
use crate::size_class::SizeClass;
use crate::units::{CHUNK_PAGES, ChunkIndex, SlabId};
use core::ptr::NonNull;

/// The most pages with objects in a chunk that is worth emptying for the sake of
/// what is known of it: at worst, 20 bytes move for each that comes free.
const SPARSE_PAGES_MAX: u32 = 16;
/// An arena of at most so many pages is gathered in one chunk, however they are
/// spread: that is a matter of a fraction of a millisecond.
const SMALL_PAGES_MAX: u32 = 256;

/// A live object of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSlot {
    /// Number of the slot; the search for the next one goes on behind it.
    pub slot: u32,
    /// The object.
    pub object: NonNull<u8>,
}

/// What has become of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// All of its objects that had to move have moved.
    pub is_done: bool,
    /// Pages that came free. None where a slab has moved to a lower chunk: it takes
    /// as many there.
    pub freed_pages: u32,
}

impl LocalArena {
    /// Chooses the slab that is most worthwhile to evacuate and takes it off
    /// the allocation lists: the emptiest whose objects fit into slabs that
    /// are fuller and resident. `None` where there is none.
    ///
    /// Takes time in proportion to the number of classes in use.
    pub fn next_victim(&mut self, policy: &VictimPolicy) -> Option<Victim> {
        self.next_victim_among(policy, &ClassSet::ALL)
    }

    /// The same for some size classes alone.
    pub fn next_victim_among(&mut self, policy: &VictimPolicy, among: &ClassSet) -> Option<Victim> {
        self.flush();
        let classes = self.classes_in_use();
        loop {
            let bins = &mut self.bin_table.items_mut()[..classes];
            let class = evacuation::next_class(bins, self.table.classes(), policy, among)?;
            self.put_hand_back(class);
            let (bin, shape) = (
                &mut self.bin_table.items_mut()[class],
                self.table.class(class),
            );
            // SAFETY: the arena is borrowed exclusively, and with it all records.
            let victim = unsafe { evacuation::victim_of(bin, shape, class, self.records, policy) };
            if let Some(victim) = victim {
                // No slot of a victim may come to hand.
                self.set_sparse(shape, victim.slab, true);
                self.lowering_failed = false;
                return Some(victim);
            }
        }
    }

    /// Chooses a slab whose few objects find room in slabs of classes up to half
    /// as large again, and takes it off the allocation lists. It is emptied as
    /// any other victim is, and the pages of a whole slab come free: to be done
    /// when [`LocalArena::next_victim`] finds nothing any more. `None` where
    /// there is none.
    ///
    /// Objects that have moved are still freed with their own size, but are only
    /// aligned to 8 bytes, and to powers of two that divide the larger class's
    /// size as well as their own's.
    ///
    /// Takes time in proportion to the number of classes in use.
    pub fn next_merge(&mut self) -> Option<Victim> {
        self.retire_all_current();
        let classes = self.classes_in_use();
        let bins = &mut self.bin_table.items_mut()[..classes];
        // SAFETY: the arena is borrowed exclusively, and with it all records.
        let victim = unsafe { merging::merge_victim(bins, self.table.classes(), self.records) }?;
        self.set_sparse(self.table.class(victim.class), victim.slab, true);
        Some(victim)
    }

    /// Chooses a slab of which pages come free if its objects are moved together
    /// within it, and takes it off the allocation lists. Its objects move as
    /// those of any other victim do, and [`LocalArena::finish`] gives the pages
    /// back at once. To be done when [`LocalArena::next_merge`] finds nothing any
    /// more. `None` where there is none, where pages are not punched, or where the
    /// system's pages are so large that a slab hardly has whole dead ones.
    ///
    /// Takes time in proportion to the number of classes in use.
    pub fn next_packing(&mut self) -> Option<Victim> {
        self.punch_after_ms?;
        if self.source.pages.system_pages > 1 {
            return None;
        }
        self.retire_all_current();
        for class in 0..self.classes_in_use() {
            let (bin, shape) = (self.bin(class), self.table.class(class));
            // SAFETY: the arena is borrowed exclusively, and with it all records.
            let victim = unsafe { merging::packing_victim(bin, shape, class, self.records) };
            if let Some(victim) = victim {
                self.set_sparse(shape, victim.slab, true);
                return Some(victim);
            }
        }
        None
    }

    /// Chooses a slab in a high chunk that hardly has any, for which there is room
    /// in a lower one, and takes it off the allocation lists. When all slabs of a
    /// chunk have moved, and the pages are given back, what is known of the chunk
    /// is, too: some 3 KiB. To be done when [`LocalArena::next_packing`] finds
    /// nothing any more. `None` where there is none.
    ///
    /// Takes time in proportion to the pages of a chunk.
    pub fn next_lowering(&mut self) -> Option<Victim> {
        if self.lowering_failed {
            return None;
        }
        self.retire_all_current();
        let pages = &self.source.pages;
        let pages_max = match pages.counts().used - pages.counts().punched {
            all if all <= SMALL_PAGES_MAX => SMALL_PAGES_MAX,
            _ => SPARSE_PAGES_MAX,
        };
        let chunk = pages.highest_sparse_chunk(pages_max)?;
        let victim = self
            .lowest_slab(chunk)
            .and_then(|slab| self.lower(slab, chunk));
        self.lowering_failed = victim.is_none();
        victim
    }

    /// The first slab of a chunk; `None` where a large object comes first.
    fn lowest_slab(&self, chunk: ChunkIndex) -> Option<SlabId> {
        let map = self.source.pages.map();
        let first = chunk.first_page();
        let page = (0..CHUNK_PAGES)
            .map(|page| first.plus(page))
            .find(|page| map.class_entry(*page) != FREE)?;
        let is_slab = class_of_entry(map.class_entry(page)).is_some();
        is_slab.then(|| slab_of_entry(map.slab_entry(page)))
    }

    /// Makes a victim of a slab in `chunk`, with a new slab below to move to.
    fn lower(&mut self, slab: SlabId, chunk: ChunkIndex) -> Option<Victim> {
        // SAFETY: the map names live slabs, and the arena is borrowed exclusively.
        let view = unsafe { self.records.slab(slab) };
        if view.record().list == TAKEN {
            return None;
        }
        let (class, free) = (usize::from(view.record().class), view.record().free);
        let shape = self.table.class(class);
        let target = self.source.make_below(class, chunk)?;
        self.slab_pages += u32::from(shape.pages);
        let bin = self.bin(class);
        // SAFETY: the target is new, the slab is on a list or full, since no class
        // has a current one; the arena is borrowed exclusively.
        unsafe {
            bin.count_taken(self.records, shape, target);
            bin.take_off(self.records, slab);
        }
        for taken in [slab, target] {
            self.set_sparse(shape, taken, true);
        }
        Some(Victim {
            slab,
            class,
            slot_bytes: shape.size as usize,
            live_at_start: u32::from(shape.slots - free),
            way: Way::Lower(target),
        })
    }

    /// The victim's first object from slot number `slot` on that has to move.
    ///
    /// Objects may be freed between calls; none is added.
    pub fn live_from(&mut self, victim: &Victim, slot: u32) -> Option<LiveSlot> {
        if self.pending.len > 0 {
            self.flush();
        }
        let shape = self.table.class(victim.class);
        // SAFETY: a victim is a live slab, and nobody writes its record while
        // the arena is borrowed.
        let slab = unsafe { self.records.slab(victim.slab) };
        let slot = match victim.way {
            Way::Pack => slot.max(victim.live_at_start),
            Way::Evacuate | Way::Merge | Way::Lower(_) => slot,
        };
        let slot = slab.live_from(slot, shape)?;
        let offset = slab.byte_offset() + (slot * shape.size) as usize;
        Some(LiveSlot {
            slot,
            object: self.object_at((offset >> 3) as u32),
        })
    }

    /// Allocates `size` bytes, the object's own size, for an object that leaves
    /// the victim: in the fullest resident slab that has room, if that is at
    /// least as full as what is left of the victim, and never in a fresh one.
    /// `None` where there is no such slab; the victim cannot be emptied then.
    ///
    /// The mover copies the object, patches its references and frees the old
    /// one.
    pub fn allocate_for_relocation(&mut self, size: usize, victim: &Victim) -> Option<NonNull<u8>> {
        if size > self.table.small_max() {
            return None;
        }
        if self.pending.len > 0 {
            self.flush();
        }
        let home = self.table.class_of(size);
        match victim.way {
            Way::Pack => {
                let end = victim.live_at_start;
                return self.first_slot(home, victim.class, victim.slab, end);
            }
            Way::Lower(target) => return self.first_slot(home, victim.class, target, u32::MAX),
            Way::Evacuate | Way::Merge => {}
        }
        let object = self.slot_in_fuller(home, victim, true);
        if object.is_some() {
            return object;
        }
        let hosts = match victim.way {
            // By the object's own class: a guest does not go from host to host.
            Way::Merge => merging::hosts(self.table.classes(), home),
            // A guest whose own class has no room stays one.
            _ if victim.class != home => victim.class..victim.class + 1,
            _ => return None,
        };
        for host in hosts {
            let object = self.slot_in_fuller(host, victim, host <= victim.class);
            if let Some(object) = object {
                self.lodge(home, host, object);
                return Some(object);
            }
        }
        None
    }

    /// The first free slot of a slab that was taken off the lists, if it lies before
    /// the slot number `end`.
    fn first_slot(
        &mut self,
        home: usize,
        class: usize,
        id: SlabId,
        end: u32,
    ) -> Option<NonNull<u8>> {
        let shape = self.table.class(class);
        // SAFETY: the slab is live, the arena is borrowed exclusively.
        let mut slab = unsafe { self.records.slab(id) };
        let slot = slab.first_free(shape).filter(|slot| *slot < end)?;
        slab.take(slot >> 6, 1 << (slot & 63));
        self.bin(class).free -= 1;
        self.refill_pages(id, shape, slot >> 6, 1 << (slot & 63));
        self.live_bytes += shape.size as usize;
        let offset = slab.byte_offset() + (slot * shape.size) as usize;
        let object = self.object_at((offset >> 3) as u32);
        if home != class {
            self.lodge(home, class, object);
        }
        Some(object)
    }

    /// Notes that an object of the class `home` lies in a slot of the class `host`.
    fn lodge(&mut self, home: usize, host: usize, object: NonNull<u8>) {
        let slab = self.slab_of(self.reference_of(object));
        self.guest_bytes += self.table.guest_bytes(home, host);
        self.set_guests(self.table.class(host), slab);
    }

    /// A slot in the fullest resident slab of a class that has room; if `fuller`
    /// is demanded, in one at least as full as what is left of the victim.
    fn slot_in_fuller(
        &mut self,
        class: usize,
        victim: &Victim,
        fuller: bool,
    ) -> Option<NonNull<u8>> {
        if self.classes_used[class >> 6] >> (class & 63) & 1 == 0 {
            return None;
        }
        self.put_hand_back(class);
        let shape = self.table.class(class);
        let victim_shape = self.table.class(victim.class);
        // SAFETY: a victim is a live slab, the arena is borrowed exclusively.
        let victim_free = unsafe { self.records.slab(victim.slab) }.record().free;
        let victim_live = u32::from(victim_shape.slots - victim_free);
        let fit = |live: u32| {
            !fuller || live * u32::from(victim_shape.slots) >= victim_live * u32::from(shape.slots)
        };
        loop {
            let bin = self.bin(class);
            // SAFETY: the arena is borrowed exclusively, and with it all records.
            match unsafe { bin.refill_from_fuller(self.records, shape, 0, fit) } {
                Relocation::Ready => {
                    let offset = bin.take()?;
                    self.live_bytes += shape.size as usize;
                    return Some(self.object_at((offset >> 3) as u32));
                }
                Relocation::Slot(offset) => {
                    self.live_bytes += shape.size as usize;
                    return Some(self.object_at((offset >> 3) as u32));
                }
                Relocation::CurrentUnfit => self.retire_current(class),
                Relocation::NoRoom => {
                    bin.stuck_percent = u8::MAX;
                    return None;
                }
            }
        }
    }

    /// Takes a victim back: it is released if it is empty, and allocated from
    /// again if not.
    pub fn finish(&mut self, victim: Victim) -> Finished {
        self.flush();
        let shape = self.table.class(victim.class);
        let punched = match victim.way {
            Way::Pack => self.punch_taken(shape, victim.slab),
            _ => 0,
        };
        let is_empty = self.put_back(shape, victim.slab);
        let mut finished = Finished {
            is_done: is_empty || punched > 0,
            freed_pages: if is_empty {
                u32::from(shape.pages)
            } else {
                punched
            },
        };
        let failed = !finished.is_done;
        let bin = self.bin(victim.class);
        match victim.way {
            Way::Evacuate => {}
            Way::Merge => bin.merge_failed |= failed,
            Way::Pack => bin.packing_failed |= failed,
            Way::Lower(target) => {
                self.lowering_failed = failed;
                self.punch_taken(shape, target);
                if !self.put_back(shape, target) {
                    finished.freed_pages = 0;
                }
            }
        }
        finished
    }

    /// Punches the dead pages of a slab that was taken off the lists and has live
    /// slots, if pages are punched at all. Returns their number.
    fn punch_taken(&mut self, shape: &SizeClass, id: SlabId) -> u32 {
        // SAFETY: the slab is live, the arena is borrowed exclusively.
        let slab = unsafe { self.records.slab(id) };
        if slab.record().free == shape.slots || self.punch_after_ms.is_none() {
            return 0;
        }
        punch::punch_slab(slab, shape, &mut self.source.pages)
    }

    /// Puts a slab that was taken off the lists back; true if it was empty, and is
    /// released.
    fn put_back(&mut self, shape: &SizeClass, id: SlabId) -> bool {
        // SAFETY: the slab is live, so its record names its class.
        let class = usize::from(unsafe { self.records.slab(id) }.record().class);
        // SAFETY: the slab is on no list since it was taken off.
        let empty = unsafe { self.bin(class).enlist(self.records, shape, id) };
        self.listed(shape, id, empty);
        empty.is_some()
    }

    /// The number of the size class that objects of `size` bytes belong to; `None`
    /// where they are too large for slabs.
    pub fn class_of(&self, size: usize) -> Option<usize> {
        (size <= self.table.small_max()).then(|| self.table.class_of(size))
    }

    /// What evacuating all that can be would bring and cost. Takes time in
    /// proportion to the slabs that would be released.
    ///
    /// ```
    /// use slab_allocator::{ArenaOptions, LocalArena};
    ///
    /// let mut arena = LocalArena::new(&ArenaOptions::default()).expect("address space");
    /// let objects: Vec<_> = (0..10_000).map(|_| arena.allocate(100).unwrap()).collect();
    /// for (_, object) in objects.iter().enumerate().filter(|(place, _)| place % 8 != 0) {
    ///     // SAFETY: the object is live, and not used any more.
    ///     unsafe { arena.free(*object, 100) };
    /// }
    /// let prediction = arena.predict();
    /// assert!(prediction.pages > 200 && prediction.objects < 1500);
    /// ```
    pub fn predict(&self) -> Prediction {
        let mut total = Prediction::default();
        for class in 0..self.classes_in_use() {
            total.add(&self.predict_class(class));
        }
        total
    }

    /// The same for one class.
    pub fn predict_class(&self, class: usize) -> Prediction {
        let bin = &self.bin_table.items()[class];
        // SAFETY: nobody writes records while the arena is borrowed.
        unsafe { evacuation::predict(bin, self.table.class(class), self.records) }
    }
}
