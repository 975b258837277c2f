//! One database under the locks that a command holds: the operations that commands are made of.
//!
//! Every operation on a key first removes the key if its time has come (lazy expiry), so no caller
//! ever sees a dead key. Every change of a key raises the flags of those who watch it. A reference
//! returned from here lives as long as the borrow of the [`Db`], during which nothing moves.
//!
//! A key whose shard is not locked makes the operation panic: which shards to lock follows from the
//! command's keys, so it is a defect of the program and not of the input.

use std::sync::Arc;

use crate::error::{OutOfMemory, UpdateError};
use crate::key::{Key, Position, ScanCursor};
use crate::lock::HeldView;
use crate::shard::Shard;
use crate::statistics::DbStatistics;
use crate::value::{Encoding, NewValue, ValueRef, ValueType};
use crate::watch::WatchFlag;

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
    /// It is this instant, in milliseconds of Unix time. At most `i64::MAX`.
    At(u64),
}

/// Where the memory of one key is, for MEMORY USAGE and DEBUG OBJECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the key.
    pub key_bytes: usize,
    /// Bytes of the value as stored.
    pub value_bytes: usize,
    /// Bytes of the slot or the page run that holds the entry.
    pub slot_bytes: usize,
    /// The slot and the key's share of the table.
    pub total_bytes: usize,
}

/// One database as seen by a command: see the module's text.
pub struct Db<'a> {
    pub(crate) shards: HeldView<'a, Shard>,
    pub(crate) index: usize,
    pub(crate) now_ms: u64,
}

