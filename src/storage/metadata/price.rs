//! Price lists: what customers pay for what they use, from a month on. Months that are over are never priced anew.

use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::Result;

/// Prices, in minor units of the currency.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PriceList {
    /// Of which customer, and all below it that have none of their own.
    pub customer: i64,
    /// From which month on, as in 202611.
    pub month: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// For a GiB for a month.
    pub gib_month: i64,
    /// For a mailbox for a month.
    pub mailbox_month: i64,
    /// For a thousand messages received.
    pub messages_1000: i64,
}

fn list(row: &Row) -> Result<PriceList> {
    Ok(PriceList {
        customer: row.int(0)?,
        month: row.int(1)?,
        currency: row.text(2)?,
        gib_month: row.int(3)?,
        mailbox_month: row.int(4)?,
        messages_1000: row.int(5)?,
    })
}

/// Sets the list of a customer from a month on.
///
/// # Errors
/// When the database fails.
pub async fn set(conn: &mut Conn, list: &PriceList, now: Timestamp) -> Result<()> {
    let text =
        "INSERT INTO price_list (customer_id, month, currency, gib_month, mailbox_month, messages_1000,
                                        created_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7)
                ON CONFLICT (customer_id, month) DO UPDATE SET currency = excluded.currency,
                    gib_month = excluded.gib_month, mailbox_month = excluded.mailbox_month,
                    messages_1000 = excluded.messages_1000, created_at = excluded.created_at";
    let PriceList { customer, month, currency, gib_month, mailbox_month, messages_1000 } = list;
    let params = params![*customer, *month, currency, *gib_month, *mailbox_month, *messages_1000, now];
    conn.execute(text, params).await.map(drop)
}

/// For each of these customers that has one, the list that holds in a month.
///
/// # Errors
/// When the database fails.
pub async fn holding(conn: &mut Conn, customers: &[i64], month: i64) -> Result<Vec<PriceList>> {
    let text = "SELECT p.customer_id, p.month, p.currency, p.gib_month, p.mailbox_month, p.messages_1000
                FROM price_list p WHERE p.customer_id IN IDS($1)
                  AND p.month = (SELECT max(month) FROM price_list
                                 WHERE customer_id = p.customer_id AND month <= $2)";
    let rows = conn.rows(text, vec![ids(customers.iter().copied()), month.into()]).await?;
    rows.iter().map(list).collect()
}

/// The lists of these customers, the newest first; at most 1,000.
///
/// # Errors
/// When the database fails.
pub async fn all(conn: &mut Conn, customers: &[i64]) -> Result<Vec<PriceList>> {
    let text = "SELECT customer_id, month, currency, gib_month, mailbox_month, messages_1000 FROM price_list
                WHERE customer_id IN IDS($1) ORDER BY month DESC, customer_id LIMIT 1000";
    conn.rows(text, vec![ids(customers.iter().copied())]).await?.iter().map(list).collect()
}
