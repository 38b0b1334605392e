//! Rules about the source that no compiler checks: layers, sizes, words, migrations.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use zcp::store::Store;

/// A file that is longer wants to be two.
const FILE_LINES: usize = 600;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["utils.rs", "helpers.rs", "common.rs", "types.rs", "manager.rs"];

/// Crates of a second TLS stack. (`ring` is in the lock file as an option that nobody takes.)
const REFUSED_CRATES: [&str; 2] = ["openssl-sys", "native-tls"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files under `folder` whose name ends with `ending`, with their text.
fn files(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let path = path.strip_prefix(root()).expect("below the root").to_owned();
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// The text without comments, strings and characters, so that only code is left.
fn code_only(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        let mut in_string = false;
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '\\' if in_string => {
                    chars.next();
                }
                '"' => in_string = !in_string,
                '/' if !in_string && chars.peek() == Some(&'/') => break,
                c if !in_string => code.push(c),
                _ => {}
            }
        }
        code.push('\n');
    }
    code
}

/// First names after `crate::`, with those of a group: `crate::{a::b, c}` gives a and c.
fn crate_paths(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => names.extend(group_names(group)),
            None => names.extend([word(rest)]),
        }
    }
    names
}

fn group_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut begins) = (Vec::new(), 1, true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => begins = true,
            c if begins && depth == 1 && !c.is_whitespace() => {
                names.push(word(&group[at..]));
                begins = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The layer table of `src/lib.rs`: module to what it may use.
fn layer_table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("read lib.rs");
    let rows: Vec<(Vec<String>, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ["))
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let names = cells[0].split(',').map(|name| {
                name.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
            });
            (names.collect(), cells[2].to_owned())
        })
        .collect();
    let all: BTreeSet<String> = rows.iter().flat_map(|(names, _)| names.clone()).collect();
    let mut table = BTreeMap::new();
    for (names, uses) in rows {
        let listed = |text: &str| text.split(',').map(|one| one.trim().to_owned()).collect();
        let allowed: BTreeSet<String> = if uses == "nothing" {
            BTreeSet::new()
        } else if let Some(not) = uses.strip_prefix("all but ") {
            let not: BTreeSet<String> = listed(not);
            all.difference(&not).cloned().collect()
        } else {
            listed(&uses)
        };
        table.extend(names.into_iter().map(|name| (name, allowed.clone())));
    }
    table
}

/// The module that a file of `src` belongs to; none for the binaries and `lib.rs`.
fn module_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix("src").ok()?;
    let first = inside.components().next()?.as_os_str().to_string_lossy().into_owned();
    let name = first.strip_suffix(".rs").unwrap_or(&first).to_owned();
    (!["lib", "main", "bin"].contains(&name.as_str())).then_some(name)
}

#[test]
fn no_module_uses_a_layer_that_the_table_does_not_allow() {
    let table = layer_table();
    assert!(table.len() > 10, "the table in lib.rs is read");
    let mut wrong = Vec::new();
    for (path, text) in files("src", ".rs") {
        let Some(module) = module_of(&path) else { continue };
        let Some(allowed) = table.get(&module) else {
            wrong.push(format!("{module} is not in the layer table of src/lib.rs"));
            continue;
        };
        for used in crate_paths(&code_only(&text)) {
            if table.contains_key(&used) && used != module && !allowed.contains(&used) {
                wrong.push(format!("{}: {module} may not use {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_layer_check_sees_every_way_to_name_a_module() {
    let code = code_only(
        "use crate::{store::{work, page}, clock::Clock};\n// crate::http\nlet a = crate::app::x(\"crate::cli\");\nmy_crate::sim",
    );
    let expected = ["app", "clock", "store"].map(str::to_owned);
    assert_eq!(crate_paths(&code), BTreeSet::from(expected));
    let table = layer_table();
    assert!(table["domain"].is_empty());
    assert!(table["worker"].contains("store") && !table["worker"].contains("http"));
}

#[test]
fn no_file_is_too_long_or_named_for_nothing() {
    let mut wrong = Vec::new();
    for (path, text) in [files("src", ".rs"), files("tests", ".rs")].concat() {
        let lines = text.lines().count();
        if lines > FILE_LINES {
            wrong.push(format!("{} has {lines} lines; {FILE_LINES} are the limit", path.display()));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| EMPTY_NAMES.contains(&name.as_str())) {
            wrong.push(format!("{} says nothing about what is inside", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Words that have no place in the project, in pieces, so that this file passes.
fn forbidden() -> Vec<String> {
    [
        ("anth", "ropic"),
        ("cla", "ude"),
        ("chat", "gpt"),
        ("open", "ai"),
        ("co", "pilot"),
        ("language ", "model"),
        ("/wo", "rk/"),
        ("../sha", "red"),
        ("#[ig", "nore"),
        ("should_", "panic"),
        ("FIX", "ME"),
        ("<<<<", "<<< "),
        (">>>>", ">>> "),
    ]
    .map(|(a, b)| format!("{a}{b}").to_lowercase())
    .to_vec()
}

#[test]
fn no_forbidden_word_is_used() {
    let words = forbidden();
    let mut wrong = Vec::new();
    let folders = ["src", "tests", "migrations", "openapi", "deploy"];
    let mut all: Vec<_> = folders.iter().flat_map(|folder| files(folder, "")).collect();
    for name in ["Cargo.toml", "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "clippy.toml"] {
        all.push((PathBuf::from(name), fs::read_to_string(root().join(name)).unwrap_or_default()));
    }
    for (path, text) in all {
        for (number, line) in text.lines().enumerate() {
            // The API has work items under this path.
            let lower = line.to_lowercase().replace("v1/work", "");
            for word in words.iter().filter(|word| lower.contains(*word)) {
                wrong.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_is_one_tls_stack() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("read Cargo.lock");
    for name in REFUSED_CRATES {
        assert!(!lock.contains(&format!("name = \"{name}\"\n")), "{name} is in Cargo.lock");
    }
}

/// A migration that was merged may already be applied somewhere: it never changes again.
#[test]
fn merged_migrations_never_change() {
    let pinned = fs::read_to_string(root().join("tests/golden/migrations.txt")).unwrap_or_default();
    let present: Vec<String> = Store::migrations()
        .into_iter()
        .map(|(version, checksum)| format!("{version} {}", &checksum[..32]))
        .collect();
    assert_eq!(
        pinned.lines().collect::<Vec<_>>(),
        present,
        "a new migration gets its line in tests/golden/migrations.txt; an old one keeps it"
    );
}

#[test]
fn every_table_says_who_writes_it_and_when_rows_die() {
    let mut wrong = Vec::new();
    for (path, text) in files("migrations", ".sql") {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            if line.starts_with("CREATE TABLE") && (at == 0 || !lines[at - 1].starts_with("--")) {
                wrong.push(format!("{}: {line}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "no comment above:\n{}", wrong.join("\n"));
}
