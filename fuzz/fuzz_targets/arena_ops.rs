//! Operations on an arena, with system calls that fail now and then, against a model; all
//! invariants are checked after each step.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slab_allocator::Classes;
use slab_allocator::model::{Op, Subject};

fuzz_target!(|data: &[u8]| {
    let Some((classes, mut steps)) = data.split_first() else {
        return;
    };
    let classes = if classes % 2 == 0 {
        Classes::Fine
    } else {
        Classes::General
    };
    let mut subject = Subject::new(classes, 16 << 20).expect("address space");
    while let Some((op, faults)) = Op::decode(&mut steps) {
        subject.apply(op, faults);
        subject.check();
    }
    subject.finish();
});
