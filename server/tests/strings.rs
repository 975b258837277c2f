//! Commands on strings, against the real server.

mod live;

use live::{Client, Server, Value, bulk, error, int, ok};
use redis::Commands;

const WRONG_NUMBER: &str = "ERR value is not an integer or out of range";
const NO_FLOAT: &str = "ERR value is not a valid float";
const SYNTAX: &str = "ERR syntax error";
const TOO_LONG: &str = "ERR string exceeds maximum allowed size (proto-max-bulk-len)";

#[test]
fn a_client_library_reads_what_it_wrote() -> redis::RedisResult<()> {
    let server = Server::start();
    let mut connection = server.redis();
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let () = connection.set("bytes", &bytes)?;
    assert_eq!(connection.get::<_, Vec<u8>>("bytes")?, bytes);
    let () = connection.mset(&[("a", "1"), ("b", "x")])?;
    assert_eq!(
        connection.mget::<_, Vec<Option<String>>>(&["a", "none", "b"])?,
        [Some("1".into()), None, Some("x".into())]
    );
    assert_eq!(connection.incr::<_, _, i64>("a", 41)?, 42);
    assert_eq!(connection.incr::<_, _, f64>("a", 0.5)?, 42.5);
    assert_eq!(connection.get_del::<_, String>("b")?, "x");
    assert_eq!(connection.get::<_, Option<String>>("b")?, None);
    Ok(())
}

#[test]
fn set_obeys_all_options() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("SET k 1 XX", Value::Null),
        ("SET k 1 nx", ok()),
        ("SET k 2 NX", Value::Null),
        ("SET k 2 NX GET", bulk("1")),
        ("SET k 3 XX GET", bulk("1")),
        ("SET k 4 GET", bulk("3")),
        ("SET new 1 GET", Value::Null),
        ("SET other 1 NX GET", Value::Null),
        ("GET other", bulk("1")),
        ("SET third 1 XX GET", Value::Null),
        ("GET third", Value::Null),
        ("SET k v EX 100", ok()),
        ("TTL k", int(100)),
        ("SET k w KEEPTTL", ok()),
        ("TTL k", int(100)),
        ("SET k x", ok()),
        ("TTL k", int(-1)),
        ("SET k v PX 100000 XX", ok()),
        ("TTL k", int(100)),
        ("SET k v EXAT 4102444800", ok()),
        ("EXPIRETIME k", int(4_102_444_800)),
        ("SET k v PXAT 4102444800123", ok()),
        ("PEXPIRETIME k", int(4_102_444_800_123)),
        ("SET k v EXAT 1", ok()),
        ("GET k", Value::Null),
        ("SET k v EX 10 EX 20", ok()),
        ("TTL k", int(20)),
        ("SET k v NX NX GET GET", bulk("v")),
    ]);
}

#[test]
fn set_refuses_options_that_contradict_each_other() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[("SET k old", ok())]);
    for options in [
        "NX XX",
        "XX NX",
        "EX 1 PX 1",
        "EX 1 KEEPTTL",
        "KEEPTTL PX 1",
        "EXAT 1 PXAT 1",
        "EX",
        "PX",
        "foo",
        "PERSIST",
        "EX 10 XX GET PX",
    ] {
        assert_eq!(
            client.run(&format!("SET k v {options}")),
            error(SYNTAX),
            "{options}"
        );
    }
    for time in [
        "0",
        "-1",
        "9223372036854775807",
        "-9223372036854775808",
        "9223372036854776",
    ] {
        assert_eq!(
            client.run(&format!("SET k v EX {time}")),
            error("ERR invalid expire time in 'set' command"),
            "{time}"
        );
    }
    client.expect(&[
        (
            "SET k v PX 9223372036854775807",
            error("ERR invalid expire time in 'set' command"),
        ),
        ("SET k v EX 1x", error(WRONG_NUMBER)),
        (
            "SETEX k 0 v",
            error("ERR invalid expire time in 'setex' command"),
        ),
        (
            "PSETEX k -5 v",
            error("ERR invalid expire time in 'psetex' command"),
        ),
        ("SETEX k x v", error(WRONG_NUMBER)),
        (
            "GETEX k EX 0",
            error("ERR invalid expire time in 'getex' command"),
        ),
        ("GET k", bulk("old")),
        (
            "SET k",
            error("ERR wrong number of arguments for 'set' command"),
        ),
    ]);
}

