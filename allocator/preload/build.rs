//! Linker flags of the shared library.

fn main() {
    // The purge thread runs its code, and its thread-exit and fork handlers are known
    // to the C library: it must stay in memory after a `dlclose`.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libslab_alloc.so");
    // Without the standard library nobody else asks for the C library; and a symbol that
    // nobody has is an error here, not when a program starts.
    println!("cargo:rustc-cdylib-link-arg=-lc");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
    println!("cargo:rerun-if-changed=build.rs");
}
