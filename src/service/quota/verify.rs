//! `quota verify`: whether what is recorded as used is what is there, and repair.
//!
//! Goes in pages, each a transaction of its own: reading costs deliveries nothing, repairing locks only what has
//! drifted.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::id::{CustomerId, MailboxId};
use crate::service::audit::{self, Event};
use crate::service::authority::{Caller, Permission, Tree};
use crate::service::directory::scope::Place;
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue};
use crate::service::registry::{Operate, Targeted as _, Tx, declare};
use crate::storage::metadata::audit::insert;
use crate::storage::metadata::customer::{self, TreeLock};
use crate::storage::metadata::customer_count::{self, Recounted};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::recount::{self, CountedMailbox, CountedOwner, OwnersPage, Sum};
use crate::storage::metadata::scope::{Customers, FEW_CUSTOMERS};
use crate::storage::metadata::sql::Conn;

/// Most drifts that are listed; more are only counted.
const DRIFTS_MAX: usize = 1_000;

/// What to count.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct QuotaVerifyRequest {
    /// Only at this customer and below; default: wherever the caller may.
    customer: Option<String>,
    /// Set what is recorded to what was counted.
    #[serde(default)]
    repair: bool,
}

/// `quota.verify`.
pub(in crate::service) struct QuotaVerify;

impl Operate for QuotaVerify {
    declare! { "quota.verify", Post, "/v1/quota/verify", QuotaVerify, changes,
    "Recount use while mail flows, compare it with what is recorded, repair" }
    const STARTS_JOB: bool = true;
    type Request = QuotaVerifyRequest;
    type Response = Job;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a QuotaVerifyRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::QuotaVerify)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: QuotaVerifyRequest) -> Result<Job> {
        if target.tops.len() > 1 {
            // The report of one job must not name what is at another customer.
            let message = "say which one: you may do this at several customers".to_owned();
            return Err(ServiceError::Invalid { field: "customer", message });
        }
        let asked = RecountRequest { repair: request.repair };
        enqueue::<Recount>(tx, target.customer(), &target.label(), &asked).await
    }
}

/// What to do, at the job's customer and below.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::service) struct RecountRequest {
    repair: bool,
}

/// Something recorded that is not what is there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::service) struct Drift {
    /// `mailbox`, `folder`, `domain` or `customer`.
    kind: Cow<'static, str>,
    name: String,
    /// `bytes` or `messages`; of a mailbox also `undeletable_bytes`; of a customer also `committed_bytes`, and where it
    /// has limits on them `mailboxes`, `aliases`, `domains` or `administrators`; of a folder also `unseen`, `recent`,
    /// `deleted` or `deleted_bytes`.
    resource: Cow<'static, str>,
    /// Absent where a counter is missing.
    recorded: Option<i64>,
    /// Absent where there should be no counter.
    counted: Option<i64>,
}

/// What was counted.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(in crate::service) struct QuotaReport {
    /// Mailboxes counted.
    mailboxes: u64,
    /// Domains with a limit.
    domains: u64,
    /// Customers with a limit or a guarantee, as far as it has been asked for.
    customers: u64,
    /// How many values have drifted; 0 is right.
    drift: u64,
    /// Whether they were set to what was counted.
    repaired: bool,
    /// The first 1,000 of them.
    drifts: Vec<Drift>,
}

/// The work of `quota.verify`.
pub(in crate::service) struct Recount;

impl Work for Recount {
    const KIND: &'static str = QuotaVerify::NAME;
    const PERMISSION: Permission = QuotaVerify::PERMISSION;
    type Request = RecountRequest;
    type Report = QuotaReport;

    async fn run(context: JobContext, request: RecountRequest, position: String) -> Outcome<QuotaReport> {
        let caller = context.caller().await?;
        // Deleted customers keep their charge until they are purged.
        let places = places(&caller.tree, context.customer);
        // A position of another version is as good as none.
        let so_far: SoFar = serde_json::from_str(&position).unwrap_or_default();
        let shared = Arc::new(Shared { context, caller, places });
        let mut count = Count { shared, repair: request.repair, so_far };
        count.mailboxes().await?;
        count.domains().await?;
        let limited = count.customers().await?;
        count.numbers(&limited).await?;
        let mut report = count.so_far.report;
        report.repaired = request.repair && report.drift > 0;
        Ok(report)
    }
}

