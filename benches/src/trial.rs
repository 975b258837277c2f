//! Servers under trial: started, asked and watched from outside, the same way for all that speak RESP.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server under trial, which ends with this value.
#[derive(Debug)]
pub struct Server {
    process: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    /// Starts a command line, whose first words may set variables of the environment, and waits until the server
    /// answers. `--port` and `--bind` are added.
    ///
    /// # Panics
    /// The program does not start, or does not listen within 20 seconds.
    pub fn start(line: &str, port: u16) -> Self {
        let mut words = line.split_whitespace().peekable();
        let mut variables = Vec::new();
        while let Some(variable) = words.peek().and_then(|word| word.split_once('=')) {
            variables.push(variable);
            words.next();
        }
        let mut program = Command::new(words.next().expect("a program"));
        // An empty word is written as in a shell.
        let words = words.map(|word| word.trim_matches(['"', '\'']));
        program.envs(variables).args(words);
        Self::launch(program, port)
    }

    /// Starts a program and waits until the server answers. `--port` and `--bind` are added.
    ///
    /// # Panics
    /// The program does not start, or does not listen within 20 seconds.
    pub fn launch(mut program: Command, port: u16) -> Self {
        let process = program
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program:?}: {error}"));
        let mut server = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.process.try_wait().expect("the process is ours");
            assert_eq!(ended, None, "{program:?} ended");
            assert!(Instant::now() < deadline, "{program:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// What a file of `/proc/PID` says.
    ///
    /// # Panics
    /// The process has ended.
    pub fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.process.id())).expect("Linux")
    }

    /// A figure of `/proc/PID/status` in MB; 0 if there is none.
    pub fn memory(&self, name: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| {
            line.trim_matches(':')
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        });
        kib.map_or(0.0, |kib: f64| kib * 1024.0 / 1e6)
    }

    /// CPU time of all its threads so far, in microseconds.
    ///
    /// # Panics
    /// The process has ended.
    pub fn cpu_us(&self) -> f64 {
        self.cpu_us_of(|_| true)
    }

    /// CPU time so far of those of its threads whose name is wanted, in microseconds.
    ///
    /// # Panics
    /// The process has ended.
    pub fn cpu_us_of(&self, wanted: impl Fn(&str) -> bool) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).expect("Linux");
        let ns = tasks.map(|task| {
            let task = task.expect("Linux").path();
            // A thread may have ended meanwhile.
            let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
            if !wanted(read("comm").trim_end()) {
                return None;
            }
            read("schedstat").split(' ').next()?.parse::<f64>().ok()
        });
        ns.flatten().sum::<f64>() / 1e3
    }

    /// A new connection.
    ///
    /// # Panics
    /// The server does not accept it.
    pub fn connect(&self) -> Connection {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server listens");
        stream.set_nodelay(true).expect("TCP");
        let writer = stream.try_clone().expect("a socket");
        let reader = BufReader::with_capacity(64 << 10, stream);
        Connection { writer, reader }
    }
}

/// A connection to a server under trial. What it is sent must not be refused: an error as a reply is a panic.
#[derive(Debug)]
pub struct Connection {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Sends bytes as they are.
    ///
    /// # Panics
    /// The server has gone.
    pub fn send(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).expect("the server reads");
    }

    /// Reads a reply that is no array into `line`; the bytes of its value, if it has one.
    ///
    /// # Panics
    /// The reply is an error, or the server has gone.
    pub fn reply(&mut self, line: &mut Vec<u8>) -> Option<usize> {
        line.clear();
        self.reader.read_until(b'\n', line).expect("a reply");
        assert!(
            !line.is_empty() && line[0] != b'-',
            "{}",
            String::from_utf8_lossy(line)
        );
        if line[0] != b'$' || line[1] == b'-' {
            return None;
        }
        let digits = std::str::from_utf8(&line[1..line.len() - 2]).expect("digits");
        let bytes: usize = digits.parse().expect("a length");
        line.resize(bytes + 2, 0);
        self.reader.read_exact(line).expect("a value");
        Some(bytes)
    }

    /// Reads replies whose bytes are known in number.
    ///
    /// # Panics
    /// The server has gone.
    pub fn read_exact(&mut self, bytes: &mut [u8]) {
        self.reader.read_exact(bytes).expect("replies");
    }

    /// Runs a command whose words are separated by blanks, and which has no array as its reply; the reply without the
    /// mark of its type.
    ///
    /// # Errors
    /// The server's, in its words.
    ///
    /// # Panics
    /// The server has gone.
    pub fn run(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        command(&mut bytes, &words);
        self.send(&bytes);
        if self.reader.fill_buf().expect("a reply").first() == Some(&b'-') {
            bytes.clear();
            self.reader.read_until(b'\n', &mut bytes).expect("a reply");
            return Err(String::from_utf8_lossy(&bytes[1..]).trim_end().to_owned());
        }
        let from = usize::from(self.reply(&mut bytes).is_none());
        Ok(String::from_utf8_lossy(&bytes[from..])
            .trim_end()
            .to_owned())
    }
}

/// Appends a command as it is sent.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n", word.len());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Field of a text of INFO's form.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}

/// Builds slabkv's server as the program at hand was built, and says where it is: for examples, which Cargo runs.
///
/// # Panics
/// It does not build.
pub fn built_server() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "slabkv-server"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let built = build.status().expect("Cargo starts");
    assert!(built.success(), "the server does not build");
    let example = std::env::current_exe().expect("a path");
    let folder = example.parent().and_then(Path::parent).expect("a folder");
    folder.join("slabkv-server")
}

/// Random numbers, the same in each run: SplitMix64.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.number()) * limit as u128) >> 64) as usize
    }

    /// Brings elements into an order of chance.
    pub fn shuffle<T>(&mut self, elements: &mut [T]) {
        for end in (1..elements.len()).rev() {
            elements.swap(end, self.below(end + 1));
        }
    }
}
