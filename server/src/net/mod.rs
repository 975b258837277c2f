//! Sockets: waiting for them, reading requests from them, and writing replies to them.
//!
//! Nothing here knows what a command is.

pub(crate) mod connection;
pub(crate) mod poll;
pub(crate) mod socket;
