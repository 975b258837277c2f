//! Requests: RESP arrays of bulk strings, and inline commands.
//!
//! The parser never copies. It reports each argument as a [`Span`] of the buffer it was given and keeps, between two
//! calls, just enough state to go on where it stopped, so a command of a million arguments that arrives in small
//! pieces costs linear time.
//!
//! ```text
//! *2\r\n$3\r\nGET\r\n$5\r\nhello\r\n
//!             ^^^         ^^^^^      the two spans
//! ```
//!
//! Inline commands may quote and escape. Unescaping never lengthens, so it is done in place, and their arguments are
//! spans of the same buffer, too.

use std::fmt;

/// Longest line (inline command, count or length) that is accepted, in bytes.
const LINE_MAX_BYTES: usize = 64 * 1024;

/// Most arguments that a client which has not authenticated yet may send.
const UNAUTHENTICATED_ARGS_MAX: i64 = 10;

/// Longest argument that a client which has not authenticated yet may send, in bytes.
const UNAUTHENTICATED_BULK_MAX_BYTES: i64 = 16 * 1024;

/// Where one argument lies in the buffer that was parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Index of the first byte.
    pub(crate) start: usize,
    /// Length in bytes.
    pub(crate) len: usize,
}

impl Span {
    /// The bytes that it marks in the buffer that was parsed.
    #[inline]
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start..self.start + self.len]
    }
}

/// What a request may not exceed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Longest argument in bytes (`proto-max-bulk-len`).
    pub(crate) bulk_max_bytes: i64,
    /// Whether the client still has to authenticate; then far smaller limits hold.
    pub(crate) unauthenticated: bool,
}

/// Why a request cannot be understood. The connection is closed after the error was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    /// No end of line within [`LINE_MAX_BYTES`] of an inline command.
    InlineTooBig,
    /// Quotes of an inline command do not match.
    UnbalancedQuotes,
    /// No end of line within [`LINE_MAX_BYTES`] of `*`.
    CountLineTooBig,
    /// The count after `*` is no number or too large.
    InvalidCount,
    /// The count after `*` is too large for a client that has not authenticated.
    UnauthenticatedCount,
    /// No end of line within [`LINE_MAX_BYTES`] of `$`.
    LengthLineTooBig,
    /// Something else than `$` where an argument should begin.
    ExpectedBulk(u8),
    /// The length after `$` is no number, negative or over the limit.
    InvalidLength,
    /// The length after `$` is too large for a client that has not authenticated.
    UnauthenticatedLength,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InlineTooBig => f.write_str("too big inline request"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::CountLineTooBig => f.write_str("too big mbulk count string"),
            Self::InvalidCount => f.write_str("invalid multibulk length"),
            Self::UnauthenticatedCount => f.write_str("unauthenticated multibulk length"),
            Self::LengthLineTooBig => f.write_str("too big bulk count string"),
            Self::ExpectedBulk(byte) => {
                // An error line ends at a line break, so control bytes are shown as blanks.
                let shown = if byte.is_ascii_graphic() {
                    char::from(*byte)
                } else {
                    ' '
                };
                write!(f, "expected '$', got '{shown}'")
            }
            Self::InvalidLength => f.write_str("invalid bulk length"),
            Self::UnauthenticatedLength => f.write_str("unauthenticated bulk length"),
        }
    }
}

/// What one call of [`Parser::advance`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A whole command: its spans were appended. The next one begins at [`Parser::position`].
    Command,
    /// An empty command (an empty line, or a count of 0 or less), which has no reply.
    Nothing,
    /// The buffer ends inside a command. `missing` is how many bytes at least have to follow.
    Incomplete {
        /// Lower bound of the bytes still to come.
        missing: usize,
    },
}

/// The parser's place in a stream of requests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Parser {
    /// Index of the next byte to look at.
    position: usize,
    /// Arguments of the current command that are still to come; 0 between commands.
    args_left: i64,
    /// Length of the argument whose header was read, if its bytes are not there yet.
    bulk_len: Option<usize>,
}

