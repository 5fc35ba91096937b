//! Delivery: which mailbox an address means, whether it takes mail now, and storing a message for its recipients.
//!
//! Promises
//! - An accepted message would survive power loss when [`Delivery::deliver`] answers.
//! - State and quota are looked at when the recipient is named, and decided in the delivering transaction.
//! - What is refused is refused towards the sender now; nothing is accepted to be bounced later.

mod full;
mod notice;
mod refusals;
pub(in crate::service) mod routes;
pub(in crate::service) mod trace_lines;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::address::Address;
use crate::base::clock::Clock;
use crate::base::id::{CustomerId, DomainId, FolderId, MailboxId, Uid};
use crate::base::telemetry::metrics::{Metrics, Protocol};
use crate::service::context::{Service, Source};
use crate::service::mailstore::intake::{Intake, Prepared};
use crate::service::mailstore::mime::field::{Fields, header_octets, unfold};
use crate::service::settings::standing;
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::delivery::{Deliver, DeliverTarget, Refused, TraceOrigin};
use crate::storage::metadata::quota;
use crate::storage::metadata::recipient::RefusedDelivery;
use crate::storage::metadata::setting::At;
use crate::storage::metadata::store;
use refusals::Refusals;
use routes::{Route, RouteError, Routes};

/// Most Received lines before a message is taken to be looping (RFC 5321 section 6.3 asks for at least 100).
const HOPS_MAX: usize = 100;
/// Most mailboxes that the recipients of one message may come to after aliases.
const TARGETS_MAX: usize = 10_000;

/// Why a recipient, or a message for it, is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliveryRefusal {
    /// The domain is not hosted here (SMTP: 550 5.7.1, LMTP: 550 5.1.2).
    #[error("relaying denied: the domain is not hosted here")]
    NotLocal,
    /// The domain is hosted, the mailbox does not exist (550 5.1.1).
    #[error("no such mailbox here")]
    UnknownMailbox,
    /// Receiving is held (450 4.2.1).
    #[error("this mailbox does not take mail at present")]
    Suspended,
    /// The mailbox, its domain or a customer above has no room (452 4.2.2).
    #[error("over quota: {0}")]
    OverQuota(String),
    /// The same, for longer than mail is deferred (552 5.2.2).
    #[error("over quota: {0}")]
    Full(String),
    /// Larger than the mailbox or the server takes (552 5.3.4).
    #[error("the message is larger than {octets_max} octets")]
    TooLarge {
        /// The largest size that is taken, in octets.
        octets_max: u64,
    },
    /// More Received lines than the loop limit, or already delivered to this address (554 5.4.6).
    #[error("mail loop: {0}")]
    Loop(String),
    /// The database or mail store cannot take mail now (451 4.3.0).
    #[error("temporarily unavailable")]
    Unavailable,
    /// An alias or a catch-all takes mail for the address, and leads to no mailbox, or further than is followed
    /// (451 4.3.5).
    #[error("{0}")]
    Misdirected(&'static str),
    /// The disk is full (452 4.3.1).
    #[error("insufficient storage")]
    StorageFull,
    /// SMTP only: another recipient of this message could not be stored, so nothing was (452 4.3.0).
    #[error("another recipient could not take the message; nothing was stored")]
    Sibling,
}

/// How the message reached this server; goes into the Received line and the delivery trace.
#[derive(Clone, Debug)]
pub struct Transmission {
    /// `LMTP`, `ESMTP`, `ESMTPS`, `UTF8SMTP`… (RFC 3848, RFC 6531 section 4.3).
    pub protocol: &'static str,
    /// What the client called itself in LHLO, EHLO or HELO.
    pub greeting: String,
    /// The client's address; nothing for a Unix socket.
    pub source: Source,
    /// TLS version and cipher suite, if any.
    pub tls: Option<String>,
    /// The session's queue-like id, shown in the Received line, the log, and the answer to DATA.
    pub id: String,
}

/// A checked recipient. Several recipients may mean the same mailbox.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// As given in RCPT TO.
    pub address: Address,
    /// The mailboxes it means after aliases, catch-all and subaddressing; an alias may have several.
    pub targets: Vec<Target>,
}

/// A mailbox that a recipient means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// Its domain.
    pub domain: DomainId,
    /// The customer that owns the domain.
    pub customer: CustomerId,
    /// Address of the mailbox itself, for Delivered-To.
    pub address: Address,
    /// The detail of a subaddress (`user+detail`), if any.
    pub detail: Option<String>,
}

