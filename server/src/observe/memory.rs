//! Where the memory is: what the process holds, in Redis's terms, and the parts that add up to what is resident.
//!
//! ```text
//! resident = keyspace's arenas (keys, values, headers, rounding, table, free slots, free pages, records)
//!          + process's heap    (clients, other objects, free slots, threads' caches, free pages, records)
//!          + other mappings    (code, static data, stacks, what else is mapped)
//!          + residue
//! ```
//!
//! Each part is measured by itself: both allocators keep books, so what is in use is counted and not guessed from what
//! is resident; the other mappings' pages are counted in the kernel's page map. What is left over is the residue: pages
//! that the books hold for resident and nobody has touched yet, and the error of the kernel's own figure, whose counters
//! lag behind by up to some hundred pages.
//!
//! Another [`heap`](crate::heap) than slabkv's lies among the other mappings: what it knows of itself is taken off these,
//! and what it does not know stays there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvstore::statistics::Statistics;
use parking_lot::Mutex;

use crate::heap::HeapMemory;
use crate::mappings::{HeapUntouched, OutsideMemory, heap_untouched, outside_memory};
use crate::process;

/// Peak and start of memory use.
#[derive(Debug, Default)]
pub(crate) struct MemoryState {
    peak_bytes: AtomicU64,
    startup_bytes: AtomicU64,
    /// What objects on the process's heap take, as last sampled.
    heap_live_bytes: AtomicU64,
    /// What the process's heap holds, as last sampled.
    heap_resident_bytes: AtomicU64,
    /// What was in use, as last sampled.
    used_bytes: AtomicU64,
    /// What clients held when the last report was made.
    client_bytes: AtomicU64,
    /// What is outside of the allocator, and when it was looked at.
    outside: Mutex<Option<(Instant, OutsideMemory)>>,
    peaks: Mutex<Peaks>,
}

/// The most that each part has held, and the resident set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Peaks {
    /// Since the start.
    pub(crate) since_start: PartPeaks,
    /// Since the last CONFIG RESETSTAT.
    pub(crate) since_reset: PartPeaks,
}

/// The most that each part has held since some moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PartPeaks {
    /// Resident bytes.
    pub(crate) resident_bytes: u64,
    /// In the order of [`MemoryReport::parts`].
    pub(crate) parts: [i64; PARTS],
}

impl PartPeaks {
    fn note(&mut self, report: &MemoryReport) {
        let resident_bytes = report.system.resident_bytes;
        self.resident_bytes = self.resident_bytes.max(resident_bytes);
        for (peak, (_, bytes)) in self.parts.iter_mut().zip(report.parts()) {
            *peak = bytes.max(*peak);
        }
    }
}

/// Parts of the resident set, the residue among them.
pub(crate) const PARTS: usize = 14 + HeapMemory::PARTS;

/// For how long what was seen outside of the allocator counts: it changes slowly.
const OUTSIDE_VALID: Duration = Duration::from_secs(1);

impl MemoryState {
    /// Notes what is in use when the server is ready and empty.
    pub(crate) fn note_startup(&self, keyspace: &Statistics) {
        let used = self.sample(keyspace, &HeapMemory::now());
        self.startup_bytes.store(used, Ordering::Relaxed);
    }

    /// Notes what is in use now, for the peak; returns it.
    pub(crate) fn sample(&self, keyspace: &Statistics, heap: &HeapMemory) -> u64 {
        self.heap_live_bytes
            .store(heap.live_bytes, Ordering::Relaxed);
        self.heap_resident_bytes
            .store(heap.resident_bytes(), Ordering::Relaxed);
        let used = keyspace.memory.used_bytes() + heap.live_bytes;
        self.used_bytes.store(used, Ordering::Relaxed);
        self.peak_bytes.fetch_max(used, Ordering::Relaxed);
        used
    }

    /// What was in use, as last sampled.
    pub(crate) fn last_used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// What counts for `maxmemory` beside the keyspace, as last sampled: what objects on the process's heap take, or
    /// what it holds where the limit is on resident bytes.
    pub(crate) fn heap_bytes(&self, resident: bool) -> u64 {
        if resident {
            self.heap_resident_bytes.load(Ordering::Relaxed)
        } else {
            self.heap_live_bytes.load(Ordering::Relaxed)
        }
    }

    /// Resident bytes outside of the allocator: of files now, as the kernel counts them, of the rest at most a second
    /// ago, or all of it of now.
    fn outside(&self, file_bytes: u64) -> OutsideMemory {
        let mut known = self.outside.lock();
        let outside = match *known {
            Some((at, outside)) if at.elapsed() < OUTSIDE_VALID => outside,
            _ => {
                // Where the kernel keeps its page map to itself, it still tells the pages of files.
                let outside = outside_memory().unwrap_or_default();
                *known = Some((Instant::now(), outside));
                outside
            }
        };
        OutsideMemory {
            code_bytes: file_bytes,
            ..outside
        }
    }

