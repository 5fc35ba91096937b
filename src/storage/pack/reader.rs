//! Reads single bodies out of a pack. Every read checks length, CRC-32C and BLAKE3; what is wrong with one
//! frame is an error for that body alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::codec::{Codec, CodecKind};
use super::format::{
    FRAME_HEADER_OCTETS, FrameHeader, FrameLocation, HEADER_OCTETS, INDEX_ENTRY_OCTETS, IndexEntry, PackName,
    TRAILER_OCTETS, Trailer, corrupt, decode_frame, decode_header, decode_index, decode_trailer, to_usize,
};
use super::recipe::Recipe;
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

    /// Gives back the frame of the body that is said to be at `location`.
    ///
    /// # Errors
    /// `Corrupt` when what is there is damaged or another body, `Io` when it cannot be read.
    pub fn frame(&self, location: FrameLocation, body: BodyId) -> Result<Frame> {
        let bytes = read_at(&self.file, &self.path, u64::from(location.offset), self.within(location)?)?;
        Frame::decode(self.name, bytes, body)
    }

    /// Gives back the body that is said to be at `location` and needs no others.
    ///
    /// # Errors
    /// As [`Self::frame`] and [`Frame::content`]; `Corrupt` when it is made of parts.
    pub fn read(&self, codec: &Codec, location: FrameLocation, body: BodyId) -> Result<Vec<u8>> {
        match self.frame(location, body)?.content(codec)? {
            Content::Whole(original) => Ok(original),
            Content::Parts(_) => Err(StorageError::Corrupt(format!("body {body} is made of parts"))),
        }
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

    /// Compares every frame and the index with their checksums, without decompressing anything.
    ///
    /// # Errors
    /// `Corrupt` with the first that is wrong, `Io` when the file cannot be read.
    pub fn check(&self) -> Result<()> {
        let end = u32::try_from(self.trailer()?.index_offset).map_err(|_| corrupt("the pack is too long"))?;
        let mut index = self.index()?;
        index.sort_unstable_by_key(|entry| entry.offset);
        let ends = index.iter().skip(1).map(|entry| entry.offset).chain([end]);
        for (entry, end) in index.iter().zip(ends) {
            let length = end.checked_sub(entry.offset).ok_or_else(|| corrupt("the index is damaged"))?;
            self.frame(FrameLocation { offset: entry.offset, length }, entry.body)?;
        }
        Ok(())
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

/// The end of a pack that is read by ranges: it tells where the index is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackEnd {
    name: PackName,
    trailer: Trailer,
}

impl PackEnd {
    /// Its length.
    pub const OCTETS: u64 = TRAILER_OCTETS as u64;

    /// Reads the last octets of a pack of `octets`.
    ///
    /// # Errors
    /// `Corrupt` when they are damaged or do not fit.
    pub fn decode(name: PackName, bytes: &[u8], octets: u64) -> Result<Self> {
        Ok(Self { name, trailer: decode_trailer(name, bytes, octets)? })
    }

    /// Offset and length of the index.
    pub fn index_place(&self) -> (u64, u64) {
        (self.trailer.index_offset, u64::from(self.trailer.frames) * INDEX_ENTRY_OCTETS as u64)
    }

    /// Reads the index: all bodies of the pack, ascending.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged.
    pub fn index(&self, bytes: &[u8]) -> Result<Vec<IndexEntry>> {
        decode_index(self.name, self.trailer, bytes)
    }
}

/// A frame that was read, wherever its pack is; its checksum is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    header: FrameHeader,
    /// The whole frame.
    bytes: Vec<u8>,
}

/// What a frame says of its body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// The body, which has its hash.
    Whole(Vec<u8>),
    /// How it is made of parts, which are bodies of their own; see [`Frame::assemble`].
    Parts(Recipe),
}

impl Frame {
    /// Reads the bytes that a pack has where `body` is said to be.
    ///
    /// # Errors
    /// `Corrupt` when they are damaged or another body.
    pub fn decode(pack: PackName, bytes: Vec<u8>, body: BodyId) -> Result<Self> {
        let (header, data) = decode_frame(pack, &bytes)?;
        if header.body != body || FRAME_HEADER_OCTETS + data.len() != bytes.len() {
            return Err(StorageError::Corrupt(format!("not body {body}, but body {}", header.body)));
        }
        Ok(Self { header, bytes })
    }

    /// What stands before the data.
    pub const fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The data.
    pub fn data(&self) -> &[u8] {
        self.bytes.get(FRAME_HEADER_OCTETS..).unwrap_or_default()
    }

    /// Decompresses it.
    ///
    /// # Errors
    /// `Corrupt` when it is not what was packed; `Busy` when there is no memory.
    pub fn content(&self, codec: &Codec) -> Result<Content> {
        content(codec, &self.header, self.data())
    }

    /// The body, made of its parts by its recipe.
    ///
    /// # Errors
    /// `Corrupt` when a part is missing or damaged; `Busy` when there is no memory.
    pub fn assemble(&self, recipe: &Recipe, parts: &BTreeMap<BodyId, Bytes>) -> Result<Vec<u8>> {
        let original = recipe.assemble(parts)?;
        self.header.check(&original)?;
        Ok(original)
    }
}

impl FrameHeader {
    /// Compares a body with what was packed.
    fn check(&self, original: &[u8]) -> Result<()> {
        if blake3::hash(original).as_bytes() == &self.hash {
            return Ok(());
        }
        Err(StorageError::Corrupt(format!("body {} is not what was packed", self.body)))
    }
}

/// Decompresses a frame's data. A body that needs no others is compared with its hash.
pub(super) fn content(codec: &Codec, header: &FrameHeader, data: &[u8]) -> Result<Content> {
    let original_len = to_usize(header.original_len);
    let original = if header.codec == CodecKind::Recipe {
        let recipe = codec.open_recipe(header.dictionary_id, data, original_len)?;
        if !recipe.parts().is_empty() {
            return Ok(Content::Parts(recipe));
        }
        recipe.assemble(&BTreeMap::new())?
    } else {
        codec.decompress(header.codec, header.dictionary_id, data, original_len)?
    };
    header.check(&original)?;
    Ok(Content::Whole(original))
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
