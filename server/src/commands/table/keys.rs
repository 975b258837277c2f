//! Commands on keys of any type, on whole databases and on iteration.

use super::{CommandSpec, Group, Locking, categories, command, container, flags, key, keys};
use crate::commands::command::help;
use crate::commands::{Handler, expiration, keys as handlers};

const fn spec(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        categories: categories("keyspace"),
        ..command(name, arity, handler)
    }
}

/// The options that EXPIRE and its kin share.
macro_rules! with_condition {
    ($time:literal) => {
        concat!("key ", $time, " [condition=NX | XX | GT | LT]@7.0.0")
    };
}

pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        flags: flags("write denyoom"),
        keys: &[key(1, "RO access"), key(2, "OW update")],
        since: "6.2.0",
        complexity: "O(N) where N is the size of the value.",
        summary: "Copies the value of a key to another key.",
        syntax: "source:key destination:key#1 [DB destination-db:integer] [REPLACE]",
        ..spec("copy", -3, handlers::copy)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        group: Group::Server,
        summary: "Returns the number of keys in the selected database.",
        tips: &["request_policy:all_shards", "response_policy:agg_sum"],
        locking: Locking::Walk,
        ..spec("dbsize", 1, handlers::dbsize)
    },
    CommandSpec {
        flags: flags("write"),
        keys: &[keys(1, -1, 1, "RM delete")],
        complexity: "O(N) where N is the number of keys, plus the number of blocks that their values consist of.",
        summary: "Deletes keys.",
        syntax: "key...",
        tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
        ..spec("del", -2, handlers::del)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[keys(1, -1, 1, "RO")],
        complexity: "O(N) where N is the number of keys.",
        summary: "Counts which of the given keys exist.",
        syntax: "key...",
        tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
        ..spec("exists", -2, handlers::exists)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[key(1, "RW update")],
        summary: "Lets a key expire after some seconds.",
        syntax: with_condition!("seconds"),
        ..spec("expire", -3, expiration::expire)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[key(1, "RW update")],
        since: "1.2.0",
        summary: "Lets a key expire at a Unix time in seconds.",
        syntax: with_condition!("unix-time-seconds"),
        ..spec("expireat", -3, expiration::expireat)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[key(1, "RO access")],
        since: "7.0.0",
        summary: "Returns when a key expires, as a Unix time in seconds.",
        syntax: "key",
        ..spec("expiretime", 2, expiration::expiretime)
    },
    CommandSpec {
        flags: flags("write"),
        categories: categories("keyspace dangerous"),
        group: Group::Server,
        complexity: "O(N) where N is the number of keys in all databases.",
        summary: "Deletes all keys of all databases.",
        syntax: "[flush-type=ASYNC@4.0.0 | SYNC@6.2.0]",
        tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
        locking: Locking::All,
        ..spec("flushall", -1, handlers::flushall)
    },
    CommandSpec {
        flags: flags("write"),
        categories: categories("keyspace dangerous"),
        group: Group::Server,
        complexity: "O(N) where N is the number of keys in the selected database.",
        summary: "Deletes all keys of the selected database.",
        syntax: "[flush-type=ASYNC@4.0.0 | SYNC@6.2.0]",
        tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
        locking: Locking::All,
        ..spec("flushdb", -1, handlers::flushdb)
    },
    CommandSpec {
        flags: flags("readonly"),
        categories: categories("keyspace dangerous"),
        complexity: "O(N) where N is the number of keys in the selected database.",
        summary: "Returns all keys that match a pattern.",
        syntax: "pattern",
        tips: &["request_policy:all_shards", "nondeterministic_output_order"],
        locking: Locking::Walk,
        ..spec("keys", 2, handlers::keys)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[key(1, "RW access update")],
        summary: "Moves a key to another database.",
        syntax: "key db",
        ..spec("move", 3, handlers::move_key)
    },
    CommandSpec {
        since: "2.2.3",
        summary: "Looks at how values are stored.",
        ..container("object", OBJECT)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[key(1, "RW update")],
        since: "2.2.0",
        summary: "Removes the expiration of a key.",
        syntax: "key",
        ..spec("persist", 2, expiration::persist)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[key(1, "RW update")],
        since: "2.6.0",
        summary: "Lets a key expire after some milliseconds.",
        syntax: with_condition!("milliseconds"),
        ..spec("pexpire", -3, expiration::pexpire)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[key(1, "RW update")],
        since: "2.6.0",
        summary: "Lets a key expire at a Unix time in milliseconds.",
        syntax: with_condition!("unix-time-milliseconds"),
        ..spec("pexpireat", -3, expiration::pexpireat)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[key(1, "RO access")],
        since: "7.0.0",
        summary: "Returns when a key expires, as a Unix time in milliseconds.",
        syntax: "key",
        ..spec("pexpiretime", 2, expiration::pexpiretime)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[key(1, "RO access")],
        since: "2.6.0",
        summary: "Returns for how many milliseconds a key will still exist.",
        syntax: "key",
        tips: &["nondeterministic_output"],
        ..spec("pttl", 2, expiration::pttl)
    },
    CommandSpec {
        flags: flags("readonly"),
        summary: "Returns a key of the selected database, picked at random.",
        tips: &[
            "request_policy:all_shards",
            "response_policy:special",
            "nondeterministic_output",
        ],
        locking: Locking::Walk,
        ..spec("randomkey", 1, handlers::randomkey)
    },
    CommandSpec {
        flags: flags("write"),
        keys: &[key(1, "RW access delete"), key(2, "OW update")],
        summary: "Gives a key another name, replacing the key that had it.",
        syntax: "key newkey#1",
        ..spec("rename", 3, handlers::rename)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[key(1, "RW access delete"), key(2, "OW insert")],
        summary: "Gives a key another name if no key has it.",
        syntax: "key newkey#1",
        ..spec("renamenx", 3, handlers::renamenx)
    },
    CommandSpec {
        flags: flags("readonly"),
        since: "2.8.0",
        complexity: "O(1) per call, O(N) for a whole iteration, where N is the number of keys in the database.",
        summary: "Walks over the keys of the selected database, a few with each call.",
        syntax: "cursor [MATCH pattern] [COUNT count] [TYPE type@6.0.0]",
        tips: &[
            "nondeterministic_output",
            "request_policy:special",
            "response_policy:special",
        ],
        locking: Locking::Walk,
        ..spec("scan", -2, handlers::scan)
    },
    CommandSpec {
        flags: flags("write fast"),
        categories: categories("keyspace dangerous"),
        since: "4.0.0",
        group: Group::Server,
        complexity: "O(N) where N is the number of watched keys.",
        summary: "Swaps two databases.",
        syntax: "index1:integer index2:integer",
        locking: Locking::All,
        ..spec("swapdb", 3, handlers::swapdb)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[keys(1, -1, 1, "RO")],
        since: "3.2.1",
        complexity: "O(N) where N is the number of keys.",
        summary: "Counts which of the given keys exist, and marks them as used now.",
        syntax: "key...",
        tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
        ..spec("touch", -2, handlers::touch)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[key(1, "RO access")],
        summary: "Returns for how many seconds a key will still exist.",
        syntax: "key",
        tips: &["nondeterministic_output"],
        ..spec("ttl", 2, expiration::ttl)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[key(1, "RO")],
        summary: "Returns the type of the value at a key.",
        syntax: "key",
        ..spec("type", 2, handlers::type_of)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[keys(1, -1, 1, "RM delete")],
        since: "4.0.0",
        complexity: "O(1) per key; memory of large values is given back later.",
        summary: "Deletes keys and gives the memory of large values back later.",
        syntax: "key...",
        tips: &["request_policy:multi_shard", "response_policy:agg_sum"],
        ..spec("unlink", -2, handlers::unlink)
    },
];

