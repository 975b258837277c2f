//! Commands on keys of any type, on whole databases and on iteration.

use std::hash::{BuildHasher, Hasher, RandomState};

use kvstore::{Key, ScanCursor, ShardSet, Touch, ValueRef};

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::config::directive::Id;
use crate::glob::Pattern;
use crate::number::parse_unsigned;
use crate::resp::reply::Reply;

/// Writes how many of the keys `holds` is true of.
fn count_keys(
    ctx: &mut Context<'_>,
    args: Args<'_>,
    mut holds: impl FnMut(&mut kvstore::Db<'_>, &Key<'_>) -> bool,
) -> CommandResult {
    let (mut db, reply) = ctx.db_and_reply();
    reply.count(args.keys().iter().filter(|key| holds(&mut db, key)).count());
    Ok(())
}

/// `DEL key...`
pub(crate) fn del(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    count_keys(ctx, args, |db, key| db.remove(key))
}

/// `UNLINK key...`. Removing a value takes constant time, whatever its size, so this is `DEL`.
pub(crate) fn unlink(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    del(ctx, args)
}

/// `EXISTS key...`
pub(crate) fn exists(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    count_keys(ctx, args, |db, key| db.exists(key, Touch::INSPECT))
}

/// `TOUCH key...`. It is what the command is for, so it counts as a use for every client.
pub(crate) fn touch(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    count_keys(ctx, args, |db, key| db.exists(key, Touch::READ))
}

/// `TYPE key`
pub(crate) fn type_of(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (mut db, reply) = ctx.db_and_reply();
    let found = db.type_of(&args.key(0), Touch::INSPECT);
    reply.simple(found.map_or("none", |value_type| value_type.name()));
    Ok(())
}

/// `RENAME key newkey`
pub(crate) fn rename(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (from, to) = (args.key(0), args.key(1));
    let touch = ctx.touch(Touch::WRITE);
    let mut db = ctx.db();
    db.exists(&from, touch);
    if !db.rename(&from, &to)? {
        return Err(CommandError::NO_SUCH_KEY);
    }
    ctx.reply.ok();
    Ok(())
}

/// `RENAMENX key newkey`
pub(crate) fn renamenx(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (from, to) = (args.key(0), args.key(1));
    let touch = ctx.touch(Touch::WRITE);
    let (mut db, reply) = ctx.db_and_reply();
    if !db.exists(&from, touch) {
        return Err(CommandError::NO_SUCH_KEY);
    }
    // The key itself counts as having its own name.
    let renamed = !db.exists(&to, Touch::NONE) && db.rename(&from, &to)?;
    reply.integer(i64::from(renamed));
    Ok(())
}

/// The number of a database, as argument `at` gives it.
fn database(ctx: &Context<'_>, args: Args<'_>, at: usize) -> Result<usize, CommandError> {
    let index = usize::try_from(args.small_integer(at)?);
    let exists = |index: &usize| *index < ctx.services.keyspace.databases();
    index
        .ok()
        .filter(exists)
        .ok_or(CommandError::DB_OUT_OF_RANGE)
}

const SAME_OBJECT: CommandError =
    CommandError::new("ERR source and destination objects are the same");

/// `COPY source destination [DB destination-db] [REPLACE]`
pub(crate) fn copy(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (mut to_db, mut replace) = (ctx.session.db, false);
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "replace") {
            replace = true;
        } else if args.is(at, "db") && at + 1 < args.len() {
            at += 1;
            to_db = database(ctx, args, at)?;
        } else {
            return Err(CommandError::SYNTAX);
        }
        at += 1;
    }
    let (from, to) = (args.key(0), args.key(1));
    if to_db == ctx.session.db && from.bytes() == to.bytes() {
        return Err(SAME_OBJECT);
    }
    let touch = ctx.touch(Touch::READ);
    let copied = ctx.db().exists(&from, touch)
        && (replace || !ctx.locked.db(to_db, ctx.now_ms).exists(&to, Touch::NONE))
        && ctx.db().copy(&from, to_db, &to)?;
    ctx.reply.integer(i64::from(copied));
    Ok(())
}

/// `MOVE key db`
pub(crate) fn move_key(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let to_db = database(ctx, args, 2)?;
    if to_db == ctx.session.db {
        return Err(SAME_OBJECT);
    }
    let moved = ctx.db().move_to(&args.key(0), to_db)?;
    ctx.reply.integer(i64::from(moved));
    Ok(())
}

