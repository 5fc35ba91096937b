//! A line of a file becomes a row, or the list of what is wrong in it.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::columns::{Field, Row, Type, meant, shown};
use super::csv::{Record, unguarded};
use crate::base::address::{Address, DomainName};

/// What is wrong in a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mistake {
    pub field: Option<String>,
    pub message: String,
}

impl Mistake {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { field: None, message: message.into() }
    }

    fn of(field: &str, message: impl Into<String>) -> Self {
        Self { field: Some(field.to_owned()), message: message.into() }
    }
}

/// A row and what it is of.
pub(super) type Read = Result<(Type, Row), Vec<Mistake>>;

/// Reads the value of a field from a text or from JSON.
type Take<'t> = dyn Fn(&Field) -> Result<Option<Value>, String> + 't;

/// What the columns of a CSV file mean.
pub(super) struct Header {
    columns: Vec<String>,
    only: Option<Type>,
}

impl Header {
    /// Understands the first record.
    pub(super) fn new(record: &Record, only: Option<Type>) -> Result<Self, Vec<Mistake>> {
        let mut columns = Vec::with_capacity(record.fields.len());
        let mut mistakes = Vec::new();
        for octets in &record.fields {
            let Ok(text) = std::str::from_utf8(octets) else {
                mistakes.push(Mistake::new("the header is not UTF-8"));
                continue;
            };
            let name = text.trim().to_ascii_lowercase();
            let is_known = name == "type" || super::columns::FIELDS.iter().any(|field| field.name == name);
            if !is_known && record.fields.len() == 1 && text.contains([';', '\t']) {
                mistakes.push(Mistake::new("expected columns with commas between"));
            } else if !is_known {
                mistakes.push(Mistake::new(format!("unknown column {}{}", shown(text), meant(&name))));
            } else if columns.contains(&name) {
                mistakes.push(Mistake::new(format!("column {name} is there twice")));
            }
            columns.push(name);
        }
        if only.is_none() && mistakes.is_empty() && !columns.iter().any(|name| name == "type") {
            mistakes.push(Mistake::new(
                "there is no column type (customer, domain, mailbox, alias, administrator); without one, say \
                 --type mailboxes",
            ));
        }
        let missing =
            only.map_or(&[][..], Type::naming).iter().find(|name| !columns.iter().any(|one| one == *name));
        if let Some(name) = missing.filter(|_| mistakes.is_empty()) {
            mistakes.push(Mistake::new(format!("there is no column {name}")));
        }
        if mistakes.is_empty() { Ok(Self { columns, only }) } else { Err(mistakes) }
    }

