//! A stock `redis-cli` and `redis-benchmark` against the real server.
//!
//! Where they are not installed the tests say so and pass, unless `SLABKV_REQUIRE_TOOLS` is set.

mod live;

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use live::Server;

/// Whether the tool is there; says so if not.
fn is_there(tool: &str) -> bool {
    let there = Command::new(tool)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !there {
        assert!(
            std::env::var_os("SLABKV_REQUIRE_TOOLS").is_none(),
            "{tool} is not installed"
        );
        eprintln!("passed over: {tool} is not installed");
    }
    there
}

/// What `redis-cli` prints when it is given these words and this input.
fn cli(server: &Server, words: &[&str], input: &[u8]) -> String {
    let mut process = Command::new("redis-cli")
        .arg("-s")
        .arg(server.socket())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli starts");
    let mut stdin = process.stdin.take().expect("it is piped");
    stdin.write_all(input).expect("redis-cli reads");
    drop(stdin);
    let output = process.wait_with_output().expect("redis-cli ends");
    assert!(output.status.success(), "redis-cli {words:?} failed");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn redis_cli_sets_scans_pipes_and_analyses() {
    if !is_there("redis-cli") {
        return;
    }
    let server = Server::start();
    assert_eq!(cli(&server, &["set", "greeting", "hello"], b""), "OK\n");
    assert_eq!(cli(&server, &["get", "greeting"], b""), "hello\n");
    assert_eq!(cli(&server, &["-3", "get", "absent"], b""), "\n");
    let load: String = (0..5000).map(|n| format!("SET n:{n} {n}\r\n")).collect();
    let said = cli(&server, &["--pipe"], load.as_bytes());
    assert!(said.contains("errors: 0, replies: 5000"), "{said}");
    let found = cli(&server, &["--scan", "--pattern", "n:*"], b"");
    let mut keys: Vec<&str> = found.lines().collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 5000);
    assert_eq!(found.lines().count(), 5000, "no key twice");
    cli(&server, &["set", "n:0", &"x".repeat(3000)], b"");
    let big = cli(&server, &["--bigkeys"], b"");
    assert!(big.contains("Sampled 5001 keys"), "{big}");
    assert!(
        big.contains("Biggest string found '\"n:0\"' has 3000 bytes"),
        "{big}"
    );
    // The greeting, 3000 bytes, and the digits of 1 to 4999.
    assert!(big.contains("5001 strings with 21894 bytes"), "{big}");
    let mem = cli(&server, &["--memkeys"], b"");
    let usage = cli(&server, &["memory", "usage", "n:0"], b"");
    let biggest = format!("Biggest string found '\"n:0\"' has {} bytes", usage.trim());
    assert!(mem.contains("Sampled 5001 keys"), "{mem}");
    assert!(mem.contains(&biggest), "{mem}");
    let policy = ["config", "set", "maxmemory-policy", "allkeys-lfu"];
    assert_eq!(cli(&server, &policy, b""), "OK\n");
    let hot = cli(&server, &["--hotkeys"], b"");
    assert!(hot.contains("hot key found with counter: "), "{hot}");
    let info = cli(&server, &["info", "keyspace"], b"");
    assert!(info.contains("db0:keys=5001,expires=0"), "{info}");
}

/// What `redis-cli` prints in a mode that goes on forever, as far as up to `end`.
fn cli_until(server: &Server, words: &[&str], end: impl Fn(&str) -> bool) -> String {
    let mut process = Command::new("redis-cli")
        .arg("-s")
        .arg(server.socket())
        .args(words)
        .stdout(Stdio::piped())
        .spawn()
        .expect("redis-cli starts");
    let mut stdout = process.stdout.take().expect("it is piped");
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !end(&text) {
        let count = stdout.read(&mut buffer).expect("redis-cli prints");
        text.push_str(std::str::from_utf8(&buffer[..count]).expect("ASCII"));
        let goes_on = count > 0 && text.len() < 1 << 20;
        assert!(goes_on, "redis-cli {words:?}: {text}");
    }
    process.kill().expect("it is ours");
    process.wait().expect("it is ours");
    text
}

#[test]
fn redis_cli_watches_keys_memory_and_latency() {
    if !is_there("redis-cli") {
        return;
    }
    let server = Server::start();
    let load: String = (0..5000).map(|n| format!("SET n:{n} {n}\r\n")).collect();
    cli(&server, &["--pipe"], load.as_bytes());
    // What it prints into a pipe comes some 40 lines at a time.
    let stat = cli_until(&server, &["--stat", "-i", "0.01"], |text| {
        text.lines().count() > 10
    });
    let mut lines = stat.lines().skip_while(|line| !line.starts_with("keys"));
    let head: Vec<&str> = lines.next().unwrap_or("").split_whitespace().collect();
    assert_eq!(
        head,
        [
            "keys",
            "mem",
            "clients",
            "blocked",
            "requests",
            "connections"
        ]
    );
    let row: Vec<&str> = lines.next().unwrap_or("").split_whitespace().collect();
    assert_eq!(row[0], "5000", "{stat}");
    assert!(row[1].ends_with(['K', 'M']), "{stat}");
    let number = |at: usize| row[at].parse::<u64>().expect("a number");
    assert!(number(2) >= 1 && number(4) >= 1, "{stat}");
    assert_eq!(row[3], "0", "{stat}");

    let latency = cli(&server, &["-i", "0.1", "--latency"], b"");
    let numbers: Vec<f64> = latency
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    let [min, max, average, samples] = numbers[..] else {
        panic!("{latency}");
    };
    assert!(
        min <= average && average <= max && samples > 0.0,
        "{latency}"
    );
    let words = ["--no-raw", "-i", "0.2", "--latency-history"];
    let history = cli_until(&server, &words, |text| {
        text.contains("seconds range") && text.contains("samples)")
    });
    assert!(history.contains("min: "), "{history}");
}

#[test]
fn redis_benchmark_runs_its_string_tests() {
    if !is_there("redis-benchmark") {
        return;
    }
    let server = Server::start();
    let output = Command::new("redis-benchmark")
        .arg("-s")
        .arg(server.socket())
        .args(["-t", "ping,set,get,incr,mset", "-n", "2000", "-r", "1000"])
        .args(["-P", "16", "--csv"])
        .output()
        .expect("redis-benchmark starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for test in [
        "PING_INLINE",
        "PING_MBULK",
        "SET",
        "GET",
        "INCR",
        "MSET (10 keys)",
    ] {
        assert!(text.contains(&format!("\"{test}\"")), "{test}: {text}");
    }
}
