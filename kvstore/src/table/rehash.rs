//! Segments take another size, split in two, and merge.
//!
//! A new segment is filled before the old one is freed and before the directory changes, so running
//! out of memory midway leaves the table as it was. Growing, shrinking and merging copy slots whose
//! new place follows from home and tag; a split reads the key of every entry, some 15 ns each with
//! the entries asked for ahead of time.

use crate::bucket::Slot;
use crate::entry::Entry;
use crate::error::OutOfMemory;
use crate::geometry::{
    BUCKET_SLOTS, DEPTH_MAX, Geometry, OFFSET_BITS, Recovered, largest_before_split, offset, tag,
};
use crate::key::Placer;
use crate::memory::{Memory, Ref};
use crate::segment::{self, Edit, Filler, View};
use crate::table::directory::Cell;
use crate::table::uses::{fresh_base, move_base};
use crate::table::visit::Walk;
use crate::table::{AccessClock, Table};

/// A segment is sparse when fewer than this many slots of 1000 are in use. Well below half of what
/// a new size is filled to, so that a few insertions and removals do not resize it back and forth.
const SPARSE_PER_MILLE: usize = 500;

/// Two halves merge when together they have at most this many entries. The smallest segment that
/// splits has about 700.
const MERGED_MAX: usize = 400;

/// How many entries ahead of the one being read are asked for.
const READ_AHEAD: usize = 12;

/// Whether a segment should be made smaller or merged.
#[inline]
pub(super) fn is_sparse(segment: &Edit<'_>) -> bool {
    usize::from(segment.header.len) * 1000
        < segment.buckets.len() * (BUCKET_SLOTS * SPARSE_PER_MILLE)
}

impl Table {
    /// Makes the first segment.
    pub(super) fn begin(&mut self, memory: &mut Memory) -> Result<(), OutOfMemory> {
        let geometry = Geometry::for_count(1).ok_or(OutOfMemory)?;
        let segment = segment::create(memory, geometry, 0, 0)?;
        self.directory.begin(Cell::new(segment, 0, geometry));
        self.count_segment(geometry);
        Ok(())
    }

    fn count_segment(&mut self, geometry: Geometry) {
        self.segments += 1;
        self.segment_bytes += geometry.bytes();
    }

    fn release_old(&mut self, memory: &mut Memory, cell: Cell) {
        self.segments -= 1;
        self.segment_bytes -= cell.geometry().bytes();
        // SAFETY: the directory does not name the segment any more, and its slots were copied.
        unsafe { segment::release(memory, cell.segment) };
    }

    /// Makes the segment of `prefix`, which is `cell`, larger, or splits it.
    #[cold]
    pub(super) fn make_room(
        &mut self,
        memory: &mut Memory,
        placer: &Placer,
        cell: Cell,
        prefix: u64,
    ) -> Result<(), OutOfMemory> {
        // SAFETY: the directory names live segments; this one is only read until it is released.
        let old = unsafe { segment::view(memory.address(cell.segment)) };
        let limit = largest_before_split(old.header.prefix, u32::from(cell.depth));
        let mut geometry = cell
            .geometry()
            .larger()
            .filter(|larger| larger.bytes() <= limit.bytes());
        while let Some(larger) = geometry {
            if let Some(new) = resized(memory, placer, &old, larger)? {
                self.directory
                    .replace(prefix, Cell::new(new, u32::from(cell.depth), larger));
                self.count_segment(larger);
                self.release_old(memory, cell);
                return Ok(());
            }
            geometry = larger.larger();
        }
        self.split(memory, placer, cell, prefix)
    }

