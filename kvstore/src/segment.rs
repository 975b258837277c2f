//! A segment: the entries whose prefixes lie in one range, as buckets in one object of the arena.
//!
//! ```text
//! | header 64 | home buckets 64 each ... | stash buckets 64 each |
//! ```
//!
//! An entry is in its home bucket, in the bucket after it (a *guest*), or in a stash bucket, in
//! this order of preference. When home and next are full, an insertion shifts one entry in each of
//! a few neighbours towards a free slot; guest bits tell which may move without reading any entry.

use std::ptr::NonNull;

use crate::bucket::{ALL_LANES, Bucket, Slot, lanes};
use crate::error::OutOfMemory;
use crate::geometry::{BUCKET_SLOTS, Geometry, Recovered, UNIT_BYTES, recover, tag};
use crate::header::SEGMENT_MARK;
use crate::memory::{Memory, Ref};

/// How many neighbours an insertion may shift. Six raise the load at which it fails from 0.88 to
/// 0.94 (simulated); more hardly matter.
const SHIFTS_MAX: usize = 6;

/// The most buckets of a segment.
const BUCKETS_MAX: usize = 128;

const _: () = assert!(Geometry::LARGEST.bytes() / UNIT_BYTES <= BUCKETS_MAX);

/// What the addresses of segments are multiples of.
pub(crate) const ALIGNMENT: usize = align_of::<Bucket>();

/// What is known of a segment as a whole.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub(crate) struct Header {
    /// Tells a segment from an entry.
    mark: u8,
    /// How many leading bits the prefixes share.
    pub(crate) depth: u8,
    buckets: u8,
    /// Which coding the access bytes are in.
    pub(crate) coding_kind: u8,
    /// Entries.
    pub(crate) len: u16,
    /// Entries with an expiry.
    pub(crate) volatiles: u16,
    /// What the access bytes are relative to, in seconds of Unix time.
    pub(crate) access_base_s: u32,
    /// The lowest prefix of the range.
    pub(crate) prefix: u64,
    /// No entry expires before this.
    pub(crate) earliest_expiry_ms: u64,
}

const _: () = assert!(size_of::<Header>() <= UNIT_BYTES);

/// A place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) bucket: usize,
    pub(crate) lane: usize,
}

/// A segment, to be read.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) header: &'a Header,
    pub(crate) buckets: &'a [Bucket],
}

/// A segment, to be changed.
pub(crate) struct Edit<'a> {
    pub(crate) header: &'a mut Header,
    pub(crate) buckets: &'a mut [Bucket],
}

/// Makes an empty segment. Its header's counts are 0 and its earliest expiry is never.
pub(crate) fn create(
    memory: &mut Memory,
    geometry: Geometry,
    prefix: u64,
    depth: u32,
) -> Result<Ref, OutOfMemory> {
    let object = memory.allocate_segment(geometry.bytes())?;
    let address = memory.address(object).as_ptr();
    debug_assert!(address.addr().is_multiple_of(align_of::<Bucket>()));
    let header = Header {
        mark: SEGMENT_MARK,
        depth: depth as u8,
        buckets: geometry.buckets() as u8,
        coding_kind: 0,
        len: 0,
        volatiles: 0,
        access_base_s: 0,
        prefix,
        earliest_expiry_ms: u64::MAX,
    };
    // SAFETY: the object is new and has room for the header's unit and the buckets; the arena aligns
    // objects whose size is a multiple of 16 to 16.
    unsafe {
        address.cast::<Header>().write(header);
        for bucket in 0..geometry.buckets() {
            address
                .add((1 + bucket) * UNIT_BYTES)
                .cast::<Bucket>()
                .write(Bucket::EMPTY);
        }
    }
    Ok(object)
}

/// Frees a segment.
///
/// # Safety
/// `object` is a live segment of `memory` that nothing refers to any more.
pub(crate) unsafe fn release(memory: &mut Memory, object: Ref) {
    // SAFETY: by the caller's promise.
    unsafe {
        let bytes = view(memory.address(object)).geometry().bytes();
        memory.free_segment(object, bytes);
    }
}