/// Where a message went.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The folder.
    pub folder: FolderId,
    /// UID of the message there.
    pub uid: Uid,
}

/// What happens to the other recipients when one cannot take the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Atomicity {
    /// Each recipient has its own answer (LMTP).
    PerRecipient,
    /// One answer for all: if one fails nothing is stored (SMTP).
    AllOrNothing,
}

/// What delivery is set up with.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// The name of this host in Received lines.
    pub host_name: String,
    /// Largest message in octets.
    pub message_octets_max: u64,
}

/// Takes mail in. Cheap to clone.
#[derive(Clone)]
pub struct Delivery {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    clock: Clock,
    intake: Intake,
    routes: Routes,
    refusals: Refusals,
    metrics: Metrics,
    settings: DeliverySettings,
}

impl Delivery {
    /// Builds the room. Must be called inside the runtime: refusals are written by a task of its own.
    pub fn new(
        database: Database,
        clock: Clock,
        intake: Intake,
        metrics: Metrics,
        settings: DeliverySettings,
    ) -> Self {
        let routes = Routes::new(database.clone());
        let refusals = Refusals::new(database.clone());
        Self { inner: Arc::new(Inner { database, clock, intake, routes, refusals, metrics, settings }) }
    }

    /// Largest message in octets.
    pub fn message_octets_max(&self) -> u64 {
        self.inner.settings.message_octets_max
    }

    /// Whether mail for `domain` is taken here.
    ///
    /// # Errors
    /// [`DeliveryRefusal::Unavailable`] when the database cannot be asked.
    pub async fn is_local_domain(&self, domain: &str) -> Result<bool, DeliveryRefusal> {
        self.inner.routes.is_local_domain(domain).await.map_err(|error| unavailable(&error))
    }

    /// Checks one RCPT TO: is it ours, does it exist, does it take mail, is there room for `octets` (the SIZE
    /// parameter, 0 if unknown). `postmaster` without domain and `postmaster@` any hosted domain always succeed.
    ///
    /// # Errors
    /// The refusal to answer RCPT with; it has been entered into the delivery trace.
    pub async fn recipient(
        &self,
        transmission: &Transmission,
        sender: &str,
        address: &str,
        octets: u64,
    ) -> Result<Recipient, DeliveryRefusal> {
        let (domain, result) = match self.inner.routes.resolve(address).await {
            Ok(route) => (route.domain, self.admit(&route, octets).await.map(|()| route.recipient.clone())),
            Err(RouteError::Refused(domain, refusal)) => (domain, Err(refusal)),
            Err(RouteError::Storage(error)) => (None, Err(unavailable(&error))),
        };
        if let Err(refusal) = &result {
            self.inner.metrics.delivery(protocol_of(transmission), outcome_name(Some(refusal)));
            self.trace_refusal(transmission, sender, address, domain, octets, refusal);
        }
        result
    }

    /// What [`Self::recipient`] would answer for a message of unknown size now, for an MTA in front that asks ahead;
    /// leaves no trace.
    ///
    /// # Errors
    /// The refusal.
    pub async fn recipient_state(&self, address: &str) -> Result<(), DeliveryRefusal> {
        match self.inner.routes.resolve(address).await {
            Ok(route) => self.admit(&route, 0).await,
            Err(RouteError::Refused(_, refusal)) => Err(refusal),
            Err(RouteError::Storage(error)) => Err(unavailable(&error)),
        }
    }

    /// The logins that may send with `address`: the mailbox that it names, with or without detail or through an
    /// alias domain, or the mailboxes behind the alias that it is. A catch-all gives nobody this right.
    ///
    /// # Errors
    /// [`DeliveryRefusal::Unavailable`] when the database cannot be asked.
    pub async fn sender_logins(&self, address: &str) -> Result<Vec<Address>, DeliveryRefusal> {
        match self.inner.routes.resolve(address).await {
            Ok(route) if route.is_own => {
                Ok(route.recipient.targets.iter().map(|target| target.address.clone()).collect())
            }
            Ok(_) | Err(RouteError::Refused(..)) => Ok(Vec::new()),
            Err(RouteError::Storage(error)) => Err(unavailable(&error)),
        }
    }

