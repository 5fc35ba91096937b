//! Writing responses (RFC 3501 section 7) into a byte buffer that is sent whole.

use std::io::Write as _;

use crate::base::clock::Timestamp;
use crate::service::mailstore::types::{FlagBits, FolderName, KEYWORDS_MAX};

use super::utf7;

/// Longest string that is sent quoted; a longer one goes as a literal so that clients need no long lines.
const QUOTED_OCTETS_MAX: usize = 1_000;
/// Longest human-readable text of a response in characters.
const TEXT_CHARACTERS_MAX: usize = 300;

/// Writes a number in decimal.
pub fn number(out: &mut Vec<u8>, mut number: u64) {
    let start = out.len();
    loop {
        out.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

/// Writes a string: quoted where RFC 3501 section 4.3 allows, else as a literal.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    // Without an early end, so that it is done for many octets at a time.
    let printable = |text: &[u8]| {
        text.iter().fold(true, |all, &octet| all & ((0x20..=0x7e).contains(&octet) | (octet == b'\t')))
    };
    if text.len() <= QUOTED_OCTETS_MAX && printable(text) {
        out.push(b'"');
        let mut rest = text;
        while let Some((before, from)) =
            memchr::memchr2(b'"', b'\\', rest).and_then(|special| rest.split_at_checked(special))
        {
            out.extend_from_slice(before);
            out.push(b'\\');
            out.extend_from_slice(from.get(..1).unwrap_or_default());
            rest = from.get(1..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
        out.push(b'"');
    } else {
        literal(out, text);
    }
}

/// Writes a literal.
pub fn literal(out: &mut Vec<u8>, octets: &[u8]) {
    literal_head(out, octets.len());
    out.extend_from_slice(octets);
}

/// Writes the head of a literal of `octets`.
pub fn literal_head(out: &mut Vec<u8>, octets: usize) {
    out.push(b'{');
    number(out, octets as u64);
    out.extend_from_slice(b"}\r\n");
}

/// Writes a string or `NIL`.
pub fn nstring(out: &mut Vec<u8>, text: Option<&[u8]>) {
    match text {
        Some(text) => string(out, text),
        None => out.extend_from_slice(b"NIL"),
    }
}

/// Writes a folder name in modified UTF-7.
pub fn folder(out: &mut Vec<u8>, name: &FolderName) {
    folder_text(out, name.as_str());
}

/// Writes the text of a folder name in modified UTF-7.
pub fn folder_text(out: &mut Vec<u8>, name: &str) {
    string(out, utf7::encode(name).as_bytes());
}

/// Writes an astring: bare where every character allows it, else quoted or as a literal.
pub fn astring(out: &mut Vec<u8>, text: &[u8]) {
    if !text.is_empty() && text.iter().all(|&octet| super::lexer::is_atom_char(octet)) {
        out.extend_from_slice(text);
    } else {
        string(out, text);
    }
}

/// Writes the names of `flags` with their parentheses; `recent` adds `\Recent`.
pub fn flags(out: &mut Vec<u8>, flags: FlagBits, recent: bool, keywords: &[String]) {
    const SYSTEM: [(FlagBits, &[u8]); 5] = [
        (FlagBits::ANSWERED, b"\\Answered"),
        (FlagBits::FLAGGED, b"\\Flagged"),
        (FlagBits::DELETED, b"\\Deleted"),
        (FlagBits::SEEN, b"\\Seen"),
        (FlagBits::DRAFT, b"\\Draft"),
    ];
    out.push(b'(');
    let start = out.len();
    let mut push = |name: &[u8]| {
        if out.len() > start {
            out.push(b' ');
        }
        out.extend_from_slice(name);
    };
    for (bit, name) in SYSTEM {
        if flags.contains(bit) {
            push(name);
        }
    }
    if flags.0 > FlagBits::SYSTEM.0 {
        for (index, name) in keywords.iter().take(KEYWORDS_MAX).enumerate() {
            if flags.contains(FlagBits::keyword(index)) {
                push(name.as_bytes());
            }
        }
    }
    if recent {
        push(b"\\Recent");
    }
    out.push(b')');
}

/// Writes a date-time in UTC, in quotes: `"17-Jul-1996 02:44:25 +0000"`.
pub fn date_time(out: &mut Vec<u8>, moment: Timestamp) {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let t = moment.utc();
    // Writing to a Vec cannot fail.
    let month = MONTHS.get(usize::from(u8::from(t.month())).saturating_sub(1)).unwrap_or(&"Jan");
    let _ = write!(
        out,
        "\"{:02}-{month}-{:04} {:02}:{:02}:{:02} +0000\"",
        t.day(),
        t.year().max(0),
        t.hour(),
        t.minute(),
        t.second()
    );
}

/// Writes a whole status response: `tag` (or `*`), condition, optional code, text.
pub fn status(out: &mut Vec<u8>, tag: &[u8], condition: &str, code: Option<&str>, text: &str) {
    out.extend_from_slice(tag);
    out.push(b' ');
    out.extend_from_slice(condition.as_bytes());
    out.push(b' ');
    if let Some(code) = code {
        out.push(b'[');
        out.extend_from_slice(code.as_bytes());
        out.extend_from_slice(b"] ");
    }
    human(out, text);
    out.extend_from_slice(b"\r\n");
}

/// Writes text for people: printable ASCII, bounded, never empty (RFC 3501 section 9, `text`).
fn human(out: &mut Vec<u8>, text: &str) {
    if text.is_empty() {
        out.push(b'-');
    }
    for (index, character) in text.chars().take(TEXT_CHARACTERS_MAX).enumerate() {
        out.push(match character {
            // A text that begins with a bracket would be read as a response code.
            '[' if index == 0 => b'(',
            ' '..='~' => u8::try_from(character).unwrap_or(b'?'),
            _ => b'?',
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_quoted_or_literal() {
        assert_eq!(written(|out| string(out, b"")), "\"\"");
        assert_eq!(written(|out| string(out, br#"a "b" \"#)), r#""a \"b\" \\""#);
        assert_eq!(written(|out| string(out, "ä".as_bytes())), "{2}\r\nä");
        assert_eq!(written(|out| string(out, b"a\r\nb")), "{4}\r\na\r\nb");
        assert_eq!(written(|out| nstring(out, None)), "NIL");
        assert!(written(|out| string(out, &[b'x'; 1001])).starts_with("{1001}"));
    }

    #[test]
    fn numbers_are_decimal() {
        for n in [0, 7, 10, 4_294_967_295, u64::MAX] {
            assert_eq!(written(|out| number(out, n)), n.to_string());
        }
    }

    #[test]
    fn flags_are_named_in_the_folder_s_words() {
        let keywords = ["$Junk".to_owned(), "todo".to_owned()];
        let set = FlagBits(FlagBits::SEEN.0 | FlagBits::DRAFT.0 | FlagBits::keyword(1).0);
        assert_eq!(written(|out| flags(out, set, true, &keywords)), "(\\Seen \\Draft todo \\Recent)");
        assert_eq!(written(|out| flags(out, FlagBits(0), false, &keywords)), "()");
    }

    #[test]
    fn dates_are_utc_with_two_digits() {
        assert_eq!(
            written(|out| date_time(out, Timestamp::from_secs(837_571_465))),
            "\"17-Jul-1996 02:44:25 +0000\""
        );
        assert_eq!(written(|out| date_time(out, Timestamp(i64::MIN))), "\"01-Jan-1970 00:00:00 +0000\"");
    }

    #[test]
    fn text_for_people_cannot_forge_a_response() {
        assert_eq!(written(|out| status(out, b"a", "NO", None, "x\r\n* BYE ü")), "a NO x??* BYE ?\r\n");
        assert_eq!(written(|out| status(out, b"*", "OK", Some("ALERT"), "hi")), "* OK [ALERT] hi\r\n");
        assert_eq!(written(|out| status(out, b"*", "OK", None, "[x]")), "* OK (x]\r\n");
    }
}
