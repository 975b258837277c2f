//! The heap profile as the environment asks for it: on from the start of the program, and
//! written to a file at its end.
//!
//! It is switched on before `main`, when the dynamic linker is done, and not by the first
//! allocation, which may be the linker's own: what finds call stacks is a library that
//! has to be loaded then.

use crate::c_api;
use crate::global_alloc::SlabAlloc;
use crate::os;
use crate::process::register_at_exit;
use crate::settings::{self, HEAP_PROFILE_FILE, PATH_BYTES_MAX, VARIABLE};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::fmt::{self, Write};

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

/// The start of the file's path, which the environment may have lost when it is needed.
struct Place(UnsafeCell<Path>);

// SAFETY: It is written before the handler that reads it is registered.
unsafe impl Sync for Place {}

static PATH: Place = Place(UnsafeCell::new(Path::NONE));

extern "C" fn at_start() {
    let text = os::environment(VARIABLE).unwrap_or_default();
    // What is wrong in it is told when the heap is made.
    let settings = settings::parse(text, |_, _| {});
    if settings.heap_profile > 0
        && SlabAlloc::new().start_heap_profile(settings.heap_profile as usize)
        && let Some(start) = settings::value_of(text, HEAP_PROFILE_FILE)
    {
        // SAFETY: Nobody reads it yet.
        unsafe { (*PATH.0.get()).add(start) };
        register_at_exit(at_exit);
    }
}

extern "C" fn at_exit(_: *mut c_void) {
    // SAFETY: It was written before this function was registered.
    let mut path = unsafe { *PATH.0.get() };
    // SAFETY: The call cannot fail.
    let process = unsafe { libc::getpid() };
    // There is room for it.
    let _ = write!(path, ".{process}.pb.gz");
    // SAFETY: The path ends in a zero.
    let descriptor = unsafe {
        libc::open(
            path.bytes.as_ptr().cast(),
            libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC,
            0o644,
        )
    };
    if descriptor < 0 || c_api::write_heap_profile(descriptor) != 0 {
        const MESSAGE: &str = "slabkv: the heap profile could not be written\n";
        // SAFETY: The message is valid for its length.
        unsafe { libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len()) };
    }
    if descriptor >= 0 {
        // SAFETY: It was opened here.
        unsafe { libc::close(descriptor) };
    }
}

/// A path, with zeros behind it.
#[derive(Clone, Copy)]
struct Path {
    bytes: [u8; PATH_BYTES_MAX + 32],
    length: usize,
}

impl Path {
    const NONE: Self = Self {
        bytes: [0; PATH_BYTES_MAX + 32],
        length: 0,
    };

    /// Adds what there is room for; one byte stays zero.
    fn add(&mut self, bytes: &[u8]) {
        let room = &mut self.bytes[self.length..PATH_BYTES_MAX + 31];
        for (place, byte) in room.iter_mut().zip(bytes) {
            *place = *byte;
            self.length += 1;
        }
    }
}

impl Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.add(text.as_bytes());
        Ok(())
    }
}
