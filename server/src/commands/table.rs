//! One declarative record per command, from which everything about commands follows: lookup, arity checks, which
//! shards to lock, ACL categories, COMMAND and its subcommands.

use bitflags::bitflags;

use crate::commands::{Handler, connection};

bitflags! {
    /// What a command does and where it may run, as COMMAND INFO shows it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Flags: u32 {
        /// May change data.
        const WRITE = 1 << 0;
        /// Only reads data.
        const READONLY = 1 << 1;
        /// Refused when memory is over the limit and nothing can be evicted.
        const DENYOOM = 1 << 2;
        /// Administrative.
        const ADMIN = 1 << 3;
        /// Publish and subscribe.
        const PUBSUB = 1 << 4;
        /// Not allowed in scripts.
        const NOSCRIPT = 1 << 5;
        /// May block the client.
        const BLOCKING = 1 << 6;
        /// Allowed while data is being loaded.
        const LOADING = 1 << 7;
        /// Allowed on a replica with stale data.
        const STALE = 1 << 8;
        /// Not shown to MONITOR.
        const SKIP_MONITOR = 1 << 9;
        /// Not recorded by SLOWLOG.
        const SKIP_SLOWLOG = 1 << 10;
        /// Constant or logarithmic time.
        const FAST = 1 << 11;
        /// Allowed before authentication.
        const NO_AUTH = 1 << 12;
        /// May be sent to replicas though it is no write.
        const MAY_REPLICATE = 1 << 13;
        /// Not allowed between MULTI and EXEC.
        const NO_MULTI = 1 << 14;
        /// Not allowed while data is loaded in the background.
        const NO_ASYNC_LOADING = 1 << 15;
        /// Key positions cannot be told from the key specs alone.
        const MOVABLE_KEYS = 1 << 16;
        /// Allowed while a script runs over its time.
        const ALLOW_BUSY = 1 << 17;
        /// Reads or writes keys that are not among its arguments.
        const TOUCHES_ARBITRARY_KEYS = 1 << 18;
        /// May be called without any key though it has key specs.
        const NO_MANDATORY_KEYS = 1 << 19;
        /// Only for the cluster redirection handshake.
        const ASKING = 1 << 20;
        /// Guarded by `enable-debug-command` and its like.
        const PROTECTED = 1 << 21;
    }
}

bitflags! {
    /// ACL categories, as COMMAND INFO and ACL CAT show them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Categories: u32 {
        /// Keys of any type.
        const KEYSPACE = 1 << 0;
        /// Reads values.
        const READ = 1 << 1;
        /// Writes values.
        const WRITE = 1 << 2;
        /// Sets.
        const SET = 1 << 3;
        /// Sorted sets.
        const SORTEDSET = 1 << 4;
        /// Lists.
        const LIST = 1 << 5;
        /// Hashes.
        const HASH = 1 << 6;
        /// Strings.
        const STRING = 1 << 7;
        /// Bitmaps.
        const BITMAP = 1 << 8;
        /// HyperLogLogs.
        const HYPERLOGLOG = 1 << 9;
        /// Geospatial indexes.
        const GEO = 1 << 10;
        /// Streams.
        const STREAM = 1 << 11;
        /// Publish and subscribe.
        const PUBSUB = 1 << 12;
        /// Administration.
        const ADMIN = 1 << 13;
        /// Fast commands.
        const FAST = 1 << 14;
        /// All that are not fast.
        const SLOW = 1 << 15;
        /// May block.
        const BLOCKING = 1 << 16;
        /// May harm when used by the wrong hands.
        const DANGEROUS = 1 << 17;
        /// About connections.
        const CONNECTION = 1 << 18;
        /// Transactions.
        const TRANSACTION = 1 << 19;
        /// Scripts and functions.
        const SCRIPTING = 1 << 20;
    }
}

bitflags! {
    /// What a command does with the keys of one key spec.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct KeyFlags: u32 {
        /// Reads the value and leaves it.
        const RO = 1 << 0;
        /// Reads and writes the value.
        const RW = 1 << 1;
        /// Overwrites the value.
        const OW = 1 << 2;
        /// Removes the key.
        const RM = 1 << 3;
        /// Returns or copies the value's content.
        const ACCESS = 1 << 4;
        /// Updates what the value holds.
        const UPDATE = 1 << 5;
        /// Adds to the value, never removes.
        const INSERT = 1 << 6;
        /// Removes content explicitly.
        const DELETE = 1 << 7;
        /// The argument is no key, only treated as one by clusters.
        const NOT_KEY = 1 << 8;
        /// The spec does not find all keys.
        const INCOMPLETE = 1 << 9;
        /// The flags depend on the arguments.
        const VARIABLE_FLAGS = 1 << 10;
    }
}

