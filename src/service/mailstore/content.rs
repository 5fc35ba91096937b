//! From what is stored back to what clients see, with checks.

use bytes::Bytes;

use super::summary::Summary;
use crate::service::error::{Result, ServiceError};
use crate::storage::bodies::Bodies;
use crate::storage::metadata::content::Stored;
use crate::storage::metadata::delivery::Packed;

/// A summary.
pub(super) fn unpack_summary(bodies: &Bodies, packed: &Packed) -> Result<Summary> {
    let bytes = bodies.decompress(packed)?;
    Summary::decode(&bytes).map_err(|error| ServiceError::Internal(format!("summary: {error}")))
}

/// The bodies of messages, in their order.
pub(super) async fn read_bodies(bodies: &Bodies, stored: &[Stored]) -> Vec<Result<Bytes>> {
    let wanted = stored.iter().map(|stored| (stored.body, stored.location.clone())).collect();
    bodies.read_located(wanted).await.into_iter().map(|body| body.map_err(ServiceError::from)).collect()
}

/// Whole messages, in their order: trace lines and body.
pub(super) async fn read_messages(bodies: &Bodies, stored: &[Stored]) -> Vec<Result<Bytes>> {
    let read = read_bodies(bodies, stored).await;
    let whole = |(stored, body): (&Stored, Result<Bytes>)| {
        let body = body?;
        let Some(prefix) = &stored.prefix else { return Ok(body) };
        let mut message = bodies.decompress(prefix)?;
        message.reserve_exact(body.len());
        message.extend_from_slice(&body);
        Ok(message.into())
    };
    stored.iter().zip(read).map(whole).collect()
}

/// Runs work for the processor where it delays no other session.
pub(super) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ServiceError::Internal(error.to_string()))
}
