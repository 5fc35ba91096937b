//! Access of administrators to what stands in mailboxes that are not theirs.
//!
//! Who holds `content.read` at a mailbox's customer opens the mailbox over IMAP with their own login: SASL
//! PLAIN with the mailbox as authorization identity, and the administrator's `name@CODE` with a password or a
//! token as authentication identity (RFC 4616). Without `content.write` nothing there is changed, not even
//! `\Seen` or `\Recent`.
//!
//! Promises
//! - A wrong password, an unknown mailbox and a missing permission have one answer, and so has a password that is not
//!   enough: who has a second factor, or must have one, comes with a token. Which mailboxes there are is looked at only
//!   once somebody has proven who they are.
//! - Nothing is shown before it is recorded: that the mailbox was opened, with the notice to its owner, in
//!   one transaction; then each folder once ([`enter`]). What cannot be recorded is not opened.
//! - An access ends within a second when the administrator could not begin it any more: grant, ceiling, hold,
//!   token, password, login window, or the mailbox itself ([`Visit::may_go_on`], asked by [`Login::run`]).
//! - Access is for reading mail over IMAP. Submission never acts for somebody else: sending in somebody's
//!   name is not content. POP3 does not either, since a session would keep the owner out of the maildrop.
//!
//! [`Login::run`]: crate::service::login::Login::run

mod visit;

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

pub(in crate::service) use visit::{Visit, enter, may_change};

use crate::base::address::Address;
use crate::base::clock::Timestamp;
use crate::base::id::public_id;
use crate::service::audit::{self, Event, names};
use crate::service::authority::{Caller, Permission, Zones};
use crate::service::context::{Authentication, Context, Identity, Owner, Service, Source};
use crate::service::directory::tokens;
use crate::service::error::{Result, ServiceError};
use crate::service::login::{self, LoginError, MailSession};
use crate::service::notices::{self, Kind, To};
use crate::service::registry::{Management, PasswordRefused};
use crate::storage::metadata::audit::insert;
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::mailbox::MailboxRow;
use crate::storage::metadata::sql::Conn;

/// What opening is called in the audit trail.
const READ: &str = "content.read";
/// What changing, or opening for changing, is called there.
const WRITE: &str = "content.write";
/// Most accesses that run on this node at a time: each is looked at twice a second.
const VISITS_MAX: usize = 256;
/// Longest address that is looked at, in octets.
const ADDRESS_OCTETS_MAX: usize = 320;

/// Lets administrators into mailboxes. Cheap to clone.
#[derive(Clone)]
pub struct ContentAccess {
    management: Management,
}

/// What looking at the mailbox came to.
enum Found {
    /// It may be opened, for changing too if so said.
    Open(Box<MailboxRow>, bool),
    /// Login, or the service, is off there.
    Held(Box<MailboxRow>),
    /// It is not there, or may not be opened: one answer. With the mailbox if the administrator sees its customer.
    Refused(Option<Box<MailboxRow>>),
}

impl ContentAccess {
    /// For the administrators of `management`.
    pub fn new(management: &Management) -> Self {
        Self { management: management.clone() }
    }

    /// Opens the mailbox `address` for the administrator `name` (`name@CODE`), whose password or token `secret` is.
    ///
    /// # Errors
    /// [`LoginError::Failed`] whatever is wrong; [`LoginError::Held`] where the administrator may know that
    /// the mailbox is suspended; [`LoginError::Unavailable`] also when too many are open.
    pub async fn open(
        &self,
        service: Service,
        address: &str,
        name: &str,
        secret: &SecretString,
        source: Source,
    ) -> std::result::Result<MailSession, LoginError> {
        let inner = &self.management.inner;
        let login = inner.login.get().ok_or(LoginError::Unavailable)?;
        let authentication = self.authenticate(name, secret, source).await?;
        if login.visits() >= VISITS_MAX {
            tracing::warn!("access to a mailbox refused: too many are open");
            return Err(LoginError::Unavailable);
        }
        let context = Arc::new(authentication.context(source, public_id(), None));
        let (services, asked) = (Arc::clone(inner), Arc::clone(&context));
        let wanted: Arc<str> = address.get(..ADDRESS_OCTETS_MAX).unwrap_or(address).to_lowercase().into();
        let found = inner.database.write(Priority::Interactive, move |conn| {
            let (inner, context, wanted) = (Arc::clone(&services), Arc::clone(&asked), Arc::clone(&wanted));
            Box::pin(async move {
                let tree = inner.authority.tree(conn, TreeLock::None).await?;
                let now = inner.clock.now();
                let caller = Caller::read(conn, tree, context.identity.clone(), now).await?;
                let caller = caller.confined(context.only());
                let opening = Opening { caller: &caller, context: &context, service, address: &wanted };
                let found = opening.look(conn).await?;
                opening.note(conn, &found, now).await?;
                Ok::<_, ServiceError>((found, caller.name()))
            })
        });
        let (row, writes, name) = match found.await.map_err(unavailable)? {
            (Found::Open(row, writes), name) => (row, writes, name),
            (Found::Held(_), _) => return Err(LoginError::Held),
            (Found::Refused(_), _) => return Err(LoginError::Failed),
        };
        let address: Address = row.address().parse().map_err(|error| {
            tracing::error!(mailbox = %row.id, %error, "stored address is no address");
            LoginError::Unavailable
        })?;
        let (id, service_name) = (row.id, service.name());
        tracing::info!(service = service_name, ?source, mailbox = %id, writes, "opened by an administrator");
        let whose = (row.id, row.customer);
        let visit =
            Visit::new(self.management.clone(), (authentication, context), (whose, service), (name, writes));
        let visit = Some(Arc::new(visit));
        let owner = Owner { mailbox: row.id, domain: row.domain, customer: row.customer, address, visit };
        login.visit(owner, service, source).await
    }

