//! The types of objects and their fields, as they stand in files: how a text or a JSON value becomes what
//! `import.batch` takes, and back.

use serde_json::{Map, Value, json};

use crate::base::config::similar;
use crate::base::size::parse_size_limit;

/// A row as `import.batch` takes it.
pub(super) type Row = Map<String, Value>;

/// Types of objects.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, clap::ValueEnum)]
pub(super) enum Type {
    #[value(name = "customers", alias = "customer")]
    Customer,
    #[value(name = "domains", alias = "domain")]
    Domain,
    #[value(name = "mailboxes", alias = "mailbox")]
    Mailbox,
    #[value(name = "aliases", alias = "alias")]
    Alias,
    #[value(name = "administrators", alias = "administrator")]
    Administrator,
}

impl Type {
    /// All of them, in the order in which one needs the other.
    pub const ALL: [Self; 5] =
        [Self::Customer, Self::Domain, Self::Mailbox, Self::Alias, Self::Administrator];

    /// The word for it in a row.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Domain => "domain",
            Self::Mailbox => "mailbox",
            Self::Alias => "alias",
            Self::Administrator => "administrator",
        }
    }

    /// The type of this name, singular or plural.
    pub fn by_name(name: &str) -> Option<Self> {
        <Self as clap::ValueEnum>::from_str(name.trim(), true).ok()
    }

    /// The fields that say which object it is; the first alone, but for administrators.
    pub const fn naming(self) -> &'static [&'static str] {
        match self {
            Self::Customer => &["path"],
            Self::Domain => &["domain"],
            Self::Mailbox | Self::Alias => &["address"],
            Self::Administrator => &["name", "customer"],
        }
    }

    /// Its fields.
    pub fn fields(self) -> impl Iterator<Item = &'static Field> {
        FIELDS.iter().filter(move |field| field.types.contains(&self))
    }

    /// Its field of this name.
    pub fn field(self, name: &str) -> Option<&'static Field> {
        self.fields().find(|field| field.name == name)
    }
}

/// How a field is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Text,
    /// A text, or `none`.
    OptionalText,
    /// Octets such as `2GiB`, or `none`.
    Size,
    /// A number, or `none`.
    Count,
    Truth,
    /// Addresses with blanks or commas between.
    Addresses,
    /// `ROLE [at PATH] [delegable] [from TIME] [until TIME]` with `;` between.
    Roles,
}

/// A field of one or more types.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    types: &'static [Type],
    /// Whether exports have it; what is secret or says only where something is placed at first is not in them.
    pub is_exported: bool,
}

const fn field(name: &'static str, kind: Kind, types: &'static [Type]) -> Field {
    Field { name, kind, types, is_exported: true }
}

const fn given(name: &'static str, types: &'static [Type]) -> Field {
    Field { name, kind: Kind::Text, types, is_exported: false }
}

/// All fields, in the order of columns.
pub(super) static FIELDS: &[Field] = &[
    field("path", Kind::Text, &[Type::Customer]),
    field("domain", Kind::Text, &[Type::Domain]),
    field("address", Kind::Text, &[Type::Mailbox, Type::Alias]),
    field("name", Kind::Text, &[Type::Customer, Type::Mailbox, Type::Administrator]),
    field("customer", Kind::Text, &[Type::Domain, Type::Mailbox, Type::Alias, Type::Administrator]),
    field("kind", Kind::Text, &[Type::Customer]),
    field("contact", Kind::OptionalText, &[Type::Customer, Type::Administrator]),
    field("alias_of", Kind::Text, &[Type::Domain]),
    field("state", Kind::Text, &[Type::Domain]),
    field("catch_all", Kind::OptionalText, &[Type::Domain]),
    field("targets", Kind::Addresses, &[Type::Alias]),
    field("roles", Kind::Roles, &[Type::Administrator]),
    field("enabled", Kind::Truth, &[Type::Administrator]),
    field("quota", Kind::Size, &[Type::Mailbox]),
    field("bytes", Kind::Size, &[Type::Customer, Type::Domain]),
    field("messages", Kind::Count, &[Type::Customer, Type::Domain, Type::Mailbox]),
    field("mailbox_default", Kind::Size, &[Type::Domain]),
    field("mailboxes", Kind::Count, &[Type::Customer]),
    field("aliases", Kind::Count, &[Type::Customer]),
    field("domains", Kind::Count, &[Type::Customer]),
    field("customers", Kind::Count, &[Type::Customer]),
    field("administrators", Kind::Count, &[Type::Customer]),
    field("bytes_guarantee", Kind::Size, &[Type::Customer]),
    field("mailboxes_guarantee", Kind::Count, &[Type::Customer]),
    field("bytes_overcommit_percent", Kind::Count, &[Type::Customer]),
    field("mailboxes_overcommit_percent", Kind::Count, &[Type::Customer]),
    given("store", &[Type::Customer, Type::Mailbox]),
    given("password", &[Type::Mailbox]),
    given("password_hash", &[Type::Mailbox]),
];

