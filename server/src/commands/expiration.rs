//! Commands that set, show and remove the expiration of keys.

use kvstore::Touch;

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;

/// The conditions under which EXPIRE and its kin act.
#[derive(Clone, Copy, Debug, Default)]
struct ExpireConditions {
    /// Only if the key has no expiration.
    nx: bool,
    /// Only if it has one.
    xx: bool,
    /// Only if the new one is later; no expiration counts as never.
    gt: bool,
    /// Only if the new one is earlier.
    lt: bool,
}

impl ExpireConditions {
    fn parse(args: Args<'_>) -> Result<Self, CommandError> {
        let mut conditions = Self::default();
        for option in args.from(3) {
            let chosen = match option.to_ascii_lowercase().as_slice() {
                b"nx" => &mut conditions.nx,
                b"xx" => &mut conditions.xx,
                b"gt" => &mut conditions.gt,
                b"lt" => &mut conditions.lt,
                _ => return Err([b"ERR Unsupported option ", option].concat().into()),
            };
            *chosen = true;
        }
        let Self { nx, xx, gt, lt } = conditions;
        if nx && (xx || gt || lt) {
            return Err(CommandError::new(
                "ERR NX and XX, GT or LT options at the same time are not compatible",
            ));
        }
        if gt && lt {
            return Err(CommandError::new(
                "ERR GT and LT options at the same time are not compatible",
            ));
        }
        Ok(conditions)
    }

    /// Whether a key that expires at `old` may expire at `new` from now on.
    fn allow(self, old: Option<u64>, new: i64) -> bool {
        let later = old.is_some_and(|old| new > old as i64);
        let earlier = old.is_none_or(|old| new < old as i64);
        let refused = (self.nx && old.is_some())
            || (self.xx && old.is_none())
            || (self.gt && !later)
            || (self.lt && !earlier);
        !refused
    }
}

/// Sets the expiration to argument 2, in units of `unit_ms`, counted from `origin_ms` of Unix time.
fn set_expiry(
    ctx: &mut Context<'_>,
    args: Args<'_>,
    unit_ms: i64,
    origin_ms: u64,
) -> CommandResult {
    let conditions = ExpireConditions::parse(args)?;
    let given = args.integer(2)?;
    let at_ms = given
        .checked_mul(unit_ms)
        .and_then(|at| at.checked_add(origin_ms as i64));
    let at_ms = at_ms.ok_or_else(|| ctx.invalid_expire_time())?;
    let now_ms = ctx.now_ms;
    let key = args.key(0);
    let touch = ctx.touch(Touch::WRITE);
    let (mut db, reply) = ctx.db_and_reply();
    db.exists(&key, touch);
    let done = match db.expiry(&key) {
        None => false,
        Some(old) if !conditions.allow(old, at_ms) => false,
        Some(_) if at_ms <= now_ms as i64 => db.remove(&key),
        Some(_) => db.set_expiry(&key, at_ms as u64)?,
    };
    reply.integer(i64::from(done));
    Ok(())
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub(crate) fn expire(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let now_ms = ctx.now_ms;
    set_expiry(ctx, args, 1000, now_ms)
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub(crate) fn pexpire(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let now_ms = ctx.now_ms;
    set_expiry(ctx, args, 1, now_ms)
}

/// `EXPIREAT key unix-time-seconds [NX | XX | GT | LT]`
pub(crate) fn expireat(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    set_expiry(ctx, args, 1000, 0)
}

/// `PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]`
pub(crate) fn pexpireat(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    set_expiry(ctx, args, 1, 0)
}

/// Writes what `show` makes of the expiration, -1 if there is none, -2 if there is no key.
fn write_expiry(ctx: &mut Context<'_>, args: Args<'_>, show: fn(u64, u64) -> u64) -> CommandResult {
    let key = args.key(0);
    let now_ms = ctx.now_ms;
    let (mut db, reply) = ctx.db_and_reply();
    db.exists(&key, Touch::INSPECT);
    reply.integer(match db.expiry(&key) {
        None => -2,
        Some(None) => -1,
        Some(Some(at_ms)) => show(at_ms, now_ms) as i64,
    });
    Ok(())
}

/// Seconds, rounded to the nearest.
fn seconds(milliseconds: u64) -> u64 {
    milliseconds.saturating_add(500) / 1000
}

/// `TTL key`
pub(crate) fn ttl(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    write_expiry(ctx, args, |at_ms, now_ms| {
        seconds(at_ms.saturating_sub(now_ms))
    })
}

/// `PTTL key`
pub(crate) fn pttl(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    write_expiry(ctx, args, |at_ms, now_ms| at_ms.saturating_sub(now_ms))
}

/// `EXPIRETIME key`
pub(crate) fn expiretime(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    write_expiry(ctx, args, |at_ms, _| seconds(at_ms))
}

/// `PEXPIRETIME key`
pub(crate) fn pexpiretime(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    write_expiry(ctx, args, |at_ms, _| at_ms)
}

/// `PERSIST key`
pub(crate) fn persist(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let key = args.key(0);
    let touch = ctx.touch(Touch::WRITE);
    let mut db = ctx.db();
    db.exists(&key, touch);
    let persisted = db.persist(&key);
    ctx.reply.integer(i64::from(persisted));
    Ok(())
}
