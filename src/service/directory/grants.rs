//! Grants of roles to administrators and groups. Nobody gives what they could not pass on, and nobody acts on an
//! administrator or a group that holds more than they could pass on.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::grant_places::{self, GrantPlace};
use super::revocation::hanging;
use super::scope::until;
use super::targets::{OneAdministrator, OneGroup, absent};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, RoleId, ZoneId};
use crate::service::authority::{
    CONTENT_LASTS_MAX, Permission, PermissionSet, Role, Tree, custom_permissions, granted, is_brief,
};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::service::settings::{self, CONTENT_PERMANENT_ALLOWED};
use crate::storage::metadata::grant::{self, GrantRow, Holder, NewGrant};
use crate::storage::metadata::{administrator, group, role};

/// Most grants that one administrator or group holds.
const GRANTS_MAX: usize = 1_000;

/// A role that can be granted at some customer.
pub(in crate::service) struct NamedRole {
    pub name: String,
    /// Its key, if it is none of the built-in ones.
    pub id: Option<RoleId>,
    pub permissions: PermissionSet,
}

impl From<Role> for NamedRole {
    fn from(role: Role) -> Self {
        Self { name: role.name().to_owned(), id: None, permissions: role.permissions() }
    }
}

impl NamedRole {
    /// The role that `name` means at a customer: a built-in one, else that of the nearest customer on its path.
    pub async fn find(tx: &mut Tx<'_>, name: &str, at: CustomerId) -> Result<Self> {
        if let Some(role) = Role::by_name(name) {
            return Ok(role.into());
        }
        let depth = |id: CustomerId| tx.caller.tree.node(id).map_or(0, |node| node.depth);
        let rows = role::by_name(tx.conn, &name.to_lowercase()).await?;
        let usable = rows.into_iter().filter(|row| tx.caller.tree.covers(row.customer, at));
        let unknown = || {
            let known = Role::ALL.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
            let message = format!("expected one of {known}, or a role of the customer or one above it");
            ServiceError::Invalid { field: "role", message }
        };
        let row = usable.max_by_key(|row| depth(row.customer)).ok_or_else(unknown)?;
        let permissions = custom_permissions(&row.base, &row.permissions);
        Ok(Self { name: row.name, id: Some(row.id), permissions })
    }
}

/// What is needed to give a built-in role other than at the root: each of its permissions so that it may be passed on.
pub(super) fn needs_to_grant(at: CustomerId, role: Role, until: Option<Timestamp>) -> Vec<Need> {
    needs_to_pass(at, role.permissions().without(PermissionSet::SYSTEM), until)
}

/// What is needed to give these permissions at a customer until then.
pub(super) fn needs_to_pass(
    at: CustomerId,
    permissions: PermissionSet,
    until: Option<Timestamp>,
) -> Vec<Need> {
    let mut needs = vec![Need::at(at, Permission::AdministratorGrant)];
    needs.extend(needs_delegable(at, permissions, until));
    needs
}

/// Each of these permissions at a customer, so that it may be passed on until then.
pub(super) fn needs_delegable(
    at: CustomerId,
    permissions: PermissionSet,
    until: Option<Timestamp>,
) -> impl Iterator<Item = Need> {
    let passed = permissions.without(PermissionSet::of(&[Permission::Own]));
    let permissions: Vec<Permission> = passed.iter().collect();
    let need = Need { until, delegable: true, ..Need::at(at, Permission::Own) };
    permissions.into_iter().map(move |permission| Need { permission, ..need })
}

/// Each of these permissions where a grant counts, so that it may be passed on for as long as the grant lasts.
pub(in crate::service) fn needs_where_granted(
    row: &GrantRow,
    permissions: PermissionSet,
) -> impl Iterator<Item = Need> + use<> {
    let zone = row.zone.as_ref().map(|zone| zone.id);
    needs_delegable(row.customer, permissions, row.expires_at).map(move |need| Need { zone, ..need })
}

/// What is needed to make or end a grant: the right to, at its customer or, for one in a zone, where its holder is at
/// home; and all that it gives.
pub(in crate::service) fn needs_to_make(tree: &Tree, row: &GrantRow) -> Vec<Need> {
    let over = if row.zone.is_some() { row.home } else { row.customer };
    let mut needs = vec![Need::at(over, Permission::AdministratorGrant)];
    needs.extend(needs_where_granted(row, granted(tree, row)));
    needs
}

