//! COMMAND and its subcommands, against the real server.

mod live;

use live::{Server, Value, bulk, error, int};

#[test]
fn clients_find_arity_flags_and_key_positions() {
    let server = Server::start();
    let mut client = server.client();
    let reply = client.run("COMMAND INFO get nosuch mset config|nosuch");
    let [get, Value::Null, mset, Value::Null] = reply.elements() else {
        panic!("{reply:?}")
    };
    let fields = get.elements();
    assert_eq!(fields[0], bulk("get"));
    assert_eq!(fields[1], int(2));
    assert_eq!(fields[2].sorted(), ["fast", "readonly"]);
    assert_eq!(fields[3..6], [int(1), int(1), int(1)]);
    assert_eq!(fields[6].sorted(), ["@fast", "@read", "@string"]);
    assert_eq!(mset.elements()[3..6], [int(1), int(-1), int(2)]);

    let object = client.run("COMMAND INFO object");
    let subcommands = object.elements()[0].elements()[9].elements();
    let names: Vec<String> = subcommands
        .iter()
        .map(|sub| sub.elements()[0].text())
        .collect();
    assert_eq!(
        names,
        [
            "object|encoding",
            "object|freq",
            "object|help",
            "object|idletime",
            "object|refcount"
        ]
    );

    let all = client.run("COMMAND");
    assert_eq!(
        client.run("COMMAND COUNT"),
        int(all.elements().len() as i64)
    );
    assert_eq!(client.run("COMMAND INFO"), all);
}

#[test]
fn key_specs_have_redis_s_form() {
    let server = Server::start();
    let mut client = server.client();
    let reply = client.run("COMMAND INFO rename");
    let specs = reply.elements()[0].elements()[8].elements();
    let numbers = |fields: &[(&str, i64)]| {
        let flat = fields
            .iter()
            .flat_map(|(name, value)| [bulk(name), int(*value)]);
        Value::Array(flat.collect())
    };
    let search =
        |kind: &str, spec| Value::Array(vec![bulk("type"), bulk(kind), bulk("spec"), spec]);
    let words = |words: &[&str]| {
        Value::Array(
            words
                .iter()
                .map(|word| Value::Simple((*word).into()))
                .collect(),
        )
    };
    for (spec, at, flags) in [
        (&specs[0], 1, &["RW", "access", "delete"][..]),
        (&specs[1], 2, &["OW", "update"]),
    ] {
        assert_eq!(
            *spec,
            Value::Array(vec![
                bulk("flags"),
                words(flags),
                bulk("begin_search"),
                search("index", numbers(&[("index", at)])),
                bulk("find_keys"),
                search(
                    "range",
                    numbers(&[("lastkey", 0), ("keystep", 1), ("limit", 0)])
                ),
            ])
        );
    }
}

fn field<'v>(map: &'v Value, name: &str) -> Option<&'v Value> {
    map.elements()
        .chunks(2)
        .find(|pair| pair[0] == bulk(name))
        .map(|pair| &pair[1])
}

#[test]
fn docs_hold_the_argument_tree() {
    let server = Server::start();
    let mut client = server.client();
    let reply = client.run("COMMAND DOCS set nosuch");
    let [name, docs] = reply.elements() else {
        panic!("{reply:?}")
    };
    assert_eq!(*name, bulk("set"));
    assert_eq!(field(docs, "group"), Some(&bulk("string")));
    assert_eq!(field(docs, "since"), Some(&bulk("1.0.0")));
    let arguments = field(docs, "arguments").unwrap().elements();
    let names: Vec<String> = arguments
        .iter()
        .map(|argument| field(argument, "name").unwrap().text())
        .collect();
    assert_eq!(names, ["key", "value", "condition", "get", "expiration"]);
    assert_eq!(field(&arguments[0], "key_spec_index"), Some(&int(0)));
    let expiration = &arguments[4];
    assert_eq!(field(expiration, "type"), Some(&bulk("oneof")));
    assert_eq!(field(expiration, "flags").unwrap().texts(), ["optional"]);
    let choices = field(expiration, "arguments").unwrap().elements();
    assert_eq!(field(&choices[0], "token"), Some(&bulk("EX")));
    assert_eq!(field(&choices[2], "type"), Some(&bulk("unix-time")));
    assert_eq!(field(&choices[4], "type"), Some(&bulk("pure-token")));

    let getset = client.run("COMMAND DOCS getset");
    let docs = &getset.elements()[1];
    assert_eq!(field(docs, "doc_flags").unwrap().texts(), ["deprecated"]);
    assert_eq!(field(docs, "deprecated_since"), Some(&bulk("6.2.0")));

    let all = client.run("COMMAND DOCS");
    assert_eq!(
        int(all.elements().len() as i64 / 2),
        client.run("COMMAND COUNT")
    );
}

