//! What a handler works with.

use std::sync::Arc;

use kvstore::{Db, Keyspace, Locked, Touch};

use crate::clients::Clients;
use crate::commands::args::Args;
use crate::commands::error::CommandError;
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

/// Most bytes of an argument that an error text shows.
pub(crate) const SHOWN_BYTES_MAX: usize = 128;

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

    /// What a lookup leaves behind, given what the command would have it leave.
    #[inline]
    pub(crate) fn touch(&self, touch: Touch) -> Touch {
        touch
    }

    /// The name of the command that runs; of a subcommand with its container, `config|get`.
    pub(crate) fn command_name(&self) -> &'a str {
        &self.services.commands.get(self.command).name
    }

    /// The error for a wrong number of arguments.
    #[cold]
    pub(crate) fn wrong_number_of_arguments(&self) -> CommandError {
        format!(
            "ERR wrong number of arguments for '{}' command",
            self.command_name()
        )
        .into()
    }

    /// The error for a point in time that is zero, negative or beyond 64 bits.
    #[cold]
    pub(crate) fn invalid_expire_time(&self) -> CommandError {
        format!(
            "ERR invalid expire time in '{}' command",
            self.command_name()
        )
        .into()
    }

    /// The error of a subcommand for arguments that it does not take.
    #[cold]
    pub(crate) fn subcommand_syntax(&self, args: Args<'_>) -> CommandError {
        let (container, _) = self
            .command_name()
            .split_once('|')
            .unwrap_or((self.command_name(), ""));
        let given = args.try_get(1).unwrap_or_default();
        let mut text = b"ERR unknown subcommand or wrong number of arguments for '".to_vec();
        text.extend_from_slice(&given[..given.len().min(SHOWN_BYTES_MAX)]);
        text.extend_from_slice(
            format!("'. Try {} HELP.", container.to_ascii_uppercase()).as_bytes(),
        );
        text.into()
    }

    /// All commands.
    pub(crate) fn commands(&self) -> &'a CommandTable {
        &self.services.commands
    }
}
