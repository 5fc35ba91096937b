//! Invitations: one-time codes with which somebody becomes an administrator of a customer (see `codes.rs`).
//!
//! Invariants
//! - Invited are only addresses in verified domains of the customer itself, or of customers above where those above
//!   allow it. So nobody below or beside is where an invitation to something higher goes.
//! - The address gets no code. A mailbox of that address that is hosted here is told that there is an invitation.
//! - Whoever invites could make the administrator and its grants themselves; they are made in their name, with the
//!   rights of the moment of acceptance (`invitation_accept.rs`).

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::administrators::name;
use super::codes;
use super::grants::{NamedRole, admit_content, admit_place, needs_to_pass};
use super::page::{Cursors, Page, limit};
use super::scope::{Place, address, until};
use super::targets::{OneCustomer, absent};
use crate::base::address::Address;
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::service::authority::{Permission, PermissionSet, permissions_at};
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::notices::{self, To};
use crate::service::quota;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::service::settings::{self, ADMINISTRATOR_DEFAULT_ROLES, INVITATION_ANCESTOR_DOMAINS, ROLES_MAX};
use crate::storage::metadata::invitation::{self, InvitationRow, InvitedRole};
use crate::storage::metadata::{administrator, domain, mailbox};

/// Most open invitations of a customer.
const OPEN_MAX: i64 = 1_000;

/// Whom to invite.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct InvitationCreateRequest {
    /// The address, in a verified domain of the customer.
    address: String,
    /// The customer where the new administrator is at home.
    customer: String,
    /// What it will be called, unique at its home; default: the part before the @.
    name: Option<String>,
    /// The roles that it gets there, at most 16; default: the customer's setting `administrator.default_roles`.
    roles: Option<Vec<String>>,
    /// Whether it may pass them on.
    #[serde(default)]
    delegable: bool,
    /// When the roles end: RFC 3339, or from now such as `90d`.
    expires_at: Option<String>,
}

impl InvitationCreateRequest {
    /// The roles that it is to give.
    async fn roles(&self, tx: &mut Tx<'_>, at: CustomerId) -> Result<Vec<NamedRole>> {
        let names = match &self.roles {
            Some(names) => names.clone(),
            None => settings::value(tx.conn, at, &ADMINISTRATOR_DEFAULT_ROLES).await?.0,
        };
        if names.is_empty() || names.len() > ROLES_MAX {
            let message = format!("expected 1 to {ROLES_MAX} roles, got {}", names.len());
            return Err(ServiceError::Invalid { field: "roles", message });
        }
        let mut roles: Vec<NamedRole> = Vec::new();
        for name in &names {
            let role = NamedRole::find(tx, name, at).await?;
            if roles.iter().all(|other| (&other.name, other.id) != (&role.name, role.id)) {
                roles.push(role);
            }
        }
        Ok(roles)
    }
}

/// An invitation.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Invitation {
    /// Random id, to revoke it by.
    id: String,
    address: String,
    /// Path of the customer.
    customer: String,
    /// What the administrator will be called.
    name: String,
    /// Its roles.
    roles: Vec<String>,
    /// Whether it may pass them on.
    delegable: bool,
    /// When they end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    roles_end_at: Option<Timestamp>,
    /// Who invites; `provider` for somebody above.
    made_by: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
    /// When the code ends.
    #[schema(value_type = String)]
    expires_at: Timestamp,
}

fn show(tx: &Tx<'_>, row: InvitationRow) -> Invitation {
    let code = row.made_by.rsplit_once('@').and_then(|(_, code)| tx.caller.tree.by_code(code));
    let maker_visible = code.is_some_and(|home| tx.caller.sees(home)) || tx.caller.name() == row.made_by;
    Invitation {
        id: row.public_id,
        address: row.address,
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        name: row.name,
        roles: row.roles.into_iter().map(|role| role.name).collect(),
        delegable: row.delegable,
        roles_end_at: row.role_expires_at,
        made_by: if maker_visible { row.made_by } else { "provider".to_owned() },
        created_at: row.created_at,
        expires_at: row.expires_at,
    }
}

/// An invitation that was made.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct InvitationCreated {
    #[serde(flatten)]
    invitation: Invitation,
    /// The code, to hand over to who is invited; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// What whoever invites must hold, when the invitation is made and when it is accepted.
