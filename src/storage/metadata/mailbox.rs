//! Mailboxes: accounts with credentials, a limit and what they use.

use std::borrow::Cow;

use super::changes::Touched;
use super::invitation;
use super::scope::{self, Contents, Customers, Position};
use super::sql::{Conn, ids};
use super::store::StoreState;
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId, MailboxId, StoreId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

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

/// Folders that every mailbox begins with, and their special use (RFC 6154).
const FOLDERS: [(&str, Option<&str>); 6] = [
    ("INBOX", None),
    ("Drafts", Some("drafts")),
    ("Sent", Some("sent")),
    ("Junk", Some("junk")),
    ("Trash", Some("trash")),
    ("Archive", Some("archive")),
];

/// A mailbox to make.
#[derive(Clone, Debug)]
pub struct NewMailbox {
    /// Its domain.
    pub domain: DomainId,
    /// Local part, in lower case.
    pub local_part: String,
    /// Display name.
    pub name: String,
    /// Password hash.
    pub password_hash: String,
    /// Where its messages go.
    pub store: StoreId,
    /// Limit on octets.
    pub bytes_max: Option<i64>,
    /// Limit on messages.
    pub messages_max: Option<i64>,
}

/// Makes a mailbox with its first folders, all subscribed; nothing when the address is taken.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, new: &NewMailbox, now: Timestamp) -> Result<Option<MailboxId>> {
    // UIDVALIDITY starts at the time in seconds, so that a mailbox made anew under an old address never repeats one
    // (RFC 3501 section 2.3.1.1 suggests it).
    let uid_validity = now.secs().clamp(1, i64::from(u32::MAX) / 2);
    let text =
        "INSERT INTO mailbox (public_id, domain_id, local_part, name, password_hash, store_id, bytes_max,
                                     messages_max, uid_validity_next, created_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING RETURNING id";
    let params = params![
        public_id(),
        new.domain,
        &new.local_part,
        &new.name,
        &new.password_hash,
        new.store,
        new.bytes_max,
        new.messages_max,
        uid_validity + FOLDERS.len() as i64,
        now
    ];
    let Some(row) = conn.row(text, params).await? else { return Ok(None) };
    let id = MailboxId(row.int(0)?);
    let folders = FOLDERS.iter().enumerate().map(|(index, (name, special_use))| {
        params![id, *name, *special_use, uid_validity + index as i64, now]
    });
    let head = "INSERT INTO folder (mailbox_id, name, special_use, uid_validity, created_at)";
    conn.insert_rows(head, 5, folders.collect()).await?;
    let subscriptions = FOLDERS.iter().map(|(name, _)| params![id, *name]);
    conn.insert_rows("INSERT INTO subscription (mailbox_id, name)", 2, subscriptions.collect()).await?;
    Ok(Some(id))
}

/// All mailboxes that are not deleted at an address, in verified and pending domains that are not deleted.
///
/// # Errors
/// When the database fails.
pub async fn all_by_address(conn: &mut Conn, local: &str, domain: &str) -> Result<Vec<MailboxRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        "WHERE d.name = $1 AND d.deleted_at IS NULL AND m.local_part = $2 AND m.deleted_at IS NULL
         ORDER BY d.state DESC, m.id LIMIT 1000"
    );
    conn.rows(text, params![domain, local]).await?.iter().map(from_row).collect()
}

/// Deleted mailboxes at an address, the last deleted first.
///
/// # Errors
/// When the database fails.
pub async fn deleted_by_address(conn: &mut Conn, local: &str, domain: &str) -> Result<Vec<MailboxRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        "WHERE d.name = $1 AND m.local_part = $2 AND m.deleted_at IS NOT NULL
         ORDER BY m.deleted_at DESC, m.id DESC LIMIT 1000"
    );
    conn.rows(text, params![domain, local]).await?.iter().map(from_row).collect()
}

