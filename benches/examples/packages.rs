//! Real records through a real client: loads a Debian `Packages` index with `redis-cli --pipe`,
//! overwrites every record with one field of itself, deletes 90% of them, and says how soon the
//! server's resident memory is back at its fair share.
//!
//! ```text
//! apt-get update
//! /usr/lib/apt/apt-helper cat-file /var/lib/apt/lists/*_main_binary-amd64_Packages* \
//!   | cargo run --release -p slabkv-benches --example packages -- PORT PID
//! ```
//!
//! The fair share is the empty server's resident memory plus the growth under the full load times
//! the share of payload bytes (keys and values) that are left. Every value that remains is read
//! back and compared byte for byte; a difference ends the program with status 1.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// The server under trial: its port on the loopback address and its process.
struct Server {
    port: u16,
    pid: u32,
}

impl Server {
    /// Resident bytes, from `/proc/PID/statm`.
    fn rss(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid)).expect("statm");
        let pages: u64 = statm
            .split(' ')
            .nth(1)
            .expect("field")
            .parse()
            .expect("number");
        pages * 4096
    }

    /// CPU seconds used so far, from `/proc/PID/stat`.
    fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).expect("stat");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .expect("fields")
            .split_whitespace()
            .collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        ticks as f64 / 100.0
    }

    /// Sends commands through `redis-cli --pipe`, as a person would load a file.
    fn pipe(&self, commands: impl Iterator<Item = Vec<u8>>) {
        let mut child = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "--pipe"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("redis-cli");
        let mut stdin = child.stdin.take().expect("stdin");
        for command in commands {
            stdin.write_all(&command).expect("write to redis-cli");
        }
        drop(stdin);
        let out = child.wait_with_output().expect("redis-cli");
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && text.contains("errors: 0"),
            "redis-cli --pipe said {text}"
        );
    }

    /// Reads every record back and counts those that differ.
    fn differing(&self, records: &Records) -> usize {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        let mut writer = stream.try_clone().expect("clone");
        let mut reader = BufReader::with_capacity(1 << 20, stream);
        let mut differing = 0;
        let all: Vec<_> = records.iter().collect();
        for batch in all.chunks(500) {
            let request: Vec<u8> = batch
                .iter()
                .flat_map(|(k, _)| command(&[b"GET", k]))
                .collect();
            writer.write_all(&request).expect("write");
            for (_, value) in batch {
                if read_bulk(&mut reader).as_deref() != Some(value.as_slice()) {
                    differing += 1;
                }
            }
        }
        differing
    }
}

/// One command in RESP.
fn command(args: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
    out
}

fn read_bulk(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).expect("reply");
    let length: i64 = line.strip_prefix('$')?.trim_end().parse().ok()?;
    let mut bulk = vec![0; usize::try_from(length).ok()? + 2];
    reader.read_exact(&mut bulk).expect("bulk");
    bulk.truncate(bulk.len() - 2);
    Some(bulk)
}

/// The records of a `Packages` index: `pkg:NAME` and the stanza. A name that occurs again (another
/// version) replaces the earlier one, as SET does.
fn parse(index: &[u8]) -> Records {
    let text = String::from_utf8_lossy(index);
    text.split("\n\n")
        .filter_map(|stanza| {
            let name = stanza
                .lines()
                .find_map(|line| line.strip_prefix("Package: "))?;
            Some((
                format!("pkg:{name}").into_bytes(),
                stanza.trim_start().as_bytes().to_vec(),
            ))
        })
        .collect()
}

/// One field of a stanza, which one depends on the record.
fn one_field(stanza: &[u8], turn: usize) -> Vec<u8> {
    let text = std::str::from_utf8(stanza).expect("utf-8");
    let fields: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    fields[turn % fields.len()].as_bytes().to_vec()
}

fn payload(records: &Records) -> u64 {
    records
        .iter()
        .map(|(k, v)| (k.len() + v.len()) as u64)
        .sum()
}

fn main() -> ExitCode {
    let mut args = std::env::args()
        .skip(1)
        .map(|arg| arg.parse::<u32>().expect("PORT PID"));
    let (port, pid) = (
        args.next().expect("PORT PID"),
        args.next().expect("PORT PID"),
    );
    let server = Server {
        port: u16::try_from(port).expect("port"),
        pid,
    };
    let mut index = Vec::new();
    std::io::stdin().read_to_end(&mut index).expect("stdin");
    let mut records = parse(&index);
    let mb = |bytes: u64| bytes as f64 / 1e6;

    let empty = server.rss();
    server.pipe(records.iter().map(|(k, v)| command(&[b"SET", k, v])));
    let (full, full_payload) = (server.rss(), payload(&records));
    let mut wrong = server.differing(&records);
    println!(
        "loaded      {} records, {:.1} MB; RSS {:.1} -> {:.1} MB",
        records.len(),
        mb(full_payload),
        mb(empty),
        mb(full)
    );

    for (turn, value) in records.values_mut().enumerate() {
        *value = one_field(value, turn);
    }
    server.pipe(records.iter().map(|(k, v)| command(&[b"SET", k, v])));
    wrong += server.differing(&records);
    println!(
        "overwritten {:.1} MB; RSS {:.1} MB",
        mb(payload(&records)),
        mb(server.rss())
    );

    // A xorshift generator with a fixed seed picks the tenth that stays.
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut kept = Records::new();
    let mut deleted = Vec::new();
    for (key, value) in records {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        if seed.is_multiple_of(10) {
            kept.insert(key, value);
        } else {
            deleted.push(key);
        }
    }
    server.pipe(deleted.iter().map(|key| command(&[b"DEL", key])));
    let (start, cpu) = (Instant::now(), server.cpu_s());
    let fair = empty as f64 + (full - empty) as f64 * payload(&kept) as f64 / full_payload as f64;
    let mut lowest = u64::MAX;
    let mut reached = [None; 2];
    let bounds = [1.15, 1.05];
    while start.elapsed() < Duration::from_secs(8) {
        let rss = server.rss();
        lowest = lowest.min(rss);
        for (at, bound) in reached.iter_mut().zip(bounds) {
            if at.is_none() && rss as f64 <= bound * fair {
                *at = Some(start.elapsed().as_secs_f64());
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!(
        "kept        {} records, {:.2} MB; fair share {:.2} MB; lowest RSS {:.2} MB = {:.3} of it; CPU {:.2} s",
        kept.len(),
        mb(payload(&kept)),
        fair / 1e6,
        mb(lowest),
        lowest as f64 / fair,
        server.cpu_s() - cpu
    );
    for (at, bound) in reached.iter().zip(bounds) {
        match at {
            Some(seconds) => println!("within {bound:.2} of the fair share after {seconds:.2} s"),
            None => println!("never within {bound:.2} of the fair share"),
        }
    }
    wrong += server.differing(&kept);
    println!("{wrong} values differed");
    if wrong == 0 && reached[0].is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