pub(super) fn needs_to_invite(
    tx: &Tx<'_>,
    customer: CustomerId,
    roles: &[NamedRole],
    until: Option<Timestamp>,
) -> Vec<Need> {
    let mut needs = vec![Need::at(customer, Permission::AdministratorCreate)];
    for role in roles {
        let permissions = permissions_at(&tx.caller.tree, role.permissions, customer);
        needs.extend(needs_to_pass(customer, permissions, until));
    }
    needs
}

/// The domain of the address, if it is verified and the customer's, or that of a customer above where the
/// setting allows it. What belongs to others is refused whether it exists or not.
pub(super) async fn domain_of(tx: &mut Tx<'_>, customer: CustomerId, invited: &Address) -> Result<DomainId> {
    let tree = std::sync::Arc::clone(&tx.caller.tree);
    let found = domain::by_name(tx.conn, invited.domain().as_str()).await?;
    let is_allowed = match &found {
        Some(row) if row.customer == customer => true,
        Some(row) if tree.covers(row.customer, customer) => {
            let (allowed, place) =
                settings::value_and_place(tx.conn, customer, &INVITATION_ANCESTOR_DOMAINS).await?;
            // Whose a domain is is told as far up as those who have allowed it can see.
            let authority =
                place.and_then(|place| tree.node(place)).map(|node| node.parent.unwrap_or(node.id));
            allowed.0 && authority.is_some_and(|authority| tree.covers(authority, row.customer))
        }
        _ => false,
    };
    let refused = || {
        let message = format!("{invited}: only addresses in verified domains of the customer can be invited");
        ServiceError::Invalid { field: "address", message }
    };
    found.filter(|_| is_allowed).map(|row| row.id).ok_or_else(refused)
}

/// `invitation.create`.
pub(in crate::service) struct InvitationCreate;

impl Operate for InvitationCreate {
    declare! { "invitation.create", Post, "/v1/invitations", AdministratorCreate, changes,
    "Invite somebody to become an administrator of a customer; the code is shown once" }
    type Request = InvitationCreateRequest;
    type Response = InvitationCreated;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a InvitationCreateRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        request: &'a InvitationCreateRequest,
    ) -> Result<Vec<Need>> {
        let until = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let roles = request.roles(tx, target.id).await?;
        Ok(needs_to_invite(tx, target.id, &roles, until))
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneCustomer,
        request: InvitationCreateRequest,
    ) -> Result<InvitationCreated> {
        let invited = address("address", &request.address)?;
        let domain = domain_of(tx, target.id, &invited).await?;
        let ends_at = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let roles = request.roles(tx, target.id).await?;
        for role in &roles {
            admit_place(tx, role, target.id)?;
            if !role.permissions.intersection(PermissionSet::CONTENT).is_empty() {
                admit_content(tx, target.id, tx.now, ends_at).await?;
            }
        }
        let called = name(request.name.as_deref().unwrap_or(invited.user_and_detail().0))?;
        let living = administrator::all_by_name(tx.conn, &called).await?;
        if living.iter().any(|other| other.customer == target.id) {
            let message = format!("administrator {called} exists already there; say another name");
            return Err(ServiceError::Conflict { message });
        }
        quota::admit(tx, target.id, Resource::Administrators, 1).await?;
        if invitation::count(tx.conn, target.id, tx.now).await? >= OPEN_MAX {
            return Err(ServiceError::Limit(format!("a customer has at most {OPEN_MAX} open invitations")));
        }
        let row = InvitationRow {
            name: called,
            roles: roles.into_iter().map(|role| InvitedRole { name: role.name, id: role.id }).collect(),
            delegable: request.delegable,
            role_expires_at: ends_at,
            ..codes::blank(tx, (target.id, domain), invited.to_string())
        };
        let (row, secret) = codes::make(tx, row).await?;
        tell(tx, &invited, &row).await?;
        let invitation = show(tx, row);
        tx.after = Some(serde_json::json!({ "invitation": &invitation, "roles_given": &invitation.roles }));
        Ok(InvitationCreated { invitation, secret })
    }
}

