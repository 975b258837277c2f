//! One round: all whole commands of what was read, in batches, each parsed, prefetched and run in order.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvstore::{Key, KeyHash, ShardSet};
use smallvec::SmallVec;

use crate::clients::NO_COMMAND;
use crate::clock::{Ticks, unix_ms};
use crate::commands::args::Args;
use crate::commands::context::{Context, Services, Thresholds};
use crate::commands::dispatch::{self, Outcome};
use crate::commands::lookup::Found;
use crate::config::directive::Id;
use crate::log::Level;
use crate::resp::parse::{Limits, Parser, Progress, ProtocolError, Span};
use crate::resp::reply::Reply;
use crate::session::{Fate, Session};
use crate::worker::peer::{End, Peer};
use crate::worker::stats_of;

/// Most commands parsed before they are run: enough to overlap the cache misses of their keys.
pub(crate) const BATCH_COMMANDS: usize = 32;

/// Replies are handed to the socket once they exceed this, even in the middle of a batch, in bytes.
pub(crate) const REPLY_FLUSH_BYTES: usize = 128 * 1024;

/// What is left over at the end of a round: the beginning of a command, or commands that have to wait.
#[derive(Debug)]
pub(crate) struct Leftover {
    /// Where it begins.
    pub(crate) start: usize,
    /// The parser's place in it.
    pub(crate) parser: Parser,
    /// How many bytes have to follow at least.
    pub(crate) missing: usize,
    /// Whether it waits for the end of a pause, not for bytes.
    pub(crate) postponed: bool,
}

impl Leftover {
    /// Commands from `start` on that wait for the end of a pause.
    pub(crate) fn postponed(start: usize) -> Self {
        Self {
            start,
            parser: Parser::at(start),
            missing: 0,
            postponed: true,
        }
    }
}

/// One command of a batch.
#[derive(Clone, Copy)]
pub(crate) struct Parsed {
    /// Where its bytes begin.
    pub(crate) start: usize,
    /// Where its arguments end in the list of spans.
    pub(crate) spans_end: usize,
}

/// Commands that are run together.
pub(crate) type Batch = SmallVec<[Parsed; BATCH_COMMANDS]>;

/// One request of a batch, with its command.
struct Request<'t> {
    found: Found<'t>,
    /// Its arguments in the list of spans.
    spans: Range<usize>,
    /// Where its keys end in the list of keys; they begin where those of the request before end.
    keys_end: usize,
}

/// How far a batch was run.
pub(crate) enum Executed {
    /// All commands before this number.
    Upto(usize),
    /// All before this one, which has to wait for the end of a pause.
    Waiting(usize),
}

/// One read's worth of requests.
pub(crate) struct Round<'r> {
    pub(crate) peer: &'r mut Peer,
    /// Arguments found of the first command so far.
    pub(crate) spans: &'r mut Vec<Span>,
    pub(crate) reply: &'r mut Reply,
    pub(crate) wrote: &'r mut bool,
    pub(crate) services: &'r Services,
}

impl Round<'_> {
    /// Runs all whole commands in `input`. What is left over keeps its spans in `self.spans`.
    pub(crate) fn process(
        &mut self,
        input: &mut [u8],
        mut parser: Parser,
    ) -> Result<Option<Leftover>, End> {
        let mut start = 0;
        loop {
            let mut batch = Batch::new();
            let why = parse(
                self.peer,
                self.services,
                input,
                (&mut start, &mut parser),
                self.spans,
                &mut batch,
            );
            if let Some(start) = self.run_batch(input, &batch)? {
                self.spans.clear();
                return Ok(Some(Leftover::postponed(start)));
            }
            self.spans
                .drain(..batch.last().map_or(0, |last| last.spans_end));
            if self.peer.session.fate != Fate::Live {
                return Ok(None);
            }
            match why {
                Why::Full => {}
                Why::Incomplete { .. } if start == input.len() => return Ok(None),
                Why::Incomplete { missing } => {
                    return Ok(Some(Leftover {
                        start,
                        parser,
                        missing,
                        postponed: false,
                    }));
                }
                Why::Broken(error) => {
                    refuse(self.peer, self.services, self.reply, error);
                    return Ok(None);
                }
            }
        }
    }

    /// Finds the commands and keys of a batch, brings the keys into the caches, and runs the commands in order. Returns
    /// where the first command begins that has to wait, if one has to.
    fn run_batch(&mut self, input: &[u8], batch: &[Parsed]) -> Result<Option<usize>, End> {
        let services = self.services;
        let requests = Requests::find(services, input, self.spans, batch);
        requests.prefetch(services, self.peer.session.db);
        let mut left = 0..batch.len();
        while !left.is_empty() && self.peer.session.fate == Fate::Live {
            if self.reply.len() > REPLY_FLUSH_BYTES {
                self.peer.send(self.reply, services)?;
            }
            let session = &mut self.peer.session;
            let mut ctx = context(services, session, self.reply, input.len());
            let executed = requests.run(&mut ctx, left.clone());
            *self.wrote |= ctx.wrote;
            left.start = match executed {
                Executed::Upto(done) => done,
                Executed::Waiting(at) => return Ok(Some(batch[at].start)),
            };
        }
        Ok(None)
    }
}

/// Why no more commands were parsed.
#[derive(Debug)]
pub(crate) enum Why {
    /// There are as many as a batch takes.
    Full,
    /// The next one is not whole, or there is none; so many bytes have to follow at least.
    Incomplete { missing: usize },
    /// What follows cannot be understood.
    Broken(ProtocolError),
}

