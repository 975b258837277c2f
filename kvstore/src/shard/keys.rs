//! Keys whatever their values: removal, expiry, copies, watches.

use std::sync::Arc;

use crate::entry;
use crate::error::OutOfMemory;
use crate::memory::Ref;
use crate::shard::{At, Shard};
use crate::watch::WatchFlag;

impl Shard {
    /// Removes a key; whether it was there.
    pub(crate) fn remove(&mut self, at: &At<'_>) -> bool {
        let Some((place, _)) = self.live(at) else {
            return false;
        };
        self.take_out(at.db, at.now_ms, &place);
        self.watches.signal(at.db, at.key);
        true
    }

    /// Sets or removes the expiry of a key; whether it is there.
    pub(crate) fn set_expiry(
        &mut self,
        at: &At<'_>,
        expiry_ms: Option<u64>,
    ) -> Result<bool, OutOfMemory> {
        let Some((place, before)) = self.live(at) else {
            return Ok(false);
        };
        if before.expiry_ms() != expiry_ms {
            self.reshape(at, &place, &before.with_expiry(expiry_ms))?;
        }
        self.watches.signal(at.db, at.key);
        Ok(true)
    }

    /// Copies a key to another one in this shard, which is replaced; whether it is there.
    pub(crate) fn copy_within(&mut self, from: &At<'_>, to: &At<'_>) -> Result<bool, OutOfMemory> {
        let Some((place, _)) = self.live(from) else {
            return Ok(false);
        };
        // SAFETY: a place is that of a live entry.
        let entry = unsafe { entry::copy_within(&mut self.memory, place.entry, to.key)? };
        self.install(to, entry)?;
        Ok(true)
    }

    /// Copies a key to another one in another shard, which is replaced; whether it is there.
    pub(crate) fn copy_to(
        &mut self,
        from: &At<'_>,
        target: &mut Shard,
        to: &At<'_>,
    ) -> Result<bool, OutOfMemory> {
        let Some((place, _)) = self.live(from) else {
            return Ok(false);
        };
        // SAFETY: a place is that of a live entry.
        let entry =
            unsafe { entry::copy_between(&self.memory, place.entry, &mut target.memory, to.key)? };
        target.install(to, entry)?;
        Ok(true)
    }

    /// Puts a new entry in the place of the key's, or in a place of its own.
    pub(super) fn install(&mut self, at: &At<'_>, entry: Ref) -> Result<(), OutOfMemory> {
        // SAFETY: the entry is new and live.
        let header = unsafe { entry::header(&self.memory, entry) };
        match self.live(at) {
            None => self.adopt(at, entry, &header)?,
            Some((place, before)) => {
                // SAFETY: both entries are live, and these are their headers.
                let lengths = unsafe {
                    let old = entry::length_bin(&self.memory, place.entry, &before);
                    (old, entry::length_bin(&self.memory, entry, &header))
                };
                let table = &mut self.tables[at.db];
                table.recount_length(lengths.0, lengths.1);
                table.set_reference(&mut self.memory, &place, entry);
                table.set_expiry(&mut self.memory, &place, header.expiry_ms());
                self.sizes
                    .subtract(&before, self.memory.usable_bytes(before.entry_bytes()));
                self.sizes
                    .add(&header, self.memory.usable_bytes(header.entry_bytes()));
                // SAFETY: the table refers to the new entry instead.
                unsafe { self.memory.free(place.entry, before.entry_bytes()) };
                self.pacing.freed(before.entry_bytes());
                self.wrote(at, header.entry_bytes());
                self.note_use(at, &place);
            }
        }
        self.watches.signal(at.db, at.key);
        Ok(())
    }

    /// Whether a key is there.
    pub(crate) fn contains(&mut self, at: &At<'_>) -> bool {
        self.live(at).is_some()
    }

    /// Watches a key. One whose time has come is removed first, so that its end is no change.
    pub(crate) fn watch(&mut self, at: &At<'_>, flag: &Arc<WatchFlag>) {
        self.look(at);
        self.watches.add(at.db, at.key, flag);
    }

    pub(crate) fn unwatch(&mut self, db: usize, key: &[u8], flag: &Arc<WatchFlag>) {
        self.watches.remove(db, key, flag);
    }
}
