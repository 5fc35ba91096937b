//! Domains, alias domains, catch-all.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::customer_limits::{given, set_limit};
use super::domain_move::OFFER_DURATION;
use super::page::{Cursors, Page, etag, limit};
use super::scope::{Place, address, domain_name};
use super::targets::{OneCustomer, OneDomain};
use crate::base::address::{Address, DomainName};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::service::authority::Permission;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::quota;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::service::settings::standing;
use crate::storage::metadata::customer::Counts;
use crate::storage::metadata::domain::{self, DomainRow, NewDomain};
use crate::storage::metadata::setting::At;
use crate::storage::metadata::{
    alias, customer_count, domain_check, domain_move, mailbox, quota as counters,
};

/// A domain.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Domain {
    /// Random id.
    id: String,
    /// Name, in A-labels.
    pub name: String,
    /// Name in its own script, where that is another: names that look alike differ in A-labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    unicode: Option<String>,
    /// Path of its customer.
    customer: String,
    /// `verified`, or `pending`: then it receives, sends and authenticates nothing.
    state: String,
    /// The domain whose mailboxes are meant, for an alias domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    alias_of: Option<String>,
    /// Address that takes what nobody else takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    catch_all: Option<String>,
    /// Limit on octets of all its mailboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_max: Option<i64>,
    /// Limit on messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    messages_max: Option<i64>,
    /// Limit on octets that new mailboxes get.
    #[serde(skip_serializing_if = "Option::is_none")]
    mailbox_bytes_max_default: Option<i64>,
    /// Mailboxes in it; given when it is listed or shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    mailboxes: Option<i64>,
    /// Octets that its mailboxes use.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_used: Option<i64>,
    /// Aliases in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    aliases: Option<i64>,
    #[schema(value_type = String)]
    created_at: Timestamp,
}

/// What changes in a domain without anybody changing it.
const VOLATILE: [&str; 3] = ["mailboxes", "bytes_used", "aliases"];

impl Domain {
    fn with(self, sums: Option<&[i64; 3]>) -> Self {
        let Some(&[mailboxes, bytes, aliases]) = sums else { return self };
        Self { mailboxes: Some(mailboxes), bytes_used: Some(bytes), aliases: Some(aliases), ..self }
    }
}

pub(super) fn show(tx: &Tx<'_>, row: DomainRow) -> Domain {
    let unicode = row.name.parse::<DomainName>().ok().map(|name| name.unicode());
    Domain {
        id: row.public_id,
        unicode: unicode.filter(|unicode| *unicode != row.name),
        name: row.name,
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        state: if row.pending { "pending" } else { "verified" }.to_owned(),
        alias_of: row.alias_of_name,
        catch_all: row.catch_all,
        bytes_max: row.bytes_max,
        messages_max: row.messages_max,
        mailbox_bytes_max_default: row.mailbox_bytes_max_default,
        mailboxes: None,
        bytes_used: None,
        aliases: None,
        created_at: row.created_at,
    }
}

pub(super) async fn row(tx: &mut Tx<'_>, id: DomainId) -> Result<DomainRow> {
    let gone = || ServiceError::Internal("a domain vanished inside a transaction".to_owned());
    domain::by_id(tx.conn, id).await?.ok_or_else(gone)
}

/// Makes a domain; a system administrator's counts as verified at once, unless it stands for a pending one.
///
/// # Errors
/// When the customer has it already, when another has it verified and the caller is a system administrator, or when
/// a limit refuses.
pub(super) async fn create(
    tx: &mut Tx<'_>,
    customer: CustomerId,
    name: &str,
    alias_of: Option<&DomainRow>,
    is_left_pending: bool,
) -> Result<Domain> {
    let name = domain_name("domain", name)?;
    let root = tx.caller.tree.root().map(|root| root.id);
    // Who approves somebody else's request for a domain has not said whose it is.
    let may_confirm = tx.caller.may(root, Permission::SystemDomainConfirm) && tx.context.on_behalf.is_none();
    let verified = may_confirm && !is_left_pending && alias_of.is_none_or(|meant| !meant.pending);
    let alias_of = alias_of.map(|meant| meant.id);
    quota::admit(tx, customer, Resource::Domains, 1).await?;
    let new = NewDomain { customer, name: name.as_str().to_owned(), verified, alias_of };
    let taken = || ServiceError::Conflict { message: format!("domain {name} exists already") };
    let id = domain::insert(tx.conn, &new, tx.now).await?.ok_or_else(taken)?;
    quota::count(tx, customer, Resource::Domains, 1).await?;
    let row = row(tx, id).await?;
    Ok(show(tx, row))
}

