//! DEBUG: what tests and developers need to look behind the scenes. Runs with all shards locked.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::atomic::Ordering;
use std::time::Duration;

use kvstore::{Decimal, Home, NewExpiry, NewValue, ScanCursor, StringRef, Touch, ValueRef};

use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::config::{configure_keyspace, rewrite_file};
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::glob::Pattern;
use crate::log::Level;
use crate::resp::reply::{Protocol, Reply};

/// A subcommand: its syntax, what it does, and its handler.
struct Subcommand {
    name: &'static str,
    syntax: &'static str,
    about: &'static str,
    /// Words after the subcommand's name: least and most.
    words: (usize, usize),
    handler: fn(&mut Context<'_>, Args<'_>) -> CommandResult,
}

macro_rules! subcommands {
    ($( $name:literal $syntax:literal $least:literal..=$most:literal $handler:ident $about:literal; )*) => {
        static SUBCOMMANDS: &[Subcommand] = &[
            $( Subcommand {
                name: $name,
                syntax: $syntax,
                about: $about,
                words: ($least, $most),
                handler: $handler,
            } ),*
        ];
    };
}

subcommands! {
    "config-rewrite-force-all" "" 0..=0 config_rewrite "Rewrite the configuration file with every directive.";
    "digest" "" 0..=0 digest "Return a digest of all data, which depends on nothing but the data.";
    "digest-value" "<key> [<key> ...]" 0..=100000 digest_value "Return the digest of each key's value.";
    "error" "<message>" 1..=1 error "Reply with this error.";
    "help" "" 0..=0 help "Print this help.";
    "htstats" "<dbid> [full]" 1..=2 htstats "Return figures of the table that holds a database.";
    "latency-unit" "<nanoseconds>" 1..=1 latency_unit "Let the latency monitor take this for a millisecond of the server's own work.";
    "log" "<message>" 1..=1 log "Write a message to the log.";
    "object" "<key>" 1..=1 object "Show how a key's value is stored.";
    "pause-cron" "<0|1>" 1..=1 pause_cron "Stop or resume all work that is done on a clock.";
    "populate" "<count> [<prefix>] [<size>]" 1..=3 populate "Create this many string keys.";
    "protocol" "<type>" 1..=1 protocol "Reply with a value of a type of the protocol.";
    "reload" "[<option> ...]" 0..=3 reload "Take all data out and put it into empty databases again.";
    "set-active-expire" "<0|1>" 1..=1 set_active_expire "Stop or resume the expiry of keys that are not used.";
    "sleep" "<seconds>" 1..=1 sleep "Let all commands wait for this long; decimals are allowed.";
    "stringmatch-len" "<length> <pattern>" 2..=2 string_match "Match a pattern against a string of this length.";
}

/// `DEBUG subcommand [argument...]`
pub(crate) fn debug(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let words = args.len() - 2;
    let found = SUBCOMMANDS
        .iter()
        .find(|subcommand| args.is(1, subcommand.name));
    match found {
        Some(subcommand) if (subcommand.words.0..=subcommand.words.1).contains(&words) => {
            (subcommand.handler)(ctx, args)
        }
        _ => {
            let given = args.get(1);
            let shown = &given[..given.len().min(128)];
            Err([
                b"ERR unknown subcommand or wrong number of arguments for '",
                shown,
                b"'. Try DEBUG HELP.",
            ]
            .concat()
            .into())
        }
    }
}

fn help(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    ctx.reply.array(1 + 2 * SUBCOMMANDS.len());
    ctx.reply
        .simple("DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    for subcommand in SUBCOMMANDS {
        let line = format!(
            "{} {}",
            subcommand.name.to_ascii_uppercase(),
            subcommand.syntax
        );
        ctx.reply.simple(line.trim_end());
        ctx.reply.simple(&format!("    {}", subcommand.about));
    }
    Ok(())
}

fn config_rewrite(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    rewrite_file(ctx.services, true)?;
    ctx.reply.ok();
    Ok(())
}

fn error(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let _: &Context<'_> = ctx;
    Err(args.get(2).to_vec().into())
}

fn log(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let text = String::from_utf8_lossy(args.get(2));
    ctx.services
        .log
        .write(Level::Warning, format_args!("DEBUG LOG: {text}"));
    ctx.reply.ok();
    Ok(())
}

fn sleep(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let seconds: f64 = std::str::from_utf8(args.get(2))
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(CommandError::NOT_A_FLOAT)?;
    std::thread::sleep(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::ZERO));
    ctx.reply.ok();
    Ok(())
}

fn switch(args: Args<'_>) -> Result<bool, CommandError> {
    Ok(args.integer(2)? != 0)
}

fn set_active_expire(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    ctx.services
        .active_expiry
        .store(switch(args)?, Ordering::Relaxed);
    ctx.without_locks(configure_keyspace);
    ctx.reply.ok();
    Ok(())
}

