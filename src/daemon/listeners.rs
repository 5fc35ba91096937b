//! Binds every configured listener, tells where they are, and serves each with its room.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::task::JoinSet;

use super::{DaemonError, Rooms};
use crate::admin::{
    self, Api,
    health::{Health, Looked, Probe},
};
use crate::base::config::Config;
use crate::base::endpoint::Endpoint;
use crate::base::telemetry::metrics::{Metrics, Protocol as Label};
use crate::base::tls::Tls;
use crate::imap::{self, ImapLimits, ImapServices};
use crate::mta;
use crate::pop3;
use crate::service::content_access::ContentAccess;
use crate::service::delivery::Delivery;
use crate::service::login::Login;
use crate::smtp;
use crate::storage::StorageError;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::instance;
use crate::storage::remote;
use crate::storage::volumes::Volumes;
use crate::wire::bind::Bound;
use crate::wire::listen::{ConnectionLimits, Gate, Listener, Shutdown, serve};

/// What a listener speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Protocol {
    Lmtp,
    Smtp,
    Imap,
    Imaps,
    Pop3,
    Pop3s,
    Socketmap,
    Sasl,
    Http,
    Admin,
}

impl Protocol {
    const ALL: [Self; 10] = [
        Self::Lmtp,
        Self::Smtp,
        Self::Imap,
        Self::Imaps,
        Self::Pop3,
        Self::Pop3s,
        Self::Socketmap,
        Self::Sasl,
        Self::Http,
        Self::Admin,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Lmtp => "lmtp",
            Self::Smtp => "smtp",
            Self::Imap => "imap",
            Self::Imaps => "imaps",
            Self::Pop3 => "pop3",
            Self::Pop3s => "pop3s",
            Self::Socketmap => "socketmap",
            Self::Sasl => "sasl",
            Self::Http => "http",
            Self::Admin => "admin",
        }
    }

    fn endpoints(self, config: &Config) -> Vec<Endpoint> {
        let endpoints = match self {
            Self::Lmtp => &config.listen.lmtp,
            Self::Smtp => &config.listen.smtp,
            Self::Imap => &config.listen.imap,
            Self::Imaps => &config.listen.imaps,
            Self::Pop3 => &config.listen.pop3,
            Self::Pop3s => &config.listen.pop3s,
            Self::Socketmap => &config.listen.socketmap,
            Self::Sasl => &config.listen.sasl,
            Self::Http => &config.listen.http,
            Self::Admin => {
                return vec![Endpoint::Unix { path: config.admin.socket.clone(), mode: admin::SOCKET_MODE }];
            }
        };
        endpoints.clone()
    }

    /// What a client beyond the limits is told.
    const fn busy_reply(self) -> &'static [u8] {
        match self {
            Self::Lmtp | Self::Smtp => smtp::BUSY_REPLY,
            Self::Imap | Self::Imaps => imap::BUSY_REPLY,
            Self::Pop3 | Self::Pop3s => pop3::BUSY_REPLY,
            // These two have no words for it; their client sees the connection close and tries again.
            Self::Socketmap | Self::Sasl => b"",
            Self::Http | Self::Admin => admin::BUSY_REPLY,
        }
    }

    /// Under which label its sessions are counted.
    const fn label(self) -> Label {
        match self {
            Self::Lmtp => Label::Lmtp,
            Self::Smtp => Label::Smtp,
            Self::Imap | Self::Imaps => Label::Imap,
            Self::Pop3 | Self::Pop3s => Label::Pop3,
            Self::Socketmap => Label::Socketmap,
            Self::Sasl => Label::Sasl,
            Self::Http => Label::Http,
            Self::Admin => Label::Admin,
        }
    }
}

/// A socket from the process that hands over.
pub(super) struct Inherited {
    /// What it spoke.
    pub(super) protocol: String,
    /// Where it was configured to listen.
    pub(super) configured: String,
    /// Where it listens.
    pub(super) bound: String,
    /// The socket.
    pub(super) socket: OwnedFd,
}

