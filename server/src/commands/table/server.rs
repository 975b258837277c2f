//! Commands about the server and its commands.

use super::{CommandSpec, Flags, Group, Locking, categories, command, container, flags, key};
use crate::commands::{
    Handler, admin, command as handlers, config, debug, history, latency, memory, memory_map,
    slowlog,
};

const fn spec(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        group: Group::Server,
        ..command(name, arity, handler)
    }
}

/// Flags of what only an administrator does.
const ADMIN: Flags = flags("admin noscript loading stale");

const NONDETERMINISTIC: &[&str] = &["nondeterministic_output"];
const ALL_NODES: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];
const SPECIAL_OF_NODES: &[&str] = &[
    "nondeterministic_output",
    "request_policy:all_nodes",
    "response_policy:special",
];
const SPECIAL_OF_SHARDS: &[&str] = &[
    "nondeterministic_output",
    "request_policy:all_shards",
    "response_policy:special",
];

const fn server_container(
    name: &'static str,
    since: &'static str,
    summary: &'static str,
    subcommands: &'static [CommandSpec],
) -> CommandSpec {
    CommandSpec {
        group: Group::Server,
        since,
        summary,
        ..container(name, subcommands)
    }
}

const fn help(since: &'static str) -> CommandSpec {
    CommandSpec {
        flags: flags("loading stale"),
        since,
        summary: "Explains the subcommands.",
        ..spec("help", 2, handlers::help)
    }
}

pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        flags: flags("loading stale"),
        categories: categories("connection"),
        since: "2.8.13",
        complexity: "O(N) where N is the number of commands.",
        summary: "Describes all commands.",
        tips: &["nondeterministic_output_order"],
        subcommands: COMMAND,
        ..spec("command", -1, handlers::command)
    },
    server_container(
        "config",
        "2.0.0",
        "Reads and changes the configuration.",
        CONFIG,
    ),
    CommandSpec {
        flags: flags("admin noscript loading stale protected"),
        complexity: "Depends on the subcommand.",
        summary: "Serves tests and the server's developers.",
        syntax: "subcommand [argument...]",
        is_system: true,
        locking: Locking::All,
        ..spec("debug", -2, debug::debug)
    },
    CommandSpec {
        flags: flags("loading stale"),
        categories: categories("dangerous"),
        summary: "Returns figures of the server.",
        syntax: "[section...]",
        tips: SPECIAL_OF_SHARDS,
        locking: Locking::All,
        ..spec("info", -1, admin::info)
    },
    server_container(
        "latency",
        "2.8.13",
        "Says what held the server up.",
        LATENCY,
    ),
    CommandSpec {
        flags: flags("readonly fast"),
        since: "5.0.0",
        summary: "Draws a picture of where the memory is, and shows the version.",
        syntax: "[VERSION version:integer]",
        locking: Locking::All,
        ..spec("lolwut", -1, admin::lolwut)
    },
    server_container(
        "memory",
        "4.0.0",
        "Says where the memory is, and gives it back.",
        MEMORY,
    ),
    CommandSpec {
        flags: ADMIN,
        summary: "Shows all commands as they are run.",
        ..spec("monitor", 1, admin::monitor)
    },
    CommandSpec {
        flags: flags("admin noscript loading stale no_multi allow_busy"),
        summary: "Ends the server.",
        syntax: "[save-selector=NOSAVE | SAVE] [NOW]@7.0.0 [FORCE]@7.0.0 [ABORT]@7.0.0",
        ..spec("shutdown", -1, admin::shutdown)
    },
    server_container(
        "slowlog",
        "2.2.12",
        "Shows the commands that took long.",
        SLOWLOG,
    ),
    CommandSpec {
        flags: flags("loading stale fast"),
        since: "2.6.0",
        summary: "Returns the time.",
        tips: NONDETERMINISTIC,
        ..spec("time", 1, admin::time)
    },
];

const CONFIG: &[CommandSpec] = &[
    CommandSpec {
        flags: ADMIN,
        since: "2.0.0",
        complexity: "O(N) where N is the number of patterns times the number of directives.",
        summary: "Returns the values of directives.",
        syntax: "parameter...",
        ..spec("get", -3, config::get)
    },
    help("5.0.0"),
    CommandSpec {
        flags: ADMIN,
        since: "2.0.0",
        summary: "Sets the statistics to zero.",
        tips: ALL_NODES,
        locking: Locking::All,
        ..spec("resetstat", 2, config::resetstat)
    },
    CommandSpec {
        flags: ADMIN,
        since: "2.8.0",
        summary: "Writes the configuration file again, with the values in force.",
        tips: ALL_NODES,
        ..spec("rewrite", 2, config::rewrite)
    },
    CommandSpec {
        flags: ADMIN,
        since: "2.0.0",
        complexity: "O(N) where N is the number of directives.",
        summary: "Changes directives, all of them or none.",
        syntax: "<data=parameter value>...",
        tips: ALL_NODES,
        ..spec("set", -4, config::set)
    },
];

