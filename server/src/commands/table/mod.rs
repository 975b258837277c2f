//! One declarative record per command, from which everything about commands follows: lookup, arity checks, which
//! shards to lock, ACL categories, COMMAND and its subcommands.
//!
//! Flags, categories and key flags are written as the words that clients see; a wrong word does not compile. The records
//! of one family stand in one file.

mod connection;
mod keys;
mod scripting;
mod server;
mod strings;
mod transactions;

use bitflags::bitflags;

use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::{CommandResult, Handler};

/// The union of the named flags of a `bitflags` type; fails to compile if a word is none of them.
macro_rules! words {
    ($type:ty, $words:expr) => {{
        let bytes = $words.as_bytes();
        let all = <$type as bitflags::Flags>::FLAGS;
        let mut bits = 0;
        let mut start = 0;
        while start < bytes.len() {
            let mut end = start;
            while end < bytes.len() && bytes[end] != b' ' {
                end += 1;
            }
            let mut at = 0;
            while !is_word(bytes, start, end, all[at].name().as_bytes()) {
                at += 1;
            }
            bits |= all[at].value().bits();
            start = end + 1;
        }
        bits
    }};
}

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
        const MOVABLEKEYS = 1 << 16;
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

impl Group {
    /// The name in COMMAND DOCS.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::String => "string",
            Self::Connection => "connection",
            Self::Server => "server",
            Self::Transactions => "transactions",
            Self::Scripting => "scripting",
        }
    }
}

/// Where the keys of a key spec begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    dead_code,
    reason = "commands of other types find their keys in these ways"
)]
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
#[expect(
    dead_code,
    reason = "commands of other types find their keys in these ways"
)]
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
    /// None: the handler locks one shard after the other. Inside of a transaction all are locked.
    Walk,
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
    /// Version of Redis that deprecated it, or nothing.
    pub(crate) deprecated_since: &'static str,
    /// What to use in its place if it is deprecated.
    pub(crate) replaced_by: &'static str,
    /// Whether it is only for the server's own developers.
    pub(crate) is_system: bool,
    /// Hints for clients and proxies, as COMMAND INFO shows them.
    pub(crate) tips: &'static [&'static str],
    /// Which shards are locked while it runs.
    pub(crate) locking: Locking,
    /// Its subcommands.
    pub(crate) subcommands: &'static [CommandSpec],
    /// What runs it. A container's handler runs when it is called without a subcommand, if its arity allows that.
    pub(crate) handler: Handler,
}

impl CommandSpec {
    /// All ACL categories, those included that follow from the flags.
    pub(crate) fn all_categories(&self) -> Categories {
        let mut all = self.categories;
        all.set(Categories::WRITE, self.flags.contains(Flags::WRITE));
        // Scripting commands may write whatever their own flags say.
        let reads = self.flags.contains(Flags::READONLY) && !all.contains(Categories::SCRIPTING);
        all.set(Categories::READ, reads);
        if self.flags.contains(Flags::ADMIN) {
            all |= Categories::ADMIN | Categories::DANGEROUS;
        }
        if self.flags.contains(Flags::PUBSUB) {
            all |= Categories::PUBSUB;
        }
        if self.flags.contains(Flags::BLOCKING) {
            all |= Categories::BLOCKING;
        }
        let fast = self.flags.contains(Flags::FAST);
        all | if fast {
            Categories::FAST
        } else {
            Categories::SLOW
        }
    }
}

/// All commands, by family.
pub(crate) static COMMANDS: &[&[CommandSpec]] = &[
    connection::COMMANDS,
    keys::COMMANDS,
    scripting::COMMANDS,
    server::COMMANDS,
    strings::COMMANDS,
    transactions::COMMANDS,
];

/// A record to be filled in: a name, an arity and a handler, no flags, no keys.
const fn command(name: &'static str, arity: i32, handler: Handler) -> CommandSpec {
    CommandSpec {
        name,
        arity,
        flags: Flags::empty(),
        keys: &[],
        categories: Categories::empty(),
        since: "1.0.0",
        group: Group::Generic,
        complexity: "O(1)",
        summary: "",
        syntax: "",
        deprecated_since: "",
        replaced_by: "",
        is_system: false,
        tips: &[],
        locking: Locking::Keys,
        subcommands: &[],
        handler,
    }
}

