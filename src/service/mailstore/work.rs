//! What happens inside one transaction: append, copy, move, expunge, purge.
//!
//! # Consistency
//! Locks in this order: mailbox, folders by id, counters of domain and customers. Counters of the folder and the
//! charge change in the transaction that adds or removes the rows, so they equal what is there at every commit.
//! What is too large for one transaction and must be all or nothing goes by `stage.rs`.

use std::sync::Arc;

use super::flags::{Keywords, translate};
use super::intake::Prepared;
use super::types::{Appended, Copied, FlagBits, FlagSet, FolderName};
use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId, Uid, UidValidity};
use crate::service::error::{Resource, Result, ServiceError};
use crate::storage::metadata::database::Database;
use crate::storage::metadata::folder::{self, FolderDelta, FolderRow};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::legal_hold;
use crate::storage::metadata::mailbox::{self, LockedMailbox};
use crate::storage::metadata::message::{self, MessageRow};
use crate::storage::metadata::quota::{self, OverLimit, QuotaOwner};
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::stage;
use crate::storage::metadata::tombstone;
use crate::storage::metadata::{body, content, deleted_folder};

/// Most rows that one transaction of long work changes.
pub(super) const SLICE_ROWS: usize = 256;

/// The queue for work on so many rows.
pub(super) fn priority(rows: usize) -> Priority {
    if rows <= SLICE_ROWS { Priority::Interactive } else { Priority::Bulk }
}

/// The open folder was deleted.
pub(super) fn gone() -> ServiceError {
    ServiceError::NotFound { what: "the open folder".to_owned() }
}

/// There is no folder of that name that can be opened.
pub(super) fn no_folder(name: &FolderName) -> ServiceError {
    ServiceError::NotFound { what: format!("folder {name}") }
}

/// The refusal as the owner of the mailbox may see it: what is above the mailbox is not named.
pub(super) fn over_quota(over: OverLimit) -> ServiceError {
    let (resource, what) =
        if over.on_messages { (Resource::Messages, "number of messages") } else { (Resource::Bytes, "size") };
    let limit = match over.owner {
        QuotaOwner::Mailbox(_) => format!("the limit of this mailbox on the {what}"),
        QuotaOwner::Domain(_) | QuotaOwner::Customer(_) => format!("the {what} is limited above your scope"),
    };
    ServiceError::OverQuota { resource, limit }
}

/// UIDs of rows, in their order.
pub(super) fn uids_of(rows: &[MessageRow]) -> Vec<u32> {
    rows.iter().map(|row| row.uid).collect()
}

/// Locks the mailbox.
pub(super) async fn lock_mailbox(conn: &mut Conn, mailbox: MailboxId) -> Result<LockedMailbox> {
    let locked = mailbox::lock(conn, mailbox).await?;
    locked.ok_or_else(|| ServiceError::NotFound { what: "the mailbox".to_owned() })
}

/// The mail store is stopped, read-only, or not mounted here.
pub(super) fn store_closed() -> ServiceError {
    ServiceError::Unavailable("the mail store takes no mail at present".to_owned())
}

pub(super) fn store_open(mailbox: &LockedMailbox) -> Result<()> {
    if mailbox.store_open { Ok(()) } else { Err(store_closed()) }
}

/// Totals of rows, as they count in `folder`.
pub(super) fn totals(rows: &[MessageRow], folder: &FolderRow) -> FolderDelta {
    let mut totals = FolderDelta::default();
    for row in rows {
        totals.messages += 1;
        totals.octets = totals.octets.saturating_add(row.octets);
        totals.unseen += i64::from(row.flags & FlagBits::SEEN.0 == 0);
        totals.recent += i64::from(row.uid >= folder.recent_uid);
        if FlagBits(row.flags).contains(FlagBits::DELETED) {
            totals.deleted += 1;
            totals.deleted_octets = totals.deleted_octets.saturating_add(row.octets);
        }
    }
    totals
}

/// The same, for a folder that loses them.
fn negated(delta: FolderDelta) -> FolderDelta {
    FolderDelta {
        messages: -delta.messages,
        unseen: -delta.unseen,
        octets: -delta.octets,
        recent: -delta.recent,
        deleted: -delta.deleted,
        deleted_octets: -delta.deleted_octets,
        uids: 0,
    }
}

/// `count` UIDs of a locked folder: the first one.
pub(super) fn first_uid(row: &FolderRow, count: usize) -> Result<u32> {
    let last = row.uid_next.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
    if row.staged_uid != 0 && last > row.staged_uid {
        let text = "a large set of messages is on its way into this folder".to_owned();
        return Err(ServiceError::Unavailable(text));
    }
    match u32::try_from(row.uid_next) {
        Ok(first) if last <= i64::from(u32::MAX) => Ok(first),
        _ => Err(no_uids()),
    }
}

