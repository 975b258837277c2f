//! The operating system as tests see it: every request can be made to fail.
//!
//! Under Miri, which knows no `mmap`, memory comes from the system allocator
//! and purging writes zeros. Otherwise calls go to Linux, so that touching
//! what was never committed faults, and what was purged reads as zero.
//!
//! Faults are injected on one thread and only within [`inject`]: code of the
//! test itself, such as the growth of a model's `Vec`, stays outside.

use super::Range;
use core::cell::{Cell, RefCell};
use core::ffi::CStr;
use core::ptr::NonNull;

/// Which requests fail while [`inject`] runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// `reserve` finds no address space.
    pub(crate) reserve: bool,
    /// `commit` gets no memory.
    pub(crate) commit: bool,
    /// `purge` is refused.
    pub(crate) purge: bool,
    /// `move_pages` is refused.
    pub(crate) move_pages: bool,
}

thread_local! {
    static FAULTS: Cell<Faults> = const {
        Cell::new(Faults { reserve: false, commit: false, purge: false, move_pages: false })
    };
}

/// Runs `act` while the system refuses what `faults` names.
pub(crate) fn inject<T>(faults: Faults, act: impl FnOnce() -> T) -> T {
    let before = FAULTS.replace(faults);
    let result = act();
    FAULTS.set(before);
    result
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    if FAULTS.get().reserve {
        return None;
    }
    memory::reserve(bytes, align)
}

pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: passed on to the caller.
    !FAULTS.get().commit && unsafe { memory::commit(start, bytes) }
}

pub(crate) unsafe fn allow_reads(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: passed on to the caller.
    !FAULTS.get().reserve && unsafe { memory::allow_reads(start, bytes) }
}

pub(crate) unsafe fn purge(ranges: &[Range]) -> usize {
    if FAULTS.get().purge {
        return 0;
    }
    // SAFETY: passed on to the caller.
    unsafe { memory::purge(ranges) }
}

pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) {
    // SAFETY: passed on to the caller.
    unsafe { memory::release(start, bytes) }
}

pub(crate) unsafe fn move_pages(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: passed on to the caller.
    !FAULTS.get().move_pages && unsafe { memory::move_pages(from, to, bytes) }
}

pub(crate) fn address_space_max() -> usize {
    memory::address_space_max()
}

pub(crate) fn now_ms() -> u64 {
    memory::now_ms()
}

pub(crate) fn environment(name: &CStr) -> Option<&[u8]> {
    memory::environment(name)
}

thread_local! {
    /// The only files that there are, if any are named: paths and contents.
    static FILES: RefCell<Option<Vec<(String, String)>>> = const { RefCell::new(None) };
}

/// Runs `act` while these files, given by path and contents, are all that there are.
#[cfg(test)]
pub(crate) fn with_files<T>(files: &[(&str, &str)], act: impl FnOnce() -> T) -> T {
    let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
    let before = FILES.replace(Some(files.iter().map(owned).collect()));
    let result = act();
    FILES.set(before);
    result
}

pub(crate) fn read_file(path: &CStr, into: &mut [u8]) -> Option<usize> {
    FILES.with_borrow(|files| match files {
        Some(files) => {
            let (_, text) = files
                .iter()
                .find(|(name, _)| name.as_bytes() == path.to_bytes())?;
            let length = text.len().min(into.len());
            into[..length].copy_from_slice(&text.as_bytes()[..length]);
            Some(length)
        }
        None => memory::read_file(path, into),
    })
}

#[cfg(not(miri))]
use super::linux as memory;

#[cfg(miri)]
mod memory {
    use super::super::Range;
    use core::alloc::Layout;
    use core::ffi::CStr;
    use core::ptr::{self, NonNull};

    /// Every reservation has this alignment at least, so that `release`, which
    /// is not told the alignment, can name the same layout.
    const ALIGN: usize = crate::units::CHUNK_BYTES;

    fn layout(bytes: usize) -> Option<Layout> {
        Layout::from_size_align(bytes, ALIGN).ok()
    }

    pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
        assert!(align <= ALIGN && bytes > 0);
        // SAFETY: the size is not zero.
        NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(bytes)?) })
    }

    pub(crate) unsafe fn commit(_start: NonNull<u8>, _bytes: usize) -> bool {
        true
    }

    pub(crate) unsafe fn allow_reads(_start: NonNull<u8>, _bytes: usize) -> bool {
        true
    }

    pub(crate) unsafe fn purge(ranges: &[Range]) -> usize {
        for range in ranges {
            // SAFETY: the caller gives the contents of the range up.
            unsafe { ptr::write_bytes(range.start.as_ptr(), 0, range.bytes) };
        }
        ranges.len()
    }

    pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) {
        if let Some(layout) = layout(bytes) {
            // SAFETY: `reserve` allocated the range with this layout.
            unsafe { std::alloc::dealloc(start.as_ptr(), layout) };
        }
    }

    pub(crate) unsafe fn move_pages(_: NonNull<u8>, _: NonNull<u8>, _: usize) -> bool {
        false
    }

    pub(crate) fn address_space_max() -> usize {
        usize::MAX
    }

    pub(crate) fn now_ms() -> u64 {
        0
    }

    pub(crate) fn environment(_: &CStr) -> Option<&[u8]> {
        None
    }

    pub(crate) fn read_file(_: &CStr, _: &mut [u8]) -> Option<usize> {
        None
    }
}
