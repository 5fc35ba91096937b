//! What one caller may, as its transaction sees it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::permission::{Permission, PermissionSet};
use super::role::{Role, custom_permissions};
use super::tree::{CustomerNode, Tree};
use super::zone::Zones;
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId};
use crate::service::context::Identity;
use crate::service::error::{Result, ServiceError};
use crate::service::settings::{self, CONTENT_PERMANENT_ALLOWED};
use crate::storage::metadata::grant::{self, GrantRow, Holder};
use crate::storage::metadata::sql::Conn;

/// How long a grant of access to content lasts at most, unless the root allows permanent ones there.
pub(in crate::service) const CONTENT_LASTS_MAX: Duration = Duration::from_secs(30 * 86_400);

/// A grant that counts now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service) struct ActiveGrant {
    /// Where.
    pub customer: CustomerId,
    /// What, before ceilings.
    pub permissions: PermissionSet,
    /// What of it may be passed on: all or nothing; a system administrator says besides who has access to content.
    pub passes: PermissionSet,
    /// Until when; nothing means for good.
    pub expires_at: Option<Timestamp>,
}

impl ActiveGrant {
    /// What a grant gives, if it counts now.
    pub(super) fn new(
        tree: &Tree,
        (customer, permissions): (CustomerId, PermissionSet),
        delegable: bool,
        expires_at: Option<Timestamp>,
    ) -> Self {
        let permissions = permissions_at(tree, permissions, customer);
        let decides_on_content = permissions.has(Permission::SystemRoot);
        let more = if decides_on_content { PermissionSet::CONTENT } else { PermissionSet::EMPTY };
        let passes = if delegable { permissions.union(more) } else { PermissionSet::EMPTY };
        Self { customer, permissions, passes, expires_at }
    }

    /// Whether it may be passed on.
    pub fn is_delegable(&self) -> bool {
        !self.passes.is_empty()
    }

    /// Whether it may be passed on until `until` (nothing: for good).
    fn lasts(&self, until: Option<Timestamp>) -> bool {
        self.expires_at.is_none_or(|expiry| until.is_some_and(|until| until <= expiry))
    }
}

/// What a set of permissions gives at a customer: what concerns the servers only at the root.
pub(in crate::service) fn permissions_at(
    tree: &Tree,
    permissions: PermissionSet,
    at: CustomerId,
) -> PermissionSet {
    let is_root = tree.root().is_some_and(|root| root.id == at);
    if is_root { permissions } else { permissions.without(PermissionSet::SYSTEM) }
}

/// What of a set of permissions a grant gives at a customer, or in a zone.
pub(in crate::service) fn counting(
    tree: &Tree,
    permissions: PermissionSet,
    at: CustomerId,
    is_in_zone: bool,
) -> PermissionSet {
    if is_in_zone {
        return permissions.intersection(PermissionSet::ZONED);
    }
    permissions_at(tree, permissions, at)
}

/// What a grant gives where it counts, whether it counts now or not, and before ceilings.
pub(in crate::service) fn granted(tree: &Tree, row: &GrantRow) -> PermissionSet {
    let role = match &row.custom {
        // A role counts at its customer and below, nowhere else.
        Some(role) if tree.covers(role.customer, row.customer) => {
            custom_permissions(&role.base, &role.permissions)
        }
        Some(_) => PermissionSet::EMPTY,
        None => Role::by_name(&row.role).map(Role::permissions).unwrap_or_default(),
    };
    counting(tree, role, row.customer, row.zone.is_some())
}

/// From when a grant counts, at the earliest.
pub(in crate::service) fn begins_at(row: &GrantRow) -> Timestamp {
    row.not_before.unwrap_or(row.created_at).max(row.created_at)
}

/// Whether a grant from `from` to `until` is so short that it may give access to content anywhere.
pub(in crate::service) fn is_brief(from: Timestamp, until: Option<Timestamp>) -> bool {
    until.is_some_and(|until| until <= from.plus(CONTENT_LASTS_MAX))
}

