//! The tree of MIME parts of a message (RFC 2046 section 5), found in one pass over its octets.
//!
//! Invariants
//! - Each octet is looked at a bounded number of times, however the parts are nested.
//! - At most [`DEPTH_MAX`] levels and [`PARTS_MAX`] parts; what would go beyond is described as one opaque part.
//! - A multipart has at least one part: an empty text stands for none, since BODYSTRUCTURE cannot tell none.

use super::super::summary::{Envelope, EnvelopeAddress, Part, RawText};
use super::address::address_list;
use super::field::{Field, Fields, header_octets, line_octets, unfold, without_line_end};
use super::token::{Lexer, Parameter, is_atom, media_type, word_and_parameters};

/// Most levels of multiparts and enclosed messages in each other.
pub const DEPTH_MAX: usize = 100;
/// Most parts of one message.
pub const PARTS_MAX: usize = 1_000;

/// Parses `body` and returns its root part.
pub fn parse(body: &[u8]) -> Part {
    // Offsets have 32 bits; a message is far smaller than that.
    let body = body.get(..u32::MAX as usize).unwrap_or(body);
    Scanner { body, at: 0, lines: 0, open: Vec::new(), parts: 0 }.run()
}

/// The fields of the root part, from the header of a message.
pub fn describe_root(header: &[u8]) -> Part {
    describe(header, None).0
}

/// A part whose end has not been found yet.
struct Open {
    part: Part,
    /// Delimits its parts until the closing delimiter has been seen.
    boundary: Option<Vec<u8>>,
    kind: Kind,
    /// Lines of the body before its content.
    lines_before: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Leaf,
    Multipart,
    Digest,
    Message,
}

struct Scanner<'a> {
    body: &'a [u8],
    /// First octet that has not been looked at.
    at: usize,
    /// Line feeds before `at`.
    lines: u32,
    /// The part being read and those around it, the root first.
    open: Vec<Open>,
    parts: usize,
}

/// A delimiter line (RFC 2046 section 5.1.1).
struct Delimiter {
    /// Index of the multipart in the stack.
    index: usize,
    closing: bool,
}

