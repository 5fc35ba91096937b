//! Mail stores (volumes).

use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::base::id::StoreId;
use crate::params;
use crate::storage::Result;

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
    /// zstd level.
    pub compression_level: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

fn from_row(row: &Row) -> Result<StoreRow> {
    Ok(StoreRow {
        id: StoreId(row.int(0)?),
        name: row.text(1)?,
        path: row.text(2)?,
        state: row.text(3)?,
        compression_level: row.int(4)?,
        created_at: Timestamp(row.int(5)?),
    })
}

/// All mail stores, oldest first; the first is where mailboxes go unless told otherwise.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn) -> Result<Vec<StoreRow>> {
    let text =
        "SELECT id, name, path, state, compression_level, created_at FROM store ORDER BY id LIMIT 1000";
    conn.rows(text, params![]).await?.iter().map(from_row).collect()
}
