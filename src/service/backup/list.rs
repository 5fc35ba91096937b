//! Which backups there are, as far as the database knows, and what an operator should see to.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::place_label;
use crate::base::backup_settings::BackupSettings;
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Operate, Targeted, Tx, declare};
use crate::service::server::Installation;
use crate::storage::backup::{Entry, Finding};
use crate::storage::metadata::backup::{self, BackupRow};

/// A backup.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct BackupAnswer {
    id: String,
    /// The directory or bucket.
    target: String,
    /// As of when.
    #[schema(value_type = String)]
    at: Timestamp,
    /// `good`, or `incomplete` (packs were missing), or `damaged` (a check or a trial found damage).
    state: &'static str,
    /// The program that took it.
    version: String,
    /// Packs in it.
    packs: u64,
    /// Octets of everything in it.
    octets: u64,
    /// Octets that no backup before had.
    new_octets: u64,
    mailboxes: u64,
    messages: u64,
    /// Octets of the messages.
    message_octets: u64,
    /// Packs that could not be read.
    missing: u64,
    /// When it was last compared with its manifest.
    #[schema(value_type = Option<String>)]
    verified_at: Option<Timestamp>,
    /// What that found.
    verified: Option<String>,
    /// When it was last tried out.
    #[schema(value_type = Option<String>)]
    tested_at: Option<Timestamp>,
    /// What that found.
    tested: Option<String>,
}

/// A row with its entry; nothing when it is of a version that this one does not know.
fn read(row: BackupRow) -> Option<(BackupRow, Entry)> {
    let entry = serde_json::from_str(&row.entry).ok()?;
    Some((row, entry))
}

fn answer((row, entry): (BackupRow, Entry)) -> BackupAnswer {
    let is_bad = |finding: &Option<Finding>| finding.as_ref().is_some_and(|finding| !finding.good);
    let state = match (is_bad(&entry.verified) || is_bad(&entry.tested), entry.missing > 0) {
        (true, _) => "damaged",
        (false, true) => "incomplete",
        (false, false) => "good",
    };
    let (verified_at, verified) = entry.verified.map(|finding| (finding.at, finding.what)).unzip();
    let (tested_at, tested) = entry.tested.map(|finding| (finding.at, finding.what)).unzip();
    BackupAnswer {
        id: entry.id,
        target: row.target,
        at: entry.at,
        state,
        version: entry.version,
        packs: entry.packs,
        octets: entry.octets,
        new_octets: entry.new_octets,
        mailboxes: entry.counts.mailboxes,
        messages: entry.counts.messages,
        message_octets: entry.counts.octets,
        missing: entry.missing,
        verified_at,
        verified,
        tested_at,
        tested,
    }
}

/// Which backups.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct BackupListRequest {
    /// Only those in this directory.
    dir: Option<String>,
    /// Most backups, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `backup.list`.
pub(in crate::service) struct BackupList;

impl Operate for BackupList {
    declare! { "backup.list", Get, "/v1/backups", SystemBackup, reads,
    "Backups that were taken and are kept, the newest first" }
    type Request = BackupListRequest;
    type Response = Page<BackupAnswer>;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupListRequest) -> Result<Installation> {
        place_label(tx, "backups", request.dir.as_deref())
    }

    async fn run(tx: &mut Tx<'_>, _: Installation, request: BackupListRequest) -> Result<Page<BackupAnswer>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &("backups", &request.dir));
        let after: Option<(i64, String)> = cursors.read(request.cursor.as_deref())?;
        let place = match &request.dir {
            Some(dir) => Some(tx.inner.backup_target(Some(dir))?.place()),
            None => None,
        };
        let mut rows = backup::list(tx.conn, place.as_deref()).await?;
        if let Some(after) = after {
            rows.retain(|row| (row.at.0, &row.public_id) < (after.0, &after.1));
        }
        rows.truncate(usize::try_from(limit + 1).unwrap_or(usize::MAX));
        let rows: Vec<_> = rows.into_iter().filter_map(read).collect();
        Page::cut(rows, limit, &cursors, |(row, _)| (row.at.0, row.public_id.clone()), answer)
    }
}

