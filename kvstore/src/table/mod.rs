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

mod directory;
mod rehash;
#[cfg(test)]
mod tests;

use std::ptr::NonNull;

use crate::access::Coding;
use crate::bucket::{Bucket, Slot, lanes};
use crate::entry::{self, Entry, Header};
use crate::error::OutOfMemory;
use crate::geometry::{OFFSET_BITS, offset, tag};
use crate::key::Placer;
use crate::memory::{Memory, Ref, prefetch};
use crate::segment::{self, Lane};
use directory::{Cell, Directory, after};

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

    /// What `look` finds among the entries whose place and tag fit `prefix`, and where.
    #[inline(always)]
    fn search<L: Look>(&self, memory: &Memory, prefix: u64, look: &L) -> Option<(Place, L::Found)> {
        let spot = self.spot(memory, prefix)?;
        let tag = tag(spot.offset);
        // SAFETY: the directory names live segments with the shapes they have, a home is one of
        // their buckets, and the table is not changed while `self` is borrowed.
        let home = unsafe { segment::bucket(spot.address, spot.home) };
        if let Some(found) = look_in(
            &spot,
            spot.home,
            home,
            home.with_tag(tag) & !home.guests(),
            look,
        ) {
            return Some(found);
        }
        let buckets = spot.cell.geometry().buckets();
        if spot.home + 1 < buckets {
            // SAFETY: as above.
            let next = unsafe { segment::bucket(spot.address, spot.home + 1) };
            let found = look_in(
                &spot,
                spot.home + 1,
                next,
                next.with_tag(tag) & next.guests(),
                look,
            );
            if found.is_some() {
                return found;
            }
        }
        if home.stashed() == 0 {
            return None;
        }
        (spot.cell.geometry().homes()..buckets).find_map(|index| {
            // SAFETY: as above.
            let stash = unsafe { segment::bucket(spot.address, index) };
            look_in(
                &spot,
                index,
                stash,
                stash.with_tag(tag) & !stash.guests(),
                look,
            )
        })
    }

    /// Where the entry with this key is, and its header.
    #[inline]
    pub(crate) fn find(&self, memory: &Memory, prefix: u64, key: &[u8]) -> Option<(Place, Header)> {
        self.search(memory, prefix, &ByKey { memory, key })
    }

    /// Where the table refers to this entry, whose key has this prefix. The entry is not read.
    pub(crate) fn find_reference(&self, memory: &Memory, prefix: u64, entry: Ref) -> Option<Place> {
        self.search(memory, prefix, &ByReference(entry))
            .map(|(place, ())| place)
    }

    /// Asks the CPU for the buckets where a key may be.
    #[inline]
    pub(crate) fn prefetch_buckets(&self, memory: &Memory, prefix: u64) {
        if let Some(spot) = self.spot(memory, prefix) {
            prefetch(segment::bucket_address(spot.address, spot.home));
            prefetch(segment::bucket_address(spot.address, spot.home + 1));
        }
    }

    /// Asks the CPU for the entries that a key may be in. Reads its buckets.
    #[inline]
    pub(crate) fn prefetch_entries(&self, memory: &Memory, prefix: u64) {
        // No entry is the one, so all candidates are visited.
        let none = self.search(memory, prefix, &Prefetch(memory));
        debug_assert!(none.is_none());
    }

    /// Notes a use of the entry. `random` is drawn only where a use counter may rise.
    #[inline]
    pub(crate) fn touch(
        &mut self,
        memory: &mut Memory,
        place: &Place,
        clock: &AccessClock,
        random: impl FnOnce() -> u32,
    ) {
        let address = memory.address(place.segment);
        // SAFETY: the place is that of a live segment, which nothing else refers to.
        let base_s = unsafe { fresh_base(address, clock) };
        // SAFETY: as above, and the place is in one of the segment's buckets.
        let bucket = unsafe { segment::bucket_mut(address, place.at.bucket) };
        let byte = bucket.access(place.at.lane);
        let touched = clock.coding.touch(byte, base_s, clock.now_s, random);
        // A line that is only read stays shared and clean.
        if touched != byte {
            bucket.set_access(place.at.lane, touched);
        }
    }

    /// The access byte of the entry, and what it is relative to. `None` if it is in another coding.
    pub(crate) fn access(
        &self,
        memory: &Memory,
        place: &Place,
        coding: Coding,
    ) -> Option<(u8, u32)> {
        // SAFETY: the place is that of a live segment.
        let segment = unsafe { segment::view(memory.address(place.segment)) };
        (segment.header.coding_kind == coding.kind()).then(|| {
            (
                segment.buckets[place.at.bucket].access(place.at.lane),
                segment.header.access_base_s,
            )
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

    /// Frees the entries and the segment at `prefix`; returns where the next segment begins.
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

    /// Checks the whole table: directory, segments, buckets, places and tags of all entries, counts,
    /// bounds of expiry. Calls `on_entry` with every entry.
    ///
    /// # Panics
    /// If anything is wrong.
    pub(crate) fn check(
        &self,
        memory: &Memory,
        placer: &Placer,
        mut on_entry: impl FnMut(Ref, &Entry<'_>),
    ) {
        self.directory.check();
        let (mut len, mut volatiles, mut segments, mut bytes) = (0, 0, 0, 0);
        for (prefix, cell) in self.directory.segments() {
            // SAFETY: the directory names live segments; nothing changes during the borrow.
            let view = unsafe { segment::view(memory.address(cell.segment)) };
            let depth = u32::from(cell.depth);
            assert_eq!(
                (view.header.prefix, view.header.depth, view.geometry()),
                (prefix, cell.depth, cell.geometry())
            );
            if self.walk == Walk::Idle {
                assert!(
                    view.header.volatiles == 0
                        || view.header.earliest_expiry_ms >= self.earliest_expiry_ms
                );
            }
            segments += 1;
            bytes += cell.geometry().bytes();
            len += usize::from(view.header.len);
            volatiles += usize::from(view.header.volatiles);
            let prefix_of = |entry: Ref| {
                // SAFETY: the references in a table are live entries of its memory.
                placer.prefix(unsafe { Entry::read(memory, entry) }.key())
            };
            segment::check(&view, |entry| {
                cell.geometry().home(offset(prefix_of(entry), depth))
            });
            for (_, _, slot) in view.slots() {
                // SAFETY: as above.
                let entry = unsafe { Entry::read(memory, slot.reference) };
                let own = placer.prefix(entry.key());
                assert!(
                    own >= prefix && after(prefix, depth).is_none_or(|end| own < end),
                    "a key outside its segment"
                );
                assert_eq!(slot.tag, tag(offset(own, depth)));
                assert_eq!(slot.is_volatile, entry.header().expiry_ms().is_some());
                assert!(
                    entry
                        .header()
                        .expiry_ms()
                        .is_none_or(|at| at >= view.header.earliest_expiry_ms)
                );
                on_entry(slot.reference, &entry);
            }
        }
        assert_eq!(
            (self.len, self.volatiles, self.segments, self.segment_bytes),
            (len, volatiles, segments, bytes),
            "the table's counts"
        );
    }
}

/// How many entries ahead of the one being freed are asked for.
const RELEASE_AHEAD: usize = 12;

/// What a search asks each entry whose place and tag fit. A trait rather than a closure, since only
/// so is the compiler bound to inline it.
trait Look {
    type Found;

    /// `Some` ends the search. The entry is one that the table refers to.
    fn look(&self, entry: Ref) -> Option<Self::Found>;
}

struct ByKey<'a> {
    memory: &'a Memory,
    key: &'a [u8],
}

impl Look for ByKey<'_> {
    type Found = Header;

    #[inline(always)]
    fn look(&self, entry: Ref) -> Option<Header> {
        // SAFETY: the references in a table are live entries of its memory.
        unsafe { entry::header_if_key(self.memory, entry, self.key) }
    }
}

struct ByReference(Ref);

impl Look for ByReference {
    type Found = ();

    #[inline(always)]
    fn look(&self, entry: Ref) -> Option<()> {
        (entry == self.0).then_some(())
    }
}

struct Prefetch<'a>(&'a Memory);

