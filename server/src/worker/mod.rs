//! One worker: a thread with its own event loop, its own connections, and its own buffers.
//!
//! ```text
//! wait -> read once per ready socket -> parse what is whole -> fetch the keys' cache lines -> run in order
//!      -> write once per socket ([`sweep`]) -> maintain the worker's shards when that is due -> wait
//! ```
//!
//! The first worker also accepts connections and hands each to the worker with the fewest.

mod peer;
mod round;
mod scratch;
mod sweep;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use kvstore::NextDue;
use slab_allocator::SlabAlloc;

use crate::clients::{ClientFlags, Message};
use crate::clock::{Ticks, unix_ms, uptime};
use crate::commands::config::end_pause;
use crate::commands::context::Services;
use crate::config::directive::Id;
use crate::listeners::Listeners;
use crate::log::Level;
use crate::net::poll::{Events, Interest, Poller, Waker};
use crate::net::socket::{Endpoints, keep_alive};
use crate::observe::rates::SAMPLE_INTERVAL;
use crate::observe::stats::WorkerStats;
use crate::session::Session;
use crate::signals::{SIGNALS_TOKEN, Signals};

use peer::{End, Peer};
use scratch::Scratch;
use sweep::Taken;

/// Token of the worker's waker.
pub(crate) const WAKER_TOKEN: u64 = u64::MAX;

/// Most time spent on one shard's maintenance at a time.
const MAINTENANCE_BUDGET: Duration = Duration::from_micros(500);

/// A shard that wants no maintenance for longer than this is told of the next write.
const MAINTENANCE_REST: Duration = Duration::from_millis(25);

/// After a shard was idle, how long its first write waits for maintenance.
const MAINTENANCE_DELAY: Duration = Duration::from_millis(5);

/// How long the shared buffers keep a size that nothing needs.
const SHRINK_INTERVAL: Duration = Duration::from_millis(500);

/// A worker's own world.
pub(crate) struct Worker {
    index: usize,
    services: Arc<Services>,
    poller: Arc<Poller>,
    waker: Waker,
    signals: Option<Signals>,
    peers: Vec<Option<Box<Peer>>>,
    free: Vec<usize>,
    generation: u64,
    scratch: Scratch,
    /// What was read in this sweep and is still to be run.
    taken: Vec<Taken>,
    /// When maintenance is due; `None` while all shards are idle.
    maintenance_due: Option<Instant>,
    /// When clients have to be looked over; `None` while no limit depends on time.
    check_due: Option<Instant>,
    /// When the shared buffers are looked over; `None` while they are small.
    shrink_due: Option<Instant>,
    /// Clients whose commands wait for the end of a pause.
    postponed: Vec<u64>,
    /// From when on a sample of the statistics is taken, if there is work.
    sample_due: Instant,
}

impl Worker {
    /// A worker that waits with `poller`, where `waker` is registered, and `signals` if it is the one to be told of them.
    pub(crate) fn new(
        index: usize,
        services: Arc<Services>,
        poller: Arc<Poller>,
        waker: Waker,
        signals: Option<Signals>,
    ) -> Self {
        Self {
            index,
            services,
            poller,
            waker,
            signals,
            peers: Vec::new(),
            free: Vec::new(),
            generation: 0,
            scratch: Scratch::new(),
            taken: Vec::new(),
            maintenance_due: Some(Instant::now()),
            check_due: None,
            postponed: Vec::new(),
            shrink_due: None,
            sample_due: Instant::now(),
        }
    }

