//! What happens inside one transaction: append, copy, move, expunge, purge.
//!
//! # Consistency
//! Locks in this order: mailbox, folders by id, counters of domain and customers. Counters of the folder and the
//! charge change in the transaction that adds or removes the rows, so they equal what is there at every commit.

use std::sync::Arc;

use super::flags::{Keywords, translate};
use super::intake::Prepared;
use super::types::{Appended, Copied, FlagBits, FlagSet, FolderName};
use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId, Uid, UidValidity};
use crate::service::error::{Resource, Result, ServiceError};
use crate::storage::metadata::database::Database;
use crate::storage::metadata::delivery::{OverLimit, QuotaOwner};
use crate::storage::metadata::folder::{self, FolderDelta, FolderRow};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::message::{self, MessageRow, PAGE_ROWS};
use crate::storage::metadata::quota;
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::usage::{self, LockedMailbox};
use crate::storage::metadata::{body, content};

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
    let locked = usage::lock(conn, mailbox).await?;
    locked.ok_or_else(|| ServiceError::NotFound { what: "the mailbox".to_owned() })
}

fn store_open(mailbox: &LockedMailbox) -> Result<()> {
    if mailbox.store_open {
        return Ok(());
    }
    Err(ServiceError::Unavailable("the mail store takes no mail at present".to_owned()))
}

/// Totals of rows, as they count in a folder that gets them.
fn totals(rows: &[MessageRow]) -> FolderDelta {
    FolderDelta {
        messages: i64::try_from(rows.len()).unwrap_or(i64::MAX),
        unseen: rows.iter().map(|row| i64::from(row.flags & FlagBits::SEEN.0 == 0)).sum(),
        octets: rows.iter().map(|row| row.octets).sum(),
        uids: 0,
    }
}

/// The same, for a folder that loses them.
fn negated(delta: FolderDelta) -> FolderDelta {
    FolderDelta { messages: -delta.messages, unseen: -delta.unseen, octets: -delta.octets, uids: 0 }
}