    /// Whose token or password it is. What is no token of that administrator costs what a wrong password does.
    async fn authenticate(
        &self,
        name: &str,
        secret: &SecretString,
        source: Source,
    ) -> std::result::Result<Authentication, LoginError> {
        if secret.expose_secret().starts_with(tokens::PREFIX) {
            let proven = self.management.authenticate_token(secret.expose_secret(), source).await;
            if let Some(authentication) = proven.map_err(unavailable)?
                && self.login_of(&authentication).await.map_err(unavailable)?.eq_ignore_ascii_case(name)
            {
                return Ok(authentication);
            }
        }
        // There is no place for a code here: where one is asked for, or a second factor is demanded, a token it is.
        match self.management.authenticate_password(name, secret, None, None, source).await {
            Ok(authentication) if authentication.lacks_second_factor() => Err(LoginError::Failed),
            Ok(authentication) => Ok(authentication),
            Err(PasswordRefused::Login(error)) => Err(error),
            Err(PasswordRefused::CodeRequired | PasswordRefused::CodeWrong) => Err(LoginError::Failed),
        }
    }

    /// `name@CODE` of somebody who has proven who they are.
    async fn login_of(&self, authentication: &Authentication) -> Result<String> {
        let (inner, identity) = (Arc::clone(&self.management.inner), authentication.identity.clone());
        let read = self.management.inner.database.read(move |conn| {
            Box::pin(async move {
                let tree = inner.authority.tree(conn, TreeLock::None).await?;
                Ok::<_, ServiceError>(
                    Caller { identity, grants: Vec::new(), zones: Zones::default(), tree }.name(),
                )
            })
        });
        read.await
    }
}

/// Somebody who has proven who they are, and the mailbox that they want to open.
struct Opening<'a> {
    caller: &'a Caller,
    context: &'a Context,
    service: Service,
    address: &'a str,
}

impl Opening<'_> {
    /// Whether the mailbox may be opened.
    async fn look(&self, conn: &mut Conn) -> Result<Found> {
        let Ok(address) = self.address.parse::<Address>() else { return Ok(Found::Refused(None)) };
        let found = login::find(conn, &address).await?.filter(|row| self.caller.sees(row.customer));
        let Some(row) = found.map(Box::new) else { return Ok(Found::Refused(None)) };
        let may = |permission| self.caller.may(Some(row.customer), permission);
        if !may(Permission::ContentRead) {
            return Ok(Found::Refused(Some(row)));
        }
        let writes = may(Permission::ContentWrite);
        let is_open = login::is_open(conn, (row.id, row.customer), self.service).await?;
        Ok(if is_open { Found::Open(row, writes) } else { Found::Held(row) })
    }

    /// Records what came of it, and tells the owner.
    async fn note(&self, conn: &mut Conn, found: &Found, now: Timestamp) -> Result<()> {
        let Self { caller, context, .. } = self;
        let (row, outcome) = match found {
            Found::Open(row, _) => (Some(row), "done"),
            Found::Held(row) => (Some(row), "suspended"),
            Found::Refused(Some(row)) => (Some(row), "forbidden"),
            Found::Refused(None) => (None, "not-found"),
        };
        let place = row.map(|row| row.customer);
        let wanted = || names::words(caller, &label(self.address));
        let target = row.map_or_else(wanted, |row| label(&row.address()));
        let after = match found {
            Found::Open(_, writes) => {
                Some(json!({ "service": self.service.name(), "writes": writes }).to_string())
            }
            Found::Held(_) | Found::Refused(_) => None,
        };
        let event = Event { at: now, operation: READ, place, target: &target, before: None, after, outcome };
        insert(conn, &[audit::record(caller, context, event)]).await?;
        if let Found::Open(row, writes) = found {
            self.tell(conn, row, *writes, now).await?;
        }
        Ok(())
    }

    /// Tells the owner.
    async fn tell(&self, conn: &mut Conn, row: &MailboxRow, writes: bool, now: Timestamp) -> Result<()> {
        let Identity::Administrator { home, .. } = &self.caller.identity else { return Ok(()) };
        let who = names::administrator(&self.caller.tree, *home, &self.caller.name());
        let what = if writes { "read and change" } else { "read" };
        let text = format!(
            "An administrator ({who}) has opened this mailbox, {}, on {now} over {}, and could {what} the mail in \
             it.\n\n\
             Your administrators find it in their audit trail under {READ} and the request {}; ask them why it was \
             done.",
            row.address(),
            self.service.name().to_uppercase(),
            self.context.request_id,
        );
        let subject = "An administrator has opened this mailbox";
        notices::give(conn, To::Mailbox(row.id), Kind::ContentAccess, (subject, &text), now).await
    }
}

/// A mailbox in the audit trail.
fn label(address: &str) -> String {
    format!("mailbox {address}")
}

fn unavailable(error: ServiceError) -> LoginError {
    tracing::error!(%error, "access to a mailbox: the database cannot be asked");
    LoginError::Unavailable
}
