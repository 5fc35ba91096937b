//! Large sets of messages on their way into a folder: put there slice by slice, visible all at once.
//!
//! # Consistency
//! The rows of a set stand in the folder with UIDs from `folder.staged_uid` on and a mod-sequence that the folder has
//! not reached. Readers take rows below `uid_next` and changes up to `mod_seq` only, so nobody sees them, and they are
//! in no counter. [`finish`] raises both in the one change of the folder row that also charges the quota. Meanwhile
//! other messages arrive with UIDs in the gap below `staged_uid`; when that is used up they are put off. One set at a
//! time is on its way into a folder.
//!
//! # Crash consistency
//! A set that an ended epoch has left, or whose end was refused, is abandoned: its rows are purged in slices, then the
//! folder is free again. Its UIDs were never told, so they may be given again.

use super::folder::{self, FolderDelta, FolderRow};
use super::pack::Node;
use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId};
use crate::params;
use crate::storage::Result;

/// Fewest and most UIDs left free for messages that arrive meanwhile.
const GAP_UIDS: std::ops::RangeInclusive<i64> = 4_096..=65_536;
/// Changes that a folder may see meanwhile: more than could be made.
const GAP_MOD_SEQ: u64 = 1 << 24;

/// A set on its way.
#[derive(Clone, Copy, Debug)]
pub struct Stage {
    /// The folder.
    pub folder: FolderId,
    /// UIDVALIDITY of the folder.
    pub uid_validity: u32,
    /// First UID of the set.
    pub first: u32,
    /// Mod-sequence of all its messages.
    pub mod_seq: u64,
}

impl Stage {
    /// Whether this is what is on its way into the folder still.
    pub fn is_of(&self, row: &FolderRow) -> bool {
        row.id == self.folder
            && row.staged_uid == i64::from(self.first)
            && row.uid_next <= row.staged_uid
            && row.mod_seq < self.mod_seq
    }
}

/// Begins a set of `count` messages for a locked folder into which nothing is on its way. Nothing when the folder has
/// not UIDs enough.
///
/// # Errors
/// What the database says.
pub async fn begin(
    conn: &mut Conn,
    mailbox: MailboxId,
    row: &FolderRow,
    count: usize,
    node: &Node,
    at: Timestamp,
) -> Result<Option<Stage>> {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let gap = count.clamp(*GAP_UIDS.start(), *GAP_UIDS.end());
    let first = row.uid_next.saturating_add(gap);
    if first.saturating_add(count) > i64::from(u32::MAX) {
        return Ok(None);
    }
    let Ok(first) = u32::try_from(first) else { return Ok(None) };
    conn.execute("UPDATE folder SET staged_uid = $2 WHERE id = $1", params![row.id, first]).await?;
    let text = "INSERT INTO folder_stage (folder_id, mailbox_id, node_id, epoch, created_at)
                VALUES ($1, $2, $3, $4, $5)";
    conn.execute(text, params![row.id, mailbox, &node.id, node.epoch, at]).await?;
    let (folder, uid_validity, mod_seq) = (row.id, row.uid_validity, row.mod_seq + GAP_MOD_SEQ);
    Ok(Some(Stage { folder, uid_validity, first, mod_seq }))
}

/// Makes the set visible in its locked folder: `delta` is what it adds, `next` the UID after its last. The caller has
/// charged the quota.
///
/// # Errors
/// What the database says.
pub async fn finish(
    conn: &mut Conn,
    stage: Stage,
    row: &FolderRow,
    delta: FolderDelta,
    next: u32,
) -> Result<()> {
    let uids = i64::from(next) - row.uid_next;
    folder::advance(conn, stage.folder, stage.mod_seq, FolderDelta { uids, ..delta }).await?;
    forget(conn, stage.folder).await
}

/// Gives a set up.
///
/// # Errors
/// What the database says; then the next start of the node does it.
pub async fn abandon(conn: &mut Conn, folder: FolderId) -> Result<()> {
    conn.execute("UPDATE folder_stage SET abandoned = 1 WHERE folder_id = $1", params![folder])
        .await
        .map(drop)
}

/// Gives up what earlier starts of a node have left.
///
/// # Errors
/// What the database says.
pub async fn abandon_ended(conn: &mut Conn, node: &str, epoch: i64) -> Result<()> {
    let text = "UPDATE folder_stage SET abandoned = 1 WHERE node_id = $1 AND epoch < $2";
    conn.execute(text, params![node, epoch]).await.map(drop)
}

/// A set that was given up and is still to be purged: its mailbox, folder and first UID.
///
/// # Errors
/// What the database says.
pub async fn abandoned_next(conn: &mut Conn) -> Result<Option<(MailboxId, FolderId, u32)>> {
    let text = "SELECT s.mailbox_id, s.folder_id, f.staged_uid FROM folder_stage s JOIN folder f ON f.id = s.folder_id
                WHERE s.abandoned = 1 ORDER BY s.folder_id LIMIT 1";
    let row = conn.row(text, Vec::new()).await?;
    row.map(|row| Ok((MailboxId(row.int(0)?), FolderId(row.int(1)?), row.number(2)?))).transpose()
}

/// Forgets a set that is visible, or purged.
///
/// # Errors
/// What the database says.
pub async fn forget(conn: &mut Conn, folder: FolderId) -> Result<()> {
    conn.execute("UPDATE folder SET staged_uid = 0 WHERE id = $1", params![folder]).await?;
    conn.execute("DELETE FROM folder_stage WHERE folder_id = $1", params![folder]).await.map(drop)
}
