//! Commands on keys, databases and iteration, against the real server.

mod live;

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use live::{Client, Server, Value, bulk, error, int, ok};
use redis::Commands;

const SYNTAX: &str = "ERR syntax error";
const WRONG_NUMBER: &str = "ERR value is not an integer or out of range";
const NO_DATABASE: &str = "ERR DB index is out of range";

#[test]
fn a_client_library_expires_and_scans() -> redis::RedisResult<()> {
    let server = Server::start();
    let mut connection = server.redis();
    for n in 0..1000 {
        let () = connection.set(format!("key:{n}"), n)?;
    }
    let found: BTreeSet<String> = connection.scan_match("key:9*")?.collect::<Result<_, _>>()?;
    assert_eq!(found.len(), 111);
    assert!(connection.expire::<_, bool>("key:1", 100)?);
    assert_eq!(connection.ttl::<_, i64>("key:1")?, 100);
    assert_eq!(connection.del::<_, i64>(&["key:1", "key:2", "none"])?, 2);
    Ok(())
}

#[test]
fn keys_are_counted_found_and_removed() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("MSET a 1 b 2 c 3", ok()),
        ("EXISTS a b x a", int(3)),
        ("TOUCH a b x", int(2)),
        ("TYPE a", Value::Simple("string".into())),
        ("TYPE x", Value::Simple("none".into())),
        ("DBSIZE", int(3)),
        ("DEL a x a", int(1)),
        ("UNLINK b c", int(2)),
        ("DBSIZE", int(0)),
        ("RANDOMKEY", Value::Null),
        ("KEYS *", Value::Array(vec![])),
    ]);
    client.expect(&[("MSET hello 1 hallo 2 hxllo 3 other 4", ok())]);
    assert_eq!(
        client.run("KEYS *").sorted(),
        ["hallo", "hello", "hxllo", "other"]
    );
    assert_eq!(
        client.run("KEYS h?llo").sorted(),
        ["hallo", "hello", "hxllo"]
    );
    assert_eq!(client.run("KEYS h[ae]llo").sorted(), ["hallo", "hello"]);
    assert_eq!(client.run("KEYS h[^e]llo").sorted(), ["hallo", "hxllo"]);
    assert_eq!(client.run("KEYS other").sorted(), ["other"]);
    let mut seen = BTreeSet::new();
    for _ in 0..200 {
        seen.insert(client.run("RANDOMKEY").text());
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn any_bytes_make_a_key() {
    let server = Server::start();
    let mut client = server.client();
    let long = vec![7u8; 1 << 20];
    for key in [&b""[..], b"\0", b"\r\n", b"\xff\xfe", &long] {
        assert_eq!(client.call(&[b"SET", key, b"v"]), ok());
        assert_eq!(client.call(&[b"GET", key]), bulk("v"));
    }
    assert_eq!(client.run("DBSIZE"), int(5));
    assert_eq!(client.call(&[b"KEYS", &b"*"[..]]).elements().len(), 5);
}

fn unix_seconds() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs() as i64
}

#[test]
fn expirations_are_set_under_conditions() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("EXPIRE none 10", int(0)),
        ("TTL none", int(-2)),
        ("PTTL none", int(-2)),
        ("EXPIRETIME none", int(-2)),
        ("PEXPIRETIME none", int(-2)),
        ("SET k v", ok()),
        ("TTL k", int(-1)),
        ("EXPIRE k 100 XX", int(0)),
        ("EXPIRE k 100 GT", int(0)),
        ("EXPIRE k 100 nx", int(1)),
        ("EXPIRE k 100 NX", int(0)),
        ("EXPIRE k 50 GT", int(0)),
        ("EXPIRE k 200 GT", int(1)),
        ("EXPIRE k 300 LT", int(0)),
        ("EXPIRE k 100 LT", int(1)),
        ("EXPIRE k 90 XX LT", int(1)),
        ("TTL k", int(90)),
        ("PERSIST k", int(1)),
        ("PERSIST k", int(0)),
        ("EXPIRE k 100 LT", int(1)),
        ("PEXPIREAT k 4102444800123", int(1)),
        ("PEXPIRETIME k", int(4_102_444_800_123)),
        ("EXPIRETIME k", int(4_102_444_800)),
        ("EXPIREAT k 4102444800", int(1)),
        ("PEXPIRETIME k", int(4_102_444_800_000)),
        ("PEXPIRE k 150000", int(1)),
        ("EXPIRE k -1 NX", int(0)),
        ("EXPIRE k -1 GT", int(0)),
        ("EXISTS k", int(1)),
        ("EXPIRE k -1", int(1)),
        ("EXISTS k", int(0)),
        ("SET k v", ok()),
        ("EXPIREAT k 1", int(1)),
        ("EXISTS k", int(0)),
    ]);
    let soon = unix_seconds() + 100;
    client.expect(&[("SET k v", ok()), (&format!("EXPIREAT k {soon}"), int(1))]);
    assert!((99..=100).contains(&client.run("TTL k").integer()));
}

