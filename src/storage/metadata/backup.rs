//! Backups in the database: what is known of those that were taken, what is being written, and who is at it.
//!
//! # Consistency
//! The target's own index is the truth about its backups; these rows repeat it, so that looking costs no request. A
//! lease counts only while its job is open, so none outlives a crash by more than the job does.

use super::sql::{Conn, Value};
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::Result;

/// A backup as the index of its target tells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupRow {
    /// Where it is.
    pub target: String,
    /// Its id.
    pub public_id: String,
    /// As of when.
    pub at: Timestamp,
    /// JSON of its entry in the index.
    pub entry: String,
}

const COLUMNS: &str = "target, public_id, at, entry";
/// Most rows of one list.
const ROWS_MAX: i64 = 10_000;

fn backup(row: &super::sql::Row) -> Result<BackupRow> {
    Ok(BackupRow {
        target: row.text(0)?,
        public_id: row.text(1)?,
        at: Timestamp(row.int(2)?),
        entry: row.text(3)?,
    })
}

/// Backups, newest first; of one target if it is given.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn, target: Option<&str>) -> Result<Vec<BackupRow>> {
    let text = format!(
        "SELECT {COLUMNS} FROM backup WHERE $1 = '' OR target = $1 ORDER BY at DESC, public_id DESC LIMIT $2"
    );
    conn.rows(text, params![target.unwrap_or_default(), ROWS_MAX]).await?.iter().map(backup).collect()
}

/// Writes down what the index of a target says, in place of what it said before.
///
/// # Errors
/// When the database fails.
pub async fn replace(conn: &mut Conn, target: &str, rows: &[BackupRow]) -> Result<()> {
    conn.execute("DELETE FROM backup WHERE target = $1", params![target]).await?;
    let row = |row: &BackupRow| params![target, &row.public_id, row.at, &row.entry];
    let head = "INSERT INTO backup (target, public_id, at, entry)";
    conn.insert_rows(head, 4, rows.iter().map(row).collect()).await
}

/// An object at a target that no backup names yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StagedObject {
    /// Its key.
    pub key: String,
    /// Its length.
    pub octets: i64,
    /// BLAKE3 of its content; nothing while it is being written.
    pub hash: Option<[u8; 32]>,
}

/// Says that objects are about to be written.
///
/// # Errors
/// When the database fails.
pub async fn intend(conn: &mut Conn, target: &str, objects: &[(String, i64)]) -> Result<()> {
    for (key, octets) in objects {
        let text = "INSERT INTO backup_object (target, key, octets) VALUES ($1, $2, $3)
                    ON CONFLICT (target, key) DO UPDATE SET octets = excluded.octets, hash = NULL";
        conn.execute(text, params![target, key, *octets]).await?;
    }
    Ok(())
}

/// Says that an intended object is there.
///
/// # Errors
/// When the database fails.
pub async fn stored(conn: &mut Conn, target: &str, objects: &[StagedObject]) -> Result<()> {
    for object in objects {
        let hash = Value::Blob(object.hash.map(Vec::from));
        let text = "UPDATE backup_object SET octets = $3, hash = $4 WHERE target = $1 AND key = $2";
        let mut params = params![target, &object.key, object.octets];
        params.push(hash);
        conn.execute(text, params).await?;
    }
    Ok(())
}

/// Objects of a target that no backup names, behind the key `after`; at most 1,000.
///
/// # Errors
/// When the database fails.
pub async fn staged(conn: &mut Conn, target: &str, after: &str) -> Result<Vec<StagedObject>> {
    let text =
        "SELECT key, octets, hash FROM backup_object WHERE target = $1 AND key > $2 ORDER BY key LIMIT 1000";
    let object = |row: &super::sql::Row| {
        let hash = row.blob_opt(2)?.and_then(|hash| <[u8; 32]>::try_from(hash).ok());
        Ok(StagedObject { key: row.text(0)?, octets: row.int(1)?, hash })
    };
    conn.rows(text, params![target, after]).await?.iter().map(object).collect()
}

