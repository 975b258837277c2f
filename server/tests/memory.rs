//! Memory that is given back, and what the server says of it, against the real server.

mod live;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use live::{Server, info_numbers as info};

const KEYS: usize = 50_000;

fn value(number: usize) -> Vec<u8> {
    vec![number as u8; 150 + number % 100]
}

fn run(connection: &mut redis::Connection, words: &[&str]) {
    let _: () = redis::cmd(words[0])
        .arg(&words[1..])
        .query(connection)
        .expect(words[0]);
}

/// Waits until no other client is connected.
fn all_but_one_are_gone(connection: &mut redis::Connection) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while info(connection)["connected_clients"] > 1 {
        assert!(Instant::now() < deadline, "clients stay");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Says that it is time to stop when it is dropped, also by a test that fails.
struct Stop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Fills the server and deletes nine keys of ten, with compaction off.
fn fragment(connection: &mut redis::Connection) {
    run(connection, &["CONFIG", "SET", "activedefrag", "no"]);
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
    run(&mut connection, &["CONFIG", "SET", "activedefrag", "yes"]);
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
    // They do not only come free, they go back.
    assert!(ledger["purged-bytes"] >= ledger["freed-pages"] * 4096 / 2);
    assert!(info(&mut connection)["mem_part_free_slots"] < sparse / 8);
    survivors_are_whole(&mut connection);
}

/// The names and whole numbers of a map reply, those of nested maps aside.
fn numbers(reply: &redis::Value) -> HashMap<String, i64> {
    let pairs = reply.as_map_iter().expect("a map");
    pairs
        .filter_map(|(name, value)| match value {
            redis::Value::Int(number) => {
                Some((redis::from_redis_value_ref(name).expect("a name"), *number))
            }
            _ => None,
        })
        .collect()
}

fn ask(connection: &mut redis::Connection, words: &[&str]) -> redis::Value {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]).query(connection).expect(words[0])
}

#[test]
fn compaction_is_foretold_and_accounted_for() {
    let server = Server::start();
    let mut connection = server.redis();
    fragment(&mut connection);
    // What a worker at rest gives back of a slab's dead pages between the two would not be gained again.
    run(&mut connection, &["MEMORY", "PURGE"]);
    let foretold = numbers(&ask(&mut connection, &["MEMORY", "COMPACT", "DRYRUN"]));
    let before = numbers(&ask(&mut connection, &["MEMORY", "COMPACT", "STATUS"]));
    assert_eq!((before["moved-objects"], before["enabled"]), (0, 0));
    let done = numbers(&ask(&mut connection, &["MEMORY", "COMPACT", "NOW"]));
    let (said, gained) = (foretold["freed-pages"], done["freed-pages"]);
    assert!(
        (said - gained).abs() * 20 <= gained,
        "{said} foretold, {gained} gained"
    );
    let after = numbers(&ask(&mut connection, &["MEMORY", "COMPACT", "STATUS"]));
    assert_eq!(after["moved-objects"], done["moved-objects"]);
    assert_eq!(after["freed-pages"], gained);
    assert!(after["cpu-microseconds"] > 0 && after["slices"] > 0);
    let again = numbers(&ask(&mut connection, &["MEMORY", "COMPACT", "DRYRUN"]));
    assert!(again["freed-pages"] * 20 < said, "{again:?}");
    // Nothing is left to do in a class that is named.
    let of_class = numbers(&ask(&mut connection, &["MEMORY", "COMPACT", "200", "240"]));
    assert!(of_class["freed-pages"] * 20 < said, "{of_class:?}");
    for wrong in ["later", "0", "-5"] {
        let refused = redis::cmd("MEMORY")
            .arg("COMPACT")
            .arg(wrong)
            .exec(&mut connection);
        assert!(refused.is_err(), "{wrong}");
    }
    survivors_are_whole(&mut connection);
}

/// What is in no part may be so much, or three percent: pages that are handed out and not touched yet, and the error that
/// the system's own figure has while pages come and go, whose counters are kept per processor.
const RESIDUE_BYTES_MAX: i64 = 1 << 20;

