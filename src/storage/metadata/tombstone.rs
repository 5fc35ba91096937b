//! Tombstones: expunged messages that can still come back.
//!
//! # Consistency
//! A tombstone takes over its message's reference to the body and to the trace lines, so the references of a body are
//! its messages and its tombstones. Whoever adds or takes away tombstones has locked the mailbox, whose row says what
//! its tombstones count; no quota does.
//!
//! # Bounds
//! The tombstones of a mailbox count 1 GiB, or the mailbox's own limit if that is larger; the oldest go first. Each
//! counts a little more than its message, so that their number is bounded too.

use std::collections::BTreeMap;

use super::body;
use super::legal_hold::{self, HELD_MAILBOXES};
use super::mailbox;
use super::message::{self, MessageRow, selection};
use super::sql::{Conn, Row, Value, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, FolderId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// Octets that each tombstone counts besides those of its message.
pub(super) const ROW_OCTETS: i64 = 1_024;
/// What the tombstones of any mailbox may count.
const OCTETS_MAX_LEAST: i64 = 1 << 30;
/// Rows that one slice changes.
pub const SLICE_ROWS: i64 = 256;

/// What the tombstones of a mailbox with this own limit may count.
fn octets_max(bytes_max: Option<i64>) -> i64 {
    bytes_max.unwrap_or(0).max(OCTETS_MAX_LEAST)
}

/// A tombstone with the name of its folder.
#[derive(Clone, Debug)]
pub struct TombstoneRow {
    /// Key; ascends with the time of expunging.
    pub id: i64,
    /// The folder in which the message was.
    pub folder: FolderId,
    /// Its name, or the last it had; nothing when that is not known any more.
    pub folder_name: Option<String>,
    /// Whether the folder is there.
    pub folder_exists: bool,
    /// The message as it was; its mod-sequence is 0.
    pub message: MessageRow,
    /// When it was expunged.
    pub expunged_at: Timestamp,
}

/// Which tombstones of a mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// Only of these folders.
    pub folders: Option<Vec<i64>>,
    /// Not expunged before this time.
    pub since: Timestamp,
    /// Not expunged after this time.
    pub until: Timestamp,
    /// Only with these UIDs.
    pub uids: Option<Vec<u32>>,
}

/// Gives messages of a locked mailbox tombstones: their references now belong to these. The caller deletes the rows.
/// Where that is twice what the mailbox may have, a slice of the oldest goes at once, unless a legal hold is on it.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub async fn keep(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    rows: &[MessageRow],
    at: Timestamp,
) -> Result<()> {
    let uids: Vec<u32> = rows.iter().map(|row| row.uid).collect();
    let (chosen, mut extra) = selection(&uids.as_slice().into(), 4);
    let text = format!(
        "INSERT INTO tombstone (mailbox_id, folder_id, uid, flags, body_id, prefix_id, octets, internal_date,
                                expunged_at)
         SELECT mailbox_id, folder_id, uid, flags, body_id, prefix_id, octets, internal_date, CAST($3 AS BIGINT)
         FROM message WHERE mailbox_id = $1 AND folder_id = $2 AND {chosen} ORDER BY uid"
    );
    let mut params = params![mailbox, folder, at];
    params.append(&mut extra);
    if conn.execute(text, params).await? != rows.len() as u64 {
        return Err(StorageError::Gone("a message that is being expunged"));
    }
    let octets = rows.iter().fold(0_i64, |sum, row| sum.saturating_add(row.octets + ROW_OCTETS));
    let text = "UPDATE mailbox SET tombstone_octets = tombstone_octets + $2 WHERE id = $1
                RETURNING tombstone_octets, bytes_max";
    let row = conn.row(text, params![mailbox, octets]).await?.ok_or(StorageError::Gone("mailbox"))?;
    let (octets, octets_max) = (row.int(0)?, octets_max(row.int_opt(1)?));
    if octets > octets_max.saturating_mul(2) && !legal_hold::covers_mailbox(conn, mailbox).await? {
        drop_oldest(conn, mailbox, octets - octets_max).await?;
    }
    Ok(())
}

