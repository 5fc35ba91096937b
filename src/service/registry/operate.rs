//! What an operation is made of.

use std::future::Future;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::Method;
use super::management::Inner;
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, ZoneId};
use crate::service::authority::{Caller, Permission, Tree};
use crate::service::context::Context;
use crate::service::error::Result;
use crate::storage::metadata::audit::Record;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::sql::Conn;

/// The transaction an operation runs in, with who asks.
pub(in crate::service) struct Tx<'c> {
    /// The connection.
    pub conn: &'c mut Conn,
    /// The services.
    pub inner: &'c Inner,
    /// Who asks and what they may.
    pub caller: &'c Caller,
    /// The request.
    pub context: &'c Context,
    /// The present.
    pub now: Timestamp,
    /// Random id of this run: the audit record's, and the mark of what it deletes.
    pub operation_id: String,
    /// What stood there before, for the audit trail; no secrets. What depends on who looks is left out when it is
    /// recorded, and other customers and administrators are named by references (see [`crate::service::audit::names`]).
    pub before: Option<serde_json::Value>,
    /// What stands there after.
    pub after: Option<serde_json::Value>,
    /// Other customers that the change concerns: each gets a record of its own.
    pub also: Vec<CustomerId>,
    /// Whether the change is only tried: effects besides the database must not happen.
    pub dry_run: bool,
    /// Whether a job was entered.
    pub starts_job: bool,
    /// Records of operations that were run as parts of this one and refused; they are kept whatever becomes of the
    /// transaction. See [`super::within`].
    pub refused: Vec<Record>,
    /// The hierarchy that stays when this part is undone: what was not in it yet can have no records.
    pub standing: Arc<Tree>,
}

/// A permission that an operation needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::service) struct Need {
    /// Where; nothing means above the root: only a system administrator has authority there.
    pub at: Option<CustomerId>,
    /// Which.
    pub permission: Permission,
    /// Whether it must be held so that it can be passed on.
    pub delegable: bool,
    /// Until when it must be held for that; nothing means for good.
    pub until: Option<Timestamp>,
    /// A zone in which holding it is enough.
    pub zone: Option<ZoneId>,
}

impl Need {
    /// The permission at a customer.
    pub fn at(customer: CustomerId, permission: Permission) -> Self {
        Self { at: Some(customer), permission, delegable: false, until: None, zone: None }
    }

    /// The permission at the root, or in this zone: for what acts on a mail store or a server in it.
    pub fn in_zone(root: CustomerId, permission: Permission, zone: Option<ZoneId>) -> Self {
        Self { zone, ..Self::at(root, permission) }
    }

    /// Whether the caller holds it.
    pub fn is_held_by(&self, caller: &Caller) -> bool {
        let in_zone = |zone: ZoneId| match self.delegable {
            true => caller.zones.delegable(zone, self.until).has(self.permission),
            false => caller.zones.may(zone, self.permission),
        };
        let is_held = match self.at {
            Some(node) if self.delegable => caller.delegable(node, self.until).has(self.permission),
            at => caller.may(at, self.permission),
        };
        is_held || self.zone.is_some_and(in_zone)
    }

    /// The permission above a customer: at its parent, for the root a system administrator's.
    pub fn above(tx: &Tx<'_>, customer: CustomerId, permission: Permission) -> Self {
        let at = tx.caller.tree.node(customer).and_then(|node| node.parent);
        Self { at, permission, delegable: false, until: None, zone: None }
    }
}

/// What an operation acts on.
pub(in crate::service) trait Targeted {
    /// The customer to which it belongs: there authority is asked and the audit record is kept.
    fn customer(&self) -> CustomerId;
    /// Its name for the caller.
    fn label(&self) -> String;
    /// Its name in the audit trail: customers and administrators as references (see [`crate::service::audit::names`]).
    /// By default the label, for what names neither.
    fn recorded(&self, tree: &Tree) -> String {
        let _ = tree;
        self.label()
    }
    /// What it is, whatever it is called: no other object has the same, not even one that takes its name later. By
    /// default the label, for what is only ever known by its name.
    fn key(&self) -> String {
        self.label()
    }
    /// Whether the caller reaches it through a zone, without seeing its customer: the audit record is kept there
    /// nevertheless.
    fn is_in_zone(&self) -> bool {
        false
    }
}

