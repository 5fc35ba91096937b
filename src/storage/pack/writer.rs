//! Writes a pack so that it is either complete under its name or not there.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::codec::{CodecKind, ORIGINAL_OCTETS_MAX, check_lengths};
use super::dictionary::DICTIONARY_NONE;
use super::format::{
    FRAME_HEADER_OCTETS, FrameHeader, FrameLocation, HEADER_OCTETS, IndexEntry, PackName, encode_frame,
    encode_header, encode_index,
};
use crate::base::id::{BodyId, StoreId};
use crate::storage::{Result, StorageError};

/// A pack is closed when it has this many bytes: large enough that requests to object storage cost next to
/// nothing, small enough to be rewritten in a second.
pub const TARGET_OCTETS: u64 = 32 << 20;
/// Most bodies of a pack, so that its index stays small however small they are.
const FRAMES_MAX: usize = 1 << 18;
/// Written to the file in pieces of this size.
const BUFFER_OCTETS: usize = 256 * 1024;
/// The disk gets it in portions of so many bytes: a whole pack at once would be in the way of the database's commits,
/// which the file system writes behind it.
pub const SYNC_OCTETS: u64 = 1 << 20;

/// A pack that was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackSummary {
    /// Its name.
    pub name: PackName,
    /// Its length, in bytes.
    pub octets: u64,
    /// How many bodies it has.
    pub frames: u32,
    /// Numbers of the dictionaries that its frames need.
    pub dictionaries: BTreeSet<u32>,
}

/// Writes one pack. Dropped before [`finish`](Self::finish), it removes its file.
#[derive(Debug)]
pub struct PackWriter {
    name: PackName,
    folder: PathBuf,
    /// Nothing after `finish` gave the file its name.
    temporary: Option<PathBuf>,
    file: File,
    buffer: Vec<u8>,
    octets: u64,
    /// Of them given to the file since it was last synced.
    unsynced_octets: u64,
    index: Vec<IndexEntry>,
    dictionaries: BTreeSet<u32>,
}

impl PackName {
    /// File of the pack below the folder of its store. 256 folders keep each of them small.
    pub fn path(self, store_folder: &Path) -> PathBuf {
        let text = self.to_string();
        let (prefix, _) = text.split_at_checked(2).unwrap_or((&text, ""));
        store_folder.join(prefix).join(format!("{text}.pack"))
    }

    /// File of the pack while it is written.
    pub fn temporary_path(self, store_folder: &Path) -> PathBuf {
        self.path(store_folder).with_extension("pack.tmp")
    }
}

impl PackWriter {
    /// Begins a pack below `store_folder`, which is made if it isn't there.
    ///
    /// # Errors
    /// `Io` or `Full` when the file cannot be made; nothing is left then but perhaps an empty folder.
    pub fn create(store_folder: &Path, name: PackName, store: StoreId) -> Result<Self> {
        let temporary = name.temporary_path(store_folder);
        let folder = temporary.parent().unwrap_or(store_folder).to_owned();
        if !folder.is_dir() {
            std::fs::create_dir_all(&folder).map_err(|error| io_error("create", &folder, error))?;
            // The first pack of a store also makes the folders above.
            for above in folder.ancestors().skip(1).take(3).filter(|above| above.is_dir()) {
                sync_folder(above)?;
            }
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|error| io_error("create", &temporary, error))?;
        let buffer = encode_header(name, store);
        let index = Vec::new();
        Ok(Self {
            name,
            folder,
            temporary: Some(temporary),
            file,
            buffer,
            octets: HEADER_OCTETS as u64,
            unsynced_octets: 0,
            index,
            dictionaries: BTreeSet::new(),
        })
    }

    /// Appends a body: `data` is what [`Codec::compress`](super::Codec::compress) made of it, `hash` the
    /// BLAKE3 of the original.
    ///
    /// # Errors
    /// `Corrupt` when the lengths can't belong together, `Full` or `Io` when it cannot be written. After an
    /// error the pack can only be dropped.
    pub fn append(&mut self, header: &FrameHeader, data: &[u8]) -> Result<FrameLocation> {
        let original_len = usize::try_from(header.original_len).unwrap_or(usize::MAX);
        if usize::try_from(header.stored_len) != Ok(data.len()) {
            return Err(StorageError::Corrupt(format!("body {} is cut off", header.body)));
        }
        check_lengths(header.codec, data.len(), original_len)?;
        let length = u32::try_from(FRAME_HEADER_OCTETS + data.len());
        let (Ok(offset), Ok(length)) = (u32::try_from(self.octets), length) else {
            return Err(StorageError::Corrupt(format!("body {} is too large for a pack", header.body)));
        };
        encode_frame(self.name, header, data, &mut self.buffer);
        self.index.push(IndexEntry { body: header.body, offset });
        self.octets += u64::from(length);
        if header.dictionary_id != DICTIONARY_NONE {
            self.dictionaries.insert(header.dictionary_id);
        }
        if self.buffer.len() >= BUFFER_OCTETS {
            self.flush()?;
        }
        Ok(FrameLocation { offset, length })
    }

