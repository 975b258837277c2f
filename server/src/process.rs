//! The process as the operating system sees it: local time, going into the background, limits, and what /proc says.
//!
//! The calls that no safe library offers are here.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Local time, broken down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalTime {
    /// Year, with the century.
    pub(crate) year: i32,
    /// Month, 0 to 11.
    pub(crate) month: i32,
    /// Day of the month, from 1 on.
    pub(crate) day: i32,
    /// Hour, minute, second.
    pub(crate) time: [i32; 3],
}

/// The local time of an instant, in seconds of Unix time.
pub(crate) fn local_time(unix_seconds: u64) -> LocalTime {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    // SAFETY: an all-zero `tm` is valid (numbers and a null pointer), and `localtime_r` writes only to it.
    let parts = unsafe {
        let mut parts = std::mem::zeroed();
        libc::localtime_r(&seconds, &mut parts);
        parts
    };
    LocalTime {
        year: parts.tm_year + 1900,
        month: parts.tm_mon,
        day: parts.tm_mday,
        time: [parts.tm_hour, parts.tm_min, parts.tm_sec],
    }
}

static OOM_SCORE_CHANGED: AtomicBool = AtomicBool::new(false);

/// What the system's score for ending this process was at the start. The first call has to come before any change.
pub(crate) fn initial_oom_score() -> i64 {
    static INITIAL: OnceLock<i64> = OnceLock::new();
    *INITIAL.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    })
}

/// Whether this process has changed its score.
pub(crate) fn is_oom_score_changed() -> bool {
    OOM_SCORE_CHANGED.load(Ordering::Relaxed)
}

/// Notes whether this process has changed its score.
pub(crate) fn note_oom_score_changed(changed: bool) {
    OOM_SCORE_CHANGED.store(changed, Ordering::Relaxed);
}

/// Has the system give the process small pages only. Huge ones would stay resident for the sake of a few bytes.
pub(crate) fn disable_huge_pages() {
    // SAFETY: the call changes an attribute of the process and touches no memory. A system without it keeps its way.
    let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Goes on in a child of its own session, without standard streams, and ends the calling process.
///
/// # Safety
/// The process has no other thread yet: a lock that one of them held would stay locked in the child.
pub(crate) unsafe fn daemonize() -> io::Result<()> {
    // SAFETY: `fork` and `setsid` have no conditions but the caller's.
    unsafe {
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {}
            _ => libc::_exit(0),
        }
        if libc::setsid() == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

/// Makes room for `wanted` open files as far as the system allows, and returns how many there may be.
pub(crate) fn raise_file_limit(wanted: u64) -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current else {
        return u64::MAX;
    };
    if current >= wanted {
        return current;
    }
    let most = limit.maximum.unwrap_or(u64::MAX);
    limit.current = Some(wanted.max(current));
    if most < wanted {
        // Root may raise the hard limit.
        let both = rustix::process::Rlimit {
            current: Some(wanted),
            maximum: Some(wanted),
        };
        if setrlimit(Resource::Nofile, both).is_ok() {
            return wanted;
        }
        limit.current = Some(most);
    }
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.current.unwrap_or(u64::MAX),
        Err(_) => current,
    }
}

/// Processor time that the process has used, in user mode and in the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuTime {
    /// In user mode.
    pub(crate) user: Duration,
    /// In the kernel.
    pub(crate) system: Duration,
}

/// Whose processor time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CpuOf {
    /// All threads of the process.
    Process,
    /// Ended children.
    Children,
}

/// Processor time used.
pub(crate) fn cpu_time(of: CpuOf) -> CpuTime {
    let who = match of {
        CpuOf::Process => libc::RUSAGE_SELF,
        CpuOf::Children => libc::RUSAGE_CHILDREN,
    };
    // SAFETY: an all-zero `rusage` is valid, being numbers only, and `getrusage` writes only to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    };
    let duration = |time: libc::timeval| {
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or(0),
            u32::try_from(time.tv_usec).unwrap_or(0) * 1000,
        )
    };
    CpuTime {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
    }
}

