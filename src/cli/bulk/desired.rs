//! A file that says how a part of the hierarchy is to be: TOML, a table for each object under its name. It holds no
//! secrets, so that it can be kept with other sources.
//!
//! ```toml
//! customer = "gov"                         # it speaks of this customer and those below
//! prune = false                            # whether what it does not name is to go
//!
//! [customers."gov/health"]
//! name = "Ministry of Health"
//! mailboxes = 200
//!
//! [domains."health.example"]
//! customer = "gov/health"
//!
//! [mailboxes."anna@health.example"]
//! quota = "2GiB"
//!
//! [aliases."all@health.example"]
//! targets = ["anna@health.example"]
//!
//! [administrators."gov/health/carla"]      # the path of its customer, a slash, its name
//! roles = ["admin delegable"]
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

use super::columns::{Row, Type, shown};
use super::rows::{identity, label, object_row};
use crate::cli::failure::Failure;

/// Largest file, in octets.
const OCTETS_MAX: u64 = 64 << 20;
/// Fields that are secret or no property of an object.
const FOREIGN: [&str; 2] = ["password", "password_hash"];

/// An object as it is to be.
pub(super) struct Wanted {
    pub line: u64,
    pub kind: Type,
    pub row: Row,
}

/// What a file says.
#[derive(Default)]
pub(super) struct Desired {
    /// The customer of which it speaks; nothing for all that the caller sees.
    pub customer: Option<String>,
    /// Whether what it does not name is to go.
    pub prune: bool,
    /// The types of which it speaks.
    pub types: Vec<Type>,
    /// The objects: customers before what they have, the upper ones first.
    pub objects: Vec<Wanted>,
}

/// The section of a type.
pub(super) const fn section(kind: Type) -> &'static str {
    match kind {
        Type::Customer => "customers",
        Type::Domain => "domains",
        Type::Mailbox => "mailboxes",
        Type::Alias => "aliases",
        Type::Administrator => "administrators",
    }
}

/// Reads a file; every mistake with its line.
pub(super) fn read(path: &Path) -> Result<Desired, Failure> {
    let name = path.display();
    let failed = |error: std::io::Error| Failure::usage(format!("{name}: {error}"));
    let mut octets = Vec::new();
    let source: Box<dyn std::io::Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(path).map_err(failed)?),
    };
    source.take(OCTETS_MAX + 1).read_to_end(&mut octets).map_err(failed)?;
    if octets.len() as u64 > OCTETS_MAX {
        return Err(Failure::usage(format!("{name}: larger than {} MiB", OCTETS_MAX >> 20)));
    }
    let text = String::from_utf8(octets).map_err(|_| Failure::usage(format!("{name}: not UTF-8")))?;
    parse(&text).map_err(|mistakes| {
        let count = mistakes.len();
        let lines =
            mistakes.into_iter().take(1_000).map(|(line, message)| format!("{name}:{line}: {message}"));
        let message = lines.collect::<Vec<_>>().join("\n");
        let things = if count == 1 { "mistake" } else { "mistakes" };
        Failure::usage(message).hint(format!("{count} {things}; nothing was changed"))
    })
}

type Mistakes = Vec<(u64, String)>;

/// Understands a file.
pub(super) fn parse(text: &str) -> Result<Desired, Mistakes> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::new(text);
    let table = DeTable::parse(text).map_err(|error| {
        let line = lines.at(error.span().map_or(0, |span| span.start));
        vec![(line, error.message().trim().to_owned())]
    })?;
    let mut reading =
        Reading { lines, mistakes: Vec::new(), desired: Desired::default(), named: HashMap::new() };
    for (key, value) in table.get_ref() {
        reading.top(key.get_ref(), key.span().start, value.get_ref());
    }
    let Reading { mut mistakes, mut desired, .. } = reading;
    if !mistakes.is_empty() {
        mistakes.sort();
        return Err(mistakes);
    }
    let depth =
        |row: &Row| row.get("path").and_then(Value::as_str).map_or(0, |path| path.matches('/').count());
    desired.objects.sort_by_cached_key(|wanted| {
        (wanted.kind, depth(&wanted.row), wanted.row.contains_key("alias_of"), wanted.line)
    });
    Ok(desired)
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect())
    }

    fn at(&self, octet: usize) -> u64 {
        self.0.partition_point(|&begin| begin <= octet) as u64
    }
}

struct Reading {
    lines: Lines,
    mistakes: Mistakes,
    desired: Desired,
    named: HashMap<String, u64>,
}

