//! `event.list`: a page of events, or as NDJSON all that come.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Event, is_change, is_wanted};
use crate::service::audit::places_below;
use crate::service::authority::Permission;
use crate::service::directory::page::{Cursors, limit};
use crate::service::directory::scope::{Place, moment};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Operate, Tx, declare};
use crate::storage::metadata::event;

/// Most kinds that are asked for.
const KINDS_MAX: usize = 50;

/// Which events.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct EventListRequest {
    /// Only at this customer and below; default: everywhere the caller holds `event.read`.
    customer: Option<String>,
    /// Only of these kinds; with a dot at the end all that begin with it. Default: all.
    #[serde(default)]
    kinds: Vec<String>,
    /// From this time on: RFC 3339, or relative such as `2d`. Default: from now on.
    since: Option<String>,
    /// Most events, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor to go on from.
    cursor: Option<String>,
}

/// Events and where to go on.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct EventPage {
    /// The events, in the order in which they were done.
    items: Vec<Event>,
    /// Cursor behind them; always there, since more will come.
    cursor: String,
    /// Whether there may be more at once.
    more: bool,
}

/// `event.list`.
pub(in crate::service) struct EventList;

impl Operate for EventList {
    declare! { "event.list", Get, "/v1/events", EventRead, reads,
    "Changes in the order in which they were done; as NDJSON: all that come from now on" }
    const FOLLOWED: bool = true;
    type Request = EventListRequest;
    type Response = EventPage;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a EventListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::EventRead)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: EventListRequest) -> Result<EventPage> {
        if request.kinds.len() > KINDS_MAX {
            let message = format!("expected at most {KINDS_MAX}");
            return Err(ServiceError::Invalid { field: "kinds", message });
        }
        let limit = usize::try_from(limit(request.limit)?).unwrap_or(usize::MAX);
        let cursors = Cursors::new(tx, &("events", &request.customer, &request.kinds));
        let since = moment("since", request.since.as_deref(), tx.now)?;
        let position = match cursors.read(request.cursor.as_deref())? {
            Some(position) => position,
            None => match since {
                Some(at) => event::since(tx.conn, at).await?,
                None => event::newest(tx.conn).await?,
            },
        };
        let places = places_below(tx, &target.tops).await?;
        let kinds = request.kinds;
        let is_asked_for =
            move |name: &str, outcome: &str| is_change(name, outcome) && is_wanted(&kinds, name);
        let page = event::after(tx.conn, &places, position, limit, is_asked_for).await?;
        // Of the time before a cursor, some may be older than what was asked for by a moment.
        let records = page.records.into_iter().filter(|record| since.is_none_or(|since| record.at >= since));
        let items = records.map(|record| Event::new(tx.caller, record)).collect();
        Ok(EventPage { items, cursor: cursors.make(&page.position)?, more: page.more })
    }
}
