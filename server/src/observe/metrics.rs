//! The server's figures as metrics, in the OpenMetrics text format of Prometheus.
//!
//! What INFO shows goes by the names that `redis_exporter` gives to it (`exporter/exporter.go` of oliver006/redis_exporter),
//! so that dashboards made for those work as they are, and its value is INFO's: [`MAPPED`] names the field. The format
//! has counters end in `_total`; a counter whose name in the exporter does not is shown as a gauge. What Redis
//! does not know has names that begin with `slabkv_`.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use slab_allocator::stats::ClassStats;

use crate::config::directive::Id;
use crate::observe::histogram::Counts;
use crate::observe::info::{self, Sources};
use crate::observe::latency::LatencyMonitor;
use crate::observe::slowlog::SlowLog;
use crate::observe::stats::ticks_to_us;

/// What the text is, for those who ask for OpenMetrics.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The same for others, who skip what their format does not have.
pub(crate) const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the metrics are made from beside [`Sources`].
pub(crate) struct More<'s> {
    pub(crate) slowlog: &'s SlowLog,
    pub(crate) latency: &'s LatencyMonitor,
    /// Size classes of the keyspace.
    pub(crate) classes: Vec<ClassStats>,
    /// Open HTTP connections and pages.
    pub(crate) http: (usize, usize),
}

macro_rules! mapped {
    ($( $field:literal $name:literal $help:literal; )*) => {
        /// Fields of INFO with the names and the meaning of their metrics.
        static MAPPED: &[(&str, &str, &str)] = &[ $( ($field, $name, $help) ),* ];
    };
}

