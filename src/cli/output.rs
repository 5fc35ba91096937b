//! What is shown: tables for people, JSON for programs. Data goes to standard output and nothing else does.

use std::io::{IsTerminal, Write};

use comfy_table::{
    Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets,
};
use rustix::termios::tcgetwinsize;
use serde_json::Value;

use super::failure::Failure;
use crate::base::size::format_size;

/// Narrowest table that is tried, in columns.
const WIDTH_MIN: u16 = 40;

/// How a value is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// As it is.
    Text,
    /// Octets; null is no limit.
    Size,
    /// A count; null is no limit.
    Count,
    /// A number of percent; null is nothing to compare with.
    Percent,
    /// RFC 3339, shown to the minute; null is never.
    Time,
    /// A list with commas.
    List,
    /// Yes or no.
    Truth,
    /// A number of seconds, shown in its two largest units.
    Span,
}

/// A column: its title, the member that it shows (`a.b` for an inner one), and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub title: &'static str,
    pub member: &'static str,
    pub kind: Kind,
}

/// Declares columns: `columns![ADDRESS: address Text, USED: bytes_used Size]`.
macro_rules! columns {
    ($($title:literal $member:literal $kind:ident),+ $(,)?) => {
        &[$($crate::cli::output::Column {
            title: $title,
            member: $member,
            kind: $crate::cli::output::Kind::$kind,
        }),+]
    };
}
pub(super) use columns;

/// Tells people something on standard error. Nobody may be listening there, which is no reason to stop.
pub(super) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Where results go.
pub(super) struct Output {
    json: bool,
    /// Columns of the terminal; nothing if standard output is none.
    width: Option<u16>,
    bold: bool,
    is_silent: bool,
}

impl Output {
    pub(super) fn new(json: bool) -> Self {
        let stdout = std::io::stdout();
        let is_terminal = stdout.is_terminal();
        let size = if is_terminal { tcgetwinsize(&stdout).ok() } else { None };
        let width = is_terminal.then(|| size.map_or(80, |size| size.ws_col)).filter(|width| *width > 0);
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, width, bold: is_terminal && !is_plain, is_silent: false }
    }

    /// Shows nothing.
    pub(super) fn silent() -> Self {
        Self { json: true, width: None, bold: false, is_silent: true }
    }

    /// Columns of the terminal; nothing if standard output is none.
    pub(super) fn width(&self) -> Option<u16> {
        self.width
    }

    /// Whether programs read it.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// A document for programs.
    pub(super) fn document(&self, document: &Value) -> Result<(), Failure> {
        let shown = serde_json::to_string_pretty(document).unwrap_or_default();
        self.line(&shown)
    }

    /// One object of a list for programs.
    pub(super) fn object(&self, object: &Value) -> Result<(), Failure> {
        self.line(&object.to_string())
    }

    /// A line of text.
    pub(super) fn line(&self, text: &str) -> Result<(), Failure> {
        if self.is_silent {
            return Ok(());
        }
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n")) {
            // Whoever reads has seen enough (`| head`).
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
            outcome => Ok(outcome?),
        }
    }

    /// A table of objects; columns that no object fills are left out.
    pub(super) fn table(&self, columns: &[Column], objects: &[Value]) -> Result<(), Failure> {
        self.line(&self.table_text(columns, objects))
    }

    fn table_text(&self, columns: &[Column], objects: &[Value]) -> String {
        let filled: Vec<&Column> = columns
            .iter()
            .filter(|column| objects.iter().any(|object| member(object, column.member).is_some()))
            .collect();
        let mut table = self.empty_table();
        // Cut off anywhere, not between words.
        table.set_delimiter('\0');
        table.set_header(filled.iter().map(|column| self.title(column)));
        for object in objects {
            let cells = filled.iter().map(|column| {
                let text = show(column.kind, member(object, column.member));
                let number = matches!(column.kind, Kind::Size | Kind::Count | Kind::Percent);
                let cell = Cell::new(text);
                if number { cell.set_alignment(CellAlignment::Right) } else { cell }
            });
            let mut row = Row::from(cells.collect::<Vec<_>>());
            // What does not fit is cut off rather than wrapped: a line is an object.
            row.max_height(1);
            table.add_row(row);
        }
        for (index, column) in filled.iter().enumerate() {
            if self.is_whole(column, index == 0, objects)
                && let Some(shown) = table.column_mut(index)
            {
                shown.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        trimmed(table)
    }

    /// Whether a column is never cut off: numbers and times, which a part of would be another one, and the first
    /// column, which names the object in other commands, unless it takes more than two thirds of the line.
    fn is_whole(&self, column: &Column, is_first: bool, objects: &[Value]) -> bool {
        let is_value = matches!(column.kind, Kind::Size | Kind::Count | Kind::Percent | Kind::Time);
        let widest = || {
            let texts = objects.iter().map(|object| show(column.kind, member(object, column.member)));
            texts.map(|text| text.chars().count()).max().unwrap_or_default()
        };
        is_value || is_first && self.width.is_none_or(|width| widest() * 3 <= usize::from(width) * 2)
    }

    /// The members of one object, a line each.
    pub(super) fn sheet(&self, columns: &[Column], object: &Value) -> Result<(), Failure> {
        self.sheet_text(columns, object).map_or(Ok(()), |sheet| self.line(&sheet))
    }

    /// As [`Output::sheet`]; nothing if the object has none of the members.
    pub(super) fn sheet_text(&self, columns: &[Column], object: &Value) -> Option<String> {
        let mut table = self.empty_table();
        for column in columns {
            let Some(value) = member(object, column.member) else { continue };
            let text = show(column.kind, Some(value));
            if text.is_empty() {
                continue;
            }
            table.add_row(vec![self.bold(Cell::new(column.title)), Cell::new(text)]);
        }
        (table.row_count() > 0).then(|| trimmed(table))
    }

    fn empty_table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).force_no_tty().set_truncation_indicator("…");
        if self.bold {
            table.enforce_styling();
        }
        match self.width {
            Some(width) => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width.max(WIDTH_MIN))
            }
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        table
    }

    fn title(&self, column: &Column) -> Cell {
        let cell = self.bold(Cell::new(column.title));
        let number = matches!(column.kind, Kind::Size | Kind::Count | Kind::Percent);
        if number { cell.set_alignment(CellAlignment::Right) } else { cell }
    }

    fn bold(&self, cell: Cell) -> Cell {
        if self.bold { cell.add_attribute(Attribute::Bold) } else { cell }
    }
}

