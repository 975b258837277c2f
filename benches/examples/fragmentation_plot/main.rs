//! Draws how memory, latency and CPU of slabkv and its peers go while a heap fragments.
//!
//! ```text
//! cargo run --release -p slabkv-benches --example fragmentation_plot -- \
//!   [--peer NAME=/path/to/redis-server]... [--out FILE.svg] [--port 7660] [--scale PERCENT]
//! ```
//!
//! Four cases, each from a fresh server on: nine of ten keys deleted at random, values that change their size, a range
//! of keys deleted, and churn. slabkv is built first and runs with its defaults. A peer is a program with Redis's
//! options; it runs with active defragmentation where it has that, which begins at 1 MB of waste instead of 100 MB.
//!
//! Commands are sent at the same pace to all. Four times a second the resident set and the CPU time are read from
//! `/proc`, the live bytes from INFO (`used_memory_dataset`), and a connection that asks for a key each millisecond
//! tells the latency. `--scale` takes a part of the keys and of the time.

mod cases;
mod draw;
mod record;

use std::path::{Path, PathBuf};
use std::process::Command;

use slabkv_benches::trial::{Server, built_server};

/// What the command line asks for.
struct Options {
    peers: Vec<(String, PathBuf)>,
    out: PathBuf,
    port: u16,
    scale: f64,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            peers: Vec::new(),
            out: PathBuf::from("fragmentation.svg"),
            port: 7660,
            scale: 1.0,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next();
            let value = value.unwrap_or_else(|| panic!("{word} takes a value"));
            match word.as_str() {
                "--peer" => {
                    let (name, program) = value.split_once('=').expect("--peer NAME=PROGRAM");
                    options.peers.push((name.to_owned(), program.into()));
                }
                "--out" => options.out = value.into(),
                "--port" => options.port = value.parse().expect("--port: a number"),
                "--scale" => {
                    let percent: f64 = value.parse().expect("--scale: percent");
                    options.scale = percent / 100.0;
                }
                _ => panic!("{word} is no option"),
            }
        }
        options
    }
}

/// A peer with active defragmentation, where it has one; whether it has.
fn start_peer(program: &Path, port: u16) -> (Server, bool) {
    let mut line = Command::new(program);
    line.args(["--save", "", "--appendonly", "no"]);
    let server = Server::launch(line, port);
    let mut connection = server.connect();
    // A peer with another malloc than its own refuses it.
    let has = connection.run("CONFIG SET activedefrag yes active-defrag-ignore-bytes 1mb");
    (server, has.is_ok())
}

fn main() {
    let options = Options::read();
    let slabkv = built_server();
    let cases = cases::all(options.scale);
    let mut names = vec!["slabkv".to_owned()];
    names.extend(options.peers.iter().map(|(name, _)| name.clone()));
    let mut courses = Vec::new();
    for case in &cases {
        let mut servers = Vec::new();
        for (at, shown) in names.iter_mut().enumerate() {
            eprintln!("{}: {shown}", case.title);
            let server = match at.checked_sub(1) {
                None => Server::launch(Command::new(&slabkv), options.port),
                Some(peer) => {
                    let (name, program) = &options.peers[peer];
                    let (server, defragments) = start_peer(program, options.port);
                    if !defragments {
                        *shown = format!("{name} without defragmentation");
                    }
                    server
                }
            };
            let samples = record::run(&server, case);
            let peak = samples.iter().map(|s| s.resident_mb).fold(0.0, f64::max);
            let end = samples.last().expect("there are samples");
            eprintln!(
                "  at most {peak:.0} MB resident, in the end {:.1} MB for {:.1} MB of live bytes",
                end.resident_mb, end.live_mb
            );
            servers.push(samples);
        }
        courses.push(servers);
    }
    let picture = draw::picture(&names, &cases, &courses);
    std::fs::write(&options.out, &picture).expect("the picture can be written");
    println!("{}: {} KB", options.out.display(), picture.len() / 1000);
}
