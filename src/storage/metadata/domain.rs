//! Domains, alias domains, catch-all.

use super::changes::Touched;
use super::scope::{Customers, Domains};
use super::sql::{Conn, Row, ids};
use super::{invitation, mailbox};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// A domain.
#[derive(Clone, Debug)]
pub struct DomainRow {
    /// Key.
    pub id: DomainId,
    /// Random public id.
    pub public_id: String,
    /// Its customer.
    pub customer: CustomerId,
    /// Name, in A-labels.
    pub name: String,
    /// Whether ownership is not shown yet: then it receives, sends and authenticates nothing.
    pub pending: bool,
    /// The domain whose mailboxes are meant, for an alias domain.
    pub alias_of: Option<DomainId>,
    /// Name of that domain.
    pub alias_of_name: Option<String>,
    /// Address that takes what nobody else takes.
    pub catch_all: Option<String>,
    /// Own limits, if any.
    pub bytes_max: Option<i64>,
    /// Limit on messages.
    pub messages_max: Option<i64>,
    /// Limit on octets that new mailboxes get.
    pub mailbox_bytes_max_default: Option<i64>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was deleted, if it was.
    pub deleted_at: Option<Timestamp>,
    /// The operation that deleted it.
    pub deleted_by: Option<String>,
}

/// The columns of [`DomainRow`].
macro_rules! columns {
    () => {
        "d.id, d.public_id, d.customer_id, d.name, d.state, d.alias_of, t.name, d.catch_all, d.bytes_max,
         d.messages_max, d.mailbox_bytes_max_default, d.created_at, d.deleted_at, d.deleted_by
         FROM domain d LEFT JOIN domain t ON t.id = d.alias_of "
    };
}

fn from_row(row: &Row) -> Result<DomainRow> {
    Ok(DomainRow {
        id: DomainId(row.int(0)?),
        public_id: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        name: row.text(3)?,
        pending: row.text(4)? != "verified",
        alias_of: row.int_opt(5)?.map(DomainId),
        alias_of_name: row.text_opt(6)?,
        catch_all: row.text_opt(7)?,
        bytes_max: row.int_opt(8)?,
        messages_max: row.int_opt(9)?,
        mailbox_bytes_max_default: row.int_opt(10)?,
        created_at: Timestamp(row.int(11)?),
        deleted_at: row.int_opt(12)?.map(Timestamp),
        deleted_by: row.text_opt(13)?,
    })
}

/// The verified domain of this name that is not deleted. An alias domain is not followed (see `alias_of`).
pub async fn by_name(conn: &mut Conn, name: &str) -> Result<Option<DomainRow>> {
    let text =
        concat!("SELECT ", columns!(), "WHERE d.name = $1 AND d.state = 'verified' AND d.deleted_at IS NULL");
    conn.row(text, params![name]).await?.as_ref().map(from_row).transpose()
}

/// The domain with this key, deleted or not.
pub async fn by_id(conn: &mut Conn, id: DomainId) -> Result<Option<DomainRow>> {
    let text = concat!("SELECT ", columns!(), "WHERE d.id = $1");
    conn.row(text, params![id]).await?.as_ref().map(from_row).transpose()
}

/// A domain to make.
#[derive(Clone, Debug)]
pub struct NewDomain {
    /// Its customer.
    pub customer: CustomerId,
    /// Name.
    pub name: String,
    /// Whether ownership is shown already.
    pub verified: bool,
    /// The domain whose mailboxes are meant, for an alias domain.
    pub alias_of: Option<DomainId>,
}

/// Makes a domain; nothing when the customer has it already or, for a verified one, another has it verified.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, new: &NewDomain, now: Timestamp) -> Result<Option<DomainId>> {
    let text = "INSERT INTO domain (public_id, customer_id, name, state, alias_of, created_at)
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING id";
    let state = if new.verified { "verified" } else { "pending" };
    let alias_of = new.alias_of.map(|id| id.0);
    let row = conn.row(text, params![public_id(), new.customer, &new.name, state, alias_of, now]).await?;
    conn.touch(Touched::Directory);
    row.map(|row| row.int(0).map(DomainId)).transpose()
}

/// All domains of this name that are not deleted, the verified one first. At most one is verified.
///
/// # Errors
/// When the database fails.
pub async fn all_by_name(conn: &mut Conn, name: &str) -> Result<Vec<DomainRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        "WHERE d.name = $1 AND d.deleted_at IS NULL ORDER BY d.state DESC, d.id LIMIT 1000"
    );
    conn.rows(text, params![name]).await?.iter().map(from_row).collect()
}

/// Deleted domains of this name, the last deleted first.
///
/// # Errors
/// When the database fails.
pub async fn deleted_by_name(conn: &mut Conn, name: &str) -> Result<Vec<DomainRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        "WHERE d.name = $1 AND d.deleted_at IS NOT NULL ORDER BY d.deleted_at DESC, d.id DESC LIMIT 1000"
    );
    conn.rows(text, params![name]).await?.iter().map(from_row).collect()
}

