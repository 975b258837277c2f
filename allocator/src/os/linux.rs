//! Linux: `mmap`, `mprotect`, `madvise`, `process_madvise`, `mremap`.
//!
//! Address space is reserved with `PROT_NONE`, which no overcommit policy
//! charges, and made writable as it is needed, which works under all three.
//! Huge pages are declined for the whole reservation: the kernel would
//! otherwise refill pages that were given back. Where one is wanted, a range is
//! excepted from that until it is split.
//!
//! Pages are given back with `MADV_DONTNEED`. `MADV_FREE` costs as much and
//! does not lower the resident size before memory is short. Scattered ranges
//! go through `process_madvise` on the process itself, five times cheaper per
//! page than one call each (Linux 6.13 and later; older kernels refuse, and
//! get single calls).

use super::Range;
use core::ffi::{CStr, c_void};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

/// A pidfd that means the calling process (Linux 6.14).
const PIDFD_SELF: libc::c_int = -10000;
/// Ranges per call, below the kernel's limit of 1024; 4 KiB of stack.
const BATCH_RANGES: usize = 256;

/// Set once the kernel has refused a batch that single calls could do.
static BATCH_REFUSED: AtomicBool = AtomicBool::new(false);

pub(crate) fn page_bytes() -> usize {
    // SAFETY: the call reads what the kernel told the process at its start.
    unsafe { libc::getauxval(libc::AT_PAGESZ) as usize }
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let slack = if align > page_bytes() { align } else { 0 };
    let total = bytes.checked_add(slack)?;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice
    // touches no memory that exists.
    let mapped = unsafe {
        libc::mmap(
            ptr::null_mut(),
            total,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    let mapped = mapped.cast::<u8>();
    let head = mapped.align_offset(align);
    // SAFETY: `head` is at most `slack`, so the pointer stays in the mapping.
    let start = unsafe { mapped.add(head) };
    // SAFETY: the ranges before `start` and behind `start + bytes` belong to
    // the mapping just made, and nobody knows of them.
    unsafe {
        if head > 0 {
            libc::munmap(mapped.cast(), head);
        }
        if slack > head {
            libc::munmap(start.add(bytes).cast(), slack - head);
        }
        // Refused by kernels without huge pages, which is as good.
        libc::madvise(start.cast(), bytes, libc::MADV_NOHUGEPAGE);
    }
    NonNull::new(start)
}

pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's range lies in a reservation of ours; making it
    // accessible takes nothing from anybody.
    unsafe {
        libc::mprotect(
            start.as_ptr().cast(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
        ) == 0
    }
}

pub(crate) unsafe fn allow_reads(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: the caller's range lies in a reservation of ours. What cannot be written
    // is charged to nobody, under any overcommit policy.
    unsafe { libc::mprotect(start.as_ptr().cast(), bytes, libc::PROT_READ) == 0 }
}

pub(crate) unsafe fn purge(ranges: &[Range]) -> usize {
    let mut done = 0;
    while done < ranges.len() {
        let rest = &ranges[done..];
        let batch = &rest[..rest.len().min(BATCH_RANGES)];
        // SAFETY: the caller gives the contents of all ranges up.
        if batch.len() > 1 && unsafe { purge_batch(batch) } {
            done += batch.len();
            continue;
        }
        for range in batch {
            // SAFETY: the caller gives the contents of the range up.
            if !unsafe { purge_one(*range) } {
                return done;
            }
            done += 1;
        }
    }
    done
}

/// Purges all ranges by one call; false if any may be left.
///
/// # Safety
/// As [`purge`]; at most [`BATCH_RANGES`] ranges.
unsafe fn purge_batch(ranges: &[Range]) -> bool {
    if BATCH_REFUSED.load(Ordering::Relaxed) {
        return false;
    }
    let mut vectors = [libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }; BATCH_RANGES];
    let mut bytes = 0;
    for (vector, range) in vectors.iter_mut().zip(ranges) {
        vector.iov_base = range.start.as_ptr().cast();
        vector.iov_len = range.bytes;
        bytes += range.bytes;
    }
    // SAFETY: the vectors name committed ranges whose contents are given up.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            PIDFD_SELF,
            vectors.as_ptr(),
            ranges.len(),
            libc::MADV_DONTNEED,
            0,
        )
    };
    if advised < 0 {
        // SAFETY: the location is the calling thread's own.
        let error = unsafe { *libc::__errno_location() };
        // The advice or PIDFD_SELF is unknown, or a sandbox forbids the call:
        // that does not change during the life of a process.
        let lasting = matches!(
            error,
            libc::EINVAL | libc::EBADF | libc::ESRCH | libc::EPERM | libc::ENOSYS
        );
        if lasting {
            BATCH_REFUSED.store(true, Ordering::Relaxed);
        }
    }
    advised as usize == bytes
}

/// # Safety
/// As [`purge`].
unsafe fn purge_one(range: Range) -> bool {
    // SAFETY: the range is committed and its contents are given up.
    unsafe {
        libc::madvise(
            range.start.as_ptr().cast(),
            range.bytes,
            libc::MADV_DONTNEED,
        ) == 0
    }
}

pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller owns the reservation and is done with it.
    unsafe {
        libc::munmap(start.as_ptr().cast::<c_void>(), bytes);
    }
}

pub(crate) unsafe fn move_pages(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: with MREMAP_DONTUNMAP the source stays mapped and becomes empty,
    // with MREMAP_FIXED the target is replaced; the caller needs neither's
    // former contents at its old place.
    let moved = unsafe {
        libc::mremap(
            from.as_ptr().cast(),
            bytes,
            bytes,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP,
            to.as_ptr().cast::<c_void>(),
        )
    };
    moved == to.as_ptr().cast()
}

pub(crate) fn has_huge_pages(bytes: usize) -> bool {
    const SWITCH: &CStr = c"/sys/kernel/mm/transparent_hugepage/enabled";
    const SIZE: &CStr = c"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    let mut text = [0; 64];
    let read = |path, text: &mut [u8; 64]| super::read_file(path, text);
    let Some(length) = read(SWITCH, &mut text) else {
        return false;
    };
    // The chosen word stands in brackets: always, madvise or never.
    if text[..length].windows(2).any(|word| word == b"[n") {
        return false;
    }
    let size = read(SIZE, &mut text)
        .and_then(|length| core::str::from_utf8(text[..length].trim_ascii()).ok())
        .and_then(|size| size.parse().ok());
    // SAFETY: the call changes nothing.
    let disabled = unsafe { libc::prctl(libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) };
    size == Some(bytes) && disabled == 0
}

/// Looks at the process's page map, eight bytes per page, of which two bits say
/// that there is memory and that nobody else maps it. The page of zeros that is
/// read before anything was written has the former alone. (Linux 4.2.)
pub(crate) fn is_all_own(range: Range) -> bool {
    const PRESENT: u64 = 1 << 63;
    const EXCLUSIVE: u64 = 1 << 56;
    const ENTRIES: usize = 512;
    let first = range.start.as_ptr().addr() / page_bytes();
    let pages = range.bytes / page_bytes();
    let mut entries = [0_u64; ENTRIES];
    // SAFETY: the path is a C string, and the descriptor is this function's.
    let file = unsafe {
        libc::open(
            c"/proc/self/pagemap".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        )
    };
    if file < 0 {
        return false;
    }
    let mut done = 0;
    while done < pages {
        let count = (pages - done).min(ENTRIES);
        let bytes = count * size_of::<u64>();
        let offset = ((first + done) * size_of::<u64>()) as libc::off_t;
        // SAFETY: the buffer has room for so many bytes.
        let read = unsafe { libc::pread(file, entries.as_mut_ptr().cast(), bytes, offset) };
        let own = |entry: &u64| entry & (PRESENT | EXCLUSIVE) == PRESENT | EXCLUSIVE;
        if read != bytes as isize || !entries[..count].iter().all(own) {
            break;
        }
        done += count;
    }
    // SAFETY: the descriptor is this function's.
    unsafe { libc::close(file) };
    done == pages
}

/// # Safety
/// The advice keeps contents, or the caller gives those of the range up.
unsafe fn advise(start: NonNull<u8>, bytes: usize, advice: libc::c_int) -> bool {
    // SAFETY: the caller's promise.
    unsafe { libc::madvise(start.as_ptr().cast(), bytes, advice) == 0 }
}

pub(crate) unsafe fn allow_huge(range: Range) -> bool {
    // SAFETY: the advice keeps contents.
    unsafe { advise(range.start, range.bytes, libc::MADV_HUGEPAGE) }
}

pub(crate) unsafe fn collapse(range: Range) -> bool {
    /// Linux 6.1 and later.
    const MADV_COLLAPSE: libc::c_int = 25;
    // SAFETY: the advice keeps contents.
    if unsafe { advise(range.start, range.bytes, MADV_COLLAPSE) } {
        return true;
    }
    // Where the advice is unknown, the kernel's own thread finds the range in time.
    // SAFETY: the location is the calling thread's own.
    unsafe { *libc::__errno_location() == libc::EINVAL }
}

pub(crate) unsafe fn split_huge(range: Range, whole: bool) -> bool {
    /// Linux 5.4 and later.
    const MADV_COLD: libc::c_int = 20;
    // SAFETY: these advices keep contents.
    unsafe {
        if !advise(range.start, range.bytes, libc::MADV_NOHUGEPAGE) {
            return false;
        }
        // Advice that concerns a part of a huge page and keeps it makes the kernel
        // split the page itself. When a part is given back it splits the mapping
        // alone, and keeps the memory until it has none left for others.
        if !whole {
            advise(range.start, page_bytes(), MADV_COLD);
        }
    }
    true
}

