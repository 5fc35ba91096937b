//! The bytes of a pack: encoding and decoding of its four structures. No file is touched here.
//!
//! ```text
//! header   magic 8 · version 4 · pack name 16 · store 8 · CRC-32C 4
//! frame    marker 2 · codec 1 · dictionary 4 · body 8 · original length 4 · stored length 4 · BLAKE3 32 ·
//!          CRC-32C 4 · data                                                                (any number)
//! index    body 8 · offset 4, ascending by body                                            (one per frame)
//! trailer  magic 8 · index offset 8 · frames 4 · CRC-32C of the index 4 · CRC-32C 4
//! ```
//!
//! Numbers are little-endian. The marker is the first two bytes of the pack's name, and every CRC-32C
//! starts with the name, so that a frame is valid only in its pack.

use crate::base::id::{BodyId, StoreId, random_bytes};
use crate::storage::pack::codec::{CodecKind, check_lengths};
use crate::storage::{Result, StorageError};

/// First bytes of a pack. CR, LF and 0x1a reveal transfers in text mode, as in PNG.
const HEADER_MAGIC: [u8; 8] = *b"PHPK\r\n\x1a\n";
/// First bytes of the trailer.
const TRAILER_MAGIC: [u8; 8] = *b"PHPKEND\n";
/// Version of the format.
const VERSION: u32 = 1;
/// Length of the header.
pub(super) const HEADER_OCTETS: usize = 40;
/// Length of a frame without its data.
pub(super) const FRAME_HEADER_OCTETS: usize = 59;
/// Length of an entry of the index.
pub(super) const INDEX_ENTRY_OCTETS: usize = 12;
/// Length of the trailer.
pub(super) const TRAILER_OCTETS: usize = 28;

/// A pack's random name (128 bits): its file is called so, and its checksums are keyed with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackName(pub [u8; 16]);

impl PackName {
    /// A new name.
    pub fn random() -> Self {
        let mut name = [0; 16];
        name.iter_mut().zip(random_bytes(16)).for_each(|(byte, random)| *byte = random);
        Self(name)
    }

    /// Reads the 32 hexadecimal digits that [`Display`](std::fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        let number = u128::from_str_radix(text, 16).ok()?;
        let canonical = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| Self(number.to_be_bytes()))
    }

    /// First bytes of every frame of this pack. Senders don't know the name, so no message can be full of
    /// them and slow down a search for frames.
    pub(super) const fn marker(self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }

    /// The state in which every checksum of this pack begins.
    fn checksum(self) -> u32 {
        crc32c::crc32c(&self.0)
    }
}

impl std::fmt::Display for PackName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Where a frame is in its pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameLocation {
    /// Distance of the frame from the beginning of the pack, in bytes.
    pub offset: u32,
    /// Length of the whole frame, in bytes.
    pub length: u32,
}

impl FrameLocation {
    /// A frame whose data has `stored_octets`; nothing if no pack can be that large.
    pub fn of_data(offset: u64, stored_octets: u64) -> Option<Self> {
        let length = stored_octets.checked_add(FRAME_HEADER_OCTETS as u64)?;
        Some(Self { offset: u32::try_from(offset).ok()?, length: u32::try_from(length).ok()? })
    }
}

/// What stands before the data of a frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    /// The body.
    pub body: BodyId,
    /// How the data is stored.
    pub codec: CodecKind,
    /// Number of the dictionary; zero if there is none.
    pub dictionary_id: u32,
    /// Length of the body, in bytes.
    pub original_len: u32,
    /// Length of the data, in bytes.
    pub stored_len: u32,
    /// BLAKE3 of the body.
    pub hash: [u8; 32],
}

/// An entry of the index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct IndexEntry {
    /// The body.
    pub body: BodyId,
    /// Distance of its frame from the beginning of the pack, in bytes.
    pub offset: u32,
}

/// The last bytes of a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Trailer {
    pub(super) index_offset: u64,
    pub(super) frames: u32,
    pub(super) index_checksum: u32,
}

/// Takes fields off the front of a slice.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    fn take_u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
}