/// What a word that names no column may have been meant to be.
pub(super) fn meant(word: &str) -> String {
    let known: Vec<&str> = std::iter::once("type").chain(FIELDS.iter().map(|field| field.name)).collect();
    match similar(word, &known) {
        Some(name) => format!("; did you mean {name}?"),
        None => format!("; known are {}", known.join(", ")),
    }
}

impl Field {
    /// Whether there is a word for having none.
    pub fn may_be_none(&self) -> bool {
        matches!(self.kind, Kind::OptionalText | Kind::Size | Kind::Count)
    }

    /// Whether it is a number of octets.
    pub fn is_size(&self) -> bool {
        self.kind == Kind::Size
    }

    /// Whether it is a number of objects or a percentage.
    pub fn is_count(&self) -> bool {
        self.kind == Kind::Count
    }

    /// The value for a text; nothing for the empty text, which says nothing.
    pub fn value_of_text(&self, text: &str) -> Result<Option<Value>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let is_none = text.eq_ignore_ascii_case("none");
        let value = match self.kind {
            Kind::Text => text.into(),
            Kind::OptionalText => {
                if is_none {
                    Value::Null
                } else {
                    text.into()
                }
            }
            Kind::Size => size(text)?,
            Kind::Count if is_none => Value::Null,
            Kind::Count => {
                let count = text.trim().parse::<i64>().ok().filter(|count| *count >= 0);
                count
                    .ok_or_else(|| format!("expected a number such as 10, or none, got {}", shown(text)))?
                    .into()
            }
            Kind::Truth => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" => true.into(),
                "false" | "no" | "0" => false.into(),
                _ => return Err(format!("expected true or false, got {}", shown(text))),
            },
            Kind::Addresses => addresses(text),
            Kind::Roles => roles(text)?,
        };
        Ok(Some(value))
    }

    /// The value for a JSON value.
    pub fn value_of_json(&self, value: &Value) -> Result<Option<Value>, String> {
        match value {
            Value::Null if self.may_be_none() => Ok(Some(Value::Null)),
            Value::Null => Ok(None),
            // An empty text in JSON was meant.
            Value::String(text) if text.is_empty() && self.kind == Kind::Text => Ok(Some("".into())),
            Value::String(text) => self.value_of_text(text),
            Value::Number(number) => self.value_of_text(&number.to_string()),
            Value::Bool(truth) if self.kind == Kind::Truth => Ok(Some((*truth).into())),
            Value::Array(items) if self.kind == Kind::Addresses && items.iter().all(Value::is_string) => {
                Ok(Some(value.clone()))
            }
            Value::Array(items) if self.kind == Kind::Roles => items
                .iter()
                .map(role_from_json)
                .collect::<Result<Vec<Value>, String>>()
                .map(|all| Some(all.into())),
            other => Err(format!("unexpected {}", shown(&other.to_string()))),
        }
    }

    /// The value as TOML writes it, which [`Self::value_of_json`] takes.
    pub fn to_toml(&self, value: &Value) -> String {
        let text = |text: &str| toml::Value::from(text).to_string();
        match value {
            Value::Number(number) if self.kind == Kind::Size => {
                number.as_u64().map_or_else(|| text(""), |octets| text(&exact_size(octets)))
            }
            Value::Number(_) | Value::Bool(_) => value.to_string(),
            Value::Array(items) => {
                let shown = items.iter().map(|item| match item {
                    Value::String(item) => text(item),
                    role => text(&role_to_text(role)),
                });
                format!("[{}]", shown.collect::<Vec<_>>().join(", "))
            }
            value => text(&self.to_text(value)),
        }
    }

    /// The text for a value; the inverse of [`Self::value_of_text`] but for texts that are empty.
    pub fn to_text(&self, value: &Value) -> String {
        match value {
            Value::Null => "none".to_owned(),
            Value::String(text) => text.clone(),
            Value::Array(items) if self.kind == Kind::Roles && !items.is_empty() => {
                items.iter().map(role_to_text).collect::<Vec<_>>().join("; ")
            }
            // Without one it would get its default.
            Value::Array(items) if items.is_empty() => "none".to_owned(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            other => other.to_string(),
        }
    }
}

/// A part of a text for a message.
pub(super) fn shown(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let mut part: String = text.chars().take(CHARACTERS_MAX).collect();
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        part.push('…');
    }
    crate::cli::output::clean(&part)
}

fn size(text: &str) -> Result<Value, String> {
    let octets = parse_size_limit(text).map_err(|error| error.to_string())?;
    Ok(octets.map_or(Value::Null, Value::from))
}

