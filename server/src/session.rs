//! What the server knows about a client between two commands.

use std::sync::Arc;

use kvstore::WatchFlag;

use crate::clients::Client;
use crate::resp::parse::Span;
use crate::resp::reply::Protocol;

/// Whether a client wants replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum ReplyMode {
    /// All of them.
    #[default]
    On,
    /// None until it says so.
    Off,
    /// Not the one to the next command.
    SkipNext,
    /// Not the one to the command that runs now.
    SkipThis,
}

/// What becomes of a connection after the command that runs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Fate {
    /// It goes on.
    #[default]
    Live,
    /// It is closed once the replies are sent.
    CloseAfterReply,
    /// It is closed at once.
    CloseNow,
}

/// A command between MULTI and EXEC, with a copy of its arguments.
#[derive(Debug)]
pub(crate) struct QueuedCommand {
    /// Index of the command in the table.
    pub(crate) command: u16,
    /// The arguments, one after the other.
    pub(crate) bytes: Box<[u8]>,
    /// Where each argument lies in `bytes`.
    pub(crate) spans: Box<[Span]>,
}

/// A transaction that was begun with MULTI.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    /// The commands so far.
    pub(crate) queue: Vec<QueuedCommand>,
    /// Bytes of all their arguments.
    pub(crate) bytes: usize,
    /// Whether a command could not be queued, so that EXEC has to fail.
    pub(crate) aborted: bool,
}

/// The keys that a client watches.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Raised when one of them changes.
    pub(crate) flag: Arc<WatchFlag>,
    /// Each with its database.
    pub(crate) keys: Vec<(usize, Box<[u8]>)>,
}

/// A client's state. The worker that owns the connection is the only one to touch it.
#[derive(Debug)]
pub(crate) struct Session {
    /// What other workers may see of this client.
    pub(crate) client: Arc<Client>,
    /// Database that commands use.
    pub(crate) db: usize,
    /// Protocol version of replies.
    pub(crate) protocol: Protocol,
    /// Whether commands are allowed, since no password is needed or the right one was given.
    pub(crate) authenticated: bool,
    /// Whether reads leave the keys' idle times and use counters alone.
    pub(crate) no_touch: bool,
    /// Whether replies are wanted.
    pub(crate) reply_mode: ReplyMode,
    /// Whether the connection goes on.
    pub(crate) fate: Fate,
    /// The transaction, between MULTI and EXEC.
    pub(crate) transaction: Option<Box<Transaction>>,
    /// The watched keys, if any.
    pub(crate) watch: Option<Box<Watch>>,
}

impl Session {
    /// A new client's state.
    pub(crate) fn new(client: Arc<Client>, authenticated: bool) -> Self {
        Self {
            client,
            db: 0,
            protocol: Protocol::default(),
            authenticated,
            no_touch: false,
            reply_mode: ReplyMode::default(),
            fate: Fate::default(),
            transaction: None,
            watch: None,
        }
    }
}
