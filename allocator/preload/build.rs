//! Linker flags of the shared library.

fn main() {
    // The purge thread runs its code, and its thread-exit and fork handlers are known
    // to the C library: it must stay in memory after a `dlclose`.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libslab_alloc.so");
    println!("cargo:rerun-if-changed=build.rs");
}
