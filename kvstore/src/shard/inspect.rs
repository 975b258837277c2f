//! Questions about keys and about the shard as a whole.

use std::collections::HashSet;

use slab_allocator::ExtentKind;
use slab_allocator::units::{CHUNK_PAGES, PAGE_BYTES};

use crate::access::{COUNTER_INITIAL, Coding, idle_seconds};
use crate::entry::Entry;
use crate::lengths::{LengthBin, LengthHistogram};
use crate::memory::Ref;
use crate::shard::expiring::Expiring;
use crate::shard::{At, Shard, Sizes, next_random};
use crate::statistics::{CompactionLedger, Counters, DbStatistics, MemoryBreakdown, Statistics};
use crate::table::Table;
use crate::value::string::{EMBEDDED_BYTES_MAX, StringRef};
use crate::value::{Encoding, ValueRef};

/// How often a random place is tried for a key before the table counts as nearly empty.
const RANDOM_TRIES: usize = 32;

/// How many keys of a table that is nearly empty are looked at for a random one.
const WALKED_KEYS: usize = 64;

/// How many keys whose time has come are passed over in the search for a random one.
const EXPIRED_TRIES: usize = 100;

/// Where the memory of one key is, for MEMORY USAGE and DEBUG OBJECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the key.
    pub key_bytes: usize,
    /// Bytes of the value as stored: an integer takes 1, 2, 4 or 8.
    pub value_bytes: usize,
    /// Bytes of flags, lengths and expiry.
    pub header_bytes: usize,
    /// Bytes of the slot or the page run that holds key, value and header.
    pub slot_bytes: usize,
    /// The key's share of the table.
    pub table_bytes: usize,
}

impl Usage {
    /// All of it: the slot and the share of the table.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.slot_bytes + self.table_bytes
    }

    /// What of the slot or the page run is not used.
    #[must_use]
    pub fn rounding_bytes(&self) -> usize {
        self.slot_bytes - self.key_bytes - self.value_bytes - self.header_bytes
    }
}

/// What holds the entry of one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A slot of a slab.
    Slab {
        /// Number of the slab's first page in the arena of its shard.
        start_page: u32,
        /// Bytes of a slot.
        slot_bytes: u32,
        /// Slots of the slab.
        slots: u32,
        /// Slots in use.
        live: u32,
    },
    /// Pages of its own.
    Pages {
        /// How many.
        pages: u32,
    },
}

impl Shard {
    /// What holds the entry of a key. Takes time in proportion to the slabs of one chunk.
    pub(crate) fn home(&mut self, at: &At<'_>) -> Option<Home> {
        let (place, header) = self.look(at)?;
        let arena = self.memory.arena();
        let address = self.memory.address(place.entry).as_ptr().addr();
        let page = (address - arena.base().as_ptr().addr()) / PAGE_BYTES;
        let page = page as u32;
        let mut home = None;
        arena.chunk_map(page / CHUNK_PAGES, |extent| {
            if !(extent.start_page..extent.start_page + extent.pages).contains(&page) {
                return;
            }
            home = match extent.kind {
                ExtentKind::Slab {
                    slot_bytes,
                    slots,
                    live,
                    ..
                } => Some(Home::Slab {
                    start_page: extent.start_page,
                    slot_bytes,
                    slots,
                    live,
                }),
                // The run may go on in further chunks.
                ExtentKind::Large => Some(Home::Pages {
                    pages: header.entry_bytes().div_ceil(PAGE_BYTES) as u32,
                }),
                ExtentKind::Free { .. } => None,
            };
        });
        home
    }

    /// When a key expires: `None` if it is not there, `Some(None)` if never.
    pub(crate) fn expiry(&mut self, at: &At<'_>) -> Option<Option<u64>> {
        self.look(at).map(|(_, header)| header.expiry_ms())
    }

    /// Seconds since the last use of a key; `None` if it is not there or uses are counted instead.
    pub(crate) fn idle_seconds(&mut self, at: &At<'_>) -> Option<u32> {
        let (place, _) = self.look(at)?;
        let clock = self.clock(at.now_ms);
        if clock.coding != Coding::LastUse {
            return None;
        }
        // Bytes in the other coding begin anew with their segment's next use.
        let known = self.tables[at.db].access(&self.memory, &place, clock.coding);
        Some(known.map_or(0, |(byte, base_s)| idle_seconds(byte, base_s, clock.now_s)))
    }

