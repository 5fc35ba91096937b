//! Blocks of summaries: those of neighbouring messages of a folder, compressed together once their bodies are in packs.
//!
//! # Consistency
//! Every summary has its row, with data of its own or with a place in a block. Rows move in one transaction from the
//! one to the other, under the lock of their bodies, so at every moment each is in exactly one place. A block counts
//! the rows that point into it and is deleted with the last of them; a copied row counts like any other.

use std::collections::{BTreeMap, BTreeSet};

use super::delivery::Packed;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::BodyId;
use crate::params;
use crate::storage::{Result, StorageError};

/// Most summaries in a block: reading one alone costs decompressing all of them.
pub const BLOCK_SUMMARIES_MAX: usize = 16;
/// Most octets of them: the shipped dictionary is used up to this length.
pub const BLOCK_OCTETS_MAX: u64 = 64 * 1024;
/// Most summaries in one read for gathering.
pub const SINGLES_MAX: usize = 256;
/// Blocks that are thinned out in one go.
const SPARSE_MAX: i64 = 64;

/// A summary with data of its own.
#[derive(Clone, Debug)]
pub struct Single {
    /// UID of a message of this body in the folder.
    pub uid: u32,
    /// The body.
    pub body: BodyId,
    /// The summary.
    pub summary: Packed,
}

/// A place in a block that is about to be inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Whose summary.
    pub body: BodyId,
    /// Where it begins in the block before compression, in octets.
    pub offset: u64,
    /// Its length.
    pub octets: u64,
}

/// A block to insert.
#[derive(Clone, Debug)]
pub struct NewBlock {
    /// All its summaries, one behind the other.
    pub packed: Packed,
    /// Where each of them is.
    pub members: Vec<Member>,
    /// The block in which they are now; nothing if they have data of their own.
    pub from: Option<i64>,
}

/// A block of which much is dead, or something for long.
#[derive(Clone, Debug)]
pub struct Sparse {
    /// Its id.
    pub block: i64,
    /// What it holds.
    pub packed: Packed,
    /// What lives in it.
    pub members: Vec<Member>,
}

/// The lowest UID among the `count` newest messages of a folder whose bodies are in packs; nothing if there are none.
///
/// # Errors
/// What the database says.
pub async fn first_packed(conn: &mut Conn, (mailbox, folder): (i64, i64), count: i64) -> Result<Option<u32>> {
    let text = "SELECT min(newest.uid) FROM (
                    SELECT m.uid FROM message m JOIN body b ON b.id = m.body_id
                    WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND b.pack_id IS NOT NULL
                    ORDER BY m.uid DESC LIMIT $3) AS newest";
    let Some(row) = conn.row(text, params![mailbox, folder, count]).await? else { return Ok(None) };
    let Some(uid) = row.int_opt(0)? else { return Ok(None) };
    u32::try_from(uid).map(Some).map_err(|_| StorageError::Corrupt(format!("UID {uid}")))
}

/// Summaries with data of their own, of messages of a folder from UID `from` on whose bodies are in packs, ascending;
/// at most [`SINGLES_MAX`].
///
/// # Errors
/// What the database says.
pub async fn singles(conn: &mut Conn, (mailbox, folder): (i64, i64), from: u32) -> Result<Vec<Single>> {
    let text = "SELECT m.uid, s.body_id, s.codec, s.dictionary_id, s.octets, s.data
                FROM message m JOIN body b ON b.id = m.body_id JOIN summary s ON s.body_id = b.id
                WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND m.uid >= $3
                  AND b.pack_id IS NOT NULL AND s.block_id IS NULL
                ORDER BY m.uid LIMIT 256";
    let rows = conn.rows(text, params![mailbox, folder, from]).await?;
    let single = |row: &Row| {
        let (uid, body) = (row.number(0)?, BodyId(row.int(1)?));
        Ok(Single { uid, body, summary: packed(row, 2)? })
    };
    rows.iter().map(single).collect()
}

