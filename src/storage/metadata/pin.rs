//! Pins: while one lasts, no pack file is removed.

use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::public_id;
use crate::params;
use crate::storage::Result;

/// Makes a pin and answers its id.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, node: &str, now: Timestamp, until: Timestamp) -> Result<String> {
    let id = public_id();
    let text = "INSERT INTO pin (id, node_id, created_at, expires_at) VALUES ($1, $2, $3, $4)";
    conn.execute(text, params![&id, node, now, until]).await?;
    Ok(id)
}

/// Lets a pin last longer; false when it is not there any more.
///
/// # Errors
/// When the database fails.
pub async fn extend(conn: &mut Conn, id: &str, until: Timestamp) -> Result<bool> {
    let text = "UPDATE pin SET expires_at = $2 WHERE id = $1";
    Ok(conn.execute(text, params![id, until]).await? > 0)
}

/// Takes a pin away.
///
/// # Errors
/// When the database fails.
pub async fn remove(conn: &mut Conn, id: &str) -> Result<()> {
    conn.execute("DELETE FROM pin WHERE id = $1", params![id]).await.map(drop)
}

/// Takes away pins that have expired.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut Conn, now: Timestamp) -> Result<u64> {
    conn.execute("DELETE FROM pin WHERE expires_at <= $1", params![now]).await
}
