//! Storing messages, set-based: a whole group of deliveries with few statements, each delivery decided in memory.
//!
//! # Consistency
//! Rows are locked in one order: mailboxes and their folders by mailbox id, then domain counters, then customer
//! counters, each by id. Limits are read after the locks, so what is decided is what is committed. A counter row of
//! a domain or customer exists exactly while it has a limit on bytes or messages, or a guarantee; whoever sets the
//! first one locks the mailboxes below before it sums them up (`quota.rs`), so no delivery can slip between. Nothing
//! here fails half: a delivery that is refused leaves no row.

use std::collections::BTreeMap;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::changes::Touched;
use super::mailbox;
use super::notice;
use super::pack::{self, SinglePack};
use super::quota::{self, Customers, Meter, OverLimit, QuotaOwner, Used};
use super::sql::{Conn, Value, ids};
use super::store::StoreState;
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, DomainId, FolderId, MailboxId, PackId, StoreId, Uid};
use crate::params;
use crate::storage::{Result, StorageError};

/// Compressed bytes and how to read them.
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// Codec number (see `storage/pack`).
    pub codec: u8,
    /// Dictionary number, 0 for none.
    pub dictionary_id: u32,
    /// Length before compression, in octets.
    pub octets: u64,
    /// The compressed bytes.
    pub data: Bytes,
}

/// Where the body of a delivery goes.
#[derive(Clone, Debug)]
pub enum BodyPlace {
    /// Into the database, until the packer takes it.
    Fresh(Packed),
    /// In a pack file of its own for each customer and mail store, on disk already.
    Packs(Vec<SinglePack>),
}

/// A message to store.
#[derive(Clone, Debug)]
pub struct Deliver {
    /// When it arrived: INTERNALDATE.
    pub at: Timestamp,
    /// Length of the body in octets.
    pub octets: u64,
    /// The body.
    pub body: BodyPlace,
    /// Its summary.
    pub summary: Packed,
    /// Where to.
    pub targets: Vec<DeliverTarget>,
    /// Whether one refused target refuses all.
    pub all_or_nothing: bool,
    /// For the delivery trace: reverse path, Message-ID, source, queue id.
    pub trace: TraceOrigin,
    /// The copy of a notice that it is (`notice.rs`): it is stored only while that is on its way, which then ends.
    pub notice_mail: Option<i64>,
}

/// What the delivery trace says of the whole transaction.
#[derive(Clone, Debug, Default)]
pub struct TraceOrigin {
    /// Reverse path.
    pub sender: String,
    /// Message-ID.
    pub message_id: String,
    /// Client address, or `unix`.
    pub source: String,
    /// The id the client was told.
    pub queue_id: String,
}

/// A mailbox to store a message in, in its INBOX.
#[derive(Clone, Debug)]
pub struct DeliverTarget {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Trace lines of this copy.
    pub prefix: Packed,
    /// The address it was sent to, for the delivery trace.
    pub recipient: String,
}

/// What refused a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The mailbox is gone.
    Gone,
    /// Its mail store takes no mail now.
    StoreClosed,
    /// A limit: whose, and on what.
    OverQuota(OverLimit),
    /// Another target of an all-or-nothing delivery was refused.
    Sibling,
    /// The copy of a notice has arrived already.
    Arrived,
}

/// Answer for one target.
pub type TargetOutcome = std::result::Result<(FolderId, Uid), Refused>;

/// A delivery in a lane.
pub(super) struct DeliverJob {
    deliver: Deliver,
    outcome: std::result::Result<Vec<TargetOutcome>, Option<StorageError>>,
    reply: oneshot::Sender<Result<Vec<TargetOutcome>>>,
}

impl DeliverJob {
    pub(super) fn new(deliver: Deliver, reply: oneshot::Sender<Result<Vec<TargetOutcome>>>) -> Self {
        Self { deliver, outcome: Err(None), reply }
    }

    /// Octets that this job adds to a transaction, about.
    pub(super) fn octets(&self) -> usize {
        let body = match &self.deliver.body {
            BodyPlace::Fresh(packed) => packed.data.len(),
            BodyPlace::Packs(_) => 0,
        };
        body + self.deliver.summary.data.len() + self.deliver.targets.len() * 512
    }

    /// Notes that this delivery alone failed.
    pub(super) fn fail(&mut self, error: StorageError) {
        self.outcome = Err(Some(error));
    }

