//! Holds: reasons for which a switch is off.

use std::collections::BTreeSet;

use super::sql::{Conn, ids};
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::Result;

/// The switches that are off for a mailbox, by a hold on itself, its domain, or a customer on the path. Leave out
/// what does not apply: `switches_off(conn, None, None, Some(customer))` asks for a customer.
pub async fn switches_off(
    conn: &mut Conn,
    mailbox: Option<MailboxId>,
    domain: Option<DomainId>,
    customer: Option<CustomerId>,
) -> Result<BTreeSet<String>> {
    let text = "WITH RECURSIVE up (id, parent_id) AS (
                    SELECT id, parent_id FROM customer WHERE id = $3
                    UNION ALL
                    SELECT c.id, c.parent_id FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT switch FROM hold WHERE mailbox_id = $1
                UNION SELECT switch FROM hold WHERE domain_id = $2
                UNION SELECT h.switch FROM up JOIN hold h ON h.customer_id = up.id";
    let rows = conn.rows(text, params![mailbox, domain, customer]).await?;
    rows.iter().map(|row| row.text(0)).collect()
}

/// Those of `customers` that have a hold on this switch themselves.
pub async fn customers_with(
    conn: &mut Conn,
    switch: &str,
    customers: impl IntoIterator<Item = i64>,
) -> Result<Vec<CustomerId>> {
    let text = "SELECT DISTINCT customer_id FROM hold WHERE switch = $1 AND customer_id IN IDS($2)";
    let rows = conn.rows(text, vec![switch.into(), ids(customers)]).await?;
    rows.iter().map(|row| row.int(0).map(CustomerId)).collect()
}
