//! `tests/FAULTS.md` is complete, and every test that it names exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The faults of the groups OpenStack, Kubernetes drain, Join and bootstrap, Migration, Controller
/// crash and concurrency, and Database.
const FAULTS: std::ops::RangeInclusive<u32> = 1..=95;

/// Where a test of a fault may run.
const PLACES: [&str; 5] = ["simulation", "lab", "proxy", "test database", "plan"];

/// What stands instead of a place where there is no test.
const NOT_YET: &str = "does not apply yet: ";

struct Row {
    fault: u32,
    tests: Vec<String>,
    place: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().filter(|line| line.starts_with("| F"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let fault = cells[0].trim_start_matches('F').parse().expect("F and a number");
            let tests = cells[1].split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Row { fault, tests, place: cells[2].to_owned() }
        })
        .collect()
}

/// Names of all functions below a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).expect("a file");
            let names = text.lines().filter_map(|line| line.split_once("fn ")?.1.split_once('('));
            found.extend(names.map(|(name, _)| name.to_owned()));
        }
    }
}

fn wrong_with(row: &Row, known: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let prefix = format!("f{:02}_", row.fault);
    for test in &row.tests {
        if !known.contains(test) {
            wrong.push(format!("F{:02}: there is no test {test}", row.fault));
        } else if !test.starts_with(&prefix) {
            wrong.push(format!("F{:02}: {test} bears another number", row.fault));
        }
    }
    let is_reason = row.place.strip_prefix(NOT_YET).is_some_and(|why| why.len() > 10);
    let is_place = row.place.split(", ").all(|place| PLACES.contains(&place));
    if row.tests.is_empty() && !is_reason {
        wrong.push(format!("F{:02}: neither a test nor a reason why there is none", row.fault));
    }
    if !row.tests.is_empty() && !is_place {
        wrong.push(format!("F{:02}: {:?} is no place where tests run", row.fault, row.place));
    }
    wrong
}

#[test]
fn every_fault_has_its_test_or_a_reason() {
    let text = fs::read_to_string(root().join("tests/FAULTS.md")).expect("the table");
    let mut known = BTreeSet::new();
    functions(&root().join("tests"), &mut known);
    functions(&root().join("src"), &mut known);
    let rows = rows(&text);
    let mut wrong: Vec<String> = rows.iter().flat_map(|row| wrong_with(row, &known)).collect();
    let mut times: BTreeMap<u32, u32> = BTreeMap::new();
    for row in &rows {
        *times.entry(row.fault).or_default() += 1;
    }
    for fault in FAULTS {
        match times.remove(&fault) {
            Some(1) => {}
            Some(more) => wrong.push(format!("F{fault:02} has {more} rows")),
            None => wrong.push(format!("F{fault:02} has no row")),
        }
    }
    wrong.extend(times.keys().map(|fault| format!("F{fault:02} is of no group of this table")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bad_row_is_seen() {
    let known = BTreeSet::from(["f01_x".to_owned(), "f02_y".to_owned()]);
    for (line, problems) in [
        ("| F01 | `f01_x` | simulation, lab |", 0),
        ("| F01 | - | does not apply yet: no Octavia is spoken to |", 0),
        ("| F01 | `f01_gone` | lab |", 1),
        ("| F01 | `f02_y` | lab |", 1),
        ("| F01 | `f01_x` | somewhere |", 1),
        ("| F01 | - | simulation |", 1),
    ] {
        let row = rows(line).pop().expect("a row");
        assert_eq!(wrong_with(&row, &known).len(), problems, "{line}");
    }
}
