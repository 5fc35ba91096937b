//! Refusals on their way into the delivery trace: written in the background, since strangers cause them.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::recipient::{self, RefusedDelivery};

/// Refusals that may wait; under a flood the rest is dropped, and counted in the log.
const QUEUE_LENGTH_MAX: usize = 1024;
/// Most rows of one transaction.
const BATCH_ROWS_MAX: usize = 128;
/// Pause between two batches: bounds what a flood may write.
const BATCH_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Refusals(mpsc::Sender<RefusedDelivery>);

impl Refusals {
    pub(super) fn new(database: Database) -> Self {
        let (sender, mut receiver) = mpsc::channel(QUEUE_LENGTH_MAX);
        tokio::spawn(async move {
            let mut batch: Vec<RefusedDelivery> = Vec::new();
            while receiver.recv_many(&mut batch, BATCH_ROWS_MAX).await > 0 {
                let rows = std::mem::take(&mut batch);
                let write = database.write(Priority::Background, move |conn| {
                    let rows = rows.clone();
                    Box::pin(async move { recipient::trace_refusals(conn, &rows).await })
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
        if self.0.try_send(refusal).is_err() {
            tracing::debug!("too many refusals at once: one is missing in the delivery trace");
        }
    }
}
