//! What the malloc of a server's clients and buffers is worth: the same load on servers that were built with, or
//! started under, different ones, in turn.
//!
//! ```text
//! for f in system jemalloc mimalloc; do
//!   cargo build --release -p slabkv-server --features malloc-$f --target-dir target/malloc-$f
//! done
//! cargo build --release -p slabkv-server
//! cargo run --release -p slabkv-benches --example malloc_choice -- \
//!   target/release/slabkv-server target/malloc-{system,jemalloc,mimalloc}/release/slabkv-server
//!
//! cargo build --release -p slabkv-malloc
//! cargo run --release -p slabkv-benches --example malloc_choice -- 'redis-server --save ""' \
//!   "LD_PRELOAD=$PWD/target/release/libslab_alloc.so redis-server --save \"\""
//! ```
//!
//! Each argument is a command line, whose first words may set variables of the environment; `--port` and `--bind` are
//! added. `PORT` (7650), `ROUNDS` (3) and `SCALE` (100, percent of the work) in the environment change the defaults.
//!
//! A round starts each server anew, loads 300,000 keys of 200 bytes, sends commands with values of several sizes by 50
//! connections, half of them SET and half GET, closes these, and deletes 90% of the keys. Of each figure the least of
//! all rounds counts, and for commands per second the most.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use slabkv_benches::trial::{Connection, Server, command};

const KEYS: u64 = 300_000;
const CONNECTIONS: usize = 50;

/// Commands with values of one size.
struct Load {
    name: &'static str,
    pipeline: usize,
    value_bytes: usize,
    commands: usize,
}

const LOADS: [Load; 6] = [
    load("32 B, one at a time", 1, 32, 200_000),
    load("32 B, 16 at a time", 16, 32, 1_000_000),
    load("32 B, 128 at a time", 128, 32, 2_000_000),
    load("1 KiB, 16 at a time", 16, 1 << 10, 500_000),
    load("20 KiB, 16 at a time", 16, 20 << 10, 50_000),
    load("200 KiB, 4 at a time", 4, 200 << 10, 8_000),
];

