//! A notice as a message (RFC 5322).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::base::clock::Timestamp;
use crate::service::delivery::trace_lines::date;

/// Longest line of text in characters; UTF-8 makes it at most 998 octets (RFC 5322 section 2.1.1).
const LINE_CHARACTERS_MAX: usize = 240;
/// Octets of a subject that one encoded word takes (RFC 2047 section 2: at most 75 characters).
const ENCODED_OCTETS_MAX: usize = 42;

/// What a message says.
pub(super) struct Letter<'a> {
    /// Public id of the notice.
    pub id: &'a str,
    /// What it is about.
    pub kind: &'a str,
    pub at: Timestamp,
    /// The name of this host.
    pub host: &'a str,
    /// The address that it goes to.
    pub to: &'a str,
    pub subject: &'a str,
    pub text: &'a str,
}

impl Letter<'_> {
    /// The message with its CRLF lines. Programs see that a machine wrote it (RFC 3834), so that nothing answers.
    pub fn message(&self) -> Bytes {
        let Self { id, kind, host, to, .. } = self;
        let mut message = format!(
            "From: {host} <postmaster@{host}>\r\nTo: {to}\r\nSubject: {}\r\nDate: {}\r\n\
             Message-ID: <notice.{id}@{host}>\r\nAuto-Submitted: auto-generated\r\n\
             Precedence: bulk\r\nX-Posthouse-Notice: {kind}\r\nMIME-Version: 1.0\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n",
            encoded(self.subject),
            date(self.at)
        );
        for line in self.text.lines() {
            let mut rest: Vec<char> = line.chars().filter(|c| !c.is_control()).collect();
            loop {
                let next = rest.split_off(rest.len().min(LINE_CHARACTERS_MAX));
                message.extend(rest);
                message.push_str("\r\n");
                if next.is_empty() {
                    break;
                }
                rest = next;
            }
        }
        Bytes::from(message)
    }
}

/// A subject, in encoded words (RFC 2047) unless it is plain ASCII.
fn encoded(subject: &str) -> String {
    let clean: String = subject.chars().filter(|c| !c.is_control()).collect();
    if clean.is_ascii() && clean.len() <= LINE_CHARACTERS_MAX {
        return clean;
    }
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for letter in clean.chars() {
        if word.len() + letter.len_utf8() > ENCODED_OCTETS_MAX {
            words.push(std::mem::take(&mut word));
        }
        word.push(letter);
    }
    words.push(word);
    let words: Vec<String> =
        words.iter().map(|word| format!("=?utf-8?B?{}?=", STANDARD.encode(word))).collect();
    words.join("\r\n ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_has_short_lines_and_takes_no_header_from_its_text() {
        let text = format!("one\r\ntwo\u{7}\n\n{}", "ü".repeat(1_000));
        let letter = Letter {
            id: "abc",
            kind: "expiry",
            at: Timestamp::from_secs(0),
            host: "mail.example",
            to: "x@a.example",
            subject: "Überfällig\r\nBcc: y@b.example, und dies ist lang genug für mehrere Wörter",
            text: &text,
        };
        let message = String::from_utf8(letter.message().to_vec()).unwrap();
        let (header, body) = message.split_once("\r\n\r\n").unwrap();
        assert!(!header.contains("Bcc"), "{header}");
        assert!(header.lines().all(|line| line.len() < 78 || !line.starts_with(' ')));
        assert!(header.contains("Subject: =?utf-8?B?"), "{header}");
        assert!(message.lines().all(|line| line.len() <= 998));
        assert!(body.starts_with("one\r\ntwo\r\n\r\nü"), "{body}");
        assert!(!message.replace("\r\n", "").contains(['\r', '\n']));
    }
}
