//! Who refers to an object: what compaction asks when it moves one.
//!
//! An entry carries its key, and the key's hash leads to the bucket whose slot holds the entry's
//! reference; the entry does not say which database it belongs to, so the tables are asked one by
//! one, beginning with the one that owned the last object. A segment carries its range. No object
//! stores a pointer back to its owner.

use std::ptr::{self, NonNull};

use slab_allocator::Victim;

use crate::entry::{self, Entry};
use crate::memory::{Ref, prefetch};
use crate::shard::Shard;
use crate::shard::whole::Drain;
use crate::table::Table;

/// How much of a target slot is asked for ahead of time; longer copies go on by themselves.
const TARGET_BYTES_PREFETCHED: usize = 512;

/// A slab that is being emptied, and how far that has come.
#[derive(Debug)]
pub(crate) struct Relocation {
    pub(crate) victim: Victim,
    /// Slots before this one were looked at.
    pub(crate) next_slot: u32,
    /// All slots were looked at.
    pub(crate) ends: bool,
    /// An object found no room.
    pub(crate) is_stuck: bool,
}

/// An object that is about to move, and where to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moving {
    object: NonNull<u8>,
    target: NonNull<u8>,
    bytes: usize,
    kind: Kind,
}

impl Moving {
    /// Bytes that move.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// An entry whose key has this prefix.
    Entry {
        prefix: u64,
    },
    Segment,
}

impl Shard {
    pub(crate) fn relocations_mut(&mut self) -> &mut Vec<Relocation> {
        &mut self.relocations
    }

    /// Finds a slot for an object of the victim in a fuller slab, and asks the CPU for it and for
    /// the place that refers to the object. `None` if there is no such slot; the victim ends then.
    /// What was prepared is to be carried out by [`Shard::move_out`] before anything else changes.
    ///
    /// # Safety
    /// `object` is a live object of this shard's memory, and lies in the victim of this number.
    pub(crate) unsafe fn prepare_move(
        &mut self,
        object: NonNull<u8>,
        victim: usize,
    ) -> Option<Moving> {
        let relocation = &mut self.relocations[victim];
        if relocation.is_stuck {
            return None;
        }
        let name = self.memory.name(object);
        // SAFETY: by the caller's promise; an object that is no segment is an entry.
        let (kind, bytes) = unsafe {
            if entry::is_segment(object) {
                (Kind::Segment, Table::bytes_of_segment(&self.memory, name))
            } else {
                let entry = Entry::read(&self.memory, name);
                let prefix = self.placer.prefix(entry.key());
                (Kind::Entry { prefix }, entry.header().entry_bytes())
            }
        };
        let arena = self.memory.arena_mut();
        let is_entry = !matches!(kind, Kind::Segment);
        let Some(target) = arena.allocate_for_relocation(bytes, &relocation.victim) else {
            relocation.is_stuck = true;
            self.ledger.missed_objects += 1;
            self.ledger.missed_entries += u64::from(is_entry);
            return None;
        };
        match kind {
            Kind::Segment if !Table::is_place_for_segment(target) => {
                relocation.is_stuck = true;
                self.ledger.missed_objects += 1;
                // SAFETY: it was just allocated for that many bytes.
                unsafe { arena.free(target, bytes) };
                return None;
            }
            Kind::Segment => {}
            Kind::Entry { prefix } => {
                if let Some(table) = self.tables.get(self.last_owner) {
                    table.prefetch_buckets(&self.memory, prefix);
                }
            }
        }
        for line in (0..bytes.min(TARGET_BYTES_PREFETCHED)).step_by(64) {
            prefetch(target.as_ptr().wrapping_add(line));
        }
        Some(Moving {
            object,
            target,
            bytes,
            kind,
        })
    }

    /// Moves an object to its new slot, patches the reference to it, and frees the old slot. False
    /// if nobody refers to the object, which then stays.
    ///
    /// # Safety
    /// What is moved was prepared, and nothing but other moves happened since.
    pub(crate) unsafe fn move_out(&mut self, moving: Moving) -> bool {
        let bytes = moving.bytes;
        let (from, to) = (
            self.memory.name(moving.object),
            self.memory.name(moving.target),
        );
        // SAFETY: both slots hold that many bytes and are distinct.
        unsafe { ptr::copy_nonoverlapping(moving.object.as_ptr(), moving.target.as_ptr(), bytes) };
        let moved = match moving.kind {
            Kind::Entry { prefix } => {
                let moved = self.redirect_entry(prefix, from, to);
                self.ledger.moved_entries += u64::from(moved);
                moved
            }
            // SAFETY: the target holds a copy of the segment.
            Kind::Segment => unsafe { self.redirect_segment(from, to) },
        };
        // SAFETY: exactly one of the two copies is referred to, and the other one is freed.
        unsafe { self.memory.free(if moved { from } else { to }, bytes) };
        moved
    }

    /// Refers to the entry at `to` instead of the one at `from`; false if nobody refers to that.
    fn redirect_entry(&mut self, prefix: u64, from: Ref, to: Ref) -> bool {
        let Shard {
            tables,
            drains,
            memory,
            last_owner,
            ..
        } = self;
        let mut redirect = |table: &mut Table| {
            let place = table.find_reference(memory, prefix, from);
            place.is_some_and(|place| {
                table.set_reference(memory, &place, to);
                true
            })
        };
        if tables.get_mut(*last_owner).is_some_and(&mut redirect) {
            return true;
        }
        if let Some(owner) = tables.iter_mut().position(&mut redirect) {
            *last_owner = owner;
            return true;
        }
        drains
            .iter_mut()
            .any(|drain| drain.holds(prefix) && redirect(&mut drain.table))
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
