//! Limits and guarantees of mailboxes, along the paths that a change concerns. What is committed there was counted once
//! and is kept (`storage/metadata/customer_count.rs`), so asking costs what the paths are long.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::CustomerId;
use crate::service::authority::Tree;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::registry::Tx;
use crate::storage::metadata::customer_count;
use crate::storage::metadata::pool::{self, Pool, Pooled};
use crate::storage::metadata::quota::QuotaOwner;

/// What is committed at the customers on some paths that have a limit on mailboxes or a guarantee of some, as far as a
/// limit can refuse at or above them.
pub(in crate::service) struct Pools {
    now: BTreeMap<i64, Pool>,
    before: BTreeMap<i64, Pool>,
}

impl Pools {
    /// Reads along the paths of `places` in `tree`; counts what is not known yet.
    ///
    /// # Errors
    /// When the database fails, or guarantees add up to more than can be counted.
    pub async fn read(tx: &mut Tx<'_>, tree: &Tree, places: &[CustomerId]) -> Result<Self> {
        let on_paths: BTreeSet<i64> =
            places.iter().flat_map(|place| tree.path(*place)).map(|node| node.id.0).collect();
        let mut limited = customer_count::limited(tx.conn, on_paths).await?;
        for place in places {
            let unknown: Vec<i64> = {
                let known = |id: &CustomerId| limited.get(&id.0);
                // Above the topmost limit nothing refuses.
                let path = tree.path(*place).into_iter().map(|node| node.id);
                let below = path.skip_while(|id| known(id).is_none_or(|known| known.max.is_none()));
                let unknown = |id: &CustomerId| known(id).is_some_and(|known| known.committed.is_none());
                below.filter(unknown).map(|id| id.0).collect()
            };
            let Some(&top) = unknown.first() else { continue };
            let counted = customer_count::mailboxes_counted(tx.conn, CustomerId(top), &unknown).await?;
            for (id, committed) in counted {
                if let Some(known) = limited.get_mut(&id) {
                    known.committed = Some(committed);
                }
            }
        }
        let pool = |(id, known): (i64, customer_count::Known)| {
            let customer_count::Known { max, guarantee, committed } = known;
            Some((id, Pool { max, guarantee, committed: committed? }))
        };
        let now: BTreeMap<i64, Pool> = limited.into_iter().filter_map(pool).collect();
        Ok(Self { before: now.clone(), now })
    }

    /// Charges so many more, or fewer, from a customer up.
    pub fn climb(self, tree: &Tree, from: CustomerId, more: i64) -> Result<Self> {
        let Self { mut now, before } = self;
        let mut climbing = more;
        for node in tree.path(from).into_iter().rev() {
            if let Some(pool) = now.get_mut(&node.id.0) {
                climbing = pool.add(climbing).ok_or_else(|| {
                    ServiceError::Limit("these guarantees add up to more than can be counted".to_owned())
                })?;
            }
        }
        Ok(Self { now, before })
    }

    /// What was read is how it is after the change: what is now is how it was before.
    pub fn swapped(self) -> Self {
        Self { now: self.before, before: self.now }
    }

    /// Refuses when a limit on the path of a customer is exceeded that was not, or was by less.
    ///
    /// # Errors
    /// [`ServiceError::OverQuota`], naming the limit if the caller may see it.
    pub fn fit(&self, tx: &Tx<'_>, tree: &Tree, at: CustomerId) -> Result<()> {
        for node in tree.path(at).into_iter().rev() {
            let (Some(now), Some(before)) = (self.now.get(&node.id.0), self.before.get(&node.id.0)) else {
                continue;
            };
            if now.has_burst(before) {
                let limit = super::whose(tx.caller, QuotaOwner::Customer(node.id));
                return Err(ServiceError::OverQuota { resource: Resource::Mailboxes, limit });
            }
        }
        Ok(())
    }
}

/// What a customer passes on to the one above, in mailboxes.
///
/// # Errors
/// As [`Pools::read`].
pub(in crate::service) async fn passed_mailboxes(tx: &mut Tx<'_>, customer: CustomerId) -> Result<i64> {
    Ok(pool::passed_by(tx.conn, customer, Pooled::Mailboxes).await?)
}
