//! The process heap's statistics as text and as JSON, written piece by piece so that
//! nothing allocates.
//!
//! One description serves both forms, so that they have the same figures under the
//! same names. `docs/statistics.md` explains each, and a test holds that it does.
//!
//! ```text
//! heap
//!   resident_bytes          1204224
//!   live_bytes               512008
//! classes
//!   slot_bytes   slabs    live ...
//!           16       1      88 ...
//! ```

use crate::heap_profile::{PROFILE, ProfileStats};
use crate::heap_stats::{HeapArenaStats, HeapClassStats, HeapStats, Sources, ThreadCacheStats};
use crate::settings::{ExitReport, HugePages, Settings};
use crate::stats::Traffic;
use core::fmt::{self, Write};

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Writes everything that is known of the heap.
pub(crate) fn write(
    sources: Sources,
    settings: &Settings,
    form: Form,
    out: &mut dyn Write,
) -> fmt::Result {
    let mut report = Report::begin(form, out)?;
    let snapshot = sources.snapshot();
    report.section("heap", &mut |fields| heap_fields(fields, &snapshot.heap))?;
    report.section("pages", &mut |fields| page_fields(fields, &snapshot.heap))?;
    report.section("traffic", &mut |fields| {
        traffic_fields(fields, &snapshot.heap.traffic)
    })?;
    report.section("heap_profile", &mut |fields| {
        profile_fields(fields, &PROFILE.stats())
    })?;
    report.section("settings", &mut |fields| setting_fields(fields, settings))?;
    report.table("classes", snapshot.classes(), &|fields, class| {
        class_fields(fields, class)
    })?;
    report.table("arenas", sources.arena_stats(), &arena_fields)?;
    report.table("threads", sources.thread_stats(), &thread_fields)?;
    report.end()
}

/// Writes the report that a program is asked for at its end to standard error.
pub(crate) fn write_at_exit(sources: Sources, settings: &Settings) {
    let (form, prefix) = match settings.stats_at_exit {
        ExitReport::None => return,
        ExitReport::Text => (Form::Text, "slabkv: "),
        ExitReport::Json => (Form::Json, ""),
    };
    let mut out = Descriptor::new(libc::STDERR_FILENO, prefix);
    // There is nobody left to tell that it could not be written.
    let _ = write(sources, settings, form, &mut out);
}

fn heap_fields(fields: &mut Fields, heap: &HeapStats) -> fmt::Result {
    let parts = &heap.arenas;
    fields.number("resident_bytes", parts.resident_bytes)?;
    fields.number("slab_bytes", parts.slab_bytes)?;
    fields.number("live_bytes", parts.live_bytes)?;
    fields.number("cached_bytes", heap.cached_bytes)?;
    fields.number("free_bytes", parts.free_bytes)?;
    fields.number("tail_bytes", parts.tail_bytes)?;
    fields.number("large_bytes", parts.large_bytes)?;
    fields.number("large_objects", parts.large_objects)?;
    fields.number("dirty_bytes", parts.dirty_bytes)?;
    fields.number("punched_bytes", parts.punched_bytes)?;
    fields.number("metadata_bytes", parts.metadata_bytes)?;
    fields.number("slabs", parts.slabs)?;
    fields.number("arena_count", heap.arena_count)?;
    fields.number("thread_count", heap.thread_count)
}

fn page_fields(fields: &mut Fields, heap: &HeapStats) -> fmt::Result {
    let parts = &heap.arenas;
    fields.number("region_bytes", parts.region_bytes)?;
    fields.number("open_chunks", parts.open_chunks as usize)?;
    fields.number("huge_chunks", parts.huge_chunks as usize)?;
    fields.count("promotions", parts.promotions)?;
    fields.count("demotions", parts.demotions)?;
    fields.list("free_blocks_by_order", &parts.free_blocks)?;
    fields.count("splits", parts.splits)?;
    fields.count("merges", parts.merges)?;
    fields.count("fresh_bytes_total", parts.fresh_bytes_total)?;
    fields.count("purged_bytes_total", parts.purged_bytes_total)?;
    fields.count("purges_refused", parts.purges_refused)
}

fn traffic_fields(fields: &mut Fields, traffic: &Traffic) -> fmt::Result {
    fields.count("fills", traffic.fills)?;
    fields.count("filled_slots", traffic.filled_slots)?;
    fields.count("flushes", traffic.flushes)?;
    fields.count("flushed_slots", traffic.flushed_slots)?;
    fields.count("remote_slots", traffic.remote_slots)
}

