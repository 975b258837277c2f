//! Several sets of small integers side by side, each of which names its first
//! and its last member at once.
//!
//! Three levels of bitmaps: a bit of an upper level says whether a word of the
//! level below has any bit. The words of all sets for the same 64 members lie
//! next to each other, and the words of upper levels before those that they tell of,
//! so that sets over few low members stay in one page:
//!
//! ```text
//! top, for 2^18 members   middle, for 4096    leaf, for 64
//! [set 0]..[set k]        [set 0]..[set k]    [set 0]..[set k]  64 times
//!                         [set 0]..[set k]    [set 0]..[set k]  64 times
//!                         ... 64 times
//! [set 0]..[set k]        ...
//! ```

use crate::metadata::Table;
use crate::units::PAGE_BYTES;

/// Groups of words, one per set, from one of the middle level to the next, and from one
/// of the top level to the next.
const MIDDLE_STRIDE: usize = 1 + 64;
const TOP_STRIDE: usize = 1 + 64 * MIDDLE_STRIDE;

/// `sets` sets over `0..members`.
#[derive(Debug)]
pub(crate) struct BitSets {
    words: Table<u64>,
    sets: usize,
    members: u32,
    /// Words per set of the top level that have ever had a bit, and those before them.
    tops: usize,
}

impl BitSets {
    /// Empty sets; `None` where memory is short.
    pub(crate) fn new(sets: usize, members: u32) -> Option<BitSets> {
        let leaf = (members as usize).div_ceil(64);
        let groups = leaf.checked_sub(1).map_or(0, |last| leaf_group(last) + 1);
        Some(BitSets {
            words: Table::with_len(groups * sets)?,
            sets,
            members,
            tops: 0,
        })
    }

    #[inline]
    fn leaf(&self, set: usize, word: usize) -> usize {
        leaf_group(word) * self.sets + set
    }

    #[inline]
    fn middle(&self, set: usize, word: usize) -> usize {
        (word * MIDDLE_STRIDE + (word >> 6) + 1) * self.sets + set
    }

    #[inline]
    fn top(&self, set: usize, word: usize) -> usize {
        word * TOP_STRIDE * self.sets + set
    }

    /// Whether the set holds the member.
    pub(crate) fn contains(&self, set: usize, member: u32) -> bool {
        debug_assert!(member < self.members && set < self.sets);
        let word = self.leaf(set, member as usize >> 6);
        self.words.items()[word] >> (member & 63) & 1 != 0
    }

    /// Adds a member.
    pub(crate) fn insert(&mut self, set: usize, member: u32) {
        debug_assert!(member < self.members && set < self.sets);
        let (leaf, middle, top) = self.path(set, member);
        self.tops = self.tops.max((member as usize >> 18) + 1);
        let words = self.words.items_mut();
        words[leaf] |= 1 << (member & 63);
        words[middle] |= 1 << (member >> 6 & 63);
        words[top] |= 1 << (member >> 12 & 63);
    }

    /// Removes a member.
    pub(crate) fn remove(&mut self, set: usize, member: u32) {
        debug_assert!(member < self.members && set < self.sets);
        let (leaf, middle, top) = self.path(set, member);
        let words = self.words.items_mut();
        words[leaf] &= !(1 << (member & 63));
        if words[leaf] == 0 {
            words[middle] &= !(1 << (member >> 6 & 63));
            if words[middle] == 0 {
                words[top] &= !(1 << (member >> 12 & 63));
            }
        }
    }

    fn path(&self, set: usize, member: u32) -> (usize, usize, usize) {
        let member = member as usize;
        (
            self.leaf(set, member >> 6),
            self.middle(set, member >> 12),
            self.top(set, member >> 18),
        )
    }

    /// The smallest member.
    pub(crate) fn first(&self, set: usize) -> Option<u32> {
        let words = self.words.items();
        for top in 0..self.tops {
            let bits = words[self.top(set, top)];
            if bits != 0 {
                let middle = top << 6 | bits.trailing_zeros() as usize;
                let bits = words[self.middle(set, middle)];
                let leaf = middle << 6 | bits.trailing_zeros() as usize;
                let bits = words[self.leaf(set, leaf)];
                return Some((leaf as u32) << 6 | bits.trailing_zeros());
            }
        }
        None
    }

