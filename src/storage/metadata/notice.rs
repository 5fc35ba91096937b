//! Notices: what people are told, who has read it, and the copies on their way into mailboxes.
//!
//! # Consistency
//! A copy's row is removed in the transaction that stores its message (`delivery.rs`), and nothing is stored without
//! it: however often and from how many nodes it is tried, a mailbox gets one.

use std::collections::HashSet;

use super::scope::{Customers, Listed};
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, MailboxId, public_id};
use crate::params;
use crate::storage::Result;

/// Notices that are kept for one customer, role there, or mailbox; the oldest beyond go.
const KEPT_MAX: i64 = 1_000;
/// Rows that one slice of housekeeping removes.
const PRUNED_ROWS: i64 = 256;

/// Whom a notice is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoticeFor {
    /// The owner of a mailbox.
    Mailbox(MailboxId),
    /// An administrator.
    Administrator(AdministratorId),
    /// The members of a group of administrators.
    Group(i64),
    /// Who holds the role of this name at the customer.
    Role(CustomerId, String),
    /// A customer: its contact and its administrators.
    Customer(CustomerId),
}

/// A notice.
#[derive(Clone, Debug)]
pub struct NoticeRow {
    /// Key.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// When it was given.
    pub at: Timestamp,
    /// What it is about.
    pub kind: String,
    /// Whom it is for.
    pub to: NoticeFor,
    /// One line, with references.
    pub subject: String,
    /// The text, with references.
    pub text: String,
    /// When the reader who lists it has read it.
    pub read_at: Option<Timestamp>,
}

/// The columns of [`NoticeRow`] but the last.
macro_rules! columns {
    () => {
        "n.id, n.public_id, n.at, n.kind, n.mailbox_id, n.administrator_id, n.group_id, n.role, n.customer_id,
         n.subject, n.text"
    };
}

fn from_row(row: &Row) -> Result<NoticeRow> {
    let customer = row.int_opt(8)?.map(CustomerId);
    let to = match (row.int_opt(4)?, row.int_opt(5)?, row.int_opt(6)?, row.text_opt(7)?, customer) {
        (Some(id), ..) => NoticeFor::Mailbox(MailboxId(id)),
        (_, Some(id), ..) => NoticeFor::Administrator(AdministratorId(id)),
        (_, _, Some(id), ..) => NoticeFor::Group(id),
        (_, _, _, Some(role), Some(customer)) => NoticeFor::Role(customer, role),
        (.., customer) => NoticeFor::Customer(customer.unwrap_or(CustomerId(0))),
    };
    Ok(NoticeRow {
        id: row.int(0)?,
        public_id: row.text(1)?,
        at: Timestamp(row.int(2)?),
        kind: row.text(3)?,
        to,
        subject: row.text(9)?,
        text: row.text(10)?,
        read_at: row.int_opt(11)?.map(Timestamp),
    })
}

/// Enters a notice with the administrators (0: the system) who are told of it.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut Conn,
    (to, kind): (&NoticeFor, &str),
    (subject, text): (&str, &str),
    readers: &[i64],
    now: Timestamp,
) -> Result<()> {
    let (mut mailbox, mut administrator, mut group, mut role, mut customer) = (None, None, None, None, None);
    match to {
        NoticeFor::Mailbox(id) => mailbox = Some(*id),
        NoticeFor::Administrator(id) => administrator = Some(*id),
        NoticeFor::Group(id) => group = Some(*id),
        NoticeFor::Role(id, name) => (customer, role) = (Some(*id), Some(name.clone())),
        NoticeFor::Customer(id) => customer = Some(*id),
    }
    let statement =
        "INSERT INTO notice (public_id, at, kind, mailbox_id, administrator_id, group_id, role, customer_id,
                                    subject, text)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let params =
        params![public_id(), now, kind, mailbox, administrator, group, role, customer, subject, text];
    let id = conn.insert(statement, params).await?;
    let rows = readers.iter().map(|reader| params![*reader, id]).collect();
    conn.insert_rows("INSERT INTO notice_reader (administrator_id, notice_id)", 2, rows).await
}

/// What an administrator (0: the system) is told, behind `after`, newest first; with `unread` only what it has not
/// read.
///
/// # Errors
/// When the database fails.
pub async fn of_reader(
    conn: &mut Conn,
    reader: i64,
    unread: bool,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<NoticeRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        ", r.read_at FROM notice_reader r JOIN notice n ON n.id = r.notice_id
         WHERE r.administrator_id = $1 AND r.notice_id < $2 AND ($3 = 0 OR r.read_at IS NULL)
         ORDER BY r.notice_id DESC LIMIT $4"
    );
    let params = params![reader, before.unwrap_or(i64::MAX), unread, limit];
    conn.rows(text, params).await?.iter().map(from_row).collect()
}

