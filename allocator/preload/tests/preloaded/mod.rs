//! Programs that are started with the library: where it is, how to compile a C
//! program for a test, and how to run one.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Longer than any of these programs needs on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A library of this package, by its file name. Cargo does not build libraries that
/// tests do not link, so the first call does, with the profile of the tests.
pub(crate) fn library(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build).join(name)
}

fn build() -> PathBuf {
    // The test lies in `TARGET/PROFILE/deps`.
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let mut command = Command::new(env!("CARGO"));
    command.args([
        "build",
        "--quiet",
        "--offline",
        "--package",
        env!("CARGO_PKG_NAME"),
    ]);
    command.arg("--target-dir").arg(folder.parent().unwrap());
    if cfg!(feature = "hardened") {
        command.args(["--features", "hardened"]);
    }
    if cfg!(feature = "pprof") {
        command.args(["--features", "pprof"]);
    }
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "{command:?}");
    folder.to_owned()
}

/// Where the tests' own programs lie.
pub(crate) fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c")
}

/// Whether the program is installed.
pub(crate) fn is_installed(tool: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(tool).is_file()));
    if !found {
        eprintln!("passed over: {tool} is not installed");
    }
    found
}

/// The same, and a failure if it is not where the environment says that all tools that
/// tests need are there.
pub(crate) fn has(tool: &str) -> bool {
    let found = is_installed(tool);
    assert!(
        found || std::env::var_os("SLABKV_REQUIRE_TOOLS").is_none(),
        "{tool} is missing"
    );
    found
}

/// Compiles one of the tests' programs; `None` where there is no compiler.
pub(crate) fn compile(source: &str, output: &str, arguments: &[&OsStr]) -> Option<PathBuf> {
    let compiler = if source.ends_with(".cc") { "c++" } else { "cc" };
    if !has(compiler) {
        return None;
    }
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(output);
    let output = Command::new(compiler)
        // Calls of malloc whose results are not used must stay.
        .args(["-O1", "-g", "-pthread", "-fno-builtin", "-o"])
        .arg(&program)
        .arg(sources().join(source))
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(program)
}

/// The command, to be run with the library.
pub(crate) fn preloaded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("LD_PRELOAD", library("libslab_alloc.so"));
    command
}

/// Runs the command, which must end in time.
pub(crate) fn output(command: &mut Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |pipe: &mut dyn Read| {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    };
    std::thread::scope(|scope| {
        let stdout = scope.spawn(move || read(&mut stdout));
        let stderr = scope.spawn(move || read(&mut stderr));
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > TIMEOUT {
                child.kill().unwrap();
                panic!("{command:?} hangs");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Output {
            status,
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        }
    })
}

/// Runs the command, which must succeed, and returns what it prints.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{command:?}: {:?}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