/// The parts add up to the resident set exactly, and what of it has no name of its own is little.
fn parts_add_up(connection: &mut redis::Connection) {
    let info = info(connection);
    let parts = info
        .iter()
        .filter(|(name, _)| name.starts_with("mem_part_"));
    let sum: i64 = parts.map(|(_, bytes)| bytes).sum();
    let resident = info["used_memory_rss"];
    assert_eq!(sum, resident);
    let residue = info["mem_part_residue"];
    assert!(
        residue.abs() <= RESIDUE_BYTES_MAX.max(resident * 3 / 100),
        "{residue} of {resident}"
    );
    assert_eq!(info["memorymap_measured"] + residue, resident);
    for (name, bytes) in info
        .iter()
        .filter(|(name, _)| name.starts_with("mem_part_"))
    {
        let name = name.replace("mem_part_", "memorymap_");
        assert_eq!(info[&name], *bytes);
        assert!(info[&format!("{name}_peak")] >= (*bytes).max(0));
        assert!(info[&format!("{name}_peak")] >= info[&format!("{name}_peak_reset")]);
    }
    let allocated = info["allocator_allocated"];
    assert_eq!(allocated, info["used_memory"]);
    assert!(allocated <= info["allocator_active"]);
    assert!(info["allocator_active"] <= info["allocator_resident"]);
    assert_eq!(
        info["used_memory"],
        info["used_memory_overhead"] + info["used_memory_dataset"]
    );
}

#[test]
fn the_parts_of_memory_add_up_to_the_resident_set() {
    let server = Server::start();
    let mut connection = server.redis();
    parts_add_up(&mut connection);
    fragment(&mut connection);
    parts_add_up(&mut connection);
    run(&mut connection, &["MEMORY", "COMPACT"]);
    run(&mut connection, &["MEMORY", "PURGE"]);
    parts_add_up(&mut connection);
    run(&mut connection, &["FLUSHALL"]);
    parts_add_up(&mut connection);
}

#[test]
fn the_identity_holds_while_four_threads_write() {
    let server = Server::start_with(&["--io-threads", "2"]);
    // Buffers that come and go, and are not all touched, make up to 2 MB of residue, whatever there is of data.
    let mut filling = server.redis();
    for batch in 0..100 {
        let mut pipe = redis::pipe();
        for number in 0..1000 {
            pipe.set(format!("filled:{batch}:{number}"), vec![b'x'; 1200])
                .ignore();
        }
        pipe.query::<()>(&mut filling).expect("SET");
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..4u32 {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut connection = server.redis();
                let mut round = writer;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut pipe = redis::pipe();
                    for number in 0..200 {
                        round = round.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let key = format!("key:{}", round >> 8 & 0x3fff);
                        match number % 4 {
                            0 => pipe.del(key).ignore(),
                            _ => pipe.set(key, vec![b'x'; (round >> 22) as usize]).ignore(),
                        };
                    }
                    pipe.query::<()>(&mut connection).expect("writes");
                }
            });
        }
        let _stop = Stop(&stop);
        let mut connection = server.redis();
        for _ in 0..200 {
            parts_add_up(&mut connection);
        }
    });
}

