//! The operating system as tests see it: every request can be made to fail.
//!
//! Under Miri, which knows no `mmap`, memory comes from the system allocator
//! and purging writes zeros. Otherwise calls go to Linux, so that touching
//! what was never committed faults, and what was purged reads as zero.
//!
//! Faults are injected on one thread and only within [`inject`], or one fault at
//! one request within [`inject_at`]: code of the test itself, such as the growth of
//! a model's `Vec`, stays outside.
//!
//! Pages may be [larger](with_page_bytes) than Linux's here, and every request is
//! held to them. Huge pages are books alone: a part of one must not be purged
//! before it is split.

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
    /// `allow_huge`, `collapse` and `split_huge` are refused.
    pub(crate) huge: bool,
}

impl Faults {
    const NONE: Faults = Faults {
        reserve: false,
        commit: false,
        purge: false,
        move_pages: false,
        huge: false,
    };
}

thread_local! {
    static FAULTS: Cell<Faults> = const { Cell::new(Faults::NONE) };
    /// Requests that are granted until one is refused; negative while none is.
    static UNTIL_FAULT: Cell<i64> = const { Cell::new(i64::MIN) };
    static PAGE_BYTES: Cell<usize> = const { Cell::new(crate::units::PAGE_BYTES) };
    /// First bytes and lengths of the ranges that huge pages are allowed in.
    static HUGE: RefCell<Vec<(usize, usize)>> = const { RefCell::new(Vec::new()) };
    static RESERVED_BYTES: Cell<usize> = const { Cell::new(0) };
    static IS_ALL_OWN: Cell<bool> = const { Cell::new(true) };
}

/// Runs `act` with pages of so many bytes, a multiple of Linux's.
#[cfg(test)]
pub(crate) fn with_page_bytes<T>(bytes: usize, act: impl FnOnce() -> T) -> T {
    let before = PAGE_BYTES.replace(bytes);
    let result = act();
    PAGE_BYTES.set(before);
    result
}

/// Runs `act` while the request number `number`, counted from 0, is refused, and no
/// other. Returns also whether there was such a request.
#[cfg(test)]
pub(crate) fn inject_at<T>(number: u32, act: impl FnOnce() -> T) -> (T, bool) {
    UNTIL_FAULT.set(i64::from(number));
    let result = act();
    let met = has_refused();
    UNTIL_FAULT.set(i64::MIN);
    (result, met)
}

/// Whether the request was made that is refused within [`inject_at`].
pub(crate) fn has_refused() -> bool {
    let left = UNTIL_FAULT.get();
    left < 0 && left > i64::MIN
}

/// Bytes that this thread has reserved and not released.
#[cfg(test)]
pub(crate) fn reserved_bytes() -> usize {
    RESERVED_BYTES.get()
}

/// What [`is_all_own`] says while `act` runs.
#[cfg(all(test, not(feature = "hardened")))]
pub(crate) fn with_all_own<T>(answer: bool, act: impl FnOnce() -> T) -> T {
    let before = IS_ALL_OWN.replace(answer);
    let result = act();
    IS_ALL_OWN.set(before);
    result
}

/// The number of ranges that huge pages are allowed in.
#[cfg(test)]
pub(crate) fn huge_ranges() -> usize {
    HUGE.with_borrow(Vec::len)
}

/// Whether a request is refused, of the kind that `kind` looks up.
fn is_refused(kind: impl Fn(&Faults) -> bool) -> bool {
    let left = UNTIL_FAULT.get();
    if left >= 0 {
        UNTIL_FAULT.set(left - 1);
    }
    left == 0 || kind(&FAULTS.get())
}

/// Panics unless the range consists of whole pages.
fn assert_whole_pages(start: NonNull<u8>, bytes: usize) {
    let page_bytes = PAGE_BYTES.get();
    let start = start.as_ptr().addr();
    assert!(
        start.is_multiple_of(page_bytes) && bytes.is_multiple_of(page_bytes),
        "{start:#x} and {bytes:#x} bytes are not made of pages of {page_bytes:#x}"
    );
}

/// Runs `act` on the ranges of the thread. Not while the thread ends, when its list is
/// gone: what a thread gives back then has no huge pages in any test.
fn with_huge(act: impl FnOnce(&mut Vec<(usize, usize)>)) {
    let _ = HUGE.try_with(|all| act(&mut all.borrow_mut()));
}

fn overlaps(huge: &(usize, usize), start: usize, bytes: usize) -> bool {
    huge.0 < start + bytes && start < huge.0 + huge.1
}

/// Runs `act` while the system refuses what `faults` names.
pub(crate) fn inject<T>(faults: Faults, act: impl FnOnce() -> T) -> T {
    let before = FAULTS.replace(faults);
    let result = act();
    FAULTS.set(before);
    result
}

pub(crate) fn page_bytes() -> usize {
    PAGE_BYTES.get()
}

