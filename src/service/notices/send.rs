//! Brings notices into mailboxes, in the background.

use std::sync::Arc;
use std::time::Duration;

use super::holders;
use super::message::Letter;
use crate::base::address::Address;
use crate::base::clock::Timestamp;
use crate::base::id::{AdministratorId, CustomerId, MailboxId};
use crate::service::audit::names;
use crate::service::authority::{Caller, PermissionSet};
use crate::service::context::Identity;
use crate::service::delivery::{Delivery, DeliveryRefusal, Target, routes};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Inner, Management};
use crate::service::settings;
use crate::storage::metadata::customer::{self, TreeLock};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::notice::{self, NoticeFor, NoticeMail, NoticeRow};
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::{administrator, mailbox};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// Notices and copies taken in one pass.
const PASS_MAX: i64 = 256;
/// Until a copy that could not be stored is tried again; doubled each time.
const RETRY_AFTER: Duration = Duration::from_secs(60);
/// Longest time without disturbance, in minutes: a day, and what a change of the clocks may add.
const QUIET_MINUTES_MAX: u64 = 26 * 60;
/// Longest wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(6 * 60 * 60);

/// What one pass did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sent {
    /// Notices of which copies were made.
    pub notices: u64,
    /// Copies that were stored.
    pub stored: u64,
    /// Copies that are tried again later.
    pub deferred: u64,
}

/// Does it.
pub struct Sender {
    inner: Arc<Inner>,
    delivery: Delivery,
}

impl Sender {
    /// For the notices of this management.
    pub fn new(management: &Management, delivery: Delivery) -> Self {
        Self { inner: Arc::clone(&management.inner), delivery }
    }

    /// Looks at regular intervals; never ends by itself and may be dropped at any time.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.pass().await {
                tracing::warn!(%error, "notices could not be brought into mailboxes; it is tried again");
            }
        }
    }

    /// Makes the copies of new notices and stores those whose turn it is.
    ///
    /// # Errors
    /// When the database fails; what was stored before stays so.
    pub async fn pass(&self) -> Result<Sent> {
        let (mut sent, now) = (Sent::default(), self.inner.clock.now());
        while sent.notices < PASS_MAX.cast_unsigned() && self.spread(now).await? {
            sent.notices += 1;
        }
        let due = self.inner.database.read(move |conn| {
            Box::pin(async move { Ok::<_, ServiceError>(notice::mail_due(conn, now, PASS_MAX).await?) })
        });
        for mail in due.await? {
            if self.store(mail, now).await? {
                sent.stored += 1;
            } else {
                sent.deferred += 1;
            }
        }
        Ok(sent)
    }

    /// Makes the copies of one notice; false when there is none.
    async fn spread(&self, now: Timestamp) -> Result<bool> {
        let any = self
            .inner
            .database
            .read(|conn| Box::pin(async move { Ok::<_, ServiceError>(notice::any_unspread(conn).await?) }));
        if !any.await? {
            return Ok(false);
        }
        self.inner
            .database
            .write(Priority::Background, move |conn| {
                Box::pin(async move {
                    let Some(row) = notice::take_unspread(conn).await? else { return Ok(false) };
                    let copies = copies(conn, &row.to, now).await?;
                    let at = undisturbed(conn, &row.to, now).await?;
                    notice::insert_mail(conn, row.id, &copies, at).await?;
                    notice::trim(conn, &row.to).await?;
                    Ok::<_, ServiceError>(true)
                })
            })
            .await
    }

    /// Stores one copy; false when it has to be tried again.
    async fn store(&self, mail: NoticeMail, now: Timestamp) -> Result<bool> {
        let (id, attempts) = (mail.id, mail.attempts);
        let Some((target, letter)) = self.write(&mail).await? else {
            self.change(move |conn| Box::pin(async move { Ok(notice::mail_drop(conn, id).await?) })).await?;
            return Ok(true);
        };
        match self.delivery.notice(id, target, letter).await {
            Ok(()) => Ok(true),
            Err(DeliveryRefusal::UnknownMailbox) => {
                self.change(move |conn| Box::pin(async move { Ok(notice::mail_drop(conn, id).await?) }))
                    .await?;
                Ok(true)
            }
            Err(refusal) => {
                tracing::debug!(%refusal, "a notice waits for its mailbox");
                let doubled = RETRY_AFTER.saturating_mul(1 << attempts.clamp(0, 16));
                let at = now.plus(doubled.min(RETRY_AFTER_MAX));
                self.change(move |conn| Box::pin(async move { Ok(notice::mail_later(conn, id, at).await?) }))
                    .await?;
                Ok(false)
            }
        }
    }

    /// The message of a copy and where it goes; nothing when the mailbox is gone.
    async fn write(&self, mail: &NoticeMail) -> Result<Option<(Target, bytes::Bytes)>> {
        let (inner, host) = (Arc::clone(&self.inner), self.delivery.host_name().to_owned());
        let mail = mail.clone();
        self.inner
            .database
            .read(move |conn| Box::pin(async move { compose(conn, &inner, &mail, &host).await }))
            .await
    }

    async fn change<F>(&self, work: F) -> Result<()>
    where
        F: for<'c> Fn(&'c mut Conn) -> crate::storage::metadata::lane::Work<'c, (), ServiceError>
            + Send
            + Sync
            + 'static,
    {
        self.inner.database.write(Priority::Background, work).await
    }
}

