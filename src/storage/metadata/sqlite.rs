//! SQLite: one writer connection fed by a lane with group commit, a pool of readers, and a checkpointer.
//!
//! # Consistency
//! While one transaction commits, everything that arrives queues; the next takes all of it (no timer). Each operation
//! has a savepoint, so one that fails leaves the others alone. Nobody is answered before the commit is on disk.
//!
//! # Background work
//! While others use the lane, background operations get a twentieth of its time: one that took a millisecond is
//! followed by the next nineteen milliseconds later. Clients that all wait for the same commit leave the lane idle
//! for a moment before they send again; without the pause a background transaction would begin just then and be
//! waited for by all of them.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::changes::Changes;
use super::database::Told;
use super::delivery::{self, DeliverJob};
use super::lane::{Job, Priority};
use super::schema::{Dialect, migrator};
use super::sql::{Conn, Handle, Trouble};
use crate::base::telemetry::metrics::Metrics;
use crate::storage::{Result, StorageError};

/// Most operations in one group (storage.md: measured best between 200 and 500).
const GROUP_OPERATIONS_MAX: usize = 256;
/// Most octets of bodies in one group.
const GROUP_OCTETS_MAX: usize = 8 * 1024 * 1024;
/// Operations that may wait in a queue before callers wait for a place.
const QUEUE_LENGTH_MAX: usize = 4096;
/// Rows that a reading connection's thread reads ahead: a page of the mail store, so that it need not wait for the
/// task that takes them.
const READ_ROWS_BUFFERED: usize = 256;
/// Reading connections.
const READERS: u32 = 4;
/// Size of the write-ahead log from which the lane pauses for a checkpoint that starts it anew.
const WAL_OCTETS_MAX: u64 = 256 * 1024 * 1024;
/// How long the lane leaves the log alone after a reader kept it from being shortened.
const WAL_PAUSE: Duration = Duration::from_secs(30);
/// How often the checkpointer looks whether there is something to write back.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(500);
/// After so many looks at an unchanged log its space is given back.
const IDLE_ROUNDS: u32 = 4;
/// How long the checkpointer waits for readers, and keeps a commit waiting meanwhile.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(50);

/// After a background operation the next one rests for so many times as long.
const BACKGROUND_REST: u32 = 19;
/// The longest such rest: it never starves.
const BACKGROUND_REST_MAX: Duration = Duration::from_millis(250);
/// The lane counts as used by others for so long after one of their operations.
const BUSY_TIME: Duration = Duration::from_millis(100);

pub(super) struct Sqlite {
    pub(super) readers: SqlitePool,
    interactive: mpsc::Sender<Box<dyn Job>>,
    bulk: mpsc::Sender<Box<dyn Job>>,
    background: mpsc::Sender<Box<dyn Job>>,
    deliveries: mpsc::Sender<DeliverJob>,
    /// Whether the lane has ended and closed its connection.
    ended: watch::Receiver<bool>,
    checkpointer: JoinHandle<()>,
    /// The database file.
    pub(super) path: String,
}

impl Sqlite {
    pub(super) async fn open(path: &str, told: Told) -> Result<Self> {
        let Told { changes, metrics, tally } = told;
        let options = SqliteConnectOptions::from_str(&format!("sqlite:{path}"))?
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(256)
            .pragma("wal_autocheckpoint", "0")
            .disable_statement_logging();
        // What belongs to the file, not to a connection, is set by the writer alone.
        let mut writer = options
            .clone()
            .create_if_missing(true)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("cache_size", "-16384")
            .pragma("secure_delete", "off")
            .connect()
            .await?;
        migrator(Dialect::Sqlite)
            .run_direct(None, &mut writer, false)
            .await
            .map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
        let checkpointer = options.clone().statement_cache_capacity(4).busy_timeout(CHECKPOINT_WAIT);
        let checkpointer = checkpointer.pragma("cache_size", "-64").connect().await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .idle_timeout(Duration::from_secs(60))
            .connect_with(
                options
                    .pragma("query_only", "on")
                    .pragma("cache_size", "-4096")
                    .row_buffer_size(READ_ROWS_BUFFERED),
            )
            .await?;
        let (interactive, interactive_rx) = mpsc::channel(QUEUE_LENGTH_MAX);
        let (bulk, bulk_rx) = mpsc::channel(QUEUE_LENGTH_MAX);
        let (background, background_rx) = mpsc::channel(QUEUE_LENGTH_MAX);
        let (deliveries, deliveries_rx) = mpsc::channel(QUEUE_LENGTH_MAX);
        let (ended_tx, ended) = watch::channel(false);
        let lane = Lane {
            conn: Conn::new(Handle::Sqlite(writer), tally),
            interactive: interactive_rx,
            bulk: bulk_rx,
            background: background_rx,
            deliveries: deliveries_rx,
            changes,
            metrics,
            wal: PathBuf::from(format!("{path}-wal")),
            wal_left_alone_until: None,
            used_until: None,
            background_rests_until: None,
        };
        let stop_checkpointer = ended.clone();
        tokio::spawn(async move {
            lane.run().await;
            let _ = ended_tx.send(true);
        });
        let wal = PathBuf::from(format!("{path}-wal"));
        let checkpointer = tokio::spawn(checkpoint(checkpointer, wal, stop_checkpointer));
        let path = path.to_owned();
        Ok(Self { readers, interactive, bulk, background, deliveries, ended, checkpointer, path })
    }

