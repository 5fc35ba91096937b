//! Roles that customers make themselves.

use super::changes::Touched;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, RoleId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// A role of a customer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoleRow {
    /// Key.
    pub id: RoleId,
    /// Random public id.
    pub public_id: String,
    /// Whose it is: it can be granted there and below.
    pub customer: CustomerId,
    /// Its name.
    pub name: String,
    /// Name of the base role.
    pub base: String,
    /// Names of its permissions, with spaces between.
    pub permissions: String,
    /// When it was made.
    pub created_at: Timestamp,
}

fn from_row(row: &Row) -> Result<RoleRow> {
    Ok(RoleRow {
        id: RoleId(row.int(0)?),
        public_id: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        name: row.text(3)?,
        base: row.text(4)?,
        permissions: row.text(5)?,
        created_at: Timestamp(row.int(6)?),
    })
}

/// The columns of [`RoleRow`].
macro_rules! columns {
    () => {
        "SELECT id, public_id, customer_id, name, base, permissions, created_at FROM custom_role "
    };
}

/// The roles of this name, whoever's they are.
///
/// # Errors
/// When the database fails.
pub async fn by_name(conn: &mut Conn, name: &str) -> Result<Vec<RoleRow>> {
    let text = concat!(columns!(), "WHERE name = $1 ORDER BY id LIMIT 100000");
    conn.rows(text, params![name]).await?.iter().map(from_row).collect()
}

/// The role with this key.
///
/// # Errors
/// When the database fails.
pub async fn by_id(conn: &mut Conn, id: RoleId) -> Result<Option<RoleRow>> {
    conn.row(concat!(columns!(), "WHERE id = $1"), params![id]).await?.as_ref().map(from_row).transpose()
}

/// Roles of these customers behind (name, key), by name.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    customers: &[i64],
    after: (String, i64),
    limit: i64,
) -> Result<Vec<RoleRow>> {
    let text = concat!(
        columns!(),
        "WHERE customer_id IN IDS($1) AND (name, id) > ($2, $3) ORDER BY name, id LIMIT $4"
    );
    let params = vec![ids(customers.iter().copied()), after.0.into(), after.1.into(), limit.into()];
    conn.rows(text, params).await?.iter().map(from_row).collect()
}

/// Makes a role; nothing when the customer has one of this name.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut Conn,
    customer: CustomerId,
    name: &str,
    (base, permissions): (&str, &str),
    now: Timestamp,
) -> Result<Option<RoleId>> {
    let text = "INSERT INTO custom_role (public_id, customer_id, name, base, permissions, created_at)
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING id";
    let row = conn.row(text, params![public_id(), customer, name, base, permissions, now]).await?;
    row.map(|row| row.int(0).map(RoleId)).transpose()
}

/// Changes what a role says.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn update(conn: &mut Conn, id: RoleId, base: &str, permissions: &str) -> Result<()> {
    conn.touch(Touched::Directory);
    let text = "UPDATE custom_role SET base = $2, permissions = $3 WHERE id = $1";
    let changed = conn.execute(text, params![id, base, permissions]).await?;
    if changed == 0 { Err(StorageError::Gone("role")) } else { Ok(()) }
}

/// Deletes a role, and grants of it that ended by `now`. The caller has made sure that there are no others.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: RoleId, now: Timestamp) -> Result<()> {
    let text = "DELETE FROM role_grant WHERE role_id = $1 AND expires_at <= $2";
    conn.execute(text, params![id, now]).await?;
    let changed = conn.execute("DELETE FROM custom_role WHERE id = $1", params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("role")) } else { Ok(()) }
}
