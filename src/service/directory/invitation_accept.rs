//! Accepting an invitation: whoever holds the code becomes an administrator, in the name of who invited.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::grants::{self, NamedRole, Terms};
use super::invitations::{domain_of, needs_to_invite};
use super::scope::address;
use super::{administrators, codes, passwords};
use crate::base::id::CustomerId;
use crate::service::audit::names;
use crate::service::authority::Caller;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::quota;
use crate::service::registry::{Inner, Operate, Targeted, Tx, declare};
use crate::storage::metadata::credential;
use crate::storage::metadata::grant::Holder;
use crate::storage::metadata::invitation::{self, InvitationRow};

/// A password that was hashed before the transaction.
#[derive(Clone)]
pub(super) struct Hashed {
    hash: String,
    characters: Option<usize>,
}

impl Hashed {
    /// Hashes a password.
    pub async fn of(password: String) -> Result<Self> {
        let (hash, characters) = passwords::hash(Some(password), None).await?;
        Ok(Self { hash, characters })
    }

    /// The hash, if the password is long enough for whose it is.
    pub async fn admitted(hashed: Option<Self>, tx: &mut Tx<'_>, customer: CustomerId) -> Result<String> {
        let missing = || ServiceError::Internal("a password was not hashed".to_owned());
        let Self { hash, characters } = hashed.ok_or_else(missing)?;
        passwords::long_enough(tx, customer, characters).await?;
        Ok(hash)
    }
}

/// The password to begin with.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct InvitationAcceptRequest {
    /// The password of the new administrator.
    password: String,
    /// What was made of it.
    #[serde(skip)]
    #[schema(ignore)]
    hashed: Option<Hashed>,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct InvitationAccepted {
    /// The name to log in with: `name@CODE`.
    name: String,
}

/// An invitation that can be accepted now.
pub(in crate::service) struct OpenInvitation {
    row: InvitationRow,
    /// Who invited, with the rights of this moment.
    maker: Caller,
    roles: Vec<NamedRole>,
}

impl Targeted for OpenInvitation {
    fn customer(&self) -> CustomerId {
        self.row.customer
    }

    fn label(&self) -> String {
        format!("invitation of {}", self.row.address)
    }
}

impl OpenInvitation {
    /// That of the caller's code, unless it is void: who invited may not make the administrator any more, a
    /// role is not there any more, or the address is not in a domain of the customer any more.
    async fn find(tx: &mut Tx<'_>) -> Result<Self> {
        let row = codes::held(tx).await?;
        if row.mailbox.is_some() || tx.caller.tree.node(row.customer).is_none_or(|node| node.is_gone) {
            return Err(codes::not_valid());
        }
        let maker = codes::maker(tx, &row).await?;
        let invited = address("address", &row.address)?;
        let mut theirs = tx.part(&maker);
        void(domain_of(&mut theirs, row.customer, &invited).await)?;
        let mut roles = Vec::new();
        for role in &row.roles {
            let found = void(NamedRole::find(&mut theirs, &role.name, row.customer).await)?;
            // Another role of the same name is not what was meant.
            if found.id != role.id {
                return Err(codes::not_valid());
            }
            roles.push(found);
        }
        let needs = needs_to_invite(&theirs, row.customer, &roles, row.role_expires_at);
        codes::still_given(&maker, &needs)?;
        Ok(Self { row, maker, roles })
    }
}

/// What would be refused when the invitation is made makes it void; what fails, fails.
fn void<T>(outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| if error.refusal().is_some() { codes::not_valid() } else { error })
}

/// `invitation.accept`: asked for with the code in place of a token.
pub(in crate::service) struct InvitationAccept;

impl Operate for InvitationAccept {
    declare! { "invitation.accept", Post, "/v1/invitations/accept", Own, changes,
    "Become the administrator to which a one-time code invites, with this password" }
    const BY_CODE: bool = true;
    type Request = InvitationAcceptRequest;
    type Response = InvitationAccepted;
    type Target = OpenInvitation;

    async fn prepare(_: &Inner, mut request: InvitationAcceptRequest) -> Result<InvitationAcceptRequest> {
        request.hashed = Some(Hashed::of(std::mem::take(&mut request.password)).await?);
        Ok(request)
    }

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a InvitationAcceptRequest) -> Result<OpenInvitation> {
        OpenInvitation::find(tx).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OpenInvitation { row, maker, roles }: OpenInvitation,
        request: InvitationAcceptRequest,
    ) -> Result<InvitationAccepted> {
        let hash = Hashed::admitted(request.hashed, tx, row.customer).await?;
        // Asked as who is invited, who is not told whose limit it is.
        quota::admit(tx, row.customer, Resource::Administrators, 1).await?;
        invitation::delete(tx.conn, row.id).await?;
        let given: Vec<String> = roles.iter().map(|role| role.name.clone()).collect();
        let (delegable, expires_at) = (row.delegable, row.role_expires_at);
        let terms = Terms { delegable, expires_at, ..Terms::default() };
        let mut theirs = tx.part(&maker);
        let id = administrators::create(&mut theirs, row.customer, &row.name, Some(&row.address)).await?;
        for role in roles {
            grants::make(&mut theirs, Holder::Administrator(id), row.customer, role, terms).await?;
        }
        credential::set(tx.conn, id, Some(&hash)).await?;
        let tree = &tx.caller.tree;
        let code = tree.node(row.customer).map(|node| node.code.as_str()).unwrap_or_default();
        let name = format!("{}@{code}", row.name);
        tx.after = Some(serde_json::json!({
            "administrator": names::administrator(tree, row.customer, &name),
            "roles_given": given,
            "invited_by": codes::made_by(&maker),
        }));
        Ok(InvitationAccepted { name })
    }
}
