//! Cuts out of a message what may stand in a dictionary: text that many senders wrote, without addresses,
//! host names, people's names and numbers.

use std::collections::{HashMap, HashSet};

use crate::corpus::{Mail, fields};
use crate::windows::roll;

/// A longer stretch of text must have each of its windows of this many bytes in many senders' mail.
pub const WINDOW_OCTETS: usize = 32;
/// The same for the shortest stretch that is worth keeping.
pub const SHORT_OCTETS: usize = 12;
/// Stands between stretches that were cut from different places; never part of text.
pub const SEPARATOR: u8 = 0;

/// Header fields whose values name people or hosts.
const PERSONAL_FIELDS: &[&str] = &[
    "from",
    "to",
    "cc",
    "bcc",
    "sender",
    "reply-to",
    "return-path",
    "delivered-to",
    "errors-to",
    "x-original-to",
    "resent-from",
    "resent-to",
    "resent-sender",
    "apparently-to",
    "message-id",
    "in-reply-to",
    "references",
    "subject",
    "thread-topic",
    "organization",
    "x-beenthere",
    "x-from",
    "x-to",
    "x-cc",
    "x-bcc",
    "x-folder",
    "x-origin",
    "x-filename",
    "list-id",
    "list-post",
    "list-help",
    "list-archive",
    "list-subscribe",
    "list-unsubscribe",
    "x-envelope-from",
    "x-envelope-to",
    "x-authentication-warning",
    "x-sender",
];
/// Fields with display names.
const NAME_FIELDS: &[&str] = &["from", "to", "cc", "reply-to", "sender"];
/// Hosts that are part of standard namespaces, not of anybody's mail.
const PUBLIC_NAMESPACES: &[&str] =
    &["w3.org", "schemas.microsoft.com", "schemas.openxmlformats.org", "schemas-microsoft-com", "purl.org"];

/// Words that identify people.
pub struct Names {
    words: HashSet<String>,
    pairs: HashSet<(String, String)>,
}

/// The words (runs of letters) of a text, with their places.
fn words(octets: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    octets
        .chunk_by(|a, b| is_letter(*a) == is_letter(*b))
        .scan(0, |at, run| {
            let start = *at;
            *at += run.len();
            Some((start, run))
        })
        .filter(|(_, run)| run.first().is_some_and(|first| is_letter(*first)))
}

fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte >= 0x80
}

fn lower(word: &[u8]) -> String {
    String::from_utf8_lossy(word).to_lowercase()
}

impl Names {
    /// Collects the display names of all address fields. A word of a name counts as identifying unless at
    /// least
    /// `senders_min` senders also write it in lower case, outside of addresses.
    pub fn collect(mails: &[Mail], senders_min: usize) -> Self {
        let mut lower_case: HashMap<Vec<u8>, HashSet<&str>> = HashMap::new();
        let mut all = HashSet::new();
        let mut pairs = HashSet::new();
        for mail in mails {
            for token in tokens(&mail.octets).map(|(_, token)| token) {
                if token.contains(&b'@') || token.len() > 64 {
                    continue;
                }
                for (_, word) in words(token).filter(|(_, word)| word.iter().all(u8::is_ascii_lowercase)) {
                    let senders = lower_case.entry(word.to_vec()).or_default();
                    if senders.len() < senders_min {
                        senders.insert(mail.sender.as_str());
                    }
                }
            }
            for (_, value) in fields(&mail.octets).iter().filter(|f| NAME_FIELDS.contains(&f.0.as_str())) {
                for phrase in
                    value.split([',', '<', '>', '(', ')', '"']).filter(|phrase| !phrase.contains('@'))
                {
                    let name: Vec<String> = words(phrase.as_bytes()).map(|(_, word)| lower(word)).collect();
                    pairs.extend(name.windows(2).filter_map(|pair| match pair {
                        [first, second] => Some((first.clone(), second.clone())),
                        _ => None,
                    }));
                    all.extend(name.into_iter().filter(|word| word.len() > 2));
                }
            }
        }
        let common = |word: &String| {
            lower_case.get(word.as_bytes()).is_some_and(|senders| senders.len() >= senders_min)
        };
        Self { words: all.into_iter().filter(|word| !common(word)).collect(), pairs }
    }

    /// Marks the words of names in `mask`.
    fn mask(&self, octets: &[u8], mask: &mut [bool]) {
        let mut previous: Option<(usize, usize, String)> = None;
        for (start, word) in words(octets) {
            let end = start + word.len();
            let capital = word.first().is_some_and(u8::is_ascii_uppercase);
            let text = lower(word);
            if self.words.contains(&text) {
                cover(mask, start, end);
            }
            if let Some((first, last, name)) = previous.take()
                && start - last <= 2
                && self.pairs.contains(&(name, text.clone()))
            {
                cover(mask, first, end);
            }
            previous = capital.then_some((start, end, text));
        }
    }
}