/// What the system counts of one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThreadUsage {
    /// Processor time.
    pub(crate) cpu: Duration,
    /// Faults for which a page had only to be put into place.
    pub(crate) minor_faults: u64,
    /// Faults that had to wait for a disk.
    pub(crate) major_faults: u64,
}

/// What the calling thread has used so far. Takes about a microsecond.
pub(crate) fn thread_usage() -> ThreadUsage {
    // SAFETY: an all-zero `rusage` is valid, being numbers only, and `getrusage` writes only to it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage
    };
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    ThreadUsage {
        cpu: Duration::new(
            u64::try_from(cpu.tv_sec).unwrap_or(0),
            u32::try_from(cpu.tv_nsec).unwrap_or(0),
        ),
        minor_faults: u64::try_from(usage.ru_minflt).unwrap_or(0),
        major_faults: u64::try_from(usage.ru_majflt).unwrap_or(0),
    }
}

/// What the system says about the process's memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SystemMemory {
    /// Resident bytes of the process.
    pub(crate) resident_bytes: u64,
    /// Of these, bytes of files: the program and its libraries.
    pub(crate) file_bytes: u64,
}

/// Resident memory of the process, from `/proc/self/statm`: O(1).
pub(crate) fn resident_memory() -> SystemMemory {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let page = rustix::param::page_size() as u64;
    let mut fields = text
        .split_ascii_whitespace()
        .skip(1)
        .map(|field| field.parse::<u64>().unwrap_or(0) * page);
    SystemMemory {
        resident_bytes: fields.next().unwrap_or(0),
        file_bytes: fields.next().unwrap_or(0),
    }
}

/// Whether the kernel gives huge pages also to memory that nobody asked them for.
pub(crate) fn gives_huge_pages() -> bool {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    setting.is_ok_and(|setting| setting.contains("[always]"))
}

/// What a control group uses and may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupMemory {
    /// Memory of all its processes, files that can be dropped included.
    pub(crate) usage_bytes: u64,
    /// Its limit.
    pub(crate) limit_bytes: u64,
}

/// Where one kind of control groups keeps its figures.
struct GroupFiles {
    mount: &'static str,
    usage: &'static str,
    limit: &'static str,
}

/// Groups of the unified hierarchy.
const GROUPS_V2: GroupFiles = GroupFiles {
    mount: "/sys/fs/cgroup",
    usage: "memory.current",
    limit: "memory.max",
};

/// Groups of a hierarchy that the memory controller has for itself.
const GROUPS_V1: GroupFiles = GroupFiles {
    mount: "/sys/fs/cgroup/memory",
    usage: "memory.usage_in_bytes",
    limit: "memory.limit_in_bytes",
};

/// A limit of the first version that stands for none: the largest multiple of a page, or anything near it.
const NO_LIMIT_BYTES: u64 = 1 << 62;

/// The group that limits memory, by the text of `/proc/self/cgroup`: `4:memory:/path` where the memory controller has a
/// hierarchy of its own, else `0::/path`.
fn memory_group(groups: &str) -> Option<(&'static GroupFiles, &str)> {
    let fields = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let mut unified = None;
    for (controllers, path) in fields {
        if controllers.split(',').any(|name| name == "memory") {
            return Some((&GROUPS_V1, path));
        }
        if controllers.is_empty() {
            unified = Some((&GROUPS_V2, path));
        }
    }
    unified
}

/// The control group, of this process's and those above it, whose memory is nearest to its limit; `None` if none has one.
/// In a container the path may be the host's, while what is mounted begins at the container's group: going up covers it.
pub(crate) fn group_memory() -> Option<GroupMemory> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let (files, path) = memory_group(&groups)?;
    let mut group = std::path::Path::new(files.mount).join(path.trim_start_matches('/'));
    let mut nearest: Option<GroupMemory> = None;
    let left = |group: GroupMemory| group.limit_bytes.saturating_sub(group.usage_bytes);
    while group.starts_with(files.mount) {
        let read = |name: &str| -> Option<u64> {
            let text = std::fs::read_to_string(group.join(name)).ok()?;
            text.trim().parse().ok()
        };
        if let (Some(usage_bytes), Some(limit_bytes)) = (read(files.usage), read(files.limit))
            && limit_bytes < NO_LIMIT_BYTES
        {
            let found = GroupMemory {
                usage_bytes,
                limit_bytes,
            };
            if nearest.is_none_or(|other| left(found) < left(other)) {
                nearest = Some(found);
            }
        }
        group.pop();
    }
    nearest
}

