//! MEMORY.

use std::time::{Duration, Instant};

use kvstore::{ClassForecast, Home, PAGE_BYTES, Usage};

use crate::clock::uptime;
use crate::commands::CommandResult;
use crate::commands::admin::{databases, memory_report};
use crate::commands::args::Args;
use crate::commands::context::Context;
use crate::commands::error::CommandError;
use crate::config::directive::Id;
use crate::heap;
use crate::observe::doctor::{Facts, advise};
use crate::observe::latency::{COMPACTION_CYCLE, PURGE_CYCLE};
use crate::observe::memory::{MemoryReport, human};
use crate::process;
use crate::resp::reply::Reply;

/// `MEMORY USAGE key [SAMPLES count] [WHERE]`
pub(crate) fn usage(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let mut at = 3;
    let mut tells_where = false;
    while at < args.len() {
        if args.is(at, "where") {
            tells_where = true;
            at += 1;
            continue;
        }
        if !args.is(at, "samples") || at + 1 >= args.len() {
            return Err(CommandError::SYNTAX);
        }
        if args.integer(at + 1)? < 0 {
            return Err(CommandError::SYNTAX);
        }
        at += 2;
    }
    let key = args.key(0);
    match ctx.db().usage(&key) {
        Some(usage) if tells_where => {
            let home = ctx.db().home(&key);
            write_whereabouts(ctx.reply, &usage, home);
        }
        Some(usage) => ctx.reply.count(usage.total_bytes()),
        None => ctx.reply.null(),
    }
    Ok(())
}

/// What the bytes of a key are, and what holds them.
fn write_whereabouts(reply: &mut Reply, usage: &Usage, home: Option<Home>) {
    let parts = [
        ("total-bytes", usage.total_bytes() as u64),
        ("key-bytes", usage.key_bytes as u64),
        ("value-bytes", usage.value_bytes as u64),
        ("header-bytes", usage.header_bytes as u64),
        ("rounding-bytes", usage.rounding_bytes() as u64),
        ("table-bytes", usage.table_bytes as u64),
    ];
    let place: &[(&str, u64)] = match home {
        Some(Home::Slab {
            start_page,
            slot_bytes,
            slots,
            live,
        }) => &[
            ("slot-bytes", slot_bytes.into()),
            ("slab", start_page.into()),
            ("slab-slots", slots.into()),
            ("slab-live", live.into()),
        ],
        Some(Home::Pages { pages }) => &[("pages", pages.into())],
        None => &[],
    };
    reply.map(parts.len() + place.len());
    write_numbers(reply, &parts);
    write_numbers(reply, place);
}