impl Db<'_> {
    fn locate(&self, key: &Key<'_>) -> Position {
        Position::of(key.hash(), self.shards.len())
    }

    /// The number of this database.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// The instant at which the command runs, in milliseconds of Unix time.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The value of `key`, or `None` if there is no such key. O(1).
    pub fn get(&mut self, key: &Key<'_>, touch: Touch) -> Option<ValueRef<'_>> {
        let at = self.locate(key);
        self.shards.get(at.shard).find(
            self.index,
            at.prefix,
            key.bytes(),
            self.now_ms,
            touch.access,
            touch.count,
        )
    }

    /// Whether `key` exists. O(1).
    pub fn exists(&mut self, key: &Key<'_>, touch: Touch) -> bool {
        self.get(key, touch).is_some()
    }

    /// The type of `key`'s value.
    pub fn type_of(&mut self, key: &Key<'_>, touch: Touch) -> Option<ValueType> {
        self.get(key, touch).map(|value| value.value_type())
    }

    /// Makes `value` the value of `key`, whatever it was before.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the key is as it was.
    pub fn set(
        &mut self,
        key: &Key<'_>,
        value: NewValue<'_>,
        expiry: NewExpiry,
    ) -> Result<(), OutOfMemory> {
        let at = self.locate(key);
        let expiry = match expiry {
            NewExpiry::Keep => None,
            NewExpiry::None => Some(None),
            NewExpiry::At(ms) => Some(Some(ms)),
        };
        self.shards.get(at.shard).set(
            self.index,
            at.prefix,
            key.bytes(),
            self.now_ms,
            value,
            expiry,
        )
    }

    /// Adds `by` to the integer at `key`, 0 if there is none, and returns the sum. The expiry stays.
    ///
    /// # Errors
    /// The value is of another type, is not an integer, the sum overflows, or memory ran out; the
    /// key is as it was.
    pub fn increment(&mut self, key: &Key<'_>, by: i64) -> Result<i64, UpdateError> {
        let at = self.locate(key);
        self.shards
            .get(at.shard)
            .increment(self.index, at.prefix, key.bytes(), self.now_ms, by)
    }

    /// Appends `tail` to the string at `key`, which is created if there is none, and returns the
    /// new length. The expiry stays. The caller has checked that the result is not too long.
    ///
    /// # Errors
    /// The value is of another type, or memory ran out; the key is as it was.
    pub fn append(&mut self, key: &Key<'_>, tail: &[u8]) -> Result<usize, UpdateError> {
        let at = self.locate(key);
        self.shards
            .get(at.shard)
            .append(self.index, at.prefix, key.bytes(), self.now_ms, tail)
    }

    /// Overwrites the string at `key` from `offset` on with `patch`, filling a gap with zeros, and
    /// returns the new length. The expiry stays. The caller has checked that the result is not too
    /// long, and that `patch` is not empty.
    ///
    /// # Errors
    /// The value is of another type, or memory ran out; the key is as it was.
    pub fn set_range(
        &mut self,
        key: &Key<'_>,
        offset: usize,
        patch: &[u8],
    ) -> Result<usize, UpdateError> {
        let at = self.locate(key);
        self.shards.get(at.shard).set_range(
            self.index,
            at.prefix,
            key.bytes(),
            self.now_ms,
            offset,
            patch,
        )
    }

    /// Removes `key`; whether there was one. O(1), whatever the size of the value.
    pub fn remove(&mut self, key: &Key<'_>) -> bool {
        let at = self.locate(key);
        self.shards
            .get(at.shard)
            .remove(self.index, at.prefix, key.bytes(), self.now_ms)
    }

    /// When `key` expires, in milliseconds of Unix time: `None` if there is no such key,
    /// `Some(None)` if it never does.
    pub fn expiry(&mut self, key: &Key<'_>) -> Option<Option<u64>> {
        let at = self.locate(key);
        self.shards
            .get(at.shard)
            .peek(self.index, at.prefix, key.bytes(), self.now_ms, |item| {
                item.expiry_ms()
            })
    }

    /// Makes `key` expire at `at_ms` of Unix time; whether there is such a key. An instant that has
    /// passed is stored as well: the key is gone with its next lookup.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the key is as it was.
    pub fn set_expiry(&mut self, key: &Key<'_>, at_ms: u64) -> Result<bool, OutOfMemory> {
        let at = self.locate(key);
        self.shards.get(at.shard).set_expiry(
            self.index,
            at.prefix,
            key.bytes(),
            self.now_ms,
            Some(at_ms),
        )
    }

    /// Removes the expiry of `key`; whether it had one.
    pub fn persist(&mut self, key: &Key<'_>) -> bool {
        if !matches!(self.expiry(key), Some(Some(_))) {
            return false;
        }
        let at = self.locate(key);
        self.shards
            .get(at.shard)
            .set_expiry(self.index, at.prefix, key.bytes(), self.now_ms, None)
            .is_ok()
    }

    /// Gives the value and the expiry of `from` to `to`, replacing what was there; whether `from`
    /// exists. The two may be the same.
    ///
    /// # Errors
    /// [`OutOfMemory`]: both keys are as they were.
    pub fn rename(&mut self, from: &Key<'_>, to: &Key<'_>) -> Result<bool, OutOfMemory> {
        if from.bytes() == to.bytes() {
            return Ok(self.exists(from, Touch::NONE));
        }
        let copied = self.copy(from, self.index, to)?;
        if copied {
            self.remove(from);
        }
        Ok(copied)
    }

    /// Copies the value and the expiry of `from` to `to` in database `to_db`, replacing what was
    /// there; whether `from` exists.
    ///
    /// # Errors
    /// [`OutOfMemory`]: both keys are as they were.
    ///
    /// # Panics
    /// If there is no database `to_db`.
    pub fn copy(
        &mut self,
        from: &Key<'_>,
        to_db: usize,
        to: &Key<'_>,
    ) -> Result<bool, OutOfMemory> {
        let (source, target) = (self.locate(from), self.locate(to));
        let item = self.shards.get(source.shard).duplicate(
            self.index,
            source.prefix,
            from.bytes(),
            self.now_ms,
        );
        let Some(item) = item else { return Ok(false) };
        self.shards
            .get(target.shard)
            .put(to_db, target.prefix, to.bytes(), item)?;
        Ok(true)
    }

    /// Moves `key` to database `to_db`; false if there is no such key here or one there.
    ///
    /// # Errors
    /// [`OutOfMemory`]: nothing was moved.
    ///
    /// # Panics
    /// If there is no database `to_db`.
    pub fn move_to(&mut self, key: &Key<'_>, to_db: usize) -> Result<bool, OutOfMemory> {
        let at = self.locate(key);
        let now_ms = self.now_ms;
        if self
            .shards
            .get(at.shard)
            .peek(to_db, at.prefix, key.bytes(), now_ms, |_| ())
            .is_some()
        {
            return Ok(false);
        }
        let moved = self.copy(key, to_db, key)?;
        if moved {
            self.remove(key);
        }
        Ok(moved)
    }

    /// How long `key` has not been used, in seconds. Exact up to a minute, then within 10 %. `None`
    /// if there is no such key, or if uses are counted instead (an LFU policy).
    pub fn idle_seconds(&mut self, key: &Key<'_>) -> Option<u64> {
        let (at, now_ms) = (self.locate(key), self.now_ms);
        self.shards
            .get(at.shard)
            .peek(self.index, at.prefix, key.bytes(), now_ms, |item| {
                item.idle_seconds(now_ms)
            })
    }

    /// The logarithmic use counter of `key`. `None` if there is no such key, or if idle times are
    /// kept instead (every policy but LFU).
    pub fn frequency(&mut self, key: &Key<'_>) -> Option<u8> {
        let (at, now_ms) = (self.locate(key), self.now_ms);
        self.shards
            .get(at.shard)
            .peek(self.index, at.prefix, key.bytes(), now_ms, |item| {
                item.frequency()
            })
    }

    /// How the value of `key` is stored.
    pub fn encoding(&mut self, key: &Key<'_>) -> Option<Encoding> {
        let at = self.locate(key);
        self.shards
            .get(at.shard)
            .peek(self.index, at.prefix, key.bytes(), self.now_ms, |item| {
                item.encoding()
            })
    }

    /// Where the memory of `key` is.
    pub fn usage(&mut self, key: &Key<'_>) -> Option<Usage> {
        let at = self.locate(key);
        let key_bytes = key.bytes().len();
        self.shards
            .get(at.shard)
            .peek(self.index, at.prefix, key.bytes(), self.now_ms, |item| {
                let value_bytes = item.bytes();
                let slot_bytes = key_bytes + value_bytes;
                Usage {
                    key_bytes,
                    value_bytes,
                    slot_bytes,
                    total_bytes: slot_bytes,
                }
            })
    }

    /// A key picked at random from the locked shards, each with about the same chance; `None` if
    /// there is none.
    pub fn random_key(&mut self, random: u64) -> Option<&[u8]> {
        let held = self.shards.set();
        let total: usize = held
            .iter()
            .map(|shard| self.shards.get(shard).len(self.index))
            .sum();
        if total == 0 {
            return None;
        }
        let mut n = (random % total as u64) as usize;
        let mut chosen = 0;
        for shard in held.iter() {
            chosen = shard;
            let len = self.shards.get(shard).len(self.index);
            if n < len {
                break;
            }
            n -= len;
        }
        self.shards.get(chosen).nth_key(self.index, n)
    }

    /// Visits the entries from `cursor` on, in the order of their hashes, until `count` entries
    /// were looked at, the end is reached, or the next shard is not locked. Returns where to go on,
    /// [`ScanCursor::START`] at the end. Entries whose time has come are removed, not visited.
    ///
    /// A key that is there from the scan's first call to its last is visited exactly once, whatever
    /// else is added and removed between the calls. At most one bucket's worth more than `count`
    /// entries are visited.
    pub fn scan(
        &mut self,
        cursor: ScanCursor,
        count: usize,
        mut visit: impl FnMut(&[u8], ValueRef<'_>),
    ) -> ScanCursor {
        let (mut shard, mut prefix48) = (cursor.shard(), cursor.prefix48());
        let mut left = count.max(1);
        while shard < self.shards.len() {
            if !self.shards.set().contains(shard) || left == 0 {
                return ScanCursor::new(shard, prefix48);
            }
            let (visited, next) =
                self.shards
                    .get(shard)
                    .scan(self.index, prefix48, left, self.now_ms, &mut visit);
            if let Some(next) = next {
                return ScanCursor::new(shard, next);
            }
            left = left.saturating_sub(visited);
            shard += 1;
            prefix48 = 0;
        }
        ScanCursor::START
    }

    /// Keys in the locked shards, those included whose time has come but which are still there.
    pub fn len(&mut self) -> usize {
        self.shards
            .set()
            .iter()
            .map(|shard| self.shards.get(shard).len(self.index))
            .sum()
    }

    /// Whether [`Db::len`] is 0.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Figures of this database in the locked shards.
    pub fn statistics(&mut self) -> DbStatistics {
        let mut sum = DbStatistics::default();
        let mut ttl_sum = 0u128;
        for shard in self.shards.set().iter() {
            let part = self
                .shards
                .get(shard)
                .db_statistics(self.index, self.now_ms);
            sum.keys += part.keys;
            sum.volatile_keys += part.volatile_keys;
            ttl_sum += u128::from(part.avg_ttl_ms) * u128::from(part.volatile_keys);
        }
        sum.avg_ttl_ms = ttl_sum
            .checked_div(u128::from(sum.volatile_keys))
            .unwrap_or(0) as u64;
        sum
    }

    /// Removes all keys of this database from the locked shards (FLUSHDB, with all shards locked).
    pub fn clear(&mut self) {
        for shard in self.shards.set().iter() {
            self.shards.get(shard).clear(self.index);
        }
    }

    /// Raises `flag` whenever `key` changes, until [`Db::unwatch`].
    pub fn watch(&mut self, key: &Key<'_>, flag: &Arc<WatchFlag>) {
        let at = self.locate(key);
        self.shards
            .get(at.shard)
            .watch(self.index, at.prefix, key.bytes(), self.now_ms, flag);
    }

    /// Ends [`Db::watch`] of the same key with the same flag.
    pub fn unwatch(&mut self, key: &Key<'_>, flag: &Arc<WatchFlag>) {
        let at = self.locate(key);
        self.shards
            .get(at.shard)
            .unwatch(self.index, key.bytes(), flag);
    }
}
