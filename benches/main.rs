//! The promises in numbers: `make bench`, `make bench ONLY=idle`, `make bench SMOKE=1`.
//!
//! Each bench runs the real programs: `zcpd serve`, `zcpd sim` and a private Postgres, each a
//! process (or tree of them) of its own, so that what each costs is read from the kernel. Only
//! `path`, which is about world time, runs in this process with a clock that it moves. The result
//! is a table on the terminal and `target/bench.json`.

#![expect(clippy::print_stdout, reason = "the table is what the bench is for")]

mod api_pages;
mod crowd;
mod first_call;
mod fleet;
mod idle;
mod path;
mod rig;
mod usage;

#[path = "../tests/it/support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests, of which this needs a part")]
mod support;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context as _;
use serde::Serialize;

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// Such as `<= 1.10`; none for figures that explain others.
    goal: Option<String>,
    met: Option<bool>,
}

impl Figure {
    /// A figure that explains others.
    fn plain(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, goal: None, met: None }
    }

    /// A figure that must not be above `most`.
    fn most(name: impl Into<String>, (value, most): (f64, f64), unit: &'static str) -> Self {
        let goal = Some(format!("<= {}", shown(most)));
        Self { name: name.into(), value, unit, goal, met: Some(value <= most) }
    }
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// What the promises speak of.
    Full,
    /// A few clusters and seconds, to see that the benches run.
    Smoke,
}

impl Size {
    fn pick<T>(self, full: T, smoke: T) -> T {
        match self {
            Self::Full => full,
            Self::Smoke => smoke,
        }
    }
}

/// What an interruption would leave in memory is nothing that the next run needs.
fn main() -> anyhow::Result<()> {
    let _set_before = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let options: BTreeMap<String, String> = std::env::args()
        .filter_map(|arg| arg.strip_prefix("--")?.split_once('=').map(owned))
        .collect();
    let only = options.get("only").map_or("", String::as_str);
    let size = if options.contains_key("smoke") { Size::Smoke } else { Size::Full };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let figures = runtime.block_on(run(only, size))?;
    print_table(&figures);
    let folder = options.get("out").map_or("target", String::as_str);
    std::fs::create_dir_all(folder)?;
    let file = format!("{folder}/bench.json");
    std::fs::write(&file, serde_json::to_string_pretty(&figures)? + "\n")
        .with_context(|| format!("write {file}"))?;
    println!("\nwritten to {file}");
    let missed = figures.iter().filter(|figure| figure.met == Some(false)).count();
    println!("{missed} goals missed");
    Ok(())
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

async fn run(only: &str, size: Size) -> anyhow::Result<Vec<Figure>> {
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|one| one == name);
    let mut figures = Vec::new();
    let begun = Instant::now();
    println!("machine: {}", usage::machine());
    if wanted("path") {
        figures.extend(path::run(size).await.context("bench path")?);
    }
    if wanted("first_call") {
        figures.extend(first_call::run(size).await.context("bench first_call")?);
    }
    if wanted("crowd") {
        figures.extend(crowd::run(size).await.context("bench crowd")?);
    }
    if wanted("idle") {
        figures.extend(idle::run(size, idle::Fleet::ONE).await.context("bench idle")?);
    }
    if wanted("idle10") {
        figures.extend(idle::run(size, idle::Fleet::TEN).await.context("bench idle10")?);
    }
    figures.extend(idle::growth(&figures));
    println!("all benches took {:.0} s", begun.elapsed().as_secs_f64());
    Ok(figures)
}

fn shown(value: f64) -> String {
    if value.abs() >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value.abs() >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

fn print_table(figures: &[Figure]) {
    let width = figures.iter().map(|figure| figure.name.len()).max().unwrap_or(0);
    println!("\n{:width$}  {:>10}  {:8}  {:>10}  met", "name", "value", "unit", "goal");
    for figure in figures {
        let met = figure.met.map_or("", |met| if met { "yes" } else { "NO" });
        let goal = figure.goal.as_deref().unwrap_or("");
        let value = shown(figure.value);
        println!("{:width$}  {value:>10}  {:8}  {goal:>10}  {met}", figure.name, figure.unit);
    }
}