    /// Answers after commit.
    pub(super) fn answer(self) {
        let outcome =
            self.outcome.map_err(|error| error.unwrap_or(StorageError::Busy("the delivery was not run")));
        let _ = self.reply.send(outcome);
    }

    /// Answers that nothing was stored.
    pub(super) fn answer_error(self, error: StorageError) {
        let _ = self.reply.send(Err(error));
    }
}

/// An INBOX with what is needed to add to it.
struct Inbox {
    mailbox_meter: Meter,
    domain: DomainId,
    customer: CustomerId,
    store: StoreId,
    store_open: bool,
    folder: FolderId,
    uid_next: i64,
    /// UIDs from here on cannot be given now.
    uid_end: i64,
    mod_seq: i64,
    added: i64,
    added_octets: i64,
}

/// Everything the group may touch, read under lock.
#[derive(Default)]
struct Ground {
    inboxes: BTreeMap<i64, Inbox>,
    domains: BTreeMap<i64, Meter>,
    customers: Customers,
    /// Customers with a counter on the way up from a domain.
    chains: BTreeMap<i64, Vec<i64>>,
}

impl Ground {
    fn admit(&mut self, mailbox: MailboxId, octets: i64) -> Result<std::result::Result<(), Refused>> {
        let Some(inbox) = self.inboxes.get(&mailbox.0) else { return Ok(Err(Refused::Gone)) };
        if !inbox.store_open || inbox.uid_next + inbox.added >= inbox.uid_end {
            return Ok(Err(Refused::StoreClosed));
        }
        let chain = self.chains.get(&inbox.domain.0).map_or(&[][..], Vec::as_slice);
        let above = self.domains.get(&inbox.domain.0).map(|meter| (QuotaOwner::Domain(inbox.domain), meter));
        let mut own = std::iter::once((QuotaOwner::Mailbox(mailbox), &inbox.mailbox_meter)).chain(above);
        let over = own.find_map(|(owner, meter)| meter.refusal(owner, octets, 1));
        if let Some(over) = over.or_else(|| quota::chain_refusal(chain, &self.customers, octets, 1)) {
            return Ok(Err(Refused::OverQuota(over)));
        }
        self.add(mailbox, octets, 1)?;
        Ok(Ok(()))
    }

    /// Charges what was admitted, or takes it back (negative deltas).
    fn add(&mut self, mailbox: MailboxId, octets: i64, messages: i64) -> Result<()> {
        let Some(inbox) = self.inboxes.get_mut(&mailbox.0) else { return Ok(()) };
        inbox.added += messages;
        inbox.added_octets += octets;
        let used = Used { bytes: octets, messages };
        inbox.mailbox_meter.add(QuotaOwner::Mailbox(mailbox), used, octets)?;
        if let Some(meter) = self.domains.get_mut(&inbox.domain.0) {
            meter.add(QuotaOwner::Domain(inbox.domain), used, octets)?;
        }
        let chain = self.chains.get(&inbox.domain.0).map_or(&[][..], Vec::as_slice);
        quota::chain_add(chain, &mut self.customers, used, octets)
    }
}

/// The pack of a large body.
struct LargeBody {
    single: SinglePack,
    /// When it was delivered.
    at: Timestamp,
    octets: i64,
    references: i64,
    /// The place of its first message.
    first: (MailboxId, FolderId),
}

/// Rows that a group inserts.
#[derive(Default)]
struct Rows {
    bodies: Vec<Vec<Value>>,
    packs: Vec<LargeBody>,
    fresh: Vec<Vec<Value>>,
    summaries: Vec<Vec<Value>>,
    prefixes: Vec<Vec<Value>>,
    messages: Vec<Vec<Value>>,
    traces: Vec<Vec<Value>>,
}