/// What is to be known of a tombstone that goes.
struct Going {
    id: i64,
    mailbox: i64,
    octets: i64,
    body: i64,
    prefix: i64,
}

const GOING: &str = "SELECT id, mailbox_id, octets, body_id, prefix_id FROM tombstone";

fn going(row: &Row) -> Result<Going> {
    Ok(Going {
        id: row.int(0)?,
        mailbox: row.int(1)?,
        octets: row.int(2)?,
        body: row.int(3)?,
        prefix: row.int(4)?,
    })
}

async fn rows_going(conn: &mut Conn, rest: &str, params: Vec<Value>) -> Result<Vec<Going>> {
    conn.rows(format!("{GOING} {rest}"), params).await?.iter().map(going).collect()
}

/// Deletes tombstones of locked mailboxes with what they alone refer to; answers how many.
async fn remove(conn: &mut Conn, rows: &[Going]) -> Result<u64> {
    if rows.is_empty() {
        return Ok(0);
    }
    take(conn, rows.iter().map(|row| (row.id, row.mailbox, row.octets))).await?;
    let prefixes = rows.iter().map(|row| row.prefix).filter(|&prefix| prefix != 0).collect();
    message::prefixes_delete(conn, prefixes).await?;
    let mut bodies = BTreeMap::new();
    for row in rows {
        *bodies.entry(BodyId(row.body)).or_insert(0) += 1;
    }
    body::release(conn, &bodies).await?;
    Ok(rows.len() as u64)
}

/// Deletes the rows of tombstones (id, mailbox, octets of the message) of locked mailboxes; their references are the
/// caller's then.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub async fn take(conn: &mut Conn, rows: impl Iterator<Item = (i64, i64, i64)>) -> Result<()> {
    let (mut keys, mut octets) = (Vec::new(), BTreeMap::<i64, i64>::new());
    for (id, mailbox, size) in rows {
        keys.push(id);
        let sum = octets.entry(mailbox).or_default();
        *sum = sum.saturating_add(size + ROW_OCTETS);
    }
    let count = keys.len() as u64;
    if conn.execute("DELETE FROM tombstone WHERE id IN IDS($1)", vec![ids(keys)]).await? != count {
        return Err(StorageError::Gone("a tombstone"));
    }
    let rows = octets.into_iter().map(|(mailbox, octets)| vec![mailbox, octets]).collect();
    let text = "UPDATE mailbox SET tombstone_octets = tombstone_octets - v.column2";
    conn.update_from_values(text, "mailbox.id", 2, rows).await
}

/// Drops the oldest tombstones of a locked mailbox, at most a slice of those that count `excess`.
async fn drop_oldest(conn: &mut Conn, mailbox: MailboxId, excess: i64) -> Result<u64> {
    let rest = "WHERE mailbox_id = $1 ORDER BY id LIMIT $2";
    let mut rows = rows_going(conn, rest, params![mailbox, SLICE_ROWS]).await?;
    let mut left = excess;
    let enough = rows.iter().take_while(|row| {
        let more = left > 0;
        left = left.saturating_sub(row.octets + ROW_OCTETS);
        more
    });
    let enough = enough.count();
    rows.truncate(enough);
    remove(conn, &rows).await
}

/// Mailboxes whose tombstones count more than they may, but for those under a legal hold; at most 256.
///
/// # Errors
/// What the database says.
pub async fn excessive(conn: &mut Conn) -> Result<Vec<MailboxId>> {
    let text = format!(
        "SELECT id FROM mailbox WHERE tombstone_octets > 1073741824
           AND tombstone_octets > coalesce(bytes_max, 0) AND id NOT IN {HELD_MAILBOXES} ORDER BY id LIMIT 256"
    );
    conn.rows(text, Vec::new()).await?.iter().map(|row| row.int(0).map(MailboxId)).collect()
}

