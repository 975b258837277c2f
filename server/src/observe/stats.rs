//! Counters. Each worker owns a set and is its only writer, so counting is a plain load and store; a reader sums over
//! the workers. A reset notes the sums of that moment, which later sums are reduced by, so it need not stop a writer.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock::ns_per_tick;
use crate::observe::histogram::{Counts, Durations, Spread};
use crate::observe::slowlog::Watch;

/// A counter with one writer and any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `by`. Only the owner calls this.
    #[inline]
    pub(crate) fn add(&self, by: u64) {
        // Relaxed, load and store: there is one writer, and readers need no order between counters.
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(by),
            Ordering::Relaxed,
        );
    }

    /// Makes it at least `value`. Only the owner calls this.
    #[inline]
    pub(crate) fn raise(&self, value: u64) {
        if value > self.get() {
            self.0.store(value, Ordering::Relaxed);
        }
    }

    /// The value.
    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One command's figures in one worker.
#[derive(Debug, Default)]
pub(crate) struct CommandCounters {
    /// Times run.
    pub(crate) calls: Counter,
    /// Ticks spent.
    pub(crate) ticks: Counter,
    /// Times refused before it ran.
    pub(crate) rejected: Counter,
    /// Times it failed.
    pub(crate) failed: Counter,
    durations: OnceLock<Durations>,
}

impl CommandCounters {
    /// Counts a duration in the command's histogram.
    #[inline]
    pub(crate) fn record(&self, ns: u64) {
        self.durations.get_or_init(Durations::new).record(ns);
    }
}

