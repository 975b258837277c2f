//! Rates of counters over the last second or two, from samples that are taken while there is work. An idle server
//! takes none and need not wake up for it.

use std::collections::VecDeque;
use std::time::Duration;

/// Shortest time between two samples.
pub(crate) const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// Samples that are kept.
const SAMPLES_MAX: usize = 16;

/// Counters at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Time since the start.
    pub(crate) at: Duration,
    /// Commands run.
    pub(crate) commands: u64,
    /// Bytes read.
    pub(crate) input_bytes: u64,
    /// Bytes written.
    pub(crate) output_bytes: u64,
    /// Passes of the event loops.
    pub(crate) loops: u64,
    /// Ticks spent in them.
    pub(crate) loop_ticks: u64,
    /// Nanoseconds spent on compaction.
    pub(crate) compaction_ns: u64,
}

/// What happened per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    /// Commands run.
    pub(crate) commands: f64,
    /// Bytes read.
    pub(crate) input_bytes: f64,
    /// Bytes written.
    pub(crate) output_bytes: f64,
    /// Passes of the event loops.
    pub(crate) loops: f64,
    /// Ticks per pass.
    pub(crate) ticks_per_loop: f64,
    /// Percentage of one core that compaction takes.
    pub(crate) compaction_percent: f64,
}

/// The latest samples.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    samples: VecDeque<Sample>,
}

impl Sampler {
    /// Keeps a sample.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Whether it is time for the next sample.
    pub(crate) fn is_due(&self, at: Duration) -> bool {
        let last = self.samples.back();
        last.is_none_or(|last| at.saturating_sub(last.at) >= SAMPLE_INTERVAL)
    }

    /// Since when compaction has been at work, given that a sample at this moment says so: since the last sample, but
    /// no longer than one interval, since samples are taken while it works.
    pub(crate) fn compacting_since(&self, now: &Sample) -> Option<Duration> {
        let last = self.samples.back().copied().unwrap_or_default();
        (now.compaction_ns > last.compaction_ns)
            .then(|| last.at.max(now.at.saturating_sub(SAMPLE_INTERVAL)))
    }

    /// Forgets all samples.
    pub(crate) fn clear(&mut self) {
        self.samples.clear();
    }

    /// Rates from the oldest sample within the window (or the newest one, if all are older) until `now`.
    pub(crate) fn rates(&self, now: &Sample) -> Rates {
        let window = SAMPLE_INTERVAL * (SAMPLES_MAX as u32);
        let recent = self
            .samples
            .iter()
            .find(|sample| now.at.saturating_sub(sample.at) <= window);
        let Some(from) = recent.or(self.samples.back()) else {
            return Rates::default();
        };
        let seconds = now.at.saturating_sub(from.at).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let per_second = |now: u64, from: u64| now.saturating_sub(from) as f64 / seconds;
        let loops = now.loops.saturating_sub(from.loops);
        Rates {
            commands: per_second(now.commands, from.commands),
            input_bytes: per_second(now.input_bytes, from.input_bytes),
            output_bytes: per_second(now.output_bytes, from.output_bytes),
            loops: per_second(now.loops, from.loops),
            compaction_percent: per_second(now.compaction_ns, from.compaction_ns) / 1e7,
            ticks_per_loop: now.loop_ticks.saturating_sub(from.loop_ticks) as f64
                / loops.max(1) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_fall_when_nothing_happens() {
        let mut sampler = Sampler::default();
        let sample = |ms, commands| Sample {
            at: Duration::from_millis(ms),
            commands,
            ..Sample::default()
        };
        assert_eq!(sampler.rates(&sample(0, 0)), Rates::default());
        for tick in 0..40 {
            sampler.push(sample(tick * 100, tick * 50));
        }
        assert!((sampler.rates(&sample(3900, 1950)).commands - 500.0).abs() < 1.0);
        assert!(sampler.rates(&sample(60_000, 1950)).commands < 1.0);
    }
}