    /// Whether the pack has reached its size.
    pub fn is_full(&self) -> bool {
        self.octets >= TARGET_OCTETS || self.index.len() >= FRAMES_MAX
    }

    /// Whether nothing was appended.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Length so far, in bytes.
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// Completes the pack. When this returns, file and name survive power loss.
    ///
    /// # Errors
    /// `Corrupt` when a body was appended twice, `Full` or `Io` when it cannot be written: then the pack
    /// may have its final name, but must not be relied on.
    pub fn finish(mut self) -> Result<PackSummary> {
        self.index.sort_unstable();
        if !self.index.is_sorted_by(|a, b| a.body < b.body) {
            return Err(StorageError::Corrupt("a body was appended twice".to_owned()));
        }
        let end = encode_index(self.name, &self.index, self.octets)?;
        self.octets += end.len() as u64;
        self.buffer.extend_from_slice(&end);
        self.flush()?;
        let Some(temporary) = self.temporary.clone() else { return Err(StorageError::Gone("pack")) };
        self.file.sync_all().map_err(|error| io_error("sync", &temporary, error))?;
        let path = temporary.with_extension("");
        std::fs::rename(&temporary, &path).map_err(|error| io_error("rename", &temporary, error))?;
        self.temporary = None;
        sync_folder(&self.folder)?;
        let frames = u32::try_from(self.index.len()).unwrap_or(u32::MAX);
        let dictionaries = std::mem::take(&mut self.dictionaries);
        Ok(PackSummary { name: self.name, octets: self.octets, frames, dictionaries })
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write_all(&self.buffer);
        let failed = |error| io_error("write", &self.name.temporary_path(Path::new("")), error);
        written.map_err(failed)?;
        self.unsynced_octets += self.buffer.len() as u64;
        self.buffer.clear();
        if self.unsynced_octets >= SYNC_OCTETS {
            self.file.sync_data().map_err(failed)?;
            self.unsynced_octets = 0;
        }
        Ok(())
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // What can't be removed now is removed by the clean-up at start, which knows the name.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

impl FrameHeader {
    /// Describes `original` and what became of it.
    ///
    /// # Errors
    /// `Corrupt` when it is larger than [`ORIGINAL_OCTETS_MAX`].
    pub fn new(body: BodyId, original: &[u8], compressed: &super::Compressed) -> Result<Self> {
        let too_large =
            || StorageError::Corrupt(format!("body {body} is larger than {ORIGINAL_OCTETS_MAX} bytes"));
        if original.len() > ORIGINAL_OCTETS_MAX {
            return Err(too_large());
        }
        Ok(Self {
            body,
            codec: compressed.codec,
            dictionary_id: compressed.dictionary_id,
            original_len: u32::try_from(original.len()).map_err(|_| too_large())?,
            stored_len: u32::try_from(compressed.data.len()).map_err(|_| too_large())?,
            hash: *blake3::hash(original).as_bytes(),
        })
    }

    /// The same body compressed in another way.
    pub(super) fn recoded(&self, compressed: &super::Compressed) -> Self {
        Self {
            codec: compressed.codec,
            dictionary_id: compressed.dictionary_id,
            // Nothing is compressed to more than it was, and that fits.
            stored_len: u32::try_from(compressed.data.len()).unwrap_or(u32::MAX),
            ..self.clone()
        }
    }

    /// Whether the data is the body itself.
    pub fn is_raw(&self) -> bool {
        self.codec == CodecKind::Raw
    }
}

/// Makes the names in a folder survive power loss.
///
/// # Errors
/// `Io` when the system can't promise it.
pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|error| io_error("sync", folder, error))
}

/// Says what was done to which file; a full volume is told apart, because it recovers by itself.
pub(super) fn io_error(what: &str, path: &Path, error: std::io::Error) -> StorageError {
    match error.kind() {
        std::io::ErrorKind::StorageFull
        | std::io::ErrorKind::QuotaExceeded
        | std::io::ErrorKind::FileTooLarge => StorageError::Full,
        _ => StorageError::Io { what: format!("{what} {}", path.display()), error },
    }
}
