//! A mailbox as the mail store needs it: locked before its folders, with what it uses and may use.
//!
//! # Consistency
//! Locks are taken in one order by everybody: the mailbox, its folders by id, then the counters of `quota.rs`.

use std::collections::BTreeMap;

use super::delivery::{Meter, OverLimit, QuotaOwner};
use super::sql::{Conn, ids};
use crate::base::id::{CustomerId, DomainId, MailboxId, StoreId};
use crate::params;
use crate::storage::{Result, StorageError};

/// A mailbox whose row is locked until the transaction ends.
pub struct LockedMailbox {
    /// The mailbox.
    pub id: MailboxId,
    /// Its domain.
    pub domain: DomainId,
    /// The customer of its domain, within which bodies are shared.
    pub customer: CustomerId,
    /// Where its mail is kept.
    pub store: StoreId,
    /// Whether mail can be added there now.
    pub store_open: bool,
    meter: Meter,
}

/// Use and own limits of a mailbox.
#[derive(Clone, Copy, Debug)]
pub struct MailboxUse {
    /// Octets used.
    pub bytes_used: i64,
    /// Most octets, if limited.
    pub bytes_max: Option<i64>,
    /// Messages stored.
    pub messages_used: i64,
    /// Most messages, if limited.
    pub messages_max: Option<i64>,
}

const MAILBOX: &str =
    "SELECT m.bytes_max, m.messages_max, m.bytes_used, m.messages_used, d.id, d.customer_id,
            s.id, s.state
     FROM mailbox m JOIN domain d ON d.id = m.domain_id JOIN store s ON s.id = m.store_id
     WHERE m.id = $1 AND m.deleted_at IS NULL AND d.deleted_at IS NULL";

async fn read(conn: &mut Conn, mailbox: MailboxId, lock: &str) -> Result<Option<LockedMailbox>> {
    let Some(row) = conn.row(format!("{MAILBOX}{lock}"), params![mailbox]).await? else { return Ok(None) };
    let meter = Meter {
        bytes_max: row.int_opt(0)?,
        messages_max: row.int_opt(1)?,
        bytes_used: row.int(2)?,
        messages_used: row.int(3)?,
    };
    Ok(Some(LockedMailbox {
        id: mailbox,
        domain: DomainId(row.int(4)?),
        customer: CustomerId(row.int(5)?),
        store: StoreId(row.int(6)?),
        store_open: row.text(7)? == "online",
        meter,
    }))
}

/// Locks a mailbox; nothing when it was deleted.
///
/// # Errors
/// What the database says.
pub async fn lock(conn: &mut Conn, mailbox: MailboxId) -> Result<Option<LockedMailbox>> {
    let lock = if conn.is_postgres() { " FOR UPDATE OF m" } else { "" };
    read(conn, mailbox, lock).await
}

type Meters = BTreeMap<i64, Meter>;

fn refusal(
    mailbox: &LockedMailbox,
    domains: &Meters,
    customers: &Meters,
    octets: i64,
    messages: i64,
) -> Option<OverLimit> {
    let domains = domains.iter().map(|(id, meter)| (QuotaOwner::Domain(DomainId(*id)), meter));
    let customers = customers.iter().map(|(id, meter)| (QuotaOwner::Customer(CustomerId(*id)), meter));
    let own = std::iter::once((QuotaOwner::Mailbox(mailbox.id), &mailbox.meter));
    own.chain(domains).chain(customers).find_map(|(owner, meter)| meter.refusal(owner, octets, messages))
}

/// Customers with a limit on the way up from `customer`, itself included.
async fn chain(conn: &mut Conn, customer: CustomerId) -> Result<Vec<i64>> {
    let text = "WITH RECURSIVE up (id, parent_id) AS (
                    SELECT id, parent_id FROM customer WHERE id = $1
                    UNION ALL
                    SELECT c.id, c.parent_id FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT up.id FROM up JOIN customer_usage u ON u.customer_id = up.id";
    conn.rows(text, params![customer]).await?.iter().map(|row| row.int(0)).collect()
}

/// Whether one more message of `octets` would fit now. Nothing is locked: the answer may be outdated at once.
///
/// # Errors
/// What the database says; `Gone` when the mailbox was deleted.
pub async fn room(
    conn: &mut Conn,
    mailbox: MailboxId,
    octets: i64,
) -> Result<std::result::Result<(), OverLimit>> {
    let mailbox = read(conn, mailbox, "").await?.ok_or(StorageError::Gone("mailbox"))?;
    let mut over = Vec::with_capacity(2);
    let chain = chain(conn, mailbox.customer).await?;
    for (owner, wanted) in [("domain", vec![mailbox.domain.0]), ("customer", chain)] {
        over.push(if wanted.is_empty() { Meters::new() } else { unlocked(conn, owner, wanted).await? });
    }
    let customers = over.pop().unwrap_or_default();
    let domains = over.pop().unwrap_or_default();
    Ok(refusal(&mailbox, &domains, &customers, octets, 1).map_or(Ok(()), Err))
}

async fn unlocked(conn: &mut Conn, owner: &'static str, wanted: Vec<i64>) -> Result<Meters> {
    let text = format!(
        "SELECT o.id, o.bytes_max, o.messages_max, u.bytes_used, u.messages_used
         FROM {owner}_usage u JOIN {owner} o ON o.id = u.{owner}_id WHERE u.{owner}_id IN IDS($1)"
    );
    let mut meters = Meters::new();
    for row in conn.rows(text, vec![ids(wanted)]).await? {
        let meter = Meter {
            bytes_max: row.int_opt(1)?,
            messages_max: row.int_opt(2)?,
            bytes_used: row.int(3)?,
            messages_used: row.int(4)?,
        };
        meters.insert(row.int(0)?, meter);
    }
    Ok(meters)
}

/// Use and own limits of a mailbox; nothing when it was deleted.
///
/// # Errors
/// What the database says.
pub async fn mailbox_use(conn: &mut Conn, mailbox: MailboxId) -> Result<Option<MailboxUse>> {
    Ok(read(conn, mailbox, "").await?.map(|mailbox| MailboxUse {
        bytes_used: mailbox.meter.bytes_used,
        bytes_max: mailbox.meter.bytes_max,
        messages_used: mailbox.meter.messages_used,
        messages_max: mailbox.meter.messages_max,
    }))
}

/// The next UIDVALIDITY of a mailbox; never given twice.
///
/// # Errors
/// What the database says; `Gone` when there is no such mailbox.
pub async fn uid_validity(conn: &mut Conn, mailbox: MailboxId) -> Result<i64> {
    let text = "UPDATE mailbox SET uid_validity_next = uid_validity_next + 1 WHERE id = $1
                RETURNING uid_validity_next - 1";
    conn.row(text, params![mailbox]).await?.ok_or(StorageError::Gone("mailbox"))?.int(0)
}
