//! Looking for the proof of pending domains: what came of it, and when it is looked for again.

use super::changes::Touched;
use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::params;
use crate::storage::Result;

/// What came of the last look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// When.
    pub checked_at: Timestamp,
    /// A word for it.
    pub outcome: String,
    /// Looks in a row without success.
    pub failures: i64,
}

/// What came of the last look at this domain.
///
/// # Errors
/// When the database fails.
pub async fn of(conn: &mut Conn, domain: DomainId) -> Result<Option<Check>> {
    let text = "SELECT checked_at, outcome, failures FROM domain_check WHERE domain_id = $1";
    let Some(row) = conn.row(text, params![domain]).await? else { return Ok(None) };
    let check = Check { checked_at: Timestamp(row.int(0)?), outcome: row.text(1)?, failures: row.int(2)? };
    Ok(Some(check))
}

/// Keeps what came of a look, and that the next one is due at `next_at`.
///
/// # Errors
/// When the database fails.
pub async fn keep(conn: &mut Conn, domain: DomainId, check: &Check, next_at: Timestamp) -> Result<()> {
    let text = "INSERT INTO domain_check (domain_id, checked_at, next_at, failures, outcome)
                VALUES ($1, $2, $3, $4, $5)
                ON CONFLICT (domain_id) DO UPDATE SET checked_at = excluded.checked_at,
                    next_at = excluded.next_at, failures = excluded.failures, outcome = excluded.outcome";
    let params = params![domain, check.checked_at, next_at, check.failures, &check.outcome];
    conn.execute(text, params).await.map(drop)
}

/// A pending domain that is to be looked at.
#[derive(Clone, Debug)]
pub struct Due {
    /// Key.
    pub domain: DomainId,
    /// Name.
    pub name: String,
    /// Random public id.
    pub public_id: String,
    /// Its customer.
    pub customer: CustomerId,
    /// The customer's short code.
    pub code: String,
    /// Looks in a row without success.
    pub failures: i64,
}

/// Pending domains made after `since` that are due at `now`; those that were never looked at when they were made before
/// `unseen`. The longest waiting first.
///
/// # Errors
/// When the database fails.
pub async fn due(
    conn: &mut Conn,
    now: Timestamp,
    unseen: Timestamp,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Due>> {
    let text = "SELECT d.id, d.name, d.public_id, d.customer_id, c.code, coalesce(k.failures, 0)
                FROM domain d JOIN customer c ON c.id = d.customer_id
                     LEFT JOIN domain_check k ON k.domain_id = d.id
                WHERE d.state = 'pending' AND d.deleted_at IS NULL AND c.deleted_at IS NULL
                  AND d.created_at > $3
                  AND (k.next_at <= $1 OR (k.next_at IS NULL AND d.created_at <= $2))
                ORDER BY coalesce(k.next_at, d.created_at), d.id LIMIT $4";
    let rows = conn.rows(text, params![now, unseen, since, limit]).await?;
    let due = rows.iter().map(|row| {
        Ok(Due {
            domain: DomainId(row.int(0)?),
            name: row.text(1)?,
            public_id: row.text(2)?,
            customer: CustomerId(row.int(3)?),
            code: row.text(4)?,
            failures: row.int(5)?,
        })
    });
    due.collect()
}

/// Makes the verified domain of this name pending, and the domains that stand for it; answers whose they are.
///
/// # Errors
/// When the database fails.
pub async fn displace(conn: &mut Conn, name: &str) -> Result<Vec<CustomerId>> {
    let text = "UPDATE domain SET state = 'pending' WHERE state = 'verified' AND deleted_at IS NULL AND
                    (name = $1 OR alias_of IN (SELECT o.id FROM domain o WHERE o.name = $1
                                               AND o.state = 'verified' AND o.deleted_at IS NULL))
                RETURNING customer_id";
    conn.touch(Touched::Directory);
    conn.rows(text, params![name]).await?.iter().map(|row| row.int(0).map(CustomerId)).collect()
}
