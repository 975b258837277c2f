//! The way of a request to its handler: lookup, checks, locks, the call, and what is recorded of it.

use std::mem;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvstore::{Key, ShardSet};
use smallvec::SmallVec;

use crate::clock::{Ticks, unix_ms, unix_us, uptime};
use crate::commands::args::Args;
use crate::commands::context::{Context, SHOWN_BYTES_MAX};
use crate::commands::error::CommandError;
use crate::commands::lookup::{Command, Found};
use crate::commands::table::{Flags, Locking};
use crate::commands::transaction;
use crate::config::directive::Id;
use crate::config::value::quote;
use crate::observe::slowlog;
use crate::session::{QueuedCommand, ReplyMode};

/// Keys of one command; commands with more than a few have them on the heap.
pub(crate) type Keys<'a> = SmallVec<[Key<'a>; 8]>;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Outcome {
    /// It was answered.
    Done,
    /// It has to wait for the end of a pause, unanswered.
    Postponed,
}

/// Runs one request, whose command was looked up and whose keys are known, and writes its reply. Shards may stay locked
/// for the next request, which is likely to need the same ones.
#[inline]
pub(crate) fn run(ctx: &mut Context<'_>, found: Found<'_>, args: Args<'_>) -> Outcome {
    if ctx.session.reply_mode != ReplyMode::On {
        return run_quietly(ctx, found, args);
    }
    run_found(ctx, found, args)
}

/// Runs one request of a client that wants no replies for now.
#[cold]
fn run_quietly(ctx: &mut Context<'_>, found: Found<'_>, args: Args<'_>) -> Outcome {
    let before = ctx.session.reply_mode;
    if before == ReplyMode::SkipNext {
        ctx.session.reply_mode = ReplyMode::SkipThis;
    }
    let start = ctx.reply.len();
    if run_found(ctx, found, args) == Outcome::Postponed {
        ctx.session.reply_mode = before;
        return Outcome::Postponed;
    }
    match ctx.session.reply_mode {
        ReplyMode::On => {}
        ReplyMode::SkipThis => {
            ctx.session.reply_mode = ReplyMode::On;
            ctx.reply.truncate(start);
        }
        ReplyMode::Off | ReplyMode::SkipNext => ctx.reply.truncate(start),
    }
    Outcome::Done
}

#[inline]
fn run_found(ctx: &mut Context<'_>, found: Found<'_>, args: Args<'_>) -> Outcome {
    match found {
        Found::Command(command) => return run_command(ctx, command, args),
        Found::UnknownCommand => reject(ctx, None, &unknown_command(args)),
        Found::UnknownSubcommand(container) => {
            reject(ctx, Some(container), &unknown_subcommand(container, args));
        }
    }
    Outcome::Done
}

/// Runs one request whose command is known.
#[inline]
fn run_command(ctx: &mut Context<'_>, command: &Command, args: Args<'_>) -> Outcome {
    if let Err(error) = check(ctx, command, args) {
        reject(ctx, Some(command), &error);
        return Outcome::Done;
    }
    if ctx.services.clients.is_paused() && has_to_wait(ctx, command) {
        return Outcome::Postponed;
    }
    if ctx.services.config.is_set(Id::MaxMemory)
        && let Err(error) = make_room(ctx, command)
    {
        reject(ctx, Some(command), &error);
        return Outcome::Done;
    }
    if ctx.services.config.is_set(Id::MinReplicasToWrite)
        && let Err(error) = check_replicas(ctx, command)
    {
        reject(ctx, Some(command), &error);
        return Outcome::Done;
    }
    if ctx.session.transaction.is_some() && !runs_inside_multi(command) {
        queue(ctx, command, args);
        return Outcome::Done;
    }
    let shards = match command.spec.locking {
        Locking::Keys => shards_of(ctx, args.keys()),
        Locking::All => ctx.services.keyspace.all_shards(),
        Locking::Walk => ShardSet::EMPTY,
        Locking::Transaction => transaction_shards(ctx),
    };
    ctx.lock(shards);
    let ns = call(ctx, command, args);
    if ns >= CLOCK_STEP_NS {
        ctx.now_ms = unix_ms();
        if ctx.thresholds.slow_ns != u64::MAX {
            ctx.stats.watch.look();
        }
    }
    Outcome::Done
}

