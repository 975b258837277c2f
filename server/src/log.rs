//! The log: one line per event, to the standard output or a file, in the format that Redis's tools read.
//!
//! ```text
//! 4711:M 21 Nov 2026 11:25:00.123 * Ready to accept connections tcp
//! PID  role   local time          level
//! ```

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use crate::clock::unix_us;
use crate::process::local_time;

/// How important an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// For developers.
    Debug,
    /// Details that are rarely useful.
    Verbose,
    /// What an operator wants to know.
    Notice,
    /// What an operator has to know.
    Warning,
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// The log.
#[derive(Debug)]
pub(crate) struct Log {
    /// The least level that is written; 4 for none.
    least: AtomicU8,
    /// The file, or the standard output.
    file: Mutex<Option<PathBuf>>,
}

impl Log {
    /// A log to the standard output, or to a file if a path is given. A path is made absolute, so that a change of the
    /// working directory does not move the log.
    pub(crate) fn new(level: i64, path: Option<&Path>) -> Self {
        let log = Self {
            least: AtomicU8::new(0),
            file: Mutex::new(
                path.map(|path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned())),
            ),
        };
        log.set_level(level);
        log
    }

    /// Sets the least level that is written, by its place among the choices of `loglevel`.
    pub(crate) fn set_level(&self, level: i64) {
        self.least
            .store(u8::try_from(level).unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether events of this level are written.
    #[inline]
    pub(crate) fn is_written(&self, level: Level) -> bool {
        level as u8 >= self.least.load(Ordering::Relaxed)
    }

    /// Writes a line.
    pub(crate) fn write(&self, level: Level, message: impl fmt::Display) {
        if !self.is_written(level) {
            return;
        }
        let now_us = unix_us();
        let time = local_time(now_us / 1_000_000);
        let [hour, minute, second] = time.time;
        let line = format!(
            "{}:M {:02} {} {} {hour:02}:{minute:02}:{second:02}.{:03} {} {message}\n",
            std::process::id(),
            time.day,
            MONTHS[usize::try_from(time.month).unwrap_or(0) % 12],
            time.year,
            now_us / 1000 % 1000,
            match level {
                Level::Debug => '.',
                Level::Verbose => '-',
                Level::Notice => '*',
                Level::Warning => '#',
            },
        );
        self.write_raw(&line);
    }

    /// Writes text as it is. A log that cannot be written is no reason to stop serving.
    pub(crate) fn write_raw(&self, text: &str) {
        // The file is opened for each write, so that it can be rotated by renaming it.
        let file = self.file.lock();
        let _ = match &*file {
            Some(path) => OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .and_then(|mut file| file.write_all(text.as_bytes())),
            None => {
                let mut out = std::io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush())
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_format_that_tools_read() {
        let path = std::env::temp_dir().join(format!("slabkv-log-{}", std::process::id()));
        let log = Log::new(2, Some(&path));
        log.write(Level::Verbose, "too talkative");
        log.write(Level::Notice, format_args!("port {}", 1));
        log.set_level(4);
        log.write(Level::Warning, "nothing is written");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let words: Vec<&str> = text.trim_end().split(' ').collect();
        assert_eq!(words[0], format!("{}:M", std::process::id()));
        assert!(
            MONTHS.contains(&words[2]) && words[3].len() == 4 && words[4].len() == 12,
            "{text}"
        );
        assert_eq!(words[5..], ["*", "port", "1"]);
    }
}
