//! The arguments of one command: slices of the buffer that they came in, and its keys with their hashes.

use kvstore::Key;

use crate::commands::error::CommandError;
use crate::resp::parse::Span;

/// The arguments, the command's name being number 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
    keys: &'a [Key<'a>],
}

impl<'a> Args<'a> {
    /// The arguments that `spans` mark in `bytes`.
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Self {
            bytes,
            spans,
            keys: &[],
        }
    }

    /// The same arguments with the keys that were found among them.
    #[inline]
    pub(crate) fn with_keys(self, keys: &'a [Key<'a>]) -> Self {
        Self { keys, ..self }
    }

    /// Number of arguments, the name included.
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.spans.len()
    }

    /// Argument `index`.
    ///
    /// # Panics
    /// If there are not so many. The arity in the command table says how many a handler can rely on.
    #[inline]
    pub(crate) fn get(self, index: usize) -> &'a [u8] {
        self.spans[index].of(self.bytes)
    }

    /// Argument `index`, if there are so many.
    #[inline]
    pub(crate) fn try_get(self, index: usize) -> Option<&'a [u8]> {
        Some(self.spans.get(index)?.of(self.bytes))
    }

    /// Whether argument `index` exists and equals `word`, which is in lower case, without regard to case.
    #[inline]
    pub(crate) fn is(self, index: usize, word: &str) -> bool {
        self.try_get(index)
            .is_some_and(|argument| argument.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The arguments from `start` on.
    pub(crate) fn from(self, start: usize) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        self.spans[start.min(self.spans.len())..]
            .iter()
            .map(move |span| span.of(self.bytes))
    }

    /// Argument `index` as an integer of 64 bits.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub(crate) fn integer(self, index: usize) -> Result<i64, CommandError> {
        kvstore::parse_integer(self.get(index)).ok_or(CommandError::NOT_AN_INTEGER)
    }

    /// Argument `index` as an integer of 32 bits, such as the number of a database.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn small_integer(self, index: usize) -> Result<i32, CommandError> {
        i32::try_from(self.integer(index)?).map_err(|_| {
            let (least, most) = (i32::MIN, i32::MAX);
            format!("ERR value is out of range, value must between {least} and {most}").into()
        })
    }

    /// Key `index` in the order in which the command's key specs find them.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub(crate) fn key(self, index: usize) -> Key<'a> {
        self.keys[index]
    }

    /// All keys, in the order in which the command's key specs find them.
    #[inline]
    pub(crate) fn keys(self) -> &'a [Key<'a>] {
        self.keys
    }

    /// The arguments without the first `count` ones, for commands that are given another command.
    pub(crate) fn skip(self, count: usize) -> Self {
        Self {
            spans: &self.spans[count.min(self.spans.len())..],
            keys: &[],
            ..self
        }
    }

    /// Where each argument lies, and the bytes that they lie in.
    pub(crate) fn parts(self) -> (&'a [u8], &'a [Span]) {
        (self.bytes, self.spans)
    }
}
