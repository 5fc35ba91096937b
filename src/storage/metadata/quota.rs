//! Counters of octets and messages with their limits: asking, charging, releasing, following what limits are set.
//!
//! # Consistency
//! The order of locks is that of `delivery.rs`: mailbox, domain counter, customer counters by id. A counter row of a
//! domain or customer exists exactly while it has a limit on octets or messages.

use super::sql::{Conn, Row, Value, ids};
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// Whose limit refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QuotaOwner {
    /// The mailbox.
    Mailbox(MailboxId),
    /// The domain.
    Domain(DomainId),
    /// A customer on the way up.
    Customer(CustomerId),
}

/// A limit that refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverLimit {
    /// Whose it is.
    pub owner: QuotaOwner,
    /// Whether it is that on the number of messages; else that on octets.
    pub on_messages: bool,
}

/// A counter with its limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    pub(super) bytes_max: Option<i64>,
    pub(super) messages_max: Option<i64>,
    pub(super) bytes_used: i64,
    pub(super) messages_used: i64,
}

impl Meter {
    /// Reads limits on octets and messages, then what is used of them, from column `first` on.
    pub(super) fn read(row: &Row, first: usize) -> Result<Self> {
        Ok(Self {
            bytes_max: row.int_opt(first)?,
            messages_max: row.int_opt(first + 1)?,
            bytes_used: row.int(first + 2)?,
            messages_used: row.int(first + 3)?,
        })
    }

    /// The limit that so much more would exceed, if any. What does not grow always passes, even above a limit that
    /// was lowered.
    pub(super) fn refusal(&self, owner: QuotaOwner, octets: i64, messages: i64) -> Option<OverLimit> {
        let over = |used: i64, more: i64, max: Option<i64>| {
            more > 0 && max.is_some_and(|max| used.checked_add(more).is_none_or(|sum| sum > max))
        };
        if over(self.bytes_used, octets, self.bytes_max) {
            return Some(OverLimit { owner, on_messages: false });
        }
        let is_over = over(self.messages_used, messages, self.messages_max);
        is_over.then_some(OverLimit { owner, on_messages: true })
    }

