//! Jobs: long work with progress that can be watched, cancelled, and gone on with after a restart.
//!
//! # How other rooms' long work becomes a job
//! 1. Implement [`Work`] for a type of its own: `KIND` is also the name of the operation that starts it, `Request` is
//!    kept as JSON, `run` does the work with a [`JobContext`] and answers a report.
//! 2. Put `Kind::of::<TheWork>()` into [`KINDS`].
//! 3. In the operation that starts it: `STARTS_JOB` is true, `Response` is [`Job`], and `run` ends with
//!    [`enqueue`], so that the audit record and the job are in one transaction.
//! 4. On the command line the verb is a `Plan::Job`: it watches, with `--detach` it does not.
//!
//! # What work can rely on
//! - It runs in a task of its own, with the authority that its asker has at that moment: without [`Work::PERMISSION`]
//!   at the job's customer, or over the mail store that it is about, it is not begun. At most four run on a node, the
//!   others wait in order.
//! - [`Progress::advance`] and its likes cost a lock; the row is written at most once a second. The storage room is
//!   handed `&Progress` and needs to know nothing of jobs.
//! - After `posthouse job cancel` (on any node), [`Progress::is_cancelled`] is true within a second. Look at it
//!   between steps (`context.go_on()?`); ten seconds later the future is dropped.
//!
//! # What work must do
//! - Be repeatable from its position: after a restart, a crash or a panic `run` is called again with the position that
//!   was saved last, or an earlier one. What belongs together with a position is written with
//!   [`JobContext::save_position_in`], in the same transaction.
//! - Survive being dropped at every await; leave blocking steps short.
//! - End with [`Stop::Interrupted`] (which `go_on()?` gives) when it ends early because it was asked to.
//!
//! # Consistency
//! A job belongs to one node, epoch and attempt at a time; a node that was not seen for 90 seconds, or was started
//! again, has lost its jobs, and what it still writes about them counts for nothing. After five attempts that were cut
//! off a job has failed.

mod operations;
mod queue;
mod runner;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(in crate::service) use operations::{Job, JobCancel, JobList, JobShow};
pub(in crate::service) use queue::{Queue, enqueue, enqueue_about};
pub(in crate::service) use runner::NODE_SILENCE;
pub use runner::Runner;

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::base::progress::{Interrupted, Progress};
use crate::service::authority::{Caller, Permission};
use crate::service::context::Context;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::Inner;
use crate::service::{audit, backup, moves, quota, stores, undelete, webhooks};
use crate::storage::StorageError;
use crate::storage::metadata::job::{self, Hold};
use crate::storage::metadata::sql::Conn;

/// All kinds of jobs.
pub(in crate::service) static KINDS: &[Kind] = &[
    Kind::of::<audit::Verifying>(),
    Kind::of::<stores::pack::Packing>(),
    Kind::of::<stores::start::Starting>(),
    Kind::of::<stores::work::Offloading>(),
    Kind::of::<stores::work::Compacting>(),
    Kind::of::<stores::verify::Verifying>(),
    Kind::of::<stores::verify::Probing>(),
    Kind::of::<backup::Taking>(),
    Kind::of::<backup::Checking>(),
    Kind::of::<backup::Trying>(),
    Kind::of::<backup::Pruning>(),
    Kind::of::<backup::Reviving>(),
    Kind::of::<quota::verify::Recount>(),
    Kind::of::<undelete::Messages>(),
    Kind::of::<undelete::Folder>(),
    Kind::of::<webhooks::Testing>(),
    Kind::of::<moves::mailbox::Moving>(),
    Kind::of::<moves::drain::Draining>(),
];

/// Why work ended before it was done.
#[derive(Debug)]
pub(in crate::service) enum Stop {
    /// It was asked to.
    Interrupted,
    /// It could not go on.
    Failed(ServiceError),
}

