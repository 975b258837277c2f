//! The way of a request to its handler: lookup, checks, locks, the call, and what is recorded of it.

use kvstore::{Key, ShardSet};
use smallvec::SmallVec;

use crate::clock::Ticks;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::commands::lookup::{Command, Found};
use crate::commands::table::{Flags, Locking};
use crate::commands::transaction;
use crate::session::QueuedCommand;

/// Keys of one command; commands with more than a few have them on the heap.
pub(crate) type Keys<'a> = SmallVec<[Key<'a>; 8]>;

/// Runs one request and writes its reply.
pub(crate) fn run(ctx: &mut Context<'_>, args: Args<'_>) {
    let table = ctx.commands();
    match table.find(args) {
        Found::Command(command) => run_command(ctx, command, args),
        Found::UnknownCommand => reject(ctx, None, &unknown_command(args)),
        Found::UnknownSubcommand(container) => {
            reject(ctx, Some(container), &unknown_subcommand(container, args))
        }
    }
}

/// Runs one request whose command is known.
pub(crate) fn run_command(ctx: &mut Context<'_>, command: &Command, args: Args<'_>) {
    if let Err(error) = check(ctx, command, args) {
        reject(ctx, Some(command), &error);
        return;
    }
    if ctx.session.transaction.is_some() && !runs_inside_multi(command) {
        queue(ctx, command, args);
        return;
    }
    let mut keys = Keys::new();
    command.collect_keys(&ctx.services.keyspace, args, &mut keys);
    let keyspace = &ctx.services.keyspace;
    let shards = match command.spec.locking {
        Locking::Keys => shards_of(ctx, &keys),
        Locking::All => keyspace.all_shards(),
        Locking::Walk => ShardSet::EMPTY,
        Locking::Transaction => transaction_shards(ctx),
    };
    ctx.locked = keyspace.lock(shards);
    call(ctx, command, args.with_keys(&keys));
    ctx.locked = keyspace.lock(ShardSet::EMPTY);
}

/// Calls a command whose shards are locked, and records the call. EXEC uses it for each queued command.
pub(crate) fn call(ctx: &mut Context<'_>, command: &Command, args: Args<'_>) {
    let began = Ticks::now();
    let errors = ctx.reply.error_count();
    ctx.command = command.index;
    let start = ctx.reply.len();
    if let Err(error) = (command.spec.handler)(ctx, args) {
        // A command may fail when a part of its reply is written already.
        ctx.reply.truncate(start);
        ctx.reply.error(error.text());
    }
    let counters = &ctx.stats.commands[usize::from(command.index)];
    counters.calls.add(1);
    counters.ticks.add(Ticks::now().since(began));
    if ctx.reply.error_count() > errors {
        counters.failed.add(1);
    }
}

/// The shards of these keys.
pub(crate) fn shards_of(ctx: &Context<'_>, keys: &[Key<'_>]) -> ShardSet {
    let keyspace = &ctx.services.keyspace;
    keys.iter().fold(ShardSet::EMPTY, |set, key| {
        set.union(keyspace.shard_of(key.hash()))
    })
}

/// The shards of all queued commands and of all watched keys.
fn transaction_shards(ctx: &Context<'_>) -> ShardSet {
    let keyspace = &ctx.services.keyspace;
    let mut set = ShardSet::EMPTY;
    let queue = ctx
        .session
        .transaction
        .iter()
        .flat_map(|transaction| &transaction.queue);
    for queued in queue {
        let command = ctx.services.commands.get(queued.command);
        if command.spec.locking != Locking::Keys {
            return keyspace.all_shards();
        }
        let args = Args::new(&queued.bytes, &queued.spans);
        command.each_key(args, |at| {
            set = set.union(keyspace.shard_of(keyspace.key(args.get(at)).hash()))
        });
    }
    for (_, key) in ctx.session.watch.iter().flat_map(|watch| &watch.keys) {
        set = set.union(keyspace.shard_of(keyspace.key(key).hash()));
    }
    set
}