#[test]
fn getex_changes_only_the_expiration() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("GETEX k EX 10", Value::Null),
        ("SET k v", ok()),
        ("GETEX k EX 10", bulk("v")),
        ("TTL k", int(10)),
        ("GETEX k", bulk("v")),
        ("TTL k", int(10)),
        ("GETEX k PERSIST", bulk("v")),
        ("TTL k", int(-1)),
        ("GETEX k KEEPTTL", error(SYNTAX)),
        ("GETEX k NX", error(SYNTAX)),
        ("GETEX k PERSIST EX 1", error(SYNTAX)),
        ("GETEX k EX 1x", error(WRONG_NUMBER)),
        ("GETEX k PXAT 1000", bulk("v")),
        ("EXISTS k", int(0)),
    ]);
}

#[test]
fn older_forms_of_set_and_get() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("SETNX k 1", int(1)),
        ("SETNX k 2", int(0)),
        ("SETEX k 10 v", ok()),
        ("TTL k", int(10)),
        ("PSETEX k 20000 v", ok()),
        ("TTL k", int(20)),
        ("GETSET k w", bulk("v")),
        ("TTL k", int(-1)),
        ("GETSET none x", Value::Null),
        ("GETDEL k", bulk("w")),
        ("GETDEL k", Value::Null),
        ("MSET a 1 b 2 a 3", ok()),
        (
            "MGET a b c a",
            Value::Array(vec![bulk("3"), bulk("2"), Value::Null, bulk("3")]),
        ),
        ("MSETNX b 1 c 1", int(0)),
        ("GET c", Value::Null),
        ("MSETNX c 1 d 1 c 2", int(1)),
        ("GET c", bulk("2")),
        (
            "MSET a 1 b",
            error("ERR wrong number of arguments for 'mset' command"),
        ),
        (
            "MSETNX a 1 b",
            error("ERR wrong number of arguments for 'msetnx' command"),
        ),
    ]);
}

#[test]
fn counters_stay_within_64_bits() {
    let server = Server::start();
    let mut client = server.client();
    let overflow = error("ERR increment or decrement would overflow");
    client.expect(&[
        ("INCR n", int(1)),
        ("DECR n", int(0)),
        ("INCRBY n -5", int(-5)),
        ("DECRBY n 5", int(-10)),
        (
            "DECRBY n -9223372036854775808",
            error("ERR decrement would overflow"),
        ),
        ("SET n 9223372036854775807", ok()),
        ("INCR n", overflow.clone()),
        ("INCRBY n 9223372036854775807", overflow.clone()),
        ("GET n", bulk("9223372036854775807")),
        ("SET n -9223372036854775808", ok()),
        ("DECR n", overflow.clone()),
        ("DECRBY n 1", overflow),
        ("INCRBY n 1.5", error(WRONG_NUMBER)),
        ("INCRBY n 9223372036854775808", error(WRONG_NUMBER)),
    ]);
    for value in [
        "",
        " 1",
        "1 ",
        "+1",
        "01",
        "-0",
        "0x1",
        "1e3",
        "9223372036854775808",
        "abc",
    ] {
        assert_eq!(client.call(&["SET", "n", value]), ok());
        assert_eq!(client.run("INCR n"), error(WRONG_NUMBER), "{value:?}");
        assert_eq!(client.run("GET n"), bulk(value), "{value:?}");
    }
    client.expect(&[
        ("SET n 5 EX 100", ok()),
        ("INCR n", int(6)),
        ("TTL n", int(100)),
        ("OBJECT ENCODING n", bulk("int")),
    ]);
}

