//! Packing on request: before a backup, a move, or a measurement.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::service::authority::Permission;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{After, Method, Operate, Tx};
use crate::service::server::Installation;
use crate::storage::metadata::pack::newest_waiting;

/// No fields.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StorePackRequest {}

/// What was packed.
#[derive(Default, Serialize, ToSchema)]
pub(in crate::service) struct PackingAnswer {
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
    const NAME: &'static str = "store.pack";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/packing";
    const PERMISSION: Permission = Permission::SystemStorePack;
    const MUTATES: bool = true;
    const SUMMARY: &'static str = "Move all bodies from the database into packs now, whatever their age";
    const WORKS_AFTER: bool = true;
    type Request = StorePackRequest;
    type Response = PackingAnswer;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a StorePackRequest) -> Result<Installation> {
        Installation::of(tx, "stores")
    }

    async fn run(tx: &mut Tx<'_>, _: Installation, _: StorePackRequest) -> Result<PackingAnswer> {
        let waits = newest_waiting(tx.conn).await?.is_some();
        tx.after = Some(serde_json::json!({ "begun": waits }));
        Ok(PackingAnswer::default())
    }

    /// Goes on to its end even if nobody waits for the answer any more.
    async fn after(done: After, _: &StorePackRequest, _: PackingAnswer) -> Result<PackingAnswer> {
        let unavailable = || ServiceError::Unavailable("nothing packs here".to_owned());
        let packer = done.inner.packer.get().ok_or_else(unavailable)?;
        let packed = packer.pack_now(done.inner.clock.now()).await?;
        Ok(PackingAnswer { packs: packed.packs, bodies: packed.bodies, octets: packed.octets })
    }
}
