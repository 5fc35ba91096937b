//! What happens to a message's bytes before any transaction: summary, compression, and the pack of a large body.

use bytes::Bytes;

use super::summary::summarize;
use crate::storage::metadata::delivery::{BodyPlace, Packed};
use crate::storage::pack::Codec;
use crate::storage::{Result, StorageError};

/// From this size on a message is prepared on a thread where blocking is allowed, in octets.
const INLINE_OCTETS_MAX: usize = 128 * 1024;

/// Prepares messages for storage. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    codec: Codec,
}

/// A message ready for its transaction.
pub struct Prepared {
    /// The compressed body.
    pub body: BodyPlace,
    /// The compressed summary.
    pub summary: Packed,
}

impl Intake {
    /// Prepares with this codec.
    pub fn new(codec: Codec) -> Self {
        Self { codec }
    }

    /// Compresses something small: trace lines, a summary.
    pub fn compress(&self, bytes: &[u8]) -> Packed {
        let compressed = self.codec.compress(bytes);
        Packed {
            codec: compressed.codec.number(),
            dictionary_id: compressed.dictionary_id,
            octets: bytes.len() as u64,
            data: compressed.data.into(),
        }
    }

    /// Summarizes and compresses a message.
    ///
    /// # Errors
    /// When a large body could not be written to its pack; then nothing was stored.
    pub async fn prepare(&self, message: Bytes) -> Result<Prepared> {
        if message.len() <= INLINE_OCTETS_MAX {
            return Ok(self.prepare_blocking(&message));
        }
        let own = self.clone();
        let prepared = tokio::task::spawn_blocking(move || own.prepare_blocking(&message)).await;
        prepared.map_err(|_| StorageError::Busy("preparing a message was interrupted"))
    }

    fn prepare_blocking(&self, message: &[u8]) -> Prepared {
        let summary = self.compress(&summarize(message).encode());
        Prepared { body: BodyPlace::Fresh(self.compress(message)), summary }
    }
}
