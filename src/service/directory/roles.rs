//! Roles that customers make themselves. A role belongs to a customer and can be granted there and below. It names a
//! built-in base role, and of what it says counts at any time what the base role has.
//!
//! Names are unique on a path, so that a name means one role wherever it is granted. Who grants at a customer may know
//! the roles above it: they are made to be used there.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::administrators::name;
use super::ceilings::permissions;
use super::grants::{admit_content, holders, needs_where_granted};
use super::page::{Cursors, Page, limit};
use super::scope::Place;
use super::targets::{OneCustomer, absent, full_name, name_and_home};
use crate::base::id::CustomerId;
use crate::service::authority::{
    Permission, PermissionSet, Role, Tree, begins_at, counting, custom_permissions,
};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::grant::{self, GrantRow, Holder};
use crate::storage::metadata::role::{self, RoleRow};

/// A role.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct RoleAnswer {
    /// Its name; of a customer's role `name@CODE` where the customer is visible.
    name: String,
    /// Path of the customer whose role it is, `provider` when above; absent for built-in ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// The built-in role that bounds it; absent for built-in ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    /// What it allows now.
    permissions: Vec<String>,
    /// What it says and its base role does not have now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    without_effect: Vec<String>,
}

fn show_built_in(role: Role) -> RoleAnswer {
    RoleAnswer {
        name: role.name().to_owned(),
        customer: None,
        base: None,
        permissions: shown(role.permissions()),
        without_effect: Vec::new(),
    }
}

fn shown(set: PermissionSet) -> Vec<String> {
    set.without(PermissionSet::of(&[Permission::Own])).names()
}

fn show(tx: &Tx<'_>, row: &RoleRow) -> RoleAnswer {
    let path = tx.caller.path_of(row.customer);
    let counts = custom_permissions(&row.base, &row.permissions);
    let name = match path {
        Some(_) => full_name(&tx.caller.tree, &row.name, row.customer),
        None => row.name.clone(),
    };
    RoleAnswer {
        name,
        customer: Some(path.unwrap_or_else(|| "provider".to_owned())),
        base: Some(row.base.clone()),
        permissions: shown(counts),
        without_effect: PermissionSet::from_names(&row.permissions).without(counts).names(),
    }
}

/// Whether the caller may know of a role: it belongs to a visible customer, or to one above and can be granted there.
fn is_known(tx: &Tx<'_>, owner: CustomerId) -> bool {
    let tree = &tx.caller.tree;
    let is_there = tree.node(owner).is_some_and(|node| !node.is_gone);
    is_there && (tx.caller.sees(owner) || tx.caller.grants.iter().any(|one| tree.covers(owner, one.customer)))
}

/// A role of a customer that the caller knows.
pub(in crate::service) struct OneRole {
    row: RoleRow,
    label: String,
}

impl OneRole {
    /// The known role `name@CODE`, or `name` when only one such is known.
    async fn find(tx: &mut Tx<'_>, text: &str) -> Result<Self> {
        let (name, home) = name_and_home(tx, text);
        let mut found = role::by_name(tx.conn, &name).await?.into_iter().filter(|row| {
            is_known(tx, row.customer)
                && home.is_none_or(|home| home == Some(row.customer) && tx.caller.sees(row.customer))
        });
        let row = found.next().ok_or_else(|| absent("role", text))?;
        if found.next().is_some() {
            let message = format!("several roles are called {}; say name@CODE", row.name);
            return Err(ServiceError::Conflict { message });
        }
        let label = show(tx, &row).name;
        Ok(Self { row, label })
    }
}

impl Targeted for OneRole {
    fn customer(&self) -> CustomerId {
        self.row.customer
    }

    fn label(&self) -> String {
        format!("role {}", self.label)
    }

    fn recorded(&self, _: &Tree) -> String {
        format!("role {}", self.row.name)
    }
}

/// What a role says: its base role and permissions, all of which the base role has now, access to content aside.
struct Saying {
    base: Role,
    permissions: PermissionSet,
}

impl Saying {
    fn new(base: &str, permissions: PermissionSet) -> Result<Self> {
        let known = || Role::ALL.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
        let unknown =
            || ServiceError::Invalid { field: "base", message: format!("expected one of {}", known()) };
        let base = Role::by_name(base).ok_or_else(unknown)?;
        let more = permissions.without(base.permissions()).without(PermissionSet::CONTENT);
        if !more.is_empty() {
            let message = format!("the base role {} does not have {}", base.name(), more.names().join(", "));
            return Err(ServiceError::Invalid { field: "permissions", message });
        }
        Ok(Self { base, permissions })
    }

