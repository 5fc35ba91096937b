//! What an address means, in the few look-ups that RCPT TO needs.

use super::sql::Conn;
use crate::base::address::DomainName;
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::Result;

/// A verified domain as delivery sees it; for an alias domain the one it stands for.
#[derive(Clone, Debug)]
pub struct DomainRoute {
    /// The domain whose mailboxes are meant.
    pub id: DomainId,
    /// Its name.
    pub name: DomainName,
    /// Its customer.
    pub customer: CustomerId,
    /// Address that takes what nobody else takes.
    pub catch_all: Option<String>,
}

/// The verified domain `name`, following an alias domain once.
pub async fn domain(conn: &mut Conn, name: &DomainName) -> Result<Option<DomainRoute>> {
    let text = "SELECT t.id, t.name, t.customer_id, t.catch_all
                FROM domain d JOIN domain t ON t.id = coalesce(d.alias_of, d.id)
                WHERE d.name = $1 AND d.state = 'verified' AND d.deleted_at IS NULL
                  AND t.state = 'verified' AND t.deleted_at IS NULL";
    let Some(row) = conn.row(text, params![name.as_str()]).await? else { return Ok(None) };
    let Ok(name) = row.text(1)?.parse() else { return Ok(None) };
    let (id, customer) = (DomainId(row.int(0)?), CustomerId(row.int(2)?));
    Ok(Some(DomainRoute { id, name, customer, catch_all: row.text_opt(3)? }))
}

/// The mailbox with this local part.
pub async fn mailbox(conn: &mut Conn, domain: DomainId, local: &str) -> Result<Option<MailboxId>> {
    let text = "SELECT id FROM mailbox WHERE domain_id = $1 AND local_part = $2 AND deleted_at IS NULL";
    let row = conn.row(text, params![domain, local]).await?;
    row.map(|row| row.int(0).map(MailboxId)).transpose()
}

/// The mailbox of a domain that was created first.
pub async fn oldest_mailbox(conn: &mut Conn, domain: DomainId) -> Result<Option<String>> {
    let text =
        "SELECT local_part FROM mailbox WHERE domain_id = $1 AND deleted_at IS NULL ORDER BY id LIMIT 1";
    conn.row(text, params![domain]).await?.map(|row| row.text(0)).transpose()
}

/// A customer and those above it; with no customer, the root alone.
macro_rules! upwards {
    () => {
        "WITH RECURSIVE up (id, parent_id, contact, height) AS (
             SELECT id, parent_id, contact, 0 FROM customer
             WHERE id = coalesce($1, (SELECT min(id) FROM customer WHERE parent_id IS NULL))
             UNION ALL
             SELECT c.id, c.parent_id, c.contact, up.height + 1 FROM up JOIN customer c ON c.id = up.parent_id) "
    };
}

/// The contacts of a customer and of those above it, nearest first; with no customer, the root's.
pub async fn contacts(conn: &mut Conn, customer: Option<CustomerId>) -> Result<Vec<String>> {
    let text = concat!(upwards!(), "SELECT contact FROM up WHERE contact IS NOT NULL ORDER BY height");
    conn.rows(text, params![customer]).await?.iter().map(|row| row.text(0)).collect()
}

/// Contacts of the administrators at home at a customer or above it, nearest first, then by age; at most 100.
pub async fn administrator_contacts(conn: &mut Conn, customer: Option<CustomerId>) -> Result<Vec<String>> {
    let text = concat!(
        upwards!(),
        "SELECT a.contact FROM up JOIN administrator a ON a.customer_id = up.id
         WHERE a.contact IS NOT NULL AND a.enabled = 1 AND a.deleted_at IS NULL
         ORDER BY up.height, a.id LIMIT 100"
    );
    conn.rows(text, params![customer]).await?.iter().map(|row| row.text(0)).collect()
}

/// The mailbox that was created first in the verified domains of a customer, else in those of the nearest above that
/// has any.
pub async fn oldest_mailbox_upwards(conn: &mut Conn, customer: Option<CustomerId>) -> Result<Option<String>> {
    let text = concat!(
        upwards!(),
        "SELECT m.local_part || '@' || d.name
         FROM up JOIN domain d ON d.customer_id = up.id JOIN mailbox m ON m.domain_id = d.id
         WHERE d.state = 'verified' AND d.deleted_at IS NULL AND m.deleted_at IS NULL
         ORDER BY up.height, m.id LIMIT 1"
    );
    conn.row(text, params![customer]).await?.map(|row| row.text(0)).transpose()
}

/// A delivery that was refused, for the delivery trace.
#[derive(Clone, Debug)]
pub struct RefusedDelivery {
    /// When.
    pub at: crate::base::clock::Timestamp,
    /// The domain, if it is one of ours.
    pub domain: Option<DomainId>,
    /// The address as given.
    pub recipient: String,
    /// Reverse path.
    pub sender: String,
    /// Client address.
    pub source: String,
    /// The session's id.
    pub queue_id: String,
    /// Size, if known.
    pub octets: i64,
    /// The reason.
    pub reason: String,
}

/// Enters refusals into the delivery trace.
pub async fn trace_refusals(conn: &mut Conn, refusals: &[RefusedDelivery]) -> Result<()> {
    let rows = refusals.iter().map(|one| {
        params![
            one.at,
            one.domain,
            None::<MailboxId>,
            &one.recipient,
            &one.sender,
            "",
            one.octets,
            &one.source,
            &one.queue_id,
            "refused",
            &one.reason
        ]
    });
    let head = "INSERT INTO delivery_trace (at, domain_id, mailbox_id, recipient, sender, message_id, octets, source,
                                             queue_id, outcome, detail)";
    conn.insert_rows(head, 11, rows.collect()).await
}