struct Socket {
    protocol: Protocol,
    /// Where it is configured to listen: with port 0 that is not where it does.
    configured: Endpoint,
    bound: Bound,
}

/// All bound sockets; they last as long as the process, whoever accepts on them.
pub(super) struct Sockets {
    sockets: Vec<Socket>,
    /// Files of Unix sockets that were handed over and are not configured any more.
    unwanted: Vec<PathBuf>,
}

impl Sockets {
    /// Takes over what is inherited and still configured, and binds the rest, or tells everything that is in the way.
    pub(super) fn bind(config: &Config, mut inherited: Vec<Inherited>) -> Result<Self, DaemonError> {
        let mut sockets = Vec::new();
        let mut mistakes = Vec::new();
        for protocol in Protocol::ALL {
            for configured in protocol.endpoints(config) {
                let wanted = configured.to_string();
                let found = inherited
                    .iter()
                    .position(|one| one.protocol == protocol.name() && one.configured == wanted);
                let bound = match found.map(|index| inherited.remove(index)) {
                    Some(one) => take_over(one, &configured),
                    None => Bound::bind(&configured),
                };
                match bound {
                    Ok(bound) => sockets.push(Socket { protocol, configured, bound }),
                    Err(error) => mistakes.push(mistake(protocol, &configured, &error)),
                }
            }
        }
        let file = |one: Inherited| match one.bound.parse() {
            Ok(Endpoint::Unix { path, .. }) => Some(path),
            _ => None,
        };
        let unwanted = inherited.into_iter().filter_map(file).collect();
        if mistakes.is_empty() { Ok(Self { sockets, unwanted }) } else { Err(DaemonError::Listen(mistakes)) }
    }

