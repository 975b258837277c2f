//! One database under the locks that a command holds: the operations that commands are made of.
//!
//! Every operation on a key first removes the key if its time has come (lazy expiry; where the settings
//! say that expired keys are kept, only operations that change the key do), so no caller ever sees a
//! dead key. Every change of a key raises the flags of those who watch it. A reference
//! returned from here lives as long as the borrow of the [`Db`], during which nothing moves.
//!
//! A key whose shard is not locked makes the operation panic: which shards to lock follows from the
//! command's keys, so it is a defect of the program and not of the input.

use std::sync::Arc;

use crate::compaction;
use crate::error::{OutOfMemory, UpdateError};
use crate::key::{Key, Position, ScanCursor};
use crate::lock::HeldView;
use crate::shard::{At, Discarded, Home, NewExpiry, Prepared, Reclaim, Shard, Touch, Usage};
use crate::statistics::DbStatistics;
use crate::value::{Encoding, NewValue, ValueRef, ValueType};
use crate::watch::WatchFlag;

/// One database as seen by a command: see the module's text.
pub struct Db<'a> {
    pub(crate) shards: HeldView<'a, Shard>,
    pub(crate) index: usize,
    pub(crate) databases: usize,
    pub(crate) now_ms: u64,
}

impl Db<'_> {
    /// The shard of a key, and what the shard wants to know.
    #[inline]
    fn locate<'k>(&mut self, key: &Key<'k>) -> (&mut Shard, At<'k>) {
        let Position { shard, prefix } = Position::of(key.hash(), self.shards.len());
        let at = At {
            db: self.index,
            prefix,
            key: key.bytes(),
            now_ms: self.now_ms,
        };
        (self.shards.get(shard), at)
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
    #[inline]
    pub fn get(&mut self, key: &Key<'_>, touch: Touch) -> Option<ValueRef<'_>> {
        let (shard, at) = self.locate(key);
        shard.find(&at, touch)
    }

    /// Whether `key` exists. O(1).
    pub fn exists(&mut self, key: &Key<'_>, touch: Touch) -> bool {
        self.get(key, touch).is_some()
    }

    /// Whether `key` is still there although its time has come. Changes nothing.
    pub fn is_due(&mut self, key: &Key<'_>) -> bool {
        let (shard, at) = self.locate(key);
        shard.is_due(&at)
    }

    /// The type of `key`'s value.
    pub fn type_of(&mut self, key: &Key<'_>, touch: Touch) -> Option<ValueType> {
        self.get(key, touch).map(|value| value.value_type())
    }

    /// Makes `value` the value of `key`, whatever it was before.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the key is as it was.
    #[inline]
    pub fn set(
        &mut self,
        key: &Key<'_>,
        value: NewValue<'_>,
        expiry: NewExpiry,
    ) -> Result<(), OutOfMemory> {
        let (shard, at) = self.locate(key);
        let result = shard.set(&at, value, expiry);
        compaction::after_write(shard);
        result
    }

    /// Makes `value(n)` the value of key number n, for all keys or, if memory runs out, for none. Of a
    /// key that comes twice the last value counts. No key has an expiry afterwards.
    ///
    /// # Errors
    /// [`OutOfMemory`]: all keys are as they were.
    pub fn set_all<'v>(
        &mut self,
        keys: &[Key<'_>],
        value: impl Fn(usize) -> NewValue<'v>,
    ) -> Result<(), OutOfMemory> {
        let overruled = overruled(keys);
        let counts = |n: &usize| !overruled.get(*n).copied().unwrap_or(false);
        let mut prepared: Vec<(usize, Prepared)> = Vec::with_capacity(keys.len());
        let mut result = Ok(());
        for n in (0..keys.len()).filter(counts) {
            let (shard, at) = self.locate(&keys[n]);
            match shard.prepare(&at, value(n)) {
                Ok(step) => prepared.push((n, step)),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        if result.is_err() {
            for (n, step) in prepared {
                let (shard, at) = self.locate(&keys[n]);
                shard.cancel(&at, step);
            }
            return result;
        }
        let unchanged = !prepared
            .iter()
            .any(|(_, step)| matches!(step, Prepared::Created));
        for (n, step) in &prepared {
            let (shard, at) = self.locate(&keys[*n]);
            shard.commit(&at, value(*n), *step, unchanged);
        }
        // Only now does a table know every entry.
        for (n, _) in prepared {
            compaction::after_write(self.locate(&keys[n]).0);
        }
        Ok(())
    }

    /// Adds `by` to the integer at `key`, 0 if there is none, and returns the sum. The expiry stays.
    ///
    /// # Errors
    /// The value is of another type, is not an integer, the sum overflows, or memory ran out; the
    /// key is as it was.
    pub fn increment(&mut self, key: &Key<'_>, by: i64) -> Result<i64, UpdateError> {
        let (shard, at) = self.locate(key);
        let result = shard.increment(&at, by);
        compaction::after_write(shard);
        result
    }

    /// Appends `tail` to the string at `key`, which is created if there is none, and returns the
    /// new length. The expiry stays. The caller has checked that the result is not too long.
    ///
    /// # Errors
    /// The value is of another type, or memory ran out; the key is as it was.
    pub fn append(&mut self, key: &Key<'_>, tail: &[u8]) -> Result<usize, UpdateError> {
        let (shard, at) = self.locate(key);
        let result = shard.append(&at, tail);
        compaction::after_write(shard);
        result
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
        let (shard, at) = self.locate(key);
        let result = shard.set_range(&at, offset, patch);
        compaction::after_write(shard);
        result
    }

    /// Removes `key`; whether there was one. O(1), whatever the size of the value.
    pub fn remove(&mut self, key: &Key<'_>) -> bool {
        let (shard, at) = self.locate(key);
        shard.remove(&at)
    }

    /// When `key` expires, in milliseconds of Unix time: `None` if there is no such key,
    /// `Some(None)` if it never does.
    pub fn expiry(&mut self, key: &Key<'_>) -> Option<Option<u64>> {
        let (shard, at) = self.locate(key);
        shard.expiry(&at)
    }

    /// Makes `key` expire at `at_ms` of Unix time; whether there is such a key. An instant that has
    /// passed is stored as well: the key is gone with its next lookup.
    ///
    /// # Errors
    /// [`OutOfMemory`]: the key is as it was.
    pub fn set_expiry(&mut self, key: &Key<'_>, at_ms: u64) -> Result<bool, OutOfMemory> {
        let (shard, at) = self.locate(key);
        let result = shard.set_expiry(&at, Some(at_ms));
        compaction::after_write(shard);
        result
    }

    /// Removes the expiry of `key`; whether that was done: there is such a key, it had an expiry, and
    /// there was memory for the smaller entry.
    pub fn persist(&mut self, key: &Key<'_>) -> bool {
        let (shard, at) = self.locate(key);
        matches!(shard.expiry(&at), Some(Some(_))) && shard.set_expiry(&at, None).is_ok()
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
    /// there; whether `from` exists. The two must not be the same key of the same database.
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
        assert!(
            to_db < self.databases,
            "database {to_db}; there are {}",
            self.databases
        );
        let source = Position::of(from.hash(), self.shards.len());
        let target = Position::of(to.hash(), self.shards.len());
        let from = At {
            db: self.index,
            prefix: source.prefix,
            key: from.bytes(),
            now_ms: self.now_ms,
        };
        let to = At {
            db: to_db,
            prefix: target.prefix,
            key: to.bytes(),
            now_ms: self.now_ms,
        };
        let copied = if source.shard == target.shard {
            self.shards.get(source.shard).copy_within(&from, &to)
        } else {
            let (from_shard, to_shard) = self.shards.pair(source.shard, target.shard);
            from_shard.copy_to(&from, to_shard, &to)
        };
        compaction::after_write(self.shards.get(target.shard));
        copied
    }

    /// Moves `key` to database `to_db`; false if there is no such key here or one there.
    ///
    /// # Errors
    /// [`OutOfMemory`]: nothing was moved.
    ///
    /// # Panics
    /// If there is no database `to_db`, or it is this one.
    pub fn move_to(&mut self, key: &Key<'_>, to_db: usize) -> Result<bool, OutOfMemory> {
        assert!(
            to_db < self.databases,
            "database {to_db}; there are {}",
            self.databases
        );
        assert!(to_db != self.index, "database {to_db} is the key's own");
        let (shard, at) = self.locate(key);
        if shard.contains(&At { db: to_db, ..at }) {
            return Ok(false);
        }
        let moved = shard.copy_within(&at, &At { db: to_db, ..at })?;
        if moved {
            shard.remove(&at);
        }
        Ok(moved)
    }

    /// How long `key` has not been used, in seconds. Exact up to a minute, then at most an eighth
    /// too long; 48 days at most. `None` if there is no such key, or if uses are counted instead (an
    /// LFU policy).
    pub fn idle_seconds(&mut self, key: &Key<'_>) -> Option<u64> {
        let (shard, at) = self.locate(key);
        shard.idle_seconds(&at).map(u64::from)
    }

    /// The logarithmic use counter of `key`. `None` if there is no such key, or if idle times are
    /// kept instead (every policy but LFU).
    pub fn frequency(&mut self, key: &Key<'_>) -> Option<u8> {
        let (shard, at) = self.locate(key);
        shard.frequency(&at)
    }

    /// How the value of `key` is stored.
    pub fn encoding(&mut self, key: &Key<'_>) -> Option<Encoding> {
        let (shard, at) = self.locate(key);
        shard.encoding(&at)
    }

    /// What holds the entry of a key: its slab, or pages of its own.
    pub fn home(&mut self, key: &Key<'_>) -> Option<Home> {
        let (shard, at) = self.locate(key);
        shard.home(&at)
    }

    /// Where the memory of `key` is.
    pub fn usage(&mut self, key: &Key<'_>) -> Option<Usage> {
        let (shard, at) = self.locate(key);
        shard.usage(&at)
    }

    /// A key picked at random from the locked shards, each with about the same chance, `random`
    /// deciding about the shard; `None` if there is none.
    pub fn random_key(&mut self, random: u64) -> Option<&[u8]> {
        let held = self.shards.set();
        let total = self.len();
        let mut n = (random as usize).checked_rem(total)?;
        let mut chosen = None;
        // Shards from the chosen one on, round the circle: one may turn out to hold expired keys only.
        let mut order: Vec<usize> = held.iter().collect();
        let start = order.iter().position(|shard| {
            let len = self.shards.get(*shard).len(self.index);
            let here = n < len;
            n = n.saturating_sub(len);
            here
        });
        order.rotate_left(start.unwrap_or(0));
        for shard in order {
            if self
                .shards
                .get(shard)
                .random_key(self.index, self.now_ms)
                .is_some()
            {
                chosen = Some(shard);
                break;
            }
        }
        self.shards.get(chosen?).random_key(self.index, self.now_ms)
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

    /// Keys in the locked shards, including those whose time has come but which are still there.
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
        for shard in self.shards.set().iter() {
            let shard = self.shards.get(shard);
            sum += &shard.db_statistics(self.index, self.now_ms);
        }
        sum
    }

    /// Removes all keys of this database from the locked shards (FLUSHDB, with all shards locked).
    ///
    /// A shard in which no other database has keys gives its whole arena back at once.
    pub fn clear(&mut self) {
        drop(self.discard(Reclaim::Now));
    }

    /// The same; the keys are gone at once, and their memory is given back by and by (FLUSHDB ASYNC).
    pub fn clear_in_background(&mut self) {
        let discarded = self.discard(Reclaim::InBackground);
        if !discarded.is_empty() {
            // If no thread can be started, the closure and what it holds are dropped here.
            let _ = std::thread::Builder::new()
                .name("reclaim".into())
                .spawn(move || drop(discarded));
        }
    }

    fn discard(&mut self, reclaim: Reclaim) -> Vec<Discarded> {
        let held = self.shards.set();
        held.iter()
            .map(|shard| self.shards.get(shard).clear(self.index, reclaim))
            .filter(|discarded| !discarded.is_empty())
            .collect()
    }

    /// Raises `flag` whenever `key` changes, until [`Db::unwatch`].
    pub fn watch(&mut self, key: &Key<'_>, flag: &Arc<WatchFlag>) {
        let (shard, at) = self.locate(key);
        shard.watch(&at, flag);
    }

    /// Ends [`Db::watch`] of the same key with the same flag.
    pub fn unwatch(&mut self, key: &Key<'_>, flag: &Arc<WatchFlag>) {
        let (shard, at) = self.locate(key);
        shard.unwatch(at.db, at.key, flag);
    }
}

/// Up to this many keys each is compared with each.
const COMPARED_KEYS_MAX: usize = 16;

/// Which of the keys come again further on; nothing if none does.
fn overruled(keys: &[Key<'_>]) -> Vec<bool> {
    let same = |a: &Key<'_>, b: &Key<'_>| a.hash() == b.hash() && a.bytes() == b.bytes();
    let mut overruled = Vec::new();
    let mut note = |n: usize| {
        overruled.resize(keys.len(), false);
        overruled[n] = true;
    };
    if keys.len() <= COMPARED_KEYS_MAX {
        for (n, key) in keys.iter().enumerate() {
            if keys[n + 1..].iter().any(|later| same(key, later)) {
                note(n);
            }
        }
        return overruled;
    }
    let mut order: Vec<(u64, usize)> = (keys.iter().enumerate())
        .map(|(n, key)| (key.hash().get(), n))
        .collect();
    order.sort_unstable();
    for pair in order.chunk_by(|a, b| a.0 == b.0) {
        for (at, (_, n)) in pair.iter().enumerate() {
            if pair[at + 1..]
                .iter()
                .any(|(_, later)| same(&keys[*n], &keys[*later]))
            {
                note(*n);
            }
        }
    }
    overruled
}
