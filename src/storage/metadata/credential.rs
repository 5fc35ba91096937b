//! Password hashes of administrators.

use super::changes::Touched;
use super::sql::Conn;
use super::{invitation, token};
use crate::base::id::AdministratorId;
use crate::params;
use crate::storage::{Result, StorageError};

/// The hash of an administrator's password; nothing for one that has none, or is disabled or deleted, or whose home is.
///
/// # Errors
/// When the database fails.
pub async fn hash(conn: &mut Conn, administrator: AdministratorId) -> Result<Option<String>> {
    let text = "SELECT a.password_hash FROM administrator a JOIN customer c ON c.id = a.customer_id
                WHERE a.id = $1 AND a.enabled = 1 AND a.deleted_at IS NULL AND c.deleted_at IS NULL";
    let row = conn.row(text, params![administrator]).await?;
    row.map(|row| row.text_opt(0)).transpose().map(Option::flatten)
}

/// Sets a password, or takes it away. All tokens end, and the codes that the administrator has made.
///
/// # Errors
/// When the administrator is gone or the database fails.
pub async fn set(conn: &mut Conn, administrator: AdministratorId, hash: Option<&str>) -> Result<()> {
    conn.touch(Touched::Directory);
    token::delete_all(conn, administrator).await?;
    invitation::delete_by(conn, administrator).await?;
    let text = "UPDATE administrator SET password_hash = $2 WHERE id = $1 AND deleted_at IS NULL";
    let changed = conn.execute(text, params![administrator, hash]).await?;
    if changed == 0 { Err(StorageError::Gone("administrator")) } else { Ok(()) }
}
