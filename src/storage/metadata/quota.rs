//! Charging and releasing octets and messages; setting limits; recounting.
//!
//! # Consistency
//! The order of locks is that of `delivery.rs`: mailbox, domain counter, customer counters by id. A counter row of a
//! domain or customer exists exactly while it has a limit on octets or messages.

use super::delivery::{Meter, OverLimit, QuotaOwner};
use super::sql::{Conn, Row, Value, ids};
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// A counter that a charge reaches.
struct Counter {
    owner: QuotaOwner,
    meter: Meter,
}

impl Counter {
    fn read(row: &Row, owner: QuotaOwner) -> Result<Self> {
        let meter = Meter {
            bytes_max: row.int_opt(1)?,
            messages_max: row.int_opt(2)?,
            bytes_used: row.int(3)?,
            messages_used: row.int(4)?,
        };
        Ok(Self { owner, meter })
    }

    fn refusal(&self, bytes_delta: i64, messages_delta: i64) -> Option<OverLimit> {
        self.meter.refusal(self.owner, bytes_delta, messages_delta)
    }
}

/// Adds to what a mailbox and everything with a limit above it use, or takes away (negative deltas, which always
/// pass). When a limit refuses, nothing is changed and which it is comes back as the inner error.
///
/// # Errors
/// When the mailbox is gone, or the database fails.
pub async fn charge(
    conn: &mut Conn,
    mailbox: MailboxId,
    bytes_delta: i64,
    messages_delta: i64,
) -> Result<std::result::Result<(), OverLimit>> {
    let counters = lock_counters(conn, mailbox).await?;
    if let Some(over) = counters.iter().find_map(|counter| counter.refusal(bytes_delta, messages_delta)) {
        return Ok(Err(over));
    }
    for counter in &counters {
        let (text, id) = match counter.owner {
            QuotaOwner::Mailbox(id) => {
                ("UPDATE mailbox SET bytes_used = $2, messages_used = $3 WHERE id = $1", id.0)
            }
            QuotaOwner::Domain(id) => {
                ("UPDATE domain_usage SET bytes_used = $2, messages_used = $3 WHERE domain_id = $1", id.0)
            }
            QuotaOwner::Customer(id) => {
                ("UPDATE customer_usage SET bytes_used = $2, messages_used = $3 WHERE customer_id = $1", id.0)
            }
        };
        let bytes_used = sum(counter.meter.bytes_used, bytes_delta, counter.owner)?;
        let messages_used = sum(counter.meter.messages_used, messages_delta, counter.owner)?;
        conn.execute(text, params![id, bytes_used, messages_used]).await?;
    }
    Ok(Ok(()))
}

/// Whether so much more would fit now; nothing is charged.
///
/// # Errors
/// As [`charge`].
pub async fn admits(
    conn: &mut Conn,
    mailbox: MailboxId,
    bytes_delta: i64,
    messages_delta: i64,
) -> Result<std::result::Result<(), OverLimit>> {
    let counters = lock_counters(conn, mailbox).await?;
    let over = counters.iter().find_map(|counter| counter.refusal(bytes_delta, messages_delta));
    Ok(over.map_or(Ok(()), Err))
}

/// A sum below zero means that a counter had drifted: it is reported and stops at zero, so that mail goes on.
fn sum(used: i64, delta: i64, owner: QuotaOwner) -> Result<i64> {
    let sum =
        used.checked_add(delta).ok_or_else(|| StorageError::Corrupt("a quota counter overflows".into()))?;
    if sum < 0 {
        tracing::error!(?owner, used, delta, "a quota counter would go below zero; run quota verify");
    }
    Ok(sum.max(0))
}

/// Locks and reads the mailbox and the counters above it, in the order of locks.
async fn lock_counters(conn: &mut Conn, mailbox: MailboxId) -> Result<Vec<Counter>> {
    let lock = if conn.is_postgres() { " FOR UPDATE OF m" } else { "" };
    let text = format!(
        "SELECT m.id, m.bytes_max, m.messages_max, m.bytes_used, m.messages_used, d.id, d.customer_id
         FROM mailbox m JOIN domain d ON d.id = m.domain_id WHERE m.id = $1{lock}"
    );
    let row = conn.row(text, params![mailbox]).await?.ok_or(StorageError::Gone("mailbox"))?;
    let (domain, customer) = (DomainId(row.int(5)?), CustomerId(row.int(6)?));
    let mut counters = vec![Counter::read(&row, QuotaOwner::Mailbox(mailbox))?];
    let lock = if conn.is_postgres() { " FOR UPDATE OF u" } else { "" };
    let text = format!(
        "SELECT o.id, o.bytes_max, o.messages_max, u.bytes_used, u.messages_used
         FROM domain_usage u JOIN domain o ON o.id = u.domain_id WHERE u.domain_id = $1{lock}"
    );
    for row in conn.rows(text, params![domain]).await? {
        counters.push(Counter::read(&row, QuotaOwner::Domain(domain))?);
    }
    let text = format!(
        "WITH RECURSIVE up (id, parent_id) AS (
             SELECT id, parent_id FROM customer WHERE id = $1
             UNION ALL
             SELECT c.id, c.parent_id FROM up JOIN customer c ON c.id = up.parent_id)
         SELECT o.id, o.bytes_max, o.messages_max, u.bytes_used, u.messages_used
         FROM customer_usage u JOIN customer o ON o.id = u.customer_id
         WHERE u.customer_id IN (SELECT id FROM up) ORDER BY u.customer_id{lock}"
    );
    for row in conn.rows(text, params![customer]).await? {
        let owner = QuotaOwner::Customer(CustomerId(row.int(0)?));
        counters.push(Counter::read(&row, owner)?);
    }
    Ok(counters)
}

