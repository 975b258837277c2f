//! Clients, and the threads that serve them.

use crate::config::directive::Id;
use crate::observe::info::{Fields, Sources, line, zero};

pub(super) const CLIENTS: &Fields = &[
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

pub(super) fn threads(s: &Sources<'_>, out: &mut String) {
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