impl Scanner<'_> {
    fn run(mut self) -> Part {
        self.open_parts();
        while let Some((line_start, delimiter)) = self.next_delimiter() {
            self.close_above(delimiter.index, Some(line_start));
            if delimiter.closing
                && let Some(multipart) = self.open.last_mut()
            {
                multipart.boundary = None;
            }
            let line_ends = self.skip_line();
            // A delimiter that the message ends with opens nothing.
            if !delimiter.closing && line_ends && self.parts < PARTS_MAX {
                self.open_parts();
            }
        }
        self.close_above(0, None);
        self.open.pop().map(|root| finish(root, self.at, self.lines, None, self.body)).unwrap_or_default()
    }

    /// Reads the header of a part that starts here, and of the messages that it encloses.
    fn open_parts(&mut self) {
        loop {
            let header_start = self.at;
            let (body_start, cut_off) = self.skip_header();
            let header = self.body.get(header_start..body_start).unwrap_or_default();
            let (mut part, kind, boundary) = describe(header, self.open.last().map(|open| open.kind));
            part.header_start = offset(header_start);
            part.body_start = offset(body_start);
            let kind = self.bounded(&mut part, kind);
            let lines_before = self.lines - u32::from(self.at > body_start);
            // Of a multipart whose header a delimiter cuts off no delimiter can follow.
            let boundary = boundary.filter(|_| kind != Kind::Leaf && !cut_off);
            self.parts += 1;
            self.open.push(Open { part, boundary, kind, lines_before });
            if kind != Kind::Message {
                return;
            }
            if self.at > body_start {
                // The line end before the delimiter is neither in the header nor in the message that follows it.
                self.enclose_nothing();
                return;
            }
        }
    }

    /// A message whose header was cut off by a delimiter still encloses one, of no octets.
    fn enclose_nothing(&mut self) {
        if let Some(open) = self.open.last_mut() {
            let (mut part, ..) = describe(b"", Some(Kind::Message));
            part.header_start = open.part.body_start;
            part.body_start = open.part.body_start;
            part.body_end = open.part.body_start;
            open.part.parts.push(part);
            self.parts += 1;
        }
    }

    /// A part that would exceed the bounds becomes opaque.
    fn bounded(&self, part: &mut Part, kind: Kind) -> Kind {
        if kind == Kind::Leaf || (self.open.len() < DEPTH_MAX && self.parts + 1 < PARTS_MAX) {
            return kind;
        }
        part.media_type = b"application".to_vec();
        part.subtype = b"octet-stream".to_vec();
        part.envelope = None;
        Kind::Leaf
    }

    /// Moves past the header that starts here; returns where it ends and whether a delimiter line cut it off. Then
    /// the line end before the delimiter belongs to the delimiter, and `at` is at the delimiter.
    fn skip_header(&mut self) -> (usize, bool) {
        let start = self.at;
        if self.open.iter().all(|open| open.boundary.is_none()) {
            let octets = header_octets(self.body.get(start..).unwrap_or_default());
            self.advance(octets);
            return (self.at, false);
        }
        loop {
            let rest = self.body.get(self.at..).unwrap_or_default();
            let line = rest.split_at(line_octets(rest)).0;
            if self.delimiter(line).is_some() {
                return (before_line_end(self.body, start, self.at), true);
            }
            self.at += line.len();
            self.lines += u32::from(line.ends_with(b"\n"));
            if without_line_end(line).is_empty() {
                return (self.at, false);
            }
        }
    }

    fn advance(&mut self, octets: usize) {
        let passed = self.body.get(self.at..self.at + octets).unwrap_or_default();
        self.lines += count_lines(passed);
        self.at += octets;
    }

    /// Moves past this line; whether it had an end.
    fn skip_line(&mut self) -> bool {
        let rest = self.body.get(self.at..).unwrap_or_default();
        let line = rest.split_at(line_octets(rest)).0;
        self.advance(line.len());
        line.ends_with(b"\n")
    }

    /// Moves to the next delimiter line and returns where it starts; at the end of the body, nothing.
    fn next_delimiter(&mut self) -> Option<(usize, Delimiter)> {
        if self.open.iter().all(|open| open.boundary.is_none()) {
            self.advance(self.body.len() - self.at);
            return None;
        }
        loop {
            let rest = self.body.get(self.at..)?;
            if rest.is_empty() {
                return None;
            }
            let octets = line_octets(rest);
            if rest.starts_with(b"--")
                && let Some(delimiter) = self.delimiter(rest.split_at(octets).0)
            {
                return Some((self.at, delimiter));
            }
            self.at += octets;
            self.lines += u32::from(rest.get(octets - 1) == Some(&b'\n'));
        }
    }

    /// The multipart that `line` delimits: the one with the longest boundary that the line starts with, since
    /// boundaries may be prefixes of each other; of equal ones the innermost.
    fn delimiter(&self, line: &[u8]) -> Option<Delimiter> {
        let text = line.strip_prefix(b"--")?;
        let (index, length) = self
            .open
            .iter()
            .enumerate()
            .filter_map(|(index, open)| {
                let boundary = open.boundary.as_deref()?;
                text.starts_with(boundary).then_some((index, boundary.len()))
            })
            .max_by_key(|(index, length)| (*length, *index))?;
        let closing = text.get(length..).is_some_and(|rest| rest.starts_with(b"--"));
        Some(Delimiter { index, closing })
    }

    /// Ends all parts inside the one at `index`, at the delimiter that starts at `line_start` or here.
    fn close_above(&mut self, index: usize, line_start: Option<usize>) {
        while self.open.len() > index + 1 {
            let Some(open) = self.open.pop() else { return };
            let part = finish(open, self.at, self.lines, line_start, self.body);
            if let Some(parent) = self.open.last_mut() {
                parent.part.parts.push(part);
            }
        }
    }
}