/// A domain to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainCreateRequest {
    /// Its name.
    domain: String,
    /// Its customer.
    customer: String,
    /// Leave it pending, although the caller's would be verified at once.
    #[serde(default)]
    pending: bool,
}

/// `domain.create`.
pub(in crate::service) struct DomainCreate;

impl Operate for DomainCreate {
    declare! { "domain.create", Post, "/v1/domains", DomainCreate, changes,
    "Create a domain; it is pending until confirmed" }
    type Request = DomainCreateRequest;
    type Response = Domain;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainCreateRequest) -> Result<OneCustomer> {
        domain_name("domain", &request.domain)?;
        OneCustomer::find(tx, &request.customer)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: DomainCreateRequest) -> Result<Domain> {
        let made = create(tx, target.id, &request.domain, None, request.pending).await?;
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// An alias domain to make.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainAliasRequest {
    /// Its name.
    domain: String,
    /// The domain that it stands for; the alias belongs to the same customer.
    alias_of: String,
    /// The customer of that domain, where several have one of this name.
    customer: Option<String>,
    /// Leave it pending, although the caller's would be verified at once.
    #[serde(default)]
    pending: bool,
}

/// `domain.alias`; acts on the domain that is meant.
pub(in crate::service) struct DomainAlias;

impl Operate for DomainAlias {
    declare! { "domain.alias", Post, "/v1/domains/{alias_of}/aliases", DomainCreate, changes,
    "Create a domain whose addresses mean those of another; it is pending until confirmed" }
    type Request = DomainAliasRequest;
    type Response = Domain;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainAliasRequest) -> Result<OneDomain> {
        domain_name("domain", &request.domain)?;
        OneDomain::find(tx, &request.alias_of, request.customer.as_deref()).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneDomain(meant): OneDomain,
        request: DomainAliasRequest,
    ) -> Result<Domain> {
        if meant.alias_of.is_some() {
            return Err(ServiceError::Conflict { message: format!("{} is itself an alias", meant.name) });
        }
        let made = create(tx, meant.customer, &request.domain, Some(&meant), request.pending).await?;
        tx.after = serde_json::to_value(&made).ok();
        Ok(made)
    }
}

/// Which domains to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainListRequest {
    /// Only of this customer and those below; default: everywhere the caller may.
    customer: Option<String>,
    /// Most domains, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// `domain.list`.
pub(in crate::service) struct DomainList;

impl Operate for DomainList {
    declare! { "domain.list", Get, "/v1/domains", DomainRead, reads, "List domains by name" }
    type Request = DomainListRequest;
    type Response = Page<Domain>;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: DomainListRequest) -> Result<Page<Domain>> {
        let limit = limit(request.limit)?;
        let filter = DomainListRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let rows = domain::page(tx.conn, &target.customers(tx), after, limit + 1).await?;
        let keys: Vec<i64> = rows.iter().map(|row| row.id.0).collect();
        let sums: HashMap<DomainId, [i64; 3]> = domain::sums(tx.conn, &keys).await?.into_iter().collect();
        let position = |row: &DomainRow| (row.name.clone(), row.id.0);
        Page::cut(rows, limit, &cursors, position, |row| {
            let sums = sums.get(&row.id);
            show(tx, row).with(sums)
        })
    }
}

/// Which domain.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainRequest {
    /// Its name.
    pub(super) domain: String,
    /// Its customer, where several have a domain of this name; default: the verified one, or the only one.
    pub(super) customer: Option<String>,
}