/// What these customers, and roles there, were told, newest first.
///
/// # Errors
/// When the database fails.
pub async fn of_customers(
    conn: &mut Conn,
    customers: &Customers,
    reader: i64,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<NoticeRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        ", r.read_at FROM notice n
         LEFT JOIN notice_reader r ON r.notice_id = n.id AND r.administrator_id = $3
         WHERE THESE AND n.customer_id IS NOT NULL AND n.id < $1 ORDER BY n.id DESC LIMIT $2"
    );
    let listed = Listed {
        text: text.to_owned(),
        column: "n.customer_id",
        more: params![reader],
        read: from_row,
        key: |row: &NoticeRow| params![row.id],
        customer: |row| match row.to {
            NoticeFor::Role(customer, _) | NoticeFor::Customer(customer) => customer,
            // Those have no customer.
            _ => CustomerId(0),
        },
    };
    listed.page(conn, customers, params![before.unwrap_or(i64::MAX)], limit).await
}

/// How many notices a reader has not read, at most 1,000.
///
/// # Errors
/// When the database fails.
pub async fn unread(conn: &mut Conn, reader: i64) -> Result<i64> {
    let text = "SELECT count(*) FROM (SELECT 1 FROM notice_reader
                WHERE administrator_id = $1 AND read_at IS NULL LIMIT 1000) AS few";
    conn.row(text, params![reader]).await?.map_or(Ok(0), |row| row.int(0))
}

/// The notice with this public id that the reader is told.
///
/// # Errors
/// When the database fails.
pub async fn by_public_id(conn: &mut Conn, reader: i64, public_id: &str) -> Result<Option<NoticeRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        ", r.read_at FROM notice n JOIN notice_reader r ON r.notice_id = n.id
         WHERE n.public_id = $2 AND r.administrator_id = $1"
    );
    conn.row(text, params![reader, public_id]).await?.as_ref().map(from_row).transpose()
}

/// Notes that a reader has read a notice; the first time stays.
///
/// # Errors
/// When the database fails.
pub async fn set_read(conn: &mut Conn, reader: i64, notice: i64, now: Timestamp) -> Result<()> {
    let text = "UPDATE notice_reader SET read_at = $3
                WHERE administrator_id = $1 AND notice_id = $2 AND read_at IS NULL";
    conn.execute(text, params![reader, notice, now]).await.map(drop)
}

/// Whether there is a notice of which no copies were made yet.
///
/// # Errors
/// When the database fails.
pub async fn any_unspread(conn: &mut Conn) -> Result<bool> {
    Ok(conn.row("SELECT id FROM notice WHERE spread = 0 LIMIT 1", Vec::new()).await?.is_some())
}

/// Takes the oldest notice of which no copies were made yet: who has it, makes them in the same transaction.
///
/// # Errors
/// When the database fails.
pub async fn take_unspread(conn: &mut Conn) -> Result<Option<NoticeRow>> {
    let lock = if conn.is_postgres() { " FOR UPDATE SKIP LOCKED" } else { "" };
    let text = format!("SELECT id FROM notice WHERE spread = 0 ORDER BY id LIMIT 1{lock}");
    let Some(row) = conn.row(text, Vec::new()).await? else { return Ok(None) };
    let id = row.int(0)?;
    conn.execute("UPDATE notice SET spread = 1 WHERE id = $1", params![id]).await?;
    let text = concat!("SELECT ", columns!(), ", CAST(NULL AS BIGINT) FROM notice n WHERE n.id = $1");
    conn.row(text, params![id]).await?.as_ref().map(from_row).transpose()
}

/// Enters copies of a notice into these mailboxes, each in the view of an administrator or of nobody in particular.
///
/// # Errors
/// When the database fails.
pub async fn insert_mail(
    conn: &mut Conn,
    notice: i64,
    copies: &[(MailboxId, Option<AdministratorId>)],
    at: Timestamp,
) -> Result<()> {
    let mut known = HashSet::new();
    let copies = copies.iter().filter(|(mailbox, _)| known.insert(mailbox.0));
    let rows = copies.map(|(mailbox, reader)| params![notice, *mailbox, *reader, at]).collect();
    conn.insert_rows("INSERT INTO notice_mail (notice_id, mailbox_id, administrator_id, next_at)", 4, rows)
        .await
}

