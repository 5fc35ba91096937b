//! Walks the spanned tree of a TOML file: takes one key after the other, notes what is wrong with each and goes on
//! with its default, and in the end notes the keys that nobody took.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::{ConfigMistake, place, similar};
use crate::base::secret::Secret;
use crate::base::size::parse_size;

/// Collects mistakes.
pub(super) struct Mistakes<'t> {
    text: &'t str,
    found: RefCell<Vec<ConfigMistake>>,
}

impl<'t> Mistakes<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, found: RefCell::default() }
    }

    pub(super) fn add(&self, span: &Range<usize>, message: impl Into<String>) {
        let (line, column) = place(self.text, span.start);
        self.found.borrow_mut().push(ConfigMistake { line, column, message: message.into() });
    }

    /// All, in the order of lines.
    pub(super) fn sorted(self) -> Vec<ConfigMistake> {
        let mut found = self.found.into_inner();
        found.sort();
        found.dedup();
        found
    }
}

/// A table that is being read, or one that is not there and gives defaults.
pub(super) struct Section<'r> {
    mistakes: &'r Mistakes<'r>,
    /// How the table is called in messages: empty for the whole file, else with a dot behind.
    prefix: String,
    table: Option<&'r DeTable<'r>>,
    known: Vec<&'static str>,
}

/// A value and where it stands.
pub(super) type Value<'r> = &'r Spanned<DeValue<'r>>;

impl<'r> Section<'r> {
    pub(super) fn root(table: &'r DeTable<'r>, mistakes: &'r Mistakes<'r>) -> Self {
        Self { mistakes, prefix: String::new(), table: Some(table), known: Vec::new() }
    }

