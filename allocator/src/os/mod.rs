//! What the allocator asks of the operating system, and nothing else: address
//! space, memory behind it, giving that memory back, and the time.
//!
//! Every function that can fail says so by its result and changes nothing
//! then. Nothing here allocates, locks or panics.

#[cfg(any(test, miri, fuzzing))]
pub(crate) mod fake;
#[cfg(not(miri))]
#[cfg_attr(
    fuzzing,
    allow(dead_code, reason = "the fake answers for itself as to huge pages")
)]
mod linux;
mod reservations;

pub use reservations::reservations;

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

/// Bytes of a page of the system's, a power of two: what is committed, purged
/// or moved is made of whole ones.
pub(crate) fn page_bytes() -> usize {
    system::page_bytes()
}

/// Reserves `bytes` of address space, aligned to `align` and to a page of the
/// system's, without any memory behind it; `None` where the process may not
/// have so much. Both are multiples of such a page, `align` a power of two.
pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    let start = system::reserve(bytes, align)?;
    reservations::note(start, bytes);
    Some(start)
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

/// Makes pages inaccessible that have no memory behind them, until [`lift_guard`]. The
/// system may refuse: then they stay as they are.
///
/// # Safety
/// The range is committed, made of whole pages, was purged, and nobody uses it.
#[cfg(feature = "hardened")]
pub(crate) unsafe fn guard(start: NonNull<u8>, bytes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { system::guard(start, bytes) }
}

/// Makes pages accessible again for which [`guard`] was called, by so many calls. False
/// where the system refuses: then some of them still are not.
///
/// # Safety
/// As [`guard`].
#[cfg(feature = "hardened")]
pub(crate) unsafe fn lift_guard(start: NonNull<u8>, bytes: usize, guards: usize) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { system::lift_guard(start, bytes, guards) }
}

/// Returns a reservation to the system.
///
/// # Safety
/// `start` and `bytes` are those of a reservation, which nobody uses any more.
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) {
    reservations::forget(start);
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

/// Whether the system may put a huge page of `bytes` bytes behind a range of
/// that length, and the process wants that.
pub(crate) fn has_huge_pages(bytes: usize) -> bool {
    system::has_huge_pages(bytes)
}

/// Whether each page of the range has memory behind it that belongs to this
/// process alone: it was written to, and no other process shares it since a fork.
/// False, too, where the system does not tell. Contents are not touched.
pub(crate) fn is_all_own(range: Range) -> bool {
    system::is_all_own(range)
}

/// Lets the system put huge pages behind the range from now on, without making
/// any at once. False, with nothing changed, where it refuses.
///
/// # Safety
/// The range is committed, a huge page long, and aligned to its length.
pub(crate) unsafe fn allow_huge(range: Range) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { system::allow_huge(range) }
}

/// Puts a huge page behind an [allowed](allow_huge) range at once, which takes
/// a millisecond and more; threads that use the range wait meanwhile, and its
/// contents stay. Where the system only does so by itself, that is left to it.
/// False where it cannot at present.
///
/// # Safety
/// As for [`allow_huge`]. The contents of no page are given up meanwhile, unless
/// [`split_huge`] comes before.
pub(crate) unsafe fn collapse(range: Range) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { system::collapse(range) }
}

/// Makes small pages of a huge page, contents kept, and allows it no more, so that
/// parts of it can be [purged](purge): the system would otherwise keep the memory
/// of purged parts. With `whole` all of the range is purged next, and there is no
/// need to take it apart. False, with nothing changed, where the system refuses.
///
/// # Safety
/// As for [`allow_huge`].
pub(crate) unsafe fn split_huge(range: Range, whole: bool) -> bool {
    // SAFETY: passed on to the caller.
    unsafe { system::split_huge(range, whole) }
}

/// Bytes of address space that the process may have in all, and half as much again as
/// it may make writable; `usize::MAX` where nothing limits it.
pub(crate) fn address_space_max() -> usize {
    system::address_space_max()
}

/// Milliseconds of a clock that never goes back.
pub(crate) fn now_ms() -> u64 {
    system::now_ms()
}

/// Fills the words with numbers that nobody else can know.
#[cfg(feature = "hardened")]
pub(crate) fn random(words: &mut [u64]) {
    system::random(words);
}

/// The value of an environment variable, which stays as long as nobody changes it;
/// `None` too where the program runs with other rights than its caller's.
pub(crate) fn environment(name: &CStr) -> Option<&[u8]> {
    system::environment(name)
}

/// Reads a file from its start, at most as much as there is room for. Returns the
/// bytes; `None` where it cannot be read.
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

    /// What Linux itself does, not the fake.
    #[test]
    #[cfg(not(miri))]
    fn a_huge_page_is_made_and_split_without_a_change_of_contents() {
        use super::linux as system;

        let start = system::reserve(CHUNK_BYTES, CHUNK_BYTES).unwrap();
        let range = Range {
            start,
            bytes: CHUNK_BYTES,
        };
        let byte = |index: usize| (index % 251) as u8 | 1;
        // SAFETY: all ranges lie in the reservation and nobody else uses them.
        unsafe {
            assert!(system::commit(start, CHUNK_BYTES));
            assert!(!system::is_all_own(range), "nothing was touched");
            let zeros = core::slice::from_raw_parts(start.as_ptr(), CHUNK_BYTES);
            assert!(zeros.iter().all(|byte| *byte == 0));
            assert!(!system::is_all_own(range), "all pages are that of zeros");
            for index in 0..CHUNK_BYTES {
                start.add(index).write(byte(index));
            }
            assert!(system::is_all_own(range), "all pages were written to");
            if system::has_huge_pages(CHUNK_BYTES) {
                assert!(system::allow_huge(range));
                let _ = system::collapse(range);
                assert!(system::is_all_own(range));
                assert!(system::split_huge(range, false));
                assert!(system::is_all_own(range));
            }
            let bytes = core::slice::from_raw_parts(start.as_ptr(), CHUNK_BYTES);
            assert!((0..CHUNK_BYTES).all(|index| bytes[index] == byte(index)));
            let page = Range {
                start: start.add(CHUNK_BYTES / 2),
                bytes: system::page_bytes(),
            };
            assert_eq!(system::purge(&[page]), 1);
            assert!(!system::is_all_own(page) && !system::is_all_own(range));
            assert_eq!(page.start.read(), 0);
            system::release(start, CHUNK_BYTES);
        }
    }

    #[test]
    fn every_request_can_be_made_to_fail_and_then_changes_nothing() {
        let faults = Faults {
            reserve: true,
            commit: true,
            purge: true,
            move_pages: true,
            huge: true,
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
        let start = reserve(CHUNK_BYTES, CHUNK_BYTES).unwrap();
        let range = Range {
            start,
            bytes: CHUNK_BYTES,
        };
        // SAFETY: as above.
        unsafe {
            assert!(commit(start, CHUNK_BYTES));
            assert!(!inject(faults, || allow_huge(range)));
            assert!(!collapse(range) && allow_huge(range));
            assert!(!inject(faults, || split_huge(range, true)) && collapse(range));
            assert!(split_huge(range, true));
            release(start, CHUNK_BYTES);
        }
        assert!(now_ms() <= now_ms());
    }
}
