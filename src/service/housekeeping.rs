//! Housekeeping: what goes by itself after its time, in small slices in the background.
//!
//! - messages of deleted folders at once, expunged ranges beyond a bound;
//! - traces of deliveries after `retention.trace_days`;
//! - expunged messages and deleted folders after `retention.undelete_days`, the oldest beyond a bound before;
//! - deleted mailboxes, domains, customers and administrators after `retention.undelete_days`;
//! - notices after 90 days;
//! - audit records of reads after 90 days, of changes and refusals after what `audit.retention` says (ten years);
//! - counts of logins to mailboxes after what `login_log.retention` says (90 days);
//! - samples of what nodes use, and answers kept for Idempotency-Key, after a day; pins that have expired; jobs 30 days
//!   after their end.
//!
//! # Cancellation
//! Every slice is a transaction of its own, so that it may be dropped anywhere.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::base::clock::{Clock, Timestamp};
use crate::base::id::CustomerId;
use crate::service::audit::prune;
use crate::service::authority::Authority;
use crate::service::error::{Result, ServiceError};
use crate::service::login::log as login_log;
use crate::service::mailstore::MailStore;
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::{Priority, Work};
use crate::storage::metadata::purge::Kind;
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::{
    audit_index, deleted_folder, instance, job, node, notice, pin, purge, tombstone, trace,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(10 * 60);
/// How often it looks for deleted folders.
const FOLDER_INTERVAL: Duration = Duration::from_secs(10);
/// How often the node says that it runs.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long answers are kept for Idempotency-Key: longer than a client tries again.
const IDEMPOTENCY_DURATION: Duration = DAY;
/// Rows of the index over the audit trail that go in one transaction.
const INDEX_ROWS: i64 = 1_024;
/// How long audit records of changes and refusals are kept unless the setting `audit.retention` says otherwise.
const AUDIT_DAYS: u32 = 3_653;
/// How long jobs are kept after their end.
const JOB_DAYS: u32 = 30;
/// How long notices are kept.
const NOTICE_DAYS: u32 = 90;
/// Traces that one slice removes.
const TRACE_ROWS: i64 = 256;

/// Older records of changes and refusals may be gone.
pub(in crate::service) fn audit_kept_since(now: Timestamp) -> Timestamp {
    now.minus(DAY * AUDIT_DAYS)
}

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Traces of deliveries, in days.
    pub trace_days: u32,
    /// What was deleted and may come back, in days.
    pub undelete_days: u32,
}

/// What one pass removed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Removed {
    /// Traces of deliveries.
    pub traces: u64,
    /// Mailboxes.
    pub mailboxes: u64,
    /// Domains.
    pub domains: u64,
    /// Customers.
    pub customers: u64,
    /// Administrators.
    pub administrators: u64,
    /// Audit records.
    pub audit: u64,
    /// Answers kept for Idempotency-Key.
    pub answers: u64,
    /// Jobs.
    pub jobs: u64,
    /// Notices.
    pub notices: u64,
    /// Expunged messages that could have come back.
    pub tombstones: u64,
    /// Samples of what nodes use.
    pub samples: u64,
    /// Lines of the login log.
    pub logins: u64,
}

/// Does it.
pub struct Housekeeping {
    database: Database,
    mail_store: MailStore,
    clock: Clock,
    node: String,
    kept: Kept,
    authority: Arc<Authority>,
    /// When looking through the audit records was begun, and up to which time they have been looked at since.
    audit_seen: Mutex<(Timestamp, Timestamp)>,
    /// The hour since 1970 in which the login log was last swept: its lines are of whole hours.
    logins_swept: AtomicI64,
}

impl Housekeeping {
    /// For the node of this name.
    pub fn new(database: Database, mail_store: MailStore, clock: Clock, node: String, kept: Kept) -> Self {
        Self {
            database,
            mail_store,
            clock,
            node,
            kept,
            authority: Arc::default(),
            audit_seen: Mutex::new((Timestamp(0), Timestamp(0))),
            logins_swept: AtomicI64::new(i64::MIN),
        }
    }

