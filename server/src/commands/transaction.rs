//! Transactions: commands that are queued and then run as one, if nothing that they depend on changed.

use kvstore::{Keyspace, Locked, ShardSet, Touch, WatchFlag};

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::dispatch::{self, Keys};
use crate::commands::error::CommandError;
use crate::session::{Session, Transaction, Watch};

/// `MULTI`
pub(crate) fn multi(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    if ctx.session.transaction.is_some() {
        return Err(CommandError::new("ERR MULTI calls can not be nested"));
    }
    ctx.session.transaction = Some(Box::new(Transaction::default()));
    ctx.reply.ok();
    Ok(())
}

/// `DISCARD`
pub(crate) fn discard(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    if ctx.session.transaction.take().is_none() {
        return Err(CommandError::new("ERR DISCARD without MULTI"));
    }
    unwatch_all(ctx.session, &ctx.services.keyspace);
    ctx.reply.ok();
    Ok(())
}

/// `WATCH key...`
pub(crate) fn watch(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if ctx.session.transaction.is_some() {
        return Err(CommandError::new("ERR WATCH inside MULTI is not allowed"));
    }
    let index = ctx.session.db;
    let mut db = ctx.locked.db(index, ctx.now_ms);
    let watch = ctx.session.watch.get_or_insert_with(|| {
        Box::new(Watch {
            flag: WatchFlag::new(),
            keys: Vec::new(),
        })
    });
    for key in args.keys() {
        let known = |(db, bytes): &(usize, Box<[u8]>)| *db == index && **bytes == *key.bytes();
        if !watch.keys.iter().any(known) {
            db.watch(key, &watch.flag);
            watch.keys.push((index, key.bytes().into()));
        }
    }
    ctx.reply.ok();
    Ok(())
}

/// `UNWATCH`. When EXEC runs a queued one nothing is watched any more.
pub(crate) fn unwatch(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    unwatch_all(ctx.session, &ctx.services.keyspace);
    ctx.reply.ok();
    Ok(())
}

/// Ends the transaction for an EXEC that is refused for `reason`; returns what the client is told.
pub(crate) fn abort(
    session: &mut Session,
    keyspace: &Keyspace,
    reason: &CommandError,
) -> CommandError {
    session.transaction = None;
    unwatch_all(session, keyspace);
    let reason = reason.text().strip_prefix(b"ERR ").unwrap_or(reason.text());
    [b"EXECABORT Transaction discarded because of: ", reason]
        .concat()
        .into()
}

/// Ends all watching of a client. Locks the shards of the watched keys, so the caller must hold none if
/// there are any.
pub(crate) fn unwatch_all(session: &mut Session, keyspace: &Keyspace) {
    let Some(watch) = session.watch.take() else {
        return;
    };
    let shards = watch.keys.iter().fold(ShardSet::EMPTY, |set, (_, key)| {
        set.union(keyspace.shard_of(keyspace.key(key).hash()))
    });
    release(&watch, &mut keyspace.lock(shards), keyspace);
}

fn release(watch: &Watch, locked: &mut Locked<'_>, keyspace: &Keyspace) {
    for (index, key) in &watch.keys {
        locked
            .db(*index, 0)
            .unwatch(&keyspace.key(key), &watch.flag);
    }
}

/// Whether a watched key has changed or its time has come, with the shards of all of them locked.
fn is_broken(watch: &Watch, locked: &mut Locked<'_>, keyspace: &Keyspace, now_ms: u64) -> bool {
    for (index, key) in &watch.keys {
        // Looking at a key whose time has come removes it, which raises the flag, unless a pause keeps it.
        let (key, mut db) = (keyspace.key(key), locked.db(*index, now_ms));
        db.exists(&key, Touch::NONE);
        if db.is_due(&key) {
            return true;
        }
    }
    watch.flag.is_raised()
}

/// `EXEC`, with the shards of the queued commands and of the watched keys locked.
pub(crate) fn exec(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let transaction = ctx.session.transaction.take();
    let transaction = transaction.ok_or(CommandError::new("ERR EXEC without MULTI"))?;
    let services = ctx.services;
    let mut broken = false;
    if let Some(watch) = ctx.session.watch.take() {
        broken = is_broken(&watch, &mut ctx.locked, &services.keyspace, ctx.now_ms);
        release(&watch, &mut ctx.locked, &services.keyspace);
    }
    if transaction.aborted {
        return Err(CommandError::new(
            "EXECABORT Transaction discarded because of previous errors.",
        ));
    }
    if broken {
        ctx.reply.null_array();
        return Ok(());
    }
    let exec = ctx.command;
    ctx.reply.array(transaction.queue.len());
    for queued in &transaction.queue {
        let command = services.commands.get(queued.command);
        let args = Args::new(&queued.bytes, &queued.spans);
        let mut keys = Keys::new();
        command.collect_keys(&services.keyspace, args, &mut keys);
        dispatch::call(ctx, command, args.with_keys(&keys));
    }
    ctx.command = exec;
    Ok(())
}
