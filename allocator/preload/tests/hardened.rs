//! The hardened mode as C programs meet it: every kind of misuse ends the process with its
//! message, or at a guard page, and nothing else does.

#![cfg(feature = "hardened")]

mod preloaded;

use preloaded::{compile, output, preloaded, stdout};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

const NOT_ALLOCATED: &str = "a pointer that was not allocated (0x";
const FREE_OF_NOT_ALLOCATED: &str = "free of a pointer that was not allocated (0x";
const INTERIOR: &str = "free of a pointer into the middle of an object (0x";
const WRONG_SIZE: &str = "free of a pointer with another size than it was allocated with (0x";
const DOUBLE_FREE: &str = "double free (0x";
const LARGE_DOUBLE_FREE: &str = "double free of a large object (0x";
const OVERRUN: &str = "write beyond the end of an object (0x";
const AFTER_FREE: &str = "write to an object after it was freed (0x";
const NOT_LIVE: &str = "use of an object that was freed (0x";

/// Of small objects: seen at any size, at the latest when the slot comes round again.
const SMALL: &[(&str, &str)] = &[
    ("static", NOT_ALLOCATED),
    ("stack", NOT_ALLOCATED),
    ("wild", FREE_OF_NOT_ALLOCATED),
    ("interior", INTERIOR),
    ("unaligned", INTERIOR),
    ("double", DOUBLE_FREE),
    ("double-later", DOUBLE_FREE),
    ("double-elsewhere", DOUBLE_FREE),
    ("double-by-others", DOUBLE_FREE),
    ("double-realloc", NOT_LIVE),
    ("overrun-zero", OVERRUN),
    ("overrun-many", OVERRUN),
    ("overrun-realloc", OVERRUN),
    ("overrun-usable", OVERRUN),
    ("overrun-elsewhere", OVERRUN),
    ("size", WRONG_SIZE),
    ("size-of-another-class", WRONG_SIZE),
    ("size-aligned", WRONG_SIZE),
    ("write-after-free", AFTER_FREE),
    ("write-after-free-at-the-end", AFTER_FREE),
    ("write-after-free-released", AFTER_FREE),
];

/// Of large ones.
const LARGE: &[(&str, &str)] = &[
    ("interior", FREE_OF_NOT_ALLOCATED),
    ("double", LARGE_DOUBLE_FREE),
    ("double-elsewhere", LARGE_DOUBLE_FREE),
    ("double-by-others", LARGE_DOUBLE_FREE),
    ("double-realloc", NOT_ALLOCATED),
    ("overrun-zero", OVERRUN),
    ("overrun-many", OVERRUN),
    ("overrun-realloc", OVERRUN),
    ("size", WRONG_SIZE),
    ("size-aligned", WRONG_SIZE),
];

/// Stopped by the processor, without a message.
const FAULTS: &[&str] = &["fault-behind", "fault-in-front", "fault-after-free"];

fn stops(program: &Path, kind: &str, size: usize, message: &str) {
    let output = output(preloaded(program).args([kind, &size.to_string()]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.signal() == Some(libc::SIGABRT)
            && stderr.starts_with(&format!("slabkv: {message}")),
        "{kind} of {size}: {:?} {stderr}",
        output.status
    );
}

#[test]
fn misuse_of_objects_of_all_sizes_is_seen() {
    let Some(program) = compile("hardened.c", "hardened", &[]) else {
        return;
    };
    for (kind, message) in SMALL {
        for size in [24, 100, 1000, 5000] {
            stops(&program, kind, size, message);
        }
    }
    stops(&program, "never-allocated", 100, DOUBLE_FREE);
    for (kind, message) in LARGE {
        for size in [20_000, 1 << 20] {
            stops(&program, kind, size, message);
        }
    }
    for kind in FAULTS {
        let output = output(preloaded(&program).args([kind, "50000"]));
        assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{kind}");
    }
    // The parent ends as usual, the child does not.
    let output = output(preloaded(&program).arg("double-in-child"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.starts_with(&format!("slabkv: {DOUBLE_FREE}")));
}

#[test]
fn what_programs_may_do_is_no_misuse() {
    if let Some(program) = compile("hardened.c", "hardened-use", &[]) {
        for size in [1, 8, 24, 100, 120, 1000, 14_328, 14_329, 50_000, 3 << 20] {
            let mut command = preloaded(&program);
            assert_eq!(stdout(command.args(["none", &size.to_string()])), "ok\n");
        }
    }
}