    /// State and room, asked anew each time: they change while a route stays the same. An alias takes a message
    /// when one of its mailboxes does.
    async fn admit(&self, route: &Route, octets: u64) -> Result<(), DeliveryRefusal> {
        if octets > self.inner.settings.message_octets_max {
            return Err(DeliveryRefusal::TooLarge { octets_max: self.inner.settings.message_octets_max });
        }
        let targets = route.recipient.targets.clone();
        let octets = i64::try_from(octets).unwrap_or(i64::MAX);
        let always = route.is_postmaster;
        let unmounted = self.inner.intake.bodies().volumes().unmounted();
        let (refusals, now) = (self.inner.refusals.clone(), self.inner.clock.now());
        let verdict = self.inner.database.read(|conn| {
            Box::pin(async move {
                let mut verdict = Ok(());
                let mailboxes: Vec<MailboxId> = targets.iter().map(|target| target.mailbox).collect();
                let homes = store::of_mailboxes(conn, &mailboxes).await?;
                for target in targets {
                    let (mailbox, domain, customer) = (target.mailbox, target.domain, target.customer);
                    let is_open = homes
                        .get(&mailbox)
                        .is_some_and(|(store, state)| state.is_writable() && !unmounted.contains(store));
                    if !is_open {
                        verdict = Err(DeliveryRefusal::Unavailable);
                        continue;
                    }
                    let off = standing::switches_off(conn, At::mailbox(mailbox, domain, customer)).await?;
                    verdict = if !always && (off.contains("receive") || off.contains(Service::Smtp.name())) {
                        Err(DeliveryRefusal::Suspended)
                    } else {
                        match quota::refusing_limit(conn, mailbox, octets).await? {
                            Some(over) if !always => {
                                Err(full::over_quota(conn, &refusals, over, customer, now).await)
                            }
                            _ => Ok(()),
                        }
                    };
                    if verdict.is_ok() {
                        break;
                    }
                }
                Ok::<_, StorageError>(verdict)
            })
        });
        verdict.await.unwrap_or_else(|error| Err(unavailable(&error)))
    }

    /// Stores `message` (CRLF lines, dot-unstuffed, as received) for `recipients`, with Return-Path, Delivered-To
    /// and Received in front. Returns one answer per recipient, in order, once everything that succeeded would
    /// survive power loss. `sender` is the reverse path without angle brackets, empty for bounces.
    ///
    /// A recipient that means several mailboxes (an alias) is answered with success when at least one of them has
    /// the message, so that a retry does not give the others a second copy.
    pub async fn deliver(
        &self,
        transmission: &Transmission,
        sender: &str,
        recipients: &[Recipient],
        message: Bytes,
        atomicity: Atomicity,
    ) -> Vec<Result<Vec<Delivered>, DeliveryRefusal>> {
        let octets = message.len() as u64;
        let answers = self.try_deliver(transmission, sender, recipients, message, (atomicity, None)).await;
        let answers =
            answers.unwrap_or_else(|refusal| recipients.iter().map(|_| Err(refusal.clone())).collect());
        let protocol = protocol_of(transmission);
        self.inner.metrics.message(protocol, octets);
        for (recipient, answer) in recipients.iter().zip(&answers) {
            self.inner.metrics.delivery(protocol, outcome_name(answer.as_ref().err()));
            if let Err(refusal) = answer {
                let domain = recipient.targets.first().map(|target| target.domain);
                let address = recipient.address.to_string();
                self.trace_refusal(transmission, sender, &address, domain, octets, refusal);
            }
        }
        answers
    }

