//! The C and C++ symbols of a `malloc`, each a thin wrapper around
//! [`slab_allocator::c_api`]: a program started with `LD_PRELOAD=libslab_alloc.so`, or
//! linked with `libslab_alloc.a`, runs on the process heap. `docs/malloc.md` has the
//! commands, and `include/slab_alloc.h` what C programs may call besides.

// Without the standard library there is nothing in it that unwinds or formats, and the
// shared library needs no other than the C library.
#![cfg_attr(all(panic = "abort", not(debug_assertions)), no_std)]

#[cfg(not(feature = "pprof"))]
use core::alloc::{GlobalAlloc, Layout};
use core::arch::naked_asm;
use core::ffi::{CStr, c_char, c_int, c_void};
use slab_allocator::{HugePages, SlabAlloc, c_api};

/// Rust code in this library allocates for the heap profile alone, and from the heap.
#[cfg(feature = "pprof")]
#[global_allocator]
static HEAP: SlabAlloc = SlabAlloc::new();

/// Rust code in this library allocates nothing.
#[cfg(not(feature = "pprof"))]
struct Nothing;

#[cfg(not(feature = "pprof"))]
#[global_allocator]
static NOTHING: Nothing = Nothing;

// SAFETY: Nothing is ever handed out.
#[cfg(not(feature = "pprof"))]
unsafe impl GlobalAlloc for Nothing {
    unsafe fn alloc(&self, _layout: Layout) -> *mut u8 {
        failed()
    }

    unsafe fn dealloc(&self, _object: *mut u8, _layout: Layout) {}
}

/// The end after a panic: the heap may be in the middle of a change, so the message is
/// a fixed one. Where panics unwind, as in tests, the standard library has its own
/// handler, which allocates for its message and so ends up here, too.
#[cfg(all(panic = "abort", not(debug_assertions)))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    failed()
}

#[cfg(any(not(feature = "pprof"), all(panic = "abort", not(debug_assertions))))]
#[cold]
fn failed() -> ! {
    stop(c"slabkv: the allocator itself has failed\n")
}

fn stop(message: &CStr) -> ! {
    // SAFETY: The message is valid for its length. A write that fails is given up.
    unsafe {
        libc::write(
            libc::STDERR_FILENO,
            message.as_ptr().cast(),
            message.count_bytes(),
        );
        libc::abort()
    }
}

/// Exports functions under their C names; they are [`c_api`]'s, or an alias of one.
macro_rules! export {
    ($($name:ident = $function:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        #[doc = concat!("See [`c_api::", stringify!($function), "`].")]
        ///
        /// # Safety
        ///
        /// As there.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            #[allow(unused_unsafe, reason = "some of the functions are safe")]
            // SAFETY: Passed on to the caller.
            unsafe { c_api::$function($($argument),*) }
        }
    )*};
}

export! {
    malloc = malloc(size: usize) -> *mut c_void;
    realloc = realloc(object: *mut c_void, size: usize) -> *mut c_void;
    reallocarray = reallocarray(object: *mut c_void, count: usize, size: usize) -> *mut c_void;
    free = free(object: *mut c_void);
    cfree = free(object: *mut c_void);
    free_sized = free_sized(object: *mut c_void, size: usize);
    free_aligned_sized = free_aligned_sized(object: *mut c_void, align: usize, size: usize);
    aligned_alloc = aligned_alloc(align: usize, size: usize) -> *mut c_void;
    memalign = memalign(align: usize, size: usize) -> *mut c_void;
    posix_memalign = posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int;
    valloc = valloc(size: usize) -> *mut c_void;
    pvalloc = pvalloc(size: usize) -> *mut c_void;
    malloc_usable_size = malloc_usable_size(object: *const c_void) -> usize;
    malloc_trim = malloc_trim(pad: usize) -> c_int;
    mallopt = mallopt(parameter: c_int, value: c_int) -> c_int;
    mallinfo = mallinfo() -> libc::mallinfo;
    mallinfo2 = mallinfo2() -> libc::mallinfo2;
    malloc_info = malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int;
    malloc_stats = malloc_stats();
    slab_alloc_stats_text = stats_text(descriptor: c_int) -> c_int;
    slab_alloc_stats_json = stats_json(descriptor: c_int) -> c_int;

    // Names under which old programs reach past a preloaded library.
    __libc_malloc = malloc(size: usize) -> *mut c_void;
    __libc_calloc = calloc(count: usize, size: usize) -> *mut c_void;
    __libc_realloc = realloc(object: *mut c_void, size: usize) -> *mut c_void;
    __libc_free = free(object: *mut c_void);
    __libc_memalign = memalign(align: usize, size: usize) -> *mut c_void;
    __libc_valloc = valloc(size: usize) -> *mut c_void;
    __libc_pvalloc = pvalloc(size: usize) -> *mut c_void;
    __posix_memalign = posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int;

    // operator delete and delete[], plain, sized, aligned, and for what a
    // constructor that throws leaves behind.
    _ZdlPv = free(object: *mut c_void);
    _ZdaPv = free(object: *mut c_void);
    _ZdlPvm = free_sized(object: *mut c_void, size: usize);
    _ZdaPvm = free_sized(object: *mut c_void, size: usize);
}

