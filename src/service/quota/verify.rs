//! `quota verify`: recounts what mailboxes, domains and customers use, and repairs what has drifted.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::directory::scope::Place;
use crate::service::error::Result;
use crate::service::registry::{Operate, Tx, declare};
use crate::storage::metadata::quota::{self, Counted, CountedKind};

/// What to recount.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct QuotaVerifyRequest {
    /// This customer and everything below; default: everywhere the caller may.
    customer: Option<String>,
    /// Whether to set what has drifted right.
    #[serde(default)]
    repair: bool,
}

/// A counter that does not say what there is.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Drift {
    /// `mailbox`, `domain` or `customer`.
    kind: String,
    name: String,
    /// `bytes` or `messages`.
    resource: String,
    recorded: i64,
    counted: i64,
}

/// What was found.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Verified {
    /// Mailboxes recounted, deleted ones too since they keep their charge.
    mailboxes: usize,
    drifts: Vec<Drift>,
    repaired: bool,
}

/// `quota.verify`.
pub(in crate::service) struct QuotaVerify;

impl Operate for QuotaVerify {
    declare! { "quota.verify", Post, "/v1/quota/verify", QuotaVerify, changes,
    "Recount what is used and report, or repair, what has drifted" }
    type Request = QuotaVerifyRequest;
    type Response = Verified;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a QuotaVerifyRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: QuotaVerifyRequest) -> Result<Verified> {
        let subtrees = target.tops.iter().flat_map(|&top| tx.caller.tree.subtree_ids(top));
        let customers: Vec<i64> = subtrees.collect();
        let mailboxes = quota::count_mailboxes(tx.conn, &customers).await?;
        let mut drifts = Vec::new();
        collect(tx, "mailbox", &mailboxes, CountedKind::Mailbox, request.repair, &mut drifts).await?;
        // Counters above are sums over what mailboxes say, which is right by now if it was repaired.
        let domains = quota::count_domains(tx.conn, &customers).await?;
        collect(tx, "domain", &domains, CountedKind::Domain, request.repair, &mut drifts).await?;
        let mut counted = Vec::new();
        for mut one in quota::recorded_customers(tx.conn, &customers).await? {
            let subtree = tx.caller.tree.subtree_ids(crate::base::id::CustomerId(one.id));
            one.counted = quota::lock_customers(tx.conn, &subtree).await?;
            one.name = tx.caller.path_of(crate::base::id::CustomerId(one.id)).unwrap_or_default();
            counted.push(one);
        }
        collect(tx, "customer", &counted, CountedKind::Customer, request.repair, &mut drifts).await?;
        let repaired = request.repair && !drifts.is_empty();
        tx.after = serde_json::to_value(&drifts).ok();
        Ok(Verified { mailboxes: mailboxes.len(), drifts, repaired })
    }
}

async fn collect(
    tx: &mut Tx<'_>,
    kind: &str,
    counted: &[Counted],
    table: CountedKind,
    repair: bool,
    drifts: &mut Vec<Drift>,
) -> Result<()> {
    for one in counted.iter().filter(|one| one.recorded != one.counted) {
        let pairs = [
            ("bytes", one.recorded.bytes, one.counted.bytes),
            ("messages", one.recorded.messages, one.counted.messages),
        ];
        for (resource, recorded, counted) in pairs.into_iter().filter(|(_, a, b)| a != b) {
            let (kind, name, resource) = (kind.to_owned(), one.name.clone(), resource.to_owned());
            drifts.push(Drift { kind, name, resource, recorded, counted });
        }
        if repair {
            quota::repair(tx.conn, table, one).await?;
        }
    }
    Ok(())
}
