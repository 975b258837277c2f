//! One worker: a thread with its own event loop, its own connections, and its own buffers.
//!
//! ```text
//! wait -> read once per ready socket -> parse what is whole -> fetch the keys' cache lines -> run in order
//!      -> write once per socket -> maintain the worker's shards when that is due -> wait
//! ```

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvstore::{KeyHash, NextDue, ShardSet};
use smallvec::SmallVec;

use crate::clients::Message;
use crate::clock::unix_ms;
use crate::commands::args::Args;
use crate::commands::context::{Context, Services};
use crate::commands::dispatch;
use crate::commands::lookup::Found;
use crate::net::connection::{Connection, Partial, ReadOutcome};
use crate::net::poll::{Events, Interest, Poller, Waker};
use crate::net::socket::Endpoints;
use crate::resp::parse::{Limits, Parser, Progress, ProtocolError, Span};
use crate::resp::reply::Reply;
use crate::session::{Fate, Session};

/// Token of the worker's waker.
pub(crate) const WAKER_TOKEN: u64 = u64::MAX;

/// Bytes read from a socket at once.
const READ_BYTES: usize = 64 * 1024;

/// Capacity that the reply buffer keeps between batches, in bytes.
const REPLY_KEEP_BYTES: usize = 256 * 1024;

/// Replies are handed to the socket once they exceed this, even in the middle of a batch, in bytes.
const REPLY_FLUSH_BYTES: usize = 128 * 1024;

/// Most commands parsed before they are run: enough to overlap the cache misses of their keys.
const BATCH_COMMANDS: usize = 32;

/// Most time spent on one shard's maintenance at a time.
const MAINTENANCE_BUDGET: Duration = Duration::from_micros(500);

/// A connection and its client's state.
struct Peer {
    connection: Connection,
    session: Session,
    interest: Interest,
    /// Tells this connection from earlier ones in the same place.
    token: u64,
}

/// What ends a connection.
enum End {
    /// It was asked for, or the client went.
    Closed,
    /// The socket failed.
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// A worker's thread-local world.
pub(crate) struct Worker {
    index: usize,
    services: Arc<Services>,
    stop: Arc<AtomicBool>,
    poller: Poller,
    waker: Waker,
    peers: Vec<Option<Box<Peer>>>,
    free: Vec<usize>,
    generation: u32,
    scratch: Scratch,
}

/// Buffers that all connections of a worker share.
struct Scratch {
    input: Vec<u8>,
    spans: Vec<Span>,
    reply: Reply,
}

impl Worker {
    /// A worker that waits with `poller`, where `waker` is registered.
    pub(crate) fn new(
        index: usize,
        services: Arc<Services>,
        stop: Arc<AtomicBool>,
        poller: Poller,
        waker: Waker,
    ) -> Self {
        let scratch = Scratch {
            input: vec![0; READ_BYTES],
            spans: Vec::new(),
            reply: Reply::new(),
        };
        Self {
            index,
            services,
            stop,
            poller,
            waker,
            peers: Vec::new(),
            free: Vec::new(),
            generation: 0,
            scratch,
        }
    }

    /// Serves until it is told to stop.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut due = Some(Instant::now());
        let mut events = Events::new();
        while !self.stop.load(Ordering::Acquire) {
            let timeout = due.map(|at| at.saturating_duration_since(Instant::now()));
            self.poller.wait(&mut events, timeout)?;
            for ready in events.iter() {
                if ready.token == WAKER_TOKEN {
                    self.waker.drain();
                    self.receive();
                } else {
                    self.serve(ready.token, ready.read, ready.write);
                }
            }
            if events.iter().len() > 0 || due.is_some_and(|at| at <= Instant::now()) {
                due = self.maintain();
            }
        }
        Ok(())
    }

    /// Deals with what other workers asked for.
    fn receive(&mut self) {
        for message in self.services.clients.mailbox(self.index).take() {
            match message {
                Message::Connection(socket, endpoints) => self.adopt(socket, endpoints),
            }
        }
    }

