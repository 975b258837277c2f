//! Counters and events of expiry, eviction, compaction and background freeing, against the real server.

mod live;

use std::time::{Duration, Instant};

use live::web::{get, open_port};
use live::{Client, Server, info_field, int, ok};

fn number(client: &mut Client, name: &str) -> u64 {
    let text = info_field(client, name);
    text.parse()
        .unwrap_or_else(|_| panic!("{name} is {text:?}"))
}

/// Waits until a field of INFO is as wanted.
fn wait_for(client: &mut Client, name: &str, wanted: impl Fn(u64) -> bool) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let value = number(client, name);
        if wanted(value) {
            return value;
        }
        assert!(Instant::now() < deadline, "{name} stays at {value}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sets `count` keys to values of so many bytes, with these further words.
fn fill(client: &mut Client, count: usize, value_bytes: usize, options: &[&str]) {
    let value = "v".repeat(value_bytes);
    for at in 0..count {
        let key = format!("key:{at}");
        let mut words = vec!["SET", &key, &value];
        words.extend_from_slice(options);
        client.send(&words);
        if at % 1000 == 999 || at + 1 == count {
            for _ in 0..at % 1000 + 1 {
                assert_eq!(client.read(), ok());
            }
        }
    }
}

#[test]
fn expiry_says_what_it_took() {
    let server = Server::start_with(&["--enable-debug-command", "yes"]);
    let mut client = server.client();
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
    fill(&mut client, 30_000, 10, &["PX", "1"]);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(client.run("DBSIZE"), int(30_000));
    assert_eq!(number(&mut client, "expired_time_cap_reached_count"), 0);
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 1"), ok());
    wait_for(&mut client, "expired_keys", |keys| keys == 30_000);
    // Thirty thousand keys take more than one slice.
    assert!(number(&mut client, "expired_time_cap_reached_count") > 0);
    assert!(number(&mut client, "expire_cycle_cpu_milliseconds") > 0);
    let stale: f64 = info_field(&mut client, "expired_stale_perc")
        .parse()
        .unwrap();
    assert!((0.0..=100.0).contains(&stale), "{stale}");
    assert_eq!(client.run("CONFIG RESETSTAT"), ok());
    assert_eq!(number(&mut client, "expire_cycle_cpu_milliseconds"), 0);
}

#[test]
fn expiry_that_is_resumed_wakes_workers_that_rest() {
    let server = Server::start_with(&["--enable-debug-command", "yes", "--io-threads", "4"]);
    let mut client = server.client();
    let port = open_port(&mut client);
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
    fill(&mut client, 200, 10, &["PX", "1"]);
    // Soon nobody has anything to do, and nothing is sent any more that would wake a worker.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 1"), ok());
    let deadline = Instant::now() + Duration::from_secs(60);
    while !get(port, "/metrics").contains("\nredis_expired_keys_total 200.0\n") {
        assert!(Instant::now() < deadline, "keys stay");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn eviction_says_for_how_long_the_limit_was_exceeded() {
    let server = Server::start();
    let mut client = server.client();
    fill(&mut client, 20_000, 200, &[]);
    let used = number(&mut client, "used_memory");
    let limit = (used / 2).to_string();
    assert_eq!(client.call(&["CONFIG", "SET", "maxmemory", &limit]), ok());
    assert!(
        client
            .run("SET another value")
            .text()
            .starts_with("OOM command not allowed")
    );
    std::thread::sleep(Duration::from_millis(50));
    let current = number(&mut client, "current_eviction_exceeded_time");
    assert!((50..20_000).contains(&current), "{current}");
    assert_eq!(
        client.run("CONFIG SET maxmemory-policy allkeys-lru latency-monitor-threshold 1"),
        ok()
    );
    let deadline = Instant::now() + Duration::from_secs(60);
    while number(&mut client, "current_eviction_exceeded_time") > 0 {
        client.run("SET another value");
        assert!(Instant::now() < deadline, "the limit is still exceeded");
    }
    assert!(number(&mut client, "total_eviction_exceeded_time") >= current);
    assert!(number(&mut client, "evicted_keys") > 5_000);
    assert_eq!(client.run("CONFIG SET maxmemory 0"), ok());
}

#[test]
fn background_freeing_is_counted() {
    let server = Server::start();
    let mut client = server.client();
    // Keys of another database keep the arena from being given back as a whole.
    client.expect(&[
        ("SELECT 1", ok()),
        ("SET other 1", ok()),
        ("SELECT 0", ok()),
    ]);
    fill(&mut client, 20_000, 50, &[]);
    assert_eq!(client.run("FLUSHDB ASYNC"), ok());
    assert_eq!(client.run("DBSIZE"), int(0));
    wait_for(&mut client, "lazyfreed_objects", |objects| {
        objects == 20_000
    });
    assert_eq!(number(&mut client, "lazyfree_pending_objects"), 0);
    fill(&mut client, 1000, 50, &[]);
    assert_eq!(client.run("FLUSHALL SYNC"), ok());
    assert_eq!(number(&mut client, "lazyfreed_objects"), 20_000);
    client.run("CONFIG RESETSTAT");
    assert_eq!(number(&mut client, "lazyfreed_objects"), 0);
}

#[test]
fn compaction_is_counted_as_active_defrag() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(client.run("CONFIG SET activedefrag no"), ok());
    fill(&mut client, 200_000, 100, &[]);
    for at in (0..200_000).filter(|at| at % 10 != 0) {
        client.send(&["DEL", &format!("key:{at}")]);
        if at % 1000 == 999 {
            for _ in 0..900 {
                assert_eq!(client.read(), int(1));
            }
        }
    }
    assert_eq!(number(&mut client, "active_defrag_running"), 0);
    assert_eq!(number(&mut client, "total_active_defrag_time"), 0);
    assert_eq!(client.run("CONFIG SET activedefrag yes"), ok());
    wait_for(&mut client, "active_defrag_hits", |hits| hits > 5_000);
    wait_for(&mut client, "total_active_defrag_time", |ms| ms > 0);
    // It ends, and then nothing is running.
    wait_for(&mut client, "current_active_defrag_time", |ms| ms == 0);
    wait_for(&mut client, "active_defrag_running", |percent| percent == 0);
    let hits = number(&mut client, "active_defrag_hits");
    let keys = number(&mut client, "active_defrag_key_hits");
    assert!(0 < keys && keys <= hits, "{keys} keys, {hits} hits");
    let misses = number(&mut client, "active_defrag_misses");
    assert!(misses <= hits, "{misses} misses, {hits} hits");
}

#[test]
fn latency_events_are_commands_and_cycles() {
    let server = Server::start_with(&["--enable-debug-command", "yes"]);
    let mut client = server.client();
    assert_eq!(client.run("CONFIG SET latency-monitor-threshold 20"), ok());
    assert_eq!(client.run("DEBUG SLEEP 0.04"), ok());
    let latest = client.run("LATENCY LATEST");
    let events: Vec<String> = latest
        .elements()
        .iter()
        .map(|event| event.elements()[0].text())
        .collect();
    assert!(events.contains(&"command".to_owned()), "{events:?}");
    // On a busy machine other commands are slow as well.
    assert!(!client.run("LATENCY HISTORY command").elements().is_empty());
    assert!(
        client
            .run("LATENCY HISTORY no-such-event")
            .elements()
            .is_empty()
    );
    assert!(client.run("LATENCY DOCTOR").text().contains("command"));
    assert!(client.run("LATENCY RESET").integer() >= 1);
}