/// A record of a command that does nothing without a subcommand.
const fn container(name: &'static str, subcommands: &'static [CommandSpec]) -> CommandSpec {
    CommandSpec {
        complexity: "Depends on the subcommand.",
        subcommands,
        ..command(name, -2, needs_subcommand)
    }
}

/// What a container comes to without a subcommand.
fn needs_subcommand(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    Err(ctx.wrong_number_of_arguments())
}

/// A key spec of exactly one key, at argument `at`.
const fn key(at: usize, flags: &str) -> KeySpec {
    keys(at, 0, 1, flags)
}

/// A key spec of every `step`-th argument from `first` on, up to `last` (as in [`FindKeys::Range`]).
const fn keys(first: usize, last: i32, step: usize, flags: &str) -> KeySpec {
    KeySpec {
        flags: KeyFlags::from_bits_retain(words!(KeyFlags, flags)),
        begin: BeginSearch::Index(first),
        find: FindKeys::Range {
            last,
            step,
            limit: 0,
        },
        notes: "",
    }
}

/// Command flags from their words.
const fn flags(words: &str) -> Flags {
    Flags::from_bits_retain(words!(Flags, words))
}

/// ACL categories from their words, without the `@`.
const fn categories(words: &str) -> Categories {
    Categories::from_bits_retain(words!(Categories, words))
}

/// Whether `bytes[start..end]` equals `word` without regard to case.
const fn is_word(bytes: &[u8], start: usize, end: usize, word: &[u8]) -> bool {
    if end - start != word.len() {
        return false;
    }
    let mut at = 0;
    while at < word.len() {
        if !bytes[start + at].eq_ignore_ascii_case(&word[at]) {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::syntax;

    fn visit(
        specs: &[CommandSpec],
        container: Option<&str>,
        check: &mut impl FnMut(&str, &CommandSpec, usize),
    ) {
        for spec in specs {
            let name = container.map_or(spec.name.to_owned(), |container| {
                format!("{container}|{}", spec.name)
            });
            check(&name, spec, if container.is_some() { 2 } else { 1 });
            visit(spec.subcommands, Some(&name), check);
        }
    }

    fn each(mut check: impl FnMut(&str, &CommandSpec, usize)) {
        for family in COMMANDS {
            visit(family, None, &mut check);
        }
    }

    /// Commands that take more words than their syntax says, as in Redis.
    const LENIENT: &[&str] = &["command", "function|flush", "quit", "script|flush"];

    #[test]
    fn syntax_and_arity_agree() {
        each(|name, spec, words| {
            let arguments =
                syntax::parse(spec.syntax).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let (least, most) = syntax::word_counts(&arguments);
            assert_eq!(
                spec.arity.unsigned_abs() as usize,
                words + least + usize::from(!spec.subcommands.is_empty() && spec.arity == -2),
                "{name}: fewest words"
            );
            if !LENIENT.contains(&name) && spec.subcommands.is_empty() {
                assert_eq!(spec.arity > 0, most == Some(least), "{name}: most words");
            }
        });
    }

    #[test]
    fn every_record_is_complete_and_has_a_name_of_its_own() {
        let mut names = Vec::new();
        each(|name, spec, _| {
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || b"|-".contains(&byte)),
                "{name}"
            );
            assert!(!names.contains(&name.to_owned()), "{name} stands twice");
            names.push(name.to_owned());
            assert!(
                spec.summary.ends_with('.') && spec.summary.len() < 120,
                "{name}: summary"
            );
            assert!(!spec.complexity.is_empty(), "{name}: complexity");
            assert_eq!(spec.since.split('.').count(), 3, "{name}: since");
            assert_eq!(
                spec.deprecated_since.is_empty(),
                spec.replaced_by.is_empty(),
                "{name}"
            );
            assert!(
                spec.subcommands
                    .iter()
                    .all(|sub| sub.subcommands.is_empty()),
                "{name}: subcommands have none of their own"
            );
        });
    }

    #[test]
    fn commands_that_write_or_read_have_keys_or_say_what_they_lock() {
        each(|name, spec, _| {
            assert!(
                !spec.flags.contains(Flags::WRITE | Flags::READONLY),
                "{name}"
            );
            let touches_data = spec.flags.intersects(Flags::WRITE | Flags::READONLY);
            let exempt = name.ends_with("|flush") || name == "lolwut";
            if touches_data && !exempt {
                assert!(
                    !spec.keys.is_empty() || spec.locking != Locking::Keys,
                    "{name}"
                );
            }
        });
    }
}
