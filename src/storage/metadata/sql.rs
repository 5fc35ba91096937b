//! One SQL text for two databases: parameters `$1`…, the four value types that both know, and rows.
//!
//! `IDS($n)` in a text stands for "the integers in the JSON array that is parameter n"; write
//! `WHERE id IN IDS($1)` and bind [`ids`].

use std::borrow::Cow;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Connection as _, PgConnection, Postgres, Row as _, Sqlite,
    SqliteConnection,
};

use super::changes::Touched;
use super::tally::Tally;
use crate::storage::{Result, StorageError};

/// A parameter. Absent values carry their type, since PostgreSQL wants to know it.
#[derive(Clone, Debug)]
pub enum Value {
    /// BIGINT.
    Int(Option<i64>),
    /// TEXT.
    Text(Option<String>),
    /// BLOB or BYTEA.
    Blob(Option<Vec<u8>>),
}

macro_rules! value_from {
    ($($from:ty => |$v:ident| $to:expr;)+) => {$(
        impl From<$from> for Value {
            fn from($v: $from) -> Self {
                $to
            }
        }
    )+};
}

value_from! {
    i64 => |v| Self::Int(Some(v));
    Option<i64> => |v| Self::Int(v);
    u32 => |v| Self::Int(Some(i64::from(v)));
    u8 => |v| Self::Int(Some(i64::from(v)));
    bool => |v| Self::Int(Some(i64::from(v)));
    String => |v| Self::Text(Some(v));
    &str => |v| Self::Text(Some(v.to_owned()));
    &String => |v| Self::Text(Some(v.clone()));
    Option<String> => |v| Self::Text(v);
    Option<&str> => |v| Self::Text(v.map(str::to_owned));
    Vec<u8> => |v| Self::Blob(Some(v));
    &[u8] => |v| Self::Blob(Some(v.to_vec()));
    crate::base::clock::Timestamp => |v| Self::Int(Some(v.0));
    Option<crate::base::clock::Timestamp> => |v| Self::Int(v.map(|at| at.0));
    crate::base::id::CustomerId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::CustomerId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::DomainId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::DomainId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::MailboxId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::MailboxId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::FolderId => |v| Self::Int(Some(v.0));
    crate::base::id::BodyId => |v| Self::Int(Some(v.0));
    crate::base::id::PackId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::PackId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::StoreId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::StoreId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::ZoneId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::ZoneId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::AdministratorId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::AdministratorId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::GrantId => |v| Self::Int(Some(v.0));
    crate::base::id::RoleId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::RoleId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::GroupId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::GroupId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::TokenId => |v| Self::Int(Some(v.0));
    Option<crate::base::id::TokenId> => |v| Self::Int(v.map(|id| id.0));
    crate::base::id::Uid => |v| Self::Int(Some(i64::from(v.0)));
    crate::base::id::UidValidity => |v| Self::Int(Some(i64::from(v.0)));
    crate::base::id::ModSeq => |v| Self::Int(Some(v.0.cast_signed()));
}

/// The parameter for `IDS($n)`.
pub fn ids(values: impl IntoIterator<Item = i64>) -> Value {
    let mut text = String::from("[");
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&value.to_string());
    }
    text.push(']');
    Value::Text(Some(text))
}

/// Builds the list of parameters of a statement: `params![a, b]`.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => { vec![$($crate::storage::metadata::sql::Value::from($value)),*] };
}

/// A row of either database.
pub enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of PostgreSQL.
    Postgres(PgRow),
}

