//! The table of one database in one shard: extendible hashing over segments.
//!
//! The directory names the segment of a prefix; the segment's shape names the home bucket; ten tags
//! are compared at once, and a key is read only where its tag matches. A segment that runs full
//! takes the next larger size, up to 8 KiB, and then splits in two; one that runs empty takes a
//! smaller size, or merges with its other half. So a table never doubles: it grows and shrinks by
//! less than 8 KiB at a time, in some microseconds.
//!
//! Every method that changes a table asks for the [`Memory`] that holds its segments and entries. A
//! table is only ever used with the memory it began with.

mod check;
mod directory;
mod rehash;
mod search;
#[cfg(test)]
mod tests;
mod uses;
mod visit;

use std::ptr::NonNull;

use crate::access::Coding;
use crate::bucket::Slot;
use crate::entry::{self, Entry};
use crate::error::OutOfMemory;
use crate::geometry::{offset, tag};
use crate::key::Placer;
use crate::lengths::{LengthBin, LengthHistogram};
use crate::memory::{Memory, Ref};
use crate::segment::{self, Lane};
use directory::{Cell, Directory, after};
use uses::fresh_base;
use visit::Walk;

/// How access bytes are to be written at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessClock {
    pub(crate) coding: Coding,
    pub(crate) now_s: u32,
}

/// The entries of one database in one shard, found by key.
#[derive(Debug)]
pub(crate) struct Table {
    directory: Directory,
    len: usize,
    volatiles: usize,
    segments: usize,
    segment_bytes: usize,
    /// No entry expires before this, unless a walk is going on.
    earliest_expiry_ms: u64,
    walk: Walk,
    /// How long the values are; made with the first of them.
    lengths: Option<Box<LengthHistogram>>,
}

/// Where an entry is; true until the table changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    segment: Ref,
    home: usize,
    at: Lane,
    /// The entry.
    pub(crate) entry: Ref,
}

/// Where entries with a prefix belong.
struct Spot {
    cell: Cell,
    address: NonNull<u8>,
    offset: u32,
    home: usize,
}

impl Default for Table {
    fn default() -> Self {
        Table {
            directory: Directory::default(),
            len: 0,
            volatiles: 0,
            segments: 0,
            segment_bytes: 0,
            earliest_expiry_ms: u64::MAX,
            walk: Walk::Idle,
            lengths: None,
        }
    }
}

impl Table {
    /// Entries.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Entries with an expiry.
    pub(crate) fn volatiles(&self) -> usize {
        self.volatiles
    }

    /// No entry expires before this.
    pub(crate) fn earliest_expiry_ms(&self) -> u64 {
        self.earliest_expiry_ms
    }

    /// Bytes of the segments, which lie in the shard's memory.
    pub(crate) fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// Bytes of the directory, which lies in the process's heap.
    pub(crate) fn directory_bytes(&self) -> usize {
        self.directory.bytes()
    }

    /// How long the values are, as counted by whoever writes them.
    pub(crate) fn lengths(&self) -> Option<&LengthHistogram> {
        self.lengths.as_deref()
    }

    /// Counts the length of a new value.
    #[inline]
    pub(crate) fn count_length(&mut self, bin: LengthBin) {
        self.lengths.get_or_insert_default().add(bin);
    }

    /// A value that was counted is gone.
    #[inline]
    pub(crate) fn uncount_length(&mut self, bin: LengthBin) {
        if let Some(lengths) = &mut self.lengths {
            lengths.subtract(bin);
        }
    }

    /// A value that was counted has another length.
    #[inline(always)]
    pub(crate) fn recount_length(&mut self, before: LengthBin, after: LengthBin) {
        if before != after {
            self.move_length(before, after);
        }
    }

    fn move_length(&mut self, before: LengthBin, after: LengthBin) {
        self.uncount_length(before);
        self.count_length(after);
    }

    #[inline(always)]
    fn spot(&self, memory: &Memory, prefix: u64) -> Option<Spot> {
        let cell = self.directory.get(prefix)?;
        let offset = offset(prefix, u32::from(cell.depth));
        Some(Spot {
            cell,
            address: memory.address(cell.segment),
            offset,
            home: cell.geometry().home(offset),
        })
    }

    /// Puts an entry in, whose key is not there yet.
    ///
    /// # Errors
    /// [`OutOfMemory`] if the table must grow and cannot; it is as it was.
    pub(crate) fn insert(
        &mut self,
        memory: &mut Memory,
        placer: &Placer,
        clock: &AccessClock,
        prefix: u64,
        entry: Ref,
        expiry_ms: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        loop {
            let Some(spot) = self.spot(memory, prefix) else {
                self.begin(memory)?;
                continue;
            };
            // SAFETY: the directory names live segments, and nothing else refers to this one.
            let (base_s, mut segment) =
                unsafe { (fresh_base(spot.address, clock), segment::edit(spot.address)) };
            let slot = Slot {
                tag: tag(spot.offset),
                access: clock.coding.initial(base_s, clock.now_s),
                is_volatile: expiry_ms.is_some(),
                reference: entry,
            };
            if segment.insert(spot.offset, slot) {
                if let Some(at_ms) = expiry_ms {
                    segment.header.earliest_expiry_ms =
                        segment.header.earliest_expiry_ms.min(at_ms);
                    self.earliest_expiry_ms = self.earliest_expiry_ms.min(at_ms);
                    self.volatiles += 1;
                }
                self.len += 1;
                return Ok(());
            }
            self.make_room(memory, placer, spot.cell, prefix)?;
        }
    }

