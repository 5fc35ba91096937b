//! A client for SMTP (RFC 5321) and LMTP (RFC 2033).

use std::io;

use super::stream::Connection;

/// A reply of one or more lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The text of each line, without code.
    pub lines: Vec<String>,
}

impl Reply {
    /// Whether the reply says that it was done.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The enhanced status code (RFC 3463) of the first line, or nothing.
    pub fn enhanced(&self) -> &str {
        let word = self.lines.first().and_then(|line| line.split(' ').next()).unwrap_or("");
        if word.split('.').count() == 3 && word.split('.').all(|part| part.parse::<u16>().is_ok()) {
            word
        } else {
            ""
        }
    }

    /// Code and enhanced code, as the tests name them: `452 4.2.2`.
    pub fn codes(&self) -> String {
        format!("{} {}", self.code, self.enhanced())
    }
}

/// Which of the two protocols is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// RFC 5321: one answer to DATA.
    Smtp,
    /// RFC 2033: an answer for each accepted recipient.
    Lmtp,
}

/// One session.
pub struct Smtp {
    /// The connection, for tests that misbehave.
    pub connection: Connection,
    dialect: Dialect,
    /// Whether the server said SIZE (RFC 1870).
    announces_size: bool,
}

impl Smtp {
    /// Connects, reads the greeting and says EHLO or LHLO.
    pub fn open(address: &str, dialect: Dialect) -> io::Result<Self> {
        let mut session = Self::greet(address, dialect)?;
        let hello = session.hello()?;
        if !hello.is_ok() {
            return Err(io::Error::other(format!("refused hello: {hello:?}")));
        }
        Ok(session)
    }

    /// Connects and reads the greeting only.
    pub fn greet(address: &str, dialect: Dialect) -> io::Result<Self> {
        let mut session = Self { connection: Connection::open(address)?, dialect, announces_size: false };
        let greeting = session.reply()?;
        if greeting.code != 220 {
            return Err(io::Error::other(format!("greeted with {greeting:?}")));
        }
        Ok(session)
    }

    /// EHLO or LHLO.
    pub fn hello(&mut self) -> io::Result<Reply> {
        let reply = match self.dialect {
            Dialect::Smtp => self.command("EHLO client.example.test"),
            Dialect::Lmtp => self.command("LHLO client.example.test"),
        }?;
        self.announces_size = reply.lines.iter().any(|line| line.starts_with("SIZE"));
        Ok(reply)
    }

    /// Reads one reply.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let line = String::from_utf8(self.connection.line()?).map_err(io::Error::other)?;
            let code = line.get(..3).and_then(|digits| digits.parse().ok());
            let Some(code) = code else {
                return Err(io::Error::other(format!("no reply line: {line:?}")));
            };
            lines.push(line.get(4..).unwrap_or("").to_owned());
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Sends a line and reads the reply.
    pub fn command(&mut self, line: &str) -> io::Result<Reply> {
        self.connection.send(format!("{line}\r\n"))?;
        self.reply()
    }

    /// Delivers one message with DATA; gives the answer for each recipient. A recipient refused at RCPT has that
    /// answer; over SMTP those accepted share the one after DATA.
    pub fn deliver(&mut self, sender: &str, recipients: &[&str], message: &[u8]) -> io::Result<Vec<Reply>> {
        let mut content = Vec::with_capacity(message.len() + message.len() / 32 + 8);
        dot_stuff(message, &mut content);
        self.transaction(sender, recipients, message.len(), |session| {
            let go = session.command("DATA")?;
            if go.code != 354 {
                return Ok(Some(go));
            }
            session.connection.send(&content)?;
            Ok(None)
        })
    }

    /// Delivers one message with BDAT (RFC 3030) in chunks of `chunk_octets`: what arrives is exactly `message`.
    pub fn deliver_chunked(
        &mut self,
        sender: &str,
        recipients: &[&str],
        message: &[u8],
        chunk_octets: usize,
    ) -> io::Result<Vec<Reply>> {
        self.transaction(sender, recipients, message.len(), |session| {
            let mut chunks = message.chunks(chunk_octets.max(1)).peekable();
            while let Some(chunk) = chunks.next() {
                let last = chunks.peek().is_none();
                session.connection.send(format!(
                    "BDAT {}{}\r\n",
                    chunk.len(),
                    if last { " LAST" } else { "" }
                ))?;
                session.connection.send(chunk)?;
                if !last {
                    let reply = session.reply()?;
                    if !reply.is_ok() {
                        return Ok(Some(reply));
                    }
                }
            }
            Ok(None)
        })
    }

    fn transaction(
        &mut self,
        sender: &str,
        recipients: &[&str],
        octets: usize,
        content: impl FnOnce(&mut Self) -> io::Result<Option<Reply>>,
    ) -> io::Result<Vec<Reply>> {
        let size = if self.announces_size { format!(" SIZE={octets}") } else { String::new() };
        let mut envelope = format!("MAIL FROM:<{sender}>{size}\r\n");
        for recipient in recipients {
            envelope.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        self.connection.send(envelope)?;
        let mail = self.reply()?;
        let mut replies = Vec::with_capacity(recipients.len());
        for _ in recipients {
            replies.push(self.reply()?);
        }
        let accepted = replies.iter().filter(|reply| reply.is_ok()).count();
        if !mail.is_ok() {
            return Ok(vec![mail; recipients.len()]);
        }
        if accepted == 0 {
            self.command("RSET")?;
            return Ok(replies);
        }
        if let Some(refusal) = content(self)? {
            for reply in replies.iter_mut().filter(|reply| reply.is_ok()) {
                *reply = refusal.clone();
            }
            return Ok(replies);
        }
        let mut shared = None;
        for reply in replies.iter_mut().filter(|reply| reply.is_ok()) {
            *reply = match (self.dialect, &shared) {
                (Dialect::Smtp, Some(first)) => Clone::clone(first),
                _ => self.reply()?,
            };
            shared.get_or_insert_with(|| reply.clone());
        }
        Ok(replies)
    }
}

/// The content as DATA carries it (RFC 5321 section 4.5.2), with the final dot; adds a CRLF where the message has
/// none at its end.
pub fn dot_stuff(message: &[u8], out: &mut Vec<u8>) {
    for line in message.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !message.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
}
