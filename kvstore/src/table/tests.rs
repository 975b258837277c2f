//! The table against a map, with its full check after every step.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;
use slab_allocator::ArenaOptions;

use super::*;
use crate::entry::Payload;
use crate::key::Hasher;

/// A table with its memory and what it should hold.
struct Trial {
    table: Table,
    memory: Memory,
    placer: Placer,
    clock: AccessClock,
    model: BTreeMap<u32, Option<u64>>,
}

fn key(n: u32) -> [u8; 8] {
    u64::from(n)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .to_le_bytes()
}

impl Trial {
    fn new(seed: u64, shards: usize) -> Self {
        Trial {
            table: Table::default(),
            memory: Memory::new(&ArenaOptions {
                region_bytes: 1 << 30,
                ..ArenaOptions::default()
            })
            .expect("address space"),
            placer: Placer::new(Hasher::new(seed), shards),
            clock: AccessClock {
                coding: Coding::LastUse,
                now_s: 1_000_000,
            },
            model: BTreeMap::new(),
        }
    }

    fn find(&self, n: u32) -> Option<Place> {
        self.table
            .find(&self.memory, self.placer.prefix(&key(n)), &key(n))
            .map(|(place, _)| place)
    }

    fn insert(&mut self, n: u32, expiry_ms: Option<u64>) {
        let prefix = self.placer.prefix(&key(n));
        if let Some(place) = self.find(n) {
            // SAFETY: the entry is live, and the reference is replaced.
            let entry = unsafe {
                let header = *Entry::read(&self.memory, place.entry).header();
                entry::reshape(
                    &mut self.memory,
                    place.entry,
                    &header.with_expiry(expiry_ms),
                )
            };
            self.table
                .set_reference(&mut self.memory, &place, entry.expect("memory"));
            self.table.set_expiry(&mut self.memory, &place, expiry_ms);
        } else {
            let payload = Payload::Integer(i64::from(n));
            let header = payload.header(8, false, expiry_ms);
            let entry = entry::create(&mut self.memory, &header, &key(n), payload).expect("memory");
            self.table
                .insert(
                    &mut self.memory,
                    &self.placer,
                    &self.clock,
                    prefix,
                    entry,
                    expiry_ms,
                )
                .expect("memory");
        }
        self.model.insert(n, expiry_ms);
    }

    fn remove(&mut self, n: u32) {
        let place = self.find(n);
        assert_eq!(place.is_some(), self.model.remove(&n).is_some());
        if let Some(place) = place {
            let entry = self
                .table
                .remove(&mut self.memory, &self.placer, &self.clock, &place);
            // SAFETY: the entry was just taken out.
            unsafe { entry::release(&mut self.memory, entry) };
        }
    }

    fn check(&self) {
        let mut seen = HashSet::new();
        self.table
            .check(&self.memory, &self.placer, |reference, entry| {
                assert!(seen.insert(reference));
                let crate::value::string::StringRef::Int(n) = entry.string() else {
                    panic!("not a number")
                };
                assert_eq!(entry.key(), key(n as u32));
                assert_eq!(
                    self.model.get(&(n as u32)),
                    Some(&entry.header().expiry_ms())
                );
            });
        assert_eq!(seen.len(), self.model.len());
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(
            self.table.volatiles(),
            self.model.values().flatten().count()
        );
    }

