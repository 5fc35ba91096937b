//! Where grants count: at a customer and all below it, or for the mail stores and servers of a zone.

use super::targets::OneCustomer;
use crate::base::id::{CustomerId, ZoneId};
use crate::service::audit::names;
use crate::service::authority::{PermissionSet, Tree, counting};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Targeted, Tx};
use crate::service::zones::OneZone;
use crate::storage::metadata::grant::GrantRow;

/// A place where roles are granted.
pub(in crate::service) enum GrantPlace {
    Customer(OneCustomer),
    Zone(OneZone),
}

impl GrantPlace {
    /// The one that a request names: a customer, or a zone.
    ///
    /// # Errors
    /// `NotFound` when it is not there or not visible; `Invalid` unless exactly one is named.
    pub async fn find(tx: &mut Tx<'_>, customer: Option<&str>, zone: Option<&str>) -> Result<Self> {
        match (customer, zone) {
            (Some(path), None) => OneCustomer::find(tx, path).map(Self::Customer),
            (None, Some(name)) => OneZone::find(tx, name).await.map(Self::Zone),
            _ => {
                let message = "expected either a customer or a zone".to_owned();
                Err(ServiceError::Invalid { field: "customer", message })
            }
        }
    }

    /// The zone.
    pub fn zone(&self) -> Option<ZoneId> {
        match self {
            Self::Customer(_) => None,
            Self::Zone(zone) => Some(zone.row.id),
        }
    }

    /// What of these permissions counts there.
    pub fn counting(&self, tree: &Tree, permissions: PermissionSet) -> PermissionSet {
        counting(tree, permissions, self.customer(), self.zone().is_some())
    }

    /// Whether a grant is at this place.
    pub fn has(&self, row: &GrantRow) -> bool {
        row.customer == self.customer() && row.zone.as_ref().map(|zone| zone.id) == self.zone()
    }
}

impl Targeted for GrantPlace {
    fn customer(&self) -> CustomerId {
        match self {
            Self::Customer(one) => one.id,
            Self::Zone(zone) => zone.customer(),
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Customer(one) => one.label(),
            Self::Zone(zone) => zone.label(),
        }
    }

    fn recorded(&self, tree: &Tree) -> String {
        match self {
            Self::Customer(one) => one.recorded(tree),
            Self::Zone(zone) => zone.recorded(tree),
        }
    }

    fn is_in_zone(&self) -> bool {
        matches!(self, Self::Zone(zone) if zone.is_in_zone())
    }
}

/// Where a grant counts, as the caller may be told: the path of its customer, or the name of its zone; nothing when the
/// caller sees neither.
pub(super) fn shown(tx: &Tx<'_>, row: &GrantRow) -> Option<(Option<String>, Option<String>)> {
    match &row.zone {
        None => tx.caller.path_of(row.customer).map(|path| (Some(path), None)),
        Some(zone) => {
            let is_visible = tx.caller.sees(row.customer) || tx.caller.zones.knows(zone.id);
            is_visible.then(|| (None, Some(zone.name.clone())))
        }
    }
}

/// As [`shown`], in words: `gov/health`, or `zone east`.
pub(super) fn told(tx: &Tx<'_>, row: &GrantRow) -> Option<String> {
    let (customer, zone) = shown(tx, row)?;
    customer.or_else(|| zone.map(|zone| format!("zone {zone}")))
}

/// As [`told`], for the audit trail.
pub(super) fn recorded(tree: &Tree, row: &GrantRow) -> String {
    match &row.zone {
        None => names::customer(tree, row.customer),
        Some(zone) => format!("zone {}", zone.name),
    }
}
