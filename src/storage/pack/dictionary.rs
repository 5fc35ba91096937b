//! The dictionaries that frames refer to by number. A number means the same bytes for ever: a changed
//! dictionary gets a new number, and an old one stays as long as a frame may refer to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use moka::sync::Cache;
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

/// The shipped dictionary, prepared for decompression.
///
/// # Errors
/// `Busy` when there is no memory for it.
pub(super) fn decoder() -> Result<&'static DecoderDictionary<'static>> {
    DECODER
        .get_or_init(|| DecoderDictionary::try_copy(SHIPPED).ok())
        .as_ref()
        .ok_or(StorageError::Busy("no memory for the dictionary"))
}

/// Dictionaries that are kept prepared; one takes about a quarter of a megabyte, and up to two for each level at
/// which it compresses.
const TRAINED_MAX: u64 = 64;

/// A dictionary from the database.
pub(super) struct Trained {
    bytes: Vec<u8>,
    pub(super) decoder: DecoderDictionary<'static>,
    /// By level.
    encoders: Mutex<BTreeMap<i32, Arc<EncoderDictionary<'static>>>>,
}

impl Trained {
    /// Prepared to compress at `level`. Nothing if memory ran out.
    pub(super) fn encoder(&self, level: i32) -> Option<Arc<EncoderDictionary<'static>>> {
        let mut encoders = self.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoder) = encoders.get(&level) {
            return Some(Arc::clone(encoder));
        }
        let encoder = Arc::new(EncoderDictionary::try_copy(&self.bytes, level).ok()?);
        encoders.insert(level, Arc::clone(&encoder));
        Some(encoder)
    }
}

/// The dictionaries from the database that are in use, for all codecs that share it. Bounded: what isn't there is
/// loaded again.
#[derive(Clone)]
pub(super) struct Shelf(Cache<u32, Arc<Trained>>);

impl Default for Shelf {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(TRAINED_MAX).build())
    }
}

impl Shelf {
    pub(super) fn find(&self, id: u32) -> Option<Arc<Trained>> {
        self.0.get(&id)
    }

    /// Puts a dictionary there.
    ///
    /// # Errors
    /// `Corrupt` when this can't be a dictionary, or its number can't be one from the database.
    pub(super) fn put(&self, id: u32, bytes: Vec<u8>) -> Result<()> {
        if id < DICTIONARY_TRAINED {
            return Err(StorageError::Corrupt(format!("{id} is no number of a trained dictionary")));
        }
        let decoder = DecoderDictionary::try_copy(&bytes)
            .map_err(|_| StorageError::Corrupt(format!("dictionary {id} is damaged")))?;
        let encoders = Mutex::default();
        self.0.insert(id, Arc::new(Trained { bytes, decoder, encoders }));
        Ok(())
    }
}
