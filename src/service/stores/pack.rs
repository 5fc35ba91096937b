//! Packing on request: before a backup, a move, or a measurement.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Stop, Work, enqueue};
use crate::service::registry::{Operate, Targeted as _, Tx, declare};
use crate::service::server::{Installation, starting};
use crate::storage::StorageError;
use crate::storage::metadata::instance;

/// How often it looks how many bodies are left.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// No fields.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StorePackRequest {}

/// What was packed.
#[derive(Serialize)]
pub(in crate::service) struct PackingReport {
    /// Packs written.
    packs: u64,
    /// Bodies in them.
    bodies: u64,
    /// Octets of their files.
    octets: u64,
}

/// `store.pack`.
pub(in crate::service) struct StorePack;

impl Operate for StorePack {
    declare! { "store.pack", Post, "/v1/packing", SystemStorePack, changes,
    "Move all bodies from the database into packs now, whatever their age, and bring the \
                                   catalogs up to date" }
    const STARTS_JOB: bool = true;
    type Request = StorePackRequest;
    type Response = Job;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a StorePackRequest) -> Result<Installation> {
        Installation::of(tx, "stores")
    }

    async fn run(tx: &mut Tx<'_>, target: Installation, request: StorePackRequest) -> Result<Job> {
        enqueue::<Packing>(tx, target.customer(), &target.label(), &request).await
    }
}

/// The work of `store.pack`. What was packed stays so, whenever it ends: it needs no position.
pub(in crate::service) struct Packing;

impl Work for Packing {
    const KIND: &'static str = StorePack::NAME;
    const PERMISSION: Permission = StorePack::PERMISSION;
    const BOUND: bool = true;
    type Request = StorePackRequest;
    type Report = PackingReport;

    async fn run(context: JobContext, _: StorePackRequest, _: String) -> Outcome<PackingReport> {
        let packer = context.inner.packer.get().ok_or_else(starting)?;
        let total = waiting(&context).await?;
        context.advance(0, Some(total), "bodies");
        let mut pass = std::pin::pin!(packer.pack_everything(context.now()));
        loop {
            tokio::select! {
                packed = &mut pass => {
                    let packed = packed?;
                    context.advance(total.max(packed.bodies), Some(total.max(packed.bodies)), "bodies");
                    if let Some(catalogs) = context.inner.catalogs.get() {
                        catalogs.write_all(context.now()).await?;
                    }
                    let report =
                        PackingReport { packs: packed.packs, bodies: packed.bodies, octets: packed.octets };
                    return Ok(report);
                }
                () = context.cancelled() => return Err(Stop::Interrupted),
                () = tokio::time::sleep(LOOK_INTERVAL) => {
                    let left = waiting(&context).await?;
                    context.advance(total.saturating_sub(left), Some(total), "bodies");
                }
            }
        }
    }
}

async fn waiting(context: &JobContext) -> Result<u64> {
    let levels = context.inner.database.read(|conn| Box::pin(instance::storage_levels(conn))).await;
    levels.map(|levels| levels.fresh_bodies).map_err(|error: StorageError| ServiceError::from(error))
}
