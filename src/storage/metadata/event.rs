//! What was done, for those who follow it: records of the audit trail in the order of their keys.
//!
//! # Consistency
//! Changes have keys in the order of their commits (`audit.rs`), but records of reads and refusals do not, and those
//! of one transaction may show before an earlier key of another. So whoever follows may pass a change that it has
//! seen, and everything up to a key that was given when no change was under way.

use std::collections::BTreeMap;

use super::audit::{self, COLUMNS_OF_RECORD, ORDER_LOCK, Record};
use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::{Result, StorageError};

/// Records looked at for each customer in one go.
const LOOKED_AT: i64 = 500;

/// A key up to which all changes have been committed; nothing while one is under way. On PostgreSQL not to be called
/// in a transaction: it would hold up all changes.
async fn settled(conn: &mut Conn) -> Result<Option<i64>> {
    let gone = || StorageError::Gone("a count");
    let row = conn.row("SELECT coalesce(max(id), 0) FROM audit", Vec::new()).await?;
    let newest = row.ok_or_else(gone)?.int(0)?;
    if conn.is_postgres() {
        // Whoever gets the lock after the key was read knows that changes with smaller keys have ended.
        let text = "SELECT CAST(CASE WHEN pg_try_advisory_xact_lock_shared($1) THEN 1 ELSE 0 END AS BIGINT)";
        if conn.row(text, params![ORDER_LOCK]).await?.ok_or_else(gone)?.int(0)? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(newest))
}

/// Where whoever begins to follow now begins: behind every change that was committed, and behind none that was not.
///
/// # Errors
/// When the database fails.
pub async fn newest(conn: &mut Conn) -> Result<i64> {
    if let Some(newest) = settled(conn).await? {
        return Ok(newest);
    }
    // A change that is seen was committed after all with smaller keys.
    let text = "SELECT coalesce((SELECT a.id FROM audit a JOIN audit_unsealed u ON u.audit_id = a.id
                                 WHERE a.outcome = 'done' ORDER BY u.audit_id DESC LIMIT 1),
                                (SELECT max(audit_id) FROM audit_seal), 0)";
    conn.row(text, Vec::new()).await?.ok_or(StorageError::Gone("a count"))?.int(0)
}

/// Where whoever wants everything since `at` begins.
///
/// # Errors
/// When the database fails.
pub async fn since(conn: &mut Conn, at: Timestamp) -> Result<i64> {
    // Keys follow times but for records that were made at nearly the same moment.
    let text = "SELECT min(id) FROM (SELECT id FROM audit WHERE at >= $1 ORDER BY at LIMIT 1000) first";
    let first = conn.row(text, params![at]).await?.map_or(Ok(None), |row| row.int_opt(0))?;
    match first {
        Some(first) => Ok(first - 1),
        None => newest(conn).await,
    }
}

/// Records behind a position, with the position behind them.
#[derive(Debug)]
pub struct Page {
    /// In the order of keys.
    pub records: Vec<Record>,
    /// Everything up to here was looked at.
    pub position: i64,
    /// Whether there may be more at once.
    pub more: bool,
}

/// The next changes that have one of these customers on their path; `is_change` tells them by operation and outcome.
///
/// # Errors
/// When the database fails.
pub async fn after(
    conn: &mut Conn,
    places: &[i64],
    position: i64,
    limit: usize,
    is_change: impl Fn(&str, &str) -> bool + Send,
) -> Result<Page> {
    let settled = settled(conn).await?;
    let mut found: BTreeMap<i64, Record> = BTreeMap::new();
    // How far all customers were looked at; nothing: to the end.
    let mut until: Option<i64> = None;
    let (mut next, mut more) = (position, false);
    for place in places {
        // CROSS JOIN keeps SQLite to this order; to PostgreSQL it is a join like any other.
        let text = format!(
            "SELECT {COLUMNS_OF_RECORD}
             FROM (SELECT audit_id FROM audit_scope WHERE customer_id = $1 AND audit_id > $2
                   ORDER BY audit_id LIMIT $3) s CROSS JOIN audit a
             WHERE a.id = s.audit_id ORDER BY s.audit_id"
        );
        let rows = conn.rows(text, params![*place, position, LOOKED_AT]).await?;
        let is_full = i64::try_from(rows.len()) == Ok(LOOKED_AT);
        let mut last = position;
        for row in rows {
            let Some(record) = audit::record_opt(&row, 0)? else { continue };
            last = record.id;
            if is_change(&record.operation, &record.outcome) {
                found.insert(record.id, record);
            }
        }
        if is_full {
            until = Some(until.map_or(last, |until| until.min(last)));
        }
    }
    if let Some(until) = until {
        found.retain(|id, _| *id <= until);
        more = true;
    }
    while found.len() > limit {
        found.pop_last();
        more = true;
        until = found.last_key_value().map(|(id, _)| *id);
    }
    next = next.max(found.last_key_value().map_or(position, |(id, _)| *id));
    if let Some(settled) = settled {
        next = next.max(until.map_or(settled, |until| until.min(settled)));
    }
    Ok(Page { records: found.into_values().collect(), position: next, more: more && next > position })
}
