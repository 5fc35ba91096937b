//! Mail stores as they are at present: settings, object storage and cache of each.
//!
//! Settings change at run time, on any node. What is known of them is read again when it is older than a few seconds,
//! and at once where they were changed. Connections and cache of a store last as long as what they depend on stays.
//!
//! What a store does at present is the database's word and decided in the transactions that add mail. Whether its
//! folder is there is each node's own observation ([`mount`]): a store whose folder is not there counts as stopped on
//! that node.

pub mod check;
pub mod mount;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::bodies::blocking;
use super::cache::RangeCache;
use super::metadata::changes::Touched;
use super::metadata::database::Database;
use super::metadata::lane::Priority;
use super::metadata::pack::StoreVolume;
use super::metadata::store::{self, StoreRow, StoreState};
use super::pack::PackName;
use super::remote::{self, Remote, RemoteSettings};
use super::{Result, StorageError};
use crate::base::id::StoreId;
use crate::base::store_settings::OffloadSettings;
use crate::base::telemetry::metrics::Metrics;
use mount::{Marker, Mount};

/// What is known of the stores may be so old.
const AGE_MAX: Duration = Duration::from_secs(5);
/// A folder that does not answer for so long cannot be used.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Packs that are looked for in a folder that has no marker.
const SAMPLE_PACKS: i64 = 16;

/// A mail store.
#[derive(Debug)]
pub struct Volume {
    /// What packs of it need to know.
    pub store: StoreVolume,
    /// Its name.
    pub name: String,
    /// What it does at present.
    pub state: StoreState,
    remote: Option<Remote>,
    cache: Mutex<Option<RangeCache>>,
    mount: Arc<Mount>,
}

impl Volume {
    /// What is wrong with its folder on this node; nothing while it can be used.
    pub fn trouble(&self) -> Option<String> {
        self.mount.trouble()
    }

    /// Whether its bodies can be read now.
    ///
    /// # Errors
    /// `Busy` when they cannot.
    pub fn admit_reads(&self) -> Result<()> {
        if !self.state.is_readable() {
            return Err(StorageError::Busy("the mail store is stopped"));
        }
        self.trouble().map_or(Ok(()), |_| Err(StorageError::Busy("the mail store is not mounted")))
    }

    /// Whether mail can be added and files be written now.
    ///
    /// # Errors
    /// `Busy` when that is not so.
    pub fn admit_writes(&self) -> Result<()> {
        self.admit_reads()?;
        if self.state.is_writable() { Ok(()) } else { Err(StorageError::Busy("the mail store is read-only")) }
    }

    /// Looks at the folder once more, right before something is written there or what is missing is taken for removed.
    /// Reads a file: call it where blocking is allowed.
    ///
    /// # Errors
    /// `Busy` when the folder is not there any more.
    pub fn confirm_folder(&self) -> Result<()> {
        self.mount.confirm()
    }

    /// Closes the files of its cache.
    fn close(&self) {
        *self.cache.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

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
    /// `Io` when the folder cannot be made; `Busy` when the store cannot be read now.
    pub fn cache(&self, folder: &Path) -> Result<RangeCache> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cache) = &*cache {
            return Ok(cache.clone());
        }
        self.admit_reads()?;
        self.confirm_folder()?;
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
    changed: Mutex<watch::Receiver<u64>>,
    /// Whose folders these are, once a daemon has said so.
    owner: OnceLock<Owner>,
}

/// Whose folders they are.
struct Owner {
    instance: String,
    data_dir: PathBuf,
}

impl Owner {
    fn marker(&self, store: &str) -> Marker {
        Marker { instance: self.instance.clone(), store: store.to_owned() }
    }
}

#[derive(Default)]
struct Known {
    at: Option<Instant>,
    volumes: HashMap<StoreId, Arc<Volume>>,
}

impl Volumes {
    /// The stores of `database`; relative paths start at `folder`.
    pub fn new(database: Database, folder: PathBuf, metrics: Metrics) -> Self {
        let changed = Mutex::new(database.changes().watch(Touched::Stores));
        let (known, owner) = (Mutex::default(), OnceLock::new());
        Self { inner: Arc::new(Inner { database, folder, metrics, known, changed, owner }) }
    }

    /// Says whose folders these are: from now on [`Self::inspect`] looks whether they are. The first call counts.
    pub fn own(&self, instance: String, data_dir: &Path) {
        let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let _ = self.inner.owner.set(Owner { instance, data_dir });
    }

    /// The marker of a store's folder; nothing before a daemon has said whose they are.
    pub fn marker(&self, store: &str) -> Option<Marker> {
        self.inner.owner.get().map(|owner| owner.marker(store))
    }

    /// Looks at the folder of one store, whatever its state: what is wrong with it.
    async fn look(&self, volume: &Volume) -> Result<std::result::Result<(), String>> {
        let Some(owner) = self.inner.owner.get() else { return Ok(Ok(())) };
        let folder = self.store_folder(&volume.store.path);
        self.inspect_one(owner, volume, &folder, &owner.marker(&volume.name)).await
    }

    /// The folder of a store, as it is configured.
    pub fn store_folder(&self, store_path: &str) -> PathBuf {
        self.inner.folder.join(store_path)
    }

