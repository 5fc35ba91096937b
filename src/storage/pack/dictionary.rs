//! The dictionaries that frames refer to by number. A number means the same bytes for ever: a changed
//! dictionary gets a new number, and an old one stays as long as a frame may refer to it.

use std::sync::OnceLock;

use zstd::dict::{DecoderDictionary, EncoderDictionary};

use super::codec::LEVEL_MAX;
use crate::storage::{Result, StorageError};

/// Compressed without dictionary.
pub const DICTIONARY_NONE: u32 = 0;
/// The dictionary that comes with the program (`docs/pack-format.md`, section Dictionary).
pub const DICTIONARY_SHIPPED: u32 = 1;

/// Numbers of dictionaries that the database holds begin here: this, and the key of the row.
pub const DICTIONARY_TRAINED: u32 = 1_000;

/// Bytes of [`DICTIONARY_SHIPPED`], made by `examples/train-dictionary`.
pub(super) const SHIPPED: &[u8] = include_bytes!("dictionary-1.zdict");

/// The shipped dictionary prepared for compression, one for each level, made when first used. Preparing
/// takes about a millisecond and half a megabyte.
static ENCODERS: [OnceLock<Option<EncoderDictionary<'static>>>; LEVEL_MAX as usize + 1] =
    [const { OnceLock::new() }; LEVEL_MAX as usize + 1];

/// The shipped dictionary prepared for decompression.
static DECODER: OnceLock<Option<DecoderDictionary<'static>>> = OnceLock::new();

/// The shipped dictionary, prepared to compress at `level`. Nothing if memory ran out.
pub(super) fn encoder(level: i32) -> Option<&'static EncoderDictionary<'static>> {
    let slot = ENCODERS.get(usize::try_from(level).ok()?)?;
    slot.get_or_init(|| EncoderDictionary::try_copy(SHIPPED, level).ok()).as_ref()
}

/// A dictionary prepared for decompression.
///
/// # Errors
/// `Corrupt` when no dictionary has this number.
pub(super) fn decoder(id: u32) -> Result<&'static DecoderDictionary<'static>> {
    if id != DICTIONARY_SHIPPED {
        return Err(StorageError::Corrupt(format!("dictionary {id} is not known")));
    }
    DECODER
        .get_or_init(|| DecoderDictionary::try_copy(SHIPPED).ok())
        .as_ref()
        .ok_or(StorageError::Busy("no memory for the dictionary"))
}
