//! The delivery trace: where mail went.
//!
//! It has no index besides its key, which ascends with time, since every delivery would pay for one. A look-up finds
//! the first key of its time by halving and reads from there in bounded steps, each a statement of its own.

use super::mailbox;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::Result;

/// Keys that one statement of a search passes over.
const STEP_KEYS: i64 = 20_000;
/// Rows may be out of order by as long as a transaction takes.
pub(super) const DISORDER: std::time::Duration = std::time::Duration::from_secs(60);

/// One recipient of one delivery.
#[derive(Clone, Debug)]
pub struct TraceRow {
    /// Key.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// Address as given.
    pub recipient: String,
    /// Reverse path.
    pub sender: String,
    /// Message-ID.
    pub message_id: String,
    /// Size in octets.
    pub octets: i64,
    /// Client address.
    pub source: String,
    /// The id the client was told.
    pub queue_id: String,
    /// `stored` or `refused`.
    pub outcome: String,
    /// Folder, or reason.
    pub detail: String,
}

/// What to look for.
#[derive(Clone, Debug)]
pub struct TraceSearch {
    /// An address (recipient or sender) or a Message-ID, with or without angle brackets.
    pub wanted: String,
    /// Customers whose domains count.
    pub customers: Vec<i64>,
    /// Whether rows of addresses in no domain of ours count.
    pub foreign: bool,
    /// From when.
    pub since: Timestamp,
    /// Only rows before this key, for the next page.
    pub before_id: Option<i64>,
    /// Most rows.
    pub limit: i64,
}

/// Rows that match, newest first.
///
/// # Errors
/// When the database fails.
pub async fn search(conn: &mut Conn, search: &TraceSearch) -> Result<Vec<TraceRow>> {
    let lowest = first_key(conn, search.since.minus(DISORDER)).await?;
    let mut upper = match search.before_id {
        Some(before) => before,
        None => extreme(conn, "SELECT coalesce(max(id), 0) FROM delivery_trace").await? + 1,
    };
    let wanted = search.wanted.trim_matches(['<', '>']).to_owned();
    let bracketed = format!("<{wanted}>");
    // Mail of a mailbox also came to it by its aliases and subaddresses.
    let mailbox = match wanted.rsplit_once('@') {
        Some((local, domain)) => mailbox::by_address(conn, local, domain).await?.map_or(0, |row| row.id.0),
        None => 0,
    };
    let mut found = Vec::new();
    while upper > lowest && (found.len() as i64) < search.limit {
        let lower = lowest.max(upper - STEP_KEYS);
        let text = "SELECT t.id, t.at, t.recipient, t.sender, t.message_id, t.octets, t.source, t.queue_id, t.outcome,
                           t.detail
                    FROM delivery_trace t LEFT JOIN domain d ON d.id = t.domain_id
                    WHERE t.id >= $1 AND t.id < $2 AND t.at >= $3
                      AND (t.recipient = $4 OR t.sender = $4 OR t.message_id = $4 OR t.message_id = $5
                           OR t.mailbox_id = $6)
                      AND (d.customer_id IN IDS($7) OR (t.domain_id IS NULL AND $8 = 1))
                    ORDER BY t.id DESC LIMIT $9";
        let mut values = params![lower, upper, search.since, &wanted, &bracketed, mailbox];
        values.push(ids(search.customers.iter().copied()));
        values.extend(params![search.foreign, search.limit - found.len() as i64]);
        for row in conn.rows(text, values).await? {
            found.push(from_row(&row)?);
        }
        upper = lower;
    }
    Ok(found)
}

fn from_row(row: &Row) -> Result<TraceRow> {
    Ok(TraceRow {
        id: row.int(0)?,
        at: Timestamp(row.int(1)?),
        recipient: row.text(2)?,
        sender: row.text(3)?,
        message_id: row.text(4)?,
        octets: row.int(5)?,
        source: row.text(6)?,
        queue_id: row.text(7)?,
        outcome: row.text(8)?,
        detail: row.text(9)?,
    })
}

async fn extreme(conn: &mut Conn, text: &'static str) -> Result<i64> {
    conn.row(text, params![]).await?.map_or(Ok(0), |row| row.int(0))
}

/// The first key whose row is not older than `since`, by halving.
pub(super) async fn first_key(conn: &mut Conn, since: Timestamp) -> Result<i64> {
    let mut low = extreme(conn, "SELECT coalesce(min(id), 0) FROM delivery_trace").await?;
    let mut high = extreme(conn, "SELECT coalesce(max(id), 0) FROM delivery_trace").await? + 1;
    while low < high {
        let middle = low + (high - low) / 2;
        let text = "SELECT id, at FROM delivery_trace WHERE id >= $1 ORDER BY id LIMIT 1";
        match conn.row(text, params![middle]).await? {
            Some(row) if Timestamp(row.int(1)?) < since => low = row.int(0)? + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// Removes at most about `rows_max` rows older than `before`; answers how many went.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut Conn, before: Timestamp, rows_max: i64) -> Result<u64> {
    let lowest = extreme(conn, "SELECT coalesce(min(id), 0) FROM delivery_trace").await?;
    let text = "DELETE FROM delivery_trace WHERE id >= $1 AND id < $2 AND at < $3";
    conn.execute(text, params![lowest, lowest.saturating_add(rows_max), before]).await
}
