//! Events: what was changed, told to programs as it happens.
//!
//! An event is a change in the audit trail, in the view of whoever follows it. The trail is also the queue: it is
//! durable, in order, and bounded by its retention, so that whoever was away goes on from where it was.

mod list;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

pub(in crate::service) use list::EventList;

use crate::base::clock::Timestamp;
use crate::service::audit::{AuditEntry, entry};
use crate::service::authority::Caller;
use crate::service::registry::operation;
use crate::storage::metadata::audit::Record;

/// A change.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Event {
    /// Random id: that of the audit record.
    pub id: String,
    /// When it was done.
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// What was done: the operation's name, such as `mailbox.create`.
    pub kind: String,
    /// Path of the customer to which it was done, as it was then, from the topmost that the reader may see.
    pub customer: String,
    /// Who did it; `provider` for somebody above.
    pub actor: String,
    /// To what.
    pub target: String,
    /// What stood there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What stands there after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

impl Event {
    /// The event that a record is for this reader.
    pub fn new(reader: &Caller, record: Record) -> Self {
        let AuditEntry { id, at, customer, actor, operation, target, before, after, .. } =
            entry(reader, record, false);
        Self { id, at, kind: operation, customer, actor, target, before, after }
    }
}

/// Whether a record is of a change that was done. What is no operation is something that the system did by itself.
pub(in crate::service) fn is_change(name: &str, outcome: &str) -> bool {
    outcome == "done" && operation(name).is_none_or(|one| one.mutates)
}

/// Whether a kind is one of those asked for: all without any; with a dot at the end those that begin with it.
pub(in crate::service) fn is_wanted(kinds: &[String], kind: &str) -> bool {
    kinds.is_empty()
        || kinds
            .iter()
            .any(|one| if one.ends_with('.') { kind.starts_with(one.as_str()) } else { kind == one })
}