#[test]
fn names_are_listed_and_filtered() {
    let server = Server::start();
    let mut client = server.client();
    let all = client.run("COMMAND LIST").texts();
    assert!(all.contains(&"get".to_owned()) && all.contains(&"object|freq".to_owned()));
    assert_eq!(
        client.run("COMMAND LIST FILTERBY PATTERN GET*").sorted(),
        ["get", "getdel", "getex", "getrange", "getset"]
    );
    assert_eq!(
        client
            .run("COMMAND LIST FILTERBY ACLCAT transaction")
            .sorted(),
        ["discard", "exec", "multi", "unwatch", "watch"]
    );
    assert_eq!(
        client.run("COMMAND LIST FILTERBY ACLCAT nosuch"),
        Value::Array(vec![])
    );
    assert_eq!(
        client.run("COMMAND LIST FILTERBY MODULE any"),
        Value::Array(vec![])
    );
    assert_eq!(
        client.run("COMMAND LIST FILTERBY x y"),
        error("ERR syntax error")
    );
    assert_eq!(client.run("COMMAND LIST bad"), error("ERR syntax error"));
}

#[test]
fn keys_are_told_from_other_arguments() {
    let server = Server::start();
    let mut client = server.client();
    let keys = |client: &mut live::Client, line: &str| client.run(line).texts();
    assert_eq!(keys(&mut client, "COMMAND GETKEYS GET k"), ["k"]);
    assert_eq!(
        keys(&mut client, "COMMAND GETKEYS MSET a 1 b 2"),
        ["a", "b"]
    );
    assert_eq!(
        keys(&mut client, "COMMAND GETKEYS OBJECT ENCODING k"),
        ["k"]
    );
    assert_eq!(
        keys(&mut client, "COMMAND GETKEYS COPY a b REPLACE"),
        ["a", "b"]
    );
    client.expect(&[
        (
            "COMMAND GETKEYS nosuch k",
            error("ERR Invalid command specified"),
        ),
        (
            "COMMAND GETKEYS PING",
            error("ERR The command has no key arguments"),
        ),
        (
            "COMMAND GETKEYS GET a b",
            error("ERR Invalid number of arguments specified for command"),
        ),
        (
            "COMMAND FOO",
            error("ERR unknown subcommand 'FOO'. Try COMMAND HELP."),
        ),
        (
            "COMMAND COUNT x",
            error("ERR wrong number of arguments for 'command|count' command"),
        ),
    ]);
    let flags = |client: &mut live::Client, line: &str| {
        let reply = client.run(line);
        reply
            .elements()
            .iter()
            .map(|key| key.elements()[1].texts().join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        flags(&mut client, "COMMAND GETKEYSANDFLAGS SET k v"),
        ["OW update"]
    );
    assert_eq!(
        flags(&mut client, "COMMAND GETKEYSANDFLAGS SET k v GET"),
        ["RW access update"]
    );
    assert_eq!(
        flags(&mut client, "COMMAND GETKEYSANDFLAGS COPY a b"),
        ["RO access", "OW update"]
    );
}

#[test]
fn there_are_no_scripts_to_flush() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("SCRIPT FLUSH", live::ok()),
        ("SCRIPT FLUSH ASYNC", live::ok()),
        ("FUNCTION FLUSH", live::ok()),
        ("FUNCTION FLUSH sync", live::ok()),
        (
            "SCRIPT FLUSH now",
            error("ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
        ),
        (
            "FUNCTION FLUSH now",
            error("ERR FUNCTION FLUSH only supports SYNC|ASYNC option"),
        ),
        (
            "FUNCTION",
            error("ERR wrong number of arguments for 'function' command"),
        ),
    ]);
}

/// Every command with odd arguments, as many as it takes and others: each gets an answer, and the server goes on.
#[test]
fn no_arguments_bring_the_server_down() {
    // These end the connection or the server, stop the answers or the clock, or begin an endless stream.
    const LEFT_OUT: &[&str] = &[
        "client|kill",
        "client|pause",
        "client|reply",
        "debug",
        "hello",
        "monitor",
        "quit",
        "shutdown",
    ];
    const ODD: &[&[u8]] = &[
        b"",
        b"k",
        b"0",
        b"-1",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"1e400",
        b"nan",
        b"*",
        b"[",
        b"\\",
        b"\0\xff\r\n",
        b"EX",
        b"GET",
        b"MATCH",
        b"COUNT",
        b"DB",
        b"REPLACE",
    ];
    let server = Server::start();
    let mut client = server.client();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for name in client.run("COMMAND LIST").texts() {
        if LEFT_OUT.contains(&name.as_str()) {
            continue;
        }
        let words: Vec<&[u8]> = name.split('|').map(str::as_bytes).collect();
        for round in 0..60 {
            let mut call = words.clone();
            call.extend((0..round % 8).map(|_| ODD[random(ODD.len())]));
            client.send(&call);
            client.read();
        }
        // Whatever state the calls have led to.
        client.run("RESET");
    }
    assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
}