/// See [`c_api::calloc`], and [`c_api::note_threads`].
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    c_api::note_threads();
    c_api::calloc(count, size)
}

/// `operator delete` with arguments that do not matter.
macro_rules! export_delete {
    ($($name:ident($($argument:ident),*);)*) => {$(
        /// `operator delete` with arguments that do not matter.
        ///
        /// # Safety
        ///
        /// As for [`c_api::free`].
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(object: *mut c_void, $($argument: usize),*) {
            // SAFETY: Passed on to the caller.
            unsafe { c_api::free(object) }
        }
    )*};
}

export_delete! {
    _ZdlPvRKSt9nothrow_t(_nothrow);
    _ZdaPvRKSt9nothrow_t(_nothrow);
    _ZdlPvSt11align_val_t(_align);
    _ZdaPvSt11align_val_t(_align);
    _ZdlPvSt11align_val_tRKSt9nothrow_t(_align, _nothrow);
    _ZdaPvSt11align_val_tRKSt9nothrow_t(_align, _nothrow);
    _ZdlPvmSt11align_val_t(_size, _align);
    _ZdaPvmSt11align_val_t(_size, _align);
}

/// `operator new`: calls `$allocate` with the operator's own arguments, and where that
/// gives null jumps to the C++ library's definition of the same operator, with the
/// stack as the caller left it. So an exception, which may not pass through a frame of
/// Rust, does not meet one.
macro_rules! export_new {
    ($($name:ident as $string:literal = $allocate:path, $missing:path;)*) => {$(
        /// `operator new`.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub extern "C" fn $name() {
            extern "C" fn next() -> *const c_void {
                const NAME: &CStr = match CStr::from_bytes_with_nul(concat!($string, "\0").as_bytes()) {
                    Ok(name) => name,
                    Err(_) => panic!("a name has no zero inside"),
                };
                match c_api::next_operator(NAME) {
                    Some(operator) => operator.as_ptr(),
                    None => $missing as *const c_void,
                }
            }

            #[cfg(target_arch = "x86_64")]
            naked_asm!(
                ".cfi_startproc",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "call {allocate}",
                "test rax, rax",
                "je 2f",
                "add rsp, 24",
                ".cfi_remember_state",
                ".cfi_adjust_cfa_offset -24",
                "ret",
                "2:",
                ".cfi_restore_state",
                "call {next}",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                "jmp rax",
                ".cfi_endproc",
                allocate = sym $allocate,
                next = sym next,
            );
            #[cfg(target_arch = "aarch64")]
            naked_asm!(
                ".cfi_startproc",
                "stp x29, x30, [sp, #-48]!",
                ".cfi_def_cfa_offset 48",
                ".cfi_offset 29, -48",
                ".cfi_offset 30, -40",
                "stp x0, x1, [sp, #16]",
                "str x2, [sp, #32]",
                "bl {allocate}",
                "cbz x0, 2f",
                "ldp x29, x30, [sp], #48",
                ".cfi_remember_state",
                ".cfi_def_cfa_offset 0",
                "ret",
                "2:",
                ".cfi_restore_state",
                "bl {next}",
                "mov x16, x0",
                "ldr x2, [sp, #32]",
                "ldp x0, x1, [sp, #16]",
                "ldp x29, x30, [sp], #48",
                ".cfi_def_cfa_offset 0",
                "br x16",
                ".cfi_endproc",
                allocate = sym $allocate,
                next = sym next,
            );
        }
    )*};
}

extern "C" fn new(size: usize) -> *mut c_void {
    c_api::malloc(size)
}

