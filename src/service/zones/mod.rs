//! Zones: named sets of mail stores and servers. A grant in a zone gives rights over those and nothing else
//! (`authority/zone.rs`). What is in a zone, and that there is one, is said at the root.
//!
//! What belongs to a zone changes what those may who hold grants in it: so it takes what granting each of them anew
//! would, over everything.

pub(in crate::service) mod operations;

use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::directory::targets::absent;
use crate::service::error::Result;
use crate::service::registry::{Need, Targeted, Tx};
use crate::service::server::Installation;
use crate::storage::metadata::zone::{self, ZoneRow};

/// One zone.
pub(in crate::service) struct OneZone {
    pub row: ZoneRow,
    root: CustomerId,
    is_in_zone: bool,
}

impl OneZone {
    /// The zone of this name, if the caller sees zones as a whole, or holds a grant in it.
    ///
    /// # Errors
    /// `NotFound`, whether there is none or it is not visible.
    pub async fn find(tx: &mut Tx<'_>, name: &str) -> Result<Self> {
        let root = Installation::of(tx, "")?.customer();
        let of_all = [Permission::SystemZoneRead, Permission::SystemZoneUpdate];
        let sees_all = of_all.into_iter().any(|one| tx.caller.may(Some(root), one));
        let row = zone::by_name(tx.conn, name).await?;
        let row = row.filter(|row| sees_all || tx.caller.zones.knows(row.id));
        Ok(Self { row: row.ok_or_else(|| absent("zone", name))?, root, is_in_zone: !sees_all })
    }

    /// What is needed for an operation that takes this permission, which zones give.
    fn needs(&self, permission: Permission) -> Vec<Need> {
        vec![Need::in_zone(self.root, permission, Some(self.row.id))]
    }
}

impl Targeted for OneZone {
    fn customer(&self) -> CustomerId {
        self.root
    }

    fn label(&self) -> String {
        format!("zone {}", self.row.name)
    }

    fn key(&self) -> String {
        format!("zone {}", self.row.id)
    }

    fn is_in_zone(&self) -> bool {
        self.is_in_zone
    }
}