/// The table's lines with two blanks between columns and none at the ends.
fn trimmed(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// The member of an object by its name, or by `outer.inner`. A member that is null is there.
pub(super) fn member<'v>(object: &'v Value, name: &str) -> Option<&'v Value> {
    name.split('.').try_fold(object, |value, part| value.get(part))
}

/// A value for people.
pub(super) fn show(kind: Kind, value: Option<&Value>) -> String {
    let Some(value) = value else { return String::new() };
    match (kind, value) {
        (Kind::Size | Kind::Count, Value::Null) => "none".to_owned(),
        (Kind::Percent, Value::Null) => "-".to_owned(),
        (Kind::Time, Value::Null) => "never".to_owned(),
        (_, Value::Null) => String::new(),
        (Kind::List, Value::Array(elements)) if elements.is_empty() => "none".to_owned(),
        (Kind::Size, value) => value.as_u64().map_or_else(|| text(value), format_size),
        (Kind::Percent, value) => {
            value.as_f64().map_or_else(|| text(value), |percent| format!("{percent:.0} %"))
        }
        (Kind::Time, value) => time(&text(value)),
        (Kind::Span, value) => value.as_u64().map_or_else(|| text(value), span),
        (Kind::Truth, Value::Bool(truth)) => if *truth { "yes" } else { "no" }.to_owned(),
        (_, value) => text(value),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        Value::Array(elements) => elements.iter().map(text_of_element).collect::<Vec<_>>().join(", "),
        other => clean(&other.to_string()),
    }
}

fn text_of_element(value: &Value) -> String {
    match value {
        Value::String(text) => clean(text),
        other => setting(other).unwrap_or_else(|| clean(&other.to_string())),
    }
}

/// A setting in a list of them.
fn setting(value: &Value) -> Option<String> {
    let (key, text) = (value.get("key")?.as_str()?, value.get("value")?.as_str()?);
    let locked = if value.get("locked") == Some(&Value::Bool(true)) { " (locked)" } else { "" };
    Some(format!("{}={}{locked}", clean(key), clean(text)))
}

