//! Whether the control group that the process runs in is about to reach its memory
//! limit: then every free page should go back, before the kernel reclaims what is in
//! use or kills somebody.
//!
//! The group's path stands in `/proc/self/cgroup`: `0::/path` for the unified
//! hierarchy (v2), `4:memory:/path` where the memory controller has one of its own
//! (v1). A limit of any group above holds, too. Inside a container the path may be
//! the host's, while what is mounted starts at the container's own group: going up to
//! the mount covers that case as well.
//!
//! | | usage | limits | page cache that is easily given up |
//! |---|---|---|---|
//! | v2 | `memory.current` | `memory.high`, `memory.max` | `inactive_file` of `memory.stat` |
//! | v1 | `memory.usage_in_bytes` | `memory.limit_in_bytes` | `total_inactive_file` |
//!
//! (As the kernel's documents `cgroup-v2.rst` and `cgroup-v1/memory.rst` describe
//! them; usage less inactive file pages is what Kubernetes calls the working set.)
//! Nothing here allocates; a question costs some tens of microseconds.

use crate::os;
use core::ffi::CStr;

/// Groups that are looked at, from the process's own upwards.
const LEVELS_MAX: usize = 12;

/// Where one kind of hierarchy keeps its figures.
struct Files {
    mount: &'static [u8],
    usage: &'static [u8],
    limits: &'static [&'static [u8]],
    inactive: &'static [u8],
}

const V1: Files = Files {
    mount: b"/sys/fs/cgroup/memory",
    usage: b"memory.usage_in_bytes",
    limits: &[b"memory.limit_in_bytes"],
    inactive: b"total_inactive_file",
};

const V2: Files = Files {
    mount: b"/sys/fs/cgroup",
    usage: b"memory.current",
    limits: &[b"memory.high", b"memory.max"],
    inactive: b"inactive_file",
};

/// Whether the process's group, or one above, is within a sixteenth of its limit.
/// False where there is no limit, and where nothing can be read.
pub(crate) fn is_near_limit() -> bool {
    let mut text = [0; 4096];
    let Some(length) = os::read_file(c"/proc/self/cgroup", &mut text) else {
        return false;
    };
    let Some((files, mut group)) = group_of(&text[..length]) else {
        return false;
    };
    for _ in 0..LEVELS_MAX {
        if files.is_group_near_limit(group) {
            return true;
        }
        let Some(above) = parent(group) else {
            return false;
        };
        group = above;
    }
    // The path was longer than any that is known; the mount itself counts still.
    files.is_group_near_limit(b"")
}

impl Files {
    fn is_group_near_limit(&self, group: &[u8]) -> bool {
        let number_in = |name| {
            let mut text = [0; 32];
            let length = self.read(group, name, &mut text)?;
            number(text[..length].trim_ascii())
        };
        let limits = self.limits.iter().filter_map(|name| number_in(name));
        let (Some(limit), Some(usage)) = (limits.min(), number_in(self.usage)) else {
            return false;
        };
        is_near(usage, limit) && is_near(usage.saturating_sub(self.inactive(group)), limit)
    }

    /// Bytes of files in memory that nobody has used of late.
    fn inactive(&self, group: &[u8]) -> u64 {
        let mut text = [0; 8192];
        self.read(group, b"memory.stat", &mut text)
            .and_then(|length| field(&text[..length], self.inactive))
            .unwrap_or(0)
    }

    fn read(&self, group: &[u8], name: &[u8], text: &mut [u8]) -> Option<usize> {
        // The last byte stays zero.
        let mut path = [0; 1024];
        let mut length = 0;
        for part in [self.mount, group, b"/", name] {
            path[..1023]
                .get_mut(length..length + part.len())?
                .copy_from_slice(part);
            length += part.len();
        }
        os::read_file(CStr::from_bytes_until_nul(&path).ok()?, text)
    }
}

