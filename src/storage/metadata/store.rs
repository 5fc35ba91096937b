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

/// What a mail store holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreUse {
    /// Mailboxes placed on it.
    pub mailboxes: i64,
    /// Pack files.
    pub packs: i64,
    /// Octets of its pack files.
    pub pack_octets: i64,
}

/// Counts what a mail store holds.
///
/// # Errors
/// When the database fails.
pub async fn usage(conn: &mut Conn, id: StoreId) -> Result<StoreUse> {
    let text = "SELECT (SELECT count(*) FROM mailbox WHERE store_id = $1 AND deleted_at IS NULL),
                       (SELECT count(*) FROM pack WHERE store_id = $1 AND dropped_at IS NULL),
                       (SELECT CAST(coalesce(sum(octets), 0) AS BIGINT) FROM pack
                        WHERE store_id = $1 AND dropped_at IS NULL)";
    let Some(row) = conn.row(text, params![id]).await? else { return Ok(StoreUse::default()) };
    Ok(StoreUse { mailboxes: row.int(0)?, packs: row.int(1)?, pack_octets: row.int(2)? })
}
