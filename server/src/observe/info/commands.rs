//! Commands one by one: calls, errors and durations.

use crate::config::directive::Id;
use crate::observe::histogram::Counts;
use crate::observe::info::{Sources, line};
use crate::observe::stats::CommandSums;

pub(super) fn command_stats(s: &Sources<'_>, out: &mut String) {
    for (index, name) in s.commands.iter().enumerate() {
        let sums: CommandSums = s.stats.command(index);
        if sums.calls == 0 && sums.rejected == 0 && sums.failed == 0 {
            continue;
        }
        let us = sums.duration_us();
        let per_call = if sums.calls == 0 {
            0.0
        } else {
            us as f64 / sums.calls as f64
        };
        line(
            out,
            format_args!(
                "cmdstat_{name}:calls={},usec={us},usec_per_call={per_call:.2},rejected_calls={},failed_calls={}",
                sums.calls, sums.rejected, sums.failed
            ),
        );
    }
}

pub(super) fn error_stats(s: &Sources<'_>, out: &mut String) {
    for (code, count) in s.stats.errors() {
        line(
            out,
            format_args!("errorstat_{}:count={count}", String::from_utf8_lossy(&code)),
        );
    }
}

pub(super) fn latency_stats(s: &Sources<'_>, out: &mut String) {
    let percentiles: Vec<f64> = s
        .config
        .words(Id::LatencyPercentiles)
        .iter()
        .filter_map(|word| word.parse().ok())
        .collect();
    for (index, name) in s.commands.iter().enumerate() {
        let Some(histogram) = s
            .stats
            .durations(index)
            .as_ref()
            .and_then(Counts::histogram)
        else {
            continue;
        };
        let values = percentiles.iter().map(|&percentile| {
            let us = histogram.value_at_percentile(percentile) as f64 / 1000.0;
            format!("p{percentile}={us:.3}")
        });
        line(
            out,
            format_args!(
                "latency_percentiles_usec_{name}:{}",
                values.collect::<Vec<_>>().join(",")
            ),
        );
    }
}
