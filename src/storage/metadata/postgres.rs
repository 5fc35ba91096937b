//! PostgreSQL: a pool, several delivery lanes, and notifications between nodes.
//!
//! # Retries
//! Deadlocks and serialization failures run the operation again, at most [`ATTEMPTS_MAX`] times. A connection lost
//! during COMMIT is an error: whether it was committed is unknown, and the sender tries again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::Executor as _;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};
use tokio::sync::{Mutex, mpsc, watch};

use super::changes::{Changes, Touched};
use super::database::Told;
use super::delivery::{self, DeliverJob};
use super::lane::{Job, Priority};
use super::schema::{Dialect, migrator};
use super::sql::{Conn, Handle, Trouble};
use super::tally::Tally;
use crate::base::id::{FolderId, MailboxId, random_text};
use crate::base::telemetry::metrics::Metrics;
use crate::storage::{Result, StorageError};

/// Connections of one node.
const CONNECTIONS_MAX: u32 = 16;
/// Delivery lanes of one node: each commits on its own, so that one waits for the disk while others work.
const LANES: usize = 4;
/// Most deliveries in one group.
const GROUP_OPERATIONS_MAX: usize = 256;
/// Deliveries that may wait before callers wait for a place.
const QUEUE_LENGTH_MAX: usize = 4096;
/// How often an operation is run that others' locks made fail.
const ATTEMPTS_MAX: u32 = 8;
/// The notification channel.
const CHANNEL: &str = "posthouse";
/// PostgreSQL's bound on a notification's text is 8,000 octets.
const NOTIFICATION_OCTETS_MAX: usize = 7_500;

pub(super) struct Postgres {
    pub(super) pool: PgPool,
    deliveries: mpsc::Sender<DeliverJob>,
    after: Arc<AfterCommit>,
    stop: watch::Sender<bool>,
}

/// What happens after a commit: this node's sessions are told, then the other nodes.
struct AfterCommit {
    changes: Changes,
    outgoing: mpsc::Sender<Touched>,
    metrics: Metrics,
    tally: Tally,
}

impl AfterCommit {
    fn publish(&self, touched: &[Touched]) {
        self.changes.publish(touched);
        for one in touched {
            // When the queue is full the others learn of it by their regular look; nothing is lost by that.
            let _ = self.outgoing.try_send(*one);
        }
    }
}

