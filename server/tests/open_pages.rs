//! A thousand open pages: each gets its events, commands are answered all the while, and what the pages take is
//! bounded and given back.

mod live;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use live::web::{connect, get, open_port};
use live::{Client, Server, info_field, ok};
use rustix::process::{Resource, getrlimit, setrlimit};

/// How many pages there are, if files allow.
const PAGES: u64 = 1000;

/// Clients that the server is told to expect.
const CLIENTS: u64 = 100;

/// Files that this process needs for other things.
const OWN_FILES: u64 = 64;

/// What one page may take: a buffer for what is read and one for what is written, each of at most 16 KiB, and its
/// records.
const PAGE_BYTES_MAX: f64 = 40e3;

/// What may stay when a page is closed: room in lists that grew for it.
const LEFT_BYTES_MAX: f64 = 256.0;

/// How many files a process may have; the limit is raised as far as that goes.
fn files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

fn number(client: &mut Client, field: &str) -> f64 {
    info_field(client, field).parse().expect("a number")
}

fn write(client: &mut Client, keys: usize) {
    for key in 0..keys {
        client.send(&["SET", &format!("key:{key}"), &"v".repeat(100)]);
    }
    for _ in 0..keys {
        assert_eq!(client.read(), ok());
    }
}

fn open(port: u16) -> TcpStream {
    let mut page = connect(port);
    page.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("it is taken");
    page
}

/// Reads on until so many events of a second have come.
fn read_seconds(page: &mut TcpStream, count: usize) {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let seconds = |text: &[u8]| {
        String::from_utf8_lossy(text)
            .matches("event: second")
            .count()
    };
    while seconds(&text) < count {
        let read = page.read(&mut buffer).expect("events go on");
        assert!(
            read > 0,
            "the page was closed: {}",
            String::from_utf8_lossy(&text)
        );
        text.extend_from_slice(&buffer[..read]);
    }
    let text = String::from_utf8_lossy(&text);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("event: hello\n"), "{text}");
}

#[test]
fn a_thousand_pages_get_their_events_and_disturb_nobody() {
    // The server sets files aside for its clients and itself, and keeps some connections free of pages.
    let files = files();
    let connections = files.saturating_sub(CLIENTS + 32).min(1100);
    let pages = PAGES
        .min(connections - (connections / 16).max(4))
        .min(files.saturating_sub(OWN_FILES));
    assert!(pages > 10, "{files} files are too few");
    let server = Server::start_with(&["--maxclients", &CLIENTS.to_string()]);
    let mut client = server.client();
    let port = open_port(&mut client);
    write(&mut client, 1000);
    // Whatever the first page and the first question need stays.
    read_seconds(&mut open(port), 1);
    get(port, "/metrics");
    let before = number(&mut client, "used_memory");

    let mut open: Vec<TcpStream> = (0..pages).map(|_| open(port)).collect();
    write(&mut client, 1000);
    for page in &mut open {
        read_seconds(page, 1);
    }
    write(&mut client, 1000);
    assert_eq!(get(port, "/healthz"), "ok\n");
    let each = (number(&mut client, "used_memory") - before) / pages as f64;
    assert!(
        each < PAGE_BYTES_MAX,
        "{each} bytes for each of {pages} pages"
    );

    drop(open);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let left = (number(&mut client, "used_memory") - before) / pages as f64;
        if left < LEFT_BYTES_MAX {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{left} bytes of each of {pages} pages stay"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    // And there is room again.
    read_seconds(&mut self::open(port), 1);
}
