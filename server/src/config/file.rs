//! Configuration files and the command line.
//!
//! ```text
//! slabkv-server [FILE] [-] [--directive value ...]
//! ```
//!
//! The command line's options read as further lines behind the file and the standard input: `--port 6380` is the line
//! `port 6380`. So the last one wins, wherever it stands.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::directive::{self, DROPPED};
use crate::config::value::quote;
use crate::resp::parse::split_words;

/// How deep files may include one another.
const INCLUDE_DEPTH_MAX: usize = 16;

/// What the command line asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// A file to read.
    pub(crate) file: Option<PathBuf>,
    /// Whether the standard input is read, too.
    pub(crate) stdin: bool,
    /// Further lines, in the syntax of a file.
    pub(crate) lines: String,
}

/// Reads the words of the command line behind the program's name.
///
/// The grammar is Redis's: a word that begins with `--` is a directive, unless the word before it was one that still
/// lacks its value; a directive and its value may be one word.
pub(crate) fn parse_command_line(words: &[String]) -> CommandLine {
    let mut parsed = CommandLine::default();
    let mut rest = words;
    if let Some(first) = words.first()
        && !first.starts_with('-')
    {
        parsed.file = Some(PathBuf::from(first));
        rest = &words[1..];
    }
    let lines = &mut parsed.lines;
    let mut value_seen = true;
    for (at, word) in rest.iter().enumerate() {
        let is_last = at + 1 == rest.len();
        if word == "-" && (at == 0 || is_last) {
            parsed.stdin = true;
        } else if let Some(option) = word.strip_prefix("--").filter(|_| value_seen) {
            if !lines.is_empty() {
                lines.push('\n');
            }
            lines.push_str(option);
            lines.push(' ');
            let alone = split_words(word.as_bytes()).is_some_and(|parts| parts.len() == 1);
            value_seen = !alone;
            // `--save` without a value means that nothing is saved.
            let followed_by_option = rest.get(at + 1).is_some_and(|next| next.starts_with("--"));
            if alone && option.eq_ignore_ascii_case("save") && (is_last || followed_by_option) {
                lines.push_str("\"\"");
                value_seen = true;
            }
        } else {
            lines.push_str(&quote(word.as_bytes()));
            lines.push(' ');
            value_seen = true;
        }
    }
    parsed
}

/// A line that cannot be understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LineError {
    /// Number of the line, from 1 on; 0 if it is no line's fault.
    number: usize,
    line: String,
    reason: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = env!("CARGO_PKG_VERSION");
        writeln!(f, "\n*** FATAL CONFIG FILE ERROR (slabkv {version}) ***")?;
        if self.number > 0 {
            writeln!(f, "Reading the configuration file, at line {}", self.number)?;
            writeln!(f, ">>> '{}'", self.line)?;
        }
        write!(f, "{}", self.reason)
    }
}

impl Config {
    /// Reads what the command line asks for: its file, then the standard input, then its options.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub(crate) fn load(&mut self, command_line: &CommandLine) -> Result<(), LineError> {
        let mut text = String::new();
        if let Some(file) = &command_line.file {
            text = read(file)?;
            let absolute = std::path::absolute(file).unwrap_or_else(|_| file.clone());
            self.file = Some(absolute);
        }
        if command_line.stdin {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .map_err(|error| LineError {
                    number: 0,
                    line: String::new(),
                    reason: format!(
                        "Fatal error, can't read the standard input: {}",
                        super::os_text(&error)
                    ),
                })?;
            text.push('\n');
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        text.push('\n');
        text.push_str(&command_line.lines);
        self.load_text(&text, 0)
    }

