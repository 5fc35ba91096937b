//! What customers may spend in a month.

use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::params;
use crate::storage::Result;

/// Limits that one look takes.
const PAGE_ROWS: i64 = 64;

/// A limit with what it has led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpendingRow {
    /// Whose.
    pub customer: CustomerId,
    /// The limit, in minor units.
    pub amount_max: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// JSON of the steps.
    pub steps: String,
    /// Who set it.
    pub actor: String,
    /// The customer whose authority set it.
    pub authority: CustomerId,
    /// The month that the rest is about, as in 202611.
    pub month: i64,
    /// The hour, since 1970, before which everything is counted.
    pub counted_until: i64,
    /// What is spent, in minor units.
    pub spent: i64,
    /// The percentage that was warned of; 0 for none.
    pub percent: i64,
    /// Since when all is spent.
    pub reached_at: Option<Timestamp>,
    /// How many steps were taken.
    pub done: usize,
    /// JSON of what takes them back.
    pub undo: String,
    /// When the next step is due.
    pub next_at: Option<Timestamp>,
}

/// The columns of [`SpendingRow`].
macro_rules! columns {
    () => {
        "SELECT customer_id, amount_max, currency, steps, actor, authority_customer_id, month, counted_until, spent,
                percent, reached_at, done, undo, next_at FROM spending "
    };
}

fn from_row(row: &Row) -> Result<SpendingRow> {
    Ok(SpendingRow {
        customer: CustomerId(row.int(0)?),
        amount_max: row.int(1)?,
        currency: row.text(2)?,
        steps: row.text(3)?,
        actor: row.text(4)?,
        authority: CustomerId(row.int(5)?),
        month: row.int(6)?,
        counted_until: row.int(7)?,
        spent: row.int(8)?,
        percent: row.int(9)?,
        reached_at: row.int_opt(10)?.map(Timestamp),
        done: row.number(11)?,
        undo: row.text(12)?,
        next_at: row.int_opt(13)?.map(Timestamp),
    })
}

/// The limit of one customer.
///
/// # Errors
/// When the database fails.
pub async fn of(conn: &mut Conn, customer: CustomerId) -> Result<Option<SpendingRow>> {
    let text = concat!(columns!(), "WHERE customer_id = $1");
    conn.row(text, params![customer]).await?.as_ref().map(from_row).transpose()
}

/// The limits of these customers, at most 1,000.
///
/// # Errors
/// When the database fails.
pub async fn among(conn: &mut Conn, customers: &[i64]) -> Result<Vec<SpendingRow>> {
    let text = concat!(columns!(), "WHERE customer_id IN IDS($1) ORDER BY customer_id LIMIT 1000");
    conn.rows(text, vec![ids(customers.iter().copied())]).await?.iter().map(from_row).collect()
}

/// Limits of customers behind `after` that have something to do: of another month than `month`, not looked at
/// since the hours before `until` are counted, or with a step that is due. At most 64, ascending.
///
/// # Errors
/// When the database fails.
pub async fn due(
    conn: &mut Conn,
    after: CustomerId,
    (month, until): (i64, i64),
    now: Timestamp,
) -> Result<Vec<SpendingRow>> {
    let text = concat!(
        columns!(),
        "WHERE customer_id > $1 AND (month <> $2 OR counted_until < $3 OR next_at <= $4)
         ORDER BY customer_id LIMIT $5"
    );
    conn.rows(text, params![after, month, until, now, PAGE_ROWS]).await?.iter().map(from_row).collect()
}

/// Sets or changes a limit.
///
/// # Errors
/// When the database fails.
pub async fn put(conn: &mut Conn, row: &SpendingRow) -> Result<()> {
    remove(conn, row.customer).await?;
    let text =
        "INSERT INTO spending (customer_id, amount_max, currency, steps, actor, authority_customer_id, month,
                                      counted_until, spent, percent, reached_at, done, undo, next_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)";
    let done = i64::try_from(row.done).unwrap_or(i64::MAX);
    let mut values =
        params![row.customer, row.amount_max, &row.currency, &row.steps, &row.actor, row.authority];
    values.extend(params![row.month, row.counted_until, row.spent, row.percent, row.reached_at, done]);
    values.extend(params![&row.undo, row.next_at]);
    conn.execute(text, values).await.map(drop)
}

/// Takes a limit away.
///
/// # Errors
/// When the database fails.
pub async fn remove(conn: &mut Conn, customer: CustomerId) -> Result<()> {
    conn.execute("DELETE FROM spending WHERE customer_id = $1", params![customer]).await.map(drop)
}