    pub(super) async fn submit(&self, priority: Priority, job: Box<dyn Job>) -> Result<()> {
        let queue = match priority {
            Priority::Interactive => &self.interactive,
            Priority::Bulk => &self.bulk,
            Priority::Background => &self.background,
        };
        queue.send(job).await.map_err(|_| StorageError::Busy("the database is closed"))
    }

    pub(super) async fn submit_delivery(&self, job: DeliverJob) -> Result<()> {
        self.deliveries.send(job).await.map_err(|_| StorageError::Busy("the database is closed"))
    }

    /// What waits: deliveries, interactive, bulk and background operations.
    pub(super) fn waiting(&self) -> [usize; 4] {
        let waiting = |queue: &mpsc::Sender<Box<dyn Job>>| QUEUE_LENGTH_MAX - queue.capacity();
        let deliveries = QUEUE_LENGTH_MAX - self.deliveries.capacity();
        [deliveries, waiting(&self.interactive), waiting(&self.bulk), waiting(&self.background)]
    }

    /// Lets the queues run empty, commits, and closes the files: then no connection is left that could lock them.
    pub(super) async fn close(self) {
        let Self { readers, interactive, bulk, background, deliveries, mut ended, checkpointer, .. } = self;
        drop((interactive, bulk, background, deliveries));
        let _ = ended.wait_for(|ended| *ended).await;
        readers.close().await;
        let _ = checkpointer.await;
    }
}

struct Lane {
    conn: Conn,
    interactive: mpsc::Receiver<Box<dyn Job>>,
    bulk: mpsc::Receiver<Box<dyn Job>>,
    background: mpsc::Receiver<Box<dyn Job>>,
    deliveries: mpsc::Receiver<DeliverJob>,
    changes: Changes,
    metrics: Metrics,
    wal: PathBuf,
    wal_left_alone_until: Option<Instant>,
    /// Until when it counts as used by others than background work.
    used_until: Option<Instant>,
    background_rests_until: Option<Instant>,
}

/// What one transaction carries.
#[derive(Default)]
struct Group {
    deliveries: Vec<DeliverJob>,
    jobs: Vec<Box<dyn Job>>,
    background: Option<Box<dyn Job>>,
}

impl Group {
    fn len(&self) -> usize {
        self.deliveries.len() + self.jobs.len() + usize::from(self.background.is_some())
    }

    /// Answers everybody with the same error.
    fn fail(self, error: impl Fn() -> StorageError) {
        for job in self.deliveries {
            job.answer_error(error());
        }
        for job in self.jobs.into_iter().chain(self.background) {
            job.answer(Err(error()));
        }
    }
}

impl Lane {
    async fn run(mut self) {
        while let Some(group) = self.next_group().await {
            self.commit_group(group).await;
        }
        if let Some(connection) = self.conn.sqlite() {
            let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(connection).await;
        }
        let _ = self.conn.close().await;
    }