#[test]
fn impossible_expirations_are_refused() {
    let server = Server::start();
    let mut client = server.client();
    let both = error("ERR NX and XX, GT or LT options at the same time are not compatible");
    client.expect(&[
        ("SET k v", ok()),
        ("EXPIRE k 10 NX XX", both.clone()),
        ("EXPIRE k 10 NX GT", both.clone()),
        ("EXPIRE k 10 LT NX", both),
        (
            "EXPIRE k 10 GT LT",
            error("ERR GT and LT options at the same time are not compatible"),
        ),
        ("EXPIRE k 10 AB", error("ERR Unsupported option AB")),
        ("EXPIRE k 10 XX AB", error("ERR Unsupported option AB")),
        ("EXPIRE k x", error(WRONG_NUMBER)),
        ("EXPIRE k 9223372036854775808", error(WRONG_NUMBER)),
        (
            "EXPIRE k",
            error("ERR wrong number of arguments for 'expire' command"),
        ),
        ("TTL k", int(-1)),
    ]);
    for (command, time) in [
        ("expire", "9223372036854775"),
        ("expire", "9223372036854775807"),
        ("expire", "-9223372036854775808"),
        ("expireat", "9223372036854775807"),
        ("pexpire", "9223372036854775807"),
    ] {
        let expected = error(&format!("ERR invalid expire time in '{command}' command"));
        assert_eq!(client.run(&format!("{command} k {time}")), expected);
    }
    client.expect(&[
        ("PEXPIREAT k 9223372036854775807", int(1)),
        ("PEXPIRETIME k", int(i64::MAX)),
        ("GET k", bulk("v")),
        ("PEXPIRE k -9223372036854775808", int(1)),
        ("EXISTS k", int(0)),
    ]);
}

#[test]
fn keys_vanish_when_their_time_has_come() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("SET a v PX 30", ok()),
        ("SET b v PX 30", ok()),
        ("SET c v", ok()),
    ]);
    std::thread::sleep(Duration::from_millis(60));
    client.expect(&[
        ("GET a", Value::Null),
        ("EXISTS a b c", int(1)),
        ("TTL b", int(-2)),
        ("KEYS *", Value::Array(vec![bulk("c")])),
        ("RENAME b x", error("ERR no such key")),
        ("INCR b", int(1)),
        ("TTL b", int(-1)),
        ("SET a w XX", Value::Null),
        ("SETNX a w", int(1)),
    ]);
}

/// Commands that arrive together still see time pass.
#[test]
fn a_pipeline_sees_keys_expire() {
    let server = Server::start_with(&["--enable-debug-command", "yes"]);
    let mut client = server.client();
    client.send_raw(b"SET k v PX 20\r\nDEBUG SLEEP 0.05\r\nGET k\r\n");
    assert_eq!(client.read(), ok());
    assert_eq!(client.read(), ok());
    assert_eq!(client.read(), Value::Null);
}

#[test]
fn names_and_copies() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("SET a 1 EX 100", ok()),
        ("SET b 2", ok()),
        ("RENAME a b", ok()),
        ("GET b", bulk("1")),
        ("TTL b", int(100)),
        ("EXISTS a", int(0)),
        ("RENAME b b", ok()),
        ("RENAMENX b b", int(0)),
        ("RENAME a b", error("ERR no such key")),
        ("RENAMENX a b", error("ERR no such key")),
        ("SET a 3", ok()),
        ("RENAMENX a b", int(0)),
        ("RENAMENX a c", int(1)),
        ("COPY b d", int(1)),
        ("TTL d", int(100)),
        ("COPY c d", int(0)),
        ("COPY c d REPLACE", int(1)),
        ("GET d", bulk("3")),
        ("TTL d", int(-1)),
        ("COPY none x", int(0)),
        (
            "COPY b b",
            error("ERR source and destination objects are the same"),
        ),
        (
            "COPY b b DB 0",
            error("ERR source and destination objects are the same"),
        ),
        ("COPY b b DB 3", int(1)),
        ("COPY b b DB 99", error(NO_DATABASE)),
        ("COPY b x DB", error(SYNTAX)),
        ("COPY b x FOO", error(SYNTAX)),
        ("SELECT 3", ok()),
        ("GET b", bulk("1")),
    ]);
}

