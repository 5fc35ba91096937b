//! Mail stores as they are at present: settings, object storage and cache of each.
//!
//! Settings change at run time, on any node. What is known of them is read again when it is older than a few seconds,
//! and at once where they were changed. Connections and cache of a store last as long as what they depend on stays.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::cache::RangeCache;
use super::metadata::database::Database;
use super::metadata::pack::StoreVolume;
use super::metadata::store::{self, StoreRow};
use super::remote::{Remote, RemoteSettings};
use super::{Result, StorageError};
use crate::base::id::StoreId;
use crate::base::store_settings::OffloadSettings;
use crate::base::telemetry::metrics::Metrics;

/// What is known of the stores may be so old.
const AGE_MAX: Duration = Duration::from_secs(5);

/// A mail store.
#[derive(Debug)]
pub struct Volume {
    /// What packs of it need to know.
    pub store: StoreVolume,
    /// Its name.
    pub name: String,
    /// `online`, `read-only`, `draining` or `stopped`.
    pub state: String,
    remote: Option<Remote>,
    cache: Mutex<Option<RangeCache>>,
}

impl Volume {
    /// Its object storage.
    ///
    /// # Errors
    /// `Busy` when it has none, or is set up wrongly.
    pub fn remote(&self) -> Result<&Remote> {
        self.remote.as_ref().ok_or(StorageError::Busy("the mail store has no object storage"))
    }

    /// Whether object storage is set up.
    pub fn has_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// Octets of packs in object storage that are kept on disk for reading.
    pub fn cache_octets(&self) -> u64 {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.as_ref().map_or(0, RangeCache::octets)
    }

    /// Its cache, which is made at the first use.
    ///
    /// # Errors
    /// `Io` when the folder cannot be made.
    pub fn cache(&self, folder: &Path) -> Result<RangeCache> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = &*cache {
            return Ok(cache.clone());
        }
        let folder = folder.join(&self.store.path).join("cache");
        let made = RangeCache::open(folder, self.store.settings.cache_octets_max)?;
        *cache = Some(made.clone());
        Ok(made)
    }
}

/// All mail stores. Cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    folder: PathBuf,
    metrics: Metrics,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    at: Option<Instant>,
    volumes: HashMap<StoreId, Arc<Volume>>,
}

impl Volumes {
    /// The stores of `database`; relative paths start at `folder`.
    pub fn new(database: Database, folder: PathBuf, metrics: Metrics) -> Self {
        Self { inner: Arc::new(Inner { database, folder, metrics, known: Mutex::default() }) }
    }

    /// The database that knows them.
    pub(super) fn database(&self) -> &Database {
        &self.inner.database
    }

    /// What relative paths start at.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// A store.
    ///
    /// # Errors
    /// `Gone` when there is no such store; what the database says.
    pub async fn get(&self, store: StoreId) -> Result<Arc<Volume>> {
        if let Some(volume) = self.recent().and_then(|volumes| volumes.get(&store).cloned()) {
            return Ok(volume);
        }
        self.refresh()
            .await?
            .into_iter()
            .find(|volume| volume.store.store == store)
            .ok_or(StorageError::Gone("mail store"))
    }

    /// All stores, oldest first.
    ///
    /// # Errors
    /// What the database says.
    pub async fn all(&self) -> Result<Vec<Arc<Volume>>> {
        match self.recent() {
            Some(volumes) => Ok(sorted(&volumes)),
            None => self.refresh().await,
        }
    }

    fn recent(&self) -> Option<HashMap<StoreId, Arc<Volume>>> {
        let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.at.filter(|at| at.elapsed() < AGE_MAX).map(|_| known.volumes.clone())
    }

    /// Reads the stores again: their settings were changed.
    ///
    /// # Errors
    /// What the database says.
    pub async fn refresh(&self) -> Result<Vec<Arc<Volume>>> {
        let rows: Vec<StoreRow> = self.inner.database.read(|conn| Box::pin(store::list(conn))).await?;
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        let volumes: HashMap<StoreId, Arc<Volume>> =
            rows.into_iter().map(|row| (row.id, self.volume(known.volumes.get(&row.id), row))).collect();
        known.volumes.clone_from(&volumes);
        known.at = Some(Instant::now());
        Ok(sorted(&volumes))
    }

    /// The store as it is now, with what can be kept of what it was.
    fn volume(&self, before: Option<&Arc<Volume>>, row: StoreRow) -> Arc<Volume> {
        let store =
            StoreVolume { store: row.id, path: row.path, settings: row.settings, generation: row.generation };
        if let Some(before) = before
            && before.store == store
            && (&before.name, &before.state) == (&row.name, &row.state)
        {
            return Arc::clone(before);
        }
        let same_remote = before.filter(|before| before.store.settings.offload == store.settings.offload);
        let remote = match same_remote {
            Some(before) => before.remote.clone(),
            None => self.remote(&row.name, &store.settings.offload),
        };
        let same_cache = before.filter(|before| {
            before.store.path == store.path
                && before.store.settings.cache_octets_max == store.settings.cache_octets_max
        });
        let cache =
            same_cache.and_then(|before| before.cache.lock().unwrap_or_else(PoisonError::into_inner).clone());
        Arc::new(Volume { store, name: row.name, state: row.state, remote, cache: Mutex::new(cache) })
    }

    fn remote(&self, name: &str, settings: &OffloadSettings) -> Option<Remote> {
        if let Some(path) = settings.endpoint.strip_prefix("file://")
            && !settings.bucket.is_empty()
        {
            let folder = Path::new(path).join(&settings.bucket).join(&settings.prefix);
            return Some(Remote::directory(&folder, self.inner.metrics.clone()));
        }
        let settings = remote_settings(settings)?;
        match Remote::s3(settings, self.inner.metrics.clone()) {
            Ok(remote) => Some(remote),
            Err(error) => {
                tracing::error!(store = name, %error, "object storage of a mail store cannot be used");
                None
            }
        }
    }
}

fn sorted(volumes: &HashMap<StoreId, Arc<Volume>>) -> Vec<Arc<Volume>> {
    let mut sorted: Vec<_> = volumes.values().cloned().collect();
    sorted.sort_by_key(|volume| volume.store.store);
    sorted
}

/// Object storage as the settings of a store describe it; nothing without a bucket.
pub fn remote_settings(offload: &OffloadSettings) -> Option<RemoteSettings> {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    some(&offload.bucket).map(|bucket| RemoteSettings {
        endpoint: some(&offload.endpoint),
        region: offload.region.clone(),
        bucket,
        prefix: offload.prefix.clone(),
        path_style: offload.path_style,
        insecure_http: offload.insecure_http,
        access_key: offload.access_key.clone(),
        secret_key: offload.secret_key.clone(),
        storage_class: some(&offload.storage_class),
        upload_octets_per_sec: Some(offload.upload_octets_per_sec).filter(|&limit| limit > 0),
        connections_max: offload.connections_max,
        ..RemoteSettings::default()
    })
}
