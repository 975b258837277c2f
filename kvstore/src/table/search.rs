//! Lookups: by key, by reference, and ahead of time.

use crate::bucket::Bucket;
use crate::entry::{self, Header};
use crate::geometry::tag;
use crate::memory::{Memory, Ref, prefetch};
use crate::segment::{self, Lane};
use crate::table::{Place, Spot, Table};

impl Table {
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
}

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
