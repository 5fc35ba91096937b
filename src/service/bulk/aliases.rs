//! An alias.

use serde::Deserialize;
use utoipa::ToSchema;

use super::compare::{Differences, Fields, created, found, readable};
use super::{Done, Options};
use crate::service::authority::Permission;
use crate::service::directory::aliases::{AliasCreate, AliasUpdate};
use crate::service::directory::scope::address;
use crate::service::directory::targets::{OneAlias, OneCustomer};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Tx, within};

/// An alias.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AliasEntry {
    /// `localpart@domain`.
    address: String,
    /// Mailboxes or aliases of the same customer.
    targets: Vec<String>,
    /// The domain's customer, where several have one of this name.
    customer: Option<String>,
}

impl AliasEntry {
    /// Makes it, or brings it to what is said.
    pub(super) async fn carry_out(&self, tx: &mut Tx<'_>, options: &Options) -> Result<Done> {
        let customer = self.customer.as_deref().map(|path| options.path(path));
        let home = customer.as_deref().map(|path| OneCustomer::find(tx, path)).transpose()?;
        let Some(OneAlias(there)) = found(OneAlias::find(tx, &self.address).await)? else {
            let mut fields = Fields::naming([("address", self.address.clone().into())]);
            fields.set("targets", self.targets.clone());
            fields.maybe("customer", customer);
            within::<AliasCreate>(tx, fields.all()).await?;
            return Ok(created());
        };
        if home.is_some_and(|home| home.id != there.customer) {
            let whose = tx.caller.path_of(there.customer).unwrap_or_default();
            let message = format!("{} belongs to customer {whose}", there.address());
            return Err(ServiceError::Conflict { message });
        }
        readable(tx, there.customer, Permission::AliasRead)?;
        let targets = self.targets.iter().map(|text| Ok(address("targets", text)?.to_string()));
        let mut targets = targets.collect::<Result<Vec<String>>>()?;
        targets.sort();
        targets.dedup();
        let mut differences = Differences::default();
        let mut update = Fields::naming([("address", there.address().into())]);
        differences.set(&mut update, "targets", there.targets, Some(targets));
        if let Some(fields) = update.if_any() {
            within::<AliasUpdate>(tx, fields).await?;
        }
        Ok(differences.done())
    }
}
