//! What hangs on a grant: what its holder could grant because of it, and nobody would let it grant without.

use std::collections::{BTreeMap, VecDeque};

use crate::base::id::{AdministratorId, GrantId};
use crate::service::authority::{ActiveGrant, Standing, activate, delegable, granted};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::Tx;
use crate::storage::metadata::administrator;
use crate::storage::metadata::grant::{self, GrantRow, Holder};

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
                let is_concerned = tree.covers(lost.customer, row.customer)
                    && !gone.contains_key(&row.id)
                    && row.expires_at.is_none_or(|end| tx.now < end);
                let passes = delegable(&tree, &remaining, row.customer, row.expires_at);
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

/// What an administrator has besides what is gone; holds on management pass and are not looked at.
async fn remaining(
    tx: &mut Tx<'_>,
    administrator: AdministratorId,
    gone: &BTreeMap<GrantId, GrantRow>,
) -> Result<Vec<ActiveGrant>> {
    let rows = grant::held_by(tx.conn, administrator).await?;
    let left = rows.iter().filter(|row| !gone.contains_key(&row.id));
    Ok(left.filter_map(|row| activate(&tx.caller.tree, row, &Standing::default(), tx.now)).collect())
}
