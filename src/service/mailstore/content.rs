//! From what is stored back to what clients see, with checks.

use bytes::Bytes;

use super::summary::Summary;
use crate::service::error::{Result, ServiceError};
use crate::storage::bodies::Bodies;
use crate::storage::metadata::content::Stored;
use crate::storage::metadata::delivery::Packed;
use crate::storage::{self, StorageError};

/// A summary.
pub(super) fn unpack_summary(bodies: &Bodies, packed: &Packed) -> Result<Summary> {
    let bytes = bodies.decompress(packed)?;
    Summary::decode(&bytes).map_err(|error| ServiceError::Internal(format!("summary: {error}")))
}

/// Whether what is read begins with a message's trace lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reads {
    /// Trace lines and body.
    Whole,
    /// The body alone.
    Body,
}

/// Messages, in their order; nothing for those whose body is not there any more: they were expunged, or another body
/// with the same bytes has taken its place.
pub(super) async fn read_messages(
    bodies: &Bodies,
    stored: &[Stored],
    reads: Reads,
) -> Vec<Option<Result<Bytes>>> {
    let wanted = stored.iter().map(|stored| (stored.body, stored.location.clone())).collect();
    let read = bodies.read_located(wanted).await;
    let message = |(stored, body): (&Stored, storage::Result<Bytes>)| {
        let body = match body {
            Err(StorageError::Gone(_)) => return None,
            body => body.map_err(ServiceError::from),
        };
        Some(body.and_then(|body| match (&stored.prefix, reads) {
            (Some(prefix), Reads::Whole) => with_prefix(bodies, prefix, &body),
            _ => Ok(body),
        }))
    };
    stored.iter().zip(read).map(message).collect()
}

fn with_prefix(bodies: &Bodies, prefix: &Packed, body: &Bytes) -> Result<Bytes> {
    let mut message = bodies.decompress(prefix)?;
    message.reserve_exact(body.len());
    message.extend_from_slice(body);
    Ok(message.into())
}

/// Runs work for the processor where it delays no other session.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::Internal(error.to_string()))
}
