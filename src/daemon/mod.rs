//! The roof: builds the rooms, binds listeners, drains on shutdown. The only file that sees all rooms.
//!
//! Order of a start: data directory locked, database opened, rooms built, every listener bound (or none is served),
//! then `ready`. Order of an end: nobody accepts any more, sessions finish their command, the database's queues run
//! empty, the lock goes. `handover.rs` says how a successor is let in between.

mod demo;
mod handover;
mod life;
mod listeners;
mod lock;
mod quickstart;
mod rebuild;
mod restore;
mod signals;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;
use tokio::task::JoinSet;

use crate::base::clock::Clock;
use crate::base::config::{Config, ConfigError};
use crate::base::post::Poster;
use crate::base::secret::SecretError;
use crate::base::signing::SigningKey;
use crate::base::telemetry::metrics::Metrics;
use crate::base::tls::{Tls, TlsError, self_signed_create};
use crate::service::audit::{Indexer, Sealer};
use crate::service::backup::{BackupSetup, Schedule};
use crate::service::delivery::{Delivery, DeliverySettings};
use crate::service::directory::domain_checks::DomainChecks;
use crate::service::error::ServiceError;
use crate::service::expiry::ExpiryPass;
use crate::service::housekeeping::{Housekeeping, Kept};
use crate::service::jobs::Runner;
use crate::service::login::Login;
use crate::service::mailstore::intake::Intake;
use crate::service::mailstore::{MailStore, MailStoreLimits};
use crate::service::metering::Metering;
use crate::service::moves::Rehoming;
use crate::service::notices::Sender;
use crate::service::quota::QuotaWatch;
use crate::service::registry::{Management, ManagementOptions};
use crate::service::requests::RequestPass;
use crate::service::server::meter::Meter;
use crate::service::spending::SpendingPass;
use crate::service::webhooks::Webhooks;
use crate::storage::StorageError;
use crate::storage::backup::BackupError;
use crate::storage::bodies::Bodies;
use crate::storage::catalogs::Catalogs;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::instance::{self, StoreSetup};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::node;
use crate::storage::metadata::pack::Node;
use crate::storage::offload::Offloader;
use crate::storage::pack::{Codec, LEVEL_DEFAULT};
use crate::storage::packer::{Packer, PackerSettings};
use crate::storage::volumes::Volumes;
use crate::wire::listen::Shutdown;
use life::run;
pub use quickstart::quickstart;
pub use rebuild::{RebuildRequest, rebuild};
pub use restore::{Restoring, restore};

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A file or directory.
    #[error("{what}: {error}")]
    Io {
        /// What was being done, with the name.
        what: String,
        /// The system's error.
        error: std::io::Error,
    },
    /// Another daemon runs on this data directory.
    #[error("another posthouse is running on {}; stop it first, or give this one a data.dir of its own", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A rebuild of the database was not finished.
    #[error(
        "a rebuild of the database of {} was not finished; remove it and run posthouse store rebuild again",
        dir.display()
    )]
    Unfinished {
        /// The data directory.
        dir: PathBuf,
    },
    /// Listeners that could not be bound, each with its reason.
    #[error("cannot listen:\n{}", .0.join("\n"))]
    Listen(Vec<String>),
    /// The certificate.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// The database or a store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(ConfigError),
    /// The database's URL could not be read.
    #[error("database.url: {0}")]
    Secret(#[from] SecretError),
    /// A hand-over that did not come about.
    #[error("cannot take over: {0}")]
    TakeOver(String),
    /// A backup cannot be used.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// What was asked for cannot be done as things are.
    #[error("{0}")]
    Refused(String),
    /// Something that a service refused while the daemon was being set up.
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// How often certificate files are looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(60);

/// At the end, catalogs are written for so long at most.
const LAST_CATALOGS_MAX: Duration = Duration::from_secs(10);

/// A running daemon's rooms.
struct Rooms {
    database: Database,
    management: Management,
    delivery: Delivery,
    login: Login,
    mail_store: MailStore,
    bodies: Bodies,
    packer: Arc<Packer>,
    meter: Arc<Meter>,
    offloader: Arc<Offloader>,
    catalogs: Arc<Catalogs>,
    sealer: Arc<Sealer>,
    webhooks: Arc<Webhooks>,
    clock: Clock,
    metrics: Metrics,
    tls: Tls,
}

/// Serves until SIGTERM or SIGINT. `file` is what `config` was read from: SIGHUP reads the log level from it again.
///
/// # Errors
/// When it cannot start; see [`DaemonError`].
pub fn serve(config: Config, file: Option<PathBuf>) -> Result<(), DaemonError> {
    runtime()?.block_on(run(config, file, |_| async { Ok(()) }))
}

fn runtime() -> Result<tokio::runtime::Runtime, DaemonError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.enable_all().thread_name("posthouse").build();
    runtime.map_err(|error| DaemonError::Io { what: "cannot start threads".to_owned(), error })
}