/// Reads the segment at `address`.
///
/// # Safety
/// A live segment is at `address`, and it is neither changed nor freed during `'a`.
#[inline]
pub(crate) unsafe fn view<'a>(address: NonNull<u8>) -> View<'a> {
    // SAFETY: a segment begins with a header, which gives the number of buckets that follow it.
    unsafe {
        let header = address.cast::<Header>().as_ref();
        let buckets = address.add(UNIT_BYTES).cast::<Bucket>().as_ptr();
        View {
            header,
            buckets: std::slice::from_raw_parts(buckets, usize::from(header.buckets)),
        }
    }
}

/// Opens the segment at `address` for changes.
///
/// # Safety
/// A live segment is at `address`, and nothing else refers to it during `'a`.
#[inline]
pub(crate) unsafe fn edit<'a>(address: NonNull<u8>) -> Edit<'a> {
    // SAFETY: as in `view`; header and buckets do not overlap.
    unsafe {
        let header = address.cast::<Header>().as_mut();
        let buckets = address.add(UNIT_BYTES).cast::<Bucket>().as_ptr();
        Edit {
            buckets: std::slice::from_raw_parts_mut(buckets, usize::from(header.buckets)),
            header,
        }
    }
}

/// One bucket of the segment at `address`, without reading its header.
///
/// # Safety
/// As [`view`], and the segment has more than `index` buckets.
#[inline(always)]
pub(crate) unsafe fn bucket<'a>(address: NonNull<u8>, index: usize) -> &'a Bucket {
    // SAFETY: by the caller's promise.
    unsafe {
        address
            .add((1 + index) * UNIT_BYTES)
            .cast::<Bucket>()
            .as_ref()
    }
}

/// The same, to be changed.
///
/// # Safety
/// As [`edit`], and the segment has more than `index` buckets.
#[inline(always)]
pub(crate) unsafe fn bucket_mut<'a>(address: NonNull<u8>, index: usize) -> &'a mut Bucket {
    // SAFETY: by the caller's promise.
    unsafe {
        address
            .add((1 + index) * UNIT_BYTES)
            .cast::<Bucket>()
            .as_mut()
    }
}

/// The header of the segment at `address`.
///
/// # Safety
/// As [`view`].
#[inline(always)]
pub(crate) unsafe fn header<'a>(address: NonNull<u8>) -> &'a Header {
    // SAFETY: a segment begins with its header.
    unsafe { address.cast::<Header>().as_ref() }
}

/// The address of a bucket, to be prefetched.
#[inline(always)]
pub(crate) fn bucket_address(address: NonNull<u8>, index: usize) -> *const u8 {
    address.as_ptr().wrapping_add((1 + index) * UNIT_BYTES)
}

impl<'a> View<'a> {
    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::of_buckets(self.buckets.len())
    }

    /// All slots in use: where they are, and their home if it can be told without reading the entry.
    pub(crate) fn slots(&self) -> impl Iterator<Item = (Lane, Option<usize>, Slot)> + use<'a> {
        let homes = self.geometry().homes();
        self.buckets
            .iter()
            .enumerate()
            .flat_map(move |(index, bucket)| {
                let guests = bucket.guests();
                lanes(bucket.occupied()).filter_map(move |lane| {
                    let home = if guests >> lane & 1 == 1 {
                        Some(index - 1)
                    } else {
                        (index < homes).then_some(index)
                    };
                    Some((
                        Lane {
                            bucket: index,
                            lane,
                        },
                        home,
                        bucket.slot(lane)?,
                    ))
                })
            })
    }

    /// Visits all slots in use, in the order of buckets, with what can be told of the offset without
    /// reading the entry: nothing for the stash, and for a segment of few homes.
    #[inline]
    pub(crate) fn each_slot(&self, mut visit: impl FnMut(Option<Recovered>, Slot)) {
        let geometry = self.geometry();
        let known = if geometry.recovers() {
            geometry.homes()
        } else {
            0
        };
        let mut before = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            let first = if index < known {
                geometry.first_offset(index)
            } else {
                0
            };
            let guests = bucket.guests();
            let mut mask = bucket.occupied();
            while mask != 0 {
                let lane = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                let Some(slot) = bucket.slot(lane) else {
                    continue;
                };
                let recovered = if guests >> lane & 1 == 1 {
                    (known > 0).then(|| recover(before, slot.tag))
                } else {
                    (index < known).then(|| recover(first, slot.tag))
                };
                visit(recovered, slot);
            }
            before = first;
        }
    }

    /// The slots of entries whose home is `home`, but for those in the stash.
    pub(crate) fn slots_of_home(
        &self,
        home: usize,
    ) -> impl Iterator<Item = (Lane, Slot)> + use<'a> {
        let buckets = self.buckets;
        let own = (home, buckets[home].occupied() & !buckets[home].guests());
        let next = (home + 1, buckets.get(home + 1).map_or(0, Bucket::guests));
        [own, next].into_iter().flat_map(move |(index, mask)| {
            lanes(mask).filter_map(move |lane| {
                Some((
                    Lane {
                        bucket: index,
                        lane,
                    },
                    buckets[index].slot(lane)?,
                ))
            })
        })
    }

    /// The slots of the stash, whatever their home.
    pub(crate) fn stash(&self) -> impl Iterator<Item = (Lane, Slot)> + use<'a> {
        let buckets = self.buckets;
        (self.geometry().homes()..buckets.len()).flat_map(move |index| {
            let bucket = &buckets[index];
            lanes(bucket.occupied() & !bucket.guests()).filter_map(move |lane| {
                Some((
                    Lane {
                        bucket: index,
                        lane,
                    },
                    bucket.slot(lane)?,
                ))
            })
        })
    }
}

