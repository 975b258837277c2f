//! Wholly free slabs on their way back to the page heap, for whoever needs a slab of
//! the same length next.
//!
//! Where objects are large, slabs have few slots and come and go all the time; so do those
//! of small objects where one thread allocates what another frees. Each time
//! the buddy system would merge the pages with their neighbours and split them again, a
//! record would be given back and taken anew, and the page map be written twice. So slabs
//! that are given up stay as they are on a list, newest first, as long as they have the
//! same length. The next slab of that length is made of one: with nothing to do at all if
//! its class is the same.
//!
//! Where lengths change, the whole list goes to the page heap first, so that pages merge
//! and no fresh one is taken for its sake. (A list for each length saved 4% more of the
//! instructions where sizes are random and held a twentieth more memory in small
//! programs, measured.) Nobody but the slabs' makers knows of it: to all others its pages
//! are free and dirty, so whoever looks at the page heap for another purpose [gives it
//! up](SlabStock::give_up) before.

use crate::bin::TAKEN;
use crate::size_class::GENERAL;
use crate::slab::SlabSource;
use crate::units::SlabId;

/// Pages that lie here at most. They are the last ones in use, so they lie where the
/// page heap's choice would not gather emptiness.
const PAGES_MAX: u32 = 256;

/// A slab that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// Its extra part is undefined.
    New(SlabId),
    /// It is of the class since before, so its extra part is as it was left.
    Again(SlabId),
}

/// Slabs whose slots are all free, and that are no bin's.
#[derive(Debug)]
pub(crate) struct SlabStock {
    /// The newest. They are linked by `next` of their records.
    head: SlabId,
    /// Pages of each.
    length: u8,
    /// Pages of all.
    pages: u32,
}

impl SlabStock {
    /// Without any slab.
    pub(crate) const fn new() -> Self {
        Self {
            head: SlabId::NONE,
            length: 0,
            pages: 0,
        }
    }

    /// Pages of all slabs here.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Whether a slab of the class can be made of one that is here.
    pub(crate) fn has_for(&self, class: usize) -> bool {
        self.has(GENERAL.class(class).pages)
    }

    fn has(&self, length: u8) -> bool {
        !self.head.is_none() && self.length == length
    }

    /// Makes a slab of the class, all of whose slots are free, on no list. `None` where
    /// memory is short.
    pub(crate) fn make(&mut self, source: &mut SlabSource, class: usize) -> Option<Made> {
        let Some(kept) = self.take(source, GENERAL.class(class).pages) else {
            self.give_up(source);
            return source.make(class).map(Made::New);
        };
        // SAFETY: The slab is alive and nobody else's.
        let is_same = unsafe { source.records().slab(kept) }.record().class == class as u8;
        if is_same {
            return Some(Made::Again(kept));
        }
        // SAFETY: As above; all of its slots are free.
        let reshaped = unsafe { source.reshape(kept, class) };
        if reshaped.is_none() {
            // SAFETY: As above.
            unsafe { source.release(kept) };
        }
        reshaped.map(Made::New)
    }

    fn take(&mut self, source: &SlabSource, length: u8) -> Option<SlabId> {
        if !self.has(length) {
            return None;
        }
        let slab = self.head;
        // SAFETY: Slabs here are alive and nobody else's.
        self.head = unsafe { source.records().slab(slab) }.record().next;
        self.pages -= u32::from(length);
        Some(slab)
    }

    /// Takes a slab back.
    ///
    /// # Safety
    ///
    /// The slab is live and on no list, all of its slots are free, and nobody uses it or
    /// its record any more.
    pub(crate) unsafe fn put(&mut self, source: &mut SlabSource, id: SlabId) {
        // SAFETY: Passed on to the caller.
        let mut slab = unsafe { source.records().slab(id) };
        let record = slab.record_mut();
        let shape = GENERAL.class(usize::from(record.class));
        let length = shape.pages;
        let others = if length == self.length { self.pages } else { 0 };
        let pages = others + u32::from(length);
        if record.punched != 0 || pages > PAGES_MAX {
            // SAFETY: Passed on to the caller.
            return unsafe { source.release(id) };
        }
        if length != self.length {
            self.give_up(source);
            self.length = length;
        }
        record.list = TAKEN;
        record.relist_at = u16::MAX;
        record.looked = 0;
        record.next = core::mem::replace(&mut self.head, id);
        self.pages = pages;
    }

    /// Gives all slabs to the page heap.
    #[inline]
    pub(crate) fn give_up(&mut self, source: &mut SlabSource) {
        if self.pages != 0 {
            self.release_all(source);
        }
    }

