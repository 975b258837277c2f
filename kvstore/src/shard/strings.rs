//! Strings: what INCR, APPEND and SETRANGE do to a value.

use crate::entry::{self, Entry, Header, Payload};
use crate::error::{OutOfMemory, UpdateError};
use crate::shard::{At, Shard, VALUE_BYTES_MAX, payload};
use crate::table::Place;
use crate::value::NewValue;
use crate::value::string::{Decimal, StringRef};

impl Shard {
    /// Adds to an integer.
    pub(crate) fn increment(&mut self, at: &At<'_>, by: i64) -> Result<i64, UpdateError> {
        let Some((place, before)) = self.live(at) else {
            self.create(at, Payload::Integer(by), false, None)?;
            self.watches.signal(at.db, at.key);
            return Ok(by);
        };
        // SAFETY: a place is that of a live entry.
        let entry = unsafe { Entry::with_header(&self.memory, place.entry, before) };
        let old = entry
            .string()
            .to_integer()
            .ok_or(UpdateError::NotAnInteger)?;
        let new = old.checked_add(by).ok_or(UpdateError::Overflow)?;
        let payload = Payload::Integer(new);
        let header = payload.header(at.key.len(), false, before.expiry_ms());
        self.replace(at, &place, &before, &header, payload)?;
        self.watches.signal(at.db, at.key);
        Ok(new)
    }

    /// Appends to a string.
    pub(crate) fn append(&mut self, at: &At<'_>, tail: &[u8]) -> Result<usize, UpdateError> {
        let Some((place, _)) = self.live(at) else {
            self.create(at, payload(NewValue::String(tail)), false, None)?;
            self.watches.signal(at.db, at.key);
            return Ok(tail.len());
        };
        // SAFETY: a place is that of a live entry.
        let length = unsafe { Entry::read(&self.memory, place.entry) }
            .string()
            .len();
        self.patch(at, &place, length, tail)
    }

    /// Overwrites a part of a string, which grows if need be.
    pub(crate) fn set_range(
        &mut self,
        at: &At<'_>,
        offset: usize,
        patch: &[u8],
    ) -> Result<usize, UpdateError> {
        let end = offset
            .checked_add(patch.len())
            .filter(|end| *end <= VALUE_BYTES_MAX)
            .ok_or(OutOfMemory)?;
        let Some((place, _)) = self.live(at) else {
            let header = Header::string(at.key.len(), end, true, None);
            let entry = entry::create(&mut self.memory, &header, at.key, Payload::Zeros(end))?;
            // SAFETY: the entry is new, complete, and not in any table yet.
            unsafe { entry::value_mut(&mut self.memory, entry)[offset..].copy_from_slice(patch) };
            self.adopt(at, entry, &header)?;
            self.watches.signal(at.db, at.key);
            return Ok(end);
        };
        self.patch(at, &place, offset, patch)
    }

    /// Writes `patch` into the string at `place` from `offset` on. The string becomes raw bytes.
    fn patch(
        &mut self,
        at: &At<'_>,
        place: &Place,
        offset: usize,
        patch: &[u8],
    ) -> Result<usize, UpdateError> {
        // SAFETY: a place is that of a live entry.
        let entry = unsafe { Entry::read(&self.memory, place.entry) };
        let before = *entry.header();
        let old = match entry.string() {
            StringRef::Bytes(bytes) => bytes.len(),
            StringRef::Int(value) => {
                // Short, and seldom: made into bytes first.
                let mut decimal = Decimal::new();
                let bytes = decimal.format(value);
                let header = Header::string(at.key.len(), bytes.len(), true, before.expiry_ms());
                self.replace(at, place, &before, &header, Payload::Bytes(bytes))?;
                let (place, _) = self.live(at).ok_or(UpdateError::WrongType)?;
                return self.patch(at, &place, offset, patch);
            }
        };
        let end = offset
            .checked_add(patch.len())
            .filter(|end| *end <= VALUE_BYTES_MAX)
            .ok_or(OutOfMemory)?;
        let length = old.max(end);
        let header = Header::string(at.key.len(), length, true, before.expiry_ms());
        let entry = self.reshape(at, place, &header)?;
        // SAFETY: the entry is live; whatever a longer value has new is written here.
        let value = unsafe { entry::value_mut(&mut self.memory, entry) };
        if old < offset {
            value[old..offset].fill(0);
        }
        value[offset..end].copy_from_slice(patch);
        self.note_use(at, place);
        self.watches.signal(at.db, at.key);
        Ok(length)
    }
}