/// What decides on grants besides themselves.
#[derive(Clone, Default, Debug)]
pub(in crate::service) struct Standing {
    /// Customers where grants give access to content that are not brief.
    pub content_permanent: BTreeSet<CustomerId>,
}

impl Standing {
    /// What decides on these grants.
    pub async fn of(conn: &mut Conn, tree: &Tree, rows: &[GrantRow]) -> Result<Self> {
        let mut content_permanent = BTreeSet::new();
        for row in rows.iter().filter(|row| !is_brief(begins_at(row), row.expires_at)) {
            let has_content = !granted(tree, row).intersection(PermissionSet::CONTENT).is_empty();
            if has_content && settings::value(conn, row.customer, &CONTENT_PERMANENT_ALLOWED).await?.0 {
                content_permanent.insert(row.customer);
            }
        }
        Ok(Self { content_permanent })
    }
}

/// An identity with its grants.
#[derive(Clone, Debug)]
pub(in crate::service) struct Caller {
    pub identity: Identity,
    /// Those at customers.
    pub grants: Vec<ActiveGrant>,
    /// Those in zones: they make no customer visible.
    pub zones: Zones,
    pub tree: Arc<Tree>,
}

impl Caller {
    /// Reads what `identity` may now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(conn: &mut Conn, tree: Arc<Tree>, identity: Identity, now: Timestamp) -> Result<Self> {
        let Held { grants, zones } = match &identity {
            Identity::System => Held { grants: system_grants(&tree), zones: Zones::default() },
            Identity::Administrator { id, .. } => Held::read(conn, &tree, *id, now).await?,
            Identity::Invited { .. } => Held::default(),
        };
        Ok(Self { identity, grants, zones, tree })
    }

    /// Somebody who is not logged in and sees a customer with what is below, or nothing; for texts in their view.
    pub fn looking_on(tree: Arc<Tree>, place: Option<CustomerId>, permissions: PermissionSet) -> Self {
        let passes = PermissionSet::EMPTY;
        let grant = |customer| ActiveGrant { customer, permissions, passes, expires_at: None };
        let (grants, zones) = (place.map(grant).into_iter().collect(), Zones::default());
        Self { identity: Identity::System, grants, zones, tree }
    }

    /// The same caller, confined to these permissions if any are given. What it sees stays.
    #[must_use]
    pub fn confined(mut self, only: Option<PermissionSet>) -> Self {
        if let Some(only) = only {
            for grant in &mut self.grants {
                grant.permissions = grant.permissions.intersection(only);
                grant.passes = grant.passes.intersection(only);
            }
            self.zones.confine(only);
        }
        self
    }

    /// What the caller may at the node.
    pub fn effective(&self, node: CustomerId) -> PermissionSet {
        effective(&self.tree, &self.grants, node)
    }

    /// What a grant gives the caller where it counts.
    pub fn given(&self, grant: &ActiveGrant) -> PermissionSet {
        let allowed = self.tree.node(grant.customer).map(|node| node.allowed).unwrap_or_default();
        grant.permissions.intersection(allowed)
    }

    /// What the caller may pass on at the node until `until` (nothing: for good). Ceilings don't matter here: they
    /// are the same for whoever gets it, and when one is lifted, nobody has more than the giver.
    pub fn delegable(&self, node: CustomerId, until: Option<Timestamp>) -> PermissionSet {
        delegable(&self.tree, &self.grants, node, until)
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
            Identity::Invited { address, .. } => address.clone(),
        }
    }

    /// The administrator's key.
    pub fn administrator(&self) -> Option<AdministratorId> {
        match &self.identity {
            Identity::System | Identity::Invited { .. } => None,
            Identity::Administrator { id, .. } => Some(*id),
        }
    }

    /// Where the caller is at home; the system at the root, who is invited where that is.
    pub fn home(&self) -> Option<CustomerId> {
        match &self.identity {
            Identity::System => self.tree.root().map(|root| root.id),
            Identity::Administrator { home, .. } => Some(*home),
            Identity::Invited { customer, .. } => Some(*customer),
        }
    }
}

