//! Where the memory is.

use crate::config::directive::Id;
use crate::heap;
use crate::observe::info::{Fields, Sources, line, ratio, zero};
use crate::observe::memory::{MemoryReport, human};
use crate::process;

pub(super) const MEMORY: &Fields = &[
    ("used_memory", |s| s.memory.used_bytes().to_string()),
    ("used_memory_human", |s| human(s.memory.used_bytes())),
    ("used_memory_rss", |s| {
        s.memory.system.resident_bytes.to_string()
    }),
    ("used_memory_rss_human", |s| {
        human(s.memory.system.resident_bytes)
    }),
    ("used_memory_peak", |s| s.memory.peak_bytes.to_string()),
    ("used_memory_peak_human", |s| human(s.memory.peak_bytes)),
    ("used_memory_peak_perc", |s| {
        format!("{:.2}%", s.memory.peak_percent())
    }),
    ("used_memory_overhead", |s| {
        s.memory.overhead_bytes().to_string()
    }),
    ("used_memory_startup", |s| {
        s.memory.startup_bytes.to_string()
    }),
    ("used_memory_dataset", |s| {
        s.memory.dataset_bytes().to_string()
    }),
    ("used_memory_dataset_perc", |s| {
        format!("{:.2}%", s.memory.dataset_percent())
    }),
    ("allocator_allocated", |s| s.memory.used_bytes().to_string()),
    ("allocator_active", |s| s.memory.active_bytes().to_string()),
    ("allocator_resident", |s| {
        s.memory.allocator_resident_bytes().to_string()
    }),
    ("allocator_muzzy", zero),
    ("total_system_memory", |_| {
        process::machine_memory_bytes().to_string()
    }),
    ("total_system_memory_human", |_| {
        human(process::machine_memory_bytes())
    }),
    ("used_memory_lua", zero),
    ("used_memory_vm_eval", zero),
    ("used_memory_lua_human", |_| human(0)),
    ("used_memory_scripts_eval", zero),
    ("number_of_cached_scripts", zero),
    ("number_of_functions", zero),
    ("number_of_libraries", zero),
    ("used_memory_vm_functions", zero),
    ("used_memory_vm_total", zero),
    ("used_memory_vm_total_human", |_| human(0)),
    ("used_memory_functions", zero),
    ("used_memory_scripts", zero),
    ("used_memory_scripts_human", |_| human(0)),
    ("maxmemory", |s| s.config.number(Id::MaxMemory).to_string()),
    ("maxmemory_human", |s| {
        human(s.config.size(Id::MaxMemory) as u64)
    }),
    ("maxmemory_policy", |s| {
        String::from_utf8_lossy(&s.config.show(Id::MaxMemoryPolicy)).into_owned()
    }),
    ("allocator_frag_ratio", |s| {
        ratio(MemoryReport::ratio(
            s.memory.active_bytes(),
            s.memory.used_bytes(),
        ))
    }),
    ("allocator_frag_bytes", |s| {
        MemoryReport::excess(s.memory.active_bytes(), s.memory.used_bytes()).to_string()
    }),
    ("allocator_rss_ratio", |s| {
        ratio(MemoryReport::ratio(
            s.memory.allocator_resident_bytes(),
            s.memory.active_bytes(),
        ))
    }),
    ("allocator_rss_bytes", |s| {
        MemoryReport::excess(s.memory.allocator_resident_bytes(), s.memory.active_bytes())
            .to_string()
    }),
    ("rss_overhead_ratio", |s| {
        ratio(MemoryReport::ratio(
            s.memory.system.resident_bytes,
            s.memory.allocator_resident_bytes(),
        ))
    }),
    ("rss_overhead_bytes", |s| {
        s.memory.outside_bytes().to_string()
    }),
    ("mem_fragmentation_ratio", |s| {
        ratio(MemoryReport::ratio(
            s.memory.system.resident_bytes,
            s.memory.used_bytes(),
        ))
    }),
    ("mem_fragmentation_bytes", |s| {
        MemoryReport::excess(s.memory.system.resident_bytes, s.memory.used_bytes()).to_string()
    }),
    ("mem_not_counted_for_evict", zero),
    ("mem_replication_backlog", zero),
    ("mem_total_replication_buffers", zero),
    ("mem_replica_full_sync_buffer", zero),
    ("mem_clients_slaves", zero),
    ("mem_clients_normal", |s| s.memory.client_bytes.to_string()),
    ("mem_cluster_links", zero),
    ("mem_aof_buffer", zero),
    ("mem_allocator", |_| heap::name()),
    ("mem_overhead_db_hashtable_rehashing", zero),
    ("active_defrag_running", |s| {
        // The percentage of one core, as in Redis; at least 1 while anything is moved.
        format!("{:.0}", s.rates.compaction_percent.ceil())
    }),
    ("lazyfree_pending_objects", |s| {
        s.keyspace.pending_keys.to_string()
    }),
    ("lazyfreed_objects", |s| {
        s.keyspace.counters.lazy_freed.to_string()
    }),
];

/// The same with what is left over, and with the most that each part has held since the start and since the last CONFIG
/// RESETSTAT.
pub(super) fn map(s: &Sources<'_>, out: &mut String) {
    let memory = &s.memory;
    let peaks = &memory.peaks;
    let residue = memory.residue_bytes();
    let resident = memory.system.resident_bytes;
    line(out, format_args!("memorymap_rss:{resident}"));
    line(
        out,
        format_args!("memorymap_rss_peak:{}", peaks.since_start.resident_bytes),
    );
    line(
        out,
        format_args!(
            "memorymap_rss_peak_reset:{}",
            peaks.since_reset.resident_bytes
        ),
    );
    let named = MemoryReport::excess(resident, 0) - residue;
    line(out, format_args!("memorymap_measured:{named}"));
    line(
        out,
        format_args!("memorymap_residue_perc:{:.2}%", memory.residue_percent()),
    );
    for (at, (name, bytes)) in memory.parts().into_iter().enumerate() {
        let name = name.replace(' ', "_");
        line(out, format_args!("memorymap_{name}:{bytes}"));
        line(
            out,
            format_args!("memorymap_{name}_peak:{}", peaks.since_start.parts[at]),
        );
        line(
            out,
            format_args!(
                "memorymap_{name}_peak_reset:{}",
                peaks.since_reset.parts[at]
            ),
        );
    }
}

/// What is resident, part by part: the parts add up to used_memory_rss.
pub(super) fn parts(s: &Sources<'_>, out: &mut String) {
    for (name, bytes) in s.memory.parts() {
        let name = name.replace(' ', "_");
        line(out, format_args!("mem_part_{name}:{bytes}"));
    }
}
