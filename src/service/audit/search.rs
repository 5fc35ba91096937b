//! `audit search`: what was done at the customers where the reader holds `audit.read`, or by the reader.
//!
//! A record is found if a customer on its path at the time is in that scope now, so that the records of a moved
//! customer are read by those above it now, and by those who were above it then.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::candidates::Candidates;
use super::{names, terms};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::{Caller, Permission, Tree};
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::scope::{Place, moment};
use crate::service::error::Result;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::audit::{Actor, Record, Search};
use crate::storage::metadata::customer;
use crate::storage::metadata::sql::Conn;

/// Records looked at in one go while something is searched for in their words.
const SLICE_RECORDS: usize = 1_000;
/// Most records looked at for one page: then it comes back shorter, with a cursor to go on from.
const LOOKED_AT_MAX: usize = 4_000;

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
    pub(super) actor: Option<String>,
    /// Only this operation; with a dot at the end all that begin with it.
    pub(super) operation: Option<String>,
    /// Only targets that contain this.
    pub(super) target: Option<String>,
    /// Only records with this in target, before or after. A page may be short, even empty, with a cursor to go on
    /// from: no more than 4,000 records are looked at for one. Three letters or more are looked up in an index, which
    /// does not know the words `elsewhere` and `provider` that stand for what you are not told.
    pub(super) text: Option<String>,
    /// Only this outcome: `done`, `refused`, or one reason such as `forbidden`.
    pub(super) outcome: Option<String>,
    /// Not before this time: RFC 3339, or relative such as `2d`.
    pub(super) since: Option<String>,
    /// Before this time.
    pub(super) until: Option<String>,
    /// Most records, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// One record.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct AuditEntry {
    pub id: String,
    #[schema(value_type = String)]
    pub at: Timestamp,
    /// Path of the customer, as it was then, from the topmost that the reader may see.
    pub customer: String,
    pub actor: String,
    /// Who had asked for it, when the actor approved a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf: Option<String>,
    pub authenticated: String,
    pub source: String,
    pub operation: String,
    pub target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<serde_json::Value>,
    pub outcome: String,
    pub request_id: String,
}

/// `audit.search`.
pub(in crate::service) struct AuditSearch;

impl Operate for AuditSearch {
    declare! { "audit.search", Get, "/v1/audit", AuditRead, reads,
    "Search the audit trail, newest first" }
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
        let limit = usize::try_from(limit(request.limit)?).unwrap_or(usize::MAX);
        let filter = AuditSearchRequest { cursor: None, limit: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let told = Told::new(&request);
        let places = places(tx, &target, &request).await?;
        let own = request.mine;
        // Words of one's own records are told in full: the index has them as others are told them.
        let tops: Vec<CustomerId> = tx.caller.tops().iter().map(|top| top.id).collect();
        let eyes = places_below(tx, &tops).await?;
        let terms = if own { None } else { terms::asked(&request, &places, &eyes) };
        let wanted = Search {
            places,
            actor: own.then(|| {
                let system = Actor::System;
                tx.caller.administrator().map_or(system, |id| Actor::Administrator(id.0))
            }),
            operation: request.operation,
            outcome: request.outcome,
            since: moment("since", request.since.as_deref(), tx.now)?,
            until: moment("until", request.until.as_deref(), tx.now)?,
            before_id: cursors.read(request.cursor.as_deref())?,
            limit: i64::try_from(if told.is_anything() { limit.saturating_add(1) } else { SLICE_RECORDS })
                .unwrap_or(i64::MAX),
        };
        let mut candidates = Candidates::new(wanted, terms, limit);
        let (mut items, mut last) = (Vec::new(), None);
        while let Some(records) = candidates.next(tx.conn).await? {
            for record in records {
                if items.len() == limit {
                    let cursor = last.map(|id: i64| cursors.make(&id)).transpose()?;
                    return Ok(Page { items, cursor });
                }
                let id = record.id;
                let entry = show(tx.caller, record, own);
                if told.fits(&entry) {
                    items.push(entry);
                }
                last = Some(id);
            }
            if let Some(position) = candidates.position().filter(|_| candidates.looked_at() >= LOOKED_AT_MAX)
            {
                return Ok(Page { items, cursor: Some(cursors.make(&position)?) });
            }
        }
        Ok(Page { items, cursor: None })
    }
}