/// The commands of a batch share one instant unless one takes so long that the next would notice.
const CLOCK_STEP_NS: u64 = 1_000_000;

/// Calls a command whose shards are locked, and records the call. EXEC uses it for each queued command. Returns how
/// long it took, in nanoseconds.
#[inline]
pub(crate) fn call(ctx: &mut Context<'_>, command: &Command, args: Args<'_>) -> u64 {
    let began = ctx.clock;
    let waited = mem::take(&mut ctx.waited);
    ctx.command = command.index;
    ctx.secret_args = 0;
    let start = ctx.reply.len();
    if let Err(error) = (command.spec.handler)(ctx, args) {
        // A command may fail when a part of its reply is written already.
        ctx.reply.truncate(start);
        ctx.reply.error(error.text());
    }
    ctx.clock = Ticks::now();
    // What gave its locks up meanwhile has waited for them again, as part of its own time.
    let waited_again = mem::take(&mut ctx.waited);
    let ticks = ctx.clock.since(began);
    if command.spec.flags.contains(Flags::WRITE) {
        ctx.wrote = true;
        ctx.stats.totals.write_commands.add(1);
    }
    let counters = &ctx.stats.commands[usize::from(command.index)];
    counters.calls.add(1);
    counters.ticks.add(ticks);
    let ns = crate::clock::ticks_to_ns(ticks);
    if ctx.thresholds.histograms {
        counters.record(ns);
    }
    if ctx.reply.has_new_errors() {
        counters.failed.add(1);
        count_errors(ctx);
    }
    let waited_ns = waited.as_nanos() as u64;
    if ns + waited_ns >= ctx.thresholds.slow_ns.min(ctx.thresholds.latency_ns) {
        let waits = Waited {
            before_ns: waited_ns,
            in_all_ns: waited_ns + waited_again.as_nanos() as u64,
        };
        record_slow(ctx, command, args, ns, &waits);
    }
    if ctx.services.clients.is_monitored() {
        show_to_monitors(ctx, command, args);
    }
    ns
}

#[cold]
fn count_errors(ctx: &mut Context<'_>) {
    for text in ctx.reply.new_errors() {
        ctx.stats.count_error(text);
    }
    ctx.reply.mark_errors_counted();
}

/// How long a command has waited for its shards, in nanoseconds: before it began, and with what it waited meanwhile.
struct Waited {
    before_ns: u64,
    in_all_ns: u64,
}

#[cold]
fn record_slow(ctx: &Context<'_>, command: &Command, args: Args<'_>, ns: u64, waited: &Waited) {
    let (services, flags) = (ctx.services, command.spec.flags);
    let whole_ns = ns + waited.before_ns;
    if whole_ns >= ctx.thresholds.slow_ns && !flags.contains(Flags::SKIP_SLOWLOG) {
        let shown: Vec<&[u8]> = shown_args(ctx, args).collect();
        let entry = slowlog::Entry {
            id: 0,
            unix_seconds: unix_us() / 1_000_000,
            duration_us: whole_ns / 1000,
            waits: ctx.stats.watch.waits(ns, waited.in_all_ns),
            args: slowlog::shorten(shown.into_iter()),
            peer: ctx.session.client.endpoints.peer(),
            name: ctx.session.client.labels().name,
        };
        services
            .slowlog
            .push(entry, services.config.size(Id::SlowlogMaxLen));
    }
    // EXEC's commands are reported one by one.
    if ns >= ctx.thresholds.latency_ns && command.spec.locking != Locking::Transaction {
        let event = if flags.contains(Flags::FAST) {
            "fast-command"
        } else {
            "command"
        };
        services
            .latency
            .add(event, unix_us() / 1_000_000, ns / 1_000_000);
    }
}

/// The arguments as logs may show them.
fn shown_args<'a>(ctx: &Context<'_>, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> {
    let secret = ctx.secret_args;
    args.from(0).enumerate().map(move |(at, argument)| {
        if secret >> at.min(63) & 1 == 1 {
            b"(redacted)"
        } else {
            argument
        }
    })
}

