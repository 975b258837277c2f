//! All connected clients, as any worker may see them, and the mailboxes by which workers reach one another.
//!
//! The worker that owns a connection publishes its figures here with relaxed stores: each has one writer, and a reader
//! on another worker needs no more than a recent value. What another worker wants done to a client goes to the owner's
//! [`Mailbox`] as a [`Message`].

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

use bitflags::bitflags;
use parking_lot::Mutex;

use crate::net::poll::Waker;
use crate::net::socket::Endpoints;

bitflags! {
    /// States of a client that CLIENT LIST shows as letters.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct ClientFlags: u32 {
        /// Watches all commands.
        const MONITOR = 1 << 0;
        /// Between MULTI and EXEC.
        const MULTI = 1 << 1;
        /// Waits for the end of a pause.
        const BLOCKED = 1 << 2;
        /// A watched key has changed.
        const DIRTY = 1 << 3;
        /// To be closed when its replies are sent.
        const CLOSE_AFTER_REPLY = 1 << 4;
        /// To be closed.
        const CLOSE_ASAP = 1 << 5;
        /// Connected through a Unix socket.
        const UNIX = 1 << 6;
        /// Not to be closed when clients take too much memory.
        const NO_EVICT = 1 << 7;
        /// Its reads do not count as uses of keys.
        const NO_TOUCH = 1 << 8;
    }
}

impl ClientFlags {
    /// The letters, in Redis's order; `N` for none.
    pub(crate) fn letters(self) -> String {
        const LETTERS: [(ClientFlags, char); 9] = [
            (ClientFlags::MONITOR, 'O'),
            (ClientFlags::MULTI, 'x'),
            (ClientFlags::BLOCKED, 'b'),
            (ClientFlags::DIRTY, 'd'),
            (ClientFlags::CLOSE_AFTER_REPLY, 'c'),
            (ClientFlags::CLOSE_ASAP, 'A'),
            (ClientFlags::UNIX, 'U'),
            (ClientFlags::NO_EVICT, 'e'),
            (ClientFlags::NO_TOUCH, 'T'),
        ];
        let set = LETTERS.iter().filter(|(flag, _)| self.contains(*flag));
        let letters: String = set.map(|(_, letter)| letter).collect();
        if letters.is_empty() {
            "N".into()
        } else {
            letters
        }
    }
}

/// What a client calls itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Labels {
    /// Set by CLIENT SETNAME or HELLO.
    pub(crate) name: Vec<u8>,
    /// Set by CLIENT SETINFO LIB-NAME.
    pub(crate) library: Vec<u8>,
    /// Set by CLIENT SETINFO LIB-VER.
    pub(crate) library_version: Vec<u8>,
}

/// A connected client, as other workers see it.
#[derive(Debug)]
pub(crate) struct Client {
    /// Unique number, ascending in order of connection.
    pub(crate) id: u64,
    /// The worker that owns the connection.
    pub(crate) worker: usize,
    /// Number of the socket.
    pub(crate) fd: i32,
    /// Both addresses.
    pub(crate) endpoints: Endpoints,
    /// When it connected, in milliseconds of Unix time.
    pub(crate) connected_ms: u64,
    labels: Mutex<Option<Box<Labels>>>,
    killed: AtomicBool,
    /// When it last sent a command, in milliseconds of Unix time.
    pub(crate) active_ms: AtomicU64,
    /// Database.
    pub(crate) db: AtomicU32,
    /// Bits of [`ClientFlags`].
    pub(crate) flags: AtomicU32,
    /// Index of the last command in the table, [`NO_COMMAND`] for none.
    pub(crate) last_command: AtomicU16,
    /// Protocol version.
    pub(crate) protocol: AtomicU16,
    /// Queued commands of its transaction, -1 outside of one.
    pub(crate) queued: AtomicI64,
    /// Bytes of these commands' arguments.
    pub(crate) queued_bytes: AtomicUsize,
    /// Keys watched.
    pub(crate) watched: AtomicU32,
    /// Bytes of a partial command.
    pub(crate) query_bytes: AtomicUsize,
    /// Room for a partial command beyond its bytes.
    pub(crate) query_free_bytes: AtomicUsize,
    /// Bytes held for replies that the socket did not take yet.
    pub(crate) output_bytes: AtomicUsize,
    /// Pieces in which they are held.
    pub(crate) output_pieces: AtomicU32,
    /// Bytes received.
    pub(crate) received_bytes: AtomicU64,
    /// Bytes sent.
    pub(crate) sent_bytes: AtomicU64,
    /// Commands run.
    pub(crate) commands: AtomicU64,
}

