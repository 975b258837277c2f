//! Commands about the connection itself.

use crate::clients::ClientFlags;
use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::commands::transaction;
use crate::config::directive::Id;
use crate::observe::info::REDIS_VERSION;
use crate::resp::reply::Protocol;
use crate::session::{Fate, ReplyMode};

/// The only user.
pub(crate) const USER: &[u8] = b"default";

/// `PING [message]`
pub(crate) fn ping(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    match args.len() {
        1 => ctx.reply.raw(b"+PONG\r\n"),
        2 => ctx.reply.bulk(args.get(1)),
        _ => return Err(ctx.wrong_number_of_arguments()),
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
    let index = args.small_integer(1)?;
    let databases = ctx.services.keyspace.databases();
    let index = usize::try_from(index)
        .ok()
        .filter(|&index| index < databases);
    ctx.session.db = index.ok_or(CommandError::DB_OUT_OF_RANGE)?;
    ctx.reply.ok();
    Ok(())
}

/// `QUIT`
pub(crate) fn quit(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    ctx.reply.ok();
    ctx.session.fate = Fate::CloseAfterReply;
    Ok(())
}

/// `RESET`: the connection as it was when it began, but for what the client calls its library.
pub(crate) fn reset(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let services = ctx.services;
    ctx.session.transaction = None;
    transaction::unwatch_all(ctx.session, &services.keyspace);
    services.clients.remove_monitor(&ctx.session.client);
    ctx.session.db = 0;
    ctx.session.protocol = Protocol::Resp2;
    ctx.reply.set_protocol(Protocol::Resp2);
    ctx.session.authenticated = !services.needs_password();
    ctx.session.no_touch = false;
    ctx.session.reply_mode = ReplyMode::On;
    ctx.session
        .client
        .set_flag(ClientFlags::NO_TOUCH | ClientFlags::NO_EVICT, false);
    ctx.session
        .client
        .relabel(|labels| labels.name = Vec::new());
    ctx.reply.simple("RESET");
    Ok(())
}

/// `AUTH [user] password`
pub(crate) fn auth(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if args.len() > 3 {
        return Err(CommandError::SYNTAX);
    }
    ctx.keep_secret(1);
    let (user, password) = match args.len() {
        2 => {
            if !ctx.services.needs_password() {
                return Err(CommandError::new(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure \
                     your configuration is correct?",
                ));
            }
            (USER, args.get(1))
        }
        _ => {
            ctx.keep_secret(2);
            (args.get(1), args.get(2))
        }
    };
    authenticate(ctx, user, password)?;
    ctx.reply.ok();
    Ok(())
}

/// Checks a user's password.
fn authenticate(ctx: &mut Context<'_>, user: &[u8], password: &[u8]) -> CommandResult {
    let services = ctx.services;
    let expected = services.config.text(Id::RequirePass);
    if user == USER && (expected.is_empty() || same(&expected, password)) {
        ctx.session.authenticated = true;
        return Ok(());
    }
    ctx.stats.totals.denied_auth.add(1);
    Err(CommandError::new(
        "WRONGPASS invalid username-password pair or user is disabled.",
    ))
}

/// Whether both are equal, in a time that does not tell where they differ.
pub(crate) fn same(expected: &[u8], given: &[u8]) -> bool {
    let differences = given.iter().enumerate().fold(0, |differences, (at, byte)| {
        differences | (byte ^ expected[at % expected.len().max(1)])
    });
    differences == 0 && expected.len() == given.len()
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`
pub(crate) fn hello(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let mut version = None;
    if args.len() > 1 {
        let number = kvstore::parse_integer(args.get(1)).ok_or(CommandError::new(
            "ERR Protocol version is not an integer or out of range",
        ))?;
        version = Some(match number {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(CommandError::new("NOPROTO unsupported protocol version")),
        });
    }
    let (mut login, mut name) = (None, None);
    let mut at = 2;
    while at < args.len() {
        if args.is(at, "auth") && at + 2 < args.len() {
            ctx.keep_secret(at + 1);
            ctx.keep_secret(at + 2);
            login = Some((args.get(at + 1), args.get(at + 2)));
            at += 3;
        } else if args.is(at, "setname") && at + 1 < args.len() {
            name = Some(args.get(at + 1));
            check_name(args.get(at + 1))?;
            at += 2;
        } else {
            return Err([b"ERR Syntax error in HELLO option '", args.get(at), b"'"]
                .concat()
                .into());
        }
    }
    if let Some((user, password)) = login {
        authenticate(ctx, user, password)?;
    }
    if !ctx.session.authenticated && ctx.services.needs_password() {
        return Err(CommandError::new(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
             <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
             same time",
        ));
    }
    if let Some(name) = name {
        ctx.session
            .client
            .relabel(|labels| labels.name = name.to_vec());
    }
    if let Some(version) = version {
        ctx.session.protocol = version;
        ctx.reply.set_protocol(version);
    }
    let reply = &mut *ctx.reply;
    reply.map(7);
    for (field, value) in [("server", "slabkv"), ("version", REDIS_VERSION)] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"proto");
    reply.integer(i64::from(ctx.session.protocol.number()));
    reply.bulk(b"id");
    reply.integer(i64::try_from(ctx.session.client.id).unwrap_or(i64::MAX));
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        reply.bulk(field.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

/// Whether all bytes can stand in a line of CLIENT LIST.
pub(crate) fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|byte| (b'!'..=b'~').contains(byte))
}

/// Checks a client's name.
pub(crate) fn check_name(name: &[u8]) -> CommandResult {
    if is_plain(name) {
        return Ok(());
    }
    Err(CommandError::new(
        "ERR Client names cannot contain spaces, newlines or special characters.",
    ))
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn passwords_are_compared_whole() {
        assert!(same(b"secret", b"secret"));
        for wrong in [
            &b""[..],
            b"s",
            b"secre",
            b"secrets",
            b"secretsecret",
            b"Secret",
        ] {
            assert!(!same(b"secret", wrong));
        }
    }
}