/// Runs a group in the present transaction; on error nothing of it may be kept.
pub(super) async fn run_group(conn: &mut Conn, group: &mut [DeliverJob]) -> Result<()> {
    let mut ground = read_ground(conn, group).await?;
    let copies: Vec<i64> = group.iter().filter_map(|job| job.deliver.notice_mail).collect();
    let mut waiting = notice::lock_mail(conn, &copies).await?;
    let mut arrived = Vec::new();
    let mut decisions = Vec::with_capacity(group.len());
    let mut ids_needed = 0;
    for job in group.iter() {
        let has_arrived = job.deliver.notice_mail.is_some_and(|copy| !waiting.contains(&copy));
        let decision = if has_arrived {
            job.deliver.targets.iter().map(|_| Err(Refused::Arrived)).collect()
        } else {
            decide(&mut ground, &job.deliver)?
        };
        let is_stored = decision.iter().any(std::result::Result::is_ok);
        arrived.extend(job.deliver.notice_mail.filter(|copy| is_stored && waiting.remove(copy)));
        let scopes = scopes_of(&ground, &job.deliver, &decision);
        let stored = decision.iter().filter(|one| one.is_ok()).count();
        ids_needed += i64::try_from(scopes.len() + stored).unwrap_or(i64::MAX);
        decisions.push((decision, scopes));
    }
    let mut object_ids = conn.object_ids(ids_needed).await?.into_iter();
    let mut rows = Rows::default();
    for (job, (decision, scopes)) in group.iter_mut().zip(decisions) {
        let outcomes = build_rows(&mut ground, &job.deliver, decision, &scopes, &mut object_ids, &mut rows)?;
        job.outcome = Ok(outcomes);
    }
    insert(conn, rows).await?;
    notice::arrived(conn, arrived).await?;
    update_counters(conn, &ground).await?;
    for inbox in ground.inboxes.values().filter(|inbox| inbox.added > 0) {
        conn.touch(Touched::Folder(inbox.folder));
    }
    Ok(())
}

async fn read_ground(conn: &mut Conn, group: &[DeliverJob]) -> Result<Ground> {
    let mailboxes = group.iter().flat_map(|job| job.deliver.targets.iter().map(|target| target.mailbox.0));
    let mut mailboxes: Vec<i64> = mailboxes.collect();
    mailboxes.sort_unstable();
    mailboxes.dedup();
    // A statement of its own: the next one sees what whoever held the locks has committed, another store or customer
    // of a mailbox too.
    mailbox::lock_rows(conn, mailboxes.iter().copied()).await?;
    let lock = if conn.is_postgres() { " FOR UPDATE OF m, f" } else { "" };
    let text = format!(
        "SELECT m.id, m.bytes_max, m.messages_max, m.bytes_used, m.messages_used, d.id, d.customer_id, s.id, s.state,
                f.id, f.uid_next, f.mod_seq, f.staged_uid
         FROM mailbox m JOIN domain d ON d.id = m.domain_id JOIN store s ON s.id = m.store_id
              JOIN folder f ON f.mailbox_id = m.id AND f.name = 'INBOX'
         WHERE m.id IN IDS($1) AND m.deleted_at IS NULL AND d.deleted_at IS NULL
         ORDER BY m.id{lock}"
    );
    let mut ground = Ground::default();
    for row in conn.rows(text, vec![ids(mailboxes)]).await? {
        let inbox = Inbox {
            mailbox_meter: Meter::read(&row, 1)?,
            domain: DomainId(row.int(5)?),
            customer: CustomerId(row.int(6)?),
            store: StoreId(row.int(7)?),
            store_open: StoreState::parse(&row.text(8)?)?.is_writable(),
            folder: FolderId(row.int(9)?),
            uid_next: row.int(10)?,
            mod_seq: row.int(11)?,
            uid_end: match row.int(12)? {
                0 => i64::from(u32::MAX),
                staged => staged,
            },
            added: 0,
            added_octets: 0,
        };
        ground.inboxes.insert(row.int(0)?, inbox);
    }
    let domains = ids(ground.inboxes.values().map(|inbox| inbox.domain.0));
    ground.domains = quota::domain_meters(conn, domains.clone()).await?;
    ground.chains = quota::chains(conn, domains).await?;
    let marked = ground.chains.values().flatten().copied().collect();
    ground.customers = quota::customer_meters(conn, marked).await?;
    Ok(ground)
}

fn decide(ground: &mut Ground, deliver: &Deliver) -> Result<Vec<std::result::Result<(), Refused>>> {
    let octets_of = |target: &DeliverTarget| octets_of(deliver, target);
    let decision: Result<Vec<_>> =
        deliver.targets.iter().map(|target| ground.admit(target.mailbox, octets_of(target))).collect();
    let mut decision = decision?;
    if deliver.all_or_nothing && decision.iter().any(std::result::Result::is_err) {
        for (target, one) in deliver.targets.iter().zip(&mut decision) {
            if one.is_ok() {
                ground.add(target.mailbox, -octets_of(target), -1)?;
                *one = Err(Refused::Sibling);
            }
        }
    }
    Ok(decision)
}

