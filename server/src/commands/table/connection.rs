//! Commands about the connection itself.

use super::{CommandSpec, Group, categories, command, flags};
use crate::commands::{Handler, connection};

const fn spec(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        categories: categories("connection"),
        flags: flags("noscript loading stale fast no_auth allow_busy"),
        group: Group::Connection,
        ..command(name, arity, handler)
    }
}

pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        flags: flags("loading stale fast"),
        summary: "Returns the message that was given.",
        syntax: "message",
        ..spec("echo", 2, connection::echo)
    },
    CommandSpec {
        flags: flags("fast"),
        summary: "Returns PONG, or the message that was given.",
        syntax: "[message]",
        tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
        ..spec("ping", -1, connection::ping)
    },
    CommandSpec {
        flags: flags("loading stale fast"),
        summary: "Selects the database of this connection.",
        syntax: "index",
        ..spec("select", 2, connection::select)
    },
];
