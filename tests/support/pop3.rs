//! A client for POP3 (RFC 1939).

use std::io;

use super::stream::Connection;

/// One session.
pub struct Pop3 {
    /// The connection, for tests that misbehave.
    pub connection: Connection,
}

impl Pop3 {
    /// Connects and reads the greeting.
    pub fn open(address: &str) -> io::Result<Self> {
        let mut session = Self { connection: Connection::open(address)? };
        session.status()?.map_err(io::Error::other)?;
        Ok(session)
    }

    /// Connects and logs in.
    pub fn login(address: &str, user: &str, password: &str) -> io::Result<Self> {
        let mut session = Self::open(address)?;
        session.command(&format!("USER {user}"))?.map_err(io::Error::other)?;
        session.command(&format!("PASS {password}"))?.map_err(io::Error::other)?;
        Ok(session)
    }

    fn status(&mut self) -> io::Result<Result<String, String>> {
        let line = String::from_utf8(self.connection.line()?).map_err(io::Error::other)?;
        if let Some(text) = line.strip_prefix("+OK") {
            Ok(Ok(text.trim_start().to_owned()))
        } else if let Some(text) = line.strip_prefix("-ERR") {
            Ok(Err(text.trim_start().to_owned()))
        } else {
            Err(io::Error::other(format!("no status line: {line:?}")))
        }
    }

    /// Sends a command; the inner result is `+OK` or `-ERR` with the text behind it.
    pub fn command(&mut self, line: &str) -> io::Result<Result<String, String>> {
        self.connection.send(format!("{line}\r\n"))?;
        self.status()
    }

    /// Sends a command that is answered with several lines; gives them with dots unstuffed and CRLF kept.
    pub fn multiline(&mut self, line: &str) -> io::Result<Vec<u8>> {
        self.command(line)?.map_err(io::Error::other)?;
        // A message may hold lines that end in a bare LF, so the frame is looked for, not the line.
        let mut content = self.connection.exactly(3)?;
        if content != b".\r\n" {
            content.extend(self.connection.through(b"\r\n.\r\n")?);
        }
        content.truncate(content.len() - 3);
        Ok(unstuff(&content))
    }

    /// Number of messages and octets.
    pub fn stat(&mut self) -> io::Result<(usize, u64)> {
        let text = self.command("STAT")?.map_err(io::Error::other)?;
        let mut numbers = text.split(' ').map(str::parse::<u64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(count)), Some(Ok(octets))) => Ok((count as usize, octets)),
            _ => Err(io::Error::other(format!("no STAT answer: {text:?}"))),
        }
    }

    /// The unique ids of all messages, in order.
    pub fn unique_ids(&mut self) -> io::Result<Vec<String>> {
        let listing = String::from_utf8(self.multiline("UIDL")?).map_err(io::Error::other)?;
        Ok(listing.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect())
    }

    /// One message.
    pub fn retrieve(&mut self, number: usize) -> io::Result<Vec<u8>> {
        self.multiline(&format!("RETR {number}"))
    }
}

fn unstuff(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    let mut at_start = true;
    for &octet in content {
        if !(at_start && octet == b'.') {
            out.push(octet);
        }
        // As most clients do: a line ends at LF, with or without CR.
        at_start = octet == b'\n';
    }
    out
}
