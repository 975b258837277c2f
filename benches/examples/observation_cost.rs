//! What it costs to be watched: commands per second and CPU time per command with something on and off, in pairs.
//!
//! ```text
//! cargo run --release -p slabkv-benches --example observation_cost -- \
//!   [--pages 1] [--unread 0] [--set DIRECTIVE=OFF,ON]... [--pairs 10] [--seconds 1] [--keys 1000000] [--port 7670]
//! ```
//!
//! Two things are measured, one after the other: what is observed by default, against nothing that can be turned off;
//! and that a page is open, or so many, of which some never read: each a connection to `/events`, and one of them has a
//! chunk enlarged. With `--set` it is neither, but that directives have other values.
//!
//! The server is built and started once, with its defaults, and filled. A pair is the same load off and on, or on and
//! off, as chance has it, a second of each, in which a page gets one event; what it says is the mean of the ratios and
//! where it lies with 95% certainty, by the pairs' spread. Ten pairs of all loads take a little over a minute and a half.
//! Meanwhile a connection sends a PING each millisecond.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slabkv_benches::trial::{Connection, Random, Server, built_server, command};

const CONNECTIONS: usize = 50;
const VALUE_BYTES: usize = 100;
/// Requests of each connection, sent in turn.
const REQUESTS: usize = 32;
/// After something was turned on or off.
const SETTLE: Duration = Duration::from_millis(200);

/// What is observed by default and can be turned off: a directive, its value for off and its default.
const OBSERVATION: [[&str; 3]; 2] = [
    ["slowlog-log-slower-than", "-1", "10000"],
    ["latency-tracking", "no", "yes"],
];

/// What the command line asks for.
struct Options {
    pages: usize,
    unread: usize,
    directives: Vec<[String; 3]>,
    pairs: usize,
    seconds: f64,
    keys: usize,
    port: u16,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            pages: 1,
            unread: 0,
            directives: Vec::new(),
            pairs: 10,
            seconds: 1.0,
            keys: 1_000_000,
            port: 7670,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next();
            let value = value.unwrap_or_else(|| panic!("{word} takes a value"));
            let number = || value.parse::<usize>().expect("a number");
            match word.as_str() {
                "--pages" => options.pages = number(),
                "--unread" => options.unread = number(),
                "--set" => {
                    let (name, values) = value.split_once('=').expect("--set NAME=OFF,ON");
                    let (off, on) = values.split_once(',').expect("--set NAME=OFF,ON");
                    options.directives.push([name, off, on].map(str::to_owned));
                }
                "--pairs" => options.pairs = number().max(2),
                "--seconds" => options.seconds = value.parse().expect("a number"),
                "--keys" => options.keys = number(),
                "--port" => options.port = value.parse().expect("a port"),
                _ => panic!("{word} is no option"),
            }
        }
        options
    }
}

