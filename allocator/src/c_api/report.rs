//! Figures of the heap in the forms that C programs ask for. XML is put together in
//! a line on the stack.

use crate::global_alloc::SlabAlloc;
use crate::heap_stats::HeapStats;
use crate::report::Descriptor;
use crate::stats::ClassStats;
use core::ffi::c_int;

/// `mallinfo2`: `arena` is what is resident; `uordblks` is in use, objects too large
/// for slabs included; `hblks` and `hblkhd` are those alone; `fordblks` is free and
/// resident, of which `keepcost` could go back to the system.
pub fn mallinfo2() -> libc::mallinfo2 {
    let stats = SlabAlloc::new().stats();
    let parts = &stats.arenas;
    libc::mallinfo2 {
        arena: parts.resident_bytes,
        ordblks: parts.slabs,
        smblks: 0,
        hblks: parts.large_objects,
        hblkhd: parts.large_bytes,
        usmblks: 0,
        fsmblks: stats.cached_bytes,
        uordblks: in_use(&stats),
        fordblks: free(&stats),
        keepcost: parts.dirty_bytes,
    }
}

/// `mallinfo`: as [`mallinfo2`], in numbers that end at 2 GiB, where they stay.
pub fn mallinfo() -> libc::mallinfo {
    let cut = |bytes: usize| c_int::try_from(bytes).unwrap_or(c_int::MAX);
    let info = mallinfo2();
    libc::mallinfo {
        arena: cut(info.arena),
        ordblks: cut(info.ordblks),
        smblks: cut(info.smblks),
        hblks: cut(info.hblks),
        hblkhd: cut(info.hblkhd),
        usmblks: cut(info.usmblks),
        fsmblks: cut(info.fsmblks),
        uordblks: cut(info.uordblks),
        fordblks: cut(info.fordblks),
        keepcost: cut(info.keepcost),
    }
}

fn in_use(stats: &HeapStats) -> usize {
    stats.arenas.live_bytes + stats.arenas.large_bytes
}

fn free(stats: &HeapStats) -> usize {
    stats.arenas.free_bytes + stats.cached_bytes + stats.arenas.dirty_bytes
}

/// The totals, with the names under which they are shown.
fn totals(stats: &HeapStats) -> [(&'static str, usize); 9] {
    let parts = &stats.arenas;
    [
        ("resident", parts.resident_bytes),
        ("live", parts.live_bytes),
        ("large", parts.large_bytes),
        ("free", parts.free_bytes),
        ("cached", stats.cached_bytes),
        ("tails", parts.tail_bytes),
        ("dirty", parts.dirty_bytes),
        ("punched", parts.punched_bytes),
        ("metadata", parts.metadata_bytes),
    ]
}

/// `malloc_stats`: all statistics as text, on standard error.
pub fn malloc_stats() {
    let mut out = Descriptor::new(libc::STDERR_FILENO, "");
    // What cannot be written is given up.
    let _ = SlabAlloc::new().write_stats_text(&mut out);
}

/// All statistics as text, to a file descriptor. 0, or -1 with `errno` where they
/// could not all be written.
pub fn stats_text(descriptor: c_int) -> c_int {
    to_descriptor(descriptor, |out| SlabAlloc::new().write_stats_text(out))
}

/// All statistics as one JSON object on one line, to a file descriptor. The result is
/// as of [`stats_text`].
pub fn stats_json(descriptor: c_int) -> c_int {
    to_descriptor(descriptor, |out| SlabAlloc::new().write_stats_json(out))
}

/// The heap profile as pprof reads it, to a file descriptor. 0, or -1 with `errno` where it
/// could not all be written.
#[cfg(feature = "pprof")]
pub fn write_heap_profile(descriptor: c_int) -> c_int {
    let Some(bytes) = SlabAlloc::new().heap_profile_pprof() else {
        crate::heap::out_of_memory();
        return -1;
    };
    to_descriptor(descriptor, |out| out.write_bytes(&bytes))
}

fn to_descriptor(
    descriptor: c_int,
    write: impl FnOnce(&mut Descriptor) -> core::fmt::Result,
) -> c_int {
    let mut out = Descriptor::new(descriptor, "");
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

/// `malloc_info`: the totals and each class that has had a slab, as XML on `stream`.
/// 0, or -1 with `errno` at `EINVAL` if `options` is not 0.
///
/// # Safety
///
/// `stream` is open for writing.
pub unsafe fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        // SAFETY: The location is the calling thread's own and always valid.
        unsafe { *libc::__errno_location() = libc::EINVAL };
        return -1;
    }
    let alloc = SlabAlloc::new();
    let mut line = Line::new();
    line.text("<malloc version=\"slabkv-1\">\n");
    // SAFETY: The caller's promise, here and below.
    unsafe { line.write_to(stream) };
    // The figures are taken before any of them is written: the stream may allocate.
    let stats = alloc.stats();
    // SAFETY: All of it is numbers.
    let mut classes: [ClassStats; crate::process_arena::CLASSES] = unsafe { core::mem::zeroed() };
    let mut count = 0;
    alloc.class_stats(|class| {
        classes[count] = *class;
        count += 1;
    });
    for class in &classes[..count] {
        let mut line = Line::new();
        line.text("<class");
        line.attribute("size", class.slot_bytes);
        line.attribute("slabs", class.slabs as usize);
        line.attribute("live", class.live as usize);
        line.attribute("free", class.free as usize);
        line.text("/>\n");
        // SAFETY: As above.
        unsafe { line.write_to(stream) };
    }
    for (name, bytes) in totals(&stats) {
        let mut line = Line::new();
        line.text("<total type=\"");
        line.text(name);
        line.text("\"");
        line.attribute("size", bytes);
        line.text("/>\n");
        // SAFETY: As above.
        unsafe { line.write_to(stream) };
    }
    let mut line = Line::new();
    line.text("</malloc>\n");
    // SAFETY: As above.
    unsafe { line.write_to(stream) };
    0
}

/// A line of text, cut at its end.
struct Line {
    bytes: [u8; 160],
    length: usize,
}

impl Line {
    fn new() -> Self {
        Self {
            bytes: [0; 160],
            length: 0,
        }
    }

    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    #[inline(never)]
    fn text(&mut self, text: &str) {
        text.bytes().for_each(|byte| self.byte(byte));
    }

    fn number(&mut self, number: usize) {
        let digits = number.checked_ilog10().unwrap_or(0);
        for place in (0..=digits).rev() {
            self.byte(b'0' + (number / 10_usize.pow(place) % 10) as u8);
        }
    }

    #[inline(never)]
    fn attribute(&mut self, name: &str, number: usize) {
        self.byte(b' ');
        self.text(name);
        self.text("=\"");
        self.number(number);
        self.text("\"");
    }

    /// # Safety
    ///
    /// `stream` is open for writing.
    unsafe fn write_to(&self, stream: *mut libc::FILE) {
        // SAFETY: The caller's promise. The stream keeps its own error.
        unsafe { libc::fwrite(self.bytes.as_ptr().cast(), 1, self.length, stream) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_and_lines_are_cut() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, usize::MAX] {
            let mut line = Line::new();
            line.number(number);
            assert_eq!(&line.bytes[..line.length], number.to_string().as_bytes());
        }
        let mut line = Line::new();
        line.text(&"x".repeat(300));
        line.number(7);
        assert_eq!(line.length, 160);
    }
}
