//! HTTP: metrics, the history, who may ask, and those who misbehave.

mod live;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use live::web::{Response, connect, get, open_port, request};
use live::{Client, Server, Value, error, info_field, ok};

/// A number that INFO shows.
fn info(client: &mut Client, field: &str) -> f64 {
    info_field(client, field).parse().expect("a number")
}

/// Metrics by name with labels, as a parser of Prometheus's format reads them.
fn metrics(port: u16) -> BTreeMap<String, f64> {
    let body = get(port, "/metrics");
    assert!(body.ends_with("# EOF\n"));
    let lines = body.lines().map(|line| Ok(line.to_owned()));
    let scrape = prometheus_parse::Scrape::parse(lines).expect("metrics");
    let mut found = BTreeMap::new();
    for sample in scrape.samples {
        let labels: BTreeMap<_, _> = sample.labels.iter().collect();
        let labels: String = labels
            .iter()
            .map(|(name, value)| format!(",{name}={value}"))
            .collect();
        let value = match sample.value {
            prometheus_parse::Value::Counter(value)
            | prometheus_parse::Value::Gauge(value)
            | prometheus_parse::Value::Untyped(value) => value,
            prometheus_parse::Value::Histogram(buckets) => {
                let counts = buckets.iter().map(|bucket| bucket.count);
                let count = counts.fold(0.0, f64::max);
                found.insert(format!("{}_count{labels}", sample.metric), count);
                continue;
            }
            other => panic!("{}: {other:?}", sample.metric),
        };
        found.insert(format!("{}{labels}", sample.metric), value);
    }
    found
}

fn fill(client: &mut Client, keys: usize) {
    for key in 0..keys {
        client.send(&["SET", &format!("key:{key}"), &"v".repeat(100)]);
    }
    for _ in 0..keys {
        assert_eq!(client.read(), ok());
    }
}

#[test]
fn metrics_agree_with_info() {
    let server = Server::start_with(&["--activedefrag", "no"]);
    let mut client = server.client();
    let port = open_port(&mut client);
    fill(&mut client, 3000);
    client.run("EXPIRE key:1 1000");
    client.run("GET key:1");
    client.run("GET none");
    client.run("GETRANGE key:1 x y");
    let metrics = metrics(port);
    let value = |name: &str| {
        let value = metrics.get(name);
        *value.unwrap_or_else(|| panic!("no {name} in {:?}", metrics.keys()))
    };
    for (name, field) in [
        ("redis_memory_max_bytes", "maxmemory"),
        ("redis_max_clients", "maxclients"),
        ("redis_keyspace_hits_total", "keyspace_hits"),
        ("redis_keyspace_misses_total", "keyspace_misses"),
        (
            "redis_connections_received_total",
            "total_connections_received",
        ),
        ("redis_total_error_replies", "total_error_replies"),
        ("redis_connected_clients", "connected_clients"),
        ("redis_process_id", "process_id"),
        ("slabkv_compaction_victims_total", "compaction_victims"),
    ] {
        assert_eq!(value(name), info(&mut client, field), "{name}");
    }
    let dataset = info(&mut client, "used_memory_dataset");
    let ratio = value("redis_memory_used_dataset_bytes") / dataset;
    assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
    assert_eq!(value("redis_up"), 1.0);
    assert_eq!(value("redis_db_keys,db=db0"), 3000.0);
    assert_eq!(value("redis_db_keys_expiring,db=db0"), 1.0);
    assert_eq!(value("redis_commands_total,cmd=set"), 3000.0);
    assert_eq!(value("redis_commands_latencies_usec_count,cmd=set"), 3000.0);
    assert_eq!(value("redis_commands_failed_calls_total,cmd=getrange"), 1.0);
    assert_eq!(value("redis_errors_total,err=ERR"), 1.0);
    let parts = metrics
        .iter()
        .filter(|(name, _)| name.starts_with("slabkv_memory_part_bytes"));
    let sum: f64 = parts.map(|(_, bytes)| bytes).sum();
    assert_eq!(sum, value("redis_memory_used_rss_bytes"));

    // Each metric says what it is, and what it is measured in where its name does.
    let body = get(port, "/metrics");
    for line in body.lines().filter(|line| line.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(body.contains(&format!("# HELP {name} ")), "{name}");
        if name.ends_with("_bytes") {
            assert!(body.contains(&format!("# UNIT {name} bytes\n")), "{name}");
        }
    }
    let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
    let open = request(port, "GET /metrics", accept);
    assert!(open.head.contains("application/openmetrics-text"));
}

