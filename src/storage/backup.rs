//! Backups: a directory with a copy of the database and every pack that it names.
//!
//! # Consistency
//! A pin keeps pack files from being removed. After it is committed the database is copied as of one moment; whatever
//! the copy names was on disk before, and stays while the pin lasts. Packs are immutable, so they are linked where the
//! file system allows, and copied elsewhere.
//!
//! # Crash Consistency
//! The manifest, with length and BLAKE3 of every file, is written last: a directory without one is no backup. Nothing
//! that exists is overwritten. The pin of a backup that was interrupted expires by itself.
//!
//! # Cancellation
//! Dropped, a backup leaves a directory without a manifest.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bodies::{Bodies, blocking};
use super::metadata::lane::Priority;
use super::metadata::pin;
use super::metadata::snapshot::{NamedPack, Snapshot};
use super::pack::sync_folder;
use super::{Result, StorageError};
use crate::base::clock::{Clock, Timestamp};
use crate::base::progress::{Progress, Standing};

/// How long a pin lasts without being renewed: longer than any database takes to be copied.
const PIN_DURATION: Duration = Duration::from_secs(24 * 60 * 60);
/// Name of the database's copy.
const DATABASE: &str = "metadata.db";
/// Name of the manifest.
const MANIFEST: &str = "manifest.json";
/// Its name until it is complete.
const MANIFEST_TEMPORARY: &str = "manifest.json.tmp";
/// Folder of the stores' packs.
const STORES: &str = "stores";
/// Version of the manifest's form.
const FORMAT: u32 = 1;
/// Largest manifest that is read, in octets: files for a petabyte of mail.
const MANIFEST_OCTETS_MAX: u64 = 4 << 30;

/// Why there is no backup, or none that can be checked.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The directory holds something already.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The database is PostgreSQL.
    #[error(
        "the database is PostgreSQL: take a copy of it first (pg_dump or a base backup), then copy the folders of the \
         mail stores"
    )]
    Shared,
    /// There is no manifest: the backup was interrupted, or this is none.
    #[error("{} is not a complete backup: it has no {MANIFEST}", .0.display())]
    Incomplete(PathBuf),
    /// The manifest is damaged or from a newer version.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A file of a backup.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Below the directory.
    path: String,
    /// Its length.
    octets: u64,
    /// BLAKE3 of its content, hexadecimal.
    blake3: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    created_at: Timestamp,
    version: String,
    /// Packs that could not be read when the backup was taken.
    missing: Vec<String>,
    files: Vec<Entry>,
}

/// A backup that was taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// As of when.
    pub at: Timestamp,
    /// Packs in it.
    pub packs: u64,
    /// Octets of all its files.
    pub octets: u64,
    /// Packs that the database names and that are not there, or are cut off: their mail is not in the backup.
    pub missing: Vec<String>,
}

/// A backup that was checked, or is being checked: also the position of that work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// When it was taken.
    pub at: Timestamp,
    /// Files in it.
    pub files: u64,
    /// Octets of its files.
    pub octets: u64,
    /// Files that are damaged or missing, by name below the directory.
    pub damaged: Vec<String>,
}

/// Takes a backup into `directory`, which [`prepare`] has made.
///
/// # Errors
/// See [`BackupError`]; the directory may then hold files, but no manifest.
pub async fn create(
    bodies: &Bodies,
    directory: PathBuf,
    clock: &Clock,
    progress: &Progress,
) -> std::result::Result<Taken, BackupError> {
    if bodies.database().is_shared() {
        return Err(BackupError::Shared);
    }
    let (node, at) = (bodies.node().id.clone(), clock.now());
    let write = bodies.database().write(Priority::Interactive, move |conn| {
        let node = node.clone();
        Box::pin(async move { pin::insert(conn, &node, at, at.plus(PIN_DURATION)).await })
    });
    let pin: String = write.await.map_err(|error: StorageError| error)?;
    let outcome = copy(bodies, &directory, clock, at, &pin, progress).await;
    let unpin = bodies.database().write(Priority::Interactive, move |conn| {
        let pin = pin.clone();
        Box::pin(async move { pin::remove(conn, &pin).await })
    });
    if let Err(error) = unpin.await {
        tracing::warn!(%error, "a backup's pin stays until it expires");
    }
    outcome
}

