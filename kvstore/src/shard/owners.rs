//! Who refers to an object: what compaction asks when it moves one.
//!
//! An entry carries its key, and the key's hash leads to the bucket whose slot holds the entry's
//! reference; the entry does not say which database it belongs to, so the tables are asked one by
//! one, beginning with the one that owned the last object. A segment carries its range. No object
//! stores a pointer back to its owner.

use std::ptr::{self, NonNull};

use slab_allocator::Victim;

use crate::entry::{self, Entry};
use crate::memory::Ref;
use crate::shard::Shard;
use crate::shard::whole::Drain;
use crate::table::Table;

/// A slab that is being emptied, and how far that has come.
#[derive(Debug)]
pub(crate) struct Relocation {
    pub(crate) victim: Victim,
    /// Slots before this one hold nothing any more.
    pub(crate) next_slot: u32,
}

/// An object that is about to move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving {
    object: NonNull<u8>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// An entry whose key has this prefix.
    Entry {
        prefix: u64,
        bytes: usize,
    },
    Segment,
}

/// Why an object stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stays {
    /// No fuller slab has room for it.
    NoRoom,
    /// Nobody refers to it.
    NoOwner,
}

impl Shard {
    pub(crate) fn relocation(&self) -> Option<&Relocation> {
        self.relocation.as_ref()
    }

    pub(crate) fn relocation_mut(&mut self) -> &mut Option<Relocation> {
        &mut self.relocation
    }

    /// Learns what is needed to move an object, and asks the CPU for the place that refers to it.
    ///
    /// # Safety
    /// `object` is a live object of this shard's memory.
    pub(crate) unsafe fn prepare_move(&self, object: NonNull<u8>) -> Moving {
        // SAFETY: by the caller's promise.
        if unsafe { entry::is_segment(object) } {
            return Moving {
                object,
                kind: Kind::Segment,
            };
        }
        // SAFETY: an object that is no segment is an entry.
        let entry = unsafe { Entry::read(&self.memory, self.memory.name(object)) };
        let prefix = self.placer.prefix(entry.key());
        if let Some(table) = self.tables.get(self.last_owner) {
            table.prefetch_buckets(&self.memory, prefix);
        }
        Moving {
            object,
            kind: Kind::Entry {
                prefix,
                bytes: entry.header().entry_bytes(),
            },
        }
    }

    /// Moves an object out of the victim into a fuller slab; returns the bytes of its slot.
    ///
    /// # Safety
    /// The object is live, lies in the victim, and has not changed since it was prepared.
    pub(crate) unsafe fn move_out(&mut self, moving: Moving) -> Result<usize, Stays> {
        let from = self.memory.name(moving.object);
        let owner = match moving.kind {
            Kind::Entry { prefix, .. } => self.owner_of_entry(prefix, from),
            Kind::Segment => None,
        };
        let Some(relocation) = &self.relocation else {
            return Err(Stays::NoRoom);
        };
        let slot_bytes = relocation.victim.slot_bytes();
        let bytes = match moving.kind {
            Kind::Entry { bytes, .. } if owner.is_some() => bytes,
            Kind::Entry { .. } => return Err(Stays::NoOwner),
            Kind::Segment => slot_bytes,
        };
        let target = self
            .memory
            .arena_mut()
            .allocate_for_relocation(slot_bytes, &relocation.victim);
        let target = target.ok_or(Stays::NoRoom)?;
        let to = self.memory.name(target);
        // SAFETY: both objects have slots of the same class, of which the entry or segment is a
        // part, and are distinct.
        unsafe { ptr::copy_nonoverlapping(moving.object.as_ptr(), target.as_ptr(), bytes) };
        let moved = match moving.kind {
            Kind::Entry { prefix, .. } => self.redirect_entry(owner, prefix, from, to),
            // SAFETY: the target holds a copy of the segment.
            Kind::Segment => unsafe { self.redirect_segment(from, to) },
        };
        // SAFETY: exactly one of the two copies is referred to, and the other one is freed.
        unsafe { self.memory.free(if moved { from } else { to }, slot_bytes) };
        if moved {
            Ok(slot_bytes)
        } else {
            Err(Stays::NoOwner)
        }
    }

    /// Which table refers to this entry, counting drains after the databases.
    fn owner_of_entry(&mut self, prefix: u64, entry: Ref) -> Option<usize> {
        let databases = self.tables.len();
        let holds = |table: &Table| table.find_reference(&self.memory, prefix, entry).is_some();
        if self.tables.get(self.last_owner).is_some_and(holds) {
            return Some(self.last_owner);
        }
        let owner = (0..databases)
            .filter(|db| *db != self.last_owner)
            .find(|db| holds(&self.tables[*db]));
        if let Some(owner) = owner {
            self.last_owner = owner;
            return Some(owner);
        }
        self.drains
            .iter()
            .position(|drain| drain.holds(prefix) && holds(&drain.table))
            .map(|n| databases + n)
    }

    fn redirect_entry(&mut self, owner: Option<usize>, prefix: u64, from: Ref, to: Ref) -> bool {
        let databases = self.tables.len();
        let table = match owner {
            Some(owner) if owner < databases => &mut self.tables[owner],
            Some(owner) => &mut self.drains[owner - databases].table,
            None => return false,
        };
        let Some(place) = table.find_reference(&self.memory, prefix, from) else {
            return false;
        };
        table.set_reference(&mut self.memory, &place, to);
        true
    }

    /// # Safety
    /// `to` holds a copy of the segment at `from`.
    unsafe fn redirect_segment(&mut self, from: Ref, to: Ref) -> bool {
        let Shard {
            tables,
            drains,
            memory,
            ..
        } = self;
        // SAFETY: by the caller's promise.
        tables
            .iter_mut()
            .any(|table| unsafe { table.move_segment(memory, from, to) })
            || drains.iter_mut().any(|drain| {
                // SAFETY: by the caller's promise; the drain has not released this range yet.
                unsafe {
                    drain.holds(Table::prefix_of_segment(memory, to))
                        && drain.table.move_segment(memory, from, to)
                }
            })
    }
}

impl Drain {
    /// Whether the entries of this prefix are still there.
    fn holds(&self, prefix: u64) -> bool {
        self.next.is_some_and(|next| prefix >= next)
    }
}
