//! Collects one whole command: its lines and the literals they announce (RFC 3501 section 2.2.1), with
//! bounds. Whoever drives it decides about every literal before its octets are awaited.

use bytes::Bytes;

use crate::wire::line::{LineError, Reader};
use crate::wire::stream::Connection;

/// Octets that are read and dropped to stay in step with a client whose line was too long; beyond them the
/// connection ends.
const SKIP_LINE_OCTETS_MAX: u64 = 1024 * 1024;
/// The same for a refused literal that the client sends without asking (RFC 7888 section 4).
const SKIP_LITERAL_OCTETS_MAX: u64 = 256 * 1024 * 1024;

/// A literal announced at the end of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LiteralHead {
    /// Its length.
    pub octets: u64,
    /// Whether the client waits for `+` before it sends it.
    pub synchronizing: bool,
}

/// One command as it arrives.
#[derive(Default, Debug)]
pub struct Collector {
    bytes: Vec<u8>,
    literal_octets: u64,
}

impl Collector {
    /// The command so far; after a literal was announced, up to and with the line that announces it.
    pub fn so_far(&self) -> &[u8] {
        &self.bytes
    }

    /// Octets of literals taken.
    pub fn literal_octets(&self) -> u64 {
        self.literal_octets
    }

    /// The complete command without its final line end.
    pub fn finish(self) -> Bytes {
        self.bytes.into()
    }

    /// Takes the next line; tells whether it announces a literal or ends the command. `octets_max` bounds the
    /// command without its literals.
    ///
    /// # Errors
    /// See [`LineError`]; after [`LineError::TooLong`] call [`skip_line`].
    pub async fn line(
        &mut self,
        connection: &mut Connection,
        reader: &mut Reader,
        octets_max: usize,
    ) -> Result<Option<LiteralHead>, LineError> {
        let taken = (self.bytes.len() as u64).saturating_sub(self.literal_octets);
        let left = octets_max.saturating_sub(usize::try_from(taken).unwrap_or(usize::MAX));
        let line = reader.line(connection, left).await?;
        let head = literal_head(line.text);
        self.bytes.extend_from_slice(line.text);
        if head.is_some() {
            self.bytes.extend_from_slice(b"\r\n");
        }
        Ok(head)
    }

    /// Takes the octets of an announced literal.
    ///
    /// # Errors
    /// [`LineError::Truncated`] or [`LineError::Io`].
    pub async fn literal(
        &mut self,
        connection: &mut Connection,
        reader: &mut Reader,
        head: LiteralHead,
    ) -> Result<(), LineError> {
        let octets = usize::try_from(head.octets).unwrap_or(usize::MAX);
        self.literal_octets = self.literal_octets.saturating_add(head.octets);
        reader.exact(connection, octets, &mut self.bytes).await
    }
}

/// After a refused literal: a synchronizing one will not come, another one is dropped with the rest of its
/// command. Returns whether the session is in step again; else it must end.
pub async fn skip_literal(
    connection: &mut Connection,
    reader: &mut Reader,
    refused: LiteralHead,
    line_octets_max: usize,
) -> Result<bool, LineError> {
    let mut skipped = 0_u64;
    let mut next = Some(refused);
    while let Some(head) = next.filter(|head| !head.synchronizing) {
        skipped = skipped.saturating_add(head.octets);
        if skipped > SKIP_LITERAL_OCTETS_MAX {
            return Ok(false);
        }
        reader.skip(connection, head.octets).await?;
        next = match reader.line(connection, line_octets_max).await {
            Ok(line) => literal_head(line.text),
            Err(LineError::TooLong) => return skip_line(connection, reader).await,
            Err(error) => return Err(error),
        };
    }
    Ok(true)
}