/// Everything that grants give or will give, everywhere, so that it may be passed on.
pub(super) fn needs_over_grants(tx: &Tx<'_>, rows: &[GrantRow]) -> Vec<Need> {
    let lasting = rows.iter().filter(|row| row.expires_at.is_none_or(|end| tx.now < end));
    lasting.flat_map(|row| needs_where_granted(row, granted(&tx.caller.tree, row))).collect()
}

/// What is needed to act on an administrator: everything that it holds itself or by groups.
pub(in crate::service) async fn needs_over(tx: &mut Tx<'_>, id: AdministratorId) -> Result<Vec<Need>> {
    let rows = grant::held_by(tx.conn, id).await?;
    Ok(needs_over_grants(tx, &rows))
}

/// Whether the caller could make this grant now.
pub(super) fn could_grant(tx: &Tx<'_>, row: &GrantRow) -> bool {
    let needs = needs_to_make(&tx.caller.tree, row);
    grant_places::shown(tx, row).is_some() && needs.iter().all(|need| need.is_held_by(tx.caller))
}

/// On which terms a grant is made.
#[derive(Clone, Copy, Default)]
pub(super) struct Terms {
    pub delegable: bool,
    pub not_before: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// The zone, for a grant in one; its customer is the root then.
    pub zone: Option<ZoneId>,
}

/// Makes a grant for which the caller has what is needed.
pub(super) async fn make(
    tx: &mut Tx<'_>,
    holder: Holder,
    customer: CustomerId,
    role: NamedRole,
    terms: Terms,
) -> Result<GrantRow> {
    let Terms { delegable, not_before, expires_at, zone } = terms;
    admit_place(tx, &role, customer)?;
    if zone.is_some() && role.permissions.intersection(PermissionSet::ZONED).is_empty() {
        let message = format!(
            "nothing of {} counts in a zone; posthouse role show tells what a role allows",
            role.name
        );
        return Err(ServiceError::Invalid { field: "role", message });
    }
    if let (Some(from), Some(until)) = (not_before, expires_at)
        && until <= from
    {
        let message = "a grant ends after it begins".to_owned();
        return Err(ServiceError::Invalid { field: "expires_at", message });
    }
    let from = not_before.unwrap_or(tx.now).max(tx.now);
    if zone.is_none() && !role.permissions.intersection(PermissionSet::CONTENT).is_empty() {
        admit_content(tx, customer, from, expires_at).await?;
    }
    if grant::of(tx.conn, holder).await?.len() >= GRANTS_MAX {
        return Err(ServiceError::Limit(format!(
            "an administrator or group holds at most {GRANTS_MAX} grants"
        )));
    }
    let (made_by, grantor) = (tx.caller.name(), tx.caller.administrator());
    let (role, custom) = (role.name, role.id);
    let new = NewGrant {
        holder,
        customer,
        zone,
        role,
        custom,
        not_before,
        expires_at,
        delegable,
        made_by,
        grantor,
    };
    let public_id = grant::insert(tx.conn, &new, tx.now).await?;
    let gone = || ServiceError::Internal("a grant vanished inside a transaction".to_owned());
    grant::by_public_id(tx.conn, &public_id).await?.ok_or_else(gone)
}

/// Refuses a role that is none of customers' below the root.
pub(super) fn admit_place(tx: &Tx<'_>, role: &NamedRole, customer: CustomerId) -> Result<()> {
    let is_root = tx.caller.tree.root().is_some_and(|root| root.id == customer);
    if role.id.is_none() && role.name == Role::SystemAdmin.name() && !is_root {
        let message = "system-admin can be granted at the root only".to_owned();
        return Err(ServiceError::Invalid { field: "role", message });
    }
    Ok(())
}

/// Refuses a grant of access to content that lasts too long.
pub(super) async fn admit_content(
    tx: &mut Tx<'_>,
    customer: CustomerId,
    from: Timestamp,
    until: Option<Timestamp>,
) -> Result<()> {
    if is_brief(from, until) || settings::value(tx.conn, customer, &CONTENT_PERMANENT_ALLOWED).await?.0 {
        return Ok(());
    }
    let days = CONTENT_LASTS_MAX.as_secs() / 86_400;
    let message = format!("access to content is granted for at most {days} days; say when it ends");
    Err(ServiceError::Invalid { field: "expires_at", message })
}

