//! What clients and test suites expect of a server without scripts and functions: there are none to flush.

use super::{CommandSpec, Group, categories, command, container, flags};
use crate::commands::script;

const FLUSH: CommandSpec = CommandSpec {
    categories: categories("scripting"),
    group: Group::Scripting,
    ..command("flush", -2, script::flush)
};

pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        since: "7.0.0",
        group: Group::Scripting,
        summary: "Manages functions, of which there are none.",
        ..container(
            "function",
            &[CommandSpec {
                flags: flags("write noscript"),
                since: "7.0.0",
                summary: "Deletes all functions, of which there are none.",
                syntax: "[flush-type=ASYNC | SYNC]",
                tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
                ..FLUSH
            }],
        )
    },
    CommandSpec {
        since: "2.6.0",
        group: Group::Scripting,
        summary: "Manages scripts, of which there are none.",
        ..container(
            "script",
            &[CommandSpec {
                flags: flags("noscript"),
                since: "2.6.0",
                summary: "Deletes all scripts, of which there are none.",
                syntax: "[flush-type=ASYNC | SYNC]@6.2.0",
                tips: &["request_policy:all_nodes", "response_policy:all_succeeded"],
                ..FLUSH
            }],
        )
    },
];
