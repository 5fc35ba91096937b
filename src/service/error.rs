//! What a service answers when it does not do what was asked. Each protocol maps it to its replies in one function.

use crate::storage::StorageError;

/// A resource that has a quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resource {
    /// Octets of mail, uncompressed.
    Bytes,
    /// Number of messages.
    Messages,
    /// Number of mailboxes.
    Mailboxes,
    /// Number of aliases.
    Aliases,
    /// Number of domains.
    Domains,
    /// Number of child customers.
    Customers,
    /// Number of administrators.
    Administrators,
}

/// Why a service refused or failed. The text is public: it names nothing the caller may not see.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// It does not exist, or the caller may not see it: one answer.
    #[error("{what} does not exist")]
    NotFound {
        /// What was looked for, in the caller's own words.
        what: String,
    },
    /// Visible, but the caller lacks the permission.
    #[error("permission {permission} is missing")]
    Forbidden {
        /// The permission that would have been needed.
        permission: &'static str,
    },
    /// A second factor is demanded of the caller, who has none yet: until there is one, nothing else is open.
    #[error("a second factor is demanded of you; set one up first")]
    SecondFactorNeeded,
    /// It contradicts what is there.
    #[error("{message}")]
    Conflict {
        /// What is in the way and what to do about it.
        message: String,
    },
    /// It is not as the caller has last seen it (RFC 9110 section 13.1.1).
    #[error("{what} was changed; read it again")]
    Changed {
        /// What was asked to be unchanged.
        what: String,
    },
    /// A value is wrong.
    #[error("{field}: {message}")]
    Invalid {
        /// The field at fault.
        field: &'static str,
        /// What was expected and what came.
        message: String,
    },
    /// A quota would be exceeded.
    #[error("over quota: {limit}")]
    OverQuota {
        /// What would be exceeded.
        resource: Resource,
        /// The limit that refuses, named if the caller may see it, else "limited above your scope".
        limit: String,
    },
    /// Switched off by a hold.
    #[error("suspended")]
    Suspended,
    /// Too large, too many, too deep: a fixed bound of this server.
    #[error("{0}")]
    Limit(String),
    /// Temporarily impossible (store stopped, database or remote store away); nothing was changed.
    #[error("temporarily unavailable: {0}")]
    Unavailable(String),
    /// A defect or damaged data; details are in the log under the request id.
    #[error("internal error")]
    Internal(String),
}

impl ServiceError {
    /// The word for it in the audit trail; nothing when it failed for technical reasons and nobody refused.
    pub fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::NotFound { .. } => Some("not-found"),
            Self::Forbidden { .. } => Some("forbidden"),
            Self::SecondFactorNeeded => Some("second-factor-needed"),
            Self::Conflict { .. } => Some("conflict"),
            Self::Changed { .. } => Some("changed"),
            Self::Invalid { .. } => Some("invalid"),
            Self::OverQuota { .. } => Some("over-quota"),
            Self::Suspended => Some("suspended"),
            Self::Limit(_) => Some("limit"),
            Self::Unavailable(_) | Self::Internal(_) => None,
        }
    }
}

impl ServiceError {
    /// The stable word for it, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "not_found",
            Self::Forbidden { .. } => "forbidden",
            Self::SecondFactorNeeded => "second_factor_needed",
            Self::Conflict { .. } => "conflict",
            Self::Changed { .. } => "precondition_failed",
            Self::Invalid { .. } => "invalid",
            Self::OverQuota { .. } => "over_quota",
            Self::Suspended => "suspended",
            Self::Limit(_) => "limit",
            Self::Unavailable(_) => "unavailable",
            Self::Internal(_) => "internal",
        }
    }
}

impl From<StorageError> for ServiceError {
    fn from(error: StorageError) -> Self {
        if matches!(error, StorageError::TooMuch(_)) {
            Self::Limit(error.to_string())
        } else if error.is_permanent() {
            Self::Internal(error.to_string())
        } else {
            Self::Unavailable(error.to_string())
        }
    }
}

/// What services return.
pub type Result<T> = std::result::Result<T, ServiceError>;
