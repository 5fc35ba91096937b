//! One-time codes: what an invitation and a code for a mailbox's password have in common.
//!
//! Invariants
//! - A code is good once, for seven days, and for nothing but redeeming it ([`Identity::Invited`]). Only its
//!   hash is kept.
//! - It gives what its maker could give at that moment. When the maker is gone or disabled, or the token that
//!   it was made with is, it is void.
//! - It is shown to its maker, once, and to nobody else. It is never put into a mailbox: whoever may set the
//!   password of that mailbox could read it there, and would come by whatever it gives.
//! - Whatever is wrong with it has one answer.

use std::sync::Arc;
use std::time::Duration;

use super::tokens::{confined_to, secret_hash};
use crate::base::id::{CustomerId, DomainId, random_text};
use crate::service::audit::names;
use crate::service::authority::Caller;
use crate::service::context::{Authenticated, Identity};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Tx};
use crate::storage::metadata::invitation::{self, InvitationRow};
use crate::storage::metadata::{administrator, token};

/// What every code begins with, so that secret scanners know it. No token begins so.
pub(in crate::service) const PREFIX: &str = "phc_";
/// Random characters of a code, 5 bits each: 200 bits.
const SECRET_CHARACTERS: usize = 40;
/// How long a code lasts.
const LIFETIME: Duration = Duration::from_secs(7 * 86_400);

/// The one answer for a code that is good for nothing.
pub(super) fn not_valid() -> ServiceError {
    ServiceError::NotFound { what: "what this code was made for".to_owned() }
}

/// A code by the caller for this address, from now on; for nothing in particular yet.
pub(super) fn blank(
    tx: &Tx<'_>,
    (customer, domain): (CustomerId, DomainId),
    address: String,
) -> InvitationRow {
    let token = match tx.context.authenticated {
        Authenticated::Token { id, .. } => Some(id),
        Authenticated::Peer { .. } | Authenticated::Password { .. } | Authenticated::Code => None,
    };
    InvitationRow {
        id: 0,
        public_id: String::new(),
        customer,
        domain,
        mailbox: None,
        address,
        name: String::new(),
        roles: Vec::new(),
        delegable: false,
        role_expires_at: None,
        inviter: tx.caller.administrator(),
        token,
        made_by: tx.caller.name(),
        created_at: tx.now,
        expires_at: tx.now.plus(LIFETIME),
    }
}

/// Makes a code. Answers what was kept of it, and the code itself; not when it is only tried, since that
/// would be good for nothing.
pub(super) async fn make(tx: &mut Tx<'_>, row: InvitationRow) -> Result<(InvitationRow, Option<String>)> {
    let secret = format!("{PREFIX}{}", random_text(SECRET_CHARACTERS));
    let public_id = invitation::insert(tx.conn, &row, &secret_hash(&secret)).await?;
    Ok((InvitationRow { public_id, ..row }, (!tx.dry_run).then_some(secret)))
}

/// What the caller's code is for.
pub(super) async fn held(tx: &mut Tx<'_>) -> Result<InvitationRow> {
    let Identity::Invited { id, .. } = &tx.context.identity else { return Err(not_valid()) };
    invitation::by_public_id(tx.conn, id, tx.now).await?.ok_or_else(not_valid)
}

/// Who has made a code, with the rights of this moment.
pub(super) async fn maker(tx: &mut Tx<'_>, row: &InvitationRow) -> Result<Caller> {
    let only = match row.token {
        None => None,
        Some(id) => {
            let token = token::valid(tx.conn, id, tx.now).await?.ok_or_else(not_valid)?;
            confined_to(token.permissions.as_deref())
        }
    };
    let identity = match row.inviter {
        None => Identity::System,
        Some(id) => {
            let found = administrator::by_id(tx.conn, id).await?.filter(|found| found.enabled);
            let found = found.ok_or_else(not_valid)?;
            Identity::Administrator { id, home: found.customer, name: found.name }
        }
    };
    let caller = Caller::read(tx.conn, Arc::clone(&tx.caller.tree), identity, tx.now).await?;
    Ok(caller.confined(only))
}

/// Refuses a code whose maker may not do any more what it is for.
pub(super) fn still_given(maker: &Caller, needs: &[Need]) -> Result<()> {
    if needs.iter().all(|need| need.is_held_by(maker)) { Ok(()) } else { Err(not_valid()) }
}

/// Who has made a code, as the audit trail names it.
pub(super) fn made_by(maker: &Caller) -> String {
    match maker.home() {
        Some(home) => names::administrator(&maker.tree, home, &maker.name()),
        None => maker.name(),
    }
}
