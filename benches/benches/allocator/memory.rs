//! Resident memory after objects are freed, each figure in a process of its own.

use crate::peers::{self, Allocator};
use crate::summary::Summary;
use crate::workloads::Random;
use std::alloc::Layout;
use std::process::Command;
use std::time::Duration;

/// A way to free.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Which share of the objects is freed, in percent.
    freed_percent: usize,
    /// The sizes of the objects in bytes.
    sizes: std::ops::Range<usize>,
    /// Bytes that are live when the heap is full.
    live_bytes: usize,
}

/// Everything that is measured here.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "free_all",
        freed_percent: 100,
        sizes: 16..512,
        live_bytes: 512 << 20,
    },
    Scenario {
        name: "free_90_percent",
        freed_percent: 90,
        sizes: 64..512,
        live_bytes: 256 << 20,
    },
];

/// The moments at which memory is read, in the order of the child's output.
const MOMENTS: [&str; 4] = ["full", "freed", "idle 2 s", "light work 3 s"];

const CHILD: &str = "--memory-child";

/// If the arguments ask for it, runs one scenario with one allocator and prints
/// the resident megabytes at each moment, without the scenario's own table.
pub(crate) fn run_as_child(arguments: &[String]) -> bool {
    let [_, flag, name, scenario, smoke] = arguments else {
        return false;
    };
    if flag != CHILD {
        return false;
    }
    let allocator = peers::named(name).expect("the parent names a peer");
    let scenario = SCENARIOS
        .iter()
        .find(|known| known.name == scenario)
        .expect("a known scenario");
    let [full, freed, idle, worked] = run(scenario, allocator, smoke == "true");
    println!("{full} {freed} {idle} {worked}");
    true
}

/// Runs the scenario with every allocator, each in a child.
pub(crate) fn measure(scenario: &Scenario, smoke: bool, summary: &mut Summary) {
    for peer in peers::ALL {
        let this = std::env::current_exe().expect("the benchmark has a file");
        let output = Command::new(this)
            .args([
                CHILD,
                peer.name,
                scenario.name,
                if smoke { "true" } else { "false" },
            ])
            .output()
            .expect("the benchmark can start itself");
        assert!(output.status.success(), "{}: {output:?}", peer.name);
        let text = String::from_utf8(output.stdout).expect("digits");
        for (moment, megabytes) in MOMENTS.iter().zip(text.split_whitespace()) {
            let megabytes = megabytes.parse().expect("a number");
            summary.memory(
                &format!("{}, {moment}", scenario.name),
                peer.name,
                megabytes,
            );
        }
        println!(
            "{} {}: {} MB ({})",
            scenario.name,
            peer.name,
            text.trim(),
            MOMENTS.join(", ")
        );
    }
}

fn run(scenario: &Scenario, allocator: Allocator, smoke: bool) -> [f64; 4] {
    let live_bytes = if smoke { 8 << 20 } else { scenario.live_bytes };
    let moment = Duration::from_millis(if smoke { 10 } else { 1000 });
    let count = live_bytes / ((scenario.sizes.start + scenario.sizes.end) / 2);
    let mut random = Random::new();
    let mut objects = vec![(std::ptr::null_mut::<u8>(), 0_usize); count];
    // So that the table is resident before the count begins.
    for entry in &mut objects {
        *std::hint::black_box(entry) = (std::ptr::null_mut(), 1);
    }
    let before = resident_bytes();
    let used = || (resident_bytes() - before).max(0.0) / (1 << 20) as f64;

    for (object, size) in &mut objects {
        *size = scenario.sizes.start + random.below(scenario.sizes.len());
        *object = allocate(allocator, *size);
        // SAFETY: The object is new and has this size.
        unsafe { object.write_bytes(1, *size) };
    }
    let full = used();
    for (object, size) in &objects {
        if random.below(100) < scenario.freed_percent {
            // SAFETY: The object is live, and nobody looks at it again.
            unsafe { allocator.dealloc(*object, layout(*size)) };
        }
    }
    let freed = used();
    std::thread::sleep(2 * moment);
    let idle = used();
    // Some allocators give memory back only while they are called.
    for _ in 0..30 {
        std::thread::sleep(moment / 10);
        for _ in 0..2000 {
            for size in [20_000, 64] {
                let object = allocate(allocator, size);
                // SAFETY: Allocated above.
                unsafe {
                    object.write_volatile(1);
                    allocator.dealloc(object, layout(size));
                }
            }
        }
    }
    [full, freed, idle, used()]
}

fn allocate(allocator: Allocator, size: usize) -> *mut u8 {
    // SAFETY: No size here is zero.
    let object = unsafe { allocator.alloc(layout(size)) };
    assert!(!object.is_null());
    object
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("sizes are small")
}

fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: f64 = statm
        .split(' ')
        .nth(1)
        .and_then(|field| field.parse().ok())
        .expect("a number");
    pages * 4096.0
}
