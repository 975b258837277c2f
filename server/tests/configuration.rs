//! Configuration, the command line, the log and the way down, against the real server.

mod live;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use live::{Server, Value, bulk, error, ok};

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("slabkv-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// What the server says when it is started with these words, which it does not accept.
fn refusal(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_slabkv-server"))
        .args(words)
        .output()
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

fn get(client: &mut live::Client, name: &str) -> String {
    let reply = client.call(&["CONFIG", "GET", name]);
    reply.elements()[1].text()
}

#[test]
fn settings_are_changed_all_together_or_not_at_all() {
    let server = Server::start();
    let mut client = server.client();
    let set = |client: &mut live::Client, words: &[&str]| {
        client.call(&[&["CONFIG", "SET"], words].concat())
    };
    assert_eq!(
        set(&mut client, &["maxmemory", "10mb", "timeout", "5"]),
        ok()
    );
    let reply = set(&mut client, &["maxmemory", "20mb", "timeout", "x"]);
    let text = "ERR CONFIG SET failed (possibly related to argument 'timeout') - argument couldn't be parsed into an integer";
    assert_eq!(reply, error(text));
    assert_eq!(
        (get(&mut client, "maxmemory"), get(&mut client, "timeout")),
        ("10485760".into(), "5".into())
    );
    let cases: [(&[&str], &str); 5] = [
        (
            &["nonsense", "1"],
            "ERR Unknown option or number of arguments for CONFIG SET - 'nonsense'",
        ),
        (
            &["databases", "3"],
            "ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config",
        ),
        (
            &["dir", "/tmp"],
            "ERR CONFIG SET failed (possibly related to argument 'dir') - can't set protected config",
        ),
        (
            &["hz", "1", "HZ", "2"],
            "ERR CONFIG SET failed (possibly related to argument 'HZ') - duplicate parameter",
        ),
        (&["hz", "1", "hz"], "ERR syntax error"),
    ];
    for (words, text) in cases {
        assert_eq!(set(&mut client, words), error(text));
    }
    let found = client.call(&[
        "CONFIG",
        "GET",
        "maxmemory*",
        "slaveof",
        "maxmemory",
        "MAXCLIENTS",
    ]);
    let names: Vec<String> = found
        .elements()
        .iter()
        .step_by(2)
        .map(Value::text)
        .collect();
    assert_eq!(names.iter().filter(|name| *name == "maxmemory").count(), 1);
    assert!(names.contains(&"slaveof".to_owned()) && names.contains(&"maxclients".to_owned()));
    assert_eq!(
        client.run("CONFIG REWRITE"),
        error("ERR The server is running without a config file")
    );
}

#[test]
fn a_rewritten_file_starts_the_same_server_again() {
    let folder = folder("rewrite");
    let path = folder.join("slabkv.conf");
    std::fs::write(
        &path,
        "# my server\ntimeout 7\nrename-command FLUSHALL \"\"\n",
    )
    .unwrap();
    let options: Vec<String> = vec![path.display().to_string()];
    let server = Server::start_with_file(&options[0]);
    let mut client = server.client();
    assert_eq!(client.run("CONFIG SET maxmemory 100mb"), ok());
    assert_eq!(
        client.call(&["CONFIG", "SET", "requirepass", "a \"b\" c"]),
        ok()
    );
    assert_eq!(client.run("CONFIG REWRITE"), ok());
    drop(client);
    drop(server);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.starts_with("# my server\ntimeout 7\nrename-command FLUSHALL \"\"\n"),
        "{text}"
    );
    let server = Server::start_with_file(&options[0]);
    let mut client = server.client();
    assert_eq!(client.call(&["AUTH", "a \"b\" c"]), ok());
    assert_eq!(
        (get(&mut client, "maxmemory"), get(&mut client, "timeout")),
        ("104857600".into(), "7".into())
    );
    assert!(
        client
            .run("FLUSHALL")
            .text()
            .starts_with("ERR unknown command 'FLUSHALL'")
    );
    drop(server);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn wrong_words_on_the_command_line_are_told() {
    let cases: [(&[&str], &str); 5] = [
        (&["--invalid"], "Bad directive or wrong number of arguments"),
        (&["--port"], ">>> 'port'\nwrong number of arguments"),
        (
            &["--port", "--bla", "--loglevel", "verbose"],
            ">>> 'port \"--bla\"'\nargument couldn't be parsed into an integer",
        ),
        (
            &["--appendonly", "yes"],
            "this server does not support 'appendonly'",
        ),
        (
            &["/nonexistent/file.conf"],
            "can't open config file '/nonexistent/file.conf'",
        ),
    ];
    for (words, text) in cases {
        let said = refusal(words);
        assert!(said.contains(text), "{words:?}: {said}");
    }
}

#[test]
fn the_log_says_what_tools_wait_for() {
    let mut process = Command::new(env!("CARGO_BIN_EXE_slabkv-server"))
        .args(["-", "--port", "0", "--unixsocket"])
        .arg(folder("log").join("server.sock"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process
        .stdin
        .take()
        .unwrap()
        .write_all(b"loglevel notice\nhash-max-ziplist-entries 7\n")
        .unwrap();
    let mut log = BufReader::new(process.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("Ready to accept connections unix") {
        assert!(log.read_line(&mut text).unwrap() > 0, "{text}");
    }
    let id = process.id();
    for part in [
        "slabkv is starting",
        &format!(" PID: {id}\n"),
        "* Server initialized\n",
        "'hash-max-listpack-entries' is accepted",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    assert!(
        text.lines()
            .next()
            .unwrap()
            .starts_with(&format!("{id}:M "))
    );
    let killed = Command::new("kill")
        .args(["-TERM", &id.to_string()])
        .status()
        .unwrap();
    assert!(killed.success() && process.wait().unwrap().success());
    log.read_to_string(&mut text).unwrap();
    for part in [
        "# Received SIGTERM scheduling shutdown...\n",
        "* User requested shutdown...\n",
        "is now ready to exit, bye bye...\n",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    std::fs::remove_dir_all(folder("log")).unwrap();
}

#[test]
fn shutdown_ends_the_process_and_removes_its_files() {
    let folder = folder("shutdown");
    let pid_file = folder.join("pid");
    let mut server = Server::start_with(&["--pidfile", &pid_file.display().to_string()]);
    let id = std::fs::read_to_string(&pid_file).unwrap();
    assert_eq!(id.trim(), server.process_id().to_string());
    let mut client = server.client();
    client.expect(&[
        ("SHUTDOWN SAVE NOSAVE", error("ERR syntax error")),
        ("SHUTDOWN ABORT", error("ERR No shutdown in progress.")),
        (
            "SHUTDOWN SAVE",
            error("ERR Errors trying to SHUTDOWN. Check logs."),
        ),
    ]);
    client.send(&["SHUTDOWN"]);
    assert!(client.read_to_end().is_empty());
    assert!(server.wait());
    assert!(!pid_file.exists());
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_port_can_be_changed_while_the_server_runs() {
    let server = Server::start();
    let mut client = server.client();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken_port = taken.local_addr().unwrap().port();
    assert_eq!(client.run("CONFIG SET bind 127.0.0.1"), ok());
    let free_port = loop {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        // Somebody else may have taken it meanwhile.
        if client.run(&format!("CONFIG SET port {port}")) == ok() {
            break port;
        }
    };
    let ping = |port: u16| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"PING\r\n").unwrap();
        let mut reply = [0; 7];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"+PONG\r\n");
    };
    ping(free_port);
    let text = "ERR CONFIG SET failed (possibly related to argument 'port') - Unable to listen on this port. Check server logs.";
    assert_eq!(
        client.run(&format!("CONFIG SET port {taken_port}")),
        error(text)
    );
    ping(free_port);
    assert_eq!(get(&mut client, "port"), free_port.to_string());
}

#[test]
fn memory_reports_add_up_and_memory_comes_back() {
    let server = Server::start();
    let mut client = server.client();
    for _ in 0..20 {
        let value = "v".repeat(1000);
        for number in 0..500 {
            client.send(&["SET", &format!("key:{number}"), &value]);
        }
        for _ in 0..500 {
            assert_eq!(client.read(), ok());
        }
    }
    let info = client.run("INFO memory").text();
    let figure = |name: &str| -> i64 {
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("no {name}"))
            .trim()
            .parse()
            .unwrap()
    };
    let parts: i64 = info
        .lines()
        .filter_map(|line| line.strip_prefix("mem_part_"))
        .map(|line| {
            line.split_once(':')
                .unwrap()
                .1
                .trim()
                .parse::<i64>()
                .unwrap()
        })
        .sum();
    let rss = figure("used_memory_rss");
    assert!(
        (parts - rss).abs() * 50 <= rss,
        "parts {parts}, resident {rss}"
    );
    assert!(figure("used_memory_peak") >= figure("used_memory"));
    assert!(client.run("MEMORY USAGE key:1").integer() > 1000);
    assert_eq!(client.run("MEMORY USAGE missing"), Value::Null);
    assert_eq!(client.run("MEMORY PURGE"), ok());
    assert!(client.run("MEMORY COMPACT").elements().len() >= 8);
    assert!(
        client
            .run("MEMORY MALLOC-STATS")
            .text()
            .contains("entry headers")
    );
    assert!(!client.run("MEMORY DOCTOR").text().is_empty());
    assert!(
        client
            .run("MEMORY STATS")
            .elements()
            .iter()
            .any(|field| *field == bulk("keys.count"))
    );
    assert!(client.run("LOLWUT").text().contains("Redis ver. "));
}
