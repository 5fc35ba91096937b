//! Folders: their rows, counters, keywords and subscriptions.

use super::changes::Touched;
use super::mailbox;
use super::sql::{Conn, Row, Value};
use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId};
use crate::params;
use crate::storage::Result;

/// A folder's row.
#[derive(Clone, Debug)]
pub struct FolderRow {
    /// The folder.
    pub id: FolderId,
    /// Its name.
    pub name: String,
    /// What it is for, as stored.
    pub special_use: Option<String>,
    /// Whether it can be opened.
    pub selectable: bool,
    /// UIDVALIDITY.
    pub uid_validity: u32,
    /// The next UID; one above the largest when none is left.
    pub uid_next: i64,
    /// Highest mod-sequence.
    pub mod_seq: u64,
    /// First UID that no SELECT has claimed as recent.
    pub recent_uid: u32,
    /// Number of messages.
    pub messages: i64,
    /// Messages without `\Seen`.
    pub unseen: i64,
    /// Sum of sizes.
    pub octets: i64,
    /// Messages that no SELECT has claimed as recent.
    pub recent: i64,
    /// Messages with `\Deleted`.
    pub deleted: i64,
    /// Sum of their sizes.
    pub deleted_octets: i64,
    /// First UID of a set on its way into the folder (`stage.rs`); 0 for none.
    pub staged_uid: i64,
}

/// What a change adds to a folder's counters.
#[derive(Clone, Copy, Default, Debug)]
pub struct FolderDelta {
    /// Messages.
    pub messages: i64,
    /// Messages without `\Seen`.
    pub unseen: i64,
    /// Octets.
    pub octets: i64,
    /// Messages that no SELECT has claimed as recent.
    pub recent: i64,
    /// Messages with `\Deleted`.
    pub deleted: i64,
    /// Octets of those.
    pub deleted_octets: i64,
    /// UIDs given out.
    pub uids: i64,
}

impl FolderDelta {
    /// Adds another change.
    pub fn add(&mut self, more: Self) {
        self.messages = self.messages.saturating_add(more.messages);
        self.unseen = self.unseen.saturating_add(more.unseen);
        self.octets = self.octets.saturating_add(more.octets);
        self.recent = self.recent.saturating_add(more.recent);
        self.deleted = self.deleted.saturating_add(more.deleted);
        self.deleted_octets = self.deleted_octets.saturating_add(more.deleted_octets);
        self.uids = self.uids.saturating_add(more.uids);
    }
}

const COLUMNS: &str =
    "id, name, special_use, selectable, uid_validity, uid_next, mod_seq, recent_uid, messages,
                       unseen, octets, recent, deleted, deleted_octets, staged_uid";

fn folder_row(row: &Row) -> Result<FolderRow> {
    Ok(FolderRow {
        id: FolderId(row.int(0)?),
        name: row.text(1)?,
        special_use: row.text_opt(2)?,
        selectable: row.int(3)? != 0,
        uid_validity: row.number(4)?,
        uid_next: row.int(5)?,
        mod_seq: row.number(6)?,
        recent_uid: row.number(7)?,
        messages: row.int(8)?,
        unseen: row.int(9)?,
        octets: row.int(10)?,
        recent: row.int(11)?,
        deleted: row.int(12)?,
        deleted_octets: row.int(13)?,
        staged_uid: row.int(14)?,
    })
}

/// All folders of a mailbox, in no particular order.
///
/// # Errors
/// What the database says.
pub async fn list(conn: &mut Conn, mailbox: MailboxId) -> Result<Vec<FolderRow>> {
    let text = format!("SELECT {COLUMNS} FROM folder WHERE mailbox_id = $1");
    conn.rows(text, params![mailbox]).await?.iter().map(folder_row).collect()
}

/// A folder by name, unlocked.
///
/// # Errors
/// What the database says.
pub async fn find(conn: &mut Conn, mailbox: MailboxId, name: &str) -> Result<Option<FolderRow>> {
    let text = format!("SELECT {COLUMNS} FROM folder WHERE mailbox_id = $1 AND name = $2");
    conn.row(text, params![mailbox, name]).await?.as_ref().map(folder_row).transpose()
}

/// A folder by id, unlocked; nothing when it was deleted.
///
/// # Errors
/// What the database says.
pub async fn by_id(conn: &mut Conn, mailbox: MailboxId, folder: FolderId) -> Result<Option<FolderRow>> {
    let text = format!("SELECT {COLUMNS} FROM folder WHERE mailbox_id = $1 AND id = $2");
    conn.row(text, params![mailbox, folder]).await?.as_ref().map(folder_row).transpose()
}

/// Locks a folder by id; nothing when it was deleted.
///
/// # Errors
/// What the database says.
pub async fn lock(conn: &mut Conn, mailbox: MailboxId, folder: FolderId) -> Result<Option<FolderRow>> {
    let lock = conn.for_update();
    let text = format!("SELECT {COLUMNS} FROM folder WHERE mailbox_id = $1 AND id = $2{lock}");
    conn.row(text, params![mailbox, folder]).await?.as_ref().map(folder_row).transpose()
}