/// A grant.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Grant {
    /// Random id.
    id: String,
    /// Who holds it: `name@CODE`, or `group name@CODE`; left out for what the one asked about holds itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    role: String,
    /// Path of the customer where it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// The zone in which it counts, instead of a customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    delegable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Timestamp>,
    made_by: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

/// A grant as the caller may see it; nothing for grants at customers and in zones that the caller does not see.
pub(super) fn show_grant(tx: &Tx<'_>, row: GrantRow, holder: Option<String>) -> Option<Grant> {
    let (customer, zone) = grant_places::shown(tx, &row)?;
    // Who made it may stand above the caller.
    let code = row.made_by.rsplit_once('@').and_then(|(_, code)| tx.caller.tree.by_code(code));
    let maker_visible = code.is_some_and(|home| tx.caller.sees(home)) || tx.caller.name() == row.made_by;
    Some(Grant {
        id: row.public_id,
        holder,
        role: row.role,
        customer,
        zone,
        delegable: row.delegable,
        not_before: row.not_before,
        expires_at: row.expires_at,
        made_by: if maker_visible { row.made_by } else { "provider".to_owned() },
        created_at: row.created_at,
    })
}

/// Who holds these grants, as the caller may be told.
pub(super) async fn holders(tx: &mut Tx<'_>, rows: &[GrantRow]) -> Result<HashMap<Holder, String>> {
    let (mut administrators, mut groups) = (Vec::new(), Vec::new());
    for row in rows {
        match row.holder {
            Holder::Administrator(id) => administrators.push(id.0),
            Holder::Group(id) => groups.push(id.0),
        }
    }
    let administrators = administrator::by_ids(tx.conn, administrators).await?;
    let groups = group::by_ids(tx.conn, groups).await?;
    let provider = || "provider".to_owned();
    let mut names = HashMap::new();
    for row in administrators {
        let (id, is_visible) = (Holder::Administrator(row.id), tx.caller.sees(row.customer));
        let name = OneAdministrator::new(tx, row).login;
        names.insert(id, if is_visible { name } else { provider() });
    }
    for row in groups {
        let (id, is_visible) = (Holder::Group(row.id), tx.caller.sees(row.customer));
        let name = format!("group {}", OneGroup::new(tx, row).login);
        names.insert(id, if is_visible { name } else { provider() });
    }
    Ok(names)
}

/// Grants with their holders, where they are not held by `own` itself.
pub(in crate::service) async fn show_all(
    tx: &mut Tx<'_>,
    rows: Vec<GrantRow>,
    own: Option<Holder>,
) -> Result<Vec<Grant>> {
    let names = holders(tx, &rows).await?;
    let shown = rows.into_iter().filter_map(|row| {
        let holder = names.get(&row.holder).filter(|_| own != Some(row.holder)).cloned();
        show_grant(tx, row, holder)
    });
    Ok(shown.collect())
}

/// What to grant.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct GrantRequest {
    /// Who gets it: `name@CODE`.
    name: String,
    /// The role: a built-in one, or one of the customer or above it.
    role: String,
    /// Where it counts, and below.
    customer: Option<String>,
    /// The zone in which it counts, instead of a customer: for the mail stores and servers there.
    zone: Option<String>,
    /// Whether it may be passed on.
    #[serde(default)]
    delegable: bool,
    /// From when it counts: RFC 3339, or from now such as `7d`; default: at once.
    not_before: Option<String>,
    /// When it ends: RFC 3339, or from now such as `90d`.
    expires_at: Option<String>,
}

/// Which grant to end.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RevokeRequest {
    /// Who holds it: `name@CODE`.
    name: String,
    /// The role.
    role: String,
    /// Where it counts.
    customer: Option<String>,
    /// The zone in which it counts, instead of a customer.
    zone: Option<String>,
    /// Also end what its holder granted there and below and could not grant without it, and so on.
    #[serde(default)]
    cascade: bool,
}

/// What was ended.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Revoked {
    #[serde(flatten)]
    grant: Grant,
    /// What ended with it: grants of the same role there, and with `cascade` those that hung on it, as `role of holder
    /// at path`.
    also_ended: Vec<String>,
}

