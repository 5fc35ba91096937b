//! Text as readers see it: transfer encodings (RFC 2045 section 6), charsets, encoded words (RFC 2047).
//!
//! Decoding is lenient: what is wrong is skipped or replaced, never refused.

use std::borrow::Cow;

use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::decoders::html::html_to_text;

use super::super::summary::Part;
use super::field::unfold;

/// Largest HTML text that is converted to plain text, in octets.
const HTML_OCTETS_MAX: usize = 1024 * 1024;
/// Longest encoded word; RFC 2047 section 2 allows 75 octets, and real mail has whole subjects in one.
const ENCODED_WORD_OCTETS_MAX: usize = 8 * 1024;

/// The text of a text part, from its content as it stands in the message.
pub fn part_text<'a>(part: &Part, content: &'a [u8]) -> Cow<'a, str> {
    let octets = transfer_decode(&part.encoding, content);
    let charset = part.parameter(b"charset").unwrap_or(b"us-ascii");
    match octets {
        Cow::Borrowed(octets) => charset_decode(charset, octets),
        Cow::Owned(octets) => Cow::Owned(charset_decode(charset, &octets).into_owned()),
    }
}

/// The words of an HTML text.
pub fn html_text(html: &str) -> String {
    let mut end = html.len().min(HTML_OCTETS_MAX);
    while !html.is_char_boundary(end) {
        end -= 1;
    }
    html_to_text(html.get(..end).unwrap_or_default())
}

/// Undoes a Content-Transfer-Encoding.
pub fn transfer_decode<'a>(encoding: &[u8], content: &'a [u8]) -> Cow<'a, [u8]> {
    if encoding.eq_ignore_ascii_case(b"base64") {
        Cow::Owned(base64_decode(content))
    } else if encoding.eq_ignore_ascii_case(b"quoted-printable") {
        Cow::Owned(quoted_printable_decode(content, false))
    } else {
        Cow::Borrowed(content)
    }
}

/// Octets in `charset` as text; an unknown charset is read as UTF-8 with replacement.
pub fn charset_decode<'a>(charset: &[u8], octets: &'a [u8]) -> Cow<'a, str> {
    if octets.is_ascii() && !is_shifting(charset) {
        return String::from_utf8_lossy(octets);
    }
    let is = |name: &str| charset.eq_ignore_ascii_case(name.as_bytes());
    if is("utf-8") || is("us-ascii") || is("utf8") {
        // Raw mail that claims ASCII and is not is mostly UTF-8, else Latin 1, as browsers read it.
        return match std::str::from_utf8(octets) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) if is("us-ascii") => decode_with(b"windows-1252", octets),
            Err(_) => String::from_utf8_lossy(octets),
        };
    }
    decode_with(charset, octets)
}

fn decode_with<'a>(charset: &[u8], octets: &'a [u8]) -> Cow<'a, str> {
    match charset_decoder(charset) {
        Some(decode) => Cow::Owned(decode(octets)),
        None => String::from_utf8_lossy(octets),
    }
}

/// Charsets in which octets below 128 do not stand for ASCII characters.
fn is_shifting(charset: &[u8]) -> bool {
    let starts =
        |prefix: &[u8]| charset.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    starts(b"iso-2022") || starts(b"utf-7") || starts(b"utf-16") || starts(b"hz") || starts(b"csiso2022")
}

/// Decodes base64; other characters are skipped (RFC 2045 section 6.8).
pub fn base64_decode(content: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(content.len() / 4 * 3);
    let (mut group, mut digits) = (0_u32, 0_u32);
    for octet in content {
        let value = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                // Padding ends a group; pieces may be glued together after it.
                push_octets(&mut octets, group << (6 * (4 - digits.min(4))), digits.saturating_sub(1));
                (group, digits) = (0, 0);
                continue;
            }
            _ => continue,
        };
        group = group << 6 | u32::from(value);
        digits += 1;
        if digits == 4 {
            push_octets(&mut octets, group, 3);
            (group, digits) = (0, 0);
        }
    }
    push_octets(&mut octets, group << (6 * (4 - digits)), digits.saturating_sub(1));
    octets
}

/// Appends the first `count` of the three octets of a group.
fn push_octets(octets: &mut Vec<u8>, group: u32, count: u32) {
    let [_, first, second, third] = group.to_be_bytes();
    octets.extend([first, second, third].into_iter().take(count as usize));
}

