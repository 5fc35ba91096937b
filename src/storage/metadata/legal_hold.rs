//! Legal holds: while one is on a customer, a domain or a mailbox, nothing there or below is removed for good. It is a
//! hold on the switch [`PURGE`], so that it follows moves as other holds do.

use super::hold::{HoldRow, from_row};
use super::purge::Kind;
use super::sql::{Conn, ids};
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::Result;

/// The switch that a legal hold has off.
pub const PURGE: &str = "purge";

/// Customers under a legal hold on themselves or above, as `held`.
macro_rules! held {
    () => {
        "WITH RECURSIVE held (id) AS (
             SELECT customer_id FROM hold WHERE switch = 'purge' AND customer_id IS NOT NULL
             UNION SELECT c.id FROM held JOIN customer c ON c.parent_id = held.id) "
    };
}

/// Customers under a legal hold, in parentheses.
pub(super) const HELD_CUSTOMERS: &str = concat!("(", held!(), "SELECT id FROM held)");
/// Domains under a legal hold, in parentheses.
pub(super) const HELD_DOMAINS: &str = concat!(
    "(",
    held!(),
    "SELECT d.id FROM held JOIN domain d ON d.customer_id = held.id
     UNION SELECT domain_id FROM hold WHERE switch = 'purge' AND domain_id IS NOT NULL)"
);
/// Mailboxes under a legal hold, in parentheses.
pub(super) const HELD_MAILBOXES: &str = concat!(
    "(",
    held!(),
    "SELECT m.id FROM held JOIN domain d ON d.customer_id = held.id JOIN mailbox m ON m.domain_id = d.id
     UNION SELECT m.id FROM hold h JOIN mailbox m ON m.domain_id = h.domain_id WHERE h.switch = 'purge'
     UNION SELECT mailbox_id FROM hold WHERE switch = 'purge' AND mailbox_id IS NOT NULL)"
);

/// Whether a legal hold is on a mailbox, its domain, its customer or above.
///
/// # Errors
/// When the database fails.
pub async fn covers_mailbox(conn: &mut Conn, mailbox: MailboxId) -> Result<bool> {
    let text = "WITH RECURSIVE up (id, parent_id) AS (
                    SELECT c.id, c.parent_id FROM customer c JOIN domain d ON d.customer_id = c.id
                         JOIN mailbox m ON m.domain_id = d.id WHERE m.id = $1
                    UNION ALL
                    SELECT c.id, c.parent_id FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT h.id FROM hold h WHERE h.switch = 'purge'
                  AND (h.mailbox_id = $1 OR h.domain_id = (SELECT domain_id FROM mailbox WHERE id = $1)
                       OR h.customer_id IN (SELECT id FROM up)) LIMIT 1";
    Ok(conn.row(text, params![mailbox]).await?.is_some())
}

/// Whether something that was deleted may not be removed for good now.
///
/// # Errors
/// When the database fails.
pub(super) async fn covers(conn: &mut Conn, kind: Kind, key: i64) -> Result<bool> {
    let text = match kind {
        Kind::Mailbox => return covers_mailbox(conn, MailboxId(key)).await,
        Kind::Domain => format!("SELECT 1 WHERE $1 IN {HELD_DOMAINS}"),
        Kind::Administrator => {
            format!("SELECT 1 FROM administrator WHERE id = $1 AND customer_id IN {HELD_CUSTOMERS}")
        }
        Kind::Customer => format!("SELECT 1 WHERE $1 IN {HELD_CUSTOMERS}"),
    };
    Ok(conn.row(text, params![key]).await?.is_some())
}

/// Whether a legal hold is on one of these domains, on something in them or above them, so that they must stay where
/// they are.
///
/// # Errors
/// When the database fails.
pub async fn binds_domains(conn: &mut Conn, domains: &[DomainId]) -> Result<bool> {
    let text = format!(
        "SELECT 1 FROM domain d WHERE d.id IN IDS($1) AND (d.id IN {HELD_DOMAINS}
             OR EXISTS (SELECT 1 FROM hold h JOIN mailbox m ON m.id = h.mailbox_id
                        WHERE h.switch = 'purge' AND m.domain_id = d.id))"
    );
    Ok(conn.row(text, vec![ids(domains.iter().map(|domain| domain.0))]).await?.is_some())
}

/// Legal holds on these customers, on what they have, and on customers above, behind `after`; at most `limit`.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    subtree: &[i64],
    above: &[CustomerId],
    after: i64,
    limit: i64,
) -> Result<Vec<HoldRow>> {
    let text = concat!(
        super::hold::columns!(),
        "WHERE switch = 'purge' AND id > $3
           AND (customer_id IN IDS($1) OR customer_id IN IDS($2)
                OR domain_id IN (SELECT id FROM domain WHERE customer_id IN IDS($1))
                OR mailbox_id IN (SELECT m.id FROM mailbox m JOIN domain d ON d.id = m.domain_id
                                  WHERE d.customer_id IN IDS($1)))
         ORDER BY id LIMIT $4"
    );
    let (subtree, above) = (ids(subtree.iter().copied()), ids(above.iter().map(|id| id.0)));
    let rows = conn.rows(text, vec![subtree, above, after.into(), limit.into()]).await?;
    rows.iter().map(from_row).collect()
}
