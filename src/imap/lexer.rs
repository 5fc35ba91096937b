//! The words of RFC 3501 section 9: atoms, strings, literals, numbers. Works on one complete command that
//! [`super::frame`] has collected, literals included, and never allocates more than it was given.

use bytes::Bytes;

/// Why a command could not be read; told to the client with `BAD`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyntaxError(pub String);

impl SyntaxError {
    /// An error that says what was expected.
    pub fn expected(what: &str) -> Self {
        Self(format!("expected {what}"))
    }
}

/// What lexer and parser return.
pub type Result<T> = std::result::Result<T, SyntaxError>;

/// A position in the bytes of one command.
#[derive(Clone, Debug)]
pub struct Lexer {
    bytes: Bytes,
    at: usize,
}

/// ATOM-CHAR: any CHAR except atom-specials, controls and 8-bit octets.
pub const fn is_atom_char(octet: u8) -> bool {
    !matches!(octet, 0..=0x20 | b'(' | b')' | b'{' | b'%' | b'*' | b'"' | b'\\' | b']' | 0x7f..=0xff)
}

/// ASTRING-CHAR: ATOM-CHAR or `]`.
pub const fn is_astring_char(octet: u8) -> bool {
    is_atom_char(octet) || octet == b']'
}

/// Characters of an unquoted folder name: ASTRING-CHAR, and 8-bit octets, which some clients send as they
/// are.
const fn is_lenient_astring_char(octet: u8) -> bool {
    is_astring_char(octet) || octet >= 0x80
}

/// Characters of an unquoted list-mailbox (RFC 3501 section 9): wildcards are allowed.
const fn is_list_char(octet: u8) -> bool {
    is_lenient_astring_char(octet) || octet == b'%' || octet == b'*'
}

