//! Seeing the servers: which there are, what each uses now, and what it used in the last day.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::meter::DATABASE_DISK;
use super::{Installation, OneNode};
use crate::base::clock::Timestamp;
use crate::base::telemetry::metrics::Protocol;
use crate::base::telemetry::process::process_use;
use crate::service::authority::Permission;
use crate::service::backup;
use crate::service::delivery::routes::takes_postmaster;
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::scope::moment;
use crate::service::error::Result;
use crate::service::jobs::NODE_SILENCE;
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::node::{self, NodeRow, Sample};
use crate::storage::metadata::store;

/// How far the history goes back unless asked for less or more.
const SINCE_DEFAULT: Duration = Duration::from_secs(2 * 60 * 60);

/// RFC 5321 section 4.5.1 wants a postmaster without a domain on every host that takes mail.
const NO_POSTMASTER: &str = "mail to postmaster without a domain is deferred (451), since nobody reads it: \
                             posthouse customer rename / --contact ADDRESS, a mailbox here";

/// The disk behind a mail store, or behind an SQLite database.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DiskAnswer {
    /// Name of the mail store; absent for the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    /// Size of the disk in octets.
    octets: i64,
    /// Octets of it that are free.
    free_octets: i64,
    /// Octets of the store's packs on it, or of the database.
    used_octets: i64,
}

/// What a node used and had to do at one moment.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct UseAnswer {
    /// When.
    #[schema(value_type = String)]
    at: Timestamp,
    /// Which start of the node.
    epoch: i64,
    /// Use of processors, in percent of one core, the mean of about a minute.
    cpu_percent: f64,
    /// Resident memory in octets.
    resident_octets: i64,
    /// Size of the database in octets.
    database_octets: i64,
    /// Open connections by protocol.
    connections: BTreeMap<&'static str, i64>,
    /// Operations that wait for the database, by queue.
    waiting: BTreeMap<&'static str, i64>,
    /// Bodies that no pack holds yet; counted up to 200,000.
    fresh_bodies: i64,
    /// Their octets.
    fresh_octets: i64,
    /// Packs of stores with object storage that are not there yet.
    offload_packs: i64,
    /// Their octets.
    offload_octets: i64,
    /// Jobs that run on the node.
    jobs_running: i64,
    /// Jobs that wait, on whatever node they will run.
    jobs_waiting: i64,
    /// Disks of the mail stores and of an SQLite database.
    disks: Vec<DiskAnswer>,
}

/// Whether the caller sees the servers as a whole, and not only some in zones.
fn sees_all(tx: &Tx<'_>) -> bool {
    let root = tx.caller.tree.root();
    root.is_some_and(|root| tx.caller.may(Some(root.id), Permission::SystemServerRead))
}

/// The mail stores whose disks are shown.
struct Stores {
    /// Names by key.
    names: BTreeMap<i64, String>,
    /// Whether they are all that there are; one without a name is gone then.
    are_all: bool,
}

async fn stores(tx: &mut Tx<'_>) -> Result<Stores> {
    let are_all = sees_all(tx);
    let zoned = tx.caller.zones.stores(Permission::SystemStoreRead);
    let mut stores = store::list(tx.conn).await?;
    stores.retain(|store| are_all || zoned.contains(&store.id));
    Ok(Stores { names: stores.into_iter().map(|store| (store.id.0, store.name)).collect(), are_all })
}

fn use_answer(sample: Sample, stores: &Stores) -> UseAnswer {
    let is_shown = |(key, _): &(i64, node::Disk)| {
        stores.are_all || *key == DATABASE_DISK || stores.names.contains_key(key)
    };
    let disk = |(key, disk): (i64, node::Disk)| DiskAnswer {
        store: (key != DATABASE_DISK).then(|| stores.names.get(&key).cloned().unwrap_or_default()),
        octets: disk.octets,
        free_octets: disk.free_octets,
        used_octets: disk.used_octets,
    };
    let queues = ["deliveries", "interactive", "bulk", "background"];
    UseAnswer {
        at: Timestamp(sample.at),
        epoch: sample.epoch,
        cpu_percent: sample.cpu_permille as f64 / 10.0,
        resident_octets: sample.resident_octets,
        database_octets: sample.database_octets,
        connections: Protocol::ALL.into_iter().map(Protocol::name).zip(sample.connections).collect(),
        waiting: queues.into_iter().zip(sample.waiting).collect(),
        fresh_bodies: sample.backlog.fresh_bodies,
        fresh_octets: sample.backlog.fresh_octets,
        offload_packs: sample.backlog.offload_packs,
        offload_octets: sample.backlog.offload_octets,
        jobs_running: sample.backlog.jobs_running,
        jobs_waiting: sample.backlog.jobs_waiting,
        disks: sample.disks.into_iter().filter(is_shown).map(disk).collect(),
    }
}

