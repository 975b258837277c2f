//! The figures of memory that the server shows are explained in the documents, and cover Redis's.

mod live;

use std::collections::HashSet;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use live::{Client, Server, Value};

/// What INFO memory of Redis 8 has.
const REDIS_FIELDS: &str = include_str!("redis8_memory_fields.txt");

/// What its other sections have.
const REDIS_INFO_FIELDS: &str = include_str!("redis8_info_fields.txt");

/// What its MEMORY STATS has.
const REDIS_STATS: &str = include_str!("redis8_memory_stats.txt");

fn fields(client: &mut Client, section: &str) -> Vec<(String, String)> {
    let text = client.run(&format!("INFO {section}")).text();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

#[test]
fn every_field_is_explained() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/memory.md");
    let text = std::fs::read_to_string(path).expect("docs/memory.md");
    let server = Server::start();
    let mut client = server.client();
    client.run("SET key value");
    let mut seen = 0;
    for section in ["memory", "memorymap", "keysizes"] {
        for (name, _) in fields(&mut client, section) {
            let base = name.trim_end_matches("_reset").trim_end_matches("_peak");
            let known = text.contains(&format!("`{name}`"));
            assert!(
                known || text.contains(&format!("`{base}`")),
                "{name} is not explained"
            );
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}

/// The kind of a value: a whole number, one with a point, a share in percent, a size for people, or a text.
fn kind(value: &str) -> &'static str {
    let is = |text: &str| text.parse::<f64>().is_ok();
    match value {
        _ if value.parse::<i128>().is_ok() => "integer",
        _ if is(value) => "fraction",
        _ if is(value.trim_end_matches('%')) => "percent",
        _ if is(value.trim_end_matches(['B', 'K', 'M', 'G', 'T'])) => "size",
        _ => "text",
    }
}

/// The lines of a list without its comments, each as its words.
fn rows<const WORDS: usize>(list: &str) -> impl Iterator<Item = [&str; WORDS]> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let words = words.try_into();
        words.unwrap_or_else(|_| panic!("{line}: not {WORDS} words"))
    })
}

/// Checks that a field of a section is there, and that its value is of this kind.
fn has(ours: &[(String, String)], name: &str, of_kind: &str) {
    let found = ours.iter().find(|(field, _)| field == name);
    let (_, value) = found.unwrap_or_else(|| panic!("{name} is missing"));
    assert_eq!(kind(value), of_kind, "{name}:{value}");
}

#[test]
fn every_field_of_redis_is_there_and_of_its_kind() {
    let server = Server::start();
    let mut client = server.client();
    let ours = fields(&mut client, "memory");
    let mut checked = 0;
    for [name, of_kind] in rows(REDIS_FIELDS) {
        has(&ours, name, of_kind);
        checked += 1;
    }
    assert!(checked >= 50, "{checked}");
}

#[test]
fn every_field_of_all_other_sections_is_there_and_of_its_kind() {
    let server = Server::start();
    let mut client = server.client();
    client.run("SET key value");
    let mut checked = 0;
    for [section, name, of_kind] in rows(REDIS_INFO_FIELDS) {
        has(&fields(&mut client, section), name, of_kind);
        checked += 1;
    }
    assert!(checked >= 150, "{checked}");
}

#[test]
fn memory_stats_begins_with_the_keys_of_redis() {
    let server = Server::start();
    let mut client = server.client();
    client.run("SET key value");
    let stats = stats(&mut client);
    let theirs: Vec<(String, String)> = rows(REDIS_STATS)
        .map(|row: [&str; 2]| row.map(str::to_owned).into())
        .collect();
    assert!(theirs.len() > 30);
    assert_eq!(stats[..theirs.len()], theirs[..]);
}

/// The keys of MEMORY STATS, each with the type of its value.
fn stats(client: &mut Client) -> Vec<(String, String)> {
    let reply = client.run("MEMORY STATS");
    let pairs = reply.elements().chunks(2);
    pairs
        .map(|pair| (pair[0].text(), shape(&pair[1])))
        .collect()
}