/// `MEMORY STATS [JSON]`, with all shards locked.
pub(crate) fn stats(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    match args.len() {
        2 => {}
        3 if args.is(2, "json") => {
            let text = memory_report(ctx).json();
            ctx.reply.bulk(text.as_bytes());
            return Ok(());
        }
        _ => return Err(CommandError::SYNTAX),
    }
    enum Figure {
        Bytes(u64),
        Signed(i64),
        Fraction(f64),
    }
    use Figure::{Bytes, Fraction, Signed};
    let databases: Vec<_> = databases(ctx)
        .into_iter()
        .enumerate()
        .filter(|(_, db)| db.keys > 0)
        .collect();
    let report = memory_report(ctx);
    let keys = report.keyspace.keys;
    let table = report.keyspace.memory.table_bytes;
    let (used, active) = (report.used_bytes(), report.active_bytes());
    let (resident, rss) = (
        report.allocator_resident_bytes(),
        report.system.resident_bytes,
    );
    let net = used.saturating_sub(report.startup_bytes);
    let before = [
        ("peak.allocated", Bytes(report.peak_bytes)),
        ("total.allocated", Bytes(used)),
        ("startup.allocated", Bytes(report.startup_bytes)),
        ("replication.backlog", Bytes(0)),
        ("replica.fullsync.buffer", Bytes(0)),
        ("clients.slaves", Bytes(0)),
        ("clients.normal", Bytes(report.client_bytes)),
        ("cluster.links", Bytes(0)),
        ("aof.buffer", Bytes(0)),
        ("lua.caches", Bytes(0)),
        ("functions.caches", Bytes(0)),
        ("script.VMs", Bytes(0)),
    ];
    let after = [
        ("overhead.db.hashtable.lut", Bytes(table)),
        ("overhead.db.hashtable.rehashing", Bytes(0)),
        ("overhead.total", Bytes(report.overhead_bytes())),
        ("db.dict.rehashing.count", Bytes(0)),
        ("keys.count", Bytes(keys)),
        (
            "keys.bytes-per-key",
            Bytes(net.checked_div(keys).unwrap_or(0)),
        ),
        ("dataset.bytes", Bytes(report.dataset_bytes())),
        ("dataset.percentage", Fraction(report.dataset_percent())),
        ("peak.percentage", Fraction(report.peak_percent())),
        ("allocator.allocated", Bytes(used)),
        ("allocator.active", Bytes(active)),
        ("allocator.resident", Bytes(resident)),
        ("allocator.muzzy", Bytes(0)),
        (
            "allocator-fragmentation.ratio",
            Fraction(MemoryReport::ratio(active, used)),
        ),
        (
            "allocator-fragmentation.bytes",
            Signed(MemoryReport::excess(active, used)),
        ),
        (
            "allocator-rss.ratio",
            Fraction(MemoryReport::ratio(resident, active)),
        ),
        (
            "allocator-rss.bytes",
            Signed(MemoryReport::excess(resident, active)),
        ),
        (
            "rss-overhead.ratio",
            Fraction(MemoryReport::ratio(rss, resident)),
        ),
        ("rss-overhead.bytes", Signed(report.outside_bytes())),
        ("fragmentation", Fraction(MemoryReport::ratio(rss, used))),
        (
            "fragmentation.bytes",
            Signed(MemoryReport::excess(rss, used)),
        ),
    ];
    let parts = report.parts();
    let reply = &mut *ctx.reply;
    reply.map(before.len() + databases.len() + after.len() + parts.len() + 2);
    let write = |figures: &[(&str, Figure)], reply: &mut crate::resp::reply::Reply| {
        for (name, figure) in figures {
            reply.bulk(name.as_bytes());
            match figure {
                Bytes(bytes) => reply.integer(i64::try_from(*bytes).unwrap_or(i64::MAX)),
                Signed(bytes) => reply.integer(*bytes),
                Fraction(value) => reply.double(&value.to_string()),
            }
        }
    };
    write(&before, reply);
    for (index, db) in databases {
        reply.bulk(format!("db.{index}").as_bytes());
        reply.map(2);
        reply.bulk(b"overhead.hashtable.main");
        // One table serves all databases of a shard alike, so each has its share by keys.
        reply.integer(i64::try_from(table * db.keys / keys.max(1)).unwrap_or(i64::MAX));
        reply.bulk(b"overhead.hashtable.expires");
        reply.integer(0);
    }
    write(&after, reply);
    write(&[("slabkv.rss", Bytes(rss))], reply);
    for (name, bytes) in parts {
        reply.bulk(format!("slabkv.{}", name.replace(' ', "-")).as_bytes());
        reply.integer(bytes);
    }
    write(
        &[(
            "slabkv.residue.percentage",
            Fraction(report.residue_percent()),
        )],
        reply,
    );
    Ok(())
}