/// The customers whose records are searched: those meant, and those below that came from elsewhere, whose earlier
/// records have other customers above them.
async fn places(tx: &mut Tx<'_>, target: &Place, request: &AuditSearchRequest) -> Result<Vec<i64>> {
    if request.mine && request.customer.is_none() && tx.caller.administrator().is_some() {
        return Ok(Vec::new());
    }
    places_below(tx, &target.tops).await
}

/// Customers of which one is on the path of every record of these and of what is below them now.
pub(in crate::service) async fn places_below(tx: &mut Tx<'_>, tops: &[CustomerId]) -> Result<Vec<i64>> {
    places_of(tx.conn, &tx.caller.tree, tops).await
}

/// As [`places_below`], in this hierarchy.
pub(in crate::service) async fn places_of(
    conn: &mut Conn,
    tree: &Tree,
    tops: &[CustomerId],
) -> Result<Vec<i64>> {
    let mut places: Vec<i64> = tops.iter().map(|top| top.0).collect();
    // The root was above everything at all times.
    if tree.root().is_some_and(|root| !tops.contains(&root.id)) {
        let moved = customer::moved(conn).await?.into_iter();
        let below = |id: &CustomerId| tops.iter().any(|top| top != id && tree.covers(*top, *id));
        places.extend(moved.filter(below).map(|id| id.0));
    }
    Ok(places)
}

/// What is searched for in the words that the reader is told: nothing is found by what is not shown.
struct Told {
    actor: Option<String>,
    target: Option<String>,
    text: Option<String>,
}

impl Told {
    fn new(request: &AuditSearchRequest) -> Self {
        let lower = |text: &Option<String>| text.as_ref().map(|text| text.to_lowercase());
        Self { actor: lower(&request.actor), target: lower(&request.target), text: lower(&request.text) }
    }

    /// Whether every record fits.
    fn is_anything(&self) -> bool {
        self.actor.is_none() && self.target.is_none() && self.text.is_none()
    }

    fn fits(&self, entry: &AuditEntry) -> bool {
        let has = |wanted: &Option<String>, told: &dyn Fn() -> String| {
            wanted.as_ref().is_none_or(|wanted| told().to_lowercase().contains(wanted))
        };
        let value = |value: &Option<serde_json::Value>| value.as_ref().map(ToString::to_string);
        let parts = || [Some(entry.target.clone()), value(&entry.before), value(&entry.after)];
        has(&self.actor, &|| entry.actor.clone())
            && has(&self.target, &|| entry.target.clone())
            && has(&self.text, &|| parts().into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// A record as this reader is told it; with `own` it is the reader's own.
pub(in crate::service) fn show(reader: &Caller, record: Record, own: bool) -> AuditEntry {
    let json = |text: Option<String>| {
        text.and_then(|text| serde_json::from_str(&text).ok()).map(|kept| names::value(reader, kept, own))
    };
    // Who stands above or beside the reader is not named.
    let actor_visible = own || names::reaches(reader, &record.actor_path);
    AuditEntry {
        id: record.public_id,
        at: record.at,
        customer: names::path(reader, &record.node_path, &record.customer_path).unwrap_or_default(),
        actor: if actor_visible { record.actor } else { names::PROVIDER.to_owned() },
        on_behalf: record.on_behalf.map(|kept| names::text(reader, &kept, own)),
        authenticated: if actor_visible { record.authenticated } else { String::new() },
        source: if actor_visible { record.source } else { String::new() },
        operation: record.operation,
        target: names::text(reader, &record.target, own),
        before: json(record.before),
        after: json(record.after),
        outcome: record.outcome,
        request_id: record.request_id,
    }
}
