//! What lists are of: some customers, with the domains that they have, by name.
//!
//! A few customers are named in the statement. Many are not: domains are read in the order of their names and asked
//! about one by one, so that the page of a list costs what is on it, however many customers there are.

use std::borrow::Cow;

use super::sql::{Conn, Row, Value, ids};
use crate::base::id::{CustomerId, DomainId};
use crate::params;
use crate::storage::Result;

/// So many customers are named in a statement.
pub const FEW_CUSTOMERS: usize = 1_000;
/// Domains that are read at a time.
const BATCH_DOMAINS: i64 = 500;

/// The customers that a list is of.
pub enum Customers {
    /// These, at most [`FEW_CUSTOMERS`].
    Few(Vec<i64>),
    /// Those of which this is true.
    Many(Box<dyn Fn(CustomerId) -> bool + Send + Sync>),
}

impl Customers {
    /// Whether the customer is among them.
    pub fn has(&self, customer: CustomerId) -> bool {
        match self {
            Self::Few(keys) => keys.contains(&customer.0),
            Self::Many(has) => has(customer),
        }
    }
}

/// Domains that are not deleted, of some customers, by name and key.
pub(super) struct Domains<'a> {
    customers: &'a Customers,
    /// Behind this one.
    after: (String, i64),
    is_over: bool,
}

impl<'a> Domains<'a> {
    /// Those behind (name, key).
    pub fn behind(customers: &'a Customers, after: Option<(String, i64)>) -> Self {
        Self { customers, after: after.unwrap_or_default(), is_over: false }
    }

    /// Some of the next ones; none when there are no more. `only` is a condition on the domain `d`, and
    /// whether one fulfils it is found out at once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next(&mut self, conn: &mut Conn, only: &str) -> Result<Vec<(DomainId, String)>> {
        while !self.is_over {
            let (name, id) = self.after.clone();
            let (named, mut params) = match self.customers {
                Customers::Few(keys) => ("d.customer_id IN IDS($4) AND", vec![ids(keys.iter().copied())]),
                Customers::Many(_) => ("", Vec::new()),
            };
            let text = format!(
                "SELECT d.id, d.name, d.customer_id, CAST(CASE WHEN {only} THEN 1 ELSE 0 END AS BIGINT) FROM domain d
                 WHERE {named} d.deleted_at IS NULL AND (d.name, d.id) > ($1, $2)
                 ORDER BY d.name, d.id LIMIT $3"
            );
            let mut values: Vec<Value> = params![name, id, BATCH_DOMAINS];
            values.append(&mut params);
            let rows = conn.rows(text, values).await?;
            self.is_over = rows.len() < usize::try_from(BATCH_DOMAINS).unwrap_or(usize::MAX);
            if let Some(last) = rows.last() {
                self.after = (last.text(1)?, last.int(0)?);
            }
            let mut found = Vec::new();
            for row in &rows {
                if row.int(3)? == 1 && self.customers.has(CustomerId(row.int(2)?)) {
                    found.push((DomainId(row.int(0)?), row.text(1)?));
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }
}

/// Where a list of what stands in domains goes on: behind this domain's name and key, and what is in it.
pub type Position = (String, i64, String);

/// What stands in domains: a statement for the rows of one domain (`$1`) behind a local part (`$2`), by local part, at
/// most `$3`; and the condition that a domain `d` has any.
pub(super) struct Contents {
    pub statement: Cow<'static, str>,
    pub any: Cow<'static, str>,
}

/// At most `limit` rows behind a position: of one domain, or of those of the customers.
///
/// # Errors
/// When the database fails.
pub(super) async fn rows(
    conn: &mut Conn,
    contents: &Contents,
    (customers, domain): (&Customers, Option<DomainId>),
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<Row>> {
    let wanted = usize::try_from(limit).unwrap_or(0);
    let (name, key, local) = after.unwrap_or_default();
    let mut rows = Vec::new();
    if let Some(domain) = domain {
        return conn.rows(contents.statement.clone(), params![domain, local, limit]).await;
    }
    // The domain in which the last page ended. It may have come to another customer since.
    if key != 0 && is_among(conn, customers, DomainId(key)).await? {
        rows = conn.rows(contents.statement.clone(), params![key, local, limit]).await?;
    }
    let mut domains = Domains::behind(customers, (key != 0).then_some((name, key)));
    while rows.len() < wanted {
        let some = domains.next(conn, &contents.any).await?;
        if some.is_empty() {
            break;
        }
        for (domain, _) in some {
            let missing = wanted.saturating_sub(rows.len());
            if missing == 0 {
                break;
            }
            let missing = i64::try_from(missing).unwrap_or(i64::MAX);
            rows.extend(conn.rows(contents.statement.clone(), params![domain, "", missing]).await?);
        }
    }
    Ok(rows)
}

async fn is_among(conn: &mut Conn, customers: &Customers, domain: DomainId) -> Result<bool> {
    let text = "SELECT customer_id FROM domain WHERE id = $1 AND deleted_at IS NULL";
    let row = conn.row(text, params![domain]).await?;
    Ok(row.map(|row| row.int(0)).transpose()?.is_some_and(|id| customers.has(CustomerId(id))))
}
