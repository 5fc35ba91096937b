//! Customers: the nodes of the hierarchy. `parent_id` is the truth.

use super::pool::Pooled;
use super::sql::{Conn, Row, ids};
use super::tree_change::tree_changed;
use super::{domain, invitation, mailbox};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, public_id, random_text};
use crate::params;
use crate::storage::{Result, StorageError};

/// What the tree in memory knows of a customer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRow {
    /// Key.
    pub id: CustomerId,
    /// The customer above; nothing for the root.
    pub parent: Option<CustomerId>,
    /// Name in paths.
    pub slug: String,
    /// Short code.
    pub code: String,
    /// Whether it is deleted.
    pub deleted: bool,
    /// Names of the permissions that anybody can have there and below, with spaces between; nothing for no ceiling.
    pub ceiling: Option<String>,
    /// Whether it has a hold on management of its own.
    pub is_held: bool,
}

/// How a transaction reads the version of the hierarchy. On PostgreSQL the version's row is the lock that keeps a
/// subtree from being moved or deleted while something is made below it; SQLite has one writer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TreeLock {
    /// Reads only.
    None,
    /// Changes something below customers: the hierarchy must stay.
    Shared,
    /// Changes the hierarchy, administrators or grants.
    Exclusive,
}

/// The version of the hierarchy: a random text that every change of it replaces.
///
/// # Errors
/// When the database fails.
pub async fn tree_version(conn: &mut Conn, lock: TreeLock) -> Result<String> {
    let lock = match lock {
        TreeLock::Shared if conn.is_postgres() => " FOR SHARE",
        TreeLock::Exclusive if conn.is_postgres() => " FOR UPDATE",
        _ => "",
    };
    let text = format!("SELECT value FROM instance WHERE key = 'tree_version'{lock}");
    conn.row(text, params![]).await?.ok_or(StorageError::Gone("the hierarchy"))?.text(0)
}

/// All customers, deleted ones too.
///
/// # Errors
/// When the database fails.
pub async fn nodes(conn: &mut Conn) -> Result<Vec<NodeRow>> {
    let text = "SELECT id, parent_id, slug, code, deleted_at, ceiling,
                       CAST(CASE WHEN id IN (SELECT customer_id FROM hold WHERE switch = 'manage'
                                             AND customer_id IS NOT NULL) THEN 1 ELSE 0 END AS BIGINT)
                FROM customer";
    conn.rows(text, params![]).await?.iter().map(|row| node(row, 0)).collect()
}

/// What stands in the columns from `first` on.
pub(super) fn node(row: &Row, first: usize) -> Result<NodeRow> {
    Ok(NodeRow {
        id: CustomerId(row.int(first)?),
        parent: row.int_opt(first + 1)?.map(CustomerId),
        slug: row.text(first + 2)?,
        code: row.text(first + 3)?,
        deleted: row.int_opt(first + 4)?.is_some(),
        ceiling: row.text_opt(first + 5)?,
        is_held: row.int(first + 6)? == 1,
    })
}

/// Makes the root customer of a fresh database.
///
/// # Errors
/// When the database fails.
pub async fn ensure_root(conn: &mut Conn, now: Timestamp) -> Result<()> {
    let text = "INSERT INTO instance (key, value) VALUES ('tree_version', $1) ON CONFLICT DO NOTHING";
    if conn.execute(text, params![public_id()]).await? == 0 {
        return Ok(());
    }
    let text = "INSERT INTO customer (public_id, parent_id, slug, name, kind, code, created_at)
                VALUES ($1, NULL, 'provider', 'Provider', 'provider', $2, $3)";
    conn.execute(text, params![public_id(), random_text(6), now]).await?;
    Ok(())
}

/// The root, once it is there.
///
/// # Errors
/// What the database says.
pub async fn root(conn: &mut Conn) -> Result<Option<CustomerId>> {
    let text = "SELECT id FROM customer WHERE parent_id IS NULL ORDER BY id LIMIT 1";
    conn.row(text, Vec::new()).await?.map(|row| row.int(0).map(CustomerId)).transpose()
}

/// Own limits of a customer; nothing means no own limit, 0 means nothing at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CustomerLimits {
    /// Octets.
    pub bytes: Option<i64>,
    /// Messages.
    pub messages: Option<i64>,
    /// Mailboxes.
    pub mailboxes: Option<i64>,
    /// Aliases.
    pub aliases: Option<i64>,
    /// Domains.
    pub domains: Option<i64>,
    /// Customers below.
    pub customers: Option<i64>,
    /// Administrators.
    pub administrators: Option<i64>,
    /// Octets that are reserved for it.
    pub bytes_guarantee: Option<i64>,
    /// Mailboxes that are reserved for it.
    pub mailboxes_guarantee: Option<i64>,
    /// What the limits on octets of the customers right below may add up to, in percent of its own.
    pub bytes_overcommit_percent: Option<i64>,
    /// As that, of mailboxes.
    pub mailboxes_overcommit_percent: Option<i64>,
}

