//! Which mail store new mailboxes of a customer go to. It constrains the customer, so the right to say so is held above
//! it; stores are named only by those who may see them all, or as far as they are allowed to the customer.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::id::{CustomerId, StoreId};
use crate::service::audit::names;
use crate::service::authority::Permission;
use crate::service::directory::customer_limits::given;
use crate::service::directory::targets::{OneCustomer, absent};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::placement::{self, Placement};
use crate::storage::metadata::store::{self, StoreRow};

/// Most stores that a customer can be allowed.
const ALLOWED_MAX: usize = 100;

/// The mail stores as they concern one customer, for one caller.
pub(in crate::service) struct Stores {
    all: Vec<StoreRow>,
    placement: Placement,
    sees_all: bool,
    /// Those besides that the caller may know from a zone.
    zoned: BTreeSet<StoreId>,
}

impl Stores {
    /// For a customer.
    pub async fn of(tx: &mut Tx<'_>, customer: CustomerId) -> Result<Self> {
        let all = store::list(tx.conn).await?;
        let placement = placement::of(tx.conn, customer).await?;
        let root = tx.caller.tree.root().map(|root| root.id);
        let sees_all = tx.caller.may(root, Permission::SystemStoreRead);
        Ok(Self { all, placement, sees_all, zoned: BTreeSet::new() })
    }

    /// The same, with these known to the caller.
    #[must_use]
    pub fn knowing(self, zoned: BTreeSet<StoreId>) -> Self {
        Self { zoned, ..self }
    }

    /// The store of this name, if the caller may know it.
    ///
    /// # Errors
    /// `NotFound`, whether there is none or it may not be known.
    pub fn named(&self, name: &str) -> Result<&StoreRow> {
        let known = |store: &&StoreRow| store.name == name && self.is_known(store.id);
        self.all.iter().find(known).ok_or_else(|| absent("store", name))
    }

    fn is_known(&self, store: StoreId) -> bool {
        self.sees_all || self.placement.names(store) || self.zoned.contains(&store)
    }

    /// The store of this name, which must take mailboxes.
    ///
    /// # Errors
    /// As [`Self::named`]; `Conflict` when it takes none.
    pub fn open(&self, name: &str) -> Result<StoreId> {
        let store = self.named(name)?;
        if store.state.takes_mailboxes() {
            return Ok(store.id);
        }
        let message = format!("store {name} is {}: it takes no mailboxes", store.state.name());
        Err(ServiceError::Conflict { message })
    }

    /// The store for a new mailbox: the one that is asked for, or where the customer's go.
    ///
    /// # Errors
    /// As [`Self::open`]; `Unavailable` when no store takes mailboxes.
    pub fn place(&self, name: Option<&str>) -> Result<StoreId> {
        match name {
            Some(name) => self.open(name),
            None => self.placement.choose(&self.all, None).ok_or_else(no_store),
        }
    }

    /// The name of a store, if the caller may know it.
    pub fn name_of(&self, store: StoreId) -> Option<String> {
        let known = |one: &&StoreRow| one.id == store && self.is_known(store);
        self.all.iter().find(known).map(|store| store.name.clone())
    }

    /// The names of the stores that may be named for the customer.
    fn allowed(&self) -> Vec<String> {
        let allowed = self.placement.allowed.iter().flatten();
        allowed.filter_map(|store| self.name_of(*store)).collect()
    }

    /// What is shown of them with the customer.
    pub fn shown(&self) -> Placed {
        let default = self.placement.choose(&self.all, None);
        Placed { store: default.and_then(|store| self.name_of(store)), stores: self.allowed() }
    }
}

/// No store takes mailboxes.
pub(in crate::service) fn no_store() -> ServiceError {
    ServiceError::Unavailable("no mail store takes mailboxes now".to_owned())
}

/// Where the mailboxes of a customer go, as far as the caller may know.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Placed {
    /// The mail store for new mailboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    /// The mail stores that may be named.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stores: Vec<String>,
}

/// What to say of a customer's mail stores; absent members stay.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CustomerStoreRequest {
    /// Its path or short code.
    path: String,
    /// The mail store for new mailboxes there and below; null: what is said above.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    store: Option<Option<String>>,
    /// The mail stores that its administrators may know and name; none: what is allowed above.
    allowed: Option<Vec<String>>,
}

/// `customer.store`.
pub(in crate::service) struct CustomerStore;

impl Operate for CustomerStore {
    declare! { "customer.store", Put, "/v1/customers/{path}/store", CustomerStore, changes,
    "Say which mail store new mailboxes go to, and which may be named; the right for it is held above the customer" }
    type Request = CustomerStoreRequest;
    type Response = Placed;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerStoreRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        _: &'a CustomerStoreRequest,
    ) -> Result<Vec<Need>> {
        Ok(vec![Need::above(tx, target.id, Self::PERMISSION)])
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: CustomerStoreRequest) -> Result<Placed> {
        if request.store.is_none() && request.allowed.is_none() {
            let message = "expected a store, the allowed stores, or both".to_owned();
            return Err(ServiceError::Invalid { field: "store", message });
        }
        tx.before = serde_json::to_value(recorded(tx, target.id).await?).ok();
        // Whoever says it above names what is allowed there.
        let above = Stores::of(tx, target.parent.unwrap_or(target.id)).await?;
        if let Some(default) = &request.store {
            set_default(tx, &above, target.id, default.as_deref()).await?;
        }
        if let Some(names) = &request.allowed {
            if names.len() > ALLOWED_MAX {
                let message = format!("expected at most {ALLOWED_MAX}");
                return Err(ServiceError::Invalid { field: "allowed", message });
            }
            let stores = names.iter().map(|name| Ok(above.named(name)?.id)).collect::<Result<_>>()?;
            placement::set_allowed(tx.conn, target.id, &stores).await?;
        }
        tx.after = serde_json::to_value(recorded(tx, target.id).await?).ok();
        Ok(Stores::of(tx, target.id).await?.shown())
    }
}

/// Sets the default store of a customer by name, as whoever says it above may name stores.
///
/// # Errors
/// As [`Stores::open`].
pub(in crate::service) async fn set_default(
    tx: &mut Tx<'_>,
    above: &Stores,
    customer: CustomerId,
    name: Option<&str>,
) -> Result<()> {
    let store = name.map(|name| above.open(name)).transpose()?;
    Ok(placement::set_default(tx.conn, customer, store).await?)
}

/// What stands at the customer itself, for the audit trail: names of stores are for those who see what the caller sees.
async fn recorded(tx: &mut Tx<'_>, customer: CustomerId) -> Result<Placed> {
    let (default, allowed): (Option<StoreId>, BTreeSet<StoreId>) = placement::own(tx.conn, customer).await?;
    let stores = Stores::of(tx, customer).await?;
    let name = |store: StoreId| stores.name_of(store).map(|name| names::words(tx.caller, &name));
    Ok(Placed { store: default.and_then(name), stores: allowed.into_iter().filter_map(name).collect() })
}
