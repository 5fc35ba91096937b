//! Packs in the database: what is about to be written, what was, which bodies it holds, and when it may go.
//!
//! # Crash consistency
//! A file is named by an intent before it exists. The transaction that makes the pack known deletes the
//! intent, so at every moment each file is named by exactly one of the two. A new pack counts all of its
//! bodies as dead; each body that is re-pointed to it comes alive. So the counts are right even when
//! re-pointing never ends.
//!
//! Publishing and giving up exclude each other: both change the intent's row, so the later of the two waits
//! for the earlier to be committed or undone, and then finds that it came too late. An outcome in doubt (the
//! connection was lost during COMMIT) is therefore settled by [`abandon`], whatever became of the transaction.

use std::collections::{BTreeMap, BTreeSet};

use super::delivery::Packed;
use super::dictionary;
use super::part::{self, NewPart};
use super::sql::{Conn, Value, ids, values_placeholders};
use super::store;
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, MailboxId, PackId, StoreId};
use crate::base::store_settings::StoreSettings;
use crate::params;
use crate::storage::pack::{PackName, PackSummary};
use crate::storage::{Result, StorageError};

/// The epoch of intents that were given up. Those of daemons begin at 1.
const EPOCH_ABANDONED: i64 = 0;

/// This daemon. Its epoch grows with each start; what an earlier epoch began and did not finish will never
/// go on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Name of the node.
    pub id: String,
    /// How often it was started.
    pub epoch: i64,
}

/// A mail store's volume.
#[derive(Clone, PartialEq, Debug)]
pub struct StoreVolume {
    /// The store.
    pub store: StoreId,
    /// Its folder, as configured.
    pub path: String,
    /// How it keeps mail.
    pub settings: StoreSettings,
    /// Grows when bodies shall be compressed in another way.
    pub generation: i64,
}

/// A body that waits to be packed, with what its place in a pack depends on: bodies that are read together
/// shall be near each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Waiting {
    /// The customer within which it is shared.
    pub scope: i64,
    /// Mailbox of its first message.
    pub mailbox: i64,
    /// Folder of its first message.
    pub folder: i64,
    /// The body. Ids ascend with time.
    pub body: BodyId,
    /// Length of its compressed bytes.
    pub stored_octets: u64,
}

/// A body's frame in a pack that was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Framed {
    /// The body.
    pub body: BodyId,
    /// Offset of its frame in octets.
    pub offset: u32,
    /// Length of the frame's data in octets.
    pub stored_octets: u32,
}

/// A body in a pack that was written, to be re-pointed there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Its frame.
    pub frame: Framed,
    /// The parts that it is made of, each once.
    pub parts: Vec<BodyId>,
    /// Octets of its row, which leaves the database.
    pub fresh_octets: u64,
}

/// A pack that was written, for [`publish`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// The file.
    pub summary: PackSummary,
    /// The mail store.
    pub store: StoreId,
    /// Octets of the frames' data.
    pub stored_octets: u64,
    /// Octets of the bodies as received; a part was not received as such.
    pub original_octets: u64,
    /// Generation of the store's settings by which it was compressed.
    pub generation: i64,
}

/// A pack with a single body, on disk before the transaction that refers to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SinglePack {
    /// The customer within which the body is shared.
    pub scope: CustomerId,
    /// The mail store.
    pub store: StoreId,
    /// Folder of the mail store, as configured.
    pub store_path: String,
    /// The pack's name.
    pub name: PackName,
    /// Length of the file in octets.
    pub octets: u64,
    /// The body and its frame.
    pub frame: Framed,
}

/// A file that an intent names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intended {
    /// The pack's name.
    pub name: PackName,
    /// Its mail store.
    pub store: StoreId,
    /// Folder of its mail store, as configured.
    pub store_path: String,
}

/// The customers and volumes in which a body for these mailboxes is needed, each once.
///
/// # Errors
/// What the database says.
pub async fn homes(conn: &mut Conn, mailboxes: &[MailboxId]) -> Result<Vec<(CustomerId, StoreId, String)>> {
    let text = "SELECT DISTINCT d.customer_id, s.id, s.path
                FROM mailbox m JOIN domain d ON d.id = m.domain_id JOIN store s ON s.id = m.store_id
                WHERE m.id IN IDS($1) ORDER BY d.customer_id, s.id";
    let rows = conn.rows(text, vec![ids(mailboxes.iter().map(|mailbox| mailbox.0))]).await?;
    rows.iter().map(|row| Ok((CustomerId(row.int(0)?), StoreId(row.int(1)?), row.text(2)?))).collect()
}

