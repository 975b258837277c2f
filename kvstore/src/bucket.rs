//! A bucket: ten slots of a table in one cache line.
//!
//! ```text
//! | tags 10 x 1 | access bytes 10 x 1 | references 10 x 4 | meta 4 |
//!
//! meta:  bits 0-9    guests: the slot's entry has the bucket before as its home
//!        bits 10-19  volatile: the slot's entry has an expiry
//!        bits 20-25  how many entries of this home are in the segment's stash
//! ```
//!
//! A tag of 0 marks a free slot. All ten tags are compared at once.

use crate::geometry::BUCKET_SLOTS;
use crate::memory::Ref;

/// One bit for each slot of a bucket.
pub(crate) const ALL_LANES: u32 = (1 << BUCKET_SLOTS) - 1;

const VOLATILE_SHIFT: u32 = 10;
const STASHED_SHIFT: u32 = 20;
const STASHED_MAX: u32 = 63;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) tag: u8,
    pub(crate) access: u8,
    pub(crate) is_volatile: bool,
    pub(crate) reference: Ref,
}

/// Ten slots.
#[derive(Clone)]
#[repr(C, align(16))]
pub(crate) struct Bucket {
    tags: [u8; BUCKET_SLOTS],
    access: [u8; BUCKET_SLOTS],
    references: [u32; BUCKET_SLOTS],
    meta: u32,
}

const _: () = assert!(size_of::<Bucket>() == crate::geometry::UNIT_BYTES);

/// The slots whose bits are set in a mask, in ascending order.
#[inline]
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let lane = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        Some(lane)
    })
}

impl Bucket {
    pub(crate) const EMPTY: Bucket = Bucket {
        tags: [0; BUCKET_SLOTS],
        access: [0; BUCKET_SLOTS],
        references: [0; BUCKET_SLOTS],
        meta: 0,
    };

    /// A bit for each slot whose tag is `tag`.
    #[inline]
    pub(crate) fn with_tag(&self, tag: u8) -> u32 {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::x86_64::{
                __m128i, _mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi8,
            };
            // SAFETY: SSE2 is part of x86-64; the bucket is aligned to 16 and its first 16 bytes are
            // tags and access bytes, all of them initialised.
            let mask = unsafe {
                let line = _mm_load_si128(std::ptr::from_ref(self).cast::<__m128i>());
                _mm_movemask_epi8(_mm_cmpeq_epi8(line, _mm_set1_epi8(tag as i8)))
            };
            mask as u32 & ALL_LANES
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        portable_with_tag(&self.tags, tag)
    }

    /// A bit for each free slot.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.with_tag(0)
    }

    /// A bit for each slot in use.
    #[inline]
    pub(crate) fn occupied(&self) -> u32 {
        !self.free() & ALL_LANES
    }

    /// A bit for each slot whose entry has the bucket before as its home.
    #[inline]
    pub(crate) fn guests(&self) -> u32 {
        self.meta & ALL_LANES
    }

    /// A bit for each slot whose entry has an expiry.
    #[inline]
    pub(crate) fn volatiles(&self) -> u32 {
        self.meta >> VOLATILE_SHIFT & ALL_LANES
    }

    /// How many entries with this home are in the stash.
    #[inline]
    pub(crate) fn stashed(&self) -> u32 {
        self.meta >> STASHED_SHIFT & STASHED_MAX
    }

    pub(crate) fn add_stashed(&mut self) {
        debug_assert!(self.stashed() < STASHED_MAX);
        self.meta += 1 << STASHED_SHIFT;
    }

    pub(crate) fn remove_stashed(&mut self) {
        debug_assert!(self.stashed() > 0);
        self.meta -= 1 << STASHED_SHIFT;
    }

    #[inline]
    pub(crate) fn reference(&self, lane: usize) -> Option<Ref> {
        Ref::from_raw(self.references[lane])
    }

    #[inline]
    pub(crate) fn set_reference(&mut self, lane: usize, reference: Ref) {
        self.references[lane] = reference.get();
    }

    #[inline]
    pub(crate) fn access(&self, lane: usize) -> u8 {
        self.access[lane]
    }

    #[inline]
    pub(crate) fn set_access(&mut self, lane: usize, byte: u8) {
        self.access[lane] = byte;
    }

    /// The access bytes of all slots, free ones included.
    pub(crate) fn access_mut(&mut self) -> &mut [u8; BUCKET_SLOTS] {
        &mut self.access
    }

    #[inline]
    pub(crate) fn set_volatile(&mut self, lane: usize, is_volatile: bool) {
        self.meta = self.meta & !(1 << (VOLATILE_SHIFT + lane as u32))
            | u32::from(is_volatile) << (VOLATILE_SHIFT + lane as u32);
    }

    /// The slot's content; `None` if it is free.
    #[inline]
    pub(crate) fn slot(&self, lane: usize) -> Option<Slot> {
        Some(Slot {
            tag: self.tags[lane],
            access: self.access[lane],
            is_volatile: self.volatiles() >> lane & 1 == 1,
            reference: self.reference(lane)?,
        })
    }

    /// Fills a free slot.
    #[inline]
    pub(crate) fn put(&mut self, lane: usize, slot: Slot, guest: bool) {
        debug_assert!(self.tags[lane] == 0 && slot.tag != 0);
        self.tags[lane] = slot.tag;
        self.access[lane] = slot.access;
        self.references[lane] = slot.reference.get();
        self.meta |= u32::from(guest) << lane
            | u32::from(slot.is_volatile) << (VOLATILE_SHIFT + lane as u32);
    }

    /// Empties a slot that is in use.
    #[inline]
    pub(crate) fn clear(&mut self, lane: usize) {
        self.tags[lane] = 0;
        self.access[lane] = 0;
        self.references[lane] = 0;
        self.meta &= !(1 << lane | 1 << (VOLATILE_SHIFT + lane as u32));
    }
}

