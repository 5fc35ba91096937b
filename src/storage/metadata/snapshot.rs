//! Copies of an SQLite database, taken while it is in use.

use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use super::sql::{Conn, Handle};
use super::tally::Tally;
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
    /// Length of the file in octets.
    pub octets: i64,
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
        let text = "SELECT p.id, p.public_id, s.name, s.path, p.octets
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
                octets: row.int(4)?,
            })
        };
        self.0.rows(text, params![after]).await?.iter().map(pack).collect()
    }
}