/// After a line that was too long: drops the rest of it. Returns whether the session is in step again.
pub async fn skip_line(connection: &mut Connection, reader: &mut Reader) -> Result<bool, LineError> {
    match reader.discard_line(connection, SKIP_LINE_OCTETS_MAX).await {
        Ok(()) => Ok(true),
        Err(LineError::TooLong) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The literal that a line announces at its end.
fn literal_head(line: &[u8]) -> Option<LiteralHead> {
    let inner = line.strip_suffix(b"}")?;
    let (inner, synchronizing) = match inner.strip_suffix(b"+") {
        Some(inner) => (inner, false),
        None => (inner, true),
    };
    let start = inner.iter().rposition(|octet| !octet.is_ascii_digit())?;
    let (head, digits) = inner.split_at_checked(start + 1)?;
    if head.last() != Some(&b'{') || digits.is_empty() {
        return None;
    }
    // A number of any length announces more than any limit.
    let octets = digits
        .iter()
        .fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(LiteralHead { octets, synchronizing })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn fed(bytes: &[u8]) -> (Connection, Reader) {
        let (mut client, server) = tokio::io::duplex(bytes.len().max(1));
        client.write_all(bytes).await.unwrap();
        (Connection::memory(server, None), Reader::new())
    }

    /// Takes commands until the input ends, refusing literals above 20 octets.
    async fn commands(bytes: &[u8]) -> Vec<Bytes> {
        let (mut connection, mut reader) = fed(bytes).await;
        let mut found = Vec::new();
        'commands: loop {
            let mut collector = Collector::default();
            loop {
                match collector.line(&mut connection, &mut reader, 100).await {
                    Ok(None) => break,
                    Ok(Some(head)) if head.octets <= 20 => {
                        if collector.literal(&mut connection, &mut reader, head).await.is_err() {
                            return found;
                        }
                    }
                    Ok(Some(head)) => match skip_literal(&mut connection, &mut reader, head, 100).await {
                        Ok(true) => continue 'commands,
                        _ => return found,
                    },
                    Err(LineError::TooLong) => match skip_line(&mut connection, &mut reader).await {
                        Ok(true) => continue 'commands,
                        _ => return found,
                    },
                    Err(_) => return found,
                }
            }
            found.push(collector.finish());
        }
    }

    #[tokio::test]
    async fn lines_are_commands_with_either_line_end() {
        assert_eq!(commands(b"a NOOP\r\nb NOOP\nc NO").await, ["a NOOP", "b NOOP"]);
    }

    #[tokio::test]
    async fn literals_belong_to_their_command() {
        assert_eq!(
            commands(b"a LOGIN {3}\r\na\nb {1+}\r\nx\r\nb NOOP\r\n").await,
            ["a LOGIN {3}\r\na\nb {1+}\r\nx", "b NOOP"]
        );
        assert_eq!(commands(b"a {0}\r\n\r\n").await, ["a {0}\r\n"]);
    }

    #[tokio::test]
    async fn a_refused_synchronizing_literal_ends_the_command() {
        assert_eq!(commands(b"a APPEND x {99999999999999999999999}\r\nb NOOP\r\n").await, ["b NOOP"]);
    }

    #[tokio::test]
    async fn a_refused_other_literal_is_dropped_with_its_command() {
        let input = b"a APPEND x {25+}\r\n\r\n34567890123456789012345 {22+}\r\n\
            1234567890123456789012 tail\r\nb NOOP\r\n";
        assert_eq!(commands(input).await, ["b NOOP"]);
        assert_eq!(commands(b"a APPEND x {4294967296+}\r\nb NOOP\r\n").await, Vec::<Bytes>::new());
    }

    #[tokio::test]
    async fn lines_are_bounded_over_the_whole_command() {
        let mut input = vec![b'x'; 200];
        input.extend_from_slice(b"\r\nb NOOP\r\n");
        assert_eq!(commands(&input).await, ["b NOOP"]);
        let mut pieces = b"a ".to_vec();
        for _ in 0..20 {
            pieces.extend_from_slice(b"{1+}\r\nx ");
        }
        pieces.extend_from_slice(b"\r\nb NOOP\r\n");
        // The rest of the refused command is read as commands: what follows is in step at the next line.
        assert_eq!(commands(&pieces).await.last().map(|bytes| bytes.as_ref()), Some(&b"b NOOP"[..]));
    }

    #[test]
    fn only_the_end_of_a_line_announces() {
        let head = |octets, synchronizing| Some(LiteralHead { octets, synchronizing });
        assert_eq!(literal_head(b"a {12}"), head(12, true));
        assert_eq!(literal_head(b"a {12+}"), head(12, false));
        assert_eq!(literal_head(b"{7}"), head(7, true));
        for none in [&b"a {12} "[..], b"{}", b"{+}", b"{1-}", b"12}", b"}", b"", b"{1 2}"] {
            assert_eq!(literal_head(none), None);
        }
    }
}
