//! Filling an empty database from packs: where bodies are, what is lost, and mail that no catalog knows
//! ([`super::rebuild`]).

use std::collections::BTreeSet;

use super::delivery::{Packed, packed_row};
use super::domain::{self, NewDomain};
use super::folder::{self, NewFolder};
use super::mailbox::{self, NewMailbox};
use super::pack::Framed;
use super::rebuild::{LOCKED, sequences};
use super::sql::{Conn, Value, ids, values_placeholders};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, PackId, StoreId};
use crate::params;
use crate::storage::pack::PackName;
use crate::storage::{Result, StorageError};

/// Enters the bodies that messages and tombstones refer to, without a place.
///
/// # Errors
/// What the database says.
pub async fn bodies(conn: &mut Conn) -> Result<u64> {
    // Those whose mailbox could not be put there.
    for table in ["message", "tombstone"] {
        let text = format!("DELETE FROM {table} WHERE mailbox_id NOT IN (SELECT id FROM mailbox)");
        conn.execute(text, params![]).await?;
    }
    let text = "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count, mailbox_id, folder_id)
                SELECT r.body_id, min(d.customer_id), min(m.store_id), 0, 0, count(*), min(r.mailbox_id),
                       min(r.folder_id)
                FROM (SELECT mailbox_id, folder_id, body_id FROM message
                      UNION ALL SELECT mailbox_id, folder_id, body_id FROM tombstone) AS r
                     JOIN mailbox m ON m.id = r.mailbox_id JOIN domain d ON d.id = m.domain_id
                GROUP BY r.body_id";
    conn.execute(text, params![]).await
}

/// A pack that was found.
#[derive(Clone, Debug)]
pub struct FoundPack {
    /// Its name.
    pub name: PackName,
    /// Its store.
    pub store: StoreId,
    /// Its length.
    pub octets: u64,
    /// How many frames it has.
    pub frames: usize,
    /// Octets of the frames' data.
    pub stored_octets: u64,
    /// Octets of its bodies as received.
    pub original_octets: u64,
    /// Whether its file is on the volume.
    pub is_local: bool,
    /// Whether it is in object storage.
    pub is_remote: bool,
    /// Whether the catalogs know all that lives in it.
    pub is_covered: bool,
    /// Keys of the dictionaries that it needs.
    pub dictionaries: BTreeSet<i64>,
}

/// Enters a pack.
///
/// # Errors
/// What the database says.
pub async fn pack(conn: &mut Conn, found: &FoundPack, now: Timestamp) -> Result<PackId> {
    let text =
        "INSERT INTO pack (public_id, store_id, octets, bodies, dead_bodies, dead_octets, original_octets,
                       created_at, local_state, remote_state, uploaded_at, is_covered, is_named)
                VALUES ($1, $2, $3, $4, $4, $12, $5, $6, $7, $8, $9, $10, $11)";
    let int = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let state = |is_there: bool| if is_there { "present" } else { "absent" };
    let frames = i64::try_from(found.frames).unwrap_or(i64::MAX);
    let params = params![
        found.name.to_string(),
        found.store,
        int(found.octets),
        frames,
        int(found.original_octets),
        now,
        state(found.is_local),
        state(found.is_remote),
        found.is_remote.then_some(now),
        found.is_covered,
        found.is_remote,
        int(found.stored_octets)
    ];
    let id = PackId(conn.insert(text, params).await?);
    let rows = found.dictionaries.iter().map(|key| params![id, *key]).collect();
    conn.insert_rows("INSERT INTO pack_dictionary (pack_id, dictionary_id)", 2, rows).await?;
    Ok(id)
}

/// A frame of a pack that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundFrame {
    /// Its body and place.
    pub frame: Framed,
    /// Length of the body.
    pub octets: u32,
    /// The parts that it is made of.
    pub parts: Vec<BodyId>,
}

