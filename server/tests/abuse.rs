//! Clients that go on misbehaving, with several workers: nothing of them stays behind, and nobody else notices.

mod live;

use std::time::{Duration, Instant};

use live::{Client, Server, Value, bulk, error, info_field, int, ok};

const WORKERS: [&str; 2] = ["--io-threads", "4"];

/// Bytes that the server may hold more than before, once those who misbehaved are gone.
const LEFT_BYTES_MAX: i64 = 3 << 20;

fn number(client: &mut Client, name: &str) -> i64 {
    info_field(client, name).parse().expect("a number")
}

/// Waits until only `observer` is connected, and the resident memory is near what it was.
fn nothing_stays(observer: &mut Client, resident_before: i64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let clients = number(observer, "connected_clients");
        let resident = number(observer, "used_memory_rss");
        if clients == 1 && resident < resident_before + LEFT_BYTES_MAX {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{clients} clients, {resident} bytes resident, {resident_before} before"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(number(observer, "mem_clients_normal") < 64 << 10);
}

/// The server with an observer, after the first commands, and its resident memory.
fn begin(options: &[&str]) -> (Server, Client, i64) {
    let options: Vec<&str> = WORKERS.iter().chain(options).copied().collect();
    let server = Server::start_with(&options);
    let mut observer = server.client();
    let resident = number(&mut observer, "used_memory_rss");
    (server, observer, resident)
}

#[test]
fn ten_thousand_connections_leave_nothing_behind() {
    const CONNECTIONS: usize = 10_000;
    // As many at once as this process may have open files, with some to spare.
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let at_once = files
        .map_or(2500, |files| files as usize / 4)
        .clamp(50, 2500);
    let (server, mut observer, resident) = begin(&[]);
    let mut opened = 0;
    while opened < CONNECTIONS {
        let mut clients: Vec<Client> = (0..at_once.min(CONNECTIONS - opened))
            .map(|_| server.client())
            .collect();
        opened += clients.len();
        for (at, client) in clients.iter_mut().enumerate() {
            match at % 5 {
                0 => assert_eq!(client.run("PING"), Value::Simple("PONG".into())),
                1 => client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$70000\r\nhalf"),
                2 => client.send_raw(b"*1\r\n$"),
                3 => client.send(&["WATCH", "a", "b"]),
                _ => {}
            }
        }
    }
    assert_eq!(observer.run("EXISTS k"), int(0));
    assert!(number(&mut observer, "total_connections_received") >= CONNECTIONS as i64);
    nothing_stays(&mut observer, resident);
    assert_eq!(number(&mut observer, "total_watched_keys"), 0);
}

#[test]
fn clients_that_never_read_are_cut_off_and_their_replies_freed() {
    const SLOW: usize = 24;
    let (server, mut observer, _) = begin(&["--client-output-buffer-limit", "normal 4mb 0 0"]);
    let value = "v".repeat(1 << 20);
    assert_eq!(observer.call(&["SET", "big", &value]), ok());
    let resident = number(&mut observer, "used_memory_rss");
    let mut slow: Vec<Client> = (0..SLOW).map(|_| server.client()).collect();
    for client in &mut slow {
        for _ in 0..12 {
            client.try_send_raw(b"GET big\r\n");
        }
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let name = "client_output_buffer_limit_disconnections";
    while number(&mut observer, name) < SLOW as i64 {
        assert!(Instant::now() < deadline, "clients stay that never read");
        assert_eq!(observer.run("STRLEN big"), int(1 << 20));
    }
    nothing_stays(&mut observer, resident);
    drop(slow);
}

#[test]
fn large_requests_that_break_off_are_freed() {
    let (server, mut observer, resident) = begin(&[]);
    for _ in 0..4 {
        let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
        for client in &mut clients {
            client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$100000000\r\n");
            client.send_raw(&vec![b'x'; 2 << 20]);
        }
        assert!(number(&mut observer, "mem_clients_normal") > 0);
    }
    nothing_stays(&mut observer, resident);
    assert_eq!(observer.run("EXISTS k"), int(0));
}

#[test]
fn databases_that_do_not_exist_are_refused() {
    let (_server, mut client, _) = begin(&[]);
    let out_of_range = error("ERR DB index is out of range");
    let no_integer = error("ERR value is not an integer or out of range");
    client.expect(&[
        ("SELECT 16", out_of_range.clone()),
        ("SELECT -1", out_of_range.clone()),
        ("SELECT x", no_integer.clone()),
        (
            "SELECT 99999999999",
            error("ERR value is out of range, value must between -2147483648 and 2147483647"),
        ),
        ("SET k v", ok()),
        ("MOVE k 16", out_of_range.clone()),
        ("MOVE k x", no_integer),
        ("COPY k l DB 16", out_of_range.clone()),
        ("SWAPDB 0 16", out_of_range),
        ("SWAPDB a 0", error("ERR invalid first DB index")),
        ("SWAPDB 0 b", error("ERR invalid second DB index")),
        ("GET k", bulk("v")),
    ]);
}

#[test]
fn at_the_memory_limit_writes_are_refused_whole() {
    let (server, mut client, _) = begin(&[]);
    let value = "v".repeat(1000);
    for at in 0..2000 {
        assert_eq!(client.call(&["SET", &format!("key:{at}"), &value]), ok());
    }
    let used = number(&mut client, "used_memory").to_string();
    assert_eq!(
        client.call(&["CONFIG", "SET", "maxmemory", &used[..used.len() - 1]]),
        ok()
    );
    let oom = error("OOM command not allowed when used memory > 'maxmemory'.");
    let mut other = server.client();
    for client in [&mut client, &mut other] {
        client.expect(&[
            ("SET new v", oom.clone()),
            ("MSET new v key:1 changed", oom.clone()),
            ("MSETNX new v newer v", oom.clone()),
            ("APPEND key:1 more", oom.clone()),
            ("INCR new", oom.clone()),
            ("STRLEN key:1", int(1000)),
            ("EXISTS new newer", int(0)),
            ("MULTI", ok()),
            ("SET new v", oom.clone()),
            (
                "EXEC",
                error("EXECABORT Transaction discarded because of previous errors."),
            ),
            ("DBSIZE", int(2000)),
        ]);
    }
    assert_eq!(client.run("DEL key:0"), int(1));
    assert_eq!(client.run("CONFIG SET maxmemory 0"), ok());
    assert_eq!(client.run("SET new v"), ok());
}
