//! Making, showing, changing and deleting zones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::OneZone;
use crate::base::clock::Timestamp;
use crate::base::id::{StoreId, ZoneId};
use crate::base::store_settings::is_store_name;
use crate::service::authority::{Permission, granted};
use crate::service::directory::grants::{Grant, needs_to_make, needs_where_granted, show_all};
use crate::service::directory::page::{Cursors, Page, etag, limit};
use crate::service::directory::targets::absent;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::service::server::Installation;
use crate::storage::metadata::grant::{self, GrantRow};
use crate::storage::metadata::zone::{self, Members, ZoneRow};
use crate::storage::metadata::{node, store};

/// Most zones.
const ZONES_MAX: u64 = 1_000;
/// Most mail stores, and most servers, in one.
const MEMBERS_MAX: usize = 1_000;

/// A zone.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Zone {
    name: String,
    /// Names of its mail stores.
    stores: Vec<String>,
    /// Names of its servers.
    servers: Vec<String>,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

/// A zone with the grants in it.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct ZoneDetail {
    #[serde(flatten)]
    zone: Zone,
    /// Who holds what in it, for those who see administrators everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    grants: Option<Vec<Grant>>,
    etag: String,
}

/// Zones with what is in them.
async fn shown(tx: &mut Tx<'_>, rows: &[ZoneRow]) -> Result<Vec<Zone>> {
    let keys: Vec<ZoneId> = rows.iter().map(|row| row.id).collect();
    let mut members = zone::members(tx.conn, &keys).await?;
    let stores = store::list(tx.conn).await?.into_iter().map(|store| (store.id, store.name));
    let names: BTreeMap<StoreId, String> = stores.collect();
    let show = |row: &ZoneRow| {
        let Members { stores, nodes } = members.remove(&row.id).unwrap_or_default();
        let mut stores: Vec<String> = stores.iter().filter_map(|store| names.get(store).cloned()).collect();
        stores.sort_unstable();
        let (name, servers) = (row.name.clone(), nodes.into_iter().collect());
        Zone { name, stores, servers, created_at: row.created_at }
    };
    Ok(rows.iter().map(show).collect())
}

async fn show(tx: &mut Tx<'_>, row: &ZoneRow) -> Result<Zone> {
    let gone = || ServiceError::Internal("a zone vanished inside a transaction".to_owned());
    shown(tx, std::slice::from_ref(row)).await?.pop().ok_or_else(gone)
}

/// Puts mail stores and servers of these names in; those that are there already stay.
async fn put_in(tx: &mut Tx<'_>, members: &mut Members, stores: &[String], servers: &[String]) -> Result<()> {
    for (field, asked) in [("stores", stores.len()), ("servers", servers.len())] {
        if asked > MEMBERS_MAX {
            return Err(ServiceError::Invalid { field, message: format!("expected at most {MEMBERS_MAX}") });
        }
    }
    for name in stores {
        let row = store::by_name(tx.conn, name).await?.ok_or_else(|| absent("store", name))?;
        members.stores.insert(row.id);
    }
    for name in servers {
        let row = node::find(tx.conn, name).await?.ok_or_else(|| absent("server", name))?;
        members.nodes.insert(row.id);
    }
    if members.stores.len() > MEMBERS_MAX || members.nodes.len() > MEMBERS_MAX {
        let message = format!("a zone has at most {MEMBERS_MAX} mail stores and as many servers");
        return Err(ServiceError::Limit(message));
    }
    Ok(())
}

/// A zone to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ZoneCreateRequest {
    /// Its name: a-z, 0-9, - and _.
    name: String,
    /// Names of its mail stores.
    #[serde(default)]
    stores: Vec<String>,
    /// Names of its servers.
    #[serde(default)]
    servers: Vec<String>,
}

/// `zone.create`.
pub(in crate::service) struct ZoneCreate;

