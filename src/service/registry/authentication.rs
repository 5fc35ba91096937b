//! Who is asking: what the kernel says, a token, or an administrator's name and password, with a code where there is a
//! second factor.
//!
//! Whatever is wrong has one answer, and a password that is wrong has cost the same as one that is right. Only to who
//! knows the password it is told that a code is missing or wrong.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::admission::Factor;
use super::management::Inner;
use super::{Management, admission};
use crate::base::id::{AdministratorId, public_id};
use crate::service::audit::{self, Event, names};
use crate::service::authority::Caller;
use crate::service::context::{Authenticated, Authentication, Identity, SecondFactor, Source};
use crate::service::directory::{codes, tokens};
use crate::service::error::ServiceError;
use crate::service::login::second_factor::{self, Brought};
use crate::service::login::{self, LoginError};
use crate::storage::metadata::administrator::AdministratorRow;
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::{administrator, credential, invitation, token};

/// How exactly the last use of a token is known: not every request writes.
const LAST_USED_INTERVAL: Duration = Duration::from_secs(300);

/// What a login is called in the audit trail.
const LOGIN: &str = "login";

/// Why a login with a password did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PasswordRefused {
    /// Before any code was looked at.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The password is right; a code of the second factor is asked for, and there was none.
    #[error("a code of the second factor is needed")]
    CodeRequired,
    /// The password is right, the code is not, or was used before.
    #[error("the code of the second factor is wrong, or was used before")]
    CodeWrong,
}

/// Somebody whom a name means, with everything that a record of the login needs.
struct Candidate {
    row: AdministratorRow,
    caller: Caller,
    is_open: bool,
    digest: u64,
    factor: Factor,
}