/// Parses whole commands of a client, from where the next one begins and the parser stands in it, until the batch is
/// full.
#[inline]
pub(crate) fn parse(
    peer: &Peer,
    services: &Services,
    input: &mut [u8],
    (start, parser): (&mut usize, &mut Parser),
    spans: &mut Vec<Span>,
    batch: &mut Batch,
) -> Why {
    let unauthenticated = !peer.session.authenticated && services.needs_password();
    let limits = Limits {
        bulk_max_bytes: services.config.number(Id::ProtoMaxBulkLen),
        unauthenticated,
    };
    // The limits change with the command that authenticates.
    let commands_max = if unauthenticated {
        batch.len() + 1
    } else {
        BATCH_COMMANDS
    };
    while batch.len() < commands_max {
        match parser.advance(input, spans, &limits) {
            Ok(Progress::Command) => {
                batch.push(Parsed {
                    start: *start,
                    spans_end: spans.len(),
                });
                *start = parser.position();
            }
            Ok(Progress::Nothing) => *start = parser.position(),
            Ok(Progress::Incomplete { missing }) => return Why::Incomplete { missing },
            Err(error) => return Why::Broken(error),
        }
    }
    Why::Full
}

/// The requests of a batch, with their commands and keys.
pub(crate) struct Requests<'b> {
    input: &'b [u8],
    spans: &'b [Span],
    keys: SmallVec<[Key<'b>; BATCH_COMMANDS]>,
    requests: SmallVec<[Request<'b>; BATCH_COMMANDS]>,
}

impl<'b> Requests<'b> {
    /// Finds the commands and the keys of a batch.
    #[inline]
    pub(crate) fn find(
        services: &'b Services,
        input: &'b [u8],
        spans: &'b [Span],
        batch: &[Parsed],
    ) -> Self {
        let mut keys: SmallVec<[Key<'b>; BATCH_COMMANDS]> = SmallVec::new();
        let mut requests: SmallVec<[Request<'b>; BATCH_COMMANDS]> = SmallVec::new();
        let mut from = 0;
        for parsed in batch {
            let args = Args::new(input, &spans[from..parsed.spans_end]);
            let found = services.commands.find(args);
            if let Found::Command(command) = found {
                let spans = &spans[from..];
                command.each_key(args, |at| {
                    keys.push(services.keyspace.key(spans[at].of(input)));
                });
            }
            requests.push(Request {
                found,
                spans: from..parsed.spans_end,
                keys_end: keys.len(),
            });
            from = parsed.spans_end;
        }
        Self {
            input,
            spans,
            keys,
            requests,
        }
    }

    /// Brings all keys into the processor's caches, as keys of this database.
    #[inline]
    pub(crate) fn prefetch(&self, services: &Services, db: usize) {
        if self.keys.len() > 1 {
            let hashes: SmallVec<[KeyHash; BATCH_COMMANDS]> =
                self.keys.iter().map(Key::hash).collect();
            services.keyspace.prefetch(db, &hashes);
        }
    }

    /// Runs these requests of the context's client in order, until one has to wait, one ends the connection, or the
    /// replies have grown so large that the socket should get them.
    #[inline]
    pub(crate) fn run(&self, ctx: &mut Context<'_>, range: Range<usize>) -> Executed {
        ctx.reply.set_protocol(ctx.session.protocol);
        ctx.command = NO_COMMAND;
        let began = ctx.clock;
        let first = range.start;
        let mut keys_from = first
            .checked_sub(1)
            .map_or(0, |before| self.requests[before].keys_end);
        let mut executed = Executed::Upto(range.end);
        let mut done = first;
        for request in &self.requests[range] {
            let args = Args::new(self.input, &self.spans[request.spans.clone()]);
            let args = args.with_keys(&self.keys[keys_from..request.keys_end]);
            if dispatch::run(ctx, request.found, args) == Outcome::Postponed {
                executed = Executed::Waiting(done);
                break;
            }
            done += 1;
            keys_from = request.keys_end;
            if ctx.session.fate != Fate::Live || ctx.reply.len() > REPLY_FLUSH_BYTES {
                executed = Executed::Upto(done);
                break;
            }
        }
        ctx.stats.totals.command_ticks.add(ctx.clock.since(began));
        dispatch::publish(ctx);
        let count = (done - first) as u64;
        ctx.stats.totals.commands.add(count);
        let commands = &ctx.session.client.commands;
        commands.store(commands.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        executed
    }
}

/// The world of the commands of a client, from now on, without locks. `query_bytes` are the bytes of its requests.
pub(crate) fn context<'a>(
    services: &'a Services,
    session: &'a mut Session,
    reply: &'a mut Reply,
    query_bytes: usize,
) -> Context<'a> {
    Context {
        stats: stats_of(services, session),
        session,
        reply,
        locked: services.keyspace.lock(ShardSet::EMPTY),
        now_ms: unix_ms(),
        clock: Ticks::now(),
        services,
        thresholds: Thresholds::of(&services.config),
        command: NO_COMMAND,
        secret_args: 0,
        waited: Duration::ZERO,
        query_bytes,
        wrote: false,
    }
}

/// Tells a client that its request cannot be understood, and closes the connection.
pub(crate) fn refuse(
    peer: &mut Peer,
    services: &Services,
    reply: &mut Reply,
    error: ProtocolError,
) {
    if services.log.is_written(Level::Verbose) {
        let client =
            crate::observe::clients::describe(&peer.session.client, services.command_names());
        services.log.write(
            Level::Verbose,
            format_args!("Protocol error ({error}) from client: {client}"),
        );
    }
    let text = format!("ERR Protocol error: {error}");
    reply.error(text.as_bytes());
    stats_of(services, &peer.session).count_error(text.as_bytes());
    reply.mark_errors_counted();
    peer.session.fate = Fate::CloseAfterReply;
}
