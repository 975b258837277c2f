//! One shard: tables, entries and memory behind one lock.
//!
//! All databases of a shard share its memory. Every operation here runs under the shard's lock, and
//! begins by removing the key if its time has come.

mod evicting;
mod expiring;
mod inspect;
mod keys;
mod owners;
mod several;
mod strings;
mod upkeep;
mod whole;

use std::sync::Arc;

use slab_allocator::ArenaOptions;

use crate::access::Coding;
use crate::entry::{self, Entry, Header, Payload};
use crate::error::OutOfMemory;
use crate::gauges::Gauges;
use crate::key::Placer;
use crate::lengths::LengthBin;
use crate::memory::{Memory, Ref};
use crate::pacing::Pacing;
use crate::settings::Settings;
use crate::statistics::{ClassLedger, CompactionLedger, Counters};
use crate::table::{AccessClock, Place, Table};
use crate::value::string::{DECIMAL_BYTES_MAX, parse_integer};
use crate::value::{NewValue, ValueRef};
use crate::watch::WatchTable;
use evicting::Candidate;
use expiring::Expiring;
pub use inspect::{Home, Usage};
pub(crate) use owners::{Moving, Relocation};
pub(crate) use several::Prepared;
use whole::Drain;
pub(crate) use whole::{Discarded, Reclaim};

/// The longest value that an entry's lengths are trusted with, in bytes. Commands have lower limits.
const VALUE_BYTES_MAX: usize = i32::MAX as usize;

/// How soon after a change maintenance looks at what it left behind.
const MAINTENANCE_AFTER_MS: u64 = 20;

/// What a lookup leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touch {
    /// The key counts as used now (its idle time or its use counter changes).
    pub access: bool,
    /// A hit or a miss is counted.
    pub count: bool,
}

impl Touch {
    /// A command that reads the value: used, and counted.
    pub const READ: Touch = Touch {
        access: true,
        count: true,
    };
    /// A command that will change the value: used, not counted.
    pub const WRITE: Touch = Touch {
        access: true,
        count: false,
    };
    /// A command about the key, not its value, such as TTL, TYPE or OBJECT: counted, not used.
    pub const INSPECT: Touch = Touch {
        access: false,
        count: true,
    };
    /// Leaves no trace.
    pub const NONE: Touch = Touch {
        access: false,
        count: false,
    };

    /// The same, but not as a use (CLIENT NO-TOUCH).
    #[must_use]
    pub fn without_access(self) -> Touch {
        Touch {
            access: false,
            ..self
        }
    }
}

/// What becomes of a key's expiry when its value is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewExpiry {
    /// It stays as it is; a new key has none.
    Keep,
    /// It is removed.
    None,
    /// It is this instant, in milliseconds of Unix time.
    At(u64),
}

impl NewExpiry {
    fn after(self, before: Option<u64>) -> Option<u64> {
        match self {
            NewExpiry::Keep => before,
            NewExpiry::None => None,
            NewExpiry::At(at_ms) => Some(at_ms),
        }
    }
}

/// Which key an operation is about, and when it runs.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) db: usize,
    pub(crate) prefix: u64,
    pub(crate) key: &'a [u8],
    pub(crate) now_ms: u64,
}

/// Sums over the entries of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sizes {
    key_bytes: usize,
    value_bytes: usize,
    header_bytes: usize,
    slot_bytes: usize,
}

impl Sizes {
    #[inline]
    fn add(&mut self, header: &Header, slot_bytes: usize) {
        self.key_bytes += header.key_bytes();
        self.value_bytes += header.value_bytes();
        self.header_bytes += header.header_bytes();
        self.slot_bytes += slot_bytes;
    }

    #[inline]
    fn subtract(&mut self, header: &Header, slot_bytes: usize) {
        self.key_bytes -= header.key_bytes();
        self.value_bytes -= header.value_bytes();
        self.header_bytes -= header.header_bytes();
        self.slot_bytes -= slot_bytes;
    }
}