/// The hierarchy that limits memory, and the process's group in it, without a slash
/// at its end.
fn group_of(text: &[u8]) -> Option<(&'static Files, &[u8])> {
    let mut unified = None;
    for line in text.split(|byte| *byte == b'\n') {
        let mut parts = line.splitn(3, |byte| *byte == b':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let group = path.strip_suffix(b"/").unwrap_or(path);
        if controllers.is_empty() {
            unified = Some((&V2, group));
        } else if controllers
            .split(|byte| *byte == b',')
            .any(|name| name == b"memory")
        {
            return Some((&V1, group));
        }
    }
    unified
}

/// The group above; `None` for the topmost.
fn parent(group: &[u8]) -> Option<&[u8]> {
    let slash = group.iter().rposition(|byte| *byte == b'/')?;
    Some(&group[..slash])
}

/// Whether less than a sixteenth of the limit is left.
fn is_near(usage: u64, limit: u64) -> bool {
    usage >= limit - limit / 16
}

/// A decimal number; `None` for `max`, which is no limit, and anything else.
fn number(text: &[u8]) -> Option<u64> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// The number behind a name at the start of a line.
fn field(text: &[u8], name: &[u8]) -> Option<u64> {
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let rest = line.strip_prefix(name)?.strip_prefix(b" ")?;
        number(rest.trim_ascii())
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::os::fake::with_files;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn near(files: &[(&str, &str)]) -> bool {
        with_files(files, is_near_limit)
    }

    /// A v2 group at `/a/b` with these contents.
    fn unified(current: &str, high: &str, max: &str, stat: &str) -> bool {
        near(&[
            ("/proc/self/cgroup", "0::/a/b\n"),
            ("/sys/fs/cgroup/a/b/memory.current", current),
            ("/sys/fs/cgroup/a/b/memory.high", high),
            ("/sys/fs/cgroup/a/b/memory.max", max),
            ("/sys/fs/cgroup/a/b/memory.stat", stat),
        ])
    }

    #[test]
    fn the_lower_of_two_limits_holds() {
        assert!(unified("1000\n", "max\n", "1000\n", ""));
        assert!(unified("950\n", "1000\n", "4000\n", ""));
        assert!(!unified("930\n", "1000\n", "4000\n", ""));
        assert!(!unified("1000\n", "max\n", "max\n", ""));
        assert!(unified("5000\n", "max\n", "4000\n", ""));
    }

    #[test]
    fn page_cache_that_nobody_uses_does_not_count() {
        let stat = "anon 400\nfile 600\nactive_file 100\ninactive_file 500\n";
        assert!(!unified("1000\n", "max\n", "1000\n", stat));
        let stat = "anon 950\ninactive_file 20\n";
        assert!(unified("1000\n", "max\n", "1000\n", stat));
    }

    #[test]
    fn limits_of_the_groups_above_hold_too() {
        let own = [
            ("/proc/self/cgroup", "0::/a/b/c\n"),
            ("/sys/fs/cgroup/a/b/c/memory.current", "10\n"),
            ("/sys/fs/cgroup/a/b/c/memory.max", "max\n"),
            ("/sys/fs/cgroup/a/memory.current", "990\n"),
        ];
        let with = |limit| {
            let mut files = own.to_vec();
            files.push(("/sys/fs/cgroup/a/memory.max", limit));
            near(&files)
        };
        assert!(with("1000\n"));
        assert!(!with("2000\n"));
        assert!(!near(&own));
    }

    #[test]
    fn the_first_version_and_a_container_that_sees_only_itself() {
        let with = |usage| {
            near(&[
                (
                    "/proc/self/cgroup",
                    "9:cpu,cpuacct:/\n4:memory:/docker/12\n0::/\n",
                ),
                ("/sys/fs/cgroup/memory/memory.usage_in_bytes", usage),
                ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
                (
                    "/sys/fs/cgroup/memory/memory.stat",
                    "inactive_file 900\ntotal_inactive_file 9\n",
                ),
            ])
        };
        assert!(with("1000\n"));
        assert!(!with("900\n"));
    }

    #[test]
    fn without_files_nothing_is_near() {
        assert!(!near(&[]));
        assert!(!near(&[("/proc/self/cgroup", "")]));
        assert!(!near(&[("/proc/self/cgroup", "nonsense\n::\n0::/x\n")]));
        let long = format!("0::/{}\n", "x/".repeat(900));
        assert!(!near(&[("/proc/self/cgroup", long.as_str())]));
    }

    #[test]
    fn a_deep_group_still_looks_at_the_mount() {
        let deep = format!("0::{}\n", "/x".repeat(LEVELS_MAX + 5));
        assert!(near(&[
            ("/proc/self/cgroup", deep.as_str()),
            ("/sys/fs/cgroup/memory.current", "10\n"),
            ("/sys/fs/cgroup/memory.max", "10\n"),
        ]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..<_>::default() })]

        #[test]
        fn near_means_the_last_sixteenth(usage in 0..4 * GIB, limit in 0..4 * GIB) {
            prop_assert_eq!(is_near(usage, limit), usage + limit / 16 >= limit);
        }

        /// Nothing that stands in the files does any harm.
        #[test]
        fn any_bytes_can_be_read(text in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some((_, group)) = group_of(&text) {
                let mut group = Some(group);
                while let Some(shorter) = group.and_then(parent) {
                    prop_assert!(shorter.len() < text.len());
                    group = Some(shorter);
                }
            }
            number(&text);
            field(&text, b"inactive_file");
        }
    }
}