/// A size in the largest unit of which it is a whole number.
fn exact_size(octets: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fits = units.into_iter().find(|(bits, _)| octets > 0 && octets.trailing_zeros() >= *bits);
    fits.map_or_else(|| octets.to_string(), |(bits, unit)| format!("{}{unit}", octets >> bits))
}

fn addresses(text: &str) -> Value {
    text.split([' ', ',']).filter(|part| !part.is_empty()).map(Value::from).collect()
}

/// Roles as one text.
fn roles(text: &str) -> Result<Value, String> {
    if text.trim().eq_ignore_ascii_case("none") {
        return Ok(json!([]));
    }
    let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
    parts.map(role).collect::<Result<Vec<Value>, String>>().map(Value::from)
}

/// `ROLE [at PATH] [delegable] [from TIME] [until TIME]`.
fn role(text: &str) -> Result<Value, String> {
    let wrong = || {
        let form = "ROLE [at PATH] [delegable] [from TIME] [until TIME], several with ; between";
        format!("expected {form}, got {}", shown(text))
    };
    let mut words = text.split_whitespace();
    let mut members = Map::new();
    members.insert("role".to_owned(), words.next().ok_or_else(wrong)?.into());
    while let Some(word) = words.next() {
        let (name, value): (&str, Value) = match word {
            "at" => ("customer", words.next().ok_or_else(wrong)?.into()),
            "delegable" => ("delegable", true.into()),
            "from" => ("not_before", words.next().ok_or_else(wrong)?.into()),
            "until" => ("expires_at", words.next().ok_or_else(wrong)?.into()),
            _ => return Err(wrong()),
        };
        if members.insert(name.to_owned(), value).is_some() {
            return Err(wrong());
        }
    }
    Ok(Value::Object(members))
}

fn role_from_json(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(text) => role(text),
        Value::Object(members) => {
            let known = ["role", "customer", "delegable", "not_before", "expires_at"];
            match members.keys().find(|name| !known.contains(&name.as_str())) {
                None => Ok(value.clone()),
                Some(name) => Err(format!("a role has {}; not {}", known.join(", "), shown(name))),
            }
        }
        other => Err(format!("expected a role, got {}", shown(&other.to_string()))),
    }
}

fn role_to_text(value: &Value) -> String {
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let mut shown = text("role").unwrap_or_default().to_owned();
    if let Some(path) = text("customer") {
        shown.push_str(&format!(" at {path}"));
    }
    if value.get("delegable").and_then(Value::as_bool) == Some(true) {
        shown.push_str(" delegable");
    }
    if let Some(at) = text("not_before") {
        shown.push_str(&format!(" from {at}"));
    }
    if let Some(at) = text("expires_at") {
        shown.push_str(&format!(" until {at}"));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Option<Value>, String> {
        FIELDS.iter().find(|field| field.name == name).unwrap().value_of_text(text)
    }

    #[test]
    fn texts_become_values_and_texts_again() {
        for (name, text, value) in [
            ("quota", "2GiB", json!(2_147_483_648_u64)),
            ("quota", "none", Value::Null),
            ("bytes", "0", json!(0)),
            ("mailboxes", "10", json!(10)),
            ("enabled", "No", json!(false)),
            ("targets", "a@x.test b@x.test,c@x.test", json!(["a@x.test", "b@x.test", "c@x.test"])),
            (
                "roles",
                "admin at gov/health delegable; viewer until 2027-01-01T00:00:00Z",
                json!([
                    { "role": "admin", "customer": "gov/health", "delegable": true },
                    { "role": "viewer", "expires_at": "2027-01-01T00:00:00Z" }
                ]),
            ),
        ] {
            let field = FIELDS.iter().find(|field| field.name == name).unwrap();
            assert_eq!(field.value_of_text(text), Ok(Some(value.clone())), "{name} {text}");
            assert_eq!(field.value_of_text(&field.to_text(&value)), Ok(Some(value.clone())), "{name} {text}");
            assert_eq!(field.value_of_json(&value), Ok(Some(value)), "{name} {text}");
        }
        assert_eq!(read("name", ""), Ok(None));
    }

    #[test]
    fn wrong_texts_are_refused_with_what_was_expected() {
        for (name, text) in [
            ("quota", "lots"),
            ("quota", "-1"),
            ("quota", "99999999999999999999"),
            ("mailboxes", "-1"),
            ("mailboxes", "9223372036854775808"),
            ("mailboxes", "1e3"),
            ("enabled", "maybe"),
            ("roles", "admin everywhere"),
            ("roles", "admin at"),
            ("roles", "admin at a at b"),
        ] {
            assert!(
                read(name, text).is_err_and(|error| error.contains("expected") || name == "quota"),
                "{name} {text}"
            );
        }
        assert_eq!(meant("adress"), "; did you mean address?");
    }
}