/// Whether it is the node that answers.
fn is_own(tx: &Tx<'_>, row: &NodeRow) -> bool {
    tx.inner.bodies.get().is_some_and(|bodies| bodies.node().id == row.id)
}

/// `serving`, `draining`, `stopped` (it ended in order), or `gone` (it was not seen for 90 seconds).
pub(super) fn standing(tx: &Tx<'_>, row: &NodeRow) -> String {
    if row.state != "stopped" && !is_own(tx, row) && row.seen_at.plus(NODE_SILENCE) < tx.now {
        return "gone".to_owned();
    }
    row.state.clone()
}

/// A server: a node of the instance.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct ServerAnswer {
    /// Name of the node.
    node: String,
    /// Name of its machine.
    host: String,
    /// `serving`; `draining`: it finishes what runs; `stopped`: it ended in order; `gone`: it was not seen for a while.
    state: String,
    /// Since when: of a node that serves its start, else when it was last seen.
    #[schema(value_type = String)]
    since: Timestamp,
    version: String,
    /// How often it was started.
    epoch: i64,
    /// Number of its process on its machine.
    pid: i64,
    #[schema(value_type = String)]
    started_at: Timestamp,
    /// Of a node that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    uptime_secs: Option<i64>,
    /// What it is asked to do and has not begun: `restart` or `stop`.
    #[serde(skip_serializing_if = "Option::is_none")]
    wanted: Option<String>,
    /// Why its last restart did not come about.
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_error: Option<String>,
    /// What it uses: now for the node that answers, at its last sample for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<UseAnswer>,
    /// `sqlite` or `postgresql`.
    database: &'static str,
    /// Size of the database in octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    database_octets: Option<i64>,
    /// Resident memory in octets.
    #[serde(skip_serializing_if = "Option::is_none")]
    resident_octets: Option<i64>,
    /// Time on processors since its start, when the server is asked about itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_secs: Option<f64>,
    /// Open mail sessions by service, when the server is asked about itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    sessions: Option<BTreeMap<&'static str, usize>>,
    /// What an operator should see to, when one server is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    warnings: Option<Vec<String>>,
}

fn server_answer(tx: &Tx<'_>, row: NodeRow, sample: Option<Sample>, stores: &Stores) -> ServerAnswer {
    let state = standing(tx, &row);
    let runs = matches!(state.as_str(), "serving" | "draining");
    ServerAnswer {
        since: if state == "serving" { row.started_at } else { row.seen_at },
        state,
        host: row.host,
        version: row.version,
        epoch: row.epoch,
        pid: row.pid,
        started_at: row.started_at,
        uptime_secs: runs.then(|| tx.now.secs() - row.started_at.secs()),
        wanted: row.wanted,
        restart_error: row.restart_error,
        database: if tx.conn.is_postgres() { "postgresql" } else { "sqlite" },
        database_octets: sample.as_ref().map(|sample| sample.database_octets),
        resident_octets: sample.as_ref().map(|sample| sample.resident_octets),
        cpu_secs: None,
        sessions: None,
        warnings: None,
        used: sample.map(|sample| use_answer(sample, stores)),
        node: row.id,
    }
}

/// A page of the list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ServerListRequest {
    /// Most servers, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `server.list`.
pub(in crate::service) struct ServerList;

