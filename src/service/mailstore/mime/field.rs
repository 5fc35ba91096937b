//! Header fields as they stand: names and raw values, folded lines kept (RFC 5322 section 2.2).

use std::borrow::Cow;

/// One header field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Its name without white space before the colon; a line without a colon is all name.
    pub name: &'a [u8],
    /// Its value without leading white space and final line end; folds are still in it.
    pub value: &'a [u8],
}

impl Field<'_> {
    /// Whether this is the field `name`, whatever the case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The fields of a header, in order; stops at the blank line.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Fields of `header`, with or without its blank line.
    pub fn new(header: &'a [u8]) -> Self {
        Self { rest: header }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let first = self.rest.split_at(line_octets(self.rest)).0;
        if without_line_end(first).is_empty() {
            self.rest = &[];
            return None;
        }
        let mut octets = first.len();
        // A line that starts with white space continues the field, even if nothing else is on it.
        while let Some(rest) = self.rest.get(octets..)
            && matches!(rest.first(), Some(b' ' | b'\t'))
        {
            octets += line_octets(rest);
        }
        let (field, rest) = self.rest.split_at(octets.min(self.rest.len()));
        self.rest = rest;
        let field = without_line_end(field);
        let first = without_line_end(first);
        let colon = memchr::memchr(b':', first).unwrap_or(first.len());
        let (name, value) = field.split_at(colon.min(field.len()));
        let value = value.strip_prefix(b":").unwrap_or(value);
        Some(Field { name: trim_end(name), value: trim_start(value) })
    }
}

/// Length of the first line with its line end.
pub fn line_octets(octets: &[u8]) -> usize {
    memchr::memchr(b'\n', octets).map_or(octets.len(), |at| at + 1)
}

/// A line without its final LF or CRLF.
pub fn without_line_end(line: &[u8]) -> &[u8] {
    match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    }
}

const fn is_white(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t')
}

fn trim_start(octets: &[u8]) -> &[u8] {
    let start = octets.iter().position(|octet| !is_white(*octet)).unwrap_or(octets.len());
    octets.get(start..).unwrap_or_default()
}

fn trim_end(octets: &[u8]) -> &[u8] {
    let end = octets.iter().rposition(|octet| !is_white(*octet)).map_or(0, |at| at + 1);
    octets.get(..end).unwrap_or_default()
}

/// Removes the line ends of folding (RFC 5322 section 2.2.3); the white space after them stays.
pub fn unfold(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\n', value).is_none() {
        return Cow::Borrowed(value);
    }
    let mut unfolded = Vec::with_capacity(value.len());
    for line in value.split_inclusive(|octet| *octet == b'\n') {
        unfolded.extend_from_slice(without_line_end(line));
    }
    Cow::Owned(unfolded)
}

/// Length of the header that `octets` starts with, its blank line included; all of it when there is none.
pub fn header_octets(octets: &[u8]) -> usize {
    let mut at = 0;
    while let Some(rest) = octets.get(at..)
        && !rest.is_empty()
    {
        let line = line_octets(rest);
        at += line;
        if without_line_end(rest.split_at(line).0).is_empty() {
            break;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(header: &str) -> Vec<(String, String)> {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        Fields::new(header.as_bytes()).map(|field| (text(field.name), text(&unfold(field.value)))).collect()
    }

    #[test]
    fn fields_are_split_and_unfolded() {
        let got = fields("A : 1\r\nFrom x\r\nB:\r\n 2:3\r\n\t4\r\n \r\nC:5\n\nD: 6\r\n");
        let want = [("A", "1"), ("From x", ""), ("B", " 2:3\t4 "), ("C", "5")];
        assert_eq!(got, want.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(fields("\r\nA: 1\r\n"), []);
        assert_eq!(fields("A: 1"), [("A".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn header_ends_after_the_blank_line() {
        assert_eq!(header_octets(b"A: 1\r\n\r\nbody"), 8);
        assert_eq!(header_octets(b"\nbody"), 1);
        assert_eq!(header_octets(b"A: 1\r\n"), 6);
        assert_eq!(header_octets(b""), 0);
    }
}