macro_rules! column {
    ($($(#[$doc:meta])* $name:ident -> $type:ty;)+) => {$(
        $(#[$doc])*
        /// # Errors
        /// When the column is missing or of another type.
        pub fn $name(&self, column: usize) -> Result<$type> {
            Ok(match self {
                Self::Sqlite(row) => row.try_get(column)?,
                Self::Postgres(row) => row.try_get(column)?,
            })
        }
    )+};
}

impl Row {
    column! {
        /// An integer that is never NULL.
        int -> i64;
        /// An integer or NULL.
        int_opt -> Option<i64>;
        /// A text that is never NULL.
        text -> String;
        /// A text or NULL.
        text_opt -> Option<String>;
        /// Bytes that are never NULL.
        blob -> Vec<u8>;
        /// Bytes or NULL.
        blob_opt -> Option<Vec<u8>>;
    }

    /// An integer of a narrower type.
    ///
    /// # Errors
    /// As [`Self::int`], and `Corrupt` when the value does not fit.
    pub fn number<T: TryFrom<i64>>(&self, column: usize) -> Result<T> {
        let value = self.int(column)?;
        T::try_from(value).map_err(|_| StorageError::Corrupt(format!("{value} in column {column}")))
    }
}

/// Why a transaction cannot go on, as far as it decides what to do with the others of its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// A deadlock or serialization failure: run it again.
    Retry,
    /// No space left.
    Full,
    /// The connection or file is broken.
    Lost,
    /// Another error; the statement alone failed.
    Statement,
}

pub(super) enum Handle {
    Sqlite(SqliteConnection),
    SqlitePooled(PoolConnection<Sqlite>),
    Postgres(Borrowed),
}

/// A connection of PostgreSQL's pool. One whose transaction was cut off is closed: the pool would give it, half done,
/// to the next.
pub(super) struct Borrowed {
    connection: PoolConnection<Postgres>,
    /// Whether a transaction was begun and not ended yet.
    in_transaction: bool,
}

impl From<PoolConnection<Postgres>> for Borrowed {
    fn from(connection: PoolConnection<Postgres>) -> Self {
        Self { connection, in_transaction: false }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if self.in_transaction {
            self.connection.close_on_drop();
        }
    }
}

enum Backend<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

/// A connection, inside a transaction when it came with `write`.
pub struct Conn {
    handle: Handle,
    /// What happened to the last failed statement of this transaction.
    pub(super) trouble: Option<Trouble>,
    /// What sessions must be told of after commit.
    pub(super) touched: Vec<Touched>,
    /// Rows that the present operation inserted, changed or deleted.
    pub(super) rows_changed: u64,
    tally: Tally,
}

impl Conn {
    pub(super) fn new(handle: Handle, tally: Tally) -> Self {
        Self { handle, trouble: None, touched: Vec::new(), rows_changed: 0, tally }
    }

    /// Ends the count of an operation's rows and begins that of the next.
    pub(super) fn operation_counted(&mut self) {
        self.tally.operation(std::mem::take(&mut self.rows_changed));
    }

    /// Whether this is PostgreSQL, for the few texts that differ.
    pub fn is_postgres(&self) -> bool {
        matches!(self.handle, Handle::Postgres(_))
    }

    /// `FOR UPDATE` where rows can be locked; SQLite has one writer and needs none.
    pub fn for_update(&self) -> &'static str {
        if self.is_postgres() { " FOR UPDATE" } else { "" }
    }

    /// Notes that something was changed that running sessions must hear of once it is committed.
    pub fn touch(&mut self, touched: Touched) {
        self.touched.push(touched);
    }

    fn backend(&mut self) -> Backend<'_> {
        match &mut self.handle {
            Handle::Sqlite(connection) => Backend::Sqlite(connection),
            Handle::SqlitePooled(connection) => Backend::Sqlite(connection),
            Handle::Postgres(borrowed) => Backend::Postgres(&mut borrowed.connection),
        }
    }

    /// Gives the raw SQLite connection to the lane.
    pub(super) fn sqlite(&mut self) -> Option<&mut SqliteConnection> {
        match self.backend() {
            Backend::Sqlite(connection) => Some(connection),
            Backend::Postgres(_) => None,
        }
    }

    /// Whether a transaction was begun on PostgreSQL and not ended yet; on SQLite the lane knows.
    pub(super) fn set_in_transaction(&mut self, in_transaction: bool) {
        if let Handle::Postgres(borrowed) = &mut self.handle {
            borrowed.in_transaction = in_transaction;
        }
    }

    /// Closes a connection of its own to SQLite, and waits until the file is closed; one of a pool goes back there.
    ///
    /// # Errors
    /// What the database says.
    pub(super) async fn close(self) -> Result<()> {
        match self.handle {
            Handle::Sqlite(connection) => Ok(connection.close().await?),
            Handle::SqlitePooled(_) | Handle::Postgres(_) => Ok(()),
        }
    }

    /// Runs a statement that returns no rows; answers how many rows it changed.
    ///
    /// # Errors
    /// What the database says; on PostgreSQL the transaction is then over.
    pub async fn execute(&mut self, text: impl Into<Cow<'static, str>>, params: Vec<Value>) -> Result<u64> {
        let text = self.expand(text.into());
        self.tally.statement();
        let result = match self.backend() {
            Backend::Sqlite(connection) => {
                let query = sqlx::query_with(AssertSqlSafe(text), sqlite_arguments(params)?);
                query.execute(connection).await.map(|done| done.rows_affected())
            }
            Backend::Postgres(connection) => {
                let query = sqlx::query_with(AssertSqlSafe(text), postgres_arguments(params)?);
                query.execute(connection).await.map(|done| done.rows_affected())
            }
        };
        if let Ok(rows) = result {
            self.rows_changed = self.rows_changed.saturating_add(rows);
        }
        result.map_err(|error| self.note(error))
    }

    /// Runs a statement and returns all its rows. Callers bound them with LIMIT or by the keys they ask for.
    ///
    /// # Errors
    /// What the database says; on PostgreSQL the transaction is then over.
    pub async fn rows(&mut self, text: impl Into<Cow<'static, str>>, params: Vec<Value>) -> Result<Vec<Row>> {
        let text = self.expand(text.into());
        self.tally.statement();
        let changes = !text.starts_with("SELECT") && !text.starts_with("WITH");
        let result: std::result::Result<Vec<Row>, sqlx::Error> = match self.backend() {
            Backend::Sqlite(connection) => {
                let query = sqlx::query_with(AssertSqlSafe(text), sqlite_arguments(params)?);
                query.fetch_all(connection).await.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
            Backend::Postgres(connection) => {
                let query = sqlx::query_with(AssertSqlSafe(text), postgres_arguments(params)?);
                query.fetch_all(connection).await.map(|rows| rows.into_iter().map(Row::Postgres).collect())
            }
        };
        if changes && let Ok(rows) = &result {
            self.rows_changed = self.rows_changed.saturating_add(rows.len() as u64);
        }
        result.map_err(|error| self.note(error))
    }

    /// Runs a statement and returns its first row, if any.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn row(
        &mut self,
        text: impl Into<Cow<'static, str>>,
        params: Vec<Value>,
    ) -> Result<Option<Row>> {
        Ok(self.rows(text, params).await?.into_iter().next())
    }

    /// Inserts an object and returns its key: `text` is an INSERT without RETURNING into a table with key `id`.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn insert(&mut self, text: &'static str, params: Vec<Value>) -> Result<i64> {
        let row = self.row(format!("{text} RETURNING id"), params).await?;
        row.ok_or(StorageError::Gone("the inserted row"))?.int(0)
    }

    /// Inserts many rows with few statements: `head` is `INSERT INTO t (a, b)`, each row has `columns` values.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn insert_rows(
        &mut self,
        head: &'static str,
        columns: usize,
        rows: Vec<Vec<Value>>,
    ) -> Result<()> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            // Powers of two keep the number of distinct statements, and so of prepared ones, small.
            let remaining = rows.len();
            let chunk = [64, 16, 4, 1].into_iter().find(|&size| size <= remaining).unwrap_or(1);
            let text = format!("{head} VALUES {}", values_placeholders(chunk, columns, false));
            let params = rows.by_ref().take(chunk).flatten().collect();
            self.execute(text, params).await?;
        }
        Ok(())
    }

    /// Changes many rows with few statements: `head FROM (VALUES …) AS v WHERE key = v.column1`; both databases call
    /// the columns column1, column2….
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub(super) async fn update_from_values(
        &mut self,
        head: &'static str,
        key: &'static str,
        columns: usize,
        rows: Vec<Vec<i64>>,
    ) -> Result<()> {
        let mut rows = rows.into_iter();
        while rows.len() > 0 {
            let chunk = [64, 16, 4, 1].into_iter().find(|&size| size <= rows.len()).unwrap_or(1);
            let list = values_placeholders(chunk, columns, true);
            let text = format!("{head} FROM (VALUES {list}) AS v WHERE {key} = v.column1");
            self.execute(text, rows.by_ref().take(chunk).flatten().map(Value::from).collect()).await?;
        }
        Ok(())
    }

    /// The next `count` ids for bodies and trace lines, ascending; never given again.
    ///
    /// # Errors
    /// As [`Self::rows`].
    pub async fn object_ids(&mut self, count: i64) -> Result<Vec<i64>> {
        if count <= 0 {
            return Ok(Vec::new());
        }
        if self.is_postgres() {
            let rows =
                self.rows("SELECT nextval('object_id') FROM generate_series(1, $1)", params![count]).await?;
            return rows.iter().map(|row| row.int(0)).collect();
        }
        let text = "UPDATE counter SET value = value + $1 WHERE name = 'object' RETURNING value";
        let last =
            self.row(text, params![count]).await?.ok_or(StorageError::Gone("the object counter"))?.int(0)?;
        Ok((last - count + 1..=last).collect())
    }

    fn note(&mut self, error: sqlx::Error) -> StorageError {
        let trouble = classify(&error);
        if trouble == Trouble::Full
            && error.as_database_error().and_then(|it| it.code()).as_deref() == Some("778")
        {
            // It may also be the device that fails: only SQLite's own words tell.
            tracing::error!(%error, "the database file cannot be written");
        }
        self.trouble = Some(trouble);
        if trouble == Trouble::Full { StorageError::Full } else { StorageError::Database(error) }
    }

    fn expand(&self, text: Cow<'static, str>) -> Cow<'static, str> {
        if !text.contains("IDS(") {
            return text;
        }
        let mut text = text.into_owned();
        while let Some(start) = text.find("IDS(") {
            let Some(length) = text.get(start..).and_then(|rest| rest.find(')')) else { break };
            let parameter = text.get(start + 4..start + length).unwrap_or_default();
            let list = if self.is_postgres() {
                format!("(SELECT v::bigint FROM json_array_elements_text({parameter}::json) AS j (v))")
            } else {
                format!("(SELECT value FROM json_each({parameter}))")
            };
            text.replace_range(start..=start + length, &list);
        }
        text.into()
    }
}

