//! One sweep over the ready sockets: all are read, then what they sent is run, then all are written to.
//!
//! ```text
//! input   | client 7: GET a | client 3: SET b .. | client 9: GET c | ...
//! batch     up to 32 commands of neighbours: parsed, keys fetched at once, run in order
//! reply   | client 7's reply | client 3's | client 9's | ...         each client gets its piece
//! ```
//!
//! Clients that wait for each reply send one command at a time, so only across sockets is there more than one key to
//! fetch. And a reply that is sent at once wakes its client at once, which then sleeps again before the next reply
//! comes: sent together, the replies wake it once.

use std::mem;
use std::ops::Range;
use std::sync::Arc;

use crate::commands::context::Services;
use crate::resp::parse::Parser;
use crate::resp::reply::Reply;
use crate::session::Fate;
use crate::worker::Worker;
use crate::worker::peer::{End, Peer};
use crate::worker::round::{
    BATCH_COMMANDS, Batch, Executed, Leftover, REPLY_FLUSH_BYTES, Requests, Why, context, parse,
    refuse,
};
use crate::worker::scratch::{REPLY_KEEP_BYTES, Scratch};

/// Whoever sends more at once is served alone: its own commands make up batches.
const ALONE_BYTES: usize = 2048;

/// What was read from a socket and has not been looked at yet. It begins in the input where the one before ends.
pub(crate) struct Taken {
    token: u64,
    place: usize,
    end: usize,
}

/// A client whose requests are being run.
struct Member {
    place: usize,
    peer: Box<Peer>,
    /// Where its bytes are in the input.
    bytes: Range<usize>,
    /// Where its requests end in the batch.
    requests_end: usize,
    /// Where its replies are that are not sent yet.
    replies: Range<usize>,
    /// Where the first command begins that has to wait for the end of a pause.
    waits_from: Option<usize>,
    /// Whether its connection goes on.
    outcome: Result<(), End>,
}

impl Worker {
    /// Deals with a socket that is ready: reads what it has for [`Worker::run_taken`], or serves it alone.
    pub(super) fn take(&mut self, token: u64, read: bool, write: bool) {
        let Some(place) = self.place_of(token) else {
            return;
        };
        let peer = self.peers[place].as_deref();
        if !read || !peer.is_some_and(Peer::reads_shared) {
            self.serve(token, read, write);
            return;
        }
        let filled = self.taken.last().map_or(0, |last| last.end);
        if !self.scratch.has_room(filled) {
            self.run_taken();
        }
        let filled = self.taken.last().map_or(0, |last| last.end);
        let services = Arc::clone(&self.services);
        let Some(peer) = &mut self.peers[place] else {
            return;
        };
        let room = &mut self.scratch.input()[filled..];
        let outcome = match peer.read_into(room, write, &services) {
            Ok(count) => {
                self.scratch.has_read(filled, count);
                let bytes = filled..filled + count;
                if count > 0 && count <= ALONE_BYTES {
                    let end = bytes.end;
                    self.taken.push(Taken { token, place, end });
                    return;
                }
                peer.serve_alone(bytes, &mut self.scratch, &services, &self.poller)
            }
            Err(end) => Err(end),
        };
        if peer.is_postponed() && !self.postponed.contains(&token) {
            self.postponed.push(token);
        }
        if let Err(end) = outcome {
            self.scratch.abandon();
            self.close(place, &end);
        }
    }

    /// Runs what was read, and sends the replies.
    pub(super) fn run_taken(&mut self) {
        if self.taken.is_empty() {
            self.scratch.grow_if_wanted();
            return;
        }
        let services = Arc::clone(&self.services);
        let mut members = Vec::with_capacity(self.taken.len());
        let mut start = 0;
        for taken in self.taken.drain(..) {
            let bytes = start..taken.end;
            start = taken.end;
            // The connection may have been closed since it was read.
            let here = self.peers[taken.place].take_if(|peer| peer.token == taken.token);
            members.extend(here.map(|peer| Member {
                place: taken.place,
                peer,
                bytes,
                requests_end: 0,
                replies: 0..0,
                waits_from: None,
                outcome: Ok(()),
            }));
        }
        let mut next = 0;
        while next < members.len() {
            next = run_batch(&mut members, next, &mut self.scratch, &services);
        }
        self.scratch.will_send();
        send(&mut members, &mut self.scratch.reply, &services);
        self.scratch.spans.clear();
        for member in members {
            let Member {
                place,
                mut peer,
                outcome,
                ..
            } = member;
            let outcome = outcome.and_then(|()| peer.go_on(&mut self.scratch, &self.poller));
            if peer.is_postponed() && !self.postponed.contains(&peer.token) {
                self.postponed.push(peer.token);
            }
            self.peers[place] = Some(peer);
            if let Err(end) = outcome {
                self.close(place, &end);
            }
        }
        self.scratch.grow_if_wanted();
    }
}

