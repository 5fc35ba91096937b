//! Fuzz targets of the pack format: a file of any bytes, and one whose checksums are right and whose contents are not.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, memfd_create};

use super::codec::{Codec, CodecKind};
use super::format::{
    FRAME_HEADER_OCTETS, FrameHeader, FrameLocation, IndexEntry, PackName, encode_frame, encode_header,
    encode_index,
};
use super::reader::PackReader;
use super::recovery::{recover, verify};
use crate::base::id::{BodyId, StoreId};
use crate::storage::StorageError;

/// The name whose keyed checksums all these packs have.
const NAME: PackName = PackName(*b"posthouse-fuzzed");
/// Most frames of one pack.
const FRAMES_MAX: usize = 16;

/// A file in memory.
#[allow(clippy::expect_used, reason = "a target that cannot run must not pass for one that found nothing")]
fn file(bytes: &[u8]) -> (File, PathBuf) {
    let mut file = File::from(memfd_create("pack", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all(bytes).expect("write to memory");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    (file, path)
}

/// Reads a pack in every way. What is read is intact, or it is an error that says so.
fn read(bytes: &[u8], bodies: impl Iterator<Item = (BodyId, FrameLocation)>) {
    let codec = Codec::default();
    let (_file, path) = file(bytes);
    let Ok(pack) = PackReader::open(&path) else { return };
    let check = |error: StorageError| assert!(matches!(error, StorageError::Corrupt(_)), "{error}");
    let index = pack.index().map_err(check).unwrap_or_default();
    assert!(index.is_sorted_by(|a, b| a.body < b.body));
    let verified = verify(&codec, &path).map_err(check).unwrap_or_default();
    let recovered = recover(&codec, &path).map_err(check).unwrap_or_default();
    for frame in &recovered {
        let body = pack.read(&codec, frame.location, frame.header.body).map_err(check).unwrap_or_default();
        assert_eq!(
            blake3::hash(&body).as_bytes(),
            &frame.header.hash,
            "a recovered body is not what was packed"
        );
    }
    if verified.is_intact() {
        assert_eq!(verified.intact, recovered.len() as u64);
        assert_eq!(index.len(), recovered.len());
    }
    for (body, location) in bodies {
        let _ = pack.read(&codec, location, body).map_err(check);
    }
}

/// A pack's header, and any bytes after it.
pub fn bytes(input: &[u8]) {
    let mut bytes = encode_header(NAME, StoreId(1));
    let offset = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(input);
    let length = u32::try_from(input.len()).unwrap_or(u32::MAX);
    read(&bytes, [(BodyId(1), FrameLocation { offset, length })].into_iter());
    // The same bytes as a whole file, header and all.
    read(input, std::iter::empty());
}

/// Frames whose fields and data come from the input, and whose checksums are right: codec, dictionary, lengths, hash
/// and index may say anything.
pub fn frames(input: &[u8]) {
    let mut bytes = encode_header(NAME, StoreId(1));
    let (mut index, mut places) = (Vec::new(), Vec::new());
    let mut rest = input;
    while let Some(([kind, body, lie, octets], after)) = rest.split_first_chunk::<4>()
        && index.len() < FRAMES_MAX
    {
        let (data, after) = after.split_at_checked(usize::from(*octets)).unwrap_or((after, &[]));
        rest = after;
        let header = header(*kind, BodyId(i64::from(*body)), *lie, data);
        let offset = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        encode_frame(NAME, &header, data, &mut bytes);
        index.push(IndexEntry { body: header.body, offset: offset.wrapping_add(u32::from(lie & 0x80)) });
        let length = u32::try_from(FRAME_HEADER_OCTETS + data.len()).unwrap_or(u32::MAX);
        places.push((header.body, FrameLocation { offset, length }));
    }
    let end = encode_index(NAME, &index, bytes.len() as u64).unwrap_or_default();
    bytes.extend_from_slice(&end);
    read(&bytes, places.into_iter());
}

/// A header for `data`: true in everything, unless `lie` says otherwise.
fn header(kind: u8, body: BodyId, lie: u8, data: &[u8]) -> FrameHeader {
    let codec = if kind & 1 == 0 { CodecKind::Raw } else { CodecKind::Zstd };
    let dictionary_id = u32::from(kind >> 1 & 3);
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let original_len = if lie & 1 == 0 { length } else { u32::from(lie) << (kind & 15) };
    let original = Codec::default()
        .decompress(codec, dictionary_id, data, original_len as usize)
        .unwrap_or_else(|_| data.to_vec());
    let mut hash = *blake3::hash(&original).as_bytes();
    if lie & 2 != 0 {
        hash = [lie; 32];
    }
    let stored_len = if lie & 4 == 0 { length } else { length ^ u32::from(lie) };
    FrameHeader { body, codec, dictionary_id, original_len, stored_len, hash }
}
