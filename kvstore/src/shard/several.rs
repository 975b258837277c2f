//! Several keys set as one: all of them, or none.
//!
//! What may fail comes first, while it can be undone: keys that are missing are made, and where a
//! new value needs a slot of another class, a new entry is made beside the old one. What is left
//! then cannot fail: to write over old values, and to put new entries in the places of old ones.
//! All of it happens under one lock, and nothing may be compacted in between, since no table knows
//! the new entries yet.

use crate::entry;
use crate::error::OutOfMemory;
use crate::header::Header;
use crate::memory::Ref;
use crate::shard::{At, Shard, VALUE_BYTES_MAX, payload};
use crate::table::Place;
use crate::value::NewValue;

/// What was done for one key so far.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Prepared {
    /// The key was missing, and is there now with its new value.
    Created,
    /// The new value goes over the old one, which is here if no table has changed since.
    Over { place: Place, before: Header },
    /// This new entry takes the old one's place.
    Instead(Ref),
}

impl Shard {
    /// Does for one key what may fail.
    pub(crate) fn prepare(
        &mut self,
        at: &At<'_>,
        value: NewValue<'_>,
    ) -> Result<Prepared, OutOfMemory> {
        let payload = payload(value);
        let Some((place, before)) = self.live(at) else {
            self.create(at, payload, false, None)?;
            return Ok(Prepared::Created);
        };
        let header = payload.header(at.key.len(), false, None);
        if header.value_bytes() > VALUE_BYTES_MAX {
            return Err(OutOfMemory);
        }
        let slot_bytes = |header: &Header| self.memory.usable_bytes(header.entry_bytes());
        if slot_bytes(&before) == slot_bytes(&header) {
            return Ok(Prepared::Over { place, before });
        }
        let entry = entry::create(&mut self.memory, &header, at.key, payload)?;
        Ok(Prepared::Instead(entry))
    }

    /// Does the rest for one key. `unchanged` says that no key was made in any table since the first
    /// was prepared, so that places are true.
    pub(crate) fn commit(
        &mut self,
        at: &At<'_>,
        value: NewValue<'_>,
        prepared: Prepared,
        unchanged: bool,
    ) {
        match prepared {
            Prepared::Created => {}
            Prepared::Over { place, before } => {
                let found = if unchanged {
                    Some((place, before))
                } else {
                    self.live(at)
                };
                let (place, before) = found.expect("the key was there at the same instant");
                let payload = payload(value);
                let header = payload.header(at.key.len(), false, None);
                self.replace(at, &place, &before, &header, payload)
                    .expect("the value fits the slot");
            }
            Prepared::Instead(entry) => self
                .install(at, entry)
                .expect("the key has a place in its table"),
        }
        self.watches.signal(at.db, at.key);
    }

    /// Undoes what was done for one key.
    pub(crate) fn cancel(&mut self, at: &At<'_>, prepared: Prepared) {
        match prepared {
            Prepared::Created => {
                if let Some((place, _)) = self.live(at) {
                    self.take_out(at.db, at.now_ms, &place);
                }
            }
            Prepared::Over { .. } => {}
            // SAFETY: the entry was made by `prepare`, and no table refers to it.
            Prepared::Instead(entry) => unsafe { entry::release(&mut self.memory, entry) },
        }
    }
}
