//! Measures what this node uses, and keeps a sample of it every minute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::clock::{Clock, Timestamp};
use crate::base::telemetry::metrics::{Metrics, Protocol};
use crate::base::telemetry::process::process_use;
use crate::storage::bodies::Bodies;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::node::{self, Disk, Sample};
use crate::storage::metadata::sql::Conn;
use crate::storage::metadata::{instance, store};
use crate::storage::{Result, StorageError};

/// Time between samples: the grain of the history.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(60);
/// A shorter time says nothing about the use of processors, which is told in hundredths of a second.
const CPU_SPAN_MIN: Duration = Duration::from_secs(1);
/// The key under which the disk of an SQLite database stands beside those of mail stores.
pub(super) const DATABASE_DISK: i64 = 0;

/// Measures this node.
pub struct Meter {
    database: Database,
    bodies: Bodies,
    metrics: Metrics,
    clock: Clock,
    mark: Mutex<Mark>,
}

/// Since when the use of processors is measured.
struct Mark {
    at: Timestamp,
    cpu: Duration,
    /// What it was before.
    permille: i64,
}

impl Meter {
    /// For the node of `bodies`, whose connections are counted in `metrics`.
    pub fn new(database: Database, bodies: Bodies, metrics: Metrics, clock: Clock) -> Self {
        let mark = Mutex::new(Mark { at: clock.now(), cpu: process_use().cpu, permille: 0 });
        Self { database, bodies, metrics, clock, mark }
    }

    /// Keeps a sample every minute; never ends by itself.
    pub async fn run(self: Arc<Self>) {
        loop {
            if let Err(error) = self.keep().await {
                tracing::warn!(%error, "what the node uses could not be written down");
            }
            // At full minutes, so that nodes can be laid side by side.
            let past = self.clock.now().secs().rem_euclid(SAMPLE_INTERVAL.as_secs().cast_signed());
            tokio::time::sleep(SAMPLE_INTERVAL.saturating_sub(Duration::from_secs(past.cast_unsigned())))
                .await;
        }
    }

    /// Measures and keeps a sample, the first of a minute.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep(self: &Arc<Self>) -> Result<()> {
        let meter = Arc::clone(self);
        let read = self.database.read(|conn| Box::pin(async move { meter.measure(conn).await }));
        let mut sample: Sample = read.await.map_err(|error: StorageError| error)?;
        self.mark(&sample);
        sample.at -= sample.at.rem_euclid(i64::try_from(SAMPLE_INTERVAL.as_micros()).unwrap_or(i64::MAX));
        let node = self.bodies.node().id.clone();
        let write = self.database.write(Priority::Background, move |conn| {
            let (node, sample) = (node.clone(), sample.clone());
            Box::pin(async move { node::keep(conn, &node, &sample).await })
        });
        write.await
    }

    /// What the node uses now.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn measure(&self, conn: &mut Conn) -> Result<Sample> {
        let at = self.clock.now();
        let used = process_use();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let octets = |octets: u64| i64::try_from(octets).unwrap_or(i64::MAX);
        let stores = store::list(conn).await?;
        let remote: Vec<i64> = stores
            .iter()
            .filter(|store| !store.settings.offload.bucket.is_empty())
            .map(|store| store.id.0)
            .collect();
        let node = self.bodies.node();
        Ok(Sample {
            at: at.0,
            epoch: node.epoch,
            cpu_permille: self.cpu_permille(at, used.cpu),
            resident_octets: octets(used.resident_octets),
            database_octets: octets(instance::database_octets(conn).await?.0),
            connections: Protocol::ALL.map(|protocol| self.metrics.sessions_open(protocol)),
            waiting: self.database.waiting().map(count),
            backlog: node::backlog(conn, &node.id, &remote).await?,
            disks: self.disks(conn).await?,
        })
    }

    fn cpu_permille(&self, at: Timestamp, cpu: Duration) -> i64 {
        let mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        let span = Duration::from_micros(at.0.saturating_sub(mark.at.0).try_into().unwrap_or_default());
        if span < CPU_SPAN_MIN {
            return mark.permille;
        }
        let used = cpu.saturating_sub(mark.cpu).as_micros().saturating_mul(1_000);
        i64::try_from(used / span.as_micros().max(1)).unwrap_or(i64::MAX)
    }

    /// From now on the use of processors is measured anew.
    fn mark(&self, sample: &Sample) {
        let mark = Mark { at: Timestamp(sample.at), cpu: process_use().cpu, permille: sample.cpu_permille };
        *self.mark.lock().unwrap_or_else(PoisonError::into_inner) = mark;
    }

    async fn disks(&self, conn: &mut Conn) -> Result<BTreeMap<i64, Disk>> {
        let mut places: Vec<(i64, PathBuf, i64)> = Vec::new();
        if let Some(file) = instance::database_file(conn).await? {
            let octets = instance::database_octets(conn).await?;
            let used = i64::try_from(octets.0.saturating_add(octets.1)).unwrap_or(i64::MAX);
            places.push((DATABASE_DISK, PathBuf::from(file), used));
        }
        for (store, path, used) in node::stores_used(conn).await? {
            places.push((store, self.bodies.pack_folder(&path), used));
        }
        // A disk that does not answer holds up a thread of its own and no one else's.
        let looked = tokio::task::spawn_blocking(move || {
            let disk = |(store, path, used_octets): (i64, PathBuf, i64)| {
                let (octets, free_octets) = space(&path)?;
                Some((store, Disk { octets, free_octets, used_octets }))
            };
            places.into_iter().filter_map(disk).collect()
        });
        looked.await.map_err(|_| StorageError::Busy("the disks could not be looked at"))
    }
}

/// Size of the file system that holds a path, or would hold it, and what of it is free for this program, in octets.
fn space(path: &Path) -> Option<(i64, i64)> {
    let path = std::path::absolute(path).ok()?;
    let stat = path.ancestors().find_map(|place| rustix::fs::statvfs(place).ok())?;
    let octets = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    Some((octets(stat.f_blocks), octets(stat.f_bavail)))
}
