//! The databases, and what becomes of them outside of this process: nothing is saved and nothing is replicated.

use crate::config::directive::Id;
use crate::observe::info::{Fields, Sources, line, zero};

pub(super) const PERSISTENCE: &Fields = &[
    ("loading", zero),
    ("async_loading", zero),
    ("current_cow_peak", zero),
    ("current_cow_size", zero),
    ("current_cow_size_age", zero),
    ("current_fork_perc", |_| "0.00".into()),
    ("current_save_keys_processed", zero),
    ("current_save_keys_total", zero),
    ("rdb_changes_since_last_save", |s| s.changes.to_string()),
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

pub(super) const REPLICATION: &Fields = &[
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

pub(super) fn keyspace(s: &Sources<'_>, out: &mut String) {
    for (at, db) in s.databases.iter().enumerate().filter(|(_, db)| db.keys > 0) {
        let (keys, expires, ttl) = (db.keys, db.volatile_keys, db.avg_ttl_ms);
        line(
            out,
            format_args!("db{at}:keys={keys},expires={expires},avg_ttl={ttl},subexpiry=0"),
        );
    }
}

/// How many strings of which lengths each database has, by powers of two.
pub(super) fn key_sizes(s: &Sources<'_>, out: &mut String) {
    for (at, db) in s.databases.iter().enumerate().filter(|(_, db)| db.keys > 0) {
        let bins = db.lengths.bins();
        let bins: Vec<String> = bins
            .map(|(least, count)| format!("{}={count}", power_of_two(least)))
            .collect();
        let bins = bins.join(",");
        line(out, format_args!("db{at}_distrib_strings_sizes:{bins}"));
    }
}

/// A power of two below 2^40, or 0, with a letter for its factor of 1024.
fn power_of_two(value: u64) -> String {
    match value {
        0..0x400 => value.to_string(),
        0x400..0x10_0000 => format!("{}K", value >> 10),
        0x10_0000..0x4000_0000 => format!("{}M", value >> 20),
        _ => format!("{}G", value >> 30),
    }
}
