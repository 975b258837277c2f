//! Buffers that all connections of a worker share, as large as the traffic needs.
//!
//! A bulk load wants long reads and long replies; an idle worker wants no memory. So both buffers start small, grow
//! when one read fills the input or a batch's replies overflow theirs, shrink again once nothing has needed the
//! larger size for a while, and are given up once nothing has needed them at all.

use std::mem;

use crate::resp::parse::Span;
use crate::resp::reply::Reply;

/// Bytes read from a socket at once, as long as that is enough.
const READ_BYTES_MIN: usize = 16 * 1024;

/// Bytes read from a socket at once by a worker whose clients send much.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Capacity that the reply buffer keeps while it is used, in bytes.
pub(crate) const REPLY_KEEP_BYTES: usize = 256 * 1024;

/// Capacity that the reply buffer keeps for good, in bytes.
const REPLY_KEEP_BYTES_IDLE: usize = 16 * 1024;

/// The shared buffers.
pub(crate) struct Scratch {
    pub(crate) input: Vec<u8>,
    pub(crate) spans: Vec<Span>,
    pub(crate) reply: Reply,
    /// Whether a command that writes has run since this was last cleared.
    pub(crate) wrote: bool,
    /// Whether a client has something that has to be looked over after a while: a buffer of its own, or too many
    /// replies waiting.
    pub(crate) check_wanted: bool,
    /// Whether the input was too short for what was to be read.
    wants_more: bool,
    /// The most bytes read since the buffers were last looked over, in bytes.
    read_bytes_max: usize,
    /// The most replies at once since then, in bytes.
    reply_bytes_max: usize,
}

impl Scratch {
    /// Small buffers.
    pub(crate) fn new() -> Self {
        Self {
            input: Vec::new(),
            spans: Vec::new(),
            reply: Reply::new(),
            wrote: false,
            check_wanted: false,
            wants_more: false,
            read_bytes_max: 0,
            reply_bytes_max: 0,
        }
    }

    /// The buffer that sockets are read into, which is not empty.
    pub(crate) fn input(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; READ_BYTES_MIN];
        }
        &mut self.input
    }

    /// Whether the input has room for one more read behind `filled` bytes. If not, it will have more next time.
    pub(crate) fn has_room(&mut self, filled: usize) -> bool {
        let enough = filled == 0 || self.input.len() - filled >= READ_BYTES_MIN / 4;
        if !enough {
            self.wants_more = true;
            self.read_bytes_max = self.read_bytes_max.max(self.input.len());
        }
        enough
    }

    /// Notes that `count` bytes were read behind `filled` others.
    pub(crate) fn has_read(&mut self, filled: usize, count: usize) {
        self.read_bytes_max = self.read_bytes_max.max(filled + count);
        self.wants_more |= filled + count == self.input.len();
    }

    /// Makes the input longer if it was too short. What was read into it has been dealt with.
    pub(crate) fn grow_if_wanted(&mut self) {
        if mem::take(&mut self.wants_more) && self.input.len() < READ_BYTES_MAX {
            self.input = vec![0; READ_BYTES_MAX];
        }
    }

    /// Notes the replies that are about to be sent.
    pub(crate) fn will_send(&mut self) {
        self.reply_bytes_max = self.reply_bytes_max.max(self.reply.len());
    }

    /// Drops what a client left behind whose connection ended in the middle of a round.
    pub(crate) fn abandon(&mut self) {
        self.reply.reset(REPLY_KEEP_BYTES);
        self.spans.clear();
    }

    /// Whether there is a buffer.
    pub(crate) fn is_grown(&self) -> bool {
        !self.input.is_empty() || self.reply.capacity() > 0
    }

    /// Shrinks the buffers that were not needed at their size since this was last called, and gives them up if they
    /// were not needed at all.
    pub(crate) fn shrink(&mut self) {
        if self.read_bytes_max == 0 && self.reply_bytes_max == 0 && self.reply.len() == 0 {
            self.input = Vec::new();
            self.spans = Vec::new();
            self.reply.reset(0);
            return;
        }
        if self.read_bytes_max < READ_BYTES_MIN && self.input.len() > READ_BYTES_MIN {
            self.input = vec![0; READ_BYTES_MIN];
        }
        if self.reply_bytes_max < REPLY_KEEP_BYTES_IDLE && self.reply.len() == 0 {
            self.reply.reset(REPLY_KEEP_BYTES_IDLE);
            self.spans = Vec::new();
        }
        self.read_bytes_max = 0;
        self.reply_bytes_max = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow_with_the_traffic_and_shrink_after_it() {
        let mut scratch = Scratch::new();
        assert!(!scratch.is_grown());
        assert_eq!(scratch.input().len(), READ_BYTES_MIN);
        scratch.has_read(0, 100);
        assert!(scratch.has_room(100));
        scratch.has_read(100, READ_BYTES_MIN - 200);
        assert!(!scratch.has_room(READ_BYTES_MIN - 100));
        scratch.grow_if_wanted();
        assert_eq!(scratch.input.len(), READ_BYTES_MAX);
        scratch.reply.raw(&[b'x'; 3 * REPLY_KEEP_BYTES_IDLE]);
        scratch.will_send();
        scratch.reply.reset(REPLY_KEEP_BYTES);
        assert!(scratch.is_grown());
        scratch.shrink();
        assert_eq!(
            scratch.input.len(),
            READ_BYTES_MAX,
            "the traffic was just there"
        );
        scratch.has_read(0, 100);
        scratch.shrink();
        assert_eq!(scratch.input.len(), READ_BYTES_MIN);
        scratch.shrink();
        assert!(!scratch.is_grown());
    }
}
