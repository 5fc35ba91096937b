//! `quota verify`: whether what is recorded as used is what is there, and repair.
//!
//! Goes in pages, each a transaction of its own: reading costs deliveries nothing, repairing locks only what has
//! drifted.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::id::{CustomerId, MailboxId};
use crate::service::audit::{self, Event};
use crate::service::authority::Permission;
use crate::service::directory::scope::Place;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{After, Method, Operate, Targeted as _, Tx};
use crate::storage::metadata::audit::insert;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::recount::{self, CountedMailbox, CountedOwner, Sum};
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

/// Something recorded that is not what is there.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(in crate::service) struct Drift {
    /// `mailbox`, `folder`, `domain` or `customer`.
    kind: &'static str,
    name: String,
    /// `bytes` or `messages`; of a folder also `unseen`, `recent`, `deleted` or `deleted_bytes`.
    resource: &'static str,
    /// Absent where a counter is missing.
    recorded: Option<i64>,
    /// Absent where there should be no counter.
    counted: Option<i64>,
}

/// What was counted.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct QuotaVerifyAnswer {
    /// Mailboxes counted.
    mailboxes: u64,
    /// Domains with a limit.
    domains: u64,
    /// Customers with a limit.
    customers: u64,
    /// How many values have drifted; 0 is right.
    drift: u64,
    /// Whether they were set to what was counted.
    repaired: bool,
    /// The first 1,000 of them.
    drifts: Vec<Drift>,
    #[serde(skip)]
    places: Vec<i64>,
}

/// `quota.verify`.
pub(in crate::service) struct QuotaVerify;

impl Operate for QuotaVerify {
    const NAME: &'static str = "quota.verify";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/quota/verify";
    const PERMISSION: Permission = Permission::QuotaVerify;
    const MUTATES: bool = true;
    const SUMMARY: &'static str = "Recount use while mail flows, compare it with what is recorded, repair";
    const WORKS_AFTER: bool = true;
    type Request = QuotaVerifyRequest;
    type Response = QuotaVerifyAnswer;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a QuotaVerifyRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::QuotaVerify)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, request: QuotaVerifyRequest) -> Result<QuotaVerifyAnswer> {
        // Deleted customers keep their charge until they are purged.
        let subtrees = target.tops.iter().flat_map(|&top| tx.caller.tree.subtree(top));
        let places = subtrees.map(|node| node.id.0).collect();
        tx.after = Some(serde_json::json!({ "customer": target.label(), "repair": request.repair }));
        Ok(QuotaVerifyAnswer {
            mailboxes: 0,
            domains: 0,
            customers: 0,
            drift: 0,
            repaired: false,
            drifts: Vec::new(),
            places,
        })
    }

    async fn after(
        done: After,
        request: &QuotaVerifyRequest,
        answer: QuotaVerifyAnswer,
    ) -> Result<QuotaVerifyAnswer> {
        let places = Arc::new(answer.places.clone());
        let mut work =
            Work { done: Arc::new(done), places, repair: request.repair, by_domain: BTreeMap::new(), answer };
        work.mailboxes().await?;
        work.domains().await?;
        work.customers().await?;
        work.answer.repaired = request.repair && work.answer.drift > 0;
        Ok(work.answer)
    }
}

struct Work {
    done: Arc<After>,
    /// Customers, by key.
    places: Arc<Vec<i64>>,
    repair: bool,
    /// What the mailboxes of a domain use more than is recorded, and the domain's customer.
    by_domain: BTreeMap<i64, (CustomerId, Sum)>,
    answer: QuotaVerifyAnswer,
}

impl Work {
    async fn mailboxes(&mut self) -> Result<()> {
        let mut after = MailboxId(0);
        loop {
            let places = Arc::clone(&self.places);
            let read = self.done.inner.database.read(|conn| {
                Box::pin(async move {
                    let keys = recount::page(conn, &places, after).await?;
                    let counted = recount::mailboxes(conn, &keys).await?;
                    Ok::<_, ServiceError>((keys, counted))
                })
            });
            let (keys, counted) = read.await?;
            let Some(&last) = keys.last() else { return Ok(()) };
            after = MailboxId(last);
            self.answer.mailboxes += counted.len() as u64;
            for mailbox in counted {
                self.mailbox(mailbox).await?;
            }
        }
    }

    async fn mailbox(&mut self, mut mailbox: CountedMailbox) -> Result<()> {
        if drifts_of(&mailbox).is_empty() {
            return Ok(());
        }
        if self.repair {
            let done = Arc::clone(&self.done);
            let key = mailbox.id.0;
            let write = self.done.inner.database.write(Priority::Bulk, move |conn| {
                let done = Arc::clone(&done);
                Box::pin(async move { repair_mailbox(conn, &done, key).await })
            });
            // Gone meanwhile: then there is nothing to repair.
            let Some(found) = write.await? else { return Ok(()) };
            mailbox = found;
        } else {
            let (counted, recorded) = (mailbox.counted(), mailbox.recorded);
            let (_, more) =
                self.by_domain.entry(mailbox.domain.0).or_insert((mailbox.customer, Sum::default()));
            more.octets = more.octets.saturating_add(counted.octets - recorded.octets);
            more.messages = more.messages.saturating_add(counted.messages - recorded.messages);
        }
        self.report(drifts_of(&mailbox));
        Ok(())
    }

