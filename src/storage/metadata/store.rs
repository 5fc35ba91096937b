//! Mail stores (volumes).

use std::collections::BTreeMap;

use super::changes::Touched;
use super::pack::parse_name;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{MailboxId, PackId, StoreId};
use crate::base::store_settings::StoreSettings;
use crate::params;
use crate::storage::pack::PackName;
use crate::storage::{Result, StorageError};

/// What a mail store does at present. Whatever it is, what the database knows of its mail can be read: lists, flags,
/// headers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreState {
    /// Everything.
    Online,
    /// Bodies are read; nothing is added and no file is changed.
    ReadOnly,
    /// Everything, but no mailbox is placed there any more.
    Draining,
    /// Nothing: its files are not touched.
    Stopped,
}

impl StoreState {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Online, "online"),
        (Self::ReadOnly, "read-only"),
        (Self::Draining, "draining"),
        (Self::Stopped, "stopped"),
    ];

    /// Its name, as stored and shown.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("stopped", |(_, name)| name)
    }

    /// The state of this name.
    ///
    /// # Errors
    /// `Corrupt` when there is none.
    pub fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text).map(|(state, _)| *state);
        found.ok_or_else(|| StorageError::Corrupt(format!("{text:?} is no state of a mail store")))
    }

    /// Whether bodies are read.
    pub fn is_readable(self) -> bool {
        self != Self::Stopped
    }

    /// Whether messages are added, and files written and removed.
    pub fn is_writable(self) -> bool {
        matches!(self, Self::Online | Self::Draining)
    }

    /// Whether new mailboxes are placed there.
    pub fn takes_mailboxes(self) -> bool {
        self == Self::Online
    }
}

/// A mail store.
#[derive(Clone, Debug)]
pub struct StoreRow {
    /// Key.
    pub id: StoreId,
    /// Its name.
    pub name: String,
    /// Where its packs lie.
    pub path: String,
    /// What it does at present.
    pub state: StoreState,
    /// How it keeps mail.
    pub settings: StoreSettings,
    /// Names of the settings that the configuration file gives.
    pub fixed: Vec<String>,
    /// Grows when bodies shall be compressed in another way.
    pub generation: i64,
    /// When it was made.
    pub created_at: Timestamp,
}

const COLUMNS: &str = "id, name, path, state, settings, fixed, generation, created_at";

fn from_row(row: &Row) -> Result<StoreRow> {
    Ok(StoreRow {
        id: StoreId(row.int(0)?),
        name: row.text(1)?,
        path: row.text(2)?,
        state: StoreState::parse(&row.text(3)?)?,
        settings: settings(&row.text(4)?)?,
        fixed: serde_json::from_str(&row.text(5)?).unwrap_or_default(),
        generation: row.int(6)?,
        created_at: Timestamp(row.int(7)?),
    })
}

/// All mail stores, oldest first; the first is where mailboxes go unless told otherwise.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn) -> Result<Vec<StoreRow>> {
    let text = format!("SELECT {COLUMNS} FROM store ORDER BY id LIMIT 1000");
    conn.rows(text, params![]).await?.iter().map(from_row).collect()
}

/// The mail store of this name.
///
/// # Errors
/// When the database fails.
pub async fn by_name(conn: &mut Conn, name: &str) -> Result<Option<StoreRow>> {
    let text = format!("SELECT {COLUMNS} FROM store WHERE name = $1");
    conn.row(text, params![name]).await?.as_ref().map(from_row).transpose()
}

/// Enters a mail store that is made at run time.
///
/// # Errors
/// `Exists` when the name is taken; when the database fails.
pub async fn insert(
    conn: &mut Conn,
    name: &str,
    path: &str,
    settings: &StoreSettings,
    now: Timestamp,
) -> Result<StoreId> {
    let text = "INSERT INTO store (name, path, settings, created_at) VALUES ($1, $2, $3, $4)
                ON CONFLICT (name) DO NOTHING RETURNING id";
    let row = conn.row(text, params![name, path, settings.to_database(), now]).await?;
    conn.touch(Touched::Stores);
    row.ok_or(StorageError::Exists("a mail store of this name"))?.int(0).map(StoreId)
}

/// Changes the state of a store.
///
/// # Errors
/// When the database fails.
pub async fn set_state(conn: &mut Conn, store: StoreId, state: StoreState) -> Result<()> {
    conn.touch(Touched::Stores);
    let text = "UPDATE store SET state = $2 WHERE id = $1";
    conn.execute(text, params![store, state.name()]).await.map(drop)
}

/// Whether files may be written for a store, as far as its state says; with a lock that holds until the transaction
/// ends.
///
/// # Errors
/// `Busy` when they may not; when the database fails.
pub async fn admit_writes(conn: &mut Conn, store: StoreId) -> Result<()> {
    let lock = if conn.is_postgres() { " FOR SHARE" } else { "" };
    let row = conn.row(format!("SELECT state FROM store WHERE id = $1{lock}"), params![store]).await?;
    if StoreState::parse(&row.ok_or(StorageError::Gone("mail store"))?.text(0)?)?.is_writable() {
        return Ok(());
    }
    Err(StorageError::Busy("the mail store is stopped or read-only"))
}

