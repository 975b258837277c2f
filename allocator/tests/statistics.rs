//! The process heap's statistics: that they add up, that they follow what happened,
//! that taking them allocates nothing, and that each name in them is explained.

#![cfg(not(loom))]

mod still_clock;

use serde_json::Value;
use slab_allocator::{HeapClassStats, PageUse, SlabAlloc};
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// The heap, with a count of each thread's calls.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

const HEAP: SlabAlloc = SlabAlloc::new();

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: Every call is passed on.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: Passed on to the caller, as below.
        unsafe { HEAP.alloc(layout) }
    }

    unsafe fn dealloc(&self, object: *mut u8, layout: Layout) {
        count();
        // SAFETY: As above.
        unsafe { HEAP.dealloc(object, layout) };
    }

    unsafe fn realloc(&self, object: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: As above.
        unsafe { HEAP.realloc(object, layout, size) }
    }
}

/// The report as it was before anything was allocated for it.
fn json() -> Value {
    let mut room = Room {
        bytes: [0; 65536],
        length: 0,
    };
    HEAP.write_stats_json(&mut room).unwrap();
    let text = std::str::from_utf8(&room.bytes[..room.length]).unwrap();
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn text() -> String {
    let mut text = String::new();
    HEAP.write_stats_text(&mut text).unwrap();
    text
}

/// Every name in an object and in what it contains.
fn names(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                found.insert(name.clone());
                names(member, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| names(item, found)),
        Value::Number(number) => assert!(number.is_u64(), "{number}"),
        _ => panic!("{value} is no number"),
    }
}

/// The words of the text that are no figures.
fn words(text: &str) -> BTreeSet<String> {
    text.split_whitespace()
        .filter(|word| !word.starts_with(|first: char| first.is_ascii_digit()))
        .map(str::to_owned)
        .collect()
}