/// `count` UIDs of a locked folder: the first one.
fn first_uid(row: &FolderRow, count: usize) -> Result<u32> {
    let last = row.uid_next.saturating_add(i64::try_from(count).unwrap_or(i64::MAX));
    match u32::try_from(row.uid_next) {
        Ok(first) if last <= i64::from(u32::MAX) => Ok(first),
        _ => {
            Err(ServiceError::Limit("the folder has no UIDs left; move its messages to a new one".to_owned()))
        }
    }
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

/// Appends messages, all or none.
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
    let mut keywords = Keywords::new(row.id);
    let bodies = messages.iter().map(|message| content::NewBody {
        at: message.at,
        octets: message.octets,
        place: &message.prepared.body,
        summary: &message.prepared.summary,
    });
    let bodies = content::insert(conn, &locked, row.id, &bodies.collect::<Vec<_>>()).await?;
    let mut rows = Vec::with_capacity(bodies.len());
    for ((message, body), uid) in messages.iter().zip(bodies).zip(first..) {
        let flags = keywords.bits(conn, &message.flags, true).await?;
        let octets = i64::try_from(message.octets).unwrap_or(i64::MAX);
        let internal_date = message.internal_date.0;
        rows.push(MessageRow { uid, flags, mod_seq, body: body.0, prefix: 0, octets, internal_date });
    }
    let delta = FolderDelta { uids: count, ..totals(&rows) };
    let uids = rows.iter().map(|row| Uid(row.uid)).collect();
    message::insert(conn, mailbox, row.id, rows.into_iter()).await?;
    folder::advance(conn, row.id, mod_seq, delta).await?;
    Ok(Appended { uid_validity: UidValidity(row.uid_validity), uids })
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

/// The rows as they will stand in the target: new UIDs, translated keywords.
async fn arriving(
    conn: &mut Conn,
    rows: &[MessageRow],
    source: &FolderRow,
    target: &FolderRow,
) -> Result<Vec<MessageRow>> {
    let first = first_uid(target, rows.len())?;
    let used = rows.iter().fold(0, |bits, row| bits | row.flags) & !FlagBits::SYSTEM.0;
    let pairs = if used == 0 {
        Vec::new()
    } else {
        Keywords::new(source.id).translation(conn, &mut Keywords::new(target.id), used).await?
    };
    let mod_seq = target.mod_seq + 1;
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

/// Copies messages, all or none. They share their bodies; trace lines are copied.
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
    let mut rows = Vec::with_capacity(uids.len());
    for chunk in uids.chunks(PAGE_ROWS) {
        rows.extend(message::rows(conn, mailbox, source.id, chunk).await?);
    }
    if rows.is_empty() {
        return Ok(copied(&target, &[], &[]));
    }
    let delta = totals(&rows);
    quota::charge(conn, locked.id, delta.octets, delta.messages).await?.map_err(over_quota)?;
    let mut new = arriving(conn, &rows, &source, &target).await?;
    let with_prefix = i64::try_from(new.iter().filter(|row| row.prefix != 0).count()).unwrap_or(i64::MAX);
    let ids = conn.object_ids(with_prefix).await?;
    let mut pairs = Vec::with_capacity(ids.len());
    for (row, id) in new.iter_mut().filter(|row| row.prefix != 0).zip(ids) {
        pairs.push((row.prefix, id));
        row.prefix = id;
    }
    message::prefixes_copy(conn, pairs).await?;
    content::refer(conn, &content::count(rows.iter().map(|row| row.body))).await?;
    let answer = copied(&target, &rows, &new);
    let delta = FolderDelta { uids: delta.messages, ..totals(&new) };
    message::insert(conn, mailbox, target.id, new.into_iter()).await?;
    folder::advance(conn, target.id, target.mod_seq + 1, delta).await?;
    Ok(answer)
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
    let new = arriving(conn, &rows, &source, &target).await?;
    let answer = copied(&target, &rows, &new);
    let (leaving, arriving) = (negated(totals(&rows)), totals(&new));
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

/// Removes those of a slice of messages that have `\Deleted`.
pub(super) async fn expunge_slice(
    conn: &mut Conn,
    mailbox: MailboxId,
    id: FolderId,
    uids: &[u32],
) -> Result<()> {
    let locked = lock_mailbox(conn, mailbox).await?;
    let row = folder::lock(conn, mailbox, id).await?.ok_or_else(gone)?;
    let mut rows = message::rows(conn, mailbox, id, uids).await?;
    rows.retain(|row| FlagBits(row.flags).contains(FlagBits::DELETED));
    if rows.is_empty() {
        return Ok(());
    }
    remove(conn, mailbox, id, &rows).await?;
    let mod_seq = row.mod_seq + 1;
    message::expunged_insert(conn, id, mod_seq, rows.iter().map(|row| row.uid)).await?;
    let delta = negated(totals(&rows));
    folder::advance(conn, id, mod_seq, delta).await?;
    quota::charge(conn, locked.id, delta.octets, delta.messages).await?.map_err(over_quota)
}

/// Deletes rows with their trace lines, and bodies that nothing else refers to. Only what this transaction deleted
/// itself is released: on PostgreSQL another may have purged the same rows since they were read.
async fn remove(conn: &mut Conn, mailbox: MailboxId, id: FolderId, rows: &[MessageRow]) -> Result<()> {
    let deleted = message::delete(conn, mailbox, id, &uids_of(rows)).await?;
    let rows: Vec<&MessageRow> = rows.iter().filter(|row| deleted.contains(&row.uid)).collect();
    let prefixes = rows.iter().map(|row| row.prefix).filter(|&prefix| prefix != 0).collect();
    message::prefixes_delete(conn, prefixes).await?;
    Ok(body::release(conn, &content::count(rows.iter().map(|row| row.body))).await?)
}

/// Purges a slice of a deleted folder; false when there is nothing left to purge anywhere.
pub(super) async fn purge_slice(conn: &mut Conn) -> Result<bool> {
    let Some((mailbox, id)) = folder::purge_next(conn).await? else { return Ok(false) };
    let limit = i64::try_from(SLICE_ROWS).unwrap_or(i64::MAX);
    let rows = message::first_rows(conn, mailbox, id, limit).await?;
    if rows.is_empty() {
        folder::purge_done(conn, id).await?;
    } else {
        remove(conn, mailbox, id, &rows).await?;
    }
    Ok(true)
}
