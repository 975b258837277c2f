//! Each file imports only from rows above it: the order is the layer diagram
//! in the documentation of `lib.rs`, and this test reads it from there.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// The modules in the order of the diagram.
fn declared_order(lib: &str) -> Vec<String> {
    let diagram = lib
        .split("//! ```text\n")
        .nth(1)
        .and_then(|rest| rest.split("//! ```").next())
        .expect("lib.rs shows the layers in a text block");
    diagram
        .lines()
        .flat_map(|line| line.trim_start_matches("//!").split_whitespace().skip(1))
        .map(str::to_owned)
        .collect()
}

/// Names of the modules that `source` imports from the crate itself.
fn imports(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    code.lines()
        .map(str::trim)
        .filter_map(|line| {
            line.strip_prefix("use crate::")
                .or_else(|| line.strip_prefix("pub use crate::"))
                .or_else(|| line.strip_prefix("pub(crate) use crate::"))
        })
        .flat_map(|path| {
            // `use crate::{a::x, b};` names several modules.
            path.trim_start_matches('{')
                .split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .next()
                .map(str::to_owned)
        })
        .collect()
}

fn check_file(path: &Path, module: &str, row: &HashMap<String, usize>, found: &mut usize) {
    let own = *row
        .get(module)
        .unwrap_or_else(|| panic!("{module} is missing in the layer diagram of lib.rs"));
    for import in imports(&fs::read_to_string(path).unwrap()) {
        if import == module {
            continue;
        }
        let other = row
            .get(&import)
            .unwrap_or_else(|| panic!("{module} imports {import}, which no layer has"));
        assert!(
            *other < own,
            "{module} imports {import}, which stands behind it"
        );
        *found += 1;
    }
}

#[test]
fn files_import_only_from_rows_above() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let order = declared_order(&fs::read_to_string(src.join("lib.rs")).unwrap());
    let row: HashMap<String, usize> = order
        .iter()
        .enumerate()
        .map(|(place, name)| (name.clone(), place))
        .collect();
    assert_eq!(
        row.len(),
        order.len(),
        "a module stands in the diagram twice"
    );
    let mut found = 0;
    for entry in fs::read_dir(&src).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            for inner in fs::read_dir(&path).unwrap() {
                check_file(&inner.unwrap().path(), &name, &row, &mut found);
            }
        } else if name != "lib" {
            check_file(&path, &name, &row, &mut found);
        }
    }
    assert!(found > 0, "no import was seen at all");
}

#[test]
fn an_import_from_below_is_seen() {
    assert_eq!(
        imports("use crate::heap::Heap;\n    use crate::units;\nuse core::ptr;\n"),
        ["heap", "units"]
    );
}