    async fn try_deliver(
        &self,
        transmission: &Transmission,
        sender: &str,
        recipients: &[Recipient],
        message: Bytes,
        (atomicity, notice_mail): (Atomicity, Option<i64>),
    ) -> Result<Vec<Result<Vec<Delivered>, DeliveryRefusal>>, DeliveryRefusal> {
        let octets = message.len() as u64;
        if octets > self.inner.settings.message_octets_max {
            return Err(DeliveryRefusal::TooLarge { octets_max: self.inner.settings.message_octets_max });
        }
        let header = Header::read(&message)?;
        let plan = Plan::new(recipients, &header)?;
        if plan.targets.is_empty() {
            return Ok(plan.answers(recipients, &[]));
        }
        let at = self.inner.clock.now();
        let mailboxes: Vec<_> = plan.targets.iter().map(|(target, _)| target.mailbox).collect();
        let away = self.inner.intake.bodies().unmounted(&mailboxes).await;
        let away = away.map_err(|error| unavailable(&error))?;
        let all_or_nothing = atomicity == Atomicity::AllOrNothing;
        if !away.is_empty() && (all_or_nothing || away.len() == mailboxes.len()) {
            return Err(DeliveryRefusal::Unavailable);
        }
        let prepared: Prepared =
            self.inner.intake.prepare(message, &mailboxes, at).await.map_err(|error| unavailable(&error))?;
        let received =
            trace_lines::received(transmission, &self.inner.settings.host_name, at, plan.single_recipient());
        let mounted = plan.targets.iter().filter(|(target, _)| !away.contains(&target.mailbox));
        let targets = mounted.map(|(target, recipient)| {
            let lines = trace_lines::prefix(sender, &target.address, &received);
            DeliverTarget {
                mailbox: target.mailbox,
                prefix: self.inner.intake.compress(&lines),
                recipient: recipient.to_string(),
            }
        });
        let deliver = Deliver {
            at,
            octets,
            body: prepared.body.clone(),
            summary: prepared.summary,
            targets: targets.collect(),
            all_or_nothing,
            trace: TraceOrigin {
                sender: sender.to_owned(),
                message_id: header.message_id,
                source: source_text(transmission.source),
                queue_id: transmission.id.clone(),
            },
            notice_mail,
        };
        let outcomes = self.inner.database.deliver(deliver).await;
        self.inner.intake.settle(&prepared.body).await;
        let outcomes = outcomes.map_err(|error| unavailable(&error))?;
        if notice_mail.is_some() && outcomes.iter().any(|one| matches!(one, Err(Refused::Arrived))) {
            return Ok(recipients.iter().map(|_| Ok(Vec::new())).collect());
        }
        let mounted = plan.targets.iter().filter(|(target, _)| !away.contains(&target.mailbox));
        let customers: Vec<CustomerId> = mounted.map(|(target, _)| target.customer).collect();
        let told = full::refused(&self.inner, outcomes, &customers, at).await;
        let mut stored = told.map_err(|error| unavailable(&error))?.into_iter();
        let outcome_of = |mailbox: &MailboxId| {
            let taken = if away.contains(mailbox) { None } else { stored.next() };
            taken.unwrap_or(Err(DeliveryRefusal::Unavailable))
        };
        let outcomes: Vec<_> = mailboxes.iter().map(outcome_of).collect();
        let answers = plan.answers(recipients, &outcomes);
        if all_or_nothing && answers.iter().any(Result::is_err) {
            return Ok(answers.into_iter().map(|answer| answer.and(Err(DeliveryRefusal::Sibling))).collect());
        }
        Ok(answers)
    }

    fn trace_refusal(
        &self,
        transmission: &Transmission,
        sender: &str,
        address: &str,
        domain: Option<DomainId>,
        octets: u64,
        refusal: &DeliveryRefusal,
    ) {
        self.inner.refusals.note(RefusedDelivery {
            at: self.inner.clock.now(),
            domain,
            recipient: truncated(address),
            sender: truncated(sender),
            source: source_text(transmission.source),
            queue_id: transmission.id.clone(),
            octets: i64::try_from(octets).unwrap_or(i64::MAX),
            reason: refusal.to_string(),
        });
    }
}

/// What delivery wants to know of a message's header.
struct Header {
    message_id: String,
    delivered_to: Vec<Vec<u8>>,
}

impl Header {
    fn read(message: &[u8]) -> Result<Self, DeliveryRefusal> {
        let header = message.get(..header_octets(message)).unwrap_or(message);
        let mut read = Self { message_id: String::new(), delivered_to: Vec::new() };
        let mut hops = 0;
        for field in Fields::new(header) {
            if field.is("Received") {
                hops += 1;
            } else if field.is("Delivered-To") {
                read.delivered_to.push(unfold(field.value).trim_ascii().to_ascii_lowercase());
            } else if field.is("Message-ID") && read.message_id.is_empty() {
                read.message_id =
                    truncated(String::from_utf8_lossy(unfold(field.value).trim_ascii()).as_ref());
            }
        }
        if hops > HOPS_MAX {
            return Err(DeliveryRefusal::Loop(format!("more than {HOPS_MAX} Received lines")));
        }
        Ok(read)
    }
}

/// The mailboxes of one message, each once however many recipients mean it.
struct Plan {
    targets: Vec<(Target, Address)>,
    /// Per recipient: indices into `targets`, or why it has none.
    shares: Vec<Result<Vec<usize>, DeliveryRefusal>>,
}