/// Decodes quoted-printable, or the Q encoding of encoded words, in which an underscore is a space.
pub fn quoted_printable_decode(content: &[u8], words: bool) -> Vec<u8> {
    let mut octets = Vec::with_capacity(content.len());
    let mut rest = content;
    loop {
        match rest {
            [] => return octets,
            [b'=', b'\r', b'\n', after @ ..] | [b'=', b'\n', after @ ..] => rest = after,
            [b'=', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                octets.push(hex_value(*high) << 4 | hex_value(*low));
                rest = after;
            }
            [b'_', after @ ..] if words => {
                octets.push(b' ');
                rest = after;
            }
            [octet, after @ ..] => {
                octets.push(*octet);
                rest = after;
            }
        }
    }
}

const fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0,
    }
}

/// A header field value as readers see it: unfolded, encoded words decoded; white space between two encoded words
/// is not shown (RFC 2047 section 6.2). Raw octets are UTF-8 (RFC 6532), else Latin 1.
pub fn header_text(value: &[u8]) -> String {
    let value = unfold(value);
    let mut text = String::with_capacity(value.len());
    let mut rest: &[u8] = &value;
    let mut after_word = false;
    // Octets of words in the same charset are joined before they are decoded: characters may be split.
    let mut pending: (Vec<u8>, Vec<u8>) = Default::default();
    while let Some(start) = find(rest, b"=?") {
        let (before, word) = rest.split_at(start);
        let Some((charset, octets, length)) = encoded_word(word) else {
            flush(&mut text, &mut pending);
            push_raw(&mut text, before);
            text.push_str("=?");
            rest = word.get(2..).unwrap_or_default();
            after_word = false;
            continue;
        };
        let joined = after_word && before.iter().all(u8::is_ascii_whitespace);
        if !(joined && pending.0.eq_ignore_ascii_case(charset)) {
            flush(&mut text, &mut pending);
            pending.0 = charset.to_vec();
        }
        if !joined {
            push_raw(&mut text, before);
        }
        pending.1.extend_from_slice(&octets);
        rest = word.get(length..).unwrap_or_default();
        after_word = true;
    }
    flush(&mut text, &mut pending);
    push_raw(&mut text, rest);
    text
}

fn flush(text: &mut String, pending: &mut (Vec<u8>, Vec<u8>)) {
    if !pending.1.is_empty() {
        text.push_str(&charset_decode(&pending.0, &pending.1));
        pending.1.clear();
    }
}

fn push_raw(text: &mut String, octets: &[u8]) {
    text.push_str(&charset_decode(b"us-ascii", octets));
}

fn find(octets: &[u8], needle: &[u8; 2]) -> Option<usize> {
    memchr::memmem::find(octets, needle)
}

/// The encoded word that `text` starts with: charset, octets, and its length.
fn encoded_word(text: &[u8]) -> Option<(&[u8], Vec<u8>, usize)> {
    let inner = text.get(..text.len().min(ENCODED_WORD_OCTETS_MAX))?.strip_prefix(b"=?")?;
    let charset_octets = memchr::memchr(b'?', inner)?;
    let (charset, rest) = inner.split_at(charset_octets);
    let [b'?', encoding, b'?', content @ ..] = rest else { return None };
    let content_octets = find(content, b"?=")?;
    let content = content.get(..content_octets)?;
    // A language may follow the charset (RFC 2231 section 5).
    let charset = charset.split(|octet| *octet == b'*').next().unwrap_or_default();
    let octets = match encoding {
        b'b' | b'B' => base64_decode(content),
        b'q' | b'Q' => quoted_printable_decode(content, true),
        _ => return None,
    };
    Some((charset, octets, 2 + charset_octets + 3 + content_octets + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_decoded_and_joined() {
        let cases = [
            ("plain", "plain"),
            ("=?utf-8?q?J=C3=B6rg_M?= <j@x>", "Jörg M <j@x>"),
            ("=?UTF-8?B?w7Y=?=\r\n =?utf-8?Q?=C3=B6?= x", "öö x"),
            ("=?utf-8?q?=C3?= =?utf-8?q?=B6?=", "ö"),
            ("a =?iso-8859-1*de?q?=F6?= b", "a ö b"),
            ("=?iso-2022-jp?B?GyRCJCIbKEI=?=", "あ"),
            ("=?x?z?a?= =?", "=?x?z?a?= =?"),
            ("=?utf-8?q?a b?=", "a b"),
        ];
        for (raw, want) in cases {
            assert_eq!(header_text(raw.as_bytes()), want, "{raw}");
        }
        assert_eq!(header_text(b"caf\xe9"), "café");
    }

    #[test]
    fn transfer_encodings_are_lenient() {
        assert_eq!(base64_decode(b"YWJj\r\nZA==ZQ=="), b"abcde");
        assert_eq!(base64_decode(b"YW*Jj!ZA"), b"abcd");
        assert_eq!(base64_decode(b"===A"), b"");
        assert_eq!(quoted_printable_decode(b"a=3D=\r\nb=zz=C3=B6_=", false), "a=b=zzö_=".as_bytes());
    }
}
