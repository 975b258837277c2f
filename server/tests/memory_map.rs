//! MEMORY MAP against the real server.

mod live;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use live::{Server, Value, error};

/// A map reply by name, from either version of the protocol.
fn fields(reply: &Value) -> HashMap<String, Value> {
    match reply {
        Value::Map(pairs) => pairs
            .iter()
            .map(|(name, value)| (name.text(), value.clone()))
            .collect(),
        Value::Array(flat) => flat
            .chunks(2)
            .map(|pair| (pair[0].text(), pair[1].clone()))
            .collect(),
        other => panic!("{other:?} is no map"),
    }
}

/// Says that it is time to stop when it is dropped, also by a test that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Checks what holds of each chunk, and returns its figures.
fn check_chunk(chunk: &Value) -> HashMap<String, i64> {
    let chunk = fields(chunk);
    let pages = fields(&chunk["pages"]);
    let sum: i64 = pages.values().map(Value::integer).sum();
    assert_eq!(sum, 512, "{pages:?}");
    let blocks = chunk["free-blocks"].elements().iter().enumerate();
    let free: i64 = blocks.map(|(order, n)| n.integer() << order).sum();
    assert_eq!(free, pages["dirty"].integer() + pages["purged"].integer());
    let classes: Vec<_> = chunk["classes"].elements().iter().map(fields).collect();
    let of_classes = |name: &str| {
        classes
            .iter()
            .map(|class| class[name].integer())
            .sum::<i64>()
    };
    assert_eq!(of_classes("slabs"), chunk["slabs"].integer());
    let of_slabs = pages["slab"].integer() + pages["punched"].integer();
    assert_eq!(of_classes("pages"), of_slabs);
    if let Some(extents) = chunk.get("extents") {
        let mut next = 0;
        for extent in extents.elements() {
            let extent = extent.elements();
            assert_eq!(extent[1].integer(), next);
            next += extent[2].integer();
            let is_slab = extent[0].text() == "slab";
            assert_eq!(extent.len(), if is_slab { 7 } else { 3 });
        }
        assert_eq!(next, 512);
    }
    let names = ["shard", "chunk", "slabs", "live-bytes", "slot-bytes"];
    names
        .into_iter()
        .map(|name| (name.to_owned(), chunk[name].integer()))
        .collect()
}

/// All chunks, `count` in a reply.
fn walk(client: &mut live::Client, count: &str) -> Vec<HashMap<String, i64>> {
    let mut chunks = Vec::new();
    let mut cursor = "0".to_owned();
    loop {
        let reply = client.call(&["MEMORY", "MAP", "CURSOR", &cursor, "COUNT", count, "SLABS"]);
        let reply = fields(&reply);
        chunks.extend(reply["chunks"].elements().iter().map(check_chunk));
        cursor = reply["cursor"].text();
        if cursor == "0" {
            return chunks;
        }
        assert!(!reply["chunks"].elements().is_empty());
    }
}

/// All chunks, once a worker that rests has given back what it kept for the next writes.
fn settled(client: &mut live::Client) -> Vec<HashMap<String, i64>> {
    let mut before = walk(client, "1");
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(700));
        let now = walk(client, "1");
        if now == before {
            return now;
        }
        before = now;
    }
    panic!("the heap does not settle: {before:?}");
}

#[test]
fn the_map_as_data_covers_the_heap() {
    let server = Server::start_with(&["--io-threads", "2"]);
    let mut client = server.client();
    assert!(walk(&mut client, "10").is_empty());
    client.run("CONFIG SET activedefrag no");
    for round in 0..20 {
        let mut words = vec!["MSET".to_owned()];
        for number in 0..1000 {
            words.push(format!("key:{}", round * 1000 + number));
            words.push("v".repeat(300));
        }
        assert_eq!(client.call(&words), live::ok());
    }
    let chunks = settled(&mut client);
    assert!(chunks.len() >= 3);
    assert_eq!(chunks, walk(&mut client, "1024"));
    let live: i64 = chunks.iter().map(|chunk| chunk["live-bytes"]).sum();
    assert!((6_000_000..8_000_000).contains(&live), "{live}");
    let shards: Vec<i64> = chunks.iter().map(|chunk| chunk["shard"]).collect();
    assert!(shards.is_sorted() && shards.contains(&0) && shards.contains(&1));
    // RESP3 says the same with maps.
    client.run("HELLO 3");
    assert!(matches!(client.run("MEMORY MAP COUNT 1"), Value::Map(_)));
    assert_eq!(chunks, walk(&mut client, "7"));
    // As part of a transaction, too.
    client.run("MULTI");
    client.run("MEMORY MAP COUNT 1");
    let replies = client.run("EXEC");
    assert_eq!(
        check_chunk(&fields(&replies.elements()[0])["chunks"].elements()[0]),
        chunks[0]
    );
}

