//! The server itself: version, load, database.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::base::telemetry::process::process_use;
use crate::service::authority::Permission;
use crate::service::delivery::routes::takes_postmaster;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Method, Operate, Targeted, Tx};
use crate::storage::metadata::instance;

/// RFC 5321 section 4.5.1 wants a postmaster without a domain on every host that takes mail.
const NO_POSTMASTER: &str = "mail to postmaster without a domain is deferred (451), since nobody reads it: \
                             posthouse customer rename / --contact ADDRESS, a mailbox here";

/// The whole installation: it belongs to the root.
pub(in crate::service) struct Installation {
    root: CustomerId,
    label: String,
}

impl Installation {
    /// With a name for the audit trail.
    pub fn of(tx: &Tx<'_>, label: &str) -> Result<Self> {
        let root = tx.caller.tree.root().map(|root| root.id);
        let root = root.ok_or_else(|| ServiceError::Internal("the hierarchy has no root".to_owned()))?;
        Ok(Self { root, label: label.to_owned() })
    }
}

impl Targeted for Installation {
    fn customer(&self) -> CustomerId {
        self.root
    }

    fn label(&self) -> String {
        self.label.clone()
    }
}

/// The daemon brings its parts one after the other.
pub(in crate::service) fn starting() -> ServiceError {
    ServiceError::Unavailable("the daemon is starting".to_owned())
}

/// No fields.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct ServerShowRequest {}

/// The daemon that answers.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct ServerAnswer {
    version: String,
    /// Name of the node.
    node: String,
    /// How often it was started.
    epoch: i64,
    #[schema(value_type = String)]
    started_at: Timestamp,
    uptime_secs: i64,
    /// `sqlite` or `postgresql`.
    database: String,
    /// Size of the database in octets.
    database_octets: u64,
    /// Open mail sessions by service.
    sessions: BTreeMap<&'static str, usize>,
    /// Resident memory in octets.
    resident_octets: u64,
    /// Time on processors since the start.
    cpu_secs: f64,
    /// What an operator should see to.
    warnings: Vec<&'static str>,
}

/// `server.show`.
pub(in crate::service) struct ServerShow;

impl Operate for ServerShow {
    const NAME: &'static str = "server.show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/server";
    const PERMISSION: Permission = Permission::SystemServerRead;
    const MUTATES: bool = false;
    const SUMMARY: &'static str =
        "Version, start, database, sessions, memory and processor time of the daemon";
    type Request = ServerShowRequest;
    type Response = ServerAnswer;
    type Target = Installation;

    async fn target<'a>(tx: &'a mut Tx<'_>, _: &'a ServerShowRequest) -> Result<Installation> {
        Installation::of(tx, "server")
    }

    async fn run(tx: &mut Tx<'_>, _: Installation, _: ServerShowRequest) -> Result<ServerAnswer> {
        let bodies = tx.inner.bodies.get().ok_or_else(starting)?;
        let node = bodies.node();
        let started_at = instance::node_started_at(tx.conn, &node.id).await?.unwrap_or(tx.now);
        let mut sessions = BTreeMap::new();
        for session in tx.inner.login.get().map(|login| login.sessions()).unwrap_or_default() {
            *sessions.entry(session.service.name()).or_insert(0) += 1;
        }
        let used = process_use();
        let mut warnings = Vec::new();
        if !takes_postmaster(tx.conn).await? {
            warnings.push(NO_POSTMASTER);
        }
        Ok(ServerAnswer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: node.id.clone(),
            epoch: node.epoch,
            started_at,
            uptime_secs: tx.now.secs() - started_at.secs(),
            database: if tx.conn.is_postgres() { "postgresql" } else { "sqlite" }.to_owned(),
            database_octets: instance::database_octets(tx.conn).await?.0,
            sessions,
            resident_octets: used.resident_octets,
            cpu_secs: used.cpu.as_secs_f64(),
            warnings,
        })
    }
}
