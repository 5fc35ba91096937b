//! Backups: taken while the daemon serves, and checked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Stop, Work, enqueue};
use crate::service::registry::{Method, Operate, Targeted as _, Tx};
use crate::service::server::{Installation, starting};
use crate::storage::StorageError;
use crate::storage::backup::{self, BackupError};
use crate::storage::metadata::lane::Priority;

/// Most names in a report.
const NAMES_MAX: usize = 1_000;
/// The position of a backup that has begun to write into its directory, which was empty before.
const BEGUN: &str = "begun";

/// Where.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct BackupRequest {
    /// The directory, on the daemon's machine: an absolute path.
    dir: String,
}

impl BackupRequest {
    fn target(&self, tx: &Tx<'_>) -> Result<Installation> {
        if !Path::new(&self.dir).is_absolute() {
            let message = format!("expected an absolute path, got {}", self.dir);
            return Err(ServiceError::Invalid { field: "dir", message });
        }
        Installation::of(tx, &format!("backup {}", self.dir))
    }
}

fn refuse(error: BackupError) -> ServiceError {
    match error {
        BackupError::Storage(error) => match error {
            // What the file system says concerns the directory that the caller named.
            StorageError::Io { .. } => ServiceError::Conflict { message: error.to_string() },
            error => error.into(),
        },
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
    dir: String,
    /// As of when.
    at: Timestamp,
    /// Packs in it.
    packs: u64,
    /// Octets of all its files.
    octets: u64,
    /// Packs that could not be read: their mail is not in the backup. At most 1,000 are named.
    missing: Vec<String>,
}

/// `backup.create`.
pub(in crate::service) struct BackupCreate;

impl Operate for BackupCreate {
    const NAME: &'static str = "backup.create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/backups";
    const PERMISSION: Permission = Permission::SystemBackup;
    const MUTATES: bool = true;
    const SUMMARY: &'static str =
        "Copy everything, as of one moment, into a directory while the daemon serves";
    const STARTS_JOB: bool = true;
    type Request = BackupRequest;
    type Response = Job;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupRequest) -> Result<Installation> {
        request.target(tx)
    }

    async fn run(tx: &mut Tx<'_>, target: Installation, request: BackupRequest) -> Result<Job> {
        if tx.conn.is_postgres() {
            return Err(refuse(BackupError::Shared));
        }
        enqueue::<Taking>(tx, target.customer(), &target.label(), &request).await
    }
}

/// The work of `backup.create`. A backup is as of one moment: one that was cut off is begun anew.
pub(in crate::service) struct Taking;

impl Work for Taking {
    const KIND: &'static str = BackupCreate::NAME;
    const PERMISSION: Permission = BackupCreate::PERMISSION;
    const BOUND: bool = true;
    type Request = BackupRequest;
    type Report = BackupReport;

    async fn run(context: JobContext, request: BackupRequest, position: String) -> Outcome<BackupReport> {
        let directory = PathBuf::from(&request.dir);
        let bodies = context.inner.bodies.get().cloned().ok_or_else(starting)?;
        if position == BEGUN {
            backup::discard_partial(&directory).await?;
        }
        backup::prepare(&directory).await?;
        let own = context.clone();
        let begun = context.inner.database.write(Priority::Interactive, move |conn| {
            let own = own.clone();
            Box::pin(async move { own.save_position_in(conn, BEGUN).await })
        });
        begun.await?;
        let mut taken = backup::create(&bodies, directory, &context.inner.clock, &context).await?;
        taken.missing.truncate(NAMES_MAX);
        let (at, packs, octets) = (taken.at, taken.packs, taken.octets);
        Ok(BackupReport { dir: request.dir, at, packs, octets, missing: taken.missing })
    }
}

/// A backup that was checked.
#[derive(Serialize)]
pub(in crate::service) struct CheckReport {
    dir: String,
    /// When it was taken.
    at: Timestamp,
    files: u64,
    /// Octets of its files.
    octets: u64,
    /// Files that are damaged or missing; none in a good backup. At most 1,000 are named.
    damaged: Vec<String>,
}

/// `backup.verify`.
pub(in crate::service) struct BackupVerify;

impl Operate for BackupVerify {
    const NAME: &'static str = "backup.verify";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/backups/verify";
    const PERMISSION: Permission = Permission::SystemBackup;
    const MUTATES: bool = true;
    const SUMMARY: &'static str = "Read a backup and compare every file with its manifest";
    const STARTS_JOB: bool = true;
    type Request = BackupRequest;
    type Response = Job;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupRequest) -> Result<Installation> {
        request.target(tx)
    }

    async fn run(tx: &mut Tx<'_>, target: Installation, request: BackupRequest) -> Result<Job> {
        enqueue::<Checking>(tx, target.customer(), &target.label(), &request).await
    }
}

/// The work of `backup.verify`. It goes on behind the file that was checked last.
pub(in crate::service) struct Checking;

impl Work for Checking {
    const KIND: &'static str = BackupVerify::NAME;
    const PERMISSION: Permission = BackupVerify::PERMISSION;
    const BOUND: bool = true;
    type Request = BackupRequest;
    type Report = CheckReport;

    async fn run(context: JobContext, request: BackupRequest, position: String) -> Outcome<CheckReport> {
        let mut checked = backup::verify(PathBuf::from(&request.dir), &context, &position).await?;
        checked.damaged.truncate(NAMES_MAX);
        let (at, files, octets) = (checked.at, checked.files, checked.octets);
        Ok(CheckReport { dir: request.dir, at, files, octets, damaged: checked.damaged })
    }
}
