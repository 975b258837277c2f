//! One connection: its socket, the partial command that waits for more bytes, and the replies that wait for room.
//!
//! An idle connection owns no buffer. Reads go to a buffer that all connections of a worker share; only what is left
//! over of a command is copied into a buffer of the connection's own, sized for what is announced, and then filled
//! straight from the socket.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::resp::parse::{Parser, Span};
use crate::resp::reply::Reply;

/// The least room for reading more of a partial command, in bytes.
const PARTIAL_READ_BYTES: usize = 16 * 1024;

/// From this announced size on, a partial command is read to its end and not beyond, so that its buffer need not grow.
const BIG_ARGUMENT_BYTES: usize = 32 * 1024;

/// A command of which only the beginning has come.
#[derive(Debug, Default)]
pub(crate) struct Partial {
    /// The bytes from the beginning of the command on.
    pub(crate) bytes: Vec<u8>,
    /// The arguments found so far.
    pub(crate) spans: Vec<Span>,
    /// Where the parser stands.
    pub(crate) parser: Parser,
    /// How many bytes have to follow at least.
    pub(crate) missing: usize,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// So many bytes.
    Bytes(usize),
    /// Nothing there at the moment.
    Blocked,
    /// The client closed the connection.
    Closed,
}

/// Replies that the socket did not take yet.
#[derive(Debug, Default)]
pub(crate) struct OutputQueue {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that are sent.
    sent: usize,
    /// Bytes not sent yet.
    bytes: usize,
}

/// Pieces are filled up to this size before another is begun, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

impl OutputQueue {
    /// Bytes not sent yet.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Number of pieces.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    fn push_piece(&mut self, piece: Vec<u8>, sent: usize) {
        self.bytes += piece.len() - sent;
        if self.pieces.is_empty() {
            self.sent = sent;
            self.pieces.push_back(piece);
        } else {
            debug_assert_eq!(sent, 0, "a socket with waiting replies is not written to");
            self.pieces.push_back(piece);
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        if let Some(last) = self.pieces.back_mut()
            && last.len() + bytes.len() <= PIECE_BYTES
        {
            last.extend_from_slice(bytes);
            return;
        }
        self.pieces.push_back(bytes.to_vec());
    }
}

/// A socket and what belongs to it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// A command of which only the beginning has come.
    pub(crate) partial: Option<Box<Partial>>,
    output: Option<Box<OutputQueue>>,
}

impl Connection {
    /// A connection that was just accepted. The socket must not block.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            partial: None,
            output: None,
        }
    }

    /// Replies that wait.
    pub(crate) fn output(&self) -> Option<&OutputQueue> {
        self.output.as_deref()
    }

    /// Reads into `shared`, for a connection without a partial command.
    pub(crate) fn read_shared(&mut self, shared: &mut [u8]) -> io::Result<ReadOutcome> {
        outcome(rustix::io::read(&self.socket, shared))
    }

    /// Reads behind the bytes of `partial`, making room for what is announced.
    pub(crate) fn read_partial(&mut self, partial: &mut Partial) -> io::Result<ReadOutcome> {
        if partial.missing >= BIG_ARGUMENT_BYTES {
            // Room is made for what has come and as much again, so that an announcement alone costs no memory.
            let have = partial.bytes.len();
            let room = partial.missing.min(have.max(2 * BIG_ARGUMENT_BYTES));
            if partial.bytes.capacity() - have < room {
                partial.bytes.reserve_exact(room);
            }
        } else if partial.bytes.capacity() - partial.bytes.len()
            < partial.missing.max(PARTIAL_READ_BYTES)
        {
            partial
                .bytes
                .reserve(partial.missing.max(PARTIAL_READ_BYTES));
        }
        outcome(rustix::io::read(
            &self.socket,
            spare_capacity(&mut partial.bytes),
        ))
    }

    /// Sends replies, after what waits already; what the socket does not take waits. Returns how many bytes were sent.
    /// A large rest is taken over instead of copied.
    pub(crate) fn send(&mut self, reply: &mut Reply) -> io::Result<usize> {
        let bytes = reply.bytes();
        let sent = match self.output {
            None => write(&self.socket, bytes)?,
            Some(_) => 0,
        };
        let rest = bytes.len() - sent;
        if rest > 0 {
            let queue = self.output.get_or_insert_default();
            if rest > PIECE_BYTES && rest > bytes.len() / 2 {
                queue.push_piece(reply.take(), sent);
            } else {
                queue.push(&bytes[sent..]);
            }
        }
        Ok(sent)
    }

    /// Queues bytes behind what waits already.
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.output.get_or_insert_default().push(bytes);
    }

    /// Sends what waits, as far as the socket takes it. Returns how many bytes were sent.
    pub(crate) fn flush(&mut self) -> io::Result<usize> {
        let Some(queue) = &mut self.output else {
            return Ok(0);
        };
        let mut total = 0;
        while let Some(first) = queue.pieces.front() {
            let rest = &first[queue.sent..];
            let count = write(&self.socket, rest)?;
            queue.bytes -= count;
            total += count;
            if count < rest.len() {
                queue.sent += count;
                return Ok(total);
            }
            queue.sent = 0;
            queue.pieces.pop_front();
        }
        self.output = None;
        Ok(total)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn outcome(result: Result<usize, Errno>) -> io::Result<ReadOutcome> {
    match result {
        Ok(0) => Ok(ReadOutcome::Closed),
        Ok(count) => Ok(ReadOutcome::Bytes(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(ReadOutcome::Blocked),
        Err(error) => Err(error.into()),
    }
}

fn write(socket: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    match rustix::io::write(socket, bytes) {
        Ok(count) => Ok(count),
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
