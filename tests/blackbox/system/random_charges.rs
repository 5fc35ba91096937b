//! Guarantees and overcommit: whatever happens in whatever order, what is admitted, used and committed is what a naive
//! model says, and a recount finds nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use posthouse::storage::metadata::body;
use posthouse::storage::metadata::delivery::Refused;
use posthouse::storage::metadata::quota;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::*;
use crate::metadata::message;

/// A hash of the password `secret` (SSHA), so that tests do not wait for argon2.
pub const PASSWORD_HASH: &str = "{SSHA}ZLQlN0Uc9nHhMNbhTXIA3eHhLTRzYWx0";
/// Random sequences on each database, those when everything is tried, and how long each is.
const CASES: u32 = 12;
const CASES_ALL: u32 = 150;
const STEPS: std::ops::Range<usize> = 10..40;
/// Octets of mail at which limits are set.
const OCTETS_MAX: i64 = 400;
const OCTETS: usize = 0;
const MAILBOXES: usize = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Share {
    max: Option<i64>,
    guarantee: Option<i64>,
    overcommit_percent: Option<i64>,
}

#[derive(Clone, Debug)]
enum Step {
    Deliver(Index, i64),
    Expunge(Index, Index),
    Limit(Index, usize, Share),
    Create(Index, Option<i64>, Option<i64>),
    Delete(Index),
    Undelete(Index),
    Move(Index, Index),
    MoveDomain(Index, Index),
    MailboxCreate(Index),
    MailboxDelete(Index),
    MailboxUndelete(Index),
    Purge,
}

fn share() -> impl Strategy<Value = Share> {
    let limit =
        |max: i64| prop_oneof![2 => Just(None), 5 => (0..max).prop_map(Some), 1 => Just(Some(i64::MAX))];
    let percent = prop_oneof![3 => Just(None), 1 => Just(Some(100)), 1 => (0..300_i64).prop_map(Some)];
    (limit(OCTETS_MAX), limit(OCTETS_MAX / 2), percent)
        .prop_map(|(max, guarantee, overcommit_percent)| Share { max, guarantee, overcommit_percent })
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<Index>;
    let few = |share: Share, resource: usize| match resource {
        // Limits on mailboxes are small numbers.
        MAILBOXES => Share {
            max: share.max.map(|max| if max == i64::MAX { max } else { max % 6 }),
            guarantee: share.guarantee.map(|guarantee| guarantee % 4),
            ..share
        },
        _ => share,
    };
    prop_oneof![
        8 => (at(), 1..120_i64).prop_map(|(at, octets)| Step::Deliver(at, octets)),
        3 => (at(), at()).prop_map(|(at, which)| Step::Expunge(at, which)),
        6 => (at(), 0..2_usize, share()).prop_map(move |(at, resource, share)| {
            Step::Limit(at, resource, few(share, resource))
        }),
        3 => (at(), prop::option::of(0..OCTETS_MAX), prop::option::of(0..6_i64))
            .prop_map(|(at, bytes, mailboxes)| Step::Create(at, bytes, mailboxes)),
        2 => at().prop_map(Step::Delete),
        3 => at().prop_map(Step::Undelete),
        3 => (at(), at()).prop_map(|(at, to)| Step::Move(at, to)),
        2 => (at(), at()).prop_map(|(at, to)| Step::MoveDomain(at, to)),
        4 => at().prop_map(Step::MailboxCreate),
        2 => at().prop_map(Step::MailboxDelete),
        2 => at().prop_map(Step::MailboxUndelete),
        1 => Just(Step::Purge),
    ]
}

/// By which operation something was deleted.
type Deleted = Option<usize>;

#[derive(Clone, Debug)]
struct Node {
    parent: Option<usize>,
    deleted: Deleted,
    shares: [Share; 2],
}

#[derive(Clone, Debug)]
struct Domain {
    node: usize,
    deleted: Deleted,
}

#[derive(Clone, Debug)]
struct Mailbox {
    domain: usize,
    deleted: Deleted,
    /// Octets of its messages by UID.
    messages: BTreeMap<i64, i64>,
    uid_next: i64,
}

/// Everything as it should be; keys are numbers that are never given twice.
#[derive(Clone, Debug)]
struct Model {
    nodes: BTreeMap<usize, Node>,
    domains: BTreeMap<usize, Domain>,
    mailboxes: BTreeMap<usize, Mailbox>,
    next: usize,
}

impl Model {
    fn new() -> Self {
        let mut model =
            Self { nodes: BTreeMap::new(), domains: BTreeMap::new(), mailboxes: BTreeMap::new(), next: 0 };
        model.create(None, [Share::default(); 2]);
        model
    }

