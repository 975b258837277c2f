//! One shard: the entries of all databases whose keys hash into it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::error::{OutOfMemory, UpdateError};
use crate::settings::Settings;
use crate::statistics::{Counters, DbStatistics, MemoryBreakdown, Statistics};
use crate::value::string::{EMBEDDED_BYTES_MAX, StringRef, parse_integer};
use crate::value::{Encoding, NewValue, ValueRef};
use crate::watch::{WatchFlag, WatchTable};

#[derive(Clone, Debug)]
enum Stored {
    Int(i64),
    Bytes { bytes: Vec<u8>, raw: bool },
}

impl Stored {
    fn new(value: NewValue<'_>) -> Self {
        match value {
            NewValue::Int(value) => Stored::Int(value),
            NewValue::String(bytes) => match parse_integer(bytes) {
                Some(value) => Stored::Int(value),
                None => Stored::Bytes {
                    bytes: bytes.into(),
                    raw: false,
                },
            },
            NewValue::Bytes(bytes) => Stored::Bytes {
                bytes: bytes.into(),
                raw: false,
            },
        }
    }

    fn as_ref(&self) -> StringRef<'_> {
        match self {
            Stored::Int(value) => StringRef::Int(*value),
            Stored::Bytes { bytes, .. } => StringRef::Bytes(bytes),
        }
    }

    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        if let Stored::Int(value) = self {
            *self = Stored::Bytes {
                bytes: value.to_string().into_bytes(),
                raw: true,
            };
        }
        match self {
            Stored::Bytes { bytes, raw } => {
                *raw = true;
                bytes
            }
            Stored::Int(_) => unreachable!("made bytes above"),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Item {
    stored: Stored,
    expiry_ms: Option<u64>,
    accessed_ms: u64,
    uses: u8,
}

type Table = BTreeMap<(u64, Box<[u8]>), Item>;

/// The part of the keyspace behind one lock.
pub(crate) struct Shard {
    tables: Vec<Table>,
    watches: WatchTable,
    pub(crate) settings: Settings,
    pub(crate) counters: Counters,
}

fn due(item: &Item, now_ms: u64) -> bool {
    item.expiry_ms.is_some_and(|at| at < now_ms)
}

impl Shard {
    pub(crate) fn new(databases: usize) -> Self {
        Shard {
            tables: vec![Table::new(); databases],
            watches: WatchTable::default(),
            settings: Settings::default(),
            counters: Counters::default(),
        }
    }

    fn expire_if_due(&mut self, db: usize, prefix: u64, key: &[u8], now_ms: u64) {
        let at = (prefix, Box::from(key));
        if self.tables[db]
            .get(&at)
            .is_some_and(|item| due(item, now_ms))
        {
            self.tables[db].remove(&at);
            self.counters.expired += 1;
            self.watches.signal(db, key);
        }
    }

    pub(crate) fn find(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        touch: bool,
        count: bool,
    ) -> Option<ValueRef<'_>> {
        self.expire_if_due(db, prefix, key, now_ms);
        let item = self.tables[db].get_mut(&(prefix, Box::from(key)));
        if count {
            match item {
                Some(_) => self.counters.hits += 1,
                None => self.counters.misses += 1,
            }
        }
        let item = item?;
        if touch {
            item.accessed_ms = now_ms;
            item.uses = item.uses.saturating_add(1);
        }
        Some(ValueRef::String(item.stored.as_ref()))
    }

    pub(crate) fn peek<R>(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        read: impl FnOnce(&Item) -> R,
    ) -> Option<R> {
        self.expire_if_due(db, prefix, key, now_ms);
        self.tables[db].get(&(prefix, Box::from(key))).map(read)
    }

    pub(crate) fn set(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        value: NewValue<'_>,
        expiry_ms: Option<Option<u64>>,
    ) -> Result<(), OutOfMemory> {
        self.expire_if_due(db, prefix, key, now_ms);
        self.watches.signal(db, key);
        let stored = Stored::new(value);
        let item = self.tables[db].entry((prefix, key.into())).or_insert(Item {
            stored: Stored::Int(0),
            expiry_ms: None,
            accessed_ms: now_ms,
            uses: 5,
        });
        item.stored = stored;
        item.accessed_ms = now_ms;
        if let Some(expiry_ms) = expiry_ms {
            item.expiry_ms = expiry_ms;
        }
        Ok(())
    }

    fn update<R>(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        initial: Stored,
        change: impl FnOnce(&mut Stored) -> Result<R, UpdateError>,
    ) -> Result<R, UpdateError> {
        self.expire_if_due(db, prefix, key, now_ms);
        let at = (prefix, Box::from(key));
        let mut item = self.tables[db].get(&at).cloned().unwrap_or(Item {
            stored: initial,
            expiry_ms: None,
            accessed_ms: now_ms,
            uses: 5,
        });
        let result = change(&mut item.stored)?;
        item.accessed_ms = now_ms;
        self.tables[db].insert(at, item);
        self.watches.signal(db, key);
        Ok(result)
    }

    pub(crate) fn increment(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        by: i64,
    ) -> Result<i64, UpdateError> {
        self.update(db, prefix, key, now_ms, Stored::Int(0), |stored| {
            let old = stored
                .as_ref()
                .to_integer()
                .ok_or(UpdateError::NotAnInteger)?;
            let new = old.checked_add(by).ok_or(UpdateError::Overflow)?;
            *stored = Stored::Int(new);
            Ok(new)
        })
    }

    pub(crate) fn append(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        tail: &[u8],
    ) -> Result<usize, UpdateError> {
        if self.peek(db, prefix, key, now_ms, |_| ()).is_none() {
            self.set(db, prefix, key, now_ms, NewValue::String(tail), None)?;
            return Ok(tail.len());
        }
        self.update(db, prefix, key, now_ms, Stored::Int(0), |stored| {
            let bytes = stored.bytes_mut();
            bytes.extend_from_slice(tail);
            Ok(bytes.len())
        })
    }

    pub(crate) fn set_range(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        offset: usize,
        patch: &[u8],
    ) -> Result<usize, UpdateError> {
        let initial = Stored::Bytes {
            bytes: Vec::new(),
            raw: true,
        };
        self.update(db, prefix, key, now_ms, initial, |stored| {
            let bytes = stored.bytes_mut();
            let end = offset + patch.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[offset..end].copy_from_slice(patch);
            Ok(bytes.len())
        })
    }

    pub(crate) fn remove(&mut self, db: usize, prefix: u64, key: &[u8], now_ms: u64) -> bool {
        self.expire_if_due(db, prefix, key, now_ms);
        let removed = self.tables[db].remove(&(prefix, Box::from(key))).is_some();
        if removed {
            self.watches.signal(db, key);
        }
        removed
    }

    pub(crate) fn set_expiry(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        expiry_ms: Option<u64>,
    ) -> Result<bool, OutOfMemory> {
        self.expire_if_due(db, prefix, key, now_ms);
        let Some(item) = self.tables[db].get_mut(&(prefix, Box::from(key))) else {
            return Ok(false);
        };
        item.expiry_ms = expiry_ms;
        self.watches.signal(db, key);
        Ok(true)
    }

    /// A copy of the item, to be put under another key or in another database or shard.
    pub(crate) fn duplicate(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
    ) -> Option<Item> {
        self.peek(db, prefix, key, now_ms, Item::clone)
    }

    pub(crate) fn put(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        item: Item,
    ) -> Result<(), OutOfMemory> {
        self.tables[db].insert((prefix, key.into()), item);
        self.watches.signal(db, key);
        Ok(())
    }

    /// Visits entries from `from48` on until at least `count` were visited; returns the 48-bit
    /// prefix to continue from, or `None` at the end of the shard.
    pub(crate) fn scan(
        &mut self,
        db: usize,
        from48: u64,
        count: usize,
        now_ms: u64,
        visit: &mut dyn FnMut(&[u8], ValueRef<'_>),
    ) -> (usize, Option<u64>) {
        let (mut visited, mut last48) = (0, None);
        let start = (from48 << 16, Box::from(&b""[..]));
        let mut expired = Vec::new();
        let mut next = None;
        for ((prefix, key), item) in
            self.tables[db].range((Bound::Included(start), Bound::Unbounded))
        {
            if visited >= count && last48 != Some(prefix >> 16) {
                next = Some(prefix >> 16);
                break;
            }
            last48 = Some(prefix >> 16);
            visited += 1;
            if due(item, now_ms) {
                expired.push((*prefix, key.clone()));
            } else {
                visit(key, ValueRef::String(item.stored.as_ref()));
            }
        }
        for (prefix, key) in expired {
            self.expire_if_due(db, prefix, &key, now_ms);
        }
        (visited, next)
    }

    pub(crate) fn nth_key(&self, db: usize, n: usize) -> Option<&[u8]> {
        self.tables[db].keys().nth(n).map(|(_, key)| &**key)
    }

    pub(crate) fn len(&self, db: usize) -> usize {
        self.tables[db].len()
    }

    pub(crate) fn db_statistics(&self, db: usize, now_ms: u64) -> DbStatistics {
        let left: Vec<u64> = self.tables[db]
            .values()
            .filter_map(|item| item.expiry_ms.map(|at| at.saturating_sub(now_ms)))
            .collect();
        DbStatistics {
            keys: self.tables[db].len() as u64,
            volatile_keys: left.len() as u64,
            avg_ttl_ms: left
                .iter()
                .sum::<u64>()
                .checked_div(left.len() as u64)
                .unwrap_or(0),
        }
    }

    pub(crate) fn clear(&mut self, db: usize) {
        let table = &self.tables[db];
        self.watches
            .signal_where(|watched, key| watched == db && table.keys().any(|(_, k)| **k == *key));
        self.tables[db] = Table::new();
    }

    pub(crate) fn swap(&mut self, first: usize, second: usize) {
        let tables = &self.tables;
        self.watches.signal_where(|watched, key| {
            (watched == first || watched == second)
                && [first, second]
                    .iter()
                    .any(|db| tables[*db].keys().any(|(_, k)| **k == *key))
        });
        self.tables.swap(first, second);
    }

    pub(crate) fn watch(
        &mut self,
        db: usize,
        prefix: u64,
        key: &[u8],
        now_ms: u64,
        flag: &Arc<WatchFlag>,
    ) {
        self.expire_if_due(db, prefix, key, now_ms);
        self.watches.add(db, key, flag);
    }

    pub(crate) fn unwatch(&mut self, db: usize, key: &[u8], flag: &Arc<WatchFlag>) {
        self.watches.remove(db, key, flag);
    }

    pub(crate) fn statistics(&self) -> Statistics {
        let mut memory = MemoryBreakdown::default();
        let mut volatile_keys = 0;
        for ((_, key), item) in self.tables.iter().flatten() {
            memory.key_bytes += key.len() as u64;
            memory.value_bytes += item.stored.as_ref().len() as u64;
            volatile_keys += u64::from(item.expiry_ms.is_some());
        }
        Statistics {
            keys: self.tables.iter().map(|table| table.len() as u64).sum(),
            volatile_keys,
            counters: self.counters,
            memory,
            ..Statistics::default()
        }
    }

    /// Removes up to `limit` keys whose time has come.
    pub(crate) fn expire_due(&mut self, now_ms: u64, limit: usize) -> bool {
        let mut left = limit;
        for db in 0..self.tables.len() {
            let keys: Vec<_> = self.tables[db]
                .iter()
                .filter(|(_, item)| due(item, now_ms))
                .map(|(at, _)| at.clone())
                .take(left)
                .collect();
            left -= keys.len();
            for (prefix, key) in keys {
                self.expire_if_due(db, prefix, &key, now_ms);
            }
        }
        left == 0
    }
}

impl Item {
    pub(crate) fn expiry_ms(&self) -> Option<u64> {
        self.expiry_ms
    }

    pub(crate) fn idle_seconds(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.accessed_ms) / 1000
    }

    pub(crate) fn frequency(&self) -> u8 {
        self.uses
    }

    pub(crate) fn encoding(&self) -> Encoding {
        match &self.stored {
            Stored::Int(_) => Encoding::Int,
            Stored::Bytes { bytes, raw: false } if bytes.len() <= EMBEDDED_BYTES_MAX => {
                Encoding::EmbeddedString
            }
            Stored::Bytes { .. } => Encoding::RawString,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.stored.as_ref().len()
    }
}