/// A value's type on the wire, maps by their keys.
fn shape(value: &Value) -> String {
    match value {
        Value::Integer(_) => "integer".into(),
        Value::Simple(_) | Value::Bulk(_) => "string".into(),
        Value::Array(_) => "array".into(),
        other => format!("{other:?}"),
    }
}

/// A process that ends with the test, also with one that fails.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With the path of a redis-server of version 8 or later in `SLABKV_REDIS_SERVER`, its own fields are what counts.
#[test]
fn a_live_redis_has_no_field_that_is_missing_here() {
    let Some(binary) = std::env::var_os("SLABKV_REDIS_SERVER") else {
        eprintln!("passed over: SLABKV_REDIS_SERVER is not set");
        return;
    };
    let socket = std::env::temp_dir().join(format!("slabkv-redis-{}.sock", std::process::id()));
    let _redis = Running(
        Command::new(binary)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts"),
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < deadline, "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut theirs = Client::connect(&socket);
    let server = Server::start();
    let mut ours = server.client();
    for client in [&mut theirs, &mut ours] {
        client.run("SET key value");
    }
    let here = fields(&mut ours, "memory");
    let listed: HashSet<&str> = REDIS_FIELDS
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    for (name, value) in fields(&mut theirs, "memory") {
        let found = here.iter().find(|(field, _)| *field == name);
        let (_, ours) = found.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(
            kind(ours),
            kind(&value),
            "{name}: {ours} here, {value} there"
        );
        assert!(
            listed.contains(name.as_str()),
            "{name} is missing in the list"
        );
    }
    let (here, there) = (stats(&mut ours), stats(&mut theirs));
    assert_eq!(
        here[..there.len()],
        there[..],
        "MEMORY STATS begins with Redis's keys"
    );
}

#[test]
fn a_key_is_explained() {
    let server = Server::start_with(&["--enable-debug-command", "yes"]);
    let mut client = server.client();
    client.call(&["SET", "small", &"x".repeat(100)]);
    client.call(&["SET", "large", &"x".repeat(50_000)]);
    let text = client.run("DEBUG OBJECT small").text();
    for part in [
        " class:",
        " slab:",
        " slab_slots:",
        " slab_live:",
        " slab_occupancy:0.",
        " rounding:",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let figure = |name: &str| -> usize {
        let rest = text.split_once(&format!(" {name}:")).expect(name).1;
        rest.split(' ').next().expect(name).parse().expect(name)
    };
    assert_eq!(figure("class"), figure("slot"));
    // Key, value and three bytes of header.
    assert_eq!(figure("rounding"), figure("slot") - 108);
    assert!((1..=figure("slab_slots")).contains(&figure("slab_live")));
    let text = client.run("DEBUG OBJECT large").text();
    assert!(text.contains(" pages:13"), "{text}");
    let whole = client.run("MEMORY USAGE small").integer();
    assert!(whole > 108);

    let mut explained = |key: &str| -> Vec<(String, i64)> {
        let reply = client.run(&format!("MEMORY USAGE {key} SAMPLES 5 WHERE"));
        let pairs = reply.elements().chunks(2);
        pairs
            .map(|pair| (pair[0].text(), pair[1].integer()))
            .collect()
    };
    let small = explained("small");
    let figure_of = |name: &str| small.iter().find(|(part, _)| part == name).expect(name).1;
    assert_eq!((small[0].0.as_str(), small[0].1), ("total-bytes", whole));
    let parts = &small[1..6];
    assert_eq!(parts.iter().map(|(_, bytes)| bytes).sum::<i64>(), whole);
    assert_eq!((figure_of("key-bytes"), figure_of("value-bytes")), (5, 100));
    assert_eq!(figure_of("slot-bytes"), figure("class") as i64);
    assert_eq!(figure_of("slab"), figure("slab") as i64);
    assert_eq!(figure_of("slab-slots"), figure("slab_slots") as i64);
    assert!((1..=figure_of("slab-slots")).contains(&figure_of("slab-live")));
    assert_eq!(explained("large").last(), Some(&("pages".to_owned(), 13)));
    assert_eq!(client.run("MEMORY USAGE missing WHERE"), Value::Null);
    let wrong = client.run("MEMORY USAGE small WHERE SAMPLES");
    assert_eq!(wrong, live::error("ERR syntax error"));
}