fn system_grants(tree: &Tree) -> Vec<ActiveGrant> {
    let everything =
        |root: &CustomerNode| ActiveGrant::new(tree, (root.id, Role::SystemAdmin.permissions()), true, None);
    tree.root().map(everything).into_iter().collect()
}

/// The grants at the node or above.
fn covering<'a>(
    tree: &'a Tree,
    grants: &'a [ActiveGrant],
    node: &CustomerNode,
) -> impl Iterator<Item = &'a ActiveGrant> {
    let at = node.enter;
    grants.iter().filter(move |grant| {
        tree.node(grant.customer).is_some_and(|place| place.enter <= at && at < place.exit)
    })
}

/// The union over the grants at the node or above, of which the ceilings on its path leave something.
pub(super) fn effective(tree: &Tree, grants: &[ActiveGrant], node: CustomerId) -> PermissionSet {
    let allowed = tree.node(node).map(|node| node.allowed).unwrap_or_default();
    given(tree, grants, node).intersection(allowed)
}

/// The union over the grants at the node or above, before ceilings.
pub(in crate::service) fn given(tree: &Tree, grants: &[ActiveGrant], node: CustomerId) -> PermissionSet {
    let Some(node) = tree.node(node) else { return PermissionSet::EMPTY };
    let covering = covering(tree, grants, node);
    covering.fold(PermissionSet::EMPTY, |set, grant| set.union(grant.permissions))
}

/// What these grants let pass on at the node until `until`.
pub(in crate::service) fn delegable(
    tree: &Tree,
    grants: &[ActiveGrant],
    node: CustomerId,
    until: Option<Timestamp>,
) -> PermissionSet {
    let Some(node) = tree.node(node) else { return PermissionSet::EMPTY };
    let lasting = covering(tree, grants, node).filter(|grant| grant.lasts(until));
    lasting.fold(PermissionSet::EMPTY, |set, grant| set.union(grant.passes))
}

/// The grants of an administrator that count now, its own and those of its groups.
#[derive(Clone, Default, Debug)]
pub(in crate::service) struct Held {
    /// Those at customers.
    pub grants: Vec<ActiveGrant>,
    /// Those in zones.
    pub zones: Zones,
}

impl Held {
    /// Reads them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(
        conn: &mut Conn,
        tree: &Tree,
        administrator: AdministratorId,
        now: Timestamp,
    ) -> Result<Self> {
        let rows = grant::held_by(conn, administrator).await?;
        let standing = Standing::of(conn, tree, &rows).await?;
        let grants = rows.iter().filter_map(|row| activate(tree, row, &standing, now)).collect();
        Ok(Self { grants, zones: Zones::read(conn, tree, &rows, now).await? })
    }
}

/// Whether a grant counts at `now`.
pub(super) fn counts(tree: &Tree, row: &GrantRow, now: Timestamp) -> bool {
    let is_in_time =
        row.not_before.is_none_or(|start| start <= now) && row.expires_at.is_none_or(|end| now < end);
    let is_gone = |customer: CustomerId| tree.node(customer).is_none_or(|node| node.is_gone);
    let is_held = tree.node(row.customer).is_some_and(|node| node.is_stopped);
    let is_group_gone = matches!(row.holder, Holder::Group(_)) && is_gone(row.home);
    let is_stopped = is_held || is_gone(row.customer) || is_group_gone;
    is_in_time && !is_stopped && (row.custom.is_some() || Role::by_name(&row.role).is_some())
}

/// The grant, if it is one at a customer and counts at `now`.
pub(in crate::service) fn activate(
    tree: &Tree,
    row: &GrantRow,
    standing: &Standing,
    now: Timestamp,
) -> Option<ActiveGrant> {
    if row.zone.is_some() || !counts(tree, row, now) {
        return None;
    }
    let mut permissions = granted(tree, row);
    let is_permanent = standing.content_permanent.contains(&row.customer);
    if !is_permanent && !is_brief(begins_at(row), row.expires_at) {
        permissions = permissions.without(PermissionSet::CONTENT);
    }
    Some(ActiveGrant::new(tree, (row.customer, permissions), row.delegable, row.expires_at))
}
