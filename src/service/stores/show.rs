//! Mail stores: what there is, and what they hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, StoreId, ZoneId};
use crate::base::store_settings::all;
use crate::service::authority::Permission;
use crate::service::directory::page::{Cursors, Page, etag, limit};
use crate::service::directory::targets::absent;
use crate::service::error::Result;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::service::server::Installation;
use crate::storage::metadata::rewrite;
use crate::storage::metadata::store::{self, StoreRow};
use crate::storage::metadata::volume::{self, Volume};

/// Damaged packs that are shown.
const DAMAGED_SHOWN_MAX: i64 = 100;

/// A mail store as it is set up.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Store {
    name: String,
    path: String,
    /// `online`, `read-only`, `draining` or `stopped`.
    state: String,
    /// Every setting with its value; secrets are not shown.
    settings: BTreeMap<&'static str, String>,
    /// Settings that the configuration file gives; they cannot be changed here.
    fixed: Vec<String>,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

/// What can be told of a store.
pub(super) fn set_up(row: &StoreRow) -> Store {
    Store {
        name: row.name.clone(),
        path: row.path.clone(),
        state: row.state.name().to_owned(),
        settings: all().map(|setting| (setting.name, row.settings.shown(setting))).collect(),
        fixed: row.fixed.clone(),
        created_at: row.created_at,
    }
}

/// A mail store and what it holds.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct StoreAnswer {
    #[serde(flatten)]
    store: Store,
    /// What is wrong with its folder on the node that answers: there it counts as stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
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
    /// Packs in which damage was found.
    damaged_packs: i64,
}

fn answer(tx: &Tx<'_>, volume: Volume) -> StoreAnswer {
    let troubles = tx.inner.bodies.get().map(|bodies| bodies.volumes().troubles()).unwrap_or_default();
    StoreAnswer {
        store: set_up(&volume.row),
        trouble: troubles.get(&volume.row.id).cloned(),
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
        damaged_packs: volume.damaged_packs,
    }
}

/// A mail store with all that is known of it.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct StoreDetail {
    #[serde(flatten)]
    store: StoreAnswer,
    /// Packs in which damage was found, the first hundred; it is looked at again once a day.
    damaged: Vec<DamagedPack>,
    etag: String,
}

/// A pack in which damage was found.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DamagedPack {
    /// Its name.
    pack: String,
    /// Bodies that cannot be read; 0 when none of it can.
    bodies: i64,
    /// When damage was last found.
    #[schema(value_type = String)]
    found_at: Timestamp,
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
    declare! { "store.list", Get, "/v1/stores", SystemStoreRead, reads,
    "Mail stores and what they hold" }
    type Request = StoreListRequest;
    type Response = Page<StoreAnswer>;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a StoreListRequest) -> Result<Installation> {
        Installation::of(tx, "stores")
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Installation,
        _: &'a StoreListRequest,
    ) -> Result<Vec<Need>> {
        Ok(target.needs_of_list(tx, Self::PERMISSION))
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: Installation,
        request: StoreListRequest,
    ) -> Result<Page<StoreAnswer>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &"stores");
        let after: Option<i64> = cursors.read(request.cursor.as_deref())?;
        let mut volumes = volume::list(tx.conn).await?;
        if !tx.caller.may(Some(target.customer()), Self::PERMISSION) {
            let zoned = tx.caller.zones.stores(Self::PERMISSION);
            volumes.retain(|volume| zoned.contains(&volume.row.id));
        }
        volumes.retain(|volume| after.is_none_or(|after| volume.row.id.0 > after));
        Page::cut(volumes, limit, &cursors, |volume| volume.row.id.0, |volume| answer(tx, volume))
    }
}

/// Which store.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreRequest {
    /// Its name.
    pub(super) name: String,
}

/// One mail store.
pub(in crate::service) struct OneStore {
    place: Installation,
    name: String,
    row: Option<StoreRow>,
    zone: Option<ZoneId>,
}