/// The part of the keyspace behind one lock.
pub(crate) struct Shard {
    memory: Memory,
    options: ArenaOptions,
    placer: Placer,
    tables: Vec<Table>,
    drains: Vec<Drain>,
    sizes: Sizes,
    coding: Coding,
    random: u64,
    watches: WatchTable,
    settings: Settings,
    counters: Counters,
    ledger: CompactionLedger,
    /// What compaction did, by number of the size class.
    class_ledgers: Vec<ClassLedger>,
    pacing: Pacing,
    /// Slabs that are being emptied.
    relocations: Vec<Relocation>,
    /// The table that owned the object moved last.
    last_owner: usize,
    /// Candidates for eviction, the best last.
    pool: Vec<Candidate>,
    /// What active expiry did.
    expiring: Expiring,
    /// The database that a walk of active expiry is in.
    walk_db: Option<usize>,
    /// Room for a list of entries, kept for its capacity.
    scratch: Vec<Ref>,
    gauges: Arc<Gauges>,
}

fn coding_of(settings: &Settings) -> Coding {
    if settings.eviction_policy.counts_uses() {
        Coding::UseCount {
            log_factor: settings.lfu_log_factor,
            decay_minutes: settings.lfu_decay_minutes,
        }
    } else {
        Coding::LastUse
    }
}

/// The next number of a xorshift generator, for decisions that need no secrecy.
#[inline]
fn next_random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[inline]
fn payload<'a>(value: NewValue<'a>) -> Payload<'a> {
    match value {
        NewValue::Int(value) => Payload::Integer(value),
        NewValue::Bytes(bytes) => Payload::Bytes(bytes),
        NewValue::String(bytes) if bytes.len() <= DECIMAL_BYTES_MAX => {
            parse_integer(bytes).map_or(Payload::Bytes(bytes), Payload::Integer)
        }
        NewValue::String(bytes) => Payload::Bytes(bytes),
    }
}

impl Shard {
    pub(crate) fn new(
        options: &ArenaOptions,
        placer: Placer,
        seed: u64,
        gauges: Arc<Gauges>,
    ) -> Option<Self> {
        let settings = Settings::default();
        Some(Shard {
            memory: Memory::new(options)?,
            options: *options,
            placer,
            tables: Vec::new(),
            drains: Vec::new(),
            sizes: Sizes::default(),
            coding: coding_of(&settings),
            random: seed | 1,
            watches: WatchTable::default(),
            settings,
            counters: Counters::default(),
            ledger: CompactionLedger::default(),
            class_ledgers: Vec::new(),
            pacing: Pacing::default(),
            relocations: Vec::new(),
            last_owner: 0,
            pool: Vec::new(),
            expiring: Expiring::default(),
            walk_db: None,
            scratch: Vec::new(),
            gauges,
        })
    }

    pub(crate) fn configure(&mut self, settings: &Settings) {
        if settings.eviction_policy != self.settings.eviction_policy {
            // Ranks under one policy say nothing under another.
            self.pool = Vec::new();
        }
        self.settings = *settings;
        self.coding = coding_of(settings);
    }

    /// A change was made: tells the gauges, and asks for maintenance by and by.
    #[inline]
    fn changed(&mut self, now_ms: u64) {
        self.gauges.set_used_bytes(self.used_bytes() as u64);
        if self.gauges.due_ms() > now_ms + MAINTENANCE_AFTER_MS {
            self.gauges.set_due_ms(now_ms + MAINTENANCE_AFTER_MS);
        }
    }

    #[inline]
    fn clock(&self, now_ms: u64) -> AccessClock {
        AccessClock {
            coding: self.coding,
            now_s: (now_ms / 1000) as u32,
        }
    }

    /// Where the key is and its header, if it is there and its time has not come. A key whose time
    /// has come is removed.
    #[inline]
    fn live(&mut self, at: &At<'_>) -> Option<(Place, Header)> {
        let (place, header) = self
            .tables
            .get(at.db)?
            .find(&self.memory, at.prefix, at.key)?;
        if header.is_due(at.now_ms) {
            self.expire(at, &place);
            return None;
        }
        Some((place, header))
    }

    /// The same for those who only read: where expired keys are kept, it is not removed.
    #[inline]
    fn look(&mut self, at: &At<'_>) -> Option<(Place, Header)> {
        let (place, header) = self
            .tables
            .get(at.db)?
            .find(&self.memory, at.prefix, at.key)?;
        if header.is_due(at.now_ms) {
            if !self.settings.keep_expired {
                self.expire(at, &place);
            }
            return None;
        }
        Some((place, header))
    }

