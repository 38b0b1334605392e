//! Data on standard output: tables for people, JSON for programs.

use std::io::{self, IsTerminal as _, Write as _};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;

use super::Failure;

/// Width of tables that do not go to a terminal.
const WIDTH: u16 = 80;
/// A terminal that says it is narrower does not know its width.
const NARROWEST: u16 = 40;

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// The API's own JSON.
    Json,
}

/// Standard output.
#[derive(Debug)]
pub(super) struct Output {
    format: Format,
}

/// What can be shown as rows.
pub(super) trait Rows: Serialize {
    /// Names of the columns.
    const HEADER: &'static [&'static str];
    /// One row.
    fn row(&self) -> Vec<String>;
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format }
    }

    /// Whether programs read it.
    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A list of things.
    pub(super) fn list<T: Rows>(&self, items: &[T]) -> Result<(), Failure> {
        match self.format {
            Format::Json => json(&items),
            Format::Table if items.is_empty() => {
                note("there is none");
                Ok(())
            }
            Format::Table => {
                let rows = items.iter().map(Rows::row).collect();
                print(&table(T::HEADER, rows))
            }
        }
    }

    /// One thing, as a list of one.
    pub(super) fn one<T: Rows>(&self, item: &T) -> Result<(), Failure> {
        match self.format {
            Format::Json => json(item),
            Format::Table => print(&table(T::HEADER, vec![item.row()])),
        }
    }

    /// One thing with its parts, for people in the form of `text`.
    pub(super) fn detail(
        &self,
        item: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => json(item),
            Format::Table => print(&text()),
        }
    }

    /// One JSON object on one line, or a line of text.
    pub(super) fn line(&self, value: &impl Serialize, text: &str) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                let json = serde_json::to_string(value)
                    .map_err(|error| Failure::ours(format!("write JSON: {error}")))?;
                print(&(json + "\n"))
            }
            Format::Table => print(&format!("{text}\n")),
        }
    }
}

/// JSON on standard output.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::ours(format!("write JSON: {error}")))?;
    print(&(text + "\n"))
}

/// Text on standard output, as it is.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Says something to the person at the terminal.
pub(super) fn note(text: &str) {
    // Talk that nobody reads is no failure.
    let _closed = writeln!(io::stderr(), "{text}");
}

/// Rows under a header, without lines, as wide as the terminal or 80 columns.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() || table.width().is_none_or(|width| width < NARROWEST) {
        table.set_width(WIDTH);
    }
    table.set_header(header.to_vec()).add_rows(rows);
    for (column, name) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 2));
        // Ids are copied, so they stay whole.
        if *name == "ID" {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// Names and values, one a line; empty values are left out, long ones go on below.
pub(super) fn facts(facts: &[(&str, String)]) -> String {
    let shown: Vec<_> = facts.iter().filter(|(_, value)| !value.is_empty()).collect();
    let width = shown.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    let line = |(name, value): &&(&str, String)| {
        let name = format!("{:width$} ", format!("{name}:"));
        format!("{}\n", wrap(value, &name, columns()))
    };
    shown.iter().map(line).collect()
}

/// Width of what is written: the terminal's, or 80 columns.
pub(super) fn columns() -> usize {
    let width = io::stdout().is_terminal().then(|| Table::new().width()).flatten();
    usize::from(width.filter(|width| *width >= NARROWEST).unwrap_or(WIDTH))
}

/// Text behind `head`, broken between words; what does not fit goes on below its beginning.
/// A word that is longer than a line stays whole, so that it can be copied.
pub(super) fn wrap(text: &str, head: &str, width: usize) -> String {
    let indent = head.chars().count();
    let (mut lines, mut line, mut length) = (Vec::new(), head.to_owned(), indent);
    let mut is_fresh = true;
    for word in text.split_whitespace() {
        let more = word.chars().count() + usize::from(!is_fresh);
        if !is_fresh && length + more > width {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
            (length, is_fresh) = (indent, true);
        }
        if !is_fresh {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        length += word.chars().count();
        is_fresh = false;
    }
    lines.push(line);
    lines.join("\n")
}

/// A moment, to the minute.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M").to_string()
}

/// A word as the API writes it, such as `rolling_back`.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_goes_on_below_its_beginning() {
        assert_eq!(wrap("a bb ccc dddd", "x: ", 9), "x: a bb\n   ccc\n   dddd");
        assert_eq!(wrap("0123456789 b", "- ", 6), "- 0123456789\n  b", "words stay whole");
        assert_eq!(wrap("", "x: ", 9), "x: ");
        assert_eq!(facts(&[("a", "1".to_owned()), ("bc", String::new())]), "a: 1\n");
    }
}
