//! Configuration: the directives, where they are read from, and the values in force.
//!
//! Values live side by side in one array of numbers and one of texts, indexed by the directive's place in the table.
//! Whatever is a number, a size, a flag or a choice is an atomic number, read where it is needed for the price of a
//! load, so that a change holds from the next command on.

pub(crate) mod directive;
pub(crate) mod file;
pub(crate) mod rewrite;
pub(crate) mod value;
mod words;

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::RwLock;

use directive::{Access, DIRECTIVES, Directive, Id, Kind, Standing};
use value::OutputLimit;
use words::{
    check_replica_of, is_title_template, one_of, parse_oom_scores, parse_options,
    parse_percentiles, parse_save, show_options, within,
};

/// Values in force.
#[derive(Debug)]
pub(crate) struct Config {
    /// By directive. Of a text: its length in bytes.
    numbers: Box<[AtomicI64]>,
    /// By directive.
    texts: RwLock<Vec<Box<[u8]>>>,
    output_limits: RwLock<[OutputLimit; 3]>,
    /// The configuration file, if one was given.
    pub(crate) file: Option<PathBuf>,
    /// Commands that go by another name, or by none.
    pub(crate) renamed: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether `save` was read before: the first one replaces the default, the following ones add to it.
    save_seen: bool,
}

/// A value as it was, for taking a change back.
#[derive(Clone, Debug)]
pub(crate) struct Backup {
    id: Id,
    number: i64,
    text: Box<[u8]>,
    output_limits: [OutputLimit; 3],
}

const OUTPUT_LIMITS: [OutputLimit; 3] = [
    OutputLimit {
        hard_bytes: 0,
        soft_bytes: 0,
        soft_seconds: 0,
    },
    OutputLimit {
        hard_bytes: 256 << 20,
        soft_bytes: 64 << 20,
        soft_seconds: 60,
    },
    OutputLimit {
        hard_bytes: 32 << 20,
        soft_bytes: 8 << 20,
        soft_seconds: 60,
    },
];

/// Most addresses that `bind` takes.
const BIND_MAX: usize = 16;

/// Workers where nothing else is said.
fn default_workers() -> i64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    i64::try_from(cores.min(8)).unwrap_or(1)
}

impl Config {
    /// What holds without a configuration file.
    pub(crate) fn defaults() -> Self {
        let config = Self {
            numbers: DIRECTIVES.iter().map(|_| AtomicI64::new(0)).collect(),
            texts: RwLock::new(vec![Box::default(); DIRECTIVES.len()]),
            output_limits: RwLock::new(OUTPUT_LIMITS),
            file: None,
            renamed: Vec::new(),
            save_seen: false,
        };
        for directive in DIRECTIVES {
            config.put(
                directive.id,
                default_number(directive.kind),
                default_text(directive.kind).as_bytes(),
            );
        }
        config
    }

    /// A number, a size in bytes, the place of a choice, the bits of options, or the length of a text.
    #[inline]
    pub(crate) fn number(&self, id: Id) -> i64 {
        // Relaxed: each value stands alone.
        self.numbers[id as usize].load(Ordering::Relaxed)
    }

    /// A number that cannot be negative.
    #[inline]
    pub(crate) fn size(&self, id: Id) -> usize {
        usize::try_from(self.number(id)).unwrap_or(0)
    }

    /// A flag, or whether a text is not empty.
    #[inline]
    pub(crate) fn is_set(&self, id: Id) -> bool {
        self.number(id) != 0
    }

    /// A text.
    pub(crate) fn text(&self, id: Id) -> Box<[u8]> {
        self.texts.read()[id as usize].clone()
    }

    /// A text as such; bytes that are no UTF-8 are replaced.
    pub(crate) fn string(&self, id: Id) -> String {
        String::from_utf8_lossy(&self.text(id)).into_owned()
    }

    /// The words of a text.
    pub(crate) fn words(&self, id: Id) -> Vec<String> {
        self.string(id)
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect()
    }

    /// Limits of waiting replies of normal clients, replicas and subscribers.
    pub(crate) fn output_limits(&self) -> [OutputLimit; 3] {
        *self.output_limits.read()
    }