/// What a worker holds for a connection without its buffers: the socket and the session. The worker checks it.
pub(crate) const CONNECTION_BYTES: usize = 88;

/// In the place of a command's index: no command yet.
pub(crate) const NO_COMMAND: u16 = u16::MAX;

impl Client {
    fn new(id: u64, worker: usize, fd: i32, endpoints: Endpoints, now_ms: u64) -> Self {
        let mut flags = ClientFlags::empty();
        flags.set(ClientFlags::UNIX, endpoints.is_unix());
        Self {
            id,
            worker,
            fd,
            endpoints,
            connected_ms: now_ms,
            labels: Mutex::new(None),
            killed: AtomicBool::new(false),
            active_ms: AtomicU64::new(now_ms),
            db: AtomicU32::new(0),
            flags: AtomicU32::new(flags.bits()),
            last_command: AtomicU16::new(NO_COMMAND),
            protocol: AtomicU16::new(2),
            queued: AtomicI64::new(-1),
            queued_bytes: AtomicUsize::new(0),
            watched: AtomicU32::new(0),
            query_bytes: AtomicUsize::new(0),
            query_free_bytes: AtomicUsize::new(0),
            output_bytes: AtomicUsize::new(0),
            output_pieces: AtomicU32::new(0),
            received_bytes: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            commands: AtomicU64::new(0),
        }
    }

    /// What it calls itself.
    pub(crate) fn labels(&self) -> Labels {
        self.labels.lock().as_deref().cloned().unwrap_or_default()
    }

    /// Changes what it calls itself.
    pub(crate) fn relabel(&self, change: impl FnOnce(&mut Labels)) {
        let mut labels = self.labels.lock();
        let mut next = labels.take().unwrap_or_default();
        change(&mut next);
        let blank =
            next.name.is_empty() && next.library.is_empty() && next.library_version.is_empty();
        *labels = (!blank).then_some(next);
    }

    /// Its states.
    pub(crate) fn flags(&self) -> ClientFlags {
        ClientFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    /// Sets or clears a state. Only the owner calls this.
    pub(crate) fn set_flag(&self, flag: ClientFlags, on: bool) {
        let mut flags = self.flags();
        flags.set(flag, on);
        self.flags.store(flags.bits(), Ordering::Relaxed);
    }

    /// Whether another client asked for its end.
    #[inline]
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Relaxed)
    }

    /// Bytes that the server holds for it, its record included.
    pub(crate) fn memory_bytes(&self) -> usize {
        /// This record with its two counts of references, and the places in the lists of clients and of connections.
        const RECORD_BYTES: usize = size_of::<Client>() + 16 + 32;
        RECORD_BYTES
            + CONNECTION_BYTES
            + self.query_bytes.load(Ordering::Relaxed)
            + self.query_free_bytes.load(Ordering::Relaxed)
            + self.output_bytes.load(Ordering::Relaxed)
            + self.queued_bytes.load(Ordering::Relaxed)
    }
}

/// What one worker asks of another.
#[derive(Debug)]
pub(crate) enum Message {
    /// Serve this socket as the client of this number.
    Connection(u64, OwnedFd, Endpoints),
    /// Close this client's connection.
    Kill(u64),
    /// Show this line to all clients that watch commands.
    Show(Arc<[u8]>),
}

/// A worker's mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    messages: Mutex<Vec<Message>>,
    waker: Waker,
}

