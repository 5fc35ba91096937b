//! Seeing jobs and cancelling them.
//!
//! A job that concerns the servers is shown only to those who see the servers, one about a mail store besides to those
//! who see the store. Of a job that somebody above the
//! reader has asked for, the reader learns that it runs and how far it is; what it is called there, what came of it
//! and who asked may name what the reader does not see.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, ZoneId};
use crate::service::authority::Permission;
use crate::service::context::{Identity, KeptContext};
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::scope::Place;
use crate::service::directory::targets::absent;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare, operation};
use crate::storage::metadata::job::{self, Filter, JobRow};

/// A job.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Job {
    /// Random id.
    id: String,
    /// The operation that asked for it.
    kind: String,
    /// Path of the customer it belongs to.
    customer: Option<String>,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// `waiting`, `running`, `done`, `failed` or `cancelled`.
    state: String,
    /// How much is done.
    done: i64,
    /// Of how much, where that is known.
    total: Option<i64>,
    /// What these two count, for instance `octets`.
    unit: String,
    /// Who asked for it; `provider` for somebody above.
    actor: String,
    /// Who asked for its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    cancelled_by: Option<String>,
    /// How often it was begun.
    attempts: i64,
    #[schema(value_type = String)]
    created_at: Timestamp,
    #[schema(value_type = Option<String>)]
    started_at: Option<Timestamp>,
    #[schema(value_type = String)]
    updated_at: Timestamp,
    #[schema(value_type = Option<String>)]
    finished_at: Option<Timestamp>,
    /// What came of it, so far or in the end: the members depend on the kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    report: Option<Value>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JobError>,
}

/// Why a job failed.
#[derive(Serialize, Deserialize, ToSchema)]
pub(in crate::service) struct JobError {
    /// Stable, for programs: the codes of problem documents, and `interrupted`.
    pub code: String,
    /// For people.
    pub detail: String,
}

/// Who asked for the job.
fn asker(row: &JobRow) -> Result<KeptContext> {
    serde_json::from_str(&row.asker).map_err(|error| ServiceError::Internal(format!("asker: {error}")))
}

/// Where the asker is at home.
fn home(tx: &Tx<'_>, asker: &KeptContext) -> Option<CustomerId> {
    match asker.identity() {
        Identity::System => tx.caller.tree.root().map(|root| root.id),
        Identity::Administrator { home, .. } | Identity::Invited { customer: home, .. } => Some(home),
    }
}

/// Whether the caller asked for it.
fn is_own(tx: &Tx<'_>, asker: &KeptContext) -> bool {
    asker.identity() == tx.caller.identity
}

/// What the caller may see of a job that it sees.
pub(super) fn show(tx: &Tx<'_>, row: JobRow) -> Result<Job> {
    let asker = asker(&row)?;
    // Who sees it by its mail store alone is told nothing of a customer.
    let is_of_root = tx.caller.tree.root().is_some_and(|root| root.id == row.customer);
    let sees_place = is_of_root || tx.caller.sees(row.customer);
    let sees_asker = home(tx, &asker).is_some_and(|home| tx.caller.sees(home));
    let sees_all = is_own(tx, &asker) || (sees_asker && sees_place);
    let json = |error: serde_json::Error| ServiceError::Internal(format!("job {}: {error}", row.public_id));
    let report: Value = serde_json::from_str(&row.report).map_err(json)?;
    let error: Option<JobError> = row.error.as_deref().map(serde_json::from_str).transpose().map_err(json)?;
    let customer = tx.caller.path_of(row.customer);
    let hidden = || "provider".to_owned();
    Ok(Job {
        id: row.public_id,
        kind: row.kind,
        customer,
        target: sees_all.then_some(row.target),
        state: row.state,
        done: row.done,
        total: row.total,
        unit: row.unit,
        actor: if sees_all { row.actor } else { hidden() },
        cancelled_by: row.cancelled_by.map(|by| if sees_all { by } else { hidden() }),
        attempts: row.attempts,
        created_at: row.created_at,
        started_at: row.started_at,
        updated_at: row.updated_at,
        finished_at: row.finished_at,
        report: Some(report)
            .filter(|report| sees_all && report.as_object().is_none_or(|all| !all.is_empty())),
        error: error.filter(|_| sees_all),
    })
}

fn sees_servers(tx: &Tx<'_>) -> bool {
    let root = tx.caller.tree.root().map(|root| root.id);
    root.is_some_and(|root| tx.caller.may(Some(root), Permission::SystemServerRead))
}

/// Which jobs.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct JobListRequest {
    /// Only of this customer and those below; default: wherever the caller may.
    customer: Option<String>,
    /// Only those that wait or run.
    #[serde(default)]
    open: bool,
    /// Most jobs, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `job.list`.
pub(in crate::service) struct JobList;

