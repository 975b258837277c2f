//! CONFIG, and how settings reach the parts of the server that they are about.

use kvstore::{CompactionSettings, EvictionPolicy, MemoryMeasure, Settings};

use crate::clock::uptime;
use crate::commands::CommandResult;
use crate::commands::args::Args;
use crate::commands::context::{Context, Services};
use crate::commands::error::CommandError;
use crate::config::directive::{Access, DIRECTIVES, Directive, Id, POLICIES, find};
use crate::config::rewrite;
use crate::config::{Config, os_text};
use crate::glob::Pattern;
use crate::listeners::TcpAddresses;
use crate::log::{Level, Log};
use crate::observe::memory::human;

/// `CONFIG GET pattern...`
pub(crate) fn get(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let mut found: Vec<(&str, &Directive)> = Vec::new();
    let mut add = |name: &'static str, directive: &'static Directive| {
        if !found.iter().any(|(known, _)| *known == name) {
            found.push((name, directive));
        }
    };
    for wanted in args.from(2) {
        if !wanted.iter().any(|byte| b"[*?".contains(byte)) {
            if let Some(directive) = find(wanted) {
                let is_alias = directive
                    .alias
                    .filter(|alias| alias.as_bytes().eq_ignore_ascii_case(wanted));
                add(is_alias.unwrap_or(directive.name), directive);
            }
            continue;
        }
        let pattern = Pattern::ignoring_case(wanted);
        for directive in DIRECTIVES.iter().filter(|directive| !directive.is_hidden()) {
            for name in [Some(directive.name), directive.alias]
                .into_iter()
                .flatten()
            {
                if pattern.matches(name.as_bytes()) {
                    add(name, directive);
                }
            }
        }
    }
    ctx.reply.map(found.len());
    for (name, directive) in found {
        ctx.reply.bulk(name.as_bytes());
        ctx.reply.bulk(&ctx.services.config.show(directive.id));
    }
    Ok(())
}

/// `CONFIG SET directive value [directive value ...]`: all of them or none.
pub(crate) fn set(ctx: &mut Context<'_>, args: Args<'_>) -> CommandResult {
    let services = ctx.services;
    let pairs = args.len().saturating_sub(2);
    if pairs == 0 || pairs % 2 == 1 {
        return Err(CommandError::SYNTAX);
    }
    let mut changes: Vec<(&Directive, &[u8])> = Vec::new();
    let mut error = None;
    for at in (2..args.len()).step_by(2) {
        let name = args.get(at);
        let Some(directive) = find(name) else {
            error.get_or_insert_with(|| {
                failure(
                    "Unknown option or number of arguments for CONFIG SET - '",
                    name,
                    "'",
                )
            });
            continue;
        };
        // All secrets have to be kept out of the logs, also if the command fails.
        if directive.access == Access::Secret {
            ctx.keep_secret(at + 1);
        }
        if error.is_some() {
            continue;
        }
        let is_local = ctx.session.client.endpoints.is_local();
        let protected = directive.access == Access::Protected
            && !services.allows(Id::EnableProtectedConfigs, is_local);
        let reason = if !directive.can_change() {
            Some("can't set immutable config")
        } else if protected {
            Some("can't set protected config")
        } else if changes.iter().any(|(known, _)| known.id == directive.id) {
            Some("duplicate parameter")
        } else {
            None
        };
        match reason {
            Some(reason) => error = Some(related_failure(name, reason)),
            None => changes.push((directive, args.get(at + 1))),
        }
    }
    if let Some(error) = error {
        return Err(error);
    }
    ctx.without_locks(|services| change(services, &changes))?;
    ctx.reply.ok();
    Ok(())
}

/// Puts settings in force, all of them or none.
fn change(services: &Services, changes: &[(&Directive, &[u8])]) -> CommandResult {
    let _one_at_a_time = services.config_change.lock();
    let config = &services.config;
    let backups: Vec<_> = changes
        .iter()
        .map(|(directive, _)| config.backup(directive.id))
        .collect();
    let undo = || {
        backups
            .iter()
            .rev()
            .for_each(|backup| config.restore(backup))
    };
    for (directive, value) in changes {
        let words: Vec<&[u8]> = if directive.kind.takes_words() {
            value.split(|&byte| byte == b' ').collect()
        } else {
            vec![value]
        };
        if let Err(reason) = config.set(directive, &words) {
            undo();
            return Err(related_failure(directive.name.as_bytes(), &reason));
        }
    }
    let mut applied: Vec<Applies> = Vec::new();
    for (directive, _) in changes {
        let Some(applies) = Applies::of(directive.id) else {
            continue;
        };
        if applied.contains(&applies) {
            continue;
        }
        applied.push(applies);
        if let Err(reason) = applies.apply(services) {
            undo();
            // What was in force a moment ago can be put in force again.
            applied
                .iter()
                .for_each(|applies| _ = applies.apply(services));
            return Err(related_failure(directive.name.as_bytes(), &reason));
        }
    }
    Ok(())
}

