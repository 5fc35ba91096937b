//! Administrators.

use super::changes::Touched;
use super::invitation;
use super::scope::{Customers, Listed};
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GroupId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// An administrator.
#[derive(Clone, Debug)]
pub struct AdministratorRow {
    /// Key.
    pub id: AdministratorId,
    /// Random public id.
    pub public_id: String,
    /// Home.
    pub customer: CustomerId,
    /// Name, unique at home.
    pub name: String,
    /// Address for people.
    pub contact: Option<String>,
    /// Whether it may log in.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether it has a second factor that is confirmed.
    pub second_factor: bool,
}

/// The columns of [`AdministratorRow`].
macro_rules! columns {
    () => {
        "SELECT a.id, a.public_id, a.customer_id, a.name, a.contact, a.enabled, a.created_at,
                (SELECT count(*) FROM second_factor f WHERE f.administrator_id = a.id AND f.confirmed_at IS NOT NULL)
         FROM administrator a "
    };
}

fn from_row(row: &Row) -> Result<AdministratorRow> {
    Ok(AdministratorRow {
        id: AdministratorId(row.int(0)?),
        public_id: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        name: row.text(3)?,
        contact: row.text_opt(4)?,
        enabled: row.int(5)? != 0,
        created_at: Timestamp(row.int(6)?),
        second_factor: row.int(7)? != 0,
    })
}

/// The administrators of this name that are not deleted, wherever they are at home.
///
/// # Errors
/// When the database fails.
pub async fn all_by_name(conn: &mut Conn, name: &str) -> Result<Vec<AdministratorRow>> {
    let text = concat!(columns!(), "WHERE a.name = $1 AND a.deleted_at IS NULL ORDER BY a.id LIMIT 10000");
    conn.rows(text, params![name]).await?.iter().map(from_row).collect()
}

/// The administrator with this key that is not deleted.
///
/// # Errors
/// When the database fails.
pub async fn by_id(conn: &mut Conn, id: AdministratorId) -> Result<Option<AdministratorRow>> {
    let text = concat!(columns!(), "WHERE a.id = $1 AND a.deleted_at IS NULL");
    conn.row(text, params![id]).await?.as_ref().map(from_row).transpose()
}

/// The administrators with these keys that are not deleted, in no order.
///
/// # Errors
/// When the database fails.
pub async fn by_ids(conn: &mut Conn, keys: impl IntoIterator<Item = i64>) -> Result<Vec<AdministratorRow>> {
    let text = concat!(columns!(), "WHERE a.id IN IDS($1) AND a.deleted_at IS NULL");
    conn.rows(text, vec![ids(keys)]).await?.iter().map(from_row).collect()
}

/// Where these administrators are at home, deleted or not, and their names.
///
/// # Errors
/// When the database fails.
pub async fn homes(
    conn: &mut Conn,
    keys: impl IntoIterator<Item = i64>,
) -> Result<Vec<(AdministratorId, CustomerId, String)>> {
    let text = "SELECT id, customer_id, name FROM administrator WHERE id IN IDS($1)";
    let rows = conn.rows(text, vec![ids(keys)]).await?;
    let one = |row: &Row| Ok((AdministratorId(row.int(0)?), CustomerId(row.int(1)?), row.text(2)?));
    rows.iter().map(one).collect()
}

/// The members of a group that are not deleted, by name.
///
/// # Errors
/// When the database fails.
pub async fn members(conn: &mut Conn, group: GroupId) -> Result<Vec<AdministratorRow>> {
    let text = concat!(
        columns!(),
        "JOIN group_member m ON m.administrator_id = a.id
         WHERE m.group_id = $1 AND a.deleted_at IS NULL ORDER BY a.name, a.id"
    );
    conn.rows(text, params![group]).await?.iter().map(from_row).collect()
}

/// The administrator with this key, deleted or not.
///
/// # Errors
/// When the database fails.
pub async fn by_id_even_deleted(conn: &mut Conn, id: AdministratorId) -> Result<Option<AdministratorRow>> {
    let text = concat!(columns!(), "WHERE a.id = $1");
    conn.row(text, params![id]).await?.as_ref().map(from_row).transpose()
}