/// What of a login with a password came true, or why none did, with the word for it in the audit trail.
type Shown = Result<(SecondFactor, Option<Brought>), (&'static str, PasswordRefused)>;

impl Management {
    /// Who the kernel says is at the other end of the socket; nothing for a uid that means nobody here.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn authenticate_peer(&self, uid: u32) -> Result<Option<Authentication>, ServiceError> {
        if self.inner.options.system_uids.contains(&uid) {
            let authenticated = Authenticated::Peer { uid };
            return Ok(Some(Authentication { identity: Identity::System, authenticated }));
        }
        let Some((_, login)) = self.inner.options.administrator_uids.iter().find(|(one, _)| *one == uid)
        else {
            return Ok(None);
        };
        let Some((name, code)) = login.split_once('@') else { return Ok(None) };
        let (name, code) = (name.to_lowercase(), code.to_lowercase());
        let work = self.inner.database.read(move |conn| {
            Box::pin(
                async move { administrator::by_login(conn, &name, &code).await.map_err(ServiceError::from) },
            )
        });
        let Some(row) = work.await? else { return Ok(None) };
        self.admitted(Authentication { identity: identity(&row), authenticated: Authenticated::Peer { uid } })
            .await
    }

    /// Whose token it is that came from `source`; nothing for one that is unknown, expired, revoked, bound to other
    /// networks, or whose owner is gone or disabled: one answer.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn authenticate_token(
        &self,
        secret: &str,
        source: Source,
    ) -> Result<Option<Authentication>, ServiceError> {
        let hash = tokens::secret_hash(secret);
        let now = self.inner.clock.now();
        let work = self.inner.database.read(move |conn| {
            Box::pin(async move { token::holder(conn, &hash, now).await.map_err(ServiceError::from) })
        });
        let Some(holder) = work.await? else { return Ok(None) };
        if !tokens::is_from_allowed_network(holder.networks.as_deref(), source) {
            return Ok(None);
        }
        if holder.last_used_at.is_none_or(|at| at.plus(LAST_USED_INTERVAL) <= now) {
            let id = holder.token;
            self.inner
                .database
                .write(Priority::Background, move |conn| {
                    Box::pin(async move { token::used(conn, id, now).await.map_err(ServiceError::from) })
                })
                .await?;
        }
        let only = tokens::confined_to(holder.permissions.as_deref());
        let identity =
            Identity::Administrator { id: holder.administrator, home: holder.home, name: holder.name };
        let authenticated = Authenticated::Token { id: holder.token, only };
        self.admitted(Authentication { identity, authenticated }).await
    }

    /// Whether a text in place of a token is a one-time code.
    pub fn is_code(text: &str) -> bool {
        text.starts_with(codes::PREFIX)
    }

    /// Who is invited by a one-time code that came from `source`, for a Unix socket from the user `peer_uid`. Codes are
    /// compared by their hashes, which says nothing about how much of a wrong one was right.
    ///
    /// # Errors
    /// [`LoginError::Failed`] for one that is unknown, used, expired or taken back, [`LoginError::TooMany`] after too
    /// many of those.
    pub async fn authenticate_code(
        &self,
        code: &str,
        source: Source,
        peer_uid: Option<u32>,
    ) -> Result<Authentication, LoginError> {
        let login = self.inner.login.get().ok_or(LoginError::Unavailable)?;
        let (hash, now) = (tokens::secret_hash(code), self.inner.clock.now());
        let find = self.inner.database.read(move |conn| {
            Box::pin(async move { invitation::by_secret(conn, &hash, now).await.map_err(ServiceError::from) })
        });
        let row = login.code(source, peer_uid, find).await?;
        let identity = Identity::Invited { id: row.public_id, customer: row.customer, address: row.address };
        Ok(Authentication { identity, authenticated: Authenticated::Code })
    }

    /// Whose name and password these are. `name@CODE` is understood by itself; a bare name only where `peer`, whom the
    /// kernel names, sees exactly one administrator of that name. `code` is one of the second factor, where there is
    /// such.
    ///
    /// # Errors
    /// [`LoginError::Failed`] whatever is wrong with name and password; the others of [`PasswordRefused`] once they are
    /// right.
    pub async fn authenticate_password(
        &self,
        name: &str,
        password: &SecretString,
        code: Option<&SecretString>,
        peer: Option<&Authentication>,
        source: Source,
    ) -> Result<Authentication, PasswordRefused> {
        let inner = &self.inner;
        let login = inner.login.get().ok_or(LoginError::Unavailable)?;
        let (meant, peer) = (name.to_lowercase(), peer.map(|peer| peer.identity.clone()));
        let services = std::sync::Arc::clone(inner);
        let find = inner
            .database
            .read(move |conn| Box::pin(async move { candidate(conn, &services, &meant, peer).await }));
        let (candidate, verified) = login.administrator(name, password, source, find).await?;
        let candidate = candidate.ok_or(LoginError::Failed)?;
        let shown = match (verified, candidate.is_open) {
            (true, true) => self.second_factor(&candidate, code, source).await?,
            (true, false) => Err(("suspended", LoginError::Failed.into())),
            (false, _) => Err(("wrong-password", LoginError::Failed.into())),
        };
        let second_factor = shown.map_or(SecondFactor::NotAsked, |(second_factor, _)| second_factor);
        let authenticated = Authenticated::Password { digest: candidate.digest, second_factor };
        let authentication = Authentication { identity: identity(&candidate.row), authenticated };
        self.note_login(&candidate, &authentication, shown, source).await;
        shown.map(|_| authentication).map_err(|(_, refused)| refused)
    }

    /// What somebody whose password is right shows besides.
    async fn second_factor(
        &self,
        candidate: &Candidate,
        code: Option<&SecretString>,
        source: Source,
    ) -> Result<Shown, LoginError> {
        let Candidate { row, factor, .. } = candidate;
        match factor {
            Factor::None => return Ok(Ok((SecondFactor::NotAsked, None))),
            Factor::Demanded => return Ok(Ok((SecondFactor::Missing, None))),
            Factor::Confirmed => {}
        }
        let Some(code) = code else {
            return Ok(Err(("second-factor-required", PasswordRefused::CodeRequired)));
        };
        let (id, now) = (row.id, self.inner.clock.now());
        let login = self.inner.login.get().ok_or(LoginError::Unavailable)?;
        if !login.admits_code(id, source) {
            return Err(LoginError::TooMany);
        }
        let code = code.clone();
        let taken = self.inner.database.write(Priority::Interactive, move |conn| {
            let code = code.clone();
            Box::pin(async move { second_factor::take(conn, id, code.expose_secret(), now).await })
        });
        let taken = taken.await.map_err(login::unavailable)?;
        if taken.is_none() {
            login.code_failed(id, source);
            return Ok(Err(("wrong-second-factor", PasswordRefused::CodeWrong)));
        }
        Ok(Ok((SecondFactor::Brought, taken)))
    }

    /// Records what came of a login with a password.
    async fn note_login(
        &self,
        candidate: &Candidate,
        authentication: &Authentication,
        shown: Shown,
        source: Source,
    ) {
        let Candidate { row, caller, .. } = candidate;
        let context = authentication.context(source, public_id(), None);
        let target = names::administrator(&caller.tree, row.customer, &caller.name());
        let after = match shown {
            Ok((_, Some(brought))) => Some(json!({ "second_factor": brought.name() })),
            Ok((SecondFactor::Missing, None)) => Some(json!({ "second_factor": "missing" })),
            Ok((_, None)) | Err(_) => None,
        };
        let event = Event {
            at: self.inner.clock.now(),
            operation: LOGIN,
            place: Some(row.customer),
            target: &target,
            before: None,
            after: after.map(|after| after.to_string()),
            outcome: shown.map_or_else(|(outcome, _)| outcome, |_| "done"),
        };
        self.inner.reads.add(audit::record_of_side(caller, &context, event)).await;
    }

    /// Lets the administrator in if administration is open to those at home there.
    async fn admitted(&self, authentication: Authentication) -> Result<Option<Authentication>, ServiceError> {
        let Identity::Administrator { home, .. } = authentication.identity else {
            return Ok(Some(authentication));
        };
        let now = self.inner.clock.now();
        let work = self.inner.database.read(move |conn| Box::pin(admission::is_open(conn, home, now)));
        Ok(work.await?.then_some(authentication))
    }
}