    fn number(&mut self) -> usize {
        self.next += 1;
        self.next
    }

    /// A customer with a domain of the same number.
    fn create(&mut self, parent: Option<usize>, shares: [Share; 2]) -> usize {
        let number = self.number();
        self.nodes.insert(number, Node { parent, deleted: None, shares });
        self.domains.insert(number, Domain { node: number, deleted: None });
        number
    }

    fn is_below(&self, lower: usize, upper: usize) -> bool {
        let mut at = Some(lower);
        while let Some(node) = at {
            if node == upper {
                return true;
            }
            at = self.nodes[&node].parent;
        }
        false
    }

    /// What is used at a customer and below, counted from nothing.
    fn used(&self, node: usize) -> (i128, i128) {
        let mailboxes = self.mailboxes.values();
        let below = mailboxes.filter(|one| self.is_below(self.domains[&one.domain].node, node));
        let messages: Vec<i64> = below.flat_map(|one| one.messages.values().copied()).collect();
        (messages.iter().map(|&octets| i128::from(octets)).sum(), messages.len() as i128)
    }

    /// Own use, and what the customers right below pass on.
    fn committed(&self, node: usize, resource: usize) -> i128 {
        let own = self.mailboxes.values().filter(|one| self.domains[&one.domain].node == node);
        let own: i128 = match resource {
            OCTETS => own.flat_map(|one| one.messages.values()).map(|&octets| i128::from(octets)).sum(),
            _ => own.filter(|one| one.deleted.is_none()).count() as i128,
        };
        let children = self.nodes.iter().filter(|(_, child)| child.parent == Some(node));
        own + children.map(|(&child, _)| self.passed(child, resource)).sum::<i128>()
    }

    fn passed(&self, node: usize, resource: usize) -> i128 {
        let here = &self.nodes[&node];
        let is_reserved = resource == OCTETS || here.deleted.is_none();
        let guarantee = here.shares[resource].guarantee.filter(|_| is_reserved).unwrap_or(0);
        self.committed(node, resource).max(i128::from(guarantee))
    }

    /// Whether the change to `after` is admitted: nobody grows beyond a limit (customers at and below `except` aside),
    /// and limits below an overcommit are within it.
    fn admits(&self, after: &Self, except: Option<usize>) -> bool {
        for (&id, node) in &after.nodes {
            if except.is_some_and(|except| after.is_below(id, except)) {
                continue;
            }
            for resource in [OCTETS, MAILBOXES] {
                let before = if self.nodes.contains_key(&id) { self.committed(id, resource) } else { 0 };
                let now = after.committed(id, resource);
                let limit = node.shares[resource].max.map_or(i128::MAX, i128::from);
                // A number must hold it, where it is counted.
                if now > before && (now > limit || now > i128::from(i64::MAX)) {
                    return false;
                }
            }
        }
        after.nodes.keys().all(|&id| after.is_within_overcommit(id))
    }

    fn is_within_overcommit(&self, node: usize) -> bool {
        [OCTETS, MAILBOXES].into_iter().all(|resource| {
            let share = self.nodes[&node].shares[resource];
            let Some((percent, max)) = share.overcommit_percent.zip(share.max) else { return true };
            let children: Vec<&Node> = self.nodes.values().filter(|one| one.parent == Some(node)).collect();
            let limits = children.iter().filter(|one| resource == OCTETS || one.deleted.is_none());
            let sum: i128 = limits.filter_map(|one| one.shares[resource].max).map(i128::from).sum();
            let all_have =
                children.iter().all(|one| one.deleted.is_some() || one.shares[resource].max.is_some());
            all_have && sum * 100 <= i128::from(percent) * i128::from(max)
        })
    }

    fn live_nodes(&self) -> Vec<usize> {
        self.nodes.iter().filter(|(_, node)| node.deleted.is_none()).map(|(&id, _)| id).collect()
    }

    fn live_domains(&self) -> Vec<usize> {
        self.domains.iter().filter(|(_, one)| one.deleted.is_none()).map(|(&id, _)| id).collect()
    }

    fn mailboxes(&self, is_wanted: impl Fn(&Mailbox) -> bool) -> Vec<usize> {
        self.mailboxes.iter().filter(|(_, one)| is_wanted(one)).map(|(&id, _)| id).collect()
    }

    /// Removes for good what is deleted.
    fn purge(&mut self) {
        self.mailboxes.retain(|_, one| one.deleted.is_none());
        self.domains.retain(|_, one| one.deleted.is_none());
        self.nodes.retain(|_, one| one.deleted.is_none());
    }

