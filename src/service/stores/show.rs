//! Mail stores: what there is, and what they hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::base::store_settings::all;
use crate::service::authority::Permission;
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Method, Operate, Targeted, Tx};
use crate::service::server::Installation;
use crate::storage::metadata::volume::{self, Volume};

/// A mail store.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct StoreAnswer {
    name: String,
    path: String,
    /// `online`, `read-only`, `draining` or `stopped`.
    state: String,
    /// Every setting with its value.
    settings: BTreeMap<&'static str, String>,
    /// Settings that the configuration file gives; they cannot be changed here.
    fixed: Vec<String>,
    #[schema(value_type = String)]
    created_at: Timestamp,
    /// Mailboxes placed on it, deleted ones that can come back too.
    mailboxes: i64,
    /// Bodies: each counts once, however many messages refer to it.
    bodies: i64,
    /// Bodies that are still in the database.
    fresh_bodies: i64,
    /// Bodies in packs.
    packed_bodies: i64,
    /// Octets of the bodies as they were received.
    octets: i64,
    /// Octets of the bodies as they are kept.
    stored_octets: i64,
    /// Pack files.
    packs: i64,
    /// Octets of the pack files.
    pack_octets: i64,
    /// Octets in pack files that belong to nothing any more.
    dead_octets: i64,
    /// Octets of pack files on the volume, superseded ones that are about to go too.
    local_octets: i64,
    /// Octets of packs in object storage, superseded ones that are about to go too.
    remote_octets: i64,
    /// Octets by which the bodies are kept smaller than they were received.
    saved_octets: i64,
}

fn answer(volume: Volume) -> StoreAnswer {
    StoreAnswer {
        name: volume.name,
        path: volume.path,
        state: volume.state,
        settings: all().map(|setting| (setting.name, volume.settings.shown(setting))).collect(),
        fixed: volume.fixed,
        created_at: volume.created_at,
        mailboxes: volume.mailboxes,
        bodies: volume.fresh_bodies + volume.packed_bodies,
        fresh_bodies: volume.fresh_bodies,
        packed_bodies: volume.packed_bodies,
        octets: volume.octets,
        stored_octets: volume.stored_octets,
        packs: volume.packs,
        pack_octets: volume.pack_octets,
        dead_octets: volume.dead_octets,
        local_octets: volume.local_octets,
        remote_octets: volume.remote_octets,
        saved_octets: volume.octets.saturating_sub(volume.stored_octets),
    }
}

/// A page of the list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreListRequest {
    /// Most stores, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `store.list`.
pub(in crate::service) struct StoreList;

impl Operate for StoreList {
    const NAME: &'static str = "store.list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/stores";
    const PERMISSION: Permission = Permission::SystemStoreRead;
    const MUTATES: bool = false;
    const SUMMARY: &'static str = "Mail stores and what they hold";
    type Request = StoreListRequest;
    type Response = Page<StoreAnswer>;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a StoreListRequest) -> Result<Installation> {
        Installation::of(tx, "stores")
    }

    async fn run(tx: &mut Tx<'_>, _: Installation, request: StoreListRequest) -> Result<Page<StoreAnswer>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &"stores");
        let after: Option<i64> = cursors.read(request.cursor.as_deref())?;
        let mut volumes = volume::list(tx.conn).await?;
        volumes.retain(|volume| after.is_none_or(|after| volume.id.0 > after));
        Page::cut(volumes, limit, &cursors, |volume| volume.id.0, answer)
    }
}

/// Which store.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreShowRequest {
    /// Its name.
    name: String,
}

/// One mail store.
pub(in crate::service) struct OneStore {
    place: Installation,
    volume: Option<Volume>,
}

impl Targeted for OneStore {
    fn customer(&self) -> CustomerId {
        self.place.customer()
    }

    fn label(&self) -> String {
        self.place.label()
    }
}

/// `store.show`.
pub(in crate::service) struct StoreShow;

impl Operate for StoreShow {
    const NAME: &'static str = "store.show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/stores/{name}";
    const PERMISSION: Permission = Permission::SystemStoreRead;
    const MUTATES: bool = false;
    const SUMMARY: &'static str = "A mail store and what it holds";
    type Request = StoreShowRequest;
    type Response = StoreAnswer;
    type Target = OneStore;

    /// That a store does not exist is told only to who may see stores: whoever may not gets one answer for all names.
    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreShowRequest) -> Result<OneStore> {
        let place = Installation::of(tx, &format!("store {}", request.name))?;
        let may = tx.caller.may(Some(place.customer()), Permission::SystemStoreRead);
        let volumes = if may { volume::list(tx.conn).await? } else { Vec::new() };
        Ok(OneStore { place, volume: volumes.into_iter().find(|volume| volume.name == request.name) })
    }

    async fn run(_: &mut Tx<'_>, target: OneStore, request: StoreShowRequest) -> Result<StoreAnswer> {
        let absent = || ServiceError::NotFound { what: format!("store {}", request.name) };
        target.volume.map(answer).ok_or_else(absent)
    }
}
