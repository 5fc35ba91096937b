//! What one caller may, as its transaction sees it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::permission::{Permission, PermissionSet};
use super::role::Role;
use super::tree::{CustomerNode, Tree};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId};
use crate::service::context::Identity;
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::administrator::{self, GrantRow};
use crate::storage::metadata::hold;
use crate::storage::metadata::sql::Conn;

/// A grant that counts now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service) struct ActiveGrant {
    /// Where.
    pub customer: CustomerId,
    /// What.
    pub permissions: PermissionSet,
    /// Whether it may be passed on.
    pub delegable: bool,
    /// Until when; nothing means for good.
    pub expires_at: Option<Timestamp>,
}

/// An identity with its grants.
#[derive(Clone, Debug)]
pub(in crate::service) struct Caller {
    pub identity: Identity,
    pub grants: Vec<ActiveGrant>,
    pub tree: Arc<Tree>,
}

impl Caller {
    /// Reads what `identity` may now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(conn: &mut Conn, tree: Arc<Tree>, identity: Identity, now: Timestamp) -> Result<Self> {
        let grants = match &identity {
            Identity::System => system_grants(&tree),
            Identity::Administrator { id, .. } => active_grants(conn, &tree, *id, now).await?,
        };
        Ok(Self { identity, grants, tree })
    }

    /// Somebody who is not logged in and sees a customer with what is below, or nothing; for texts in their view.
    pub fn looking_on(tree: Arc<Tree>, place: Option<CustomerId>, permissions: PermissionSet) -> Self {
        let grant = |customer| ActiveGrant { customer, permissions, delegable: false, expires_at: None };
        Self { identity: Identity::System, grants: place.map(grant).into_iter().collect(), tree }
    }

    /// The same caller, confined to these permissions if any are given. What it sees stays.
    #[must_use]
    pub fn confined(mut self, only: Option<PermissionSet>) -> Self {
        if let Some(only) = only {
            for grant in &mut self.grants {
                grant.permissions = grant.permissions.intersection(only);
            }
        }
        self
    }

    /// What the caller may at the node.
    pub fn effective(&self, node: CustomerId) -> PermissionSet {
        effective(&self.tree, &self.grants, node)
    }

    /// What the caller may pass on at the node until `until` (nothing: for good).
    pub fn delegable(&self, node: CustomerId, until: Option<Timestamp>) -> PermissionSet {
        let lasting = |grant: &&ActiveGrant| {
            grant.delegable
                && grant.expires_at.is_none_or(|expiry| until.is_some_and(|until| until <= expiry))
        };
        let covering = self.grants.iter().filter(|grant| self.tree.covers(grant.customer, node));
        covering.filter(lasting).fold(PermissionSet::EMPTY, |set, grant| set.union(grant.permissions))
    }

    /// Whether the caller has this permission at the node; nothing means above the root.
    pub fn may(&self, at: Option<CustomerId>, permission: Permission) -> bool {
        match at {
            Some(node) => permission == Permission::Own || self.effective(node).has(permission),
            None => self.tree.root().is_some_and(|root| self.effective(root.id).has(Permission::SystemRoot)),
        }
    }

    /// Whether the caller may know that the node exists.
    pub fn sees(&self, node: CustomerId) -> bool {
        self.grants.iter().any(|grant| self.tree.covers(grant.customer, node))
    }

    /// The topmost nodes that the caller may see, in the tree's order.
    pub fn tops(&self) -> Vec<&CustomerNode> {
        let places: BTreeSet<CustomerId> = self.grants.iter().map(|grant| grant.customer).collect();
        let is_top = |place: &CustomerId| {
            !places.iter().any(|other| other != place && self.tree.covers(*other, *place))
        };
        places.iter().filter(|place| is_top(place)).filter_map(|place| self.tree.node(*place)).collect()
    }

    /// The path of a node from the topmost node that the caller may see; `/` for the root itself, and nothing for
    /// what the caller does not see. Below the root its own name is left out.
    pub fn path_of(&self, node: CustomerId) -> Option<String> {
        let tops = self.tops();
        let top = tops.iter().find(|top| self.tree.covers(top.id, node))?;
        if top.parent.is_none() {
            let below: Vec<&str> =
                self.tree.path(node).into_iter().skip(1).map(|node| node.slug.as_str()).collect();
            return Some(if below.is_empty() { "/".to_owned() } else { below.join("/") });
        }
        let ambiguous = tops.iter().filter(|other| other.slug == top.slug).count() > 1;
        let first = if ambiguous { top.code.as_str() } else { top.slug.as_str() };
        let path = self.tree.path(node);
        let below = path.iter().skip(top.depth + 1).map(|node| node.slug.as_str());
        Some(std::iter::once(first).chain(below).collect::<Vec<_>>().join("/"))
    }

    /// The visible customer that `path` names: a path as [`Self::path_of`] gives it, or one that begins with a short
    /// code.
    ///
    /// # Errors
    /// [`ServiceError::NotFound`], whether it does not exist or is not visible.
    pub fn resolve(&self, path: &str) -> Result<&CustomerNode> {
        let absent = || ServiceError::NotFound { what: format!("customer {path}") };
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let tops = self.tops();
        let root = tops.iter().copied().find(|top| top.parent.is_none());
        let Some(first) = segments.next() else { return root.ok_or_else(absent) };
        let by_slug = || match root {
            Some(root) => self.tree.child(root.id, first),
            None => {
                let mut named = tops.iter().copied().filter(|top| top.slug == first && !top.deleted);
                named.next().filter(|_| named.next().is_none())
            }
        };
        let mut node = by_slug().or_else(|| self.by_code(first)).ok_or_else(absent)?;
        for segment in segments {
            node = self.tree.child(node.id, segment).ok_or_else(absent)?;
        }
        Ok(node)
    }

    /// Like [`Self::resolve`], but goes through deleted customers too; of several of one name the newest.
    pub fn resolve_with_deleted(&self, path: &str) -> Option<CustomerId> {
        if let Ok(node) = self.resolve(path) {
            return Some(node.id);
        }
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let newest = |parent: CustomerId, slug: &str| {
            let named = self.tree.children(parent).filter(|node| node.slug == slug);
            named.map(|node| node.id).max()
        };
        let first = segments.next()?;
        let tops = self.tops();
        let mut id = match tops.iter().find(|top| top.parent.is_none()) {
            Some(root) => newest(root.id, first)?,
            None => tops.iter().find(|top| top.slug == first).map(|top| top.id)?,
        };
        for segment in segments {
            id = newest(id, segment)?;
        }
        Some(id)
    }

    /// The visible customer with this short code that is not deleted.
    pub fn by_code(&self, code: &str) -> Option<&CustomerNode> {
        let id = self.tree.by_code(code)?;
        self.tree.node(id).filter(|node| !node.deleted && self.sees(node.id))
    }

    /// Name for the audit trail.
    pub fn name(&self) -> String {
        match &self.identity {
            Identity::System => "system".to_owned(),
            Identity::Administrator { home, name, .. } => match self.tree.node(*home) {
                Some(node) => format!("{name}@{}", node.code),
                None => name.clone(),
            },
        }
    }

    /// The administrator's key.
    pub fn administrator(&self) -> Option<AdministratorId> {
        match &self.identity {
            Identity::System => None,
            Identity::Administrator { id, .. } => Some(*id),
        }
    }

    /// Where the caller is at home; the system at the root.
    pub fn home(&self) -> Option<CustomerId> {
        match &self.identity {
            Identity::System => self.tree.root().map(|root| root.id),
            Identity::Administrator { home, .. } => Some(*home),
        }
    }
}