impl Look for Prefetch<'_> {
    type Found = ();

    #[inline(always)]
    fn look(&self, entry: Ref) -> Option<()> {
        // SAFETY: the references in a table are live entries of its memory.
        unsafe { entry::prefetch_entry(self.0, entry) };
        None
    }
}

/// What `look` finds in the slots of one bucket that are set in `mask`.
#[inline(always)]
fn look_in<L: Look>(
    spot: &Spot,
    index: usize,
    bucket: &Bucket,
    mut mask: u32,
    look: &L,
) -> Option<(Place, L::Found)> {
    while mask != 0 {
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        if let Some(entry) = bucket.reference(lane)
            && let Some(found) = look.look(entry)
        {
            let at = Lane {
                bucket: index,
                lane,
            };
            return Some((
                Place {
                    segment: spot.cell.segment,
                    home: spot.home,
                    at,
                    entry,
                },
                found,
            ));
        }
    }
    None
}

/// How far a walk over the segments has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Walk {
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

/// Reports the entries of some homes of a segment with their ranks for eviction, but for those in
/// the stash.
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

/// Brings the base of a segment's access bytes within reach of this moment, and returns it.
///
/// # Safety
/// A live segment is at `address`, and nothing else refers to it.
#[inline(always)]
unsafe fn fresh_base(address: NonNull<u8>, clock: &AccessClock) -> u32 {
    // SAFETY: by the caller's promise.
    let header = unsafe { segment::header(address) };
    let (kind, base_s) = (header.coding_kind, header.access_base_s);
    if kind != clock.coding.kind() || clock.coding.needs_rebase(base_s, clock.now_s) {
        // SAFETY: by the caller's promise.
        return rebase(&mut unsafe { segment::edit(address) }, clock);
    }
    base_s
}

#[cold]
fn rebase(segment: &mut segment::Edit<'_>, clock: &AccessClock) -> u32 {
    let coding = clock.coding;
    let old_s = segment.header.access_base_s;
    if segment.header.coding_kind != coding.kind() {
        // The other coding's bytes say nothing in this one: all entries begin anew.
        for bucket in segment.buckets.iter_mut() {
            *bucket.access_mut() = [coding.initial(clock.now_s, clock.now_s); _];
        }
        segment.header.coding_kind = coding.kind();
        segment.header.access_base_s = clock.now_s;
        return clock.now_s;
    }
    let new_s = coding.new_base(old_s, clock.now_s);
    move_base(segment, coding, new_s);
    new_s
}

/// Rewrites the access bytes of a segment relative to another base.
fn move_base(segment: &mut segment::Edit<'_>, coding: Coding, new_s: u32) {
    let old_s = segment.header.access_base_s;
    let mut translated = [0; 256];
    for (byte, target) in (0..=u8::MAX).zip(&mut translated) {
        *target = coding.rebase(byte, old_s, new_s);
    }
    for byte in segment
        .buckets
        .iter_mut()
        .flat_map(|bucket| bucket.access_mut())
    {
        *byte = translated[usize::from(*byte)];
    }
    segment.header.access_base_s = new_s;
}
