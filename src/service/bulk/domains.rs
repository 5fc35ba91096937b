//! A domain or alias domain.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::compare::{Differences, Fields, created, found, readable};
use super::{Done, Options};
use crate::service::authority::Permission;
use crate::service::directory::customer_limits::given;
use crate::service::directory::domains::{
    DomainAlias, DomainCatchAll, DomainConfirm, DomainCreate, DomainLimit,
};
use crate::service::directory::scope::{address, domain_name};
use crate::service::directory::targets::OneDomain;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Tx, within};
use crate::storage::metadata::domain::DomainRow;

/// Whether a domain takes part in mail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::service) enum DomainState {
    /// It does.
    Verified,
    /// It is claimed.
    Pending,
}

/// A domain.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainEntry {
    /// Its name.
    domain: String,
    /// Path of its customer; needed when it is created.
    customer: Option<String>,
    /// The domain that it stands for.
    alias_of: Option<String>,
    /// `pending` leaves a new one so; `verified` confirms it where the caller may, and is no error where not.
    state: Option<DomainState>,
    /// Address that takes what nobody else takes; null for none.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    catch_all: Option<Option<String>>,
    /// Limit on octets; null is no limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    bytes: Option<Option<i64>>,
    /// Limit on messages.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    messages: Option<Option<i64>>,
    /// Octets that new mailboxes get as their limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    mailbox_default: Option<Option<i64>>,
}

impl DomainEntry {
    /// Makes it, or brings it to what is said.
    pub(super) async fn carry_out(&self, tx: &mut Tx<'_>, options: &Options) -> Result<Done> {
        let customer = self.customer.as_deref().map(|path| options.path(path));
        domain_name("domain", &self.domain)?;
        // The customer is looked for first: without it, the domain is not there either.
        let there = match &customer {
            Some(path) => {
                let home = crate::service::directory::targets::OneCustomer::find(tx, path)?;
                found(OneDomain::find(tx, &self.domain, Some(path)).await)?
                    .filter(|one| one.0.customer == home.id)
            }
            None => found(OneDomain::find(tx, &self.domain, None).await)?,
        };
        match there {
            Some(OneDomain(there)) => self.change(tx, there, false).await,
            None => {
                self.create(tx, customer.as_deref()).await?;
                let there = OneDomain::find(tx, &self.domain, customer.as_deref()).await?;
                self.change(tx, there.0, true).await
            }
        }
    }

    async fn create(&self, tx: &mut Tx<'_>, customer: Option<&str>) -> Result<()> {
        let elsewhere = found(OneDomain::find(tx, &self.domain, None).await)?;
        if let Some(OneDomain(elsewhere)) = elsewhere.filter(|one| !one.0.pending) {
            let whose = tx.caller.path_of(elsewhere.customer).unwrap_or_default();
            let message = format!("customer {whose} has {}; posthouse domain move moves it", elsewhere.name);
            return Err(ServiceError::Conflict { message });
        }
        let pending = self.state == Some(DomainState::Pending);
        let mut fields =
            Fields::naming([("domain", self.domain.clone().into()), ("pending", pending.into())]);
        fields.maybe("customer", customer);
        if let Some(meant) = &self.alias_of {
            fields.set("alias_of", meant.clone());
            within::<DomainAlias>(tx, fields.all()).await?;
            return Ok(());
        }
        if customer.is_none() {
            let message = "a new domain needs a customer".to_owned();
            return Err(ServiceError::Invalid { field: "customer", message });
        }
        within::<DomainCreate>(tx, fields.all()).await.map(drop)
    }

    async fn change(&self, tx: &mut Tx<'_>, there: DomainRow, is_new: bool) -> Result<Done> {
        readable(tx, there.customer, Permission::DomainRead)?;
        let path = tx.caller.path_of(there.customer).unwrap_or_default();
        let naming =
            || Fields::naming([("domain", there.name.clone().into()), ("customer", path.clone().into())]);
        let mut differences = Differences::default();
        if let Some(meant) = &self.alias_of {
            let meant = domain_name("alias_of", meant)?;
            if there.alias_of_name.as_deref() != Some(meant.as_str()) {
                let message = format!("what {} stands for cannot be changed", there.name);
                return Err(ServiceError::Conflict { message });
            }
        }
        let root = tx.caller.tree.root().map(|root| root.id);
        if there.pending
            && self.state == Some(DomainState::Verified)
            && tx.caller.may(root, Permission::SystemDomainConfirm)
        {
            differences.add("state", "pending", "verified");
            within::<DomainConfirm>(tx, naming().all()).await?;
        }
        let catch_all = match &self.catch_all {
            Some(Some(text)) => Some(Some(address("catch_all", text)?.to_string())),
            other => other.clone(),
        };
        if let Some(wanted) = catch_all.filter(|wanted| *wanted != there.catch_all) {
            differences.add("catch_all", there.catch_all.clone(), wanted.clone());
            let mut fields = naming();
            fields.set("address", wanted);
            within::<DomainCatchAll>(tx, fields.all()).await?;
        }
        let mut update = naming();
        differences.set(&mut update, "bytes", there.bytes_max, self.bytes);
        differences.set(&mut update, "messages", there.messages_max, self.messages);
        differences.set(
            &mut update,
            "mailbox_default",
            there.mailbox_bytes_max_default,
            self.mailbox_default,
        );
        if let Some(fields) = update.if_any() {
            within::<DomainLimit>(tx, fields).await?;
        }
        Ok(if is_new { created() } else { differences.done() })
    }
}
