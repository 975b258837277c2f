//! Where all of the memory is, in ten states: starts a server, brings it into each of them, and compares the parts that
//! it measures with what the kernel says is resident.
//!
//! ```text
//! cargo build --release && cargo run --release -p slabkv-benches --example identity
//! ```
//!
//! What of the resident set has no name is the residue. The program prints the worst residue of some samples in each
//! state and fails if one is over 3% of the resident set and over 1 MiB. Options: `--server PATH` (default
//! `slabkv-server` of the same build), `--port N`, `--mb N` (size of the fills, 1024), `--clients N` (10000), `--samples N`
//! (1000, while four clients write to a nearly empty server). The state under a control group's limit needs the right to
//! make a group, and is left out without it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A residue within one of these is small.
const RESIDUE_BYTES_MAX: i64 = 1 << 20;
const RESIDUE_PERCENT_MAX: f64 = 3.0;

/// Samples in each state.
const SAMPLES: usize = 20;

/// Clients that write where there is load.
const WRITERS: u64 = 4;

/// Commands that are sent before their replies are read.
const PIPELINE: usize = 500;

struct Options {
    server: PathBuf,
    port: u16,
    mb: u64,
    clients: usize,
    samples: usize,
}

impl Options {
    fn from_args() -> Self {
        let program = std::env::current_exe().expect("the program's own path");
        let build = program.parent().and_then(Path::parent).expect("a folder");
        let mut options = Self {
            server: build.join("slabkv-server"),
            port: 7530,
            mb: 1024,
            clients: 10_000,
            samples: 1000,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().expect("a value behind each option");
            let number = || value.parse::<u64>().expect("a number");
            match name.as_str() {
                "--server" => options.server = value.into(),
                "--port" => options.port = number() as u16,
                "--mb" => options.mb = number(),
                "--clients" => options.clients = number() as usize,
                "--samples" => options.samples = number() as usize,
                _ => panic!("unknown option {name}"),
            }
        }
        options
    }
}

