//! Mail stores, for those who run the servers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::identity::Nothing;
use super::targets::absent;
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Operate, Targeted, Tx, declare};
use crate::storage::metadata::store::{self, StoreRow};

/// What concerns the servers belongs to the root.
pub(in crate::service) struct Servers(pub CustomerId);

impl Servers {
    /// The root.
    pub fn find(tx: &Tx<'_>) -> Result<Self> {
        let root = tx.caller.tree.root().map(|root| Self(root.id));
        root.ok_or_else(|| ServiceError::Internal("the hierarchy has no root".to_owned()))
    }
}

impl Targeted for Servers {
    fn customer(&self) -> CustomerId {
        self.0
    }

    fn label(&self) -> String {
        "servers".to_owned()
    }
}

/// A mail store.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Store {
    name: String,
    path: String,
    /// `online`, `read-only`, `draining` or `stopped`.
    state: String,
    /// zstd level.
    compression_level: i64,
    /// Mailboxes placed on it.
    mailboxes: i64,
    /// Pack files.
    packs: i64,
    /// Octets of its pack files.
    pack_octets: i64,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

async fn show(tx: &mut Tx<'_>, row: StoreRow) -> Result<Store> {
    let used = store::usage(tx.conn, row.id).await?;
    Ok(Store {
        name: row.name,
        path: row.path,
        state: row.state,
        compression_level: row.compression_level,
        mailboxes: used.mailboxes,
        packs: used.packs,
        pack_octets: used.pack_octets,
        created_at: row.created_at,
    })
}

/// All mail stores.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Stores {
    items: Vec<Store>,
}

/// `store.list`.
pub(in crate::service) struct StoreList;

impl Operate for StoreList {
    declare! { "store.list", Get, "/v1/stores", SystemStoreRead, reads, "List the mail stores" }
    type Request = Nothing;
    type Response = Stores;
    type Target = Servers;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a Nothing) -> Result<Servers> {
        Servers::find(tx)
    }

    async fn run(tx: &mut Tx<'_>, _: Servers, _: Nothing) -> Result<Stores> {
        let mut items = Vec::new();
        for row in store::list(tx.conn).await? {
            items.push(show(tx, row).await?);
        }
        Ok(Stores { items })
    }
}

/// Which store.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct StoreRequest {
    /// Its name.
    name: String,
}

/// `store.show`.
pub(in crate::service) struct StoreShow;

impl Operate for StoreShow {
    declare! { "store.show", Get, "/v1/stores/{name}", SystemStoreRead, reads, "Show a mail store" }
    type Request = StoreRequest;
    type Response = Store;
    type Target = Servers;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a StoreRequest) -> Result<Servers> {
        Servers::find(tx)
    }

    async fn run(tx: &mut Tx<'_>, _: Servers, request: StoreRequest) -> Result<Store> {
        let found = store::list(tx.conn).await?.into_iter().find(|row| row.name == request.name);
        show(tx, found.ok_or_else(|| absent("store", &request.name))?).await
    }
}
