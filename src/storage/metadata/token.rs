//! Bearer tokens of administrators; only the BLAKE3 hash of the secret is kept.

use super::changes::Touched;
use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, TokenId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// A token without its secret.
#[derive(Clone, Debug)]
pub struct TokenRow {
    /// Key.
    pub id: TokenId,
    /// Random public id.
    pub public_id: String,
    /// Whose it is.
    pub administrator: AdministratorId,
    /// What its owner calls it.
    pub label: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was last used.
    pub last_used_at: Option<Timestamp>,
    /// Names of the permissions that it is confined to, separated by commas; nothing for all that its owner has.
    pub permissions: Option<String>,
    /// Networks from which it may be used, separated by commas; nothing for anywhere.
    pub networks: Option<String>,
}

/// The columns of [`TokenRow`].
macro_rules! columns {
    () => {
        "SELECT t.id, t.public_id, t.administrator_id, t.label, t.created_at, t.expires_at, t.last_used_at,
                t.permissions, t.networks
         FROM token t "
    };
}

fn from_row(row: &Row) -> Result<TokenRow> {
    Ok(TokenRow {
        id: TokenId(row.int(0)?),
        public_id: row.text(1)?,
        administrator: AdministratorId(row.int(2)?),
        label: row.text(3)?,
        created_at: Timestamp(row.int(4)?),
        expires_at: Timestamp(row.int(5)?),
        last_used_at: row.int_opt(6)?.map(Timestamp),
        permissions: row.text_opt(7)?,
        networks: row.text_opt(8)?,
    })
}

/// Whose token it is.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The token.
    pub token: TokenId,
    /// Its owner.
    pub administrator: AdministratorId,
    /// The owner's home.
    pub home: CustomerId,
    /// The owner's name.
    pub name: String,
    /// When the token was last used.
    pub last_used_at: Option<Timestamp>,
    /// When the token ends.
    pub expires_at: Timestamp,
    /// As in [`TokenRow`].
    pub permissions: Option<String>,
    /// As in [`TokenRow`].
    pub networks: Option<String>,
}

/// The enabled owner of the token with this hash that has not expired.
///
/// # Errors
/// When the database fails.
pub async fn holder(conn: &mut Conn, secret_hash: &[u8], now: Timestamp) -> Result<Option<Holder>> {
    let text =
        "SELECT t.id, a.id, a.customer_id, a.name, t.last_used_at, t.expires_at, t.permissions, t.networks
                FROM token t JOIN administrator a ON a.id = t.administrator_id
                     JOIN customer c ON c.id = a.customer_id
                WHERE t.secret_hash = $1 AND t.expires_at > $2 AND a.enabled = 1 AND a.deleted_at IS NULL
                  AND c.deleted_at IS NULL";
    let Some(row) = conn.row(text, params![secret_hash, now]).await? else { return Ok(None) };
    Ok(Some(Holder {
        token: TokenId(row.int(0)?),
        administrator: AdministratorId(row.int(1)?),
        home: CustomerId(row.int(2)?),
        name: row.text(3)?,
        last_used_at: row.int_opt(4)?.map(Timestamp),
        expires_at: Timestamp(row.int(5)?),
        permissions: row.text_opt(6)?,
        networks: row.text_opt(7)?,
    }))
}

/// Whether a token is there and has not expired.
///
/// # Errors
/// When the database fails.
pub async fn is_valid(conn: &mut Conn, id: TokenId, now: Timestamp) -> Result<bool> {
    Ok(valid(conn, id, now).await?.is_some())
}

/// The token with this key, if it has not expired.
///
/// # Errors
/// When the database fails.
pub async fn valid(conn: &mut Conn, id: TokenId, now: Timestamp) -> Result<Option<TokenRow>> {
    let text = concat!(columns!(), "WHERE t.id = $1 AND t.expires_at > $2");
    conn.row(text, params![id, now]).await?.as_ref().map(from_row).transpose()
}

/// Notes that a token was used.
///
/// # Errors
/// When the database fails.
pub async fn used(conn: &mut Conn, id: TokenId, now: Timestamp) -> Result<()> {
    conn.execute("UPDATE token SET last_used_at = $2 WHERE id = $1", params![id, now]).await.map(|_| ())
}

/// A token to make.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Whose.
    pub administrator: AdministratorId,
    /// BLAKE3 of the secret.
    pub secret_hash: [u8; 32],
    /// What its owner calls it.
    pub label: String,
    /// When it ends.
    pub expires_at: Timestamp,
    /// As in [`TokenRow`].
    pub permissions: Option<String>,
    /// As in [`TokenRow`].
    pub networks: Option<String>,
}

/// Makes a token and answers its public id.
///
/// # Errors
/// When the database fails.
pub async fn insert(conn: &mut Conn, new: &NewToken, now: Timestamp) -> Result<String> {
    let public_id = public_id();
    let text = "INSERT INTO token (public_id, administrator_id, secret_hash, label, created_at, expires_at,
                                   permissions, networks)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let params = params![
        &public_id,
        new.administrator,
        new.secret_hash.as_slice(),
        &new.label,
        now,
        new.expires_at,
        new.permissions.as_deref(),
        new.networks.as_deref()
    ];
    conn.execute(text, params).await?;
    Ok(public_id)
}

/// The tokens of an administrator, oldest first.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn, administrator: AdministratorId) -> Result<Vec<TokenRow>> {
    let text = concat!(columns!(), "WHERE t.administrator_id = $1 ORDER BY t.id LIMIT 1000");
    conn.rows(text, params![administrator]).await?.iter().map(from_row).collect()
}

/// The token with this public id.
///
/// # Errors
/// When the database fails.
pub async fn by_public_id(conn: &mut Conn, public_id: &str) -> Result<Option<TokenRow>> {
    let text = concat!(columns!(), "WHERE t.public_id = $1");
    conn.row(text, params![public_id]).await?.as_ref().map(from_row).transpose()
}

/// Revokes a token.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: TokenId) -> Result<()> {
    // Sessions that were opened with it end.
    conn.touch(Touched::Directory);
    let changed = conn.execute("DELETE FROM token WHERE id = $1", params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("token")) } else { Ok(()) }
}

/// Revokes all tokens of an administrator.
///
/// # Errors
/// When the database fails.
pub async fn delete_all(conn: &mut Conn, administrator: AdministratorId) -> Result<()> {
    conn.touch(Touched::Directory);
    conn.execute("DELETE FROM token WHERE administrator_id = $1", params![administrator]).await.map(|_| ())
}