impl Reading {
    fn mistake(&mut self, at: usize, message: impl Into<String>) {
        self.mistakes.push((self.lines.at(at), message.into()));
    }

    fn top(&mut self, key: &str, at: usize, value: &DeValue<'_>) {
        match (key, value) {
            ("customer", DeValue::String(path)) => self.desired.customer = Some(path.to_string()),
            ("prune", DeValue::Boolean(prune)) => self.desired.prune = *prune,
            ("customer" | "prune", _) => {
                self.mistake(at, format!("{key}: expected customer = \"PATH\", prune = true"))
            }
            _ => match Type::ALL.into_iter().find(|kind| section(*kind) == key) {
                Some(kind) => self.objects(kind, at, value),
                None => {
                    let known = Type::ALL.map(section).join(", ");
                    self.mistake(
                        at,
                        format!("unknown key {}; known are customer, prune, {known}", shown(key)),
                    );
                }
            },
        }
    }

    fn objects(&mut self, kind: Type, at: usize, value: &DeValue<'_>) {
        let DeValue::Table(objects) = value else {
            let key = section(kind);
            return self.mistake(at, format!("{key}: expected tables such as [{key}.\"NAME\"]"));
        };
        self.desired.types.push(kind);
        let mut objects: Vec<_> = objects.iter().collect();
        objects.sort_by_key(|(name, _)| name.span().start);
        for (name, value) in objects {
            let at = name.span().start;
            match value.get_ref() {
                DeValue::Table(fields) => self.object(kind, name.get_ref(), at, fields),
                _ => self.mistake(at, format!("{}: expected a table", shown(name.get_ref()))),
            }
        }
    }

    fn object(&mut self, kind: Type, name: &str, at: usize, fields: &DeTable<'_>) {
        let mut members: Map<String, Value> = naming(kind, name);
        let before = self.mistakes.len();
        for (key, value) in fields {
            let at = key.span().start;
            let key: &str = key.get_ref();
            if FOREIGN.contains(&key) {
                self.mistake(at, format!("{key}: such a file holds no secrets; posthouse import takes them"));
            } else if members.contains_key(key) {
                self.mistake(at, format!("{key}: stands in the table's name already"));
            } else {
                match json(value.get_ref()) {
                    Ok(value) => drop(members.insert(key.to_owned(), value)),
                    Err(message) => self.mistake(at, format!("{key}: {message}")),
                }
            }
        }
        if kind == Type::Domain && !members.contains_key("customer") {
            self.mistake(at, format!("domain {}: customer is missing", shown(name)));
        }
        if self.mistakes.len() > before {
            return;
        }
        let line = self.lines.at(at);
        match object_row(&members, Some(kind)) {
            Err(mistakes) => {
                for mistake in mistakes {
                    let field = mistake.field.map(|field| format!("{field}: ")).unwrap_or_default();
                    self.mistake(at, format!("{} {}: {field}{}", kind.name(), shown(name), mistake.message));
                }
            }
            Ok((kind, row)) => {
                if let Some(first) = self.named.insert(identity(kind, &row), line) {
                    self.mistake(at, format!("{} was on line {first} already", label(kind, &row)));
                }
                self.desired.objects.push(Wanted { line, kind, row });
            }
        }
    }
}

/// What the name of a table says.
fn naming(kind: Type, name: &str) -> Map<String, Value> {
    let members: Vec<(&str, &str)> = match kind {
        Type::Customer => vec![("path", name)],
        Type::Domain => vec![("domain", name)],
        Type::Mailbox | Type::Alias => vec![("address", name)],
        Type::Administrator => {
            let (path, name) = name.rsplit_once('/').unwrap_or(("", name));
            vec![("customer", if path.is_empty() { "/" } else { path }), ("name", name)]
        }
    };
    members.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

fn json(value: &DeValue<'_>) -> Result<Value, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string().into()),
        DeValue::Boolean(truth) => Ok((*truth).into()),
        DeValue::Integer(number) => {
            let parsed = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
            parsed.map(Value::from).map_err(|_| "the number is too large".to_owned())
        }
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect(),
        DeValue::Table(members) => {
            let members =
                members.iter().map(|(key, value)| Ok((key.get_ref().to_string(), json(value.get_ref())?)));
            members.collect::<Result<Map<String, Value>, String>>().map(Value::Object)
        }
        DeValue::Float(_) | DeValue::Datetime(_) => {
            Err("expected a text, a whole number or a list".to_owned())
        }
    }
}

