//! The one form in which a database is backed up, whichever it is: an SQLite file with the tables of
//! `migrations/sqlite`.
//!
//! # Consistency
//! PostgreSQL is read in one REPEATABLE READ transaction, table after table, in pages by primary key, so memory is
//! bounded whatever the size; it holds that snapshot until the end, and loading goes into one transaction too. Both
//! sides have the same tables with the same columns (`tests/tidy.rs` compares the migrations); numbers that were given
//! once are carried over apart from the rows, so that none is given again.

use std::path::Path;

use sqlx::ConnectOptions as _;
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use super::schema::{Dialect, migrator};
use super::sql::{Conn, Handle, Row, Value, values_placeholders};
use super::tally::Tally;
use crate::params;
use crate::storage::{Result, StorageError};

/// Rows of a page, of tables whose rows are small, and of those with bodies of up to a megabyte.
const PAGE_ROWS: [i64; 2] = [512, 32];
/// Rows of one INSERT.
const INSERT_ROWS: usize = 64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Int,
    Text,
    Blob,
}

/// A table as SQLite has it.
#[derive(Debug)]
struct Table {
    name: String,
    columns: Vec<(String, Kind)>,
    /// Places of the primary key's columns.
    key: Vec<usize>,
    /// Whether its ids are never given twice.
    is_counted: bool,
}

impl Table {
    fn names(&self) -> String {
        let names: Vec<String> = self.columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        names.join(", ")
    }

    fn values(&self, row: &Row) -> Result<Vec<Value>> {
        let value = |(at, (_, kind)): (usize, &(String, Kind))| {
            Ok(match kind {
                Kind::Int => Value::Int(row.int_opt(at)?),
                Kind::Text => Value::Text(row.text_opt(at)?),
                Kind::Blob => Value::Blob(row.blob_opt(at)?),
            })
        };
        self.columns.iter().enumerate().map(value).collect()
    }

    /// The page behind the row with the key `after`.
    async fn page(&self, from: &mut Conn, after: Option<Vec<Value>>) -> Result<Vec<Vec<Value>>> {
        let names: Vec<String> = self
            .key
            .iter()
            .filter_map(|&at| self.columns.get(at))
            .map(|(name, _)| format!("\"{name}\""))
            .collect();
        let key = names.join(", ");
        let has_blobs = self.columns.iter().any(|(_, kind)| *kind == Kind::Blob);
        let [small, large] = PAGE_ROWS;
        let rows_max = if has_blobs { large } else { small };
        let behind = after.as_ref().map(|after| {
            let numbers: Vec<String> = (1..=after.len()).map(|number| format!("${number}")).collect();
            format!("WHERE ({key}) > ({})", numbers.join(", "))
        });
        let (columns, name) = (self.names(), &self.name);
        let behind = behind.unwrap_or_default();
        let text = format!("SELECT {columns} FROM \"{name}\" {behind} ORDER BY {key} LIMIT {rows_max}");
        let rows = from.rows(text, after.unwrap_or_default()).await?;
        rows.iter().map(|row| self.values(row)).collect()
    }

    async fn insert(&self, to: &mut Conn, rows: Vec<Vec<Value>>) -> Result<()> {
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let chunk = [INSERT_ROWS, 16, 4, 1].into_iter().find(|&size| size <= rows.len()).unwrap_or(1);
            let list = values_placeholders(chunk, self.columns.len(), false);
            let text = format!("INSERT INTO \"{}\" ({}) VALUES {list}", self.name, self.names());
            to.execute(text, rows.by_ref().take(chunk).flatten().collect()).await?;
        }
        Ok(())
    }

    async fn copy(&self, from: &mut Conn, to: &mut Conn) -> Result<()> {
        let mut after = None;
        loop {
            let rows = self.page(from, after).await?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = Some(self.key.iter().filter_map(|&at| last.get(at)).cloned().collect());
            self.insert(to, rows).await?;
        }
    }
}