/// What some mailboxes use together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    /// Octets.
    pub bytes: i64,
    /// Messages.
    pub messages: i64,
}

/// Locks the mailboxes of a domain or of customers, deleted ones too since they keep their charge, and sums them up.
/// Deliveries that come later wait and then see the counter that the caller makes.
async fn lock_and_sum(conn: &mut Conn, condition: &str, wanted: Value) -> Result<Used> {
    if conn.is_postgres() {
        let text = format!(
            "SELECT count(*) FROM (SELECT m.id FROM mailbox m JOIN domain d ON d.id = m.domain_id
             WHERE {condition} ORDER BY m.id FOR UPDATE OF m) AS locked"
        );
        conn.execute(text, vec![wanted.clone()]).await?;
    }
    let text = format!(
        "SELECT CAST(coalesce(sum(m.bytes_used), 0) AS BIGINT), CAST(coalesce(sum(m.messages_used), 0) AS BIGINT)
         FROM mailbox m JOIN domain d ON d.id = m.domain_id WHERE {condition}"
    );
    let row = conn.row(text, vec![wanted]).await?.ok_or(StorageError::Gone("the sum"))?;
    Ok(Used { bytes: row.int(0)?, messages: row.int(1)? })
}

/// Locks and sums the mailboxes of these customers.
///
/// # Errors
/// When the database fails.
pub async fn lock_customers(conn: &mut Conn, subtree: &[i64]) -> Result<Used> {
    lock_and_sum(conn, "d.customer_id IN IDS($1)", ids(subtree.iter().copied())).await
}

/// Makes the counter of a customer follow its limits: there while it has one on octets or messages. `subtree` are
/// the keys of the customer and all below.
///
/// # Errors
/// When the database fails.
pub async fn follow_customer_limits(
    conn: &mut Conn,
    id: CustomerId,
    subtree: &[i64],
    limited: bool,
) -> Result<()> {
    let used = lock_customers(conn, subtree).await?;
    conn.execute("DELETE FROM customer_usage WHERE customer_id = $1", params![id]).await?;
    if limited {
        let text = "INSERT INTO customer_usage (customer_id, bytes_used, messages_used) VALUES ($1, $2, $3)";
        conn.execute(text, params![id, used.bytes, used.messages]).await?;
    }
    Ok(())
}

/// Makes the counter of a domain follow its limits.
///
/// # Errors
/// When the database fails.
pub async fn follow_domain_limits(conn: &mut Conn, id: DomainId, limited: bool) -> Result<()> {
    let used = lock_and_sum(conn, "d.id IN IDS($1)", ids([id.0])).await?;
    conn.execute("DELETE FROM domain_usage WHERE domain_id = $1", params![id]).await?;
    if limited {
        let text = "INSERT INTO domain_usage (domain_id, bytes_used, messages_used) VALUES ($1, $2, $3)";
        conn.execute(text, params![id, used.bytes, used.messages]).await?;
    }
    Ok(())
}

/// Takes the use of a moved subtree from the counters of the customers it leaves and adds it to those of the
/// customers it comes to; the refusing one comes back as the inner error, and then nothing was changed.
///
/// # Errors
/// When the database fails.
pub async fn move_use(
    conn: &mut Conn,
    used: Used,
    leaves: &[i64],
    reaches: &[i64],
) -> Result<std::result::Result<(), OverLimit>> {
    move_between(conn, "customer", |id| QuotaOwner::Customer(CustomerId(id)), used, (leaves, reaches)).await
}

/// As [`move_use`], for a mailbox that comes to another domain of its customer. Locks the mailbox.
///
/// # Errors
/// When the database fails.
pub async fn move_domain_use(
    conn: &mut Conn,
    mailbox: MailboxId,
    from: DomainId,
    to: DomainId,
) -> Result<std::result::Result<(), OverLimit>> {
    let used = lock_and_sum(conn, "m.id IN IDS($1)", ids([mailbox.0])).await?;
    move_between(conn, "domain", |id| QuotaOwner::Domain(DomainId(id)), used, (&[from.0], &[to.0])).await
}

async fn move_between(
    conn: &mut Conn,
    owners: &'static str,
    owner: fn(i64) -> QuotaOwner,
    used: Used,
    (leaves, reaches): (&[i64], &[i64]),
) -> Result<std::result::Result<(), OverLimit>> {
    let lock = if conn.is_postgres() { " FOR UPDATE OF u" } else { "" };
    let text = format!(
        "SELECT o.id, o.bytes_max, o.messages_max, u.bytes_used, u.messages_used
         FROM {owners}_usage u JOIN {owners} o ON o.id = u.{owners}_id
         WHERE u.{owners}_id IN IDS($1) ORDER BY u.{owners}_id{lock}"
    );
    let both = leaves.iter().chain(reaches).copied();
    let mut updates = Vec::new();
    for row in conn.rows(text, vec![ids(both)]).await? {
        let id = row.int(0)?;
        let counter = Counter::read(&row, owner(id))?;
        let sign = if reaches.contains(&id) { 1 } else { -1 };
        let (bytes, messages) = (used.bytes * sign, used.messages * sign);
        if let Some(over) = counter.refusal(bytes, messages) {
            return Ok(Err(over));
        }
        let bytes_used = sum(counter.meter.bytes_used, bytes, owner(id))?;
        updates.push((id, bytes_used, sum(counter.meter.messages_used, messages, owner(id))?));
    }
    for (id, bytes, messages) in updates {
        let text =
            format!("UPDATE {owners}_usage SET bytes_used = $2, messages_used = $3 WHERE {owners}_id = $1");
        conn.execute(text, params![id, bytes, messages]).await?;
    }
    Ok(Ok(()))
}
