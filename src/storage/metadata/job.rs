//! Jobs: long work with progress, one row each.
//!
//! # Consistency
//! Whoever works at a job holds a [`Hold`]: node, epoch and the number of the attempt. Every write of its checks all
//! three, so that a node that was taken for dead cannot write over what its successor does.

use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, StoreId, public_id};
use crate::base::progress::Standing;
use crate::params;
use crate::storage::{Result, StorageError};

/// Most open jobs that are looked through for one that may run.
const OPEN_MAX: i64 = 256;
/// Finished jobs that one slice of housekeeping removes.
const PRUNED_ROWS: i64 = 256;

/// A job to be entered.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Which work.
    pub kind: &'static str,
    /// Whose administrators see it.
    pub customer: CustomerId,
    /// Whether only those see it who see the servers.
    pub is_system: bool,
    /// What it is about, as its asker calls it.
    pub target: String,
    /// JSON of what was asked for.
    pub request: String,
    /// JSON of who asked.
    pub asker: String,
    /// Name of who asked.
    pub actor: String,
    /// The only node that may run it, if there is one.
    pub bound_node: Option<String>,
    /// The mail store that it is about, if it is about one: those see it too who see the store.
    pub store: Option<StoreId>,
}

/// A job as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JobRow {
    /// Key.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// Which work.
    pub kind: String,
    /// Whose administrators see it.
    pub customer: CustomerId,
    /// Whether only those see it who see the servers.
    pub is_system: bool,
    /// What it is about.
    pub target: String,
    /// JSON of what was asked for.
    pub request: String,
    /// JSON of who asked.
    pub asker: String,
    /// Name of who asked.
    pub actor: String,
    /// `waiting`, `running`, `done`, `failed` or `cancelled`.
    pub state: String,
    /// Who asked for it to end early.
    pub cancelled_by: Option<String>,
    /// What `done` and `total` count.
    pub unit: String,
    /// How much is done.
    pub done: i64,
    /// Of how much, where that is known.
    pub total: Option<i64>,
    /// Where it goes on.
    pub position: String,
    /// JSON of what came of it.
    pub report: String,
    /// JSON of why it failed.
    pub error: Option<String>,
    /// How often it was started.
    pub attempts: i64,
    /// Who works at it.
    pub node: Option<String>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was first started.
    pub started_at: Option<Timestamp>,
    /// When anything about it last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// The mail store that it is about.
    pub store: Option<StoreId>,
}

const COLUMNS: &str = "id, public_id, kind, customer_id, is_system, target, request, asker, actor, state, cancelled_by,
    unit, done, total, position, report, error, attempts, node_id, created_at, started_at, updated_at, finished_at,
    store_id";

fn job(row: &Row) -> Result<JobRow> {
    Ok(JobRow {
        id: row.int(0)?,
        public_id: row.text(1)?,
        kind: row.text(2)?,
        customer: CustomerId(row.int(3)?),
        is_system: row.int(4)? != 0,
        target: row.text(5)?,
        request: row.text(6)?,
        asker: row.text(7)?,
        actor: row.text(8)?,
        state: row.text(9)?,
        cancelled_by: row.text_opt(10)?,
        unit: row.text(11)?,
        done: row.int(12)?,
        total: row.int_opt(13)?,
        position: row.text(14)?,
        report: row.text(15)?,
        error: row.text_opt(16)?,
        attempts: row.int(17)?,
        node: row.text_opt(18)?,
        created_at: Timestamp(row.int(19)?),
        started_at: row.int_opt(20)?.map(Timestamp),
        updated_at: Timestamp(row.int(21)?),
        finished_at: row.int_opt(22)?.map(Timestamp),
        store: row.int_opt(23)?.map(StoreId),
    })
}

/// Who works at a job: what it writes counts only while this does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The job.
    pub job: i64,
    /// The node.
    pub node: String,
    /// Its epoch.
    pub epoch: i64,
    /// Which attempt it is.
    pub attempt: i64,
}

/// How a job ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// All was done.
    Done,
    /// It could not be done.
    Failed,
    /// Somebody asked for its end.
    Cancelled,
}

impl Ending {
    const fn state(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Enters a job that waits.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, new: &NewJob, now: Timestamp) -> Result<JobRow> {
    let text = format!(
        "INSERT INTO job (public_id, kind, customer_id, is_system, target, request, asker, actor, bound_node, state,
                          created_at, updated_at, store_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'waiting', $10, $10, $11) RETURNING {COLUMNS}"
    );
    let params = params![
        public_id(),
        new.kind,
        new.customer,
        new.is_system,
        &new.target,
        &new.request,
        &new.asker,
        &new.actor,
        new.bound_node.clone(),
        now,
        new.store
    ];
    conn.row(text, params).await?.as_ref().map(job).ok_or(StorageError::Gone("the job"))?
}

