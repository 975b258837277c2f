//! A stock `redis-cli` and `redis-benchmark` against the real server.
//!
//! Where they are not installed the tests say so and pass, unless `SLABKV_REQUIRE_TOOLS` is set.

mod live;

use std::io::Write;
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
    let big = cli(&server, &["--bigkeys"], b"");
    assert!(big.contains("5001 strings"), "{big}");
    let mem = cli(&server, &["--memkeys"], b"");
    assert!(mem.contains("Sampled 5001 keys"), "{mem}");
    let info = cli(&server, &["info", "keyspace"], b"");
    assert!(info.contains("db0:keys=5001,expires=0"), "{info}");
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