impl Parser {
    /// A parser that begins at `position` between two commands.
    pub(crate) fn at(position: usize) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }

    /// Index of the first byte that was not consumed.
    #[inline]
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Moves the place back by `count` bytes, for a caller that drops that many from the front of its buffer.
    pub(crate) fn rebase(&mut self, count: usize) {
        self.position -= count;
    }

    /// Reads up to the end of the next command in `buf`, appending its arguments to `spans`.
    ///
    /// After [`Progress::Incomplete`] call again with the same bytes and more behind them, and with the spans so far.
    #[inline]
    pub(crate) fn advance(
        &mut self,
        buf: &mut [u8],
        spans: &mut Vec<Span>,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        if self.args_left == 0 {
            match buf.get(self.position) {
                None => return Ok(Progress::Incomplete { missing: 1 }),
                Some(b'*') => {
                    let Some((count, next)) =
                        self.number_line(buf, ProtocolError::CountLineTooBig)?
                    else {
                        return Ok(Progress::Incomplete { missing: 1 });
                    };
                    let count = count.ok_or(ProtocolError::InvalidCount)?;
                    if count > i64::from(i32::MAX) {
                        return Err(ProtocolError::InvalidCount);
                    }
                    if limits.unauthenticated && count > UNAUTHENTICATED_ARGS_MAX {
                        return Err(ProtocolError::UnauthenticatedCount);
                    }
                    self.position = next;
                    if count <= 0 {
                        return Ok(Progress::Nothing);
                    }
                    self.args_left = count;
                }
                Some(_) => return self.inline(buf, spans),
            }
        }
        while self.args_left > 0 {
            let len = match self.bulk_len {
                Some(len) => len,
                None => {
                    match buf.get(self.position) {
                        None => return Ok(Progress::Incomplete { missing: 1 }),
                        Some(b'$') => {}
                        Some(&other) => {
                            // A stray byte is told only once its line is there, so that the answer does not depend
                            // on how the bytes were cut into packets.
                            if self
                                .number_line(buf, ProtocolError::LengthLineTooBig)?
                                .is_none()
                            {
                                return Ok(Progress::Incomplete { missing: 1 });
                            }
                            return Err(ProtocolError::ExpectedBulk(other));
                        }
                    }
                    let Some((len, next)) =
                        self.number_line(buf, ProtocolError::LengthLineTooBig)?
                    else {
                        return Ok(Progress::Incomplete { missing: 1 });
                    };
                    let len = len.ok_or(ProtocolError::InvalidLength)?;
                    if len < 0 || len > limits.bulk_max_bytes {
                        return Err(ProtocolError::InvalidLength);
                    }
                    if limits.unauthenticated && len > UNAUTHENTICATED_BULK_MAX_BYTES {
                        return Err(ProtocolError::UnauthenticatedLength);
                    }
                    let len = usize::try_from(len).map_err(|_| ProtocolError::InvalidLength)?;
                    self.position = next;
                    len
                }
            };
            // The two bytes after an argument are skipped unread, as Redis does.
            let have = buf.len() - self.position;
            if have < len.saturating_add(2) {
                self.bulk_len = Some(len);
                return Ok(Progress::Incomplete {
                    missing: len.saturating_add(2) - have,
                });
            }
            self.bulk_len = None;
            spans.push(Span {
                start: self.position,
                len,
            });
            self.position += len + 2;
            self.args_left -= 1;
        }
        Ok(Progress::Command)
    }

    /// Reads the number of the line at the current position (after its first byte): the number, or `None` if it is
    /// malformed, and the index behind the line. `Ok(None)` if the line is not complete yet.
    #[inline]
    fn number_line(
        &self,
        buf: &[u8],
        too_big: ProtocolError,
    ) -> Result<Option<(Option<i64>, usize)>, ProtocolError> {
        let line = &buf[self.position..];
        // Nearly every count and length has one to three digits.
        if let [_, digit @ b'0'..=b'9', b'\r', _, ..] = line {
            return Ok(Some((Some(i64::from(digit - b'0')), self.position + 4)));
        }
        if let [_, tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] = line {
            let value = i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            return Ok(Some((Some(value), self.position + 5)));
        }
        let window = &line[..line.len().min(LINE_MAX_BYTES + 1)];
        match window.iter().position(|&byte| byte == b'\r') {
            Some(end) if end + 1 < line.len() => {
                let number = line.get(1..end).and_then(decimal);
                Ok(Some((number, self.position + end + 2)))
            }
            Some(_) => Ok(None),
            None if line.len() > LINE_MAX_BYTES => Err(too_big),
            None => Ok(None),
        }
    }

    #[cold]
    fn inline(&mut self, buf: &mut [u8], spans: &mut Vec<Span>) -> Result<Progress, ProtocolError> {
        let rest = &buf[self.position..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            if rest.len() > LINE_MAX_BYTES {
                return Err(ProtocolError::InlineTooBig);
            }
            return Ok(Progress::Incomplete { missing: 1 });
        };
        let line_len = if end > 0 && rest[end - 1] == b'\r' {
            end - 1
        } else {
            end
        };
        let start = self.position;
        let before = spans.len();
        if !split_in_place(&mut buf[start..start + line_len], start, spans) {
            spans.truncate(before);
            return Err(ProtocolError::UnbalancedQuotes);
        }
        self.position = start + end + 1;
        if spans.len() == before {
            Ok(Progress::Nothing)
        } else {
            Ok(Progress::Command)
        }
    }
}

