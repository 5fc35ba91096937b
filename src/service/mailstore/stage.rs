//! Copies and appends that are too large for one transaction and yet all or nothing: slices that nobody sees, then
//! one change of the folder that makes them visible and charges the quota (`storage/metadata/stage.rs`).
//!
//! # Cancellation
//! The work is a task of its own: a session that goes away meanwhile leaves nothing half done.

use std::sync::Arc;

use super::Inner;
use super::types::{Appended, Copied, FolderName};
use super::work::{
    self, Ready, SLICE_ROWS, gone, lock_mailbox, no_folder, over_quota, slices, store_open, totals,
};
use crate::base::id::{FolderId, MailboxId, Uid, UidValidity};
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::delivery::BodyPlace;
use crate::storage::metadata::folder::{self, FolderDelta, FolderRow};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::stage::{self, Stage};
use crate::storage::metadata::{message, quota};

/// Octets of bodies in the database after which a slice of an append ends.
const APPEND_SLICE_OCTETS: usize = 4 * 1024 * 1024;

/// Octets that a message adds to the transaction that stores it.
fn stored_octets(message: &Ready) -> usize {
    let body = match &message.prepared.body {
        BodyPlace::Fresh(packed) => packed.data.len(),
        BodyPlace::Packs(_) => 0,
    };
    body + message.prepared.summary.data.len()
}

/// How many of `messages` go in one slice, at least one.
fn slice_len(messages: &[Ready]) -> usize {
    let mut octets = 0;
    let fitting = messages.iter().take(SLICE_ROWS).take_while(|message| {
        octets += stored_octets(message);
        octets <= APPEND_SLICE_OCTETS
    });
    fitting.count().max(1)
}

/// Whether an append needs more than one slice.
pub(super) fn is_large_append(messages: &[Ready]) -> bool {
    slice_len(messages) < messages.len()
}

/// Whether a copy needs more than one slice.
pub(super) fn is_large_copy(messages: usize) -> bool {
    messages > SLICE_ROWS
}

/// A set that is being put into a folder.
pub(super) struct Staging {
    inner: Arc<Inner>,
    mailbox: MailboxId,
    stage: Stage,
    /// The UID of the next message.
    next: u32,
    /// What the set adds so far.
    delta: FolderDelta,
}

impl Staging {
    /// Begins a set of `count` messages of together `octets` for the folder `target`.
    ///
    /// # Errors
    /// `NotFound`, `OverQuota`, `Unavailable` while another set is on its way into the folder; nothing was changed.
    pub(super) async fn begin(
        inner: Arc<Inner>,
        mailbox: MailboxId,
        target: &FolderName,
        count: usize,
        octets: i64,
    ) -> Result<Self> {
        // What was given up before is out of the way first.
        purge_abandoned(&inner).await?;
        let (target, node, at) = (target.clone(), inner.bodies.node().clone(), inner.clock.now());
        let begun = inner.database.write(Priority::Bulk, move |conn| {
            let (target, node) = (target.clone(), node.clone());
            Box::pin(async move {
                let locked = lock_mailbox(conn, mailbox).await?;
                store_open(&locked)?;
                let row = folder::lock_named(conn, mailbox, target.as_str()).await?;
                let row = row.filter(|row| row.selectable).ok_or_else(|| no_folder(&target))?;
                let messages = i64::try_from(count).unwrap_or(i64::MAX);
                quota::admits(conn, mailbox, octets, messages).await?.map_err(over_quota)?;
                if row.staged_uid != 0 {
                    let text = "another large set of messages is on its way into this folder".to_owned();
                    return Err(ServiceError::Unavailable(text));
                }
                let begun = stage::begin(conn, mailbox, &row, count, &node, at).await?;
                begun.ok_or_else(work::no_uids)
            })
        });
        let stage = begun.await?;
        Ok(Self { inner, mailbox, stage, next: stage.first, delta: FolderDelta::default() })
    }

    /// Counts what a slice has put into the folder.
    fn add(&mut self, messages: usize, delta: FolderDelta) {
        self.next = self.next.saturating_add(u32::try_from(messages).unwrap_or(u32::MAX));
        self.delta.add(delta);
    }

    /// Copies the messages `uids` of `source`; answers the pairs. Those that are gone are left out.
    pub(super) async fn copy_slice(&mut self, source: FolderId, uids: Arc<[u32]>) -> Result<Vec<(Uid, Uid)>> {
        let (mailbox, stage, next) = (self.mailbox, self.stage, self.next);
        let write = self.inner.database.write(Priority::Bulk, move |conn| {
            let uids = Arc::clone(&uids);
            Box::pin(async move {
                lock_mailbox(conn, mailbox).await?;
                let (from, into) = folder::lock_both(conn, mailbox, source, stage.folder).await?;
                from.ok_or_else(gone)?;
                let into = still(stage, into)?;
                let rows = message::rows(conn, mailbox, source, &uids).await?;
                let place = (next, stage.mod_seq);
                let new = work::copy_rows(conn, mailbox, &rows, source, stage.folder, place).await?;
                let pairs: Vec<(Uid, Uid)> =
                    rows.iter().zip(&new).map(|(from, to)| (Uid(from.uid), Uid(to.uid))).collect();
                Ok::<_, ServiceError>((pairs, totals(&new, &into)))
            })
        });
        let (pairs, delta) = write.await?;
        self.add(pairs.len(), delta);
        Ok(pairs)
    }