/// Runs a batch of requests of the members from number `first` on; returns the first that was not in it.
fn run_batch(
    members: &mut [Member],
    first: usize,
    scratch: &mut Scratch,
    services: &Services,
) -> usize {
    let Scratch {
        input,
        spans,
        reply,
        wrote,
        ..
    } = scratch;
    spans.clear();
    let mut batch = Batch::new();
    let mut next = first;
    // The last member may have more than is in the batch, or half a command.
    let mut rest = None;
    while next < members.len() && batch.len() < BATCH_COMMANDS && rest.is_none() {
        let member = &mut members[next];
        let Range { mut start, end } = member.bytes;
        let mut parser = Parser::at(start);
        let at = (&mut start, &mut parser);
        let why = parse(
            &member.peer,
            services,
            &mut input[..end],
            at,
            spans,
            &mut batch,
        );
        member.requests_end = batch.len();
        next += 1;
        if start < end || !matches!(why, Why::Incomplete { .. }) {
            rest = Some((start, parser, why));
        }
    }
    let requests = Requests::find(services, input, spans, &batch);
    let db = members[first].peer.session.db;
    if members[first..next]
        .iter()
        .all(|member| member.peer.session.db == db)
    {
        requests.prefetch(services, db);
    }
    let (mut at, mut done) = (first, 0);
    while at < next {
        let mut members_left = members[at..next].iter_mut();
        let Some(mut member) = members_left.next() else {
            break;
        };
        let session = &mut member.peer.session;
        let mut ctx = context(services, session, reply, member.bytes.len());
        loop {
            if member.replies.is_empty() {
                member.replies.start = ctx.reply.len();
            }
            if done < member.requests_end && ctx.session.fate == Fate::Live {
                done = match requests.run(&mut ctx, done..member.requests_end) {
                    Executed::Upto(upto) => upto,
                    Executed::Waiting(request) => {
                        member.waits_from = Some(batch[request].start);
                        member.requests_end
                    }
                };
            }
            member.replies.end = ctx.reply.len();
            if ctx.session.fate != Fate::Live {
                done = member.requests_end;
            }
            if done < member.requests_end {
                // The socket has to get the replies so far.
                break;
            }
            at += 1;
            match members_left.next() {
                Some(following) if ctx.reply.len() <= REPLY_FLUSH_BYTES => member = following,
                _ => break,
            }
            ctx.session = &mut member.peer.session;
            ctx.query_bytes = member.bytes.len();
        }
        *wrote |= ctx.wrote;
        drop(ctx);
        if reply.len() > REPLY_FLUSH_BYTES {
            send(members, reply, services);
        }
    }
    drop(requests);
    for member in &mut members[first..next] {
        if let Some(start) = member.waits_from {
            let left = Leftover::postponed(start);
            member
                .peer
                .leave(&input[..member.bytes.end], Vec::new(), &left);
        }
    }
    if let Some((start, parser, why)) = rest {
        let parsed = batch.last().map_or(0, |last| last.spans_end);
        spans.drain(..parsed);
        let last = &mut members[next - 1];
        if last.waits_from.is_none() && last.peer.session.fate == Fate::Live {
            finish_input(members, next - 1, scratch, services, (start, parser, why));
        }
    }
    next
}

/// Deals with what a member has beyond the batch: half a command, more commands, or what nobody understands.
fn finish_input(
    members: &mut [Member],
    index: usize,
    scratch: &mut Scratch,
    services: &Services,
    (start, parser, why): (usize, Parser, Why),
) {
    let end = members[index].bytes.end;
    match why {
        Why::Incomplete { missing } => {
            let left = Leftover {
                start,
                parser,
                missing,
                postponed: false,
            };
            let spans = mem::take(&mut scratch.spans);
            let peer = &mut members[index].peer;
            peer.leave(&scratch.input[..end], spans, &left);
        }
        Why::Broken(error) => {
            let Member { peer, replies, .. } = &mut members[index];
            if replies.start == replies.end {
                replies.start = scratch.reply.len();
            }
            refuse(peer, services, &mut scratch.reply, error);
            replies.end = scratch.reply.len();
        }
        Why::Full if start == end => {}
        Why::Full => {
            // What follows may fill the reply buffer more than once, so it must hold nobody else's replies.
            send(members, &mut scratch.reply, services);
            let member = &mut members[index];
            if member.outcome.is_ok() {
                let bytes = start..end;
                member.outcome = member.peer.run_shared(bytes, scratch, services);
                member.replies = 0..scratch.reply.len();
            }
            if member.outcome.is_err() {
                scratch.abandon();
                member.replies = 0..0;
            }
        }
    }
}

/// Sends the replies of all members, and empties them.
fn send(members: &mut [Member], reply: &mut Reply, services: &Services) {
    for member in members {
        let range = mem::take(&mut member.replies);
        if range.is_empty() || member.outcome.is_err() {
            continue;
        }
        member.outcome = if range.len() == reply.len() {
            member.peer.send(reply, services)
        } else {
            member.peer.send_part(&reply.bytes()[range], services)
        };
    }
    reply.reset(REPLY_KEEP_BYTES);
}
