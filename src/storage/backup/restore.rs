//! Bringing back everything: the database to a file, the packs to the folders of their mail stores.
//!
//! # Crash Consistency
//! Whoever restores gives the database its place when everything else is there. What an interrupted restore has left of
//! packs is compared and used by the next; what it has left half written is removed.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use futures_util::future::{BoxFuture, try_join_all};

use super::manifest::{Content, Manifest, PackEntry, database_key, pack_key};
use super::target::{Target, patiently};
use super::{BackupError, Result};
use crate::base::progress::Progress;
use crate::storage::StorageError;
use crate::storage::bodies::blocking;
use crate::storage::pack::sync_folder;
use crate::storage::remote::RemoteError;

/// Packs that are fetched at a time.
const TOGETHER: usize = 4;

/// What was brought back.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Packs.
    pub packs: u64,
    /// Their octets.
    pub octets: u64,
    /// Packs that were there already and are whole.
    pub kept: u64,
    /// Packs that are damaged or missing at the target: their mail cannot be read.
    pub damaged: Vec<String>,
}

/// Fetches the database of a backup into the new file `path`, compared with the manifest.
///
/// # Errors
/// `Damaged` when it is not what the manifest says; what the target says.
pub async fn fetch_database(
    target: &Target,
    manifest: &Manifest,
    path: &Path,
    progress: &Progress,
) -> Result<()> {
    let compressed = path.with_extension("zst");
    let key = database_key(&manifest.id);
    let fetch = || target.remote.get_to_file(&key, manifest.database.octets, &compressed);
    match patiently(progress, fetch).await {
        Err(BackupError::Target(error @ (RemoteError::NotFound(_) | RemoteError::Corrupt(_)))) => {
            return Err(target.damaged(format!("the database of {}: {error}", manifest.id)));
        }
        other => other?,
    }
    let (from, to, octets) = (compressed, path.to_owned(), manifest.database_octets);
    let expected = manifest.database.clone();
    let unpacked = blocking(move || {
        if content_of(&from)? != Some(expected) {
            return Ok(false);
        }
        let io = |what: &str, path: &Path, error| StorageError::Io {
            what: format!("{what} {}", path.display()),
            error,
        };
        let source = std::fs::File::open(&from).map_err(|error| io("open", &from, error))?;
        let decoder =
            zstd::stream::read::Decoder::new(source).map_err(|error| io("decompress", &from, error))?;
        let mut sink = std::fs::File::create_new(&to).map_err(|error| io("create", &to, error))?;
        // One more than there may be, so that a longer one shows.
        let mut limited = decoder.take(octets.saturating_add(1));
        let written =
            std::io::copy(&mut limited, &mut sink).map_err(|error| io("decompress to", &to, error))?;
        sink.sync_all().map_err(|error| io("sync", &to, error))?;
        std::fs::remove_file(&from).map_err(|error| io("remove", &from, error))?;
        Ok(written == octets)
    });
    if unpacked.await? {
        Ok(())
    } else {
        Err(target.damaged(format!("the database of {} is damaged", manifest.id)))
    }
}

/// Length and hash of a file; nothing if it is not there.
fn content_of(path: &Path) -> std::result::Result<Option<Content>, StorageError> {
    let io = |error| StorageError::Io { what: format!("read {}", path.display()), error };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file).map_err(io)?;
    Ok(Some(Content::new(hasher.count(), hasher.finalize().as_bytes())))
}

/// Fetches the packs of a backup into the folders of their mail stores, by the stores' names; what is there and whole
/// stays. Packs that are damaged at the target are named, since the others are to be had nevertheless.
///
/// # Errors
/// See [`BackupError`]; `Damaged` when a store has no folder.
pub async fn restore_packs(
    target: &Target,
    manifest: &Manifest,
    folders: &HashMap<String, PathBuf>,
    progress: &Progress,
) -> Result<Restored> {
    let total = manifest.packs.iter().fold(0_u64, |sum, pack| sum.saturating_add(pack.octets));
    progress.advance(0, Some(total), "octets");
    let (mut restored, own) = (Restored::default(), folders.values().cloned().collect::<Vec<_>>());
    blocking(move || own.iter().try_for_each(|folder| remove_unfinished(folder))).await?;
    for some in manifest.packs.chunks(TOGETHER) {
        progress.go_on()?;
        let mut fetches: Vec<BoxFuture<'_, Result<Fetched>>> = Vec::new();
        for pack in some {
            fetches.push(Box::pin(fetch_pack(target, pack, folders, progress)));
        }
        for (pack, fetched) in some.iter().zip(try_join_all(fetches).await?) {
            restored.packs += 1;
            restored.octets = restored.octets.saturating_add(pack.octets);
            match fetched {
                Fetched::Whole => {}
                Fetched::Kept => restored.kept += 1,
                Fetched::Damaged => restored.damaged.push(pack.name.clone()),
            }
        }
        progress.advance(restored.octets, Some(total), "octets");
    }
    restored.damaged.sort_unstable();
    Ok(restored)
}

/// Removes half written files from a folder of packs. It is to be an installation's that does not exist yet, so nobody
/// else writes there.
fn remove_unfinished(folder: &Path) -> std::result::Result<(), StorageError> {
    let io = |what: &str, path: &Path, error| StorageError::Io {
        what: format!("{what} {}", path.display()),
        error,
    };
    let entries = |path: &Path| match std::fs::read_dir(path) {
        Ok(entries) => entries.collect::<std::io::Result<Vec<_>>>().map_err(|error| io("list", path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io("list", path, error)),
    };
    for shard in entries(folder)? {
        if !shard.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for file in entries(&shard.path())? {
            let path = file.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                std::fs::remove_file(&path).map_err(|error| io("remove", &path, error))?;
            }
        }
    }
    Ok(())
}

enum Fetched {
    Whole,
    Kept,
    Damaged,
}

async fn fetch_pack(
    target: &Target,
    pack: &PackEntry,
    folders: &HashMap<String, PathBuf>,
    progress: &Progress,
) -> Result<Fetched> {
    let name = pack.pack().map_err(|what| target.damaged(what))?;
    let folder = folders
        .get(&pack.store)
        .ok_or_else(|| target.damaged(format!("there is no folder for the mail store {}", pack.store)))?;
    let path = name.path(folder);
    let expected = Content { octets: pack.octets, blake3: pack.blake3.clone() };
    let (own, wanted) = (path.clone(), expected.clone());
    if blocking(move || Ok(content_of(&own)? == Some(wanted))).await? {
        return Ok(Fetched::Kept);
    }
    let parent = path.parent().unwrap_or(folder).to_owned();
    blocking(move || {
        std::fs::create_dir_all(&parent)
            .map_err(|error| StorageError::Io { what: format!("create {}", parent.display()), error })?;
        parent.parent().map_or(Ok(()), sync_folder)
    })
    .await?;
    let key = pack_key(&pack.name);
    match patiently(progress, || target.remote.get_to_file(&key, pack.octets, &path)).await {
        Err(BackupError::Target(RemoteError::NotFound(_) | RemoteError::Corrupt(_))) => {
            return Ok(Fetched::Damaged);
        }
        other => other?,
    }
    let is_whole = blocking(move || Ok(content_of(&path)? == Some(expected))).await?;
    Ok(if is_whole { Fetched::Whole } else { Fetched::Damaged })
}
