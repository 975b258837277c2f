//! Notes of uses: the access bytes of entries, and their base.

use std::ptr::NonNull;

use crate::access::Coding;
use crate::memory::Memory;
use crate::segment;
use crate::table::{AccessClock, Place, Table};

impl Table {
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
}

/// Brings the base of a segment's access bytes within reach of this moment, and returns it.
///
/// # Safety
/// A live segment is at `address`, and nothing else refers to it.
#[inline(always)]
pub(super) unsafe fn fresh_base(address: NonNull<u8>, clock: &AccessClock) -> u32 {
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
pub(super) fn move_base(segment: &mut segment::Edit<'_>, coding: Coding, new_s: u32) {
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
