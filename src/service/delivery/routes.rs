//! Which mailboxes an address means: exact names, aliases, subaddresses, catch-all, postmaster.
//!
//! Answers are kept for a short time and forgotten when anything in the directory changes, on whichever node.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::watch;

use super::{DeliveryRefusal, Recipient, Target};
use crate::base::address::{Address, DomainName};
use crate::base::id::{DomainId, MailboxId};
use crate::storage::StorageError;
use crate::storage::metadata::alias;
use crate::storage::metadata::changes::Touched;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::recipient::{self, DomainRoute};
use crate::storage::metadata::sql::Conn;

/// Routes kept.
const ROUTES_MAX: u64 = 20_000;
/// How long a route is kept, should a notification be lost.
const ROUTE_LIFETIME: Duration = Duration::from_secs(30);
/// Aliases that lead to aliases.
const ALIAS_DEPTH_MAX: usize = 8;
/// Mailboxes one address may lead to, and aliases on the way to them.
const TARGETS_MAX: usize = 1_000;
/// Why mail is deferred for an address that is taken.
const NOWHERE: &str = "this address leads to no mailbox at present";
const TOO_FAR: &str = "this address leads through too many aliases, or to too many mailboxes";
/// The mailbox every domain has (RFC 5321 section 4.5.1).
const POSTMASTER: &str = "postmaster";

/// A resolved address.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) recipient: Recipient,
    pub(super) domain: Option<DomainId>,
    pub(super) is_postmaster: bool,
    /// Whether the address itself is a mailbox or an alias, not one that a catch-all or the postmaster rule takes.
    pub(super) is_own: bool,
}

pub(super) enum RouteError {
    Refused(Option<DomainId>, DeliveryRefusal),
    Storage(StorageError),
}

impl From<StorageError> for RouteError {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

pub(super) struct Routes {
    database: Database,
    cache: Cache<String, Arc<Route>>,
    directory: Mutex<watch::Receiver<u64>>,
}

impl Routes {
    pub(super) fn new(database: Database) -> Self {
        let directory = Mutex::new(database.changes().watch(Touched::Directory));
        let cache = Cache::builder().max_capacity(ROUTES_MAX).time_to_live(ROUTE_LIFETIME).build();
        Self { database, cache, directory }
    }

    pub(super) async fn is_local_domain(&self, domain: &str) -> Result<bool, StorageError> {
        let Ok(name) = domain.parse::<DomainName>() else { return Ok(false) };
        self.database
            .read(|conn| Box::pin(async move { Ok(recipient::domain(conn, &name).await?.is_some()) }))
            .await
    }