impl Operate for ServerList {
    declare! {
        "server.list", Get, "/v1/servers", SystemServerRead, reads,
        "All servers that run, or ran, on this database, and what each uses",
    }
    type Request = ServerListRequest;
    type Response = Page<ServerAnswer>;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a ServerListRequest) -> Result<Installation> {
        Installation::of(tx, "servers")
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Installation,
        _: &'a ServerListRequest,
    ) -> Result<Vec<Need>> {
        Ok(target.needs_of_list(tx, Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, _: Installation, request: ServerListRequest) -> Result<Page<ServerAnswer>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &"servers");
        let after: Option<String> = cursors.read(request.cursor.as_deref())?;
        let mut rows = node::list(tx.conn).await?;
        let (sees_all, zones) = (sees_all(tx), &tx.caller.zones);
        rows.retain(|row| sees_all || zones.of_node(&row.id, Self::PERMISSION).is_some());
        rows.retain(|row| after.as_ref().is_none_or(|after| row.id > *after));
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1));
        let stores = stores(tx).await?;
        let mut nodes = Vec::with_capacity(rows.len());
        for row in rows {
            let sample = node::latest(tx.conn, &row.id).await?;
            nodes.push(server_answer(tx, row, sample, &stores));
        }
        Page::cut(nodes, limit, &cursors, |node| node.node.clone(), |node| node)
    }
}

/// Which server.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ServerShowRequest {
    /// Its name; absent: the one that answers.
    node: Option<String>,
}

/// `server.show`.
pub(in crate::service) struct ServerShow;

impl Operate for ServerShow {
    declare! {
        "server.show", Get, "/v1/server", SystemServerRead, reads,
        "Version, start, connections, memory, processor time, disks and queues of a server",
    }
    type Request = ServerShowRequest;
    type Response = ServerAnswer;
    type Target = OneNode;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ServerShowRequest) -> Result<OneNode> {
        OneNode::find(tx, request.node.as_deref(), Self::PERMISSION).await
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a OneNode,
        _: &'a ServerShowRequest,
    ) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneNode, _: ServerShowRequest) -> Result<ServerAnswer> {
        let row = target.row()?;
        let is_own = is_own(tx, &row);
        let sample = match tx.inner.meter.get().filter(|_| is_own) {
            Some(meter) => Some(meter.measure(tx.conn).await?),
            None => node::latest(tx.conn, &row.id).await?,
        };
        let mut warnings = Vec::new();
        // What concerns the installation is for those who see to it.
        if sees_all(tx) {
            if !takes_postmaster(tx.conn).await? {
                warnings.push(NO_POSTMASTER.to_owned());
            }
            warnings.extend(backup::warnings(tx).await?.into_iter().map(str::to_owned));
        }
        if let Some(error) = &row.restart_error {
            warnings.push(format!("the last restart did not come about: {error}"));
        }
        let stores = stores(tx).await?;
        let mut answer = server_answer(tx, row, sample, &stores);
        answer.warnings = Some(warnings);
        if is_own {
            let mut sessions = BTreeMap::new();
            for session in tx.inner.login.get().map(|login| login.sessions()).unwrap_or_default() {
                *sessions.entry(session.service.name()).or_insert(0) += 1;
            }
            answer.sessions = Some(sessions);
            answer.cpu_secs = Some(process_use().cpu.as_secs_f64());
        }
        Ok(answer)
    }
}

/// Which server, and since when.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ServerHistoryRequest {
    /// Its name; absent: the one that answers.
    node: Option<String>,
    /// Not before: RFC 3339, or how long ago, such as 6h; default 2h. A day is kept.
    since: Option<String>,
    /// Most samples, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `server.history`.
pub(in crate::service) struct ServerHistory;

impl Operate for ServerHistory {
    declare! {
        "server.history", Get, "/v1/server/history", SystemServerRead, reads,
        "What a server used and had to do, minute by minute, oldest first",
    }
    type Request = ServerHistoryRequest;
    type Response = Page<UseAnswer>;
    type Target = OneNode;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ServerHistoryRequest) -> Result<OneNode> {
        OneNode::find(tx, request.node.as_deref(), Self::PERMISSION).await
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a OneNode,
        _: &'a ServerHistoryRequest,
    ) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneNode, request: ServerHistoryRequest) -> Result<Page<UseAnswer>> {
        let row = target.row()?;
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &(&request.node, &request.since));
        let after: Option<i64> = cursors.read(request.cursor.as_deref())?;
        let since = moment("since", request.since.as_deref(), tx.now)?;
        let since = since.unwrap_or_else(|| tx.now.minus(SINCE_DEFAULT));
        let stores = stores(tx).await?;
        let samples = node::samples(tx.conn, &row.id, since, after, limit + 1).await?;
        Page::cut(samples, limit, &cursors, |sample| sample.at, |sample| use_answer(sample, &stores))
    }
}
