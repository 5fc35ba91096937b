//! What every instance has besides its customers: mail stores, and the nodes that run it.

use super::sql::Conn;
use super::stage;
use super::store;
use crate::base::clock::Timestamp;
use crate::base::id::{StoreId, random_text};
use crate::base::store_settings::StoreSettings;
use crate::base::telemetry::metrics::StorageLevels;
use crate::params;
use crate::storage::{Result, StorageError};

/// A mail store as configured.
#[derive(Clone, Debug)]
pub struct StoreSetup {
    /// Its name.
    pub name: String,
    /// Where its packs lie.
    pub path: String,
    /// How it keeps mail.
    pub settings: StoreSettings,
    /// The settings that the configuration gives.
    pub fixed: Vec<&'static str>,
}

/// Enters the configured stores and answers their keys in order. Settings that the configuration does not give stay as
/// they were set at run time. A store that is no longer configured stays known, since packs may name it.
///
/// # Errors
/// When the database fails; `Corrupt` when what it has of a store cannot be understood.
pub async fn ensure_stores(conn: &mut Conn, stores: &[StoreSetup], now: Timestamp) -> Result<Vec<StoreId>> {
    let mut ids = Vec::with_capacity(stores.len());
    for setup in stores {
        let row = conn.row("SELECT fixed FROM store WHERE name = $1", params![&setup.name]).await?;
        let was_fixed: Vec<String> = match row {
            Some(row) => serde_json::from_str(&row.text(0)?).unwrap_or_default(),
            None => Vec::new(),
        };
        let fixed = serde_json::Value::from(setup.fixed.clone()).to_string();
        let text = "INSERT INTO store (name, path, settings, fixed, created_at) VALUES ($1, $2, $3, $4, $5)
                    ON CONFLICT (name) DO UPDATE SET path = excluded.path, fixed = excluded.fixed
                    RETURNING id, settings";
        let params = params![&setup.name, &setup.path, setup.settings.to_database(), fixed, now];
        let row = conn.row(text, params).await?.ok_or(StorageError::Gone("the store"))?;
        let store = StoreId(row.int(0)?);
        let before = store::settings(&row.text(1)?)?;
        let mut settings = before.clone();
        // What has left the file is as if it had never stood there.
        for name in was_fixed.iter().map(String::as_str).chain(setup.fixed.iter().copied()) {
            settings.take(name, &setup.settings);
        }
        if settings != before {
            store::set(conn, store, &before, &settings).await?;
        }
        ids.push(store);
    }
    Ok(ids)
}

/// A secret of the installation, drawn when it is first asked for.
///
/// # Errors
/// When the database fails.
pub async fn secret(conn: &mut Conn, name: &'static str) -> Result<[u8; 32]> {
    // 64 letters of 5 bits each.
    let text = "INSERT INTO instance (key, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    conn.execute(text, params![name, random_text(64)]).await?;
    known_secret(conn, name).await
}

/// A secret of the installation that was drawn before.
///
/// # Errors
/// When it was not, or the database fails.
pub async fn known_secret(conn: &mut Conn, name: &'static str) -> Result<[u8; 32]> {
    let row = conn.row("SELECT value FROM instance WHERE key = $1", params![name]).await?;
    let value = row.ok_or(StorageError::Gone("the secret"))?.text(0)?;
    Ok(*blake3::hash(value.as_bytes()).as_bytes())
}

/// The name of the installation, drawn when it is first asked for; its mail stores' folders are marked with it.
///
/// # Errors
/// When the database fails.
pub async fn identity(conn: &mut Conn) -> Result<String> {
    let text = "INSERT INTO instance (key, value) VALUES ('identity', $1) ON CONFLICT DO NOTHING";
    conn.execute(text, params![random_text(26)]).await?;
    let row = conn.row("SELECT value FROM instance WHERE key = 'identity'", params![]).await?;
    row.ok_or(StorageError::Gone("the installation's name"))?.text(0)
}

/// Gives a new installation the name of the one whose mail stores it takes over.
///
/// # Errors
/// When the database fails.
pub async fn keep_identity(conn: &mut Conn, identity: &str) -> Result<()> {
    let text = "INSERT INTO instance (key, value) VALUES ('identity', $1) ON CONFLICT DO NOTHING";
    conn.execute(text, params![identity]).await.map(drop)
}

/// Enters a start of the node and answers its epoch: one more than at its last start. What that left on its way into
/// folders is given up.
///
/// # Errors
/// When the database fails.
pub async fn node_start(conn: &mut Conn, node: &str, now: Timestamp) -> Result<i64> {
    let text = "INSERT INTO node (id, epoch, started_at, seen_at) VALUES ($1, 1, $2, $2)
                ON CONFLICT (id) DO UPDATE SET epoch = node.epoch + 1, started_at = excluded.started_at,
                                               seen_at = excluded.seen_at, state = 'serving', wanted = NULL,
                                               restart_error = NULL
                RETURNING epoch";
    let row = conn.row(text, params![node, now]).await?;
    let epoch = row.ok_or(StorageError::Gone("the node"))?.int(0)?;
    stage::abandon_ended(conn, node, epoch).await?;
    Ok(epoch)
}

/// Measures the database and what it knows of the packs.
///
/// # Errors
/// When the database fails.
pub async fn storage_levels(conn: &mut Conn) -> Result<StorageLevels> {
    let text = "SELECT (SELECT count(*) FROM pack WHERE dropped_at IS NULL),
                       (SELECT CAST(coalesce(sum(octets), 0) AS BIGINT) FROM pack WHERE dropped_at IS NULL),
                       (SELECT count(*) FROM fresh_body)";
    let row = conn.row(text, params![]).await?.ok_or(StorageError::Gone("the database"))?;
    let (packs, pack_octets, fresh_bodies) = (row.number(0)?, row.number(1)?, row.number(2)?);
    let (database_octets, write_ahead_log_octets) = database_octets(conn).await?;
    Ok(StorageLevels { database_octets, write_ahead_log_octets, packs, pack_octets, fresh_bodies })
}

/// Sizes of the database and of SQLite's write-ahead log, in octets.
///
/// # Errors
/// When the database fails.
pub async fn database_octets(conn: &mut Conn) -> Result<(u64, u64)> {
    let gone = || StorageError::Gone("the database");
    if conn.is_postgres() {
        let row = conn.row("SELECT pg_database_size(current_database())", params![]).await?;
        return Ok((row.ok_or_else(gone)?.number(0)?, 0));
    }
    let text = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
    let row = conn.row(text, params![]).await?.ok_or_else(gone)?;
    let log = format!("{}-wal", database_file(conn).await?.unwrap_or_default());
    // The log is not there before the first write and after a clean end.
    let log_octets = std::fs::metadata(log).map_or(0, |file| file.len());
    Ok((row.number(0)?, log_octets))
}

/// The file of an SQLite database.
///
/// # Errors
/// When the database fails.
pub async fn database_file(conn: &mut Conn) -> Result<Option<String>> {
    if conn.is_postgres() {
        return Ok(None);
    }
    let row = conn.row("SELECT file FROM pragma_database_list WHERE name = 'main'", params![]).await?;
    row.map(|row| row.text(0)).transpose()
}

/// Notes that the node runs.
///
/// # Errors
/// When the database fails.
pub async fn node_seen(conn: &mut Conn, node: &str, now: Timestamp) -> Result<()> {
    conn.execute("UPDATE node SET seen_at = $2 WHERE id = $1", params![node, now]).await.map(drop)
}
