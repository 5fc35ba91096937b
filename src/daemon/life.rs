//! A daemon from its start to its end or to the hand-over to its successor.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::handover::{Predecessor, Program};
use super::listeners::Sockets;
use super::lock::DataLock;
use super::signals::Signals;
use super::{DaemonError, Rooms, background, build, last_catalogs, load_tls};
use crate::base::config::{self, Config};
use crate::base::telemetry::{self, LogHandle};
use crate::service::server::orders::{Order, Orders};
use crate::wire::listen::Shutdown;

/// What tasks may take to end beyond the time that sessions have.
const END_MARGIN: Duration = Duration::from_secs(5);

/// Starts everything, calls `started` when it serves, and ends on a signal, on an order, or when a successor serves.
pub(super) async fn run<F, S>(config: Config, file: Option<PathBuf>, started: F) -> Result<(), DaemonError>
where
    F: FnOnce(Arc<Rooms>) -> S,
    S: Future<Output = Result<(), DaemonError>>,
{
    let program = Program::of_this_process();
    let log = telemetry::start(&config.log).ok();
    // What the daemon writes is for its own user alone; sockets get their modes explicitly.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let signals = Signals::new()?;
    let predecessor = Predecessor::of_environment()?;
    let begun = begin(&config, predecessor.as_ref()).await;
    let (sockets, lock, served) = match (begun, predecessor) {
        (Ok(begun), predecessor) => {
            let (mut sockets, lock, served) = begun;
            if let Err(error) = started(Arc::clone(&served.rooms)).await {
                served.end(&config).await;
                return Err(error);
            }
            eprintln!("ready");
            sockets.own();
            let pid = predecessor.as_ref().map(|_| NotifyState::MainPid(std::process::id()));
            let _ = sd_notify::notify(&pid.into_iter().chain([NotifyState::Ready]).collect::<Vec<_>>());
            if let Some(predecessor) = predecessor {
                predecessor.serving().await;
            }
            (sockets, lock, served)
        }
        (Err(error), Some(predecessor)) => {
            predecessor.failed(&error).await;
            return Err(error);
        }
        (Err(error), None) => return Err(error),
    };
    let life = Life { config, file, log, program, signals, sockets };
    life.live(lock, served).await
}

/// Takes what a daemon needs, from its predecessor if it has one, and serves.
async fn begin(
    config: &Config,
    predecessor: Option<&Predecessor>,
) -> Result<(Sockets, DataLock, Served), DaemonError> {
    let (sockets, lock, rooms) = match predecessor {
        Some(predecessor) => {
            // What can be known to be wrong is found before the predecessor stops.
            load_tls(config)?;
            config.database.url.read()?;
            let sockets = Sockets::bind(config, predecessor.sockets().await?)?;
            predecessor.released().await?;
            let lock = DataLock::take(&config.data.dir)?;
            let rooms = build(config, &lock.node).await?;
            (sockets, lock, rooms)
        }
        None => {
            let lock = DataLock::take(&config.data.dir)?;
            let rooms = build(config, &lock.node).await?;
            (Sockets::bind(config, Vec::new())?, lock, rooms)
        }
    };
    sockets.publish(&config.data.dir)?;
    let served = Served::begin(config, rooms, &sockets)?;
    Ok((sockets, lock, served))
}

