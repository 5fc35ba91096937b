//! Who holds what where, and what it comes to.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::grants::{Grant, holders, show_grant};
use super::page::{Cursors, Page, limit};
use super::scope::Place;
use super::targets::{OneAdministrator, OneCustomer};
use crate::base::id::{CustomerId, ZoneId};
use crate::service::authority::{Held, PermissionSet, Tree, ZoneGrant, delegable, given};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Operate, Targeted, Tx, declare};
use crate::storage::metadata::grant;

/// Which grants to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct GrantListRequest {
    /// At this customer and those below; default: everywhere the caller may.
    customer: Option<String>,
    /// Made by this administrator, who may be deleted: `name@CODE`.
    made_by: Option<String>,
    /// Most grants, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `grant.list`: who holds what where.
pub(in crate::service) struct GrantList;

impl Operate for GrantList {
    declare! { "grant.list", Get, "/v1/grants", AdministratorRead, reads,
    "List grants with their holders, the oldest first; only those of one maker if asked" }
    type Request = GrantListRequest;
    type Response = Page<Grant>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a GrantListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: GrantListRequest) -> Result<Page<Grant>> {
        let limit = limit(request.limit)?;
        let filter = GrantListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let maker = match request.made_by.as_deref() {
            None => None,
            Some(login) => match OneAdministrator::find(tx, login).await {
                Err(ServiceError::NotFound { .. }) => {
                    Some(OneAdministrator::find_deleted(tx, login).await?.row.id)
                }
                found => Some(found?.row.id),
            },
        };
        let rows = grant::page(tx.conn, &target.customers(tx), maker, after, limit + 1).await?;
        let names = holders(tx, &rows).await?;
        // Every customer asked for is visible, so that every grant can be shown.
        let mut page = Page::cut(
            rows,
            limit,
            &cursors,
            |row| row.id.0,
            |row| {
                let holder = names.get(&row.holder).cloned();
                show_grant(tx, row, holder)
            },
        )?;
        let items = page.items.drain(..).flatten().collect();
        Ok(Page { items, cursor: page.cursor })
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

/// An administrator and a customer.
pub(in crate::service) struct AdministratorAt {
    one: OneAdministrator,
    at: OneCustomer,
}

impl Targeted for AdministratorAt {
    fn customer(&self) -> CustomerId {
        self.at.id
    }

    fn label(&self) -> String {
        format!("{} at {}", self.one.label(), self.at.label())
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("{} at {}", self.one.recorded(tree), self.at.recorded(tree))
    }
}

/// What somebody may somewhere.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Effective {
    name: String,
    customer: String,
    permissions: Vec<String>,
    /// Those of them that may be passed on for good.
    delegable: Vec<String>,
    /// What grants give and ceilings take away again.
    withheld: Vec<String>,
    /// What besides over the mail stores and servers of zones, as far as the caller knows these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    zones: Vec<HeldInZone>,
}

/// What somebody may in a zone.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct HeldInZone {
    zone: String,
    permissions: Vec<String>,
    /// Those of them that may be passed on for good.
    delegable: Vec<String>,
}

/// What these grants come to, zone by zone.
fn in_zones<'g>(held: &Held, known: impl Iterator<Item = &'g ZoneGrant>) -> Vec<HeldInZone> {
    let mut zones: BTreeMap<&str, (ZoneId, PermissionSet)> = BTreeMap::new();
    for grant in known {
        let (_, set) = zones.entry(&grant.name).or_insert((grant.zone, PermissionSet::EMPTY));
        *set = set.union(grant.permissions);
    }
    let shown = zones.into_iter().map(|(zone, (id, set))| HeldInZone {
        zone: zone.to_owned(),
        permissions: set.names(),
        delegable: held.zones.delegable(id, None).names(),
    });
    shown.collect()
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
        Ok(AdministratorAt { one: OneAdministrator::find(tx, &request.name).await?, at })
    }

    async fn run(tx: &mut Tx<'_>, target: AdministratorAt, _: EffectiveRequest) -> Result<Effective> {
        let AdministratorAt { one, at } = target;
        let tree = Arc::clone(&tx.caller.tree);
        // Grants above what the caller sees are not told of, nor what they give.
        let mut held = Held::read(tx.conn, &tree, one.row.id, tx.now).await?;
        held.grants.retain(|grant| one.row.enabled && tx.caller.sees(grant.customer));
        let sees_all = tree.root().is_some_and(|root| tx.caller.sees(root.id));
        let is_known = |grant: &&ZoneGrant| sees_all || tx.caller.zones.knows(grant.zone);
        let known = held.zones.grants().iter().filter(|_| one.row.enabled).filter(is_known);
        let zones = in_zones(&held, known);
        let grants = held.grants;
        let set = given(&tree, &grants, at.id);
        let allowed = tree.node(at.id).map(|node| node.allowed).unwrap_or_default();
        let permissions = set.intersection(allowed);
        Ok(Effective {
            name: one.login,
            customer: at.path,
            delegable: delegable(&tree, &grants, at.id, None).intersection(permissions).names(),
            permissions: permissions.names(),
            withheld: set.without(allowed).names(),
            zones,
        })
    }
}
