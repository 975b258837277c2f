//! Operations on a [`Keyspace`] next to a map that says what they should do, for property tests and
//! the fuzzer. After each step everything is checked: the shards' own books, every key's value and
//! expiry, the flags of watched keys, and what a scan that goes on through all the changes has seen.

mod op;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::db::Db;
use crate::error::UpdateError;
use crate::key::{ScanCursor, ShardSet};
use crate::keyspace::{Keyspace, KeyspaceOptions, NextDue};
use crate::settings::{EvictionPolicy, MemoryMeasure, Settings};
use crate::shard::{NewExpiry, Touch};
use crate::value::string::{Decimal, parse_integer};
use crate::value::{NewValue, ValueRef};
use crate::watch::WatchFlag;

pub use op::Op;
use op::{key_bytes, value_bytes};

const DATABASES: usize = 4;

type Name = (usize, Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    value: Vec<u8>,
    expiry_ms: Option<u64>,
}

/// A keyspace and what it should hold.
pub struct Model {
    keyspace: Keyspace,
    kept: BTreeMap<Name, Kept>,
    now_ms: u64,
    watched: Name,
    flag: Arc<WatchFlag>,
    scan: Scan,
    settings: Settings,
    out_of_memory: bool,
}

#[derive(Default)]
struct Scan {
    cursor: ScanCursor,
    /// Keys that were there when the scan began and have been ever since.
    steady: BTreeSet<Vec<u8>>,
    seen: BTreeMap<Vec<u8>, usize>,
}

impl Model {
    /// An empty keyspace with this many shards, at most `region_bytes` large each.
    pub fn new(seed: u64, shards: usize, region_bytes: usize) -> Self {
        let options = KeyspaceOptions {
            shards,
            databases: DATABASES,
            region_bytes,
            seed,
        };
        let model = Model {
            keyspace: Keyspace::new(&options).expect("address space"),
            kept: BTreeMap::new(),
            now_ms: 1_790_000_000_000,
            watched: (0, key_bytes(7)),
            flag: WatchFlag::new(),
            scan: Scan::default(),
            settings: Settings::default(),
            out_of_memory: false,
        };
        model.with_db(0, |keyspace, db| {
            db.watch(&keyspace.key(&model.watched.1), &model.flag)
        });
        model
    }

