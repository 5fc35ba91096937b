//! What mail stores hold, counted for reports.

use std::collections::BTreeMap;

use super::sql::Conn;
use super::store::{self, StoreRow};
use crate::base::id::StoreId;
use crate::params;
use crate::storage::Result;

/// Keys of bodies that one statement passes over, so that no reader holds the log for long.
const STEP_KEYS: i64 = 20_000;
/// Most stores; they are made by hand.
const STORES_MAX: i64 = 1_000;

/// A mail store and what it holds.
#[derive(Clone, Debug)]
pub struct Volume {
    /// How it is set up.
    pub row: StoreRow,
    /// Mailboxes placed on it.
    pub mailboxes: i64,
    /// Bodies in the database.
    pub fresh_bodies: i64,
    /// Bodies in packs.
    pub packed_bodies: i64,
    /// Octets of the bodies before compression.
    pub octets: i64,
    /// Octets of the bodies as they are kept.
    pub stored_octets: i64,
    /// Pack files.
    pub packs: i64,
    /// Octets of the pack files.
    pub pack_octets: i64,
    /// Octets in packs that belong to no body.
    pub dead_octets: i64,
    /// Octets of pack files on the volume.
    pub local_octets: i64,
    /// Octets of packs in object storage.
    pub remote_octets: i64,
    /// Packs in which damage was found.
    pub damaged_packs: i64,
}

/// All mail stores, oldest first. Goes through all bodies, in steps; what changes meanwhile counts or not.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn) -> Result<Vec<Volume>> {
    let text = "SELECT s.id,
                       (SELECT count(*) FROM mailbox m WHERE m.store_id = s.id),
                       (SELECT count(*) FROM pack p WHERE p.store_id = s.id AND p.dropped_at IS NULL),
                       (SELECT CAST(coalesce(sum(p.octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.dropped_at IS NULL),
                       (SELECT CAST(coalesce(sum(p.dead_octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.dropped_at IS NULL),
                       (SELECT CAST(coalesce(sum(p.octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.local_state <> 'absent'),
                       (SELECT CAST(coalesce(sum(p.octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.remote_state = 'present'),
                       (SELECT count(*) FROM pack p
                        WHERE p.store_id = s.id AND p.dropped_at IS NULL AND p.damaged_at IS NOT NULL)
                FROM store s ORDER BY s.id LIMIT $1";
    let mut rows: BTreeMap<i64, StoreRow> =
        store::list(conn).await?.into_iter().map(|row| (row.id.0, row)).collect();
    let mut volumes = BTreeMap::new();
    for row in conn.rows(text, params![STORES_MAX]).await? {
        let Some(set_up) = rows.remove(&row.int(0)?) else { continue };
        let key = set_up.id.0;
        let volume = Volume {
            row: set_up,
            mailboxes: row.int(1)?,
            packs: row.int(2)?,
            pack_octets: row.int(3)?,
            dead_octets: row.int(4)?,
            local_octets: row.int(5)?,
            remote_octets: row.int(6)?,
            damaged_packs: row.int(7)?,
            fresh_bodies: 0,
            packed_bodies: 0,
            octets: 0,
            stored_octets: 0,
        };
        volumes.insert(key, volume);
    }
    add_bodies(conn, &mut volumes).await?;
    Ok(volumes.into_values().collect())
}

async fn add_bodies(conn: &mut Conn, volumes: &mut BTreeMap<i64, Volume>) -> Result<()> {
    let ends = conn.row("SELECT coalesce(min(id), 0), coalesce(max(id), -1) FROM body", Vec::new()).await?;
    let Some(ends) = ends else { return Ok(()) };
    let (mut from, last) = (ends.int(0)?, ends.int(1)?);
    while from <= last {
        // Parts only hold octets that others were received with.
        let text = "SELECT b.store_id, count(*) - count(p.body_id), count(b.pack_id) - count(p.body_id),
                           CAST(coalesce(sum(CASE WHEN p.body_id IS NULL THEN b.octets END), 0) AS BIGINT),
                           CAST(sum(b.stored_octets) AS BIGINT)
                    FROM body b LEFT JOIN part p ON p.body_id = b.id
                    WHERE b.id >= $1 AND b.id < $2 GROUP BY b.store_id";
        let end = from.saturating_add(STEP_KEYS);
        for row in conn.rows(text, params![from, end]).await? {
            let Some(volume) = volumes.get_mut(&row.int(0)?) else { continue };
            let (bodies, packed) = (row.int(1)?, row.int(2)?);
            volume.packed_bodies += packed;
            volume.fresh_bodies += bodies - packed;
            volume.octets = volume.octets.saturating_add(row.int(3)?);
            volume.stored_octets = volume.stored_octets.saturating_add(row.int(4)?);
        }
        from = end;
    }
    Ok(())
}

/// How many bodies a store holds, parts too. Goes through all bodies, in steps.
///
/// # Errors
/// When the database fails.
pub async fn bodies_of(conn: &mut Conn, store: StoreId) -> Result<u64> {
    let ends = conn.row("SELECT coalesce(min(id), 0), coalesce(max(id), -1) FROM body", Vec::new()).await?;
    let Some(ends) = ends else { return Ok(0) };
    let (mut from, last, mut count) = (ends.int(0)?, ends.int(1)?, 0_u64);
    while from <= last {
        let text = "SELECT count(*) FROM body WHERE id >= $1 AND id < $2 AND store_id = $3";
        let end = from.saturating_add(STEP_KEYS);
        let row = conn.row(text, params![from, end, store]).await?;
        count += row.map(|row| row.number(0)).transpose()?.unwrap_or(0);
        from = end;
    }
    Ok(count)
}
