//! `audit search`: what was done at the customers where the reader holds `audit.read`, or by the reader.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::{Caller, Permission};
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::scope::{Place, moment};
use crate::service::error::Result;
use crate::service::registry::{Method, Need, Operate, Targeted, Tx};
use crate::storage::metadata::audit::{Record, Search, search};

/// What to search for.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AuditSearchRequest {
    /// Only at this customer and below; default: everywhere the caller holds `audit.read`.
    customer: Option<String>,
    /// Only what the caller did itself; needs no permission.
    #[serde(default)]
    mine: bool,
    /// Only actors whose name contains this.
    actor: Option<String>,
    /// Only this operation; with a dot at the end all that begin with it.
    operation: Option<String>,
    /// Only targets that contain this.
    target: Option<String>,
    /// Only records with this in target, before or after.
    text: Option<String>,
    /// Only this outcome: `done`, `refused`, or one reason such as `forbidden`.
    outcome: Option<String>,
    /// Not before this time: RFC 3339, or relative such as `2d`.
    since: Option<String>,
    /// Before this time.
    until: Option<String>,
    /// Most records, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// One record.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct AuditEntry {
    id: String,
    #[schema(value_type = String)]
    at: Timestamp,
    /// Path of the customer, as it was then, from the topmost that the reader may see.
    customer: String,
    actor: String,
    authenticated: String,
    source: String,
    operation: String,
    target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<serde_json::Value>,
    outcome: String,
    request_id: String,
}

/// `audit.search`.
pub(in crate::service) struct AuditSearch;

impl Operate for AuditSearch {
    const NAME: &'static str = "audit.search";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/audit";
    const PERMISSION: Permission = Permission::AuditRead;
    const MUTATES: bool = false;
    const SUMMARY: &'static str = "Search the audit trail, newest first";
    type Request = AuditSearchRequest;
    type Response = Page<AuditEntry>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AuditSearchRequest) -> Result<Place> {
        if request.mine && request.customer.is_none() {
            return Place::home(tx);
        }
        Place::find(tx, request.customer.as_deref(), Permission::AuditRead)
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a Place,
        request: &'a AuditSearchRequest,
    ) -> Result<Vec<Need>> {
        let permission = if request.mine { Permission::Own } else { Permission::AuditRead };
        Ok(vec![Need::at(target.customer(), permission)])
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: AuditSearchRequest) -> Result<Page<AuditEntry>> {
        let limit = limit(request.limit)?;
        let filter = AuditSearchRequest { cursor: None, limit: None, ..request.clone() };
        let cursors = Cursors::new(tx.context, &filter);
        let node_paths = if request.mine && request.customer.is_none() {
            Vec::new()
        } else {
            target.tops.iter().map(|&top| tx.caller.tree.id_path(top)).collect()
        };
        // The system has no administrator's key; its own records are those that say so.
        let actor_id = request.mine.then(|| tx.caller.administrator().map_or(0, |id| id.0));
        // A filter must not find by what is not shown: of others than those whom the reader sees.
        let tops = tx.caller.tops();
        let sees_all = tops.iter().any(|top| top.parent.is_none());
        let filters = request.actor.is_some() || request.target.is_some() || request.text.is_some();
        let actor_paths = if request.mine || sees_all || !filters {
            None
        } else {
            Some(tops.iter().map(|top| tx.caller.tree.id_path(top.id)).collect())
        };
        let wanted = Search {
            node_paths,
            actor_paths,
            actor_id,
            actor: request.actor,
            operation: request.operation,
            target: request.target,
            text: request.text,
            outcome: request.outcome,
            since: moment("since", request.since.as_deref(), tx.now)?,
            until: moment("until", request.until.as_deref(), tx.now)?,
            before_id: cursors.read(request.cursor.as_deref())?,
            limit: limit + 1,
        };
        let records = search(tx.conn, &wanted).await?;
        Page::cut(
            records,
            limit,
            &cursors,
            |record| record.id,
            |record| show(tx.caller, record, request.mine),
        )
    }
}

fn show(reader: &Caller, record: Record, mine: bool) -> AuditEntry {
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok());
    let ids =
        |path: &str| path.split('/').filter_map(|id| id.parse().ok()).map(CustomerId).collect::<Vec<_>>();
    let cut = ids(&record.node_path).iter().position(|&id| reader.sees(id)).unwrap_or(usize::MAX);
    let customer: Vec<&str> = record.customer_path.split('/').skip(cut).collect();
    // Who stands above the reader is not named.
    let actor_visible = mine || ids(&record.actor_path).last().is_some_and(|&home| reader.sees(home));
    // Target, before and after are in the words of whoever acted; they may name what stands above or beside.
    let hidden: Vec<&str> =
        record.customer_path.split('/').take(cut).filter(|slug| !slug.is_empty()).collect();
    let names_hidden =
        |text: &str| hidden.iter().any(|slug| text.contains(&format!("{slug}/")) || text.ends_with(slug));
    let is_clear = mine
        || actor_visible
            && !names_hidden(&record.target)
            && !record.before.as_deref().is_some_and(names_hidden)
            && !record.after.as_deref().is_some_and(names_hidden);
    let names_customer = record.target.starts_with("customer ") || record.target.contains('/');
    let target =
        if is_clear || !names_customer { record.target } else { format!("customer {}", customer.join("/")) };
    AuditEntry {
        id: record.public_id,
        at: record.at,
        customer: customer.join("/"),
        actor: if actor_visible { record.actor } else { "provider".to_owned() },
        authenticated: if actor_visible { record.authenticated } else { String::new() },
        source: if actor_visible { record.source } else { String::new() },
        operation: record.operation,
        target,
        before: json(record.before.filter(|_| is_clear)),
        after: json(record.after.filter(|_| is_clear)),
        outcome: record.outcome,
        request_id: record.request_id,
    }
}