const fn about_latency(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        flags: ADMIN,
        since: "2.8.13",
        tips: SPECIAL_OF_NODES,
        ..spec(name, arity, handler)
    }
}

const LATENCY: &[CommandSpec] = &[
    CommandSpec {
        summary: "Explains the delays that were seen, and what may help.",
        ..about_latency("doctor", 2, latency::doctor)
    },
    CommandSpec {
        summary: "Draws the delays of an event.",
        syntax: "event",
        ..about_latency("graph", 3, latency::graph)
    },
    help("2.8.13"),
    CommandSpec {
        since: "7.0.0",
        complexity: "O(N) where N is the number of commands that are described.",
        summary: "Returns how long calls of commands took.",
        syntax: "[command...]",
        ..about_latency("histogram", -2, latency::histogram)
    },
    CommandSpec {
        summary: "Returns the delays of an event.",
        syntax: "event",
        ..about_latency("history", 3, latency::history)
    },
    CommandSpec {
        summary: "Returns the latest delay of every event.",
        ..about_latency("latest", 2, latency::latest)
    },
    CommandSpec {
        summary: "Forgets the delays of events.",
        syntax: "[event...]",
        tips: &["request_policy:all_nodes", "response_policy:agg_sum"],
        ..about_latency("reset", -2, latency::reset)
    },
];

const fn about_memory(name: &'static str, handler: Handler) -> CommandSpec {
    CommandSpec {
        since: "4.0.0",
        tips: SPECIAL_OF_SHARDS,
        locking: Locking::All,
        ..spec(name, 2, handler)
    }
}

const MEMORY: &[CommandSpec] = &[
    CommandSpec {
        arity: -2,
        complexity: "O(N) where N is the number of objects in sparse slabs, or of slabs.",
        summary: "Moves objects together until no sparse slab is left, or says what that has done or would do.",
        syntax: "[what=NOW | STATUS | DRYRUN | class:integer...]",
        tips: &["request_policy:all_shards", "response_policy:special"],
        locking: Locking::Walk,
        ..about_memory("compact", memory::compact)
    },
    CommandSpec {
        complexity: "O(N) where N is the number of slabs.",
        summary: "Says what is wrong with the use of memory.",
        locking: Locking::Walk,
        ..about_memory("doctor", memory::doctor)
    },
    help("4.0.0"),
    CommandSpec {
        arity: -2,
        complexity: "O(N) where N is the number of rows returned.",
        summary: "Returns how memory, load and latency went over the last hour or day.",
        syntax: "[range=SECONDS seconds | MINUTES minutes]",
        locking: Locking::Walk,
        ..about_memory("history", history::history)
    },
    CommandSpec {
        summary: "Returns figures of the allocator.",
        ..about_memory("malloc-stats", memory::malloc_stats)
    },
    CommandSpec {
        arity: -2,
        complexity: "O(N) where N is the number of chunks and slabs looked at.",
        summary: "Returns what lies where, chunk by chunk, or draws a picture of it.",
        syntax: "[PICTURE] [CURSOR cursor] [COUNT count] [SLABS] [COLUMNS columns:integer] [ROWS rows:integer] \
                 [BY <by=CLASS | OCCUPANCY>] [PLAIN]",
        locking: Locking::Walk,
        ..about_memory("map", memory_map::map)
    },
    CommandSpec {
        complexity: "O(N) where N is the number of free pages.",
        summary: "Gives free pages back to the system.",
        tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
        locking: Locking::Walk,
        ..about_memory("purge", memory::purge)
    },
    CommandSpec {
        arity: -2,
        summary: "Returns where the memory is.",
        syntax: "[JSON]",
        ..about_memory("stats", memory::stats)
    },
    CommandSpec {
        arity: -3,
        flags: flags("readonly"),
        keys: &[key(2, "ro")],
        summary: "Returns how much memory a key takes.",
        syntax: "key [SAMPLES count] [WHERE]",
        tips: &[],
        locking: Locking::Keys,
        ..about_memory("usage", memory::usage)
    },
];

const fn about_slow_commands(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        flags: flags("admin loading stale"),
        since: "2.2.12",
        ..spec(name, arity, handler)
    }
}

const SLOWLOG: &[CommandSpec] = &[
    CommandSpec {
        complexity: "O(N) where N is the number of entries returned.",
        summary: "Returns the newest entries.",
        syntax: "[count] [WAITS]",
        tips: &["request_policy:all_nodes", "nondeterministic_output"],
        ..about_slow_commands("get", -2, slowlog::get)
    },
    help("6.2.0"),
    CommandSpec {
        summary: "Returns the number of entries.",
        tips: &[
            "request_policy:all_nodes",
            "response_policy:agg_sum",
            "nondeterministic_output",
        ],
        ..about_slow_commands("len", 2, slowlog::len)
    },
    CommandSpec {
        complexity: "O(N) where N is the number of entries.",
        summary: "Drops all entries.",
        tips: ALL_NODES,
        ..about_slow_commands("reset", 2, slowlog::reset)
    },
];

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
