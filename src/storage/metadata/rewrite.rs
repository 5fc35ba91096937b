//! Packs that are written anew: which are due, what of them lives, and its move to another pack.
//!
//! # Consistency
//! A body moves from frame to frame in one transaction with the counts of both packs, and only if it still is where
//! the mover read it. A pack all of whose bodies have moved is dead and goes as any other.

use std::collections::{BTreeMap, BTreeSet};

use super::pack::{Framed, parse_name};
use super::sql::{Conn, Row, Value, ids, values_placeholders};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, PackId, StoreId};
use crate::params;
use crate::storage::pack::{FrameLocation, PackName};
use crate::storage::{Result, StorageError};

/// Most packs that one question gives.
const PACKS_MAX: i64 = 4_096;

/// A pack and where its copies are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackRow {
    /// The pack.
    pub pack: PackId,
    /// Its name.
    pub name: PackName,
    /// Length in octets.
    pub octets: u64,
    /// Octets that belong to no body.
    pub dead_octets: u64,
    /// Whether its file is on the volume.
    pub is_local: bool,
    /// Whether it is in object storage.
    pub is_remote: bool,
    /// How often its bodies were merged.
    pub tier: i64,
    /// The generation of settings it was written with.
    pub generation: i64,
    /// When the youngest of its bodies was packed.
    pub created_at: Timestamp,
    /// When damage was last found in it.
    pub damaged_at: Option<Timestamp>,
}

const COLUMNS: &str = "p.id, p.public_id, p.octets, p.dead_octets, p.local_state, p.remote_state, p.tier, \
     p.generation, p.created_at, p.damaged_at";

fn pack_row(row: &Row) -> Result<PackRow> {
    Ok(PackRow {
        pack: PackId(row.int(0)?),
        name: parse_name(&row.text(1)?)?,
        octets: row.number(2)?,
        dead_octets: row.number(3)?,
        is_local: row.text(4)? == "present",
        is_remote: row.text(5)? == "present",
        tier: row.int(6)?,
        generation: row.int(7)?,
        created_at: Timestamp(row.int(8)?),
        damaged_at: row.int_opt(9)?.map(Timestamp),
    })
}

/// Which packs of a store are asked for.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Those only on the volume, from before a moment: what a policy releases.
    Unreleased {
        /// Packs that were created up to then.
        until: Timestamp,
    },
    /// Those with so many percent dead; in object storage only from before a moment.
    Sparse {
        /// Percent of the octets.
        percent: u32,
        /// Packs in object storage that were uploaded up to then.
        uploaded_until: Timestamp,
    },
    /// Those with anything dead since before a moment.
    Overdue {
        /// Up to then.
        dead_until: Timestamp,
    },
    /// Those written with older settings.
    Outdated {
        /// The present generation.
        generation: i64,
    },
    /// Those of a tier in object storage.
    Tier(i64),
    /// Those in object storage that are still on the volume, uploaded up to a moment.
    Doubled {
        /// Up to then.
        uploaded_until: Timestamp,
    },
}

/// Packs of a store, oldest first; at most 4,096.
///
/// # Errors
/// What the database says.
pub async fn packs(conn: &mut Conn, store: StoreId, wanted: Wanted) -> Result<Vec<PackRow>> {
    let (condition, extra) = match wanted {
        Wanted::Unreleased { until } => {
            ("p.remote_state = 'absent' AND p.local_state = 'present' AND p.created_at <= $3", params![until])
        }
        Wanted::Sparse { percent, uploaded_until } => (
            "p.dead_octets > 0 AND p.dead_octets * 100 >= p.octets * $3
             AND (p.remote_state = 'absent' OR (p.remote_state = 'present' AND p.uploaded_at <= $4))",
            params![percent, uploaded_until],
        ),
        Wanted::Overdue { dead_until } => {
            ("p.dead_at <= $3 AND p.remote_state <> 'uploading'", params![dead_until])
        }
        Wanted::Outdated { generation } => {
            ("p.generation < $3 AND p.remote_state <> 'uploading'", params![generation])
        }
        Wanted::Tier(tier) => ("p.remote_state = 'present' AND p.tier = $3", params![tier]),
        Wanted::Doubled { uploaded_until } => (
            "p.remote_state = 'present' AND p.local_state = 'present' AND p.uploaded_at <= $3",
            params![uploaded_until],
        ),
    };
    let text = format!(
        "SELECT {COLUMNS} FROM pack p
         WHERE p.store_id = $1 AND p.dropped_at IS NULL AND p.dead_bodies < p.bodies AND {condition}
         ORDER BY p.created_at, p.id LIMIT $2"
    );
    let mut params = params![store, PACKS_MAX];
    params.extend(extra);
    conn.rows(text, params).await?.iter().map(pack_row).collect()
}