    /// The use counter of a key; `None` if it is not there or idle times are kept instead.
    pub(crate) fn frequency(&mut self, at: &At<'_>) -> Option<u8> {
        let (place, _) = self.look(at)?;
        let clock = self.clock(at.now_ms);
        if clock.coding == Coding::LastUse {
            return None;
        }
        let known = self.tables[at.db].access(&self.memory, &place, clock.coding);
        Some(known.map_or(COUNTER_INITIAL, |(byte, base_s)| {
            (u32::from(u8::MAX) - clock.coding.rank(byte, base_s, clock.now_s)) as u8
        }))
    }

    /// How the value of a key is stored.
    pub(crate) fn encoding(&mut self, at: &At<'_>) -> Option<Encoding> {
        let (place, _) = self.look(at)?;
        // SAFETY: a place is that of a live entry.
        let entry = unsafe { Entry::read(&self.memory, place.entry) };
        Some(match entry.string() {
            StringRef::Int(_) => Encoding::Int,
            StringRef::Bytes(bytes)
                if bytes.len() <= EMBEDDED_BYTES_MAX && !entry.header().is_changed() =>
            {
                Encoding::EmbeddedString
            }
            StringRef::Bytes(_) => Encoding::RawString,
        })
    }

    /// Where the memory of a key is.
    pub(crate) fn usage(&mut self, at: &At<'_>) -> Option<Usage> {
        let (_, header) = self.look(at)?;
        let table = &self.tables[at.db];
        Some(Usage {
            key_bytes: header.key_bytes(),
            value_bytes: header.value_bytes(),
            header_bytes: header.header_bytes(),
            slot_bytes: self.memory.usable_bytes(header.entry_bytes()),
            table_bytes: (table.segment_bytes() + table.directory_bytes())
                .div_ceil(table.len().max(1)),
        })
    }

