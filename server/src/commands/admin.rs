//! TIME, INFO, MONITOR, SHUTDOWN and LOLWUT.

use std::sync::atomic::Ordering;

use kvstore::statistics::DbStatistics;

use crate::clock::unix_us;
use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::log::Level;
use crate::mappings::untouched_bytes;
use crate::observe::info::{self, VERSION};
use crate::observe::memory::{MemoryReport, human};
use crate::session::Fate;

/// `TIME`
pub(crate) fn time(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let now_us = unix_us();
    ctx.reply.array(2);
    ctx.reply.bulk((now_us / 1_000_000).to_string().as_bytes());
    ctx.reply.bulk((now_us % 1_000_000).to_string().as_bytes());
    Ok(())
}

/// The memory report, with all shards locked.
pub(crate) fn memory_report(ctx: &mut Context<'_>) -> MemoryReport {
    let keyspace = ctx.locked.statistics();
    let untouched_bytes = untouched_bytes(&ctx.locked.allocating_slabs());
    MemoryReport::now(
        &ctx.services.memory,
        keyspace,
        ctx.services.clients.memory_bytes(),
        untouched_bytes,
    )
}

/// Figures of each database, with all shards locked.
pub(crate) fn databases(ctx: &mut Context<'_>) -> Vec<DbStatistics> {
    let databases = 0..ctx.services.keyspace.databases();
    databases
        .map(|index| ctx.locked.db(index, ctx.now_ms).statistics())
        .collect()
}

/// `INFO [section...]`, with all shards locked.
pub(crate) fn info(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let databases = databases(ctx);
    let memory = memory_report(ctx);
    let sources = ctx.services.sources(databases, memory);
    let text = info::text(&sources, args.from(1));
    ctx.reply.verbatim(b"txt", text.as_bytes());
    Ok(())
}

/// `MONITOR`
pub(crate) fn monitor(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    ctx.services.clients.add_monitor(&ctx.session.client);
    ctx.reply.ok();
    Ok(())
}

/// `SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]`
pub(crate) fn shutdown(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let (mut save, mut nosave, mut abort, mut others) = (false, false, false, false);
    for at in 1..args.len() {
        match args.get(at).to_ascii_lowercase().as_slice() {
            b"save" => save = true,
            b"nosave" => nosave = true,
            b"now" | b"force" => others = true,
            b"abort" => abort = true,
            _ => return Err(CommandError::SYNTAX),
        }
    }
    if (abort && (save || nosave || others)) || (save && nosave) {
        return Err(CommandError::SYNTAX);
    }
    if abort {
        return Err(CommandError::new("ERR No shutdown in progress."));
    }
    if save {
        ctx.services.log.write(
            Level::Warning,
            "SHUTDOWN SAVE is refused, since this server cannot save its data",
        );
        return Err(CommandError::new(
            "ERR Errors trying to SHUTDOWN. Check logs.",
        ));
    }
    ctx.services.stop.store(true, Ordering::Release);
    ctx.services.stop();
    ctx.session.fate = Fate::CloseNow;
    Ok(())
}

/// Columns and rows of LOLWUT's picture where no size is given.
const PICTURE: (usize, usize) = (64, 12);
/// The largest picture, in columns and rows.
const PICTURE_MAX: (usize, usize) = (256, 64);

/// `LOLWUT [VERSION version] [columns [rows]]`: a picture of where the memory is, with all shards locked.
pub(crate) fn lolwut(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let mut at = 1;
    if args.is(1, "version") {
        if args.len() > 2 {
            args.integer(2)?;
        }
        at = 3;
    }
    let mut size = |default: usize, most: usize| -> Result<usize, CommandError> {
        let given = if at < args.len() {
            Some(args.integer(at)?)
        } else {
            None
        };
        at += 1;
        Ok(given.map_or(default, |value| {
            usize::try_from(value).unwrap_or(1).clamp(1, most)
        }))
    };
    let columns = size(PICTURE.0, PICTURE_MAX.0)?;
    let rows = size(PICTURE.1, PICTURE_MAX.1)?;
    let report = memory_report(ctx);
    let text = picture(&report, columns, rows);
    ctx.reply.verbatim(b"txt", text.as_bytes());
    Ok(())
}

/// Where the resident memory is, as a field of cells: data, its overhead, free slots, free pages, and the rest.
fn picture(report: &MemoryReport, columns: usize, rows: usize) -> String {
    let memory = &report.keyspace.memory;
    let parts = [
        (
            '█',
            "keys and values",
            memory.key_bytes + memory.value_bytes,
        ),
        (
            '▓',
            "headers, rounding and table",
            memory.header_bytes + memory.rounding_bytes + memory.table_bytes,
        ),
        ('▒', "free slots in slabs", memory.free_slot_bytes),
        ('░', "free pages", memory.dirty_bytes),
        (
            '·',
            "the server itself",
            report
                .system
                .resident_bytes
                .saturating_sub(memory.resident_bytes() - memory.metadata_bytes),
        ),
    ];
    let total: u64 = parts.iter().map(|(_, _, bytes)| bytes).sum();
    let cells = (columns * rows) as u64;
    let mut field: Vec<char> = Vec::new();
    let mut so_far = 0;
    for (cell, _, bytes) in parts {
        so_far += bytes;
        let upto = (u128::from(so_far) * u128::from(cells) / u128::from(total.max(1))) as usize;
        field.resize(upto.max(field.len()), cell);
    }
    field.resize(columns * rows, '·');
    let mut text = String::new();
    for row in field.chunks(columns) {
        text.extend(row);
        text.push('\n');
    }
    text.push('\n');
    for (cell, what, bytes) in parts {
        text.push_str(&format!("{cell} {what}: {}\n", human(bytes)));
    }
    text.push_str(&format!(
        "\nRedis ver. {} (slabkv {VERSION})\n",
        info::REDIS_VERSION
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvstore::statistics::{MemoryBreakdown, Statistics};

    #[test]
    fn a_picture_has_its_size_whatever_the_figures() {
        let memory = MemoryBreakdown {
            key_bytes: 10_000,
            value_bytes: 90_000,
            free_slot_bytes: 50_000,
            ..MemoryBreakdown::default()
        };
        for (resident, memory) in [(200_000, memory), (0, MemoryBreakdown::default())] {
            let report = MemoryReport {
                keyspace: Statistics {
                    memory,
                    ..Statistics::default()
                },
                system: crate::process::SystemMemory {
                    resident_bytes: resident,
                    file_bytes: 0,
                },
                ..MemoryReport::default()
            };
            let text = picture(&report, 20, 10);
            let rows: Vec<&str> = text.lines().take(10).collect();
            assert!(rows.iter().all(|row| row.chars().count() == 20), "{text}");
            if resident > 0 {
                assert_eq!(rows.concat().matches('█').count(), 100);
                assert_eq!(rows.concat().matches('▒').count(), 50);
            }
        }
    }
}
