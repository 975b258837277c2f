//! One connection: its socket, the partial command that waits for more bytes, and the replies that wait for room.
//!
//! Reads go to a buffer that all connections of a worker share; only what is left over of a command is copied into a
//! buffer of the connection's own, sized for what is announced, and then filled straight from the socket. A connection
//! that got such a buffer keeps it for the next commands, and gives it up when it is idle: an idle connection owns none.

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

/// Up to this size, room is made for a whole argument as soon as it is announced, in bytes. Room that is not used costs
/// address space only, but that is not endless either.
const ANNOUNCED_BYTES_MAX: usize = 64 << 20;

/// A buffer of more than this is not kept for the next command, in bytes.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Without a command for this long, a connection gives up its buffer, in milliseconds.
const BUFFER_IDLE_MS: u64 = 2000;

/// A connection's own buffer: the beginning of a command, or room for one.
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
    /// The most bytes held at once since the buffer was last looked over.
    pub(crate) peak_bytes: usize,
    /// Whether the last read filled all room.
    filled: bool,
}

impl Partial {
    /// The beginning of a command, with the arguments found so far.
    pub(crate) fn new(bytes: Vec<u8>, spans: Vec<Span>) -> Self {
        Self {
            bytes,
            spans,
            ..Self::default()
        }
    }
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
    /// Bytes of memory that the pieces take.
    held_bytes: usize,
}

/// Pieces are filled up to this size before another is begun, in bytes.
const PIECE_BYTES: usize = 16 * 1024;

impl OutputQueue {
    /// Bytes not sent yet.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory held for them.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Number of pieces.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces.len()
    }

    fn push_piece(&mut self, piece: Vec<u8>, sent: usize) {
        self.bytes += piece.len() - sent;
        self.held_bytes += piece.capacity();
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
            let before = last.capacity();
            last.extend_from_slice(bytes);
            self.held_bytes += last.capacity() - before;
            return;
        }
        self.held_bytes += bytes.len();
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
        make_room(partial);
        let room = partial.bytes.capacity() - partial.bytes.len();
        let read = rustix::io::read(&self.socket, spare_capacity(&mut partial.bytes));
        partial.filled = read == Ok(room);
        partial.peak_bytes = partial.peak_bytes.max(partial.bytes.len());
        outcome(read)
    }

    /// Takes a buffer back, which holds the beginning of a command or nothing.
    pub(crate) fn keep(&mut self, mut partial: Box<Partial>) {
        if partial.bytes.is_empty() && partial.bytes.capacity() > KEPT_BYTES_MAX {
            return;
        }
        if partial.missing >= BIG_ARGUMENT_BYTES {
            make_room(&mut partial);
        }
        self.partial = Some(partial);
    }

    /// Looks over the connection's own buffer: after a while without a command it goes, and one far larger than needed
    /// shrinks. Returns whether there is still one. `idle_ms` is for how long the client sent nothing.
    pub(crate) fn tend_buffer(&mut self, idle_ms: u64) -> bool {
        let Some(partial) = &mut self.partial else {
            return false;
        };
        let room = partial.bytes.capacity();
        if idle_ms > BUFFER_IDLE_MS {
            if partial.bytes.is_empty() {
                self.partial = None;
                return false;
            }
            partial.bytes.shrink_to_fit();
        } else if room > BIG_ARGUMENT_BYTES
            && room / 2 > partial.peak_bytes
            && partial.missing < BIG_ARGUMENT_BYTES
        {
            partial
                .bytes
                .shrink_to(partial.peak_bytes.max(PARTIAL_READ_BYTES));
        }
        partial.peak_bytes = partial.bytes.len();
        true
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

    /// The same for bytes that are a part of the replies that were written together.
    pub(crate) fn send_part(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = match self.output {
            None => write(&self.socket, bytes)?,
            Some(_) => 0,
        };
        if sent < bytes.len() {
            self.queue(&bytes[sent..]);
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
            queue.held_bytes -= queue.pieces.pop_front().map_or(0, |piece| piece.capacity());
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

/// Makes room in a connection's own buffer for what is announced, or for a read of a good size.
fn make_room(partial: &mut Partial) {
    let have = partial.bytes.len();
    let free = partial.bytes.capacity() - have;
    if partial.missing >= BIG_ARGUMENT_BYTES {
        let room = partial.missing.min(ANNOUNCED_BYTES_MAX.max(have));
        if free < room {
            partial.bytes.reserve_exact(room);
        }
        return;
    }
    let wanted = if partial.filled {
        4 * PARTIAL_READ_BYTES
    } else {
        PARTIAL_READ_BYTES
    };
    if free < partial.missing.max(wanted / 2) {
        partial.bytes.reserve(partial.missing.max(wanted));
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