    /// What a successor is told of each socket (protocol, where it was configured to listen, where it does), and the
    /// socket.
    pub(super) fn passed(&self) -> impl Iterator<Item = ((&'static str, String, String), BorrowedFd<'_>)> {
        self.sockets.iter().map(|socket| {
            let places = (socket.configured.to_string(), socket.bound.endpoint().to_string());
            ((socket.protocol.name(), places.0, places.1), socket.bound.socket())
        })
    }

    /// From now on the files of Unix sockets go with this process; those that nobody wants go now.
    pub(super) fn own(&mut self) {
        self.sockets.iter_mut().for_each(|socket| socket.bound.own());
        for path in self.unwanted.drain(..) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// From now on they are the successor's.
    pub(super) fn leave(&mut self) {
        self.sockets.iter_mut().for_each(|socket| socket.bound.leave());
    }

    /// Writes `listeners.json` into the data directory: for each protocol, where it listens.
    pub(super) fn publish(&self, dir: &Path) -> Result<(), DaemonError> {
        let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for Socket { protocol, bound, .. } in &self.sockets {
            places.entry(protocol.name()).or_default().push(bound.endpoint().to_string());
        }
        let text = serde_json::to_vec_pretty(&places).unwrap_or_default();
        let path = dir.join("listeners.json");
        std::fs::write(&path, text)
            .map_err(|error| DaemonError::Io { what: format!("cannot write {}", path.display()), error })
    }

    /// Serves all; each task ends on shutdown after its sessions.
    pub(super) fn serve(
        &self,
        config: &Config,
        rooms: &Arc<Rooms>,
        shutdown: &Shutdown,
    ) -> Result<JoinSet<()>, DaemonError> {
        let mut tasks = JoinSet::new();
        let limits = ConnectionLimits {
            connections_max: config.limits.connections_max as usize,
            connections_per_address_max: config.limits.connections_per_address_max as usize,
        };
        let drain = Duration::from_secs(u64::from(config.limits.drain_timeout_secs));
        let mut gates: BTreeMap<Protocol, Arc<Gate>> = BTreeMap::new();
        let servers = Servers::new(config, rooms);
        for &Socket { protocol, ref bound, .. } in &self.sockets {
            let listener = bound.listener().map_err(|error| {
                let what = format!("cannot accept connections on {}", bound.endpoint());
                DaemonError::Io { what, error }
            })?;
            let gate = gates.entry(protocol).or_insert_with(|| {
                Gate::new(limits, config.listen.proxy_networks.clone(), protocol.busy_reply())
            });
            let (shutdown, metrics) = (shutdown.clone(), rooms.metrics.clone());
            let gate = Arc::clone(gate);
            let door = Door { listener, gate, shutdown, drain, metrics, label: protocol.label() };
            servers.open(protocol, door, &mut tasks);
        }
        Ok(tasks)
    }
}

/// A listener with all it needs to accept.
struct Door {
    listener: Listener,
    gate: Arc<Gate>,
    shutdown: Shutdown,
    drain: Duration,
    metrics: Metrics,
    label: Label,
}

impl Door {
    async fn serve<F, S>(self, implicit_tls: Option<Arc<ServerConfig>>, session: F)
    where
        F: Fn(crate::wire::stream::Connection, Shutdown) -> S + Clone + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let (metrics, label) = (self.metrics, self.label);
        let counted = move |connection, shutdown| {
            let (open, session) = (metrics.session(label), session.clone());
            // Made inside: a future that is moved in and awaited is held twice.
            async move {
                session(connection, shutdown).await;
                drop(open);
            }
        };
        serve(self.listener, self.gate, implicit_tls, self.shutdown, self.drain, counted).await;
    }
}

/// What the sessions of each protocol share.
struct Servers {
    smtp: Arc<smtp::Server<Delivery>>,
    imap: Arc<ImapServices>,
    pop3: Arc<pop3::Server<pop3::Mailboxes>>,
    delivery: Arc<Delivery>,
    login: Arc<Login>,
    login_timeout: Duration,
    tls: Tls,
    api: Api,
    health: Health,
}

impl Servers {
    fn new(config: &Config, rooms: &Rooms) -> Self {
        let login_timeout = Duration::from_secs(u64::from(config.limits.login_timeout_secs));
        let limits = smtp::Limits {
            recipients_max: config.limits.recipients_max as usize,
            message_octets_max: config.limits.message_octets_max,
            greeting_timeout: login_timeout,
            command_timeout: Duration::from_secs(u64::from(config.limits.smtp_timeout_secs)),
            ..smtp::Limits::default()
        };
        let name = config.server.name.clone();
        let smtp = smtp::Server::new(rooms.delivery.clone(), name, Some(rooms.tls.clone()), limits);
        let (delivery, login) = (Arc::new(rooms.delivery.clone()), Arc::new(rooms.login.clone()));
        let limits = ImapLimits {
            message_octets_max: config.limits.message_octets_max,
            login_timeout,
            inactivity_timeout: Duration::from_secs(u64::from(config.limits.imap_timeout_secs)),
            ..ImapLimits::default()
        };
        let mail = rooms.mail_store.clone();
        let logins = (rooms.login.clone(), ContentAccess::new(&rooms.management));
        let imap = ImapServices::new(logins, mail, Some(rooms.tls.clone()), limits);
        let mailboxes = pop3::Mailboxes::new(rooms.login.clone(), rooms.mail_store.clone());
        let limits = pop3::Limits {
            login_timeout,
            idle_timeout: Duration::from_secs(u64::from(config.limits.pop3_timeout_secs)),
            ..pop3::Limits::default()
        };
        let pop3 = pop3::Server::new(mailboxes, Some(rooms.tls.clone()), limits);
        let api = Api::new(rooms.management.clone(), rooms.metrics.clone(), login_timeout);
        let health = Health::new(
            rooms.metrics.clone(),
            probe(rooms.database.clone(), rooms.bodies.volumes().clone()),
            login_timeout,
        );
        Self { smtp, imap, pop3, delivery, login, login_timeout, tls: rooms.tls.clone(), api, health }
    }

