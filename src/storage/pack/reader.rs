//! Reads single bodies out of a pack. Every read checks length, CRC-32C and BLAKE3; what is wrong with one
//! frame is an error for that body alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::codec::Codec;
use super::format::{
    FRAME_HEADER_OCTETS, FrameHeader, FrameLocation, HEADER_OCTETS, INDEX_ENTRY_OCTETS, IndexEntry, PackName,
    TRAILER_OCTETS, Trailer, corrupt, decode_frame, decode_header, decode_index, decode_trailer, to_usize,
};
use super::writer::io_error;
use crate::base::id::{BodyId, StoreId};
use crate::storage::{Result, StorageError};

/// An open pack. Reads are positional, so that many tasks may read at once.
#[derive(Debug)]
pub struct PackReader {
    file: File,
    path: PathBuf,
    name: PackName,
    store: StoreId,
    octets: u64,
}

impl PackReader {
    /// Opens a pack and checks its header.
    ///
    /// # Errors
    /// `Gone` when there is no such file, `Corrupt` when its header is damaged, `Io` when it cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => StorageError::Gone("pack"),
            _ => io_error("open", path, error),
        })?;
        let octets = file.metadata().map_err(|error| io_error("open", path, error))?.len();
        let header = read_at(&file, path, 0, HEADER_OCTETS)?;
        let (name, store) = decode_header(&header)?;
        Ok(Self { file, path: path.to_owned(), name, store, octets })
    }

    /// The pack's name.
    pub const fn name(&self) -> PackName {
        self.name
    }

    /// The store that the pack was written for.
    pub const fn store(&self) -> StoreId {
        self.store
    }

    /// Length of the file, in bytes.
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// Gives back the body that is said to be at `location`.
    ///
    /// # Errors
    /// `Corrupt` when what is there is damaged or another body, `Io` when it cannot be read.
    pub fn read(&self, codec: &Codec, location: FrameLocation, body: BodyId) -> Result<Vec<u8>> {
        let bytes = read_at(&self.file, &self.path, u64::from(location.offset), self.within(location)?)?;
        let (header, data) = decode_frame(self.name, &bytes)?;
        if header.body != body || FRAME_HEADER_OCTETS + data.len() != bytes.len() {
            return Err(StorageError::Corrupt(format!("not body {body}, but body {}", header.body)));
        }
        unpack(codec, &header, data)
    }

    /// Length of a frame that lies within the file, so that no wrong length takes memory.
    fn within(&self, location: FrameLocation) -> Result<usize> {
        let end = u64::from(location.offset) + u64::from(location.length);
        if end <= self.octets { Ok(to_usize(location.length)) } else { Err(corrupt("the pack is cut off")) }
    }

    /// The index: all bodies of the pack, ascending.
    ///
    /// # Errors
    /// `Corrupt` when index or trailer is damaged, `Io` when they cannot be read.
    pub fn index(&self) -> Result<Vec<IndexEntry>> {
        let trailer = self.trailer()?;
        let length = to_usize(trailer.frames).saturating_mul(INDEX_ENTRY_OCTETS);
        let bytes = read_at(&self.file, &self.path, trailer.index_offset, length)?;
        decode_index(self.name, trailer, &bytes)
    }

    /// The trailer, which fits the length of the file.
    pub(super) fn trailer(&self) -> Result<Trailer> {
        let offset =
            self.octets.checked_sub(TRAILER_OCTETS as u64).ok_or_else(|| corrupt("the pack is cut off"))?;
        let bytes = read_at(&self.file, &self.path, offset, TRAILER_OCTETS)?;
        decode_trailer(self.name, &bytes, self.octets)
    }

    /// `length` bytes at `offset`, or less where the file ends.
    pub(super) fn window(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let left = usize::try_from(self.octets.saturating_sub(offset)).unwrap_or(usize::MAX);
        read_at(&self.file, &self.path, offset, length.min(left))
    }
}

/// Decompresses a frame's data and compares it with the hash of the original.
///
/// # Errors
/// `Corrupt` when it is not the original.
pub(super) fn unpack(codec: &Codec, header: &FrameHeader, data: &[u8]) -> Result<Vec<u8>> {
    let original =
        codec.decompress(header.codec, header.dictionary_id, data, to_usize(header.original_len))?;
    if blake3::hash(&original).as_bytes() != &header.hash {
        return Err(StorageError::Corrupt(format!("body {} is not what was packed", header.body)));
    }
    Ok(original)
}

fn read_at(file: &File, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| StorageError::Busy("no memory to read a pack"))?;
    bytes.resize(length, 0);
    file.read_exact_at(&mut bytes, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => corrupt("the pack is cut off"),
        _ => io_error("read", path, error),
    })?;
    Ok(bytes)
}
