//! Transactions, against the real server.

mod live;

use std::time::Duration;

use live::{Server, Value, bulk, error, int, ok, queued};
use redis::Commands;

const EXECABORT: &str = "EXECABORT Transaction discarded because of previous errors.";

#[test]
fn a_client_library_runs_transactions() -> redis::RedisResult<()> {
    let server = Server::start();
    let mut connection = server.redis();
    let () = connection.set("counter", 10)?;
    let (before, after): (i64, i64) =
        redis::transaction(&mut connection, &["counter"], |connection, pipeline| {
            let before: i64 = connection.get("counter")?;
            let replies: Option<(i64,)> = pipeline
                .set("counter", before * 2)
                .ignore()
                .get("counter")
                .query(connection)?;
            Ok(replies.map(|(after,)| (before, after)))
        })?;
    assert_eq!((before, after), (10, 20));
    Ok(())
}

#[test]
fn queued_commands_run_together_and_in_order() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("MULTI", ok()),
        ("SET a 1", queued()),
        ("INCR a", queued()),
        ("INCRBY a x", queued()),
        ("SELECT 1", queued()),
        ("SET a other", queued()),
        ("GET a", queued()),
        ("KEYS *", queued()),
        ("SCAN 0 COUNT 100", queued()),
    ]);
    assert_eq!(
        client.run("EXEC"),
        Value::Array(vec![
            ok(),
            int(2),
            error("ERR value is not an integer or out of range"),
            ok(),
            ok(),
            bulk("other"),
            Value::Array(vec![bulk("a")]),
            Value::Array(vec![bulk("0"), Value::Array(vec![bulk("a")])]),
        ])
    );
    client.expect(&[
        ("GET a", bulk("other")),
        ("SELECT 0", ok()),
        ("GET a", bulk("2")),
        ("MULTI", ok()),
        ("EXEC", Value::Array(vec![])),
    ]);
}

#[test]
fn the_errors_of_each_step() {
    let server = Server::start();
    let mut client = server.client();
    client.expect(&[
        ("EXEC", error("ERR EXEC without MULTI")),
        ("DISCARD", error("ERR DISCARD without MULTI")),
        ("MULTI", ok()),
        ("MULTI", error("ERR MULTI calls can not be nested")),
        ("WATCH k", error("ERR WATCH inside MULTI is not allowed")),
        ("SET k v", queued()),
        ("EXEC", Value::Array(vec![ok()])),
        ("MULTI", ok()),
        ("SET k w", queued()),
        ("GET", error("ERR wrong number of arguments for 'get' command")),
        ("SET k x", queued()),
        ("EXEC", error(EXECABORT)),
        ("GET k", bulk("v")),
        ("MULTI", ok()),
        ("NOSUCH", error("ERR unknown command 'NOSUCH', with args beginning with: ")),
        ("EXEC", error(EXECABORT)),
        ("MULTI", ok()),
        (
            "EXEC now",
            error("EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command"),
        ),
        ("EXEC", error("ERR EXEC without MULTI")),
        ("MULTI", ok()),
        ("SET k y", queued()),
        ("DISCARD", ok()),
        ("GET k", bulk("v")),
        ("EXEC", error("ERR EXEC without MULTI")),
    ]);
}

/// What the server has come to refuse since a command was queued, EXEC refuses.
#[test]
fn exec_is_refused_like_the_commands_it_would_run() {
    let server = Server::start();
    let (mut client, mut other) = (server.client(), server.client());
    let no_memory = "command not allowed when used memory > 'maxmemory'.";
    client.expect(&[("SET k 1", ok())]);
    for (setting, unset, reason, writes) in [
        (
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            "NOREPLICAS Not enough good replicas to write.".to_owned(),
            "INCR k",
        ),
        (
            "CONFIG SET maxmemory 1",
            "CONFIG SET maxmemory 0",
            format!("OOM {no_memory}"),
            "SET k 2",
        ),
    ] {
        client.expect(&[("MULTI", ok()), (writes, queued()), ("GET k", queued())]);
        other.expect(&[(setting, ok())]);
        let refused = error(&format!(
            "EXECABORT Transaction discarded because of: {reason}"
        ));
        client.expect(&[("EXEC", refused), (writes, error(&reason))]);
        other.expect(&[(unset, ok())]);

        client.expect(&[("MULTI", ok()), ("GET k", queued()), ("PING", queued())]);
        other.expect(&[(setting, ok())]);
        let pong = Value::Simple("PONG".into());
        client.expect(&[("EXEC", Value::Array(vec![bulk("1"), pong]))]);
        other.expect(&[(unset, ok())]);
    }
}

/// What another client may do to a watched key, and whether that breaks the transaction.
#[test]
fn a_change_of_a_watched_key_breaks_the_transaction() {
    let server = Server::start();
    for (change, broken) in [
        ("GET k", false),
        ("EXISTS k", false),
        ("TOUCH k", false),
        ("SET other v", false),
        ("SET k v", true),
        ("SET k v NX", false),
        ("DEL k", true),
        ("UNLINK k", true),
        ("APPEND k x", true),
        ("INCR k", true),
        ("INCRBYFLOAT k 1", true),
        ("SETRANGE k 0 x", true),
        ("GETDEL k", true),
        ("GETSET k x", true),
        ("GETEX k EX 100", true),
        ("GETEX k", false),
        ("MSET other 1 k 2", true),
        ("MSETNX other 1 k 2", false),
        ("EXPIRE k 100", true),
        ("EXPIRE k -1", true),
        ("EXPIRE k 100 XX", false),
        ("PERSIST k", false),
        ("RENAME k other", true),
        ("RENAME source k", true),
        ("COPY source k REPLACE", true),
        ("COPY source k", false),
        ("COPY k other", false),
        ("MOVE k 1", true),
        ("SWAPDB 0 1", true),
        ("SWAPDB 1 2", false),
        ("FLUSHDB", true),
        ("FLUSHALL", true),
        ("DEL none", false),
    ] {
        let (mut client, mut other) = (server.client(), server.client());
        client.expect(&[
            ("FLUSHALL", ok()),
            ("MSET k 1 source 2", ok()),
            ("WATCH k none", ok()),
        ]);
        other.run(change);
        client.expect(&[("MULTI", ok()), ("PING", queued())]);
        let expected = if broken {
            Value::NullArray
        } else {
            Value::Array(vec![Value::Simple("PONG".into())])
        };
        assert_eq!(client.run("EXEC"), expected, "{change}");
        // The watch has ended with the transaction.
        other.run("SET k z");
        client.expect(&[("MULTI", ok()), ("EXEC", Value::Array(vec![]))]);
    }
}

