//! Reading lines, literals and chunks from a client, bounded.
//!
//! The buffer exists only while there is something in it: a chunk is read onto the stack while polling, so that an
//! idle connection owns no buffer. All reads are cancel-safe: what has arrived stays in the reader.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Most octets taken from the socket at once: one TLS record (RFC 8446 section 5.1).
const CHUNK_OCTETS: usize = 16 * 1024;
/// How much room is made at a time for a literal, so that one announced but never sent costs nothing.
const LITERAL_STEP_OCTETS: usize = 64 * 1024;

/// Why no line came.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The client closed the connection between two lines.
    #[error("the client closed the connection")]
    Closed,
    /// The client closed the connection in the middle of a line or literal.
    #[error("the client closed the connection in the middle of a line")]
    Truncated,
    /// The line is longer than allowed. It is still unread: see [`Reader::discard_line`].
    #[error("line too long")]
    TooLong,
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A line without its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// The octets before CRLF or LF.
    pub text: &'a [u8],
    /// Whether it ended in LF without CR.
    pub bare_lf: bool,
}

/// Reads from a stream that is passed with each call, so that a session can write to it in between.
#[derive(Default)]
pub struct Reader {
    buffer: Vec<u8>,
    /// Octets at the front that have been taken.
    start: usize,
    /// Octets after `start` known to hold no LF.
    scanned: usize,
}

impl Reader {
    /// A reader without a buffer.
    pub const fn new() -> Self {
        Self { buffer: Vec::new(), start: 0, scanned: 0 }
    }

