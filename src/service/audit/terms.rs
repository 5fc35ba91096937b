//! What records are found by: numbers that stand for three letters next to each other, operations, outcomes and
//! customers. The index (`storage/metadata/audit_index.rs`) knows which records have which.
//!
//! A word in a record may be told to one reader and not to another. So the letters of a reference stand in the index
//! together with each customer from which on somebody is told them, and a reader asks for what is told at the
//! customers where it reads. What comes back is looked at once more as the reader is told it; but how long a search
//! takes, and where its pages end, does not depend on what it is not told.

use std::collections::HashSet;
use std::hash::BuildHasherDefault;

use super::names::{self, Piece};
use super::search::AuditSearchRequest;
use crate::base::id::KeyHasher;
use crate::storage::metadata::audit::{Record, path_ids};

/// Letters of a term.
const LETTERS: usize = 3;
/// Most terms of one record that are indexed; one that has more fits every search for words, until it is looked at.
const RECORD_TERMS_MAX: usize = 4_096;
/// Terms of one text that are asked for. Those that cut most come first, so that the others are seldom looked at.
const ASKED_MAX: usize = 16;
/// Most customers at which a search goes through the index.
const PLACES_MAX: usize = 32;
/// A term is a positive number of so many bits.
const TERM_BITS: u32 = 48;

/// What a term is about.
#[derive(Clone, Copy)]
enum Kind {
    /// Letters of target, before or after, told to everybody.
    Text = 1,
    /// Letters of the actor's name.
    Actor = 2,
    /// Somebody did it who is not named to those who read at this customer.
    Unnamed = 3,
    /// A customer on the path.
    Place = 4,
    /// The operation, or with a dot at the end what it begins with.
    Operation = 5,
    /// The outcome.
    Outcome = 6,
    /// A record with too many terms.
    Full = 7,
}

/// Place of what is told everywhere.
const EVERYWHERE: i64 = 0;

