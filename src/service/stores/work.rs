//! Sending packs to object storage and writing them anew on request.

use serde::Serialize;

use super::show::{OneStore, StoreRequest};
use crate::service::authority::Permission;
use crate::service::error::Result;
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue_about};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::service::server::starting;
use crate::storage::offload::Offloaded;

/// What was done.
#[derive(Serialize)]
pub(in crate::service) struct OffloadReport {
    /// Packs sent to object storage.
    uploaded: u64,
    /// Their octets.
    uploaded_octets: u64,
    /// Local copies removed.
    removed: u64,
    /// Their octets.
    removed_octets: u64,
    /// Packs written anew.
    rewritten: u64,
    /// Their octets.
    rewritten_octets: u64,
    /// Octets of what they became.
    became_octets: u64,
    /// Damaged bodies that were found and stay where they are.
    damaged: u64,
}

impl From<Offloaded> for OffloadReport {
    fn from(done: Offloaded) -> Self {
        Self {
            uploaded: done.uploaded,
            uploaded_octets: done.uploaded_octets,
            removed: done.removed,
            removed_octets: done.removed_octets,
            rewritten: done.rewritten,
            rewritten_octets: done.rewritten_octets,
            became_octets: done.became_octets,
            damaged: done.damaged,
        }
    }
}

/// `store.offload`.
pub(in crate::service) struct StoreOffload;

impl Operate for StoreOffload {
    declare! { "store.offload", Post, "/v1/stores/{name}/offload", SystemStorePack, changes,
    "Send all packs of a mail store to object storage now and remove the local copies" }
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
        enqueue_about::<Offloading>(tx, store, &target, &request).await
    }
}

/// The work of `store.offload`. What was done stays so, whenever it ends: it needs no position.
pub(in crate::service) struct Offloading;

impl Work for Offloading {
    const KIND: &'static str = StoreOffload::NAME;
    const PERMISSION: Permission = StoreOffload::PERMISSION;
    const BOUND: bool = true;
    type Request = StoreRequest;
    type Report = OffloadReport;

    async fn run(context: JobContext, request: StoreRequest, _: String) -> Outcome<OffloadReport> {
        let offloader = context.inner.offloader.get().ok_or_else(starting)?;
        let store = super::found(&context, &request.name).await?;
        let done = offloader.offload_now(store.id, context.now(), &context).await?;
        context.go_on()?;
        Ok(done.into())
    }
}

/// `store.compact`.
pub(in crate::service) struct StoreCompact;

impl Operate for StoreCompact {
    declare! { "store.compact", Post, "/v1/stores/{name}/compact", SystemStorePack, changes,
    "Write packs of a mail store anew now that hold anything dead or were written with older settings" }
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
        enqueue_about::<Compacting>(tx, store, &target, &request).await
    }
}

/// The work of `store.compact`. What was done stays so, whenever it ends: it needs no position.
pub(in crate::service) struct Compacting;

impl Work for Compacting {
    const KIND: &'static str = StoreCompact::NAME;
    const PERMISSION: Permission = StoreCompact::PERMISSION;
    const BOUND: bool = true;
    type Request = StoreRequest;
    type Report = OffloadReport;

    async fn run(context: JobContext, request: StoreRequest, _: String) -> Outcome<OffloadReport> {
        let offloader = context.inner.offloader.get().ok_or_else(starting)?;
        let store = super::found(&context, &request.name).await?;
        let done = offloader.compact_now(store.id, context.now(), &context).await?;
        context.go_on()?;
        Ok(done.into())
    }
}