/// Sets the end of a part. The line end before a delimiter belongs to the delimiter.
fn finish(open: Open, at: usize, lines: u32, line_start: Option<usize>, body: &[u8]) -> Part {
    let mut part = open.part;
    // The line end before it may belong to the header of a part without content, though.
    let start = part.parts.last().map_or(part.body_start, |last| last.body_end) as usize;
    let end = line_start.map_or(at, |line_start| before_line_end(body, start, line_start));
    part.body_end = offset(end);
    part.lines = lines.saturating_sub(open.lines_before).saturating_sub(u32::from(end < at));
    if part.parts.is_empty() && matches!(open.kind, Kind::Multipart | Kind::Digest) {
        let (mut empty, ..) = describe(b"", None);
        empty.header_start = part.body_end;
        empty.body_start = part.body_end;
        empty.body_end = part.body_end;
        part.parts.push(empty);
    }
    part
}

/// `line_start` without the line end before it, but not before `start`.
fn before_line_end(body: &[u8], start: usize, line_start: usize) -> usize {
    let before = body.get(start..line_start).unwrap_or_default();
    start + without_line_end(before).len()
}

#[allow(clippy::naive_bytecount, reason = "the compiler vectorizes it; a crate for this would not be faster")]
fn count_lines(octets: &[u8]) -> u32 {
    offset(octets.iter().filter(|octet| **octet == b'\n').count())
}

fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// What the header of a part says: its fields, what it holds, and the boundary of a multipart.
fn describe(header: &[u8], parent: Option<Kind>) -> (Part, Kind, Option<Vec<u8>>) {
    let mut part = Part::default();
    let mut content_type = None;
    // The parts of a multipart are MIME by definition, messages only if they say so (RFC 2045 section 4).
    let mut is_mime = matches!(parent, Some(Kind::Multipart | Kind::Digest));
    let mut envelope = EnvelopeFields::default();
    for field in Fields::new(header) {
        if let Some(name) =
            field.name.split_at_checked(8).filter(|(start, _)| start.eq_ignore_ascii_case(b"content-"))
        {
            is_mime |= name.1.eq_ignore_ascii_case(b"type");
            content_field(&mut part, &mut content_type, name.1, &field);
        } else if field.is("mime-version") {
            is_mime = true;
        }
        if parent == Some(Kind::Message) {
            envelope.take(&field);
        }
    }
    if !is_mime {
        part = Part::default();
        content_type = None;
    }
    if parent == Some(Kind::Message) {
        part.envelope = Some(Box::new(envelope.finish()));
    }
    let understood = content_type.as_ref().and_then(|value| media_type(value));
    let (kind, boundary) = match understood {
        Some((kind, subtype, parameters)) => set_media_type(&mut part, kind, subtype, parameters),
        None if content_type.is_none() && parent == Some(Kind::Digest) => {
            set_media_type(&mut part, b"message".to_vec(), b"rfc822".to_vec(), Vec::new())
        }
        None => set_media_type(&mut part, b"text".to_vec(), b"plain".to_vec(), Vec::new()),
    };
    if part.encoding.is_empty() {
        part.encoding = b"7bit".to_vec();
    }
    (part, kind, boundary)
}

fn set_media_type(
    part: &mut Part,
    media_type: RawText,
    subtype: RawText,
    parameters: Vec<Parameter>,
) -> (Kind, Option<Vec<u8>>) {
    part.media_type = media_type;
    part.subtype = subtype;
    part.parameters = parameters;
    if part.media_type.eq_ignore_ascii_case(b"text") && part.parameter(b"charset").is_none() {
        // RFC 2045 section 5.2.
        part.parameters.push((b"charset".to_vec(), b"us-ascii".to_vec()));
    }
    if part.media_type.eq_ignore_ascii_case(b"multipart") {
        let boundary = part.parameter(b"boundary").map(|boundary| boundary.trim_ascii_end().to_vec());
        let kind = if part.subtype.eq_ignore_ascii_case(b"digest") { Kind::Digest } else { Kind::Multipart };
        return (kind, boundary.filter(|boundary| !boundary.is_empty()));
    }
    if part.media_type.eq_ignore_ascii_case(b"message") && part.subtype.eq_ignore_ascii_case(b"rfc822") {
        return (Kind::Message, None);
    }
    (Kind::Leaf, None)
}