impl Postgres {
    pub(super) async fn open(url: &str, told: Told) -> Result<Self> {
        let Told { changes, metrics, tally } = told;
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(Duration::from_secs(15))
            .connect(url)
            .await?;
        for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
            let (value,): (String,) =
                sqlx::query_as("SELECT current_setting($1)").bind(setting).fetch_one(&pool).await?;
            if value == "off" {
                let text = format!(
                    "PostgreSQL runs with {setting}=off: acknowledged mail could be lost; switch it on"
                );
                return Err(sqlx::Error::Configuration(text.into()).into());
            }
        }
        migrator(Dialect::Postgres)
            .run(&pool)
            .await
            .map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
        let (deliveries, deliveries_rx) = mpsc::channel(QUEUE_LENGTH_MAX);
        let (outgoing, outgoing_rx) = mpsc::channel(QUEUE_LENGTH_MAX);
        let (stop, stopped) = watch::channel(false);
        let node = random_text(10);
        let after = Arc::new(AfterCommit { changes: changes.clone(), outgoing, metrics, tally });
        let queue = Arc::new(Mutex::new(deliveries_rx));
        for _ in 0..LANES {
            tokio::spawn(lane(pool.clone(), Arc::clone(&queue), Arc::clone(&after)));
        }
        tokio::spawn(notify(pool.clone(), outgoing_rx, node.clone()));
        tokio::spawn(listen(pool.clone(), changes, node, stopped));
        Ok(Self { pool, deliveries, after, stop })
    }

    pub(super) async fn submit_delivery(&self, job: DeliverJob) -> Result<()> {
        self.deliveries.send(job).await.map_err(|_| StorageError::Busy("the database is closed"))
    }

    /// Deliveries that wait.
    pub(super) fn deliveries_waiting(&self) -> usize {
        QUEUE_LENGTH_MAX - self.deliveries.capacity()
    }

    /// Runs one job in a transaction of its own.
    pub(super) async fn run(&self, _priority: Priority, mut job: Box<dyn Job>) {
        let mut outcome = Err(StorageError::Busy("the transaction kept colliding with others"));
        for attempt in 0..ATTEMPTS_MAX {
            match self.attempt(job.as_mut()).await {
                Attempt::Done(result) => {
                    outcome = result;
                    break;
                }
                Attempt::Again => tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 3)).await,
            }
        }
        job.answer(outcome);
    }

    async fn attempt(&self, job: &mut dyn Job) -> Attempt {
        let mut conn = match begin(&self.pool, &self.after).await {
            Ok(conn) => conn,
            Err(error) => return Attempt::Done(Err(error)),
        };
        conn.rows_changed = 0;
        let succeeded = job.run(&mut conn).await;
        conn.operation_counted();
        if !succeeded {
            let trouble = conn.trouble;
            let _ = finish(&mut conn, "ROLLBACK").await;
            return if trouble == Some(Trouble::Retry) { Attempt::Again } else { Attempt::Done(Ok(())) };
        }
        let touched = std::mem::take(&mut conn.touched);
        match finish(&mut conn, "COMMIT").await {
            Ok(_) => {
                self.after.publish(&touched);
                Attempt::Done(Ok(()))
            }
            Err(_) if conn.trouble == Some(Trouble::Retry) => Attempt::Again,
            Err(error) => Attempt::Done(Err(error)),
        }
    }

    pub(super) async fn close(self) {
        let _ = self.stop.send(true);
        drop(self.deliveries);
        self.pool.close().await;
    }
}

enum Attempt {
    Done(Result<()>),
    Again,
}

/// Ends the transaction; a connection on which that fails is not used again.
async fn finish(conn: &mut Conn, text: &'static str) -> Result<()> {
    conn.execute(text, Vec::new()).await?;
    conn.set_in_transaction(false);
    Ok(())
}

async fn begin(pool: &PgPool, after: &AfterCommit) -> Result<Conn> {
    let mut conn = Conn::new(Handle::Postgres(pool.acquire().await?.into()), after.tally.clone());
    conn.set_in_transaction(true);
    conn.execute("BEGIN", Vec::new()).await?;
    Ok(conn)
}

async fn lane(pool: PgPool, queue: Arc<Mutex<mpsc::Receiver<DeliverJob>>>, after: Arc<AfterCommit>) {
    loop {
        let mut group = Vec::new();
        let taken = queue.lock().await.recv_many(&mut group, GROUP_OPERATIONS_MAX).await;
        if taken == 0 {
            return;
        }
        commit_halving(&pool, group, &after).await;
    }
}

/// Commits a group; one that fails is split in halves, so that only the delivery at fault fails.
async fn commit_halving(pool: &PgPool, group: Vec<DeliverJob>, after: &AfterCommit) {
    let mut pending = vec![group];
    while let Some(mut group) = pending.pop() {
        match commit_retrying(pool, &mut group, after).await {
            Ok(()) => group.into_iter().for_each(DeliverJob::answer),
            Err((error, splittable)) if splittable && group.len() > 1 => {
                tracing::warn!(%error, operations = group.len(), "a group of deliveries failed and is split");
                let rest = group.split_off(group.len() / 2);
                pending.push(rest);
                pending.push(group);
            }
            Err((error, _)) => {
                tracing::error!(%error, "deliveries could not be committed");
                for job in group {
                    job.answer_error(match error {
                        StorageError::Full => StorageError::Full,
                        _ => StorageError::Busy("the transaction could not be committed"),
                    });
                }
            }
        }
    }
}

