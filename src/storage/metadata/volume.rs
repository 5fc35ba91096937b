//! What mail stores hold, counted for reports.

use std::collections::BTreeMap;

use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::StoreId;
use crate::base::store_settings::StoreSettings;
use crate::params;
use crate::storage::Result;

/// Keys of bodies that one statement passes over, so that no reader holds the log for long.
const STEP_KEYS: i64 = 20_000;
/// Most stores; they are configured by hand.
const STORES_MAX: i64 = 10_000;

/// A mail store and what it holds.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Key.
    pub id: StoreId,
    /// Its name.
    pub name: String,
    /// Its folder, as configured.
    pub path: String,
    /// `online`, `read-only`, `draining` or `stopped`.
    pub state: String,
    /// How it keeps mail.
    pub settings: StoreSettings,
    /// Names of the settings that the configuration file gives.
    pub fixed: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
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
}

/// All mail stores, oldest first. Goes through all bodies, in steps; what changes meanwhile counts or not.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn) -> Result<Vec<Volume>> {
    let text = "SELECT s.id, s.name, s.path, s.state, s.settings, s.created_at,
                       (SELECT count(*) FROM mailbox m WHERE m.store_id = s.id),
                       (SELECT count(*) FROM pack p WHERE p.store_id = s.id AND p.dropped_at IS NULL),
                       (SELECT CAST(coalesce(sum(p.octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.dropped_at IS NULL),
                       (SELECT CAST(coalesce(sum(p.dead_octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.dropped_at IS NULL), s.fixed,
                       (SELECT CAST(coalesce(sum(p.octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.local_state <> 'absent'),
                       (SELECT CAST(coalesce(sum(p.octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.remote_state = 'present')
                FROM store s ORDER BY s.id LIMIT $1";
    let mut volumes = BTreeMap::new();
    for row in conn.rows(text, params![STORES_MAX]).await? {
        let volume = Volume {
            id: StoreId(row.int(0)?),
            name: row.text(1)?,
            path: row.text(2)?,
            state: row.text(3)?,
            settings: super::store::settings(&row.text(4)?)?,
            fixed: serde_json::from_str(&row.text(10)?).unwrap_or_default(),
            created_at: Timestamp(row.int(5)?),
            mailboxes: row.int(6)?,
            packs: row.int(7)?,
            pack_octets: row.int(8)?,
            dead_octets: row.int(9)?,
            local_octets: row.int(11)?,
            remote_octets: row.int(12)?,
            fresh_bodies: 0,
            packed_bodies: 0,
            octets: 0,
            stored_octets: 0,
        };
        volumes.insert(volume.id.0, volume);
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
