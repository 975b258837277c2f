//! One course driven against one server, and the server watched meanwhile.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use slabkv_benches::trial::{Connection, Random, Server, command, field};

use super::cases::{Case, Step};

/// Time from sample to sample.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

const SAMPLES_PER_SECOND: usize = 4;

/// Time from one probe's reply to the next probe.
const PROBE_EVERY: Duration = Duration::from_millis(1);

/// Commands that are sent at a time.
const BATCH: usize = 100;

/// What was seen at one time, and of probes and CPU in the second before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) resident_mb: f64,
    /// `used_memory_dataset` of INFO.
    pub(crate) live_mb: f64,
    /// What 99% of the probes took at most, in microseconds.
    pub(crate) p99_us: f64,
    /// Percent of a core.
    pub(crate) cpu_percent: f64,
}

/// Drives a case to its end and returns the samples.
pub(crate) fn run(server: &Server, case: &Case) -> Vec<Sample> {
    let ended = AtomicBool::new(false);
    let probes = Mutex::new(Vec::new());
    let started = Instant::now();
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| watch(server, started, &probes, &ended));
        scope.spawn(|| probe(&mut server.connect(), case.keys(), &probes, &ended));
        drive(&mut server.connect(), case, started);
        ended.store(true, Ordering::Relaxed);
        sampler.join().expect("it does not panic")
    })
}

/// Sends the commands of each phase, evenly over its time.
fn drive(connection: &mut Connection, case: &Case, started: Instant) {
    let value = vec![b'v'; 4096];
    let (mut request, mut line, mut key) = (Vec::new(), Vec::new(), String::new());
    let mut begin = Duration::ZERO;
    for phase in &case.phases {
        let time = Duration::from_secs_f64(phase.seconds);
        for (at, batch) in phase.steps.chunks(BATCH).enumerate() {
            let due = time.mul_f64((at * BATCH) as f64 / phase.steps.len() as f64);
            sleep_until(started + begin + due);
            request.clear();
            for step in batch {
                let (Step::Set { key: number, .. } | Step::Delete { key: number }) = step;
                name(&mut key, *number as usize);
                match step {
                    Step::Set { bytes, .. } => {
                        let value = &value[..*bytes as usize];
                        command(&mut request, &[b"SET", key.as_bytes(), value]);
                    }
                    Step::Delete { .. } => command(&mut request, &[b"DEL", key.as_bytes()]),
                }
            }
            connection.send(&request);
            batch.iter().for_each(|_| _ = connection.reply(&mut line));
        }
        begin += time;
        sleep_until(started + begin);
    }
}

fn name(out: &mut String, key: usize) {
    out.clear();
    // Writing to a string cannot fail.
    let _ = write!(out, "key:{key:012}");
}

fn sleep_until(moment: Instant) {
    let rest = moment.saturating_duration_since(Instant::now());
    if !rest.is_zero() {
        std::thread::sleep(rest);
    }
}

/// Asks for one key after the other and notes how long each answer takes, in microseconds.
fn probe(connection: &mut Connection, keys: usize, probes: &Mutex<Vec<f64>>, ended: &AtomicBool) {
    let mut random = Random(2);
    let (mut request, mut line, mut key) = (Vec::new(), Vec::new(), String::new());
    while !ended.load(Ordering::Relaxed) {
        name(&mut key, random.below(keys));
        request.clear();
        command(&mut request, &[b"GET", key.as_bytes()]);
        let asked = Instant::now();
        connection.send(&request);
        connection.reply(&mut line);
        let took = asked.elapsed().as_secs_f64() * 1e6;
        probes.lock().push(took);
        std::thread::sleep(PROBE_EVERY);
    }
}

fn watch(
    server: &Server,
    started: Instant,
    probes: &Mutex<Vec<f64>>,
    ended: &AtomicBool,
) -> Vec<Sample> {
    let mut connection = server.connect();
    let mut samples = Vec::new();
    // Probes of the last second, and the CPU time at its beginning.
    let mut recent: VecDeque<Vec<f64>> = VecDeque::new();
    let mut cpu = VecDeque::from([(started.elapsed().as_secs_f64(), server.cpu_us())]);
    for number in 1_u32.. {
        sleep_until(started + SAMPLE_EVERY * number);
        let last = ended.load(Ordering::Relaxed);
        let info = connection.run("INFO memory").expect("a text");
        let live = field(&info, "used_memory_dataset").and_then(|bytes| bytes.parse().ok());
        let live: f64 = live.expect("the field is there");
        recent.push_back(std::mem::take(&mut *probes.lock()));
        let (seconds, cpu_us) = (started.elapsed().as_secs_f64(), server.cpu_us());
        let (seconds_before, cpu_before) = cpu[0];
        cpu.push_back((seconds, cpu_us));
        if recent.len() > SAMPLES_PER_SECOND {
            recent.pop_front();
        }
        if cpu.len() > SAMPLES_PER_SECOND {
            cpu.pop_front();
        }
        let mut took: Vec<f64> = recent.iter().flatten().copied().collect();
        took.sort_by(f64::total_cmp);
        samples.push(Sample {
            seconds,
            resident_mb: server.memory("VmRSS"),
            live_mb: live / 1e6,
            p99_us: took.get(took.len() * 99 / 100).copied().unwrap_or(f64::NAN),
            cpu_percent: (cpu_us - cpu_before) / (seconds - seconds_before) / 1e4,
        });
        if last {
            break;
        }
    }
    samples
}
