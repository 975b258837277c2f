//! The process's heap, whichever malloc the server was built with: its name, and that its figures are true.

mod live;

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use live::{Server, info_texts as info};

/// How `mem_allocator` begins.
const NAME: &str = if cfg!(feature = "malloc-system") {
    "libc"
} else if cfg!(feature = "malloc-jemalloc") {
    "jemalloc-5."
} else if cfg!(feature = "malloc-mimalloc") {
    "mimalloc-"
} else {
    "slabkv-"
};

fn number(info: &HashMap<String, String>, name: &str) -> i64 {
    info[name].parse().expect(name)
}

/// The parts add up to what is resident, and only an allocator that knows its free memory has parts for it.
fn parts_add_up(info: &HashMap<String, String>) {
    let parts = info.keys().filter(|name| name.starts_with("mem_part_"));
    let sum: i64 = parts.map(|name| number(info, name)).sum();
    assert_eq!(sum, number(info, "used_memory_rss"));
    let knows = !cfg!(any(feature = "malloc-system", feature = "malloc-mimalloc"));
    for part in ["free_slots", "cached_slots", "dirty_pages", "metadata"] {
        assert_eq!(info.contains_key(&format!("mem_part_heap_{part}")), knows);
    }
    let (used, active) = (
        number(info, "used_memory"),
        number(info, "allocator_active"),
    );
    assert!(used <= active && active <= number(info, "allocator_resident"));
    assert!(number(info, "used_memory_peak") >= used);
}

#[test]
fn the_malloc_has_its_name() {
    let server = Server::start();
    let info = info(&mut server.redis());
    let name = &info["mem_allocator"];
    assert!(name.starts_with(NAME), "{name}");
    assert!(name == "libc" || name.ends_with(|last: char| last.is_ascii_digit()));
    let version = Command::new(env!("CARGO_BIN_EXE_slabkv-server"))
        .arg("--version")
        .output()
        .expect("the server's file");
    let version = String::from_utf8(version.stdout).expect("text");
    assert!(version.contains(&format!(" malloc={name} ")), "{version}");
}

#[test]
fn what_a_client_holds_is_counted_and_comes_back() {
    const VALUE_BYTES: i64 = 8 << 20;
    let server = Server::start();
    let mut connection = server.redis();
    let before = info(&mut connection);
    parts_add_up(&before);
    // All of a long value but its end: the server holds it for the client.
    let mut client = UnixStream::connect(server.socket()).expect("the server listens");
    let head = format!("*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n${VALUE_BYTES}\r\n");
    client.write_all(head.as_bytes()).expect("SET");
    client
        .write_all(&vec![b'v'; VALUE_BYTES as usize - 1])
        .expect("the value");
    let mut wait = |what: &str, is_so: &dyn Fn(&HashMap<String, String>) -> bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let now = info(&mut connection);
            parts_add_up(&now);
            if is_so(&now) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {now:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let grown =
        |now: &HashMap<String, String>, part: &str| number(now, part) - number(&before, part);
    wait("the value is held", &|now| {
        grown(now, "mem_part_heap_objects") + grown(now, "mem_part_clients") >= VALUE_BYTES * 9 / 10
            && grown(now, "used_memory") >= VALUE_BYTES * 9 / 10
    });
    drop(client);
    wait("the value is freed", &|now| {
        grown(now, "mem_part_heap_objects") + grown(now, "mem_part_clients") < VALUE_BYTES / 4
    });
    let mut connection = server.redis();
    let done: String = redis::cmd("MEMORY")
        .arg("PURGE")
        .query(&mut connection)
        .expect("MEMORY PURGE");
    assert_eq!(done, "OK");
    let after = info(&mut connection);
    parts_add_up(&after);
    assert!(grown(&after, "used_memory_rss") < VALUE_BYTES / 2);
}

#[test]
fn malloc_stats_describe_the_heap() {
    let server = Server::start();
    let text: String = redis::cmd("MEMORY")
        .arg("MALLOC-STATS")
        .query(&mut server.redis())
        .expect("MEMORY MALLOC-STATS");
    let (keyspace, heap) = text.split_once("process's heap").expect("both are told of");
    assert!(keyspace.contains("Size classes of the keyspace"));
    assert!(heap.lines().count() > 4, "{heap}");
}
