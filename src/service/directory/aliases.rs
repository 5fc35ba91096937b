//! Aliases: addresses that stand for mailboxes or aliases of the same customer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::domains::local_target;
use super::mailboxes::Listed;
use super::page::{Cursors, Page, limit};
use super::scope::address;
use super::targets::{OneAlias, OneDomain};
use crate::base::address::{Address, DETAIL_SEPARATOR};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::quota;
use crate::service::registry::{Operate, Tx, declare};
use crate::storage::metadata::alias::{self, AliasRow, TARGETS_MAX};
use crate::storage::metadata::mailbox;

/// An alias.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Alias {
    /// Random id.
    id: String,
    address: String,
    /// Where it leads.
    targets: Vec<String>,
    /// Path of its customer.
    customer: String,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

fn show(tx: &Tx<'_>, row: AliasRow) -> Alias {
    Alias {
        address: row.address(),
        id: row.public_id,
        targets: row.targets,
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        created_at: row.created_at,
    }
}

/// An alias to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AliasCreateRequest {
    /// `localpart@domain`.
    address: String,
    /// Mailboxes or aliases of the same customer.
    targets: Vec<String>,
    /// The domain's customer, where several have one of this name; default: the verified one, or the only one.
    customer: Option<String>,
}

/// `alias.create`; acts on the domain.
pub(in crate::service) struct AliasCreate;

impl Operate for AliasCreate {
    declare! { "alias.create", Post, "/v1/aliases", AliasCreate, changes,
    "Create an alias for mailboxes of the same customer" }
    type Request = AliasCreateRequest;
    type Response = Alias;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AliasCreateRequest) -> Result<OneDomain> {
        let wanted = address("address", &request.address)?;
        OneDomain::find(tx, wanted.domain().as_str(), request.customer.as_deref()).await
    }

    async fn run(tx: &mut Tx<'_>, OneDomain(home): OneDomain, request: AliasCreateRequest) -> Result<Alias> {
        let wanted = address("address", &request.address)?;
        let invalid = |message: String| ServiceError::Invalid { field: "address", message };
        if wanted.local().contains(DETAIL_SEPARATOR) {
            return Err(invalid(format!(
                "{DETAIL_SEPARATOR} separates the detail of a subaddress; leave it out"
            )));
        }
        if let Some(meant) = &home.alias_of_name {
            return Err(invalid(format!("{} is an alias of {meant}; create it there", home.name)));
        }
        let targets = targets(tx, home.customer, &wanted, &request.targets).await?;
        let taken = || ServiceError::Conflict { message: format!("{wanted} exists already") };
        let mailboxes = mailbox::all_by_address(tx.conn, wanted.local(), &home.name).await?;
        if mailboxes.iter().any(|row| row.domain == home.id) {
            return Err(taken());
        }
        quota::admit(tx, home.customer, Resource::Aliases, 1).await?;
        if !alias::insert(tx.conn, home.id, wanted.local(), &targets, tx.now).await? {
            return Err(taken());
        }
        quota::count(tx, home.customer, Resource::Aliases, 1).await?;
        let rows = alias::all_by_address(tx.conn, wanted.local(), &home.name).await?;
        let gone = || ServiceError::Internal("an alias vanished inside a transaction".to_owned());
        let made = rows.into_iter().find(|row| row.domain == home.id).ok_or_else(gone)?;
        let made = show(tx, made);
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// Where an alias may lead, sorted.
async fn targets(
    tx: &mut Tx<'_>,
    customer: CustomerId,
    alias: &Address,
    texts: &[String],
) -> Result<Vec<String>> {
    let mut targets = Vec::new();
    if texts.is_empty() || texts.len() > TARGETS_MAX {
        let message = format!("expected 1 to {TARGETS_MAX} addresses");
        return Err(ServiceError::Invalid { field: "targets", message });
    }
    for text in texts {
        let target = address("targets", text)?;
        if target == *alias {
            let message = format!("{target}: an alias cannot lead to itself");
            return Err(ServiceError::Invalid { field: "targets", message });
        }
        local_target(tx, "targets", customer, &target).await?;
        targets.push(target.to_string());
    }
    targets.sort();
    targets.dedup();
    Ok(targets)
}

/// Where an alias leads from now on.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AliasUpdateRequest {
    /// Its address.
    address: String,
    /// Mailboxes or aliases of the same customer, instead of the present ones.
    targets: Vec<String>,
}

/// `alias.update`.
pub(in crate::service) struct AliasUpdate;

impl Operate for AliasUpdate {
    declare! { "alias.update", Put, "/v1/aliases/{address}/targets", AliasCreate, changes, "Say where an alias leads" }
    type Request = AliasUpdateRequest;
    type Response = Alias;
    type Target = OneAlias;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AliasUpdateRequest) -> Result<OneAlias> {
        OneAlias::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, OneAlias(mut row): OneAlias, request: AliasUpdateRequest) -> Result<Alias> {
        tx.before = serde_json::to_value(show(tx, row.clone())).ok();
        let own = address("address", &row.address())?;
        row.targets = targets(tx, row.customer, &own, &request.targets).await?;
        alias::set_targets(tx.conn, row.id, &row.targets).await?;
        let after = show(tx, row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// Which aliases to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AliasListRequest {
    /// Only in this domain.
    domain: Option<String>,
    /// Only of this customer and those below; default: everywhere the caller may.
    customer: Option<String>,
    /// Most aliases, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `alias.list`.
pub(in crate::service) struct AliasList;

impl Operate for AliasList {
    declare! { "alias.list", Get, "/v1/aliases", AliasRead, reads, "List aliases by address" }
    type Request = AliasListRequest;
    type Response = Page<Alias>;
    type Target = Listed;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AliasListRequest) -> Result<Listed> {
        Listed::find(tx, request.domain.as_deref(), request.customer.as_deref(), Self::PERMISSION).await
    }

    async fn run(tx: &mut Tx<'_>, target: Listed, request: AliasListRequest) -> Result<Page<Alias>> {
        let limit = limit(request.limit)?;
        let filter = AliasListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let domain = target.domain.as_ref().map(|domain| domain.0.id);
        let rows = alias::page(tx.conn, (&target.place.customers(tx), domain), after, limit + 1).await?;
        let position = |row: &AliasRow| (row.domain_name.clone(), row.domain.0, row.local_part.clone());
        Page::cut(rows, limit, &cursors, position, |row| show(tx, row))
    }
}

/// Which alias.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AliasRequest {
    /// Its address.
    address: String,
}

/// `alias.delete`: for good.
pub(in crate::service) struct AliasDelete;

impl Operate for AliasDelete {
    declare! { "alias.delete", Delete, "/v1/aliases/{address}", AliasDelete, changes, "Delete an alias" }
    type Request = AliasRequest;
    type Response = Alias;
    type Target = OneAlias;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AliasRequest) -> Result<OneAlias> {
        OneAlias::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, OneAlias(row): OneAlias, _: AliasRequest) -> Result<Alias> {
        alias::delete(tx.conn, row.id).await?;
        quota::count(tx, row.customer, Resource::Aliases, -1).await?;
        let before = show(tx, row);
        tx.before = serde_json::to_value(&before).ok();
        Ok(before)
    }
}