const PAGE: Contents = Contents {
    statement: Cow::Borrowed(concat!(
        "SELECT ",
        columns!(),
        "WHERE m.domain_id = $1 AND m.deleted_at IS NULL AND m.local_part > $2 ORDER BY m.local_part LIMIT $3"
    )),
    any: Cow::Borrowed("EXISTS (SELECT 1 FROM mailbox m WHERE m.domain_id = d.id AND m.deleted_at IS NULL)"),
    domains: None,
};

/// Mailboxes of these customers, or of one domain, behind a position, by domain and local part.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    place: (&Customers, Option<DomainId>),
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<MailboxRow>> {
    scope::rows(conn, &PAGE, place, after, limit).await?.iter().map(from_row).collect()
}

fn one(changed: u64) -> Result<()> {
    if changed == 0 { Err(StorageError::Gone("mailbox")) } else { Ok(()) }
}

/// Sets the password hash; running sessions must hear of it. A code that would set it ends.
///
/// # Errors
/// When the mailbox is gone or the database fails.
pub async fn set_password(conn: &mut Conn, id: MailboxId, hash: &str) -> Result<()> {
    conn.touch(Touched::Mailbox(id));
    invitation::delete_of_mailbox(conn, id).await?;
    one(conn.execute("UPDATE mailbox SET password_hash = $2 WHERE id = $1", params![id, hash]).await?)
}

/// Replaces a password's hash by another hash of the same password, unless it was changed meanwhile; false then. No
/// session is told: the password is the same.
///
/// # Errors
/// When the database fails.
pub async fn renew_hash(conn: &mut Conn, id: MailboxId, from: &str, to: &str) -> Result<bool> {
    let text = "UPDATE mailbox SET password_hash = $3 WHERE id = $1 AND password_hash = $2";
    Ok(conn.execute(text, params![id, from, to]).await? > 0)
}

/// Gives a mailbox another local part in its domain. The caller has made sure that it is free.
///
/// # Errors
/// When the mailbox is gone or the database fails.
pub async fn set_local_part(conn: &mut Conn, id: MailboxId, local: &str) -> Result<()> {
    conn.touch(Touched::Mailbox(id));
    one(conn.execute("UPDATE mailbox SET local_part = $2 WHERE id = $1", params![id, local]).await?)
}

/// Sets the display name.
///
/// # Errors
/// When the mailbox is gone or the database fails.
pub async fn set_name(conn: &mut Conn, id: MailboxId, name: &str) -> Result<()> {
    one(conn.execute("UPDATE mailbox SET name = $2 WHERE id = $1", params![id, name]).await?)
}

/// Sets the limits; they count for the next message.
///
/// # Errors
/// When the mailbox is gone or the database fails.
pub async fn set_limits(
    conn: &mut Conn,
    id: MailboxId,
    bytes_max: Option<i64>,
    messages_max: Option<i64>,
) -> Result<()> {
    let text = "UPDATE mailbox SET bytes_max = $2, messages_max = $3 WHERE id = $1";
    one(conn.execute(text, params![id, bytes_max, messages_max]).await?)
}

/// Deletes a mailbox softly, marked with the operation. It keeps its charge until it is purged; a code that
/// would set its password ends.
///
/// # Errors
/// When the mailbox is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: MailboxId, now: Timestamp, operation: &str) -> Result<()> {
    conn.touch(Touched::Mailbox(id));
    invitation::delete_of_mailbox(conn, id).await?;
    let text = "UPDATE mailbox SET deleted_at = $2, deleted_by = $3 WHERE id = $1 AND deleted_at IS NULL";
    one(conn.execute(text, params![id, now, operation]).await?)
}

/// What undeleting sets in a mailbox.
pub(super) const COMES_BACK: &str = "deleted_at = NULL, deleted_by = NULL";

