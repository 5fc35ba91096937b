//! Opening a backup to read single messages from it, and trying one out.

use std::path::{Path, PathBuf};

use super::create::Source;
use super::index::Finding;
use super::manifest::Manifest;
use super::restore::fetch_database;
use super::target::Target;
use super::{BackupError, Result};
use crate::base::id::BodyId;
use crate::base::telemetry::metrics::Metrics;
use crate::storage::bodies::Bodies;
use crate::storage::metadata::body::locate_all;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::pack::Node;
use crate::storage::metadata::restore::{self, Counts};
use crate::storage::pack::{Codec, LEVEL_DEFAULT};
use crate::storage::volumes::Volumes;
use crate::storage::{Result as StorageResult, StorageError};

/// Octets of bodies that are read together.
const READ_OCTETS: u64 = 4 << 20;
/// Bodies that cannot be read are named up to this number.
const NAMES_MAX: usize = 100;

/// A backup that can be read: its database in a scratch folder, its packs by ranges at the target.
pub struct Opened {
    /// Its database; changes to it concern nobody.
    pub database: Database,
    /// Its bodies.
    pub bodies: Bodies,
    /// Its manifest.
    pub manifest: Manifest,
}

impl Opened {
    /// Closes it.
    pub async fn close(self) {
        let Self { database, bodies, .. } = self;
        drop(bodies);
        database.close().await;
    }
}

/// Opens a backup. It is not removed while the job is open; the scratch folder goes with [`finish`](Source::finish).
///
/// # Errors
/// See [`BackupError`].
pub async fn open(source: &Source, target: &Target, id: &str) -> Result<Opened> {
    source.lease_read(target, id).await?;
    let manifest = target.manifest_of(id, &source.progress).await?;
    source.make_scratch().await?;
    let file = source.scratch.join("metadata.db");
    fetch_database(target, &manifest, &file, &source.progress).await?;
    let database = Database::open(&url(&file)?).await?;
    let (settings, folder) = (target.store_settings(), source.scratch.clone());
    let write = database.write(Priority::Interactive, move |conn| {
        let (settings, folder) = (settings.clone(), folder.display().to_string());
        Box::pin(async move { restore::packs_are_remote(conn, &settings, &folder).await })
    });
    let changed: StorageResult<()> = write.await;
    changed?;
    let volumes = Volumes::new(database.clone(), PathBuf::new(), Metrics::new());
    let bodies = Bodies::new(volumes, Codec::new(LEVEL_DEFAULT), Node { id: "backup".to_owned(), epoch: 0 });
    Ok(Opened { database, bodies, manifest })
}

/// The URL of an SQLite file.
///
/// # Errors
/// When its name is not UTF-8.
pub(super) fn url(file: &Path) -> StorageResult<String> {
    let name = file.to_str().ok_or(StorageError::Busy("the name of the scratch folder is not UTF-8"))?;
    Ok(format!("sqlite:{name}"))
}

impl Source {
    /// Gives back what reading a backup took.
    pub async fn finish(&self) {
        self.lease_end().await;
        self.clear_scratch().await;
    }
}

/// What a trial found.
#[derive(Clone, Debug)]
pub struct Tried {
    /// The backup.
    pub id: String,
    /// What its database holds.
    pub counts: Counts,
    /// Bodies that were read and are what was packed.
    pub bodies: u64,
    /// Their octets.
    pub octets: u64,
    /// What is wrong; at most 100 lines.
    pub wrong: Vec<String>,
}

