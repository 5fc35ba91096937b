//! Takes backups and tries them out by themselves, by entering jobs.
//!
//! # Consistency
//! Times are counted in turns. Whoever enters the number of a turn that was not entered yet enters the job too, in one
//! transaction: of several nodes one does. A turn that was slept through is made up for by the next look.

use std::sync::Arc;
use std::time::Duration;

use super::list::{BackupStanding, overdue, standing};
use super::{BackupCreate, BackupPlaceRequest, BackupTest};
use crate::base::clock::Timestamp;
use crate::service::authority::Permission;
use crate::service::context::{Context, KeptContext};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Management, Operate as _};
use crate::storage::metadata::backup;
use crate::storage::metadata::customer;
use crate::storage::metadata::job::{self, NewJob};
use crate::storage::metadata::lane::Priority;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Who asks for these jobs.
const ACTOR: &str = "schedule";
/// Turns of backups.
const BACKUP_TURN: &str = "backup_turn";
/// Turns of trials.
const TEST_TURN: &str = "backup_test_turn";
/// A day, in seconds.
const DAY_SECS: i64 = 24 * 60 * 60;

/// Takes backups by time.
pub struct Schedule {
    inner: Arc<Inner>,
    /// What was last told to be overdue: it is told once.
    told: Vec<&'static str>,
    /// Since when it looks.
    since: Timestamp,
}

impl Schedule {
    /// For backups of `management`.
    pub fn new(management: &Management) -> Self {
        let since = management.inner.clock.now();
        Self { inner: Arc::clone(&management.inner), told: Vec::new(), since }
    }

    /// Looks at regular intervals; never ends by itself.
    pub async fn run(mut self) {
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the schedule of backups could not be looked at; it is tried again");
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Enters what is due.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn look(&mut self) -> Result<()> {
        let setup = self.inner.backup_setup()?.clone();
        let Ok(target) = self.inner.backup_target(None) else { return Ok(()) };
        let (now, place) = (self.inner.clock.now(), target.place());
        if let Some((turn, _)) = setup.settings.turn(now) {
            self.enter(BACKUP_TURN, turn, BackupCreate::NAME, BackupCreate::PERMISSION, "backup", now)
                .await?;
        }
        let read = self.inner.database.read(|conn| {
            Box::pin(async move { Ok::<_, ServiceError>(backup::list(conn, Some(&place)).await?) })
        });
        let standing: BackupStanding = standing(read.await?);
        let days = i64::from(setup.settings.test_every_days);
        if days > 0 && standing.is_any {
            let turn = now.secs().div_euclid(days * DAY_SECS);
            self.enter(TEST_TURN, turn, BackupTest::NAME, BackupTest::PERMISSION, "backup", now).await?;
        }
        let overdue = overdue(&setup.settings, standing, self.since, now);
        for warning in overdue.iter().filter(|warning| !self.told.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let secs = |at: Option<Timestamp>| at.map_or(0, Timestamp::secs);
        setup.metrics.backups(secs(standing.newest), secs(standing.tested), overdue.len());
        self.told = overdue;
        Ok(())
    }

    /// Enters a job if nobody has taken this turn.
    async fn enter(
        &self,
        name: &'static str,
        turn: i64,
        kind: &'static str,
        permission: Permission,
        target: &'static str,
        now: Timestamp,
    ) -> Result<()> {
        // Looking costs the writer nothing.
        let last = self.inner.database.read(|conn| {
            Box::pin(async move { Ok::<_, ServiceError>(backup::last_turn(conn, name).await?) })
        });
        if last.await?.is_some_and(|last| last >= turn) {
            return Ok(());
        }
        let context = Context::of_schedule();
        let json = |error: serde_json::Error| ServiceError::Internal(error.to_string());
        let asker = serde_json::to_string(&KeptContext::from(&context)).map_err(json)?;
        let request = serde_json::to_string(&BackupPlaceRequest::default()).map_err(json)?;
        let node = self.inner.bodies.get().map(|bodies| bodies.node().id.clone());
        let write = self.inner.database.write(Priority::Interactive, move |conn| {
            let (asker, request, node) = (asker.clone(), request.clone(), node.clone());
            Box::pin(async move {
                let Some(root) = customer::root(conn).await? else { return Ok(false) };
                if !backup::take_turn(conn, name, turn).await? {
                    return Ok(false);
                }
                let new = NewJob {
                    kind,
                    customer: root,
                    is_system: permission.is_system(),
                    target: target.to_owned(),
                    request,
                    asker,
                    actor: ACTOR.to_owned(),
                    bound_node: node,
                    store: None,
                };
                job::insert(conn, &new, now).await?;
                Ok::<_, ServiceError>(true)
            })
        });
        if write.await? {
            tracing::info!(kind, "it is time; a job was entered");
            self.inner.jobs.wake();
        }
        Ok(())
    }
}