/// A customer.
#[derive(Clone, Debug)]
pub struct CustomerRow {
    /// Key.
    pub id: CustomerId,
    /// Random public id.
    pub public_id: String,
    /// The customer above.
    pub parent: Option<CustomerId>,
    /// Name in paths.
    pub slug: String,
    /// Display name.
    pub name: String,
    /// Free label.
    pub kind: String,
    /// Short code.
    pub code: String,
    /// Address for people.
    pub contact: Option<String>,
    /// Own limits.
    pub limits: CustomerLimits,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was deleted, if it was.
    pub deleted_at: Option<Timestamp>,
    /// The operation that deleted it.
    pub deleted_by: Option<String>,
}

/// The customers with these keys, in no order.
///
/// # Errors
/// When the database fails.
pub async fn by_ids(conn: &mut Conn, keys: impl IntoIterator<Item = i64>) -> Result<Vec<CustomerRow>> {
    let text = "SELECT id, public_id, parent_id, slug, name, kind, code, contact, bytes_max, messages_max,
                       mailboxes_max, aliases_max, domains_max, customers_max, administrators_max, created_at,
                       deleted_at, deleted_by, bytes_guarantee, mailboxes_guarantee, bytes_overcommit_percent,
                       mailboxes_overcommit_percent
                FROM customer WHERE id IN IDS($1)";
    let customer = |row: &super::sql::Row| {
        Ok(CustomerRow {
            id: CustomerId(row.int(0)?),
            public_id: row.text(1)?,
            parent: row.int_opt(2)?.map(CustomerId),
            slug: row.text(3)?,
            name: row.text(4)?,
            kind: row.text(5)?,
            code: row.text(6)?,
            contact: row.text_opt(7)?,
            limits: CustomerLimits {
                bytes: row.int_opt(8)?,
                messages: row.int_opt(9)?,
                mailboxes: row.int_opt(10)?,
                aliases: row.int_opt(11)?,
                domains: row.int_opt(12)?,
                customers: row.int_opt(13)?,
                administrators: row.int_opt(14)?,
                bytes_guarantee: row.int_opt(18)?,
                mailboxes_guarantee: row.int_opt(19)?,
                bytes_overcommit_percent: row.int_opt(20)?,
                mailboxes_overcommit_percent: row.int_opt(21)?,
            },
            created_at: Timestamp(row.int(15)?),
            deleted_at: row.int_opt(16)?.map(Timestamp),
            deleted_by: row.text_opt(17)?,
        })
    };
    conn.rows(text, vec![ids(keys)]).await?.iter().map(customer).collect()
}

/// The customer with this key, deleted or not.
///
/// # Errors
/// When the database fails.
pub async fn by_id(conn: &mut Conn, id: CustomerId) -> Result<Option<CustomerRow>> {
    Ok(by_ids(conn, [id.0]).await?.into_iter().next())
}

/// A customer to make.
#[derive(Clone, Debug)]
pub struct NewCustomer {
    /// The customer above.
    pub parent: CustomerId,
    /// Name in paths.
    pub slug: String,
    /// Display name.
    pub name: String,
    /// Free label.
    pub kind: String,
    /// Short code.
    pub code: String,
    /// Address for people.
    pub contact: Option<String>,
}

/// Makes a customer; nothing when slug or code are taken.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, new: &NewCustomer, now: Timestamp) -> Result<Option<CustomerId>> {
    let text = "INSERT INTO customer (public_id, parent_id, slug, name, kind, code, contact, created_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING id";
    let contact = new.contact.as_deref();
    let params = params![public_id(), new.parent, &new.slug, &new.name, &new.kind, &new.code, contact, now];
    let Some(row) = conn.row(text, params).await? else { return Ok(None) };
    let id = row.int(0)?;
    tree_changed(conn, &[id]).await?;
    Ok(Some(CustomerId(id)))
}

/// Changes slug, name, kind and contact.
///
/// # Errors
/// When the customer is gone or the database fails.
pub async fn update(conn: &mut Conn, row: &CustomerRow) -> Result<()> {
    let text = "UPDATE customer SET slug = $2, name = $3, kind = $4, contact = $5 WHERE id = $1";
    let contact = row.contact.as_deref();
    let changed = conn.execute(text, params![row.id, &row.slug, &row.name, &row.kind, contact]).await?;
    tree_changed(conn, &[row.id.0]).await?;
    if changed == 0 { Err(StorageError::Gone("customer")) } else { Ok(()) }
}

