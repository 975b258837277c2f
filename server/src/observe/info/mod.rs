//! INFO: one table of sections, each a list of fields with the figure that each shows.

mod clients;
mod commands;
mod data;
mod memory;
mod server;
mod stats;

use std::fmt::Write as _;
use std::time::Duration;

use kvstore::statistics::{DbStatistics, Statistics};

use crate::clients::Clients;
use crate::config::Config;
use crate::listeners::Listeners;
use crate::observe::memory::MemoryReport;
use crate::observe::rates::Rates;
use crate::observe::stats::{Stats, TotalSums};

/// The version of Redis whose protocol, commands and replies this server follows.
pub(crate) const REDIS_VERSION: &str = "8.0.0";

/// This server's own version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What never changes after the start.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// A random number in hexadecimal digits.
    pub(crate) run_id: String,
    /// Another one, which names this server's data.
    pub(crate) replication_id: String,
    /// The program.
    pub(crate) executable: String,
    /// How the process is supervised.
    pub(crate) supervised: &'static str,
    /// When the server started, in seconds of Unix time.
    pub(crate) started_unix_seconds: u64,
}

/// Where the figures come from.
pub(crate) struct Sources<'s> {
    pub(crate) config: &'s Config,
    pub(crate) clients: &'s Clients,
    pub(crate) listeners: &'s Listeners,
    pub(crate) stats: &'s Stats,
    pub(crate) identity: &'s Identity,
    pub(crate) totals: TotalSums,
    /// Commands since the start that may have changed data.
    pub(crate) changes: u64,
    pub(crate) rates: Rates,
    /// For how long compaction has been at work: now without a break, and in all.
    pub(crate) compacting: (Duration, Duration),
    /// For how long more memory has been in use than allowed: now without a break, and in all.
    pub(crate) over_limit: (Duration, Duration),
    pub(crate) keyspace: Statistics,
    /// By database.
    pub(crate) databases: Vec<DbStatistics>,
    pub(crate) memory: MemoryReport,
    /// Names of commands, by index.
    pub(crate) commands: Vec<&'s str>,
}

/// Fields, each with the figure that it shows.
type Fields = [(&'static str, fn(&Sources<'_>) -> String)];

/// What a section holds.
enum Content {
    /// These fields.
    Fields(&'static Fields),
    /// Lines whose number is known only when they are written.
    Lines(fn(&Sources<'_>, &mut String)),
}

/// One section.
struct Section {
    /// As clients ask for it, in lower case.
    name: &'static str,
    /// As the text titles it.
    title: &'static str,
    /// Whether INFO without arguments shows it.
    is_default: bool,
    /// Whether `all` shows it.
    is_in_all: bool,
    contents: &'static [Content],
}

fn zero(_: &Sources<'_>) -> String {
    "0".into()
}

fn flag(on: bool) -> String {
    u8::from(on).to_string()
}

fn ratio(value: f64) -> String {
    format!("{value:.2}")
}

fn seconds(time: std::time::Duration) -> String {
    format!("{}.{:06}", time.as_secs(), time.subsec_micros())
}

/// Bytes per second in units of 1024.
fn kilobytes(bytes: f64) -> String {
    ratio(bytes / 1024.0)
}

static SECTIONS: &[Section] = &[
    section(
        "server",
        "Server",
        &[
            Content::Fields(server::SERVER),
            Content::Lines(server::listeners),
        ],
    ),
    section("clients", "Clients", &[Content::Fields(clients::CLIENTS)]),
    section(
        "memory",
        "Memory",
        &[
            Content::Fields(memory::MEMORY),
            Content::Lines(memory::parts),
        ],
    ),
    Section {
        is_default: false,
        ..section("memorymap", "Memorymap", &[Content::Lines(memory::map)])
    },
    section(
        "persistence",
        "Persistence",
        &[Content::Fields(data::PERSISTENCE)],
    ),
    section("threads", "Threads", &[Content::Lines(clients::threads)]),
    section("stats", "Stats", &[Content::Fields(stats::STATS)]),
    section(
        "replication",
        "Replication",
        &[Content::Fields(data::REPLICATION)],
    ),
    section("cpu", "CPU", &[Content::Fields(server::CPU)]),
    section("modules", "Modules", &[]),
    Section {
        is_default: false,
        ..section(
            "commandstats",
            "Commandstats",
            &[Content::Lines(commands::command_stats)],
        )
    },
    section(
        "errorstats",
        "Errorstats",
        &[Content::Lines(commands::error_stats)],
    ),
    Section {
        is_default: false,
        ..section(
            "latencystats",
            "Latencystats",
            &[Content::Lines(commands::latency_stats)],
        )
    },
    section(
        "cluster",
        "Cluster",
        &[Content::Fields(&[("cluster_enabled", zero)])],
    ),
    section("keyspace", "Keyspace", &[Content::Lines(data::keyspace)]),
    section("keysizes", "Keysizes", &[Content::Lines(data::key_sizes)]),
    Section {
        is_default: false,
        is_in_all: false,
        ..section("debug", "Debug", &[Content::Fields(stats::DEBUG)])
    },
];

const fn section(name: &'static str, title: &'static str, contents: &'static [Content]) -> Section {
    Section {
        name,
        title,
        is_default: true,
        is_in_all: true,
        contents,
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
    out.push_str("\r\n");
}

fn fields() -> impl Iterator<Item = &'static (&'static str, fn(&Sources<'_>) -> String)> {
    let contents = SECTIONS.iter().flat_map(|section| section.contents);
    contents.flat_map(|content| match content {
        Content::Fields(fields) => *fields,
        Content::Lines(_) => &[],
    })
}

/// A field's value, of those that are always there.
pub(crate) fn field(sources: &Sources<'_>, wanted: &str) -> Option<String> {
    let (_, value) = fields().find(|(name, _)| *name == wanted)?;
    Some(value(sources))
}

/// Whether there is such a field.
#[cfg(test)]
pub(crate) fn has_field(wanted: &str) -> bool {
    fields().any(|(name, _)| *name == wanted)
}

/// The text of INFO with these arguments.
pub(crate) fn text<'a>(
    sources: &Sources<'_>,
    wanted: impl Iterator<Item = &'a [u8]> + Clone,
) -> String {
    let asked = |word: &str| {
        wanted
            .clone()
            .any(|name| name.eq_ignore_ascii_case(word.as_bytes()))
    };
    let none = wanted.clone().next().is_none();
    let (defaults, all) = (
        none || asked("default"),
        asked("all") || asked("everything"),
    );
    let mut out = String::new();
    for section in SECTIONS {
        let shown =
            defaults && section.is_default || all && section.is_in_all || asked(section.name);
        if !shown {
            continue;
        }
        if !out.is_empty() {
            out.push_str("\r\n");
        }
        line(&mut out, format_args!("# {}", section.title));
        for content in section.contents {
            match content {
                Content::Fields(fields) => {
                    for (name, value) in *fields {
                        line(&mut out, format_args!("{name}:{}", value(sources)));
                    }
                }
                Content::Lines(write) => write(sources, &mut out),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn fields_are_unique() {
        let mut names = HashSet::new();
        for section in SECTIONS {
            for content in section.contents {
                if let Content::Fields(fields) = content {
                    for (name, _) in *fields {
                        assert!(names.insert(*name), "{name} twice");
                    }
                }
            }
        }
        assert!(names.len() > 200);
    }
}
