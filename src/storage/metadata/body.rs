//! Bodies: where their bytes are, and what happens when nothing refers to them any more.

use std::collections::BTreeMap;

use super::delivery::Packed;
use super::part;
use super::sql::{Conn, Row, ids};
use super::summary_block;
use crate::base::id::{BodyId, PackId, StoreId};
use crate::params;
use crate::storage::pack::{FrameLocation, PackName};
use crate::storage::{Result, StorageError};

/// Where the bytes of a body are.
#[derive(Clone, Debug)]
pub enum Location {
    /// In the database; here they are.
    Fresh {
        /// The mail store into which they will be packed.
        store: StoreId,
        /// They.
        packed: Packed,
    },
    /// In a pack.
    Pack(InPack),
}

impl Location {
    /// The mail store of the body.
    pub fn store(&self) -> StoreId {
        match self {
            Self::Fresh { store, .. } => *store,
            Self::Pack(place) => place.store,
        }
    }

    /// Octets that reading it takes.
    pub fn octets(&self) -> u64 {
        match self {
            Self::Fresh { packed, .. } => packed.data.len() as u64,
            Self::Pack(place) => u64::from(place.frame.length),
        }
    }
}

/// A place in a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InPack {
    /// The pack.
    pub pack: PackId,
    /// Its name, which gives the file.
    pub name: PackName,
    /// The mail store.
    pub store: StoreId,
    /// Folder of the mail store, as configured.
    pub store_path: String,
    /// Length of the pack in octets.
    pub pack_octets: u64,
    /// Whether its file is on the volume; else it is in object storage.
    pub is_local: bool,
    /// The frame.
    pub frame: FrameLocation,
}

/// What [`location`] needs of body `b`, with [`LOCATION_JOINS`].
pub(super) const LOCATION_COLUMNS: &str = "b.octets, b.stored_octets, b.pack_id, b.pack_offset, \
     bp.public_id, bs.path, bf.codec, bf.dictionary_id, bf.data, bs.id, bp.octets, bp.local_state, \
     b.store_id";
/// The tables that say where body `b` is.
pub(super) const LOCATION_JOINS: &str = "LEFT JOIN fresh_body bf ON bf.body_id = b.id \
     LEFT JOIN pack bp ON bp.id = b.pack_id LEFT JOIN store bs ON bs.id = bp.store_id";

/// Where a body is; nothing if there is no such body.
///
/// # Errors
/// What the database says; `Corrupt` when its rows contradict each other.
pub async fn locate(conn: &mut Conn, body: BodyId) -> Result<Option<Location>> {
    let text = format!("SELECT {LOCATION_COLUMNS} FROM body b {LOCATION_JOINS} WHERE b.id = $1");
    let row = conn.row(text, params![body]).await?;
    row.map(|row| location(&row, 0, body)).transpose()
}

/// Reads [`LOCATION_COLUMNS`], which begin at column `first`.
///
/// # Errors
/// `Corrupt` when they contradict each other.
pub(super) fn location(row: &Row, first: usize, body: BodyId) -> Result<Location> {
    let corrupt = || StorageError::Corrupt(format!("the rows of body {body} contradict each other"));
    let Some(pack) = row.int_opt(first + 2)? else {
        let Some(data) = row.blob_opt(first + 8)? else { return Err(corrupt()) };
        let packed = Packed {
            codec: row.number(first + 6)?,
            dictionary_id: row.number(first + 7)?,
            octets: row.number(first)?,
            data: data.into(),
        };
        return Ok(Location::Fresh { store: StoreId(row.int(first + 12)?), packed });
    };
    let offset = row.int_opt(first + 3)?.and_then(|offset| u64::try_from(offset).ok());
    let stored_octets = row.number(first + 1)?;
    let frame = offset.and_then(|offset| FrameLocation::of_data(offset, stored_octets));
    let name = row.text_opt(first + 4)?.as_deref().and_then(PackName::parse);
    let (Some(frame), Some(name), Some(store_path)) = (frame, name, row.text_opt(first + 5)?) else {
        return Err(corrupt());
    };
    let (store, pack_octets) = (StoreId(row.int(first + 9)?), row.number(first + 10)?);
    let is_local = row.text(first + 11)? == "present";
    Ok(Location::Pack(InPack { pack: PackId(pack), name, store, store_path, pack_octets, is_local, frame }))
}

