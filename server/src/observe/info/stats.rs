//! What was counted since the start or the last CONFIG RESETSTAT.

use crate::clock::ns_per_tick;
use crate::observe::info::{Fields, Sources, kilobytes, ratio, zero};
use crate::observe::stats::{Totals, ticks_to_us};

pub(super) const STATS: &Fields = &[
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
    // An estimate, as in Redis: of the keys that the latest slices of active expiry looked at.
    ("expired_stale_perc", |s| {
        let volatile = s.keyspace.volatile_keys.max(1) as f64;
        ratio(s.keyspace.expiry.stale_keys as f64 * 100.0 / volatile)
    }),
    // A slice has at most a tenth of a millisecond, so this counts the slices after which another one had to follow.
    ("expired_time_cap_reached_count", |s| {
        s.keyspace.expiry.capped_slices.to_string()
    }),
    ("expire_cycle_cpu_milliseconds", |s| {
        (s.keyspace.expiry.time_ns / 1_000_000).to_string()
    }),
    ("evicted_keys", |s| s.keyspace.counters.evicted.to_string()),
    ("evicted_clients", |s| s.totals.evicted_clients.to_string()),
    ("evicted_scripts", zero),
    ("total_eviction_exceeded_time", |s| {
        s.over_limit.1.as_millis().to_string()
    }),
    ("current_eviction_exceeded_time", |s| {
        s.over_limit.0.as_millis().to_string()
    }),
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
    // Redis walks the keys and asks about each of their allocations: one that it moves is a hit, one that stays a miss.
    // Here only objects of sparse slabs are looked at: one that moved is a hit, one that found no room a miss. A key and
    // its value are one object; what is not a key is a segment of the table.
    ("active_defrag_hits", |s| {
        s.keyspace.compaction.moved_objects.to_string()
    }),
    ("active_defrag_misses", |s| {
        s.keyspace.compaction.missed_objects.to_string()
    }),
    ("active_defrag_key_hits", |s| {
        s.keyspace.compaction.moved_entries.to_string()
    }),
    ("active_defrag_key_misses", |s| {
        s.keyspace.compaction.missed_entries.to_string()
    }),
    ("total_active_defrag_time", |s| {
        s.compacting.1.as_millis().to_string()
    }),
    ("current_active_defrag_time", |s| {
        s.compacting.0.as_millis().to_string()
    }),
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
    ("compaction_usec", |s| {
        (s.keyspace.compaction.time_ns / 1000).to_string()
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

pub(super) const DEBUG: &Fields = &[
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
fn others(s: &Sources<'_>, figure: fn(&Totals) -> u64) -> String {
    (1..s.clients.workers())
        .map(|worker| figure(&s.stats.worker(worker).totals))
        .sum::<u64>()
        .to_string()
}
