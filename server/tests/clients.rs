//! CLIENT, MONITOR, SLOWLOG and LATENCY across several workers, against the real server.

mod live;

use std::time::{Duration, Instant};

use live::{Client, Server, Value, bulk, error, int, ok};

const WORKERS: &[&str] = &["--io-threads", "3"];

/// Clients of all workers: connections go to the worker with the fewest.
fn clients(server: &Server, count: usize) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..count).map(|_| server.client()).collect();
    for client in &mut clients {
        assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
    }
    clients
}

fn field(line: &str, name: &str) -> String {
    let prefix = format!("{name}=");
    let found = line.split(' ').find_map(|word| word.strip_prefix(&prefix));
    found
        .unwrap_or_else(|| panic!("no {name} in {line}"))
        .to_owned()
}

#[test]
fn clients_of_all_workers_are_listed_and_named() {
    let server = Server::start_with(WORKERS);
    let mut clients = clients(&server, 7);
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.run(&format!("CLIENT SETNAME c{at}")), ok());
        assert_eq!(client.run(&format!("SELECT {at}")), ok());
    }
    let list = clients[0].run("CLIENT LIST").text();
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 7);
    for (at, line) in lines.iter().enumerate() {
        assert_eq!(
            (field(line, "name"), field(line, "db")),
            (format!("c{at}"), at.to_string())
        );
    }
    let workers: std::collections::BTreeSet<String> =
        lines.iter().map(|line| field(line, "io-thread")).collect();
    assert_eq!(workers.len(), 3);
    let id = clients[3].run("CLIENT ID").integer();
    let one = clients[0].run(&format!("CLIENT LIST ID {id} 99999")).text();
    assert_eq!(field(&one, "name"), "c3");
    assert_eq!(clients[0].run("CLIENT LIST TYPE replica").text(), "");
    clients[0].expect(&[
        ("CLIENT GETNAME", bulk("c0")),
        ("CLIENT SETINFO lib-name mine", ok()),
        ("CLIENT LIST TYPE x", error("ERR Unknown client type 'x'")),
        ("CLIENT LIST ID x", error("ERR Invalid client ID")),
        ("CLIENT UNBLOCK 1", int(0)),
        ("CLIENT NO-TOUCH maybe", error("ERR syntax error")),
    ]);
    assert_eq!(
        field(&clients[0].run("CLIENT INFO").text(), "lib-name"),
        "mine"
    );
}

#[test]
fn clients_of_any_worker_can_be_killed() {
    let server = Server::start_with(WORKERS);
    let mut clients = clients(&server, 6);
    let id = clients[4].run("CLIENT ID").integer();
    assert_eq!(clients[0].run(&format!("CLIENT KILL ID {id}")), int(1));
    assert!(clients[4].is_closed());
    assert_eq!(clients[0].run(&format!("CLIENT KILL ID {id}")), int(0));
    assert_eq!(clients[0].run("CLIENT KILL TYPE normal SKIPME yes"), int(4));
    assert_eq!(clients[0].run("CLIENT LIST").text().lines().count(), 1);
    for at in [1, 2, 3, 5] {
        assert!(clients[at].is_closed(), "{at}");
    }
    assert_eq!(clients[0].run("CLIENT KILL SKIPME no"), int(1));
    assert!(clients[0].read_to_end().is_empty());
}

