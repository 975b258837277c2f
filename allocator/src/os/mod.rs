//! What the allocator asks of the operating system, and nothing else: address
//! space, memory behind it, giving that memory back, and the time.
//!
//! Every function that can fail says so by its result and changes nothing
//! then. Nothing here allocates, locks or panics.

#[cfg(any(test, miri, fuzzing))]
pub(crate) mod fake;
#[cfg(not(miri))]
mod linux;

#[cfg(any(test, miri, fuzzing))]
use fake as system;
#[cfg(not(any(test, miri, fuzzing)))]
use linux as system;

use core::ffi::CStr;
use core::ptr::NonNull;

/// A range of memory that is to be given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) start: NonNull<u8>,
    pub(crate) bytes: usize,
}

/// Reserves `bytes` of address space, aligned to `align`, without any memory
/// behind it; `None` where the process may not have so much. Both are
/// multiples of the page, `align` a power of two.
pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    system::reserve(bytes, align)
}

/// Makes reserved pages readable and writable. They read as zero until they
/// are written. False where the system grants no more memory.
///
/// # Safety
/// The range lies in a reservation and is made of whole pages.
pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { system::commit(start, bytes) }
}

/// Makes reserved pages readable, which read as zero. That needs no memory. False where
/// the system refuses.
///
/// # Safety
/// The range lies in a reservation, is made of whole pages, and not committed yet.
pub(crate) unsafe fn allow_reads(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { system::allow_reads(start, bytes) }
}

/// Gives the memory behind the ranges back; they stay readable and writable
/// and read as zero. Returns how many ranges, counted from the first, are
/// done: fewer than given only where the system refuses.
///
/// # Safety
/// The ranges are committed, made of whole pages, and nobody needs or touches
/// their contents.
pub(crate) unsafe fn purge(ranges: &[Range]) -> usize {
    // SAFETY: passed on to the caller.
    unsafe { system::purge(ranges) }
}

/// Returns a reservation to the system.
///
/// # Safety
/// `start` and `bytes` are those of a reservation, which nobody uses any more.
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { system::release(start, bytes) }
}

/// Moves the memory behind `bytes` from `from` to `to` without copying. `from`
/// reads as zero afterwards, what was behind `to` is given back. False, with
/// nothing changed, where the system cannot.
///
/// # Safety
/// Both ranges are committed, made of whole pages, and do not overlap; nobody
/// needs the contents of `to`.
pub(crate) unsafe fn move_pages(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { system::move_pages(from, to, bytes) }
}

/// Bytes of address space that the process may have in all; `usize::MAX` where
/// nothing limits it.
pub(crate) fn address_space_max() -> usize {
    system::address_space_max()
}

/// Milliseconds of a clock that never goes back.
pub(crate) fn now_ms() -> u64 {
    system::now_ms()
}

/// The value of an environment variable, which stays as long as nobody changes it;
/// `None` too where the program runs with other rights than its caller's.
pub(crate) fn environment(name: &CStr) -> Option<&[u8]> {
    system::environment(name)
}

/// Reads a file from its start, at most as much as there is room for. Returns the
/// bytes; `None` where it cannot be read.
#[cfg_attr(loom, allow(dead_code))]
pub(crate) fn read_file(path: &CStr, into: &mut [u8]) -> Option<usize> {
    system::read_file(path, into)
}

#[cfg(test)]
mod tests {
    use super::fake::{Faults, inject};
    use super::*;
    use crate::units::{CHUNK_BYTES, PAGE_BYTES};

    #[test]
    fn purged_pages_read_as_zero_and_moved_pages_keep_their_bytes() {
        let start = reserve(4 * CHUNK_BYTES, CHUNK_BYTES).unwrap();
        assert!(start.as_ptr().addr().is_multiple_of(CHUNK_BYTES));
        // SAFETY: all ranges lie in the reservation and nobody else uses them.
        unsafe {
            assert!(commit(start, 2 * CHUNK_BYTES));
            let page = |index: usize| start.add(index * PAGE_BYTES);
            for index in 0..600 {
                page(index).write(index as u8 | 1);
            }
            let ranges: Vec<Range> = (0..600)
                .step_by(2)
                .map(|index| Range {
                    start: page(index),
                    bytes: PAGE_BYTES,
                })
                .collect();
            assert_eq!(purge(&ranges), ranges.len());
            for index in 0..600 {
                let expected = if index % 2 == 0 { 0 } else { index as u8 | 1 };
                assert_eq!(page(index).read(), expected);
            }
            if move_pages(page(1), page(700), PAGE_BYTES) {
                assert_eq!((page(1).read(), page(700).read()), (0, 1));
            }
            release(start, 4 * CHUNK_BYTES);
        }
    }

    #[test]
    fn every_request_can_be_made_to_fail_and_then_changes_nothing() {
        let faults = Faults {
            reserve: true,
            commit: true,
            purge: true,
            move_pages: true,
        };
        assert!(inject(faults, || reserve(PAGE_BYTES, PAGE_BYTES)).is_none());
        let start = reserve(CHUNK_BYTES, PAGE_BYTES).unwrap();
        // SAFETY: as above.
        unsafe {
            assert!(!inject(faults, || commit(start, CHUNK_BYTES)));
            assert!(commit(start, CHUNK_BYTES));
            start.write(7);
            let range = Range {
                start,
                bytes: PAGE_BYTES,
            };
            assert_eq!(inject(faults, || purge(&[range])), 0);
            assert!(!inject(faults, || move_pages(
                start,
                start.add(PAGE_BYTES),
                PAGE_BYTES
            )));
            assert_eq!(start.read(), 7);
            release(start, CHUNK_BYTES);
        }
        assert!(now_ms() <= now_ms());
    }
}
