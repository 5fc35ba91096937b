//! Requests that wait for approval, and the processes that say whose.

use super::scope::{Customers, Listed};
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// Requests that one slice of housekeeping removes.
const PRUNED_ROWS: i64 = 256;

/// A request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestRow {
    /// Key.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// The customer of what it acts on.
    pub customer: CustomerId,
    /// Keys from the root down to it when it was made.
    pub place_path: String,
    /// The operation asked for.
    pub operation: String,
    /// JSON of its frozen parameters.
    pub fields: String,
    /// JSON of what it would do, without what depends on who looks.
    pub effects: String,
    /// What it acts on, with references.
    pub target: String,
    /// What it acts on, whatever it is called.
    pub target_key: String,
    /// JSON of what it takes to do it.
    pub needs: String,
    /// Who asks; 0 for the system.
    pub requester: i64,
    /// Its name, as a reference.
    pub requester_name: String,
    /// Why.
    pub reason: String,
    /// `open`, `done`, `rejected`, `withdrawn`, `expired` or `void`.
    pub state: String,
    /// The process that decides; nothing for the default one.
    pub process: Option<i64>,
    /// The step that it waits for.
    pub step: usize,
    /// Where.
    pub waits_at: CustomerId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Until when it waits.
    pub expires_at: Timestamp,
    /// When it was decided.
    pub decided_at: Option<Timestamp>,
    /// By whom, as a reference.
    pub decided_by: Option<String>,
    /// What was said.
    pub decision: Option<String>,
}

/// The columns of [`RequestRow`].
macro_rules! columns {
    () => {
        "SELECT id, public_id, customer_id, place_path, operation, fields, effects, target, target_key, needs,
                requester_id, requester, reason, state, process_id, step, waits_at, created_at, expires_at, decided_at,
                decided_by, decision FROM request "
    };
}

fn from_row(row: &Row) -> Result<RequestRow> {
    Ok(RequestRow {
        id: row.int(0)?,
        public_id: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        place_path: row.text(3)?,
        operation: row.text(4)?,
        fields: row.text(5)?,
        effects: row.text(6)?,
        target: row.text(7)?,
        target_key: row.text(8)?,
        needs: row.text(9)?,
        requester: row.int(10)?,
        requester_name: row.text(11)?,
        reason: row.text(12)?,
        state: row.text(13)?,
        process: row.int_opt(14)?,
        step: row.number(15)?,
        waits_at: CustomerId(row.int(16)?),
        created_at: Timestamp(row.int(17)?),
        expires_at: Timestamp(row.int(18)?),
        decided_at: row.int_opt(19)?.map(Timestamp),
        decided_by: row.text_opt(20)?,
        decision: row.text_opt(21)?,
    })
}

/// Enters an open request and answers its key and public id.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, row: &RequestRow) -> Result<(i64, String)> {
    let public_id = public_id();
    let text = "INSERT INTO request (public_id, customer_id, place_path, operation, fields, effects, target, target_key,
                                     needs, requester_id, requester, reason, state, process_id, step, waits_at,
                                     created_at, expires_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'open', $13, 0, $14, $15, $16)";
    let params = params![
        &public_id,
        row.customer,
        &row.place_path,
        &row.operation,
        &row.fields,
        &row.effects,
        &row.target,
        &row.target_key,
        &row.needs,
        row.requester,
        &row.requester_name,
        &row.reason,
        row.process,
        row.waits_at,
        row.created_at,
        row.expires_at
    ];
    Ok((conn.insert(text, params).await?, public_id))
}

/// The request with this public id.
///
/// # Errors
/// When the database fails.
pub async fn by_public_id(conn: &mut Conn, public_id: &str) -> Result<Option<RequestRow>> {
    let text = concat!(columns!(), "WHERE public_id = $1");
    conn.row(text, params![public_id]).await?.as_ref().map(from_row).transpose()
}