    fn delete(&mut self, node: usize) {
        let operation = self.number();
        let below: Vec<usize> = self.nodes.keys().copied().filter(|&id| self.is_below(id, node)).collect();
        for id in &below {
            self.nodes.get_mut(id).unwrap().deleted.get_or_insert(operation);
        }
        let domains: Vec<usize> =
            self.domains.iter().filter(|(_, one)| below.contains(&one.node)).map(|(&id, _)| id).collect();
        for id in &domains {
            self.domains.get_mut(id).unwrap().deleted.get_or_insert(operation);
        }
        for one in self.mailboxes.values_mut().filter(|one| domains.contains(&one.domain)) {
            one.deleted.get_or_insert(operation);
        }
    }

    fn undelete(&mut self, operation: Deleted) {
        let marks = self.nodes.values_mut().map(|one| &mut one.deleted);
        let marks = marks.chain(self.domains.values_mut().map(|one| &mut one.deleted));
        for mark in marks.chain(self.mailboxes.values_mut().map(|one| &mut one.deleted)) {
            if *mark == operation {
                *mark = None;
            }
        }
    }
}

fn pick(from: &[usize], at: &Index) -> Option<usize> {
    (!from.is_empty()).then(|| from[at.index(from.len())])
}

/// A model beside what it is a model of.
struct Pair<'a> {
    world: &'a World,
    model: Model,
    /// What sets the names of this sequence apart from those of others.
    case: u64,
    /// Keys of mailboxes in the database.
    keys: BTreeMap<usize, MailboxId>,
    /// Steps that were refused, and done.
    answers: &'a [AtomicU64; 2],
}

impl<'a> Pair<'a> {
    async fn new(world: &'a World, case: u64, answers: &'a [AtomicU64; 2]) -> Self {
        let pair = Self { world, model: Model::new(), case, keys: BTreeMap::new(), answers };
        let asked = json!({ "path": pair.path(1), "domain": pair.domain(1) });
        world.run(&world.system, "customer.create", asked).await.unwrap();
        pair
    }

    fn path(&self, node: usize) -> String {
        let slug = format!("c{}-{node}", self.case);
        match self.model.nodes[&node].parent {
            Some(parent) => format!("{}/{slug}", self.path(parent)),
            None => slug,
        }
    }

    fn domain(&self, domain: usize) -> String {
        format!("d{}-{domain}.example", self.case)
    }

    fn address(&self, mailbox: usize) -> String {
        format!("m{mailbox}@{}", self.domain(self.model.mailboxes[&mailbox].domain))
    }

    /// Runs an operation; answers whether it was admitted.
    async fn run(&self, operation: &str, fields: Value) -> bool {
        let shown = fields.to_string();
        match self.world.run(&self.world.system, operation, fields).await {
            Ok(_) => true,
            Err(error) => {
                let refusal = error.refusal();
                assert!(
                    matches!(refusal, Some("over-quota" | "conflict" | "invalid" | "limit")),
                    "{operation} {shown}: {error:?}"
                );
                false
            }
        }
    }

    /// Takes a step where it can be taken; what the world answers is what the model says.
    async fn step(&mut self, step: &Step) -> std::result::Result<(), TestCaseError> {
        let before = self.model.clone();
        let Some((after, except, done)) = self.take(step).await else { return Ok(()) };
        let is_consistent = after.nodes.values().flat_map(|node| node.shares).all(|share| {
            share.guarantee.zip(share.max).is_none_or(|(guarantee, max)| guarantee <= max)
                && (share.overcommit_percent.is_none() || share.max.is_some())
        });
        let admitted = is_consistent && before.admits(&after, except);
        prop_assert_eq!(done, admitted, "{:?} on {:#?}", step, before);
        self.answers[usize::from(admitted)].fetch_add(1, Ordering::Relaxed);
        if admitted {
            self.model = after;
        }
        self.compare().await
    }