/// Whether a tool is installed; where tools are required, it has to be.
fn has(tool: &str) -> bool {
    let found = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    let required = std::env::var_os("SLABKV_REQUIRE_TOOLS").is_some();
    assert!(found || !required, "{tool} is required");
    if !found {
        eprintln!("passed over: there is no {tool}");
    }
    found
}

#[test]
fn the_exporter_of_prometheus_reads_the_server() {
    const EXPORTER: &str = "prometheus-redis-exporter";
    if !has(EXPORTER) {
        return;
    }
    let server = Server::start();
    let mut client = server.client();
    let port = open_port(&mut client);
    fill(&mut client, 500);
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = probe.local_addr().unwrap();
    drop(probe);
    let mut exporter = Command::new(EXPORTER)
        .arg(format!("-redis.addr=unix://{}", server.socket().display()))
        .arg(format!("-web.listen-address={address}"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "the exporter does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let theirs = get(address.port(), "/metrics");
    let ours = get(port, "/metrics");
    exporter.kill().unwrap();
    let mut said = String::new();
    exporter
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    exporter.wait().unwrap();
    assert!(!said.contains("level=error"), "{said}");
    assert!(theirs.contains("\nredis_up 1\n"), "{theirs}");
    assert!(
        theirs.contains("\nredis_exporter_last_scrape_error{err=\"\"} 0\n"),
        "{theirs}"
    );
    assert!(
        theirs.contains("\nredis_db_keys{db=\"db0\"} 500\n"),
        "{theirs}"
    );

    // Whatever the exporter makes of the server, the server's own metrics have under the same name; but not what is
    // about the exporter and its configuration, summaries, whose sums are elsewhere, and what it misreads.
    let names = |text: &str| -> std::collections::BTreeSet<String> {
        let lines = text.lines().filter(|line| line.starts_with("redis_"));
        lines
            .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
            .collect()
    };
    let ours = names(&ours);
    let missing: Vec<_> = names(&theirs)
        .into_iter()
        .filter(|name| !name.starts_with("redis_exporter_") && !name.starts_with("redis_target_"))
        .filter(|name| !name.starts_with("redis_latency_percentiles_usec_"))
        .filter(|name| !name.starts_with("redis_last_key_groups_"))
        .filter(|name| name != "redis_db_keys_cached" && name != "redis_db0_distrib_strings_sizes")
        .filter(|name| !ours.contains(name))
        .collect();
    assert_eq!(missing, Vec::<String>::new());
}

#[test]
fn passwords_hosts_and_actions_are_checked() {
    let server = Server::start();
    let mut client = server.client();
    let port = open_port(&mut client);
    let status = |line: &str, headers: &str| request(port, line, headers).status;
    assert_eq!(get(port, "/healthz"), "ok\n");
    assert_eq!(status("GET /", ""), 200);
    assert_eq!(status("GET /nothing", ""), 404);
    assert_eq!(status("DELETE /", ""), 405);
    assert_eq!(status("GET /purge", ""), 405);
    // A second Host line is no request; one that names somebody else is refused.
    let mut stream = connect(port);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
    // Actions need a directive, and a header that other sites' pages cannot send.
    let action = "x-slabkv-action: 1\r\nContent-Length: 0\r\n";
    assert_eq!(status("POST /purge", action), 403);
    assert_eq!(client.run("CONFIG SET http-actions yes"), ok());
    assert_eq!(status("POST /purge", "Content-Length: 0\r\n"), 403);
    let foreign = format!("Origin: http://evil.example\r\n{action}");
    assert_eq!(status("POST /purge", &foreign), 403);
    assert_eq!(status("POST /purge", action), 200);
    assert!(
        request(port, "POST /compact", action)
            .body
            .contains("\"moved_objects\":")
    );

    assert_eq!(
        client.run("CONFIG SET http-password s3cret http-actions no"),
        ok()
    );
    assert_eq!(get(port, "/healthz"), "ok\n");
    let refused = request(port, "GET /metrics", "");
    assert_eq!(refused.status, 401);
    assert!(
        refused
            .head
            .to_lowercase()
            .contains("www-authenticate: basic")
    );
    for wrong in [
        "Basic dTp4",
        "Bearer s3cre",
        "Bearer s3crets",
        "Bearer",
        "Basic ====",
        "x",
    ] {
        let header = format!("Authorization: {wrong}\r\n");
        assert_eq!(status("GET /events", &header), 401, "{wrong}");
    }
    assert_eq!(
        status("GET /metrics", "Authorization: Bearer s3cret\r\n"),
        200
    );
    // any:s3cret
    assert_eq!(
        status("GET /", "Authorization: Basic YW55OnMzY3JldA==\r\n"),
        200
    );
    assert_eq!(status("POST /purge", action), 401);
    let both = format!("Authorization: Bearer s3cret\r\n{action}");
    assert_eq!(status("POST /purge", &both), 200);

    // The log of slow commands does not tell the password, and the door closes.
    client.run("CONFIG SET slowlog-log-slower-than 0");
    client.run("CONFIG SET http-password other");
    assert!(!format!("{:?}", client.run("SLOWLOG GET")).contains("other"));
    assert_eq!(client.run("CONFIG SET http-port 0"), ok());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken
        .local_addr()
        .map(|address| (address.port(), taken))
        .unwrap();
    let refused = client.run(&format!("CONFIG SET http-port {}", taken.0));
    assert!(matches!(refused, Value::Error(text) if text.contains("Could not listen for HTTP")));
    assert_eq!(
        client.run("CONFIG GET http-port").texts(),
        ["http-port", "0"]
    );
}

#[test]
fn the_history_tells_what_happened() {
    let server = Server::start();
    let mut client = server.client();
    let port = open_port(&mut client);
    fill(&mut client, 2000);
    let sum = |client: &mut Client, figure: &str| {
        let reply = client.run("MEMORY HISTORY SECONDS 60");
        let figures = reply.elements()[5].elements().to_vec();
        let at = figures.iter().position(|name| *name == live::bulk(figure));
        let values = figures[at.expect("the figure") + 1].elements().to_vec();
        (
            values.len(),
            values.iter().map(Value::integer).sum::<i64>(),
            values.last().map_or(0, Value::integer),
        )
    };
    // The second has to end before it is shown.
    let deadline = Instant::now() + Duration::from_secs(60);
    while sum(&mut client, "commands").1 < 2000 {
        assert!(Instant::now() < deadline, "the commands do not show");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (rows, _, keys) = sum(&mut client, "keys");
    assert_eq!(keys, 2000);
    assert!((1..=60).contains(&rows));
    let (_, _, rss) = sum(&mut client, "rss");
    let now = info(&mut client, "used_memory_rss");
    assert!((rss as f64 / now - 1.0).abs() < 0.3, "{rss} against {now}");

    let history = get(port, "/history?seconds=60");
    let json: serde_json::Value = serde_json::from_str(&history).unwrap();
    let columns = json["figures"].as_object().unwrap();
    let rows = columns["rss"].as_array().unwrap().len();
    assert!(
        columns
            .values()
            .all(|values| values.as_array().unwrap().len() == rows)
    );
    assert!(rows >= 1 && json["step"] == 1);
    for wrong in [
        "second=60",
        "seconds",
        "seconds=",
        "seconds=0",
        "seconds=-1",
        "seconds=1.5",
        "minutes=5&seconds=5",
        "hours=3",
    ] {
        let response = request(port, &format!("GET /history?{wrong}"), "");
        assert_eq!(response.status, 400, "{wrong}");
        assert!(response.body.contains("/history?minutes=N"), "{response:?}");
    }
    let seconds = client.run("MEMORY HISTORY SECONDS 0");
    assert_eq!(seconds.elements()[5].elements()[1], Value::Array(vec![]));
    assert_eq!(
        client.run("MEMORY HISTORY MINUTES 5").elements()[3],
        live::int(60)
    );
    for wrong in ["SECONDS", "HOURS 3", "SECONDS 1 2"] {
        let wrong = client.run(&format!("MEMORY HISTORY {wrong}"));
        assert_eq!(wrong, error("ERR syntax error"));
    }
}

/// Requests that are none, or not whole, and what is to come of them: a status, or just the end.
const GARBAGE: &[(&[u8], Option<u16>)] = &[
    (b"\r\n\r\n\r\n", None),
    (b"*1\r\n$4\r\nPING\r\n", Some(400)),
    (b"GET\r\n\r\n", Some(400)),
    (b"GET / HTTP/9.9\r\n\r\n", Some(400)),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Some(400)),
    (
        b"POST /purge HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\nConnection: close\r\n\r\nzz\r\n",
        Some(403),
    ),
    (
        b"GET /events/../.. HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        Some(404),
    ),
    (
        b"GET /chunk?shard=99999999999999999999&chunk=-1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        Some(404),
    ),
    (
        b"GET /history?seconds=18446744073709551615 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        Some(200),
    ),
];

#[test]
fn garbage_and_slow_readers_disturb_nobody() {
    let server = Server::start();
    let mut client = server.client();
    let port = open_port(&mut client);
    fill(&mut client, 1000);
    for (bytes, expected) in GARBAGE {
        let mut stream = connect(port);
        // The server may end the connection while it still gets more.
        let _ = stream.write_all(bytes);
        if expected.is_none() {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
        assert!(
            status == *expected || expected.is_none(),
            "{:?} got {answer}",
            String::from_utf8_lossy(bytes)
        );
    }
    // A head without end is cut off well before it takes memory.
    let mut stream = connect(port);
    let _ = stream.write_all(b"GET / HTTP/1.1\r\n");
    let line = format!("X: {}\r\n", "x".repeat(1000));
    let sent = (0..10_000)
        .take_while(|_| stream.write_all(line.as_bytes()).is_ok())
        .count();
    assert!(sent < 10_000, "the server reads on and on");

    // Pages that are not read, and connections that say nothing, in great number.
    let before = info(&mut client, "used_memory");
    let mut pages = Vec::new();
    for _ in 0..200 {
        let mut page = connect(port);
        page.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        pages.push(page);
        pages.push(connect(port));
    }
    // One that is read gets its events, whatever the others do.
    let mut page = connect(port);
    page.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut read = Vec::new();
    while String::from_utf8_lossy(&read)
        .matches("event: second")
        .count()
        < 3
    {
        let mut buffer = [0; 4096];
        let count = page.read(&mut buffer).expect("events go on");
        assert!(count > 0, "the page was closed");
        read.extend_from_slice(&buffer[..count]);
    }
    let text = String::from_utf8_lossy(&read);
    assert!(
        text.contains("event: hello") && text.contains("event: tiles"),
        "{text}"
    );
    let used = info(&mut client, "used_memory");
    assert!(used - before < 10e6, "{} bytes for pages", used - before);
    assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
    assert_eq!(get(port, "/healthz"), "ok\n");
    // A new password ends pages that are open.
    assert_eq!(client.run("CONFIG SET http-password new"), ok());
    let mut rest = Vec::new();
    page.read_to_end(&mut rest).expect("the end of the page");
    drop(pages);
    let response: Response = request(port, "GET /events", "");
    assert_eq!(response.status, 401);
}

/// Requests that are broken at random come out of these.
const WHOLE: [&[u8]; 4] = [
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\nConnection: close\r\n\r\n",
    b"POST /purge HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /x HTTP/1.1\r\nHost: [::1]:80\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /history?seconds=10&minutes=%31 HTTP/1.0\r\nAuthorization: Basic eDp5\r\n\r\n",
];

#[test]
fn requests_broken_at_random_are_survived() {
    let server = Server::start();
    let mut client = server.client();
    let port = open_port(&mut client);
    let before = info(&mut client, "used_memory");
    let mut seed = 1_u64;
    let mut below = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize % limit
    };
    for _ in 0..400 {
        let mut bytes = WHOLE[below(WHOLE.len())].to_vec();
        for _ in 0..1 + below(4) {
            let at = below(bytes.len());
            match below(5) {
                0 => bytes[at] = below(256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => _ = bytes.splice(at..at, [b"\r\n", &b"\0\xff"[..]][below(2)].to_vec()),
                3 => bytes.extend_from_within(at..),
                _ => bytes.extend((0..below(300)).map(|_| below(256) as u8)),
            }
        }
        let mut stream = connect(port);
        // The server may end the connection while it still gets more.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1."),
            "{:?} got {answer}",
            String::from_utf8_lossy(&bytes)
        );
    }
    assert_eq!(get(port, "/healthz"), "ok\n");
    assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
    let used = info(&mut client, "used_memory");
    assert!(used - before < 4e6, "{} bytes are left", used - before);
}
