//! What a handler works with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvstore::statistics::{DbStatistics, Statistics};
use kvstore::{Db, Keyspace, Locked, ShardSet, Touch};
use parking_lot::Mutex;

use crate::clients::Clients;
use crate::clock::{Ticks, unix_ms, unix_us, uptime};
use crate::commands::args::Args;
use crate::commands::error::CommandError;
use crate::commands::lookup::CommandTable;
use crate::config::Config;
use crate::config::directive::Id;
use crate::heap::HeapMemory;
use crate::listeners::Listeners;
use crate::listeners::door::Door;
use crate::log::Log;
use crate::mappings::untouched_bytes;
use crate::observe::clients::CommandNames;
use crate::observe::history::{History, Observed};
use crate::observe::info::{Identity, Sources};
use crate::observe::latency::LatencyMonitor;
use crate::observe::memory::{MemoryReport, MemoryState};
use crate::observe::rates::{Rates, Sample, Sampler};
use crate::observe::slowlog::SlowLog;
use crate::observe::standing::Standing;
use crate::observe::stats::{Stats, WorkerStats};
use crate::process::{self, CpuOf};
use crate::resp::reply::Reply;
use crate::session::Session;

/// What all workers share, as far as handlers may see it.
pub(crate) struct Services {
    /// Values in force.
    pub(crate) config: Config,
    /// The log.
    pub(crate) log: Arc<Log>,
    /// All data.
    pub(crate) keyspace: Keyspace,
    /// All commands.
    pub(crate) commands: CommandTable,
    /// All clients.
    pub(crate) clients: Clients,
    /// The sockets that accept connections.
    pub(crate) listeners: Listeners,
    /// Where HTTP is served.
    pub(crate) door: Door,
    /// Figures of each worker.
    pub(crate) stats: Stats,
    /// Samples of the figures, for rates.
    pub(crate) sampler: Mutex<Sampler>,
    /// Samples of the last hour and the last day.
    pub(crate) history: History,
    /// Slow commands.
    pub(crate) slowlog: SlowLog,
    /// Latency events.
    pub(crate) latency: LatencyMonitor,
    /// Compaction at work.
    pub(crate) compacting: Standing,
    /// More memory in use than `maxmemory` allows.
    pub(crate) over_limit: Standing,
    /// Peak and start of memory use.
    pub(crate) memory: MemoryState,
    /// What never changes.
    pub(crate) identity: Identity,
    /// Shards that want no maintenance soon unless something is written, as a bit each.
    pub(crate) idle_shards: AtomicU64,
    /// Workers that were asked to maintain their shards soon.
    pub(crate) roused: Box<[AtomicBool]>,
    /// Serialises CONFIG SET, whose checks, changes and undoing belong together.
    pub(crate) config_change: Mutex<()>,
    /// Whether keys expire without being touched (DEBUG SET-ACTIVE-EXPIRE).
    pub(crate) active_expiry: AtomicBool,
    /// What the latency monitor takes for a millisecond of the server's own work.
    pub(crate) latency_unit_ns: AtomicU64,
    /// Whether nothing is done on a clock: no maintenance, no looking over clients (DEBUG PAUSE-CRON).
    pub(crate) cron_paused: AtomicBool,
    /// Whether the server has to stop.
    pub(crate) stop: AtomicBool,
}

impl Services {
    /// Whether a password is needed.
    #[inline]
    pub(crate) fn needs_password(&self) -> bool {
        self.config.is_set(Id::RequirePass)
    }

    /// Whether a client may use what this directive guards: `no`, `yes`, or `local` for clients of this machine.
    pub(crate) fn allows(&self, guard: Id, is_local: bool) -> bool {
        match self.config.number(guard) {
            0 => false,
            1 => true,
            _ => is_local,
        }
    }

    /// Asks a worker to maintain its shards soon.
    pub(crate) fn rouse(&self, worker: usize, from: usize) {
        // Release meets the Acquire of `take_rouse`.
        self.roused[worker].store(true, Ordering::Release);
        if worker != from {
            self.clients.mailbox(worker).wake();
        }
    }