impl Edit<'_> {
    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::of_buckets(self.buckets.len())
    }

    /// Puts an entry in; false if there is no place for it. The slot's tag is that of `offset`.
    #[inline]
    pub(crate) fn insert(&mut self, offset: u32, slot: Slot) -> bool {
        debug_assert_eq!(slot.tag, tag(offset));
        let home = self.geometry().home(offset);
        let inserted = self.put(home, slot, false)
            || self.put(home + 1, slot, true)
            || self.insert_shifting(home, slot)
            || self.insert_into_stash(home, slot);
        if inserted {
            self.header.len += 1;
            self.header.volatiles += u16::from(slot.is_volatile);
        }
        inserted
    }

    #[inline]
    fn put(&mut self, index: usize, slot: Slot, guest: bool) -> bool {
        let Some(bucket) = self.buckets.get_mut(index) else {
            return false;
        };
        let free = bucket.free();
        if free != 0 {
            bucket.put(free.trailing_zeros() as usize, slot, guest);
        }
        free != 0
    }

    #[cold]
    fn insert_shifting(&mut self, home: usize, slot: Slot) -> bool {
        self.shift_right(home, slot) || self.shift_left(home, slot)
    }

    /// Makes room in the bucket after `home`: natives of it and of the buckets after it each move
    /// one bucket on.
    fn shift_right(&mut self, home: usize, slot: Slot) -> bool {
        let homes = self.geometry().homes();
        let first = home + 1;
        let Some(last) = (first + 1..=homes.min(first + SHIFTS_MAX))
            .take_while(|index| *index < self.buckets.len() && self.natives(index - 1) != 0)
            .find(|index| self.buckets[*index].free() != 0)
        else {
            return false;
        };
        for index in (first..last).rev() {
            let native = self.natives(index).trailing_zeros() as usize;
            self.shift(
                Lane {
                    bucket: index,
                    lane: native,
                },
                index + 1,
                true,
            );
        }
        self.put(first, slot, true)
    }

    /// Makes room in `home`: guests of it and of the buckets before it each move one bucket back,
    /// home.
    fn shift_left(&mut self, home: usize, slot: Slot) -> bool {
        let Some(last) = (home.saturating_sub(SHIFTS_MAX)..home)
            .rev()
            .take_while(|index| self.buckets[index + 1].guests() != 0)
            .find(|index| self.buckets[*index].free() != 0)
        else {
            return false;
        };
        for index in last + 1..=home {
            let guest = self.buckets[index].guests().trailing_zeros() as usize;
            self.shift(
                Lane {
                    bucket: index,
                    lane: guest,
                },
                index - 1,
                false,
            );
        }
        self.put(home, slot, false)
    }

    /// The slots of a bucket whose entries have it as their home.
    fn natives(&self, index: usize) -> u32 {
        self.buckets[index].occupied() & !self.buckets[index].guests()
    }

    fn shift(&mut self, from: Lane, to: usize, guest: bool) {
        if let Some(slot) = self.buckets[from.bucket].slot(from.lane) {
            let moved = self.put(to, slot, guest);
            debug_assert!(moved);
            self.buckets[from.bucket].clear(from.lane);
        }
    }

    #[cold]
    fn insert_into_stash(&mut self, home: usize, slot: Slot) -> bool {
        let inserted =
            (self.geometry().homes()..self.buckets.len()).any(|index| self.put(index, slot, false));
        if inserted {
            self.buckets[home].add_stashed();
        }
        inserted
    }

    /// Takes out the entry at `at`, whose home is `home`.
    #[inline]
    pub(crate) fn remove(&mut self, at: Lane, home: usize) {
        let bucket = &mut self.buckets[at.bucket];
        let is_volatile = bucket.volatiles() >> at.lane & 1;
        let guest = bucket.guests() >> at.lane & 1 == 1;
        bucket.clear(at.lane);
        if at.bucket != home && !guest {
            self.buckets[home].remove_stashed();
        }
        self.header.len -= 1;
        self.header.volatiles -= is_volatile as u16;
    }

    /// Notes whether the entry at `at` has an expiry, and when.
    pub(crate) fn set_expiry(&mut self, at: Lane, expiry_ms: Option<u64>) {
        let bucket = &mut self.buckets[at.bucket];
        let before = bucket.volatiles() >> at.lane & 1;
        bucket.set_volatile(at.lane, expiry_ms.is_some());
        self.header.volatiles =
            self.header.volatiles - before as u16 + u16::from(expiry_ms.is_some());
        if let Some(at_ms) = expiry_ms {
            self.header.earliest_expiry_ms = self.header.earliest_expiry_ms.min(at_ms);
        }
    }
}