impl From<Interrupted> for Stop {
    fn from(_: Interrupted) -> Self {
        Self::Interrupted
    }
}

impl From<ServiceError> for Stop {
    fn from(error: ServiceError) -> Self {
        Self::Failed(error)
    }
}

impl From<StorageError> for Stop {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Interrupted(_) => Self::Interrupted,
            error => Self::Failed(error.into()),
        }
    }
}

/// What work gives in the end.
pub(in crate::service) type Outcome<R> = std::result::Result<R, Stop>;

/// A kind of long work; see the top of this file.
pub(in crate::service) trait Work: 'static {
    /// Its name: that of the operation which starts it.
    const KIND: &'static str;
    /// What the asker must hold at the job's customer whenever the work is begun or gone on with. A job whose
    /// permission concerns the servers is shown only to those who may see the servers.
    const PERMISSION: Permission;
    /// Whether only the node that was asked may do it, because it is about that machine.
    const BOUND: bool = false;
    /// What is asked for; kept as JSON.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// What came of it.
    type Report: Serialize + 'static;

    /// Does it, from `position` on; that is empty at the first start.
    fn run(
        context: JobContext,
        request: Self::Request,
        position: String,
    ) -> impl Future<Output = Outcome<Self::Report>> + Send;
}

/// A kind of job as the runner sees it.
pub(in crate::service) struct Kind {
    name: &'static str,
    permission: Permission,
    run: fn(JobContext, String, String) -> BoxFuture<'static, Outcome<Value>>,
}

impl Kind {
    pub const fn of<W: Work>() -> Self {
        Self { name: W::KIND, permission: W::PERMISSION, run: run::<W> }
    }
}

fn run<W: Work>(
    context: JobContext,
    request: String,
    position: String,
) -> BoxFuture<'static, Outcome<Value>> {
    Box::pin(async move {
        let broken = |error: serde_json::Error| ServiceError::Internal(format!("{}: {error}", W::KIND));
        let request = serde_json::from_str(&request).map_err(broken)?;
        let report = W::run(context, request, position).await?;
        Ok(serde_json::to_value(&report).map_err(broken)?)
    })
}

/// What work is given; cheap to clone. Dereferences to its [`Progress`].
#[derive(Clone)]
pub(in crate::service) struct JobContext {
    /// The services.
    pub inner: Arc<Inner>,
    /// Who asked for it, how and from where.
    pub asker: Context,
    /// The customer to which the job belongs.
    pub customer: CustomerId,
    progress: Progress,
    hold: Hold,
}

impl std::ops::Deref for JobContext {
    type Target = Progress;

    fn deref(&self) -> &Progress {
        &self.progress
    }
}

impl JobContext {
    /// The present.
    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// Key of the job: no other job ever has it.
    pub fn key(&self) -> i64 {
        self.hold.job
    }

    /// The asker, with what it may at this moment.
    pub async fn caller(&self) -> Result<Caller> {
        let (inner, identity, now) = (Arc::clone(&self.inner), self.asker.identity.clone(), self.now());
        let only = self.asker.only();
        let database = self.inner.database.clone();
        database
            .read(move |conn| {
                Box::pin(async move {
                    let tree = inner.authority.tree(conn, crate::storage::metadata::customer::TreeLock::None);
                    let tree = tree.await?;
                    Ok(Caller::read(conn, tree, identity, now).await?.confined(only))
                })
            })
            .await
    }

    /// Saves the position in the transaction of the work that leads up to it. Work that does so does not use
    /// [`Progress::save_position`].
    ///
    /// # Errors
    /// When the database fails, and when the job is another's by now: then the transaction must not commit.
    pub async fn save_position_in(&self, conn: &mut Conn, position: &str) -> Result<()> {
        if job::save_position(conn, &self.hold, position, self.now()).await? {
            return Ok(());
        }
        Err(ServiceError::Unavailable("the job is done elsewhere by now".to_owned()))
    }
}
