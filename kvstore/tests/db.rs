//! The operations of a database, one by one.

use std::collections::HashMap;
use std::time::Duration;

use kvstore::{
    Decimal, Keyspace, KeyspaceOptions, NewExpiry, NewValue, NextDue, ScanCursor, StringRef, Touch,
    UpdateError, ValueRef, WatchFlag,
};

fn keyspace() -> Keyspace {
    Keyspace::new(&KeyspaceOptions {
        shards: 3,
        seed: 7,
        ..KeyspaceOptions::default()
    })
    .expect("options are valid")
}

fn text(keyspace: &Keyspace, key: &[u8]) -> Option<String> {
    let key = keyspace.key(key);
    let mut locked = keyspace.lock_all();
    let mut db = locked.db(0, 1_000);
    db.get(&key, Touch::NONE).map(|value| match value {
        ValueRef::String(string) => {
            String::from_utf8_lossy(string.as_bytes(&mut Decimal::new())).into_owned()
        }
        other => panic!("{other:?} is no string"),
    })
}

#[test]
fn strings_and_integers_read_back() {
    let keyspace = keyspace();
    let key = keyspace.key(b"k");
    let mut locked = keyspace.lock_all();
    let mut db = locked.db(0, 0);
    db.set(&key, NewValue::String(b"12"), NewExpiry::None)
        .expect("memory");
    assert_eq!(
        db.get(&key, Touch::NONE),
        Some(ValueRef::String(StringRef::Int(12)))
    );
    assert_eq!(db.increment(&key, 30), Ok(42));
    assert_eq!(db.append(&key, b"!"), Ok(3));
    assert_eq!(db.increment(&key, 1), Err(UpdateError::NotAnInteger));
    assert_eq!(db.set_range(&key, 5, b"x"), Ok(6));
    drop(locked);
    assert_eq!(text(&keyspace, b"k").as_deref(), Some("42!\0\0x"));
}

#[test]
fn an_expired_key_is_gone_everywhere() {
    let keyspace = keyspace();
    let key = keyspace.key(b"k");
    let flag = WatchFlag::new();
    let mut locked = keyspace.lock_all();
    locked
        .db(0, 0)
        .set(&key, NewValue::String(b"v"), NewExpiry::At(10))
        .expect("memory");
    locked.db(0, 0).watch(&key, &flag);
    assert!(locked.db(0, 10).exists(&key, Touch::READ));
    assert!(!flag.is_raised());
    assert!(!locked.db(0, 11).exists(&key, Touch::READ));
    assert!(flag.is_raised());
    assert_eq!(locked.db(0, 0).len(), 0);
    let counters = locked.statistics().counters;
    assert_eq!(
        (counters.hits, counters.misses, counters.expired),
        (1, 1, 1)
    );
}

#[test]
fn rename_copy_and_move_carry_value_and_expiry() {
    let keyspace = keyspace();
    let (a, b) = (keyspace.key(b"a"), keyspace.key(b"b"));
    let mut locked = keyspace.lock_all();
    let mut db = locked.db(0, 0);
    db.set(&a, NewValue::String(b"v"), NewExpiry::At(100))
        .expect("memory");
    assert_eq!(db.rename(&a, &b), Ok(true));
    assert_eq!(db.rename(&a, &b), Ok(false));
    assert_eq!(db.expiry(&b), Some(Some(100)));
    assert_eq!(db.copy(&b, 5, &a), Ok(true));
    assert_eq!(db.move_to(&b, 5), Ok(true));
    assert!(db.is_empty());
    let mut db = locked.db(5, 0);
    assert_eq!(db.len(), 2);
    assert!(db.persist(&b));
    assert_eq!(
        (db.expiry(&a), db.expiry(&b)),
        (Some(Some(100)), Some(None))
    );
    locked.swap_databases(0, 5, 0);
    assert_eq!((locked.db(0, 0).len(), locked.db(5, 0).len()), (2, 0));
    locked.clear_all();
    assert_eq!(locked.statistics().keys, 0);
}

/// A key whose time has come is as good as absent: swapping it in or out changes nothing for those
/// who watch it.
#[test]
fn a_swap_of_dead_keys_raises_no_flag() {
    for (dead_here, dead_there) in [(false, true), (true, false), (true, true)] {
        let keyspace = keyspace();
        let mut locked = keyspace.lock_all();
        let key = keyspace.key(b"k");
        for (db, dead) in [(0, dead_here), (1, dead_there)] {
            if dead {
                locked
                    .db(db, 0)
                    .set(&key, NewValue::Int(1), NewExpiry::At(10))
                    .expect("memory");
            }
        }
        let flag = WatchFlag::new();
        locked.db(0, 20).watch(&key, &flag);
        locked.swap_databases(0, 1, 20);
        assert!(!locked.db(0, 20).exists(&key, Touch::NONE));
        assert!(!flag.is_raised(), "{dead_here} {dead_there}");
    }
}

