//! Asking and looking.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::process::{self, ASKING, ProcessStep, steps, tell, waits_for};
use super::{Askable, PLAIN_FIELDS, askable, freeze, json, keep_needs, key_of, name_of, shown_fields};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::audit::names;
use crate::service::authority::Tree;
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::passwords;
use crate::service::directory::scope::{Place, plain_text};
use crate::service::directory::targets::absent;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Located, Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::request::{self, RequestRow};
use crate::storage::metadata::trial;

/// How long a request waits.
const LASTS: Duration = Duration::from_secs(30 * 86_400);
/// Most open requests of one requester, and at one customer.
const OPEN_OF_REQUESTER_MAX: i64 = 100;
const OPEN_AT_CUSTOMER_MAX: i64 = 1_000;
/// Longest effects that are kept, as JSON, in octets.
const EFFECTS_OCTETS_MAX: usize = 64 * 1024;

/// An approval.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Approval {
    /// Which step, from 1.
    step: usize,
    /// By whom; `provider` for somebody above.
    approver: String,
    #[schema(value_type = String)]
    at: Timestamp,
}

/// A request.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Request {
    /// Random id.
    id: String,
    /// The operation asked for.
    operation: String,
    /// What it acts on.
    target: String,
    /// Path of the customer.
    customer: String,
    /// Its frozen parameters, customers by their short codes; a password is not shown.
    #[schema(value_type = Object)]
    fields: Value,
    /// What it would have done when it was asked for.
    #[schema(value_type = Object)]
    effects: Value,
    /// Why it is asked for.
    reason: String,
    /// Who asks; `provider` for somebody above.
    requester: String,
    /// `open`, `done`, `rejected`, `withdrawn`, `expired` or `void`.
    state: String,
    /// The step that it waits for, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
    /// How many steps there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<usize>,
    /// Path of the customer at which it waits; `provider` above what the caller sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_at: Option<String>,
    /// For whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    approvals: Vec<Approval>,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = String)]
    expires_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    decided_at: Option<Timestamp>,
    /// Who has decided; `provider` for somebody above.
    #[serde(skip_serializing_if = "Option::is_none")]
    decided_by: Option<String>,
    /// What was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    decision: Option<String>,
}

pub(super) async fn show(tx: &mut Tx<'_>, row: RequestRow) -> Result<Request> {
    let (mut step, mut of, mut waits_at, mut waits_for) = (None, None, None, None);
    if row.state == "open" {
        let path = tx.caller.path_of(row.waits_at);
        let all = steps(tx.conn, row.process).await?;
        let (told, count) = match all.get(row.step) {
            // What stands above the reader says no more than that.
            Some(one) if path.is_some() => (Some(tell(tx, one).await?), all.len()),
            _ => (None, all.len()),
        };
        waits_for = told.as_ref().map(ProcessStep::words);
        waits_at = Some(path.unwrap_or_else(|| "provider".to_owned()));
        (step, of) = (Some(row.step + 1), Some(count));
    }
    let approvals = request::approvals(tx.conn, row.id).await?;
    let told = |kept: &str| names::text(tx.caller, kept, false);
    let is_own = row.requester == key_of(tx.caller);
    Ok(Request {
        operation: row.operation,
        target: told(&row.target),
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        fields: shown_fields(&row.fields),
        effects: json(&row.effects),
        reason: row.reason,
        requester: names::text(tx.caller, &row.requester_name, is_own),
        step,
        steps: of,
        waits_at,
        waits_for,
        approvals: approvals
            .iter()
            .map(|one| Approval { step: one.step + 1, approver: told(&one.approver), at: one.at })
            .collect(),
        created_at: row.created_at,
        expires_at: row.expires_at,
        decided_at: row.decided_at,
        decided_by: row.decided_by.as_deref().map(told),
        decision: row.decision,
        state: row.state,
        id: row.public_id,
    })
}

