//! Templates: classes of service, owned by customers. What they give is JSON that `service/settings` knows.

use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// A template.
#[derive(Clone, Debug)]
pub struct TemplateRow {
    /// Key.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// Whose it is.
    pub customer: CustomerId,
    /// Its name, unique at its customer.
    pub name: String,
    /// `customer` or `mailbox`.
    pub kind: String,
    /// What it gives, as JSON.
    pub content: String,
    /// When it was made.
    pub created_at: Timestamp,
}

const COLUMNS: &str = "SELECT id, public_id, customer_id, name, kind, content, created_at FROM template";

fn from_row(row: &Row) -> Result<TemplateRow> {
    Ok(TemplateRow {
        id: row.int(0)?,
        public_id: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        name: row.text(3)?,
        kind: row.text(4)?,
        content: row.text(5)?,
        created_at: Timestamp(row.int(6)?),
    })
}

/// Makes a template; false when its customer has one of this name.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut Conn,
    customer: CustomerId,
    (name, kind): (&str, &str),
    content: &str,
    now: Timestamp,
) -> Result<bool> {
    let text = "INSERT INTO template (public_id, customer_id, name, kind, content, created_at)
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    Ok(conn.execute(text, params![public_id(), customer, name, kind, content, now]).await? > 0)
}

/// The template of a customer with this name.
///
/// # Errors
/// When the database fails.
pub async fn by_name(conn: &mut Conn, customer: CustomerId, name: &str) -> Result<Option<TemplateRow>> {
    let text = format!("{COLUMNS} WHERE customer_id = $1 AND name = $2");
    conn.row(text, params![customer, name]).await?.as_ref().map(from_row).transpose()
}

/// The templates of this name that these customers have.
///
/// # Errors
/// When the database fails.
pub async fn named(conn: &mut Conn, customers: &[i64], name: &str) -> Result<Vec<TemplateRow>> {
    let text = format!("{COLUMNS} WHERE customer_id IN IDS($1) AND name = $2");
    let params = vec![ids(customers.iter().copied()), name.into()];
    conn.rows(text, params).await?.iter().map(from_row).collect()
}

/// The templates of these customers, by name, behind `after` (name, key); at most `limit`.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    customers: &[i64],
    after: Option<(String, i64)>,
    limit: i64,
) -> Result<Vec<TemplateRow>> {
    let text = format!(
        "{COLUMNS} WHERE customer_id IN IDS($1) AND (name, id) > ($2, $3) ORDER BY name, id LIMIT $4"
    );
    let (name, id) = after.unwrap_or_default();
    let params = vec![ids(customers.iter().copied()), name.into(), id.into(), limit.into()];
    conn.rows(text, params).await?.iter().map(from_row).collect()
}

/// How many a customer has.
///
/// # Errors
/// When the database fails.
pub async fn count(conn: &mut Conn, customer: CustomerId) -> Result<i64> {
    let text = "SELECT count(*) FROM template WHERE customer_id = $1";
    conn.row(text, params![customer]).await?.map_or(Ok(0), |row| row.int(0))
}

/// Changes what a template gives.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn set_content(conn: &mut Conn, id: i64, content: &str) -> Result<()> {
    let text = "UPDATE template SET content = $2 WHERE id = $1";
    let changed = conn.execute(text, params![id, content]).await?;
    if changed == 0 { Err(StorageError::Gone("template")) } else { Ok(()) }
}

/// Removes a template.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: i64) -> Result<()> {
    let changed = conn.execute("DELETE FROM template WHERE id = $1", params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("template")) } else { Ok(()) }
}
