//! Mailbox logins: password verification, the short-lived cache of verified credentials, and running sessions.
//!
//! Promises
//! - A failed login costs the same hashing work whether the mailbox exists or not, and has one answer.
//! - A hash that was imported is replaced by one of ours at the first login; sessions stay.
//! - A session ends at once when an administrator closes it, or when its mailbox is held, deleted, or gets another
//!   password, whichever node did that; and within a second when the time ends at which login is allowed, whichever way
//!   the clock went there.
//! - Logins, those that failed at a mailbox that there is too, are counted in memory and written in batches: none costs
//!   a transaction, and none waits for it.

mod administrator;
mod code;
mod last_login;
pub(in crate::service) mod log;
pub mod password;
pub(in crate::service) mod second_factor;
mod session;
mod throttle;
mod verifier;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use secrecy::SecretString;
use tokio::sync::Semaphore;

use crate::base::address::Address;
use crate::base::clock::{Clock, Timestamp};
use crate::base::id::{CustomerId, MailboxId};
use crate::service::context::{Owner, Service, Source};
use crate::service::error::Result;
use crate::service::settings;
use crate::service::settings::standing::{LoginWindows, Standing as OwnerStanding};
use crate::storage::StorageError;
use crate::storage::metadata::changes::Touched;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::mailbox::{self, MailboxRow};
use crate::storage::metadata::recipient;
use crate::storage::metadata::setting::At;
use crate::storage::metadata::sql::Conn;
use last_login::LastLogins;
use log::{LoginLog, Outcome};
pub use session::{MailSession, SessionInfo};
use session::{Receivers, Registry, Watch};
use throttle::Throttle;
use verifier::{Subject, Verifier};

/// How often logins are written.
const LAST_LOGIN_INTERVAL: Duration = Duration::from_secs(5);
/// How often sessions are held against the times at which login is allowed: they end within a second.
const WINDOW_INTERVAL: Duration = Duration::from_millis(500);
/// How many accesses of administrators are looked at together.
const VISITS_AT_ONCE: usize = 8;
/// Longest user name that is looked at: the longest address.
const USERNAME_OCTETS_MAX: usize = 320;

/// Why a login did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoginError {
    /// Unknown name, wrong password, pending domain, deleted mailbox: one answer.
    #[error("authentication failed")]
    Failed,
    /// Right password, but login or this service is held.
    #[error("this account is suspended for this service")]
    Held,
    /// Right password, but not at this time of the week.
    #[error("login is not allowed at this time")]
    OutsideWindow,
    /// Right password, but it came in the clear, where that is not allowed.
    #[error("the password of this account is taken under TLS only")]
    TlsRequired,
    /// The database cannot be asked now.
    #[error("authentication is temporarily unavailable")]
    Unavailable,
    /// Too many failures from this address or for this name; try later.
    #[error("too many failed logins, try again later")]
    TooMany,
}

/// How somebody comes.
#[derive(Clone, Copy, Debug)]
struct Way {
    service: Service,
    source: Source,
    /// Whether nobody on the way could read the password.
    is_private: bool,
}

/// Verifies mailbox credentials and knows who is logged in. Cheap to clone.
#[derive(Clone)]
pub struct Login {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    clock: Clock,
    verifier: Verifier,
    throttle: Throttle,
    registry: Arc<Registry>,
    last_logins: LastLogins,
    log: LoginLog,
    /// Sessions that must check whether they may go on do so one at a time: a change of the hierarchy wakes all.
    checking: Arc<Semaphore>,
}