/// A domain with what is known of it.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DomainDetail {
    #[serde(flatten)]
    domain: Domain,
    /// Its alias domains.
    alias_domains: Vec<String>,
    /// Switches that are off here, by holds here or above.
    switches_off: Vec<String>,
    /// Short code of the customer to which it is offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    offered_to: Option<String>,
    etag: String,
}

/// `domain.show`.
pub(in crate::service) struct DomainShow;

impl Operate for DomainShow {
    declare! { "domain.show", Get, "/v1/domains/{domain}", DomainRead, reads, "Show a domain" }
    type Request = DomainRequest;
    type Response = DomainDetail;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainRequest) -> Result<OneDomain> {
        OneDomain::find(tx, &request.domain, request.customer.as_deref()).await
    }

    async fn run(tx: &mut Tx<'_>, OneDomain(row): OneDomain, _: DomainRequest) -> Result<DomainDetail> {
        let alias_domains = domain::aliases_of(tx.conn, row.id).await?;
        let sums = domain::sums(tx.conn, &[row.id.0]).await?;
        let off = standing::switches_off(tx.conn, At::domain(row.id, row.customer)).await?;
        let offered_to = domain_move::offered_to(tx.conn, row.id, tx.now.minus(OFFER_DURATION)).await?;
        let domain = show(tx, row).with(sums.first().map(|(_, sums)| sums));
        let switches_off = off.into_iter().collect();
        Ok(DomainDetail { etag: etag(&domain, &VOLATILE)?, domain, alias_domains, switches_off, offered_to })
    }
}

/// Where mail for unknown addresses goes.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CatchAllRequest {
    /// Its name.
    domain: String,
    /// Its customer, where several have a domain of this name; default: the verified one, or the only one.
    customer: Option<String>,
    /// Address, of the same customer, that takes what nobody else takes; null for none.
    address: Option<String>,
}

/// `domain.catch-all`.
pub(in crate::service) struct DomainCatchAll;

