//! Commands on strings.

use kvstore::value::string::{Decimal, StringRef};
use kvstore::{Db, Key, NewExpiry, NewValue, Touch, ValueRef};

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::commands::set_options::{Condition, Lifetime, Of, Options, Origin, Time, Unit};
use crate::config::directive::Id;
use crate::extended::Extended;
use crate::lcs;
use crate::resp::reply::Reply;

/// The string at `key`.
fn string_at<'d>(
    db: &'d mut Db<'_>,
    key: &Key<'_>,
    touch: Touch,
) -> Result<Option<StringRef<'d>>, CommandError> {
    match db.get(key, touch) {
        None => Ok(None),
        Some(ValueRef::String(string)) => Ok(Some(string)),
        #[allow(unreachable_patterns, reason = "strings are the only type so far")]
        Some(_) => Err(CommandError::WRONG_TYPE),
    }
}

/// Writes a string as a bulk, or null.
#[inline]
fn write_string(reply: &mut Reply, string: Option<StringRef<'_>>) {
    match string {
        None => reply.null(),
        Some(StringRef::Bytes(bytes)) => reply.bulk(bytes),
        Some(StringRef::Int(value)) => reply.bulk_integer(value),
    }
}

/// Refuses a string of `offset + more` bytes if that is over the limit.
fn check_length(ctx: &Context<'_>, offset: u64, more: usize) -> Result<usize, CommandError> {
    let configured = ctx.services.config.number(Id::ProtoMaxBulkLen);
    let most = usize::try_from(configured)
        .unwrap_or(0)
        .min(kvstore::STRING_BYTES_MAX);
    let length = usize::try_from(offset)
        .ok()
        .and_then(|offset| offset.checked_add(more));
    length
        .filter(|length| *length <= most)
        .ok_or(CommandError::new(
            "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
        ))
}

/// `GET key`
pub(crate) fn get(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let touch = ctx.touch(Touch::READ);
    let (mut db, reply) = ctx.db_and_reply();
    write_string(reply, string_at(&mut db, &args.key(0), touch)?);
    Ok(())
}

/// `MGET key...`: null for keys that hold no string.
pub(crate) fn mget(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let touch = ctx.touch(Touch::READ);
    let (mut db, reply) = ctx.db_and_reply();
    reply.array(args.keys().len());
    for key in args.keys() {
        write_string(reply, string_at(&mut db, key, touch).unwrap_or(None));
    }
    Ok(())
}

/// `STRLEN key`
pub(crate) fn strlen(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let touch = ctx.touch(Touch::READ);
    let (mut db, reply) = ctx.db_and_reply();
    let string = string_at(&mut db, &args.key(0), touch)?;
    reply.count(string.map_or(0, |string| string.len()));
    Ok(())
}

/// `GETRANGE key start end`, also `SUBSTR`. Both ends are included; negative ones count from the end.
pub(crate) fn getrange(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (start, end) = (args.integer(2)?, args.integer(3)?);
    let touch = ctx.touch(Touch::READ);
    let (mut db, reply) = ctx.db_and_reply();
    let mut decimal = Decimal::new();
    let bytes = match &string_at(&mut db, &args.key(0), touch)? {
        None => &[][..],
        Some(string) => string.as_bytes(&mut decimal),
    };
    reply.bulk(range(bytes, start, end));
    Ok(())
}

/// The bytes from `start` to `end`, both included, negative ones counted from the end.
fn range(bytes: &[u8], start: i64, end: i64) -> &[u8] {
    // A length is far below `i64::MAX`, so adding it to a negative number cannot overflow.
    let from_front = |at: i64| if at < 0 { at + bytes.len() as i64 } else { at };
    let both_from_back = start < 0 && end < 0;
    if both_from_back && start > end {
        return &[];
    }
    let start = from_front(start).max(0) as usize;
    let end = from_front(end).max(0) as usize;
    let last = end.min(bytes.len().wrapping_sub(1));
    if bytes.is_empty() || start > last {
        &[]
    } else {
        &bytes[start..=last]
    }
}