    /// Waits for something to do and takes all of it, up to the bounds; nothing when all senders are gone.
    async fn next_group(&mut self) -> Option<Group> {
        let mut group = Group::default();
        let rests_until = self.background_rests_until;
        tokio::select! {
            biased;
            Some(job) = self.deliveries.recv() => group.deliveries.push(job),
            Some(job) = self.interactive.recv() => group.jobs.push(job),
            Some(job) = self.bulk.recv() => group.jobs.push(job),
            Some(job) = after_rest(rests_until, &mut self.background) => group.background = Some(job),
            else => return None,
        }
        let mut octets: usize = group.deliveries.iter().map(DeliverJob::octets).sum();
        while group.deliveries.len() < GROUP_OPERATIONS_MAX && octets < GROUP_OCTETS_MAX {
            let Ok(job) = self.deliveries.try_recv() else { break };
            octets += job.octets();
            group.deliveries.push(job);
        }
        while group.deliveries.len() + group.jobs.len() < GROUP_OPERATIONS_MAX {
            let Ok(job) = self.interactive.try_recv() else { break };
            group.jobs.push(job);
        }
        // One slice each: long work goes on under load, but never delays a group by more than a slice.
        if let Ok(job) = self.bulk.try_recv() {
            group.jobs.push(job);
        }
        let now = Instant::now();
        if !(group.deliveries.is_empty() && group.jobs.is_empty()) {
            self.used_until = Some(now + BUSY_TIME);
        }
        if group.background.is_none() && self.background_rests_until.is_none_or(|until| until <= now) {
            group.background = self.background.try_recv().ok();
        }
        Some(group)
    }

    /// Background work took so long, and makes room for others if there are any.
    fn rest_background(&mut self, took: Duration) {
        let now = Instant::now();
        let is_used = self.used_until.is_some_and(|until| now < until);
        let rest = took.saturating_mul(BACKGROUND_REST).min(BACKGROUND_REST_MAX);
        self.background_rests_until = is_used.then_some(now + rest);
    }

    async fn commit_group(&mut self, mut group: Group) {
        self.bound_wal().await;
        if let Err(error) = self.statement("BEGIN IMMEDIATE").await {
            tracing::error!(%error, "cannot begin a transaction");
            return group.fail(|| again(&error));
        }
        let mut outcome = self.run_deliveries(&mut group.deliveries).await;
        for job in &mut group.jobs {
            if outcome.is_err() {
                break;
            }
            outcome = self.run_job(job.as_mut()).await;
        }
        let background_begun = Instant::now();
        if let (Ok(()), Some(job)) = (&outcome, &mut group.background) {
            outcome = self.run_job(job.as_mut()).await;
        }
        let begun = Instant::now();
        let outcome = match outcome {
            Ok(()) => self.statement("COMMIT").await,
            Err(error) => Err(error),
        };
        self.metrics.commit(group.len(), begun.elapsed());
        if group.background.is_some() {
            let is_alone = group.len() == 1;
            self.rest_background(if is_alone {
                background_begun.elapsed()
            } else {
                begun - background_begun
            });
        }
        let touched = std::mem::take(&mut self.conn.touched);
        match outcome {
            Ok(()) => {
                self.changes.publish(&touched);
                for job in group.deliveries {
                    job.answer();
                }
                for job in group.jobs.into_iter().chain(group.background) {
                    job.answer(Ok(()));
                }
            }
            Err(error) => {
                tracing::error!(%error, "a group of operations could not be committed");
                // After some errors SQLite has rolled back already; then this fails and nothing is lost by it.
                let _ = self.statement("ROLLBACK").await;
                group.fail(|| again(&error));
            }
        }
    }

    /// Deliveries run set-based under one savepoint; when a statement fails the group is split in halves, so that
    /// only the delivery at fault fails.
    async fn run_deliveries(&mut self, deliveries: &mut [DeliverJob]) -> Result<()> {
        let mut ranges = VecDeque::new();
        ranges.push_back(0..deliveries.len());
        while let Some(range) = ranges.pop_front() {
            let Some(part) = deliveries.get_mut(range.clone()) else { continue };
            if part.is_empty() {
                continue;
            }
            self.statement("SAVEPOINT operation").await?;
            self.conn.trouble = None;
            let touched = self.conn.touched.len();
            match delivery::run_group(&mut self.conn, part).await {
                Ok(()) => self.statement("RELEASE operation").await?,
                Err(error) => {
                    if matches!(self.conn.trouble, Some(Trouble::Full | Trouble::Lost)) {
                        return Err(error);
                    }
                    self.conn.touched.truncate(touched);
                    self.statement("ROLLBACK TO operation").await?;
                    self.statement("RELEASE operation").await?;
                    if let [only] = part {
                        only.fail(error);
                    } else {
                        let middle = range.start + range.len() / 2;
                        ranges.push_front(middle..range.end);
                        ranges.push_front(range.start..middle);
                    }
                }
            }
        }
        Ok(())
    }

