//! What mailboxes and domains use, for reports.

use std::collections::HashMap;

use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::params;
use crate::storage::Result;

/// A mailbox's use.
#[derive(Clone, Debug)]
pub struct MailboxUse {
    /// Local part.
    pub local: String,
    /// Domain, in A-labels.
    pub domain: String,
    /// The domain's customer.
    pub customer: CustomerId,
    /// Octets used.
    pub bytes_used: i64,
    /// Own limit on octets.
    pub bytes_max: Option<i64>,
    /// Messages.
    pub messages_used: i64,
    /// Own limit on messages.
    pub messages_max: Option<i64>,
    /// Last login over any protocol.
    pub last_login_at: Option<Timestamp>,
}

/// A domain's use: the sum over its mailboxes.
#[derive(Clone, Debug)]
pub struct DomainUse {
    /// Domain, in A-labels.
    pub name: String,
    /// Its customer.
    pub customer: CustomerId,
    /// Mailboxes.
    pub mailboxes: i64,
    /// Octets used.
    pub bytes_used: i64,
    /// Own limit on octets.
    pub bytes_max: Option<i64>,
    /// Messages.
    pub messages_used: i64,
    /// Own limit on messages.
    pub messages_max: Option<i64>,
}

/// What a quota report covers.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Customers, by key.
    pub customers: Vec<i64>,
    /// Only this domain.
    pub domain: Option<DomainId>,
}

/// At most `limit` mailboxes ordered by domain and local part, from behind `after`; with `percent_min` only those that
/// use at least so much of a limit of their own.
///
/// # Errors
/// When the database fails.
pub async fn mailboxes(
    conn: &mut Conn,
    coverage: &Coverage,
    percent_min: Option<i64>,
    after: Option<(String, String)>,
    limit: i64,
) -> Result<Vec<MailboxUse>> {
    let (domain, local) = after.unwrap_or_default();
    let text = "SELECT m.local_part, d.name, d.customer_id, m.bytes_used, m.bytes_max, m.messages_used,
                       m.messages_max, m.last_login_at
                FROM mailbox m JOIN domain d ON d.id = m.domain_id
                WHERE d.customer_id IN IDS($1) AND ($2 = 0 OR d.id = $2)
                  AND m.deleted_at IS NULL AND d.deleted_at IS NULL
                  AND (d.name, m.local_part) > ($3, $4)
                  AND ($5 < 0 OR m.bytes_used * 100 >= m.bytes_max * $5 OR m.messages_used * 100 >= m.messages_max * $5)
                ORDER BY d.name, m.local_part LIMIT $6";
    let domain_id = coverage.domain.map_or(0, |id| id.0);
    let mut values = vec![ids(coverage.customers.iter().copied())];
    values.extend(params![domain_id, domain, local, percent_min.unwrap_or(-1), limit]);
    conn.rows(text, values).await?.iter().map(mailbox_use).collect()
}

fn mailbox_use(row: &Row) -> Result<MailboxUse> {
    Ok(MailboxUse {
        local: row.text(0)?,
        domain: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        bytes_used: row.int(3)?,
        bytes_max: row.int_opt(4)?,
        messages_used: row.int(5)?,
        messages_max: row.int_opt(6)?,
        last_login_at: row.int_opt(7)?.map(Timestamp),
    })
}

/// The domains, ordered by name; at most `limit`.
///
/// # Errors
/// When the database fails.
pub async fn domains(conn: &mut Conn, coverage: &Coverage, limit: i64) -> Result<Vec<DomainUse>> {
    let text = "SELECT d.name, d.customer_id, count(m.id), CAST(coalesce(sum(m.bytes_used), 0) AS BIGINT), d.bytes_max,
                       CAST(coalesce(sum(m.messages_used), 0) AS BIGINT), d.messages_max
                FROM domain d LEFT JOIN mailbox m ON m.domain_id = d.id AND m.deleted_at IS NULL
                WHERE d.customer_id IN IDS($1) AND ($2 = 0 OR d.id = $2)
                  AND d.deleted_at IS NULL AND d.alias_of IS NULL
                GROUP BY d.id, d.name, d.customer_id, d.bytes_max, d.messages_max ORDER BY d.name LIMIT $3";
    let domain_id = coverage.domain.map_or(0, |id| id.0);
    let mut values = vec![ids(coverage.customers.iter().copied())];
    values.extend(params![domain_id, limit]);
    let domain_use = |row: &Row| {
        Ok(DomainUse {
            name: row.text(0)?,
            customer: CustomerId(row.int(1)?),
            mailboxes: row.int(2)?,
            bytes_used: row.int(3)?,
            bytes_max: row.int_opt(4)?,
            messages_used: row.int(5)?,
            messages_max: row.int_opt(6)?,
        })
    };
    conn.rows(text, values).await?.iter().map(domain_use).collect()
}

/// What a customer with a limit on octets or messages, or a guarantee, uses, everything below it included.
#[derive(Clone, Copy, Debug)]
pub struct CustomerUse {
    /// Octets used.
    pub bytes_used: i64,
    /// Octets that count against the limit: guarantees below count in full.
    pub bytes_committed: i64,
    /// Octets that are reserved for it.
    pub bytes_guarantee: Option<i64>,
    /// Own limit on octets.
    pub bytes_max: Option<i64>,
    /// Messages.
    pub messages_used: i64,
    /// Own limit on messages.
    pub messages_max: Option<i64>,
}

/// Use and limits of those of these customers that have a limit on octets or messages, or a guarantee.
///
/// # Errors
/// When the database fails.
pub async fn limited_customers(
    conn: &mut Conn,
    customers: &[i64],
) -> Result<HashMap<CustomerId, CustomerUse>> {
    let text = "SELECT c.id, u.bytes_used, c.bytes_max, u.messages_used, c.messages_max, u.bytes_committed,
                       c.bytes_guarantee
                FROM customer_usage u JOIN customer c ON c.id = u.customer_id WHERE c.id IN IDS($1)";
    let rows = conn.rows(text, vec![ids(customers.iter().copied())]).await?;
    let customer_use = |row: &Row| {
        let use_ = CustomerUse {
            bytes_used: row.int(1)?,
            bytes_committed: row.int(5)?,
            bytes_guarantee: row.int_opt(6)?,
            bytes_max: row.int_opt(2)?,
            messages_used: row.int(3)?,
            messages_max: row.int_opt(4)?,
        };
        Ok((CustomerId(row.int(0)?), use_))
    };
    rows.iter().map(customer_use).collect()
}
