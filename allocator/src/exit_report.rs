//! The figures that a program writes when it exits, if it is asked to: a line for
//! the pages, and one for each class that has slabs. Put together in a buffer on the
//! stack, so that nothing allocates.
//!
//! ```text
//! slabkv: resident 12345678 large 0 dirty 0 punched 0 metadata 204800 fresh 0 purged 0
//! slabkv: class 64 slabs 12 free 131 slots 768
//! ```
//!
//! All but the numbers of slabs and slots are bytes; `fresh` and `purged` are what was
//! ever taken from the system and given back. Slots in threads' caches count as used.

use crate::arena_table::ArenaTable;
use crate::process_arena::{CLASSES, ClassFigures};
use crate::shared_pages::SharedPages;
use crate::size_class::GENERAL;
use crate::stats::ArenaStats;
use core::fmt::{self, Write};

/// Writes the figures to standard error.
pub(crate) fn write(pages: &SharedPages, arenas: &ArenaTable) {
    let mut classes = [ClassFigures::default(); CLASSES];
    let records: usize = arenas.iter().map(|arena| arena.count(&mut classes)).sum();
    let stats = pages.with(|pages| ArenaStats::of_pages(&pages.source, &pages.large));
    let metadata_bytes = stats.metadata_bytes + records;
    line(format_args!(
        "slabkv: resident {} large {} dirty {} punched {} metadata {} fresh {} purged {}\n",
        stats.resident_bytes + metadata_bytes,
        stats.large_bytes,
        stats.dirty_bytes,
        stats.punched_bytes,
        metadata_bytes,
        stats.fresh_bytes_total,
        stats.purged_bytes_total,
    ));
    for (class, held) in classes.iter().enumerate() {
        let shape = GENERAL.class(class);
        if held.slabs > 0 {
            line(format_args!(
                "slabkv: class {} slabs {} free {} slots {}\n",
                shape.size,
                held.slabs,
                held.free,
                held.slabs * u32::from(shape.slots),
            ));
        }
    }
}

struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes[self.length..].get_mut(..text.len());
        room.ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

fn line(text: fmt::Arguments) {
    let mut line = Line {
        bytes: [0; 256],
        length: 0,
    };
    // Every line has room: seven numbers of at most 20 digits and 70 letters.
    let _ = line.write_fmt(text);
    // SAFETY: The buffer is valid for `length` bytes.
    unsafe { libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length) };
}