impl Login {
    /// Sets logins up; [`Self::run`] should run beside.
    pub fn new(database: Database, clock: Clock) -> Self {
        let inner = Inner {
            verifier: Verifier::new(clock.clone()),
            throttle: Throttle::new(clock.clone()),
            registry: Arc::default(),
            last_logins: LastLogins::default(),
            log: LoginLog::default(),
            checking: Arc::new(Semaphore::new(1)),
            database,
            clock,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Writes the times and counts of logins every few seconds, and ends sessions whose time is over; never returns.
    /// Call [`Self::flush`] when stopping.
    pub async fn run(&self) {
        // Beside each other: whether an administrator may stay in a mailbox takes the database, and must not hold up
        // what the clock alone decides.
        tokio::join!(self.keep(), self.watch_visits());
    }

    async fn keep(&self) {
        let mut interval = tokio::time::interval(LAST_LOGIN_INTERVAL);
        let mut windows = tokio::time::interval(WINDOW_INTERVAL);
        for interval in [&mut interval, &mut windows] {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            tokio::select! {
                _ = interval.tick() => self.flush().await,
                _ = windows.tick() => self.inner.registry.close_outside_windows(self.inner.clock.now()),
            }
        }
    }

    /// Ends the sessions of administrators in mailboxes that could not begin any more.
    async fn watch_visits(&self) {
        let mut interval = tokio::time::interval(WINDOW_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.end_visits().await;
        }
    }

    async fn end_visits(&self) {
        let mut looks = Vec::new();
        for (id, visit) in self.inner.registry.visits() {
            let registry = Arc::clone(&self.inner.registry);
            looks.push(async move {
                if !visit.may_go_on().await {
                    registry.close(&id);
                }
            });
        }
        stream::iter(looks).for_each_concurrent(VISITS_AT_ONCE, |look| look).await;
    }

    /// Writes the times and counts of logins that are not written yet. What cannot be written is tried again the next
    /// time.
    pub async fn flush(&self) {
        self.inner.last_logins.flush(&self.inner.database).await;
        self.inner.log.flush(&self.inner.database).await;
    }

    /// Verifies `username` (a full address) and `password` for `service`, and registers the session. The protocol has
    /// made sure that nobody but the two ends could read the password.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn password(
        &self,
        service: Service,
        username: &str,
        password: &SecretString,
        source: Source,
    ) -> std::result::Result<MailSession, LoginError> {
        self.log_in(Way { service, source, is_private: true }, username, password).await
    }

    /// As [`Self::password`], for submission through an MTA, which has taken the password: `is_private` is whether
    /// nobody but it and the client could read it.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn submission(
        &self,
        username: &str,
        password: &SecretString,
        source: Source,
        is_private: bool,
    ) -> std::result::Result<MailSession, LoginError> {
        self.log_in(Way { service: Service::Submission, source, is_private }, username, password).await
    }

    async fn log_in(
        &self,
        way: Way,
        username: &str,
        password: &SecretString,
    ) -> std::result::Result<MailSession, LoginError> {
        let Way { service, source, .. } = way;
        let inner = &self.inner;
        let name = username.get(..USERNAME_OCTETS_MAX).unwrap_or(username).to_lowercase();
        if !inner.throttle.admits(source, &name) {
            tracing::info!(service = service.name(), ?source, "login refused: too many failures");
            return Err(LoginError::TooMany);
        }
        let (found, is_right) = self.verify(&name, password).await?;
        let whose = found.as_ref().map(|row| (row.id, row.customer));
        // Counting takes less than a thousandth of what the hashing before it takes longer or shorter by chance.
        let count = |outcome| {
            if let Some(whose) = whose {
                inner.log.note(whose, service, source, inner.clock.now(), outcome);
            }
        };
        let Some(mut row) = found.filter(|_| is_right) else {
            inner.throttle.failed(source, &name);
            count(Outcome::Failure);
            tracing::info!(service = service.name(), ?source, "login failed");
            return Err(LoginError::Failed);
        };
        inner.throttle.succeeded(source, &name);
        self.renew(&mut row, password).await;
        let admitted = self.admit(way, &row).await;
        match &admitted {
            Ok(_) => count(Outcome::Success),
            // Nothing was decided.
            Err(LoginError::Unavailable) => {}
            Err(_) => count(Outcome::Failure),
        }
        admitted
    }

    /// The mailbox `name`, and whether `password` is its own.
    async fn verify(
        &self,
        name: &str,
        password: &SecretString,
    ) -> std::result::Result<(Option<MailboxRow>, bool), LoginError> {
        let row = match name.parse::<Address>() {
            Ok(address) => {
                let found =
                    self.inner.database.read(|conn| Box::pin(async move { find(conn, &address).await }));
                found.await.map_err(unavailable)?
            }
            Err(_) => None,
        };
        let stored = row.as_ref().map(|row| (Subject::Mailbox(row.id), row.password_hash.as_str()));
        let verified = self.inner.verifier.verify(stored, password).await.map_err(|_| {
            tracing::warn!("login refused: too many verifications are waiting");
            LoginError::Unavailable
        })?;
        Ok((row, verified))
    }