    /// Whether a worker was asked to maintain its shards since the last call.
    pub(crate) fn take_rouse(&self, worker: usize) -> bool {
        self.roused[worker].load(Ordering::Relaxed)
            && self.roused[worker].swap(false, Ordering::Acquire)
    }

    /// Names of commands, for texts.
    pub(crate) fn command_names(&self) -> &dyn CommandNames {
        &self.commands
    }

    /// Figures of all shards, one after the other.
    pub(crate) fn keyspace_statistics(&self) -> Statistics {
        let mut sum = Statistics::default();
        for shard in 0..self.keyspace.shards() {
            sum += self.keyspace.lock(ShardSet::one(shard)).statistics();
        }
        sum
    }

    /// The statistics now, for rates.
    pub(crate) fn rate_sample(&self, keyspace: &Statistics, at: Duration) -> Sample {
        let totals = self.stats.all_totals();
        Sample {
            at,
            commands: totals.commands,
            input_bytes: totals.input_bytes,
            output_bytes: totals.output_bytes,
            loops: totals.loops,
            loop_ticks: totals.loop_ticks,
            compaction_ns: keyspace.compaction.time_ns,
        }
    }

    /// Takes a sample of rates and of memory use, `at` this time since the start, if it is time for one.
    pub(crate) fn take_sample(&self, at: Duration) {
        if self.sampler.lock().is_due(at) {
            let keyspace = self.keyspace_statistics();
            let heap = HeapMemory::now();
            self.memory.sample(&keyspace, &heap);
            self.memory.note_peaks(&keyspace, &heap);
            self.note_sample(&keyspace, at);
        }
    }

    /// Figures about memory now, locking one shard after the other.
    pub(crate) fn memory_report(&self) -> MemoryReport {
        let mut keyspace = Statistics::default();
        let mut slabs = Vec::new();
        for shard in 0..self.keyspace.shards() {
            let mut locked = self.keyspace.lock(ShardSet::one(shard));
            keyspace += locked.statistics();
            slabs.extend(locked.allocating_slabs());
        }
        let untouched = untouched_bytes(&slabs);
        let clients = self.clients.memory_bytes();
        MemoryReport::now(&self.memory, keyspace, clients, untouched)
    }

