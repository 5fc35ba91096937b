//! From what is stored back to what clients see, with checks.

use bytes::Bytes;

use super::summary::Summary;
use crate::service::error::{Result, ServiceError};
use crate::storage::bodies::Bodies;
use crate::storage::metadata::content::Stored;
use crate::storage::metadata::delivery::Packed;

/// Above this many octets decompression goes to a thread where it delays nobody else.
const INLINE_OCTETS_MAX: u64 = 128 * 1024;

/// A summary.
pub(super) fn unpack_summary(bodies: &Bodies, packed: &Packed) -> Result<Summary> {
    let bytes = bodies.decompress(packed)?;
    Summary::decode(&bytes).map_err(|error| ServiceError::Internal(format!("summary: {error}")))
}

/// The body of a message.
pub(super) async fn body(bodies: &Bodies, stored: &Stored) -> Result<Bytes> {
    let Some(fresh) = stored.fresh.clone() else { return Ok(bodies.read(stored.body).await?) };
    if fresh.octets <= INLINE_OCTETS_MAX {
        return Ok(bodies.decompress(&fresh)?.into());
    }
    let bodies = bodies.clone();
    Ok(off_thread(move || bodies.decompress(&fresh)).await??.into())
}

/// A whole message: trace lines and body.
pub(super) async fn message(bodies: &Bodies, stored: Stored) -> Result<Bytes> {
    let body = body(bodies, &stored).await?;
    let Some(prefix) = &stored.prefix else { return Ok(body) };
    let mut message = bodies.decompress(prefix)?;
    message.reserve_exact(body.len());
    message.extend_from_slice(&body);
    Ok(message.into())
}

/// Runs work for the processor where it delays no other session.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::Internal(error.to_string()))
}