/// What is turned on and off.
enum Observed<'o> {
    /// So many pages, of which some never read.
    Pages { count: usize, unread: usize },
    /// Directives, each with its values for off and on.
    Directives(Vec<[&'o str; 3]>),
}

/// Open pages, which are closed with this value. Those that are read are read by a thread.
struct Pages {
    closing: std::sync::Arc<AtomicBool>,
    reader: Option<std::thread::JoinHandle<usize>>,
    unread: Vec<TcpStream>,
}

impl Pages {
    fn open(port: u16, pages: usize, unread: usize) -> Self {
        let page = |_| {
            let mut page = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
            let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
            page.write_all(request).expect("it is read");
            page
        };
        let mut read: Vec<TcpStream> = (unread..pages).map(page).collect();
        let closing = std::sync::Arc::new(AtomicBool::new(false));
        let told = std::sync::Arc::clone(&closing);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            let mut seconds = 0;
            let waits = read.iter().try_for_each(|page| page.set_nonblocking(true));
            waits.expect("a socket");
            while !told.load(Ordering::Relaxed) {
                let asked = Instant::now();
                let mut chunk = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
                let request = b"GET /chunk?shard=0&chunk=0 HTTP/1.1\r\nHost: localhost\r\n\
                    Connection: close\r\n\r\n";
                chunk.write_all(request).expect("it is read");
                let enlarged = chunk.read_to_end(&mut Vec::new());
                assert!(enlarged.is_ok_and(|bytes| bytes > 0), "no chunk");
                for (at, page) in read.iter_mut().enumerate() {
                    while let Ok(bytes) = page.read(&mut buffer) {
                        assert!(bytes > 0, "a page was closed");
                        let text = String::from_utf8_lossy(&buffer[..bytes]);
                        if at == 0 {
                            seconds += text.matches("event: second").count();
                        }
                    }
                }
                while asked.elapsed() < Duration::from_secs(1) && !told.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            seconds
        });
        Self {
            closing,
            reader: Some(reader),
            unread: (0..unread).map(page).collect(),
        }
    }

    /// Closes them; how many events came to the first one that was read.
    fn close(mut self) -> usize {
        self.unread.clear();
        self.closing.store(true, Ordering::Relaxed);
        let reader = self.reader.take().expect("it was there");
        reader.join().expect("it does not panic")
    }
}

/// A way to send commands.
struct Load {
    name: &'static str,
    pipeline: usize,
    set: bool,
}

const LOADS: [Load; 4] = [
    Load {
        name: "SET, one at a time",
        pipeline: 1,
        set: true,
    },
    Load {
        name: "GET, one at a time",
        pipeline: 1,
        set: false,
    },
    Load {
        name: "SET, 16 at a time",
        pipeline: 16,
        set: true,
    },
    Load {
        name: "GET, 16 at a time",
        pipeline: 16,
        set: false,
    },
];

/// Figures of one load over some seconds.
struct Figures {
    commands_per_second: f64,
    /// Microseconds of the server's CPU for a command.
    cpu_us: f64,
    /// Percent of a core that the thread for pages takes.
    page_percent: f64,
    /// Microseconds that each PING took.
    pings: Vec<f64>,
}

fn key(number: usize) -> String {
    format!("key:{number:012}")
}

/// Sends a load by all connections for so many seconds.
fn run(server: &Server, connections: &mut [Connection], load: &Load, options: &Options) -> Figures {
    let mut random = Random(3);
    let value = vec![b'v'; VALUE_BYTES];
    let requests: Vec<Vec<u8>> = (0..REQUESTS * CONNECTIONS)
        .map(|_| {
            let mut request = Vec::new();
            for _ in 0..load.pipeline {
                let key = key(random.below(options.keys));
                match load.set {
                    true => command(&mut request, &[b"SET", key.as_bytes(), &value]),
                    false => command(&mut request, &[b"GET", key.as_bytes()]),
                }
            }
            request
        })
        .collect();
    // Each key has a value of one length, so all replies are as long.
    let reply = match load.set {
        true => "+OK\r\n".len(),
        false => format!("${VALUE_BYTES}\r\n").len() + VALUE_BYTES + 2,
    };
    let mut replies = vec![0; reply * load.pipeline];
    let ended = AtomicBool::new(false);
    let pings = Mutex::new(Vec::new());
    let (commands_per_second, cpu_us, page_percent) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = server.connect();
            let mut took = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                let asked = Instant::now();
                connection.run("PING").expect("PONG");
                took.push(asked.elapsed().as_secs_f64() * 1e6);
                std::thread::sleep(Duration::from_millis(1));
            }
            *pings.lock() = took;
        });
        let page_us = || server.cpu_us_of(|thread| thread == "http");
        let (started, cpu_before, page_before) = (Instant::now(), server.cpu_us(), page_us());
        let mut rounds = 0;
        while started.elapsed().as_secs_f64() < options.seconds {
            for (at, connection) in connections.iter_mut().enumerate() {
                connection.send(&requests[at * REQUESTS + rounds % REQUESTS]);
            }
            for connection in &mut *connections {
                connection.read_exact(&mut replies);
            }
            assert!(matches!(replies[0], b'+' | b'$'), "an error");
            rounds += 1;
        }
        let seconds = started.elapsed().as_secs_f64();
        let cpu_us = server.cpu_us() - cpu_before;
        let page_percent = (page_us() - page_before) / seconds / 1e4;
        ended.store(true, Ordering::Relaxed);
        let commands = (rounds * connections.len() * load.pipeline) as f64;
        (commands / seconds, cpu_us / commands, page_percent)
    });
    Figures {
        commands_per_second,
        cpu_us,
        page_percent,
        pings: pings.into_inner(),
    }
}

