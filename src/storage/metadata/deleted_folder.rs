//! Deleted folders: purging what they have left, and their names, for as long as their messages can come back.

use super::folder::FolderRow;
use super::sql::{Conn, Row, ids};
use super::tombstone::SLICE_ROWS;
use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId};
use crate::params;
use crate::storage::Result;

/// Names kept for each mailbox, besides those of folders with messages that can come back.
const NAMES_MAX: i64 = 1_000;

/// A deleted folder whose messages are still to be purged.
#[derive(Clone, Copy, Debug)]
pub struct Buried {
    /// Its mailbox.
    pub mailbox: MailboxId,
    /// The folder.
    pub folder: FolderId,
    /// When it was deleted, if its messages can come back.
    pub kept_since: Option<Timestamp>,
}

/// A deleted folder that can come back.
#[derive(Clone, Debug)]
pub struct DeletedFolder {
    /// The folder.
    pub id: FolderId,
    /// Its name.
    pub name: String,
    /// What it was for, as stored.
    pub special_use: Option<String>,
}

fn deleted_folder(row: &Row) -> Result<DeletedFolder> {
    Ok(DeletedFolder { id: FolderId(row.int(0)?), name: row.text(1)?, special_use: row.text_opt(2)? })
}

/// Keeps the name of a folder that is being deleted, of a locked mailbox.
///
/// # Errors
/// What the database says.
pub async fn keep(conn: &mut Conn, mailbox: MailboxId, folder: &FolderRow, at: Timestamp) -> Result<()> {
    let text =
        "INSERT INTO deleted_folder (folder_id, mailbox_id, name, special_use, uid_validity, deleted_at)
                VALUES ($1, $2, $3, $4, $5, $6)";
    let (name, special_use) = (folder.name.as_str(), folder.special_use.as_deref());
    conn.execute(text, params![folder.id, mailbox, name, special_use, folder.uid_validity, at]).await?;
    let text = "SELECT count(*) FROM deleted_folder WHERE mailbox_id = $1";
    let count = conn.row(text, params![mailbox]).await?.map_or(Ok(0), |row| row.int(0))?;
    if count > NAMES_MAX {
        let empty = empty("mailbox_id = $1");
        let text = format!("{empty} AND folder_id <> $2 ORDER BY folder_id LIMIT $3");
        let rows = conn.rows(text, params![mailbox, folder.id, (count - NAMES_MAX).min(SLICE_ROWS)]).await?;
        forget(conn, &rows).await?;
    }
    Ok(())
}

/// Chooses folders without messages or tombstones.
fn empty(condition: &str) -> String {
    format!(
        "SELECT folder_id FROM deleted_folder d WHERE {condition}
           AND NOT EXISTS (SELECT 1 FROM folder_purge p WHERE p.folder_id = d.folder_id)
           AND NOT EXISTS (SELECT 1 FROM tombstone t WHERE t.mailbox_id = d.mailbox_id
                                                       AND t.folder_id = d.folder_id)"
    )
}

/// Forgets folders whose keys are in the first column.
async fn forget(conn: &mut Conn, rows: &[Row]) -> Result<u64> {
    let keys = rows.iter().map(|row| row.int(0)).collect::<Result<Vec<i64>>>()?;
    if !keys.is_empty() {
        for text in [
            "DELETE FROM folder_keyword WHERE folder_id IN IDS($1)",
            "DELETE FROM deleted_folder WHERE folder_id IN IDS($1)",
        ] {
            conn.execute(text, vec![ids(keys.iter().copied())]).await?;
        }
    }
    Ok(keys.len() as u64)
}

/// Forgets a slice of the folders that were deleted before and have nothing left; answers how many.
///
/// # Errors
/// What the database says.
pub async fn expired_slice(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    let text = format!("{} ORDER BY folder_id LIMIT $2", empty("deleted_at <= $1"));
    let rows = conn.rows(text, params![before, SLICE_ROWS]).await?;
    forget(conn, &rows).await
}

/// Forgets a folder that has come back, unless something of it has not.
///
/// # Errors
/// What the database says.
pub async fn settle(conn: &mut Conn, folder: FolderId) -> Result<()> {
    let rows = conn.rows(empty("folder_id = $1"), params![folder]).await?;
    forget(conn, &rows).await.map(drop)
}

/// The folder with this name that was deleted last.
///
/// # Errors
/// What the database says.
pub async fn find(conn: &mut Conn, mailbox: MailboxId, name: &str) -> Result<Option<DeletedFolder>> {
    let text = "SELECT folder_id, name, special_use FROM deleted_folder WHERE mailbox_id = $1 AND name = $2
                ORDER BY deleted_at DESC, folder_id DESC LIMIT 1";
    conn.row(text, params![mailbox, name]).await?.as_ref().map(deleted_folder).transpose()
}

/// A deleted folder, if it is known still.
///
/// # Errors
/// What the database says.
pub async fn by_id(conn: &mut Conn, mailbox: MailboxId, id: FolderId) -> Result<Option<DeletedFolder>> {
    let text =
        "SELECT folder_id, name, special_use FROM deleted_folder WHERE mailbox_id = $1 AND folder_id = $2";
    conn.row(text, params![mailbox, id]).await?.as_ref().map(deleted_folder).transpose()
}

/// Keys of the folder with this name and of those that had it when they were deleted, at most 1,001.
///
/// # Errors
/// What the database says.
pub async fn all_named(conn: &mut Conn, mailbox: MailboxId, name: &str) -> Result<Vec<i64>> {
    let text = "SELECT id FROM folder WHERE mailbox_id = $1 AND name = $2
                UNION ALL SELECT * FROM (
                    SELECT folder_id FROM deleted_folder WHERE mailbox_id = $1 AND name = $2
                    ORDER BY folder_id DESC LIMIT 1000) AS d";
    conn.rows(text, params![mailbox, name]).await?.iter().map(|row| row.int(0)).collect()
}

/// The deleted folder that has waited longest for its purge, of all or of one mailbox.
///
/// # Errors
/// What the database says.
pub async fn purge_next(conn: &mut Conn, mailbox: Option<MailboxId>) -> Result<Option<Buried>> {
    let condition = if mailbox.is_some() { "WHERE p.mailbox_id = $1" } else { "" };
    let text = format!(
        "SELECT p.mailbox_id, p.folder_id, d.deleted_at
         FROM folder_purge p LEFT JOIN deleted_folder d ON d.folder_id = p.folder_id
         {condition} ORDER BY p.folder_id LIMIT 1"
    );
    let row = conn.row(text, mailbox.map(Into::into).into_iter().collect()).await?;
    row.map(|row| {
        let (mailbox, folder) = (MailboxId(row.int(0)?), FolderId(row.int(1)?));
        Ok(Buried { mailbox, folder, kept_since: row.int_opt(2)?.map(Timestamp) })
    })
    .transpose()
}

/// Forgets that a deleted folder is to be purged: its messages are gone.
///
/// # Errors
/// What the database says.
pub async fn purge_done(conn: &mut Conn, buried: Buried) -> Result<()> {
    conn.execute("DELETE FROM expunged WHERE folder_id = $1", params![buried.folder]).await?;
    if buried.kept_since.is_none() {
        conn.execute("DELETE FROM folder_keyword WHERE folder_id = $1", params![buried.folder]).await?;
    }
    conn.execute("DELETE FROM folder_purge WHERE folder_id = $1", params![buried.folder]).await.map(drop)
}
