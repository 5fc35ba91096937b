//! Second factors of administrators: the secret that their authenticator shares, and the hashes of their recovery
//! codes.

use super::changes::Touched;
use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::base::id::AdministratorId;
use crate::params;
use crate::storage::{Result, StorageError};

/// What an authenticator shares with the server.
#[derive(Clone)]
pub struct SecondFactorRow {
    /// The secret.
    pub secret: Vec<u8>,
    /// When a code has shown that the authenticator has it; nothing as long as it counts for nothing.
    pub confirmed_at: Option<Timestamp>,
    /// The step whose code was taken last (see [`crate::base::totp::step`]).
    pub last_step: Option<i64>,
}

fn from_row(row: &Row) -> Result<SecondFactorRow> {
    Ok(SecondFactorRow {
        secret: row.blob(0)?,
        confirmed_at: row.int_opt(1)?.map(Timestamp),
        last_step: row.int_opt(2)?,
    })
}

/// That of an administrator, confirmed or not.
///
/// # Errors
/// When the database fails.
pub async fn of(conn: &mut Conn, administrator: AdministratorId) -> Result<Option<SecondFactorRow>> {
    let text = "SELECT secret, confirmed_at, last_step FROM second_factor WHERE administrator_id = $1";
    conn.row(text, params![administrator]).await?.as_ref().map(from_row).transpose()
}

/// Keeps a secret that is not confirmed yet in place of another such; false when there is a confirmed one, which stays.
///
/// # Errors
/// When the database fails.
pub async fn begin(
    conn: &mut Conn,
    administrator: AdministratorId,
    secret: &[u8],
    now: Timestamp,
) -> Result<bool> {
    let text = "INSERT INTO second_factor (administrator_id, secret, created_at) VALUES ($1, $2, $3)
                ON CONFLICT (administrator_id) DO UPDATE
                SET secret = excluded.secret, created_at = excluded.created_at, last_step = NULL
                WHERE second_factor.confirmed_at IS NULL";
    Ok(conn.execute(text, params![administrator, secret, now]).await? == 1)
}

/// From now on it counts.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn confirm(conn: &mut Conn, administrator: AdministratorId, now: Timestamp) -> Result<()> {
    conn.touch(Touched::Directory);
    let text = "UPDATE second_factor SET confirmed_at = $2 WHERE administrator_id = $1";
    let changed = conn.execute(text, params![administrator, now]).await?;
    if changed == 0 { Err(StorageError::Gone("second factor")) } else { Ok(()) }
}

/// Notes that the code of a step was taken; false when it was, or one after it: of two who bring one code, one gets in.
///
/// # Errors
/// When the database fails.
pub async fn use_step(conn: &mut Conn, administrator: AdministratorId, step: i64) -> Result<bool> {
    let text = "UPDATE second_factor SET last_step = $2
                WHERE administrator_id = $1 AND (last_step IS NULL OR last_step < $2)";
    Ok(conn.execute(text, params![administrator, step]).await? == 1)
}

/// Removes it with the recovery codes; false when there is none.
///
/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut Conn, administrator: AdministratorId) -> Result<bool> {
    conn.touch(Touched::Directory);
    set_recovery_codes(conn, administrator, &[]).await?;
    let text = "DELETE FROM second_factor WHERE administrator_id = $1";
    Ok(conn.execute(text, params![administrator]).await? == 1)
}

/// Keeps these hashes of recovery codes, and no others.
///
/// # Errors
/// When the database fails.
pub async fn set_recovery_codes(
    conn: &mut Conn,
    administrator: AdministratorId,
    hashes: &[[u8; 32]],
) -> Result<()> {
    conn.execute("DELETE FROM recovery_code WHERE administrator_id = $1", params![administrator]).await?;
    let text = "INSERT INTO recovery_code (administrator_id, secret_hash) VALUES ($1, $2)";
    for hash in hashes {
        conn.execute(text, params![administrator, hash.as_slice()]).await?;
    }
    Ok(())
}

/// Takes the recovery code with this hash; false when there is none: of two who bring one code, one gets in.
///
/// # Errors
/// When the database fails.
pub async fn use_recovery_code(conn: &mut Conn, administrator: AdministratorId, hash: &[u8]) -> Result<bool> {
    let text = "DELETE FROM recovery_code WHERE administrator_id = $1 AND secret_hash = $2";
    Ok(conn.execute(text, params![administrator, hash]).await? == 1)
}

/// How many recovery codes are left.
///
/// # Errors
/// When the database fails.
pub async fn recovery_codes_left(conn: &mut Conn, administrator: AdministratorId) -> Result<i64> {
    let text = "SELECT count(*) FROM recovery_code WHERE administrator_id = $1";
    let row = conn.row(text, params![administrator]).await?;
    row.ok_or(StorageError::Gone("a count"))?.int(0)
}
