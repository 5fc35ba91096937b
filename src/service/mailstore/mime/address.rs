//! Address lists of From, To and the like (RFC 5322 section 3.4) as ENVELOPE tells them (RFC 3501 section 7.4.2).
//!
//! Names keep their encoded words. An address without a domain has an empty host, since a missing one would mean
//! the end of a group.

use super::super::summary::EnvelopeAddress;
use super::token::{Lexer, is_atom};

/// Most addresses read of one field.
const ADDRESSES_MAX: usize = 10_000;

/// Reads an address list. What is no address is skipped up to the next comma.
pub fn address_list(value: &[u8]) -> Vec<EnvelopeAddress> {
    let mut lexer = Lexer::new(value);
    let mut addresses = Vec::new();
    let mut in_group = false;
    while addresses.len() < ADDRESSES_MAX {
        lexer.comment = None;
        lexer.skip_white();
        match lexer.peek() {
            None => break,
            Some(b',') => lexer.advance(1),
            Some(b';') => {
                lexer.advance(1);
                if std::mem::take(&mut in_group) {
                    addresses.push(EnvelopeAddress::default());
                }
            }
            Some(_) => {
                let words = Words::read(&mut lexer);
                match lexer.peek() {
                    Some(b'<') => addresses.push(angle_address(&mut lexer, words.phrase)),
                    Some(b':') if !in_group => {
                        lexer.advance(1);
                        in_group = true;
                        addresses.push(EnvelopeAddress { mailbox: Some(words.phrase), ..Default::default() });
                    }
                    _ => addresses.extend(plain_address(&mut lexer, words)),
                }
            }
        }
    }
    if in_group {
        addresses.push(EnvelopeAddress::default());
    }
    addresses
}

/// Words at the start of an address: a display name, a group's name, or a local part, which only the next
/// character tells.
#[derive(Default)]
struct Words {
    /// The words with one space between them.
    phrase: Vec<u8>,
    /// The same without spaces around dots (RFC 5322 section 4.4).
    local: Vec<u8>,
    count: usize,
}

impl Words {
    fn read(lexer: &mut Lexer<'_>) -> Self {
        let mut words = Self::default();
        while let Some(octet) = lexer.peek() {
            let mut word = Vec::new();
            if octet == b'"' {
                if !lexer.quoted(&mut word) {
                    lexer.advance(1);
                    continue;
                }
            } else {
                word.extend_from_slice(lexer.run(|octet| is_atom(octet) || octet == b'.'));
                if word.is_empty() {
                    break;
                }
                lexer.skip_white();
            }
            words.push(&word);
        }
        words
    }

    fn push(&mut self, word: &[u8]) {
        if self.count > 0 {
            self.phrase.push(b' ');
            if !self.local.ends_with(b".") && !word.starts_with(b".") {
                self.local.push(b' ');
            }
        }
        self.phrase.extend_from_slice(word);
        self.local.extend_from_slice(word);
        self.count += 1;
    }
}

/// `local@domain`, or something without a domain; an old-style comment behind it is its name.
fn plain_address(lexer: &mut Lexer<'_>, words: Words) -> Option<EnvelopeAddress> {
    let host = if lexer.accept(b'@') { domain(lexer) } else { Vec::new() };
    let name = lexer.comment.take().filter(|name| !name.is_empty());
    skip_to_separator(lexer);
    if words.local.is_empty() && host.is_empty() {
        return None;
    }
    if words.count > 1 && host.is_empty() {
        // Several words and no address: somebody's name.
        return Some(EnvelopeAddress {
            name: Some(words.phrase),
            mailbox: Some(host.clone()),
            host: Some(host),
        });
    }
    Some(EnvelopeAddress { name, mailbox: Some(words.local), host: Some(host) })
}

/// `<local@domain>` with an optional, ignored route (RFC 5322 section 4.4).
fn angle_address(lexer: &mut Lexer<'_>, phrase: Vec<u8>) -> EnvelopeAddress {
    lexer.advance(1);
    lexer.skip_white();
    if lexer.peek() == Some(b'@')
        && let Some(colon) = lexer.rest().iter().position(|octet| matches!(octet, b':' | b'>'))
        && lexer.rest().get(colon) == Some(&b':')
    {
        lexer.advance(colon + 1);
        lexer.skip_white();
    }
    let local = Words::read(lexer).local;
    let host = if lexer.accept(b'@') { domain(lexer) } else { Vec::new() };
    // Whatever else stands before the closing bracket is no part of the address.
    let rest = lexer.rest();
    match rest.iter().position(|octet| matches!(octet, b'>' | b',' | b'<')) {
        Some(end) if rest.get(end) == Some(&b'>') => lexer.advance(end + 1),
        _ => {}
    }
    lexer.skip_white();
    skip_to_separator(lexer);
    EnvelopeAddress { name: (!phrase.is_empty()).then_some(phrase), mailbox: Some(local), host: Some(host) }
}