pub(crate) fn reserve(bytes: usize, align: usize) -> Option<NonNull<u8>> {
    if is_refused(|faults| faults.reserve) {
        return None;
    }
    let start = memory::reserve(bytes, align.max(page_bytes()))?;
    assert_whole_pages(start, bytes);
    RESERVED_BYTES.set(RESERVED_BYTES.get() + bytes);
    Some(start)
}

pub(crate) unsafe fn commit(start: NonNull<u8>, bytes: usize) -> bool {
    assert_whole_pages(start, bytes);
    // SAFETY: passed on to the caller.
    !is_refused(|faults| faults.commit) && unsafe { memory::commit(start, bytes) }
}

pub(crate) unsafe fn allow_reads(start: NonNull<u8>, bytes: usize) -> bool {
    // SAFETY: passed on to the caller.
    !FAULTS.get().reserve && unsafe { memory::allow_reads(start, bytes) }
}

pub(crate) unsafe fn purge(ranges: &[Range]) -> usize {
    for range in ranges {
        assert_whole_pages(range.start, range.bytes);
        let (start, bytes) = (range.start.as_ptr().addr(), range.bytes);
        with_huge(|all| {
            let split = !all.iter().any(|huge| overlaps(huge, start, bytes));
            assert!(split, "a part of a huge page at {start:#x}");
        });
    }
    if is_refused(|faults| faults.purge) {
        return 0;
    }
    // SAFETY: passed on to the caller.
    unsafe { memory::purge(ranges) }
}

/// Refused together with `purge`.
#[cfg(feature = "hardened")]
pub(crate) unsafe fn guard(start: NonNull<u8>, bytes: usize) {
    if !FAULTS.get().purge {
        // SAFETY: passed on to the caller.
        unsafe { memory::guard(start, bytes) }
    }
}

/// Refused together with `purge`.
#[cfg(feature = "hardened")]
pub(crate) unsafe fn lift_guard(start: NonNull<u8>, bytes: usize, guards: usize) -> bool {
    // SAFETY: passed on to the caller.
    !is_refused(|faults| faults.purge) && unsafe { memory::lift_guard(start, bytes, guards) }
}

pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) {
    let first = start.as_ptr().addr();
    // What one thread has reserved another may release.
    RESERVED_BYTES.set(RESERVED_BYTES.get().saturating_sub(bytes));
    with_huge(|all| all.retain(|huge| !overlaps(huge, first, bytes)));
    // SAFETY: passed on to the caller.
    unsafe { memory::release(start, bytes) }
}

pub(crate) unsafe fn move_pages(from: NonNull<u8>, to: NonNull<u8>, bytes: usize) -> bool {
    for start in [from, to] {
        assert_whole_pages(start, bytes);
        let start = start.as_ptr().addr();
        with_huge(|all| assert!(!all.iter().any(|huge| overlaps(huge, start, bytes))));
    }
    // SAFETY: passed on to the caller.
    !is_refused(|faults| faults.move_pages) && unsafe { memory::move_pages(from, to, bytes) }
}

pub(crate) fn has_huge_pages(_: usize) -> bool {
    true
}

pub(crate) fn is_all_own(_: Range) -> bool {
    IS_ALL_OWN.get()
}

fn huge_entry(range: Range) -> (usize, usize) {
    let start = range.start.as_ptr().addr();
    assert!(start.is_multiple_of(range.bytes));
    (start, range.bytes)
}

pub(crate) unsafe fn allow_huge(range: Range) -> bool {
    let entry = huge_entry(range);
    let granted = !is_refused(|faults| faults.huge);
    if granted {
        with_huge(|all| {
            assert!(!all.contains(&entry));
            all.push(entry);
        });
    }
    granted
}

pub(crate) unsafe fn collapse(range: Range) -> bool {
    let entry = huge_entry(range);
    !is_refused(|faults| faults.huge) && HUGE.with_borrow(|all| all.contains(&entry))
}

pub(crate) unsafe fn split_huge(range: Range, _whole: bool) -> bool {
    let entry = huge_entry(range);
    let granted = !is_refused(|faults| faults.huge);
    if granted {
        with_huge(|all| all.retain(|huge| *huge != entry));
    }
    granted
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

#[cfg(feature = "hardened")]
pub(crate) fn random(words: &mut [u64]) {
    memory::random(words);
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

    #[cfg(feature = "hardened")]
    pub(crate) unsafe fn guard(_: NonNull<u8>, _: usize) {}

    #[cfg(feature = "hardened")]
    pub(crate) unsafe fn lift_guard(_: NonNull<u8>, _: usize, _: usize) -> bool {
        true
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

    #[cfg(feature = "hardened")]
    pub(crate) fn random(words: &mut [u64]) {
        words.fill(0x1234_5678_9ABC_DEF1);
    }

    pub(crate) fn read_file(_: &CStr, _: &mut [u8]) -> Option<usize> {
        None
    }
}