    /// What has arrived and was not taken yet.
    pub fn buffered(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Whether a whole line has arrived already: replies can wait until the last of a pipeline (RFC 2920).
    pub fn has_line(&self) -> bool {
        memchr::memchr(b'\n', self.buffered()).is_some()
    }

    /// Takes `octets` from the front of what has arrived (at most all of it).
    pub fn consume(&mut self, octets: usize) {
        self.start = self.start.saturating_add(octets).min(self.buffer.len());
        self.scanned = 0;
    }

    /// Throws away what has arrived. Returns whether there was anything: before a TLS handshake that is an
    /// attempt at injecting commands (CVE-2011-0411).
    pub fn clear(&mut self) -> bool {
        let had_input = !self.buffered().is_empty();
        *self = Self::new();
        had_input
    }

    /// Waits for a line of at most `octets_max` octets including its end, and takes it. Cancel-safe.
    ///
    /// # Errors
    /// See [`LineError`]. Never holds more than `octets_max` plus one chunk.
    pub async fn line<S>(&mut self, stream: &mut S, octets_max: usize) -> Result<Line<'_>, LineError>
    where
        S: AsyncRead + Unpin + ?Sized,
    {
        let with_lf = loop {
            if let Some(at) = self.find_lf() {
                break at + 1;
            }
            if self.scanned >= octets_max {
                return Err(LineError::TooLong);
            }
            if self.fill(stream).await? == 0 {
                return Err(self.closed());
            }
        };
        if with_lf > octets_max {
            return Err(LineError::TooLong);
        }
        let from = self.start;
        self.consume(with_lf);
        let raw = self.buffer.get(from..from + with_lf - 1).unwrap_or_default();
        Ok(match raw.strip_suffix(b"\r") {
            Some(text) => Line { text, bare_lf: false },
            None => Line { text: raw, bare_lf: true },
        })
    }

    /// After [`LineError::TooLong`]: takes the rest of the line without keeping it. Cancel-safe.
    ///
    /// # Errors
    /// [`LineError::TooLong`] when no end comes within `octets_max` further octets; the session should end.
    pub async fn discard_line<S>(&mut self, stream: &mut S, octets_max: u64) -> Result<(), LineError>
    where
        S: AsyncRead + Unpin + ?Sized,
    {
        let mut octets = 0_u64;
        loop {
            if let Some(at) = self.find_lf() {
                self.consume(at + 1);
                return Ok(());
            }
            octets = octets.saturating_add(self.buffered().len() as u64);
            self.consume(usize::MAX);
            if octets > octets_max {
                return Err(LineError::TooLong);
            }
            if self.fill(stream).await? == 0 {
                return Err(LineError::Truncated);
            }
        }
    }

    /// Takes exactly `octets` octets and appends them to `into`, whose room grows only as they arrive. When
    /// cancelled, `into` has what was taken so far.
    ///
    /// # Errors
    /// [`LineError::Truncated`] or [`LineError::Io`].
    pub async fn exact<S>(
        &mut self,
        stream: &mut S,
        octets: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), LineError>
    where
        S: AsyncRead + Unpin + ?Sized,
    {
        let buffered = self.buffered();
        let ready = buffered.get(..octets).unwrap_or(buffered);
        let mut missing = octets - ready.len();
        into.extend_from_slice(ready);
        self.consume(octets - missing);
        while missing > 0 {
            let step = missing.min(LITERAL_STEP_OCTETS);
            into.reserve(step);
            let count = stream.read_buf(&mut into.limit(step)).await?;
            if count == 0 {
                return Err(LineError::Truncated);
            }
            missing -= count;
        }
        Ok(())
    }

    /// Takes `octets` octets and forgets them. Cancel-safe only for the stream, not for the count.
    ///
    /// # Errors
    /// [`LineError::Truncated`] or [`LineError::Io`].
    pub async fn skip<S>(&mut self, stream: &mut S, octets: u64) -> Result<(), LineError>
    where
        S: AsyncRead + Unpin + ?Sized,
    {
        let mut missing = octets;
        while missing > 0 {
            let here = self.chunk(stream).await?.len();
            if here == 0 {
                return Err(LineError::Truncated);
            }
            let take = usize::try_from(missing).unwrap_or(usize::MAX).min(here);
            self.consume(take);
            missing -= take as u64;
        }
        Ok(())
    }

    /// Waits until something has arrived and shows it; nothing at the end of the stream. Take what was used with
    /// [`Self::consume`]. Cancel-safe.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn chunk<S>(&mut self, stream: &mut S) -> io::Result<&[u8]>
    where
        S: AsyncRead + Unpin + ?Sized,
    {
        if self.buffered().is_empty() {
            self.fill(stream).await?;
        }
        Ok(self.buffered())
    }

    fn closed(&self) -> LineError {
        if self.buffered().is_empty() { LineError::Closed } else { LineError::Truncated }
    }

    fn find_lf(&mut self) -> Option<usize> {
        let buffered = self.buffer.get(self.start..).unwrap_or_default();
        let fresh = buffered.get(self.scanned..).unwrap_or_default();
        match memchr::memchr(b'\n', fresh) {
            Some(at) => Some(self.scanned + at),
            None => {
                self.scanned = buffered.len();
                None
            }
        }
    }

    /// Appends what the stream has to the buffer; 0 at its end.
    async fn fill<S>(&mut self, stream: &mut S) -> io::Result<usize>
    where
        S: AsyncRead + Unpin + ?Sized,
    {
        poll_fn(|cx| self.poll_fill(Pin::new(&mut *stream), cx)).await
    }

    fn poll_fill<S>(&mut self, stream: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        S: AsyncRead + ?Sized,
    {
        let mut chunk = [MaybeUninit::<u8>::uninit(); CHUNK_OCTETS];
        let mut read = ReadBuf::uninit(&mut chunk);
        match stream.poll_read(cx, &mut read) {
            Poll::Pending => {
                if self.start == self.buffer.len() {
                    *self = Self::new();
                }
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                self.buffer.drain(..self.start);
                self.start = 0;
                self.buffer.extend_from_slice(read.filled());
                Poll::Ready(Ok(read.filled().len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn fed(input: &[u8]) -> tokio::io::DuplexStream {
        let (mut client, server) = tokio::io::duplex(input.len().max(1));
        client.write_all(input).await.unwrap();
        server
    }

    #[tokio::test]
    async fn lines_come_one_by_one_and_the_end_is_told() {
        let mut stream = fed(b"one\r\ntwo\n\r\nrest").await;
        let mut reader = Reader::new();
        assert_eq!(reader.line(&mut stream, 100).await.unwrap(), Line { text: b"one", bare_lf: false });
        assert!(reader.has_line());
        assert_eq!(reader.line(&mut stream, 100).await.unwrap(), Line { text: b"two", bare_lf: true });
        assert_eq!(reader.line(&mut stream, 100).await.unwrap(), Line { text: b"", bare_lf: false });
        assert!(!reader.has_line());
        assert!(matches!(reader.line(&mut stream, 100).await, Err(LineError::Truncated)));
        reader.consume(4);
        assert!(matches!(reader.line(&mut stream, 100).await, Err(LineError::Closed)));
    }

    #[tokio::test]
    async fn line_of_exactly_the_limit_passes_and_one_more_octet_is_too_long() {
        let mut stream = fed(b"12345678\r\n123456789\r\nafter\r\n").await;
        let mut reader = Reader::new();
        assert_eq!(reader.line(&mut stream, 10).await.unwrap().text, b"12345678");
        assert!(matches!(reader.line(&mut stream, 10).await, Err(LineError::TooLong)));
        reader.discard_line(&mut stream, 1000).await.unwrap();
        assert_eq!(reader.line(&mut stream, 10).await.unwrap().text, b"after");
    }

    #[tokio::test]
    async fn line_of_a_hundred_megabytes_never_grows_the_buffer() {
        let (mut client, mut server) = tokio::io::duplex(64 * 1024);
        let writer = tokio::spawn(async move {
            let block = vec![b'x'; 1 << 20];
            for _ in 0..100 {
                client.write_all(&block).await.unwrap();
            }
            client.write_all(b"\r\nQUIT\r\n").await.unwrap();
        });
        let mut reader = Reader::new();
        assert!(matches!(reader.line(&mut server, 512).await, Err(LineError::TooLong)));
        reader.discard_line(&mut server, u64::MAX).await.unwrap();
        assert!(reader.buffer.capacity() <= 4 * CHUNK_OCTETS, "{}", reader.buffer.capacity());
        assert_eq!(reader.line(&mut server, 512).await.unwrap().text, b"QUIT");
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn line_without_end_beyond_the_discard_limit_is_given_up() {
        let mut stream = fed(&[b'x'; 5000]).await;
        let mut reader = Reader::new();
        assert!(matches!(reader.line(&mut stream, 512).await, Err(LineError::TooLong)));
        assert!(matches!(reader.discard_line(&mut stream, 1000).await, Err(LineError::TooLong)));
    }

    #[tokio::test]
    async fn idle_reader_owns_no_buffer() {
        let (mut client, mut server) = tokio::io::duplex(1024);
        client.write_all(b"NOOP\r\n").await.unwrap();
        let mut reader = Reader::new();
        reader.line(&mut server, 100).await.unwrap();
        tokio::select! {
            biased;
            _ = reader.line(&mut server, 100) => panic!("nothing was sent"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(reader.buffer.capacity(), 0);
        client.write_all(b"half").await.unwrap();
        tokio::select! {
            biased;
            _ = reader.line(&mut server, 100) => panic!("no whole line was sent"),
            () = std::future::ready(()) => {}
        }
        client.write_all(b"way\r\n").await.unwrap();
        assert_eq!(reader.line(&mut server, 100).await.unwrap().text, b"halfway");
    }

    #[tokio::test]
    async fn literal_spans_buffer_and_stream_and_leaves_the_rest() {
        let (mut client, mut server) = tokio::io::duplex(1 << 20);
        client.write_all(b"APPEND {200000}\r\nabc").await.unwrap();
        let mut reader = Reader::new();
        reader.line(&mut server, 100).await.unwrap();
        client.write_all(&vec![b'y'; 199_997]).await.unwrap();
        client.write_all(b")\r\n").await.unwrap();
        let mut literal = Vec::new();
        reader.exact(&mut server, 200_000, &mut literal).await.unwrap();
        assert_eq!(literal.len(), 200_000);
        assert!(literal.starts_with(b"abcy"));
        assert_eq!(reader.line(&mut server, 100).await.unwrap().text, b")");
    }

    #[tokio::test]
    async fn literal_cut_short_is_an_error_and_costs_no_announced_memory() {
        let mut stream = fed(b"abc").await;
        let mut literal = Vec::new();
        let result = Reader::new().exact(&mut stream, 4 << 30, &mut literal).await;
        assert!(matches!(result, Err(LineError::Truncated)));
        assert!(literal.capacity() <= 2 * LITERAL_STEP_OCTETS);
    }

    #[tokio::test]
    async fn skipped_octets_are_gone_and_the_rest_stays() {
        let mut stream = fed(b"0123456789rest\r\n").await;
        let mut reader = Reader::new();
        reader.skip(&mut stream, 10).await.unwrap();
        assert_eq!(reader.line(&mut stream, 100).await.unwrap().text, b"rest");
    }
}
