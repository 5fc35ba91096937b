//! Numbers of objects at customers that have limits on them: counted once, then kept.
//!
//! # Consistency
//! What is counted changes only in transactions that hold the hierarchy ([`super::customer::TreeLock::Exclusive`]), so
//! nothing is locked here. A number that is NULL, or whose row is missing, is not known: whoever needs it counts it,
//! and from then on every change tells it ([`add`]). What is not told (rows that a restore marks as deleted) forgets
//! all of them ([`forget_all`]).
//!
//! Of mailboxes a number is what is committed, in which guarantees below count in full (`pool.rs`). Where it is known
//! at a customer, it is known at all customers with a guarantee below: what climbs from there needs it.

use std::collections::BTreeMap;

use super::customer::{Counted, Counts, count};
use super::pool::{self, Pool, Pooled, group, too_much};
use super::sql::{Conn, Row, Value, ids};
use crate::base::id::CustomerId;
use crate::params;
use crate::storage::{Result, StorageError};

impl Counts {
    /// None of anything.
    pub const NONE: Self = Self { mailboxes: 0, aliases: 0, domains: 0, administrators: 0 };

    /// As many less.
    pub fn negated(self) -> Self {
        Self {
            mailboxes: self.mailboxes.saturating_neg(),
            aliases: self.aliases.saturating_neg(),
            domains: self.domains.saturating_neg(),
            administrators: self.administrators.saturating_neg(),
        }
    }
}

/// The column of what is counted.
fn column(counted: Counted) -> &'static str {
    match counted {
        Counted::Mailboxes => "mailboxes",
        Counted::Aliases => "aliases",
        Counted::Domains => "domains",
        Counted::Administrators => "administrators",
    }
}

/// Tells the customers from `at` up that so much more is there, or less; of mailboxes, what comes from below or is
/// its own. Costs as much as `at` is deep.
///
/// # Errors
/// When the database fails, or no number holds what mailboxes with guarantees add up to.
pub async fn add(conn: &mut Conn, at: CustomerId, more: Counts) -> Result<()> {
    if more == Counts::NONE {
        return Ok(());
    }
    let text = "WITH RECURSIVE up (id, parent_id, height) AS (
                    SELECT id, parent_id, CAST(0 AS BIGINT) FROM customer WHERE id = $1
                    UNION ALL
                    SELECT c.id, c.parent_id, up.height + 1 FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT up.id, k.mailboxes, k.aliases, k.domains, k.administrators,
                       CASE WHEN c.deleted_at IS NULL THEN c.mailboxes_guarantee END
                FROM up JOIN customer_count k ON k.customer_id = up.id JOIN customer c ON c.id = up.id
                ORDER BY up.height";
    let (mut climbing, mut changes) = (more.mailboxes, Vec::new());
    for row in conn.rows(text, params![at]).await? {
        let mut mailboxes = 0;
        if let Some(committed) = row.int_opt(1)? {
            let mut pool = Pool { max: None, guarantee: row.int_opt(5)?, committed };
            climbing = pool.add(climbing).ok_or_else(too_much)?;
            mailboxes = pool.committed - committed;
        }
        // A number that had drifted stops at zero.
        let others = [(2, more.aliases), (3, more.domains), (4, more.administrators)];
        let mut change = vec![row.int(0)?, mailboxes];
        for (column, more) in others {
            change.push(row.int_opt(column)?.map_or(0, |number| more.max(number.saturating_neg())));
        }
        changes.push(change);
    }
    // What is not known stays so: NULL and a number is NULL.
    let text = "UPDATE customer_count SET mailboxes = mailboxes + v.column2, aliases = aliases + v.column3,
                       domains = domains + v.column4, administrators = administrators + v.column5";
    conn.update_from_values(text, "customer_count.customer_id", 5, changes).await
}

/// What a customer has of mailboxes that limits or guarantees are on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Its limit.
    pub max: Option<i64>,
    /// Its guarantee, unless it is deleted.
    pub guarantee: Option<i64>,
    /// What is committed, if that is known.
    pub committed: Option<i64>,
}

/// Those of these customers that have a limit on mailboxes or a guarantee of some.
///
/// # Errors
/// When the database fails.
pub async fn limited(
    conn: &mut Conn,
    customers: impl IntoIterator<Item = i64>,
) -> Result<BTreeMap<i64, Known>> {
    let text = "SELECT c.id, c.mailboxes_max, CASE WHEN c.deleted_at IS NULL THEN c.mailboxes_guarantee END,
                       k.mailboxes
                FROM customer c LEFT JOIN customer_count k ON k.customer_id = c.id
                WHERE c.id IN IDS($1) AND (c.mailboxes_max IS NOT NULL OR c.mailboxes_guarantee IS NOT NULL)";
    let known = |row: &Row| {
        let (max, guarantee, committed) = (row.int_opt(1)?, row.int_opt(2)?, row.int_opt(3)?);
        Ok((row.int(0)?, Known { max, guarantee, committed }))
    };
    conn.rows(text, vec![ids(customers)]).await?.iter().map(known).collect()
}

/// Counts what mailboxes are committed at a customer, at all with a guarantee below, and at those of `apart`, which
/// are at it or below; from now on it is known there. Costs as much as there is below.
///
/// # Errors
/// When the database fails, or no number holds what they add up to.
pub async fn mailboxes_counted(
    conn: &mut Conn,
    top: CustomerId,
    apart: &[i64],
) -> Result<BTreeMap<i64, i64>> {
    let committed = pool::committed(&pool::groups(conn, top, apart, Pooled::Mailboxes).await?)?;
    for (&customer, &number) in &committed {
        set(conn, CustomerId(customer), Counted::Mailboxes, number).await?;
    }
    Ok(committed)
}

