//! The words of structured header fields: comments, atoms, tokens, quoted strings (RFC 5322 section 3.2, RFC 2045
//! section 5.1) and parameters with their continuations (RFC 2231 section 3).

use super::field::without_line_end;

/// Most parameters read of one field; real mail has fewer than ten.
const PARAMETERS_MAX: usize = 100;

/// A parameter's name and value.
pub type Parameter = (Vec<u8>, Vec<u8>);

/// Reads a structured field value from its start.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    rest: &'a [u8],
    /// Content of the comment skipped last; a name in old-style addresses.
    pub comment: Option<Vec<u8>>,
}

/// A character of an atom (RFC 5322 section 3.2.3); octets above 127 are taken as RFC 6532 says, and as raw mail
/// in old charsets has them.
pub const fn is_atom(octet: u8) -> bool {
    octet >= 0x80
        || octet.is_ascii_alphanumeric()
        || matches!(
            octet,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
        )
}

/// A character of a MIME token (RFC 2045 section 5.1).
const fn is_token(octet: u8) -> bool {
    octet == b'.' || (is_atom(octet) && !matches!(octet, b'/' | b'?' | b'='))
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `value`.
    pub fn new(value: &'a [u8]) -> Self {
        Self { rest: value, comment: None }
    }

    /// The next octet, left where it is.
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Skips `octets` octets.
    pub fn advance(&mut self, octets: usize) {
        self.rest = self.rest.get(octets..).unwrap_or_default();
    }

    /// Skips the next octet if it is `octet`.
    pub fn accept(&mut self, octet: u8) -> bool {
        let found = self.peek() == Some(octet);
        if found {
            self.advance(1);
        }
        found
    }

    /// Skips white space, line ends and comments. A comment that is never closed takes all the rest.
    pub fn skip_white(&mut self) {
        while let Some(octet) = self.peek() {
            match octet {
                b' ' | b'\t' | b'\r' | b'\n' => self.advance(1),
                b'(' => self.skip_comment(),
                _ => break,
            }
        }
    }

    fn skip_comment(&mut self) {
        let mut text = Vec::new();
        let mut depth = 0_usize;
        let mut quoted = false;
        let mut read = 0;
        for octet in self.rest {
            read += 1;
            match (quoted, octet) {
                (false, b'\\') => {
                    quoted = true;
                    continue;
                }
                (false, b'(') => {
                    depth += 1;
                    if depth > 1 {
                        text.push(b'(');
                    }
                }
                (false, b')') => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                    text.push(b')');
                }
                (_, b'\r' | b'\n') => {}
                _ => text.push(*octet),
            }
            quoted = false;
        }
        self.advance(read);
        self.comment = Some(text);
    }

    /// The longest run of octets that satisfy `wanted`.
    pub fn run(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let octets = self.rest.iter().position(|octet| !wanted(*octet)).unwrap_or(self.rest.len());
        let (run, rest) = self.rest.split_at(octets);
        self.rest = rest;
        run
    }

    /// A MIME token, possibly empty, and the white space after it.
    pub fn token(&mut self) -> &'a [u8] {
        let token = self.run(is_token);
        self.skip_white();
        token
    }

    /// Appends the content of the quoted string that starts here to `text` and skips white space after it. False
    /// when its end is missing: then nothing is read.
    pub fn quoted(&mut self, text: &mut Vec<u8>) -> bool {
        let length_before = text.len();
        let mut escaped = false;
        for (at, octet) in self.rest.iter().enumerate().skip(1) {
            match (escaped, octet) {
                (false, b'\\') => {
                    escaped = true;
                    continue;
                }
                (false, b'"') => {
                    self.advance(at + 1);
                    self.skip_white();
                    return true;
                }
                (_, b'\n') => {
                    let kept = without_line_end_of(text, length_before);
                    text.truncate(kept);
                }
                _ => text.push(*octet),
            }
            escaped = false;
        }
        text.truncate(length_before);
        false
    }

    /// The parameters that follow, continuations joined (RFC 2231 section 3): `name*0`, `name*1` become `name`, or
    /// `name*` if a piece has the extended syntax. What cannot be read is skipped up to the next semicolon.
    pub fn parameters(&mut self) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        while self.peek().is_some() && parameters.len() < PARAMETERS_MAX {
            if !self.accept(b';') {
                self.advance(1);
                continue;
            }
            self.skip_white();
            let name = self.token();
            if name.is_empty() || !self.accept(b'=') {
                continue;
            }
            self.skip_white();
            parameters.push((name.to_vec(), self.parameter_value()));
        }
        join_continuations(parameters)
    }

    fn parameter_value(&mut self) -> Vec<u8> {
        match self.peek() {
            Some(b'"') => {
                let mut value = Vec::new();
                if !self.quoted(&mut value) {
                    // The closing quote is missing: what stands to the end of the parameter is better than nothing.
                    self.advance(1);
                    value = self.run(|octet| !matches!(octet, b';' | b'\r' | b'\n')).to_vec();
                }
                value
            }
            // Not legal, but common: an encoded word without quotes.
            Some(b'=') => self.run(|octet| !matches!(octet, b';' | b' ' | b'\t' | b'\r' | b'\n')).to_vec(),
            _ => self.token().to_vec(),
        }
    }
}

/// `text` ends with the octets before an LF: its length without a CR there.
fn without_line_end_of(text: &[u8], length_min: usize) -> usize {
    let tail = text.get(length_min..).unwrap_or_default();
    length_min + tail.strip_suffix(b"\r").unwrap_or(tail).len()
}

