//! The heap profile of a C program, decoded from what pprof would read.

#![cfg(all(feature = "pprof", not(feature = "hardened")))]

mod preloaded;

use preloaded::{compile, library, output, stdout};
use prost::Message;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

/// Reads a profile, and holds that it is a sound one.
fn read(path: &Path) -> Profile {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(
        bytes[..4],
        [0x1f, 0x8b, 8, 0],
        "gzip without further fields"
    );
    let body = &bytes[10..bytes.len() - 8];
    let message = miniz_oxide::inflate::decompress_to_vec(body).unwrap();
    let profile = Profile::decode(message.as_slice()).unwrap();
    let text = |at: i64| profile.string_table[usize::try_from(at).unwrap()].as_str();
    assert_eq!(text(0), "");
    let kinds = profile.sample_type.iter();
    let kinds: Vec<_> = kinds
        .map(|kind| (text(kind.kind), text(kind.unit)))
        .collect();
    assert_eq!(
        kinds,
        [
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "count"),
            ("inuse_space", "bytes")
        ]
    );
    assert_eq!(text(profile.default_sample_type), "inuse_space");
    let period = profile.period_type.as_ref().unwrap();
    assert_eq!((text(period.kind), text(period.unit)), ("space", "bytes"));
    let program = &profile.mapping[0];
    assert!(text(program.filename).ends_with("/profiled"));
    assert!(
        text(program.build_id)
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit())
    );
    let ids: HashSet<u64> = profile
        .location
        .iter()
        .map(|location| location.id)
        .collect();
    assert_eq!(ids.len(), profile.location.len());
    for location in &profile.location {
        let mapping = profile
            .mapping
            .iter()
            .find(|mapping| mapping.id == location.mapping_id);
        let mapping = mapping.expect("all code is some file's");
        assert!((mapping.memory_start..mapping.memory_limit).contains(&location.address));
    }
    let library = profile
        .mapping
        .iter()
        .find(|mapping| text(mapping.filename).ends_with("libslab_alloc.so"))
        .map_or(0, |mapping| mapping.id);
    let of_library = |id: &u64| {
        let mut locations = profile.location.iter();
        locations.any(|location| location.id == *id && location.mapping_id == library)
    };
    for sample in &profile.sample {
        assert_eq!(sample.value.len(), 4);
        assert!(sample.location_id.iter().all(|id| ids.contains(id)));
        assert!(
            !sample.location_id.first().is_some_and(of_library),
            "the program's function comes first"
        );
    }
    profile
}

/// Sums of the samples' values over the stacks that lead through the function's code.
fn under(profile: &Profile, code: &Range<u64>) -> [i64; 4] {
    let mut sum = [0; 4];
    let samples = profile.sample.iter();
    for sample in samples.filter(|sample| sample.location_id.iter().any(|id| code.contains(id))) {
        for (sum, value) in sum.iter_mut().zip(&sample.value) {
            *sum += value;
        }
    }
    sum
}

/// Where the functions' code lies, as the program says.
fn functions(printed: &str) -> HashMap<String, Range<u64>> {
    let address = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
    let lines = printed
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .map(|words| (words[0].to_owned(), address(words[1])..address(words[2])))
        .collect()
}

fn program() -> Option<&'static PathBuf> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let compiled = PROGRAM.get_or_init(|| {
        let include = format!("-I{}/include", env!("CARGO_MANIFEST_DIR"));
        let library = library("libslab_alloc.so");
        let arguments = [include.as_ref(), library.as_ref()];
        compile("profiled.c", "profiled", &arguments)
    });
    compiled.as_ref()
}

/// What is live and what was allocated under each function: objects, and bytes of each.
const TRUTH: [(&str, i64, i64, i64, i64); 4] = [
    ("small", 60_000, 60_000 * 112, 60_000, 60_000 * 112),
    ("medium", 8_000, 4_000 * (208 + 3072), 4_000, 4_000 * 3072),
    ("large", 100, 50 * (40_960 + 90_112), 50, 50 * 90_112),
    ("gone", 30_000, 30_000 * 512, 0, 0),
];

