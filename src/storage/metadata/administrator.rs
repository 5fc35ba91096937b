//! Administrators and their grants.

use super::changes::Touched;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GrantId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// A grant of a role at a customer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrantRow {
    /// Key.
    pub id: GrantId,
    /// Random public id.
    pub public_id: String,
    /// Who holds it.
    pub administrator: AdministratorId,
    /// Where it counts, and below.
    pub customer: CustomerId,
    /// Name of the role.
    pub role: String,
    /// From when it counts.
    pub not_before: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Whether its holder may pass it on.
    pub delegable: bool,
    /// Who made it.
    pub made_by: String,
    /// When it was made.
    pub created_at: Timestamp,
}

fn grant_from_row(row: &Row) -> Result<GrantRow> {
    Ok(GrantRow {
        id: GrantId(row.int(0)?),
        public_id: row.text(1)?,
        administrator: AdministratorId(row.int(2)?),
        customer: CustomerId(row.int(3)?),
        role: row.text(4)?,
        not_before: row.int_opt(5)?.map(Timestamp),
        expires_at: row.int_opt(6)?.map(Timestamp),
        delegable: row.int(7)? != 0,
        made_by: row.text(8)?,
        created_at: Timestamp(row.int(9)?),
    })
}

/// The columns of [`GrantRow`].
macro_rules! grant_columns {
    () => {
        "g.id, g.public_id, g.administrator_id, g.customer_id, g.role, g.not_before, g.expires_at, g.delegable,
         g.made_by, g.created_at FROM role_grant g "
    };
}

/// The grants of an administrator, whether they count now or not.
///
/// # Errors
/// When the database fails.
pub async fn grants_of(conn: &mut Conn, administrator: AdministratorId) -> Result<Vec<GrantRow>> {
    let text = concat!("SELECT ", grant_columns!(), "WHERE g.administrator_id = $1 ORDER BY g.id");
    conn.rows(text, params![administrator]).await?.iter().map(grant_from_row).collect()
}

/// The grants of several administrators.
///
/// # Errors
/// When the database fails.
pub async fn grants_of_all(conn: &mut Conn, administrators: &[i64]) -> Result<Vec<GrantRow>> {
    let text = concat!("SELECT ", grant_columns!(), "WHERE g.administrator_id IN IDS($1) ORDER BY g.id");
    let rows = conn.rows(text, vec![ids(administrators.iter().copied())]).await?;
    rows.iter().map(grant_from_row).collect()
}

/// Grants at these customers.
///
/// # Errors
/// When the database fails.
pub async fn grants_at(conn: &mut Conn, customers: &[i64]) -> Result<Vec<GrantRow>> {
    let text = concat!("SELECT ", grant_columns!(), "WHERE g.customer_id IN IDS($1) ORDER BY g.id");
    let rows = conn.rows(text, vec![ids(customers.iter().copied())]).await?;
    rows.iter().map(grant_from_row).collect()
}

/// The grant with this public id.
///
/// # Errors
/// When the database fails.
pub async fn grant_by_public_id(conn: &mut Conn, public_id: &str) -> Result<Option<GrantRow>> {
    let text = concat!("SELECT ", grant_columns!(), "WHERE g.public_id = $1");
    conn.row(text, params![public_id]).await?.as_ref().map(grant_from_row).transpose()
}

/// A grant to make.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// Who gets it.
    pub administrator: AdministratorId,
    /// Where.
    pub customer: CustomerId,
    /// Name of the role.
    pub role: String,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Whether its holder may pass it on.
    pub delegable: bool,
    /// Who makes it.
    pub made_by: String,
}

/// Makes a grant and answers its public id.
///
/// # Errors
/// When the database fails.
pub async fn insert_grant(conn: &mut Conn, new: &NewGrant, now: Timestamp) -> Result<String> {
    let public_id = public_id();
    let text =
        "INSERT INTO role_grant (public_id, administrator_id, customer_id, role, expires_at, delegable,
                                        made_by, created_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let params = params![
        &public_id,
        new.administrator,
        new.customer,
        &new.role,
        new.expires_at,
        new.delegable,
        &new.made_by,
        now
    ];
    conn.execute(text, params).await?;
    conn.touch(Touched::Directory);
    Ok(public_id)
}

/// Ends a grant.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete_grant(conn: &mut Conn, id: GrantId) -> Result<()> {
    conn.touch(Touched::Directory);
    let changed = conn.execute("DELETE FROM role_grant WHERE id = $1", params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("grant")) } else { Ok(()) }
}

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
}

/// The columns of [`AdministratorRow`].
macro_rules! columns {
    () => {
        "SELECT a.id, a.public_id, a.customer_id, a.name, a.contact, a.enabled, a.created_at FROM administrator a "
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

/// Administrators at home at these customers behind (name, key), by name.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    customers: &[i64],
    after: Option<(String, i64)>,
    limit: i64,
) -> Result<Vec<AdministratorRow>> {
    let text = concat!(
        columns!(),
        "WHERE a.customer_id IN IDS($1) AND a.deleted_at IS NULL AND (a.name, a.id) > ($2, $3)
         ORDER BY a.name, a.id LIMIT $4"
    );
    let (name, id) = after.unwrap_or_default();
    let params = vec![ids(customers.iter().copied()), name.into(), id.into(), limit.into()];
    conn.rows(text, params).await?.iter().map(from_row).collect()
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

/// Deletes an administrator softly; its tokens end for good. Its grants mean nothing until it is undeleted.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: AdministratorId, now: Timestamp, operation: &str) -> Result<()> {
    conn.touch(Touched::Directory);
    conn.execute("DELETE FROM token WHERE administrator_id = $1", params![id]).await?;
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