#[cold]
fn show_to_monitors(ctx: &Context<'_>, command: &Command, args: Args<'_>) {
    if command
        .spec
        .flags
        .intersects(Flags::SKIP_MONITOR | Flags::ADMIN)
    {
        return;
    }
    let now_us = unix_us();
    let peer = match ctx.session.client.endpoints.is_unix() {
        true => format!(
            "unix:{}",
            ctx.session.client.endpoints.peer().trim_end_matches(":0")
        ),
        false => ctx.session.client.endpoints.peer(),
    };
    let db = ctx.session.db;
    let mut line = format!(
        "+{}.{:06} [{db} {peer}]",
        now_us / 1_000_000,
        now_us % 1_000_000
    );
    for argument in shown_args(ctx, args) {
        line.push(' ');
        line.push_str(&quote(argument));
    }
    line.push_str("\r\n");
    ctx.services.clients.show(line.into_bytes());
}

/// The shards of these keys.
#[inline]
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
            set = set.union(keyspace.shard_of(keyspace.key(args.get(at)).hash()));
        });
    }
    for (_, key) in ctx.session.watch.iter().flat_map(|watch| &watch.keys) {
        set = set.union(keyspace.shard_of(keyspace.key(key).hash()));
    }
    set
}

/// What is checked of every command before it runs or is queued.
#[inline]
fn check(ctx: &Context<'_>, command: &Command, args: Args<'_>) -> Result<(), CommandError> {
    let flags = command.spec.flags;
    if !command.takes(args.len()) {
        return Err(wrong_number_of_arguments(command));
    }
    if flags.contains(Flags::PROTECTED) {
        check_protected(ctx, command)?;
    }
    if !ctx.session.authenticated
        && !flags.contains(Flags::NO_AUTH)
        && ctx.services.needs_password()
    {
        return Err(CommandError::new("NOAUTH Authentication required."));
    }
    if flags.contains(Flags::NO_MULTI) && ctx.session.transaction.is_some() {
        return Err(CommandError::new(
            "ERR Command not allowed inside a transaction",
        ));
    }
    Ok(())
}

#[cold]
fn wrong_number_of_arguments(command: &Command) -> CommandError {
    format!(
        "ERR wrong number of arguments for '{}' command",
        command.name
    )
    .into()
}

#[cold]
fn check_protected(ctx: &Context<'_>, command: &Command) -> Result<(), CommandError> {
    let is_local = ctx.session.client.endpoints.is_local();
    if ctx.services.allows(Id::EnableDebugCommand, is_local) {
        return Ok(());
    }
    let name = &command.name;
    let text = format!(
        "ERR {} command not allowed. If the enable-{name}-command option is set to \"local\", you can run it from a \
         local connection, otherwise you need to set this option in the configuration file, and then restart the \
         server.",
        name.to_ascii_uppercase()
    );
    Err(text.into())
}

/// Whether the pause that is in force holds for a command.
#[cold]
fn has_to_wait(ctx: &Context<'_>, command: &Command) -> bool {
    let Some(pause) = ctx.services.clients.pause() else {
        return false;
    };
    if pause.until_ms <= ctx.now_ms {
        return false;
    }
    if pause.all {
        return true;
    }
    // A queued command waits with its EXEC.
    let runs_now =
        ctx.session.transaction.is_none() || command.spec.locking == Locking::Transaction;
    runs_now && any_has_flags(ctx, command, Flags::WRITE | Flags::MAY_REPLICATE)
}

/// Whether a command, or for EXEC any of the queued ones, has one of these flags.
fn any_has_flags(ctx: &Context<'_>, command: &Command, flags: Flags) -> bool {
    if command.spec.locking != Locking::Transaction {
        return command.spec.flags.intersects(flags);
    }
    let mut queue = ctx
        .session
        .transaction
        .iter()
        .flat_map(|transaction| &transaction.queue);
    queue.any(|queued| {
        let command = ctx.services.commands.get(queued.command);
        command.spec.flags.intersects(flags)
    })
}

/// Refuses to write where replicas are demanded, of which there are none.
#[cold]
fn check_replicas(ctx: &Context<'_>, command: &Command) -> Result<(), CommandError> {
    // A maximal lag of 0 turns the demand off.
    let demanded = ctx.services.config.is_set(Id::MinReplicasMaxLag);
    if demanded && any_has_flags(ctx, command, Flags::WRITE) {
        return Err(CommandError::new(
            "NOREPLICAS Not enough good replicas to write.",
        ));
    }
    Ok(())
}