    /// Visits entries from `from48` on, home by home, until `count` were looked at. Returns how many
    /// that were, and where to go on, `None` at the end of the shard. Entries whose time has come
    /// are removed (or kept, as the settings say), not visited.
    pub(crate) fn scan(
        &mut self,
        db: usize,
        from48: u64,
        count: usize,
        now_ms: u64,
        visit: &mut dyn FnMut(&[u8], ValueRef<'_>),
    ) -> (usize, Option<u64>) {
        let (mut looked_at, mut next) = (0, Some(from48));
        let mut due: Vec<Box<[u8]>> = Vec::new();
        while let Some(at) = next.filter(|_| looked_at < count) {
            let Some(table) = self.tables.get(db) else {
                return (looked_at, None);
            };
            next = table.scan_home(&self.memory, &self.placer, at, |reference| {
                looked_at += 1;
                // SAFETY: a table visits live entries, and nothing changes meanwhile.
                let entry = unsafe { Entry::read(&self.memory, reference) };
                if entry.header().is_due(now_ms) {
                    due.push(entry.key().into());
                } else {
                    visit(entry.key(), ValueRef::String(entry.string()));
                }
            });
            for key in due.drain(..) {
                // The lookup removes it.
                self.look(&At {
                    db,
                    prefix: self.placer.prefix(&key),
                    key: &key,
                    now_ms,
                });
            }
        }
        (looked_at, next)
    }

    /// Whether a key is there although its time has come.
    pub(crate) fn is_due(&self, at: &At<'_>) -> bool {
        let table = self.tables.get(at.db);
        table
            .and_then(|table| table.find(&self.memory, at.prefix, at.key))
            .is_some_and(|(_, header)| header.is_due(at.now_ms))
    }

    /// A key picked at random; `None` if there is none whose time has not come. Where expired keys
    /// are kept, and one after another is found, one of them is picked all the same, as in Redis.
    pub(crate) fn random_key(&mut self, db: usize, now_ms: u64) -> Option<&[u8]> {
        let mut found: Vec<Ref> = Vec::new();
        let mut kept = 0;
        loop {
            let table = self.tables.get(db).filter(|table| table.len() > 0)?;
            found.clear();
            for _ in 0..RANDOM_TRIES {
                let at = next_random(&mut self.random) >> 16;
                table.scan_whole_home(&self.memory, &self.placer, at, |entry| found.push(entry));
                if !found.is_empty() {
                    break;
                }
            }
            if found.is_empty() {
                // The table is nearly empty. It is walked from a random place on, round the circle,
                // for as many keys as make the gaps before them matter little. Since homes are
                // visited whole, none comes twice before all have come once.
                let mut at = next_random(&mut self.random) >> 16;
                while found.len() < WALKED_KEYS.min(table.len()) {
                    let visit = |entry| found.push(entry);
                    let next = table.scan_whole_home(&self.memory, &self.placer, at, visit);
                    at = next.unwrap_or(0);
                }
            }
            let chosen = found[(next_random(&mut self.random) >> 32) as usize % found.len()];
            // SAFETY: a table visits live entries.
            let entry = unsafe { Entry::read(&self.memory, chosen) };
            let is_due = entry.header().is_due(now_ms);
            kept += usize::from(is_due && self.settings.keep_expired);
            if !is_due || kept == EXPIRED_TRIES {
                // SAFETY: nothing has changed since, and the shard is borrowed as long as the key.
                return Some(unsafe { Entry::read(&self.memory, chosen) }.key());
            }
            let key: Box<[u8]> = entry.key().into();
            // The lookup removes it, unless expired keys are kept.
            self.look(&At {
                db,
                prefix: self.placer.prefix(&key),
                key: &key,
                now_ms,
            });
        }
    }

    /// Keys of a database.
    pub(crate) fn len(&self, db: usize) -> usize {
        self.tables.get(db).map_or(0, Table::len)
    }

    /// Figures of a database. The mean time left is taken from a sample of entries.
    pub(crate) fn db_statistics(&mut self, db: usize, now_ms: u64) -> DbStatistics {
        let Some(table) = self.tables.get(db) else {
            return DbStatistics::default();
        };
        let (mut sum_ms, mut count) = (0u128, 0u64);
        let mut entries = Vec::new();
        if table.volatiles() > 0 {
            let from = next_random(&mut self.random);
            table.volatiles_of_segment(&self.memory, from, &mut entries);
        }
        for entry in entries {
            // SAFETY: the references in a table are live entries of its memory.
            if let Some(at_ms) = unsafe { Entry::read(&self.memory, entry) }
                .header()
                .expiry_ms()
            {
                sum_ms += u128::from(at_ms.saturating_sub(now_ms));
                count += 1;
            }
        }
        DbStatistics {
            keys: table.len() as u64,
            volatile_keys: table.volatiles() as u64,
            avg_ttl_ms: sum_ms.checked_div(u128::from(count)).unwrap_or(0) as u64,
            lengths: table.lengths().copied().unwrap_or_default(),
        }
    }

    /// Figures of the shard. Takes time in proportion to the size classes in use.
    pub(crate) fn statistics(&self) -> Statistics {
        let sizes = &self.sizes;
        let arena = self.memory.stats();
        let directory_bytes: usize = self.tables.iter().map(Table::directory_bytes).sum();
        Statistics {
            keys: self.tables.iter().map(|table| table.len() as u64).sum(),
            volatile_keys: self
                .tables
                .iter()
                .map(|table| table.volatiles() as u64)
                .sum(),
            pending_keys: self.pending_entries() as u64,
            counters: self.counters,
            memory: MemoryBreakdown {
                key_bytes: sizes.key_bytes as u64,
                value_bytes: sizes.value_bytes as u64,
                header_bytes: sizes.header_bytes as u64,
                rounding_bytes: (sizes.slot_bytes
                    - sizes.key_bytes
                    - sizes.value_bytes
                    - sizes.header_bytes
                    + arena.guest_bytes) as u64,
                table_bytes: (self.memory.segment_bytes() + directory_bytes) as u64,
                free_slot_bytes: (arena.free_bytes + arena.tail_bytes - arena.punched_bytes) as u64,
                dirty_bytes: arena.dirty_bytes as u64,
                metadata_bytes: arena.metadata_bytes as u64,
            },
            compaction: self.ledger,
            expiry: self.expiry_ledger(),
        }
    }

    pub(crate) fn reset_statistics(&mut self) {
        self.counters = Counters::default();
        self.ledger = CompactionLedger::default();
        self.class_ledgers = Vec::new();
        self.expiring = Expiring::default();
    }

    /// Checks everything: tables, entries, sums, and that the arena holds exactly what the tables
    /// refer to.
    ///
    /// # Panics
    /// If anything is wrong.
    pub(crate) fn check(&self) {
        let mut seen = HashSet::new();
        let mut sizes = Sizes::default();
        for table in &self.tables {
            let mut lengths = LengthHistogram::default();
            table.check(&self.memory, &self.placer, |reference, entry| {
                lengths.add(LengthBin::of_bytes(entry.string().len()));
                assert!(seen.insert(reference), "two slots refer to {reference:?}");
                sizes.add(
                    entry.header(),
                    self.memory.usable_bytes(entry.header().entry_bytes()),
                );
            });
            let counted = table.lengths().copied().unwrap_or_default();
            assert_eq!(counted, lengths, "the lengths of values");
        }
        if self.drains.is_empty() {
            assert_eq!(sizes, self.sizes, "the shard's sums");
        }
        self.memory.arena().check();
        let arena = self.memory.stats();
        assert_eq!(
            self.used_bytes(),
            arena.live_bytes - arena.guest_bytes + arena.large_bytes,
            "what the arena holds"
        );
    }
}
