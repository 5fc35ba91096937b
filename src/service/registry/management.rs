//! The handle through which the admin room and the tests run operations.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::task::JoinHandle;

use crate::base::clock::Clock;
use crate::service::audit::{ReadTrail, Sealer};
use crate::service::authority::Authority;
use crate::service::backup::BackupSetup;
use crate::service::directory::domain_proof::Lookups;
use crate::service::error::ServiceError;
use crate::service::jobs::Queue;
use crate::service::login::Login;
use crate::service::metering::OpenMonth;
use crate::service::server::meter::Meter;
use crate::service::webhooks::Webhooks;
use crate::storage::bodies::Bodies;
use crate::storage::catalogs::Catalogs;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::{customer, instance};
use crate::storage::offload::Offloader;
use crate::storage::packer::Packer;

/// The name of the secret that seals cursors.
const CURSOR_KEY: &str = "cursor_key";

/// What management needs to know of the configuration.
#[derive(Clone, Debug, Default)]
pub struct ManagementOptions {
    /// Uids that are system administrators over the socket: root and the daemon's own, unless configured otherwise.
    pub system_uids: Vec<u32>,
    /// Other uids, and the administrator each stands for, as `name@CODE`.
    pub administrator_uids: Vec<(u32, String)>,
    /// Deepest hierarchy in levels; 0 means the default of 64.
    pub hierarchy_depth_max: usize,
    /// The server's name in the records that domains should have.
    pub host_name: String,
    /// Whom to ask for the proof of domains; nothing for the system's resolvers.
    pub resolver: Option<SocketAddr>,
}

/// Runs management operations; cheap to clone.
#[derive(Clone)]
pub struct Management {
    pub(in crate::service) inner: Arc<Inner>,
}

pub(in crate::service) struct Inner {
    pub(in crate::service) database: Database,
    pub(in crate::service) clock: Clock,
    pub(in crate::service) options: ManagementOptions,
    pub(in crate::service) authority: Authority,
    /// Seals the cursors of lists; the same on all nodes.
    pub(in crate::service) cursor_key: [u8; 32],
    pub(in crate::service) reads: ReadTrail,
    /// Looks for the proof of domains.
    pub(in crate::service) lookups: Lookups,
    /// Tells the runner of new jobs.
    pub(in crate::service) jobs: Queue,
    /// What is settled of what was used this month.
    pub(in crate::service) open_month: OpenMonth,
    read_writer: Mutex<Option<JoinHandle<()>>>,
    /// The running sessions of mailbox owners, once the daemon has brought them.
    pub(in crate::service) login: OnceLock<Login>,
    /// Where packs are, once the daemon has brought it.
    pub(in crate::service) bodies: OnceLock<Bodies>,
    /// What packs bodies, once the daemon has brought it.
    pub(in crate::service) packer: OnceLock<Arc<Packer>>,
    /// What measures this node, once the daemon has brought it.
    pub(in crate::service) meter: OnceLock<Arc<Meter>>,
    /// What offloads and compacts packs, once the daemon has brought it.
    pub(in crate::service) offloader: OnceLock<Arc<Offloader>>,
    /// What backups need to know, once the daemon has brought it.
    pub(in crate::service) backup: OnceLock<BackupSetup>,
    /// What writes catalogs, once the daemon has brought it.
    pub(in crate::service) catalogs: OnceLock<Arc<Catalogs>>,
    /// What seals the audit trail, once the daemon has brought it.
    pub(in crate::service) sealer: OnceLock<Arc<Sealer>>,
    /// What sends events to other systems, once the daemon has brought it.
    pub(in crate::service) webhooks: OnceLock<Arc<Webhooks>>,
}

impl Management {
    /// Management on this database. A fresh database gets its root customer.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open(
        database: Database,
        clock: Clock,
        options: ManagementOptions,
    ) -> Result<Self, ServiceError> {
        let now = clock.now();
        let cursor_key = database
            .write(Priority::Interactive, move |conn| {
                Box::pin(async move {
                    customer::ensure_root(conn, now).await?;
                    instance::secret(conn, CURSOR_KEY).await.map_err(ServiceError::from)
                })
            })
            .await?;
        let (reads, writer) = ReadTrail::start(database.clone());
        let inner = Inner {
            database,
            clock,
            lookups: Lookups::new(options.resolver, &cursor_key),
            options,
            authority: Authority::default(),
            cursor_key,
            reads,
            jobs: Queue::default(),
            open_month: OpenMonth::default(),
            read_writer: Mutex::new(Some(writer)),
            login: OnceLock::new(),
            bodies: OnceLock::new(),
            packer: OnceLock::new(),
            meter: OnceLock::new(),
            offloader: OnceLock::new(),
            backup: OnceLock::new(),
            catalogs: OnceLock::new(),
            sealer: OnceLock::new(),
            webhooks: OnceLock::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings the sessions of mailbox owners, so that they can be listed and closed. The first call counts.
    pub fn attach_login(&self, login: Login) {
        let _ = self.inner.login.set(login);
    }

    /// Brings what knows where packs are, so that backups can be taken. The first call counts.
    pub fn attach_bodies(&self, bodies: Bodies) {
        let _ = self.inner.bodies.set(bodies);
    }

    /// Brings what packs bodies, so that packing can be asked for. The first call counts.
    pub fn attach_packer(&self, packer: Arc<Packer>) {
        let _ = self.inner.packer.set(packer);
    }

    /// Brings what measures this node, so that it can be seen. The first call counts.
    pub fn attach_meter(&self, meter: Arc<Meter>) {
        let _ = self.inner.meter.set(meter);
    }

    /// Brings what offloads and compacts packs, so that both can be asked for. The first call counts.
    pub fn attach_offloader(&self, offloader: Arc<Offloader>) {
        let _ = self.inner.offloader.set(offloader);
    }

    /// Brings what backups need to know. The first call counts.
    pub fn attach_backup(&self, setup: BackupSetup) {
        let _ = self.inner.backup.set(setup);
    }

    /// Brings what writes catalogs, so that they can be asked for. The first call counts.
    pub fn attach_catalogs(&self, catalogs: Arc<Catalogs>) {
        let _ = self.inner.catalogs.set(catalogs);
    }

    /// Brings what seals the audit trail, so that it can be verified. The first call counts.
    pub fn attach_sealer(&self, sealer: Arc<Sealer>) {
        let _ = self.inner.sealer.set(sealer);
    }

    /// Brings what sends events to other systems. The first call counts.
    pub fn attach_webhooks(&self, webhooks: Arc<Webhooks>) {
        let _ = self.inner.webhooks.set(webhooks);
    }

    /// Lets records that wait be written, when this is the last handle.
    pub async fn close(self) {
        let Some(inner) = Arc::into_inner(self.inner) else { return };
        let writer = inner.read_writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(inner);
        if let Some(writer) = writer {
            let _ = writer.await;
        }
    }
}