/// The header of a pack.
pub(super) fn encode_header(name: PackName, store: StoreId) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_OCTETS);
    bytes.extend_from_slice(&HEADER_MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&name.0);
    bytes.extend_from_slice(&store.0.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c_append(name.checksum(), &bytes).to_le_bytes());
    bytes
}

/// Reads a header.
///
/// # Errors
/// `Corrupt` when this is no pack, a pack of a newer version, or damaged.
pub(super) fn decode_header(bytes: &[u8]) -> Result<(PackName, StoreId)> {
    let fields = || {
        let mut fields = Fields(bytes);
        let (magic, version) = (fields.take::<8>()?, fields.take_u32()?);
        let (name, store) = (PackName(fields.take()?), StoreId(i64::from_le_bytes(fields.take()?)));
        Some((magic, version, name, store, fields.take_u32()?))
    };
    let (magic, version, name, store, checksum) = fields().ok_or_else(|| corrupt("the header is cut off"))?;
    if magic != HEADER_MAGIC {
        return Err(corrupt("this is not a pack"));
    }
    let covered = bytes.get(..HEADER_OCTETS - 4).unwrap_or_default();
    if checksum != crc32c::crc32c_append(name.checksum(), covered) {
        return Err(corrupt("the header's checksum is wrong"));
    }
    if version != VERSION {
        return Err(StorageError::Corrupt(format!("version {version} of the format is not known")));
    }
    Ok((name, store))
}

/// Appends a frame to `out`.
pub(super) fn encode_frame(name: PackName, header: &FrameHeader, data: &[u8], out: &mut Vec<u8>) {
    let mut bytes = Vec::with_capacity(FRAME_HEADER_OCTETS);
    bytes.extend_from_slice(&name.marker());
    bytes.push(header.codec.number());
    bytes.extend_from_slice(&header.dictionary_id.to_le_bytes());
    bytes.extend_from_slice(&header.body.0.to_le_bytes());
    bytes.extend_from_slice(&header.original_len.to_le_bytes());
    bytes.extend_from_slice(&header.stored_len.to_le_bytes());
    bytes.extend_from_slice(&header.hash);
    let checksum = crc32c::crc32c_append(crc32c::crc32c_append(name.checksum(), &bytes), data);
    out.extend_from_slice(&bytes);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(data);
}

/// Reads the frame at the beginning of `bytes`, which may go on behind it.
///
/// # Errors
/// `Corrupt` when there is none, or it is damaged or cut off.
pub(super) fn decode_frame(name: PackName, bytes: &[u8]) -> Result<(FrameHeader, &[u8])> {
    let header = bytes.get(..FRAME_HEADER_OCTETS).ok_or_else(|| corrupt("the frame is cut off"))?;
    let (header, checksum) = decode_frame_header(name, header).ok_or_else(|| corrupt("there is no frame"))?;
    let end = FRAME_HEADER_OCTETS.saturating_add(to_usize(header.stored_len));
    let data = bytes.get(FRAME_HEADER_OCTETS..end).ok_or_else(|| corrupt("the frame is cut off"))?;
    let covered = bytes.get(..FRAME_HEADER_OCTETS - 4).unwrap_or_default();
    if checksum != crc32c::crc32c_append(crc32c::crc32c_append(name.checksum(), covered), data) {
        return Err(corrupt("the frame's checksum is wrong"));
    }
    check_lengths(header.codec, data.len(), to_usize(header.original_len))?;
    Ok((header, data))
}

/// The fields of a frame's header with the checksum that nobody has compared yet.
pub(super) fn decode_frame_header(name: PackName, bytes: &[u8]) -> Option<(FrameHeader, u32)> {
    let mut fields = Fields(bytes);
    if fields.take()? != name.marker() {
        return None;
    }
    let [codec] = fields.take()?;
    let header = FrameHeader {
        codec: CodecKind::from_number(codec)?,
        dictionary_id: fields.take_u32()?,
        body: BodyId(i64::from_le_bytes(fields.take()?)),
        original_len: fields.take_u32()?,
        stored_len: fields.take_u32()?,
        hash: fields.take()?,
    };
    Some((header, fields.take_u32()?))
}

