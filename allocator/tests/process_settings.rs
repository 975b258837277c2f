//! Settings of the process heap, from the environment and by function. Each case
//! runs this very program again, as a child with an environment of its own.

#![cfg(not(loom))]

mod still_clock;

use slab_allocator::{Profile, Settings, SlabAlloc};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: SlabAlloc = SlabAlloc::new();

/// Runs the test with this name in a child, which finds the option set.
fn child(test: &str, options: &str) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("SLAB_ALLOC_OPTIONS", options)
        .env("SLABKV_TEST_CHILD", "1")
        .output()
        .unwrap()
}

fn is_child() -> bool {
    std::env::var_os("SLABKV_TEST_CHILD").is_some()
}

/// What the child says of itself, by a line that starts with `answer`.
fn answer(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.split("answer ").nth(1));
    line.unwrap_or_else(|| panic!("no answer: {output:?}"))
        .to_owned()
}

fn heap_lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| line.starts_with("slabkv: "))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_environment_is_read_before_the_first_allocation() {
    const NAME: &str = "the_environment_is_read_before_the_first_allocation";
    if is_child() {
        println!("answer {:?}", ALLOCATOR.settings());
        return;
    }
    let output = child(NAME, "profile:low,purge_delay_ms:250");
    let expected = Settings {
        purge_delay_ms: 250,
        ..Profile::Low.settings()
    };
    assert_eq!(answer(&output), format!("{expected:?}"));
    assert_eq!(heap_lines(&output), [""; 0]);
}

#[test]
fn what_is_wrong_costs_a_line_and_nothing_else() {
    const NAME: &str = "what_is_wrong_costs_a_line_and_nothing_else";
    if is_child() {
        println!("answer {:?}", ALLOCATOR.settings());
        return;
    }
    let output = child(NAME, "purge_delay_ms:soon,cache_bytes:4096");
    let expected = Settings {
        cache_bytes: 4096,
        ..Settings::default()
    };
    assert_eq!(answer(&output), format!("{expected:?}"));
    assert_eq!(
        heap_lines(&output),
        [
            "slabkv: SLAB_ALLOC_OPTIONS: \"purge_delay_ms:soon\" is ignored: \
          purge_delay_ms takes a number from 0 to 86400000"
        ]
    );
}

#[test]
fn figures_are_written_at_exit_if_asked_for() {
    const NAME: &str = "figures_are_written_at_exit_if_asked_for";
    if is_child() {
        return;
    }
    for text in ["stats_at_exit:true", "stats_at_exit:text"] {
        let lines = heap_lines(&child(NAME, text));
        assert_eq!(lines[0], "slabkv: heap");
        let resident = lines[1].split_whitespace().collect::<Vec<_>>();
        assert_eq!(resident[1], "resident_bytes", "{lines:?}");
        assert!((64 << 10..64 << 20).contains(&resident[2].parse::<usize>().unwrap()));
        assert!(lines.len() > 40, "a test harness uses several classes");
    }
    let output = child(NAME, "stats_at_exit:json");
    let json = String::from_utf8(output.stderr).unwrap();
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(report["heap"]["resident_bytes"].as_u64().unwrap() > 64 << 10);
    assert_eq!(heap_lines(&child(NAME, "stats_at_exit:false")), [""; 0]);
}

fn purge_threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter(|task| {
            let name = task.as_ref().unwrap().path().join("comm");
            std::fs::read_to_string(name).is_ok_and(|name| name.trim() == "slabkv-purge")
        })
        .count()
}

/// Frees far more than the purge thread is started for.
fn make_dirty() {
    drop(vec![7_u8; 16 << 20]);
    drop((0..1000).map(|_| vec![7_u8; 16 << 10]).collect::<Vec<_>>());
    // In the hardened mode only slabs leave dirty pages.
    drop((0..1000).map(|_| vec![7_u8; 10_000]).collect::<Vec<_>>());
}

