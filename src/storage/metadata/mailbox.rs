//! Mailboxes: accounts with credentials, a limit and what they use.

use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId, MailboxId, StoreId};
use crate::params;
use crate::storage::Result;

/// A mailbox with what is needed of its domain.
#[derive(Clone, Debug)]
pub struct MailboxRow {
    /// Key.
    pub id: MailboxId,
    /// Random public id.
    pub public_id: String,
    /// Its domain.
    pub domain: DomainId,
    /// Name of the domain, in A-labels.
    pub domain_name: String,
    /// Whether the domain is pending: then nothing is received, sent or authenticated.
    pub domain_pending: bool,
    /// The customer that owns the domain.
    pub customer: CustomerId,
    /// Local part, in lower case.
    pub local_part: String,
    /// Display name.
    pub name: String,
    /// Password hash in PHC or crypt(3) form.
    pub password_hash: String,
    /// The mail store that keeps its messages.
    pub store: StoreId,
    /// Own limits, if any.
    pub bytes_max: Option<i64>,
    /// Limit on messages.
    pub messages_max: Option<i64>,
    /// Octets of its messages.
    pub bytes_used: i64,
    /// Number of its messages.
    pub messages_used: i64,
    /// Last successful login.
    pub last_login_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was deleted, if it was.
    pub deleted_at: Option<Timestamp>,
    /// The operation that deleted it.
    pub deleted_by: Option<String>,
}

impl MailboxRow {
    /// `localpart@domain`.
    pub fn address(&self) -> String {
        format!("{}@{}", self.local_part, self.domain_name)
    }
}

/// The columns of [`MailboxRow`], for `FROM mailbox m JOIN domain d ON d.id = m.domain_id`.
macro_rules! columns {
    () => {
        "m.id, m.public_id, d.id, d.name, d.state, d.customer_id, m.local_part, m.name, m.password_hash,
         m.store_id, m.bytes_max, m.messages_max, m.bytes_used, m.messages_used, m.last_login_at, m.created_at,
         m.deleted_at, m.deleted_by FROM mailbox m JOIN domain d ON d.id = m.domain_id "
    };
}

fn from_row(row: &super::sql::Row) -> Result<MailboxRow> {
    Ok(MailboxRow {
        id: MailboxId(row.int(0)?),
        public_id: row.text(1)?,
        domain: DomainId(row.int(2)?),
        domain_name: row.text(3)?,
        domain_pending: row.text(4)? != "verified",
        customer: CustomerId(row.int(5)?),
        local_part: row.text(6)?,
        name: row.text(7)?,
        password_hash: row.text(8)?,
        store: StoreId(row.int(9)?),
        bytes_max: row.int_opt(10)?,
        messages_max: row.int_opt(11)?,
        bytes_used: row.int(12)?,
        messages_used: row.int(13)?,
        last_login_at: row.int_opt(14)?.map(Timestamp),
        created_at: Timestamp(row.int(15)?),
        deleted_at: row.int_opt(16)?.map(Timestamp),
        deleted_by: row.text_opt(17)?,
    })
}

/// The mailbox `local@domain` that takes part in mail: not deleted, its domain verified and not deleted. Aliases
/// and alias domains are not followed.
pub async fn by_address(conn: &mut Conn, local: &str, domain: &str) -> Result<Option<MailboxRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        "WHERE d.name = $1 AND d.state = 'verified' AND d.deleted_at IS NULL AND m.local_part = $2
         AND m.deleted_at IS NULL"
    );
    conn.row(text, params![domain, local]).await?.as_ref().map(from_row).transpose()
}

/// The mailbox with this key, deleted or not.
pub async fn by_id(conn: &mut Conn, id: MailboxId) -> Result<Option<MailboxRow>> {
    let text = concat!("SELECT ", columns!(), "WHERE m.id = $1");
    conn.row(text, params![id]).await?.as_ref().map(from_row).transpose()
}
