//! Backups of everything: taken and removed by time, checked, tried out, and read to bring single mailboxes back.

mod inspect;
mod list;
mod mailbox;
mod revive;
mod schedule;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(in crate::service) use inspect::{BackupTest, BackupVerify, Checking, Trying};
pub(in crate::service) use list::{BackupList, BackupShow, warnings};
pub(in crate::service) use mailbox::{MailboxRestore, Reviving};
pub use revive::{Revived, moment_of, revive};
pub use schedule::Schedule;

use crate::base::backup_settings::BackupSettings;
use crate::base::clock::Timestamp;
use crate::base::progress::Progress;
use crate::base::telemetry::metrics::Metrics;
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Stop, Work, enqueue};
use crate::service::registry::{Inner, Operate, Targeted as _, Tx, declare};
use crate::service::server::{Installation, starting};
use crate::storage::StorageError;
use crate::storage::backup::{self, BackupError, Source, Target};
use crate::storage::metadata::lane::Priority;

/// Most names in a report.
const NAMES_MAX: usize = 1_000;

/// What backups need to know of the daemon.
#[derive(Clone)]
pub struct BackupSetup {
    /// Section `[backup]`.
    pub settings: BackupSettings,
    /// A folder for files that jobs need meanwhile; it is this daemon's alone.
    pub scratch: PathBuf,
    /// Where requests are counted.
    pub metrics: Metrics,
}

impl Inner {
    pub(in crate::service) fn backup_setup(&self) -> Result<&BackupSetup> {
        self.backup.get().ok_or_else(starting)
    }

    /// The directory of the request, or the place that is configured.
    ///
    /// # Errors
    /// `Conflict` when there is neither.
    fn backup_target(&self, dir: Option<&str>) -> Result<Target> {
        let nowhere = || ServiceError::Conflict {
            message:
                "there is no place for backups: set [backup] in the configuration, or give posthouse backup \
                      a directory"
                    .to_owned(),
        };
        let setup = self.backup.get().ok_or_else(nowhere)?;
        if let Some(dir) = dir {
            return Ok(Target::directory(Path::new(dir), &setup.metrics));
        }
        let target = Target::of(&setup.settings.place, &setup.metrics).map_err(refuse)?;
        target.ok_or_else(nowhere)
    }
}

impl JobContext {
    /// What a backup is taken of, for this job.
    fn backup_source(&self) -> Result<Source> {
        let bodies = self.inner.bodies.get().cloned().ok_or_else(starting)?;
        let scratch = self.inner.backup_setup()?.scratch.join(format!("job-{}", self.key()));
        Ok(Source::new(bodies, self.inner.clock.clone(), Progress::clone(self), self.key(), scratch))
    }
}

/// Where.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct BackupPlaceRequest {
    /// A directory, on the daemon's machine: an absolute path. Default: the place of the configuration.
    dir: Option<String>,
}

/// Checks a directory of a request, and makes a name of the place for people.
fn place_label(tx: &Tx<'_>, verb: &str, dir: Option<&str>) -> Result<Installation> {
    match dir {
        None => Installation::of(tx, verb),
        Some(dir) if Path::new(dir).is_absolute() => Installation::of(tx, &format!("{verb} {dir}")),
        Some(dir) => {
            let message = format!("expected an absolute path, got {dir}");
            Err(ServiceError::Invalid { field: "dir", message })
        }
    }
}

fn refuse(error: BackupError) -> ServiceError {
    match error {
        BackupError::Storage(error) => match error {
            // What the file system says concerns the directory that the caller named.
            StorageError::Io { .. } => ServiceError::Conflict { message: error.to_string() },
            error => error.into(),
        },
        BackupError::Unknown { id, .. } => ServiceError::NotFound { what: format!("backup {id}") },
        refusal => ServiceError::Conflict { message: refusal.to_string() },
    }
}

impl From<BackupError> for Stop {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Storage(StorageError::Interrupted(_)) => Self::Interrupted,
            error => Self::Failed(refuse(error)),
        }
    }
}

/// A backup that was taken.
#[derive(Serialize)]
pub(in crate::service) struct BackupReport {
    id: String,
    target: String,
    /// As of when.
    at: Timestamp,
    /// Packs in it.
    packs: u64,
    /// Octets of everything in it.
    octets: u64,
    /// Packs that the target did not have.
    new_packs: u64,
    /// Octets that the target did not have.
    new_octets: u64,
    /// Packs that could not be read: their mail is not in the backup. At most 1,000 are named.
    missing: Vec<String>,
    /// Packs with damaged frames, which are in the backup as they are. At most 1,000 are named.
    damaged: Vec<String>,
    /// Backups that were removed, since they need not be kept any more.
    pruned: Vec<String>,
}

/// `backup.create`.
pub(in crate::service) struct BackupCreate;

impl Operate for BackupCreate {
    declare! { "backup.create", Post, "/v1/backups", SystemBackup, changes,
    "Take a backup of everything, as of one moment, while the daemon serves" }
    const STARTS_JOB: bool = true;
    type Request = BackupPlaceRequest;
    type Response = Job;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupPlaceRequest) -> Result<Installation> {
        place_label(tx, "backup", request.dir.as_deref())
    }

    async fn run(tx: &mut Tx<'_>, target: Installation, request: BackupPlaceRequest) -> Result<Job> {
        tx.inner.backup_target(request.dir.as_deref())?;
        enqueue::<Taking>(tx, target.customer(), &target.label(), &request).await
    }
}

