//! SLOWLOG.

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;

/// `SLOWLOG GET [count] [WAITS]`
pub(crate) fn get(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let waits = args.len() > 2 && args.is(args.len() - 1, "waits");
    let count = match args.len() - usize::from(waits) {
        2 => 10,
        3 => {
            let wrong = CommandError::new("ERR count should be greater than or equal to -1");
            match kvstore::parse_integer(args.get(2)).ok_or(wrong.clone())? {
                -1 => usize::MAX,
                count => usize::try_from(count).map_err(|_| wrong)?,
            }
        }
        _ => return Err(ctx.subcommand_syntax(args)),
    };
    let entries = ctx.services.slowlog.newest(count);
    ctx.reply.array(entries.len());
    for entry in entries {
        ctx.reply.array(6 + usize::from(waits));
        for number in [entry.id, entry.unix_seconds, entry.duration_us] {
            ctx.reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
        }
        ctx.reply.array(entry.args.len());
        for argument in &entry.args {
            ctx.reply.bulk(argument);
        }
        ctx.reply.bulk(entry.peer.as_bytes());
        ctx.reply.bulk(&entry.name);
        if waits {
            let figures = [
                ("lock-microseconds", entry.waits.lock_us),
                ("off-cpu-microseconds", entry.waits.off_cpu_us),
                ("minor-faults", entry.waits.minor_faults),
                ("major-faults", entry.waits.major_faults),
                ("counted-microseconds", entry.waits.counted_us),
            ];
            ctx.reply.map(figures.len());
            for (name, number) in figures {
                ctx.reply.bulk(name.as_bytes());
                ctx.reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
            }
        }
    }
    Ok(())
}

/// `SLOWLOG LEN`
pub(crate) fn len(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    ctx.reply.count(ctx.services.slowlog.len());
    Ok(())
}

/// `SLOWLOG RESET`
pub(crate) fn reset(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    ctx.services.slowlog.clear();
    ctx.reply.ok();
    Ok(())
}
