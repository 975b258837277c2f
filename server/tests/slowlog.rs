//! The slow log: Redis's shape for whoever does not ask for more, and what a slow command waited for.

mod live;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use live::{Client, Server, Value, bulk, error, ok};

/// What the entries' last elements say, of commands with this first word.
fn waits(client: &mut Client, of: &str) -> Vec<HashMap<String, i64>> {
    let reply = client.run("SLOWLOG GET -1 WAITS");
    let entries = reply.elements().iter().map(Value::elements);
    let of_command = entries.filter(|entry| entry[3].elements()[0] == bulk(of));
    of_command
        .map(|entry| {
            assert_eq!(entry.len(), 7);
            let pairs = entry[6].elements().chunks(2);
            pairs
                .map(|pair| (pair[0].text(), pair[1].integer()))
                .collect()
        })
        .collect()
}

#[test]
fn an_entry_has_six_elements_unless_more_is_asked_for() {
    let server = Server::start_with(&["--slowlog-log-slower-than", "0"]);
    let mut client = server.client();
    client.run("SET key value");
    let reply = client.run("SLOWLOG GET");
    assert_eq!(reply.elements()[0].elements().len(), 6);
    let entry = reply.elements()[0].elements();
    assert_eq!(entry[3].texts(), ["SET", "key", "value"]);
    for more in ["SLOWLOG GET WAITS", "SLOWLOG GET 1 WAITS"] {
        let reply = client.run(more);
        assert_eq!(reply.elements()[0].elements().len(), 7, "{more}");
    }
    assert_eq!(client.run("SLOWLOG GET 1 waits").elements().len(), 1);
    let wrong = error("ERR count should be greater than or equal to -1");
    assert_eq!(client.run("SLOWLOG GET WAIT"), wrong);
    assert_eq!(client.run("SLOWLOG GET WAITS 1").text()[..4], *"ERR ");
}

#[test]
fn faults_are_told() {
    // One worker: no other one can have the lock.
    let server = Server::start_with(&["--slowlog-log-slower-than", "0", "--io-threads", "1"]);
    let mut client = server.client();
    // A value of its own pages, none of which was touched before.
    client.run("SETRANGE key 16777216 x");
    let waits = waits(&mut client, "SETRANGE");
    let [entry] = &waits[..] else {
        panic!("{waits:?}");
    };
    assert!(entry["minor-faults"] > 0, "{entry:?}");
    assert!(entry["counted-microseconds"] > 0, "{entry:?}");
    assert!(entry["major-faults"] >= 0 && entry["off-cpu-microseconds"] >= 0);
    assert_eq!(entry["lock-microseconds"], 0);
}

#[test]
fn waiting_for_a_lock_is_told() {
    let server = Server::start_with(&["--io-threads", "2", "--slowlog-max-len", "100000"]);
    let (mut one, mut other) = (server.client(), server.client());
    one.run("CONFIG SET slowlog-log-slower-than 0");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A transaction holds its shard from its first command to its last.
        let done = &done;
        scope.spawn(move || {
            let set = b"SET key value\r\n".repeat(5000);
            let transaction = [b"MULTI\r\n", &set[..], b"EXEC\r\n"].concat();
            while !done.load(Ordering::Relaxed) {
                one.send_raw(&transaction);
                assert_eq!(one.read(), ok());
                (0..5000).for_each(|_| drop(one.read()));
                assert_eq!(one.read().elements().len(), 5000);
            }
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut watching = server.client();
        loop {
            watching.run("SLOWLOG RESET");
            for _ in 0..200 {
                other.run("GET key");
            }
            let waits = waits(&mut watching, "GET");
            if waits.iter().any(|entry| entry["lock-microseconds"] > 0) {
                break;
            }
            if Instant::now() > deadline {
                done.store(true, Ordering::Relaxed);
                panic!("nobody waits: {waits:?}");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
