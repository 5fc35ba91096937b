//! `audit verify`: whether the trail is what was done, and up to when somebody outside the database can tell.
//!
//! Goes through all batches from the first on: every record is digested again, the chains and the signed roots are made
//! anew, and compared with what the database has and with what was published. Reading costs nobody else anything.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::chain::{self, Digest, Published};
use super::prune::{PRUNED, Pruning};
use crate::base::clock::Timestamp;
use crate::base::signing::is_signed;
use crate::service::authority::Permission;
use crate::service::directory::scope::Place;
use crate::service::error::{Result, ServiceError};
use crate::service::housekeeping::audit_kept_since;
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue};
use crate::service::registry::{Operate, Targeted as _, Tx, declare};
use crate::service::server::starting;
use crate::storage::ledger;
use crate::storage::metadata::audit::Record;
use crate::storage::metadata::seal::{self, Head, Link, Root};

/// Most findings that are listed; more are only counted.
const FINDINGS_MAX: usize = 1_000;
/// Batches that are read at once: at most 1,024 records.
const BATCHES_TOGETHER: i64 = 4;

/// Whose records to check.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct AuditVerifyRequest {
    /// Only this customer and below; default: wherever the caller may.
    customer: Option<String>,
}

/// `audit.verify`.
pub(in crate::service) struct AuditVerify;

impl Operate for AuditVerify {
    declare! { "audit.verify", Post, "/v1/audit/verify", AuditRead, changes,
    "Check that no record of the audit trail was changed, removed or inserted" }
    const STARTS_JOB: bool = true;
    type Request = AuditVerifyRequest;
    type Response = Job;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a AuditVerifyRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::AuditRead)
    }

    async fn run(tx: &mut Tx<'_>, target: Place, _: AuditVerifyRequest) -> Result<Job> {
        if target.tops.len() > 1 {
            // The report of one job must not name what is at another customer.
            let message = "say which one: you may do this at several customers".to_owned();
            return Err(ServiceError::Invalid { field: "customer", message });
        }
        enqueue::<Verifying>(tx, target.customer(), &target.label(), &VerifyingRequest {}).await
    }
}

/// Nothing but the job's customer.
#[derive(Clone, Serialize, Deserialize)]
pub(in crate::service) struct VerifyingRequest {}

/// Something that is not as it was sealed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(in crate::service) struct Finding {
    /// `changed`: the record is not what was sealed. `missing`: it is gone before its time. `inserted`: it came without
    /// being sealed. `rewritten`: record and seal are not what was published. `removed`: published, and sealed no more.
    /// `order`: a gap in a chain. `root`, `signature`: those of a batch. `unpublished`: a batch without which later
    /// ones were published.
    kind: &'static str,
    /// The record's id, where it is about one and that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    /// When the record says it was made; of a batch when it was sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    /// The batch; told to the root alone, since batches are counted across all customers.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<i64>,
}

/// What came of it.
#[derive(Default, Serialize)]
pub(in crate::service) struct AuditReport {
    /// Records checked.
    records: u64,
    /// Records that were pruned after their time; their seals still fit.
    pruned: u64,
    /// Records that are too young to be sealed.
    waiting: i64,
    /// Everything up to this moment is also compared with what was published outside the database; for a customer the
    /// last moment at which anything of its own was.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_until: Option<Timestamp>,
    /// How many things are not as they were sealed; 0 is right.
    found: u64,
    /// The first 1,000 of them.
    findings: Vec<Finding>,
}

/// The work of `audit.verify`. It begins anew after a restart: half a trail says nothing.
pub(in crate::service) struct Verifying;

impl Work for Verifying {
    const KIND: &'static str = AuditVerify::NAME;
    const PERMISSION: Permission = AuditVerify::PERMISSION;
    type Request = VerifyingRequest;
    type Report = AuditReport;

    async fn run(context: JobContext, _: VerifyingRequest, _: String) -> Outcome<AuditReport> {
        let caller = context.caller().await?;
        let sealer = Arc::clone(context.inner.sealer.get().ok_or_else(starting)?);
        let root = caller.tree.root().map(|root| root.id);
        let mut check = Check {
            places: caller.tree.subtree_ids(context.customer).into_iter().collect(),
            is_whole: Some(context.customer) == root,
            kept_since: audit_kept_since(context.now()),
            pruned: pruned_until(&context).await?,
            published: PublishedLines::open(sealer.file()).await?,
            secret: chain::secret(&context.inner.database).await?,
            before: vec![0; 32],
            heads: HashMap::new(),
            report: AuditReport::default(),
        };
        check.batches(&context).await?;
        check.rest(&context).await?;
        Ok(check.report)
    }
}

/// Up to when records of customers were pruned, as records of their own say: whoever changes those is found.
async fn pruned_until(context: &JobContext) -> Result<HashMap<i64, Timestamp>> {
    let read = context
        .inner
        .database
        .read(|conn| Box::pin(async move { Ok::<_, ServiceError>(seal::prunings(conn).await?) }));
    let told = |(customer, record): (i64, Record)| {
        let is_one = record.operation == PRUNED && super::seal::customer_of(&record) == customer;
        let after: Pruning = serde_json::from_str(record.after.as_deref().filter(|_| is_one)?).ok()?;
        Some((customer, Timestamp(after.until_micros)))
    };
    Ok(read.await?.into_iter().filter_map(told).collect())
}