    /// Appends the messages of `range`.
    pub(super) async fn append_slice(
        &mut self,
        messages: &Arc<Vec<Ready>>,
        range: std::ops::Range<usize>,
    ) -> Result<()> {
        let (mailbox, stage, next, all) = (self.mailbox, self.stage, self.next, Arc::clone(messages));
        let write = self.inner.database.write(Priority::Bulk, move |conn| {
            let (all, range) = (Arc::clone(&all), range.clone());
            Box::pin(async move {
                let locked = lock_mailbox(conn, mailbox).await?;
                let into = still(stage, folder::lock(conn, mailbox, stage.folder).await?)?;
                let slice = all.get(range).unwrap_or_default();
                let place = (next, stage.mod_seq);
                let new = work::append_rows(conn, &locked, stage.folder, slice, place).await?;
                Ok::<_, ServiceError>((new.len(), totals(&new, &into)))
            })
        });
        let (messages, delta) = write.await?;
        self.add(messages, delta);
        Ok(())
    }

    /// Makes the set visible and charges it.
    ///
    /// # Errors
    /// `OverQuota`, `NotFound`; then it is not visible and must be abandoned.
    pub(super) async fn finish(&self) -> Result<()> {
        let (mailbox, stage, delta, next) = (self.mailbox, self.stage, self.delta, self.next);
        let write = self.inner.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move {
                let locked = lock_mailbox(conn, mailbox).await?;
                let row = still(stage, folder::lock(conn, mailbox, stage.folder).await?)?;
                quota::charge(conn, locked.id, delta.octets, delta.messages).await?.map_err(over_quota)?;
                Ok::<_, ServiceError>(stage::finish(conn, stage, &row, delta, next).await?)
            })
        });
        write.await
    }

    /// Gives the set up and purges it; what of that fails, housekeeping or the next start does.
    pub(super) async fn abandon(self) {
        let folder = self.stage.folder;
        let write = self.inner.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { Ok::<_, ServiceError>(stage::abandon(conn, folder).await?) })
        });
        let done = match write.await {
            Ok(()) => purge_abandoned(&self.inner).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::warn!(%error, "a set that was not stored is not purged yet");
        }
    }
}

/// Purges sets that were given up, slice by slice.
async fn purge_abandoned(inner: &Inner) -> Result<()> {
    while inner.database.write(Priority::Bulk, |conn| Box::pin(work::purge_abandoned_slice(conn))).await? {}
    Ok(())
}

/// The folder, if the set is on its way into it still.
fn still(stage: Stage, row: Option<FolderRow>) -> Result<FolderRow> {
    let there = row.filter(|row| stage.is_of(row));
    there.ok_or_else(|| ServiceError::NotFound { what: "the folder".to_owned() })
}

/// Runs `work` to its end, whoever waits for it. One large set of a mailbox is on its way at a time.
async fn run<T, F>(inner: &Arc<Inner>, mailbox: MailboxId, work: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let inner = Arc::clone(inner);
    let task = tokio::spawn(async move {
        let turn = usize::try_from(mailbox.0).unwrap_or(0) % inner.staging.len().max(1);
        let _turn = match inner.staging.get(turn) {
            Some(turn) => Some(turn.lock().await),
            None => None,
        };
        work.await
    });
    task.await.map_err(|error| ServiceError::Internal(error.to_string()))?
}

/// Copies messages of together about `octets`, all or none.
pub(super) async fn copy(
    inner: &Arc<Inner>,
    mailbox: MailboxId,
    source: FolderId,
    uids: &[Uid],
    octets: i64,
    target: &FolderName,
) -> Result<Copied> {
    let (own, uids, target) = (Arc::clone(inner), uids.to_vec(), target.clone());
    run(inner, mailbox, async move {
        let mut staging = Staging::begin(own, mailbox, &target, uids.len(), octets).await?;
        let mut pairs = Vec::with_capacity(uids.len());
        let mut outcome = Ok(());
        for slice in slices(&uids) {
            match staging.copy_slice(source, slice).await {
                Ok(copied) => pairs.extend(copied),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if outcome.is_ok() && !pairs.is_empty() {
            outcome = staging.finish().await;
        }
        let uid_validity = UidValidity(staging.stage.uid_validity);
        if outcome.is_err() || pairs.is_empty() {
            staging.abandon().await;
        }
        outcome.map(|()| Copied { uid_validity, pairs })
    })
    .await
}

/// Appends messages, all or none.
pub(super) async fn append(
    inner: &Arc<Inner>,
    mailbox: MailboxId,
    target: &FolderName,
    messages: Arc<Vec<Ready>>,
) -> Result<Appended> {
    let (own, target) = (Arc::clone(inner), target.clone());
    run(inner, mailbox, async move {
        let octets = messages.iter().fold(0_i64, |sum, message| {
            sum.saturating_add(i64::try_from(message.octets).unwrap_or(i64::MAX))
        });
        let mut staging = Staging::begin(own, mailbox, &target, messages.len(), octets).await?;
        let (mut start, mut outcome) = (0, Ok(()));
        while outcome.is_ok()
            && let Some(rest) = messages.get(start..).filter(|rest| !rest.is_empty())
        {
            let end = start + slice_len(rest);
            outcome = staging.append_slice(&messages, start..end).await;
            start = end;
        }
        if outcome.is_ok() {
            outcome = staging.finish().await;
        }
        let (first, next) = (staging.stage.first, staging.next);
        let uid_validity = UidValidity(staging.stage.uid_validity);
        if outcome.is_err() {
            staging.abandon().await;
        }
        outcome.map(|()| Appended { uid_validity, uids: (first..next).map(Uid).collect() })
    })
    .await
}
