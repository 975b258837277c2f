//! The C functions on several threads that free and resize each other's objects, end and
//! are replaced, with purges and system calls that fail now and then; contents and all
//! invariants are checked after each step.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slab_allocator::SlabAlloc;
use slab_allocator::process_model::{Op, Threads};

fuzz_target!(|data: &[u8]| {
    // A case that fails shall fail again.
    SlabAlloc::new().set_background_thread(false);
    let mut steps = data;
    let mut threads = Threads::new();
    while let Some((op, thread, faults)) = Op::decode(&mut steps) {
        threads.apply(op, thread, faults);
        threads.check();
    }
    threads.finish();
});