/// Makes the directory, closed to others: the database holds password hashes.
///
/// # Errors
/// [`BackupError::NotEmpty`], and when it cannot be made.
pub async fn prepare(directory: &Path) -> std::result::Result<(), BackupError> {
    let path = directory.to_owned();
    let is_empty = blocking(move || {
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(|e| io("create", &path, e))?;
        let mut entries = std::fs::read_dir(&path).map_err(|e| io("read", &path, e))?;
        Ok(entries.next().is_none())
    });
    if is_empty.await? { Ok(()) } else { Err(BackupError::NotEmpty(directory.to_owned())) }
}

/// Removes what a backup that was cut off left in its directory. Only names that a backup writes are touched.
///
/// # Errors
/// When something cannot be removed.
pub async fn discard_partial(directory: &Path) -> Result<()> {
    let root = directory.to_owned();
    blocking(move || {
        let is_absent = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
        for name in [DATABASE, "metadata.db-journal", MANIFEST_TEMPORARY, MANIFEST] {
            let path = root.join(name);
            std::fs::remove_file(&path)
                .or_else(|error| if is_absent(&error) { Ok(()) } else { Err(io("remove", &path, error)) })?;
        }
        let stores = root.join(STORES);
        std::fs::remove_dir_all(&stores)
            .or_else(|error| if is_absent(&error) { Ok(()) } else { Err(io("remove", &stores, error)) })
    })
    .await
}

async fn copy(
    bodies: &Bodies,
    directory: &Path,
    clock: &Clock,
    at: Timestamp,
    pin: &str,
    progress: &Progress,
) -> std::result::Result<Taken, BackupError> {
    let database = directory.join(DATABASE);
    bodies.database().copy_to(&database).await?;
    let mut snapshot = Snapshot::open(&database).await?;
    let root = directory.to_owned();
    let first = blocking(move || {
        sync(&root.join(DATABASE))?;
        entry(&root, DATABASE.to_owned())
    });
    let mut manifest = Manifest {
        format: FORMAT,
        created_at: at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        missing: Vec::new(),
        files: vec![first.await?],
    };
    let total = snapshot.pack_octets().await?;
    progress.advance(0, Some(total), "octets");
    let (mut after, mut packs) = (0, 0);
    loop {
        progress.go_on().map_err(StorageError::from)?;
        let named = snapshot.packs(after).await?;
        let Some(last) = named.last() else { break };
        after = last.key;
        renew(bodies, pin, clock.now()).await?;
        let (own, root, told) = (bodies.clone(), directory.to_owned(), progress.clone());
        let (entries, missing) = blocking(move || take_packs(&own, &root, &named, &told)).await?;
        packs += entries.len() as u64;
        manifest.files.extend(entries);
        manifest.missing.extend(missing);
    }
    drop(snapshot);
    let octets = manifest.files.iter().map(|file| file.octets).sum();
    let missing = manifest.missing.clone();
    let root = directory.to_owned();
    blocking(move || write_manifest(&root, &manifest)).await?;
    Ok(Taken { at, packs, octets, missing })
}

/// # Errors
/// `Gone` when the pin expired: packs may have been removed.
async fn renew(bodies: &Bodies, pin: &str, now: Timestamp) -> Result<()> {
    let pin = pin.to_owned();
    let write = bodies.database().write(Priority::Interactive, move |conn| {
        let pin = pin.clone();
        Box::pin(async move { pin::extend(conn, &pin, now.plus(PIN_DURATION)).await })
    });
    if write.await? { Ok(()) } else { Err(StorageError::Gone("the pin of the backup")) }
}

/// Links or copies packs. One that is missing or cut off is told apart: the other mail is to be kept nevertheless.
fn take_packs(
    bodies: &Bodies,
    root: &Path,
    packs: &[NamedPack],
    progress: &Progress,
) -> Result<(Vec<Entry>, Vec<String>)> {
    let (mut entries, mut missing) = (Vec::with_capacity(packs.len()), Vec::new());
    let Standing { mut done, total, .. } = progress.standing();
    for pack in packs {
        progress.go_on()?;
        let below = Path::new(STORES).join(&pack.store).join("packs");
        let path = pack.name.path(&below);
        let target = root.join(&path);
        let source = pack.name.path(&bodies.pack_folder(&pack.store_path));
        let is_whole =
            std::fs::metadata(&source).is_ok_and(|file| i64::try_from(file.len()) == Ok(pack.octets));
        if !is_whole {
            tracing::error!(path = %source.display(), "a pack is missing or cut off, and not in the backup");
            missing.push(pack.name.to_string());
            continue;
        }
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(|error| io("create", folder, error))?;
        }
        if std::fs::hard_link(&source, &target).is_err() {
            std::fs::copy(&source, &target).map_err(|error| io("copy to", &target, error))?;
            sync(&target)?;
        }
        let entry = entry(root, path.display().to_string())?;
        done = done.saturating_add(entry.octets);
        progress.advance(done, total, "octets");
        entries.push(entry);
    }
    Ok((entries, missing))
}

