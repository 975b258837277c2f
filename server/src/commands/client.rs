//! CLIENT.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clients::{Client, ClientFlags, Pause};
use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::config::{configure_keyspace, end_pause};
use crate::commands::connection::{USER, check_name, is_plain};
use crate::commands::context::Context;
use crate::commands::dispatch;
use crate::commands::error::CommandError;
use crate::observe::clients::describe;
use crate::session::{Fate, ReplyMode};

/// `CLIENT ID`
pub(crate) fn id(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    ctx.reply
        .integer(i64::try_from(ctx.session.client.id).unwrap_or(i64::MAX));
    Ok(())
}

/// Makes the figures of the calling client those of this moment.
fn refresh(ctx: &Context<'_>) {
    dispatch::publish(ctx);
    // With several workers the requests being run belong to the worker's buffer, not to the client.
    let own = if ctx.services.clients.workers() == 1 {
        ctx.query_bytes
    } else {
        0
    };
    ctx.session.client.query_bytes.store(own, Ordering::Relaxed);
}

fn lines<'c>(ctx: &Context<'_>, clients: impl Iterator<Item = &'c Arc<Client>>) -> Vec<u8> {
    let mut text = String::new();
    for client in clients {
        text.push_str(&describe(client, ctx.services.command_names()));
        text.push('\n');
    }
    text.into_bytes()
}

/// `CLIENT INFO`
pub(crate) fn info(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    refresh(ctx);
    let text = lines(ctx, std::iter::once(&ctx.session.client));
    ctx.reply.verbatim(b"txt", &text);
    Ok(())
}

/// Classes of clients. All of ours are normal ones.
fn is_normal(class: &[u8]) -> Result<bool, CommandError> {
    match class.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"slave" | b"replica" | b"pubsub" => Ok(false),
        _ => Err([b"ERR Unknown client type '", class, b"'"].concat().into()),
    }
}

/// `CLIENT LIST [TYPE class] [ID id...]`
pub(crate) fn list(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    refresh(ctx);
    let mut clients = ctx.services.clients.all();
    if args.len() == 4 && args.is(2, "type") {
        if !is_normal(args.get(3))? {
            clients.clear();
        }
    } else if args.len() > 3 && args.is(2, "id") {
        let mut wanted = Vec::new();
        for argument in args.from(3) {
            let id = kvstore::parse_integer(argument)
                .ok_or(CommandError::new("ERR Invalid client ID"))?;
            let client = clients
                .iter()
                .find(|client| u64::try_from(id) == Ok(client.id));
            wanted.extend(client.cloned());
        }
        clients = wanted;
    } else if args.len() != 2 {
        return Err(CommandError::SYNTAX);
    }
    let text = lines(ctx, clients.iter());
    ctx.reply.verbatim(b"txt", &text);
    Ok(())
}

/// Which clients CLIENT KILL is about.
struct Filter<'a> {
    id: Option<u64>,
    peer: Option<&'a [u8]>,
    local: Option<&'a [u8]>,
    normal: Option<bool>,
    least_age_seconds: Option<u64>,
    skip_self: bool,
}

impl<'a> Filter<'a> {
    fn parse(args: Args<'a>) -> Result<Self, CommandError> {
        let mut filter = Self {
            id: None,
            peer: None,
            local: None,
            normal: None,
            least_age_seconds: None,
            skip_self: true,
        };
        if args.len() == 3 {
            filter.peer = Some(args.get(2));
            filter.skip_self = false;
            return Ok(filter);
        }
        let mut at = 2;
        while at < args.len() {
            let value = args.try_get(at + 1).ok_or(CommandError::SYNTAX)?;
            match args.get(at).to_ascii_lowercase().as_slice() {
                b"id" => {
                    let id = kvstore::parse_integer(value)
                        .and_then(|id| u64::try_from(id).ok())
                        .filter(|&id| id > 0);
                    filter.id = Some(
                        id.ok_or(CommandError::new("ERR client-id should be greater than 0"))?,
                    );
                }
                b"maxage" => {
                    let age = kvstore::parse_integer(value).ok_or(CommandError::new(
                        "ERR maxage is not an integer or out of range",
                    ))?;
                    let age = u64::try_from(age).ok().filter(|&age| age > 0);
                    filter.least_age_seconds =
                        Some(age.ok_or(CommandError::new("ERR maxage should be greater than 0"))?);
                }
                b"type" => filter.normal = Some(is_normal(value)?),
                b"addr" => filter.peer = Some(value),
                b"laddr" => filter.local = Some(value),
                b"user" if value == USER => {}
                b"user" => return Err([b"ERR No such user '", value, b"'"].concat().into()),
                b"skipme" if args.is(at + 1, "yes") => filter.skip_self = true,
                b"skipme" if args.is(at + 1, "no") => filter.skip_self = false,
                _ => return Err(CommandError::SYNTAX),
            }
            at += 2;
        }
        Ok(filter)
    }

    fn matches(&self, client: &Client, now_ms: u64) -> bool {
        self.id.is_none_or(|id| client.id == id)
            && self.normal.is_none_or(|normal| normal)
            && self
                .peer
                .is_none_or(|peer| client.endpoints.peer().as_bytes() == peer)
            && self
                .local
                .is_none_or(|local| client.endpoints.local().as_bytes() == local)
            && self
                .least_age_seconds
                .is_none_or(|age| now_ms.saturating_sub(client.connected_ms) / 1000 >= age)
    }
}

