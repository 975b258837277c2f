//! The parts of memory add up to the resident set in ten states, and what is in no part is little.
//!
//! `benches/examples/identity.rs` does the same with a gigabyte and ten thousand clients.

mod live;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use live::{Client, Server, info_numbers};

/// What is in no part may be so much, or three percent.
const RESIDUE_BYTES_MAX: i64 = 1 << 20;
const RESIDUE_PERCENT_MAX: i64 = 3;

/// The parts add up to the resident set, and the residue is small.
fn holds(
    connection: &mut redis::Connection,
    state: &str,
) -> std::collections::HashMap<String, i64> {
    let info = info_numbers(connection);
    let parts = info
        .iter()
        .filter(|(name, _)| name.starts_with("mem_part_"));
    let (resident, residue) = (info["used_memory_rss"], info["mem_part_residue"]);
    assert_eq!(
        parts.map(|(_, bytes)| bytes).sum::<i64>(),
        resident,
        "{state}"
    );
    assert!(
        residue.abs() <= RESIDUE_BYTES_MAX.max(resident * RESIDUE_PERCENT_MAX / 100),
        "{state}: {residue} of {resident}: {info:?}"
    );
    info
}

fn run(connection: &mut redis::Connection, words: &[&str]) {
    let _: () = redis::cmd(words[0])
        .arg(&words[1..])
        .query(connection)
        .expect(words[0]);
}

fn fill(connection: &mut redis::Connection, keys: std::ops::Range<u32>, bytes: usize) {
    let value = vec![b'v'; bytes];
    for batch in keys.collect::<Vec<_>>().chunks(1000) {
        let mut pipe = redis::pipe();
        for number in batch {
            pipe.set(format!("key:{number}"), &value).ignore();
        }
        pipe.query::<()>(connection).expect("SET");
    }
}

/// Deletes nine keys of ten, without an order.
fn thin(connection: &mut redis::Connection, keys: std::ops::Range<u32>) {
    for batch in keys.collect::<Vec<_>>().chunks(1000) {
        let mut pipe = redis::pipe();
        for number in batch {
            if number.wrapping_mul(0x9E37_79B9) >> 16 & 0xffff >= 6554 {
                pipe.del(format!("key:{number}")).ignore();
            }
        }
        pipe.query::<()>(connection).expect("DEL");
    }
}

#[test]
fn it_holds_in_every_state_of_the_keyspace() {
    const KEYS: u32 = 60_000;
    let server = Server::start_with(&["--activedefrag", "no"]);
    let mut connection = server.redis();
    holds(&mut connection, "empty");
    fill(&mut connection, 0..KEYS, 64);
    let full = holds(&mut connection, "small strings");
    assert!(full["mem_part_values"] == i64::from(KEYS) * 64, "{full:?}");
    thin(&mut connection, 0..KEYS);
    let sparse = holds(&mut connection, "after a random delete");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            run(&mut server.redis(), &["MEMORY", "COMPACT", "NOW"]);
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            holds(&mut connection, "during compaction");
        }
    });
    let compacted = holds(&mut connection, "after compaction");
    assert!(compacted["mem_part_free_slots"] * 4 < sparse["mem_part_free_slots"]);
    run(&mut connection, &["FLUSHALL"]);
    let empty = holds(&mut connection, "after FLUSHALL");
    assert_eq!(empty["mem_part_values"], 0);
    fill(&mut connection, 0..100, 256 << 10);
    holds(&mut connection, "large strings");
}

#[test]
fn it_holds_with_many_clients_and_what_they_have_not_read() {
    const VALUE_BYTES: usize = 200_000;
    let server = Server::start_with(&["--client-output-buffer-limit", "normal 0 0 0"]);
    let mut connection = server.redis();
    fill(&mut connection, 0..1, VALUE_BYTES);
    let mut clients: Vec<Client> = (0..400).map(|_| server.client()).collect();
    for client in &mut clients {
        client.expect(&[("PING", live::Value::Simple("PONG".into()))]);
    }
    holds(&mut connection, "many clients");
    // Long pipelines whose replies wait in the server, and requests of which a part is missing.
    for client in &mut clients[..20] {
        client.send_raw("GET key:0\r\n".repeat(20).as_bytes());
    }
    for client in &mut clients[20..40] {
        client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$400000\r\n");
        client.send_raw(&vec![b'x'; VALUE_BYTES]);
    }
    // Each has sent 20 replies, less what the socket took.
    let deadline = Instant::now() + Duration::from_secs(30);
    while holds(&mut connection, "heavy pipelines")["mem_clients_normal"] < 40 << 20 {
        assert!(Instant::now() < deadline, "the replies do not wait");
        std::thread::sleep(Duration::from_millis(20));
    }
    for client in &mut clients[..20] {
        (0..20).for_each(|_| assert_eq!(client.read().text().len(), VALUE_BYTES));
    }
    holds(&mut connection, "after heavy pipelines");
}

/// A control group of this test's own, which is removed with it.
struct Group(PathBuf);

impl Group {
    /// A group whose memory is limited; `None` where this process may not make one.
    fn new(limit: u64) -> Option<Self> {
        let name = format!("slabkv-test-{}", std::process::id());
        let kinds = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        kinds.into_iter().find_map(|(base, file)| {
            let path = Path::new(base).join(&name);
            std::fs::create_dir(&path).ok()?;
            let group = Self(path);
            std::fs::write(group.0.join(file), limit.to_string()).ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has just ended may still be counted.
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn it_holds_under_the_limit_of_a_control_group() {
    const LIMIT: u64 = 64 << 20;
    let Some(group) = Group::new(LIMIT) else {
        eprintln!("passed over: no right to make a control group");
        return;
    };
    {
        let server = Server::start();
        let id = server.process_id().to_string();
        if std::fs::write(group.0.join("cgroup.procs"), id).is_err() {
            eprintln!("passed over: no right to put a process into a control group");
            return;
        }
        let mut connection = server.redis();
        run(&mut connection, &["CONFIG", "SET", "activedefrag", "no"]);
        fill(&mut connection, 0..30_000, 1200);
        holds(&mut connection, "under a limit");
        let advice = |connection: &mut redis::Connection| -> String {
            redis::cmd("MEMORY")
                .arg("DOCTOR")
                .query(connection)
                .expect("MEMORY DOCTOR")
        };
        let text = advice(&mut connection);
        assert!(!text.contains("control group"), "{text}");
        // Up to a tenth below the limit, and no further than that makes sure of it.
        let mut next = 30_000;
        let near = loop {
            fill(&mut connection, next..next + 500, 1200);
            next += 500;
            let text = advice(&mut connection);
            if text.contains("control group") || next == 51_000 {
                break text;
            }
        };
        holds(&mut connection, "near a limit");
        assert!(
            near.contains("control group") && near.contains("64.00M"),
            "{near}"
        );
    }
}