    /// Replaces a hash that was brought along from elsewhere by one of our own, now that the password is known. What
    /// fails is tried again at the next login.
    async fn renew(&self, row: &mut MailboxRow, password: &SecretString) {
        let inner = &self.inner;
        let Some(hash) = inner.verifier.renewed(row.id, &row.password_hash, password).await else { return };
        let (id, from, to) = (row.id, row.password_hash.clone(), hash.as_str().to_owned());
        let written: std::result::Result<bool, StorageError> = inner
            .database
            .write(Priority::Interactive, move |conn| {
                let (from, to) = (from.clone(), to.clone());
                Box::pin(async move { mailbox::renew_hash(conn, id, &from, &to).await })
            })
            .await;
        match written {
            Ok(true) => {
                inner.registry.password_rehashed(row.id, &row.password_hash, hash.as_str());
                row.password_hash = hash.as_str().to_owned();
                tracing::info!(mailbox = %row.id, "an imported password hash was replaced by argon2id");
            }
            // Another login was first; this one's session is checked against what stands there now.
            Ok(false) => {
                let found = inner.database.read(|conn| Box::pin(mailbox::by_id(conn, id)));
                if let Ok(Some(now)) = found.await.map_err(|error: StorageError| error)
                    && self.matches(&now, password).await
                {
                    inner.registry.password_rehashed(row.id, &row.password_hash, &now.password_hash);
                    row.password_hash = now.password_hash;
                }
            }
            Err(error) => tracing::warn!(%error, "an imported password hash stays for now"),
        }
    }

    async fn matches(&self, row: &MailboxRow, password: &SecretString) -> bool {
        let stored = Some((Subject::Mailbox(row.id), row.password_hash.as_str()));
        self.inner.verifier.verify(stored, password).await == Ok(true)
    }

    /// Registers a session for a mailbox whose password was right.
    async fn admit(&self, way: Way, row: &MailboxRow) -> std::result::Result<MailSession, LoginError> {
        let (inner, Way { service, source, is_private }) = (&self.inner, way);
        // Watching begins before the last look, so that no change falls between them.
        let watch = self.watch(row.id, &row.password_hash);
        let now = inner.clock.now();
        let way = (service, is_private);
        let standing = standing(&inner.database, (row.id, row.customer), &row.password_hash, way, now);
        match standing.await.map_err(unavailable)? {
            Standing::Good(windows) => watch.set_windows(windows),
            Standing::Held => return Err(LoginError::Held),
            Standing::OutsideWindow => return Err(LoginError::OutsideWindow),
            Standing::Clear => return Err(LoginError::TlsRequired),
            Standing::Gone => return Err(LoginError::Failed),
        }
        let address = row.address().parse::<Address>().map_err(|error| {
            tracing::error!(mailbox = %row.id, %error, "stored address is no address");
            LoginError::Unavailable
        })?;
        inner.last_logins.note(row.id, now);
        let owner =
            Owner { mailbox: row.id, domain: row.domain, customer: row.customer, address, visit: None };
        tracing::info!(service = service.name(), ?source, mailbox = %row.id, "login");
        Ok(MailSession::register(&inner.registry, owner, service, source, now, watch))
    }

    fn watch(&self, mailbox: MailboxId, password_hash: &str) -> Watch {
        let (inner, changes) = (&self.inner, self.inner.database.changes());
        Watch {
            changes: tokio::sync::Mutex::new(Receivers {
                mailbox: changes.watch(Touched::Mailbox(mailbox)),
                directory: changes.watch(Touched::Directory),
            }),
            database: inner.database.clone(),
            checking: Arc::clone(&inner.checking),
            clock: inner.clock.clone(),
            password_hash: Arc::new(Mutex::new(password_hash.into())),
            windows: Arc::default(),
        }
    }

    /// Registers the session of an administrator in somebody's mailbox, whose rights were looked at; they are once
    /// more.
    pub(in crate::service) async fn visit(
        &self,
        owner: Owner,
        service: Service,
        source: Source,
    ) -> std::result::Result<MailSession, LoginError> {
        let watch = self.watch(owner.mailbox, "");
        let now = self.inner.clock.now();
        let session = MailSession::register(&self.inner.registry, owner, service, source, now, watch);
        if session.may_go_on().await { Ok(session) } else { Err(LoginError::Failed) }
    }

    /// How many administrators are in mailboxes on this node.
    pub(in crate::service) fn visits(&self) -> usize {
        self.inner.registry.visits().len()
    }

