//! The slow log: the commands that took longer than `slowlog-log-slower-than`, the newest first.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::clock::{Ticks, ticks_to_ns};
use crate::process::{ThreadUsage, thread_usage};

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
    /// How long it took, in microseconds, waiting for its shards included.
    pub(crate) duration_us: u64,
    /// What of this was waiting.
    pub(crate) waits: Waits,
    /// Its arguments, shortened.
    pub(crate) args: Vec<Vec<u8>>,
    /// The client's address.
    pub(crate) peer: String,
    /// The client's name.
    pub(crate) name: Vec<u8>,
}

/// What a slow command waited for.
///
/// The system counts faults for each thread, and asking it for each command would cost more than most commands. So a
/// worker asks at most once in a millisecond, before it runs what it has read, and again after a slow command: what is
/// told of a command was counted from the last such moment on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waits {
    /// For other threads that had one of its shards, in microseconds.
    pub(crate) lock_us: u64,
    /// For how long its thread was off the processor while it ran, at least, in microseconds: for a page from the disk,
    /// or because others had their turn.
    pub(crate) off_cpu_us: u64,
    /// Faults for which a page had only to be put into place.
    pub(crate) minor_faults: u64,
    /// Faults that had to wait for a disk.
    pub(crate) major_faults: u64,
    /// For how long the faults were counted until the command ended, in microseconds.
    pub(crate) counted_us: u64,
}

/// What a thread had used when it was last looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    at: Ticks,
    usage: ThreadUsage,
}

/// A worker's last look at what it uses.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<Option<Look>>);

impl Watch {
    /// From when on a look counts as old, in nanoseconds.
    pub(crate) const OLD_NS: u64 = 1_000_000;

    /// Looks. To be called by the worker itself.
    #[cold]
    pub(crate) fn look(&self) {
        *self.0.lock() = Some(Look {
            at: Ticks::now(),
            usage: thread_usage(),
        });
    }

    /// Looks, and tells what the command that ends now waited for, which ran for `ran_ns` after it had waited for
    /// `lock_ns`. To be called by the worker itself.
    pub(crate) fn waits(&self, ran_ns: u64, lock_ns: u64) -> Waits {
        let (now, usage) = (Ticks::now(), thread_usage());
        let before = self.0.lock().replace(Look { at: now, usage });
        let lock_us = lock_ns / 1000;
        let Some(before) = before else {
            return Waits {
                lock_us,
                ..Waits::default()
            };
        };
        let cpu_ns = usage.cpu.saturating_sub(before.usage.cpu).as_nanos() as u64;
        Waits {
            lock_us,
            off_cpu_us: ran_ns.saturating_sub(cpu_ns) / 1000,
            minor_faults: usage.minor_faults - before.usage.minor_faults,
            major_faults: usage.major_faults - before.usage.major_faults,
            counted_us: ticks_to_ns(now.since(before.at)) / 1000,
        }
    }
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
    fn faults_and_time_off_the_processor_are_counted_since_the_last_look() {
        let watch = Watch::default();
        let unknown = watch.waits(1_000_000, 7_000);
        let nothing = Waits {
            lock_us: 7,
            ..Waits::default()
        };
        assert_eq!(unknown, nothing);
        // By the same counter, whose rate is known the better the longer the process runs.
        let before = Ticks::now();
        watch.look();
        let looked = Ticks::now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let asked = Ticks::now();
        let waits = watch.waits(1 << 40, 0);
        let after = Ticks::now();
        let us = |from: Ticks, to: Ticks| ticks_to_ns(to.since(from)) / 1000;
        let (least, most) = (us(looked, asked) * 99 / 100, us(before, after) * 101 / 100);
        assert!(least > 10_000, "{least}");
        assert!(
            (least..=most).contains(&waits.counted_us),
            "{waits:?}, {least} to {most}"
        );
        assert!(waits.off_cpu_us > 1 << 29, "{waits:?}");
        // A command that ran for less than its thread's own time did not wait.
        watch.look();
        let busy = crate::process::thread_usage().cpu + std::time::Duration::from_millis(5);
        while crate::process::thread_usage().cpu < busy {}
        assert_eq!(watch.waits(4_000_000, 0).off_cpu_us, 0);
    }

    #[test]
    fn the_newest_entries_stay() {
        let log = SlowLog::default();
        let entry = Entry {
            id: 0,
            unix_seconds: 1,
            duration_us: 2,
            waits: Waits::default(),
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