    fn open(&self, protocol: Protocol, door: Door, tasks: &mut JoinSet<()>) {
        match protocol {
            Protocol::Lmtp | Protocol::Smtp => {
                let dialect =
                    if protocol == Protocol::Lmtp { smtp::Dialect::Lmtp } else { smtp::Dialect::Smtp };
                let server = Arc::clone(&self.smtp);
                tasks.spawn(door.serve(None, move |connection, shutdown| {
                    smtp::session(Arc::clone(&server), dialect, connection, shutdown)
                }));
            }
            Protocol::Imap | Protocol::Imaps => {
                let implicit_tls = (protocol == Protocol::Imaps).then(|| self.tls.server_config());
                let services = Arc::clone(&self.imap);
                tasks.spawn(door.serve(implicit_tls, move |connection, shutdown| {
                    imap::serve(connection, shutdown, Arc::clone(&services))
                }));
            }
            Protocol::Pop3 | Protocol::Pop3s => {
                let implicit_tls = (protocol == Protocol::Pop3s).then(|| self.tls.server_config());
                let server = Arc::clone(&self.pop3);
                tasks.spawn(door.serve(implicit_tls, move |connection, shutdown| {
                    pop3::session(Arc::clone(&server), connection, shutdown)
                }));
            }
            Protocol::Socketmap => {
                let (directory, first) = (Arc::clone(&self.delivery), self.login_timeout);
                tasks.spawn(door.serve(None, move |connection, shutdown| {
                    mta::socketmap::session(Arc::clone(&directory), first, connection, shutdown)
                }));
            }
            Protocol::Sasl => {
                let (login, first) = (Arc::clone(&self.login), self.login_timeout);
                tasks.spawn(door.serve(None, move |connection, shutdown| {
                    mta::sasl::session(Arc::clone(&login), first, connection, shutdown)
                }));
            }
            Protocol::Http => {
                let health = self.health.clone();
                let session = move |connection, shutdown| health.clone().session(connection, shutdown);
                tasks.spawn(door.serve(None, session));
            }
            Protocol::Admin => {
                let api = self.api.clone();
                let session = move |connection, shutdown| api.clone().session(connection, shutdown);
                tasks.spawn(door.serve(None, session));
            }
        }
    }
}

/// Looks at the database and the mail stores on behalf of the monitoring.
fn probe(database: Database, volumes: Volumes) -> Probe {
    Arc::new(move || {
        let (database, volumes) = (database.clone(), volumes.clone());
        Box::pin(async move {
            let levels = database.read(|conn| Box::pin(instance::storage_levels(conn))).await;
            let levels = levels.map_err(|error: StorageError| {
                tracing::warn!(%error, "not ready");
                "the database does not answer".to_owned()
            })?;
            let all = volumes.all().await.unwrap_or_default();
            let mut troubles: Vec<String> = Vec::new();
            for volume in all {
                if volume.trouble().is_some() {
                    troubles.push(format!("mail store {} is not mounted", volume.name));
                } else if volume.state.is_readable()
                    && volume.remote().is_ok_and(|remote| remote.health() != remote::Health::Good)
                {
                    troubles.push(format!("object storage of mail store {} does not answer", volume.name));
                }
            }
            Ok(Looked { levels, troubles })
        })
    })
}

/// The socket that a predecessor hands over, with the permissions that are configured now.
fn take_over(one: Inherited, configured: &Endpoint) -> io::Result<Bound> {
    let endpoint = match configured {
        Endpoint::Unix { .. } => configured.clone(),
        Endpoint::Tcp(_) => one.bound.parse().map_err(io::Error::other)?,
    };
    Bound::inherited(one.socket, endpoint)
}

fn mistake(protocol: Protocol, endpoint: &Endpoint, error: &io::Error) -> String {
    let name = protocol.name();
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => " (another program listens there; change listen in the configuration)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need the capability CAP_NET_BIND_SERVICE)",
        _ => "",
    };
    format!("  {name} on {endpoint}: {error}{hint}")
}