/// Drops a slice of what a mailbox has too much; answers how many went.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub async fn trim_slice(conn: &mut Conn, mailbox: MailboxId) -> Result<u64> {
    mailbox::lock_rows(conn, [mailbox.0]).await?;
    if legal_hold::covers_mailbox(conn, mailbox).await? {
        return Ok(0);
    }
    let text = "SELECT tombstone_octets, bytes_max FROM mailbox WHERE id = $1";
    let Some(row) = conn.row(text, params![mailbox]).await? else { return Ok(0) };
    match row.int(0)? - octets_max(row.int_opt(1)?) {
        excess @ 1.. => drop_oldest(conn, mailbox, excess).await,
        _ => Ok(0),
    }
}

/// Drops a slice of the tombstones of before, but for mailboxes under a legal hold; answers how many went.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub async fn expired_slice(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    let rest = format!(
        "WHERE expunged_at <= $1 AND mailbox_id NOT IN {HELD_MAILBOXES} ORDER BY expunged_at, id LIMIT $2"
    );
    let mut rows = rows_going(conn, &rest, params![before, SLICE_ROWS]).await?;
    if conn.is_postgres() && !rows.is_empty() {
        // Behind the locks some may be gone.
        mailbox::lock_rows(conn, rows.iter().map(|row| row.mailbox)).await?;
        rows = rows_going(conn, "WHERE id IN IDS($1)", vec![ids(rows.iter().map(|row| row.id))]).await?;
    }
    remove(conn, &rows).await
}

/// Drops a slice of the tombstones of a locked mailbox; answers how many went.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub async fn purge_slice(conn: &mut Conn, mailbox: MailboxId) -> Result<u64> {
    let rows =
        rows_going(conn, "WHERE mailbox_id = $1 ORDER BY id LIMIT $2", params![mailbox, SLICE_ROWS]).await?;
    remove(conn, &rows).await
}

/// Tombstones of a mailbox by folder and time, behind `after` (folder, id); at most `limit`.
///
/// # Errors
/// What the database says.
pub async fn page(
    conn: &mut Conn,
    mailbox: MailboxId,
    wanted: &Wanted,
    after: Option<(i64, i64)>,
    limit: i64,
) -> Result<Vec<TombstoneRow>> {
    let after = after.unwrap_or_default();
    let mut params = params![mailbox, after.0, after.1, wanted.since, wanted.until, limit];
    let mut conditions = String::new();
    for (column, keys) in [
        ("t.folder_id", wanted.folders.clone()),
        ("t.uid", wanted.uids.as_ref().map(|uids| uids.iter().map(|&uid| i64::from(uid)).collect())),
    ] {
        if let Some(keys) = keys {
            params.push(ids(keys));
            conditions.push_str(&format!(" AND {column} IN IDS(${})", params.len()));
        }
    }
    let text = format!(
        "SELECT t.id, t.folder_id, t.uid, t.flags, t.body_id, t.prefix_id, t.octets, t.internal_date, t.expunged_at,
                coalesce(f.name, d.name), f.id
         FROM tombstone t LEFT JOIN folder f ON f.id = t.folder_id
              LEFT JOIN deleted_folder d ON d.folder_id = t.folder_id
         WHERE t.mailbox_id = $1 AND (t.folder_id, t.id) > ($2, $3)
           AND t.expunged_at >= $4 AND t.expunged_at <= $5{conditions}
         ORDER BY t.folder_id, t.id LIMIT $6"
    );
    conn.rows(text, params).await?.iter().map(tombstone_row).collect()
}

fn tombstone_row(row: &Row) -> Result<TombstoneRow> {
    Ok(TombstoneRow {
        id: row.int(0)?,
        folder: FolderId(row.int(1)?),
        message: MessageRow {
            uid: row.number(2)?,
            flags: row.int(3)?.cast_unsigned(),
            mod_seq: 0,
            body: row.int(4)?,
            prefix: row.int(5)?,
            octets: row.int(6)?,
            internal_date: row.int(7)?,
        },
        expunged_at: Timestamp(row.int(8)?),
        folder_name: row.text_opt(9)?,
        folder_exists: row.int_opt(10)?.is_some(),
    })
}
