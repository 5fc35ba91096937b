//! Domains that go to another customer, with their mailboxes: one side offers, the other accepts; who may do both does
//! it at once. What the mailboxes hold follows in the background (`service/moves`), while everybody goes on using them.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::scope::domain_name;
use super::targets::{OneCustomer, OneDomain, absent};
use crate::base::id::{CustomerId, DomainId};
use crate::service::audit::names;
use crate::service::authority::Tree;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::quota;
use crate::service::registry::{Operate, Targeted, Tx, declare};
use crate::storage::metadata::customer::Counts;
use crate::storage::metadata::domain::{self, DomainRow};
use crate::storage::metadata::quota::MovedUse;
use crate::storage::metadata::{
    customer_count, domain_move, hold, home, legal_hold, quota as counters, setting,
};

/// How long an offer stands.
pub(in crate::service) const OFFER_DURATION: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Longest short code in octets.
const CODE_OCTETS_MAX: usize = 16;

/// Which domain goes where.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainMoveRequest {
    /// Its name.
    domain: String,
    /// Its customer, where several have a domain of this name; default: the verified one, or the only one.
    customer: Option<String>,
    /// Path or short code of the customer that gets it; a customer that is not visible is named by its short code. Null
    /// takes an offer back.
    to: Option<String>,
}

/// Which offered domain to accept.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct DomainAcceptRequest {
    /// Its name.
    domain: String,
    /// The customer to which it was offered.
    customer: String,
}

/// What a move does, or would do.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DomainMoved {
    domain: String,
    /// `moved`, `offered` or `withdrawn`.
    state: &'static str,
    /// Path of the customer that has it now, or short code of the one to which it is offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// Alias domains that go along.
    alias_domains: Vec<String>,
    /// Its mailboxes; their sessions end, and what they hold follows in the background.
    mailboxes: i64,
    /// Octets of their mail.
    bytes: i64,
    /// Messages.
    messages: i64,
}

/// A domain on its way to another customer.
pub(in crate::service) struct Giving {
    domain: OneDomain,
    /// The receiving customer, if the caller sees it.
    to: Option<OneCustomer>,
}

impl Targeted for Giving {
    fn customer(&self) -> CustomerId {
        self.domain.customer()
    }

    fn label(&self) -> String {
        self.domain.label()
    }

    fn recorded(&self, tree: &Tree) -> String {
        match &self.to {
            Some(to) => format!("{} to {}", self.domain.recorded(tree), names::customer(tree, to.id)),
            None => self.domain.recorded(tree),
        }
    }
}

/// `domain.move`.
pub(in crate::service) struct DomainMove;

impl Operate for DomainMove {
    declare! { "domain.move", Post, "/v1/domains/{domain}/move", DomainMove, changes,
    "Give a domain with its mailboxes to another customer, or offer it" }
    type Request = DomainMoveRequest;
    type Response = DomainMoved;
    type Target = Giving;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainMoveRequest) -> Result<Giving> {
        let domain = OneDomain::find(tx, &request.domain, request.customer.as_deref()).await?;
        let to = request.to.as_deref().and_then(|path| OneCustomer::find(tx, path).ok());
        Ok(Giving { domain, to })
    }

    async fn run(tx: &mut Tx<'_>, target: Giving, request: DomainMoveRequest) -> Result<DomainMoved> {
        let Giving { domain: OneDomain(row), to } = target;
        let Some(wanted) = &request.to else {
            if !domain_move::withdraw(tx.conn, row.id).await? {
                let message = format!("domain {} is offered to nobody", row.name);
                return Err(ServiceError::Conflict { message });
            }
            return Ok(DomainMoved::only(&row, "withdrawn", None));
        };
        let group = admit(tx, &row).await?;
        let may_accept = to.as_ref().filter(|to| tx.caller.may(Some(to.id), Self::PERMISSION));
        if let Some(to) = may_accept {
            return give(tx, &row, &group, to).await;
        }
        // Whether there is such a customer is not told to who cannot see it.
        let code = match &to {
            Some(to) => tx.caller.tree.node(to.id).map(|node| node.code.to_string()).unwrap_or_default(),
            None => code(wanted)?,
        };
        domain_move::offer(tx.conn, row.id, &code, tx.now).await?;
        tx.after = Some(serde_json::json!({ "offered_to": code }));
        Ok(DomainMoved::only(&row, "offered", Some(code)))
    }
}

/// `domain.accept`.
pub(in crate::service) struct DomainAccept;

impl Operate for DomainAccept {
    declare! { "domain.accept", Post, "/v1/domains/{domain}/accept", DomainMove, changes,
    "Accept a domain that another customer offers, with its mailboxes" }
    type Request = DomainAcceptRequest;
    type Response = DomainMoved;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a DomainAcceptRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.customer)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: DomainAcceptRequest) -> Result<DomainMoved> {
        let name = domain_name("domain", &request.domain)?;
        let code = tx.caller.tree.node(target.id).map(|node| node.code.to_string()).unwrap_or_default();
        let since = tx.now.minus(OFFER_DURATION);
        let offered = domain_move::offered(tx.conn, name.as_str(), &code, since).await?;
        let [id] = offered.as_slice() else {
            let message = if offered.is_empty() {
                format!("domain {name} is not offered to {}", target.path)
            } else {
                format!("several customers offer {name} to {}; only one may", target.path)
            };
            return Err(ServiceError::Conflict { message });
        };
        let row = domain::by_id(tx.conn, *id).await?.ok_or_else(|| absent("domain", name.as_str()))?;
        let group = match admit(tx, &row).await {
            Ok(group) => group,
            // What is in the way on the other side is told there alone.
            Err(ServiceError::Conflict { message }) if !tx.caller.sees(row.customer) => {
                tracing::info!(domain = row.name, message, "an offered domain cannot be accepted");
                let message = format!("{name} cannot be accepted now: who offers it must offer it anew");
                return Err(ServiceError::Conflict { message });
            }
            Err(error) => return Err(error),
        };
        give(tx, &row, &group, &target).await
    }
}