fn entry(root: &Path, path: String) -> Result<Entry> {
    let (octets, blake3) = hash(&root.join(&path))?;
    Ok(Entry { path, octets, blake3 })
}

fn hash(path: &Path) -> Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(|error| io("open", path, error))?;
    hasher.update_reader(file).map_err(|error| io("read", path, error))?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|error| io("sync", path, error))
}

/// Makes all names survive power loss, then the manifest.
fn write_manifest(root: &Path, manifest: &Manifest) -> Result<()> {
    let mut folders = BTreeSet::new();
    for file in &manifest.files {
        let ancestors = Path::new(&file.path).ancestors().skip(1);
        folders.extend(ancestors.map(|folder| root.join(folder)));
    }
    for folder in &folders {
        sync_folder(folder)?;
    }
    let text = serde_json::to_vec_pretty(manifest)
        .map_err(|error| StorageError::Corrupt(format!("the manifest cannot be written: {error}")))?;
    let (temporary, path) = (root.join(MANIFEST_TEMPORARY), root.join(MANIFEST));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary)
        .map_err(|error| io("create", &temporary, error))?;
    let written = file.write_all(&text).and_then(|()| file.sync_all());
    written.map_err(|error| io("write", &temporary, error))?;
    std::fs::rename(&temporary, &path).map_err(|error| io("rename", &temporary, error))?;
    sync_folder(root)?;
    root.parent().map_or(Ok(()), sync_folder)
}

/// Reads every file of a backup and compares it with the manifest, from `position` on, which
/// [`Progress::save_position`] was told of the last time; empty: from the beginning.
///
/// # Errors
/// See [`BackupError`]; damage is no error but in the answer.
pub async fn verify(
    directory: PathBuf,
    progress: &Progress,
    position: &str,
) -> std::result::Result<Checked, BackupError> {
    let root = directory.clone();
    let text = blocking(move || {
        let path = root.join(MANIFEST);
        match std::fs::metadata(&path) {
            Ok(file) if file.len() > MANIFEST_OCTETS_MAX => {
                Err(StorageError::Corrupt("the manifest is too large".to_owned()))
            }
            Ok(_) => std::fs::read(&path).map(Some).map_err(|error| io("read", &path, error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("read", &path, error)),
        }
    });
    let text = text.await?.ok_or_else(|| BackupError::Incomplete(directory.clone()))?;
    let wrong = |reason: String| BackupError::Manifest { path: directory.join(MANIFEST), reason };
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if manifest.format != FORMAT {
        return Err(wrong(format!("format {} is not known to this version", manifest.format)));
    }
    // A position of another version is as good as none.
    let begun: Option<Checked> = serde_json::from_str(position).ok();
    let (root, told) = (directory.clone(), progress.clone());
    Ok(blocking(move || compare(&root, &manifest, begun, &told)).await?)
}

/// Compares the files behind those that were compared already.
fn compare(root: &Path, manifest: &Manifest, begun: Option<Checked>, progress: &Progress) -> Result<Checked> {
    let none = Checked { at: manifest.created_at, files: 0, octets: 0, damaged: Vec::new() };
    let mut checked = begun.filter(|begun| begun.at == manifest.created_at).unwrap_or(none);
    let total = manifest.files.iter().map(|file| file.octets).sum();
    let behind = usize::try_from(checked.files).unwrap_or(usize::MAX);
    for file in manifest.files.iter().skip(behind) {
        progress.go_on()?;
        checked.files += 1;
        checked.octets = checked.octets.saturating_add(file.octets);
        let is_below = Path::new(&file.path).components().all(|part| matches!(part, Component::Normal(_)));
        let is_same = |(octets, hash): (u64, String)| octets == file.octets && hash == file.blake3;
        if !is_below || !hash(&root.join(&file.path)).is_ok_and(is_same) {
            checked.damaged.push(file.path.clone());
        }
        progress.advance(checked.octets, Some(total), "octets");
        progress.save_position(serde_json::to_string(&checked).unwrap_or_default());
    }
    Ok(checked)
}

fn io(what: &str, path: &Path, error: std::io::Error) -> StorageError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StorageError::Full,
        _ => StorageError::Io { what: format!("{what} {}", path.display()), error },
    }
}
