//! Zones: named sets of mail stores and servers.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::Touched;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{StoreId, ZoneId};
use crate::params;
use crate::storage::{Result, StorageError};

/// A zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneRow {
    /// Key.
    pub id: ZoneId,
    /// Its name; no other zone has it.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// What is in a zone.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Members {
    /// Mail stores.
    pub stores: BTreeSet<StoreId>,
    /// Servers, by the names of their nodes.
    pub nodes: BTreeSet<String>,
}

fn from_row(row: &Row) -> Result<ZoneRow> {
    Ok(ZoneRow { id: ZoneId(row.int(0)?), name: row.text(1)?, created_at: Timestamp(row.int(2)?) })
}

/// The zone of this name.
///
/// # Errors
/// When the database fails.
pub async fn by_name(conn: &mut Conn, name: &str) -> Result<Option<ZoneRow>> {
    let text = "SELECT id, name, created_at FROM zone WHERE name = $1";
    conn.row(text, params![name]).await?.as_ref().map(from_row).transpose()
}

/// Zones behind the name `after`, by name.
///
/// # Errors
/// When the database fails.
pub async fn page(conn: &mut Conn, after: &str, limit: i64) -> Result<Vec<ZoneRow>> {
    let text = "SELECT id, name, created_at FROM zone WHERE name > $1 ORDER BY name LIMIT $2";
    conn.rows(text, params![after, limit]).await?.iter().map(from_row).collect()
}

/// How many zones there are.
///
/// # Errors
/// When the database fails.
pub async fn count(conn: &mut Conn) -> Result<u64> {
    let row = conn.row("SELECT count(*) FROM zone", params![]).await?;
    row.ok_or(StorageError::Gone("the zones"))?.number(0)
}

/// What is in these zones; nothing for one that is empty.
///
/// # Errors
/// When the database fails.
pub async fn members(conn: &mut Conn, zones: &[ZoneId]) -> Result<BTreeMap<ZoneId, Members>> {
    let mut members: BTreeMap<ZoneId, Members> = BTreeMap::new();
    let keys = || vec![ids(zones.iter().map(|zone| zone.0))];
    let text = "SELECT zone_id, store_id FROM zone_store WHERE zone_id IN IDS($1)";
    for row in conn.rows(text, keys()).await? {
        members.entry(ZoneId(row.int(0)?)).or_default().stores.insert(StoreId(row.int(1)?));
    }
    let text = "SELECT zone_id, node_id FROM zone_node WHERE zone_id IN IDS($1)";
    for row in conn.rows(text, keys()).await? {
        members.entry(ZoneId(row.int(0)?)).or_default().nodes.insert(row.text(1)?);
    }
    Ok(members)
}

/// Makes an empty zone; nothing when there is one of this name.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, name: &str, now: Timestamp) -> Result<Option<ZoneId>> {
    let text = "INSERT INTO zone (name, created_at) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING id";
    conn.row(text, params![name, now]).await?.map(|row| row.int(0).map(ZoneId)).transpose()
}

/// Says what is in a zone, instead of what was.
///
/// # Errors
/// When the database fails.
pub async fn set_members(conn: &mut Conn, zone: ZoneId, members: &Members) -> Result<()> {
    conn.touch(Touched::Directory);
    conn.execute("DELETE FROM zone_store WHERE zone_id = $1", params![zone]).await?;
    conn.execute("DELETE FROM zone_node WHERE zone_id = $1", params![zone]).await?;
    for store in &members.stores {
        let text = "INSERT INTO zone_store (zone_id, store_id) VALUES ($1, $2)";
        conn.execute(text, params![zone, *store]).await?;
    }
    for node in &members.nodes {
        let text = "INSERT INTO zone_node (zone_id, node_id) VALUES ($1, $2)";
        conn.execute(text, params![zone, node]).await?;
    }
    Ok(())
}

/// Removes a zone with the grants in it.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, zone: ZoneId) -> Result<()> {
    conn.touch(Touched::Directory);
    for text in [
        "DELETE FROM role_grant WHERE zone_id = $1",
        "DELETE FROM zone_store WHERE zone_id = $1",
        "DELETE FROM zone_node WHERE zone_id = $1",
    ] {
        conn.execute(text, params![zone]).await?;
    }
    let changed = conn.execute("DELETE FROM zone WHERE id = $1", params![zone]).await?;
    if changed == 0 { Err(StorageError::Gone("zone")) } else { Ok(()) }
}
