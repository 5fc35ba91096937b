//! What happens to a message's bytes before any transaction: summary, compression, and the pack of a large
//! body.

use bytes::Bytes;

use super::summary::summarize;
use crate::base::clock::Timestamp;
use crate::base::id::MailboxId;
use crate::storage::bodies::Bodies;
use crate::storage::metadata::delivery::{BodyPlace, Packed};
use crate::storage::{Result, StorageError};

/// From this size on a message is summarized on a thread where blocking is allowed, in octets.
const INLINE_OCTETS_MAX: usize = 128 * 1024;

/// Prepares messages for storage. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    bodies: Bodies,
}

/// A message ready for its transaction.
pub struct Prepared {
    /// Where the body goes.
    pub body: BodyPlace,
    /// The compressed summary.
    pub summary: Packed,
}

impl Intake {
    /// Prepares for these bodies.
    pub fn new(bodies: Bodies) -> Self {
        Self { bodies }
    }

    /// What keeps bodies.
    pub fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// Compresses something small: trace lines, a summary.
    pub fn compress(&self, bytes: &[u8]) -> Packed {
        self.bodies.compress(bytes)
    }

    /// Summarizes and compresses a message for `mailboxes`. A large body is on disk when this returns; call
    /// [`Self::settle`] after the transaction, whatever came of it.
    ///
    /// # Errors
    /// When a large body could not be written to its pack; then nothing was stored.
    pub async fn prepare(&self, message: Bytes, mailboxes: &[MailboxId], now: Timestamp) -> Result<Prepared> {
        let summary = if message.len() <= INLINE_OCTETS_MAX {
            self.summarize(&message)
        } else {
            let (own, message) = (self.clone(), message.clone());
            let summary = tokio::task::spawn_blocking(move || own.summarize(&message)).await;
            summary.map_err(|_| StorageError::Busy("summarizing a message was interrupted"))?
        };
        let body = self.bodies.place(message, mailboxes, now).await?;
        Ok(Prepared { body, summary })
    }

    /// Removes what [`Self::prepare`] wrote for a message that was not stored. When that fails, the next
    /// start does it.
    pub async fn settle(&self, body: &BodyPlace) {
        if let Err(error) = self.bodies.settle(body).await {
            tracing::warn!(%error, "the pack of a message that was not stored is still there");
        }
    }

    fn summarize(&self, message: &[u8]) -> Packed {
        self.compress(&summarize(message).encode())
    }
}
