//! What lists are of: some customers, with the domains that they have, by name.
//!
//! A few customers are named in the statement. Many are not: rows are read in the order of the list and asked about one
//! by one, so that a page costs what is on it, however many customers there are.

use std::borrow::Cow;

use super::sql::{Conn, Row, Value, ids};
use crate::base::id::{CustomerId, DomainId};
use crate::params;
use crate::storage::Result;

/// So many customers are named in a statement, which takes a microsecond for each. Where a list is of more, going
/// through all domains comes to theirs about as soon.
pub const FEW_CUSTOMERS: usize = 2_000;
/// Rows that are read at a time at most: a list begins with as many as it may need, and reads more where few are its.
const BATCH_ROWS_MAX: i64 = 512;
/// How much more is read the next time.
const BATCH_GROWTH: i64 = 4;
/// So many domains that have something are named in a statement; where more have, those that do are close to each
/// other.
const FEW_DOMAINS: i64 = 2_000;
/// Domains that a list of what stands in domains begins with, and where customers are named: the statement looks at all
/// of theirs, however few are read.
const DOMAINS_FIRST: i64 = 8;
const DOMAINS_FIRST_NAMED: i64 = 128;

/// The customers that a list is of.
pub enum Customers {
    /// These, at most [`FEW_CUSTOMERS`], ascending.
    Few(Vec<i64>),
    /// Those of which this is true.
    Many(Box<dyn Fn(CustomerId) -> bool + Send + Sync>),
}

impl Customers {
    /// These few.
    pub fn few(mut keys: Vec<i64>) -> Self {
        keys.sort_unstable();
        Self::Few(keys)
    }

    /// Whether the customer is among them.
    pub fn has(&self, customer: CustomerId) -> bool {
        match self {
            Self::Few(keys) => keys.binary_search(&customer.0).is_ok(),
            Self::Many(has) => has(customer),
        }
    }
}

/// Domains that are not deleted, of some customers, by name and key.
pub(super) struct Domains<'a> {
    customers: &'a Customers,
    /// Behind this one.
    after: (String, i64),
    /// So many are read next.
    batch: i64,
    /// Only these, where they are few.
    named: Option<Value>,
    is_over: bool,
}

impl<'a> Domains<'a> {
    /// Those behind (name, key); so many are read first.
    pub fn behind(customers: &'a Customers, after: Option<(String, i64)>, first: i64) -> Self {
        let least = match customers {
            Customers::Few(_) => DOMAINS_FIRST_NAMED,
            Customers::Many(_) => 1,
        };
        let batch = first.clamp(least, BATCH_ROWS_MAX);
        Self { customers, after: after.unwrap_or_default(), batch, named: None, is_over: false }
    }

    /// Only these.
    fn among(self, named: Option<Vec<i64>>) -> Self {
        Self { named: named.map(ids), ..self }
    }

    /// Some of the next ones; none when there are no more. `only` is a condition on the domain `d`, and
    /// whether one fulfils it is found out at once.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn next(&mut self, conn: &mut Conn, only: &str) -> Result<Vec<(DomainId, String)>> {
        while !self.is_over {
            let (name, id) = self.after.clone();
            let mut values: Vec<Value> = params![name, id, self.batch];
            let mut these = String::new();
            let of_customers = match self.customers {
                Customers::Few(keys) => Some(("d.customer_id", ids(keys.iter().copied()))),
                Customers::Many(_) => None,
            };
            for (column, keys) in
                of_customers.into_iter().chain(self.named.clone().map(|keys| ("d.id", keys)))
            {
                values.push(keys);
                these.push_str(&format!("{column} IN IDS(${}) AND ", values.len()));
            }
            let text = format!(
                "SELECT d.id, d.name, d.customer_id, CAST(CASE WHEN {only} THEN 1 ELSE 0 END AS BIGINT) FROM domain d
                 WHERE {these}d.deleted_at IS NULL AND (d.name, d.id) > ($1, $2)
                 ORDER BY d.name, d.id LIMIT $3"
            );
            let rows = conn.rows(text, values).await?;
            self.is_over = rows.len() < usize::try_from(self.batch).unwrap_or(usize::MAX);
            self.batch = (self.batch * BATCH_GROWTH).min(BATCH_ROWS_MAX);
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

/// What stands in domains.
pub(super) struct Contents {
    /// A statement for the rows of one domain (`$1`) behind a local part (`$2`), by local part, at most `$3`.
    pub statement: Cow<'static, str>,
    /// The condition that a domain `d` has any.
    pub any: Cow<'static, str>,
    /// Where most domains may have none: a statement for at most `$1` domains that have any.
    pub domains: Option<&'static str>,
}

impl Contents {
    /// The domains that have any, if they are few.
    async fn few_domains(&self, conn: &mut Conn) -> Result<Option<Vec<i64>>> {
        let Some(text) = self.domains else { return Ok(None) };
        let rows = conn.rows(text, params![FEW_DOMAINS + 1]).await?;
        if rows.len() > usize::try_from(FEW_DOMAINS).unwrap_or(usize::MAX) {
            return Ok(None);
        }
        rows.iter().map(|row| row.int(0)).collect::<Result<_>>().map(Some)
    }
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
    let mut domains = Domains::behind(customers, (key != 0).then_some((name, key)), DOMAINS_FIRST);
    if rows.len() < wanted {
        domains = domains.among(contents.few_domains(conn).await?);
    }
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

/// A list of what customers have, in an order of its own.
pub(super) struct Listed<T> {
    /// A statement with `THESE` where the condition on customers stands. Its parameters: the key behind which it goes
    /// on, how many rows at most, and `more`.
    pub text: String,
    /// The column of the customer.
    pub column: &'static str,
    pub more: Vec<Value>,
    pub read: fn(&Row) -> Result<T>,
    /// Where a row stands in the order.
    pub key: fn(&T) -> Vec<Value>,
    pub customer: fn(&T) -> CustomerId,
}

impl<T> Listed<T> {
    /// At most `limit` rows of these customers behind a key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn page(
        self,
        conn: &mut Conn,
        customers: &Customers,
        mut behind: Vec<Value>,
        limit: i64,
    ) -> Result<Vec<T>> {
        let wanted = usize::try_from(limit).unwrap_or(0);
        let (mut found, mut batch) = (Vec::new(), limit);
        let named = match customers {
            Customers::Few(keys) => Some(ids(keys.iter().copied())),
            Customers::Many(_) => None,
        };
        let these = match named {
            Some(_) => format!("{} IN IDS(${})", self.column, behind.len() + self.more.len() + 2),
            None => "0 = 0".to_owned(),
        };
        let text = self.text.replace("THESE", &these);
        loop {
            let mut values = behind;
            values.push(batch.into());
            values.extend(self.more.iter().cloned().chain(named.clone()));
            let rows = conn.rows(text.clone(), values).await?;
            let rows: Vec<T> = rows.iter().map(self.read).collect::<Result<_>>()?;
            let is_over = rows.len() < usize::try_from(batch).unwrap_or(usize::MAX);
            behind = rows.last().map(self.key).unwrap_or_default();
            found.extend(rows.into_iter().filter(|row| customers.has((self.customer)(row))));
            if is_over || found.len() >= wanted {
                found.truncate(wanted);
                return Ok(found);
            }
            batch = (batch * BATCH_GROWTH).clamp(limit, limit.max(BATCH_ROWS_MAX));
        }
    }
}
