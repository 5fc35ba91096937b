//! `posthouse restore`: everything from a backup into an empty installation, while no daemon runs on it.
//!
//! # Crash Consistency
//! The database comes last: until it has its place there is no installation, and the command can be run again; packs
//! that are there and whole are used. PostgreSQL is filled in one transaction.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use secrecy::ExposeSecret as _;

use super::lock::DataLock;
use super::{DaemonError, runtime};
use crate::base::backup_settings::BackupPlace;
use crate::base::clock::Clock;
use crate::base::config::Config;
use crate::base::progress::Progress;
use crate::base::telemetry::metrics::Metrics;
use crate::base::telemetry::{self};
use crate::service::backup::{Revived, moment_of, revive};
use crate::storage::StorageError;
use crate::storage::backup::{Entry, Manifest, Restored, Target, fetch_database, restore_packs};
use crate::storage::metadata::customer;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::snapshot;
use crate::storage::metadata::store;
use crate::storage::pack::sync_folder;

/// How often the progress bar moves.
const BAR_INTERVAL: Duration = Duration::from_millis(250);

/// What is to be restored.
#[derive(Clone, Debug, Default)]
pub struct Restoring {
    /// The directory with the backups; else the place of the configuration.
    pub from: Option<PathBuf>,
    /// As of this time.
    pub at: Option<String>,
    /// This backup.
    pub backup: Option<String>,
}

fn refused(text: impl Into<String>) -> DaemonError {
    DaemonError::Refused(text.into())
}

/// Restores everything; tells on standard error what was done.
///
/// # Errors
/// When there is an installation already, or no such backup, or something cannot be read or written.
pub fn restore(config: &Config, request: &Restoring) -> Result<(), DaemonError> {
    let _log = telemetry::start(&config.log).ok();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let _lock = DataLock::take(&config.data.dir)?;
    runtime()?.block_on(run(config, request))
}

async fn run(config: &Config, request: &Restoring) -> Result<(), DaemonError> {
    let clock = Clock::system();
    let place = match &request.from {
        Some(folder) => BackupPlace::Directory(absolute(folder)?),
        None => config.backup.place.clone(),
    };
    let target = Target::of(&place, &Metrics::new())?.ok_or_else(|| {
        refused("there is no place for backups: give --from DIR, or set [backup] in the configuration")
    })?;
    let url = config.database.url.read()?;
    let sqlite = url.expose_secret().strip_prefix("sqlite:");
    let sqlite = sqlite.map(|path| PathBuf::from(path.trim_start_matches("//")));
    match &sqlite {
        Some(path) if path.exists() => {
            let path = path.display();
            return Err(refused(format!(
                "{path} is there already: restore into an empty data directory, or move it away"
            )));
        }
        Some(_) => {}
        None => refuse_filled(url.expose_secret()).await?,
    }
    let progress = Progress::default();
    let backups = target.backups(&progress).await?;
    let chosen = choose(&target, &backups, request, &clock)?;
    let manifest = target.manifest_of(&chosen.id, &progress).await?;
    let mut ledger = manifest.erased.clone();
    if let Some(newest) = backups.last().filter(|newest| newest.id != chosen.id) {
        ledger.extend(target.manifest_of(&newest.id, &progress).await?.erased);
    }
    let scratch = config.data.dir.join("restore");
    std::fs::remove_dir_all(&scratch).ok();
    std::fs::create_dir_all(&scratch).map_err(|error| io("make", &scratch, error))?;
    eprintln!("restoring {} as of {} from {}", chosen.id, chosen.at, target.place());
    let file = scratch.join("metadata.db");
    fetch_database(&target, &manifest, &file, &progress).await?;
    let database = Database::open(&format!("sqlite:{}", file.display())).await?;
    let restored = packs(config, &target, &manifest, &database, &progress).await?;
    eprintln!("preparing the database");
    let revived = revive(&database, &clock, ledger).await?;
    database.close().await;
    snapshot::settle(&file).await?;
    match &sqlite {
        Some(path) => place_database(&file, path)?,
        None => {
            let shared = Database::open(url.expose_secret()).await?;
            let loaded = shared.load_from(&file).await;
            shared.close().await;
            loaded?;
        }
    }
    std::fs::remove_dir_all(&scratch).ok();
    tell(&restored, &revived, &manifest);
    Ok(())
}