fn domain(lexer: &mut Lexer<'_>) -> Vec<u8> {
    lexer.skip_white();
    if lexer.peek() == Some(b'[') {
        let literal = lexer.run(|octet| !matches!(octet, b']' | b'>' | b','));
        let mut domain = literal.to_vec();
        if lexer.accept(b']') {
            domain.push(b']');
        }
        lexer.skip_white();
        return domain;
    }
    let mut domain = Vec::new();
    loop {
        let word = lexer.run(|octet| is_atom(octet) || octet == b'.');
        domain.extend_from_slice(word);
        lexer.skip_white();
        // White space may stand around the dots (RFC 5322 section 4.4), and nowhere else.
        if word.is_empty() || !(domain.ends_with(b".") || lexer.peek() == Some(b'.')) {
            return domain;
        }
    }
}

fn skip_to_separator(lexer: &mut Lexer<'_>) {
    lexer.run(|octet| !matches!(octet, b',' | b';'));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `name|mailbox|host` of each address, `-` for what is missing.
    fn parsed(text: &str) -> Vec<String> {
        let show = |field: &Option<Vec<u8>>| {
            field.as_ref().map_or("-".to_owned(), |octets| String::from_utf8_lossy(octets).into_owned())
        };
        address_list(text.as_bytes())
            .iter()
            .map(|address| {
                format!("{}|{}|{}", show(&address.name), show(&address.mailbox), show(&address.host))
            })
            .collect()
    }

    #[test]
    fn usual_forms() {
        assert_eq!(parsed("a@x.example"), ["-|a|x.example"]);
        assert_eq!(
            parsed("A B <a@x.example>, \"C, \\\"D\\\"\" <c.d@y>"),
            ["A B|a|x.example", "C, \"D\"|c.d|y"]
        );
        assert_eq!(parsed("a@x.example (A (b) C)"), ["A (b) C|a|x.example"]);
        assert_eq!(
            parsed("=?utf-8?q?J=C3=B6rg?=\r\n =?utf-8?q?x?= <j@x>"),
            ["=?utf-8?q?J=C3=B6rg?= =?utf-8?q?x?=|j|x"]
        );
        assert_eq!(parsed("\"a b\"@x"), ["-|a b|x"]);
        assert_eq!(parsed("a . b @ x . y"), ["-|a.b|x.y"]);
        assert_eq!(parsed("<@r.example,@s.example:a@x>"), ["-|a|x"]);
        assert_eq!(parsed("a@[127.0.0.1]"), ["-|a|[127.0.0.1]"]);
        assert_eq!(parsed("<>"), ["-||"]);
    }

    #[test]
    fn groups_have_start_and_end() {
        assert_eq!(
            parsed("Friends: a@x, B <b@y>;, c@z"),
            ["-|Friends|-", "-|a|x", "B|b|y", "-|-|-", "-|c|z"]
        );
        assert_eq!(parsed("undisclosed-recipients:;"), ["-|undisclosed-recipients|-", "-|-|-"]);
        assert_eq!(parsed("open: a@x"), ["-|open|-", "-|a|x", "-|-|-"]);
    }

    #[test]
    fn broken_forms_keep_what_can_be_read() {
        assert_eq!(parsed(""), [""; 0]);
        assert_eq!(parsed(" , ,"), [""; 0]);
        assert_eq!(parsed("root, Joe Doe"), ["-|root|", "Joe Doe||"]);
        assert_eq!(parsed("Joe Doe@x"), ["-|Joe Doe|x"]);
        assert_eq!(parsed("a@x, ]]], b@y"), ["-|a|x", "-|b|y"]);
        assert_eq!(parsed("A <a@x, b@y"), ["A|a|x", "-|b|y"]);
        assert_eq!(parsed("\"A <a@x>"), ["A|a|x"]);
        assert_eq!(parsed("a@x (open"), ["open|a|x"]);
    }
}
