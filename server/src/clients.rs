//! All connected clients, as any worker may see them, and the mailboxes by which workers reach one another.
//!
//! The worker that owns a connection publishes its figures here with relaxed stores: each has one writer, and a reader
//! on another worker needs no more than a recent value. What another worker wants done to a client goes to the owner's
//! [`Mailbox`] as a [`Message`].

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::net::poll::Waker;
use crate::net::socket::Endpoints;

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
    /// When it last sent a command, in milliseconds of Unix time.
    pub(crate) active_ms: AtomicU64,
    /// Database.
    pub(crate) db: AtomicU32,
    /// Bits of [`ClientFlags`].
    pub(crate) flags: AtomicU32,
    /// Index of the last command in the table, `u16::MAX` for none.
    pub(crate) last_command: AtomicU16,
    /// Protocol version.
    pub(crate) protocol: AtomicU16,
    /// Queued commands of its transaction, -1 outside of one.
    pub(crate) queued: AtomicI64,
    /// Keys watched.
    pub(crate) watched: AtomicU32,
    /// Bytes of a partial command.
    pub(crate) query_bytes: AtomicUsize,
    /// Room for a partial command beyond its bytes.
    pub(crate) query_free_bytes: AtomicUsize,
    /// Bytes of replies that the socket did not take yet.
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

impl Client {
    /// A client that has just connected.
    pub(crate) fn new(id: u64, worker: usize, fd: i32, endpoints: Endpoints, now_ms: u64) -> Self {
        Self {
            id,
            worker,
            fd,
            endpoints,
            connected_ms: now_ms,
            labels: Mutex::new(None),
            active_ms: AtomicU64::new(now_ms),
            db: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            last_command: AtomicU16::new(u16::MAX),
            protocol: AtomicU16::new(2),
            queued: AtomicI64::new(-1),
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
}

/// What one worker asks of another.
#[derive(Debug)]
pub(crate) enum Message {
    /// Serve this socket.
    Connection(OwnedFd, Endpoints),
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
    count: AtomicUsize,
    mailbox: Mailbox,
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    desks: Box<[Desk]>,
    next_id: AtomicU64,
    count: AtomicUsize,
}

impl Clients {
    /// No clients yet; one mailbox per worker.
    pub(crate) fn new(mailboxes: Vec<Mailbox>) -> Self {
        let desks = mailboxes
            .into_iter()
            .map(|mailbox| Desk {
                clients: Mutex::new(BTreeMap::new()),
                count: AtomicUsize::new(0),
                mailbox,
            })
            .collect();
        Self {
            desks,
            next_id: AtomicU64::new(1),
            count: AtomicUsize::new(0),
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

    /// The worker with the fewest clients.
    pub(crate) fn idlest_worker(&self) -> usize {
        let load = |worker: &usize| self.desks[*worker].count.load(Ordering::Relaxed);
        (0..self.desks.len()).min_by_key(load).unwrap_or(0)
    }

    /// Number of clients connected.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts a connection that `worker` is about to serve, unless `max` are connected already.
    pub(crate) fn admit(&self, worker: usize, max: usize) -> bool {
        if self.count.fetch_add(1, Ordering::Relaxed) >= max {
            self.count.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        self.desks[worker].count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Registers an admitted client of `worker`.
    pub(crate) fn register(
        &self,
        worker: usize,
        fd: i32,
        endpoints: Endpoints,
        now_ms: u64,
    ) -> Arc<Client> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let client = Arc::new(Client::new(id, worker, fd, endpoints, now_ms));
        self.desks[worker]
            .clients
            .lock()
            .insert(id, Arc::clone(&client));
        client
    }

    /// Forgets a client.
    pub(crate) fn unregister(&self, client: &Client) {
        let desk = &self.desks[client.worker];
        if desk.clients.lock().remove(&client.id).is_some() {
            desk.count.fetch_sub(1, Ordering::Relaxed);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// All clients, in order of connection.
    pub(crate) fn all(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self
            .desks
            .iter()
            .flat_map(|desk| desk.clients.lock().values().cloned().collect::<Vec<_>>())
            .collect();
        all.sort_by_key(|client| client.id);
        all
    }
}
