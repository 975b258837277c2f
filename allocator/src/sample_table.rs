//! The live objects that a heap profile has sampled, by their first page: each has
//! pages of its own, so no two share one.
//!
//! Records in a table that only grows, linked from buckets by a hash of the page; free
//! ones are linked as well.

use crate::call_stacks::StackId;
use crate::metadata::{Table, Zeroable};
use crate::sampling::splitmix;
use crate::units::PageIndex;

const RECORDS_MAX: usize = if cfg!(test) { 1 << 10 } else { 1 << 22 };
const RECORDS_MIN: usize = 1 << 10;
const BUCKETS: usize = 1 << 16;

/// A sampled object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) stack: StackId,
    /// Its size: of the slot that it would have had, or of its pages.
    pub(crate) bytes: usize,
    /// For how many objects it stands, scaled as in [`sampling`](crate::sampling).
    pub(crate) weight: u64,
}

#[derive(Clone, Copy)]
struct Record {
    page: u32,
    /// The next record of the same bucket, or the next free one; 0 for none.
    next: u32,
    stack: u32,
    bytes: usize,
    weight: u64,
}

// SAFETY: The record consists of integers.
unsafe impl Zeroable for Record {}

/// All sampled objects that are live.
pub(crate) struct SampleTable {
    records: Table<Record>,
    /// Records made so far, the one that stands for none included.
    made: usize,
    free: u32,
    buckets: Table<u32>,
    count: u32,
}

fn bucket_of(page: u32) -> usize {
    splitmix(u64::from(page)) as usize % BUCKETS
}

impl SampleTable {
    /// An empty table; `None` where the process may not have the address space.
    pub(crate) fn reserve() -> Option<Self> {
        let mut records_max = RECORDS_MAX;
        let records = loop {
            match Table::reserve(records_max) {
                Some(records) => break records,
                None if records_max <= RECORDS_MIN => return None,
                None => records_max /= 2,
            }
        };
        Some(Self {
            records,
            made: 1,
            free: 0,
            buckets: Table::with_len(BUCKETS)?,
            count: 0,
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Adds an object, which starts on a page that no other in the table does. False
    /// where memory is short.
    #[must_use]
    pub(crate) fn add(&mut self, page: PageIndex, sample: Sample) -> bool {
        debug_assert!(self.get(page).is_none());
        let id = if self.free == 0 {
            if !self.records.grow_to(self.made + 1) {
                return false;
            }
            self.made += 1;
            self.made - 1
        } else {
            let id = self.free as usize;
            self.free = self.records.items()[id].next;
            id
        };
        let bucket = &mut self.buckets.items_mut()[bucket_of(page.0)];
        self.records.items_mut()[id] = Record {
            page: page.0,
            next: core::mem::replace(bucket, id as u32),
            stack: sample.stack.0,
            bytes: sample.bytes,
            weight: sample.weight,
        };
        self.count += 1;
        true
    }

    /// The object that starts on the page.
    pub(crate) fn get(&self, page: PageIndex) -> Option<Sample> {
        let mut at = self.buckets.items()[bucket_of(page.0)];
        while at != 0 {
            let record = &self.records.items()[at as usize];
            if record.page == page.0 {
                return Some(sample_of(record));
            }
            at = record.next;
        }
        None
    }

    /// Takes out the object that starts on the page.
    pub(crate) fn remove(&mut self, page: PageIndex) -> Option<Sample> {
        let bucket = bucket_of(page.0);
        let mut before = 0;
        let mut at = self.buckets.items()[bucket];
        while at != 0 {
            let record = self.records.items()[at as usize];
            if record.page != page.0 {
                before = core::mem::replace(&mut at, record.next);
                continue;
            }
            let link = match before {
                0 => &mut self.buckets.items_mut()[bucket],
                before => &mut self.records.items_mut()[before as usize].next,
            };
            *link = record.next;
            self.records.items_mut()[at as usize].next = self.free;
            self.free = at;
            self.count -= 1;
            return Some(sample_of(&record));
        }
        None
    }
}

fn sample_of(record: &Record) -> Sample {
    Sample {
        stack: StackId(record.stack),
        bytes: record.bytes,
        weight: record.weight,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        #[test]
        fn objects_are_found_until_they_are_removed(
            ops in prop::collection::vec((0_u32..40, any::<bool>()), 0..200),
        ) {
            let mut table = SampleTable::reserve().unwrap();
            let mut model = BTreeMap::new();
            for (at, (page, adds)) in ops.into_iter().enumerate() {
                // Pages of the same bucket, too.
                let page = if page < 20 { page } else { (page - 20) << 20 };
                let sample = Sample { stack: StackId(1), bytes: at, weight: page.into() };
                if !adds {
                    prop_assert_eq!(table.remove(PageIndex(page)), model.remove(&page));
                } else if let std::collections::btree_map::Entry::Vacant(place) = model.entry(page) {
                    prop_assert!(table.add(PageIndex(page), sample));
                    place.insert(sample);
                }
                prop_assert_eq!(table.count() as usize, model.len());
                for page in 0..40 {
                    prop_assert_eq!(table.get(PageIndex(page)), model.get(&page).copied());
                }
            }
        }
    }

    #[test]
    fn a_full_table_refuses_and_takes_again_what_was_freed() {
        let mut table = SampleTable::reserve().unwrap();
        let sample = Sample {
            stack: StackId(1),
            bytes: 1,
            weight: 1,
        };
        let made = (0..).take_while(|page| table.add(PageIndex(*page), sample));
        assert_eq!(made.count(), RECORDS_MAX - 1);
        assert!(table.remove(PageIndex(7)).is_some());
        assert!(table.add(PageIndex(1 << 20), sample));
        assert!(!table.add(PageIndex(7), sample));
    }
}
