//! Administrators and their grants. Nobody gives what they could not pass on, and nobody acts on an administrator
//! who holds more than they could pass on.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Cursors, Page, limit};
use super::scope::{Place, address, plain_text, until};
use super::targets::{OneAdministrator, OneCustomer, absent};
use super::tokens;
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId};
use crate::service::authority::{Permission, PermissionSet, Role, Tree, active_grants};
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::quota;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::administrator::{self, AdministratorRow, GrantRow, NewGrant};
use crate::storage::metadata::customer::CustomerRow;

/// Longest name in octets.
const NAME_OCTETS_MAX: usize = 64;

/// What a role gives at a customer: what concerns the servers only at the root.
pub(super) fn permissions_at(tx: &Tx<'_>, role: Role, customer: CustomerId) -> PermissionSet {
    let is_root = tx.caller.tree.root().is_some_and(|root| root.id == customer);
    if is_root { role.permissions() } else { role.permissions().intersection(Role::Admin.permissions()) }
}

/// What is needed to give a role other than at the root: each of its permissions so that it may be passed on.
pub(super) fn needs_to_grant(at: CustomerId, role: Role, until: Option<Timestamp>) -> Vec<Need> {
    needs_to_pass(at, role.permissions().intersection(Role::Admin.permissions()), until)
}

pub(super) fn needs_to_pass(
    at: CustomerId,
    permissions: PermissionSet,
    until: Option<Timestamp>,
) -> Vec<Need> {
    let mut needs = vec![Need::at(at, Permission::AdministratorGrant)];
    let passed = permissions.iter().filter(|&permission| permission != Permission::Own);
    needs.extend(passed.map(|permission| Need { at: Some(at), permission, delegable: true, until }));
    needs
}

/// What is needed to act on an administrator: everything that it holds, everywhere, so that it may be passed on.
pub(super) async fn needs_over(tx: &mut Tx<'_>, id: AdministratorId) -> Result<Vec<Need>> {
    let mut needs = Vec::new();
    for grant in administrator::grants_of(tx.conn, id).await? {
        let Some(role) = Role::by_name(&grant.role) else { continue };
        let permissions = permissions_at(tx, role, grant.customer);
        needs.extend(
            needs_to_pass(grant.customer, permissions, grant.expires_at)
                .into_iter()
                .filter(|need| need.delegable),
        );
    }
    Ok(needs)
}

fn name(text: &str) -> Result<String> {
    let name = text.to_lowercase();
    let clean = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if clean && !name.is_empty() && name.len() <= NAME_OCTETS_MAX {
        return Ok(name);
    }
    let message = format!("expected 1 to {NAME_OCTETS_MAX} letters, digits, and - _ .");
    Err(ServiceError::Invalid { field: "name", message })
}

fn role(text: &str) -> Result<Role> {
    let known = || Role::ALL.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
    let unknown = || ServiceError::Invalid { field: "role", message: format!("expected one of {}", known()) };
    Role::by_name(text).ok_or_else(unknown)
}

/// Makes the first administrator of a customer that was just made; gives its name and its token.
pub(super) async fn first(tx: &mut Tx<'_>, home: &CustomerRow, text: &str) -> Result<(String, String)> {
    let name = name(text)?;
    if let Some(parent) = home.parent {
        quota::admit(tx, parent, Resource::Administrators, 1).await?;
    }
    let id = create(tx, home.id, &name, None).await?;
    let new = NewGrant {
        administrator: id,
        customer: home.id,
        role: Role::Admin.name().to_owned(),
        expires_at: None,
        delegable: true,
        made_by: tx.caller.name(),
    };
    administrator::insert_grant(tx.conn, &new, tx.now).await?;
    let made = tokens::make(tx, id, "first", None, tokens::Bounds::default()).await?;
    Ok((format!("{name}@{}", home.code), made.token))
}

async fn create(
    tx: &mut Tx<'_>,
    home: CustomerId,
    name: &str,
    contact: Option<&str>,
) -> Result<AdministratorId> {
    let taken = || ServiceError::Conflict { message: format!("administrator {name} exists already there") };
    administrator::insert(tx.conn, home, name, contact, tx.now).await?.ok_or_else(taken)
}

/// An administrator.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Administrator {
    /// Random id.
    id: String,
    /// `name@CODE`.
    name: String,
    /// Path of its home.
    customer: String,
    /// Its roles, with the path of the customer, as far as the caller may see; given when listed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    contact: Option<String>,
    enabled: bool,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