impl Operate for DomainCatchAll {
    declare! { "domain.catch-all", Put, "/v1/domains/{domain}/catch-all", DomainUpdate, changes,
    "Say where mail for unknown addresses of a domain goes" }
    type Request = CatchAllRequest;
    type Response = Domain;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CatchAllRequest) -> Result<OneDomain> {
        OneDomain::find(tx, &request.domain, request.customer.as_deref()).await
    }

    async fn etag<'a>(tx: &'a mut Tx<'_>, target: &'a OneDomain) -> Result<Option<String>> {
        etag(&show(tx, target.0.clone()), &VOLATILE).map(Some)
    }

    async fn run(tx: &mut Tx<'_>, OneDomain(mut row): OneDomain, request: CatchAllRequest) -> Result<Domain> {
        tx.before = serde_json::to_value(show(tx, row.clone())).ok();
        row.catch_all = match &request.address {
            Some(text) => {
                let wanted = address("address", text)?;
                local_target(tx, "address", row.customer, &wanted).await?;
                Some(wanted.to_string())
            }
            None => None,
        };
        domain::update(tx.conn, &row).await?;
        let after = show(tx, row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// Whether mail may be led to this address: a mailbox or alias of the same customer. What belongs to others is
/// refused whether it exists or not.
pub(super) async fn local_target(
    tx: &mut Tx<'_>,
    field: &'static str,
    customer: CustomerId,
    target: &Address,
) -> Result<()> {
    let domains = domain::all_by_name(tx.conn, target.domain().as_str()).await?;
    let Some(meant) = domains.into_iter().find(|row| row.customer == customer) else {
        let message = format!("{target}: only addresses of the same customer can be targets");
        return Err(ServiceError::Invalid { field, message });
    };
    let name = meant.alias_of_name.unwrap_or(meant.name);
    let local = target.user_and_detail().0;
    let mailboxes = mailbox::all_by_address(tx.conn, local, &name).await?;
    let aliases = alias::all_by_address(tx.conn, target.local(), &name).await?;
    let exists = mailboxes.iter().any(|row| row.customer == customer)
        || aliases.iter().any(|row| row.customer == customer);
    if exists {
        return Ok(());
    }
    Err(ServiceError::Invalid { field, message: format!("{target}: there is no such mailbox or alias") })
}

/// The limits to set: absent ones stay, null is no own limit, 0 is nothing at all.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainLimitRequest {
    /// Its name.
    domain: String,
    /// Its customer, where several have a domain of this name; default: the verified one, or the only one.
    customer: Option<String>,
    /// Octets of all its mailboxes.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    bytes: Option<Option<i64>>,
    /// Messages of all its mailboxes.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    messages: Option<Option<i64>>,
    /// Octets that new mailboxes get as their limit.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<i64>)]
    mailbox_default: Option<Option<i64>>,
}

/// `domain.limit`.
pub(in crate::service) struct DomainLimit;

impl Operate for DomainLimit {
    declare! { "domain.limit", Patch, "/v1/domains/{domain}/limits", MailboxQuota, changes, "Set a domain's limits" }
    type Request = DomainLimitRequest;
    type Response = Domain;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainLimitRequest) -> Result<OneDomain> {
        OneDomain::find(tx, &request.domain, request.customer.as_deref()).await
    }

    async fn etag<'a>(tx: &'a mut Tx<'_>, target: &'a OneDomain) -> Result<Option<String>> {
        etag(&show(tx, target.0.clone()), &VOLATILE).map(Some)
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneDomain(mut row): OneDomain,
        request: DomainLimitRequest,
    ) -> Result<Domain> {
        tx.before = serde_json::to_value(show(tx, row.clone())).ok();
        set_limit("bytes", &mut row.bytes_max, request.bytes)?;
        set_limit("messages", &mut row.messages_max, request.messages)?;
        set_limit("mailbox_default", &mut row.mailbox_bytes_max_default, request.mailbox_default)?;
        domain::update(tx.conn, &row).await?;
        if request.bytes.is_some() || request.messages.is_some() {
            let limited = row.bytes_max.is_some() || row.messages_max.is_some();
            counters::follow_domain_limits(tx.conn, row.id, limited).await?;
        }
        let after = show(tx, row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// Which pending domain to confirm.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainConfirmRequest {
    /// Its name.
    domain: String,
    /// Its customer, where several have a pending domain of this name.
    customer: Option<String>,
    /// If another customer has it verified, that one's becomes pending, with the domains that stand for it.
    #[serde(default)]
    displace: bool,
}

/// `domain.confirm`: a system administrator says that the domain is the customer's.
pub(in crate::service) struct DomainConfirm;

impl Operate for DomainConfirm {
    declare! { "domain.confirm", Post, "/v1/domains/{domain}/confirm", SystemDomainConfirm, changes,
    "Confirm without proof that a pending domain is its customer's" }
    type Request = DomainConfirmRequest;
    type Response = Domain;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainConfirmRequest) -> Result<OneDomain> {
        OneDomain::find_claimed(tx, &request.domain, request.customer.as_deref()).await
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneDomain,
        _: &'a DomainConfirmRequest,
    ) -> Result<Vec<Need>> {
        let root = tx.caller.tree.root().map_or(target.customer(), |root| root.id);
        Ok(vec![Need::at(root, Self::PERMISSION)])
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneDomain(row): OneDomain,
        request: DomainConfirmRequest,
    ) -> Result<Domain> {
        if row.pending
            && let Some(meant) = row.alias_of
            && let meant = self::row(tx, meant).await?
            && meant.pending
        {
            let message = format!("{}, which it stands for, is pending; confirm that one first", meant.name);
            return Err(ServiceError::Conflict { message });
        }
        if row.pending && request.displace {
            tx.also = domain_check::displace(tx.conn, &row.name).await?;
            tx.also.sort_unstable();
            tx.also.dedup();
        }
        if row.pending && !domain::confirm(tx.conn, &row).await? {
            let message = format!(
                "another customer has {} verified; confirm it with displace (--displace) to make that one pending",
                row.name
            );
            return Err(ServiceError::Conflict { message });
        }
        let row = self::row(tx, row.id).await?;
        let after = show(tx, row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// `domain.delete`: soft, with its mailboxes.
pub(in crate::service) struct DomainDelete;

impl Operate for DomainDelete {
    declare! { "domain.delete", Delete, "/v1/domains/{domain}", DomainDelete, changes,
    "Delete a domain and its mailboxes; domain undelete brings them back" }
    type Request = DomainRequest;
    type Response = DomainDeleted;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainRequest) -> Result<OneDomain> {
        OneDomain::find(tx, &request.domain, request.customer.as_deref()).await
    }

    async fn run(tx: &mut Tx<'_>, OneDomain(row): OneDomain, _: DomainRequest) -> Result<DomainDeleted> {
        let aliases = domain::aliases_of(tx.conn, row.id).await?;
        if !aliases.is_empty() {
            let message = format!("alias domains lead here; delete them first: {}", aliases.join(", "));
            return Err(ServiceError::Conflict { message });
        }
        let sums = domain::sums(tx.conn, &[row.id.0]).await?;
        let leads = alias::leading_into(tx.conn, &row).await?;
        domain::delete(tx.conn, row.id, tx.now, &tx.operation_id).await?;
        let [mailboxes, _, aliases] = sums.first().map(|(_, sums)| *sums).unwrap_or_default();
        let gone = Counts { mailboxes, aliases, domains: 1, administrators: 0 };
        customer_count::add(tx.conn, row.customer, gone.negated()).await?;
        let domain = show(tx, row).with(sums.first().map(|(_, sums)| sums));
        let deleted =
            DomainDeleted { domain, aliases_here: leads.aliases, catch_alls_here: leads.catch_alls };
        tx.before = serde_json::to_value(&deleted).ok();
        Ok(deleted)
    }
}

/// What was deleted, or would be.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DomainDeleted {
    #[serde(flatten)]
    domain: Domain,
    /// Aliases of the customer's other domains that lead into this one: their mail is deferred.
    aliases_here: i64,
    /// Catch-alls of the customer's other domains that lead into this one.
    catch_alls_here: i64,
}

/// `domain.undelete`.
pub(in crate::service) struct DomainUndelete;

impl Operate for DomainUndelete {
    declare! { "domain.undelete", Post, "/v1/domains/{domain}/undelete", DomainDelete, changes,
    "Bring a deleted domain back with the mailboxes that were deleted with it; pending if it must be proven anew" }
    type Request = DomainRequest;
    type Response = Domain;
    type Target = OneDomain;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainRequest) -> Result<OneDomain> {
        OneDomain::find_deleted(tx, &request.domain, request.customer.as_deref()).await
    }

    async fn run(tx: &mut Tx<'_>, OneDomain(row): OneDomain, _: DomainRequest) -> Result<Domain> {
        if tx.caller.tree.node(row.customer).is_none_or(|node| node.deleted) {
            let message = "its customer is deleted; undelete the customer first".to_owned();
            return Err(ServiceError::Conflict { message });
        }
        let conflict = |message: String| Err(ServiceError::Conflict { message });
        let living = domain::all_by_name(tx.conn, &row.name).await?;
        if living.iter().any(|other| other.customer == row.customer) {
            return conflict(format!("domain {} exists already", row.name));
        }
        if let Some(meant) = row.alias_of
            && self::row(tx, meant).await?.deleted_at.is_some()
        {
            let meant = row.alias_of_name.unwrap_or_default();
            return conflict(format!(
                "domain {meant}, for which it stands, is deleted; undelete that one first"
            ));
        }
        let operation = row.deleted_by.clone().unwrap_or_default();
        domain::undelete(tx.conn, row.id, &operation).await?;
        let sums = domain::sums(tx.conn, &[row.id.0]).await?;
        let [mailboxes, _, aliases] = sums.first().map(|(_, sums)| *sums).unwrap_or_default();
        let counts = Counts { mailboxes, aliases, domains: 1, administrators: 0 };
        customer_count::add(tx.conn, row.customer, counts).await?;
        let returned =
            [(Resource::Domains, 1), (Resource::Mailboxes, mailboxes), (Resource::Aliases, aliases)];
        let tree = std::sync::Arc::clone(&tx.caller.tree);
        quota::admit_returned(tx, &tree, row.customer, &returned).await?;
        let row = self::row(tx, row.id).await?;
        let after = show(tx, row);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}
