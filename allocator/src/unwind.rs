//! Who called: the return addresses on the calling thread's stack.
//!
//! They are found by the tables that compilers write for exceptions, so no frame
//! pointers are needed. The C library does it (`backtrace`), with the unwinder of
//! `libgcc_s`, which it loads when it is first asked. That may allocate, and must not
//! happen in the middle of the dynamic linker's work: hence [`prepare`].

/// Most addresses of a stack; of a deeper one those of the innermost calls.
pub(crate) const DEPTH_MAX: usize = 128;

/// Return addresses, the innermost first.
pub(crate) type Addresses = [usize; DEPTH_MAX];

/// Loads what [`trace`] needs. Not to be called with a lock of the heap's held, nor by
/// an allocation of the dynamic linker's.
pub(crate) fn prepare() {
    trace(&mut [0; DEPTH_MAX]);
}

/// Writes the addresses, and returns how many there are. After [`prepare`] this
/// allocates nothing.
#[inline(never)]
pub(crate) fn trace(addresses: &mut Addresses) -> usize {
    // SAFETY: The array has room for so many pointers, which are of the same size as
    // addresses.
    let count = unsafe { libc::backtrace(addresses.as_mut_ptr().cast(), DEPTH_MAX as i32) };
    usize::try_from(count).unwrap_or(0).min(DEPTH_MAX)
}