/// Notes since when packs have dead bodies, and that others have none; in a background slice.
///
/// # Errors
/// What the database says.
pub async fn note_dead(conn: &mut Conn, now: Timestamp) -> Result<()> {
    let text =
        "UPDATE pack SET dead_at = $1 WHERE dead_at IS NULL AND dead_bodies > 0 AND dropped_at IS NULL";
    conn.execute(text, params![now]).await.map(drop)
}

/// Packs of a store behind `after` that hold anything, in the order of their keys.
///
/// # Errors
/// What the database says.
pub async fn packs_after(conn: &mut Conn, store: StoreId, after: PackId, limit: i64) -> Result<Vec<PackRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM pack p WHERE p.store_id = $1 AND p.id > $2 AND p.dropped_at IS NULL
           AND p.dead_bodies < p.bodies ORDER BY p.id LIMIT $3"
    );
    conn.rows(text, params![store, after, limit]).await?.iter().map(pack_row).collect()
}

/// How many packs of a store hold anything.
///
/// # Errors
/// What the database says.
pub async fn living_packs(conn: &mut Conn, store: StoreId) -> Result<u64> {
    let text =
        "SELECT count(*) FROM pack WHERE store_id = $1 AND dropped_at IS NULL AND dead_bodies < bodies";
    conn.row(text, params![store]).await?.ok_or(StorageError::Gone("packs"))?.number(0)
}

/// A pack as it is now; nothing when it holds nothing any more.
///
/// # Errors
/// What the database says.
pub async fn pack_now(conn: &mut Conn, pack: PackId) -> Result<Option<PackRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM pack p WHERE p.id = $1 AND p.dropped_at IS NULL AND p.dead_bodies < p.bodies"
    );
    conn.row(text, params![pack]).await?.as_ref().map(pack_row).transpose()
}

/// Notes that damage was found in a pack, and in how many of its bodies; 0 when it cannot be read at all.
///
/// # Errors
/// What the database says.
pub async fn note_damage(conn: &mut Conn, pack: PackId, bodies: u64, now: Timestamp) -> Result<()> {
    let bodies = i64::try_from(bodies).unwrap_or(i64::MAX);
    let text = "UPDATE pack SET damaged_at = $2, damaged_bodies = $3 WHERE id = $1";
    conn.execute(text, params![pack, now, bodies]).await.map(drop)
}

/// Notes that a pack was read and nothing of it is damaged.
///
/// # Errors
/// What the database says.
pub async fn note_intact(conn: &mut Conn, pack: PackId) -> Result<()> {
    let text =
        "UPDATE pack SET damaged_at = NULL, damaged_bodies = 0 WHERE id = $1 AND damaged_at IS NOT NULL";
    conn.execute(text, params![pack]).await.map(drop)
}

/// Packs of a store in which damage was found, with the number of bodies and the time, oldest first.
///
/// # Errors
/// What the database says.
pub async fn damaged(conn: &mut Conn, store: StoreId, limit: i64) -> Result<Vec<(PackName, i64, Timestamp)>> {
    let text = "SELECT public_id, damaged_bodies, damaged_at FROM pack
                WHERE store_id = $1 AND damaged_at IS NOT NULL AND dropped_at IS NULL ORDER BY id LIMIT $2";
    let rows = conn.rows(text, params![store, limit]).await?;
    rows.iter().map(|row| Ok((parse_name(&row.text(0)?)?, row.int(1)?, Timestamp(row.int(2)?)))).collect()
}

