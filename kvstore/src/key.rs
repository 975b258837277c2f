//! Keys, their hashes, and the order that the hash puts them in.
//!
//! A key is hashed once per argument, with a seed drawn when the keyspace is made. The 128-bit
//! product `hash * shards` gives both halves of its position:
//!
//! ```text
//! hash (64 bits) * shards  =  | shard (high 64 bits) | prefix (low 64 bits) |
//! ```
//!
//! The map is monotone, so `(shard, prefix)` orders all keys. A [`ScanCursor`] is a point in this
//! order, `shard << 48 | prefix >> 16`, which neither splitting nor merging of tables disturbs.

use rapidhash::v3::{RapidSecrets, rapidhash_v3_inline};

/// The most shards a keyspace can have: a [`ShardSet`] is one machine word.
pub const SHARDS_MAX: usize = 64;

/// The longest key and the longest value, in bytes (512 MiB, Redis's limit for a string).
pub const STRING_BYTES_MAX: usize = 512 << 20;

/// The keyed 64-bit hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// The raw hash, for sampling and for tests.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The bytes of a key together with their hash, made once per argument by
/// [`Keyspace::key`](crate::Keyspace::key).
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    bytes: &'a [u8],
    hash: KeyHash,
}

impl<'a> Key<'a> {
    pub(crate) fn new(bytes: &'a [u8], hash: KeyHash) -> Self {
        Key { bytes, hash }
    }

    /// The bytes as the client sent them.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The hash, which says where the key lives.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        self.hash
    }
}

/// Hashes keys with a secret seed, so that a client cannot choose keys that collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher {
    secrets: RapidSecrets,
}

impl Hasher {
    pub(crate) fn new(seed: u64) -> Self {
        Hasher {
            secrets: RapidSecrets::seed(seed),
        }
    }

    #[inline]
    pub(crate) fn hash(&self, bytes: &[u8]) -> KeyHash {
        KeyHash(rapidhash_v3_inline::<true, false, true>(
            bytes,
            &self.secrets,
        ))
    }
}

/// Where a key lives: its shard, and the hash prefix that orders it inside the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) shard: usize,
    pub(crate) prefix: u64,
}

impl Position {
    #[inline]
    pub(crate) fn of(hash: KeyHash, shards: usize) -> Self {
        let product = u128::from(hash.0) * shards as u128;
        Position {
            shard: (product >> 64) as usize,
            prefix: product as u64,
        }
    }
}

/// Finds the place of a key that is read from an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placer {
    hasher: Hasher,
    shards: usize,
}

impl Placer {
    pub(crate) fn new(hasher: Hasher, shards: usize) -> Self {
        Placer { hasher, shards }
    }

    /// The prefix of a key inside its shard.
    #[inline]
    pub(crate) fn prefix(&self, key: &[u8]) -> u64 {
        Position::of(self.hasher.hash(key), self.shards).prefix
    }
}

/// A set of shards, locked and unlocked together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardSet(u64);

impl ShardSet {
    /// No shard.
    pub const EMPTY: ShardSet = ShardSet(0);

    /// The first `count` shards, that is all shards of a keyspace with `count` of them.
    ///
    /// # Panics
    /// If `count` is more than [`SHARDS_MAX`].
    #[must_use]
    pub fn first(count: usize) -> Self {
        assert!(
            count <= SHARDS_MAX,
            "{count} shards; a set holds at most {SHARDS_MAX}"
        );
        if count == SHARDS_MAX {
            ShardSet(u64::MAX)
        } else {
            ShardSet((1 << count) - 1)
        }
    }

    /// One shard.
    ///
    /// # Panics
    /// If `shard` is not below [`SHARDS_MAX`].
    #[must_use]
    pub fn one(shard: usize) -> Self {
        assert!(
            shard < SHARDS_MAX,
            "shard {shard}; a set holds at most {SHARDS_MAX}"
        );
        ShardSet(1 << shard)
    }

    /// Whether the set names `shard`.
    #[must_use]
    #[inline]
    pub fn contains(self, shard: usize) -> bool {
        shard < SHARDS_MAX && self.0 >> shard & 1 == 1
    }

    /// Both sets together.
    #[must_use]
    pub fn union(self, other: ShardSet) -> Self {
        ShardSet(self.0 | other.0)
    }

    /// Whether every shard of `other` is in this set.
    #[must_use]
    pub fn contains_all(self, other: ShardSet) -> bool {
        other.0 & !self.0 == 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The shards in ascending order, which is the order of locking.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let shard = left.trailing_zeros() as usize;
            left &= left - 1;
            Some(shard)
        })
    }
}

/// A point in the order of all keys; 0 is both the start and, when returned by a scan, the end.
///
/// Clients hold it as a decimal number; any 64-bit number is accepted back, since a cursor that
/// names no place simply finds nothing more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ScanCursor(u64);

/// Bits of the prefix that a cursor keeps; positions that differ only below are returned together.
pub(crate) const CURSOR_PREFIX_BITS: u32 = 48;

impl ScanCursor {
    /// Where a scan starts, and what it returns when it is complete.
    pub const START: ScanCursor = ScanCursor(0);

    /// The cursor that a client sent.
    #[must_use]
    pub fn from_raw(raw: u64) -> Self {
        ScanCursor(raw)
    }

    /// The number to send to the client.
    #[must_use]
    pub fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn new(shard: usize, prefix48: u64) -> Self {
        debug_assert!(prefix48 >> CURSOR_PREFIX_BITS == 0);
        ScanCursor((shard as u64) << CURSOR_PREFIX_BITS | prefix48)
    }

    pub(crate) fn shard(self) -> usize {
        (self.0 >> CURSOR_PREFIX_BITS) as usize
    }

    pub(crate) fn prefix48(self) -> u64 {
        self.0 & ((1 << CURSOR_PREFIX_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn position_is_monotone_and_in_range(a: u64, b: u64, shards in 1..=SHARDS_MAX) {
            let (low, high) = (a.min(b), a.max(b));
            let (low, high) = (Position::of(KeyHash(low), shards), Position::of(KeyHash(high), shards));
            prop_assert!(low <= high);
            prop_assert!(high.shard < shards);
        }

        #[test]
        fn shard_sets_list_what_was_put_in(members in proptest::collection::btree_set(0..SHARDS_MAX, 0..20)) {
            let set = members.iter().fold(ShardSet::EMPTY, |set, shard| set.union(ShardSet::one(*shard)));
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), members.iter().copied().collect::<Vec<_>>());
            prop_assert!(ShardSet::first(SHARDS_MAX).contains_all(set));
        }

        #[test]
        fn cursor_keeps_its_parts(shard in 0..SHARDS_MAX, prefix48 in 0..1u64 << 48) {
            let cursor = ScanCursor::from_raw(ScanCursor::new(shard, prefix48).raw());
            prop_assert_eq!((cursor.shard(), cursor.prefix48()), (shard, prefix48));
        }
    }
}
