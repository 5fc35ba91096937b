//! Passwords of administrators: the same work and the same counting of failures as for mailboxes.

use secrecy::SecretString;

use super::verifier::Subject;
use super::{Login, LoginError, USERNAME_OCTETS_MAX, unavailable};
use crate::base::id::AdministratorId;
use crate::service::context::Source;
use crate::service::error::Result;

/// Keeps the names of administrators apart from those of mailboxes where failures are counted.
const COUNTED_AS: &str = "administrator ";

impl Login {
    /// Whether `password` is that of the one whom `find` finds with the hash of it: `name` is what the client called
    /// itself. Unless too many have failed before, one hash is computed, whether anybody is found or not.
    ///
    /// # Errors
    /// [`LoginError::TooMany`] and [`LoginError::Unavailable`].
    pub(in crate::service) async fn administrator<T>(
        &self,
        name: &str,
        password: &SecretString,
        source: Source,
        find: impl Future<Output = Result<Option<(AdministratorId, String, T)>>>,
    ) -> std::result::Result<(Option<T>, bool), LoginError> {
        let name = name.get(..USERNAME_OCTETS_MAX).unwrap_or(name).to_lowercase();
        let counted = format!("{COUNTED_AS}{name}");
        let throttle = &self.inner.throttle;
        if !throttle.admits(source, &counted) {
            tracing::info!(?source, "login of an administrator refused: too many failures");
            return Err(LoginError::TooMany);
        }
        let found = find.await.map_err(unavailable)?;
        let stored = found.as_ref().map(|(id, hash, _)| (Subject::Administrator(*id), hash.as_str()));
        let verified = self.inner.verifier.verify(stored, password).await.map_err(|_| {
            tracing::warn!("login of an administrator refused: too many verifications are waiting");
            LoginError::Unavailable
        })?;
        if verified {
            throttle.succeeded(source, &counted);
        } else {
            throttle.failed(source, &counted);
        }
        tracing::info!(?source, verified, "login of an administrator");
        Ok((found.map(|(_, _, who)| who), verified))
    }
}