/// The work of `backup.create`. A backup is as of one moment: one that was cut off is begun anew, with what was copied
/// already. The position is the names of all attempts, of which at most one came to be.
pub(in crate::service) struct Taking;

impl Work for Taking {
    const KIND: &'static str = BackupCreate::NAME;
    const PERMISSION: Permission = BackupCreate::PERMISSION;
    const BOUND: bool = true;
    type Request = BackupPlaceRequest;
    type Report = BackupReport;

    async fn run(
        context: JobContext,
        request: BackupPlaceRequest,
        position: String,
    ) -> Outcome<BackupReport> {
        let (source, target) =
            (context.backup_source()?, context.inner.backup_target(request.dir.as_deref())?);
        if let Some(dir) = &request.dir {
            prepare(&source, &target, Path::new(dir)).await?;
        }
        let mut attempts: Vec<String> =
            position.split(' ').filter(|id| !id.is_empty()).map(str::to_owned).collect();
        attempts.push(backup::new_id(context.now()));
        let (own, names) = (context.clone(), attempts.join(" "));
        let write = context.inner.database.write(Priority::Interactive, move |conn| {
            let (own, names) = (own.clone(), names.clone());
            Box::pin(async move { own.save_position_in(conn, &names).await })
        });
        write.await?;
        let mut taken = backup::take(&source, &target, &attempts).await?;
        taken.missing.truncate(NAMES_MAX);
        taken.damaged.truncate(NAMES_MAX);
        let entry = taken.entry;
        tracing::info!(
            id = entry.id,
            octets = entry.octets,
            new_octets = entry.new_octets,
            "a backup was taken"
        );
        let mut pruned = Vec::new();
        if request.dir.is_none() {
            let kept = context.inner.backup_setup()?.settings.kept;
            match backup::prune(&source, &target, kept).await {
                Ok(done) => pruned = done.backups,
                Err(error) => {
                    tracing::warn!(%error, "old backups could not be removed; the next one tries again")
                }
            }
        }
        Ok(BackupReport {
            id: entry.id,
            target: target.place(),
            at: entry.at,
            packs: entry.packs,
            octets: entry.octets,
            new_packs: taken.new_packs,
            new_octets: entry.new_octets,
            missing: taken.missing,
            damaged: taken.damaged,
            pruned,
        })
    }
}

/// Makes the directory of a request, closed to others: the database holds password hashes. One that holds something
/// else than backups is refused.
async fn prepare(source: &Source, target: &Target, dir: &Path) -> std::result::Result<(), BackupError> {
    let path = dir.to_owned();
    let io = |what: &str, path: &Path, error| StorageError::Io {
        what: format!("{what} {}", path.display()),
        error,
    };
    let made = tokio::task::spawn_blocking(move || {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| io("create", &path, error))?;
        let mut entries = std::fs::read_dir(&path).map_err(|error| io("read", &path, error))?;
        Ok::<_, StorageError>(entries.next().is_none())
    });
    let is_empty = made.await.unwrap_or(Err(StorageError::Busy("work on a backup was interrupted")))?;
    if is_empty || target.is_begun(&source.progress).await? {
        return Ok(());
    }
    Err(BackupError::NotEmpty(dir.display().to_string()))
}

/// What was removed.
#[derive(Serialize)]
pub(in crate::service) struct PruneReport {
    target: String,
    /// Backups.
    pruned: Vec<String>,
    /// Packs that no backup names any more.
    packs: u64,
    /// Octets.
    octets: u64,
    /// Backups that stay for now since somebody reads them.
    in_use: Vec<String>,
}

/// `backup.prune`.
pub(in crate::service) struct BackupPrune;

impl Operate for BackupPrune {
    declare! { "backup.prune", Post, "/v1/backups/prune", SystemBackup, changes,
    "Remove the backups that need not be kept, and packs that no other backup names" }
    const STARTS_JOB: bool = true;
    type Request = BackupPlaceRequest;
    type Response = Job;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupPlaceRequest) -> Result<Installation> {
        place_label(tx, "backups", request.dir.as_deref())
    }

    async fn run(tx: &mut Tx<'_>, target: Installation, request: BackupPlaceRequest) -> Result<Job> {
        tx.inner.backup_target(request.dir.as_deref())?;
        enqueue::<Pruning>(tx, target.customer(), &target.label(), &request).await
    }
}

/// The work of `backup.prune`. The index says what is left to do.
pub(in crate::service) struct Pruning;

impl Work for Pruning {
    const KIND: &'static str = BackupPrune::NAME;
    const PERMISSION: Permission = BackupPrune::PERMISSION;
    const BOUND: bool = true;
    type Request = BackupPlaceRequest;
    type Report = PruneReport;

    async fn run(context: JobContext, request: BackupPlaceRequest, _: String) -> Outcome<PruneReport> {
        let (source, target) =
            (context.backup_source()?, context.inner.backup_target(request.dir.as_deref())?);
        let kept = context.inner.backup_setup()?.settings.kept;
        let done = backup::prune(&source, &target, kept).await?;
        let (packs, octets) = (done.packs, done.octets);
        Ok(PruneReport { target: target.place(), pruned: done.backups, packs, octets, in_use: done.in_use })
    }
}
