//! Catalogs in the database: which files there are, what of them belongs to the present state, and what they say of
//! each mailbox.
//!
//! # Crash consistency
//! A file has a row before it exists (`writing`) and until it is gone (`dropped`): clean-up goes by these rows. Entries
//! belong to the present state from the transaction on that publishes them, in which those that they replace go.

use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{MailboxId, StoreId};
use crate::params;
use crate::storage::metadata::pack::Node;
use crate::storage::pack::PackName;
use crate::storage::{Result, StorageError};

/// Most rows that one question gives or one transaction changes.
pub const SLICE_ROWS: usize = 256;

/// A catalog's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogFile {
    /// Key.
    pub id: i64,
    /// Its name.
    pub name: PackName,
    /// Whether it is the directory; else it has mailboxes.
    pub is_directory: bool,
    /// Whether it is in object storage, or may be.
    pub is_remote: bool,
    /// Its length.
    pub octets: u64,
    /// How much of that belongs to the present state.
    pub living_octets: u64,
}

/// What the catalogs say of a mailbox.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MailboxState {
    /// Changes with anything that they have to say.
    pub fingerprint: String,
    /// The last entry.
    pub sequence: i64,
    /// Octets of the entry that begins anew.
    pub whole_octets: i64,
    /// Octets of those after it.
    pub more_octets: i64,
    /// How far the entries go in each folder, as JSON.
    pub positions: String,
    /// The last tombstone in them.
    pub tombstone: i64,
}

/// An entry that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEntry {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its octets.
    pub octets: u64,
    /// Whether it begins anew: then it replaces the others.
    pub is_whole: bool,
    /// What the catalogs say of the mailbox with it.
    pub state: MailboxState,
}

fn catalog_file(row: &Row) -> Result<CatalogFile> {
    let name = row.text(1)?;
    Ok(CatalogFile {
        id: row.int(0)?,
        name: PackName::parse(&name)
            .ok_or_else(|| StorageError::Corrupt(format!("{name} is no name of a catalog")))?,
        is_directory: row.int(2)? != 0,
        is_remote: row.int(3)? != 0,
        octets: row.number(4)?,
        living_octets: row.number(5)?,
    })
}

const COLUMNS: &str = "c.id, c.public_id, c.is_directory, c.is_remote, c.octets,
    (SELECT CAST(coalesce(sum(e.octets), 0) AS BIGINT) FROM catalog_entry e WHERE e.catalog_id = c.id)";

/// Says that a file of this name is about to be written; answers its key.
///
/// # Errors
/// What the database says.
pub async fn begin(
    conn: &mut Conn,
    node: &Node,
    store: StoreId,
    name: PackName,
    is_directory: bool,
    now: Timestamp,
) -> Result<i64> {
    let text = "INSERT INTO catalog (public_id, store_id, is_directory, state, node_id, epoch, created_at)
                VALUES ($1, $2, $3, 'writing', $4, $5, $6)";
    conn.insert(text, params![name.to_string(), store, is_directory, &node.id, node.epoch, now]).await
}

/// Gives up what this node began to write and did not finish. Only while it writes none.
///
/// # Errors
/// What the database says.
pub async fn give_up(conn: &mut Conn, node: &Node, store: StoreId) -> Result<()> {
    let text =
        "UPDATE catalog SET state = 'dropped' WHERE state = 'writing' AND node_id = $1 AND store_id = $2";
    conn.execute(text, params![&node.id, store]).await.map(drop)
}

/// Notes that a file may be in object storage from now on.
///
/// # Errors
/// What the database says.
pub async fn goes_remote(conn: &mut Conn, file: i64) -> Result<()> {
    conn.execute("UPDATE catalog SET is_remote = 1 WHERE id = $1", params![file]).await.map(drop)
}

/// Says that a file is complete.
///
/// # Errors
/// `Gone` when it was given up; what the database says.
pub async fn complete(conn: &mut Conn, file: i64, octets: u64) -> Result<()> {
    let octets = i64::try_from(octets).unwrap_or(i64::MAX);
    let text = "UPDATE catalog SET state = 'present', octets = $2 WHERE id = $1 AND state = 'writing'";
    match conn.execute(text, params![file, octets]).await? {
        1 => Ok(()),
        _ => Err(StorageError::Gone("a catalog that was being written")),
    }
}