    /// The value as CONFIG GET shows it.
    pub(crate) fn show(&self, id: Id) -> Vec<u8> {
        let number = self.number(id);
        match id.directive().kind {
            Kind::Flag(_) => if number != 0 { "yes" } else { "no" }.into(),
            Kind::Integer(..) | Kind::Memory(..) | Kind::Workers => number.to_string().into(),
            Kind::MemoryOrPercent(..) if number < 0 => format!("{}%", -number).into(),
            Kind::MemoryOrPercent(..) => number.to_string().into(),
            Kind::Octal(..) => format!("{number:o}").into(),
            Kind::Choice(_, names) => names[usize::try_from(number).unwrap_or(0)].into(),
            Kind::Options(names) => show_options(names, number).into(),
            Kind::OutputLimits => value::format_output_limits(&self.output_limits()).into(),
            Kind::Directory => match std::env::current_dir() {
                Ok(path) => path.into_os_string().into_encoded_bytes(),
                Err(_) => Vec::new(),
            },
            Kind::Text(_)
            | Kind::Words(_)
            | Kind::Save
            | Kind::Events
            | Kind::Percentiles(_)
            | Kind::OomScores(_) => self.text(id).into(),
        }
    }

    /// The value as a line of a configuration file has it, behind the directive's name.
    pub(crate) fn show_for_file(&self, id: Id) -> Vec<String> {
        let number = self.number(id);
        match id.directive().kind {
            Kind::Memory(..) => vec![value::format_memory(number)],
            Kind::MemoryOrPercent(..) if number >= 0 => vec![value::format_memory(number)],
            Kind::Text(_) | Kind::Events | Kind::Directory => vec![value::quote(&self.show(id))],
            Kind::Save if self.is_set(id) => {
                let words = self.words(id);
                words
                    .as_chunks::<2>()
                    .0
                    .iter()
                    .map(|[seconds, changes]| format!("{seconds} {changes}"))
                    .collect()
            }
            Kind::Words(_) | Kind::Percentiles(_) | Kind::Save if !self.is_set(id) => {
                vec!["\"\"".into()]
            }
            Kind::OutputLimits => {
                let limits = value::OUTPUT_CLASSES.iter().zip(self.output_limits());
                let lines = limits.map(|(class, limit)| {
                    let size =
                        |bytes| value::format_memory(i64::try_from(bytes).unwrap_or(i64::MAX));
                    let class = if *class == "slave" { "replica" } else { class };
                    format!(
                        "{class} {} {} {}",
                        size(limit.hard_bytes),
                        size(limit.soft_bytes),
                        limit.soft_seconds
                    )
                });
                lines.collect()
            }
            _ => vec![String::from_utf8_lossy(&self.show(id)).into_owned()],
        }
    }

    /// Whether the value is the default.
    pub(crate) fn is_default(&self, id: Id) -> bool {
        match id.directive().kind {
            Kind::OutputLimits => self.output_limits() == OUTPUT_LIMITS,
            // Where the server was started is no default that a file could rely on.
            Kind::Directory => false,
            kind => match kind {
                Kind::Text(default)
                | Kind::Words(default)
                | Kind::Percentiles(default)
                | Kind::OomScores(default) => *self.text(id) == *default.as_bytes(),
                Kind::Save | Kind::Events => !self.is_set(id),
                _ => self.number(id) == default_number(kind),
            },
        }
    }

    /// The value in force, for [`Config::restore`].
    pub(crate) fn backup(&self, id: Id) -> Backup {
        let text = match id.directive().kind {
            Kind::Directory => self.show(id).into(),
            _ => self.text(id),
        };
        Backup {
            id,
            number: self.number(id),
            text,
            output_limits: self.output_limits(),
        }
    }

    /// Puts a value back in force.
    pub(crate) fn restore(&self, backup: &Backup) {
        match backup.id.directive().kind {
            Kind::OutputLimits => *self.output_limits.write() = backup.output_limits,
            Kind::Directory => {
                // The directory was the current one a moment ago; if it is gone meanwhile, nothing can be done.
                let _ = std::env::set_current_dir(path_of(&backup.text));
            }
            _ => self.put(backup.id, backup.number, &backup.text),
        }
    }

