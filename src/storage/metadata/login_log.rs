//! Logins of mailboxes' owners, counted by mailbox, service, source and hour.
//!
//! # Bounds
//! A mailbox has few lines for a service and hour, however many sources try: once there are [`SOURCES_MAX`], whatever
//! comes from others is counted in one more line ([`OTHER`]). Nodes that write at once may each add as many.

use super::legal_hold::HELD_MAILBOXES;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, MailboxId};
use crate::params;
use crate::storage::Result;

/// Sources of one mailbox, service and hour that have a line of their own.
pub const SOURCES_MAX: usize = 16;
/// The source of a line in which those of further sources are counted.
pub const OTHER: &str = "other";
/// Lines that one transaction writes at most.
pub const SLICE_LINES: usize = 256;
/// Values of a line that is written.
const COLUMNS: [&str; 8] = ["BIGINT", "BIGINT", "TEXT", "TEXT", "BIGINT", "BIGINT", "BIGINT", "BIGINT"];
/// Rows that one transaction removes at most.
pub const PRUNED_ROWS: i64 = 256;
/// Customers that are looked at together.
const CUSTOMERS: i64 = 256;

/// Logins of one mailbox over one service from one source within an hour.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LoginLine {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The hour since 1970, in UTC.
    pub hour: i64,
    /// The service.
    pub service: String,
    /// An IP address, `unix`, or [`OTHER`].
    pub source: String,
    /// The customer to which the mailbox belonged.
    pub customer: CustomerId,
    /// Logins.
    pub successes: i64,
    /// Attempts that were refused.
    pub failures: i64,
    /// The last of both.
    pub last_at: Timestamp,
}

fn from_row(row: &Row) -> Result<LoginLine> {
    Ok(LoginLine {
        mailbox: MailboxId(row.int(0)?),
        hour: row.int(1)?,
        service: row.text(2)?,
        source: row.text(3)?,
        customer: CustomerId(row.int(4)?),
        successes: row.int(5)?,
        failures: row.int(6)?,
        last_at: Timestamp(row.int(7)?),
    })
}

/// Adds to what is counted; ascending, at most [`SLICE_LINES`]. What mailboxes have that are gone is left out.
///
/// # Errors
/// When the database fails.
pub async fn add(conn: &mut Conn, lines: &[LoginLine]) -> Result<()> {
    let mut rest = lines;
    while !rest.is_empty() {
        // Few sizes, and so few prepared statements.
        let size = [64, 16, 4, 1].into_iter().find(|&size| size <= rest.len()).unwrap_or(1);
        let Some((chunk, behind)) = rest.split_at_checked(size) else { break };
        rest = behind;
        add_chunk(conn, chunk).await?;
    }
    Ok(())
}

async fn add_chunk(conn: &mut Conn, chunk: &[LoginLine]) -> Result<()> {
    let placeholders = |row: usize| {
        let column =
            |(at, kind): (usize, &&str)| format!("CAST(${} AS {kind})", row * COLUMNS.len() + at + 1);
        format!("({})", COLUMNS.iter().enumerate().map(column).collect::<Vec<_>>().join(", "))
    };
    let values = (0..chunk.len()).map(placeholders).collect::<Vec<_>>().join(", ");
    // Several of a chunk may be counted as others: they are one row then. Everybody writes in one order.
    let text = format!(
        "INSERT INTO login_log (mailbox_id, hour, service, source, customer_id, successes, failures, last_at)
         SELECT mailbox_id, hour, service, line, customer_id, CAST(sum(successes) AS BIGINT),
                CAST(sum(failures) AS BIGINT), max(last_at)
         FROM (SELECT v.column1 AS mailbox_id, v.column2 AS hour, v.column3 AS service,
                      CASE WHEN EXISTS (SELECT 1 FROM login_log k
                                        WHERE k.mailbox_id = v.column1 AND k.hour = v.column2
                                          AND k.service = v.column3 AND k.source = v.column4)
                             OR (SELECT count(*) FROM login_log k
                                 WHERE k.mailbox_id = v.column1 AND k.hour = v.column2
                                   AND k.service = v.column3) < {SOURCES_MAX}
                           THEN v.column4 ELSE '{OTHER}' END AS line,
                      v.column5 AS customer_id, v.column6 AS successes, v.column7 AS failures,
                      v.column8 AS last_at
               FROM (VALUES {values}) AS v JOIN mailbox m ON m.id = v.column1) AS fresh
         WHERE 1 = 1 GROUP BY mailbox_id, hour, service, line, customer_id
         ORDER BY mailbox_id, hour, service, line, customer_id
         ON CONFLICT (mailbox_id, hour, service, source, customer_id) DO UPDATE
         SET successes = login_log.successes + excluded.successes,
             failures = login_log.failures + excluded.failures,
             last_at = CASE WHEN excluded.last_at > login_log.last_at THEN excluded.last_at
                            ELSE login_log.last_at END"
    );
    let params = chunk.iter().flat_map(|line| {
        let LoginLine { mailbox, hour, service, source, customer, successes, failures, last_at } = line;
        params![*mailbox, *hour, service, source, *customer, *successes, *failures, *last_at]
    });
    conn.execute(text, params.collect()).await.map(drop)
}