    /// Takes a step in the world; answers what the model would become, where limits are not asked, and whether it was
    /// done. Nothing when there is nothing to do it to.
    async fn take(&mut self, step: &Step) -> Option<(Model, Option<usize>, bool)> {
        let mut after = self.model.clone();
        let mut except = None;
        let done = match step {
            Step::Deliver(at, octets) => {
                let mailbox = pick(&self.model.mailboxes(|one| one.deleted.is_none()), at)?;
                let one = after.mailboxes.get_mut(&mailbox).unwrap();
                one.messages.insert(one.uid_next, *octets);
                one.uid_next += 1;
                let deliver = message(usize::try_from(*octets).unwrap(), &[self.keys[&mailbox]], false);
                match self.world.database.deliver(deliver).await.unwrap()[..] {
                    [Ok(_)] => true,
                    [Err(Refused::OverQuota(_))] => false,
                    ref other => panic!("{other:?}"),
                }
            }
            Step::Expunge(at, which) => {
                let with_mail = |one: &Mailbox| one.deleted.is_none() && !one.messages.is_empty();
                let mailbox = pick(&self.model.mailboxes(with_mail), at)?;
                let one = after.mailboxes.get_mut(&mailbox).unwrap();
                let uids: Vec<i64> = one.messages.keys().copied().collect();
                let uid = uids[which.index(uids.len())];
                let octets = one.messages.remove(&uid).unwrap();
                self.expunge(self.keys[&mailbox], uid, octets).await;
                true
            }
            Step::Limit(at, resource, share) => {
                let node = pick(&self.model.live_nodes(), at)?;
                after.nodes.get_mut(&node).unwrap().shares[*resource] = *share;
                let path = self.path(node);
                let Share { max, guarantee, overcommit_percent } = share;
                let asked = if *resource == OCTETS {
                    json!({ "path": path, "bytes": max, "bytes_guarantee": guarantee,
                            "bytes_overcommit_percent": overcommit_percent })
                } else {
                    json!({ "path": path, "mailboxes": max, "mailboxes_guarantee": guarantee,
                            "mailboxes_overcommit_percent": overcommit_percent })
                };
                self.run("customer.limit", asked).await
            }
            Step::Create(at, bytes, mailboxes) => {
                let parent = pick(&self.model.live_nodes(), at)?;
                let share = |max: Option<i64>| Share { max, ..Share::default() };
                let made = after.create(Some(parent), [share(*bytes), share(*mailboxes)]);
                let path = format!("{}/c{}-{made}", self.path(parent), self.case);
                let domain = self.domain(made);
                let asked = json!({ "path": path, "domain": domain, "bytes": bytes, "mailboxes": mailboxes });
                self.run("customer.create", asked).await
            }
            Step::Delete(at) => {
                let nodes = self.model.live_nodes();
                let node = pick(nodes.get(1..)?, at)?;
                after.delete(node);
                self.run("customer.delete", json!({ "path": self.path(node) })).await
            }
            Step::Undelete(at) => {
                let nodes = &self.model.nodes;
                let can_come = |node: &Node| {
                    node.deleted.is_some() && node.parent.is_some_and(|above| nodes[&above].deleted.is_none())
                };
                let deleted: Vec<usize> =
                    nodes.iter().filter(|(_, node)| can_come(node)).map(|(&id, _)| id).collect();
                let node = pick(&deleted, at)?;
                after.undelete(nodes[&node].deleted);
                except = Some(node);
                self.run("customer.undelete", json!({ "path": self.path(node) })).await
            }
            Step::Move(at, to) => {
                let live = self.model.live_nodes();
                let node = pick(live.get(1..)?, at)?;
                let places: Vec<usize> =
                    live.iter().copied().filter(|&place| !self.model.is_below(place, node)).collect();
                let to = pick(&places, to)?;
                after.nodes.get_mut(&node).unwrap().parent = Some(to);
                self.run("customer.move", json!({ "path": self.path(node), "to": self.path(to) })).await
            }
            Step::MoveDomain(at, to) => {
                let domain = pick(&self.model.live_domains(), at)?;
                let mut places = self.model.live_nodes();
                places.retain(|&place| place != self.model.domains[&domain].node);
                let to = pick(&places, to)?;
                after.domains.get_mut(&domain).unwrap().node = to;
                let asked = json!({ "domain": self.domain(domain), "to": self.path(to) });
                self.run("domain.move", asked).await
            }
            Step::MailboxCreate(at) => {
                let domain = pick(&self.model.live_domains(), at)?;
                let number = after.number();
                let made = Mailbox { domain, deleted: None, messages: BTreeMap::new(), uid_next: 1 };
                after.mailboxes.insert(number, made);
                let address = format!("m{number}@{}", self.domain(domain));
                let asked = json!({ "address": address, "password_hash": PASSWORD_HASH });
                let done = self.run("mailbox.create", asked).await;
                if done {
                    let key = self.world.number("SELECT max(id) FROM mailbox").await;
                    self.keys.insert(number, MailboxId(key));
                }
                done
            }
            Step::MailboxDelete(at) => {
                let mailbox = pick(&self.model.mailboxes(|one| one.deleted.is_none()), at)?;
                let operation = after.number();
                after.mailboxes.get_mut(&mailbox).unwrap().deleted = Some(operation);
                self.run("mailbox.delete", json!({ "address": self.address(mailbox) })).await
            }
            Step::MailboxUndelete(at) => {
                let domains = &self.model.domains;
                let can_come =
                    |one: &Mailbox| one.deleted.is_some() && domains[&one.domain].deleted.is_none();
                let mailbox = pick(&self.model.mailboxes(can_come), at)?;
                after.mailboxes.get_mut(&mailbox).unwrap().deleted = None;
                self.run("mailbox.undelete", json!({ "address": self.address(mailbox) })).await
            }
            Step::Purge => {
                after.purge();
                let housekeeping = self.world.housekeeping();
                let later = self.world.clock.now().plus(DAY * 31);
                // Domains go after their mailboxes, customers after their domains and those below them.
                for _ in 0..10 {
                    housekeeping.pass(later).await.unwrap();
                }
                true
            }
        };
        Some((after, except, done))
    }

