//! Expiry dates of customers, administrators and mailboxes.

use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// Dates that one look takes.
const DUE_MAX: i64 = 64;

/// What ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiring {
    /// A customer.
    Customer(CustomerId),
    /// An administrator.
    Administrator(AdministratorId),
    /// A mailbox.
    Mailbox(MailboxId),
}

impl Expiring {
    fn column(self) -> (&'static str, i64) {
        match self {
            Self::Customer(id) => ("customer_id", id.0),
            Self::Administrator(id) => ("administrator_id", id.0),
            Self::Mailbox(id) => ("mailbox_id", id.0),
        }
    }
}

/// A date with what it has led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExpiryRow {
    /// What ends.
    pub on: Expiring,
    /// When.
    pub expires_at: Timestamp,
    /// JSON of the steps.
    pub steps: String,
    /// Who set the date.
    pub actor: String,
    /// The customer whose authority set it.
    pub authority: CustomerId,
    /// Whether those concerned were warned.
    pub warned: bool,
    /// How many steps were taken.
    pub done: usize,
    /// JSON of what takes them back.
    pub undo: String,
    /// When there is something to do next.
    pub next_at: Option<Timestamp>,
    /// When the last step that was taken was due.
    pub last_due: Option<Timestamp>,
}

/// The columns of [`ExpiryRow`].
macro_rules! columns {
    () => {
        "SELECT customer_id, administrator_id, mailbox_id, expires_at, steps, actor, authority_customer_id, warned,
                done,
                undo, next_at, last_due FROM expiry "
    };
}

fn from_row(row: &Row) -> Result<ExpiryRow> {
    let on = match (row.int_opt(0)?, row.int_opt(1)?, row.int_opt(2)?) {
        (Some(id), ..) => Expiring::Customer(CustomerId(id)),
        (None, Some(id), _) => Expiring::Administrator(AdministratorId(id)),
        (None, None, Some(id)) => Expiring::Mailbox(MailboxId(id)),
        (None, None, None) => return Err(StorageError::Corrupt("an expiry date of nothing".to_owned())),
    };
    Ok(ExpiryRow {
        on,
        expires_at: Timestamp(row.int(3)?),
        steps: row.text(4)?,
        actor: row.text(5)?,
        authority: CustomerId(row.int(6)?),
        warned: row.int(7)? != 0,
        done: row.number(8)?,
        undo: row.text(9)?,
        next_at: row.int_opt(10)?.map(Timestamp),
        last_due: row.int_opt(11)?.map(Timestamp),
    })
}

/// The date of one object.
///
/// # Errors
/// When the database fails.
pub async fn of(conn: &mut Conn, on: Expiring) -> Result<Option<ExpiryRow>> {
    let (column, id) = on.column();
    let text = format!(concat!(columns!(), "WHERE {} = $1"), column);
    conn.row(text, params![id]).await?.as_ref().map(from_row).transpose()
}

/// Dates that have something to do at `now`, and those of which steps were taken that are due only after `later`: the
/// clock was wrong then. At most 64.
///
/// # Errors
/// When the database fails.
pub async fn due(conn: &mut Conn, now: Timestamp, later: Timestamp) -> Result<Vec<ExpiryRow>> {
    let text = concat!(columns!(), "WHERE next_at <= $1 OR last_due > $2 ORDER BY id LIMIT $3");
    conn.rows(text, params![now, later, DUE_MAX]).await?.iter().map(from_row).collect()
}

/// Sets or changes a date.
///
/// # Errors
/// When the database fails.
pub async fn put(conn: &mut Conn, row: &ExpiryRow) -> Result<()> {
    remove(conn, row.on).await?;
    let (column, id) = row.on.column();
    let text = format!(
        "INSERT INTO expiry ({column}, expires_at, steps, actor, authority_customer_id, warned, done, undo, next_at,
                             last_due)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    );
    let done = i64::try_from(row.done).unwrap_or(i64::MAX);
    let params = params![
        id,
        row.expires_at,
        &row.steps,
        &row.actor,
        row.authority,
        row.warned,
        done,
        &row.undo,
        row.next_at,
        row.last_due
    ];
    conn.execute(text, params).await.map(drop)
}

/// Takes a date away.
///
/// # Errors
/// When the database fails.
pub async fn remove(conn: &mut Conn, on: Expiring) -> Result<()> {
    let (column, id) = on.column();
    conn.execute(format!("DELETE FROM expiry WHERE {column} = $1"), params![id]).await.map(drop)
}