fn identity(row: &AdministratorRow) -> Identity {
    Identity::Administrator { id: row.id, home: row.customer, name: row.name.clone() }
}

/// Whom the name means, with the hash of the password.
async fn candidate(
    conn: &mut Conn,
    inner: &Inner,
    name: &str,
    peer: Option<Identity>,
) -> Result<Option<(AdministratorId, String, Candidate)>, ServiceError> {
    let now = inner.clock.now();
    let tree = inner.authority.tree(conn, TreeLock::None).await?;
    let row = match name.split_once('@') {
        Some((name, code)) => administrator::by_login(conn, name, code).await?,
        None => {
            let rows = administrator::all_by_name(conn, name).await?;
            let Some(peer) = peer else { return Ok(None) };
            let peer = Caller::read(conn, std::sync::Arc::clone(&tree), peer, now).await?;
            let mut seen = rows.into_iter().filter(|row| peer.sees(row.customer));
            seen.next().filter(|_| seen.next().is_none())
        }
    };
    let Some(row) = row else { return Ok(None) };
    let Some(hash) = credential::hash(conn, row.id).await? else { return Ok(None) };
    let digest = admission::password_digest(&hash);
    let is_open = admission::is_open(conn, row.customer, now).await?;
    let factor = Factor::of(conn, &row).await?;
    let caller = Caller::read(conn, tree, identity(&row), now).await?;
    Ok(Some((row.id, hash, Candidate { row, caller, is_open, digest, factor })))
}
