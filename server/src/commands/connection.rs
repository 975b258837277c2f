//! Commands about the connection itself.

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;

/// `PING [message]`
pub(crate) fn ping(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    match args.len() {
        1 => ctx.reply.raw(b"+PONG\r\n"),
        2 => ctx.reply.bulk(args.get(1)),
        _ => {
            return Err(CommandError::new(
                "ERR wrong number of arguments for 'ping' command",
            ));
        }
    }
    Ok(())
}

/// `ECHO message`
pub(crate) fn echo(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    ctx.reply.bulk(args.get(1));
    Ok(())
}

/// `SELECT index`
pub(crate) fn select(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let index = kvstore::parse_integer(args.get(1)).ok_or(CommandError::NOT_AN_INTEGER)?;
    let databases = ctx.services.keyspace.databases();
    let index = usize::try_from(index)
        .ok()
        .filter(|&index| index < databases);
    ctx.session.db = index.ok_or(CommandError::DB_OUT_OF_RANGE)?;
    ctx.reply.ok();
    Ok(())
}