async fn set(conn: &mut Conn, customer: CustomerId, counted: Counted, number: i64) -> Result<()> {
    let column = column(counted);
    let text = format!(
        "INSERT INTO customer_count (customer_id, {column}) VALUES ($1, $2)
         ON CONFLICT (customer_id) DO UPDATE SET {column} = excluded.{column}"
    );
    conn.execute(text, params![customer, number]).await.map(drop)
}

/// How many of something, but mailboxes, there are at a customer and below: as known, or counted at those of `below`,
/// which are it and all below that are not deleted.
///
/// # Errors
/// When the database fails.
pub async fn number(
    conn: &mut Conn,
    customer: CustomerId,
    counted: Counted,
    below: impl FnOnce() -> Vec<i64>,
) -> Result<i64> {
    let text = format!("SELECT {} FROM customer_count WHERE customer_id = $1", column(counted));
    let row = conn.row(text, params![customer]).await?;
    if let Some(number) = row.map(|row| row.int_opt(0)).transpose()?.flatten() {
        return Ok(number);
    }
    let number = count(conn, &below(), counted).await?;
    set(conn, customer, counted, number).await?;
    Ok(number)
}

/// Forgets what is known at these customers.
///
/// # Errors
/// When the database fails.
pub async fn forget(conn: &mut Conn, customers: &[i64]) -> Result<()> {
    let text = "DELETE FROM customer_count WHERE customer_id IN IDS($1)";
    conn.execute(text, vec![ids(customers.iter().copied())]).await.map(drop)
}

/// Forgets what is known anywhere.
///
/// # Errors
/// When the database fails.
pub async fn forget_all(conn: &mut Conn) -> Result<()> {
    conn.execute("DELETE FROM customer_count", Vec::new()).await.map(drop)
}

/// The customers where anything is known, behind one, by key; at most 1,000.
///
/// # Errors
/// When the database fails.
pub async fn known_at(conn: &mut Conn, after: i64) -> Result<Vec<CustomerId>> {
    let text =
        "SELECT customer_id FROM customer_count WHERE customer_id > $1 ORDER BY customer_id LIMIT 1000";
    let rows = conn.rows(text, params![after]).await?;
    rows.iter().map(|row| row.int(0).map(CustomerId)).collect()
}

/// What is known at a customer, beside what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Recounted {
    /// What it is of.
    pub resource: &'static str,
    /// As known.
    pub recorded: i64,
    /// As counted.
    pub counted: i64,
}

/// What is counted, in the order of the columns.
const ALL: [Counted; 4] = [Counted::Mailboxes, Counted::Aliases, Counted::Domains, Counted::Administrators];

/// Counts again what is known at a customer. Counted and known come from one statement, so from one moment.
///
/// # Errors
/// When the database fails, or no number holds what mailboxes add up to.
pub async fn recount(conn: &mut Conn, customer: CustomerId) -> Result<Vec<Recounted>> {
    let groups = pool::groups_text(Pooled::Mailboxes);
    let text = format!(
        "SELECT s.head, s.above, s.guarantee, s.own, s.messages,
                k.mailboxes, k.aliases, k.domains, k.administrators, n.aliases, n.domains, n.administrators
         FROM ({groups}) AS s CROSS JOIN customer_count k CROSS JOIN (
             WITH RECURSIVE below (id) AS (
                 SELECT id FROM customer WHERE id = $1
                 UNION ALL SELECT c.id FROM below JOIN customer c ON c.parent_id = below.id)
             SELECT (SELECT count(*) FROM alias a JOIN domain d ON d.id = a.domain_id
                     WHERE d.customer_id IN (SELECT id FROM below) AND d.deleted_at IS NULL) AS aliases,
                    (SELECT count(*) FROM domain d
                     WHERE d.customer_id IN (SELECT id FROM below) AND d.deleted_at IS NULL) AS domains,
                    (SELECT count(*) FROM administrator a
                     WHERE a.customer_id IN (SELECT id FROM below) AND a.deleted_at IS NULL) AS administrators) AS n
         WHERE k.customer_id = $1 ORDER BY s.depth DESC, s.head"
    );
    let values: Vec<Value> = vec![customer.into(), ids([])];
    let rows = conn.rows(text, values).await?;
    let Some(row) = rows.first() else { return Ok(Vec::new()) };
    let committed = pool::committed(&rows.iter().map(group).collect::<Result<Vec<_>>>()?)?;
    let mailboxes = committed.get(&customer.0).copied().unwrap_or_default();
    let counted = [mailboxes, row.int(9)?, row.int(10)?, row.int(11)?];
    let mut recounted = Vec::new();
    for (at, (kind, counted)) in ALL.into_iter().zip(counted).enumerate() {
        if let Some(recorded) = row.int_opt(5 + at)? {
            recounted.push(Recounted { resource: column(kind), recorded, counted });
        }
    }
    Ok(recounted)
}

/// Makes a customer's numbers what is there. The caller holds the hierarchy.
///
/// # Errors
/// As [`recount`].
pub async fn repair(conn: &mut Conn, customer: CustomerId) -> Result<()> {
    for Recounted { resource, counted, .. } in recount(conn, customer).await? {
        let kind = ALL.into_iter().find(|kind| column(*kind) == resource);
        let kind = kind.ok_or_else(|| StorageError::Corrupt(format!("a number of {resource}")))?;
        set(conn, customer, kind, counted).await?;
    }
    Ok(())
}