/// Locks a folder by name; nothing when there is none.
///
/// # Errors
/// What the database says.
pub async fn lock_named(conn: &mut Conn, mailbox: MailboxId, name: &str) -> Result<Option<FolderRow>> {
    let lock = conn.for_update();
    let text = format!("SELECT {COLUMNS} FROM folder WHERE mailbox_id = $1 AND name = $2{lock}");
    conn.row(text, params![mailbox, name]).await?.as_ref().map(folder_row).transpose()
}

/// Locks a folder by id and one by name, in the order of their ids.
///
/// # Errors
/// What the database says.
pub async fn lock_two(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    name: &str,
) -> Result<(Option<FolderRow>, Option<FolderRow>)> {
    let lock = conn.for_update();
    let text = format!(
        "SELECT {COLUMNS} FROM folder WHERE mailbox_id = $1 AND (id = $2 OR name = $3) ORDER BY id{lock}"
    );
    let rows = conn.rows(text, params![mailbox, folder, name]).await?;
    let rows = rows.iter().map(folder_row).collect::<Result<Vec<_>>>()?;
    let by_id = rows.iter().find(|row| row.id == folder).cloned();
    let by_name = rows.into_iter().find(|row| row.name == name);
    Ok((by_id, by_name))
}

/// Locks two folders by id, in the order of their ids; each may be gone, and both may be one.
///
/// # Errors
/// What the database says.
pub async fn lock_both(
    conn: &mut Conn,
    mailbox: MailboxId,
    one: FolderId,
    other: FolderId,
) -> Result<(Option<FolderRow>, Option<FolderRow>)> {
    let lock = conn.for_update();
    let text =
        format!("SELECT {COLUMNS} FROM folder WHERE mailbox_id = $1 AND id IN ($2, $3) ORDER BY id{lock}");
    let rows = conn.rows(text, params![mailbox, one, other]).await?;
    let rows = rows.iter().map(folder_row).collect::<Result<Vec<_>>>()?;
    let find = |id: FolderId| rows.iter().find(|row| row.id == id).cloned();
    Ok((find(one), find(other)))
}

/// A folder to insert.
pub struct NewFolder<'a> {
    /// The mailbox; its row is locked.
    pub mailbox: MailboxId,
    /// Name.
    pub name: &'a str,
    /// What it is for.
    pub special_use: Option<&'a str>,
    /// Whether it can be opened.
    pub selectable: bool,
    /// Now.
    pub at: Timestamp,
}

/// Inserts a folder with a UIDVALIDITY that the mailbox never had.
///
/// # Errors
/// What the database says.
pub async fn insert(conn: &mut Conn, folder: NewFolder<'_>) -> Result<FolderId> {
    let uid_validity = mailbox::uid_validity_take(conn, folder.mailbox).await?;
    let text = "INSERT INTO folder (mailbox_id, name, special_use, selectable, uid_validity, created_at)
                VALUES ($1, $2, $3, $4, $5, $6)";
    let NewFolder { mailbox, name, special_use, selectable, at } = folder;
    let params = params![mailbox, name, special_use, selectable, uid_validity, at];
    conn.insert(text, params).await.map(FolderId)
}

/// Makes a name that only held children a folder again, under a new UIDVALIDITY.
///
/// # Errors
/// What the database says.
pub async fn make_selectable(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    special_use: Option<&str>,
) -> Result<()> {
    let uid_validity = mailbox::uid_validity_take(conn, mailbox).await?;
    let text = "UPDATE folder SET selectable = 1, uid_validity = $2, special_use = $3 WHERE id = $1";
    conn.execute(text, params![folder, uid_validity, special_use]).await.map(|_| ())
}

/// Renames one folder.
///
/// # Errors
/// What the database says; a name that is taken is a unique violation.
pub async fn rename(conn: &mut Conn, folder: FolderId, name: &str) -> Result<()> {
    conn.execute("UPDATE folder SET name = $2 WHERE id = $1", params![folder, name]).await.map(|_| ())
}

/// Removes a folder's row; its messages are purged in the background. The caller has released their charge.
///
/// # Errors
/// What the database says.
pub async fn bury(conn: &mut Conn, mailbox: MailboxId, folder: FolderId, at: Timestamp) -> Result<()> {
    let text = "INSERT INTO folder_purge (folder_id, mailbox_id, created_at) VALUES ($1, $2, $3)";
    conn.execute(text, params![folder, mailbox, at]).await?;
    conn.execute("DELETE FROM folder_stage WHERE folder_id = $1", params![folder]).await?;
    conn.execute("DELETE FROM folder WHERE id = $1", params![folder]).await?;
    conn.touch(Touched::Folder(folder));
    Ok(())
}