fn related_failure(name: &[u8], reason: &str) -> CommandError {
    let end = format!("') - {reason}");
    failure(
        "CONFIG SET failed (possibly related to argument '",
        name,
        &end,
    )
}

fn failure(start: &str, name: &[u8], end: &str) -> CommandError {
    [b"ERR ", start.as_bytes(), name, end.as_bytes()]
        .concat()
        .into()
}

/// `CONFIG RESETSTAT`
pub(crate) fn resetstat(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    let services = ctx.services;
    services.stats.reset();
    services.sampler.lock().clear();
    services.compacting.reset(uptime());
    services.over_limit.reset(uptime());
    ctx.locked.reset_statistics();
    let keyspace = ctx.locked.statistics();
    services.memory.reset_peak(&keyspace);
    ctx.reply.ok();
    Ok(())
}

/// `CONFIG REWRITE`
pub(crate) fn rewrite(ctx: &mut Context<'_>, _: Args<'_>) -> CommandResult {
    rewrite_file(ctx.services, false)?;
    ctx.reply.ok();
    Ok(())
}

/// Writes the configuration file again; `all` also writes what is the default.
pub(crate) fn rewrite_file(services: &Services, all: bool) -> CommandResult {
    let _one_at_a_time = services.config_change.lock();
    let Some(path) = &services.config.file else {
        return Err(CommandError::new(
            "ERR The server is running without a config file",
        ));
    };
    let before = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(rewrite_failure(services, &error)),
    };
    let text = rewrite::rewritten(&services.config, &before, all);
    rewrite::replace_file(path, &text).map_err(|error| rewrite_failure(services, &error))?;
    services
        .log
        .write(Level::Notice, "CONFIG REWRITE executed with success.");
    Ok(())
}

fn rewrite_failure(services: &Services, error: &std::io::Error) -> CommandError {
    let reason = os_text(error);
    services.log.write(
        Level::Warning,
        format_args!("CONFIG REWRITE failed: {reason}"),
    );
    format!("ERR Rewriting config file: {reason}").into()
}

/// The parts of the server that have to be told of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applies {
    Port,
    Bind,
    Http,
    Keyspace,
    MaxMemory,
    MaxClients,
    LogLevel,
    OomScore,
}

impl Applies {
    fn of(id: Id) -> Option<Self> {
        match id {
            Id::Port => Some(Self::Port),
            Id::Bind => Some(Self::Bind),
            Id::HttpPort | Id::HttpBind => Some(Self::Http),
            Id::MaxMemory => Some(Self::MaxMemory),
            Id::MaxMemoryPolicy
            | Id::MaxMemorySamples
            | Id::MaxMemoryMeasure
            | Id::LfuLogFactor
            | Id::LfuDecayTime
            | Id::ActiveExpireEffort
            | Id::ActiveDefrag
            | Id::DefragIgnoreBytes
            | Id::DefragThresholdLower
            | Id::DefragThresholdUpper
            | Id::DefragCycleMin
            | Id::DefragCycleMax => Some(Self::Keyspace),
            Id::MaxClients => Some(Self::MaxClients),
            Id::LogLevel => Some(Self::LogLevel),
            Id::OomScoreAdj | Id::OomScoreAdjValues => Some(Self::OomScore),
            _ => None,
        }
    }

    fn apply(self, services: &Services) -> Result<(), String> {
        let config = &services.config;
        match self {
            Self::Port | Self::Bind => {
                let addresses = tcp_addresses(config);
                let listened = services.listeners.listen_tcp(addresses, &services.log);
                listened.map_err(|()| match self {
                    Self::Port => "Unable to listen on this port. Check server logs.".to_owned(),
                    _ => "Failed to bind to specified addresses.".to_owned(),
                })
            }
            Self::Http => open_door(services),
            Self::Keyspace | Self::MaxMemory => {
                configure_keyspace(services);
                if self == Self::MaxMemory {
                    warn_if_small(services);
                }
                Ok(())
            }
            Self::MaxClients => {
                let wanted = config.size(Id::MaxClients) as u64;
                let files = crate::process::raise_file_limit(wanted.saturating_add(OTHER_FILES));
                if files >= wanted.saturating_add(OTHER_FILES) {
                    return Ok(());
                }
                let most = files.saturating_sub(OTHER_FILES);
                Err(format!(
                    "The operating system is not able to handle the specified number of clients, try with {most}"
                ))
            }
            Self::LogLevel => {
                services.log.set_level(config.number(Id::LogLevel));
                Ok(())
            }
            Self::OomScore => apply_oom_score(config, &services.log),
        }
    }
}

/// Descriptors that are needed beside those of clients.
pub(crate) const OTHER_FILES: u64 = 32;

