//! From what is stored back to what clients see, with checks.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::summary::Summary;
use super::view::MessageSummary;
use crate::base::id::Uid;
use crate::service::error::{Result, ServiceError};
use crate::storage::bodies::Bodies;
use crate::storage::metadata::content::Stored;
use crate::storage::metadata::delivery::Packed;
use crate::storage::metadata::summary::{Summaries, SummaryPlace};
use crate::storage::metadata::summary_block;
use crate::storage::{self, StorageError};

/// Blocks of summaries that are kept decompressed while a folder is read: messages that came from several other folders
/// alternate between the blocks of those.
const BLOCKS_OPEN_MAX: usize = 8;

/// Summaries with their trace lines, in their order.
pub(super) fn unpack_summaries(bodies: &Bodies, stored: &Summaries) -> Result<Vec<MessageSummary>> {
    let mut open: VecDeque<(i64, Vec<u8>)> = VecDeque::new();
    let mut summaries = Vec::with_capacity(stored.rows.len());
    for row in &stored.rows {
        let prefix = match &row.prefix {
            Some(prefix) => bodies.decompress(prefix)?.into(),
            None => Bytes::new(),
        };
        let summary = match &row.summary {
            SummaryPlace::Own(packed) => decode(&bodies.decompress(packed)?)?,
            SummaryPlace::Block { block, offset, octets } => {
                if !open.iter().any(|(of, _)| of == block) {
                    let packed =
                        stored.blocks.get(block).ok_or(StorageError::Gone("a block of summaries"))?;
                    open.truncate(BLOCKS_OPEN_MAX - 1);
                    open.push_front((*block, bodies.decompress(packed)?));
                }
                let found = open.iter().find(|(of, _)| of == block);
                let (_, plain) = found.ok_or(StorageError::Gone("a block of summaries"))?;
                decode(summary_block::cut(plain, *offset, *octets)?)?
            }
        };
        let (uid, internal_date) = (Uid(row.uid), row.internal_date);
        summaries.push(MessageSummary { uid, internal_date, prefix, summary: Arc::new(summary) });
    }
    Ok(summaries)
}

fn decode(octets: &[u8]) -> Result<Summary> {
    Summary::decode(octets).map_err(|error| ServiceError::Internal(format!("summary: {error}")))
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
