//! Work that nobody waits for: what deleted folders leave, expunged ranges that nobody needs any more, and delivery
//! traces past their time. Each step is a slice in the background queue, so mail goes first.

use std::time::Duration;

use super::error::Result;
use super::mailstore::MailStore;
use crate::base::clock::Clock;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::trace;

/// How often it is looked whether there is something to purge.
const PURGE_INTERVAL: Duration = Duration::from_secs(10);
/// Looks between two rounds of pruning: about an hour.
const PRUNE_LOOKS: u32 = 360;
/// Rows of one slice.
const SLICE_ROWS: i64 = 256;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is kept in order.
pub struct Housekeeping {
    /// Deleted folders and expunged ranges.
    pub mail_store: MailStore,
    /// Delivery traces.
    pub database: Database,
    /// The time.
    pub clock: Clock,
    /// How long delivery traces are kept.
    pub trace_days: u32,
}

impl Housekeeping {
    /// Runs until it is dropped; dropping is safe at any point, the next start goes on.
    pub async fn run(self) {
        let mut looks = 0_u32;
        loop {
            tokio::time::sleep(PURGE_INTERVAL).await;
            if let Err(error) = self.purge().await {
                tracing::warn!(%error, "purging a deleted folder failed; it is tried again");
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(PRUNE_LOOKS)
                && let Err(error) = self.prune().await
            {
                tracing::warn!(%error, "what is past its time could not be removed; it is tried again");
            }
        }
    }

    /// Purges deleted folders.
    ///
    /// # Errors
    /// When the database cannot be written; what was purged before is gone.
    pub async fn purge(&self) -> Result<()> {
        while self.mail_store.purge_slice().await? {}
        Ok(())
    }

    /// Forgets expunged ranges and delivery traces.
    ///
    /// # Errors
    /// When the database cannot be written; what was forgotten before stays so.
    pub async fn prune(&self) -> Result<()> {
        let ranges = self.mail_store.expunged_prune().await?;
        let before = self.clock.now().minus(DAY.saturating_mul(self.trace_days));
        let mut traces = 0;
        loop {
            let write = self.database.write(Priority::Background, move |conn| {
                Box::pin(async move { Ok(trace::prune(conn, before, SLICE_ROWS).await?) })
            });
            let pruned: Result<u64> = write.await;
            match pruned? {
                0 => break,
                rows => traces += rows,
            }
        }
        tracing::debug!(ranges, traces, "what was past its time is gone");
        Ok(())
    }
}
