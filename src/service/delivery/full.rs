//! What those are told whose mail finds no room: at first to try again, and after a while that it was in vain.

use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, FolderId, Uid};
use crate::service::error::ServiceError;
use crate::service::settings::{self, DELIVERY_OVERQUOTA_DEFER_HOURS};
use crate::storage::StorageError;
use crate::storage::metadata::delivery::{Refused, TargetOutcome};
use crate::storage::metadata::quota::{OverLimit, QuotaOwner};
use crate::storage::metadata::quota_mark;
use crate::storage::metadata::sql::Conn;

use super::refusals::Refusals;
use super::{DeliveryRefusal, Inner, refusal_of};

/// The outcomes for mailboxes of these customers, with refusals as the sender is told.
///
/// # Errors
/// When the database cannot be read.
pub(super) async fn refused(
    inner: &Inner,
    outcomes: Vec<TargetOutcome>,
    customers: &[CustomerId],
    now: Timestamp,
) -> Result<Vec<Result<(FolderId, Uid), DeliveryRefusal>>, StorageError> {
    let mut told = Vec::with_capacity(outcomes.len());
    // Many targets of one message meet the same limit.
    let mut known: Vec<(OverLimit, CustomerId, DeliveryRefusal)> = Vec::new();
    for (outcome, &customer) in outcomes.into_iter().zip(customers) {
        let over = match outcome {
            Err(Refused::OverQuota(over)) => over,
            other => {
                told.push(other.map_err(refusal_of));
                continue;
            }
        };
        let seen = known.iter().find(|(limit, whose, _)| (*limit, *whose) == (over, customer));
        let refusal = match seen {
            Some((_, _, refusal)) => refusal.clone(),
            None => {
                let refusals = inner.refusals.clone();
                let read = inner.database.read(|conn| {
                    Box::pin(async move {
                        let refusal = over_quota(conn, &refusals, over, customer, now).await;
                        Ok::<_, StorageError>(refusal)
                    })
                });
                let refusal = read.await?;
                known.push((over, customer, refusal.clone()));
                refusal
            }
        };
        told.push(Err(refusal));
    }
    Ok(told)
}

/// Refuses a message for want of room. The customer of the mailbox says for how many hours after the first refusal mail
/// is deferred. Senders are strangers: they learn that there is no room, and no name of whoever set the limit.
pub(super) async fn over_quota(
    conn: &mut Conn,
    refusals: &Refusals,
    over: OverLimit,
    customer: CustomerId,
    now: Timestamp,
) -> DeliveryRefusal {
    let text = match (over.owner, over.on_messages) {
        (QuotaOwner::Mailbox(_), false) => "the mailbox is full",
        (QuotaOwner::Mailbox(_), true) => "the mailbox has as many messages as it may have",
        (QuotaOwner::Domain(_), false) => "the domain is full",
        (QuotaOwner::Domain(_), true) => "the domain has as many messages as it may have",
        (QuotaOwner::Customer(_), false) => "no room for this domain",
        (QuotaOwner::Customer(_), true) => "no room for more messages of this domain",
    };
    match is_for_long(conn, refusals, over, customer, now).await {
        Ok(true) => DeliveryRefusal::Full(text.to_owned()),
        Ok(false) => DeliveryRefusal::OverQuota(text.to_owned()),
        Err(error) => {
            tracing::warn!(%error, "delivery deferred: it is not known since when there is no room");
            DeliveryRefusal::Unavailable
        }
    }
}

/// Whether the limit has refused for longer than mail is deferred.
async fn is_for_long(
    conn: &mut Conn,
    refusals: &Refusals,
    over: OverLimit,
    customer: CustomerId,
    now: Timestamp,
) -> Result<bool, ServiceError> {
    let hours = settings::value(conn, customer, &DELIVERY_OVERQUOTA_DEFER_HOURS).await?;
    let since = quota_mark::full_since(conn, over.owner).await?;
    if since.is_none() {
        refusals.note_full(over.owner, now);
    }
    let waited_micros = now.0.saturating_sub(since.unwrap_or(now).0);
    Ok(waited_micros >= i64::from(hours.0) * 3_600_000_000)
}