/// Administrators at home at these customers behind (name, key), by name.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    customers: &Customers,
    after: Option<(String, i64)>,
    limit: i64,
) -> Result<Vec<AdministratorRow>> {
    let text = concat!(
        columns!(),
        "WHERE THESE AND a.deleted_at IS NULL AND (a.name, a.id) > ($1, $2) ORDER BY a.name, a.id LIMIT $3"
    );
    let (name, id) = after.unwrap_or_default();
    let listed = Listed {
        text: text.to_owned(),
        column: "a.customer_id",
        more: Vec::new(),
        read: from_row,
        key: |row: &AdministratorRow| params![&row.name, row.id],
        customer: |row| row.customer,
    };
    listed.page(conn, customers, params![name, id], limit).await
}

/// Makes an administrator; nothing when the name is taken at its home.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut Conn,
    customer: CustomerId,
    name: &str,
    contact: Option<&str>,
    now: Timestamp,
) -> Result<Option<AdministratorId>> {
    let text = "INSERT INTO administrator (public_id, customer_id, name, contact, created_at)
                VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING RETURNING id";
    let row = conn.row(text, params![public_id(), customer, name, contact, now]).await?;
    row.map(|row| row.int(0).map(AdministratorId)).transpose()
}

/// Enables or disables an administrator.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn set_enabled(conn: &mut Conn, id: AdministratorId, enabled: bool) -> Result<()> {
    conn.touch(Touched::Directory);
    let text = "UPDATE administrator SET enabled = $2 WHERE id = $1";
    let changed = conn.execute(text, params![id, enabled]).await?;
    if changed == 0 { Err(StorageError::Gone("administrator")) } else { Ok(()) }
}

/// Deletes an administrator softly; its tokens and the codes that it made end for good. Its grants mean
/// nothing until it is undeleted.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: AdministratorId, now: Timestamp, operation: &str) -> Result<()> {
    conn.touch(Touched::Directory);
    conn.execute("DELETE FROM token WHERE administrator_id = $1", params![id]).await?;
    invitation::delete_by(conn, id).await?;
    let text =
        "UPDATE administrator SET deleted_at = $2, deleted_by = $3 WHERE id = $1 AND deleted_at IS NULL";
    let changed = conn.execute(text, params![id, now, operation]).await?;
    if changed == 0 { Err(StorageError::Gone("administrator")) } else { Ok(()) }
}

/// The deleted administrators of this name, wherever they are at home, the last deleted first.
///
/// # Errors
/// When the database fails.
pub async fn deleted_by_name(conn: &mut Conn, name: &str) -> Result<Vec<AdministratorRow>> {
    let text = concat!(
        columns!(),
        "WHERE a.name = $1 AND a.deleted_at IS NOT NULL ORDER BY a.deleted_at DESC, a.id DESC LIMIT 10000"
    );
    conn.rows(text, params![name]).await?.iter().map(from_row).collect()
}

/// Undeletes an administrator. The caller has made sure that the name is free at its home, and ends the grants that
/// must not come back.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn undelete(conn: &mut Conn, id: AdministratorId) -> Result<()> {
    conn.touch(Touched::Directory);
    let text = "UPDATE administrator SET deleted_at = NULL, deleted_by = NULL WHERE id = $1";
    let changed = conn.execute(text, params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("administrator")) } else { Ok(()) }
}

/// The enabled administrator of this name at the customer with this short code (both in lower case).
///
/// # Errors
/// When the database fails.
pub async fn by_login(conn: &mut Conn, name: &str, code: &str) -> Result<Option<AdministratorRow>> {
    let text = concat!(
        columns!(),
        "JOIN customer c ON c.id = a.customer_id
         WHERE a.name = $1 AND lower(c.code) = $2 AND a.enabled = 1 AND a.deleted_at IS NULL AND c.deleted_at IS NULL"
    );
    conn.row(text, params![name, code]).await?.as_ref().map(from_row).transpose()
}
