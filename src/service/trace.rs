//! Where is my mail: the delivery trace, within what the caller may see.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::service::authority::Permission;
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::scope::{Place, moment};
use crate::service::error::Result;
use crate::service::registry::{Operate, Tx, declare};
use crate::storage::metadata::trace::{self, TraceRow, TraceSearch};

/// How far back a search goes that doesn't say.
const SINCE_DEFAULT: std::time::Duration = std::time::Duration::from_secs(2 * 86_400);

/// What to look for.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct TraceRequest {
    /// An address (recipient or sender) or a Message-ID.
    query: String,
    /// Only domains of this customer and below.
    customer: Option<String>,
    /// Not before this time: RFC 3339, or relative such as `6h`; default `2d`.
    since: Option<String>,
    /// Most rows, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// One recipient of one delivery.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct TraceLine {
    #[schema(value_type = String)]
    at: Timestamp,
    recipient: String,
    sender: String,
    message_id: String,
    /// Octets, trace lines included.
    size: i64,
    source: String,
    /// The id that the sending server was told.
    queue_id: String,
    /// `stored` or `refused`.
    outcome: String,
    /// Folder, or reason.
    detail: String,
}

/// `trace.search`.
pub(in crate::service) struct TraceFind;

impl Operate for TraceFind {
    declare! { "trace.search", Get, "/v1/trace", TraceRead, reads,
    "Where mail of an address, or with a Message-ID, went; newest first" }
    type Request = TraceRequest;
    type Response = Page<TraceLine>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a TraceRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::TraceRead)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: TraceRequest) -> Result<Page<TraceLine>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &(&request.query, &request.customer, &request.since));
        let since = moment("since", request.since.as_deref(), tx.now)?.unwrap_or(tx.now.minus(SINCE_DEFAULT));
        let root = tx.caller.tree.root().map(|root| root.id);
        let search = TraceSearch {
            wanted: request.query.trim().to_owned(),
            customers: target.customer_ids(tx),
            foreign: root.is_some_and(|root| target.tops.contains(&root)),
            since,
            before_id: cursors.read(request.cursor.as_deref())?,
            limit: limit + 1,
        };
        let rows = trace::search(tx.conn, &search).await?;
        Page::cut(rows, limit, &cursors, |row| row.id, line)
    }
}

fn line(row: TraceRow) -> TraceLine {
    TraceLine {
        at: row.at,
        recipient: row.recipient,
        sender: row.sender,
        message_id: row.message_id,
        size: row.octets,
        source: row.source,
        queue_id: row.queue_id,
        outcome: row.outcome,
        detail: row.detail,
    }
}