/// Says that a file of this name is about to be written.
///
/// # Errors
/// What the database says.
pub async fn intend(
    conn: &mut Conn,
    node: &Node,
    now: Timestamp,
    packs: &[(PackName, StoreId)],
) -> Result<()> {
    let row =
        |(name, store): &(PackName, StoreId)| params![name.to_string(), *store, &node.id, node.epoch, now];
    let head = "INSERT INTO pack_intent (public_id, store_id, node_id, epoch, created_at)";
    conn.insert_rows(head, 5, packs.iter().map(row).collect()).await
}

/// Files of a store that this node will not make known any more: intended in an earlier epoch, given up, or intended
/// before `before`, by work that was cut off; at most 256.
///
/// # Errors
/// What the database says.
pub async fn abandoned(
    conn: &mut Conn,
    store: StoreId,
    node: &Node,
    before: Timestamp,
) -> Result<Vec<Intended>> {
    let text = "SELECT i.public_id, s.path, s.id FROM pack_intent i JOIN store s ON s.id = i.store_id
                WHERE i.node_id = $1 AND (i.epoch < $2 OR i.created_at < $3) AND i.store_id = $4
                ORDER BY i.public_id LIMIT 256";
    let rows = conn.rows(text, params![&node.id, node.epoch, before, store]).await?;
    rows.iter()
        .map(|row| {
            let (name, store) = (parse_name(&row.text(0)?)?, StoreId(row.int(2)?));
            Ok(Intended { name, store, store_path: row.text(1)? })
        })
        .collect()
}

/// Whether a file of this name is still only intended. A no is for good; a yes may be outdated at once, since a
/// transaction that makes it known may be about to be committed: ask [`abandon`] before the file is removed.
///
/// # Errors
/// What the database says.
pub async fn is_intended(conn: &mut Conn, name: PackName) -> Result<bool> {
    let text = "SELECT 1 FROM pack_intent WHERE public_id = $1";
    Ok(conn.row(text, params![name.to_string()]).await?.is_some())
}

/// Gives a file up that is still only intended: from this transaction's commit on, none can make it known. Waits
/// for one that is about to. False when the file is known, or its intent is gone: then it must not be removed.
///
/// # Errors
/// What the database says.
pub async fn abandon(conn: &mut Conn, name: PackName) -> Result<bool> {
    let text = "UPDATE pack_intent SET epoch = $2 WHERE public_id = $1";
    Ok(conn.execute(text, params![name.to_string(), EPOCH_ABANDONED]).await? > 0)
}

/// Forgets an intent whose file is gone.
///
/// # Errors
/// What the database says.
pub async fn forget(conn: &mut Conn, name: PackName) -> Result<()> {
    conn.execute("DELETE FROM pack_intent WHERE public_id = $1", params![name.to_string()]).await.map(drop)
}

/// Makes a written pack known, in place of its intent; all its bodies count as dead until they are
/// re-pointed.
///
/// # Errors
/// `Gone` when the intent is not there or was given up: then somebody may have removed the file. `Busy` when the
/// store was stopped or made read-only meanwhile.
pub async fn publish(conn: &mut Conn, written: &Written, now: Timestamp) -> Result<PackId> {
    store::admit_writes(conn, written.store).await?;
    let (name, store) = (written.summary.name.to_string(), written.store);
    let text = "DELETE FROM pack_intent WHERE public_id = $1 AND epoch > $2";
    if conn.execute(text, params![&name, EPOCH_ABANDONED]).await? != 1 {
        return Err(StorageError::Gone("the intent of a pack"));
    }
    let int = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let text =
        "INSERT INTO pack (public_id, store_id, octets, bodies, dead_bodies, dead_octets, original_octets,
                                  generation, created_at)
                VALUES ($1, $2, $3, $4, $4, $5, $6, $7, $8)";
    let (octets, bodies) = (int(written.summary.octets), written.summary.frames);
    let (stored, original) = (int(written.stored_octets), int(written.original_octets));
    let params = params![name, store, octets, bodies, stored, original, written.generation, now];
    let pack = PackId(conn.insert(text, params).await?);
    // A dictionary that is gone meanwhile refuses, and the pack is discarded.
    let trained = written.summary.dictionaries.iter().filter_map(|id| dictionary::key(*id));
    let trained: Vec<i64> = trained.collect();
    if !trained.is_empty() && !dictionary::are_placed(conn, store, &trained).await? {
        return Err(StorageError::Gone("a dictionary beside the packs"));
    }
    let rows = trained.into_iter().map(|key| params![pack, key]).collect();
    conn.insert_rows("INSERT INTO pack_dictionary (pack_id, dictionary_id)", 2, rows).await?;
    Ok(pack)
}