/// `SWAPDB index1 index2`
pub(crate) fn swapdb(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let index = |at, error| args.small_integer(at).map_err(|_| CommandError::new(error));
    let first = index(1, "ERR invalid first DB index")?;
    let second = index(2, "ERR invalid second DB index")?;
    let databases = ctx.services.keyspace.databases();
    let valid = |index| {
        usize::try_from(index)
            .ok()
            .filter(|index| *index < databases)
    };
    let both = valid(first).zip(valid(second));
    let (first, second) = both.ok_or(CommandError::DB_OUT_OF_RANGE)?;
    ctx.locked.swap_databases(first, second, ctx.now_ms);
    ctx.reply.ok();
    Ok(())
}

/// Whether FLUSHDB or FLUSHALL gives the memory back after the reply. The keys are gone in any case.
fn flushes_in_background(ctx: &Context<'_>, args: Args<'_>) -> Result<bool, CommandError> {
    match args.len() {
        1 => Ok(ctx.services.config.is_set(Id::LazyUserFlush)),
        2 if args.is(1, "sync") => Ok(false),
        2 if args.is(1, "async") => Ok(true),
        _ => Err(CommandError::SYNTAX),
    }
}

/// `FLUSHDB [ASYNC | SYNC]`
pub(crate) fn flushdb(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if flushes_in_background(ctx, args)? {
        ctx.db().clear_in_background();
    } else {
        ctx.db().clear();
    }
    ctx.reply.ok();
    Ok(())
}

/// `FLUSHALL [ASYNC | SYNC]`
pub(crate) fn flushall(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if flushes_in_background(ctx, args)? {
        ctx.locked.clear_all_in_background();
    } else {
        ctx.locked.clear_all();
    }
    ctx.reply.ok();
    Ok(())
}

/// Has `act` see one shard after the other, each locked for that time only; inside of a transaction, which holds all
/// shards, all of them at once.
fn walk(ctx: &mut Context<'_>, mut act: impl FnMut(&mut Context<'_>, ShardSet)) {
    let keyspace = &ctx.services.keyspace;
    let all = keyspace.all_shards();
    if ctx.locked.shards().contains_all(all) {
        act(ctx, all);
        return;
    }
    for shard in all.iter().map(ShardSet::one) {
        ctx.lock(shard);
        act(ctx, shard);
        ctx.lock(ShardSet::EMPTY);
    }
}

/// `DBSIZE`
pub(crate) fn dbsize(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let mut len = 0;
    walk(ctx, |ctx, _| len += ctx.db().len());
    ctx.reply.count(len);
    Ok(())
}

/// `RANDOMKEY`: of a shard chosen by how many keys each has.
pub(crate) fn randomkey(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    loop {
        let mut sizes = Vec::new();
        walk(ctx, |ctx, shards| sizes.push((shards, ctx.db().len())));
        let total: usize = sizes.iter().map(|(_, len)| len).sum();
        // The hasher's keys are secret and never the same twice, so an empty hash is a random number.
        let random = RandomState::new().build_hasher().finish();
        let Some(mut at) = (random as usize).checked_rem(total) else {
            ctx.reply.null();
            return Ok(());
        };
        let chosen = sizes.iter().find(|(_, len)| {
            let here = at < *len;
            at = at.saturating_sub(*len);
            here
        });
        let held = ctx.locked.shards();
        ctx.lock(chosen.map_or(held, |(shards, _)| *shards));
        let (mut db, reply) = ctx.db_and_reply();
        let found = db.random_key(random).map(|key| reply.bulk(key)).is_some();
        ctx.lock(held);
        // A key whose time has come is removed by looking at it, so this ends.
        if found {
            return Ok(());
        }
    }
}