/// A server that ends with this.
struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(options: &Options) -> Self {
        let process = Command::new(&options.server)
            .args(["--port", &options.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--maxclients", &(options.clients + 100).to_string()])
            .args(["--activedefrag", "no"])
            .stdout(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut server = Self {
            process,
            port: options.port,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", server.port)).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            let ended = server.process.try_wait().expect("it is ours");
            assert!(ended.is_none(), "the server ended");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the server accepts");
        stream.set_nodelay(true).expect("a socket");
        Self(BufReader::with_capacity(1 << 16, stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("the server reads");
    }

    /// Reads a reply that is a line or a string.
    fn reply(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).expect("a reply");
        let text = std::str::from_utf8(&line).expect("text").trim_end();
        match text.as_bytes().first() {
            Some(b'$') if text != "$-1" => {
                let length: usize = text[1..].parse().expect("a length");
                let mut bytes = vec![0; length + 2];
                self.0.read_exact(&mut bytes).expect("the whole reply");
                bytes.truncate(length);
                bytes
            }
            Some(b'*' | b'%') => {
                let pairs = if text.starts_with('%') { 2 } else { 1 };
                let count: usize = text[1..].parse().expect("a number");
                (0..count * pairs).for_each(|_| drop(self.reply()));
                line
            }
            Some(b'-') | None => panic!("the server says {text:?}"),
            _ => line,
        }
    }

    /// Runs a command whose words are separated by blanks.
    fn run(&mut self, line: &str) -> Vec<u8> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut request = Vec::new();
        append(&mut request, &words);
        self.send(&request);
        self.reply()
    }

    /// Sends commands in pipelines and reads their replies.
    fn pipe(&mut self, count: u64, command: impl Fn(u64, &mut Vec<u8>)) {
        let mut request = Vec::new();
        let mut number = 0;
        while number < count {
            let end = (number + PIPELINE as u64).min(count);
            request.clear();
            (number..end).for_each(|number| command(number, &mut request));
            self.send(&request);
            (number..end).for_each(|_| drop(self.reply()));
            number = end;
        }
    }

    /// The figures of an INFO section.
    fn info(&mut self, section: &str) -> BTreeMap<String, f64> {
        let text = String::from_utf8(self.run(&format!("INFO {section}"))).expect("text");
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        fields
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect()
    }
}

fn append(request: &mut Vec<u8>, words: &[&[u8]]) {
    request.extend(format!("*{}\r\n", words.len()).bytes());
    for word in words {
        request.extend(format!("${}\r\n", word.len()).bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
}

/// Well mixed bits of a number.
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    bits ^= bits >> 32;
    bits = bits.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    bits ^ bits >> 29
}

/// The identity at one moment.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    resident: i64,
    residue: i64,
}

impl Sample {
    fn percent(&self) -> f64 {
        self.residue.abs() as f64 * 100.0 / self.resident.max(1) as f64
    }

    fn is_small(&self) -> bool {
        self.residue.abs() <= RESIDUE_BYTES_MAX || self.percent() <= RESIDUE_PERCENT_MAX
    }
}

/// The samples of one state.
#[derive(Debug, Default)]
struct State {
    /// The one with the largest residue.
    worst: Sample,
    /// The largest share.
    percent_max: f64,
    /// Whether a residue was over both bounds.
    is_large: bool,
    samples: usize,
    /// The sum of the residues without their signs.
    residues: u64,
    /// Resident bytes by the kernel's exact count less those that the server goes by, at the end.
    off: i64,
}

impl State {
    fn take(&mut self, client: &mut Client) {
        let info = client.info("memory");
        let part = |(name, bytes): (&String, &f64)| name.starts_with("mem_part_").then_some(*bytes);
        let sum: f64 = info.iter().filter_map(part).sum();
        let sample = Sample {
            resident: info["used_memory_rss"] as i64,
            residue: info["mem_part_residue"] as i64,
        };
        assert_eq!(sum as i64, sample.resident, "the parts do not add up");
        self.samples += 1;
        self.residues += sample.residue.unsigned_abs();
        self.percent_max = self.percent_max.max(sample.percent());
        self.is_large |= !sample.is_small();
        if sample.residue.abs() >= self.worst.residue.abs() {
            self.worst = sample;
        }
    }

    fn print(&self, name: &str) {
        let mb = |bytes: i64| bytes as f64 / f64::from(1 << 20);
        let Sample { resident, residue } = self.worst;
        println!(
            "| {name} | {:.1} | {:+.3} | {:.2}% | {:.3} | {:+.2} | {} |{}",
            mb(resident),
            mb(residue),
            self.percent_max,
            mb((self.residues / self.samples.max(1) as u64) as i64),
            mb(self.off),
            self.samples,
            if self.is_large { " **too large**" } else { "" }
        );
    }
}

/// What the kernel counts page by page as resident, in bytes.
fn counted_resident(pid: u32) -> i64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
    let line = text.lines().find(|line| line.starts_with("Rss:"));
    let kb = line.and_then(|line| line.split_whitespace().nth(1));
    kb.expect("Rss").parse::<i64>().expect("a number") * 1024
}

/// Takes the samples of a state and prints them; whether the residue is small.
fn look(name: &str, server: &Server, client: &mut Client, samples: usize) -> bool {
    let mut state = State::default();
    for _ in 0..samples {
        state.take(client);
        std::thread::sleep(Duration::from_millis(5));
    }
    finish(name, server, client, state)
}

fn finish(name: &str, server: &Server, client: &mut Client, mut state: State) -> bool {
    let exact = counted_resident(server.process.id());
    state.off = exact - client.info("memory")["used_memory_rss"] as i64;
    state.print(name);
    !state.is_large
}

/// What is done meanwhile on connections of its own, until the samples are taken.
fn meanwhile(server: &Server, work: impl Fn(u64, &mut Client) + Sync, samples: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (stop, work) = (&stop, &work);
            scope.spawn(move || {
                let mut client = server.client();
                let mut round = writer;
                while !stop.load(Ordering::Relaxed) {
                    work(round, &mut client);
                    round += WRITERS;
                }
            });
        }
        let _stop = Stop(&stop);
        samples();
    });
}

/// Writes and deletes keys of all sizes up to 1 KB.
fn write_some(round: u64, client: &mut Client) {
    let value = [b'x'; 1024];
    client.pipe(200, |number, request| {
        let bits = mixed(round * 200 + number);
        let key = format!("key:{}", bits >> 8 & 0x3fff);
        match number % 4 {
            0 => append(request, &[b"DEL", key.as_bytes()]),
            _ => append(
                request,
                &[b"SET", key.as_bytes(), &value[..(bits >> 54) as usize]],
            ),
        }
    });
}

/// Sends long pipelines without reading the replies before all of it is sent, and large values among them.
fn write_heavily(round: u64, client: &mut Client) {
    let value = [b'y'; 300];
    let large = vec![b'z'; 100_000];
    let mut request = Vec::new();
    for number in 0..4000 {
        let key = format!("heavy:{}", mixed(round * 4000 + number) & 0xffff);
        match number % 100 {
            0 => append(
                &mut request,
                &[b"SET", format!("large:{}", round & 63).as_bytes(), &large],
            ),
            n if n % 2 == 0 => append(&mut request, &[b"SET", key.as_bytes(), &value]),
            _ => append(&mut request, &[b"GET", key.as_bytes()]),
        }
    }
    let mut socket = client.0.get_ref().try_clone().expect("a second handle");
    std::thread::scope(|scope| {
        let request = &request;
        scope.spawn(move || socket.write_all(request).expect("the server reads"));
        (0..4000).for_each(|_| drop(client.reply()));
    });
}