    /// Sets a value from the words behind a directive's name, as CONFIG SET and configuration files give them.
    ///
    /// # Errors
    /// What is wrong with the value, in Redis's words; nothing is changed then.
    pub(crate) fn set(&self, directive: &Directive, words: &[&[u8]]) -> Result<(), String> {
        let id = directive.id;
        if !directive.kind.takes_words() && words.len() != 1 {
            return Err("wrong number of arguments".into());
        }
        let first = words.first().copied().unwrap_or_default();
        match directive.kind {
            Kind::Flag(_) => {
                let value = match first.to_ascii_lowercase().as_slice() {
                    b"yes" => 1,
                    b"no" => 0,
                    _ => return Err("argument must be 'yes' or 'no'".into()),
                };
                self.put_number(directive, value)
            }
            Kind::Integer(_, least, most) => {
                let value = kvstore::parse_integer(first)
                    .ok_or("argument couldn't be parsed into an integer")?;
                self.put_number(directive, within(value, least, most)?)
            }
            Kind::Workers => {
                let value = kvstore::parse_integer(first)
                    .ok_or("argument couldn't be parsed into an integer")?;
                self.put_number(directive, within(value, 1, 128)?)
            }
            Kind::Memory(_, least, most) => {
                let value = value::parse_memory(first).ok_or("argument must be a memory value")?;
                self.put_number(
                    directive,
                    within(i64::try_from(value).unwrap_or(i64::MAX), least, most)?,
                )
            }
            Kind::MemoryOrPercent(_, most) => {
                if let Some(value) = value::parse_memory(first) {
                    return self.put_number(
                        directive,
                        within(i64::try_from(value).unwrap_or(i64::MAX), 0, most)?,
                    );
                }
                let percent = first
                    .strip_suffix(b"%")
                    .and_then(kvstore::parse_integer)
                    .filter(|&percent| percent >= 0);
                match percent.ok_or("argument must be a memory or percent value")? {
                    percent @ 0..=100 => self.put_number(directive, -percent),
                    _ => Err("percentage argument must be less or equal to 100".into()),
                }
            }
            Kind::Octal(_, most) => {
                let value = std::str::from_utf8(first)
                    .ok()
                    .and_then(|text| i64::from_str_radix(text, 8).ok());
                let value = value.ok_or("argument couldn't be parsed as an octal number")?;
                self.put_number(directive, within(value, 0, most)?)
            }
            Kind::Choice(_, names) => {
                let place = names
                    .iter()
                    .position(|name| name.as_bytes().eq_ignore_ascii_case(first));
                let place = place.ok_or_else(|| one_of(names))?;
                self.put_number(directive, i64::try_from(place).unwrap_or(0))
            }
            Kind::Options(names) => {
                let bits = parse_options(names, words).ok_or_else(|| one_of(names))?;
                if bits & 0b0110 == 0b0110 && names.contains(&"nosave") {
                    return Err(
                        "shutdown-on-signal option can't have both \"save\" and \"nosave\"".into(),
                    );
                }
                self.put_number(directive, bits)
            }
            Kind::Text(default) => {
                if id == Id::DbFilename && first.contains(&b'/') {
                    return Err("dbfilename can't be a path, just a filename".into());
                }
                if id == Id::ProcTitleTemplate && !is_title_template(first) {
                    return Err("template format is invalid or contains unknown variables".into());
                }
                self.refuse_unless_default(directive, first == default.as_bytes())?;
                self.put(id, length(first), first);
                Ok(())
            }
            Kind::Words(default) => {
                let words = if words == [b""] { &[] } else { words };
                if id == Id::Bind && words.len() > BIND_MAX {
                    return Err("Too many bind addresses specified.".into());
                }
                if id == Id::ReplicaOf {
                    check_replica_of(words)?;
                }
                let text = words.join(&b' ');
                self.refuse_unless_default(directive, text == default.as_bytes())?;
                self.put(id, length(&text), &text);
                Ok(())
            }
            Kind::Save => {
                let text = parse_save(words)?;
                self.put(id, length(&text), &text);
                Ok(())
            }
            Kind::Events => {
                let bits = value::parse_events(first)
                    .ok_or("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")?;
                let text = value::format_events(bits);
                self.put(id, length(text.as_bytes()), text.as_bytes());
                Ok(())
            }
            Kind::OutputLimits => {
                let limits = value::parse_output_limits(words, self.output_limits())?;
                *self.output_limits.write() = limits;
                Ok(())
            }
            Kind::Percentiles(_) => {
                let words = if words == [b""] { &[] } else { words };
                let text = parse_percentiles(words)?;
                self.put(id, length(text.as_bytes()), text.as_bytes());
                Ok(())
            }
            Kind::OomScores(_) => {
                let scores = parse_oom_scores(words)?;
                self.put(id, length(scores.as_bytes()), scores.as_bytes());
                Ok(())
            }
            Kind::Directory => {
                std::env::set_current_dir(path_of(first)).map_err(|error| os_text(&error))
            }
        }
    }