/// Where the last line of a page stands: its hour, service, source and customer.
pub type Position = (i64, String, String, i64);

/// The customers to which a mailbox belonged when somebody logged in, from `hour` on.
///
/// # Errors
/// When the database fails.
pub async fn customers(conn: &mut Conn, mailbox: MailboxId, hour: i64) -> Result<Vec<CustomerId>> {
    let text = "SELECT DISTINCT customer_id FROM login_log WHERE mailbox_id = $1 AND hour >= $2";
    conn.rows(text, params![mailbox, hour]).await?.iter().map(|row| row.int(0).map(CustomerId)).collect()
}

/// A mailbox's lines of these customers from `hour` on, before a position, newest first.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    (mailbox, customers): (MailboxId, &[CustomerId]),
    hour: i64,
    before: Option<Position>,
    limit: i64,
) -> Result<Vec<LoginLine>> {
    let (before_hour, service, source, customer) =
        before.unwrap_or((i64::MAX, String::new(), String::new(), 0));
    let text = "SELECT mailbox_id, hour, service, source, customer_id, successes, failures, last_at
                FROM login_log
                WHERE mailbox_id = $1 AND hour >= $2 AND hour <= $3 AND customer_id IN IDS($7)
                  AND (hour, service, source, customer_id) < ($3, $4, $5, $6)
                ORDER BY hour DESC, service DESC, source DESC, customer_id DESC LIMIT $8";
    let mut values = params![mailbox, hour, before_hour, service, source, customer];
    values.push(ids(customers.iter().map(|customer| customer.0)));
    values.push(limit.into());
    conn.rows(text, values).await?.iter().map(from_row).collect()
}

/// The customers behind `after` that lines belong to, each with the hour of its first one; at most 256, ascending.
///
/// # Errors
/// When the database fails.
pub async fn oldest(conn: &mut Conn, after: CustomerId) -> Result<Vec<(CustomerId, i64)>> {
    // From one customer to the next in the index: what they have is not read.
    let text = "WITH RECURSIVE one (id) AS (
                    SELECT (SELECT min(customer_id) FROM login_log WHERE customer_id > $1)
                    UNION ALL
                    SELECT (SELECT min(customer_id) FROM login_log WHERE customer_id > one.id)
                    FROM one WHERE one.id IS NOT NULL)
                SELECT id, (SELECT min(hour) FROM login_log WHERE customer_id = one.id)
                FROM one WHERE id IS NOT NULL LIMIT $2";
    let rows = conn.rows(text, params![after, CUSTOMERS]).await?;
    rows.iter().map(|row| Ok((CustomerId(row.int(0)?), row.int(1)?))).collect()
}

/// Removes a customer's lines before `hour`, at most `rows_max`; those of mailboxes under a legal hold stay. Answers
/// how many.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut Conn, customer: CustomerId, hour: i64, rows_max: i64) -> Result<u64> {
    let text = format!(
        "DELETE FROM login_log WHERE (mailbox_id, hour, service, source, customer_id) IN (
             SELECT mailbox_id, hour, service, source, customer_id FROM login_log
             WHERE customer_id = $1 AND hour < $2 AND mailbox_id NOT IN {HELD_MAILBOXES}
             ORDER BY hour LIMIT $3)"
    );
    conn.execute(text, params![customer, hour, rows_max]).await
}

/// Removes lines of a mailbox that is being purged, at most 256; answers how many.
///
/// # Errors
/// When the database fails.
pub(super) async fn purge_slice(conn: &mut Conn, mailbox: MailboxId) -> Result<u64> {
    let text = "DELETE FROM login_log WHERE (mailbox_id, hour, service, source, customer_id) IN (
                    SELECT mailbox_id, hour, service, source, customer_id FROM login_log
                    WHERE mailbox_id = $1 ORDER BY hour LIMIT $2)";
    conn.execute(text, params![mailbox, PRUNED_ROWS]).await
}