fn latency_unit(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let unit_ns = u64::try_from(args.integer(2)?)
        .ok()
        .filter(|unit| *unit > 0);
    let unit_ns = unit_ns.ok_or(CommandError::NOT_POSITIVE)?;
    ctx.services
        .latency_unit_ns
        .store(unit_ns, Ordering::Relaxed);
    ctx.reply.ok();
    Ok(())
}

fn pause_cron(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    ctx.services
        .cron_paused
        .store(switch(args)?, Ordering::Relaxed);
    ctx.services.clients.wake_all();
    ctx.reply.ok();
    Ok(())
}

fn string_match(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let length = usize::try_from(args.integer(2)?).map_err(|_| CommandError::OUT_OF_RANGE)?;
    let text = vec![b'x'; length.min(kvstore::STRING_BYTES_MAX)];
    let matches = Pattern::new(args.get(3)).matches(&text);
    ctx.reply.integer(i64::from(matches));
    Ok(())
}

fn object(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let key = ctx.services.keyspace.key(args.get(2));
    let mut db = ctx.db();
    let Some(usage) = db.usage(&key) else {
        return Err(CommandError::NO_SUCH_KEY);
    };
    let home = match db.home(&key) {
        Some(Home::Slab {
            start_page,
            slot_bytes,
            slots,
            live,
        }) => format!(
            "class:{slot_bytes} slab:{start_page} slab_slots:{slots} slab_live:{live} slab_occupancy:{:.2}",
            f64::from(live) / f64::from(slots.max(1))
        ),
        Some(Home::Pages { pages }) => format!("pages:{pages}"),
        None => String::new(),
    };
    let rounding = usage.rounding_bytes();
    let encoding = db.encoding(&key).map_or("", kvstore::Encoding::name);
    let idle = db.idle_seconds(&key).unwrap_or(0);
    let used = (ctx.now_ms / 1000).saturating_sub(idle) & 0xff_ffff;
    let text = format!(
        "Value at:{:#x} refcount:1 encoding:{encoding} serializedlength:{} lru:{used} lru_seconds_idle:{idle} \
         slot:{} total:{} rounding:{rounding} {home}",
        key.hash().get(),
        usage.value_bytes + 1,
        usage.slot_bytes,
        usage.total_bytes(),
    );
    ctx.reply.simple(text.trim_end());
    Ok(())
}

fn populate(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let out_of_range = CommandError::NOT_POSITIVE;
    let positive = |at: usize| -> Result<usize, CommandError> {
        usize::try_from(args.integer(at)?).map_err(|_| out_of_range.clone())
    };
    let count = positive(2)?;
    let prefix = args.try_get(3).unwrap_or(b"key");
    let size = if args.len() > 4 { positive(4)? } else { 0 };
    if size > kvstore::STRING_BYTES_MAX {
        return Err(out_of_range);
    }
    for number in 0..count {
        let name = [prefix, b":", number.to_string().as_bytes()].concat();
        let key = ctx.services.keyspace.key(&name);
        let mut db = ctx.db();
        if db.exists(&key, Touch::NONE) {
            continue;
        }
        let mut value = format!("value:{number}").into_bytes();
        if size > 0 {
            value.resize(size, 0);
        }
        db.set(&key, NewValue::Bytes(&value), NewExpiry::None)
            .map_err(|_| CommandError::OUT_OF_MEMORY)?;
    }
    ctx.wrote = true;
    ctx.reply.ok();
    Ok(())
}

/// One entry of a database, copied out.
struct Copied {
    key: Vec<u8>,
    value: Vec<u8>,
    is_integer: bool,
    expiry_ms: Option<u64>,
}

/// Copies all entries of database `index`.
fn copy_out(ctx: &mut Context<'_>, index: usize) -> Vec<Copied> {
    let mut copied = Vec::new();
    let mut cursor = ScanCursor::START;
    let mut db = ctx.locked.db(index, ctx.now_ms);
    loop {
        cursor = db.scan(cursor, 1000, |key, value| {
            let ValueRef::String(text) = value else {
                return;
            };
            let value = text.as_bytes(&mut Decimal::new()).to_vec();
            let is_integer = matches!(text, StringRef::Int(_));
            copied.push(Copied {
                key: key.to_vec(),
                value,
                is_integer,
                expiry_ms: None,
            });
        });
        if cursor == ScanCursor::START {
            break;
        }
    }
    for entry in &mut copied {
        entry.expiry_ms = db.expiry(&ctx.services.keyspace.key(&entry.key)).flatten();
    }
    copied
}

