//! The process heap where address space is short: a test starts this program again
//! under a limit, since a limit that comes after the first allocation is too late.

#![cfg(not(loom))]

use slab_allocator::SlabAlloc;
use std::alloc::{GlobalAlloc, Layout};
use std::process::Command;

#[global_allocator]
static ALLOCATOR: SlabAlloc = SlabAlloc::new();

const LIMITED: &str = "SLABKV_TEST_LIMITED";

/// Runs the test with this name again, with `ulimit -v` at so many KiB.
fn again_under_a_limit(test: &str, kib: usize) {
    let this = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "ulimit -v {kib} && exec \"$0\" {test} --exact --nocapture"
        ))
        .arg(this)
        .env(LIMITED, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "{output:?}"
    );
}

/// Allocates until memory is out, in objects of this layout.
fn exhaust(layout: Layout) -> Vec<*mut u8> {
    let mut objects = Vec::with_capacity(1 << 16);
    while objects.len() < objects.capacity() {
        // SAFETY: The size is not zero.
        let object = unsafe { ALLOCATOR.alloc(layout) };
        if object.is_null() {
            return objects;
        }
        // SAFETY: The object has this size.
        unsafe { object.write_bytes(objects.len() as u8, layout.size()) };
        objects.push(object);
    }
    panic!(
        "memory is not out after {} objects of {layout:?}",
        objects.len()
    );
}

fn free(objects: Vec<*mut u8>, layout: Layout) {
    for (number, object) in objects.into_iter().enumerate() {
        // SAFETY: The object is live and has this layout.
        unsafe {
            assert_eq!(object.read(), number as u8);
            assert_eq!(object.add(layout.size() - 1).read(), number as u8);
            ALLOCATOR.dealloc(object, layout);
        }
    }
}

fn exhaust_in_turn() {
    assert!(ALLOCATOR.stats().arenas.region_bytes < 1 << 30);
    let layouts = [12_000, 4096, 100_000, 5 << 20, 12_000, 3 << 20]
        .map(|size| Layout::from_size_align(size, 16).unwrap());
    let mut least = usize::MAX;
    for layout in layouts {
        let objects = exhaust(layout);
        let bytes = objects.len() * layout.size();
        least = least.min(bytes);
        free(objects, layout);
    }
    // What was freed served the next size.
    assert!(least > 20 << 20, "{least}");
    // And threads can still be had.
    std::thread::spawn(|| drop(vec![1_u8; 1 << 20]))
        .join()
        .unwrap();
}

#[test]
fn memory_runs_out_and_is_there_again() {
    if std::env::var_os(LIMITED).is_some() {
        exhaust_in_turn();
    } else {
        again_under_a_limit("memory_runs_out_and_is_there_again", 200_000);
    }
}
