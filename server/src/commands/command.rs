//! COMMAND: what the command table says about commands, and the help of all containers.

use std::borrow::Cow;

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::commands::lookup::{Command, CommandTable, Found};
use crate::commands::syntax::{self, Argument, Kind};
use crate::commands::table::{BeginSearch, Categories, FindKeys, Flags, KeyFlags, KeySpec};
use crate::glob::Pattern;
use crate::resp::reply::Reply;

/// `COMMAND`: the commands as [`info`] shows them.
pub(crate) fn command(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    write_info_of_all(ctx.commands(), ctx.reply);
    Ok(())
}

/// `COMMAND COUNT`
pub(crate) fn count(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let count = top_level(ctx.commands()).count();
    ctx.reply.count(count);
    Ok(())
}

/// `COMMAND INFO [command-name...]`
pub(crate) fn info(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (table, reply) = (ctx.commands(), &mut *ctx.reply);
    if args.len() == 2 {
        write_info_of_all(table, reply);
        return Ok(());
    }
    reply.array(args.len() - 2);
    for name in args.from(2) {
        match by_full_name(table, name) {
            Some(command) => write_info(table, reply, command),
            None => reply.null(),
        }
    }
    Ok(())
}

/// `COMMAND DOCS [command-name...]`. Names of no command are passed over.
pub(crate) fn docs(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (table, reply) = (ctx.commands(), &mut *ctx.reply);
    let commands: Vec<&Command> = if args.len() == 2 {
        top_level(table).collect()
    } else {
        args.from(2)
            .filter_map(|name| by_full_name(table, name))
            .collect()
    };
    reply.map(commands.len());
    for command in commands {
        reply.bulk(command.name.as_bytes());
        write_docs(table, reply, command);
    }
    Ok(())
}

/// `COMMAND LIST [FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]`
pub(crate) fn list(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (table, reply) = (ctx.commands(), &mut *ctx.reply);
    if args.len() == 2 {
        write_names(reply, table.iter(), |_| true);
        return Ok(());
    }
    if args.len() != 5 || !args.is(2, "filterby") {
        return Err(CommandError::SYNTAX);
    }
    let wanted = args.get(4);
    if args.is(3, "module") {
        // There are no modules, so no command comes from one.
        write_names(reply, table.iter(), |_| false);
    } else if args.is(3, "aclcat") {
        let named = |(name, _): &(&str, Categories)| wanted.eq_ignore_ascii_case(name.as_bytes());
        let category = Categories::all()
            .iter_names()
            .find(named)
            .map(|(_, category)| category);
        write_names(reply, table.iter(), |command| {
            category.is_some_and(|category| command.spec.all_categories().contains(category))
        });
    } else if args.is(3, "pattern") {
        let pattern = Pattern::ignoring_case(wanted);
        write_names(reply, table.iter(), |command| {
            pattern.matches(command.name.as_bytes())
        });
    } else {
        return Err(CommandError::SYNTAX);
    }
    Ok(())
}

fn write_names<'t>(
    reply: &mut Reply,
    commands: impl Iterator<Item = &'t Command>,
    filter: impl Fn(&Command) -> bool,
) {
    let place = reply.deferred();
    let mut count = 0;
    for command in commands.filter(|command| filter(command)) {
        reply.bulk(command.name.as_bytes());
        count += 1;
    }
    reply.finish_array(place, count);
}

/// `COMMAND GETKEYS command [arg...]`
pub(crate) fn getkeys(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    write_keys(ctx, args.skip(2), |reply, key, _| reply.bulk(key))
}

/// `COMMAND GETKEYSANDFLAGS command [arg...]`
pub(crate) fn getkeysandflags(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    write_keys(ctx, args.skip(2), |reply, key, flags| {
        reply.array(2);
        reply.bulk(key);
        write_key_flags(reply, flags);
    })
}

fn write_keys(
    ctx: &mut Context<'_>,
    args: Args<'_>,
    write: impl Fn(&mut Reply, &[u8], KeyFlags),
) -> CommandResult {
    let command = match ctx.commands().find(args) {
        Found::Command(command) => command,
        _ => return Err(CommandError::new("ERR Invalid command specified")),
    };
    if command.spec.keys.is_empty() {
        return Err(CommandError::new("ERR The command has no key arguments"));
    }
    if !command.takes(args.len()) {
        return Err(CommandError::new(
            "ERR Invalid number of arguments specified for command",
        ));
    }
    let place = ctx.reply.deferred();
    let mut count = 0;
    command.each_key_and_spec(args, |at, spec| {
        count += 1;
        write(ctx.reply, args.get(at), effective_flags(spec, args));
    });
    if count == 0 && !command.spec.flags.contains(Flags::NO_MANDATORY_KEYS) {
        return Err(CommandError::new(
            "ERR Invalid arguments specified for command",
        ));
    }
    ctx.reply.finish_array(place, count);
    Ok(())
}

