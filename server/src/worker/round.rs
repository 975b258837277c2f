//! One round: all whole commands of what was read, in batches, each parsed, prefetched and run in order.

use std::ops::Range;
use std::sync::atomic::Ordering;

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
use crate::session::Fate;
use crate::worker::peer::{End, Peer};
use crate::worker::stats_of;

/// Most commands parsed before they are run: enough to overlap the cache misses of their keys.
const BATCH_COMMANDS: usize = 32;

/// Replies are handed to the socket once they exceed this, even in the middle of a batch, in bytes.
const REPLY_FLUSH_BYTES: usize = 128 * 1024;

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

/// One command of a batch.
#[derive(Clone, Copy)]
struct Parsed {
    /// Where its bytes begin.
    start: usize,
    /// Where its arguments end in the list of spans.
    spans_end: usize,
}

/// One request of a batch, with its command.
struct Request<'t> {
    found: Found<'t>,
    /// Its arguments in the list of spans.
    spans: Range<usize>,
    /// Where its keys end in the list of keys; they begin where those of the request before end.
    keys_end: usize,
}

/// How far a batch was run.
enum Executed {
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
            let limits = self.limits();
            let batch_max = if limits.unauthenticated {
                1
            } else {
                BATCH_COMMANDS
            };
            let mut batch: SmallVec<[Parsed; BATCH_COMMANDS]> = SmallVec::new();
            let mut stop = None;
            while batch.len() < batch_max {
                match parser.advance(input, self.spans, &limits) {
                    Ok(Progress::Command) => {
                        batch.push(Parsed {
                            start,
                            spans_end: self.spans.len(),
                        });
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
            if let Some(start) = self.run_batch(input, &batch)? {
                self.spans.clear();
                let parser = Parser::at(start);
                return Ok(Some(Leftover {
                    start,
                    parser,
                    missing: 0,
                    postponed: true,
                }));
            }
            self.spans
                .drain(..batch.last().map_or(0, |last| last.spans_end));
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
                        postponed: false,
                    }));
                }
                Some(Err(error)) => {
                    self.refuse(error);
                    return Ok(None);
                }
            }
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            bulk_max_bytes: self.services.config.number(Id::ProtoMaxBulkLen),
            unauthenticated: !self.peer.session.authenticated && self.services.needs_password(),
        }
    }

    /// Finds the commands and keys of a batch, brings the keys into the caches, and runs the commands in order. Returns
    /// where the first command begins that has to wait, if one has to.
    fn run_batch(&mut self, input: &[u8], batch: &[Parsed]) -> Result<Option<usize>, End> {
        let services = self.services;
        let mut keys: SmallVec<[Key<'_>; BATCH_COMMANDS]> = SmallVec::new();
        let mut requests: SmallVec<[Request<'_>; BATCH_COMMANDS]> = SmallVec::new();
        let mut from = 0;
        for parsed in batch {
            let args = Args::new(input, &self.spans[from..parsed.spans_end]);
            let found = services.commands.find(args);
            if let Found::Command(command) = found {
                let spans = &self.spans[from..];
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
        if keys.len() > 1 {
            let hashes: SmallVec<[KeyHash; BATCH_COMMANDS]> = keys.iter().map(Key::hash).collect();
            services.keyspace.prefetch(self.peer.session.db, &hashes);
        }
        let mut done = 0;
        while done < requests.len() && self.peer.session.fate == Fate::Live {
            if self.reply.len() > REPLY_FLUSH_BYTES {
                self.peer.send(self.reply, services)?;
            }
            done = match self.execute(input, &requests, &keys, done) {
                Executed::Upto(done) => done,
                Executed::Waiting(at) => return Ok(Some(batch[at].start)),
            };
        }
        Ok(None)
    }

    /// Runs the requests of a batch from number `first` on, until one has to wait, one ends the connection, or the
    /// replies have grown so large that the socket should get them.
    fn execute(
        &mut self,
        input: &[u8],
        requests: &[Request<'_>],
        keys: &[Key<'_>],
        first: usize,
    ) -> Executed {
        let services = self.services;
        self.reply.set_protocol(self.peer.session.protocol);
        let stats = stats_of(services, &self.peer.session);
        let mut ctx = Context {
            session: &mut self.peer.session,
            reply: self.reply,
            locked: services.keyspace.lock(ShardSet::EMPTY),
            now_ms: unix_ms(),
            clock: Ticks::now(),
            services,
            stats,
            thresholds: Thresholds::of(&services.config),
            command: NO_COMMAND,
            secret_args: 0,
            query_bytes: input.len(),
            wrote: false,
        };
        let began = ctx.clock;
        let mut keys_from = first
            .checked_sub(1)
            .map_or(0, |before| requests[before].keys_end);
        let mut executed = Executed::Upto(requests.len());
        let mut done = first;
        for request in &requests[first..] {
            let args = Args::new(input, &self.spans[request.spans.clone()]);
            let args = args.with_keys(&keys[keys_from..request.keys_end]);
            if dispatch::run(&mut ctx, request.found, args) == Outcome::Postponed {
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
        stats.totals.command_ticks.add(ctx.clock.since(began));
        *self.wrote |= ctx.wrote;
        dispatch::publish(&ctx);
        let count = (done - first) as u64;
        stats.totals.commands.add(count);
        let commands = &ctx.session.client.commands;
        commands.store(commands.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        executed
    }

    /// Tells the client that its request cannot be understood, and closes the connection.
    fn refuse(&mut self, error: ProtocolError) {
        let services = self.services;
        if services.log.is_written(Level::Verbose) {
            let client = crate::observe::clients::describe(
                &self.peer.session.client,
                services.command_names(),
            );
            services.log.write(
                Level::Verbose,
                format_args!("Protocol error ({error}) from client: {client}"),
            );
        }
        let text = format!("ERR Protocol error: {error}");
        self.reply.error(text.as_bytes());
        stats_of(services, &self.peer.session).count_error(text.as_bytes());
        self.reply.mark_errors_counted();
        self.peer.session.fate = Fate::CloseAfterReply;
    }
}