/// Makes the pack of a single body known, alive at once; answers the row for table `body`, without mailbox and
/// folder.
///
/// # Errors
/// As [`publish`].
pub(super) async fn adopt(
    conn: &mut Conn,
    single: &SinglePack,
    now: Timestamp,
    octets: i64,
    references: i64,
) -> Result<Vec<Value>> {
    let frame = single.frame;
    let summary =
        PackSummary { name: single.name, octets: single.octets, frames: 1, dictionaries: BTreeSet::new() };
    let written = Written {
        summary,
        store: single.store,
        stored_octets: u64::from(frame.stored_octets),
        original_octets: u64::try_from(octets).unwrap_or(0),
        generation: 0,
    };
    let pack = publish(conn, &written, now).await?;
    conn.execute("UPDATE pack SET dead_bodies = 0, dead_octets = 0 WHERE id = $1", params![pack]).await?;
    let (stored, offset) = (i64::from(frame.stored_octets), i64::from(frame.offset));
    Ok(params![frame.body, single.scope, single.store, octets, stored, references, Some(pack), Some(offset)])
}

/// Re-points bodies to their frames and deletes their fresh rows; parts of `new` that they need come alive with
/// them. Bodies that were deleted meanwhile stay dead in the pack; those whose parts are gone stay fresh. Give at
/// most 256.
///
/// # Errors
/// `Gone` when the pack was dropped; what the database says. Then the transaction must not be committed.
pub async fn repoint(
    conn: &mut Conn,
    pack: PackId,
    placed: &[Placed],
    new: &BTreeMap<BodyId, NewPart>,
) -> Result<()> {
    let plan = part::plan(conn, placed, new).await?;
    let frames: Vec<Framed> = placed
        .iter()
        .map(|placed| placed.frame)
        .filter(|frame| !plan.blocked.contains(&frame.body))
        .collect();
    let (mut octets, mut moved) = (0_i64, BTreeSet::new());
    let mut rest = frames.as_slice();
    while !rest.is_empty() {
        // Powers of two keep the number of distinct statements small.
        let size = [64, 16, 4, 1].into_iter().find(|&size| size <= rest.len()).unwrap_or(1);
        let (chunk, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        rest = after;
        let list = values_placeholders(chunk.len(), 3, true);
        let last = chunk.len() * 3 + 1;
        let text = format!(
            "UPDATE body SET pack_id = CAST(${last} AS BIGINT), pack_offset = v.column2,
                             stored_octets = v.column3
             FROM (VALUES {list}) AS v WHERE body.id = v.column1 AND body.pack_id IS NULL
             RETURNING body.id, body.stored_octets"
        );
        let values = |frame: &Framed| params![frame.body, frame.offset, frame.stored_octets];
        let mut params: Vec<Value> = chunk.iter().flat_map(values).collect();
        params.push(pack.into());
        for row in conn.rows(text, params).await? {
            moved.insert(BodyId(row.int(0)?));
            octets += row.int(1)?;
        }
    }
    let of_moved: Vec<&Placed> = placed.iter().filter(|placed| moved.contains(&placed.frame.body)).collect();
    let (parts, part_octets) = part::attach(conn, pack, plan, &of_moved, new).await?;
    let bodies = i64::try_from(moved.len()).unwrap_or(i64::MAX) + parts;
    conn.execute(
        "DELETE FROM fresh_body WHERE body_id IN IDS($1)",
        vec![ids(moved.iter().map(|body| body.0))],
    )
    .await?;
    let text = "UPDATE pack SET dead_bodies = dead_bodies - $1, dead_octets = dead_octets - $2
                WHERE id = $3 AND dropped_at IS NULL";
    match conn.execute(text, params![bodies, octets + part_octets, pack]).await? {
        1 => Ok(()),
        _ => Err(StorageError::Gone("pack")),
    }
}

/// The highest id of a body that waits to be packed, of all stores; nothing if none waits.
///
/// # Errors
/// What the database says.
pub async fn newest_waiting(conn: &mut Conn) -> Result<Option<BodyId>> {
    let row = conn.row("SELECT max(body_id) FROM fresh_body", Vec::new()).await?;
    Ok(row.map(|row| row.int_opt(0)).transpose()?.flatten().map(BodyId))
}

/// Bodies of a store that wait to be packed, with ids above `after` up to `last`, ascending; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn waiting(conn: &mut Conn, store: StoreId, after: BodyId, last: BodyId) -> Result<Vec<Waiting>> {
    let text = "SELECT b.scope_id, f.mailbox_id, f.folder_id, b.id, b.stored_octets
                FROM fresh_body f JOIN body b ON b.id = f.body_id
                WHERE f.body_id > $2 AND f.body_id <= $3 AND b.store_id = $1 ORDER BY f.body_id LIMIT 1000";
    let waiting = |row: &super::sql::Row| {
        Ok(Waiting {
            scope: row.int(0)?,
            mailbox: row.int(1)?,
            folder: row.int(2)?,
            body: BodyId(row.int(3)?),
            stored_octets: u64::try_from(row.int(4)?).unwrap_or(0),
        })
    };
    conn.rows(text, params![store, after, last]).await?.iter().map(waiting).collect()
}