/// Marks a range.
fn cover(mask: &mut [bool], start: usize, end: usize) {
    mask.iter_mut().take(end).skip(start).for_each(|masked| *masked = true);
}

/// Runs without white space and brackets, with their places.
fn tokens(octets: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let breaks = |byte: u8| byte.is_ascii_whitespace() || b"<>()[]{}\"',;|=".contains(&byte);
    octets
        .chunk_by(move |a, b| breaks(*a) == breaks(*b))
        .scan(0, |at, run| {
            let start = *at;
            *at += run.len();
            Some((start, run))
        })
        .filter(move |(_, run)| run.first().is_some_and(|first| !breaks(*first)))
}

/// Whether a token names a host, an address or a long number.
fn is_personal_token(token: &[u8]) -> bool {
    let text = String::from_utf8_lossy(token).to_ascii_lowercase();
    if text.contains('@') || text.contains("%40") {
        return true;
    }
    if PUBLIC_NAMESPACES.iter().any(|namespace| text.contains(namespace)) {
        return false;
    }
    text.split(['/', ':', '?', '&', '*', '_']).any(|part| {
        let part = part.trim_matches('.');
        let labels: Vec<&str> = part.split('.').collect();
        let last = labels.last().copied().unwrap_or_default();
        let is_label =
            |label: &&str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let host = labels.len() > 1
            && labels.iter().all(is_label)
            && last.len() > 1
            && last.bytes().all(|byte| byte.is_ascii_alphabetic());
        let quad = labels.len() > 3 && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        host || quad
    }) || text
        .as_bytes()
        .chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit())
        .any(|run| run.len() > 5 && run.first().is_some_and(u8::is_ascii_digit))
}

/// Which bytes of a message may not stand in a dictionary.
fn mask(octets: &[u8], names: &Names) -> Vec<bool> {
    let mut mask = vec![false; octets.len()];
    for (start, token) in tokens(octets) {
        if is_personal_token(token) {
            cover(&mut mask, start, start + token.len());
        }
    }
    names.mask(octets, &mut mask);
    let mut at = 0;
    let mut personal = false;
    for line in octets.split_inclusive(|byte| *byte == b'\n') {
        if line == b"\r\n" {
            break;
        }
        let mut from = at;
        if !line.first().is_some_and(|byte| *byte == b' ' || *byte == b'\t') {
            let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
            personal = PERSONAL_FIELDS.contains(&lower(name).as_str());
            // The colon and the space behind it belong to the name.
            from += name.len() + 2;
        }
        if personal {
            cover(&mut mask, from, at + line.len() - 2);
        }
        at += line.len();
    }
    mask
}

/// The text of a message that may stand in a dictionary, in its order, with a [`SEPARATOR`] after each
/// stretch.
pub fn keep(octets: &[u8], names: &Names, long: &HashSet<u64>, short: &HashSet<u64>) -> Vec<u8> {
    let mask = mask(octets, names);
    let mut long_at = vec![false; octets.len()];
    let mut short_at = vec![false; octets.len()];
    let note = |at: &mut Vec<bool>, position: usize, known: bool| {
        if let Some(slot) = at.get_mut(position) {
            *slot = known;
        }
    };
    roll(octets, WINDOW_OCTETS, |position, hash| note(&mut long_at, position, long.contains(&hash)));
    roll(octets, SHORT_OCTETS, |position, hash| note(&mut short_at, position, short.contains(&hash)));
    let mut kept = Vec::new();
    let mut stretch: Vec<u8> = Vec::new();
    let flush = |stretch: &mut Vec<u8>, kept: &mut Vec<u8>| {
        if stretch.len() >= SHORT_OCTETS {
            kept.append(stretch);
            kept.push(SEPARATOR);
        }
        stretch.clear();
    };
    for (((byte, masked), long), short) in octets.iter().zip(&mask).zip(&long_at).zip(&short_at) {
        if *masked || *byte == SEPARATOR {
            flush(&mut stretch, &mut kept);
            continue;
        }
        stretch.push(*byte);
        let length = stretch.len();
        if (length >= SHORT_OCTETS && !short) || (length >= WINDOW_OCTETS && !long) {
            // The stretch ended before this byte; one that is too short slides on instead.
            stretch.pop();
            if stretch.len() >= SHORT_OCTETS {
                flush(&mut stretch, &mut kept);
            } else {
                stretch.remove(0);
            }
            stretch.push(*byte);
        }
    }
    flush(&mut stretch, &mut kept);
    kept
}
