//! Names in audit records. A record is read by people of different scopes, so that it keeps customers and
//! administrators as references, and each reader is told them in their own way: a path from the topmost customer
//! that the reader may see, and nothing of what stands above or beside.
//!
//! What the record says before and after leaves out where the object is and who stands behind it: the record says
//! that itself. Words of a caller that name nothing the record refers to are shown to those who see all that the
//! caller saw.

use serde_json::Value;

use crate::base::id::CustomerId;
use crate::service::authority::{Caller, Tree};
use crate::storage::metadata::audit::path_ids;

/// Around a reference; no name has control characters.
const OPEN: char = '\u{2}';
const CLOSE: char = '\u{3}';
/// Between the keys in a reference and the text.
const SEPARATOR: char = '\u{1f}';
/// Kinds of references.
const CUSTOMER: char = 'c';
const ADMINISTRATOR: char = 'a';
const WORDS: char = 'w';

/// What readers see of a customer, or of words, that are not in their scope.
const ELSEWHERE: &str = "elsewhere";
/// What readers see of somebody who is at home above or beside.
pub(super) const PROVIDER: &str = "provider";

/// Members of answers that depend on who looks: where an object is, who made it.
const OF_THE_VIEW: [&str; 7] = ["parent", "depth", "customer", "authority", "actor", "made_by", "roles"];

/// The slugs from the root down, `provider/gov/health`.
pub(super) fn slugs(tree: &Tree, id: CustomerId) -> String {
    tree.path(id).iter().map(|node| node.slug.as_str()).collect::<Vec<_>>().join("/")
}

/// A reference to a customer, with its path of now.
pub(in crate::service) fn customer(tree: &Tree, id: CustomerId) -> String {
    format!("{OPEN}{CUSTOMER}{}{SEPARATOR}{}{CLOSE}", tree.id_path(id), slugs(tree, id))
}

/// A reference to the administrator who logs in as `login` and is at home there now.
pub(in crate::service) fn administrator(tree: &Tree, home: CustomerId, login: &str) -> String {
    format!("{OPEN}{ADMINISTRATOR}{}{SEPARATOR}{login}{CLOSE}", tree.id_path(home))
}

/// A caller's own words.
pub(in crate::service) fn words(caller: &Caller, text: &str) -> String {
    let mut tops: Vec<String> = caller.tops().iter().map(|top| top.id.to_string()).collect();
    if tops.is_empty() {
        // What somebody without grants knows may be anything of the time before.
        tops.extend(caller.tree.root().map(|root| root.id.to_string()));
    }
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("{OPEN}{WORDS}{}{SEPARATOR}{text}{CLOSE}", tops.join("/"))
}

/// What a record keeps of an answer: without what depends on who looks. Of a path the customer's own part stays.
pub(in crate::service) fn recorded(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(name, value)| value.is_object() || !OF_THE_VIEW.contains(&name.as_str()))
            .map(|(name, value)| match (name.as_str(), value) {
                ("path", Value::String(path)) => {
                    ("slug".to_owned(), path.rsplit('/').next().unwrap_or_default().into())
                }
                (_, value) => (name, recorded(value)),
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(recorded).collect(),
        other => other,
    }
}

/// A path at some time as this reader is told it: from the topmost customer on it that the reader may see now. Nothing
/// when there is none.
pub(super) fn path(reader: &Caller, ids: &str, slugs: &str) -> Option<String> {
    let cut = path_ids(ids).position(|id| reader.sees(CustomerId(id)))?;
    // As everywhere, the root's own name is left out.
    let names: Vec<&str> = slugs.split('/').skip(cut.max(1)).collect();
    Some(if names.is_empty() { "/".to_owned() } else { names.join("/") })
}

/// Whether the reader sees one of the customers on this path.
pub(super) fn reaches(reader: &Caller, ids: &str) -> bool {
    path_ids(ids).any(|id| reader.sees(CustomerId(id)))
}

/// A text of a record as this reader is told it. With `own` it is the reader's own record.
pub(in crate::service) fn text(reader: &Caller, kept: &str, own: bool) -> String {
    let mut told = String::with_capacity(kept.len());
    let mut rest = kept;
    while let Some((before, from)) = rest.split_once(OPEN) {
        told.push_str(before);
        let (reference, after) = from.split_once(CLOSE).unwrap_or((from, ""));
        told.push_str(&one(reader, reference, own));
        rest = after;
    }
    told.push_str(rest);
    told
}

fn one(reader: &Caller, reference: &str, own: bool) -> String {
    let mut kind = reference.chars();
    let kind = (kind.next(), kind.as_str());
    let (ids, text) = kind.1.split_once(SEPARATOR).unwrap_or(("", ""));
    match kind.0 {
        Some(CUSTOMER) => path(reader, ids, text).unwrap_or_else(|| ELSEWHERE.to_owned()),
        Some(ADMINISTRATOR) if own || reaches(reader, ids) => text.to_owned(),
        Some(ADMINISTRATOR) => PROVIDER.to_owned(),
        Some(WORDS) if own || path_ids(ids).all(|id| reader.sees(CustomerId(id))) => text.to_owned(),
        _ => ELSEWHERE.to_owned(),
    }
}

/// As [`text`], for every text in a value.
pub(super) fn value(reader: &Caller, kept: Value, own: bool) -> Value {
    match kept {
        Value::String(kept) => Value::String(text(reader, &kept, own)),
        Value::Array(items) => items.into_iter().map(|item| value(reader, item, own)).collect(),
        Value::Object(members) => {
            members.into_iter().map(|(name, kept)| (name, value(reader, kept, own))).collect()
        }
        other => other,
    }
}