    fn text(&self) -> String {
        self.permissions.names().join(" ")
    }
}

/// A role to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RoleCreateRequest {
    /// Its name.
    name: String,
    /// Whose it is: it can be granted there and below.
    customer: String,
    /// The built-in role that bounds it, also when that one changes.
    base: String,
    /// What it allows: permissions of the base role, and `content.read` and `content.write`.
    permissions: Vec<String>,
}

/// `role.create`. Who grants it needs what it allows; who makes it gives nobody anything.
pub(in crate::service) struct RoleCreate;

impl Operate for RoleCreate {
    declare! { "role.create", Post, "/v1/roles", RoleCreate, changes,
    "Create a role: some of the permissions of a built-in one" }
    type Request = RoleCreateRequest;
    type Response = RoleAnswer;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RoleCreateRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: RoleCreateRequest) -> Result<RoleAnswer> {
        let name = name(&request.name)?;
        let saying = Saying::new(&request.base, permissions(&request.permissions)?)?;
        if let Some(place) = taken(tx, &name, target.id).await? {
            return Err(ServiceError::Conflict { message: format!("role {name} exists already {place}") });
        }
        let text = saying.text();
        let made = role::insert(tx.conn, target.id, &name, (saying.base.name(), &text), tx.now).await?;
        let gone = || ServiceError::Internal("a role vanished inside a transaction".to_owned());
        let row = role::by_id(tx.conn, made.ok_or_else(gone)?).await?.ok_or_else(gone)?;
        let made = show(tx, &row);
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// Where on the path through a customer, above or below it, a role has this name. Both may be told: those above can be
/// used there, those below are visible.
async fn taken(tx: &mut Tx<'_>, name: &str, at: CustomerId) -> Result<Option<String>> {
    if Role::by_name(name).is_some() {
        return Ok(Some("as a built-in one".to_owned()));
    }
    let rows = role::by_name(tx.conn, name).await?;
    let tree = &tx.caller.tree;
    let other = rows.iter().find(|row| tree.covers(row.customer, at) || tree.covers(at, row.customer));
    Ok(other.map(|row| match tx.caller.path_of(row.customer) {
        Some(path) => format!("at {path}"),
        None => "above".to_owned(),
    }))
}

/// Which roles to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RoleListRequest {
    /// Those that can be granted at this customer or below; default: everywhere the caller may.
    customer: Option<String>,
    /// Most roles, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// A role in a list.
enum Listed {
    BuiltIn(usize, Role),
    Custom(RoleRow),
}

/// `role.list`: the built-in ones first.
pub(in crate::service) struct RoleList;

impl Operate for RoleList {
    declare! { "role.list", Get, "/v1/roles", AdministratorRead, reads, "List the roles that can be granted" }
    type Request = RoleListRequest;
    type Response = Page<RoleAnswer>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RoleListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: RoleListRequest) -> Result<Page<RoleAnswer>> {
        let limit = limit(request.limit)?;
        let filter = RoleListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        // Built-in roles stand at ("", 1), ("", 2), …; no name is empty.
        let after: (String, i64) = cursors.read(request.cursor.as_deref())?.unwrap_or_default();
        let tree = &tx.caller.tree;
        let above = target.tops.iter().flat_map(|&top| tree.path(top)).map(|node| node.id.0);
        let owners: BTreeSet<i64> = target.customer_ids(tx).into_iter().chain(above).collect();
        let owners: Vec<i64> = owners.into_iter().collect();
        let built_in = Role::ALL.iter().enumerate().map(|(index, &role)| (index + 1, role));
        let built_in = built_in
            .filter(|&(place, _)| after.0.is_empty() && i64::try_from(place).is_ok_and(|it| it > after.1));
        let mut rows: Vec<Listed> = built_in.map(|(place, role)| Listed::BuiltIn(place, role)).collect();
        let custom = role::page(tx.conn, &owners, after, limit + 1).await?;
        rows.extend(custom.into_iter().map(Listed::Custom));
        let position = |row: &Listed| match row {
            Listed::BuiltIn(place, _) => (String::new(), i64::try_from(*place).unwrap_or(i64::MAX)),
            Listed::Custom(row) => (row.name.clone(), row.id.0),
        };
        Page::cut(rows, limit, &cursors, position, |row| match row {
            Listed::BuiltIn(_, role) => show_built_in(role),
            Listed::Custom(row) => show(tx, &row),
        })
    }
}