const fn load(name: &'static str, pipeline: usize, value_bytes: usize, commands: usize) -> Load {
    Load {
        name,
        pipeline,
        value_bytes,
        commands,
    }
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Sends a command for each key of the keyspace that `wanted` names, 500 at a time.
fn for_keys(server: &Server, wanted: impl Fn(u64) -> bool, words: impl Fn(&mut Vec<u8>, &str)) {
    let mut connection = server.connect();
    let (mut request, mut line) = (Vec::new(), Vec::new());
    let keys: Vec<u64> = (0..KEYS).filter(|key| wanted(*key)).collect();
    for batch in keys.chunks(500) {
        request.clear();
        for key in batch {
            words(&mut request, &format!("key:{key:012}"));
        }
        connection.send(&request);
        for _ in batch {
            connection.reply(&mut line);
        }
    }
}

/// Sends a load by all connections; how many commands it was, and the seconds.
fn run_load(connections: &mut [Connection], load: &Load, scale: usize) -> (usize, f64) {
    let value = vec![b'v'; load.value_bytes];
    let rounds = (load.commands * scale / 100 / load.pipeline / connections.len()).max(2);
    let requests: Vec<[Vec<u8>; 2]> = (0..connections.len())
        .map(|connection| {
            let mut requests = [Vec::new(), Vec::new()];
            for place in 0..load.pipeline {
                let key = format!("load:{connection}:{place}");
                command(&mut requests[0], &[b"SET", key.as_bytes(), &value]);
                command(&mut requests[1], &[b"GET", key.as_bytes()]);
            }
            requests
        })
        .collect();
    let mut line = Vec::new();
    let started = Instant::now();
    for round in 0..rounds {
        for (connection, requests) in connections.iter_mut().zip(&requests) {
            connection.send(&requests[round & 1]);
        }
        for connection in &mut *connections {
            for _ in 0..load.pipeline {
                let bytes = connection.reply(&mut line);
                assert_eq!(bytes, (round & 1 == 1).then_some(load.value_bytes));
            }
        }
    }
    let count = rounds * load.pipeline * connections.len();
    (count, started.elapsed().as_secs_f64())
}

/// The figures of one server, the best of all rounds.
#[derive(Default)]
struct Figures {
    name: String,
    rows: HashMap<String, f64>,
}

impl Figures {
    fn least(&mut self, row: impl Into<String>, figure: f64) {
        let kept = self.rows.entry(row.into()).or_insert(figure);
        *kept = kept.min(figure);
    }

    fn most(&mut self, row: impl Into<String>, figure: f64) {
        let kept = self.rows.entry(row.into()).or_insert(figure);
        *kept = kept.max(figure);
    }
}

fn trial(line: &str, port: u16, scale: usize, figures: &mut Figures) {
    let server = Server::start(line, port);
    let settle = Duration::from_secs(3);
    std::thread::sleep(settle / 3);
    figures.least("MB, empty", server.memory("VmRSS"));
    figures.name = name_of(&server);

    let value = vec![b'v'; 200];
    for_keys(
        &server,
        |_| true,
        |out, key| {
            command(out, &[b"SET", key.as_bytes(), &value]);
        },
    );
    figures.least("MB, 300,000 keys", server.memory("VmRSS"));
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    for load in &LOADS {
        let before = server.cpu_us();
        let (count, seconds) = run_load(&mut connections, load, scale);
        let cpu_us = (server.cpu_us() - before) / count as f64;
        figures.least(format!("us of CPU a command, {}", load.name), cpu_us);
        figures.most(
            format!("1000 a second, {}", load.name),
            count as f64 / seconds / 1e3,
        );
    }
    figures.least("MB, at most", server.memory("VmHWM"));
    std::thread::sleep(settle);
    figures.least("MB, 3 s after the last command", server.memory("VmRSS"));
    drop(connections);
    let mut connection = server.connect();
    let (mut request, mut reply) = (Vec::new(), Vec::new());
    let most = LOADS.iter().map(|load| load.pipeline).max().unwrap_or(0);
    for number in 0..CONNECTIONS * most {
        let key = format!("load:{}:{}", number / most, number % most);
        command(&mut request, &[b"DEL", key.as_bytes()]);
    }
    connection.send(&request);
    for _ in 0..CONNECTIONS * most {
        connection.reply(&mut reply);
    }
    std::thread::sleep(settle);
    figures.least(
        "MB, 3 s after these clients have gone",
        server.memory("VmRSS"),
    );
    // Nine of ten, at random, the same in each round.
    let goes = |key: u64| !(key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40).is_multiple_of(10);
    for_keys(&server, goes, |out, key| {
        command(out, &[b"DEL", key.as_bytes()]);
    });
    std::thread::sleep(settle);
    figures.least("MB, 3 s after 90% are deleted", server.memory("VmRSS"));
}

/// What the server says of its malloc.
fn name_of(server: &Server) -> String {
    let mut connection = server.connect();
    connection.send(b"*2\r\n$4\r\nINFO\r\n$6\r\nmemory\r\n");
    let mut text = Vec::new();
    connection.reply(&mut text);
    let text = String::from_utf8_lossy(&text);
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("mem_allocator:"));
    let maps = server.proc("maps");
    let preloaded = if maps.contains("libslab_alloc.so") {
        " + preload"
    } else {
        ""
    };
    format!("{}{preloaded}", name.unwrap_or("?"))
}

fn main() {
    let lines: Vec<String> = std::env::args().skip(1).collect();
    assert!(!lines.is_empty(), "usage: malloc_choice COMMAND-LINE ...");
    let (rounds, scale) = (setting("ROUNDS", 3), setting("SCALE", 100));
    let port = u16::try_from(setting("PORT", 7650)).expect("a port");
    let mut all: Vec<Figures> = lines.iter().map(|_| Figures::default()).collect();
    for round in 0..rounds {
        for (line, figures) in lines.iter().zip(&mut all) {
            eprintln!("round {} of {rounds}: {line}", round + 1);
            trial(line, port, scale, figures);
        }
    }
    let mut rows: Vec<String> = all[0].rows.keys().cloned().collect();
    let place = |row: &String| LOADS.iter().position(|load| row.ends_with(load.name));
    // Memory by the course of a round, then each load's two figures.
    let moments = ["empty", "keys", "most", "command", "clients", "deleted"];
    let moment = |row: &String| moments.iter().position(|moment| row.contains(moment));
    rows.sort_by_key(|row| (place(row), row.starts_with("us"), moment(row)));
    print!("| |");
    all.iter().for_each(|figures| print!(" {} |", figures.name));
    println!("\n|---|{}", "---|".repeat(all.len()));
    for row in rows {
        print!("| {row} |");
        for figures in &all {
            let (figure, first) = (figures.rows[&row], all[0].rows[&row]);
            print!(" {figure:.2} ({:.2}) |", figure / first);
        }
        println!();
    }
}