/// Processor time of the process's first thread, which runs the first worker: precise to 10 ms.
pub(crate) fn main_thread_cpu_time() -> CpuTime {
    let path = format!("/proc/self/task/{}/stat", std::process::id());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The fields are counted from behind the program's name, which may hold anything.
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let mut times = fields.split_ascii_whitespace().skip(11).map(|field| {
        let ticks = field.parse::<u64>().unwrap_or(0);
        Duration::from_millis(
            ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second().max(1),
        )
    });
    CpuTime {
        user: times.next().unwrap_or_default(),
        system: times.next().unwrap_or_default(),
    }
}

/// Memory of the machine in bytes.
pub(crate) fn machine_memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    #[allow(
        clippy::useless_conversion,
        reason = "the field's type differs between machines"
    )]
    let total = u64::try_from(info.totalram).unwrap_or(0);
    total.saturating_mul(u64::from(info.mem_unit).max(1))
}

/// The mappings of the program's and its libraries' code, each with its first address and its length in bytes.
fn code_mappings() -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mapping = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (range, access) = (fields.next()?, fields.next()?);
        let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        (is_file && access == "r-xp").then_some((start, end - start))
    };
    maps.lines().filter_map(mapping).collect()
}

/// Gives back the resident pages of code: most were needed only for the start, or for work that is done. What is needed
/// again comes back from the system's cache of the files.
pub(crate) fn drop_program_pages() {
    for (start, len) in code_mappings() {
        let address = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the mapping is executable and not writable, so its pages equal the file's, and a page that is
        // touched after this is read from the file again.
        unsafe { libc::madvise(address, len, libc::MADV_DONTNEED) };
    }
}

/// Tells a supervisor of the upstart kind that the server is ready, by stopping until it is continued.
pub(crate) fn stop_self() {
    // Where the signal cannot be sent, nobody waits for it either.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
}

/// Tells a supervisor of the systemd kind how the server is, if one started it.
pub(crate) fn notify_supervisor(state: &str) -> bool {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return false;
    };
    let bytes = path.as_encoded_bytes();
    let sent = std::os::unix::net::UnixDatagram::unbound().and_then(|socket| {
        match bytes.strip_prefix(b"@") {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt as _;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                socket.send_to_addr(state.as_bytes(), &address)
            }
            None => socket.send_to(state.as_bytes(), &path),
        }
    });
    sent.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_that_limits_memory_is_found() {
        let path = |groups| memory_group(groups).map(|(files, path)| (files.usage, path));
        let first = "memory.usage_in_bytes";
        assert_eq!(path("0::/a/b\n"), Some(("memory.current", "/a/b")));
        assert_eq!(path("4:memory:/x\n1:cpu:/\n0::/\n"), Some((first, "/x")));
        assert_eq!(path("0::/\n7:cpu,memory:/y:z\n"), Some((first, "/y:z")));
        assert_eq!(path("1:cpu:/\nnonsense\n"), None);
    }

    #[test]
    fn the_system_answers() {
        assert!((1970..=1971).contains(&local_time(86_400 * 2).year));
        assert!(resident_memory().resident_bytes > 100_000);
        assert!(machine_memory_bytes() > 1 << 20);
        let used = cpu_time(CpuOf::Process);
        assert!(used.user + used.system > Duration::ZERO);
        assert!(raise_file_limit(16) >= 16);
        let before = thread_usage();
        while thread_usage().cpu == before.cpu {}
        assert!(thread_usage().minor_faults >= before.minor_faults);
    }
}