/// Which role.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RoleRequest {
    /// `name@CODE`, or the name alone where it is unambiguous.
    name: String,
}

/// A built-in role, or one of a customer.
pub(in crate::service) enum AnyRole {
    BuiltIn(Role, CustomerId),
    Custom(OneRole),
}

impl Targeted for AnyRole {
    fn customer(&self) -> CustomerId {
        match self {
            Self::BuiltIn(_, home) => *home,
            Self::Custom(one) => one.customer(),
        }
    }

    fn label(&self) -> String {
        match self {
            Self::BuiltIn(role, _) => format!("role {}", role.name()),
            Self::Custom(one) => one.label(),
        }
    }

    fn recorded(&self, tree: &Tree) -> String {
        match self {
            Self::BuiltIn(..) => self.label(),
            Self::Custom(one) => one.recorded(tree),
        }
    }
}

/// A role, and how often it is granted.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct RoleDetail {
    #[serde(flatten)]
    role: RoleAnswer,
    /// Grants of it at visible customers; absent for built-in ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<usize>,
}

/// `role.show`.
pub(in crate::service) struct RoleShow;

impl Operate for RoleShow {
    declare! { "role.show", Get, "/v1/roles/{name}", AdministratorRead, reads, "Show what a role allows" }
    type Request = RoleRequest;
    type Response = RoleDetail;
    type Target = AnyRole;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RoleRequest) -> Result<AnyRole> {
        if let Some(role) = Role::by_name(&request.name) {
            let home = Place::home(tx)?;
            return Ok(AnyRole::BuiltIn(role, home.customer()));
        }
        OneRole::find(tx, &request.name).await.map(AnyRole::Custom)
    }

    /// A role from above may be shown to who may see administrators where it can be granted.
    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a AnyRole, _: &'a RoleRequest) -> Result<Vec<Need>> {
        let below = |owner: CustomerId| {
            let mut grants = tx.caller.grants.iter().filter(|one| tx.caller.tree.covers(owner, one.customer));
            grants.find(|one| tx.caller.given(one).has(Self::PERMISSION)).map(|one| one.customer)
        };
        Ok(match target {
            AnyRole::BuiltIn(..) => Vec::new(),
            AnyRole::Custom(one) => {
                let at = if tx.caller.sees(one.row.customer) { None } else { below(one.row.customer) };
                vec![Need::at(at.unwrap_or(one.row.customer), Self::PERMISSION)]
            }
        })
    }

    async fn run(tx: &mut Tx<'_>, target: AnyRole, _: RoleRequest) -> Result<RoleDetail> {
        let OneRole { row, .. } = match target {
            AnyRole::BuiltIn(role, _) => return Ok(RoleDetail { role: show_built_in(role), grants: None }),
            AnyRole::Custom(one) => one,
        };
        let grants = lasting(tx, &row).await?;
        let grants = grants.iter().filter(|one| tx.caller.sees(one.customer)).count();
        Ok(RoleDetail { role: show(tx, &row), grants: Some(grants) })
    }
}

/// Grants of a role that have not ended.
async fn lasting(tx: &mut Tx<'_>, row: &RoleRow) -> Result<Vec<GrantRow>> {
    let mut grants = grant::of_role(tx.conn, row.id).await?;
    grants.retain(|one| one.expires_at.is_none_or(|end| tx.now < end));
    Ok(grants)
}

/// How many of these grants are at deleted customers or held by who is deleted.
async fn resting(tx: &mut Tx<'_>, rows: &[GrantRow]) -> Result<usize> {
    let tree = std::sync::Arc::clone(&tx.caller.tree);
    let names = holders(tx, rows).await?;
    let is_gone = |id: CustomerId| tree.node(id).is_none_or(|node| node.is_gone);
    let rests = |row: &&GrantRow| {
        let is_group_gone = matches!(row.holder, Holder::Group(_)) && is_gone(row.home);
        is_gone(row.customer) || is_group_gone || !names.contains_key(&row.holder)
    };
    Ok(rows.iter().filter(rests).count())
}