/// Groups of commands, as COMMAND DOCS names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// Keys of any type.
    Generic,
    /// Strings.
    String,
    /// Connections.
    Connection,
    /// The server itself.
    Server,
    /// Transactions.
    Transactions,
    /// Scripts and functions.
    Scripting,
}

/// Where the keys of a key spec begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BeginSearch {
    /// At this argument; the command's name is number 0.
    Index(usize),
    /// Behind the first argument that equals the keyword, looking from argument `from` on (from the end if negative).
    Keyword {
        /// The keyword, in capital letters.
        keyword: &'static str,
        /// Where the search starts.
        from: i32,
    },
    /// Only the command itself knows.
    Unknown,
}

/// Which arguments from there on are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FindKeys {
    /// Every `step`-th up to `last`, counted from the beginning of the search (from the end of the arguments if
    /// negative: -1 is the last one).
    Range {
        /// The last key.
        last: i32,
        /// Distance of two keys.
        step: usize,
        /// 0, or with `last` = -1 the divisor of how many of the remaining arguments are keys.
        limit: usize,
    },
    /// An argument says how many keys there are.
    KeyNum {
        /// Where the number stands, counted from the beginning.
        keynum: usize,
        /// Where the first key stands, counted from the beginning.
        first: usize,
        /// Distance of two keys.
        step: usize,
    },
    /// Only the command itself knows.
    Unknown,
}

/// One way in which keys stand among the arguments of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySpec {
    /// What happens to the keys.
    pub(crate) flags: KeyFlags,
    /// Where they begin.
    pub(crate) begin: BeginSearch,
    /// Which ones they are.
    pub(crate) find: FindKeys,
    /// Remarks for COMMAND INFO.
    pub(crate) notes: &'static str,
}

/// Which shards are locked while a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locking {
    /// The shards of its keys; none for a command without keys.
    Keys,
    /// All shards.
    All,
    /// Those of the queued commands and of the watched keys: EXEC.
    Transaction,
}

/// Everything that is known about a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommandSpec {
    /// Name in lower case; of a subcommand without its container's name.
    pub(crate) name: &'static str,
    /// Number of arguments with the name; if negative, at least so many. Of a subcommand with both names.
    pub(crate) arity: i32,
    /// What it does and where it may run.
    pub(crate) flags: Flags,
    /// Where its keys stand.
    pub(crate) keys: &'static [KeySpec],
    /// ACL categories beyond those that follow from the flags.
    pub(crate) categories: Categories,
    /// First version of Redis that had it.
    pub(crate) since: &'static str,
    /// Its group.
    pub(crate) group: Group,
    /// Its complexity, for COMMAND DOCS.
    pub(crate) complexity: &'static str,
    /// What it does, in one line.
    pub(crate) summary: &'static str,
    /// Its arguments, from which the argument tree of COMMAND DOCS follows.
    pub(crate) syntax: &'static str,
    /// Hints for clients and proxies, as COMMAND INFO shows them.
    pub(crate) tips: &'static [&'static str],
    /// Which shards are locked while it runs.
    pub(crate) locking: Locking,
    /// Its subcommands.
    pub(crate) subcommands: &'static [CommandSpec],
    /// What runs it. A container's handler runs when it is called without a subcommand, if its arity allows that.
    pub(crate) handler: Handler,
}

/// Blank fields, for `..BLANK` in the table.
const BLANK: CommandSpec = CommandSpec {
    name: "",
    arity: 0,
    flags: Flags::empty(),
    keys: &[],
    categories: Categories::empty(),
    since: "1.0.0",
    group: Group::Generic,
    complexity: "O(1)",
    summary: "",
    syntax: "",
    tips: &[],
    locking: Locking::Keys,
    subcommands: &[],
    handler: connection::ping,
};

/// All commands.
pub(crate) static COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        name: "ping",
        arity: -1,
        flags: Flags::FAST,
        categories: Categories::CONNECTION,
        group: Group::Connection,
        summary: "Answers PONG, or the message that was given.",
        syntax: "[message]",
        tips: &["request_policy:all_shards", "response_policy:all_succeeded"],
        handler: connection::ping,
        ..BLANK
    },
    CommandSpec {
        name: "echo",
        arity: 2,
        flags: Flags::LOADING.union(Flags::STALE).union(Flags::FAST),
        categories: Categories::CONNECTION,
        group: Group::Connection,
        summary: "Answers the message that was given.",
        syntax: "message",
        handler: connection::echo,
        ..BLANK
    },
    CommandSpec {
        name: "select",
        arity: 2,
        flags: Flags::LOADING.union(Flags::STALE).union(Flags::FAST),
        categories: Categories::CONNECTION,
        group: Group::Connection,
        summary: "Chooses the database of this connection.",
        syntax: "index",
        handler: connection::select,
        ..BLANK
    },
];
