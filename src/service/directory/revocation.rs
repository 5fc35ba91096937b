//! What hangs on a grant: what its holder could grant because of it, and nobody would let it grant without.

use std::collections::{BTreeMap, VecDeque};

use crate::base::id::{AdministratorId, GrantId};
use crate::service::authority::{
    ActiveGrant, PermissionSet, Standing, Tree, ZoneGrant, Zones, activate, delegable, granted,
};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::Tx;
use crate::storage::metadata::administrator;
use crate::storage::metadata::grant::{self, GrantRow, GrantedZone, Holder};

/// Most grants that end at once.
const ENDED_MAX: usize = 10_000;

/// The grants that end when `ended` do: made by who held one of those, where it counts or below, and such that with
/// what remains their maker could not make them now; and so on. `ended` are not among them.
pub(super) async fn hanging(tx: &mut Tx<'_>, ended: &[GrantRow]) -> Result<Vec<GrantRow>> {
    let tree = std::sync::Arc::clone(&tx.caller.tree);
    let mut gone: BTreeMap<GrantId, GrantRow> = ended.iter().map(|row| (row.id, row.clone())).collect();
    let mut pending: VecDeque<GrantRow> = ended.iter().cloned().collect();
    let mut hanging = Vec::new();
    while let Some(lost) = pending.pop_front() {
        for maker in makers(tx, &lost).await? {
            let made = grant::made_by(tx.conn, maker).await?;
            let remaining = remaining(tx, maker, &gone).await?;
            for row in made {
                let is_concerned = reaches(&tree, &lost, &row)
                    && !gone.contains_key(&row.id)
                    && row.expires_at.is_none_or(|end| tx.now < end);
                let passes = remaining.passes(&tree, &row);
                if !is_concerned || granted(&tree, &row).without(passes).is_empty() {
                    continue;
                }
                if gone.len() >= ENDED_MAX {
                    let message =
                        format!("more than {ENDED_MAX} grants hang on this one; revoke some of them first");
                    return Err(ServiceError::Limit(message));
                }
                gone.insert(row.id, row.clone());
                pending.push_back(row.clone());
                hanging.push(row);
            }
        }
    }
    Ok(hanging)
}

/// Who could make grants because of this one.
async fn makers(tx: &mut Tx<'_>, row: &GrantRow) -> Result<Vec<AdministratorId>> {
    Ok(match row.holder {
        Holder::Administrator(id) => vec![id],
        Holder::Group(id) => administrator::members(tx.conn, id).await?.iter().map(|row| row.id).collect(),
    })
}

/// Whether what `made` gives may have come from `lost`: a grant in a zone is passed on in that zone only, one at the
/// root in every zone too.
fn reaches(tree: &Tree, lost: &GrantRow, made: &GrantRow) -> bool {
    let is_there = |zone: &GrantedZone| made.zone.as_ref() == Some(zone);
    lost.zone.as_ref().map_or_else(|| tree.covers(lost.customer, made.customer), is_there)
}

/// What is left of what somebody has.
struct Remaining {
    grants: Vec<ActiveGrant>,
    zones: Zones,
}

impl Remaining {
    /// What may be passed on by it where a grant counts, for as long as that lasts.
    fn passes(&self, tree: &Tree, row: &GrantRow) -> PermissionSet {
        let passes = delegable(tree, &self.grants, row.customer, row.expires_at);
        let in_zone = row.zone.as_ref().map(|zone| self.zones.delegable(zone.id, row.expires_at));
        passes.union(in_zone.unwrap_or_default())
    }
}

/// What an administrator has besides what is gone; holds on management pass and are not looked at.
async fn remaining(
    tx: &mut Tx<'_>,
    administrator: AdministratorId,
    gone: &BTreeMap<GrantId, GrantRow>,
) -> Result<Remaining> {
    let mut rows = grant::held_by(tx.conn, administrator).await?;
    rows.retain(|row| !gone.contains_key(&row.id));
    let tree = &tx.caller.tree;
    let grants = rows.iter().filter_map(|row| activate(tree, row, &Standing::default(), tx.now)).collect();
    let in_zones = rows.iter().filter_map(|row| ZoneGrant::of(tree, row, tx.now)).collect();
    Ok(Remaining { grants, zones: Zones::new(in_zones, BTreeMap::new()) })
}