fn reload(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if let Some(option) = args.from(2).next() {
        let shown = String::from_utf8_lossy(option).into_owned();
        return Err(format!(
            "ERR DEBUG RELOAD has no file to read from, so it takes no option such as '{shown}'"
        )
        .into());
    }
    for index in 0..ctx.services.keyspace.databases() {
        let entries = copy_out(ctx, index);
        let mut db = ctx.locked.db(index, ctx.now_ms);
        db.clear();
        for entry in entries {
            let value = match entry.is_integer {
                true => NewValue::String(&entry.value),
                false => NewValue::Bytes(&entry.value),
            };
            let expiry = entry.expiry_ms.map_or(NewExpiry::None, NewExpiry::At);
            let key = ctx.services.keyspace.key(&entry.key);
            db.set(&key, value, expiry)
                .map_err(|_| CommandError::OUT_OF_MEMORY)?;
        }
    }
    ctx.wrote = true;
    ctx.reply.ok();
    Ok(())
}

/// A digest of 160 bits.
type Digest = [u8; 20];

/// The digest of some bytes. It tells different data apart by chance only, not against an adversary.
fn digest_of(parts: &[&[u8]]) -> Digest {
    let mut digest = [0; 20];
    for (round, chunk) in digest.chunks_mut(8).enumerate() {
        let mut hasher = DefaultHasher::new();
        hasher.write_usize(round);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        let hash = hasher.finish().to_le_bytes();
        chunk.copy_from_slice(&hash[..chunk.len()]);
    }
    digest
}

fn value_digest(entry: &Copied) -> Digest {
    let expires: &[u8] = if entry.expiry_ms.is_some() {
        b"expires"
    } else {
        b""
    };
    digest_of(&[b"string", &entry.value, expires])
}

fn write_digest(reply: &mut Reply, digest: &Digest) {
    let text: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    reply.simple(&text);
}

fn digest(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let mut sum: Digest = [0; 20];
    for index in 0..ctx.services.keyspace.databases() {
        for entry in copy_out(ctx, index) {
            let one = digest_of(&[&index.to_le_bytes(), &entry.key, &value_digest(&entry)]);
            sum.iter_mut().zip(one).for_each(|(sum, byte)| *sum ^= byte);
        }
    }
    write_digest(ctx.reply, &sum);
    Ok(())
}

fn digest_value(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    ctx.reply.array(args.len() - 2);
    for name in args.from(2) {
        let key = ctx.services.keyspace.key(name);
        let mut db = ctx.locked.db(ctx.session.db, ctx.now_ms);
        let expiry_ms = db.expiry(&key).flatten();
        let value = match db.get(&key, Touch::NONE) {
            Some(ValueRef::String(text)) => Some(text.as_bytes(&mut Decimal::new()).to_vec()),
            _ => None,
        };
        let digest = value.map_or([0; 20], |value| {
            value_digest(&Copied {
                key: name.to_vec(),
                value,
                is_integer: false,
                expiry_ms,
            })
        });
        write_digest(ctx.reply, &digest);
    }
    Ok(())
}

fn htstats(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let databases = ctx.services.keyspace.databases();
    let index = usize::try_from(args.small_integer(2)?)
        .ok()
        .filter(|&index| index < databases);
    let index = index.ok_or(CommandError::new("ERR Out of range database"))?;
    let db = ctx.locked.db(index, ctx.now_ms).statistics();
    let table = ctx.locked.statistics().memory.table_bytes;
    let shards = ctx.services.keyspace.shards();
    let text = format!(
        "[Dictionary HT]\nsegmented table in {shards} shards\n number of elements: {}\n bytes of all databases' \
         tables: {table}\n[Expires HT]\nkept in the entries themselves\n number of elements: {}\n",
        db.keys, db.volatile_keys
    );
    ctx.reply.verbatim(b"txt", text.as_bytes());
    Ok(())
}

fn protocol(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let reply = &mut *ctx.reply;
    match args.get(2).to_ascii_lowercase().as_slice() {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.integer(12345),
        b"double" => reply.double("3.141"),
        b"bignum" => reply.big_number("1234567999999999999999999999999999999"),
        b"null" => reply.null(),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"map" => {
            reply.map(3);
            for number in 0..3 {
                reply.integer(number);
                reply.boolean(number == 1);
            }
        }
        b"attrib" => {
            if reply.protocol() == Protocol::Resp3 {
                reply.attribute(1);
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.integer(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        b"push" => {
            if reply.protocol() == Protocol::Resp2 {
                return Err(CommandError::new(
                    "ERR RESP2 is not supported by this command",
                ));
            }
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.integer(42);
            reply.bulk(b"Some real reply following the push reply");
        }
        b"true" => reply.boolean(true),
        b"false" => reply.boolean(false),
        b"verbatim" => reply.verbatim(b"txt", b"This is a verbatim\nstring"),
        _ => {
            return Err(CommandError::new(
                "ERR Wrong protocol type name. Please use one of the following: \
                 string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}
