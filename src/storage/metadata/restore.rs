//! What a restored database needs before anybody is served from it.
//!
//! # Consistency
//! A restored database continues a life that went on elsewhere. What its clients have seen since must never be said
//! again with another meaning: UIDs and mod-sequences go on far above what was given in the meantime, and every message
//! counts as changed, so that flags are read anew. UIDVALIDITY stays, so that nobody downloads their mail again.

use super::mailbox;
use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, FolderId, MailboxId};
use crate::base::store_settings::StoreSettings;
use crate::params;
use crate::storage::Result;

/// UIDs of a folder that are left out: more than any folder can have been given since the backup.
pub const GAP_UIDS: i64 = 1 << 24;
/// Mod-sequences of a folder that are left out.
const GAP_MOD_SEQ: i64 = 1 << 40;
/// UIDVALIDITY values of a mailbox that are left out: folders that were made since.
const GAP_UID_VALIDITY: i64 = 1 << 16;
/// The largest number that IMAP has for UIDs and UIDVALIDITY (RFC 3501 section 9).
const NUMBER_MAX: i64 = u32::MAX as i64;
/// Rows that one transaction changes.
const SLICE_ROWS: i64 = 1_000;

/// Takes out what belonged to the life before: nodes, intents, pins, leases, tokens, one-time codes and
/// recovery codes, answers to repeated requests, and jobs that were under way. Tokens, codes and idempotency
/// keys go since what was revoked, used or asked for again after the backup would be valid again. Sets on
/// their way into folders are given up.
///
/// # Errors
/// When the database fails.
pub async fn forget_life(conn: &mut Conn, now: Timestamp) -> Result<()> {
    for text in [
        "DELETE FROM pin",
        "DELETE FROM pack_intent",
        "DELETE FROM node",
        "DELETE FROM node_sample",
        "DELETE FROM node_disk_sample",
        "DELETE FROM token",
        "DELETE FROM invitation",
        "DELETE FROM recovery_code",
        "DELETE FROM idempotency",
        "DELETE FROM backup",
        "DELETE FROM backup_object",
        "DELETE FROM backup_lease",
        "UPDATE folder_stage SET abandoned = 1",
    ] {
        conn.execute(text, Vec::new()).await?;
    }
    let error =
        r#"{"code":"restored","detail":"a backup was restored while it was under way; start it again"}"#;
    let text = "UPDATE job SET state = 'failed', error = $1, finished_at = $2, updated_at = $2
                WHERE state IN ('waiting', 'running')";
    conn.execute(text, params![error, now]).await.map(drop)
}

/// Where the packs are from now on: on the volume, and nowhere else. Those that were superseded are in no
/// backup. The folders of the stores are marked anew.
///
/// # Errors
/// When the database fails.
pub async fn packs_are_local(conn: &mut Conn) -> Result<()> {
    conn.execute("DELETE FROM pack WHERE dropped_at IS NOT NULL", Vec::new()).await?;
    let text = "UPDATE pack SET local_state = 'present', remote_state = 'absent', uploaded_at = NULL,
                    damaged_at = NULL, damaged_bodies = 0";
    conn.execute(text, Vec::new()).await?;
    conn.execute("UPDATE store SET marked = 0", Vec::new()).await.map(drop)
}

/// Where the packs are: in the object storage of `settings`, whatever their store, read through a cache in
/// `folder`.
///
/// # Errors
/// When the database fails.
pub async fn packs_are_remote(conn: &mut Conn, settings: &StoreSettings, folder: &str) -> Result<()> {
    let text = "UPDATE pack SET local_state = 'absent', remote_state = 'present'";
    conn.execute(text, Vec::new()).await?;
    let text = "UPDATE store SET settings = $1, fixed = '[]', state = 'online', path = $2, marked = 0";
    conn.execute(text, params![settings.to_database(), folder]).await.map(drop)
}

