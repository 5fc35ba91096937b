//! Limits and guarantees of mailboxes: counted when somebody asks, along the paths that a change concerns.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::CustomerId;
use crate::service::authority::Tree;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::registry::Tx;
use crate::storage::metadata::customer;
use crate::storage::metadata::pool::{self, Pool, Pooled};
use crate::storage::metadata::quota::QuotaOwner;

/// What is committed at the customers on some paths that have a limit on mailboxes or a guarantee of some, as far as a
/// limit can refuse at or above them.
pub(in crate::service) struct Pools {
    now: BTreeMap<i64, Pool>,
    before: BTreeMap<i64, Pool>,
}

impl Pools {
    /// Counts along the paths of `places` in `tree`.
    ///
    /// # Errors
    /// When the database fails, or guarantees add up to more than can be counted.
    pub async fn read(tx: &mut Tx<'_>, tree: &Tree, places: &[CustomerId]) -> Result<Self> {
        let on_paths: BTreeSet<i64> =
            places.iter().flat_map(|place| tree.path(*place)).map(|node| node.id.0).collect();
        let rows = customer::by_ids(tx.conn, on_paths.iter().copied()).await?;
        let limited: BTreeSet<i64> =
            rows.iter().filter(|row| row.limits.mailboxes.is_some()).map(|row| row.id.0).collect();
        // Above the topmost limit nothing refuses.
        let top =
            |place: &CustomerId| tree.path(*place).into_iter().find(|node| limited.contains(&node.id.0));
        let tops: BTreeSet<i64> = places.iter().filter_map(top).map(|node| node.id.0).collect();
        let mut now = BTreeMap::new();
        for id in tops.into_iter().map(CustomerId) {
            let here: Vec<i64> =
                on_paths.iter().copied().filter(|&one| tree.covers(id, CustomerId(one))).collect();
            let groups = pool::groups(tx.conn, id, &here, Pooled::Mailboxes).await?;
            let committed = pool::committed(&groups)?;
            for row in rows.iter().filter(|row| here.contains(&row.id.0)) {
                let limits = &row.limits;
                let committed = committed.get(&row.id.0).copied().unwrap_or_default();
                let guarantee = limits.mailboxes_guarantee.filter(|_| row.deleted_at.is_none());
                now.insert(row.id.0, Pool { max: limits.mailboxes, guarantee, committed });
            }
        }
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