/// FNV-1a with the finalizer of SplitMix64. Terms that are alike by chance cost a look at a record.
fn term(kind: Kind, place: i64, text: &[char]) -> i64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |octet: u8| hash = (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    add(kind as u8);
    place.to_le_bytes().into_iter().for_each(&mut add);
    for letter in text {
        u32::from(*letter).to_le_bytes().into_iter().for_each(&mut add);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((hash ^ (hash >> 31)) >> (64 - TERM_BITS)).cast_signed()
}

fn word(kind: Kind, text: &str) -> i64 {
    term(kind, EVERYWHERE, &text.chars().collect::<Vec<_>>())
}

fn letters(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// Different terms. They are hashes already.
pub(super) type TermSet = HashSet<i64, BuildHasherDefault<KeyHasher>>;

/// The terms of a record.
#[derive(Default)]
struct Terms {
    all: TermSet,
    is_full: bool,
}

impl Terms {
    fn add(&mut self, kind: Kind, place: i64, text: &[char]) {
        for letters in text.windows(LETTERS) {
            if self.all.len() >= RECORD_TERMS_MAX {
                self.is_full = true;
                return;
            }
            self.all.insert(term(kind, place, letters));
        }
    }

    /// Letters of a text with references. Those next to a reference belong to what is told of it.
    fn text(&mut self, kind: Kind, text: &str) {
        let pieces = names::pieces(text);
        let plain = |index: Option<usize>| match index.and_then(|index| pieces.get(index)) {
            Some(Piece::Plain(text)) => letters(text),
            _ => Vec::new(),
        };
        for (index, piece) in pieces.iter().enumerate() {
            let (mut before, mut after) = (plain(index.checked_sub(1)), plain(Some(index + 1)));
            before.drain(..before.len().saturating_sub(LETTERS - 1));
            after.truncate(LETTERS - 1);
            let mut told = |place: i64, text: &str| {
                let text = [&before[..], &letters(text)[..], &after[..]].concat();
                self.add(kind, place, &text);
            };
            match *piece {
                Piece::Plain(text) => self.add(kind, EVERYWHERE, &letters(text)),
                Piece::Customer { ids, slugs } => path_ids(ids)
                    .enumerate()
                    .take(RECORD_TERMS_MAX)
                    .for_each(|(cut, place)| told(place, &names::path_from(cut, slugs))),
                Piece::Administrator { ids, login: text } | Piece::Words { ids, text } => {
                    path_ids(ids).take(RECORD_TERMS_MAX).for_each(|place| told(place, text));
                }
                Piece::Unknown(_) => {}
            }
        }
    }
}

/// The terms of a record.
pub(super) fn of_record(record: &Record) -> TermSet {
    let mut terms = Terms::default();
    for place in path_ids(&record.actor_path) {
        terms.add(Kind::Actor, place, &letters(&record.actor));
    }
    terms.text(Kind::Text, &record.target);
    for json in [&record.before, &record.after].into_iter().flatten() {
        terms.text(Kind::Text, &names::unescaped(json));
    }
    let Terms { mut all, is_full } = terms;
    if is_full {
        all.insert(word(Kind::Full, ""));
    }
    let named: HashSet<i64> = path_ids(&record.actor_path).collect();
    for place in path_ids(&record.node_path) {
        all.insert(term(Kind::Place, place, &[]));
        if !named.contains(&place) {
            all.insert(term(Kind::Unnamed, place, &[]));
        }
    }
    all.insert(word(Kind::Operation, &record.operation));
    for (end, _) in record.operation.match_indices('.') {
        if let Some((begin, _)) = record.operation.split_at_checked(end + 1) {
            all.insert(word(Kind::Operation, begin));
        }
    }
    all.insert(word(Kind::Outcome, &record.outcome));
    if record.outcome != "done" {
        all.insert(word(Kind::Outcome, "refused"));
    }
    all
}

/// What to ask the index for at these customers, for a reader who is told what is told at `eyes`; nothing when it can't
/// answer: too many customers, or nothing else than a text that is shorter than a term.
pub(super) fn asked(request: &AuditSearchRequest, places: &[i64], eyes: &[i64]) -> Option<Vec<Vec<i64>>> {
    if places.is_empty() || places.len().max(eyes.len()) > PLACES_MAX {
        return None;
    }
    let mut groups = vec![places.iter().map(|&place| term(Kind::Place, place, &[])).collect()];
    for text in [&request.text, &request.target].into_iter().flatten() {
        for three in spread(&letters(text)) {
            let told = eyes.iter().map(|&place| term(Kind::Text, place, three));
            let mut group: Vec<i64> = told.collect();
            group.extend([term(Kind::Text, EVERYWHERE, three), word(Kind::Full, "")]);
            groups.push(group);
        }
    }
    if let Some(actor) = &request.actor {
        let is_provider = names::PROVIDER.contains(&actor.to_lowercase());
        for three in spread(&letters(actor)) {
            let mut group: Vec<i64> = eyes.iter().map(|&place| term(Kind::Actor, place, three)).collect();
            group.push(word(Kind::Full, ""));
            if is_provider {
                group.extend(eyes.iter().map(|&place| term(Kind::Unnamed, place, &[])));
            }
            groups.push(group);
        }
    }
    groups.extend(request.operation.iter().map(|name| vec![word(Kind::Operation, name)]));
    groups.extend(request.outcome.iter().map(|name| vec![word(Kind::Outcome, name)]));
    let is_restricted = groups.len() > 1 || request.since.is_some() || request.until.is_some();
    is_restricted.then_some(groups)
}

/// Terms of a text, at most [`ASKED_MAX`] from all over it.
fn spread(text: &[char]) -> Vec<&[char]> {
    let count = (text.len() + 1).saturating_sub(LETTERS);
    text.windows(LETTERS).step_by(count.div_ceil(ASKED_MAX).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_ask_for_terms_from_all_over() {
        let text: Vec<char> = ('a'..='z').collect();
        let asked = spread(&text);
        assert!(asked.len() <= ASKED_MAX && asked.len() > ASKED_MAX / 2);
        assert_eq!(asked[0], ['a', 'b', 'c']);
        assert_eq!(spread(&text[..5]).len(), 3);
        assert!(spread(&text[..2]).is_empty());
    }

    #[test]
    fn terms_differ_by_kind_place_and_letters() {
        let all = [
            term(Kind::Text, 0, &['a', 'b', 'c']),
            term(Kind::Actor, 0, &['a', 'b', 'c']),
            term(Kind::Text, 1, &['a', 'b', 'c']),
            term(Kind::Text, 0, &['a', 'b', 'd']),
        ];
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        assert!(all.iter().all(|&term| (0..1 << TERM_BITS).contains(&term)));
    }
}