/// The error says whether a part of the group may succeed; after a lost connection nothing is tried again, since
/// the commit may have happened.
async fn commit_retrying(
    pool: &PgPool,
    group: &mut [DeliverJob],
    after: &AfterCommit,
) -> std::result::Result<(), (StorageError, bool)> {
    let mut last = StorageError::Busy("the transaction kept colliding with others");
    for attempt in 0..ATTEMPTS_MAX {
        let mut conn = begin(pool, after).await.map_err(|error| (error, false))?;
        let result = delivery::run_group(&mut conn, group).await;
        let result = match result {
            Ok(()) => {
                let touched = std::mem::take(&mut conn.touched);
                let begun = Instant::now();
                let committed = finish(&mut conn, "COMMIT").await.map(|_| touched);
                after.metrics.commit(group.len(), begun.elapsed());
                committed.map_err(|error| (error, false))
            }
            Err(error) => Err((error, true)),
        };
        let trouble = conn.trouble;
        match result {
            Ok(touched) => {
                after.publish(&touched);
                return Ok(());
            }
            Err((error, in_work)) => {
                let _ = finish(&mut conn, "ROLLBACK").await;
                if trouble != Some(Trouble::Retry) {
                    // Without trouble in the database it was this program that refused one of them.
                    let is_ones = matches!(trouble, None | Some(Trouble::Statement));
                    return Err((error, in_work && is_ones));
                }
                last = error;
            }
        }
        tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 3)).await;
    }
    Err((last, true))
}

/// Sends what this node changed to the others, coalesced: all that waits goes in one notification.
async fn notify(pool: PgPool, mut outgoing: mpsc::Receiver<Touched>, node: String) {
    let mut batch = Vec::new();
    while outgoing.recv_many(&mut batch, 256).await > 0 {
        batch.sort_unstable_by_key(encode);
        batch.dedup();
        let mut text = node.clone();
        for touched in batch.drain(..) {
            let word = encode(&touched);
            if text.len() + word.len() + 1 > NOTIFICATION_OCTETS_MAX {
                send(&pool, &text).await;
                text.truncate(node.len());
            }
            text.push(' ');
            text.push_str(&word);
        }
        send(&pool, &text).await;
    }
}

async fn send(pool: &PgPool, text: &str) {
    let query = sqlx::query("SELECT pg_notify($1, $2)").bind(CHANNEL).bind(text);
    if let Err(error) = pool.execute(query).await {
        tracing::warn!(%error, "other nodes could not be notified; they look by themselves");
    }
}

/// Receives what other nodes changed. After the connection was away every watcher looks once.
async fn listen(pool: PgPool, changes: Changes, node: String, mut stopped: watch::Receiver<bool>) {
    loop {
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(CHANNEL).await?;
            changes.publish_all();
            while let Some(notification) = listener.try_recv().await? {
                let mut words = notification.payload().split(' ');
                if words.next() != Some(node.as_str()) {
                    changes.publish(&words.filter_map(decode).collect::<Vec<_>>());
                }
            }
            Ok::<(), sqlx::Error>(())
        };
        tokio::select! {
            () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => return,
            result = listening => {
                if let Err(error) = result {
                    tracing::warn!(%error, "the connection for notifications was lost");
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

fn encode(touched: &Touched) -> String {
    match touched {
        Touched::Folder(id) => format!("f{id}"),
        Touched::Mailbox(id) => format!("m{id}"),
        Touched::Directory => "d".to_owned(),
        Touched::Stores => "s".to_owned(),
    }
}

fn decode(word: &str) -> Option<Touched> {
    match word.split_at_checked(1)? {
        ("f", id) => id.parse().ok().map(|id| Touched::Folder(FolderId(id))),
        ("m", id) => id.parse().ok().map(|id| Touched::Mailbox(MailboxId(id))),
        ("d", "") => Some(Touched::Directory),
        ("s", "") => Some(Touched::Stores),
        _ => None,
    }
}