/// Moves summaries into new blocks, as far as they still are where they were; those that are gone stay dead in the
/// block. Give at most 256 summaries.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub async fn insert(conn: &mut Conn, blocks: &[NewBlock]) -> Result<()> {
    if conn.is_postgres() {
        // As whoever deletes or copies bodies: ascending, all at once.
        let bodies: BTreeSet<i64> =
            blocks.iter().flat_map(|block| block.members.iter().map(|member| member.body.0)).collect();
        let text =
            "SELECT count(*) FROM (SELECT id FROM body WHERE id IN IDS($1) ORDER BY id FOR UPDATE) AS locked";
        conn.execute(text, vec![ids(bodies)]).await?;
    }
    for block in blocks {
        let wanted = ids(block.members.iter().map(|member| member.body.0));
        let text =
            "DELETE FROM summary WHERE body_id IN IDS($1) AND coalesce(block_id, 0) = $2 RETURNING body_id";
        let mut found = BTreeSet::new();
        for row in conn.rows(text, vec![wanted, block.from.unwrap_or(0).into()]).await? {
            found.insert(row.int(0)?);
        }
        let living: Vec<&Member> =
            block.members.iter().filter(|member| found.contains(&member.body.0)).collect();
        if living.is_empty() {
            continue;
        }
        let count = i64::try_from(living.len()).unwrap_or(i64::MAX);
        let living_octets = living.iter().map(|member| int(member.octets)).sum::<i64>();
        let id = conn.object_ids(1).await?.first().copied().ok_or(StorageError::Gone("an object id"))?;
        let text = "INSERT INTO summary_block (id, codec, dictionary_id, octets, bodies, living_octets, data)
                    VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let packed = &block.packed;
        let (codec, dictionary, octets) = (packed.codec, packed.dictionary_id, int(packed.octets));
        let row = params![id, codec, dictionary, octets, count, living_octets, &packed.data[..]];
        conn.execute(text, row).await?;
        let row = |member: &Member| {
            let (octets, offset) = (int(member.octets), int(member.offset));
            params![member.body, 0_i64, 0_i64, octets, Vec::<u8>::new(), id, offset]
        };
        let head =
            "INSERT INTO summary (body_id, codec, dictionary_id, octets, data, block_id, block_offset)";
        conn.insert_rows(head, 7, living.into_iter().map(row).collect()).await?;
        if let Some(from) = block.from {
            leave(conn, BTreeMap::from([(from, (count, living_octets))])).await?;
        }
    }
    Ok(())
}

/// Deletes the summaries of bodies that end. Runs in the transaction that deletes these.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub(super) async fn delete(conn: &mut Conn, bodies: &[i64]) -> Result<()> {
    let text = "DELETE FROM summary WHERE body_id IN IDS($1) RETURNING block_id, octets";
    let mut blocks: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for row in conn.rows(text, vec![ids(bodies.iter().copied())]).await? {
        let Some(block) = row.int_opt(0)? else { continue };
        let (count, octets) = blocks.entry(block).or_default();
        *count += 1;
        *octets += row.int(1)?;
    }
    leave(conn, blocks).await
}

/// Counts rows and octets out of blocks, and deletes those that nothing points into any more.
async fn leave(conn: &mut Conn, blocks: BTreeMap<i64, (i64, i64)>) -> Result<()> {
    if blocks.is_empty() {
        return Ok(());
    }
    let wanted = ids(blocks.keys().copied());
    let rows = blocks.into_iter().map(|(block, (count, octets))| vec![block, count, octets]).collect();
    let text =
        "UPDATE summary_block SET bodies = bodies - v.column2, living_octets = living_octets - v.column3";
    conn.update_from_values(text, "summary_block.id", 3, rows).await?;
    let text = "DELETE FROM summary_block WHERE id IN IDS($1) AND bodies <= 0";
    conn.execute(text, vec![wanted]).await.map(drop)
}

