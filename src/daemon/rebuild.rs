//! `posthouse store rebuild`: the daemon's rooms without listeners, on an empty database, with the data directory
//! locked.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;

use super::lock::DataLock;
use super::{DaemonError, delivery_codec, runtime, store_setup};
use crate::base::clock::Clock;
use crate::base::config::Config;
use crate::base::id::random_text;
use crate::base::telemetry::metrics::Metrics;
use crate::service::rebuild::{Report, Wanted, rebuild as fill};
use crate::storage::StorageError;
use crate::storage::bodies::Bodies;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::instance::{self, StoreSetup};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::pack::Node;
use crate::storage::volumes::Volumes;
use crate::storage::volumes::mount::Marker;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct RebuildRequest {
    /// Only this store.
    pub store: Option<String>,
    /// Into a database for the time being, to see what would come of it.
    pub dry_run: bool,
    /// JSON instead of text.
    pub json: bool,
}

/// A folder that goes when it is done with.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is told apart by its name.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Fills the empty database of the configuration from catalogs and packs, and prints what came of it.
///
/// # Errors
/// When a daemon runs on the data directory, the database is not empty, or nothing is left to rebuild from.
pub fn rebuild(config: &Config, request: &RebuildRequest) -> Result<(), DaemonError> {
    let report = runtime()?.block_on(run(config, request))?;
    let written = if request.json { json(&report) } else { text(&report) };
    written.map_err(|error| DaemonError::Io { what: "cannot print the report".to_owned(), error })
}

async fn run(config: &Config, request: &RebuildRequest) -> Result<Report, DaemonError> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let lock = DataLock::take(&config.data.dir)?;
    let clock = Clock::system();
    let scratch = Scratch(config.data.dir.join(format!("rebuild-{}", random_text(8))));
    let io = |error| DaemonError::Io { what: format!("cannot make {}", scratch.0.display()), error };
    std::fs::create_dir_all(&scratch.0).map_err(io)?;
    let url = if request.dry_run {
        format!("sqlite:{}", scratch.0.join("metadata.db").display())
    } else {
        config.database.url.read()?.expose_secret().to_owned()
    };
    let database = Database::open(&url).await?;
    let (bodies, now) = (open(config, &database, &lock.node, &clock).await?, clock.now());
    let say = |what: &str| eprintln!("{what}");
    let wanted = Wanted { store: request.store.clone(), scratch: scratch.0.clone(), now, say: &say };
    let report = fill(&bodies, &wanted).await;
    if report.is_ok() && !request.dry_run {
        mark(config, request, &database).await?;
    }
    drop(bodies);
    database.close().await;
    Ok(Report { dry_run: request.dry_run, ..report? })
}

/// Marks the folders of the stores that were rebuilt as those of this installation.
async fn mark(config: &Config, request: &RebuildRequest, database: &Database) -> Result<(), DaemonError> {
    let identity = database.write(Priority::Interactive, |conn| Box::pin(instance::identity(conn)));
    let instance: Result<String, StorageError> = identity.await;
    let instance = instance?;
    let wanted = |name: &String| request.store.as_ref().is_none_or(|wanted| wanted == name);
    for store in config.stores.iter().filter(|store| wanted(&store.name)) {
        let marker = Marker { instance: instance.clone(), store: store.name.clone() };
        if Marker::read(&store.path) != Ok(Some(marker.clone())) {
            marker.write(&store.path)?;
        }
    }
    Ok(())
}

/// Enters the stores of the configuration.
async fn open(
    config: &Config,
    database: &Database,
    node: &str,
    clock: &Clock,
) -> Result<Bodies, DaemonError> {
    let (stores, now): (Vec<StoreSetup>, _) = (config.stores.iter().map(store_setup).collect(), clock.now());
    let (id, name) = (node.to_owned(), node.to_owned());
    // The installation keeps its name, so that the folders stay its own.
    let known = config.stores.iter().find_map(|store| Marker::read(&store.path).ok().flatten());
    let setup = database.write(Priority::Interactive, move |conn| {
        let (stores, name, known) = (stores.clone(), name.clone(), known.clone());
        Box::pin(async move {
            instance::ensure_stores(conn, &stores, now).await?;
            if let Some(known) = known {
                instance::keep_identity(conn, &known.instance).await?;
            }
            instance::node_start(conn, &name, now).await
        })
    });
    let epoch: Result<i64, StorageError> = setup.await;
    let volumes = Volumes::new(database.clone(), PathBuf::new(), Metrics::new());
    Ok(Bodies::new(volumes, delivery_codec(config), Node { id, epoch: epoch? }))
}

fn json(report: &Report) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report)?;
    writeln!(out)
}

fn text(report: &Report) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for store in &report.stores {
        writeln!(out, "store {}: as of {}", store.name, store.complete_at)?;
        writeln!(out, "  {} mailboxes, {} catalogs, {} packs", store.mailboxes, store.catalogs, store.packs)?;
        if store.younger_packs > 0 {
            writeln!(out, "  {} packs are younger than the catalogs", store.younger_packs)?;
        }
        for what in &store.damaged {
            writeln!(out, "  damaged: {what}")?;
        }
    }
    let Report { customers, domains, aliases, holds, mailboxes, messages, octets, .. } = report;
    writeln!(out, "{customers} customers, {domains} domains, {aliases} aliases, {holds} holds")?;
    writeln!(out, "{mailboxes} mailboxes with {messages} messages of {octets} octets")?;
    if let Some(place) = &report.recovered_in {
        writeln!(out, "{} messages of unknown mailboxes are in {place}", report.recovered)?;
    }
    writeln!(out, "lost: {} messages that were not in a pack yet, or are damaged", report.lost_messages)?;
    for lost in &report.lost {
        writeln!(out, "  {}: {}", lost.address, lost.messages)?;
    }
    for what in &report.not_kept {
        writeln!(out, "lost: {what}")?;
    }
    if report.dry_run {
        writeln!(out, "nothing was changed")?;
    } else {
        writeln!(out, "set passwords with: posthouse mailbox password ADDRESS")?;
    }
    Ok(())
}

/// Whether a database can be served.
///
/// # Errors
/// When a rebuild of it was not finished.
pub(super) async fn check_finished(database: &Database, dir: &Path) -> Result<(), DaemonError> {
    let read = database.read(|conn| Box::pin(crate::storage::metadata::rebuild::is_unfinished(conn)));
    let is_unfinished: Result<bool, StorageError> = read.await;
    if is_unfinished? { Err(DaemonError::Unfinished { dir: dir.to_owned() }) } else { Ok(()) }
}
