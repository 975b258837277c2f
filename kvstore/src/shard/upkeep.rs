//! What maintenance, compaction and eviction need of a shard.

use crate::gauges::Gauges;
use crate::memory::Memory;
use crate::pacing::Pacing;
use crate::settings::Settings;
use crate::shard::Shard;
use crate::statistics::{ClassLedger, CompactionLedger};

impl Shard {
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    pub(crate) fn pacing(&mut self) -> &mut Pacing {
        &mut self.pacing
    }

    pub(crate) fn ledger(&mut self) -> &mut CompactionLedger {
        &mut self.ledger
    }

    /// What compaction did, in all and in the size class of a slab that is being emptied.
    pub(crate) fn ledgers(
        &mut self,
        class: usize,
        slot_bytes: usize,
    ) -> (&mut CompactionLedger, &mut ClassLedger) {
        if class >= self.class_ledgers.len() {
            self.class_ledgers.resize(class + 1, ClassLedger::default());
        }
        let of_class = &mut self.class_ledgers[class];
        of_class.slot_bytes = slot_bytes as u64;
        (&mut self.ledger, of_class)
    }

    /// What compaction did, by size class, where it did anything.
    pub(crate) fn class_ledgers(&self) -> impl Iterator<Item = &ClassLedger> {
        self.class_ledgers
            .iter()
            .filter(|ledger| ledger.slot_bytes > 0)
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn memory_mut(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Bytes of slots in use: entries and segments.
    #[inline]
    pub(crate) fn used_bytes(&self) -> usize {
        self.sizes.slot_bytes + self.memory.segment_bytes()
    }

    /// Whether nothing was written since this was last asked.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.pacing.is_quiet()
    }

    /// Gives back all free pages; their bytes.
    pub(crate) fn purge(&mut self) -> usize {
        let bytes = self.memory.purge_all();
        self.ledger.purged_bytes += bytes as u64;
        bytes
    }

    /// Gives back free pages of at most about `bytes_max` bytes; how many bytes.
    pub(crate) fn purge_free(&mut self, bytes_max: usize) -> usize {
        let bytes = self.memory.purge_free(bytes_max);
        self.ledger.purged_bytes += bytes as u64;
        bytes
    }

    /// Gives back the free pages that are old enough, of at most about `bytes_max` bytes; when
    /// more will be, in milliseconds.
    pub(crate) fn purge_due(&mut self, now_ms: u64, bytes_max: usize) -> Option<u64> {
        let purged = self.memory.purge_due(now_ms, bytes_max);
        self.ledger.purged_bytes += purged.bytes as u64;
        purged.next_due_ms
    }

    /// Tells the gauges what is resident. Takes time in proportion to the size classes in use.
    pub(crate) fn tell_resident(&self) {
        self.gauges
            .set_resident_bytes(self.memory.stats().resident_bytes as u64);
    }

    /// Tells the gauges what is in use.
    pub(crate) fn tell_used(&self) {
        self.gauges.set_used_bytes(self.used_bytes() as u64);
    }
}
