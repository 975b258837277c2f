//! The slow log: the commands that took longer than `slowlog-log-slower-than`, the newest first.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Most arguments of a command that are kept; the last of them tells how many more there were.
const ARGS_MAX: usize = 32;

/// Most bytes of an argument that are kept.
const ARG_BYTES_MAX: usize = 128;

/// One slow command.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Unique number, ascending.
    pub(crate) id: u64,
    /// When it ran, in seconds of Unix time.
    pub(crate) unix_seconds: u64,
    /// How long it took, in microseconds.
    pub(crate) duration_us: u64,
    /// Its arguments, shortened.
    pub(crate) args: Vec<Vec<u8>>,
    /// The client's address.
    pub(crate) peer: String,
    /// The client's name.
    pub(crate) name: Vec<u8>,
}

#[derive(Debug, Default)]
struct Entries {
    list: VecDeque<Entry>,
    next_id: u64,
}

/// The slow log.
#[derive(Debug, Default)]
pub(crate) struct SlowLog {
    entries: Mutex<Entries>,
}

impl SlowLog {
    /// Adds a command and drops the oldest ones beyond `max` entries. `entry.id` is given here.
    pub(crate) fn push(&self, mut entry: Entry, max: usize) {
        let mut entries = self.entries.lock();
        entry.id = entries.next_id;
        entries.next_id += 1;
        entries.list.push_front(entry);
        entries.list.truncate(max);
    }

    /// The newest `count` entries.
    pub(crate) fn newest(&self, count: usize) -> Vec<Entry> {
        self.entries
            .lock()
            .list
            .iter()
            .take(count)
            .cloned()
            .collect()
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.lock().list.len()
    }

    /// Drops all entries.
    pub(crate) fn clear(&self) {
        self.entries.lock().list = VecDeque::new();
    }
}

/// Shortens the arguments of a command to what the slow log keeps.
pub(crate) fn shorten<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let count = args.len();
    let kept = if count > ARGS_MAX {
        ARGS_MAX - 1
    } else {
        count
    };
    let mut shortened: Vec<Vec<u8>> = args.take(kept).map(shorten_argument).collect();
    if count > kept {
        shortened.push(format!("... ({} more arguments)", count - kept).into_bytes());
    }
    shortened
}

fn shorten_argument(argument: &[u8]) -> Vec<u8> {
    if argument.len() <= ARG_BYTES_MAX {
        return argument.to_vec();
    }
    let mut shortened = argument[..ARG_BYTES_MAX].to_vec();
    shortened.extend(format!("... ({} more bytes)", argument.len() - ARG_BYTES_MAX).into_bytes());
    shortened
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_commands_are_shortened() {
        let long = [b'x'; 130];
        let args: Vec<&[u8]> = (0..40).map(|_| &long[..]).collect();
        let kept = shorten(args.iter().copied());
        assert_eq!(kept.len(), 32);
        assert!(kept[0].ends_with(b"x... (2 more bytes)"));
        assert_eq!(kept[31], b"... (9 more arguments)");
        assert_eq!(shorten(args[..32].iter().copied()).len(), 32);
    }

    #[test]
    fn the_newest_entries_stay() {
        let log = SlowLog::default();
        let entry = Entry {
            id: 0,
            unix_seconds: 1,
            duration_us: 2,
            args: Vec::new(),
            peer: String::new(),
            name: Vec::new(),
        };
        for _ in 0..5 {
            log.push(entry.clone(), 3);
        }
        assert_eq!(
            log.newest(2)
                .iter()
                .map(|entry| entry.id)
                .collect::<Vec<_>>(),
            vec![4, 3]
        );
        assert_eq!(log.len(), 3);
        log.clear();
        assert_eq!(log.len(), 0);
    }
}
