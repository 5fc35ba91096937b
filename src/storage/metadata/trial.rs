//! Trying something inside a transaction: what is done between the two is undone, and the rest goes on.

use super::sql::Conn;
use crate::storage::Result;

/// Begins a trial. One at a time.
///
/// # Errors
/// When the database fails.
pub async fn begin(conn: &mut Conn) -> Result<()> {
    conn.execute("SAVEPOINT trial", Vec::new()).await.map(drop)
}

/// Undoes everything since [`begin`].
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub async fn undo(conn: &mut Conn) -> Result<()> {
    conn.execute("ROLLBACK TO SAVEPOINT trial", Vec::new()).await?;
    conn.execute("RELEASE SAVEPOINT trial", Vec::new()).await.map(drop)
}