/// What the document explains: the first cell of each row of its tables, and the names
/// of its chapters.
fn explained() -> BTreeSet<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/statistics.md");
    let document = std::fs::read_to_string(path).unwrap();
    document
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")
                .or_else(|| line.strip_prefix("## `"))
        })
        .filter_map(|rest| rest.split('`').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn both_forms_have_the_names_that_the_document_explains() {
    let mut of_json = BTreeSet::new();
    names(&json(), &mut of_json);
    assert_eq!(of_json, words(&text()));
    assert_eq!(of_json, explained());
}

/// Takes text without allocating.
struct Room {
    bytes: [u8; 65536],
    length: usize,
}

impl Write for Room {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.length..self.length + text.len());
        room.ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

#[test]
fn taking_them_allocates_nothing() {
    let mut room = Room {
        bytes: [0; 65536],
        length: 0,
    };
    let before = CALLS.get();
    let mut seen = 0_usize;
    let stats = HEAP.stats();
    HEAP.heap_class_stats(|class| seen += class.class.slabs as usize);
    HEAP.arena_stats(|arena| seen += arena.slabs as usize);
    HEAP.thread_cache_stats(|thread| seen += thread.slots);
    HEAP.write_stats_text(&mut room).unwrap();
    HEAP.write_stats_json(&mut room).unwrap();
    assert_eq!(CALLS.get(), before);
    assert!(seen > 0 && stats.arenas.slabs > 0 && room.length > 1000);
    // Where the writer fails, so does the report.
    room.length = room.bytes.len() - 100;
    assert!(HEAP.write_stats_text(&mut room).is_err());
}

/// The class that serves this size.
fn class_of(size: usize) -> HeapClassStats {
    let mut found = HeapClassStats::default();
    HEAP.heap_class_stats(|class| {
        if found.class.slot_bytes == 0 && class.class.slot_bytes >= size {
            found = *class;
        }
    });
    found
}

fn objects(count: usize, size: usize) -> Vec<Vec<u8>> {
    (0..count).map(|_| vec![1; size]).collect()
}

/// What holds of a class at any moment at which nobody uses it.
fn adds_up(class: &HeapClassStats) {
    let slots = &class.class;
    assert_eq!(slots.slabs * slots.slab_slots, slots.live + slots.free);
    let listed: u32 = slots.by_occupancy.iter().sum();
    assert_eq!(
        slots.slabs,
        listed + class.full_slabs + class.current_slabs + class.empty_slabs
    );
    assert!(class.cached <= slots.free, "{class:?}");
    let traffic = &class.traffic;
    assert_eq!(
        traffic.filled_slots - traffic.flushed_slots - traffic.remote_slots,
        u64::from(slots.live + class.cached),
        "{class:?}"
    );
}

/// Whether this is the child for the test, where no other one runs and nothing goes back
/// by itself; if not, runs it.
fn is_child(test: &str) -> bool {
    if std::env::var_os("SLABKV_TEST_CHILD").is_some() {
        // To the end of the child.
        std::mem::forget(still_clock::hold());
        return true;
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("SLABKV_TEST_CHILD", "1")
        .env("SLAB_ALLOC_OPTIONS", "background_thread:false")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    false
}

/// Of a class that the harness does not use.
#[test]
fn a_class_follows_what_is_allocated_and_freed() {
    if !is_child("a_class_follows_what_is_allocated_and_freed") {
        return;
    }
    const SIZE: usize = 11_700;
    const SLOT: usize = 12_288;
    let first = objects(1, SIZE);
    let start = class_of(SIZE);
    assert_eq!((start.class.slot_bytes, start.class.live), (SLOT, 1));
    adds_up(&start);

    let all = objects(50, SIZE);
    let full = class_of(SIZE);
    adds_up(&full);
    assert_eq!(full.class.live, 51);
    assert_eq!(full.rounding_bytes_max, 51 * (SLOT - 11_264 - 1));
    assert!(full.traffic.fills > start.traffic.fills);
    // So many slots have left the slabs, and a few more for the next calls.
    let filled = full.traffic.filled_slots - start.traffic.filled_slots;
    assert!(
        (50 - u64::from(start.cached)..50 + 16).contains(&filled),
        "{filled}"
    );
    assert_eq!(full.traffic.flushed_slots, start.traffic.flushed_slots);

    drop((first, all));
    let freed = class_of(SIZE);
    adds_up(&freed);
    assert_eq!(freed.class.live, 0);
    assert!(freed.cached > 0);
    HEAP.flush_thread_cache();
    let flushed = class_of(SIZE);
    adds_up(&flushed);
    assert_eq!((flushed.class.live, flushed.cached), (0, 0));
    assert!(flushed.traffic.flushes > full.traffic.flushes);
    assert_eq!(flushed.traffic.flushed_slots, flushed.traffic.filled_slots);
}

#[test]
fn frees_of_other_threads_are_counted_when_they_arrive() {
    if !is_child("frees_of_other_threads_are_counted_when_they_arrive") {
        return;
    }
    const SIZE: usize = 9_900;
    let all = objects(100, SIZE);
    let before = class_of(SIZE);
    assert_eq!(before.traffic.remote_slots, 0);
    std::thread::spawn(move || drop(all)).join().unwrap();
    let sent = class_of(SIZE);
    // New objects take the slots that have come back.
    let again = objects(100, SIZE);
    let after = class_of(SIZE);
    assert!(after.traffic.remote_slots >= 50, "{sent:?} {after:?}");
    drop(again);
}

/// The parts of the heap, and of each table, add up to its totals.
fn totals_add_up(report: &Value, exactly: bool) {
    let part = |section: &str, name: &str| report[section][name].as_u64().unwrap();
    let heap = |name| part("heap", name);
    assert_eq!(
        heap("slab_bytes"),
        heap("live_bytes") + heap("free_bytes") + heap("tail_bytes") + heap("cached_bytes")
    );
    let rows = |table: &str| report[table].as_array().unwrap().clone();
    let sum = |table: &str, figure: &dyn Fn(&Value) -> u64| rows(table).iter().map(figure).sum();
    let product = |row: &Value, names: [&str; 2]| {
        names
            .map(|name| row[name].as_u64().unwrap())
            .iter()
            .product()
    };
    let live: u64 = sum("classes", &|row| product(row, ["live", "slot_bytes"]));
    let cached: u64 = sum("classes", &|row| product(row, ["cached", "slot_bytes"]));
    let slabs: u64 = sum("classes", &|row| {
        4096 * product(row, ["slabs", "slab_pages"])
    });
    assert_eq!(
        [live, cached, slabs],
        ["live_bytes", "cached_bytes", "slab_bytes"].map(heap)
    );
    for (name, total) in report["traffic"].as_object().unwrap() {
        let of_classes: u64 = sum("classes", &|row| row[name].as_u64().unwrap());
        assert_eq!(of_classes, total.as_u64().unwrap(), "{name}");
    }
    assert!(rows("arenas").len() as u64 >= heap("arena_count"));
    if exactly {
        assert_eq!(rows("arenas").len() as u64, heap("arena_count"));
        let pages = heap("slab_bytes") + heap("large_bytes") + heap("dirty_bytes");
        assert_eq!(
            heap("resident_bytes") + heap("punched_bytes"),
            pages + heap("metadata_bytes")
        );
        assert_eq!(rows("threads").len() as u64, heap("thread_count"));
        for name in ["slabs", "slab_bytes", "free_bytes"] {
            let of_arenas: u64 = sum("arenas", &|row| row[name].as_u64().unwrap());
            assert_eq!(of_arenas, heap(name), "{name}");
        }
    }
}

#[test]
fn parts_add_up_to_totals() {
    if !is_child("parts_add_up_to_totals") {
        return;
    }
    let mut kept = objects(3000, 100);
    kept.truncate(1000);
    kept.extend(objects(100, 40_000));
    let report = json();
    drop(kept);
    // The harness's main thread waits for this one: nobody else allocates.
    totals_add_up(&report, true);
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn totals_hold_while_others_allocate_and_free() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also where a figure is wrong.
        let _stop = StopAtEnd(&stop);
        for thread in 0..3 {
            let stop = &stop;
            scope.spawn(move || {
                let mut round = thread;
                while !stop.load(Relaxed) {
                    round += 1;
                    drop(objects(200, 16 + round * 37 % 3000));
                    drop(objects(2, 50_000));
                }
            });
        }
        for _ in 0..100 {
            totals_add_up(&json(), false);
            assert!(text().lines().count() > 40);
        }
    });
}

