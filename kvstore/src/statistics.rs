//! Figures that the keyspace keeps about itself.
//!
//! Each shard keeps its own; sums are made on request, under the shards' locks.

use std::ops::AddAssign;

use crate::lengths::LengthHistogram;

/// Where the bytes of the shards' arenas are. The parts add up to what is resident.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBreakdown {
    /// Keys, as sent.
    pub key_bytes: u64,
    /// Values, as stored: an integer counts 1, 2, 4 or 8.
    pub value_bytes: u64,
    /// Flags, lengths and expiries of the entries.
    pub header_bytes: u64,
    /// Rounding of entries up to their size class.
    pub rounding_bytes: u64,
    /// Segments and directories of the tables.
    pub table_bytes: u64,
    /// Free slots and tails of resident slabs.
    pub free_slot_bytes: u64,
    /// Free pages not yet given back.
    pub dirty_bytes: u64,
    /// Records of the arenas.
    pub metadata_bytes: u64,
}

impl MemoryBreakdown {
    /// What the data takes, in Redis's sense of used memory: everything but free slots, dirty pages
    /// and the arenas' records.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.key_bytes
            + self.value_bytes
            + self.header_bytes
            + self.rounding_bytes
            + self.table_bytes
    }

    /// What is resident.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.used_bytes() + self.free_slot_bytes + self.dirty_bytes + self.metadata_bytes
    }
}

impl AddAssign for MemoryBreakdown {
    fn add_assign(&mut self, other: Self) {
        self.key_bytes += other.key_bytes;
        self.value_bytes += other.value_bytes;
        self.header_bytes += other.header_bytes;
        self.rounding_bytes += other.rounding_bytes;
        self.table_bytes += other.table_bytes;
        self.free_slot_bytes += other.free_slot_bytes;
        self.dirty_bytes += other.dirty_bytes;
        self.metadata_bytes += other.metadata_bytes;
    }
}

/// What compaction has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionLedger {
    /// Slabs chosen to be emptied.
    pub victims: u64,
    /// Of these, slabs that were emptied and given back.
    pub victims_released: u64,
    /// Entries and segments moved.
    pub moved_objects: u64,
    /// Of these, entries: keys with their values.
    pub moved_entries: u64,
    /// Entries and segments of chosen slabs that stayed, since no fuller slab had room.
    pub missed_objects: u64,
    /// Of these, entries.
    pub missed_entries: u64,
    /// Bytes of the slots moved.
    pub moved_bytes: u64,
    /// Pages that came free.
    pub freed_pages: u64,
    /// Slices run.
    pub slices: u64,
    /// Time spent in slices, in nanoseconds.
    pub time_ns: u64,
    /// The longest slice, in nanoseconds.
    pub longest_slice_ns: u64,
    /// Times that nothing was done because the waste was below the target.
    pub skipped_below_target: u64,
    /// Times that nothing was done because deletes had not paused yet.
    pub skipped_while_deleting: u64,
    /// Times that work ended because no slab's survivors fit into fuller ones.
    pub skipped_no_victim: u64,
    /// Slabs that were chosen but not emptied, since the room for their objects was taken meanwhile.
    pub skipped_no_room: u64,
    /// Bytes of free pages given back to the system.
    pub purged_bytes: u64,
}

impl CompactionLedger {
    /// What was added since `before`, which is at most one slice ago.
    pub(crate) fn since(&self, before: &Self) -> Self {
        CompactionLedger {
            victims: self.victims - before.victims,
            victims_released: self.victims_released - before.victims_released,
            moved_objects: self.moved_objects - before.moved_objects,
            moved_entries: self.moved_entries - before.moved_entries,
            missed_objects: self.missed_objects - before.missed_objects,
            missed_entries: self.missed_entries - before.missed_entries,
            moved_bytes: self.moved_bytes - before.moved_bytes,
            freed_pages: self.freed_pages - before.freed_pages,
            slices: self.slices - before.slices,
            time_ns: self.time_ns - before.time_ns,
            longest_slice_ns: self.time_ns - before.time_ns,
            skipped_below_target: self.skipped_below_target - before.skipped_below_target,
            skipped_while_deleting: self.skipped_while_deleting - before.skipped_while_deleting,
            skipped_no_victim: self.skipped_no_victim - before.skipped_no_victim,
            skipped_no_room: self.skipped_no_room - before.skipped_no_room,
            purged_bytes: self.purged_bytes - before.purged_bytes,
        }
    }
}

