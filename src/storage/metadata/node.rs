//! The nodes that run the instance: what each is doing, what it is asked to do, and what it used in the last day.

use std::collections::BTreeMap;

use super::sql::{Conn, Row};
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::{Result, StorageError};

/// Most nodes of an instance; every machine that ever ran it counts.
const NODES_MAX: i64 = 10_000;
/// Most mail stores whose disks one sample tells of, the oldest stores first.
const DISKS_MAX: i64 = 64;
/// Samples that one slice of housekeeping removes from each table.
const PRUNED_ROWS: i64 = 128;
/// Bodies that one statement looks at for the packer's backlog.
const FRESH_ROWS: i64 = 1_000;
/// Statements after which the backlog is long enough: the sample then says so many, though there may be more.
const FRESH_STEPS_MAX: usize = 200;

/// What somebody asks of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Hand over to a successor.
    Restart,
    /// Finish what runs and end.
    Stop,
}

impl Order {
    /// The word in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRow {
    /// Its name.
    pub id: String,
    /// How often it was started.
    pub epoch: i64,
    /// The machine's name.
    pub host: String,
    /// Version of the program; empty when it was last started by one that did not tell.
    pub version: String,
    /// Number of its process.
    pub pid: i64,
    /// `serving`, `draining` or `stopped`.
    pub state: String,
    /// When it was last started.
    pub started_at: Timestamp,
    /// When it last said that it runs.
    pub seen_at: Timestamp,
    /// What it is asked to do and has not begun.
    pub wanted: Option<String>,
    /// Why its last restart did not come about.
    pub restart_error: Option<String>,
}

const COLUMNS: &str = "id, epoch, host, version, pid, state, started_at, seen_at, wanted, restart_error";

fn node(row: &Row) -> Result<NodeRow> {
    Ok(NodeRow {
        id: row.text(0)?,
        epoch: row.int(1)?,
        host: row.text(2)?,
        version: row.text(3)?,
        pid: row.int(4)?,
        state: row.text(5)?,
        started_at: Timestamp(row.int(6)?),
        seen_at: Timestamp(row.int(7)?),
        wanted: row.text_opt(8)?,
        restart_error: row.text_opt(9)?,
    })
}

/// All nodes, by name.
///
/// # Errors
/// When the database fails.
pub async fn list(conn: &mut Conn) -> Result<Vec<NodeRow>> {
    let text = format!("SELECT {COLUMNS} FROM node ORDER BY id LIMIT $1");
    conn.rows(text, params![NODES_MAX]).await?.iter().map(node).collect()
}

/// A node.
///
/// # Errors
/// When the database fails.
pub async fn find(conn: &mut Conn, id: &str) -> Result<Option<NodeRow>> {
    let text = format!("SELECT {COLUMNS} FROM node WHERE id = $1");
    conn.row(text, params![id]).await?.as_ref().map(node).transpose()
}

/// Says which program runs the node, after its start was entered.
///
/// # Errors
/// When the database fails.
pub async fn describe(conn: &mut Conn, id: &str, host: &str, version: &str, pid: u32) -> Result<()> {
    let text = "UPDATE node SET host = $2, version = $3, pid = $4 WHERE id = $1";
    conn.execute(text, params![id, host, version, pid]).await.map(drop)
}

/// Asks something of a node; what was asked before is forgotten.
///
/// # Errors
/// When the database fails.
pub async fn ask(conn: &mut Conn, id: &str, order: Order) -> Result<()> {
    let text = "UPDATE node SET wanted = $2, restart_error = NULL WHERE id = $1";
    conn.execute(text, params![id, order.name()]).await.map(drop)
}

/// What is asked of the node.
///
/// # Errors
/// When the database fails.
pub async fn wanted(conn: &mut Conn, id: &str) -> Result<Option<Order>> {
    let row = conn.row("SELECT wanted FROM node WHERE id = $1", params![id]).await?;
    let wanted = row.map(|row| row.text_opt(0)).transpose()?.flatten();
    Ok(wanted.and_then(|word| [Order::Restart, Order::Stop].into_iter().find(|order| order.name() == word)))
}

/// Enters what the node does now: `serving`, `draining` or `stopped`, and that it is seen. What was asked of it is
/// answered by that.
///
/// # Errors
/// When the database fails.
pub async fn set_state(conn: &mut Conn, id: &str, epoch: i64, state: &str, now: Timestamp) -> Result<()> {
    let text = "UPDATE node SET state = $3, seen_at = $4, wanted = NULL WHERE id = $1 AND epoch = $2";
    conn.execute(text, params![id, epoch, state, now]).await.map(drop)
}

/// Enters why a restart did not come about.
///
/// # Errors
/// When the database fails.
pub async fn restart_failed(conn: &mut Conn, id: &str, why: &str, now: Timestamp) -> Result<()> {
    let text =
        "UPDATE node SET state = 'serving', wanted = NULL, restart_error = $2, seen_at = $3 WHERE id = $1";
    conn.execute(text, params![id, why, now]).await.map(drop)
}