impl DomainMoved {
    fn only(row: &DomainRow, state: &'static str, customer: Option<String>) -> Self {
        let (domain, alias_domains) = (row.name.clone(), Vec::new());
        Self { domain, state, customer, alias_domains, mailboxes: 0, bytes: 0, messages: 0 }
    }
}

/// A short code as it can be.
fn code(text: &str) -> Result<String> {
    let is_code = !text.is_empty()
        && text.len() <= CODE_OCTETS_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if is_code { Ok(text.to_ascii_lowercase()) } else { Err(absent("customer", text)) }
}

/// The domain with its alias domains, if nothing on its side is in the way.
async fn admit(tx: &mut Tx<'_>, row: &DomainRow) -> Result<Vec<(DomainId, String)>> {
    let conflict = |message: String| Err(ServiceError::Conflict { message });
    if let Some(meant) = &row.alias_of_name {
        return conflict(format!("{} is an alias of {meant} and goes with it; move that one", row.name));
    }
    let group = domain_move::together(tx.conn, row.id).await?;
    let ids: Vec<DomainId> = group.iter().map(|(id, _)| *id).collect();
    if legal_hold::binds_domains(tx.conn, &ids).await? {
        return conflict(format!("{} is under legal hold and stays with its customer", row.name));
    }
    let across = domain_move::leading_across(tx.conn, row.customer, &group).await?;
    if !across.is_empty() {
        let across = across.join(", ");
        return conflict(format!(
            "these lead from {} to other domains of its customer, or from there to it; delete or change them first: \
             {across}",
            row.name
        ));
    }
    Ok(group)
}

/// Gives a domain and its alias domains to another customer.
async fn give(
    tx: &mut Tx<'_>,
    row: &DomainRow,
    group: &[(DomainId, String)],
    to: &OneCustomer,
) -> Result<DomainMoved> {
    let from = row.customer;
    if from == to.id {
        return Err(ServiceError::Conflict { message: format!("{} is {}'s already", row.name, to.path) });
    }
    let mut alias_domains = domain::aliases_of(tx.conn, row.id).await?;
    for name in alias_domains.iter().chain([&row.name]) {
        let same = domain::all_by_name(tx.conn, name).await?;
        if same.iter().any(|other| other.customer == to.id) {
            let message = format!("{} has a domain {name} of its own; delete it first", to.path);
            return Err(ServiceError::Conflict { message });
        }
    }
    let ids: Vec<DomainId> = group.iter().map(|(id, _)| *id).collect();
    let keys: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let sums = domain::sums(tx.conn, &keys).await?;
    let total = |at: usize| sums.iter().filter_map(|(_, sums)| sums.get(at)).sum::<i64>();
    let (mailboxes, aliases) = (total(0), total(2));
    let domains = i64::try_from(alias_domains.len() + 1).unwrap_or(i64::MAX);
    for (resource, count) in
        [(Resource::Domains, domains), (Resource::Mailboxes, mailboxes), (Resource::Aliases, aliases)]
    {
        quota::admit_along(tx, to.id, Some(from), resource, count).await?;
    }
    let tree = Arc::clone(&tx.caller.tree);
    let (old, new) = (tree.path_up(from), tree.path_up(to.id));
    let used = counters::lock_domains(tx.conn, &ids).await?;
    let moved = MovedUse { used, passed: used.bytes };
    if let Err(over) = counters::move_use(tx.conn, moved, &old, &new).await? {
        return Err(quota::over(tx.caller, over));
    }
    let leaves: Vec<i64> = old.iter().rev().copied().filter(|id| !new.contains(id)).collect();
    let common = tree.common_ancestor(from, to.id).unwrap_or(to.id);
    hold::inherit_domains(tx.conn, &ids, (from, to.id), leaves.clone(), common).await?;
    setting::inherit_domains(tx.conn, &ids, (from, to.id), leaves, common).await?;
    domain_move::set_customer(tx.conn, &ids, to.id).await?;
    let moved = Counts { mailboxes, aliases, domains, administrators: 0 };
    customer_count::add(tx.conn, from, moved.negated()).await?;
    customer_count::add(tx.conn, to.id, moved).await?;
    home::domains_moved(tx.conn, &ids, tx.now).await?;
    tx.also.extend([from, to.id]);
    tx.after = Some(serde_json::json!({
        "domain": row.name,
        "from": names::customer(&tree, from),
        "to": names::customer(&tree, to.id),
        "alias_domains": alias_domains,
        "mailboxes": mailboxes,
        "bytes": used.bytes,
        "messages": used.messages,
    }));
    alias_domains.sort_unstable();
    Ok(DomainMoved {
        domain: row.name.clone(),
        state: "moved",
        customer: Some(to.path.clone()),
        alias_domains,
        mailboxes,
        bytes: used.bytes,
        messages: used.messages,
    })
}