/// The tables that hold what an installation keeps; `counter` is PostgreSQL's sequence. Those with triggers come first:
/// what the triggers fill is emptied afterwards, before its own rows come.
async fn tables(sqlite: &mut Conn) -> Result<Vec<Table>> {
    let text =
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'
                  AND name NOT LIKE '~_sqlx%' ESCAPE '~' AND name <> 'counter'
                ORDER BY name NOT IN (SELECT tbl_name FROM sqlite_master WHERE type = 'trigger'), name LIMIT 1000";
    let mut tables = Vec::new();
    for row in sqlite.rows(text, Vec::new()).await? {
        let (name, sql) = (row.text(0)?, row.text(1)?);
        let text = "SELECT name, type, pk FROM pragma_table_info($1) ORDER BY cid";
        let (mut columns, mut key) = (Vec::new(), Vec::new());
        for (at, column) in sqlite.rows(text, params![&name]).await?.iter().enumerate() {
            let kind = match column.text(1)?.as_str() {
                "INTEGER" | "BIGINT" => Kind::Int,
                "TEXT" => Kind::Text,
                "BLOB" => Kind::Blob,
                other => {
                    return Err(StorageError::Corrupt(format!("table {name} has a column of type {other}")));
                }
            };
            columns.push((column.text(0)?, kind));
            if column.int(2)? > 0 {
                key.push((column.int(2)?, at));
            }
        }
        key.sort_unstable();
        let key = key.into_iter().map(|(_, at)| at).collect();
        tables.push(Table { name, columns, key, is_counted: sql.contains("AUTOINCREMENT") });
    }
    Ok(tables)
}

async fn sqlite(path: &Path, create: bool) -> Result<Conn> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(create)
        .foreign_keys(false)
        .journal_mode(SqliteJournalMode::Delete)
        // It is synced when it is complete; until then it is worth nothing.
        .synchronous(SqliteSynchronous::Off)
        .disable_statement_logging()
        .connect()
        .await?;
    migrator(Dialect::Sqlite)
        .run_direct(None, &mut connection, false)
        .await
        .map_err(|error| sqlx::Error::Migrate(Box::new(error)))?;
    Ok(Conn::new(Handle::Sqlite(connection), Tally::default()))
}

async fn postgres(pool: &PgPool, begin: &'static str) -> Result<Conn> {
    let mut conn = Conn::new(Handle::Postgres(pool.acquire().await?.into()), Tally::default());
    conn.set_in_transaction(true);
    conn.execute(begin, Vec::new()).await?;
    Ok(conn)
}

async fn end(conn: &mut Conn, text: &'static str) -> Result<()> {
    conn.execute(text, Vec::new()).await?;
    conn.set_in_transaction(false);
    Ok(())
}

/// The highest number that a sequence has given.
async fn given(postgres: &mut Conn, sequence: &str) -> Result<i64> {
    let text = format!("SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {sequence}");
    postgres.row(text, Vec::new()).await?.ok_or(StorageError::Gone("a sequence"))?.int(0)
}

/// The sequence behind a table's ids.
async fn sequence_of(postgres: &mut Conn, table: &str) -> Result<String> {
    let text = "SELECT pg_get_serial_sequence($1, 'id')";
    postgres.row(text, params![table]).await?.ok_or(StorageError::Gone("a sequence"))?.text(0)
}

