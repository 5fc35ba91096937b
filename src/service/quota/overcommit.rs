//! Overcommit: what the limits of the customers right below one may add up to.

use crate::base::id::CustomerId;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::registry::Tx;
use crate::storage::metadata::customer::{self, CustomerLimits};
use crate::storage::metadata::pool::Pooled;
use crate::storage::metadata::quota::QuotaOwner;

/// A million times the limit; more says nothing that none does not say.
const PERCENT_MAX: i64 = 100_000_000;

/// Checks guarantees and overcommit of a customer against its own limits.
///
/// # Errors
/// [`ServiceError::Invalid`] for a guarantee above the limit, or an overcommit without one.
pub(in crate::service) fn consistent(limits: &CustomerLimits) -> Result<()> {
    let invalid = |field, message: &str| Err(ServiceError::Invalid { field, message: message.to_owned() });
    for (field, guarantee, limit) in [
        ("bytes_guarantee", limits.bytes_guarantee, limits.bytes),
        ("mailboxes_guarantee", limits.mailboxes_guarantee, limits.mailboxes),
    ] {
        if guarantee.zip(limit).is_some_and(|(guarantee, limit)| guarantee > limit) {
            return invalid(field, "a guarantee is at most the customer's own limit");
        }
    }
    for (field, percent, limit) in [
        ("bytes_overcommit_percent", limits.bytes_overcommit_percent, limits.bytes),
        ("mailboxes_overcommit_percent", limits.mailboxes_overcommit_percent, limits.mailboxes),
    ] {
        match percent {
            Some(percent) if percent > PERCENT_MAX => return invalid(field, "at most 100000000 percent"),
            Some(_) if limit.is_none() => {
                return invalid(field, "an overcommit is of the customer's own limit, and there is none");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses what the change so far has made of the limits of the customers right below one, where it has an overcommit:
/// each needs a limit then, and together they are at most so much of the customer's own.
///
/// # Errors
/// [`ServiceError::Conflict`] when one has none, [`ServiceError::OverQuota`] when they are too much.
pub(in crate::service) async fn admit_below(tx: &mut Tx<'_>, parent: Option<CustomerId>) -> Result<()> {
    let Some(parent) = parent else { return Ok(()) };
    let Some(row) = customer::by_id(tx.conn, parent).await? else { return Ok(()) };
    let limits = row.limits;
    for (pooled, resource, percent, limit) in [
        (Pooled::Octets, Resource::Bytes, limits.bytes_overcommit_percent, limits.bytes),
        (Pooled::Mailboxes, Resource::Mailboxes, limits.mailboxes_overcommit_percent, limits.mailboxes),
    ] {
        let Some((percent, limit)) = percent.zip(limit) else { continue };
        let below = customer::limits_below(tx.conn, parent, pooled).await?;
        if below.without > 0 {
            let what = if pooled == Pooled::Octets { "bytes" } else { "mailboxes" };
            let place = tx.caller.path_of(parent);
            let place = place.map_or_else(|| "above your scope".to_owned(), |path| format!("at {path}"));
            let message =
                format!("every customer below needs a limit on {what}: an overcommit is set {place}");
            return Err(ServiceError::Conflict { message });
        }
        if below.sum.saturating_mul(100) > i128::from(percent).saturating_mul(i128::from(limit)) {
            let limit = match tx.caller.path_of(parent) {
                Some(path) => format!("overcommit of customer {path}"),
                None => super::whose(tx.caller, QuotaOwner::Customer(parent)),
            };
            return Err(ServiceError::OverQuota { resource, limit });
        }
    }
    Ok(())
}