    /// Removes a message, as expunging does, from everything that is counted.
    async fn expunge(&self, mailbox: MailboxId, uid: i64, octets: i64) {
        let write = self.world.database.write(Priority::Interactive, move |conn| {
            Box::pin(async move {
                quota::charge(conn, mailbox, -octets, -1).await?.unwrap();
                let text = "DELETE FROM message WHERE mailbox_id = $1 AND uid = $2 RETURNING body_id";
                let row = conn.row(text, posthouse::params![mailbox, uid]).await?.unwrap();
                body::release(conn, &BTreeMap::from([(BodyId(row.int(0)?), 1)])).await?;
                let text =
                    "UPDATE folder SET messages = messages - 1, unseen = unseen - 1, recent = recent - 1,
                                   octets = octets - $2 WHERE mailbox_id = $1 AND name = 'INBOX'";
                conn.execute(text, posthouse::params![mailbox, octets]).await.map(drop)
            })
        });
        let done: Result<()> = write.await;
        done.unwrap();
    }

    /// What is recorded at customers is what the model counts.
    async fn compare(&self) -> std::result::Result<(), TestCaseError> {
        let prefix = format!("c{}-", self.case);
        let read = self.world.database.read(|conn| {
            Box::pin(async move {
                let text = "SELECT c.slug, u.bytes_used, u.messages_used, u.bytes_committed
                            FROM customer c JOIN customer_usage u ON u.customer_id = c.id";
                let mut rows = BTreeMap::new();
                for row in conn.rows(text, Vec::new()).await? {
                    rows.insert(row.text(0)?, [row.int(1)?, row.int(2)?, row.int(3)?].map(i128::from));
                }
                Ok::<_, StorageError>(rows)
            })
        });
        let mut rows = read.await.unwrap();
        rows.retain(|slug, _| slug.starts_with(&prefix));
        let marked = self.model.nodes.iter().filter(|(_, node)| {
            let share = node.shares[OCTETS];
            share.max.is_some() || share.guarantee.is_some()
        });
        let counted: BTreeMap<String, [i128; 3]> = marked
            .map(|(&id, _)| {
                let (octets, messages) = self.model.used(id);
                (format!("{prefix}{id}"), [octets, messages, self.model.committed(id, OCTETS)])
            })
            .collect();
        prop_assert_eq!(rows, counted);
        Ok(())
    }
}

pub async fn random_changes_equal_a_naive_model(world: World) {
    let (case, answers) = (AtomicU64::new(0), [AtomicU64::new(0), AtomicU64::new(0)]);
    let is_full = std::env::var_os("POSTHOUSE_TEST_FULL").is_some();
    let cases = if is_full { CASES_ALL } else { CASES };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 400, ..Config::default() };
    let sequences = prop::collection::vec(step(), STEPS);
    let outcome = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&sequences, |steps| {
            tokio::runtime::Handle::current().block_on(async {
                let case = case.fetch_add(1, Ordering::Relaxed);
                let mut pair = Pair::new(&world, case, &answers).await;
                for step in &steps {
                    pair.step(step).await?;
                }
                Ok(())
            })
        })
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let [refused, done] = answers.map(AtomicU64::into_inner);
    assert!(
        refused > 10 && done > 100,
        "{refused} refused, {done} done: the limits are too wide, or too narrow"
    );
    let answer = world.job(&world.system, "quota.verify", json!({})).await.unwrap();
    assert_eq!(answer["drift"], 0, "{answer}");
}