extern "C" fn new_aligned(size: usize, align: usize) -> *mut c_void {
    c_api::aligned_alloc(align, size)
}

extern "C" fn cannot_throw() -> ! {
    stop(c"slabkv: operator new is out of memory, and there is no C++ library that throws std::bad_alloc\n")
}

extern "C" fn give_null() -> *mut c_void {
    core::ptr::null_mut()
}

export_new! {
    _Znwm as "_Znwm" = new, cannot_throw;
    _Znam as "_Znam" = new, cannot_throw;
    _ZnwmRKSt9nothrow_t as "_ZnwmRKSt9nothrow_t" = new, give_null;
    _ZnamRKSt9nothrow_t as "_ZnamRKSt9nothrow_t" = new, give_null;
    _ZnwmSt11align_val_t as "_ZnwmSt11align_val_t" = new_aligned, cannot_throw;
    _ZnamSt11align_val_t as "_ZnamSt11align_val_t" = new_aligned, cannot_throw;
    _ZnwmSt11align_val_tRKSt9nothrow_t as "_ZnwmSt11align_val_tRKSt9nothrow_t" = new_aligned, give_null;
    _ZnamSt11align_val_tRKSt9nothrow_t as "_ZnamSt11align_val_tRKSt9nothrow_t" = new_aligned, give_null;
}

/// Called by the dynamic linker, or by the start of a program that is linked
/// statically, before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

extern "C" fn at_start() {
    c_api::serve_the_c_library(|| {
        // More than there can be, so that nothing is allocated.
        #[cfg(target_arch = "x86_64")]
        // SAFETY: The address is that of `calloc` as the dynamic linker has found it for
        // the whole process, where this library's need not come first. `errno` is the
        // calling thread's own.
        unsafe {
            let calloc: extern "C" fn(usize, usize) -> *mut c_void;
            core::arch::asm!(
                "mov {calloc}, qword ptr [rip + calloc@GOTPCREL]",
                calloc = out(reg) calloc,
                options(pure, readonly, nostack, preserves_flags),
            );
            let errno = *libc::__errno_location();
            calloc(usize::MAX, usize::MAX);
            *libc::__errno_location() = errno;
        }
    });
}

/// Gives all free memory back to the system at once. Returns the bytes.
#[unsafe(no_mangle)]
pub extern "C" fn slab_alloc_purge() -> usize {
    SlabAlloc::new().purge()
}

/// Gives what lies in the calling thread's cache back to its slabs.
#[unsafe(no_mangle)]
pub extern "C" fn slab_alloc_flush_thread_cache() {
    SlabAlloc::new().flush_thread_cache();
}

/// Changes the time in milliseconds within which free memory goes back to the system.
#[unsafe(no_mangle)]
pub extern "C" fn slab_alloc_set_decay_ms(decay_ms: u32) {
    SlabAlloc::new().set_purge_delay_ms(decay_ms);
}

/// Changes which memory gets huge pages: 0 for none, 1 for dense chunks. Returns 0, or
/// `EINVAL` for any other value.
#[unsafe(no_mangle)]
pub extern "C" fn slab_alloc_set_huge_pages(huge_pages: c_int) -> c_int {
    let huge_pages = match huge_pages {
        0 => HugePages::Off,
        1 => HugePages::Dense,
        _ => return libc::EINVAL,
    };
    SlabAlloc::new().set_huge_pages(huge_pages);
    0
}

/// Samples allocations from now on, one in so many bytes on average. 0, or -1 with `errno`
/// where memory is short.
#[cfg(feature = "pprof")]
#[unsafe(no_mangle)]
pub extern "C" fn slab_alloc_start_heap_profile(sample_bytes: usize) -> c_int {
    if SlabAlloc::new().start_heap_profile(sample_bytes) {
        return 0;
    }
    // SAFETY: The location is the calling thread's own and always valid.
    unsafe { *libc::__errno_location() = libc::ENOMEM };
    -1
}

/// Samples no more.
#[cfg(feature = "pprof")]
#[unsafe(no_mangle)]
pub extern "C" fn slab_alloc_stop_heap_profile() {
    SlabAlloc::new().stop_heap_profile();
}

#[cfg(feature = "pprof")]
export! {
    slab_alloc_write_heap_profile = write_heap_profile(descriptor: c_int) -> c_int;
}

/// The version of the library, as a C string that is never freed.
#[unsafe(no_mangle)]
pub extern "C" fn slab_alloc_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}
