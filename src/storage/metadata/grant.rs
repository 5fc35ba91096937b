//! Grants: a role at a customer, held by an administrator or a group.

use super::changes::Touched;
use super::scope::{Customers, Listed};
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GrantId, GroupId, RoleId, ZoneId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// Who holds a grant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Holder {
    /// An administrator.
    Administrator(AdministratorId),
    /// The members of a group.
    Group(GroupId),
}

/// What a grant needs to know of a role that a customer made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrantedRole {
    /// Key.
    pub id: RoleId,
    /// Whose role it is.
    pub customer: CustomerId,
    /// Name of the base role.
    pub base: String,
    /// Names of its permissions, with spaces between.
    pub permissions: String,
}

/// The zone that a grant is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrantedZone {
    /// Key.
    pub id: ZoneId,
    /// Its name.
    pub name: String,
}

/// A grant of a role at a customer, or in a zone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GrantRow {
    /// Key.
    pub id: GrantId,
    /// Random public id.
    pub public_id: String,
    /// Who holds it.
    pub holder: Holder,
    /// Where the administrator or group that holds it is at home.
    pub home: CustomerId,
    /// Where it counts, and below; the root for one in a zone.
    pub customer: CustomerId,
    /// The zone in which it counts, and nowhere else.
    pub zone: Option<GrantedZone>,
    /// Name of the role.
    pub role: String,
    /// The role, if it is none of the built-in ones.
    pub custom: Option<GrantedRole>,
    /// From when it counts.
    pub not_before: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Whether its holder may pass it on.
    pub delegable: bool,
    /// Who made it, as `name@CODE`.
    pub made_by: String,
    /// Who made it, which may be gone; nothing for the system.
    pub grantor: Option<AdministratorId>,
    /// When it was made.
    pub created_at: Timestamp,
}

fn from_row(row: &Row) -> Result<GrantRow> {
    let holder = match (row.int_opt(2)?, row.int_opt(3)?) {
        (Some(id), None) => Holder::Administrator(AdministratorId(id)),
        (None, Some(id)) => Holder::Group(GroupId(id)),
        _ => return Err(StorageError::Corrupt("a grant is held by one administrator or group".to_owned())),
    };
    let custom = match row.int_opt(13)? {
        Some(id) => Some(GrantedRole {
            id: RoleId(id),
            customer: CustomerId(row.int(14)?),
            base: row.text(15)?,
            permissions: row.text(16)?,
        }),
        None => None,
    };
    let zone = match row.int_opt(17)? {
        Some(id) => Some(GrantedZone { id: ZoneId(id), name: row.text(18)? }),
        None => None,
    };
    Ok(GrantRow {
        id: GrantId(row.int(0)?),
        public_id: row.text(1)?,
        holder,
        home: CustomerId(row.int(4)?),
        customer: CustomerId(row.int(5)?),
        zone,
        role: row.text(6)?,
        custom,
        not_before: row.int_opt(7)?.map(Timestamp),
        expires_at: row.int_opt(8)?.map(Timestamp),
        delegable: row.int(9)? != 0,
        made_by: row.text(10)?,
        grantor: row.int_opt(11)?.map(AdministratorId),
        created_at: Timestamp(row.int(12)?),
    })
}

/// The columns of [`GrantRow`].
macro_rules! columns {
    () => {
        "SELECT g.id, g.public_id, g.administrator_id, g.group_id,
                coalesce(h.customer_id, a.customer_id), g.customer_id,
                coalesce(r.name, g.role), g.not_before, g.expires_at, g.delegable, g.made_by, g.grantor_id,
                g.created_at, g.role_id, r.customer_id, r.base, r.permissions, g.zone_id, z.name
         FROM role_grant g LEFT JOIN custom_role r ON r.id = g.role_id
                           LEFT JOIN administrator_group h ON h.id = g.group_id
                           LEFT JOIN administrator a ON a.id = g.administrator_id
                           LEFT JOIN zone z ON z.id = g.zone_id "
    };
}

/// The grants that an administrator holds itself and as a member of groups, whether they count now or not.
///
/// # Errors
/// When the database fails.
pub async fn held_by(conn: &mut Conn, administrator: AdministratorId) -> Result<Vec<GrantRow>> {
    let text = concat!(
        columns!(),
        "WHERE g.id IN (SELECT id FROM role_grant WHERE administrator_id = $1
                        UNION ALL
                        SELECT o.id FROM group_member m JOIN role_grant o ON o.group_id = m.group_id
                        WHERE m.administrator_id = $1)
         ORDER BY g.id"
    );
    conn.rows(text, params![administrator]).await?.iter().map(from_row).collect()
}

/// The grants whose holder this is itself.
///
/// # Errors
/// When the database fails.
pub async fn of(conn: &mut Conn, holder: Holder) -> Result<Vec<GrantRow>> {
    let (text, id) = match holder {
        Holder::Administrator(id) => {
            (concat!(columns!(), "WHERE g.administrator_id = $1 ORDER BY g.id"), id.0)
        }
        Holder::Group(id) => (concat!(columns!(), "WHERE g.group_id = $1 ORDER BY g.id"), id.0),
    };
    conn.rows(text, params![id]).await?.iter().map(from_row).collect()
}

