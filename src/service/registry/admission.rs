//! Who is let in to administration: asked at each request, and again and again while an answer is being streamed.

use super::management::Management;
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::context::{Authenticated, Authentication, Identity, SecondFactor};
use crate::service::error::Result;
use crate::service::settings::{self, Demand, standing};
use crate::storage::metadata::administrator::AdministratorRow;
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::{administrator, credential, customer, token};

/// Whether administrators at home there may come in now: administration is not off at their home, and it is one of the
/// times at which they may log in.
///
/// # Errors
/// When the database fails.
pub(super) async fn is_open(conn: &mut Conn, home: CustomerId, now: Timestamp) -> Result<bool> {
    let standing = standing::of_administrator(conn, home).await?;
    let is_time = standing.windows.is_none_or(|windows| windows.allow(now));
    Ok(is_time && !standing.off.contains("admin"))
}

/// What logging in with a password takes besides the password.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Factor {
    /// Nothing.
    None,
    /// A code of the second factor.
    Confirmed,
    /// There is no second factor, and the home demands one.
    Demanded,
}

impl Factor {
    /// That of an administrator.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn of(conn: &mut Conn, row: &AdministratorRow) -> Result<Self> {
        if row.second_factor {
            return Ok(Self::Confirmed);
        }
        let demand = settings::value(conn, row.customer, &settings::LOGIN_SECOND_FACTOR).await?;
        Ok(if demand == Demand::Required { Self::Demanded } else { Self::None })
    }

    /// Whether who has shown this much with the password would be let in for everything.
    fn is_met_by(self, shown: SecondFactor) -> bool {
        match self {
            Self::None => true,
            Self::Confirmed => shown == SecondFactor::Brought,
            Self::Demanded => false,
        }
    }
}

/// Tells whether a password is still the one that somebody has logged in with; of its hash, which nobody can know.
pub(super) fn password_digest(hash: &str) -> u64 {
    let hash = blake3::hash(hash.as_bytes());
    hash.as_bytes().iter().take(8).fold(0, |digest, &octet| (digest << 8) | u64::from(octet))
}

impl Management {
    /// Whether somebody who was let in would be let in again: the token is still there and has not expired, the
    /// password is the same and was enough or came with a code, the administrator is neither disabled nor deleted, and
    /// administration is open to those at home there. What runs on, such as a stream, asks this at least every second.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn is_still_admitted(&self, authentication: &Authentication) -> Result<bool> {
        let (id, home) = match authentication.identity {
            Identity::System => return Ok(true),
            Identity::Administrator { id, home, .. } => (id, home),
            // A code lasts as long as what it asks for.
            Identity::Invited { .. } => return Ok(false),
        };
        let token = match authentication.authenticated {
            Authenticated::Token { id, .. } => Some(id),
            Authenticated::Peer { .. } | Authenticated::Password { .. } | Authenticated::Code => None,
        };
        let password = match authentication.authenticated {
            Authenticated::Password { digest, second_factor } => Some((digest, second_factor)),
            Authenticated::Peer { .. } | Authenticated::Token { .. } | Authenticated::Code => None,
        };
        let now = self.inner.clock.now();
        let look = self.inner.database.read(move |conn| {
            Box::pin(async move {
                if let Some(token) = token
                    && !token::is_valid(conn, token, now).await?
                {
                    return Ok(false);
                }
                if let Some((digest, _)) = password
                    && credential::hash(conn, id).await?.is_none_or(|hash| password_digest(&hash) != digest)
                {
                    return Ok(false);
                }
                let Some(row) = administrator::by_id(conn, id).await? else { return Ok(false) };
                if let Some((_, shown)) = password
                    && !Factor::of(conn, &row).await?.is_met_by(shown)
                {
                    return Ok(false);
                }
                let home_is_there =
                    customer::by_id(conn, home).await?.is_some_and(|row| row.deleted_at.is_none());
                let is_enabled = row.enabled && home_is_there;
                Ok(is_enabled && is_open(conn, home, now).await?)
            })
        });
        look.await
    }
}