/// Where bodies are, in no order; those that are not there are left out. Give at most 1,000.
///
/// # Errors
/// As [`locate`].
pub async fn locate_all(conn: &mut Conn, bodies: &[BodyId]) -> Result<Vec<(BodyId, Location)>> {
    let text = format!("SELECT b.id, {LOCATION_COLUMNS} FROM body b {LOCATION_JOINS} WHERE b.id IN IDS($1)");
    let rows = conn.rows(text, vec![ids(bodies.iter().map(|body| body.0))]).await?;
    let located = |row: &Row| {
        let body = BodyId(row.int(0)?);
        Ok((body, location(row, 1, body)?))
    };
    rows.iter().map(located).collect()
}

/// Takes `references` off each body. A body without any is deleted with its summary; if it was in a pack,
/// it is dead there from now on. Its parts lose a reference, and end likewise. Runs in the transaction that
/// removes the references; give at most 1,000 bodies at once.
///
/// # Errors
/// What the database says; then the transaction must not be committed.
pub async fn release(conn: &mut Conn, references: &BTreeMap<BodyId, i64>) -> Result<()> {
    if conn.is_postgres() {
        // Bodies and parts are locked ascending, as when they are re-pointed.
        let text = "SELECT count(*) FROM (
                        SELECT id FROM body WHERE id IN IDS($1)
                           OR id IN (SELECT part_id FROM body_part WHERE body_id IN IDS($1))
                        ORDER BY id FOR UPDATE) AS locked";
        conn.execute(text, vec![ids(references.keys().map(|body| body.0))]).await?;
    }
    let dead = drop_references(conn, references).await?;
    if dead.is_empty() {
        return Ok(());
    }
    let parts = part::detach(conn, &dead).await?;
    if !parts.is_empty() {
        let dead = drop_references(conn, &parts).await?;
        conn.execute("DELETE FROM part WHERE body_id IN IDS($1)", vec![ids(dead)]).await?;
    }
    Ok(())
}

/// Takes references off bodies and deletes those without any; answers which.
async fn drop_references(conn: &mut Conn, references: &BTreeMap<BodyId, i64>) -> Result<Vec<i64>> {
    let rows = references.iter().map(|(body, count)| vec![body.0, *count]).collect();
    let text = "UPDATE body SET reference_count = reference_count - v.column2";
    conn.update_from_values(text, "body.id", 2, rows).await?;
    let text = "SELECT id, pack_id, stored_octets FROM body
                WHERE id IN IDS($1) AND reference_count <= 0 ORDER BY id";
    let mut dead = Vec::new();
    let mut packs: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for row in conn.rows(text, vec![ids(references.keys().map(|body| body.0))]).await? {
        dead.push(row.int(0)?);
        if let Some(pack) = row.int_opt(1)? {
            let (bodies, octets) = packs.entry(pack).or_default();
            *bodies += 1;
            *octets += row.int(2)?;
        }
    }
    if dead.is_empty() {
        return Ok(dead);
    }
    summary_block::delete(conn, &dead).await?;
    for text in [
        "DELETE FROM fresh_body WHERE body_id IN IDS($1)",
        "DELETE FROM body_copy WHERE body_id IN IDS($1)",
        "DELETE FROM body WHERE id IN IDS($1)",
    ] {
        conn.execute(text, vec![ids(dead.iter().copied())]).await?;
    }
    let rows = packs.into_iter().map(|(pack, (bodies, octets))| vec![pack, bodies, octets]).collect();
    let text = "UPDATE pack SET dead_bodies = dead_bodies + v.column2, dead_octets = dead_octets + v.column3";
    conn.update_from_values(text, "pack.id", 3, rows).await?;
    Ok(dead)
}
