//! Runs jobs on this node: takes those that wait or have lost their node, writes down how far they are, ends those
//! whose end somebody asks for, and gives them back when the daemon stops.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle, JoinSet};

use super::operations::JobError;
use super::{JobContext, KINDS, Kind, Outcome, Stop};
use crate::base::progress::{Progress, Standing};
use crate::service::context::KeptContext;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Management};
use crate::storage::metadata::job::{self, Claimant, Ending, Hold, JobRow};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::pack::Node;

/// Most jobs that run on a node at a time.
const RUNNING_MAX: usize = 4;
/// How often it looks for jobs, and for jobs to cancel.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How often at most the row of a running job is written.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long work may take to end after it was asked to, before it is dropped.
const END_GRACE: Duration = Duration::from_secs(10);
/// How long a node that says nothing counts as alive: three heartbeats.
pub(in crate::service) const NODE_SILENCE: Duration = Duration::from_secs(90);
/// Attempts that may be cut off before a job has failed.
const ATTEMPTS_MAX: i64 = 5;
/// Pause before the end of a job is written again, after the database failed.
const ENDING_PAUSE: Duration = Duration::from_secs(1);

/// Runs jobs on this node.
pub struct Runner {
    inner: Arc<Inner>,
    node: Node,
    kinds: &'static [Kind],
    tasks: JoinSet<i64>,
    running: HashMap<i64, Running>,
}

/// A job that runs here, as the runner knows it.
struct Running {
    progress: Progress,
    /// Somebody asked for its end; otherwise it ends because the daemon does.
    cancelled: Arc<AtomicBool>,
}

impl Runner {
    /// For jobs of `management` on the node of this name.
    pub fn new(management: &Management, node: Node) -> Self {
        Self::with_kinds(management, node, KINDS)
    }

    pub(super) fn with_kinds(management: &Management, node: Node, kinds: &'static [Kind]) -> Self {
        let (tasks, running) = (JoinSet::new(), HashMap::new());
        Self { inner: Arc::clone(&management.inner), node, kinds, tasks, running }
    }

    /// Runs jobs until `stop` completes; then asks them to end, gives them back, and returns.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        loop {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "jobs could not be looked for; it is tried again");
            }
            let inner = Arc::clone(&self.inner);
            tokio::select! {
                () = &mut stop => break,
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended(ended),
                () = inner.jobs.woken() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
        self.running.values().for_each(|job| job.progress.cancel());
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended);
        }
    }

    /// Runs what can be run until nothing is left.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn run_all(&mut self) -> Result<()> {
        loop {
            self.look().await?;
            let Some(ended) = self.tasks.join_next().await else { return Ok(()) };
            self.ended(ended);
        }
    }

    fn ended(&mut self, ended: std::result::Result<i64, JoinError>) {
        match ended {
            Ok(id) => drop(self.running.remove(&id)),
            Err(error) => tracing::error!(%error, "attending to a job broke off; the next start takes it up"),
        }
    }

    /// Begins what may run, and ends what was cancelled.
    pub(super) async fn look(&mut self) -> Result<()> {
        while self.tasks.len() < RUNNING_MAX {
            let Some((row, hold)) = self.claim().await? else { break };
            self.begin(row, hold);
        }
        if self.running.is_empty() {
            return Ok(());
        }
        let node = self.node.clone();
        let read = self.inner.database.read(|conn| {
            Box::pin(async move { Ok::<_, ServiceError>(job::to_cancel(conn, &node.id, node.epoch).await?) })
        });
        for id in read.await? {
            if let Some(job) = self.running.get(&id) {
                job.cancelled.store(true, Ordering::SeqCst);
                job.progress.cancel();
            }
        }
        Ok(())
    }

    async fn claim(&self) -> Result<Option<(JobRow, Hold)>> {
        let now = self.inner.clock.now();
        let (node, epoch) = (self.node.id.clone(), self.node.epoch);
        let claimant = Arc::new(Claimant { node, epoch, alive_since: now.minus(NODE_SILENCE) });
        let names: Arc<[&str]> = self.kinds.iter().map(|kind| kind.name).collect();
        let (by, kinds) = (Arc::clone(&claimant), Arc::clone(&names));
        // Looking costs the writer nothing.
        let read = self.inner.database.read(|conn| {
            Box::pin(async move { Ok::<_, ServiceError>(job::claimable(conn, &by, &kinds).await?) })
        });
        if read.await?.is_none() {
            return Ok(None);
        }
        let write = self.inner.database.write(Priority::Interactive, move |conn| {
            let (by, kinds) = (Arc::clone(&claimant), Arc::clone(&names));
            Box::pin(async move { Ok(job::claim(conn, &by, &kinds, now).await?) })
        });
        write.await
    }

    fn begin(&mut self, row: JobRow, hold: Hold) {
        let Some(kind) = self.kinds.iter().find(|kind| kind.name == row.kind) else { return };
        let standing = Standing {
            unit: row.unit.clone(),
            done: u64::try_from(row.done).unwrap_or_default(),
            total: row.total.and_then(|total| u64::try_from(total).ok()),
            position: None,
            report: None,
        };
        let progress = Progress::new(standing);
        let cancelled = Arc::new(AtomicBool::new(row.cancelled_by.is_some()));
        let running = Running { progress: progress.clone(), cancelled: Arc::clone(&cancelled) };
        self.running.insert(row.id, running);
        let attendant = Attendant { inner: Arc::clone(&self.inner), kind, hold, progress, cancelled };
        self.tasks.spawn(async move {
            let id = row.id;
            attendant.attend(row).await;
            id
        });
    }
}