/// What serves, from the opening of the database to its closing.
struct Served {
    rooms: Arc<Rooms>,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Served {
    fn begin(config: &Config, rooms: Rooms, sockets: &Sockets) -> Result<Self, DaemonError> {
        let rooms = Arc::new(rooms);
        let (stop, shutdown) = Shutdown::new();
        let mut tasks = sockets.serve(config, &rooms, &shutdown)?;
        background(config, &rooms, &shutdown, &mut tasks);
        Ok(Self { rooms, stop, tasks })
    }

    fn orders(&self) -> Orders {
        let rooms = &self.rooms;
        Orders::new(rooms.database.clone(), rooms.clock.clone(), rooms.bodies.node().clone())
    }

    /// Accepts nobody any more, lets commands finish, and ends every task.
    async fn drain(&mut self, config: &Config) {
        let _ = self.stop.send(true);
        let drain = Duration::from_secs(u64::from(config.limits.drain_timeout_secs));
        let finished = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(drain + END_MARGIN, finished).await.is_err() {
            tracing::warn!("some tasks did not end in time and are cut off");
            self.tasks.shutdown().await;
        }
    }

    /// Closes the database, after everything that uses it has gone.
    async fn close(self) {
        let Ok(rooms) = Arc::try_unwrap(self.rooms) else {
            tracing::warn!("a room outlived its sessions");
            return;
        };
        let Rooms {
            database,
            management,
            delivery,
            login,
            mail_store,
            bodies,
            packer,
            offloader,
            meter,
            catalogs,
            sealer,
            ..
        } = rooms;
        login.flush().await;
        drop((delivery, login, mail_store, bodies, packer, offloader, meter, catalogs, sealer));
        management.close().await;
        database.close().await;
    }

    /// Ends for good.
    async fn end(mut self, config: &Config) {
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        tracing::info!("stopping: running commands are finished first");
        self.orders().entered("draining").await;
        self.drain(config).await;
        last_catalogs(&self.rooms.catalogs, &self.rooms.clock).await;
        self.orders().entered("stopped").await;
        self.close().await;
    }
}

/// What lasts as long as the process.
struct Life {
    config: Config,
    file: Option<PathBuf>,
    log: Option<LogHandle>,
    program: Program,
    signals: Signals,
    sockets: Sockets,
}

impl Life {
    /// Serves until a signal or an order says otherwise.
    async fn live(mut self, mut lock: DataLock, mut served: Served) -> Result<(), DaemonError> {
        loop {
            let orders = served.orders();
            let reload = || reload(&served.rooms, self.file.as_deref(), self.log.as_ref());
            let order = self.signals.wait(reload, orders.next()).await;
            drop(orders);
            if order != Some(Order::Restart) {
                served.end(&self.config).await;
                lock.give_up();
                return Ok(());
            }
            tracing::info!("a successor is started");
            let mut successor = match self.signals.during(self.program.start(&self.sockets)).await {
                Some(Ok(successor)) => successor,
                Some(Err(why)) => {
                    tracing::error!(why, "the restart did not come about");
                    served.orders().failed(&why).await;
                    continue;
                }
                None => {
                    served.end(&self.config).await;
                    lock.give_up();
                    return Ok(());
                }
            };
            tracing::info!("handing over: running commands are finished first");
            served.orders().entered("draining").await;
            served.drain(&self.config).await;
            served.close().await;
            drop(lock);
            match self.signals.during(successor.take_over()).await {
                Some(Ok(())) => {
                    self.sockets.leave();
                    tracing::info!("the successor serves");
                    return Ok(());
                }
                Some(Err(why)) => {
                    tracing::error!(why, "the successor did not take over; this process goes on");
                    lock = DataLock::take(&self.config.data.dir)?;
                    let rooms = build(&self.config, &lock.node).await?;
                    self.sockets.publish(&self.config.data.dir)?;
                    served = Served::begin(&self.config, rooms, &self.sockets)?;
                    served.orders().failed(&why).await;
                }
                None => {
                    successor.end().await;
                    return Ok(());
                }
            }
        }
    }
}

/// Reads certificates and log level again; mistakes leave what is in force.
fn reload(rooms: &Rooms, file: Option<&Path>, log: Option<&LogHandle>) {
    match rooms.tls.reload() {
        Ok(changed) => tracing::info!(changed, "certificates read again"),
        Err(error) => tracing::error!(%error, "the certificates in force stay"),
    }
    match (file.map(config::load), log) {
        (Some(Ok(config)), Some(log)) => log.reload(&config.log),
        (Some(Err(error)), _) => tracing::error!(%error, "the configuration in force stays"),
        _ => {}
    }
}