/// Visits keys from `cursor` on, shard after shard, each locked for that time only (inside of a transaction all are
/// locked anyway), until `count` were looked at. Returns where to go on.
fn scan_shards(
    ctx: &mut Context<'_>,
    mut cursor: ScanCursor,
    count: usize,
    mut visit: impl FnMut(&mut Reply, &[u8], ValueRef<'_>),
) -> ScanCursor {
    let keyspace = &ctx.services.keyspace;
    let mut left = count;
    loop {
        let shard = keyspace.shard_of_cursor(cursor);
        if shard.is_empty() {
            return ScanCursor::START;
        }
        let held = ctx.locked.shards();
        if !held.contains_all(shard) {
            ctx.lock(shard);
        }
        let (mut db, reply) = ctx.db_and_reply();
        let mut seen = 0;
        cursor = db.scan(cursor, left, |key, value| {
            seen += 1;
            visit(reply, key, value);
        });
        ctx.lock(held);
        left = left.saturating_sub(seen);
        if cursor == ScanCursor::START || left == 0 {
            return cursor;
        }
    }
}

/// `KEYS pattern`
pub(crate) fn keys(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let pattern = Pattern::new(args.get(1));
    let all = pattern.matches_all();
    let place = ctx.reply.deferred();
    let mut count = 0;
    scan_shards(ctx, ScanCursor::START, usize::MAX, |reply, key, _| {
        if all || pattern.matches(key) {
            reply.bulk(key);
            count += 1;
        }
    });
    ctx.reply.finish_array(place, count);
    Ok(())
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub(crate) fn scan(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let cursor = parse_unsigned(args.get(1)).ok_or(CommandError::new("ERR invalid cursor"))?;
    let mut pattern = None;
    let mut wanted_type = None;
    let mut count = 10;
    let mut at = 2;
    while at < args.len() {
        if at + 1 == args.len() {
            return Err(CommandError::SYNTAX);
        }
        if args.is(at, "count") {
            count = usize::try_from(args.integer(at + 1)?).unwrap_or(0);
            if count == 0 {
                return Err(CommandError::SYNTAX);
            }
        } else if args.is(at, "match") {
            pattern = Some(Pattern::new(args.get(at + 1))).filter(|pattern| !pattern.matches_all());
        } else if args.is(at, "type") {
            wanted_type = Some(args.get(at + 1));
        } else {
            return Err(CommandError::SYNTAX);
        }
        at += 2;
    }

    let place = ctx.reply.deferred();
    let mut found = 0;
    let from = ScanCursor::from_raw(cursor);
    let cursor = scan_shards(ctx, from, count, |reply, key, value| {
        let of_type = |name: &[u8]| {
            let own = value.value_type().name();
            own.as_bytes().eq_ignore_ascii_case(name)
        };
        if pattern.is_none_or(|pattern| pattern.matches(key)) && wanted_type.is_none_or(of_type) {
            reply.bulk(key);
            found += 1;
        }
    });
    ctx.reply.finish(place, |reply| {
        reply.array(2);
        reply.bulk(cursor.raw().to_string().as_bytes());
        reply.array(found);
    });
    Ok(())
}

/// Looks the key of an OBJECT subcommand up and writes null if there is none.
fn object_exists(ctx: &mut Context<'_>, args: Args<'_>) -> bool {
    let found = ctx.db().exists(&args.key(0), Touch::INSPECT);
    if !found {
        ctx.reply.null();
    }
    found
}

/// `OBJECT ENCODING key`
pub(crate) fn object_encoding(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if object_exists(ctx, args) {
        let encoding = ctx.db().encoding(&args.key(0));
        ctx.reply.bulk(
            encoding
                .map_or("unknown", |encoding| encoding.name())
                .as_bytes(),
        );
    }
    Ok(())
}

/// `OBJECT REFCOUNT key`. A value has exactly one owner, its key.
pub(crate) fn object_refcount(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if object_exists(ctx, args) {
        ctx.reply.integer(1);
    }
    Ok(())
}

/// `OBJECT IDLETIME key`
pub(crate) fn object_idletime(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if object_exists(ctx, args) {
        let idle = ctx.db().idle_seconds(&args.key(0)).ok_or(CommandError::new(
            "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when \
             switching between policies at runtime LRU and LFU data will take some time to adjust.",
        ))?;
        ctx.reply.integer(idle as i64);
    }
    Ok(())
}

/// `OBJECT FREQ key`
pub(crate) fn object_freq(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if object_exists(ctx, args) {
        let frequency = ctx.db().frequency(&args.key(0)).ok_or(CommandError::new(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note \
             that when switching between policies at runtime LRU and LFU data will take some time \
             to adjust.",
        ))?;
        ctx.reply.integer(i64::from(frequency));
    }
    Ok(())
}