/// What every step needs.
struct Shared {
    context: JobContext,
    caller: Caller,
    places: Customers,
}

/// A customer and all below it.
fn places(tree: &Arc<Tree>, top: CustomerId) -> Customers {
    let below = tree.subtree_ids(top);
    if below.len() <= FEW_CUSTOMERS {
        return Customers::few(below);
    }
    let tree = Arc::clone(tree);
    Customers::Many(Box::new(move |customer| tree.covers(top, customer)))
}

/// Where a recount stands: its position. Domains and customers are few and counted anew.
#[derive(Clone, Default, Serialize, Deserialize)]
struct SoFar {
    /// The mailbox that was counted last.
    after: i64,
    /// What the mailboxes of a domain use more than is recorded, and the domain's customer.
    by_domain: BTreeMap<i64, (CustomerId, Sum)>,
    report: QuotaReport,
}

struct Count {
    shared: Arc<Shared>,
    repair: bool,
    so_far: SoFar,
}

impl Count {
    async fn mailboxes(&mut self) -> Outcome<()> {
        loop {
            self.shared.context.go_on()?;
            let after = MailboxId(self.so_far.after);
            let shared = Arc::clone(&self.shared);
            let read = self.shared.context.inner.database.read(|conn| {
                Box::pin(async move {
                    let page = recount::page(conn, &shared.places, after).await?;
                    let drifted = recount::drifted(conn, &page.keys).await?;
                    // What has drifted is read by a statement of its own, and compared once more.
                    let counted = match drifted.is_empty() {
                        true => Vec::new(),
                        false => recount::mailboxes(conn, &drifted).await?,
                    };
                    Ok::<_, ServiceError>((page, counted))
                })
            });
            let (page, counted) = read.await?;
            let Some(after) = page.after else { return Ok(()) };
            self.so_far.report.mailboxes += page.keys.len() as u64;
            for mailbox in counted {
                self.mailbox(mailbox).await?;
            }
            self.so_far.after = after;
            let context = &self.shared.context;
            context.advance(self.so_far.report.mailboxes, None, "mailboxes");
            context.save_position(serde_json::to_string(&self.so_far).unwrap_or_default());
        }
    }

    async fn mailbox(&mut self, mut mailbox: CountedMailbox) -> Result<()> {
        if drifts_of(&mailbox).is_empty() {
            return Ok(());
        }
        if self.repair {
            let shared = Arc::clone(&self.shared);
            let key = mailbox.id.0;
            let write = self.shared.context.inner.database.write(Priority::Bulk, move |conn| {
                let shared = Arc::clone(&shared);
                Box::pin(async move { repair_mailbox(conn, &shared, key).await })
            });
            // Gone meanwhile: then there is nothing to repair.
            let Some(found) = write.await? else { return Ok(()) };
            mailbox = found;
        } else {
            let (counted, recorded) = (mailbox.counted(), mailbox.recorded);
            let (_, more) =
                self.so_far.by_domain.entry(mailbox.domain.0).or_insert((mailbox.customer, Sum::default()));
            more.octets = more.octets.saturating_add(counted.octets - recorded.octets);
            more.messages = more.messages.saturating_add(counted.messages - recorded.messages);
        }
        self.report(drifts_of(&mailbox));
        Ok(())
    }

    async fn domains(&mut self) -> Result<()> {
        let mut after = 0;
        loop {
            let shared = Arc::clone(&self.shared);
            let read = self.shared.context.inner.database.read(|conn| {
                Box::pin(async move {
                    Ok::<_, ServiceError>(recount::domains(conn, &shared.places, after).await?)
                })
            });
            let page: OwnersPage = read.await?;
            let Some(last) = page.after else { return Ok(()) };
            after = last;
            for mut domain in page.owners {
                self.so_far.report.domains += 1;
                let more = self.so_far.by_domain.get(&domain.id).map_or(Sum::default(), |(_, more)| *more);
                add(&mut domain.counted, more);
                let drifts = owner_drifts("domain", &domain.name, &domain);
                self.owner(drifts, domain.customer, Owner::Domain(domain.id)).await?;
            }
        }
    }