    fn adopt(&mut self, socket: OwnedFd, endpoints: Endpoints) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.generation = self.generation.wrapping_add(1) & 0x7fff_ffff;
        let token = u64::from(self.generation) << 32 | place as u64;
        let client =
            self.services
                .clients
                .register(self.index, socket.as_raw_fd(), endpoints, unix_ms());
        if self.poller.add(&socket, token, Interest::READ).is_err() {
            self.services.clients.unregister(&client);
            self.free.push(place);
            return;
        }
        let session = Session::new(client, true);
        let connection = Connection::new(socket);
        self.peers[place] = Some(Box::new(Peer {
            connection,
            session,
            interest: Interest::READ,
            token,
        }));
    }

    fn serve(&mut self, token: u64, read: bool, write: bool) {
        let place = (token & 0xffff_ffff) as usize;
        let Some(Some(peer)) = self.peers.get_mut(place) else {
            return;
        };
        if peer.token != token {
            return;
        }
        let outcome = serve_peer(
            peer,
            &mut self.scratch,
            &self.services,
            self.index,
            &self.poller,
            read,
            write,
        );
        if let Err(end) = outcome {
            if let End::Failed(_error) = end {}
            let _ = self.poller.remove(&peer.connection);
            self.services.clients.unregister(&peer.session.client);
            self.peers[place] = None;
            self.free.push(place);
        }
    }

    /// Maintains this worker's shards; returns when that is due again.
    fn maintain(&mut self) -> Option<Instant> {
        let keyspace = &self.services.keyspace;
        let now_ms = unix_ms();
        let mut due = None;
        for shard in (self.index..keyspace.shards()).step_by(self.services.clients.workers()) {
            if let NextDue::After(after) = keyspace.maintain(shard, now_ms, MAINTENANCE_BUDGET) {
                due = due.map_or(Some(after), |before: Duration| Some(before.min(after)));
            }
        }
        due.map(|after| Instant::now() + after)
    }
}

fn serve_peer(
    peer: &mut Peer,
    scratch: &mut Scratch,
    services: &Services,
    worker: usize,
    poller: &Poller,
    read: bool,
    write: bool,
) -> Result<(), End> {
    if write {
        peer.connection.flush()?;
    }
    if read {
        match peer.connection.partial.take() {
            None => {
                let outcome = peer.connection.read_shared(&mut scratch.input)?;
                if let ReadOutcome::Closed = outcome {
                    return Err(End::Closed);
                }
                if let ReadOutcome::Bytes(count) = outcome {
                    let Scratch {
                        input,
                        spans,
                        reply,
                    } = scratch;
                    spans.clear();
                    let mut round = Round {
                        peer,
                        spans,
                        reply,
                        services,
                        worker,
                    };
                    let input = &mut input[..count];
                    if let Some(left) = round.process(input, Parser::default())? {
                        let bytes = input[left.start..].to_vec();
                        round.keep(bytes, left);
                    }
                }
            }
            Some(mut partial) => match peer.connection.read_partial(&mut partial)? {
                ReadOutcome::Closed => return Err(End::Closed),
                ReadOutcome::Blocked => peer.connection.partial = Some(partial),
                ReadOutcome::Bytes(_) => {
                    let Partial {
                        mut bytes,
                        mut spans,
                        parser,
                        ..
                    } = *partial;
                    let reply = &mut scratch.reply;
                    let mut round = Round {
                        peer,
                        spans: &mut spans,
                        reply,
                        services,
                        worker,
                    };
                    if let Some(left) = round.process(&mut bytes, parser)? {
                        bytes.drain(..left.start);
                        round.keep(bytes, left);
                    }
                }
            },
        }
    }
    if !scratch.reply.bytes().is_empty() {
        peer.connection.send(scratch.reply.bytes())?;
        scratch.reply.reset(REPLY_KEEP_BYTES);
    }
    if peer.session.fate == Fate::CloseNow
        || (peer.session.fate == Fate::CloseAfterReply && peer.connection.output().is_none())
    {
        return Err(End::Closed);
    }
    let interest = Interest {
        read: peer.session.fate == Fate::Live,
        write: peer.connection.output().is_some(),
    };
    if interest != peer.interest {
        poller.modify(&peer.connection, peer.token, interest)?;
        peer.interest = interest;
    }
    Ok(())
}

/// What is left over at the end of a read: the beginning of a command.
struct Leftover {
    start: usize,
    parser: Parser,
    missing: usize,
}