pub(super) fn show(tx: &Tx<'_>, row: AdministratorRow) -> Administrator {
    let OneAdministrator { row, login } = OneAdministrator::new(tx, row);
    Administrator {
        id: row.public_id,
        name: login,
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        roles: Vec::new(),
        contact: row.contact,
        enabled: row.enabled,
        created_at: row.created_at,
    }
}

/// An administrator to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AdministratorCreateRequest {
    /// Its name, unique at its home.
    name: String,
    /// Its home.
    customer: String,
    /// The role it gets there; default: viewer.
    role: Option<String>,
    /// Whether it may pass the role on.
    #[serde(default)]
    delegable: bool,
    /// When the role ends: RFC 3339, or from now such as `90d`.
    expires_at: Option<String>,
    /// Address for people.
    contact: Option<String>,
}

/// What was made.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct AdministratorCreated {
    #[serde(flatten)]
    administrator: Administrator,
    /// Its first token; shown this once.
    token: String,
    /// When the token ends.
    #[schema(value_type = String)]
    expires_at: Timestamp,
}

/// `administrator.create`.
pub(in crate::service) struct AdministratorCreate;

impl Operate for AdministratorCreate {
    declare! { "administrator.create", Post, "/v1/administrators", AdministratorCreate, changes,
    "Create an administrator with a role at its home, and its first token" }
    type Request = AdministratorCreateRequest;
    type Response = AdministratorCreated;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AdministratorCreateRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        request: &'a AdministratorCreateRequest,
    ) -> Result<Vec<Need>> {
        let role = role(request.role.as_deref().unwrap_or(Role::Viewer.name()))?;
        let until = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let mut needs = vec![Need::at(target.id, Self::PERMISSION)];
        needs.extend(needs_to_pass(target.id, permissions_at(tx, role, target.id), until));
        Ok(needs)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneCustomer,
        request: AdministratorCreateRequest,
    ) -> Result<AdministratorCreated> {
        let name = name(&request.name)?;
        let contact = request.contact.as_deref().map(|text| address("contact", text)).transpose()?;
        quota::admit(tx, target.id, Resource::Administrators, 1).await?;
        let id = create(tx, target.id, &name, contact.map(|one| one.to_string()).as_deref()).await?;
        let role = role(request.role.as_deref().unwrap_or(Role::Viewer.name()))?;
        let expires_at = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        grant(tx, id, target.id, role, request.delegable, expires_at).await?;
        let made = tokens::make(tx, id, "first", None, tokens::Bounds::default()).await?;
        let row = row(tx, id).await?;
        let administrator = show(tx, row);
        tx.after = serde_json::to_value((&administrator, role.name())).ok();
        Ok(AdministratorCreated { administrator, token: made.token, expires_at: made.expires_at })
    }
}

async fn row(tx: &mut Tx<'_>, id: AdministratorId) -> Result<AdministratorRow> {
    let gone = || ServiceError::Internal("an administrator vanished inside a transaction".to_owned());
    administrator::by_id(tx.conn, id).await?.ok_or_else(gone)
}

async fn grant(
    tx: &mut Tx<'_>,
    administrator: AdministratorId,
    customer: CustomerId,
    role: Role,
    delegable: bool,
    expires_at: Option<Timestamp>,
) -> Result<String> {
    if role == Role::SystemAdmin && tx.caller.tree.root().is_none_or(|root| root.id != customer) {
        let message = "system-admin can be granted at the root only".to_owned();
        return Err(ServiceError::Invalid { field: "role", message });
    }
    let made_by = tx.caller.name();
    let role = role.name().to_owned();
    let new = NewGrant { administrator, customer, role, expires_at, delegable, made_by };
    Ok(administrator::insert_grant(tx.conn, &new, tx.now).await?)
}

/// Which administrators to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AdministratorListRequest {
    /// Only at home at this customer and those below; default: everywhere the caller may.
    customer: Option<String>,
    /// Most administrators, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `administrator.list`.
pub(in crate::service) struct AdministratorList;