/// Brings memory within the limit before a command that may need more of it.
#[cold]
fn make_room(ctx: &mut Context<'_>, command: &Command) -> Result<(), CommandError> {
    let services = ctx.services;
    // Queueing takes memory as well, whatever the command.
    let queues = ctx.session.transaction.is_some()
        && !matches!(command.spec.name, "exec" | "discard" | "quit" | "reset");
    let denied = queues || any_has_flags(ctx, command, Flags::DENYOOM);
    if !denied && !command.spec.flags.contains(Flags::WRITE) || services.clients.is_paused() {
        if services.over_limit.holds() {
            services.note_limit(uptime());
        }
        return Ok(());
    }
    ctx.lock(ShardSet::EMPTY);
    let began = ctx.clock;
    let heap_bytes = services
        .memory
        .heap_bytes(services.config.is_set(Id::MaxMemoryMeasure));
    let made = services.keyspace.make_room(ctx.now_ms, heap_bytes);
    if made.exceeded != services.over_limit.holds() {
        services.over_limit.note(made.exceeded, uptime());
    }
    if made.evicted > 0 {
        // What was evicted is not the command's own time.
        ctx.clock = Ticks::now();
        let ns = crate::clock::ticks_to_ns(ctx.clock.since(began));
        services.note_latency("eviction-cycle", Duration::from_nanos(ns));
        services.note_latency("eviction-del", made.longest);
    }
    if made.within_limit || !denied {
        return Ok(());
    }
    Err(CommandError::OUT_OF_MEMORY)
}

#[cold]
fn reject(ctx: &mut Context<'_>, command: Option<&Command>, error: &CommandError) {
    ctx.lock(ShardSet::EMPTY);
    if let Some(transaction) = &mut ctx.session.transaction {
        transaction.aborted = true;
    }
    if let Some(command) = command {
        ctx.stats.commands[usize::from(command.index)]
            .rejected
            .add(1);
        if command.spec.locking == Locking::Transaction {
            // An EXEC that cannot run ends the transaction all the same.
            let error = transaction::abort(ctx.session, &ctx.services.keyspace, error);
            ctx.reply.error(error.text());
            count_errors(ctx);
            return;
        }
    }
    ctx.reply.error(error.text());
    count_errors(ctx);
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
        transaction.bytes += len;
        transaction.queue.push(QueuedCommand {
            command: command.index,
            bytes: copy.into(),
            spans,
        });
    }
    ctx.reply.raw(b"+QUEUED\r\n");
}

fn unknown_command(args: Args<'_>) -> CommandError {
    let name = args.try_get(0).unwrap_or_default();
    let mut shown = Vec::new();
    for argument in args.from(1) {
        if shown.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let room = SHOWN_BYTES_MAX - shown.len();
        shown.push(b'\'');
        shown.extend_from_slice(&argument[..argument.len().min(room)]);
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

/// Publishes what changed in a client's session, for other workers to see.
pub(crate) fn publish(ctx: &Context<'_>) {
    let (session, client) = (&*ctx.session, &*ctx.session.client);
    client.db.store(
        u32::try_from(session.db).unwrap_or(u32::MAX),
        Ordering::Relaxed,
    );
    client
        .protocol
        .store(u16::from(session.protocol.number()), Ordering::Relaxed);
    client.last_command.store(ctx.command, Ordering::Relaxed);
    client.active_ms.store(ctx.now_ms, Ordering::Relaxed);
    let transaction = session.transaction.as_deref();
    let queued = transaction.map_or(-1, |transaction| {
        i64::try_from(transaction.queue.len()).unwrap_or(i64::MAX)
    });
    client.queued.store(queued, Ordering::Relaxed);
    client.queued_bytes.store(
        transaction.map_or(0, |transaction| transaction.bytes),
        Ordering::Relaxed,
    );
    let watched = session.watch.as_deref().map_or(0, |watch| watch.keys.len());
    client.watched.store(
        u32::try_from(watched).unwrap_or(u32::MAX),
        Ordering::Relaxed,
    );
}
