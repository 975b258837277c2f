//! The whole: what is made at the start, in order, and undone at the end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use kvstore::{Keyspace, KeyspaceOptions, SHARDS_MAX};
use parking_lot::Mutex;

use crate::clients::{Clients, Mailbox};
use crate::clock::unix_us;
use crate::commands::config::{
    OTHER_FILES, apply_oom_score, keyspace_settings, open_door, tcp_addresses,
};
use crate::commands::context::Services;
use crate::commands::lookup::CommandTable;
use crate::commands::table::COMMANDS;
use crate::config::Config;
use crate::config::directive::Id;
use crate::http;
use crate::listeners::Listeners;
use crate::listeners::door::Door;
use crate::log::{Level, Log};
use crate::net::poll::{Poller, Waker};
use crate::observe::history::History;
use crate::observe::info::{Identity, REDIS_VERSION, VERSION};
use crate::observe::latency::LatencyMonitor;
use crate::observe::memory::MemoryState;
use crate::observe::rates::Sampler;
use crate::observe::slowlog::SlowLog;
use crate::observe::standing::Standing;
use crate::observe::stats::Stats;
use crate::process;
use crate::signals::Signals;
use crate::worker::{WAKER_TOKEN, Worker};

/// Serves until the process is told to stop.
///
/// # Errors
/// The server could not start; the log says why.
pub(crate) fn serve(config: Config, log: Log, supervised: &'static str) -> Result<(), ()> {
    let log = Arc::new(log);
    start(config, Arc::clone(&log), supervised).map_err(|reason| log.write(Level::Warning, reason))
}

fn start(config: Config, log: Arc<Log>, supervised: &'static str) -> Result<(), String> {
    let pid = std::process::id();
    log.write(
        Level::Notice,
        "oO0OoO0OoO0Oo slabkv is starting oO0OoO0OoO0Oo",
    );
    let about = format!(
        "slabkv version={VERSION}, bits={}, pid={pid}, just started",
        usize::BITS
    );
    log.write(Level::Notice, about);
    log.write(Level::Notice, "Configuration loaded");
    for name in config.without_effect() {
        let text = format!(
            "'{name}' is accepted so that configuration files of Redis can be used, but has no effect"
        );
        log.write(Level::Warning, text);
    }
    limit_clients(&config, &log);

    let workers = config.size(Id::IoThreads);
    let keyspace = Keyspace::new(&KeyspaceOptions {
        shards: shards_for(workers),
        databases: config.size(Id::Databases),
        ..KeyspaceOptions::default()
    });
    let keyspace = keyspace.map_err(|error| format!("Can't set the keyspace up: {error}"))?;
    keyspace.configure(&keyspace_settings(&config));

    let fail = |error: io::Error| {
        format!(
            "Can't set the event loops up: {}",
            crate::config::os_text(&error)
        )
    };
    let mut parts = Vec::new();
    for _ in 0..workers {
        let poller = Arc::new(Poller::new().map_err(fail)?);
        let waker = Waker::new(&poller, WAKER_TOKEN).map_err(fail)?;
        parts.push((poller, waker));
    }
    let mut commands = CommandTable::new(COMMANDS);
    for (from, to) in &config.renamed {
        commands.rename(from, to)?;
    }
    let services = Arc::new(Services {
        log,
        keyspace,
        clients: Clients::new(
            parts
                .iter()
                .map(|(_, waker)| Mailbox::new(waker.clone()))
                .collect(),
        ),
        listeners: Listeners::new(Arc::clone(&parts[0].0)),
        door: Door::new(),
        stats: Stats::new(workers, commands.len()),
        commands,
        sampler: Mutex::new(Sampler::default()),
        history: History::default(),
        slowlog: SlowLog::default(),
        latency: LatencyMonitor::default(),
        compacting: Standing::default(),
        over_limit: Standing::default(),
        memory: MemoryState::default(),
        identity: identity(supervised),
        idle_shards: AtomicU64::new(0),
        roused: (0..workers).map(|_| AtomicBool::new(false)).collect(),
        config_change: Mutex::new(()),
        active_expiry: AtomicBool::new(true),
        latency_unit_ns: AtomicU64::new(1_000_000),
        cron_paused: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        config,
    });
    listen(&services)?;
    let hall = Arc::downgrade(&services);
    services
        .door
        .set_opener(move |sockets| match hall.upgrade() {
            Some(services) => http::serve(services, sockets),
            None => Err(io::ErrorKind::NotConnected.into()),
        });
    open_door(&services)?;
    let mut signals = Some(Signals::install(&parts[0].0).map_err(fail)?);
    write_pid_file(&services);
    apply_oom_score(&services.config, &services.log)?;
    services
        .memory
        .note_startup(&services.keyspace_statistics());

    let port = services.listeners.tcp_port();
    services.log.write(
        Level::Notice,
        format_args!("Running mode=standalone, port={port}."),
    );
    services.log.write_raw(&format!(
        "\n  slabkv {VERSION}, speaks as Redis {REDIS_VERSION}\n  Port: {port}\n  PID: {pid}\n\n"
    ));
    services.log.write(Level::Notice, "Server initialized");
    for (kind, _) in services.listeners.describe() {
        services.log.write(
            Level::Notice,
            format_args!("Ready to accept connections {kind}"),
        );
    }
    if supervised == "upstart" {
        process::stop_self();
    }
    if supervised == "systemd" {
        process::notify_supervisor("STATUS=Ready to accept connections\nREADY=1\n");
    }

    let mut workers = parts
        .into_iter()
        .enumerate()
        .map(|(index, (poller, waker))| {
            Worker::new(index, Arc::clone(&services), poller, waker, signals.take())
        });
    let first = workers.next();
    let mut threads = Vec::new();
    for (at, worker) in workers.enumerate() {
        let builder = std::thread::Builder::new().name(format!("worker-{}", at + 1));
        threads.push(builder.spawn(move || worker.run()).map_err(fail)?);
    }
    process::drop_program_pages();
    let mut ended = first.map_or(Ok(()), Worker::run);
    services.stop();
    for thread in threads {
        ended = ended.and(
            thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a worker panicked"))),
        );
    }
    shut_down(&services);
    ended.map_err(fail)
}