fn absolute(folder: &Path) -> Result<PathBuf, DaemonError> {
    std::path::absolute(folder).map_err(|error| io("find", folder, error))
}

fn io(what: &str, path: &Path, error: std::io::Error) -> DaemonError {
    DaemonError::Io { what: format!("cannot {what} {}", path.display()), error }
}

/// A PostgreSQL database must hold no installation.
async fn refuse_filled(url: &str) -> Result<(), DaemonError> {
    let database = Database::open(url).await?;
    let root: Result<_, StorageError> = database.read(|conn| Box::pin(customer::root(conn))).await;
    database.close().await;
    match root? {
        None => Ok(()),
        Some(_) => Err(refused("database.url names a database that holds an installation already")),
    }
}

fn choose<'a>(
    target: &Target,
    backups: &'a [Entry],
    request: &Restoring,
    clock: &Clock,
) -> Result<&'a Entry, DaemonError> {
    let at = request.at.as_deref().map(|text| moment_of(text, clock.now())).transpose()?;
    let found = backups.iter().rev().find(|entry| match (&request.backup, at) {
        (Some(id), _) => entry.id == *id,
        (None, Some(at)) => entry.at <= at,
        (None, None) => true,
    });
    found.ok_or_else(|| {
        let all: Vec<String> =
            backups.iter().map(|entry| format!("  {} as of {}", entry.id, entry.at)).collect();
        let there = if all.is_empty() {
            "there are none".to_owned()
        } else {
            format!("there are\n{}", all.join("\n"))
        };
        refused(format!("no such backup in {}; {there}", target.place()))
    })
}

/// Fetches the packs, to where the configuration has their mail stores now.
async fn packs(
    config: &Config,
    target: &Target,
    manifest: &Manifest,
    database: &Database,
    progress: &Progress,
) -> Result<Restored, DaemonError> {
    let stores: Result<Vec<_>, StorageError> = database.read(|conn| Box::pin(store::list(conn))).await;
    let mut folders: HashMap<String, PathBuf> =
        stores?.into_iter().map(|row| (row.name, PathBuf::from(row.path).join("packs"))).collect();
    for configured in &config.stores {
        folders.insert(configured.name.clone(), configured.path.join("packs"));
    }
    let bar = bar(progress);
    let restored = restore_packs(target, manifest, &folders, progress).await;
    bar.abort();
    Ok(restored?)
}

/// Shows how far it is, if somebody looks.
fn bar(progress: &Progress) -> tokio::task::JoinHandle<()> {
    let progress = progress.clone();
    tokio::spawn(async move {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{wide_bar} {binary_bytes}/{binary_total_bytes} {eta}")
        {
            bar.set_style(style);
        }
        loop {
            let standing = progress.standing();
            bar.set_length(standing.total.unwrap_or(0));
            bar.set_position(standing.done);
            tokio::time::sleep(BAR_INTERVAL).await;
        }
    })
}

/// Gives the database its name.
fn place_database(file: &Path, path: &Path) -> Result<(), DaemonError> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|error| io("make", folder, error))?;
    let synced = std::fs::File::open(file).and_then(|file| file.sync_all());
    synced.map_err(|error| io("sync", file, error))?;
    // The database may lie on another volume than the data directory.
    if std::fs::rename(file, path).is_err() {
        let temporary = path.with_extension("restoring");
        let copied = std::fs::copy(file, &temporary)
            .and_then(|_| std::fs::File::open(&temporary)?.sync_all())
            .and_then(|()| std::fs::rename(&temporary, path));
        copied.map_err(|error| io("write", path, error))?;
    }
    Ok(sync_folder(folder)?)
}

fn tell(restored: &Restored, revived: &Revived, manifest: &Manifest) {
    let counts = manifest.counts;
    eprintln!(
        "restored {} mailboxes with {} messages, {} packs ({} of them were there already)",
        counts.mailboxes, counts.messages, restored.packs, restored.kept
    );
    for pack in restored.damaged.iter().chain(&manifest.missing) {
        eprintln!("pack {pack} is damaged or missing in the backup: its mail cannot be read");
    }
    if revived.erased > 0 {
        eprintln!(
            "{} mailboxes and customers that were purged for good since were purged again",
            revived.erased
        );
    }
    for customer in &revived.kept {
        eprintln!("customer {customer} was purged since, but stays: mailboxes below it were not");
    }
    eprintln!("administrators' tokens are gone: posthouse admin token create makes new ones");
}
