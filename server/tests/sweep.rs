//! Many sockets that are ready at once, each with something else to say: every client gets its own replies, whole and in
//! order, whatever its neighbours send.

mod live;

use live::{Client, Server, Value, bulk, int, ok, queued};

/// Holds the only worker up while `send` makes sockets ready, so that it finds all of them at once.
fn at_once(server: &Server, send: impl FnOnce()) {
    let mut holder = server.client();
    holder.send(&["DEBUG", "SLEEP", "0.2"]);
    std::thread::sleep(std::time::Duration::from_millis(50));
    send();
    assert_eq!(holder.read(), ok());
}

fn server() -> Server {
    Server::start_with(&["--io-threads", "1", "--enable-debug-command", "yes"])
}

#[test]
fn neighbours_do_not_mix() {
    const ROUNDS: usize = 8;
    const BIG_BYTES: usize = 200_000;
    let server = server();
    let mut admin = server.client();
    let big = "b".repeat(BIG_BYTES);
    assert_eq!(admin.call(&["SET", "big", &big]), ok());
    assert_eq!(admin.call(&["SET", "small", "s"]), ok());
    let mut clients: Vec<Vec<Client>> = (0..ROUNDS)
        .map(|_| (0..10).map(|_| server.client()).collect())
        .collect();
    // All have been accepted and served once.
    for client in clients.iter_mut().flatten() {
        assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
    }
    at_once(&server, || {
        for (round, clients) in clients.iter_mut().enumerate() {
            let name = format!("round:{round}");
            clients[0].send(&["GET", "small"]);
            clients[1].send_raw(b"*2\r\n$3\r\nGET\r\n$5\r\nsm");
            clients[2].send_raw(b"*1\r\n!3\r\nGET\r\n");
            clients[3].send_raw(b"PING\r\nQUIT\r\nPING\r\n");
            clients[4].send(&["SELECT", "3"]);
            clients[4].send(&["SET", &name, "three"]);
            clients[4].send(&["GET", &name]);
            clients[5].send_raw("ECHO x\r\n".repeat(100).as_bytes());
            clients[6].send_raw("GET big\r\nGET small\r\n".repeat(3).as_bytes());
            for line in ["MULTI", "GET small", "EXEC", "GET nothing"] {
                clients[7].send(&line.split(' ').collect::<Vec<_>>());
            }
            clients[8].send(&["INCR", "counter"]);
            clients[9].send_raw(b"SET small\r\n\r\nGET small\r\n");
        }
    });
    let mut counted = Vec::new();
    for (round, clients) in clients.iter_mut().enumerate() {
        let name = format!("round:{round}");
        assert_eq!(clients[0].read(), bulk("s"));
        clients[1].send_raw(b"all\r\n");
        assert_eq!(clients[1].read(), bulk("s"));
        let refused = "-ERR Protocol error: expected '$', got '!'\r\n";
        assert_eq!(clients[2].read_to_end(), refused.as_bytes());
        assert_eq!(clients[3].read_to_end(), b"+PONG\r\n+OK\r\n");
        let replies = [(); 3].map(|()| clients[4].read());
        assert_eq!(replies, [ok(), ok(), bulk("three")]);
        assert_eq!(admin.run(&format!("EXISTS {name}")), int(0));
        for _ in 0..100 {
            assert_eq!(clients[5].read(), bulk("x"));
        }
        for _ in 0..3 {
            assert_eq!(clients[6].read(), bulk(&big));
            assert_eq!(clients[6].read(), bulk("s"));
        }
        let replies = [(); 4].map(|()| clients[7].read());
        let array = Value::Array(vec![bulk("s")]);
        assert_eq!(replies, [ok(), queued(), array, Value::Null]);
        counted.push(clients[8].read().integer());
        let wrong = "ERR wrong number of arguments for 'set' command";
        assert_eq!(clients[9].read(), live::error(wrong));
        assert_eq!(clients[9].read(), bulk("s"));
    }
    counted.sort_unstable();
    assert_eq!(counted, (1..=ROUNDS as i64).collect::<Vec<_>>());
    for client in clients.iter_mut().flat_map(|clients| &mut clients[4..]) {
        assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
    }
}

#[test]
fn clients_that_go_or_are_killed_leave_the_others_alone() {
    let server = server();
    let mut admin = server.client();
    assert_eq!(admin.run("SET k v"), ok());
    let mut clients: Vec<Client> = (0..30).map(|_| server.client()).collect();
    let ids: Vec<i64> = clients
        .iter_mut()
        .map(|client| client.run("CLIENT ID").integer())
        .collect();
    at_once(&server, || {
        for (at, client) in clients.iter_mut().enumerate() {
            match at % 3 {
                0 => client.send(&["GET", "k"]),
                // Kills the one behind it, whose command has been read already.
                1 => client.send(&["CLIENT", "KILL", "ID", &ids[at + 1].to_string()]),
                _ => client.send(&["APPEND", "log", "x"]),
            }
        }
        // These are gone before they are served.
        for at in (0..30).step_by(6).rev() {
            drop(clients.swap_remove(at));
        }
    });
    for _ in 0..50 {
        assert_eq!(admin.run("GET k"), bulk("v"));
    }
    // Those that are still there answer, after whatever they were told before.
    let mut alive = 0;
    for client in &mut clients {
        if client.try_send_raw(b"ECHO end\r\nQUIT\r\n") {
            alive += usize::from(client.read_to_end().ends_with(b"$3\r\nend\r\n+OK\r\n"));
        }
    }
    // Of 30, five went and ten were killed, of whom one or the other killed somebody before.
    assert!((10..=20).contains(&alive), "{alive}");
}

#[test]
fn a_pause_that_begins_in_the_middle_holds_only_writers() {
    let server = server();
    let mut admin = server.client();
    assert_eq!(admin.run("SET k v"), ok());
    let mut clients: Vec<Client> = (0..20).map(|_| server.client()).collect();
    for client in &mut clients {
        assert_eq!(client.run("PING"), Value::Simple("PONG".into()));
    }
    assert_eq!(admin.run("CLIENT PAUSE 60000 WRITE"), ok());
    at_once(&server, || {
        for client in &mut clients {
            client.send(&["GET", "k"]);
            client.send(&["INCR", "n"]);
            client.send(&["GET", "k"]);
        }
    });
    for client in &mut clients {
        assert_eq!(client.read(), bulk("v"));
    }
    assert_eq!(admin.run("EXISTS n"), int(0));
    assert_eq!(admin.run("CLIENT UNPAUSE"), ok());
    let mut sums: Vec<i64> = clients
        .iter_mut()
        .map(|client| client.read().integer())
        .collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=20).collect::<Vec<_>>());
    for client in &mut clients {
        assert_eq!(client.read(), bulk("v"));
    }
}