    /// The numbers of the entries from a cursor on, home by home, and the next cursor.
    fn scan(&self, from48: u64, count: usize) -> (Vec<u32>, Option<u64>) {
        let (mut seen, mut next) = (Vec::new(), Some(from48));
        while let Some(at) = next.filter(|_| seen.len() < count) {
            next = self
                .table
                .scan_home(&self.memory, &self.placer, at, |entry| {
                    // SAFETY: the table visits live entries.
                    match unsafe { Entry::read(&self.memory, entry) }.string() {
                        crate::value::string::StringRef::Int(n) => seen.push(n as u32),
                        other => panic!("{other:?} is not a number"),
                    }
                });
            assert!(next.is_none_or(|next| next > at));
        }
        (seen, next)
    }
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32, Option<u64>),
    InsertMany(u32, u32),
    Remove(u32),
    RemoveMany(u32, u32),
    Touch(u32),
    Scan(usize),
    Wait(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0u32..12_000;
    prop_oneof![
        4 => (n.clone(), proptest::option::of(any::<u64>())).prop_map(|(n, at)| Op::Insert(n, at)),
        2 => (n.clone(), 1u32..3_000).prop_map(|(n, count)| Op::InsertMany(n, count)),
        4 => n.clone().prop_map(Op::Remove),
        2 => (n.clone(), 1u32..4_000).prop_map(|(n, count)| Op::RemoveMany(n, count)),
        2 => n.prop_map(Op::Touch),
        2 => (1usize..3_000).prop_map(Op::Scan),
        1 => (1u32..100_000).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Random operations; a scan goes on through all of them. It must see every entry that is there
    /// from its start to its end exactly once, and no other entry twice in a row.
    #[test]
    fn behaves_like_a_map(seed: u64, shards in 1usize..20, steps in proptest::collection::vec(op(), 1..40)) {
        let mut trial = Trial::new(seed, shards);
        let (mut cursor, mut seen, mut steady) = (0, Vec::new(), HashSet::new());
        for step in steps {
            match step {
                Op::Insert(n, at) => trial.insert(n, at),
                Op::InsertMany(from, count) => (from..from + count).for_each(|n| trial.insert(n, (n % 3 == 0).then_some(u64::from(n)))),
                Op::Remove(n) => { trial.remove(n); steady.remove(&n); }
                Op::RemoveMany(from, count) => (from..from + count).for_each(|n| { trial.remove(n); steady.remove(&n); }),
                Op::Touch(n) => {
                    if let Some(place) = trial.find(n) {
                        trial.table.touch(&mut trial.memory, &place, &trial.clock, || 0);
                        let (byte, base_s) = trial.table.access(&trial.memory, &place, trial.clock.coding).expect("its coding");
                        prop_assert_eq!(crate::access::idle_seconds(byte, base_s, trial.clock.now_s), 0);
                    }
                }
                Op::Scan(count) => {
                    if cursor == 0 {
                        seen.clear();
                        steady = trial.model.keys().copied().collect();
                    }
                    let (found, next) = trial.scan(cursor, count);
                    seen.extend(found);
                    cursor = next.unwrap_or(0);
                    if cursor == 0 {
                        for n in &steady {
                            prop_assert_eq!(seen.iter().filter(|m| *m == n).count(), 1, "entry {}", n);
                        }
                    }
                }
                Op::Wait(seconds) => trial.clock.now_s += seconds,
            }
            trial.check();
        }
        for n in 0..16_000 {
            trial.remove(n);
        }
        trial.check();
        prop_assert_eq!((trial.table.segment_bytes(), trial.table.directory_bytes()), (0, 0));
    }
}

#[test]
fn bytes_per_entry_stay_close_to_full_buckets_at_any_size() {
    let mut trial = Trial::new(1, 1);
    let (mut worst, mut total, mut samples) = (0.0f64, 0.0, 0);
    for n in 0..200_000 {
        trial.insert(n, None);
        if n > 5_000 && n % 500 == 0 {
            let bytes = trial.table.segment_bytes() + trial.table.directory_bytes();
            let each = bytes as f64 / trial.table.len() as f64;
            worst = worst.max(each);
            total += each;
            samples += 1;
        }
    }
    let mean = total / f64::from(samples);
    assert!(
        worst < 7.8 && mean < 7.4,
        "worst {worst:.2}, mean {mean:.2} bytes of table for an entry"
    );
}

#[test]
fn a_table_can_be_freed_segment_by_segment() {
    let mut trial = Trial::new(3, 2);
    for n in 0..5_000 {
        trial.insert(n, None);
    }
    let (mut next, mut freed) = (Some(0), 0);
    while let Some(prefix) = next {
        // SAFETY: prefixes are released in ascending order, each once, and the table is forgotten.
        next = unsafe {
            trial
                .table
                .release_segment(&mut trial.memory, prefix, |_| freed += 1)
        };
    }
    assert_eq!(
        (freed, trial.table.len(), trial.table.segment_bytes()),
        (5_000, 0, 0)
    );
}
