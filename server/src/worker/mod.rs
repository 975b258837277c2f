//! One worker: a thread with its own event loop, its own connections, and its own buffers.
//!
//! ```text
//! wait -> read once per ready socket -> parse what is whole -> fetch the keys' cache lines -> run in order
//!      -> write once per socket ([`sweep`]) -> maintain the worker's shards when that is due -> wait
//! ```
//!
//! The first worker also accepts connections and hands each to the worker with the fewest.

mod accept;
mod checks;
mod peer;
mod round;
mod scratch;
mod sweep;
mod upkeep;

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::clients::Message;
use crate::clock::{Ticks, ticks_to_ns, unix_ms, uptime};
use crate::commands::config::end_pause;
use crate::commands::context::Services;
use crate::config::directive::Id;
use crate::heap;
use crate::listeners::Listeners;
use crate::log::Level;
use crate::net::poll::{Events, Poller, Waker};
use crate::observe::rates::SAMPLE_INTERVAL;
use crate::observe::slowlog::Watch;
use crate::observe::stats::WorkerStats;
use crate::session::Session;
use crate::signals::{SIGNALS_TOKEN, Signals};

use peer::{End, Peer};
use scratch::Scratch;
use sweep::Taken;

/// Token of the worker's waker.
pub(crate) const WAKER_TOKEN: u64 = u64::MAX;

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
    /// When the history is looked after; `None` while nothing happens.
    history_due: Option<Instant>,
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
            history_due: None,
        }
    }

    /// Serves until the server stops.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let services = Arc::clone(&self.services);
        let stats = services.stats.worker(self.index);
        let mut events = Events::new();
        let mut now = Instant::now();
        let mut watched = None;
        // Acquire meets the Release of `Services::stop`.
        while !services.stop.load(Ordering::Acquire) {
            self.poller.wait(&mut events, self.timeout(now))?;
            let (began, commands) = (Ticks::now(), stats.totals.commands.get());
            let is_old = |at| ticks_to_ns(began.since(at)) >= Watch::OLD_NS;
            if services.config.number(Id::SlowlogSlowerThan) >= 0 && watched.is_none_or(is_old) {
                watched = Some(began);
                stats.watch.look();
            }
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
            self.history_due,
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
                heap::rest();
            }
        }
        if self.shrink_due.is_none() && (busy || self.scratch.is_grown()) {
            self.shrink_due = Some(now + SHRINK_INTERVAL);
        }
        if busy && self.sample_due <= now {
            self.sample_due = now + SAMPLE_INTERVAL;
            self.services.take_sample(uptime());
        }
        let more = self.history_due.is_some_and(|due| due <= now) && {
            self.history_due = None;
            self.services.look()
        };
        if self.history_due.is_none() && (busy || more) {
            self.history_due = Some(now + until_next_second());
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
}

/// How long it is until the next second since the start has surely begun.
fn until_next_second() -> Duration {
    /// The system may round a wait to a millisecond.
    const ROUNDING: Duration = Duration::from_millis(2);
    let passed = Duration::from_nanos(u64::from(uptime().subsec_nanos()));
    Duration::from_secs(1) - passed + ROUNDING
}

/// Figures of a worker, for those below.
fn stats_of<'s>(services: &'s Services, session: &Session) -> &'s WorkerStats {
    services.stats.worker(session.client.worker)
}