impl OneStore {
    /// Finds it for an operation that takes `permission`. That a store does not exist is told only to who has that,
    /// and, as of those elsewhere, to who has it or sees stores in a zone: whoever has not gets one answer for all
    /// names.
    ///
    /// # Errors
    /// `NotFound` for who has rights in zones only, when it is in none of them.
    pub async fn find(tx: &mut Tx<'_>, name: &str, permission: Permission) -> Result<Self> {
        let one = Self::find_anywhere(tx, name, permission).await?;
        let held = [permission, Permission::SystemStoreRead];
        let root = Some(one.place.customer());
        let zones = &tx.caller.zones;
        if tx.caller.may(root, permission) || held.iter().all(|&one| zones.any(one).is_none()) {
            return Ok(one);
        }
        let row = store::by_name(tx.conn, name).await?;
        let zone = row.as_ref().and_then(|row| held.iter().find_map(|&one| zones.of_store(row.id, one)));
        match zone {
            Some(_) => Ok(Self { row, zone, ..one }),
            // Who sees them all, but may not: one answer for all names.
            None if tx.caller.may(root, Permission::SystemStoreRead) => Ok(one),
            None => Err(absent("store", name)),
        }
    }

    /// As [`Self::find`], for what zones give nobody.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find_anywhere(tx: &mut Tx<'_>, name: &str, permission: Permission) -> Result<Self> {
        let place = Installation::of(tx, &format!("store {name}"))?;
        let may = tx.caller.may(Some(place.customer()), permission);
        let row = if may { store::by_name(tx.conn, name).await? } else { None };
        Ok(Self { place, name: name.to_owned(), row, zone: None })
    }

    /// What is needed for an operation that takes this permission.
    pub fn needs(&self, permission: Permission) -> Vec<Need> {
        vec![Need::in_zone(self.place.customer(), permission, self.zone)]
    }

    /// Its key, for jobs about it.
    ///
    /// # Errors
    /// As [`Self::row`].
    pub fn id(&self) -> Result<StoreId> {
        self.row().map(|row| row.id)
    }

    /// The store.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn row(&self) -> Result<&StoreRow> {
        self.row.as_ref().ok_or_else(|| absent("store", &self.name))
    }

    /// Its entity tag: what stands there, without what it holds.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn etag(&self) -> Result<Option<String>> {
        self.row.as_ref().map(|row| etag(&set_up(row), &[])).transpose()
    }
}

impl Targeted for OneStore {
    fn customer(&self) -> CustomerId {
        self.place.customer()
    }

    fn label(&self) -> String {
        self.place.label()
    }

    fn is_in_zone(&self) -> bool {
        self.zone.is_some()
    }
}

/// `store.show`.
pub(in crate::service) struct StoreShow;

impl Operate for StoreShow {
    declare! { "store.show", Get, "/v1/stores/{name}", SystemStoreRead, reads,
    "A mail store and what it holds" }
    type Request = StoreRequest;
    type Response = StoreDetail;
    type Target = OneStore;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a StoreRequest) -> Result<OneStore> {
        OneStore::find(tx, &request.name, Self::PERMISSION).await
    }

    async fn needs<'a>(_: &'a mut Tx<'_>, target: &'a OneStore, _: &'a StoreRequest) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneStore, request: StoreRequest) -> Result<StoreDetail> {
        let store = target.row()?.id;
        let volumes = volume::list(tx.conn).await?;
        let volume = volumes.into_iter().find(|volume| volume.row.id == store);
        let volume = volume.ok_or_else(|| absent("store", &request.name))?;
        let damaged = rewrite::damaged(tx.conn, store, DAMAGED_SHOWN_MAX).await?;
        let damaged = damaged.into_iter().map(|(pack, bodies, found_at)| DamagedPack {
            pack: pack.to_string(),
            bodies,
            found_at,
        });
        let etag = etag(&set_up(&volume.row), &[])?;
        Ok(StoreDetail { store: answer(tx, volume), damaged: damaged.collect(), etag })
    }
}
