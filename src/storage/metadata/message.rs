//! Messages of folders, and the UIDs that went away.

use std::collections::HashSet;

use super::sql::{Conn, Value, ids, values_placeholders};
use crate::base::id::{FolderId, MailboxId};
use crate::params;
use crate::storage::Result;

/// Most rows in one read: no reader stays open for longer.
pub const PAGE_ROWS: usize = 1000;

/// What the folder table keeps of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateRow {
    /// UID.
    pub uid: u32,
    /// RFC822.SIZE in octets.
    pub octets: u32,
    /// Flags and keywords.
    pub flags: u64,
    /// Mod-sequence of the last change.
    pub mod_seq: u64,
    /// The body.
    pub body: i64,
}

/// A message's row.
#[derive(Clone, Copy, Debug)]
pub struct MessageRow {
    /// UID.
    pub uid: u32,
    /// Flags and keywords.
    pub flags: u64,
    /// Mod-sequence of the last change.
    pub mod_seq: u64,
    /// The body.
    pub body: i64,
    /// Trace lines; 0 for none.
    pub prefix: i64,
    /// Size in octets, trace lines included.
    pub octets: i64,
    /// INTERNALDATE in microseconds since 1970.
    pub internal_date: i64,
}

/// How far a reader of changes has come; all before are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    /// Mod-sequence and UID of the last changed message.
    pub changed: (u64, u32),
    /// Mod-sequence and first UID of the last expunged range.
    pub expunged: (u64, u32),
}

/// The folder's numbers in the snapshot of a [`Page`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FolderNumbers {
    /// UIDVALIDITY.
    pub uid_validity: u32,
    /// The next UID.
    pub uid_next: u32,
    /// Highest mod-sequence.
    pub mod_seq: u64,
    /// First UID that no SELECT has claimed as recent.
    pub recent_uid: u32,
    /// Number of messages.
    pub messages: u32,
}

/// A page of what changed, of one snapshot.
#[derive(Default)]
pub struct Page {
    /// The folder; nothing when it was deleted.
    pub folder: Option<FolderNumbers>,
    /// Present states of changed and new messages, by mod-sequence and UID.
    pub changed: Vec<StateRow>,
    /// Expunged ranges: mod-sequence, first and last UID, by mod-sequence and first UID.
    pub expunged: Vec<(u64, u32, u32)>,
}

/// Which messages of a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Chosen {
    /// Those with these UIDs, ascending.
    List(Vec<u32>),
    /// All from the first to the last, inclusive; the caller knows that there are at most [`PAGE_ROWS`].
    Range(u32, u32),
}

impl From<&[u32]> for Chosen {
    fn from(uids: &[u32]) -> Self {
        match (uids.first(), uids.last()) {
            (Some(&first), Some(&last)) if last.abs_diff(first) as usize + 1 == uids.len() => {
                Self::Range(first, last)
            }
            _ => Self::List(uids.to_vec()),
        }
    }
}

/// `uid …` with its parameters, the first of which has number `first`.
pub(super) fn selection(chosen: &Chosen, first: usize) -> (String, Vec<Value>) {
    match chosen {
        Chosen::Range(low, high) => {
            (format!("uid BETWEEN ${first} AND ${}", first + 1), params![*low, *high])
        }
        Chosen::List(uids) => {
            (format!("uid IN IDS(${first})"), vec![ids(uids.iter().map(|&uid| i64::from(uid)))])
        }
    }
}

/// States of the messages after `after`, by UID, at most [`PAGE_ROWS`]. What stands from the folder's next UID on is on
/// its way (`stage.rs`) and not there yet.
///
/// # Errors
/// What the database says.
pub async fn states(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    after: u32,
) -> Result<Vec<StateRow>> {
    let text = "SELECT uid, octets, flags, mod_seq, body_id FROM message
                WHERE mailbox_id = $1 AND folder_id = $2 AND uid > $3
                      AND uid < (SELECT uid_next FROM folder WHERE id = $2) ORDER BY uid LIMIT 1000";
    let rows = conn.rows(text, params![mailbox, folder, after]).await?;
    rows.iter()
        .map(|row| {
            Ok(StateRow {
                uid: row.number(0)?,
                octets: row.number(1)?,
                flags: row.int(2)?.cast_unsigned(),
                mod_seq: row.number(3)?,
                body: row.int(4)?,
            })
        })
        .collect()
}

