//! What happens to requests by itself: they expire, become void, and wait for somebody else when nobody is left where
//! they waited.

use std::sync::Arc;
use std::time::Duration;

use super::decisions::decide;
use super::process::{enter, waits_elsewhere};
use super::void;
use crate::base::clock::Timestamp;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Management};
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::request;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(60);
/// Requests of one slice.
const SLICE_ROWS: i64 = 64;
/// How long requests are kept after they were decided.
const KEPT: Duration = Duration::from_secs(366 * 86_400);

/// Does it.
pub struct RequestPass {
    inner: Arc<Inner>,
}

impl RequestPass {
    /// For the requests of this management.
    pub fn new(management: &Management) -> Self {
        Self { inner: Arc::clone(&management.inner) }
    }

    /// Looks at regular intervals; never ends by itself and may be dropped at any time.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.pass().await {
                tracing::warn!(%error, "open requests could not be looked at; it is tried again");
            }
        }
    }

    /// Looks at every open request; answers how many have changed.
    ///
    /// # Errors
    /// When the database fails; what was changed before stays so.
    pub async fn pass(&self) -> Result<u64> {
        let (now, mut after, mut changed) = (self.inner.clock.now(), Some(0), 0);
        while let Some(from) = after {
            let (next, count) = self.slice(from, now).await?;
            (after, changed) = (next, changed + count);
        }
        let before = now.minus(KEPT);
        loop {
            let pruned = self.inner.database.write(Priority::Background, move |conn| {
                Box::pin(async move { Ok::<_, ServiceError>(request::prune(conn, before).await?) })
            });
            if pruned.await? == 0 {
                return Ok(changed);
            }
        }
    }

    /// Looks at the open requests behind a key; answers where to go on, and how many have changed.
    async fn slice(&self, after: i64, now: Timestamp) -> Result<(Option<i64>, u64)> {
        let rows = self.inner.database.read(move |conn| {
            Box::pin(async move { Ok::<_, ServiceError>(request::open(conn, after, SLICE_ROWS).await?) })
        });
        let Some(last) = rows.await?.last().map(|row| row.id) else { return Ok((None, 0)) };
        let inner = Arc::clone(&self.inner);
        let write = self.inner.database.write(Priority::Background, move |conn| {
            let inner = Arc::clone(&inner);
            Box::pin(async move {
                let tree = inner.authority.tree(conn, TreeLock::Exclusive).await?;
                let mut changed = 0;
                for row in request::open(conn, after, SLICE_ROWS).await? {
                    if row.id > last {
                        break;
                    }
                    if row.expires_at <= now {
                        decide(conn, &row, "expired", (None, None), now).await?;
                        changed += 1;
                    } else if let Some(why) = void(conn, &tree, &row, now).await? {
                        let why = format!("Why: {why}.");
                        decide(conn, &row, "void", (None, Some(&why)), now).await?;
                        changed += 1;
                    } else if waits_elsewhere(conn, &tree, &row, now).await? {
                        enter(conn, &tree, (&row, row.process, row.step), now).await?;
                        changed += 1;
                    }
                }
                Ok::<_, ServiceError>(changed)
            })
        });
        Ok((Some(last), write.await?))
    }
}