fn octets_of(deliver: &Deliver, target: &DeliverTarget) -> i64 {
    i64::try_from(deliver.octets.saturating_add(target.prefix.octets)).unwrap_or(i64::MAX)
}

/// The customers and stores in which the body is needed: each keeps one copy of it.
fn scopes_of(
    ground: &Ground,
    deliver: &Deliver,
    decision: &[std::result::Result<(), Refused>],
) -> BTreeMap<(i64, i64), i64> {
    let mut scopes = BTreeMap::new();
    for (target, one) in deliver.targets.iter().zip(decision) {
        if let (Ok(()), Some(inbox)) = (one, ground.inboxes.get(&target.mailbox.0)) {
            *scopes.entry((inbox.customer.0, inbox.store.0)).or_insert(0) += 1;
        }
    }
    scopes
}

fn build_rows(
    ground: &mut Ground,
    deliver: &Deliver,
    decision: Vec<std::result::Result<(), Refused>>,
    scopes: &BTreeMap<(i64, i64), i64>,
    object_ids: &mut impl Iterator<Item = i64>,
    rows: &mut Rows,
) -> Result<Vec<TargetOutcome>> {
    let mut next_id = || object_ids.next().ok_or(StorageError::Gone("an object id"));
    let mut bodies = BTreeMap::new();
    for (&(scope, store), &references) in scopes {
        let home = |mailbox: &MailboxId| {
            let inbox = ground.inboxes.get(&mailbox.0)?;
            ((inbox.customer.0, inbox.store.0) == (scope, store)).then_some((*mailbox, inbox.folder))
        };
        let mut stored = deliver.targets.iter().zip(&decision).filter(|(_, one)| one.is_ok());
        let first =
            stored.find_map(|(target, _)| home(&target.mailbox)).ok_or(StorageError::Gone("mailbox"))?;
        let id = push_body(deliver, (scope, store), first, references, &mut next_id, rows)?;
        bodies.insert((scope, store), id);
    }
    let mut outcomes = Vec::with_capacity(decision.len());
    for (target, one) in deliver.targets.iter().zip(decision) {
        if let Err(refused) = one {
            outcomes.push(Err(refused));
            continue;
        }
        let inbox = ground.inboxes.get_mut(&target.mailbox.0).ok_or(StorageError::Gone("mailbox"))?;
        let body = bodies.get(&(inbox.customer.0, inbox.store.0)).ok_or(StorageError::Gone("body"))?;
        let prefix_id = next_id()?;
        let uid = inbox.uid_next;
        inbox.uid_next += 1;
        inbox.mod_seq += 1;
        let octets = octets_of(deliver, target);
        let (mailbox, folder) = (target.mailbox, inbox.folder);
        rows.prefixes.push(packed_row(prefix_id, &target.prefix));
        rows.messages.push(params![
            mailbox,
            folder,
            uid,
            0_i64,
            inbox.mod_seq,
            *body,
            prefix_id,
            octets,
            deliver.at
        ]);
        let trace = &deliver.trace;
        rows.traces.push(params![
            deliver.at,
            inbox.domain,
            mailbox,
            &target.recipient,
            &trace.sender,
            &trace.message_id,
            octets,
            &trace.source,
            &trace.queue_id,
            "stored",
            "INBOX"
        ]);
        let uid = u32::try_from(uid).map_err(|_| StorageError::Corrupt("UID above 32 bits".to_owned()))?;
        outcomes.push(Ok((folder, Uid(uid))));
    }
    Ok(outcomes)
}