/// The UIDs of a folder are used up.
pub(super) fn no_uids() -> ServiceError {
    ServiceError::Limit("the folder has no UIDs left; move its messages to a new one".to_owned())
}

/// A message ready to be appended.
pub(super) struct Ready {
    pub(super) octets: u64,
    pub(super) prepared: Prepared,
    pub(super) flags: FlagSet,
    pub(super) internal_date: Timestamp,
    /// Now.
    pub(super) at: Timestamp,
}

/// Appends messages that fit in one slice, all or none.
pub(super) async fn append(
    conn: &mut Conn,
    mailbox: MailboxId,
    name: &FolderName,
    messages: &[Ready],
) -> Result<Appended> {
    let locked = lock_mailbox(conn, mailbox).await?;
    store_open(&locked)?;
    let row = folder::lock_named(conn, mailbox, name.as_str()).await?;
    let row = row.filter(|row| row.selectable).ok_or_else(|| no_folder(name))?;
    let count = i64::try_from(messages.len()).unwrap_or(i64::MAX);
    let octets = messages.iter().map(|message| i64::try_from(message.octets).unwrap_or(i64::MAX));
    let octets = octets.fold(0_i64, i64::saturating_add);
    quota::charge(conn, locked.id, octets, count).await?.map_err(over_quota)?;
    let first = first_uid(&row, messages.len())?;
    let mod_seq = row.mod_seq + 1;
    let rows = append_rows(conn, &locked, row.id, messages, (first, mod_seq)).await?;
    let delta = FolderDelta { uids: count, ..totals(&rows, &row) };
    folder::advance(conn, row.id, mod_seq, delta).await?;
    let uids = rows.iter().map(|row| Uid(row.uid)).collect();
    Ok(Appended { uid_validity: UidValidity(row.uid_validity), uids })
}

/// Inserts messages with their bodies into a locked folder, from UID `first` on; its counters are the caller's.
pub(super) async fn append_rows(
    conn: &mut Conn,
    mailbox: &LockedMailbox,
    folder: FolderId,
    messages: &[Ready],
    (first, mod_seq): (u32, u64),
) -> Result<Vec<MessageRow>> {
    let mut keywords = Keywords::new(folder);
    let bodies = messages.iter().map(|message| content::NewBody {
        folder,
        references: 1,
        at: message.at,
        octets: message.octets,
        place: &message.prepared.body,
        summary: Some(&message.prepared.summary),
    });
    let bodies = content::insert(conn, mailbox, &bodies.collect::<Vec<_>>()).await?;
    let mut rows = Vec::with_capacity(bodies.len());
    for ((message, body), uid) in messages.iter().zip(bodies).zip(first..) {
        let flags = keywords.bits(conn, &message.flags, true).await?;
        let octets = i64::try_from(message.octets).unwrap_or(i64::MAX);
        let internal_date = message.internal_date.0;
        rows.push(MessageRow { uid, flags, mod_seq, body: body.0, prefix: 0, octets, internal_date });
    }
    message::insert(conn, mailbox.id, folder, rows.iter().copied()).await?;
    Ok(rows)
}

/// The two folders of a copy or move, locked.
async fn lock_both(
    conn: &mut Conn,
    mailbox: MailboxId,
    source: FolderId,
    target: &FolderName,
) -> Result<(FolderRow, FolderRow)> {
    let (source, found) = folder::lock_two(conn, mailbox, source, target.as_str()).await?;
    let found = found.filter(|row| row.selectable).ok_or_else(|| no_folder(target))?;
    Ok((source.ok_or_else(gone)?, found))
}

/// The rows as they will stand in the target: UIDs from `first` on, translated keywords.
async fn arriving(
    conn: &mut Conn,
    rows: &[MessageRow],
    source: FolderId,
    target: FolderId,
    (first, mod_seq): (u32, u64),
) -> Result<Vec<MessageRow>> {
    let used = rows.iter().fold(0, |bits, row| bits | row.flags) & !FlagBits::SYSTEM.0;
    let pairs = if used == 0 {
        Vec::new()
    } else {
        Keywords::new(source).translation(conn, &mut Keywords::new(target), used).await?
    };
    let arrive = |(row, uid): (&MessageRow, u32)| MessageRow {
        uid,
        flags: translate(row.flags, &pairs),
        mod_seq,
        ..*row
    };
    Ok(rows.iter().zip(first..).map(arrive).collect())
}

