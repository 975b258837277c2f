//! Huge pages behind dense chunks, as the system itself makes them. One test alone,
//! since it reads the whole process's memory.

#![cfg(not(loom))]

use slab_allocator::{HugePages, SlabAlloc};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: SlabAlloc = SlabAlloc::new();

const MEGABYTE: usize = 1 << 20;
const OBJECT: usize = 1024;

/// A figure of the process in bytes, out of one of its files with lines of KiB.
fn figure(file: &str, name: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/self/{file}")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    kib.unwrap().parse::<usize>().unwrap() * 1024
}

fn resident_bytes() -> usize {
    figure("smaps_rollup", "Rss")
}

fn huge_bytes() -> usize {
    figure("smaps_rollup", "AnonHugePages")
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "{what}: {:?}",
            ALLOCATOR.stats().arenas
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the system makes huge pages of 2 MiB when it is asked to.
fn is_possible() -> bool {
    let read = |name: &str| {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let switch = read("enabled");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next(), numbers.next());
    !switch.is_empty()
        && !switch.contains("[never]")
        && read("hpage_pmd_size").trim() == "2097152"
        && version >= (Some(6), Some(1))
}

/// Objects of their own each, which can be freed one by one.
fn objects(count: usize) -> Vec<Box<[u8]>> {
    (0..count).map(|at| Box::from([at as u8; OBJECT])).collect()
}

#[test]
fn dense_chunks_get_huge_pages_and_lose_them_before_anything_goes_back() {
    if !is_possible() {
        println!("passed over: this system makes no huge pages");
        return;
    }
    assert_eq!(ALLOCATOR.settings().huge_pages, HugePages::Off);
    ALLOCATOR.set_purge_delay_ms(50);
    ALLOCATOR.set_huge_pages(HugePages::Dense);
    // Large and never touched: nothing of it becomes resident.
    let untouched = vec![0_u8; 64 * MEGABYTE];
    let live = objects(96 * MEGABYTE / OBJECT);
    let resident = resident_bytes();
    let huge_chunks = || ALLOCATOR.stats().arenas.huge_chunks as usize;
    wait_until("dense chunks get huge pages", || {
        huge_chunks() >= 40 && huge_bytes() >= 80 * MEGABYTE
    });
    assert!(huge_chunks() <= 50);
    assert!(resident_bytes() < resident + 2 * MEGABYTE);
    assert!(
        live.iter()
            .enumerate()
            .all(|(at, object)| object[..] == [at as u8; OBJECT])
    );

    // In one half, of each 64 objects one stays: pages in between are free, and go.
    let mut live = live;
    let half = live.len() / 2;
    let mut at = 0;
    live.retain(|_| {
        at += 1;
        at % 64 == 1 || at > half
    });
    let expected = |at: usize| match at.checked_sub(half / 64) {
        None => [(at * 64) as u8; OBJECT],
        Some(behind) => [(half + behind) as u8; OBJECT],
    };
    wait_until("free pages go back", || {
        resident_bytes() < resident - 30 * MEGABYTE
    });
    // What is left of that half has no huge page behind it.
    let demotions = || ALLOCATOR.stats().arenas.demotions;
    wait_until("huge pages are split", || {
        huge_bytes() <= 60 * MEGABYTE && demotions() >= 12
    });
    // The other half keeps them, or still gets them.
    wait_until("dense chunks keep huge pages", || huge_chunks() >= 15);
    assert!((live.iter().enumerate()).all(|(at, object)| object[..] == expected(at)));

    ALLOCATOR.set_huge_pages(HugePages::Off);
    assert_eq!(huge_chunks(), 0);
    assert_eq!(ALLOCATOR.settings().huge_pages, HugePages::Off);
    wait_until("all are split", || huge_bytes() <= 2 * MEGABYTE);
    assert!((live.iter().enumerate()).all(|(at, object)| object[..] == expected(at)));
    assert!(untouched.iter().step_by(4096).all(|byte| *byte == 0));
}
