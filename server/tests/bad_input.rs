//! What clients can do wrong: each gets Redis's error or the close that Redis does, and no other client notices.

mod live;

use std::time::{Duration, Instant};

use live::{Client, Server, Value, bulk, error, ok};

/// The server still answers, and its data is what it was.
fn is_well(server: &Server) {
    let mut client = server.client();
    assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
}

/// Waits until so many clients are connected, the observer included.
fn only_these_are_left(observer: &mut Client, count: usize) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let left = observer.run("CLIENT LIST").text().lines().count();
        if left == count {
            break;
        }
        assert!(Instant::now() < deadline, "{left} clients, not {count}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn malformed_requests_are_answered_and_the_connection_closed() {
    let server = Server::start();
    let long = "x".repeat(70_000);
    let cases = [
        ("*x\r\n".to_owned(), "invalid multibulk length"),
        ("*2147483648\r\n".to_owned(), "invalid multibulk length"),
        ("*1\r\nfoo\r\n".to_owned(), "expected '$', got 'f'"),
        ("*1\r\n$-1\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$999999999999\r\n".to_owned(), "invalid bulk length"),
        ("*1\r\n$1x\r\n".to_owned(), "invalid bulk length"),
        ("set \"a b\r\n".to_owned(), "unbalanced quotes in request"),
        (long.clone(), "too big inline request"),
        (format!("*{long}"), "too big mbulk count string"),
        (format!("*1\r\n${long}"), "too big bulk count string"),
    ];
    for (request, reason) in cases {
        let mut client = server.client();
        // The server may close before it has taken all of it.
        client.try_send_raw(request.as_bytes());
        let reply = String::from_utf8(client.read_to_end()).unwrap();
        assert_eq!(
            reply,
            format!("-ERR Protocol error: {reason}\r\n"),
            "{:.20}",
            request
        );
    }
    is_well(&server);
}

#[test]
fn commands_before_a_malformed_one_are_run() {
    let server = Server::start();
    let mut client = server.client();
    client.send_raw(b"SET a 1\r\n*1\r\n$3\r\nGET\r\n*1\r\nx\r\nSET a 2\r\n");
    let reply = String::from_utf8(client.read_to_end()).unwrap();
    assert_eq!(
        reply,
        "+OK\r\n-ERR wrong number of arguments for 'get' command\r\n\
         -ERR Protocol error: expected '$', got 'x'\r\n"
    );
    assert_eq!(server.client().run("GET a"), bulk("1"));
}

#[test]
fn a_command_may_come_byte_by_byte() {
    let server = Server::start();
    let mut client = server.client();
    for byte in b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nhello\r\nGET k\r\n" {
        client.send_raw(&[*byte]);
        std::thread::sleep(Duration::from_micros(200));
    }
    assert_eq!((client.read(), client.read()), (ok(), bulk("hello")));
}

#[test]
fn large_and_binary_values_come_back_as_they_were() {
    let server = Server::start();
    let mut client = server.client();
    for size in [
        0,
        1,
        16_383,
        16_384,
        65_535,
        65_536,
        70_000,
        1 << 20,
        33 << 20,
    ] {
        let value: Vec<u8> = (0..size).map(|at| (at * 31 % 251) as u8).collect();
        assert_eq!(client.call(&[b"SET", &b"big"[..], &value]), ok());
        assert!(client.run("GET big") == bulk(&value), "{size}");
    }
    let many: Vec<String> = (0..100_000).map(|number| format!("key:{number}")).collect();
    let mut command = vec!["EXISTS"];
    command.extend(many.iter().map(String::as_str));
    assert_eq!(client.call(&command), Value::Integer(0));
}

#[test]
fn an_argument_over_the_limit_is_refused_as_soon_as_it_is_announced() {
    let server = Server::start_with(&["--proto-max-bulk-len", "2mb"]);
    let mut client = server.client();
    let value = vec![b'v'; 2 << 20];
    assert_eq!(client.call(&[b"SET", &b"a"[..], &value]), ok());
    client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2097153\r\n");
    let reply = String::from_utf8(client.read_to_end()).unwrap();
    assert_eq!(reply, "-ERR Protocol error: invalid bulk length\r\n");
    is_well(&server);
}

#[test]
fn an_announcement_alone_takes_no_memory() {
    let server = Server::start();
    let mut clients: Vec<Client> = (0..50).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send_raw(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\nabc");
    }
    let mut observer = server.client();
    std::thread::sleep(Duration::from_millis(200));
    let info = observer.run("INFO memory").text();
    let rss = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory_rss:"))
        .unwrap();
    assert!(rss.trim().parse::<u64>().unwrap() < 64 << 20, "{rss}");
}

#[test]
fn a_query_over_the_limit_closes_the_connection() {
    let server = Server::start_with(&["--client-query-buffer-limit", "1mb"]);
    let mut client = server.client();
    let value = vec![b'v'; 3 << 20];
    let mut request = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$3145728\r\n".to_vec();
    request.extend_from_slice(&value);
    client.try_send_raw(&request);
    assert!(client.read_to_end().is_empty());
    let info = server.client().run("INFO stats").text();
    assert!(info.contains("client_query_buffer_limit_disconnections:1\r\n"));
}