    pub(super) async fn resolve(&self, text: &str) -> Result<Arc<Route>, RouteError> {
        {
            let mut directory = self.directory.lock().unwrap_or_else(PoisonError::into_inner);
            if directory.has_changed().unwrap_or(true) {
                directory.mark_unchanged();
                self.cache.invalidate_all();
            }
        }
        if let Some(route) = self.cache.get(text) {
            return Ok(route);
        }
        let asked = text.to_owned();
        let route = self.database.read(|conn| Box::pin(async move { look_up(conn, &asked).await })).await?;
        let route = Arc::new(route);
        self.cache.insert(text.to_owned(), Arc::clone(&route));
        Ok(route)
    }
}

async fn look_up(conn: &mut Conn, text: &str) -> Result<Route, RouteError> {
    if text.eq_ignore_ascii_case(POSTMASTER) {
        return postmaster(conn, None).await;
    }
    let Ok(address) = text.parse::<Address>() else {
        return Err(unparsable(conn, text).await?);
    };
    let Some(domain) = recipient::domain(conn, address.domain()).await? else {
        return Err(RouteError::Refused(None, DeliveryRefusal::NotLocal));
    };
    let is_postmaster = address.local() == POSTMASTER;
    let mut found = find(conn, &domain, &address).await?;
    let is_own = !found.is_nothing();
    if found.is_nothing() && is_postmaster {
        return postmaster(conn, Some((address, domain))).await;
    }
    if found.is_nothing()
        && let Some(catch_all) = domain.catch_all.as_deref().and_then(|text| text.parse::<Address>().ok())
    {
        found = reached(conn, &catch_all).await?;
    }
    if found.is_cut {
        // Those who were found would have the message, and the others would never know of it.
        tracing::warn!(domain = %domain.name, "mail is deferred: an alias or catch-all leads too far");
        return Err(RouteError::Refused(Some(domain.id), DeliveryRefusal::Misdirected(TOO_FAR)));
    }
    if found.targets.is_empty() {
        let refusal = if leads_nowhere(conn, &domain, &address).await? {
            tracing::warn!(domain = %domain.name, "mail is deferred: an alias or catch-all leads to no mailbox");
            DeliveryRefusal::Misdirected(NOWHERE)
        } else {
            DeliveryRefusal::UnknownMailbox
        };
        return Err(RouteError::Refused(Some(domain.id), refusal));
    }
    let recipient = Recipient { address, targets: found.targets };
    Ok(Route { recipient, domain: Some(domain.id), is_postmaster, is_own })
}

/// What an address leads to.
#[derive(Default)]
struct Found {
    /// Mailboxes, each once.
    targets: Vec<Target>,
    /// Whether there may be more behind what was not followed any further.
    is_cut: bool,
}

impl Found {
    fn is_nothing(&self) -> bool {
        self.targets.is_empty() && !self.is_cut
    }
}

/// Whether somebody meant the address to be taken, and what it leads to is gone, perhaps to be undeleted, or aliases
/// lead to each other and to nothing else.
async fn leads_nowhere(
    conn: &mut Conn,
    domain: &DomainRoute,
    address: &Address,
) -> Result<bool, StorageError> {
    if domain.catch_all.is_some() {
        return Ok(true);
    }
    for local in [address.local(), address.user_and_detail().0] {
        if !alias::targets(conn, domain.id, local).await?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// An address no mailbox here can have: ours or not decides between unknown and relaying.
async fn unparsable(conn: &mut Conn, text: &str) -> Result<RouteError, StorageError> {
    let domain = text.rsplit_once('@').and_then(|(_, domain)| domain.parse::<DomainName>().ok());
    let local = match domain {
        Some(name) => recipient::domain(conn, &name).await?,
        None => None,
    };
    Ok(match local {
        Some(domain) => RouteError::Refused(Some(domain.id), DeliveryRefusal::UnknownMailbox),
        None => RouteError::Refused(None, DeliveryRefusal::NotLocal),
    })
}

/// Exact mailbox, exact alias, then the same without the detail (RFC 5233).
async fn find(conn: &mut Conn, domain: &DomainRoute, address: &Address) -> Result<Found, StorageError> {
    let exact = find_exact(conn, domain, address.local(), None).await?;
    match address.user_and_detail() {
        (user, Some(detail)) if exact.is_nothing() => find_exact(conn, domain, user, Some(detail)).await,
        _ => Ok(exact),
    }
}

async fn find_exact(
    conn: &mut Conn,
    domain: &DomainRoute,
    local: &str,
    detail: Option<&str>,
) -> Result<Found, StorageError> {
    if let Some(mailbox) = recipient::mailbox(conn, domain.id, local).await? {
        let targets = target(domain, mailbox, local, detail).into_iter().collect();
        return Ok(Found { targets, is_cut: false });
    }
    let mut found = Found::default();
    // In the order of their distance: what several ways lead to is reached by the shortest. An alias that leads back to
    // one before is not followed again, so that a loop ends.
    let mut pending: VecDeque<(String, usize)> =
        alias::targets(conn, domain.id, local).await?.into_iter().map(|text| (text, 1)).collect();
    let mut seen: Vec<String> = Vec::new();
    while let Some((text, depth)) = pending.pop_front() {
        if seen.contains(&text) {
            continue;
        }
        if seen.len() >= TARGETS_MAX {
            found.is_cut = true;
            break;
        }
        seen.push(text.clone());
        let Ok(address) = text.parse::<Address>() else { continue };
        let Some(domain) = recipient::domain(conn, address.domain()).await? else { continue };
        let (user, inner_detail) = address.user_and_detail();
        for (local, inner_detail) in [(address.local(), None), (user, inner_detail)] {
            if let Some(mailbox) = recipient::mailbox(conn, domain.id, local).await? {
                found.targets.extend(target(&domain, mailbox, local, inner_detail.or(detail)));
                break;
            }
            let further = alias::targets(conn, domain.id, local).await?;
            if further.is_empty() {
                continue;
            }
            if depth < ALIAS_DEPTH_MAX {
                pending.extend(further.into_iter().map(|text| (text, depth + 1)));
            } else if further.iter().any(|text| !seen.contains(text)) {
                found.is_cut = true;
            }
            break;
        }
    }
    found.targets.sort_unstable_by_key(|target| target.mailbox);
    found.targets.dedup_by_key(|target| target.mailbox);
    Ok(found)
}

async fn reached(conn: &mut Conn, address: &Address) -> Result<Found, StorageError> {
    match recipient::domain(conn, address.domain()).await? {
        Some(domain) => find(conn, &domain, address).await,
        None => Ok(Found::default()),
    }
}

/// The mailboxes here that an address means: itself, an alias, or a subaddress; no catch-all. None for one elsewhere.
pub(in crate::service) async fn expand(
    conn: &mut Conn,
    address: &Address,
) -> Result<Vec<Target>, StorageError> {
    Ok(reached(conn, address).await?.targets)
}

/// Who reads what is sent to postmaster: the first of [`candidates`] that is a mailbox here. Deferred only where there
/// is none at all.
async fn postmaster(conn: &mut Conn, asked: Option<(Address, DomainRoute)>) -> Result<Route, RouteError> {
    for candidate in candidates(conn, asked.as_ref().map(|(_, domain)| domain)).await? {
        let Ok(contact) = candidate.parse::<Address>() else { continue };
        let targets = expand(conn, &contact).await?;
        if !targets.is_empty() {
            let domain = asked.as_ref().map(|(_, domain)| domain.id);
            let address = asked.map_or(contact, |(address, _)| address);
            let recipient = Recipient { address, targets };
            return Ok(Route { recipient, domain, is_postmaster: true, is_own: false });
        }
    }
    tracing::warn!("mail to postmaster is deferred: give the root customer a contact that is a mailbox here");
    Err(RouteError::Refused(asked.map(|(_, domain)| domain.id), DeliveryRefusal::Unavailable))
}

/// Whose mailbox takes mail to postmaster, the best first: the contact of the domain's customer or of the nearest
/// above; the domain's catch-all; its oldest mailbox; the contacts of the customer's administrators or of those
/// above; the oldest mailbox of the customer's other domains, or of the nearest above. Without a domain the root's in
/// that order. Never anything of another branch or below: that would tell one customer of another's mail.
async fn candidates(conn: &mut Conn, domain: Option<&DomainRoute>) -> Result<Vec<String>, StorageError> {
    let customer = domain.map(|domain| domain.customer);
    let mut candidates = recipient::contacts(conn, customer).await?;
    if let Some(domain) = domain {
        candidates.extend(domain.catch_all.clone());
        let oldest = recipient::oldest_mailbox(conn, domain.id).await?;
        candidates.extend(oldest.map(|local| format!("{local}@{}", domain.name)));
    }
    candidates.extend(recipient::administrator_contacts(conn, customer).await?);
    candidates.extend(recipient::oldest_mailbox_upwards(conn, customer).await?);
    Ok(candidates)
}

/// Whether somebody takes mail to postmaster without a domain.
pub(in crate::service) async fn takes_postmaster(conn: &mut Conn) -> Result<bool, StorageError> {
    for candidate in candidates(conn, None).await? {
        if let Ok(contact) = candidate.parse::<Address>()
            && !expand(conn, &contact).await?.is_empty()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn target(domain: &DomainRoute, mailbox: MailboxId, local: &str, detail: Option<&str>) -> Option<Target> {
    let address = Address::new(local, domain.name.clone()).ok()?;
    Some(Target {
        mailbox,
        domain: domain.id,
        customer: domain.customer,
        address,
        detail: detail.map(str::to_owned),
    })
}
