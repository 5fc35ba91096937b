//! What mailboxes and domains use, for reports.

use std::collections::HashMap;

use super::packed;
use super::scope::{self, Contents, Customers, Domains, Position};
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::params;
use crate::storage::{Result, StorageError};

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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DomainUse {
    /// Key.
    pub id: DomainId,
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

/// What a quota report covers: customers, or one domain of a customer that is among them.
pub type Coverage<'a> = (&'a Customers, Option<DomainId>);

/// At most `limit` mailboxes by domain and local part, from behind `after`; with `percent_min` only those that use at
/// least so much of a limit of their own. With each, where the next page begins.
///
/// # Errors
/// When the database fails.
pub async fn mailboxes(
    conn: &mut Conn,
    coverage: Coverage<'_>,
    percent_min: Option<i64>,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<(MailboxUse, Position)>> {
    let over = percent_min.map_or(String::new(), |percent| {
        let share = |used: &str, limit: &str| {
            format!("CAST({used} AS NUMERIC) * 100 >= CAST({limit} AS NUMERIC) * {percent}")
        };
        let octets = share("m.bytes_used", "m.bytes_max");
        format!("AND ({octets} OR {})", share("m.messages_used", "m.messages_max"))
    });
    let contents = Contents {
        statement: format!(
            "SELECT m.local_part, d.name, d.customer_id, m.bytes_used, m.bytes_max, m.messages_used, m.messages_max,
                    m.last_login_at, d.id
             FROM domain d JOIN mailbox m ON m.domain_id = d.id
             WHERE d.id = $1 AND m.deleted_at IS NULL AND m.local_part > $2 {over} ORDER BY m.local_part LIMIT $3"
        )
        .into(),
        any: format!(
            "EXISTS (SELECT 1 FROM mailbox m WHERE m.domain_id = d.id AND m.deleted_at IS NULL {over})"
        )
        .into(),
        domains: None,
    };
    let line = |row: &Row| {
        let line = mailbox_use(row)?;
        let position = (line.domain.clone(), row.int(8)?, line.local.clone());
        Ok((line, position))
    };
    scope::rows(conn, &contents, coverage, after, limit).await?.iter().map(line).collect()
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

/// All domains that are no aliases with what their mailboxes use, in no order, as of one moment.
///
/// # Errors
/// When the database fails, and `Corrupt` when no number holds a sum.
pub async fn domains(conn: &mut Conn, (customers, domain): Coverage<'_>) -> Result<Vec<DomainUse>> {
    let there = "d.deleted_at IS NULL AND d.alias_of IS NULL";
    let (of_domain, of_mailbox, values) = match (domain, customers) {
        (Some(domain), _) => {
            (format!("{there} AND d.id = $1"), "m.domain_id = $1".to_owned(), params![domain])
        }
        (None, Customers::Few(keys)) => {
            let own = format!("{there} AND d.customer_id IN IDS($1)");
            let mailboxes = format!("m.domain_id IN (SELECT d.id FROM domain d WHERE {own})");
            (own, mailboxes, vec![ids(keys.iter().copied())])
        }
        (None, Customers::Many(_)) => (there.to_owned(), "0 = 0".to_owned(), Vec::new()),
    };
    // The plus keeps SQLite from going through all mailboxes in the order of an index, each row a look of its own.
    let text = format!(
        "SELECT (SELECT {} FROM domain d WHERE {of_domain}),
                (SELECT {} FROM (
                     SELECT +m.domain_id AS id, count(*) AS mailboxes, sum(m.bytes_used) AS octets,
                            sum(m.messages_used) AS messages
                     FROM mailbox m WHERE m.deleted_at IS NULL AND {of_mailbox} GROUP BY +m.domain_id) AS s)",
        packed::aggregate(&["d.id", "d.customer_id", "d.bytes_max", "d.messages_max"]),
        packed::aggregate(&["s.id", "s.mailboxes", "s.octets", "s.messages"]),
    );
    let row = conn.row(text, values).await?.ok_or(StorageError::Gone("a sum"))?;
    let mut used: HashMap<i64, [i64; 3]> = HashMap::new();
    for [id, mailboxes, octets, messages] in packed::rows(row.text_opt(1)?.as_deref())? {
        let sums = [mailboxes, octets, messages].map(Option::unwrap_or_default);
        used.insert(id.unwrap_or_default(), sums);
    }
    let mut domains = Vec::new();
    for [id, customer, bytes_max, messages_max] in packed::rows(row.text_opt(0)?.as_deref())? {
        let (id, customer) = (id.unwrap_or_default(), CustomerId(customer.unwrap_or_default()));
        if domain.is_some() || customers.has(customer) {
            let [mailboxes, bytes_used, messages_used] = used.get(&id).copied().unwrap_or_default();
            let id = DomainId(id);
            domains.push(DomainUse {
                id,
                customer,
                mailboxes,
                bytes_used,
                bytes_max,
                messages_used,
                messages_max,
            });
        }
    }
    Ok(domains)
}

/// The first `limit` of the covered domains that are no aliases, by name.
///
/// # Errors
/// When the database fails.
pub async fn domain_names(
    conn: &mut Conn,
    (customers, domain): Coverage<'_>,
    limit: usize,
) -> Result<Vec<(DomainId, String)>> {
    if let Some(domain) = domain {
        return names(conn, &[domain.0], limit).await;
    }
    let first = i64::try_from(limit).unwrap_or(i64::MAX);
    let (mut domains, mut found) = (Domains::behind(customers, None, first), Vec::new());
    while found.len() < limit {
        let some = domains.next(conn, "d.alias_of IS NULL").await?;
        if some.is_empty() {
            break;
        }
        found.extend(some);
    }
    found.truncate(limit);
    Ok(found)
}

/// The first `limit` of these domains, by name.
///
/// # Errors
/// When the database fails.
pub async fn names(conn: &mut Conn, domains: &[i64], limit: usize) -> Result<Vec<(DomainId, String)>> {
    let text = "SELECT id, name FROM domain WHERE id IN IDS($1) ORDER BY name, id LIMIT $2";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = conn.rows(text, vec![ids(domains.iter().copied()), limit.into()]).await?;
    rows.iter().map(|row| Ok((DomainId(row.int(0)?), row.text(1)?))).collect()
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
    customers: &Customers,
) -> Result<HashMap<CustomerId, CustomerUse>> {
    let (these, values) = match customers {
        Customers::Few(keys) => ("WHERE c.id IN IDS($1)", vec![ids(keys.iter().copied())]),
        Customers::Many(_) => ("", Vec::new()),
    };
    let packed = packed::aggregate(&[
        "c.id",
        "u.bytes_used",
        "u.bytes_committed",
        "c.bytes_guarantee",
        "c.bytes_max",
        "u.messages_used",
        "c.messages_max",
    ]);
    let text =
        format!("SELECT {packed} FROM customer_usage u JOIN customer c ON c.id = u.customer_id {these}");
    let row = conn.row(text, values).await?.ok_or(StorageError::Gone("an aggregate"))?;
    let mut found = HashMap::new();
    for [id, used, committed, bytes_guarantee, bytes_max, messages, messages_max] in
        packed::rows(row.text_opt(0)?.as_deref())?
    {
        let id = CustomerId(id.unwrap_or_default());
        if customers.has(id) {
            let use_ = CustomerUse {
                bytes_used: used.unwrap_or_default(),
                bytes_committed: committed.unwrap_or_default(),
                bytes_guarantee,
                bytes_max,
                messages_used: messages.unwrap_or_default(),
                messages_max,
            };
            found.insert(id, use_);
        }
    }
    Ok(found)
}
