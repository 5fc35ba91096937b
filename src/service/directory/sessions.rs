//! Running sessions of mailbox owners on this node.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::scope::Place;
use super::targets::{OneDomain, OneMailbox, absent};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::Tree;
use crate::service::error::{Result, ServiceError};
use crate::service::login::SessionInfo;
use crate::service::registry::{Operate, Targeted, Tx, declare};

/// Most sessions in one answer.
const SESSIONS_MAX: usize = 10_000;

/// Whose sessions.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct SessionListRequest {
    /// Only of this mailbox.
    address: Option<String>,
    /// Only in this domain.
    domain: Option<String>,
    /// Only of this customer and those below; default: everywhere the caller may.
    customer: Option<String>,
}

/// A session.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Session {
    /// Random id, to close it by.
    id: String,
    address: String,
    /// The administrator who is in the mailbox in its owner's place: `name@CODE`, or `provider` above the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    administrator: Option<String>,
    service: String,
    /// The client's address; `unix` for a Unix socket.
    source: String,
    #[schema(value_type = String)]
    started_at: Timestamp,
}

/// Sessions on this node, at most 10,000.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Sessions {
    items: Vec<Session>,
}

fn running(tx: &Tx<'_>) -> Vec<SessionInfo> {
    tx.inner.login.get().map(|login| login.sessions()).unwrap_or_default()
}

/// A mailbox, a domain, or a customer with all below.
pub(in crate::service) enum Whose {
    Mailbox(OneMailbox),
    Domain(OneDomain),
    Place(Place),
}

impl Targeted for Whose {
    fn customer(&self) -> CustomerId {
        match self {
            Self::Mailbox(one) => one.customer(),
            Self::Domain(one) => one.customer(),
            Self::Place(place) => place.customer(),
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Mailbox(one) => one.label(),
            Self::Domain(one) => one.label(),
            Self::Place(place) => place.label(),
        }
    }

    fn recorded(&self, tree: &Tree) -> String {
        match self {
            Self::Place(place) => place.recorded(tree),
            Self::Mailbox(_) | Self::Domain(_) => self.label(),
        }
    }
}

/// `session.list`.
pub(in crate::service) struct SessionList;

impl Operate for SessionList {
    declare! { "session.list", Get, "/v1/sessions", SessionRead, reads, "List who is logged in to mailboxes" }
    type Request = SessionListRequest;
    type Response = Sessions;
    type Target = Whose;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a SessionListRequest) -> Result<Whose> {
        match (&request.address, &request.domain) {
            (Some(address), _) => OneMailbox::find(tx, address).await.map(Whose::Mailbox),
            (None, Some(domain)) => {
                OneDomain::find(tx, domain, request.customer.as_deref()).await.map(Whose::Domain)
            }
            (None, None) => Place::find(tx, request.customer.as_deref(), Self::PERMISSION).map(Whose::Place),
        }
    }

    async fn run(tx: &mut Tx<'_>, target: Whose, _: SessionListRequest) -> Result<Sessions> {
        let is_wanted = |session: &SessionInfo| match &target {
            Whose::Mailbox(OneMailbox(row)) => session.mailbox == row.id,
            Whose::Domain(OneDomain(row)) => session.domain == row.id,
            Whose::Place(place) => place.includes(tx, session.customer),
        };
        let sessions = running(tx).into_iter().filter(is_wanted).take(SESSIONS_MAX);
        let told = |(home, name)| if tx.caller.sees(home) { name } else { "provider".to_owned() };
        let items = sessions.map(|session| Session {
            id: session.id,
            address: session.address,
            administrator: session.administrator.map(told),
            service: session.service.name().to_owned(),
            source: session.source.map_or_else(|| "unix".to_owned(), |address| address.to_string()),
            started_at: session.since,
        });
        Ok(Sessions { items: items.collect() })
    }
}

/// Which to close.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct SessionCloseRequest {
    /// All of this mailbox.
    address: Option<String>,
    /// Or the one with this id.
    id: Option<String>,
}

/// How many were closed.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Closed {
    closed: usize,
}

/// Sessions of one mailbox.
pub(in crate::service) struct Closing {
    customer: CustomerId,
    address: String,
    ids: Vec<String>,
}

impl Targeted for Closing {
    fn customer(&self) -> CustomerId {
        self.customer
    }

    fn label(&self) -> String {
        format!("sessions of {}", self.address)
    }
}

/// `session.close`.
pub(in crate::service) struct SessionClose;

impl Operate for SessionClose {
    declare! { "session.close", Post, "/v1/sessions/close", SessionClose, changes,
    "Close one session, or all of a mailbox, on this node" }
    type Request = SessionCloseRequest;
    type Response = Closed;
    type Target = Closing;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a SessionCloseRequest) -> Result<Closing> {
        match (&request.address, &request.id) {
            (Some(address), None) => {
                let OneMailbox(row) = OneMailbox::find(tx, address).await?;
                let sessions = running(tx).into_iter().filter(|session| session.mailbox == row.id);
                let ids = sessions.map(|session| session.id).collect();
                Ok(Closing { customer: row.customer, address: row.address(), ids })
            }
            (None, Some(id)) => {
                let found = running(tx).into_iter().find(|session| session.id == *id);
                let found = found.filter(|session| tx.caller.sees(session.customer));
                let session = found.ok_or_else(|| absent("session", id))?;
                Ok(Closing { customer: session.customer, address: session.address, ids: vec![session.id] })
            }
            _ => Err(ServiceError::Invalid {
                field: "address",
                message: "give either an address or an id".to_owned(),
            }),
        }
    }

    async fn run(tx: &mut Tx<'_>, target: Closing, _: SessionCloseRequest) -> Result<Closed> {
        if tx.dry_run {
            return Ok(Closed { closed: target.ids.len() });
        }
        let login = tx.inner.login.get();
        let closed = target.ids.iter().filter(|id| login.is_some_and(|login| login.session_close(id)));
        Ok(Closed { closed: closed.count() })
    }
}
