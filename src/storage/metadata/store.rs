//! Mail stores (volumes).

use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::base::id::StoreId;
use crate::base::store_settings::StoreSettings;
use crate::params;
use crate::storage::{Result, StorageError};

/// A mail store.
#[derive(Clone, Debug)]
pub struct StoreRow {
    /// Key.
    pub id: StoreId,
    /// Its name.
    pub name: String,
    /// Where its packs lie.
    pub path: String,
    /// `online`, `read-only`, `draining` or `stopped`.
    pub state: String,
    /// How it keeps mail.
    pub settings: StoreSettings,
    /// Names of the settings that the configuration file gives.
    pub fixed: Vec<String>,
    /// Grows when bodies shall be compressed in another way.
    pub generation: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

fn from_row(row: &Row) -> Result<StoreRow> {
    Ok(StoreRow {
        id: StoreId(row.int(0)?),
        name: row.text(1)?,
        path: row.text(2)?,
        state: row.text(3)?,
        settings: settings(&row.text(4)?)?,
        fixed: serde_json::from_str(&row.text(5)?).unwrap_or_default(),
        generation: row.int(6)?,
        created_at: Timestamp(row.int(7)?),
    })
}

/// All mail stores, oldest first; the first is where mailboxes go unless told otherwise.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn) -> Result<Vec<StoreRow>> {
    let text = "SELECT id, name, path, state, settings, fixed, generation, created_at
                FROM store ORDER BY id LIMIT 1000";
    conn.rows(text, params![]).await?.iter().map(from_row).collect()
}

/// Reads column `settings`.
///
/// # Errors
/// `Corrupt` when it cannot be understood.
pub fn settings(text: &str) -> Result<StoreSettings> {
    let wrong = |what: String| StorageError::Corrupt(format!("settings of a mail store: {what}"));
    StoreSettings::from_database(text).map_err(wrong)
}

/// Changes the settings of a store.
///
/// # Errors
/// When the database fails.
pub async fn set(
    conn: &mut Conn,
    store: StoreId,
    before: &StoreSettings,
    after: &StoreSettings,
) -> Result<()> {
    let anew = before.compression != after.compression;
    let text = "UPDATE store SET settings = $2, generation = generation + $3 WHERE id = $1";
    conn.execute(text, params![store, after.to_database(), anew]).await.map(drop)
}