impl Mailbox {
    /// An empty mailbox whose owner is woken through `waker`.
    pub(crate) fn new(waker: Waker) -> Self {
        Self {
            messages: Mutex::new(Vec::new()),
            waker,
        }
    }

    /// Leaves a message and wakes the owner.
    pub(crate) fn send(&self, message: Message) {
        self.messages.lock().push(message);
        self.waker.wake();
    }

    /// Wakes the owner without a message.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Takes all messages, for the owner.
    pub(crate) fn take(&self) -> Vec<Message> {
        std::mem::take(&mut *self.messages.lock())
    }
}

/// The clients of one worker and its mailbox.
#[derive(Debug)]
struct Desk {
    clients: Mutex<BTreeMap<u64, Arc<Client>>>,
    /// Connections accepted for this worker and not closed yet.
    count: AtomicUsize,
    /// How many of them watch all commands.
    monitors: AtomicUsize,
    mailbox: Mailbox,
}

/// A time in which clients have to wait with their commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pause {
    /// When it ends, in milliseconds of Unix time.
    pub(crate) until_ms: u64,
    /// Whether all commands wait, or only those that write.
    pub(crate) all: bool,
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    desks: Box<[Desk]>,
    next_id: AtomicU64,
    count: AtomicUsize,
    monitors: AtomicUsize,
    paused: AtomicBool,
    pause: Mutex<Option<Pause>>,
}

impl Clients {
    /// No clients yet; one mailbox per worker.
    pub(crate) fn new(mailboxes: Vec<Mailbox>) -> Self {
        let desks = mailboxes.into_iter().map(|mailbox| Desk {
            clients: Mutex::new(BTreeMap::new()),
            count: AtomicUsize::new(0),
            monitors: AtomicUsize::new(0),
            mailbox,
        });
        Self {
            desks: desks.collect(),
            next_id: AtomicU64::new(1),
            count: AtomicUsize::new(0),
            monitors: AtomicUsize::new(0),
            paused: AtomicBool::new(false),
            pause: Mutex::new(None),
        }
    }

    /// Number of workers.
    pub(crate) fn workers(&self) -> usize {
        self.desks.len()
    }

    /// The mailbox of `worker`.
    pub(crate) fn mailbox(&self, worker: usize) -> &Mailbox {
        &self.desks[worker].mailbox
    }

    /// Number of clients of `worker`.
    pub(crate) fn len_of(&self, worker: usize) -> usize {
        self.desks[worker].count.load(Ordering::Relaxed)
    }

    /// The worker with the fewest clients.
    pub(crate) fn idlest_worker(&self) -> usize {
        (0..self.desks.len())
            .min_by_key(|&worker| self.len_of(worker))
            .unwrap_or(0)
    }