    /// The largest member below `end`.
    pub(crate) fn last_below(&self, set: usize, end: u32) -> Option<u32> {
        let words = self.words.items();
        let below = |bits: u64, end: usize| bits & !(u64::MAX << (end & 63));
        let high = |bits: u64| 63 - bits.leading_zeros() as usize;
        let end = (end.min(self.members)) as usize;
        let bits = match end & 63 {
            0 => 0,
            _ => below(words[self.leaf(set, end >> 6)], end),
        };
        if bits != 0 {
            return Some((end & !63 | high(bits)) as u32);
        }
        let end = end >> 6;
        let mut leaf = None;
        let bits = match end & 63 {
            0 => 0,
            _ => below(words[self.middle(set, end >> 6)], end),
        };
        if bits != 0 {
            leaf = Some(end & !63 | high(bits));
        } else {
            let mut end = (end >> 6).min(self.tops << 6);
            while end > 0 {
                let top = (end - 1) >> 6;
                let mut bits = words[self.top(set, top)];
                if end & 63 != 0 {
                    bits = below(bits, end);
                }
                if bits != 0 {
                    let middle = top << 6 | high(bits);
                    leaf = Some(middle << 6 | high(words[self.middle(set, middle)]));
                    break;
                }
                end = top << 6;
            }
        }
        leaf.map(|leaf| (leaf << 6 | high(words[self.leaf(set, leaf)])) as u32)
    }

    /// Bytes that have memory behind them, if only members below `end` have
    /// ever been added.
    pub(crate) fn resident_bytes(&self, end: u32) -> usize {
        let groups = end
            .checked_sub(1)
            .map_or(0, |last| leaf_group(last as usize >> 6) + 1);
        (groups * self.sets * size_of::<u64>()).next_multiple_of(PAGE_BYTES)
    }

    /// The 64 members from `64 * word` on, as bits.
    pub(crate) fn word(&self, set: usize, word: usize) -> u64 {
        self.words.items()[self.leaf(set, word)]
    }

    /// The members in ascending order. Reads only words that lead to one, so that
    /// memory of members which were never added is not touched.
    pub(crate) fn iter(&self, set: usize) -> impl Iterator<Item = u32> {
        let words = self.words.items();
        (0..self.tops)
            .flat_map(move |top| ones(top, words[self.top(set, top)]))
            .flat_map(move |middle| ones(middle, words[self.middle(set, middle)]))
            .flat_map(move |leaf| ones(leaf, words[self.leaf(set, leaf)]))
            .map(|member| member as u32)
    }
}

/// The number of the group that holds a word of the leaf level: before it lie those for
/// smaller members and the words of the upper levels that tell of any of these.
#[inline]
const fn leaf_group(word: usize) -> usize {
    word + (word >> 6) + (word >> 12) + 2
}

/// The positions of the ones among the bits of the word numbered `word`.
fn ones(word: usize, mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        (bits != 0).then(|| {
            let bit = bits.trailing_zeros() as usize;
            bits &= bits - 1;
            word << 6 | bit
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// A heap's address space has room for millions of members, of which few are ever
    /// used: to go over these must not bring in the memory of all others.
    #[test]
    #[cfg_attr(miri, ignore = "Miri counts no page faults")]
    fn members_are_found_without_touching_the_others_memory() {
        fn faults() -> i64 {
            // SAFETY: Zeros are a valid value, which the call overwrites.
            unsafe {
                let mut usage = core::mem::zeroed::<libc::rusage>();
                assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
                usage.ru_minflt
            }
        }
        let mut sets = BitSets::new(32, 1 << 24).unwrap();
        sets.insert(1, 77);
        let before = faults();
        assert!(sets.iter(1).eq([77]));
        let touched = faults() - before;
        assert!(touched < 1000, "{touched} of 16384 pages");
    }

    proptest! {
        #[test]
        fn sets_agree_with_a_tree(
            members in prop_oneof![Just(1u32), Just(64), Just(4097), Just(300_000)],
            steps in prop::collection::vec((0usize..3, any::<u32>(), any::<bool>()), 1..200),
        ) {
            let mut sets = BitSets::new(3, members).unwrap();
            let mut model = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
            for (set, member, add) in steps {
                let member = member % members;
                if add {
                    sets.insert(set, member);
                    model[set].insert(member);
                } else {
                    // Mostly members that are there.
                    let member = model[set].range(member..).next().copied().unwrap_or(member);
                    sets.remove(set, member);
                    model[set].remove(&member);
                }
                for (set, model) in model.iter().enumerate() {
                    prop_assert_eq!(sets.first(set), model.first().copied());
                    prop_assert_eq!(sets.last_below(set, members), model.last().copied());
                    prop_assert_eq!(
                        sets.last_below(set, member),
                        model.range(..member).next_back().copied()
                    );
                    prop_assert_eq!(sets.contains(set, member), model.contains(&member));
                }
            }
            for (set, model) in model.iter().enumerate() {
                prop_assert!(sets.iter(set).eq(model.iter().copied()));
            }
        }
    }
}