impl Operate for ZoneCreate {
    declare! { "zone.create", Post, "/v1/zones", SystemZoneUpdate, changes,
    "Make a zone: mail stores and servers over which rights can be granted by themselves" }
    type Request = ZoneCreateRequest;
    type Response = Zone;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ZoneCreateRequest) -> Result<Installation> {
        Installation::of(tx, &format!("zone {}", request.name))
    }

    async fn run(tx: &mut Tx<'_>, _: Installation, request: ZoneCreateRequest) -> Result<Zone> {
        if !is_store_name(&request.name) {
            let message = "expected 1 to 63 of a-z, 0-9, - and _".to_owned();
            return Err(ServiceError::Invalid { field: "name", message });
        }
        if zone::count(tx.conn).await? >= ZONES_MAX {
            return Err(ServiceError::Limit(format!("there are {ZONES_MAX} zones already")));
        }
        let taken = || ServiceError::Conflict { message: format!("zone {} exists already", request.name) };
        let id = zone::insert(tx.conn, &request.name, tx.now).await?.ok_or_else(taken)?;
        let mut members = Members::default();
        put_in(tx, &mut members, &request.stores, &request.servers).await?;
        zone::set_members(tx.conn, id, &members).await?;
        let made = show(tx, &ZoneRow { id, name: request.name, created_at: tx.now }).await?;
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// A page of the list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ZoneListRequest {
    /// Most zones, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `zone.list`.
pub(in crate::service) struct ZoneList;

impl Operate for ZoneList {
    declare! { "zone.list", Get, "/v1/zones", SystemZoneRead, reads,
    "List zones by name with their mail stores and servers" }
    type Request = ZoneListRequest;
    type Response = Page<Zone>;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a ZoneListRequest) -> Result<Installation> {
        Installation::of(tx, "zones")
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Installation,
        _: &'a ZoneListRequest,
    ) -> Result<Vec<Need>> {
        Ok(target.needs_of_list(tx, Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: Installation, request: ZoneListRequest) -> Result<Page<Zone>> {
        let limit = limit(request.limit)?;
        let cursors = Cursors::new(tx, &"zones");
        let after: Option<String> = cursors.read(request.cursor.as_deref())?;
        let sees_all = tx.caller.may(Some(target.customer()), Self::PERMISSION);
        // There are few: those of others are left out before the page is cut.
        let most = i64::try_from(ZONES_MAX).unwrap_or(i64::MAX);
        let mut rows = zone::page(tx.conn, after.as_deref().unwrap_or_default(), most).await?;
        rows.retain(|row| sees_all || tx.caller.zones.may(row.id, Self::PERMISSION));
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1));
        let zones = shown(tx, &rows).await?;
        Page::cut(zones, limit, &cursors, |zone| zone.name.clone(), |zone| zone)
    }
}

/// Which zone.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ZoneRequest {
    /// Its name.
    name: String,
}

/// `zone.show`.
pub(in crate::service) struct ZoneShow;

impl Operate for ZoneShow {
    declare! { "zone.show", Get, "/v1/zones/{name}", SystemZoneRead, reads,
    "A zone, its mail stores and servers, and who holds what in it" }
    type Request = ZoneRequest;
    type Response = ZoneDetail;
    type Target = OneZone;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ZoneRequest) -> Result<OneZone> {
        OneZone::find(tx, &request.name).await
    }

    async fn needs<'a>(_: &'a mut Tx<'_>, target: &'a OneZone, _: &'a ZoneRequest) -> Result<Vec<Need>> {
        Ok(target.needs(Self::PERMISSION))
    }

    async fn run(tx: &mut Tx<'_>, target: OneZone, _: ZoneRequest) -> Result<ZoneDetail> {
        let zone = show(tx, &target.row).await?;
        let grants = match tx.caller.may(Some(target.customer()), Permission::AdministratorRead) {
            true => {
                let rows = grant::in_zone(tx.conn, target.row.id).await?;
                Some(show_all(tx, rows, None).await?)
            }
            false => None,
        };
        Ok(ZoneDetail { etag: etag(&zone, &[])?, zone, grants })
    }
}

/// What to put in and take out; the rest stays.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ZoneUpdateRequest {
    /// Its name.
    name: String,
    /// Names of mail stores that it has from now on.
    #[serde(default)]
    add_stores: Vec<String>,
    /// Names of mail stores that it has no more.
    #[serde(default)]
    remove_stores: Vec<String>,
    /// Names of servers that it has from now on.
    #[serde(default)]
    add_servers: Vec<String>,
    /// Names of servers that it has no more; they need not be there any more.
    #[serde(default)]
    remove_servers: Vec<String>,
}