/// Folders behind `after` go on above whatever was given since; false when there are no more. Nothing may be
/// on its way into a folder any more.
///
/// # Errors
/// When the database fails.
pub async fn continue_folders(conn: &mut Conn, after: &mut FolderId) -> Result<bool> {
    let text = "SELECT id, mailbox_id, uid_next FROM folder WHERE id > $1 ORDER BY id LIMIT $2";
    let rows = conn.rows(text, params![*after, SLICE_ROWS]).await?;
    let Some(last) = rows.last() else { return Ok(false) };
    let through = last.int(0)?;
    for row in &rows {
        if row.int(2)?.saturating_add(GAP_UIDS) > NUMBER_MAX {
            // So few UIDs are left that the folder begins a life of its own.
            let (folder, mailbox) = (row.int(0)?, MailboxId(row.int(1)?));
            let validity = mailbox::uid_validity_take(conn, mailbox).await?;
            let text = "UPDATE folder SET uid_validity = $2 WHERE id = $1";
            conn.execute(text, params![folder, validity]).await?;
        }
    }
    let text = "UPDATE folder SET mod_seq = mod_seq + $3,
                    uid_next = CASE WHEN uid_next + $4 <= $5 THEN uid_next + $4 ELSE uid_next END
                WHERE id > $1 AND id <= $2";
    conn.execute(text, params![*after, through, GAP_MOD_SEQ, GAP_UIDS, NUMBER_MAX]).await?;
    let text = "UPDATE message SET mod_seq = (SELECT f.mod_seq FROM folder f WHERE f.id = message.folder_id)
                WHERE folder_id > $1 AND folder_id <= $2
                  AND folder_id IN (SELECT id FROM folder WHERE id > $1 AND id <= $2)";
    conn.execute(text, params![*after, through]).await?;
    *after = FolderId(through);
    Ok(true)
}

/// UIDVALIDITY values that were given since are not given again.
///
/// # Errors
/// When the database fails.
pub async fn continue_mailboxes(conn: &mut Conn) -> Result<()> {
    let text = "UPDATE mailbox SET uid_validity_next = uid_validity_next + $1
                WHERE uid_validity_next + $1 <= $2";
    conn.execute(text, params![GAP_UID_VALIDITY, NUMBER_MAX]).await.map(drop)
}

/// The mailbox with this public id, deleted or not.
///
/// # Errors
/// When the database fails.
pub async fn mailbox(conn: &mut Conn, public_id: &str) -> Result<Option<MailboxId>> {
    let row = conn.row("SELECT id FROM mailbox WHERE public_id = $1", params![public_id]).await?;
    row.map(|row| row.int(0).map(MailboxId)).transpose()
}

/// What a database holds, counted.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Counts {
    /// Mailboxes.
    pub mailboxes: u64,
    /// Messages in folders.
    pub messages: u64,
    /// Their octets.
    pub octets: u64,
    /// Bodies.
    pub bodies: u64,
}

/// Counts; reads every message's row, so it is for copies only.
///
/// # Errors
/// When the database fails.
pub async fn count(conn: &mut Conn) -> Result<Counts> {
    let text = "SELECT (SELECT count(*) FROM mailbox), (SELECT count(*) FROM message),
                       (SELECT CAST(coalesce(sum(octets), 0) AS BIGINT) FROM message), (SELECT count(*) FROM body)";
    let row = conn.row(text, Vec::new()).await?;
    let row = row.ok_or(crate::storage::StorageError::Gone("the database"))?;
    Ok(Counts {
        mailboxes: row.number(0)?,
        messages: row.number(1)?,
        octets: row.number(2)?,
        bodies: row.number(3)?,
    })
}

/// Bodies behind `after`, ascending, of which every `step`th is taken; at most 256.
///
/// # Errors
/// When the database fails.
pub async fn some_bodies(conn: &mut Conn, after: BodyId, step: u64) -> Result<Vec<BodyId>> {
    const ROWS: usize = 256;
    if step <= 1 {
        let text = "SELECT id FROM body WHERE id > $1 ORDER BY id LIMIT 256";
        return conn.rows(text, params![after]).await?.iter().map(|row| row.int(0).map(BodyId)).collect();
    }
    // Ids have gaps with a pattern, so that steps in ids would find none, or all of one kind.
    let skipped = i64::try_from(step - 1).unwrap_or(i64::MAX);
    let (mut found, mut last) = (Vec::new(), after);
    while found.len() < ROWS {
        let text = "SELECT id FROM body WHERE id > $1 ORDER BY id LIMIT 1 OFFSET $2";
        let Some(row) = conn.row(text, params![last, skipped]).await? else { break };
        last = BodyId(row.int(0)?);
        found.push(last);
    }
    Ok(found)
}
