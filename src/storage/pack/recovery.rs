//! Checks a whole pack, and finds the frames of one whose index is damaged.

use std::path::Path;

use super::codec::Codec;
use super::format::{
    FRAME_HEADER_OCTETS, FrameHeader, FrameLocation, HEADER_OCTETS, IndexEntry, corrupt, decode_frame,
    decode_frame_header, to_usize,
};
use super::reader::{Content, PackReader, content};
use crate::base::id::BodyId;
use crate::storage::{Result, StorageError};

/// Damaged places are listed up to this number; one that is found is enough to restore the pack from a
/// backup.
const DAMAGES_MAX: usize = 1_000;
/// A damaged stretch is searched for the next frame in pieces of this size.
const SEARCH_OCTETS: usize = 1 << 20;

/// A place that can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Distance from the beginning of the pack, in bytes.
    pub offset: u64,
    /// The body that the index has there, if the index is readable.
    pub body: Option<BodyId>,
    /// What is wrong.
    pub what: String,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Bodies that were read back and are intact, as far as this pack can tell.
    pub intact: u64,
    /// What is not.
    pub damages: Vec<Damage>,
}

impl Verified {
    /// Whether the pack is exactly what was written.
    pub fn is_intact(&self) -> bool {
        self.damages.is_empty()
    }
}

/// A frame that was found, and is intact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// Its header.
    pub header: FrameHeader,
    /// Where it is.
    pub location: FrameLocation,
    /// Bodies that it is made of, which may be in other packs. Without them only its checksum could be checked.
    pub parts: Vec<BodyId>,
}

/// Reads every byte of a pack and compares it with its checksums; a changed byte anywhere is damage.
///
/// # Errors
/// When the file cannot be opened or read, or its header is damaged: then no frame can be trusted.
pub fn verify(codec: &Codec, path: &Path) -> Result<Verified> {
    let pack = PackReader::open(path)?;
    let mut verified = Verified::default();
    let (index, frames_end) = match (pack.trailer(), pack.index()) {
        (Ok(trailer), Ok(index)) => (Some(index), trailer.index_offset),
        (Err(error), _) | (_, Err(error)) => {
            let what = permanent(error)?;
            verified.damages.push(Damage { offset: pack.octets(), body: None, what });
            (None, pack.octets())
        }
    };
    let mut found = Vec::new();
    walk(&pack, codec, frames_end, |event| match event {
        Event::Frame(frame) => {
            found.push(IndexEntry { body: frame.header.body, offset: frame.location.offset });
        }
        // Where the index itself can't be read it is part of the stretch without frames, and was told
        // already.
        Event::Damage(offset, what) if index.is_some() && verified.damages.len() < DAMAGES_MAX => {
            let entries = index.iter().flatten();
            let body =
                entries.clone().find(|entry| u64::from(entry.offset) == offset).map(|entry| entry.body);
            verified.damages.push(Damage { offset, body, what });
        }
        Event::Damage(..) => {}
    })?;
    verified.intact = found.len() as u64;
    found.sort_unstable();
    if let Some(index) = index
        && index != found
        && verified.is_intact()
    {
        let what = "the index doesn't list the frames".to_owned();
        verified.damages.push(Damage { offset: frames_end, body: None, what });
    }
    Ok(verified)
}

/// Finds all intact frames without the index, also behind damaged ones.
///
/// # Errors
/// When the file cannot be opened or read, or its header is damaged.
pub fn recover(codec: &Codec, path: &Path) -> Result<Vec<Recovered>> {
    let pack = PackReader::open(path)?;
    let mut frames = Vec::new();
    walk(&pack, codec, pack.octets(), |event| {
        if let Event::Frame(frame) = event {
            frames.push(frame);
        }
    })?;
    Ok(frames)
}

/// What a walk meets.
enum Event {
    Frame(Recovered),
    /// Offset, and what is wrong there.
    Damage(u64, String),
}

/// Goes from frame to frame up to `end`; after a damaged one it looks for the next that is intact.
fn walk(pack: &PackReader, codec: &Codec, end: u64, mut each: impl FnMut(Event)) -> Result<()> {
    let mut offset = HEADER_OCTETS as u64;
    while offset < end {
        match frame_at(pack, codec, offset, end) {
            Ok(frame) => {
                offset += u64::from(frame.location.length);
                each(Event::Frame(frame));
            }
            Err(error) => {
                each(Event::Damage(offset, permanent(error)?));
                offset = next_frame(pack, codec, offset + 1, end)?;
            }
        }
    }
    Ok(())
}

/// The frame at `offset`, which was read back and is intact.
fn frame_at(pack: &PackReader, codec: &Codec, offset: u64, end: u64) -> Result<Recovered> {
    let bytes = pack.window(offset, FRAME_HEADER_OCTETS)?;
    let (header, _) = decode_frame_header(pack.name(), &bytes).ok_or_else(|| corrupt("there is no frame"))?;
    let length = FRAME_HEADER_OCTETS.saturating_add(to_usize(header.stored_len));
    if offset.saturating_add(length as u64) > end {
        return Err(corrupt("the frame is cut off"));
    }
    let bytes = pack.window(offset, length)?;
    let (header, data) = decode_frame(pack.name(), &bytes)?;
    let parts = match content(codec, &header, data)? {
        Content::Whole(_) => Vec::new(),
        Content::Parts(recipe) => recipe.parts().into_keys().collect(),
    };
    let too_far = || corrupt("the frame is too far behind");
    let location = FrameLocation {
        offset: u32::try_from(offset).map_err(|_| too_far())?,
        length: u32::try_from(length).map_err(|_| too_far())?,
    };
    Ok(Recovered { header, location, parts })
}

/// Offset of the first intact frame at or after `offset`; `end` if there is none.
fn next_frame(pack: &PackReader, codec: &Codec, mut offset: u64, end: u64) -> Result<u64> {
    while offset < end {
        // Pieces overlap by one byte, so that no marker is cut in two.
        let bytes = pack.window(offset, SEARCH_OCTETS + 1)?;
        for (place, marker) in (offset..end).zip(bytes.windows(2)) {
            if marker == pack.name().marker() {
                match frame_at(pack, codec, place, end) {
                    Ok(_) => return Ok(place),
                    Err(error) => drop(permanent(error)?),
                }
            }
        }
        offset += SEARCH_OCTETS as u64;
    }
    Ok(end)
}

/// What is wrong with the bytes; an error of the volume is passed on, because it says nothing about them.
fn permanent(error: StorageError) -> Result<String> {
    match error {
        StorageError::Corrupt(what) => Ok(what),
        other => Err(other),
    }
}