/// The grants that several administrators hold themselves.
///
/// # Errors
/// When the database fails.
pub async fn of_administrators(conn: &mut Conn, administrators: &[i64]) -> Result<Vec<GrantRow>> {
    let text = concat!(columns!(), "WHERE g.administrator_id IN IDS($1) ORDER BY g.id");
    conn.rows(text, vec![ids(administrators.iter().copied())]).await?.iter().map(from_row).collect()
}

/// Grants at these customers, without those in zones.
///
/// # Errors
/// When the database fails.
pub async fn at(conn: &mut Conn, customers: &[i64]) -> Result<Vec<GrantRow>> {
    let text = concat!(columns!(), "WHERE g.customer_id IN IDS($1) AND g.zone_id IS NULL ORDER BY g.id");
    conn.rows(text, vec![ids(customers.iter().copied())]).await?.iter().map(from_row).collect()
}

/// Grants of a customer's role.
///
/// # Errors
/// When the database fails.
pub async fn of_role(conn: &mut Conn, role: RoleId) -> Result<Vec<GrantRow>> {
    let text = concat!(columns!(), "WHERE g.role_id = $1 ORDER BY g.id");
    conn.rows(text, params![role]).await?.iter().map(from_row).collect()
}

/// Grants in a zone.
///
/// # Errors
/// When the database fails.
pub async fn in_zone(conn: &mut Conn, zone: ZoneId) -> Result<Vec<GrantRow>> {
    let text = concat!(columns!(), "WHERE g.zone_id = $1 ORDER BY g.id");
    conn.rows(text, params![zone]).await?.iter().map(from_row).collect()
}

/// Grants that an administrator made.
///
/// # Errors
/// When the database fails.
pub async fn made_by(conn: &mut Conn, grantor: AdministratorId) -> Result<Vec<GrantRow>> {
    let text = concat!(columns!(), "WHERE g.grantor_id = $1 ORDER BY g.id");
    conn.rows(text, params![grantor]).await?.iter().map(from_row).collect()
}

/// Grants at these customers behind the key `after`, by key; only those of one maker if one is given. Those of deleted
/// administrators are left out.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    customers: &Customers,
    grantor: Option<AdministratorId>,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<GrantRow>> {
    let text = concat!(
        columns!(),
        "WHERE THESE AND g.id > $1 AND ($3 = 0 OR g.grantor_id = $3) AND a.deleted_at IS NULL
         ORDER BY g.id LIMIT $2"
    );
    let listed = Listed {
        text: text.to_owned(),
        column: "g.customer_id",
        more: params![grantor.map_or(0, |one| one.0)],
        read: from_row,
        key: |row: &GrantRow| params![row.id],
        customer: |row| row.customer,
    };
    listed.page(conn, customers, params![after.unwrap_or(0)], limit).await
}

/// The grant with this public id.
///
/// # Errors
/// When the database fails.
pub async fn by_public_id(conn: &mut Conn, public_id: &str) -> Result<Option<GrantRow>> {
    let text = concat!(columns!(), "WHERE g.public_id = $1");
    conn.row(text, params![public_id]).await?.as_ref().map(from_row).transpose()
}

/// A grant to make.
#[derive(Clone, Debug)]
pub struct NewGrant {
    /// Who gets it.
    pub holder: Holder,
    /// Where; the root for one in a zone.
    pub customer: CustomerId,
    /// In which zone, if it is to count in one only.
    pub zone: Option<ZoneId>,
    /// Name of the role.
    pub role: String,
    /// The role, if it is none of the built-in ones.
    pub custom: Option<RoleId>,
    /// From when it counts.
    pub not_before: Option<Timestamp>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    /// Whether its holder may pass it on.
    pub delegable: bool,
    /// Who makes it, as `name@CODE`.
    pub made_by: String,
    /// Who makes it; nothing for the system.
    pub grantor: Option<AdministratorId>,
}

/// Makes a grant and answers its public id.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, new: &NewGrant, now: Timestamp) -> Result<String> {
    let public_id = public_id();
    let (administrator, group) = match new.holder {
        Holder::Administrator(id) => (Some(id), None),
        Holder::Group(id) => (None, Some(id)),
    };
    let text = "INSERT INTO role_grant (public_id, administrator_id, group_id, customer_id, role, role_id, not_before,
                                        expires_at, delegable, made_by, grantor_id, created_at, zone_id)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    let params = params![
        &public_id,
        administrator,
        group,
        new.customer,
        &new.role,
        new.custom,
        new.not_before,
        new.expires_at,
        new.delegable,
        &new.made_by,
        new.grantor,
        now,
        new.zone
    ];
    conn.execute(text, params).await?;
    conn.touch(Touched::Directory);
    Ok(public_id)
}

/// Ends a grant.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: GrantId) -> Result<()> {
    conn.touch(Touched::Directory);
    let changed = conn.execute("DELETE FROM role_grant WHERE id = $1", params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("grant")) } else { Ok(()) }
}

/// Lets a grant be one of another role, which says the same.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn set_role(conn: &mut Conn, id: GrantId, role: RoleId) -> Result<()> {
    conn.touch(Touched::Directory);
    let changed = conn.execute("UPDATE role_grant SET role_id = $2 WHERE id = $1", params![id, role]).await?;
    if changed == 0 { Err(StorageError::Gone("grant")) } else { Ok(()) }
}