/// Tells the mailbox of the very address that is invited, if it is hosted here; where an alias leads is another's
/// decision. Without the code.
async fn tell(tx: &mut Tx<'_>, invited: &Address, row: &InvitationRow) -> Result<()> {
    let hosted = mailbox::by_address(tx.conn, invited.local(), invited.domain().as_str()).await?;
    let Some(hosted) = hosted else { return Ok(()) };
    let text = format!(
        "You are invited to become an administrator, called {}. The invitation ends on {}.\n\nTo accept it you need a \
         code, which whoever invites you gives you in person or by another way that is yours alone. It is not in this \
         message, and nobody should send it to this mailbox: others may be able to read it here.\n\n\
         With the code:\n\n    posthouse invite accept\n\nIf you do not expect this, do nothing.",
        row.name, row.expires_at
    );
    let subject = "You are invited to become an administrator";
    notices::give(tx.conn, To::Mailbox(hosted.id), notices::Kind::Invitation, (subject, &text), tx.now).await
}

/// Which invitations to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct InvitationListRequest {
    /// Only to this customer and those below; default: everywhere the caller may.
    customer: Option<String>,
    /// Most invitations, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `invitation.list`.
pub(in crate::service) struct InvitationList;

impl Operate for InvitationList {
    declare! { "invitation.list", Get, "/v1/invitations", AdministratorRead, reads,
    "List invitations that were neither accepted nor have ended, the oldest first" }
    type Request = InvitationListRequest;
    type Response = Page<Invitation>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a InvitationListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: InvitationListRequest) -> Result<Page<Invitation>> {
        let limit = limit(request.limit)?;
        let filter = InvitationListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let rows = invitation::page(tx.conn, &target.customers(tx), tx.now, after, limit + 1).await?;
        Page::cut(rows, limit, &cursors, |row| row.id, |row| show(tx, row))
    }
}

/// Which invitation.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct InvitationRequest {
    /// Its id.
    id: String,
}

/// One open invitation.
pub(in crate::service) struct OneInvitation(pub InvitationRow);

impl OneInvitation {
    async fn find(tx: &mut Tx<'_>, request: &InvitationRequest) -> Result<Self> {
        let found = invitation::by_public_id(tx.conn, &request.id, tx.now).await?;
        let seen = found.filter(|row| row.mailbox.is_none() && tx.caller.sees(row.customer));
        seen.map(Self).ok_or_else(|| absent("invitation", &request.id))
    }
}

impl Targeted for OneInvitation {
    fn customer(&self) -> CustomerId {
        self.0.customer
    }

    fn label(&self) -> String {
        format!("invitation of {}", self.0.address)
    }

    fn key(&self) -> String {
        format!("invitation {}", self.0.id)
    }
}

/// `invitation.show`.
pub(in crate::service) struct InvitationShow;

impl Operate for InvitationShow {
    declare! { "invitation.show", Get, "/v1/invitations/{id}", AdministratorRead, reads, "Show an invitation" }
    type Request = InvitationRequest;
    type Response = Invitation;
    type Target = OneInvitation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a InvitationRequest) -> Result<OneInvitation> {
        OneInvitation::find(tx, request).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneInvitation(row): OneInvitation,
        _: InvitationRequest,
    ) -> Result<Invitation> {
        Ok(show(tx, row))
    }
}

/// `invitation.revoke`: by who could make it. Whoever has made it and could not any more has nothing to take back.
pub(in crate::service) struct InvitationRevoke;

impl Operate for InvitationRevoke {
    declare! { "invitation.revoke", Delete, "/v1/invitations/{id}", AdministratorCreate, changes,
    "Take an invitation back" }
    type Request = InvitationRequest;
    type Response = Invitation;
    type Target = OneInvitation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a InvitationRequest) -> Result<OneInvitation> {
        OneInvitation::find(tx, request).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        OneInvitation(row): &'a OneInvitation,
        _: &'a InvitationRequest,
    ) -> Result<Vec<Need>> {
        // Roles that are gone give nothing.
        let mut roles = Vec::new();
        for role in &row.roles {
            roles.extend(NamedRole::find(tx, &role.name, row.customer).await.ok());
        }
        Ok(needs_to_invite(tx, row.customer, &roles, row.role_expires_at))
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneInvitation(row): OneInvitation,
        _: InvitationRequest,
    ) -> Result<Invitation> {
        invitation::delete(tx.conn, row.id).await?;
        let before = show(tx, row);
        tx.before = serde_json::to_value(&before).ok();
        Ok(before)
    }
}