/// Makes the directory known, in place of the present one.
///
/// # Errors
/// As [`complete`].
pub async fn publish_directory(
    conn: &mut Conn,
    store: StoreId,
    file: i64,
    octets: u64,
    fingerprint: &str,
) -> Result<()> {
    complete(conn, file, octets).await?;
    let text = "UPDATE catalog SET state = 'dropped'
                WHERE store_id = $1 AND is_directory = 1 AND state = 'present' AND id <> $2";
    conn.execute(text, params![store, file]).await?;
    let text = "INSERT INTO catalog_store (store_id, directory) VALUES ($1, $2)
                ON CONFLICT (store_id) DO UPDATE SET directory = excluded.directory";
    conn.execute(text, params![store, fingerprint]).await.map(drop)
}

/// Makes entries of a complete file known. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn publish(conn: &mut Conn, store: StoreId, file: i64, entries: &[NewEntry]) -> Result<()> {
    let whole = entries.iter().filter(|entry| entry.is_whole).map(|entry| entry.mailbox.0);
    let text = "DELETE FROM catalog_entry WHERE mailbox_id IN IDS($1)
                  AND catalog_id IN (SELECT id FROM catalog WHERE store_id = $2)";
    conn.execute(text, vec![ids(whole), store.into()]).await?;
    let row = |entry: &NewEntry| {
        params![file, entry.mailbox, entry.state.sequence, i64::try_from(entry.octets).unwrap_or(i64::MAX)]
    };
    let head = "INSERT INTO catalog_entry (catalog_id, mailbox_id, sequence, octets)";
    conn.insert_rows(head, 4, entries.iter().map(row).collect()).await?;
    let text = "DELETE FROM catalog_mailbox WHERE store_id = $2 AND mailbox_id IN IDS($1)";
    conn.execute(text, vec![ids(entries.iter().map(|entry| entry.mailbox.0)), store.into()]).await?;
    let row = |entry: &NewEntry| {
        let MailboxState { fingerprint, sequence, whole_octets, more_octets, positions, tombstone } =
            &entry.state;
        let (mailbox, sequence, tombstone) = (entry.mailbox, *sequence, *tombstone);
        params![store, mailbox, fingerprint, sequence, *whole_octets, *more_octets, positions, tombstone]
    };
    let head =
        "INSERT INTO catalog_mailbox (store_id, mailbox_id, fingerprint, sequence, whole_octets, more_octets,
                                             positions, tombstone)";
    conn.insert_rows(head, 8, entries.iter().map(row).collect()).await
}

/// Says that the catalogs are not right any more about mailboxes whose bodies got other numbers, or went to another
/// store: their next entries begin anew. In the transaction that does it.
///
/// # Errors
/// What the database says.
pub async fn outdate(conn: &mut Conn, mailboxes: &[i64]) -> Result<()> {
    let text = "UPDATE catalog_mailbox SET fingerprint = '', positions = '' WHERE mailbox_id IN IDS($1)";
    conn.execute(text, vec![ids(mailboxes.iter().copied())]).await.map(drop)
}

/// Takes mailboxes that are gone, or on another store now, out of the present state; a slice. Answers how many.
///
/// # Errors
/// What the database says.
pub async fn forget_gone(conn: &mut Conn, store: StoreId) -> Result<u64> {
    let text = "SELECT c.mailbox_id
                FROM catalog_mailbox c LEFT JOIN mailbox m ON m.id = c.mailbox_id AND m.store_id = $1
                WHERE c.store_id = $1 AND m.id IS NULL ORDER BY c.mailbox_id LIMIT 256";
    let rows = conn.rows(text, params![store]).await?;
    let gone = rows.iter().map(|row| row.int(0)).collect::<Result<Vec<i64>>>()?;
    if !gone.is_empty() {
        let text = "DELETE FROM catalog_entry WHERE mailbox_id IN IDS($1)
                      AND catalog_id IN (SELECT id FROM catalog WHERE store_id = $2)";
        conn.execute(text, vec![ids(gone.iter().copied()), store.into()]).await?;
        let text = "DELETE FROM catalog_mailbox WHERE store_id = $2 AND mailbox_id IN IDS($1)";
        conn.execute(text, vec![ids(gone.iter().copied()), store.into()]).await?;
    }
    Ok(gone.len() as u64)
}

