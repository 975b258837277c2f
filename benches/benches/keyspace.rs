//! The keyspace in process: `cargo bench --bench keyspace [-- WHAT ...]`.
//!
//! `ops` nanoseconds per operation on a million keys; `bytes` memory per key from one to two million
//! keys; `map` how long a look at a chunk for the heap map takes; `evacuate` the cost of moving;
//! `recover` what is resident after most or all keys were deleted, and how soon; `changing` the
//! workloads W1 to W8 of "Log-structured Memory for DRAM-based Storage" (FAST '14, Table 1). Without
//! WHAT, all of them. `SHARDS`, `KEYS`, `FILL_MB`, `LIVE_MB` and `MAP_MB` in the environment change
//! the sizes; `--test` has all of them run on small heaps.

use std::env;
use std::fs;
use std::hint::black_box;
use std::time::{Duration, Instant};

use kvstore::{
    ChunkMap, Key, KeyHash, Keyspace, KeyspaceOptions, Locked, MapCursor, NewExpiry, NewValue,
    ShardSet, StringRef, Touch, ValueRef, clock,
};

fn setting(name: &str, default: usize) -> usize {
    env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// The same for the size of a heap, which is small by default in a smoke run.
fn size_setting(name: &str, default: usize) -> usize {
    let is_smoke_run = env::args().any(|argument| argument == "--test");
    setting(name, if is_smoke_run { default / 20 } else { default })
}

/// Resident bytes of the process.
fn resident() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * 4096.0
}

/// CPU seconds of the process: what others do on the machine meanwhile does not count.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes into `time`, which is ours.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "Linux has this clock");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU seconds of the process outside of the kernel.
fn user_seconds() -> f64 {
    // SAFETY: all zeros is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into `usage`, which is ours.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    assert_eq!(result, 0, "Linux has this call");
    usage.ru_utime.tv_sec as f64 + usage.ru_utime.tv_usec as f64 / 1e6
}

fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn range(&mut self, (low, high): (u32, u32)) -> u32 {
        low + self.below(u64::from(high - low) + 1) as u32
    }
}

/// 16 bytes, scattered.
fn key16(n: u64) -> [u8; 16] {
    let mut key = *b"k:00000000000000";
    let hash = mix(n);
    for (at, byte) in key[2..].iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(hash >> (4 * at) & 15) as usize];
    }
    key
}

fn keyspace(shards: usize) -> Keyspace {
    let options = KeyspaceOptions {
        shards: setting("SHARDS", shards),
        ..KeyspaceOptions::default()
    };
    Keyspace::new(&options).expect("address space")
}

fn set(keyspace: &Keyspace, now_ms: u64, key: &[u8], value: &[u8]) {
    let key = keyspace.key(key);
    let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
    locked
        .db(0, now_ms)
        .set(&key, NewValue::String(value), NewExpiry::None)
        .expect("memory");
}

fn get(keyspace: &Keyspace, now_ms: u64, key: &Key<'_>) -> usize {
    let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
    match locked.db(0, now_ms).get(key, Touch::READ) {
        Some(ValueRef::String(StringRef::Bytes(bytes))) => bytes.len(),
        _ => 0,
    }
}

fn remove(keyspace: &Keyspace, now_ms: u64, key: &[u8]) {
    let key = keyspace.key(key);
    let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
    assert!(locked.db(0, now_ms).remove(&key), "the key is there");
}

/// Maintains all shards as a server's event loop does.
fn maintain(keyspace: &Keyspace) {
    for shard in 0..keyspace.shards() {
        keyspace.maintain(shard, clock::now_ms(), Duration::from_micros(500));
    }
}

/// CPU nanoseconds of each of `count` operations.
fn per_op(count: u64, mut op: impl FnMut(u64)) -> f64 {
    let began = cpu_seconds();
    for n in 0..count {
        op(n);
    }
    (cpu_seconds() - began) * 1e9 / count as f64
}

