//! The courses of keys and values by which a heap fragments.

use slabkv_benches::trial::Random;

/// A command to send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Writes a value of so many bytes.
    Set { key: u32, bytes: u32 },
    /// Deletes a key.
    Delete { key: u32 },
}

/// Commands that are sent evenly over a time.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    pub(crate) seconds: f64,
    pub(crate) steps: Vec<Step>,
}

/// One course, from an empty server on.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) title: &'static str,
    pub(crate) about: &'static str,
    pub(crate) phases: Vec<Phase>,
}

impl Case {
    /// How long it takes where the server keeps up.
    pub(crate) fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }

    /// Keys are below this number.
    pub(crate) fn keys(&self) -> usize {
        let steps = self.phases.iter().flat_map(|phase| &phase.steps);
        let keys = steps.map(|step| match step {
            Step::Set { key, .. } | Step::Delete { key } => *key as usize + 1,
        });
        keys.max().unwrap_or(1)
    }
}

/// All cases, with this share of the keys and of the time.
pub(crate) fn all(scale: f64) -> Vec<Case> {
    let mut random = Random(1);
    let keys = |keys: f64| (keys * scale).ceil().max(10.0) as u32;
    let phase = |name, seconds: f64, steps| Phase {
        name,
        seconds: seconds * scale,
        steps,
    };
    vec![
        deleted(&mut random, keys(400_000.0), phase),
        resized(&mut random, keys(800_000.0), phase),
        range(&mut random, keys(400_000.0), phase),
        churn(&mut random, keys(250_000.0), phase),
    ]
}

fn fill(keys: std::ops::Range<u32>, bytes: u32) -> Vec<Step> {
    keys.map(|key| Step::Set { key, bytes }).collect()
}

/// Deletes nine of ten of these keys and leaves the tenth in place.
fn thin_out(random: &mut Random, keys: &mut Vec<u32>) -> Vec<Step> {
    random.shuffle(keys);
    let rest = keys.len() / 10;
    keys.drain(rest..).map(|key| Step::Delete { key }).collect()
}

fn deleted(
    random: &mut Random,
    keys: u32,
    phase: impl Fn(&'static str, f64, Vec<Step>) -> Phase,
) -> Case {
    let gone = thin_out(random, &mut (0..keys).collect());
    Case {
        title: "Nine of ten deleted",
        about: "250-byte values; 90% of the keys go, at random",
        phases: vec![
            phase("fill", 5.0, fill(0..keys, 250)),
            phase("", 2.0, Vec::new()),
            phase("delete", 5.0, gone),
            phase("rest", 13.0, Vec::new()),
        ],
    }
}

/// As much is live after each filling, in values of another size.
fn resized(
    random: &mut Random,
    keys: u32,
    phase: impl Fn(&'static str, f64, Vec<Step>) -> Phase,
) -> Case {
    let mut live: Vec<u32> = (0..keys).collect();
    let mut phases = vec![phase("100 B", 6.0, fill(0..keys, 100))];
    let mut next = keys;
    let mut live_bytes = u64::from(keys) * 116;
    for (name, bytes) in [("130 B", 130), ("200 B", 200)] {
        let before = live.len() as u64;
        phases.push(phase("delete", 4.0, thin_out(random, &mut live)));
        live_bytes = live_bytes * live.len() as u64 / before;
        let room = (u64::from(keys) * 116 - live_bytes) / (16 + bytes);
        let new = next..next + room as u32;
        live_bytes += room * (16 + bytes);
        next = new.end;
        live.extend(new.clone());
        phases.push(phase(name, 5.0, fill(new, bytes as u32)));
    }
    phases.push(phase("rest", 4.0, Vec::new()));
    Case {
        title: "Values change their size",
        about: "90% go at random, larger values come until as much is live",
        phases,
    }
}

fn range(
    random: &mut Random,
    keys: u32,
    phase: impl Fn(&'static str, f64, Vec<Step>) -> Phase,
) -> Case {
    let gone = thin_out(random, &mut (keys * 2 / 5..keys * 4 / 5).collect());
    Case {
        title: "A range of keys deleted",
        about: "90% of the keys that came third and fourth of five parts",
        phases: vec![
            phase("fill", 5.0, fill(0..keys, 250)),
            phase("", 2.0, Vec::new()),
            phase("delete", 3.0, gone),
            phase("rest", 15.0, Vec::new()),
        ],
    }
}

fn churn(
    random: &mut Random,
    keys: u32,
    phase: impl Fn(&'static str, f64, Vec<Step>) -> Phase,
) -> Case {
    // From 16 bytes to 2 KiB, each doubling as likely as another.
    let mut size = || {
        let (exponent, rest) = (random.below(7), random.below(1 << 16) as u32);
        let low = 16_u32 << exponent;
        low + ((u64::from(low) * u64::from(rest)) >> 16) as u32
    };
    let sizes: Vec<u32> = (0..keys * 5).map(|_| size()).collect();
    let set = |key, bytes: &u32| Step::Set { key, bytes: *bytes };
    let (first, later) = sizes.split_at(keys as usize);
    let fill = (0..).zip(first).map(|(key, bytes)| set(key, bytes));
    let later = later.iter();
    let churn = later.map(|bytes| set(random.below(keys as usize) as u32, bytes));
    Case {
        title: "Churn",
        about: "values of 16 B to 2 KiB, each replaced four times on average",
        phases: vec![
            phase("fill", 4.0, fill.collect()),
            phase("replace", 17.0, churn.collect()),
            phase("rest", 4.0, Vec::new()),
        ],
    }
}