/// Takes a Content-… field, `name` being what follows the hyphen; the first of each name counts.
fn content_field(part: &mut Part, content_type: &mut Option<Vec<u8>>, name: &[u8], field: &Field<'_>) {
    let text = || Some(unfold(field.value).into_owned());
    match name.to_ascii_lowercase().as_slice() {
        b"type" if content_type.is_none() => *content_type = Some(field.value.to_vec()),
        b"transfer-encoding" if part.encoding.is_empty() => {
            let mut lexer = Lexer::new(field.value);
            lexer.skip_white();
            let encoding = lexer.token();
            if lexer.peek().is_none() || is_known_encoding(encoding) {
                part.encoding = encoding.to_vec();
            }
        }
        b"id" if part.id.is_none() => part.id = text(),
        b"description" if part.description.is_none() => part.description = text(),
        b"md5" if part.md5.is_none() => part.md5 = text(),
        b"location" if part.location.is_none() => part.location = text(),
        b"disposition" if part.disposition.is_none() => part.disposition = word_and_parameters(field.value),
        b"language" if part.language.is_empty() => part.language = languages(field.value),
        _ => {}
    }
}

/// With garbage behind it, an encoding counts only if it is one of RFC 2045 section 6.1.
fn is_known_encoding(encoding: &[u8]) -> bool {
    let known = ["7bit", "8bit", "binary", "quoted-printable", "base64"];
    known.iter().any(|name| encoding.eq_ignore_ascii_case(name.as_bytes()))
}

/// Language tags separated by commas (RFC 3282).
fn languages(value: &[u8]) -> Vec<RawText> {
    let mut lexer = Lexer::new(value);
    let mut languages = Vec::new();
    loop {
        lexer.skip_white();
        let tag = lexer.run(is_atom);
        if tag.is_empty() {
            return languages;
        }
        languages.push(tag.to_vec());
        lexer.skip_white();
        if !lexer.accept(b',') {
            return languages;
        }
    }
}

/// The envelope that a header gives (RFC 3501 section 7.4.2).
pub fn envelope(header: &[u8]) -> Envelope {
    let mut fields = EnvelopeFields::default();
    for field in Fields::new(header) {
        fields.take(&field);
    }
    fields.finish()
}

/// Collects the fields of an envelope. Address fields that occur several times count together, so that no address
/// is hidden; of texts the first counts.
#[derive(Default)]
struct EnvelopeFields(Envelope);

impl EnvelopeFields {
    fn take(&mut self, field: &Field<'_>) {
        let envelope = &mut self.0;
        // The length tells most other fields apart without a comparison.
        if !matches!(field.name.len(), 2..=4 | 6..=8 | 10 | 11) {
            return;
        }
        let text = |target: &mut Option<RawText>| {
            target.get_or_insert_with(|| unfold(field.value).into_owned());
        };
        let addresses = |target: &mut Vec<EnvelopeAddress>| target.append(&mut address_list(field.value));
        match field.name.to_ascii_lowercase().as_slice() {
            b"date" => text(&mut envelope.date),
            b"subject" => text(&mut envelope.subject),
            b"from" => addresses(&mut envelope.from),
            b"sender" => addresses(&mut envelope.sender),
            b"reply-to" => addresses(&mut envelope.reply_to),
            b"to" => addresses(&mut envelope.to),
            b"cc" => addresses(&mut envelope.cc),
            b"bcc" => addresses(&mut envelope.bcc),
            b"in-reply-to" => text(&mut envelope.in_reply_to),
            b"message-id" => text(&mut envelope.message_id),
            _ => {}
        }
    }

