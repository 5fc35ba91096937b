//! The indexer: brings records into the index within a minute of their commit.
//!
//! # Crash Consistency
//! Records leave the queue after all their terms are written; what a crash leaves half done is done again, which
//! changes nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::terms;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::operations;
use crate::storage::metadata::audit::Record;
use crate::storage::metadata::audit_index::{self, Batch, Rows};
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Fewer records than this wait for others, for so many looks at most: each row that is written anew is shared by them.
const TOGETHER_MIN: usize = 512;
const LOOKS_MAX: u32 = 12;
/// Most records of a batch: a part, so that of what is behind each row is written once.
const BATCH_RECORDS: i64 = 32_768;
/// Records that are read at once.
const READ_RECORDS: usize = 512;
/// Rows that one transaction writes.
const WRITE_ROWS: usize = 1_024;

/// Records that wait, with all that is to be written of them.
struct Collected {
    batch: Batch,
    keys: Vec<i64>,
}

/// Fills the index.
pub struct Indexer {
    database: Database,
    reads: HashSet<&'static str>,
}

impl Indexer {
    /// An indexer of this database.
    pub fn new(database: Database) -> Self {
        let reads = operations().iter().filter(|one| !one.mutates).map(|one| one.name);
        Self { database, reads: reads.collect() }
    }

    /// Looks at regular intervals; never ends by itself.
    pub async fn run(&self) {
        let mut looks = 0;
        loop {
            tokio::time::sleep(INTERVAL).await;
            looks += 1;
            let done = async {
                let waiting = self.waiting(0).await?.len();
                if waiting == 0 || waiting < TOGETHER_MIN && looks < LOOKS_MAX {
                    return Ok(false);
                }
                self.pass().await.map(|()| true)
            };
            match done.await {
                Ok(false) => {}
                Ok(true) => looks = 0,
                Err(error) => {
                    tracing::error!(%error, "the audit trail could not be indexed; it is tried again")
                }
            }
        }
    }

    /// Brings all records that wait into the index.
    ///
    /// # Errors
    /// When the database fails; what was not brought in waits.
    pub async fn pass(&self) -> Result<()> {
        let mut next = self.collect(0).await?;
        while let Some(batch) = next {
            let last = batch.keys.last().copied().unwrap_or(i64::MAX);
            // While one batch is written the next is read.
            let (written, following) = tokio::join!(self.write(batch), self.collect(last));
            written?;
            next = following?;
        }
        Ok(())
    }

    async fn waiting(&self, after: i64) -> Result<Vec<i64>> {
        let read = self.database.read(|conn| {
            Box::pin(
                async move { Ok::<_, ServiceError>(audit_index::waiting(conn, after, BATCH_RECORDS).await?) },
            )
        });
        read.await
    }

    /// The next batch behind a key; nothing when no record waits.
    async fn collect(&self, after: i64) -> Result<Option<Collected>> {
        let keys = self.waiting(after).await?;
        if keys.is_empty() {
            return Ok(None);
        }
        let mut batch = Batch::default();
        for some in keys.chunks(READ_RECORDS) {
            for record in self.records(some.to_vec()).await? {
                let is_read = record.outcome == "done" && self.reads.contains(record.operation.as_str());
                batch.add(record.id, record.at, is_read, terms::of_record(&record));
            }
            tokio::task::yield_now().await;
        }
        Ok(Some(Collected { batch, keys }))
    }

    async fn write(&self, collected: Collected) -> Result<()> {
        let Collected { mut batch, keys } = collected;
        let rows: Arc<Rows> = Arc::new(batch.take());
        for from in (0..rows.len()).step_by(WRITE_ROWS) {
            let rows = Arc::clone(&rows);
            let write = self.database.write(Priority::Background, move |conn| {
                let rows = Arc::clone(&rows);
                Box::pin(async move {
                    let until = from.saturating_add(WRITE_ROWS).min(rows.len());
                    let some = rows.get(from..until).unwrap_or_default();
                    Ok::<_, ServiceError>(audit_index::write(conn, some).await?)
                })
            });
            write.await?;
        }
        let done = Arc::new((batch, keys));
        let write = self.database.write(Priority::Background, move |conn| {
            let done = Arc::clone(&done);
            Box::pin(
                async move { Ok::<_, ServiceError>(audit_index::written(conn, &done.0, &done.1).await?) },
            )
        });
        write.await
    }

    async fn records(&self, keys: Vec<i64>) -> Result<Vec<Record>> {
        let read = self.database.read(move |conn| {
            Box::pin(async move { Ok::<_, ServiceError>(audit_index::records(conn, keys).await?) })
        });
        read.await
    }
}
