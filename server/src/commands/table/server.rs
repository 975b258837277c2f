//! Commands about the server and its commands.

use super::{CommandSpec, Group, categories, command, flags};
use crate::commands::{Handler, command as handlers};

const fn spec(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        group: Group::Server,
        ..command(name, arity, handler)
    }
}

pub(super) const COMMANDS: &[CommandSpec] = &[CommandSpec {
    flags: flags("loading stale"),
    categories: categories("connection"),
    since: "2.8.13",
    complexity: "O(N) where N is the number of commands.",
    summary: "Describes all commands.",
    tips: &["nondeterministic_output_order"],
    subcommands: COMMAND,
    ..spec("command", -1, handlers::command)
}];

const fn about_commands(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        flags: flags("loading stale"),
        categories: categories("connection"),
        since: "2.8.13",
        ..spec(name, arity, handler)
    }
}

const COMMAND: &[CommandSpec] = &[
    CommandSpec {
        summary: "Returns the number of commands.",
        ..about_commands("count", 2, handlers::count)
    },
    CommandSpec {
        since: "7.0.0",
        complexity: "O(N) where N is the number of commands that are described.",
        summary: "Describes commands for people to read.",
        syntax: "[command-name...]",
        tips: &["nondeterministic_output_order"],
        ..about_commands("docs", -2, handlers::docs)
    },
    CommandSpec {
        complexity: "O(N) where N is the number of arguments.",
        summary: "Returns which arguments of a command are keys.",
        syntax: "command [arg...]",
        ..about_commands("getkeys", -3, handlers::getkeys)
    },
    CommandSpec {
        since: "7.0.0",
        complexity: "O(N) where N is the number of arguments.",
        summary: "Returns which arguments of a command are keys and what becomes of each.",
        syntax: "command [arg...]",
        ..about_commands("getkeysandflags", -3, handlers::getkeysandflags)
    },
    CommandSpec {
        since: "5.0.0",
        summary: "Explains the subcommands.",
        ..about_commands("help", 2, handlers::help)
    },
    CommandSpec {
        complexity: "O(N) where N is the number of commands that are described.",
        summary: "Describes commands for clients.",
        syntax: "[command-name...]",
        tips: &["nondeterministic_output_order"],
        ..about_commands("info", -2, handlers::info)
    },
    CommandSpec {
        since: "7.0.0",
        complexity: "O(N) where N is the number of commands.",
        summary: "Returns the names of commands.",
        syntax: "[FILTERBY <filterby=MODULE module-name | ACLCAT category | PATTERN pattern>]",
        tips: &["nondeterministic_output_order"],
        ..about_commands("list", -2, handlers::list)
    },
];
