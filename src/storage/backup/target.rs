//! A place for backups: a directory or a bucket.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::index::{Entry, FORMAT, Index};
use super::manifest::{Manifest, OBJECT_OCTETS_MAX, manifest_key};
use super::{BackupError, Result};
use crate::base::backup_settings::BackupPlace;
use crate::base::progress::Progress;
use crate::base::store_settings::{OffloadSettings, StoreSettings};
use crate::base::telemetry::metrics::Metrics;
use crate::storage::StorageError;
use crate::storage::remote::{self, ObjectKey, Remote, RemoteError};
use crate::storage::volumes::open_remote;

/// The two objects of the index.
const INDEXES: [&str; 2] = ["index-0", "index-1"];
/// Largest index, in octets: a million backups.
const INDEX_OCTETS_MAX: u64 = 512 << 20;
/// How long a target that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60 * 60);
/// The first pause before it is asked again; each is twice as long as the one before.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Folder of packs.
const PACKS: &str = "packs";

/// A place for backups. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) remote: Remote,
    /// Packs of it, as a mail store would name them.
    packs: OffloadSettings,
}

impl Target {
    /// The place of the settings; nothing without one.
    ///
    /// # Errors
    /// When the settings of the bucket are wrong.
    pub fn of(place: &BackupPlace, metrics: &Metrics) -> Result<Option<Self>> {
        match place {
            BackupPlace::None => Ok(None),
            BackupPlace::Directory(folder) => Ok(Some(Self::directory(folder, metrics))),
            BackupPlace::Bucket(settings) => {
                let remote = open_remote(settings, metrics)?;
                let slash = if settings.prefix.is_empty() { "" } else { "/" };
                let prefix = format!("{}{slash}{PACKS}", settings.prefix);
                let packs = OffloadSettings { prefix, ..(**settings).clone() };
                Ok(remote.map(|remote| Self { remote, packs }))
            }
        }
    }

    /// A directory, which must exist whenever it is used.
    pub fn directory(folder: &Path, metrics: &Metrics) -> Self {
        let packs = OffloadSettings {
            endpoint: format!("file://{}", folder.display()),
            bucket: PACKS.to_owned(),
            ..StoreSettings::default().offload
        };
        Self { remote: Remote::directory(folder, metrics.clone()), packs }
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.remote.to_string()
    }

    /// Settings of a mail store whose packs are the target's.
    pub(super) fn store_settings(&self) -> StoreSettings {
        StoreSettings { offload: self.packs.clone(), cache_octets_max: 1 << 30, ..StoreSettings::default() }
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> BackupError {
        BackupError::Damaged { place: self.place(), what: what.into() }
    }

    pub(super) fn unknown(&self, id: &str) -> BackupError {
        BackupError::Unknown { place: self.place(), id: id.to_owned() }
    }

    /// The index; an empty one where nothing was ever written.
    ///
    /// # Errors
    /// `Damaged` when neither of its objects can be understood; what the target says.
    pub(super) async fn index(&self, progress: &Progress) -> Result<Index> {
        let (mut newest, mut wrong): (Option<Index>, _) = (None, None);
        for name in INDEXES {
            let key = index_key(name);
            let read = patiently(progress, || self.remote.get_bytes(&key, INDEX_OCTETS_MAX)).await;
            let object = match read {
                Err(BackupError::Target(RemoteError::NotFound(_))) => continue,
                other => other?,
            };
            match Index::decode(&object) {
                Ok(index) => {
                    if newest.as_ref().is_none_or(|newest| newest.generation < index.generation) {
                        newest = Some(index);
                    }
                }
                Err(what) => wrong = Some(what),
            }
        }
        match (newest, wrong) {
            (Some(index), wrong) => {
                if let Some(what) = wrong {
                    tracing::warn!(place = %self.place(), what, "one of two index objects; the other one counts");
                }
                Ok(index)
            }
            (None, Some(what)) => Err(self.damaged(what)),
            (None, None) => Ok(Index { format: FORMAT, ..Index::default() }),
        }
    }

    /// Whether anybody ever took a backup here.
    ///
    /// # Errors
    /// As [`Self::index`].
    pub async fn is_begun(&self, progress: &Progress) -> Result<bool> {
        Ok(self.index(progress).await?.generation > 0)
    }

    /// The backups of the target, oldest first.
    ///
    /// # Errors
    /// As [`Self::index`].
    pub async fn backups(&self, progress: &Progress) -> Result<Vec<Entry>> {
        Ok(self.index(progress).await?.backups)
    }

    /// Writes the index in place of the one before the last.
    pub(super) async fn write_index(&self, index: &mut Index, progress: &Progress) -> Result<()> {
        index.generation += 1;
        let [even, odd] = INDEXES;
        let key = index_key(if index.generation.is_multiple_of(2) { even } else { odd });
        let object = Bytes::from(index.encode());
        patiently(progress, || self.remote.put_bytes(&key, object.clone())).await.map(drop)
    }

    /// The manifest of a backup, compared with what the index says of it.
    ///
    /// # Errors
    /// `Damaged`, `Unknown`; what the target says.
    pub(super) async fn manifest(&self, entry: &Entry, progress: &Progress) -> Result<Manifest> {
        let key = manifest_key(&entry.id);
        let read = patiently(progress, || self.remote.get_bytes(&key, OBJECT_OCTETS_MAX)).await;
        let object = match read {
            Err(BackupError::Target(RemoteError::NotFound(_))) => return Err(self.unknown(&entry.id)),
            other => other?,
        };
        if blake3::hash(&object).to_hex().as_str() != entry.manifest_blake3 {
            return Err(self.damaged(format!("the manifest of {} is damaged", entry.id)));
        }
        Manifest::decode(&object).map_err(|what| self.damaged(what))
    }

    /// The manifest of the backup `id`.
    ///
    /// # Errors
    /// As [`Self::manifest`].
    pub async fn manifest_of(&self, id: &str, progress: &Progress) -> Result<Manifest> {
        let index = self.index(progress).await?;
        let entry = index.find(id).ok_or_else(|| self.unknown(id))?;
        self.manifest(entry, progress).await
    }
}

fn index_key(name: &str) -> ObjectKey {
    super::manifest::key(name.to_owned())
}

/// Does something at a target, again and again while it is away.
///
/// # Errors
/// That of the last attempt; `Interrupted` when the work is to end.
pub(super) async fn patiently<T, F>(progress: &Progress, request: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = remote::Result<T>>,
{
    let until = tokio::time::Instant::now() + PATIENCE;
    let mut pause = PAUSE_FIRST;
    loop {
        progress.go_on()?;
        let done = tokio::select! {
            () = progress.cancelled() => return Err(crate::base::progress::Interrupted.into()),
            done = request() => done,
        };
        let error = match done {
            Err(error @ (RemoteError::Unavailable(_) | RemoteError::Throttled(_))) => error,
            other => return Ok(other?),
        };
        if tokio::time::Instant::now() + pause > until {
            return Err(error.into());
        }
        tracing::info!(%error, "the target of backups is waited for");
        tokio::select! {
            () = progress.cancelled() => return Err(crate::base::progress::Interrupted.into()),
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// An error of a thread where blocking is allowed.
pub(super) fn interrupted() -> BackupError {
    StorageError::Busy("work on a backup was interrupted").into()
}
