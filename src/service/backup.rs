//! Backups: taken while the daemon serves, and checked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{After, Method, Operate, Tx};
use crate::service::server::{Installation, starting};
use crate::storage::backup::{self, BackupError};

/// Most names in an answer.
const NAMES_MAX: usize = 1_000;

/// Where.
#[derive(Clone, Debug, Deserialize, ToSchema)]
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
            crate::storage::StorageError::Io { .. } => ServiceError::Conflict { message: error.to_string() },
            error => error.into(),
        },
        refusal => ServiceError::Conflict { message: refusal.to_string() },
    }
}

/// A backup that was taken.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct BackupAnswer {
    dir: String,
    /// As of when.
    #[schema(value_type = String)]
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
    const WORKS_AFTER: bool = true;
    type Request = BackupRequest;
    type Response = BackupAnswer;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupRequest) -> Result<Installation> {
        request.target(tx)
    }

    async fn run(tx: &mut Tx<'_>, _: Installation, request: BackupRequest) -> Result<BackupAnswer> {
        if tx.conn.is_postgres() {
            return Err(refuse(BackupError::Shared));
        }
        tx.after = Some(serde_json::json!({ "begun": true }));
        Ok(BackupAnswer { dir: request.dir, at: tx.now, packs: 0, octets: 0, missing: Vec::new() })
    }

    /// Goes on to its end even if nobody waits for the answer any more.
    async fn after(done: After, request: &BackupRequest, mut answer: BackupAnswer) -> Result<BackupAnswer> {
        let directory = PathBuf::from(&request.dir);
        let bodies = done.inner.bodies.get().cloned().ok_or_else(starting)?;
        let clock = done.inner.clock.clone();
        let work = tokio::spawn(async move {
            let taken = backup::create(&bodies, directory.clone(), &clock).await;
            match &taken {
                Ok(taken) => {
                    tracing::info!(directory = %directory.display(), packs = taken.packs, "backup taken");
                }
                Err(error) => tracing::error!(directory = %directory.display(), %error, "backup failed"),
            }
            taken
        });
        let interrupted = |_| ServiceError::Unavailable("the backup was interrupted".to_owned());
        let mut taken = work.await.map_err(interrupted)?.map_err(refuse)?;
        taken.missing.truncate(NAMES_MAX);
        (answer.at, answer.packs, answer.octets) = (taken.at, taken.packs, taken.octets);
        answer.missing = taken.missing;
        Ok(answer)
    }
}

/// A backup that was checked.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct BackupChecked {
    dir: String,
    /// When it was taken.
    #[schema(value_type = String)]
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
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/backups/verify";
    const PERMISSION: Permission = Permission::SystemBackup;
    const MUTATES: bool = false;
    const SUMMARY: &'static str = "Read a backup and compare every file with its manifest";
    const WORKS_AFTER: bool = true;
    type Request = BackupRequest;
    type Response = BackupChecked;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupRequest) -> Result<Installation> {
        request.target(tx)
    }

    async fn run(tx: &mut Tx<'_>, _: Installation, request: BackupRequest) -> Result<BackupChecked> {
        Ok(BackupChecked { dir: request.dir, at: tx.now, files: 0, octets: 0, damaged: Vec::new() })
    }

    async fn after(_: After, request: &BackupRequest, answer: BackupChecked) -> Result<BackupChecked> {
        let mut checked = backup::verify(PathBuf::from(&request.dir)).await.map_err(refuse)?;
        checked.damaged.truncate(NAMES_MAX);
        let (at, files, octets) = (checked.at, checked.files, checked.octets);
        Ok(BackupChecked { at, files, octets, damaged: checked.damaged, ..answer })
    }
}
