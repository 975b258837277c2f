//! What C and C++ promise of their allocation functions, checked by programs that are
//! started with the library or linked with it.

mod preloaded;

use preloaded::{compile, library, preloaded, stdout};
use std::process::Command;

#[test]
fn c_functions_keep_their_promises_when_preloaded() {
    if let Some(program) = compile("semantics.c", "semantics", &[]) {
        assert_eq!(stdout(&mut preloaded(program)), "ok\n");
    }
}

#[test]
fn c_functions_keep_their_promises_when_linked_statically() {
    let archive = library("libslab_alloc.a");
    if let Some(program) = compile("semantics.c", "semantics-static", &[archive.as_ref()]) {
        assert_eq!(stdout(&mut Command::new(program)), "ok\n");
    }
}

#[test]
fn operators_keep_their_promises_when_preloaded() {
    if let Some(program) = compile("operators.cc", "operators", &["-std=c++17".as_ref()]) {
        assert_eq!(stdout(&mut preloaded(program)), "ok\n");
    }
}

#[test]
fn operators_keep_their_promises_when_linked_statically() {
    let archive = library("libslab_alloc.a");
    let arguments = ["-std=c++17".as_ref(), archive.as_ref()];
    if let Some(program) = compile("operators.cc", "operators-static", &arguments) {
        assert_eq!(stdout(&mut Command::new(program)), "ok\n");
    }
}

#[test]
fn the_header_controls_the_heap() {
    let include = format!("-I{}/include", env!("CARGO_MANIFEST_DIR"));
    let archive = library("libslab_alloc.a");
    let arguments = [include.as_ref(), archive.as_ref()];
    if let Some(program) = compile("control.c", "control", &arguments) {
        let version = concat!(env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(stdout(&mut Command::new(program)), version);
    }
}
