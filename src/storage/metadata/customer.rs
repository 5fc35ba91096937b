//! Customers: the nodes of the hierarchy. `parent_id` is the truth.

use super::changes::Touched;
use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, public_id, random_text};
use crate::params;
use crate::storage::{Result, StorageError};

/// What the tree in memory knows of a customer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRow {
    /// Key.
    pub id: CustomerId,
    /// The customer above; nothing for the root.
    pub parent: Option<CustomerId>,
    /// Name in paths.
    pub slug: String,
    /// Short code.
    pub code: String,
    /// Whether it is deleted.
    pub deleted: bool,
}

/// How a transaction reads the version of the hierarchy. On PostgreSQL the version's row is the lock that keeps a
/// subtree from being moved or deleted while something is made below it; SQLite has one writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TreeLock {
    /// Reads only.
    None,
    /// Changes something below customers: the hierarchy must stay.
    Shared,
    /// Changes the hierarchy, administrators or grants.
    Exclusive,
}

/// The version of the hierarchy: a random text that every change of it replaces.
///
/// # Errors
/// When the database fails.
pub async fn tree_version(conn: &mut Conn, lock: TreeLock) -> Result<String> {
    let lock = match lock {
        TreeLock::Shared if conn.is_postgres() => " FOR SHARE",
        TreeLock::Exclusive if conn.is_postgres() => " FOR UPDATE",
        _ => "",
    };
    let text = format!("SELECT value FROM instance WHERE key = 'tree_version'{lock}");
    conn.row(text, params![]).await?.ok_or(StorageError::Gone("the hierarchy"))?.text(0)
}

/// Marks the hierarchy as changed.
///
/// # Errors
/// When the database fails.
pub async fn tree_changed(conn: &mut Conn) -> Result<()> {
    conn.touch(Touched::Directory);
    let text = "UPDATE instance SET value = $1 WHERE key = 'tree_version'";
    conn.execute(text, params![public_id()]).await.map(|_| ())
}

/// All customers, deleted ones too.
///
/// # Errors
/// When the database fails.
pub async fn nodes(conn: &mut Conn) -> Result<Vec<NodeRow>> {
    let text = "SELECT id, parent_id, slug, code, deleted_at FROM customer";
    let rows = conn.rows(text, params![]).await?;
    let node = |row: &super::sql::Row| {
        Ok(NodeRow {
            id: CustomerId(row.int(0)?),
            parent: row.int_opt(1)?.map(CustomerId),
            slug: row.text(2)?,
            code: row.text(3)?,
            deleted: row.int_opt(4)?.is_some(),
        })
    };
    rows.iter().map(node).collect()
}

/// Makes the root customer of a fresh database.
///
/// # Errors
/// When the database fails.
pub async fn ensure_root(conn: &mut Conn, now: Timestamp) -> Result<()> {
    let text = "INSERT INTO instance (key, value) VALUES ('tree_version', $1) ON CONFLICT DO NOTHING";
    if conn.execute(text, params![public_id()]).await? == 0 {
        return Ok(());
    }
    let text = "INSERT INTO customer (public_id, parent_id, slug, name, kind, code, created_at)
                VALUES ($1, NULL, 'provider', 'Provider', 'provider', $2, $3)";
    conn.execute(text, params![public_id(), random_text(6), now]).await?;
    Ok(())
}