    fn load_text(&mut self, text: &str, depth: usize) -> Result<(), LineError> {
        for (at, line) in text.split('\n').enumerate() {
            let line = line.trim_matches([' ', '\t', '\r', '\n']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fail = |reason: String| LineError {
                number: at + 1,
                line: line.to_owned(),
                reason,
            };
            let words = split_words(line.as_bytes())
                .ok_or_else(|| fail("Unbalanced quotes in configuration line".into()))?;
            if let Some((name, values)) = words.split_first() {
                let include = self.load_line(name, values).map_err(fail)?;
                if let Some(path) = include {
                    if depth == INCLUDE_DEPTH_MAX {
                        return Err(fail(format!(
                            "more than {INCLUDE_DEPTH_MAX} files include one another"
                        )));
                    }
                    for path in expand(&path) {
                        let text = read(&path)?;
                        self.load_text(&text, depth + 1)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes one line in force; returns the path that it includes, if it does.
    fn load_line(&mut self, name: &[u8], values: &[Vec<u8>]) -> Result<Option<PathBuf>, String> {
        if let Some(directive) = directive::find(name) {
            let split;
            let values = match values {
                [all] if directive.kind.takes_words() && !all.is_empty() => {
                    split = split_words(all).ok_or("Unbalanced quotes in configuration line")?;
                    &split[..]
                }
                values => values,
            };
            let words: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            self.set_at_start(directive, &words)?;
            return Ok(None);
        }
        match (name.to_ascii_lowercase().as_slice(), values) {
            (b"include", [path]) => Ok(Some(super::path_of(path))),
            (b"rename-command", [from, to]) => {
                self.renamed.push((from.clone(), to.clone()));
                Ok(None)
            }
            (b"loadmodule", [_, ..]) => Err("this server has no modules".into()),
            (b"user", [_, ..]) => Err("this server has no users but the default one".into()),
            (name, [_]) if DROPPED.iter().any(|dropped| dropped.as_bytes() == name) => Ok(None),
            _ => Err("Bad directive or wrong number of arguments".into()),
        }
    }
}

fn read(path: &Path) -> Result<String, LineError> {
    let bytes = std::fs::read(path).map_err(|error| LineError {
        number: 0,
        line: String::new(),
        reason: format!(
            "Fatal error, can't open config file '{}': {}",
            path.display(),
            super::os_text(&error)
        ),
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The files that a path with `*`, `?` or `[...]` in its last part stands for, in order; a plain path is itself.
fn expand(path: &Path) -> Vec<PathBuf> {
    let Some(pattern) = path
        .file_name()
        .map(|name| name.as_encoded_bytes().to_vec())
    else {
        return vec![path.to_owned()];
    };
    if !pattern.iter().any(|byte| b"*?[".contains(byte)) {
        return vec![path.to_owned()];
    }
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let matches =
        |name: &[u8]| !name.starts_with(b".") && crate::glob::Pattern::new(&pattern).matches(name);
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| matches(entry.file_name().as_encoded_bytes()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> CommandLine {
        parse_command_line(
            &words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    fn loaded(text: &str) -> Result<Config, String> {
        let mut config = Config::defaults();
        config.load_text(text, 0).map_err(|error| error.reason)?;
        Ok(config)
    }

    fn show(config: &Config, name: &str) -> String {
        String::from_utf8(config.show(directive::find(name.as_bytes()).unwrap().id)).unwrap()
    }

    #[test]
    fn options_read_as_lines() {
        assert_eq!(
            line(&["a.conf", "--port", "6380"]).file,
            Some("a.conf".into())
        );
        assert_eq!(
            line(&["--port", "6380", "--loglevel", "verbose"]).lines,
            "port \"6380\" \nloglevel \"verbose\" "
        );
        assert_eq!(
            line(&["--maxmemory 700mb", "--port", "1"]).lines,
            "maxmemory 700mb \nport \"1\" "
        );
        assert_eq!(
            line(&["--save", "--loglevel", "debug"]).lines,
            "save \"\"\nloglevel \"debug\" "
        );
        assert_eq!(line(&["--port", "--bla"]).lines, "port \"--bla\" ");
        assert!(line(&["-"]).stdin && line(&["--port", "1", "-"]).stdin);
    }

    #[test]
    fn files_are_read_as_redis_reads_them() {
        let text = "# comment\n\n  PORT 7000 \r\nsave 900 1\nsave 300 10\nmaxmemory 1gb\nslave-priority 7\n\
                    client-output-buffer-limit normal 1mb 2mb 3\nrename-command CONFIG \"\"\nlua-replicate-commands yes\n\
                    shutdown-on-sigterm \"nosave force\"\nlogfile ''";
        let config = loaded(text).unwrap();
        assert_eq!(show(&config, "port"), "7000");
        assert_eq!(show(&config, "save"), "900 1 300 10");
        assert_eq!(show(&config, "replica-priority"), "7");
        assert_eq!(show(&config, "shutdown-on-sigterm"), "nosave force");
        assert!(
            show(&config, "client-output-buffer-limit")
                .starts_with("normal 1048576 2097152 3 slave")
        );
        assert_eq!(config.renamed, vec![(b"CONFIG".to_vec(), Vec::new())]);
        assert_eq!(show(&loaded("save 900 1\nsave \"\"").unwrap(), "save"), "");
    }

    #[test]
    fn wrong_lines_are_told() {
        for (text, reason) in [
            ("port", "wrong number of arguments"),
            ("port 1 2", "wrong number of arguments"),
            ("nonsense 1", "Bad directive or wrong number of arguments"),
            ("port \"1", "Unbalanced quotes in configuration line"),
            ("port --bla", "argument couldn't be parsed into an integer"),
            ("replicaof 127.0.0.1 abc", "Invalid master port"),
            (
                "shutdown-on-sigint",
                "argument(s) must be one of the following: default, save, nosave, now, force",
            ),
        ] {
            assert_eq!(loaded(text).map(|_| ()), Err(reason.to_owned()), "{text}");
        }
    }

    #[test]
    fn includes_are_read_in_place_and_may_not_go_round_in_circles() {
        let folder = std::env::temp_dir().join(format!("slabkv-include-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        std::fs::write(
            path("a.conf"),
            format!("port 1\ninclude {}\ntimeout 3", path("parts-*.conf")),
        )
        .unwrap();
        std::fs::write(path("parts-1.conf"), "port 2\ntimeout 2").unwrap();
        std::fs::write(path("parts-2.conf"), "hz 20").unwrap();
        std::fs::write(
            path("circle.conf"),
            format!("include {}", path("circle.conf")),
        )
        .unwrap();
        let config = loaded(&format!("include {}", path("a.conf"))).unwrap();
        let shown = ["port", "timeout", "hz"].map(|name| show(&config, name));
        assert_eq!(shown, ["2", "3", "20"]);
        assert!(loaded(&format!("include {}", path("circle.conf"))).is_err());
        assert!(loaded(&format!("include {}", path("missing.conf"))).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
