//! `slabkv-server`: a key-value server that speaks RESP, gives memory back and says where it is.
//!
//! # Layers
//!
//! A file imports only from rows above its own; `tests/layers.rs` holds the order.
//!
//! | row | files |
//! |---|---|
//! | words | `clock` `extended` `glob` `lcs` `mappings` `number` `process`, then `heap` |
//! | wire | `resp` |
//! | settings | `config`, then `log` |
//! | sockets | `net`, then `listeners` |
//! | clients | `clients`, then `session` |
//! | figures | `observe` |
//! | commands | `commands` |
//! | pages | `http` |
//! | engine | `signals`, then `worker`, then `server`, then `main` |

mod clients;
mod clock;
mod commands;
mod config;
mod extended;
mod glob;
mod heap;
mod http;
mod lcs;
mod listeners;
mod log;
mod mappings;
mod net;
mod number;
mod observe;
mod process;
mod resp;
mod server;
mod session;
mod signals;
mod worker;

/// Everything but the keyspace, whose shards have arenas of their own.
#[global_allocator]
static ALLOCATOR: heap::Malloc = heap::MALLOC;

use std::path::Path;
use std::process::ExitCode;

use config::Config;
use config::directive::Id;
use log::Log;
use observe::info::{REDIS_VERSION, VERSION};

/// The command line in short.
const USAGE: &str = "\
Usage: slabkv-server [FILE] [-] [--directive value ...]
       slabkv-server --version | --help

FILE is a configuration file in the syntax of redis.conf; - reads one from the standard input, too. Any directive can
be given as an option and then counts more than the file:

       slabkv-server                                   (port 6379, all defaults)
       slabkv-server --port 7777 --maxmemory 1gb
       slabkv-server slabkv.conf --loglevel verbose
       slabkv-server slabkv.conf - < more.conf
";

fn main() -> ExitCode {
    clock::start();
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match words.first().map(String::as_str) {
        Some("-v" | "--version") => {
            println!(
                "slabkv server v={VERSION} redis={REDIS_VERSION} malloc={} bits={}",
                heap::name(),
                usize::BITS
            );
            return ExitCode::SUCCESS;
        }
        Some("-h" | "--help") => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let mut config = Config::defaults();
    if let Err(error) = config.load(&config::file::parse_command_line(&words)) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let log_file = config.string(Id::LogFile);
    let log = Log::new(
        config.number(Id::LogLevel),
        Some(Path::new(&log_file)).filter(|_| !log_file.is_empty()),
    );
    let supervised = supervision(&config);
    if supervised == "no" && config.is_set(Id::Daemonize) {
        // SAFETY: nothing before this line starts a thread.
        if let Err(error) = unsafe { process::daemonize() } {
            eprintln!("Can't go into the background: {}", config::os_text(&error));
            return ExitCode::FAILURE;
        }
    }
    if config.is_set(Id::DisableThp) {
        process::disable_huge_pages();
    }
    heap::start();
    match server::serve(config, log, supervised) {
        Ok(()) => ExitCode::SUCCESS,
        Err(()) => ExitCode::FAILURE,
    }
}

/// Who supervises the process: `systemd`, `upstart` or `no`.
fn supervision(config: &Config) -> &'static str {
    let wants = config.show(Id::Supervised);
    let systemd = std::env::var_os("NOTIFY_SOCKET").is_some();
    let upstart = std::env::var_os("UPSTART_JOB").is_some();
    match wants.as_slice() {
        b"systemd" if systemd => "systemd",
        b"upstart" if upstart => "upstart",
        b"auto" if upstart => "upstart",
        b"auto" if systemd => "systemd",
        _ => "no",
    }
}