/// Forgets objects that a backup names, or that are gone.
///
/// # Errors
/// When the database fails.
pub async fn forget(conn: &mut Conn, target: &str, keys: &[String]) -> Result<()> {
    for key in keys {
        let text = "DELETE FROM backup_object WHERE target = $1 AND key = $2";
        conn.execute(text, params![target, key]).await?;
    }
    Ok(())
}

/// The snapshot of the lease that allows to write to a target.
pub const WRITING: &str = "";
/// Who holds the lease that only one may hold.
const ONE: &str = "one";

/// Takes the lease to write to a target for a job; false while another job that is open holds it.
///
/// # Errors
/// When the database fails.
pub async fn lease_write(conn: &mut Conn, target: &str, job: i64) -> Result<bool> {
    let text = "INSERT INTO backup_lease (target, snapshot, holder, job_id) VALUES ($1, $2, $3, $4)
                ON CONFLICT (target, snapshot, holder) DO UPDATE SET job_id = excluded.job_id
                WHERE backup_lease.job_id = excluded.job_id
                   OR NOT EXISTS (SELECT 1 FROM job j WHERE j.id = backup_lease.job_id
                                  AND j.state IN ('waiting', 'running'))";
    Ok(conn.execute(text, params![target, WRITING, ONE, job]).await? > 0)
}

/// Notes that a job reads a backup: it is not removed meanwhile.
///
/// # Errors
/// When the database fails.
pub async fn lease_read(conn: &mut Conn, target: &str, snapshot: &str, job: i64) -> Result<()> {
    let text = "INSERT INTO backup_lease (target, snapshot, holder, job_id) VALUES ($1, $2, $3, $4)
                ON CONFLICT (target, snapshot, holder) DO NOTHING";
    conn.execute(text, params![target, snapshot, job.to_string(), job]).await.map(drop)
}

/// Gives the leases of a job back, and forgets those of jobs that have ended.
///
/// # Errors
/// When the database fails.
pub async fn lease_end(conn: &mut Conn, job: i64) -> Result<()> {
    let text = "DELETE FROM backup_lease WHERE job_id = $1
                   OR NOT EXISTS (SELECT 1 FROM job j WHERE j.id = backup_lease.job_id
                                  AND j.state IN ('waiting', 'running'))";
    conn.execute(text, params![job]).await.map(drop)
}

/// Which of a target's backups are being read by jobs other than `job`.
///
/// # Errors
/// When the database fails.
pub async fn being_read(conn: &mut Conn, target: &str, job: i64) -> Result<Vec<String>> {
    let text = "SELECT DISTINCT l.snapshot FROM backup_lease l JOIN job j ON j.id = l.job_id
                WHERE l.target = $1 AND l.snapshot <> $2 AND l.job_id <> $3 AND j.state IN ('waiting', 'running')
                LIMIT 10000";
    conn.rows(text, params![target, WRITING, job]).await?.iter().map(|row| row.text(0)).collect()
}

/// The last turn that was taken.
///
/// # Errors
/// When the database fails.
pub async fn last_turn(conn: &mut Conn, name: &'static str) -> Result<Option<i64>> {
    let row = conn.row("SELECT value FROM instance WHERE key = $1", params![name]).await?;
    Ok(row.map(|row| row.text(0)).transpose()?.and_then(|turn| turn.parse().ok()))
}

/// Takes a turn of something that is done once by one of all nodes; false when it was taken already.
///
/// # Errors
/// When the database fails.
pub async fn take_turn(conn: &mut Conn, name: &'static str, turn: i64) -> Result<bool> {
    let text = "INSERT INTO instance (key, value) VALUES ($1, $2)
                ON CONFLICT (key) DO UPDATE SET value = excluded.value
                WHERE CAST(instance.value AS BIGINT) < CAST(excluded.value AS BIGINT)";
    Ok(conn.execute(text, params![name, turn.to_string()]).await? > 0)
}
