//! Files of catalogs: complete under their name or not there.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::format::{Header, SectionReader, SectionWriter};
use crate::storage::background::background;
use crate::storage::pack::{PackName, sync_folder};
use crate::storage::remote::ObjectKey;
use crate::storage::{Result, StorageError};

/// Shorter sections are compressed where they are, without a hand-over to another thread.
const INLINE_OCTETS_MAX: usize = 16 << 10;

/// The folder of a store's catalogs.
pub fn folder(store_folder: &Path) -> PathBuf {
    store_folder.join("catalogs")
}

/// The file of a catalog.
pub fn path(store_folder: &Path, name: PackName) -> PathBuf {
    folder(store_folder).join(format!("{name}.catalog"))
}

/// The object of a catalog.
pub fn key(name: PackName) -> ObjectKey {
    ObjectKey::in_folder("catalogs", &format!("{name}.catalog"))
}

/// The file that names the present state of a store.
pub fn current_path(store_folder: &Path) -> PathBuf {
    folder(store_folder).join("CURRENT")
}

/// The object that does: the only one that is written again under its key.
pub fn current_key() -> ObjectKey {
    ObjectKey::in_folder("catalogs", "CURRENT")
}

/// The file of a dictionary.
pub fn dictionary_path(store_folder: &Path, number: u32) -> PathBuf {
    store_folder.join("dictionaries").join(format!("{number}.dictionary"))
}

/// The object of a dictionary.
pub fn dictionary_key(number: u32) -> ObjectKey {
    ObjectKey::in_folder("dictionaries", &format!("{number}.dictionary"))
}

fn io<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(std::io::Error) -> StorageError + 'a {
    move |error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StorageError::Full,
        _ => StorageError::Io { what: format!("{what} {}", path.display()), error },
    }
}

type Inner = SectionWriter<BufWriter<File>>;

/// Writes one file. Dropped before [`finish`](Self::finish), it removes what it wrote.
pub struct FileWriter {
    target: PathBuf,
    temporary: Option<PathBuf>,
    inner: Option<Inner>,
    octets: u64,
}

impl FileWriter {
    /// Begins the file `target`, whose folder is made if it is not there.
    ///
    /// # Errors
    /// `Io` or `Full`.
    pub async fn create(target: PathBuf, header: Header) -> Result<Self> {
        background(move || {
            let folder = target.parent().unwrap_or(&target).to_owned();
            if !folder.is_dir() {
                std::fs::create_dir_all(&folder).map_err(io("create", &folder))?;
                for above in folder.ancestors().skip(1).take(2).filter(|above| above.is_dir()) {
                    sync_folder(above)?;
                }
            }
            let temporary = temporary(&target);
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary);
            let file = file.map_err(io("create", &temporary))?;
            let mut own = Self { target, temporary: Some(temporary), inner: None, octets: 0 };
            let inner = SectionWriter::new(BufWriter::with_capacity(256 << 10, file), header)?;
            own.octets = inner.octets();
            own.inner = Some(inner);
            Ok(own)
        })
        .await
    }

    /// Octets so far.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    fn take(&mut self) -> Result<Inner> {
        self.inner.take().ok_or(StorageError::Busy("writing a catalog was interrupted"))
    }

    /// Appends a section; answers how many octets it takes.
    ///
    /// # Errors
    /// `Io` or `Full`, `Corrupt` when it is too long; then the file can only be dropped.
    pub async fn append(&mut self, kind: u8, plain: Vec<u8>) -> Result<u64> {
        let mut inner = self.take()?;
        let (inner, octets) = if plain.len() <= INLINE_OCTETS_MAX {
            let octets = inner.append(kind, &plain)?;
            (inner, octets)
        } else {
            background(move || {
                let octets = inner.append(kind, &plain)?;
                Ok((inner, octets))
            })
            .await?
        };
        self.octets = inner.octets();
        self.inner = Some(inner);
        Ok(octets)
    }

    /// As [`Self::append`], where blocking is allowed.
    pub(super) fn append_blocking(&mut self, kind: u8, plain: &[u8]) -> Result<u64> {
        let inner = self.inner.as_mut().ok_or(StorageError::Busy("writing a catalog was interrupted"))?;
        let octets = inner.append(kind, plain)?;
        self.octets = inner.octets();
        Ok(octets)
    }

    /// Gives the file its name; when this returns it survives power loss. Answers its length.
    ///
    /// # Errors
    /// `Io` or `Full`; then there is no file.
    pub async fn finish(mut self) -> Result<u64> {
        let inner = self.take()?;
        background(move || {
            let (buffer, octets) = inner.finish()?;
            let temporary = self.temporary.clone().unwrap_or_default();
            let file = buffer.into_inner().map_err(|error| io("write", &temporary)(error.into_error()))?;
            file.sync_all().map_err(io("write", &temporary))?;
            drop(file);
            std::fs::rename(&temporary, &self.target).map_err(io("rename", &temporary))?;
            self.temporary = None;
            if let Some(folder) = self.target.parent() {
                sync_folder(folder)?;
            }
            Ok(octets)
        })
        .await
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // What is left is overwritten or removed by its row.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

fn temporary(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

/// Puts a small file in the place of another: readers find the one or the other, whole.
///
/// # Errors
/// `Io` or `Full`; then the old one is there.
pub fn replace(target: &Path, bytes: &[u8]) -> Result<()> {
    let folder = target.parent().unwrap_or(target);
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    let temporary = temporary(target);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(io("write", &temporary))?;
    std::fs::rename(&temporary, target).map_err(io("rename", &temporary))?;
    sync_folder(folder)
}

/// Removes a file, under either name; that it is not there is as well.
///
/// # Errors
/// `Io` when it is still there.
pub fn remove(target: &Path) -> Result<()> {
    let mut removed = false;
    for path in [temporary(target), target.to_owned()] {
        match std::fs::remove_file(&path) {
            Ok(()) => removed = true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("remove", &path)(error)),
        }
    }
    // Or a power loss brings the file back after its row was deleted.
    target.parent().filter(|_| removed).map_or(Ok(()), sync_folder)
}

/// Opens a file and reads its header.
///
/// # Errors
/// `Gone` when it is not there; `Corrupt` or `Io`.
pub fn open(path: &Path) -> Result<SectionReader<BufReader<File>>> {
    let file = File::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => StorageError::Gone("catalog"),
        _ => io("open", path)(error),
    })?;
    SectionReader::new(BufReader::with_capacity(256 << 10, file))
}