    /// The raw value of a key, which counts as known from now on.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'r>> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(value)
    }

    /// Notes a mistake at a key's value.
    pub(super) fn mistake(&self, value: Value<'r>, key: &str, message: impl std::fmt::Display) {
        self.mistakes.add(&value.span(), format!("{}{key}: {message}", self.prefix));
    }

    /// The value of a key as `parse` understands it; the default if it is missing or wrong.
    pub(super) fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&DeValue<'_>) -> Result<T, String>,
    ) -> T {
        let Some(value) = self.take(key) else { return default };
        parse(value.get_ref()).unwrap_or_else(|message| {
            self.mistake(value, key, message);
            default
        })
    }

    pub(super) fn text(&mut self, key: &'static str, default: &str) -> String {
        self.value(key, default.to_owned(), text)
    }

    pub(super) fn path(&mut self, key: &'static str, default: PathBuf) -> PathBuf {
        self.value(key, default, path)
    }

    pub(super) fn integer(&mut self, key: &'static str, default: u32, range: RangeInclusive<u32>) -> u32 {
        self.value(key, default, |value| {
            let number = integer(value)?;
            u32::try_from(number).ok().filter(|number| range.contains(number)).ok_or_else(|| {
                format!("{number} is out of range: expected {} to {}", range.start(), range.end())
            })
        })
    }

    /// A size in octets: a number, or text with a unit.
    pub(super) fn size(&mut self, key: &'static str, default: u64, least: u64) -> u64 {
        self.value(key, default, |value| {
            let octets = match value.as_str() {
                Some(text) => parse_size(text).map_err(|error| error.to_string())?,
                None => u64::try_from(integer(value)?).map_err(|_| expected("a size", value))?,
            };
            if octets < least {
                Err(format!("{octets} is too little: expected at least {least}"))
            } else {
                Ok(octets)
            }
        })
    }

    /// A list whose every element is parsed; each wrong one is a mistake of its own.
    pub(super) fn list<T>(&mut self, key: &'static str, default: &[&str]) -> Vec<T>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let Some(value) = self.take(key) else {
            return default.iter().filter_map(|text| text.parse().ok()).collect();
        };
        let Some(elements) = value.get_ref().as_array() else {
            self.mistake(value, key, expected("a list such as [\"…\", \"…\"]", value.get_ref()));
            return Vec::new();
        };
        let mut list = Vec::new();
        for element in elements.iter() {
            let parsed = text(element.get_ref())
                .and_then(|text| text.parse().map_err(|error: T::Err| error.to_string()));
            match parsed {
                Ok(parsed) => list.push(parsed),
                Err(message) => self.mistake(element, key, message),
            }
        }
        list
    }

    /// A secret: text, `{ file = "…" }` or `{ credential = "…" }`.
    pub(super) fn secret(&mut self, key: &'static str, default: Secret) -> Secret {
        let Some(value) = self.take(key) else { return default };
        if let Some(text) = value.get_ref().as_str() {
            return Secret::plain(text);
        }
        let mut place = self.inner(key, value);
        let file = place.take("file").map(|file| (file, path(file.get_ref()).map(Secret::File)));
        let credential = place.take("credential");
        let credential = credential.map(|name| (name, text(name.get_ref()).map(Secret::Credential)));
        let is_table = place.table.is_some();
        place.finish();
        match (file, credential) {
            (Some((at, secret)), None) | (None, Some((at, secret))) => secret.unwrap_or_else(|message| {
                self.mistake(at, key, message);
                default
            }),
            _ => {
                if is_table {
                    self.mistake(value, key, "expected text, { file = \"…\" } or { credential = \"…\" }");
                }
                default
            }
        }
    }

    /// The table of a key; an empty one if it is missing or wrong.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'r> {
        match self.take(key) {
            Some(value) => self.inner(key, value),
            None => Section {
                mistakes: self.mistakes,
                prefix: format!("{}{key}.", self.prefix),
                table: None,
                known: Vec::new(),
            },
        }
    }

    fn inner(&self, key: &str, value: Value<'r>) -> Section<'r> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.mistake(value, key, expected("a table", value.get_ref()));
        }
        Section {
            mistakes: self.mistakes,
            prefix: format!("{}{key}.", self.prefix),
            table,
            known: Vec::new(),
        }
    }

    /// The tables of a key that is a list of tables (`[[key]]`), with their places.
    pub(super) fn sections(&mut self, key: &'static str) -> Vec<(Value<'r>, Section<'r>)> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Some(tables) = value.get_ref().as_array() else {
            let message = format!("expected a list of tables, written [[{}{key}]]", self.prefix);
            self.mistake(value, key, message);
            return Vec::new();
        };
        tables.iter().map(|value| (value, self.inner(key, value))).collect()
    }

    /// The keys of this table with their values; they count as known.
    pub(super) fn entries(&mut self) -> Vec<(&'r str, Value<'r>)> {
        let entries = self.table.iter().flat_map(|table| table.iter());
        let entries: Vec<_> = entries.map(|(key, value)| (key.get_ref().as_ref(), value)).collect();
        self.table = None;
        entries
    }

    /// Notes the keys that were not taken.
    pub(super) fn finish(self) {
        for (key, _) in self.table.iter().flat_map(|table| table.iter()) {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let name_shown: String = name.chars().take(60).collect();
            let hint = match similar(name, &self.known) {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("known are {}", self.known.join(", ")),
            };
            self.mistakes.add(&key.span(), format!("unknown key \"{}{name_shown}\": {hint}", self.prefix));
        }
    }
}

/// "expected X, found Y".
pub(super) fn expected(what: &str, value: &DeValue<'_>) -> String {
    format!("expected {what}, found {}", value.type_str())
}

pub(super) fn text(value: &DeValue<'_>) -> Result<String, String> {
    value.as_str().map(str::to_owned).ok_or_else(|| expected("text in quotes", value))
}

pub(super) fn path(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let path = text(value)?;
    if path.is_empty() || path.contains('\0') {
        return Err("expected a path".to_owned());
    }
    Ok(PathBuf::from(path))
}

fn integer(value: &DeValue<'_>) -> Result<i64, String> {
    let integer = value.as_integer().ok_or_else(|| expected("a number", value))?;
    i64::from_str_radix(integer.as_str(), integer.radix())
        .map_err(|_| format!("{} is no number that fits", integer.as_str()))
}