macro_rules! totals {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// What a worker counts beside commands.
        #[derive(Debug, Default)]
        pub(crate) struct Totals { $( $(#[$doc])* pub(crate) $name: Counter, )* }

        /// Sums over the workers.
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct TotalSums { $( $(#[$doc])* pub(crate) $name: u64, )* }

        impl TotalSums {
            fn add(&mut self, totals: &Totals) {
                $( self.$name = self.$name.wrapping_add(totals.$name.get()); )*
            }

            fn since(self, earlier: &Self) -> Self {
                Self { $( $name: self.$name.wrapping_sub(earlier.$name), )* }
            }
        }
    };
}

totals! {
    /// Connections accepted.
    connections,
    /// Connections turned away because there were too many.
    rejected_connections,
    /// Commands run.
    commands,
    /// Commands run that may change data.
    write_commands,
    /// Error replies.
    errors,
    /// Bytes read from clients.
    input_bytes,
    /// Bytes written to clients.
    output_bytes,
    /// Reads from sockets.
    reads,
    /// Writes to sockets.
    writes,
    /// Clients cut off because a request was too long.
    query_limit_closes,
    /// Clients cut off because they did not read their replies.
    output_limit_closes,
    /// Clients cut off because clients took too much memory together.
    evicted_clients,
    /// Wrong passwords.
    denied_auth,
    /// Passes of the event loop that found something to do.
    loops,
    /// Ticks spent in such passes.
    loop_ticks,
    /// Ticks spent running commands.
    command_ticks,
    /// Ticks spent on maintenance.
    maintenance_ticks,
}

/// One worker's figures.
#[derive(Debug)]
pub(crate) struct WorkerStats {
    /// By index in the command table.
    pub(crate) commands: Box<[CommandCounters]>,
    /// All others.
    pub(crate) totals: Totals,
    /// Most commands run in one pass of the event loop.
    pub(crate) commands_per_loop_max: Counter,
    /// Ticks of the longest pass.
    pub(crate) loop_ticks_max: Counter,
    /// What the worker's thread has used, for the slow log.
    pub(crate) watch: Watch,
    errors: Mutex<HashMap<Box<[u8]>, u64>>,
}

/// Most kinds of errors that are told apart.
const ERROR_KINDS_MAX: usize = 128;

/// Under this name all further kinds are counted.
const ERROR_OVERFLOW: &[u8] = b"ERRORSTATS_OVERFLOW";

impl WorkerStats {
    /// All zero.
    pub(crate) fn new(commands: usize) -> Self {
        Self {
            commands: (0..commands).map(|_| CommandCounters::default()).collect(),
            totals: Totals::default(),
            commands_per_loop_max: Counter::default(),
            loop_ticks_max: Counter::default(),
            watch: Watch::default(),
            errors: Mutex::new(HashMap::new()),
        }
    }

    /// Counts an error reply by its first word.
    #[cold]
    pub(crate) fn count_error(&self, text: &[u8]) {
        self.totals.errors.add(1);
        let code = text.split(|&byte| byte == b' ').next().unwrap_or(text);
        let mut errors = self.errors.lock();
        if let Some(count) = errors.get_mut(code) {
            *count += 1;
            return;
        }
        let code = if errors.len() < ERROR_KINDS_MAX {
            code
        } else {
            ERROR_OVERFLOW
        };
        *errors.entry(code.into()).or_default() += 1;
    }
}

/// One command's figures over all workers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommandSums {
    /// Times run.
    pub(crate) calls: u64,
    /// Ticks spent.
    ticks: u64,
    /// Times refused before it ran.
    pub(crate) rejected: u64,
    /// Times it failed.
    pub(crate) failed: u64,
}

impl CommandSums {
    /// Time spent, in microseconds.
    pub(crate) fn duration_us(&self) -> u64 {
        ticks_to_us(self.ticks)
    }

    fn since(self, earlier: &Self) -> Self {
        Self {
            calls: self.calls.wrapping_sub(earlier.calls),
            ticks: self.ticks.wrapping_sub(earlier.ticks),
            rejected: self.rejected.wrapping_sub(earlier.rejected),
            failed: self.failed.wrapping_sub(earlier.failed),
        }
    }
}

/// Ticks as microseconds.
pub(crate) fn ticks_to_us(ticks: u64) -> u64 {
    (ticks as f64 * ns_per_tick() / 1000.0) as u64
}

/// Sums at the last reset.
#[derive(Debug, Default)]
struct Baseline {
    commands: Vec<CommandSums>,
    durations: HashMap<usize, Counts>,
    totals: TotalSums,
    errors: BTreeMap<Box<[u8]>, u64>,
}

/// The figures of all workers.
#[derive(Debug)]
pub(crate) struct Stats {
    workers: Box<[WorkerStats]>,
    baseline: Mutex<Baseline>,
}

impl Stats {
    /// All zero.
    pub(crate) fn new(workers: usize, commands: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| WorkerStats::new(commands)).collect(),
            baseline: Mutex::new(Baseline {
                commands: vec![CommandSums::default(); commands],
                ..Baseline::default()
            }),
        }
    }

    /// One worker's figures.
    pub(crate) fn worker(&self, index: usize) -> &WorkerStats {
        &self.workers[index]
    }

    /// The largest value of a figure among the workers.
    pub(crate) fn max(&self, figure: impl Fn(&WorkerStats) -> &Counter) -> u64 {
        self.workers
            .iter()
            .map(|worker| figure(worker).get())
            .max()
            .unwrap_or(0)
    }

    /// Sums since the last reset.
    pub(crate) fn totals(&self) -> TotalSums {
        self.all_totals().since(&self.baseline.lock().totals)
    }

    /// Sums since the start.
    pub(crate) fn all_totals(&self) -> TotalSums {
        let mut sums = TotalSums::default();
        self.workers
            .iter()
            .for_each(|worker| sums.add(&worker.totals));
        sums
    }

    /// A command's figures since the last reset.
    pub(crate) fn command(&self, index: usize) -> CommandSums {
        self.all_of_command(index)
            .since(&self.baseline.lock().commands[index])
    }

    fn all_of_command(&self, index: usize) -> CommandSums {
        let mut sums = CommandSums::default();
        for counters in self.workers.iter().map(|worker| &worker.commands[index]) {
            sums.calls = sums.calls.wrapping_add(counters.calls.get());
            sums.ticks = sums.ticks.wrapping_add(counters.ticks.get());
            sums.rejected = sums.rejected.wrapping_add(counters.rejected.get());
            sums.failed = sums.failed.wrapping_add(counters.failed.get());
        }
        sums
    }

    /// The durations of a command's calls since the last reset; `None` if it never ran while durations were counted.
    pub(crate) fn durations(&self, index: usize) -> Option<Counts> {
        let counts = self.all_durations(index)?;
        Some(match self.baseline.lock().durations.get(&index) {
            Some(earlier) => counts.since(earlier),
            None => counts,
        })
    }

    fn all_durations(&self, index: usize) -> Option<Counts> {
        let mut durations = self
            .workers
            .iter()
            .filter_map(|worker| worker.commands[index].durations.get())
            .peekable();
        durations.peek()?;
        Some(Counts::sum(durations))
    }

    /// Durations of all commands since the start.
    pub(crate) fn spread(&self) -> Spread {
        let commands = self.workers.iter().flat_map(|worker| &worker.commands);
        Spread::sum(commands.filter_map(|command| command.durations.get()))
    }

    /// Error replies since the last reset, by their first word, in alphabetical order.
    pub(crate) fn errors(&self) -> Vec<(Box<[u8]>, u64)> {
        let baseline = self.baseline.lock();
        let since = |(code, count): (Box<[u8]>, u64)| {
            let earlier = baseline.errors.get(&code).copied().unwrap_or(0);
            (count > earlier).then(|| (code, count - earlier))
        };
        self.all_errors().into_iter().filter_map(since).collect()
    }

    fn all_errors(&self) -> BTreeMap<Box<[u8]>, u64> {
        let mut sums = BTreeMap::<Box<[u8]>, u64>::new();
        for worker in &self.workers {
            for (code, count) in &*worker.errors.lock() {
                *sums.entry(code.clone()).or_default() += count;
            }
        }
        sums
    }

    /// Sets everything to zero.
    pub(crate) fn reset(&self) {
        let mut baseline = self.baseline.lock();
        baseline.totals = self.all_totals();
        baseline.errors = self.all_errors();
        for index in 0..baseline.commands.len() {
            baseline.commands[index] = self.all_of_command(index);
        }
        drop(baseline);
        self.reset_durations(|_| true);
    }

    /// Forgets the durations of the commands that `which` names; returns how many had any.
    pub(crate) fn reset_durations(&self, which: impl Fn(usize) -> bool) -> usize {
        let mut baseline = self.baseline.lock();
        let commands = 0..baseline.commands.len();
        let mut reset = 0;
        for index in commands.filter(|&index| which(index)) {
            if let Some(counts) = self.all_durations(index) {
                baseline.durations.insert(index, counts);
                reset += 1;
            }
        }
        reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_run_over_workers_and_start_again_after_a_reset() {
        let stats = Stats::new(2, 3);
        for worker in [0, 1] {
            let worker = stats.worker(worker);
            worker.commands[1].calls.add(2);
            worker.commands[1].record(5_000);
            worker.totals.commands.add(2);
            worker.count_error(b"ERR no such thing");
        }
        stats.worker(0).count_error(b"WRONGTYPE x");
        assert_eq!(stats.command(1).calls, 4);
        assert_eq!(stats.durations(1).map(|counts| counts.total()), Some(2));
        assert!(stats.durations(0).is_none());
        assert_eq!(
            stats.errors(),
            vec![(b"ERR"[..].into(), 2), (b"WRONGTYPE"[..].into(), 1)]
        );
        stats.reset();
        assert_eq!(
            (
                stats.command(1).calls,
                stats.totals().commands,
                stats.errors().len()
            ),
            (0, 0, 0)
        );
        assert_eq!(stats.durations(1).map(|counts| counts.total()), Some(0));
        stats.worker(1).commands[1].calls.add(1);
        stats.worker(1).count_error(b"ERR again");
        assert_eq!(
            (stats.command(1).calls, stats.errors()),
            (1, vec![(b"ERR"[..].into(), 1)])
        );
    }

    #[test]
    fn kinds_of_errors_are_limited() {
        let stats = Stats::new(1, 1);
        for kind in 0..ERROR_KINDS_MAX + 5 {
            stats
                .worker(0)
                .count_error(format!("E{kind} text").as_bytes());
        }
        let overflow = stats
            .errors()
            .into_iter()
            .find(|(code, _)| **code == *ERROR_OVERFLOW);
        assert_eq!(overflow.map(|(_, count)| count), Some(5));
    }
}