    async fn domains(&mut self) -> Result<()> {
        let mut after = 0;
        loop {
            let places = Arc::clone(&self.places);
            let read = self.done.inner.database.read(|conn| {
                Box::pin(async move { Ok::<_, ServiceError>(recount::domains(conn, &places, after).await?) })
            });
            let page: Vec<CountedOwner> = read.await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            for mut domain in page {
                self.answer.domains += 1;
                let more = self.by_domain.get(&domain.id).map_or(Sum::default(), |(_, more)| *more);
                add(&mut domain.counted, more);
                let drifts = owner_drifts("domain", &domain.name, &domain);
                self.owner(drifts, domain.customer, Owner::Domain(domain.id)).await?;
            }
        }
    }

    async fn customers(&mut self) -> Result<()> {
        let places = Arc::clone(&self.places);
        let read = self.done.inner.database.read(|conn| {
            Box::pin(async move { Ok::<_, ServiceError>(recount::limited_customers(conn, &places).await?) })
        });
        for id in read.await?.into_iter().map(CustomerId) {
            let read = self.done.inner.database.read(|conn| {
                Box::pin(async move { Ok::<_, ServiceError>(recount::customer(conn, id).await?) })
            });
            let Some(mut customer) = read.await? else { continue };
            self.answer.customers += 1;
            for (at, more) in self.by_domain.values() {
                if self.done.caller.tree.covers(id, *at) {
                    add(&mut customer.counted, *more);
                }
            }
            let name = self.done.caller.path_of(id).unwrap_or_default();
            let drifts = owner_drifts("customer", &name, &customer);
            self.owner(drifts, id, Owner::Customer(id)).await?;
        }
        Ok(())
    }

    async fn owner(&mut self, drifts: Vec<Drift>, place: CustomerId, owner: Owner) -> Result<()> {
        if drifts.is_empty() {
            return Ok(());
        }
        if self.repair {
            let (done, found) = (Arc::clone(&self.done), Arc::new(drifts.clone()));
            let write = self.done.inner.database.write(Priority::Bulk, move |conn| {
                let (done, found) = (Arc::clone(&done), Arc::clone(&found));
                Box::pin(async move {
                    match owner {
                        Owner::Domain(id) => recount::domain_set(conn, id).await?,
                        Owner::Customer(id) => recount::customer_set(conn, id).await?,
                    }
                    record(conn, &done, place, &found).await
                })
            });
            write.await?;
        }
        self.report(drifts);
        Ok(())
    }

    fn report(&mut self, drifts: Vec<Drift>) {
        self.answer.drift += drifts.len() as u64;
        let room = DRIFTS_MAX.saturating_sub(self.answer.drifts.len());
        self.answer.drifts.extend(drifts.into_iter().take(room));
    }
}

#[derive(Clone, Copy)]
enum Owner {
    Domain(i64),
    Customer(CustomerId),
}

/// Counts one mailbox again behind its locks and corrects it; answers what was found then.
async fn repair_mailbox(conn: &mut Conn, done: &After, key: i64) -> Result<Option<CountedMailbox>> {
    recount::lock_mailboxes(conn, &[key]).await?;
    let Some(mailbox) = recount::mailboxes(conn, &[key]).await?.into_iter().next() else { return Ok(None) };
    let drifts = drifts_of(&mailbox);
    if !drifts.is_empty() {
        recount::mailbox_set(conn, &mailbox).await?;
        record(conn, done, mailbox.customer, &drifts).await?;
    }
    Ok(Some(mailbox))
}

/// Writes the audit record of a correction.
async fn record(conn: &mut Conn, done: &After, place: CustomerId, drifts: &[Drift]) -> Result<()> {
    let Some(first) = drifts.first() else { return Ok(()) };
    let values = |value: fn(&Drift) -> Option<i64>| {
        let pairs = drifts.iter().map(|drift| {
            let what = match drift.kind {
                "customer" => drift.kind.to_owned(),
                kind => format!("{kind} {}", drift.name),
            };
            (format!("{what} {}", drift.resource), serde_json::json!(value(drift)))
        });
        serde_json::Value::Object(pairs.collect()).to_string()
    };
    // A customer is named by its path as the caller sees it; the record has a reference instead.
    let target = match first.kind {
        "customer" => format!("customer {}", audit::names::customer(&done.caller.tree, place)),
        kind => format!("{kind} {}", first.name),
    };
    let event = Event {
        at: done.inner.clock.now(),
        operation: QuotaVerify::NAME,
        place: Some(place),
        target: &target,
        before: Some(values(|drift| drift.recorded)),
        after: Some(values(|drift| drift.counted)),
        outcome: "done",
    };
    insert(conn, &[audit::record(&done.caller, &done.context, event)]).await?;
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

fn compare(kind: &'static str, name: &str, recorded: Option<Sum>, counted: Option<Sum>) -> Vec<Drift> {
    let resources: [Countable; 6] = [
        ("bytes", |sum| sum.octets),
        ("messages", |sum| sum.messages),
        // Only folders count the rest.
        ("unseen", |sum| sum.unseen),
        ("recent", |sum| sum.recent),
        ("deleted", |sum| sum.deleted),
        ("deleted_bytes", |sum| sum.deleted_octets),
    ];
    let drift = |(resource, of): Countable| {
        let (recorded, counted) = (recorded.map(of), counted.map(of));
        (recorded != counted).then(|| Drift { kind, name: name.to_owned(), resource, recorded, counted })
    };
    let compared = if kind == "folder" { resources.len() } else { 2 };
    resources.into_iter().take(compared).filter_map(drift).collect()
}
