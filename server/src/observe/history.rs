//! How it came to this: the last hour by the second and the last day by the minute.
//!
//! ```text
//! seconds   | 7 | 8 | 9 |   | 31 | 32 | ...     one sample a second while anything changes; a gap where nothing did
//! minutes   | 0         | 1         | ...       of each minute the second with the most resident memory
//! ```
//!
//! A sample is taken by whichever worker first sees that a second has passed, or by the thread that serves the page. A
//! server without anything to do takes none and sleeps: on reading, a gap shows the levels of the sample before it, no
//! events, and no delays. A sample takes two bytes per figure ([`Compact`]); the room for them grows as they come and
//! is at most 500 KiB.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::Mutex;

use crate::observe::compact::Compact;
use crate::observe::histogram::Spread;
use crate::observe::memory::MemoryReport;
use crate::observe::stats::TotalSums;

/// Seconds and minutes that are kept.
pub(crate) const ROWS_MAX: [usize; 2] = [3600, 1440];

/// Samples for which room is made at a time.
const ROOM_STEP: usize = 128;

/// What all samples can take together.
#[cfg(test)]
const BYTES_MAX: usize = (ROWS_MAX[0] + ROWS_MAX[1] + 2 * ROOM_STEP) * size_of::<Sample>();

/// All that is looked at when a sample is taken.
#[derive(Debug)]
pub(crate) struct Observed {
    /// Time since the start.
    pub(crate) at: Duration,
    /// Counters since the start.
    pub(crate) totals: TotalSums,
    /// Where the memory is, and what the keyspace counted.
    pub(crate) memory: MemoryReport,
    /// Connected clients.
    pub(crate) clients: usize,
    /// Processor time of the process.
    pub(crate) cpu: Duration,
    /// Durations of all commands since the start.
    pub(crate) durations: Spread,
}

/// What a figure is measured in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Bytes, or bytes per second.
    Bytes,
    /// A number, or a number per second.
    Count,
    /// Microseconds of processor time per second.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

impl Unit {
    /// As the page and the documents name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Count => "count",
            Self::Microseconds => "us",
            Self::Nanoseconds => "ns",
        }
    }
}

/// How a figure comes about.
#[derive(Clone, Copy)]
enum Source {
    /// What it is at the moment; it stays so until the next sample.
    Level(fn(&Observed) -> u64),
    /// The most resident memory that was seen in the row's time.
    Peak,
    /// How much a counter rose per second.
    Rate(fn(&Observed) -> u64),
    /// The duration that so many of 100,000 commands kept within; of several seconds the worst.
    Percentile(u64),
}

/// One figure.
pub(crate) struct Figure {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it is measured in.
    pub(crate) unit: Unit,
    source: Source,
}

macro_rules! figures {
    ($( $name:literal $unit:ident $kind:ident $( ($source:expr) )?; )*) => {
        /// All figures but the parts of the resident memory, which follow them.
        pub(crate) static FIGURES: &[Figure] = &[
            $( Figure { name: $name, unit: Unit::$unit, source: Source::$kind $( ($source) )? } ),*
        ];
        /// How many they are.
        const FIGURES_LEN: usize = [$( $name ),*].len();
    };
}

figures! {
    "rss" Bytes Level(|o| o.memory.system.resident_bytes);
    "rss_peak" Bytes Peak;
    "used" Bytes Level(|o| o.memory.used_bytes());
    "keys" Count Level(|o| o.memory.keyspace.keys);
    "volatile_keys" Count Level(|o| o.memory.keyspace.volatile_keys);
    "clients" Count Level(|o| o.clients as u64);
    "commands" Count Rate(|o| o.totals.commands);
    "errors" Count Rate(|o| o.totals.errors);
    "input" Bytes Rate(|o| o.totals.input_bytes);
    "output" Bytes Rate(|o| o.totals.output_bytes);
    "hits" Count Rate(|o| o.memory.keyspace.counters.hits);
    "misses" Count Rate(|o| o.memory.keyspace.counters.misses);
    "expired" Count Rate(|o| o.memory.keyspace.counters.expired);
    "evicted" Count Rate(|o| o.memory.keyspace.counters.evicted);
    "compaction_moved" Bytes Rate(|o| o.memory.keyspace.compaction.moved_bytes);
    "compaction_freed" Bytes Rate(|o| o.memory.keyspace.compaction.freed_pages * PAGE_BYTES);
    "compaction_cpu" Microseconds Rate(|o| o.memory.keyspace.compaction.time_ns / 1000);
    "cpu" Microseconds Rate(|o| o.cpu.as_micros() as u64);
    "p50" Nanoseconds Percentile(50_000);
    "p99" Nanoseconds Percentile(99_000);
    "p999" Nanoseconds Percentile(99_900);
    "max" Nanoseconds Percentile(100_000);
}

