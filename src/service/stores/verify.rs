//! Looking whether what a mail store keeps can be read, and whether its places work.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::show::{OneStore, StoreRequest};
use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue_about};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::service::server::starting;
use crate::storage::verify::{Damage, Verification, verify};
use crate::storage::volumes::check::probe;

/// Which store to read back.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreVerifyRequest {
    /// The store's name.
    name: String,
    /// Only so many percent of the packs, chosen at random: 1 to 100. All without a number.
    sample_percent: Option<u32>,
}

/// What was found.
#[derive(Serialize)]
pub(in crate::service) struct VerifyReport {
    /// Copies of packs that were read.
    packs: u64,
    /// Bodies that were read.
    bodies: u64,
    /// Octets of their frames.
    octets: u64,
    /// Damages that were found.
    damage: u64,
    /// The first hundred of them.
    damaged: Vec<Damage>,
}

impl From<&Verification> for VerifyReport {
    fn from(done: &Verification) -> Self {
        let Verification { packs, bodies, octets, damage, damaged, .. } = done;
        let damaged = damaged.clone();
        Self { packs: *packs, bodies: *bodies, octets: *octets, damage: *damage, damaged }
    }
}

/// `store.verify`.
pub(in crate::service) struct StoreVerify;

impl Operate for StoreVerify {
    declare! { "store.verify", Post, "/v1/stores/{name}/verify", SystemStorePack, changes,
    "Read packs of a mail store back, local and remote, and compare everything with its checksums" }
    const STARTS_JOB: bool = true;
    type Request = StoreVerifyRequest;
    type Response = Job;
    type Target = OneStore;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreVerifyRequest) -> Result<OneStore> {
        OneStore::find(tx, &request.name, Self::PERMISSION).await
    }

    async fn needs<'a>(
        _: &'a mut Tx<'_>,
        target: &'a OneStore,
        _: &'a StoreVerifyRequest,
    ) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneStore, request: StoreVerifyRequest) -> Result<Job> {
        let store = target.id()?;
        if request.sample_percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            let message = "expected 1 to 100".to_owned();
            return Err(ServiceError::Invalid { field: "sample_percent", message });
        }
        enqueue_about::<Verifying>(tx, store, &target, &request).await
    }
}

/// The work of `store.verify`: it goes on behind the last pack that was read.
pub(in crate::service) struct Verifying;

impl Work for Verifying {
    const KIND: &'static str = StoreVerify::NAME;
    const PERMISSION: Permission = StoreVerify::PERMISSION;
    const BOUND: bool = true;
    type Request = StoreVerifyRequest;
    type Report = VerifyReport;

    async fn run(
        context: JobContext,
        request: StoreVerifyRequest,
        position: String,
    ) -> Outcome<VerifyReport> {
        let bodies = context.inner.bodies.get().ok_or_else(starting)?;
        let store = super::found(&context, &request.name).await?;
        let wrong = |error: serde_json::Error| ServiceError::Internal(format!("position: {error}"));
        let so_far: Verification = match position.as_str() {
            "" => Verification::default(),
            text => serde_json::from_str(text).map_err(wrong)?,
        };
        let each = |done: &Verification| {
            if let (Ok(position), Ok(report)) =
                (serde_json::to_string(done), serde_json::to_string(&VerifyReport::from(done)))
            {
                context.save_position(position);
                context.report(report);
            }
        };
        let percent = request.sample_percent.unwrap_or(100);
        let done = verify(bodies, store.id, percent, so_far, (context.now(), &context), each).await?;
        Ok(VerifyReport::from(&done))
    }
}

/// What a probe has found.
#[derive(Serialize)]
pub(in crate::service) struct ProbeReport {
    /// `works`, `read` when nothing may be written, or what is wrong.
    folder: String,
    /// Octets that are free there.
    free_octets: u64,
    /// `works`, `none`, or what is wrong.
    remote: String,
    /// How long object storage took, in milliseconds.
    remote_millis: u64,
    /// Whether nothing is wrong.
    works: bool,
}

/// `store.probe`.
pub(in crate::service) struct StoreProbe;

impl Operate for StoreProbe {
    declare! { "store.probe", Post, "/v1/stores/{name}/probe", SystemStorePack, changes,
    "Write, read and remove something small in the folder of a mail store and in its object storage" }
    const STARTS_JOB: bool = true;
    type Request = StoreRequest;
    type Response = Job;
    type Target = OneStore;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreRequest) -> Result<OneStore> {
        OneStore::find(tx, &request.name, Self::PERMISSION).await
    }

    async fn needs<'a>(_: &'a mut Tx<'_>, target: &'a OneStore, _: &'a StoreRequest) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneStore, request: StoreRequest) -> Result<Job> {
        let store = target.id()?;
        enqueue_about::<Probing>(tx, store, &target, &request).await
    }
}

/// The work of `store.probe`.
pub(in crate::service) struct Probing;

impl Work for Probing {
    const KIND: &'static str = StoreProbe::NAME;
    const PERMISSION: Permission = StoreProbe::PERMISSION;
    const BOUND: bool = true;
    type Request = StoreRequest;
    type Report = ProbeReport;

    async fn run(context: JobContext, request: StoreRequest, _: String) -> Outcome<ProbeReport> {
        let bodies = context.inner.bodies.get().ok_or_else(starting)?;
        let store = super::found(&context, &request.name).await?;
        let found = probe(bodies, store.id).await?;
        Ok(ProbeReport {
            folder: found.folder,
            free_octets: found.free_octets,
            remote: found.remote,
            remote_millis: found.remote_millis,
            works: found.works,
        })
    }
}
