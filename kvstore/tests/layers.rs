//! Each file of the crate imports only from rows above it in the declared order.

use std::fs;
use std::path::Path;

/// Modules from the lowest row to the highest. A module may import from any row above its own line
/// here, and from its own folder.
const ROWS: &[&[&str]] = &[
    &["lengths"],
    &[
        "clock",
        "key",
        "settings",
        "statistics",
        "access",
        "gauges",
        "header",
    ],
    &["error", "lock", "geometry", "pacing"],
    &["memory", "value", "watch"],
    &["entry"],
    &["bucket"],
    &["segment"],
    &["table"],
    &["shard"],
    &["compaction", "expiry", "eviction", "heap_map"],
    &["forecast"],
    &["maintenance", "db"],
    &["locked"],
    &["keyspace"],
    &["model"],
];

fn row_of(module: &str) -> usize {
    ROWS.iter()
        .position(|row| row.contains(&module))
        .unwrap_or_else(|| panic!("module {module} has no row; add it to the order"))
}

/// The modules that `use crate::` lines of a file outside its tests name.
fn imports(source: &str) -> Vec<String> {
    let code = source
        .split("#[cfg(test)]\nmod tests")
        .next()
        .unwrap_or(source);
    code.lines()
        .filter_map(|line| {
            line.trim_start()
                .trim_start_matches("pub ")
                .strip_prefix("use crate::")
        })
        .map(|rest| {
            assert!(
                !rest.starts_with('{'),
                "import one module per line: use crate::{rest}"
            );
            rest.split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or(rest)
                .to_string()
        })
        .collect()
}

fn check(folder: &Path, module: Option<&str>, seen: &mut usize) {
    for file in fs::read_dir(folder).expect("the folder of sources is readable") {
        let path = file.expect("its entries are readable").path();
        let stem = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("names are UTF-8")
            .to_string();
        if path.is_dir() {
            check(&path, Some(module.unwrap_or(&stem)), seen);
            continue;
        }
        if module.is_none() && stem == "lib" {
            continue;
        }
        let own = module.unwrap_or(&stem);
        let source = fs::read_to_string(&path).expect("sources are readable");
        for import in imports(&source) {
            *seen += 1;
            assert!(
                import == own || row_of(&import) < row_of(own),
                "{} imports {import}, which is not in a row above {own}",
                path.display()
            );
        }
    }
}

#[test]
fn files_import_only_from_rows_above() {
    let mut seen = 0;
    check(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
        None,
        &mut seen,
    );
    assert!(
        seen > 10,
        "only {seen} imports found: the test no longer sees them"
    );
}

#[test]
#[should_panic(expected = "has no row")]
fn an_unlisted_module_is_refused() {
    row_of("helpers");
}