/// `MEMORY MALLOC-STATS`, with all shards locked.
pub(crate) fn malloc_stats(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let report = memory_report(ctx);
    let ledger = &report.keyspace.compaction;
    let mut text = String::from("Resident memory, part by part:\n\n");
    for (name, bytes) in report.parts() {
        let size = human(bytes.unsigned_abs());
        let sign = if bytes < 0 { "-" } else { "" };
        text.push_str(&format!("{name:<32}{bytes:>16}  {sign}{size}\n"));
    }
    text.push_str(&format!(
        "{:<32}{:>16}\n\nCompaction since the start:\n\n",
        "sum", report.system.resident_bytes
    ));
    let done = [
        ("slabs chosen", ledger.victims),
        ("slabs emptied", ledger.victims_released),
        ("objects moved", ledger.moved_objects),
        ("bytes moved", ledger.moved_bytes),
        ("pages freed", ledger.freed_pages),
        ("slices", ledger.slices),
        ("microseconds in slices", ledger.time_ns / 1000),
        (
            "longest slice in microseconds",
            ledger.longest_slice_ns / 1000,
        ),
        ("skipped below the target", ledger.skipped_below_target),
        ("skipped while deleting", ledger.skipped_while_deleting),
        ("skipped without a victim", ledger.skipped_no_victim),
    ];
    for (name, number) in done {
        text.push_str(&format!("{name:<32}{number:>16}\n"));
    }
    text.push_str("\nSize classes of the keyspace:\n\n");
    let classes = ctx.locked.size_classes();
    heap::write_classes(&mut text, &classes);
    text.push_str(&heap::describe());
    ctx.reply.verbatim(b"txt", text.as_bytes());
    Ok(())
}

/// `MEMORY DOCTOR`
pub(crate) fn doctor(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let facts = ctx.without_locks(|services| Facts {
        report: services.memory_report(),
        forecast: services.keyspace.forecast(),
        clients: services.clients.len() as u64,
        compacts: services.config.is_set(Id::ActiveDefrag),
        huge_pages: !services.config.is_set(Id::DisableThp) && process::gives_huge_pages(),
        group: process::group_memory(),
    });
    let text = advise(&facts).join("\n") + "\n";
    ctx.reply.verbatim(b"txt", text.as_bytes());
    Ok(())
}

/// `MEMORY PURGE`
pub(crate) fn purge(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    ctx.without_locks(|services| {
        let began = Instant::now();
        services.keyspace.purge();
        services.note_latency(PURGE_CYCLE, began.elapsed());
    });
    heap::purge();
    ctx.reply.ok();
    Ok(())
}

/// `MEMORY COMPACT [NOW | STATUS | DRYRUN | class...]`: moves objects together as far as it goes and gives the pages
/// back, or says what that has done so far, or what it would do. A class is named by a size that belongs to it.
pub(crate) fn compact(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    if args.len() == 3 && args.is(2, "status") {
        return compact_status(ctx);
    }
    if args.len() == 3 && args.is(2, "dryrun") {
        return compact_dry_run(ctx);
    }
    let mut sizes = Vec::new();
    if !(args.len() == 3 && args.is(2, "now")) {
        for word in args.from(2) {
            let size = kvstore::parse_integer(word).and_then(|size| usize::try_from(size).ok());
            sizes.push(size.filter(|size| *size > 0).ok_or(CommandError::SYNTAX)?);
        }
    }
    let ledger = ctx.without_locks(|services| match sizes.as_slice() {
        [] => services.keyspace.compact(),
        sizes => services.keyspace.compact_classes(sizes),
    });
    let longest = Duration::from_nanos(ledger.longest_slice_ns);
    ctx.services.note_latency(COMPACTION_CYCLE, longest);
    let figures = [
        ("victims", ledger.victims),
        ("victims-released", ledger.victims_released),
        ("moved-objects", ledger.moved_objects),
        ("moved-bytes", ledger.moved_bytes),
        ("freed-pages", ledger.freed_pages),
        ("purged-bytes", ledger.purged_bytes),
        ("microseconds", ledger.time_ns / 1000),
        ("longest-slice-microseconds", ledger.longest_slice_ns / 1000),
    ];
    ctx.reply.map(figures.len());
    for (name, number) in figures {
        ctx.reply.bulk(name.as_bytes());
        ctx.reply.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }
    Ok(())
}

