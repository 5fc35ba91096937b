//! Checking backups against their manifests, and trying them out.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::place_label;
use crate::base::clock::Timestamp;
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Stop, Work, enqueue};
use crate::service::registry::{Operate, Targeted as _, Tx, declare};
use crate::service::server::Installation;
use crate::storage::backup::{self, Source, Target};

/// Which backup.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct BackupOneRequest {
    /// A directory, on the daemon's machine: an absolute path. Default: the place of the configuration.
    dir: Option<String>,
    /// Its id; default: the newest.
    id: Option<String>,
}

/// The backup that is asked for; the newest if none is.
async fn chosen(source: &Source, target: &Target, id: Option<String>) -> std::result::Result<String, Stop> {
    let backups = target.backups(&source.progress).await?;
    let newest = || backups.last().map(|entry| entry.id.clone());
    let absent = || ServiceError::NotFound { what: format!("a backup in {}", target.place()) };
    Ok(id.or_else(newest).ok_or_else(absent)?)
}

/// A backup that was checked.
#[derive(Serialize)]
pub(in crate::service) struct CheckReport {
    id: String,
    target: String,
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
    declare! { "backup.verify", Post, "/v1/backups/verify", SystemBackup, changes,
    "Read a backup and compare every file with its manifest" }
    const STARTS_JOB: bool = true;
    type Request = BackupOneRequest;
    type Response = Job;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupOneRequest) -> Result<Installation> {
        place_label(tx, "backup", request.dir.as_deref())
    }

    async fn run(tx: &mut Tx<'_>, target: Installation, request: BackupOneRequest) -> Result<Job> {
        tx.inner.backup_target(request.dir.as_deref())?;
        enqueue::<Checking>(tx, target.customer(), &target.label(), &request).await
    }
}

/// The work of `backup.verify`. It goes on behind the file that was checked last.
pub(in crate::service) struct Checking;

impl Work for Checking {
    const KIND: &'static str = BackupVerify::NAME;
    const PERMISSION: Permission = BackupVerify::PERMISSION;
    const BOUND: bool = true;
    type Request = BackupOneRequest;
    type Report = CheckReport;

    async fn run(context: JobContext, request: BackupOneRequest, position: String) -> Outcome<CheckReport> {
        let (source, target) =
            (context.backup_source()?, context.inner.backup_target(request.dir.as_deref())?);
        let begun = serde_json::from_str::<backup::Checked>(&position).ok().map(|begun| begun.id);
        let id = chosen(&source, &target, request.id.or(begun)).await?;
        let checked = backup::verify(&source, &target, &id, &position).await?;
        let (at, files, octets) = (checked.at, checked.files, checked.octets);
        Ok(CheckReport { id, target: target.place(), at, files, octets, damaged: checked.damaged })
    }
}

/// Which backup is tried out, and how far.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct BackupTestRequest {
    /// A directory, on the daemon's machine: an absolute path. Default: the place of the configuration.
    dir: Option<String>,
    /// Its id; default: the newest.
    id: Option<String>,
    /// Bodies that are read, spread over all; 0: all. Default: `test_bodies` of the configuration.
    bodies: Option<u32>,
}

/// A backup that was tried out.
#[derive(Serialize)]
pub(in crate::service) struct TestReport {
    id: String,
    target: String,
    /// Mailboxes in it.
    mailboxes: u64,
    /// Messages in it.
    messages: u64,
    /// Their octets.
    message_octets: u64,
    /// Bodies that were read and compared with their hashes.
    bodies: u64,
    /// Octets of these.
    octets: u64,
    /// What is wrong; nothing in a good backup. At most 100 lines.
    wrong: Vec<String>,
}

/// `backup.test`.
pub(in crate::service) struct BackupTest;

impl Operate for BackupTest {
    declare! { "backup.test", Post, "/v1/backups/test", SystemBackup, changes,
    "Restore a backup into a scratch folder, count what is in it, and read bodies" }
    const STARTS_JOB: bool = true;
    type Request = BackupTestRequest;
    type Response = Job;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupTestRequest) -> Result<Installation> {
        place_label(tx, "backup", request.dir.as_deref())
    }

    async fn run(tx: &mut Tx<'_>, target: Installation, request: BackupTestRequest) -> Result<Job> {
        tx.inner.backup_target(request.dir.as_deref())?;
        enqueue::<Trying>(tx, target.customer(), &target.label(), &request).await
    }
}

/// The work of `backup.test`; one that was cut off is begun anew.
pub(in crate::service) struct Trying;

impl Work for Trying {
    const KIND: &'static str = BackupTest::NAME;
    const PERMISSION: Permission = BackupTest::PERMISSION;
    const BOUND: bool = true;
    type Request = BackupTestRequest;
    type Report = TestReport;

    async fn run(context: JobContext, request: BackupTestRequest, _: String) -> Outcome<TestReport> {
        let (source, target) =
            (context.backup_source()?, context.inner.backup_target(request.dir.as_deref())?);
        let id = chosen(&source, &target, request.id).await?;
        let bodies = request.bodies.map_or_else(
            || context.inner.backup_setup().map(|setup| setup.settings.test_bodies),
            Ok::<u32, ServiceError>,
        )?;
        let tried = backup::try_out(&source, &target, &id, u64::from(bodies)).await?;
        match tried.wrong.first() {
            None => tracing::info!(id, bodies = tried.bodies, "a backup was tried out and is good"),
            Some(first) => tracing::error!(
                id,
                wrong = tried.wrong.len(),
                first,
                "a backup was tried out and is not good"
            ),
        }
        Ok(TestReport {
            id,
            target: target.place(),
            mailboxes: tried.counts.mailboxes,
            messages: tried.counts.messages,
            message_octets: tried.counts.octets,
            bodies: tried.bodies,
            octets: tried.octets,
            wrong: tried.wrong,
        })
    }
}
