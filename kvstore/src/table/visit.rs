//! Passes over a table: scans, the walk of active expiry, samples for eviction.

use crate::bucket::{Slot, lanes};
use crate::entry::Entry;
use crate::geometry::{OFFSET_BITS, offset};
use crate::key::Placer;
use crate::memory::{Memory, Ref};
use crate::segment;
use crate::table::directory::after;
use crate::table::{AccessClock, Place, Spot, Table};

/// How far a walk over the segments has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    Idle,
    /// The segment of this prefix is next.
    At(u64),
    AtEnd,
}

/// A segment as active expiry and eviction see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentSummary {
    segment: Ref,
    /// The lowest prefix of its range.
    pub(crate) prefix: u64,
    /// Entries with an expiry.
    pub(crate) volatiles: usize,
    /// None of them expires before this.
    pub(crate) earliest_expiry_ms: u64,
    /// The lowest prefix of the next segment; `None` if this is the last.
    pub(crate) next: Option<u64>,
}

impl Table {
    /// Visits the entries of one home bucket: that of the 48-bit prefix `from48`, leaving out what
    /// comes before it in the order of prefixes. Returns where the next home begins, `None` at the
    /// end.
    pub(crate) fn scan_home(
        &self,
        memory: &Memory,
        placer: &Placer,
        from48: u64,
        visit: impl FnMut(Ref),
    ) -> Option<u64> {
        let from = from48 << 16;
        let spot = self.spot(memory, from)?;
        // The cursor may come from another geometry, in which a home began here.
        let begins_here = spot.cell.geometry().first_offset(spot.home) == spot.offset
            && from << u32::from(spot.cell.depth) & (u64::MAX >> OFFSET_BITS) == 0;
        let least = if begins_here { 0 } else { from };
        visit_home(memory, placer, &spot, least, visit)
    }

    /// The same, but all entries of the home are visited.
    pub(crate) fn scan_whole_home(
        &self,
        memory: &Memory,
        placer: &Placer,
        from48: u64,
        visit: impl FnMut(Ref),
    ) -> Option<u64> {
        visit_home(memory, placer, &self.spot(memory, from48 << 16)?, 0, visit)
    }

    /// The segment of `prefix`; `None` if the table is empty.
    pub(crate) fn segment_at(&self, memory: &Memory, prefix: u64) -> Option<SegmentSummary> {
        let cell = self.directory.get(prefix)?;
        // SAFETY: the directory names live segments.
        let segment = unsafe { segment::view(memory.address(cell.segment)) };
        Some(SegmentSummary {
            segment: cell.segment,
            prefix: segment.header.prefix,
            volatiles: usize::from(segment.header.volatiles),
            earliest_expiry_ms: segment.header.earliest_expiry_ms,
            next: after(segment.header.prefix, u32::from(cell.depth)),
        })
    }

    /// The entries with an expiry of the segment of `prefix`, appended to `entries`.
    pub(crate) fn volatiles_of_segment(
        &self,
        memory: &Memory,
        prefix: u64,
        entries: &mut Vec<Ref>,
    ) {
        let Some(cell) = self.directory.get(prefix) else {
            return;
        };
        // SAFETY: the directory names live segments.
        let segment = unsafe { segment::view(memory.address(cell.segment)) };
        for bucket in segment.buckets {
            entries.extend(lanes(bucket.volatiles()).filter_map(|lane| bucket.reference(lane)));
        }
    }

    /// The next segment of a walk that makes the bounds of expiry exact; `None` at its end. A walk
    /// begins when there is none. Meanwhile the table's own bound only counts what was walked over.
    pub(crate) fn walk(&mut self, memory: &Memory) -> Option<SegmentSummary> {
        let at = match self.walk {
            Walk::Idle => {
                self.earliest_expiry_ms = u64::MAX;
                Some(0)
            }
            Walk::At(prefix) => Some(prefix),
            Walk::AtEnd => None,
        };
        let summary = at.and_then(|prefix| self.segment_at(memory, prefix));
        self.walk = summary.map_or(Walk::Idle, |summary| Walk::At(summary.prefix));
        summary
    }

    /// The walk is done with a segment, of which the earliest expiry is now known.
    pub(crate) fn walked(
        &mut self,
        memory: &mut Memory,
        summary: &SegmentSummary,
        earliest_ms: u64,
    ) {
        self.walk = summary.next.map_or(Walk::AtEnd, Walk::At);
        let mut bound_ms = earliest_ms;
        match self.directory.get(summary.prefix) {
            // SAFETY: the directory names live segments, and nothing else refers to this one.
            Some(cell) => unsafe {
                let segment = segment::edit(memory.address(cell.segment));
                if cell.segment == summary.segment {
                    segment.header.earliest_expiry_ms = earliest_ms;
                } else {
                    // Removals made another segment of it, perhaps with its neighbour: the old
                    // bounds, which are lower, still hold.
                    bound_ms = bound_ms.min(segment.header.earliest_expiry_ms);
                }
            },
            None => bound_ms = u64::MAX,
        }
        self.earliest_expiry_ms = self.earliest_expiry_ms.min(bound_ms);
    }