/// The index and the trailer that follow the last frame. `entries` are ascending by body.
pub(super) fn encode_index(name: PackName, entries: &[IndexEntry], index_offset: u64) -> Result<Vec<u8>> {
    let frames = u32::try_from(entries.len()).map_err(|_| corrupt("too many frames"))?;
    let mut bytes = Vec::with_capacity(entries.len() * INDEX_ENTRY_OCTETS + TRAILER_OCTETS);
    for entry in entries {
        bytes.extend_from_slice(&entry.body.0.to_le_bytes());
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
    }
    let index_checksum = crc32c::crc32c_append(name.checksum(), &bytes);
    let mut trailer = Vec::with_capacity(TRAILER_OCTETS);
    trailer.extend_from_slice(&TRAILER_MAGIC);
    trailer.extend_from_slice(&index_offset.to_le_bytes());
    trailer.extend_from_slice(&frames.to_le_bytes());
    trailer.extend_from_slice(&index_checksum.to_le_bytes());
    trailer.extend_from_slice(&crc32c::crc32c_append(name.checksum(), &trailer).to_le_bytes());
    bytes.extend_from_slice(&trailer);
    Ok(bytes)
}

/// Reads the trailer of a pack that is `pack_octets` long.
///
/// # Errors
/// `Corrupt` when it is damaged or doesn't fit the length.
pub(super) fn decode_trailer(name: PackName, bytes: &[u8], pack_octets: u64) -> Result<Trailer> {
    let fields = || {
        let mut fields = Fields(bytes);
        let (magic, index_offset) = (fields.take::<8>()?, u64::from_le_bytes(fields.take()?));
        let (frames, index_checksum) = (fields.take_u32()?, fields.take_u32()?);
        Some((magic, Trailer { index_offset, frames, index_checksum }, fields.take_u32()?))
    };
    let (magic, trailer, checksum) = fields().ok_or_else(|| corrupt("the trailer is cut off"))?;
    let covered = bytes.get(..TRAILER_OCTETS - 4).unwrap_or_default();
    if magic != TRAILER_MAGIC || checksum != crc32c::crc32c_append(name.checksum(), covered) {
        return Err(corrupt("the trailer is damaged"));
    }
    let index_octets = u64::from(trailer.frames) * INDEX_ENTRY_OCTETS as u64;
    let expected = trailer.index_offset.checked_add(index_octets + TRAILER_OCTETS as u64);
    if trailer.index_offset < HEADER_OCTETS as u64 || expected != Some(pack_octets) {
        return Err(corrupt("the index is not where the trailer says"));
    }
    Ok(trailer)
}

/// Reads the index.
///
/// # Errors
/// `Corrupt` when it is damaged or not in strictly ascending order.
pub(super) fn decode_index(name: PackName, trailer: Trailer, bytes: &[u8]) -> Result<Vec<IndexEntry>> {
    if crc32c::crc32c_append(name.checksum(), bytes) != trailer.index_checksum {
        return Err(corrupt("the index's checksum is wrong"));
    }
    let (entries, rest) = bytes.as_chunks::<INDEX_ENTRY_OCTETS>();
    if !rest.is_empty() || entries.len() != to_usize(trailer.frames) {
        return Err(corrupt("the index has the wrong length"));
    }
    let entry = |bytes: &[u8; INDEX_ENTRY_OCTETS]| {
        let mut fields = Fields(bytes);
        Some(IndexEntry { body: BodyId(i64::from_le_bytes(fields.take()?)), offset: fields.take_u32()? })
    };
    let entries: Vec<IndexEntry> = entries.iter().filter_map(entry).collect();
    if entries.is_sorted_by(|a, b| a.body < b.body) {
        Ok(entries)
    } else {
        Err(corrupt("the index is not in order"))
    }
}

/// A stored length as a length in memory.
pub(super) fn to_usize(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

pub(super) fn corrupt(what: &str) -> StorageError {
    StorageError::Corrupt(what.to_owned())
}
