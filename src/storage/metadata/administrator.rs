//! Administrators and their grants.

use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, GrantId};
use crate::params;
use crate::storage::Result;

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