/// A key goes by itself when its time has come, also if it got its expiry long after its value, and whether or not its
/// slot has room for that.
#[test]
fn an_expiry_set_at_rest_is_kept() {
    let keyspace = keyspace();
    let mut now_ms = 1_000;
    let mut rest = |keyspace: &Keyspace| {
        for shard in 0..keyspace.shards() {
            while let NextDue::After(after) =
                keyspace.maintain(shard, now_ms, Duration::from_secs(1))
            {
                now_ms += after.as_millis() as u64;
            }
        }
        now_ms
    };
    for length in 0..64 {
        let key = keyspace.key(b"key");
        let value = vec![b'x'; length];
        let mut at_ms = rest(&keyspace);
        let mut locked = keyspace.lock_all();
        let mut db = locked.db(0, at_ms);
        db.set(&key, NewValue::Bytes(&value), NewExpiry::None)
            .expect("memory");
        drop(locked);
        at_ms = rest(&keyspace);
        let mut locked = keyspace.lock_all();
        assert_eq!(locked.db(0, at_ms).set_expiry(&key, at_ms + 50), Ok(true));
        drop(locked);
        rest(&keyspace);
        assert_eq!(keyspace.lock_all().db(0, at_ms).len(), 0, "{length} bytes");
    }
}

/// What a clearing frees is given back although nothing is written any more.
#[test]
fn memory_of_cleared_keys_is_given_back_by_itself() {
    let keyspace = keyspace();
    let maintain = |now_ms: u64| {
        let shards = 0..keyspace.shards();
        let dues = shards.map(|shard| keyspace.maintain(shard, now_ms, Duration::from_secs(1)));
        dues.min().expect("there are shards")
    };
    let mut now_ms = 1_000;
    for clear_in_background in [false, true, false] {
        while let NextDue::After(after) = maintain(now_ms) {
            now_ms += after.as_millis() as u64;
        }
        let value = vec![b'x'; 30 << 20];
        let mut locked = keyspace.lock_all();
        for key in [b"a", b"b"] {
            locked
                .db(3, now_ms)
                .set(
                    &keyspace.key(key),
                    NewValue::String(&value),
                    NewExpiry::None,
                )
                .expect("memory");
        }
        drop(locked);
        while let NextDue::After(after) = maintain(now_ms) {
            now_ms += after.as_millis() as u64;
        }
        if clear_in_background {
            keyspace.lock_all().clear_all_in_background();
        } else {
            keyspace.lock_all().clear_all();
        }
        let start_ms = now_ms;
        while let NextDue::After(after) = maintain(now_ms) {
            now_ms += after.as_millis() as u64;
        }
        let resident: usize = keyspace
            .lock_all()
            .arenas()
            .iter()
            .map(|arena| arena.resident_bytes)
            .sum();
        assert!(resident < 1 << 20, "{resident} bytes are resident");
        assert!(
            (1..5_000).contains(&(now_ms - start_ms)),
            "{start_ms} {now_ms}"
        );
    }
}

/// Each key of a small and of a larger database comes up about as often as the others.
#[test]
fn every_key_can_be_picked_at_random() {
    for (keys, picks) in [(2, 200), (5, 500), (600, 60_000)] {
        let keyspace = keyspace();
        let mut locked = keyspace.lock_all();
        let mut db = locked.db(0, 0);
        for n in 0..keys {
            let key = format!("key:{n}");
            db.set(
                &keyspace.key(key.as_bytes()),
                NewValue::Int(n),
                NewExpiry::None,
            )
            .expect("memory");
        }
        let mut counts: HashMap<Vec<u8>, u64> = HashMap::new();
        for pick in 0..picks {
            let random = (pick as u64)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(32);
            let key = db.random_key(random).expect("there are keys").to_vec();
            *counts.entry(key).or_default() += 1;
        }
        assert_eq!(counts.len(), keys as usize, "of {keys} keys");
        let fair = picks as u64 / keys as u64;
        assert!(
            counts
                .values()
                .all(|count| *count > fair / 20 && *count < 5 * fair),
            "{counts:?}"
        );
    }
}

#[test]
fn a_scan_sees_every_key_once() {
    let keyspace = keyspace();
    let mut locked = keyspace.lock_all();
    let mut db = locked.db(0, 0);
    for n in 0..500 {
        let key = format!("key:{n}");
        db.set(
            &keyspace.key(key.as_bytes()),
            NewValue::Int(n),
            NewExpiry::None,
        )
        .expect("memory");
    }
    let (mut seen, mut cursor) = (Vec::new(), ScanCursor::START);
    loop {
        cursor = db.scan(cursor, 7, |key, _| seen.push(key.to_vec()));
        if cursor == ScanCursor::START {
            break;
        }
    }
    assert_eq!(seen.len(), 500);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 500);
}