    fn finish(self) -> Envelope {
        let mut envelope = self.0;
        for field in [&mut envelope.sender, &mut envelope.reply_to] {
            if field.is_empty() {
                field.clone_from(&envelope.from);
            }
        }
        envelope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types of the tree with octets and lines: `multipart/mixed 120 9(text/plain 5 1, …)`.
    fn shown(part: &Part) -> String {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let parts: Vec<String> = part.parts.iter().map(shown).collect();
        let octets = part.body_end - part.body_start;
        let inner = if parts.is_empty() { String::new() } else { format!("({})", parts.join(", ")) };
        format!("{}/{} {octets} {}{inner}", text(&part.media_type), text(&part.subtype), part.lines)
    }

    fn tree(body: &str) -> String {
        shown(&parse(body.as_bytes()))
    }

    #[test]
    fn line_end_before_a_delimiter_belongs_to_it() {
        let body = "Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\n\r\none\r\n\r\n--b\r\n\
                    Content-Type: text/html\r\n\r\ntwo--b\r\n--b-- \r\nepilogue\r\n";
        assert_eq!(tree(body), "multipart/mixed 82 11(text/plain 5 1, text/html 6 0)");
    }

    #[test]
    fn empty_parts_and_cut_off_headers() {
        let start = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
        assert_eq!(tree(&format!("{start}--b\r\n--b\r\n\r\n--b\r\nA: 1\r\n--b--")), {
            "multipart/mixed 28 5(text/plain 0 0, text/plain 0 0, text/plain 0 0)"
        });
        assert_eq!(tree(&format!("{start}nothing")), "multipart/mixed 7 0(text/plain 0 0)");
        assert_eq!(tree(&format!("{start}--b")), "multipart/mixed 3 0(text/plain 0 0)");
        assert_eq!(tree(&format!("{start}--b--\r\n--b\r\nx")), "multipart/mixed 13 2(text/plain 0 0)");
        assert_eq!(tree("Content-Type: multipart/mixed\r\n\r\nx"), "multipart/mixed 1 0(text/plain 0 0)");
    }

    #[test]
    fn messages_are_read_into() {
        let digest = "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: x\nFrom: a@b\n\nbody\n\n--b\n\
                      Content-Type: message/rfc822\n--b--\n";
        assert_eq!(
            tree(digest),
            "multipart/digest 72 10(message/rfc822 27 4(text/plain 5 1), message/rfc822 0 0(text/plain 0 0))"
        );
        let root = parse(digest.as_bytes());
        let envelope = root.parts[0].parts[0].envelope.as_ref().unwrap();
        assert_eq!(envelope.subject.as_deref(), Some(&b"x"[..]));
        assert_eq!(envelope.reply_to, envelope.from);
    }

    #[test]
    fn inner_parts_end_with_the_outer_delimiter() {
        let body = "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=ab\n\n\
                    --ab\n\nx\n--a\n\ny\n--a--\n";
        assert_eq!(tree(body), "multipart/mixed 69 10(multipart/mixed 7 2(text/plain 1 0), text/plain 1 0)");
    }

    #[test]
    fn content_fields_need_mime_version_or_content_type() {
        let body = "Content-Transfer-Encoding: base64\r\n\r\n";
        assert_eq!(parse(body.as_bytes()).encoding, b"7bit");
        assert_eq!(parse(format!("MIME-Version: 1.0\r\n{body}").as_bytes()).encoding, b"base64");
    }

    #[test]
    fn depth_and_number_of_parts_are_bounded() {
        let deep: String =
            (0..300).map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}x\n\n--b{n}x\n")).collect();
        let root = parse(deep.as_bytes());
        let depth = std::iter::successors(Some(&root), |part| part.parts.first()).count();
        assert!((DEPTH_MAX..=DEPTH_MAX + 2).contains(&depth), "{depth}");
        let nested = "Content-Type: message/rfc822\n\n".repeat(300);
        assert!(
            std::iter::successors(Some(&parse(nested.as_bytes())), |part| part.parts.first()).count()
                <= DEPTH_MAX + 2
        );
        let wide = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(5_000));
        assert!(parse(wide.as_bytes()).parts.len() <= PARTS_MAX);
    }
}