const PAGE_BYTES: u64 = 4096;

/// Parts of the resident memory.
const PARTS: usize = MemoryReport::PARTS;

/// Figures of a sample.
pub(crate) const WIDTH: usize = FIGURES_LEN + PARTS;

/// The names of all figures of a sample; of parts with `_` for blanks, behind `part_`.
pub(crate) fn names() -> impl Iterator<Item = (String, Unit)> {
    let figures = FIGURES
        .iter()
        .map(|figure| (figure.name.to_owned(), figure.unit));
    let parts = MemoryReport::default().parts();
    let parts = parts
        .into_iter()
        .map(|(name, _)| (format!("part_{}", name.replace(' ', "_")), Unit::Bytes));
    figures.chain(parts)
}

/// What was seen at the end of a second.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The second or the minute since the start that ended.
    number: u32,
    figures: [Compact; WIDTH],
}

impl Sample {
    /// This sample as that of a gap behind it: levels stay, nothing happens.
    fn quiet(&self) -> [Compact; WIDTH] {
        let mut figures = self.figures;
        for (figure, value) in FIGURES.iter().zip(&mut figures) {
            match figure.source {
                Source::Level(_) => {}
                Source::Peak => *value = self.figures[RSS],
                Source::Rate(_) | Source::Percentile(_) => *value = Compact::default(),
            }
        }
        figures
    }
}

/// Place of the resident memory.
const RSS: usize = 0;

/// What a minute comes to so far.
#[derive(Clone, Debug)]
struct Minute {
    number: u32,
    /// Of rates the sum over its seconds.
    figures: [i64; WIDTH],
}

impl Minute {
    fn new(number: u32) -> Self {
        Self {
            number,
            figures: [0; WIDTH],
        }
    }

    /// Adds a second that follows the ones before.
    fn add(&mut self, second: &Sample) {
        for (at, (value, new)) in self.figures.iter_mut().zip(second.figures).enumerate() {
            let new = new.get();
            *value = match FIGURES.get(at).map(|figure| figure.source) {
                Some(Source::Rate(_)) => value.saturating_add(new),
                Some(Source::Peak | Source::Percentile(_)) => new.max(*value),
                Some(Source::Level(_)) | None => new,
            };
        }
    }

    /// The minute as a sample: of rates the mean.
    fn sample(&self) -> Sample {
        let figures = std::array::from_fn(|at| {
            let value = self.figures[at];
            Compact::new(match FIGURES.get(at).map(|figure| figure.source) {
                Some(Source::Rate(_)) => (value + 30) / 60,
                _ => value,
            })
        });
        Sample {
            number: self.number,
            figures,
        }
    }
}

/// Samples of a second or of a minute each, the oldest first.
#[derive(Debug)]
struct Ring {
    samples: VecDeque<Sample>,
    rows_max: usize,
}

impl Ring {
    fn new(rows_max: usize) -> Self {
        Self {
            samples: VecDeque::new(),
            rows_max,
        }
    }

    fn push(&mut self, sample: Sample) {
        let oldest = sample.number.saturating_sub(self.rows_max as u32);
        // One sample from before the window stays, since a gap at its start shows that one's levels.
        while self
            .samples
            .get(1)
            .is_some_and(|next| next.number <= oldest)
        {
            self.samples.pop_front();
        }
        if self.samples.len() == self.samples.capacity() {
            self.samples.reserve_exact(ROOM_STEP);
        }
        self.samples.push_back(sample);
    }

    /// The rows of the last `rows` numbers before `end`, from the first on of which anything is known.
    fn read(&self, rows: usize, end: u32) -> Rows {
        let from = end.saturating_sub(rows.min(self.rows_max) as u32);
        let first = self.samples.partition_point(|sample| sample.number < from);
        let mut at = first.saturating_sub(1);
        let start = match self.samples.get(at) {
            Some(sample) => sample.number.max(from).min(end),
            None => end,
        };
        let mut read = Vec::with_capacity((end - start) as usize);
        for number in start..end {
            while self
                .samples
                .get(at + 1)
                .is_some_and(|next| next.number <= number)
            {
                at += 1;
            }
            let sample = &self.samples[at];
            read.push(if sample.number == number {
                sample.figures
            } else {
                sample.quiet()
            });
        }
        Rows { start, rows: read }
    }
}

/// Samples as they are read: one row for each second or minute, without gaps.
#[derive(Debug)]
pub(crate) struct Rows {
    /// The number of the first row, in seconds or minutes since the start of the server.
    pub(crate) start: u32,
    rows: Vec<[Compact; WIDTH]>,
}

