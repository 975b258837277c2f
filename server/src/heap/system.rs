//! The C library's malloc. It knows what it has handed out; how much of the rest is resident it does not.

use std::alloc::System;
use std::ffi::CStr;

use super::HeapMemory;

pub(crate) type Malloc = System;

pub(crate) const MALLOC: Malloc = System;

/// Whether the free part of the heap is known, and not only what is in use.
pub(super) const KNOWS_FREE: bool = false;

/// The name that INFO gives.
pub(crate) fn name() -> String {
    "libc".to_owned()
}

/// What is to be done when the server starts.
pub(crate) fn start() {}

/// The allocator's own books.
pub(super) fn memory() -> HeapMemory {
    // SAFETY: the call has no conditions.
    let info = unsafe { libc::mallinfo2() };
    HeapMemory {
        live_bytes: (info.uordblks + info.hblkhd) as u64,
        ..HeapMemory::default()
    }
}

/// Gives free memory back to the system.
pub(crate) fn purge() {
    // SAFETY: the call has no conditions.
    unsafe { libc::malloc_trim(0) };
}

/// What a worker does before it sleeps for long.
pub(crate) fn rest() {}

/// The heap in detail, as text.
pub(crate) fn describe() -> String {
    // SAFETY: the calls have no conditions, and the version is a constant string.
    let (info, version) = unsafe {
        (
            libc::mallinfo2(),
            CStr::from_ptr(libc::gnu_get_libc_version()),
        )
    };
    let figures = [
        ("taken from the system by brk and by arenas", info.arena),
        ("of this in use", info.uordblks),
        ("of this free", info.fordblks),
        ("at the top, to be trimmed first", info.keepcost),
        ("mapped singly", info.hblkhd),
        ("number of these mappings", info.hblks),
        ("free pieces", info.ordblks),
    ];
    let mut text = format!(
        "\nThe process's heap, by mallinfo2 of the GNU C library {}; free memory may be resident or not:\n\n",
        version.to_string_lossy()
    );
    for (name, figure) in figures {
        text.push_str(&format!("{name:<44}{figure:>16}\n"));
    }
    text
}
