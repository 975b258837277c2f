//! The call stacks of a heap profile, each kept once, with what was sampled under it.
//!
//! A table of 64-bit words, which only grows: a stack's number is the place of its
//! first word. Stacks with the same low bits of their hash are linked.
//!
//! ```text
//! next | depth << 32, hash, allocated objects, bytes, live objects, bytes, addresses...
//! ```

use crate::metadata::Table;
use crate::sampling::{SPLITMIX_STEP, WEIGHT_BITS, splitmix};

/// Most words of the table, if the process may have the address space, and the fewest.
const WORDS_MAX: usize = if cfg!(test) { 1 << 12 } else { 1 << 25 };
const WORDS_MIN: usize = 1 << 12;
const BUCKETS: usize = 1 << 14;

const COUNTS: usize = 2;
const ADDRESSES: usize = 6;

/// What samples stand for, scaled up: estimates of what there was in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// Objects that were allocated while the profile was on.
    pub allocated_objects: u64,
    /// Their bytes, in whole slots and pages.
    pub allocated_bytes: u64,
    /// Those of them that are live.
    pub live_objects: u64,
    /// Their bytes.
    pub live_bytes: u64,
}

/// One sampled object, scaled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weighted {
    objects: u64,
    bytes: u64,
}

impl Weighted {
    /// An object of so many bytes with this weight.
    pub(crate) fn new(bytes: usize, weight: u64) -> Self {
        let scaled = u128::from(weight) * bytes as u128;
        Self {
            objects: weight,
            bytes: u64::try_from(scaled).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(all(test, not(feature = "hardened")))]
impl Weighted {
    pub(crate) fn objects(&self) -> u64 {
        self.objects
    }
}

/// A stack's number, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StackId(pub(crate) u32);

/// All stacks.
pub(crate) struct CallStacks {
    words: Table<u64>,
    used: usize,
    buckets: Table<u32>,
    count: u32,
}

impl CallStacks {
    /// An empty table; `None` where the process may not have the address space.
    pub(crate) fn reserve() -> Option<Self> {
        let mut words_max = WORDS_MAX;
        let words = loop {
            match Table::reserve(words_max) {
                Some(words) => break words,
                None if words_max <= WORDS_MIN => return None,
                None => words_max /= 2,
            }
        };
        Some(Self {
            words,
            used: 1,
            buckets: Table::with_len(BUCKETS)?,
            count: 0,
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The stack with these addresses, at most as many as 32 bits count, which is made
    /// if it is new. `None` where memory is short.
    pub(crate) fn intern(&mut self, addresses: &[usize]) -> Option<StackId> {
        let hash = hash(addresses);
        let bucket = hash as usize % BUCKETS;
        let first = self.buckets.items()[bucket];
        let mut at = first as usize;
        while at != 0 {
            let words = &self.words.items()[at..];
            let depth = (words[0] >> 32) as usize;
            let same = words[1] == hash
                && depth == addresses.len()
                && words[ADDRESSES..][..depth]
                    .iter()
                    .zip(addresses)
                    .all(|(word, address)| *word == *address as u64);
            if same {
                return Some(StackId(at as u32));
            }
            at = words[0] as u32 as usize;
        }
        let end = self.used + ADDRESSES + addresses.len();
        if !self.words.grow_to(end) {
            return None;
        }
        let start = self.used;
        let words = &mut self.words.items_mut()[start..end];
        words[0] = u64::from(first) | (addresses.len() as u64) << 32;
        words[1] = hash;
        for (word, address) in words[ADDRESSES..].iter_mut().zip(addresses) {
            *word = *address as u64;
        }
        self.buckets.items_mut()[bucket] = start as u32;
        self.used = end;
        self.count += 1;
        Some(StackId(start as u32))
    }

    fn counts(&mut self, stack: StackId) -> &mut [u64] {
        &mut self.words.items_mut()[stack.0 as usize + COUNTS..][..ADDRESSES - COUNTS]
    }

    /// Notes that an object was allocated.
    pub(crate) fn allocated(&mut self, stack: StackId, object: Weighted) {
        let counts = self.counts(stack);
        let added = [object.objects, object.bytes, object.objects, object.bytes];
        for (count, added) in counts.iter_mut().zip(added) {
            *count += added;
        }
    }

    /// Notes that such an object was freed.
    pub(crate) fn freed(&mut self, stack: StackId, object: Weighted) {
        let counts = self.counts(stack);
        counts[2] -= object.objects;
        counts[3] -= object.bytes;
    }

    /// The first stack after this one, or of all: its number, addresses and counts.
    pub(crate) fn after(&self, stack: Option<StackId>) -> Option<(StackId, &[u64], Sampled)> {
        let start = match stack {
            None => 1,
            Some(StackId(at)) => {
                let at = at as usize;
                at + ADDRESSES + (self.words.items()[at] >> 32) as usize
            }
        };
        if start >= self.used {
            return None;
        }
        let words = &self.words.items()[start..];
        let scaled = |at: usize| {
            let half = 1 << (WEIGHT_BITS - 1);
            words[COUNTS + at].saturating_add(half) >> WEIGHT_BITS
        };
        let sampled = Sampled {
            allocated_objects: scaled(0),
            allocated_bytes: scaled(1),
            live_objects: scaled(2),
            live_bytes: scaled(3),
        };
        let depth = (words[0] >> 32) as usize;
        Some((StackId(start as u32), &words[ADDRESSES..][..depth], sampled))
    }
}

fn hash(addresses: &[usize]) -> u64 {
    addresses.iter().fold(SPLITMIX_STEP, |hash, address| {
        splitmix(hash ^ *address as u64)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn all(stacks: &CallStacks) -> Vec<(Vec<usize>, Sampled)> {
        let mut found = Vec::new();
        let mut last = None;
        while let Some((id, addresses, sampled)) = stacks.after(last) {
            let addresses = addresses.iter().map(|word| *word as usize).collect();
            found.push((addresses, sampled));
            last = Some(id);
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        /// Each stack has what was noted under its addresses, and nothing else.
        #[test]
        fn counts_stay_with_their_stacks(
            noted in prop::collection::vec(
                (prop::collection::vec(0_usize..4, 0..4), 1_usize..5000, any::<bool>()),
                0..60,
            ),
        ) {
            let mut stacks = CallStacks::reserve().unwrap();
            let mut model = BTreeMap::<Vec<usize>, Sampled>::new();
            for (addresses, bytes, is_freed) in noted {
                let stack = stacks.intern(&addresses).unwrap();
                let object = Weighted::new(bytes, 3 << WEIGHT_BITS);
                stacks.allocated(stack, object);
                let sampled = model.entry(addresses).or_default();
                sampled.allocated_objects += 3;
                sampled.allocated_bytes += 3 * bytes as u64;
                if is_freed {
                    stacks.freed(stack, object);
                } else {
                    sampled.live_objects += 3;
                    sampled.live_bytes += 3 * bytes as u64;
                }
            }
            prop_assert_eq!(stacks.count() as usize, model.len());
            let mut found = all(&stacks);
            found.sort_by(|one, other| one.0.cmp(&other.0));
            prop_assert_eq!(found, model.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_full_table_refuses_new_stacks_and_keeps_the_old() {
        let mut stacks = CallStacks::reserve().unwrap();
        let made = (0..).take_while(|at| stacks.intern(&[*at; 100]).is_some());
        let made = made.count();
        assert_eq!(made, (WORDS_MAX - 1) / (ADDRESSES + 100));
        assert!(stacks.intern(&[made - 1; 100]).is_some());
        assert_eq!(all(&stacks).len(), made);
    }
}
