//! A connection and its client's state: reading, running, writing, and the limits that close it.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use crate::clients::{CONNECTION_BYTES, ClientFlags};
use crate::commands::context::Services;
use crate::config::directive::Id;
use crate::log::Level;
use crate::net::connection::{Connection, Partial, ReadOutcome};
use crate::net::poll::{Interest, Poller};
use crate::resp::parse::{Parser, Span};
use crate::resp::reply::Reply;
use crate::session::{Fate, Session};
use crate::worker::round::{Leftover, Round};
use crate::worker::scratch::{REPLY_KEEP_BYTES, Scratch};
use crate::worker::stats_of;

/// Most bytes that a client without the password may send before it authenticates.
const UNAUTHENTICATED_QUERY_BYTES: usize = 1 << 20;

/// Replies of up to this size together do not count for any limit, in bytes, as in Redis, where each client has a buffer
/// for so much.
const UNCOUNTED_OUTPUT_BYTES: usize = 16 * 1024;

/// Most bytes of replies that may wait for such a client.
const UNAUTHENTICATED_OUTPUT_BYTES: u64 = 1024;

/// What ends a connection.
#[derive(Debug)]
pub(crate) enum End {
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

/// A connection and its client's state.
pub(crate) struct Peer {
    pub(crate) connection: Connection,
    pub(crate) session: Session,
    /// Tells this connection from earlier ones in the same place.
    pub(crate) token: u64,
    interest: Interest,
    postponed: bool,
    /// Since when the replies that wait exceed the soft limit, in milliseconds of Unix time; 0 if they do not.
    over_soft_since_ms: u64,
}

// What clients are said to take is what they take.
const _: () = assert!(size_of::<Peer>() == CONNECTION_BYTES);

impl Peer {
    /// A connection that was just accepted and is waited for with `token`.
    pub(crate) fn new(socket: OwnedFd, session: Session, token: u64) -> Self {
        Self {
            connection: Connection::new(socket),
            session,
            token,
            interest: Interest::READ,
            postponed: false,
            over_soft_since_ms: 0,
        }
    }

    /// Whether a command of this client waits for the end of a pause.
    pub(crate) fn is_postponed(&self) -> bool {
        self.postponed
    }

    /// Whether this client watches all commands.
    pub(crate) fn is_monitor(&self) -> bool {
        self.session.client.flags().contains(ClientFlags::MONITOR)
    }

    /// Whether the replies that wait exceed the soft limit.
    pub(crate) fn is_over_soft_limit(&self) -> bool {
        self.over_soft_since_ms != 0
    }

    /// Whether what it sends next goes to the buffer that all connections share.
    pub(crate) fn reads_shared(&self) -> bool {
        self.interest.read && self.connection.partial.is_none() && !self.session.client.is_killed()
    }

    /// Sends what waits, if there is room to write, and reads into the buffer that all connections share. Returns how
    /// many bytes were read, 0 if none are there.
    pub(crate) fn read_into(
        &mut self,
        room: &mut [u8],
        write: bool,
        services: &Services,
    ) -> Result<usize, End> {
        if write {
            self.flush(services)?;
        }
        match self.connection.read_shared(room)? {
            ReadOutcome::Closed => Err(End::Closed),
            ReadOutcome::Blocked => Ok(0),
            ReadOutcome::Bytes(count) => {
                let stats = &stats_of(services, &self.session).totals;
                stats.reads.add(1);
                stats.input_bytes.add(count as u64);
                add(&self.session.client.received_bytes, count as u64);
                Ok(count)
            }
        }
    }

    /// Runs what was read into the shared buffer, and writes the replies.
    pub(crate) fn serve_alone(
        &mut self,
        bytes: Range<usize>,
        scratch: &mut Scratch,
        services: &Services,
        poller: &Poller,
    ) -> Result<(), End> {
        if !bytes.is_empty() {
            self.run_shared(bytes, scratch, services)?;
        }
        self.finish(scratch, services, poller)
    }

