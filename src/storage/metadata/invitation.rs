//! One-time codes: for new administrators, and for owners of mailboxes to set their password. Only the BLAKE3
//! hash of a code is kept. Whatever ends a code removes its row: so nothing that is undone later brings one
//! back.

use super::scope::{Customers, Listed};
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, DomainId, MailboxId, RoleId, TokenId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// A role that an administrator will get.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvitedRole {
    /// Its name when the invitation was made.
    pub name: String,
    /// Its key, if it is none of the built-in ones.
    pub id: Option<RoleId>,
}

/// A code without its secret.
#[derive(Clone, Debug)]
pub struct InvitationRow {
    /// Key.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// The customer to which it invites, or to which the mailbox belongs.
    pub customer: CustomerId,
    /// The domain of the address.
    pub domain: DomainId,
    /// The mailbox whose password it sets; nothing for a new administrator.
    pub mailbox: Option<MailboxId>,
    /// Who is invited.
    pub address: String,
    /// What the administrator will be called.
    pub name: String,
    /// What it will be there.
    pub roles: Vec<InvitedRole>,
    /// Whether it may pass them on.
    pub delegable: bool,
    /// When they end.
    pub role_expires_at: Option<Timestamp>,
    /// Who made it; nothing for the system.
    pub inviter: Option<AdministratorId>,
    /// The token that it was made with, if it was.
    pub token: Option<TokenId>,
    /// The name of who made it.
    pub made_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// The columns of [`InvitationRow`].
macro_rules! columns {
    () => {
        "SELECT i.id, i.public_id, i.customer_id, i.domain_id, i.mailbox_id, i.address, i.name, i.roles,
                i.delegable, i.role_expires_at, i.inviter_id, i.token_id, i.made_by, i.created_at, i.expires_at
         FROM invitation i "
    };
}

fn from_row(row: &Row) -> Result<InvitationRow> {
    Ok(InvitationRow {
        id: row.int(0)?,
        public_id: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        domain: DomainId(row.int(3)?),
        mailbox: row.int_opt(4)?.map(MailboxId),
        address: row.text(5)?,
        name: row.text(6)?,
        roles: row.text(7)?.split_ascii_whitespace().map(role_from_text).collect::<Result<_>>()?,
        delegable: row.int(8)? != 0,
        role_expires_at: row.int_opt(9)?.map(Timestamp),
        inviter: row.int_opt(10)?.map(AdministratorId),
        token: row.int_opt(11)?.map(TokenId),
        made_by: row.text(12)?,
        created_at: Timestamp(row.int(13)?),
        expires_at: Timestamp(row.int(14)?),
    })
}

/// `viewer`, or `support:17` for a role with a key.
fn role_from_text(text: &str) -> Result<InvitedRole> {
    let Some((name, key)) = text.split_once(':') else {
        return Ok(InvitedRole { name: text.to_owned(), id: None });
    };
    let key = key.parse().map_err(|_| StorageError::Corrupt(format!("a role of an invitation: {text}")))?;
    Ok(InvitedRole { name: name.to_owned(), id: Some(RoleId(key)) })
}

fn role_to_text(role: &InvitedRole) -> String {
    role.id.map_or_else(|| role.name.clone(), |id| format!("{}:{id}", role.name))
}

/// Keeps a code; of `row` everything counts but the ids. Answers its public id. Codes that have ended by now are
/// removed, and the one of before of the same mailbox.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, row: &InvitationRow, secret_hash: &[u8]) -> Result<String> {
    let text = "DELETE FROM invitation WHERE expires_at <= $1 OR mailbox_id = $2";
    conn.execute(text, params![row.created_at, row.mailbox]).await?;
    let public_id = public_id();
    let roles: Vec<String> = row.roles.iter().map(role_to_text).collect();
    let text =
        "INSERT INTO invitation (public_id, secret_hash, customer_id, domain_id, mailbox_id, address, name,
                    roles, delegable, role_expires_at, inviter_id, token_id, made_by, created_at, expires_at)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
    let params = params![
        &public_id,
        secret_hash,
        row.customer,
        row.domain,
        row.mailbox,
        &row.address,
        &row.name,
        roles.join(" "),
        row.delegable,
        row.role_expires_at,
        row.inviter,
        row.token,
        &row.made_by,
        row.created_at,
        row.expires_at
    ];
    conn.execute(text, params).await?;
    Ok(public_id)
}

/// What the code with this hash is for, if it has not ended.
///
/// # Errors
/// When the database fails.
pub async fn by_secret(conn: &mut Conn, secret_hash: &[u8], now: Timestamp) -> Result<Option<InvitationRow>> {
    let text = concat!(columns!(), "WHERE i.secret_hash = $1 AND i.expires_at > $2");
    conn.row(text, params![secret_hash, now]).await?.as_ref().map(from_row).transpose()
}