/// A copy on its way.
#[derive(Clone, Debug)]
pub struct NoticeMail {
    /// Key.
    pub id: i64,
    /// Where to.
    pub mailbox: MailboxId,
    /// In whose view.
    pub administrator: Option<AdministratorId>,
    /// How often it was tried.
    pub attempts: i64,
    /// What.
    pub notice: NoticeRow,
}

/// Copies whose turn it is at `now`.
///
/// # Errors
/// When the database fails.
pub async fn mail_due(conn: &mut Conn, now: Timestamp, limit: i64) -> Result<Vec<NoticeMail>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        ", CAST(NULL AS BIGINT), m.id, m.mailbox_id, m.administrator_id, m.attempts
         FROM notice_mail m JOIN notice n ON n.id = m.notice_id WHERE m.next_at <= $1
         ORDER BY m.next_at, m.id LIMIT $2"
    );
    let due = |row: &Row| {
        Ok(NoticeMail {
            id: row.int(12)?,
            mailbox: MailboxId(row.int(13)?),
            administrator: row.int_opt(14)?.map(AdministratorId),
            attempts: row.int(15)?,
            notice: from_row(row)?,
        })
    };
    conn.rows(text, params![now, limit]).await?.iter().map(due).collect()
}

/// Tries a copy again at this time.
///
/// # Errors
/// When the database fails.
pub async fn mail_later(conn: &mut Conn, id: i64, at: Timestamp) -> Result<()> {
    let text = "UPDATE notice_mail SET next_at = $2, attempts = attempts + 1 WHERE id = $1";
    conn.execute(text, params![id, at]).await.map(drop)
}

/// Gives a copy up: there is no such mailbox any more.
///
/// # Errors
/// When the database fails.
pub async fn mail_drop(conn: &mut Conn, id: i64) -> Result<()> {
    conn.execute("DELETE FROM notice_mail WHERE id = $1", params![id]).await.map(drop)
}

/// Locks the copies among `wanted` that are still on their way and answers them.
///
/// # Errors
/// When the database fails.
pub(super) async fn lock_mail(conn: &mut Conn, wanted: &[i64]) -> Result<HashSet<i64>> {
    if wanted.is_empty() {
        return Ok(HashSet::new());
    }
    let lock = conn.for_update();
    let text = format!("SELECT id FROM notice_mail WHERE id IN IDS($1) ORDER BY id{lock}");
    conn.rows(text, vec![ids(wanted.iter().copied())]).await?.iter().map(|row| row.int(0)).collect()
}

/// Removes copies that have arrived.
///
/// # Errors
/// When the database fails.
pub(super) async fn arrived(conn: &mut Conn, done: Vec<i64>) -> Result<()> {
    if done.is_empty() {
        return Ok(());
    }
    conn.execute("DELETE FROM notice_mail WHERE id IN IDS($1)", vec![ids(done)]).await.map(drop)
}

/// Removes notices given up to `before` with everything of theirs; at most 256. Answers how many.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    let text = "SELECT id FROM notice WHERE at <= $1 ORDER BY at LIMIT $2";
    let rows = conn.rows(text, params![before, PRUNED_ROWS]).await?;
    remove(conn, rows.iter().map(|row| row.int(0)).collect::<Result<_>>()?).await
}

/// Removes the oldest of whom has more than 1,000: the one whom this notice is for.
///
/// # Errors
/// When the database fails.
pub async fn trim(conn: &mut Conn, to: &NoticeFor) -> Result<()> {
    let (column, key) = match to {
        NoticeFor::Mailbox(id) => ("mailbox_id", id.0),
        NoticeFor::Role(id, _) | NoticeFor::Customer(id) => ("customer_id", id.0),
        NoticeFor::Administrator(_) | NoticeFor::Group(_) => return Ok(()),
    };
    let text = format!("SELECT id FROM notice WHERE {column} = $1 ORDER BY id DESC LIMIT $2 OFFSET $3");
    let rows = conn.rows(text, params![key, PRUNED_ROWS, KEPT_MAX]).await?;
    remove(conn, rows.iter().map(|row| row.int(0)).collect::<Result<_>>()?).await.map(drop)
}

async fn remove(conn: &mut Conn, gone: Vec<i64>) -> Result<u64> {
    if gone.is_empty() {
        return Ok(0);
    }
    for text in [
        "DELETE FROM notice_mail WHERE notice_id IN IDS($1)",
        "DELETE FROM notice_reader WHERE notice_id IN IDS($1)",
        "DELETE FROM notice WHERE id IN IDS($1)",
    ] {
        conn.execute(text, vec![ids(gone.iter().copied())]).await?;
    }
    Ok(gone.len() as u64)
}