mapped! {
    // Server and clients.
    "uptime_in_seconds" "redis_uptime_in_seconds" "Seconds since the start";
    "process_id" "redis_process_id" "Number of the process";
    "io_threads_active" "redis_io_threads_active" "Whether there is more than one worker";
    "hz" "redis_hz" "The directive hz";
    "configured_hz" "redis_configured_hz" "The directive hz";
    "connected_clients" "redis_connected_clients" "Connected clients";
    "blocked_clients" "redis_blocked_clients" "Clients that wait";
    "maxclients" "redis_max_clients" "Most clients that may be connected";
    "tracking_clients" "redis_tracking_clients" "Clients that have keys tracked";
    "clients_in_timeout_table" "redis_clients_in_timeout_table" "Clients that wait for a limited time";
    "pubsub_clients" "redis_pubsub_clients" "Clients that subscribe";
    "watching_clients" "redis_watching_clients" "Clients that watch keys";
    "total_watched_keys" "redis_total_watched_keys" "Keys that are watched";
    "total_blocking_keys" "redis_total_blocking_keys" "Keys that clients wait for";
    "total_blocking_keys_on_nokey" "redis_total_blocking_keys_on_nokey" "Keys that clients wait for to be gone";
    "client_recent_max_output_buffer" "redis_client_recent_max_output_buffer_bytes" "Largest output buffer of a client";
    "client_recent_max_input_buffer" "redis_client_recent_max_input_buffer_bytes" "Largest input buffer of a client";

    // Memory.
    "allocator_active" "redis_allocator_active_bytes" "Bytes of pages that hold something in use";
    "allocator_allocated" "redis_allocator_allocated_bytes" "Bytes in use";
    "allocator_resident" "redis_allocator_resident_bytes" "Resident bytes of the allocators";
    "allocator_muzzy" "redis_allocator_muzzy_bytes" "Bytes given back lazily; there are none";
    "allocator_frag_ratio" "redis_allocator_frag_ratio" "Active bytes by bytes in use";
    "allocator_frag_bytes" "redis_allocator_frag_bytes" "Active bytes beyond those in use";
    "allocator_rss_ratio" "redis_allocator_rss_ratio" "Resident by active bytes of the allocators";
    "allocator_rss_bytes" "redis_allocator_rss_bytes" "Resident bytes of the allocators beyond active ones";
    "used_memory" "redis_memory_used_bytes" "Bytes in use";
    "used_memory_rss" "redis_memory_used_rss_bytes" "Resident bytes of the process";
    "used_memory_peak" "redis_memory_used_peak_bytes" "Most bytes that were in use";
    "used_memory_overhead" "redis_memory_used_overhead_bytes" "Bytes in use that are not data";
    "used_memory_startup" "redis_memory_used_startup_bytes" "Bytes in use after the start";
    "used_memory_dataset" "redis_memory_used_dataset_bytes" "Bytes in use that are data";
    "used_memory_lua" "redis_memory_used_lua_bytes" "Bytes of Lua";
    "used_memory_vm_eval" "redis_memory_used_vm_eval_bytes" "Bytes of machines of scripts";
    "used_memory_scripts_eval" "redis_memory_used_scripts_eval_bytes" "Bytes of scripts";
    "used_memory_vm_functions" "redis_memory_used_vm_functions_bytes" "Bytes of machines of functions";
    "used_memory_vm_total" "redis_memory_used_vm_total" "Bytes of machines of scripts and functions";
    "used_memory_functions" "redis_memory_used_functions_bytes" "Bytes of functions";
    "used_memory_scripts" "redis_memory_used_scripts_bytes" "Bytes of scripts and functions";
    "number_of_cached_scripts" "redis_number_of_cached_scripts" "Scripts";
    "number_of_functions" "redis_number_of_functions" "Functions";
    "number_of_libraries" "redis_number_of_libraries" "Libraries of functions";
    "maxmemory" "redis_memory_max_bytes" "Bytes that may be in use; 0 for any number";
    "mem_fragmentation_ratio" "redis_mem_fragmentation_ratio" "Resident bytes by bytes in use";
    "mem_fragmentation_ratio" "redis_memory_fragmentation_ratio" "Resident bytes by bytes in use, as older dashboards name it";
    "mem_fragmentation_bytes" "redis_mem_fragmentation_bytes" "Resident bytes beyond those in use";
    "mem_clients_normal" "redis_mem_clients_normal" "Bytes of clients";
    "mem_clients_slaves" "redis_mem_clients_slaves" "Bytes of replicas";
    "mem_cluster_links" "redis_mem_cluster_links_bytes" "Bytes of links of the cluster";
    "mem_aof_buffer" "redis_mem_aof_buffer_bytes" "Bytes of the buffer of the log of writes";
    "mem_replication_backlog" "redis_mem_replication_backlog_bytes" "Bytes of the backlog of replication";
    "mem_not_counted_for_evict" "redis_mem_not_counted_for_eviction_bytes" "Bytes that do not count for the limit";
    "mem_total_replication_buffers" "redis_mem_total_replication_buffers_bytes" "Bytes of buffers of replication";
    "mem_overhead_db_hashtable_rehashing" "redis_mem_overhead_db_hashtable_rehashing_bytes" "Bytes of tables on the move";
    "lazyfree_pending_objects" "redis_lazyfree_pending_objects" "Keys whose memory is still to be freed";
    "lazyfreed_objects" "redis_lazyfreed_objects" "Keys whose memory was freed in the background";
    "active_defrag_running" "redis_active_defrag_running" "Percentage of a core that compaction takes";
    "active_defrag_hits" "redis_defrag_hits" "Objects that compaction moved";
    "active_defrag_misses" "redis_defrag_misses" "Objects that compaction found no room for";
    "active_defrag_key_hits" "redis_defrag_key_hits" "Keys that compaction moved";
    "active_defrag_key_misses" "redis_defrag_key_misses" "Keys that compaction found no room for";
    "expired_stale_perc" "redis_expired_stale_percentage" "Percentage of keys that are there although their time has come";

    // Persistence.
    "loading" "redis_loading_dump_file" "Whether data is being loaded";
    "async_loading" "redis_async_loading" "Whether data is being loaded in the background";
    "rdb_changes_since_last_save" "redis_rdb_changes_since_last_save" "Changes since the last save";
    "rdb_bgsave_in_progress" "redis_rdb_bgsave_in_progress" "Whether data is being saved";
    "rdb_last_save_time" "redis_rdb_last_save_timestamp_seconds" "Unix time of the last save";
    "rdb_last_bgsave_status" "redis_rdb_last_bgsave_status" "Whether the last save went well";
    "rdb_last_bgsave_time_sec" "redis_rdb_last_bgsave_duration_sec" "Seconds that the last save took";
    "rdb_current_bgsave_time_sec" "redis_rdb_current_bgsave_duration_sec" "Seconds that the save has taken so far";
    "rdb_saves" "redis_rdb_saves_total" "Saves";
    "aof_enabled" "redis_aof_enabled" "Whether writes are logged";
    "aof_last_write_status" "redis_aof_last_write_status" "Whether the last write to the log went well";

    "aof_rewrite_in_progress" "redis_aof_rewrite_in_progress" "Whether the log of writes is being rewritten";
    "aof_rewrite_scheduled" "redis_aof_rewrite_scheduled" "Whether the log of writes is about to be rewritten";
    "aof_last_rewrite_time_sec" "redis_aof_last_rewrite_duration_sec" "Seconds that the last rewrite took";
    "aof_current_rewrite_time_sec" "redis_aof_current_rewrite_duration_sec" "Seconds that the rewrite has taken so far";
    "aof_last_bgrewrite_status" "redis_aof_last_bgrewrite_status" "Whether the last rewrite went well";
    "aof_last_cow_size" "redis_aof_last_cow_size_bytes" "Bytes that were copied during the last rewrite";
    "rdb_last_cow_size" "redis_rdb_last_cow_size_bytes" "Bytes that were copied during the last save";
    "module_fork_in_progress" "redis_module_fork_in_progress" "Whether a module works in a child";
    "module_fork_last_cow_size" "redis_module_fork_last_cow_size" "Bytes that were copied for a module's child";

    // Totals.
    "total_connections_received" "redis_connections_received_total" "Connections accepted";
    "total_commands_processed" "redis_commands_processed_total" "Commands run";
    "rejected_connections" "redis_rejected_connections_total" "Connections turned away";
    "total_net_input_bytes" "redis_net_input_bytes_total" "Bytes read from clients";
    "total_net_output_bytes" "redis_net_output_bytes_total" "Bytes written to clients";
    "total_net_repl_input_bytes" "redis_net_repl_input_bytes_total" "Bytes read for replication";
    "total_net_repl_output_bytes" "redis_net_repl_output_bytes_total" "Bytes written for replication";
    "expired_subkeys" "redis_expired_subkeys_total" "Fields that expired";
    "expired_keys" "redis_expired_keys_total" "Keys that expired";
    "expired_time_cap_reached_count" "redis_expired_time_cap_reached_total" "Slices of expiry that another one had to follow";
    "expire_cycle_cpu_milliseconds" "redis_expire_cycle_cpu_time_ms_total" "Milliseconds spent on expiry";
    "evicted_keys" "redis_evicted_keys_total" "Keys removed to make room";
    "evicted_clients" "redis_evicted_clients_total" "Clients cut off to make room";
    "evicted_scripts" "redis_evicted_scripts_total" "Scripts removed to make room";
    "total_eviction_exceeded_time" "redis_eviction_exceeded_time_ms_total" "Milliseconds over the memory limit";
    "current_eviction_exceeded_time" "redis_current_eviction_exceeded_time_ms" "Milliseconds over the memory limit, now without a break";
    "keyspace_hits" "redis_keyspace_hits_total" "Lookups that found their key";
    "keyspace_misses" "redis_keyspace_misses_total" "Lookups that did not find their key";
    "eventloop_cycles" "redis_eventloop_cycles_total" "Passes of the event loops";
    "eventloop_duration_sum" "redis_eventloop_duration_sum_usec_total" "Microseconds in the event loops";
    "eventloop_duration_cmd_sum" "redis_eventloop_duration_cmd_sum_usec_total" "Microseconds in commands";
    "instantaneous_eventloop_cycles_per_sec" "redis_instantaneous_eventloop_cycles_per_sec" "Passes of the event loops per second";
    "instantaneous_eventloop_duration_usec" "redis_instantaneous_eventloop_duration_usec" "Microseconds per pass";
    "used_cpu_sys" "redis_cpu_sys_seconds_total" "Processor time in the kernel";
    "used_cpu_user" "redis_cpu_user_seconds_total" "Processor time in user mode";
    "used_cpu_sys_children" "redis_cpu_sys_children_seconds_total" "Processor time of children in the kernel";
    "used_cpu_user_children" "redis_cpu_user_children_seconds_total" "Processor time of children in user mode";
    "used_cpu_sys_main_thread" "redis_cpu_sys_main_thread_seconds_total" "Processor time of the first worker in the kernel";
    "used_cpu_user_main_thread" "redis_cpu_user_main_thread_seconds_total" "Processor time of the first worker in user mode";
    "unexpected_error_replies" "redis_unexpected_error_replies" "Errors that no client caused";
    "total_error_replies" "redis_total_error_replies" "Error replies";
    "dump_payload_sanitizations" "redis_dump_payload_sanitizations" "Payloads that were checked";
    "total_reads_processed" "redis_total_reads_processed" "Reads from sockets";
    "total_writes_processed" "redis_total_writes_processed" "Writes to sockets";
    "io_threaded_reads_processed" "redis_io_threaded_reads_processed" "Reads of all workers but the first";
    "io_threaded_writes_processed" "redis_io_threaded_writes_processed" "Writes of all workers but the first";
    "client_query_buffer_limit_disconnections" "redis_client_query_buffer_limit_disconnections_total" "Clients cut off for a request too long";
    "client_output_buffer_limit_disconnections" "redis_client_output_buffer_limit_disconnections_total" "Clients cut off for replies that they did not read";
    "acl_access_denied_auth" "redis_acl_access_denied_auth_total" "Wrong passwords";
    "acl_access_denied_cmd" "redis_acl_access_denied_cmd_total" "Commands refused by access lists";
    "acl_access_denied_key" "redis_acl_access_denied_key_total" "Keys refused by access lists";
    "acl_access_denied_channel" "redis_acl_access_denied_channel_total" "Channels refused by access lists";
    "pubsub_channels" "redis_pubsub_channels" "Channels";
    "pubsub_patterns" "redis_pubsub_patterns" "Patterns of channels";
    "pubsubshard_channels" "redis_pubsubshard_channels" "Channels of shards";
    "tracking_total_keys" "redis_tracking_total_keys" "Keys tracked";
    "tracking_total_items" "redis_tracking_total_items" "Clients by keys tracked";
    "tracking_total_prefixes" "redis_tracking_total_prefixes" "Prefixes tracked";

    // Replication.
    "sync_full" "redis_replica_resyncs_full" "Full synchronisations with replicas";
    "sync_partial_ok" "redis_replica_partial_resync_accepted" "Partial synchronisations with replicas";
    "sync_partial_err" "redis_replica_partial_resync_denied" "Partial synchronisations that could not be";
    "slave_expires_tracked_keys" "redis_slave_expires_tracked_keys" "Keys whose expiry a replica keeps track of";
    "migrate_cached_sockets" "redis_migrate_cached_sockets_total" "Sockets kept open to move keys";
    "cluster_enabled" "redis_cluster_enabled" "Whether the server is part of a cluster";
    "cluster_connections" "redis_cluster_connections" "Connections of the cluster";
    "connected_slaves" "redis_connected_slaves" "Replicas";
    "repl_backlog_size" "redis_replication_backlog_bytes" "Size of the backlog of replication";
    "repl_backlog_active" "redis_repl_backlog_is_active" "Whether there is a backlog";
    "repl_backlog_first_byte_offset" "redis_repl_backlog_first_byte_offset" "Where the backlog begins";
    "repl_backlog_histlen" "redis_repl_backlog_history_bytes" "Bytes in the backlog";
    "master_repl_offset" "redis_master_repl_offset" "Bytes of replication so far";
    "second_repl_offset" "redis_second_repl_offset" "Until where the former primary's stream is known";

    // Compaction, of which Redis knows less.
    "compaction_victims" "slabkv_compaction_victims_total" "Slabs that compaction chose to empty";
    "compaction_victims_released" "slabkv_compaction_released_slabs_total" "Slabs that compaction emptied";
    "compaction_moved_bytes" "slabkv_compaction_moved_bytes_total" "Bytes that compaction moved";
    "compaction_freed_pages" "slabkv_compaction_freed_pages_total" "Pages of 4 KiB that compaction freed";
    "compaction_slices" "slabkv_compaction_slices_total" "Slices of compaction";
    "compaction_usec" "slabkv_compaction_usec_total" "Microseconds spent on compaction";
    "compaction_longest_slice_usec" "slabkv_compaction_longest_slice_usec" "Microseconds of the longest slice of compaction";
}