    fn split(
        &mut self,
        memory: &mut Memory,
        placer: &Placer,
        cell: Cell,
        prefix: u64,
    ) -> Result<(), OutOfMemory> {
        let depth = u32::from(cell.depth);
        if depth >= DEPTH_MAX {
            return Err(OutOfMemory);
        }
        // SAFETY: the directory names live segments; this one is only read until it is released.
        let old = unsafe { segment::view(memory.address(cell.segment)) };
        let boundary = old.header.prefix | 1 << (63 - depth);
        let mut slots = Vec::with_capacity(usize::from(old.header.len));
        old.each_slot(|_, slot| slots.push(slot));
        let (mut low, mut high) = (
            Vec::with_capacity(slots.len()),
            Vec::with_capacity(slots.len()),
        );
        for (n, slot) in slots.iter().enumerate() {
            if let Some(ahead) = slots.get(n + READ_AHEAD) {
                memory.prefetch(ahead.reference);
            }
            // SAFETY: the references in a table are live entries of its memory.
            let prefix = placer.prefix(unsafe { Entry::read(memory, slot.reference) }.key());
            let half = if prefix < boundary {
                &mut low
            } else {
                &mut high
            };
            half.push((offset(prefix, depth + 1), *slot));
        }
        let low = filled(memory, &old, old.header.prefix, depth + 1, &low)?;
        let high = match filled(memory, &old, boundary, depth + 1, &high) {
            Ok(high) => high,
            Err(error) => {
                // SAFETY: the segment is new, and nothing refers to it.
                unsafe { segment::release(memory, low.segment) };
                return Err(error);
            }
        };
        self.directory.split(prefix, low, high);
        self.count_segment(low.geometry());
        self.count_segment(high.geometry());
        self.release_old(memory, cell);
        Ok(())
    }

    /// Makes the segment of `prefix` smaller, merges it with its other half, or ends the table. If
    /// there is no memory for that, all stays as it is.
    #[cold]
    pub(super) fn shrink(
        &mut self,
        memory: &mut Memory,
        placer: &Placer,
        clock: &AccessClock,
        prefix: u64,
    ) {
        while let Some(cell) = self.directory.get(prefix) {
            // SAFETY: the directory names live segments; this one is only read until it is released.
            let old = unsafe { segment::view(memory.address(cell.segment)) };
            let len = usize::from(old.header.len);
            if len == 0 && cell.depth == 0 {
                self.directory.end();
                self.release_old(memory, cell);
                self.earliest_expiry_ms = u64::MAX;
                self.walk = Walk::Idle;
                return;
            }
            if self.merge(memory, placer, clock, prefix, cell) {
                continue;
            }
            let smaller = Geometry::for_count(len.max(1))
                .filter(|size| size.bytes() < cell.geometry().bytes());
            let Some(smaller) = smaller else { return };
            let Ok(Some(new)) = resized(memory, placer, &old, smaller) else {
                return;
            };
            self.directory
                .replace(prefix, Cell::new(new, u32::from(cell.depth), smaller));
            self.count_segment(smaller);
            self.release_old(memory, cell);
            return;
        }
    }

    /// Merges the segment of `prefix`, which is `cell`, with its other half, if both are small.
    fn merge(
        &mut self,
        memory: &mut Memory,
        placer: &Placer,
        clock: &AccessClock,
        prefix: u64,
        cell: Cell,
    ) -> bool {
        let depth = u32::from(cell.depth);
        let Some(buddy) = self.directory.buddy(prefix, depth) else {
            return false;
        };
        // SAFETY: the directory names live segments, and these two are different ones. They are
        // opened for a moment, to bring their access bytes to one base.
        let count = unsafe {
            let base_s = fresh_base(memory.address(cell.segment), clock)
                .max(fresh_base(memory.address(buddy.segment), clock));
            let mut one = segment::edit(memory.address(cell.segment));
            let mut other = segment::edit(memory.address(buddy.segment));
            let count = usize::from(one.header.len) + usize::from(other.header.len);
            if count > MERGED_MAX {
                return false;
            }
            move_base(&mut one, clock.coding, base_s);
            move_base(&mut other, clock.coding, base_s);
            count
        };
        // SAFETY: as above; from here on they are only read.
        let (one, other) = unsafe {
            (
                segment::view(memory.address(cell.segment)),
                segment::view(memory.address(buddy.segment)),
            )
        };
        let (low, high) = if one.header.prefix < other.header.prefix {
            (one, other)
        } else {
            (other, one)
        };
        let mut slots = Vec::with_capacity(count);
        for (half, side) in [(&low, 0), (&high, 1u32)] {
            half.each_slot(|recovered, slot| {
                let below = match recovered {
                    // An uncertain offset is odd, so halving makes it certain.
                    Some(Recovered::Exactly(offset) | Recovered::Either(offset)) => offset,
                    None => offset_by_key(memory, placer, slot.reference, depth),
                };
                slots.push((side << (OFFSET_BITS - 1) | below >> 1, slot));
            });
        }
        let Ok(merged) = filled(memory, &low, low.header.prefix, depth - 1, &slots) else {
            return false;
        };
        // SAFETY: the merged segment is new, and nothing else refers to it.
        let segment = unsafe { segment::edit(memory.address(merged.segment)) };
        segment.header.earliest_expiry_ms = low
            .header
            .earliest_expiry_ms
            .min(high.header.earliest_expiry_ms);
        self.directory.merge(prefix, merged);
        self.count_segment(merged.geometry());
        self.release_old(memory, cell);
        self.release_old(memory, buddy);
        true
    }
}