const OBJECT: &[CommandSpec] = &[
    CommandSpec {
        flags: flags("readonly"),
        keys: &[key(2, "RO")],
        since: "2.2.3",
        summary: "Returns how the value at a key is stored.",
        syntax: "key",
        tips: &["nondeterministic_output"],
        ..spec("encoding", 3, handlers::object_encoding)
    },
    CommandSpec {
        flags: flags("readonly"),
        keys: &[key(2, "RO")],
        since: "4.0.0",
        summary: "Returns how often a key is used, on a logarithmic scale.",
        syntax: "key",
        tips: &["nondeterministic_output"],
        ..spec("freq", 3, handlers::object_freq)
    },
    CommandSpec {
        flags: flags("loading stale"),
        since: "6.2.0",
        summary: "Explains the subcommands.",
        ..spec("help", 2, help)
    },
    CommandSpec {
        flags: flags("readonly"),
        keys: &[key(2, "RO")],
        since: "2.2.3",
        summary: "Returns for how many seconds a key has not been used.",
        syntax: "key",
        tips: &["nondeterministic_output"],
        ..spec("idletime", 3, handlers::object_idletime)
    },
    CommandSpec {
        flags: flags("readonly"),
        keys: &[key(2, "RO")],
        since: "2.2.3",
        summary: "Returns how many references there are to the value at a key.",
        syntax: "key",
        tips: &["nondeterministic_output"],
        ..spec("refcount", 3, handlers::object_refcount)
    },
];