/// The disk behind a mail store.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Disk {
    /// Its size in octets.
    pub octets: i64,
    /// Octets on it that this program may still use.
    pub free_octets: i64,
    /// Octets of the store's packs on it, or of the database.
    pub used_octets: i64,
}

/// What a node used and had to do at one moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Sample {
    /// When, in microseconds since 1970.
    pub at: i64,
    /// Which start of the node.
    pub epoch: i64,
    /// Thousandths of one processor core, since the sample before.
    pub cpu_permille: i64,
    /// Resident memory in octets.
    pub resident_octets: i64,
    /// Octets of the database.
    pub database_octets: i64,
    /// Open connections: LMTP, SMTP, IMAP, POP3, SASL, socketmap, admin, HTTP.
    pub connections: [i64; 8],
    /// Waiting for the database: deliveries, interactive, bulk, background.
    pub waiting: [i64; 4],
    /// Work that is left.
    pub backlog: Backlog,
    /// Disks, by the key of their store; 0 is that of an SQLite database.
    pub disks: BTreeMap<i64, Disk>,
}

/// Work that is left to be done in the background.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Backlog {
    /// Bodies that no pack holds yet; from 200,000 on there may be more.
    pub fresh_bodies: i64,
    /// Their octets as kept.
    pub fresh_octets: i64,
    /// Packs of stores with object storage that are not there yet.
    pub offload_packs: i64,
    /// Their octets.
    pub offload_octets: i64,
    /// Jobs that run on this node.
    pub jobs_running: i64,
    /// Jobs that wait.
    pub jobs_waiting: i64,
}

/// Measures the work that is left; `remote_stores` are those with object storage.
///
/// # Errors
/// When the database fails.
pub async fn backlog(conn: &mut Conn, node: &str, remote_stores: &[i64]) -> Result<Backlog> {
    let mut backlog = Backlog::default();
    let mut after = 0;
    for _ in 0..FRESH_STEPS_MAX {
        let text = "SELECT count(*), CAST(coalesce(sum(octets), 0) AS BIGINT), coalesce(max(body_id), 0)
                    FROM (SELECT body_id, length(data) AS octets FROM fresh_body
                          WHERE body_id > $1 ORDER BY body_id LIMIT $2) AS step";
        let row = conn.row(text, params![after, FRESH_ROWS]).await?;
        let row = row.ok_or(StorageError::Gone("the database"))?;
        backlog.fresh_bodies += row.int(0)?;
        backlog.fresh_octets += row.int(1)?;
        after = row.int(2)?;
        if row.int(0)? < FRESH_ROWS {
            break;
        }
    }
    let text = "SELECT count(*), CAST(coalesce(sum(octets), 0) AS BIGINT) FROM pack
                WHERE store_id IN IDS($1) AND remote_state <> 'present' AND dropped_at IS NULL";
    let row = conn.row(text, vec![super::sql::ids(remote_stores.iter().copied())]).await?;
    let row = row.ok_or(StorageError::Gone("the database"))?;
    (backlog.offload_packs, backlog.offload_octets) = (row.int(0)?, row.int(1)?);
    let text = "SELECT count(CASE WHEN state = 'running' AND node_id = $1 THEN 1 END),
                       count(CASE WHEN state = 'waiting' THEN 1 END)
                FROM job WHERE state IN ('waiting', 'running')";
    let row = conn.row(text, params![node]).await?.ok_or(StorageError::Gone("the database"))?;
    (backlog.jobs_running, backlog.jobs_waiting) = (row.int(0)?, row.int(1)?);
    Ok(backlog)
}

/// Folder and octets of the packs on the volume of each mail store, the oldest stores first.
///
/// # Errors
/// When the database fails.
pub async fn stores_used(conn: &mut Conn) -> Result<Vec<(i64, String, i64)>> {
    let text = "SELECT s.id, s.path,
                       (SELECT CAST(coalesce(sum(p.octets), 0) AS BIGINT) FROM pack p
                        WHERE p.store_id = s.id AND p.local_state <> 'absent')
                FROM store s ORDER BY s.id LIMIT $1";
    let rows = conn.rows(text, params![DISKS_MAX]).await?;
    rows.iter().map(|row| Ok((row.int(0)?, row.text(1)?, row.int(2)?))).collect()
}

const SAMPLE_COLUMNS: &str = "at, epoch, cpu_permille, resident_octets, database_octets, lmtp, smtp, imap, pop3, sasl,
    socketmap, admin, http, deliveries, interactive, bulk, background, fresh_bodies, fresh_octets, offload_packs,
    offload_octets, jobs_running, jobs_waiting";