/// Fills an empty segment. As long as entries come in the order of their homes, more or less, each is
/// put where the last one was or next to it, and no bucket is searched.
pub(crate) struct Filler<'a> {
    segment: Edit<'a>,
    geometry: Geometry,
    /// Slots in use of each bucket: its first ones.
    used: [u8; BUCKETS_MAX],
}

impl<'a> Filler<'a> {
    pub(crate) fn new(segment: Edit<'a>) -> Self {
        debug_assert_eq!(segment.header.len, 0);
        Filler {
            geometry: segment.geometry(),
            segment,
            used: [0; BUCKETS_MAX],
        }
    }

    /// As [`Edit::insert`].
    #[inline]
    pub(crate) fn insert(&mut self, offset: u32, slot: Slot) -> bool {
        debug_assert_eq!(slot.tag, tag(offset));
        let home = self.geometry.home(offset);
        let (index, guest) = if usize::from(self.used[home]) < BUCKET_SLOTS {
            (home, false)
        } else if home + 1 < self.geometry.buckets()
            && usize::from(self.used[home + 1]) < BUCKET_SLOTS
        {
            (home + 1, true)
        } else {
            return self.insert_slow(offset, slot);
        };
        let lane = usize::from(self.used[index]);
        self.segment.buckets[index].put(lane, slot, guest);
        self.used[index] += 1;
        self.segment.header.len += 1;
        self.segment.header.volatiles += u16::from(slot.is_volatile);
        true
    }

    #[cold]
    fn insert_slow(&mut self, offset: u32, slot: Slot) -> bool {
        let inserted = self.segment.insert(offset, slot);
        // Shifting fills the slots that it empties, so those in use are still the first ones.
        for (used, bucket) in self.used.iter_mut().zip(&*self.segment.buckets) {
            *used = bucket.occupied().count_ones() as u8;
        }
        inserted
    }
}

/// Checks that counts and masks of a segment agree with its slots.
///
/// # Panics
/// If they do not.
pub(crate) fn check(view: &View<'_>, home_of: impl Fn(Ref) -> usize) {
    let geometry = view.geometry();
    let mut stashed = vec![0; geometry.homes()];
    let (mut len, mut volatiles) = (0, 0);
    for (at, home, slot) in view.slots() {
        len += 1;
        volatiles += u16::from(slot.is_volatile);
        let real = home_of(slot.reference);
        match home {
            Some(home) => assert_eq!(home, real, "the home of the slot at {at:?}"),
            None => stashed[real] += 1,
        }
    }
    assert_eq!(
        (view.header.len, view.header.volatiles),
        (len, volatiles),
        "the header's counts"
    );
    for (index, bucket) in view.buckets.iter().enumerate() {
        let expected = stashed.get(index).copied().unwrap_or(0);
        assert_eq!(
            bucket.stashed(),
            expected,
            "entries of home {index} in the stash"
        );
        assert_eq!(
            (bucket.guests() | bucket.volatiles()) & !bucket.occupied() & ALL_LANES,
            0,
            "bits of free slots"
        );
    }
}
