//! Commands: the table that describes them, the way a request goes to its handler, and the handlers.
//!
//! A handler is a function of a [`Context`] and the arguments. The context holds the locked shards,
//! the session, the reply and read-only views of the rest; a handler never sees the server or a socket.

pub(crate) mod admin;
pub(crate) mod args;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod context;
pub(crate) mod debug;
pub(crate) mod dispatch;
pub(crate) mod error;
pub(crate) mod expiration;
pub(crate) mod history;
pub(crate) mod keys;
pub(crate) mod latency;
pub(crate) mod lookup;
pub(crate) mod memory;
pub(crate) mod memory_map;
pub(crate) mod script;
pub(crate) mod set_options;
pub(crate) mod slowlog;
pub(crate) mod string;
pub(crate) mod syntax;
pub(crate) mod table;
pub(crate) mod transaction;

use args::Args;
use context::Context;
use error::CommandError;

/// What a handler comes to. It has written its reply unless it fails.
pub(crate) type CommandResult = Result<(), CommandError>;

/// What runs a command.
pub(crate) type Handler = fn(&mut Context<'_>, Args<'_>) -> CommandResult;