/// Raises the mod-sequence to `mod_seq` and adds to the counters of a locked folder.
///
/// # Errors
/// What the database says.
pub async fn advance(conn: &mut Conn, folder: FolderId, mod_seq: u64, delta: FolderDelta) -> Result<()> {
    let text = "UPDATE folder SET mod_seq = $2, messages = messages + $3, unseen = unseen + $4,
                                  octets = octets + $5, recent = recent + $6, deleted = deleted + $7,
                                  deleted_octets = deleted_octets + $8, uid_next = uid_next + $9
                WHERE id = $1";
    let mod_seq = mod_seq.cast_signed();
    let FolderDelta { messages, unseen, octets, recent, deleted, deleted_octets, uids } = delta;
    let params = params![folder, mod_seq, messages, unseen, octets, recent, deleted, deleted_octets, uids];
    conn.execute(text, params).await?;
    conn.touch(Touched::Folder(folder));
    Ok(())
}

/// Remembers that the UIDs below `uid` have been told as recent.
///
/// # Errors
/// What the database says.
pub async fn claim_recent(conn: &mut Conn, mailbox: MailboxId, folder: FolderId, uid: u32) -> Result<()> {
    // Locked first: what is counted must be what is there when the row changes.
    let Some(row) = lock(conn, mailbox, folder).await?.filter(|row| row.recent_uid < uid) else {
        return Ok(());
    };
    // Few: those that came since the session looked.
    let text = "UPDATE folder SET recent_uid = $3,
                    recent = (SELECT count(*) FROM message
                              WHERE mailbox_id = $1 AND folder_id = $2 AND uid >= $3 AND uid < $4)
                WHERE id = $2";
    conn.execute(text, params![mailbox, folder, uid, row.uid_next]).await.map(|_| ())
}

/// Names of a folder's keywords in the order of their bits.
///
/// # Errors
/// What the database says.
pub async fn keywords(conn: &mut Conn, folder: FolderId) -> Result<Vec<String>> {
    let text = "SELECT name FROM folder_keyword WHERE folder_id = $1 ORDER BY keyword";
    conn.rows(text, params![folder]).await?.iter().map(|row| row.text(0)).collect()
}

/// Adds a keyword to a locked folder as number `keyword`.
///
/// # Errors
/// What the database says.
pub async fn keyword_insert(conn: &mut Conn, folder: FolderId, keyword: usize, name: &str) -> Result<()> {
    let text = "INSERT INTO folder_keyword (folder_id, keyword, name) VALUES ($1, $2, $3)";
    let keyword = i64::try_from(keyword).unwrap_or(i64::MAX);
    conn.execute(text, params![folder, keyword, name]).await.map(|_| ())
}

/// Subscribes or unsubscribes a name.
///
/// # Errors
/// What the database says.
pub async fn subscribe(conn: &mut Conn, mailbox: MailboxId, name: &str, subscribed: bool) -> Result<()> {
    let text = if subscribed {
        "INSERT INTO subscription (mailbox_id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING"
    } else {
        "DELETE FROM subscription WHERE mailbox_id = $1 AND name = $2"
    };
    conn.execute(text, params![mailbox, name]).await.map(|_| ())
}

/// Subscribed names, in no particular order.
///
/// # Errors
/// What the database says.
pub async fn subscriptions(conn: &mut Conn, mailbox: MailboxId) -> Result<Vec<String>> {
    let text = "SELECT name FROM subscription WHERE mailbox_id = $1";
    conn.rows(text, params![mailbox]).await?.iter().map(|row| row.text(0)).collect()
}

/// Folders after `after` that keep more than `keep` expunged ranges, at most 64, with the mod-sequence up to which
/// they may go.
///
/// # Errors
/// What the database says.
pub async fn expunged_excess(conn: &mut Conn, after: FolderId, keep: i64) -> Result<Vec<(FolderId, i64)>> {
    let text = "SELECT x.folder_id,
                       (SELECT e.mod_seq FROM expunged e WHERE e.folder_id = x.folder_id
                        ORDER BY e.mod_seq DESC LIMIT 1 OFFSET $2)
                FROM (SELECT folder_id FROM expunged WHERE folder_id > $1
                      GROUP BY folder_id HAVING count(*) > $2 ORDER BY folder_id LIMIT 64) AS x";
    let rows = conn.rows(text, params![after, keep]).await?;
    rows.iter().map(|row| Ok((FolderId(row.int(0)?), row.int(1)?))).collect()
}

/// Forgets expunged ranges of a folder up to a mod-sequence; answers how many.
///
/// # Errors
/// What the database says.
pub async fn expunged_prune(conn: &mut Conn, folder: FolderId, mod_seq: i64, limit: i64) -> Result<u64> {
    let text = "DELETE FROM expunged WHERE folder_id = $1 AND (mod_seq, uid_first) IN (
                    SELECT mod_seq, uid_first FROM expunged WHERE folder_id = $1 AND mod_seq <= $2
                    ORDER BY mod_seq, uid_first LIMIT $3)";
    let params: Vec<Value> = params![folder, mod_seq, limit];
    conn.execute(text, params).await
}
