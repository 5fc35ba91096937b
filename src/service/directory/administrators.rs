//! Administrators. What they hold stands in `grants.rs`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::grant_places;
use super::grants::{self, Grant, NamedRole, Terms, needs_to_pass, show_all};
use super::page::{Cursors, Page, limit};
use super::scope::{Place, address, plain_text, until};
use super::targets::{OneAdministrator, OneCustomer, OneGroup};
use super::tokens;
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId};
use crate::service::authority::{Role, permissions_at};
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::expiry::{self, Expiry};
use crate::service::quota;
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::administrator::{self, AdministratorRow};
use crate::storage::metadata::customer::CustomerRow;
use crate::storage::metadata::expiry::Expiring;
use crate::storage::metadata::grant::{self, Holder};
use crate::storage::metadata::group;
use crate::storage::metadata::second_factor;

/// Longest name in octets.
const NAME_OCTETS_MAX: usize = 64;

/// A name of an administrator, a group or a role.
pub(super) fn name(text: &str) -> Result<String> {
    let name = text.to_lowercase();
    let clean = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if clean && !name.is_empty() && name.len() <= NAME_OCTETS_MAX {
        return Ok(name);
    }
    let message = format!("expected 1 to {NAME_OCTETS_MAX} letters, digits, and - _ .");
    Err(ServiceError::Invalid { field: "name", message })
}

/// Makes the first administrator of a customer that was just made; gives its name and its token.
pub(super) async fn first(tx: &mut Tx<'_>, home: &CustomerRow, text: &str) -> Result<(String, String)> {
    let name = name(text)?;
    if let Some(parent) = home.parent {
        quota::admit(tx, parent, Resource::Administrators, 1).await?;
    }
    let id = create(tx, home.id, &name, None).await?;
    let terms = Terms { delegable: true, ..Terms::default() };
    grants::make(tx, Holder::Administrator(id), home.id, Role::Admin.into(), terms).await?;
    let made = tokens::first(tx, id).await?;
    Ok((format!("{name}@{}", home.code), made.token))
}

/// Makes an administrator without roles and without a way to log in.
pub(super) async fn create(
    tx: &mut Tx<'_>,
    home: CustomerId,
    name: &str,
    contact: Option<&str>,
) -> Result<AdministratorId> {
    let taken = || ServiceError::Conflict { message: format!("administrator {name} exists already there") };
    let id = administrator::insert(tx.conn, home, name, contact, tx.now).await?.ok_or_else(taken)?;
    quota::count(tx, home, Resource::Administrators, 1).await?;
    Ok(id)
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
    /// Whether logging in with the password takes a code too.
    second_factor: bool,
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
        second_factor: row.second_factor,
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
    /// Make no token: it cannot log in until it is given one.
    #[serde(default)]
    without_token: bool,
}

/// What was made.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct AdministratorCreated {
    #[serde(flatten)]
    administrator: Administrator,
    /// Its first token; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// When the token ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
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
        let role = request.role.as_deref().unwrap_or(Role::Viewer.name());
        let role = NamedRole::find(tx, role, target.id).await?;
        let until = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let mut needs = vec![Need::at(target.id, Self::PERMISSION)];
        let permissions = permissions_at(&tx.caller.tree, role.permissions, target.id);
        needs.extend(needs_to_pass(target.id, permissions, until));
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
        let role = request.role.as_deref().unwrap_or(Role::Viewer.name());
        let role = NamedRole::find(tx, role, target.id).await?;
        let role_name = role.name.clone();
        let expires_at = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let terms = Terms { delegable: request.delegable, expires_at, ..Terms::default() };
        grants::make(tx, Holder::Administrator(id), target.id, role, terms).await?;
        let made = match request.without_token {
            true => None,
            false => Some(tokens::first(tx, id).await?),
        };
        let row = row(tx, id).await?;
        let administrator = show(tx, row);
        tx.after = serde_json::to_value((&administrator, role_name)).ok();
        let (token, expires_at) = made.map(|made| (made.token, made.expires_at)).unzip();
        Ok(AdministratorCreated { administrator, token, expires_at })
    }
}

async fn row(tx: &mut Tx<'_>, id: AdministratorId) -> Result<AdministratorRow> {
    let gone = || ServiceError::Internal("an administrator vanished inside a transaction".to_owned());
    administrator::by_id(tx.conn, id).await?.ok_or_else(gone)
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
        let rows = administrator::page(tx.conn, &target.customers(tx), after, limit + 1).await?;
        let mut roles: HashMap<AdministratorId, Vec<String>> = HashMap::new();
        let keys: Vec<i64> = rows.iter().map(|row| row.id.0).collect();
        for row in grant::of_administrators(tx.conn, &keys).await? {
            if let (Holder::Administrator(id), Some(place)) = (row.holder, grant_places::told(tx, &row)) {
                roles.entry(id).or_default().push(format!("{} at {place}", row.role));
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

/// An administrator with the grants that the caller may see.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct AdministratorDetail {
    #[serde(flatten)]
    pub administrator: Administrator,
    /// Its own, and those of its groups.
    pub grants: Vec<Grant>,
    /// The groups that it is in, as far as the caller may see.
    pub groups: Vec<String>,
    /// Of a second factor: the recovery codes that were not used yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_codes_left: Option<i64>,
    /// When its time is over, if somebody has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry: Option<Expiry>,
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
        detail(tx, target.row).await
    }
}

/// An administrator with its grants and groups.
pub(super) async fn detail(tx: &mut Tx<'_>, row: AdministratorRow) -> Result<AdministratorDetail> {
    let rows = grant::held_by(tx.conn, row.id).await?;
    let grants = show_all(tx, rows, Some(Holder::Administrator(row.id))).await?;
    let groups = group::with_member(tx.conn, row.id).await?.into_iter();
    let groups = groups.filter(|group| tx.caller.sees(group.customer));
    let groups = groups.map(|group| OneGroup::new(tx, group).login).collect();
    let expiry = expiry::shown(tx, Expiring::Administrator(row.id)).await?;
    let recovery_codes_left = match row.second_factor {
        true => Some(second_factor::recovery_codes_left(tx.conn, row.id).await?),
        false => None,
    };
    Ok(AdministratorDetail { administrator: show(tx, row), grants, groups, recovery_codes_left, expiry })
}

/// Keeps the plain text rule for labels in one place.
pub(super) fn label(text: Option<&str>) -> Result<String> {
    plain_text("label", text.unwrap_or_default())
}
