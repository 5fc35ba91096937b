//! What is left of a store when the database is lost: reading CURRENT, catalogs, dictionaries and packs from the
//! volume, or from object storage. The one place that lists folders, while nothing else runs.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use super::current::{Current, OCTETS_MAX};
use super::file::{self, current_key, current_path, dictionary_key, dictionary_path};
use super::format::{Kind, SectionReader, corrupt};
use super::record::{CatalogRecord, DictionaryRecord, MailboxRecord, from_json, section};
use crate::storage::pack::PackName;
use crate::storage::remote::{ObjectKey, Remote};
use crate::storage::{Result, StorageError};

/// Largest dictionary's file in object storage.
const DICTIONARY_OCTETS_MAX: u64 = 16 << 20;

/// An open catalog.
pub type Reader = SectionReader<BufReader<File>>;

/// What is left of a store.
#[derive(Clone, Debug)]
pub struct Remains {
    /// The store's folder.
    pub folder: PathBuf,
    /// Its object storage, if it has one.
    pub remote: Option<Remote>,
    /// Where copies of objects are put for a while.
    pub scratch: PathBuf,
}

/// A pack's file to read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fetched {
    /// The file.
    pub path: PathBuf,
    /// Whether it is a copy of an object, to be removed after use.
    pub is_copy: bool,
}

impl Remains {
    /// The newest state that can be read, on the volume or in object storage, and what was wrong with the other. No
    /// state when neither is there.
    pub async fn current(&self) -> (Option<Current>, Vec<String>) {
        let mut wrong = Vec::new();
        let mut found: Vec<Current> = Vec::new();
        match File::open(current_path(&self.folder)) {
            Ok(input) => match Current::read(BufReader::new(input)) {
                Ok(current) => found.push(current),
                Err(error) => wrong.push(format!("catalogs/CURRENT on the volume: {error}")),
            },
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => wrong.push(format!("catalogs/CURRENT on the volume: {error}")),
        }
        if let Some(remote) = &self.remote {
            match remote.get_bytes(&current_key(), OCTETS_MAX).await {
                Ok(bytes) => match Current::read(bytes.as_ref()) {
                    Ok(current) => found.push(current),
                    Err(error) => wrong.push(format!("catalogs/CURRENT in object storage: {error}")),
                },
                Err(error) => wrong.push(format!("catalogs/CURRENT in object storage: {error}")),
            }
        }
        (found.into_iter().max_by_key(|current| current.record.number), wrong)
    }

