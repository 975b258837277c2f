//! Where a hash prefix lives inside a segment: pure arithmetic on indices.
//!
//! A segment of depth `d` covers all prefixes that share their `d` highest bits. The next 13 bits
//! are the *offset* of a prefix in the segment's range; nothing below them decides about places.
//!
//! ```text
//! prefix:  | d bits: which segment | 13 bits: offset          | rest |
//!                                  | 5 bits |  8 bits: tag    |
//! home bucket = offset * homes >> 13
//! ```
//!
//! The home is monotone in the prefix, so buckets in order hold prefixes in order, and a scan can
//! stop at any bucket. The tag is the lower part of the offset. A home of a segment with at least
//! 32 homes covers at most 256 offsets, so home and tag together give the offset back: a segment is
//! made larger or smaller, or merged with its neighbour, without touching a single entry. Only a
//! split needs one bit more than is stored, and reads the keys.
//!
//! Tag 0 marks a free slot, hence the offsets that end in 0 carry tag 1 as well; whoever needs to
//! tell the two apart, and seldom is it needed, reads the key.
//!
//! The buckets of a segment are its homes followed by a few *stash* buckets for entries that found
//! both their home and the bucket after it full. The bucket after the last home is the first stash
//! bucket, so every home has a next one.

use crate::key::CURSOR_PREFIX_BITS;

/// Slots of a bucket.
pub(crate) const BUCKET_SLOTS: usize = 10;

/// Bytes of a bucket, and of a segment's header.
pub(crate) const UNIT_BYTES: usize = 64;

/// Bits of a prefix that decide about its place inside a segment.
pub(crate) const OFFSET_BITS: u32 = 13;

/// The most bits that segments can share: the offset must lie within what a cursor keeps.
pub(crate) const DEPTH_MAX: u32 = CURSOR_PREFIX_BITS - OFFSET_BITS;

/// From this many homes on, home and tag determine the offset.
const HOMES_MIN_TO_RECOVER: usize = 1 << (OFFSET_BITS - 8);

/// Sizes of segments in units of 64 bytes, the header included, each about an eighth over the one
/// before. All of them are size classes of the arena.
const LADDER: [u8; 25] = [
    2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 36, 40, 44, 50, 56, 64, 72, 80, 92, 104,
];

/// The two largest sizes; together with the three before them, those at which segments split.
const LADDER_TOP: [u8; 2] = [116, 128];

/// How full a segment is made when its size is chosen, in slots per 1000.
const FILL_PER_MILLE: usize = 860;

/// The sizes in ascending order.
fn sizes() -> impl Iterator<Item = usize> {
    LADDER.into_iter().chain(LADDER_TOP).map(usize::from)
}

/// The shape of a segment: how many buckets it has and how they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    buckets: usize,
    homes: usize,
}

impl Geometry {
    /// The largest shape.
    pub(crate) const LARGEST: Geometry = Geometry {
        buckets: 127,
        homes: 124,
    };

    /// The shape of a segment with this many buckets, stash included.
    #[inline]
    pub(crate) fn of_buckets(buckets: usize) -> Self {
        Geometry {
            buckets,
            homes: buckets - stash_buckets(buckets),
        }
    }

    /// A shape whose parts are known already.
    #[inline]
    pub(crate) fn new(buckets: usize, homes: usize) -> Self {
        debug_assert_eq!(homes, buckets - stash_buckets(buckets));
        Geometry { buckets, homes }
    }

    fn of_units(units: usize) -> Self {
        Self::of_buckets(units - 1)
    }

    /// The smallest shape that `count` entries fill to no more than the fill limit. `None` if that
    /// would be larger than the largest.
    pub(crate) fn for_count(count: usize) -> Option<Self> {
        sizes()
            .map(Self::of_units)
            .find(|shape| count * 1000 <= shape.slots() * FILL_PER_MILLE)
    }

    /// The next larger shape.
    pub(crate) fn larger(self) -> Option<Self> {
        sizes()
            .find(|units| *units > self.units())
            .map(Self::of_units)
    }

    /// Buckets, stash included.
    #[inline]
    pub(crate) fn buckets(self) -> usize {
        self.buckets
    }

    /// Buckets that are the home of some offset.
    #[inline]
    pub(crate) fn homes(self) -> usize {
        self.homes
    }

    /// Slots of all buckets.
    pub(crate) fn slots(self) -> usize {
        self.buckets * BUCKET_SLOTS
    }

    const fn units(self) -> usize {
        self.buckets + 1
    }

    /// Bytes of the segment, header included.
    #[inline]
    pub(crate) const fn bytes(self) -> usize {
        self.units() * UNIT_BYTES
    }

    /// The home bucket of an offset.
    #[inline]
    pub(crate) fn home(self, offset: u32) -> usize {
        (offset as usize * self.homes) >> OFFSET_BITS
    }

    /// The first offset whose home is `home` or a later one.
    pub(crate) fn first_offset(self, home: usize) -> u32 {
        ((home << OFFSET_BITS).div_ceil(self.homes)) as u32
    }

    /// Whether [`recover`] may be asked.
    pub(crate) fn recovers(self) -> bool {
        self.homes >= HOMES_MIN_TO_RECOVER
    }

    /// The offset of an entry from its home and its tag.
    #[cfg(test)]
    fn recover(self, home: usize, tag: u8) -> Recovered {
        recover(self.first_offset(home), tag)
    }
}