/// The bytes of bodies that wait to be packed, in no order; those that are gone are left out.
///
/// # Errors
/// What the database says.
pub async fn waiting_bytes(conn: &mut Conn, bodies: &[BodyId]) -> Result<Vec<(BodyId, Packed)>> {
    let text = "SELECT f.body_id, f.codec, f.dictionary_id, b.octets, f.data
                FROM fresh_body f JOIN body b ON b.id = f.body_id WHERE f.body_id IN IDS($1)";
    let packed = |row: &super::sql::Row| {
        let packed = Packed {
            codec: u8::try_from(row.int(1)?).unwrap_or(u8::MAX),
            dictionary_id: u32::try_from(row.int(2)?).unwrap_or(u32::MAX),
            octets: u64::try_from(row.int(3)?).unwrap_or(u64::MAX),
            data: row.blob(4)?.into(),
        };
        Ok((BodyId(row.int(0)?), packed))
    };
    conn.rows(text, vec![ids(bodies.iter().map(|body| body.0))]).await?.iter().map(packed).collect()
}

/// Drops packs that hold no living body; their files stay until [`dropped`] gives them. Answers how many.
///
/// # Errors
/// What the database says.
pub async fn drop_dead(conn: &mut Conn, now: Timestamp) -> Result<u64> {
    let text = "UPDATE pack SET dropped_at = $1 WHERE dropped_at IS NULL AND dead_bodies >= bodies";
    conn.execute(text, params![now]).await
}

/// A pack that nothing refers to any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// The pack.
    pub pack: PackId,
    /// Its mail store.
    pub store: StoreId,
    /// Its file, if it has one.
    pub file: Intended,
    /// Whether there may be an object of it.
    pub may_be_remote: bool,
}

/// Packs of a store behind `after` that were dropped before `before`, unless a pin lasts at `now`; at most 256.
///
/// # Errors
/// What the database says.
pub async fn dropped(
    conn: &mut Conn,
    store: StoreId,
    after: PackId,
    (before, now): (Timestamp, Timestamp),
) -> Result<Vec<Dropped>> {
    let text = "SELECT p.id, p.public_id, s.path, p.store_id, p.remote_state
                FROM pack p JOIN store s ON s.id = p.store_id
                WHERE p.id > $3 AND p.store_id = $4 AND p.dropped_at IS NOT NULL AND p.dropped_at <= $1
                  AND NOT EXISTS (SELECT 1 FROM pin WHERE pin.expires_at > $2)
                ORDER BY p.id LIMIT 256";
    let dropped = |row: &super::sql::Row| {
        let store = StoreId(row.int(3)?);
        Ok(Dropped {
            pack: PackId(row.int(0)?),
            file: Intended { name: parse_name(&row.text(1)?)?, store, store_path: row.text(2)? },
            store,
            may_be_remote: row.text(4)? != "absent",
        })
    };
    conn.rows(text, params![before, now, after, store]).await?.iter().map(dropped).collect()
}

/// Deletes a dropped pack whose file is gone.
///
/// # Errors
/// What the database says.
pub async fn delete_dropped(conn: &mut Conn, pack: PackId) -> Result<()> {
    let text = "DELETE FROM pack WHERE id = $1 AND dropped_at IS NOT NULL";
    conn.execute(text, params![pack]).await.map(drop)
}

/// Pages of the SQLite file that nothing uses.
///
/// # Errors
/// What the database says.
pub async fn free_pages(conn: &mut Conn) -> Result<i64> {
    if conn.is_postgres() {
        return Ok(0);
    }
    conn.row("PRAGMA freelist_count", Vec::new()).await?.map_or(Ok(0), |row| row.int(0))
}

/// Gives free pages of the SQLite file back to the system, at most 128 at once, while more than `kept` are free.
/// Answers whether there is more to do.
///
/// # Errors
/// What the database says.
pub async fn give_back_pages(conn: &mut Conn, kept: i64) -> Result<bool> {
    const PAGES_MAX: i64 = 128;
    let spare = free_pages(conn).await?.saturating_sub(kept);
    if spare <= 0 {
        return Ok(false);
    }
    conn.rows(format!("PRAGMA incremental_vacuum({})", spare.min(PAGES_MAX)), Vec::new()).await?;
    Ok(spare > PAGES_MAX)
}

pub(super) fn parse_name(text: &str) -> Result<PackName> {
    PackName::parse(text).ok_or_else(|| StorageError::Corrupt(format!("{text} is no name of a pack")))
}
