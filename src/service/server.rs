//! The servers: the nodes that run the instance, what they use, and how they are restarted and stopped.

pub mod meter;
pub(in crate::service) mod nodes;
pub mod orders;
#[cfg(test)]
mod tests;

use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Targeted, Tx};
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
}

impl OneNode {
    /// The node of this name, or the one that answers. That a node does not exist is told only to who may see the
    /// servers: whoever may not gets one answer for all names.
    pub async fn find(tx: &mut Tx<'_>, name: Option<&str>) -> Result<Self> {
        let own = || tx.inner.bodies.get().map(|bodies| bodies.node().id.clone());
        let name = name.map(str::to_owned).or_else(own).unwrap_or_default();
        let place = Installation::of(tx, &format!("server {name}"))?;
        let may = tx.caller.may(Some(place.customer()), Permission::SystemServerRead);
        let row = if may { node::find(tx.conn, &name).await? } else { None };
        Ok(Self { place, name, row })
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
}