fn system_grants(tree: &Tree) -> Vec<ActiveGrant> {
    let everything = |root: &CustomerNode| ActiveGrant {
        customer: root.id,
        permissions: Role::SystemAdmin.permissions(),
        delegable: true,
        expires_at: None,
    };
    tree.root().map(everything).into_iter().collect()
}

/// The union over the grants at the node or above.
pub(super) fn effective(tree: &Tree, grants: &[ActiveGrant], node: CustomerId) -> PermissionSet {
    let covering = grants.iter().filter(|grant| tree.covers(grant.customer, node));
    covering.fold(PermissionSet::EMPTY, |set, grant| set.union(grant.permissions))
}

/// The grants of an administrator that count now.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn active_grants(
    conn: &mut Conn,
    tree: &Tree,
    administrator: AdministratorId,
    now: Timestamp,
) -> Result<Vec<ActiveGrant>> {
    let rows = administrator::grants_of(conn, administrator).await?;
    let places: BTreeSet<i64> =
        rows.iter().flat_map(|row| tree.path(row.customer)).map(|node| node.id.0).collect();
    let held =
        if places.is_empty() { Vec::new() } else { hold::customers_with(conn, "manage", places).await? };
    Ok(rows.iter().filter_map(|row| activate(tree, row, &held, now)).collect())
}

/// The grant if it counts at `now`, with `manage` holds at `held`.
pub(super) fn activate(
    tree: &Tree,
    row: &GrantRow,
    held: &[CustomerId],
    now: Timestamp,
) -> Option<ActiveGrant> {
    let in_time =
        row.not_before.is_none_or(|start| start <= now) && row.expires_at.is_none_or(|end| now < end);
    let path = tree.path(row.customer);
    let stopped = path.is_empty() || path.iter().any(|node| node.deleted || held.contains(&node.id));
    let mut permissions = Role::by_name(&row.role)?.permissions();
    if tree.root().is_none_or(|root| root.id != row.customer) {
        permissions = Permission::ALL
            .iter()
            .filter(|permission| !permission.is_system() && permissions.has(**permission))
            .fold(PermissionSet::EMPTY, |set, permission| set.union(PermissionSet::of(&[*permission])));
    }
    (in_time && !stopped).then_some(ActiveGrant {
        customer: row.customer,
        permissions,
        delegable: row.delegable,
        expires_at: row.expires_at,
    })
}
