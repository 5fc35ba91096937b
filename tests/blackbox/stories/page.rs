//! Reads a page of `docs/`: its commands with what they print, in order, and what happens elsewhere meanwhile.
//!
//! A block that is fenced as `console` is a shell session. `$ ` begins a command, `> ` goes on with it, everything else
//! is what it prints, to both standard output and standard error. `…` stands for what varies: in a line for a part of
//! it, alone for any number of lines. Runs of blanks count as one. Ids and short codes that are drawn at random, such
//! as `0k3v9t2m7x1q8r4z` and `k7mq2p`, are examples: what stands in the place of one where it is printed first stands
//! for it from there on, in commands too.
//!
//! `console at=2026-11-02T09:00:00Z` turns the daemon's clock to that time first. A comment `<!-- dns: NAME -->` is
//! what the domain's owner does: the record that proves it is set.

use std::collections::HashMap;

/// A command, and what it prints.
#[derive(Debug)]
pub struct Command {
    /// The line of the page, from 1.
    pub line: usize,
    /// What is given to the shell.
    pub text: String,
    /// The lines that must be printed.
    pub expected: Vec<String>,
}

impl Command {
    /// Whether the page shows that it fails: with an error as `posthouse` and `curl` print theirs.
    pub fn fails(&self) -> bool {
        self.expected.iter().any(|line| line.starts_with("posthouse: ") || line.starts_with("curl: ("))
    }

    /// Whether it changes nothing, so that it can be repeated.
    pub fn looks(&self) -> bool {
        let is_posthouse = self.text.split(' ').next() == Some("posthouse");
        let verbs = ["list", "show", "report", "search", "whoami", "trace"];
        let reads = is_posthouse
            && !self.text.contains('>')
            && self.text.split(' ').any(|word| verbs.contains(&word));
        reads || self.text.starts_with("curl ") && self.text.contains("imap://")
    }

    /// Whether it prints how the one before it ended.
    pub fn asks_for_status(&self) -> bool {
        self.text == "echo $?"
    }
}

/// What happens on a page.
#[derive(Debug)]
pub enum Event {
    /// Somebody types this.
    Command(Command),
    /// The clock shows this, in RFC 3339.
    Clock(String),
    /// The owner of this domain proves it.
    Proof(String),
}

/// What happens on a page, in order.
pub fn events(page: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let mut fence: Option<bool> = None;
    for (index, line) in page.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(info.split(' ').next() == Some("console")) };
            events.extend(info.split(" at=").nth(1).map(|at| Event::Clock(at.trim().to_owned())));
            continue;
        }
        let proven = line.strip_prefix("<!-- dns: ").and_then(|rest| rest.strip_suffix(" -->"));
        match (fence, events.last_mut()) {
            (None, _) => events.extend(proven.map(|name| Event::Proof(name.to_owned()))),
            (Some(true), last) => match (line.strip_prefix("$ "), last) {
                (Some(text), _) => events.push(Event::Command(Command {
                    line: index + 1,
                    text: text.to_owned(),
                    expected: Vec::new(),
                })),
                (None, Some(Event::Command(command))) => match line.strip_prefix('>') {
                    Some(more) if command.expected.is_empty() => {
                        command.text.push('\n');
                        command.text.push_str(more.strip_prefix(' ').unwrap_or(more));
                    }
                    _ => command.expected.push(line.to_owned()),
                },
                (None, _) => panic!("line {}: what prints this? {line}", index + 1),
            },
            (Some(false), _) => {}
        }
    }
    events
}

/// The page with what was printed by these commands in the place of what was expected.
pub fn rewritten(page: &str, differing: &[(&Command, String)]) -> String {
    let mut lines: Vec<&str> = page.lines().collect();
    for (command, printed) in differing.iter().rev() {
        let start = command.line - 1 + command.text.split('\n').count();
        lines.splice(start..start + command.expected.len(), printed.lines());
    }
    lines.join("\n") + "\n"
}

/// What examples on the page stand for.
#[derive(Clone, Default, Debug)]
pub struct Examples(HashMap<String, String>);

/// A piece of a line that is expected.
#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Anything,
    Example(String),
}

/// Whether a word looks drawn at random: 6 or 16 letters and digits, both.
fn is_example(word: &str) -> bool {
    let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
    matches!(word.len(), 6 | 16)
        && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_lowercase)
}

fn is_of_word(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

/// The words of a text and what stands between them, in order.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = rest.find(|c| is_of_word(c) != is_of_word(first)).unwrap_or(rest.len());
        let (piece, others) = rest.split_at(end);
        rest = others;
        Some(piece)
    })
}

impl Examples {
    /// The text with what its examples stand for.
    pub fn fill(&self, text: &str) -> String {
        split(text).map(|piece| self.0.get(piece).map_or(piece, String::as_str)).collect()
    }

    /// The text with examples in the place of what they stand for.
    pub fn recognise(&self, text: &str) -> String {
        let example =
            |word| self.0.iter().find(|(_, known)| *known == word).map(|(example, _)| example.as_str());
        split(text).map(|piece| example(piece).unwrap_or(piece)).collect()
    }

