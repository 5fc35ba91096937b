//! Whether the folder of a mail store is the one that it says it is.
//!
//! Each store's folder has a file that says whose it is. A volume that is not mounted does not have it, so nothing is
//! written below the empty mount point, and a missing pack is not taken for a removed one.

use std::fs::{DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::storage::pack::{PackName, sync_folder};
use crate::storage::{Result, StorageError};

/// The file that says whose folder it is.
pub const MARKER_FILE: &str = "posthouse-store.json";
/// Largest such file, in octets.
const MARKER_OCTETS_MAX: u64 = 4_096;
/// What is told where files would be touched.
const NOT_MOUNTED: StorageError =
    StorageError::Busy("the folder of the mail store cannot be used at present");

/// Whose folder it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct Marker {
    /// The installation.
    pub instance: String,
    /// Name of the mail store.
    pub store: String,
}

impl Marker {
    /// What stands in a folder; nothing if there is no such file.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn read(folder: &Path) -> std::result::Result<Option<Self>, String> {
        let path = folder.join(MARKER_FILE);
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut text = String::new();
        file.take(MARKER_OCTETS_MAX).read_to_string(&mut text).map_err(failed)?;
        let read = serde_json::from_str(&text).map(Some);
        read.map_err(|error| format!("{} is damaged: {error}", path.display()))
    }

    /// Puts it into a folder, which is made if it is not there; complete and durable, or not at all.
    ///
    /// # Errors
    /// `Io` or `Full`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MARKER_FILE);
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StorageError::Full,
            _ => StorageError::Io { what: format!("write {}", path.display()), error },
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let text = serde_json::to_string_pretty(self).map_err(|error| failed(error.into()))?;
        let temporary = path.with_extension("json.tmp");
        let mut file = File::create(&temporary).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        std::fs::rename(&temporary, &path).map_err(failed)?;
        sync_folder(folder)?;
        folder.parent().filter(|above| above.is_dir()).map_or(Ok(()), sync_folder)
    }
}

/// What the database knows of a folder.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// What its marker has to be.
    pub marker: Marker,
    /// Whether it was marked before.
    pub was_marked: bool,
    /// Whether it lies in the data directory, which is there while the daemon runs.
    pub is_inside: bool,
    /// Some of the packs that are said to be there, with their lengths.
    pub packs: Vec<(PackName, u64)>,
}

/// Looks at a folder that has no marker: one that was never used is made, one that has the packs is marked (again).
///
/// # Errors
/// What is wrong with it, for people; then nothing was made.
pub(super) fn adopt(folder: &Path, known: &Known) -> std::result::Result<(), String> {
    let packs = folder.join("packs");
    let is_there = |(name, octets): &(PackName, u64)| {
        std::fs::metadata(name.path(&packs)).is_ok_and(|file| file.len() == *octets)
    };
    if !known.packs.iter().any(is_there) {
        let is_new = known.packs.is_empty() && (!known.was_marked || known.is_inside);
        if !is_new {
            let what = if known.packs.is_empty() { MARKER_FILE } else { "its packs" };
            return Err(format!("{} does not hold {what}; is the volume mounted?", folder.display()));
        }
    }
    known.marker.write(folder).map_err(|error| error.to_string())
}

/// Looks whether a folder has its marker; false when it has none at all.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn is_marked(folder: &Path, wanted: &Marker) -> std::result::Result<bool, String> {
    match Marker::read(folder)? {
        None => Ok(false),
        Some(found) if found == *wanted => Ok(true),
        Some(found) => Err(format!(
            "{} belongs to the mail store {:?} of {} installation",
            folder.display(),
            found.store,
            if found.instance == wanted.instance { "this" } else { "another" }
        )),
    }
}

/// How the folder of a mail store is on this node.
#[derive(Debug, Default)]
pub(super) struct Mount(Mutex<Standing>);

#[derive(Debug, Default)]
enum Standing {
    /// Nobody has looked: only daemons do.
    #[default]
    Unknown,
    Good(PathBuf, Marker),
    Bad(String),
}

impl Mount {
    /// What is wrong with it; nothing while it can be used.
    pub(super) fn trouble(&self) -> Option<String> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Standing::Bad(what) => Some(what.clone()),
            Standing::Unknown | Standing::Good(..) => None,
        }
    }

    /// Notes what a look has found. Answers whether that is news.
    pub(super) fn note(
        &self,
        folder: &Path,
        marker: &Marker,
        found: std::result::Result<(), String>,
    ) -> bool {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was_bad = matches!(*standing, Standing::Bad(_));
        let is_bad = found.is_err();
        *standing = match found {
            Ok(()) => Standing::Good(folder.to_owned(), marker.clone()),
            Err(what) => Standing::Bad(what),
        };
        was_bad != is_bad
    }

    /// Forgets what was found: the store is stopped.
    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Standing::Unknown;
    }

    /// Looks again, right before something is written or taken for removed. Reads a file: call it where blocking is
    /// allowed.
    ///
    /// # Errors
    /// `Busy` when the folder is not what it was.
    pub(super) fn confirm(&self) -> Result<()> {
        let (folder, marker) = match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Standing::Unknown => return Ok(()),
            Standing::Bad(_) => return Err(NOT_MOUNTED),
            Standing::Good(folder, marker) => (folder.clone(), marker.clone()),
        };
        if is_marked(&folder, &marker) == Ok(true) { Ok(()) } else { Err(NOT_MOUNTED) }
    }
}
