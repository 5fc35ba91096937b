//! The chains of the audit trail: which record stands where in its customer's chain, where the chains end, and the
//! signed roots over them. What the values mean is the service's (`audit/chain.rs`).

use std::collections::HashMap;

use super::audit::{self, COLUMNS_OF_RECORD, Record};
use super::sql::{Conn, Row, Value, ids};
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
    /// The chain's head after it; nothing where it was not kept.
    pub head: Option<Vec<u8>>,
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
    /// How its digests are made.
    pub kind: i64,
}

/// The newest root; it stays the newest until the transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn newest_locked(conn: &mut Conn) -> Result<Root> {
    // On PostgreSQL the first row stands for all of them.
    let lock = format!("SELECT batch FROM audit_root WHERE batch = 0{}", conn.for_update());
    conn.execute(lock, Vec::new()).await?;
    let text = "SELECT batch, at, root, key, signature, kind FROM audit_root ORDER BY batch DESC LIMIT 1";
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
        kind: row.int(5)?,
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
    let rows = links.iter().map(|link| {
        let Link { audit, customer, seq, batch, at, digest, head } = link.clone();
        params![audit, customer, seq, batch, at, digest, Value::Blob(head)]
    });
    let text = "INSERT INTO audit_seal (audit_id, customer_id, seq, batch, at, digest, head)";
    conn.insert_rows(text, 7, rows.collect()).await?;
    let moved = vec![ids(heads.iter().map(|head| head.customer))];
    let text = "SELECT customer_id, pruned_by FROM audit_head WHERE customer_id IN IDS($1)";
    let pruned = conn.rows(text, moved.clone()).await?;
    let pruned: HashMap<i64, Option<i64>> =
        pruned.iter().map(|row| Ok((row.int(0)?, row.int_opt(1)?))).collect::<Result<_>>()?;
    conn.execute("DELETE FROM audit_head WHERE customer_id IN IDS($1)", moved).await?;
    let rows = heads.iter().map(|head| {
        let pruned_by = pruned.get(&head.customer).copied().flatten();
        params![head.customer, &head.chain, head.seq, head.head.clone(), pruned_by]
    });
    let text = "INSERT INTO audit_head (customer_id, chain, seq, head, pruned_by)";
    conn.insert_rows(text, 5, rows.collect()).await?;
    let text =
        "INSERT INTO audit_root (batch, at, root, key, signature, kind) VALUES ($1, $2, $3, $4, $5, $6)";
    let Root { batch, at, root, key, signature, kind } = root.clone();
    conn.execute(text, params![batch, at, root, key, signature, kind]).await.map(drop)
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
    let text = "SELECT batch, at, root, key, signature, kind FROM audit_root WHERE batch > $1 ORDER BY batch LIMIT $2";
    conn.rows(text, params![batch, limit]).await?.iter().map(root).collect()
}

/// What the batches from `first` to `last` chained, in their order, each with its record unless that is gone.
///
/// # Errors
/// When the database fails.
pub async fn links(conn: &mut Conn, first: i64, last: i64) -> Result<Vec<(Link, Option<Record>)>> {
    let text = format!(
        "SELECT s.audit_id, s.customer_id, s.seq, s.batch, s.at, s.digest, s.head, {COLUMNS_OF_RECORD}
         FROM audit_seal s LEFT JOIN audit a ON a.id = s.audit_id
         WHERE s.batch >= $1 AND s.batch <= $2 ORDER BY s.batch, s.audit_id"
    );
    let both = |row: &Row| Ok((link(row)?, audit::record_opt(row, 7)?));
    conn.rows(text, params![first, last]).await?.iter().map(both).collect()
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

/// The batch that sealed a record, with its root and the root before.
///
/// # Errors
/// When the database fails.
pub async fn sealed(conn: &mut Conn, audit: i64) -> Result<Option<(Root, Root)>> {
    let text = "SELECT batch FROM audit_seal WHERE audit_id = $1";
    let Some(row) = conn.row(text, params![audit]).await? else { return Ok(None) };
    let text = "SELECT batch, at, root, key, signature, kind FROM audit_root WHERE batch <= $1
                ORDER BY batch DESC LIMIT 2";
    let roots: Vec<Root> =
        conn.rows(text, params![row.int(0)?]).await?.iter().map(root).collect::<Result<_>>()?;
    let mut roots = roots.into_iter();
    Ok(roots.next().zip(roots.next()))
}

/// The head of a chain after this many records; nothing where it was not kept.
///
/// # Errors
/// When the database fails.
pub async fn head_at(conn: &mut Conn, customer: i64, seq: i64) -> Result<Option<Vec<u8>>> {
    let text = "SELECT head FROM audit_seal WHERE customer_id = $1 AND seq = $2";
    conn.row(text, params![customer, seq]).await?.map_or(Ok(None), |row| row.blob_opt(0))
}

/// What a batch chained, in the order of customers and places.
///
/// # Errors
/// When the database fails.
pub async fn batch(conn: &mut Conn, batch: i64) -> Result<Vec<Link>> {
    let text = "SELECT audit_id, customer_id, seq, batch, at, digest, head FROM audit_seal
                WHERE batch = $1 ORDER BY customer_id, seq";
    conn.rows(text, params![batch]).await?.iter().map(link).collect()
}

fn link(row: &Row) -> Result<Link> {
    Ok(Link {
        audit: row.int(0)?,
        customer: row.int(1)?,
        seq: row.int(2)?,
        batch: row.int(3)?,
        at: Timestamp(row.int(4)?),
        digest: row.blob(5)?,
        head: row.blob_opt(6)?,
    })
}

/// Notes the record that tells of the last pruning in a chain.
///
/// # Errors
/// When the database fails.
pub async fn pruned(conn: &mut Conn, customer: i64, public_id: &str) -> Result<()> {
    let text = "UPDATE audit_head SET pruned_by = (SELECT id FROM audit WHERE public_id = $2) WHERE customer_id = $1";
    conn.execute(text, params![customer, public_id]).await.map(drop)
}

/// The records that tell of the last pruning, by customer.
///
/// # Errors
/// When the database fails.
pub async fn prunings(conn: &mut Conn) -> Result<Vec<(i64, Record)>> {
    let text = format!(
        "SELECT h.customer_id, {COLUMNS_OF_RECORD} FROM audit_head h JOIN audit a ON a.id = h.pruned_by"
    );
    let rows = conn.rows(text, Vec::new()).await?;
    let both = |row: &Row| Ok(audit::record_opt(row, 1)?.map(|record| (row.int(0), record)));
    rows.iter()
        .filter_map(|row| both(row).transpose())
        .map(|found: Result<_>| found.and_then(|(customer, record)| Ok((customer?, record))))
        .collect()
}
