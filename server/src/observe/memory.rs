//! Where the memory is: what the process holds, in Redis's terms, and the parts that add up to what is resident.

use std::sync::atomic::{AtomicU64, Ordering};

use kvstore::statistics::Statistics;

use crate::process;

/// Peak and start of memory use.
#[derive(Debug, Default)]
pub(crate) struct MemoryState {
    peak_bytes: AtomicU64,
    startup_bytes: AtomicU64,
    /// What the process's heap holds, as last sampled.
    heap_bytes: AtomicU64,
    /// What was in use, as last sampled.
    used_bytes: AtomicU64,
}

impl MemoryState {
    /// Notes what is in use when the server is ready and empty.
    pub(crate) fn note_startup(&self, keyspace: &Statistics) {
        let used = self.sample(keyspace);
        self.startup_bytes.store(used, Ordering::Relaxed);
    }

    /// Notes what is in use now, for the peak; returns it.
    pub(crate) fn sample(&self, keyspace: &Statistics) -> u64 {
        let heap = heap_bytes(&process::resident_memory(), keyspace);
        self.heap_bytes.store(heap, Ordering::Relaxed);
        let used = keyspace.memory.used_bytes() + heap;
        self.used_bytes.store(used, Ordering::Relaxed);
        self.peak_bytes.fetch_max(used, Ordering::Relaxed);
        used
    }

    /// What was in use, as last sampled.
    pub(crate) fn last_used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// What counts for `maxmemory` beside the keyspace, as last sampled.
    pub(crate) fn heap_bytes(&self) -> u64 {
        self.heap_bytes.load(Ordering::Relaxed)
    }

    /// Makes the present use the peak, for CONFIG RESETSTAT.
    pub(crate) fn reset_peak(&self, keyspace: &Statistics) {
        self.peak_bytes.store(0, Ordering::Relaxed);
        self.sample(keyspace);
    }
}

fn heap_bytes(system: &process::SystemMemory, keyspace: &Statistics) -> u64 {
    system
        .anonymous_bytes()
        .saturating_sub(keyspace.memory.resident_bytes())
}

/// All figures about memory at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryReport {
    /// What the keyspace says.
    pub(crate) keyspace: Statistics,
    /// What the process holds outside of the keyspace: its heap and its stacks, as far as they are resident.
    pub(crate) heap_bytes: u64,
    /// What the system says.
    pub(crate) system: process::SystemMemory,
    /// The most that was in use.
    pub(crate) peak_bytes: u64,
    /// What was in use when the server was ready and empty.
    pub(crate) startup_bytes: u64,
    /// What clients hold: records and buffers.
    pub(crate) client_bytes: u64,
}

impl MemoryReport {
    /// Takes all figures now.
    pub(crate) fn now(state: &MemoryState, keyspace: Statistics, client_bytes: u64) -> Self {
        state.sample(&keyspace);
        let system = process::resident_memory();
        Self {
            keyspace,
            heap_bytes: heap_bytes(&system, &keyspace),
            system,
            peak_bytes: state.peak_bytes.load(Ordering::Relaxed),
            startup_bytes: state.startup_bytes.load(Ordering::Relaxed),
            client_bytes,
        }
    }

    /// What is in use: data, tables and everything on the process's heap.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.keyspace.memory.used_bytes() + self.heap_bytes
    }

    /// What is in use that is not data.
    pub(crate) fn overhead_bytes(&self) -> u64 {
        self.startup_bytes + self.client_bytes + self.keyspace.memory.table_bytes
    }

    /// What data takes: keys and values with their headers and rounding.
    pub(crate) fn dataset_bytes(&self) -> u64 {
        self.used_bytes().saturating_sub(self.overhead_bytes())
    }

    /// Data as a percentage of what is in use beyond the start.
    pub(crate) fn dataset_percent(&self) -> f64 {
        let net = self.used_bytes().saturating_sub(self.startup_bytes);
        percent(self.dataset_bytes(), net)
    }

    /// What is in use as a percentage of the peak.
    pub(crate) fn peak_percent(&self) -> f64 {
        percent(self.used_bytes(), self.peak_bytes)
    }

    /// Bytes of the pages that hold something in use.
    pub(crate) fn active_bytes(&self) -> u64 {
        let memory = &self.keyspace.memory;
        memory.used_bytes() + memory.free_slot_bytes + self.heap_bytes
    }

    /// Bytes of the allocators' resident pages.
    pub(crate) fn allocator_resident_bytes(&self) -> u64 {
        self.keyspace.memory.resident_bytes() + self.heap_bytes
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

    /// Resident bytes that belong to none of the allocators: the program, stacks, the system's own.
    pub(crate) fn outside_bytes(&self) -> i64 {
        Self::excess(self.system.resident_bytes, self.allocator_resident_bytes())
    }
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