/// The comparison in ordinary registers, eight tags at a time: a byte of `x` is 0 exactly if adding
/// 0x7f to its lower seven bits sets no high bit and its own high bit is not set either.
#[cfg(any(test, miri, not(target_arch = "x86_64")))]
fn portable_with_tag(tags: &[u8; BUCKET_SLOTS], tag: u8) -> u32 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let (mut head, mut tail) = ([0; 8], [!tag; 8]);
    head.copy_from_slice(&tags[..8]);
    tail[..BUCKET_SLOTS - 8].copy_from_slice(&tags[8..]);
    let zeros = |word: u64| {
        let x = word ^ u64::from_ne_bytes([tag; 8]);
        let high = !(((x & LOW) + LOW) | x | LOW);
        // Gathers the eight high bits, the first byte's into bit 0.
        (high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    };
    (zeros(u64::from_le_bytes(head)) | zeros(u64::from_le_bytes(tail)) << 8) as u32 & ALL_LANES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slot(tag: u8, is_volatile: bool) -> Slot {
        Slot {
            tag,
            access: tag ^ 0x55,
            is_volatile,
            reference: Ref::from_raw(u32::from(tag) * 7).expect("not 0"),
        }
    }

    proptest! {
        #[test]
        fn all_ways_to_compare_agree(tags: [u8; BUCKET_SLOTS], few: [bool; BUCKET_SLOTS], wanted: u8) {
            let mut bucket = Bucket::EMPTY;
            for lane in 0..BUCKET_SLOTS {
                bucket.tags[lane] = if few[lane] { wanted } else { tags[lane] };
                bucket.access[lane] = wanted;
            }
            for tag in [wanted, 0, 1, 0x80, 0xff] {
                let expected = (0..BUCKET_SLOTS).filter(|lane| bucket.tags[*lane] == tag).fold(0, |m, lane| m | 1 << lane);
                prop_assert_eq!(bucket.with_tag(tag), expected);
                prop_assert_eq!(portable_with_tag(&bucket.tags, tag), expected);
            }
        }

        #[test]
        fn slots_do_not_disturb_each_other(steps in proptest::collection::vec((0..BUCKET_SLOTS, 1u8.., any::<bool>(), any::<bool>()), 0..60)) {
            let mut bucket = Bucket::EMPTY;
            let mut model = [None; BUCKET_SLOTS];
            bucket.add_stashed();
            for (lane, tag, guest, is_volatile) in steps {
                if model[lane].is_some() {
                    bucket.clear(lane);
                    model[lane] = None;
                } else {
                    bucket.put(lane, slot(tag, is_volatile), guest);
                    bucket.set_volatile(lane, !is_volatile);
                    model[lane] = Some((slot(tag, !is_volatile), guest));
                }
                for (lane, expected) in model.iter().enumerate() {
                    prop_assert_eq!(bucket.slot(lane), expected.map(|(slot, _)| slot));
                    prop_assert_eq!(bucket.guests() >> lane & 1 == 1, expected.is_some_and(|(_, guest)| guest));
                }
                prop_assert_eq!(bucket.stashed(), 1);
                prop_assert_eq!(bucket.occupied().count_ones() as usize, model.iter().flatten().count());
            }
        }
    }
}