/// Puts a customer below another.
///
/// # Errors
/// When the customer is gone or the database fails.
pub async fn set_parent(conn: &mut Conn, id: CustomerId, parent: CustomerId) -> Result<()> {
    let text = "UPDATE customer SET parent_id = $2, moved = 1 WHERE id = $1";
    let changed = conn.execute(text, params![id, parent]).await?;
    tree_changed(conn, &[id.0]).await?;
    if changed == 0 { Err(StorageError::Gone("customer")) } else { Ok(()) }
}

/// Sets or clears the ceiling: names of permissions with spaces between.
///
/// # Errors
/// When the customer is gone or the database fails.
pub async fn set_ceiling(conn: &mut Conn, id: CustomerId, ceiling: Option<&str>) -> Result<()> {
    let changed =
        conn.execute("UPDATE customer SET ceiling = $2 WHERE id = $1", params![id, ceiling]).await?;
    tree_changed(conn, &[id.0]).await?;
    if changed == 0 { Err(StorageError::Gone("customer")) } else { Ok(()) }
}

/// The customers that were ever moved.
///
/// # Errors
/// When the database fails.
pub async fn moved(conn: &mut Conn) -> Result<Vec<CustomerId>> {
    let rows = conn.rows("SELECT id FROM customer WHERE moved = 1 ORDER BY id", params![]).await?;
    rows.iter().map(|row| row.int(0).map(CustomerId)).collect()
}

/// Sets the limits; the counters of octets and messages are set by `quota::follow_customer_limits`.
///
/// # Errors
/// When the customer is gone or the database fails.
pub async fn set_limits(conn: &mut Conn, id: CustomerId, limits: CustomerLimits) -> Result<()> {
    let text = "UPDATE customer SET bytes_max = $2, messages_max = $3, mailboxes_max = $4, aliases_max = $5,
                       domains_max = $6, customers_max = $7, administrators_max = $8, bytes_guarantee = $9,
                       mailboxes_guarantee = $10, bytes_overcommit_percent = $11, mailboxes_overcommit_percent = $12
                WHERE id = $1";
    let CustomerLimits { bytes, messages, mailboxes, aliases, domains, customers, administrators, .. } =
        limits;
    let mut params = params![id, bytes, messages, mailboxes, aliases, domains, customers, administrators];
    params.extend(params![limits.bytes_guarantee, limits.mailboxes_guarantee]);
    params.extend(params![limits.bytes_overcommit_percent, limits.mailboxes_overcommit_percent]);
    if conn.execute(text, params).await? == 0 { Err(StorageError::Gone("customer")) } else { Ok(()) }
}

/// The limits of the customers right below one, on octets or on mailboxes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LimitsBelow {
    /// Customers that are not deleted and have none.
    pub without: i64,
    /// The sum of all others.
    pub sum: i128,
}

/// Adds up the limits of the customers right below one. Deleted ones count with their limit on octets, since they keep
/// their charge, and not with that on mailboxes.
///
/// # Errors
/// When the database fails.
pub async fn limits_below(conn: &mut Conn, id: CustomerId, pooled: Pooled) -> Result<LimitsBelow> {
    let (column, counts) = match pooled {
        Pooled::Octets => ("bytes_max", "0 = 0"),
        Pooled::Mailboxes => ("mailboxes_max", "deleted_at IS NULL"),
    };
    // In two halves, since the sum of limits may be more than a BIGINT holds.
    let text = format!(
        "SELECT CAST(coalesce(sum(CASE WHEN {column} IS NULL AND deleted_at IS NULL THEN 1 ELSE 0 END), 0) AS BIGINT),
                CAST(coalesce(sum(CASE WHEN {counts} THEN {column} / 1073741824 END), 0) AS BIGINT),
                CAST(coalesce(sum(CASE WHEN {counts} THEN {column} % 1073741824 END), 0) AS BIGINT)
         FROM customer WHERE parent_id = $1"
    );
    let row = conn.row(text, params![id]).await?.ok_or(StorageError::Gone("the sum"))?;
    let sum = i128::from(row.int(1)?) * 1_073_741_824 + i128::from(row.int(2)?);
    Ok(LimitsBelow { without: row.int(0)?, sum })
}

/// Tables whose rows are deleted softly, with the condition that ties them to customers `IDS($1)`, and what undeleting
/// sets in them.
const BELOW: [(&str, &str, &str); 4] = [
    ("customer", "id IN IDS($1)", mailbox::COMES_BACK),
    ("domain", "customer_id IN IDS($1)", domain::COMES_BACK),
    ("mailbox", "domain_id IN (SELECT id FROM domain WHERE customer_id IN IDS($1))", mailbox::COMES_BACK),
    ("administrator", "customer_id IN IDS($1)", mailbox::COMES_BACK),
];

