//! The chains of the audit trail: which record stands where in its customer's chain, where the chains end, and the
//! signed roots over them. What the values mean is the service's (`audit/chain.rs`).

use std::collections::HashMap;

use super::audit::{self, COLUMNS_OF_RECORD, Record};
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::{Result, StorageError};

/// A record's place in a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Key of the record.
    pub audit: i64,
    /// Whose chain; 0: of no customer.
    pub customer: i64,
    /// Its number in the chain, from 1.
    pub seq: i64,
    /// What sealed it.
    pub batch: i64,
    /// When it was done.
    pub at: Timestamp,
    /// Of the record.
    pub digest: Vec<u8>,
}

/// The end of a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// Whose.
    pub customer: i64,
    /// Its random name.
    pub chain: String,
    /// Number of the last record.
    pub seq: i64,
    /// Digest over all records.
    pub head: Vec<u8>,
}

/// A signed root.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// Its number.
    pub batch: i64,
    /// When it was made.
    pub at: Timestamp,
    /// Digest over the heads and the root before.
    pub root: Vec<u8>,
    /// Public key of the node that made it.
    pub key: Vec<u8>,
    /// Its signature.
    pub signature: Vec<u8>,
}

/// The newest root; it stays the newest until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn newest_locked(conn: &mut Conn) -> Result<Root> {
    // On PostgreSQL the first row stands for all of them.
    let lock = format!("SELECT batch FROM audit_root WHERE batch = 0{}", conn.for_update());
    conn.execute(lock, Vec::new()).await?;
    let text = "SELECT batch, at, root, key, signature FROM audit_root ORDER BY batch DESC LIMIT 1";
    let row =
        conn.row(text, Vec::new()).await?.ok_or(StorageError::Gone("the first root of the audit trail"))?;
    root(&row)
}

fn root(row: &Row) -> Result<Root> {
    Ok(Root {
        batch: row.int(0)?,
        at: Timestamp(row.int(1)?),
        root: row.blob(2)?,
        key: row.blob(3)?,
        signature: row.blob(4)?,
    })
}

/// Keys of records that are to be chained, the oldest first, each with its record unless that is gone.
///
/// # Errors
/// When the database fails.
pub async fn waiting(conn: &mut Conn, limit: i64) -> Result<Vec<(i64, Option<Record>)>> {
    let text = format!(
        "SELECT u.audit_id, {COLUMNS_OF_RECORD} FROM audit_unsealed u LEFT JOIN audit a ON a.id = u.audit_id
         ORDER BY u.audit_id LIMIT $1"
    );
    let rows = conn.rows(text, params![limit]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, audit::record_opt(row, 1)?))).collect()
}

/// How many records are to be chained.
///
/// # Errors
/// When the database fails.
pub async fn waiting_count(conn: &mut Conn) -> Result<i64> {
    let row = conn.row("SELECT count(*) FROM audit_unsealed", Vec::new()).await?;
    row.ok_or(StorageError::Gone("a count"))?.int(0)
}

/// The ends of these customers' chains.
///
/// # Errors
/// When the database fails.
pub async fn heads(conn: &mut Conn, customers: impl IntoIterator<Item = i64>) -> Result<HashMap<i64, Head>> {
    let text = "SELECT customer_id, chain, seq, head FROM audit_head WHERE customer_id IN IDS($1)";
    let rows = conn.rows(text, vec![ids(customers)]).await?;
    let head = |row: &Row| {
        let customer = row.int(0)?;
        Ok((customer, Head { customer, chain: row.text(1)?, seq: row.int(2)?, head: row.blob(3)? }))
    };
    rows.iter().map(head).collect()
}

