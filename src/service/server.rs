//! The servers: the nodes that run the instance, what they use, and how they are restarted and stopped.
//!
//! Who has rights over servers in a zone only finds those; all others are as if they did not exist.

pub mod meter;
pub(in crate::service) mod nodes;
pub mod orders;
#[cfg(test)]
mod tests;

use crate::base::id::{CustomerId, ZoneId};
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Targeted, Tx};
use crate::storage::metadata::node::{self, NodeRow};

/// The whole installation: it belongs to the root.
pub(in crate::service) struct Installation {
    root: CustomerId,
    label: String,
}

impl Installation {
    /// With a name for the audit trail.
    pub fn of(tx: &Tx<'_>, label: &str) -> Result<Self> {
        let root = tx.caller.tree.root().map(|root| root.id);
        let root = root.ok_or_else(|| ServiceError::Internal("the hierarchy has no root".to_owned()))?;
        Ok(Self { root, label: label.to_owned() })
    }

    /// What is needed for a list of what is there: the permission, be it in some zone only.
    pub fn needs_of_list(&self, tx: &Tx<'_>, permission: Permission) -> Vec<Need> {
        vec![Need::in_zone(self.root, permission, tx.caller.zones.any(permission))]
    }
}

impl Targeted for Installation {
    fn customer(&self) -> CustomerId {
        self.root
    }

    fn label(&self) -> String {
        self.label.clone()
    }
}

/// The daemon brings its parts one after the other.
pub(in crate::service) fn starting() -> ServiceError {
    ServiceError::Unavailable("the daemon is starting".to_owned())
}

/// One node.
pub(in crate::service) struct OneNode {
    place: Installation,
    name: String,
    row: Option<NodeRow>,
    zone: Option<ZoneId>,
}

impl OneNode {
    /// The node of this name, or the one that answers, for an operation that takes `permission`. That a node does not
    /// exist is told only to who may see the servers, and, as of those elsewhere, to who may see servers in a zone:
    /// whoever may not gets one answer for all names.
    ///
    /// # Errors
    /// `NotFound` for who has rights in zones only, when it is in none of them.
    pub async fn find(tx: &mut Tx<'_>, asked: Option<&str>, permission: Permission) -> Result<Self> {
        let own = || tx.inner.bodies.get().map(|bodies| bodies.node().id.clone());
        let name = asked.map(str::to_owned).or_else(own).unwrap_or_default();
        let root = Installation::of(tx, "")?.root;
        let held = [permission, Permission::SystemServerRead];
        let sees_all = held.iter().any(|&one| tx.caller.may(Some(root), one));
        let zones = &tx.caller.zones;
        let zone = held.iter().find_map(|&one| zones.of_node(&name, one));
        let zone = zone.filter(|_| !tx.caller.may(Some(root), permission));
        if !sees_all && zone.is_none() {
            // The name of the node that answers is not theirs to know.
            let label = format!("server {}", asked.unwrap_or_default());
            if held.iter().any(|&one| zones.any(one).is_some()) {
                return Err(ServiceError::NotFound { what: label.trim_end().to_owned() });
            }
            let place = Installation { root, label: label.trim_end().to_owned() };
            return Ok(Self { place, name, row: None, zone: None });
        }
        let may = zone.is_some() || tx.caller.may(Some(root), Permission::SystemServerRead);
        let row = if may { node::find(tx.conn, &name).await? } else { None };
        let place = Installation { root, label: format!("server {name}") };
        Ok(Self { place, name, row, zone })
    }

    /// What is needed for an operation that takes this permission.
    pub fn needs(&self, permission: Permission) -> Vec<Need> {
        vec![Need::in_zone(self.place.root, permission, self.zone)]
    }

    /// Its row.
    pub fn row(self) -> Result<NodeRow> {
        self.row.ok_or_else(|| ServiceError::NotFound { what: format!("server {}", self.name) })
    }
}

impl Targeted for OneNode {
    fn customer(&self) -> CustomerId {
        self.place.customer()
    }

    fn label(&self) -> String {
        self.place.label()
    }

    fn is_in_zone(&self) -> bool {
        self.zone.is_some()
    }
}
