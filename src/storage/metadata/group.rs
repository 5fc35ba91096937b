//! Groups of administrators.

use super::changes::Touched;
use super::scope::{Customers, Listed};
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GroupId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// A group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupRow {
    /// Key.
    pub id: GroupId,
    /// Random public id.
    pub public_id: String,
    /// Home.
    pub customer: CustomerId,
    /// Name, unique at home.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

fn from_row(row: &Row) -> Result<GroupRow> {
    Ok(GroupRow {
        id: GroupId(row.int(0)?),
        public_id: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        name: row.text(3)?,
        created_at: Timestamp(row.int(4)?),
    })
}

/// The columns of [`GroupRow`].
macro_rules! columns {
    () => {
        "SELECT g.id, g.public_id, g.customer_id, g.name, g.created_at FROM administrator_group g "
    };
}

/// The groups of this name, wherever they are at home.
///
/// # Errors
/// When the database fails.
pub async fn by_name(conn: &mut Conn, name: &str) -> Result<Vec<GroupRow>> {
    let text = concat!(columns!(), "WHERE g.name = $1 ORDER BY g.id LIMIT 100000");
    conn.rows(text, params![name]).await?.iter().map(from_row).collect()
}

/// The groups with these keys, in no order.
///
/// # Errors
/// When the database fails.
pub async fn by_ids(conn: &mut Conn, keys: impl IntoIterator<Item = i64>) -> Result<Vec<GroupRow>> {
    conn.rows(concat!(columns!(), "WHERE g.id IN IDS($1)"), vec![ids(keys)])
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// The groups that an administrator is a member of.
///
/// # Errors
/// When the database fails.
pub async fn with_member(conn: &mut Conn, administrator: AdministratorId) -> Result<Vec<GroupRow>> {
    let text = concat!(
        columns!(),
        "JOIN group_member m ON m.group_id = g.id WHERE m.administrator_id = $1 ORDER BY g.name, g.id"
    );
    conn.rows(text, params![administrator]).await?.iter().map(from_row).collect()
}

/// Groups at home at these customers behind (name, key), by name.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    customers: &Customers,
    after: Option<(String, i64)>,
    limit: i64,
) -> Result<Vec<GroupRow>> {
    let text =
        concat!(columns!(), "WHERE THESE AND (g.name, g.id) > ($1, $2) ORDER BY g.name, g.id LIMIT $3");
    let (name, id) = after.unwrap_or_default();
    let listed = Listed {
        text: text.to_owned(),
        column: "g.customer_id",
        more: Vec::new(),
        read: from_row,
        key: |row: &GroupRow| params![&row.name, row.id],
        customer: |row| row.customer,
    };
    listed.page(conn, customers, params![name, id], limit).await
}

/// Makes a group; nothing when the name is taken at its home.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut Conn,
    customer: CustomerId,
    name: &str,
    now: Timestamp,
) -> Result<Option<GroupId>> {
    let text = "INSERT INTO administrator_group (public_id, customer_id, name, created_at)
                VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING id";
    let row = conn.row(text, params![public_id(), customer, name, now]).await?;
    row.map(|row| row.int(0).map(GroupId)).transpose()
}

/// Deletes a group with its grants; its members stay administrators.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: GroupId) -> Result<()> {
    conn.touch(Touched::Directory);
    conn.execute("DELETE FROM role_grant WHERE group_id = $1", params![id]).await?;
    conn.execute("DELETE FROM group_member WHERE group_id = $1", params![id]).await?;
    let changed = conn.execute("DELETE FROM administrator_group WHERE id = $1", params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("group")) } else { Ok(()) }
}

/// Adds a member; false when it is one already.
///
/// # Errors
/// When the database fails.
pub async fn add(
    conn: &mut Conn,
    group: GroupId,
    administrator: AdministratorId,
    now: Timestamp,
) -> Result<bool> {
    conn.touch(Touched::Directory);
    let text = "INSERT INTO group_member (group_id, administrator_id, added_at) VALUES ($1, $2, $3)
                ON CONFLICT DO NOTHING";
    Ok(conn.execute(text, params![group, administrator, now]).await? > 0)
}

/// Takes a member out; false when it was none.
///
/// # Errors
/// When the database fails.
pub async fn remove(conn: &mut Conn, group: GroupId, administrator: AdministratorId) -> Result<bool> {
    conn.touch(Touched::Directory);
    let text = "DELETE FROM group_member WHERE group_id = $1 AND administrator_id = $2";
    Ok(conn.execute(text, params![group, administrator]).await? > 0)
}

/// How many members a group has, and of how many groups an administrator is one.
///
/// # Errors
/// When the database fails.
pub async fn counts(conn: &mut Conn, group: GroupId, administrator: AdministratorId) -> Result<(i64, i64)> {
    let text = "SELECT (SELECT count(*) FROM group_member WHERE group_id = $1),
                       (SELECT count(*) FROM group_member WHERE administrator_id = $2)";
    let row = conn.row(text, params![group, administrator]).await?.ok_or(StorageError::Gone("counts"))?;
    Ok((row.int(0)?, row.int(1)?))
}

/// The memberships of groups at home at these customers, deleted administrators' too: group, member, and where the
/// member is at home.
///
/// # Errors
/// When the database fails.
pub async fn memberships_at(
    conn: &mut Conn,
    customers: &[i64],
) -> Result<Vec<(GroupId, AdministratorId, CustomerId)>> {
    let text = "SELECT m.group_id, m.administrator_id, a.customer_id FROM group_member m
                JOIN administrator_group g ON g.id = m.group_id JOIN administrator a ON a.id = m.administrator_id
                WHERE g.customer_id IN IDS($1) ORDER BY m.group_id, m.administrator_id";
    let rows = conn.rows(text, vec![ids(customers.iter().copied())]).await?;
    let one = |row: &Row| Ok((GroupId(row.int(0)?), AdministratorId(row.int(1)?), CustomerId(row.int(2)?)));
    rows.iter().map(one).collect()
}
