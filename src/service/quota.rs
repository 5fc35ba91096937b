//! Limits on numbers of objects, and naming the limit that refuses: only if the caller may see whose it is.

pub(in crate::service) mod overcommit;
pub(in crate::service) mod pools;
pub(in crate::service) mod verify;
mod watch;

use crate::base::id::CustomerId;
use crate::service::authority::{Caller, Tree};
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::registry::Tx;
use crate::storage::metadata::customer::{self, Counted, Counts, CustomerLimits};
use crate::storage::metadata::customer_count;
use crate::storage::metadata::quota::{OverLimit, QuotaOwner};
use pools::Pools;
pub use watch::{QuotaWatch, Watched};

/// Refuses when `more` objects of a kind at `place` would exceed a limit of the customer or one above. Objects that
/// are deleted softly do not count; bringing them back is checked like making them.
///
/// # Errors
/// [`ServiceError::OverQuota`], naming the limit if the caller may see it.
pub(in crate::service) async fn admit(
    tx: &mut Tx<'_>,
    place: CustomerId,
    resource: Resource,
    more: i64,
) -> Result<()> {
    admit_along(tx, place, None, resource, more).await
}

/// As [`admit`], for what comes from the customer `from`: the customers at `from` and above stay as they are, except
/// for what guarantees on the way keep back or not.
pub(in crate::service) async fn admit_along(
    tx: &mut Tx<'_>,
    place: CustomerId,
    from: Option<CustomerId>,
    resource: Resource,
    more: i64,
) -> Result<()> {
    if more <= 0 {
        return Ok(());
    }
    let tree = std::sync::Arc::clone(&tx.caller.tree);
    if resource == Resource::Mailboxes {
        let places: Vec<CustomerId> = [Some(place), from].into_iter().flatten().collect();
        let mut pools = Pools::read(tx, &tree, &places).await?;
        if let Some(from) = from {
            pools = pools.climb(&tree, from, -more)?;
        }
        return pools.climb(&tree, place, more)?.fit(tx, &tree, place);
    }
    fits(tx, &tree, (place, from), resource, more).await
}

/// Whether what came back by undelete, and is there by now in this transaction, is within the limits. `tree` is the
/// hierarchy with it. Nothing is refused for a kind of which nothing came back: a limit may have been lowered below
/// what is there.
///
/// # Errors
/// As [`admit`].
pub(in crate::service) async fn admit_returned(
    tx: &mut Tx<'_>,
    tree: &Tree,
    place: CustomerId,
    returned: &[(Resource, i64)],
) -> Result<()> {
    for &(resource, count) in returned.iter().filter(|(_, count)| *count > 0) {
        if resource == Resource::Mailboxes {
            let pools = Pools::read(tx, tree, &[place]).await?;
            pools.climb(tree, place, -count)?.swapped().fit(tx, tree, place)?;
        } else {
            fits(tx, tree, (place, None), resource, 0).await?;
        }
    }
    Ok(())
}

/// Tells the limits at a customer and above that there are so many more of something that they are on, or fewer: what
/// makes or deletes objects does so, in its transaction.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn count(
    tx: &mut Tx<'_>,
    place: CustomerId,
    resource: Resource,
    more: i64,
) -> Result<()> {
    let mut counts = Counts::NONE;
    match resource {
        Resource::Mailboxes => counts.mailboxes = more,
        Resource::Aliases => counts.aliases = more,
        Resource::Domains => counts.domains = more,
        Resource::Administrators => counts.administrators = more,
        // Customers stand in the tree; octets and messages have counters of their own.
        Resource::Customers | Resource::Bytes | Resource::Messages => return Ok(()),
    }
    Ok(customer_count::add(tx.conn, place, counts).await?)
}

/// An exceeded limit on octets or messages, for the caller.
pub(in crate::service) fn over(caller: &Caller, over: OverLimit) -> ServiceError {
    let resource = if over.on_messages { Resource::Messages } else { Resource::Bytes };
    ServiceError::OverQuota { resource, limit: whose(caller, over.owner) }
}

async fn fits(
    tx: &mut Tx<'_>,
    tree: &Tree,
    (place, except): (CustomerId, Option<CustomerId>),
    resource: Resource,
    more: i64,
) -> Result<()> {
    let path = tree.path(place);
    let path = path.iter().filter(|node| except.is_none_or(|except| !tree.covers(node.id, except)));
    let keys: Vec<i64> = path.map(|node| node.id.0).collect();
    for row in customer::by_ids(tx.conn, keys).await? {
        let Some(limit) = limit_of(&row.limits, resource) else { continue };
        let below = || tree.subtree(row.id).iter().filter(|node| !node.deleted).map(|node| node.id.0);
        let counted = match resource {
            Resource::Aliases => Some(Counted::Aliases),
            Resource::Domains => Some(Counted::Domains),
            Resource::Administrators => Some(Counted::Administrators),
            Resource::Customers => None,
            Resource::Mailboxes | Resource::Bytes | Resource::Messages => continue,
        };
        let used = match counted {
            Some(counted) => customer_count::number(tx.conn, row.id, counted, || below().collect()).await?,
            None => i64::try_from(below().count()).unwrap_or(i64::MAX).saturating_sub(1),
        };
        if used.saturating_add(more) > limit {
            let limit = whose(tx.caller, QuotaOwner::Customer(row.id));
            return Err(ServiceError::OverQuota { resource, limit });
        }
    }
    Ok(())
}

fn limit_of(limits: &CustomerLimits, resource: Resource) -> Option<i64> {
    match resource {
        Resource::Bytes => limits.bytes,
        Resource::Messages => limits.messages,
        Resource::Mailboxes => limits.mailboxes,
        Resource::Aliases => limits.aliases,
        Resource::Domains => limits.domains,
        Resource::Customers => limits.customers,
        Resource::Administrators => limits.administrators,
    }
}

/// Names whose limit it is, if the caller may see it.
pub(in crate::service) fn whose(caller: &Caller, owner: QuotaOwner) -> String {
    match owner {
        QuotaOwner::Mailbox(_) => "limit of the mailbox".to_owned(),
        QuotaOwner::Domain(_) => "limit of the domain".to_owned(),
        QuotaOwner::Customer(id) => match caller.path_of(id) {
            Some(path) => format!("limit of customer {path}"),
            None => "limited above your scope".to_owned(),
        },
    }
}
