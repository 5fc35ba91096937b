//! BODYSTRUCTURE and BODY (RFC 3501 section 7.4.2).

use super::envelope::envelope;
use super::respond::{nstring, number, string};
use super::section::{enclosed, is_multipart};
use crate::service::mailstore::summary::{Envelope, Part, RawText};

/// Deeper parts are described as if they had none; the summary is bounded too.
const DEPTH_MAX: usize = 100;

/// Writes the structure of `part`; with `extended` the extension data of BODYSTRUCTURE.
pub fn structure(out: &mut Vec<u8>, part: &Part, extended: bool) {
    write(out, part, extended, 0);
}

fn write(out: &mut Vec<u8>, part: &Part, extended: bool, depth: usize) {
    out.push(b'(');
    if is_multipart(part) {
        multipart(out, part, extended, depth);
    } else {
        single(out, part, extended, depth);
    }
    out.push(b')');
}

fn multipart(out: &mut Vec<u8>, part: &Part, extended: bool, depth: usize) {
    if part.parts.is_empty() || depth >= DEPTH_MAX {
        // The grammar asks for one part at least.
        out.extend_from_slice(b"(\"text\" \"plain\" NIL NIL NIL \"7bit\" 0 0)");
    } else {
        for child in &part.parts {
            write(out, child, extended, depth + 1);
        }
    }
    out.push(b' ');
    string(out, &part.subtype);
    if extended {
        out.push(b' ');
        parameters(out, &part.parameters);
        extension(out, part);
    }
}

fn single(out: &mut Vec<u8>, part: &Part, extended: bool, depth: usize) {
    let inner = enclosed(part).filter(|_| depth < DEPTH_MAX);
    let is_rfc822 =
        part.media_type.eq_ignore_ascii_case(b"message") && part.subtype.eq_ignore_ascii_case(b"rfc822");
    if is_rfc822 && inner.is_none() {
        // One that could not be read as a message has no envelope to tell (an encoded one, or too deep).
        out.extend_from_slice(b"\"application\" \"octet-stream\"");
    } else {
        string(out, &part.media_type);
        out.push(b' ');
        string(out, &part.subtype);
    }
    out.push(b' ');
    parameters(out, &part.parameters);
    out.push(b' ');
    nstring(out, part.id.as_deref());
    out.push(b' ');
    nstring(out, part.description.as_deref());
    out.push(b' ');
    string(out, if part.encoding.is_empty() { b"7bit" } else { &part.encoding });
    out.push(b' ');
    number(out, u64::from(part.body_end.saturating_sub(part.body_start)));
    if let Some(inner) = inner {
        out.push(b' ');
        let empty = Envelope::default();
        envelope(out, inner.envelope.as_deref().unwrap_or(&empty));
        out.push(b' ');
        write(out, inner, extended, depth + 1);
        out.push(b' ');
        number(out, u64::from(part.lines));
    } else if part.media_type.eq_ignore_ascii_case(b"text") {
        out.push(b' ');
        number(out, u64::from(part.lines));
    }
    if extended {
        out.push(b' ');
        nstring(out, part.md5.as_deref());
        extension(out, part);
    }
}

/// Disposition, language and location.
fn extension(out: &mut Vec<u8>, part: &Part) {
    out.push(b' ');
    match &part.disposition {
        Some((kind, list)) => {
            out.push(b'(');
            string(out, kind);
            out.push(b' ');
            parameters(out, list);
            out.push(b')');
        }
        None => out.extend_from_slice(b"NIL"),
    }
    out.push(b' ');
    match part.language.as_slice() {
        [] => out.extend_from_slice(b"NIL"),
        [language] => string(out, language),
        languages => {
            out.push(b'(');
            for (index, language) in languages.iter().enumerate() {
                if index > 0 {
                    out.push(b' ');
                }
                string(out, language);
            }
            out.push(b')');
        }
    }
    out.push(b' ');
    nstring(out, part.location.as_deref());
}

