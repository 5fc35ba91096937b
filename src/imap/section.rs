//! Which bytes of a message a section names (RFC 3501 section 6.4.5), from the offsets in its summary.
//!
//! Positions are octets of the whole message: trace lines first, then the body.

use std::ops::Range;

use bytes::Bytes;

use super::command::{Section, SectionText};
use crate::service::mailstore::summary::Part;
use crate::service::mailstore::view::MessageSummary;

/// Whether a section can be answered without the body: everything about the message's own header can, unless
/// that is too long to be kept in the summary.
pub fn needs_body(section: &Section, message: &MessageSummary) -> bool {
    let own_header = section.part.is_empty()
        && matches!(section.text, SectionText::Header | SectionText::HeaderFields { .. });
    !(own_header && message.summary.header.is_some())
}

/// The range of the section in a whole message of `octets`; for HEADER.FIELDS the range of the whole header.
/// Nothing if there is no such part.
pub fn range(section: &Section, message: &MessageSummary, octets: usize) -> Option<Range<usize>> {
    let prefix = message.prefix.len();
    let at = |start: u32, end: u32| {
        let end = prefix.saturating_add(end as usize).min(octets);
        prefix.saturating_add(start as usize).min(end)..end
    };
    let summary = &message.summary;
    if section.part.is_empty() {
        let header_end = at(0, summary.header_octets).end;
        return match section.text {
            SectionText::Whole => Some(0..octets),
            SectionText::Header | SectionText::HeaderFields { .. } => Some(0..header_end),
            SectionText::Text => Some(header_end..octets),
            SectionText::Mime => None,
        };
    }
    let part = find(&summary.root, &section.part)?;
    match section.text {
        SectionText::Whole => Some(at(part.body_start, part.body_end)),
        SectionText::Mime => Some(at(part.header_start, part.body_start)),
        // Only an enclosed message has a header and a text of its own.
        SectionText::Header | SectionText::HeaderFields { .. } => {
            let inner = enclosed(part)?;
            Some(at(inner.header_start, inner.body_start))
        }
        SectionText::Text => {
            let inner = enclosed(part)?;
            Some(at(inner.body_start, part.body_end))
        }
    }
}

/// The part that `numbers` name in the message whose root part is `root`.
fn find<'a>(root: &'a Part, numbers: &[u32]) -> Option<&'a Part> {
    let mut numbers = numbers.iter();
    let mut part = child_of_message(root, *numbers.next()?)?;
    for &number in numbers {
        part = if is_multipart(part) {
            child(part, number)?
        } else {
            child_of_message(enclosed(part)?, number)?
        };
    }
    Some(part)
}

/// Part `number` of a message: a message that is no multipart is its own part 1.
fn child_of_message(root: &Part, number: u32) -> Option<&Part> {
    if is_multipart(root) { child(root, number) } else { (number == 1).then_some(root) }
}

fn child(part: &Part, number: u32) -> Option<&Part> {
    part.parts.get(usize::try_from(number).ok()?.checked_sub(1)?)
}

/// Whether the part is a multipart.
pub fn is_multipart(part: &Part) -> bool {
    part.media_type.eq_ignore_ascii_case(b"multipart")
}

/// The root part of an enclosed message.
pub fn enclosed(part: &Part) -> Option<&Part> {
    let is_message =
        part.media_type.eq_ignore_ascii_case(b"message") && part.subtype.eq_ignore_ascii_case(b"rfc822");
    if is_message { part.parts.first() } else { None }
}