/// Undeletes a mailbox at this address of the same customer. The caller has made sure that it is free; when
/// the domain is another, its limits have been charged (`quota::move_domain_use`).
///
/// # Errors
/// When the mailbox is gone or the database fails.
pub async fn undelete(conn: &mut Conn, id: MailboxId, domain: DomainId, local: &str) -> Result<()> {
    conn.touch(Touched::Mailbox(id));
    let text = format!("UPDATE mailbox SET {COMES_BACK}, domain_id = $2, local_part = $3 WHERE id = $1");
    one(conn.execute(text, params![id, domain, local]).await?)
}

/// Sets the times of last logins where they are later than what is there. Ascending by mailbox, at most 256.
pub async fn last_logins_set(conn: &mut Conn, logins: &[(MailboxId, Timestamp)]) -> Result<()> {
    for (mailbox, at) in logins {
        let text = "UPDATE mailbox SET last_login_at = $2
                    WHERE id = $1 AND (last_login_at IS NULL OR last_login_at < $2)";
        conn.execute(text, params![*mailbox, *at]).await?;
    }
    Ok(())
}

/// A mailbox whose row is locked until the transaction ends.
pub struct LockedMailbox {
    /// The mailbox.
    pub id: MailboxId,
    /// The customer of its domain, within which bodies are shared.
    pub customer: CustomerId,
    /// Where its mail is kept.
    pub store: StoreId,
    /// Whether mail can be added there now.
    pub store_open: bool,
}

/// Locks a mailbox; nothing when it was deleted. Everybody locks in one order: the mailbox, its folders by id, then
/// the counters of `quota.rs`.
///
/// # Errors
/// What the database says.
pub async fn lock(conn: &mut Conn, mailbox: MailboxId) -> Result<Option<LockedMailbox>> {
    locked(conn, mailbox, "AND m.deleted_at IS NULL AND d.deleted_at IS NULL").await
}

/// As [`lock`], for a mailbox that may have been deleted and is not purged yet.
///
/// # Errors
/// What the database says.
pub async fn lock_even_deleted(conn: &mut Conn, mailbox: MailboxId) -> Result<Option<LockedMailbox>> {
    locked(conn, mailbox, "").await
}

async fn locked(
    conn: &mut Conn,
    mailbox: MailboxId,
    condition: &'static str,
) -> Result<Option<LockedMailbox>> {
    // A statement of its own: the next one sees what whoever held the lock has committed, a new store or customer too.
    lock_rows(conn, [mailbox.0]).await?;
    let text = format!(
        "SELECT d.customer_id, s.id, s.state
         FROM mailbox m JOIN domain d ON d.id = m.domain_id JOIN store s ON s.id = m.store_id
         WHERE m.id = $1 {condition}"
    );
    let Some(row) = conn.row(text, params![mailbox]).await? else { return Ok(None) };
    let (customer, store) = (CustomerId(row.int(0)?), StoreId(row.int(1)?));
    let store_open = StoreState::parse(&row.text(2)?)?.is_writable();
    Ok(Some(LockedMailbox { id: mailbox, customer, store, store_open }))
}

/// Locks the rows of mailboxes, deleted ones too, in the order of their ids; SQLite has one writer and needs none.
///
/// # Errors
/// What the database says.
pub async fn lock_rows(conn: &mut Conn, mailboxes: impl IntoIterator<Item = i64>) -> Result<()> {
    if conn.is_postgres() {
        let text = "SELECT id FROM mailbox WHERE id IN IDS($1) ORDER BY id FOR UPDATE";
        conn.rows(text, vec![ids(mailboxes)]).await?;
    }
    Ok(())
}

/// The next UIDVALIDITY of a mailbox; never given twice.
///
/// # Errors
/// What the database says; `Gone` when there is no such mailbox.
pub async fn uid_validity_take(conn: &mut Conn, mailbox: MailboxId) -> Result<i64> {
    let text = "UPDATE mailbox SET uid_validity_next = uid_validity_next + 1 WHERE id = $1
                RETURNING uid_validity_next - 1";
    conn.row(text, params![mailbox]).await?.ok_or(StorageError::Gone("mailbox"))?.int(0)
}
