//! Each file of the server imports only from rows above its own in the table of layers in `main.rs`.

use std::collections::HashMap;
use std::path::Path;

/// The rows of the table in `main.rs`, each with the modules that stand in it; "then" begins a row of its own.
fn rows(main: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for line in main
        .lines()
        .filter(|line| line.starts_with("//! | "))
        .skip(1)
    {
        let Some(cell) = line.split('|').nth(2) else {
            continue;
        };
        for part in cell.split("then") {
            let names: Vec<String> = part
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect();
            if !names.is_empty() {
                rows.push(names);
            }
        }
    }
    rows
}

/// All modules that `use crate::` lines and paths in the text name.
fn imports(text: &str) -> Vec<String> {
    let word = |rest: &str| {
        rest.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    text.match_indices("crate::")
        .map(|(at, _)| word(&text[at + "crate::".len()..]))
        .collect()
}

fn visit(folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            visit(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push((
                path.display().to_string(),
                std::fs::read_to_string(&path).unwrap(),
            ));
        }
    }
}

#[test]
fn files_import_only_from_rows_above() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let main = std::fs::read_to_string(source.join("main.rs")).unwrap();
    let mut row_of = HashMap::new();
    for (row, names) in rows(&main).into_iter().enumerate() {
        for name in names {
            row_of.insert(name, row);
        }
    }
    let declared: Vec<&str> = main
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert!(declared.len() > 10);
    for module in &declared {
        assert!(row_of.contains_key(*module), "{module} stands in no row");
    }
    let mut files = Vec::new();
    visit(&source, &mut files);
    let mut checked = 0;
    for (path, text) in files {
        let inside = path.strip_prefix(&*source.display().to_string()).unwrap();
        let own = inside
            .trim_start_matches('/')
            .split(['/', '.'])
            .next()
            .unwrap();
        if own == "main" {
            continue;
        }
        for import in imports(&text) {
            if import == own || !declared.contains(&import.as_str()) {
                continue;
            }
            checked += 1;
            let (above, below) = (row_of[&import], row_of[own]);
            // Modules of one row may know each other only among the words at the top.
            assert!(
                above < below || (above == below && above == 0),
                "{inside} imports {import}"
            );
        }
    }
    assert!(checked > 100, "only {checked} imports were found");
}
