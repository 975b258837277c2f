//! The server itself: who it is, where it listens, and the processor time that it took.

use crate::clock::{unix_us, uptime};
use crate::config::directive::Id;
use crate::observe::info::{Fields, REDIS_VERSION, Sources, VERSION, flag, line, seconds, zero};
use crate::process::{self, CpuOf};

pub(super) const SERVER: &Fields = &[
    ("redis_version", |_| REDIS_VERSION.into()),
    ("server_name", |_| "slabkv".into()),
    ("slabkv_version", |_| VERSION.into()),
    ("redis_git_sha1", |_| "00000000".into()),
    ("redis_git_dirty", zero),
    ("redis_build_id", |_| VERSION.into()),
    ("redis_mode", |_| "standalone".into()),
    ("os", |_| {
        let name = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        format!(
            "{} {} {}",
            text(name.sysname()),
            text(name.release()),
            text(name.machine())
        )
    }),
    ("arch_bits", |_| usize::BITS.to_string()),
    ("monotonic_clock", |_| crate::clock::tick_source().into()),
    ("multiplexing_api", |_| "epoll".into()),
    ("atomicvar_api", |_| "rust-core".into()),
    // As a Redis that no GCC has built.
    ("gcc_version", |_| "0.0.0".into()),
    ("process_id", |_| std::process::id().to_string()),
    ("process_supervised", |s| s.identity.supervised.into()),
    ("run_id", |s| s.identity.run_id.clone()),
    ("tcp_port", |s| s.listeners.tcp_port().to_string()),
    ("server_time_usec", |_| unix_us().to_string()),
    ("uptime_in_seconds", |_| uptime().as_secs().to_string()),
    ("uptime_in_days", |_| {
        (uptime().as_secs() / 86_400).to_string()
    }),
    ("hz", |s| s.config.number(Id::Hz).to_string()),
    ("configured_hz", |s| s.config.number(Id::Hz).to_string()),
    ("lru_clock", |_| {
        ((unix_us() / 1_000_000) & 0xff_ffff).to_string()
    }),
    ("executable", |s| s.identity.executable.clone()),
    ("config_file", |s| {
        s.config
            .file
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default()
    }),
    ("io_threads_active", |s| flag(s.clients.workers() > 1)),
];

pub(super) fn listeners(s: &Sources<'_>, out: &mut String) {
    for (at, (kind, addresses)) in s.listeners.describe().into_iter().enumerate() {
        line(out, format_args!("listener{at}:name={kind},{addresses}"));
    }
}

pub(super) const CPU: &Fields = &[
    ("used_cpu_sys", |_| {
        seconds(process::cpu_time(CpuOf::Process).system)
    }),
    ("used_cpu_user", |_| {
        seconds(process::cpu_time(CpuOf::Process).user)
    }),
    ("used_cpu_sys_children", |_| {
        seconds(process::cpu_time(CpuOf::Children).system)
    }),
    ("used_cpu_user_children", |_| {
        seconds(process::cpu_time(CpuOf::Children).user)
    }),
    ("used_cpu_sys_main_thread", |_| {
        seconds(process::main_thread_cpu_time().system)
    }),
    ("used_cpu_user_main_thread", |_| {
        seconds(process::main_thread_cpu_time().user)
    }),
];
