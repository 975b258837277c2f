//! A real server process for a test, and a client that speaks raw RESP to it.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod web;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A server that listens on a Unix socket of its own and runs until this is dropped.
pub(crate) struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    /// Starts a server with default options and waits until it answers.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same with a configuration file.
    pub(crate) fn start_with_file(file: &str) -> Self {
        Self::launch(&[file], &[])
    }

    /// The same with further command line words.
    pub(crate) fn start_with(options: &[&str]) -> Self {
        Self::launch(&[], options)
    }

    fn launch(first: &[&str], options: &[&str]) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("slabkv-test-{}-{number}.sock", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&socket);
        let process = Command::new(env!("CARGO_BIN_EXE_slabkv-server"))
            .args(first)
            .args(["--port", "0", "--unixsocket"])
            .arg(&socket)
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut server = Self { process, socket };
        let deadline = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(&server.socket).is_err() {
            let ended = server.process.try_wait().expect("the process is ours");
            assert_eq!(ended, None, "the server ended");
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// A new connection.
    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// Waits until the process ends by itself; whether it ended well.
    pub(crate) fn wait(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.process.try_wait().expect("the process is ours") {
                return status.success();
            }
            assert!(Instant::now() < deadline, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The Unix socket on which it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Number of the process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// A new connection of the `redis` crate.
    pub(crate) fn redis(&self) -> redis::Connection {
        let address = format!("unix://{}", self.socket.display());
        let client = redis::Client::open(address).expect("the address is valid");
        client.get_connection().expect("the server accepts")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// All fields of INFO.
pub(crate) fn info_texts(connection: &mut redis::Connection) -> HashMap<String, String> {
    let text: String = redis::cmd("INFO")
        .arg("everything")
        .query(connection)
        .expect("INFO");
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

/// The figures of INFO that are whole numbers.
pub(crate) fn info_numbers(connection: &mut redis::Connection) -> HashMap<String, i64> {
    let texts = info_texts(connection).into_iter();
    texts
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect()
}

/// A field of INFO.
pub(crate) fn info_field(client: &mut Client, name: &str) -> String {
    let info = client.run("INFO everything").text();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = line.unwrap_or_else(|| panic!("INFO has no {name}"));
    value.trim().to_owned()
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Null,
    NullArray,
    Array(Vec<Value>),
    Set(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

impl Value {
    /// The elements of an array.
    pub(crate) fn elements(&self) -> &[Value] {
        match self {
            Value::Array(elements) | Value::Set(elements) => elements,
            other => panic!("{other:?} is no array"),
        }
    }

    /// The text of a string of any kind.
    pub(crate) fn text(&self) -> String {
        match self {
            Value::Simple(text) | Value::Error(text) => text.clone(),
            Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{other:?} is no string"),
        }
    }

    /// The texts of an array of strings.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.elements().iter().map(Value::text).collect()
    }

    /// The texts of an array of strings, in order of the alphabet.
    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut texts = self.texts();
        texts.sort();
        texts
    }

    /// The number.
    pub(crate) fn integer(&self) -> i64 {
        match self {
            Value::Integer(value) => *value,
            other => panic!("{other:?} is no integer"),
        }
    }
}

pub(crate) fn ok() -> Value {
    Value::Simple("OK".into())
}

pub(crate) fn queued() -> Value {
    Value::Simple("QUEUED".into())
}

pub(crate) fn int(value: i64) -> Value {
    Value::Integer(value)
}

pub(crate) fn bulk(text: impl AsRef<[u8]>) -> Value {
    Value::Bulk(text.as_ref().to_vec())
}

pub(crate) fn error(text: &str) -> Value {
    Value::Error(text.into())
}

/// A connection.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the server accepts");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout");
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Sends bytes as they are.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream
            .get_mut()
            .write_all(bytes)
            .expect("the server reads");
    }

    /// Sends a command without waiting for the reply.
    pub(crate) fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            let arg = arg.as_ref();
            bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            bytes.extend_from_slice(arg);
            bytes.extend_from_slice(b"\r\n");
        }
        self.send_raw(&bytes);
    }

    /// Sends bytes as they are, as far as the server takes them; whether it took all.
    pub(crate) fn try_send_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.get_mut().write_all(bytes).is_ok()
    }

    /// Reads until the server closes the connection.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A connection that is reset is closed, too.
        let _ = self.stream.read_to_end(&mut bytes);
        bytes
    }

    /// Waits until the server closes the connection, without another byte; whether it does so in time.
    pub(crate) fn ends(&mut self) -> bool {
        self.stream
            .read_to_end(&mut Vec::new())
            .is_ok_and(|count| count == 0)
    }

    /// Whether the server has closed the connection.
    pub(crate) fn is_closed(&mut self) -> bool {
        !self.try_send_raw(b"PING\r\n") || self.read_to_end_is_empty()
    }

    fn read_to_end_is_empty(&mut self) -> bool {
        self.stream.fill_buf().map_or(true, <[u8]>::is_empty)
    }

    /// Sends a command and waits for the reply.
    pub(crate) fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        self.send(args);
        self.read()
    }

    /// Sends a command whose words are separated by blanks and waits for the reply.
    pub(crate) fn run(&mut self, line: &str) -> Value {
        self.call(&line.split(' ').collect::<Vec<_>>())
    }

    /// Runs each command of a script and compares its reply.
    pub(crate) fn expect(&mut self, script: &[(&str, Value)]) {
        for (line, expected) in script {
            assert_eq!(self.run(line), *expected, "{line}");
        }
    }

    /// The byte that names the type of the next reply, which stays unread.
    pub(crate) fn read_type(&mut self) -> u8 {
        let bytes = self.stream.fill_buf().expect("a reply");
        bytes[0]
    }

    /// Waits for a reply.
    pub(crate) fn read(&mut self) -> Value {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).expect("a reply");
        assert!(line.ends_with(b"\r\n"), "the connection was closed");
        let rest = String::from_utf8_lossy(&line[1..line.len() - 2]).into_owned();
        let number = || rest.parse::<i64>().expect("a number");
        let mut elements = |count: i64| (0..count).map(|_| self.read()).collect::<Vec<_>>();
        match line[0] {
            b'+' => Value::Simple(rest),
            b'-' => Value::Error(rest),
            b':' => Value::Integer(number()),
            b',' => Value::Bulk(rest.into_bytes()),
            b'_' => Value::Null,
            b'$' if rest == "-1" => Value::Null,
            b'*' if rest == "-1" => Value::NullArray,
            b'$' => {
                let mut bytes = vec![0; number() as usize + 2];
                self.stream
                    .read_exact(&mut bytes)
                    .expect("the whole string");
                bytes.truncate(bytes.len() - 2);
                Value::Bulk(bytes)
            }
            b'*' => Value::Array(elements(number())),
            b'~' => Value::Set(elements(number())),
            b'%' => {
                let flat = elements(2 * number());
                Value::Map(
                    flat.chunks(2)
                        .map(|pair| (pair[0].clone(), pair[1].clone()))
                        .collect(),
                )
            }
            b'=' => {
                // The format and a colon come before the text.
                let mut bytes = vec![0; number() as usize + 2];
                self.stream.read_exact(&mut bytes).expect("the whole text");
                Value::Bulk(bytes[4..bytes.len() - 2].to_vec())
            }
            other => panic!("unexpected reply type {:?}", other as char),
        }
    }
}