#[test]
fn floats_are_added_and_printed_as_by_80_bit_hardware() {
    let server = Server::start();
    let mut client = server.client();
    for (value, increment, sum) in [
        ("3", "0.1", "3.1"),
        ("10.50", "0.1", "10.6"),
        ("5.0e3", "2.0e2", "5200"),
        ("3", "-1.1", "1.9"),
        (
            "17179869184",
            "0.000000001",
            "17179869184.00000000186264515",
        ),
        ("-1e-20", "0", "0"),
        ("0x1.8p3", "0X.8", "12.5"),
        ("1.5", "1.5", "3"),
    ] {
        client.call(&["SET", "f", value]);
        assert_eq!(
            client.call(&["INCRBYFLOAT", "f", increment]),
            bulk(sum),
            "{value} + {increment}"
        );
        assert_eq!(client.run("GET f"), bulk(sum));
    }
    client.expect(&[
        ("INCRBYFLOAT new 1.25", bulk("1.25")),
        ("EXPIRE new 100", int(1)),
        ("INCRBYFLOAT new 1", bulk("2.25")),
        ("TTL new", int(100)),
        ("INCRBYFLOAT new x", error(NO_FLOAT)),
        ("INCRBYFLOAT new nan", error(NO_FLOAT)),
        (
            "INCRBYFLOAT new inf",
            error("ERR increment would produce NaN or Infinity"),
        ),
        ("SET big 1e4932", ok()),
        (
            "INCRBYFLOAT big 1.18e4932",
            error("ERR increment would produce NaN or Infinity"),
        ),
        ("SET text x", ok()),
        ("INCRBYFLOAT text 1", error(NO_FLOAT)),
        ("GET new", bulk("2.25")),
    ]);
}

#[test]
fn parts_of_strings_are_read_and_written() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("APPEND k Hello", int(5)),
        ("APPEND k -World", int(11)),
        ("GETRANGE k 0 4", bulk("Hello")),
        ("GETRANGE k -5 -1", bulk("World")),
        ("SUBSTR k 6 100", bulk("World")),
        ("GETRANGE k 5 3", bulk("")),
        ("GETRANGE none 0 -1", bulk("")),
        ("GETRANGE k x 1", error(WRONG_NUMBER)),
        ("STRLEN k", int(11)),
        ("STRLEN none", int(0)),
        ("SETRANGE k 6 Earth", int(11)),
        ("GET k", bulk("Hello-Earth")),
        ("SETRANGE pad 3 x", int(4)),
        ("GET pad", bulk("\0\0\0x")),
        ("SETRANGE k -1 x", error("ERR offset is out of range")),
        ("SETRANGE k 536870912 x", error(TOO_LONG)),
        ("SETRANGE k 9223372036854775807 x", error(TOO_LONG)),
        ("SETRANGE none 536870912 x", error(TOO_LONG)),
        ("EXISTS none", int(0)),
        ("SET n 1234", ok()),
        ("SETRANGE n 1 9", int(4)),
        ("GET n", bulk("1934")),
        ("APPEND n 5", int(5)),
        ("GETRANGE n 1 2", bulk("93")),
        ("STRLEN n", int(5)),
    ]);
    assert_eq!(client.call(&["SETRANGE", "none", "5", ""]), int(0));
    assert_eq!(client.call(&["SETRANGE", "k", "5", ""]), int(11));
    assert_eq!(client.run("EXISTS none"), int(0));
}

#[test]
fn expirations_survive_changes_of_a_part() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("SET k v EX 100", ok()),
        ("APPEND k w", int(2)),
        ("SETRANGE k 0 x", int(2)),
        ("TTL k", int(100)),
        ("MSET k 1", ok()),
        ("TTL k", int(-1)),
    ]);
}

#[test]
fn encodings_follow_the_value() {
    let server = Server::start();
    let mut client = server.client();
    let mut encoding_of = |command: &[&str]| {
        client.run("DEL k");
        client.call(command);
        client.run("OBJECT ENCODING k").text()
    };
    assert_eq!(encoding_of(&["SET", "k", "123"]), "int");
    assert_eq!(encoding_of(&["SET", "k", "0123"]), "embstr");
    assert_eq!(encoding_of(&["SET", "k", &"x".repeat(44)]), "embstr");
    assert_eq!(encoding_of(&["SET", "k", &"x".repeat(45)]), "raw");
    assert_eq!(encoding_of(&["APPEND", "k", "123"]), "int");
    assert_eq!(encoding_of(&["INCRBYFLOAT", "k", "3"]), "embstr");
    assert_eq!(encoding_of(&["SETRANGE", "k", "1", "x"]), "raw");
}

