//! Storage keeps what it is told and asks nobody's permission.

mod background;
pub mod backup;
pub mod bodies;
pub mod cache;
pub mod catalogs;
pub mod homing;
pub mod ledger;
pub mod metadata;
pub mod offload;
pub mod pack;
pub mod packer;
#[cfg(test)]
mod packer_tests;
#[cfg(test)]
pub(crate) use packer_tests::Fault;
pub mod remote;
pub mod rewriter;
pub mod verify;
pub mod volumes;

/// Why storage could not do what it was told. Nothing was changed unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The database answered with an error.
    #[error("database: {0}")]
    Database(#[from] sqlx::Error),
    /// A file operation failed.
    #[error("{what}: {error}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// What was read back is not what was written.
    #[error("damaged: {0}")]
    Corrupt(String),
    /// No space left in the database or on the volume.
    #[error("no space left")]
    Full,
    /// The writer's queue is closed or overfull.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// What the caller relied on is gone (a concurrent deletion won).
    #[error("{0} is gone")]
    Gone(&'static str),
    /// A unique value is taken.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// A sum that no number holds.
    #[error("{0} add up to more than can be counted")]
    TooMuch(&'static str),
    /// Object storage did not do it; clients are told to come back later.
    #[error(transparent)]
    Remote(remote::RemoteError),
    /// It was asked to end before it was done; what was done stays.
    #[error(transparent)]
    Interrupted(#[from] crate::base::progress::Interrupted),
}

impl StorageError {
    /// Whether trying again later cannot help.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Corrupt(_) | Self::TooMuch(_) => true,
            Self::Database(error) => !matches!(
                error,
                sqlx::Error::Io(_)
                    | sqlx::Error::PoolTimedOut
                    | sqlx::Error::PoolClosed
                    | sqlx::Error::WorkerCrashed
            ),
            Self::Io { .. }
            | Self::Full
            | Self::Busy(_)
            | Self::Gone(_)
            | Self::Exists(_)
            | Self::Interrupted(_) => false,
            // What only the operator can repair is no damage to mail, and passes.
            Self::Remote(_) => false,
        }
    }
}

/// What storage returns.
pub type Result<T> = std::result::Result<T, StorageError>;