    /// Takes an entry out, and returns it. The caller frees it.
    pub(crate) fn remove(
        &mut self,
        memory: &mut Memory,
        placer: &Placer,
        clock: &AccessClock,
        place: &Place,
    ) -> Ref {
        // SAFETY: the place is that of a live segment, which nothing else refers to.
        let mut segment = unsafe { segment::edit(memory.address(place.segment)) };
        let volatiles = segment.header.volatiles;
        segment.remove(place.at, place.home);
        self.volatiles -= usize::from(volatiles - segment.header.volatiles);
        self.len -= 1;
        if rehash::is_sparse(&segment) {
            let prefix = segment.header.prefix;
            self.shrink(memory, placer, clock, prefix);
        }
        place.entry
    }

    /// Puts another reference in the place of the entry's. The key is the same.
    #[inline]
    pub(crate) fn set_reference(&mut self, memory: &mut Memory, place: &Place, entry: Ref) {
        // SAFETY: the place is that of a live segment, which nothing else refers to.
        let segment = unsafe { segment::edit(memory.address(place.segment)) };
        segment.buckets[place.at.bucket].set_reference(place.at.lane, entry);
    }

    /// Notes when the entry expires.
    pub(crate) fn set_expiry(
        &mut self,
        memory: &mut Memory,
        place: &Place,
        expiry_ms: Option<u64>,
    ) {
        // SAFETY: the place is that of a live segment, which nothing else refers to.
        let mut segment = unsafe { segment::edit(memory.address(place.segment)) };
        let before = segment.header.volatiles;
        segment.set_expiry(place.at, expiry_ms);
        self.volatiles =
            self.volatiles + usize::from(segment.header.volatiles) - usize::from(before);
        if let Some(at_ms) = expiry_ms {
            self.earliest_expiry_ms = self.earliest_expiry_ms.min(at_ms);
        }
    }

    /// Refers to the segment at `to` instead of the one at `from`; false if this table has no segment
    /// at `from`.
    ///
    /// # Safety
    /// `to` is a live object that holds a copy of the segment at `from`.
    pub(crate) unsafe fn move_segment(&mut self, memory: &Memory, from: Ref, to: Ref) -> bool {
        // SAFETY: by the caller's promise.
        let segment = unsafe { segment::view(memory.address(to)) };
        let Some(cell) = self.directory.get(segment.header.prefix) else {
            return false;
        };
        if cell.segment != from {
            return false;
        }
        let moved = Cell::new(to, u32::from(cell.depth), cell.geometry());
        self.directory.replace(segment.header.prefix, moved);
        true
    }

    /// The lowest prefix of the segment at `segment`.
    ///
    /// # Safety
    /// `segment` is a live segment of `memory`, or a copy of one.
    pub(crate) unsafe fn prefix_of_segment(memory: &Memory, segment: Ref) -> u64 {
        // SAFETY: by the caller's promise.
        unsafe { segment::view(memory.address(segment)) }
            .header
            .prefix
    }

    /// Bytes of the segment at `segment`.
    ///
    /// # Safety
    /// `segment` is a live segment of `memory`.
    pub(crate) unsafe fn bytes_of_segment(memory: &Memory, segment: Ref) -> usize {
        // SAFETY: by the caller's promise.
        let view = unsafe { segment::view(memory.address(segment)) };
        view.geometry().bytes()
    }

    /// Whether a segment may lie at an address.
    pub(crate) fn is_place_for_segment(address: NonNull<u8>) -> bool {
        address.as_ptr().addr().is_multiple_of(segment::ALIGNMENT)
    }

    /// Frees the entries and the segment at `prefix`; returns where the next segment begins. Lengths
    /// stay counted.
    ///
    /// # Safety
    /// The caller never again asks the table for a prefix of this segment, and forgets the table
    /// once all its segments are released.
    pub(crate) unsafe fn release_segment(
        &mut self,
        memory: &mut Memory,
        prefix: u64,
        mut on_entry: impl FnMut(&Entry<'_>),
    ) -> Option<u64> {
        let cell = self.directory.get(prefix)?;
        // SAFETY: the directory names live segments; this one is freed after its last use.
        let segment = unsafe { segment::view(memory.address(cell.segment)) };
        let entries: Vec<Ref> = segment.slots().map(|(_, _, slot)| slot.reference).collect();
        let next = after(segment.header.prefix, u32::from(cell.depth));
        self.len -= usize::from(segment.header.len);
        self.volatiles -= usize::from(segment.header.volatiles);
        self.segments -= 1;
        self.segment_bytes -= cell.geometry().bytes();
        for (n, entry) in entries.iter().enumerate() {
            if let Some(ahead) = entries.get(n + RELEASE_AHEAD) {
                memory.prefetch(*ahead);
            }
            // SAFETY: the entry is live, and the slot that refers to it is never looked at again.
            unsafe {
                on_entry(&Entry::read(memory, *entry));
                entry::release(memory, *entry);
            }
        }
        // SAFETY: the segment is live, and the caller never asks for it again.
        unsafe { segment::release(memory, cell.segment) };
        next
    }
}

/// How many entries ahead of the one being freed are asked for.
const RELEASE_AHEAD: usize = 12;