/// The flags of a key in this call. Only SET has flags that depend on the arguments: without GET it does not
/// look at what it overwrites.
fn effective_flags(spec: &KeySpec, args: Args<'_>) -> KeyFlags {
    if !spec.flags.contains(KeyFlags::VARIABLE_FLAGS) {
        return spec.flags;
    }
    if args
        .from(3)
        .any(|option| option.eq_ignore_ascii_case(b"get"))
    {
        KeyFlags::RW | KeyFlags::ACCESS | KeyFlags::UPDATE
    } else {
        KeyFlags::OW | KeyFlags::UPDATE
    }
}

/// `HELP` of every container: its subcommands as the table describes them.
pub(crate) fn help(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let table = ctx.commands();
    let Some(container) = table.get(ctx.command).container.map(|at| table.get(at)) else {
        return Err(CommandError::SYNTAX);
    };
    let subcommands = || {
        let all = container.subcommands.iter().map(|&at| table.get(at));
        all.filter(|command| command.spec.name != "help")
    };
    let bare = if container.takes(1) {
        Some(container)
    } else {
        None
    };
    let reply = &mut *ctx.reply;
    reply.array(3 + 2 * (subcommands().count() + usize::from(bare.is_some())));
    let name = container.name.to_ascii_uppercase();
    reply.simple(&format!(
        "{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    ));
    if let Some(bare) = bare {
        reply.simple("(no subcommand)");
        reply.simple(&format!("    {}", bare.spec.summary));
    }
    for command in subcommands() {
        let mut line = command.spec.name.to_ascii_uppercase();
        for argument in syntax::parse(command.spec.syntax).unwrap_or_default() {
            line.push(' ');
            argument.write_synopsis(&mut line);
        }
        reply.simple(&line);
        reply.simple(&format!("    {}", command.spec.summary));
    }
    reply.simple("HELP");
    reply.simple("    Print this help.");
    Ok(())
}

/// The commands without their subcommands.
fn top_level(table: &CommandTable) -> impl Iterator<Item = &Command> {
    table.iter().filter(|command| command.container.is_none())
}

/// The command or subcommand (`config|get`) of this name.
fn by_full_name<'t>(table: &'t CommandTable, name: &[u8]) -> Option<&'t Command> {
    match name.iter().position(|&byte| byte == b'|') {
        None => table.by_name(name),
        Some(at) => table.subcommand(table.by_name(&name[..at])?, &name[at + 1..]),
    }
}

fn write_info_of_all(table: &CommandTable, reply: &mut Reply) {
    reply.array(top_level(table).count());
    for command in top_level(table) {
        write_info(table, reply, command);
    }
}

/// One command as an array of ten fields.
fn write_info(table: &CommandTable, reply: &mut Reply, command: &Command) {
    let spec = command.spec;
    let (first, last, step) = legacy_range(spec.keys);
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(i64::from(spec.arity));
    write_words(
        reply,
        // Which option guards a command is nothing that clients are told.
        (spec.flags - Flags::PROTECTED)
            .iter_names()
            .map(|(name, _)| name.to_ascii_lowercase()),
    );
    reply.integer(first);
    reply.integer(last);
    reply.integer(step);
    let categories = spec.all_categories();
    write_words(
        reply,
        categories
            .iter_names()
            .map(|(name, _)| format!("@{}", name.to_ascii_lowercase())),
    );
    reply.set(spec.tips.len());
    for tip in spec.tips {
        reply.bulk(tip.as_bytes());
    }
    reply.set(spec.keys.len());
    for spec in spec.keys {
        write_key_spec(reply, spec);
    }
    reply.set(command.subcommands.len());
    for &at in &command.subcommands {
        write_info(table, reply, table.get(at));
    }
}

/// A set of simple strings.
fn write_words<S: AsRef<str>>(reply: &mut Reply, words: impl Iterator<Item = S>) {
    let words: Vec<S> = words.collect();
    reply.set(words.len());
    for word in words {
        reply.simple(word.as_ref());
    }
}

fn write_key_flags(reply: &mut Reply, flags: KeyFlags) {
    // The four kinds of access are written in capitals, everything else is not.
    write_words(
        reply,
        flags.iter_names().map(|(name, flag)| {
            let kinds = KeyFlags::RO | KeyFlags::RW | KeyFlags::OW | KeyFlags::RM;
            if kinds.contains(flag) {
                Cow::Borrowed(name)
            } else {
                Cow::Owned(name.to_ascii_lowercase())
            }
        }),
    );
}

fn write_key_spec(reply: &mut Reply, spec: &KeySpec) {
    reply.map(3 + usize::from(!spec.notes.is_empty()));
    if !spec.notes.is_empty() {
        write_text(reply, "notes", spec.notes);
    }
    reply.bulk(b"flags");
    write_key_flags(reply, spec.flags);

    let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
    reply.bulk(b"begin_search");
    match spec.begin {
        BeginSearch::Index(at) => write_search(reply, "index", &[("index", number(at))]),
        BeginSearch::Keyword { keyword, from } => {
            reply.map(2);
            write_text(reply, "type", "keyword");
            reply.bulk(b"spec");
            reply.map(2);
            write_text(reply, "keyword", keyword);
            reply.bulk(b"startfrom");
            reply.integer(i64::from(from));
        }
        BeginSearch::Unknown => write_search(reply, "unknown", &[]),
    }
    reply.bulk(b"find_keys");
    match spec.find {
        FindKeys::Range { last, step, limit } => write_search(
            reply,
            "range",
            &[
                ("lastkey", i64::from(last)),
                ("keystep", number(step)),
                ("limit", number(limit)),
            ],
        ),
        FindKeys::KeyNum {
            keynum,
            first,
            step,
        } => write_search(
            reply,
            "keynum",
            &[
                ("keynumidx", number(keynum)),
                ("firstkey", number(first)),
                ("keystep", number(step)),
            ],
        ),
        FindKeys::Unknown => write_search(reply, "unknown", &[]),
    }
}