/// The table of an object, as [`parse`] reads it. What has no limit is left out, but for a mailbox, which would else
/// get its domain's default.
pub(super) fn table(kind: Type, row: &Row) -> String {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let name = match kind {
        Type::Administrator => format!("{}/{}", text("customer").trim_matches('/'), text("name")),
        kind => kind.naming().first().map(|name| text(name).to_owned()).unwrap_or_default(),
    };
    let mut table = format!("[{}.{}]\n", section(kind), quoted(&name));
    for field in kind.fields() {
        if kind.naming().contains(&field.name) && !(kind == Type::Domain && field.name == "customer") {
            continue;
        }
        let Some(value) = row.get(field.name) else { continue };
        let is_default = value.is_null() && (kind, field.name) != (Type::Mailbox, "quota")
            || (kind, field.name) == (Type::Administrator, "enabled") && *value == Value::Bool(true);
        if !is_default {
            table.push_str(&format!("{} = {}\n", field.name, field.to_toml(value)));
        }
    }
    table
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str = r#"
customer = "gov"
prune = true

[mailboxes."anna@health.example"]
quota = "2GiB"
name = "Anna"

[customers."gov/health"]
name = "Health"
mailboxes = 2_00
[customers.gov]

[domains]
"health.example" = { customer = "gov/health", catch_all = "none" }

[aliases."all@health.example"]
targets = ["anna@health.example"]

[administrators."gov/health/carla"]
roles = ["admin delegable", { role = "viewer", customer = "gov" }]
"#;

    #[test]
    fn files_are_read_in_the_order_in_which_one_needs_the_other() {
        let desired = parse(FILE).map_err(|mistakes| format!("{mistakes:?}")).unwrap();
        assert_eq!((desired.customer.as_deref(), desired.prune), (Some("gov"), true));
        let rows: Vec<(u64, Value)> =
            desired.objects.iter().map(|wanted| (wanted.line, Value::Object(wanted.row.clone()))).collect();
        let expected = [
            (12, json!({ "type": "customer", "path": "gov" })),
            (9, json!({ "type": "customer", "path": "gov/health", "name": "Health", "mailboxes": 200 })),
            (
                15,
                json!({ "type": "domain", "domain": "health.example", "customer": "gov/health", "catch_all": null }),
            ),
            (
                5,
                json!({ "type": "mailbox", "address": "anna@health.example", "quota": 1_u64 << 31, "name": "Anna" }),
            ),
            (
                17,
                json!({ "type": "alias", "address": "all@health.example", "targets": ["anna@health.example"] }),
            ),
            (
                20,
                json!({ "type": "administrator", "customer": "gov/health", "name": "carla", "roles": [
                { "role": "admin", "delegable": true }, { "role": "viewer", "customer": "gov" }] }),
            ),
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let desired = parse(FILE).map_err(|mistakes| format!("{mistakes:?}")).unwrap();
        let written: Vec<String> =
            desired.objects.iter().map(|wanted| table(wanted.kind, &wanted.row)).collect();
        let again = parse(&written.join("\n")).map_err(|mistakes| format!("{mistakes:?}")).unwrap();
        for (before, after) in desired.objects.iter().zip(&again.objects) {
            let mut before = before.row.clone();
            before.retain(|name, value| !(name == "catch_all" && value.is_null()));
            assert_eq!(before, after.row);
        }
        assert!(written.concat().contains("quota = \"2GiB\""), "{written:?}");
    }

    #[test]
    fn mistakes_name_their_lines() {
        for (text, line, word) in [
            ("x = 1\n", 1, "unknown key x"),
            ("\n[mailboxes.a]\nquota = 1.5\n", 3, "whole number"),
            ("[mailboxes.\"a@x.example\"]\npassword = \"secret\"\n", 2, "no secrets"),
            ("[mailboxes.\"a@x.example\"]\nqota = 1\n", 1, "did you mean quota?"),
            ("[mailboxes.\"a@x.example\"]\nquota = 99999999999999999999\n", 2, "large"),
            ("[mailboxes.\"a@x.example\"]\n[mailboxes.\"A@X.example\"]\n", 2, "line 1 already"),
            ("[domains.\"x.example\"]\n", 1, "customer is missing"),
            ("[customers]\ngov = 1\n", 2, "expected a table"),
            ("[customers.\"a\n", 1, ""),
            ("[customers.a]\n[customers.a]\n", 2, "dup"),
        ] {
            let mistakes = parse(text).err().unwrap_or_else(|| panic!("{text}"));
            let (found, message) = mistakes.first().unwrap();
            assert!(*found == line && message.contains(word), "{text}: {mistakes:?}");
        }
    }
}
