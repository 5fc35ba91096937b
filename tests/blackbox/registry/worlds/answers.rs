//! Comparing answers of two worlds: equal but for what is drawn at random, which must be renamed alike everywhere.

use std::collections::{HashMap, HashSet};

use posthouse::service::error::ServiceError;
use posthouse::service::registry::operation;
use serde_json::{Value, json};

use super::super::matrix::Names;

/// Letters of a customer's code.
const CODE_LETTERS: usize = 6;
/// Ids, tags and cursors have this many letters, or more.
const ID_LETTERS: usize = 16;
/// Members that are random octets in some encoding.
const SECRETS: [&str; 4] = ["token", "secret", "etag", "signature"];

/// Which random text of the one world is which of the other.
#[derive(Clone, Default)]
pub struct Matching {
    forth: HashMap<String, String>,
    back: HashMap<String, String>,
    /// Codes of customers and names of nodes, by which they are known from other words of as many letters.
    names: HashSet<String>,
    /// Ids in the order in which they were seen.
    pub ids: Vec<[String; 2]>,
}

/// Words and what stands between them.
pub fn words(text: &str) -> Vec<&str> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let kind = is_letter(first);
        let end = rest.find(|letter| is_letter(letter) != kind).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        words.push(word);
        rest = after;
    }
    words
}

impl Matching {
    /// Nothing but that the codes of these customers are codes.
    pub fn of(left: &[Names], right: &[Names]) -> Self {
        let mut matching = Self::default();
        for (left, right) in left.iter().zip(right) {
            let pairs = [(&left.code, &right.code), (&left.deleted_code, &right.deleted_code)];
            for (left, right) in pairs {
                matching.code(left, right);
            }
        }
        matching
    }

    fn code(&mut self, left: &str, right: &str) {
        if left.len() == CODE_LETTERS && right.len() == CODE_LETTERS {
            self.name(left, right);
        }
    }

    /// These are random names of the same.
    pub fn name(&mut self, left: &str, right: &str) {
        self.names.insert(left.to_owned());
        self.names.insert(right.to_owned());
    }

    /// Whether the two are one random text in two worlds.
    fn pair(&mut self, left: &str, right: &str) -> bool {
        let is_name = |word: &str| self.names.contains(word);
        let is_random = left.len() >= ID_LETTERS || (is_name(left) && is_name(right));
        if left.len() != right.len() || !is_random {
            return false;
        }
        let known = (self.forth.get(left), self.back.get(right));
        match known {
            (Some(there), Some(here)) => there == right && here == left,
            (None, None) => {
                self.forth.insert(left.to_owned(), right.to_owned());
                self.back.insert(right.to_owned(), left.to_owned());
                if left.len() == ID_LETTERS {
                    self.ids.push([left.to_owned(), right.to_owned()]);
                }
                true
            }
            _ => false,
        }
    }

    fn texts(&mut self, left: &str, right: &str) -> bool {
        let (ours, theirs) = (words(left), words(right));
        ours.len() == theirs.len()
            && ours.iter().zip(theirs).all(|(ours, theirs)| *ours == theirs || self.pair(ours, theirs))
    }

    /// Compares two answers.
    ///
    /// # Errors
    /// Where they differ.
    pub fn same(&mut self, left: &Value, right: &Value) -> Result<(), String> {
        let differ = |left: &Value, right: &Value| Err(format!(": {left} and {right}"));
        match (left, right) {
            (Value::String(ours), Value::String(theirs)) if self.texts(ours, theirs) => Ok(()),
            // Texts may stand in the order of their random parts.
            (Value::Array(ours), Value::Array(theirs))
                if ours.len() == theirs.len() && ours.iter().chain(theirs).all(Value::is_string) =>
            {
                let mut left_over: Vec<&str> = theirs.iter().filter_map(Value::as_str).collect();
                for text in ours.iter().filter_map(Value::as_str) {
                    let known = self.clone();
                    let found = left_over.iter().position(|other| {
                        *self = known.clone();
                        self.texts(text, other)
                    });
                    let Some(found) = found else { return differ(left, right) };
                    left_over.remove(found);
                }
                Ok(())
            }
            (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
                for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                    self.same(ours, theirs).map_err(|place| format!("/{index}{place}"))?;
                }
                Ok(())
            }
            (Value::Object(ours), Value::Object(theirs)) if ours.len() == theirs.len() => {
                if let (Some(ours), Some(theirs)) = (left["code"].as_str(), right["code"].as_str()) {
                    self.code(ours, theirs);
                }
                for (name, ours) in ours {
                    let Some(theirs) = theirs.get(name) else { return differ(left, right) };
                    if let (true, Some(ours), Some(theirs)) =
                        (SECRETS.contains(&name.as_str()), ours.as_str(), theirs.as_str())
                        && ours.len() == theirs.len()
                    {
                        continue;
                    }
                    self.same(ours, theirs).map_err(|place| format!("/{name}{place}"))?;
                }
                Ok(())
            }
            (left, right) if left == right => Ok(()),
            (left, right) => differ(left, right),
        }
    }
}

/// What came of a request, as a value.
pub fn outcome(name: &str, outcome: &Result<Value, ServiceError>) -> Value {
    match outcome {
        Ok(answer) => json!({ "done": comparable(name, answer.clone()) }),
        Err(error) => json!({ "refused": error.code(), "detail": error.to_string() }),
    }
}

/// An answer without what depends on how fast the test runs: records of reads are written within a second. Of a proof,
/// the digests up the signed tree are drawn at random, and stand on the left or right; that there are as many is
/// compared.
pub fn comparable(name: &str, mut answer: Value) -> Value {
    if name == "audit.search"
        && let Some(items) = answer["items"].as_array_mut()
    {
        items.retain(|item| {
            let read = item["operation"].as_str().and_then(operation).is_some_and(|one| !one.mutates);
            !(read && item["outcome"] == "done")
        });
    }
    if name == "audit.prove"
        && let Some(sealed) = answer.get_mut("sealed")
    {
        let steps = sealed["path"].as_array().map(Vec::len);
        *sealed = json!({ "steps": steps, "at_micros": sealed["at_micros"] });
    }
    answer
}
