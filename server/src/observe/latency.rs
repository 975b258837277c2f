//! Latency events: what held a worker up for longer than `latency-monitor-threshold`, per kind of event.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kvstore::Maintained;
use parking_lot::Mutex;

/// Samples kept per event.
const SAMPLES_MAX: usize = 160;

/// The longest delay of an event within one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When, in seconds of Unix time.
    pub(crate) unix_seconds: u64,
    /// How long, in milliseconds.
    pub(crate) latency_ms: u64,
}

/// All that is known of one kind of event.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    /// The samples, the oldest first.
    pub(crate) samples: VecDeque<Sample>,
    /// The longest delay ever, in milliseconds.
    pub(crate) max_ms: u64,
    /// Sum of all delays within the kept samples' seconds, in milliseconds.
    sum_ms: u64,
    /// Number of delays.
    count: u64,
}

/// Figures of a series, for LATENCY DOCTOR.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Analysis {
    /// Number of samples.
    pub(crate) samples: u64,
    /// Mean of the samples, in milliseconds.
    pub(crate) mean_ms: u64,
    /// Mean absolute deviation from it, in milliseconds.
    pub(crate) deviation_ms: u64,
    /// The shortest sample, in milliseconds.
    pub(crate) min_ms: u64,
    /// The longest sample, in milliseconds.
    pub(crate) max_ms: u64,
    /// Seconds from the oldest sample until now, per sample.
    pub(crate) period_seconds: f64,
}

impl Series {
    /// Figures of the samples.
    pub(crate) fn analysis(&self, now_seconds: u64) -> Analysis {
        let Some(first) = self.samples.front() else {
            return Analysis::default();
        };
        let count = self.samples.len() as u64;
        let sum: u64 = self.samples.iter().map(|sample| sample.latency_ms).sum();
        let mean = sum / count;
        let deviation: u64 = self
            .samples
            .iter()
            .map(|sample| sample.latency_ms.abs_diff(mean))
            .sum();
        Analysis {
            samples: count,
            mean_ms: mean,
            deviation_ms: deviation / count,
            min_ms: self
                .samples
                .iter()
                .map(|sample| sample.latency_ms)
                .min()
                .unwrap_or(0),
            max_ms: self
                .samples
                .iter()
                .map(|sample| sample.latency_ms)
                .max()
                .unwrap_or(0),
            period_seconds: now_seconds.saturating_sub(first.unix_seconds).max(1) as f64
                / count as f64,
        }
    }

    /// Sum of all delays in milliseconds, and their number.
    pub(crate) fn sum_and_count(&self) -> (u64, u64) {
        (self.sum_ms, self.count)
    }
}

/// The latency monitor.
#[derive(Debug, Default)]
pub(crate) struct LatencyMonitor {
    events: Mutex<BTreeMap<&'static str, Series>>,
}

impl LatencyMonitor {
    /// Adds a delay. Of several within one second the longest is kept.
    #[cold]
    pub(crate) fn add(&self, event: &'static str, unix_seconds: u64, latency_ms: u64) {
        let mut events = self.events.lock();
        let series = events.entry(event).or_default();
        series.max_ms = series.max_ms.max(latency_ms);
        series.sum_ms += latency_ms;
        series.count += 1;
        if let Some(last) = series.samples.back_mut()
            && last.unix_seconds == unix_seconds
        {
            last.latency_ms = last.latency_ms.max(latency_ms);
            return;
        }
        if series.samples.len() == SAMPLES_MAX {
            series.samples.pop_front();
        }
        series.samples.push_back(Sample {
            unix_seconds,
            latency_ms,
        });
    }

    /// All events with their series, in alphabetical order.
    pub(crate) fn all(&self) -> Vec<(&'static str, Series)> {
        self.events
            .lock()
            .iter()
            .map(|(event, series)| (*event, series.clone()))
            .collect()
    }

    /// The series of one event.
    pub(crate) fn series(&self, event: &[u8]) -> Option<Series> {
        let event = std::str::from_utf8(event).ok()?;
        self.events.lock().get(event).cloned()
    }

    /// Forgets the events that `which` names; returns how many there were.
    pub(crate) fn reset(&self, which: impl Fn(&str) -> bool) -> usize {
        let mut events = self.events.lock();
        let before = events.len();
        events.retain(|event, _| !which(event));
        before - events.len()
    }
}

/// Giving pages back, which Redis leaves to its allocator.
pub(crate) const PURGE_CYCLE: &str = "purge-cycle";

/// Compaction, by Redis's name for what it does instead.
pub(crate) const COMPACTION_CYCLE: &str = "active-defrag-cycle";