/// One read's worth of requests.
struct Round<'r> {
    peer: &'r mut Peer,
    spans: &'r mut Vec<Span>,
    reply: &'r mut Reply,
    services: &'r Services,
    worker: usize,
}

impl Round<'_> {
    /// Runs all whole commands in `input`. `spans` holds the arguments found of the first one so far.
    fn process(&mut self, input: &mut [u8], mut parser: Parser) -> Result<Option<Leftover>, End> {
        let mut start = 0;
        loop {
            let limits = Limits {
                bulk_max_bytes: self.services.config.bulk_max_bytes.load(Ordering::Relaxed),
                unauthenticated: !self.peer.session.authenticated,
            };
            let batch_max = if limits.unauthenticated {
                1
            } else {
                BATCH_COMMANDS
            };
            let mut ends: SmallVec<[usize; BATCH_COMMANDS]> = SmallVec::new();
            let mut stop = None;
            while ends.len() < batch_max {
                match parser.advance(input, self.spans, &limits) {
                    Ok(Progress::Command) => {
                        ends.push(self.spans.len());
                        start = parser.position();
                    }
                    Ok(Progress::Nothing) => start = parser.position(),
                    Ok(Progress::Incomplete { missing }) => {
                        stop = Some(Ok(missing));
                        break;
                    }
                    Err(error) => {
                        stop = Some(Err(error));
                        break;
                    }
                }
            }
            self.execute(input, &ends)?;
            self.spans.drain(..ends.last().copied().unwrap_or(0));
            if self.peer.session.fate != Fate::Live {
                return Ok(None);
            }
            match stop {
                None => {}
                Some(Ok(_)) if start == input.len() => return Ok(None),
                Some(Ok(missing)) => {
                    return Ok(Some(Leftover {
                        start,
                        parser,
                        missing,
                    }));
                }
                Some(Err(error)) => {
                    self.refuse(error);
                    return Ok(None);
                }
            }
        }
    }

    /// Runs commands whose arguments end at `ends` in the list of spans.
    fn execute(&mut self, input: &[u8], ends: &[usize]) -> Result<(), End> {
        if ends.is_empty() {
            return Ok(());
        }
        let services = self.services;
        if ends.len() > 1 {
            let mut hashes: SmallVec<[KeyHash; 2 * BATCH_COMMANDS]> = SmallVec::new();
            let mut from = 0;
            for &end in ends {
                let args = Args::new(input, &self.spans[from..end]);
                if let Found::Command(command) = services.commands.find(args) {
                    command.each_key(args, |at| {
                        hashes.push(services.keyspace.key(args.get(at)).hash())
                    });
                }
                from = end;
            }
            services.keyspace.prefetch(self.peer.session.db, &hashes);
        }
        self.reply.set_protocol(self.peer.session.protocol);
        let mut ctx = Context {
            session: &mut self.peer.session,
            reply: self.reply,
            locked: services.keyspace.lock(ShardSet::EMPTY),
            now_ms: unix_ms(),
            services,
            stats: &services.stats[self.worker],
            command: u16::MAX,
        };
        let mut from = 0;
        for &end in ends {
            dispatch::run(&mut ctx, Args::new(input, &self.spans[from..end]));
            from = end;
            if ctx.session.fate != Fate::Live {
                break;
            }
            if ctx.reply.len() > REPLY_FLUSH_BYTES {
                self.peer.connection.send(ctx.reply.bytes())?;
                ctx.reply.reset(REPLY_KEEP_BYTES);
            }
        }
        Ok(())
    }

    /// Tells the client that its request cannot be understood, and closes the connection.
    fn refuse(&mut self, error: ProtocolError) {
        self.reply
            .error(format!("ERR Protocol error: {error}").as_bytes());
        self.peer.session.fate = Fate::CloseAfterReply;
    }

    /// Keeps the beginning of a command until more of it comes. `bytes` begins where the command does.
    fn keep(&mut self, bytes: Vec<u8>, left: Leftover) {
        let mut parser = left.parser;
        parser.rebase(left.start);
        let mut spans = std::mem::take(self.spans);
        for span in &mut spans {
            span.start -= left.start;
        }
        self.peer.connection.partial = Some(Box::new(Partial {
            bytes,
            spans,
            parser,
            missing: left.missing,
        }));
    }
}