    /// Number of clients connected.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts a connection that `worker` is about to serve, and gives it a number; `None` if `max` are connected
    /// already.
    pub(crate) fn admit(&self, worker: usize, max: usize) -> Option<u64> {
        if self.count.fetch_add(1, Ordering::Relaxed) >= max {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        self.desks[worker].count.fetch_add(1, Ordering::Relaxed);
        Some(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Registers an admitted client of `worker`.
    pub(crate) fn register(
        &self,
        id: u64,
        worker: usize,
        fd: i32,
        endpoints: Endpoints,
        now_ms: u64,
    ) -> Arc<Client> {
        let client = Arc::new(Client::new(id, worker, fd, endpoints, now_ms));
        self.desks[worker]
            .clients
            .lock()
            .insert(id, Arc::clone(&client));
        client
    }

    /// Forgets a client whose connection is closed.
    pub(crate) fn unregister(&self, client: &Client) {
        self.strike(client);
        if client.flags().contains(ClientFlags::MONITOR) {
            self.desks[client.worker]
                .monitors
                .fetch_sub(1, Ordering::Relaxed);
            self.monitors.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes a client off the list; whether it was on it.
    fn strike(&self, client: &Client) -> bool {
        let desk = &self.desks[client.worker];
        let listed = desk.clients.lock().remove(&client.id).is_some();
        if listed {
            desk.count.fetch_sub(1, Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        listed
    }

    /// Has a client's connection closed by its worker. From now on it is neither listed nor counted.
    pub(crate) fn kill(&self, client: &Client) {
        client.killed.store(true, Ordering::Relaxed);
        if self.strike(client) {
            self.desks[client.worker]
                .mailbox
                .send(Message::Kill(client.id));
        }
    }

    /// All clients, in order of connection.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        let mut all = Vec::with_capacity(self.len());
        for desk in &self.desks {
            all.extend(desk.clients.lock().values().cloned());
        }
        all.sort_by_key(|client| client.id);
        all
    }

    /// Makes a client one that watches all commands. Called by its owner.
    pub(crate) fn add_monitor(&self, client: &Client) {
        if !client.flags().contains(ClientFlags::MONITOR) {
            client.set_flag(ClientFlags::MONITOR, true);
            self.desks[client.worker]
                .monitors
                .fetch_add(1, Ordering::Relaxed);
            self.monitors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes a client an ordinary one again. Called by its owner.
    pub(crate) fn remove_monitor(&self, client: &Client) {
        if client.flags().contains(ClientFlags::MONITOR) {
            client.set_flag(ClientFlags::MONITOR, false);
            self.desks[client.worker]
                .monitors
                .fetch_sub(1, Ordering::Relaxed);
            self.monitors.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether any client watches all commands.
    #[inline]
    pub(crate) fn is_monitored(&self) -> bool {
        self.monitors.load(Ordering::Relaxed) > 0
    }

    /// Shows a line to all clients that watch all commands.
    pub(crate) fn show(&self, line: Vec<u8>) {
        let line: Arc<[u8]> = line.into();
        for desk in &self.desks {
            if desk.monitors.load(Ordering::Relaxed) > 0 {
                desk.mailbox.send(Message::Show(Arc::clone(&line)));
            }
        }
    }

    /// Number of clients that watch keys, and how many keys they watch together.
    pub(crate) fn watching(&self) -> (usize, u64) {
        let watched = |client: &Arc<Client>| u64::from(client.watched.load(Ordering::Relaxed));
        self.all()
            .iter()
            .map(watched)
            .filter(|&keys| keys > 0)
            .fold((0, 0), |(n, sum), keys| (n + 1, sum + keys))
    }

    /// Number of clients whose commands wait for the end of a pause.
    pub(crate) fn blocked(&self) -> usize {
        let blocked = |client: &&Arc<Client>| client.flags().contains(ClientFlags::BLOCKED);
        self.all().iter().filter(blocked).count()
    }

    /// Bytes that the server holds for all clients.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let bytes_of = |desk: &Desk| -> usize {
            let clients = desk.clients.lock();
            clients.values().map(|client| client.memory_bytes()).sum()
        };
        self.desks.iter().map(|desk| bytes_of(desk) as u64).sum()
    }

    /// Whether a pause was begun and not ended.
    #[inline]
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The pause that is in force.
    #[inline]
    pub(crate) fn pause(&self) -> Option<Pause> {
        if !self.is_paused() {
            return None;
        }
        *self.pause.lock()
    }

    /// Begins a pause, or extends the one in force: the later end holds, and the stricter kind.
    pub(crate) fn begin_pause(&self, pause: Pause, now_ms: u64) {
        let mut current = self.pause.lock();
        let before = current.filter(|before| before.until_ms > now_ms);
        *current = Some(match before {
            Some(before) => Pause {
                until_ms: before.until_ms.max(pause.until_ms),
                all: before.all || pause.all,
            },
            None => pause,
        });
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Ends the pause and wakes all workers, which let go of the commands that wait.
    pub(crate) fn end_pause(&self) {
        *self.pause.lock() = None;
        self.paused.store(false, Ordering::Relaxed);
        self.wake_all();
    }

    /// Wakes all workers.
    pub(crate) fn wake_all(&self) {
        self.desks.iter().for_each(|desk| desk.mailbox.wake());
    }
}