/// A living body in a pack that is to be written anew. The order is that of new packs: what is read together is near
/// each other, and parts that several bodies share stand before them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Living {
    /// The customer within which it is shared.
    pub scope: i64,
    /// Whether it is a message; else a part of such.
    pub is_message: bool,
    /// Mailbox of its first message.
    pub mailbox: i64,
    /// Folder of its first message.
    pub folder: i64,
    /// The body.
    pub body: BodyId,
    /// Where it is.
    pub pack: PackId,
    /// Its frame there.
    pub offset: u64,
    /// Length of the frame's data in octets.
    pub stored_octets: u64,
    /// Length of the body in octets.
    pub octets: u64,
}

impl Living {
    /// Its frame; nothing if its numbers cannot be.
    pub fn frame(&self) -> Option<FrameLocation> {
        FrameLocation::of_data(self.offset, self.stored_octets)
    }
}

/// Those of `bodies` that live in `pack`. Give at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn living(conn: &mut Conn, pack: PackId, bodies: &[BodyId]) -> Result<Vec<Living>> {
    let text =
        "SELECT b.scope_id, CAST(CASE WHEN p.body_id IS NULL THEN 1 ELSE 0 END AS BIGINT), b.mailbox_id,
                       b.folder_id, b.id, b.pack_offset, b.stored_octets, b.octets
                FROM body b LEFT JOIN part p ON p.body_id = b.id WHERE b.id IN IDS($1) AND b.pack_id = $2";
    let living = |row: &Row| {
        Ok(Living {
            scope: row.int(0)?,
            is_message: row.number::<i64>(1)? != 0,
            mailbox: row.int(2)?,
            folder: row.int(3)?,
            body: BodyId(row.int(4)?),
            pack,
            offset: row.number(5)?,
            stored_octets: row.number(6)?,
            octets: row.number(7)?,
        })
    };
    let params = vec![ids(bodies.iter().map(|body| body.0)), pack.into()];
    conn.rows(text, params).await?.iter().map(living).collect()
}

/// A body's way from one frame to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moved {
    /// Where it was.
    pub from: PackId,
    /// How long its data was there, in octets.
    pub stored_octets: u64,
    /// Its frame in the new pack.
    pub to: Framed,
}

/// Re-points bodies from their old frames to those in `pack`; bodies that were deleted or moved otherwise meanwhile
/// stay dead there. Give at most 256, ascending by body.
///
/// # Errors
/// `Gone` when the pack was dropped; what the database says. Then the transaction must not be committed.
pub async fn repoint(conn: &mut Conn, pack: PackId, moved: &[Moved]) -> Result<()> {
    let mut here = BTreeSet::new();
    let mut rest = moved;
    while !rest.is_empty() {
        let size = [64, 16, 4, 1].into_iter().find(|&size| size <= rest.len()).unwrap_or(1);
        let (chunk, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        rest = after;
        let list = values_placeholders(chunk.len(), 4, true);
        let last = chunk.len() * 4 + 1;
        let text = format!(
            "UPDATE body SET pack_id = CAST(${last} AS BIGINT), pack_offset = v.column2, stored_octets = v.column3
             FROM (VALUES {list}) AS v WHERE body.id = v.column1 AND body.pack_id = v.column4 RETURNING body.id"
        );
        let values = |one: &Moved| params![one.to.body, one.to.offset, one.to.stored_octets, one.from];
        let mut params: Vec<Value> = chunk.iter().flat_map(values).collect();
        params.push(pack.into());
        for row in conn.rows(text, params).await? {
            here.insert(row.int(0)?);
        }
    }
    let mut changes: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for one in moved.iter().filter(|one| here.contains(&one.to.body.0)) {
        let old = changes.entry(one.from.0).or_default();
        *old = (old.0 + 1, old.1.saturating_add(i64::try_from(one.stored_octets).unwrap_or(i64::MAX)));
        let new = changes.entry(pack.0).or_default();
        *new = (new.0 - 1, new.1.saturating_sub(i64::from(one.to.stored_octets)));
    }
    // In the order in which deletions take them.
    let lock = conn.for_update();
    let text = format!("SELECT id, dropped_at FROM pack WHERE id IN IDS($1) ORDER BY id{lock}");
    let keys = changes.keys().copied().chain([pack.0]);
    let mut is_there = false;
    for row in conn.rows(text, vec![ids(keys)]).await? {
        is_there |= row.int(0)? == pack.0 && row.int_opt(1)?.is_none();
    }
    if !is_there {
        return Err(StorageError::Gone("pack"));
    }
    let rows = changes.into_iter().map(|(pack, (bodies, octets))| vec![pack, bodies, octets]).collect();
    let text = "UPDATE pack SET dead_bodies = dead_bodies + v.column2, dead_octets = dead_octets + v.column3";
    conn.update_from_values(text, "pack.id", 3, rows).await
}

/// What a pack that was written anew takes over from its sources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heritage {
    /// How often its bodies were merged.
    pub tier: i64,
    /// The generation of settings it was written with.
    pub generation: i64,
    /// Octets of its bodies as received.
    pub original_octets: u64,
    /// When the youngest of its bodies was packed: its age is that of its bodies, whenever it was written.
    pub created_at: Timestamp,
}