/// What to change; absent fields stay.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RoleUpdateRequest {
    /// `name@CODE`, or the name alone where it is unambiguous.
    name: String,
    /// Another base role.
    base: Option<String>,
    /// All that it allows.
    permissions: Option<Vec<String>>,
    /// What it allows besides.
    #[serde(default)]
    add: Vec<String>,
    /// What it allows no more.
    #[serde(default)]
    remove: Vec<String>,
}

impl RoleUpdateRequest {
    fn saying(&self, row: &RoleRow) -> Result<Saying> {
        let set = match &self.permissions {
            Some(names) => permissions(names)?,
            None => PermissionSet::from_names(&row.permissions),
        };
        let set = set.union(permissions(&self.add)?).without(permissions(&self.remove)?);
        Saying::new(self.base.as_deref().unwrap_or(&row.base), set)
    }
}

/// `role.update`: changes what everybody may who holds it, so it needs what granting it anew would, everywhere.
pub(in crate::service) struct RoleUpdate;

impl Operate for RoleUpdate {
    declare! { "role.update", Patch, "/v1/roles/{name}", RoleUpdate, changes,
    "Change what a role allows; counts at once wherever it is granted" }
    type Request = RoleUpdateRequest;
    type Response = RoleAnswer;
    type Target = OneRole;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RoleUpdateRequest) -> Result<OneRole> {
        OneRole::find(tx, &request.name).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneRole,
        request: &'a RoleUpdateRequest,
    ) -> Result<Vec<Need>> {
        let row = &target.row;
        let mut needs = vec![Need::at(row.customer, Self::PERMISSION)];
        let saying = request.saying(row)?;
        let next = custom_permissions(saying.base.name(), &saying.text());
        let concerned = next.union(custom_permissions(&row.base, &row.permissions));
        for one in lasting(tx, row).await? {
            let concerned = counting(&tx.caller.tree, concerned, one.customer, one.zone.is_some());
            needs.extend(needs_where_granted(&one, concerned));
        }
        Ok(needs)
    }

    async fn run(tx: &mut Tx<'_>, target: OneRole, request: RoleUpdateRequest) -> Result<RoleAnswer> {
        let mut row = target.row;
        let saying = request.saying(&row)?;
        let content = saying.permissions.intersection(PermissionSet::CONTENT);
        let added = content.without(PermissionSet::from_names(&row.permissions));
        for one in lasting(tx, &row).await? {
            if one.zone.is_none() && !added.is_empty() {
                admit_content(tx, one.customer, begins_at(&one), one.expires_at).await?;
            }
            tx.also.push(one.customer);
        }
        tx.also.sort_unstable();
        tx.also.dedup();
        tx.before = serde_json::to_value(show(tx, &row)).ok();
        (row.base, row.permissions) = (saying.base.name().to_owned(), saying.text());
        role::update(tx.conn, row.id, &row.base, &row.permissions).await?;
        let after = show(tx, &row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// `role.delete`: only one that nobody holds.
pub(in crate::service) struct RoleDelete;

impl Operate for RoleDelete {
    declare! { "role.delete", Delete, "/v1/roles/{name}", RoleDelete, changes, "Delete a role that is not granted" }
    type Request = RoleRequest;
    type Response = RoleAnswer;
    type Target = OneRole;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RoleRequest) -> Result<OneRole> {
        OneRole::find(tx, &request.name).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneRole, _: RoleRequest) -> Result<RoleAnswer> {
        let grants = lasting(tx, &target.row).await?;
        let resting = resting(tx, &grants).await?;
        let times = |count: usize| if count == 1 { "once".to_owned() } else { format!("{count} times") };
        let message = match (grants.len() - resting, resting) {
            (0, 0) => None,
            (0, resting) => {
                let what = "to what is deleted and can come back";
                Some(format!("{} is granted {} {what}", target.label(), times(resting)))
            }
            (grants, _) => {
                Some(format!("{} is granted {}; revoke it there first", target.label(), times(grants)))
            }
        };
        if let Some(message) = message {
            return Err(ServiceError::Conflict { message });
        }
        role::delete(tx.conn, target.row.id, tx.now).await?;
        let before = show(tx, &target.row);
        tx.before = serde_json::to_value(&before).ok();
        Ok(before)
    }
}