/// Writes everything that PostgreSQL holds at one moment to a new SQLite file.
///
/// # Errors
/// When it exists, or cannot be written; then it may be there in part.
pub(super) async fn export(pool: &PgPool, target: &Path) -> Result<()> {
    if target.exists() {
        return Err(StorageError::Exists("the copy of the database"));
    }
    let mut to = sqlite(target, true).await?;
    let mut from = postgres(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let tables = tables(&mut to).await?;
    to.execute("BEGIN", Vec::new()).await?;
    for table in &tables {
        to.execute(format!("DELETE FROM \"{}\"", table.name), Vec::new()).await?;
        table.copy(&mut from, &mut to).await?;
        if table.is_counted {
            let sequence = sequence_of(&mut from, &table.name).await?;
            let highest = given(&mut from, &sequence).await?;
            to.execute("DELETE FROM sqlite_sequence WHERE name = $1", params![&table.name]).await?;
            let text = "INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)";
            to.execute(text, params![&table.name, highest]).await?;
        }
    }
    let highest = given(&mut from, "object_id").await?;
    to.execute("UPDATE counter SET value = $1 WHERE name = 'object'", params![highest]).await?;
    to.execute("COMMIT", Vec::new()).await?;
    to.close().await?;
    end(&mut from, "COMMIT").await
}

/// Fills an empty PostgreSQL database from an SQLite file of [`export`], or of an SQLite installation: all of it or
/// nothing.
///
/// # Errors
/// `Exists` when there is something in it already.
pub(super) async fn import(pool: &PgPool, source: &Path) -> Result<()> {
    let mut from = sqlite(source, false).await?;
    let mut to = postgres(pool, "BEGIN").await?;
    let tables = tables(&mut from).await?;
    let text = "SELECT (SELECT count(*) FROM customer) + (SELECT count(*) FROM store)";
    let found = to.row(text, Vec::new()).await?.ok_or(StorageError::Gone("the database"))?.int(0)?;
    if found > 0 {
        return Err(StorageError::Exists("an installation in this database"));
    }
    // Rows come in the order of their keys, which is not that of their references.
    let references = references(&mut to).await?;
    for (table, constraint) in &references {
        let text = format!("ALTER TABLE {table} ALTER CONSTRAINT {constraint} DEFERRABLE INITIALLY DEFERRED");
        to.execute(text, Vec::new()).await?;
    }
    for table in &tables {
        to.execute(format!("DELETE FROM \"{}\"", table.name), Vec::new()).await?;
        table.copy(&mut from, &mut to).await?;
        if table.is_counted {
            let text = "SELECT seq FROM sqlite_sequence WHERE name = $1";
            let highest = from.row(text, params![&table.name]).await?;
            let highest = highest.map(|row| row.int(0)).transpose()?.unwrap_or(0);
            let sequence = sequence_of(&mut to, &table.name).await?;
            set_given(&mut to, &sequence, highest).await?;
        }
    }
    let highest = from.row("SELECT value FROM counter WHERE name = 'object'", Vec::new()).await?;
    let highest = highest.map(|row| row.int(0)).transpose()?.unwrap_or(0);
    set_given(&mut to, "object_id", highest).await?;
    to.execute("SET CONSTRAINTS ALL IMMEDIATE", Vec::new()).await?;
    for (table, constraint) in &references {
        let text = format!("ALTER TABLE {table} ALTER CONSTRAINT {constraint} NOT DEFERRABLE");
        to.execute(text, Vec::new()).await?;
    }
    end(&mut to, "COMMIT").await
}

async fn set_given(postgres: &mut Conn, sequence: &str, highest: i64) -> Result<()> {
    if highest < 1 {
        return Ok(());
    }
    let text = "SELECT setval(CAST($1 AS TEXT)::regclass, $2, true)";
    postgres.rows(text, params![sequence, highest]).await.map(drop)
}

/// Table and name of every foreign key, quoted where they must be.
async fn references(postgres: &mut Conn) -> Result<Vec<(String, String)>> {
    let text = "SELECT CAST(conrelid::regclass AS TEXT), quote_ident(conname) FROM pg_constraint
                WHERE contype = 'f' AND connamespace = current_schema()::regnamespace ORDER BY conname LIMIT 1000";
    postgres.rows(text, Vec::new()).await?.iter().map(|row| Ok((row.text(0)?, row.text(1)?))).collect()
}