/// `CLIENT KILL address`, `CLIENT KILL option value [option value ...]`
pub(crate) fn kill(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let filter = Filter::parse(args)?;
    let own = ctx.session.client.id;
    let mut killed = 0;
    for client in ctx.services.clients.all() {
        if (filter.skip_self && client.id == own) || !filter.matches(&client, ctx.now_ms) {
            continue;
        }
        killed += 1;
        if client.id == own {
            ctx.session.fate = Fate::CloseAfterReply;
            client.set_flag(ClientFlags::CLOSE_AFTER_REPLY, true);
        } else {
            ctx.services.clients.kill(&client);
        }
    }
    if args.len() > 3 {
        ctx.reply.integer(killed);
    } else if killed == 0 {
        return Err(CommandError::new("ERR No such client"));
    } else {
        ctx.reply.ok();
    }
    Ok(())
}

/// `CLIENT SETNAME name`
pub(crate) fn setname(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let name = args.get(2);
    check_name(name)?;
    ctx.session
        .client
        .relabel(|labels| labels.name = name.to_vec());
    ctx.reply.ok();
    Ok(())
}

/// `CLIENT GETNAME`
pub(crate) fn getname(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let name = ctx.session.client.labels().name;
    if name.is_empty() {
        ctx.reply.null()
    } else {
        ctx.reply.bulk(&name)
    }
    Ok(())
}

/// `CLIENT SETINFO LIB-NAME | LIB-VER text`
pub(crate) fn setinfo(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (field, value) = (args.get(2), args.get(3));
    let (is_name, is_version) = (args.is(2, "lib-name"), args.is(2, "lib-ver"));
    if !is_name && !is_version {
        return Err([b"ERR Unrecognized option '", field, b"'"].concat().into());
    }
    if !is_plain(value) {
        let text = [
            b"ERR ",
            field,
            b" cannot contain spaces, newlines or special characters.",
        ];
        return Err(text.concat().into());
    }
    ctx.session.client.relabel(|labels| {
        let label = if is_name {
            &mut labels.library
        } else {
            &mut labels.library_version
        };
        *label = value.to_vec();
    });
    ctx.reply.ok();
    Ok(())
}

/// `CLIENT PAUSE milliseconds [WRITE | ALL]`
pub(crate) fn pause(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let all = match args.len() {
        3 => true,
        4 if args.is(3, "all") => true,
        4 if args.is(3, "write") => false,
        4 => {
            return Err(CommandError::new(
                "ERR CLIENT PAUSE mode must be WRITE or ALL",
            ));
        }
        _ => return Err(ctx.subcommand_syntax(args)),
    };
    let out_of_range = CommandError::new("ERR timeout is not an integer or out of range");
    let timeout_ms = kvstore::parse_integer(args.get(2)).ok_or(out_of_range.clone())?;
    if timeout_ms < 0 {
        return Err(CommandError::new("ERR timeout is negative"));
    }
    let now_ms = i64::try_from(ctx.now_ms).unwrap_or(i64::MAX);
    let until_ms = now_ms.checked_add(timeout_ms).ok_or(out_of_range)?;
    let pause = Pause {
        until_ms: u64::try_from(until_ms).unwrap_or(0),
        all,
    };
    ctx.services.clients.begin_pause(pause, ctx.now_ms);
    ctx.without_locks(configure_keyspace);
    ctx.reply.ok();
    Ok(())
}

/// `CLIENT UNPAUSE`
pub(crate) fn unpause(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    ctx.without_locks(end_pause);
    ctx.reply.ok();
    Ok(())
}

/// `CLIENT REPLY ON | OFF | SKIP`
pub(crate) fn reply(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if args.is(2, "on") {
        ctx.session.reply_mode = ReplyMode::On;
        ctx.reply.ok();
    } else if args.is(2, "off") {
        ctx.session.reply_mode = ReplyMode::Off;
    } else if args.is(2, "skip") {
        if ctx.session.reply_mode != ReplyMode::Off {
            ctx.session.reply_mode = ReplyMode::SkipNext;
        }
    } else {
        return Err(CommandError::SYNTAX);
    }
    Ok(())
}

fn on_or_off(args: Args<'_>) -> Result<bool, CommandError> {
    match (args.is(2, "on"), args.is(2, "off")) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(CommandError::SYNTAX),
    }
}

/// `CLIENT NO-EVICT ON | OFF`
pub(crate) fn no_evict(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    ctx.session
        .client
        .set_flag(ClientFlags::NO_EVICT, on_or_off(args)?);
    ctx.reply.ok();
    Ok(())
}

/// `CLIENT NO-TOUCH ON | OFF`
pub(crate) fn no_touch(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let on = on_or_off(args)?;
    ctx.session.no_touch = on;
    ctx.session.client.set_flag(ClientFlags::NO_TOUCH, on);
    ctx.reply.ok();
    Ok(())
}

/// `CLIENT UNBLOCK id [TIMEOUT | ERROR]`: no command blocks, so there is nobody to unblock.
pub(crate) fn unblock(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    match args.len() {
        3 => {}
        4 if args.is(3, "timeout") || args.is(3, "error") => {}
        4 => {
            return Err(CommandError::new(
                "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
            ));
        }
        _ => return Err(ctx.subcommand_syntax(args)),
    }
    args.integer(2)?;
    ctx.reply.integer(0);
    Ok(())
}