/// The code with this public id, if it has not ended.
///
/// # Errors
/// When the database fails.
pub async fn by_public_id(conn: &mut Conn, public_id: &str, now: Timestamp) -> Result<Option<InvitationRow>> {
    let text = concat!(columns!(), "WHERE i.public_id = $1 AND i.expires_at > $2");
    conn.row(text, params![public_id, now]).await?.as_ref().map(from_row).transpose()
}

/// The code that sets the password of this mailbox, if there is one that has not ended.
///
/// # Errors
/// When the database fails.
pub async fn of_mailbox(
    conn: &mut Conn,
    mailbox: MailboxId,
    now: Timestamp,
) -> Result<Option<InvitationRow>> {
    let text = concat!(columns!(), "WHERE i.mailbox_id = $1 AND i.expires_at > $2");
    conn.row(text, params![mailbox, now]).await?.as_ref().map(from_row).transpose()
}

/// Invitations of administrators to these customers that have not ended, behind the key `after`, by key.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    customers: &Customers,
    now: Timestamp,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<InvitationRow>> {
    let text = concat!(
        columns!(),
        "WHERE THESE AND i.mailbox_id IS NULL AND i.expires_at > $3 AND i.id > $1 ORDER BY i.id LIMIT $2"
    );
    let listed = Listed {
        text: text.to_owned(),
        column: "i.customer_id",
        more: params![now],
        read: from_row,
        key: |row: &InvitationRow| params![row.id],
        customer: |row| row.customer,
    };
    listed.page(conn, customers, params![after.unwrap_or(0)], limit).await
}

/// How many invitations of administrators to this customer have not ended.
///
/// # Errors
/// When the database fails.
pub async fn count(conn: &mut Conn, customer: CustomerId, now: Timestamp) -> Result<i64> {
    let text =
        "SELECT count(*) FROM invitation WHERE customer_id = $1 AND mailbox_id IS NULL AND expires_at > $2";
    conn.row(text, params![customer, now]).await?.map_or(Ok(0), |row| row.int(0))
}

/// Ends a code.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: i64) -> Result<()> {
    let changed = conn.execute("DELETE FROM invitation WHERE id = $1", params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("invitation")) } else { Ok(()) }
}

/// Ends the code that sets the password of this mailbox; whether there was one.
///
/// # Errors
/// When the database fails.
pub async fn delete_of_mailbox(conn: &mut Conn, mailbox: MailboxId) -> Result<bool> {
    Ok(conn.execute("DELETE FROM invitation WHERE mailbox_id = $1", params![mailbox]).await? > 0)
}

/// Ends all codes for addresses in these domains.
///
/// # Errors
/// When the database fails.
pub async fn delete_in_domains(conn: &mut Conn, domains: impl IntoIterator<Item = DomainId>) -> Result<()> {
    let keys = ids(domains.into_iter().map(|domain| domain.0));
    conn.execute("DELETE FROM invitation WHERE domain_id IN IDS($1)", vec![keys]).await.map(|_| ())
}

/// Ends all codes that this administrator has made.
///
/// # Errors
/// When the database fails.
pub async fn delete_by(conn: &mut Conn, inviter: AdministratorId) -> Result<()> {
    conn.execute("DELETE FROM invitation WHERE inviter_id = $1", params![inviter]).await.map(|_| ())
}

/// Ends all codes for these customers and their mailboxes, and answers how many there were.
///
/// # Errors
/// When the database fails.
pub async fn delete_at(conn: &mut Conn, customers: &[i64]) -> Result<u64> {
    let keys = ids(customers.iter().copied());
    conn.execute("DELETE FROM invitation WHERE customer_id IN IDS($1)", vec![keys]).await
}

/// Ends all codes that administrators who are at home at these customers have made.
///
/// # Errors
/// When the database fails.
pub async fn delete_by_those_of(conn: &mut Conn, customers: &[i64]) -> Result<()> {
    let text = "DELETE FROM invitation WHERE inviter_id IN
                    (SELECT id FROM administrator WHERE customer_id IN IDS($1))";
    conn.execute(text, vec![ids(customers.iter().copied())]).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_come_back_as_they_were() {
        for role in [
            InvitedRole { name: "viewer".to_owned(), id: None },
            InvitedRole { name: "help.desk-2".to_owned(), id: Some(RoleId(17)) },
        ] {
            assert_eq!(role_from_text(&role_to_text(&role)).unwrap(), role);
        }
        assert!(role_from_text("viewer:x").is_err());
    }
}
