//! One thread-local pointer, read as fast in a shared library as in an executable.
//!
//! `thread_local!` costs one load in an executable, but a call of `__tls_get_addr` in
//! a shared library, and that may even allocate. An *initial-exec* variable lies at a
//! fixed distance from the thread pointer, which the dynamic linker writes into the
//! library's table: two loads, and in an executable the linker turns the first one
//! into a constant. Stable Rust cannot ask for that model, so the variable is defined
//! and read in assembly where it is known how; elsewhere `thread_local!` serves.
//!
//! The room that the C library keeps for such variables of libraries opened by
//! `dlopen` is small: this one takes 8 bytes of it.

/// Defines functions that read and write a variable of the type `&'static $type`,
/// which starts at `&$initial` in every thread.
macro_rules! thread_pointer {
    ($get:ident, $set:ident, $type:ty, $initial:ident) => {
        #[cfg(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64"),
            not(miri)
        ))]
        mod pointer {
            use core::arch::{asm, global_asm};

            /// The variable's name, which differs from that of another version of this
            /// crate in the same program.
            macro_rules! name {
                () => {
                    concat!(
                        "slabkv_thread_",
                        env!("CARGO_PKG_VERSION_MAJOR"),
                        "_",
                        env!("CARGO_PKG_VERSION_MINOR"),
                        "_",
                        env!("CARGO_PKG_VERSION_PATCH")
                    )
                };
            }

            global_asm!(
                ".pushsection .tdata.slabkv, \"awT\", %progbits",
                ".p2align 3",
                concat!(".globl ", name!()),
                concat!(".hidden ", name!()),
                concat!(".type ", name!(), ", %tls_object"),
                concat!(".size ", name!(), ", 8"),
                concat!(name!(), ":"),
                ".quad {initial}",
                ".popsection",
                initial = sym super::$initial,
            );

            #[inline(always)]
            pub(super) fn get() -> &'static $type {
                let pointer: *const $type;
                // SAFETY: The variable exists, in every thread from its start on, and
                // nothing but it is read.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    asm!(
                        concat!("mov {pointer}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                        "mov {pointer}, qword ptr fs:[{pointer}]",
                        pointer = out(reg) pointer,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
                // SAFETY: As above.
                #[cfg(target_arch = "aarch64")]
                unsafe {
                    asm!(
                        concat!("adrp {pointer}, :gottprel:", name!()),
                        concat!("ldr {pointer}, [{pointer}, :gottprel_lo12:", name!(), "]"),
                        "mrs {thread}, tpidr_el0",
                        "ldr {pointer}, [{thread}, {pointer}]",
                        pointer = out(reg) pointer,
                        thread = out(reg) _,
                        options(pure, readonly, nostack, preserves_flags),
                    );
                }
                // SAFETY: The variable holds a reference at all times.
                unsafe { &*pointer }
            }

            #[inline(always)]
            pub(super) fn set(value: &'static $type) {
                let value = core::ptr::from_ref(value);
                // SAFETY: The variable exists, and nothing but it is written.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    asm!(
                        concat!("mov {place}, qword ptr [rip + ", name!(), "@GOTTPOFF]"),
                        "mov qword ptr fs:[{place}], {value}",
                        place = out(reg) _,
                        value = in(reg) value,
                        options(nostack, preserves_flags),
                    );
                }
                // SAFETY: As above.
                #[cfg(target_arch = "aarch64")]
                unsafe {
                    asm!(
                        concat!("adrp {place}, :gottprel:", name!()),
                        concat!("ldr {place}, [{place}, :gottprel_lo12:", name!(), "]"),
                        "mrs {thread}, tpidr_el0",
                        "str {value}, [{thread}, {place}]",
                        place = out(reg) _,
                        thread = out(reg) _,
                        value = in(reg) value,
                        options(nostack, preserves_flags),
                    );
                }
            }
        }

        #[cfg(not(all(
            target_os = "linux",
            any(target_arch = "x86_64", target_arch = "aarch64"),
            not(miri)
        )))]
        mod pointer {
            extern crate std;

            use core::cell::Cell;

            std::thread_local! {
                static POINTER: Cell<&'static $type> = const { Cell::new(&super::$initial) };
            }

            #[inline(always)]
            pub(super) fn get() -> &'static $type {
                POINTER.with(Cell::get)
            }

            pub(super) fn set(value: &'static $type) {
                POINTER.with(|pointer| pointer.set(value));
            }
        }

        use pointer::{get as $get, set as $set};
    };
}

pub(crate) use thread_pointer;
