//! Where the code of the shared library lies, as it is shipped: `sections.ld` names
//! functions by their modules, and a new name is among those that every program runs.

#![cfg(not(any(debug_assertions, feature = "hardened", feature = "pprof")))]

mod preloaded;

use preloaded::{has, library};
use std::process::Command;

/// What the kernel maps of a file at a time.
const FAULT_AROUND_BYTES: u64 = 64 << 10;

/// Where each section ends in the file, by the lines of `readelf --section-headers --wide`.
fn section_ends(headers: &str) -> impl Iterator<Item = (&str, u64)> {
    headers.lines().filter_map(|line| {
        let fields = line.split_once(']')?.1.split_whitespace();
        let fields: Vec<&str> = fields.collect();
        let number = |field: &str| u64::from_str_radix(field, 16).ok();
        let (name, offset, bytes) = (fields.first()?, fields.get(3)?, fields.get(4)?);
        Some((*name, number(offset)? + number(bytes)?))
    })
}

#[test]
fn what_every_program_runs_lies_in_the_pages_that_are_mapped_first() {
    let library = library("libslab_alloc.so");
    if !has("readelf") {
        return;
    }
    let output = Command::new("readelf")
        .args(["--section-headers", "--wide"])
        .arg(library)
        .output()
        .unwrap();
    let headers = String::from_utf8(output.stdout).unwrap();
    let end_of = |section| section_ends(&headers).find(|(name, _)| *name == section);
    let (_, hot_end) = end_of(".text").expect("a library has code");
    match end_of(".text.rare") {
        Some(_) => assert!(hot_end <= FAULT_AROUND_BYTES, "{hot_end:#x}"),
        None => eprintln!("passed over: another linker than the compiler's own was used"),
    }
}