/// The published batches in their order.
struct PublishedLines {
    reader: Option<ledger::Reader>,
    page: VecDeque<Published>,
}

impl PublishedLines {
    async fn open(path: &std::path::Path) -> Result<Self> {
        Ok(Self { reader: Some(ledger::Reader::open(path).await?), page: VecDeque::new() })
    }

    /// The next one, left where it is. Lines that are none, such as one that was cut off, are passed over.
    async fn peek(&mut self) -> Result<Option<&Published>> {
        while self.page.is_empty() {
            let Some(reader) = self.reader.take() else { break };
            let (reader, lines) = reader.page().await?;
            if lines.is_empty() {
                break;
            }
            self.reader = Some(reader);
            self.page.extend(lines.iter().filter_map(|line| serde_json::from_str::<Published>(line).ok()));
        }
        Ok(self.page.front())
    }

    async fn next_until(&mut self, batch: i64) -> Result<Option<Published>> {
        let is_due = self.peek().await?.is_some_and(|line| line.batch <= batch);
        Ok(if is_due { self.page.pop_front() } else { None })
    }
}

struct Check {
    /// Customers whose records are checked, by key.
    places: BTreeSet<i64>,
    /// Whether it is everybody, those who are gone too: what cannot be told of one record is told to the root alone.
    is_whole: bool,
    /// Older records may be gone: everywhere, and at customers of which it is recorded that they were pruned.
    kept_since: Timestamp,
    pruned: HashMap<i64, Timestamp>,
    published: PublishedLines,
    /// Of the installation.
    secret: [u8; 32],
    /// The root before.
    before: Vec<u8>,
    /// The ends of the chains so far.
    heads: HashMap<i64, (i64, Digest)>,
    report: AuditReport,
}

impl Check {
    fn is_ours(&self, customer: i64) -> bool {
        self.is_whole || self.places.contains(&customer)
    }

    fn find(&mut self, kind: &'static str, record: Option<&str>, at: Option<Timestamp>, batch: Option<i64>) {
        self.report.found += 1;
        if self.report.findings.len() < FINDINGS_MAX {
            let record = record.filter(|id| !id.is_empty()).map(str::to_owned);
            let batch = batch.filter(|_| self.is_whole);
            self.report.findings.push(Finding { kind, record, at, batch });
        }
    }

    async fn batches(&mut self, context: &JobContext) -> Outcome<()> {
        let mut after = 0;
        loop {
            context.go_on()?;
            let read = context.inner.database.read(move |conn| {
                Box::pin(async move {
                    let roots = seal::roots_after(conn, after, BATCHES_TOGETHER).await?;
                    let (mut links, mut heads) = (Vec::new(), HashMap::new());
                    if let (Some(first), Some(last)) = (roots.first(), roots.last()) {
                        links = seal::links(conn, first.batch, last.batch).await?;
                        heads = seal::heads(conn, links.iter().map(|(link, _)| link.customer)).await?;
                    }
                    Ok::<_, ServiceError>((roots, links, heads))
                })
            });
            let (roots, links, heads) = read.await?;
            let Some(last) = roots.last() else { return Ok(()) };
            after = last.batch;
            let mut by_batch: BTreeMap<i64, Vec<(Link, Option<Record>)>> = BTreeMap::new();
            for (link, record) in links {
                by_batch.entry(link.batch).or_default().push((link, record));
            }
            for root in roots {
                let links = by_batch.remove(&root.batch).unwrap_or_default();
                self.batch(&root, &links, &heads).await?;
            }
            context.advance(self.report.records, None, "records");
        }
    }

    async fn batch(
        &mut self,
        root: &Root,
        links: &[(Link, Option<Record>)],
        heads: &HashMap<i64, Head>,
    ) -> Result<()> {
        // As of before, of the last links of each chain, in the order of customers; or of all of them.
        let (mut ends, mut leaves) = (BTreeMap::new(), Vec::new());
        for (link, record) in links {
            self.link(link, record.as_ref(), root.kind);
            let (seq, head) = self.heads.get(&link.customer).copied().unwrap_or_default();
            let chain = heads.get(&link.customer).map_or("", |head| head.chain.as_str());
            let leaf = chain::leaf(chain, seq, &head);
            ends.insert(link.customer, leaf);
            leaves.push(leaf);
        }
        let tree = match root.kind {
            chain::KIND_HIDING => chain::hiding_tree(&self.secret, root.batch, &leaves, 0).0,
            _ => chain::tree(ends.into_values().collect()),
        };
        let made = chain::root((root.kind, &self.secret), &self.before, root.batch, root.at, &tree);
        if self.is_whole && made[..] != root.root[..] {
            self.find("root", None, Some(root.at), Some(root.batch));
        }
        if self.is_whole && !is_signed(&root.key, &root.root, &root.signature) {
            self.find("signature", None, Some(root.at), Some(root.batch));
        }
        // One wrong root is one finding: what follows is compared with what it says of itself.
        self.before.clone_from(&root.root);
        self.compare(root, links).await
    }