    async fn run_job(&mut self, job: &mut dyn Job) -> Result<()> {
        self.statement("SAVEPOINT operation").await?;
        self.conn.trouble = None;
        let touched = self.conn.touched.len();
        self.conn.rows_changed = 0;
        let succeeded = job.run(&mut self.conn).await;
        self.conn.operation_counted();
        if succeeded {
            return self.statement("RELEASE operation").await;
        }
        match self.conn.trouble {
            Some(Trouble::Full) => return Err(StorageError::Full),
            Some(Trouble::Lost) => return Err(StorageError::Busy("the database file cannot be written")),
            _ => {}
        }
        self.conn.touched.truncate(touched);
        self.statement("ROLLBACK TO operation").await?;
        self.statement("RELEASE operation").await
    }

    async fn statement(&mut self, text: &'static str) -> Result<()> {
        self.conn.execute(text, Vec::new()).await.map(|_| ())
    }

    /// Above the bound, waits for a checkpoint that lets the log start anew; a reader may hold it off for 10 s.
    async fn bound_wal(&mut self) {
        let is_left_alone = self.wal_left_alone_until.is_some_and(|until| Instant::now() < until);
        if is_left_alone || wal_octets(&self.wal) < WAL_OCTETS_MAX {
            return;
        }
        let Some(connection) = self.conn.sqlite() else { return };
        let row: std::result::Result<(i64, i64, i64), _> =
            sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(connection).await;
        match row {
            Ok((0, ..)) => {}
            Ok((_, pages, written)) => {
                self.wal_left_alone_until = Some(Instant::now() + WAL_PAUSE);
                tracing::warn!(pages, written, "a reader keeps the write-ahead log from being shortened");
            }
            Err(error) => tracing::warn!(%error, "the write-ahead log could not be shortened"),
        }
    }
}

/// The next operation, not before a time.
async fn after_rest(
    until: Option<Instant>,
    queue: &mut mpsc::Receiver<Box<dyn Job>>,
) -> Option<Box<dyn Job>> {
    if let Some(until) = until {
        tokio::time::sleep_until(until.into()).await;
    }
    queue.recv().await
}

fn wal_octets(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// The same trouble told to another caller.
fn again(error: &StorageError) -> StorageError {
    match error {
        StorageError::Full => StorageError::Full,
        _ => StorageError::Busy("the transaction could not be committed"),
    }
}

/// Writes the log back into the database file as it grows, so that no commit has to; when nothing was written for a
/// while, gives the log's space back.
async fn checkpoint(mut connection: SqliteConnection, wal: PathBuf, mut ended: watch::Receiver<bool>) {
    let (mut seen, mut idle_rounds) = (0, 0_u32);
    loop {
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => break,
            () = tokio::time::sleep(CHECKPOINT_INTERVAL) => {}
        }
        let modified = std::fs::metadata(&wal).and_then(|metadata| metadata.modified()).ok();
        let stamp =
            modified.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
        idle_rounds = if stamp == seen { idle_rounds.saturating_add(1) } else { 0 };
        seen = stamp;
        let text = match idle_rounds {
            0 => "PRAGMA wal_checkpoint(PASSIVE)",
            // A log that is used again at once is better kept: writing over it costs less than making it anew.
            IDLE_ROUNDS if wal_octets(&wal) > 0 => "PRAGMA wal_checkpoint(TRUNCATE)",
            _ => continue,
        };
        if let Err(error) = sqlx::query(text).execute(&mut connection).await {
            tracing::warn!(%error, "checkpoint failed; it is tried again");
        }
    }
    let _ = connection.close().await;
}

#[cfg(test)]
mod tests {
    use crate::storage::metadata::database::Database;
    use crate::storage::metadata::lane::Priority;
    use crate::storage::metadata::snapshot;

    /// Files that this process has open below a folder.
    fn open_below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        links.filter(|file| file.starts_with(folder)).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closed_database_holds_no_file_open_and_is_made_one_file_at_once() {
        let folder = tempfile::tempdir().unwrap();
        for round in 0..8 {
            let file = folder.path().join(format!("{round}.db"));
            let database = Database::open(&format!("sqlite:{}", file.display())).await.unwrap();
            let drawn = database.write(Priority::Interactive, |conn| Box::pin(conn.object_ids(1)));
            drawn.await.unwrap();
            assert!(!open_below(folder.path()).is_empty());
            database.close().await;
            assert_eq!(open_below(folder.path()), Vec::<std::path::PathBuf>::new(), "round {round}");
            snapshot::settle(&file).await.unwrap();
        }
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 8, "nothing beside the databases");
    }
}