impl Plan {
    fn new(recipients: &[Recipient], header: &Header) -> Result<Self, DeliveryRefusal> {
        let mut plan = Self { targets: Vec::new(), shares: Vec::with_capacity(recipients.len()) };
        let mut known: HashMap<MailboxId, usize> = HashMap::new();
        for recipient in recipients {
            let mut share = Vec::new();
            for target in &recipient.targets {
                let address = target.address.to_string();
                if header.delivered_to.iter().any(|seen| seen == address.as_bytes()) {
                    continue;
                }
                let next = plan.targets.len();
                let index = *known.entry(target.mailbox).or_insert(next);
                if index == next {
                    plan.targets.push((target.clone(), recipient.address.clone()));
                }
                share.push(index);
            }
            plan.shares.push(if share.is_empty() {
                Err(DeliveryRefusal::Loop("the message was delivered to this address before".to_owned()))
            } else {
                Ok(share)
            });
        }
        if plan.targets.len() > TARGETS_MAX {
            return Err(DeliveryRefusal::Loop(format!("more than {TARGETS_MAX} mailboxes in all")));
        }
        Ok(plan)
    }

    /// The recipient's address for the Received line; with several it would tell each of the others.
    fn single_recipient(&self) -> Option<&Address> {
        match &self.targets[..] {
            [(_, address)] => Some(address),
            _ => None,
        }
    }

    fn answers(
        &self,
        recipients: &[Recipient],
        outcomes: &[Result<(FolderId, Uid), DeliveryRefusal>],
    ) -> Vec<Result<Vec<Delivered>, DeliveryRefusal>> {
        let answer = |share: &Result<Vec<usize>, DeliveryRefusal>| {
            let share = share.as_ref().map_err(Clone::clone)?;
            let mut delivered = Vec::new();
            let mut refusal = None;
            for &index in share {
                match (outcomes.get(index), self.targets.get(index)) {
                    (Some(Ok((folder, uid))), Some((target, _))) => {
                        delivered.push(Delivered { mailbox: target.mailbox, folder: *folder, uid: *uid });
                    }
                    (Some(Err(refused)), _) => refusal = Some(refused.clone()),
                    _ => refusal = Some(DeliveryRefusal::Unavailable),
                }
            }
            match refusal {
                Some(refusal) if delivered.is_empty() => Err(refusal),
                _ => Ok(delivered),
            }
        };
        debug_assert_eq!(recipients.len(), self.shares.len());
        self.shares.iter().map(answer).collect()
    }
}

fn protocol_of(transmission: &Transmission) -> Protocol {
    if transmission.protocol.contains("LMTP") { Protocol::Lmtp } else { Protocol::Smtp }
}

/// The label under which an answer is counted.
fn outcome_name(refusal: Option<&DeliveryRefusal>) -> &'static str {
    match refusal {
        None => "stored",
        Some(DeliveryRefusal::NotLocal) => "relaying",
        Some(DeliveryRefusal::UnknownMailbox) => "unknown",
        Some(DeliveryRefusal::Suspended) => "suspended",
        Some(DeliveryRefusal::OverQuota(_) | DeliveryRefusal::Full(_)) => "over_quota",
        Some(DeliveryRefusal::TooLarge { .. }) => "too_large",
        Some(DeliveryRefusal::Loop(_)) => "loop",
        Some(DeliveryRefusal::Misdirected(_)) => "misdirected",
        Some(DeliveryRefusal::Unavailable | DeliveryRefusal::StorageFull) => "unavailable",
        Some(DeliveryRefusal::Sibling) => "sibling",
    }
}

fn refusal_of(refused: Refused) -> DeliveryRefusal {
    match refused {
        Refused::Gone => DeliveryRefusal::UnknownMailbox,
        Refused::StoreClosed | Refused::Arrived => DeliveryRefusal::Unavailable,
        // `full::refused` has told more.
        Refused::OverQuota(_) => DeliveryRefusal::OverQuota("no room".to_owned()),
        Refused::Sibling => DeliveryRefusal::Sibling,
    }
}

fn unavailable(error: &StorageError) -> DeliveryRefusal {
    tracing::warn!(%error, "delivery deferred");
    match error {
        StorageError::Full => DeliveryRefusal::StorageFull,
        _ => DeliveryRefusal::Unavailable,
    }
}

fn source_text(source: Source) -> String {
    source.map_or_else(|| "unix".to_owned(), |address| address.to_string())
}

/// Bounds what strangers can make the trace hold.
fn truncated(text: &str) -> String {
    text.chars().take(320).collect()
}
