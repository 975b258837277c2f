//! What a command can fail with. The texts are Redis's, since clients match on them.

use std::borrow::Cow;

use kvstore::{OutOfMemory, UpdateError};

/// An error reply, without its leading `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandError {
    text: Cow<'static, [u8]>,
}

impl CommandError {
    /// Wrong syntax of options.
    pub(crate) const SYNTAX: Self = Self::new("ERR syntax error");
    /// The key holds another type.
    pub(crate) const WRONG_TYPE: Self =
        Self::new("WRONGTYPE Operation against a key holding the wrong kind of value");
    /// No number, or a number beyond 64 bits.
    pub(crate) const NOT_AN_INTEGER: Self =
        Self::new("ERR value is not an integer or out of range");
    /// No floating point number.
    pub(crate) const NOT_A_FLOAT: Self = Self::new("ERR value is not a valid float");
    /// A key that must exist does not.
    pub(crate) const NO_SUCH_KEY: Self = Self::new("ERR no such key");
    /// An index beyond what exists.
    pub(crate) const OUT_OF_RANGE: Self = Self::new("ERR index out of range");
    /// A number that must be positive and is not.
    pub(crate) const NOT_POSITIVE: Self = Self::new("ERR value is out of range, must be positive");
    /// A database number that does not exist.
    pub(crate) const DB_OUT_OF_RANGE: Self = Self::new("ERR DB index is out of range");
    /// Memory is over `maxmemory` and nothing can be evicted.
    pub(crate) const OUT_OF_MEMORY: Self =
        Self::new("OOM command not allowed when used memory > 'maxmemory'.");

    /// An error with a fixed text, which begins with its code.
    pub(crate) const fn new(text: &'static str) -> Self {
        Self {
            text: Cow::Borrowed(text.as_bytes()),
        }
    }

    /// The text on the wire.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }
}

impl From<OutOfMemory> for CommandError {
    fn from(_: OutOfMemory) -> Self {
        Self::OUT_OF_MEMORY
    }
}

impl From<UpdateError> for CommandError {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::OutOfMemory => Self::OUT_OF_MEMORY,
            UpdateError::WrongType => Self::WRONG_TYPE,
            UpdateError::NotAnInteger => Self::NOT_AN_INTEGER,
            UpdateError::Overflow => Self::new("ERR increment or decrement would overflow"),
        }
    }
}

impl From<String> for CommandError {
    fn from(text: String) -> Self {
        Self {
            text: Cow::Owned(text.into_bytes()),
        }
    }
}

impl From<Vec<u8>> for CommandError {
    fn from(text: Vec<u8>) -> Self {
        Self {
            text: Cow::Owned(text),
        }
    }
}