/// The rows of one copy of the body; `first` is the first message that refers to it. Answers the body's id.
fn push_body(
    deliver: &Deliver,
    home: (i64, i64),
    first: (MailboxId, FolderId),
    references: i64,
    next_id: &mut impl FnMut() -> Result<i64>,
    rows: &mut Rows,
) -> Result<BodyId> {
    let octets = i64::try_from(deliver.octets).unwrap_or(i64::MAX);
    let (scope, store) = home;
    let id = match &deliver.body {
        BodyPlace::Fresh(packed) => {
            let id = next_id()?;
            let stored = i64::try_from(packed.data.len()).unwrap_or(i64::MAX);
            let (mailbox, folder) = first;
            rows.fresh.push(params![
                id,
                mailbox,
                folder,
                packed.codec,
                packed.dictionary_id,
                &packed.data[..]
            ]);
            rows.bodies.push(params![
                id,
                scope,
                store,
                octets,
                stored,
                references,
                None::<PackId>,
                None::<i64>,
                mailbox,
                folder
            ]);
            id
        }
        BodyPlace::Packs(packs) => {
            let here = |pack: &&SinglePack| (pack.scope.0, pack.store.0) == home;
            // A mailbox that moved after its pack was written; the sender tries again.
            let pack = packs.iter().find(here).ok_or(StorageError::Gone("mail store of the mailbox"))?;
            rows.packs.push(LargeBody { single: pack.clone(), at: deliver.at, octets, references, first });
            pack.frame.body.0
        }
    };
    rows.summaries.push(packed_row(id, &deliver.summary));
    Ok(BodyId(id))
}

pub(super) fn packed_row(id: i64, packed: &Packed) -> Vec<Value> {
    let octets = i64::try_from(packed.octets).unwrap_or(i64::MAX);
    params![id, packed.codec, packed.dictionary_id, octets, &packed.data[..]]
}

async fn insert(conn: &mut Conn, mut rows: Rows) -> Result<()> {
    for LargeBody { single, at, octets, references, first } in std::mem::take(&mut rows.packs) {
        let mut row = pack::adopt(conn, &single, at, octets, references).await?;
        row.extend(params![first.0, first.1]);
        rows.bodies.push(row);
    }
    let body = "INSERT INTO body (id, scope_id, store_id, octets, stored_octets, reference_count, pack_id,
                                  pack_offset, mailbox_id, folder_id)";
    conn.insert_rows(body, 10, rows.bodies).await?;
    conn.insert_rows(
        "INSERT INTO fresh_body (body_id, mailbox_id, folder_id, codec, dictionary_id, data)",
        6,
        rows.fresh,
    )
    .await?;
    let summary = "INSERT INTO summary (body_id, codec, dictionary_id, octets, data)";
    conn.insert_rows(summary, 5, rows.summaries).await?;
    let prefix = "INSERT INTO message_prefix (id, codec, dictionary_id, octets, data)";
    conn.insert_rows(prefix, 5, rows.prefixes).await?;
    let message =
        "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets,
                                        internal_date)";
    conn.insert_rows(message, 9, rows.messages).await?;
    let trace = "INSERT INTO delivery_trace (at, domain_id, mailbox_id, recipient, sender, message_id, octets, source,
                                             queue_id, outcome, detail)";
    conn.insert_rows(trace, 11, rows.traces).await
}

async fn update_counters(conn: &mut Conn, ground: &Ground) -> Result<()> {
    let changed: Vec<_> = ground.inboxes.iter().filter(|(_, inbox)| inbox.added > 0).collect();
    let folders = changed.iter().map(|(_, inbox)| {
        vec![inbox.folder.0, inbox.uid_next, inbox.mod_seq, inbox.added, inbox.added_octets]
    });
    let text = "UPDATE folder SET uid_next = v.column2, mod_seq = v.column3, messages = messages + v.column4,
                                  unseen = unseen + v.column4, recent = recent + v.column4,
                                  octets = octets + v.column5";
    conn.update_from_values(text, "folder.id", 5, folders.collect()).await?;
    let mailboxes = changed
        .iter()
        .map(|(id, inbox)| vec![**id, inbox.mailbox_meter.bytes_used, inbox.mailbox_meter.messages_used]);
    let text = "UPDATE mailbox SET bytes_used = v.column2, messages_used = v.column3";
    conn.update_from_values(text, "mailbox.id", 3, mailboxes.collect()).await?;
    let domains = ground.domains.iter().map(|(id, meter)| vec![*id, meter.bytes_used, meter.messages_used]);
    let text = "UPDATE domain_usage SET bytes_used = v.column2, messages_used = v.column3";
    conn.update_from_values(text, "domain_usage.domain_id", 3, domains.collect()).await?;
    quota::write_customers(conn, &ground.customers).await
}
