//! Forgetting audit records after their time: those of reads after 90 days, those of changes and refusals after what
//! the setting `audit.retention` says for their customer.
//!
//! What is forgotten of a chain is told by a record at its end, which is sealed and signed like every other: `audit
//! verify` takes no other word for it that something may be gone. The links of the chain stay.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Event, names, record};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::{Authority, Caller};
use crate::service::context::{Context, Identity};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::operations;
use crate::service::settings::{AUDIT_RETENTION, Everywhere};
use crate::storage::metadata::audit::{insert, path_ids};
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::purge::{self, Pruned};
use crate::storage::metadata::seal;
use crate::storage::metadata::sql::Conn;

const DAY: Duration = Duration::from_secs(86_400);
/// How long records of reads are kept.
const READS_DAYS: u32 = 90;
/// What a record of pruning says that was done.
pub(super) const PRUNED: &str = "audit.prune";

/// What such a record says.
#[derive(Serialize, Deserialize)]
pub(super) struct Pruning {
    /// How many records were forgotten.
    pub records: u64,
    /// None of them was younger.
    pub until: Timestamp,
    /// The same in microseconds since 1970.
    pub until_micros: i64,
}

/// From when on records of reads are kept.
pub(in crate::service) fn reads_since(now: Timestamp) -> Timestamp {
    now.minus(DAY * READS_DAYS)
}

/// Forgets records from `from` on whose time is over; looks at 1,000 at most.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub(in crate::service) async fn slice(
    conn: &mut Conn,
    authority: &Authority,
    from: Timestamp,
    now: Timestamp,
) -> Result<Pruned> {
    let kept = Everywhere::read(conn, &AUDIT_RETENTION).await?;
    let reads: Vec<&str> = operations().iter().filter(|one| !one.mutates).map(|one| one.name).collect();
    let reads_since = reads_since(now);
    let kept_since = |path: &str| {
        let days = kept.at(path_ids(path).map(CustomerId)).map_or(u32::MAX, |days| days.0);
        now.minus(DAY.saturating_mul(days)).min(reads_since)
    };
    let pruned = purge::audit(conn, from, reads_since, kept_since, &reads).await?;
    if pruned.changes.is_empty() {
        return Ok(pruned);
    }
    let tree = authority.tree(conn, TreeLock::None).await?;
    let caller = Caller::read(conn, tree, Identity::System, now).await?;
    let context = Context::of_schedule();
    for (customer, (records, last)) in &pruned.changes {
        let place = CustomerId(*customer);
        if caller.tree.node(place).is_none() {
            // Its chain has an end, and nobody reads it but the root.
            continue;
        }
        let until = Timestamp(last.0.saturating_add(1));
        let pruning = Pruning { records: *records, until, until_micros: until.0 };
        let after =
            serde_json::to_string(&pruning).map_err(|error| ServiceError::Internal(error.to_string()))?;
        let target = format!("customer {}", names::customer(&caller.tree, place));
        let event = Event {
            at: now,
            operation: PRUNED,
            place: Some(place),
            target: &target,
            before: None,
            after: Some(after),
            outcome: "done",
        };
        let record = record(&caller, &context, event);
        let id = record.public_id.clone();
        insert(conn, &[record]).await?;
        seal::pruned(conn, *customer, &id).await?;
    }
    Ok(pruned)
}
