//! Zones: rights over named mail stores and servers.
//!
//! A grant in a zone gives those permissions of its role that are about a mail store or a server
//! ([`PermissionSet::ZONED`]), for the stores and servers in the zone. It is at no customer: whoever has no other grant
//! sees no customer, and what has no such target (certificates, backups, zones themselves) is not reached by it.
//! Ceilings don't touch it, as they touch nothing of `system.*`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::caller::{counts, granted};
use super::permission::{Permission, PermissionSet};
use super::tree::Tree;
use crate::base::clock::Timestamp;
use crate::base::id::{StoreId, ZoneId};
use crate::service::error::Result;
use crate::storage::metadata::grant::GrantRow;
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::zone::{self, Members};

/// A grant in a zone that counts now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::service) struct ZoneGrant {
    /// In which.
    pub zone: ZoneId,
    /// The zone's name.
    pub name: String,
    /// What.
    pub permissions: PermissionSet,
    /// What of it may be passed on: all or nothing.
    pub passes: PermissionSet,
    /// Until when; nothing means for good.
    pub expires_at: Option<Timestamp>,
}

impl ZoneGrant {
    /// The grant, if it is one in a zone and counts at `now`.
    pub fn of(tree: &Tree, row: &GrantRow, now: Timestamp) -> Option<Self> {
        let zone = row.zone.as_ref().filter(|_| counts(tree, row, now))?;
        let permissions = granted(tree, row);
        let passes = if row.delegable { permissions } else { PermissionSet::EMPTY };
        let (name, expires_at) = (zone.name.clone(), row.expires_at);
        Some(Self { zone: zone.id, name, permissions, passes, expires_at })
    }
}

/// Somebody's grants in zones, with what is in those zones.
#[derive(Clone, Default, Debug)]
pub(in crate::service) struct Zones {
    grants: Vec<ZoneGrant>,
    members: Arc<BTreeMap<ZoneId, Members>>,
}

impl Zones {
    /// These grants, and what is in their zones.
    pub fn new(grants: Vec<ZoneGrant>, members: BTreeMap<ZoneId, Members>) -> Self {
        Self { grants, members: Arc::new(members) }
    }

    /// Those of `rows` that count at `now`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn read(conn: &mut Conn, tree: &Tree, rows: &[GrantRow], now: Timestamp) -> Result<Self> {
        let grants: Vec<ZoneGrant> = rows.iter().filter_map(|row| ZoneGrant::of(tree, row, now)).collect();
        if grants.is_empty() {
            return Ok(Self::default());
        }
        let zones: BTreeSet<ZoneId> = grants.iter().map(|grant| grant.zone).collect();
        let zones: Vec<ZoneId> = zones.into_iter().collect();
        Ok(Self::new(grants, zone::members(conn, &zones).await?))
    }

    /// Leaves only these permissions.
    pub fn confine(&mut self, only: PermissionSet) {
        for grant in &mut self.grants {
            grant.permissions = grant.permissions.intersection(only);
            grant.passes = grant.passes.intersection(only);
        }
    }

    /// The grants.
    pub fn grants(&self) -> &[ZoneGrant] {
        &self.grants
    }

    /// Whether any grant is in this zone.
    pub fn knows(&self, zone: ZoneId) -> bool {
        self.grants.iter().any(|grant| grant.zone == zone)
    }

    /// Whether a grant in this zone gives the permission.
    pub fn may(&self, zone: ZoneId, permission: Permission) -> bool {
        self.grants.iter().any(|grant| grant.zone == zone && grant.permissions.has(permission))
    }

    /// What may be passed on in this zone until `until` (nothing: for good).
    pub fn delegable(&self, zone: ZoneId, until: Option<Timestamp>) -> PermissionSet {
        let lasts = |end: Option<Timestamp>| end.is_none_or(|end| until.is_some_and(|until| until <= end));
        let lasting = self.grants.iter().filter(|grant| grant.zone == zone && lasts(grant.expires_at));
        lasting.fold(PermissionSet::EMPTY, |set, grant| set.union(grant.passes))
    }

    /// A zone in which the permission is held, whatever is in it.
    pub fn any(&self, permission: Permission) -> Option<ZoneId> {
        self.holding(permission).map(|grant| grant.zone).next()
    }

    /// A zone with this mail store in it in which the permission is held.
    pub fn of_store(&self, store: StoreId, permission: Permission) -> Option<ZoneId> {
        self.first(permission, |members| members.stores.contains(&store))
    }

    /// A zone with this server in it in which the permission is held.
    pub fn of_node(&self, node: &str, permission: Permission) -> Option<ZoneId> {
        self.first(permission, |members| members.nodes.contains(node))
    }

    /// The mail stores over which the permission is held.
    pub fn stores(&self, permission: Permission) -> BTreeSet<StoreId> {
        let members = self.holding(permission).filter_map(|grant| self.members.get(&grant.zone));
        members.flat_map(|members| members.stores.iter().copied()).collect()
    }

    fn holding(&self, permission: Permission) -> impl Iterator<Item = &ZoneGrant> {
        self.grants.iter().filter(move |grant| grant.permissions.has(permission))
    }

    fn first(&self, permission: Permission, has: impl Fn(&Members) -> bool) -> Option<ZoneId> {
        let mut zones = self.holding(permission).map(|grant| grant.zone);
        zones.find(|zone| self.members.get(zone).is_some_and(&has))
    }
}