#[test]
fn a_pause_holds_writers_of_all_workers_until_it_ends() {
    let server = Server::start_with(WORKERS);
    let mut clients = clients(&server, 6);
    assert_eq!(clients[0].run("SET a before"), ok());
    assert_eq!(clients[0].run("CLIENT PAUSE 60000 WRITE"), ok());
    for (at, client) in clients.iter_mut().enumerate().skip(1) {
        client.send(&["GET", "a"]);
        client.send(&["SET", &format!("k{at}"), "x"]);
        client.send(&["GET", "a"]);
    }
    for client in &mut clients[1..] {
        assert_eq!(client.read(), bulk("before"));
    }
    let began = Instant::now();
    while !clients[0]
        .run("INFO clients")
        .text()
        .contains("blocked_clients:5\r\n")
    {
        assert!(began.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(clients[0].run("EXISTS k1 k2 k3 k4 k5"), int(0));
    assert_eq!(clients[0].run("CLIENT UNPAUSE"), ok());
    for client in &mut clients[1..] {
        assert_eq!((client.read(), client.read()), (ok(), bulk("before")));
    }
    assert_eq!(clients[0].run("EXISTS k1 k2 k3 k4 k5"), int(5));
}

/// While clients wait, readers do not see a key whose time has come, but nothing removes it, as in Redis.
#[test]
fn a_pause_keeps_keys_whose_time_has_come() {
    let server = Server::start_with(WORKERS);
    let mut clients = clients(&server, 2);
    let figure = |client: &mut live::Client, name: &str| -> i64 {
        live::info_field(client, name).parse().expect("a number")
    };
    // Until the key is still there when the pause has begun, however slow the machine is.
    loop {
        clients[0].expect(&[("CONFIG RESETSTAT", ok())]);
        clients[1].expect(&[
            ("SET k v PX 100", ok()),
            ("WATCH k", ok()),
            ("MULTI", ok()),
            ("GET k", live::queued()),
        ]);
        assert_eq!(clients[0].run("CLIENT PAUSE 60000 WRITE"), ok());
        if clients[0].run("EXISTS k") == int(1) {
            break;
        }
        clients[1].expect(&[("DISCARD", ok())]);
        clients[0].expect(&[("CLIENT UNPAUSE", ok()), ("EXISTS k", int(0))]);
    }
    std::thread::sleep(Duration::from_millis(400));
    clients[0].expect(&[
        ("GET k", Value::Null),
        ("EXISTS k", int(0)),
        ("TTL k", int(-2)),
        ("TYPE k", Value::Simple("none".into())),
        ("OBJECT ENCODING k", Value::Null),
        ("KEYS *", Value::Array(Vec::new())),
        ("DBSIZE", int(1)),
        ("RANDOMKEY", bulk("k")),
    ]);
    assert_eq!(figure(&mut clients[0], "expired_keys"), 0);
    // The key that was watched is as good as gone.
    assert_eq!(clients[1].run("EXEC"), Value::NullArray);
    clients[1].send(&["SETNX", "k", "new"]);
    assert_eq!(clients[0].run("CLIENT UNPAUSE"), ok());
    assert_eq!(clients[1].read(), int(1));
    assert_eq!(clients[0].run("GET k"), bulk("new"));
    assert_eq!(figure(&mut clients[0], "expired_keys"), 1);
}

#[test]
fn a_pause_ends_by_itself() {
    let server = Server::start_with(WORKERS);
    let mut clients = clients(&server, 3);
    let began = Instant::now();
    assert_eq!(clients[0].run("CLIENT PAUSE 300"), ok());
    for client in &mut clients {
        client.send(&["PING"]);
    }
    for client in &mut clients {
        assert_eq!(client.read(), Value::Simple("PONG".into()));
    }
    // The server counts from the millisecond that had begun. That it ends at all the client's own patience says.
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(299), "{waited:?}");
}

#[test]
fn replies_can_be_turned_off_and_skipped() {
    let server = Server::start();
    let mut client = server.client();
    client.send_raw(b"CLIENT REPLY SKIP\r\nPING a\r\nPING b\r\n");
    assert_eq!(client.read(), bulk("b"));
    client.send_raw(b"CLIENT REPLY OFF\r\nPING a\r\nNONSENSE\r\nCLIENT REPLY ON\r\nPING c\r\n");
    assert_eq!((client.read(), client.read()), (ok(), bulk("c")));
}

#[test]
fn monitors_see_commands_of_all_workers_without_secrets() {
    let server = Server::start_with(WORKERS);
    let mut monitor = server.client();
    assert_eq!(monitor.run("MONITOR"), ok());
    for mut client in clients(&server, 4) {
        assert_eq!(client.run("SET k v"), ok());
        client.run("AUTH user hidden");
        client.run("CONFIG SET requirepass hidden");
        client.run("CONFIG SET requirepass \"\"");
    }
    let mut seen = String::new();
    let mut sets = 0;
    while sets < 4 {
        let line = monitor.read().text();
        sets += usize::from(line.ends_with("\"SET\" \"k\" \"v\""));
        seen.push_str(&line);
        seen.push('\n');
    }
    assert!(!seen.contains("hidden"), "{seen}");
    assert!(
        seen.contains("\"AUTH\" \"(redacted)\" \"(redacted)\""),
        "{seen}"
    );
}

#[test]
fn slow_commands_are_logged_and_their_delays_watched() {
    // Any command is slow on a machine that is busy enough: both logs are on for one alone.
    let off = "CONFIG SET slowlog-log-slower-than 1000000000 latency-monitor-threshold 1000000";
    let server = Server::start_with(&["--enable-debug-command", "yes"]);
    let mut client = server.client();
    client.run("CLIENT SETNAME sleeper");
    assert_eq!(client.run(off), ok());
    assert_eq!(client.run("SLOWLOG RESET"), ok());
    client.run("LATENCY RESET");
    let on = "CONFIG SET slowlog-log-slower-than 10000 latency-monitor-threshold 20";
    assert_eq!(client.run(on), ok());
    client.send_raw(format!("DEBUG SLEEP 0.06\r\n{off}\r\n").as_bytes());
    assert_eq!((client.read(), client.read()), (ok(), ok()));
    let entries = client.run("SLOWLOG GET");
    let of_debug = |entry: &&Value| entry.elements()[3].texts()[0] == "DEBUG";
    let slept: Vec<&Value> = entries.elements().iter().filter(of_debug).collect();
    let [entry] = slept[..] else {
        panic!("{entries:?}");
    };
    let entry = entry.elements();
    assert!(entry[2].integer() >= 50_000, "{entry:?}");
    assert_eq!(entry[3].texts(), ["DEBUG", "SLEEP", "0.06"]);
    assert_eq!(entry[5], bulk("sleeper"));
    let latest = client.run("LATENCY LATEST");
    let mut events = latest.elements().iter().map(Value::elements);
    let event = events.find(|event| event[0] == bulk("command"));
    let event = event.unwrap_or_else(|| panic!("{latest:?}"));
    // Milliseconds, whatever else the machine did meanwhile.
    assert!((50..20_000).contains(&event[3].integer()), "{event:?}");
    assert!(
        client
            .run("LATENCY GRAPH command")
            .text()
            .starts_with("command - high ")
    );
    let diagnosis = client.run("LATENCY DOCTOR").text();
    assert!(diagnosis.contains("\ncommand: "), "{diagnosis}");
    let histogram = client.run("LATENCY HISTOGRAM debug");
    assert_eq!(histogram.elements()[0], bulk("debug"));
    client.expect(&[
        ("SLOWLOG LEN", int(entries.elements().len() as i64)),
        ("SLOWLOG RESET", ok()),
        ("SLOWLOG LEN", int(0)),
        (
            "SLOWLOG GET -2",
            error("ERR count should be greater than or equal to -1"),
        ),
        ("LATENCY RESET", int(latest.elements().len() as i64)),
        (
            "LATENCY GRAPH command",
            error("ERR No samples available for event 'command'"),
        ),
    ]);
}

#[test]
fn idle_clients_are_closed_when_the_timeout_says_so() {
    let server = Server::start_with(&["--timeout", "1"]);
    let began = Instant::now();
    let mut idle = server.client();
    assert_eq!(idle.run("PING"), Value::Simple("PONG".into()));
    assert!(idle.ends(), "the server keeps an idle client");
    let waited = began.elapsed();
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
}

#[test]
fn info_counts_what_happened() {
    let server = Server::start_with(WORKERS);
    let mut clients = clients(&server, 4);
    clients[0].run("CONFIG RESETSTAT");
    for client in &mut clients {
        client.run("SET a 1");
        client.run("GET a");
        client.run("GET missing");
        client.run("GET");
        client.run("INCRBY a x");
    }
    let info = clients[0].run("INFO everything").text();
    for line in [
        "cmdstat_set:calls=4,",
        "rejected_calls=4,failed_calls=0",
        "rejected_calls=0,failed_calls=4",
        "errorstat_ERR:count=8",
        "keyspace_hits:4\r\n",
        "keyspace_misses:4\r\n",
        "connected_clients:4\r\n",
        "db0:keys=1,expires=0,avg_ttl=0,subexpiry=0\r\n",
        "mem_allocator:",
        "latency_percentiles_usec_get:p50=",
    ] {
        assert!(info.contains(line), "no {line} in {info}");
    }
    let sections = info.lines().filter(|line| line.starts_with("# ")).count();
    assert_eq!(sections, 16);
    assert!(
        clients[0]
            .run("INFO replication")
            .text()
            .contains("role:master\r\n")
    );
    assert_eq!(clients[0].run("INFO nonsense").text(), "");
}
