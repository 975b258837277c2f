//! Linux: `mmap`, `mprotect`, `madvise`, `process_madvise`, `mremap`.
//!
//! Address space is reserved with `PROT_NONE`, which no overcommit policy
//! charges, and made writable as it is needed, which works under all three.
//! Huge pages are declined for the whole reservation: the kernel would
//! otherwise refill pages that were given back.
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

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let slack = if align > super::super::units::PAGE_BYTES {
        align
    } else {
        0
    };
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

pub(crate) fn address_space_max() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the call writes to `limit` alone; if it fails, nothing.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
    match limit.rlim_cur {
        libc::RLIM_INFINITY => usize::MAX,
        bytes => usize::try_from(bytes).unwrap_or(usize::MAX),
    }
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