/// Somebody who holds grants.
pub(in crate::service) enum OneHolder {
    Administrator(OneAdministrator),
    Group(OneGroup),
}

impl OneHolder {
    fn key(&self) -> Holder {
        match self {
            Self::Administrator(one) => Holder::Administrator(one.row.id),
            Self::Group(one) => Holder::Group(one.row.id),
        }
    }

    fn home(&self) -> CustomerId {
        self.as_target().customer()
    }

    fn as_target(&self) -> &dyn Targeted {
        match self {
            Self::Administrator(one) => one,
            Self::Group(one) => one,
        }
    }
}

/// Somebody who holds grants, and a customer or zone.
pub(in crate::service) struct HolderAt {
    holder: OneHolder,
    at: GrantPlace,
}

impl Targeted for HolderAt {
    fn customer(&self) -> CustomerId {
        self.at.customer()
    }

    fn is_in_zone(&self) -> bool {
        self.at.is_in_zone()
    }

    fn label(&self) -> String {
        format!("{} at {}", self.holder.as_target().label(), self.at.label())
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("{} at {}", self.holder.as_target().recorded(tree), self.at.recorded(tree))
    }
}

impl HolderAt {
    async fn needs(&self, tx: &mut Tx<'_>, request: &GrantRequest) -> Result<Vec<Need>> {
        let until = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let (at, zone) = (self.at.customer(), self.at.zone());
        let role = NamedRole::find(tx, &request.role, at).await?;
        let permissions = self.at.counting(&tx.caller.tree, role.permissions);
        let over = if zone.is_some() { self.holder.home() } else { at };
        let mut needs = vec![Need::at(over, Permission::AdministratorGrant)];
        needs.extend(needs_delegable(at, permissions, until).map(|need| Need { zone, ..need }));
        Ok(needs)
    }

