//! A client for IMAP4rev1 (RFC 3501): tagged commands, literals both ways, untagged answers kept as they came.

use std::io;

use super::stream::Connection;

/// One untagged response line with its literals taken out: `text` holds `{n}` where literal number i stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untagged {
    /// The line without `* `.
    pub text: String,
    /// The literals, in order.
    pub literals: Vec<Vec<u8>>,
}

impl Untagged {
    /// The number in front: `* 12 EXISTS`.
    pub fn number(&self) -> Option<u32> {
        self.text.split(' ').next()?.parse().ok()
    }

    /// The word behind the number, or the first: `EXISTS`, `FETCH`, `LIST`.
    pub fn keyword(&self) -> &str {
        let mut words = self.text.split(' ');
        let first = words.next().unwrap_or("");
        if first.bytes().all(|byte| byte.is_ascii_digit()) { words.next().unwrap_or("") } else { first }
    }

    /// The value of an item with a bare number: `UID 7`, `RFC822.SIZE 1234`.
    pub fn item_number(&self, item: &str) -> Option<u64> {
        let mut words = self.text.split(['(', ')', ' ']);
        words.find(|word| word.eq_ignore_ascii_case(item))?;
        words.next()?.parse().ok()
    }

    /// The flags of a FETCH response, sorted.
    pub fn flags(&self) -> Option<Vec<String>> {
        let (_, rest) = self.text.split_once("FLAGS (")?;
        let (list, _) = rest.split_once(')')?;
        let mut flags: Vec<String> = list.split_whitespace().map(str::to_owned).collect();
        flags.sort();
        Some(flags)
    }
}

/// The tagged answer with everything untagged before it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `OK`, `NO` or `BAD`.
    pub status: String,
    /// What follows the status.
    pub text: String,
    /// In the order in which they came.
    pub untagged: Vec<Untagged>,
}

impl Answer {
    /// Fails the test unless the status is OK.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, "OK", "{}", self.text);
        self
    }

    /// The last `* n EXISTS`.
    pub fn exists(&self) -> Option<u32> {
        self.untagged.iter().rev().find(|line| line.keyword() == "EXISTS")?.number()
    }

    /// The responses of one kind.
    pub fn all(&self, keyword: &str) -> impl Iterator<Item = &Untagged> {
        self.untagged.iter().filter(move |line| line.keyword() == keyword)
    }

    /// The value of a response code such as `UIDVALIDITY` or `UIDNEXT`, untagged or tagged.
    pub fn code(&self, name: &str) -> Option<String> {
        let of = |text: &str| {
            let (_, inside) = text.split_once(&format!("[{name} "))?;
            Some(inside.split_once(']')?.0.to_owned())
        };
        of(&self.text).or_else(|| self.untagged.iter().find_map(|line| of(&line.text)))
    }
}

/// One session.
pub struct Imap {
    /// The connection, for tests that misbehave.
    pub connection: Connection,
    next_tag: u32,
}

impl Imap {
    /// Connects and reads the greeting.
    pub fn open(address: &str) -> io::Result<Self> {
        let mut session = Self { connection: Connection::open(address)?, next_tag: 0 };
        let greeting = session.read_untagged()?;
        if !greeting.text.starts_with("OK") {
            return Err(io::Error::other(format!("greeted with {:?}", greeting.text)));
        }
        Ok(session)
    }

    /// Connects with TLS from the first octet.
    pub fn open_tls(address: &str, certificate_pem: &str) -> io::Result<Self> {
        let mut session = Self { connection: Connection::open(address)?, next_tag: 0 };
        session.connection.start_tls(certificate_pem)?;
        session.read_untagged()?;
        Ok(session)
    }

    /// Connects and logs in.
    #[track_caller]
    pub fn login(address: &str, user: &str, password: &str) -> Self {
        let mut session = Self::open(address).expect("connect to IMAP");
        session.command(&format!("LOGIN \"{user}\" \"{password}\"")).expect("LOGIN").ok();
        session
    }

    fn tag(&mut self) -> String {
        self.next_tag += 1;
        format!("t{}", self.next_tag)
    }

    /// Sends a command without literals and reads up to its tagged answer.
    pub fn command(&mut self, text: &str) -> io::Result<Answer> {
        let tag = self.tag();
        self.connection.send(format!("{tag} {text}\r\n"))?;
        self.finish(&tag)
    }

