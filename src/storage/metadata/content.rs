//! The bytes of messages: inserted with the messages that refer to them, read with their trace lines.

use std::collections::BTreeMap;

use super::body::{LOCATION_COLUMNS, LOCATION_JOINS, Location, location};
use super::delivery::{BodyPlace, Packed, packed_row};
use super::mailbox::LockedMailbox;
use super::message::{Chosen, selection};
use super::pack;
use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, FolderId, MailboxId, PackId};
use crate::params;
use crate::storage::{Result, StorageError};

/// A body to insert with what refers to it.
pub struct NewBody<'a> {
    /// Folder of the first message that refers to it.
    pub folder: FolderId,
    /// How many messages and tombstones refer to it.
    pub references: i64,
    /// When: the age of a pack that holds it alone.
    pub at: Timestamp,
    /// Length in octets.
    pub octets: u64,
    /// Its bytes.
    pub place: &'a BodyPlace,
    /// Its summary; nothing if the caller sees to that.
    pub summary: Option<&'a Packed>,
}

/// Inserts bodies of a locked mailbox; answers their ids in order.
///
/// # Errors
/// What the database says; `Gone` when the mailbox moved after the pack of a large body was written.
pub async fn insert(conn: &mut Conn, mailbox: &LockedMailbox, bodies: &[NewBody<'_>]) -> Result<Vec<BodyId>> {
    let fresh = bodies.iter().filter(|body| matches!(body.place, BodyPlace::Fresh(_))).count();
    let mut ids = conn.object_ids(i64::try_from(fresh).unwrap_or(i64::MAX)).await?.into_iter();
    let (mut rows, mut fresh, mut summaries) = (Vec::new(), Vec::new(), Vec::new());
    let mut inserted = Vec::with_capacity(bodies.len());
    for body in bodies {
        let octets = i64::try_from(body.octets).unwrap_or(i64::MAX);
        let id = match body.place {
            BodyPlace::Fresh(packed) => {
                let id = ids.next().ok_or(StorageError::Gone("an object id"))?;
                let stored = i64::try_from(packed.data.len()).unwrap_or(i64::MAX);
                let (codec, dictionary) = (packed.codec, packed.dictionary_id);
                fresh.push(params![id, mailbox.id, body.folder, codec, dictionary, &packed.data[..]]);
                let no_pack = (None::<PackId>, None::<i64>);
                let (scope, store) = (mailbox.customer, mailbox.store);
                rows.push(params![id, scope, store, octets, stored, body.references, no_pack.0, no_pack.1]);
                BodyId(id)
            }
            BodyPlace::Packs(packs) => {
                let here =
                    |pack: &&pack::SinglePack| (pack.scope, pack.store) == (mailbox.customer, mailbox.store);
                let single =
                    packs.iter().find(here).ok_or(StorageError::Gone("mail store of the mailbox"))?;
                rows.push(pack::adopt(conn, single, body.at, octets, body.references).await?);
                single.frame.body
            }
        };
        if let Some(row) = rows.last_mut() {
            row.extend(params![mailbox.id, body.folder]);
        }
        summaries.extend(body.summary.map(|summary| packed_row(id.0, summary)));
        inserted.push(id);
    }
    let head = "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count, pack_id,
                                  pack_offset, mailbox_id, folder_id)";
    conn.insert_rows(head, 10, rows).await?;
    let head = "INSERT INTO fresh_body (body_id, mailbox_id, folder_id, codec, dictionary_id, data)";
    conn.insert_rows(head, 6, fresh).await?;
    let head = "INSERT INTO summary (body_id, codec, dictionary_id, octets, data)";
    conn.insert_rows(head, 5, summaries).await?;
    Ok(inserted)
}

/// How often each body occurs.
#[must_use]
pub fn count(bodies: impl Iterator<Item = i64>) -> BTreeMap<BodyId, i64> {
    let mut counts = BTreeMap::new();
    for body in bodies {
        *counts.entry(BodyId(body)).or_insert(0) += 1;
    }
    counts
}

/// Adds references to bodies.
///
/// # Errors
/// What the database says.
pub async fn refer(conn: &mut Conn, references: &BTreeMap<BodyId, i64>) -> Result<()> {
    let rows = references.iter().map(|(body, count)| vec![body.0, *count]).collect();
    let text = "UPDATE body SET reference_count = reference_count + v.column2";
    conn.update_from_values(text, "body.id", 2, rows).await
}

/// A message's bytes as they are stored.
pub struct Stored {
    /// UID.
    pub uid: u32,
    /// The body.
    pub body: BodyId,
    /// Trace lines, if any.
    pub prefix: Option<Packed>,
    /// Where the body is.
    pub location: Location,
}

/// What is needed to read the messages `uids`, ascending; those that are gone are left out.
///
/// # Errors
/// What the database says.
pub async fn contents(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    chosen: &Chosen,
) -> Result<Vec<Stored>> {
    let (condition, mut extra) = selection(chosen, 3);
    let text = format!(
        "SELECT m.uid, m.body_id, p.codec, p.dictionary_id, p.octets, p.data, {LOCATION_COLUMNS}
         FROM message m JOIN body b ON b.id = m.body_id LEFT JOIN message_prefix p ON p.id = m.prefix_id
              {LOCATION_JOINS}
         WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND {condition} ORDER BY m.uid"
    );
    let mut params = params![mailbox, folder];
    params.append(&mut extra);
    let mut contents = Vec::new();
    for row in conn.rows(text, params).await? {
        let body = BodyId(row.int(1)?);
        let (prefix, location) = (packed_opt(&row, 2)?, location(&row, 6, body)?);
        contents.push(Stored { uid: row.number(0)?, body, prefix, location });
    }
    Ok(contents)
}

/// Codec, dictionary, length and bytes in four columns from `at` on; nothing when the bytes are NULL.
pub(super) fn packed_opt(row: &Row, at: usize) -> Result<Option<Packed>> {
    let Some(data) = row.blob_opt(at + 3)? else { return Ok(None) };
    Ok(Some(Packed {
        codec: row.number(at)?,
        dictionary_id: row.number(at + 1)?,
        octets: row.number(at + 2)?,
        data: data.into(),
    }))
}