async fn compose(
    conn: &mut Conn,
    inner: &Inner,
    mail: &NoticeMail,
    host: &str,
) -> Result<Option<(Target, bytes::Bytes)>> {
    let Some(row) = mailbox::by_id(conn, mail.mailbox).await?.filter(|row| row.deleted_at.is_none()) else {
        return Ok(None);
    };
    let Ok(address) = row.address().parse::<Address>() else { return Ok(None) };
    let reader = reader(conn, inner, mail).await?;
    let told = |kept: &str| names::text(&reader, kept, false);
    let NoticeRow { public_id, at, kind, subject, text, .. } = &mail.notice;
    let to = row.address();
    let (subject, text) = (told(subject), told(text));
    let letter =
        Letter { id: public_id, kind, at: *at, host, to: &to, subject: &subject, text: &text }.message();
    let target =
        Target { mailbox: row.id, domain: row.domain, customer: row.customer, address, detail: None };
    Ok(Some((target, letter)))
}

/// In whose view a copy is written: an administrator's, or that of somebody who sees the customer it is for alone.
async fn reader(conn: &mut Conn, inner: &Inner, mail: &NoticeMail) -> Result<Caller> {
    let tree = inner.authority.tree(conn, TreeLock::None).await?;
    let administrator = match mail.administrator {
        Some(id) => administrator::by_id(conn, id).await?,
        None => None,
    };
    if let Some(row) = administrator {
        let identity = Identity::Administrator { id: row.id, home: row.customer, name: row.name };
        return Caller::read(conn, tree, identity, inner.clock.now()).await;
    }
    let place = match &mail.notice.to {
        NoticeFor::Customer(id) | NoticeFor::Role(id, _) => Some(*id),
        NoticeFor::Mailbox(_) | NoticeFor::Administrator(_) | NoticeFor::Group(_) => None,
    };
    Ok(Caller::looking_on(tree, place, PermissionSet::EMPTY))
}

/// When copies may come: what is for a customer as a whole waits for the end of its hours without disturbance.
async fn undisturbed(conn: &mut Conn, to: &NoticeFor, now: Timestamp) -> Result<Timestamp> {
    let NoticeFor::Customer(id) = to else { return Ok(now) };
    let Some(hours) = settings::value(conn, *id, &settings::NOTICE_DO_NOT_DISTURB).await? else {
        return Ok(now);
    };
    let zone = settings::value(conn, *id, &settings::TIME_ZONE).await?;
    let mut minutes = (0..QUIET_MINUTES_MAX).map(|minute| now.plus(Duration::from_secs(60 * minute)));
    Ok(minutes.find(|&at| !hours.contains(zone.wall_time(at))).unwrap_or(now))
}

/// The mailboxes that get a copy, each in the view of whom.
async fn copies(
    conn: &mut Conn,
    to: &NoticeFor,
    now: Timestamp,
) -> Result<Vec<(MailboxId, Option<AdministratorId>)>> {
    let holders_of = async |conn: &mut Conn, customer: CustomerId, role: Option<&str>| {
        let rows = holders(conn, customer, role, now).await?;
        let contacts = rows.into_iter().filter_map(|row| Some((row.contact?, Some(row.id))));
        Ok::<Vec<_>, ServiceError>(contacts.collect())
    };
    let contacts: Vec<(String, Option<AdministratorId>)> = match to {
        NoticeFor::Mailbox(id) => return Ok(vec![(*id, None)]),
        NoticeFor::Administrator(id) => {
            let row = administrator::by_id(conn, *id).await?.filter(|row| row.enabled);
            row.and_then(|row| Some((row.contact?, Some(row.id)))).into_iter().collect()
        }
        NoticeFor::Group(_) => Vec::new(),
        NoticeFor::Role(customer, role) => holders_of(conn, *customer, Some(role)).await?,
        NoticeFor::Customer(id) => {
            let contact = customer::by_id(conn, *id).await?.and_then(|row| row.contact);
            let mut contacts: Vec<_> = contact.map(|contact| (contact, None)).into_iter().collect();
            contacts.extend(holders_of(conn, *id, None).await?);
            contacts
        }
    };
    let mut copies = Vec::new();
    for (contact, reader) in contacts {
        let Ok(address) = contact.parse::<Address>() else { continue };
        let targets = routes::expand(conn, &address).await?;
        copies.extend(targets.into_iter().map(|target| (target.mailbox, reader)));
    }
    Ok(copies)
}
