//! Several threads on one keyspace, with maintenance and compaction among them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvstore::{
    Decimal, Keyspace, KeyspaceOptions, NewExpiry, NewValue, ScanCursor, Settings, ShardSet, Touch,
    ValueRef, clock,
};

const KEYS: u64 = 4_000;

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Every value says which key it belongs to, so a reader notices a value that is torn or misplaced.
fn value(n: u64, length: u64) -> Vec<u8> {
    let mut bytes = format!("{n}:").into_bytes();
    bytes.resize(bytes.len() + length as usize, b'a' + (n % 26) as u8);
    bytes
}

fn is_value_of(bytes: &[u8], n: u64) -> bool {
    let head = format!("{n}:");
    bytes
        .strip_prefix(head.as_bytes())
        .is_some_and(|rest| rest.iter().all(|byte| *byte == b'a' + (n % 26) as u8))
}

fn work(keyspace: &Keyspace, thread: u64, rounds: u64, moved: &AtomicU64) {
    let mut random = Random(thread * 7919 + 1);
    for _ in 0..rounds {
        let (n, other) = (random.below(KEYS), random.below(KEYS));
        let (name, other_name) = (n.to_string(), other.to_string());
        let (key, other_key) = (
            keyspace.key(name.as_bytes()),
            keyspace.key(other_name.as_bytes()),
        );
        let now_ms = clock::now_ms();
        match random.below(12) {
            0..=3 => {
                let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
                let length = random.below(600);
                let expiry = if random.below(8) == 0 {
                    NewExpiry::At(now_ms + random.below(20))
                } else {
                    NewExpiry::None
                };
                locked
                    .db(0, now_ms)
                    .set(&key, NewValue::Bytes(&value(n, length)), expiry)
                    .expect("memory");
            }
            4..=7 => {
                keyspace.prefetch(0, &[key.hash(), other_key.hash()]);
                let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
                if let Some(ValueRef::String(string)) = locked.db(0, now_ms).get(&key, Touch::READ)
                {
                    assert!(is_value_of(string.as_bytes(&mut Decimal::new()), n));
                }
            }
            8 => {
                let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
                locked.db(0, now_ms).remove(&key);
            }
            9 => {
                // Tokens go from one account to another, under both locks; their sum stays the same.
                let set = keyspace
                    .shard_of(key.hash())
                    .union(keyspace.shard_of(other_key.hash()));
                let mut locked = keyspace.lock(set);
                if n != other {
                    let mut accounts = locked.db(1, now_ms);
                    accounts.increment(&key, -1).expect("an integer");
                    accounts.increment(&other_key, 1).expect("an integer");
                    moved.fetch_add(1, Ordering::Relaxed);
                }
            }
            10 => {
                let cursor = ScanCursor::from_raw(random.below(1 << 50));
                let set = keyspace.shard_of_cursor(cursor);
                let mut locked = keyspace.lock(set);
                locked.db(0, now_ms).scan(cursor, 50, |key, value| {
                    let n: u64 = std::str::from_utf8(key)
                        .expect("digits")
                        .parse()
                        .expect("digits");
                    let ValueRef::String(string) = value else {
                        panic!("{value:?} is no string")
                    };
                    assert!(is_value_of(string.as_bytes(&mut Decimal::new()), n));
                });
            }
            _ => {
                for shard in 0..keyspace.shards() {
                    keyspace.maintain(shard, now_ms, Duration::from_micros(200));
                }
                if random.below(200) == 0 {
                    keyspace.compact();
                }
            }
        }
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    let keyspace = Keyspace::new(&KeyspaceOptions {
        shards: 5,
        seed: 3,
        ..KeyspaceOptions::default()
    })
    .expect("address space");
    let (done, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|thread| {
                let (keyspace, moved) = (&keyspace, &moved);
                scope.spawn(move || work(keyspace, thread, 15_000, moved))
            })
            .collect();
        let (keyspace, done) = (&keyspace, &done);
        // Now and then everything is locked, checked, and its settings are changed.
        let checker = scope.spawn(move || {
            let mut round = 0;
            while !done.load(Ordering::Acquire) {
                round += 1;
                let mut settings = Settings::default();
                settings.compaction.enabled = round % 3 != 0;
                settings.active_expiry = round % 2 == 0;
                keyspace.configure(&settings);
                keyspace.lock_all().check();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        for worker in workers {
            worker.join().expect("a worker");
        }
        // Release meets the Acquire above.
        done.store(true, Ordering::Release);
        checker.join().expect("the checker");
    });
    let mut locked = keyspace.lock_all();
    locked.check();
    let mut sum = 0;
    locked
        .db(1, clock::now_ms())
        .scan(ScanCursor::START, usize::MAX, |_, value| {
            let ValueRef::String(string) = value else {
                panic!("{value:?} is no string")
            };
            sum += string.to_integer().expect("an integer");
        });
    assert_eq!(sum, 0);
    assert!(moved.load(Ordering::Relaxed) > 1000);
    locked.clear_all();
    assert_eq!(locked.statistics().memory.used_bytes(), 0);
    locked.check();
    assert_eq!(locked.shards(), ShardSet::first(5));
}
