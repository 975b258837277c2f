//! Commands that make transactions.

use super::{CommandSpec, Group, Locking, categories, command, flags, keys};
use crate::commands::{Handler, transaction};

const fn spec(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        categories: categories("transaction"),
        flags: flags("noscript loading stale fast allow_busy"),
        since: "2.2.0",
        group: Group::Transactions,
        ..command(name, arity, handler)
    }
}

pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        since: "2.0.0",
        complexity: "O(N) where N is the number of queued commands.",
        summary: "Forgets the queued commands and ends the transaction.",
        ..spec("discard", 1, transaction::discard)
    },
    CommandSpec {
        flags: flags("noscript loading stale skip_slowlog"),
        since: "1.2.0",
        complexity: "That of the queued commands.",
        summary: "Runs the queued commands, unless a watched key has changed.",
        locking: Locking::Transaction,
        ..spec("exec", 1, transaction::exec)
    },
    CommandSpec {
        since: "1.2.0",
        summary: "Begins a transaction: the commands that follow are queued.",
        ..spec("multi", 1, transaction::multi)
    },
    CommandSpec {
        summary: "Watches no key any more.",
        ..spec("unwatch", 1, transaction::unwatch)
    },
    CommandSpec {
        keys: &[keys(1, -1, 1, "RO")],
        complexity: "O(1) for each key.",
        summary: "Makes the next transaction depend on keys that must not change until it runs.",
        syntax: "key...",
        ..spec("watch", -2, transaction::watch)
    },
];