/// Domains of these customers behind (name, key), by name.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    customers: &Customers,
    after: Option<(String, i64)>,
    limit: i64,
) -> Result<Vec<DomainRow>> {
    let wanted = usize::try_from(limit).unwrap_or(0);
    let (mut domains, mut found) = (Domains::behind(customers, after, limit), Vec::new());
    while found.len() < wanted {
        let some = domains.next(conn, "1 = 1").await?;
        if some.is_empty() {
            break;
        }
        found.extend(some.into_iter().map(|(id, _)| id.0));
    }
    found.truncate(wanted);
    let text = concat!("SELECT ", columns!(), "WHERE d.id IN IDS($1) ORDER BY d.name, d.id");
    conn.rows(text, vec![ids(found)]).await?.iter().map(from_row).collect()
}

/// Key, mailboxes that are not deleted, octets that all use, aliases, of these domains.
///
/// # Errors
/// When the database fails.
pub async fn sums(conn: &mut Conn, domains: &[i64]) -> Result<Vec<(DomainId, [i64; 3])>> {
    // All but the deleted ones: both are counted in an index alone.
    let text = "SELECT d.id,
                    (SELECT count(*) FROM mailbox m WHERE m.domain_id = d.id)
                        - (SELECT count(*) FROM mailbox m WHERE m.domain_id = d.id AND m.deleted_at IS NOT NULL),
                    (SELECT CAST(coalesce(sum(m.bytes_used), 0) AS BIGINT) FROM mailbox m WHERE m.domain_id = d.id),
                    (SELECT count(*) FROM alias a WHERE a.domain_id = d.id)
                FROM domain d WHERE d.id IN IDS($1)";
    let rows = conn.rows(text, vec![ids(domains.iter().copied())]).await?;
    rows.iter().map(|row| Ok((DomainId(row.int(0)?), [row.int(1)?, row.int(2)?, row.int(3)?]))).collect()
}

/// The alias domains of a domain that are not deleted.
///
/// # Errors
/// When the database fails.
pub async fn aliases_of(conn: &mut Conn, id: DomainId) -> Result<Vec<String>> {
    let text = "SELECT name FROM domain WHERE alias_of = $1 AND deleted_at IS NULL ORDER BY name LIMIT 1000";
    conn.rows(text, params![id]).await?.iter().map(|row| row.text(0)).collect()
}

/// Marks a domain as verified unless another of the name is.
///
/// # Errors
/// When the database fails.
pub async fn confirm(conn: &mut Conn, row: &DomainRow) -> Result<bool> {
    let text = "UPDATE domain SET state = 'verified' WHERE id = $1 AND NOT EXISTS
                    (SELECT 1 FROM domain o WHERE o.name = $2 AND o.state = 'verified' AND o.deleted_at IS NULL)";
    conn.touch(Touched::Directory);
    Ok(conn.execute(text, params![row.id, &row.name]).await? > 0)
}

/// Changes the catch-all address, the limits and the default limit of mailboxes.
///
/// # Errors
/// When the domain is gone or the database fails.
pub async fn update(conn: &mut Conn, row: &DomainRow) -> Result<()> {
    let text = "UPDATE domain SET catch_all = $2, bytes_max = $3, messages_max = $4,
                       mailbox_bytes_max_default = $5
                WHERE id = $1";
    conn.touch(Touched::Directory);
    let catch_all = row.catch_all.as_deref();
    let params = params![row.id, catch_all, row.bytes_max, row.messages_max, row.mailbox_bytes_max_default];
    if conn.execute(text, params).await? == 0 { Err(StorageError::Gone("domain")) } else { Ok(()) }
}

/// Deletes a domain and its mailboxes softly, marked with the operation. Codes for addresses in it end for good.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut Conn, id: DomainId, now: Timestamp, operation: &str) -> Result<()> {
    for (table, key) in [("domain", "id"), ("mailbox", "domain_id")] {
        let text = format!(
            "UPDATE {table} SET deleted_at = $2, deleted_by = $3 WHERE {key} = $1 AND deleted_at IS NULL"
        );
        conn.execute(text, params![id, now, operation]).await?;
    }
    invitation::delete_in_domains(conn, [id]).await?;
    conn.touch(Touched::Directory);
    Ok(())
}

/// What undeleting sets in a domain: one whose name somebody else has verified meanwhile comes back pending.
pub(super) const COMES_BACK: &str = "deleted_at = NULL, deleted_by = NULL,
    state = CASE WHEN EXISTS (SELECT 1 FROM domain o WHERE o.name = domain.name AND o.state = 'verified'
                              AND o.deleted_at IS NULL) THEN 'pending' ELSE state END";

/// Undeletes exactly what one operation deleted of a domain. The caller has made sure that the customer has no other
/// of the name; if somebody else has it verified, it comes back pending.
///
/// # Errors
/// When the database fails.
pub async fn undelete(conn: &mut Conn, id: DomainId, operation: &str) -> Result<()> {
    for (table, key, set) in [("domain", "id", COMES_BACK), ("mailbox", "domain_id", mailbox::COMES_BACK)] {
        let text = format!("UPDATE {table} SET {set} WHERE {key} = $1 AND deleted_by = $2");
        conn.execute(text, params![id, operation]).await?;
    }
    conn.touch(Touched::Directory);
    Ok(())
}