/// Attends to one running job.
struct Attendant {
    inner: Arc<Inner>,
    kind: &'static Kind,
    hold: Hold,
    progress: Progress,
    cancelled: Arc<AtomicBool>,
}

/// The task that does the work; it goes when nobody attends to it.
struct Working(JoinHandle<Outcome<serde_json::Value>>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What becomes of a job that does not run any more.
enum Close {
    End(Ending, Option<JobError>),
    GiveBack { counts: bool },
}

impl Attendant {
    async fn attend(&self, row: JobRow) {
        let close = if self.cancelled.load(Ordering::SeqCst) {
            Close::End(Ending::Cancelled, None)
        } else if row.attempts > ATTEMPTS_MAX {
            let detail = format!("it was begun {ATTEMPTS_MAX} times and cut off each time");
            Close::End(Ending::Failed, Some(JobError { code: "interrupted".to_owned(), detail }))
        } else {
            let (id, kind) = (row.public_id.clone(), self.kind.name);
            tracing::info!(job = id, kind, attempt = row.attempts, "a job begins");
            let attempts = row.attempts;
            let close = match self.start(row).await {
                Ok(work) => self.watch(work, attempts).await,
                Err(error) => failed(&error),
            };
            match &close {
                Close::End(Ending::Failed, error) => {
                    let error = error.as_ref().map(|error| error.detail.as_str());
                    tracing::warn!(job = id, kind, error, "a job failed");
                }
                Close::End(..) => tracing::info!(job = id, kind, "a job ended"),
                Close::GiveBack { .. } => tracing::info!(job = id, kind, "a job was given back"),
            }
            close
        };
        self.close(&close).await;
    }

    /// Starts the work if its asker may have it done.
    async fn start(&self, row: JobRow) -> Result<Working> {
        let asker: KeptContext = serde_json::from_str(&row.asker)
            .map_err(|error| ServiceError::Internal(format!("asker of a job: {error}")))?;
        let context = JobContext {
            inner: Arc::clone(&self.inner),
            asker: asker.context(),
            customer: row.customer,
            progress: self.progress.clone(),
            hold: self.hold.clone(),
        };
        let (caller, permission) = (context.caller().await?, self.kind.permission);
        let zone = row.store.and_then(|store| caller.zones.of_store(store, permission));
        if zone.is_none() && !caller.may(Some(row.customer), permission) {
            return Err(ServiceError::Forbidden { permission: permission.name() });
        }
        // A task of its own: a panic ends it and nothing else.
        Ok(Working(tokio::spawn((self.kind.run)(context, row.request, row.position))))
    }

    /// Writes down how far the work is until it ends.
    async fn watch(&self, mut work: Working, attempts: i64) -> Close {
        let mut is_asked_to_end = false;
        let mut grace = pin!(tokio::time::sleep(END_GRACE));
        let ended = loop {
            tokio::select! {
                ended = &mut work.0 => break ended,
                () = self.progress.cancelled(), if !is_asked_to_end => {
                    is_asked_to_end = true;
                    grace.as_mut().reset(tokio::time::Instant::now() + END_GRACE);
                }
                () = grace.as_mut(), if is_asked_to_end => {
                    work.0.abort();
                    break (&mut work.0).await;
                }
                () = tokio::time::sleep(SAVE_INTERVAL) => self.save().await,
            }
        };
        match ended {
            Ok(Ok(report)) => {
                self.progress.report(report.to_string());
                Close::End(Ending::Done, None)
            }
            Ok(Err(Stop::Failed(error))) => failed(&error),
            Err(error) if error.is_panic() => {
                tracing::error!(kind = self.kind.name, %error, "a job broke off");
                if attempts < ATTEMPTS_MAX {
                    return Close::GiveBack { counts: true };
                }
                failed(&ServiceError::Internal(error.to_string()))
            }
            Ok(Err(Stop::Interrupted)) | Err(_) if self.cancelled.load(Ordering::SeqCst) => {
                Close::End(Ending::Cancelled, None)
            }
            Ok(Err(Stop::Interrupted)) | Err(_) => Close::GiveBack { counts: false },
        }
    }

    /// Writes the row if something has changed. A job that is another's by now is asked to end.
    async fn save(&self) {
        let Some(standing) = self.progress.take_changed() else { return };
        let (hold, now) = (self.hold.clone(), self.inner.clock.now());
        let write = self.inner.database.write(Priority::Background, move |conn| {
            let (hold, standing) = (hold.clone(), standing.clone());
            Box::pin(async move { Ok::<_, ServiceError>(job::save(conn, &hold, &standing, now).await?) })
        });
        match write.await {
            Ok(true) => {}
            Ok(false) => self.progress.cancel(),
            Err(error) => tracing::warn!(%error, "how far a job is could not be written"),
        }
    }

    /// Writes the end; tries again when the database fails, unless the daemon stops: then the next start takes it up.
    async fn close(&self, close: &Close) {
        loop {
            match self.write_close(close).await {
                Ok(true) => return,
                Ok(false) => {
                    tracing::warn!(kind = self.kind.name, "a job was taken over by another node");
                    return;
                }
                Err(error) => tracing::warn!(%error, "the end of a job could not be written"),
            }
            if self.progress.is_cancelled() {
                return;
            }
            tokio::time::sleep(ENDING_PAUSE).await;
        }
    }

    async fn write_close(&self, close: &Close) -> Result<bool> {
        let (hold, now, standing) = (self.hold.clone(), self.inner.clock.now(), self.progress.standing());
        let database = &self.inner.database;
        match close {
            Close::GiveBack { counts } => {
                let counts = *counts;
                let write = database.write(Priority::Interactive, move |conn| {
                    let (hold, standing) = (hold.clone(), standing.clone());
                    Box::pin(async move { Ok(job::release(conn, &hold, &standing, counts, now).await?) })
                });
                write.await
            }
            Close::End(ending, error) => {
                let ending = *ending;
                let error = error.as_ref().map(serde_json::to_string).transpose();
                let error = error.map_err(|error| ServiceError::Internal(error.to_string()))?;
                let write = database.write(Priority::Interactive, move |conn| {
                    let (hold, standing, error) = (hold.clone(), standing.clone(), error.clone());
                    Box::pin(async move {
                        Ok(job::finish(conn, &hold, ending, &standing, error.as_deref(), now).await?)
                    })
                });
                write.await
            }
        }
    }
}

/// The end of a job that could not be done. What is not for its readers goes to the log.
fn failed(error: &ServiceError) -> Close {
    let detail = match error {
        ServiceError::Internal(internal) => {
            tracing::error!(error = internal, "a job failed");
            "internal error; the daemon's log has more".to_owned()
        }
        error => error.to_string(),
    };
    Close::End(Ending::Failed, Some(JobError { code: error.code().to_owned(), detail }))
}
