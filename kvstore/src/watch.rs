//! WATCH: flags that a change of a key raises.
//!
//! A connection owns one [`WatchFlag`] and leaves a reference with every key it watches. Whatever
//! changes such a key (a write, an expiry, a deletion, an eviction, a flush, a swap of databases)
//! raises the flag under the lock of the key's shard. EXEC locks the shards of the watched keys
//! first, looks each key up so that one whose time has come is expired, and then reads the flag.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Raised when a watched key changes.
#[derive(Debug, Default)]
pub struct WatchFlag(AtomicBool);

impl WatchFlag {
    /// A flag that is down.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(WatchFlag::default())
    }

    /// Whether a watched key has changed.
    ///
    /// Exact under the locks of the watched keys' shards; without them it may lag behind.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        // Relaxed: whoever needs the exact answer holds the lock under which the flag is raised.
        self.0.load(Ordering::Relaxed)
    }

    /// Lowers the flag, for the connection's next transaction.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Watcher {
    db: usize,
    flag: Arc<WatchFlag>,
}

/// The watched keys of one shard.
#[derive(Debug, Default)]
pub(crate) struct WatchTable {
    keys: HashMap<Box<[u8]>, Vec<Watcher>>,
}

impl WatchTable {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Watching a key twice with the same flag is the same as once.
    pub(crate) fn add(&mut self, db: usize, key: &[u8], flag: &Arc<WatchFlag>) {
        let watchers = match self.keys.get_mut(key) {
            Some(watchers) => watchers,
            None => self.keys.entry(key.into()).or_default(),
        };
        if !watchers
            .iter()
            .any(|w| w.db == db && Arc::ptr_eq(&w.flag, flag))
        {
            watchers.push(Watcher {
                db,
                flag: Arc::clone(flag),
            });
        }
    }

    pub(crate) fn remove(&mut self, db: usize, key: &[u8], flag: &Arc<WatchFlag>) {
        let Some(watchers) = self.keys.get_mut(key) else {
            return;
        };
        watchers.retain(|w| !(w.db == db && Arc::ptr_eq(&w.flag, flag)));
        if watchers.is_empty() {
            self.keys.remove(key);
            if self.keys.is_empty() {
                self.keys = HashMap::new();
            }
        }
    }

    /// Raises the flags of all who watch `key` of `db`.
    pub(crate) fn signal(&self, db: usize, key: &[u8]) {
        if self.is_empty() {
            return;
        }
        for watcher in self.keys.get(key).into_iter().flatten() {
            if watcher.db == db {
                watcher.flag.raise();
            }
        }
    }

    /// Copies of the keys that are watched in one of two databases.
    pub(crate) fn keys_of(&self, databases: [usize; 2]) -> Vec<Box<[u8]>> {
        let watched = self.keys.iter().filter(|(_, watchers)| {
            watchers
                .iter()
                .any(|watcher| databases.contains(&watcher.db))
        });
        watched.map(|(key, _)| key.clone()).collect()
    }

    /// Raises the flags of all watched keys for which `changes(db, key)` holds.
    pub(crate) fn signal_where(&self, mut changes: impl FnMut(usize, &[u8]) -> bool) {
        for (key, watchers) in &self.keys {
            for watcher in watchers {
                if changes(watcher.db, key) {
                    watcher.flag.raise();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_raised_by_its_own_key_and_database_only() {
        let (mut table, flag, other) = (WatchTable::default(), WatchFlag::new(), WatchFlag::new());
        table.add(0, b"a", &flag);
        table.add(1, b"a", &other);
        table.signal(0, b"b");
        table.signal(2, b"a");
        assert!(!flag.is_raised() && !other.is_raised());
        table.signal(0, b"a");
        assert!(flag.is_raised() && !other.is_raised());
        flag.lower();
        table.remove(0, b"a", &flag);
        table.signal(0, b"a");
        assert!(!flag.is_raised());
        table.remove(1, b"a", &other);
        assert!(table.is_empty());
    }
}