/// `SET key value [NX | XX] [GET] [EX seconds | PX milliseconds | EXAT ... | PXAT ... | KEEPTTL]`
pub(crate) fn set(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if args.len() == 3 {
        ctx.db()
            .set(&args.key(0), NewValue::String(args.get(2)), NewExpiry::None)?;
        ctx.reply.ok();
        return Ok(());
    }
    let options = Options::parse(args, 3, Of::Set)?;
    let expiry = match options.lifetime {
        Lifetime::Default => NewExpiry::None,
        Lifetime::Keep | Lifetime::Persist => NewExpiry::Keep,
        Lifetime::Until(time) => NewExpiry::At(time.instant_ms(ctx, args)?),
    };
    let key = args.key(0);
    let (touch, write) = (ctx.touch(Touch::READ), ctx.touch(Touch::WRITE));
    let (mut db, reply) = ctx.db_and_reply();
    let found = if options.get {
        let old = string_at(&mut db, &key, touch)?;
        write_string(reply, old);
        old.is_some()
    } else {
        options.condition != Condition::Always && db.exists(&key, write)
    };
    let wanted = match options.condition {
        Condition::Always => true,
        Condition::IfMissing => !found,
        Condition::IfPresent => found,
    };
    if wanted {
        db.set(&key, NewValue::String(args.get(2)), expiry)?;
    }
    match (options.get, wanted) {
        (true, _) => {}
        (false, true) => reply.ok(),
        (false, false) => reply.null(),
    }
    Ok(())
}

/// `SETNX key value`
pub(crate) fn setnx(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let key = args.key(0);
    let touch = ctx.touch(Touch::WRITE);
    let (mut db, reply) = ctx.db_and_reply();
    let missing = !db.exists(&key, touch);
    if missing {
        db.set(&key, NewValue::String(args.get(2)), NewExpiry::None)?;
    }
    reply.integer(i64::from(missing));
    Ok(())
}

/// `SETEX key seconds value`
pub(crate) fn setex(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    set_with_lifetime(
        ctx,
        args,
        Time {
            unit: Unit::Seconds,
            origin: Origin::Now,
            at: 2,
        },
    )
}

/// `PSETEX key milliseconds value`
pub(crate) fn psetex(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    set_with_lifetime(
        ctx,
        args,
        Time {
            unit: Unit::Milliseconds,
            origin: Origin::Now,
            at: 2,
        },
    )
}

fn set_with_lifetime(ctx: &mut Context<'_>, args: Args<'_>, time: Time) -> CommandResult {
    let at_ms = time.instant_ms(ctx, args)?;
    ctx.db().set(
        &args.key(0),
        NewValue::String(args.get(3)),
        NewExpiry::At(at_ms),
    )?;
    ctx.reply.ok();
    Ok(())
}

/// `GETSET key value`
pub(crate) fn getset(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let key = args.key(0);
    let touch = ctx.touch(Touch::READ);
    let (mut db, reply) = ctx.db_and_reply();
    write_string(reply, string_at(&mut db, &key, touch)?);
    db.set(&key, NewValue::String(args.get(2)), NewExpiry::None)?;
    Ok(())
}

/// `GETDEL key`
pub(crate) fn getdel(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let key = args.key(0);
    let touch = ctx.touch(Touch::READ);
    let (mut db, reply) = ctx.db_and_reply();
    write_string(reply, string_at(&mut db, &key, touch)?);
    db.remove(&key);
    Ok(())
}

/// `GETEX key [EX seconds | PX milliseconds | EXAT ... | PXAT ... | PERSIST]`
pub(crate) fn getex(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let options = Options::parse(args, 2, Of::GetEx)?;
    let key = args.key(0);
    let touch = ctx.touch(Touch::READ);
    let (mut db, reply) = ctx.db_and_reply();
    let string = string_at(&mut db, &key, touch)?;
    write_string(reply, string);
    if string.is_none() {
        return Ok(());
    }
    match options.lifetime {
        Lifetime::Default | Lifetime::Keep => {}
        Lifetime::Persist => {
            db.persist(&key);
        }
        Lifetime::Until(time) => {
            let at_ms = time.instant_ms(ctx, args)?;
            let now_ms = ctx.now_ms;
            let mut db = ctx.db();
            if at_ms <= now_ms {
                db.remove(&key);
            } else {
                db.set_expiry(&key, at_ms)?;
            }
        }
    }
    Ok(())
}