fn write_search(reply: &mut Reply, kind: &str, fields: &[(&str, i64)]) {
    reply.map(2);
    write_text(reply, "type", kind);
    reply.bulk(b"spec");
    reply.map(fields.len());
    for (name, value) in fields {
        reply.bulk(name.as_bytes());
        reply.integer(*value);
    }
}

fn write_text(reply: &mut Reply, name: &str, text: &str) {
    reply.bulk(name.as_bytes());
    reply.bulk(text.as_bytes());
}

/// The positions of the first and the last key and their distance, as clients knew them before there were key
/// specs: one range, to which several specs are joined if they follow one another; zeros without any.
fn legacy_range(specs: &[KeySpec]) -> (i64, i64, i64) {
    let mut joined: Option<(i64, i64, i64)> = None;
    for spec in specs {
        let (BeginSearch::Index(first), FindKeys::Range { last, step, .. }) =
            (spec.begin, spec.find)
        else {
            continue;
        };
        let first = first as i64;
        let last = if last >= 0 {
            first + i64::from(last)
        } else {
            i64::from(last)
        };
        joined = match joined {
            None => Some((first, last, step as i64)),
            Some((start, end, 1)) if step == 1 && end >= 0 && end + 1 == first => {
                Some((start, last, 1))
            }
            other => other,
        };
    }
    joined.unwrap_or((0, 0, 0))
}

fn write_docs(table: &CommandTable, reply: &mut Reply, command: &Command) {
    let spec = command.spec;
    let arguments = syntax::parse(spec.syntax).unwrap_or_default();
    let deprecated = !spec.deprecated_since.is_empty();
    let place = reply.deferred();
    let mut fields = 0;
    for (name, text) in [
        ("summary", spec.summary),
        ("since", spec.since),
        ("group", spec.group.name()),
        ("complexity", spec.complexity),
        ("doc_flags", ""),
        ("deprecated_since", spec.deprecated_since),
        ("replaced_by", spec.replaced_by),
    ] {
        if !text.is_empty() {
            fields += 1;
            write_text(reply, name, text);
        }
        if name == "doc_flags" && (deprecated || spec.is_system) {
            fields += 1;
            reply.bulk(b"doc_flags");
            let words = [(deprecated, "deprecated"), (spec.is_system, "syscmd")];
            write_words(
                reply,
                words.iter().filter(|(set, _)| *set).map(|(_, word)| word),
            );
        }
    }
    if !arguments.is_empty() {
        fields += 1;
        reply.bulk(b"arguments");
        write_arguments(reply, &arguments);
    }
    if !command.subcommands.is_empty() {
        fields += 1;
        reply.bulk(b"subcommands");
        reply.map(command.subcommands.len());
        for &at in &command.subcommands {
            reply.bulk(table.get(at).name.as_bytes());
            write_docs(table, reply, table.get(at));
        }
    }
    reply.finish_map(place, fields);
}

fn write_arguments(reply: &mut Reply, arguments: &[Argument<'_>]) {
    reply.array(arguments.len());
    for argument in arguments {
        let flags = [
            (argument.optional, "optional"),
            (argument.multiple, "multiple"),
            (argument.multiple_token, "multiple_token"),
        ];
        let flags = flags.iter().filter(|(set, _)| *set).map(|(_, word)| word);
        let has_flags = flags.clone().count() > 0;
        let texts = [
            ("display_text", argument.display.as_deref()),
            ("token", argument.token),
            ("since", argument.since),
            ("deprecated_since", argument.deprecated_since),
        ];
        let nested = matches!(argument.kind, Kind::OneOf | Kind::Block);
        let optional_fields = texts.iter().filter(|(_, text)| text.is_some()).count()
            + usize::from(argument.key_spec.is_some())
            + usize::from(has_flags)
            + usize::from(nested);
        reply.map(2 + optional_fields);
        write_text(reply, "name", &argument.name);
        write_text(reply, "type", argument.kind.name());
        for (name, text) in texts {
            if let Some(text) = text {
                write_text(reply, name, text);
            }
            if let ("display_text", Some(key_spec)) = (name, argument.key_spec) {
                reply.bulk(b"key_spec_index");
                reply.count(key_spec);
            }
        }
        if has_flags {
            reply.bulk(b"flags");
            write_words(reply, flags);
        }
        if nested {
            reply.bulk(b"arguments");
            write_arguments(reply, &argument.arguments);
        }
    }
}
