//! How near mailboxes, domains and customers are to their limits: what was warned of, and since when they refuse.
//!
//! Deliveries that are stored write nothing here. A refusal for want of room is noted in the background, the rest by
//! who looks at regular intervals.

use super::quota::QuotaOwner;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::Result;

/// Keys that one statement passes over.
const STEP_KEYS: i64 = 20_000;
/// Rows of one answer at most.
const PAGE_ROWS: i64 = 500;

/// What is known of one that is near its limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// The percentage that was warned of; 0 for none.
    pub percent: i64,
    /// Since when it refuses for want of room.
    pub full_since: Option<Timestamp>,
}

/// Whose limits are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Mailboxes.
    Mailbox,
    /// Domains.
    Domain,
    /// Customers.
    Customer,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mailbox, Self::Domain, Self::Customer];

    /// The owner with this key.
    fn owner(self, id: i64) -> QuotaOwner {
        match self {
            Self::Mailbox => QuotaOwner::Mailbox(MailboxId(id)),
            Self::Domain => QuotaOwner::Domain(DomainId(id)),
            Self::Customer => QuotaOwner::Customer(CustomerId(id)),
        }
    }
}

fn key(owner: QuotaOwner) -> (i64, i64) {
    match owner {
        QuotaOwner::Mailbox(id) => (1, id.0),
        QuotaOwner::Domain(id) => (2, id.0),
        QuotaOwner::Customer(id) => (3, id.0),
    }
}

/// One that is near a limit, or was.
#[derive(Clone, Debug)]
pub struct Near {
    /// Which.
    pub owner: QuotaOwner,
    /// The customer that it belongs to, or is.
    pub customer: CustomerId,
    /// The address or domain; empty for a customer.
    pub name: String,
    /// Octets used, or committed, and the limit on them.
    pub bytes: (i64, Option<i64>),
    /// Messages and the limit on them.
    pub messages: (i64, Option<i64>),
    /// What is known.
    pub mark: Option<Mark>,
}

/// Those that use three quarters of a limit, or have a mark, with keys behind `after`; and the key behind which to go
/// on, nothing at the end.
///
/// # Errors
/// When the database fails.
pub async fn near(conn: &mut Conn, kind: Kind, after: i64) -> Result<(Vec<Near>, Option<i64>)> {
    let (table, text) = match kind {
        Kind::Mailbox => (
            "mailbox",
            "SELECT o.id, d.customer_id, o.local_part || '@' || d.name, o.bytes_used, o.bytes_max, o.messages_used,
                    o.messages_max, q.percent, q.full_since
             FROM mailbox o JOIN domain d ON d.id = o.domain_id
                  LEFT JOIN quota_mark q ON q.kind = 1 AND q.owner_id = o.id
             WHERE o.id > $1 AND o.id <= $2 AND o.deleted_at IS NULL
               AND (q.owner_id IS NOT NULL OR o.bytes_used >= o.bytes_max / 4 * 3
                    OR o.messages_used >= o.messages_max / 4 * 3)
             ORDER BY o.id LIMIT $3",
        ),
        Kind::Domain => (
            "domain",
            "SELECT o.id, o.customer_id, o.name, u.bytes_used, o.bytes_max, u.messages_used, o.messages_max, q.percent,
                    q.full_since
             FROM domain o JOIN domain_usage u ON u.domain_id = o.id
                  LEFT JOIN quota_mark q ON q.kind = 2 AND q.owner_id = o.id
             WHERE o.id > $1 AND o.id <= $2 AND o.deleted_at IS NULL
               AND (q.owner_id IS NOT NULL OR u.bytes_used >= o.bytes_max / 4 * 3
                    OR u.messages_used >= o.messages_max / 4 * 3)
             ORDER BY o.id LIMIT $3",
        ),
        Kind::Customer => (
            "customer",
            "SELECT o.id, o.id, '', u.bytes_committed, o.bytes_max, u.messages_used, o.messages_max, q.percent,
                    q.full_since
             FROM customer o JOIN customer_usage u ON u.customer_id = o.id
                  LEFT JOIN quota_mark q ON q.kind = 3 AND q.owner_id = o.id
             WHERE o.id > $1 AND o.id <= $2 AND o.deleted_at IS NULL
               AND (q.owner_id IS NOT NULL OR u.bytes_committed >= o.bytes_max / 4 * 3
                    OR u.messages_used >= o.messages_max / 4 * 3)
             ORDER BY o.id LIMIT $3",
        ),
    };
    let upper = after.saturating_add(STEP_KEYS);
    let near = |row: &Row| {
        let percent = row.int_opt(7)?;
        let full_since = row.int_opt(8)?.map(Timestamp);
        Ok(Near {
            owner: kind.owner(row.int(0)?),
            customer: CustomerId(row.int(1)?),
            name: row.text(2)?,
            bytes: (row.int(3)?, row.int_opt(4)?),
            messages: (row.int(5)?, row.int_opt(6)?),
            mark: percent.map(|percent| Mark { percent, full_since }),
        })
    };
    let rows = conn.rows(text, params![after, upper, PAGE_ROWS]).await?;
    let found: Vec<Near> = rows.iter().map(near).collect::<Result<_>>()?;
    if i64::try_from(found.len()) == Ok(PAGE_ROWS) {
        let last = found.last().map(|one| key(one.owner).1);
        return Ok((found, last));
    }
    let more = conn.row(format!("SELECT 1 FROM {table} WHERE id > $1 LIMIT 1"), params![upper]).await?;
    Ok((found, more.map(|_| upper)))
}

