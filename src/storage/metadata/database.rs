//! The database as the rooms above see it: read, write, deliver.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::changes::Changes;
use super::delivery::{Deliver, DeliverJob, TargetOutcome};
use super::lane::{ClosureJob, Priority, Work};
use super::portable;
use super::postgres::Postgres;
use super::snapshot;
use super::sql::{Conn, Handle};
use super::sqlite::Sqlite;
use super::tally::Tally;
use crate::base::telemetry::metrics::Metrics;
use crate::storage::{Result, StorageError};

/// How long users that are about to go are waited for when the database is closed.
pub const CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether they have gone.
const CLOSE_PAUSE: Duration = Duration::from_millis(5);

/// Who is told of what a backend does.
pub(super) struct Told {
    pub(super) changes: Changes,
    pub(super) metrics: Metrics,
    pub(super) tally: Tally,
}

enum Backend {
    Sqlite(Sqlite),
    Postgres(Postgres),
}

/// A handle on the database; cheap to clone.
#[derive(Clone)]
pub struct Database {
    backend: Arc<Backend>,
    changes: Changes,
    tally: Tally,
}

impl Database {
    /// Opens `sqlite:PATH` or `postgres://…`, creating or migrating the tables.
    ///
    /// # Errors
    /// When it cannot be opened, was written by a newer version, or (PostgreSQL) runs with `fsync=off`.
    pub async fn open(url: &str) -> Result<Self> {
        Self::open_measured(url, Metrics::new()).await
    }

    /// As [`Self::open`]; commits are counted in `metrics`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_measured(url: &str, metrics: Metrics) -> Result<Self> {
        let told = Told { changes: Changes::default(), metrics, tally: Tally::default() };
        let (changes, tally) = (told.changes.clone(), told.tally.clone());
        let backend = match url.strip_prefix("sqlite:") {
            Some(path) => Backend::Sqlite(Sqlite::open(path.trim_start_matches("//"), told).await?),
            None => Backend::Postgres(Postgres::open(url, told).await?),
        };
        Ok(Self { backend: Arc::new(backend), changes, tally })
    }

    /// What the database was made to do.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Where to watch for committed changes.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Whether this is PostgreSQL, which several nodes may share.
    pub fn is_shared(&self) -> bool {
        matches!(&*self.backend, Backend::Postgres(_))
    }

    /// Writes a copy of the database, as of one moment, to an SQLite file that must not exist.
    ///
    /// # Errors
    /// When the file exists or cannot be written; then it may be there in part.
    pub async fn copy_to(&self, target: &Path) -> Result<()> {
        match &*self.backend {
            Backend::Sqlite(sqlite) => {
                let name = target.to_str().ok_or(StorageError::Busy("the name of the copy is not UTF-8"))?;
                snapshot::copy(&sqlite.path, name).await
            }
            Backend::Postgres(postgres) => portable::export(&postgres.pool, target).await,
        }
    }

    /// Fills this database, which is PostgreSQL and empty, from a copy: all of it or nothing.
    ///
    /// # Errors
    /// `Exists` when there is something in it; `Busy` on SQLite, where the copy itself is the database.
    pub async fn load_from(&self, source: &Path) -> Result<()> {
        match &*self.backend {
            Backend::Sqlite(_) => Err(StorageError::Busy("a copy is itself an SQLite database")),
            Backend::Postgres(postgres) => portable::import(&postgres.pool, source).await,
        }
    }

    /// Runs `work` on a reading connection. Keep it short: at most 1,000 rows or 50 ms, and never across a write to
    /// a socket, since an open reader keeps the write-ahead log from shrinking.
    ///
    /// # Errors
    /// Those of `work`, and when no connection is to be had.
    pub async fn read<T, E, F>(&self, work: F) -> std::result::Result<T, E>
    where
        F: for<'c> FnOnce(&'c mut Conn) -> Work<'c, T, E>,
        E: From<StorageError>,
    {
        let handle = match &*self.backend {
            Backend::Sqlite(sqlite) => {
                Handle::SqlitePooled(sqlite.readers.acquire().await.map_err(StorageError::from)?)
            }
            Backend::Postgres(postgres) => {
                Handle::Postgres(postgres.pool.acquire().await.map_err(StorageError::from)?.into())
            }
        };
        work(&mut Conn::new(handle, self.tally.clone())).await
    }

    /// Runs `work` in a transaction (on SQLite together with others, each with its own savepoint) and answers after
    /// the commit is on disk. An error of `work` undoes what it did. It may be run more than once, so it must not
    /// have effects besides the database.
    ///
    /// # Errors
    /// Those of `work`; a storage error when the transaction could not be committed: then nothing was changed.
    pub async fn write<T, E, F>(&self, priority: Priority, work: F) -> std::result::Result<T, E>
    where
        F: for<'c> Fn(&'c mut Conn) -> Work<'c, T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: From<StorageError> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(ClosureJob::new(work, reply));
        match &*self.backend {
            Backend::Sqlite(sqlite) => sqlite.submit(priority, job).await?,
            Backend::Postgres(_) => {
                // A task of its own: a caller that goes away must not leave a transaction open on its connection.
                let backend = Arc::clone(&self.backend);
                tokio::spawn(async move {
                    if let Backend::Postgres(postgres) = &*backend {
                        postgres.run(priority, job).await;
                    }
                });
            }
        }
        answer.await.unwrap_or_else(|_| Err(StorageError::Busy("the database is closing").into()))
    }

    /// Stores a message for its recipients; the answer comes after the commit is on disk.
    ///
    /// # Errors
    /// When the transaction could not be committed: then nothing was stored.
    pub async fn deliver(&self, deliver: Deliver) -> Result<Vec<TargetOutcome>> {
        let (reply, answer) = oneshot::channel();
        let job = DeliverJob::new(deliver, reply);
        match &*self.backend {
            Backend::Sqlite(sqlite) => sqlite.submit_delivery(job).await?,
            Backend::Postgres(postgres) => postgres.submit_delivery(job).await?,
        }
        answer.await.unwrap_or_else(|_| Err(StorageError::Busy("the database is closing")))
    }

    /// What waits for its turn: deliveries, interactive, bulk and background operations. On PostgreSQL only deliveries
    /// queue here; others take a connection.
    pub fn waiting(&self) -> [usize; 4] {
        match &*self.backend {
            Backend::Sqlite(sqlite) => sqlite.waiting(),
            Backend::Postgres(postgres) => [postgres.deliveries_waiting(), 0, 0, 0],
        }
    }

    /// Lets what is queued finish and closes the database; other handles must have been dropped before, or are dropped
    /// within [`CLOSE_PATIENCE`]. Answers whether it is closed; if not, it closes with its last user.
    pub async fn close(self) -> bool {
        let Self { mut backend, .. } = self;
        let begun = Instant::now();
        loop {
            backend = match Arc::try_unwrap(backend) {
                Ok(Backend::Sqlite(sqlite)) => {
                    sqlite.close().await;
                    return true;
                }
                Ok(Backend::Postgres(postgres)) => {
                    postgres.close().await;
                    return true;
                }
                Err(used) => used,
            };
            if begun.elapsed() > CLOSE_PATIENCE {
                tracing::warn!("the database is still in use; it closes with its last user");
                return false;
            }
            tokio::time::sleep(CLOSE_PAUSE).await;
        }
    }
}