/// `MSET key value [key value...]`
pub(crate) fn mset(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    check_pairs(ctx, args)?;
    set_pairs(&mut ctx.db(), args)?;
    ctx.reply.ok();
    Ok(())
}

/// `MSETNX key value [key value...]`: all of them or, if one key exists, none.
pub(crate) fn msetnx(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    check_pairs(ctx, args)?;
    let touch = ctx.touch(Touch::WRITE);
    let (mut db, reply) = ctx.db_and_reply();
    let missing = !args.keys().iter().any(|key| db.exists(key, touch));
    if missing {
        set_pairs(&mut db, args)?;
    }
    reply.integer(i64::from(missing));
    Ok(())
}

fn check_pairs(ctx: &Context<'_>, args: Args<'_>) -> CommandResult {
    if args.len() % 2 == 1 {
        Ok(())
    } else {
        Err(ctx.wrong_number_of_arguments())
    }
}

/// Sets all pairs or, if memory runs out, none.
fn set_pairs(db: &mut Db<'_>, args: Args<'_>) -> CommandResult {
    let value = |pair: usize| NewValue::String(args.get(2 * pair + 2));
    Ok(db.set_all(args.keys(), value)?)
}

/// `APPEND key value`
pub(crate) fn append(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (key, tail) = (args.key(0), args.get(2));
    let touch = ctx.touch(Touch::WRITE);
    let old = string_at(&mut ctx.db(), &key, touch)?.map(|string| string.len());
    // The first value came in one argument, so it is within the limit for arguments.
    if let Some(old) = old {
        check_length(ctx, old as u64, tail.len())?;
    }
    let length = ctx.db().append(&key, tail)?;
    ctx.reply.count(length);
    Ok(())
}

/// `SETRANGE key offset value`
pub(crate) fn setrange(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let offset = u64::try_from(args.integer(2)?)
        .map_err(|_| CommandError::new("ERR offset is out of range"))?;
    let (key, patch) = (args.key(0), args.get(3));
    let touch = ctx.touch(Touch::WRITE);
    let old = string_at(&mut ctx.db(), &key, touch)?.map_or(0, |string| string.len());
    if patch.is_empty() {
        ctx.reply.count(old);
        return Ok(());
    }
    let end = check_length(ctx, offset, patch.len())?;
    let length = ctx.db().set_range(&key, end - patch.len(), patch)?;
    ctx.reply.count(length);
    Ok(())
}

/// `INCR key`
pub(crate) fn incr(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    increment(ctx, args, 1)
}

/// `DECR key`
pub(crate) fn decr(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    increment(ctx, args, -1)
}

/// `INCRBY key increment`
pub(crate) fn incrby(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    increment(ctx, args, args.integer(2)?)
}

/// `DECRBY key decrement`
pub(crate) fn decrby(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let by = args.integer(2)?.checked_neg();
    increment(
        ctx,
        args,
        by.ok_or(CommandError::new("ERR decrement would overflow"))?,
    )
}

#[inline]
fn increment(ctx: &mut Context<'_>, args: Args<'_>, by: i64) -> CommandResult {
    let sum = ctx.db().increment(&args.key(0), by)?;
    ctx.reply.integer(sum);
    Ok(())
}

