//! Making, seeing and removing webhooks.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::signature;
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::base::post::Target;
use crate::service::audit::names;
use crate::service::authority::{Permission, Tree};
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::scope::Place;
use crate::service::directory::targets::{OneCustomer, absent};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Operate, Targeted, Tx, declare, operations};
use crate::service::server::starting;
use crate::storage::metadata::event;
use crate::storage::metadata::webhook::{self, NewWebhook, WebhookRow};

/// Most webhooks of one customer.
const OF_A_CUSTOMER_MAX: i64 = 20;
/// Most kinds of one webhook.
const KINDS_MAX: usize = 50;

/// A webhook.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Webhook {
    /// Random id.
    id: String,
    /// Path of its customer.
    customer: Option<String>,
    /// Where events are sent.
    url: String,
    /// Their kinds; empty: all.
    kinds: Vec<String>,
    /// `on`, `retrying`, or `off`.
    state: &'static str,
    /// How many events were taken.
    delivered: i64,
    #[schema(value_type = Option<String>)]
    delivered_at: Option<Timestamp>,
    /// What the last attempt came to: a status such as `204`, or why there was none.
    outcome: String,
    /// How often the present event was not taken.
    attempts: i64,
    #[schema(value_type = Option<String>)]
    failing_since: Option<Timestamp>,
    /// When it is sent again.
    #[schema(value_type = Option<String>)]
    next_at: Option<Timestamp>,
    #[schema(value_type = String)]
    created_at: Timestamp,
    /// What signs events; shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

fn show(tx: &Tx<'_>, row: WebhookRow) -> Webhook {
    let state = match (row.enabled, row.attempts) {
        (false, _) => "off",
        (true, 0) => "on",
        (true, _) => "retrying",
    };
    Webhook {
        id: row.public_id,
        customer: tx.caller.path_of(row.customer),
        url: row.url,
        kinds: serde_json::from_str(&row.kinds).unwrap_or_default(),
        state,
        delivered: row.delivered,
        delivered_at: row.delivered_at,
        outcome: row.outcome,
        attempts: row.attempts,
        failing_since: row.failing_since,
        next_at: Some(row.next_at).filter(|_| state == "retrying"),
        created_at: row.created_at,
        secret: None,
    }
}

/// For the audit trail: an address may hold secrets of its own, so that its host alone is kept.
fn recorded(row: &WebhookRow) -> serde_json::Value {
    let host = Target::parse(&row.url).map(|target| target.host().to_owned()).unwrap_or_default();
    json!({ "id": row.public_id, "host": host, "kinds": row.kinds, "enabled": row.enabled })
}

/// One visible webhook.
pub(in crate::service) struct OneWebhook {
    pub row: WebhookRow,
}

impl OneWebhook {
    pub(super) async fn find(tx: &mut Tx<'_>, id: &str) -> Result<Self> {
        let row = webhook::by_public_id(tx.conn, id).await?;
        let row = row.filter(|row| tx.caller.sees(row.customer)).ok_or_else(|| absent("webhook", id))?;
        Ok(Self { row })
    }
}

impl Targeted for OneWebhook {
    fn customer(&self) -> CustomerId {
        self.row.customer
    }

    fn label(&self) -> String {
        format!("webhook {}", self.row.public_id)
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("webhook {} of customer {}", self.row.public_id, names::customer(tree, self.row.customer))
    }
}

/// A webhook to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct WebhookCreateRequest {
    /// Path of the customer whose events, and of those below, are sent.
    customer: String,
    /// Where to: `https://HOST/PATH`. Without TLS only to networks that the operator has named.
    url: String,
    /// Kinds of events; with a dot at the end all that begin with it. Default: all.
    #[serde(default)]
    kinds: Vec<String>,
}

/// `webhook.create`.
pub(in crate::service) struct WebhookCreate;

impl Operate for WebhookCreate {
    declare! { "webhook.create", Post, "/v1/webhooks", WebhookManage, changes,
    "Have the events of a customer and those below sent to another system" }
    type Request = WebhookCreateRequest;
    type Response = Webhook;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a WebhookCreateRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: WebhookCreateRequest) -> Result<Webhook> {
        let WebhookCreateRequest { url, kinds, .. } = request;
        check_url(tx, &url)?;
        check_kinds(&kinds)?;
        let customer = target.customer();
        if webhook::count(tx.conn, customer).await? >= OF_A_CUSTOMER_MAX {
            let message = format!("a customer has at most {OF_A_CUSTOMER_MAX} webhooks");
            return Err(ServiceError::Limit(message));
        }
        let position = event::newest(tx.conn).await?;
        let (kinds, secret) = (json!(kinds).to_string(), signature::secret());
        let new = NewWebhook { customer, url, kinds, secret: secret.clone(), position };
        let id = webhook::insert(tx.conn, new, tx.now).await?;
        let row = webhook::by_public_id(tx.conn, &id).await?.ok_or_else(|| absent("webhook", &id))?;
        tx.after = Some(recorded(&row));
        Ok(Webhook { secret: Some(secret), ..show(tx, row) })
    }
}

