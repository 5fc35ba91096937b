//! Starting mail stores: what is wrong is found before mail goes there again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::show::OneStore;
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue_about};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::service::server::starting;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::store::{self, StoreState};
use crate::storage::volumes::check::{Wish, check};

/// Which store to start, and how.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreStartRequest {
    /// The store's name.
    name: String,
    /// Only to be read.
    #[serde(default)]
    read_only: bool,
    /// Whatever is found: what is missing stays unavailable, and the folder is taken as it is.
    #[serde(default)]
    force: bool,
}

/// What was found.
#[derive(Serialize)]
pub(in crate::service) struct StartReport {
    /// The state since then.
    state: &'static str,
    /// Packs that were looked for on the volume.
    packs: u64,
    /// What is wrong, the first hundred; the store was started nevertheless because that was asked for.
    problems: Vec<String>,
}

/// `store.start`.
pub(in crate::service) struct StoreStart;

impl Operate for StoreStart {
    declare! { "store.start", Post, "/v1/stores/{name}/start", SystemStoreUpdate, changes,
    "Start a mail store after its folder, packs and object storage were looked at" }
    const STARTS_JOB: bool = true;
    type Request = StoreStartRequest;
    type Response = Job;
    type Target = OneStore;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreStartRequest) -> Result<OneStore> {
        OneStore::find(tx, &request.name, Self::PERMISSION).await
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a OneStore,
        _: &'a StoreStartRequest,
    ) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneStore, request: StoreStartRequest) -> Result<Job> {
        let store = target.id()?;
        enqueue_about::<Starting>(tx, store, &target, &request).await
    }
}

/// The work of `store.start`. It looks at everything again after a restart.
pub(in crate::service) struct Starting;

impl Work for Starting {
    const KIND: &'static str = StoreStart::NAME;
    const PERMISSION: Permission = StoreStart::PERMISSION;
    const BOUND: bool = true;
    type Request = StoreStartRequest;
    type Report = StartReport;

    async fn run(context: JobContext, request: StoreStartRequest, _: String) -> Outcome<StartReport> {
        let bodies = context.inner.bodies.get().ok_or_else(starting)?;
        let store = super::found(&context, &request.name).await?;
        let wish = Wish { writes: !request.read_only, takes_folder: request.force };
        let found = check(bodies, store.id, wish, &context).await?;
        if !found.problems.is_empty() && !request.force {
            let message = found.problems.join("\n");
            return Err(ServiceError::Conflict { message }.into());
        }
        context.go_on()?;
        let state = if request.read_only { StoreState::ReadOnly } else { StoreState::Online };
        let write = context.inner.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move { Ok::<_, ServiceError>(store::set_state(conn, store.id, state).await?) })
        });
        write.await?;
        bodies.volumes().inspect().await?;
        Ok(StartReport { state: state.name(), packs: found.packs, problems: found.problems })
    }
}