/// The events of one slice of background work, by Redis's names where it has one.
pub(crate) fn background_events(took: &Maintained) -> [(&'static str, Duration); 4] {
    [
        ("expire-cycle", took.expiry),
        ("expire-del", took.longest_removal),
        (COMPACTION_CYCLE, took.compaction),
        (PURGE_CYCLE, took.purging),
    ]
}

/// Rows of a graph.
const GRAPH_ROWS: usize = 4;
/// Columns of a graph.
const GRAPH_COLUMNS: usize = 80;

/// The series as a picture of columns, each labelled with its age, the newest at the right.
pub(crate) fn graph(event: &str, series: &Series, now_seconds: u64) -> String {
    let analysis = series.analysis(now_seconds);
    let skipped = series.samples.len().saturating_sub(GRAPH_COLUMNS);
    let shown: Vec<&Sample> = series.samples.iter().skip(skipped).collect();
    let (low, high) = (analysis.min_ms, analysis.max_ms);
    let title = format!(
        "{event} - high {high} ms, low {low} ms (all time high {} ms)",
        series.max_ms
    );
    let mut picture = format!("{title}\n{}\n", "-".repeat(GRAPH_COLUMNS));
    // Each row has three heights: an underscore, an `o` and a hash.
    let steps = GRAPH_ROWS as u64 * 3 - 1;
    let height = |sample: &Sample| match high - low {
        0 => 0,
        range => (sample.latency_ms - low) * steps / range,
    };
    for row in (0..GRAPH_ROWS as u64).rev() {
        for sample in &shown {
            let height = height(sample);
            picture.push(match height.checked_sub(row * 3) {
                Some(0) => '_',
                Some(1) => 'o',
                Some(2) => '#',
                Some(_) => '|',
                None => ' ',
            });
        }
        picture.push('\n');
    }
    picture.push('\n');
    let ages: Vec<Vec<char>> = shown
        .iter()
        .map(|sample| {
            age(now_seconds.saturating_sub(sample.unix_seconds))
                .chars()
                .collect()
        })
        .collect();
    let rows = ages.iter().map(Vec::len).max().unwrap_or(0);
    for row in 0..rows {
        picture.extend(
            ages.iter()
                .map(|label| label.get(row).copied().unwrap_or(' ')),
        );
        picture.push('\n');
    }
    picture
}

/// An age in the largest unit that it fills.
fn age(seconds: u64) -> String {
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m", seconds / 60),
        3600..=86_399 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_second_are_one() {
        let monitor = LatencyMonitor::default();
        for (second, ms) in [(1, 10), (1, 30), (1, 20), (2, 5)] {
            monitor.add("command", second, ms);
        }
        let series = monitor.series(b"command").unwrap();
        let samples: Vec<_> = series
            .samples
            .iter()
            .map(|sample| (sample.unix_seconds, sample.latency_ms))
            .collect();
        assert_eq!(
            (samples, series.max_ms, series.sum_and_count()),
            (vec![(1, 30), (2, 5)], 30, (65, 4))
        );
        let analysis = series.analysis(3);
        assert_eq!(
            (analysis.mean_ms, analysis.min_ms, analysis.deviation_ms),
            (17, 5, 12)
        );
        assert_eq!(monitor.reset(|event| event == "other"), 0);
        assert_eq!(monitor.reset(|_| true), 1);
        assert!(monitor.all().is_empty());
    }

    #[test]
    fn background_work_has_its_events() {
        let took = Maintained {
            expiry: Duration::from_millis(1),
            longest_removal: Duration::from_millis(2),
            compaction: Duration::from_millis(3),
            purging: Duration::from_millis(4),
        };
        let ms = background_events(&took).map(|(event, took)| (event, took.as_millis()));
        let expected = [
            ("expire-cycle", 1),
            ("expire-del", 2),
            ("active-defrag-cycle", 3),
            ("purge-cycle", 4),
        ];
        assert_eq!(ms, expected);
    }

    #[test]
    fn a_graph_has_the_highest_column_at_the_top() {
        let monitor = LatencyMonitor::default();
        for second in 0..200 {
            monitor.add("command", second, second + 1);
        }
        let series = monitor.series(b"command").unwrap();
        assert_eq!(series.samples.len(), SAMPLES_MAX);
        let picture = graph("command", &series, 4000);
        let lines: Vec<&str> = picture.lines().collect();
        assert!(lines[0].starts_with("command - high 200 ms, low 41 ms (all time high 200 ms)"));
        assert_eq!(lines[2].len(), GRAPH_COLUMNS);
        assert!(lines[2].ends_with('#') && lines[2].starts_with(' '));
        assert!(lines[7].starts_with('1'), "{picture}");
        assert!(graph("x", &Series::default(), 0).contains("high 0 ms"));
    }
}