#[test]
fn databases_are_apart_until_they_are_swapped() {
    let server = Server::start();
    let mut client = server.client();
    let mut other = server.client();
    client.expect(&[
        ("MSET a 0 shared 0", ok()),
        ("SELECT 1", ok()),
        ("MSET b 1 shared 1", ok()),
        ("MOVE b 0", int(1)),
        ("MOVE b 0", int(0)),
        ("MOVE shared 0", int(0)),
        (
            "MOVE shared 1",
            error("ERR source and destination objects are the same"),
        ),
        ("MOVE shared 16", error(NO_DATABASE)),
        ("MOVE shared x", error(WRONG_NUMBER)),
        (
            "MOVE shared 4294967296",
            error("ERR value is out of range, value must between -2147483648 and 2147483647"),
        ),
        ("DBSIZE", int(1)),
        ("SELECT 16", error(NO_DATABASE)),
        ("SWAPDB x 0", error("ERR invalid first DB index")),
        ("SWAPDB 0 x", error("ERR invalid second DB index")),
        ("SWAPDB 0 16", error(NO_DATABASE)),
        ("SWAPDB 0 0", ok()),
        ("SWAPDB 0 1", ok()),
    ]);
    assert_eq!(client.run("KEYS *").sorted(), ["a", "b", "shared"]);
    assert_eq!(other.run("KEYS *").sorted(), ["shared"]);
    client.expect(&[
        ("FLUSHDB SYNC", ok()),
        ("DBSIZE", int(0)),
        ("SELECT 0", ok()),
        ("DBSIZE", int(1)),
        ("FLUSHALL FOO", error(SYNTAX)),
        ("FLUSHDB ASYNC SYNC", error(SYNTAX)),
        ("FLUSHALL async", ok()),
        ("DBSIZE", int(0)),
    ]);
}

fn scan_all(client: &mut Client, options: &str) -> Vec<String> {
    let (mut cursor, mut found) = ("0".to_owned(), Vec::new());
    loop {
        let reply = client.run(format!("SCAN {cursor} {options}").trim_end());
        found.extend(reply.elements()[1].texts());
        cursor = reply.elements()[0].text();
        if cursor == "0" {
            return found;
        }
    }
}

#[test]
fn a_scan_returns_every_key_once() {
    let server = Server::start();
    let mut client = server.client();
    for n in 0..5000 {
        client.send(&["SET", &format!("key:{n}"), "v"]);
    }
    (0..5000).for_each(|_| assert_eq!(client.read(), ok()));
    for options in [
        "",
        "COUNT 1",
        "COUNT 1000",
        "COUNT 100000",
        "TYPE string",
        "MATCH *",
    ] {
        let found = scan_all(&mut client, options);
        assert_eq!(found.len(), 5000, "{options}");
        assert_eq!(
            found.iter().collect::<BTreeSet<_>>().len(),
            5000,
            "{options}"
        );
    }
    assert_eq!(scan_all(&mut client, "MATCH key:12? COUNT 100").len(), 10);
    assert_eq!(scan_all(&mut client, "TYPE list COUNT 100").len(), 0);
    assert_eq!(
        scan_all(&mut client, "TYPE STRING MATCH key:7 COUNT 100"),
        ["key:7"]
    );
    client.expect(&[
        ("SCAN x", error("ERR invalid cursor")),
        ("SCAN -1", error("ERR invalid cursor")),
        ("SCAN 0 COUNT 0", error(SYNTAX)),
        ("SCAN 0 COUNT -5", error(SYNTAX)),
        ("SCAN 0 COUNT x", error(WRONG_NUMBER)),
        ("SCAN 0 COUNT", error(SYNTAX)),
        ("SCAN 0 FOO 1", error(SYNTAX)),
    ]);
    // Whatever number a client makes up, it gets a reply.
    for cursor in [
        "1",
        "281474976710655",
        "18446744073709551615",
        "9223372036854775808",
    ] {
        assert_eq!(
            client
                .run(&format!("SCAN {cursor} COUNT 5"))
                .elements()
                .len(),
            2
        );
    }
}