fn copied(target: &FolderRow, from: &[MessageRow], to: &[MessageRow]) -> Copied {
    let pairs = from.iter().zip(to).map(|(from, to)| (Uid(from.uid), Uid(to.uid))).collect();
    Copied { uid_validity: UidValidity(target.uid_validity), pairs }
}

/// Copies messages that fit in one slice, all or none. They share their bodies; trace lines are copied.
pub(super) async fn copy(
    conn: &mut Conn,
    mailbox: MailboxId,
    source: FolderId,
    uids: &[u32],
    target: &FolderName,
) -> Result<Copied> {
    let locked = lock_mailbox(conn, mailbox).await?;
    store_open(&locked)?;
    let (source, target) = lock_both(conn, mailbox, source, target).await?;
    let rows = message::rows(conn, mailbox, source.id, uids).await?;
    if rows.is_empty() {
        return Ok(copied(&target, &[], &[]));
    }
    let delta = totals(&rows, &source);
    quota::charge(conn, locked.id, delta.octets, delta.messages).await?.map_err(over_quota)?;
    let place = (first_uid(&target, rows.len())?, target.mod_seq + 1);
    let new = copy_rows(conn, mailbox, &rows, source.id, target.id, place).await?;
    let delta = FolderDelta { uids: delta.messages, ..totals(&new, &target) };
    folder::advance(conn, target.id, target.mod_seq + 1, delta).await?;
    Ok(copied(&target, &rows, &new))
}

/// Inserts copies of messages into a locked folder, from UID `place.0` on with mod-sequence `place.1`; its counters are
/// the caller's. Bodies are shared, trace lines copied.
pub(super) async fn copy_rows(
    conn: &mut Conn,
    mailbox: MailboxId,
    rows: &[MessageRow],
    source: FolderId,
    target: FolderId,
    place: (u32, u64),
) -> Result<Vec<MessageRow>> {
    let mut new = arriving(conn, rows, source, target, place).await?;
    let with_prefix = i64::try_from(new.iter().filter(|row| row.prefix != 0).count()).unwrap_or(i64::MAX);
    let ids = conn.object_ids(with_prefix).await?;
    let mut pairs = Vec::with_capacity(ids.len());
    for (row, id) in new.iter_mut().filter(|row| row.prefix != 0).zip(ids) {
        pairs.push((row.prefix, id));
        row.prefix = id;
    }
    message::prefixes_copy(conn, pairs).await?;
    content::refer(conn, &content::count(rows.iter().map(|row| row.body))).await?;
    message::insert(conn, mailbox, target, new.iter().copied()).await?;
    Ok(new)
}

/// Moves a slice of messages. What the mailbox uses stays the same, so a full one can be tidied up.
pub(super) async fn move_slice(
    conn: &mut Conn,
    mailbox: MailboxId,
    source: FolderId,
    uids: &[u32],
    target: &FolderName,
) -> Result<Copied> {
    lock_mailbox(conn, mailbox).await?;
    let (source, target) = lock_both(conn, mailbox, source, target).await?;
    let rows = message::rows(conn, mailbox, source.id, uids).await?;
    if rows.is_empty() {
        return Ok(copied(&target, &[], &[]));
    }
    let place = (first_uid(&target, rows.len())?, target.mod_seq + 1);
    let new = arriving(conn, &rows, source.id, target.id, place).await?;
    let answer = copied(&target, &rows, &new);
    let (leaving, arriving) = (negated(totals(&rows, &source)), totals(&new, &target));
    message::delete(conn, mailbox, source.id, &uids_of(&rows)).await?;
    message::expunged_insert(conn, source.id, source.mod_seq + 1, rows.iter().map(|row| row.uid)).await?;
    message::insert(conn, mailbox, target.id, new.into_iter()).await?;
    folder::advance(conn, source.id, source.mod_seq + 1, leaving).await?;
    let delta = FolderDelta { uids: arriving.messages, ..arriving };
    folder::advance(conn, target.id, target.mod_seq + 1, delta).await?;
    Ok(answer)
}

/// Moves messages slice by slice.
pub(super) async fn move_all(
    database: &Database,
    mailbox: MailboxId,
    source: FolderId,
    uids: &[Uid],
    target: &FolderName,
) -> Result<Copied> {
    let mut all: Option<Copied> = None;
    // Even without messages the target must exist.
    for slice in slices(uids).chain(uids.is_empty().then(|| Arc::from([]))) {
        let target = target.clone();
        let copied = database
            .write(priority(uids.len()), move |conn| {
                let (slice, target) = (Arc::clone(&slice), target.clone());
                Box::pin(async move { move_slice(conn, mailbox, source, &slice, &target).await })
            })
            .await?;
        match &mut all {
            Some(all) => all.pairs.extend(copied.pairs),
            None => all = Some(copied),
        }
    }
    all.ok_or_else(gone)
}