fn profile_fields(fields: &mut Fields, profile: &ProfileStats) -> fmt::Result {
    fields.number("sample_bytes", profile.sample_bytes as usize)?;
    fields.number("live_samples", profile.live_samples as usize)?;
    fields.number("stacks", profile.stacks as usize)?;
    fields.count("dropped_samples", profile.dropped_samples)
}

fn setting_fields(fields: &mut Fields, settings: &Settings) -> fmt::Result {
    fields.number("purge_delay_ms", settings.purge_delay_ms as usize)?;
    fields.number("background_thread", usize::from(settings.background_thread))?;
    fields.number("cache_bytes", settings.cache_bytes)?;
    fields.number(
        "huge_pages",
        usize::from(settings.huge_pages == HugePages::Dense),
    )
}

fn class_fields(fields: &mut Fields, stats: &HeapClassStats) -> fmt::Result {
    let class = &stats.class;
    fields.number("slot_bytes", class.slot_bytes)?;
    fields.number("slab_pages", class.slab_pages as usize)?;
    fields.number("slab_slots", class.slab_slots as usize)?;
    fields.number("slabs", class.slabs as usize)?;
    fields.number("live", class.live as usize)?;
    fields.number("free", class.free as usize)?;
    fields.number("cached", stats.cached as usize)?;
    fields.number("tail_bytes", stats.tail_bytes)?;
    fields.number("rounding_bytes_max", stats.rounding_bytes_max)?;
    traffic_fields(fields, &stats.traffic)?;
    fields.number("full_slabs", stats.full_slabs as usize)?;
    fields.number("current_slabs", stats.current_slabs as usize)?;
    fields.number("empty_slabs", stats.empty_slabs as usize)?;
    fields.list("by_occupancy", &class.by_occupancy)
}

fn arena_fields(fields: &mut Fields, arena: &HeapArenaStats) -> fmt::Result {
    fields.number("arena", usize::from(arena.number))?;
    fields.number("users", arena.threads as usize)?;
    fields.number("slabs", arena.slabs as usize)?;
    fields.number("slab_bytes", arena.slab_bytes)?;
    fields.number("taken_bytes", arena.taken_bytes)?;
    fields.number("free_bytes", arena.free_bytes)?;
    fields.number("waiting_classes", arena.waiting_classes as usize)?;
    fields.number("metadata_bytes", arena.metadata_bytes)?;
    traffic_fields(fields, &arena.traffic)
}

fn thread_fields(fields: &mut Fields, thread: &ThreadCacheStats) -> fmt::Result {
    fields.number("thread", thread.number as usize)?;
    fields.number("arena", usize::from(thread.arena))?;
    fields.number("slots", thread.slots)?;
    fields.number("bytes", thread.bytes)?;
    fields.number("capacity_bytes", thread.capacity_bytes)?;
    fields.number("limit_bytes", thread.limit_bytes)
}

/// A report that is being written.
struct Report<'a> {
    form: Form,
    out: &'a mut dyn Write,
    is_first: bool,
}

impl<'a> Report<'a> {
    fn begin(form: Form, out: &'a mut dyn Write) -> Result<Self, fmt::Error> {
        if form == Form::Json {
            out.write_char('{')?;
        }
        Ok(Self {
            form,
            out,
            is_first: true,
        })
    }

    fn end(self) -> fmt::Result {
        match self.form {
            Form::Text => Ok(()),
            Form::Json => self.out.write_str("}\n"),
        }
    }

    /// Starts a named part.
    fn name(&mut self, name: &str) -> fmt::Result {
        let is_first = core::mem::take(&mut self.is_first);
        match self.form {
            Form::Text => join(self.out, &[name, "\n"]),
            Form::Json => json_name(self.out, is_first, name),
        }
    }

    /// One figure on each line.
    fn section(
        &mut self,
        name: &str,
        describe: &mut dyn FnMut(&mut Fields) -> fmt::Result,
    ) -> fmt::Result {
        self.name(name)?;
        let style = match self.form {
            Form::Text => Style::Line,
            Form::Json => Style::Json,
        };
        Fields::write(style, self.out, describe)
    }