    /// Reads, runs what was read, and writes the replies.
    pub(crate) fn serve(
        &mut self,
        scratch: &mut Scratch,
        services: &Services,
        poller: &Poller,
        read: bool,
        write: bool,
    ) -> Result<(), End> {
        debug_assert!(
            scratch.reply.bytes().is_empty(),
            "replies of another client"
        );
        if self.session.client.is_killed() {
            return Err(End::Closed);
        }
        if write {
            self.flush(services)?;
        }
        if read && self.interest.read {
            self.read(scratch, services)?;
        } else if read && !write {
            // Nothing is read, yet the socket has something to say: it can only be its end.
            return Err(End::Closed);
        }
        self.finish(scratch, services, poller)
    }

    /// Runs the commands that waited for the end of a pause.
    pub(crate) fn resume(
        &mut self,
        scratch: &mut Scratch,
        services: &Services,
        poller: &Poller,
    ) -> Result<(), End> {
        self.postponed = false;
        self.session.client.set_flag(ClientFlags::BLOCKED, false);
        if let Some(partial) = self.connection.partial.take() {
            self.run_partial(partial, scratch, services)?;
        }
        self.finish(scratch, services, poller)
    }

    /// Reads behind the beginning of a command that came before, and runs what is whole.
    fn read(&mut self, scratch: &mut Scratch, services: &Services) -> Result<(), End> {
        let Some(mut partial) = self.connection.partial.take() else {
            return Ok(());
        };
        match self.connection.read_partial(&mut partial)? {
            ReadOutcome::Closed => return Err(End::Closed),
            ReadOutcome::Blocked => self.connection.partial = Some(partial),
            ReadOutcome::Bytes(count) => {
                self.check_query_limit(partial.bytes.len(), services)?;
                let stats = &stats_of(services, &self.session).totals;
                stats.reads.add(1);
                stats.input_bytes.add(count as u64);
                add(&self.session.client.received_bytes, count as u64);
                self.run_partial(partial, scratch, services)?;
            }
        }
        scratch.check_wanted |= self.connection.partial.is_some();
        Ok(())
    }

    /// Runs what was read into the buffer that all connections share.
    pub(crate) fn run_shared(
        &mut self,
        bytes: Range<usize>,
        scratch: &mut Scratch,
        services: &Services,
    ) -> Result<(), End> {
        let Scratch {
            input,
            spans,
            reply,
            wrote,
            ..
        } = scratch;
        let input = &mut input[bytes];
        spans.clear();
        let mut round = Round {
            peer: self,
            spans,
            reply,
            wrote,
            services,
        };
        if let Some(left) = round.process(input, Parser::default())? {
            self.leave(input, std::mem::take(spans), &left);
        }
        Ok(())
    }

    /// Keeps what is left over of `input`, of which `spans` are the arguments so far.
    pub(crate) fn leave(&mut self, input: &[u8], spans: Vec<Span>, left: &Leftover) {
        let mut partial = Box::new(Partial::new(input[left.start..].to_vec(), spans));
        self.note_leftover(&mut partial, left);
        self.connection.keep(partial);
    }

    /// Runs what is in the connection's own buffer.
    fn run_partial(
        &mut self,
        mut partial: Box<Partial>,
        scratch: &mut Scratch,
        services: &Services,
    ) -> Result<(), End> {
        let Scratch { reply, wrote, .. } = scratch;
        let Partial {
            bytes,
            spans,
            parser,
            ..
        } = &mut *partial;
        let mut round = Round {
            peer: self,
            spans,
            reply,
            wrote,
            services,
        };
        match round.process(bytes, *parser)? {
            Some(left) => {
                bytes.drain(..left.start);
                self.note_leftover(&mut partial, &left);
            }
            None => {
                partial.bytes.clear();
                partial.spans = Vec::new();
                partial.parser = Parser::default();
                partial.missing = 0;
            }
        }
        self.connection.keep(partial);
        Ok(())
    }

    /// Notes what waits at the beginning of `partial`, whose spans still count from where the round began.
    fn note_leftover(&mut self, partial: &mut Partial, left: &Leftover) {
        partial.parser = left.parser;
        partial.parser.rebase(left.start);
        for span in &mut partial.spans {
            span.start -= left.start;
        }
        partial.missing = left.missing;
        partial.peak_bytes = partial.peak_bytes.max(partial.bytes.len());
        if left.postponed {
            self.postponed = true;
            self.session.client.set_flag(ClientFlags::BLOCKED, true);
        }
    }

