//! What a handler works with.

use std::sync::Arc;

use kvstore::{Db, Keyspace, Locked};

use crate::clients::Clients;
use crate::commands::lookup::CommandTable;
use crate::config::Config;
use crate::observe::stats::WorkerStats;
use crate::resp::reply::Reply;
use crate::session::Session;

/// What all workers share, as far as handlers may see it.
pub(crate) struct Services {
    /// Values in force.
    pub(crate) config: Config,
    /// All data.
    pub(crate) keyspace: Keyspace,
    /// All commands.
    pub(crate) commands: CommandTable,
    /// All clients.
    pub(crate) clients: Clients,
    /// Figures of each worker.
    pub(crate) stats: Box<[Arc<WorkerStats>]>,
}

/// The world of one command.
pub(crate) struct Context<'a> {
    /// The client that sent it.
    pub(crate) session: &'a mut Session,
    /// Where the reply goes.
    pub(crate) reply: &'a mut Reply,
    /// The shards that [`Locking`](crate::commands::table::Locking) says.
    pub(crate) locked: Locked<'a>,
    /// When the command runs, in milliseconds of Unix time. The same for all commands of a transaction.
    pub(crate) now_ms: u64,
    /// What all workers share.
    pub(crate) services: &'a Services,
    /// Figures of this worker.
    pub(crate) stats: &'a WorkerStats,
    /// Index of the command that runs, in the command table.
    pub(crate) command: u16,
}

impl<'a> Context<'a> {
    /// The client's database, with the shards of the command's keys locked.
    #[inline]
    pub(crate) fn db(&mut self) -> Db<'_> {
        self.locked.db(self.session.db, self.now_ms)
    }

    /// The same, and beside it the reply, for values that are written while the database is borrowed.
    #[inline]
    pub(crate) fn db_and_reply(&mut self) -> (Db<'_>, &mut Reply) {
        (self.locked.db(self.session.db, self.now_ms), self.reply)
    }

    /// All commands.
    pub(crate) fn commands(&self) -> &'a CommandTable {
        &self.services.commands
    }
}