/// Gives bodies their place in a pack: those that messages refer to, and others, which may be parts or unknown to the
/// catalogs. Answers the bodies that are in this pack now; others were in another before. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn place(
    conn: &mut Conn,
    pack: PackId,
    store: StoreId,
    frames: &[FoundFrame],
) -> Result<BTreeSet<BodyId>> {
    let mut here = BTreeSet::new();
    let mut rest = frames;
    while !rest.is_empty() {
        let size = [64, 16, 4, 1].into_iter().find(|&size| size <= rest.len()).unwrap_or(1);
        let (chunk, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        rest = after;
        let (list, last) = (values_placeholders(chunk.len(), 4, true), chunk.len() * 4);
        let text = format!(
            "UPDATE body SET pack_id = CAST(${} AS BIGINT), store_id = CAST(${} AS BIGINT), pack_offset = v.column2,
                             stored_octets = v.column3, octets = v.column4
             FROM (VALUES {list}) AS v WHERE body.id = v.column1 AND body.pack_id IS NULL RETURNING body.id",
            last + 1,
            last + 2
        );
        let values =
            |one: &FoundFrame| params![one.frame.body, one.frame.offset, one.frame.stored_octets, one.octets];
        let mut params: Vec<Value> = chunk.iter().flat_map(values).collect();
        params.extend(params![pack, store]);
        for row in conn.rows(text, params).await? {
            here.insert(BodyId(row.int(0)?));
        }
    }
    let known = ids(frames.iter().map(|one| one.frame.body.0));
    let rows = conn.rows("SELECT id FROM body WHERE id IN IDS($1)", vec![known]).await?;
    let known = rows.iter().map(|row| row.int(0)).collect::<Result<BTreeSet<i64>>>()?;
    let new: Vec<&FoundFrame> = frames.iter().filter(|one| !known.contains(&one.frame.body.0)).collect();
    here.extend(new.iter().map(|one| one.frame.body));
    let row = |one: &&FoundFrame| {
        let frame = one.frame;
        params![frame.body, 0_i64, store, one.octets, frame.stored_octets, 0_i64, pack, frame.offset]
    };
    let head = "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count, pack_id,
                                  pack_offset)";
    conn.insert_rows(head, 8, new.iter().map(row).collect()).await?;
    let parts = frames.iter().filter(|one| here.contains(&one.frame.body));
    let parts = parts.flat_map(|one| one.parts.iter().map(|part| params![one.frame.body, *part]));
    conn.insert_rows("INSERT INTO body_part (body_id, part_id)", 2, parts.collect()).await?;
    Ok(here)
}

/// What is lost of a mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost {
    /// Its address.
    pub address: String,
    /// Messages whose bodies are in no pack.
    pub messages: i64,
}

/// Bodies without a place, or one of whose parts has none.
const NOWHERE: &str = "SELECT id FROM body WHERE pack_id IS NULL
    UNION SELECT u.body_id FROM body_part u LEFT JOIN body p ON p.id = u.part_id WHERE p.pack_id IS NULL";

/// Takes messages and tombstones back whose bodies are in no pack, or damaged; answers the mailboxes that lose messages
/// with it.
///
/// # Errors
/// What the database says.
pub async fn lose(conn: &mut Conn, damaged: &[i64]) -> Result<Vec<Lost>> {
    let gone = format!("({NOWHERE} UNION SELECT id FROM body WHERE id IN IDS($1))");
    let text = format!(
        "SELECT m.local_part, d.name, count(*) FROM message e JOIN mailbox m ON m.id = e.mailbox_id
              JOIN domain d ON d.id = m.domain_id
         WHERE e.body_id IN {gone} GROUP BY m.id, m.local_part, d.name ORDER BY d.name, m.local_part"
    );
    let rows = conn.rows(text, vec![ids(damaged.iter().copied())]).await?;
    let lost = |row: &super::sql::Row| {
        Ok(Lost { address: format!("{}@{}", row.text(0)?, row.text(1)?), messages: row.int(2)? })
    };
    let lost = rows.iter().map(lost).collect::<Result<Vec<_>>>()?;
    for table in ["message", "tombstone"] {
        let text = format!("DELETE FROM {table} WHERE body_id IN {gone}");
        conn.execute(text, vec![ids(damaged.iter().copied())]).await?;
    }
    // They end as bodies that nothing refers to.
    let text = format!("UPDATE body SET reference_count = 0 WHERE id IN {gone}");
    conn.execute(text, vec![ids(damaged.iter().copied())]).await?;
    Ok(lost)
}

/// Bodies in packs which the catalogs do not know, and which are no parts: body and length, behind `after`; at most
/// 256.
///
/// # Errors
/// What the database says.
pub async fn unknown(conn: &mut Conn, after: i64) -> Result<Vec<(i64, i64)>> {
    let text = format!(
        "SELECT b.id, b.octets FROM body b JOIN pack p ON p.id = b.pack_id
         WHERE b.id > $1 AND b.reference_count = 0 AND p.is_covered = 0 AND b.mailbox_id = 0
           AND b.id NOT IN (SELECT part_id FROM body_part) AND b.id NOT IN ({NOWHERE})
         ORDER BY b.id LIMIT 256"
    );
    let rows = conn.rows(text, params![after]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?))).collect()
}

/// Where mail of unknown mailboxes goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    customer: i64,
    mailbox: i64,
    folder: i64,
}

/// Makes the mailbox `recovered@recovered.invalid` of the root customer, which nobody can log into, with its folder
/// `Recovered`. (RFC 2606 section 2: no mail ever comes to `.invalid`.)
///
/// # Errors
/// What the database says.
pub async fn recovered(conn: &mut Conn, now: Timestamp) -> Result<Home> {
    let gone = || StorageError::Gone("the provider's own mailbox");
    let customer = conn.row("SELECT id FROM customer WHERE parent_id IS NULL", params![]).await?;
    let customer = customer.ok_or_else(gone)?.int(0)?;
    sequences(conn).await?;
    let new = NewDomain {
        customer: CustomerId(customer),
        name: "recovered.invalid".to_owned(),
        verified: true,
        alias_of: None,
    };
    domain::insert(conn, &new, now).await?;
    let row = domain::by_name(conn, &new.name).await?.ok_or_else(gone)?;
    let store = conn.row("SELECT min(id) FROM store", params![]).await?.ok_or_else(gone)?.int(0)?;
    let new = NewMailbox {
        domain: row.id,
        local_part: "recovered".to_owned(),
        name: "Mail of unknown mailboxes".to_owned(),
        password_hash: LOCKED.to_owned(),
        store: StoreId(store),
        bytes_max: None,
        messages_max: None,
    };
    let mailbox = match mailbox::insert(conn, &new, now).await? {
        Some(mailbox) => mailbox,
        // From a rebuild before.
        None => mailbox::by_address(conn, &new.local_part, "recovered.invalid").await?.ok_or_else(gone)?.id,
    };
    let folder = match folder::find(conn, mailbox, "Recovered").await? {
        Some(folder) => folder.id,
        None => {
            let new = NewFolder { mailbox, name: "Recovered", special_use: None, selectable: true, at: now };
            folder::insert(conn, new).await?
        }
    };
    folder::subscribe(conn, mailbox, "Recovered", true).await?;
    Ok(Home { customer, mailbox: mailbox.0, folder: folder.0 })
}

