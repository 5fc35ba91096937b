//! Copies of an SQLite database, taken while it is in use.

use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::erasure::{self, Erased};
use super::restore::{self, Counts};
use super::sql::{Conn, Handle};
use super::tally::Tally;
use crate::base::id::StoreId;
use crate::params;
use crate::storage::pack::PackName;
use crate::storage::{Result, StorageError};

/// Writes a copy of the database file `source` to `target`, as of one moment. Deliveries go on meanwhile; the log
/// grows until the copy is complete.
///
/// # Errors
/// When `target` exists, or cannot be written; then it may be there in part.
pub(super) async fn copy(source: &str, target: &str) -> Result<()> {
    let mut connection = SqliteConnectOptions::from_str(&format!("sqlite:{source}"))?
        .busy_timeout(Duration::from_secs(10))
        .statement_cache_capacity(2)
        .disable_statement_logging()
        .connect()
        .await?;
    let copied = sqlx::query("VACUUM INTO $1").bind(target).execute(&mut connection).await;
    let _ = connection.close().await;
    copied.map(drop).map_err(StorageError::from)
}

/// Makes a database whose connections were all closed one file, without a log beside it.
///
/// # Errors
/// When it is still in use after ten seconds.
pub async fn settle(path: &Path) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(10));
    let mut connection = options.disable_statement_logging().connect().await?;
    for text in ["PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode = DELETE"] {
        sqlx::query(text).fetch_all(&mut connection).await?;
    }
    connection.close().await?;
    Ok(())
}

/// A copy, opened to be read only.
pub struct Snapshot(Conn);

/// A pack that a copy names.
#[derive(Clone, Debug)]
pub struct NamedPack {
    /// Position in the list.
    pub key: i64,
    /// Its name.
    pub name: PackName,
    /// Name of its mail store.
    pub store: String,
    /// Folder of its mail store, as configured.
    pub store_path: String,
    /// Key of its mail store.
    pub store_id: StoreId,
    /// Length of the file in octets.
    pub octets: u64,
}

impl Snapshot {
    /// Opens the copy at `path`.
    ///
    /// # Errors
    /// When it is not a database.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
        Ok(Self(Conn::new(Handle::Sqlite(options.connect().await?), Tally::default())))
    }

    /// Octets of all packs that hold bodies.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn pack_octets(&mut self) -> Result<u64> {
        let text = "SELECT CAST(coalesce(sum(octets), 0) AS BIGINT) FROM pack WHERE dropped_at IS NULL";
        self.0.row(text, params![]).await?.ok_or(StorageError::Gone("the copy"))?.number(0)
    }

    /// The packs that hold bodies, behind `after`; at most 256.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn packs(&mut self, after: i64) -> Result<Vec<NamedPack>> {
        let text = "SELECT p.id, p.public_id, s.name, s.path, p.octets, s.id
                    FROM pack p JOIN store s ON s.id = p.store_id
                    WHERE p.id > $1 AND p.dropped_at IS NULL ORDER BY p.id LIMIT 256";
        let pack = |row: &super::sql::Row| {
            let name = row.text(1)?;
            Ok(NamedPack {
                key: row.int(0)?,
                name: PackName::parse(&name)
                    .ok_or_else(|| StorageError::Corrupt(format!("{name} is no name of a pack")))?,
                store: row.text(2)?,
                store_path: row.text(3)?,
                octets: row.number(4)?,
                store_id: StoreId(row.int(5)?),
            })
        };
        self.0.rows(text, params![after]).await?.iter().map(pack).collect()
    }

    /// What it holds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn count(&mut self) -> Result<Counts> {
        restore::count(&mut self.0).await
    }

    /// What was purged for good before it was taken.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn erased(&mut self) -> Result<Vec<Erased>> {
        let mut all: Vec<Erased> = Vec::new();
        loop {
            let page = erasure::page(&mut self.0, all.last()).await?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }
}
