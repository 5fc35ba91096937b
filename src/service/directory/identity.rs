//! Who am I.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::audit::names;
use crate::service::authority::Tree;
use crate::service::error::{Result, ServiceError};
use crate::service::notices::{self, Unread};
use crate::service::registry::{Operate, Targeted, Tx, declare};

/// The caller itself.
pub(in crate::service) struct Myself {
    home: CustomerId,
    name: String,
}

impl Targeted for Myself {
    fn customer(&self) -> CustomerId {
        self.home
    }

    fn label(&self) -> String {
        self.name.clone()
    }

    fn recorded(&self, tree: &Tree) -> String {
        names::administrator(tree, self.home, &self.name)
    }
}

impl Myself {
    pub fn find(tx: &Tx<'_>) -> Result<Self> {
        let home =
            tx.caller.home().ok_or_else(|| ServiceError::Internal("the hierarchy has no root".to_owned()))?;
        Ok(Self { home, name: tx.caller.name() })
    }
}

/// No fields.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct Nothing {}

/// Where the caller may do what.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct IdentityGrant {
    /// Path of the customer.
    customer: String,
    /// What is allowed there and below.
    permissions: Vec<String>,
    /// Whether it may be passed on.
    delegable: bool,
    /// When it ends.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
}

/// In which zone the caller may do what.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct IdentityZone {
    /// Its name.
    zone: String,
    /// What is allowed to its mail stores and servers.
    permissions: Vec<String>,
    /// Whether it may be passed on.
    delegable: bool,
    /// When it ends.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
}

/// Who the caller is.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct IdentityAnswer {
    /// Name, as in the audit trail.
    name: String,
    /// How authenticated.
    authenticated: String,
    /// Active grants.
    grants: Vec<IdentityGrant>,
    /// Active grants in zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    zones: Vec<IdentityZone>,
    /// What the caller was told and has not read.
    notices: Unread,
}

/// `whoami`.
pub(in crate::service) struct WhoAmI;

impl Operate for WhoAmI {
    declare! { "whoami", Get, "/v1/whoami", Own, reads,
    "Who the caller is and what it may do where" }
    type Request = Nothing;
    type Response = IdentityAnswer;
    type Target = Myself;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a Nothing) -> Result<Myself> {
        Myself::find(tx)
    }

    async fn run(tx: &mut Tx<'_>, target: Myself, _: Nothing) -> Result<IdentityAnswer> {
        let grants = tx.caller.grants.iter().filter_map(|grant| {
            Some(IdentityGrant {
                customer: tx.caller.path_of(grant.customer)?,
                permissions: tx.caller.given(grant).names(),
                delegable: grant.is_delegable(),
                expires_at: grant.expires_at,
            })
        });
        let grants = grants.collect();
        let zones = tx.caller.zones.grants().iter().map(|grant| IdentityZone {
            zone: grant.name.clone(),
            permissions: grant.permissions.names(),
            delegable: !grant.passes.is_empty(),
            expires_at: grant.expires_at,
        });
        let zones = zones.collect();
        Ok(IdentityAnswer {
            name: target.name,
            authenticated: tx.context.authenticated.text(),
            grants,
            zones,
            notices: notices::unread(tx).await?,
        })
    }
}
