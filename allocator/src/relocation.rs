//! Evacuation, as the owner of the objects sees it.
//!
//! The arena chooses a victim and the slots to move into. The owner of the
//! objects moves them, patches its references and frees the old slots, as many
//! at a time as it likes:
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

use crate::bin::Relocation;
use crate::evacuation::{self, Prediction, Victim, VictimPolicy, Way};
use crate::local_arena::LocalArena;
use crate::merging;
use crate::punch;
use core::ptr::NonNull;

/// A live object of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSlot {
    /// Number of the slot; the search for the next one goes on behind it.
    pub slot: u32,
    /// The object.
    pub object: NonNull<u8>,
}

impl LocalArena {
    /// Chooses the slab that is most worthwhile to evacuate and takes it off
    /// the allocation lists: the emptiest whose objects fit into slabs that
    /// are fuller and resident. `None` where there is none.
    ///
    /// Takes time in proportion to the number of classes in use.
    pub fn next_victim(&mut self, policy: &VictimPolicy) -> Option<Victim> {
        self.flush();
        let classes = self.classes_in_use();
        loop {
            let bins = &mut self.bin_table.items_mut()[..classes];
            let class = evacuation::next_class(bins, self.table.classes(), policy)?;
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
                return Some(victim);
            }
        }
    }

    /// Chooses a slab whose few objects find room in slabs of classes up to a
    /// quarter larger, and takes it off the allocation lists. It is emptied as
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
    /// more. `None` where there is none, or where pages are not punched.
    ///
    /// Takes time in proportion to the number of classes in use.
    pub fn next_packing(&mut self) -> Option<Victim> {
        self.punch_after_ms?;
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
            Way::Evacuate | Way::Merge => slot,
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
        if victim.way == Way::Pack {
            return self.slot_to_pack(home, victim);
        }
        let object = self.slot_in_fuller(home, victim, true);
        if object.is_some() {
            return object;
        }
        let hosts = match victim.way {
            Way::Merge => merging::hosts(self.table.classes(), victim.class),
            // A guest whose own class has no room stays one.
            _ if victim.class != home => victim.class..victim.class + 1,
            _ => return None,
        };
        for host in hosts {
            let object = self.slot_in_fuller(host, victim, victim.way == Way::Evacuate);
            if let Some(object) = object {
                self.lodge(home, host, object);
                return Some(object);
            }
        }
        None
    }

    /// The first free slot of the slab that is being packed, if it is one of those
    /// that stay in use.
    fn slot_to_pack(&mut self, home: usize, victim: &Victim) -> Option<NonNull<u8>> {
        let shape = self.table.class(victim.class);
        // SAFETY: a victim is a live slab, the arena is borrowed exclusively.
        let mut slab = unsafe { self.records.slab(victim.slab) };
        let slot = slab.first_free(shape)?;
        if slot >= victim.live_at_start {
            return None;
        }
        slab.take(slot >> 6, 1 << (slot & 63));
        let bin = self.bin(victim.class);
        bin.free -= 1;
        self.refill_pages(victim.slab, shape, slot >> 6, 1 << (slot & 63));
        self.live_bytes += shape.size as usize;
        let offset = slab.byte_offset() + (slot * shape.size) as usize;
        let object = self.object_at((offset >> 3) as u32);
        if home != victim.class {
            self.lodge(home, victim.class, object);
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
    /// again if not. Returns the pages that came free.
    pub fn finish(&mut self, victim: Victim) -> u32 {
        self.flush();
        let shape = self.table.class(victim.class);
        let bin = self.bin(victim.class);
        let mut punched = 0;
        if victim.way == Way::Pack {
            // SAFETY: a victim is a live slab, the arena is borrowed exclusively.
            let slab = unsafe { self.records.slab(victim.slab) };
            if slab.record().free < shape.slots {
                punched = punch::punch_slab(slab, shape, &mut self.source.pages);
            }
        }
        // SAFETY: the victim is on no list since it was taken off.
        let empty = unsafe { bin.enlist(self.records, shape, victim.slab) };
        self.listed(shape, victim.slab, empty);
        let freed_pages = empty.map_or(punched, |_| u32::from(shape.pages));
        if freed_pages == 0 {
            let bin = self.bin(victim.class);
            match victim.way {
                Way::Evacuate => {}
                Way::Merge => bin.merge_failed = true,
                Way::Pack => bin.packing_failed = true,
            }
        }
        freed_pages
    }

    /// What evacuating all that can be would bring and cost. Takes time in
    /// proportion to the slabs that would be released.
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