/// `INCRBYFLOAT key increment`
pub(crate) fn incrbyfloat(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let key = args.key(0);
    let touch = ctx.touch(Touch::WRITE);
    let (mut db, reply) = ctx.db_and_reply();
    let old = match string_at(&mut db, &key, touch)? {
        None => Extended::from(0),
        Some(StringRef::Int(value)) => Extended::from(value),
        Some(StringRef::Bytes(bytes)) => Extended::parse(bytes).ok_or(CommandError::NOT_A_FLOAT)?,
    };
    let increment = Extended::parse(args.get(2)).ok_or(CommandError::NOT_A_FLOAT)?;
    let sum = old.add(increment);
    if !sum.is_finite() {
        return Err(CommandError::new(
            "ERR increment would produce NaN or Infinity",
        ));
    }
    let mut text = Vec::new();
    sum.write_to(&mut text);
    // A whole number stays text, as OBJECT ENCODING shows it in Redis.
    db.set(&key, NewValue::Bytes(&text), NewExpiry::Keep)?;
    reply.bulk(&text);
    Ok(())
}

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]`
pub(crate) fn lcs(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let mut strings = [Vec::new(), Vec::new()];
    let touch = ctx.touch(Touch::READ);
    for (string, key) in strings.iter_mut().zip(args.keys()) {
        let mut db = ctx.db();
        let found = string_at(&mut db, key, touch)
            .map_err(|_| CommandError::new("ERR The specified keys must contain string values"))?;
        if let Some(found) = found {
            string.extend_from_slice(found.as_bytes(&mut Decimal::new()));
        }
    }
    let (mut only_length, mut indexes, mut with_length, mut least) = (false, false, false, 0);
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "idx") {
            indexes = true;
        } else if args.is(at, "len") {
            only_length = true;
        } else if args.is(at, "withmatchlen") {
            with_length = true;
        } else if args.is(at, "minmatchlen") && at + 1 < args.len() {
            at += 1;
            least = usize::try_from(args.integer(at)?).unwrap_or(0);
        } else {
            return Err(CommandError::SYNTAX);
        }
        at += 1;
    }
    if only_length && indexes {
        return Err(CommandError::new(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    let [a, b] = &strings;
    // Redis's limit for its table of 4-byte lengths: it bounds the time that the command can take.
    let table_bytes = 4 * (a.len() as u128 + 1) * (b.len() as u128 + 1);
    let configured = ctx.services.config.number(Id::ProtoMaxBulkLen);
    if table_bytes > u128::from(configured.unsigned_abs()) {
        return Err(CommandError::new(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let no_memory = |_| {
        CommandError::new("ERR Insufficient memory, failed allocating transient memory for LCS")
    };
    if only_length {
        ctx.reply.count(lcs::length(a, b).map_err(no_memory)?);
        return Ok(());
    }
    let matches = lcs::matches(a, b).map_err(no_memory)?;
    if !indexes {
        let mut common = Vec::new();
        for run in matches.iter().rev() {
            common.extend_from_slice(&a[run.a.0..=run.a.1]);
        }
        ctx.reply.bulk(&common);
        return Ok(());
    }
    ctx.reply.map(2);
    ctx.reply.bulk(b"matches");
    let long_enough = || matches.iter().filter(|run| run.len() >= least);
    ctx.reply.array(long_enough().count());
    for run in long_enough() {
        ctx.reply.array(2 + usize::from(with_length));
        for (first, last) in [run.a, run.b] {
            ctx.reply.array(2);
            ctx.reply.count(first);
            ctx.reply.count(last);
        }
        if with_length {
            ctx.reply.count(run.len());
        }
    }
    ctx.reply.bulk(b"len");
    ctx.reply.count(matches.iter().map(lcs::Match::len).sum());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_include_both_ends_and_never_leave_the_string() {
        let text = b"Hello World";
        for (start, end, expected) in [
            (0, 3, &b"Hell"[..]),
            (-1, -1, b"d"),
            (-5, -1, b"World"),
            (0, -1, text),
            (5, 2, b""),
            (-1, -5, b""),
            (20, 30, b""),
            (-100, 2, b"Hel"),
            (-100, -100, b"H"),
            (i64::MIN, i64::MAX, text),
            (i64::MAX, i64::MIN, b""),
        ] {
            assert_eq!(range(text, start, end), expected, "{start} {end}");
        }
        assert_eq!(range(b"", 0, -1), b"");
        assert_eq!(range(b"", 0, 0), b"");
    }
}
