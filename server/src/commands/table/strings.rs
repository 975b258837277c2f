//! Commands on strings.

use super::{CommandSpec, Group, KeySpec, categories, command, flags, key, keys};
use crate::commands::{Handler, string};

const fn spec(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        categories: categories("string"),
        group: Group::String,
        ..command(name, arity, handler)
    }
}

pub(super) const COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        flags: flags("write denyoom fast"),
        keys: &[key(1, "RW insert")],
        since: "2.0.0",
        complexity: "O(N) where N is the length of the appended value, plus that of the old value if it has to move.",
        summary: "Adds bytes to the end of a string, which is created if there is none.",
        syntax: "key value",
        ..spec("append", 3, string::append)
    },
    CommandSpec {
        flags: flags("write denyoom fast"),
        keys: &[key(1, "RW access update")],
        summary: "Subtracts one from the integer at a key, which counts as 0 if there is none.",
        syntax: "key",
        ..spec("decr", 2, string::decr)
    },
    CommandSpec {
        flags: flags("write denyoom fast"),
        keys: &[key(1, "RW access update")],
        summary: "Subtracts a number from the integer at a key, which counts as 0 if there is none.",
        syntax: "key decrement",
        ..spec("decrby", 3, string::decrby)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[key(1, "RO access")],
        summary: "Returns the string at a key.",
        syntax: "key",
        ..spec("get", 2, string::get)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[key(1, "RW access delete")],
        since: "6.2.0",
        summary: "Returns the string at a key and deletes the key.",
        syntax: "key",
        ..spec("getdel", 2, string::getdel)
    },
    CommandSpec {
        flags: flags("write fast"),
        keys: &[KeySpec {
            notes: "It writes since it can change the expiration.",
            ..key(1, "RW access update")
        }],
        since: "6.2.0",
        summary: "Returns the string at a key and sets or removes the key's expiration.",
        syntax: "key [expiration=EX seconds | PX milliseconds | EXAT unix-time-seconds | PXAT unix-time-milliseconds \
                 | PERSIST]",
        ..spec("getex", -2, string::getex)
    },
    CommandSpec {
        flags: flags("readonly"),
        keys: &[key(1, "RO access")],
        since: "2.4.0",
        complexity: "O(N) where N is the length of the part that is returned.",
        summary: "Returns a part of the string at a key.",
        syntax: "key start end",
        ..spec("getrange", 4, string::getrange)
    },
    CommandSpec {
        flags: flags("write denyoom fast"),
        keys: &[key(1, "RW access update")],
        summary: "Sets a key to a string and returns the string that was there before.",
        syntax: "key value",
        deprecated_since: "6.2.0",
        replaced_by: "`SET` with the `GET` option",
        ..spec("getset", 3, string::getset)
    },
    CommandSpec {
        flags: flags("write denyoom fast"),
        keys: &[key(1, "RW access update")],
        summary: "Adds one to the integer at a key, which counts as 0 if there is none.",
        syntax: "key",
        ..spec("incr", 2, string::incr)
    },
    CommandSpec {
        flags: flags("write denyoom fast"),
        keys: &[key(1, "RW access update")],
        summary: "Adds a number to the integer at a key, which counts as 0 if there is none.",
        syntax: "key increment",
        ..spec("incrby", 3, string::incrby)
    },
    CommandSpec {
        flags: flags("write denyoom fast"),
        keys: &[key(1, "RW access update")],
        since: "2.6.0",
        summary: "Adds a floating point number to the one at a key, which counts as 0 if there is none.",
        syntax: "key increment:double",
        ..spec("incrbyfloat", 3, string::incrbyfloat)
    },
    CommandSpec {
        flags: flags("readonly"),
        keys: &[keys(1, 1, 1, "RO access")],
        since: "7.0.0",
        complexity: "O(N*M) where N and M are the lengths of the two strings.",
        summary: "Finds the longest sequence of bytes that two strings have in common, in order but not in one piece.",
        syntax: "key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
        ..spec("lcs", -3, string::lcs)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[keys(1, -1, 1, "RO access")],
        complexity: "O(N) where N is the number of keys.",
        summary: "Returns the strings at several keys.",
        syntax: "key...",
        tips: &["request_policy:multi_shard"],
        ..spec("mget", -2, string::mget)
    },
    CommandSpec {
        flags: flags("write denyoom"),
        keys: &[keys(1, -1, 2, "OW update")],
        since: "1.0.1",
        complexity: "O(N) where N is the number of keys.",
        summary: "Sets several keys at once.",
        syntax: "<data=key value>...",
        tips: &[
            "request_policy:multi_shard",
            "response_policy:all_succeeded",
        ],
        ..spec("mset", -3, string::mset)
    },
    CommandSpec {
        flags: flags("write denyoom"),
        keys: &[keys(1, -1, 2, "OW insert")],
        since: "1.0.1",
        complexity: "O(N) where N is the number of keys.",
        summary: "Sets several keys at once, or none if one of them exists.",
        syntax: "<data=key value>...",
        ..spec("msetnx", -3, string::msetnx)
    },
    CommandSpec {
        flags: flags("write denyoom"),
        keys: &[key(1, "OW update")],
        since: "2.6.0",
        summary: "Sets a key to a string that expires after some milliseconds.",
        syntax: "key milliseconds value",
        deprecated_since: "2.6.12",
        replaced_by: "`SET` with the `PX` option",
        ..spec("psetex", 4, string::psetex)
    },
    CommandSpec {
        flags: flags("write denyoom"),
        keys: &[KeySpec {
            notes: "It reads only with the `GET` option.",
            ..key(1, "RW access update variable_flags")
        }],
        summary: "Sets a key to a string, whatever it held before.",
        syntax: "key value [condition=NX | XX]@2.6.12 [GET]@6.2.0 [expiration=EX seconds@2.6.12 \
                 | PX milliseconds@2.6.12 | EXAT unix-time-seconds@6.2.0 | PXAT unix-time-milliseconds@6.2.0 \
                 | KEEPTTL@6.0.0]",
        ..spec("set", -3, string::set)
    },
    CommandSpec {
        flags: flags("write denyoom"),
        keys: &[key(1, "OW update")],
        since: "2.0.0",
        summary: "Sets a key to a string that expires after some seconds.",
        syntax: "key seconds value",
        deprecated_since: "2.6.12",
        replaced_by: "`SET` with the `EX` option",
        ..spec("setex", 4, string::setex)
    },
    CommandSpec {
        flags: flags("write denyoom fast"),
        keys: &[key(1, "OW insert")],
        summary: "Sets a key to a string if the key does not exist.",
        syntax: "key value",
        deprecated_since: "2.6.12",
        replaced_by: "`SET` with the `NX` option",
        ..spec("setnx", 3, string::setnx)
    },
    CommandSpec {
        flags: flags("write denyoom"),
        keys: &[key(1, "RW update")],
        since: "2.2.0",
        complexity: "O(N) where N is the length of the written part, plus that of the old value if it has to move.",
        summary: "Overwrites a part of a string, which is made longer with zero bytes where needed.",
        syntax: "key offset value",
        ..spec("setrange", 4, string::setrange)
    },
    CommandSpec {
        flags: flags("readonly fast"),
        keys: &[key(1, "RO")],
        since: "2.2.0",
        summary: "Returns the length of the string at a key.",
        syntax: "key",
        ..spec("strlen", 2, string::strlen)
    },
    CommandSpec {
        flags: flags("readonly"),
        keys: &[key(1, "RO access")],
        complexity: "O(N) where N is the length of the part that is returned.",
        summary: "Returns a part of the string at a key.",
        syntax: "key start end",
        deprecated_since: "2.0.0",
        replaced_by: "`GETRANGE`",
        ..spec("substr", 4, string::getrange)
    },
];
