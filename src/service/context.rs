//! Who is asking. Values of these types are made only by [`crate::service::login`] and the authority, so holding
//! one is the proof that somebody was authenticated.

use std::net::IpAddr;
use std::sync::Arc;

use crate::base::address::Address;
use crate::base::id::{AdministratorId, CustomerId, DomainId, MailboxId, TokenId, public_id};
use crate::service::authority::PermissionSet;
use crate::service::content_access::Visit;

/// A way in or out that can be switched per customer, domain and mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// Reading over IMAP.
    Imap,
    /// Fetching over POP3.
    Pop3,
    /// Mail arriving over SMTP or LMTP.
    Smtp,
    /// Sending through the provider's MTA.
    Submission,
    /// Administration.
    Admin,
}

impl Service {
    /// The name as stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Smtp => "smtp",
            Self::Submission => "submission",
            Self::Admin => "admin",
        }
    }
}

/// Where a connection comes from: an address, or nothing for a Unix socket.
pub type Source = Option<IpAddr>;

/// The authenticated owner of one mailbox, or an administrator who was let into it.
#[derive(Clone, Debug)]
pub struct Owner {
    pub(in crate::service) mailbox: MailboxId,
    pub(in crate::service) domain: DomainId,
    pub(in crate::service) customer: CustomerId,
    pub(in crate::service) address: Address,
    /// The administrator who is there in the owner's place.
    pub(in crate::service) visit: Option<Arc<Visit>>,
}

impl Owner {
    /// The mailbox.
    pub fn mailbox(&self) -> MailboxId {
        self.mailbox
    }

    /// Its domain.
    pub fn domain(&self) -> DomainId {
        self.domain
    }

    /// The customer its domain belongs to.
    pub fn customer(&self) -> CustomerId {
        self.customer
    }

    /// Its address.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// Who asks for a management operation. Made only by [`crate::service::registry::Management`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Identity {
    /// Root or the daemon's own uid over the socket: a system administrator.
    System,
    /// An administrator.
    Administrator {
        /// Key.
        id: AdministratorId,
        /// The customer where it is at home.
        home: CustomerId,
        /// Its name, unique within its home.
        name: String,
    },
    /// Whoever holds a one-time code: nobody yet, with no grants. May redeem that code and ask for nothing else.
    Invited {
        /// The code's public id.
        id: String,
        /// The customer to which it invites, or to which the mailbox belongs.
        customer: CustomerId,
        /// Who is invited.
        address: String,
    },
}

/// A key that no administrator has.
const NOBODY: AdministratorId = AdministratorId(-1);

/// What a login with a password has shown besides it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecondFactor {
    /// There is none, and none is demanded.
    NotAsked,
    /// A code of it.
    Brought,
    /// There is none, and one is demanded: all that is open is to set one up.
    Missing,
}

/// How somebody was authenticated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Authenticated {
    /// By the kernel: the uid of the socket's other end.
    Peer {
        /// The uid.
        uid: u32,
    },
    /// By a bearer token.
    Token {
        /// Which one.
        id: TokenId,
        /// The permissions that it is confined to; nothing for all that its owner has.
        only: Option<PermissionSet>,
    },
    /// By the administrator's password.
    Password {
        /// Of the hash under which it is kept: another one is another password.
        digest: u64,
        /// What was shown besides.
        second_factor: SecondFactor,
    },
    /// By a one-time code.
    Code,
}

impl Authenticated {
    /// The form in the audit trail.
    pub fn text(&self) -> String {
        match self {
            Self::Peer { uid } => format!("peer uid {uid}"),
            Self::Token { .. } => "token".to_owned(),
            Self::Password { second_factor: SecondFactor::Brought, .. } => "password and code".to_owned(),
            Self::Password { .. } => "password".to_owned(),
            Self::Code => "code".to_owned(),
        }
    }

    /// Whether the caller must set up a second factor before anything else.
    fn lacks_second_factor(&self) -> bool {
        matches!(self, Self::Password { second_factor: SecondFactor::Missing, .. })
    }
}

/// A proven identity; what [`Context`]s are made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authentication {
    pub(in crate::service) identity: Identity,
    pub(in crate::service) authenticated: Authenticated,
}

impl Authentication {
    /// The context of one request. `idempotency_key` is the client's, if it sent one.
    pub fn context(&self, source: Source, request_id: String, idempotency_key: Option<String>) -> Context {
        Context {
            identity: self.identity.clone(),
            authenticated: self.authenticated.clone(),
            source,
            request_id,
            idempotency_key,
            on_behalf: None,
        }
    }