/// Keeps a sample; the first of a moment counts.
///
/// # Errors
/// When the database fails.
pub async fn keep(conn: &mut Conn, node: &str, sample: &Sample) -> Result<()> {
    let text = format!(
        "INSERT INTO node_sample (node_id, {SAMPLE_COLUMNS})
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
                 $23, $24)
         ON CONFLICT DO NOTHING"
    );
    let mut values = params![
        node,
        sample.at,
        sample.epoch,
        sample.cpu_permille,
        sample.resident_octets,
        sample.database_octets
    ];
    values.extend(sample.connections.into_iter().chain(sample.waiting).map(super::sql::Value::from));
    let Backlog { fresh_bodies, fresh_octets, offload_packs, offload_octets, jobs_running, jobs_waiting } =
        sample.backlog;
    values.extend(params![
        fresh_bodies,
        fresh_octets,
        offload_packs,
        offload_octets,
        jobs_running,
        jobs_waiting
    ]);
    if conn.execute(text, values).await? == 0 {
        return Ok(());
    }
    for (store, disk) in &sample.disks {
        let text = "INSERT INTO node_disk_sample (node_id, at, store_id, octets, free_octets, used_octets)
                    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
        let values = params![node, sample.at, *store, disk.octets, disk.free_octets, disk.used_octets];
        conn.execute(text, values).await?;
    }
    Ok(())
}

fn sample(row: &Row) -> Result<Sample> {
    let numbers = |first: usize| move |index: usize| row.int(first + index);
    let mut sample = Sample {
        at: row.int(0)?,
        epoch: row.int(1)?,
        cpu_permille: row.int(2)?,
        resident_octets: row.int(3)?,
        database_octets: row.int(4)?,
        backlog: Backlog {
            fresh_bodies: row.int(17)?,
            fresh_octets: row.int(18)?,
            offload_packs: row.int(19)?,
            offload_octets: row.int(20)?,
            jobs_running: row.int(21)?,
            jobs_waiting: row.int(22)?,
        },
        ..Sample::default()
    };
    for (index, count) in sample.connections.iter_mut().enumerate() {
        *count = numbers(5)(index)?;
    }
    for (index, count) in sample.waiting.iter_mut().enumerate() {
        *count = numbers(13)(index)?;
    }
    Ok(sample)
}

/// At most `limit` samples of a node from `since` on and behind `after`, oldest first.
///
/// # Errors
/// When the database fails.
pub async fn samples(
    conn: &mut Conn,
    node: &str,
    since: Timestamp,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<Sample>> {
    let from = after.map_or(since.0, |after| since.0.max(after.saturating_add(1)));
    let text = format!(
        "SELECT {SAMPLE_COLUMNS} FROM node_sample WHERE node_id = $1 AND at >= $2 ORDER BY at LIMIT $3"
    );
    let rows = conn.rows(text, params![node, from, limit]).await?;
    let mut samples = rows.iter().map(sample).collect::<Result<Vec<_>>>()?;
    if let (Some(first), Some(last)) = (samples.first().map(|one| one.at), samples.last().map(|one| one.at)) {
        let text = "SELECT at, store_id, octets, free_octets, used_octets FROM node_disk_sample
                    WHERE node_id = $1 AND at >= $2 AND at <= $3 ORDER BY at, store_id";
        let mut disks: BTreeMap<i64, BTreeMap<i64, Disk>> = BTreeMap::new();
        for row in conn.rows(text, params![node, first, last]).await? {
            let disk = Disk { octets: row.int(2)?, free_octets: row.int(3)?, used_octets: row.int(4)? };
            disks.entry(row.int(0)?).or_default().insert(row.int(1)?, disk);
        }
        for sample in &mut samples {
            sample.disks = disks.remove(&sample.at).unwrap_or_default();
        }
    }
    Ok(samples)
}

/// The newest sample of a node.
///
/// # Errors
/// When the database fails.
pub async fn latest(conn: &mut Conn, node: &str) -> Result<Option<Sample>> {
    let row = conn.row("SELECT max(at) FROM node_sample WHERE node_id = $1", params![node]).await?;
    let Some(at) = row.map(|row| row.int_opt(0)).transpose()?.flatten() else { return Ok(None) };
    Ok(samples(conn, node, Timestamp(at), None, 1).await?.pop())
}

/// Removes samples from before `before`, whosever; answers how many, 0 when none is left.
///
/// # Errors
/// When the database fails.
pub async fn prune(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    let mut removed = 0;
    // Through the nodes: the key begins with them.
    for text in [
        "DELETE FROM node_sample WHERE (node_id, at) IN (
             SELECT node_id, at FROM node_sample
             WHERE node_id IN (SELECT id FROM node) AND at < $1 LIMIT $2)",
        "DELETE FROM node_disk_sample WHERE (node_id, at, store_id) IN (
             SELECT node_id, at, store_id FROM node_disk_sample
             WHERE node_id IN (SELECT id FROM node) AND at < $1 LIMIT $2)",
    ] {
        removed += conn.execute(text, params![before, PRUNED_ROWS]).await?;
    }
    Ok(removed)
}
