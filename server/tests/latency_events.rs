//! The events of LATENCY for the server's own work: each of them is made to happen.
//!
//! How long such work takes depends on the machine, so the monitor is told to take a nanosecond for a millisecond:
//! whatever was done at all then counts as a delay.

mod live;

use std::time::{Duration, Instant};

use live::{Client, Server, error, ok};

fn watched(options: &[&str]) -> (Server, Client) {
    let words = [&["--enable-debug-command", "yes"], options].concat();
    let server = Server::start_with(&words);
    let mut client = server.client();
    client.expect(&[
        ("CONFIG SET latency-monitor-threshold 1", ok()),
        ("DEBUG LATENCY-UNIT 1", ok()),
    ]);
    (server, client)
}

/// The longest delay of an event by LATENCY LATEST, if there was any.
fn longest(client: &mut Client, event: &str) -> Option<i64> {
    let latest = client.run("LATENCY LATEST");
    let rows = latest.elements().iter();
    let mut rows = rows.filter(|row| row.elements()[0].text() == event);
    Some(rows.next()?.elements()[3].integer())
}

/// Waits for an event, and compares what the subcommands say of it; its longest delay.
fn see(client: &mut Client, event: &str) -> i64 {
    let deadline = Instant::now() + Duration::from_secs(60);
    while longest(client, event).is_none() {
        assert!(Instant::now() < deadline, "{event} does not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The longest delay only grows, and the samples that are kept are those of some minutes.
    let history = client.run(&format!("LATENCY HISTORY {event}"));
    let doctor = client.run("LATENCY DOCTOR").text();
    let graph = client.run(&format!("LATENCY GRAPH {event}")).text();
    let longest = longest(client, event).expect("it happened");
    assert!(!history.elements().is_empty(), "{event}");
    for sample in history.elements() {
        let took = sample.elements()[1].integer();
        assert!(
            (1..=longest).contains(&took),
            "{event}: {took} of {longest}"
        );
    }
    assert!(doctor.contains(&format!("\n{event}: ")), "{doctor}");
    assert!(graph.starts_with(&format!("{event} - high ")), "{graph}");
    longest
}

fn fill(client: &mut Client, count: usize, value: &str, options: &[&str]) {
    for at in 0..count {
        let key = format!("key:{at}");
        client.send(&[&["SET", &key, value], options].concat());
        if at % 500 == 499 || at + 1 == count {
            (0..at % 500 + 1).for_each(|_| assert_eq!(client.read(), ok()));
        }
    }
}

/// Deletes nine keys of ten.
fn thin_out(client: &mut Client, count: usize) {
    for at in (0..count).filter(|at| at % 10 != 0) {
        client.run(&format!("DEL key:{at}"));
    }
}

#[test]
fn expiry_is_an_event() {
    let (_server, mut client) = watched(&[]);
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 0"), ok());
    fill(&mut client, 1000, "value", &["PX", "1"]);
    std::thread::sleep(Duration::from_millis(10));
    for event in ["expire-cycle", "expire-del"] {
        assert_eq!(longest(&mut client, event), None, "nothing expires yet");
    }
    assert_eq!(client.run("DEBUG SET-ACTIVE-EXPIRE 1"), ok());
    let removal = see(&mut client, "expire-del");
    let cycle = see(&mut client, "expire-cycle");
    // What is removed from a segment is a part of its slice.
    assert!(removal <= cycle, "{removal} of {cycle}");
    let doctor = client.run("LATENCY DOCTOR").text();
    assert!(doctor.contains("Many keys expire at once"), "{doctor}");
}

#[test]
fn eviction_is_an_event() {
    let (_server, mut client) = watched(&[]);
    fill(&mut client, 1000, "value", &[]);
    for event in ["eviction-cycle", "eviction-del"] {
        assert_eq!(longest(&mut client, event), None, "nothing is evicted yet");
    }
    client.expect(&[
        ("CONFIG SET maxmemory-policy allkeys-random", ok()),
        ("CONFIG SET maxmemory 1", ok()),
    ]);
    client.run("SET another value");
    for event in ["eviction-cycle", "eviction-del"] {
        assert!(longest(&mut client, event).is_some(), "{event}");
        see(&mut client, event);
    }
    let doctor = client.run("LATENCY DOCTOR").text();
    assert!(doctor.contains("Eviction works hard"), "{doctor}");
}

#[test]
fn compaction_is_an_event() {
    let (_server, mut client) = watched(&["--activedefrag", "no"]);
    let value = "v".repeat(200);
    fill(&mut client, 5000, &value, &[]);
    thin_out(&mut client, 5000);
    let event = "active-defrag-cycle";
    assert_eq!(longest(&mut client, event), None, "nothing is moved yet");
    client.run("MEMORY COMPACT NOW");
    assert!(longest(&mut client, event).is_some());
    see(&mut client, event);
    client.run("LATENCY RESET");
    assert_eq!(longest(&mut client, event), None);
    // The same by the worker itself, of its own accord.
    fill(&mut client, 100_000, &value, &[]);
    thin_out(&mut client, 100_000);
    assert_eq!(longest(&mut client, event), None);
    assert_eq!(client.run("CONFIG SET activedefrag yes"), ok());
    see(&mut client, event);
}

#[test]
fn giving_pages_back_is_an_event() {
    let (_server, mut client) = watched(&[]);
    let event = "purge-cycle";
    client.run("MEMORY PURGE");
    assert!(longest(&mut client, event).is_some());
    see(&mut client, event);
    // The same by the worker itself, when pages have been free for long enough.
    client.expect(&[("DEBUG PAUSE-CRON 1", ok())]);
    fill(&mut client, 2000, &"v".repeat(5000), &[]);
    for at in 0..2000 {
        client.run(&format!("DEL key:{at}"));
    }
    client.run("LATENCY RESET");
    assert_eq!(client.run("DEBUG PAUSE-CRON 0"), ok());
    see(&mut client, event);
    let doctor = client.run("LATENCY DOCTOR").text();
    assert!(doctor.contains("Giving pages back took long"), "{doctor}");
}

#[test]
fn short_work_is_no_event_by_the_usual_unit() {
    let (_server, mut client) = watched(&[]);
    client.expect(&[
        (
            "DEBUG LATENCY-UNIT 0",
            error("ERR value is out of range, must be positive"),
        ),
        (
            "DEBUG LATENCY-UNIT -1",
            error("ERR value is out of range, must be positive"),
        ),
        // An hour to a millisecond.
        ("DEBUG LATENCY-UNIT 3600000000000", ok()),
        ("MEMORY PURGE", ok()),
    ]);
    assert_eq!(longest(&mut client, "purge-cycle"), None);
}
