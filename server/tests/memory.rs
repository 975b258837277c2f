//! Memory that is given back, and what the server says of it, against the real server.

mod live;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use live::Server;

const KEYS: usize = 50_000;

fn value(number: usize) -> Vec<u8> {
    vec![number as u8; 150 + number % 100]
}

fn info(connection: &mut redis::Connection) -> HashMap<String, u64> {
    let text: String = redis::cmd("INFO")
        .arg("everything")
        .query(connection)
        .expect("INFO");
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
        .collect()
}

/// Fills the server and deletes nine keys of ten, with compaction off.
fn fragment(connection: &mut redis::Connection) {
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "activedefrag", "no"])
        .query(connection)
        .expect("CONFIG SET");
    for batch in (0..KEYS).collect::<Vec<_>>().chunks(1000) {
        let mut pipe = redis::pipe();
        for number in batch {
            pipe.set(format!("key:{number}"), value(*number)).ignore();
        }
        pipe.query::<()>(connection).expect("SET");
    }
    for batch in (0..KEYS).collect::<Vec<_>>().chunks(1000) {
        let mut pipe = redis::pipe();
        for number in batch.iter().filter(|number| *number % 10 != 3) {
            pipe.del(format!("key:{number}")).ignore();
        }
        pipe.query::<()>(connection).expect("DEL");
    }
}

/// The survivors' values, byte for byte.
fn survivors_are_whole(connection: &mut redis::Connection) {
    for number in (3..KEYS).step_by(10) {
        let got: Vec<u8> = redis::cmd("GET")
            .arg(format!("key:{number}"))
            .query(connection)
            .expect("GET");
        assert_eq!(got, value(number), "key:{number}");
    }
}

#[test]
fn compaction_begins_by_itself_once_it_is_allowed() {
    let server = Server::start();
    let mut connection = server.redis();
    fragment(&mut connection);
    // Long enough for an idle server to fall asleep.
    std::thread::sleep(Duration::from_millis(300));
    let sparse = info(&mut connection)["mem_part_free_slots"];
    assert!(sparse > 4_000_000, "{sparse}");
    let _: () = redis::cmd("CONFIG")
        .arg(&["SET", "activedefrag", "yes"])
        .query(&mut connection)
        .expect("CONFIG SET");
    let deadline = Instant::now() + Duration::from_secs(30);
    while info(&mut connection)["mem_part_free_slots"] > sparse / 8 {
        assert!(Instant::now() < deadline, "nothing is compacted");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(info(&mut connection)["active_defrag_hits"] > 0);
    survivors_are_whole(&mut connection);
}

#[test]
fn compaction_on_command_says_what_it_moved() {
    let server = Server::start();
    let mut connection = server.redis();
    fragment(&mut connection);
    let sparse = info(&mut connection)["mem_part_free_slots"];
    let ledger: HashMap<String, u64> = redis::cmd("MEMORY")
        .arg("COMPACT")
        .query(&mut connection)
        .expect("MEMORY COMPACT");
    assert!(ledger["moved-objects"] > 0);
    assert!(ledger["victims-released"] > 0 && ledger["freed-pages"] >= ledger["victims-released"]);
    assert!(info(&mut connection)["mem_part_free_slots"] < sparse / 8);
    survivors_are_whole(&mut connection);
}

#[test]
fn the_parts_of_memory_add_up_to_the_resident_set() {
    let server = Server::start();
    let mut connection = server.redis();
    fragment(&mut connection);
    let info = info(&mut connection);
    let parts = info
        .iter()
        .filter(|(name, _)| name.starts_with("mem_part_"));
    let sum: u64 = parts.map(|(_, bytes)| bytes).sum();
    let resident = info["used_memory_rss"];
    assert!(
        sum.abs_diff(resident) <= resident / 50,
        "{sum} of {resident}"
    );
}
