//! Removing backups, and what no backup names any more.

use std::collections::BTreeSet;

use super::create::Source;
use super::index::{Entry, Index};
use super::manifest::{Manifest, database_key, key, manifest_key, pack_key};
use super::target::{Target, patiently};
use super::{BackupError, Result, retention};
use crate::base::backup_settings::BackupsKept;
use crate::storage::StorageError;
use crate::storage::metadata::backup::{self, StagedObject};
use crate::storage::metadata::lane::Priority;

/// What was removed.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// Backups.
    pub backups: Vec<String>,
    /// Packs that no backup names any more.
    pub packs: u64,
    /// Octets of packs and databases.
    pub octets: u64,
    /// Backups that stay for now since somebody reads them.
    pub in_use: Vec<String>,
}

/// Removes the backups that are not to be kept, and packs that no retained backup names.
///
/// # Errors
/// See [`BackupError`]; what is left is removed the next time.
pub async fn prune(source: &Source, target: &Target, kept: BackupsKept) -> Result<Pruned> {
    source.lease_write(target).await?;
    let outcome = leased(source, target, kept).await;
    source.lease_end().await;
    outcome
}

async fn leased(source: &Source, target: &Target, kept: BackupsKept) -> Result<Pruned> {
    let mut index = source.own_index(target).await?;
    let outdated = retention::outdated(&index.backups, kept);
    if !outdated.is_empty() {
        let (going, staying): (Vec<Entry>, Vec<Entry>) =
            index.backups.drain(..).partition(|entry| outdated.contains(&entry.id));
        index.backups = staying;
        index.dropping.extend(going);
        source.publish(target, &mut index).await?;
        source.reach(7).await;
    }
    let mut pruned = Pruned::default();
    if !index.dropping.is_empty() {
        // Whoever began to read before the index said so is seen here; whoever comes later finds it gone.
        let (place, job) = (target.place(), source.job);
        let read = source
            .bodies
            .database()
            .read(|conn| Box::pin(async move { backup::being_read(conn, &place, job).await }));
        let in_use: Vec<String> = read.await.map_err(|error: StorageError| error)?;
        let named = named(source, target, &index, &in_use).await?;
        for entry in index.dropping.clone() {
            if in_use.contains(&entry.id) {
                pruned.in_use.push(entry.id);
                continue;
            }
            drop_backup(source, target, &entry, &named, &mut pruned).await?;
            source.reach(9).await;
            index.dropping.retain(|other| other.id != entry.id);
            source.publish(target, &mut index).await?;
            pruned.backups.push(entry.id);
        }
    }
    source.tidy(target, &index, None).await?;
    Ok(pruned)
}

/// Packs that backups name which stay, or are read.
async fn named(
    source: &Source,
    target: &Target,
    index: &Index,
    in_use: &[String],
) -> Result<BTreeSet<String>> {
    let mut named = BTreeSet::new();
    let read = index.dropping.iter().filter(|entry| in_use.contains(&entry.id));
    for entry in index.backups.iter().chain(read) {
        let manifest = target.manifest(entry, &source.progress).await?;
        named.extend(manifest.packs.into_iter().map(|pack| pack.name));
    }
    Ok(named)
}

/// Deletes what only this backup names; its manifest, by which an interrupted removal goes on, last.
async fn drop_backup(
    source: &Source,
    target: &Target,
    entry: &Entry,
    named: &BTreeSet<String>,
    pruned: &mut Pruned,
) -> Result<()> {
    let manifest = match target.manifest(entry, &source.progress).await {
        Ok(manifest) => Some(manifest),
        // It went before the index forgot the backup.
        Err(BackupError::Unknown { .. }) => None,
        Err(error @ BackupError::Damaged { .. }) => {
            tracing::error!(%error, id = entry.id, "packs that only this backup names stay at the target");
            None
        }
        Err(error) => return Err(error),
    };
    let delete = |key| async move { patiently(&source.progress, || target.remote.delete(&key)).await };
    if let Some(manifest) = manifest {
        for pack in manifest.packs.iter().filter(|pack| !named.contains(&pack.name)) {
            delete(pack_key(&pack.name)).await?;
            source.reach(8).await;
            pruned.packs += 1;
            pruned.octets = pruned.octets.saturating_add(pack.octets);
            source.progress.advance(pruned.packs, None, "packs");
        }
        pruned.octets = pruned.octets.saturating_add(manifest.database.octets);
    }
    delete(database_key(&entry.id)).await?;
    delete(manifest_key(&entry.id)).await
}

impl Source {
    /// Objects that were written to a target and that no backup names.
    pub(super) async fn staged(&self, target: &Target) -> Result<Vec<StagedObject>> {
        let mut all: Vec<StagedObject> = Vec::new();
        loop {
            let (place, after) =
                (target.place(), all.last().map(|last| last.key.clone()).unwrap_or_default());
            let read = self
                .bodies
                .database()
                .read(|conn| Box::pin(async move { backup::staged(conn, &place, &after).await }));
            let page: Vec<StagedObject> = read.await.map_err(|error: StorageError| error)?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    /// Removes what an interrupted run has written, and forgets the rows of what backups name by now. `newest` is the
    /// manifest that was just written, if there is one.
    pub(super) async fn tidy(&self, target: &Target, index: &Index, newest: Option<&Manifest>) -> Result<()> {
        let staged = self.staged(target).await?;
        if staged.is_empty() {
            return Ok(());
        }
        let mut named: BTreeSet<String> = BTreeSet::new();
        for entry in index.backups.iter().chain(&index.dropping) {
            named.extend([manifest_key(&entry.id).to_string(), database_key(&entry.id).to_string()]);
            let read;
            let manifest = match newest.filter(|manifest| manifest.id == entry.id) {
                Some(manifest) => manifest,
                None => match target.manifest(entry, &self.progress).await {
                    Ok(manifest) => {
                        read = manifest;
                        &read
                    }
                    Err(BackupError::Unknown { .. }) => continue,
                    Err(error @ BackupError::Damaged { .. }) => {
                        tracing::error!(%error, "what interrupted backups have left stays: it may belong to this one");
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                },
            };
            named.extend(manifest.by_name().into_keys().map(|name| pack_key(name).to_string()));
        }
        for some in staged.chunks(256) {
            for object in some.iter().filter(|object| !named.contains(&object.key)) {
                let key = key(object.key.clone());
                patiently(&self.progress, || target.remote.delete(&key)).await?;
            }
            let (place, keys) =
                (target.place(), some.iter().map(|object| object.key.clone()).collect::<Vec<_>>());
            let write = self.bodies.database().write(Priority::Background, move |conn| {
                let (place, keys) = (place.clone(), keys.clone());
                Box::pin(async move { backup::forget(conn, &place, &keys).await })
            });
            write.await.map_err(|error: StorageError| error)?;
        }
        Ok(())
    }
}