/// Reads a whole decimal number as the protocol writes it: no sign but `-`, no blanks, no leading zeros.
fn decimal(digits: &[u8]) -> Option<i64> {
    let (negative, magnitude) = match digits {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    match magnitude {
        [] => return None,
        [b'0'] if !negative => return Some(0),
        [b'0', ..] => return None,
        _ => {}
    }
    let mut value: i64 = 0;
    for &byte in magnitude {
        if !byte.is_ascii_digit() {
            return None;
        }
        let digit = i64::from(byte - b'0');
        value = value.checked_mul(10)?;
        value = if negative {
            value.checked_sub(digit)?
        } else {
            value.checked_add(digit)?
        };
    }
    Some(value)
}

/// Splits a line of words, some of them quoted, as inline commands and configuration files write them.
///
/// `None` if quotes do not match or text follows a closing quote directly.
pub(crate) fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut bytes = line.to_vec();
    let mut spans = Vec::new();
    if !split_in_place(&mut bytes, 0, &mut spans) {
        return None;
    }
    Some(
        spans
            .iter()
            .map(|span| bytes[span.start..span.start + span.len].to_vec())
            .collect(),
    )
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Splits `line` into words, unescaping them where they stand, and appends their spans, moved by `offset`.
///
/// A NUL byte ends the line. Returns false on unbalanced quotes.
fn split_in_place(line: &mut [u8], offset: usize, spans: &mut Vec<Span>) -> bool {
    let len = line
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(line.len());
    let line = &mut line[..len];
    let mut read = 0;
    loop {
        while read < len && is_blank(line[read]) {
            read += 1;
        }
        if read == len {
            return true;
        }
        let start = read;
        let mut write = read;
        let mut quote = None;
        loop {
            let Some(&byte) = line.get(read) else {
                if quote.is_some() {
                    return false;
                }
                break;
            };
            let out = match quote {
                None if is_blank(byte) => break,
                None if byte == b'"' || byte == b'\'' => {
                    quote = Some(byte);
                    read += 1;
                    continue;
                }
                None => {
                    read += 1;
                    byte
                }
                Some(q) if byte == q => {
                    if line.get(read + 1).is_some_and(|&next| !is_blank(next)) {
                        return false;
                    }
                    read += 1;
                    break;
                }
                Some(b'"') if byte == b'\\' => match line.get(read + 1..) {
                    Some(&[b'x', high, low, ..])
                        if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                    {
                        read += 4;
                        hex_digit(high) << 4 | hex_digit(low)
                    }
                    Some(&[escaped, ..]) => {
                        read += 2;
                        match escaped {
                            b'n' => b'\n',
                            b'r' => b'\r',
                            b't' => b'\t',
                            b'b' => 0x08,
                            b'a' => 0x07,
                            other => other,
                        }
                    }
                    _ => {
                        read += 1;
                        byte
                    }
                },
                Some(b'\'') if byte == b'\\' && line.get(read + 1) == Some(&b'\'') => {
                    read += 2;
                    b'\''
                }
                Some(_) => {
                    read += 1;
                    byte
                }
            };
            line[write] = out;
            write += 1;
        }
        spans.push(Span {
            start: offset + start,
            len: write - start,
        });
    }
}

fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        bulk_max_bytes: 512 << 20,
        unauthenticated: false,
    };

    fn parse_all(input: &[u8], limits: &Limits) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let mut buf = input.to_vec();
        let mut parser = Parser::default();
        let mut commands = Vec::new();
        loop {
            let mut spans = Vec::new();
            match parser.advance(&mut buf, &mut spans, limits)? {
                Progress::Command => {
                    commands.push(
                        spans
                            .iter()
                            .map(|s| buf[s.start..s.start + s.len].to_vec())
                            .collect(),
                    );
                }
                Progress::Nothing => {}
                Progress::Incomplete { .. } => return Ok(commands),
            }
        }
    }

    fn words(line: &str) -> Option<Vec<String>> {
        Some(
            split_words(line.as_bytes())?
                .into_iter()
                .map(|w| String::from_utf8(w).unwrap())
                .collect(),
        )
    }

    #[test]
    fn arrays_and_inline_commands_may_be_mixed() {
        let commands = parse_all(
            b"*2\r\n$3\r\nGET\r\n$5\r\nhello\r\n\r\n*0\r\nSET a 'b c'\r\n*1\r\n$4\r\nPI",
            &LIMITS,
        )
        .unwrap();
        assert_eq!(
            commands,
            vec![
                vec![b"GET".to_vec(), b"hello".to_vec()],
                vec![b"SET".to_vec(), b"a".to_vec(), b"b c".to_vec()]
            ]
        );
    }

    #[test]
    fn a_line_end_where_a_length_should_begin_is_an_error() {
        let stray = parse_all(b"*73\r\n\r\0\xff", &LIMITS);
        assert_eq!(stray, Err(ProtocolError::ExpectedBulk(b'\r')));
    }

    #[test]
    fn one_byte_at_a_time_gives_the_same_as_all_at_once() {
        let input = b"*3\r\n$3\r\nSET\r\n$10\r\n0123456789\r\n$0\r\n\r\nget \"a\\x41\"\r\n*1\r\n$4\r\nPING\r\n";
        let whole = parse_all(input, &LIMITS).unwrap();
        let mut parser = Parser::default();
        let mut spans = Vec::new();
        let mut buf = Vec::new();
        let mut pieces = Vec::new();
        for &byte in input {
            buf.push(byte);
            match parser.advance(&mut buf, &mut spans, &LIMITS).unwrap() {
                Progress::Command => {
                    pieces.push(
                        spans
                            .iter()
                            .map(|s| buf[s.start..s.start + s.len].to_vec())
                            .collect::<Vec<_>>(),
                    );
                    spans.clear();
                }
                Progress::Nothing | Progress::Incomplete { .. } => {}
            }
        }
        assert_eq!(whole, pieces);
        assert_eq!(whole.len(), 3);
    }

    #[test]
    fn errors_are_told_as_redis_tells_them() {
        let cases: [(&[u8], ProtocolError); 8] = [
            (b"*x\r\n", ProtocolError::InvalidCount),
            (b"*01\r\n", ProtocolError::InvalidCount),
            (b"*3000000000\r\n", ProtocolError::InvalidCount),
            (b"*1\r\nfoo\r\n", ProtocolError::ExpectedBulk(b'f')),
            (b"*1\r\n$-1\r\n", ProtocolError::InvalidLength),
            (b"*1\r\n$2000000000\r\n", ProtocolError::InvalidLength),
            (
                b"*1\r\n$9999999999999999999\r\n",
                ProtocolError::InvalidLength,
            ),
            (b"get \"a\r\n", ProtocolError::UnbalancedQuotes),
        ];
        for (input, error) in cases {
            assert_eq!(
                parse_all(input, &LIMITS),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(input)
            );
        }
        let strict = Limits {
            unauthenticated: true,
            ..LIMITS
        };
        assert_eq!(
            parse_all(b"*11\r\n", &strict),
            Err(ProtocolError::UnauthenticatedCount)
        );
        assert_eq!(
            parse_all(b"*1\r\n$16385\r\n", &strict),
            Err(ProtocolError::UnauthenticatedLength)
        );
    }

    #[test]
    fn endless_lines_are_refused() {
        let long = vec![b'1'; LINE_MAX_BYTES + 2];
        assert_eq!(parse_all(&long, &LIMITS), Err(ProtocolError::InlineTooBig));
        assert_eq!(
            parse_all(&[b"*", &long[..]].concat(), &LIMITS),
            Err(ProtocolError::CountLineTooBig)
        );
        assert_eq!(
            parse_all(&[b"*1\r\n$", &long[..]].concat(), &LIMITS),
            Err(ProtocolError::LengthLineTooBig)
        );
    }

    #[test]
    fn missing_bytes_of_an_argument_are_counted() {
        let mut buf = b"*1\r\n$10\r\nabc".to_vec();
        let mut spans = Vec::new();
        let progress = Parser::default()
            .advance(&mut buf, &mut spans, &LIMITS)
            .unwrap();
        assert_eq!(progress, Progress::Incomplete { missing: 9 });
    }

    /// Feeds `input` in pieces of these lengths, over and over, and returns what came of it.
    fn parse_in_pieces(
        input: &[u8],
        lengths: &[usize],
    ) -> Result<Vec<Vec<Vec<u8>>>, ProtocolError> {
        let (mut parser, mut spans, mut buf) = (Parser::default(), Vec::new(), Vec::new());
        let mut commands = Vec::new();
        let mut rest = input;
        for length in lengths.iter().cycle() {
            let (piece, left) = rest.split_at((*length).min(rest.len()));
            buf.extend_from_slice(piece);
            rest = left;
            loop {
                match parser.advance(&mut buf, &mut spans, &LIMITS)? {
                    Progress::Command => {
                        commands.push(spans.iter().map(|s| s.of(&buf).to_vec()).collect());
                        spans.clear();
                    }
                    Progress::Nothing => {}
                    Progress::Incomplete { missing } => {
                        assert!(missing > 0);
                        break;
                    }
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        Ok(commands)
    }

    /// Bytes that are more like requests than random ones are.
    fn request_like() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"*2\r\n".to_vec()),
            Just(b"$3\r\nGET\r\n".to_vec()),
            Just(b"$1\r\nk\r\n".to_vec()),
            Just(b"$-1\r\n".to_vec()),
            Just(b"*0\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"set \"a b\" 'c'\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            commands in proptest::collection::vec(
                proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..8), 0..8),
            lengths in proptest::collection::vec(1..50usize, 1..8),
        ) {
            let mut input = Vec::new();
            for command in &commands {
                input.extend(format!("*{}\r\n", command.len()).into_bytes());
                for argument in command {
                    input.extend(format!("${}\r\n", argument.len()).into_bytes());
                    input.extend_from_slice(argument);
                    input.extend_from_slice(b"\r\n");
                }
            }
            prop_assert_eq!(parse_in_pieces(&input, &lengths), Ok(commands));
        }

        #[test]
        fn pieces_do_not_matter_whatever_comes(
            input in request_like(),
            lengths in proptest::collection::vec(1..20usize, 1..6),
        ) {
            let whole = parse_in_pieces(&input, &[input.len().max(1)]);
            prop_assert_eq!(parse_in_pieces(&input, &lengths), whole);
        }

        #[test]
        fn quoted_words_are_read_back(words in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..10), 0..6)) {
            let line = words.iter().map(|word| {
                let escaped: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
                format!("\"{escaped}\"")
            });
            let line = line.collect::<Vec<_>>().join(" ");
            prop_assert_eq!(split_words(line.as_bytes()), Some(words));
        }
    }

    #[test]
    fn words_are_split_and_unescaped() {
        assert_eq!(
            words("  a  b\t c "),
            Some(vec!["a".into(), "b".into(), "c".into()])
        );
        assert_eq!(
            words(r#""a\x41\n" 'it\'s' x"y z""#),
            Some(vec!["aA\n".into(), "it's".into(), "xy z".into()])
        );
        assert_eq!(words(r#""""#), Some(vec![String::new()]));
        assert_eq!(words(r#""a"b"#), None);
        assert_eq!(words("'a"), None);
        assert_eq!(words(""), Some(vec![]));
    }

    #[test]
    fn decimals_are_strict() {
        assert_eq!(decimal(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(decimal(b"9223372036854775807"), Some(i64::MAX));
        for bad in [&b""[..], b"-", b"-0", b"+1", b"1 ", b"9223372036854775808"] {
            assert_eq!(decimal(bad), None);
        }
    }
}
