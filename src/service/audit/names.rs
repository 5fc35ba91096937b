//! Names in audit records. A record is read by people of different scopes, so that it keeps customers and
//! administrators as references, and each reader is told them in their own way: a path from the topmost customer
//! that the reader may see, and nothing of what stands above or beside.
//!
//! What the record says before and after leaves out where the object is and who stands behind it: the record says
//! that itself. Words of a caller that name nothing the record refers to are shown to those who see all that the
//! caller saw.

use std::borrow::Cow;

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
const OF_THE_VIEW: [&str; 8] =
    ["parent", "depth", "customer", "authority", "actor", "made_by", "roles", "holder"];

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
    Some(path_from(cut, slugs))
}

/// Whether the reader sees one of the customers on this path.
pub(super) fn reaches(reader: &Caller, ids: &str) -> bool {
    path_ids(ids).any(|id| reader.sees(CustomerId(id)))
}

/// A part of a text of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece<'t> {
    /// What every reader is told.
    Plain(&'t str),
    /// A customer: keys and slugs from the root down.
    Customer { ids: &'t str, slugs: &'t str },
    /// An administrator who is at home there.
    Administrator { ids: &'t str, login: &'t str },
    /// Words of somebody who saw all of these customers.
    Words { ids: &'t str, text: &'t str },
    /// What no version of this program writes.
    Unknown(&'t str),
}

impl<'t> Piece<'t> {
    fn reference(reference: &'t str) -> Self {
        let mut kind = reference.chars();
        let kind = (kind.next(), kind.as_str());
        let (ids, text) = kind.1.split_once(SEPARATOR).unwrap_or(("", ""));
        match kind.0 {
            Some(CUSTOMER) => Self::Customer { ids, slugs: text },
            Some(ADMINISTRATOR) => Self::Administrator { ids, login: text },
            Some(WORDS) => Self::Words { ids, text },
            _ => Self::Unknown(reference),
        }
    }

    /// What this reader is told of it.
    fn told(self, reader: &Caller, own: bool) -> Cow<'t, str> {
        match self {
            Self::Plain(text) => text.into(),
            Self::Customer { ids, slugs } => {
                path(reader, ids, slugs).map_or(Cow::Borrowed(ELSEWHERE), Cow::Owned)
            }
            Self::Administrator { ids, login } if own || reaches(reader, ids) => login.into(),
            Self::Administrator { .. } => PROVIDER.into(),
            Self::Words { ids, text } if own || path_ids(ids).all(|id| reader.sees(CustomerId(id))) => {
                text.into()
            }
            Self::Words { .. } | Self::Unknown(_) => ELSEWHERE.into(),
        }
    }
}

/// The parts of a text.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, from)) = rest.split_once(OPEN) {
        let (reference, after) = from.split_once(CLOSE).unwrap_or((from, ""));
        pieces.extend([Piece::Plain(before), Piece::reference(reference)]);
        rest = after;
    }
    pieces.push(Piece::Plain(rest));
    pieces
}

/// A text of a record as this reader is told it. With `own` it is the reader's own record.
pub(in crate::service) fn text(reader: &Caller, kept: &str, own: bool) -> String {
    pieces(kept).into_iter().map(|piece| piece.told(reader, own)).collect()
}

/// The text that JSON of a record stands for, with the signs around references as themselves. For searching, where it
/// does no harm that a caller's words may look the same.
pub(super) fn unescaped(json: &str) -> String {
    json.replace("\\u0002", "\u{2}").replace("\\u0003", "\u{3}").replace("\\u001f", "\u{1f}")
}

/// A part of a text for which a digest of its own stands in proofs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fragment {
    /// What it says; one after the other they are the whole.
    pub text: String,
    /// Whether it is a step of the path that the part before is a step of.
    pub joined: bool,
    told: ToldTo,
}

/// Who is told it.
#[derive(Clone, PartialEq, Eq, Debug)]
enum ToldTo {
    Everybody,
    /// Who sees the root: keys count what all customers have.
    Root,
    /// Who sees one of the customers with these keys, and whose own record it is.
    Any(String),
    /// Who sees one of the customers with these keys: nobody is told what stands above by a record of their own.
    Place(String),
    /// Who sees all of them.
    All(String),
}

impl Fragment {
    fn new(text: impl Into<String>, told: ToldTo) -> Self {
        Self { text: text.into(), joined: false, told }
    }

    /// What everybody is told.
    pub fn plain(text: &str) -> Self {
        Self::new(text, ToldTo::Everybody)
    }

    /// Keys.
    pub fn keys(text: &str) -> Self {
        Self::new(text, ToldTo::Root)
    }

    /// What is told of an actor who is at home there.
    pub fn of_actor(path: &str, text: &str) -> Self {
        Self::new(text, ToldTo::Any(path.to_owned()))
    }

    /// Whether this reader is told it; with `own` it is of the reader's own record.
    pub fn is_told(&self, reader: &Caller, own: bool) -> bool {
        match &self.told {
            ToldTo::Everybody => true,
            ToldTo::Root => reader.tree.root().is_some_and(|root| reader.sees(root.id)),
            ToldTo::Any(ids) => own || reaches(reader, ids),
            ToldTo::Place(ids) => reaches(reader, ids),
            ToldTo::All(ids) => own || path_ids(ids).all(|id| reader.sees(CustomerId(id))),
        }
    }
}

/// A path in parts: each slug is told to those who see its customer or one above it on the path.
pub(super) fn path_fragments(ids: &str, slugs: &str) -> Vec<Fragment> {
    let mut above = String::from("/");
    let mut keys = path_ids(ids);
    let slug = |slug: &str| {
        let joined = above.len() > 1;
        keys.next().into_iter().for_each(|key| above.push_str(&format!("{key}/")));
        Fragment { joined, ..Fragment::new(slug, ToldTo::Place(above.clone())) }
    };
    slugs.split_inclusive('/').map(slug).collect()
}

/// A text with references in parts.
pub(super) fn fragments(text: &str) -> Vec<Fragment> {
    let mut fragments = Vec::new();
    for piece in pieces(text) {
        let mut reference = |kind: char, ids: &str, told: Vec<Fragment>| {
            fragments.push(Fragment::keys(&format!("{OPEN}{kind}{ids}{SEPARATOR}")));
            fragments.extend(told);
            fragments.push(Fragment::plain(&CLOSE.to_string()));
        };
        match piece {
            Piece::Plain(text) => fragments.push(Fragment::plain(text)),
            Piece::Customer { ids, slugs } => reference(CUSTOMER, ids, path_fragments(ids, slugs)),
            Piece::Administrator { ids, login } => {
                reference(ADMINISTRATOR, ids, vec![Fragment::of_actor(ids, login)]);
            }
            Piece::Words { ids, text } => {
                reference(WORDS, ids, vec![Fragment::new(text, ToldTo::All(ids.to_owned()))]);
            }
            Piece::Unknown(text) => fragments.push(Fragment::keys(text)),
        }
    }
    fragments
}

/// The path of a customer whose own keys and slugs these are, as it is told from its `cut`th customer on.
pub(super) fn path_from(cut: usize, slugs: &str) -> String {
    // As everywhere, the root's own name is left out.
    let names: Vec<&str> = slugs.split('/').skip(cut.max(1)).collect();
    if names.is_empty() { "/".to_owned() } else { names.join("/") }
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