/// A server that was full and is empty again gives back what of the program only the work has needed.
#[test]
fn code_goes_back_with_the_data() {
    let server = Server::start();
    let path = format!("/proc/{}/statm", server.process_id());
    let pages = || -> Vec<u64> {
        let text = std::fs::read_to_string(&path).expect("statm");
        let numbers = text.split_whitespace().take(3);
        numbers
            .map(|number| number.parse().expect("a number"))
            .collect()
    };
    let mut connection = server.redis();
    let value = vec![b'x'; 64 << 10];
    for batch in 0..15 {
        let mut pipe = redis::pipe();
        for number in 0..100 {
            pipe.set(format!("{batch}:{number}"), &value).ignore();
        }
        pipe.query::<()>(&mut connection).expect("SET");
    }
    let full = pages();
    run(&mut connection, &["FLUSHALL"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    // Of files, a quarter is more than what comes and goes by itself.
    while pages()[2] > full[2] * 3 / 4 || pages()[1] > full[1] / 2 {
        assert!(Instant::now() < deadline, "{:?} of {full:?}", pages());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(info(&mut connection)["mem_part_code"] > 0);
}

#[test]
fn peaks_stay_until_they_are_reset() {
    let server = Server::start();
    let mut connection = server.redis();
    let large = vec![b'x'; 8 << 20];
    let _: () = redis::cmd("SET")
        .arg("large")
        .arg(&large)
        .query(&mut connection)
        .expect("SET");
    let full = info(&mut connection);
    assert!(full["memorymap_values_peak"] >= 8 << 20);
    run(&mut connection, &["DEL", "large"]);
    run(&mut connection, &["MEMORY", "PURGE"]);
    let after = info(&mut connection);
    assert!(after["memorymap_values"] < 1 << 20);
    assert!(after["memorymap_values_peak_reset"] >= 8 << 20);
    run(&mut connection, &["CONFIG", "RESETSTAT"]);
    let reset = info(&mut connection);
    assert!(reset["memorymap_values_peak"] >= 8 << 20);
    assert!(reset["memorymap_values_peak_reset"] < 1 << 20, "{reset:?}");
}

#[test]
fn memory_stats_come_as_json_too() {
    let server = Server::start();
    let mut connection = server.redis();
    let text: String = redis::cmd("MEMORY")
        .arg("STATS")
        .arg("JSON")
        .query(&mut connection)
        .expect("JSON");
    assert!(
        text.starts_with("{\"rss\":") && text.ends_with("}}"),
        "{text}"
    );
    assert_eq!(text.matches('{').count(), 4);
    assert_eq!(text.matches("\"residue\":").count(), 3);
    let stats = numbers(&ask(&mut connection, &["MEMORY", "STATS"]));
    let parts = stats
        .iter()
        .filter(|(name, _)| name.starts_with("slabkv.") && *name != "slabkv.rss");
    assert_eq!(
        parts.map(|(_, bytes)| bytes).sum::<i64>(),
        stats["slabkv.rss"]
    );
}

#[test]
fn used_memory_follows_what_is_written_and_deleted() {
    const VALUES: usize = 20_000;
    const VALUE_BYTES: usize = 500;
    let server = Server::start_with(&["--io-threads", "2"]);
    // Asks only: its buffers stay as they are after the first reply.
    let mut connection = server.redis();
    info(&mut connection);
    let before = info(&mut connection);
    assert!(before["mem_part_heap_objects"] > 10_000, "{before:?}");
    let mut writer = server.redis();
    let mut key_bytes = 0;
    for batch in (0..VALUES).collect::<Vec<_>>().chunks(1000) {
        let mut pipe = redis::pipe();
        for number in batch {
            let key = format!("key:{number}");
            key_bytes += key.len();
            pipe.set(key, vec![b'v'; VALUE_BYTES]).ignore();
        }
        pipe.query::<()>(&mut writer).expect("SET");
    }
    let full = info(&mut connection);
    let written = (VALUES * VALUE_BYTES + key_bytes) as i64;
    let grown = full["used_memory"] - before["used_memory"];
    assert!(
        (written..written + written / 10).contains(&grown),
        "{grown} for {written}"
    );
    assert!((full["used_memory_dataset"] - written).abs() <= written / 20);
    for batch in (0..VALUES).collect::<Vec<_>>().chunks(1000) {
        let mut pipe = redis::pipe();
        for number in batch {
            pipe.del(format!("key:{number}")).ignore();
        }
        pipe.query::<()>(&mut writer).expect("DEL");
    }
    drop(writer);
    all_but_one_are_gone(&mut connection);
    let after = info(&mut connection);
    let left = after["used_memory"] - before["used_memory"];
    assert!(left < 256 << 10, "{left} are left of {grown}");
    assert_eq!(after["used_memory_dataset"], 0);
    assert!(after["used_memory_peak"] >= full["used_memory"]);
}

#[test]
fn memory_of_clients_is_what_they_take() {
    const CLIENTS: usize = 800;
    let server = Server::start_with(&["--io-threads", "1"]);
    let mut connection = server.redis();
    // The first reply of that length makes room for the further ones.
    info(&mut connection);
    let before = info(&mut connection);
    let come = || -> Vec<_> {
        (0..CLIENTS)
            .map(|_| {
                let mut client = server.client();
                client.expect(&[("PING", live::Value::Simple("PONG".into()))]);
                client
            })
            .collect()
    };
    let clients = come();
    let many = info(&mut connection);
    let said = many["mem_clients_normal"] - before["mem_clients_normal"];
    let taken = many["used_memory"] - before["used_memory"];
    assert!(
        said >= CLIENTS as i64 * 200 && (said - taken).abs() <= taken / 3,
        "{said} said, {taken} taken"
    );
    // Half a request of 200 KiB is the client's as well.
    let mut half = server.client();
    half.send_raw(b"*2\r\n$3\r\nGET\r\n$400000\r\n");
    half.send_raw(&vec![b'x'; 200_000]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while info(&mut connection)["mem_clients_normal"] < many["mem_clients_normal"] + 200_000 {
        assert!(Instant::now() < deadline, "the buffer is not counted");
        std::thread::sleep(Duration::from_millis(10));
    }
    let with_half = info(&mut connection);
    assert!(with_half["used_memory"] > many["used_memory"] + 200_000);
    drop((clients, half));
    all_but_one_are_gone(&mut connection);
    let after = info(&mut connection);
    assert!(after["mem_clients_normal"] <= before["mem_clients_normal"] + 65_536);
    let left = after["used_memory"] - before["used_memory"];
    assert!(left < taken / 2, "{left} are left of {taken}");
    // Room in tables, which the next clients take.
    drop(come());
    all_but_one_are_gone(&mut connection);
    let again = info(&mut connection)["used_memory"] - after["used_memory"];
    assert!(again < taken / 10, "{again} more are left each time");
}

#[test]
fn memory_stats_and_malloc_stats_say_the_same_as_info() {
    let server = Server::start();
    let mut connection = server.redis();
    fragment(&mut connection);
    let pairs = [
        ("total.allocated", "used_memory"),
        ("allocator.allocated", "allocator_allocated"),
        ("allocator.active", "allocator_active"),
        ("allocator.resident", "allocator_resident"),
        ("clients.normal", "mem_clients_normal"),
        ("dataset.bytes", "used_memory_dataset"),
        ("overhead.total", "used_memory_overhead"),
    ];
    let figures = |connection: &mut redis::Connection| -> Vec<i64> {
        let stats: HashMap<String, redis::Value> = redis::cmd("MEMORY")
            .arg("STATS")
            .query(connection)
            .expect("MEMORY STATS");
        let figure = |(name, _): &(&str, &str)| match &stats[*name] {
            redis::Value::Int(bytes) => *bytes,
            other => panic!("{name} is {other:?}"),
        };
        pairs.iter().map(figure).collect()
    };
    // INFO itself allocates a little.
    let close = |a: &[i64], b: &[i64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 64 << 10);
    // While pages are given back, figures change between any two replies.
    let mut tries = 0;
    loop {
        let before = figures(&mut connection);
        let info = info(&mut connection);
        let after = figures(&mut connection);
        if before == after {
            let info: Vec<i64> = pairs.iter().map(|(_, field)| info[*field]).collect();
            assert!(close(&before, &info), "{pairs:?}: {before:?}, {info:?}");
            break;
        }
        tries += 1;
        assert!(
            tries < 1200,
            "{pairs:?} do not settle: {before:?}, {after:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let text: String = redis::cmd("MEMORY")
        .arg("MALLOC-STATS")
        .query(&mut connection)
        .expect("MEMORY MALLOC-STATS");
    let figures: Vec<i64> = text
        .lines()
        .skip(2)
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let rest = line.trim_start_matches(|c: char| c.is_alphabetic() || c == ' ');
            let bytes = rest.split_whitespace().next().expect("a figure");
            bytes.parse().expect("a number")
        })
        .collect();
    let (sum, parts) = figures.split_last().expect("parts");
    assert_eq!(parts.iter().sum::<i64>(), *sum);
    assert!(parts.len() > 10);
    assert!(text.contains("Size classes of the process's heap"));
}
