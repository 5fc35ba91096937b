//! What every instance has besides its customers: mail stores, and the nodes that run it.

use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::StoreId;
use crate::params;
use crate::storage::{Result, StorageError};

/// A mail store as configured.
#[derive(Clone, Debug)]
pub struct StoreSetup {
    /// Its name.
    pub name: String,
    /// Where its packs lie.
    pub path: String,
    /// zstd level.
    pub compression_level: i64,
    /// Whether short bodies are compressed with the shipped dictionary.
    pub compression_dictionary: bool,
}

/// Enters the configured stores and answers their keys in order. A store that is no longer configured stays known,
/// since packs may name it.
///
/// # Errors
/// When the database fails.
pub async fn ensure_stores(conn: &mut Conn, stores: &[StoreSetup], now: Timestamp) -> Result<Vec<StoreId>> {
    let mut ids = Vec::with_capacity(stores.len());
    for store in stores {
        let text = "INSERT INTO store (name, path, compression_level, compression_dictionary, created_at)
                    VALUES ($1, $2, $3, $4, $5)
                    ON CONFLICT (name) DO UPDATE SET path = excluded.path,
                        compression_level = excluded.compression_level,
                        compression_dictionary = excluded.compression_dictionary
                    RETURNING id";
        let (level, dictionary) = (store.compression_level, store.compression_dictionary);
        let row = conn.row(text, params![&store.name, &store.path, level, dictionary, now]).await?;
        ids.push(StoreId(row.ok_or(StorageError::Gone("the store"))?.int(0)?));
    }
    Ok(ids)
}

/// Enters a start of the node and answers its epoch: one more than at its last start.
///
/// # Errors
/// When the database fails.
pub async fn node_start(conn: &mut Conn, node: &str, now: Timestamp) -> Result<i64> {
    let text = "INSERT INTO node (id, epoch, started_at, seen_at) VALUES ($1, 1, $2, $2)
                ON CONFLICT (id) DO UPDATE SET epoch = node.epoch + 1, started_at = excluded.started_at,
                                               seen_at = excluded.seen_at
                RETURNING epoch";
    let row = conn.row(text, params![node, now]).await?;
    row.ok_or(StorageError::Gone("the node"))?.int(0)
}