    /// Looks at regular intervals; never ends by itself.
    pub async fn run(&self) {
        let passes = async {
            loop {
                tokio::time::sleep(INTERVAL).await;
                match self.pass(self.clock.now()).await {
                    Ok(removed) if removed != Removed::default() => tracing::info!(?removed, "housekeeping"),
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "housekeeping failed; it is tried again"),
                }
            }
        };
        let folders = async {
            loop {
                tokio::time::sleep(FOLDER_INTERVAL).await;
                if let Err(error) = self.folders().await {
                    tracing::warn!(%error, "purging a deleted folder failed; it is tried again");
                }
            }
        };
        let beats = async {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                if let Err(error) = self.beat().await {
                    tracing::warn!(%error, "the node could not say that it runs");
                }
            }
        };
        tokio::join!(passes, folders, beats);
    }

    /// Purges deleted folders.
    ///
    /// # Errors
    /// When the database cannot be written; what was purged before is gone.
    pub async fn folders(&self) -> Result<()> {
        while self.mail_store.purge_slice().await? {}
        Ok(())
    }

    async fn beat(&self) -> Result<()> {
        let (node, now) = (self.node.clone(), self.clock.now());
        self.slice(move |conn| {
            let node = node.clone();
            Box::pin(async move { Ok(instance::node_seen(conn, &node, now).await?) })
        })
        .await
    }

    /// Removes everything whose time is over at `now`.
    ///
    /// # Errors
    /// When the database fails; what was removed before stays so.
    pub async fn pass(&self, now: Timestamp) -> Result<Removed> {
        let mut removed = Removed::default();
        self.slice(move |conn| Box::pin(async move { Ok(pin::prune(conn, now).await?) })).await?;
        let before = now.minus(DAY * self.kept.trace_days);
        removed.traces = self
            .until_none(move |conn| {
                Box::pin(async move { Ok(trace::prune(conn, before, TRACE_ROWS).await?) })
            })
            .await?;
        let before = now.minus(IDEMPOTENCY_DURATION);
        removed.answers = self
            .until_none(move |conn| Box::pin(async move { Ok(purge::idempotency(conn, before).await?) }))
            .await?;
        let before = now.minus(DAY);
        removed.samples = self
            .until_none(move |conn| Box::pin(async move { Ok(node::prune(conn, before).await?) }))
            .await?;
        let before = now.minus(DAY * JOB_DAYS);
        removed.jobs =
            self.until_none(move |conn| Box::pin(async move { Ok(job::prune(conn, before).await?) })).await?;
        let before = now.minus(DAY * NOTICE_DAYS);
        removed.notices = self
            .until_none(move |conn| Box::pin(async move { Ok(notice::prune(conn, before).await?) }))
            .await?;
        removed.audit = self.audit(now).await?;
        removed.logins = self.logins(now).await?;
        self.folders().await?;
        self.mail_store.expunged_prune().await?;
        let before = now.minus(DAY * self.kept.undelete_days);
        removed.tombstones = self.tombstones(before).await?;
        self.deleted(before, now, &mut removed).await?;
        Ok(removed)
    }

    /// Drops tombstones whose time is over, and the oldest of mailboxes that have too many.
    async fn tombstones(&self, before: Timestamp) -> Result<u64> {
        let mut removed = self
            .until_none(move |conn| {
                Box::pin(async move { Ok(tombstone::expired_slice(conn, before).await?) })
            })
            .await?;
        self.until_none(move |conn| {
            Box::pin(async move { Ok(deleted_folder::expired_slice(conn, before).await?) })
        })
        .await?;
        loop {
            let find = self.database.read(|conn| Box::pin(tombstone::excessive(conn)));
            let mailboxes = find.await.map_err(|error: StorageError| error)?;
            let mut dropped = 0;
            for mailbox in mailboxes {
                dropped += self
                    .until_none(move |conn| {
                        Box::pin(async move { Ok(tombstone::trim_slice(conn, mailbox).await?) })
                    })
                    .await?;
            }
            if dropped == 0 {
                return Ok(removed);
            }
            removed += dropped;
        }
    }

    async fn deleted(&self, before: Timestamp, now: Timestamp, removed: &mut Removed) -> Result<()> {
        for (kind, count) in [
            (Kind::Mailbox, &mut removed.mailboxes),
            (Kind::Domain, &mut removed.domains),
            (Kind::Administrator, &mut removed.administrators),
            (Kind::Customer, &mut removed.customers),
        ] {
            // Customers go from the leaves up: each round lays others bare.
            loop {
                let find = self.database.read(|conn| Box::pin(purge::due(conn, kind, before)));
                let keys: Vec<i64> = find.await.map_err(|error: StorageError| error)?;
                if keys.is_empty() {
                    break;
                }
                for key in keys {
                    while self
                        .slice(move |conn| {
                            Box::pin(async move { Ok(purge::slice(conn, kind, key, before, now).await?) })
                        })
                        .await?
                    {}
                    *count += 1;
                }
            }
        }
        Ok(())
    }

    /// Removes lines of the login log, once an hour.
    async fn logins(&self, now: Timestamp) -> Result<u64> {
        let hour = login_log::hour_of(now);
        if self.logins_swept.load(Ordering::Relaxed) == hour {
            return Ok(0);
        }
        let (mut removed, mut after) = (0, CustomerId(0));
        loop {
            let authority = Arc::clone(&self.authority);
            let slice = self.slice(move |conn| {
                let authority = Arc::clone(&authority);
                Box::pin(async move { login_log::sweep(conn, &authority, after, now).await })
            });
            let swept = slice.await?;
            removed += swept.removed;
            let Some(until) = swept.until else {
                self.logins_swept.store(hour, Ordering::Relaxed);
                return Ok(removed);
            };
            after = until;
        }
    }

    async fn audit(&self, now: Timestamp) -> Result<u64> {
        self.begin_day(now);
        let mut removed = 0;
        loop {
            let from = self.audit_seen().1;
            let authority = Arc::clone(&self.authority);
            let slice = self.slice(move |conn| {
                let authority = Arc::clone(&authority);
                Box::pin(async move { prune::slice(conn, &authority, from, now).await })
            });
            let pruned = slice.await?;
            removed += pruned.removed;
            self.audit_seen().1 = pruned.until;
            if !pruned.more {
                self.sweep_index(now).await?;
                return Ok(removed);
            }
        }
    }

    /// Removes what the index over the audit trail has of records that are forgotten.
    async fn sweep_index(&self, now: Timestamp) -> Result<()> {
        let since = prune::reads_since(now);
        loop {
            let read = self.database.read(|conn| {
                Box::pin(async move { Ok::<_, ServiceError>(audit_index::dead(conn, since).await?) })
            });
            let parts = read.await?;
            if parts.is_empty() {
                return Ok(());
            }
            for dead in parts {
                while self
                    .slice(move |conn| {
                        Box::pin(async move { Ok(audit_index::sweep(conn, dead, INDEX_ROWS).await?) })
                    })
                    .await?
                {}
            }
        }
    }

    /// Once a day all records are looked at again: what is kept longer than reads ends at another time.
    fn begin_day(&self, now: Timestamp) {
        let mut seen = self.audit_seen();
        if seen.0.plus(DAY) <= now {
            *seen = (now, Timestamp(0));
        }
    }

    fn audit_seen(&self) -> MutexGuard<'_, (Timestamp, Timestamp)> {
        self.audit_seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One transaction in the background.
    async fn slice<T, F>(&self, work: F) -> Result<T>
    where
        F: for<'c> Fn(&'c mut Conn) -> Work<'c, T, ServiceError> + Send + Sync + 'static,
        T: Send + 'static,
    {
        self.database.write(Priority::Background, work).await
    }

    /// Slices until one removes nothing.
    async fn until_none<F>(&self, work: F) -> Result<u64>
    where
        F: for<'c> Fn(&'c mut Conn) -> Work<'c, u64, ServiceError> + Send + Sync + Copy + 'static,
    {
        let mut removed = 0;
        loop {
            match self.slice(work).await? {
                0 => return Ok(removed),
                count => removed += count,
            }
        }
    }
}