/// Restores a backup into a scratch folder as far as it takes to know that it can be restored: opens its database,
/// counts what is in it, and reads bodies (`bodies_max` spread over all; 0: every one) from the packs at the target,
/// each compared with its hash. The index remembers what was found.
///
/// # Errors
/// See [`BackupError`]; what is wrong with the backup is in the answer.
pub async fn try_out(source: &Source, target: &Target, id: &str, bodies_max: u64) -> Result<Tried> {
    let outcome = match open(source, target, id).await {
        Ok(opened) => {
            let tried = read(source, &opened, id, bodies_max).await;
            opened.close().await;
            tried
        }
        Err(BackupError::Damaged { what, .. }) => Ok(nothing(id, what)),
        Err(BackupError::Storage(StorageError::Database(error))) => Ok(nothing(id, error.to_string())),
        Err(error) => Err(error),
    };
    if let Ok(tried) = &outcome {
        let what = match tried.wrong.first() {
            None => format!("{} bodies read, counts as they were", tried.bodies),
            Some(first) => format!("{} bodies read; {first}", tried.bodies),
        };
        let finding = Finding { at: source.clock.now(), good: tried.wrong.is_empty(), what };
        source.note(target, id, |entry| entry.tested = Some(finding.clone())).await?;
    }
    source.finish().await;
    outcome
}

fn nothing(id: &str, what: String) -> Tried {
    Tried { id: id.to_owned(), counts: Counts::default(), bodies: 0, octets: 0, wrong: vec![what] }
}

async fn read(source: &Source, opened: &Opened, id: &str, bodies_max: u64) -> Result<Tried> {
    let count = opened.database.read(|conn| Box::pin(restore::count(conn)));
    let counts: Counts = count.await.map_err(|error: StorageError| error)?;
    let mut tried = Tried { id: id.to_owned(), counts, bodies: 0, octets: 0, wrong: Vec::new() };
    if counts != opened.manifest.counts {
        let expected = opened.manifest.counts;
        tried.wrong.push(format!("the database holds {counts:?}, the manifest says {expected:?}"));
    }
    for name in opened.manifest.missing.iter().take(NAMES_MAX) {
        tried.wrong.push(format!("pack {name} could not be read when the backup was taken"));
    }
    let step = if bodies_max == 0 { 1 } else { counts.bodies.div_ceil(bodies_max).max(1) };
    let total = counts.bodies / step;
    let mut after = BodyId(0);
    loop {
        source.progress.go_on()?;
        let find = opened.database.read(move |conn| {
            Box::pin(async move {
                let bodies = restore::some_bodies(conn, after, step).await?;
                locate_all(conn, &bodies).await
            })
        });
        let mut located: Vec<_> = find.await.map_err(|error: StorageError| error)?;
        located.sort_by_key(|(body, _)| *body);
        let Some((last, _)) = located.last() else { return Ok(tried) };
        after = *last;
        let mut rest = located.into_iter().peekable();
        while rest.peek().is_some() {
            let mut octets = 0_u64;
            let mut some = Vec::new();
            while let Some(next) =
                rest.next_if(|(_, place)| some.is_empty() || octets + place.octets() <= READ_OCTETS)
            {
                octets = octets.saturating_add(next.1.octets());
                some.push(next);
            }
            look(opened, some, &mut tried).await?;
            source.progress.advance(tried.bodies, Some(total), "bodies");
            source.progress.go_on()?;
        }
    }
}

/// Reads bodies. A target that is away is no fault of the backup.
async fn look(
    opened: &Opened,
    some: Vec<(BodyId, crate::storage::metadata::body::Location)>,
    tried: &mut Tried,
) -> Result<()> {
    let names: Vec<BodyId> = some.iter().map(|(body, _)| *body).collect();
    for (body, read) in names.iter().zip(opened.bodies.read_located(some).await) {
        match read {
            Ok(bytes) => {
                tried.bodies += 1;
                tried.octets = tried.octets.saturating_add(bytes.len() as u64);
            }
            Err(error) if error.is_permanent() || matches!(error, StorageError::Gone(_)) => {
                tracing::error!(%body, %error, "a body of a backup cannot be read");
                if tried.wrong.len() < NAMES_MAX {
                    tried.wrong.push(format!("body {body}: {error}"));
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
