//! INFO's section `keysizes`: how many strings of which lengths there are, in Redis's format.

mod live;

use std::time::{Duration, Instant};

use live::{Client, Server, ok};

/// The lines of the section, without its title.
fn sizes(client: &mut Client) -> String {
    let text = client.run("INFO keysizes").text();
    let lines = text.strip_prefix("# Keysizes\r\n").expect("the title");
    let lines = lines
        .lines()
        .map(|line| line.replace("distrib_strings_sizes", "STR"));
    lines.collect::<Vec<_>>().join(" ")
}

/// Runs commands, and compares what the section says after each.
fn follow(client: &mut Client, steps: &[(&str, &str)]) {
    for (command, expected) in steps {
        client.run(command);
        assert_eq!(sizes(client), *expected, "after {command}");
    }
}

#[test]
fn a_bin_ends_at_the_next_power_of_two() {
    let server = Server::start();
    let mut client = server.client();
    assert_eq!(sizes(&mut client), "");
    for (bytes, bin) in [
        (0, "0"),
        (1, "1"),
        (2, "2"),
        (3, "2"),
        (4, "4"),
        (511, "256"),
        (512, "512"),
        (1023, "512"),
        (1024, "1K"),
        (2047, "1K"),
        (65_536, "64K"),
        (1_048_575, "512K"),
        (1_048_576, "1M"),
        (5_000_000, "4M"),
    ] {
        client.call(&["SET", "key", &"x".repeat(bytes)]);
        assert_eq!(sizes(&mut client), format!("db0_STR:{bin}=1"), "{bytes}");
    }
    let text = client.run("INFO").text();
    assert!(text.contains("\r\n# Keysizes\r\ndb0_distrib_strings_sizes:4M=1\r\n"));
}

#[test]
fn integers_count_their_digits() {
    let server = Server::start();
    let mut client = server.client();
    follow(
        &mut client,
        &[
            ("SET n 9", "db0_STR:1=1"),
            ("INCR n", "db0_STR:2=1"),
            ("DECR n", "db0_STR:1=1"),
            ("INCRBY n -10", "db0_STR:2=1"),
            ("SET n 999", "db0_STR:2=1"),
            ("INCR n", "db0_STR:4=1"),
            ("SET n 12345678", "db0_STR:8=1"),
            ("SET n 1", "db0_STR:1=1"),
            ("SET n 1234567890123456", "db0_STR:16=1"),
            ("SET n -9223372036854775808", "db0_STR:16=1"),
            ("INCR other", "db0_STR:1=1,16=1"),
            ("INCRBYFLOAT other 0.5", "db0_STR:2=1,16=1"),
            ("APPEND n 0123456789abc", "db0_STR:2=1,32=1"),
        ],
    );
}

#[test]
fn every_way_to_change_a_length_is_followed() {
    let server = Server::start();
    let mut client = server.client();
    follow(
        &mut client,
        &[
            ("SET a 12345678", "db0_STR:8=1"),
            ("SET a abcdefgh", "db0_STR:8=1"),
            ("APPEND a ijklmnop", "db0_STR:16=1"),
            ("APPEND new x", "db0_STR:1=1,16=1"),
            ("SETRANGE a 2 yy", "db0_STR:1=1,16=1"),
            ("SETRANGE a 40 zz", "db0_STR:1=1,32=1"),
            ("SETRANGE other 3 zz", "db0_STR:1=1,4=1,32=1"),
            ("SETRANGE none 3 ", "db0_STR:1=1,4=1,32=1"),
            ("GETDEL other", "db0_STR:1=1,32=1"),
            ("GETSET new abcd", "db0_STR:4=1,32=1"),
            ("MSET b 1 c 22 d 333 b 4444", "db0_STR:2=2,4=2,32=1"),
            ("MSETNX b 1 z 1", "db0_STR:2=2,4=2,32=1"),
            ("PEXPIRE b 100000", "db0_STR:2=2,4=2,32=1"),
            ("PERSIST b", "db0_STR:2=2,4=2,32=1"),
            ("RENAME c d", "db0_STR:2=1,4=2,32=1"),
            ("RENAME d d", "db0_STR:2=1,4=2,32=1"),
            ("COPY d e", "db0_STR:2=2,4=2,32=1"),
            ("COPY a e REPLACE", "db0_STR:2=1,4=2,32=2"),
            ("COPY a e DB 3", "db0_STR:2=1,4=2,32=2 db3_STR:32=1"),
            ("MOVE d 3", "db0_STR:4=2,32=2 db3_STR:2=1,32=1"),
            ("DEL b new", "db0_STR:32=2 db3_STR:2=1,32=1"),
            ("SWAPDB 0 5", "db3_STR:2=1,32=1 db5_STR:32=2"),
            ("SET a \u{e9}", "db0_STR:2=1 db3_STR:2=1,32=1 db5_STR:32=2"),
            ("FLUSHDB", "db3_STR:2=1,32=1 db5_STR:32=2"),
            ("SWAPDB 3 0", "db0_STR:2=1,32=1 db5_STR:32=2"),
            ("FLUSHDB ASYNC", "db5_STR:32=2"),
            ("FLUSHALL", ""),
        ],
    );
}

#[test]
fn keys_that_expire_or_are_evicted_count_no_more() {
    let server = Server::start();
    let mut client = server.client();
    for at in 0..1000 {
        assert_eq!(
            client.run(&format!("SET key:{at} {} PX 1", "v".repeat(at % 40))),
            ok()
        );
    }
    client.run("SET stays x");
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.run("DBSIZE").integer() > 1 {
        assert!(Instant::now() < deadline, "keys stay");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(sizes(&mut client), "db0_STR:1=1");
    assert_eq!(
        client.run("CONFIG SET maxmemory-policy allkeys-random"),
        ok()
    );
    assert_eq!(client.run("CONFIG SET maxmemory 1"), ok());
    // A command that needs memory makes room before it fails or runs.
    let deadline = Instant::now() + Duration::from_secs(30);
    while client.run("DBSIZE").integer() > 0 {
        client.run("SET other value");
        assert!(Instant::now() < deadline, "the key stays");
    }
    assert_eq!(sizes(&mut client), "");
}