    /// Whether some step ran out of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        self.out_of_memory
    }

    /// Keys that are there.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn with_db<R>(&self, db: usize, act: impl FnOnce(&Keyspace, &mut Db<'_>) -> R) -> R {
        let mut locked = self.keyspace.lock_all();
        act(&self.keyspace, &mut locked.db(db, self.now_ms))
    }

    fn forget_dead(&mut self) {
        let now_ms = self.now_ms;
        self.kept
            .retain(|_, kept| kept.expiry_ms.is_none_or(|at| at >= now_ms));
    }

    fn name(db: u8, key: u16) -> Name {
        (usize::from(db) % DATABASES, key_bytes(key % 8000))
    }

    /// Whether an operation was done, or ran out of memory and must have changed nothing.
    fn done<T>(&mut self, result: Result<T, impl Into<UpdateError>>) -> Option<T> {
        match result.map_err(Into::into) {
            Ok(value) => Some(value),
            Err(UpdateError::OutOfMemory) => {
                self.out_of_memory = true;
                None
            }
            Err(other) => panic!("{other}"),
        }
    }

    /// Takes one step, and checks everything.
    ///
    /// # Panics
    /// If the keyspace does not do what it should.
    pub fn step(&mut self, op: Op) {
        let before = self.kept.get(&self.watched).cloned();
        self.apply(op);
        self.forget_dead();
        self.check(op, before);
    }

    fn set(&mut self, name: Name, value: Vec<u8>, expiry: NewExpiry) {
        let result = self.with_db(name.0, |keyspace, db| {
            db.set(&keyspace.key(&name.1), NewValue::String(&value), expiry)
        });
        if self.done(result).is_some() {
            let old = self.kept.get(&name).and_then(|kept| kept.expiry_ms);
            let expiry_ms = match expiry {
                NewExpiry::Keep => old,
                NewExpiry::None => None,
                NewExpiry::At(at) => Some(at),
            };
            self.kept.insert(name, Kept { value, expiry_ms });
        }
    }

    fn remove(&mut self, name: &Name) {
        let removed = self.with_db(name.0, |keyspace, db| db.remove(&keyspace.key(&name.1)));
        assert_eq!(removed, self.kept.remove(name).is_some());
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Set {
                db,
                key,
                length,
                expiry,
            } => {
                let expiry = match expiry % 4 {
                    0 => NewExpiry::Keep,
                    1 => NewExpiry::At(self.now_ms + u64::from(expiry)),
                    _ => NewExpiry::None,
                };
                self.set(Self::name(db, key), value_bytes(key, length), expiry);
            }
            Op::SetMany {
                db,
                from,
                count,
                length,
                volatile,
            } => {
                for n in 0..count {
                    let key = from.wrapping_add(n);
                    let expiry = if volatile && n % 3 == 0 {
                        NewExpiry::At(self.now_ms + u64::from(n) * 10)
                    } else {
                        NewExpiry::None
                    };
                    self.set(
                        Self::name(db, key),
                        value_bytes(key, length.wrapping_add(n % 5)),
                        expiry,
                    );
                }
            }
            Op::Get { db, key } => {
                let name = Self::name(db, key);
                let found = self.with_db(name.0, |keyspace, db| {
                    db.exists(&keyspace.key(&name.1), Touch::READ)
                });
                assert_eq!(found, self.kept.contains_key(&name));
            }
            Op::SetTogether {
                db,
                from,
                count,
                length,
            } => {
                let row = (0..u16::from(count)).chain(0..u16::from(count / 8));
                let names: Vec<Name> = row.map(|n| Self::name(db, from.wrapping_add(n))).collect();
                let values: Vec<Vec<u8>> = (0u16..)
                    .take(names.len())
                    .map(|n| value_bytes(n, length.wrapping_add(n % 5)))
                    .collect();
                self.flag.lower();
                let result = self.with_db(usize::from(db) % DATABASES, |keyspace, db| {
                    let keys: Vec<_> = names.iter().map(|name| keyspace.key(&name.1)).collect();
                    db.set_all(&keys, |n| NewValue::String(&values[n]))
                });
                if self.done(result).is_some() {
                    let expiry_ms = None;
                    let kept = values.into_iter().map(|value| Kept { value, expiry_ms });
                    self.kept.extend(names.into_iter().zip(kept));
                }
            }
            Op::GetMany { db, from, count } => {
                let names: Vec<Name> = (0..u16::from(count))
                    .map(|n| Self::name(db, from.wrapping_add(n)))
                    .collect();
                let hashes: Vec<_> = names
                    .iter()
                    .map(|name| self.keyspace.key(&name.1).hash())
                    .collect();
                self.keyspace.prefetch(usize::from(db) % DATABASES, &hashes);
                for name in names {
                    let found = self.with_db(name.0, |keyspace, db| {
                        db.exists(&keyspace.key(&name.1), Touch::READ)
                    });
                    assert_eq!(found, self.kept.contains_key(&name));
                }
            }
            Op::Increment { db, key, by } => {
                let name = Self::name(db, key);
                let by = i64::from(by) << (key % 33);
                let result = self.with_db(name.0, |keyspace, db| {
                    db.increment(&keyspace.key(&name.1), by)
                });
                let old = self
                    .kept
                    .get(&name)
                    .map_or(Some(0), |kept| parse_integer(&kept.value));
                match (old, old.and_then(|old| old.checked_add(by))) {
                    (None, _) => assert_eq!(result, Err(UpdateError::NotAnInteger)),
                    (_, None) => assert_eq!(result, Err(UpdateError::Overflow)),
                    (_, Some(sum)) => {
                        if let Some(got) = self.done(result) {
                            assert_eq!(got, sum);
                            let expiry_ms = self.kept.get(&name).and_then(|kept| kept.expiry_ms);
                            self.kept.insert(
                                name,
                                Kept {
                                    value: sum.to_string().into_bytes(),
                                    expiry_ms,
                                },
                            );
                        }
                    }
                }
            }
            Op::Append { db, key, length } => {
                let (name, tail) = (Self::name(db, key), value_bytes(key, length));
                let result = self.with_db(name.0, |keyspace, db| {
                    db.append(&keyspace.key(&name.1), &tail)
                });
                if let Some(got) = self.done(result) {
                    let kept = self.kept.entry(name).or_insert(Kept {
                        value: Vec::new(),
                        expiry_ms: None,
                    });
                    kept.value.extend_from_slice(&tail);
                    assert_eq!(got, kept.value.len());
                }
            }
            Op::SetRange {
                db,
                key,
                offset,
                length,
            } => {
                let (name, offset) = (Self::name(db, key), usize::from(offset));
                let patch = vec![length; usize::from(length) + 1];
                let result = self.with_db(name.0, |keyspace, db| {
                    db.set_range(&keyspace.key(&name.1), offset, &patch)
                });
                if let Some(got) = self.done(result) {
                    let kept = self.kept.entry(name).or_insert(Kept {
                        value: Vec::new(),
                        expiry_ms: None,
                    });
                    let end = offset + patch.len();
                    kept.value.resize(kept.value.len().max(end), 0);
                    kept.value[offset..end].copy_from_slice(&patch);
                    assert_eq!(got, kept.value.len());
                }
            }
            Op::Remove { db, key } => self.remove(&Self::name(db, key)),
            Op::RemoveMany {
                db,
                from,
                count,
                step,
            } => {
                for n in (0..count).step_by(usize::from(step) % 10 + 1) {
                    self.remove(&Self::name(db, from.wrapping_add(n)));
                }
            }
            Op::Expire { db, key, after } => {
                let name = Self::name(db, key);
                let at_ms = self.now_ms.saturating_add_signed(i64::from(after));
                let at_ms = if key.is_multiple_of(50) {
                    at_ms + (1 << 60)
                } else {
                    at_ms
                };
                let result = self.with_db(name.0, |keyspace, db| {
                    db.set_expiry(&keyspace.key(&name.1), at_ms)
                });
                if let Some(done) = self.done(result) {
                    assert_eq!(done, self.kept.contains_key(&name));
                    if let Some(kept) = self.kept.get_mut(&name) {
                        kept.expiry_ms = Some(at_ms);
                    }
                }
            }
            Op::Persist { db, key } => {
                let name = Self::name(db, key);
                let done = self.with_db(name.0, |keyspace, db| db.persist(&keyspace.key(&name.1)));
                if let Some(kept) = self.kept.get_mut(&name).filter(|_| done) {
                    assert!(kept.expiry_ms.take().is_some());
                } else {
                    let volatile = self
                        .kept
                        .get(&name)
                        .is_some_and(|kept| kept.expiry_ms.is_some());
                    assert!(!done && (!volatile || self.out_of_memory));
                }
            }
            Op::Rename { db, key, to } => {
                let (from, to) = (Self::name(db, key), Self::name(db, to));
                let result = self.with_db(from.0, |keyspace, db| {
                    db.rename(&keyspace.key(&from.1), &keyspace.key(&to.1))
                });
                if let Some(done) = self.done(result) {
                    assert_eq!(done, self.kept.contains_key(&from));
                    if let Some(kept) = self.kept.remove(&from) {
                        self.kept.insert(to, kept);
                    }
                }
            }
            Op::Copy { db, key, to_db, to } => {
                let (from, to) = (Self::name(db, key), Self::name(to_db, to));
                if from != to {
                    let result = self.with_db(from.0, |keyspace, db| {
                        db.copy(&keyspace.key(&from.1), to.0, &keyspace.key(&to.1))
                    });
                    if let Some(done) = self.done(result) {
                        assert_eq!(done, self.kept.contains_key(&from));
                        if let Some(kept) = self.kept.get(&from).cloned() {
                            self.kept.insert(to, kept);
                        }
                    }
                }
            }
            Op::Move { db, key, to_db } => {
                let (from, to) = (Self::name(db, key), Self::name(to_db, key));
                if from.0 != to.0 {
                    let result = self.with_db(from.0, |keyspace, db| {
                        db.move_to(&keyspace.key(&from.1), to.0)
                    });
                    if let Some(done) = self.done(result) {
                        assert_eq!(
                            done,
                            self.kept.contains_key(&from) && !self.kept.contains_key(&to)
                        );
                        if done && let Some(kept) = self.kept.remove(&from) {
                            self.kept.insert(to, kept);
                        }
                    }
                }
            }
            Op::Scan { count } => self.go_on_scanning(usize::from(count) % 5000),
            Op::RandomKey { db, random } => {
                let index = usize::from(db) % DATABASES;
                let picked = self.with_db(index, |_, db| {
                    db.random_key(u64::from(random)).map(<[u8]>::to_vec)
                });
                match picked {
                    Some(key) => assert!(self.kept.contains_key(&(index, key))),
                    None => assert!(!self.kept.keys().any(|(db, _)| *db == index)),
                }
            }
            Op::Clear { db, background } => {
                let index = usize::from(db) % DATABASES;
                self.with_db(index, |_, db| {
                    if background {
                        db.clear_in_background()
                    } else {
                        db.clear()
                    }
                });
                self.kept.retain(|(db, _), _| *db != index);
            }
            Op::ClearAll { background } => {
                let mut locked = self.keyspace.lock_all();
                if background {
                    locked.clear_all_in_background();
                } else {
                    locked.clear_all();
                }
                self.kept.clear();
            }
            Op::Swap { first, second } => {
                let (first, second) = (
                    usize::from(first) % DATABASES,
                    usize::from(second) % DATABASES,
                );
                self.keyspace
                    .lock_all()
                    .swap_databases(first, second, self.now_ms);
                let swapped =
                    std::mem::take(&mut self.kept)
                        .into_iter()
                        .map(|((db, key), kept)| {
                            let db = if db == first {
                                second
                            } else if db == second {
                                first
                            } else {
                                db
                            };
                            ((db, key), kept)
                        });
                self.kept = swapped.collect();
            }
            Op::Wait { ms } => self.now_ms += u64::from(ms),
            Op::Maintain { rounds } => {
                for _ in 0..rounds {
                    for shard in 0..self.keyspace.shards() {
                        // Slices follow at once only until their turn is used up.
                        let again = (0..1000).position(|_| {
                            let budget = Duration::from_millis(1);
                            let next = self.keyspace.maintain(shard, self.now_ms, budget);
                            next != NextDue::After(Duration::ZERO)
                        });
                        assert!(again.is_some(), "maintenance without end");
                    }
                    self.now_ms += 7;
                }
            }
            Op::Compact => {
                let done = self.keyspace.compact();
                assert!(done.victims >= done.victims_released);
                // Moving comes to an end: giving pages back may free a slab more to be chosen, but
                // the sum of squared occupancies only ever rises.
                let rounds = (0..20)
                    .take_while(|_| self.keyspace.compact().moved_objects > 0)
                    .count();
                assert!(rounds < 20);
            }
            Op::Purge => {
                self.keyspace.purge();
                assert_eq!(self.keyspace.lock_all().statistics().memory.dirty_bytes, 0);
            }
            Op::Evict { policy, percent } => self.evict(policy, percent),
            Op::Configure {
                policy,
                compaction,
                active_expiry,
            } => {
                self.settings.eviction_policy = Self::policy(policy);
                self.settings.compaction.enabled = compaction;
                self.settings.active_expiry = active_expiry;
                self.keyspace.configure(&self.settings);
            }
        }
    }

    fn policy(n: u8) -> EvictionPolicy {
        EvictionPolicy::NAMES[usize::from(n) % EvictionPolicy::NAMES.len()].1
    }

    fn evict(&mut self, policy: u8, percent: u8) {
        let policy = Self::policy(policy);
        let used = self.keyspace.used_bytes();
        let settings = Settings {
            eviction_policy: policy,
            max_memory_bytes: used * u64::from(percent % 100).max(30) / 100 + 1,
            memory_measure: if percent >= 200 {
                MemoryMeasure::Resident
            } else {
                MemoryMeasure::Used
            },
            ..self.settings
        };
        self.keyspace.configure(&settings);
        let before = self.keyspace.lock_all().statistics();
        let made = self.keyspace.make_room(self.now_ms, 0);
        let after = self.keyspace.lock_all().statistics();
        assert_eq!(before.keys - after.keys, made.evicted);
        assert_eq!(
            after.counters.evicted - before.counters.evicted,
            made.evicted
        );
        match policy {
            EvictionPolicy::NoEviction => assert_eq!(made.evicted, 0),
            _ if policy.only_volatile() => {
                assert_eq!(before.volatile_keys - after.volatile_keys, made.evicted);
                assert!(made.within_limit || after.volatile_keys == 0);
            }
            _ => assert!(made.within_limit || after.keys == 0),
        }
        self.keyspace.configure(&self.settings);
        // Which ones went is not for the model to say.
        let mut kept = std::mem::take(&mut self.kept);
        kept.retain(|name, _| {
            self.with_db(name.0, |keyspace, db| {
                db.exists(&keyspace.key(&name.1), Touch::NONE)
            })
        });
        self.kept = kept;
    }

    fn go_on_scanning(&mut self, count: usize) {
        if self.scan.cursor == ScanCursor::START {
            self.scan.seen.clear();
            self.scan.steady = self
                .kept
                .keys()
                .filter(|(db, _)| *db == 0)
                .map(|(_, key)| key.clone())
                .collect();
        }
        let (mut cursor, mut left, mut seen) = (self.scan.cursor, count.max(1), Vec::new());
        // As the SCAN command does: one shard's lock at a time.
        loop {
            let shard = self.keyspace.shard_of_cursor(cursor);
            let mut visited = 0;
            let mut locked = self.keyspace.lock(shard);
            cursor = locked.db(0, self.now_ms).scan(cursor, left, |key, _| {
                visited += 1;
                seen.push(key.to_vec());
            });
            left = left.saturating_sub(visited);
            if cursor == ScanCursor::START || left == 0 || shard == ShardSet::EMPTY {
                break;
            }
        }
        for key in seen {
            assert!(self.kept.contains_key(&(0, key.clone())));
            *self.scan.seen.entry(key).or_insert(0) += 1;
        }
        self.scan.cursor = cursor;
        if cursor == ScanCursor::START {
            for key in &self.scan.steady {
                assert_eq!(
                    self.scan.seen.get(key),
                    Some(&1),
                    "a key that was there throughout"
                );
            }
        }
    }

    fn check(&mut self, op: Op, watched_before: Option<Kept>) {
        let kept = &self.kept;
        self.scan
            .steady
            .retain(|key| kept.contains_key(&(0, key.clone())));
        if matches!(
            op,
            Op::Swap { .. }
                | Op::Clear { .. }
                | Op::ClearAll { .. }
                | Op::Copy { .. }
                | Op::Move { .. }
                | Op::Rename { .. }
                | Op::RemoveMany { .. }
                | Op::SetMany { .. }
        ) {
            // Keys may have gone and come back within the step.
            self.scan.steady.clear();
        }
        let mut decimal = Decimal::new();
        let mut locked = self.keyspace.lock_all();
        // Looking keys up expires what is due.
        for (name, kept) in &self.kept {
            let key = self.keyspace.key(&name.1);
            let mut db = locked.db(name.0, self.now_ms);
            let Some(ValueRef::String(string)) = db.get(&key, Touch::NONE) else {
                panic!("{name:?} is gone")
            };
            assert_eq!(
                string.as_bytes(&mut decimal),
                kept.value,
                "the value of {name:?}"
            );
            assert_eq!(
                db.expiry(&key),
                Some(kept.expiry_ms),
                "the expiry of {name:?}"
            );
        }
        locked.check();
        let watched = self.keyspace.key(&self.watched.1);
        locked
            .db(self.watched.0, self.now_ms)
            .exists(&watched, Touch::NONE);
        let raised = self.flag.is_raised();
        self.flag.lower();
        if self.kept.get(&self.watched) != watched_before.as_ref() {
            assert!(raised, "{op:?} changed the watched key and did not tell");
        }
        let harmless = matches!(
            op,
            Op::Get { .. }
                | Op::GetMany { .. }
                | Op::Scan { .. }
                | Op::Compact
                | Op::Purge
                | Op::Configure { .. }
        );
        assert!(
            !raised || !harmless || watched_before.is_some_and(|kept| kept.expiry_ms.is_some())
        );
        let statistics = locked.statistics();
        let live: u64 = self.kept.len() as u64;
        // Keys whose time has come may still be there.
        assert!(
            statistics.keys >= live,
            "{} keys, at least {live} expected",
            statistics.keys
        );
        let all: u64 = (0..DATABASES)
            .map(|db| locked.db(db, self.now_ms).len() as u64)
            .sum();
        assert_eq!(statistics.keys, all);
        for db in 0..DATABASES {
            let counted = locked.db(db, self.now_ms).statistics();
            let bins = counted.lengths.bins();
            assert_eq!(bins.map(|(_, count)| count).sum::<u64>(), counted.keys);
        }
        let payload: usize = self.kept.keys().map(|(_, key)| key.len()).sum();
        assert!(statistics.memory.key_bytes >= payload as u64);
    }

    /// Runs all operations that `bytes` encode.
    pub fn run(&mut self, mut bytes: &[u8]) {
        while let Some(op) = Op::decode(&mut bytes) {
            self.step(op);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn behaves_like_maps(seed: u64, shards in 1usize..5, steps in proptest::collection::vec(any::<[u8; 8]>(), 1..60)) {
            Model::new(seed, shards, 1 << 30).run(steps.as_flattened());
        }

        /// With hardly any address space, so that memory runs out again and again.
        #[test]
        fn loses_nothing_when_memory_runs_out(seed: u64, steps in proptest::collection::vec(any::<[u8; 8]>(), 1..60)) {
            Model::new(seed, 1, 4 << 20).run(steps.as_flattened());
        }
    }

    #[test]
    fn memory_does_run_out_in_a_small_region() {
        let set_thousand = |from| Op::SetMany {
            db: 0,
            from,
            count: 1000,
            length: 699,
            volatile: false,
        };
        let remove_first = |count| Op::RemoveMany {
            db: 0,
            from: 0,
            count,
            step: 1,
        };
        let mut model = Model::new(1, 1, 4 << 20);
        for n in 0..8 {
            model.step(set_thousand(n * 1000));
        }
        assert!(model.ran_out_of_memory() && !model.is_empty());
        // There is room for some of these keys, but not for all of them.
        model.step(remove_first(50));
        let before = model.len();
        model.step(Op::SetTogether {
            db: 0,
            from: 0,
            count: 255,
            length: 683,
        });
        assert_eq!(model.len(), before);
        model.step(remove_first(6000));
        model.step(Op::Compact);
        let before = model.len();
        model.step(set_thousand(0));
        assert!(model.len() > before);
    }
}
