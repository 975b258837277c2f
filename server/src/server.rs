//! The whole: sockets to listen on, workers to serve them, and the way down.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kvstore::{Keyspace, KeyspaceOptions};

use crate::clients::{Clients, Mailbox, Message};
use crate::commands::context::Services;
use crate::commands::lookup::CommandTable;
use crate::commands::table::COMMANDS;
use crate::config::Config;
use crate::net::poll::{Poller, Waker};
use crate::net::socket::Endpoints;
use crate::observe::stats::WorkerStats;
use crate::worker::{WAKER_TOKEN, Worker};

/// Serves until the process is told to stop.
pub(crate) fn serve(config: Config) -> io::Result<()> {
    let workers = config.workers;
    let options = KeyspaceOptions {
        shards: if workers == 1 { 1 } else { 2 * workers },
        databases: config.databases,
        ..KeyspaceOptions::default()
    };
    let keyspace = Keyspace::new(&options).map_err(io::Error::other)?;
    let mut parts = Vec::new();
    for _ in 0..workers {
        let poller = Poller::new()?;
        let waker = Waker::new(&poller, WAKER_TOKEN)?;
        parts.push((poller, waker));
    }
    let mailboxes = parts
        .iter()
        .map(|(_, waker)| Mailbox::new(waker.clone()))
        .collect();
    let commands = CommandTable::new(COMMANDS);
    let stats = (0..workers)
        .map(|_| Arc::new(WorkerStats::new(commands.len())))
        .collect();
    let listener = TcpListener::bind(("127.0.0.1", config.port))?;
    let services = Arc::new(Services {
        config,
        keyspace,
        commands,
        clients: Clients::new(mailboxes),
        stats,
    });
    let stop = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for (index, (poller, waker)) in parts.into_iter().enumerate() {
        let worker = Worker::new(
            index,
            Arc::clone(&services),
            Arc::clone(&stop),
            poller,
            waker,
        );
        let builder = std::thread::Builder::new().name(format!("worker-{index}"));
        threads.push(builder.spawn(move || worker.run())?);
    }
    loop {
        let (stream, peer) = listener.accept()?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let endpoints = Endpoints::Tcp {
            peer,
            local: stream.local_addr()?,
        };
        let worker = services.clients.idlest_worker();
        services.clients.admit(worker, usize::MAX);
        services
            .clients
            .mailbox(worker)
            .send(Message::Connection(OwnedFd::from(stream), endpoints));
    }
}