#[test]
fn replies_of_a_client_that_is_cut_off_reach_nobody_else() {
    let server = Server::start_with(&[
        "--client-output-buffer-limit",
        "normal 100000 0 0",
        "--io-threads",
        "1",
    ]);
    let mut client = server.client();
    let value = "s".repeat(200_000);
    assert_eq!(client.call(&["SET", "secret", &value]), ok());
    client.send(&["GET", "secret"]);
    assert!(client.read_to_end().is_empty());
    assert_eq!(server.client().run("PING"), Value::Simple("PONG".into()));
    let info = server.client().run("INFO stats").text();
    assert!(info.contains("client_output_buffer_limit_disconnections:1\r\n"));
}

#[test]
fn a_client_that_never_reads_holds_nobody_up_and_is_cut_off_by_the_soft_limit() {
    let server = Server::start_with(&[
        "--client-output-buffer-limit",
        "normal 0 1mb 1",
        "--io-threads",
        "1",
    ]);
    let mut slow = server.client();
    let value = "v".repeat(1 << 20);
    assert_eq!(slow.call(&["SET", "big", &value]), ok());
    for _ in 0..8 {
        slow.send(&["GET", "big"]);
    }
    let mut other = server.client();
    let deadline = Instant::now() + Duration::from_secs(60);
    while other.run("CLIENT LIST").text().lines().count() == 2 {
        assert_eq!(other.run("PING"), Value::Simple("PONG".into()));
        assert!(Instant::now() < deadline, "the slow client is still there");
        std::thread::sleep(Duration::from_millis(25));
    }
}

#[test]
fn replies_wait_for_a_client_that_reads_late() {
    let server = Server::start();
    let mut client = server.client();
    let value = "v".repeat(1 << 20);
    assert_eq!(client.call(&["SET", "big", &value]), ok());
    for _ in 0..20 {
        client.send(&["GET", "big"]);
    }
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..20 {
        assert!(client.read() == bulk(&value));
    }
    assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
}

#[test]
fn connections_beyond_the_limit_are_told_so() {
    let server = Server::start_with(&["--maxclients", "5"]);
    // The connection that found the server listening may still be counted for a moment.
    let mut first = server.client();
    only_these_are_left(&mut first, 1);
    let mut clients: Vec<Client> = (0..4).map(|_| server.client()).collect();
    clients.push(first);
    for client in &mut clients {
        assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
    }
    let mut sixth = server.client();
    assert_eq!(
        sixth.read_to_end(),
        b"-ERR max number of clients reached\r\n"
    );
    drop(clients.swap_remove(0));
    only_these_are_left(&mut clients[0], 4);
    is_well(&server);
}

#[test]
fn thousands_of_connections_come_and_go_without_a_trace() {
    let server = Server::start();
    let mut observer = server.client();
    for round in 0..40 {
        let mut clients: Vec<Client> = (0..100).map(|_| server.client()).collect();
        for (at, client) in clients.iter_mut().enumerate() {
            match at % 4 {
                0 => assert_eq!(client.run("PING"), Value::Simple("PONG".into())),
                1 => client.send_raw(b"*2\r\n$3\r\nGET\r\n$100\r\nab"),
                2 => client.send(&["WATCH", "a", "b"]),
                _ => {}
            }
        }
        drop(clients);
        assert_eq!(
            observer.run("PING"),
            Value::Simple("PONG".into()),
            "{round}"
        );
    }
    only_these_are_left(&mut observer, 1);
    let info = observer.run("INFO clients").text();
    assert!(info.contains("total_watched_keys:0\r\n"), "{info}");
}

#[test]
fn a_password_guards_everything_but_the_way_in() {
    let server = Server::start_with(&["--requirepass", "secret"]);
    let mut client = server.client();
    let no_auth = error("NOAUTH Authentication required.");
    let wrong = error("WRONGPASS invalid username-password pair or user is disabled.");
    client.expect(&[
        ("PING", no_auth.clone()),
        ("GET a", no_auth.clone()),
        ("AUTH wrong", wrong.clone()),
        ("AUTH other secret", wrong.clone()),
        ("AUTH secret", ok()),
        ("SET a 1", ok()),
        ("RESET", Value::Simple("RESET".into())),
        ("GET a", no_auth),
        ("AUTH default secret", ok()),
        ("GET a", bulk("1")),
    ]);
    let mut stranger = server.client();
    stranger.send_raw(b"*11\r\n");
    assert_eq!(
        stranger.read_to_end(),
        b"-ERR Protocol error: unauthenticated multibulk length\r\n"
    );
    let mut stranger = server.client();
    stranger.send_raw(b"*2\r\n$4\r\nAUTH\r\n$20000\r\n");
    assert_eq!(
        stranger.read_to_end(),
        b"-ERR Protocol error: unauthenticated bulk length\r\n"
    );
    let mut stranger = server.client();
    stranger.send_raw(b"HELLO 3 AUTH default secret SETNAME me\r\nCLIENT GETNAME\r\n");
    assert!(matches!(stranger.read(), Value::Map(_)));
    assert_eq!(stranger.read(), bulk("me"));
}
