//! Replies: a byte vector with one method per RESP type, in the protocol version that the client chose.
//!
//! RESP3 types that RESP2 lacks are written as the RESP2 type that Redis uses in their place: a map becomes a flat
//! array, a set an array, a double or a big number a bulk string, a boolean an integer, null the null bulk string.

/// Version of the protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Protocol {
    /// RESP2, the default of a new connection.
    #[default]
    Resp2,
    /// RESP3, after `HELLO 3`.
    Resp3,
}

impl Protocol {
    /// The number that `HELLO` and `CLIENT LIST` show.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Replies of a batch of commands, in order.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    buf: Vec<u8>,
    protocol: Protocol,
    errors: Vec<ErrorRange>,
    /// How many of the errors the statistics have counted.
    counted_errors: usize,
}

/// Where the text of an error lies in the replies, without its leading `-`.
#[derive(Clone, Copy, Debug)]
struct ErrorRange {
    start: usize,
    end: usize,
}

/// A place where the header of a collection goes once its length is known.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Deferred {
    at: usize,
}

impl Reply {
    /// No replies yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The version in which further replies are written.
    #[inline]
    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Sets the version for further replies.
    #[inline]
    pub(crate) fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// The bytes so far.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// Length of the replies so far in bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.buf.len()
    }

    /// Drops what was written after the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.buf.truncate(len);
        if !self.errors.is_empty() {
            self.errors.retain(|error| error.end <= len);
            self.counted_errors = self.counted_errors.min(self.errors.len());
        }
    }

    /// Bytes that the vector has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.buf.capacity()
    }

    /// Empties the vector, keeping up to `keep_bytes` of its capacity.
    #[inline]
    pub(crate) fn reset(&mut self, keep_bytes: usize) {
        self.buf.clear();
        self.errors.clear();
        self.counted_errors = 0;
        if self.buf.capacity() > keep_bytes {
            self.buf = Vec::new();
        }
    }

    /// Takes the bytes, leaving no replies.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.errors.clear();
        self.counted_errors = 0;
        std::mem::take(&mut self.buf)
    }

    /// Whether errors were written that [`Reply::mark_errors_counted`] has not seen.
    #[inline]
    pub(crate) fn has_new_errors(&self) -> bool {
        self.errors.len() > self.counted_errors
    }

    /// Texts of these errors.
    pub(crate) fn new_errors(&self) -> impl Iterator<Item = &[u8]> {
        let new = &self.errors[self.counted_errors..];
        new.iter().map(|error| &self.buf[error.start..error.end])
    }

    /// Notes that all errors so far are counted.
    pub(crate) fn mark_errors_counted(&mut self) {
        self.counted_errors = self.errors.len();
    }

    /// Appends bytes that are already in wire format.
    #[inline]
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// `+OK`.
    #[inline]
    pub(crate) fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    /// A simple string. The text must not contain line breaks.
    #[inline]
    pub(crate) fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']));
        self.buf.push(b'+');
        self.raw(text.as_bytes());
        self.raw(b"\r\n");
    }

    /// An error. `text` begins with its code, for instance `ERR syntax error`; line breaks become blanks.
    #[cold]
    pub(crate) fn error(&mut self, text: &[u8]) {
        self.buf.push(b'-');
        let start = self.buf.len();
        self.buf.extend(text.iter().map(|&byte| {
            if byte == b'\r' || byte == b'\n' {
                b' '
            } else {
                byte
            }
        }));
        self.errors.push(ErrorRange {
            start,
            end: self.buf.len(),
        });
        self.raw(b"\r\n");
    }

    /// A signed integer.
    #[inline]
    pub(crate) fn integer(&mut self, value: i64) {
        if (0..10).contains(&value) {
            let digit = b'0' + value.to_le_bytes()[0];
            self.raw(&[b':', digit, b'\r', b'\n']);
            return;
        }
        self.header(b':', value);
    }

    /// An unsigned count; values beyond the signed range are clamped, which no count reaches.
    #[inline]
    pub(crate) fn count(&mut self, value: usize) {
        self.integer(i64::try_from(value).unwrap_or(i64::MAX));
    }

    /// A bulk string.
    #[inline]
    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.buf.reserve(bytes.len() + 24);
        self.header_of_len(b'$', bytes.len());
        self.raw(bytes);
        self.raw(b"\r\n");
    }

    /// An integer as a bulk string.
    pub(crate) fn bulk_integer(&mut self, value: i64) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Null where a bulk string was possible.
    #[inline]
    pub(crate) fn null(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.raw(b"$-1\r\n"),
            Protocol::Resp3 => self.raw(b"_\r\n"),
        }
    }

    /// Null where an array was possible.
    pub(crate) fn null_array(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.raw(b"*-1\r\n"),
            Protocol::Resp3 => self.raw(b"_\r\n"),
        }
    }

    /// Header of an array of `len` elements, which follow.
    #[inline]
    pub(crate) fn array(&mut self, len: usize) {
        self.header_of_len(b'*', len);
    }

    /// Header of a map of `len` pairs, which follow as key, value, key, value.
    pub(crate) fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header_of_len(b'*', len * 2),
            Protocol::Resp3 => self.header_of_len(b'%', len),
        }
    }

    /// Header of a set of `len` elements, which follow.
    pub(crate) fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header_of_len(b'*', len),
            Protocol::Resp3 => self.header_of_len(b'~', len),
        }
    }

    /// Header of an out-of-band message of `len` elements, which follow.
    pub(crate) fn push(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header_of_len(b'*', len),
            Protocol::Resp3 => self.header_of_len(b'>', len),
        }
    }

    /// Header of attributes of `len` pairs. Only RESP3 has them; the caller asks [`Reply::protocol`] first.
    pub(crate) fn attribute(&mut self, len: usize) {
        debug_assert_eq!(self.protocol, Protocol::Resp3);
        self.header_of_len(b'|', len);
    }

    /// A boolean.
    pub(crate) fn boolean(&mut self, value: bool) {
        match (self.protocol, value) {
            (Protocol::Resp2, _) => self.integer(i64::from(value)),
            (Protocol::Resp3, true) => self.raw(b"#t\r\n"),
            (Protocol::Resp3, false) => self.raw(b"#f\r\n"),
        }
    }

    /// A floating point number, given as the text that shows it.
    pub(crate) fn double(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.buf.push(b',');
                self.raw(text.as_bytes());
                self.raw(b"\r\n");
            }
        }
    }

    /// An integer of any length, given as the text that shows it.
    pub(crate) fn big_number(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.buf.push(b'(');
                self.raw(text.as_bytes());
                self.raw(b"\r\n");
            }
        }
    }

    /// Text for people to read, in a format of three letters, for instance `txt`.
    pub(crate) fn verbatim(&mut self, format: &[u8; 3], text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => {
                self.header_of_len(b'=', text.len() + 4);
                self.raw(format);
                self.buf.push(b':');
                self.raw(text);
                self.raw(b"\r\n");
            }
        }
    }

    /// Remembers the place of a header whose length is not known yet. The elements are written after it, then one of
    /// the `finish_` methods puts the header before them, which moves them: O(bytes of the elements).
    pub(crate) fn deferred(&mut self) -> Deferred {
        Deferred { at: self.buf.len() }
    }

    /// Puts the header of an array of `len` elements in the deferred place.
    pub(crate) fn finish_array(&mut self, place: Deferred, len: usize) {
        self.finish(place, |reply| reply.array(len));
    }

    /// Puts the header of a map of `len` pairs in the deferred place.
    pub(crate) fn finish_map(&mut self, place: Deferred, len: usize) {
        self.finish(place, |reply| reply.map(len));
    }

    /// Puts whatever `header` writes in the deferred place.
    pub(crate) fn finish(&mut self, place: Deferred, header: impl FnOnce(&mut Self)) {
        let end = self.buf.len();
        header(self);
        let added = self.buf.len() - end;
        self.buf[place.at..].rotate_right(added);
        for error in &mut self.errors {
            if error.start >= place.at {
                error.start += added;
                error.end += added;
            }
        }
    }

    /// Type byte, length, line break.
    #[inline]
    fn header_of_len(&mut self, kind: u8, len: usize) {
        if len < 10 {
            let digit = b'0' + len.to_le_bytes()[0];
            self.raw(&[kind, digit, b'\r', b'\n']);
        } else {
            self.header(kind, i64::try_from(len).unwrap_or(i64::MAX));
        }
    }

    fn header(&mut self, kind: u8, value: i64) {
        self.buf.push(kind);
        self.raw(itoa::Buffer::new().format(value).as_bytes());
        self.raw(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reply: &Reply) -> String {
        String::from_utf8(reply.bytes().to_vec()).unwrap()
    }

    #[test]
    fn each_type_has_its_form_in_both_versions() {
        let write = |protocol| {
            let mut reply = Reply::new();
            reply.set_protocol(protocol);
            reply.ok();
            reply.integer(-5);
            reply.integer(7);
            reply.count(1234);
            reply.bulk(b"hello world");
            reply.null();
            reply.null_array();
            reply.map(1);
            reply.set(2);
            reply.boolean(true);
            reply.double("1.5");
            reply.big_number("123");
            reply.verbatim(b"txt", b"ab");
            text(&reply)
        };
        assert_eq!(
            write(Protocol::Resp2),
            "+OK\r\n:-5\r\n:7\r\n:1234\r\n$11\r\nhello world\r\n$-1\r\n*-1\r\n*2\r\n*2\r\n:1\r\n\
             $3\r\n1.5\r\n$3\r\n123\r\n$2\r\nab\r\n"
        );
        assert_eq!(
            write(Protocol::Resp3),
            "+OK\r\n:-5\r\n:7\r\n:1234\r\n$11\r\nhello world\r\n_\r\n_\r\n%1\r\n~2\r\n#t\r\n,1.5\r\n(123\r\n=6\r\ntxt:ab\r\n"
        );
    }

    #[test]
    fn a_deferred_header_lands_before_its_elements() {
        let mut reply = Reply::new();
        reply.ok();
        let place = reply.deferred();
        reply.bulk(b"a");
        reply.error(b"ERR no\r\nline");
        reply.finish_array(place, 12);
        reply.integer(3);
        assert_eq!(
            text(&reply),
            "+OK\r\n*12\r\n$1\r\na\r\n-ERR no  line\r\n:3\r\n"
        );
        assert_eq!(
            reply.new_errors().collect::<Vec<_>>(),
            vec![&b"ERR no  line"[..]]
        );
        reply.truncate(5);
        assert_eq!(
            (text(&reply).as_str(), reply.has_new_errors()),
            ("+OK\r\n", false)
        );
    }
}
