//! Scripts and functions: there are none, so deleting all of them is true and done at once.

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;

/// `SCRIPT FLUSH [ASYNC | SYNC]` and `FUNCTION FLUSH [ASYNC | SYNC]`
pub(crate) fn flush(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let known = args.len() == 2 || (args.len() == 3 && (args.is(2, "sync") || args.is(2, "async")));
    if args.len() > 3 && !args.is(0, "script") {
        return Err(ctx.subcommand_syntax(args));
    }
    if !known {
        return Err(CommandError::new(if args.is(0, "script") {
            "ERR SCRIPT FLUSH only support SYNC|ASYNC option"
        } else {
            "ERR FUNCTION FLUSH only supports SYNC|ASYNC option"
        }));
    }
    ctx.reply.ok();
    Ok(())
}
