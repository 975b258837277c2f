//! INFO: one table of sections, each a list of fields with the figure that each shows.

use std::fmt::Write as _;

use kvstore::statistics::{DbStatistics, Statistics};

use crate::clients::Clients;
use crate::clock::{ns_per_tick, unix_us, uptime};
use crate::config::Config;
use crate::config::directive::Id;
use crate::listeners::Listeners;
use crate::observe::histogram::Counts;
use crate::observe::memory::{MemoryReport, human};
use crate::observe::rates::Rates;
use crate::observe::stats::{CommandSums, Stats, TotalSums, ticks_to_us};
use crate::process::{self, CpuOf};

/// The version of Redis whose protocol, commands and replies this server follows.
pub(crate) const REDIS_VERSION: &str = "8.0.0";

/// This server's own version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What never changes after the start.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// A random number in hexadecimal digits.
    pub(crate) run_id: String,
    /// Another one, which names this server's data.
    pub(crate) replication_id: String,
    /// The program.
    pub(crate) executable: String,
    /// How the process is supervised.
    pub(crate) supervised: &'static str,
    /// When the server started, in seconds of Unix time.
    pub(crate) started_unix_seconds: u64,
}

/// Where the figures come from.
pub(crate) struct Sources<'s> {
    pub(crate) config: &'s Config,
    pub(crate) clients: &'s Clients,
    pub(crate) listeners: &'s Listeners,
    pub(crate) stats: &'s Stats,
    pub(crate) identity: &'s Identity,
    pub(crate) totals: TotalSums,
    pub(crate) rates: Rates,
    pub(crate) keyspace: Statistics,
    /// By database.
    pub(crate) databases: Vec<DbStatistics>,
    pub(crate) memory: MemoryReport,
    /// Names of commands, by index.
    pub(crate) commands: Vec<&'s str>,
}