pub(crate) fn address_space_max() -> usize {
    let limit_of = |resource| {
        let mut limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the call writes to `limit` alone; if it fails, nothing.
        unsafe { libc::getrlimit(resource, &raw mut limit) };
        match limit.rlim_cur {
            libc::RLIM_INFINITY => usize::MAX,
            bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
        }
    };
    // The latter limits what is writable alone, of which tables and the program's code
    // take less.
    let data = limit_of(libc::RLIMIT_DATA);
    limit_of(libc::RLIMIT_AS).min(data.saturating_add(data / 2))
}

pub(crate) fn now_ms() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable. The clock exists on every Linux, so the call
    // cannot fail.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time);
    }
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

pub(crate) fn environment(name: &CStr) -> Option<&[u8]> {
    // SAFETY: the name is a C string; the result is null or one that lives in the
    // environment.
    unsafe {
        if libc::getauxval(libc::AT_SECURE) != 0 {
            return None;
        }
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes())
    }
}

pub(crate) fn read_file(path: &CStr, into: &mut [u8]) -> Option<usize> {
    // SAFETY: the path is a C string; `into` is writable; the descriptor is this
    // function's.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let mut length = 0;
        let end = loop {
            let room = &mut into[length..];
            match libc::read(file, room.as_mut_ptr().cast(), room.len()) {
                0 => break Some(length),
                bytes if bytes < 0 => break None,
                bytes => length += bytes as usize,
            }
        };
        libc::close(file);
        end
    }
}

/// From `getrandom`, and where that is refused, as sandboxes may, from the 16 bytes that
/// the kernel gives every program at its start, and from the clock.
#[cfg(feature = "hardened")]
pub(crate) fn random(words: &mut [u64]) {
    let bytes = size_of_val(words);
    // SAFETY: The words are writable. GRND_NONBLOCK: a program that is started before
    // the kernel has gathered randomness does not wait for it.
    let filled = unsafe {
        libc::syscall(
            libc::SYS_getrandom,
            words.as_mut_ptr(),
            bytes,
            libc::GRND_NONBLOCK,
        )
    };
    if usize::try_from(filled) == Ok(bytes) {
        return;
    }
    // SAFETY: The entry is null or the address of 16 bytes.
    let given = unsafe {
        let place = libc::getauxval(libc::AT_RANDOM) as *const [u64; 2];
        if place.is_null() {
            [0, 0]
        } else {
            place.read_unaligned()
        }
    };
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is writable.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    // The steps of splitmix64 (Steele, Lea, Flood, 2014), from what is known.
    let mut state = given[0] ^ given[1].rotate_left(32) ^ time.tv_nsec as u64;
    for word in words {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        *word = mixed ^ (mixed >> 31);
    }
}

/// Guards that do not cut the system's map of the process into pieces (Linux 6.13).
#[cfg(feature = "hardened")]
const MADV_GUARD_INSTALL: libc::c_int = 102;
#[cfg(feature = "hardened")]
const MADV_GUARD_REMOVE: libc::c_int = 103;

/// Set once the kernel has said that it does not know these guards.
#[cfg(feature = "hardened")]
static GUARDS_UNKNOWN: AtomicBool = AtomicBool::new(false);

/// Ranges that are to be protected in the older way, and how many of them are: each may
/// make two pieces more, of which a process may have 65,530, its own among them.
#[cfg(feature = "hardened")]
static PROTECTED: core::sync::atomic::AtomicIsize = core::sync::atomic::AtomicIsize::new(0);
#[cfg(feature = "hardened")]
const PROTECTED_MAX: isize = 8192;

#[cfg(feature = "hardened")]
pub(crate) unsafe fn guard(start: NonNull<u8>, bytes: usize) {
    let start = start.as_ptr().cast::<c_void>();
    if !GUARDS_UNKNOWN.load(Ordering::Relaxed) {
        // SAFETY: the pages are the caller's, who needs nothing of them.
        let refused = unsafe { libc::madvise(start, bytes, MADV_GUARD_INSTALL) } != 0;
        // SAFETY: the location is the calling thread's own.
        if !refused || unsafe { *libc::__errno_location() } != libc::EINVAL {
            return;
        }
        GUARDS_UNKNOWN.store(true, Ordering::Relaxed);
    }
    if PROTECTED.fetch_add(1, Ordering::Relaxed) < PROTECTED_MAX {
        // SAFETY: as above.
        unsafe { libc::mprotect(start, bytes, libc::PROT_NONE) };
    }
}

#[cfg(feature = "hardened")]
pub(crate) unsafe fn lift_guard(start: NonNull<u8>, bytes: usize, guards: usize) -> bool {
    let start = start.as_ptr().cast::<c_void>();
    if !GUARDS_UNKNOWN.load(Ordering::Relaxed) {
        // SAFETY: the pages are the caller's.
        return unsafe { libc::madvise(start, bytes, MADV_GUARD_REMOVE) } == 0;
    }
    // SAFETY: as above.
    let done = unsafe { libc::mprotect(start, bytes, libc::PROT_READ | libc::PROT_WRITE) } == 0;
    if done {
        PROTECTED.fetch_sub(guards as isize, Ordering::Relaxed);
    }
    done
}