/// Appends the fields of `header` that are named (or, with `not`, those that are not), each with its
/// continuation lines, and the blank line if the header has one.
pub fn header_fields(out: &mut Vec<u8>, header: &[u8], names: &[Bytes], not: bool) {
    let mut wanted = false;
    let mut rest = header;
    while !rest.is_empty() {
        let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let Some((line, after)) = rest.split_at_checked(end) else { break };
        rest = after;
        match line.first() {
            Some(b' ' | b'\t') => {}
            Some(b'\r' | b'\n') if matches!(line, b"\r\n" | b"\n") => wanted = true,
            _ => {
                let colon = memchr::memchr(b':', line).unwrap_or(line.len());
                let name = line.get(..colon).unwrap_or_default().trim_ascii_end();
                wanted = names.iter().any(|candidate| candidate.eq_ignore_ascii_case(name)) != not;
            }
        }
        if wanted {
            out.extend_from_slice(line);
        }
    }
}

/// What a partial `<offset.count>` leaves of `range`.
pub fn partial(range: Range<usize>, partial: Option<(u32, u32)>) -> Range<usize> {
    let Some((offset, count)) = partial else { return range };
    let start = range.start.saturating_add(offset as usize).min(range.end);
    start..start.saturating_add(count as usize).min(range.end)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::clock::Timestamp;
    use crate::base::id::Uid;
    use crate::imap::command::{Command, FetchItem};
    use crate::service::mailstore::summary::summarize;

    const PREFIX: &str = "Return-Path: <a@b.example>\r\nReceived: x\r\n";
    const BODY: &str = "Subject: outer\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n\
        --b\r\nContent-Type: text/plain\r\n\r\none\r\n\
        --b\r\nContent-Type: message/rfc822\r\nX-Part: 2\r\n\r\nSubject: inner\r\nContent-Type: multipart/alternative; \
        boundary=c\r\n\r\n--c\r\n\r\ninner one\r\n--c\r\nContent-Type: text/html\r\n\r\n<p>\r\n--c--\r\n\
        --b\r\nContent-Type: message/rfc822\r\n\r\nSubject: plain\r\n\r\njust text\r\n--b--\r\n";

    fn message(prefix: &'static str, body: &str) -> MessageSummary {
        MessageSummary {
            uid: Uid(1),
            internal_date: Timestamp(0),
            prefix: Bytes::from_static(prefix.as_bytes()),
            summary: Arc::new(summarize(body.as_bytes())),
        }
    }

    fn section(text: &str) -> Section {
        let command = crate::imap::parse::parse(format!("a FETCH 1 BODY[{text}]").into()).unwrap().command;
        match command {
            Command::Fetch(mut fetch) => match fetch.items.pop() {
                Some(FetchItem::Section(item)) => item.section,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn cut(prefix: &'static str, body: &str, text: &str) -> Option<String> {
        let whole = format!("{prefix}{body}");
        let range = range(&section(text), &message(prefix, body), whole.len())?;
        Some(String::from_utf8_lossy(&whole.as_bytes()[range]).into_owned())
    }

    #[test]
    fn sections_of_a_nested_message() {
        let of = |text| cut(PREFIX, BODY, text);
        assert_eq!(of("").unwrap(), format!("{PREFIX}{BODY}"));
        let (header, text) = BODY.split_at(BODY.find("preamble").unwrap());
        assert_eq!(of("HEADER").unwrap(), format!("{PREFIX}{header}"));
        assert_eq!(of("TEXT").unwrap(), text);
        assert_eq!(of("1").unwrap(), "one");
        assert_eq!(of("1.MIME").unwrap(), "Content-Type: text/plain\r\n\r\n");
        assert_eq!(of("2.MIME").unwrap(), "Content-Type: message/rfc822\r\nX-Part: 2\r\n\r\n");
        assert!(of("2").unwrap().starts_with("Subject: inner\r\n"));
        assert!(of("2").unwrap().ends_with("--c--"));
        assert_eq!(
            of("2.HEADER").unwrap(),
            "Subject: inner\r\nContent-Type: multipart/alternative; boundary=c\r\n\r\n"
        );
        assert!(of("2.TEXT").unwrap().starts_with("--c\r\n"));
        assert_eq!(of("2.1").unwrap(), "inner one");
        assert_eq!(of("2.2").unwrap(), "<p>");
        assert_eq!(of("2.2.MIME").unwrap(), "Content-Type: text/html\r\n\r\n");
        assert_eq!(of("3.1").unwrap(), "just text");
        assert_eq!(of("3.TEXT").unwrap(), "just text");
        for none in ["4", "1.1", "2.3", "3.2", "1.HEADER", "1.TEXT", "2.1.1"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_message_that_is_no_multipart_is_its_own_part_1() {
        let body = "Subject: x\r\n\r\ntext\r\n";
        assert_eq!(cut("", body, "1").unwrap(), "text\r\n");
        assert_eq!(cut("", body, "TEXT").unwrap(), "text\r\n");
        assert_eq!(cut("", body, "1.MIME").unwrap(), "Subject: x\r\n\r\n");
        assert_eq!(cut("", body, "2"), None);
        assert_eq!(cut("", "", "").unwrap(), "");
        assert_eq!(
            cut("", "no header at all", "HEADER").unwrap().len()
                + cut("", "no header at all", "TEXT").unwrap().len(),
            16
        );
    }

    #[test]
    fn own_header_needs_no_body() {
        let message = message(PREFIX, BODY);
        for (text, want) in [
            ("HEADER", false),
            ("HEADER.FIELDS (A)", false),
            ("", true),
            ("TEXT", true),
            ("1", true),
            ("2.HEADER", true),
        ] {
            assert_eq!(needs_body(&section(text), &message), want, "{text}");
        }
        let long = format!("X: {}\r\n\r\n", "x".repeat(70_000));
        let message = self::message("", &long);
        assert!(needs_body(&section("HEADER"), &message));
    }

    #[test]
    fn header_fields_come_with_their_continuations_and_the_blank_line() {
        let header = b"From: a\r\nTo: b,\r\n c\r\nfrom : d\r\nbroken\r\nX-From: e\r\n\r\n";
        let of = |names: &[&'static str], not| {
            let names: Vec<Bytes> = names.iter().map(|name| Bytes::from_static(name.as_bytes())).collect();
            let mut out = Vec::new();
            header_fields(&mut out, header, &names, not);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(of(&["FROM"], false), "From: a\r\nfrom : d\r\n\r\n");
        assert_eq!(of(&["to", "x-from"], false), "To: b,\r\n c\r\nX-From: e\r\n\r\n");
        assert_eq!(of(&["from", "to"], true), "broken\r\nX-From: e\r\n\r\n");
        assert_eq!(of(&["none"], false), "\r\n");
        let mut out = Vec::new();
        header_fields(&mut out, b"A: b\nC: d\n\n", &[Bytes::from_static(b"c")], false);
        assert_eq!(out, b"C: d\n\n");
    }

    #[test]
    fn partials_stay_inside() {
        assert_eq!(partial(10..20, None), 10..20);
        assert_eq!(partial(10..20, Some((0, 5))), 10..15);
        assert_eq!(partial(10..20, Some((5, 100))), 15..20);
        assert_eq!(partial(10..20, Some((10, 1))), 20..20);
        assert_eq!(partial(10..20, Some((u32::MAX, u32::MAX))), 20..20);
    }

    proptest::proptest! {
        #[test]
        fn ranges_stay_inside_whatever_the_bytes(
            body in "(Content-Type: (message/rfc822|multipart/mixed; boundary=b)\r\n|\r\n|--b\r\n|--b--|x){0,12}",
            part in proptest::collection::vec(1_u32..4, 0..4),
            octets in 0_usize..200,
        ) {
            let message = message("P: q\r\n", &body);
            for text in [SectionText::Whole, SectionText::Header, SectionText::Text, SectionText::Mime] {
                if let Some(range) = range(&Section { part: part.clone(), text }, &message, octets) {
                    proptest::prop_assert!(range.start <= range.end && range.end <= octets);
                }
            }
        }
    }
}