/// `($1, $2), ($3, $4)`: the placeholders of a VALUES list. With `cast` the parameters are integers whose type
/// PostgreSQL cannot infer, as in `UPDATE … FROM (VALUES …)`.
pub(super) fn values_placeholders(rows: usize, columns: usize, cast: bool) -> String {
    let mut text = String::with_capacity(rows * columns * 6);
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            if column > 0 {
                text.push_str(", ");
            }
            let number = row * columns + column + 1;
            if cast {
                text.push_str(&format!("CAST(${number} AS BIGINT)"));
            } else {
                text.push_str(&format!("${number}"));
            }
        }
        text.push(')');
    }
    text
}

fn sqlite_arguments(params: Vec<Value>) -> Result<SqliteArguments> {
    let mut arguments = SqliteArguments::default();
    for value in params {
        match value {
            Value::Int(v) => arguments.add(v),
            Value::Text(v) => arguments.add(v),
            Value::Blob(v) => arguments.add(v),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn postgres_arguments(params: Vec<Value>) -> Result<PgArguments> {
    let mut arguments = PgArguments::default();
    for value in params {
        match value {
            Value::Int(v) => arguments.add(v),
            Value::Text(v) => arguments.add(v),
            Value::Blob(v) => arguments.add(v),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// Sorts errors by what they mean for the rest of the group. Codes: sqlite.org/rescode.html and appendix A of the
/// PostgreSQL manual.
pub(super) fn classify(error: &sqlx::Error) -> Trouble {
    let sqlx::Error::Database(database) = error else {
        return Trouble::Lost;
    };
    match database.code().as_deref() {
        Some("40001" | "40P01") => Trouble::Retry,
        // SQLITE_IOERR_WRITE too: SQLite tells a full disk apart, but not a quota of the file system (EDQUOT) or a
        // limit on the size of files (EFBIG), which pass in the same way.
        Some("53100" | "13" | "778") => Trouble::Full,
        // SQLITE_IOERR with any extension, SQLITE_CORRUPT, SQLITE_CANTOPEN; PostgreSQL going away.
        Some("10" | "11" | "14" | "57P01" | "57P02" | "57P03") => Trouble::Lost,
        Some(code) if code.parse::<i64>().is_ok_and(|code| code & 0xff == 10) && code.len() < 5 => {
            Trouble::Lost
        }
        _ => Trouble::Statement,
    }
}
