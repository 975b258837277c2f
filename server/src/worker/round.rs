//! One round: all whole commands of what was read, in batches, each parsed, prefetched and run in order.

use std::sync::atomic::Ordering;

use kvstore::{KeyHash, ShardSet};
use smallvec::SmallVec;

use crate::clients::NO_COMMAND;
use crate::clock::unix_ms;
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
            let mut done = 0;
            while done < batch.len() && self.peer.session.fate == Fate::Live {
                if self.reply.len() > REPLY_FLUSH_BYTES {
                    self.peer.send(self.reply, self.services)?;
                }
                done = match self.execute(input, &batch, done) {
                    Executed::Upto(done) => done,
                    Executed::Waiting(at) => {
                        self.spans.clear();
                        let start = batch[at].start;
                        let parser = Parser::at(start);
                        return Ok(Some(Leftover {
                            start,
                            parser,
                            missing: 0,
                            postponed: true,
                        }));
                    }
                };
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

    /// Runs the commands of a batch from number `first` on, until one has to wait, one ends the connection, or the
    /// replies have grown so large that the socket should get them.
    fn execute(&mut self, input: &[u8], batch: &[Parsed], first: usize) -> Executed {
        if first == 0 && batch.len() > 1 {
            self.prefetch(input, batch);
        }
        let services = self.services;
        self.reply.set_protocol(self.peer.session.protocol);
        let stats = stats_of(services, &self.peer.session);
        let mut ctx = Context {
            session: &mut self.peer.session,
            reply: self.reply,
            locked: services.keyspace.lock(ShardSet::EMPTY),
            now_ms: unix_ms(),
            services,
            stats,
            thresholds: Thresholds::of(&services.config),
            command: NO_COMMAND,
            secret_args: 0,
            query_bytes: input.len(),
            wrote: false,
        };
        let mut from = first
            .checked_sub(1)
            .map_or(0, |before| batch[before].spans_end);
        let mut executed = Executed::Upto(batch.len());
        let mut done = first;
        for parsed in &batch[first..] {
            let args = Args::new(input, &self.spans[from..parsed.spans_end]);
            if dispatch::run(&mut ctx, args) == Outcome::Postponed {
                executed = Executed::Waiting(done);
                break;
            }
            done += 1;
            from = parsed.spans_end;
            if ctx.session.fate != Fate::Live || ctx.reply.len() > REPLY_FLUSH_BYTES {
                executed = Executed::Upto(done);
                break;
            }
        }
        *self.wrote |= ctx.wrote;
        dispatch::publish(&ctx);
        let count = (done - first) as u64;
        stats.totals.commands.add(count);
        let commands = &ctx.session.client.commands;
        commands.store(commands.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        executed
    }

    /// Brings the keys of a batch into the caches, all at once.
    fn prefetch(&self, input: &[u8], batch: &[Parsed]) {
        let services = self.services;
        let mut hashes: SmallVec<[KeyHash; 2 * BATCH_COMMANDS]> = SmallVec::new();
        let mut from = 0;
        for parsed in batch {
            let args = Args::new(input, &self.spans[from..parsed.spans_end]);
            if let Found::Command(command) = services.commands.find(args) {
                command.each_key(args, |at| {
                    hashes.push(services.keyspace.key(args.get(at)).hash())
                });
            }
            from = parsed.spans_end;
        }
        services.keyspace.prefetch(self.peer.session.db, &hashes);
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
