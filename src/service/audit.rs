//! The audit trail: making records, writing reads in batches, searching.
//!
//! A record belongs to the target's customer; when the actor may not see the target, to the actor's home and nowhere
//! else. A change of two customers leaves one with each. Reads lose at most the last second when the daemon is killed;
//! changes and refusals lose nothing.

mod candidates;
mod chain;
mod index;
pub(in crate::service) mod names;
mod prove;
pub(in crate::service) mod prune;
mod seal;
mod search;
mod terms;
mod verify;

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, public_id};
use crate::service::authority::Caller;
use crate::service::context::Context;
use crate::service::error::ServiceError;
use crate::service::registry::operations;
use crate::storage::metadata::audit::{self, Record};
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;

pub use index::Indexer;
pub(in crate::service) use prove::AuditProve;
pub use seal::Sealer;
pub(in crate::service) use search::{AuditEntry, AuditSearch, places_below, places_of, show as entry};
pub(in crate::service) use verify::{AuditVerify, Verifying};

/// Records of reads that may wait; beyond it the reader waits.
const QUEUE_LENGTH_MAX: usize = 4096;
/// Most records written at once.
const BATCH_MAX: usize = 256;
/// How long a record of a read may wait for others.
const BATCH_INTERVAL: Duration = Duration::from_millis(500);

/// What a record says besides who asked.
pub(in crate::service) struct Event<'a> {
    pub at: Timestamp,
    pub operation: &'static str,
    /// The customer it belongs to.
    pub place: Option<CustomerId>,
    /// With names as references (see [`names`]).
    pub target: &'a str,
    pub before: Option<String>,
    pub after: Option<String>,
    pub outcome: &'a str,
}

/// Makes the record of an event.
pub(in crate::service) fn record(caller: &Caller, context: &Context, event: Event<'_>) -> Record {
    let place = event.place.filter(|&place| caller.sees(place)).or(caller.home());
    record_of_side(caller, context, Event { place, ..event })
}

/// Makes the record of an event for one of the sides that took part in it, also where the actor, who is of the other
/// side, does not see it.
pub(in crate::service) fn record_of_side(caller: &Caller, context: &Context, event: Event<'_>) -> Record {
    let (tree, home, place) = (&caller.tree, caller.home(), event.place);
    Record {
        id: 0,
        public_id: public_id(),
        at: event.at,
        node_path: place.map(|id| tree.id_path(id)).unwrap_or_default(),
        customer_path: place.map(|id| names::slugs(tree, id)).unwrap_or_default(),
        actor_id: caller.administrator().map(|id| id.0),
        actor: caller.name(),
        actor_path: home.map(|id| tree.id_path(id)).unwrap_or_default(),
        authenticated: context.authenticated.text(),
        source: context.source.map_or_else(|| "unix".to_owned(), |address: IpAddr| address.to_string()),
        operation: event.operation.to_owned(),
        target: event.target.to_owned(),
        before: event.before,
        after: event.after,
        outcome: event.outcome.to_owned(),
        request_id: context.request_id.clone(),
        on_behalf: context.on_behalf.clone(),
        is_chained: is_chained(event.operation, event.outcome),
    }
}

/// Whether records of this kind are chained: all but those of reads that were allowed.
fn is_chained(operation: &str, outcome: &str) -> bool {
    outcome != "done" || operations().iter().all(|one| one.mutates || one.name != operation)
}

/// Takes the records of reads and writes them in batches.
pub(in crate::service) struct ReadTrail {
    queue: mpsc::Sender<Record>,
}

impl ReadTrail {
    /// Starts the writer; it ends, with everything written, when this value is dropped.
    pub fn start(database: Database) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, records) = mpsc::channel(QUEUE_LENGTH_MAX);
        (Self { queue }, tokio::spawn(write_batches(database, records)))
    }

    /// Takes a record.
    pub async fn add(&self, record: Record) {
        // The writer ends only after this sender.
        let _ = self.queue.send(record).await;
    }
}

async fn write_batches(database: Database, mut records: mpsc::Receiver<Record>) {
    let mut batch = Vec::new();
    while records.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let _ = tokio::time::timeout(BATCH_INTERVAL, async {
            while batch.len() < BATCH_MAX {
                let room = BATCH_MAX - batch.len();
                if records.recv_many(&mut batch, room).await == 0 {
                    break;
                }
            }
        })
        .await;
        let full = std::sync::Arc::new(std::mem::take(&mut batch));
        let written = database.write(Priority::Background, move |conn| {
            let full = std::sync::Arc::clone(&full);
            Box::pin(async move { audit::insert(conn, &full).await.map_err(ServiceError::from) })
        });
        if let Err(error) = written.await {
            tracing::error!(%error, "audit records of reads could not be written");
        }
    }
}