    fn link(&mut self, link: &Link, record: Option<&Record>, kind: i64) {
        let (seq, head) = self.heads.get(&link.customer).copied().unwrap_or_default();
        self.heads.insert(link.customer, (link.seq, chain::head(&head, &link.digest)));
        if !self.is_ours(link.customer) {
            return;
        }
        self.report.records += 1;
        let id = record.map(|record| record.public_id.as_str());
        let is_head =
            |kept: &Vec<u8>| self.heads.get(&link.customer).is_some_and(|(_, head)| kept[..] == head[..]);
        let has_head = link.head.as_ref().is_none_or(is_head);
        if link.seq != seq + 1 || !has_head {
            self.find("order", id, Some(link.at), Some(link.batch));
        }
        match record {
            Some(record) if chain::record_digest(record, kind, &self.secret)[..] != link.digest[..] => {
                self.find("changed", id, Some(link.at), Some(link.batch));
            }
            None if self.may_be_gone(link) => self.report.pruned += 1,
            // One that is missing is named where what was published is known.
            Some(_) | None => {}
        }
    }

    fn may_be_gone(&self, link: &Link) -> bool {
        link.at < self.kept_since || self.pruned.get(&link.customer).is_some_and(|until| link.at < *until)
    }

    fn missing(&mut self, link: &Link, record: Option<&Record>, published: Option<&str>) {
        if record.is_none() && !self.may_be_gone(link) && self.is_ours(link.customer) {
            self.find("missing", published, Some(link.at), Some(link.batch));
        }
    }

    /// Compares a batch with what was published of it, and tells of batches before it that are gone.
    async fn compare(&mut self, root: &Root, links: &[(Link, Option<Record>)]) -> Result<()> {
        while let Some(line) = self.published.next_until(root.batch).await? {
            if line.batch < root.batch {
                self.gone(&line);
                continue;
            }
            let mut published: HashMap<&str, &str> =
                line.records.iter().map(|(id, digest)| (digest.as_str(), id.as_str())).collect();
            for (link, record) in links {
                let id = record.as_ref().map(|record| record.public_id.as_str());
                let known = published.remove(chain::hex(&link.digest).as_str());
                if known.is_none() && self.is_ours(link.customer) {
                    self.find("rewritten", id, Some(link.at), Some(link.batch));
                }
                self.missing(link, record.as_ref(), known);
            }
            if self.is_whole {
                let ids: BTreeSet<&str> = links
                    .iter()
                    .filter_map(|(_, record)| record.as_ref())
                    .map(|one| one.public_id.as_str())
                    .collect();
                let mut left: Vec<&str> = published.into_values().filter(|id| !ids.contains(id)).collect();
                left.sort_unstable();
                for id in left {
                    self.find("removed", Some(id), Some(line.at), Some(line.batch));
                }
                if (&line.root, &line.key, &line.signature)
                    != (&chain::hex(&root.root), &chain::hex(&root.key), &chain::hex(&root.signature))
                {
                    self.find("root", None, Some(root.at), Some(root.batch));
                }
            }
            // What others do, and when, is not told.
            if links.iter().any(|(link, _)| self.is_ours(link.customer)) {
                self.report.verified_until = Some(line.at);
            }
            return Ok(());
        }
        for (link, record) in links {
            self.missing(link, record.as_ref(), None);
        }
        if self.is_whole && self.published.peek().await?.is_some() {
            self.find("unpublished", None, Some(root.at), Some(root.batch));
        }
        Ok(())
    }

    /// A published batch that the database does not have any more.
    fn gone(&mut self, line: &Published) {
        if self.is_whole {
            for (id, _) in &line.records {
                self.find("removed", Some(id), Some(line.at), Some(line.batch));
            }
        }
    }

    /// What is behind the last batch: published ones that are gone, ends of chains, records that were never sealed.
    async fn rest(&mut self, context: &JobContext) -> Outcome<()> {
        while let Some(line) = self.published.next_until(i64::MAX).await? {
            self.gone(&line);
        }
        self.unsealed(context).await?;
        let read = context
            .inner
            .database
            .read(|conn| Box::pin(async move { Ok::<_, ServiceError>(seal::waiting_count(conn).await?) }));
        self.report.waiting = if self.is_whole { read.await? } else { 0 };
        Ok(())
    }

    async fn unsealed(&mut self, context: &JobContext) -> Outcome<()> {
        let mut after = 0;
        loop {
            context.go_on()?;
            let read = context.inner.database.read(move |conn| {
                Box::pin(async move { Ok::<_, ServiceError>(seal::unchained(conn, after).await?) })
            });
            let Some((records, last)) = read.await? else { return Ok(()) };
            after = last;
            for record in records {
                let is_ours = self.is_ours(super::seal::customer_of(&record));
                if is_ours && super::is_chained(&record.operation, &record.outcome) {
                    self.find("inserted", Some(&record.public_id), Some(record.at), None);
                }
            }
        }
    }
}