/// Grants in a zone that have not ended.
async fn lasting(tx: &mut Tx<'_>, zone: ZoneId) -> Result<Vec<GrantRow>> {
    let mut rows = grant::in_zone(tx.conn, zone).await?;
    rows.retain(|row| row.expires_at.is_none_or(|end| tx.now < end));
    Ok(rows)
}

/// `zone.update`.
pub(in crate::service) struct ZoneUpdate;

impl Operate for ZoneUpdate {
    declare! { "zone.update", Patch, "/v1/zones/{name}", SystemZoneUpdate, changes,
    "Change which mail stores and servers are in a zone; counts at once for those who hold grants in it" }
    type Request = ZoneUpdateRequest;
    type Response = Zone;
    type Target = OneZone;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ZoneUpdateRequest) -> Result<OneZone> {
        OneZone::find(tx, &request.name).await
    }

    /// All that is granted in the zone, so that it may be passed on over whatever there is.
    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneZone,
        _: &'a ZoneUpdateRequest,
    ) -> Result<Vec<Need>> {
        let mut needs = vec![Need::at(target.customer(), Self::PERMISSION)];
        for row in lasting(tx, target.row.id).await? {
            let given = needs_where_granted(&row, granted(&tx.caller.tree, &row));
            needs.extend(given.map(|need| Need { zone: None, ..need }));
        }
        Ok(needs)
    }

    async fn etag<'a>(tx: &'a mut Tx<'_>, target: &'a OneZone) -> Result<Option<String>> {
        etag(&show(tx, &target.row).await?, &[]).map(Some)
    }

    async fn run(tx: &mut Tx<'_>, target: OneZone, request: ZoneUpdateRequest) -> Result<Zone> {
        let before = show(tx, &target.row).await?;
        let id = target.row.id;
        let mut members = zone::members(tx.conn, &[id]).await?.remove(&id).unwrap_or_default();
        for name in &request.remove_stores {
            let row = store::by_name(tx.conn, name).await?;
            let was_there = row.is_some_and(|row| members.stores.remove(&row.id));
            was_there.then_some(()).ok_or_else(|| absent("store", name))?;
        }
        for name in &request.remove_servers {
            members.nodes.remove(name).then_some(()).ok_or_else(|| absent("server", name))?;
        }
        put_in(tx, &mut members, &request.add_stores, &request.add_servers).await?;
        zone::set_members(tx.conn, id, &members).await?;
        let after = show(tx, &target.row).await?;
        tx.before = serde_json::to_value(&before).ok();
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// A zone that was deleted.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct ZoneDeleted {
    #[serde(flatten)]
    zone: Zone,
    /// The grants that ended with it.
    grants: Vec<Grant>,
}

/// `zone.delete`: the grants in it end with it.
pub(in crate::service) struct ZoneDelete;

impl Operate for ZoneDelete {
    declare! { "zone.delete", Delete, "/v1/zones/{name}", SystemZoneUpdate, changes,
    "Delete a zone; the grants in it end with it, its mail stores and servers stay" }
    type Request = ZoneRequest;
    type Response = ZoneDeleted;
    type Target = OneZone;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a ZoneRequest) -> Result<OneZone> {
        OneZone::find(tx, &request.name).await
    }

    async fn needs<'a>(tx: &'a mut Tx<'_>, target: &'a OneZone, _: &'a ZoneRequest) -> Result<Vec<Need>> {
        let mut needs = vec![Need::at(target.customer(), Self::PERMISSION)];
        for row in lasting(tx, target.row.id).await? {
            needs.extend(needs_to_make(&tx.caller.tree, &row));
        }
        Ok(needs)
    }

    async fn run(tx: &mut Tx<'_>, target: OneZone, _: ZoneRequest) -> Result<ZoneDeleted> {
        let zone = show(tx, &target.row).await?;
        let rows = grant::in_zone(tx.conn, target.row.id).await?;
        let grants = show_all(tx, rows, None).await?;
        zone::delete(tx.conn, target.row.id).await?;
        tx.before = Some(serde_json::json!({ "zone": &zone, "grants": &grants }));
        Ok(ZoneDeleted { zone, grants })
    }
}
