//! The content of a request in the form that the HTTP client takes.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use hyper::body::{Body, Frame, SizeHint};

/// A stream of known length. The lock is never contended: the client wants a body that could be shared, and does not
/// share it.
pub(super) struct Outgoing {
    pieces: Mutex<BoxStream<'static, std::io::Result<Bytes>>>,
    rest: u64,
}

impl Outgoing {
    pub(super) fn new(pieces: BoxStream<'static, std::io::Result<Bytes>>, octets: u64) -> Self {
        Self { pieces: Mutex::new(pieces), rest: octets }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let pieces = self.pieces.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Poll::Ready(piece) = pieces.poll_next_unpin(cx) else { return Poll::Pending };
        let length = piece.as_ref().map_or(0, |piece| piece.as_ref().map_or(0, |piece| piece.len() as u64));
        match (piece, self.rest.checked_sub(length)) {
            (Some(Ok(_)), None) => Poll::Ready(Some(Err(std::io::Error::other("the content is too long")))),
            (None, Some(rest)) if rest > 0 => {
                self.rest = 0;
                Poll::Ready(Some(Err(std::io::Error::other("the content is too short"))))
            }
            (piece, rest) => {
                self.rest = rest.unwrap_or(0);
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}