impl Rows {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All figures of the last row.
    pub(crate) fn last(&self) -> impl Iterator<Item = i64> {
        self.rows
            .last()
            .into_iter()
            .flatten()
            .map(|value| value.get())
    }

    /// A figure over time.
    pub(crate) fn column(&self, figure: usize) -> impl Iterator<Item = i64> {
        self.rows.iter().map(move |row| row[figure].get())
    }
}

/// How finely to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A row per second, of the last hour.
    Second,
    /// A row per minute, of the last day.
    Minute,
}

impl Step {
    /// Seconds from row to row.
    pub(crate) fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
        }
    }
}

/// What the next sample is compared with.
#[derive(Debug)]
struct Before {
    at: Duration,
    counters: [u64; FIGURES_LEN],
    durations: Spread,
}

#[derive(Debug)]
struct State {
    before: Option<Before>,
    /// The second that ended at the last look, whether or not a sample was kept of it.
    looked: u32,
    seconds: Ring,
    minutes: Ring,
    /// The minute that is not over yet.
    minute: Option<Minute>,
}

/// The history of the server.
#[derive(Debug)]
pub(crate) struct History(Mutex<State>);

impl Default for History {
    fn default() -> Self {
        Self(Mutex::new(State {
            before: None,
            looked: 0,
            seconds: Ring::new(ROWS_MAX[0]),
            minutes: Ring::new(ROWS_MAX[1]),
            minute: None,
        }))
    }
}

impl History {
    /// Whether a second has ended since the last look.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        let second = now.as_secs() as u32;
        // Whoever holds the lock is looking.
        self.0
            .try_lock()
            .is_some_and(|state| state.looked < second || state.before.is_none())
    }

    /// Takes a sample if a second has ended. Returns whether anything happened since the last one, so that there will
    /// be more to see in a second's time.
    pub(crate) fn look(&self, observed: &Observed) -> bool {
        let state = &mut *self.0.lock();
        let second = observed.at.as_secs() as u32;
        if state.looked >= second && state.before.is_some() {
            return false;
        }
        let counters = std::array::from_fn(|at| match FIGURES[at].source {
            Source::Rate(counter) => counter(observed),
            _ => 0,
        });
        let before = state.before.replace(Before {
            at: observed.at,
            counters,
            durations: observed.durations.clone(),
        });
        let quiet_since = state.looked + 1 < second;
        state.looked = second;
        // What happened in a long silence happened at its end: nobody looks while there is nothing to see.
        let elapsed = match &before {
            Some(before) if !quiet_since => (observed.at - before.at).as_secs_f64().max(0.5),
            _ => 1.0,
        };
        let earlier = before.as_ref().map(|before| &before.durations);
        let durations = match earlier {
            Some(earlier) => observed.durations.since(earlier),
            None => observed.durations.clone(),
        };
        let mut figures = [Compact::default(); WIDTH];
        let mut happened = before.is_none();
        for (at, (figure, value)) in FIGURES.iter().zip(&mut figures).enumerate() {
            let number = match figure.source {
                Source::Level(level) => level(observed),
                Source::Peak => observed.memory.system.resident_bytes,
                Source::Rate(_) => {
                    let earlier = before.as_ref().map_or(0, |before| before.counters[at]);
                    let rose = counters[at].saturating_sub(earlier);
                    // The process's own time rises with every look.
                    happened |= rose > 0 && figure.name != "cpu";
                    (rose as f64 / elapsed).round() as u64
                }
                Source::Percentile(of) => durations.percentile(of),
            };
            *value = Compact::new(i64::try_from(number).unwrap_or(i64::MAX));
        }
        for (value, (_, bytes)) in figures[FIGURES_LEN..]
            .iter_mut()
            .zip(observed.memory.parts())
        {
            *value = Compact::new(bytes);
        }
        // What is resident can change by the work of other threads.
        let last = state.seconds.samples.back();
        happened |= last.is_none_or(|last| last.figures[0] != figures[0]);
        // The row's number is that of the second which ended.
        let number = second.saturating_sub(1);
        if happened && last.is_none_or(|last| last.number < number) {
            let sample = Sample { number, figures };
            state.seconds.push(sample);
            state.add_to_minute(&sample);
        }
        happened
    }

    /// The last `rows` seconds or minutes up to `now` after the start.
    pub(crate) fn read(&self, step: Step, rows: usize, now: Duration) -> Rows {
        let state = self.0.lock();
        let second = now.as_secs() as u32;
        // What nobody has looked at yet may still turn out not to have been a silence.
        let end = if state.looked >= second {
            second
        } else {
            second.saturating_sub(1)
        };
        match step {
            Step::Second => state.seconds.read(rows, end),
            Step::Minute => {
                let end = end / 60;
                let mut minutes = state.minutes.read(rows, end);
                if let Some(minute) = state.minute.as_ref().filter(|minute| minute.number < end) {
                    minutes.go_on(&minute.sample(), end);
                }
                minutes
            }
        }
    }
}