impl Operate for AdministratorList {
    declare! { "administrator.list", Get, "/v1/administrators", AdministratorRead, reads,
    "List administrators by name" }
    type Request = AdministratorListRequest;
    type Response = Page<Administrator>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AdministratorListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: Place,
        request: AdministratorListRequest,
    ) -> Result<Page<Administrator>> {
        let limit = limit(request.limit)?;
        let filter = AdministratorListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let rows = administrator::page(tx.conn, &target.customer_ids(tx), after, limit + 1).await?;
        let mut roles: HashMap<AdministratorId, Vec<String>> = HashMap::new();
        let keys: Vec<i64> = rows.iter().map(|row| row.id.0).collect();
        for grant in administrator::grants_of_all(tx.conn, &keys).await? {
            if let Some(path) = tx.caller.path_of(grant.customer) {
                roles.entry(grant.administrator).or_default().push(format!("{} at {path}", grant.role));
            }
        }
        let position = |row: &AdministratorRow| (row.name.clone(), row.id.0);
        Page::cut(rows, limit, &cursors, position, |row| {
            let roles = roles.get(&row.id).cloned().unwrap_or_default();
            Administrator { roles, ..show(tx, row) }
        })
    }
}

/// Which administrator.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AdministratorRequest {
    /// `name@CODE`, or the name alone where it is unambiguous.
    pub name: String,
}

/// A grant.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Grant {
    /// Random id.
    id: String,
    role: String,
    /// Path of the customer where it counts.
    customer: String,
    delegable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    made_by: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

pub(super) fn show_grant(tx: &Tx<'_>, row: GrantRow) -> Option<Grant> {
    // Grants at customers that the caller does not see are not told of.
    let customer = tx.caller.path_of(row.customer)?;
    // Who made it may stand above the caller.
    let code = row.made_by.rsplit_once('@').and_then(|(_, code)| tx.caller.tree.by_code(code));
    let maker_visible = code.is_some_and(|home| tx.caller.sees(home));
    Some(Grant {
        id: row.public_id,
        role: row.role,
        customer,
        delegable: row.delegable,
        expires_at: row.expires_at,
        made_by: if maker_visible { row.made_by } else { "provider".to_owned() },
        created_at: row.created_at,
    })
}

/// An administrator with the grants that the caller may see.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct AdministratorDetail {
    #[serde(flatten)]
    pub administrator: Administrator,
    pub grants: Vec<Grant>,
}

/// `administrator.show`.
pub(in crate::service) struct AdministratorShow;

impl Operate for AdministratorShow {
    declare! { "administrator.show", Get, "/v1/administrators/{name}", AdministratorRead, reads,
    "Show an administrator and its grants" }
    type Request = AdministratorRequest;
    type Response = AdministratorDetail;
    type Target = OneAdministrator;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AdministratorRequest) -> Result<OneAdministrator> {
        OneAdministrator::find(tx, &request.name).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneAdministrator,
        _: AdministratorRequest,
    ) -> Result<AdministratorDetail> {
        let grants = administrator::grants_of(tx.conn, target.row.id).await?;
        let grants = grants.into_iter().filter_map(|grant| show_grant(tx, grant)).collect();
        Ok(AdministratorDetail { administrator: show(tx, target.row), grants })
    }
}

/// What to grant.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct GrantRequest {
    /// `name@CODE`.
    name: String,
    /// The role.
    role: String,
    /// Where it counts, and below.
    customer: String,
    /// Whether it may be passed on.
    #[serde(default)]
    delegable: bool,
    /// When it ends: RFC 3339, or from now such as `90d`.
    expires_at: Option<String>,
}

/// An administrator and a customer.
pub(in crate::service) struct AdministratorAt {
    administrator: OneAdministrator,
    at: OneCustomer,
}

impl Targeted for AdministratorAt {
    fn customer(&self) -> CustomerId {
        self.at.id
    }

    fn label(&self) -> String {
        format!("{} at {}", self.administrator.label(), self.at.label())
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("{} at {}", self.administrator.recorded(tree), self.at.recorded(tree))
    }
}

/// `administrator.grant`.
pub(in crate::service) struct AdministratorGrant;

impl Operate for AdministratorGrant {
    declare! { "administrator.grant", Post, "/v1/administrators/{name}/grants", AdministratorGrant,
    changes, "Grant an administrator a role at a customer" }
    type Request = GrantRequest;
    type Response = Grant;
    type Target = AdministratorAt;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a GrantRequest) -> Result<AdministratorAt> {
        let at = OneCustomer::find(tx, &request.customer)?;
        Ok(AdministratorAt { administrator: OneAdministrator::find(tx, &request.name).await?, at })
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a AdministratorAt,
        request: &'a GrantRequest,
    ) -> Result<Vec<Need>> {
        let until = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let permissions = permissions_at(tx, role(&request.role)?, target.at.id);
        Ok(needs_to_pass(target.at.id, permissions, until))
    }

    async fn run(tx: &mut Tx<'_>, target: AdministratorAt, request: GrantRequest) -> Result<Grant> {
        let expires_at = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let id = target.administrator.row.id;
        let role = role(&request.role)?;
        let public_id = grant(tx, id, target.at.id, role, request.delegable, expires_at).await?;
        let gone = || ServiceError::Internal("a grant vanished inside a transaction".to_owned());
        let row = administrator::grant_by_public_id(tx.conn, &public_id).await?.ok_or_else(gone)?;
        let made = show_grant(tx, row).ok_or_else(gone)?;
        tx.also.push(target.administrator.row.customer);
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// Which grant to end.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RevokeRequest {
    /// `name@CODE`.
    name: String,
    /// The role.
    role: String,
    /// Where it counts.
    customer: String,
}

