//! Eviction policies: which keys go, and that enough of them do.

use kvstore::{
    EvictionPolicy, Keyspace, KeyspaceOptions, MemoryMeasure, NewExpiry, NewValue, Settings, Touch,
};

const KEYS: u64 = 20_000;
const T0_MS: u64 = 1_790_000_000_000;

fn filled(policy: EvictionPolicy, expiry: impl Fn(u64) -> NewExpiry) -> Keyspace {
    let keyspace = Keyspace::new(&KeyspaceOptions {
        shards: 3,
        seed: 5,
        ..KeyspaceOptions::default()
    })
    .expect("address space");
    keyspace.configure(&Settings {
        eviction_policy: policy,
        active_expiry: false,
        ..Settings::default()
    });
    for n in 0..KEYS {
        let name = n.to_string();
        let key = keyspace.key(name.as_bytes());
        let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
        locked
            .db(0, T0_MS)
            .set(&key, NewValue::Bytes(&[b'x'; 100]), expiry(n))
            .expect("memory");
    }
    keyspace
}

fn use_key(keyspace: &Keyspace, n: u64, now_ms: u64) {
    let name = n.to_string();
    let key = keyspace.key(name.as_bytes());
    let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
    assert!(locked.db(0, now_ms).exists(&key, Touch::READ));
}

/// Limits the memory to `percent` of what is used, makes room as often as it takes, and returns which
/// keys are left.
fn shrunk(keyspace: &Keyspace, now_ms: u64, percent: u64) -> Vec<u64> {
    let limit = keyspace.used_bytes() * percent / 100;
    keyspace.configure(&Settings {
        max_memory_bytes: limit,
        ..keyspace.settings()
    });
    let mut rounds = 0;
    while keyspace.used_bytes() > limit {
        let made = keyspace.make_room(now_ms, 0);
        rounds += 1;
        if !made.within_limit || rounds > 100_000 {
            break;
        }
    }
    let mut locked = keyspace.lock_all();
    locked.check();
    let mut db = locked.db(0, now_ms);
    (0..KEYS)
        .filter(|n| db.exists(&keyspace.key(n.to_string().as_bytes()), Touch::NONE))
        .collect()
}

fn share(left: &[u64], of: impl Fn(u64) -> bool) -> f64 {
    let all = (0..KEYS).filter(|n| of(*n)).count();
    left.iter().filter(|n| of(**n)).count() as f64 / all as f64
}

#[test]
fn lru_keeps_what_was_used_of_late() {
    let keyspace = filled(EvictionPolicy::AllKeysLru, |_| NewExpiry::None);
    for n in (0..KEYS).filter(|n| n.is_multiple_of(2)) {
        use_key(&keyspace, n, T0_MS + 600_000);
    }
    let left = shrunk(&keyspace, T0_MS + 1_200_000, 60);
    assert!(
        share(&left, |n| n.is_multiple_of(2)) > 0.99,
        "{}",
        share(&left, |n| n.is_multiple_of(2))
    );
    assert!(share(&left, |n| n % 2 == 1) < 0.5);
}

#[test]
fn lfu_keeps_what_is_used_often() {
    let keyspace = filled(EvictionPolicy::AllKeysLfu, |_| NewExpiry::None);
    for _ in 0..60 {
        for n in (0..KEYS).filter(|n| n.is_multiple_of(2)) {
            use_key(&keyspace, n, T0_MS);
        }
    }
    let left = shrunk(&keyspace, T0_MS + 1_000, 60);
    assert!(
        share(&left, |n| n.is_multiple_of(2)) > 0.97,
        "{}",
        share(&left, |n| n.is_multiple_of(2))
    );
}

#[test]
fn ttl_takes_what_would_go_soonest_and_no_lasting_key() {
    let expiry = |n: u64| {
        if n.is_multiple_of(2) {
            NewExpiry::At(T0_MS + 1_000_000 + n * 1_000)
        } else {
            NewExpiry::None
        }
    };
    let keyspace = filled(EvictionPolicy::VolatileTtl, expiry);
    let left = shrunk(&keyspace, T0_MS, 75);
    assert!(share(&left, |n| n % 2 == 1) == 1.0);
    assert!(share(&left, |n| n.is_multiple_of(2) && n > KEYS * 7 / 10) > 0.95);
    assert!(share(&left, |n| n.is_multiple_of(2) && n < KEYS * 3 / 10) < 0.05);
}

#[test]
fn volatile_policies_end_with_the_last_volatile_key() {
    for policy in [
        EvictionPolicy::VolatileLru,
        EvictionPolicy::VolatileLfu,
        EvictionPolicy::VolatileRandom,
    ] {
        // One in five hundred: most buckets have none.
        let expiry = |n: u64| {
            if n.is_multiple_of(500) {
                NewExpiry::At(T0_MS * 2)
            } else {
                NewExpiry::None
            }
        };
        let keyspace = filled(policy, expiry);
        let left = shrunk(&keyspace, T0_MS, 50);
        assert_eq!(left.len() as u64, KEYS - KEYS / 500, "{policy:?}");
        assert!(!keyspace.make_room(T0_MS, 0).within_limit);
    }
}

#[test]
fn random_takes_from_everywhere() {
    let keyspace = filled(EvictionPolicy::AllKeysRandom, |_| NewExpiry::None);
    let left = shrunk(&keyspace, T0_MS, 50);
    for part in 0..4 {
        let kept = share(&left, |n| n % 4 == part);
        assert!((0.4..0.6).contains(&kept), "{kept} of part {part}");
    }
}

#[test]
fn without_a_policy_nothing_goes() {
    let keyspace = filled(EvictionPolicy::NoEviction, |_| NewExpiry::At(T0_MS * 2));
    assert_eq!(shrunk(&keyspace, T0_MS, 50).len() as u64, KEYS);
    assert_eq!(keyspace.make_room(T0_MS, 0).evicted, 0);
}

#[test]
fn a_limit_on_resident_bytes_compacts_before_it_evicts() {
    let keyspace = filled(EvictionPolicy::AllKeysLru, |_| NewExpiry::None);
    {
        let mut locked = keyspace.lock_all();
        let mut db = locked.db(0, T0_MS);
        for n in (0..KEYS).filter(|n| !n.is_multiple_of(10)) {
            assert!(db.remove(&keyspace.key(n.to_string().as_bytes())));
        }
    }
    let memory = keyspace.lock_all().statistics().memory;
    assert!(memory.resident_bytes() > 3 * memory.used_bytes());
    // The arenas' own records are few for this few keys, but not yet few for their bytes.
    let limit = memory.used_bytes() * 3 / 2 + memory.metadata_bytes;
    keyspace.configure(&Settings {
        max_memory_bytes: limit,
        memory_measure: MemoryMeasure::Resident,
        ..keyspace.settings()
    });
    let mut evicted = 0;
    for _ in 0..100 {
        let made = keyspace.make_room(T0_MS, 0);
        assert!(made.within_limit);
        evicted += made.evicted;
    }
    assert!(
        evicted < KEYS / 100,
        "{evicted} keys evicted although compaction was enough"
    );
    let memory = keyspace.lock_all().statistics().memory;
    assert!(memory.resident_bytes() <= limit, "{memory:?}");
}