/// Gives bodies (body, length) a message each in a folder. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn adopt(conn: &mut Conn, bodies: &[(i64, i64)], home: Home, now: Timestamp) -> Result<()> {
    let Home { customer, mailbox, folder } = home;
    let text = "UPDATE folder SET uid_next = uid_next + $2 WHERE id = $1 RETURNING uid_next - $2";
    let count = i64::try_from(bodies.len()).unwrap_or(0);
    let row = conn.row(text, params![folder, count]).await?.ok_or(StorageError::Gone("folder"))?;
    let rows = bodies
        .iter()
        .zip(row.int(0)?..)
        .map(|((body, octets), uid)| params![mailbox, folder, uid, 0_i64, 1_i64, *body, 0_i64, *octets, now]);
    let head = "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets,
                                     internal_date)";
    conn.insert_rows(head, 9, rows.collect()).await?;
    let text = "UPDATE body SET reference_count = 1, scope_id = $2, mailbox_id = $3, folder_id = $4
                WHERE id IN IDS($1)";
    let params =
        vec![ids(bodies.iter().map(|(body, _)| *body)), customer.into(), mailbox.into(), folder.into()];
    conn.execute(text, params).await.map(drop)
}

/// Counts the references of parts, and deletes bodies that nothing refers to.
///
/// # Errors
/// What the database says.
pub async fn settle_bodies(conn: &mut Conn) -> Result<()> {
    let text = "DELETE FROM body_part WHERE body_id IN (SELECT id FROM body WHERE reference_count = 0)";
    conn.execute(text, params![]).await?;
    let text = "UPDATE body SET reference_count = c.uses, scope_id = c.scope, mailbox_id = c.mailbox,
                                folder_id = c.folder
                FROM (SELECT u.part_id, count(*) AS uses, min(b.scope_id) AS scope, min(b.mailbox_id) AS mailbox,
                             min(b.folder_id) AS folder
                      FROM body_part u JOIN body b ON b.id = u.body_id GROUP BY u.part_id) AS c
                WHERE body.id = c.part_id";
    conn.execute(text, params![]).await?;
    conn.execute("DELETE FROM body WHERE reference_count = 0", params![]).await.map(drop)
}

/// Bodies of messages among these, ascending. Give at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn without_summary(conn: &mut Conn, bodies: &[i64]) -> Result<Vec<BodyId>> {
    let text = "SELECT b.id FROM body b WHERE b.id IN IDS($1) AND b.id NOT IN (SELECT part_id FROM body_part)
                  AND NOT EXISTS (SELECT 1 FROM summary s WHERE s.body_id = b.id) ORDER BY b.id";
    let rows = conn.rows(text, vec![ids(bodies.iter().copied())]).await?;
    rows.iter().map(|row| row.int(0).map(BodyId)).collect()
}

/// Enters summaries. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn summaries(conn: &mut Conn, summaries: &[(BodyId, Packed)]) -> Result<()> {
    let rows = summaries.iter().map(|(body, packed)| packed_row(body.0, packed)).collect();
    conn.insert_rows("INSERT INTO summary (body_id, codec, dictionary_id, octets, data)", 5, rows).await
}

/// The parts in use, behind `after`; at most 256.
///
/// # Errors
/// What the database says.
pub async fn parts(conn: &mut Conn, after: i64) -> Result<Vec<BodyId>> {
    let text = "SELECT DISTINCT part_id FROM body_part WHERE part_id > $1 ORDER BY part_id LIMIT 256";
    conn.rows(text, params![after]).await?.iter().map(|row| row.int(0).map(BodyId)).collect()
}

/// Enters what parts are found by. One of two with the same bytes is not found any more, and stays. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn part_hashes(conn: &mut Conn, parts: &[(BodyId, [u8; 32])]) -> Result<()> {
    for (part, hash) in parts {
        let text = "INSERT INTO part (body_id, scope_id, store_id, hash)
                    SELECT id, scope_id, store_id, $2 FROM body WHERE id = $1 ON CONFLICT DO NOTHING";
        conn.execute(text, params![*part, &hash[..]]).await?;
    }
    Ok(())
}