async fn build(config: &Config, node: &str) -> Result<Rooms, DaemonError> {
    let clock = Clock::system();
    let tls = load_tls(config)?;
    let url = config.database.url.read()?;
    let metrics = Metrics::new();
    let database = Database::open_measured(url.expose_secret(), metrics.clone()).await?;
    rebuild::check_finished(&database, &config.data.dir).await?;
    let now = clock.now();
    let stores: Vec<StoreSetup> = config.stores.iter().map(store_setup).collect();
    let (node, this_node) = (node.to_owned(), node.to_owned());
    let setup = database.write(Priority::Interactive, move |conn| {
        let (stores, node) = (stores.clone(), this_node.clone());
        Box::pin(async move {
            instance::ensure_stores(conn, &stores, now).await?;
            let epoch = instance::node_start(conn, &node, now).await?;
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            node::describe(conn, &node, &host, env!("CARGO_PKG_VERSION"), std::process::id()).await?;
            Ok((epoch, instance::identity(conn).await?))
        })
    });
    let begun: Result<(i64, String), StorageError> = setup.await;
    let (epoch, identity) = begun?;
    tracing::info!(epoch, "database opened");
    let options = ManagementOptions {
        system_uids: system_uids(config),
        administrator_uids: config
            .admin
            .administrators
            .iter()
            .map(|(uid, name)| (*uid, name.clone()))
            .collect(),
        hierarchy_depth_max: config.limits.hierarchy_depth_max as usize,
        host_name: config.server.name.clone(),
        resolver: config.dns.resolver,
    };
    let codec = delivery_codec(config);
    let volumes = Volumes::new(database.clone(), PathBuf::new(), metrics.clone());
    volumes.own(identity, &config.data.dir);
    volumes.inspect().await?;
    let bodies = Bodies::new(volumes, codec, Node { id: node, epoch });
    let packer = Arc::new(Packer::new(bodies.clone(), PackerSettings::default()));
    let offloader = Arc::new(Offloader::new(bodies.clone()));
    let login = Login::new(database.clone(), clock.clone());
    let management = Management::open(database.clone(), clock.clone(), options).await?;
    management.attach_login(login.clone());
    management.attach_bodies(bodies.clone());
    management.attach_packer(Arc::clone(&packer));
    let meter = Meter::new(database.clone(), bodies.clone(), metrics.clone(), clock.clone());
    let meter = Arc::new(meter);
    management.attach_meter(Arc::clone(&meter));
    management.attach_offloader(Arc::clone(&offloader));
    let catalogs = Arc::new(Catalogs::new(bodies.clone()));
    management.attach_catalogs(Arc::clone(&catalogs));
    let scratch = config.data.dir.join("scratch");
    // Nobody else writes there while the data directory is locked.
    std::fs::remove_dir_all(&scratch).ok();
    let settings = config.backup.clone();
    management.attach_backup(BackupSetup { settings, scratch, metrics: metrics.clone() });
    let sealer = Arc::new(sealer(config, &database, &clock)?);
    management.attach_sealer(Arc::clone(&sealer));
    let poster = Poster::new(config.webhooks.allow_networks.clone());
    let webhooks = Arc::new(Webhooks::new(poster, bodies.node().id.clone()));
    management.attach_webhooks(Arc::clone(&webhooks));
    let intake = Intake::new(bodies.clone());
    let settings = DeliverySettings {
        host_name: config.server.name.clone(),
        message_octets_max: config.limits.message_octets_max,
    };
    let delivery = Delivery::new(database.clone(), clock.clone(), intake, metrics.clone(), settings);
    let limits = MailStoreLimits {
        message_octets_max: config.limits.message_octets_max,
        undelete_days: config.retention.undelete_days,
    };
    let mail_store = MailStore::new(database.clone(), clock.clone(), bodies.clone(), limits);
    Ok(Rooms {
        database,
        management,
        delivery,
        login,
        mail_store,
        bodies,
        packer,
        catalogs,
        meter,
        offloader,
        sealer,
        webhooks,
        clock,
        metrics,
        tls,
    })
}

/// The audit trail is signed with a key of the node's own, beside its data.
fn sealer(config: &Config, database: &Database, clock: &Clock) -> Result<Sealer, DaemonError> {
    let path = config.data.dir.join("audit-signing.key");
    let key = SigningKey::open_or_create(&path)
        .map_err(|error| DaemonError::Io { what: path.display().to_string(), error })?;
    Ok(Sealer::new(database.clone(), clock.clone(), key, config.audit.roots.clone()))
}