    #[cold]
    fn expire(&mut self, at: &At<'_>, place: &Place) {
        self.take_out(at.db, at.now_ms, place);
        self.counters.expired += 1;
        self.watches.signal(at.db, at.key);
    }

    /// Takes an entry out of its table and frees it.
    fn take_out(&mut self, db: usize, now_ms: u64, place: &Place) {
        let clock = self.clock(now_ms);
        let entry = self.tables[db].remove(&mut self.memory, &self.placer, &clock, place);
        // SAFETY: the table gave up the only reference to the entry.
        unsafe {
            let header = entry::header(&self.memory, entry);
            let slot_bytes = self.memory.usable_bytes(header.entry_bytes());
            let length = entry::length_bin(&self.memory, entry, &header);
            self.tables[db].uncount_length(length);
            self.sizes.subtract(&header, slot_bytes);
            self.pacing.freed(slot_bytes);
            self.memory.free(entry, header.entry_bytes());
        }
        self.changed(now_ms);
    }

    #[inline]
    fn note_use(&mut self, at: &At<'_>, place: &Place) {
        let clock = self.clock(at.now_ms);
        let random = &mut self.random;
        self.tables[at.db].touch(&mut self.memory, place, &clock, || {
            (next_random(random) >> 32) as u32
        });
    }