    /// Whether these lines were printed as expected; learns from them what examples stand for.
    pub fn agree(&mut self, expected: &[String], printed: &str) -> bool {
        let line = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines = |lines: &mut dyn Iterator<Item = &str>| {
            lines.map(line).filter(|line| !line.is_empty()).collect::<Vec<_>>()
        };
        let expected = lines(&mut expected.iter().map(String::as_str));
        let printed = lines(&mut printed.lines());
        let agreed = self.lines_agree(&expected, &printed);
        agreed.map(|learnt| *self = learnt).is_some()
    }

    fn lines_agree(&self, expected: &[String], printed: &[String]) -> Option<Self> {
        match (expected, printed) {
            ([], []) => Some(self.clone()),
            ([any, rest @ ..], _) if any == "…" => {
                (0..=printed.len()).find_map(|skipped| self.lines_agree(rest, &printed[skipped..]))
            }
            ([one, expected @ ..], [other, printed @ ..]) => {
                let pieces: Vec<Piece> = split(one).flat_map(pieces).collect();
                let learnt = self.pieces_agree(&pieces, other)?;
                learnt.lines_agree(expected, printed)
            }
            _ => None,
        }
    }

    fn pieces_agree(&self, pieces: &[Piece], printed: &str) -> Option<Self> {
        match pieces {
            [] => printed.is_empty().then(|| self.clone()),
            [Piece::Text(text), rest @ ..] => self.pieces_agree(rest, printed.strip_prefix(text.as_str())?),
            [Piece::Anything, rest @ ..] => {
                let mut ends = printed.char_indices().map(|(at, _)| at).chain([printed.len()]);
                ends.find_map(|end| self.pieces_agree(rest, &printed[end..]))
            }
            [Piece::Example(example), rest @ ..] => match self.0.get(example) {
                Some(known) => self.pieces_agree(rest, printed.strip_prefix(known.as_str())?),
                None => {
                    let end = printed.find(|c| !is_of_word(c)).unwrap_or(printed.len());
                    let (word, others) = printed.split_at(end);
                    let mut learnt = self.clone();
                    (word.len() == example.len())
                        .then(|| learnt.0.insert(example.clone(), word.to_owned()))?;
                    learnt.pieces_agree(rest, others)
                }
            },
        }
    }
}

fn pieces(text: &str) -> Vec<Piece> {
    if is_example(text) {
        return vec![Piece::Example(text.to_owned())];
    }
    let parts = text.split('…').map(|part| Piece::Text(part.to_owned()));
    let mut pieces: Vec<Piece> = parts.flat_map(|part| [part, Piece::Anything]).collect();
    pieces.pop();
    pieces
}

#[test]
fn blocks_that_are_sessions_are_commands_with_what_they_print() {
    let page = "text\n$ no\n```\n$ neither\n```\n```console at=2026-11-02T09:00:00Z\n$ one <<E\n> a\n>\n> E\nout\n\
        > put\n$ two\n```\n<!-- dns: a.example -->\n";
    let [Event::Clock(at), Event::Command(one), Event::Command(two), Event::Proof(name)] = &events(page)[..]
    else {
        panic!("{:?}", events(page));
    };
    assert_eq!((at.as_str(), name.as_str()), ("2026-11-02T09:00:00Z", "a.example"));
    assert_eq!((one.line, one.text.as_str()), (7, "one <<E\na\n\nE"));
    assert_eq!(one.expected, ["out", "> put"]);
    assert_eq!((two.text.as_str(), two.expected.len()), ("two", 0));
}

#[test]
fn what_is_printed_must_agree_and_examples_are_learnt() {
    let agree = |examples: &mut Examples, expected: &str, printed: &str| {
        let expected: Vec<String> = expected.lines().map(str::to_owned).collect();
        examples.agree(&expected, printed)
    };
    let mut none = Examples::default();
    assert!(agree(&mut none, "a   b", "a b\n\n"));
    assert!(!agree(&mut none, "a b", "a b c"));
    assert!(!agree(&mut none, "a b", "a b\nmore"));
    assert!(!agree(&mut none, "a b", ""));
    assert!(agree(&mut none, "a … c", "a b b c"));
    assert!(!agree(&mut none, "a … c", "a b b"));
    assert!(agree(&mut none, "a\n…\nd", "a\nb\nc\nd"));
    assert!(!agree(&mut none, "a\n…\nd", "a\nb\nc"));
    let mut examples = Examples::default();
    assert!(agree(&mut examples, "Id 0k3v9t2m7x1q8r4z of omar@k7mq2p", "Id aaaabbbbccccdddd of omar@zzzzzz"));
    assert_eq!(
        examples.fill("show 0k3v9t2m7x1q8r4z omar@k7mq2p k7mq2pp"),
        "show aaaabbbbccccdddd omar@zzzzzz k7mq2pp"
    );
    assert!(agree(&mut examples, "0k3v9t2m7x1q8r4z", "aaaabbbbccccdddd"));
    assert!(!agree(&mut examples, "0k3v9t2m7x1q8r4z", "eeeebbbbccccdddd"));
    assert!(!agree(&mut none, "0k3v9t2m7x1q8r4z", "short"));
}