impl Rows {
    /// Puts a sample and the silence behind it in place of the last rows.
    fn go_on(&mut self, sample: &Sample, end: u32) {
        if self.rows.is_empty() {
            self.start = sample.number;
        }
        let from = sample.number.max(self.start);
        self.rows.truncate((from - self.start) as usize);
        for number in from..end {
            let figures = if number == sample.number {
                sample.figures
            } else {
                sample.quiet()
            };
            self.rows.push(figures);
        }
    }
}

impl State {
    fn add_to_minute(&mut self, second: &Sample) {
        let number = second.number / 60;
        let minute = self.minute.get_or_insert_with(|| Minute::new(number));
        if minute.number != number {
            let over = std::mem::replace(minute, Minute::new(number)).sample();
            self.minutes.push(over);
        }
        minute.add(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str) -> usize {
        names().position(|(known, _)| known == name).unwrap()
    }

    fn observed(ms: u64, rss: u64, commands: u64) -> Observed {
        let mut memory = MemoryReport::default();
        memory.system.resident_bytes = rss;
        Observed {
            at: Duration::from_millis(ms),
            totals: TotalSums {
                commands,
                ..TotalSums::default()
            },
            memory,
            clients: 1,
            cpu: Duration::from_millis(ms),
            durations: Spread::default(),
        }
    }

    fn column(rows: &Rows, name: &str) -> Vec<i64> {
        rows.column(place(name)).collect()
    }

    #[test]
    fn a_gap_shows_levels_and_no_events() {
        let history = History::default();
        assert!(history.look(&observed(5_000, 1000, 0)), "the first look");
        assert!(history.look(&observed(6_001, 1000, 100)));
        assert!(!history.look(&observed(6_500, 9, 300)), "the same second");
        assert!(!history.look(&observed(7_000, 1000, 100)), "nothing new");
        assert!(!history.is_due(Duration::from_millis(7_900)));
        assert!(history.is_due(Duration::from_millis(8_000)));
        // A long silence, then work within a second.
        assert!(history.look(&observed(20_000, 2000, 150)));
        let rows = history.read(Step::Second, 60, Duration::from_millis(20_100));
        assert_eq!((rows.start, rows.len()), (4, 16));
        let commands = column(&rows, "commands");
        assert_eq!(commands[..4], [0, 100, 0, 0]);
        assert_eq!(commands[15], 50);
        let rss = column(&rows, "rss");
        assert_eq!((rss[3], rss[14], rss[15]), (1000, 1000, 2000));
        assert_eq!(column(&rows, "cpu")[2], 0);
        // Later nobody has looked, since nothing happened.
        let rows = history.read(Step::Second, 5, Duration::from_secs(1000));
        assert_eq!((rows.start, rows.len()), (994, 5));
        assert_eq!(column(&rows, "rss"), [2000; 5]);
        assert_eq!(column(&rows, "commands"), [0; 5]);
    }

    #[test]
    fn minutes_keep_peaks_and_means() {
        let history = History::default();
        for second in 1..=150 {
            let rss = if second == 31 { 8192 } else { 1000 };
            history.look(&observed(second * 1000, rss, second * 60));
        }
        let rows = history.read(Step::Minute, 10, Duration::from_secs(150));
        assert_eq!((rows.start, column(&rows, "rss")), (0, vec![1000, 1000]));
        assert_eq!(column(&rows, "rss_peak"), [8192, 1000]);
        assert_eq!(column(&rows, "commands")[1], 60);
        // The third minute ends without anybody looking.
        let rows = history.read(Step::Minute, 10, Duration::from_secs(600));
        assert_eq!(column(&rows, "rss"), [1000; 9]);
        assert_eq!(column(&rows, "commands")[2..4], [30, 0]);
    }

    #[test]
    fn room_is_bounded() {
        let history = History::default();
        for second in 1..=200_000_u64 {
            history.look(&observed(second * 1000, 1000, second));
        }
        let state = history.0.lock();
        let room = [&state.seconds, &state.minutes].map(|ring| ring.samples.capacity());
        let bytes: usize = room.iter().map(|rows| rows * size_of::<Sample>()).sum();
        assert!(bytes <= BYTES_MAX && BYTES_MAX < 500 << 10, "{bytes} bytes");
        drop(state);
        let now = Duration::from_secs(200_000);
        assert_eq!(history.read(Step::Second, 9999, now).len(), ROWS_MAX[0]);
        assert_eq!(history.read(Step::Minute, 9999, now).len(), ROWS_MAX[1]);
    }
}