/// Where to listen for TCP connections.
pub(crate) fn tcp_addresses(config: &Config) -> TcpAddresses {
    TcpAddresses {
        hosts: config.words(Id::Bind),
        port: u16::try_from(config.number(Id::Port)).unwrap_or(0),
        backlog: i32::try_from(config.number(Id::TcpBacklog)).unwrap_or(i32::MAX),
    }
}

/// Tells the keyspace what the configuration says. Locks the shards, one after the other.
pub(crate) fn configure_keyspace(services: &Services) {
    let mut settings = keyspace_settings(&services.config);
    settings.active_expiry = services
        .active_expiry
        .load(std::sync::atomic::Ordering::Relaxed);
    // While clients wait, no key goes away, be it by expiry or to make room.
    settings.keep_expired = services.clients.is_paused();
    services.keyspace.configure(&settings);
    // What was switched on may have work to do, and a sleeping worker does not look.
    for worker in 0..services.clients.workers() {
        services.rouse(worker, usize::MAX);
    }
}

/// Ends the pause that is in force, if any.
pub(crate) fn end_pause(services: &Services) {
    services.clients.end_pause();
    configure_keyspace(services);
}

/// What the configuration says about the keyspace.
pub(crate) fn keyspace_settings(config: &Config) -> Settings {
    let number = |id| u32::try_from(config.number(id)).unwrap_or(u32::MAX);
    let policy = POLICIES[config.size(Id::MaxMemoryPolicy)];
    let policies = EvictionPolicy::NAMES.iter();
    let policy = policies
        .into_iter()
        .find(|(name, _)| *name == policy)
        .map_or(EvictionPolicy::NoEviction, |(_, p)| *p);
    Settings {
        max_memory_bytes: config.size(Id::MaxMemory) as u64,
        memory_measure: match config.number(Id::MaxMemoryMeasure) {
            0 => MemoryMeasure::Used,
            _ => MemoryMeasure::Resident,
        },
        eviction_policy: policy,
        eviction_samples: number(Id::MaxMemorySamples),
        lfu_log_factor: number(Id::LfuLogFactor),
        lfu_decay_minutes: number(Id::LfuDecayTime),
        active_expiry: true,
        keep_expired: false,
        active_expiry_effort: number(Id::ActiveExpireEffort),
        compaction: CompactionSettings {
            enabled: config.is_set(Id::ActiveDefrag),
            ignore_bytes: config.size(Id::DefragIgnoreBytes) as u64,
            start_percent: number(Id::DefragThresholdLower),
            // Growth is held at a tenth over what is live, or at what the operator puts up with.
            target_percent: 100 + number(Id::DefragThresholdLower).max(10),
            cpu_percent_min: number(Id::DefragCycleMin),
            cpu_percent_max: number(Id::DefragCycleMax),
            upper_percent: 100 + number(Id::DefragThresholdUpper),
        },
    }
}

/// Serves HTTP where the configuration says.
pub(crate) fn open_door(services: &Services) -> Result<(), String> {
    let config = &services.config;
    services.door.open(TcpAddresses {
        hosts: config.words(Id::HttpBind),
        port: u16::try_from(config.number(Id::HttpPort)).unwrap_or(0),
        backlog: tcp_addresses(config).backlog,
    })
}

fn warn_if_small(services: &Services) {
    let limit = services.config.size(Id::MaxMemory) as u64;
    let used = services.memory.last_used_bytes();
    if limit > 0 && limit < used {
        let text = format!(
            "WARNING: the new maxmemory value set via CONFIG SET ({}) is smaller than the current memory usage ({}). \
             This will result in key eviction and/or the inability to accept new write commands depending on the \
             maxmemory-policy.",
            human(limit),
            human(used)
        );
        services.log.write(Level::Warning, text);
    }
}

/// Tells the system how soon to end this process when memory runs out.
pub(crate) fn apply_oom_score(config: &Config, log: &Log) -> Result<(), String> {
    const PATH: &str = "/proc/self/oom_score_adj";
    let mode = config.number(Id::OomScoreAdj);
    let Some(value) = config
        .words(Id::OomScoreAdjValues)
        .first()
        .and_then(|word| word.parse::<i64>().ok())
    else {
        return Ok(());
    };
    let base = crate::process::initial_oom_score();
    let score = match mode {
        // Nothing was asked for, so only what was changed before is undone.
        0 if !crate::process::is_oom_score_changed() => return Ok(()),
        0 => base,
        1 | 2 => base + value,
        _ => value,
    };
    std::fs::write(PATH, score.clamp(-1000, 1000).to_string()).map_err(|error| {
        log.write(
            Level::Warning,
            format_args!("Unable to write oom_score_adj: {}", os_text(&error)),
        );
        "Failed to apply new oom_score_adj configuration, check server logs.".to_owned()
    })?;
    crate::process::note_oom_score_changed(mode != 0);
    Ok(())
}