    /// Octets and messages of customers; which those were.
    async fn customers(&mut self) -> Result<BTreeSet<i64>> {
        let shared = Arc::clone(&self.shared);
        let read = self.shared.context.inner.database.read(|conn| {
            Box::pin(
                async move { Ok::<_, ServiceError>(recount::limited_customers(conn, &shared.places).await?) },
            )
        });
        let limited = read.await?;
        for id in limited.iter().copied().map(CustomerId) {
            let read = self.shared.context.inner.database.read(|conn| {
                Box::pin(async move { Ok::<_, ServiceError>(recount::customer(conn, id).await?) })
            });
            let Some(mut customer) = read.await? else { continue };
            self.so_far.report.customers += 1;
            let tree = &self.shared.caller.tree;
            for (at, more) in self.so_far.by_domain.values().filter(|(at, _)| tree.covers(id, *at)) {
                let path = tree.path(*at);
                let group = path
                    .iter()
                    .rev()
                    .find_map(|node| customer.groups.iter().position(|group| group.id == node.id.0));
                if let Some(group) = group.and_then(|at| customer.groups.get_mut(at)) {
                    group.own = group.own.saturating_add(more.octets);
                    group.messages = group.messages.saturating_add(more.messages);
                }
            }
            customer.add_up()?;
            let name = self.shared.caller.path_of(id).unwrap_or_default();
            let drifts = owner_drifts("customer", &name, &customer);
            self.owner(drifts, id, Owner::Customer(id)).await?;
        }
        Ok(limited.into_iter().collect())
    }

    /// Numbers of objects at customers that have limits on them; those of `seen` are in the report already.
    async fn numbers(&mut self, seen: &BTreeSet<i64>) -> Result<()> {
        let mut after = 0;
        loop {
            let database = &self.shared.context.inner.database;
            let read = database.read(move |conn| {
                Box::pin(async move { Ok::<_, ServiceError>(customer_count::known_at(conn, after).await?) })
            });
            let page: Vec<CustomerId> = read.await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.0;
            let shared = Arc::clone(&self.shared);
            for id in page.into_iter().filter(|id| shared.places.has(*id)) {
                let read = shared.context.inner.database.read(move |conn| {
                    Box::pin(async move { Ok::<_, ServiceError>(customer_count::recount(conn, id).await?) })
                });
                let recounted: Vec<Recounted> = read.await?;
                self.so_far.report.customers += u64::from(!seen.contains(&id.0));
                let name = shared.caller.path_of(id).unwrap_or_default();
                let drifted = recounted.into_iter().filter(|one| one.recorded != one.counted);
                let drifts = drifted.map(|one| Drift {
                    kind: Cow::Borrowed("customer"),
                    name: name.clone(),
                    resource: Cow::Borrowed(one.resource),
                    recorded: Some(one.recorded),
                    counted: Some(one.counted),
                });
                self.owner(drifts.collect(), id, Owner::Numbers(id)).await?;
            }
        }
    }

    async fn owner(&mut self, drifts: Vec<Drift>, place: CustomerId, owner: Owner) -> Result<()> {
        if drifts.is_empty() {
            return Ok(());
        }
        if self.repair {
            let (shared, found) = (Arc::clone(&self.shared), Arc::new(drifts.clone()));
            let write = self.shared.context.inner.database.write(Priority::Bulk, move |conn| {
                let (shared, found) = (Arc::clone(&shared), Arc::clone(&found));
                Box::pin(async move {
                    match owner {
                        Owner::Domain(id) => recount::domain_set(conn, id).await?,
                        Owner::Customer(id) => recount::customer_set(conn, id).await?,
                        Owner::Numbers(id) => {
                            // Nobody makes or deletes any meanwhile.
                            customer::tree_version(conn, TreeLock::Exclusive).await?;
                            customer_count::repair(conn, id).await?;
                        }
                    }
                    record(conn, &shared, place, &found).await
                })
            });
            write.await?;
        }
        self.report(drifts);
        Ok(())
    }

    fn report(&mut self, drifts: Vec<Drift>) {
        self.so_far.report.drift += drifts.len() as u64;
        let room = DRIFTS_MAX.saturating_sub(self.so_far.report.drifts.len());
        self.so_far.report.drifts.extend(drifts.into_iter().take(room));
    }
}