    /// Sends the replies of a round, and decides how the connection goes on.
    fn finish(
        &mut self,
        scratch: &mut Scratch,
        services: &Services,
        poller: &Poller,
    ) -> Result<(), End> {
        if !scratch.reply.bytes().is_empty() {
            scratch.will_send();
            self.send(&mut scratch.reply, services)?;
        }
        self.go_on(scratch, poller)
    }

    /// Decides how the connection goes on once the replies are sent.
    pub(crate) fn go_on(&mut self, scratch: &mut Scratch, poller: &Poller) -> Result<(), End> {
        scratch.check_wanted |= self.is_over_soft_limit() || self.connection.partial.is_some();
        self.settle(poller)?;
        self.publish_buffers();
        Ok(())
    }

    /// Sends replies and empties them.
    pub(crate) fn send(&mut self, reply: &mut Reply, services: &Services) -> Result<(), End> {
        let waiting = self.connection.output().map_or(0, |queue| queue.len());
        self.check_output_limit(waiting + reply.len(), services)?;
        let had_room = self.connection.output().is_none();
        let sent = self.connection.send(reply);
        reply.reset(REPLY_KEEP_BYTES);
        self.note_sent(sent? as u64, had_room, services);
        Ok(())
    }

    /// Sends replies that are a part of those that were written together.
    pub(crate) fn send_part(&mut self, bytes: &[u8], services: &Services) -> Result<(), End> {
        let waiting = self.connection.output().map_or(0, |queue| queue.len());
        self.check_output_limit(waiting + bytes.len(), services)?;
        let had_room = self.connection.output().is_none();
        let sent = self.connection.send_part(bytes)?;
        self.note_sent(sent as u64, had_room, services);
        Ok(())
    }

    fn note_sent(&self, sent: u64, had_room: bool, services: &Services) {
        let stats = &stats_of(services, &self.session).totals;
        if had_room {
            stats.writes.add(1);
        }
        stats.output_bytes.add(sent);
        add(&self.session.client.sent_bytes, sent);
    }

    fn flush(&mut self, services: &Services) -> Result<(), End> {
        let sent = self.connection.flush()? as u64;
        let stats = &stats_of(services, &self.session).totals;
        stats.writes.add(1);
        stats.output_bytes.add(sent);
        add(&self.session.client.sent_bytes, sent);
        if self.connection.output().is_none() {
            self.over_soft_since_ms = 0;
        }
        Ok(())
    }

    /// Closes the connection if that was decided, or waits for what comes next.
    fn settle(&mut self, poller: &Poller) -> Result<(), End> {
        let waits = self.connection.output().is_some();
        match self.session.fate {
            Fate::CloseNow => return Err(End::Closed),
            Fate::CloseAfterReply if !waits => return Err(End::Closed),
            _ => {}
        }
        let read = self.session.fate == Fate::Live && !self.postponed;
        let interest = Interest { read, write: waits };
        if interest != self.interest {
            poller.modify(&self.connection, self.token, interest)?;
            self.interest = interest;
        }
        Ok(())
    }

    /// Shows a line to a client that watches commands.
    pub(crate) fn show(
        &mut self,
        line: &[u8],
        services: &Services,
        poller: &Poller,
    ) -> Result<(), End> {
        let waiting = self.connection.output().map_or(0, |queue| queue.len());
        self.check_output_limit(waiting + line.len(), services)?;
        self.connection.queue(line);
        self.flush(services)?;
        self.settle(poller)?;
        self.publish_buffers();
        Ok(())
    }