/// Drops files without anything that belongs to the present state. Answers how many.
///
/// # Errors
/// What the database says.
pub async fn drop_dead(conn: &mut Conn, store: StoreId) -> Result<u64> {
    let text =
        "UPDATE catalog SET state = 'dropped' WHERE store_id = $1 AND state = 'present' AND is_directory = 0
                  AND NOT EXISTS (SELECT 1 FROM catalog_entry e WHERE e.catalog_id = catalog.id)";
    conn.execute(text, params![store]).await
}

/// Files of a store in this state (`present` or `dropped`), oldest first, behind `after`; at most 256.
///
/// # Errors
/// What the database says.
pub async fn files(conn: &mut Conn, store: StoreId, state: &str, after: i64) -> Result<Vec<CatalogFile>> {
    let text = format!(
        "SELECT {COLUMNS} FROM catalog c WHERE c.store_id = $1 AND c.state = $2 AND c.id > $3 ORDER BY c.id LIMIT 256"
    );
    conn.rows(text, params![store, state, after]).await?.iter().map(catalog_file).collect()
}

/// Forgets a dropped file that is gone.
///
/// # Errors
/// What the database says.
pub async fn forget(conn: &mut Conn, file: i64) -> Result<()> {
    conn.execute("DELETE FROM catalog WHERE id = $1 AND state = 'dropped'", params![file]).await.map(drop)
}

/// Entries of a file that belong to the present state, behind (mailbox, sequence), with their octets; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn entries(conn: &mut Conn, file: i64, after: (i64, i64)) -> Result<Vec<(i64, i64, i64)>> {
    let text = "SELECT mailbox_id, sequence, octets FROM catalog_entry
                WHERE catalog_id = $1 AND (mailbox_id, sequence) > ($2, $3)
                ORDER BY mailbox_id, sequence LIMIT 1000";
    let rows = conn.rows(text, params![file, after.0, after.1]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?, row.int(2)?))).collect()
}

/// Says that entries (mailbox, sequence, octets) of one file stand in another now, those that still belong to the
/// present state. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn move_entries(conn: &mut Conn, from: i64, to: i64, entries: &[(i64, i64, i64)]) -> Result<()> {
    for (mailbox, sequence, octets) in entries {
        let text = "UPDATE catalog_entry SET catalog_id = $4, octets = $5
                    WHERE catalog_id = $1 AND mailbox_id = $2 AND sequence = $3";
        conn.execute(text, params![from, *mailbox, *sequence, to, *octets]).await?;
    }
    Ok(())
}

/// Begins the entries of mailboxes anew whose catalog cannot be read; a slice. Answers how many.
///
/// # Errors
/// What the database says.
pub async fn give_up_entries(conn: &mut Conn, file: i64) -> Result<u64> {
    let text = "SELECT DISTINCT mailbox_id FROM catalog_entry WHERE catalog_id = $1 LIMIT 256";
    let rows = conn.rows(text, params![file]).await?;
    let lost = rows.iter().map(|row| row.int(0)).collect::<Result<Vec<i64>>>()?;
    outdate(conn, &lost).await?;
    let text = "DELETE FROM catalog_entry WHERE catalog_id = $1 AND mailbox_id IN IDS($2)";
    conn.execute(text, vec![file.into(), ids(lost.iter().copied())]).await?;
    Ok(lost.len() as u64)
}

/// Gives up a directory whose file is gone: the next pass writes it anew.
///
/// # Errors
/// What the database says.
pub async fn forget_directory(conn: &mut Conn, store: StoreId, file: i64) -> Result<()> {
    conn.execute("UPDATE catalog SET state = 'dropped' WHERE id = $1", params![file]).await?;
    conn.execute("UPDATE catalog_store SET directory = '' WHERE store_id = $1", params![store])
        .await
        .map(drop)
}

/// A pack as CURRENT names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedPack {
    /// Key.
    pub id: i64,
    /// Its name, 32 hexadecimal digits.
    pub name: String,
    /// Its length.
    pub octets: u64,
    /// Whether its file is on the volume.
    pub is_local: bool,
    /// Whether it is in object storage.
    pub is_remote: bool,
    /// Whether CURRENT says that the catalogs know all that lives in it.
    pub is_covered: bool,
}