    #[cold]
    fn release_all(&mut self, source: &mut SlabSource) {
        while let Some(slab) = self.take(source, self.length) {
            // SAFETY: Slabs here are alive and nobody else's, and all of their slots are
            // free.
            unsafe { source.release(slab) };
        }
        debug_assert_eq!(self.pages, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_heap::{PageHeap, PageHeapOptions};
    use crate::page_map::class_of_entry;
    use crate::units::PageIndex;
    use proptest::prelude::*;

    struct Subject {
        source: SlabSource,
        stock: SlabStock,
        live: Vec<SlabId>,
    }

    impl Subject {
        fn new() -> Self {
            let pages = PageHeap::new(&PageHeapOptions {
                region_bytes: 16 << 20,
                region_bytes_min: 16 << 20,
                decay_ms: 0,
            });
            Self {
                source: SlabSource::new(pages.unwrap(), &GENERAL, |_| 16).unwrap(),
                stock: SlabStock::new(),
                live: Vec::new(),
            }
        }

        fn make(&mut self, size: usize) -> Option<Made> {
            let class = GENERAL.class_of(size);
            let made = self.stock.make(&mut self.source, class);
            if let Some(Made::New(slab) | Made::Again(slab)) = made {
                // SAFETY: The slab is live and this test's alone.
                let record = unsafe { self.source.records().slab(slab) };
                assert_eq!(usize::from(record.record().class), class);
                assert_eq!(record.record().free, GENERAL.class(class).slots);
                record.check(GENERAL.class(class));
                self.live.push(slab);
            }
            made
        }

        fn put(&mut self, at: usize) -> SlabId {
            let slab = self.live.swap_remove(at);
            // SAFETY: The slab is live and this test's alone.
            unsafe { self.stock.put(&mut self.source, slab) };
            slab
        }

        /// Panics unless the page map knows every live slab, and each page is in one
        /// slab at most.
        fn check(&self) {
            let mut pages = 0;
            for slab in &self.live {
                // SAFETY: The slab is live and this test's alone.
                let record = unsafe { self.source.records().slab(*slab) };
                let class = usize::from(record.record().class);
                let run = record.run(GENERAL.class(class));
                for page in run.start.0..run.end().0 {
                    let page = PageIndex(page);
                    let map = self.source.pages.map();
                    assert_eq!(class_of_entry(map.class_entry(page)), Some(class));
                    assert_eq!(map.slab_entry(page), slab.0);
                }
                pages += run.pages;
            }
            assert_eq!(
                self.source.pages.counts().used,
                pages + self.stock.pages(),
                "some pages are nobody's, or two slabs'"
            );
            self.source.pages.check();
            self.source.records.check();
        }
    }

    #[test]
    fn a_slab_comes_back_as_it_was_or_in_another_class_on_the_same_pages() {
        let mut subject = Subject::new();
        let Some(Made::New(first)) = subject.make(1024) else {
            panic!("the stock is empty");
        };
        assert_eq!(subject.put(0), first);
        assert_eq!(subject.make(1024), Some(Made::Again(first)));
        // SAFETY: The slab is live.
        let start = unsafe { subject.source.records().slab(first) }.byte_offset();
        subject.put(0);
        for size in [512, 1280, 4096] {
            let Some(Made::New(other)) = subject.make(size) else {
                panic!("another class is another slab");
            };
            // SAFETY: As above.
            let slab = unsafe { subject.source.records().slab(other) };
            assert_eq!(slab.byte_offset(), start);
            subject.check();
            subject.put(0);
        }
        subject.stock.give_up(&mut subject.source);
        subject.check();
        assert_eq!(subject.source.pages.counts().used, 0);
    }

    #[test]
    fn no_fresh_page_is_taken_for_another_length() {
        let mut subject = Subject::new();
        (0..64).for_each(|_| assert!(subject.make(1024).is_some()));
        (0..64).for_each(|_| {
            subject.put(0);
        });
        assert_eq!(subject.stock.pages(), 64);
        let fresh = subject.source.pages.counts().fresh_total;
        // Three pages each, of a block of four.
        (0..16).for_each(|_| assert!(subject.make(3072).is_some()));
        assert_eq!(subject.stock.pages(), 0);
        assert_eq!(subject.source.pages.counts().fresh_total, fresh);
        subject.check();
    }

    #[test]
    fn slabs_of_another_length_displace_those_in_stock() {
        let mut subject = Subject::new();
        for size in [1024, 1280, 3072] {
            assert!(subject.make(size).is_some());
        }
        // The last of them comes to lie first as the first goes.
        for (pages, dirty) in [(1, 0), (3, 1), (1, 4)] {
            subject.put(0);
            assert_eq!(subject.stock.pages(), pages);
            assert_eq!(subject.source.pages.counts().dirty, dirty);
            subject.check();
        }
    }

    #[test]
    fn what_is_beyond_the_bound_goes_to_the_page_heap() {
        let mut subject = Subject::new();
        (0..PAGES_MAX + 8).for_each(|_| assert!(subject.make(4096).is_some()));
        (0..PAGES_MAX + 8).for_each(|_| {
            subject.put(0);
        });
        assert_eq!(subject.stock.pages(), PAGES_MAX);
        assert_eq!(subject.source.pages.counts().dirty, 8);
        subject.check();
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..<_>::default() })]

        #[test]
        fn slabs_that_come_and_go_keep_the_books_right(
            steps in prop::collection::vec((0_u8..8, 1_usize..=14 << 10, any::<usize>()), 1..400),
        ) {
            let mut subject = Subject::new();
            for (step, size, pick) in steps {
                match step {
                    0..4 => {
                        subject.make(size);
                    }
                    4..7 if !subject.live.is_empty() => {
                        let at = pick % subject.live.len();
                        subject.put(at);
                    }
                    _ => subject.stock.give_up(&mut subject.source),
                }
                subject.check();
            }
            while !subject.live.is_empty() {
                subject.put(0);
            }
            subject.stock.give_up(&mut subject.source);
            prop_assert_eq!(subject.source.pages.counts().used, 0);
        }
    }
}