/// `2026-11-22T10:00:00Z` without seconds, as people read it; anything else as it is.
fn time(text: &str) -> String {
    let minute = text.get(..16).filter(|_| text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T'));
    minute.map_or_else(|| text.to_owned(), |minute| minute.replace('T', " "))
}

/// `3 d 4 h`, `5 min`: the largest unit, and the next where it says something.
fn span(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3_600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Without control characters: what stands in mail must not steer the terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A field of a CSV line (RFC 4180 section 2); one that a spreadsheet would take for a formula is kept a text.
pub(super) fn csv_field(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    csv_quoted(&if is_formula { format!("'{text}") } else { text.to_owned() })
}

/// A field of a CSV line, in quotes where it needs them.
pub(super) fn csv_quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plain(width: Option<u16>) -> Output {
        Output { json: false, width, bold: false, is_silent: false }
    }

    #[test]
    fn values_are_shown_for_people() {
        assert_eq!(show(Kind::Size, Some(&json!(1_073_741_824))), "1 GiB");
        assert_eq!(show(Kind::Size, Some(&Value::Null)), "none");
        assert_eq!(show(Kind::Size, Some(&json!(0))), "0 B", "nothing is not the same as no limit");
        assert_eq!(show(Kind::Percent, Some(&json!(12.4))), "12 %");
        assert_eq!(show(Kind::Time, Some(&json!("2026-11-22T10:00:59Z"))), "2026-11-22 10:00");
        assert_eq!(show(Kind::Time, Some(&Value::Null)), "never");
        assert_eq!(show(Kind::Span, Some(&json!(59))), "59 s");
        assert_eq!(show(Kind::Span, Some(&json!(3_700))), "1 h 1 min");
        assert_eq!(show(Kind::Span, Some(&json!(273_600))), "3 d 4 h");
        assert_eq!(show(Kind::List, Some(&json!(["a", "b"]))), "a, b");
        assert_eq!(show(Kind::List, Some(&json!([]))), "none");
        assert_eq!(show(Kind::Text, Some(&json!("a\u{1b}[31mb\n"))), "a\u{fffd}[31mb\u{fffd}");
        assert_eq!(show(Kind::Text, None), "");
    }

    #[test]
    fn rows_are_cut_off_to_the_width_of_the_terminal() {
        let mut table = plain(Some(40)).empty_table();
        let mut row = Row::from(vec!["a".repeat(60), "b".to_owned()]);
        row.max_height(1);
        table.add_row(row);
        let shown = trimmed(table);
        assert_eq!(shown.lines().count(), 1, "{shown}");
        assert!(shown.chars().count() <= 40 && shown.contains('…'), "{shown}");
    }

    #[test]
    fn what_names_an_object_its_numbers_and_times_are_not_cut_off() {
        let columns =
            columns!["ADDRESS" "address" Text, "NAME" "name" Text, "USED" "used" Size, "LOGIN" "at" Time];
        let object = json!({
            "address": "records@health.example",
            "name": "Office of Records and Archives",
            "used": 1_073_741_824,
            "at": "2026-11-22T10:00:59Z",
        });
        let shown = plain(Some(64)).table_text(columns, &[object]);
        let row = shown.lines().nth(1).unwrap();
        assert!(shown.lines().all(|line| line.chars().count() <= 64), "{shown}");
        assert!(row.starts_with("records@health.example  Of") && row.contains('…'), "{shown}");
        assert!(row.ends_with("  1 GiB  2026-11-22 10:00"), "{shown}");
        // One that leaves no room for the rest is cut off all the same.
        let long = json!({ "address": "a".repeat(60), "name": "Anna", "used": 1, "at": Value::Null });
        let shown = plain(Some(64)).table_text(columns, &[long]);
        assert!(shown.lines().all(|line| line.chars().count() <= 64), "{shown}");
    }

    #[test]
    fn csv_fields_are_quoted_and_are_no_formulas() {
        assert_eq!(csv_field("plain"), "plain");
        assert_eq!(csv_field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv_field("=1+1"), "'=1+1");
        assert_eq!(csv_field("-12"), "-12");
    }
}