/// Notes what a new pack has from its sources.
///
/// # Errors
/// What the database says.
pub async fn inherit(conn: &mut Conn, pack: PackId, heritage: Heritage) -> Result<()> {
    let octets = i64::try_from(heritage.original_octets).unwrap_or(i64::MAX);
    let text =
        "UPDATE pack SET tier = $2, generation = $3, original_octets = $4, created_at = $5 WHERE id = $1";
    let params = params![pack, heritage.tier, heritage.generation, octets, heritage.created_at];
    conn.execute(text, params).await.map(drop)
}

/// Says that a pack is about to be uploaded: from now on an object may be there. False when it was dropped.
///
/// # Errors
/// What the database says.
pub async fn upload_begins(conn: &mut Conn, pack: PackId) -> Result<bool> {
    let text = "UPDATE pack SET remote_state = 'uploading'
                WHERE id = $1 AND dropped_at IS NULL AND remote_state <> 'present'";
    Ok(conn.execute(text, params![pack]).await? > 0)
}

/// Says that the object of a pack is there and was compared. False when the pack is gone meanwhile: then the object is
/// to be deleted.
///
/// # Errors
/// What the database says.
pub async fn uploaded(conn: &mut Conn, pack: PackId, now: Timestamp) -> Result<bool> {
    let text = "UPDATE pack SET remote_state = 'present', is_named = 0, uploaded_at = $2 WHERE id = $1";
    Ok(conn.execute(text, params![pack, now]).await? > 0)
}

/// Packs whose upload was begun and not recorded, of one store: it is done again.
///
/// # Errors
/// What the database says.
pub async fn uploading(conn: &mut Conn, store: StoreId) -> Result<Vec<PackRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM pack p WHERE p.store_id = $1 AND p.remote_state = 'uploading'
           AND p.local_state = 'present' AND p.dropped_at IS NULL ORDER BY p.id LIMIT $2"
    );
    conn.rows(text, params![store, PACKS_MAX]).await?.iter().map(pack_row).collect()
}

/// Says that the local file of a pack goes; from this on readers take the object. False when there is no object, the
/// CURRENT beside it does not name it, or a pin lasts at `now`.
///
/// # Errors
/// What the database says.
pub async fn local_goes(conn: &mut Conn, pack: PackId, now: Timestamp) -> Result<bool> {
    let text = "UPDATE pack SET local_state = 'removing'
                WHERE id = $1 AND local_state = 'present' AND remote_state = 'present' AND is_named = 1
                  AND NOT EXISTS (SELECT 1 FROM pin WHERE pin.expires_at > $2)";
    Ok(conn.execute(text, params![pack, now]).await? > 0)
}

/// Says that the local file of a pack is gone.
///
/// # Errors
/// What the database says.
pub async fn local_gone(conn: &mut Conn, pack: PackId) -> Result<()> {
    let text = "UPDATE pack SET local_state = 'absent' WHERE id = $1 AND local_state = 'removing'";
    conn.execute(text, params![pack]).await.map(drop)
}

/// Packs of a store whose local file was about to be removed.
///
/// # Errors
/// What the database says.
pub async fn removing(conn: &mut Conn, store: StoreId) -> Result<Vec<PackRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM pack p WHERE p.store_id = $1 AND p.local_state = 'removing' ORDER BY p.id LIMIT $2"
    );
    conn.rows(text, params![store, PACKS_MAX]).await?.iter().map(pack_row).collect()
}