    /// The entries of the home bucket of `prefix`, each with its rank for eviction at `clock`, the
    /// higher the sooner. With `only_volatile`, those that have an expiry.
    pub(crate) fn sample_bucket(
        &self,
        memory: &Memory,
        prefix: u64,
        clock: &AccessClock,
        only_volatile: bool,
        found: impl FnMut(u32, Place),
    ) {
        if let Some(spot) = self.spot(memory, prefix) {
            sample(&spot, spot.home..spot.home + 1, clock, only_volatile, found);
        }
    }

    /// The same for the whole segment of `prefix`.
    pub(crate) fn sample_segment(
        &self,
        memory: &Memory,
        placer: &Placer,
        prefix: u64,
        clock: &AccessClock,
        only_volatile: bool,
        mut found: impl FnMut(u32, Place),
    ) {
        let Some(spot) = self.spot(memory, prefix) else {
            return;
        };
        let (geometry, depth) = (spot.cell.geometry(), u32::from(spot.cell.depth));
        sample(&spot, 0..geometry.homes(), clock, only_volatile, &mut found);
        // SAFETY: the directory names live segments; nothing changes during the borrow.
        let segment = unsafe { segment::view(spot.address) };
        for (at, slot) in segment
            .stash()
            .filter(|(_, slot)| slot.is_volatile || !only_volatile)
        {
            // SAFETY: the references in a table are live entries of its memory.
            let own = placer.prefix(unsafe { Entry::read(memory, slot.reference) }.key());
            let home = geometry.home(offset(own, depth));
            found(
                rank_of(&segment, &slot, clock),
                Place {
                    segment: spot.cell.segment,
                    home,
                    at,
                    entry: slot.reference,
                },
            );
        }
    }
}

/// How soon the entry of a slot should be evicted.
fn rank_of(segment: &segment::View<'_>, slot: &Slot, clock: &AccessClock) -> u32 {
    // Bytes in another coding say nothing.
    if segment.header.coding_kind == clock.coding.kind() {
        clock
            .coding
            .rank(slot.access, segment.header.access_base_s, clock.now_s)
    } else {
        0
    }
}

/// Visits the entries of a home bucket whose prefix is at least `least`; returns where the next home
/// begins.
fn visit_home(
    memory: &Memory,
    placer: &Placer,
    spot: &Spot,
    least: u64,
    mut visit: impl FnMut(Ref),
) -> Option<u64> {
    // SAFETY: a spot is of a live segment, and nothing changes during the borrow of its table.
    let segment = unsafe { segment::view(spot.address) };
    let (geometry, depth) = (spot.cell.geometry(), u32::from(spot.cell.depth));
    let prefix_of = |entry: Ref| {
        // SAFETY: the references in a table are live entries of its memory.
        placer.prefix(unsafe { Entry::read(memory, entry) }.key())
    };
    for (_, slot) in segment.slots_of_home(spot.home) {
        if least == 0 || prefix_of(slot.reference) >= least {
            visit(slot.reference);
        }
    }
    if segment.buckets[spot.home].stashed() > 0 {
        for (_, slot) in segment.stash() {
            let prefix = prefix_of(slot.reference);
            if prefix >= least && geometry.home(offset(prefix, depth)) == spot.home {
                visit(slot.reference);
            }
        }
    }
    let next = if spot.home + 1 < geometry.homes() {
        let first = u64::from(geometry.first_offset(spot.home + 1));
        Some(segment.header.prefix + (first << (64 - OFFSET_BITS) >> depth))
    } else {
        after(segment.header.prefix, depth)
    };
    next.map(|prefix| prefix >> 16)
}

/// Reports the entries of some homes of a segment with their ranks for eviction, but for those in
/// the stash.
fn sample(
    spot: &Spot,
    homes: std::ops::Range<usize>,
    clock: &AccessClock,
    only_volatile: bool,
    mut found: impl FnMut(u32, Place),
) {
    // SAFETY: a spot is of a live segment, and nothing changes during the borrow of its table.
    let segment = unsafe { segment::view(spot.address) };
    for home in homes {
        for (at, slot) in segment.slots_of_home(home) {
            if slot.is_volatile || !only_volatile {
                let place = Place {
                    segment: spot.cell.segment,
                    home,
                    at,
                    entry: slot.reference,
                };
                found(rank_of(&segment, &slot, clock), place);
            }
        }
    }
}
