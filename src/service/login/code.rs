//! One-time codes: wrong ones are counted by where they come from, as wrong passwords are.

use super::{Login, LoginError, unavailable};
use crate::service::context::Source;
use crate::service::error::Result;

impl Login {
    /// What `find` finds for a code from `source`; for a Unix socket failures are counted by the other end's user.
    ///
    /// # Errors
    /// [`LoginError::Failed`] when it finds nothing, [`LoginError::TooMany`] and [`LoginError::Unavailable`].
    pub(in crate::service) async fn code<T>(
        &self,
        source: Source,
        peer_uid: Option<u32>,
        find: impl Future<Output = Result<Option<T>>>,
    ) -> std::result::Result<T, LoginError> {
        let counted = match (source, peer_uid) {
            (Some(address), _) => format!("code from {address}"),
            (None, Some(uid)) => format!("code from uid {uid}"),
            (None, None) => "code".to_owned(),
        };
        let throttle = &self.inner.throttle;
        if !throttle.admits(source, &counted) {
            tracing::info!(?source, "a one-time code was not looked at: too many failures");
            return Err(LoginError::TooMany);
        }
        let found = find.await.map_err(unavailable)?;
        if found.is_none() {
            throttle.failed(source, &counted);
        }
        tracing::info!(?source, valid = found.is_some(), "a one-time code");
        found.ok_or(LoginError::Failed)
    }
}