#[test]
fn a_picture_has_the_size_that_was_asked_for() {
    let server = Server::start_with(&["--enable-debug-command", "yes"]);
    let mut client = server.client();
    let empty = client.run("MEMORY MAP PICTURE PLAIN").text();
    assert!(empty.starts_with("Nothing is stored"), "{empty}");
    client.run("DEBUG POPULATE 20000 key 200");
    for by in ["class", "OCCUPANCY"] {
        let line = format!("MEMORY MAP PICTURE COLUMNS 40 ROWS 6 BY {by} PLAIN");
        let text = client.run(&line).text();
        let rows: Vec<&str> = text.lines().take_while(|row| !row.is_empty()).collect();
        assert!((2..=6).contains(&rows.len()), "{text}");
        assert!(rows.iter().all(|row| row.len() <= 40), "{text}");
        assert!(rows[0].len() == 40 && !text.contains('\x1b'), "{text}");
    }
    let coloured = client.run("MEMORY MAP PICTURE").text();
    assert!(coloured.contains("\x1b[38;5;") && coloured.contains('█'));
    client.run("HELLO 3");
    client.send(&["MEMORY", "MAP", "PICTURE"]);
    assert_eq!(client.read_type(), b'=');
}

#[test]
fn wrong_options_are_refused() {
    let server = Server::start();
    let mut client = server.client();
    let syntax = error("ERR syntax error");
    let range = |range: &str| error(&format!("ERR value is out of range, must be {range}"));
    let number = error("ERR value is not an integer or out of range");
    client.expect(&[
        ("MEMORY MAP COUNT", syntax.clone()),
        ("MEMORY MAP COUNT 0", range("1 to 1024")),
        ("MEMORY MAP COUNT 99999", range("1 to 1024")),
        ("MEMORY MAP CURSOR x", number),
        ("MEMORY MAP CURSOR -1", range("0 to 9223372036854775807")),
        ("MEMORY MAP PLAIN", syntax.clone()),
        ("MEMORY MAP PICTURE SLABS", syntax.clone()),
        ("MEMORY MAP PICTURE COLUMNS 7", range("8 to 512")),
        ("MEMORY MAP PICTURE BY age", syntax.clone()),
        ("MEMORY MAP PICTURE BY", syntax.clone()),
        ("MEMORY MAP nonsense", syntax),
    ]);
    let past = client.run("MEMORY MAP CURSOR 9223372036854775807");
    assert_eq!(fields(&past)["cursor"].text(), "0");
    let help = client.run("MEMORY HELP").texts().join("\n");
    assert!(help.contains("MAP [PICTURE]"), "{help}");
}

#[test]
fn maps_can_be_taken_during_heavy_writes() {
    let server = Server::start_with(&["--io-threads", "2"]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut connection = server.redis();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut pipe = redis::pipe();
                    for number in 0..500 {
                        let key = format!("{writer}:{}", (number * 7 + round * 13) % 3000);
                        match (number + round) % 3 {
                            0 => pipe.del(key).ignore(),
                            _ => pipe.set(key, vec![b'x'; (number * round) % 2000]).ignore(),
                        };
                    }
                    pipe.query::<()>(&mut connection).expect("writes");
                    round += 1;
                }
            });
        }
        let _stop = Stop(&stop);
        let mut client = server.client();
        for round in 0..60 {
            walk(&mut client, if round % 2 == 0 { "1" } else { "100" });
            let text = client
                .run("MEMORY MAP PICTURE COLUMNS 32 ROWS 4 PLAIN")
                .text();
            let rows = text.lines().take_while(|row| !row.is_empty());
            assert!(rows.clone().count() <= 4 && rows.clone().all(|row| row.len() <= 64));
        }
    });
}