/// A management operation. Implementors are listed in `registry/list.rs`.
pub(in crate::service) trait Operate: 'static {
    /// See [`super::Operation::name`].
    const NAME: &'static str;
    /// See [`super::Operation::method`].
    const METHOD: Method;
    /// See [`super::Operation::path`].
    const PATH: &'static str;
    /// See [`super::Operation::permission`].
    const PERMISSION: Permission;
    /// See [`super::Operation::mutates`].
    const MUTATES: bool;
    /// See [`super::Operation::summary`].
    const SUMMARY: &'static str;
    /// See [`super::Operation::starts_job`].
    const STARTS_JOB: bool = false;
    /// See [`super::Operation::watched`].
    const WATCHED: bool = false;
    /// See [`super::Operation::followed`].
    const FOLLOWED: bool = false;
    /// See [`super::Operation::by_code`].
    const BY_CODE: bool = false;
    /// Whether it is a part of setting up one's own second factor: all that is open to who lacks a demanded one.
    const SETS_UP_FACTOR: bool = false;
    /// Where it waits for its turn to write.
    const PRIORITY: Priority = Priority::Interactive;
    /// The fields from path, query and body; unknown ones are refused.
    type Request: DeserializeOwned + ToSchema + Clone + Send + Sync + 'static;
    /// The answer.
    type Response: Serialize + ToSchema + Send + 'static;
    /// What it acts on.
    type Target: Targeted + Send + Sync;

    /// Work on the request that must not be done inside a transaction, such as hashing a password.
    fn prepare(inner: &Inner, request: Self::Request) -> impl Future<Output = Result<Self::Request>> + Send {
        let _ = inner;
        std::future::ready(Ok(request))
    }

    /// Finds what it acts on, within what the caller may see. The only refusals are "does not exist", the same for
    /// what is not there and what the caller may not see, and values that can name nothing.
    fn target<'a>(
        tx: &'a mut Tx<'_>,
        request: &'a Self::Request,
    ) -> impl Future<Output = Result<Self::Target>> + Send + 'a;

    /// What the caller must hold: by default [`Self::PERMISSION`] at the target's customer.
    fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Self::Target,
        request: &'a Self::Request,
    ) -> impl Future<Output = Result<Vec<Need>>> + Send + 'a {
        let _ = (tx, request);
        std::future::ready(Ok(vec![Need::at(target.customer(), Self::PERMISSION)]))
    }

    /// The entity tag of what it acts on, for If-Match; nothing where there is none.
    fn etag<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Self::Target,
    ) -> impl Future<Output = Result<Option<String>>> + Send + 'a {
        let _ = (tx, target);
        std::future::ready(Ok(None))
    }

    /// Checks the meaning and does it.
    fn run<'a>(
        tx: &'a mut Tx<'_>,
        target: Self::Target,
        request: Self::Request,
    ) -> impl Future<Output = Result<Self::Response>> + Send + 'a;
}

/// Declares an operation's constants: `declare! { "mailbox.create", Post, "/v1/mailboxes", MailboxCreate, changes,
/// "Create a mailbox" }`; the fifth word is `changes` or `reads`.
macro_rules! declare {
    (@ changes) => {
        true
    };
    (@ reads) => {
        false
    };
    ($name:literal, $method:ident, $path:literal, $permission:ident, $kind:ident, $summary:literal $(,)?) => {
        const NAME: &'static str = $name;
        const METHOD: $crate::service::registry::Method = $crate::service::registry::Method::$method;
        const PATH: &'static str = $path;
        const PERMISSION: $crate::service::authority::Permission =
            $crate::service::authority::Permission::$permission;
const MUTATES: bool = $crate::service::registry::declare!(@ $kind);
        const SUMMARY: &'static str = $summary;
    };
}
pub(in crate::service) use declare;