/// A control group of this program's own, which is removed with it.
struct Group(PathBuf);

impl Group {
    /// A group whose memory is limited to so many bytes, and whether it is one of the first version; `None` where this
    /// program may not make one.
    fn new(limit: u64) -> Option<Self> {
        let name = format!("slabkv-identity-{}", std::process::id());
        let limits = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", "memory.max"),
        ];
        limits.into_iter().find_map(|(base, file)| {
            let group = Self(Path::new(base).join(&name));
            std::fs::create_dir(&group.0).ok()?;
            std::fs::write(group.0.join(file), limit.to_string()).ok()?;
            Some(group)
        })
    }

    fn add(&self, pid: u32) -> bool {
        std::fs::write(self.0.join("cgroup.procs"), pid.to_string()).is_ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn main() -> ExitCode {
    let options = Options::from_args();
    let bytes = options.mb << 20;
    println!(
        "| state | RSS MB | worst residue MB | worst share | mean MB | exact count - RSS MB | samples |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut well = true;

    let server = Server::start(&options);
    let mut client = server.client();
    client.run("PING");
    well &= look("empty", &server, &mut client, SAMPLES);

    // Small strings: an entry of 64 bytes takes some 94.
    const SMALL: [u8; 64] = [b's'; 64];
    let small = bytes / 94;
    client.pipe(small, |number, request| {
        append(
            request,
            &[b"SET", format!("small:{number}").as_bytes(), &SMALL],
        );
    });
    well &= look("small strings", &server, &mut client, SAMPLES);

    client.pipe(small, |number, request| {
        let key = format!("small:{number}");
        match mixed(number) % 10 {
            0 => append(request, &[b"EXISTS", key.as_bytes()]),
            _ => append(request, &[b"DEL", key.as_bytes()]),
        }
    });
    well &= look("after 90% random delete", &server, &mut client, SAMPLES);

    // Samples follow one another until compaction has come to its end.
    let mut state = State::default();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (server, done) = (&server, &done);
        scope.spawn(move || {
            server.client().run("MEMORY COMPACT NOW");
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) || state.samples < SAMPLES {
            state.take(&mut client);
        }
    });
    well &= finish("during compaction", &server, &mut client, state);
    well &= look("after compaction", &server, &mut client, SAMPLES);

    client.run("FLUSHALL");
    well &= look("after FLUSHALL", &server, &mut client, SAMPLES);

    let large = vec![b'l'; 256 << 10];
    client.pipe(bytes / (256 << 10), |number, request| {
        append(
            request,
            &[b"SET", format!("large:{number}").as_bytes(), &large],
        );
    });
    well &= look("large strings", &server, &mut client, SAMPLES);
    drop((client, server));

    let server = Server::start(&options);
    let mut client = server.client();
    let clients: Vec<Client> = (0..options.clients)
        .map(|_| {
            let mut client = server.client();
            client.run("PING");
            client
        })
        .collect();
    let name = format!("{} clients", clients.len());
    well &= look(&name, &server, &mut client, SAMPLES);
    drop((clients, client, server));

    let server = Server::start(&options);
    let mut client = server.client();
    meanwhile(&server, write_heavily, || {
        well &= look("heavy pipelines", &server, &mut client, SAMPLES * 5);
    });
    drop((client, server));

    let limit = (bytes / 4).max(64 << 20);
    match Group::new(limit) {
        None => println!("| under a cgroup's limit | left out: no right to make a group |"),
        Some(group) => {
            let server = Server::start(&options);
            assert!(group.add(server.process.id()), "the group takes no process");
            let mut client = server.client();
            client.run(&format!(
                "CONFIG SET maxmemory {} maxmemory-measure resident maxmemory-policy allkeys-lru",
                limit / 10 * 8
            ));
            client.pipe(limit / 94, |number, request| {
                append(
                    request,
                    &[b"SET", format!("small:{number}").as_bytes(), &SMALL],
                );
            });
            let name = format!("under a cgroup's limit of {} MB", limit >> 20);
            well &= look(&name, &server, &mut client, SAMPLES);
        }
    }

    let server = Server::start(&options);
    let mut client = server.client();
    meanwhile(&server, write_some, || {
        well &= look(
            "nearly empty, 4 writers",
            &server,
            &mut client,
            options.samples,
        );
    });
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