type Value = fn(&Sources<'_>) -> String;

/// What a section holds.
enum Content {
    /// These fields.
    Fields(&'static [(&'static str, Value)]),
    /// Lines whose number is known only when they are written.
    Lines(fn(&Sources<'_>, &mut String)),
}

/// One section.
struct Section {
    /// As clients ask for it, in lower case.
    name: &'static str,
    /// As the text titles it.
    title: &'static str,
    /// Whether INFO without arguments shows it.
    is_default: bool,
    /// Whether `all` shows it.
    is_in_all: bool,
    contents: &'static [Content],
}

fn zero(_: &Sources<'_>) -> String {
    "0".into()
}

fn flag(on: bool) -> String {
    u8::from(on).to_string()
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

fn seconds(time: std::time::Duration) -> String {
    format!("{}.{:06}", time.as_secs(), time.subsec_micros())
}

/// Bytes per second in units of 1024.
fn kilobytes(bytes: f64) -> String {
    ratio(bytes / 1024.0)
}

const SERVER: &[(&str, Value)] = &[
    ("redis_version", |_| REDIS_VERSION.into()),
    ("server_name", |_| "slabkv".into()),
    ("slabkv_version", |_| VERSION.into()),
    ("redis_git_sha1", |_| "00000000".into()),
    ("redis_git_dirty", zero),
    ("redis_build_id", |_| VERSION.into()),
    ("redis_mode", |_| "standalone".into()),
    ("os", |_| {
        let name = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        format!(
            "{} {} {}",
            text(name.sysname()),
            text(name.release()),
            text(name.machine())
        )
    }),
    ("arch_bits", |_| usize::BITS.to_string()),
    ("monotonic_clock", |_| crate::clock::tick_source().into()),
    ("multiplexing_api", |_| "epoll".into()),
    ("process_id", |_| std::process::id().to_string()),
    ("process_supervised", |s| s.identity.supervised.into()),
    ("run_id", |s| s.identity.run_id.clone()),
    ("tcp_port", |s| s.listeners.tcp_port().to_string()),
    ("server_time_usec", |_| unix_us().to_string()),
    ("uptime_in_seconds", |_| uptime().as_secs().to_string()),
    ("uptime_in_days", |_| {
        (uptime().as_secs() / 86_400).to_string()
    }),
    ("hz", |s| s.config.number(Id::Hz).to_string()),
    ("configured_hz", |s| s.config.number(Id::Hz).to_string()),
    ("lru_clock", |_| {
        ((unix_us() / 1_000_000) & 0xff_ffff).to_string()
    }),
    ("executable", |s| s.identity.executable.clone()),
    ("config_file", |s| {
        s.config
            .file
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default()
    }),
    ("io_threads_active", |s| flag(s.clients.workers() > 1)),
];

fn listeners(s: &Sources<'_>, out: &mut String) {
    for (at, (kind, addresses)) in s.listeners.describe().into_iter().enumerate() {
        line(out, format_args!("listener{at}:name={kind},{addresses}"));
    }
}

const CLIENTS: &[(&str, Value)] = &[
    ("connected_clients", |s| s.clients.len().to_string()),
    ("cluster_connections", zero),
    ("maxclients", |s| {
        s.config.number(Id::MaxClients).to_string()
    }),
    ("client_recent_max_input_buffer", |s| {
        largest(s, |client| &client.query_bytes)
    }),
    ("client_recent_max_output_buffer", |s| {
        largest(s, |client| &client.output_bytes)
    }),
    ("blocked_clients", |s| s.clients.blocked().to_string()),
    ("tracking_clients", zero),
    ("pubsub_clients", zero),
    ("watching_clients", |s| s.clients.watching().0.to_string()),
    ("clients_in_timeout_table", zero),
    ("total_watched_keys", |s| s.clients.watching().1.to_string()),
    ("total_blocking_keys", zero),
    ("total_blocking_keys_on_nokey", zero),
];

fn largest(
    s: &Sources<'_>,
    figure: fn(&crate::clients::Client) -> &std::sync::atomic::AtomicUsize,
) -> String {
    let sizes = s
        .clients
        .all()
        .into_iter()
        .map(|c| figure(&c).load(std::sync::atomic::Ordering::Relaxed));
    sizes.max().unwrap_or(0).to_string()
}

const MEMORY: &[(&str, Value)] = &[
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
    ("mem_allocator", |_| format!("slabkv-{VERSION}")),
    ("mem_overhead_db_hashtable_rehashing", zero),
    ("active_defrag_running", |s| {
        format!("{:.0}", s.rates.compaction_percent)
    }),
    ("lazyfree_pending_objects", zero),
    ("lazyfreed_objects", zero),
    // What is resident, part by part. The parts from here on add up to used_memory_rss.
    ("mem_part_keys", |s| {
        s.memory.keyspace.memory.key_bytes.to_string()
    }),
    ("mem_part_values", |s| {
        s.memory.keyspace.memory.value_bytes.to_string()
    }),
    ("mem_part_entry_headers", |s| {
        s.memory.keyspace.memory.header_bytes.to_string()
    }),
    ("mem_part_rounding", |s| {
        s.memory.keyspace.memory.rounding_bytes.to_string()
    }),
    ("mem_part_table", |s| {
        s.memory.keyspace.memory.table_bytes.to_string()
    }),
    ("mem_part_free_slots", |s| {
        s.memory.keyspace.memory.free_slot_bytes.to_string()
    }),
    ("mem_part_dirty_pages", |s| {
        s.memory.keyspace.memory.dirty_bytes.to_string()
    }),
    ("mem_part_metadata", |s| {
        s.memory.keyspace.memory.metadata_bytes.to_string()
    }),
    ("mem_part_process_heap", |s| s.memory.heap_bytes.to_string()),
    ("mem_part_outside_allocators", |s| {
        s.memory.outside_bytes().to_string()
    }),
];

const PERSISTENCE: &[(&str, Value)] = &[
    ("loading", zero),
    ("async_loading", zero),
    ("current_cow_peak", zero),
    ("current_cow_size", zero),
    ("current_cow_size_age", zero),
    ("current_fork_perc", |_| "0.00".into()),
    ("current_save_keys_processed", zero),
    ("current_save_keys_total", zero),
    ("rdb_changes_since_last_save", |s| {
        s.totals.write_commands.to_string()
    }),
    ("rdb_bgsave_in_progress", zero),
    ("rdb_last_save_time", |s| {
        s.identity.started_unix_seconds.to_string()
    }),
    ("rdb_last_bgsave_status", |_| "ok".into()),
    ("rdb_last_bgsave_time_sec", |_| "-1".into()),
    ("rdb_current_bgsave_time_sec", |_| "-1".into()),
    ("rdb_saves", zero),
    ("rdb_last_cow_size", zero),
    ("rdb_last_load_keys_expired", zero),
    ("rdb_last_load_keys_loaded", zero),
    ("aof_enabled", zero),
    ("aof_rewrite_in_progress", zero),
    ("aof_rewrite_scheduled", zero),
    ("aof_last_rewrite_time_sec", |_| "-1".into()),
    ("aof_current_rewrite_time_sec", |_| "-1".into()),
    ("aof_last_bgrewrite_status", |_| "ok".into()),
    ("aof_rewrites", zero),
    ("aof_rewrites_consecutive_failures", zero),
    ("aof_last_write_status", |_| "ok".into()),
    ("aof_last_cow_size", zero),
    ("module_fork_in_progress", zero),
    ("module_fork_last_cow_size", zero),
];

fn threads(s: &Sources<'_>, out: &mut String) {
    for worker in 0..s.clients.workers() {
        let totals = &s.stats.worker(worker).totals;
        let (clients, reads, writes) = (
            s.clients.len_of(worker),
            totals.reads.get(),
            totals.writes.get(),
        );
        line(
            out,
            format_args!("io_thread_{worker}:clients={clients},reads={reads},writes={writes}"),
        );
    }
}

const STATS: &[(&str, Value)] = &[
    ("total_connections_received", |s| {
        s.totals.connections.to_string()
    }),
    ("total_commands_processed", |s| {
        s.totals.commands.to_string()
    }),
    ("instantaneous_ops_per_sec", |s| {
        format!("{:.0}", s.rates.commands)
    }),
    ("total_net_input_bytes", |s| {
        s.totals.input_bytes.to_string()
    }),
    ("total_net_output_bytes", |s| {
        s.totals.output_bytes.to_string()
    }),
    ("total_net_repl_input_bytes", zero),
    ("total_net_repl_output_bytes", zero),
    ("instantaneous_input_kbps", |s| {
        kilobytes(s.rates.input_bytes)
    }),
    ("instantaneous_output_kbps", |s| {
        kilobytes(s.rates.output_bytes)
    }),
    ("instantaneous_input_repl_kbps", |_| "0.00".into()),
    ("instantaneous_output_repl_kbps", |_| "0.00".into()),
    ("rejected_connections", |s| {
        s.totals.rejected_connections.to_string()
    }),
    ("sync_full", zero),
    ("sync_partial_ok", zero),
    ("sync_partial_err", zero),
    ("expired_subkeys", zero),
    ("expired_keys", |s| s.keyspace.counters.expired.to_string()),
    ("expired_stale_perc", |_| "0.00".into()),
    ("expired_time_cap_reached_count", zero),
    ("expire_cycle_cpu_milliseconds", |s| {
        (ticks_to_us(s.totals.maintenance_ticks) / 1000).to_string()
    }),
    ("evicted_keys", |s| s.keyspace.counters.evicted.to_string()),
    ("evicted_clients", |s| s.totals.evicted_clients.to_string()),
    ("evicted_scripts", zero),
    ("total_eviction_exceeded_time", zero),
    ("current_eviction_exceeded_time", zero),
    ("keyspace_hits", |s| s.keyspace.counters.hits.to_string()),
    ("keyspace_misses", |s| {
        s.keyspace.counters.misses.to_string()
    }),
    ("pubsub_channels", zero),
    ("pubsub_patterns", zero),
    ("pubsubshard_channels", zero),
    ("latest_fork_usec", zero),
    ("total_forks", zero),
    ("migrate_cached_sockets", zero),
    ("slave_expires_tracked_keys", zero),
    ("active_defrag_hits", |s| {
        s.keyspace.compaction.moved_objects.to_string()
    }),
    ("active_defrag_misses", zero),
    ("active_defrag_key_hits", |s| {
        s.keyspace.compaction.moved_objects.to_string()
    }),
    ("active_defrag_key_misses", zero),
    ("total_active_defrag_time", |s| {
        (s.keyspace.compaction.time_ns / 1_000_000).to_string()
    }),
    ("current_active_defrag_time", zero),
    ("tracking_total_keys", zero),
    ("tracking_total_items", zero),
    ("tracking_total_prefixes", zero),
    ("unexpected_error_replies", zero),
    ("total_error_replies", |s| s.totals.errors.to_string()),
    ("dump_payload_sanitizations", zero),
    ("total_reads_processed", |s| s.totals.reads.to_string()),
    ("total_writes_processed", |s| s.totals.writes.to_string()),
    ("io_threaded_reads_processed", |s| {
        others(s, |totals| totals.reads.get())
    }),
    ("io_threaded_writes_processed", |s| {
        others(s, |totals| totals.writes.get())
    }),
    ("client_query_buffer_limit_disconnections", |s| {
        s.totals.query_limit_closes.to_string()
    }),
    ("client_output_buffer_limit_disconnections", |s| {
        s.totals.output_limit_closes.to_string()
    }),
    ("reply_buffer_shrinks", zero),
    ("reply_buffer_expands", zero),
    ("eventloop_cycles", |s| s.totals.loops.to_string()),
    ("eventloop_duration_sum", |s| {
        ticks_to_us(s.totals.loop_ticks).to_string()
    }),
    ("eventloop_duration_cmd_sum", |s| {
        ticks_to_us(s.totals.command_ticks).to_string()
    }),
    ("instantaneous_eventloop_cycles_per_sec", |s| {
        format!("{:.0}", s.rates.loops)
    }),
    ("instantaneous_eventloop_duration_usec", |s| {
        format!("{:.0}", s.rates.ticks_per_loop * ns_per_tick() / 1000.0)
    }),
    ("acl_access_denied_auth", |s| {
        s.totals.denied_auth.to_string()
    }),
    ("acl_access_denied_cmd", zero),
    ("acl_access_denied_key", zero),
    ("acl_access_denied_channel", zero),
    // What compaction did since the start.
    ("compaction_victims", |s| {
        s.keyspace.compaction.victims.to_string()
    }),
    ("compaction_victims_released", |s| {
        s.keyspace.compaction.victims_released.to_string()
    }),
    ("compaction_moved_bytes", |s| {
        s.keyspace.compaction.moved_bytes.to_string()
    }),
    ("compaction_freed_pages", |s| {
        s.keyspace.compaction.freed_pages.to_string()
    }),
    ("compaction_slices", |s| {
        s.keyspace.compaction.slices.to_string()
    }),
    ("compaction_longest_slice_usec", |s| {
        (s.keyspace.compaction.longest_slice_ns / 1000).to_string()
    }),
    ("compaction_skipped_below_target", |s| {
        s.keyspace.compaction.skipped_below_target.to_string()
    }),
    ("compaction_skipped_while_deleting", |s| {
        s.keyspace.compaction.skipped_while_deleting.to_string()
    }),
    ("compaction_skipped_no_victim", |s| {
        s.keyspace.compaction.skipped_no_victim.to_string()
    }),
];

const DEBUG: &[(&str, Value)] = &[
    ("eventloop_duration_aof_sum", zero),
    ("eventloop_duration_cron_sum", |s| {
        ticks_to_us(s.totals.maintenance_ticks).to_string()
    }),
    ("eventloop_duration_max", |s| {
        ticks_to_us(s.stats.max(|worker| &worker.loop_ticks_max)).to_string()
    }),
    ("eventloop_cmd_per_cycle_max", |s| {
        s.stats
            .max(|worker| &worker.commands_per_loop_max)
            .to_string()
    }),
];

/// A sum over the workers but the first, which is the main thread.
fn others(s: &Sources<'_>, figure: fn(&crate::observe::stats::Totals) -> u64) -> String {
    (1..s.clients.workers())
        .map(|worker| figure(&s.stats.worker(worker).totals))
        .sum::<u64>()
        .to_string()
}

const REPLICATION: &[(&str, Value)] = &[
    ("role", |_| "master".into()),
    ("connected_slaves", zero),
    ("master_failover_state", |_| "no-failover".into()),
    ("master_replid", |s| s.identity.replication_id.clone()),
    ("master_replid2", |_| "0".repeat(40)),
    ("master_repl_offset", zero),
    ("second_repl_offset", |_| "-1".into()),
    ("repl_backlog_active", zero),
    ("repl_backlog_size", |s| {
        s.config.number(Id::ReplBacklogSize).to_string()
    }),
    ("repl_backlog_first_byte_offset", zero),
    ("repl_backlog_histlen", zero),
];

const CPU: &[(&str, Value)] = &[
    ("used_cpu_sys", |_| {
        seconds(process::cpu_time(CpuOf::Process).system)
    }),
    ("used_cpu_user", |_| {
        seconds(process::cpu_time(CpuOf::Process).user)
    }),
    ("used_cpu_sys_children", |_| {
        seconds(process::cpu_time(CpuOf::Children).system)
    }),
    ("used_cpu_user_children", |_| {
        seconds(process::cpu_time(CpuOf::Children).user)
    }),
    ("used_cpu_sys_main_thread", |_| {
        seconds(process::main_thread_cpu_time().system)
    }),
    ("used_cpu_user_main_thread", |_| {
        seconds(process::main_thread_cpu_time().user)
    }),
];

fn command_stats(s: &Sources<'_>, out: &mut String) {
    for (index, name) in s.commands.iter().enumerate() {
        let sums: CommandSums = s.stats.command(index);
        if sums.calls == 0 && sums.rejected == 0 && sums.failed == 0 {
            continue;
        }
        let us = sums.duration_us();
        let per_call = if sums.calls == 0 {
            0.0
        } else {
            us as f64 / sums.calls as f64
        };
        line(
            out,
            format_args!(
                "cmdstat_{name}:calls={},usec={us},usec_per_call={per_call:.2},rejected_calls={},failed_calls={}",
                sums.calls, sums.rejected, sums.failed
            ),
        );
    }
}

fn error_stats(s: &Sources<'_>, out: &mut String) {
    for (code, count) in s.stats.errors() {
        line(
            out,
            format_args!("errorstat_{}:count={count}", String::from_utf8_lossy(&code)),
        );
    }
}

fn latency_stats(s: &Sources<'_>, out: &mut String) {
    let percentiles: Vec<f64> = s
        .config
        .words(Id::LatencyPercentiles)
        .iter()
        .filter_map(|word| word.parse().ok())
        .collect();
    for (index, name) in s.commands.iter().enumerate() {
        let Some(histogram) = s
            .stats
            .durations(index)
            .as_ref()
            .and_then(Counts::histogram)
        else {
            continue;
        };
        let values = percentiles.iter().map(|&percentile| {
            let us = histogram.value_at_percentile(percentile) as f64 / 1000.0;
            format!("p{percentile}={us:.3}")
        });
        line(
            out,
            format_args!(
                "latency_percentiles_usec_{name}:{}",
                values.collect::<Vec<_>>().join(",")
            ),
        );
    }
}

fn keyspace(s: &Sources<'_>, out: &mut String) {
    for (at, db) in s.databases.iter().enumerate().filter(|(_, db)| db.keys > 0) {
        let (keys, expires, ttl) = (db.keys, db.volatile_keys, db.avg_ttl_ms);
        line(
            out,
            format_args!("db{at}:keys={keys},expires={expires},avg_ttl={ttl},subexpiry=0"),
        );
    }
}

use Content::{Fields, Lines};

static SECTIONS: &[Section] = &[
    section("server", "Server", &[Fields(SERVER), Lines(listeners)]),
    section("clients", "Clients", &[Fields(CLIENTS)]),
    section("memory", "Memory", &[Fields(MEMORY)]),
    section("persistence", "Persistence", &[Fields(PERSISTENCE)]),
    section("threads", "Threads", &[Lines(threads)]),
    section("stats", "Stats", &[Fields(STATS)]),
    section("replication", "Replication", &[Fields(REPLICATION)]),
    section("cpu", "CPU", &[Fields(CPU)]),
    section("modules", "Modules", &[]),
    Section {
        is_default: false,
        ..section("commandstats", "Commandstats", &[Lines(command_stats)])
    },
    section("errorstats", "Errorstats", &[Lines(error_stats)]),
    Section {
        is_default: false,
        ..section("latencystats", "Latencystats", &[Lines(latency_stats)])
    },
    section(
        "cluster",
        "Cluster",
        &[Fields(&[("cluster_enabled", zero)])],
    ),
    section("keyspace", "Keyspace", &[Lines(keyspace)]),
    Section {
        is_default: false,
        is_in_all: false,
        ..section("debug", "Debug", &[Fields(DEBUG)])
    },
];

const fn section(name: &'static str, title: &'static str, contents: &'static [Content]) -> Section {
    Section {
        name,
        title,
        is_default: true,
        is_in_all: true,
        contents,
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
    out.push_str("\r\n");
}

/// The text of INFO with these arguments.
pub(crate) fn text<'a>(
    sources: &Sources<'_>,
    wanted: impl Iterator<Item = &'a [u8]> + Clone,
) -> String {
    let asked = |word: &str| {
        wanted
            .clone()
            .any(|name| name.eq_ignore_ascii_case(word.as_bytes()))
    };
    let none = wanted.clone().next().is_none();
    let (defaults, all) = (
        none || asked("default"),
        asked("all") || asked("everything"),
    );
    let mut out = String::new();
    for section in SECTIONS {
        let shown =
            defaults && section.is_default || all && section.is_in_all || asked(section.name);
        if !shown {
            continue;
        }
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        line(&mut out, format_args!("# {}", section.title));
        for content in section.contents {
            match content {
                Fields(fields) => {
                    for (name, value) in *fields {
                        line(&mut out, format_args!("{name}:{}", value(sources)));
                    }
                }
                Lines(write) => write(sources, &mut out),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn fields_are_unique() {
        let mut names = HashSet::new();
        for section in SECTIONS {
            for content in section.contents {
                if let Fields(fields) = content {
                    for (name, _) in *fields {
                        assert!(names.insert(*name), "{name} twice");
                    }
                }
            }
        }
        assert!(names.len() > 200);
    }
}