    /// Sends a command whose parts are joined by synchronising literals: `parts[0] {n}`, literal, text, literal…
    pub fn command_with_literals(&mut self, text: &str, rest: &[(&[u8], &str)]) -> io::Result<Answer> {
        let tag = self.tag();
        self.connection.send(format!("{tag} {text}"))?;
        for (literal, behind) in rest {
            self.connection.send(format!("{{{}}}\r\n", literal.len()))?;
            let mut untagged = Vec::new();
            loop {
                let line = self.read_line()?;
                if line.text.starts_with('+') {
                    break;
                }
                match self.sort(&tag, line, &mut untagged) {
                    Some((status, text)) => return Ok(Answer { status, text, untagged }),
                    None => continue,
                }
            }
            self.connection.send(literal)?;
            self.connection.send(behind)?;
        }
        self.connection.send("\r\n")?;
        self.finish(&tag)
    }

    /// APPEND of one message.
    pub fn append(&mut self, folder: &str, flags: &str, message: &[u8]) -> io::Result<Answer> {
        self.command_with_literals(&format!("APPEND \"{folder}\" ({flags}) "), &[(message, "")])
    }

    /// Starts a command and leaves the reading to the caller; gives the tag.
    pub fn start(&mut self, text: &str) -> io::Result<String> {
        let tag = self.tag();
        self.connection.send(format!("{tag} {text}\r\n"))?;
        Ok(tag)
    }

    /// Reads up to the tagged answer of `tag`.
    pub fn finish(&mut self, tag: &str) -> io::Result<Answer> {
        let mut untagged = Vec::new();
        loop {
            let line = self.read_line()?;
            if let Some((status, text)) = self.sort(tag, line, &mut untagged) {
                return Ok(Answer { status, text, untagged });
            }
        }
    }

    fn sort(&self, tag: &str, line: Untagged, untagged: &mut Vec<Untagged>) -> Option<(String, String)> {
        if let Some(text) = line.text.strip_prefix("* ") {
            untagged.push(Untagged { text: text.to_owned(), literals: line.literals });
            return None;
        }
        let rest = line.text.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' '));
        let Some(rest) = rest else { panic!("neither untagged nor tagged {tag}: {:?}", line.text) };
        let (status, text) = rest.split_once(' ').unwrap_or((rest, ""));
        Some((status.to_owned(), text.to_owned()))
    }

    /// Reads one untagged response, for instance during IDLE.
    pub fn read_untagged(&mut self) -> io::Result<Untagged> {
        let line = self.read_line()?;
        match line.text.strip_prefix("* ") {
            Some(text) => Ok(Untagged { text: text.to_owned(), literals: line.literals }),
            None => Err(io::Error::other(format!("not untagged: {:?}", line.text))),
        }
    }

    /// Reads one response line with its literals, tag and all.
    pub fn read_line(&mut self) -> io::Result<Untagged> {
        let mut text = String::new();
        let mut literals = Vec::new();
        loop {
            let line = String::from_utf8_lossy(&self.connection.line()?).into_owned();
            text.push_str(&line);
            let Some(octets) = literal_octets(&line) else { return Ok(Untagged { text, literals }) };
            literals.push(self.connection.exactly(octets)?);
        }
    }

    /// Selects a folder; gives the answer.
    #[track_caller]
    pub fn select(&mut self, folder: &str) -> Answer {
        self.command(&format!("SELECT \"{folder}\"")).expect("SELECT").ok()
    }

    /// UID and body of the messages in `set` (UIDs) of the selected folder, in the order in which they came.
    #[track_caller]
    pub fn bodies(&mut self, set: &str) -> Vec<(u64, Vec<u8>)> {
        let answer = self.command(&format!("UID FETCH {set} (UID BODY.PEEK[])")).expect("FETCH").ok();
        answer.all("FETCH").map(|line| (line.item_number("UID").expect("UID"), body_of(line))).collect()
    }
}

/// The one body in a FETCH response: its literal, or a quoted or empty string.
#[track_caller]
pub fn body_of(line: &Untagged) -> Vec<u8> {
    if let Some(literal) = line.literals.first() {
        return literal.clone();
    }
    let (_, rest) = line.text.split_once("BODY[] ").expect("BODY[] in FETCH response");
    let quoted = rest.strip_prefix('"').unwrap_or_else(|| panic!("no string: {rest:?}"));
    let mut out = Vec::new();
    let mut octets = quoted.bytes();
    while let Some(octet) = octets.next() {
        match octet {
            b'"' => break,
            b'\\' => out.extend(octets.next()),
            other => out.push(other),
        }
    }
    out
}

fn literal_octets(line: &str) -> Option<usize> {
    let inside = line.strip_suffix('}')?;
    let (_, digits) = inside.rsplit_once('{')?;
    digits.parse().ok()
}