/// What runs beside the listeners until the daemon stops.
fn background(config: &Config, rooms: &Rooms, shutdown: &Shutdown, tasks: &mut JoinSet<()>) {
    let until = |shutdown: Shutdown, work: BoxFuture<'static, ()>| async move {
        tokio::select! {
            () = shutdown.requested() => {}
            () = work => {}
        }
    };
    let (login, tls) = (rooms.login.clone(), rooms.tls.clone());
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { login.run().await })));
    tasks.spawn(until(shutdown.clone(), Box::pin(certificates(tls))));
    let bodies = rooms.bodies.clone();
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { bodies.attend().await })));
    let offloader = Arc::clone(&rooms.offloader);
    tasks.spawn(until(shutdown.clone(), Box::pin(offloader.run(rooms.clock.clone()))));
    let packer = Arc::clone(&rooms.packer);
    tasks.spawn(until(shutdown.clone(), Box::pin(packer.run(rooms.clock.clone()))));
    let meter = Arc::clone(&rooms.meter);
    tasks.spawn(until(shutdown.clone(), Box::pin(meter.run())));
    let catalogs = Arc::clone(&rooms.catalogs);
    tasks.spawn(until(shutdown.clone(), Box::pin(catalogs.run(rooms.clock.clone()))));
    let (bodies, packer) = (rooms.bodies.clone(), Arc::clone(&rooms.packer));
    let rehoming = Rehoming::new(rooms.database.clone(), bodies, packer, rooms.clock.clone());
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { rehoming.run().await })));
    let notices = Sender::new(&rooms.management, rooms.delivery.clone());
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { notices.run().await })));
    let (expiry, requests) = (ExpiryPass::new(&rooms.management), RequestPass::new(&rooms.management));
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { expiry.run().await })));
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { requests.run().await })));
    let sealer = Arc::clone(&rooms.sealer);
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { sealer.run().await })));
    let (webhooks, management) = (Arc::clone(&rooms.webhooks), rooms.management.clone());
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { webhooks.run(management).await })));
    let indexer = Indexer::new(rooms.database.clone());
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { indexer.run().await })));
    let runner = Runner::new(&rooms.management, rooms.bodies.node().clone());
    let ended = shutdown.clone();
    tasks.spawn(async move { runner.run(ended.requested()).await });
    let metering = Metering::new(&rooms.management);
    tasks.spawn(until(shutdown.clone(), Box::pin(metering.run())));
    let spending = SpendingPass::new(&rooms.management);
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { spending.run().await })));
    let watch = QuotaWatch::new(&rooms.management);
    tasks.spawn(until(shutdown.clone(), Box::pin(watch.run())));
    let schedule = Schedule::new(&rooms.management);
    tasks.spawn(until(shutdown.clone(), Box::pin(schedule.run())));
    let checks = DomainChecks::new(&rooms.management);
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { checks.run().await })));
    let kept =
        Kept { trace_days: config.retention.trace_days, undelete_days: config.retention.undelete_days };
    let node = rooms.bodies.node().id.clone();
    let (database, mail_store) = (rooms.database.clone(), rooms.mail_store.clone());
    let housekeeping = Housekeeping::new(database, mail_store, rooms.clock.clone(), node, kept);
    tasks.spawn(until(shutdown.clone(), Box::pin(async move { housekeeping.run().await })));
}

/// Brings the catalogs up to date once more, as far as there is time: the next start goes on.
async fn last_catalogs(catalogs: &Catalogs, clock: &Clock) {
    match tokio::time::timeout(LAST_CATALOGS_MAX, catalogs.write_all(clock.now())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the catalogs are not up to date"),
        Err(_) => tracing::warn!("there was no time to bring the catalogs up to date"),
    }
}

/// Takes new certificates when their files change.
async fn certificates(tls: Tls) {
    loop {
        tokio::time::sleep(CERTIFICATE_INTERVAL).await;
        match tls.reload() {
            Ok(true) => tracing::info!("certificates have changed and were read again"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the certificates in force stay"),
        }
    }
}

/// What compresses bodies as they arrive; stores that want more get it when they are packed.
fn delivery_codec(config: &Config) -> Codec {
    let level = config.stores.iter().map(|store| store.settings.compression.level.cast_signed()).min();
    let dictionary = config.stores.iter().all(|store| store.settings.compression.dictionary);
    Codec::new(level.unwrap_or(LEVEL_DEFAULT).min(LEVEL_DEFAULT)).with_dictionary(dictionary)
}

fn store_setup(store: &crate::base::config::Store) -> StoreSetup {
    StoreSetup {
        name: store.name.clone(),
        path: store.path.display().to_string(),
        settings: store.settings.clone(),
        fixed: store.fixed.clone(),
    }
}

fn load_tls(config: &Config) -> Result<Tls, DaemonError> {
    if config.tls.is_self_signed
        && let Some(files) = config.tls.certificates.first()
    {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        if !names.contains(&config.server.name) {
            names.push(config.server.name.clone());
        }
        self_signed_create(files, &names)?;
    }
    Ok(Tls::load(config.tls.certificates.clone())?)
}

/// root and the daemon's own uid, unless the configuration maps them to an administrator.
fn system_uids(config: &Config) -> Vec<u32> {
    let own = rustix::process::geteuid().as_raw();
    [0, own].into_iter().filter(|uid| !config.admin.administrators.contains_key(uid)).collect()
}
