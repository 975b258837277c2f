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

#[test]
fn a_pointer_from_elsewhere_ends_the_process_with_a_message() {
    let Some(program) = compile("foreign.c", "foreign", &[]) else {
        return;
    };
    for (kind, message) in [
        ("static", "slabkv: a pointer that was not allocated (0x"),
        ("stack", "slabkv: a pointer that was not allocated (0x"),
        (
            "large-interior",
            "slabkv: free of a pointer that was not allocated (0x",
        ),
    ] {
        let output = output(preloaded(&program).arg(kind));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && stderr.starts_with(message),
            "{kind}: {stderr}"
        );
    }
}