/// A grant that the caller sees.
pub(in crate::service) struct OneGrant(GrantRow);

impl Targeted for OneGrant {
    fn customer(&self) -> CustomerId {
        self.0.customer
    }

    fn label(&self) -> String {
        format!("grant {}", self.0.public_id)
    }
}

/// `administrator.revoke`.
pub(in crate::service) struct AdministratorRevoke;

impl Operate for AdministratorRevoke {
    declare! { "administrator.revoke", Delete, "/v1/administrators/{name}/grants/{role}", AdministratorGrant,
    changes, "End an administrator's role at a customer" }
    type Request = RevokeRequest;
    type Response = Grant;
    type Target = OneGrant;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RevokeRequest) -> Result<OneGrant> {
        let at = OneCustomer::find(tx, &request.customer)?;
        let holder = OneAdministrator::find(tx, &request.name).await?;
        let mut grants = administrator::grants_of(tx.conn, holder.row.id).await?.into_iter();
        let found = grants.find(|grant| grant.customer == at.id && grant.role == request.role);
        found.map(OneGrant).ok_or_else(|| absent("grant", &request.role))
    }

    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a OneGrant, _: &'a RevokeRequest) -> Result<Vec<Need>> {
        let role = Role::by_name(&target.0.role);
        let permissions = role.map(|role| permissions_at(tx, role, target.0.customer)).unwrap_or_default();
        Ok(needs_to_pass(target.0.customer, permissions, target.0.expires_at))
    }

    async fn run(tx: &mut Tx<'_>, OneGrant(row): OneGrant, _: RevokeRequest) -> Result<Grant> {
        administrator::delete_grant(tx.conn, row.id).await?;
        if let Some(holder) = administrator::by_id(tx.conn, row.administrator).await? {
            tx.also.push(holder.customer);
        }
        let gone = || ServiceError::Internal("a visible grant cannot be shown".to_owned());
        let before = show_grant(tx, row).ok_or_else(gone)?;
        tx.before = serde_json::to_value(&before).ok();
        Ok(before)
    }
}

/// At which customer to look.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct EffectiveRequest {
    /// `name@CODE`.
    name: String,
    /// Path of the customer.
    customer: String,
}

/// What somebody may somewhere.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Effective {
    name: String,
    customer: String,
    permissions: Vec<String>,
}

/// `administrator.effective`.
pub(in crate::service) struct AdministratorEffective;

impl Operate for AdministratorEffective {
    declare! { "administrator.effective", Get, "/v1/administrators/{name}/effective", AdministratorRead,
    reads, "What an administrator may at a customer now" }
    type Request = EffectiveRequest;
    type Response = Effective;
    type Target = AdministratorAt;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a EffectiveRequest) -> Result<AdministratorAt> {
        let at = OneCustomer::find(tx, &request.customer)?;
        Ok(AdministratorAt { administrator: OneAdministrator::find(tx, &request.name).await?, at })
    }

    async fn run(tx: &mut Tx<'_>, target: AdministratorAt, _: EffectiveRequest) -> Result<Effective> {
        let row = &target.administrator.row;
        let tree = std::sync::Arc::clone(&tx.caller.tree);
        // Grants above what the caller sees are not told of, nor what they give.
        let grants = active_grants(tx.conn, &tree, row.id, tx.now).await?;
        let visible = grants.iter().filter(|grant| tx.caller.sees(grant.customer));
        let covering = visible.filter(|grant| tree.covers(grant.customer, target.at.id) && row.enabled);
        let set = covering.fold(PermissionSet::EMPTY, |set, grant| set.union(grant.permissions));
        Ok(Effective {
            name: target.administrator.login,
            customer: target.at.path,
            permissions: set.iter().map(|one| one.name().to_owned()).collect(),
        })
    }
}

/// Keeps the plain text rule for labels in one place.
pub(super) fn label(text: Option<&str>) -> Result<String> {
    plain_text("label", text.unwrap_or_default())
}