/// Writes names with whole numbers.
fn write_numbers(reply: &mut Reply, figures: &[(&str, u64)]) {
    for (name, number) in figures {
        reply.bulk(name.as_bytes());
        reply.integer(i64::try_from(*number).unwrap_or(i64::MAX));
    }
}

/// `MEMORY COMPACT STATUS`: what compaction has done since the start or the last CONFIG RESETSTAT.
fn compact_status(ctx: &mut Context<'_>) -> CommandResult {
    let (ledger, classes) = ctx.without_locks(|services| {
        let mut locked = services.keyspace.lock_all();
        (locked.statistics().compaction, locked.compaction_by_class())
    });
    let now = uptime();
    let compacting = &ctx.services.compacting;
    let figures = [
        (
            "enabled",
            u64::from(ctx.services.config.is_set(Id::ActiveDefrag)),
        ),
        ("running-seconds", compacting.current(now).as_secs()),
        ("run-seconds-total", compacting.total(now).as_secs()),
        ("victims", ledger.victims),
        ("victims-released", ledger.victims_released),
        ("moved-objects", ledger.moved_objects),
        ("moved-keys", ledger.moved_entries),
        ("moved-bytes", ledger.moved_bytes),
        ("freed-pages", ledger.freed_pages),
        ("purged-bytes", ledger.purged_bytes),
        ("slices", ledger.slices),
        ("longest-slice-microseconds", ledger.longest_slice_ns / 1000),
        ("cpu-microseconds", ledger.time_ns / 1000),
    ];
    let skipped = [
        ("below-target", ledger.skipped_below_target),
        ("while-deleting", ledger.skipped_while_deleting),
        ("no-victim", ledger.skipped_no_victim),
        ("no-room", ledger.skipped_no_room),
        ("objects-without-room", ledger.missed_objects),
    ];
    let reply = &mut *ctx.reply;
    reply.map(figures.len() + 2);
    write_numbers(reply, &figures);
    reply.bulk(b"skipped");
    reply.map(skipped.len());
    write_numbers(reply, &skipped);
    reply.bulk(b"classes");
    reply.array(classes.len());
    for class in classes {
        reply.map(7);
        write_numbers(
            reply,
            &[
                ("slot-bytes", class.slot_bytes),
                ("victims", class.victims),
                ("victims-released", class.victims_released),
                ("moved-objects", class.moved_objects),
                ("moved-bytes", class.moved_bytes),
                ("freed-pages", class.freed_pages),
                ("skipped-no-room", class.skipped_no_room),
            ],
        );
    }
    Ok(())
}

/// `MEMORY COMPACT DRYRUN`: what compaction would gain and cost.
fn compact_dry_run(ctx: &mut Context<'_>) -> CommandResult {
    let (forecast, ledger) = ctx.without_locks(|services| {
        let ledger = services.keyspace_statistics().compaction;
        (services.keyspace.forecast(), ledger)
    });
    let write = |reply: &mut Reply, class: &ClassForecast| {
        let figures = [
            ("slabs", class.slabs),
            ("pages", class.pages),
            ("live", class.live),
            ("released-slabs", class.released_slabs),
            ("freed-pages", class.freed_pages),
            ("freed-bytes", class.freed_pages * PAGE_BYTES as u64),
            ("moved-objects", class.moved_objects),
            ("moved-bytes", class.moved_bytes),
        ];
        write_numbers(reply, &figures);
        reply.bulk(b"milliseconds");
        reply.double(&format!(
            "{:.3}",
            forecast.time_ns(class, &ledger) as f64 / 1e6
        ));
    };
    let reply = &mut *ctx.reply;
    reply.map(10);
    write(reply, &forecast.total());
    reply.bulk(b"classes");
    reply.array(forecast.classes.len());
    for class in &forecast.classes {
        reply.map(10);
        write_numbers(reply, &[("slot-bytes", u64::from(class.slot_bytes))]);
        write(reply, class);
    }
    Ok(())
}