    /// Figures of each database, locking one shard after the other, and not for long.
    pub(crate) fn databases(&self) -> Vec<DbStatistics> {
        /// Databases that are looked at under one lock.
        const AT_A_TIME: usize = 16;
        let mut sums = vec![DbStatistics::default(); self.keyspace.databases()];
        for shard in 0..self.keyspace.shards() {
            for (part, sums) in sums.chunks_mut(AT_A_TIME).enumerate() {
                let mut locked = self.keyspace.lock(ShardSet::one(shard));
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum += &locked.db(part * AT_A_TIME + at, unix_ms()).statistics();
                }
            }
        }
        sums
    }

    /// All that INFO and the metrics are made from.
    pub(crate) fn sources(
        &self,
        databases: Vec<DbStatistics>,
        memory: MemoryReport,
    ) -> Sources<'_> {
        let now = uptime();
        let rates = self.note_sample(&memory.keyspace, now);
        if self.over_limit.holds() {
            self.note_limit(now);
        }
        Sources {
            config: &self.config,
            clients: &self.clients,
            listeners: &self.listeners,
            stats: &self.stats,
            identity: &self.identity,
            totals: self.stats.totals(),
            changes: self.stats.all_totals().write_commands,
            rates,
            compacting: (self.compacting.current(now), self.compacting.total(now)),
            over_limit: (self.over_limit.current(now), self.over_limit.total(now)),
            keyspace: memory.keyspace,
            databases,
            memory,
            commands: self.commands.iter().map(|command| &*command.name).collect(),
        }
    }

    /// Adds to the history, if a second has ended since the last look. Returns whether anything happened meanwhile.
    pub(crate) fn look(&self) -> bool {
        let at = uptime();
        if !self.history.is_due(at) {
            return false;
        }
        let cpu = process::cpu_time(CpuOf::Process);
        self.history.look(&Observed {
            at,
            totals: self.stats.all_totals(),
            memory: self.memory_report(),
            clients: self.clients.len(),
            cpu: cpu.user + cpu.system,
            durations: self.stats.spread(),
        })
    }

    /// Adds to the samples, if it is time for one, what the statistics say now; returns the rates until now.
    pub(crate) fn note_sample(&self, keyspace: &Statistics, at: Duration) -> Rates {
        let sample = self.rate_sample(keyspace, at);
        let mut sampler = self.sampler.lock();
        let rates = sampler.rates(&sample);
        if sampler.is_due(at) {
            let since = sampler.compacting_since(&sample);
            self.compacting.note(since.is_some(), since.unwrap_or(at));
            sampler.push(sample);
        }
        rates
    }

    /// Notes when memory is within its limit again, `now` after the start.
    #[cold]
    pub(crate) fn note_limit(&self, now: Duration) {
        let resident = self.config.is_set(Id::MaxMemoryMeasure);
        let keyspace_bytes = if resident {
            self.keyspace.resident_bytes()
        } else {
            self.keyspace.used_bytes()
        };
        let limit = self.config.size(Id::MaxMemory) as u64;
        let bytes = keyspace_bytes + self.memory.heap_bytes(resident);
        self.over_limit.note(limit > 0 && bytes > limit, now);
    }

    /// Notes an event of the server's own that took so long, if latency is watched and it took long enough.
    #[inline]
    pub(crate) fn note_latency(&self, event: &'static str, took: Duration) {
        let threshold_ms = u64::try_from(self.config.number(Id::LatencyThreshold)).unwrap_or(0);
        if threshold_ms == 0 {
            return;
        }
        // Relaxed: a figure of its own, which is hardly ever changed.
        let took_ms = took.as_nanos() as u64 / self.latency_unit_ns.load(Ordering::Relaxed);
        if took_ms >= threshold_ms {
            self.latency.add(event, unix_us() / 1_000_000, took_ms);
        }
    }

    /// Has all workers stop.
    pub(crate) fn stop(&self) {
        // Release meets the Acquire of the workers' loops.
        self.stop.store(true, Ordering::Release);
        self.clients.wake_all();
    }
}

/// From when on a command's duration is worth recording, beyond counting it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thresholds {
    /// For the slow log, in nanoseconds; `u64::MAX` for never.
    pub(crate) slow_ns: u64,
    /// For the latency monitor, in nanoseconds; `u64::MAX` for never.
    pub(crate) latency_ns: u64,
    /// Whether histograms are kept.
    pub(crate) histograms: bool,
}

impl Thresholds {
    /// What the configuration says now.
    pub(crate) fn of(config: &Config) -> Self {
        let slow_us = u64::try_from(config.number(Id::SlowlogSlowerThan));
        let latency_ms = u64::try_from(config.number(Id::LatencyThreshold)).unwrap_or(0);
        Self {
            slow_ns: slow_us.map_or(u64::MAX, |us| us.saturating_mul(1000)),
            latency_ns: match latency_ms {
                0 => u64::MAX,
                ms => ms.saturating_mul(1_000_000),
            },
            histograms: config.is_set(Id::LatencyTracking),
        }
    }
}

/// Most bytes of an argument that an error text shows.
pub(crate) const SHOWN_BYTES_MAX: usize = 128;