    /// See [`Authenticated::lacks_second_factor`].
    pub(in crate::service) fn lacks_second_factor(&self) -> bool {
        self.authenticated.lacks_second_factor()
    }

    /// Whose identity it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// One management request: who, how authenticated, from where.
#[derive(Clone, Debug)]
pub struct Context {
    pub(in crate::service) identity: Identity,
    pub(in crate::service) authenticated: Authenticated,
    pub(in crate::service) source: Source,
    pub(in crate::service) request_id: String,
    pub(in crate::service) idempotency_key: Option<String>,
    /// Whose wish it is, as the audit trail names it, when somebody else carries it out.
    pub(in crate::service) on_behalf: Option<String>,
}

impl Context {
    /// Of what the daemon does by itself when its time has come.
    pub(in crate::service) fn of_schedule() -> Self {
        Self {
            identity: Identity::System,
            authenticated: Authenticated::Peer { uid: 0 },
            source: None,
            request_id: public_id(),
            idempotency_key: None,
            on_behalf: None,
        }
    }

    /// Who asks.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The id that stands in the log, the audit trail and the answer.
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// See [`Authenticated::lacks_second_factor`].
    pub(in crate::service) fn lacks_second_factor(&self) -> bool {
        self.authenticated.lacks_second_factor()
    }

    /// What the caller is confined to by how it was authenticated; nothing for no bounds.
    pub(in crate::service) fn only(&self) -> Option<PermissionSet> {
        match self.authenticated {
            Authenticated::Token { only, .. } => only,
            Authenticated::Peer { .. } | Authenticated::Password { .. } | Authenticated::Code => None,
        }
    }

    /// A text that is the same for every request of this caller and differs from every other caller's.
    pub(in crate::service) fn caller_key(&self) -> String {
        match &self.identity {
            Identity::System => "system".to_owned(),
            Identity::Administrator { id, .. } => format!("administrator {id}"),
            Identity::Invited { id, .. } => format!("invited {id}"),
        }
    }
}

/// What is kept of a [`Context`] in the database, for work that goes on after a restart. Only a row that the daemon
/// wrote itself becomes a context again.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(in crate::service) struct KeptContext {
    /// Nothing for the system.
    administrator: Option<(AdministratorId, CustomerId, String)>,
    peer_uid: Option<u32>,
    token: Option<TokenId>,
    /// Names of the permissions that the token is confined to.
    #[serde(default)]
    only: Option<Vec<String>>,
    #[serde(default)]
    by_password: bool,
    source: Source,
    request_id: String,
}

impl From<&Context> for KeptContext {
    fn from(context: &Context) -> Self {
        let administrator = match &context.identity {
            Identity::System => None,
            Identity::Administrator { id, home, name } => Some((*id, *home, name.clone())),
            // Starts nothing that goes on; were there something, it would be asked for by nobody.
            Identity::Invited { customer, address, .. } => Some((NOBODY, *customer, address.clone())),
        };
        let (peer_uid, token) = match context.authenticated {
            Authenticated::Peer { uid } => (Some(uid), None),
            Authenticated::Token { id, .. } => (None, Some(id)),
            Authenticated::Password { .. } | Authenticated::Code => (None, None),
        };
        let by_password = matches!(context.authenticated, Authenticated::Password { .. });
        let only = context.only().map(|only| only.iter().map(|one| one.name().to_owned()).collect());
        let (source, request_id) = (context.source, context.request_id.clone());
        Self { administrator, peer_uid, token, only, by_password, source, request_id }
    }
}

impl KeptContext {
    /// Whose request it was.
    pub fn identity(&self) -> Identity {
        match &self.administrator {
            None => Identity::System,
            Some((id, home, name)) => Identity::Administrator { id: *id, home: *home, name: name.clone() },
        }
    }

    /// The context.
    pub fn context(&self) -> Context {
        let names = |names: &Vec<String>| PermissionSet::named(names.iter().map(String::as_str));
        let authenticated = match self.token {
            Some(id) => Authenticated::Token { id, only: self.only.as_ref().map(names) },
            None if self.by_password => {
                Authenticated::Password { digest: 0, second_factor: SecondFactor::NotAsked }
            }
            None => Authenticated::Peer { uid: self.peer_uid.unwrap_or_default() },
        };
        Context {
            identity: self.identity(),
            authenticated,
            source: self.source,
            request_id: self.request_id.clone(),
            idempotency_key: None,
            on_behalf: None,
        }
    }
}