    /// One item on each line, with the names of its figures above the first.
    fn table<T>(
        &mut self,
        name: &str,
        items: impl Iterator<Item = T>,
        describe: &dyn Fn(&mut Fields, &T) -> fmt::Result,
    ) -> fmt::Result {
        self.name(name)?;
        if self.form == Form::Json {
            self.out.write_char('[')?;
        }
        for (at, item) in items.enumerate() {
            if self.form == Form::Json {
                self.out.write_str(if at == 0 { "" } else { "," })?;
                Fields::write(Style::Json, self.out, &mut |fields| describe(fields, &item))?;
                continue;
            }
            if at == 0 {
                Fields::write(Style::Heading, self.out, &mut |fields| {
                    describe(fields, &item)
                })?;
                self.out.write_char('\n')?;
            }
            Fields::write(Style::Cell, self.out, &mut |fields| describe(fields, &item))?;
            self.out.write_char('\n')?;
        }
        if self.form == Form::Json {
            self.out.write_char(']')?;
        }
        Ok(())
    }
}

/// How named figures are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Json,
    /// Name and figure on a line of their own.
    Line,
    /// The name alone, above a column.
    Heading,
    /// The figure alone, below its name.
    Cell,
}

/// The figures of one part or item.
struct Fields<'a> {
    style: Style,
    out: &'a mut dyn Write,
    is_first: bool,
}

impl Fields<'_> {
    fn write(
        style: Style,
        out: &mut dyn Write,
        describe: &mut dyn FnMut(&mut Fields) -> fmt::Result,
    ) -> fmt::Result {
        if style == Style::Json {
            out.write_char('{')?;
        }
        let mut fields = Fields {
            style,
            out,
            is_first: true,
        };
        describe(&mut fields)?;
        if style == Style::Json {
            out.write_char('}')?;
        }
        Ok(())
    }

    fn number(&mut self, name: &str, value: usize) -> fmt::Result {
        self.count(name, value as u64)
    }

    fn count(&mut self, name: &str, value: u64) -> fmt::Result {
        let digits = Digits::new(value);
        match self.style {
            Style::Json => {
                self.json_name(name)?;
                self.out.write_str(digits.text())
            }
            Style::Line => {
                join(self.out, &["  ", name])?;
                pad(self.out, name, NAME_WIDTH)?;
                self.out.write_char(' ')?;
                pad(self.out, digits.text(), FIGURE_WIDTH)?;
                join(self.out, &[digits.text(), "\n"])
            }
            Style::Heading => {
                self.out.write_str("  ")?;
                pad(self.out, name, COLUMN_WIDTH)?;
                self.out.write_str(name)
            }
            Style::Cell => {
                self.out.write_str("  ")?;
                pad(self.out, digits.text(), name.len().max(COLUMN_WIDTH))?;
                self.out.write_str(digits.text())
            }
        }
    }

    fn list(&mut self, name: &str, values: &[u32]) -> fmt::Result {
        match self.style {
            Style::Json => {
                self.json_name(name)?;
                self.out.write_char('[')?;
                self.values(values, ",")?;
                self.out.write_char(']')
            }
            Style::Line => {
                join(self.out, &["  ", name])?;
                pad(self.out, name, NAME_WIDTH)?;
                self.out.write_char(' ')?;
                self.values(values, "/")?;
                self.out.write_char('\n')
            }
            Style::Heading => join(self.out, &["  ", name]),
            Style::Cell => {
                self.out.write_str("  ")?;
                self.values(values, "/")
            }
        }
    }

    fn json_name(&mut self, name: &str) -> fmt::Result {
        let is_first = core::mem::take(&mut self.is_first);
        json_name(self.out, is_first, name)
    }

    fn values(&mut self, values: &[u32], separator: &str) -> fmt::Result {
        for (at, value) in values.iter().enumerate() {
            let digits = Digits::new(u64::from(*value));
            join(
                self.out,
                &[if at == 0 { "" } else { separator }, digits.text()],
            )?;
        }
        Ok(())
    }
}

/// Bytes of a name and of a figure on a line of their own, and the fewest of a column.
const NAME_WIDTH: usize = 22;
const FIGURE_WIDTH: usize = 16;
const COLUMN_WIDTH: usize = 8;

/// A number in decimal. The formatting of the core library would be a large part of the
/// C library that this is linked into.
struct Digits {
    bytes: [u8; Digits::MAX],
    start: usize,
}

impl Digits {
    const MAX: usize = u64::MAX.ilog10() as usize + 1;

