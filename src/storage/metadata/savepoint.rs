//! Parts of a transaction that are kept or undone alone.

use super::sql::{Conn, Trouble};
use crate::storage::{Result, StorageError};

/// A point to which the transaction can be brought back. One at a time.
#[must_use]
pub struct Savepoint {
    touched: usize,
}

impl Conn {
    /// Begins a part.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn savepoint(&mut self) -> Result<Savepoint> {
        self.execute("SAVEPOINT part", Vec::new()).await?;
        Ok(Savepoint { touched: self.touched.len() })
    }

    /// Keeps what has been done since; it is committed or undone with the transaction.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep(&mut self, _: Savepoint) -> Result<()> {
        self.execute("RELEASE SAVEPOINT part", Vec::new()).await.map(|_| ())
    }

    /// Undoes what has been done since, also after a statement that failed.
    ///
    /// # Errors
    /// When the transaction as a whole cannot go on: a full disk, a lost connection, or locks that make it run again.
    pub async fn undo(&mut self, savepoint: Savepoint) -> Result<()> {
        match self.trouble {
            Some(Trouble::Full) => return Err(StorageError::Full),
            Some(Trouble::Lost) => return Err(StorageError::Busy("the database was lost")),
            Some(Trouble::Retry) => {
                return Err(StorageError::Busy("the transaction kept colliding with others"));
            }
            Some(Trouble::Statement) | None => {}
        }
        self.touched.truncate(savepoint.touched);
        self.execute("ROLLBACK TO SAVEPOINT part", Vec::new()).await?;
        self.execute("RELEASE SAVEPOINT part", Vec::new()).await?;
        self.trouble = None;
        Ok(())
    }
}
