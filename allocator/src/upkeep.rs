//! What an arena does from time to time: giving memory back.

use crate::bin::TAKEN;
use crate::local_arena::LocalArena;
use crate::punch::{self, Search};
use crate::slab::SlabRecord;
use crate::stats::Purged;
use crate::units::PAGE_BYTES;

/// Least time between two searches for dead pages.
const PUNCH_MS_MIN: u32 = 100;
/// Records that are moved in the course of one purge; each takes about 100 ns.
const RECORDS_PER_CALL: u32 = 2048;

/// Whole pages in so many bytes, at least one.
fn pages_within(bytes: usize) -> u32 {
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX).max(1)
}

impl LocalArena {
    /// Puts the slab that a class allocates from back on the lists, where it
    /// may be evacuated, or releases it if it is empty.
    pub(crate) fn retire_current(&mut self, class: usize) {
        let shape = self.table.class(class);
        let bin = self.bin(class);
        let current = bin.current();
        if !current.is_none() {
            // SAFETY: the arena is borrowed exclusively, and with it all records.
            let empty = unsafe { bin.retire_current(self.records, shape) };
            self.listed(shape, current, empty);
        }
    }

    pub(crate) fn retire_all_current(&mut self) {
        self.flush();
        for class in 0..self.classes_in_use() {
            self.put_hand_back(class);
            self.retire_current(class);
        }
    }

    /// Gives back the pages that have been free for long enough, and dead pages
    /// inside slabs that have been quiet for as long. To be called when the
    /// result of the last call says so, and once after frees if that named no
    /// time.
    ///
    /// At most about `bytes_max` bytes go at once, which bounds the time (a
    /// megabyte takes 20 to 100 us); what is left is due at once.
    ///
    /// ```
    /// use slab_allocator::{ArenaOptions, LocalArena};
    ///
    /// let mut arena = LocalArena::new(&ArenaOptions::default()).expect("address space");
    /// let object = arena.allocate(1 << 20).expect("memory");
    /// // SAFETY: the object is live, and not used any more.
    /// unsafe { arena.free(object, 1 << 20) };
    /// let mut now_ms = 0;
    /// while let Some(due_ms) = arena.purge_due(now_ms, usize::MAX).next_due_ms {
    ///     now_ms = due_ms; // where a program would sleep
    /// }
    /// assert_eq!(arena.stats().dirty_bytes, 0);
    /// assert!(now_ms <= 2000);
    /// ```
    pub fn purge_due(&mut self, now_ms: u64, bytes_max: usize) -> Purged {
        self.retire_all_current();
        let (punched, punch_due_ms) = self.punch_due(now_ms);
        let (purged, purge_due_ms) = self.source.pages.purge_due(now_ms, pages_within(bytes_max));
        self.gather_records(RECORDS_PER_CALL);
        Purged {
            bytes: (punched + purged) as usize * PAGE_BYTES + self.source.records.purge(),
            next_due_ms: match (purge_due_ms, punch_due_ms) {
                (Some(purge), Some(punch)) => Some(purge.min(punch)),
                (purge, punch) => purge.or(punch),
            },
        }
    }

    /// Moves up to `records_max` records together where they are scattered over
    /// many blocks, so that blocks empty. After most of a heap has died, records
    /// would otherwise weigh as much as before.
    fn gather_records(&mut self, records_max: u32) {
        let mut left = records_max;
        for units in self.source.records.sizes() {
            while left > 0 {
                let may_move = |record: &SlabRecord| record.list != TAKEN;
                // SAFETY: the arena is borrowed exclusively, and with it all
                // records, which have no extra part.
                let moved = unsafe { self.source.gather_record(units, may_move) };
                let Some((old, new)) = moved else {
                    break;
                };
                // SAFETY: the record was copied, and the slab is not taken.
                unsafe {
                    let class = self.records.slab(new).record().class as usize;
                    self.bin(class).renumber(self.records, old, new);
                }
                left -= 1;
            }
        }
    }

    /// Searches for dead pages if it is time. Returns the pages given back and
    /// when to search again, `None` while no slab is worth it.
    fn punch_due(&mut self, now_ms: u64) -> (u32, Option<u64>) {
        /// Slabs that one search looks at, which bounds the time.
        const SLABS: u32 = 4096;
        let Some(after_ms) = self.punch_after_ms else {
            return (0, None);
        };
        let mut pages = 0;
        if now_ms >= self.punch_due_ms {
            pages = self.punch(Search::Quiet, SLABS);
            self.punch_due_ms = now_ms + u64::from(after_ms.max(PUNCH_MS_MIN));
        }
        let classes = self.classes_in_use();
        let bins = &self.bin_table.items()[..classes];
        let worthwhile = bins
            .iter()
            .zip(self.table.classes())
            .any(|(bin, class)| punch::is_worthwhile(bin, class));
        (pages, worthwhile.then_some(self.punch_due_ms))
    }

    fn punch(&mut self, search: Search, slabs_max: u32) -> u32 {
        let mut budget = slabs_max;
        let mut pages = 0;
        for class in 0..self.classes_in_use() {
            let bin = self.bin(class);
            let shape = self.table.class(class);
            let heap = &mut self.source.pages;
            // SAFETY: the arena is borrowed exclusively, and with it all records.
            pages += unsafe { punch::punch(bin, shape, self.records, heap, search, &mut budget) };
        }
        pages
    }

    /// Gives back free pages, however short they have been free, of at most
    /// about `bytes_max` bytes. Returns the bytes: fewer than `bytes_max` where
    /// no more were free.
    pub fn purge_free(&mut self, bytes_max: usize) -> usize {
        self.retire_all_current();
        self.source.pages.purge(pages_within(bytes_max)) as usize * PAGE_BYTES
    }

    /// Gives back all free pages, and all dead ones inside slabs, at once.
    /// Returns the bytes.
    pub fn purge_all(&mut self) -> usize {
        self.retire_all_current();
        let punched = match self.punch_after_ms {
            Some(_) => self.punch(Search::All, u32::MAX),
            None => 0,
        };
        let purged = self.source.pages.purge(u32::MAX);
        self.gather_records(u32::MAX);
        (punched + purged) as usize * PAGE_BYTES + self.source.records.purge()
    }

    /// Changes the time, in milliseconds, within which free pages are given
    /// back.
    pub fn set_decay_ms(&mut self, decay_ms: u32) {
        self.punch_after_ms = self.punch_after_ms.map(|_| decay_ms);
        self.punch_due_ms = 0;
        self.source.pages.set_decay_ms(decay_ms);
    }
}