/// What changed after `cursor`, in one snapshot; a page is complete when both lists are shorter than [`PAGE_ROWS`].
///
/// # Errors
/// What the database says.
pub async fn changes(conn: &mut Conn, mailbox: MailboxId, folder: FolderId, cursor: Cursor) -> Result<Page> {
    let text = "SELECT CAST(0 AS BIGINT), uid_validity, uid_next, mod_seq, recent_uid, messages FROM folder
                WHERE id = $2 AND mailbox_id = $1
                UNION ALL SELECT * FROM (
                    SELECT CAST(1 AS BIGINT), uid_first, uid_last, mod_seq, CAST(0 AS BIGINT), CAST(0 AS BIGINT)
                    FROM expunged WHERE folder_id = $2 AND mod_seq >= $5 AND (mod_seq > $5 OR uid_first > $6)
                    ORDER BY mod_seq, uid_first LIMIT 1000) AS e
                UNION ALL SELECT * FROM (
                    SELECT CAST(2 AS BIGINT), uid, octets, flags, mod_seq, body_id FROM message
                    WHERE folder_id = $2 AND mailbox_id = $1 AND mod_seq >= $3 AND (mod_seq > $3 OR uid > $4)
                          AND mod_seq <= (SELECT mod_seq FROM folder WHERE id = $2)
                    ORDER BY mod_seq, uid LIMIT 1000) AS m";
    let params = params![
        mailbox,
        folder,
        cursor.changed.0.cast_signed(),
        cursor.changed.1,
        cursor.expunged.0.cast_signed(),
        cursor.expunged.1
    ];
    let mut page = Page::default();
    for row in conn.rows(text, params).await? {
        match row.int(0)? {
            0 => {
                page.folder = Some(FolderNumbers {
                    uid_validity: row.number(1)?,
                    uid_next: row.number(2)?,
                    mod_seq: row.number(3)?,
                    recent_uid: row.number(4)?,
                    messages: row.number(5)?,
                });
            }
            1 => page.expunged.push((row.number(3)?, row.number(1)?, row.number(2)?)),
            _ => page.changed.push(StateRow {
                uid: row.number(1)?,
                octets: row.number(2)?,
                flags: row.int(3)?.cast_unsigned(),
                mod_seq: row.number(4)?,
                body: row.int(5)?,
            }),
        }
    }
    Ok(page)
}

const COLUMNS: &str = "uid, flags, mod_seq, body_id, prefix_id, octets, internal_date";

async fn message_rows(conn: &mut Conn, text: String, params: Vec<Value>) -> Result<Vec<MessageRow>> {
    let rows = conn.rows(text, params).await?;
    rows.iter()
        .map(|row| {
            Ok(MessageRow {
                uid: row.number(0)?,
                flags: row.int(1)?.cast_unsigned(),
                mod_seq: row.number(2)?,
                body: row.int(3)?,
                prefix: row.int(4)?,
                octets: row.int(5)?,
                internal_date: row.int(6)?,
            })
        })
        .collect()
}

/// The rows of `uids`, ascending; those that are gone are left out.
///
/// # Errors
/// What the database says.
pub async fn rows(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    uids: &[u32],
) -> Result<Vec<MessageRow>> {
    let (chosen, mut extra) = selection(&uids.into(), 3);
    let text = format!(
        "SELECT {COLUMNS} FROM message WHERE mailbox_id = $1 AND folder_id = $2 AND {chosen} ORDER BY uid"
    );
    let mut params = params![mailbox, folder];
    params.append(&mut extra);
    message_rows(conn, text, params).await
}

/// The first `limit` messages of a folder from UID `from` on, whatever their flags, also those on their way.
///
/// # Errors
/// What the database says.
pub async fn first_rows(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    from: u32,
    limit: i64,
) -> Result<Vec<MessageRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM message WHERE mailbox_id = $1 AND folder_id = $2 AND uid >= $3
         ORDER BY uid LIMIT $4"
    );
    message_rows(conn, text, params![mailbox, folder, from, limit]).await
}

/// UIDs above `after` of the messages with `\Deleted`, ascending, at most [`PAGE_ROWS`].
///
/// # Errors
/// What the database says.
pub async fn deleted(conn: &mut Conn, folder: FolderId, after: u32) -> Result<Vec<u32>> {
    // With the mailbox SQLite would walk the whole folder by its primary key.
    let text = "SELECT uid FROM message WHERE folder_id = $1 AND uid > $2 AND (flags & 8) <> 0
                ORDER BY uid LIMIT 1000";
    conn.rows(text, params![folder, after]).await?.iter().map(|row| row.number(0)).collect()
}