/// What 95% of a normal distribution's means of so many values lie within, in standard errors (Student's t).
fn student(values: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    TABLE.get(values.saturating_sub(2)).copied().unwrap_or(1.96)
}

/// The mean of these ratios and how far from it the true one may be, both in percent of change.
fn change(ratios: &[f64]) -> (f64, f64) {
    let count = ratios.len() as f64;
    let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / count;
    let squares = ratios.iter().map(|ratio| (ratio.ln() - mean).powi(2));
    let deviation = (squares.sum::<f64>() / (count - 1.0)).sqrt();
    let error = student(ratios.len()) * deviation / count.sqrt();
    (mean.exp_m1() * 100.0, error * 100.0)
}

fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values[at.min(values.len() - 1)]
}

fn fill(server: &Server, keys: usize) {
    let mut connection = server.connect();
    let value = vec![b'v'; VALUE_BYTES];
    let mut line = Vec::new();
    for first in (0..keys).step_by(500) {
        let mut request = Vec::new();
        let batch = first..(first + 500).min(keys);
        for number in batch.clone() {
            command(&mut request, &[b"SET", key(number).as_bytes(), &value]);
        }
        connection.send(&request);
        batch.for_each(|_| _ = connection.reply(&mut line));
    }
}

/// Turns on what is measured, or off.
fn turn(
    on: bool,
    observed: &Observed<'_>,
    port: u16,
    control: &mut Connection,
    pages: &mut Option<Pages>,
) {
    if let Some(open) = pages.take() {
        let events = open.close();
        assert!(events > 0, "the page got no event");
    }
    match observed {
        Observed::Directives(directives) => {
            for [name, off_value, on_value] in directives {
                let value = if on { on_value } else { off_value };
                let line = format!("CONFIG SET {name} {value}");
                let done = control.run(&line);
                done.unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
        Observed::Pages { count, unread } if on => {
            *pages = Some(Pages::open(port, *count, *unread));
        }
        Observed::Pages { .. } => {}
    }
    std::thread::sleep(SETTLE);
}

/// Measures in pairs, and prints what came of it.
fn compare(
    title: &str,
    observed: &Observed<'_>,
    server: &Server,
    connections: &mut [Connection],
    options: &Options,
) {
    let mut control = server.connect();
    let mut pages = None;
    let mut chance = Random(std::process::id().into());
    // By load: figures off and on of each pair.
    let mut all: Vec<Vec<[Figures; 2]>> = LOADS.iter().map(|_| Vec::new()).collect();
    let mut resident = [0.0_f64; 2];
    for pair in 0..options.pairs {
        eprintln!("{title}: pair {} of {}", pair + 1, options.pairs);
        for (load, pairs) in LOADS.iter().zip(&mut all) {
            let mut measure = |on: bool| -> Figures {
                turn(on, observed, options.port + 1, &mut control, &mut pages);
                let figures = run(server, connections, load, options);
                resident[usize::from(on)] = server.memory("VmRSS");
                figures
            };
            // One right after the other, so that both meet the same neighbours on the machine.
            pairs.push(if chance.below(2) == 1 {
                let on = measure(true);
                [measure(false), on]
            } else {
                [measure(false), measure(true)]
            });
        }
    }
    // As it was at the start: no page, and the defaults.
    let at_rest = matches!(observed, Observed::Directives(_));
    turn(
        at_rest,
        observed,
        options.port + 1,
        &mut control,
        &mut pages,
    );
    print(title, &mut all, resident, server.memory("VmRSS"));
}

fn print(title: &str, all: &mut [Vec<[Figures; 2]>], resident: [f64; 2], in_the_end: f64) {
    println!(
        "\n| {title} | commands/s off | on | change, 95% | CPU of a command | PING p99, p99.9 off | on |"
    );
    println!("|---|---|---|---|---|---|---|");
    let page = [0, 1].map(|side| {
        let figures = all.iter().flatten().map(|pair| pair[side].page_percent);
        figures.sum::<f64>() / all.iter().flatten().count() as f64
    });
    let ratios = |pairs: &[[Figures; 2]], of: fn(&Figures) -> f64| -> Vec<f64> {
        pairs.iter().map(|[off, on]| of(on) / of(off)).collect()
    };
    let said = |ratios: &[f64]| {
        let (change, error) = change(ratios);
        format!("{change:+.2}% ± {error:.2}")
    };
    let figures: [fn(&Figures) -> f64; 2] = [|f| f.commands_per_second, |f| f.cpu_us];
    // The mean of the loads of a pair counts as one figure.
    let [speed, cpu] = figures.map(|of| {
        let by_load: Vec<Vec<f64>> = all.iter().map(|pairs| ratios(pairs, of)).collect();
        let mean = |pair: usize| {
            let logs: f64 = by_load.iter().map(|ratios| ratios[pair].ln()).sum();
            (logs / by_load.len() as f64).exp()
        };
        said(&(0..by_load[0].len()).map(mean).collect::<Vec<_>>())
    });
    for (load, pairs) in LOADS.iter().zip(all) {
        let mean = |side: usize| {
            let figures = pairs.iter().map(|pair| pair[side].commands_per_second);
            figures.sum::<f64>() / pairs.len() as f64
        };
        let (off, on) = (mean(0), mean(1));
        let [speed, cpu] = figures.map(|of| said(&ratios(pairs, of)));
        let [pings_off, pings_on] = [0, 1].map(|side: usize| {
            let sides = pairs.iter_mut().map(|pair| &mut pair[side].pings);
            let mut pings: Vec<f64> = sides.flat_map(std::mem::take).collect();
            let [p99, p999] = [0.99, 0.999].map(|share| percentile(&mut pings, share));
            format!("{p99:.0}, {p999:.0} µs")
        });
        println!(
            "| {} | {off:.0} | {on:.0} | {speed} | {cpu} | {pings_off} | {pings_on} |",
            load.name
        );
    }
    println!("| all of them | | | {speed} | {cpu} | | |");
    println!(
        "\nThe thread for pages: {:.2}% of a core off, {:.2}% on.",
        page[0], page[1]
    );
    println!(
        "Resident: {:.1} MB off, {:.1} MB on, {in_the_end:.1} MB in the end.",
        resident[0], resident[1],
    );
}

fn main() {
    let options = Options::read();
    assert!(options.unread < options.pages, "one page has to be read");
    let mut program = Command::new(built_server());
    program.args(["--http-port", &(options.port + 1).to_string()]);
    let server = Server::launch(program, options.port);
    fill(&server, options.keys);
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let given = options.directives.iter();
    let given: Vec<_> = given
        .map(|words| words.each_ref().map(String::as_str))
        .collect();
    let mut compare =
        |title, observed| compare(title, &observed, &server, &mut connections, &options);
    if given.is_empty() {
        compare(
            "what is observed by default",
            Observed::Directives(OBSERVATION.to_vec()),
        );
        let (count, unread) = (options.pages, options.unread);
        compare("open pages", Observed::Pages { count, unread });
    } else {
        compare("directives", Observed::Directives(given));
    }
}
