//! What can go wrong with object storage, sorted by what helps.

use std::time::Duration;

use crate::storage::StorageError;

/// Why object storage did not do what it was told. The texts are for the operator: they name keys, endpoints and
/// answers, never secrets.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// There is no such object.
    #[error("object storage has no {0}")]
    NotFound(String),
    /// The keys are wrong or not allowed to do this.
    #[error("object storage refuses access ({0}): check the keys, the rights on the bucket, and this clock")]
    Denied(String),
    /// It asks for fewer requests.
    #[error("object storage asks to slow down ({0}): it is tried again by itself")]
    Throttled(String),
    /// It cannot be reached, fails, or takes too long.
    #[error("object storage is not available ({0}): it is tried again by itself")]
    Unavailable(String),
    /// What it answered is not what was asked for, or what arrived there is not what was sent.
    #[error("object storage gave or took wrong bytes: {0}")]
    Corrupt(String),
    /// Endpoint, bucket or a setting is wrong.
    #[error("object storage is not set up rightly: {0}")]
    Invalid(String),
    /// A file on this machine could not be read or written.
    #[error("{what}: {error}")]
    Local {
        /// What was being done, with the file's name.
        what: String,
        /// The system's error.
        error: std::io::Error,
    },
}

/// What the remote room returns.
pub type Result<T> = std::result::Result<T, RemoteError>;

impl RemoteError {
    /// A short fixed word for numbers and reports.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not-found",
            Self::Denied(_) => "denied",
            Self::Throttled(_) => "throttled",
            Self::Unavailable(_) => "unavailable",
            Self::Corrupt(_) => "corrupt",
            Self::Invalid(_) => "invalid",
            Self::Local { .. } => "local",
        }
    }

    /// Whether only a change of the settings, the keys or the bucket helps.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Denied(_) | Self::Invalid(_))
    }

    /// Whether the same request may succeed a moment later.
    pub(super) const fn is_worth_retrying(&self) -> bool {
        matches!(self, Self::Throttled(_) | Self::Unavailable(_) | Self::Corrupt(_))
    }

    /// Whether nothing sensible came back at all, so that the next request will hardly fare better.
    pub(super) const fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    pub(super) fn timeout(what: &str, after: Duration) -> Self {
        Self::Unavailable(format!("{what}: nothing came for {} s", after.as_secs()))
    }

    pub(super) fn local(what: &str, path: &std::path::Path, error: std::io::Error) -> Self {
        Self::Local { what: format!("{what} {}", path.display()), error }
    }
}

/// A missing object is a missing pack, which a reader looks up once more; full and failing disks are what they
/// always are; everything else passes, or is repaired by the operator, without any mail being lost.
impl From<RemoteError> for StorageError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::NotFound(_) => Self::Gone("pack in object storage"),
            RemoteError::Local { what, error } => match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
                _ => Self::Io { what, error },
            },
            other => Self::Remote(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever object storage says, a client is told to come back later; never that its mail is damaged.
    #[test]
    fn errors_of_object_storage_are_temporary_for_clients() {
        let text = || "x".to_owned();
        for error in [
            RemoteError::NotFound(text()),
            RemoteError::Denied(text()),
            RemoteError::Throttled(text()),
            RemoteError::Unavailable(text()),
            RemoteError::Corrupt(text()),
            RemoteError::Invalid(text()),
            RemoteError::Local { what: text(), error: std::io::Error::other("y") },
        ] {
            let class = error.class();
            assert!(!StorageError::from(error).is_permanent(), "{class}");
        }
    }

    #[test]
    fn full_disk_and_missing_object_are_told_as_everywhere_in_storage() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full = RemoteError::Local { what: "write x".to_owned(), error: full };
        assert!(matches!(StorageError::from(full), StorageError::Full));
        let missing = RemoteError::NotFound("packs/x".to_owned());
        assert!(matches!(StorageError::from(missing), StorageError::Gone(_)));
    }
}