/// Requests at these customers, or all of one requester, older than `before`, newest first; with `open` only those.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    (customers, requester): (&Customers, Option<i64>),
    open: bool,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<RequestRow>> {
    let before = before.unwrap_or(i64::MAX);
    if let Some(requester) = requester {
        let text = concat!(
            columns!(),
            "WHERE requester_id = $1 AND id < $2 AND ($3 = 0 OR state = 'open') ORDER BY id DESC LIMIT $4"
        );
        let rows = conn.rows(text, params![requester, before, open, limit]).await?;
        return rows.iter().map(from_row).collect();
    }
    let text = concat!(
        columns!(),
        "WHERE THESE AND id < $1 AND ($3 = 0 OR state = 'open') ORDER BY id DESC LIMIT $2"
    );
    let listed = Listed {
        text: text.to_owned(),
        column: "customer_id",
        more: params![open],
        read: from_row,
        key: |row: &RequestRow| params![row.id],
        customer: |row| row.customer,
    };
    listed.page(conn, customers, params![before], limit).await
}

/// Open requests behind `after`, by key.
///
/// # Errors
/// When the database fails.
pub async fn open(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<RequestRow>> {
    let text = concat!(columns!(), "WHERE state = 'open' AND id > $1 ORDER BY id LIMIT $2");
    conn.rows(text, params![after, limit]).await?.iter().map(from_row).collect()
}

/// Open requests that a process decides.
///
/// # Errors
/// When the database fails.
pub async fn open_of_process(conn: &mut Conn, process: i64, limit: i64) -> Result<Vec<RequestRow>> {
    let text = concat!(columns!(), "WHERE state = 'open' AND process_id = $1 ORDER BY id LIMIT $2");
    conn.rows(text, params![process, limit]).await?.iter().map(from_row).collect()
}

/// How many open requests somebody has, and how many are at a customer.
///
/// # Errors
/// When the database fails.
pub async fn count_open(conn: &mut Conn, requester: i64, customer: CustomerId) -> Result<(i64, i64)> {
    let text = "SELECT (SELECT count(*) FROM request WHERE requester_id = $1 AND state = 'open'),
                       (SELECT count(*) FROM request WHERE customer_id = $2 AND state = 'open')";
    let row = conn.row(text, params![requester, customer]).await?;
    row.map_or(Ok((0, 0)), |row| Ok((row.int(0)?, row.int(1)?)))
}

/// Makes an open request wait for a step of a process. Approvals of this and later steps are forgotten.
///
/// # Errors
/// When it is not open any more, or the database fails.
pub async fn wait(
    conn: &mut Conn,
    id: i64,
    process: Option<i64>,
    step: usize,
    waits_at: CustomerId,
) -> Result<()> {
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    conn.execute("DELETE FROM request_approval WHERE request_id = $1 AND step >= $2", params![id, step])
        .await?;
    let text =
        "UPDATE request SET process_id = $2, step = $3, waits_at = $4 WHERE id = $1 AND state = 'open'";
    changed(conn.execute(text, params![id, process, step, waits_at]).await?)
}

/// Ends an open request; what it would act on stays to be seen in `fields`, secrets do not.
///
/// # Errors
/// When it is not open any more, or the database fails.
pub async fn decide(
    conn: &mut Conn,
    (id, fields): (i64, &str),
    state: &str,
    (by, decision): (Option<&str>, Option<&str>),
    now: Timestamp,
) -> Result<()> {
    let text = "UPDATE request SET state = $2, fields = $3, decided_by = $4, decision = $5, decided_at = $6
                WHERE id = $1 AND state = 'open'";
    changed(conn.execute(text, params![id, state, fields, by, decision, now]).await?)
}

fn changed(rows: u64) -> Result<()> {
    if rows == 0 { Err(StorageError::Gone("open request")) } else { Ok(()) }
}

/// An approval.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApprovalRow {
    /// Of which step.
    pub step: usize,
    /// By whom; 0 for the system.
    pub administrator: i64,
    /// The name, as a reference.
    pub approver: String,
    /// When.
    pub at: Timestamp,
}

