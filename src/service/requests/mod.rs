//! Requests: operations that somebody asks for and others approve.
//!
//! Who holds `request.create` at a customer may ask there for what it may not do. The operation's parameters are frozen
//! then and shown with what it would do. Every step of the process in force must approve ([`process`]); with the last
//! approval the operation is run in the same transaction, by the last approver and with nothing but its rights: targets
//! in its scope, authority, meaning and audit record are those of an operation that it runs itself ([`Nested`]). So no
//! request gives anything that its last approver could not have done.
//!
//! # What must not happen
//! - Nobody approves what it has asked for, nor through an administrator whom it has appointed or who has its contact
//!   address, nor two steps of one request.
//! - An approver is nobody's deputy: customers are frozen as short codes, and an operation is carried out only on the
//!   very object that the requester meant.
//! - Grants, roles, credentials, holds and content cannot be asked for at all; neither can fields that lead there.
//! - A request is void when its customer has moved or is deleted, and when the requester has lost `request.create`
//!   there.

mod decisions;
mod operations;
mod pass;
mod process;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId};
use crate::service::audit::names;
use crate::service::authority::{Caller, Permission, Tree};
use crate::service::context::Identity;
use crate::service::directory::targets::OneCustomer;
use crate::service::directory::{
    customer_life, customer_limits, customers, domains, mailbox_deletion, mailboxes, scope,
};
use crate::service::error::{Result, ServiceError};
use crate::service::expiry::{CustomerExpire, MailboxExpire};
use crate::service::registry::{Located, Need, Nested, Tx};
use crate::storage::metadata::administrator;
use crate::storage::metadata::request::RequestRow;
use crate::storage::metadata::sql::Conn;

pub(in crate::service) use decisions::{RequestApprove, RequestReject, RequestWithdraw};
pub(in crate::service) use operations::{RequestCreate, RequestList, RequestShow};
pub use pass::RequestPass;
pub(in crate::service) use process::{ProcessSet, ProcessShow};

/// Fields that are about quota or expiry, wherever they stand: no process changes who approves them.
const PLAIN_FIELDS: [&str; 4] = ["bytes", "mailboxes", "expires_at", "on_expiry"];
/// Longest parameters of a request, as JSON, in octets.
const FIELDS_OCTETS_MAX: usize = 16 * 1024;

/// An operation that can be asked for.
struct Askable {
    nested: Nested,
    /// The fields that may be given; all when there are none here.
    fields: &'static [&'static str],
    /// What the requester must be allowed to see there, since it is shown what would come of it.
    sees: &'static [Permission],
    /// Whether no process changes who approves it.
    is_plain: bool,
}

static ASKABLE: &[Askable] = &[
    Askable {
        nested: Nested::of::<customers::CustomerCreate>(),
        fields: &[
            "path",
            "name",
            "kind",
            "contact",
            "domain",
            "store",
            "bytes",
            "mailboxes",
            "expires_at",
            "on_expiry",
        ],
        sees: &[Permission::CustomerRead],
        is_plain: false,
    },
    Askable {
        nested: Nested::of::<customer_life::CustomerDelete>(),
        fields: &[],
        sees: &[Permission::CustomerRead],
        is_plain: false,
    },
    Askable {
        nested: Nested::of::<customer_limits::CustomerLimit>(),
        fields: &[],
        sees: &[Permission::CustomerRead],
        is_plain: true,
    },
    Askable {
        nested: Nested::of::<CustomerExpire>(),
        fields: &[],
        sees: &[Permission::CustomerRead],
        is_plain: true,
    },
    Askable {
        nested: Nested::of::<domains::DomainCreate>(),
        fields: &[],
        sees: &[Permission::DomainRead],
        is_plain: false,
    },
    Askable {
        nested: Nested::of::<domains::DomainDelete>(),
        fields: &[],
        sees: &[Permission::DomainRead, Permission::AliasRead],
        is_plain: false,
    },
    Askable {
        nested: Nested::of::<domains::DomainLimit>(),
        fields: &[],
        sees: &[Permission::DomainRead],
        is_plain: true,
    },
    Askable {
        nested: Nested::of::<mailboxes::MailboxCreate>(),
        fields: &["address", "password_hash", "name", "quota", "messages", "store", "customer"],
        sees: &[Permission::MailboxRead],
        is_plain: false,
    },
    Askable {
        nested: Nested::of::<mailbox_deletion::MailboxDelete>(),
        fields: &[],
        sees: &[Permission::MailboxRead, Permission::AliasRead],
        is_plain: false,
    },
    Askable {
        nested: Nested::of::<mailboxes::MailboxRename>(),
        fields: &[],
        sees: &[Permission::MailboxRead],
        is_plain: false,
    },
    Askable {
        nested: Nested::of::<mailboxes::MailboxQuota>(),
        fields: &[],
        sees: &[Permission::MailboxRead],
        is_plain: true,
    },
    Askable {
        nested: Nested::of::<MailboxExpire>(),
        fields: &[],
        sees: &[Permission::MailboxRead],
        is_plain: true,
    },
];

/// The operation of this name, if it can be asked for.
fn askable(name: &str) -> Result<&'static Askable> {
    let known = || ASKABLE.iter().map(|one| one.nested.name).collect::<Vec<_>>().join(", ");
    ASKABLE.iter().find(|one| one.nested.name == name).ok_or_else(|| ServiceError::Invalid {
        field: "operation",
        message: format!("expected one of {}", known()),
    })
}

