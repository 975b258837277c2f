//! The library as a part of the C library: threads that come and go, forks, plug-ins,
//! limits.

mod preloaded;

use std::ffi::OsStr;
use std::io::Write;
use std::process::Command;

#[cfg(not(feature = "hardened"))]
use preloaded::output;
use preloaded::{compile, library, preloaded, stdout};

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
        // The hardened mode spreads objects over slabs, and holds some back.
        let most_kib = if cfg!(feature = "hardened") {
            1024
        } else {
            256
        };
        assert!(grown_kib < most_kib, "grown by {grown_kib} KiB");
    }
}

#[test]
fn forks_find_the_heap_whole_at_any_moment() {
    if let Some(program) = compile("forks.c", "forks", &[]) {
        assert_eq!(stdout(&mut preloaded(program)), "ok\n");
    }
}

#[test]
fn fork_handlers_are_registered_before_a_second_thread_runs() {
    let arguments = [OsStr::new("-rdynamic")];
    if let Some(program) = compile("atfork.c", "atfork", &arguments) {
        // Elsewhere nobody knows in time that there will be a second thread.
        let alone = match cfg!(all(target_arch = "x86_64", target_env = "gnu")) {
            true => 0,
            false => 1,
        };
        let expected = format!("{alone} 1 1\n");
        assert_eq!(stdout(&mut preloaded(&program)), expected);
        // The C library makes threads without the heap of one that is only opened.
        let mut command = Command::new(program);
        assert_eq!(stdout(command.arg(library("libslab_alloc.so"))), "1\n");
    }
}

// Elsewhere nobody knows that there is no other thread. The hardened mode holds some back.
#[cfg(all(target_arch = "x86_64", target_env = "gnu", not(feature = "hardened")))]
#[test]
fn what_a_small_program_leaves_behind_goes_back() {
    let Some(program) = compile("left.c", "left", &[]) else {
        return;
    };
    let left = |mib: &str| {
        let mut command = preloaded(&program);
        command.env("SLAB_ALLOC_OPTIONS", "purge_delay_ms:50");
        stdout(command.arg(mib))
    };
    assert_eq!(left("8"), "2 gone\n");
    // So little is not worth a thread.
    assert_eq!(left("1"), "1 kept\n");
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

/// The limit that counts what is writable alone, as a system does that grants no more
/// memory than it has (`vm.overcommit_memory=2`).
#[test]
fn writable_memory_that_runs_out_is_there_again_when_it_is_freed() {
    if let Some(program) = compile("limit.c", "limit-data", &[]) {
        let mut command = preloaded("/bin/sh");
        command.args(["-c", "ulimit -d 150000 && exec \"$0\""]);
        let least_mb: u64 = stdout(command.arg(program)).trim().parse().unwrap();
        // A quarter is for others. The least is that of objects of 5 MB that grow.
        assert!(least_mb > 50, "{least_mb} MB of 150 could be had");
    }
}

/// Runs `refusals.c`. Returns the megabytes that were resident at most and in the end;
/// `None` where the system knows no filters.
fn refused(request: &str, error: i32) -> Option<(u64, u64)> {
    let program = compile("refusals.c", &format!("refusals-{request}"), &[])?;
    let mut command = preloaded(program);
    let text = stdout(command.args([request, &error.to_string()]));
    if text == "no filter\n" {
        eprintln!("passed over: there are no filters of system calls");
        return None;
    }
    let mut figures = text
        .split_whitespace()
        .map(|figure| figure.parse().unwrap());
    Some((figures.next().unwrap(), figures.next().unwrap()))
}

const ENOSYS: i32 = 38;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;

#[test]
fn memory_goes_back_on_kernels_without_batches() {
    if let Some((most, least)) = refused("process_madvise", ENOSYS) {
        assert!(most > 60 && least < most / 3, "{least} of {most} MB stay");
    }
}

#[test]
fn a_system_that_takes_nothing_back_is_borne() {
    if let Some((most, least)) = refused("madvise", EINVAL) {
        // The hardened mode makes large objects inaccessible when they are freed, and so
        // has others batches to give back.
        let stays = cfg!(feature = "hardened") || least > most / 2;
        assert!(most > 60 && stays, "{least} of {most} MB stay");
    }
}

#[test]
fn what_cannot_be_moved_is_copied() {
    assert!(refused("mremap", ENOMEM).is_none_or(|(most, _)| most > 60));
}

#[test]
fn what_is_accessible_serves_where_no_more_can_be_had() {
    // What was made accessible for records of slabs does not last as long as the rest.
    // Those of the hardened mode are longer.
    let records_mb = if cfg!(feature = "hardened") { 5 } else { 10 };
    for (request, least_mb) in [("mprotect", records_mb), ("mmap", 60)] {
        assert!(refused(request, ENOMEM).is_none_or(|(most, _)| most > least_mb));
    }
}

/// Each request of the heap to the system fails once, and so do all from it on: no
/// crash, every object whole, null with ENOMEM, and all as before once there is memory.
#[test]
fn any_request_to_the_system_may_fail() {
    let exported = std::ffi::OsStr::new("-rdynamic");
    if let Some(program) = compile("nth.c", "nth", &[exported]) {
        // The hardened mode guards each large object: many requests, and much alike.
        let step = if cfg!(feature = "hardened") {
            "17"
        } else {
            "1"
        };
        let text = stdout(preloaded(program).arg(step));
        let runs: u32 = text.trim().parse().unwrap();
        assert!(runs > 40, "{runs} runs");
    }
}

/// A control group of its own with this limit, and the file that takes processes into
/// it; `None` where the test may not make one.
struct Group(std::path::PathBuf);

impl Group {
    fn new(limit_bytes: u64) -> Option<Group> {
        let name = format!("slabkv-test-{}", std::process::id());
        let kinds = [
            ("/sys/fs/cgroup", "memory.max"),
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ];
        kinds.into_iter().find_map(|(mount, limit)| {
            let mount = std::path::Path::new(mount);
            if !mount.join("cgroup.procs").exists() {
                return None;
            }
            std::fs::create_dir(mount.join(&name)).ok()?;
            let group = Group(mount.join(&name));
            // Without the controller there is no such file.
            let mut file = std::fs::OpenOptions::new();
            let file = file.write(true).open(group.0.join(limit));
            file.ok()?
                .write_all(limit_bytes.to_string().as_bytes())
                .ok()?;
            Some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn near_the_limit_of_a_control_group_free_memory_goes_back_at_once() {
    let Some(program) = compile("group.c", "group", &[]) else {
        return;
    };
    let Some(group) = Group::new(64 << 20) else {
        eprintln!("passed over: no control group can be made");
        return;
    };
    let mut command = preloaded("/bin/sh");
    command.args(["-c", "echo $$ > \"$1\" && exec \"$0\""]);
    command.arg(program).arg(group.0.join("cgroup.procs"));
    command.env("SLAB_ALLOC_OPTIONS", "purge_delay_ms:86400000");
    assert_eq!(stdout(&mut command), "ok\n");
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
/// it costs nothing. That mode's own test has all of it, and more.
#[cfg(not(feature = "hardened"))]
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
