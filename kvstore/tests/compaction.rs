//! What is left after mass deletes of values of many sizes takes little more than its bytes.

use kvstore::{Decimal, Keyspace, KeyspaceOptions, NewExpiry, NewValue, Touch, ValueRef};

const KEYS: u64 = 20_000;
const NOW_MS: u64 = 1_790_000_000_000;

/// Bytes of every length from 0 to some 1,600, short ones more often.
fn value(n: u64) -> Vec<u8> {
    vec![n as u8; ((n * 7 % 40) * (n * 31 % 41)) as usize]
}

#[test]
fn few_survivors_of_many_sizes_lie_close_together() {
    let keyspace = Keyspace::new(&KeyspaceOptions {
        shards: 2,
        seed: 5,
        ..KeyspaceOptions::default()
    })
    .expect("address space");
    for n in 0..KEYS {
        let name = n.to_string();
        let key = keyspace.key(name.as_bytes());
        let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
        let mut db = locked.db(0, NOW_MS);
        db.set(&key, NewValue::Bytes(&value(n)), NewExpiry::None)
            .expect("memory");
    }
    for n in (0..KEYS).filter(|n| n % 20 != 3) {
        let name = n.to_string();
        let key = keyspace.key(name.as_bytes());
        let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
        assert!(locked.db(0, NOW_MS).remove(&key));
    }
    assert!(!keyspace.has_shrunk(0), "nothing has gone back yet");
    let done = keyspace.compact();
    assert!(
        keyspace.has_shrunk(0) && !keyspace.has_shrunk(0),
        "it is said once"
    );
    assert!(done.moved_objects > 0);
    assert!(done.longest_slice_ns > 0 && done.longest_slice_ns <= done.time_ns);
    // The longest slice is that of the run.
    let again = keyspace.compact();
    assert!(again.longest_slice_ns <= again.time_ns, "{again:?}");

    let mut locked = keyspace.lock_all();
    locked.check();
    let memory = locked.statistics().memory;
    assert!(
        memory.free_slot_bytes * 2 < memory.used_bytes(),
        "{memory:?}"
    );
    let mut db = locked.db(0, NOW_MS);
    for n in 0..KEYS {
        let name = n.to_string();
        let key = keyspace.key(name.as_bytes());
        let found = db.get(&key, Touch::NONE).map(|found| match found {
            ValueRef::String(text) => text.as_bytes(&mut Decimal::new()).to_vec(),
            _ => unreachable!("only strings were set"),
        });
        assert_eq!(found, (n % 20 == 3).then(|| value(n)));
    }
    drop(locked);

    // Guests leave as they came.
    for n in (0..KEYS).filter(|n| n % 20 == 3) {
        let name = n.to_string();
        let key = keyspace.key(name.as_bytes());
        let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
        let longer = NewValue::Bytes(&[1; 40]);
        let mut db = locked.db(0, NOW_MS);
        db.set(&key, longer, NewExpiry::None).expect("memory");
    }
    keyspace.compact();
    keyspace.lock_all().check();
}