/// Shards for so many workers: one each. Every shard keeps a part-filled slab per size class in use and records of
/// its own, some hundreds of kilobytes where sizes vary, and a worker holds a lock for a fraction of a command's time.
fn shards_for(workers: usize) -> usize {
    workers.clamp(1, SHARDS_MAX)
}

/// Lowers `maxclients` to what the limit of open files allows.
fn limit_clients(config: &Config, log: &Log) {
    let wanted = config.size(Id::MaxClients) as u64;
    let files = process::raise_file_limit(wanted.saturating_add(OTHER_FILES));
    if files >= wanted.saturating_add(OTHER_FILES) {
        return;
    }
    let allowed = files.saturating_sub(OTHER_FILES).max(1);
    log.write(
        Level::Warning,
        format_args!(
            "You requested maxclients of {wanted} requiring at least {} max file descriptors.",
            wanted + OTHER_FILES
        ),
    );
    log.write(
        Level::Warning,
        format_args!("Current maximum open files is {files}. maxclients has been reduced to {allowed}. Use 'ulimit -n' to raise it."),
    );
    // The value is within the directive's limits, so it is taken.
    let _ = config.set(
        Id::MaxClients.directive(),
        &[allowed.to_string().as_bytes()],
    );
}

fn listen(services: &Services) -> Result<(), String> {
    let config = &services.config;
    let addresses = tcp_addresses(config);
    let (port, backlog) = (addresses.port, addresses.backlog);
    if services
        .listeners
        .listen_tcp(addresses, &services.log)
        .is_err()
    {
        return Err(format!("Failed listening on port {port} (tcp), aborting."));
    }
    let path = config.string(Id::UnixSocket);
    if !path.is_empty() {
        let mode = u32::try_from(config.number(Id::UnixSocketPerm)).unwrap_or(0);
        let opened = services
            .listeners
            .listen_unix(Path::new(&path), mode, backlog);
        opened.map_err(|error| {
            format!(
                "Failed opening Unix socket: bind: {}",
                crate::config::os_text(&error)
            )
        })?;
    }
    if services.listeners.describe().is_empty() {
        return Err("Configured to not listen anywhere, exiting.".into());
    }
    Ok(())
}

fn identity(supervised: &'static str) -> Identity {
    let random = || {
        use std::hash::{BuildHasher as _, Hasher as _};
        let number = || {
            std::collections::hash_map::RandomState::new()
                .build_hasher()
                .finish()
        };
        format!("{:016x}{:016x}{:08x}", number(), number(), number() >> 32)
    };
    Identity {
        run_id: random(),
        replication_id: random(),
        executable: std::env::current_exe()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        supervised,
        started_unix_seconds: unix_us() / 1_000_000,
    }
}

fn write_pid_file(services: &Services) {
    let config = &services.config;
    let mut path = config.string(Id::PidFile);
    if path.is_empty() && config.is_set(Id::Daemonize) {
        path = "/var/run/slabkv.pid".into();
    }
    if path.is_empty() {
        return;
    }
    if let Err(error) = std::fs::write(&path, format!("{}\n", std::process::id())) {
        let reason = crate::config::os_text(&error);
        services.log.write(
            Level::Warning,
            format_args!("Failed to write PID file: {reason}"),
        );
    }
}

fn shut_down(services: &Services) {
    services
        .log
        .write(Level::Notice, "User requested shutdown...");
    if services.identity.supervised == "systemd" {
        process::notify_supervisor("STOPPING=1\n");
    }
    services.door.close();
    services.listeners.close_all();
    let path = services.config.string(Id::PidFile);
    if !path.is_empty() {
        services.log.write(Level::Notice, "Removing the pid file.");
        // It may never have been written.
        let _ = std::fs::remove_file(path);
    }
    services
        .log
        .write(Level::Warning, "slabkv is now ready to exit, bye bye...");
}