/// The mail stores of mailboxes, and what they do at present; mailboxes that are not there are left out.
///
/// # Errors
/// When the database fails.
pub async fn of_mailboxes(
    conn: &mut Conn,
    mailboxes: &[MailboxId],
) -> Result<BTreeMap<MailboxId, (StoreId, StoreState)>> {
    let text =
        "SELECT m.id, s.id, s.state FROM mailbox m JOIN store s ON s.id = m.store_id WHERE m.id IN IDS($1)";
    let rows = conn.rows(text, vec![ids(mailboxes.iter().map(|mailbox| mailbox.0))]).await?;
    let home =
        |row: &Row| Ok((MailboxId(row.int(0)?), (StoreId(row.int(1)?), StoreState::parse(&row.text(2)?)?)));
    rows.iter().map(home).collect()
}

/// How many packs of a store may have a copy on the volume, and how many one in object storage.
///
/// # Errors
/// When the database fails.
pub async fn copies(conn: &mut Conn, store: StoreId) -> Result<(u64, u64)> {
    let text = "SELECT (SELECT count(*) FROM pack WHERE store_id = $1 AND local_state <> 'absent'),
                       (SELECT count(*) FROM pack WHERE store_id = $1 AND remote_state <> 'absent')";
    let row = conn.row(text, params![store]).await?.ok_or(StorageError::Gone("mail store"))?;
    Ok((row.number(0)?, row.number(1)?))
}

/// Reads column `settings`.
///
/// # Errors
/// `Corrupt` when it cannot be understood.
pub fn settings(text: &str) -> Result<StoreSettings> {
    let wrong = |what: String| StorageError::Corrupt(format!("settings of a mail store: {what}"));
    StoreSettings::from_database(text).map_err(wrong)
}

/// Changes the settings of a store.
///
/// # Errors
/// When the database fails.
pub async fn set(
    conn: &mut Conn,
    store: StoreId,
    before: &StoreSettings,
    after: &StoreSettings,
) -> Result<()> {
    conn.touch(Touched::Stores);
    let anew = before.compression != after.compression;
    let text = "UPDATE store SET settings = $2, generation = generation + $3 WHERE id = $1";
    conn.execute(text, params![store, after.to_database(), anew]).await.map(drop)
}

/// Whether the folder of a store was marked as its own before.
///
/// # Errors
/// When the database fails.
pub async fn is_marked(conn: &mut Conn, store: StoreId) -> Result<bool> {
    let row = conn.row("SELECT marked FROM store WHERE id = $1", params![store]).await?;
    Ok(row.ok_or(StorageError::Gone("mail store"))?.int(0)? != 0)
}

/// Notes that the folder of a store is marked as its own.
///
/// # Errors
/// When the database fails.
pub async fn set_marked(conn: &mut Conn, store: StoreId) -> Result<()> {
    conn.execute("UPDATE store SET marked = 1 WHERE id = $1", params![store]).await.map(drop)
}

/// The youngest packs of a store that have a copy on the volume, with their lengths.
///
/// # Errors
/// When the database fails.
pub async fn newest_local_packs(conn: &mut Conn, store: StoreId, limit: i64) -> Result<Vec<(PackName, u64)>> {
    let text = "SELECT public_id, octets FROM pack WHERE store_id = $1 AND local_state = 'present'
                  AND dropped_at IS NULL ORDER BY id DESC LIMIT $2";
    let rows = conn.rows(text, params![store, limit]).await?;
    rows.iter().map(|row| Ok((parse_name(&row.text(0)?)?, row.number(1)?))).collect()
}

/// Packs of a store behind `after` that have a copy on the volume, with their lengths.
///
/// # Errors
/// When the database fails.
pub async fn local_packs(
    conn: &mut Conn,
    store: StoreId,
    after: PackId,
    limit: i64,
) -> Result<Vec<(PackId, PackName, u64)>> {
    let text =
        "SELECT id, public_id, octets FROM pack WHERE store_id = $1 AND id > $2 AND local_state = 'present'
                  AND dropped_at IS NULL ORDER BY id LIMIT $3";
    let rows = conn.rows(text, params![store, after, limit]).await?;
    rows.iter().map(|row| Ok((PackId(row.int(0)?), parse_name(&row.text(1)?)?, row.number(2)?))).collect()
}

/// The youngest packs of a store that are in object storage, with their lengths.
///
/// # Errors
/// When the database fails.
pub async fn newest_remote_packs(
    conn: &mut Conn,
    store: StoreId,
    limit: i64,
) -> Result<Vec<(PackName, u64)>> {
    let text = "SELECT public_id, octets FROM pack WHERE store_id = $1 AND remote_state = 'present'
                  AND dropped_at IS NULL ORDER BY id DESC LIMIT $2";
    let rows = conn.rows(text, params![store, limit]).await?;
    rows.iter().map(|row| Ok((parse_name(&row.text(0)?)?, row.number(1)?))).collect()
}