    /// Marked changed whenever settings or state of a store change.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.database.changes().watch(Touched::Stores)
    }

    /// Looks whether the folders of all stores can be used on this node, and says so in the log when that has changed.
    /// Folders that were never used are made.
    ///
    /// # Errors
    /// What the database says.
    pub async fn inspect(&self) -> Result<()> {
        let Some(owner) = self.inner.owner.get() else { return Ok(()) };
        for volume in self.refresh().await? {
            if !volume.state.is_readable() {
                volume.mount.forget();
                volume.close();
                continue;
            }
            let marker = owner.marker(&volume.name);
            let folder = self.store_folder(&volume.store.path);
            let found = self.inspect_one(owner, &volume, &folder, &marker).await?;
            let what = found.as_ref().err().cloned();
            if volume.mount.note(&folder, &marker, found) {
                match what {
                    Some(what) => tracing::error!(
                        store = volume.name,
                        what,
                        "a mail store is not mounted: it counts as stopped on this node"
                    ),
                    None => tracing::info!(store = volume.name, "a mail store is mounted again"),
                }
            }
            if volume.trouble().is_some() {
                volume.close();
            }
        }
        Ok(())
    }

    async fn inspect_one(
        &self,
        owner: &Owner,
        volume: &Volume,
        folder: &Path,
        marker: &Marker,
    ) -> Result<std::result::Result<(), String>> {
        let (place, wanted) = (folder.to_owned(), marker.clone());
        let is_marked = answer(folder, move || mount::is_marked(&place, &wanted)).await;
        let store = volume.store.store;
        let read = self.inner.database.read(|conn| Box::pin(store::is_marked(conn, store)));
        let was_marked: bool = read.await?;
        let done = match is_marked {
            Err(what) => return Ok(Err(what)),
            Ok(true) => Ok(()),
            Ok(false) => {
                let read = self
                    .inner
                    .database
                    .read(|conn| Box::pin(store::newest_local_packs(conn, store, SAMPLE_PACKS)));
                let packs: Vec<(PackName, u64)> = read.await?;
                let is_inside =
                    std::path::absolute(folder).is_ok_and(|folder| folder.starts_with(&owner.data_dir));
                let known = mount::Known { marker: marker.clone(), was_marked, is_inside, packs };
                let place = folder.to_owned();
                answer(folder, move || mount::adopt(&place, &known)).await
            }
        };
        if done.is_ok() && !was_marked {
            let write = self
                .inner
                .database
                .write(Priority::Interactive, move |conn| Box::pin(store::set_marked(conn, store)));
            let noted: Result<()> = write.await;
            noted?;
        }
        Ok(done)
    }

    /// Stores that this node cannot use although they are not stopped.
    pub fn unmounted(&self) -> BTreeSet<StoreId> {
        let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        let troubled = known.volumes.iter().filter(|(_, volume)| volume.trouble().is_some());
        troubled.map(|(store, _)| *store).collect()
    }

    /// What is wrong with the folders of stores on this node.
    pub fn troubles(&self) -> HashMap<StoreId, String> {
        let known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        let troubles = known.volumes.iter();
        troubles.filter_map(|(store, volume)| Some((*store, volume.trouble()?))).collect()
    }

    /// The database that knows them.
    pub(super) fn database(&self) -> &Database {
        &self.inner.database
    }

    /// The data directory; nothing before a daemon has said whose the folders are.
    pub fn data_dir(&self) -> Option<&Path> {
        self.inner.owner.get().map(|owner| owner.data_dir.as_path())
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
        if let Some(volume) = self.recent(|volumes| volumes.get(&store).cloned()).flatten() {
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
        match self.recent(sorted) {
            Some(volumes) => Ok(volumes),
            None => self.refresh().await,
        }
    }

    /// Takes something from what is known; nothing when that is too old.
    fn recent<T>(&self, take: impl FnOnce(&HashMap<StoreId, Arc<Volume>>) -> T) -> Option<T> {
        let is_changed = {
            let mut changed = self.inner.changed.lock().unwrap_or_else(PoisonError::into_inner);
            let is_changed = changed.has_changed().unwrap_or(true);
            changed.mark_unchanged();
            is_changed
        };
        let mut known = self.inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        if is_changed {
            known.at = None;
        }
        known.at.filter(|at| at.elapsed() < AGE_MAX).map(|_| take(&known.volumes))
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
        // A store that moved to another folder is looked at before it is used.
        let mount = before.filter(|before| before.store.path == store.path);
        let mount = mount.map_or_else(Arc::default, |before| Arc::clone(&before.mount));
        Arc::new(Volume { store, name: row.name, state: row.state, remote, cache: Mutex::new(cache), mount })
    }

    fn remote(&self, name: &str, settings: &OffloadSettings) -> Option<Remote> {
        open_remote(settings, &self.inner.metrics).unwrap_or_else(|error| {
            tracing::error!(store = name, %error, "object storage of a mail store cannot be used");
            None
        })
    }
}

/// Looks at a folder where that may take long.
async fn answer<T: Send + 'static>(
    folder: &Path,
    look: impl FnOnce() -> std::result::Result<T, String> + Send + 'static,
) -> std::result::Result<T, String> {
    let look = tokio::time::timeout(ANSWER_PATIENCE, blocking(move || Ok(look())));
    match look.await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{} does not answer", folder.display())),
    }
}

/// Object storage of these settings: a bucket, or the folder that an endpoint `file://` names; nothing without a
/// bucket.
///
/// # Errors
/// `Invalid` when the settings are wrong.
pub fn open_remote(settings: &OffloadSettings, metrics: &Metrics) -> remote::Result<Option<Remote>> {
    if let Some(path) = settings.endpoint.strip_prefix("file://")
        && !settings.bucket.is_empty()
    {
        let folder = Path::new(path).join(&settings.bucket).join(&settings.prefix);
        return Ok(Some(Remote::directory(&folder, metrics.clone())));
    }
    remote_settings(settings).map(|settings| Remote::s3(settings, metrics.clone())).transpose()
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