#[test]
fn every_object_is_in_a_profile_of_all() {
    let Some(program) = program() else { return };
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exact.pb.gz");
    let mut command = preloaded::preloaded(program);
    // The heap's own thread, which an allocation starts, has memory of the C library's.
    command.env("SLAB_ALLOC_OPTIONS", "background_thread:false");
    let functions = functions(&stdout(command.arg(&file)));
    let profile = read(&file);
    assert_eq!(profile.period, 1);
    for (function, allocated, allocated_bytes, live, live_bytes) in TRUTH {
        assert_eq!(
            under(&profile, &functions[function]),
            [allocated, allocated_bytes, live, live_bytes],
            "{function}"
        );
    }
    let aligned = under(&profile, &functions["aligned"]);
    assert_eq!([aligned[0], aligned[2]], [300, 300]);
    assert!(aligned[3] >= 300 * 5000);
}

/// The environment starts the profile and has it written, and what is sampled stands for
/// the rest: within seven standard errors, as the seed is another each time.
#[test]
fn a_sample_stands_for_the_rest() {
    const INTERVAL: i64 = 16_384;
    let Some(program) = program() else { return };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("heap-profile");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    let options = format!(
        "heap_profile:{INTERVAL},heap_profile_file:{}/p",
        folder.display()
    );
    let mut command = preloaded::preloaded(program);
    let functions = functions(&stdout(command.env("SLAB_ALLOC_OPTIONS", options)));
    // The child process ends without its exit handlers.
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert_eq!(files.len(), 1);
    let profile = read(&files[0].as_ref().unwrap().path());
    assert_eq!(profile.period, INTERVAL);
    for (function, allocated, allocated_bytes, live, live_bytes) in TRUTH {
        let estimate = under(&profile, &functions[function]);
        for (estimate, objects, bytes) in [
            (estimate[1], allocated, allocated_bytes),
            (estimate[3], live, live_bytes),
        ] {
            // No fewer samples than if all objects were as large as the mean.
            let size = bytes as f64 / objects.max(1) as f64;
            let share = 1.0 - (-size / INTERVAL as f64).exp();
            let error = (objects as f64 * (1.0 / share.max(1e-9) - 1.0)).sqrt() * size;
            let difference = (estimate - bytes) as f64;
            assert!(
                difference.abs() <= 7.0 * error + 1.0,
                "{function}: {estimate} for {bytes}, within {error}"
            );
        }
    }
}

#[test]
fn a_file_that_cannot_be_written_costs_a_line() {
    let Some(program) = program() else { return };
    let options = "heap_profile:65536,heap_profile_file:/nowhere/at/all";
    let mut command = preloaded::preloaded(program);
    let output = output(command.env("SLAB_ALLOC_OPTIONS", options));
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "slabkv: the heap profile could not be written\n"
    );
}

/// Any program runs with its profile as it does without.
#[test]
fn programs_run_while_they_are_profiled() {
    for (program, arguments) in [
        (
            "python3",
            &[
                "-c",
                "import json, threading, subprocess\n\
            ts = [threading.Thread(target=lambda: json.loads(json.dumps(list(range(20000))))) for _ in range(4)]\n\
            [t.start() for t in ts]; [t.join() for t in ts]\n\
            print(subprocess.check_output(['perl', '-e', 'print \"x\" x 10']))",
            ][..],
        ),
        (
            "perl",
            &[
                "-e",
                "my %h; $h{$_} = 'v' x ($_ % 100) for 1..50000; print scalar keys %h",
            ],
        ),
        ("git", &["--version"]),
    ] {
        if !preloaded::has(program) {
            continue;
        }
        let plain = output(Command::new(program).args(arguments));
        for interval in [64, 65_536] {
            let mut command = preloaded::preloaded(program);
            let options = format!("heap_profile:{interval}");
            let profiled = output(command.args(arguments).env("SLAB_ALLOC_OPTIONS", options));
            assert_eq!(profiled, plain, "{program} {interval}");
        }
    }
}