    /// Notes what each part holds now, for the peaks; of clients and other mappings, what was seen last.
    pub(crate) fn note_peaks(&self, keyspace: &Statistics, heap: &HeapMemory) {
        let Some((_, outside)) = *self.outside.lock() else {
            return;
        };
        let system = process::resident_memory();
        let outside = OutsideMemory {
            code_bytes: system.file_bytes,
            ..outside
        };
        let report = MemoryReport {
            keyspace: *keyspace,
            heap: *heap,
            system,
            client_bytes: self.client_bytes.load(Ordering::Relaxed),
            outside: beside(outside, heap),
            ..MemoryReport::default()
        };
        let mut peaks = self.peaks.lock();
        peaks.since_start.note(&report);
        peaks.since_reset.note(&report);
    }

    /// Makes the present use the peak, for CONFIG RESETSTAT.
    pub(crate) fn reset_peak(&self, keyspace: &Statistics) {
        self.peaks.lock().since_reset = PartPeaks::default();
        self.peak_bytes.store(0, Ordering::Relaxed);
        self.sample(keyspace, &HeapMemory::now());
    }
}

/// What other threads change all the time.
struct Moment {
    heap: HeapMemory,
    untouched: HeapUntouched,
    system: process::SystemMemory,
}

impl Moment {
    /// Reads the figures one after the other, and again if the heap has changed meanwhile, up to a few times.
    fn now() -> Self {
        /// What a busy thread changes between any two looks.
        const CHANGE_BYTES_MAX: u64 = 32 << 10;
        let look = || Self {
            heap: HeapMemory::now(),
            system: process::resident_memory(),
            untouched: heap_untouched(),
        };
        let mut moment = look();
        for _ in 0..4 {
            let held = HeapMemory::now().resident_bytes();
            if held.abs_diff(moment.heap.resident_bytes()) <= CHANGE_BYTES_MAX {
                break;
            }
            moment = look();
        }
        moment
    }
}

/// All figures about memory at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MemoryReport {
    /// What the keyspace says.
    pub(crate) keyspace: Statistics,
    /// What the process's heap says.
    pub(crate) heap: HeapMemory,
    /// What the system says.
    pub(crate) system: process::SystemMemory,
    /// The most that was in use.
    pub(crate) peak_bytes: u64,
    /// What was in use when the server was ready and empty.
    pub(crate) startup_bytes: u64,
    /// What clients hold: records and buffers. It is part of the heap.
    pub(crate) client_bytes: u64,
    /// What is resident outside of the allocator.
    pub(crate) outside: OutsideMemory,
    /// Bytes of the keyspace's free slots on pages that nobody has touched yet.
    pub(crate) untouched_bytes: u64,
    /// The same of the process's heap.
    pub(crate) heap_untouched: HeapUntouched,
    /// The most that each part has held.
    pub(crate) peaks: Peaks,
}

impl MemoryReport {
    /// Takes all figures now.
    pub(crate) fn now(
        state: &MemoryState,
        keyspace: Statistics,
        client_bytes: u64,
        untouched_bytes: u64,
    ) -> Self {
        let Moment {
            heap,
            untouched: heap_untouched,
            system,
        } = Moment::now();
        state.sample(&keyspace, &heap);
        state.client_bytes.store(client_bytes, Ordering::Relaxed);
        let mut report = Self {
            keyspace,
            heap,
            system,
            peak_bytes: state.peak_bytes.load(Ordering::Relaxed),
            startup_bytes: state.startup_bytes.load(Ordering::Relaxed),
            client_bytes,
            outside: beside(state.outside(system.file_bytes), &heap),
            untouched_bytes: untouched_bytes.min(keyspace.memory.free_slot_bytes),
            heap_untouched,
            peaks: Peaks::default(),
        };
        let mut peaks = state.peaks.lock();
        peaks.since_start.note(&report);
        peaks.since_reset.note(&report);
        report.peaks = *peaks;
        report
    }