/// The offset of an entry at `depth`, by its key.
fn offset_by_key(memory: &Memory, placer: &Placer, entry: Ref, depth: u32) -> u32 {
    // SAFETY: the references in a table are live entries of its memory.
    offset(
        placer.prefix(unsafe { Entry::read(memory, entry) }.key()),
        depth,
    )
}

/// Copies what is known of a segment as a whole to one that was made from it.
fn copy_header(from: &View<'_>, to: &mut Edit<'_>) {
    to.header.coding_kind = from.header.coding_kind;
    to.header.access_base_s = from.header.access_base_s;
    to.header.earliest_expiry_ms = from.header.earliest_expiry_ms;
}

/// A new segment of the given shape with the slots of `old`; `None` if they do not all find a place.
fn resized(
    memory: &mut Memory,
    placer: &Placer,
    old: &View<'_>,
    geometry: Geometry,
) -> Result<Option<Ref>, OutOfMemory> {
    let depth = u32::from(old.header.depth);
    let object = segment::create(memory, geometry, old.header.prefix, depth)?;
    // SAFETY: the segment is new, and nothing else refers to it.
    let mut new = unsafe { segment::edit(memory.address(object)) };
    copy_header(old, &mut new);
    if old.geometry().recovers() {
        old.stash()
            .for_each(|(_, slot)| memory.prefetch(slot.reference));
    } else {
        old.each_slot(|_, slot| memory.prefetch(slot.reference));
    }
    let (mut filler, mut fits) = (Filler::new(new), true);
    old.each_slot(|recovered, slot| {
        let offset = match recovered {
            Some(Recovered::Exactly(offset)) => offset,
            Some(Recovered::Either(offset))
                if geometry.home(offset) == geometry.home(offset - 1) =>
            {
                offset
            }
            _ => offset_by_key(memory, placer, slot.reference, depth),
        };
        fits = fits && filler.insert(offset, slot);
    });
    if fits {
        return Ok(Some(object));
    }
    // SAFETY: the segment is new, and nothing refers to it.
    unsafe { segment::release(memory, object) };
    Ok(None)
}

/// A new segment with these offsets and slots, as small as they allow, made from `old`.
fn filled(
    memory: &mut Memory,
    old: &View<'_>,
    prefix: u64,
    depth: u32,
    slots: &[(u32, Slot)],
) -> Result<Cell, OutOfMemory> {
    let mut geometry = Some(Geometry::for_count(slots.len().max(1)).unwrap_or(Geometry::LARGEST));
    while let Some(shape) = geometry {
        let object = segment::create(memory, shape, prefix, depth)?;
        // SAFETY: the segment is new, and nothing else refers to it.
        let mut new = unsafe { segment::edit(memory.address(object)) };
        copy_header(old, &mut new);
        let mut filler = Filler::new(new);
        let fits = slots.iter().all(|(offset, slot)| {
            filler.insert(
                *offset,
                Slot {
                    tag: tag(*offset),
                    ..*slot
                },
            )
        });
        if fits {
            return Ok(Cell::new(object, depth, shape));
        }
        // SAFETY: the segment is new, and nothing refers to it.
        unsafe { segment::release(memory, object) };
        geometry = shape.larger();
    }
    // The prefixes of one half are so alike that they do not fit into the largest segment: with a
    // keyed hash this does not happen.
    Err(OutOfMemory)
}