/// The job with this public id.
///
/// # Errors
/// When the database fails.
pub async fn by_public_id(conn: &mut Conn, public_id: &str) -> Result<Option<JobRow>> {
    let text = format!("SELECT {COLUMNS} FROM job WHERE public_id = $1");
    conn.row(text, params![public_id]).await?.as_ref().map(job).transpose()
}

/// Which jobs are listed.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Of these customers.
    pub customers: Vec<i64>,
    /// With those that concern the servers.
    pub system: bool,
    /// And those about these mail stores.
    pub stores: Vec<i64>,
    /// Only those that have not ended.
    pub open: bool,
    /// Older than the one with this key.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// Jobs, newest first.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn, filter: Filter) -> Result<Vec<JobRow>> {
    let open = if filter.open { "AND state IN ('waiting', 'running')" } else { "" };
    let or_stores = if filter.stores.is_empty() { "" } else { "OR store_id IN IDS($5)" };
    let text = format!(
        "SELECT {COLUMNS} FROM job
         WHERE ((customer_id IN IDS($1) AND (is_system = 0 OR $2 = 1)) {or_stores}) AND id < $3 {open}
         ORDER BY id DESC LIMIT $4"
    );
    let before = filter.before.unwrap_or(i64::MAX);
    let mut params = vec![ids(filter.customers), filter.system.into(), before.into(), filter.limit.into()];
    if !filter.stores.is_empty() {
        params.push(ids(filter.stores));
    }
    conn.rows(text, params).await?.iter().map(job).collect()
}

/// Who looks for a job.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// The node.
    pub node: String,
    /// Its epoch.
    pub epoch: i64,
    /// Nodes that have not been seen since count as gone.
    pub alive_since: Timestamp,
}

/// Jobs that `claimant` may run, the oldest first: those that wait, and those whose node is gone or was started again.
///
/// # Errors
/// When the database fails.
pub async fn claimable(conn: &mut Conn, claimant: &Claimant, kinds: &[&str]) -> Result<Option<JobRow>> {
    candidates(conn, claimant, kinds, "").await
}

async fn candidates(conn: &mut Conn, by: &Claimant, kinds: &[&str], lock: &str) -> Result<Option<JobRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM job
         WHERE state IN ('waiting', 'running') AND (bound_node IS NULL OR bound_node = $1)
           AND (state = 'waiting'
                OR (job.node_id = $1 AND job.epoch <> $3)
                OR (job.node_id <> $1 AND NOT EXISTS (
                    SELECT 1 FROM node n WHERE n.id = job.node_id AND n.epoch = job.epoch AND n.seen_at > $2)))
         ORDER BY id LIMIT {OPEN_MAX}{lock}"
    );
    let rows = conn.rows(text, params![&by.node, by.alive_since, by.epoch]).await?;
    let jobs = rows.iter().map(job).collect::<Result<Vec<_>>>()?;
    // Nodes of different versions may share a database: each leaves alone what it does not know.
    Ok(jobs.into_iter().find(|job| kinds.contains(&job.kind.as_str())))
}