    /// The value of a key.
    #[inline]
    pub(crate) fn find(&mut self, at: &At<'_>, touch: Touch) -> Option<ValueRef<'_>> {
        let found = self.look(at);
        if touch.count {
            match found {
                Some(_) => self.counters.hits += 1,
                None => self.counters.misses += 1,
            }
        }
        let (place, header) = found?;
        if touch.access {
            self.note_use(at, &place);
        }
        // SAFETY: a place is that of a live entry, whose header this is, and the shard is borrowed
        // as long as the value.
        let entry = unsafe { Entry::with_header(&self.memory, place.entry, header) };
        Some(ValueRef::String(entry.string()))
    }

    /// Makes a value the key's.
    #[inline]
    pub(crate) fn set(
        &mut self,
        at: &At<'_>,
        value: NewValue<'_>,
        expiry: NewExpiry,
    ) -> Result<(), OutOfMemory> {
        let payload = payload(value);
        match self.live(at) {
            None => self.create(at, payload, false, expiry.after(None))?,
            Some((place, before)) => {
                let header = payload.header(at.key.len(), false, expiry.after(before.expiry_ms()));
                self.replace(at, &place, &before, &header, payload)?;
            }
        }
        self.watches.signal(at.db, at.key);
        Ok(())
    }

    /// Makes a key that is not there.
    fn create(
        &mut self,
        at: &At<'_>,
        payload: Payload<'_>,
        changed: bool,
        expiry_ms: Option<u64>,
    ) -> Result<(), OutOfMemory> {
        let header = payload.header(at.key.len(), changed, expiry_ms);
        if header.value_bytes() > VALUE_BYTES_MAX {
            return Err(OutOfMemory);
        }
        let entry = entry::create(&mut self.memory, &header, at.key, payload)?;
        self.adopt(at, entry, &header)
    }

    /// Puts a new entry into its table, or frees it if that has no room.
    fn adopt(&mut self, at: &At<'_>, entry: Ref, header: &Header) -> Result<(), OutOfMemory> {
        let clock = self.clock(at.now_ms);
        if self.tables.len() <= at.db {
            self.tables.resize_with(at.db + 1, Table::default);
        }
        let inserted = self.tables[at.db].insert(
            &mut self.memory,
            &self.placer,
            &clock,
            at.prefix,
            entry,
            header.expiry_ms(),
        );
        if inserted.is_err() {
            // SAFETY: the entry is new, and no table refers to it.
            unsafe { entry::release(&mut self.memory, entry) };
            return inserted;
        }
        // SAFETY: the entry is live, and this is its header.
        let length = unsafe { entry::length_bin(&self.memory, entry, header) };
        self.tables[at.db].count_length(length);
        self.sizes
            .add(header, self.memory.usable_bytes(header.entry_bytes()));
        self.wrote(at, header.entry_bytes());
        Ok(())
    }

    /// Counts bytes written.
    #[inline]
    fn wrote(&mut self, at: &At<'_>, bytes: usize) {
        self.pacing.wrote(bytes);
        self.changed(at.now_ms);
    }

    /// Puts another value in the place of the one at `place`: over it, where the size class is the
    /// same, else in a new slot.
    #[inline]
    fn replace(
        &mut self,
        at: &At<'_>,
        place: &Place,
        before: &Header,
        header: &Header,
        payload: Payload<'_>,
    ) -> Result<(), OutOfMemory> {
        // SAFETY: the entry is live, and this is its header.
        let length = || unsafe { entry::length_bin(&self.memory, place.entry, before) };
        if header == before {
            if let Payload::Integer(_) = payload {
                // Other integers of as many bytes have other digits; strings have the same length.
                self.tables[at.db].recount_length(length(), payload.length_bin());
            }
            // SAFETY: the entry is live, only this shard refers to it, the header is the same, and
            // the value comes from the caller, not from the slot.
            unsafe { entry::overwrite(&mut self.memory, place.entry, header, payload) };
            self.note_use(at, place);
            return Ok(());
        }
        if header.value_bytes() > VALUE_BYTES_MAX {
            return Err(OutOfMemory);
        }
        let length = length();
        let old_slot = self.memory.usable_bytes(before.entry_bytes());
        let new_slot = self.memory.usable_bytes(header.entry_bytes());
        if old_slot == new_slot {
            // SAFETY: the entry is live, only this shard refers to it, and its slot has room for
            // any entry of its class; key and value come from the caller, not from the slot.
            unsafe { entry::write(&mut self.memory, place.entry, header, at.key, payload) };
        } else {
            let entry = entry::create(&mut self.memory, header, at.key, payload)?;
            self.tables[at.db].set_reference(&mut self.memory, place, entry);
            // SAFETY: the table now refers to the new entry instead.
            unsafe { self.memory.free(place.entry, before.entry_bytes()) };
            self.pacing.freed(old_slot);
        }
        self.tables[at.db].recount_length(length, payload.length_bin());
        self.sizes.subtract(before, old_slot);
        self.sizes.add(header, new_slot);
        self.wrote(at, header.entry_bytes());
        if before.expiry_ms() != header.expiry_ms() {
            self.tables[at.db].set_expiry(&mut self.memory, place, header.expiry_ms());
        }
        self.note_use(at, place);
        Ok(())
    }

    /// Gives an entry another header; what it has of the old value stays. Returns the entry, which
    /// may have moved.
    fn reshape(&mut self, at: &At<'_>, place: &Place, header: &Header) -> Result<Ref, OutOfMemory> {
        if header.value_bytes() > VALUE_BYTES_MAX {
            return Err(OutOfMemory);
        }
        // SAFETY: a place is that of a live entry; the reference is replaced below, and the callers
        // write what is new of the value.
        let (before, entry) = unsafe {
            let before = entry::header(&self.memory, place.entry);
            (
                before,
                entry::reshape(&mut self.memory, place.entry, header)?,
            )
        };
        self.sizes
            .subtract(&before, self.memory.usable_bytes(before.entry_bytes()));
        self.sizes
            .add(header, self.memory.usable_bytes(header.entry_bytes()));
        let table = &mut self.tables[at.db];
        if before.value_bytes() != header.value_bytes() {
            // An integer keeps its value, and only bytes change their length here.
            table.recount_length(
                LengthBin::of_bytes(before.value_bytes()),
                LengthBin::of_bytes(header.value_bytes()),
            );
        }
        if entry != place.entry {
            table.set_reference(&mut self.memory, place, entry);
        }
        if before.expiry_ms() != header.expiry_ms() {
            table.set_expiry(&mut self.memory, place, header.expiry_ms());
            // Where the entry stays in its slot, nothing else asks for maintenance.
            self.changed(at.now_ms);
        }
        if entry != place.entry {
            self.pacing.freed(before.entry_bytes());
            self.wrote(at, header.entry_bytes());
        }
        Ok(entry)
    }

    /// Asks the CPU for the buckets where a key may be.
    #[inline]
    pub(crate) fn prefetch_buckets(&self, db: usize, prefix: u64) {
        if let Some(table) = self.tables.get(db) {
            table.prefetch_buckets(&self.memory, prefix);
        }
    }

    /// Asks the CPU for the entries that a key may be in.
    #[inline]
    pub(crate) fn prefetch_entries(&self, db: usize, prefix: u64) {
        if let Some(table) = self.tables.get(db) {
            table.prefetch_entries(&self.memory, prefix);
        }
    }
}
