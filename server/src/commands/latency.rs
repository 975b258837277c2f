//! LATENCY.

use crate::clock::unix_us;
use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::commands::lookup::Command;
use crate::config::directive::Id;
use crate::observe::latency::{PURGE_CYCLE, graph as draw};

fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn now_seconds() -> u64 {
    unix_us() / 1_000_000
}

/// `LATENCY LATEST`
pub(crate) fn latest(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let all = ctx.services.latency.all();
    ctx.reply.array(all.len());
    for (event, series) in all {
        let last = series.samples.back();
        ctx.reply.array(4);
        ctx.reply.bulk(event.as_bytes());
        ctx.reply
            .integer(integer(last.map_or(0, |sample| sample.unix_seconds)));
        ctx.reply
            .integer(integer(last.map_or(0, |sample| sample.latency_ms)));
        ctx.reply.integer(integer(series.max_ms));
    }
    Ok(())
}

/// `LATENCY HISTORY event`
pub(crate) fn history(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let series = ctx.services.latency.series(args.get(2)).unwrap_or_default();
    ctx.reply.array(series.samples.len());
    for sample in series.samples {
        ctx.reply.array(2);
        ctx.reply.integer(integer(sample.unix_seconds));
        ctx.reply.integer(integer(sample.latency_ms));
    }
    Ok(())
}

/// `LATENCY RESET [event...]`
pub(crate) fn reset(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let reset = match args.len() {
        2 => ctx.services.latency.reset(|_| true),
        _ => {
            let named = |event: &str| args.from(2).any(|name| name == event.as_bytes());
            ctx.services.latency.reset(named)
        }
    };
    ctx.reply.count(reset);
    Ok(())
}

/// `LATENCY GRAPH event`
pub(crate) fn graph(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let event = args.get(2);
    let Some(series) = ctx.services.latency.series(event) else {
        return Err([b"ERR No samples available for event '", event, b"'"]
            .concat()
            .into());
    };
    let picture = draw(&String::from_utf8_lossy(event), &series, now_seconds());
    ctx.reply.verbatim(b"txt", picture.as_bytes());
    Ok(())
}

/// `LATENCY HISTOGRAM [command...]`
pub(crate) fn histogram(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let table = ctx.commands();
    let mut wanted: Vec<&Command> = Vec::new();
    if args.len() == 2 {
        wanted.extend(table.iter());
    }
    for name in args.from(2) {
        let found = match name.iter().position(|&byte| byte == b'|') {
            Some(bar) => table
                .by_name(&name[..bar])
                .and_then(|container| table.subcommand(container, &name[bar + 1..])),
            None => table.by_name(name),
        };
        if let Some(command) = found {
            wanted.push(command);
            wanted.extend(command.subcommands.iter().map(|&at| table.get(at)));
        }
    }
    let counted = wanted.into_iter().filter_map(|command| {
        let counts = ctx.services.stats.durations(usize::from(command.index))?;
        (counts.total() > 0).then_some((command, counts))
    });
    let counted: Vec<_> = counted.collect();
    ctx.reply.map(counted.len());
    for (command, counts) in counted {
        ctx.reply.bulk(command.name.as_bytes());
        ctx.reply.map(2);
        ctx.reply.bulk(b"calls");
        ctx.reply.integer(integer(counts.total()));
        ctx.reply.bulk(b"histogram_usec");
        let buckets = counts.doubling_buckets();
        ctx.reply.map(buckets.len());
        for (bound_us, count) in buckets {
            ctx.reply.integer(integer(bound_us));
            ctx.reply.integer(integer(count));
        }
    }
    Ok(())
}

/// `LATENCY DOCTOR`
pub(crate) fn doctor(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let text = diagnosis(ctx)?;
    ctx.reply.verbatim(b"txt", text.as_bytes());
    Ok(())
}

fn diagnosis(ctx: &Context<'_>) -> Result<String, CommandError> {
    let config = &ctx.services.config;
    let all = ctx.services.latency.all();
    if all.is_empty() && !config.is_set(Id::LatencyThreshold) {
        return Ok("Nothing can be said about latency, since it is not watched. To have it watched, say from when on \
                   a delay counts: CONFIG SET latency-monitor-threshold <milliseconds>.\n"
            .into());
    }
    if all.is_empty() {
        return Ok(
            "Since the last reset nothing took longer than latency-monitor-threshold.\n".into(),
        );
    }
    let mut text = String::from("Delays above latency-monitor-threshold:\n\n");
    let now = now_seconds();
    for (event, series) in &all {
        let analysis = series.analysis(now);
        let (sum_ms, count) = series.sum_and_count();
        text.push_str(&format!(
            "{event}: {count} delays, {sum_ms} ms in all; in the {} latest seconds with any: {} ms on average (deviation {} ms), \
             at least {} ms, at most {} ms, one every {:.1} s. Longest ever {} ms.\n",
            analysis.samples,
            analysis.mean_ms,
            analysis.deviation_ms,
            analysis.min_ms,
            analysis.max_ms,
            analysis.period_seconds,
            series.max_ms,
        ));
    }
    text.push_str("\nWhat may help:\n\n");
    let slower_than_us = config.number(Id::SlowlogSlowerThan);
    let commands = all.iter().any(|(event, _)| *event == "command");
    let fast_commands = all.iter().any(|(event, _)| *event == "fast-command");
    if commands && slower_than_us < 0 {
        text.push_str("- Turn the slow log on to see which commands are slow: CONFIG SET slowlog-log-slower-than 1000.\n");
    } else if commands && slower_than_us > config.number(Id::LatencyThreshold) * 1000 {
        text.push_str(
            "- Let the slow log keep what counts as a delay: lower slowlog-log-slower-than.\n",
        );
    } else if commands {
        text.push_str("- See with SLOWLOG GET which commands are slow, and look for commands that visit many keys.\n");
    }
    if fast_commands {
        text.push_str(
            "- Commands that need constant time were slow, so the process itself was held up: look for other \
             processes on the same cores, swapping, and limits of the container or the virtual machine.\n",
        );
    }
    if all.iter().any(|(event, _)| *event == "expire-cycle") {
        text.push_str("- Many keys expire at once: spread their expiries.\n");
    }
    if all.iter().any(|(event, _)| *event == "eviction-cycle") {
        text.push_str("- Eviction works hard: raise maxmemory, or write less at once.\n");
    }
    if all.iter().any(|(event, _)| *event == PURGE_CYCLE) {
        text.push_str(
            "- Giving pages back took long: they lie scattered, or the machine is busy.\n",
        );
    }
    Ok(text)
}