/// Counts copies of rows in: bodies that have just got the summaries of others.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub(super) async fn join(conn: &mut Conn, bodies: &[i64]) -> Result<()> {
    let text = "SELECT block_id, count(*), CAST(sum(octets) AS BIGINT) FROM summary
                WHERE body_id IN IDS($1) AND block_id IS NOT NULL GROUP BY block_id ORDER BY block_id";
    let mut rows = Vec::new();
    for row in conn.rows(text, vec![ids(bodies.iter().copied())]).await? {
        rows.push(vec![row.int(0)?, row.int(1)?, row.int(2)?]);
    }
    let text =
        "UPDATE summary_block SET bodies = bodies + v.column2, living_octets = living_octets + v.column3";
    conn.update_from_values(text, "summary_block.id", 3, rows).await
}

/// The blocks with these ids; those that are gone are left out.
///
/// # Errors
/// What the database says.
pub(super) async fn read(conn: &mut Conn, blocks: &BTreeSet<i64>) -> Result<BTreeMap<i64, Packed>> {
    if blocks.is_empty() {
        return Ok(BTreeMap::new());
    }
    let text = "SELECT id, codec, dictionary_id, octets, data FROM summary_block WHERE id IN IDS($1)";
    let rows = conn.rows(text, vec![ids(blocks.iter().copied())]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, packed(row, 1)?))).collect()
}

/// Notes since when blocks have something dead; answers whether there may be more of them.
///
/// # Errors
/// What the database says.
pub async fn notice_dead(conn: &mut Conn, now: Timestamp) -> Result<bool> {
    let text = "UPDATE summary_block SET dead_at = $1 WHERE id IN (
                    SELECT id FROM summary_block WHERE living_octets < octets AND dead_at IS NULL LIMIT 256)";
    Ok(conn.execute(text, params![now]).await? == 256)
}

/// Blocks behind `after` of which a quarter is dead, or something since before `before`; at most 64.
///
/// # Errors
/// What the database says.
pub async fn sparse(conn: &mut Conn, after: i64, before: Timestamp) -> Result<Vec<Sparse>> {
    let text = "SELECT id, codec, dictionary_id, octets, data FROM summary_block
                WHERE id > $1 AND living_octets < octets AND (living_octets * 4 <= octets * 3 OR dead_at <= $2)
                ORDER BY id LIMIT $3";
    let mut sparse = Vec::new();
    for row in conn.rows(text, params![after, before, SPARSE_MAX]).await? {
        sparse.push(Sparse { block: row.int(0)?, packed: packed(&row, 1)?, members: Vec::new() });
    }
    let text = "SELECT block_id, body_id, block_offset, octets FROM summary WHERE block_id IN IDS($1)
                ORDER BY block_id, block_offset, body_id";
    let mut members: BTreeMap<i64, Vec<Member>> = BTreeMap::new();
    for row in conn.rows(text, vec![ids(sparse.iter().map(|one| one.block))]).await? {
        let member = Member { body: BodyId(row.int(1)?), offset: row.number(2)?, octets: row.number(3)? };
        members.entry(row.int(0)?).or_default().push(member);
    }
    for one in &mut sparse {
        one.members = members.remove(&one.block).unwrap_or_default();
    }
    Ok(sparse)
}

/// A summary out of a block that was decompressed.
///
/// # Errors
/// `Corrupt` when the block is shorter.
pub fn cut(block: &[u8], offset: u64, octets: u64) -> Result<&[u8]> {
    let at = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let summary = block.get(at(offset)..at(offset.saturating_add(octets)));
    summary.ok_or_else(|| StorageError::Corrupt("a summary is not in its block".to_owned()))
}

fn packed(row: &Row, at: usize) -> Result<Packed> {
    Ok(Packed {
        codec: row.number(at)?,
        dictionary_id: row.number(at + 1)?,
        octets: row.number(at + 2)?,
        data: row.blob(at + 3)?.into(),
    })
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
