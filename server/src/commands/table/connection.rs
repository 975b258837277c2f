//! Commands about the connection itself, and about all clients.

use super::{CommandSpec, Flags, Group, categories, command, container, flags};
use crate::commands::{Handler, client, command as handlers, connection};

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
        complexity: "O(N) where N is the length of the password.",
        summary: "Authenticates the connection.",
        syntax: "[username]@6.0.0 password",
        ..spec("auth", -2, connection::auth)
    },
    CommandSpec {
        group: Group::Connection,
        since: "2.4.0",
        summary: "Looks at connections and controls them.",
        ..container("client", CLIENT)
    },
    CommandSpec {
        flags: flags("loading stale fast"),
        summary: "Returns the message that was given.",
        syntax: "message",
        ..spec("echo", 2, connection::echo)
    },
    CommandSpec {
        since: "6.0.0",
        summary: "Chooses the version of the protocol, and may authenticate and name the connection.",
        syntax: "[arguments=protover:integer [AUTH <auth=username password>] [SETNAME clientname]]",
        ..spec("hello", -1, connection::hello)
    },
    CommandSpec {
        flags: flags("fast"),
        summary: "Returns PONG, or the message that was given.",
        syntax: "[message]",
        tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
        ..spec("ping", -1, connection::ping)
    },
    CommandSpec {
        summary: "Closes the connection.",
        deprecated_since: "7.2.0",
        replaced_by: "just closing the connection",
        ..spec("quit", -1, connection::quit)
    },
    CommandSpec {
        since: "6.2.0",
        summary: "Makes the connection as it was when it began.",
        ..spec("reset", 1, connection::reset)
    },
    CommandSpec {
        flags: flags("loading stale fast"),
        summary: "Selects the database of this connection.",
        syntax: "index",
        ..spec("select", 2, connection::select)
    },
];

const fn about_clients(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        flags: flags("noscript loading stale"),
        ..spec(name, arity, handler)
    }
}

const ADMIN: Flags = flags("admin noscript loading stale");

const ALL_NODES: &[&str] = &["request_policy:all_nodes", "response_policy:all_succeeded"];

const CLIENT: &[CommandSpec] = &[
    CommandSpec {
        since: "2.6.9",
        summary: "Returns the name of this connection.",
        ..about_clients("getname", 2, client::getname)
    },
    CommandSpec {
        since: "5.0.0",
        flags: flags("loading stale"),
        summary: "Explains the subcommands.",
        ..about_clients("help", 2, handlers::help)
    },
    CommandSpec {
        since: "5.0.0",
        summary: "Returns the unique number of this connection.",
        ..about_clients("id", 2, client::id)
    },
    CommandSpec {
        since: "6.2.0",
        summary: "Describes this connection.",
        tips: &["nondeterministic_output"],
        ..about_clients("info", 2, client::info)
    },
    CommandSpec {
        since: "2.4.0",
        flags: ADMIN,
        complexity: "O(N) where N is the number of connections.",
        summary: "Closes connections.",
        syntax: "<filter=old-format\"ip:port\"@-2.8.12 | <new-format=[ID client-id]@2.8.12 \
                 | [TYPE <client-type=NORMAL | MASTER@3.2.0 | SLAVE | REPLICA@5.0.0 | PUBSUB>]@2.8.12 \
                 | [USER username] | [ADDR addr\"ip:port\"] | [LADDR laddr\"ip:port\"]@6.2.0 \
                 | [SKIPME <skipme=YES | NO>] | [MAXAGE maxage:integer]@7.4.0>...>",
        ..about_clients("kill", -3, client::kill)
    },
    CommandSpec {
        since: "2.4.0",
        flags: ADMIN,
        complexity: "O(N) where N is the number of connections.",
        summary: "Describes connections.",
        syntax: "[TYPE <client-type=NORMAL | MASTER | REPLICA | PUBSUB>]@5.0.0 [ID client-id...]@6.2.0",
        tips: &["nondeterministic_output"],
        ..about_clients("list", -2, client::list)
    },
    CommandSpec {
        since: "7.0.0",
        flags: ADMIN,
        summary: "Keeps this connection from being closed when connections take too much memory.",
        syntax: "<enabled=ON | OFF>",
        ..about_clients("no-evict", 3, client::no_evict)
    },
    CommandSpec {
        since: "7.2.0",
        summary: "Lets this connection read keys without that counting as a use of them.",
        syntax: "<enabled=ON | OFF>",
        ..about_clients("no-touch", 3, client::no_touch)
    },
    CommandSpec {
        since: "3.0.0",
        flags: ADMIN,
        summary: "Lets the commands of all connections wait.",
        syntax: "timeout [mode=WRITE | ALL]@6.2.0",
        ..about_clients("pause", -3, client::pause)
    },
    CommandSpec {
        since: "3.2.0",
        summary: "Says whether this connection wants replies.",
        syntax: "<action=ON | OFF | SKIP>",
        ..about_clients("reply", 3, client::reply)
    },
    CommandSpec {
        since: "7.2.0",
        summary: "Says what library this connection uses.",
        syntax: "<attr=LIB-NAME libname | LIB-VER libver>",
        tips: ALL_NODES,
        ..about_clients("setinfo", 4, client::setinfo)
    },
    CommandSpec {
        since: "2.6.9",
        summary: "Names this connection.",
        syntax: "connection-name",
        tips: ALL_NODES,
        ..about_clients("setname", 3, client::setname)
    },
    CommandSpec {
        since: "5.0.0",
        flags: ADMIN,
        complexity: "O(log N) where N is the number of connections.",
        summary: "Ends the waiting of a connection whose command blocks.",
        syntax: "client-id [unblock-type=TIMEOUT | ERROR]",
        ..about_clients("unblock", -3, client::unblock)
    },
    CommandSpec {
        since: "6.2.0",
        flags: ADMIN,
        complexity: "O(N) where N is the number of connections that wait.",
        summary: "Ends the wait that CLIENT PAUSE began.",
        ..about_clients("unpause", 2, client::unpause)
    },
];