/// One metric.
#[derive(Debug)]
struct Family {
    name: String,
    help: &'static str,
    kind: MetricType,
    /// Labels, each with its value, and the value of the metric.
    series: Vec<(Labels, f64)>,
    histograms: Vec<Distribution>,
}

type Labels = Vec<(&'static str, String)>;

/// Durations of a command's calls.
#[derive(Debug)]
struct Distribution {
    labels: Labels,
    sum: f64,
    count: u64,
    /// Bounds, each with the number of durations between the bound before and this one.
    buckets: Vec<(f64, u64)>,
}

#[derive(Debug)]
struct Snapshot(Vec<Family>);

impl Snapshot {
    fn put(&mut self, name: &str, help: &'static str, labels: Labels, value: f64) {
        let is_counter = name.ends_with("_total") && name != "redis_memory_used_vm_total";
        let kind = match is_counter {
            true => MetricType::Counter,
            false => MetricType::Gauge,
        };
        let name = name
            .strip_suffix("_total")
            .filter(|_| is_counter)
            .unwrap_or(name);
        match self.0.iter_mut().find(|family| family.name == name) {
            Some(family) => family.series.push((labels, value)),
            None => self.0.push(Family {
                name: name.to_owned(),
                help,
                kind,
                series: vec![(labels, value)],
                histograms: Vec::new(),
            }),
        }
    }
}

/// A value as INFO shows it, as a number, in the way the exporter reads it.
fn number(text: &str) -> Option<f64> {
    match text {
        "ok" => Some(1.0),
        "err" => Some(0.0),
        _ => text.parse().ok(),
    }
}

fn collect(sources: &Sources<'_>, more: &More<'_>) -> Snapshot {
    let mut all = Snapshot(Vec::new());
    all.put("redis_up", "Whether the server answers", vec![], 1.0);
    for (field, name, help) in MAPPED {
        if let Some(value) = info::field(sources, field).as_deref().and_then(number) {
            all.put(name, help, vec![], value);
        }
    }
    let fork = info::field(sources, "latest_fork_usec");
    let fork_us = fork.as_deref().and_then(number).unwrap_or(0.0);
    let help = "How long the last start of a child took";
    all.put("redis_latest_fork_seconds", help, vec![], fork_us / 1e6);
    for (id, name) in [
        (Id::MaxClients, "redis_config_maxclients"),
        (Id::MaxMemory, "redis_config_maxmemory"),
        (Id::IoThreads, "redis_config_io_threads"),
    ] {
        let help = "The directive that the name ends with";
        all.put(name, help, vec![], sources.config.number(id) as f64);
    }
    let started = sources.identity.started_unix_seconds as f64;
    all.put(
        "redis_start_time_seconds",
        "Unix time of the start",
        vec![],
        started,
    );
    let about = [
        "role",
        "redis_version",
        "redis_build_id",
        "redis_mode",
        "os",
        "maxmemory_policy",
        "tcp_port",
        "run_id",
        "process_id",
        "master_replid",
        "slabkv_version",
    ];
    let about = about.map(|field| (field, info::field(sources, field).unwrap_or_default()));
    all.put(
        "redis_instance_info",
        "What the server is",
        about.to_vec(),
        1.0,
    );
    for (index, db) in sources.databases.iter().enumerate() {
        if db.keys == 0 && index > 0 {
            continue;
        }
        let label = || vec![("db", format!("db{index}"))];
        let ttl = db.avg_ttl_ms as f64 / 1000.0;
        all.put("redis_db_keys", "Keys by database", label(), db.keys as f64);
        let volatile = db.volatile_keys as f64;
        all.put(
            "redis_db_keys_expiring",
            "Keys with an expiry by database",
            label(),
            volatile,
        );
        all.put(
            "redis_db_avg_ttl_seconds",
            "Mean time to live by database",
            label(),
            ttl,
        );
    }
    commands(&mut all, sources);
    for (code, count) in sources.stats.errors() {
        let label = vec![("err", String::from_utf8_lossy(&code).into_owned())];
        all.put(
            "redis_errors_total",
            "Error replies by their first word",
            label,
            count as f64,
        );
    }
    events(&mut all, more);
    own(&mut all, sources, more);
    all
}

fn commands(all: &mut Snapshot, sources: &Sources<'_>) {
    let mut latencies = Vec::new();
    for (index, name) in sources.commands.iter().enumerate() {
        let sums = sources.stats.command(index);
        if sums.calls == 0 && sums.rejected == 0 && sums.failed == 0 {
            continue;
        }
        let label = || vec![("cmd", (*name).to_owned())];
        let us = sums.duration_us() as f64;
        all.put(
            "redis_commands_total",
            "Calls by command",
            label(),
            sums.calls as f64,
        );
        let time = "Time spent by command";
        all.put(
            "redis_commands_duration_seconds_total",
            time,
            label(),
            us / 1e6,
        );
        let rejected = "Calls refused before they ran, by command";
        all.put(
            "redis_commands_rejected_calls_total",
            rejected,
            label(),
            sums.rejected as f64,
        );
        let failed = "Calls that failed, by command";
        all.put(
            "redis_commands_failed_calls_total",
            failed,
            label(),
            sums.failed as f64,
        );
        let Some(counts) = sources
            .stats
            .durations(index)
            .filter(|counts| counts.total() > 0)
        else {
            continue;
        };
        let mut before = 0;
        let bucket = |(bound, upto): (u64, u64)| {
            let within = upto - before;
            before = upto;
            (bound as f64, within)
        };
        let mut buckets: Vec<_> = counts.doubling_buckets().into_iter().map(bucket).collect();
        buckets.push((f64::MAX, 0));
        latencies.push(Distribution {
            labels: label(),
            sum: us,
            count: counts.total(),
            buckets,
        });
        let Some(histogram) = Some(&counts).and_then(Counts::histogram) else {
            continue;
        };
        for quantile in [0.5, 0.99, 0.999] {
            let mut labels = label();
            labels.push(("quantile", quantile.to_string()));
            let us = histogram.value_at_quantile(quantile) as f64 / 1000.0;
            let help = "Microseconds that this share of the calls kept within, by command";
            all.put("redis_latency_percentiles_usec", help, labels, us);
        }
    }
    all.0.push(Family {
        name: "redis_commands_latencies_usec".to_owned(),
        help: "Durations of calls in microseconds, by command",
        kind: MetricType::Histogram,
        series: Vec::new(),
        histograms: latencies,
    });
}

/// Slow commands and delays of the server's own.
fn events(all: &mut Snapshot, more: &More<'_>) {
    let slow = more.slowlog.len() as f64;
    all.put(
        "redis_slowlog_length",
        "Entries of the slow log",
        vec![],
        slow,
    );
    let newest = more.slowlog.newest(1);
    let last = newest
        .first()
        .map_or((0, 0), |entry| (entry.id, entry.duration_us));
    all.put(
        "redis_slowlog_last_id",
        "Number of the newest slow command",
        vec![],
        last.0 as f64,
    );
    let help = "How long the newest slow command took";
    let seconds = last.1 as f64 / 1e6;
    all.put(
        "redis_last_slow_execution_duration_seconds",
        help,
        vec![],
        seconds,
    );
    for (event, series) in more.latency.all() {
        let Some(last) = series.samples.back() else {
            continue;
        };
        let label = || vec![("event_name", event.to_owned())];
        let when = last.unix_seconds as f64;
        all.put(
            "redis_latency_spike_last",
            "Unix time of the last delay by event",
            label(),
            when,
        );
        let seconds = last.latency_ms as f64 / 1000.0;
        let help = "How long the last delay was, by event";
        all.put(
            "redis_latency_spike_duration_seconds",
            help,
            label(),
            seconds,
        );
    }
}

/// What only this server knows.
fn own(all: &mut Snapshot, sources: &Sources<'_>, more: &More<'_>) {
    for (part, bytes) in sources.memory.parts() {
        let label = vec![("part", part.replace(' ', "_"))];
        let help = "Resident bytes part by part; they add up to redis_memory_used_rss_bytes";
        all.put("slabkv_memory_part_bytes", help, label, bytes as f64);
    }
    for class in more.classes.iter().filter(|class| class.slabs > 0) {
        let label = || vec![("slot_bytes", class.slot_bytes.to_string())];
        let bytes = |slots: u32| f64::from(slots) * class.slot_bytes as f64;
        let live = "Bytes of slots in use by size class of the keyspace";
        all.put("slabkv_class_live_bytes", live, label(), bytes(class.live));
        let free = "Bytes of free slots by size class of the keyspace";
        all.put("slabkv_class_free_bytes", free, label(), bytes(class.free));
        let slabs = "Slabs by size class of the keyspace";
        all.put("slabkv_class_slabs", slabs, label(), f64::from(class.slabs));
    }
    let ledger = &sources.keyspace.compaction;
    let skipped = [
        ("below_target", ledger.skipped_below_target),
        ("while_deleting", ledger.skipped_while_deleting),
        ("no_victim", ledger.skipped_no_victim),
        ("no_room", ledger.skipped_no_room),
    ];
    for (reason, times) in skipped {
        let help = "Times that compaction left off or left a slab, by reason";
        let label = vec![("reason", reason.to_owned())];
        all.put("slabkv_compaction_skipped_total", help, label, times as f64);
    }
    let purged = ledger.purged_bytes as f64;
    let help = "Bytes of free pages given back to the system";
    all.put("slabkv_purged_bytes_total", help, vec![], purged);
    let maintenance = ticks_to_us(sources.totals.maintenance_ticks) as f64 / 1e6;
    let help = "Time that workers spent on maintenance";
    all.put(
        "slabkv_maintenance_seconds_total",
        help,
        vec![],
        maintenance,
    );
    let (connections, pages) = more.http;
    let help = "Open HTTP connections";
    all.put("slabkv_http_connections", help, vec![], connections as f64);
    all.put(
        "slabkv_http_pages",
        "Pages that are looked at",
        vec![],
        pages as f64,
    );
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        const UNITS: [(&str, Unit); 2] = [("_bytes", Unit::Bytes), ("_seconds", Unit::Seconds)];
        for family in &self.0 {
            let unit = UNITS
                .iter()
                .find_map(|(suffix, unit)| Some((family.name.strip_suffix(suffix)?, unit)));
            let (name, unit) = match unit {
                Some((name, unit)) => (name, Some(unit)),
                None => (family.name.as_str(), None),
            };
            let mut metric = encoder.encode_descriptor(name, family.help, unit, family.kind)?;
            let is_counter = matches!(family.kind, MetricType::Counter);
            for (labels, value) in &family.series {
                if labels.is_empty() {
                    write(&mut metric, is_counter, *value)?;
                } else {
                    write(&mut metric.encode_family(labels)?, is_counter, *value)?;
                }
            }
            for of in &family.histograms {
                let mut metric = metric.encode_family(&of.labels)?;
                metric.encode_histogram::<NoLabelSet>(of.sum, of.count, &of.buckets, None)?;
            }
        }
        Ok(())
    }
}

fn write(metric: &mut MetricEncoder<'_>, is_counter: bool, value: f64) -> fmt::Result {
    if is_counter {
        metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
    } else {
        metric.encode_gauge(&value)
    }
}

/// All metrics as text.
pub(crate) fn text(sources: &Sources<'_>, more: &More<'_>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collect(sources, more)));
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = text::encode(&mut out, &registry);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn each_metric_shows_a_field_of_info() {
        let mut names = HashSet::new();
        for (field, name, help) in MAPPED {
            assert!(info::has_field(field), "INFO has no {field}");
            assert!(names.insert(*name), "{name} twice");
            assert!(!help.ends_with('.'), "the format adds the point to {name}");
        }
    }
}