impl Lexer {
    /// At the start of `bytes`, a command without its final line end.
    pub const fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Whether everything has been read.
    pub fn is_end(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next octet, left in place.
    pub fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn advance(&mut self, octets: usize) {
        self.at = self.at.saturating_add(octets).min(self.bytes.len());
    }

    /// Reads `octet` if it is next.
    pub fn accept(&mut self, octet: u8) -> bool {
        let found = self.peek() == Some(octet);
        if found {
            self.advance(1);
        }
        found
    }

    /// Reads `octet`.
    pub fn expect(&mut self, octet: u8) -> Result<()> {
        if self.accept(octet) {
            Ok(())
        } else {
            Err(SyntaxError(match octet {
                b' ' => "expected a space".to_owned(),
                other => format!("expected '{}'", char::from(other)),
            }))
        }
    }

    /// Reads one space. Several are one mistake that old clients make; they are taken as one.
    pub fn space(&mut self) -> Result<()> {
        self.expect(b' ')?;
        while self.accept(b' ') {}
        Ok(())
    }

    /// Checks that nothing follows but spaces.
    pub fn end(&mut self) -> Result<()> {
        while self.accept(b' ') {}
        if self.is_end() { Ok(()) } else { Err(SyntaxError::expected("the end of the command")) }
    }

    /// The octets that satisfy `accept`, possibly none.
    pub fn take_while(&mut self, accept: impl Fn(u8) -> bool) -> Bytes {
        let length =
            self.rest().iter().position(|&octet| !accept(octet)).unwrap_or_else(|| self.rest().len());
        self.take(length)
    }

    fn take(&mut self, octets: usize) -> Bytes {
        let end = self.at.saturating_add(octets).min(self.bytes.len());
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        taken
    }

    /// Reads `word` without regard to case if it is next and ends there.
    pub fn accept_word(&mut self, word: &str) -> bool {
        let length = word.len();
        let found = self.rest().split_at_checked(length).is_some_and(|(head, tail)| {
            head.eq_ignore_ascii_case(word.as_bytes())
                && !tail.first().is_some_and(|&octet| is_atom_char(octet) && octet != b'[')
        });
        if found {
            self.advance(length);
        }
        found
    }

    /// An atom.
    pub fn atom(&mut self, what: &str) -> Result<Bytes> {
        let atom = self.take_while(is_atom_char);
        if atom.is_empty() { Err(SyntaxError::expected(what)) } else { Ok(atom) }
    }

    /// An atom in upper case, as a keyword of the protocol.
    pub fn keyword(&mut self, what: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.atom(what)?).to_ascii_uppercase())
    }

    /// A number of 32 bits.
    pub fn number(&mut self) -> Result<u32> {
        u32::try_from(self.number64()?).map_err(|_| SyntaxError::expected("a number below 4294967296"))
    }

    /// A number of 63 bits (RFC 7162, RFC 9208).
    pub fn number64(&mut self) -> Result<u64> {
        let digits = self.take_while(|octet| octet.is_ascii_digit());
        if digits.is_empty() {
            return Err(SyntaxError::expected("a number"));
        }
        digits
            .iter()
            .try_fold(0_u64, |sum, digit| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
            .filter(|&number| number <= i64::MAX as u64)
            .ok_or_else(|| SyntaxError::expected("a number below 9223372036854775808"))
    }

    /// A quoted string or a literal.
    pub fn string(&mut self, what: &str) -> Result<Bytes> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal(),
            _ => Err(SyntaxError::expected(what)),
        }
    }

    /// An atom-like word or a string. 8-bit octets are let through: whoever uses the text judges them.
    pub fn astring(&mut self, what: &str) -> Result<Bytes> {
        self.word_or_string(is_lenient_astring_char, what)
    }

    /// A list-mailbox: like [`Self::astring`] with wildcards.
    pub fn list_mailbox(&mut self) -> Result<Bytes> {
        self.word_or_string(is_list_char, "a folder name or pattern")
    }

    fn word_or_string(&mut self, accept: impl Fn(u8) -> bool, what: &str) -> Result<Bytes> {
        if matches!(self.peek(), Some(b'"' | b'{')) {
            return self.string(what);
        }
        let word = self.take_while(accept);
        if word.is_empty() { Err(SyntaxError::expected(what)) } else { Ok(word) }
    }

    /// `NIL` or a string.
    pub fn nstring(&mut self, what: &str) -> Result<Option<Bytes>> {
        if self.accept_word("NIL") { Ok(None) } else { self.string(what).map(Some) }
    }

    fn quoted(&mut self) -> Result<Bytes> {
        self.expect(b'"')?;
        let plain = self.take_while(|octet| !matches!(octet, b'"' | b'\\' | b'\r' | b'\n' | 0));
        if self.accept(b'"') {
            return Ok(plain);
        }
        let mut text = plain.to_vec();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.advance(1);
                    return Ok(text.into());
                }
                Some(b'\\') => {
                    self.advance(1);
                    match self.peek() {
                        Some(octet @ (b'"' | b'\\')) => text.push(octet),
                        _ => return Err(SyntaxError::expected("\" or \\ after \\ in a quoted string")),
                    }
                }
                Some(b'\r' | b'\n' | 0) | None => {
                    return Err(SyntaxError::expected("the closing quote of a string"));
                }
                Some(octet) => text.push(octet),
            }
            self.advance(1);
        }
    }

    /// A literal `{n}` or `{n+}` (RFC 7888) whose octets the framing reader has already collected.
    pub fn literal(&mut self) -> Result<Bytes> {
        self.expect(b'{')?;
        let octets = self.number64()?;
        self.accept(b'+');
        self.expect(b'}')?;
        self.accept(b'\r');
        self.expect(b'\n')?;
        let octets = usize::try_from(octets).unwrap_or(usize::MAX);
        if self.rest().len() < octets {
            return Err(SyntaxError::expected("a complete literal"));
        }
        Ok(self.take(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lexer(text: &'static str) -> Lexer {
        Lexer::new(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn quoted_strings_unescape_and_refuse_line_ends() {
        assert_eq!(lexer(r#""a \"b\" \\c""#).string("x").unwrap(), &br#"a "b" \c"#[..]);
        assert_eq!(lexer("\"\"").string("x").unwrap(), &b""[..]);
        for bad in ["\"a\r\nb\"", "\"a", "\"a\\n\"", "\"", "\"\\"] {
            assert!(lexer(bad).string("x").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn literals_take_exactly_their_octets() {
        let mut lexer = lexer("{3}\r\na\r\n{2+}\r\nxy z");
        assert_eq!(lexer.literal().unwrap(), &b"a\r\n"[..]);
        assert_eq!(lexer.literal().unwrap(), &b"xy"[..]);
        assert_eq!(lexer.rest(), b" z");
        assert!(Lexer::new(Bytes::from_static(b"{9}\r\nabc")).literal().is_err());
        assert!(Lexer::new(Bytes::from_static(b"{18446744073709551616}\r\n")).literal().is_err());
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(lexer("4294967295").number().unwrap(), u32::MAX);
        assert!(lexer("4294967296").number().is_err());
        assert_eq!(lexer("9223372036854775807").number64().unwrap(), i64::MAX as u64);
        assert!(lexer("9223372036854775808").number64().is_err());
        assert!(lexer("x").number().is_err());
    }

    #[test]
    fn words_end_where_they_end() {
        assert!(lexer("NIL)").accept_word("nil"));
        assert!(!lexer("NILS").accept_word("nil"));
        assert!(lexer("body[]").accept_word("BODY"));
        assert!(!lexer("body.peek[]").accept_word("BODY"));
    }
}