/// Packs of a store behind `after`, dropped ones too as long as they may lie about; at most 1,000.
///
/// # Errors
/// What the database says.
pub async fn packs(conn: &mut Conn, store: StoreId, after: i64) -> Result<Vec<NamedPack>> {
    let text = "SELECT id, public_id, octets, local_state, remote_state, is_covered FROM pack
                WHERE store_id = $1 AND id > $2 ORDER BY id LIMIT 1000";
    let pack = |row: &Row| {
        Ok(NamedPack {
            id: row.int(0)?,
            name: row.text(1)?,
            octets: row.number(2)?,
            is_local: row.text(3)? == "present",
            is_remote: row.text(4)? == "present",
            is_covered: row.int(5)? != 0,
        })
    };
    conn.rows(text, params![store, after]).await?.iter().map(pack).collect()
}

/// Notes that CURRENT says of packs that the catalogs know all that lives in them. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn packs_covered(conn: &mut Conn, packs: &[i64]) -> Result<()> {
    let text = "UPDATE pack SET is_covered = 1 WHERE is_covered = 0 AND id IN IDS($1)";
    conn.execute(text, vec![ids(packs.iter().copied())]).await.map(drop)
}

/// Notes that the CURRENT in object storage says that packs are there. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn packs_named(conn: &mut Conn, packs: &[i64]) -> Result<()> {
    let text = "UPDATE pack SET is_named = 1 WHERE is_named = 0 AND id IN IDS($1)";
    conn.execute(text, vec![ids(packs.iter().copied())]).await.map(drop)
}

/// Packs of a store in object storage of which the CURRENT there does not say so; at most 256.
///
/// # Errors
/// What the database says.
pub async fn unnamed(conn: &mut Conn, store: StoreId) -> Result<Vec<i64>> {
    let text = "SELECT id FROM pack WHERE store_id = $1 AND remote_state = 'present' AND is_named = 0
                ORDER BY id LIMIT 256";
    conn.rows(text, params![store]).await?.iter().map(|row| row.int(0)).collect()
}

/// The state of a store that CURRENT names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoreState {
    /// Its number.
    pub number: i64,
    /// What the directory was made of.
    pub directory: String,
    /// Up to when the catalogs are complete.
    pub complete_at: Timestamp,
}

/// The present state of a store.
///
/// # Errors
/// What the database says.
pub async fn store_state(conn: &mut Conn, store: StoreId) -> Result<StoreState> {
    let text = "SELECT number, directory, complete_at FROM catalog_store WHERE store_id = $1";
    let row = conn.row(text, params![store]).await?;
    let state = |row: Row| {
        Ok(StoreState { number: row.int(0)?, directory: row.text(1)?, complete_at: Timestamp(row.int(2)?) })
    };
    let none = || Ok(StoreState { number: 0, directory: String::new(), complete_at: Timestamp(0) });
    row.map_or_else(none, state)
}

/// Takes the next number for CURRENT; answers it.
///
/// # Errors
/// `Gone` when the node was started again elsewhere; what the database says.
pub async fn next_number(conn: &mut Conn, node: &Node, store: StoreId) -> Result<i64> {
    // What an earlier start has left must not put an old state in the place of a new one.
    let row = conn.row("SELECT epoch FROM node WHERE id = $1", params![&node.id]).await?;
    if let Some(row) = row
        && row.int(0)? != node.epoch
    {
        return Err(StorageError::Gone("this start of the node"));
    }
    ensure_state(conn, store, 0).await?;
    let text = "UPDATE catalog_store SET number = number + 1 WHERE store_id = $1 RETURNING number";
    conn.row(text, params![store]).await?.ok_or(StorageError::Gone("the state of a store"))?.int(0)
}

/// Makes sure that a store has a state; a new one has this number.
///
/// # Errors
/// What the database says.
pub async fn ensure_state(conn: &mut Conn, store: StoreId, number: i64) -> Result<()> {
    let text = "INSERT INTO catalog_store (store_id, number) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    conn.execute(text, params![store, number]).await.map(drop)
}

/// Notes up to when the catalogs of a store are complete.
///
/// # Errors
/// What the database says.
pub async fn completed(conn: &mut Conn, store: StoreId, at: Timestamp) -> Result<()> {
    let text = "UPDATE catalog_store SET complete_at = $2 WHERE store_id = $1";
    conn.execute(text, params![store, at]).await.map(drop)
}

/// The last number of a body or of trace lines that was given.
///
/// # Errors
/// What the database says.
pub async fn object_last(conn: &mut Conn) -> Result<i64> {
    let text = if conn.is_postgres() {
        "SELECT last_value FROM object_id"
    } else {
        "SELECT value FROM counter WHERE name = 'object'"
    };
    conn.row(text, params![]).await?.map_or(Ok(0), |row| row.int(0))
}