fn ops() {
    let keys = size_setting("KEYS", 1_000_000) as u64;
    for bytes in [16, 100] {
        let keyspace = keyspace(1);
        let value = vec![b'x'; bytes];
        let now_ms = clock::now_ms();
        let fill = per_op(keys, |n| set(&keyspace, now_ms, &key16(n), &value));
        let count = (2 * keys).max(2_000_000);
        let random = |n: u64| key16(mix(n) % keys);
        let hash = per_op(count, |n| {
            black_box(keyspace.key(&random(n)).hash());
        });
        let read = per_op(count, |n| {
            black_box(get(&keyspace, now_ms, &keyspace.key(&random(n))));
        });
        let miss = per_op(count, |n| {
            black_box(get(&keyspace, now_ms, &keyspace.key(&key16(keys + n))));
        });
        let write = per_op(count, |n| set(&keyspace, now_ms, &random(n), &value));
        let batch = |write: bool| {
            per_op(count / 16, |n| {
                let names: [[u8; 16]; 16] = std::array::from_fn(|at| random(16 * n + at as u64));
                let batch: [Key<'_>; 16] = std::array::from_fn(|at| keyspace.key(&names[at]));
                let hashes: [KeyHash; 16] = std::array::from_fn(|at| batch[at].hash());
                keyspace.prefetch(0, &hashes);
                for key in &batch {
                    if write {
                        let mut locked = keyspace.lock(keyspace.shard_of(key.hash()));
                        locked
                            .db(0, now_ms)
                            .set(key, NewValue::String(&value), NewExpiry::None)
                            .expect("memory");
                    } else {
                        black_box(get(&keyspace, now_ms, key));
                    }
                }
            }) / 16.0
        };
        let (batch_read, batch_write) = (batch(false), batch(true));
        let delete = per_op(keys, |n| remove(&keyspace, now_ms, &key16(n)));
        println!(
            "ops, {keys} keys, 16 + {bytes} B, ns: fill {fill:.0}, get {read:.0}, miss {miss:.0}, set {write:.0}, \
             by 16 with prefetch: get {batch_read:.0}, set {batch_write:.0}; delete {delete:.0} \
             (of which making the key {hash:.0})"
        );
    }
}

fn bytes() {
    for bytes in [16, 100] {
        let empty = resident();
        let keyspace = keyspace(4);
        let value = vec![b'x'; bytes];
        let (mut low, mut high) = (f64::MAX, 0.0f64);
        for n in 0..2_000_000u64 {
            set(&keyspace, clock::now_ms(), &key16(n), &value);
            if n >= 1_000_000 && n % 20_000 == 0 {
                let used = keyspace.lock_all().statistics().memory.used_bytes() as f64 / n as f64;
                (low, high) = (low.min(used), high.max(used));
            }
            if n % 64 == 0 {
                maintain(&keyspace);
            }
            if n == 1_000_000 || n == 1_999_999 {
                let memory = keyspace.lock_all().statistics().memory;
                let each = |bytes: u64| bytes as f64 / n as f64;
                println!(
                    "bytes per key, {n} keys, 16 + {bytes} B: used {:.2} (header {:.2}, rounding {:.2}, table {:.2}), \
                     free slots {:.2}, dirty {:.2}, metadata {:.2}; process {:.2}",
                    each(memory.used_bytes()),
                    each(memory.header_bytes),
                    each(memory.rounding_bytes),
                    each(memory.table_bytes),
                    each(memory.free_slot_bytes),
                    each(memory.dirty_bytes),
                    each(memory.metadata_bytes),
                    (resident() - empty) / n as f64,
                );
            }
        }
        println!("bytes per key, 1 to 2 M keys, 16 + {bytes} B: used {low:.2} to {high:.2}");
    }
}

fn evacuate() {
    let keyspace = keyspace(1);
    let now_ms = clock::now_ms();
    let mut random = Random(1);
    for n in 0..2_000_000u64 {
        // 213 B of value make objects of 232 B.
        set(&keyspace, now_ms, &key16(n), &[b'x'; 213]);
    }
    for n in 0..2_000_000u64 {
        if random.below(10) != 0 {
            remove(&keyspace, now_ms, &key16(n));
        }
    }
    let prediction = keyspace.lock_all().predict_compaction();
    let (cpu, user) = (cpu_seconds(), user_seconds());
    let ledger = keyspace.compact();
    let (cpu, user) = (cpu_seconds() - cpu, user_seconds() - user);
    println!(
        "evacuate: predicted {} objects for {} pages; moved {} objects ({} B each) for {} pages; CPU {:.3} s, \
         of which {:.3} s outside of the kernel, {:.0} ns each; longest slice {:.0} us",
        prediction.objects,
        prediction.pages,
        ledger.moved_objects,
        ledger.moved_bytes / ledger.moved_objects.max(1),
        ledger.freed_pages,
        cpu,
        user,
        user * 1e9 / ledger.moved_objects.max(1) as f64,
        ledger.longest_slice_ns as f64 / 1000.0,
    );
    keyspace.lock_all().check();
}

/// The keys that are there, in no order. The room is taken and touched at once, so that it does not
/// disturb what is measured.
struct Live {
    objects: Vec<(u32, u32)>,
    bytes: u64,
    next: u32,
}

impl Live {
    fn with_room(count: usize) -> Self {
        let mut objects = vec![(1, 1); count];
        objects.clear();
        Live {
            objects,
            bytes: 0,
            next: 0,
        }
    }

    fn name(n: u32) -> String {
        format!("k:{n:x}")
    }

    fn set(&mut self, keyspace: &Keyspace, value: &[u8]) -> u64 {
        let name = Self::name(self.next);
        let bytes = (name.len() + value.len()) as u64;
        set(keyspace, clock::now_ms(), name.as_bytes(), value);
        self.objects.push((self.next, value.len() as u32));
        self.next += 1;
        self.bytes += bytes;
        bytes
    }

    fn remove_random(&mut self, keyspace: &Keyspace, random: &mut Random) {
        let at = random.below(self.objects.len() as u64) as usize;
        let (n, length) = self.objects.swap_remove(at);
        let name = Self::name(n);
        self.bytes -= (name.len() + length as usize) as u64;
        remove(keyspace, clock::now_ms(), name.as_bytes());
    }
}

fn recover() {
    for (what, share) in [("90 %", 0.1), ("all", 0.0)] {
        let fill_bytes = size_setting("FILL_MB", 500) as u64 * 1_000_000;
        let mut live = Live::with_room(2_500_000);
        let mut random = Random(2);
        let value = vec![b'x'; 400];
        let empty = resident();
        let keyspace = keyspace(4);
        while live.bytes < fill_bytes {
            let length = random.range((100, 400)) as usize;
            live.set(&keyspace, &value[..length]);
            if live.next.is_multiple_of(32) {
                maintain(&keyspace);
            }
        }
        let (full, filled) = (resident(), live.bytes);
        let keep = (live.objects.len() as f64 * share) as usize;
        let began = Instant::now();
        while live.objects.len() > keep {
            live.remove_random(&keyspace, &mut random);
            if live.objects.len().is_multiple_of(32) {
                maintain(&keyspace);
            }
        }
        let deleting = began.elapsed();
        let fair = empty + (full - empty) * live.bytes as f64 / filled as f64;
        print!(
            "recover, {what} of {:.0} MB deleted in {:.2} s: fair share {:.1} MB, right after {:.1} MB;",
            filled as f64 / 1e6,
            deleting.as_secs_f64(),
            (fair - empty) / 1e6,
            (resident() - empty) / 1e6
        );
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let mut longest = Duration::ZERO;
        for look_ms in [250, 500, 1000, 2000, 3000] {
            while began.elapsed() < Duration::from_millis(look_ms) {
                let call = Instant::now();
                maintain(&keyspace);
                longest = longest.max(call.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            print!(
                " {look_ms} ms {:.2} MB ({:.3}),",
                (resident() - empty) / 1e6,
                resident() / fair
            );
        }
        let ledger = keyspace.lock_all().statistics().compaction;
        println!(
            " CPU {:.2} s, moved {} objects in {} slices, longest {:.0} us, longest maintenance {:.0} us",
            cpu_seconds() - cpu,
            ledger.moved_objects,
            ledger.slices,
            ledger.longest_slice_ns as f64 / 1e3,
            longest.as_nanos() as f64 / 1e3,
        );
        println!("  {:?}", keyspace.lock_all().statistics().memory);
    }
}

struct Workload {
    name: &'static str,
    before: (u32, u32),
    delete: f64,
    after: Option<(u32, u32)>,
}

const WORKLOADS: [Workload; 8] = [
    Workload {
        name: "W1",
        before: (100, 100),
        delete: 0.0,
        after: None,
    },
    Workload {
        name: "W2",
        before: (100, 100),
        delete: 0.0,
        after: Some((130, 130)),
    },
    Workload {
        name: "W3",
        before: (100, 100),
        delete: 0.9,
        after: Some((130, 130)),
    },
    Workload {
        name: "W4",
        before: (100, 150),
        delete: 0.0,
        after: Some((200, 250)),
    },
    Workload {
        name: "W5",
        before: (100, 150),
        delete: 0.9,
        after: Some((200, 250)),
    },
    Workload {
        name: "W6",
        before: (100, 200),
        delete: 0.5,
        after: Some((1000, 2000)),
    },
    Workload {
        name: "W7",
        before: (1000, 2000),
        delete: 0.9,
        after: Some((1500, 2500)),
    },
    Workload {
        name: "W8",
        before: (50, 150),
        delete: 0.9,
        after: Some((5000, 15000)),
    },
];

fn changing() {
    let cap = size_setting("LIVE_MB", 100) as u64 * 1_000_000;
    let (mut peaks, mut ends) = (0.0, 0.0);
    let only = env::var("ONLY").unwrap_or_default();
    let mut count = 0.0;
    for workload in WORKLOADS
        .iter()
        .filter(|w| only.is_empty() || only.contains(w.name))
    {
        let mut live = Live::with_room((cap / 50) as usize);
        let mut random = Random(3);
        let value: Vec<u8> = (0..15_000).map(|_| random.next() as u8 | 0x80).collect();
        let keyspace = keyspace(4);
        let empty = resident();
        let mut peak = 0.0f64;
        let began = Instant::now();
        let mut churn = |live: &mut Live, sizes: (u32, u32), peak: &mut f64| {
            let (mut allocated, mut looked) = (0, 0);
            while allocated < 5 * cap {
                let length = random.range(sizes) as usize;
                while live.bytes + length as u64 + 10 > cap {
                    live.remove_random(&keyspace, &mut random);
                }
                allocated += live.set(&keyspace, &value[..length]);
                if live.next.is_multiple_of(32) {
                    maintain(&keyspace);
                }
                if allocated - looked > cap / 100 {
                    looked = allocated;
                    *peak = peak.max(resident() - empty);
                }
            }
        };
        churn(&mut live, workload.before, &mut peak);
        if let Some(after) = workload.after {
            let keep = (live.objects.len() as f64 * (1.0 - workload.delete)) as usize;
            let mut random = Random(4);
            while live.objects.len() > keep {
                live.remove_random(&keyspace, &mut random);
                if live.objects.len().is_multiple_of(32) {
                    maintain(&keyspace);
                }
            }
            churn(&mut live, after, &mut peak);
        }
        let end = resident() - empty;
        peak = peak.max(end);
        let seconds = began.elapsed().as_secs_f64();
        let statistics = keyspace.lock_all().statistics();
        let ledger = statistics.compaction;
        println!(
            "changing {}: peak {:.3}, end {:.3}; {:.1} s, moved {} MB in {:.2} s ({:.0} ns each), longest slice {:.0} us; \
             used {:.3}, free slots {:.3}, dirty {:.3}, metadata {:.3}",
            workload.name,
            peak / cap as f64,
            end / live.bytes as f64,
            seconds,
            ledger.moved_bytes / 1_000_000,
            ledger.time_ns as f64 / 1e9,
            ledger.time_ns as f64 / ledger.moved_objects.max(1) as f64,
            ledger.longest_slice_ns as f64 / 1e3,
            statistics.memory.used_bytes() as f64 / live.bytes as f64,
            statistics.memory.free_slot_bytes as f64 / live.bytes as f64,
            statistics.memory.dirty_bytes as f64 / live.bytes as f64,
            statistics.memory.metadata_bytes as f64 / live.bytes as f64,
        );
        peaks += (peak / cap as f64).ln();
        ends += (end / live.bytes as f64).ln();
        count += 1.0;
    }
    println!(
        "changing, geometric means: peak {:.3}, end {:.3}",
        f64::exp(peaks / count),
        f64::exp(ends / count)
    );
}

/// Looks at all chunks, one by one as a page of the heap map does, and says how long each look took: that long it holds
/// the shard's lock at most.
fn look_at_chunks(keyspace: &Keyspace, what: &str) {
    let mut map = ChunkMap::default();
    let mut took = Vec::new();
    let mut at = MapCursor::START;
    loop {
        let began = cpu_seconds();
        let next = keyspace.map_chunk(at, &mut map);
        took.push((cpu_seconds() - began) * 1e6);
        let Some(next) = next else { break };
        at = next;
    }
    let chunks = took.len() - 1;
    took.sort_by(f64::total_cmp);
    let mean = took.iter().sum::<f64>() / took.len() as f64;
    let [half, most] = [0.5, 0.999].map(|share| took[(took.len() as f64 * share) as usize]);
    let longest = took[chunks];
    // The page's thread looks for 5 ms of each second.
    let pass = 32_768.0 * mean / 5_000.0;
    println!(
        "map, {what}: {chunks} chunks, us each: mean {mean:.1}, half within {half:.1}, 99.9% {most:.1}, longest \
         {longest:.1}; 64 GiB (32,768 chunks) in {pass:.0} s at 5 ms a second"
    );
    // What else a page's thread asks each shard for, once a second.
    let asked = |ask: &dyn Fn(&mut Locked<'_>)| {
        let mut took: Vec<f64> = (0..200)
            .map(|at| {
                let began = cpu_seconds();
                ask(&mut keyspace.lock(ShardSet::one(at % keyspace.shards())));
                (cpu_seconds() - began) * 1e6
            })
            .collect();
        took.sort_by(f64::total_cmp);
        (took[took.len() / 2], took[took.len() - 1])
    };
    let statistics = asked(&|locked| _ = black_box(locked.statistics()));
    let classes = asked(&|locked| _ = black_box(locked.size_classes()));
    let slabs = asked(&|locked| _ = black_box(locked.allocating_slabs()));
    println!(
        "     us under a lock, half within and longest: statistics {:.1}, {:.1}; size classes {:.1}, {:.1}; slabs handed \
         out from {:.1}, {:.1}",
        statistics.0, statistics.1, classes.0, classes.1, slabs.0, slabs.1
    );
}

fn map() {
    let bytes = (size_setting("MAP_MB", 256) as u64) << 20;
    let now_ms = clock::now_ms();
    // Slots of 24 bytes, and of all sizes.
    for (what, most) in [("smallest slots", 1), ("values to 4000 B", 4000)] {
        let keyspace = keyspace(2);
        let value = vec![b'x'; most];
        let mut random = Random(9);
        let mut keys = 0;
        let mut left = bytes as i64;
        while left > 0 {
            let length = 1 + random.below(most as u64) as usize;
            set(&keyspace, now_ms, &key16(keys), &value[..length]);
            keys += 1;
            left -= length as i64 + 22;
        }
        look_at_chunks(&keyspace, what);
        for key in (0..keys).filter(|key| key % 10 > 0) {
            remove(&keyspace, now_ms, &key16(key));
        }
        keyspace.purge();
        look_at_chunks(&keyspace, &format!("{what}, 90% deleted and purged"));
        for key in (0..keys * 99 / 100).filter(|key| key % 10 == 0) {
            remove(&keyspace, now_ms, &key16(key));
        }
        keyspace.purge();
        look_at_chunks(&keyspace, &format!("{what}, all but the last 0.1%"));
    }
}

fn main() {
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let parts: [(&str, fn()); 6] = [
        ("ops", ops),
        ("bytes", bytes),
        ("map", map),
        ("evacuate", evacuate),
        ("recover", recover),
        ("changing", changing),
    ];
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run();
        }
    }
}