/// Puts a mark in the place of another, or of none; nothing of none removes it. False when it is another by now.
///
/// # Errors
/// When the database fails.
pub async fn replace(
    conn: &mut Conn,
    owner: QuotaOwner,
    before: Option<Mark>,
    after: Option<Mark>,
) -> Result<bool> {
    let (kind, id) = key(owner);
    let changed = match (before, after) {
        (None, None) => 1,
        (None, Some(mark)) => {
            let text = "INSERT INTO quota_mark (kind, owner_id, percent, full_since) VALUES ($1, $2, $3, $4)
                        ON CONFLICT DO NOTHING";
            conn.execute(text, params![kind, id, mark.percent, mark.full_since]).await?
        }
        (Some(before), Some(mark)) => {
            let text = "UPDATE quota_mark SET percent = $4, full_since = $5
                        WHERE kind = $1 AND owner_id = $2 AND percent = $3";
            let params = params![kind, id, before.percent, mark.percent, mark.full_since];
            conn.execute(text, params).await?
        }
        (Some(before), None) => {
            let text = "DELETE FROM quota_mark WHERE kind = $1 AND owner_id = $2 AND percent = $3";
            conn.execute(text, params![kind, id, before.percent]).await?
        }
    };
    Ok(changed > 0)
}

/// Notes that somebody was refused for want of room; the first time counts.
///
/// # Errors
/// When the database fails.
pub async fn note_full(conn: &mut Conn, owner: QuotaOwner, at: Timestamp) -> Result<()> {
    let (kind, id) = key(owner);
    let text = "INSERT INTO quota_mark (kind, owner_id, percent, full_since) VALUES ($1, $2, 0, $3)
                ON CONFLICT (kind, owner_id) DO UPDATE SET full_since =
                    coalesce(quota_mark.full_since, excluded.full_since)";
    conn.execute(text, params![kind, id, at]).await.map(drop)
}

/// Since when it refuses for want of room, if it does.
///
/// # Errors
/// When the database fails.
pub async fn full_since(conn: &mut Conn, owner: QuotaOwner) -> Result<Option<Timestamp>> {
    let (kind, id) = key(owner);
    let text = "SELECT full_since FROM quota_mark WHERE kind = $1 AND owner_id = $2";
    let row = conn.row(text, params![kind, id]).await?;
    Ok(row.map(|row| row.int_opt(0)).transpose()?.flatten().map(Timestamp))
}

/// Removes the marks of what is gone or has no limit any more, among these kinds of owners.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut Conn) -> Result<()> {
    let text = "SELECT q.kind, q.owner_id FROM quota_mark q
                WHERE (q.kind = 1 AND NOT EXISTS (SELECT 1 FROM mailbox m WHERE m.id = q.owner_id
                                                  AND m.deleted_at IS NULL))
                   OR (q.kind = 2 AND NOT EXISTS (SELECT 1 FROM domain_usage u WHERE u.domain_id = q.owner_id))
                   OR (q.kind = 3 AND NOT EXISTS (SELECT 1 FROM customer_usage u WHERE u.customer_id = q.owner_id))
                LIMIT 256";
    let rows = conn.rows(text, Vec::new()).await?;
    for kind in 1..=3 {
        let mut gone = Vec::new();
        for row in &rows {
            if row.int(0)? == kind {
                gone.push(row.int(1)?);
            }
        }
        if !gone.is_empty() {
            let text = "DELETE FROM quota_mark WHERE kind = $1 AND owner_id IN IDS($2)";
            conn.execute(text, vec![kind.into(), ids(gone)]).await?;
        }
    }
    Ok(())
}
