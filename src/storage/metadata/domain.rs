//! Domains, alias domains, catch-all.

use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::params;
use crate::storage::Result;

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