#[derive(Clone, Copy)]
enum Owner {
    Domain(i64),
    Customer(CustomerId),
    /// Of its objects.
    Numbers(CustomerId),
}

/// Counts one mailbox again behind its locks and corrects it; answers what was found then.
async fn repair_mailbox(conn: &mut Conn, shared: &Shared, key: i64) -> Result<Option<CountedMailbox>> {
    recount::lock_mailboxes(conn, &[key]).await?;
    let Some(mailbox) = recount::mailboxes(conn, &[key]).await?.into_iter().next() else { return Ok(None) };
    let drifts = drifts_of(&mailbox);
    if !drifts.is_empty() {
        recount::mailbox_set(conn, &mailbox).await?;
        record(conn, shared, mailbox.customer, &drifts).await?;
    }
    Ok(Some(mailbox))
}

/// Writes the audit record of a correction.
async fn record(conn: &mut Conn, shared: &Shared, place: CustomerId, drifts: &[Drift]) -> Result<()> {
    let Some(first) = drifts.first() else { return Ok(()) };
    let values = |value: fn(&Drift) -> Option<i64>| {
        let pairs = drifts.iter().map(|drift| {
            let what = match &*drift.kind {
                "customer" => drift.kind.to_string(),
                kind => format!("{kind} {}", drift.name),
            };
            (format!("{what} {}", drift.resource), serde_json::json!(value(drift)))
        });
        serde_json::Value::Object(pairs.collect()).to_string()
    };
    // A customer is named by its path as the caller sees it; the record has a reference instead.
    let target = match &*first.kind {
        "customer" => format!("customer {}", audit::names::customer(&shared.caller.tree, place)),
        kind => format!("{kind} {}", first.name),
    };
    let event = Event {
        at: shared.context.now(),
        operation: QuotaVerify::NAME,
        place: Some(place),
        target: &target,
        before: Some(values(|drift| drift.recorded)),
        after: Some(values(|drift| drift.counted)),
        outcome: "done",
    };
    insert(conn, &[audit::record(&shared.caller, &shared.context.asker, event)]).await?;
    Ok(())
}

fn add(sum: &mut Sum, more: Sum) {
    sum.octets = sum.octets.saturating_add(more.octets);
    sum.messages = sum.messages.saturating_add(more.messages);
}

fn drifts_of(mailbox: &CountedMailbox) -> Vec<Drift> {
    let counted = mailbox.counted();
    let mut drifts = compare("mailbox", &mailbox.address, Some(mailbox.recorded), Some(counted));
    for folder in &mailbox.folders {
        let name = format!("{} {}", mailbox.address, folder.name);
        drifts.extend(compare("folder", &name, Some(folder.recorded), Some(folder.counted)));
    }
    drifts
}

fn owner_drifts(kind: &'static str, name: &str, owner: &CountedOwner) -> Vec<Drift> {
    compare(kind, name, owner.recorded, owner.limited.then_some(owner.counted))
}

/// A resource, and where its sum stands.
type Countable = (&'static str, fn(Sum) -> i64);

/// What everything counts.
const SUMS: [Countable; 2] = [("bytes", |sum| sum.octets), ("messages", |sum| sum.messages)];

fn compare(kind: &'static str, name: &str, recorded: Option<Sum>, counted: Option<Sum>) -> Vec<Drift> {
    let resources: &[Countable] = match kind {
        "mailbox" => &[SUMS[0], SUMS[1], ("undeletable_bytes", |sum| sum.undeletable_octets)],
        "customer" => &[SUMS[0], SUMS[1], ("committed_bytes", |sum| sum.committed_octets)],
        "folder" => &[
            SUMS[0],
            SUMS[1],
            ("unseen", |sum| sum.unseen),
            ("recent", |sum| sum.recent),
            ("deleted", |sum| sum.deleted),
            ("deleted_bytes", |sum| sum.deleted_octets),
        ],
        _ => &SUMS,
    };
    let drift = |&(resource, of): &Countable| {
        let (recorded, counted) = (recorded.map(of), counted.map(of));
        let differs = recorded != counted;
        let (kind, resource) = (Cow::Borrowed(kind), Cow::Borrowed(resource));
        differs.then(|| Drift { kind, name: name.to_owned(), resource, recorded, counted })
    };
    resources.iter().filter_map(drift).collect()
}