    /// Sets a value as [`Config::set`] does while configuration files are read, where `save` adds up.
    pub(crate) fn set_at_start(
        &mut self,
        directive: &Directive,
        words: &[&[u8]],
    ) -> Result<(), String> {
        if directive.id != Id::Save {
            return self.set(directive, words);
        }
        let before = if self.save_seen && words != [b""] {
            self.text(Id::Save)
        } else {
            Box::default()
        };
        self.set(directive, words)?;
        self.save_seen = true;
        if !before.is_empty() {
            let text = [&before[..], &self.text(Id::Save)].join(&b' ');
            self.put(Id::Save, length(&text), &text);
        }
        Ok(())
    }

    /// Names of the directives that are set to something else than their default though they do nothing here.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let idle = |directive: &&Directive| {
            directive.standing == Standing::Accepted && !self.is_default(directive.id)
        };
        DIRECTIVES
            .iter()
            .filter(idle)
            .map(|directive| directive.name)
            .collect()
    }

    fn put_number(&self, directive: &Directive, value: i64) -> Result<(), String> {
        self.refuse_unless_default(directive, value == default_number(directive.kind))?;
        self.numbers[directive.id as usize].store(value, Ordering::Relaxed);
        Ok(())
    }

    fn refuse_unless_default(&self, directive: &Directive, is_default: bool) -> Result<(), String> {
        if directive.standing == Standing::DefaultOnly && !is_default {
            return Err(format!(
                "this server does not support '{}' with another value than its default",
                directive.name
            ));
        }
        Ok(())
    }

    fn put(&self, id: Id, number: i64, text: &[u8]) {
        let mut texts = self.texts.write();
        if *texts[id as usize] != *text {
            texts[id as usize] = text.into();
        }
        self.numbers[id as usize].store(number, Ordering::Relaxed);
    }
}

impl Directive {
    /// Whether the directive can be set while the server runs.
    pub(crate) fn can_change(&self) -> bool {
        !matches!(self.access, Access::AtStart | Access::HiddenAtStart)
    }

    /// Whether patterns do not find it.
    pub(crate) fn is_hidden(&self) -> bool {
        matches!(self.access, Access::Hidden | Access::HiddenAtStart)
    }
}

/// The text of an operating system's error, without the number that the standard library adds.
pub(crate) fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn default_number(kind: Kind) -> i64 {
    match kind {
        Kind::Flag(default) => i64::from(default),
        Kind::Integer(default, ..)
        | Kind::Memory(default, ..)
        | Kind::MemoryOrPercent(default, _)
        | Kind::Octal(default, _) => default,
        Kind::Choice(default, _) => i64::try_from(default).unwrap_or(0),
        Kind::Workers => default_workers(),
        Kind::Options(_) | Kind::OutputLimits | Kind::Directory => 0,
        Kind::Text(_)
        | Kind::Words(_)
        | Kind::Save
        | Kind::Events
        | Kind::Percentiles(_)
        | Kind::OomScores(_) => length(default_text(kind).as_bytes()),
    }
}

