//! Refusals on their way into the delivery trace: written in the background, since strangers cause them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::base::clock::Timestamp;
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::quota::QuotaOwner;
use crate::storage::metadata::quota_mark;
use crate::storage::metadata::recipient::{self, RefusedDelivery};
use crate::storage::metadata::sql::Conn;

/// Refusals that may wait; under a flood the rest is dropped, and counted in the log.
const QUEUE_LENGTH_MAX: usize = 1024;
/// Most rows of one transaction.
const BATCH_ROWS_MAX: usize = 128;
/// Pause between two batches: bounds what a flood may write.
const BATCH_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub(super) struct Refusals(mpsc::Sender<Note>);

/// What is written.
#[derive(Clone)]
enum Note {
    Refused(RefusedDelivery),
    /// Somebody was refused for want of room.
    Full(QuotaOwner, Timestamp),
}

impl Refusals {
    pub(super) fn new(database: Database) -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE_LENGTH_MAX);
        tokio::spawn(async move {
            let mut batch: Vec<Note> = Vec::new();
            while receiver.recv_many(&mut batch, BATCH_ROWS_MAX).await > 0 {
                let notes = Arc::new(std::mem::take(&mut batch));
                let write = database.write(Priority::Background, move |conn| {
                    let notes = Arc::clone(&notes);
                    Box::pin(async move { write(conn, &notes).await })
                });
                let result: Result<(), StorageError> = write.await;
                if let Err(error) = result {
                    tracing::warn!(%error, "refusals could not be entered into the delivery trace");
                }
                tokio::time::sleep(BATCH_PAUSE).await;
            }
        });
        Self(sender)
    }

    pub(super) fn note(&self, refusal: RefusedDelivery) {
        tracing::info!(queue_id = refusal.queue_id, reason = refusal.reason, "delivery refused");
        if self.0.try_send(Note::Refused(refusal)).is_err() {
            tracing::debug!("too many refusals at once: one is missing in the delivery trace");
        }
    }

    /// Notes that a limit refuses. Where that is dropped under a flood, the next refusal notes it.
    pub(super) fn note_full(&self, owner: QuotaOwner, at: Timestamp) {
        let _ = self.0.try_send(Note::Full(owner, at));
    }
}

async fn write(conn: &mut Conn, notes: &[Note]) -> Result<(), StorageError> {
    let mut rows = Vec::new();
    for note in notes {
        match note {
            Note::Refused(refusal) => rows.push(refusal.clone()),
            Note::Full(owner, at) => quota_mark::note_full(conn, *owner, *at).await?,
        }
    }
    recipient::trace_refusals(conn, &rows).await
}
