//! The library as a part of the C library: threads that come and go, forks, plug-ins,
//! limits.

mod preloaded;

use preloaded::{compile, library, output, preloaded, stdout};

#[test]
fn a_process_ends_with_the_last_thread_of_the_program() {
    if let Some(program) = compile("main_thread_ends.c", "main-thread-ends", &[]) {
        assert_eq!(stdout(&mut preloaded(program)), "ok\nok\n");
    }
}

#[test]
fn ten_thousand_threads_leave_nothing_behind() {
    if let Some(program) = compile("threads.c", "threads", &[]) {
        let grown_kib: i64 = stdout(&mut preloaded(program)).trim().parse().unwrap();
        assert!(grown_kib < 256, "grown by {grown_kib} KiB");
    }
}

#[test]
fn forks_find_the_heap_whole_at_any_moment() {
    if let Some(program) = compile("forks.c", "forks", &[]) {
        assert_eq!(stdout(&mut preloaded(program)), "ok\n");
    }
}

#[test]
fn memory_that_runs_out_is_there_again_when_it_is_freed() {
    if let Some(program) = compile("limit.c", "limit", &[]) {
        let mut command = preloaded("/bin/sh");
        command.args(["-c", "ulimit -v 300000 && exec \"$0\""]);
        let least_mb: u64 = stdout(command.arg(program)).trim().parse().unwrap();
        assert!(least_mb > 50, "{least_mb} MB of 300 could be had");
    }
}

#[test]
fn plug_ins_come_and_go() {
    let flags = ["-DPLUGIN", "-shared", "-fPIC"].map(AsRef::as_ref);
    let Some(plugin) = compile("plugin.c", "plugin.so", &flags) else {
        return;
    };
    let program = compile("plugin.c", "plugin", &["-ldl".as_ref()]).unwrap();
    assert_eq!(stdout(preloaded(program).arg(plugin)), "ok\n");
}

/// Opened as a plug-in itself, beside the C library's own `malloc`, the library stays
/// when it is closed: its thread and its handlers do.
#[test]
fn the_library_can_be_opened_and_closed_itself() {
    let Some(program) = compile("opened.c", "opened", &["-ldl".as_ref()]) else {
        return;
    };
    let library = library("libslab_alloc.so");
    assert_eq!(
        stdout(std::process::Command::new(program).arg(library)),
        "ok\n"
    );
}

/// What is seen without the hardened mode: on the slow paths, and on the fast ones where
/// it costs nothing.
#[test]
fn misuse_that_is_seen_ends_the_process_with_a_message() {
    const NOT_ALLOCATED: &str = "a pointer that was not allocated (0x";
    const FREE_OF_NOT_ALLOCATED: &str = "free of a pointer that was not allocated (0x";
    const WRONG_SIZE: &str = "free of a pointer with another size than it was allocated with (0x";
    const DOUBLE_FREE: &str = "double free (0x";
    // Where there are debug assertions, the size is checked first.
    let of_foreign = if cfg!(debug_assertions) {
        WRONG_SIZE
    } else {
        FREE_OF_NOT_ALLOCATED
    };
    let Some(program) = compile("foreign.c", "foreign", &["-pthread".as_ref()]) else {
        return;
    };
    for (kind, message) in [
        ("static", NOT_ALLOCATED),
        ("stack", NOT_ALLOCATED),
        ("wild", FREE_OF_NOT_ALLOCATED),
        ("large-interior", FREE_OF_NOT_ALLOCATED),
        (
            "small-interior",
            "free of a pointer into the middle of an object (0x",
        ),
        ("double", DOUBLE_FREE),
        ("double-later", DOUBLE_FREE),
        ("double-elsewhere", DOUBLE_FREE),
        ("double-large", FREE_OF_NOT_ALLOCATED),
        ("sized", WRONG_SIZE),
        ("sized-static", of_foreign),
        ("sized-large", WRONG_SIZE),
        ("sized-large-static", FREE_OF_NOT_ALLOCATED),
        ("realloc-static", NOT_ALLOCATED),
        ("realloc-freed", NOT_ALLOCATED),
        (
            "realloc-interior",
            "a pointer into the middle of an object (0x",
        ),
        ("usable-static", NOT_ALLOCATED),
        (
            "usable-interior",
            "a pointer into the middle of an object (0x",
        ),
    ] {
        let output = output(preloaded(&program).arg(kind));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.starts_with(&format!("slabkv: {message}")),
            "{kind}: {stderr}"
        );
    }
    // The same program without misuse.
    assert_eq!(stdout(preloaded(&program).arg("none")), "");
}