    /// Adds a message.
    pub(super) fn charge(&mut self, octets: i64) {
        self.bytes_used = self.bytes_used.saturating_add(octets);
        self.messages_used = self.messages_used.saturating_add(1);
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
    if let Some(over) = refusal(&counters, bytes_delta, messages_delta) {
        return Ok(Err(over));
    }
    for (owner, meter) in counters {
        let (text, id) = match owner {
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
        let bytes_used = sum(meter.bytes_used, bytes_delta, owner)?;
        let messages_used = sum(meter.messages_used, messages_delta, owner)?;
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
    Ok(refusal(&counters, bytes_delta, messages_delta).map_or(Ok(()), Err))
}

/// The first limit that so much more would exceed.
fn refusal(counters: &[(QuotaOwner, Meter)], bytes_delta: i64, messages_delta: i64) -> Option<OverLimit> {
    counters.iter().find_map(|(owner, meter)| meter.refusal(*owner, bytes_delta, messages_delta))
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
async fn lock_counters(conn: &mut Conn, mailbox: MailboxId) -> Result<Vec<(QuotaOwner, Meter)>> {
    let text = format!(
        "SELECT domain_id, bytes_max, messages_max, bytes_used, messages_used FROM mailbox WHERE id = $1{}",
        conn.for_update()
    );
    let row = conn.row(text, params![mailbox]).await?.ok_or(StorageError::Gone("mailbox"))?;
    let mut counters = vec![(QuotaOwner::Mailbox(mailbox), Meter::read(&row, 1)?)];
    let domain = row.int(0)?;
    let domains = meters(conn, "domain", "($1)", domain.into()).await?;
    counters.extend(domains.map(|(id, meter)| (QuotaOwner::Domain(DomainId(id)), meter)));
    let above = "(WITH RECURSIVE up (id, parent_id) AS (
                      SELECT c.id, c.parent_id FROM domain d JOIN customer c ON c.id = d.customer_id WHERE d.id = $1
                      UNION ALL
                      SELECT c.id, c.parent_id FROM up JOIN customer c ON c.id = up.parent_id)
                  SELECT id FROM up)";
    let customers = meters(conn, "customer", above, domain.into()).await?;
    counters.extend(customers.map(|(id, meter)| (QuotaOwner::Customer(CustomerId(id)), meter)));
    Ok(counters)
}

/// Locks and reads, by id, the counters of those domains or customers (`owner`) of the set `wanted`, an SQL
/// expression with parameter 1, that have one.
pub(super) async fn meters(
    conn: &mut Conn,
    owner: &'static str,
    wanted: &str,
    parameter: Value,
) -> Result<impl Iterator<Item = (i64, Meter)> + use<>> {
    let lock = if conn.is_postgres() { " FOR UPDATE OF u" } else { "" };
    let text = format!(
        "SELECT o.id, o.bytes_max, o.messages_max, u.bytes_used, u.messages_used
         FROM {owner}_usage u JOIN {owner} o ON o.id = u.{owner}_id
         WHERE u.{owner}_id IN {wanted} ORDER BY u.{owner}_id{lock}"
    );
    let rows = conn.rows(text, vec![parameter]).await?;
    let meters: Result<Vec<_>> = rows.iter().map(|row| Ok((row.int(0)?, Meter::read(row, 1)?))).collect();
    Ok(meters?.into_iter())
}

/// The limit that refuses one more message of `octets` in the mailbox now, if any. An estimate without locks: the
/// transaction that adds it decides. None for a mailbox that is gone.
///
/// # Errors
/// When the database fails.
pub async fn refusing_limit(conn: &mut Conn, mailbox: MailboxId, octets: i64) -> Result<Option<OverLimit>> {
    let text = "WITH RECURSIVE box
                    (id, domain_id, customer_id, bytes_max, messages_max, bytes_used, messages_used) AS (
                    SELECT m.id, d.id, d.customer_id, m.bytes_max, m.messages_max, m.bytes_used, m.messages_used
                    FROM mailbox m JOIN domain d ON d.id = m.domain_id WHERE m.id = $1),
                up (id, parent_id) AS (
                    SELECT c.id, c.parent_id FROM customer c JOIN box ON box.customer_id = c.id
                    UNION ALL
                    SELECT c.id, c.parent_id FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT CAST(1 AS BIGINT), id, bytes_max, messages_max, bytes_used, messages_used FROM box
                UNION ALL
                SELECT CAST(2 AS BIGINT), d.id, d.bytes_max, d.messages_max, u.bytes_used, u.messages_used
                FROM domain_usage u JOIN domain d ON d.id = u.domain_id WHERE d.id IN (SELECT domain_id FROM box)
                UNION ALL
                SELECT CAST(3 AS BIGINT), c.id, c.bytes_max, c.messages_max, u.bytes_used, u.messages_used
                FROM customer_usage u JOIN customer c ON c.id = u.customer_id WHERE c.id IN (SELECT id FROM up)";
    for row in conn.rows(text, params![mailbox]).await? {
        let owner = match row.int(0)? {
            1 => QuotaOwner::Mailbox(MailboxId(row.int(1)?)),
            2 => QuotaOwner::Domain(DomainId(row.int(1)?)),
            _ => QuotaOwner::Customer(CustomerId(row.int(1)?)),
        };
        let meter = Meter::read(&row, 2)?;
        if let Some(over) = meter.refusal(owner, octets.max(1), 1) {
            return Ok(Some(over));
        }
    }
    Ok(None)
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

/// Locks and sums the mailboxes of these domains.
///
/// # Errors
/// When the database fails.
pub async fn lock_domains(conn: &mut Conn, domains: &[DomainId]) -> Result<Used> {
    lock_and_sum(conn, "d.id IN IDS($1)", ids(domains.iter().map(|domain| domain.0))).await
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
    let used = lock_domains(conn, &[id]).await?;
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
    let both = leaves.iter().chain(reaches).copied();
    let mut updates = Vec::new();
    for (id, meter) in meters(conn, owners, "IDS($1)", ids(both)).await? {
        let owner = owner(id);
        let sign = if reaches.contains(&id) { 1 } else { -1 };
        let (bytes, messages) = (used.bytes * sign, used.messages * sign);
        if let Some(over) = meter.refusal(owner, bytes, messages) {
            return Ok(Err(over));
        }
        let bytes_used = sum(meter.bytes_used, bytes, owner)?;
        updates.push((id, bytes_used, sum(meter.messages_used, messages, owner)?));
    }
    for (id, bytes, messages) in updates {
        let text =
            format!("UPDATE {owners}_usage SET bytes_used = $2, messages_used = $3 WHERE {owners}_id = $1");
        conn.execute(text, params![id, bytes, messages]).await?;
    }
    Ok(Ok(()))
}