fn default_text(kind: Kind) -> &'static str {
    match kind {
        Kind::Text(default)
        | Kind::Words(default)
        | Kind::Percentiles(default)
        | Kind::OomScores(default) => default,
        _ => "",
    }
}

fn length(text: &[u8]) -> i64 {
    i64::try_from(text.len()).unwrap_or(i64::MAX)
}

fn path_of(text: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    PathBuf::from(std::ffi::OsStr::from_bytes(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(config: &Config, name: &str, value: &str) -> Result<(), String> {
        let directive = directive::find(name.as_bytes()).unwrap();
        let words: Vec<&[u8]> = if directive.kind.takes_words() {
            value.split(' ').map(str::as_bytes).collect()
        } else {
            vec![value.as_bytes()]
        };
        config.set(directive, &words)
    }

    fn show(config: &Config, name: &str) -> String {
        String::from_utf8(config.show(directive::find(name.as_bytes()).unwrap().id)).unwrap()
    }

    #[test]
    fn every_value_can_be_set_to_what_is_shown() {
        let config = Config::defaults();
        for directive in DIRECTIVES {
            let shown = config.show(directive.id);
            let text = String::from_utf8(shown.clone()).unwrap();
            set(&config, directive.name, &text)
                .unwrap_or_else(|error| panic!("{} '{text}': {error}", directive.name));
            assert_eq!(config.show(directive.id), shown, "{}", directive.name);
            assert!(
                directive.id == Id::Dir || config.is_default(directive.id),
                "{}",
                directive.name
            );
        }
    }

    #[test]
    fn values_are_checked_in_the_words_of_redis() {
        let config = Config::defaults();
        let refused = [
            ("maxmemory", "lots", "argument must be a memory value"),
            (
                "timeout",
                "-1",
                "argument must be between 0 and 2147483647 inclusive",
            ),
            (
                "timeout",
                "x",
                "argument couldn't be parsed into an integer",
            ),
            ("protected-mode", "maybe", "argument must be 'yes' or 'no'"),
            (
                "maxmemory-clients",
                "200%",
                "percentage argument must be less or equal to 100",
            ),
            (
                "maxmemory-clients",
                "x",
                "argument must be a memory or percent value",
            ),
            (
                "loglevel",
                "x",
                "argument(s) must be one of the following: debug, verbose, notice, warning, nothing",
            ),
            ("save", "1", "Invalid save parameters"),
            (
                "notify-keyspace-events",
                "Q",
                "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.",
            ),
            (
                "appendonly",
                "yes",
                "this server does not support 'appendonly' with another value than its default",
            ),
        ];
        for (name, value, error) in refused {
            let before = show(&config, name);
            assert_eq!(set(&config, name, value), Err(error.to_owned()));
            assert_eq!(show(&config, name), before);
        }
    }

    #[test]
    fn values_are_shown_in_the_words_of_redis() {
        let config = Config::defaults();
        let pairs = [
            ("maxmemory", "700mb", "734003200"),
            ("maxmemory-clients", "5%", "5%"),
            ("shutdown-on-sigterm", "force nosave", "nosave force"),
            ("save", "900 1 100 100", "900 1 100 100"),
            ("save", "", ""),
            ("bind", "127.0.0.1 -::1", "127.0.0.1 -::1"),
            ("latency-tracking-info-percentiles", "50.0 99.9", "50 99.9"),
            ("notify-keyspace-events", "KEA", "AKE"),
        ];
        for (name, value, shown) in pairs {
            set(&config, name, value).unwrap();
            assert_eq!(show(&config, name), shown);
        }
    }

    #[test]
    fn a_backup_takes_changes_back() {
        let config = Config::defaults();
        for (name, value) in [
            ("maxmemory", "1gb"),
            ("requirepass", "secret"),
            ("client-output-buffer-limit", "normal 1 2 3"),
        ] {
            let id = directive::find(name.as_bytes()).unwrap().id;
            let (backup, before) = (config.backup(id), show(&config, name));
            set(&config, name, value).unwrap();
            assert_ne!(show(&config, name), before);
            config.restore(&backup);
            assert_eq!(show(&config, name), before);
        }
    }
}
