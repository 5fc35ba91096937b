//! Mailbox logins: password verification, the short-lived cache of verified credentials, and running sessions.
//!
//! A failed login costs the same hashing work whether the mailbox exists or not.

pub mod password;
mod throttle;
mod verifier;

use std::sync::Arc;

use secrecy::SecretString;

use crate::service::context::{Owner, Service, Source};

/// Why a login did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoginError {
    /// Unknown name, wrong password, pending domain, deleted mailbox: one answer.
    #[error("authentication failed")]
    Failed,
    /// Right password, but login or this service is held.
    #[error("this account is suspended for this service")]
    Held,
    /// The database cannot be asked now.
    #[error("authentication is temporarily unavailable")]
    Unavailable,
    /// Too many failures from this address or for this name; try later.
    #[error("too many failed logins, try again later")]
    TooMany,
}

/// Verifies mailbox credentials and knows who is logged in.
#[derive(Clone)]
pub struct Login {
    #[allow(dead_code)]
    inner: Arc<()>,
}

/// A running session of a mailbox owner; its registration ends when it is dropped.
pub struct MailSession {
    owner: Owner,
}

impl Login {
    /// Verifies `username` (a full address) and `password` for `service`, and registers the session.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn password(
        &self,
        service: Service,
        username: &str,
        password: &SecretString,
        source: Source,
    ) -> Result<MailSession, LoginError> {
        let _ = (service, username, password, source);
        todo!("login room")
    }
}

impl MailSession {
    /// Whose session it is.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Completes when the session must end now (closed by an administrator, held, deleted, password changed).
    /// Cancel-safe; may be awaited again and again.
    pub async fn ended(&self) {
        std::future::pending().await
    }
}