fn dirty_bytes() -> usize {
    ALLOCATOR.stats().arenas.dirty_bytes
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn without_the_thread_pages_go_back_in_calls_alone() {
    const NAME: &str = "without_the_thread_pages_go_back_in_calls_alone";
    if is_child() {
        // Nothing is due before all is free, however long that takes.
        let held = still_clock::hold();
        make_dirty();
        let dirty = dirty_bytes();
        assert!(dirty > 4 << 20, "{dirty}");
        drop(held);
        std::thread::sleep(Duration::from_millis(300));
        // Before anything else is called, which might give them back.
        assert_eq!(dirty_bytes(), dirty);
        assert_eq!(purge_threads(), 0);
        // Calls do it, some time after the pages were freed.
        wait_until("calls give pages back", || {
            drop(vec![7_u8; 1 << 20]);
            dirty_bytes() < 2 << 20
        });
        assert_eq!(purge_threads(), 0);

        ALLOCATOR.set_background_thread(true);
        make_dirty();
        wait_until("there is a thread now", || purge_threads() == 1);
        wait_until("which gives pages back", || dirty_bytes() < 1 << 20);
        ALLOCATOR.set_background_thread(false);
        wait_until("which ends again", || purge_threads() == 0);
        println!("answer done");
        return;
    }
    let output = child(NAME, "background_thread:false,purge_delay_ms:100");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(answer(&output), "done");
}

/// A thread that was away for long gives its cache up with its first slow path.
#[test]
fn what_a_thread_kept_before_a_long_sleep_goes_when_it_wakes() {
    const NAME: &str = "what_a_thread_kept_before_a_long_sleep_goes_when_it_wakes";
    if is_child() {
        let _held = still_clock::hold();
        let (wake, woken) = std::sync::mpsc::channel::<()>();
        let (slept, asleep) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            // Blocks of a size that nobody else uses, among others.
            for size in [700, 900, 1100, 1300] {
                drop((0..100).map(|_| vec![0_u8; size]).collect::<Vec<_>>());
            }
            slept.send(()).unwrap();
            woken.recv().unwrap();
            // The class has no slot at hand: a slow path.
            let first = vec![0_u8; 5000];
            slept.send(()).unwrap();
            woken.recv().unwrap();
            drop(first);
        });
        asleep.recv().unwrap();
        let before = ALLOCATOR.stats().cached_bytes;
        // Each thread hears of it as it hears that a period is over.
        for _ in 0..6 {
            ALLOCATOR.set_cache_bytes(ALLOCATOR.settings().cache_bytes);
        }
        ALLOCATOR.flush_thread_cache();
        let still = ALLOCATOR.stats().cached_bytes;
        assert!(still > 16 << 10, "the sleeper keeps its cache: {still}");
        wake.send(()).unwrap();
        asleep.recv().unwrap();
        ALLOCATOR.flush_thread_cache();
        let after = ALLOCATOR.stats().cached_bytes;
        wake.send(()).unwrap();
        sleeper.join().unwrap();
        println!("answer {before} {still} {after}");
        return;
    }
    let text = answer(&child(NAME, "background_thread:false"));
    let bytes: Vec<usize> = text.split(' ').map(|word| word.parse().unwrap()).collect();
    // What the slow path itself brought may be there: a batch of one class.
    assert!(bytes[2] + (16 << 10) < bytes[1], "{text}");
}

#[test]
fn a_smaller_cache_keeps_less() {
    const NAME: &str = "a_smaller_cache_keeps_less";
    if is_child() {
        let _held = still_clock::hold();
        let objects: Vec<_> = (0..200_000).map(|at| vec![0_u8; 16 + at % 1000]).collect();
        drop(objects);
        println!("answer {}", ALLOCATOR.stats().cached_bytes);
        return;
    }
    let cached = |options| answer(&child(NAME, options)).parse::<usize>().unwrap();
    // Two of each class, which all lie below 14 KiB, may come on top, in two stacks.
    let small = cached("background_thread:false,cache_bytes:16384");
    assert!(small < 512 << 10, "{small}");
    let usual = cached("background_thread:false");
    assert!(usual > small, "{usual} {small}");
}

/// The last slots that a thread frees lie scattered over the slabs of a heap that was
/// large, and each that its cache keeps holds a slab.
#[test]
fn a_heap_that_was_freed_at_random_leaves_a_small_cache() {
    const NAME: &str = "a_heap_that_was_freed_at_random_leaves_a_small_cache";
    if is_child() {
        let _held = still_clock::hold();
        let mut random = 1_usize;
        let mut below = |bound: usize| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % bound
        };
        let mut objects: Vec<_> = (0..500_000).map(|_| vec![0_u8; 16 + below(496)]).collect();
        while !objects.is_empty() {
            let at = below(objects.len());
            drop(objects.swap_remove(at));
        }
        println!("answer {}", ALLOCATOR.stats().cached_bytes);
        return;
    }
    let output = child(NAME, "background_thread:false");
    let cached: usize = answer(&output).parse().unwrap();
    // About what any heap may keep; a third more where the budget stays behind.
    assert!(cached < 384 << 10, "{cached}");
}