    /// A record as a row.
    pub(super) fn row(&self, record: &Record) -> Read {
        if record.fields.len() != self.columns.len() {
            let (found, wanted) = (record.fields.len(), self.columns.len());
            return Err(vec![Mistake::new(format!("{found} fields, but the header has {wanted}"))]);
        }
        let mut texts: HashMap<&str, &str> = HashMap::new();
        let mut mistakes = Vec::new();
        for (name, octets) in self.columns.iter().zip(&record.fields) {
            match std::str::from_utf8(octets) {
                Ok(text) => drop(texts.insert(name, unguarded(text))),
                Err(_) => mistakes.push(Mistake::of(name, "not UTF-8")),
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let kind = kind(texts.get("type").copied().filter(|text| !text.is_empty()), self.only)?;
        let filled = texts.iter().filter(|(_, text)| !text.is_empty()).map(|(name, _)| *name);
        complete(kind, filled, &|field| {
            texts.get(field.name).map_or(Ok(None), |text| field.value_of_text(text))
        })
    }
}

/// A line of a file of JSON lines as a row.
pub(super) fn json_row(line: &[u8], only: Option<Type>) -> Read {
    let mistake = |message: String| vec![Mistake::new(message)];
    let text = std::str::from_utf8(line).map_err(|_| mistake("not UTF-8".to_owned()))?;
    let value: Value = serde_json::from_str(text).map_err(|error| mistake(format!("no JSON: {error}")))?;
    let Value::Object(members) = value else {
        return Err(mistake(format!("expected a JSON object, got {}", shown(text))));
    };
    object_row(&members, only)
}

/// The members of an object as a row.
pub(super) fn object_row(members: &Map<String, Value>, only: Option<Type>) -> Read {
    let kind = kind(members.get("type").and_then(Value::as_str), only)?;
    let names = members.keys().map(String::as_str);
    complete(kind, names, &|field| {
        members.get(field.name).map_or(Ok(None), |value| field.value_of_json(value))
    })
}

fn kind(text: Option<&str>, only: Option<Type>) -> Result<Type, Vec<Mistake>> {
    let Some(text) = text else {
        return only.ok_or_else(|| vec![Mistake::of("type", "missing")]);
    };
    let known = Type::by_name(text).filter(|kind| only.is_none_or(|only| only == *kind));
    known.ok_or_else(|| {
        let wanted = match only {
            Some(only) => only.name().to_owned(),
            None => Type::ALL.map(Type::name).join(", "),
        };
        vec![Mistake::of("type", format!("expected {wanted}, got {}", shown(text)))]
    })
}

/// The row of all fields of the type; `names` are the fields that are filled.
fn complete<'n>(kind: Type, names: impl Iterator<Item = &'n str>, take: &Take<'_>) -> Read {
    let mut mistakes = Vec::new();
    for name in names.filter(|name| *name != "type" && kind.field(name).is_none()) {
        let message = match super::columns::FIELDS.iter().any(|field| field.name == name) {
            true => format!("a {} has none", kind.name()),
            false => format!("unknown field{}", meant(name)),
        };
        mistakes.push(Mistake::of(&shown(name), message));
    }
    let mut row = Map::new();
    row.insert("type".to_owned(), kind.name().into());
    for field in kind.fields() {
        match take(field) {
            Ok(Some(value)) => match unreadable(&value) {
                None => drop(row.insert(field.name.to_owned(), value)),
                Some(character) => {
                    let message = format!("has a control character, U+{:04X}", u32::from(character));
                    mistakes.push(Mistake::of(field.name, message));
                }
            },
            Ok(None) => {}
            Err(message) => mistakes.push(Mistake::of(field.name, message)),
        }
    }
    let needed = kind.naming().iter().chain((kind == Type::Alias).then_some(&"targets"));
    for name in needed {
        if !row.contains_key(*name) && !mistakes.iter().any(|mistake| mistake.field.as_deref() == Some(*name))
        {
            mistakes.push(Mistake::of(name, "missing"));
        }
    }
    if mistakes.is_empty() { Ok((kind, row)) } else { Err(mistakes) }
}

/// A control character: no field has one.
fn unreadable(value: &Value) -> Option<char> {
    match value {
        Value::String(text) => text.chars().find(|character| character.is_control()),
        Value::Array(items) => items.iter().find_map(unreadable),
        Value::Object(members) => members.values().find_map(unreadable),
        _ => None,
    }
}

/// What tells a row from all others, in the form in which names are stored: two rows with the same are one object.
pub(super) fn identity(kind: Type, row: &Row) -> String {
    let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let path = |name: &str| text(name).trim_matches('/').to_ascii_lowercase();
    match kind {
        Type::Customer => format!("customer {}", path("path")),
        // Several customers may claim a domain.
        Type::Domain => {
            format!("domain {} of {}", stored_domain(text("domain")), path("customer"))
        }
        // A mailbox and an alias cannot have the same address.
        Type::Mailbox | Type::Alias => format!("address {}", stored_address(text("address"))),
        Type::Administrator => {
            format!("administrator {} of {}", text("name").to_lowercase(), path("customer"))
        }
    }
}

/// A domain in the form in which it is stored.
pub(super) fn stored_domain(text: &str) -> String {
    text.parse::<DomainName>().map_or_else(|_| text.to_lowercase(), |name| name.to_string())
}

/// An address in the form in which it is stored.
pub(super) fn stored_address(text: &str) -> String {
    text.parse::<Address>().map_or_else(|_| text.to_lowercase(), |address| address.to_string())
}

/// How a row is called in messages.
pub(super) fn label(kind: Type, row: &Row) -> String {
    let text = |name: &str| row.get(name).and_then(Value::as_str).map(shown).unwrap_or_default();
    match kind {
        Type::Administrator => format!("administrator {} of {}", text("name"), text("customer")),
        kind => {
            format!("{} {}", kind.name(), kind.naming().first().map(|name| text(name)).unwrap_or_default())
        }
    }
}