    /// Serves until the server stops.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let services = Arc::clone(&self.services);
        let stats = services.stats.worker(self.index);
        let mut events = Events::new();
        let mut now = Instant::now();
        // Acquire meets the Release of `Services::stop`.
        while !services.stop.load(Ordering::Acquire) {
            self.poller.wait(&mut events, self.timeout(now))?;
            let (began, commands) = (Ticks::now(), stats.totals.commands.get());
            for ready in events.iter() {
                if ready.token == WAKER_TOKEN {
                    self.waker.drain();
                    self.receive();
                } else if ready.token == SIGNALS_TOKEN {
                    self.obey_signals();
                } else if Listeners::owns(ready.token) {
                    self.accept(ready.token);
                } else {
                    self.take(ready.token, ready.read, ready.write);
                }
            }
            self.run_taken();
            now = Instant::now();
            self.after_events(events.iter().len() > 0, now);
            if events.iter().len() > 0 {
                let ticks = Ticks::now().since(began);
                stats.totals.loops.add(1);
                stats.totals.loop_ticks.add(ticks);
                stats.loop_ticks_max.raise(ticks);
                let commands = stats.totals.commands.get() - commands;
                stats.commands_per_loop_max.raise(commands);
            }
        }
        Ok(())
    }

    /// How long the next wait may last.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let pause_end = self.services.clients.pause().map(|pause| {
            let left = Duration::from_millis(pause.until_ms.saturating_sub(unix_ms()));
            now + left.min(Duration::from_secs(86_400))
        });
        let due = [
            self.maintenance_due,
            self.check_due,
            self.shrink_due,
            pause_end,
        ];
        let due = due.into_iter().flatten().min()?;
        Some(due.saturating_duration_since(now))
    }

    /// What follows a pass over the ready sockets.
    fn after_events(&mut self, busy: bool, now: Instant) {
        if self.scratch.wrote {
            self.scratch.wrote = false;
            self.wake_maintainers();
        }
        self.rouse_if_asked();
        if self.services.clients.is_paused() {
            let over = self
                .services
                .clients
                .pause()
                .is_some_and(|pause| pause.until_ms <= unix_ms());
            if over {
                end_pause(&self.services);
            }
        } else if !self.postponed.is_empty() {
            self.resume();
        }
        if self.maintenance_due.is_some_and(|due| due <= now) {
            self.maintain();
        }
        if self.check_due.is_some_and(|due| due <= now) {
            self.check_clients();
        } else if self.check_due.is_none() && busy && self.needs_checks() {
            self.check_due = Some(now + self.check_interval());
        }
        if self.shrink_due.is_some_and(|due| due <= now) {
            self.shrink_due = None;
            self.scratch.shrink();
            if !busy {
                // What the last burst needed is of no use to anybody now.
                SlabAlloc::new().rest();
            }
        }
        if self.shrink_due.is_none() && (busy || self.scratch.is_grown()) {
            self.shrink_due = Some(now + SHRINK_INTERVAL);
        }
        if busy && self.index == 0 && self.sample_due <= now {
            self.sample_due = now + SAMPLE_INTERVAL;
            self.services.take_sample(uptime());
        }
    }

    /// Stops the server if a signal asks for it.
    fn obey_signals(&mut self) {
        if let Some(name) = self.signals.as_mut().and_then(Signals::received) {
            let text = format_args!("Received {name} scheduling shutdown...");
            self.services.log.write(Level::Warning, text);
            self.services.stop();
        }
    }

    /// Deals with what other workers asked for.
    fn receive(&mut self) {
        for message in self.services.clients.mailbox(self.index).take() {
            match message {
                Message::Connection(id, socket, endpoints) => self.adopt(id, socket, endpoints),
                Message::Kill(id) => {
                    let place = self.peers.iter().position(|peer| {
                        peer.as_ref()
                            .is_some_and(|peer| peer.session.client.id == id)
                    });
                    if let Some(place) = place {
                        self.close(place, &End::Closed);
                    }
                }
                Message::Show(line) => self.show(&line),
            }
        }
    }

    /// Shows a line to this worker's clients that watch commands.
    fn show(&mut self, line: &[u8]) {
        for place in 0..self.peers.len() {
            if let Some(peer) = &mut self.peers[place]
                && peer.is_monitor()
            {
                let shown = peer.show(line, &self.services, &self.poller);
                if let Err(end) = shown {
                    self.close(place, &end);
                }
            }
        }
    }

    /// Accepts connections that wait at a listener.
    fn accept(&mut self, token: u64) {
        let services = Arc::clone(&self.services);
        let Some(listener) = services.listeners.get(token) else {
            return;
        };
        let stats = &services.stats.worker(self.index).totals;
        for _ in 0..services.config.size(Id::MaxNewConnections) {
            let (socket, endpoints) = match listener.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(error) => {
                    let reason = crate::config::os_text(&error);
                    services.log.write(
                        Level::Warning,
                        format_args!("Error accepting a client connection: {reason}"),
                    );
                    // Without a free descriptor the connection stays where it is and would be reported at once again.
                    std::thread::sleep(Duration::from_millis(1));
                    return;
                }
            };
            stats.connections.add(1);
            let target = services.clients.idlest_worker();
            let max = services.config.size(Id::MaxClients);
            let Some(id) = services.clients.admit(target, max) else {
                stats.rejected_connections.add(1);
                refuse(&socket, b"-ERR max number of clients reached\r\n");
                continue;
            };
            if target == self.index {
                self.adopt(id, socket, endpoints);
            } else {
                let message = Message::Connection(id, socket, endpoints);
                services.clients.mailbox(target).send(message);
            }
        }
    }

    /// Takes a connection over that was admitted for this worker.
    fn adopt(&mut self, id: u64, socket: OwnedFd, endpoints: Endpoints) {
        let services = &self.services;
        let needs_password = services.needs_password();
        let is_open =
            !services.config.is_set(Id::ProtectedMode) || needs_password || endpoints.is_local();
        let keepalive = u64::try_from(services.config.number(Id::TcpKeepalive)).unwrap_or(0);
        if keepalive > 0 && !endpoints.is_unix() {
            // A system that cannot probe serves the connection all the same.
            let _ = keep_alive(&socket, Duration::from_secs(keepalive));
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.generation = (self.generation + 1) & 0x7fff_ffff;
        let token = self.generation << 32 | place as u64;
        let client =
            services
                .clients
                .register(id, self.index, socket.as_raw_fd(), endpoints, unix_ms());
        if !is_open || self.poller.add(&socket, token, Interest::READ).is_err() {
            if !is_open {
                services
                    .stats
                    .worker(self.index)
                    .totals
                    .rejected_connections
                    .add(1);
                refuse(&socket, PROTECTED_TEXT.as_bytes());
            }
            services.clients.unregister(&client);
            self.free.push(place);
            return;
        }
        if services.log.is_written(Level::Debug) {
            let (peer, worker) = (client.endpoints.peer(), self.index);
            let text = format_args!("Accepted {peer}, served by worker {worker}");
            services.log.write(Level::Debug, text);
        }
        let session = Session::new(client, !needs_password);
        self.peers[place] = Some(Box::new(Peer::new(socket, session, token)));
    }

    fn place_of(&self, token: u64) -> Option<usize> {
        let place = usize::try_from(token & 0xffff_ffff).ok()?;
        self.peers
            .get(place)?
            .as_ref()
            .filter(|peer| peer.token == token)
            .map(|_| place)
    }

    fn serve(&mut self, token: u64, read: bool, write: bool) {
        let Some(place) = self.place_of(token) else {
            return;
        };
        let Some(peer) = &mut self.peers[place] else {
            return;
        };
        let outcome = peer.serve(&mut self.scratch, &self.services, &self.poller, read, write);
        if peer.is_postponed() && !self.postponed.contains(&token) {
            self.postponed.push(token);
        }
        if let Err(end) = outcome {
            self.scratch.abandon();
            self.close(place, &end);
        }
    }

    /// Goes on with the commands that waited for the end of a pause.
    fn resume(&mut self) {
        for token in std::mem::take(&mut self.postponed) {
            let Some(place) = self.place_of(token) else {
                continue;
            };
            let Some(peer) = &mut self.peers[place] else {
                continue;
            };
            let outcome = peer.resume(&mut self.scratch, &self.services, &self.poller);
            if peer.is_postponed() {
                self.postponed.push(token);
            }
            if let Err(end) = outcome {
                self.scratch.abandon();
                self.close(place, &end);
            }
        }
    }

    fn close(&mut self, place: usize, end: &End) {
        let Some(mut peer) = self.peers[place].take() else {
            return;
        };
        self.free.push(place);
        if let End::Failed(error) = end {
            let reason = crate::config::os_text(error);
            let peer = peer.session.client.endpoints.peer();
            self.services.log.write(
                Level::Verbose,
                format_args!("Client {peer} closed its connection: {reason}"),
            );
        }
        // The socket is closed next, which ends the waiting just as well.
        let _ = self.poller.remove(&peer.connection);
        crate::commands::transaction::unwatch_all(&mut peer.session, &self.services.keyspace);
        self.services.clients.unregister(&peer.session.client);
    }

    fn own_shards(&self) -> impl Iterator<Item = usize> + use<> {
        (self.index..self.services.keyspace.shards()).step_by(self.services.clients.workers())
    }

    /// Maintains this worker's shards and notes when that is due again.
    fn maintain(&mut self) {
        if self.services.cron_paused.load(Ordering::Relaxed) {
            self.maintenance_due = Some(Instant::now() + Duration::from_millis(100));
            return;
        }
        let began = Ticks::now();
        let keyspace = &self.services.keyspace;
        let now_ms = unix_ms();
        let mut due = None;
        let mut compacted = false;
        for shard in self.own_shards() {
            let (mut next, took) = keyspace.maintain_timed(shard, now_ms, MAINTENANCE_BUDGET);
            self.services.note_latency("expire-cycle", took.expiry);
            self.services
                .note_latency("active-defrag-cycle", took.compaction);
            compacted |= took.compaction > Duration::ZERO;
            let rests = match next {
                NextDue::After(after) => after > MAINTENANCE_REST,
                NextDue::Idle => true,
            };
            if rests {
                self.services
                    .idle_shards
                    .fetch_or(1 << shard, Ordering::Release);
                // Either the fence in `wake_maintainers` comes later, and the writer sees the bit, or this one does,
                // and what the write made due is seen here.
                fence(Ordering::SeqCst);
                next = keyspace.maintain(shard, now_ms, MAINTENANCE_BUDGET);
            }
            if let NextDue::After(after) = next {
                due = Some(due.map_or(after, |before: Duration| before.min(after)));
            }
        }
        self.maintenance_due = due.map(|after| Instant::now() + after);
        let totals = &self.services.stats.worker(self.index).totals;
        totals.maintenance_ticks.add(Ticks::now().since(began));
        if compacted {
            self.services.take_sample(uptime());
        }
    }

    /// After a write: shards that wanted no maintenance, or only much later, may want it soon.
    fn wake_maintainers(&mut self) {
        fence(Ordering::SeqCst);
        if self.services.idle_shards.load(Ordering::Relaxed) == 0 {
            return;
        }
        let idle = self.services.idle_shards.swap(0, Ordering::Acquire);
        let workers = self.services.clients.workers();
        for worker in 0..workers {
            let mut shards = (worker..self.services.keyspace.shards()).step_by(workers);
            if shards.any(|shard| idle >> shard & 1 == 1) {
                self.services.rouse(worker, self.index);
            }
        }
    }

    fn rouse_if_asked(&mut self) {
        if self.services.take_rouse(self.index) {
            let soon = Instant::now() + MAINTENANCE_DELAY;
            self.maintenance_due = Some(self.maintenance_due.map_or(soon, |due| due.min(soon)));
        }
    }

    /// Whether something about clients depends on time.
    fn needs_checks(&self) -> bool {
        let config = &self.services.config;
        self.scratch.check_wanted
            || config.is_set(Id::Timeout)
            || config.is_set(Id::MaxMemoryClients)
    }

    /// How often clients are looked over while that is needed: as `hz` says, less often if they are many.
    fn check_interval(&self) -> Duration {
        let hz = self.services.config.size(Id::Hz).clamp(1, 500);
        let by_clients = Duration::from_micros(self.peers.len() as u64 * 100);
        (Duration::from_secs(1) / hz as u32).max(by_clients)
    }

    /// Closes clients that were silent for too long, or did not read their replies for too long, and has others give
    /// up buffers that they do not use.
    fn check_clients(&mut self) {
        if self.services.cron_paused.load(Ordering::Relaxed) {
            self.check_due = Some(Instant::now() + self.check_interval());
            return;
        }
        let now_ms = unix_ms();
        let mut again = false;
        for place in 0..self.peers.len() {
            let Some(peer) = &mut self.peers[place] else {
                continue;
            };
            match peer.check(&self.services, now_ms) {
                Ok(wanted) => again |= wanted,
                Err(end) => self.close(place, &end),
            }
        }
        self.evict_clients();
        self.scratch.check_wanted = again;
        self.check_due = self
            .needs_checks()
            .then(|| Instant::now() + self.check_interval());
    }

    /// Closes the clients with the most memory while all clients together take more than `maxmemory-clients`.
    fn evict_clients(&mut self) {
        let services = Arc::clone(&self.services);
        let limit = match services.config.number(Id::MaxMemoryClients) {
            0 => return,
            percent if percent < 0 => {
                services.config.size(Id::MaxMemory) as u64 / 100 * percent.unsigned_abs()
            }
            bytes => bytes.unsigned_abs(),
        };
        let mut excess = services.clients.memory_bytes().saturating_sub(limit);
        if limit == 0 || excess == 0 {
            return;
        }
        let mut own: Vec<(usize, u64)> = Vec::new();
        for (place, peer) in self.peers.iter().enumerate() {
            let client = peer.as_ref().map(|peer| &peer.session.client);
            if let Some(client) =
                client.filter(|client| !client.flags().contains(ClientFlags::NO_EVICT))
            {
                own.push((place, client.memory_bytes() as u64));
            }
        }
        own.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        for (place, bytes) in own {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(bytes);
            services
                .stats
                .worker(self.index)
                .totals
                .evicted_clients
                .add(1);
            services.log.write(
                Level::Notice,
                format_args!("Evicting client of {bytes} bytes"),
            );
            self.close(place, &End::Closed);
        }
    }
}

fn refuse(socket: &OwnedFd, text: &[u8]) {
    // The client learns no more from a failure than from the close that follows.
    let _ = rustix::io::write(socket, text);
}

const PROTECTED_TEXT: &str = "-DENIED Protected mode is on and the default user has no password, so only clients of \
    this machine are served. To serve others, set a password with 'requirepass', or list the addresses to listen on \
    with 'bind' and turn 'protected-mode' off, in the configuration file or with CONFIG SET from this machine.\r\n";

/// Figures of a worker, for those below.
fn stats_of<'s>(services: &'s Services, session: &Session) -> &'s WorkerStats {
    services.stats.worker(session.client.worker)
}
