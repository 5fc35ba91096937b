//! Backups: the database as of one moment and every pack that it names, in a directory or a bucket; and the ways back.
//!
//! ```text
//! index-0, index-1                    which backups there are; the one with the higher generation counts
//! snapshots/ID/manifest.json.zst      length and BLAKE3 of everything that belongs to one backup
//! snapshots/ID/metadata.db.zst        the database, as an SQLite file whichever database it was
//! packs/NAME.pack                     packs, each once, shared by all backups that name them
//! ```
//!
//! # Consistency
//! A pin keeps pack files from being removed. After it is committed the database is copied as of one moment; whatever
//! the copy names stays while the pin lasts. Packs are immutable, so a pack that a backup of the target names already
//! is only looked at (is it there, is it as long?) and not copied again. Packs that are in object storage alone are
//! copied from there, a few at a time through scratch files. One job at a time writes to a target; a backup that is
//! being read is not removed.
//!
//! # Crash Consistency
//! Objects are written first, then the manifest, then the index: a backup that the index does not name is none. The two
//! index objects are written in turn, each with a checksum, so a write that is cut off leaves the one before whole.
//! What is written to a target and not yet named by a backup there is named by rows in the database: the next run uses
//! it or removes it. Removing goes the other way round: first the index no longer has the backup but says that it is
//! being dropped, then what only dropped backups name is deleted, the manifest last, then the index forgets it. Nothing
//! ever lists a target.
//!
//! The points where a crash can happen: while packs are written (1, 2), before the database (3), before the manifest
//! (4), before the index (5): there is no new backup; before the rows (6): there is one; while backups are dropped (7,
//! 8, 9).
//!
//! # Retries
//! A target that is away, slow or overloaded is waited for up to an hour, on top of the attempts of each request; wrong
//! keys and wrong settings end the work at once.
//!
//! # Cancellation
//! Everything may be dropped; the next run goes by rows and index.

mod create;
mod index;
mod manifest;
mod open;
mod prune;
mod restore;
mod retention;
mod target;
mod verify;

pub use create::{Source, Taken, new_id, take};
pub use index::{Entry, Finding};
pub use manifest::Manifest;
pub use open::{Opened, Tried, open, try_out};
pub use prune::{Pruned, prune};
pub use restore::{Restored, fetch_database, restore_packs};
pub use target::Target;
pub use verify::{Checked, verify};

use super::StorageError;
use super::remote::RemoteError;

/// Why there is no backup, or it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Another job is at it.
    #[error("another job writes to {0}; posthouse job list --open shows it")]
    Busy(String),
    /// The backup is not there, or not any more.
    #[error("{place} has no backup {id}")]
    Unknown {
        /// The target.
        place: String,
        /// The backup.
        id: String,
    },
    /// Index or manifest cannot be understood.
    #[error("{place}: {what}")]
    Damaged {
        /// The target.
        place: String,
        /// What is wrong.
        what: String,
    },
    /// The target has backups of another installation.
    #[error("{0} has backups of another installation: every installation needs a place of its own")]
    Foreign(String),
    /// The place for the backup holds something else.
    #[error("{0} is not empty and holds no backups")]
    NotEmpty(String),
    /// The target did not do it.
    #[error("backup target: {0}")]
    Target(#[from] RemoteError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<crate::base::progress::Interrupted> for BackupError {
    fn from(interrupted: crate::base::progress::Interrupted) -> Self {
        Self::Storage(interrupted.into())
    }
}

/// What this room returns.
pub type Result<T> = std::result::Result<T, BackupError>;