#[test]
fn a_watch_ends_with_unwatch_discard_and_exec() {
    let server = Server::start();
    let (mut client, mut other) = (server.client(), server.client());
    let done = Value::Array(vec![]);
    client.expect(&[("SET k 1", ok()), ("WATCH k", ok()), ("UNWATCH", ok())]);
    other.expect(&[("SET k 2", ok())]);
    client.expect(&[("MULTI", ok()), ("EXEC", done.clone())]);

    client.expect(&[("WATCH k", ok()), ("MULTI", ok()), ("DISCARD", ok())]);
    other.expect(&[("SET k 3", ok())]);
    client.expect(&[("MULTI", ok()), ("EXEC", done.clone())]);

    client.expect(&[("WATCH k k k", ok()), ("SET k own", ok()), ("MULTI", ok())]);
    assert_eq!(client.run("EXEC"), Value::NullArray);
    client.expect(&[
        ("MULTI", ok()),
        ("UNWATCH", queued()),
        ("EXEC", Value::Array(vec![ok()])),
    ]);
}

#[test]
fn watching_is_about_one_database() {
    let server = Server::start();
    let (mut client, mut other) = (server.client(), server.client());
    client.expect(&[
        ("SELECT 5", ok()),
        ("SET k 1", ok()),
        ("WATCH k", ok()),
        ("SELECT 0", ok()),
    ]);
    other.expect(&[("SET k 1", ok())]);
    client.expect(&[("MULTI", ok()), ("EXEC", Value::Array(vec![]))]);
    client.expect(&[("SELECT 5", ok()), ("WATCH k", ok()), ("SELECT 0", ok())]);
    other.expect(&[("SELECT 5", ok()), ("SET k 2", ok())]);
    client.expect(&[("MULTI", ok()), ("EXEC", Value::NullArray)]);
}

#[test]
fn expiration_of_a_watched_key_counts_as_a_change() {
    let server = Server::start();
    let mut client = server.client();
    // Until the key is there when it is watched, however slow the machine is.
    loop {
        client.expect(&[("SET k v PX 40", ok()), ("WATCH k", ok())]);
        if client.run("EXISTS k") == int(1) {
            break;
        }
        client.expect(&[("UNWATCH", ok())]);
    }
    std::thread::sleep(Duration::from_millis(80));
    client.expect(&[
        ("MULTI", ok()),
        ("PING", queued()),
        ("EXEC", Value::NullArray),
    ]);

    // A key that was gone already when it was watched cannot go once more.
    client.expect(&[("SET k v PX 1", ok())]);
    std::thread::sleep(Duration::from_millis(20));
    client.expect(&[
        ("WATCH k", ok()),
        ("MULTI", ok()),
        ("GET k", queued()),
        ("EXEC", Value::Array(vec![Value::Null])),
    ]);
}

/// Four clients move amounts between accounts, each step a transaction; nothing is lost or made.
#[test]
fn transactions_of_many_clients_are_atomic() {
    const ACCOUNTS: u64 = 20;
    let server = Server::start();
    let mut client = server.client();
    for account in 0..ACCOUNTS {
        client.run(&format!("SET account:{account} 1000"));
    }
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.client();
                for step in 0..300u64 {
                    let from = (worker * 7 + step * 3) % ACCOUNTS;
                    let to = (worker * 5 + step * 11 + 1) % ACCOUNTS;
                    client.expect(&[("MULTI", ok())]);
                    client.run(&format!("DECRBY account:{from} {step}"));
                    client.run(&format!("INCRBY account:{to} {step}"));
                    assert_eq!(client.run("EXEC").elements().len(), 2);
                }
            });
        }
        let mut reader = server.client();
        let keys: Vec<String> = (0..ACCOUNTS)
            .map(|account| format!("account:{account}"))
            .collect();
        for _ in 0..200 {
            let mut command = vec!["MGET"];
            command.extend(keys.iter().map(String::as_str));
            let balances = reader.call(&command).texts();
            let total: i64 = balances
                .iter()
                .map(|balance| balance.parse::<i64>().unwrap())
                .sum();
            assert_eq!(total, 1000 * ACCOUNTS as i64);
        }
    });
}

/// Optimistic counting: only a transaction whose watched key did not change gets through.
#[test]
fn watched_counters_never_lose_a_step() {
    let server = Server::start();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = server.client();
                for _ in 0..100 {
                    loop {
                        client.expect(&[("WATCH counter", ok())]);
                        let value = match client.run("GET counter") {
                            Value::Null => 0,
                            text => text.text().parse::<i64>().unwrap(),
                        };
                        client.expect(&[("MULTI", ok())]);
                        client.run(&format!("SET counter {}", value + 1));
                        if client.run("EXEC") != Value::NullArray {
                            break;
                        }
                    }
                }
            });
        }
    });
    assert_eq!(server.client().run("GET counter"), bulk("400"));
}