    /// What is in use: data, tables and the objects on the process's heap.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.keyspace.memory.used_bytes() + self.heap.live_bytes
    }

    /// What is in use that is not data: tables, and what the server needs for itself and its clients.
    pub(crate) fn overhead_bytes(&self) -> u64 {
        self.keyspace.memory.table_bytes + self.heap.live_bytes
    }

    /// What data takes: keys and values with their headers and rounding.
    pub(crate) fn dataset_bytes(&self) -> u64 {
        self.used_bytes() - self.overhead_bytes()
    }

    /// Data as a percentage of what is in use beyond the start.
    pub(crate) fn dataset_percent(&self) -> f64 {
        let net = self.used_bytes().saturating_sub(self.startup_bytes);
        percent(self.dataset_bytes(), net).min(100.0)
    }

    /// What is in use as a percentage of the peak.
    pub(crate) fn peak_percent(&self) -> f64 {
        percent(self.used_bytes(), self.peak_bytes)
    }

    /// Bytes of the pages that hold something in use.
    pub(crate) fn active_bytes(&self) -> u64 {
        let memory = &self.keyspace.memory;
        memory.used_bytes() + memory.free_slot_bytes + self.heap.active_bytes()
    }

    /// Bytes of the allocators' resident pages.
    pub(crate) fn allocator_resident_bytes(&self) -> u64 {
        self.keyspace.memory.resident_bytes() + self.heap.resident_bytes()
    }

    /// How many times `of` the number `part` is; 1 if that is nothing.
    pub(crate) fn ratio(part: u64, of: u64) -> f64 {
        if of == 0 {
            1.0
        } else {
            part as f64 / of as f64
        }
    }

    /// Bytes of `part` beyond `of`, which may be negative.
    pub(crate) fn excess(part: u64, of: u64) -> i64 {
        i64::try_from(part).unwrap_or(i64::MAX) - i64::try_from(of).unwrap_or(i64::MAX)
    }

    /// Resident bytes that belong to none of the allocators: files, stacks, static data.
    pub(crate) fn outside_bytes(&self) -> i64 {
        Self::excess(self.system.resident_bytes, self.allocator_resident_bytes())
    }

    /// What is left of the resident bytes once all that is measured is taken off. Negative where pages were handed out
    /// that nobody has touched.
    pub(crate) fn residue_bytes(&self) -> i64 {
        let heap = self.heap.without(&self.heap_untouched);
        let keyspace = self.keyspace.memory.resident_bytes() - self.untouched_bytes;
        let named = keyspace + heap.resident_bytes() + self.outside.total_bytes();
        Self::excess(self.system.resident_bytes, named)
    }

    /// The residue as a percentage of the resident bytes.
    pub(crate) fn residue_percent(&self) -> f64 {
        self.residue_bytes() as f64 * 100.0 / self.system.resident_bytes.max(1) as f64
    }

    /// How many parts there are.
    pub(crate) const PARTS: usize = PARTS;

    /// All resident bytes, part by part.
    pub(crate) fn parts(&self) -> [(&'static str, i64); PARTS] {
        let (memory, outside) = (&self.keyspace.memory, &self.outside);
        let mut heap = self.heap.without(&self.heap_untouched);
        let clients = self.client_bytes.min(heap.live_bytes);
        heap.live_bytes -= clients;
        let keyspace = [
            ("keys", memory.key_bytes),
            ("values", memory.value_bytes),
            ("entry headers", memory.header_bytes),
            ("rounding", memory.rounding_bytes),
            ("table", memory.table_bytes),
            ("free slots", memory.free_slot_bytes - self.untouched_bytes),
            ("dirty pages", memory.dirty_bytes),
            ("metadata", memory.metadata_bytes),
            ("clients", clients),
        ];
        let outside = [
            ("code", outside.code_bytes),
            ("static data", outside.static_bytes),
            ("stack", outside.stack_bytes),
            ("other mappings", outside.other_bytes),
        ];
        let measured = keyspace.into_iter().chain(heap.parts()).chain(outside);
        // The last one is what no other has.
        let mut parts = [("residue", self.residue_bytes()); PARTS];
        for (part, (name, bytes)) in parts.iter_mut().zip(measured) {
            *part = (name, i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        parts
    }

    /// All of it as JSON: an object of whole numbers in bytes, and of objects of such.
    pub(crate) fn json(&self) -> String {
        let mut text = format!(
            "{{\"rss\":{},\"used\":{},\"peak_used\":{},\"startup_used\":{},\"residue_percent\":{:.4}",
            self.system.resident_bytes,
            self.used_bytes(),
            self.peak_bytes,
            self.startup_bytes,
            self.residue_percent()
        );
        let names = self.parts().map(|(name, _)| name);
        let mut object = |title: &str, rss: Option<u64>, values: [i64; PARTS]| {
            text.push_str(&format!(",\"{title}\":{{"));
            if let Some(rss) = rss {
                text.push_str(&format!("\"rss\":{rss},"));
            }
            let fields = names.iter().zip(values);
            let fields: Vec<String> = fields
                .map(|(name, value)| format!("\"{}\":{value}", name.replace(' ', "_")))
                .collect();
            text.push_str(&fields.join(","));
            text.push('}');
        };
        object("parts", None, self.parts().map(|(_, bytes)| bytes));
        for (title, peaks) in [
            ("peaks_since_start", &self.peaks.since_start),
            ("peaks_since_reset", &self.peaks.since_reset),
        ] {
            object(title, Some(peaks.resident_bytes), peaks.parts);
        }
        text.push('}');
        text
    }
}

/// What is outside of the keyspace and of the process's heap: a heap of another malloc than slabkv's is mapped outside.
fn beside(mut outside: OutsideMemory, heap: &HeapMemory) -> OutsideMemory {
    if !HeapMemory::IS_RESERVED {
        outside.other_bytes = outside.other_bytes.saturating_sub(heap.resident_bytes());
    }
    outside
}

fn percent(part: u64, of: u64) -> f64 {
    if of == 0 {
        0.0
    } else {
        part as f64 * 100.0 / of as f64
    }
}

/// A size for people to read, in the unit that leaves at least 1 before the point.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["K", "M", "G", "T"];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let cases = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.00K"),
            (734_003_200, "700.00M"),
            (25_276_510_208, "23.54G"),
        ];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
    }
}
