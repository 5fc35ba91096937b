//! The tree of MIME parts of a message (RFC 2046 section 5), found in one pass over its octets.
//!
//! Invariants
//! - Each octet is looked at a bounded number of times, however the parts are nested.
//! - At most [`DEPTH_MAX`] levels and [`PARTS_MAX`] parts; what would go beyond is described as one opaque part.
//! - A multipart has at least one part: an empty text stands for none, since BODYSTRUCTURE cannot tell none.

use super::super::summary::Part;
use super::content::{Kind, describe};
use super::field::{header_octets, line_octets, without_line_end};

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

/// A part whose end has not been found yet.
struct Open {
    part: Part,
    /// Delimits its parts until the closing delimiter has been seen.
    boundary: Option<Vec<u8>>,
    kind: Kind,
    /// Lines of the body before its content.
    lines_before: u32,
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
