//! The table at the end: each allocator's figure, and its ratio to ours.

use crate::peers::{self, OURS};
use std::collections::HashMap;
use std::time::Duration;

struct Sample {
    operations: u64,
    elapsed: Duration,
}

/// What was measured, by row and allocator.
#[derive(Default)]
pub(crate) struct Summary {
    rows: Vec<String>,
    times: HashMap<(String, &'static str), Vec<Sample>>,
    least_ns: HashMap<(String, &'static str), f64>,
    megabytes: HashMap<(String, &'static str), f64>,
}

impl Summary {
    /// Adds a sample of a workload.
    pub(crate) fn time(
        &mut self,
        row: &str,
        peer: &'static str,
        operations: u64,
        elapsed: Duration,
    ) {
        self.row(row);
        self.times
            .entry((row.to_owned(), peer))
            .or_default()
            .push(Sample {
                operations,
                elapsed,
            });
    }

    /// Adds a round of a workload of which the fastest round counts.
    pub(crate) fn least(&mut self, row: &str, peer: &'static str, ns: f64) {
        self.row(row);
        let kept = self.least_ns.entry((row.to_owned(), peer)).or_insert(ns);
        *kept = kept.min(ns);
    }

    /// Sets the resident memory at a moment of a scenario.
    pub(crate) fn memory(&mut self, row: &str, peer: &'static str, megabytes: f64) {
        self.row(row);
        self.megabytes.insert((row.to_owned(), peer), megabytes);
    }

    fn row(&mut self, row: &str) {
        if !self.rows.iter().any(|known| known == row) {
            self.rows.push(row.to_owned());
        }
    }

    /// Prints a row per workload and moment: ns per operation or MB, and in
    /// brackets the ratio to ours, so that above 1 means that ours is better; then
    /// the geometric means of these ratios.
    pub(crate) fn print(&self) {
        println!(
            "\nns per operation (the median sample, or the least where it says so), MB resident; \
             in brackets: ratio to {OURS}"
        );
        print!("{:<34}", "");
        for peer in peers::ALL {
            print!("{:>18}", peer.name);
        }
        println!();
        for row in &self.rows {
            print!("{row:<34}");
            let ours = self.figure(row, OURS);
            for peer in peers::ALL {
                match (self.figure(row, peer.name), ours) {
                    (Some(figure), Some(ours)) => print!("{figure:>10.1} ({:>5.2})", figure / ours),
                    (Some(figure), None) => print!("{figure:>10.1}        "),
                    (None, _) => print!("{:>18}", "-"),
                }
            }
            println!();
        }
        self.print_mean("geometric mean, time", |key| {
            !self.megabytes.contains_key(key)
        });
        self.print_mean("geometric mean, memory", |key| {
            self.megabytes.contains_key(key)
        });
    }

    /// The geometric mean of each peer's ratios to ours, over the rows whose key of
    /// ours is wanted.
    fn print_mean(&self, name: &str, wanted: impl Fn(&(String, &'static str)) -> bool) {
        let rows = self.rows.iter();
        let rows: Vec<_> = rows.filter(|row| wanted(&((*row).clone(), OURS))).collect();
        if rows.is_empty() {
            return;
        }
        print!("{name:<34}");
        for peer in peers::ALL {
            let logarithms: Option<f64> = rows
                .iter()
                .map(|row| {
                    let ours = self.figure(row, OURS)?;
                    // Nothing at all is resident now and then.
                    let figure = self.figure(row, peer.name)?;
                    Some((figure.max(0.1) / ours.max(0.1)).ln())
                })
                .sum();
            match logarithms {
                Some(sum) => print!("{:>17.2} ", (sum / rows.len() as f64).exp()),
                None => print!("{:>18}", "-"),
            }
        }
        println!();
    }

    fn figure(&self, row: &str, peer: &'static str) -> Option<f64> {
        let key = (row.to_owned(), peer);
        let known = self.megabytes.get(&key).or_else(|| self.least_ns.get(&key));
        known
            .copied()
            .or_else(|| self.times.get(&key).map(|all| median(all)))
    }
}

/// The median of the samples that ran at least a hundredth as many operations as
/// the longest, so that the first ones of the warm-up do not count.
fn median(samples: &[Sample]) -> f64 {
    let most = samples
        .iter()
        .map(|sample| sample.operations)
        .max()
        .unwrap_or(0);
    let mut each: Vec<f64> = samples
        .iter()
        .filter(|sample| sample.operations >= most / 100)
        .map(|sample| sample.elapsed.as_nanos() as f64 / sample.operations.max(1) as f64)
        .collect();
    each.sort_by(f64::total_cmp);
    each[each.len() / 2]
}