/// What is checked of every command before it runs or is queued.
fn check(ctx: &Context<'_>, command: &Command, args: Args<'_>) -> Result<(), CommandError> {
    if !command.takes(args.len()) {
        return Err(format!(
            "ERR wrong number of arguments for '{}' command",
            command.name
        )
        .into());
    }
    if !ctx.session.authenticated && !command.spec.flags.contains(Flags::NO_AUTH) {
        return Err(CommandError::new("NOAUTH Authentication required."));
    }
    if ctx.session.transaction.is_some() && command.spec.flags.contains(Flags::NO_MULTI) {
        return Err(CommandError::new(
            "ERR Command not allowed inside a transaction",
        ));
    }
    Ok(())
}

fn reject(ctx: &mut Context<'_>, command: Option<&Command>, error: &CommandError) {
    if let Some(transaction) = &mut ctx.session.transaction {
        transaction.aborted = true;
    }
    if let Some(command) = command {
        ctx.stats.commands[usize::from(command.index)]
            .rejected
            .add(1);
        if command.spec.locking == Locking::Transaction {
            // An EXEC that cannot run ends the transaction all the same.
            ctx.reply
                .error(transaction::abort(ctx.session, &ctx.services.keyspace, error).text());
            return;
        }
    }
    ctx.reply.error(error.text());
}

/// Whether a command runs at once between MULTI and EXEC.
fn runs_inside_multi(command: &Command) -> bool {
    matches!(
        command.spec.name,
        "exec" | "discard" | "multi" | "watch" | "quit" | "reset"
    ) && command.container.is_none()
}

fn queue(ctx: &mut Context<'_>, command: &Command, args: Args<'_>) {
    let (bytes, spans) = args.parts();
    let len = spans.iter().map(|span| span.len).sum();
    let mut copy = Vec::with_capacity(len);
    let moved = spans.iter().map(|span| {
        let start = copy.len();
        copy.extend_from_slice(&bytes[span.start..span.start + span.len]);
        crate::resp::parse::Span {
            start,
            len: span.len,
        }
    });
    let spans = moved.collect();
    if let Some(transaction) = &mut ctx.session.transaction {
        transaction.queue.push(QueuedCommand {
            command: command.index,
            bytes: copy.into(),
            spans,
        });
    }
    ctx.reply.raw(b"+QUEUED\r\n");
}

/// Most bytes of a name, and of all arguments together, that an error text shows.
const SHOWN_BYTES_MAX: usize = 128;

fn unknown_command(args: Args<'_>) -> CommandError {
    let name = args.try_get(0).unwrap_or_default();
    let mut shown = Vec::new();
    for argument in args.from(1) {
        if shown.len() >= SHOWN_BYTES_MAX {
            break;
        }
        shown.push(b'\'');
        shown.extend_from_slice(
            &argument[..argument
                .len()
                .min(SHOWN_BYTES_MAX.saturating_sub(shown.len()))],
        );
        shown.extend_from_slice(b"' ");
    }
    let mut text = b"ERR unknown command '".to_vec();
    text.extend_from_slice(&name[..name.len().min(SHOWN_BYTES_MAX)]);
    text.extend_from_slice(b"', with args beginning with: ");
    text.extend_from_slice(&shown);
    text.into()
}

fn unknown_subcommand(container: &Command, args: Args<'_>) -> CommandError {
    let name = args.try_get(1).unwrap_or_default();
    let mut text = b"ERR unknown subcommand '".to_vec();
    text.extend_from_slice(&name[..name.len().min(SHOWN_BYTES_MAX)]);
    text.extend_from_slice(b"'. Try ");
    text.extend_from_slice(container.name.to_ascii_uppercase().as_bytes());
    text.extend_from_slice(b" HELP.");
    text.into()
}
