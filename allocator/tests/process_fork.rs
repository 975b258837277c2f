//! Fork in a program whose other threads are in the middle of allocating.

#![cfg(not(loom))]

use slab_allocator::SlabAlloc;
use std::sync::atomic::{AtomicBool, Ordering};

#[global_allocator]
static ALLOCATOR: SlabAlloc = SlabAlloc::new();

fn work(rounds: usize) -> usize {
    let mut objects: Vec<Vec<u8>> = Vec::new();
    for round in 0..rounds {
        objects.push(vec![round as u8; 1 + round * 37 % 3_000]);
        if round % 3 == 0 {
            objects.swap_remove(round * 31 % objects.len());
        }
        if round % 1_000 == 0 {
            objects.clear();
        }
    }
    objects.len()
}

/// Runs in the child: allocates, frees, starts threads, and forks again.
fn child(generation: usize) -> ! {
    let threads: Vec<_> = (0..3).map(|_| std::thread::spawn(|| work(2_000))).collect();
    work(2_000);
    drop(vec![1_u8; 8 << 20]);
    for thread in threads {
        thread.join().unwrap();
    }
    if generation < 2 {
        fork_and_wait(generation + 1);
    }
    // SAFETY: Nothing of this process needs to be closed.
    unsafe { libc::_exit(0) }
}

fn fork_and_wait(generation: usize) {
    // SAFETY: The child uses nothing but the allocator and threads of its own.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", std::io::Error::last_os_error()),
        0 => child(generation),
        pid => {
            let mut status = 0;
            // A child that waits for a lock would wait for ever.
            for _ in 0..60_000 {
                // SAFETY: The status is valid.
                if unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == pid {
                    assert_eq!(status, 0, "the child of generation {generation} failed");
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            // SAFETY: The child is this process's own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            panic!("the child of generation {generation} hangs");
        }
    }
}

#[test]
fn a_fork_finds_the_heap_whole() {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    work(1_000);
                }
            });
        }
        for _ in 0..40 {
            work(100);
            fork_and_wait(0);
        }
        done.store(true, Ordering::Relaxed);
    });
}