    /// Publishes the sizes of the buffers for CLIENT LIST.
    fn publish_buffers(&self) {
        let client = &self.session.client;
        let (bytes, free) = match &self.connection.partial {
            Some(partial) => (
                partial.bytes.len(),
                partial.bytes.capacity() - partial.bytes.len(),
            ),
            None => (0, 0),
        };
        client.query_bytes.store(bytes, Ordering::Relaxed);
        client.query_free_bytes.store(free, Ordering::Relaxed);
        let (bytes, pieces) = self
            .connection
            .output()
            .map_or((0, 0), |queue| (queue.held_bytes(), queue.pieces()));
        client.output_bytes.store(bytes, Ordering::Relaxed);
        client
            .output_pieces
            .store(u32::try_from(pieces).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    /// Closes a client whose requests are too long, those included that wait for EXEC.
    fn check_query_limit(&self, bytes: usize, services: &Services) -> Result<(), End> {
        let transaction = self.session.transaction.as_deref();
        let bytes = bytes + transaction.map_or(0, |transaction| transaction.bytes);
        let unauthenticated = self.is_locked_out(services);
        let limit = services.config.size(Id::ClientQueryBufferLimit);
        if bytes <= limit && !(unauthenticated && bytes > UNAUTHENTICATED_QUERY_BYTES) {
            return Ok(());
        }
        let client = self.describe(services);
        let text = format!("Closing client that reached max query buffer length: {client}");
        services.log.write(Level::Warning, text);
        stats_of(services, &self.session)
            .totals
            .query_limit_closes
            .add(1);
        Err(End::Closed)
    }

    /// The client, as CLIENT LIST shows it.
    fn describe(&self, services: &Services) -> String {
        crate::observe::clients::describe(&self.session.client, services.command_names())
    }

    /// Whether the client has not given the password that is needed.
    fn is_locked_out(&self, services: &Services) -> bool {
        !self.session.authenticated && services.needs_password()
    }

    /// Closes a client that has too many replies waiting, or notes since when there are many.
    fn check_output_limit(&mut self, bytes: usize, services: &Services) -> Result<(), End> {
        let limit = services.config.output_limits()[0];
        let bytes = if bytes <= UNCOUNTED_OUTPUT_BYTES {
            0
        } else {
            bytes as u64
        };
        if bytes > UNAUTHENTICATED_OUTPUT_BYTES && self.is_locked_out(services) {
            return Err(self.over_output_limit(services));
        }
        let over_hard = limit.hard_bytes > 0 && bytes >= limit.hard_bytes;
        if limit.soft_bytes == 0 || bytes < limit.soft_bytes {
            self.over_soft_since_ms = 0;
        } else if self.over_soft_since_ms == 0 {
            self.over_soft_since_ms = crate::clock::unix_ms();
        }
        if over_hard {
            Err(self.over_output_limit(services))
        } else {
            Ok(())
        }
    }

    #[cold]
    fn over_output_limit(&self, services: &Services) -> End {
        let client = self.describe(services);
        let text = format!("Client {client} closed for overcoming of output buffer limits.");
        services.log.write(Level::Warning, text);
        stats_of(services, &self.session)
            .totals
            .output_limit_closes
            .add(1);
        End::Closed
    }

    /// Closes a client that was silent for too long, or did not read its replies for too long, and has it give up a
    /// buffer that it does not use. Returns whether it has to be looked over again.
    pub(crate) fn check(&mut self, services: &Services, now_ms: u64) -> Result<bool, End> {
        if self.over_soft_since_ms != 0 {
            let limit = services.config.output_limits()[0];
            let waiting = self.connection.output().map_or(0, |queue| queue.len()) as u64;
            if limit.soft_bytes == 0 || waiting < limit.soft_bytes {
                self.over_soft_since_ms = 0;
            } else if now_ms.saturating_sub(self.over_soft_since_ms) > limit.soft_seconds * 1000 {
                return Err(self.over_output_limit(services));
            }
        }
        let timeout_ms = services.config.size(Id::Timeout) as u64 * 1000;
        let silent_ms =
            now_ms.saturating_sub(self.session.client.active_ms.load(Ordering::Relaxed));
        if timeout_ms > 0 && silent_ms > timeout_ms && !self.is_monitor() && !self.postponed {
            services.log.write(Level::Verbose, "Closing idle client");
            return Err(End::Closed);
        }
        let has_buffer = !self.postponed && self.connection.tend_buffer(silent_ms);
        self.publish_buffers();
        Ok(has_buffer || self.is_over_soft_limit() || timeout_ms > 0)
    }
}

/// Adds to a figure that only this thread writes.
fn add(figure: &std::sync::atomic::AtomicU64, by: u64) {
    figure.store(
        figure.load(Ordering::Relaxed).wrapping_add(by),
        Ordering::Relaxed,
    );
}