/// Takes the oldest job that `claimant` may run.
///
/// # Errors
/// When the database fails.
pub async fn claim(
    conn: &mut Conn,
    claimant: &Claimant,
    kinds: &[&str],
    now: Timestamp,
) -> Result<Option<(JobRow, Hold)>> {
    let lock = if conn.is_postgres() { " FOR UPDATE OF job SKIP LOCKED" } else { "" };
    let Some(found) = candidates(conn, claimant, kinds, lock).await? else { return Ok(None) };
    let text = format!(
        "UPDATE job SET state = 'running', node_id = $2, epoch = $3, attempts = attempts + 1,
                        started_at = coalesce(started_at, $4), updated_at = $4
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let row = conn.row(text, params![found.id, &claimant.node, claimant.epoch, now]).await?;
    let row = row.as_ref().map(job).ok_or(StorageError::Gone("the job"))??;
    let (node, epoch) = (claimant.node.clone(), claimant.epoch);
    let hold = Hold { job: row.id, node, epoch, attempt: row.attempts };
    Ok(Some((row, hold)))
}

/// What all writes of a running job check.
const HELD: &str = "id = $1 AND state = 'running' AND node_id = $2 AND epoch = $3 AND attempts = $4";

/// Writes what a job tells of itself; false when somebody else has it now.
///
/// # Errors
/// When the database fails.
pub async fn save(conn: &mut Conn, hold: &Hold, standing: &Standing, now: Timestamp) -> Result<bool> {
    let text = format!(
        "UPDATE job SET unit = $5, done = $6, total = $7, position = coalesce($8, position),
                        report = coalesce($9, report), updated_at = $10 WHERE {HELD}"
    );
    let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut params = params![hold.job, &hold.node, hold.epoch, hold.attempt];
    params.extend(params![&standing.unit, count(standing.done), standing.total.map(count)]);
    params.extend(params![standing.position.clone(), standing.report.clone(), now]);
    Ok(conn.execute(text, params).await? > 0)
}

/// Writes where a job goes on, in the transaction that did the work up to there; false when somebody else has it now.
///
/// # Errors
/// When the database fails.
pub async fn save_position(conn: &mut Conn, hold: &Hold, position: &str, now: Timestamp) -> Result<bool> {
    let text = format!("UPDATE job SET position = $5, updated_at = $6 WHERE {HELD}");
    let params = params![hold.job, &hold.node, hold.epoch, hold.attempt, position, now];
    Ok(conn.execute(text, params).await? > 0)
}

/// Ends a job; false when somebody else has it now.
///
/// # Errors
/// When the database fails.
pub async fn finish(
    conn: &mut Conn,
    hold: &Hold,
    ending: Ending,
    standing: &Standing,
    error: Option<&str>,
    now: Timestamp,
) -> Result<bool> {
    if !save(conn, hold, standing, now).await? {
        return Ok(false);
    }
    let text = format!("UPDATE job SET state = $5, error = $6, finished_at = $7 WHERE {HELD}");
    let params = params![hold.job, &hold.node, hold.epoch, hold.attempt, ending.state(), error, now];
    Ok(conn.execute(text, params).await? > 0)
}

/// Gives a job back, to be gone on with later; with `counts` the attempt is one of those that it has. False when
/// somebody else has it now.
///
/// # Errors
/// When the database fails.
pub async fn release(
    conn: &mut Conn,
    hold: &Hold,
    standing: &Standing,
    counts: bool,
    now: Timestamp,
) -> Result<bool> {
    if !save(conn, hold, standing, now).await? {
        return Ok(false);
    }
    let text = format!(
        "UPDATE job SET state = 'waiting', node_id = NULL, epoch = NULL, attempts = attempts - $5 WHERE {HELD}"
    );
    let params = params![hold.job, &hold.node, hold.epoch, hold.attempt, !counts];
    Ok(conn.execute(text, params).await? > 0)
}

/// Asks for the end of a job: one that waits ends at once. False when it has ended already.
///
/// # Errors
/// When the database fails.
pub async fn cancel(conn: &mut Conn, id: i64, by: &str, now: Timestamp) -> Result<bool> {
    let text = "UPDATE job SET cancelled_by = $2, state = 'cancelled', updated_at = $3, finished_at = $3
                WHERE id = $1 AND state = 'waiting'";
    let ended = conn.execute(text, params![id, by, now]).await?;
    let text = "UPDATE job SET cancelled_by = coalesce(cancelled_by, $2), updated_at = $3
                WHERE id = $1 AND state = 'running'";
    Ok(ended + conn.execute(text, params![id, by, now]).await? > 0)
}

/// Keys of the jobs at which this node works and whose end somebody has asked for.
///
/// # Errors
/// When the database fails.
pub async fn to_cancel(conn: &mut Conn, node: &str, epoch: i64) -> Result<Vec<i64>> {
    let text = "SELECT id FROM job
                WHERE state IN ('waiting', 'running') AND node_id = $1 AND epoch = $2 AND cancelled_by IS NOT NULL";
    conn.rows(text, params![node, epoch]).await?.iter().map(|row| row.int(0)).collect()
}

/// How many jobs of a customer have not ended, without those about a mail store.
///
/// # Errors
/// When the database fails.
pub async fn open_of(conn: &mut Conn, customer: CustomerId) -> Result<u64> {
    let text = "SELECT count(*) FROM job
                WHERE customer_id = $1 AND store_id IS NULL AND state IN ('waiting', 'running')";
    conn.row(text, params![customer]).await?.ok_or(StorageError::Gone("the jobs"))?.number(0)
}

/// How many jobs about a mail store have not ended.
///
/// # Errors
/// When the database fails.
pub async fn open_of_store(conn: &mut Conn, store: StoreId) -> Result<u64> {
    let text = "SELECT count(*) FROM job WHERE store_id = $1 AND state IN ('waiting', 'running')";
    conn.row(text, params![store]).await?.ok_or(StorageError::Gone("the jobs"))?.number(0)
}

/// How many jobs wait.
///
/// # Errors
/// When the database fails.
pub async fn waiting(conn: &mut Conn) -> Result<u64> {
    let text = "SELECT count(*) FROM job WHERE state IN ('waiting', 'running') AND state = 'waiting'";
    conn.row(text, params![]).await?.ok_or(StorageError::Gone("the jobs"))?.number(0)
}

/// Forgets jobs that ended up to `before`; at most 256. Answers how many.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    let text = "DELETE FROM job WHERE id IN (
                    SELECT id FROM job WHERE finished_at <= $1 ORDER BY finished_at LIMIT $2)";
    conn.execute(text, params![before, PRUNED_ROWS]).await
}