fn check_url(tx: &Tx<'_>, url: &str) -> Result<()> {
    let wrong = |message: String| ServiceError::Invalid { field: "url", message };
    let target = Target::parse(url).map_err(wrong)?;
    let webhooks = tx.inner.webhooks.get().ok_or_else(starting)?;
    if !target.is_tls() && !webhooks.poster().reaches_private() {
        return Err(wrong(
            "expected https://; without TLS only to networks of webhooks.allow_networks".to_owned(),
        ));
    }
    Ok(())
}

/// Each means at least one operation that changes something.
fn check_kinds(kinds: &[String]) -> Result<()> {
    let wrong = |message: String| Err(ServiceError::Invalid { field: "kinds", message });
    if kinds.len() > KINDS_MAX {
        return wrong(format!("expected at most {KINDS_MAX}"));
    }
    let known = |kind: &String| {
        let wanted = std::slice::from_ref(kind);
        operations().iter().any(|one| one.mutates && crate::service::events::is_wanted(wanted, one.name))
    };
    match kinds.iter().find(|kind| !known(kind)) {
        Some(kind) => {
            wrong(format!("nothing that is changed is called {kind}; expected for instance mailbox."))
        }
        None => Ok(()),
    }
}

/// Which webhooks.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct WebhookListRequest {
    /// Only of this customer and those below; default: wherever the caller may.
    customer: Option<String>,
    /// Most webhooks, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `webhook.list`.
pub(in crate::service) struct WebhookList;

impl Operate for WebhookList {
    declare! { "webhook.list", Get, "/v1/webhooks", WebhookManage, reads, "List webhooks" }
    type Request = WebhookListRequest;
    type Response = Page<Webhook>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a WebhookListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::WebhookManage)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: WebhookListRequest) -> Result<Page<Webhook>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &("webhooks", &request.customer));
        let after: Option<i64> = cursors.read(request.cursor.as_deref())?;
        let customers = target.customer_ids(tx);
        let rows = webhook::list(tx.conn, customers, after.unwrap_or(0), limit + 1).await?;
        Page::cut(rows, limit, &cursors, |row| row.id, |row| show(tx, row))
    }
}

/// Which webhook.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct WebhookRequest {
    /// Its id.
    pub(super) id: String,
}

/// `webhook.show`.
pub(in crate::service) struct WebhookShow;

impl Operate for WebhookShow {
    declare! { "webhook.show", Get, "/v1/webhooks/{id}", WebhookManage, reads,
    "A webhook, and what became of what was sent" }
    type Request = WebhookRequest;
    type Response = Webhook;
    type Target = OneWebhook;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a WebhookRequest) -> Result<OneWebhook> {
        OneWebhook::find(tx, &request.id).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneWebhook, _: WebhookRequest) -> Result<Webhook> {
        Ok(show(tx, target.row))
    }
}

/// Which webhook to switch on again.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct WebhookEnableRequest {
    /// Its id.
    id: String,
    /// Leave out what was changed while it was off.
    #[serde(default)]
    from_now: bool,
}

/// `webhook.enable`.
pub(in crate::service) struct WebhookEnable;

impl Operate for WebhookEnable {
    declare! { "webhook.enable", Post, "/v1/webhooks/{id}/enable", WebhookManage, changes,
    "Send again, from where it stopped" }
    type Request = WebhookEnableRequest;
    type Response = Webhook;
    type Target = OneWebhook;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a WebhookEnableRequest) -> Result<OneWebhook> {
        OneWebhook::find(tx, &request.id).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneWebhook, request: WebhookEnableRequest) -> Result<Webhook> {
        tx.before = Some(recorded(&target.row));
        let position = if request.from_now { Some(event::newest(tx.conn).await?) } else { None };
        webhook::enable(tx.conn, target.row.id, position).await?;
        let id = target.row.public_id;
        let row = webhook::by_public_id(tx.conn, &id).await?.ok_or_else(|| absent("webhook", &id))?;
        tx.after = Some(recorded(&row));
        Ok(show(tx, row))
    }
}

/// `webhook.delete`.
pub(in crate::service) struct WebhookDelete;

impl Operate for WebhookDelete {
    declare! { "webhook.delete", Delete, "/v1/webhooks/{id}", WebhookManage, changes, "Send nothing any more" }
    type Request = WebhookRequest;
    type Response = Webhook;
    type Target = OneWebhook;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a WebhookRequest) -> Result<OneWebhook> {
        OneWebhook::find(tx, &request.id).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneWebhook, _: WebhookRequest) -> Result<Webhook> {
        webhook::delete(tx.conn, target.row.id).await?;
        tx.before = Some(recorded(&target.row));
        Ok(show(tx, target.row))
    }
}
