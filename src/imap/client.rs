//! The client's side of a session: bytes in, bytes out, with time limits.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::respond;
use crate::wire::line::Reader;
use crate::wire::stream::Connection;

/// An answer is sent in pieces of about this size when it is longer.
pub const FLUSH_OCTETS: usize = 64 * 1024;
/// A larger output buffer is not kept between commands.
const OUT_KEPT_OCTETS_MAX: usize = 1024;
/// Room for large literals is counted in units of this size.
pub const LITERAL_UNIT_OCTETS: u64 = 64 * 1024;

/// Units of room that a literal needs; small ones need none.
pub fn literal_units(octets: u64) -> u32 {
    u32::try_from(octets / LITERAL_UNIT_OCTETS).unwrap_or(u32::MAX)
}

/// A connected client.
pub struct Client {
    /// The connection.
    pub connection: Connection,
    /// What has been received.
    pub reader: Reader,
    /// What is to be sent.
    pub out: Vec<u8>,
    write_timeout: Duration,
}

impl Client {
    /// A client at the other end of `connection`.
    pub fn new(connection: Connection, write_timeout: Duration) -> Self {
        Self { connection, reader: Reader::new(), out: Vec::new(), write_timeout }
    }

    /// Adds an untagged status response.
    pub fn untagged(&mut self, condition: &str, code: Option<&str>, text: &str) {
        respond::status(&mut self.out, b"*", condition, code, text);
    }

    /// Sends everything.
    ///
    /// # Errors
    /// When the connection is gone or the client takes nothing for too long.
    pub async fn flush(&mut self) -> io::Result<()> {
        let out = std::mem::take(&mut self.out);
        let result = self.write(&out).await;
        if out.capacity() <= OUT_KEPT_OCTETS_MAX {
            self.out = out;
            self.out.clear();
        }
        result
    }

    /// Sends what has gathered if it is much.
    ///
    /// # Errors
    /// See [`Self::flush`].
    pub async fn flush_if_large(&mut self) -> io::Result<()> {
        if self.out.len() < FLUSH_OCTETS {
            return Ok(());
        }
        let mut out = std::mem::take(&mut self.out);
        let result = self.write(&out).await;
        // Kept: more of this answer follows.
        out.clear();
        self.out = out;
        result
    }

    /// Sends `octets` after everything gathered before; small ones are gathered too.
    ///
    /// # Errors
    /// See [`Self::flush`].
    pub async fn send(&mut self, octets: &[u8]) -> io::Result<()> {
        if octets.len() < FLUSH_OCTETS {
            self.out.extend_from_slice(octets);
            return self.flush_if_large().await;
        }
        self.flush().await?;
        self.write(octets).await
    }

    async fn write(&mut self, mut octets: &[u8]) -> io::Result<()> {
        if octets.is_empty() {
            return Ok(());
        }
        let slow = |_| io::Error::new(io::ErrorKind::TimedOut, "the client takes no answer");
        while !octets.is_empty() {
            let written =
                timeout(self.write_timeout, self.connection.write(octets)).await.map_err(slow)??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            octets = octets.get(written..).unwrap_or_default();
        }
        timeout(self.write_timeout, self.connection.flush()).await.map_err(slow)?
    }

    /// Sends the last words and closes.
    pub async fn close(mut self) {
        // The connection is over either way.
        if self.flush().await.is_ok() {
            self.connection.close().await;
        }
    }
}