/// Slices of at most [`SLICE_ROWS`] that transactions can share.
pub(super) fn slices(uids: &[Uid]) -> impl Iterator<Item = Arc<[u32]>> {
    uids.chunks(SLICE_ROWS).map(|chunk| chunk.iter().map(|uid| uid.0).collect())
}

/// Removes those of a slice of messages that have `\Deleted`. With `kept`, or under a legal hold, they can come back.
pub(super) async fn expunge_slice(
    conn: &mut Conn,
    (mailbox, id): (MailboxId, FolderId),
    uids: &[u32],
    at: Timestamp,
    kept: bool,
) -> Result<()> {
    let locked = lock_mailbox(conn, mailbox).await?;
    let row = folder::lock(conn, mailbox, id).await?.ok_or_else(gone)?;
    let mut rows = message::rows(conn, mailbox, id, uids).await?;
    rows.retain(|row| FlagBits(row.flags).contains(FlagBits::DELETED));
    if rows.is_empty() {
        return Ok(());
    }
    let is_kept = kept || legal_hold::covers_mailbox(conn, mailbox).await?;
    remove(conn, mailbox, id, &rows, is_kept.then_some(at)).await?;
    let mod_seq = row.mod_seq + 1;
    message::expunged_insert(conn, id, mod_seq, rows.iter().map(|row| row.uid)).await?;
    let delta = negated(totals(&rows, &row));
    folder::advance(conn, id, mod_seq, delta).await?;
    quota::charge(conn, locked.id, delta.octets, delta.messages).await?.map_err(over_quota)
}

/// Deletes rows. With `kept_since` tombstones take their place, and the mailbox is locked; otherwise their trace lines
/// go, and bodies that nothing else refers to. Only what this transaction deleted itself is released: on PostgreSQL
/// another may have purged the same rows since they were read.
async fn remove(
    conn: &mut Conn,
    mailbox: MailboxId,
    id: FolderId,
    rows: &[MessageRow],
    kept_since: Option<Timestamp>,
) -> Result<()> {
    if let Some(at) = kept_since {
        tombstone::keep(conn, mailbox, id, rows, at).await?;
        message::delete(conn, mailbox, id, &uids_of(rows)).await?;
        return Ok(());
    }
    let deleted = message::delete(conn, mailbox, id, &uids_of(rows)).await?;
    let rows: Vec<&MessageRow> = rows.iter().filter(|row| deleted.contains(&row.uid)).collect();
    let prefixes = rows.iter().map(|row| row.prefix).filter(|&prefix| prefix != 0).collect();
    message::prefixes_delete(conn, prefixes).await?;
    Ok(body::release(conn, &content::count(rows.iter().map(|row| row.body))).await?)
}

/// Purges a slice of a set that was given up before it became visible; false when there is none.
pub(super) async fn purge_abandoned_slice(conn: &mut Conn) -> Result<bool> {
    let Some((mailbox, id, first)) = stage::abandoned_next(conn).await? else { return Ok(false) };
    // Who holds the lock may be giving their bodies others' place.
    mailbox::lock_rows(conn, [mailbox.0]).await?;
    let limit = i64::try_from(SLICE_ROWS).unwrap_or(i64::MAX);
    let rows = message::first_rows(conn, mailbox, id, first, limit).await?;
    if rows.is_empty() {
        stage::forget(conn, id).await?;
    } else {
        remove(conn, mailbox, id, &rows, None).await?;
    }
    Ok(true)
}

/// Purges a slice of a set that never became visible, or of a deleted folder; false when there is nothing left to
/// purge anywhere.
pub(super) async fn purge_slice(conn: &mut Conn) -> Result<bool> {
    if purge_abandoned_slice(conn).await? {
        return Ok(true);
    }
    purge_folders_slice(conn, None).await
}

/// Purges a slice of a deleted folder, of all or of one mailbox; false when there is none.
pub(super) async fn purge_folders_slice(conn: &mut Conn, of: Option<MailboxId>) -> Result<bool> {
    let Some(buried) = deleted_folder::purge_next(conn, of).await? else { return Ok(false) };
    let (mailbox, id) = (buried.mailbox, buried.folder);
    mailbox::lock_rows(conn, [mailbox.0]).await?;
    let limit = i64::try_from(SLICE_ROWS).unwrap_or(i64::MAX);
    let rows = message::first_rows(conn, mailbox, id, 0, limit).await?;
    if rows.is_empty() {
        deleted_folder::purge_done(conn, buried).await?;
    } else {
        remove(conn, mailbox, id, &rows, buried.kept_since).await?;
    }
    Ok(true)
}