/// A parameter name split into base, index of the continuation, and whether the value is extended.
fn continuation(name: &[u8]) -> Option<(&[u8], usize, bool)> {
    let star = memchr::memchr(b'*', name)?;
    let (base, index) = name.split_at(star);
    let index = index.strip_prefix(b"*")?;
    let (index, extended) = index.strip_suffix(b"*").map_or((index, false), |index| (index, true));
    let number = std::str::from_utf8(index).ok()?.parse().ok()?;
    Some((base, number, extended))
}

fn join_continuations(parameters: Vec<Parameter>) -> Vec<Parameter> {
    if !parameters.iter().any(|(name, _)| continuation(name).is_some()) {
        return parameters;
    }
    let mut joined: Vec<Parameter> = Vec::with_capacity(parameters.len());
    let mut done: Vec<&[u8]> = Vec::new();
    for (name, value) in &parameters {
        let Some((base, ..)) = continuation(name) else {
            joined.push((name.clone(), value.clone()));
            continue;
        };
        if done.iter().any(|known| known.eq_ignore_ascii_case(base)) {
            continue;
        }
        let mut pieces: Vec<(usize, bool, &Parameter)> = parameters
            .iter()
            .filter_map(|parameter| {
                let (other, index, extended) = continuation(&parameter.0)?;
                other.eq_ignore_ascii_case(base).then_some((index, extended, parameter))
            })
            .collect();
        pieces.sort_by_key(|(index, ..)| *index);
        if pieces.iter().enumerate().all(|(at, (index, ..))| at == *index) {
            joined.push(join_pieces(base, &pieces));
        } else {
            joined.extend(pieces.iter().map(|(.., piece)| (*piece).clone()));
        }
        done.push(base);
    }
    joined
}

fn join_pieces(base: &[u8], pieces: &[(usize, bool, &Parameter)]) -> Parameter {
    let any_extended = pieces.iter().any(|(_, extended, _)| *extended);
    let mut name = base.to_vec();
    let mut value = Vec::new();
    if any_extended {
        name.push(b'*');
        if let Some((_, false, _)) = pieces.first() {
            value.extend_from_slice(b"''");
        }
    }
    for (_, extended, (_, piece)) in pieces {
        for octet in piece {
            // A plain piece between extended ones: its percent signs are meant literally.
            if any_extended && !extended && *octet == b'%' {
                value.extend_from_slice(b"%25");
            } else {
                value.push(*octet);
            }
        }
    }
    (name, value)
}

/// The main word of a field such as Content-Disposition, and its parameters.
pub fn word_and_parameters(value: &[u8]) -> Option<(Vec<u8>, Vec<Parameter>)> {
    let mut lexer = Lexer::new(value);
    lexer.skip_white();
    let word = lexer.token().to_vec();
    (!word.is_empty()).then(|| (word, lexer.parameters()))
}

/// A media type: type, subtype, parameters; nothing when the field is not understood (RFC 2045 section 5.2).
pub fn media_type(value: &[u8]) -> Option<(Vec<u8>, Vec<u8>, Vec<Parameter>)> {
    let mut lexer = Lexer::new(without_line_end(value));
    lexer.skip_white();
    let media_type = lexer.token().to_vec();
    if media_type.is_empty() || !lexer.accept(b'/') {
        return None;
    }
    lexer.skip_white();
    let subtype = lexer.token().to_vec();
    (!subtype.is_empty()).then(|| (media_type, subtype, lexer.parameters()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(parameters: &[Parameter]) -> String {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        parameters.iter().map(|(name, value)| format!("{}={};", text(name), text(value))).collect()
    }

    #[test]
    fn media_types_are_read_as_written() {
        let (kind, subtype, parameters) =
            media_type(b"(a) Text / (b (c\\)) ) HTML ; charset=\"ut\\f-8\";\r\n\tname==?utf-8?q?a?=; x")
                .unwrap();
        assert_eq!((kind.as_slice(), subtype.as_slice()), (&b"Text"[..], &b"HTML"[..]));
        assert_eq!(shown(&parameters), "charset=utf-8;name==?utf-8?q?a?=;");
        assert_eq!(media_type(b"text"), None);
        assert_eq!(media_type(b"/plain"), None);
        assert_eq!(media_type(b""), None);
    }

    #[test]
    fn continuations_are_joined_in_order() {
        let parameters = |text: &[u8]| shown(&Lexer::new(text).parameters());
        assert_eq!(parameters(b"; a*1=Y; b=2; a*0=X"), "a=XY;b=2;");
        assert_eq!(parameters(b"; a*0*=utf-8''%e2; a*1=50%"), "a*=utf-8''%e250%25;");
        assert_eq!(parameters(b"; a*0=50%; a*1*=%e2"), "a*=''50%25%e2;");
        assert_eq!(parameters(b"; a*0=x; a*2=z"), "a*0=x;a*2=z;");
        assert_eq!(parameters(b"; a*=utf-8''x"), "a*=utf-8''x;");
    }

    #[test]
    fn broken_parameters_do_not_hide_later_ones() {
        let parameters = |text: &[u8]| shown(&Lexer::new(text).parameters());
        assert_eq!(parameters(b"; =x; a=1;;b=2"), "a=1;b=2;");
        assert_eq!(parameters(b"; a=\"never closed; b=2"), "a=never closed;b=2;");
        assert_eq!(parameters(b"; a; b = 2"), "b=2;");
    }
}
