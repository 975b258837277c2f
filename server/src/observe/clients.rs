//! A client as one line of text, as CLIENT LIST and the log show it.

use std::sync::atomic::Ordering;

use crate::clients::{Client, ClientFlags, NO_COMMAND};
use crate::clock::unix_ms;

/// Names of commands by their index in the command table.
pub(crate) trait CommandNames {
    /// The full name of the command at `index`.
    fn name(&self, index: u16) -> &str;
}

/// The line of one client, without a line break.
pub(crate) fn describe(client: &Client, names: &dyn CommandNames) -> String {
    let now_ms = unix_ms();
    let seconds_since = |ms: u64| now_ms.saturating_sub(ms) / 1000;
    let figure = |figure: &std::sync::atomic::AtomicUsize| figure.load(Ordering::Relaxed);
    let labels = client.labels();
    let queued = client.queued.load(Ordering::Relaxed);
    let mut flags = client.flags();
    flags.set(ClientFlags::MULTI, queued >= 0);
    let command = match client.last_command.load(Ordering::Relaxed) {
        NO_COMMAND => "NULL",
        index => names.name(index),
    };
    let output = figure(&client.output_bytes);
    let events = if output > 0 { "rw" } else { "r" };
    format!(
        "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 multi={queued} \
         watch={} qbuf={} qbuf-free={} argv-mem=0 multi-mem={} rbs=0 rbp=0 obl=0 oll={} omem={output} tot-mem={} \
         events={events} cmd={command} user=default redir=-1 resp={} lib-name={} lib-ver={} io-thread={} \
         tot-net-in={} tot-net-out={} tot-cmds={}",
        client.id,
        client.endpoints.peer(),
        client.endpoints.local(),
        client.fd,
        String::from_utf8_lossy(&labels.name),
        seconds_since(client.connected_ms),
        seconds_since(client.active_ms.load(Ordering::Relaxed)),
        flags.letters(),
        client.db.load(Ordering::Relaxed),
        client.watched.load(Ordering::Relaxed),
        figure(&client.query_bytes),
        figure(&client.query_free_bytes),
        figure(&client.queued_bytes),
        client.output_pieces.load(Ordering::Relaxed),
        client.memory_bytes(),
        client.protocol.load(Ordering::Relaxed),
        String::from_utf8_lossy(&labels.library),
        String::from_utf8_lossy(&labels.library_version),
        client.worker,
        client.received_bytes.load(Ordering::Relaxed),
        client.sent_bytes.load(Ordering::Relaxed),
        client.commands.load(Ordering::Relaxed),
    )
}
