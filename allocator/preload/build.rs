//! Linker flags of the shared library.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    // The purge thread runs its code, and its thread-exit and fork handlers are known
    // to the C library: it must stay in memory after a `dlclose`.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libslab_alloc.so");
    // Without the standard library nobody else asks for the C library; and a symbol that
    // nobody has is an error here, not when a program starts.
    println!("cargo:rustc-cdylib-link-arg=-lc");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
    if links_with_rust_lld() {
        let sections = format!("{}/sections.ld", env::var("CARGO_MANIFEST_DIR").unwrap());
        // Constants and code in one mapping, as the script supposes.
        println!("cargo:rustc-cdylib-link-arg=-Wl,--no-rosegment");
        println!("cargo:rustc-cdylib-link-arg=-Wl,-T,{sections}");
        // Where the library lies on a multiple of 64 KiB, its first 64 KiB are mapped at
        // once, and nothing with them.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,max-page-size=65536");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=sections.ld");
}

/// Whether the linker is the one that comes with the compiler and that it uses on this
/// target unless told otherwise. Of others nobody knows here whether they take our
/// script; with them the library is larger in memory, and otherwise the same.
fn links_with_rust_lld() -> bool {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let is_told_otherwise = env::var_os("RUSTC_LINKER").is_some()
        || env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if env::var("TARGET").as_deref() != Ok(TARGET) || is_told_otherwise {
        return false;
    }
    let sysroot = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--print", "sysroot"])
        .output();
    sysroot
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .is_some_and(|sysroot| {
            let host = env::var("HOST").unwrap_or_default();
            let linker = format!("lib/rustlib/{host}/bin/gcc-ld/ld.lld");
            Path::new(sysroot.trim()).join(linker).exists()
        })
}