    /// The running sessions of this node, oldest first; the caller decides whose may be shown.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.inner.registry.list()
    }

    /// Ends a session; false when there is none of this id.
    pub fn session_close(&self, id: &str) -> bool {
        self.inner.registry.close(id)
    }

    /// Ends all sessions of a mailbox and answers how many.
    pub fn mailbox_close(&self, mailbox: MailboxId) -> usize {
        self.inner.registry.close_mailbox(mailbox)
    }
}

/// The mailbox with this address, through an alias domain if need be.
pub(in crate::service) async fn find(conn: &mut Conn, address: &Address) -> Result<Option<MailboxRow>> {
    if let Some(row) = mailbox::by_address(conn, address.local(), address.domain().as_str()).await? {
        return Ok(Some(row));
    }
    match recipient::domain(conn, address.domain()).await? {
        Some(route) if route.name != *address.domain() => {
            Ok(mailbox::by_address(conn, address.local(), route.name.as_str()).await?)
        }
        _ => Ok(None),
    }
}

/// Whether a mailbox may be used.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Standing {
    /// It may, at these times.
    Good(Option<LoginWindows>),
    /// Login, or the service, is held at the mailbox or above, or the service is switched off.
    Held,
    /// This is not one of the times at which login is allowed.
    OutsideWindow,
    /// The password came in the clear, which is not allowed.
    Clear,
    /// Deleted, its domain no longer verified or another customer's, or the password is another one.
    Gone,
}

async fn standing(
    database: &Database,
    (id, customer): (MailboxId, CustomerId),
    password_hash: &str,
    (service, is_private): (Service, bool),
    now: Timestamp,
) -> Result<Standing> {
    let password_hash = password_hash.to_owned();
    let look = database.read(|conn| {
        Box::pin(async move {
            let row = present(conn, (id, customer)).await?;
            let Some(row) = row.filter(|row| row.password_hash == password_hash) else {
                return Ok(Standing::Gone);
            };
            let standing = settings::standing::of_owner(conn, at(&row)).await?;
            let OwnerStanding { off, windows, submission_tls } = standing;
            if is_off(&off, service) {
                return Ok(Standing::Held);
            }
            if service == Service::Submission && submission_tls && !is_private {
                return Ok(Standing::Clear);
            }
            let is_time = windows.as_ref().is_none_or(|windows| windows.allow(now));
            Ok(if is_time { Standing::Good(windows) } else { Standing::OutsideWindow })
        })
    });
    look.await
}

/// The mailbox, if it takes part under its name and still belongs to this customer.
async fn present(conn: &mut Conn, (id, customer): (MailboxId, CustomerId)) -> Result<Option<MailboxRow>> {
    let Some(row) = mailbox::by_id(conn, id).await? else { return Ok(None) };
    // The mailbox may have another name by now; only under its present one is it known to take part.
    let present = mailbox::by_address(conn, &row.local_part, &row.domain_name).await?;
    // Who is logged in is shown to the customer to which the mailbox belonged at that time.
    let takes_part = present.is_some_and(|present| present.id == id) && row.customer == customer;
    Ok(Some(row).filter(|_| takes_part))
}

fn at(row: &MailboxRow) -> At {
    At::mailbox(row.id, row.domain, row.customer)
}

/// Whether login, or the service, is off according to what is off at a mailbox.
fn is_off(off: &BTreeSet<String>, service: Service) -> bool {
    let needed: &[&str] = match service {
        Service::Submission => &["login", "submission", "send"],
        Service::Imap | Service::Pop3 | Service::Smtp | Service::Admin => &["login", service.name()],
    };
    needed.iter().any(|switch| off.contains(*switch))
}

/// Whether a mailbox that still belongs to this customer is open for a service, whoever opens it: the owner's
/// password and login windows are the owner's alone.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn is_open(
    conn: &mut Conn,
    whose: (MailboxId, CustomerId),
    service: Service,
) -> Result<bool> {
    let Some(row) = present(conn, whose).await? else { return Ok(false) };
    Ok(!is_off(&settings::standing::switches_off(conn, at(&row)).await?, service))
}

/// Says it in the log.
pub(in crate::service) fn unavailable(error: crate::service::error::ServiceError) -> LoginError {
    tracing::error!(%error, "login: the database cannot be asked");
    LoginError::Unavailable
}

#[cfg(test)]
mod tests;
