//! MEMORY HISTORY.

use crate::clock::{unix_us, uptime};
use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::observe::history::{Step, names};

/// Rows that are returned where no number is given.
const ROWS: i64 = 60;

/// `MEMORY HISTORY [SECONDS seconds | MINUTES minutes]`
pub(crate) fn history(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (step, rows) = match args.len() {
        2 => (Step::Second, ROWS),
        4 if args.is(2, "seconds") => (Step::Second, args.integer(3)?),
        4 if args.is(2, "minutes") => (Step::Minute, args.integer(3)?),
        _ => return Err(CommandError::SYNTAX),
    };
    let rows = usize::try_from(rows).map_err(|_| CommandError::NOT_POSITIVE)?;
    let services = ctx.services;
    services.look();
    let now = uptime();
    let read = services.history.read(step, rows, now);
    let started = (unix_us() / 1_000_000).saturating_sub(now.as_secs());
    let start = started + u64::from(read.start) * u64::from(step.seconds());
    let reply = &mut *ctx.reply;
    reply.map(3);
    reply.bulk(b"start");
    reply.integer(i64::try_from(start).unwrap_or(i64::MAX));
    reply.bulk(b"step");
    reply.integer(i64::from(step.seconds()));
    reply.bulk(b"figures");
    let names: Vec<_> = names().collect();
    reply.map(names.len());
    for (at, (name, _)) in names.into_iter().enumerate() {
        reply.bulk(name.as_bytes());
        reply.array(read.len());
        for value in read.column(at) {
            reply.integer(value);
        }
    }
    Ok(())
}
