//! Whole databases: clearing and swapping.

use crate::entry::Header;
use crate::memory::Memory;
use crate::shard::{At, Shard, Sizes};
use crate::table::Table;

/// A shard with fewer entries than this is cleared one by one, which leaves its memory warm; beyond
/// it the whole arena is given back and a new one made.
const CLEAR_SINGLY_MAX: usize = 4096;

/// A cleared table whose entries are freed step by step.
pub(super) struct Drain {
    pub(super) table: Table,
    /// Segments before this prefix are gone.
    pub(super) next: Option<u64>,
}

/// Which memory a database's entries gave back when it was cleared.
#[must_use = "what is discarded is to be dropped where that may take its time"]
pub(crate) struct Discarded(Option<Memory>);

impl Discarded {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// When the memory of cleared keys is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reclaim {
    /// Before the call returns.
    Now,
    /// Later, in the background; the keys are gone at once.
    InBackground,
}

impl Shard {
    /// Removes all keys of a database.
    pub(crate) fn clear(&mut self, db: usize, reclaim: Reclaim) -> Discarded {
        if self.len(db) == 0 {
            return Discarded(None);
        }
        let discarded = self.clear_table(db, reclaim);
        self.tell_used();
        // There is memory to give back.
        self.gauges.set_due_ms(0);
        discarded
    }

    fn clear_table(&mut self, db: usize, reclaim: Reclaim) -> Discarded {
        let (table, memory, placer) = (&self.tables[db], &self.memory, &self.placer);
        self.watches.signal_where(|watched, key| {
            watched == db && table.find(memory, placer.prefix(key), key).is_some()
        });
        let mut table = std::mem::take(&mut self.tables[db]);
        let alone = self.drains.is_empty() && self.tables.iter().all(|table| table.len() == 0);
        if alone
            && table.len() > CLEAR_SINGLY_MAX
            && let Some(memory) = Memory::new(&self.options)
        {
            // The other tables are empty; should one own a segment, it goes with the arena.
            self.tables
                .iter_mut()
                .for_each(|table| *table = Table::default());
            self.sizes = Sizes::default();
            self.relocations.clear();
            if reclaim == Reclaim::InBackground {
                self.counters.lazy_freed += table.len() as u64;
            }
            return Discarded(Some(std::mem::replace(&mut self.memory, memory)));
        }
        if reclaim == Reclaim::InBackground {
            self.drains.push(Drain {
                table,
                next: Some(0),
            });
            return Discarded(None);
        }
        let mut next = Some(0);
        while let Some(prefix) = next {
            next = release_segment(&mut table, &mut self.memory, &mut self.sizes, prefix);
        }
        Discarded(None)
    }

    /// Frees a segment's worth of cleared entries; whether there is more to free.
    pub(crate) fn drain_step(&mut self) -> bool {
        let Some(drain) = self.drains.last_mut() else {
            return false;
        };
        match drain.next {
            Some(prefix) => {
                let before = drain.table.len();
                drain.next =
                    release_segment(&mut drain.table, &mut self.memory, &mut self.sizes, prefix);
                self.counters.lazy_freed += (before - drain.table.len()) as u64;
            }
            None => {
                self.drains.pop();
            }
        }
        !self.drains.is_empty()
    }

    /// Cleared entries whose memory is still to be freed.
    pub(crate) fn pending_entries(&self) -> usize {
        self.drains.iter().map(|drain| drain.table.len()).sum()
    }

    /// Swaps two databases. Whoever watches a key that exists in either is told.
    pub(crate) fn swap(&mut self, first: usize, second: usize, now_ms: u64) {
        // A key whose time has come counts as absent, so it must not be there to be found.
        for key in self.watches.keys_of([first, second]) {
            let prefix = self.placer.prefix(&key);
            for db in [first, second] {
                self.live(&At {
                    db,
                    prefix,
                    key: &key,
                    now_ms,
                });
            }
        }
        let (tables, memory, placer) = (&self.tables, &self.memory, &self.placer);
        self.watches.signal_where(|watched, key| {
            (watched == first || watched == second)
                && [first, second]
                    .iter()
                    .filter_map(|db| tables.get(*db))
                    .any(|table| table.find(memory, placer.prefix(key), key).is_some())
        });
        if self.tables.len() <= first.max(second) {
            self.tables
                .resize_with(first.max(second) + 1, Table::default);
        }
        self.tables.swap(first, second);
    }
}

fn release_segment(
    table: &mut Table,
    memory: &mut Memory,
    sizes: &mut Sizes,
    prefix: u64,
) -> Option<u64> {
    let mut freed: Vec<Header> = Vec::new();
    // SAFETY: the table was taken out of the shard's databases; its segments are released once each,
    // in the order of prefixes.
    let next =
        unsafe { table.release_segment(memory, prefix, |entry| freed.push(*entry.header())) };
    for header in freed {
        sizes.subtract(&header, memory.usable_bytes(header.entry_bytes()));
    }
    next
}