/// Sets the flags of `uids` to `flags & keep | set`.
///
/// # Errors
/// What the database says.
pub async fn flags_update(
    conn: &mut Conn,
    (mailbox, folder): (MailboxId, FolderId),
    uids: &[u32],
    (keep, set): (u64, u64),
    mod_seq: u64,
) -> Result<()> {
    let (chosen, mut extra) = selection(&uids.into(), 6);
    let text = format!(
        "UPDATE message SET flags = (flags & $3) | $4, mod_seq = $5
         WHERE mailbox_id = $1 AND folder_id = $2 AND {chosen}"
    );
    let mut params = params![mailbox, folder, keep.cast_signed(), set.cast_signed(), mod_seq.cast_signed()];
    params.append(&mut extra);
    conn.execute(text, params).await.map(|_| ())
}

/// Inserts messages into a folder.
///
/// # Errors
/// What the database says.
pub async fn insert(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    rows: impl Iterator<Item = MessageRow>,
) -> Result<()> {
    let rows = rows.map(|row| {
        params![
            mailbox,
            folder,
            row.uid,
            row.flags.cast_signed(),
            row.mod_seq.cast_signed(),
            row.body,
            row.prefix,
            row.octets,
            row.internal_date
        ]
    });
    let head = "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets,
                                     internal_date)";
    conn.insert_rows(head, 9, rows.collect()).await
}

/// Deletes the rows of `uids`; bodies and trace lines are the caller's business.
///
/// # Errors
/// What the database says.
pub async fn delete(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    uids: &[u32],
) -> Result<HashSet<u32>> {
    let (chosen, mut extra) = selection(&uids.into(), 3);
    let text =
        format!("DELETE FROM message WHERE mailbox_id = $1 AND folder_id = $2 AND {chosen} RETURNING uid");
    let mut params = params![mailbox, folder];
    params.append(&mut extra);
    conn.rows(text, params).await?.iter().map(|row| row.number(0)).collect()
}

/// Notes that `uids` (ascending) went away, as ranges.
///
/// # Errors
/// What the database says.
pub async fn expunged_insert(
    conn: &mut Conn,
    folder: FolderId,
    mod_seq: u64,
    uids: impl Iterator<Item = u32>,
) -> Result<()> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for uid in uids {
        match ranges.last_mut() {
            Some((_, last)) if last.wrapping_add(1) == uid => *last = uid,
            _ => ranges.push((uid, uid)),
        }
    }
    let rows =
        ranges.into_iter().map(|(first, last)| params![folder, mod_seq.cast_signed(), first, last]).collect();
    let head = "INSERT INTO expunged (folder_id, mod_seq, uid_first, uid_last)";
    conn.insert_rows(head, 4, rows).await
}

/// Copies trace lines: pairs of old and new id.
///
/// # Errors
/// What the database says.
pub async fn prefixes_copy(conn: &mut Conn, pairs: Vec<(i64, i64)>) -> Result<()> {
    let mut pairs = pairs.into_iter();
    while pairs.len() > 0 {
        let chunk = [64, 16, 4, 1].into_iter().find(|&size| size <= pairs.len()).unwrap_or(1);
        let text = format!(
            "INSERT INTO message_prefix (id, codec, dictionary_id, octets, data)
             SELECT v.column2, p.codec, p.dictionary_id, p.octets, p.data
             FROM (VALUES {}) AS v JOIN message_prefix p ON p.id = v.column1",
            values_placeholders(chunk, 2, true)
        );
        let params = pairs.by_ref().take(chunk).flat_map(|(old, new)| [Value::from(old), Value::from(new)]);
        conn.execute(text, params.collect()).await?;
    }
    Ok(())
}

/// Deletes trace lines.
///
/// # Errors
/// What the database says.
pub async fn prefixes_delete(conn: &mut Conn, prefixes: Vec<i64>) -> Result<()> {
    if prefixes.is_empty() {
        return Ok(());
    }
    conn.execute("DELETE FROM message_prefix WHERE id IN IDS($1)", vec![ids(prefixes)]).await.map(|_| ())
}