/// What to ask for.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RequestCreateRequest {
    /// The operation: `customer.create`, `.delete`, `.limit`, `.expire`, `domain.create`, `.delete`, `.limit`,
    /// `mailbox.create`, `.delete`, `.rename`, `.quota` or `.expire`.
    operation: String,
    /// Its parameters, as for the operation itself.
    #[schema(value_type = Object)]
    fields: Map<String, Value>,
    /// Why; the approvers see it.
    reason: Option<String>,
    /// Characters of a new mailbox's password; counted before it is hashed.
    #[serde(skip)]
    #[schema(ignore)]
    password_characters: Option<usize>,
}

/// What is asked for.
pub(in crate::service) struct Asking {
    askable: &'static Askable,
    fields: Map<String, Value>,
    on: Located,
}

impl Targeted for Asking {
    fn customer(&self) -> CustomerId {
        self.on.place
    }

    fn label(&self) -> String {
        format!("{} of {}", self.askable.nested.name, self.on.recorded)
    }

    fn recorded(&self, _: &Tree) -> String {
        self.label()
    }
}

/// `request.create`.
pub(in crate::service) struct RequestCreate;

impl Operate for RequestCreate {
    declare! { "request.create", Post, "/v1/requests", RequestCreate, changes,
    "Ask for an operation that others have to approve" }
    type Request = RequestCreateRequest;
    type Response = Request;
    type Target = Asking;

    async fn prepare(_: &Inner, mut request: RequestCreateRequest) -> Result<RequestCreateRequest> {
        if request.operation == "mailbox.create" {
            let text = |value: Option<Value>| match value {
                Some(Value::String(text)) => Some(text),
                _ => None,
            };
            let password = text(request.fields.remove("password"));
            let imported = text(request.fields.remove("password_hash"));
            let (hash, characters) = passwords::hash(password, imported).await?;
            request.fields.insert("password_hash".to_owned(), hash.into());
            request.password_characters = characters;
        }
        Ok(request)
    }

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RequestCreateRequest) -> Result<Asking> {
        let askable = askable(&request.operation)?;
        let fields = freeze(tx, askable, &request.fields)?;
        let on = (askable.nested.locate)(tx, fields.clone().into()).await?;
        Ok(Asking { askable, fields, on })
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Asking,
        _: &'a RequestCreateRequest,
    ) -> Result<Vec<Need>> {
        let _ = tx;
        let asks = std::iter::once(&ASKING).chain(target.askable.sees);
        Ok(asks.map(|&permission| Need::at(target.on.place, permission)).collect())
    }

    async fn run(tx: &mut Tx<'_>, target: Asking, request: RequestCreateRequest) -> Result<Request> {
        let Asking { askable, fields, on } = target;
        let reason = plain_text("reason", request.reason.as_deref().unwrap_or_default())?;
        let (own, here) = request::count_open(tx.conn, key_of(tx.caller), on.place).await?;
        if own >= OPEN_OF_REQUESTER_MAX || here >= OPEN_AT_CUSTOMER_MAX {
            return Err(ServiceError::Limit("too many open requests; withdraw some".to_owned()));
        }
        passwords::long_enough(tx, on.place, request.password_characters).await?;
        let needs = (askable.nested.needs)(tx, fields.clone().into()).await?;
        trial::begin(tx.conn).await?;
        let effects = (askable.nested.attempt)(tx, fields.clone().into()).await?;
        trial::undo(tx.conn).await?;
        let effects = Some(names::recorded(effects).to_string());
        let is_plain = askable.is_plain || fields.keys().any(|name| PLAIN_FIELDS.contains(&name.as_str()));
        let process = if is_plain { None } else { process::nearest(tx, on.place).await? };
        let tree = std::sync::Arc::clone(&tx.caller.tree);
        let mut row = RequestRow {
            id: 0,
            public_id: String::new(),
            customer: on.place,
            place_path: tree.id_path(on.place),
            operation: askable.nested.name.to_owned(),
            fields: Value::Object(fields).to_string(),
            effects: effects
                .filter(|text| text.len() <= EFFECTS_OCTETS_MAX)
                .unwrap_or_else(|| "{}".to_owned()),
            target: on.recorded,
            target_key: on.key,
            needs: keep_needs(&needs),
            requester: key_of(tx.caller),
            requester_name: name_of(tx.caller),
            reason,
            state: "open".to_owned(),
            process: process.map(|row| row.id),
            step: 0,
            waits_at: on.place,
            created_at: tx.now,
            expires_at: tx.now.plus(LASTS),
            decided_at: None,
            decided_by: None,
            decision: None,
        };
        (row.id, row.public_id) = request::insert(tx.conn, &row).await?;
        row.waits_at = process::enter(tx.conn, &tree, (&row, row.process, 0), tx.now).await?;
        tx.after = Some(serde_json::json!({ "id": row.public_id, "fields": shown_fields(&row.fields) }));
        show(tx, row).await
    }
}