/// Writes a batch: places of records, where their chains end now, and the root.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub async fn write(conn: &mut Conn, links: &[Link], heads: &[Head], root: &Root) -> Result<()> {
    let rows = links
        .iter()
        .map(|link| params![link.audit, link.customer, link.seq, link.batch, link.at, link.digest.clone()]);
    let text = "INSERT INTO audit_seal (audit_id, customer_id, seq, batch, at, digest)";
    conn.insert_rows(text, 6, rows.collect()).await?;
    let moved = vec![ids(heads.iter().map(|head| head.customer))];
    conn.execute("DELETE FROM audit_head WHERE customer_id IN IDS($1)", moved).await?;
    let rows = heads.iter().map(|head| params![head.customer, &head.chain, head.seq, head.head.clone()]);
    conn.insert_rows("INSERT INTO audit_head (customer_id, chain, seq, head)", 4, rows.collect()).await?;
    let text = "INSERT INTO audit_root (batch, at, root, key, signature) VALUES ($1, $2, $3, $4, $5)";
    let Root { batch, at, root, key, signature } = root.clone();
    conn.execute(text, params![batch, at, root, key, signature]).await.map(drop)
}

/// Records that wait no longer.
///
/// # Errors
/// When the database fails.
pub async fn waited(conn: &mut Conn, records: impl IntoIterator<Item = i64>) -> Result<()> {
    conn.execute("DELETE FROM audit_unsealed WHERE audit_id IN IDS($1)", vec![ids(records)]).await.map(drop)
}

/// Roots behind `batch`, ascending.
///
/// # Errors
/// When the database fails.
pub async fn roots_after(conn: &mut Conn, batch: i64, limit: i64) -> Result<Vec<Root>> {
    let text =
        "SELECT batch, at, root, key, signature FROM audit_root WHERE batch > $1 ORDER BY batch LIMIT $2";
    conn.rows(text, params![batch, limit]).await?.iter().map(root).collect()
}

/// What the batches from `first` to `last` chained, in their order, each with its record unless that is gone.
///
/// # Errors
/// When the database fails.
pub async fn links(conn: &mut Conn, first: i64, last: i64) -> Result<Vec<(Link, Option<Record>)>> {
    let text = format!(
        "SELECT s.audit_id, s.customer_id, s.seq, s.batch, s.at, s.digest, {COLUMNS_OF_RECORD}
         FROM audit_seal s LEFT JOIN audit a ON a.id = s.audit_id
         WHERE s.batch >= $1 AND s.batch <= $2 ORDER BY s.batch, s.audit_id"
    );
    let link = |row: &Row| {
        let link = Link {
            audit: row.int(0)?,
            customer: row.int(1)?,
            seq: row.int(2)?,
            batch: row.int(3)?,
            at: Timestamp(row.int(4)?),
            digest: row.blob(5)?,
        };
        Ok((link, audit::record_opt(row, 6)?))
    };
    conn.rows(text, params![first, last]).await?.iter().map(link).collect()
}

/// Records behind `after` that came since the chains began, are in none, and do not wait for it; at most 1,000 keys are
/// looked at. Answers them with the last key that was looked at, nothing when there are no more.
///
/// # Errors
/// When the database fails.
pub async fn unchained(conn: &mut Conn, after: i64) -> Result<Option<(Vec<Record>, i64)>> {
    let last = "SELECT max(id) FROM (SELECT id FROM audit
                WHERE id > $1 AND id > (SELECT audit_from FROM audit_root WHERE batch = 0)
                ORDER BY id LIMIT 1000) page";
    let Some(last) = conn.row(last, params![after]).await?.map(|row| row.int_opt(0)).transpose()?.flatten()
    else {
        return Ok(None);
    };
    let text = format!(
        "SELECT {COLUMNS_OF_RECORD} FROM audit a
         LEFT JOIN audit_seal s ON s.audit_id = a.id LEFT JOIN audit_unsealed u ON u.audit_id = a.id
         WHERE a.id > $1 AND a.id <= $2 AND a.id > (SELECT audit_from FROM audit_root WHERE batch = 0)
           AND s.audit_id IS NULL AND u.audit_id IS NULL ORDER BY a.id"
    );
    let rows = conn.rows(text, params![after, last]).await?;
    let records: Vec<Option<Record>> =
        rows.iter().map(|row| audit::record_opt(row, 0)).collect::<Result<_>>()?;
    Ok(Some((records.into_iter().flatten().collect(), last)))
}