impl AddAssign for CompactionLedger {
    fn add_assign(&mut self, other: Self) {
        self.victims += other.victims;
        self.victims_released += other.victims_released;
        self.moved_objects += other.moved_objects;
        self.moved_entries += other.moved_entries;
        self.missed_objects += other.missed_objects;
        self.missed_entries += other.missed_entries;
        self.moved_bytes += other.moved_bytes;
        self.freed_pages += other.freed_pages;
        self.slices += other.slices;
        self.time_ns += other.time_ns;
        self.longest_slice_ns = self.longest_slice_ns.max(other.longest_slice_ns);
        self.skipped_below_target += other.skipped_below_target;
        self.skipped_while_deleting += other.skipped_while_deleting;
        self.skipped_no_victim += other.skipped_no_victim;
        self.skipped_no_room += other.skipped_no_room;
        self.purged_bytes += other.purged_bytes;
    }
}

/// What compaction has done in one size class since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassLedger {
    /// Bytes of a slot.
    pub slot_bytes: u64,
    /// Slabs chosen to be emptied.
    pub victims: u64,
    /// Of these, slabs that were emptied and given back, or packed.
    pub victims_released: u64,
    /// Of these, slabs that were not, since the room for their objects was taken meanwhile.
    pub skipped_no_room: u64,
    /// Objects moved.
    pub moved_objects: u64,
    /// Their bytes.
    pub moved_bytes: u64,
    /// Pages that came free.
    pub freed_pages: u64,
}

impl AddAssign for ClassLedger {
    fn add_assign(&mut self, other: Self) {
        self.victims += other.victims;
        self.victims_released += other.victims_released;
        self.skipped_no_room += other.skipped_no_room;
        self.moved_objects += other.moved_objects;
        self.moved_bytes += other.moved_bytes;
        self.freed_pages += other.freed_pages;
    }
}

/// What active expiry has done since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpiryLedger {
    /// Time spent, in nanoseconds.
    pub time_ns: u64,
    /// Slices that ended because their time was over, not their work.
    pub capped_slices: u64,
    /// How many keys are there although their time has come, by a running estimate from the keys
    /// that slices looked at.
    pub stale_keys: u64,
}

impl AddAssign for ExpiryLedger {
    fn add_assign(&mut self, other: Self) {
        self.time_ns += other.time_ns;
        self.capped_slices += other.capped_slices;
        self.stale_keys += other.stale_keys;
    }
}

/// Counters since the start or the last [`reset`](crate::Locked::reset_statistics).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Lookups that found the key and were asked to count.
    pub hits: u64,
    /// Lookups that did not find the key and were asked to count.
    pub misses: u64,
    /// Keys removed because their time had come.
    pub expired: u64,
    /// Keys removed to make room.
    pub evicted: u64,
    /// Keys that were cleared in the background and whose memory was freed.
    pub lazy_freed: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.expired += other.expired;
        self.evicted += other.evicted;
        self.lazy_freed += other.lazy_freed;
    }
}

/// A sum over shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Keys in all databases.
    pub keys: u64,
    /// Keys with an expiry in all databases.
    pub volatile_keys: u64,
    /// Keys that were cleared in the background and whose memory is still to be freed.
    pub pending_keys: u64,
    /// Counters.
    pub counters: Counters,
    /// Where the memory is.
    pub memory: MemoryBreakdown,
    /// What compaction did.
    pub compaction: CompactionLedger,
    /// What active expiry did.
    pub expiry: ExpiryLedger,
}

impl AddAssign for Statistics {
    fn add_assign(&mut self, other: Self) {
        self.keys += other.keys;
        self.volatile_keys += other.volatile_keys;
        self.pending_keys += other.pending_keys;
        self.counters += other.counters;
        self.memory += other.memory;
        self.compaction += other.compaction;
        self.expiry += other.expiry;
    }
}

/// One database, as INFO's sections `keyspace` and `keysizes` show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbStatistics {
    /// Keys.
    pub keys: u64,
    /// Keys with an expiry.
    pub volatile_keys: u64,
    /// Mean time left of the keys with an expiry, in milliseconds, from a sample; 0 if unknown.
    pub avg_ttl_ms: u64,
    /// How long the values are.
    pub lengths: LengthHistogram,
}

impl AddAssign<&DbStatistics> for DbStatistics {
    fn add_assign(&mut self, other: &DbStatistics) {
        let sum_ms =
            |part: &DbStatistics| u128::from(part.avg_ttl_ms) * u128::from(part.volatile_keys);
        let ttl_ms = sum_ms(self) + sum_ms(other);
        self.keys += other.keys;
        self.volatile_keys += other.volatile_keys;
        self.avg_ttl_ms = (ttl_ms / u128::from(self.volatile_keys.max(1))) as u64;
        self.lengths += &other.lengths;
    }
}