/// The offset of an entry from the first offset of its home and its tag, if the home is one of at
/// least 32.
#[inline]
pub(crate) fn recover(first: u32, tag: u8) -> Recovered {
    let offset = first + u32::from(tag.wrapping_sub(first as u8));
    // A tag of 1 stands for 0 as well, if the offset one lower has this home, too.
    if tag == 1 && offset > first {
        Recovered::Either(offset)
    } else {
        Recovered::Exactly(offset)
    }
}

/// What home and tag say about an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovered {
    Exactly(u32),
    /// This offset or the one before it.
    Either(u32),
}

/// How many of a segment's buckets are stash: 3 of 100 raise the load at which an insertion fails
/// from 0.85 to 0.94 (simulated).
#[inline]
fn stash_buckets(buckets: usize) -> usize {
    match buckets {
        0..4 => 0,
        4..16 => 1,
        16..32 => 2,
        _ => 3,
    }
}

/// The 13 bits below the first `depth` bits of `prefix`.
#[inline]
pub(crate) fn offset(prefix: u64, depth: u32) -> u32 {
    ((prefix << depth) >> (64 - OFFSET_BITS)) as u32
}

/// The tag of an offset; never 0.
#[inline]
pub(crate) fn tag(offset: u32) -> u8 {
    (offset as u8).max(1)
}

/// The largest shape that the segment beginning at `prefix` takes before it splits.
///
/// It differs from segment to segment. If all of them split at the same size, all would grow in
/// step with the table: each slab of the old size would be left sparse for as long as the move to
/// the next size lasts, and bytes per key would swing by a tenth. Spread out, a slot that one
/// segment leaves is taken by another.
pub(crate) fn largest_before_split(prefix: u64, depth: u32) -> Geometry {
    let choices: [u8; 5] = [
        LADDER[LADDER.len() - 3],
        LADDER[LADDER.len() - 2],
        LADDER[LADDER.len() - 1],
        LADDER_TOP[0],
        LADDER_TOP[1],
    ];
    let mixed = (prefix.rotate_left(depth) ^ u64::from(depth)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Geometry::of_units(usize::from(
        choices[((mixed >> 32) as usize * choices.len()) >> 32],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shapes() -> Vec<Geometry> {
        sizes().map(Geometry::of_units).collect()
    }

    #[test]
    fn sizes_ascend_in_small_steps() {
        let shapes = shapes();
        assert!(
            shapes
                .windows(2)
                .all(|pair| pair[0].bytes() < pair[1].bytes())
        );
        assert!(
            shapes
                .windows(2)
                .all(|pair| pair[0].larger() == Some(pair[1]))
        );
        let large = shapes
            .iter()
            .filter(|shape| shape.recovers())
            .collect::<Vec<_>>();
        assert!(
            large
                .windows(2)
                .all(|pair| pair[1].bytes() * 100 <= pair[0].bytes() * 117)
        );
        assert_eq!(shapes.last(), Some(&Geometry::LARGEST));
        assert_eq!(Geometry::LARGEST.bytes(), 8192);
    }

    #[test]
    fn every_home_and_tag_give_the_offset_back() {
        for shape in shapes().into_iter().filter(|shape| shape.recovers()) {
            for offset in 0..1u32 << OFFSET_BITS {
                let recovered = shape.recover(shape.home(offset), tag(offset));
                match recovered {
                    Recovered::Exactly(found) => assert_eq!(found, offset, "{shape:?}"),
                    Recovered::Either(found) => {
                        assert!(found == offset || found == offset + 1, "{shape:?}")
                    }
                }
            }
        }
    }

    #[test]
    fn homes_ascend_and_begin_where_they_say() {
        for shape in shapes() {
            let mut last = 0;
            for offset in 0..1u32 << OFFSET_BITS {
                let home = shape.home(offset);
                assert!(home == last || home == last + 1);
                assert!(shape.first_offset(home) <= offset);
                assert_eq!(
                    shape.first_offset(home) == offset,
                    offset == 0 || home > last
                );
                last = home;
            }
            assert_eq!(last, shape.homes() - 1);
        }
    }

    #[test]
    fn a_half_of_a_full_segment_still_recovers() {
        for shape in (0..100_000u64).map(|n| largest_before_split(n << 40, 24)) {
            let half = Geometry::for_count(shape.slots() * 85 / 200)
                .expect("half a segment fits into one");
            assert!(half.recovers() && half.bytes() < shape.bytes());
        }
    }

    #[test]
    fn split_sizes_differ_between_neighbours_and_generations() {
        for depth in [0, 1, 10, 35] {
            let mut bytes: Vec<_> = (0..1000u64.min(1 << depth))
                .map(|n| {
                    largest_before_split(if depth == 0 { 0 } else { n << (64 - depth) }, depth)
                        .bytes()
                })
                .collect();
            bytes.sort_unstable();
            bytes.dedup();
            assert_eq!(bytes.len(), if depth < 10 { bytes.len() } else { 5 });
        }
    }

    proptest! {
        #[test]
        fn offset_follows_the_order_of_prefixes(a: u64, b: u64, depth in 0..=DEPTH_MAX) {
            let shared = if depth == 0 { 0 } else { a & (u64::MAX << (64 - depth)) };
            let below = |prefix: u64| shared | if depth == 0 { prefix } else { prefix >> depth };
            let (low, high) = (below(a.min(b)), below(a.max(b)));
            prop_assert!(offset(low, depth) <= offset(high, depth));
            prop_assert!(tag(offset(low, depth)) != 0);
        }

        #[test]
        fn a_shape_for_a_count_holds_it(count in 0usize..1080) {
            let shape = Geometry::for_count(count).expect("within the largest");
            prop_assert!(shape.slots() >= count);
        }
    }
}
