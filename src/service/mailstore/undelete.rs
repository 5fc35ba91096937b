//! Bringing back expunged messages and deleted folders: a new append with new UIDs, of bodies that are still there.

use super::flags::{Keywords, translate};
use super::folders;
use super::types::{FlagBits, FolderName};
use super::work::{self, first_uid, lock_mailbox, over_quota, store_open, totals};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, FolderId, MailboxId};
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::folder::{self, FolderDelta, FolderRow};
use crate::storage::metadata::mailbox::LockedMailbox;
use crate::storage::metadata::message::{self, MessageRow};
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::tombstone::{self, SLICE_ROWS, TombstoneRow, Wanted};
use crate::storage::metadata::{deleted_folder, quota};

/// Whose messages come back, and where.
#[derive(Clone, Debug)]
pub(in crate::service) struct Back {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The customer on whose behalf: a mailbox that is another's by now is left alone.
    pub customer: CustomerId,
    /// The folder for all of them; otherwise each goes where it was.
    pub into: Option<FolderName>,
    /// Now.
    pub at: Timestamp,
}

/// What came back.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(in crate::service) struct CameBack {
    /// Messages.
    pub messages: u64,
    /// Their octets.
    pub octets: u64,
}

pub(super) async fn lock(conn: &mut Conn, back: &Back) -> Result<LockedMailbox> {
    let locked = lock_mailbox(conn, back.mailbox).await?;
    if locked.customer != back.customer {
        return Err(ServiceError::NotFound { what: "the mailbox".to_owned() });
    }
    store_open(&locked)?;
    Ok(locked)
}

/// Makes messages that deleted folders of the mailbox have left ready to come back, a slice; false when all are.
pub(in crate::service) async fn settle_slice(conn: &mut Conn, mailbox: MailboxId) -> Result<bool> {
    work::purge_folders_slice(conn, Some(mailbox)).await
}

/// Brings a slice of messages back; none are left when none came.
pub(in crate::service) async fn slice(conn: &mut Conn, back: &Back, wanted: &Wanted) -> Result<CameBack> {
    let locked = lock(conn, back).await?;
    let mut rows = tombstone::page(conn, back.mailbox, wanted, None, SLICE_ROWS).await?;
    let Some(source) = rows.first().map(|row| row.folder) else { return Ok(CameBack::default()) };
    rows.retain(|row| row.folder == source);
    let target = target(conn, back, source).await?;
    let place = (first_uid(&target, rows.len())?, target.mod_seq + 1);
    let new = returning(conn, &rows, target.id, place).await?;
    let delta = totals(&new, &target);
    quota::charge(conn, locked.id, delta.octets, delta.messages).await?.map_err(over_quota)?;
    tombstone::take(conn, rows.iter().map(|row| (row.id, back.mailbox.0, row.message.octets))).await?;
    message::insert(conn, back.mailbox, target.id, new.into_iter()).await?;
    folder::advance(conn, target.id, place.1, FolderDelta { uids: delta.messages, ..delta }).await?;
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    Ok(CameBack { messages: count(delta.messages), octets: count(delta.octets) })
}

/// The messages as they will stand in the target: UIDs from `first` on, without `\Deleted`.
async fn returning(
    conn: &mut Conn,
    rows: &[TombstoneRow],
    target: FolderId,
    (first, mod_seq): (u32, u64),
) -> Result<Vec<MessageRow>> {
    let used = rows.iter().fold(0, |bits, row| bits | row.message.flags) & !FlagBits::SYSTEM.0;
    let source = rows.first().map_or(target, |row| row.folder);
    let pairs = if used == 0 {
        Vec::new()
    } else {
        Keywords::new(source).translation(conn, &mut Keywords::new(target), used).await?
    };
    let returning = |(row, uid): (&TombstoneRow, u32)| {
        let flags = translate(row.message.flags, &pairs) & !FlagBits::DELETED.0;
        MessageRow { uid, flags, mod_seq, ..row.message }
    };
    Ok(rows.iter().zip(first..).map(returning).collect())
}

/// The folder, locked, that takes what was in `source`: the one that is asked for; else the folder itself; else one
/// under its old name; else, when that is not known any more, `INBOX`.
async fn target(conn: &mut Conn, back: &Back, source: FolderId) -> Result<FolderRow> {
    if let Some(into) = &back.into {
        return folders::ensure(conn, back.mailbox, into, None, back.at).await;
    }
    if let Some(row) = folder::lock(conn, back.mailbox, source).await?.filter(|row| row.selectable) {
        return Ok(row);
    }
    match deleted_folder::by_id(conn, back.mailbox, source).await? {
        Some(found) => {
            let name = folders::stored_name(&found.name)?;
            folders::ensure(conn, back.mailbox, &name, found.special_use.as_deref(), back.at).await
        }
        None => folders::ensure(conn, back.mailbox, &FolderName::inbox(), None, back.at).await,
    }
}

/// Makes the folder into which the deleted folder `source` comes back, which may have been empty.
pub(in crate::service) async fn folder_ensure(conn: &mut Conn, back: &Back, source: FolderId) -> Result<()> {
    lock(conn, back).await?;
    target(conn, back, source).await.map(drop)
}