/// The world of one command.
pub(crate) struct Context<'a> {
    /// The client that sent it.
    pub(crate) session: &'a mut Session,
    /// Where the reply goes.
    pub(crate) reply: &'a mut Reply,
    /// The shards that [`Locking`](crate::commands::table::Locking) says.
    pub(crate) locked: Locked<'a>,
    /// When the command runs, in milliseconds of Unix time. The same for all commands of a transaction.
    pub(crate) now_ms: u64,
    /// When the last command ended, or waiting for locks did: the next one's duration counts from here.
    pub(crate) clock: Ticks,
    /// What all workers share.
    pub(crate) services: &'a Services,
    /// Figures of this worker.
    pub(crate) stats: &'a WorkerStats,
    /// What durations are worth recording.
    pub(crate) thresholds: Thresholds,
    /// Index of the command that runs, in the command table.
    pub(crate) command: u16,
    /// Arguments that no log may show, as a bit each; the last bit stands for all arguments from there on.
    pub(crate) secret_args: u64,
    /// How long other threads that had the command's shards were waited for, until it began or since.
    pub(crate) waited: Duration,
    /// Bytes of the requests that are being worked on, for CLIENT LIST.
    pub(crate) query_bytes: usize,
    /// Whether a command that writes has run.
    pub(crate) wrote: bool,
}

impl<'a> Context<'a> {
    /// The client's database, with the shards of the command's keys locked.
    #[inline]
    pub(crate) fn db(&mut self) -> Db<'_> {
        self.locked.db(self.session.db, self.now_ms)
    }

    /// The same, and beside it the reply, for values that are written while the database is borrowed.
    #[inline]
    pub(crate) fn db_and_reply(&mut self) -> (Db<'_>, &mut Reply) {
        (self.locked.db(self.session.db, self.now_ms), self.reply)
    }

    /// Runs what locks shards by itself. As part of a transaction the transaction's own locks are given up for that
    /// time, so another client may get in between.
    pub(crate) fn without_locks<R>(&mut self, work: impl FnOnce(&Services) -> R) -> R {
        let held = self.locked.shards();
        self.lock(ShardSet::EMPTY);
        let result = work(self.services);
        self.lock(held);
        result
    }

    /// Has exactly these shards locked.
    #[inline]
    pub(crate) fn lock(&mut self, shards: ShardSet) {
        if self.locked.shards() == shards {
            return;
        }
        let keyspace = &self.services.keyspace;
        // Nobody may wait for locks while holding some.
        self.locked = keyspace.lock(ShardSet::EMPTY);
        if !shards.is_empty() {
            self.locked = keyspace.lock(shards);
            self.waited += self.locked.waited();
            self.clock = Ticks::now();
        }
    }

    /// What a lookup leaves behind, given what the command would have it leave.
    #[inline]
    pub(crate) fn touch(&self, touch: Touch) -> Touch {
        if self.session.no_touch {
            touch.without_access()
        } else {
            touch
        }
    }

    /// Keeps an argument out of all logs.
    pub(crate) fn keep_secret(&mut self, argument: usize) {
        self.secret_args |= 1 << argument.min(63);
    }

    /// The name of the command that runs; of a subcommand with its container, `config|get`.
    pub(crate) fn command_name(&self) -> &'a str {
        &self.services.commands.get(self.command).name
    }

    /// The error for a wrong number of arguments.
    #[cold]
    pub(crate) fn wrong_number_of_arguments(&self) -> CommandError {
        format!(
            "ERR wrong number of arguments for '{}' command",
            self.command_name()
        )
        .into()
    }

    /// The error for a point in time that is zero, negative or beyond 64 bits.
    #[cold]
    pub(crate) fn invalid_expire_time(&self) -> CommandError {
        format!(
            "ERR invalid expire time in '{}' command",
            self.command_name()
        )
        .into()
    }

    /// The error of a subcommand for arguments that it does not take.
    #[cold]
    pub(crate) fn subcommand_syntax(&self, args: Args<'_>) -> CommandError {
        let name = self.command_name();
        let (container, _) = name.split_once('|').unwrap_or((name, ""));
        let given = args.try_get(1).unwrap_or_default();
        let mut text = b"ERR unknown subcommand or wrong number of arguments for '".to_vec();
        text.extend_from_slice(&given[..given.len().min(SHOWN_BYTES_MAX)]);
        text.extend_from_slice(
            format!("'. Try {} HELP.", container.to_ascii_uppercase()).as_bytes(),
        );
        text.into()
    }

    /// All commands.
    pub(crate) fn commands(&self) -> &'a CommandTable {
        &self.services.commands
    }
}