#[test]
fn longest_common_subsequences() {
    let server = Server::start();
    let mut client = server.client();
    let pair = |first, last| Value::Array(vec![int(first), int(last)]);
    let run = |a: (i64, i64), b: (i64, i64), length: Option<i64>| {
        let mut fields = vec![pair(a.0, a.1), pair(b.0, b.1)];
        fields.extend(length.map(int));
        Value::Array(fields)
    };
    let indexes = |runs: Vec<Value>| {
        Value::Array(vec![
            bulk("matches"),
            Value::Array(runs),
            bulk("len"),
            int(6),
        ])
    };
    client.expect(&[
        ("MSET a ohmytext b mynewtext n 12345", ok()),
        ("LCS a b", bulk("mytext")),
        ("LCS a b LEN", int(6)),
        (
            "LCS a b IDX",
            indexes(vec![run((4, 7), (5, 8), None), run((2, 3), (0, 1), None)]),
        ),
        (
            "LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN",
            indexes(vec![run((4, 7), (5, 8), Some(4))]),
        ),
        ("LCS a none", bulk("")),
        ("LCS n n LEN", int(5)),
        (
            "LCS a b IDX LEN",
            error("ERR If you want both the length and indexes, please just use IDX."),
        ),
        ("LCS a b FOO", error(SYNTAX)),
        ("LCS a b MINMATCHLEN", error(SYNTAX)),
        ("LCS a b MINMATCHLEN x", error(WRONG_NUMBER)),
        ("SETRANGE big 100000 x", int(100_001)),
        (
            "LCS big big",
            error("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"),
        ),
    ]);
}

/// Random commands against a model of one map of strings.
#[test]
fn random_commands_agree_with_a_map() {
    let server = Server::start();
    let mut client = server.client();
    let mut model: std::collections::BTreeMap<String, Vec<u8>> = Default::default();
    let mut random = 0x2545_F491_4F6C_DD1Du64;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for _ in 0..20_000 {
        let key = format!("key:{}", next(300));
        let value = vec![b'a' + next(26) as u8; next(400) as usize];
        match next(6) {
            0 | 1 => {
                assert_eq!(client.call(&[b"SET", key.as_bytes(), &value]), ok());
                model.insert(key, value);
            }
            2 => {
                let expected = model.get(&key).map_or(Value::Null, bulk);
                assert_eq!(client.call(&["GET", &key]), expected);
            }
            3 => {
                let expected = i64::from(model.remove(&key).is_some());
                assert_eq!(client.call(&["DEL", &key]), int(expected));
            }
            4 => {
                let entry = model.entry(key.clone()).or_default();
                entry.extend_from_slice(&value);
                let length = int(entry.len() as i64);
                assert_eq!(client.call(&[b"APPEND", key.as_bytes(), &value]), length);
            }
            _ => {
                let offset = next(600) as usize;
                if value.is_empty() {
                    continue;
                }
                let entry = model.entry(key.clone()).or_default();
                entry.resize(entry.len().max(offset + value.len()), 0);
                entry[offset..offset + value.len()].copy_from_slice(&value);
                let length = int(entry.len() as i64);
                let offset = offset.to_string();
                assert_eq!(
                    client.call(&[b"SETRANGE", key.as_bytes(), offset.as_bytes(), &value]),
                    length
                );
            }
        }
    }
    assert_eq!(client.run("DBSIZE"), int(model.len() as i64));
    for (key, value) in &model {
        assert_eq!(client.call(&["GET", key]), bulk(value), "{key}");
    }
}

/// A pipeline is answered in order and in full.
#[test]
fn pipelines_of_any_depth() {
    let server = Server::start();
    let mut client: Client = server.client();
    for depth in [1, 31, 32, 33, 1000] {
        for n in 0..depth {
            client.send(&["SET", &format!("p{n}"), &n.to_string()]);
            client.send(&["INCR", &format!("p{n}")]);
        }
        for n in 0..depth {
            assert_eq!(client.read(), ok());
            assert_eq!(client.read(), int(n + 1));
        }
    }
}