/// The approvals of a request, by step.
///
/// # Errors
/// When the database fails.
pub async fn approvals(conn: &mut Conn, request: i64) -> Result<Vec<ApprovalRow>> {
    let text = "SELECT step, administrator_id, approver, at FROM request_approval WHERE request_id = $1 ORDER BY step";
    let approval = |row: &Row| {
        Ok(ApprovalRow {
            step: row.number(0)?,
            administrator: row.int(1)?,
            approver: row.text(2)?,
            at: Timestamp(row.int(3)?),
        })
    };
    conn.rows(text, params![request]).await?.iter().map(approval).collect()
}

/// Enters the approval of a step.
///
/// # Errors
/// When it was approved before, or the database fails.
pub async fn approve(conn: &mut Conn, request: i64, approval: &ApprovalRow) -> Result<()> {
    let step = i64::try_from(approval.step).unwrap_or(i64::MAX);
    let text = "INSERT INTO request_approval (request_id, step, administrator_id, approver, at)
                VALUES ($1, $2, $3, $4, $5)";
    let params = params![request, step, approval.administrator, &approval.approver, approval.at];
    conn.execute(text, params).await.map(drop)
}

/// Removes requests that were decided up to `before`; at most 256. Answers how many.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    let text = "SELECT id FROM request WHERE decided_at <= $1 ORDER BY decided_at LIMIT $2";
    let rows = conn.rows(text, params![before, PRUNED_ROWS]).await?;
    let gone: Vec<i64> = rows.iter().map(|row| row.int(0)).collect::<Result<_>>()?;
    for text in [
        "DELETE FROM request_approval WHERE request_id IN IDS($1)",
        "DELETE FROM request WHERE id IN IDS($1)",
    ] {
        conn.execute(text, vec![ids(gone.iter().copied())]).await?;
    }
    Ok(gone.len() as u64)
}

/// A process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProcessRow {
    /// Key; never given again, also not when the process is changed.
    pub id: i64,
    /// Where it was set.
    pub customer: CustomerId,
    /// JSON of its steps.
    pub steps: String,
    /// When it was set.
    pub changed_at: Timestamp,
}

fn process_from_row(row: &Row) -> Result<ProcessRow> {
    Ok(ProcessRow {
        id: row.int(0)?,
        customer: CustomerId(row.int(1)?),
        steps: row.text(2)?,
        changed_at: Timestamp(row.int(3)?),
    })
}

/// The processes set at these customers.
///
/// # Errors
/// When the database fails.
pub async fn processes(conn: &mut Conn, customers: impl IntoIterator<Item = i64>) -> Result<Vec<ProcessRow>> {
    let text = "SELECT id, customer_id, steps, changed_at FROM process WHERE customer_id IN IDS($1)";
    conn.rows(text, vec![ids(customers)]).await?.iter().map(process_from_row).collect()
}

/// The process with this key.
///
/// # Errors
/// When the database fails.
pub async fn process_by_id(conn: &mut Conn, id: i64) -> Result<Option<ProcessRow>> {
    let text = "SELECT id, customer_id, steps, changed_at FROM process WHERE id = $1";
    conn.row(text, params![id]).await?.as_ref().map(process_from_row).transpose()
}

/// Sets the process of a customer and answers its key; without steps it has none of its own any more.
///
/// # Errors
/// When the database fails.
pub async fn set_process(
    conn: &mut Conn,
    customer: CustomerId,
    steps: Option<&str>,
    now: Timestamp,
) -> Result<Option<i64>> {
    conn.execute("DELETE FROM process WHERE customer_id = $1", params![customer]).await?;
    let Some(steps) = steps else { return Ok(None) };
    let text = "INSERT INTO process (customer_id, steps, changed_at) VALUES ($1, $2, $3)";
    conn.insert(text, params![customer, steps, now]).await.map(Some)
}
