//! The allocator beside its peers, all in one run: time by criterion, then
//! resident memory in a child process per allocator and scenario, then a table.
//!
//! ```text
//! cargo bench -p slabkv-benches --bench allocator                    all of it
//! cargo bench -p slabkv-benches --bench allocator -- random_replace  names with this in them
//! cargo bench -p slabkv-benches --bench allocator -- --test          a quick smoke run
//! ```
//!
//! A process has one global allocator, so each is called through its
//! `GlobalAlloc` value, by one indirect call. That stands for the call of
//! `__rust_alloc` which an ordinary program makes, and is the same for all. One
//! row, `linked pair`, calls each directly.
//!
//! criterion's report with its plots is in `target/criterion/report/index.html`.

#[global_allocator]
static GLOBAL: slab_allocator::SlabAlloc = slab_allocator::SlabAlloc::new();

mod memory;
mod peers;
mod summary;
mod workloads;

use criterion::{Criterion, SamplingMode, Throughput};
use std::time::Duration;
use summary::Summary;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if memory::run_as_child(&arguments) {
        return;
    }
    let smoke = arguments.iter().any(|argument| argument == "--test");
    let listing = arguments.iter().any(|argument| argument == "--list");
    let filter = arguments[1..]
        .iter()
        .find(|argument| !argument.starts_with('-'));

    let mut summary = Summary::default();
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter.as_str()));
    time(smoke, &wanted, &mut summary);
    if !listing {
        linked(smoke, &wanted, &mut summary);
        for scenario in memory::SCENARIOS {
            if wanted(scenario.name) {
                memory::measure(scenario, smoke, &mut summary);
            }
        }
        summary.print();
    }
}

/// Runs pairs of direct calls, the allocators in turn: so short a loop that the
/// fastest of many rounds is the one that nothing disturbed.
fn linked(smoke: bool, wanted: &dyn Fn(&str) -> bool, summary: &mut Summary) {
    const ROW: &str = "linked pair, least";
    const PAIRS: u64 = 200_000;
    for _ in 0..if smoke { 2 } else { 300 } {
        for peer in peers::ALL {
            if wanted(&format!("linked_pair/{}", peer.name)) {
                let ns = (peer.linked_pair)(PAIRS).as_nanos() as f64;
                summary.least(ROW, peer.name, ns / PAIRS as f64);
            }
        }
    }
}

/// Runs every workload with every allocator, the allocators in turn.
fn time(smoke: bool, wanted: &dyn Fn(&str) -> bool, summary: &mut Summary) {
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    for workload in workloads::all(smoke) {
        let mut group = criterion.benchmark_group(workload.name);
        group.sampling_mode(SamplingMode::Flat);
        group.throughput(Throughput::Elements(1));
        for peer in peers::ALL {
            if !wanted(&format!("{}/{}", workload.name, peer.name)) {
                continue;
            }
            // Outside of criterion's warm-up, which ends by the clock and has to
            // find out how many operations fill a sample.
            let mut run = (workload.prepare)(peer.allocator);
            group.bench_function(peer.name, |bencher| {
                bencher.iter_custom(|operations| {
                    let elapsed = run(operations);
                    summary.time(workload.name, peer.name, operations, elapsed);
                    elapsed
                });
            });
        }
        group.finish();
    }
    criterion.final_summary();
}