    fn new(mut value: u64) -> Digits {
        let mut digits = Digits {
            bytes: [b'0'; Digits::MAX],
            start: Digits::MAX,
        };
        for byte in digits.bytes.iter_mut().rev() {
            *byte = b'0' + (value % 10) as u8;
            digits.start -= 1;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        digits
    }

    fn text(&self) -> &str {
        let bytes = self.bytes.get(self.start..).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

#[inline(never)]
fn join(out: &mut dyn Write, parts: &[&str]) -> fmt::Result {
    parts.iter().try_for_each(|part| out.write_str(part))
}

/// As many spaces as bring the text to the width.
#[inline(never)]
fn pad(out: &mut dyn Write, text: &str, width: usize) -> fmt::Result {
    (text.len()..width).try_for_each(|_| out.write_char(' '))
}

#[inline(never)]
fn json_name(out: &mut dyn Write, is_first: bool, name: &str) -> fmt::Result {
    join(out, &[if is_first { "\"" } else { ",\"" }, name, "\":"])
}

/// Writes to a file descriptor, with a prefix before each line. What is left is
/// written when it is dropped.
pub(crate) struct Descriptor {
    descriptor: libc::c_int,
    prefix: &'static str,
    at_start: bool,
    bytes: [u8; 1024],
    length: usize,
}

impl Descriptor {
    pub(crate) fn new(descriptor: libc::c_int, prefix: &'static str) -> Self {
        Self {
            descriptor,
            prefix,
            at_start: true,
            bytes: [0; 1024],
            length: 0,
        }
    }

    /// Writes what has gathered.
    pub(crate) fn flush(&mut self) -> fmt::Result {
        let mut bytes = &self.bytes[..core::mem::take(&mut self.length)];
        while !bytes.is_empty() {
            // SAFETY: The bytes are valid for their length.
            let written =
                unsafe { libc::write(self.descriptor, bytes.as_ptr().cast(), bytes.len()) };
            // SAFETY: The location is the calling thread's own and always valid.
            let errno = || unsafe { *libc::__errno_location() };
            match usize::try_from(written) {
                Ok(written) => bytes = &bytes[written..],
                Err(_) if errno() == libc::EINTR => {}
                Err(_) => return Err(fmt::Error),
            }
        }
        Ok(())
    }

    /// Writes bytes that are no text.
    #[cfg(feature = "pprof")]
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        self.gather(bytes)
    }

    fn gather(&mut self, mut bytes: &[u8]) -> fmt::Result {
        while !bytes.is_empty() {
            if self.length == self.bytes.len() {
                self.flush()?;
            }
            let count = bytes.len().min(self.bytes.len() - self.length);
            let (now, later) = bytes.split_at(count);
            self.bytes[self.length..][..count].copy_from_slice(now);
            self.length += count;
            bytes = later;
        }
        Ok(())
    }
}

impl Write for Descriptor {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            if core::mem::replace(&mut self.at_start, line.ends_with('\n')) {
                self.gather(self.prefix.as_bytes())?;
            }
            self.gather(line.as_bytes())?;
        }
        Ok(())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // Who has to know of a failure flushes.
        let _ = self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form) -> String {
        let mut text = String::new();
        let mut report = Report::begin(form, &mut text).unwrap();
        report
            .section("first", &mut |fields| {
                fields.number("one", 1)?;
                fields.list("list", &[7, 8])
            })
            .unwrap();
        report
            .table("items", [10_u64, 200].iter(), &|fields, item| {
                fields.count("a_long_name", **item)?;
                fields.list("more", &[1, 2])
            })
            .unwrap();
        report
            .table("none", [0_u64; 0].iter(), &|fields, item| {
                fields.count("never", **item)
            })
            .unwrap();
        report.end().unwrap();
        text
    }

    #[test]
    fn both_forms_say_the_same() {
        assert_eq!(
            written(Form::Json),
            "{\"first\":{\"one\":1,\"list\":[7,8]},\
             \"items\":[{\"a_long_name\":10,\"more\":[1,2]},{\"a_long_name\":200,\"more\":[1,2]}],\
             \"none\":[]}\n"
        );
        let text = [
            "first",
            "  one                                   1",
            "  list                   7/8",
            "items",
            "  a_long_name  more",
            "           10  1/2",
            "          200  1/2",
            "none",
            "",
        ];
        assert_eq!(written(Form::Text), text.join("\n"));
    }

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::MAX / 10, u64::MAX] {
            assert_eq!(Digits::new(number).text(), number.to_string());
        }
    }

    #[test]
    fn a_descriptor_gets_every_byte_and_a_prefix_before_each_line() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&writer);
        let mut out = Descriptor::new(descriptor, "p: ");
        let long = "x".repeat(3000);
        write!(out, "a\nb{}\n\n{long}", 1).unwrap();
        drop((out, writer));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        assert_eq!(text, format!("p: a\np: b1\np: \np: {long}"));
        let mut out = Descriptor::new(-1, "");
        out.write_str("lost").unwrap();
        assert!(out.flush().is_err());
    }
}
