//! Entering jobs, in the transaction of the operation that asks for them.

use tokio::sync::Notify;

use super::Work;
use super::operations::{Job, show};
use crate::base::id::{CustomerId, StoreId};
use crate::service::context::KeptContext;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Targeted, Tx};
use crate::service::server::starting;
use crate::storage::metadata::job::{self, NewJob};

/// Most jobs of one customer that have not ended.
const OPEN_MAX: u64 = 100;
/// Most jobs about one mail store that have not ended: apart from the others, since those in a zone may ask for them.
const OPEN_OF_STORE_MAX: u64 = 20;

/// Tells this node's runner of new jobs, so that they need not wait for its next look.
#[derive(Default)]
pub(in crate::service) struct Queue(Notify);

impl Queue {
    /// There is a new job.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Completes when there is. Cancel-safe.
    pub async fn woken(&self) {
        self.0.notified().await;
    }
}

/// Members of jobs' requests that are keys of rows, unless they are names.
const KEYS: [&str; 4] = ["mailbox", "store", "folder", "folders"];

/// Enters a job that belongs to `customer`; `target` is what it is about, for people. The operation's answer.
///
/// # Errors
/// When a hundred jobs of the customer have not ended yet, and when the database fails.
pub(in crate::service) async fn enqueue<W: Work>(
    tx: &mut Tx<'_>,
    customer: CustomerId,
    target: &str,
    request: &W::Request,
) -> Result<Job> {
    if job::open_of(tx.conn, customer).await? >= OPEN_MAX {
        return Err(ServiceError::Limit(format!("{OPEN_MAX} jobs wait or run already; cancel some first")));
    }
    enter::<W>(tx, customer, target, request, None).await
}

/// As [`enqueue`], for a job about a mail store: those who see the store see it too.
///
/// # Errors
/// When twenty jobs about the store have not ended yet, and when the database fails.
pub(in crate::service) async fn enqueue_about<W: Work>(
    tx: &mut Tx<'_>,
    store: StoreId,
    target: &impl Targeted,
    request: &W::Request,
) -> Result<Job> {
    if job::open_of_store(tx.conn, store).await? >= OPEN_OF_STORE_MAX {
        let message = format!("{OPEN_OF_STORE_MAX} jobs about it wait or run already; cancel some first");
        return Err(ServiceError::Limit(message));
    }
    enter::<W>(tx, target.customer(), &target.label(), request, Some(store)).await
}

async fn enter<W: Work>(
    tx: &mut Tx<'_>,
    customer: CustomerId,
    target: &str,
    request: &W::Request,
    store: Option<StoreId>,
) -> Result<Job> {
    let json = |error: serde_json::Error| ServiceError::Internal(error.to_string());
    let bound_node =
        if W::BOUND { Some(tx.inner.bodies.get().ok_or_else(starting)?.node().id.clone()) } else { None };
    let new = NewJob {
        kind: W::KIND,
        customer,
        is_system: W::PERMISSION.is_system(),
        target: target.to_owned(),
        request: serde_json::to_string(request).map_err(json)?,
        asker: serde_json::to_string(&KeptContext::from(tx.context)).map_err(json)?,
        actor: tx.caller.name(),
        bound_node,
        store,
    };
    let row = job::insert(tx.conn, &new, tx.now).await?;
    tx.starts_job = true;
    let request = recorded(serde_json::to_value(request).map_err(json)?);
    tx.after = Some(serde_json::json!({ "job": row.public_id, "request": request }));
    show(tx, row)
}

/// What the trail keeps of a job's request: without keys, which count what all customers have. The record's target says
/// what they stand for.
fn recorded(mut request: serde_json::Value) -> serde_json::Value {
    if let Some(members) = request.as_object_mut() {
        members.retain(|name, value| value.is_string() || !KEYS.contains(&name.as_str()));
    }
    request
}