impl Operate for JobList {
    declare! { "job.list", Get, "/v1/jobs", JobRead, reads, "List long work, the newest first" }
    type Request = JobListRequest;
    type Response = Page<Job>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a JobListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    /// Those about mail stores in zones may be all that there is to see.
    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Place,
        request: &'a JobListRequest,
    ) -> Result<Vec<Need>> {
        let sees_stores =
            request.customer.is_none() && tx.caller.zones.any(Permission::SystemStoreRead).is_some();
        let permission = if sees_stores { Permission::Own } else { Self::PERMISSION };
        Ok(vec![Need::at(target.customer(), permission)])
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: JobListRequest) -> Result<Page<Job>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &("jobs", &request.customer, request.open));
        let before: Option<i64> = cursors.read(request.cursor.as_deref())?;
        let (customers, system, open) = (target.customer_ids(tx), sees_servers(tx), request.open);
        let zoned = tx.caller.zones.stores(Permission::SystemStoreRead);
        let is_everywhere = request.customer.is_none();
        let stores = zoned.into_iter().filter(|_| is_everywhere).map(|store| store.0).collect();
        let filter = Filter { customers, system, stores, open, before, limit: limit + 1 };
        let rows = job::list(tx.conn, filter).await?;
        let page = Page::cut(rows, limit, &cursors, |row| row.id, |row| show(tx, row))?;
        Ok(Page { items: page.items.into_iter().collect::<Result<_>>()?, cursor: page.cursor })
    }
}

/// Which job.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct JobRequest {
    /// Its id.
    id: String,
}

/// One visible job.
pub(in crate::service) struct OneJob {
    row: JobRow,
    asker: KeptContext,
    /// A zone by which the caller sees it, who does not see it otherwise.
    zone: Option<ZoneId>,
}

impl OneJob {
    async fn find(tx: &mut Tx<'_>, id: &str) -> Result<Self> {
        let row = job::by_public_id(tx.conn, id).await?;
        let row = row.ok_or_else(|| absent("job", id))?;
        let asker = asker(&row)?;
        let in_scope = tx.caller.sees(row.customer) && (!row.is_system || sees_servers(tx));
        let zones = &tx.caller.zones;
        let of_store = || zones.of_store(row.store?, Permission::SystemStoreRead);
        let zone = if in_scope { None } else { of_store() };
        let is_visible = in_scope || zone.is_some() || is_own(tx, &asker);
        if is_visible { Ok(Self { row, asker, zone }) } else { Err(absent("job", id)) }
    }
}

impl Targeted for OneJob {
    fn customer(&self) -> CustomerId {
        self.row.customer
    }

    fn label(&self) -> String {
        format!("job {}", self.row.public_id)
    }

    fn is_in_zone(&self) -> bool {
        self.zone.is_some()
    }
}

/// `job.show`; watched when NDJSON is asked for.
pub(in crate::service) struct JobShow;

impl Operate for JobShow {
    declare! { "job.show", Get, "/v1/jobs/{id}", JobRead, reads,
    "A job, and how far it is; as NDJSON: each change until it has ended" }
    const WATCHED: bool = true;
    type Request = JobRequest;
    type Response = Job;
    type Target = OneJob;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a JobRequest) -> Result<OneJob> {
        OneJob::find(tx, &request.id).await
    }

    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a OneJob, _: &'a JobRequest) -> Result<Vec<Need>> {
        let own = is_own(tx, &target.asker);
        Ok(vec![match target.zone {
            _ if own => Need::at(target.row.customer, Permission::Own),
            None => Need::at(target.row.customer, Permission::JobRead),
            zone => Need::in_zone(target.row.customer, Permission::SystemStoreRead, zone),
        }])
    }

    async fn run(tx: &mut Tx<'_>, target: OneJob, _: JobRequest) -> Result<Job> {
        show(tx, target.row)
    }
}

/// `job.cancel`.
pub(in crate::service) struct JobCancel;

impl Operate for JobCancel {
    declare! { "job.cancel", Post, "/v1/jobs/{id}/cancel", JobCancel, changes, "Ask for the early end of a job" }
    type Request = JobRequest;
    type Response = Job;
    type Target = OneJob;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a JobRequest) -> Result<OneJob> {
        OneJob::find(tx, &request.id).await
    }

    /// Whoever asked for it may; others need authority over the customer, or what asking for it took over its mail
    /// store, and over the asker, so that nobody stops what somebody above has begun.
    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a OneJob, _: &'a JobRequest) -> Result<Vec<Need>> {
        if is_own(tx, &target.asker) {
            return Ok(vec![Need::at(target.row.customer, Permission::Own)]);
        }
        let place = target.row.customer;
        let over_it = match target.row.store.zip(operation(&target.row.kind)) {
            Some((store, started_by)) if target.zone.is_some() => {
                let permission = started_by.permission;
                Need::in_zone(place, permission, tx.caller.zones.of_store(store, permission))
            }
            _ => Need::at(place, Permission::JobCancel),
        };
        let over_asker = home(tx, &target.asker).map(|home| Need::at(home, Permission::JobCancel));
        Ok([Some(over_it), over_asker].into_iter().flatten().collect())
    }

    async fn run(tx: &mut Tx<'_>, target: OneJob, request: JobRequest) -> Result<Job> {
        let by = tx.caller.name();
        if !job::cancel(tx.conn, target.row.id, &by, tx.now).await? {
            let message = format!("job {} has ended already: {}", request.id, target.row.state);
            return Err(ServiceError::Conflict { message });
        }
        tx.before = Some(serde_json::json!({ "state": target.row.state }));
        let row = job::by_public_id(tx.conn, &request.id).await?;
        let row = row.ok_or_else(|| absent("job", &request.id))?;
        tx.after = Some(serde_json::json!({ "state": row.state, "cancelled_by": by }));
        show(tx, row)
    }
}