#[test]
fn a_scan_holds_its_promise_while_keys_come_and_go() {
    let server = Server::start();
    let (mut client, mut writer) = (server.client(), server.client());
    for n in 0..2000 {
        client.run(&format!("SET stay:{n} v"));
    }
    let (mut cursor, mut found, mut round) = ("0".to_owned(), Vec::new(), 0);
    loop {
        let reply = client.run(&format!("SCAN {cursor} COUNT 50"));
        found.extend(reply.elements()[1].texts());
        cursor = reply.elements()[0].text();
        if cursor == "0" {
            break;
        }
        for n in 0..100 {
            writer.send(&["SET", &format!("come:{}", round * 100 + n), "v"]);
            writer.send(&["DEL", &format!("come:{}", round * 50 + n)]);
        }
        (0..200).for_each(|_| drop(writer.read()));
        round += 1;
    }
    let stayed: Vec<&String> = found
        .iter()
        .filter(|key| key.starts_with("stay:"))
        .collect();
    assert_eq!(stayed.len(), 2000);
    assert_eq!(stayed.iter().collect::<BTreeSet<_>>().len(), 2000);
}

#[test]
fn objects_are_described() {
    let server = Server::start();
    let mut client = server.client();
    let began = Instant::now();
    client.run("SET k value");
    // Whole seconds of the clock: one may have begun since.
    let idle_s = client.run("OBJECT IDLETIME k").integer();
    let idle_s_max = began.elapsed().as_secs() as i64 + 1;
    assert!((0..=idle_s_max).contains(&idle_s), "{idle_s}");
    client.expect(&[
        ("SET k value", ok()),
        ("OBJECT ENCODING k", bulk("embstr")),
        ("OBJECT REFCOUNT k", int(1)),
        ("OBJECT ENCODING none", Value::Null),
        ("OBJECT REFCOUNT none", Value::Null),
        ("OBJECT IDLETIME none", Value::Null),
        ("OBJECT FREQ none", Value::Null),
        (
            "OBJECT",
            error("ERR wrong number of arguments for 'object' command"),
        ),
        (
            "OBJECT ENCODING",
            error("ERR wrong number of arguments for 'object|encoding' command"),
        ),
        (
            "OBJECT FOO k",
            error("ERR unknown subcommand 'FOO'. Try OBJECT HELP."),
        ),
    ]);
    let help = client.run("OBJECT HELP").texts();
    assert_eq!(
        help[0],
        "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    );
    assert!(help.contains(&"ENCODING <key>".to_owned()));
    assert_eq!(help[help.len() - 2..], ["HELP", "    Print this help."]);
}

/// DBSIZE, RANDOMKEY and KEYS see all keys, though they lock one shard at a time, and as part of a transaction.
#[test]
fn walks_over_all_shards_see_every_key() {
    const KEYS: usize = 500;
    let server = Server::start_with(&["--io-threads", "4"]);
    let mut client = server.client();
    client.expect(&[("RANDOMKEY", Value::Null), ("DBSIZE", int(0))]);
    let mut names: Vec<String> = (0..KEYS).map(|number| format!("key:{number}")).collect();
    for name in &names {
        assert_eq!(client.run(&format!("SET {name} v")), ok());
    }
    names.sort();
    assert_eq!(client.run("DBSIZE"), int(KEYS as i64));
    assert_eq!(client.run("KEYS *").sorted(), names);
    let mut picked = std::collections::HashSet::new();
    for _ in 0..300 {
        picked.insert(client.run("RANDOMKEY").text());
    }
    assert!(picked.len() > 150, "{} different keys of 300", picked.len());
    assert!(picked.iter().all(|key| names.binary_search(key).is_ok()));
    client.expect(&[
        ("MULTI", ok()),
        ("DBSIZE", live::queued()),
        ("KEYS *", live::queued()),
        ("RANDOMKEY", live::queued()),
    ]);
    let replies = client.run("EXEC");
    let replies = replies.elements();
    assert_eq!(replies[0], int(KEYS as i64));
    assert_eq!(replies[1].sorted(), names);
    assert!(names.binary_search(&replies[2].text()).is_ok());
}

/// A shard whose next expiry is far off sleeps until then, but for writes.
#[test]
fn keys_expire_in_time_though_others_expire_much_later() {
    let server = Server::start_with(&["--io-threads", "2"]);
    let mut client = server.client();
    for round in 0..6 {
        for key in 0..8 {
            assert_eq!(client.run(&format!("SET late:{key} v EX 1000")), ok());
        }
        std::thread::sleep(Duration::from_millis(40 * round));
        for key in 0..8 {
            assert_eq!(client.run(&format!("SET soon:{key} v PX 50")), ok());
        }
        // Long before the others.
        let deadline = Instant::now() + Duration::from_secs(60);
        while client.run("DBSIZE") != int(8) {
            assert!(Instant::now() < deadline, "keys do not expire");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