fn parameters(out: &mut Vec<u8>, list: &[(RawText, RawText)]) {
    if list.is_empty() {
        out.extend_from_slice(b"NIL");
        return;
    }
    out.push(b'(');
    for (index, (name, value)) in list.iter().enumerate() {
        if index > 0 {
            out.push(b' ');
        }
        string(out, name);
        out.push(b' ');
        string(out, value);
    }
    out.push(b')');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::mailstore::summary::summarize;

    fn written(message: &str, extended: bool) -> String {
        let mut out = Vec::new();
        structure(&mut out, &summarize(message.as_bytes()).root, extended);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn example_of_rfc_3501() {
        // RFC 3501 section 7.4.2: a text of 3028 octets and 92 lines.
        let text = format!("{}\r\n", "x".repeat(30)).repeat(91) + &"y".repeat(114) + "\r\n";
        let message =
            format!("MIME-Version: 1.0\r\nContent-Type: TEXT/PLAIN; CHARSET=US-ASCII\r\n\r\n{text}");
        assert_eq!(
            written(&message, false),
            r#"("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7bit" 3028 92)"#
        );
        assert_eq!(
            written(&message, true),
            r#"("TEXT" "PLAIN" ("CHARSET" "US-ASCII") NIL NIL "7bit" 3028 92 NIL NIL NIL NIL)"#
        );
    }

    #[test]
    fn multiparts_and_enclosed_messages() {
        let message = "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n\
            Content-Type: application/pdf; name=\"a b.pdf\"\r\nContent-Transfer-Encoding: base64\r\n\
            Content-Disposition: attachment; filename=x.pdf\r\nContent-Language: de, en\r\n\r\nAAAA\r\n--b\r\n\
            Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\ntwo\r\n--b--\r\n";
        let short = written(message, false);
        assert!(short.ends_with(" \"mixed\")"), "{short}");
        assert!(short.contains(r#"("application" "pdf" ("name" "a b.pdf") NIL NIL "base64" 4)"#), "{short}");
        assert!(short.contains(r#"("message" "rfc822" NIL NIL NIL "7bit" 18 (NIL "in" NIL NIL"#), "{short}");
        let long = written(message, true);
        assert!(
            long.contains(r#""base64" 4 NIL ("attachment" ("filename" "x.pdf")) ("de" "en") NIL)"#),
            "{long}"
        );
        assert!(long.ends_with(r#" "mixed" ("boundary" "b") NIL NIL NIL)"#), "{long}");
    }

    #[test]
    fn what_has_no_parts_is_still_well_formed() {
        let empty = Part { media_type: b"multipart".to_vec(), subtype: b"mixed".to_vec(), ..Part::default() };
        let mut out = Vec::new();
        structure(&mut out, &empty, false);
        assert_eq!(out, br#"(("text" "plain" NIL NIL NIL "7bit" 0 0) "mixed")"#);
        let bare = Part { media_type: b"message".to_vec(), subtype: b"rfc822".to_vec(), ..Part::default() };
        out.clear();
        structure(&mut out, &bare, false);
        assert_eq!(out, br#"("application" "octet-stream" NIL NIL NIL "7bit" 0)"#);
    }

    #[test]
    fn depth_is_bounded() {
        let mut part = Part::default();
        for _ in 0..5_000 {
            part = Part {
                media_type: b"multipart".to_vec(),
                subtype: b"mixed".to_vec(),
                parts: vec![part],
                ..Part::default()
            };
        }
        let mut out = Vec::new();
        structure(&mut out, &part, true);
        assert!(out.len() < 100_000);
        // Taken apart level by level: dropping it whole would be as deep as it is.
        while let Some(inner) = part.parts.pop() {
            part = inner;
        }
    }

    proptest::proptest! {
        #[test]
        fn parentheses_always_balance(
            message in "(Content-Type: (message/rfc822|multipart/mixed; boundary=b|text/x; a=\"\\)\\(\")\r\n\
                |\r\n|--b\r\n|x){0,16}",
        ) {
            let text = written(&message, true);
            let mut depth = 0_i32;
            let mut quoted = false;
            for character in text.chars() {
                match character {
                    '"' => quoted = !quoted,
                    '(' if !quoted => depth += 1,
                    ')' if !quoted => depth -= 1,
                    _ => {}
                }
                proptest::prop_assert!(depth >= 0);
            }
            proptest::prop_assert_eq!(depth, 0);
        }
    }
}
