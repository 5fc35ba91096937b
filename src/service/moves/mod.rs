//! Mailboxes that move: to another mail store, and with their domain to another customer. What moves a mailbox is one
//! transaction; its bodies follow (`storage/homing.rs`), in a job or by themselves, while everybody goes on using it.

pub(in crate::service) mod drain;
pub(in crate::service) mod mailbox;
mod rehoming;

pub use rehoming::Rehoming;

use std::sync::Arc;

use serde::Serialize;

use crate::base::id::MailboxId;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::JobContext;
use crate::service::server::starting;
use crate::storage::StorageError;
use crate::storage::homing::{Homed, Homing};
use crate::storage::metadata::home;

/// What came of a move.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub(in crate::service) struct Moved {
    /// Messages, expunged ones that can come back too.
    messages: u64,
    /// Octets of their bodies.
    octets: u64,
    /// Bodies that are damaged where they are, and stay there.
    damaged: u64,
}

impl From<Homed> for Moved {
    fn from(homed: Homed) -> Self {
        Self { messages: homed.messages, octets: homed.octets, damaged: homed.damaged }
    }
}

/// What brings bodies home on this node.
fn homing(context: &JobContext) -> Result<Homing> {
    let bodies = context.inner.bodies.get().ok_or_else(starting)?.clone();
    Ok(Homing::new(bodies, context.inner.packer.get().map(Arc::clone)))
}

/// Octets of mailboxes, about.
async fn octets_of(context: &JobContext, mailboxes: Vec<MailboxId>) -> Result<u64> {
    let read =
        context.inner.database.read(|conn| Box::pin(async move { home::octets_of(conn, &mailboxes).await }));
    read.await.map_err(|error: StorageError| ServiceError::from(error))
}