/// The pages of the heap by what they are used for add up to its books, once nobody changes them.
#[test]
fn pages_are_told_apart() {
    let large = vec![1_u8; 3 << 20];
    let sum_of_pages = || {
        let mut uses = [PageUse::None; 512];
        let (mut from, mut sums) = (0, [0; 3]);
        let mut is_found = false;
        while let Some((chunk, start)) = HEAP.chunk_pages(from, &mut uses) {
            from = chunk + 1;
            let here = (large.as_ptr().addr()).wrapping_sub(start) >> 12;
            is_found |= uses.get(here) == Some(&PageUse::Large);
            for (sum, kind) in sums
                .iter_mut()
                .zip([PageUse::Slab, PageUse::Large, PageUse::Dirty])
            {
                *sum += uses.iter().filter(|usage| **usage == kind).count() * 4096;
            }
        }
        assert!(is_found, "the object lies on pages of large ones");
        sums
    };
    let books = || {
        let arenas = HEAP.stats().arenas;
        let slabs = arenas.slab_bytes - arenas.punched_bytes;
        [slabs, arenas.large_bytes, arenas.dirty_bytes]
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        let before = books();
        let pages = sum_of_pages();
        if pages == before {
            break;
        }
        // Other tests and the thread that gives pages back may be at work.
        assert!(
            std::time::Instant::now() < deadline,
            "{pages:?}, and {before:?} in the books"
        );
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    drop(large);
}
