//! What can go wrong.

use std::fmt;

/// No memory for the change; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the shard's arena has no memory for the entry")
    }
}

impl std::error::Error for OutOfMemory {}

/// Why a value could not be changed; it is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// No memory for the new value.
    OutOfMemory,
    /// The key holds a value of another type.
    WrongType,
    /// The string is not an integer in 64 bits.
    NotAnInteger,
    /// The result does not fit in 64 bits.
    Overflow,
}

impl From<OutOfMemory> for UpdateError {
    fn from(_: OutOfMemory) -> Self {
        UpdateError::OutOfMemory
    }
}

impl fmt::Display for UpdateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UpdateError::OutOfMemory => "no memory for the new value",
            UpdateError::WrongType => "the key holds a value of another type",
            UpdateError::NotAnInteger => "the value is not an integer in 64 bits",
            UpdateError::Overflow => "the result does not fit in 64 bits",
        })
    }
}

impl std::error::Error for UpdateError {}

/// Why a keyspace could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyspaceError {
    /// The number of shards is not 1 to [`SHARDS_MAX`](crate::SHARDS_MAX).
    Shards(usize),
    /// The number of databases is not 1 to [`DATABASES_MAX`](crate::DATABASES_MAX).
    Databases(usize),
    /// The address space for the shards' arenas could not be reserved.
    OutOfMemory,
}

impl fmt::Display for KeyspaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyspaceError::Shards(given) => {
                write!(
                    f,
                    "{given} shards; it must be 1 to {}",
                    crate::key::SHARDS_MAX
                )
            }
            KeyspaceError::Databases(given) => {
                write!(f, "{given} databases; it must be 1 to {DATABASES_MAX}")
            }
            KeyspaceError::OutOfMemory => {
                f.write_str("the address space of the arenas could not be reserved")
            }
        }
    }
}

impl std::error::Error for KeyspaceError {}

/// The most databases a keyspace can have.
pub const DATABASES_MAX: usize = 65_536;
