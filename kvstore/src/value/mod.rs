//! What a key can hold.
//!
//! A value is reached by reference into its entry; the reference lives as long as the borrow of the
//! [`Db`](crate::Db) that it came from, so nothing can move or free it meanwhile.

pub mod string;

use string::StringRef;

/// The type of a value, as TYPE names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueType {
    /// Bytes, or an integer stored as such.
    String,
}

impl ValueType {
    /// The name that TYPE replies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ValueType::String => "string",
        }
    }
}

/// How a value is stored, as OBJECT ENCODING names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Encoding {
    /// A signed integer in 1, 2, 4 or 8 bytes.
    Int,
    /// Bytes of a short string that has not been changed in place.
    EmbeddedString,
    /// Bytes of a long string, or of one that APPEND or SETRANGE made.
    RawString,
}

impl Encoding {
    /// The name that OBJECT ENCODING replies.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Int => "int",
            Encoding::EmbeddedString => "embstr",
            Encoding::RawString => "raw",
        }
    }
}

/// A value, by reference into its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ValueRef<'a> {
    /// A string.
    String(StringRef<'a>),
}

impl ValueRef<'_> {
    /// Its type.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match self {
            ValueRef::String(_) => ValueType::String,
        }
    }
}

/// A value to be stored.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum NewValue<'a> {
    /// A string; stored as an integer if it is the canonical decimal form of one, as SET does.
    String(&'a [u8]),
    /// A string that stays bytes whatever it says.
    Bytes(&'a [u8]),
    /// An integer.
    Int(i64),
}