    /// A state made of all catalogs on the volume, for when no CURRENT can be read: the last whole entry of each
    /// mailbox and those after it. What was removed from the present state comes back with it.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn without_current(&self) -> Result<Option<Current>> {
        let mut current = Current::default();
        for path in list(&file::folder(&self.folder), "catalog")? {
            let Ok(reader) = file::open(&path) else { continue };
            let header = reader.header();
            let octets = std::fs::metadata(&path).map_or(0, |found| found.len());
            let is_directory = header.kind == Kind::Directory;
            let entries = if is_directory { Vec::new() } else { entries_of(reader) };
            current.record.at = current.record.at.max(header.at.0);
            let name = header.name.to_string();
            current.catalogs.push(CatalogRecord { name, is_directory, octets, entries });
        }
        Ok((!current.catalogs.is_empty()).then_some(current))
    }

    /// Opens a catalog, after it was fetched from object storage if it is not on the volume.
    ///
    /// # Errors
    /// `Corrupt`, `Gone`, `Io`, or what object storage says.
    pub async fn catalog(&self, record: &CatalogRecord) -> Result<Reader> {
        let name = parse(&record.name)?;
        match file::open(&file::path(&self.folder, name)) {
            Err(error) if self.remote.is_some() => {
                tracing::debug!(%error, catalog = %name, "read from object storage");
            }
            opened => return opened,
        }
        let path = self.scratch.join(format!("{name}.catalog"));
        if !path.exists() {
            self.fetch(&file::key(name), record.octets, &path).await?;
        }
        file::open(&path)
    }

    async fn fetch(&self, key: &ObjectKey, octets: u64, path: &Path) -> Result<()> {
        let remote = self.remote.as_ref().ok_or(StorageError::Gone("object storage"))?;
        Ok(remote.get_to_file(key, octets, path).await?)
    }

    /// A dictionary: whose it is, and its bytes.
    ///
    /// # Errors
    /// `Corrupt`, `Gone`, `Io`, or what object storage says.
    pub async fn dictionary(&self, number: u32) -> Result<(DictionaryRecord, Vec<u8>)> {
        match file::open(&dictionary_path(&self.folder, number)).and_then(dictionary) {
            Ok(read) => return Ok(read),
            Err(error) if self.remote.is_none() => return Err(error),
            Err(_) => {}
        }
        let remote = self.remote.as_ref().ok_or(StorageError::Gone("object storage"))?;
        let bytes = remote.get_bytes(&dictionary_key(number), DICTIONARY_OCTETS_MAX).await?;
        dictionary(SectionReader::new(bytes.as_ref())?)
    }

    /// Numbers of the dictionaries on the volume.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn dictionaries(&self) -> Result<Vec<u32>> {
        let files = list(&self.folder.join("dictionaries"), "dictionary")?;
        let number = |path: &PathBuf| path.file_stem()?.to_str()?.parse().ok();
        Ok(files.iter().filter_map(number).collect())
    }

    /// Names and lengths of the packs on the volume.
    ///
    /// # Errors
    /// `Io` when a folder cannot be read.
    pub fn packs(&self) -> Result<Vec<(PackName, u64)>> {
        let folder = self.folder.join("packs");
        let mut packs = Vec::new();
        for below in folders(&folder)? {
            for path in list(&below, "pack")? {
                let name = path.file_stem().and_then(|stem| PackName::parse(stem.to_str()?));
                let octets = std::fs::metadata(&path).map_or(0, |found| found.len());
                packs.extend(name.map(|name| (name, octets)));
            }
        }
        packs.sort_unstable();
        Ok(packs)
    }

    /// The file of a pack, after it was fetched from object storage if it is not on the volume.
    ///
    /// # Errors
    /// `Gone`, `Io`, or what object storage says.
    pub async fn pack(&self, name: PackName, octets: u64) -> Result<Fetched> {
        let path = name.path(&self.folder.join("packs"));
        if path.exists() {
            return Ok(Fetched { path, is_copy: false });
        }
        let path = self.scratch.join(format!("{name}.pack"));
        self.fetch(&ObjectKey::of_pack(name), octets, &path).await?;
        Ok(Fetched { path, is_copy: true })
    }
}

fn parse(text: &str) -> Result<PackName> {
    PackName::parse(text).ok_or_else(|| corrupt(format!("{text} is no name of a catalog")))
}

fn dictionary(mut reader: SectionReader<impl std::io::Read>) -> Result<(DictionaryRecord, Vec<u8>)> {
    let (mut record, mut bytes) = (None, Vec::new());
    if reader.header().kind != Kind::Dictionary {
        return Err(corrupt("this file is no dictionary"));
    }
    while let Some((kind, plain)) = reader.next_section()? {
        match kind {
            section::DICTIONARY_OWNER => record = Some(from_json(&plain)?),
            section::DICTIONARY => bytes = plain,
            _ => {}
        }
    }
    record.map(|record| (record, bytes)).ok_or_else(|| corrupt("the dictionary does not say whose it is"))
}

/// Mailbox and sequence of the entries of a file, as far as it can be read.
fn entries_of(mut reader: Reader) -> Vec<(i64, u64)> {
    let mut entries = Vec::new();
    while let Ok(Some((kind, plain))) = reader.next_section() {
        if kind == section::MAILBOX
            && let Ok(record) = from_json::<MailboxRecord>(&plain)
        {
            entries.push((record.id, record.sequence));
        }
    }
    entries
}

fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>> {
    let io = |error| StorageError::Io { what: format!("list {}", folder.display()), error };
    match std::fs::read_dir(folder) {
        Ok(entries) => entries.collect::<std::io::Result<_>>().map_err(io),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(io(error)),
    }
}

fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders: Vec<PathBuf> = entries(folder)?.into_iter().map(|entry| entry.path()).collect();
    folders.retain(|path| path.is_dir());
    folders.sort_unstable();
    Ok(folders)
}

fn list(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = entries(folder)?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort_unstable();
    Ok(files)
}