/// Deletes customers softly with everything they have, marked with the operation; tokens of their administrators
/// go for good, and codes. What was deleted before keeps its own mark.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut Conn, subtree: &[i64], now: Timestamp, operation: &str) -> Result<()> {
    let text = "DELETE FROM token WHERE administrator_id IN
                    (SELECT id FROM administrator WHERE customer_id IN IDS($1))";
    conn.execute(text, vec![ids(subtree.iter().copied())]).await?;
    invitation::delete_at(conn, subtree).await?;
    invitation::delete_by_those_of(conn, subtree).await?;
    for (table, condition, _) in BELOW {
        let text = format!(
            "UPDATE {table} SET deleted_at = $2, deleted_by = $3 WHERE deleted_at IS NULL AND {condition}"
        );
        conn.execute(text, vec![ids(subtree.iter().copied()), now.into(), operation.into()]).await?;
    }
    tree_changed(conn, subtree).await
}

/// Undeletes exactly what one operation deleted among customers and what they have. Domains whose name somebody else
/// has verified meanwhile come back pending. The caller has made sure that no path is taken.
///
/// # Errors
/// When the database fails.
pub async fn undelete(conn: &mut Conn, subtree: &[i64], operation: &str) -> Result<()> {
    for (table, condition, set) in BELOW {
        let text = format!("UPDATE {table} SET {set} WHERE deleted_by = $2 AND {condition}");
        conn.execute(text, vec![ids(subtree.iter().copied()), operation.into()]).await?;
    }
    tree_changed(conn, subtree).await
}

/// Octets used, and committed, at those of these customers that have a counter.
///
/// # Errors
/// When the database fails.
pub async fn bytes_used(conn: &mut Conn, customers: &[i64]) -> Result<Vec<(CustomerId, [i64; 2])>> {
    let text =
        "SELECT customer_id, bytes_used, bytes_committed FROM customer_usage WHERE customer_id IN IDS($1)";
    let rows = conn.rows(text, vec![ids(customers.iter().copied())]).await?;
    rows.iter().map(|row| Ok((CustomerId(row.int(0)?), [row.int(1)?, row.int(2)?]))).collect()
}

/// How many objects that count against limits a set of customers has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Mailboxes.
    pub mailboxes: i64,
    /// Aliases.
    pub aliases: i64,
    /// Domains.
    pub domains: i64,
    /// Administrators.
    pub administrators: i64,
}

/// What is counted of customers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counted {
    /// Mailboxes.
    Mailboxes,
    /// Aliases.
    Aliases,
    /// Domains.
    Domains,
    /// Administrators.
    Administrators,
}

impl Counted {
    /// The number of those that customers `IDS($1)` have.
    fn text(self) -> &'static str {
        match self {
            Self::Mailboxes => {
                "SELECT count(*) FROM mailbox m JOIN domain d ON d.id = m.domain_id
                 WHERE d.customer_id IN IDS($1) AND m.deleted_at IS NULL"
            }
            Self::Aliases => {
                "SELECT count(*) FROM alias a JOIN domain d ON d.id = a.domain_id
                 WHERE d.customer_id IN IDS($1) AND d.deleted_at IS NULL"
            }
            Self::Domains => {
                "SELECT count(*) FROM domain d WHERE d.customer_id IN IDS($1) AND d.deleted_at IS NULL"
            }
            Self::Administrators => {
                "SELECT count(*) FROM administrator a WHERE a.customer_id IN IDS($1) AND a.deleted_at IS NULL"
            }
        }
    }
}

/// Counts one thing that these customers have themselves; deleted objects do not count.
///
/// # Errors
/// When the database fails.
pub async fn count(conn: &mut Conn, customers: &[i64], counted: Counted) -> Result<i64> {
    let row = conn.row(counted.text(), vec![ids(customers.iter().copied())]).await?;
    row.ok_or(StorageError::Gone("a count"))?.int(0)
}

/// Counts what these customers have themselves; deleted objects do not count.
///
/// # Errors
/// When the database fails.
pub async fn counts(conn: &mut Conn, customers: &[i64]) -> Result<Counts> {
    Ok(Counts {
        mailboxes: count(conn, customers, Counted::Mailboxes).await?,
        aliases: count(conn, customers, Counted::Aliases).await?,
        domains: count(conn, customers, Counted::Domains).await?,
        administrators: count(conn, customers, Counted::Administrators).await?,
    })
}