/// Which requests to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct RequestListRequest {
    /// Only at this customer and those below; default: everywhere the caller may ask.
    customer: Option<String>,
    /// Only the caller's own, wherever they are.
    #[serde(default)]
    mine: bool,
    /// Only those that wait for the caller.
    #[serde(default)]
    to_approve: bool,
    /// Only open ones.
    #[serde(default)]
    open: bool,
    /// Most requests looked at, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `request.list`.
pub(in crate::service) struct RequestList;

impl Operate for RequestList {
    declare! { "request.list", Get, "/v1/requests", RequestCreate, reads, "List requests, the newest first" }
    type Request = RequestListRequest;
    type Response = Page<Request>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a RequestListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: RequestListRequest) -> Result<Page<Request>> {
        let limit = limit(request.limit)?;
        let filter = RequestListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let before: Option<i64> = cursors.read(request.cursor.as_deref())?;
        let customers = target.customers(tx);
        let whose = (&customers, request.mine.then(|| key_of(tx.caller)));
        let open = request.open || request.to_approve;
        let rows = request::page(tx.conn, whose, open, before, limit + 1).await?;
        let Page { items: rows, cursor } = Page::cut(rows, limit, &cursors, |row| row.id, |row| row)?;
        let mut items = Vec::new();
        for row in rows {
            if !request.to_approve || waits_for(tx, &row).await? {
                items.push(show(tx, row).await?);
            }
        }
        Ok(Page { items, cursor })
    }
}

/// Which request.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct OneRequestRequest {
    /// Its id.
    pub(super) id: String,
}

/// A request at a customer that the caller sees, or of the caller's own.
pub(in crate::service) struct OneRequest(pub(super) RequestRow);

impl OneRequest {
    pub(super) async fn find(tx: &mut Tx<'_>, id: &str) -> Result<Self> {
        let row = request::by_public_id(tx.conn, id).await?;
        let row = row.filter(|row| tx.caller.sees(row.customer));
        row.map(Self).ok_or_else(|| absent("request", id))
    }
}

impl Targeted for OneRequest {
    fn customer(&self) -> CustomerId {
        self.0.customer
    }

    fn label(&self) -> String {
        format!("request {}", self.0.public_id)
    }
}

/// `request.show`.
pub(in crate::service) struct RequestShow;

impl Operate for RequestShow {
    declare! { "request.show", Get, "/v1/requests/{id}", RequestCreate, reads,
    "Show a request with its parameters and effects" }
    type Request = OneRequestRequest;
    type Response = Request;
    type Target = OneRequest;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a OneRequestRequest) -> Result<OneRequest> {
        OneRequest::find(tx, &request.id).await
    }

    async fn run(tx: &mut Tx<'_>, OneRequest(row): OneRequest, _: OneRequestRequest) -> Result<Request> {
        show(tx, row).await
    }
}