    async fn run(self, tx: &mut Tx<'_>, request: GrantRequest) -> Result<Grant> {
        let terms = Terms {
            delegable: request.delegable,
            not_before: until("not_before", request.not_before.as_deref(), tx.now)?,
            expires_at: until("expires_at", request.expires_at.as_deref(), tx.now)?,
            zone: self.at.zone(),
        };
        let at = self.at.customer();
        let role = NamedRole::find(tx, &request.role, at).await?;
        let row = make(tx, self.holder.key(), at, role, terms).await?;
        let gone = || ServiceError::Internal("a grant at a visible place cannot be shown".to_owned());
        let made = show_grant(tx, row, None).ok_or_else(gone)?;
        tx.also.push(self.holder.home());
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// Grants of one role at one customer, or in one zone, that one holder has.
pub(in crate::service) struct SomeGrants {
    holder: OneHolder,
    at: GrantPlace,
    first: GrantRow,
    others: Vec<GrantRow>,
}

impl Targeted for SomeGrants {
    fn customer(&self) -> CustomerId {
        self.first.customer
    }

    fn label(&self) -> String {
        format!("grant {}", self.first.public_id)
    }

    fn is_in_zone(&self) -> bool {
        self.at.is_in_zone()
    }
}

impl SomeGrants {
    async fn find(tx: &mut Tx<'_>, holder: OneHolder, request: &RevokeRequest) -> Result<Self> {
        let at = GrantPlace::find(tx, request.customer.as_deref(), request.zone.as_deref()).await?;
        let rows = grant::of(tx.conn, holder.key()).await?;
        let mut found = rows.into_iter().filter(|row| at.has(row) && row.role == request.role);
        let first = found.next().ok_or_else(|| absent("grant", &request.role))?;
        let others = found.collect();
        Ok(Self { holder, at, first, others })
    }

    /// All that is to end, the named one first.
    async fn ending(&self, tx: &mut Tx<'_>, request: &RevokeRequest) -> Result<Vec<GrantRow>> {
        let mut rows = vec![self.first.clone()];
        rows.extend(self.others.iter().cloned());
        if request.cascade {
            let more = hanging(tx, &rows).await?;
            rows.extend(more);
        }
        Ok(rows)
    }

    async fn needs(&self, tx: &mut Tx<'_>, request: &RevokeRequest) -> Result<Vec<Need>> {
        let rows = self.ending(tx, request).await?;
        Ok(rows.iter().flat_map(|row| needs_to_make(&tx.caller.tree, row)).collect())
    }

    async fn run(self, tx: &mut Tx<'_>, request: RevokeRequest) -> Result<Revoked> {
        let rows = self.ending(tx, &request).await?;
        for row in &rows {
            grant::delete(tx.conn, row.id).await?;
            tx.also.push(row.customer);
        }
        tx.also.push(self.holder.home());
        tx.also.sort_unstable();
        tx.also.dedup();
        let tree = &tx.caller.tree;
        let named = |row: &GrantRow| {
            format!("{}: {} at {}", row.public_id, row.role, grant_places::recorded(tree, row))
        };
        let recorded: Vec<String> = rows.iter().skip(1).map(named).collect();
        let mut shown = show_all(tx, rows, None).await?.into_iter();
        let gone = || ServiceError::Internal("a visible grant cannot be shown".to_owned());
        let grant = shown.next().ok_or_else(gone)?;
        tx.before = Some(serde_json::json!({ "grant": &grant, "also_ended": recorded }));
        let told = |one: Grant| {
            let place = one.zone.map(|zone| format!("zone {zone}")).or(one.customer).unwrap_or_default();
            format!("{} of {} at {place}", one.role, one.holder.unwrap_or_default())
        };
        Ok(Revoked { grant, also_ended: shown.map(told).collect() })
    }
}

macro_rules! grants_to {
    ($kind:ident, $find:ident, $grant:ident, $grant_name:literal, $grant_path:literal, $grant_summary:literal,
     $revoke:ident, $revoke_name:literal, $revoke_path:literal, $revoke_summary:literal) => {
        /// Grants a role.
        pub(in crate::service) struct $grant;

        impl Operate for $grant {
            declare! { $grant_name, Post, $grant_path, AdministratorGrant, changes, $grant_summary }
            type Request = GrantRequest;
            type Response = Grant;
            type Target = HolderAt;

            async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a GrantRequest) -> Result<HolderAt> {
                let (customer, zone) = (request.customer.as_deref(), request.zone.as_deref());
                let at = GrantPlace::find(tx, customer, zone).await?;
                Ok(HolderAt { holder: OneHolder::$kind($find::find(tx, &request.name).await?), at })
            }

            async fn needs<'a>(
                tx: &'a mut Tx<'_>,
                target: &'a HolderAt,
                request: &'a GrantRequest,
            ) -> Result<Vec<Need>> {
                target.needs(tx, request).await
            }

            async fn run(tx: &mut Tx<'_>, target: HolderAt, request: GrantRequest) -> Result<Grant> {
                target.run(tx, request).await
            }
        }

        /// Takes a role away.
        pub(in crate::service) struct $revoke;

        impl Operate for $revoke {
            declare! { $revoke_name, Delete, $revoke_path, AdministratorGrant, changes, $revoke_summary }
            type Request = RevokeRequest;
            type Response = Revoked;
            type Target = SomeGrants;

            async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RevokeRequest) -> Result<SomeGrants> {
                let holder = OneHolder::$kind($find::find(tx, &request.name).await?);
                SomeGrants::find(tx, holder, request).await
            }

            async fn needs<'a>(
                tx: &'a mut Tx<'_>,
                target: &'a SomeGrants,
                request: &'a RevokeRequest,
            ) -> Result<Vec<Need>> {
                target.needs(tx, request).await
            }

            async fn run(tx: &mut Tx<'_>, target: SomeGrants, request: RevokeRequest) -> Result<Revoked> {
                target.run(tx, request).await
            }
        }
    };
}

grants_to! {
    Administrator, OneAdministrator,
    AdministratorGrant, "administrator.grant", "/v1/administrators/{name}/grants",
    "Grant an administrator a role at a customer",
    AdministratorRevoke, "administrator.revoke", "/v1/administrators/{name}/grants/{role}",
    "End an administrator's role at a customer"
}

grants_to! {
    Group, OneGroup,
    GroupGrant, "group.grant", "/v1/groups/{name}/grants", "Grant a group of administrators a role at a customer",
    GroupRevoke, "group.revoke", "/v1/groups/{name}/grants/{role}", "End a group's role at a customer"
}