/// The parameters so that they mean the same in everybody's scope and at any time: customers by their short codes,
/// times as such.
fn freeze(tx: &Tx<'_>, askable: &Askable, fields: &Map<String, Value>) -> Result<Map<String, Value>> {
    let unknown = |name: &str| ServiceError::Invalid {
        field: "fields",
        message: format!("{name} cannot be asked for with {}", askable.nested.name),
    };
    let mut frozen = Map::new();
    for (name, value) in fields {
        if !askable.fields.is_empty() && !askable.fields.contains(&name.as_str()) {
            return Err(unknown(name));
        }
        let value = match (name.as_str(), value.as_str()) {
            ("path", Some(path)) if askable.nested.name == "customer.create" => {
                let path = path.trim_matches('/');
                let (upper, last) = path.rsplit_once('/').unwrap_or(("", path));
                Value::String(format!("{}/{last}", code(tx, upper)?))
            }
            ("path" | "customer", Some(path)) => Value::String(code(tx, path)?),
            ("expires_at", Some(time)) => {
                let at = scope::until("expires_at", Some(time), tx.now)?;
                at.map_or(Value::Null, |at| Value::String(at.to_string()))
            }
            _ => value.clone(),
        };
        frozen.insert(name.clone(), value);
    }
    if Value::Object(frozen.clone()).to_string().len() > FIELDS_OCTETS_MAX {
        return Err(ServiceError::Limit(format!("parameters of at most {FIELDS_OCTETS_MAX} octets")));
    }
    Ok(frozen)
}

fn code(tx: &Tx<'_>, path: &str) -> Result<String> {
    let one = OneCustomer::find(tx, path)?;
    let node = tx.caller.tree.node(one.id);
    node.map(|node| node.code.to_string())
        .ok_or_else(|| ServiceError::Internal("a customer vanished inside a transaction".to_owned()))
}

/// Parameters as they may be shown, and kept when the request is decided.
fn shown_fields(fields: &str) -> Value {
    let mut fields = json(fields);
    if let Some(members) = fields.as_object_mut() {
        members.retain(|name, _| !name.starts_with("password"));
    }
    fields
}

/// JSON of the database's own.
fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// What it takes, as it is kept.
type KeptNeed = (Option<CustomerId>, String, bool, Option<i64>);

fn keep_needs(needs: &[Need]) -> String {
    let keep = |need: &Need| -> KeptNeed {
        (need.at, need.permission.name().to_owned(), need.delegable, need.until.map(|until| until.0))
    };
    serde_json::to_string(&needs.iter().map(keep).collect::<Vec<_>>()).unwrap_or_default()
}

fn kept_needs(text: &str) -> Result<Vec<Need>> {
    let broken = || ServiceError::Internal("the needs of a request cannot be read".to_owned());
    let kept: Vec<KeptNeed> = serde_json::from_str(text).map_err(|_| broken())?;
    let known: BTreeMap<&str, Permission> = Permission::ALL.iter().map(|&one| (one.name(), one)).collect();
    let need = |(at, name, delegable, until): KeptNeed| {
        let permission = *known.get(name.as_str()).ok_or_else(broken)?;
        Ok(Need { at, permission, delegable, until: until.map(Timestamp), zone: None })
    };
    kept.into_iter().map(need).collect()
}

/// The caller's key in these tables; 0 for the system.
fn key_of(caller: &Caller) -> i64 {
    caller.administrator().map_or(0, |id| id.0)
}

/// The caller's name, as a reference.
fn name_of(caller: &Caller) -> String {
    let home = caller.home().unwrap_or(CustomerId(0));
    names::administrator(&caller.tree, home, &caller.name())
}

/// An administrator with what it may now; nothing when it is gone or disabled. 0 is the system.
async fn standing_of(
    conn: &mut Conn,
    tree: &std::sync::Arc<Tree>,
    key: i64,
    now: Timestamp,
) -> Result<Option<Caller>> {
    let identity = if key == 0 {
        Identity::System
    } else {
        let row = administrator::by_id(conn, AdministratorId(key)).await?;
        let Some(row) = row.filter(|row| row.enabled) else { return Ok(None) };
        Identity::Administrator { id: row.id, home: row.customer, name: row.name }
    };
    Caller::read(conn, std::sync::Arc::clone(tree), identity, now).await.map(Some)
}

/// Why a request can no longer be approved, if so.
async fn void(
    conn: &mut Conn,
    tree: &std::sync::Arc<Tree>,
    row: &RequestRow,
    now: Timestamp,
) -> Result<Option<&'static str>> {
    if tree.node(row.customer).is_none_or(|node| node.deleted) {
        return Ok(Some("its customer was deleted"));
    }
    if tree.id_path(row.customer) != row.place_path {
        return Ok(Some("its customer was moved"));
    }
    let requester = standing_of(conn, tree, row.requester, now).await?;
    let stands =
        requester.is_some_and(|caller| caller.effective(row.customer).has(Permission::RequestCreate));
    Ok((!stands).then_some("who asked for it may no longer ask there"))
}

/// What the request is bound to.
fn bound_to(row: &RequestRow) -> Located {
    Located { place: row.customer, recorded: row.target.clone(), key: row.target_key.clone() }
}