/// Which backup.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct BackupShowRequest {
    /// Its id.
    id: String,
}

/// One backup, for who may see backups.
pub(in crate::service) struct OneBackup {
    place: Installation,
    found: Option<(BackupRow, Entry)>,
}

impl Targeted for OneBackup {
    fn customer(&self) -> CustomerId {
        self.place.customer()
    }

    fn label(&self) -> String {
        self.place.label()
    }
}

/// `backup.show`.
pub(in crate::service) struct BackupShow;

impl Operate for BackupShow {
    declare! { "backup.show", Get, "/v1/backups/{id}", SystemBackup, reads,
    "A backup, and what checks and trials of it found" }
    type Request = BackupShowRequest;
    type Response = BackupAnswer;
    type Target = OneBackup;

    /// That a backup does not exist is told only to who may see backups: whoever may not gets one answer for all.
    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BackupShowRequest) -> Result<OneBackup> {
        let place = Installation::of(tx, &format!("backup {}", request.id))?;
        let may = tx.caller.may(Some(place.customer()), Permission::SystemBackup);
        let rows = if may { backup::list(tx.conn, None).await? } else { Vec::new() };
        let found = rows.into_iter().filter_map(read).find(|(_, entry)| entry.id == request.id);
        Ok(OneBackup { place, found })
    }

    async fn run(_: &mut Tx<'_>, target: OneBackup, request: BackupShowRequest) -> Result<BackupAnswer> {
        let absent = || ServiceError::NotFound { what: format!("backup {}", request.id) };
        target.found.map(answer).ok_or_else(absent)
    }
}

/// How the backups at the configured place stand.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct BackupStanding {
    /// The newest good one.
    pub newest: Option<Timestamp>,
    /// The last trial that found everything as it should be.
    pub tested: Option<Timestamp>,
    /// Whether there is any.
    pub is_any: bool,
}

pub(super) fn standing(rows: Vec<BackupRow>) -> BackupStanding {
    let mut standing = BackupStanding::default();
    for (_, entry) in rows.into_iter().filter_map(read) {
        standing.is_any = true;
        if entry.is_good() {
            standing.newest = standing.newest.max(Some(entry.at));
        }
        let tested = entry.tested.filter(|finding| finding.good).map(|finding| finding.at);
        standing.tested = standing.tested.max(tested);
    }
    standing
}

/// The newest good backup is too old.
const OVERDUE: &str =
    "there is no good backup, or the newest is too old (backup.warn_after_hours): posthouse backup list";
/// No backup was tried out for too long.
const TEST_OVERDUE: &str =
    "no backup was tried out with success for too long (backup.test_every_days): posthouse backup test";

/// What an operator should see to.
pub(in crate::service) async fn warnings(tx: &mut Tx<'_>) -> Result<Vec<&'static str>> {
    let Ok(setup) = tx.inner.backup_setup() else { return Ok(Vec::new()) };
    let settings = setup.settings.clone();
    let Ok(target) = tx.inner.backup_target(None) else { return Ok(Vec::new()) };
    let standing = standing(backup::list(tx.conn, Some(&target.place())).await?);
    Ok(overdue(&settings, standing, Timestamp(0), tx.now))
}

/// What is overdue; nobody waits for a first backup or trial from before `since`.
pub(super) fn overdue(
    settings: &BackupSettings,
    standing: BackupStanding,
    since: Timestamp,
    now: Timestamp,
) -> Vec<&'static str> {
    let mut warnings = Vec::new();
    if settings.is_overdue(standing.newest.unwrap_or(since), now) {
        warnings.push(OVERDUE);
    }
    if standing.is_any && settings.is_test_overdue(standing.tested.unwrap_or(since), now) {
        warnings.push(TEST_OVERDUE);
    }
    warnings
}
